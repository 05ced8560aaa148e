"""Small assembly kernels under watch: what the sanitizers find in them, and what the counters say.

A body finds its arguments at s[4:5] (`a`), s[6:7] (`b`) and s[8:9] (`c`), the workgroup's number in s2, its work-item's
in v0, four times that in v1, and M0 = 0.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from emulator import assembly, executor

from aiterlite import emulator
from aiterlite.emulator import Device, Finding, Module, Report

NAMES = ("a", "b", "c")
# 3 SALU, 1 SMEM, 1 VALU, 1 wait.
PROLOGUE = """
s_load_dwordx4 s[4:7], s[0:1], 0
s_load_dwordx2 s[8:9], s[0:1], 16
v_lshlrev_b32_e32 v1, 2, v0
s_mov_b32 m0, 0
s_waitcnt lgkmcnt(0)
"""


def module(target: str, body: str, lds: int = 0, scratch: int = 0, **replaced: str) -> Module:
    """The kernel `watched`; `replaced` changes properties of its descriptor (`next_free_vgpr="64"`)."""
    emulator.use_library(str(executor.library()))
    text = assembly.kernel_text(
        target, "watched", PROLOGUE + body + "\ns_endpgm", assembly.Kernel(lds=lds, scratch=scratch), NAMES
    )
    lines = text.splitlines()
    for name, value in replaced.items():
        at = next(i for i, line in enumerate(lines) if line.strip().startswith(f".amdhsa_{name} "))
        lines[at] = f"  .amdhsa_{name} {value}"
    image = assembly.assemble(target, "\n".join(lines) + "\n")
    loaded: Module = Device(assembly.PERSONA[target]).load(image)
    return loaded


def aligned(words: int, alignment: int = 4096) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Zeros that start at a multiple of `alignment` bytes."""
    room = np.zeros(words * 4 + alignment, np.uint8)
    start = -room.ctypes.data % alignment
    return room[start : start + words * 4].view(np.uint32)


def arguments(words: int = 4096) -> dict[str, Any]:
    return {name: aligned(words) for name in NAMES}


def launch(loaded: Module, grid: int = 1, block: int = 64, **options: Any) -> Report:
    return loaded.launch("watched", grid, block, arguments(), **options)


def find(target: str, body: str, check: str, grid: int, block: int, lds: int, **options: Any) -> tuple[Finding, ...]:
    return launch(module(target, body, lds), grid, block, sanitize=check, **options).findings
