"""A FakeQuantize node of OpenVINO's: which integers it gives, and what they stand for."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from calibration.quantization import QuantizationParameters, QuantizationScheme

# Levels of a FakeQuantize -> type and bits of its integers.
TYPES = {256: ("uint8", 8), 255: ("int8", 8), 65536: ("uint16", 16), 65535: ("int16", 16)}
# Of a step: a zero that is farther from an integer is not one of the integers' values.
ZERO_TOLERANCE = 0.02


@dataclass(frozen=True)
class Fake:
    """A FakeQuantize node of an activation.

    op: its name. sources: names of the tensor that it rounds. how: the parameters of its integers; None where they are
    of a type that is not known. reads: name of the node that gives the values of the integers, itself or, where they
    are multiplied apart, a Multiply -> by which parameters. axis: of scales, where there are several.
    """

    op: str
    sources: frozenset[str]
    how: QuantizationParameters | None
    reads: Mapping[str, QuantizationParameters | None]
    axis: int | None

    @property
    def known(self) -> bool:
        """Whether the integers can be told from the values."""
        return self.how is not None and None not in self.reads.values()


def read_fake(node: Any, constant: Callable[[str, int], np.ndarray | None]) -> Fake:
    """constant: the values of an input of a node by name; None where they are none."""
    name = node.get_friendly_name()
    sources = frozenset(node.input_value(0).get_names())
    ends = [constant(name, position) for position in (1, 2, 3, 4)]
    low_in, high_in, low, high = (np.nan if array is None else array.astype(np.float64) for array in ends)
    levels = node.get_attributes()["levels"]
    reads: dict[str, QuantizationParameters | None] = {}
    for chain in dequantizing(node):
        zero, scale = np.zeros(()), np.ones(())
        for reader in chain:
            other = constant(reader.get_friendly_name(), 1) if reader.get_type_name() != "Convert" else None
            if other is not None and reader.get_type_name() == "Subtract":
                zero = other.astype(np.float64)
            elif other is not None:
                scale = other.astype(np.float64)
        end = (chain or [node])[-1].get_friendly_name()
        # Without what multiplies them, integers are no values.
        values = bool(chain) or (np.array_equal(low, low_in) and np.array_equal(high, high_in))
        reads[end] = _parameters((low - zero) * scale, (high - zero) * scale, levels) if values else None
    how = _parameters(np.asarray(low_in), np.asarray(high_in), levels)
    several = how is not None and how.scale.size > 1
    rank = len(node.output(0).get_partial_shape())
    return Fake(name, sources, how, reads, rank + _axis(ends) if several else None)


def dequantizing(node: Any) -> list[list[Any]]:
    """What makes values of a FakeQuantize's integers, for each reader: Convert, Convert, Subtract if any, Multiply.

    One empty list where the FakeQuantize gives values itself.
    """
    chains: list[list[Any]] = []
    pending = [[reader] for reader in readers_of(node) if reader.get_type_name() == "Convert"]
    if len(pending) != len(readers_of(node)):
        return [[]]
    while pending:
        chain = pending.pop(0)
        kind = chain[-1].get_type_name()
        if kind == "Multiply":
            chains.append(chain)
        elif kind in ("Convert", "Subtract"):
            pending += [[*chain, reader] for reader in readers_of(chain[-1])]
        else:
            return [[]]
    return chains or [[]]


def readers_of(node: Any) -> list[Any]:
    """The nodes that read a node's first result, one that reads it twice twice."""
    return [port.get_node() for port in node.output(0).get_target_inputs()]


def _parameters(low: np.ndarray, high: np.ndarray, levels: int) -> QuantizationParameters | None:
    """None where the integers are not of a known type, or zero is none of their values."""
    if levels not in TYPES or not np.isfinite(high - low).all():
        return None
    name, bits = TYPES[levels]
    scale = (high - low).reshape(-1) / (levels - 1)
    if not (scale > 0).all():
        return None
    signed = name.startswith("int")
    zero = -low.reshape(-1) / scale
    whole = np.rint(zero)
    middle = 2 ** (bits - 1)
    if np.abs(zero - whole).max() > ZERO_TOLERANCE:
        return None
    if signed:
        return QuantizationParameters(
            QuantizationScheme(bits, signed=True, symmetric=True),
            scale.astype(np.float32),
            (whole - (middle - 1)).astype(np.int32),
        )
    if (whole == middle).all():
        scheme, whole = QuantizationScheme(bits, signed=True), whole - middle
    else:
        scheme = QuantizationScheme(bits)
    return QuantizationParameters(scheme, scale.astype(np.float32), whole.astype(np.int32))


def _axis(ends: Sequence[np.ndarray | None]) -> int:
    """Counted from the end: of the dimensions of the limits, the one that is not 1."""
    widest = max((np.asarray(array) for array in ends), key=lambda array: array.size)
    return int(np.argmax(widest.shape)) - widest.ndim
