"""`build --emulator`, and that a bundle carries what it built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from emulator.assembly import Kernel, assemble, kernel_text
from support import child

from aiterlite import envs
from aiterlite.cli import main
from aiterlite.emulator import library
from aiterlite.jit import engine
from aiterlite.target import host_persona

HOST = host_persona().target


def units(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    """What `build` with these words would build, in an empty cache."""
    assert main(["build", *words, "--check", "--json"]) == 1
    return sorted(item["unit"] for item in json.loads(capsys.readouterr().out)["units"])


@pytest.mark.usefixtures("cache_dir")
def test_build_takes_the_emulator_with_what_else_is_asked(capsys: pytest.CaptureFixture[str]) -> None:
    """Alone it is all that is built; a CPU among the targets is the one it is for; GPUs bring their operators."""
    own = f"emulator for {HOST}"
    assert units(capsys, "--emulator") == [own]
    levels = ["cpu-x86-64", "cpu-x86-64-v3"]
    assert units(capsys, "--emulator", "--target", ",".join(levels)) == [f"emulator for {level}" for level in levels]
    words = ["--ops", "wvSplitK", "n=1", "m=64", "k=512", "dtype=bf16"]
    for emulated in (["--target", "gfx942"], ["--target", "cpu-x86-64"]):
        alone = units(capsys, *words, *emulated)
        name = "emulator for cpu-x86-64" if "cpu-x86-64" in emulated else own
        assert units(capsys, "--emulator", *words, *emulated) == sorted([*alone, name])
    assert set(units(capsys, "--emulator", "--target", "gfx942")) == {own, *units(capsys, "--target", "gfx942")}
    unit = json.dumps(library.unit("cpu-x86-64").to_json())
    assert units(capsys, "--emulator", "--unit", unit) == sorted({"emulator for cpu-x86-64", own})
    assert main(["build", "--check-asm", "--emulator"]) == 2


_LAUNCH = """
import numpy as np
from aiterlite.emulator import Device
result = Device("mi300x").load(bytes.fromhex(sys.argv[1])).launch("k", 1, 64, {"out": np.zeros(1)}).instructions
"""


@pytest.mark.emulated
def test_a_bundle_carries_the_emulator(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Into a cache that must not build, where it runs without a compiler."""
    engine.obtain(library.unit(), build=True)
    bundle, cache = tmp_path / "emulator.tar", tmp_path / "cache"
    assert main(["export", str(bundle), "--unit-name", "emulator", "--target", HOST]) == 0
    assert main(["export", "--check", str(bundle)]) == 0
    image = assemble("gfx942", kernel_text("gfx942", "k", "s_endpgm", Kernel(), ("out",))).hex()
    settings = {"AITERLITE_CACHE_DIR": str(cache), "AITERLITE_JIT": "require-cache", "AITERLITE_CXX": "/nowhere/c++"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    envs.reload()
    assert main(["import", str(bundle)]) == 0
    assert main(["verify"]) == 0 and main(["build", "--emulator", "--check"]) == 0
    ran = child(_LAUNCH, image, **settings)
    assert ran["result"] == 1 and ran["started"] == []
