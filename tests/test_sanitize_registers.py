"""Registers that nothing wrote, where an address, a branch, EXEC or stored data depends on them."""

from __future__ import annotations

import pytest
from emulator.assembly import TARGETS
from emulator.executor import library
from emulator.planted import Planted, expect, findings

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def _planted(name: str, write: str, use: str, at: str, other: str, what: tuple[str, ...], mend: str, lane: int = 0,
             items: int = 64) -> Planted:  # fmt: skip
    """`write` is what is missing before `use`; `at` begins the instruction that is named."""
    return Planted(name, use, f"{write}\n{use}", at, other, what, mend, lane, items)


_STORE = "global_store_dword v2, {}, s[6:7]"
_LOW_HALF = "s_mov_b64 exec, 0xffffffff\n"
FAULTS = [
    _planted("stored", "v_mov_b32_e32 v9, 0", _STORE.format("v9"), "global_store_dword", "",
             ("v9, stored data,", "nothing has written v9"), "write v9 before it"),
    _planted("stored from an accumulation register", "v_accvgpr_write_b32 a9, 0", _STORE.format("a9"),
             "global_store_dword", "", ("a9, stored data,",), "write a9 before it"),
    _planted("stored to LDS", "v_mov_b32_e32 v9, 0", "ds_write_b32 v2, v9", "ds_write_b32", "",
             ("v9, stored data,",), "write v9"),
    _planted("second register of four", "v_mov_b32_e32 v9, 0", "v_mov_b32_e32 v8, 0\nv_mov_b32_e32 v10, 0\n"
             "v_mov_b32_e32 v11, 0\nv_lshlrev_b32_e32 v3, 4, v1\nglobal_store_dwordx4 v3, v[8:11], s[6:7]",
             "global_store_dwordx4", "", ("v9, stored data,",), "write v9"),
    _planted("address", "v_mov_b32_e32 v9, 0", "global_load_dword v3, v9, s[4:5]", "global_load_dword", "",
             ("v9, an address,",), "write v9"),
    _planted("address in LDS", "v_mov_b32_e32 v9, 0", "ds_read_b32 v3, v9", "ds_read_b32", "", ("v9, an address,",),
             "write v9"),
    _planted("through arithmetic", "v_mov_b32_e32 v9, 0",
             "v_add_u32_e32 v10, v9, v1\nv_lshlrev_b32_e32 v10, 1, v10\nv_mul_lo_u32 v11, v10, v1\n"
             + _STORE.format("v11"), "global_store_dword", "v_add_u32_e32 v10, v9, v1",
             ("v11, stored data,", "it comes from v9"), "write v9 before `v_add_u32_e32"),
    _planted("in the lanes that were off", "v_mov_b32_e32 v9, 7",
             _LOW_HALF + "v_mov_b32_e32 v9, 0\ns_mov_b64 exec, -1\n" + _STORE.format("v9"), "global_store_dword", "",
             ("v9, stored data,",), "write v9", lane=32),
    _planted("upper half", "global_load_short_d16_hi v9, v2, s[4:5]", "global_load_short_d16 v9, v2, s[4:5]\n"
             "s_waitcnt vmcnt(0)\n" + _STORE.format("v9"), "global_store_dword", "", ("v9, stored data,",), "write v9"),
    _planted("another lane's", "v_mov_b32_e32 v9, 0",
             "v_mov_b32_dpp v10, v9 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf\n" + _STORE.format("v10"),
             "global_store_dword", "v_mov_b32_dpp", ("v10, stored data,", "it comes from v9"), "write v9"),
    _planted("scalar address", "s_mov_b32 s40, 0", "s_and_b32 s20, s40, 4\ns_load_dword s22, s[4:5], s20",
             "s_load_dword s22", "s_and_b32", ("s20, an address,", "it comes from s40"), "write s40", lane=-1),
    _planted("branch", "s_mov_b32 s40, 0", "s_cmp_eq_u32 s40, 0\ns_cbranch_scc1 .Lnext\ns_nop 0\n.Lnext:",
             "s_cbranch_scc1", "s_cmp_eq_u32", ("scc, on which the branch depends,", "it comes from s40"),
             "write s40", lane=-1),
    _planted("branch on vcc", "v_mov_b32_e32 v9, 0", "v_cmp_eq_u32_e32 vcc, v9, v1\ns_cbranch_vccz .Lnext\ns_nop 0\n"
             ".Lnext:", "s_cbranch_vccz", "v_cmp_eq_u32_e32", ("on which the branch depends", "it comes from v9"),
             "write v9", lane=-1),
    _planted("EXEC", "v_mov_b32_e32 v9, 0", "v_cmp_lt_u32_e64 s[20:21], v9, v1\n"
             "s_and_saveexec_b64 s[22:23], s[20:21]\ns_mov_b64 exec, s[22:23]", "s_and_saveexec_b64",
             "v_cmp_lt_u32_e64", ("s20, of which EXEC is made,", "it comes from v9"), "write v9", lane=-1),
    _planted("readfirstlane", "v_mov_b32_e32 v9, 0", "v_readfirstlane_b32 s20, v9\ns_load_dword s22, s[4:5], s20",
             "s_load_dword", "v_readfirstlane_b32", ("s20, an address,", "it comes from v9"), "write v9", lane=-1),
    _planted("a factor's row", "v_mov_b32_e32 v4, 0", "v_mov_b32_e32 v5, 0\nv_mov_b32_e32 v6, 0\nv_mov_b32_e32 v7, 0\n"
             "s_nop 1\nv_mfma_f32_16x16x16_f16 v[8:11], v[4:5], v[6:7], 0\ns_nop 7\ns_nop 7\n" + _STORE.format("v11"),
             "global_store_dword", "v_mfma_f32_16x16x16_f16", ("v11, stored data,", "it comes from v4"), "write v4"),
    _planted("a scalar in stored data", "s_mov_b32 s40, 0", "v_mov_b32_e32 v9, s40\n" + _STORE.format("v9"),
             "global_store_dword", "v_mov_b32_e32", ("v9, stored data,", "it comes from s40"), "write s40"),
]  # fmt: skip

# Row 5 of A is undefined: lanes 5, 21, 37, 53, which make row 5 of D: register 1 of lanes 16 to 31.
_MATRIX = ("s_mov_b32 exec_lo, 0xffdfffdf\ns_mov_b32 exec_hi, 0xffdfffdf\nv_mov_b32_e32 v4, 0\nv_mov_b32_e32 v5, 0\n"
           "s_mov_b64 exec, -1\nv_mov_b32_e32 v6, 0\nv_mov_b32_e32 v7, 0\ns_nop 1\n"
           "v_mfma_f32_16x16x16_f16 v[8:11], v[4:5], v[6:7], 0\ns_nop 7\ns_nop 7\n")  # fmt: skip
CLEAN = {
    "an undefined register that nothing uses": "v_add_u32_e32 v10, v9, v1\nv_mul_lo_u32 v11, v10, v10",
    "the other side of a select": "v_cmp_le_u32_e32 vcc, 0, v1\nv_cndmask_b32_e32 v10, v9, v1, vcc\n"
    + _STORE.format("v10"),
    "masked off": "v_cvt_f16_f32_e32 v3, v1\nglobal_load_ubyte_d16 v9, v2, s[4:5]\ns_waitcnt vmcnt(0)\n"
    "v_and_b32_e32 v10, 0xffff, v9\n" + _STORE.format("v10"),
    "shifted out": "global_load_short_d16 v9, v2, s[4:5]\ns_waitcnt vmcnt(0)\nv_lshlrev_b32_e32 v10, 16, v9\n"
    + _STORE.format("v10"),
    "two halves": "global_load_short_d16 v9, v2, s[4:5]\nglobal_load_short_d16_hi v9, v2, s[4:5]\n"
    "s_waitcnt vmcnt(0)\n" + _STORE.format("v9"),
    "bytes put together": "global_load_short_d16 v9, v2, s[4:5]\nglobal_load_short_d16 v10, v2, s[4:5]\n"
    "s_waitcnt vmcnt(0)\ns_mov_b32 s20, 0x05040100\nv_perm_b32 v11, v9, v10, s20\n" + _STORE.format("v11"),
    "stored low half": "global_load_short_d16 v9, v2, s[4:5]\ns_waitcnt vmcnt(0)\n"
    "global_store_short v2, v9, s[6:7]",
    "scalars kept in lanes": "s_mov_b32 s20, 5\nv_writelane_b32 v9, s20, 3\nv_readlane_b32 s21, v9, 3\n"
    "s_cmp_eq_u32 s21, 5\ns_cbranch_scc1 .Lnext\ns_nop 0\n.Lnext:",
    "lanes that are off": _LOW_HALF + "v_mov_b32_e32 v9, 0\n" + _STORE.format("v9"),
    "the low dword of a sum": "v_lshl_add_u64 v[10:11], v[2:3], 2, v[12:13]\nv_mov_b32_e32 v3, v1\n"
    + _STORE.format("v3"),
    "and with a known zero": "s_mov_b64 s[20:21], 0\ns_and_b64 s[22:23], s[20:21], s[40:41]\n"
    "s_and_saveexec_b64 s[24:25], s[22:23]\ns_mov_b64 exec, s[24:25]",
    "rows of a matrix that are not stored": _MATRIX + _STORE.format("v8") + "\ns_mov_b32 exec_lo, 0x0000ffff\n"
    + _STORE.format("v9"),
    "workgroup id and arguments": "v_mov_b32_e32 v9, s2\n" + _STORE.format("v9"),
    "cleared by itself": "v_sub_u32_e32 v10, v1, v1\n" + _STORE.format("v10"),
}  # fmt: skip

# Instructions whose result does not depend on what nothing wrote (v9, s30, s31): the result is in v10, or s20 and s21.
MOOT = """
v_xor_b32 v10, v9, v9
v_sub_u32 v10, v9, v9
v_subrev_u32 v10, v9, v9
v_sub_co_u32 v10, vcc, v9, v9
v_subrev_co_u32 v10, vcc, v9, v9
v_subb_co_u32 v10, vcc, v9, v9, s[24:25]
v_sub_i32 v10, v9, v9
v_sub_u16 v10, v9, v9
v_xor_b32_sdwa v10, v9, v9 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:BYTE_1 src1_sel:BYTE_1
v_pk_sub_u16 v10, v9, v9
v_pk_sub_i16 v10, v9, v9 op_sel:[1,1] op_sel_hi:[0,0]
v_sad_u32 v10, v9, v9, v1
v_and_b32 v10, 0, v9
v_and_b32 v10, v9, v3
v_or_b32 v10, -1, v9
v_or3_b32 v10, v1, -1, v9
v_and_or_b32 v10, v9, 0, v1
v_mul_lo_u32 v10, v9, 0
v_mul_lo_u32 v10, v3, v9
v_mul_hi_u32 v10, v9, 0
v_mul_hi_i32 v10, 0, v9
v_mul_u32_u24 v10, 0, v9
v_mul_i32_i24 v10, 0, v9
v_mul_hi_u32_u24 v10, 0, v9
v_mad_u32_u24 v10, v9, 0, v1
v_mul_legacy_f32 v10, 0, v9
v_mad_u64_u32 v[10:11], vcc, v9, 0, v[2:3]
v_min_u32 v10, 0, v9
v_max_u32 v10, -1, v9
v_bfe_u32 v10, v9, 3, 0
v_bfe_i32 v10, v9, v9, 0
v_cndmask_b32 v10, v1, v1, s[30:31]
v_cndmask_b32 v10, 5, 5, s[30:31]
v_cmp_eq_u32 s[20:21], v9, v9
v_cmp_lt_i16 s[20:21], v9, v9
v_cmp_f_f32 s[20:21], v9, v1
v_cmp_tru_f32 s[20:21], v9, v1
v_cmp_t_u32 s[20:21], v9, v1
v_cmp_gt_u32 s[20:21], 0, v9
v_cmp_le_u32 s[20:21], v9, -1
s_mul_i32 s20, 0, s30
s_mul_i32 s20, s30, 0
s_mul_hi_u32 s20, s30, 0
s_mul_hi_i32 s20, 0, s30
s_xor_b32 s20, s30, s30
s_xor_b64 s[20:21], s[30:31], s[30:31]
s_xnor_b32 s20, s30, s30
s_sub_u32 s20, s30, s30
s_sub_i32 s20, s30, s30
s_absdiff_i32 s20, s30, s30
s_andn2_b32 s20, s30, s30
s_orn2_b32 s20, s30, s30
s_and_b32 s20, s30, 0
s_or_b32 s20, -1, s30
s_nand_b32 s20, 0, s30
s_nor_b32 s20, s30, -1
s_min_u32 s20, s30, 0
s_max_u32 s20, -1, s30
s_bfe_u32 s20, s30, 5
s_bfe_i32 s20, 0, s30
s_lshl_b32 s20, 0, s30
s_ashr_i32 s20, 0, s30
s_cselect_b32 s20, s24, s24
s_cmp_eq_u32 s30, s30
s_cmp_lt_i32 s30, s30
s_cmp_eq_u64 s[30:31], s[30:31]
s_cmp_lt_u32 s30, 0
s_cmp_le_u32 0, s30
s_mulk_i32 s30, 0
""".strip().splitlines()
# Their neighbours, whose result does depend on it.
TELLING = """
v_xor_b32 v10, v9, v1
v_sub_f32 v10, v9, v9
v_subb_co_u32 v10, vcc, v9, v9, s[30:31]
v_xor_b32_sdwa v10, v9, v9 dst_sel:DWORD dst_unused:UNUSED_PAD src0_sel:BYTE_1 src1_sel:BYTE_2
v_pk_sub_u16 v10, v9, v9 op_sel:[1,0]
v_sad_u32 v10, v1, v1, v9
v_and_b32 v10, v9, v9
v_and_b32 v10, 1, v9
v_or_b32 v10, 1, v9
v_mul_lo_u32 v10, v9, v1
v_mul_f32 v10, 0, v9
v_mad_u32_u24 v10, v1, 0, v9
v_min_u32 v10, 1, v9
v_bfe_u32 v10, v9, 3, 1
v_cndmask_b32 v10, 5, 6, s[30:31]
v_cmp_eq_f32 s[20:21], v9, v9
v_cmp_ge_u32 s[20:21], 0, v9
v_cmp_gt_i32 s[20:21], 0, v9
s_mul_i32 s20, 1, s30
s_xor_b64 s[20:21], s[30:31], s[24:25]
s_subb_u32 s20, s30, s24
s_and_b32 s20, s30, s30
s_bfe_u32 s20, s30, 0x10005
s_min_i32 s20, s30, 0
s_cmp_le_u32 s30, 0
s_cmp_eq_u32 s30, s24
s_addk_i32 s30, 0
""".strip().splitlines()
_MOOT_START = "s_mov_b64 s[24:25], 5\nv_mov_b32_e32 v3, 0\n"


def _used(number: int, instruction: str) -> str:
    """The instruction, and a use of what it writes."""
    if instruction.startswith("s_cmp"):
        return f"{instruction}\ns_cbranch_scc1 .Lnext{number}\ns_nop 0\n.Lnext{number}:"
    words = instruction.replace(",", " ").replace("[", " ").replace(":", " ").split()
    store = _STORE.format("v10")
    uses = [store] if words[1].startswith("v") else [f"v_mov_b32_e32 v10, {words[1].replace('s ', 's')}", store]
    if words[1] == "s":  # a pair
        uses = ["v_mov_b32_e32 v10, s20", store]
    if "vcc" in words:
        uses += ["v_mov_b32_e32 v10, vcc_lo", store]
    # SCC says which side a minimum is, and is not what others write.
    if instruction.startswith("s_") and not instruction.startswith(("s_mul", "s_min", "s_max", "s_cselect", "s_addk")):
        uses += ["s_cselect_b32 s22, 1, 0", "v_mov_b32_e32 v10, s22", store]
    return "\n".join([instruction, *uses])


def _all_used(instructions: list[str]) -> str:
    return _MOOT_START + "\n".join(_used(number, text) for number, text in enumerate(instructions))


@pytest.mark.parametrize("target", TARGETS)
def test_results_that_do_not_depend_on_it_are_clean(target: str) -> None:
    found = findings(target, _all_used(MOOT), "registers")
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("target", TARGETS)
def test_results_that_depend_on_it_are_found(target: str) -> None:
    found = findings(target, _all_used(TELLING), "registers")
    named = sorted({f.other_pc: f.other_instruction.split()[0].removesuffix("_e32").removesuffix("_e64")
                    for f in found}.values())  # fmt: skip
    assert named == sorted(text.split()[0] for text in TELLING), "\n".join(map(str, found))


def test_a_truth_table_that_leaves_a_source_out() -> None:
    """v_bitop3: 0x00 asks for nothing, 0xcc for the second source, 0x5a for the first and the third."""
    for table, sources, clean in (
        (0x00, "v9, v9, v9", True), (0xCC, "v9, v1, v9", True), (0xCC, "v1, v9, v1", False),
        (0x5A, "v9, v1, v9", True), (0x5A, "v9, v1, v3", False),
    ):  # fmt: skip
        body = f"{_MOOT_START}v_bitop3_b32 v10, {sources} bitop3:{table:#x}\n{_STORE.format('v10')}"
        assert (not findings("gfx950", body, "registers")) == clean, (table, sources)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("planted", FAULTS, ids=str)
def test_faults_are_found_and_named(planted: Planted, target: str) -> None:
    expect(target, planted, "registers")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("body", CLEAN.values(), ids=CLEAN)
def test_dead_bits_are_clean(body: str, target: str) -> None:
    found = findings(target, body, "registers")
    assert not found, "\n".join(map(str, found))


@pytest.mark.parametrize("target", TARGETS)
def test_a_matrix_row_is_undefined_alone(target: str) -> None:
    (finding,) = findings(target, _MATRIX + _STORE.format("v9"), "registers")
    assert finding.lane == 16 and finding.what.startswith("v9, stored data,")
