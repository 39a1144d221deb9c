"""Figures as a person reads them: three significant digits, with their unit."""

import math


def number(value: float) -> str:
    """0.000412 -> "0.000412", 12.43 -> "12.4", 10000.0 -> "10000"."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    digits = 2 - math.floor(math.log10(abs(value)))
    rounded = round(value, digits)
    return f"{rounded:.{max(0, digits if abs(rounded) < 10 ** (3 - digits) else digits - 1)}f}"


def milliseconds(value: float) -> str:
    """0.4123 -> "0.412 ms"."""
    return f"{number(value)} ms"


def seconds(value: float) -> str:
    """0.42 s, 12.3 s, 4 min 05 s, 1 h 02 min."""
    if value < 60:
        return f"{number(value)} s" if value >= 0.1 else f"{value:.2f} s"
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def size(value: float) -> str:
    """Bytes as B, kB (1,000), MB (1,000,000) or GB."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= scale * 0.9995:
            return f"{number(value / scale)} {unit}"
    return f"{value:.0f} B"


def count(value: float) -> str:
    """63_412 -> "63.4 k", 73_000_000 -> "73.0 M"."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= scale * 0.9995:
            return f"{number(value / scale)} {unit}"
    return f"{value:.0f}"


def ratio(value: float) -> str:
    """12.43 -> "12.4×"."""
    return f"{number(value)}×"


def metric(value: float, unit: str) -> str:
    """A metric in the task's unit; a fraction is shown in percent."""
    if unit in FRACTIONS:
        return f"{100 * value:.2f}%"
    return f"{value:.2f}%" if unit == "%" else f"{number(value)} {unit}".rstrip()


FRACTIONS = ("", "fraction", "share", "proportion")


def points(value: float) -> str:
    """Percentage points with their sign: what was lost is below zero."""
    return f"{value:+.2f}".replace("-", "−")


def decibels(value: float) -> str:
    """23.04 -> "23.0 dB"."""
    return f"{round(value, 1) + 0.0:.1f} dB".replace("-", "−")


def gain_db(value: float) -> str:
    """With its sign: 1.26 -> "+1.3 dB"; what rounds to nothing has none: -0.04 -> "0.0 dB"."""
    return ("+" if round(value, 1) > 0 else "") + decibels(value)


def share(value: float) -> str:
    """A share of 1 in percent: 0.0123 -> "1.23%"; what is there, if little, is not shown as nothing."""
    return "<0.01%" if 0 < value < 0.0001 else f"{number(100 * value)}%"
