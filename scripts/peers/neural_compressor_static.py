import sys

import numpy as np
from onnx_neural_compressor.data_reader import CalibrationDataReader
from onnx_neural_compressor.quantization import QuantFormat, config, quantize

model, calibration, out = sys.argv[1:4]


class Reader(CalibrationDataReader):
    def __init__(self):
        arrays = dict(np.load(calibration))
        samples = len(next(iter(arrays.values())))
        self.feeds = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(samples)]
        self.rewind()

    def get_next(self):
        return next(self.rest, None)

    def rewind(self):
        self.rest = iter(self.feeds)


settings = config.StaticQuantConfig(Reader(), quant_format=QuantFormat.QDQ, per_channel=True)
quantize(model, f"{out}/model.onnx", settings)
