"""The demonstration: once for real, and with made-up figures for what may go wrong."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from aiterlite import demo, envs, target
from aiterlite.cli import demo as command
from aiterlite.cli import main
from aiterlite.errors import BuildError, ToolchainNotFoundError
from aiterlite.jit import engine, toolchain
from aiterlite.jit.spec import AMD, HOST, Unit

PROBLEMS = [(m, n) for m in (256, 2112) for n in (1, 4, 16)]


def cells(text: str) -> list[list[str]]:
    """The rows of the table, header first, however it is drawn."""
    pytest.importorskip("rich")
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]


@pytest.mark.installed
@pytest.mark.compile
@pytest.mark.torch
@pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
def test_the_demonstration(
    emulator_library: str,
    cache_dir: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    # Nothing of the caller's settings reaches it, and nothing of it but the emulator the caller's cache.
    monkeypatch.setattr(demo, "_emulator_path", lambda errors: emulator_library)
    monkeypatch.setenv("AITERLITE_TARGET", "mi300x")
    monkeypatch.setenv("AITERLITE_JIT", "off")
    monkeypatch.setenv("AITERLITE_CACHE_LAYERS", str(tmp_path / "none"))
    monkeypatch.setenv("AITERLITE_RECORD", str(tmp_path / "record.json"))
    monkeypatch.setenv("AITERLITE_STRICT", "1")
    envs.reload()
    assert main(["demo", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["ok"] and data["errors"] == []
    assert not cache_dir.exists() and not (tmp_path / "record.json").exists()
    host = target.host_persona().target
    rows = data["rows"]
    assert [(row["target"], row["m"], row["n"]) for row in rows] == [
        *((host, m, n) for m, n in PROBLEMS),
        *(("gfx942", m, n) for m, n in PROBLEMS),
    ]
    for row in rows:
        assert row["k"] == 7168 and row["cold_s"] > row["warm_s"] > 0
        # A bfloat16 result of size 1 is never exact, and by its rounding alone uses some of the bound.
        assert 0 < row["error"] < 0.1 and 0.01 < row["of_bound"] <= 1
        if row["target"] == host:
            assert row["state"] == "ran" and row["run_s"] > 0
        else:
            assert row["state"] == "emulated" and row["run_s"] is None
    assert len({row["variant"] for row in rows if row["target"] == "gfx942"}) > 1
    assert [item["unit"] for item in data["shared"]] == [f"launch for {target.launch_target()}"]
    table = cells(command.render(data))
    shape = ["N", "M", "K"]
    assert table[0] == ["target", *shape, "variant", "cold", "warm", "run time", "error", "of bound"]
    assert len(table) == 1 + len(rows)
    for line, row in zip(table[1:], rows, strict=True):
        assert line[:5] == [row["target"], str(row["n"]), str(row["m"]), "7168", row["variant"]]
        assert line[5] == f"{row['cold_s']:.2f} s"
        assert line[7] == ("emulated" if row["run_s"] is None else f"{row['run_s'] * 1e6:.0f} us")


Simulate = Callable[..., dict[str, Any]]


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Runs the demonstration without compilers: `fails` maps units to the error of their build, `of_bound` is what
    the fresh process reports of every output."""

    def run(
        of_bound: float = 0.3,
        fails: Callable[[Unit], Exception | None] = lambda unit: None,
        emulator: str = "emulator.so",
    ) -> dict[str, Any]:
        def obtain(unit: Unit, **_: Any) -> None:
            error = fails(unit)
            if error is not None:
                raise error

        def fresh(cache: Path, units: list[Unit], emulator: str, errors: list[str]) -> dict[str, Any]:
            measured = {"run_s": 1e-3, "error": 1e-3, "of_bound": of_bound}
            ran = any(unit.kind == HOST and unit.target == target.host_persona().target for unit in units)
            runs = {demo._key(HOST, index): measured for index, _ in enumerate(PROBLEMS)} if ran else {}
            if emulator:
                runs |= {demo._key(AMD, index): measured | {"run_s": None} for index, _ in enumerate(PROBLEMS)}
            return {"loads": {unit.label: 1e-3 for unit in units}, "runs": runs}

        monkeypatch.setattr(engine, "obtain", obtain)
        monkeypatch.setattr(demo, "_emulator_path", lambda errors: emulator)
        monkeypatch.setattr(demo, "_fresh_process", fresh)
        return demo.run()

    return run


def test_within_the_bound_it_ends_well(simulate: Simulate) -> None:
    data = simulate(1.0)
    assert data["ok"] and {row["state"] for row in data["rows"]} == {"ran", "emulated"}
    data = simulate(1.0, emulator="")
    assert {row["state"] for row in data["rows"]} == {"ran", "compiled"}


@pytest.mark.parametrize("of_bound", [1.01, math.inf, math.nan])
def test_an_error_beyond_the_bound_fails(
    simulate: Simulate, of_bound: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = simulate(of_bound)
    assert not data["ok"] and len(data["errors"]) == 2 * len(PROBLEMS)
    monkeypatch.setattr(demo, "run", lambda: data)
    assert main(["demo"]) == 1
    assert "FAILED: " in capsys.readouterr().out


def test_a_build_that_fails_is_shown_and_the_others_go_on(simulate: Simulate) -> None:
    def fails(unit: Unit) -> Exception | None:
        return BuildError(unit.label, "x.cpp:1: error: no", "a hint") if unit.kind == HOST else None

    data = simulate(fails=fails)
    assert not data["ok"]
    states = {(row["target"] == "gfx942", row["state"]) for row in data["rows"]}
    assert states == {(True, "emulated"), (False, "failed")}
    assert "x.cpp:1: error: no; a hint; `aiterlite build --target" in data["errors"][0]
    text = command.render(data)
    assert all(f"FAILED: {error}" in text for error in data["errors"])
    assert [line[7] for line in cells(text)[1:]] == ["failed"] * 6 + ["emulated"] * 6


def test_a_missing_compiler_is_told_with_how_to_get_it(simulate: Simulate) -> None:
    message = f"no compiler for amd units: {toolchain.how_to_get('amd')}"
    data = simulate(fails=lambda unit: ToolchainNotFoundError(message) if unit.kind == "amd" else None)
    assert not data["ok"] and set(data["errors"]) == {message}
    assert command.render(data).count("pip install aiterlite[amdgpu]") == 1


@pytest.mark.torch
def test_a_process_that_dies_is_told(tmp_path: Path) -> None:
    errors: list[str] = []
    unit = Unit("gemm", ("csrc/gemm/gemm.cpp",), target.launch_target())
    assert demo._fresh_process(tmp_path / "cache", [unit], "", errors) == {}
    assert len(errors) == 1 and "MissingArtifactError" in errors[0]
