"""The demonstration with made-up figures for what may go wrong (test_models_deepseek.py runs it), and what an installed
package must do."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from support import child  # noqa: E402

from aiterlite import demo, envs, target  # noqa: E402
from aiterlite.cli import demo as command  # noqa: E402
from aiterlite.cli import main  # noqa: E402
from aiterlite.errors import BuildError, ToolchainNotFoundError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.jit.spec import HOST, Unit  # noqa: E402
from aiterlite.models import deepseek  # noqa: E402

SAME = {"agreement": 1.0, "mean_difference": 0.003, "largest_difference": 0.02}
RATES = {"aiterlite": 120.0, "torch": 30.0}
Simulate = Callable[..., dict[str, Any]]


@pytest.mark.installed
@pytest.mark.compile
@pytest.mark.emulated
@pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
def test_what_is_installed_compiles_and_runs(emulator_library: str, cache_dir: Path) -> None:
    code = """
from aiterlite import envs
from aiterlite.emulator import use_library
from aiterlite.ops.samples import sample
from aiterlite.tables import TABLES
from aiterlite.tables.problems import problem
use_library(sys.argv[1])
made = sample("wvSplitK", problem(TABLES["wvSplitK"], {"n": 4, "m": 64, "k": 512}), 1)
result = [made.of_bound(made.run())]
with envs.override(AITERLITE_TARGET="gfx942"):
    result.append(made.of_bound(made.run()))
"""
    # In a process that has loaded nothing yet.
    assert max(child(code, emulator_library, AITERLITE_CACHE_DIR=str(cache_dir))["result"]) <= 1
    assert len(list(cache_dir.rglob("meta.json"))) == 3  # one kernel each, and what launches the second


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Simulate:
    """Runs the demonstration without compilers and without a model: `fails` maps units to the error of their build,
    `apart` is how far both models are apart, `emulated` how far the emulated step is."""

    def run(
        apart: dict[str, float] = SAME,
        emulated: dict[str, float] = SAME,
        fails: Callable[[Unit], Exception | None] = lambda unit: None,
        targets: tuple[str, ...] = ("gfx942",),
    ) -> dict[str, Any]:
        def obtain(unit: Unit, **_: Any) -> Any:
            error = fails(unit)
            if error is not None:
                raise error
            return engine.Artifact(unit, None, b"", built=unit.kind == HOST)  # type: ignore[arg-type]

        made = {"tokens": [[5, 6, 7]], "prompt_rates": RATES, "rates": RATES, "speedup": 4.0, "distance": apart}
        steps = [{"target": name, "seconds": 1.0, "distance": emulated} for name in targets]
        monkeypatch.setattr(engine, "obtain", obtain)
        monkeypatch.setattr(deepseek, "random_weights", lambda config: {})
        monkeypatch.setattr(demo, "generate", lambda *_: made)
        monkeypatch.setattr(demo, "emulated", lambda *_: steps)
        return demo.run(targets)

    return run


def test_it_tells_what_was_built_and_how_fast_both_are(simulate: Simulate) -> None:
    data = simulate()
    assert data["ok"] and data["errors"] == []
    units = {item["unit"].split("[")[0]: item for item in data["units"]}
    host = target.host_persona().target
    assert units["mla"]["target"] == host and units["mla"]["seconds"] >= 0
    assert units["mla"]["serves"] == ["cpu: mla_decode_fwd by cpu"]
    # Made as found in the cache here.
    assert units["fused_moe/few_tokens"]["target"] == "gfx942" and units["fused_moe/few_tokens"]["seconds"] is None
    assert units["emulator"]["target"] == host
    text = command.render(data)
    assert "mla_decode_fwd by decode_asm_bf16" in text and "generates 4.0 times as fast" in text
    assert "one step as gfx942 machine code: 100% " in text
    assert {item["target"] for item in simulate(targets=())["units"]} == {host}


@pytest.mark.parametrize(
    "changed", [{"agreement": 0.97}, {"mean_difference": 0.03}, {"mean_difference": math.nan}, {"agreement": math.nan}]
)
def test_what_rounding_does_not_explain_fails(
    simulate: Simulate,
    changed: dict[str, float],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = simulate(emulated={**SAME, **changed})
    assert not data["ok"] and ["gfx942" in error for error in data["errors"]] == [True]
    data = simulate({**SAME, **changed})
    assert not data["ok"] and ["plain torch" in error for error in data["errors"]] == [True]
    monkeypatch.setattr(demo, "run", lambda *_: data)
    assert main(["demo"]) == 1
    assert "FAILED: against plain torch" in capsys.readouterr().out


def test_a_build_that_fails_is_shown_and_the_others_go_on(simulate: Simulate) -> None:
    built: list[str] = []

    def fails(unit: Unit) -> Exception | None:
        built.append(unit.name)
        return BuildError(unit.label, "x.cpp:1: error: no", "a hint") if unit.name == "mla" else None

    data = simulate(fails=fails)
    assert not data["ok"] and len(data["errors"]) == 1 and "rates" not in data
    assert "mla for cpu" in data["errors"][0] and "x.cpp:1: error: no; a hint" in data["errors"][0]
    assert len(built) == len(data["units"])
    assert f"FAILED: {data['errors'][0]}" in command.render(data)


def test_a_missing_compiler_is_told_once_with_how_to_get_it(simulate: Simulate) -> None:
    message = f"no compiler for amd units: {toolchain.how_to_get('amd')}"
    data = simulate(fails=lambda unit: ToolchainNotFoundError(message) if unit.kind == "amd" else None)
    assert not data["ok"] and data["errors"] == [message]


def test_settings_of_a_server_do_not_reach_it(simulate: Simulate, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("TARGET", "mi300x"), ("JIT", "off"), ("STRICT", "1")):
        monkeypatch.setenv(f"AITERLITE_{name}", value)
    envs.reload()
    assert simulate(targets=())["persona"] == str(target.host_persona())


def test_only_amd_code_is_emulated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["demo", "--json", "--target", "h100"]) == 2
    assert "gfx942 and gfx950" in json.loads(capsys.readouterr().out)["error"]["message"]
