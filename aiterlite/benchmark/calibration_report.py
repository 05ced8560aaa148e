"""How far the model is off on what its fit has not seen, and the calibration file that says so.

A group of points (a family, or a fifth of the kernels) is left out of everything that is fitted: the numbers, and the
factors of the intervals, which come from leaving out the other groups in turn.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from aiterlite.benchmark.calibration import SHORT_US, Fit, Point, possible
from aiterlite.emulator.calibration import FORMAT

# A published gap counts as one from here on; what labels differ by when they are measured again is a tenth of that.
GAP = 1.1
# Estimates that differ by less are not told apart. With it the left-out pairs that get an answer are 96 % right.
APART = 1.16
# The share of points that may lie below an interval, and above it. Less than the tenth that 80 % would take: a family
# that is new is farther off than those that are left out in turn are from each other.
_TAIL = 0.06
_FOLDS = 5
_PARTS = ("mfma", "valu", "ldsmin", "read", "vmem")
# Families of fewer points are fitted to, and widen no range of what was seen.
_FEW = 30


class Guess(NamedTuple):
    """A point, the estimate of a fit that has not seen it, and its interval."""

    point: Point
    us: float
    low: float
    high: float


def chips_of(*several: Iterable[Point]) -> list[str]:
    """The chips of points, in the order of their names. One of which a fit sees no point takes what all share."""
    return sorted({point.chip for points in several for point in points})


def by_family(point: Point) -> str:
    return point.family


def by_kernel(points: Iterable[Point]) -> Callable[[Point], str]:
    """A fifth of the kernels for each point, in the order of their names."""
    fold = {kernel: str(i % _FOLDS) for i, kernel in enumerate(sorted({p.kernel for p in points}))}
    return lambda point: fold[point.kernel]


def guesses(points: Sequence[Point], key: Callable[[Point], str]) -> list[tuple[Point, float]]:
    """Each point with its estimate, by a fit to all groups but its own."""
    found = []
    for group in sorted({key(p) for p in points}):
        fit = Fit([p for p in points if key(p) != group], chips_of(points))
        own = [p for p in points if key(p) == group]
        found += list(zip(own, fit.predict(own), strict=True))
    return found


def factors(found: Sequence[tuple[Point, float]]) -> dict[str, tuple[float, float]]:
    """What 80 % of the published times lie between, over the estimate; each family has the same say."""
    intervals = {}
    for name, short in (("calibrated", False), ("short", True)):
        rows = [(math.log(p.us / us), p.family) for p, us in found if (us < SHORT_US) == short]
        if not rows:
            raise ValueError(f"no point of the class {name!r} was left out: its interval cannot be had")
        count: defaultdict[str, int] = defaultdict(int)
        for _, family in rows:
            count[family] += 1
        intervals[name] = (_quantile(rows, count, _TAIL), _quantile(rows, count, 1 - _TAIL))
    return intervals


def _quantile(rows: list[tuple[float, str]], count: dict[str, int], share: float) -> float:
    reached, wanted = 0.0, share * len(count)
    for off, family in sorted(rows):
        reached += 1 / count[family]
        if reached >= wanted:
            return math.exp(off)
    return math.exp(max(off for off, _ in rows))


def left_out(points: Sequence[Point], key: Callable[[Point], str], judged: Sequence[Point] = ()) -> list[Guess]:
    """Estimates with intervals, each by what was fitted to the other groups of `points`.

    They are of `points` themselves, or of the points `judged`: a group of those that `points` lack gets a fit to all.
    """
    judged = judged or points
    found = []
    for group in sorted({key(p) for p in judged}):
        rest = [p for p in points if key(p) != group]
        fit, scale = Fit(rest, chips_of(points, judged)), factors(guesses(rest, key))
        own = [p for p in judged if key(p) == group]
        for point, us in zip(own, fit.predict(own), strict=True):
            low, high = scale["short" if us < SHORT_US else "calibrated"]
            found.append(Guess(point, us, us * low, us * high))
    return found


def pairs(found: Sequence[Guess], least_us: float = 0.0) -> dict[str, Any]:
    """Of two kernels for one problem, published with a gap: how often the estimates name the faster one."""
    same: defaultdict[tuple[Any, ...], list[Guess]] = defaultdict(list)
    for guess in found:
        p = guess.point
        same[p.family, p.chip, p.problem, p.bytes].append(guess)
    count = right = answered = answered_right = 0
    for group in same.values():
        for i, a in enumerate(group):
            for b in group[:i]:
                gap = a.point.us / b.point.us
                if (a.point.kernel, a.point.split) == (b.point.kernel, b.point.split) or max(gap, 1 / gap) < GAP:
                    continue
                if max(a.point.us, b.point.us) < least_us:
                    continue
                told = a.us / b.us
                is_right = (told > 1) == (gap > 1)
                count, right = count + 1, right + is_right
                if max(told, 1 / told) >= APART:
                    answered, answered_right = answered + 1, answered_right + is_right
    return {
        "pairs": count,
        "right": _share(right, count),
        "answered": _share(answered, count),
        "answered_right": _share(answered_right, answered),
    }


def _share(part: float, whole: float) -> float:
    return round(part / whole, 3) if whole else math.nan


def score(found: Sequence[Guess]) -> dict[str, Any]:
    """Errors in percent of the published times, and the share of those in the intervals."""
    off = sorted(abs(g.us / g.point.us - 1) * 100 for g in found)
    ratio = sorted(g.us / g.point.us for g in found)
    inside = sum(g.low <= g.point.us <= g.high for g in found)
    return {
        "points": len(found),
        "median": round(off[len(off) // 2], 1),
        "p90": round(off[int(0.9 * (len(off) - 1))], 1),
        "bias": round(ratio[len(ratio) // 2], 2),
        "covered": _share(inside, len(found)),
    }


def table(found: Sequence[Guess]) -> dict[str, dict[str, Any]]:
    """The score of all, and of each family on each chip."""
    groups: defaultdict[str, list[Guess]] = defaultdict(list)
    for guess in found:
        groups[f"{guess.point.family} on {guess.point.chip}"].append(guess)
    return {"all": score(found), **{name: score(rows) for name, rows in sorted(groups.items())}}


def mix(point: Point) -> dict[str, float]:
    """What a workgroup does for each issue cycle of its SIMD, to tell kernels that are unlike all that was fitted."""
    issue = max(point.counters["issue"], 1.0)
    return {name: point.counters[name] / issue for name in _PARTS}


def seen(points: Sequence[Point]) -> dict[str, tuple[float, float]]:
    """The ranges of the mixes, and of the waves a SIMD, of families that have enough points to say how far a fit is
    off on their like."""
    count = Counter(p.family for p in points)
    many = [p for p in points if count[p.family] >= _FEW] or points
    mixes = [{**mix(p), "waves": p.waves} for p in many]
    return {name: (min(m[name] for m in mixes), max(m[name] for m in mixes)) for name in (*_PARTS, "waves")}


def calibrate(points: Sequence[Point], source: str, date: str) -> dict[str, Any]:
    """The calibration file of points as they were read."""
    kept = possible(points)
    chips, shared = Fit(kept, chips_of(kept)).numbers()
    families = left_out(kept, by_family)
    kernels = left_out(kept, by_kernel(kept))
    outer = [(g.point, g.us) for g in families]
    return {
        "format": FORMAT,
        "what": "Numbers of aiterlite/emulator/calibration.py, by benchmarks/calibrate.py. No time of it was measured "
        "by this project.",
        "source": source,
        "date": date,
        "points": len(kept),
        "dropped": len(points) - len(kept),
        "kernels": len({(p.chip, p.kernel) for p in kept}),
        "chips": chips,
        "shared": shared,
        "intervals": {name: [round(x, 3) for x in pair] for name, pair in factors(outer).items()},
        "apart": APART,
        "short_us": SHORT_US,
        "seen": {name: [round(x, 4) for x in pair] for name, pair in seen(kept).items()},
        "left_out": {
            "families": table(families),
            "kernels": table(kernels),
            "pairs": pairs(families),
            "pairs_from_15_us": pairs(families, SHORT_US),
        },
    }
