"""AITERLITE_LOG_CALLS and `aiterlite replay`: what a process called, before it died, and the same once more."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite import envs, norm  # noqa: E402
from aiterlite.cli import main  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops import call_file  # noqa: E402

ROWS, WIDTH = 3, 96


def operands(seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)

    def rows() -> Any:
        whole = torch.randn(ROWS, WIDTH + 8, generator=generator).to(torch.bfloat16)
        return whole[:, :WIDTH]

    return {
        "x": rows(),
        "residual": rows(),
        "weight": rows()[0].contiguous(),
        "out": torch.empty(ROWS, WIDTH).to(torch.bfloat16),
    }


def logged_norm(path: Path, keep: int = 1 << 20) -> dict[str, Any]:
    given = operands()
    with envs.override(AITERLITE_LOG_CALLS=str(path), AITERLITE_LOG_TENSORS=str(keep)):
        norm.rmsnorm2d_fwd_with_add(
            given["out"], given["x"], given["residual"], given["residual"], given["weight"], 1e-6
        )
    return given


def replayed(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[dict[str, Any], int]:
    code = main(["replay", "--json", *words])
    return json.loads(capsys.readouterr().out), code


def test_nothing_is_written_where_nobody_asked(tmp_path: Path) -> None:
    given = operands()
    norm.rms_norm(given["x"], given["weight"], 1e-6)
    assert not list(tmp_path.iterdir())


def test_a_line_says_what_was_called_and_what_serves_it(tmp_path: Path) -> None:
    logged_norm(tmp_path / "calls")
    (call,) = call_file.read(tmp_path / "calls")
    assert call.op == "rmsnorm2d_fwd_with_add" and not call.refused
    (decision,) = call.decisions
    assert decision.startswith("rmsnorm2d_fwd_with_add on cpu") and "aiterlite_norm_cpu_bf16 on the CPU" in decision
    tensors = [a for a in call.arguments if isinstance(a, dict) and "tensor" in a]
    assert [t["shape"] for t in tensors] == [[3, 96]] * 4 + [[96]]
    assert tensors[1]["stride"] == [104, 1] and tensors[0]["tensor"] == "bfloat16"
    # The residual is read and written: one storage.
    assert tensors[2]["storage"] == tensors[3]["storage"] != tensors[1]["storage"]
    assert 1e-6 in call.arguments and "AITERLITE_LOG_CALLS" in call.environment


def test_each_call_has_a_line_also_one_that_was_prepared_before(tmp_path: Path) -> None:
    given = operands()
    with envs.override(AITERLITE_LOG_CALLS=str(tmp_path / "calls")):
        for _ in range(3):
            norm.rms_norm(given["x"], given["weight"], 1e-6)
            aiterlite.linear(given["x"], given["x"], reduction="deterministic")
        with pytest.raises(ArgumentError):
            norm.rms_norm(given["x"], given["weight"][:5], 1e-6)
        aiterlite.linear(torch.randn(300, 64), torch.randn(8, 64))
    calls = call_file.read(tmp_path / "calls")
    assert [call.op for call in calls] == ["rmsnorm2d_fwd", "linear"] * 4
    assert [call.number for call in calls] == sorted(call.number for call in calls)
    assert [bool(call.refused) for call in calls] == [False] * 6 + [True, False] and "weight" in calls[6].refused
    assert calls[1].keywords == {"reduction": "deterministic"}, "a call need not bring it again"


def test_the_last_line_of_a_process_that_died_is_the_call_that_killed_it(tmp_path: Path) -> None:
    code = """
import os, torch
from aiterlite import norm
from aiterlite.ops import norm as ops
x, w = torch.randn(2, 64).bfloat16(), torch.ones(64).bfloat16()
norm.rms_norm(x, w, 1e-6)
prepare = ops.FORWARD.prepare
object.__setattr__(ops.FORWARD, "prepare", lambda *args: lambda *args: os._exit(9))
norm.rms_norm(x[:1], w, 1e-6)
"""
    environment = {**os.environ, "AITERLITE_LOG_CALLS": str(tmp_path / "calls")}
    assert subprocess.run([sys.executable, "-c", code], env=environment).returncode == 9
    calls = call_file.read(tmp_path / "calls")
    assert [call.arguments[0]["shape"] for call in calls] == [[2, 64], [1, 64]]


@pytest.mark.compile
@pytest.mark.parametrize("target", ["", "mi300x", "mi355x"])
def test_a_call_runs_again_and_is_held_against_the_cpu(
    target: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged_norm(tmp_path / "calls")
    data, code = replayed(capsys, str(tmp_path / "calls"), *(("--target", target) if target else ()))
    (call,) = data["calls"]
    assert code == 0 and call["right"] and call["made_up"] == 0 and not call["findings"]
    assert set(call["differences"]) == {"out", "residual_out"}
    if not target:
        assert all(difference["unlike"] == 0 for difference in call["differences"].values())


def test_operands_have_the_values_strides_and_shared_memory_that_they_had(tmp_path: Path) -> None:
    before = operands()
    logged_norm(tmp_path / "calls")
    (call,) = call_file.read(tmp_path / "calls")
    found = call_file.rebuild(call, tmp_path / "calls.tensors")
    out, x, residual, residual_out, weight, *_ = found.arguments
    assert torch.equal(x, before["x"]) and x.stride() == (104, 1) and torch.equal(weight, before["weight"])
    assert torch.equal(residual, before["residual"]), "as it was before the call"
    assert residual.data_ptr() == residual_out.data_ptr() and out.data_ptr() != x.data_ptr()
    for argument, tensor in zip(call.arguments, found.arguments, strict=True):
        if isinstance(argument, dict):
            storage = call.storages[argument["storage"]]
            at = argument["offset"] * 2 - storage["begin"] + storage["address"]
            assert tensor.data_ptr() % 256 == at % 256


def test_another_result_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    """The negative control: a replay whose kernel gives something else."""
    from aiterlite import replay

    logged_norm(tmp_path / "calls")
    run, seen = replay._run, []

    def wrong(op: str, given: Any) -> Any:
        found = dict(run(op, given))
        if not seen:
            found["out"] = found["out"] * 1.5
        seen.append(op)
        return found

    monkeypatch.setattr(replay, "_run", wrong)
    data, code = replayed(capsys, str(tmp_path / "calls"))
    assert code == 1 and data["calls"][0]["differences"]["out"]["relative"] == pytest.approx(0.5, rel=0.01)
    assert data["calls"][0]["differences"]["residual_out"]["unlike"] == 0


def test_an_infinity_and_a_nan_are_not_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    from aiterlite import replay

    logged_norm(tmp_path / "calls")
    for first, second in ((math.inf, -math.inf), (math.nan, math.inf), (1.0, math.nan)):
        values = [second, first]

        def filled(*_: Any, left: list[float] = values) -> Any:
            return {"out": torch.full((3,), left.pop())}

        monkeypatch.setattr(replay, "_run", filled)
        data, code = replayed(capsys, str(tmp_path / "calls"))
        assert code == 1 and data["calls"][0]["differences"]["out"]["broken"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--target", "h100"), "only a GPU runs its code: --device cuda"),
        (("--target", "mi300x", "--device", "cuda"), "it runs on CPU tensors: --device cpu"),
        (("--target", "mi300x,gfx950"), "once for each"),
        (("--tolerance", "nan"), "no share"),
        (("--tolerance", "-1"), "no share"),
        pytest.param(
            ("--device", "cuda"),
            "torch sees no GPU here",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here"),
        ),
    ],
)
def test_where_calls_cannot_run_is_refused(
    words: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logged_norm(tmp_path / "calls")
    assert main(["replay", str(tmp_path / "calls"), *words]) == 2
    assert said in capsys.readouterr().err


def test_values_that_were_not_kept_are_made_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged_norm(tmp_path / "calls", keep=0)
    assert not (tmp_path / "calls.tensors").exists()
    data, code = replayed(capsys, str(tmp_path / "calls"))
    assert code == 0 and data["calls"][0]["made_up"] == 5


def test_some_calls_of_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = operands()
    with envs.override(AITERLITE_LOG_CALLS=str(tmp_path / "calls")):
        for _ in range(2):
            norm.rms_norm(given["x"], given["weight"], 1e-6)
        aiterlite.linear(given["x"], given["x"])
    numbers = [call.number for call in call_file.read(tmp_path / "calls")]
    file = str(tmp_path / "calls")
    assert [c["number"] for c in replayed(capsys, file, "--last", "2")[0]["calls"]] == numbers[1:]
    assert [c["op"] for c in replayed(capsys, file, "--op", "linear")[0]["calls"]] == ["linear"]
    assert [c["number"] for c in replayed(capsys, file, "--call", str(numbers[0]))[0]["calls"]] == numbers[:1]
    listed = replayed(capsys, file, "--list")[0]["calls"]
    assert [c["op"] for c in listed] == ["rmsnorm2d_fwd", "rmsnorm2d_fwd", "linear"] and "bfloat16[3, 96]" in listed[0][
        "operands"
    ]
    assert main(["replay", file, "--call", "12345"]) == 2


def test_files_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    logged_norm(tmp_path / "calls")
    line = (tmp_path / "calls").read_text()
    data = json.loads(line)

    def refused(**changes: Any) -> str:
        (tmp_path / "other").write_text(json.dumps({**data, **changes}) + "\n")
        (tmp_path / "other.tensors").mkdir(exist_ok=True)
        assert main(["replay", str(tmp_path / "other")]) == 2
        return capsys.readouterr().err

    assert "schema" in refused(schema=2)
    assert "has not" in refused(op="no_such_op")
    storage = [{**item, "file": "../calls"} for item in data["storages"]]
    assert "no plain file name" in refused(storages=storage)
    assert "cannot be rebuilt" in refused(storages=[{**item, "bytes": 4} for item in data["storages"]])
    # A crash may cut the last line short; the whole ones are there.
    (tmp_path / "cut").write_text(line + line[: len(line) // 2])
    assert len(call_file.read(tmp_path / "cut")) == 1


def test_a_file_that_cannot_be_written_is_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    given = operands()
    with envs.override(AITERLITE_LOG_CALLS=str(tmp_path)), caplog.at_level("WARNING", logger="aiterlite"):
        result = norm.rms_norm(given["x"], given["weight"], 1e-6)
        norm.rms_norm(given["x"], given["weight"], 1e-6)
    assert result.shape == given["x"].shape
    assert [record.getMessage() for record in caplog.records if "AITERLITE_LOG_CALLS" in record.getMessage()] == [
        f"AITERLITE_LOG_CALLS: cannot write {tmp_path}: Is a directory"
    ]
