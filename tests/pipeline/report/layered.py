"""Reports that look into layers: few of them and many, with long names, timed and not."""

import json
from pathlib import Path
from typing import Any

import numpy as np

FOLDER = Path(__file__).parents[2] / "fixtures" / "reports"
LONG = "/bert/encoder/layer.{}/attention/output/dense/MatMul to /bert/encoder/layer.{}/attention/output/LayerNorm/Add_1"


def shipped(name: str, i: int) -> list[str]:
    """Of a region of two nodes: every fifth ships as float, every eleventh in part."""
    return [name, f"{name}.rest"] if i % 5 == 0 else [name] if i % 11 == 3 else []


def sensitivities(names: list[str], timed: bool) -> list[dict[str, Any]]:
    """Of regions with these names; every third is noisy, every fifth faster in float, and some are lossy in float.

    timed: all but every seventh; else none.
    """
    rng = np.random.default_rng(len(names))
    regions: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        value = float(rng.normal(1.06 if i % 5 == 0 else 0.92, 0.03))
        half = float(rng.uniform(0.002, 0.04))
        ratio = {"value": value, "low95": value - half, "high95": value + half}
        regions.append(
            {
                "region": name,
                "nodes": [name, f"{name}.rest"],
                "noise_db": round(float(rng.normal(0.0, 0.2) + (rng.exponential(2.0) if i % 3 == 0 else 0.0)), 3),
                "ratio": ratio if timed and i % 7 != 3 else None,
                "in_float": shipped(name, i),
            }
        )
    return regions


def clipping(names: list[str]) -> dict[str, Any]:
    """What clips in layers with these names: from most outputs down to next to none; every fourth cannot clip."""
    layers = [
        {
            "node": name,
            "channels": 0.0 if i % 4 == 3 else 1 / (1 + i % 5),
            "clipped": 0.0 if i % 4 == 3 else 0.2 * 0.6**i,
            "changed": 0.0 if i % 4 == 3 else 0.9 * 0.6**i,
            "sqnr_db": None if i % 4 == 3 else 3.0 + i,
        }
        for i, name in enumerate(names)
    ]
    what = "sums of two int8 products are clipped to 16 bits"
    return {"what": what, "unguarded": {"accuracy": 0.7125, "drop_points": 23.17}, "layers": layers}


def few() -> dict[str, Any]:
    """Five regions, timed; five layers of which one cannot clip."""
    names = [f"node_Conv_{458 + 2 * i}" for i in range(4)] + ["node_linear"]
    return _report() | {"sensitivities": sensitivities(names, timed=True), "clipping": clipping(names)}


def many() -> dict[str, Any]:
    """Sixty of both, half of them with names longer than a line."""
    names = [LONG.format(i, i + 1) if i % 2 else f"node_Conv_{458 + i}" for i in range(60)]
    return _report() | {"sensitivities": sensitivities(names, timed=True), "clipping": clipping(names)}


def untimed() -> dict[str, Any]:
    """A dozen regions of which none was timed; no layer can clip."""
    names = [f"blocks.{i}.conv" for i in range(12)]
    found = clipping(names)
    found["layers"] = [layer | {"channels": 0.0} for layer in found["layers"]]
    return _report() | {"sensitivities": sensitivities(names, timed=False), "clipping": found}


def _report() -> dict[str, Any]:
    return json.loads((FOLDER / "fashion-host.json").read_text())
