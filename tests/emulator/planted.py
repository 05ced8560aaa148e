"""Kernels with a fault in them, and what the sanitizers say of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from emulator.assembly import Kernel, assemble, device, kernel_text

from aiterlite.emulator import Finding, Report

# Work-item in v1, 4 times that in v2, `data` at s[4:5], `out` at s[6:7].
PROLOGUE = """
v_and_b32_e32 v1, 0x3ff, v0
v_lshlrev_b32_e32 v2, 2, v1
s_load_dwordx4 s[4:7], s[0:1], 0
s_waitcnt lgkmcnt(0)
"""


@dataclass(frozen=True)
class Planted:
    """A faulty kernel body, the same without the fault, and what must be said: the instruction at fault, the other
    one, parts of the text, and of what mends it."""

    name: str
    faulty: str
    mended: str
    instruction: str
    other: str
    what: Sequence[str]
    mend: str
    lane: int = -1
    items: int = 64

    def __str__(self) -> str:
        return self.name


def findings(target: str, body: str, check: str, items: int = 64, kernel: Kernel | None = None) -> list[Finding]:
    """What one sanitizer finds in `body`, run by one workgroup behind PROLOGUE."""
    return list(report(target, body, check, items, kernel).findings)


def report(target: str, body: str, check: str, items: int = 64, kernel: Kernel | None = None) -> Report:
    """The report of such a run."""
    text = kernel_text(target, "k", f"{PROLOGUE}{body}\ns_endpgm", kernel or Kernel(lds=4096), ("data", "out"))
    arrays = {"data": np.arange(4096, dtype=np.uint32), "out": np.zeros(4096, np.uint32)}
    return device(target).load(assemble(target, text)).launch("k", 1, items, arrays, sanitize=check)


def expect(target: str, planted: Planted, check: str) -> None:
    """The fault is found and named, and it is the only one; without it nothing is."""
    found = findings(target, planted.faulty, check, planted.items)
    assert len(found) == 1, "\n".join(map(str, found)) or "nothing was found"
    finding = found[0]
    assert finding.check == check
    assert finding.instruction.startswith(planted.instruction), str(finding)
    assert finding.other_instruction.startswith(planted.other) and bool(planted.other) == (finding.other_pc >= 0)
    for part in planted.what:
        assert part in finding.what, str(finding)
    assert planted.mend in finding.mend, str(finding)
    assert finding.lane == planted.lane and finding.workgroup == (0, 0, 0), str(finding)
    clean = findings(target, planted.mended, check, planted.items)
    assert not clean, "\n".join(map(str, clean))
