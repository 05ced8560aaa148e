"""GPR indexing, instruction by instruction: what M0 moves, what it leaves alone, and what is refused.

The table of the manuals (CDNA3 and CDNA4 instruction set architecture, 6.6.2) is behind the cases of lane moves,
v_fmac, v_fmamk and SDWA.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from emulator import assembly
from emulator.assembly import TARGETS, Case, Kernel, assemble, device, kernel_text, run
from emulator.executor import library
from emulator.planted import findings

from aiterlite.emulator import UnsupportedInstructionError, use_library

pytestmark = [pytest.mark.emulated, pytest.mark.skipif(assembly.clang() is None, reason="no AMDGPU clang")]
each_target = pytest.mark.parametrize("target", TARGETS)
LANES = np.arange(64, dtype=np.uint32)


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


# v8 to v15, a0 to a3, v32 to v36 before each case: the register's number times 1000, and the lane.
VECTOR: dict[str, Any] = {f"v{r}": LANES + np.uint32(1000 * r) for r in (*range(8, 16), *range(32, 37))}
ACCUMULATORS = [LANES + np.uint32(1000 * (100 + r)) for r in range(4)]


@dataclass(frozen=True)
class Indexed:
    """One instruction under a mode and an index, and what registers hold after it."""

    mode: str
    index: int
    text: str
    expected: dict[str, Any] = field(default_factory=dict)
    vector: dict[str, Any] = field(default_factory=dict)


def lane(values: Any, number: int, value: int) -> Any:
    changed = np.asarray(values).copy()
    changed[number] = value
    return changed


def f32(value: float) -> Any:
    return np.full(64, value, np.float32).view(np.uint32)


V = VECTOR
INDEXED = {
    "writelane": Indexed("DST", 1, "v_writelane_b32 v32, 7, 3", {"v33": lane(V["v33"], 3, 7), "v32": V["v32"]}),
    "writelane, all bits": Indexed(
        "SRC0,SRC1,SRC2,DST", 2, "v_writelane_b32 v32, s40, 5", {"v34": lane(V["v34"], 5, 77), "v32": V["v32"]}
    ),
    "writelane, sources": Indexed("SRC0,SRC1", 1, "v_writelane_b32 v32, 7, 3", {"v32": lane(V["v32"], 3, 7)}),
    "readlane": Indexed("SRC0", 3, "v_readlane_b32 s41, v8, 4", {"s41": 11004}),
    "readlane, the others": Indexed("SRC1,SRC2,DST", 3, "v_readlane_b32 s41, v8, 4", {"s41": 8004}),
    "readfirstlane": Indexed("SRC0", 2, "v_readfirstlane_b32 s41, v8", {"s41": 10000}),
    "accvgpr_read": Indexed("SRC0", 1, "v_accvgpr_read_b32 v32, a0", {"v32": ACCUMULATORS[1]}),
    "accvgpr_read, DST": Indexed(
        "DST", 1, "v_accvgpr_read_b32 v32, a0", {"v33": ACCUMULATORS[0], "v32": V["v32"]}
    ),
    "accvgpr_write": Indexed("DST", 2, "v_accvgpr_write_b32 a0, v8", {"a2": V["v8"], "a0": ACCUMULATORS[0]}),
    "accvgpr_write, SRC0": Indexed("SRC0", 2, "v_accvgpr_write_b32 a0, v8", {"a0": V["v10"]}),
    "accvgpr_mov": Indexed("SRC0,DST", 1, "v_accvgpr_mov_b32 a2, a0", {"a3": ACCUMULATORS[1], "a2": ACCUMULATORS[2]}),
    "DPP": Indexed("SRC0", 1, "v_mov_b32_dpp v32, v8 quad_perm:[3,2,1,0] row_mask:0xf bank_mask:0xf",
                   {"v32": V["v9"].reshape(-1, 4)[:, ::-1].ravel()}),
    # What is kept of the result is the moved register's.
    "SDWA": Indexed("DST", 1, "v_mov_b32_sdwa v32, v8 dst_sel:BYTE_0 dst_unused:UNUSED_PRESERVE src0_sel:BYTE_0",
                    {"v33": V["v33"] & 0xFFFFFF00 | V["v8"] & 0xFF, "v32": V["v32"]}),
    "fmac": Indexed("DST", 1, "v_fmac_f32_e32 v32, v8, v9", {"v33": f32(16)},
                    {"v8": f32(2), "v9": f32(3), "v32": f32(99), "v33": f32(10)}),
    "fmamk, the addend": Indexed("SRC2", 1, "v_fmamk_f32 v32, v8, 0x40000000, v9", {"v32": f32(11)},
                                 {"v8": f32(3), "v9": f32(99), "v10": f32(5)}),
    "fmamk, its constant": Indexed("SRC1", 1, "v_fmamk_f32 v32, v8, 0x40000000, v9", {"v32": f32(11)},
                                   {"v8": f32(3), "v9": f32(5), "v10": f32(99)}),
    "a shift": Indexed("SRC1", 1, "v_lshlrev_b32_e32 v32, 1, v8", {"v32": V["v9"] * 2}),
    "packed": Indexed("SRC0", 2, "v_pk_mul_f32 v[32:33], v[8:9], v[12:13]", {"v32": f32(6), "v33": f32(20)},
                      {"v10": f32(3), "v11": f32(5), "v12": f32(2), "v13": f32(4)}),
    "VOP3": Indexed("SRC1,SRC2", 1, "v_add3_u32 v32, v8, v9, v10", {"v32": V["v8"] + V["v10"] + V["v11"]}),
    "a compare": Indexed("SRC0,DST", 1, "v_cmp_eq_u32_e32 vcc, v8, v9", {"vcc": (1 << 64) - 1}),
    # Not vector ALU instructions: nothing of them is moved.
    "a load": Indexed("SRC0,SRC1,SRC2,DST", 1, "ds_read_b32 v32, v14\ns_waitcnt lgkmcnt(0)",
                      {"v32": np.zeros(64, np.uint32), "v33": V["v33"]}, {"v14": LANES * np.uint32(4)}),
}  # fmt: skip


@each_target
def test_what_is_moved(target: str) -> None:
    cases = []
    for case in INDEXED.values():
        start = "\n".join(
            f"v_mov_b32_e32 v20, {1000 * (100 + r)}\nv_add_u32_e32 v20, v20, v21\nv_accvgpr_write_b32 a{r}, v20"
            for r in range(4)
        )
        text = f"{start}\ns_nop 1\ns_set_gpr_idx_on s20, gpr_idx({case.mode})\n{case.text}\ns_set_gpr_idx_off"
        vector = VECTOR | {"v21": LANES} | case.vector
        cases.append(Case(text, vector, {20: case.index, 40: 77}, tuple(case.expected)))
    for (name, case), got in zip(INDEXED.items(), run(target, cases, Kernel(lds=256)), strict=True):
        for register, expected in case.expected.items():
            assert np.array_equal(got[register], expected), (name, register, got[register])


REFUSED = {
    "a swap's result": ("DST", "v_swap_b32 v32, v33"),
    "a swap's source": ("SRC0", "v_swap_b32 v32, v33"),
    "a matrix operand": ("SRC0", "v_mfma_f32_4x4x1_16b_f32 v[32:35], v8, v9, 0"),
    "an accumulator": ("SRC2", "v_mfma_f32_4x4x1_16b_f32 a[0:3], v8, v9, a[0:3]"),
    "a matrix result": ("DST", "v_mfma_f32_4x4x1_16b_f32 v[32:35], v8, v9, 0"),
    "a sparse matrix": ("SRC1", "v_smfmac_f32_16x16x32_f16 v[32:35], v[8:9], v[10:13], v14"),
}
REFUSED_GFX950 = {
    "a permuting swap": ("DST", "v_permlane32_swap_b32 v32, v33"),
    "scales": ("SRC0", "v_mfma_scale_f32_16x16x128_f8f6f4 v[32:35], v[0:7], v[8:15], 0, v16, v17"),
}


def launch(target: str, mode: str, instruction: str) -> None:
    body = f"s_mov_b32 s20, 1\ns_set_gpr_idx_on s20, gpr_idx({mode})\n{instruction}\ns_set_gpr_idx_off\ns_endpgm"
    module = device(target).load(assemble(target, kernel_text(target, "k", body, Kernel(), ("out",))))
    module.launch("k", 1, 64, {"out": np.zeros(1, np.uint32)})


@each_target
@pytest.mark.parametrize("name", [*REFUSED, *REFUSED_GFX950])
def test_what_is_refused(name: str, target: str) -> None:
    """Sources say nothing, or disagree. A mode that reaches none of the registers is no matter."""
    if target == "gfx942" and name in REFUSED_GFX950:
        pytest.skip("gfx950 alone has it")
    mode, instruction = (REFUSED | REFUSED_GFX950)[name]
    with pytest.raises(UnsupportedInstructionError, match="GPR indexing") as caught:
        launch(target, mode, instruction)
    assert caught.value.instruction.startswith(instruction.split()[0])
    if ", 0" in instruction:
        launch(target, "SRC2", instruction)


@each_target
def test_a_trace_shows_the_moved_result(target: str) -> None:
    body = "s_mov_b32 s20, 3\ns_set_gpr_idx_on s20, gpr_idx(DST)\nv_mov_b32_e32 v32, 7\nv_accvgpr_write_b32 a1, 9\n" \
           "s_set_gpr_idx_off\ns_endpgm"  # fmt: skip
    module = device(target).load(assemble(target, kernel_text(target, "k", body, Kernel(), ("out",))))
    trace = module.launch("k", 1, 64, {"out": np.zeros(1, np.uint32)}, trace=(0, 0)).trace
    assert "v35 = all 00000007" in trace and "a4 = all 00000009" in trace
    assert "v32 = " not in trace and "a1 = " not in trace


# Two loads are under way; the first has been waited for.
LOADED = """
global_load_dword a0, v2, s[4:5]
global_load_dword a1, v2, s[4:5]
s_waitcnt vmcnt(1)
s_mov_b32 s20, {}
s_set_gpr_idx_on s20, gpr_idx(SRC0)
v_accvgpr_read_b32 v32, a0
s_set_gpr_idx_off
s_waitcnt vmcnt(0)
"""


@each_target
def test_sanitizers_see_the_moved_register(target: str) -> None:
    assert findings(target, LOADED.format(0), "waits") == []
    (finding,) = findings(target, LOADED.format(1), "waits")
    assert "a1" in finding.what and finding.other_instruction.startswith("global_load_dword a1")
