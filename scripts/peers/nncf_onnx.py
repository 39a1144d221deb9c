import sys

import nncf
import numpy as np
import onnx

model, calibration, out, architecture = sys.argv[1:5]
arrays = dict(np.load(calibration))
samples = len(next(iter(arrays.values())))
feeds = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(samples)]
kind = nncf.ModelType.TRANSFORMER if architecture == "transformer" else None
quantized = nncf.quantize(onnx.load(model), nncf.Dataset(feeds), model_type=kind)
onnx.save(quantized, f"{out}/model.onnx")
