import sys

from onnxruntime.quantization import QuantType, quantize_dynamic
from onnxruntime.quantization.shape_inference import quant_pre_process

model, _calibration, out = sys.argv[1:4]
quant_pre_process(model, "prepared.onnx")
quantize_dynamic("prepared.onnx", f"{out}/model.onnx", per_channel=True, weight_type=QuantType.QInt8)
