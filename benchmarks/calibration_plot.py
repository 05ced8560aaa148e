"""Draws estimates over published times, a panel a chip: benchmarks/calibrate.py --svg."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from aiterlite.benchmark.calibration import Fit, Point
from aiterlite.benchmark.calibration_report import Guess, chips_of

_COLORS = ("#1b6ca8", "#d1495b", "#3a7d44", "#e3a008", "#6c4f9c", "#17a2a2", "#555555")
_SIDE, _LEFT, _TOP, _GAP, _BOTTOM = 340, 56, 40, 40, 118
_LEAST, _MOST, _TWICE = 2.5, 10_000.0, 2.0


def draw(unseen: Sequence[Guess], points: Sequence[Point]) -> str:
    """Points that no fit has seen in the colour of their family, and the same points by the fit to all of them in grey.

    Dots of a family are one path with round ends, which keeps the file small.
    """
    families = sorted({guess.point.family for guess in unseen})
    chips = chips_of(points)
    width = _LEFT + len(chips) * (_SIDE + _GAP)
    height = _TOP + _SIDE + _BOTTOM
    parts = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif">']
    parts.append(f'<rect width="{width}" height="{height}" fill="white"/>')
    fitted = Fit(points, chips).predict(points)
    for number, chip in enumerate(chips):
        x0 = _LEFT + number * (_SIDE + _GAP)
        parts += _axes(x0, chip)
        known = [(p.us, us) for p, us in zip(points, fitted, strict=True) if p.chip == chip]
        parts.append(_dots(x0, known, "#c8c8c8"))
        for family, color in zip(families, _COLORS, strict=False):
            own = [(g.point.us, g.us) for g in unseen if g.point.chip == chip and g.point.family == family]
            parts.append(_dots(x0, own, color))
    y = _TOP + _SIDE + 62
    parts.append(
        _text(_LEFT, y - 20, "across: published us; up: estimated over published (past 2 or 0.5: on the edge)")
    )
    for place, (name, color) in enumerate([*zip(families, _COLORS, strict=False), ("seen by the fit", "#c8c8c8")]):
        x, y = _LEFT + 290 * (place % 4), _TOP + _SIDE + 62 + 22 * (place // 4)
        parts.append(f'<circle cx="{x + 4}" cy="{y}" r="4" fill="{color}"/>')
        parts.append(_text(x + 14, y + 4, name if color == "#c8c8c8" else f"{name}, left out"))
    parts.append(_text(_LEFT, y + 24, "Estimate, calibrated on published times, not measured here. Times: ROCm/aiter."))
    return "\n".join([*filter(None, parts), "</svg>", ""])


def _across(us: float) -> float:
    inside = min(max(us, _LEAST), _MOST)
    return _SIDE * math.log(inside / _LEAST) / math.log(_MOST / _LEAST)


def _up(ratio: float) -> float:
    inside = min(max(ratio, 1 / _TWICE), _TWICE)
    return _TOP + _SIDE * (0.5 - math.log(inside) / math.log(_TWICE) / 2)


def _axes(x0: float, chip: str) -> list[str]:
    bottom = _TOP + _SIDE
    parts = [_text(x0, _TOP - 12, chip)]
    for tick in (10, 100, 1000, 10_000):
        x = x0 + _across(tick)
        parts.append(f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="#e4e4e4"/>')
        parts.append(_text(x, bottom + 16, f"{tick:,}", "end" if tick == 10_000 else "middle"))
    for ratio, color in ((0.5, "#e4e4e4"), (0.8, "#999"), (1.0, "#333"), (1.25, "#999"), (2.0, "#e4e4e4")):
        parts.append(f'<path d="M{x0} {_up(ratio):.1f}h{_SIDE}" stroke="{color}"/>')
        parts.append(_text(x0 - 6, _up(ratio) + 4, f"{ratio:g}", "end"))
    return parts


def _dots(x0: float, pairs: Iterable[tuple[float, float]], color: str) -> str:
    places = sorted({(round(x0 + _across(us)), round(_up(told / us))) for us, told in pairs})
    if not places:
        return ""
    path = "".join(f"M{x} {y}h0" for x, y in places)
    return f'<path d="{path}" stroke="{color}" stroke-width="3" stroke-linecap="round" stroke-opacity=".75"/>'


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="12" text-anchor="{anchor}">{text}</text>'
