"""Random and mutated files under the address and undefined-behaviour sanitizers: no crash, no hang, no stray read."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from emulator import native
from emulator.elf_builder import DATA, Builder
from test_emulator_decode import stored

# With every stored encoding in one of the seeds these reach more of the decoder (1942 of 2069 lines, 2749 of 4087
# branches) than 100,000 did with one encoding in seven (1914 and 2714).
INPUTS = 25_000
SLICES = 36
MACH = {"gfx942": 0x4C, "gfx950": 0x4F}
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
    relocations = [(DATA, 13, 0, 0x1000), (DATA + 8, 3, 1, 4)]
    seeds = {"plain": Builder().build(), "gfx950": Builder(mach=MACH["gfx950"], section_headers=False).build()}
    for target in native.TARGETS:
        encodings = [data for targets, data, _ in stored() if target in targets]
        for i in range(SLICES):
            changes: dict[str, Any] = {"relocations": relocations, "bss": 4096} if i % 2 else {}
            code = b"".join(encodings[i::SLICES])
            seeds[f"{target}-{i}"] = Builder(MACH[target], code=code, section_headers=i % 3 != 0, **changes).build()
    for name, data in seeds.items():
        (tmp_path / name).write_bytes(data)
    # Stacks of allocations take a fifth of the time; a failure is repeated by its number, with them.
    run = subprocess.run(
        [program, str(INPUTS), "1", *(tmp_path / name for name in seeds)],
        env={**os.environ, "ASAN_OPTIONS": "malloc_context_size=0:quarantine_size_mb=4"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert run.returncode == 0, run.stdout + run.stderr[-4000:]
    done = re.fullmatch(r"(\d+) inputs: (\d+) loaded, (\d+) refused, (\d+) instructions decoded\n", run.stdout)
    assert done is not None
    inputs, loaded, refused, decoded = map(int, done.groups())
    assert inputs == loaded + refused == INPUTS
    # Mutants that all fail at the first check would test nothing.
    assert loaded > INPUTS // 20
    assert decoded > INPUTS
