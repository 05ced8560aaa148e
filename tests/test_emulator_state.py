"""What a wave starts with, and the instructions that change how it runs: VSKIP, GPR indexing, barriers, traps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator.assembly import FULL, TARGETS, Case, Kernel, assemble, device, kernel_text, run
from emulator.executor import library
from emulator.values import exec_mask, generator, integers

from aiterlite.emulator import (
    ControlFlowError,
    DeadlockError,
    InstructionLimitError,
    Module,
    Schedule,
    TrapError,
    UnsupportedInstructionError,
    use_library,
)

pytestmark = pytest.mark.emulated
LANES = np.arange(64, dtype=np.uint32)


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def load(target: str, body: str, kernel: Kernel | None = None, pointers: tuple[str, ...] = ("out",)) -> Module:
    return device(target).load(
        assemble(target, kernel_text(target, "k", body + "\ns_endpgm", kernel or Kernel(), pointers))
    )


@pytest.mark.parametrize("target", TARGETS)
def test_vskip_drops_vector_instructions(target: str) -> None:
    """Vector ALU, LDS and memory instructions are dropped, scalar ones run, and nothing else is disturbed."""
    value = integers(generator("vskip"))
    text = """
s_mov_b32 s20, 0x80000002
s_setvskip s20, 1
v_mov_b32_e32 v32, 7
v_cmp_eq_u32_e32 vcc, v8, v8
ds_write_b32 v4, v8
s_add_u32 s40, s40, 1
v_readfirstlane_b32 s41, v8
s_setvskip s20, 31
v_mov_b32_e32 v33, 7
s_setvskip s20, 0
v_mov_b32_e32 v34, 7
s_setvskip -1, 3
v_mfma_f32_4x4x1_16b_f32 v[36:39], v8, v8, 0
s_setvskip 0, 0
ds_read_b32 v35, v4
s_waitcnt lgkmcnt(0)
"""
    vector: dict[str, Any] = {"v4": LANES * np.uint32(4), "v8": value} | {f"v{r}": np.uint32(1) for r in range(32, 40)}
    read = ("v32", "v33", "v34", "v35", "v36", "s40", "s41", "vcc")
    scalar: dict[str | int, int] = {40: 5, 41: 6, "vcc_lo": 3, "vcc_hi": 4}
    got = run(target, [Case(text, vector, scalar, read)], Kernel(lds=256))[0]
    assert set(got["v32"]) == {1} and set(got["v33"]) == {1} and set(got["v34"]) == {7}
    assert set(got["v35"]) == {0}  # LDS was never written
    assert set(got["v36"]) == {1}
    assert (got["s40"], got["s41"], got["vcc"]) == (6, 6, 4 << 32 | 3)


@pytest.mark.parametrize("target", TARGETS)
def test_gpr_indexing(target: str) -> None:
    """M0 moves the register numbers of the operands that the mode names, from s_set_gpr_idx_on to _off."""
    registers = {f"v{r}": LANES + np.uint32(1000 * r) for r in range(8, 24)}
    cases = [
        Case(
            "s_set_gpr_idx_on s20, gpr_idx(SRC0)\nv_mov_b32_e32 v32, v8\ns_set_gpr_idx_off\nv_mov_b32_e32 v33, v8",
            registers,
            {20: 5},
            ("v32", "v33"),
        ),
        Case(
            "s_set_gpr_idx_on s20, gpr_idx(DST)\nv_mov_b32_e32 v32, v8\ns_set_gpr_idx_off",
            {**registers, "v36": LANES},
            {20: 4},
            ("v36",),
        ),
        Case(
            "s_set_gpr_idx_on s20, gpr_idx(SRC0,SRC1,DST)\nv_add_u32_e32 v32, v8, v9\ns_set_gpr_idx_off",
            registers,
            {20: 3},
            ("v35",),
        ),
        Case(
            (
                "s_set_gpr_idx_on s20, gpr_idx(SRC0)\nv_mov_b32_e32 v32, v8\n"
                "s_set_gpr_idx_idx s21\nv_mov_b32_e32 v33, v8\ns_set_gpr_idx_mode gpr_idx(SRC1)\n"
                "v_sub_u32_e32 v34, v8, v9\ns_set_gpr_idx_off"
            ),
            registers,
            {20: 1, 21: 2},
            ("v32", "v33", "v34"),
        ),
        Case(
            "s_set_gpr_idx_on s20, gpr_idx(SRC0)\ns_add_u32 s40, s40, 1\nv_mov_b32_e32 v32, s40\ns_set_gpr_idx_off",
            registers,
            {20: 3, 40: 8},
            ("v32",),
        ),
    ]
    got = run(target, cases)
    assert np.array_equal(got[0]["v32"], registers["v13"]) and np.array_equal(got[0]["v33"], registers["v8"])
    assert np.array_equal(got[1]["v36"], registers["v8"])
    assert np.array_equal(got[2]["v35"], registers["v11"] + registers["v12"])
    assert np.array_equal(got[3]["v32"], registers["v9"]) and np.array_equal(got[3]["v33"], registers["v10"])
    assert np.array_equal(got[3]["v34"], registers["v8"] - registers["v11"])
    assert set(got[4]["v32"]) == {9}


@pytest.mark.parametrize("target", TARGETS)
def test_gpr_indexing_out_of_range(target: str) -> None:
    module = load(
        target, "s_movk_i32 s20, 0xff\ns_set_gpr_idx_on s20, gpr_idx(SRC0)\nv_mov_b32_e32 v32, v8\ns_set_gpr_idx_off"
    )
    with pytest.raises(UnsupportedInstructionError, match="GPR indexing"):
        module.launch("k", 1, 64, {"out": np.zeros(1, np.uint32)})


START = """
s_load_dwordx2 s[20:21], s[0:1], 0
v_and_b32_e32 v1, 0x3ff, v0
v_bfe_u32 v2, v0, 10, 10
v_bfe_u32 v3, v0, 20, 10
s_mul_i32 s22, s4, {grid_y}
s_add_u32 s22, s22, s3
s_mul_i32 s22, s22, {grid_x}
s_add_u32 s22, s22, s2
v_mov_b32_e32 v4, {block_y}
v_mad_u32_u24 v4, v3, v4, v2
v_mov_b32_e32 v5, {block_x}
v_mad_u32_u24 v4, v4, v5, v1
s_mul_i32 s22, s22, {items}
v_add_u32_e32 v4, s22, v4
v_lshlrev_b32_e32 v4, 4, v4
v_lshlrev_b32_e32 v2, 10, v2
v_lshlrev_b32_e32 v3, 20, v3
v_or3_b32 v8, v1, v2, v3
v_mov_b32_e32 v9, s2
v_mov_b32_e32 v10, s3
v_mov_b32_e32 v11, s4
s_waitcnt lgkmcnt(0)
global_store_dwordx4 v4, v[8:11], s[20:21]
"""


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("seed", [0, 7])
def test_identifiers(target: str, threads: int, seed: int) -> None:
    """Workgroup and work-item numbers in three dimensions, a last wave that is not full."""
    grid, block = (3, 2, 4), (5, 7, 3)
    items = block[0] * block[1] * block[2]
    body = START.format(grid_x=grid[0], grid_y=grid[1], block_x=block[0], block_y=block[1], items=items)
    text = kernel_text(target, "k", body + "\ns_endpgm", Kernel(), ("out",))
    text = text.replace(
        ".amdhsa_next_free_vgpr",
        (
            ".amdhsa_system_sgpr_workgroup_id_y 1\n  .amdhsa_system_sgpr_workgroup_id_z 1\n"
            "  .amdhsa_system_vgpr_workitem_id 2\n  .amdhsa_next_free_vgpr"
        ),
    )
    out = np.full((4, 2, 3, 3, 7, 5, 4), 0xFFFFFFFF, np.uint32)
    device(target).load(assemble(target, text)).launch(
        "k", grid, block, {"out": out}, schedule=Schedule(seed=seed, threads=threads)
    )
    gz, gy, gx, z, y, x = np.indices(out.shape[:-1])
    assert np.array_equal(out[..., 0], x | y << 10 | z << 20)
    for axis, index in ((1, gx), (2, gy), (3, gz)):
        assert np.array_equal(out[..., axis], index)


@pytest.mark.parametrize("target", TARGETS)
def test_registers_start_with_the_fill(target: str) -> None:
    body = (
        "s_load_dwordx2 s[20:21], s[0:1], 0\nv_lshlrev_b32_e32 v1, 2, v0\n"
        "v_mov_b32_e32 v3, s60\nv_accvgpr_read_b32 v4, a77\nv_mov_b32_e32 v8, 0\n"
        "ds_read_b32 v5, v8 offset:8\ns_waitcnt lgkmcnt(0)\n"
        "global_store_dword v1, v200, s[20:21]\n"
        "global_store_dword v1, v3, s[20:21] offset:256\n"
        "global_store_dword v1, v4, s[20:21] offset:512\n"
        "global_store_dword v1, v5, s[20:21] offset:768"
    )
    module = load(target, body, Kernel(lds=64))
    for fill in (0, 0x7FC0_5A5A):
        out = np.ones(256, np.uint32)
        module.launch("k", 1, 64, {"out": out}, schedule=Schedule(fill=fill))
        assert set(out) == {fill}


@pytest.mark.parametrize("target", TARGETS)
def test_float_mode_comes_from_the_descriptor(target: str) -> None:
    """FLOAT_MODE, IEEE and DX10_CLAMP, as MODE shows them and as arithmetic feels them."""
    body = (
        "s_load_dwordx2 s[20:21], s[0:1], 0\nv_lshlrev_b32_e32 v1, 2, v0\n"
        "s_getreg_b32 s22, hwreg(HW_REG_MODE, 0, 10)\nv_mov_b32_e32 v2, s22\n"
        "v_mov_b32_e32 v3, 1\nv_add_f32_e32 v3, 0, v3\ns_waitcnt lgkmcnt(0)\n"
        "global_store_dword v1, v2, s[20:21]\n"
        "global_store_dword v1, v3, s[20:21] offset:256"
    )
    for denorm in (0, 3):
        for ieee in (False, True):
            text = kernel_text(target, "k", body + "\ns_endpgm", Kernel(ieee=ieee, dx10_clamp=not ieee), ("out",))
            text = text.replace(
                ".amdhsa_float_denorm_mode_32 3",
                f".amdhsa_float_denorm_mode_32 {denorm}\n  .amdhsa_float_round_mode_16_64 2",
            )
            out = np.zeros(128, np.uint32)
            device(target).load(assemble(target, text)).launch("k", 1, 64, {"out": out})
            assert out[0] == 2 << 2 | denorm << 4 | 3 << 6 | (not ieee) << 8 | ieee << 9
            assert out[64] == (1 if denorm else 0)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("quantum", [1, 5, 1 << 20])
def test_barriers(target: str, quantum: int) -> None:
    """Waves of a workgroup see each other's LDS behind a barrier, the later ones arriving much later; a wave that has
    ended holds nobody up."""
    body = """
s_load_dwordx2 s[20:21], s[0:1], 0
v_lshlrev_b32_e32 v1, 2, v0
v_xor_b32_e32 v2, 0x3fc, v1
v_mov_b32_e32 v3, v0
v_readfirstlane_b32 s22, v0
s_movk_i32 s23, 20
.Lround:
s_mov_b32 s24, s22
.Ldelay:
s_sub_u32 s24, s24, 1
s_cmp_gt_i32 s24, 0
s_cbranch_scc1 .Ldelay
ds_write_b32 v1, v3
s_waitcnt lgkmcnt(0)
s_barrier
ds_read_b32 v4, v2
s_waitcnt lgkmcnt(0)
s_barrier
v_mad_u32_u24 v3, v3, 3, v4
v_and_b32_e32 v3, 0xffff, v3
s_sub_u32 s23, s23, 1
s_cmp_lg_u32 s23, 0
s_cbranch_scc1 .Lround
s_cmp_eq_u32 s22, 64
s_cbranch_scc1 .Lend
s_barrier
s_barrier
.Lend:
global_store_dword v1, v3, s[20:21]
"""
    out = np.zeros(256, np.uint32)
    load(target, body, Kernel(lds=1024)).launch("k", 1, 256, {"out": out}, schedule=Schedule(quantum=quantum))
    values = np.arange(256, dtype=np.uint64)
    for _ in range(20):
        values = (values * 3 + values[::-1]) & 0xFFFF
    assert np.array_equal(out, values)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("threads", [0, 1, 2])
def test_workgroups_that_wait_for_each_other(target: str, threads: int) -> None:
    """A chain from the last workgroup to the first, each waiting for the next one's flag: all must be resident.

    64 are more than the CUs of an XCD. What is waited for goes with the square of their number.
    """
    body = """
s_load_dwordx2 s[20:21], s[0:1], 0
s_lshl_b32 s22, s2, 2
v_mov_b32_e32 v1, s22
v_mov_b32_e32 v2, 1
s_waitcnt lgkmcnt(0)
s_cmp_eq_u32 s2, 63
s_cbranch_scc1 .Lgo
.Lwait:
s_sleep 1
global_load_dword v3, v1, s[20:21] offset:4 sc0 sc1
s_waitcnt vmcnt(0)
v_readfirstlane_b32 s23, v3
s_cmp_eq_u32 s23, 0
s_cbranch_scc1 .Lwait
v_add_u32_e32 v2, 1, v3
.Lgo:
global_store_dword v1, v2, s[20:21] sc0 sc1
"""
    out = np.zeros(64, np.uint32)
    load(target, body).launch("k", 64, 64, {"out": out}, schedule=Schedule(threads=threads))
    assert np.array_equal(out, np.arange(64, 0, -1))


@pytest.mark.parametrize("target", TARGETS)
def test_stops(target: str) -> None:
    """What ends a launch otherwise, by its own error, with the place."""
    out = {"out": np.zeros(1, np.uint32)}
    with pytest.raises(TrapError, match="s_trap 2") as trapped:
        load(target, "s_nop 0\ns_trap 2").launch("k", 1, 64, out)
    assert (trapped.value.pc, trapped.value.instruction, trapped.value.workgroup) == (4, "s_trap 2", (0, 0, 0))
    with pytest.raises(InstructionLimitError, match="1000"):
        load(target, ".Lx:\ns_nop 0\ns_branch .Lx").launch("k", 1, 64, out, max_instructions=1000)
    with pytest.raises(ControlFlowError):
        load(target, "s_mov_b64 s[4:5], 64\ns_setpc_b64 s[4:5]").launch("k", 1, 64, out)
    with pytest.raises(ControlFlowError):
        load(target, ".long 0xbf820001\ns_mov_b32 s4, 0x12345678").launch("k", 1, 64, out)
    with pytest.raises(UnsupportedInstructionError, match="0xbf9f0000|bf9f0000") as unknown:
        load(target, ".long 0xbf9f0000").launch("k", 1, 64, out)
    assert unknown.value.pc == 0
    with pytest.raises(UnsupportedInstructionError, match="no semantics"):
        load(target, "s_sendmsg sendmsg(MSG_INTERRUPT)").launch("k", 1, 64, out)


@pytest.mark.parametrize("target", TARGETS)
def test_code_that_is_not_reached_may_be_anything(target: str) -> None:
    load(target, "s_branch .Lend\n.long 0xffffffff\n.long 0xbf9f0000\n.Lend:\ns_nop 0").launch(
        "k", 1, 64, {"out": np.zeros(1, np.uint32)}
    )


@pytest.mark.parametrize("target", TARGETS)
def test_a_barrier_nobody_can_pass(target: str) -> None:
    """Not a deadlock: waves that wait alone are released when the others end."""
    body = "v_readfirstlane_b32 s4, v0\ns_cmp_lg_u32 s4, 0\ns_cbranch_scc1 .Lend\ns_barrier\n.Lend:\ns_nop 0"
    load(target, body).launch("k", 1, 256, {"out": np.zeros(1, np.uint32)})
    assert issubclass(DeadlockError, Exception)


@pytest.mark.parametrize("target", TARGETS)
def test_exec_of_zero(target: str) -> None:
    """Vector instructions with no active lane change no register, and touch no memory."""
    mask = exec_mask(generator("zero"))
    value = integers(generator("zero", 1))
    text = (
        "v_mov_b32_e32 v32, 5\nv_cmp_eq_u32_e64 s[40:41], v8, v8\n"
        "global_load_dword v32, v[8:9], off\nglobal_store_dword v[8:9], v8, off\n"
        "ds_read_b32 v32, v8\nbuffer_load_dword v32, v8, s[20:23], 0 offen"
    )
    got = run(
        target,
        [
            Case(
                text,
                {"v8": value, "v9": value, "v32": np.uint32(3)},
                {20: 0, 21: 0, 22: -1, 23: 0x20000},
                ("v32", "s40", "s41"),
                exec=0,
            )
        ],
    )[0]
    assert set(got["v32"]) == {3} and got["s40"] == got["s41"] == 0
    assert mask != FULL


@pytest.mark.parametrize("target", TARGETS)
def test_time_advances(target: str) -> None:
    body = (
        "s_memtime s[40:41]\ns_waitcnt lgkmcnt(0)\ns_nop 0\ns_nop 0\ns_memtime s[42:43]\n"
        "s_waitcnt lgkmcnt(0)\ns_sub_u32 s44, s42, s40\ns_memrealtime s[46:47]\n"
        "s_waitcnt lgkmcnt(0)"
    )
    got = run(target, [Case(body, read=("s44",))])[0]
    assert got["s44"] > 0
