"""Missing wait states: each pair of instructions one short of what it needs, and with what it needs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from emulator.assembly import TARGETS
from emulator.executor import library
from emulator.planted import findings

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


@dataclass(frozen=True)
class Pair:
    """`first` and `then` need `need` wait states between them on (gfx942, gfx950); None: not an instruction there."""

    name: str
    first: str
    then: str
    need: tuple[int | None, int | None]
    register: str
    setup: str = ""

    def __str__(self) -> str:
        return self.name


_F16 = "v_mfma_f32_16x16x16_f16 v[8:11], v[4:5], v[6:7], 0"
_F16_WIDE = "v_mfma_f32_32x32x8_f16 v[16:31], v[4:5], v[6:7], 0"
_F32 = "v_mfma_f32_16x16x4_f32 v[8:11], v4, v5, 0"
_F64 = "v_mfma_f64_16x16x4_f64 v[8:15], v[4:5], v[6:7], 0"
_F64_SMALL = "v_mfma_f64_4x4x4_4b_f64 v[8:9], v[4:5], v[6:7], 0"
PAIRS = [
    Pair("matrix result to vector ALU", _F16, "v_add_f32_e32 v20, v9, v9", (7, 8), "v9"),
    Pair("8 passes to vector ALU", _F16_WIDE, "v_add_f32_e32 v40, v31, v31", (11, 12), "v31"),
    Pair("f32 matrix to vector ALU", _F32, "v_add_f32_e32 v20, v8, v8", (10, 10), "v8"),
    Pair("f64 matrix to vector ALU", _F64, "v_mov_b32_e32 v20, v15", (11, 19), "v15"),
    Pair("small f64 matrix to vector ALU", _F64_SMALL, "v_mov_b32_e32 v20, v9", (6, 6), "v9"),
    Pair("f64 matrix to memory", _F64, "global_store_dword v2, v15, s[6:7]", (18, 18), "v15"),
    Pair("matrix result to a store", _F16, "global_store_dword v2, v11, s[6:7]", (7, 8), "v11"),
    Pair("matrix result to LDS", _F16, "ds_write_b32 v2, v8", (7, 8), "v8"),
    Pair("matrix result to accvgpr_read", _F16.replace("v[8:11]", "a[8:11]"), "v_accvgpr_read_b32 v20, a9", (7, 8),
         "a9"),
    Pair("matrix result overwritten", _F16, "v_mov_b32_e32 v10, 0", (7, 8), "v10"),
    Pair("matrix result overwritten by a load", _F16, "global_load_dword v10, v2, s[4:5]", (7, 8), "v10"),
    Pair("matrix result to a factor", _F16, "v_mfma_f32_16x16x16_f16 v[12:15], v[8:9], v[6:7], 0", (7, 8), "v8"),
    Pair("f32 matrix result to a factor", _F32, "v_mfma_f32_16x16x16_f16 v[12:15], v[8:9], v[6:7], 0", (10, 10), "v8"),
    Pair("matrix result to part of an accumulator", _F16, "v_mfma_f32_32x32x8_f16 v[32:47], v[4:5], v[6:7], v[0:15]",
         (5, 6), "v8"),
    Pair("sparse accumulator", _F16, "v_smfmac_f32_16x16x32_f16 v[12:15], v[4:5], v[20:23], v9", (7, 8), "v9"),
    Pair("accumulator overwritten", "v_mfma_f32_16x16x16_f16 v[8:11], v[4:5], v[6:7], v[12:15]", "v_mov_b32_e32 v13, 0",
         (3, 3), "v13"),
    Pair("f64 matrix to v_fma_f64", _F64_SMALL, "v_fma_f64 v[20:21], v[22:23], v[22:23], v[22:23]", (2, 2), "v8"),
    Pair("vector ALU to matrix", "v_mov_b32_e32 v4, 0", _F16, (2, 2), "v4"),
    Pair("EXEC to matrix", "v_cmpx_lt_u32_e32 vcc, v1, v1", _F16, (4, 4), "exec", "s_mov_b64 s[20:21], exec"),
    Pair("dot product to vector ALU", "v_dot2_f32_f16 v3, v4, v5, v6", "v_mov_b32_e32 v7, v3", (3, 3), "v3"),
    Pair("dot product to the same one's factor", "v_dot2_f32_f16 v3, v4, v5, v6", "v_dot2_f32_f16 v7, v3, v5, v6",
         (3, 3), "v3"),
    Pair("scalar to vector ALU", "v_readfirstlane_b32 s20, v1", "v_mov_b32_e32 v3, s20", (2, 2), "s20"),
    Pair("vcc as carry", "v_cmp_lt_u32_e32 vcc, v1, v2", "v_cndmask_b32_e32 v3, v1, v2, vcc", (2, 2), "vcc_lo"),
    Pair("scalar to memory", "v_readfirstlane_b32 s7, v3", "global_store_dword v2, v1, s[6:7]", (5, 5), "s7",
         "v_mov_b32_e32 v3, s7"),
    Pair("vcc to v_div_fmas", "v_cmp_lt_u32_e32 vcc, v1, v2", "v_div_fmas_f32 v3, v1, v2, v1", (4, 4), "vcc"),
    Pair("lane select", "v_readfirstlane_b32 s20, v1", "v_readlane_b32 s21, v2, s20", (4, 4), "s20"),
    Pair("readlane", "v_mov_b32_e32 v3, v1", "v_readlane_b32 s21, v3, 5", (1, 1), "v3"),
    Pair("transcendental", "v_exp_f32_e32 v3, v1", "v_add_f32_e32 v4, v3, v3", (1, 1), "v3"),
    Pair("part of a register", "v_add_u32_sdwa v3, v1, v2 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:DWORD "
         "src1_sel:DWORD", "v_mov_b32_e32 v4, v3", (1, 1), "v3"),
    Pair("high half", "v_add_i16 v3, v1, v2 op_sel:[0,0,1]", "v_mov_b32_e32 v4, v3", (1, 1), "v3"),
    Pair("DPP", "v_mov_b32_e32 v3, v1", "v_mov_b32_dpp v4, v3 quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf", (2, 2),
         "v3"),
    Pair("EXEC to DPP", "v_cmpx_lt_u32_e32 vcc, v1, v2", "v_mov_b32_dpp v4, v5 quad_perm:[1,0,3,2] row_mask:0xf "
         "bank_mask:0xf", (5, 5), "exec"),
    Pair("m0 to s_movrels", "s_mov_b32 m0, 0", "s_movrels_b32 s20, s4", (1, 1), "m0"),
    Pair("m0 to a load to LDS", "s_mov_b32 m0, 0", "global_load_lds_dword v2, s[4:5]", (1, 1), "m0"),
    Pair("hardware register", "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 0", "s_getreg_b32 s20, hwreg(HW_REG_MODE)",
         (2, 2), "hardware register"),
    Pair("s_setvskip", "s_setvskip 0, 0", "v_mov_b32_e32 v3, v1", (1, 1), "MODE.vskip"),
    Pair("MODE.vskip by s_setreg", "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 28, 1), 0", "ds_write_b32 v2, v1", (2, 2),
         "MODE.vskip"),
    Pair("wide stored data", "global_store_dwordx4 v2, v[4:7], s[6:7]", "v_mov_b32_e32 v6, 0", (2, 2), "v6"),
    Pair("permlane swap", "v_mov_b32_e32 v3, v1", "v_permlane32_swap_b32_e32 v3, v4", (None, 2), "v3"),
    Pair("4-bit conversion", "v_cvt_scalef32_pk_fp4_f32 v3, v1, v2, v4", "v_mov_b32_e32 v5, v3", (None, 1), "v3"),
]  # fmt: skip


def _nops(states: int) -> str:
    return "\n".join(f"s_nop {min(8, states - i) - 1}" for i in range(0, states, 8))


def _body(pair: Pair, states: int) -> str:
    # What the setup and the launch leave in flight is long over.
    return "\n".join([pair.setup, _nops(24), pair.first, _nops(states), pair.then])


def _cases() -> list[tuple[Pair, str, int]]:
    return [(p, t, n) for p in PAIRS for t, n in zip(TARGETS, p.need, strict=True) if n is not None]


@pytest.mark.parametrize(("pair", "target", "need"), _cases(), ids=str)
def test_one_wait_state_too_few_is_found(pair: Pair, target: str, need: int) -> None:
    (finding,) = findings(target, _body(pair, need - 1), "hazards")
    assert finding.check == "hazards"
    assert finding.instruction.split()[0] == pair.then.split()[0]
    assert finding.other_instruction.split()[0] == pair.first.split()[0]
    assert finding.what.startswith(pair.register) or pair.register in finding.what.split(" is ")[0], finding.what
    assert f"{need - 1} wait state" in finding.what and f"{need} {'is' if need == 1 else 'are'} needed" in finding.what
    assert finding.mend == "1 more wait state (`s_nop 0`) before it"


@pytest.mark.parametrize(("pair", "target", "need"), _cases(), ids=str)
def test_the_mended_twin_is_clean(pair: Pair, target: str, need: int) -> None:
    assert not findings(target, _body(pair, need), "hazards")


@pytest.mark.parametrize(("pair", "target", "need"), _cases(), ids=str)
def test_all_missing_wait_states_are_asked_for(pair: Pair, target: str, need: int) -> None:
    (finding,) = findings(target, _body(pair, 0), "hazards")
    assert finding.what.count(" 0 wait states after ") == 1
    assert finding.mend.startswith(f"{need} more wait state")
    states = sum(int(text.split("`")[0]) + 1 for text in finding.mend.split("s_nop ")[1:])
    assert states == need


CLEAN = {
    "an accumulator that is exactly the result": f"{_F16}\nv_mfma_f32_16x16x16_f16 v[8:11], v[4:5], v[6:7], v[8:11]",
    "other registers": f"{_F16}\nv_mov_b32_e32 v12, v7",
    "a dot product that accumulates": "v_dot2_f32_f16 v3, v4, v5, v6\nv_dot2_f32_f16 v3, v4, v5, v3",
    "one transcendental after another": "v_exp_f32_e32 v3, v1\nv_exp_f32_e32 v4, v3",
    "narrow stored data": "global_store_dwordx2 v2, v[4:5], s[6:7]\nv_mov_b32_e32 v5, 0",
    "a scalar that the scalar ALU wrote": "s_mov_b32 s20, 0\nv_mov_b32_e32 v3, s20",
    "matrix instructions take their passes": "\n".join([_F16_WIDE,
        "v_mfma_f32_32x32x8_f16 v[32:47], v[4:5], v[6:7], 0", "v_mfma_f32_32x32x8_f16 v[48:63], v[4:5], v[6:7], 0",
        "v_mov_b32_e32 v70, v16"]),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("body", CLEAN.values(), ids=CLEAN)
def test_what_needs_no_wait_states_is_clean(body: str, target: str) -> None:
    assert not findings(target, _nops(24) + "\n" + body, "hazards")
