"""Where instructions begin in gfx942 and gfx950 machine code, and which of them are s_setvskip. Pure.

A search for an instruction's bits would also find them in literals and in second words, so this walks the code as the
hardware does. Encodings: the CDNA3 instruction set architecture reference guide, chapter on microcode formats.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

# Values of a source operand that stand for another word: a literal, or the modifiers of SDWA and DPP.
_LITERAL, _SDWA, _DPP = 255, 249, 250
# v_fmamk and v_fmaak hold a constant in a second word whatever their sources are.
_VOP2_WITH_CONSTANT = (0x17, 0x18, 0x24, 0x25)
_S_SETREG_IMM32 = 20
_S_SETVSKIP = 16
_SOP1, _SOPC, _SOPP = 0x17D, 0x17E, 0x17F
_SOPK = 0xB


def starts(code: bytes) -> Iterator[tuple[int, int, int]]:
    """(offset, bytes, first word) of each instruction. Raises `ValueError` where one is cut off."""
    words = struct.unpack(f"<{len(code) // 4}I", code[: len(code) // 4 * 4])
    at = 0
    while at < len(words):
        length = 1 + _has_second_word(words[at])
        if at + length > len(words):
            raise ValueError(f"the instruction at {4 * at:#x} is cut off")
        yield 4 * at, 4 * length, words[at]
        at += length


def setvskip_offsets(code: bytes) -> list[int]:
    """Where s_setvskip stands in a kernel's code."""
    return [at for at, _, word in starts(code) if word >> 23 == _SOPC and word >> 16 & 0x7F == _S_SETVSKIP]


def _has_second_word(word: int) -> bool:
    if word >> 31 == 0:
        return word & 0x1FF in (_LITERAL, _SDWA, _DPP) or word >> 25 in _VOP2_WITH_CONSTANT
    if word >> 30 == 3:
        return True
    scalar_literal = word & 0xFF == _LITERAL
    kind = word >> 23
    if kind == _SOPP:
        return False
    if kind == _SOP1:
        return scalar_literal
    if word >> 28 == _SOPK and kind != _SOPC:
        return word >> 23 & 0x1F == _S_SETREG_IMM32
    return scalar_literal or word >> 8 & 0xFF == _LITERAL
