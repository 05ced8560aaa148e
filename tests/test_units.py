"""Every unit that this package makes is data: it survives a manifest, a bundle and a command line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import publish_fake, toy_unit

from aiterlite import target
from aiterlite.cli import main, plan
from aiterlite.cli.words import read as read_words
from aiterlite.emulator import library
from aiterlite.errors import SourceError
from aiterlite.jit import bundle, engine, record, spec
from aiterlite.jit.sources import SourceTree, package_tree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Store, open_store
from aiterlite.kernel import launch_unit
from aiterlite.tables import TABLES, asm_kernels


def again(unit: Unit) -> Unit:
    return Unit.from_json(json.loads(json.dumps(unit.to_json())))


def of_the_tables() -> Iterator[Unit]:
    """Everything that dispatch chooses, over all personas, and all variants of the assembly manifest."""
    personas = [target.resolve(name) for name in target.names()]
    words = read_words(["m:k=256:7168,2112:7168,64:515", "n=1,4,16,48", "dtype=bf16,fp16"])
    yield from plan.from_problems(list(TABLES), personas, words).units
    for kernel in asm_kernels():
        for name in kernel.targets:
            yield from (kernel.device_unit(variant, name) for variant in kernel.variants(name))


def test_units_of_the_tables_survive() -> None:
    units = set(of_the_tables())
    assert len(units) > 50 and {unit.kind for unit in units} == {"host", "amd", "cuda"}
    assert any(unit.arguments for unit in units)
    assert [unit for unit in units if again(unit) != unit] == []


@pytest.mark.parametrize("level", ["", *(name for name in target.names() if name.startswith("cpu-"))])
def test_the_emulator_and_the_overlapped_launch_survive(level: str) -> None:
    for unit in (library.unit(level), launch_unit()):
        assert again(unit) == unit


@pytest.mark.torch
@pytest.mark.parametrize("chip", ["h100", "mi300x"])
def test_units_of_the_benchmark_survive(monkeypatch: pytest.MonkeyPatch, chip: str) -> None:
    torch = pytest.importorskip("torch")
    from aiterlite.benchmark import floor

    class MadeError(Exception):
        """Carries a unit out of the function that would load it."""

    def made(decision: Any, *_: Any) -> None:
        raise MadeError(decision.kernels[0].unit)

    monkeypatch.setattr(floor.launches, "prepare", made)
    monkeypatch.setattr(floor, "persona_for", lambda *_: target.resolve(chip))
    weights = [torch.zeros(8, 8, dtype=torch.bfloat16)]
    makers = [lambda: floor._cpu_floor(weights)]
    makers += [lambda overlapped=on: floor._gpu_reader(weights, 16, 4, 1, overlapped) for on in (False, True)]
    for make in makers:
        with pytest.raises(MadeError) as caught:
            make()
        assert again(caught.value.args[0]) == caught.value.args[0]


identifiers = st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,12}", fullmatch=True)
generated = st.builds(
    Unit,
    name=st.from_regex(r"[a-z0-9_]{1,9}(/[a-z0-9_]{1,9})?", fullmatch=True),
    sources=st.lists(st.from_regex(r"(csrc|asm)(/[A-Za-z0-9_]{1,5}){1,3}\.(cpp|hip|S)", fullmatch=True), min_size=1)
    .map(tuple),
    target=st.sampled_from(target.names()).map(lambda name: target.resolve(name).target),
    defines=st.dictionaries(identifiers, st.from_regex(r"[A-Za-z0-9_.+-]{0,9}", fullmatch=True))
    .map(lambda pairs: tuple(pairs.items())),
    flags=st.lists(st.sampled_from(sorted(spec.FLAGS))).map(tuple),
    symbols=st.lists(identifiers).map(tuple),
    arguments=st.sampled_from(["", "aiterlite/args.h:one", "aiterlite/deep/other_args.h:two_3"]),
)  # fmt: skip


@given(generated)
def test_any_unit_that_may_be_survives(unit: Unit) -> None:
    assert again(unit) == unit
    assert spec.refusal(unit) == ""


def test_a_unit_that_would_not_survive_is_refused_before_it_is_compiled(
    toy_store: Store, source_tree: SourceTree
) -> None:
    """Found by whoever writes the unit, and not by whoever exports it."""
    unit = Unit("toy/toy", ("csrc/toy/toy.hip",), "gfx942", flags=("-fno-such-flag",), symbols=("toy",))
    with pytest.raises(SourceError, match=r"'-fno-such-flag' is no flag that a unit may have.*jit/spec\.py"):
        engine.obtain(unit, tree=source_tree, store=toy_store)


# What reads a unit back -----------------------------------------------------------------------------------------------


@pytest.fixture
def built(cache_dir: Path) -> Unit:
    """The emulator's unit in the cache, as if a compiler had made it."""
    unit = library.unit()
    publish_fake(open_store(), unit, package_tree(), headers=())
    return unit


def test_once_the_emulator_is_built_every_command_goes_on(
    built: Unit, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "kernels.tar")
    manifest = tmp_path / "kernels.json"
    with record.recording(manifest):
        record.note_unit(built)
        record.note_unit(toy_unit("gfx942"))
    printed = engine.prebuild_command(built)
    assert "--unit" in printed
    for argv in (
        ["export", path],
        ["export", "--check", path],
        ["import", path],
        ["verify"],
        ["explain", "build", "emulator"],
        ["build", "--check", "--unit", json.dumps(built.to_json())],
        ["status"],
    ):
        assert main(argv) == 0, (argv, capsys.readouterr())
    assert {leaf.unit for leaf in bundle.verify(Path(path))} == {built}
    assert built in record.read(manifest).units.values()
