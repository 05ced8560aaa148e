"""What the executor does not run: a stored list, so that no instruction silently changes sides, and a typed error.

Every mnemonic of the decoder is in instructions.txt (test_emulator_decode.py holds that). `emulator/refused.txt` names
the ones without semantics and, for the others, the stored encodings whose modifiers the executor refuses. After a
change on purpose, run `python -m emulator.refusals` in tests/.
"""

from __future__ import annotations

import functools
import struct

import numpy as np
import pytest
from emulator import executor, refusals
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text

from aiterlite.emulator import Module, UnsupportedInstructionError, use_library

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(executor.library()))


def test_the_stored_list() -> None:
    found, stored = set(refusals.lines()), set(refusals.STORED.read_text().splitlines())
    assert sorted(found - stored) == [], "refused, but not in refused.txt"
    assert sorted(stored - found) == [], "in refused.txt, but run"


@functools.cache
def dispatcher(target: str) -> tuple[Module, list[tuple[str, str]]]:
    """A kernel that goes to the instruction that its first argument numbers."""
    refused = [r for r in refusals.stored() if target in r.targets and r.refusal(target)]
    body = ["s_load_dwordx2 s[4:5], s[0:1], 0", "s_waitcnt lgkmcnt(0)", "s_load_dword s6, s[4:5], 0"]
    body.append("s_waitcnt lgkmcnt(0)")
    for i in range(len(refused)):
        body += [f"s_cmp_eq_u32 s6, {i}", f"s_cbranch_scc1 .Lcase{i}"]
    for i, r in enumerate(refused):
        words = struct.unpack(f"<{len(r.code) // 4}I", r.code)
        body += ["s_endpgm", f".Lcase{i}:", *(f".long {word:#x}" for word in words)]
    text = kernel_text(target, "k", "\n".join([*body, "s_endpgm"]), Kernel(), ("which",))
    return device(target).load(assemble(target, text)), [(r.text, r.refusal(target)) for r in refused]


@pytest.mark.parametrize("target", TARGETS)
def test_refusal_is_a_typed_error(target: str) -> None:
    """It names the instruction and says why. Nothing is refused before it is reached: the last launch ends well."""
    module, refused = dispatcher(target)
    assert len(refused) > 150
    for i, (text, reason) in enumerate(refused):
        with pytest.raises(UnsupportedInstructionError) as caught:
            module.launch("k", 1, 64, {"which": np.array([i], np.uint32)})
        assert caught.value.instruction == text
        assert f"`{text}`: cannot execute: {reason}" in str(caught.value)
    module.launch("k", 1, 64, {"which": np.array([len(refused)], np.uint32)})
