"""The crossover table: its file, how a problem finds its point, and what `bench --tune` writes."""

from __future__ import annotations

import csv
import dataclasses
import functools
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiterlite.cli import main
from aiterlite.tables import gemm_crossover as crossover
from aiterlite.tables import gemm_plan, gemm_rc_plan
from aiterlite.tables.gemm_crossover import BUCKETS, CALIBRATED, ESTIMATED, MEASURED, PUBLISHED, CrossoverTable, Point
from aiterlite.target import resolve

Both = Callable[..., tuple[str, Any, int]]
POINTS = (
    Point(100, 100, 1, "torch"),
    Point(100, 400, 1, "wvSplitK"),
    Point(400, 100, 1, "wvSplitKrc"),
    Point(400, 400, 16, "wvSplitKrc"),
)
TIMES = Path(__file__).parent / "data" / "amd-library-times.csv"
TABLE = CrossoverTable("gfx942", "mi300x", 304, MEASURED, "a test", POINTS)


@pytest.mark.parametrize(
    ("bucket", "m", "k", "winner"),
    [
        (1, 100, 100, "torch"),
        (1, 10**6, 100, "wvSplitKrc"),
        (1, 1, 10**6, "wvSplitK"),
        # By ratio, not by difference: 230 is beyond the geometric mean of 100 and 400, and nearer to 100.
        (1, 230, 100, "wvSplitKrc"),
        (1, 199, 100, "torch"),
        # Ties: at the geometric means all three are equally near; the least m wins, then the least k.
        (1, 200, 100, "torch"),
        (1, 100, 200, "torch"),
        (1, 200, 200, "torch"),
        # The corner without a point is as near to two: the least m again.
        (1, 400, 400, "wvSplitK"),
        (16, 1, 1, "wvSplitKrc"),
    ],
)
def test_the_nearest_point_of_the_bucket_decides(bucket: int, m: int, k: int, winner: str) -> None:
    for points in (POINTS, POINTS[::-1]):
        verdict = crossover.decide(dataclasses.replace(TABLE, points=points), bucket, m, k)
        assert verdict is not None and verdict.winner == winner


def test_a_point_of_a_published_time_counts_for_its_own_shape_and_chip() -> None:
    table = dataclasses.replace(TABLE, points=(*POINTS, Point(200, 300, 1, "torch", PUBLISHED)))
    told = crossover.decide(table, 1, 200, 300)
    assert told is not None and told.winner == "torch" and told.why.startswith("torch at the time that AMD published")
    for own, m in ((None, 201), (("mi300x", 152), 200), (("mi325x", 304), 200)):
        other = crossover.decide(table, 1, m, 300, own)
        assert other is not None and other.winner == "wvSplitK" and other.why.startswith("measured: ")
    assert crossover.decide(table, 1, 200, 300, ("mi300x", 304)) == told


def test_a_corrected_point_says_what_it_stands_on() -> None:
    told = crossover.decide(dataclasses.replace(TABLE, points=(Point(1, 1, 1, "wvSplitK", CALIBRATED),)), 1, 1, 1)
    assert told is not None and told.why.startswith("estimated from counters, calibrated on published times")


def test_a_bucket_without_points_decides_nothing() -> None:
    assert crossover.decide(TABLE, 2, 100, 100) is None


def test_tokens_belong_to_the_smallest_bucket_that_holds_them() -> None:
    found = [crossover.bucket_of(n) for n in (1, 2, 3, 5, 9, 16, 17, 33, 65, 128, 129)]
    assert found == [1, 2, 4, 8, 16, 16, 32, 64, 128, 128, None]


def test_of_equal_times_the_first_contender_wins() -> None:
    assert crossover.fastest({"torch": 1.0, "wvSplitKrc": 1.0, "wvSplitK": 1.0}) == "wvSplitK"
    assert crossover.fastest({"torch": 1.0, "wvSplitKrc": 1.0}) == "wvSplitKrc"
    assert crossover.fastest({"torch": 0.9, "wvSplitKrc": 1.0, "wvSplitK": 1.0}) == "torch"


def test_a_chip_takes_the_table_of_its_size() -> None:
    tables = [
        CrossoverTable(target, chip, units, MEASURED, "", ())
        for target, chip, units in (
            ("gfx942", "mi308x", 80),
            ("gfx942", "mi300x", 304),
            ("gfx942", "mi325x", 304),
            ("sm_90a", "h200", 132),
            ("cpu-x86-64-v4", "cpu-x86-64-v4", 0),
        )
    ]
    for target, chip, units, expected in (
        ("gfx942", "mi300x", 304, "mi300x"),
        ("gfx942", "mi325x", 304, "mi325x"),
        ("gfx942", "mi300a", 228, "mi300x"),
        ("gfx942", "mi300x", 76, "mi308x"),
        ("gfx942", "mi300x", 152, "mi308x"),
        ("gfx942", "mi300x", 160, "mi300x"),
        ("sm_90a", "h100", 114, "h200"),
        ("cpu-x86-64-v4", "cpu-x86-64-v4", 0, "cpu-x86-64-v4"),
    ):
        table = crossover.choose(tables, target, chip, units)
        assert table is not None and table.chip == expected, (chip, units)
    assert crossover.choose(tables, "gfx950", "mi355x", 256) is None


# The file -------------------------------------------------------------------------------------------------------------

points = st.dictionaries(
    st.tuples(st.integers(1, 10**6), st.integers(1, 10**6), st.sampled_from(BUCKETS)),
    st.sampled_from(
        [
            *((name, "") for name in crossover.CONTENDERS.values()),
            *((name, CALIBRATED) for name in ("wvSplitK", "wvSplitKrc")),
            ("torch", PUBLISHED),
        ]
    ),
    max_size=8,
)
tables = st.builds(
    lambda chip, units, source, how, found: CrossoverTable(
        "gfx942", chip, units, source, how, tuple(Point(*key, *found[key]) for key in sorted(found))
    ),
    st.text(max_size=5),
    st.integers(0, 400),
    st.sampled_from([MEASURED, ESTIMATED]),
    st.text(max_size=5),
    points,
)


@given(made=st.lists(tables, max_size=3))
def test_what_is_written_is_what_is_read(made: list[CrossoverTable], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.getbasetemp() / "crossover.json"
    path.write_text(crossover.dump(made))
    assert crossover.load(path) == tuple(made)


def test_the_shipped_file_is_in_the_form_that_is_written() -> None:
    assert crossover.dump(crossover.shipped()) == crossover.SHIPPED.read_text()


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.update(format=1),
        lambda data: data.update(buckets=[1, 2]),
        lambda data: data["tables"][0].pop("how"),
        lambda data: data["tables"][0].update(source="guessed"),
        lambda data: data["tables"][0].update(compute_units="304"),
        lambda data: data["tables"][0]["points"].update({"1,2": "KK"}),
        lambda data: data["tables"][0]["points"].update({"1,2": "KKKKKKKX"}),
        lambda data: data["tables"][0]["points"].update({"0,2": "KKKKKKKK"}),
        lambda data: data["tables"][0]["points"].update({"1": "KKKKKKKK"}),
        lambda data: data.pop("tables"),
    ],
)
def test_another_file_is_refused(change: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "crossover.json"
    data = json.loads(crossover.dump([TABLE]))
    change(data)
    path.write_text(json.dumps(data))
    with pytest.raises(crossover.CrossoverFormatError, match="crossover.json is no crossover file"):
        crossover.load(path)


def test_every_shipped_winner_takes_the_tokens_of_its_bucket_and_says_how_it_is_known() -> None:
    found = {(table.target, table.source) for table in crossover.shipped()}
    assert found == {("sm_90a", MEASURED), ("gfx942", ESTIMATED), ("gfx950", ESTIMATED)}
    for table in crossover.shipped():
        assert table.how and resolve(table.chip).target == table.target
        assert resolve(table.chip).cu_count == table.compute_units
        assert {point.bucket for point in table.points} == set(BUCKETS)
        assert all(point.winner != "wvSplitK" or point.bucket <= 16 for point in table.points)
        # The cost models and the estimates know nothing of torch.
        said = {point.ground for point in table.points if point.winner == "torch"}
        assert table.source == MEASURED or said <= {PUBLISHED}


def test_estimated_points_are_what_the_cost_models_say() -> None:
    """Points of the shipped tables against the plans of today; after a change of these, run bench --tune again."""
    for table in crossover.shipped():
        if table.source == ESTIMATED:
            for point in [point for point in table.points if not point.ground][::37]:
                where = (point.m, point.k, table.compute_units)
                rc = gemm_rc_plan.estimated_time(table.target, point.bucket, *where, "deterministic")
                times = {"wvSplitKrc": rc}
                if point.bucket <= 16:
                    times["wvSplitK"] = gemm_plan.estimated_time(table.target, point.bucket, *where)
                assert point.winner == crossover.fastest(times), point


def test_torch_serves_where_its_time_is_published_and_below_ours() -> None:
    """Each point of torch on an AMD chip stands on a time in the file of published ones, at its own shape."""
    rows = [line for line in TIMES.read_text().splitlines() if not line.startswith("#")]
    published = {tuple(row[name] for name in ("chip", "m", "k")) for row in csv.DictReader(rows)}
    told = [(table, point) for table in crossover.shipped() for point in table.points if point.ground == PUBLISHED]
    assert told
    for table, point in told:
        assert point.winner == "torch" and (table.chip, str(point.m), str(point.k)) in published
        persona = resolve(table.chip)
        own = crossover.verdict(persona, point.bucket, point.m, point.k)
        assert own is not None and own.winner == "torch" and "that AMD published" in own.why
        other = crossover.verdict(persona, point.bucket, point.m + 16, point.k)
        assert other is not None and other.winner != "torch"
        part = crossover.verdict(persona.with_compute_units(persona.cu_count // 2), point.bucket, point.m, point.k)
        assert part is not None and part.winner != "torch"


@pytest.mark.torch
@pytest.mark.emulated
@pytest.mark.compile
def test_corrected_points_are_what_estimates_say_today(emulator_library: str) -> None:
    """Two of them: after a change of kernels, plans or calibration, run benchmarks/estimate_linear.py again."""
    import torch

    from aiterlite import emulator, envs
    from aiterlite.emulator.estimate import estimate, faster
    from aiterlite.ops import gemm, gemm_rc

    emulator.use_library(emulator_library)
    tables = {table.chip: {point[:3]: point for point in table.points} for table in crossover.shipped()}
    for chip, key, answer in (("mi308x", (64, 12288, 16), "wvSplitKrc"), ("mi308x", (64, 2048, 1), "wvSplitK")):
        point = tables[chip][key]
        assert (point.winner, point.ground) == (answer, CALIBRATED)
        x, w = (torch.zeros(rows, key[1], dtype=torch.bfloat16) for rows in (key[2], key[0]))
        held = []
        with envs.override(AITERLITE_TARGET=chip):
            for call in (gemm.wvSplitK, functools.partial(gemm_rc.wvSplitKrc, reduction="deterministic")):
                with emulator.watching(sanitize=False, counters=True) as seen:
                    call(x, w)
                held.append(estimate(seen.counters, resolve(chip)))
        assert faster(*held) == ("A" if answer == "wvSplitK" else "B")


def test_a_verdict_is_quick() -> None:
    persona = resolve("mi300x")
    crossover.verdict(persona, 1, 1, 1)
    started = time.perf_counter()
    for m in range(1, 101):
        crossover.verdict(persona, 1, m, m)
    assert time.perf_counter() - started < 0.5


# bench --tune ---------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_tune_measures_here_and_writes_a_file_that_is_read(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiterlite.benchmark import tune

    # Weights as small as these would be copied ten thousand times to leave the cache.
    monkeypatch.setattr(tune, "copies_for", lambda device, size: 2)
    path = tmp_path / "crossover.json"
    path.write_text(crossover.dump([TABLE]))
    words = ("bench", "--tune", "--ops", "linear", "--device", "cpu", "--samples", "2", "--tokens", "32,4")
    text, data, code = both(*words, "--shape", "24,64", "--shape", "40,128", "--write", str(path))
    kept, made = crossover.load(path)
    host = resolve("cpu")
    assert code == 0 and kept == TABLE
    assert (made.target, made.chip, made.compute_units, made.source) == (host.target, host.chip, 0, MEASURED)
    assert [(p.m, p.k, p.bucket) for p in made.points] == [(24, 64, 4), (24, 64, 32), (40, 128, 4), (40, 128, 32)]
    (table,) = data["tables"]
    for point, told in zip(made.points, table["points"], strict=True):
        times = told["microseconds"]
        assert set(times) == {"wvSplitKrc", "torch"} | ({"wvSplitK"} if point.bucket == 4 else set())
        assert told["winner"] == point.winner == min(times, key=times.__getitem__) and min(times.values()) > 0
    assert text.endswith(f"written: {path}") and text.count("\n") == 3 + len(made.points)
    assert crossover.choose([kept, made], host.target, host.chip, 0) == made


@pytest.mark.torch
def test_tune_estimates_for_chips_that_are_not_here(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The very file that is shipped: an AMD table that was something else is made again in its place."""
    path = tmp_path / "crossover.json"
    words = ["bench", "--tune", "--target", "mi355x", "--write", str(path)]
    whole = crossover.shipped()
    corrected = {t.chip: tuple(point for point in t.points if point.ground) for t in whole}
    assert corrected["mi355x"] and corrected["mi308x"]
    path.write_text(
        crossover.dump([dataclasses.replace(t, points=corrected[t.chip]) if t.chip == "mi355x" else t for t in whole])
    )
    assert main(words) == 0
    assert "estimated from the cost model, not measured" in capsys.readouterr().out
    assert path.read_text() == crossover.SHIPPED.read_text()
    assert main([*words, "--shape", "8,8"]) == 0
    found = {table.chip: len(table.points) for table in crossover.load(path)}
    assert found["mi355x"] == len(BUCKETS) + len(corrected["mi355x"]) and found["mi308x"] > len(BUCKETS)


@pytest.mark.torch
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--write", "FILE"], "`--write` is given without --tune"),
        (["--ops", "linear"], "`--ops` is given without --tune"),
        (["--tune", "--ops", "wvSplitK"], "invalid choice: 'wvSplitK'"),
        (["--tune", "--tokens", "1,3"], "`--tokens` is 3; allowed: the buckets, 1, 2, 4"),
        (["--tune", "--target", "h100"], "`--target` is h100; allowed: AMD chips"),
        (["--tune", "--write", "FILE"], "FILE; allowed: a file that does not exist yet, or one that --tune wrote"),
    ],
)
def test_wrong_words(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "FILE").write_text("{}")
    found = [str(tmp_path / "FILE") if word == "FILE" else word for word in words]
    assert main(["bench", "--device", "cpu", *found]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.torch
def test_an_emulated_chip_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AITERLITE_TARGET", "gfx942")
    assert main(["bench", "--tune", "--device", "cpu", "--shape", "8,8"]) == 2
    assert "`--device` is cpu, emulating mi300x; allowed: a device that can be timed" in capsys.readouterr().err
