"""The decoder against stored text: what is accepted, what is refused, and in which words."""

from __future__ import annotations

import re
import struct
from pathlib import Path

import pytest
from emulator import encodings, native

STORED = Path(__file__).with_name("emulator") / "instructions.txt"
SUFFIX = re.compile(r"_(e32|e64|dpp|sdwa)$")

pytestmark = [
    pytest.mark.compile,
    pytest.mark.torch,
    pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="session")
def library() -> native.Library:
    return native.shared_library()


def stored() -> list[tuple[tuple[str, ...], bytes, str]]:
    lines = (line.split(" ", 2) for line in STORED.read_text().splitlines())
    return [(native.TARGETS if t == "both" else (t,), bytes.fromhex(data), text) for t, data, text in lines]


def words(*dwords: int) -> bytes:
    return struct.pack(f"<{len(dwords)}I", *dwords)


def test_stored_text(library: native.Library) -> None:
    wrong = []
    for targets, data, text in stored():
        for target in targets:
            decoded = library.decode(target, data)
            if (decoded.text, decoded.size) != (text, len(data)):
                wrong.append((target, data.hex(), text, decoded))
    assert wrong == []


def test_every_mnemonic_is_stored(library: native.Library) -> None:
    seen = {SUFFIX.sub("", text.split()[0]) for _, _, text in stored()}
    assert seen == set(library.mnemonics)


def test_cut_off_instructions_are_truncated(library: native.Library) -> None:
    for targets, data, _ in stored():
        for size in range(0, len(data), 4):
            decoded = library.decode(targets[0], data[:size])
            if decoded.status == "ok":
                # A scale prefix is an instruction of its own when the MFMA behind it is missing.
                assert decoded.op == "v_mfma_ld_scale_b32"
            else:
                assert decoded.status == "truncated" or data[2:4] == b"\xac\xd3"


@pytest.mark.parametrize("behind", [(), (0xBF800000, 0xBF810000)])
@pytest.mark.parametrize(("prefix", "text"), [
    ((0xD3AC0000, 0x00023318), "v_mfma_ld_scale_b32 v24, v25 op_sel_hi:[0,0]"),
    ((0xD3AC4000, 0x00023318), "v_mfma_ld_scale_b32 v24, v25 op_sel_hi:[0,0]"),
    ((0xD3AC1000, 0x18023318), "v_mfma_ld_scale_b32 v24, v25 op_sel:[0,1]"),
    ((0xD3AC0800, 0x10000080), "v_mfma_ld_scale_b32 0, s0 op_sel:[1,0] op_sel_hi:[0,1]"),
])  # fmt: skip
def test_a_scale_prefix_alone(
    library: native.Library, prefix: tuple[int, int], text: str, behind: tuple[int, ...]
) -> None:
    """One instruction of 8 bytes with bit 14, which belongs to a source that is not there, set or clear, as
    llvm-objdump 22 reads it."""
    decoded = library.decode("gfx950", words(*prefix, *behind))
    assert (decoded.status, decoded.text, decoded.size) == ("ok", text, 8)
    with_bit_13 = library.decode("gfx950", words(prefix[0] | 1 << 13, prefix[1], *behind))
    assert with_bit_13.status == "reserved_bits"
    assert library.decode("gfx942", words(*prefix, *behind)).status == "other_arch"


def test_one_target_only(library: native.Library) -> None:
    checked = 0
    for targets, data, text in stored():
        if len(targets) == 2:
            continue
        other = next(target for target in native.TARGETS if target not in targets)
        if any(t == (other,) and d == data for t, d, _ in stored()):
            continue
        decoded = library.decode(other, data)
        assert decoded.status == "other_arch", (text, decoded)
        assert f"exists on {targets[0]} only" in decoded.text
        checked += 1
    assert checked > 100


@pytest.mark.parametrize(
    ("dwords", "status", "encoding", "why"),
    [
        ((0xC4000000, 0), "unknown_encoding", "unknown", "leading bits"),  # export, which the targets lack
        ((0xF0000000, 0), "unknown_encoding", "unknown", "leading bits"),  # image instructions, likewise
        ((0x7E000A00 | 126 << 9,), "unknown_opcode", "VOP1", "opcode"),
        ((0xBE803900,), "unknown_opcode", "SOP1", "opcode"),
        ((0x02FE02D1,), "bad_operand", "VOP2", "no scalar register"),  # source 209 is reserved
        ((0x0200087D,), "bad_operand", "VOP2", "no scalar register"),  # source 125: null on later targets
        ((0xBE860107,), "bad_operand", "SOP1", "not aligned"),  # s_mov_b64 s[6:7], s[7:8]
        ((0xD2800001, 0x00020902), "bad_operand", "VOP3", "odd register"),  # v_add_f64 v[1:2], ...
        ((0xD10100FE, 0x000002FF), "bad_operand", "VOP3", "no room"),  # a literal in VOP3
        ((0xD1010000, 0x00000602), "bad_operand", "VOP3", "more than one scalar"),  # v_add_f32_e64 v0, s2, s3
        ((0xD1010000, 0x00100501), "reserved_bits", "VOP3", "does not use"),  # a third source of v_add_f32
        ((0xD1340300, 0x00020501), "reserved_bits", "VOP3", "abs or neg"),  # |v1| of v_add_u32
        ((0xD1010800, 0x00020501), "reserved_bits", "VOP3", "op_sel"),  # v_add_f32 has none
        ((0xD3CC0008, 0x042A0902), "bad_operand", "MAI", "overlaps"),  # 32x32x8 v[8:23], ..., v[10:25]
        ((0xDC5C8000, 0xFE7F0002), "bad_operand", "GLOBAL", "past v255"),  # global_load_dwordx4 v[254:257]
        ((0xBF8A0001,), "reserved_bits", "SOPP", "simm16"),  # s_barrier 1
        ((0xD86D0000, 0x00000001), "reserved_bits", "DS", "gds"),
        ((0xDC503000, 0x00000002), "reserved_bits", "FLAT", "offset bits"),
        ((0xDC50C000, 0x007F0002), "unknown_encoding", "FLAT", "segment 3"),
        ((0x7E0202F9, 0x00070602), "bad_operand", "VOP1", "src0_sel"),
        ((0x7E0202FA, 0xFF010002), "bad_operand", "VOP1", "dpp_ctrl"),  # 0x100: row_shl by 0
        ((0x7E0070FA, 0xFF000002), "bad_operand", "VOP1", "dpp_ctrl"),  # v_mov_b64 by quad_perm
        ((0xD3CD0000, 0x04020000), "bad_operand", "MAI", "not a vector register"),
    ],
)
def test_refused(library: native.Library, dwords: tuple[int, ...], status: str, encoding: str, why: str) -> None:
    decoded = library.decode("gfx942", words(*dwords))
    assert (decoded.status, decoded.encoding, decoded.size) == (status, encoding, 0), decoded
    assert why in decoded.text
    assert decoded.text.startswith(f"gfx942 {encoding} encoding {dwords[0]:08x}")


def test_message_of_a_reserved_field(library: native.Library) -> None:
    decoded = library.decode("gfx950", words(0xBF8A0001))
    assert decoded.text == "gfx950 SOPP encoding bf8a0001: simm16 of an instruction without immediate"


def test_every_status_is_reachable(library: native.Library) -> None:
    seen = {library.decode(target, data).status for _, _, data in encodings.draw(8, 3) for target in native.TARGETS}
    assert seen == set(native.DECODE_STATUS) - {"truncated", "unknown_encoding"}


@pytest.mark.parametrize("target", native.TARGETS)
def test_size_never_exceeds_what_is_there(library: native.Library, target: str) -> None:
    for _, _, data in encodings.draw(4, 9):
        decoded = library.decode(target, data)
        assert decoded.size <= len(data)
        assert decoded.size % 4 == 0
        assert (decoded.size == 0) == (decoded.status != "ok")
