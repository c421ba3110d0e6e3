"""Charts as the templates draw them: positions in percent of a plot, and ticks at round numbers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_TICKS = 5
_ROUND = (1, 2, 5, 10)
_HOURS = (1, 2, 5, 10, 30, 60, 300, 600, 1800, 3600, 2 * 3600, 6 * 3600, 12 * 3600, 24 * 3600)


@dataclass(frozen=True, slots=True)
class Tick:
    at: float  # percent, from the left or from the bottom
    label: str


@dataclass(frozen=True, slots=True)
class Line:
    """A curve: ``points`` are of an SVG polyline over 100 x 100, y downwards."""

    points: str
    x: list[Tick]
    y: list[Tick]


def ticks(low: float, high: float, *, least: float = 0.0) -> list[Tick]:
    """Choose a few round numbers from ``low`` to ``high``, ``least`` apart or more."""
    if not high > low:
        return []
    rough = max((high - low) / _TICKS, least)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * each for each in _ROUND if power * each >= rough * 0.999)
    return _every(step, low, high, lambda value: f"{value:,.{_digits(step)}f}")


def time_ticks(seconds: float) -> list[Tick]:
    """Choose a few round times from 0 on, in the unit that suits them."""
    if seconds <= 0:
        return []
    days = math.ceil(seconds / 86400 / _TICKS) * 86400
    step = next((each for each in _HOURS if each * (_TICKS + 1) >= seconds), days)
    unit, name = next(
        (each for each in ((86400, "d"), (3600, "h"), (60, "min")) if step % each[0] == 0), (1, "s")
    )
    return _every(step, 0, seconds, lambda value: f"{value / unit:.0f} {name}")


def line(
    xs: Sequence[float], ys: Sequence[float], *, zero: bool, times: bool = False
) -> Line | None:
    """Make a curve of at least two finite points; with ``zero`` its axis begins there."""
    points = [(x, y) for x, y in zip(xs, ys, strict=True) if math.isfinite(x) and math.isfinite(y)]
    if len(points) < 2:
        return None
    left, right = points[0][0], points[-1][0]
    low = 0.0 if zero else min(y for _, y in points)
    high = max(y for _, y in points)
    if high <= low:
        high = low + (abs(low) or 1.0)
    high += 0.08 * (high - low)  # for the topmost label
    spots = (f"{place(x, left, right):.2f},{100 - place(y, low, high):.2f}" for x, y in points)
    return Line(
        " ".join(spots),
        time_ticks(right - left) if times else ticks(left, right),
        ticks(low, high),
    )


def place(value: float, low: float, high: float) -> float:
    """Where a value lies between two others, in percent."""
    return 100 * (value - low) / (high - low) if high > low else 0.0


def _every(step: float, low: float, high: float, label: Callable[[float], str]) -> list[Tick]:
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    values = [number * step for number in range(first, last + 1)]
    return [Tick(place(value, low, high), label(value + 0.0)) for value in values]


def _digits(step: float) -> int:
    return max(0, -math.floor(math.log10(step) + 1e-9))
