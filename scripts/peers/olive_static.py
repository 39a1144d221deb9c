import sys

import numpy as np
from olive.data.registry import Registry
from olive.workflows import run

model, calibration, out = sys.argv[1:4]


class Samples:
    def __init__(self):
        self.arrays = dict(np.load(calibration))

    def __len__(self):
        return len(next(iter(self.arrays.values())))

    def __getitem__(self, i):
        return {name: array[i] for name, array in self.arrays.items()}, 0


@Registry.register_dataset()
def calibration_samples(**_):
    return Samples()


run(
    {
        "input_model": {"type": "ONNXModel", "model_path": model},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "data_configs": [
            {
                "name": "calibration",
                "type": "DataContainer",
                "load_dataset_config": {"type": "calibration_samples"},
                "pre_process_data_config": {"type": "skip_pre_process"},
                "post_process_data_config": {"type": "skip_post_process"},
                "dataloader_config": {"batch_size": 1},
            }
        ],
        "passes": {
            "quantize": {
                "type": "OnnxStaticQuantization",
                "data_config": "calibration",
                "quant_format": "QDQ",
                "precision": "int8",
                "activation_type": "uint8",
                "per_channel": True,
            }
        },
        "target": "here",
        "output_dir": out,
        "cache_dir": "cache",
    }
)
