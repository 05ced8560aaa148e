"""The model of time: that its numbers can be found again, and how far it is off on families that no fit has seen."""

from __future__ import annotations

import dataclasses
import math
import random
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from aiterlite import emulator, envs  # noqa: E402
from aiterlite.benchmark import calibration as fitting  # noqa: E402
from aiterlite.benchmark import calibration_report as reporting  # noqa: E402
from aiterlite.benchmark import operator  # noqa: E402
from aiterlite.benchmark.calibration import Point  # noqa: E402
from aiterlite.emulator.calibration import SHIPPED, from_data, shipped  # noqa: E402
from aiterlite.emulator.estimate import estimate, work_of  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.tables import TABLES, problems  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = pytest.mark.torch
SAMPLE = Path(__file__).parent / "data" / "amd-points.csv"
COMPILED = Path(__file__).parent / "data" / "amd-compiled-points.csv"


@pytest.fixture(scope="module")
def points() -> list[Point]:
    torch.set_num_threads(1)
    return fitting.possible(fitting.read(SAMPLE) + fitting.read(COMPILED))


@pytest.fixture(scope="module")
def unseen(points: list[Point]) -> list[reporting.Guess]:
    return reporting.left_out(points, reporting.by_family)


def test_families_that_no_fit_has_seen(unseen: list[reporting.Guess]) -> None:
    told = reporting.score(unseen)
    assert told["points"] > 900
    shipped_objects, compiled = (
        {"bf16gemm", "f4gemm", "fmoe", "fp8gemm_blockscale"},
        {"opus_bf16", "opus_fp8", "skinny"},
    )
    assert {guess.point.family for guess in unseen} == shipped_objects | compiled
    assert told["median"] <= 12
    assert told["p90"] <= 30
    assert told["covered"] >= 0.75


def test_compiled_kernels_of_several_waves_that_no_fit_has_seen() -> None:
    """A fit to AMD's own objects alone, which have one wave a SIMD, on kernels that a compiler here built."""
    objects, compiled = fitting.possible(fitting.read(SAMPLE)), fitting.possible(fitting.read(COMPILED))
    compiled = [point for point in compiled if not point.behind]
    assert {point.waves for point in objects} == {1.0} and max(point.waves for point in compiled) == 4.0
    told = reporting.score(reporting.left_out(objects, reporting.by_family, compiled))
    assert told["points"] > 190
    assert told["median"] <= 12 and told["p90"] <= 25
    assert told["covered"] >= 0.78


def test_calls_of_two_launches_that_no_fit_has_seen() -> None:
    """Split-K GEMMs with a kernel that adds up: estimated too low, by a sixth and not by a launch."""
    objects = fitting.possible(fitting.read(SAMPLE))
    calls = [point for point in fitting.possible(fitting.read(COMPILED)) if point.behind]
    assert len(calls) == 72 and all(len(point.behind) == 1 and point.split > 0 for point in calls)
    told = reporting.score(reporting.left_out(objects, reporting.by_family, calls))
    assert told["median"] <= 22 and told["p90"] <= 28 and 0.75 < told["bias"] < 0.9
    fit = fitting.Fit(objects, reporting.chips_of(objects))
    alone, both = fit.predict([dataclasses.replace(p, behind=()) for p in calls]), fit.predict(calls)
    assert all(2 < two - one < 20 for one, two in zip(alone, both, strict=True))


def test_clearing_stores_that_nobody_waits_for() -> None:
    """Plain stores beside atomics stand for workgroups that wait, unless a point says that they do not."""
    fit = fitting.Fit(fitting.possible(fitting.read(SAMPLE)), ("mi300x", "mi308x", "mi355x"))
    adding = [p for p in fitting.read(COMPILED) if p.counters["written"] > p.counters["atom"] > 0]
    assert len(adding) == 7 and all(point.waits is False for point in adding)
    told, inferred = fit.predict(adding), fit.predict([dataclasses.replace(p, waits=None) for p in adding])
    assert inferred == fit.predict([dataclasses.replace(p, waits=True) for p in adding])
    assert all(1 < b - a < 5 for a, b in zip(told, inferred, strict=True))


def test_a_few_points_widen_no_range_of_what_was_seen(points: list[Point]) -> None:
    odd = dataclasses.replace(points[0], family="odd", waves=16.0, counters={**points[0].counters, "mfma": 1e9})
    assert reporting.seen([*points, *[odd] * 29]) == reporting.seen(points)
    widened = reporting.seen([*points, *[odd] * 30])
    assert widened["waves"][1] == 16.0 and widened["mfma"][1] > 2 * reporting.seen(points)["mfma"][1]


def test_a_fit_to_shuffled_times_is_told(points: list[Point]) -> None:
    """What the test above would say of a model that knows nothing."""
    times = [p.us for p in points]
    random.Random(0).shuffle(times)
    wrong = [dataclasses.replace(p, us=us) for p, us in zip(points, times, strict=True)]
    found = reporting.guesses(wrong, reporting.by_family)
    assert reporting.score([reporting.Guess(p, us, us, us) for p, us in found])["p90"] > 30


def test_the_shipped_file_keeps_what_it_promises() -> None:
    data = shipped().data
    left = data["left_out"]
    families = left["families"]["all"]
    assert families["median"] <= 12
    assert families["p90"] <= 25
    assert families["covered"] >= 0.78
    assert left["pairs"]["right"] >= 0.85 and left["pairs"]["answered_right"] >= 0.93
    assert families["points"] == left["kernels"]["all"]["points"] == data["points"]
    assert not any("aiterlite" in name for name in left["families"])


def test_the_shipped_numbers_are_those_of_the_points(points: list[Point]) -> None:
    """The sample's own fit says the same of the sample as the shipped numbers, within a few percent."""
    fit = fitting.Fit(points, reporting.chips_of(points))
    chips, shared = fit.numbers()
    data = {**shipped().data, "chips": chips, "shared": shared}
    for calibration in (shipped(), from_data(data)):
        batch = fitting.Batch(points, reporting.chips_of(points))
        off = []
        for i, point in enumerate(points):
            if point.behind:
                continue
            work = dataclasses.replace(
                batch.work, **{f.name: float(getattr(batch.work, f.name)[i]) for f in dataclasses.fields(batch.work)}
            )
            us = fitting.parts(work, calibration.chips[point.chip], calibration.shared)["us"]
            off.append(abs(us / point.us - 1))
            last = point
        assert sorted(off)[len(off) // 2] < 0.09
    assert abs(us / fit.predict([last])[0] - 1) < 1e-3  # the same formula on numbers as on tensors


def test_what_is_left_out_changes_nothing(points: list[Point]) -> None:
    """A family whose times double gets the same estimates and intervals: nothing of them is from its own times."""
    few = points[::4]
    doubled = [dataclasses.replace(p, us=2 * p.us) if p.family == "bf16gemm" else p for p in few]
    for found in (reporting.guesses, reporting.left_out):
        before, after = (
            [row[1:] for row in found(rows, reporting.by_family) if row[0].family == "bf16gemm"]
            for rows in (few, doubled)
        )
        assert before and before == after
    kept = [p for p in few if p.family != "bf16gemm"]
    judged = reporting.left_out(kept, reporting.by_family, [p for p in few if p.family == "bf16gemm"])
    assert [guess.us for guess in judged] == [
        us for p, us in reporting.guesses(few, reporting.by_family) if p.family == "bf16gemm"
    ]


def test_numbers_that_made_the_times_are_found_again(points: list[Point]) -> None:
    """Times made by the formula with other numbers than the priors' are met within three percent."""
    made = fitting.Fit(points, reporting.chips_of(points))
    made.vector = made.vector + torch.linspace(-0.1, 0.1, len(made.vector), dtype=torch.float64)
    invented = [dataclasses.replace(p, us=us) for p, us in zip(points, made.predict(points), strict=True)]
    found = fitting.Fit(invented, reporting.chips_of(points)).predict(invented)
    off = sorted(abs(us / p.us - 1) for p, us in zip(invented, found, strict=True))
    assert off[int(0.9 * len(off))] < 0.03


def test_impossible_times_are_dropped(points: list[Point]) -> None:
    point = next(p for p in points if p.counters["mfma"] > 1e5)
    units, mhz, _ = fitting.facts(point.chip)
    floor = math.ceil(point.workgroups / units) * point.counters["mfma"] / mhz
    assert fitting.floor_us(point) >= floor
    assert fitting.possible([dataclasses.replace(point, us=floor * 0.99)]) == []
    assert len(fitting.possible([dataclasses.replace(point, us=fitting.floor_us(point) * 1.01)])) == 1
    other = dataclasses.replace(point, problem=(1, 2, 3, 0, 0))
    assert fitting.possible([point, other]) == []


def test_pairs_are_of_one_problem_and_have_a_gap(points: list[Point]) -> None:
    point = points[0]

    def guess(kernel: str, published: float, us: float) -> reporting.Guess:
        return reporting.Guess(dataclasses.replace(point, kernel=kernel, us=published), us, us, us)

    a, b, near = guess("a", 10, 10), guess("b", 20, 12), guess("c", 10.5, 99)
    assert reporting.pairs([a, b]) == {"pairs": 1, "right": 1.0, "answered": 1.0, "answered_right": 1.0}
    assert reporting.pairs([a, guess("b", 20, 9)])["right"] == 0.0
    assert reporting.pairs([a, guess("b", 20, 11)])["answered"] == 0.0
    assert reporting.pairs([a, near])["pairs"] == 0
    assert reporting.pairs([a, guess("a", 20, 12)])["pairs"] == 0


def test_a_file_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="allowed: 1; refit it"):
        from_data({"format": 0})
    assert SHIPPED.stat().st_size < 1 << 14


@pytest.mark.emulated
@pytest.mark.compile
def test_points_of_a_users_gpu(emulator_library: str, tmp_path: Path) -> None:
    """A call's time and counters, written and read again: the fit then has the work that an estimate has."""
    emulator.use_library(emulator_library)
    persona, problem = resolve("mi300x"), problems.problem(TABLES["wvSplitK"], {"n": 4, "m": 64, "k": 512})
    row = operator.Row("wvSplitK", {}, "mfma", ["kernel"], 7.5, None, None, 0, 0, 0, 0, True, 0, {})
    split = problems.problem(TABLES["gemm_a8w8_blockscale"], {"n": 4, "m": 64, "k": 2048, "fp8": persona.fp8})
    several = dataclasses.replace(row, op="gemm_a8w8_blockscale", kernels=["a", "b"], ours_us=11.0)
    cached = dataclasses.replace(row, cold=False)
    file, calls = tmp_path / "points.csv", ("wvSplitK", "gemm_a8w8_blockscale", "wvSplitK")
    left = operator.export(
        file, [row, several, cached], list(zip(calls, (problem, split, problem), strict=True)), persona
    )
    assert len(left) == 1 and left[0].endswith("in the cache")
    assert "by `aiterlite bench`" in file.read_text().splitlines()[0]
    point, two = fitting.read(file)
    assert (two.kernel, two.us, len(two.behind), point.behind) == ("a + b", 11.0, 1, ())
    assert (point.family, point.chip, point.us) == ("aiterlite/wvSplitK", "mi300x", 7.5)
    batch = fitting.Batch([point], ("mi300x",))
    with envs.override(AITERLITE_TARGET="mi300x"), emulator.watching(sanitize=False, counters=True) as seen:
        sample("wvSplitK", problem).run()
    work, _ = work_of(seen.counters[0], "gfx942", 304)
    for field in dataclasses.fields(work):
        assert float(getattr(batch.work, field.name)[0]) == pytest.approx(getattr(work, field.name)), field.name
    # A fit's estimate of a call of two launches is what `estimate` says of their counters.
    fit = fitting.Fit(fitting.possible(fitting.read(SAMPLE)), ("mi300x", "mi308x", "mi355x"))
    chips, shared = fit.numbers()
    of_fit = from_data({**shipped().data, "chips": chips, "shared": shared})
    with envs.override(AITERLITE_TARGET="mi300x"), emulator.watching(sanitize=False, counters=True) as seen:
        sample("gemm_a8w8_blockscale", split).run()
    assert len(seen.counters) == 2
    assert fit.predict([two]) == [pytest.approx(estimate(seen.counters, persona, of_fit).us, rel=1e-3)]


def test_points_of_no_amd_gpu_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="--export-points"):
        operator.run([], torch.device("cpu"), 1, tmp_path / "points.csv")
    with pytest.raises(ArgumentError, match="Name the chip that was timed"):
        fitting.facts("h200")
