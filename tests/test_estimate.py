"""Estimates of time: that they are the fitted model, of which class they say they are, and what they refuse to say."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

from aiterlite import emulator
from aiterlite.benchmark import calibration as fitting
from aiterlite.cli.command import UsageError
from aiterlite.emulator.calibration import LABEL, Work, parts, shipped
from aiterlite.emulator.estimate import CANNOT_TELL, Estimate, estimate, faster, floor_us, from_json, impossible
from aiterlite.errors import ArgumentError
from aiterlite.target import resolve

pytestmark = pytest.mark.torch
SAMPLE = Path(__file__).parent / "data" / "amd-points.csv"
Both = Callable[..., tuple[str, Any, int]]


def counted(point: fitting.Point, waves: int = 4) -> dict[str, Any]:
    """What the emulator would count of a launch of a point: workgroups that are alike."""
    c, groups = point.counters, int(point.workgroups)
    # On gfx950 the emulator counts half the cycles for wide reads of LDS; all of a point's bytes are given as such.
    wide = c["ldsmin"] * 128 if point.chip == "mi355x" else 0.0
    return {
        "workgroups": groups,
        "waves": waves * groups,
        "matrix_cycles": int(4 * c["mfma"]) * groups,
        "issue_cycles": {"total": 4 * c["issue"] * groups, "valu": 4 * c["valu"] * groups},
        "instructions": {"vmem_load": 4 * c["vmem"] * groups, "vmem_store": 0, "vmem_atomic": 0, "total": 100 * groups},
        "largest_workgroup": 100,
        "lds": {"cycles": (c["ldsmin"] - wide / 256) * groups},
        "bytes": {
            "global": {
                "read": c["read"] * groups,
                "written": c["written"] * groups,
                "unique_read": point.bytes,
                "unique_written": 0,
            },
            "lds": {"read": wide * groups},
            "scratch": {"read": 0},
        },
        "arguments": {"y": {"written": max(point.split, 1), "unique_written": 1}},
        "coalescing": {"atomic": {"segments64": c["atom"] / 64 * groups}},
        "occupancy": {"workgroups_per_cu": 1},
    }


@pytest.fixture(scope="module")
def points() -> dict[str, fitting.Point]:
    """A point of each chip, of 15 us and more, of a kernel without a memset."""
    found = {}
    for point in fitting.possible(fitting.read(SAMPLE)):
        if not point.memset and point.us > 30 and point.workgroups == int(point.workgroups):
            found.setdefault(point.chip, point)
    assert set(found) == {"mi300x", "mi308x", "mi355x"}
    return found


@pytest.mark.parametrize("chip", ["mi300x", "mi308x", "mi355x"])
def test_an_estimate_is_the_fitted_model(points: dict[str, fitting.Point], chip: str) -> None:
    point = points[chip]
    batch = fitting.Batch([point], (chip,))
    work = Work(**{f.name: float(getattr(batch.work, f.name)[0]) for f in dataclasses.fields(Work)})
    expected = parts(work, shipped().chips[chip], shipped().shared)
    found = estimate([counted(point)], resolve(chip))
    assert found.us == pytest.approx(expected["us"], rel=1e-6)
    assert found.parts == pytest.approx({name: us for name, us in expected.items() if name != "us"}, rel=1e-6)
    assert (found.kind, found.why) == ("calibrated", ())
    low, high = shipped().intervals["calibrated"]
    assert (found.low, found.high) == pytest.approx((found.us * low, found.us * high))
    assert found.limit == max(found.parts, key=lambda name: found.parts[name])
    assert LABEL in str(found) and "80 %: " in str(found) and found.to_json()["label"] == LABEL
    assert from_json(json.loads(json.dumps(found.to_json()))) == found


def test_what_is_unlike_the_published_kernels_says_so(points: dict[str, fitting.Point]) -> None:
    counters = counted(points["mi300x"])
    usual = estimate([counters], resolve("mi300x"))

    def kind(change: Callable[[dict[str, Any]], None]) -> Estimate:
        other = copy.deepcopy(counters)
        change(other)
        found = estimate([other], resolve("mi300x"))
        assert found.kind == "extrapolated" and found.high / found.us > 1.1 * usual.high / usual.us
        return found

    assert kind(lambda c: c.update(waves=32 * c["workgroups"])).why == ("8 waves a SIMD",)
    assert "workgroups of 1 waves" in kind(lambda c: c.update(waves=c["workgroups"])).why
    assert "scratch" in kind(lambda c: c["bytes"]["scratch"].update(read=64)).why
    many = kind(lambda c: c["issue_cycles"].update(valu=c["issue_cycles"]["total"]))
    assert many.why == ("more vector ALU work than seen",)


def test_as_many_waves_as_published_kernels_have_are_no_reason(points: dict[str, fitting.Point]) -> None:
    counters = counted(points["mi300x"], waves=16)
    assert shipped().seen["waves"] == (1.0, 4.0)
    found = estimate([counters], resolve("mi300x"))
    assert (found.kind, found.why) == ("calibrated", ())


def test_several_workgroups_on_a_cu_share_it(points: dict[str, fitting.Point]) -> None:
    """Twice the workgroups, two of them on a CU: the work of a CU doubles, and its start does not."""
    one = counted(points["mi308x"])
    one["workgroups"], one["waves"] = 80, 320
    two = copy.deepcopy(one)
    two["occupancy"]["workgroups_per_cu"] = 2
    two["workgroups"], two["waves"] = 160, 640
    for unit, amount in one["instructions"].items():
        two["instructions"][unit] = 2 * amount
    for group in ("issue_cycles", "lds"):
        two[group] = {name: 2 * amount for name, amount in one[group].items()}
    two["matrix_cycles"] *= 2
    for name in ("read", "written"):
        two["bytes"]["global"][name] *= 2
    a, b = estimate([one], resolve("mi308x")), estimate([two], resolve("mi308x"))
    for part in ("matrix", "issue", "caches", "LDS"):
        assert b.parts[part] == pytest.approx(2 * a.parts[part])
    assert b.parts["latency"] == pytest.approx(a.parts["latency"])
    assert b.kind == a.kind == "calibrated"


def test_the_largest_workgroup_decides_where_each_has_a_cu(points: dict[str, fitting.Point]) -> None:
    one = counted(points["mi300x"])
    one["workgroups"], one["waves"] = 100, 400
    one["instructions"]["total"], one["largest_workgroup"] = 10_000, 120
    uneven = copy.deepcopy(one)
    uneven["largest_workgroup"] = 300
    a, b = estimate([one], resolve("mi300x")), estimate([uneven], resolve("mi300x"))
    for part in ("matrix", "issue", "caches", "LDS", "vector memory"):
        assert b.parts[part] == pytest.approx(3 * a.parts[part])
    assert b.why == (*a.why, "the largest workgroup executes 3.0 times the average")
    many = copy.deepcopy(uneven)
    many["workgroups"], many["instructions"]["total"] = 1000, 100_000
    assert "the largest workgroup executes 3.0 times the average" in estimate([many], resolve("mi300x")).why


def test_a_launch_from_one_of_its_workgroups(points: dict[str, fitting.Point]) -> None:
    """What one workgroup does and what its arguments hold say what 256 alike take, with more in `why`."""
    whole = counted(points["mi355x"])
    whole["workgroups"], whole["waves"] = 256, 1024
    for name in ("issue_cycles", "instructions"):
        whole[name] = {unit: 256 * round(amount / 256) for unit, amount in whole[name].items()}
    whole["lds"]["cycles"], whole["bytes"]["lds"]["read"] = 256_000, 256_000
    whole["matrix_cycles"], whole["bytes"]["global"]["read"] = 256 * 4000, 256 * 90_000
    whole["bytes"]["global"] |= {
        "written": 256 * 1000,
        "unique_read": 64 * 40_000 + 60_000,
        "unique_written": 256 * 1000,
    }
    whole["largest_workgroup"] = whole["instructions"]["total"] // 256
    one = copy.deepcopy(whole)
    one["launched"], one["workgroups"], one["waves"] = 256, 1, 4
    for name in ("issue_cycles", "instructions", "lds"):
        one[name] = {unit: amount / 256 for unit, amount in whole[name].items()}
    one["matrix_cycles"], one["bytes"]["lds"]["read"] = 4000, 1000
    one["bytes"]["global"] = {"read": 90_000, "written": 1000, "unique_read": 50_000, "unique_written": 1000}
    # All read all of `b`, a quarter of them share a row of `a`, and each writes its own part of `c`.
    one["arguments"] = {
        "a": {"written": 0, "unique_read": 40_000, "unique_written": 0, "size": 64 * 40_000},
        "b": {"written": 0, "unique_read": 60_000, "unique_written": 0, "size": 60_000},
        "c": {"written": 1000, "unique_read": 0, "unique_written": 1000, "size": 1_000_000},
    }
    a, b = estimate([whole], resolve("mi355x")), estimate([one], resolve("mi355x"))
    assert b.parts == pytest.approx(a.parts) and b.kind == a.kind
    assert b.why == (*a.why, "from 1 of 256 workgroups")
    assert floor_us([one], resolve("mi355x")) == pytest.approx(floor_us([whole], resolve("mi355x")))


def test_a_chip_without_published_times(points: dict[str, fitting.Point]) -> None:
    counters = counted(points["mi300x"])
    found = estimate([counters], resolve("mi325x"))
    assert found.kind == "uncalibrated" and found.why == ("numbers of mi300x scaled to 304 CUs",)
    own = estimate([counters], resolve("mi300x"))
    assert found.parts["bytes"] == pytest.approx(own.parts["bytes"] * 5300 / 6000)
    part = estimate([counters], resolve("mi300x").with_compute_units(38))
    assert part.kind == "uncalibrated" and part.us > 4 * own.us
    with pytest.raises(ArgumentError, match="argument `persona` is h200"):
        estimate([counters], resolve("h200"))
    with pytest.raises(ArgumentError, match="argument `counters` is empty"):
        estimate([], resolve("mi300x"))


def test_workgroups_that_take_turns(points: dict[str, fitting.Point]) -> None:
    """Plain stores and atomics of one launch: a wait for others, and a turn for each that writes the same bytes."""
    counters = counted(points["mi300x"])
    counters["bytes"]["global"]["written"] = 128 * counters["workgroups"]
    plain = estimate([counters], resolve("mi300x"))
    counters["coalescing"]["atomic"]["segments64"] = counters["workgroups"]
    counters["arguments"] = {"y": {"written": 800, "unique_written": 100}, "x": {"written": 0, "unique_written": 0}}
    shared = shipped().shared
    busy = min(counters["workgroups"], 304) / 304
    waiting = estimate([counters], resolve("mi300x")).parts["latency"] - plain.parts["latency"]
    assert waiting == pytest.approx(busy * shared.handoff + 8 * shared.turn)


def test_a_second_launch_costs_less_than_a_first(points: dict[str, fitting.Point]) -> None:
    counters = counted(points["mi355x"])
    once, twice = (estimate([counters] * n, resolve("mi355x")) for n in (1, 2))
    launch = shipped().chips["mi355x"].launch
    assert twice.us == pytest.approx(2 * once.us - launch * (1 - shipped().shared.memset))


def test_two_kernels(points: dict[str, fitting.Point]) -> None:
    a = estimate([counted(points["mi300x"])], resolve("mi300x"))
    near, far = (dataclasses.replace(a, us=a.us * factor) for factor in (1.1, 1.3))
    assert faster(a, far) == "A" and faster(far, a) == "B" and faster(a, near) == CANNOT_TELL
    assert faster(a, dataclasses.replace(far, apart=a.apart**2)) == CANNOT_TELL


def test_times_under_the_floor(points: dict[str, fitting.Point]) -> None:
    point = points["mi300x"]
    counters, chip = counted(point), resolve("mi300x")
    by_bytes = point.bytes / 5.3e6
    rounds = -(-int(point.workgroups) // 304)
    by_matrix = rounds * (int(4 * point.counters["mfma"]) / 4) / 2100
    floor, of = floor_us([counters], chip)
    assert floor == pytest.approx(max(by_bytes, by_matrix)) and of == ("matrix" if by_matrix > by_bytes else "bytes")
    assert impossible([counters], chip, floor * 1.001) == ""
    wrong = impossible([counters], chip, floor * 0.99)
    assert "cannot be" in wrong and "on mi300x" in wrong and of in wrong
    # Workgroups that differ are spread evenly: less is known of the fullest CU.
    counters["matrix_cycles"] += 1
    assert floor_us([counters], chip)[0] <= floor
    # No clock of the MI308X is published: the highest of its architecture's.
    assert floor_us([counted(points["mi308x"])], resolve("mi308x"))[0] > 0


@pytest.mark.emulated
@pytest.mark.compile
def test_the_command_line(both: Both, cache_dir: Path, tmp_path: Path, emulator_library: str) -> None:
    emulator.use_library(emulator_library)
    words = ("wvSplitK", "n=4", "m=64", "k=512", "--target", "mi308x")
    unknown = both("explain", *words, "--estimate")
    assert "not known" in unknown[0] and "aiterlite emulate wvSplitK n=4" in unknown[0]
    assert unknown[1]["estimates"] == [None]
    text, data, code = both("emulate", *words, "--estimate", "--published", "1e-3")
    run = data["runs"][0]
    assert code == 0 and LABEL in text and "IMPOSSIBLE 0.001 us cannot be" in text
    assert run["estimate"]["kind"] == "extrapolated" and run["estimate"]["published"]["impossible"]
    assert "matrix-unit cycles" not in text  # that is --counters
    known, told, _ = both("explain", *words, "--estimate")
    assert LABEL in known and told["estimates"][0]["us"] == run["estimate"]["us"]
    file = tmp_path / "other.json"
    file.write_text(json.dumps(data))
    text, data, _ = both("emulate", *words, "--estimate", "--published", "1000", "--against", str(file))
    assert f"{CANNOT_TELL}; {LABEL}" in text and "1000 us is possible" in text
    assert data["runs"][0]["estimate"]["against"]["faster"] == CANNOT_TELL


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--published", "3"), "--published is for --estimate"),
        (("--against", "x.json"), "--against is for --estimate"),
        (("--estimate", "--published", "-1"), "allowed: microseconds above 0"),
        (("--only", "-1"), "--only is -1; allowed: a number of workgroups"),
    ],
)
def test_wrong_words(options: tuple[str, ...], says: str) -> None:
    from aiterlite.cli import estimates
    from aiterlite.cli.command import Parser

    parser = Parser(prog="test")
    estimates.add_options(parser)
    with pytest.raises(UsageError, match=says):
        estimates.check(parser.parse_args(options))
