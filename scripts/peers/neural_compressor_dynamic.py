import sys

from onnx_neural_compressor.quantization import config, quantize

model, _calibration, out = sys.argv[1:4]
quantize(model, f"{out}/model.onnx", config.DynamicQuantConfig(per_channel=True))
