import sys
from pathlib import Path

import numpy as np
from datasets import Dataset
from optimum.onnxruntime import ORTQuantizer
from optimum.onnxruntime.configuration import AutoCalibrationConfig, AutoQuantizationConfig

model, calibration, out = sys.argv[1:4]
samples = Dataset.from_dict({name: list(array) for name, array in np.load(calibration).items()}).with_format("numpy")
quantizer = ORTQuantizer(Path(model))
config = AutoQuantizationConfig.avx512_vnni(is_static=True, per_channel=True)
ranges = quantizer.fit(
    samples, AutoCalibrationConfig.minmax(samples), operators_to_quantize=config.operators_to_quantize
)
quantizer.quantize(config, out, calibration_tensors_range=ranges)
