"""torch does not bring numpy, so a machine may have none: what the command line and logs do there."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

from emulator.assembly import Kernel, assemble, kernel_text

# A module that is None in sys.modules cannot be imported, by torch's C++ either.
HIDE = "import sys; sys.modules['numpy'] = None; "
MAIN = HIDE + "from aiterlite.cli import main; sys.exit(main(sys.argv[1:]))"
CALL = (
    HIDE
    + """
import torch, aiterlite
x, w = torch.ones(2, 64, dtype=torch.bfloat16), torch.ones(16, 64, dtype=torch.bfloat16)
try:
    torch.ones(1).numpy()
    raise SystemExit("numpy is there all the same")
except RuntimeError as error:
    assert "not available" in str(error), error
assert aiterlite.wvSplitK(x, w).eq(64).all()
"""
)
# outputs[i] = inputs[0][i] for one wave of float32.
FOLLOW = """
s_load_dwordx4 s[4:7], s[0:1], 0
v_lshlrev_b32_e32 v1, 2, v0
s_waitcnt lgkmcnt(0)
s_load_dwordx2 s[4:5], s[4:5], 0
s_waitcnt lgkmcnt(0)
global_load_dword v2, v1, s[4:5]
s_waitcnt vmcnt(0)
global_store_dword v1, v2, s[6:7]
s_endpgm
"""


def run(code: str, *words: str, **variables: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_emulated_runs_are_compared_bit_by_bit() -> None:
    said = run(MAIN, "emulate", "wvSplitK", "n=2", "m=16", "k=64", "--target", "mi300x", "--races")
    assert "within the bound" in said


def test_a_stored_launch_is_written_and_run_again(tmp_path: Path) -> None:
    path, stored = tmp_path / "follow.co", tmp_path / "launch.json"
    path.write_bytes(assemble("gfx942", kernel_text("gfx942", "k", FOLLOW, Kernel())))
    words = ("--tensor", "x=f32[64]:ones", "--arg", "inputs=ptr[1]:&x", "--arg", "outputs=f32[64]")
    run(MAIN, "emulate", str(path), *words, "--dump-kernarg", str(stored))
    again = run(MAIN, "emulate", str(path), "--kernarg", str(stored), "--save", f"outputs={tmp_path / 'y.bin'}")
    assert "256" in again and (tmp_path / "y.bin").read_bytes() == struct.pack("<64f", *[1.0] * 64)


def test_logged_tensors_are_read_again(tmp_path: Path) -> None:
    log = tmp_path / "calls"
    run(CALL, AITERLITE_LOG_CALLS=str(log), AITERLITE_LOG_TENSORS="100000")
    assert "wvSplitK" in run(MAIN, "replay", str(log))
