"""What the decoder hands to the executor: operand slots, widened constants, modifiers. The text does not show these."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from emulator import native

pytestmark = [
    pytest.mark.compile,
    pytest.mark.torch,
    pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler"),
]

V = 256  # source code of v0
LITERAL = 255


@pytest.fixture(scope="session")
def library() -> native.Library:
    return native.shared_library()


def words(*dwords: int) -> bytes:
    return struct.pack(f"<{len(dwords)}I", *dwords)


def vop1(op: int, source: int) -> int:
    return 0x7E000000 | op << 9 | source


def vop2(op: int, source: int) -> int:
    return op << 25 | source


def vop3p(op: int, a: int, b: int, c: int = 0) -> tuple[int, int]:
    return 0xD3804000 | op << 16, a | b << 9 | c << 18 | 3 << 27


def f16(value: float) -> int:
    return int(struct.unpack("<H", struct.pack("<e", value))[0])


def f32(value: float) -> int:
    return int(struct.unpack("<I", struct.pack("<f", value))[0])


def f64(value: float) -> int:
    return int(struct.unpack("<Q", struct.pack("<d", value))[0])


FLOATS = {240: 0.5, 241: -0.5, 242: 1.0, 243: -1.0, 244: 2.0, 245: -2.0, 246: 4.0, 247: -4.0}
HALF_INVERSE_PI = 248
V_ADD_F32, V_ADD_F16, V_ADD_U16, V_ADD_U32, V_FMAC_F64, V_PK_FMAC_F16 = 1, 31, 38, 52, 4, 60
V_MOV_B64, V_CVT_F32_BF16 = 56, 91
V_PK_ADD_I16, V_PK_ADD_F16, V_DOT2_F32_BF16, V_PK_ADD_F32 = 2, 15, 26, 50


def source_value(library: native.Library, *dwords: int) -> int:
    value: int = library.explain("gfx950", words(*dwords))["src"][0]["value"]
    return value


@pytest.mark.parametrize("code", sorted(FLOATS))
def test_inline_floats(library: native.Library, code: int) -> None:
    number = FLOATS[code]
    bf16 = f32(number) >> 16
    expected = {
        vop2(V_ADD_F32, code): f32(number),
        vop2(V_ADD_U32, code): f32(number),
        vop2(V_ADD_F16, code): f16(number),
        vop2(V_ADD_U16, code): f16(number),
        vop2(V_PK_FMAC_F16, code): f16(number),
        vop2(V_FMAC_F64, code): f64(number),
        vop1(V_MOV_B64, code): f64(number),
        vop1(V_CVT_F32_BF16, code): bf16,
        vop3p(V_PK_ADD_F16, code, V): f16(number),
        vop3p(V_PK_ADD_I16, code, V): f32(number),
        vop3p(V_PK_ADD_F32, code, V): f32(number),
        vop3p(V_DOT2_F32_BF16, code, V, V): bf16,
    }
    for encoding, value in expected.items():
        dwords = encoding if isinstance(encoding, tuple) else (encoding,)
        assert source_value(library, *dwords) == value, hex(dwords[0])


def test_inline_half_inverse_pi(library: native.Library) -> None:
    assert source_value(library, vop2(V_ADD_F32, HALF_INVERSE_PI)) == 0x3E22F983
    assert source_value(library, vop2(V_ADD_F16, HALF_INVERSE_PI)) == 0x3118
    assert source_value(library, vop1(V_CVT_F32_BF16, HALF_INVERSE_PI)) == 0x3E22
    assert source_value(library, vop2(V_FMAC_F64, HALF_INVERSE_PI)) == 0x3FC45F306DC9C882


@pytest.mark.parametrize(("code", "number"), [(128, 0), (129, 1), (192, 64), (193, -1), (208, -16)])
def test_inline_integers(library: native.Library, code: int, number: int) -> None:
    bits16, bits32, bits64 = number % 2**16, number % 2**32, number % 2**64
    assert source_value(library, vop2(V_ADD_F32, code)) == bits32
    assert source_value(library, vop2(V_ADD_U16, code)) == bits16
    assert source_value(library, vop2(V_ADD_F16, code)) == bits16
    assert source_value(library, vop2(V_FMAC_F64, code)) == bits64
    assert source_value(library, 0xBE800100 | code) == bits64  # s_mov_b64
    assert source_value(library, *vop3p(V_PK_ADD_I16, code, V)) == bits32
    assert source_value(library, *vop3p(V_PK_ADD_F16, code, V)) == bits32


def test_literals(library: native.Library) -> None:
    def value(dword: int, literal: int) -> int:
        return source_value(library, dword, literal)

    assert value(vop2(V_ADD_F32, LITERAL), 0x89ABCDEF) == 0x89ABCDEF
    assert value(vop2(V_ADD_F16, LITERAL), 0x89ABCDEF) == 0xCDEF
    assert value(vop2(V_ADD_U16, LITERAL), 0x12345678) == 0x5678
    assert value(vop2(V_PK_FMAC_F16, LITERAL), 0x89ABCDEF) == 0x89ABCDEF
    assert value(vop2(V_FMAC_F64, LITERAL), 0x89ABCDEF) == 0x89ABCDEF << 32
    assert value(vop1(V_MOV_B64, LITERAL), 0x89ABCDEF) == 0x89ABCDEF
    assert value(0xBE800100 | LITERAL, 0x89ABCDEF) == 0x89ABCDEF  # s_mov_b64: zero-extended
    assert value(0x90800000 | LITERAL, 0x89ABCDEF) == 0xFFFFFFFF89ABCDEF  # s_ashr_i64: sign-extended
    assert value(0x7DC20000 | LITERAL, 0x89ABCDEF) == 0xFFFFFFFF89ABCDEF  # v_cmp_lt_i64
    assert value(0x7DD20000 | LITERAL, 0x89ABCDEF) == 0x89ABCDEF  # v_cmp_lt_u64


def operand(kind: str, index: int, dwords: int = 1, value: int = 0) -> dict[str, Any]:
    return {"kind": kind, "index": index, "dwords": dwords, "value": value}


NONE = operand("none", 0, 0)
VCC = operand("special", 106, 2)

# (dwords, dst, src, scale, other fields); operand lists end at the last that is there.
SLOTS: list[tuple[str, tuple[int, ...], list[Any], list[Any], dict[str, Any]]] = [
    (
        "v_addc_co_u32_e32",
        (28 << 25 | 1 << 17 | 2 << 9 | V + 3,),
        [operand("vgpr", 1), VCC],
        [operand("vgpr", 3), operand("vgpr", 2), VCC],
        {},
    ),
    (
        "v_addc_co_u32_e64",
        (0xD11C0401, V + 3 | V + 2 << 9 | 6 << 18),
        [operand("vgpr", 1), operand("sgpr", 4, 2)],
        [operand("vgpr", 3), operand("vgpr", 2), operand("sgpr", 6, 2)],
        {},
    ),
    ("v_cmp_lt_f32_e32", (0x7C820000 | 2 << 9 | V + 1,), [VCC], [operand("vgpr", 1), operand("vgpr", 2)], {}),
    (
        "v_cmp_lt_f32_e64",
        (0xD0410004, V + 1 | V + 2 << 9),
        [operand("sgpr", 4, 2)],
        [operand("vgpr", 1), operand("vgpr", 2)],
        {},
    ),
    (
        "v_cndmask_b32_e32",
        (1 << 17 | 2 << 9 | V + 3,),
        [operand("vgpr", 1)],
        [operand("vgpr", 3), operand("vgpr", 2), VCC],
        {},
    ),
    (
        "v_fmamk_f32",
        (23 << 25 | 1 << 17 | 2 << 9 | V + 3, 5),
        [operand("vgpr", 1)],
        [operand("vgpr", 3), operand("literal", 255, 1, 5), operand("vgpr", 2)],
        {},
    ),
    (
        "v_fmaak_f32",
        (24 << 25 | 1 << 17 | 2 << 9 | V + 3, 5),
        [operand("vgpr", 1)],
        [operand("vgpr", 3), operand("vgpr", 2), operand("literal", 255, 1, 5)],
        {},
    ),
    (
        "v_div_scale_f32",
        (0xD1E00A01, V + 2 | V + 3 << 9 | V + 4 << 18 | 1 << 29),
        [operand("vgpr", 1), operand("sgpr", 10, 2)],
        [operand("vgpr", 2), operand("vgpr", 3), operand("vgpr", 4)],
        {"neg": 1, "abs": 0},
    ),
    (
        "v_readlane_b32",
        (0xD2890005, V + 2 | 7 << 9),
        [operand("sgpr", 5)],
        [operand("vgpr", 2), operand("sgpr", 7)],
        {},
    ),
    (
        "v_fma_f32 modifiers",
        (0xD1CB8501, V + 2 | V + 3 << 9 | V + 4 << 18 | 2 << 27 | 6 << 29),
        [operand("vgpr", 1)],
        [operand("vgpr", i) for i in (2, 3, 4)],
        {"abs": 5, "neg": 6, "clamp": True, "omod": 2},
    ),
    (
        "v_fma_f16 op_sel",
        (0xD2065801, V + 2 | V + 3 << 9 | V + 4 << 18),
        [operand("vgpr", 1)],
        [operand("vgpr", i) for i in (2, 3, 4)],
        {"op_sel": 0b1011},
    ),
    (
        "v_pk_fma_f16",
        (0xD38E0A01, V + 2 | V + 3 << 9 | V + 4 << 18 | 1 << 27 | 4 << 29),
        [operand("vgpr", 1)],
        [operand("vgpr", i) for i in (2, 3, 4)],
        {"op_sel": 1, "op_sel_hi": 1, "neg_lo": 4, "neg_hi": 2},
    ),
    (
        "dpp",
        (1 << 25 | 1 << 17 | 2 << 9 | 250, 3 | 0x111 << 8 | 1 << 19 | 1 << 20 | 8 << 20 | 0x5 << 24 | 0xA << 28),
        [operand("vgpr", 1)],
        [operand("vgpr", 3), operand("vgpr", 2)],
        {
            "neg": 1,
            "abs": 2,
            "dpp": {"present": True, "ctrl": 0x111, "row_mask": 0xA, "bank_mask": 5, "bound_ctrl": True},
        },
    ),
    (
        "sdwa",
        (52 << 25 | 1 << 17 | 2 << 9 | 249, 3 | 1 << 8 | 2 << 11 | 4 << 16 | 5 << 24 | 1 << 27),
        [operand("vgpr", 1)],
        [operand("vgpr", 3), operand("vgpr", 2)],
        {"sdwa": {"present": True, "dst_sel": 1, "dst_unused": 2, "src0_sel": 4, "src1_sel": 5, "sext": 2}},
    ),
    (
        "s_load_dwordx4 imm",
        (0xC00A0000 | 8 << 6 | 2, 0x1FFFF0),
        [operand("sgpr", 8, 4)],
        [operand("sgpr", 4, 2)],
        {"offset": -16},
    ),
    (
        "s_load_dword sgpr + imm",
        (0xC0024000 | 9 << 6 | 2, 7 << 25 | 0x10),
        [operand("sgpr", 9)],
        [operand("sgpr", 4, 2), NONE, operand("sgpr", 7)],
        {"offset": 16},
    ),
    ("s_store_dword", (0xC0420000 | 9 << 6 | 2, 4), [], [operand("sgpr", 4, 2), operand("sgpr", 9)], {"offset": 4}),
    (
        "s_atomic_cmpswap_x2 glc",
        (0xC2870000 | 8 << 6 | 2, 4),
        [operand("sgpr", 8, 2)],
        [operand("sgpr", 4, 2), operand("sgpr", 8, 4)],
        {"sc0": True},
    ),
    ("s_cmpk_eq_u32", (0xB4050000 | 0x8001,), [], [operand("sgpr", 5)], {"simm16": 0x8001}),
    (
        "ds_write2_b64",
        (0xD89C0907, 1 | 2 << 8 | 4 << 16),
        [],
        [operand("vgpr", 1), operand("vgpr", 2, 2), operand("vgpr", 4, 2)],
        {"offset0": 7, "offset1": 9, "offset": 0},
    ),
    (
        "ds_add_rtn_u32 acc",
        (0xDA400123, 1 | 2 << 8 | 3 << 24),
        [operand("agpr", 3)],
        [operand("vgpr", 1), operand("agpr", 2)],
        {"offset": 0x123},
    ),
    (
        "global_load_dwordx2 saddr",
        (0xDC549FF8, 1 | 4 << 16 | 6 << 24),
        [operand("vgpr", 6, 2)],
        [operand("vgpr", 1), NONE, operand("sgpr", 4, 2)],
        {"offset": -8},
    ),
    (
        "global_atomic_add_f32 returning",
        (0xDD358004, 2 | 9 << 8 | 0x7F << 16 | 6 << 24),
        [operand("vgpr", 6)],
        [operand("vgpr", 2, 2), operand("vgpr", 9)],
        {"sc0": True, "offset": 4},
    ),
    ("global_load_lds_dword", (0xDCA88000, 1 | 4 << 16), [], [operand("vgpr", 1), NONE, operand("sgpr", 4, 2)], {}),
    ("flat_store_dword", (0xDC700FFF, 2 | 9 << 8), [], [operand("vgpr", 2, 2), operand("vgpr", 9)], {"offset": 4095}),
    (
        "scratch_load_dword off",
        (0xDC505010, 33 << 16 | 6 << 24),
        [operand("vgpr", 6)],
        [NONE, NONE, operand("sgpr", 33)],
        {"offset": -4080},
    ),
    (
        "scratch_store_dword vaddr",
        (0xDC706010, 1 | 9 << 8 | 0x7F << 16),
        [],
        [operand("vgpr", 1), operand("vgpr", 9)],
        {"offset": 16},
    ),
    (
        "buffer_load_dwordx4 offen",
        (0xE05C1010 | 1 << 17, 1 | 8 << 8 | 3 << 16 | 5 << 24),
        [operand("vgpr", 8, 4)],
        [operand("vgpr", 1), NONE, operand("sgpr", 12, 4), operand("sgpr", 5)],
        {"offen": True, "idxen": False, "offset": 16, "nt": True},
    ),
    (
        "buffer_load_dword lds",
        (0xE0511000, 1 | 3 << 16 | 0x80 << 24),
        [],
        [operand("vgpr", 1), NONE, operand("sgpr", 12, 4), operand("inline_int", 128)],
        {"lds": True},
    ),
    (
        "buffer_atomic_cmpswap returning",
        (0xE1047000, 2 | 8 << 8 | 3 << 16 | 0x80 << 24),
        [operand("vgpr", 8)],
        [operand("vgpr", 2, 2), operand("vgpr", 8, 2), operand("sgpr", 12, 4), operand("inline_int", 128)],
        {"sc0": True, "offen": True, "idxen": True},
    ),
    (
        "v_mfma_f32_16x16x16_f16",
        (0xD3CD8004, V + 2 | V + 6 << 9 | V + 8 << 18 | 1 << 27),
        [operand("agpr", 4, 4)],
        [operand("agpr", 2, 2), operand("vgpr", 6, 2), operand("agpr", 8, 4)],
        {},
    ),
    (
        "v_mfma_f32_16x16x16_f16 constant",
        (0xD3CD1104, V + 2 | V + 6 << 9 | 242 << 18 | 5 << 29),
        [operand("vgpr", 4, 4)],
        [operand("vgpr", 2, 2), operand("vgpr", 6, 2), operand("inline_float", 242, 4, f32(1.0))],
        {"cbsz": 1, "abid": 2, "blgp": 5},
    ),
    (
        "v_smfmac_f32_16x16x32_f16",
        (0xD3E20004, V + 2 | V + 8 << 9 | V + 9 << 18),
        [operand("vgpr", 4, 4)],
        [operand("vgpr", 2, 2), operand("vgpr", 8, 4), operand("vgpr", 9)],
        {},
    ),
    ("v_accvgpr_write_b32", (0xD3D94003, 129 | 3 << 27), [operand("agpr", 3)], [operand("inline_int", 129, 1, 1)], {}),
    (
        "v_mfma_scale_f32_16x16x128_f8f6f4",
        (0xD3AC0800, V + 24 | V + 25 << 9 | 2 << 27, 0xD3AD0C00, V + 4 | V + 12 << 9 | V + 20 << 18 | 4 << 29),
        [operand("vgpr", 0, 4)],
        [operand("vgpr", 4, 4), operand("vgpr", 12, 4), operand("vgpr", 20, 4)],
        {
            "scale": [operand("vgpr", 24), operand("vgpr", 25)],
            "op_sel": 1,
            "op_sel_hi": 2,
            "cbsz": 4,
            "blgp": 4,
            "abid": 0,
            "size": 16,
            "encoding": "MAIX",
        },
    ),
]


@pytest.mark.parametrize(("name", "dwords", "dst", "src", "fields"), SLOTS, ids=[slot[0] for slot in SLOTS])
def test_slots(
    library: native.Library, name: str, dwords: tuple[int, ...], dst: list[Any], src: list[Any], fields: dict[str, Any]
) -> None:
    explained = library.explain("gfx950", words(*dwords))
    assert explained["op"] == name.split()[0] or name in ("dpp", "sdwa") or explained["op"] == name[:-4]
    assert explained["dst"] == dst + [NONE] * (2 - len(dst))
    assert explained["src"] == src + [NONE] * (4 - len(src))
    assert {key: explained[key] for key in fields} == fields
