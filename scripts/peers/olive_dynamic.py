import sys

from olive.workflows import run

model, _calibration, out, architecture = sys.argv[1:5]
passes = {"quantize": {"type": "OnnxDynamicQuantization", "precision": "int8", "per_channel": True}}
if architecture == "transformer":
    passes = {"fuse": {"type": "OrtTransformersOptimization", "model_type": "bert"}, **passes}
run(
    {
        "input_model": {"type": "ONNXModel", "model_path": model},
        "systems": {
            "here": {
                "type": "LocalSystem",
                "accelerators": [{"device": "cpu", "execution_providers": ["CPUExecutionProvider"]}],
            }
        },
        "passes": passes,
        "target": "here",
        "output_dir": out,
        "cache_dir": "cache",
    }
)
