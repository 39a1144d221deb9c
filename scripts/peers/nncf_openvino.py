import sys

import nncf
import numpy as np
import openvino

model, calibration, out, architecture = sys.argv[1:5]
arrays = dict(np.load(calibration))
samples = len(next(iter(arrays.values())))
feeds = [{name: array[i : i + 1] for name, array in arrays.items()} for i in range(samples)]
kind = nncf.ModelType.TRANSFORMER if architecture == "transformer" else None
quantized = nncf.quantize(openvino.Core().read_model(model), nncf.Dataset(feeds), model_type=kind)
openvino.save_model(quantized, f"{out}/model.xml")
