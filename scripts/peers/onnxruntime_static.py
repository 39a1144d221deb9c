import sys

import numpy as np
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

model, calibration, out = sys.argv[1:4]


class Reader(CalibrationDataReader):
    def __init__(self):
        arrays = np.load(calibration)
        samples = len(arrays[arrays.files[0]])
        self.feeds = iter([{name: arrays[name][i : i + 1] for name in arrays.files} for i in range(samples)])

    def get_next(self):
        return next(self.feeds, None)


quant_pre_process(model, "prepared.onnx")
quantize_static(
    "prepared.onnx",
    f"{out}/model.onnx",
    Reader(),
    quant_format=QuantFormat.QDQ,
    activation_type=QuantType.QUInt8,
    weight_type=QuantType.QInt8,
    per_channel=True,
)
