"""Registers that a kernel descriptor does not allocate: refused by name, in the code that the kernel reaches."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from emulator import assembly, executor
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text

from aiterlite import emulator
from aiterlite.emulator import Module, RegisterAllocationError, UnsupportedInstructionError

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(assembly.clang() is None, reason="no AMDGPU clang")]
each_target = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(scope="module", autouse=True)
def library() -> None:
    emulator.use_library(str(executor.library()))


def descriptor(text: str, vgpr: int, accum: int, sgpr: int = 100) -> str:
    """The kernel text with other registers in its descriptor: `.amdhsa_next_free_vgpr` and so on."""
    for name, old, new in (("next_free_vgpr", 512, vgpr), ("accum_offset", 256, accum), ("next_free_sgpr", 100, sgpr)):
        assert f".amdhsa_{name} {old}\n" in text
        text = text.replace(f".amdhsa_{name} {old}\n", f".amdhsa_{name} {new}\n")
    return text


def image(target: str, body: str, vgpr: int = 32, accum: int = 32, sgpr: int = 100) -> bytes:
    return assemble(
        target, descriptor(kernel_text(target, "k", body + "\ns_endpgm", Kernel(), ("out",)), vgpr, accum, sgpr)
    )


def run(module: Module, kernel: str = "k") -> None:
    module.launch(kernel, 1, 64, {"out": np.zeros(64, np.uint32)})


@dataclass(frozen=True)
class Past:
    """A body that names a register past the end: the instruction at fault, the register, and part of the remedy."""

    body: str
    instruction: str
    register: str
    mend: str
    vgpr: int = 32
    accum: int = 32
    sgpr: int = 100


PAST = {
    "a result": Past("s_nop 0\nv_mov_b32_e32 v32, 0", "v_mov_b32_e32 v32, 0", "v32", "next_free_vgpr to 33"),
    "a source": Past("v_add_u32_e32 v40, v39, v41", "v_add_u32_e32 v40, v39, v41", "v41", "v0 to v31"),
    "the last of a result": Past(
        "s_branch .Lx\n.Lx:\nglobal_load_dwordx4 v[30:33], v[2:3], off", "global_load_dwordx4 v[30:33]", "v33", "34"
    ),
    "the last of stored data": Past("ds_write_b128 v0, v[30:33]", "ds_write_b128", "v33", "next_free_vgpr to 34"),
    "an index register": Past("v_mfma_f32_4x4x1_16b_f32 v[0:3], v4, v35, 0", "v_mfma_f32_4x4x1", "v35", "36"),
    # 33 registers are allocated as 40.
    "past the granule": Past("v_mov_b32_e32 v40, 0", "v_mov_b32_e32 v40", "v40", "v0 to v39", vgpr=33, accum=36),
    "no AGPRs": Past("v_accvgpr_write_b32 a0, 1", "v_accvgpr_write_b32 a0, 1", "a0", "none of that kind"),
    "an AGPR": Past("v_accvgpr_read_b32 v1, a8", "v_accvgpr_read_b32 v1, a8", "a8", "next_free_vgpr to 41", vgpr=40),
    "a loaded AGPR": Past("global_load_dwordx2 a[8:9], v[2:3], off", "global_load_dwordx2", "a9", "a0 to a7", vgpr=40),
    "a stored AGPR": Past("ds_write_b32 v0, a9", "ds_write_b32 v0, a9", "a9", "a0 to a7", vgpr=40),
    "an accumulator": Past(
        "v_mfma_f32_4x4x1_16b_f32 a[8:11], v4, v5, 0", "v_mfma_f32_4x4x1", "a11", "next_free_vgpr to 44", vgpr=40
    ),
    "both of one register": Past(
        "v_mov_b32_e32 v35, 1\nv_accvgpr_write_b32 a3, 2", "v_accvgpr_write_b32 a3", "a3", "accum_offset", vgpr=40
    ),
    # 10 and the 6 that the assembler adds for VCC, XNACK_MASK and FLAT_SCRATCH.
    "a scalar result": Past("s_mov_b32 s16, 0", "s_mov_b32 s16, 0", "s16", "next_free_sgpr to 17", sgpr=10),
    "scalars loaded": Past("s_load_dwordx8 s[12:19], s[0:1], 0", "s_load_dwordx8", "s19", "s0 to s15", sgpr=10),
    "a scalar source": Past("v_add_u32_e32 v1, s17, v1", "v_add_u32_e32 v1, s17, v1", "s17", "s0 to s15", sgpr=10),
    "a mask": Past("v_cmp_eq_u32_e64 s[16:17], v0, v1", "v_cmp_eq_u32_e64", "s17", "s0 to s15", sgpr=10),
    "a buffer resource": Past("buffer_load_dword v1, off, s[16:19], 0", "buffer_load_dword", "s19", "20", sgpr=10),
    "behind a branch": Past(
        "s_cmp_eq_u32 s2, 77\ns_cbranch_scc1 .Lx\ns_endpgm\n.Lx:\nv_mov_b32_e32 v50, 0",
        "v_mov_b32_e32 v50",
        "v50",
        "51",
    ),
}


@each_target
@pytest.mark.parametrize("name", PAST)
def test_past_the_end(name: str, target: str) -> None:
    """The kernel does not start, and the error names the place, the register and what to raise."""
    case = PAST[name]
    code = image(target, case.body, case.vgpr, case.accum, case.sgpr)
    with pytest.raises(RegisterAllocationError) as caught:
        run(device(target).load(code))
    error = caught.value
    assert error.kernel == "k" and error.register == case.register and error.workgroup == ()
    assert error.instruction.startswith(case.instruction)
    message = str(error)
    for part in ("kernel `k`", f"(pc {error.pc:#x}) `{error.instruction}`", case.register, case.mend):
        assert part in message, message
    (listed,) = emulator.unallocated_registers(code)
    assert (listed["kernel"], listed["count"], listed["pc"]) == ("k", 1, error.pc)
    assert listed["instruction"] == error.instruction and listed["highest"] == case.register
    assert listed["what"] in message


WITHIN = {
    "the last of each": (
        "v_mov_b32_e32 v31, 0\nv_accvgpr_write_b32 a7, 0\ns_mov_b32 s15, 0\nv_mov_b64_e32 v[30:31], 0", 40, 32, 10
    ),
    "the whole granule": ("v_mov_b32_e32 v39, 0", 33, 36, 10),
    "AGPRs of the granule": ("v_accvgpr_write_b32 a3, 0", 33, 36, 10),
    # VGPRs behind accum_offset are there, if nothing uses them as AGPRs.
    "no AGPR in use": ("v_mov_b32_e32 v63, 0", 64, 32, 10),
    "another AGPR in use": ("v_mov_b32_e32 v63, 0\nv_accvgpr_write_b32 a30, 0", 64, 32, 10),
    "all are VGPRs": ("v_mov_b32_e32 v255, 0", 256, 256, 10),
    "all there are": ("v_mov_b32_e32 v255, 0\nv_accvgpr_write_b32 a255, 0\ns_mov_b32 s101, 0", 512, 256, 96),
    "special registers": (
        "s_mov_b64 vcc, 0\ns_mov_b64 flat_scratch, 0\ns_mov_b64 xnack_mask, 0\ns_mov_b32 m0, 0\n"
        "s_mov_b64 s[4:5], exec\ns_mov_b32 s6, ttmp11\ns_mov_b64 s[8:9], src_shared_base\n"
        "v_addc_co_u32_e32 v1, vcc, 0, v1, vcc",
        32, 32, 10,
    ),
    "behind the end": ("s_endpgm\nv_mov_b32_e32 v200, 0\ns_mov_b32 s90, 0", 32, 32, 10),
    "jumped over": ("s_branch .Lx\nv_mov_b32_e32 v200, 0\n.Lx:\ns_nop 0", 32, 32, 10),
    "data to LDS": ("s_mov_b32 m0, 0\nbuffer_load_dword v1, s[4:7], 0 offen lds", 32, 32, 10),
}  # fmt: skip


@each_target
@pytest.mark.parametrize("name", WITHIN)
def test_within(name: str, target: str) -> None:
    body, vgpr, accum, sgpr = WITHIN[name]
    code = image(target, body, vgpr, accum, sgpr)
    assert emulator.unallocated_registers(code) == []
    if name != "data to LDS":  # which has no LDS to go to
        run(device(target).load(code))


# A function that uses 61 VGPRs, and how a kernel calls it.
FAR = """
.globl far
.hidden far
.p2align 8
.type far,@function
far:
v_mov_b32_e32 v60, 0
s_setpc_b64 s[30:31]
.size far, .-far
"""
ADDRESS = "s_getpc_b64 s[4:5]\ns_add_u32 s4, s4, far@rel32@lo+4\ns_addc_u32 s5, s5, far@rel32@hi+12\n"
CALLS = {
    "at once": ADDRESS + "s_swappc_b64 s[30:31], s[4:5]",
    "through another register": ADDRESS + "s_mov_b64 s[8:9], s[4:5]\ns_nop 0\ns_swappc_b64 s[30:31], s[8:9]",
    # Where a jump is to an unknown place, the functions count whose addresses are known.
    "far from its address": ADDRESS + "s_branch .Lx\n.Lx:\ns_swappc_b64 s[30:31], s[4:5]",
    "directly": "s_call_b64 s[30:31], far",
    # An address that is known when the kernel runs.
    "computed": f"{ADDRESS}s_sub_u32 s4, s4, s16\ns_subb_u32 s5, s5, 0\ns_swappc_b64 s[30:31], s[4:5]".replace(
        "+4", "+8"
    ),
}


def with_far(target: str, body: str, registers: int) -> bytes:
    text = kernel_text(target, "k", f"s_mov_b32 s16, 4\n{body}\ns_endpgm", Kernel(), ("out",))
    return assemble(target, descriptor(text, registers, registers).replace(".text\n", f".text\n{FAR}", 1))


@each_target
@pytest.mark.parametrize("call", CALLS)
def test_functions_count_for_the_kernels_that_call_them(target: str, call: str) -> None:
    for fine in (with_far(target, CALLS[call], 64), with_far(target, "s_nop 0", 32), with_far(target, ADDRESS, 32)):
        assert emulator.unallocated_registers(fine) == []
        run(device(target).load(fine))
    code = with_far(target, CALLS[call], 32)
    module = device(target).load(code)
    for _ in range(2):
        with pytest.raises(RegisterAllocationError) as caught:
            run(module)
        assert (caught.value.register, caught.value.instruction) == ("v60", "v_mov_b32_e32 v60, 0")
        # Found where the wave jumps, or before the kernel starts.
        assert caught.value.workgroup == ((0, 0, 0) if call == "computed" else ())
    assert len(emulator.unallocated_registers(code)) == (call != "computed")


# A body with the number of a register open, one that is past the end, one that is not, and what is said.
GPR = "s_movk_i32 s20, {}\ns_set_gpr_idx_on s20, gpr_idx({})\n{}\ns_set_gpr_idx_off"
INDEXED = {
    "a VGPR": (GPR.format(24, "SRC0", "v_mov_b32_e32 v1, v{base}"), 8, 7, "v32", "GPR index 24"),
    "a pair": (GPR.format(24, "DST", "v_mov_b64_e32 v[{base}:{base}+1], 0"), 8, 6, "v33", "GPR index 24"),
    "an AGPR": (GPR.format(4, "SRC0", "v_accvgpr_read_b32 v1, a{base}"), 4, 3, "a8", "GPR index 4"),
    "one of two names": (
        GPR.format(4, "DST", "v_mov_b32_e32 v{base}, 0\nv_accvgpr_write_b32 a0, 0"),
        28,
        27,
        "v32",
        "a0",
    ),
    "a scalar read": ("s_mov_b32 m0, 4\ns_movrels_b32 s4, s{base}", 28, 27, "s32", "4 in M0"),
    "a scalar pair written": ("s_mov_b32 m0, 4\ns_movreld_b64 s[{base}:{base}+1], 0", 28, 26, "s33", "4 in M0"),
}


@each_target
@pytest.mark.parametrize("name", INDEXED)
def test_an_index_past_the_end(name: str, target: str) -> None:
    """What M0 moves is known when it is executed: the first past the end, and the last within."""
    body, past, within, register, how = INDEXED[name]
    vgpr = 40 if "AGPR" in name or "names" in name else 32
    with pytest.raises(RegisterAllocationError, match=how) as caught:
        run(device(target).load(image(target, body.format(base=past), vgpr, sgpr=26)))
    assert (caught.value.register, caught.value.workgroup) == (register, (0, 0, 0))
    run(device(target).load(image(target, body.format(base=within), vgpr, sgpr=26)))


@each_target
def test_an_index_past_the_register_file(target: str) -> None:
    with pytest.raises(UnsupportedInstructionError, match="past the register file"):
        run(device(target).load(image(target, "s_movk_i32 s20, 200\ns_mov_b32 m0, s20\ns_movrels_b32 s4, s8")))
