import sys

from olive.workflows import run

model, _calibration, out = sys.argv[1:4]
run(
    {
        "input_model": {"type": "ONNXModel", "model_path": model},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "passes": {
            "fuse": {"type": "OrtTransformersOptimization", "model_type": "bert"},
            "quantize": {"type": "OnnxDynamicQuantization", "precision": "int8", "per_channel": True},
        },
        "target": "here",
        "output_dir": out,
        "cache_dir": "cache",
    }
)
