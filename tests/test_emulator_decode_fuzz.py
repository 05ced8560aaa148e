"""Random and mutated files under the address and undefined-behaviour sanitizers: no crash, no hang, no stray read."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from emulator import native
from emulator.elf_builder import DATA, Builder
from test_emulator_decode import stored

INPUTS = 100_000
SANITIZE = ["-O1", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]

pytestmark = [
    pytest.mark.compile,
    pytest.mark.slow,
    pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return native.build(tmp_path_factory.mktemp("fuzz"), SANITIZE, [], ["fuzz_main.cpp"], "fuzz")


def test_random_and_mutated_objects(program: Path, tmp_path: Path) -> None:
    code = b"".join(data for targets, data, _ in stored()[::7] if "gfx942" in targets)
    relocations = [(DATA, 13, 0, 0x1000), (DATA + 8, 3, 1, 4)]
    seeds = {
        "plain": Builder().build(),
        "code": Builder(code=code[:0x300], relocations=relocations, bss=4096).build(),
        "gfx950": Builder(mach=0x4F, section_headers=False).build(),
    }
    for name, data in seeds.items():
        (tmp_path / name).write_bytes(data)
    run = subprocess.run(
        [program, str(INPUTS), "1", *(tmp_path / name for name in seeds)], capture_output=True, text=True, timeout=600
    )
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    done = re.fullmatch(r"(\d+) inputs: (\d+) loaded, (\d+) refused, (\d+) instructions decoded\n", run.stdout)
    assert done is not None
    inputs, loaded, refused, decoded = map(int, done.groups())
    assert inputs == loaded + refused == INPUTS
    # Mutants that all fail at the first check would test nothing.
    assert loaded > INPUTS // 20
    assert decoded > INPUTS
