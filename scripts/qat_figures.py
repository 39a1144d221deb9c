"""Figures of quantization-aware training: what calibration alone loses, and the share of it that training wins back.

qat_figures.py RECIPE... [--epochs N] [--spread X]: recipes without stages, of models that can be trained, as the
bench's have them. Every static route is a case, on ONNX Runtime here. Our own calibration seldom loses much, so
onnxruntime's quantizer as it comes is one too: one scale for all channels of a weight, as much hardware takes them, and
its own calibration. --spread makes the ranges of neighbouring channels differ up to so many times, as those of trained
depthwise networks do (Nagel et al. 2019, arXiv:1906.04721, figure 2); the network computes the same. Which cases lose
enough is decided on the validation split, as the stage does; the shares are those of the test split, by which nothing
was chosen or trained.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import onnx
import yaml
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, quantize_static

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
from calibration.dataset import CalibrationSet  # noqa: E402
from calibration.errors import EdgewrightError  # noqa: E402
from pipeline.data import Split, load_split  # noqa: E402
from pipeline.distillation import Distillation  # noqa: E402
from pipeline.plan import make_plan  # noqa: E402
from pipeline.progress import BuildProgress  # noqa: E402
from pipeline.quantization_aware_training import Runtime, recover  # noqa: E402
from pipeline.recipe import Recipe, load_recipe  # noqa: E402
from pipeline.run import run_node  # noqa: E402
from pipeline.stage import Work  # noqa: E402
from pipeline.stages.qat import Qat  # noqa: E402
from pipeline.store import Store  # noqa: E402
from targets.onnx_equalization import channels_of, pairs_of, rescale_channels  # noqa: E402
from targets.onnx_float import FloatGraph  # noqa: E402
from targets.onnx_graph import refusing  # noqa: E402
from targets.onnx_quantization import (  # noqa: E402
    PRODUCTS_AND_TABLES,
    StaticScheme,
    finished,
    quiet,
    static,
)
from targets.onnx_regions import PRODUCTS  # noqa: E402
from targets.onnx_weights import Weights  # noqa: E402
from targets.onnxruntime_cpu import OnnxruntimeCpu  # noqa: E402
from targets.target import Capabilities, ModelPackage  # noqa: E402

ROUTES = {
    "static-u8s8": StaticScheme("uint8"),
    "static-s8s8": StaticScheme("int8"),
    "static-u8s8-unsaturated": StaticScheme("uint8", guard="pairs"),
    "static-u8s8-products": StaticScheme("uint8", PRODUCTS_AND_TABLES),
    "explicit-s8s8": StaticScheme("int8", PRODUCTS, symmetric=True, explicit=True, float_outputs=PRODUCTS),
}
# Points on the validation split: cases that lose less are none of the figure's.
LOST = 1.0
STOCK = {"stock-min-max": "MinMax", "stock-entropy": "Entropy"}
STOCK_SAMPLES = 64


@dataclass(frozen=True)
class Case:
    """Points lost to float by one route of one model; trained ones are None where training was not called for.

    spread: how many times the ranges of its channels were made to differ; 1 as it is.
    refused: why the route could not be made or trained; empty where it could.
    """

    model: str
    spread: float
    route: str
    validation_lost: float | None = None
    test_lost: float | None = None
    test_lost_trained: float | None = None
    fidelity_db: float | None = None
    said: str = ""
    refused: str = ""

    @property
    def won_back(self) -> float | None:
        """The share of what was lost on the test split; None where training was not called for."""
        if self.test_lost is None or self.test_lost_trained is None:
            return None
        return (self.test_lost - self.test_lost_trained) / self.test_lost


def cases(
    recipe_file: Path, epochs: int, routes: Sequence[str] = (*ROUTES, *STOCK), spread: float = 1.0
) -> Iterator[Case]:
    """Each route of one model: made, scored, and trained where it loses more than LOST points.

    spread: of neighbouring channels' ranges; see `uneven`.
    """
    entries = yaml.safe_load(recipe_file.read_text())
    device = {"name": "host", "target": "onnxruntime-cpu"}
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=recipe_file.parent) as file:
        # For the plan alone: it then has the teacher's answers and the calibration set.
        yaml.safe_dump(entries | {"stages": ["quantize", "qat"], "devices": [device]}, file)
        file.flush()
        recipe = load_recipe(Path(file.name), run_user_code=True)
        artifacts = _artifacts(recipe, Store.default())
    package, calibration = ModelPackage.load(artifacts["export teacher"]), CalibrationSet.load(artifacts["calibrate"])
    data, [route_of] = artifacts["prepare"], recipe.devices
    able = OnnxruntimeCpu().capabilities(route_of.profile)
    model = uneven(FloatGraph(package, calibration).model, spread)
    for name in routes:
        graph = FloatGraph(package, calibration, model)
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)

            def runtime(split: Split, accuracy: float, label: str, folder: Path = folder) -> Runtime:
                (folder / label).mkdir()
                return Runtime(recipe.task, split, route_of, recipe.folder, folder / label, accuracy)

            validation, test = load_split(data, "validation"), load_split(data, "test")
            on_validation, on_test = (
                runtime(split, accuracy_of(runtime(split, 0.0, f"{label}-float"), package), label)
                for label, split in (("validation", validation), ("test", test))
            )
            (folder / "made").mkdir()
            try:
                if name in STOCK:
                    made = stock(name, graph, able, folder / "made")
                else:
                    made = static(name, ROUTES[name], graph, able).make(folder / "made")
            except EdgewrightError as error:
                yield Case(entries["name"], spread, name, refused=error.message)
                continue
            lost = on_validation.figures(on_validation.answers(made, "made"))["drop_points"]
            before = on_test.figures(on_test.answers(made, "made"))["drop_points"]
            case = Case(entries["name"], spread, name, lost, before)
            if lost > LOST:
                work = Work(folder, folder / "made", recipe.folder, nullcontext, lambda _fraction, _text: None)
                lesson = Distillation.load(recipe.task, data, artifacts["predict"])
                outcome = recover(
                    *(made, on_validation, lesson, Qat(epochs=epochs), work),
                    min_drop=LOST,
                    max_drop=float("inf"),
                )
                # What is not kept wins nothing back.
                after = on_test.figures(on_test.answers(outcome.package or made, "after"))["drop_points"]
                fidelity = outcome.figures.get("fidelity_db")
                case = Case(entries["name"], spread, name, lost, before, after, fidelity, outcome.said)
            yield case


def uneven(model: onnx.ModelProto, spread: float, seed: int = 0) -> onnx.ModelProto:
    """The same function with ranges of neighbouring channels that differ up to `spread` times, drawn log-uniformly.

    What cross-layer equalization evens out is made uneven: layers with nothing but a ReLU or pooling in between. A
    depthwise filter between two such pairs is given one draw and divided by another.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    weights, drawn = Weights(copy.graph), np.random.default_rng(seed)
    for pair in pairs_of(copy.graph, weights):
        exponents = drawn.uniform(-0.5, 0.5, channels_of(pair, weights))
        rescale_channels(pair, (spread**exponents).astype(np.float32), weights)
    weights.write()
    return copy


def stock(name: str, graph: FloatGraph, able: Capabilities, folder: Path) -> ModelPackage:
    """By onnxruntime's own calibration and defaults. Raises UnsupportedError where it cannot take the graph."""
    with refusing(name), quiet(), tempfile.TemporaryDirectory() as scratch:
        source, out = Path(scratch) / "float.onnx", Path(scratch) / "quantized.onnx"
        onnx.save(graph.model, source)
        feeds = [{k: v[i : i + 1] for k, v in graph.calibration.inputs.items()} for i in range(STOCK_SAMPLES)]
        method = CalibrationMethod[STOCK[name]]
        quantize_static(source, out, Reader(feeds), calibrate_method=method)
        return finished(graph.package, onnx.load(out), folder, "int8", able)


class Reader(CalibrationDataReader):
    """Feeds for onnxruntime's calibrator."""

    def __init__(self, feeds: list[dict[str, Any]]) -> None:
        self._feeds = iter(feeds)

    def get_next(self) -> Any:
        return next(self._feeds, None)


def accuracy_of(runtime: Runtime, package: ModelPackage) -> float:
    """Of a package on the runtime's samples."""
    return runtime.figures(runtime.answers(package, "float"))["accuracy"]


def share_won_back(found: Sequence[Case]) -> float | None:
    """Of all points that the cases which called for training lost together; None where none did."""
    trained = [case for case in found if case.won_back is not None]
    lost = sum(case.test_lost or 0.0 for case in trained)
    left = sum(case.test_lost_trained or 0.0 for case in trained)
    return (lost - left) / lost if trained else None


def _artifacts(recipe: Recipe, store: Store) -> dict[str, Path]:
    """Stage -> the folder of its artifact, built where it is not in the store."""
    wanted = ("prepare", "calibrate", "load teacher", "predict", "export teacher")
    with BuildProgress(quiet=True) as progress:
        nodes = [node for node in make_plan(recipe, store).nodes if node.label in wanted]
        for node in nodes:
            run_node(node, store, recipe.folder, [], "", progress)
    return {node.label: store.path(node.digest) for node in nodes}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", type=Path, nargs="+", metavar="RECIPE")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--spread", type=float, default=1.0)
    parser.add_argument("--routes", nargs="+", choices=[*ROUTES, *STOCK], default=[*ROUTES, *STOCK])
    arguments = parser.parse_args()
    found: list[Case] = []
    for recipe in arguments.recipes:
        for case in cases(recipe, arguments.epochs, arguments.routes, arguments.spread):
            found.append(case)
            print(json.dumps(asdict(case) | {"won_back": case.won_back}), flush=True)
    shares = [case.won_back for case in found if case.won_back is not None]
    summary: dict[str, Any] = {"cases": len(shares), "median": median(shares) if shares else None}
    print(json.dumps(summary | {"share_won_back": share_won_back(found)}))


if __name__ == "__main__":
    main()
