"""Calibration samples for onnxruntime's quantizer."""

from typing import Any

from onnxruntime.quantization import CalibrationDataReader


class Readings(CalibrationDataReader):
    """One batch for the input x."""

    def __init__(self, x: Any) -> None:
        self.feeds = iter([{"x": x}])

    def get_next(self) -> Any:
        return next(self.feeds, None)
