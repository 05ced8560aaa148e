"""Measured crossovers of the fused mixture of experts: which row a point names, the file, and `bench --tune`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_cli import Both

from aiterlite import dispatch
from aiterlite.cli import main
from aiterlite.tables import fused_moe as tables
from aiterlite.tables import fused_moe_crossover as crossover
from aiterlite.tables.fused_moe_crossover import BUCKETS, Layer, MoeCrossover, Point
from aiterlite.tables.fused_moe_problem import QUANTS, MoeProblem
from aiterlite.target import resolve

R1 = Layer(256, 8, 7168, 256)
TABLE = MoeCrossover(
    "sm_90a",
    "h200",
    132,
    "by hand",
    (
        Point(R1, 256, "sums"),
        Point(R1, 1024, "join"),
        Point(R1._replace(quant="token"), 1024, "slots"),
        Point(Layer(300, 8, 7168, 256), 1024, "slots"),
    ),
)


@pytest.mark.parametrize(
    ("bucket", "layer", "row"),
    [
        (256, R1, "sums"),
        (512, R1, ""),
        (1024, R1, "join"),
        (1024, R1._replace(quant="token"), "slots"),
        (1024, R1._replace(quant="none"), ""),
        (1024, R1._replace(experts=270), "join"),
        (1024, R1._replace(experts=290), "slots"),
        (1024, R1._replace(experts=375), "slots"),
        (1024, R1._replace(experts=376), ""),
        (1024, R1._replace(experts=204), ""),
        (1024, R1._replace(topk=10, inter=320), "join"),
        (1024, R1._replace(inter=384), ""),
    ],
)
def test_the_nearest_layer_of_the_bucket_decides(bucket: int, layer: Layer, row: str) -> None:
    assert crossover.decide(TABLE, bucket, layer) == row


def test_tokens_belong_to_the_smallest_bucket_that_holds_them() -> None:
    found = [crossover.bucket_of(tokens) for tokens in (1, 2, 3, 16, 17, 513, 1024, 1025, 4096, 4097)]
    assert found == [1, 2, 4, 16, 32, 1024, 1024, 2048, 4096, None]


def test_a_chip_takes_the_table_of_its_size() -> None:
    made = [replace(TABLE, chip=chip, compute_units=units) for chip, units in (("a", 80), ("b", 132), ("c", 132))]
    for chip, units, expected in (("a", 80, "a"), ("c", 132, "c"), ("b", 66, "a"), ("d", 114, "b")):
        found = crossover.choose(made, "sm_90a", chip, units)
        assert found is not None and found.chip == expected
    assert crossover.choose(made, "gfx942", "a", 80) is None


def test_points_go_before_the_rows_own_order(monkeypatch: pytest.MonkeyPatch) -> None:
    persona, problem = resolve("h200"), MoeProblem(256, 256, global_experts=256)

    def decided(named: str, **fields: Any) -> dispatch.Decision:
        points = (Point(R1, 256, named),) if named else ()
        monkeypatch.setattr(crossover, "shipped", lambda: (replace(TABLE, points=points),))
        crossover._fastest.cache_clear()
        return dispatch.decide(tables.TABLE, replace(problem, **fields), persona)

    for row in ("sums", "join", "kept", "slots"):
        decision = decided(row)
        assert decision.row is not None and decision.row.name == row
        assert sum(crossover.WHY in str(rejected) for rejected in decision.rejected) == 3
    untold = decided("")
    assert untold.row is not None and untold.row.name == "sums"
    assert not any(crossover.WHY in str(rejected) for rejected in untold.rejected)
    # A point names a row that does not serve, or says nothing of calls with a mask.
    for decision in (decided("gemv"), decided("slots", masked=True), decided("slots", tokens=257)):
        assert decision.row is not None and decision.row.name == "sums"
    crossover._fastest.cache_clear()


# The file -------------------------------------------------------------------------------------------------------------

layers = st.builds(Layer, *[st.integers(1, 10**6)] * 4, st.sampled_from(QUANTS))
made_tables = st.builds(
    lambda chip, units, how, found: MoeCrossover(
        "sm_90a", chip, units, how, tuple(sorted(Point(*key, row) for key, row in found.items()))
    ),
    st.text(max_size=5),
    st.integers(0, 400),
    st.text(max_size=5),
    st.dictionaries(st.tuples(layers, st.sampled_from(BUCKETS)), st.sampled_from(("sums", "join")), max_size=6),
)


@given(made=st.lists(made_tables, max_size=3))
def test_what_is_written_is_what_is_read(made: list[MoeCrossover], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("crossover") / "file.json"
    path.write_text(crossover.dump(made))
    assert crossover.load(path) == tuple(made)


def test_the_shipped_file_is_in_the_form_that_is_written_and_names_rows() -> None:
    assert crossover.dump(crossover.shipped()) == crossover.SHIPPED.read_text()
    names = {row.name for row in tables.TABLE.rows}
    assert {point.row for table in crossover.shipped() for point in table.points} <= names


def test_new_points_replace_those_of_the_same_chip_layer_and_bucket() -> None:
    other = replace(TABLE, chip="h100", compute_units=114)
    fresh = replace(TABLE, how="new", points=(Point(R1, 1024, "slots"), Point(R1, 2048, "slots")))
    merged = crossover.merged([TABLE, other], fresh)
    assert merged[1] == other and merged[0].how == "new"
    assert [crossover.decide(merged[0], bucket, R1) for bucket in (256, 1024, 2048)] == ["sums", "slots", "slots"]
    assert crossover.merged([other], fresh) == (other, fresh)


def _changed(**fields: Any) -> Callable[[Any], Any]:
    return lambda data: {**data, **fields}


@pytest.mark.parametrize(
    "change",
    [
        _changed(format=0),
        _changed(buckets=[1]),
        _changed(tables=[{"target": "sm_90a"}]),
        lambda data: {**data, "tables": [{**data["tables"][0], "layers": {"1,2,3,block": {"1": "sums"}}}]},
        lambda data: {**data, "tables": [{**data["tables"][0], "layers": {"1,2,3,4,block": {"3": "sums"}}}]},
        lambda data: {**data, "tables": [{**data["tables"][0], "layers": {"1,2,3,4,fp3": {"1": "sums"}}}]},
        lambda data: {**data, "tables": [{**data["tables"][0], "compute_units": "132"}]},
    ],
)
def test_another_file_is_refused(change: Callable[[Any], Any], tmp_path: Path) -> None:
    path = tmp_path / "file.json"
    path.write_text(json.dumps(change(json.loads(crossover.dump([TABLE])))))
    with pytest.raises(crossover.MoeCrossoverFormatError, match="no crossover file"):
        crossover.load(path)


# bench --tune ---------------------------------------------------------------------------------------------------------


@pytest.mark.torch
def test_tune_measures_here_and_writes_a_file_that_is_read(
    both: Both, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from aiterlite.benchmark import tune_moe

    monkeypatch.setattr(tune_moe, "copies_for", lambda device, size: 2)
    path = tmp_path / "crossover.json"
    path.write_text(crossover.dump([TABLE]))
    words = ("bench", "--tune", "--ops", "fused_moe", "--device", "cpu", "--samples", "2", "--tokens", "4,1")
    text, data, code = both(*words, "--layer", "4,2,128,128", "--write", str(path))
    kept, made = crossover.load(path)
    host = resolve("cpu")
    assert code == 0 and kept == replace(TABLE, points=tuple(sorted(TABLE.points)))
    assert (made.target, made.chip, made.compute_units) == (host.target, host.chip, 0)
    assert made.points == tuple(Point(Layer(4, 2, 128, 128), bucket, "cpu") for bucket in (1, 4))
    (table,) = data["tables"]
    assert [point["bucket"] for point in table["points"]] == [1, 4]
    assert all(list(point["microseconds"]) == ["cpu"] for point in table["points"])
    assert all(point["microseconds"]["cpu"] > 0 for point in table["points"])
    assert text.endswith(f"written: {path}") and text.count("\n") == 3 + len(made.points)


@pytest.mark.torch
def test_every_row_that_serves_is_a_contender() -> None:
    from aiterlite.benchmark import tune_moe

    for tokens, chip, expected in (
        (256, "h200", {"sums", "join", "kept", "slots"}),
        (1024, "h200", {"join", "kept", "slots"}),
        (4096, "h200", {"join", "slots"}),
        (4097, "h200", {"slots"}),
    ):
        problem = MoeProblem(tokens, 256, global_experts=256)
        found = tune_moe.decisions(problem, resolve(chip))
        assert set(found) == expected
        assert all(decision.row is not None and decision.row.name == name for name, decision in found.items())


@pytest.mark.torch
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--layer", "4,2,128,128"], "`--layer` is given without --tune"),
        (["--tune", "--layer", "4,2,128,128"], "`--layer` is given; allowed: with --ops fused_moe only"),
        (["--tune", "--ops", "fused_moe", "--shape", "8,8"], "`--shape` is given; allowed: not with --ops fused_moe"),
        (["--tune", "--ops", "fused_moe", "--layer", "4,2"], "'4,2' is not E,K,D,I"),
        (["--tune", "--ops", "fused_moe", "--tokens", "3"], "`--tokens` is 3; allowed: the buckets, 1, 2, 4"),
        (["--tune", "--ops", "fused_moe", "--target", "mi300x"], "`--target` is mi300x; allowed: nothing with --ops"),
        (["--tune", "--ops", "fused_moe", "--layer", "4,2,100,128"], "allowed: layers that a row serves"),
        (["--tune", "--ops", "fused_moe", "--write", "FILE"], "one that --tune --ops fused_moe wrote"),
    ],
)
def test_wrong_words(words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "FILE").write_text("{}")
    found = [str(tmp_path / "FILE") if word == "FILE" else word for word in words]
    assert main(["bench", "--device", "cpu", *found]) == 2
    assert said in capsys.readouterr().err
