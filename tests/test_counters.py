"""The counters against numbers counted by hand, and against an operator's own arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator import assembly, session, watched

from aiterlite import envs
from aiterlite.emulator import KernelArgumentError, Report, watching
from aiterlite.emulator.counters import bytes_floor_us, matrix_floor_us, to_text
from aiterlite.hardware import ARCHITECTURES
from aiterlite.target import resolve

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.compile,
    pytest.mark.skipif(bool(session.missing()), reason=session.missing()),
]
each_target = pytest.mark.parametrize("target", assembly.TARGETS)

# The prologue: two scalar loads of 24 bytes together, v_lshlrev, s_mov, s_waitcnt; and the s_endpgm behind the body.
BASE = {"smem": 2, "valu": 1, "salu": 1, "sync": 2}


def count(target: str, body: str, grid: int = 1, block: int = 64, lds: int = 0, scratch: int = 0) -> dict[str, Any]:
    return watched.launch(watched.module(target, body, lds, scratch), grid, block, counters=True).counters


def kinds(counters: dict[str, Any]) -> dict[str, int]:
    """What the body added to the prologue of one wave."""
    found = {kind: n for kind, n in counters["instructions"].items() if kind not in ("total", "skipped")}
    added = {kind: n - counters["waves"] * BASE.get(kind, 0) for kind, n in found.items()}
    assert counters["instructions"]["total"] == sum(found.values())
    return {kind: n for kind, n in added.items() if n}


def traffic(read: int, written: int, unique_read: int, unique_written: int) -> dict[str, int]:
    return {"read": read, "written": written, "unique_read": unique_read, "unique_written": unique_written}


def arguments(c: dict[str, Any]) -> dict[str, Any]:
    """The traffic of each argument, without its size."""
    return {name: {key: n for key, n in held.items() if key != "size"} for name, held in c["arguments"].items()}


def coalescing(accesses: int, s64: int, m64: int, s128: int, m128: int) -> dict[str, int]:
    return {"accesses": accesses, "segments64": s64, "minimum64": m64, "segments128": s128, "minimum128": m128}


NONE = coalescing(0, 0, 0, 0, 0)


@each_target
def test_nothing_but_the_prologue(target: str) -> None:
    c = count(target, "")
    assert (c["target"], c["workgroups"], c["waves"], c["largest_workgroup"]) == (target, 1, 1, 6)
    assert kinds(c) == {}
    assert c["instructions"]["total"] == 6
    # 4 cycles each.
    expected = {"smem": 8, "valu": 4, "salu": 4, "sync": 8, "lds": 0, "vmem": 0, "mfma": 0, "branch": 0, "total": 24}
    assert c["issue_cycles"] == expected
    assert c["matrix_cycles"] == 0
    assert c["bytes"]["scalar"] == {"read": 24, "written": 0}
    assert c["bytes"]["global"] == traffic(0, 0, 0, 0)
    assert arguments(c) == {}
    assert c["coalescing"] == {"load": NONE, "store": NONE, "atomic": NONE}
    assert c["lds"] == {"accesses": 0, "cycles": 0, "minimum_cycles": 0, "conflict_cycles": 0}


@each_target
def test_a_copy_of_dwords(target: str) -> None:
    c = count(target, "global_load_dword v2, v1, s[4:5]\ns_waitcnt vmcnt(0)\nglobal_store_dword v1, v2, s[6:7]")
    assert kinds(c) == {"vmem_load": 1, "vmem_store": 1, "sync": 1}
    assert c["issue_cycles"]["vmem"] == 8 and c["issue_cycles"]["total"] == 24 + 12
    # 64 lanes of 4 bytes: 256 bytes, four segments of 64, two of 128.
    assert arguments(c) == {"a": traffic(256, 0, 256, 0), "b": traffic(0, 256, 0, 256)}
    assert c["bytes"]["global"] == traffic(256, 256, 256, 256)
    assert c["coalescing"] == {
        "load": coalescing(1, 4, 4, 2, 2), "store": coalescing(1, 4, 4, 2, 2), "atomic": NONE
    }  # fmt: skip


@each_target
def test_many_workgroups_that_read_the_same(target: str) -> None:
    c = count(target, "global_load_dword v2, v1, s[4:5]", grid=3, block=128)
    assert (c["workgroups"], c["waves"]) == (3, 6)
    assert kinds(c) == {"vmem_load": 6}
    # 6 waves of 256 bytes; the three workgroups read the same 512.
    assert arguments(c) == {"a": traffic(1536, 0, 512, 0)}
    assert c["coalescing"]["load"] == coalescing(6, 24, 24, 12, 12)


@each_target
def test_a_strided_load_touches_a_segment_a_lane(target: str) -> None:
    c = count(target, "v_lshlrev_b32_e32 v2, 6, v0\nglobal_load_dword v3, v2, s[4:5]")
    assert kinds(c) == {"valu": 1, "vmem_load": 1}
    # 64 bytes apart: 64 segments of 64 and 32 of 128, where 256 bytes would fit in 4 and 2.
    assert c["coalescing"]["load"] == coalescing(1, 64, 4, 32, 2)
    assert arguments(c) == {"a": traffic(256, 0, 256, 0)}


@each_target
def test_lanes_that_read_one_dword(target: str) -> None:
    c = count(target, "v_mov_b32_e32 v2, 60\nglobal_load_dword v3, v2, s[4:5]")
    assert c["coalescing"]["load"] == coalescing(1, 1, 1, 1, 1)
    assert arguments(c) == {"a": traffic(256, 0, 4, 0)}


@each_target
def test_an_access_across_a_segment_and_lanes_in_reverse(target: str) -> None:
    # Lanes 63..0 read 16 bytes each from byte 8 on: bytes 8..1031, in 17 segments of 64 and 9 of 128.
    body = "v_sub_u32_e32 v2, 63, v0\nv_lshlrev_b32_e32 v2, 4, v2\nglobal_load_dwordx4 v[4:7], v2, s[4:5] offset:8"
    c = count(target, body)
    assert c["coalescing"]["load"] == coalescing(1, 17, 16, 9, 8)
    assert arguments(c) == {"a": traffic(1024, 0, 1024, 0)}


@each_target
def test_half_the_lanes_store_bytes(target: str) -> None:
    c = count(target, "s_mov_b64 exec, 0xffff\nglobal_store_byte v1, v0, s[6:7]\ns_mov_b64 exec, 0\n"
                      "global_store_byte v1, v0, s[6:7]")  # fmt: skip
    assert kinds(c) == {"salu": 2, "vmem_store": 2}
    # 16 lanes of a byte, 4 bytes apart: one segment. The store without lanes touches nothing.
    assert c["coalescing"]["store"] == coalescing(1, 1, 1, 1, 1)
    assert arguments(c) == {"b": traffic(0, 16, 0, 16)}


@each_target
def test_atomics_read_and_write(target: str) -> None:
    c = count(target, "v_mov_b32_e32 v2, 0\nglobal_atomic_add v2, v0, s[8:9]", grid=2)
    assert kinds(c) == {"valu": 2, "vmem_atomic": 2}
    assert arguments(c) == {"c": traffic(512, 512, 4, 4)}
    assert c["coalescing"]["atomic"] == coalescing(2, 2, 2, 2, 2)


@each_target
def test_vector_rates(target: str) -> None:
    body = """
    v_exp_f32_e32 v2, v0
    v_rcp_f64_e32 v[4:5], v[0:1]
    v_fma_f64 v[6:7], v[4:5], v[4:5], v[4:5]
    v_mul_lo_u32 v3, v0, v0
    v_pk_fma_f32 v[8:9], v[4:5], v[4:5], v[4:5]
    v_cmp_eq_u32_e32 vcc, v0, v1
    """
    c = count(target, body)
    assert kinds(c) == {"transcendental": 2, "valu": 4}
    # Two at a quarter of the rate, four and the prologue's one at the full rate.
    assert c["issue_cycles"]["valu"] == 2 * 16 + 5 * 4


@each_target
def test_a_loop(target: str) -> None:
    c = count(target, "s_mov_b32 s12, 5\nagain:\nv_nop\ns_sub_u32 s12, s12, 1\ns_cmp_lg_u32 s12, 0\n"
                      "s_cbranch_scc1 again\ns_nop 3\ns_branch over\nv_nop\nover:")  # fmt: skip
    # 1 + 5 * 2 scalar, 5 vector, 5 + 1 branches, one s_nop.
    assert kinds(c) == {"salu": 11, "valu": 5, "branch": 6, "sync": 1}
    assert c["issue_cycles"]["branch"] == 24


@each_target
def test_vskip(target: str) -> None:
    c = count(target, "s_mov_b32 s12, 1\ns_setvskip s12, 0\nv_nop\nglobal_load_dword v2, v1, s[4:5]\n"
                      "s_setvskip s12, 1\nv_nop")  # fmt: skip
    assert kinds(c) == {"salu": 3, "valu": 1}
    assert c["instructions"]["skipped"] == 2
    assert arguments(c) == {}


# What writes LDS and reads it back: LDS bytes read and written, cycles, least cycles, on both targets or by target.
LDS: dict[str, tuple[str, int, int, tuple[int, int] | dict[str, tuple[int, int]]]] = {
    # 256 bytes in two groups of 32 lanes, each a cycle.
    "consecutive dwords": ("ds_write_b32 v1, v0\nds_read_b32 v2, v1", 256, 256, (4, 4)),
    # 8 bytes apart: 32 lanes on 16 banks, two cycles a group.
    "every other dword": ("v_lshlrev_b32_e32 v2, 3, v0\nds_read_b32 v3, v2", 256, 0, (4, 2)),
    # 128 bytes apart: all lanes on bank 0.
    "one bank": ("v_lshlrev_b32_e32 v2, 7, v0\nds_read_b32 v3, v2", 256, 0, (64, 2)),
    "one dword": ("v_mov_b32_e32 v2, 4\nds_read_b32 v3, v2", 256, 0, (2, 2)),
    # Padding of a dword a row of 32 takes the conflict away: 132 bytes apart.
    "padded rows": ("v_mul_u32_u24_e32 v2, 0x84, v0\nds_read_b32 v3, v2", 256, 0, (2, 2)),
    # Bytes: 32 lanes in 8 dwords.
    "consecutive bytes": ("ds_read_u8 v3, v0", 64, 0, (2, 2)),
    # 16 bytes a lane: eight groups of 8 lanes on 32 banks, or four of 16 on 64.
    "consecutive quads": (
        "v_lshlrev_b32_e32 v2, 4, v0\nds_read_b128 v[4:7], v2", 1024, 0, {"gfx942": (8, 8), "gfx950": (4, 4)}
    ),
    # 128 bytes apart: the 8 lanes of a group share four banks. On 64 banks every other lane does: 8 of 16.
    "quads on the same banks": (
        "v_lshlrev_b32_e32 v2, 7, v0\nds_read_b128 v[4:7], v2", 1024, 0, {"gfx942": (64, 8), "gfx950": (32, 4)}
    ),
    # Lanes 4n to 4n + 3 read half of row n of 128 bytes, the first 16 lanes of 32 the left half. Of neighbours every
    # second four would meet; the lanes that go together read left and right halves, on 64 banks of even and odd rows.
    "halves of rows": (
        "v_and_b32_e32 v2, 3, v0\nv_lshlrev_b32_e32 v2, 4, v2\nv_bfe_u32 v3, v0, 4, 1\nv_lshl_or_b32 v2, v3, 6, v2\n"
        "v_lshrrev_b32_e32 v3, 2, v0\nv_lshl_or_b32 v2, v3, 7, v2\nds_read_b128 v[4:7], v2",
        1024, 0, {"gfx942": (8, 8), "gfx950": (4, 4)},
    ),
    # Written, 8 neighbouring lanes go together on both.
    "quads written to the same banks": ("v_lshlrev_b32_e32 v2, 7, v0\nds_write_b128 v2, v[4:7]", 0, 1024, (64, 8)),
    # 12 bytes apart, 8 lanes at a time: 24 dwords on 24 banks.
    "three dwords": ("v_mul_u32_u24_e32 v2, 12, v0\nds_write_b96 v2, v[4:6]", 0, 768, (8, 8)),
    # Lanes 0 to 3 are on banks 0 to 11, and lanes 20 to 23, of their group on gfx950, on 28 to 31 and 0 to 7.
    "three dwords read": (
        "v_mul_u32_u24_e32 v2, 12, v0\nds_read_b96 v[4:6], v2", 768, 0, {"gfx942": (8, 8), "gfx950": (16, 8)}
    ),
    # 16 lanes on 32 banks, or 32 on 64.
    "pairs": ("v_lshlrev_b32_e32 v2, 3, v0\nds_read_b64 v[4:5], v2", 512, 0, {"gfx942": (4, 4), "gfx950": (2, 2)}),
    # 64 bytes apart: 16 lanes on two pairs of banks, 8 each; 32 lanes on four pairs.
    "pairs on the same banks": (
        "v_lshlrev_b32_e32 v2, 6, v0\nds_read_b64 v[4:5], v2", 512, 0, {"gfx942": (32, 4), "gfx950": (16, 2)}
    ),
    "pairs written to the same banks": ("v_lshlrev_b32_e32 v2, 6, v0\nds_write_b64 v2, v[4:5]", 0, 512, (32, 4)),
    # Two accesses of 64 dwords, four groups.
    "two addresses": ("ds_read2_b32 v[2:3], v1 offset0:0 offset1:64", 512, 0, (4, 4)),
    # An atomic takes its turn for each lane: 32 cycles a group.
    "an atomic on one dword": ("v_mov_b32_e32 v2, 4\nds_add_u32 v2, v0", 256, 256, (64, 2)),
    # Half a wave: the second group has no lane.
    "16 lanes": ("s_mov_b64 exec, 0xffff\nds_read_b32 v2, v1", 64, 0, (1, 1)),
}  # fmt: skip


def lds_time(accesses: int, cycles: int, least: int) -> dict[str, int]:
    return {"accesses": accesses, "cycles": cycles, "minimum_cycles": least, "conflict_cycles": cycles - least}


@each_target
@pytest.mark.parametrize("name", LDS)
def test_lds_cycles(name: str, target: str) -> None:
    body, read, written, cycles = LDS[name]
    c = count(target, body, lds=16384)
    assert c["bytes"]["lds"] == {"read": read, "written": written}
    accesses = 2 if name in ("consecutive dwords", "two addresses") else 1
    assert c["lds"] == lds_time(accesses, *(cycles[target] if isinstance(cycles, dict) else cycles))


# The lanes that are served together, where that was measured: each group as (first, last) of lanes 0 to 31. Lanes 32 to
# 63 form the same.
EIGHTS = (((0, 3), (20, 23)), ((4, 7), (16, 19)), ((8, 11), (28, 31)), ((12, 15), (24, 27)))
NEIGHBOURS8 = (((0, 7),), ((8, 15),), ((16, 23),), ((24, 31),))
GROUPS = {
    ("gfx942", "ds_read_b128 v[4:7], v2", 32): EIGHTS,
    ("gfx942", "ds_write_b128 v2, v[4:7]", 32): NEIGHBOURS8,
    ("gfx950", "ds_read_b128 v[4:7], v2", 64): (((0, 3), (12, 15), (20, 27)), ((4, 11), (16, 19), (28, 31))),
    ("gfx950", "ds_read_b96 v[4:6], v2", 32): EIGHTS,
    ("gfx950", "ds_read_b64 v[4:5], v2", 64): (((0, 31),),),
    ("gfx950", "ds_write_b64 v2, v[4:5]", 32): (((0, 15),), ((16, 31),)),
    # Not measured: by 128 bytes of neighbouring lanes.
    ("gfx942", "ds_read_b96 v[4:6], v2", 32): NEIGHBOURS8,
    ("gfx942", "ds_read_b64 v[4:5], v2", 32): (((0, 15),), ((16, 31),)),
    ("gfx950", "ds_write_b128 v2, v[4:7]", 32): NEIGHBOURS8,
    ("gfx950", "ds_read_b32 v4, v2", 32): (((0, 31),),),
}


@pytest.mark.parametrize(("target", "access", "banks"), GROUPS)
def test_lds_groups(target: str, access: str, banks: int) -> None:
    """Two lanes that want different dwords of one bank lose a cycle if they are of one group, and else none: all pairs
    with three lanes, told by EXEC. Half as many banks apart, neighbours of one group do not meet."""
    groups = GROUPS[target, access, banks]
    group_of = {lane: i for i, group in enumerate(groups) for first, last in group for lane in range(first, last + 1)}
    assert sorted(group_of) == list(range(32))

    def pairs(dwords: int, lanes: list[tuple[int, int]]) -> dict[str, Any]:
        lines = [f"v_mul_u32_u24_e32 v2, {4 * dwords}, v0"]
        for mask in (1 << lane | 1 << other for lane, other in lanes):
            lines += [f"s_mov_b32 exec_lo, {mask & 0xFFFFFFFF:#x}", f"s_mov_b32 exec_hi, {mask >> 32:#x}", access]
        lds: dict[str, Any] = count(target, "\n".join(lines), lds=32768)["lds"]
        return lds

    every = [(lane, other) for lane in (0, 5, 38) for other in range(64) if other != lane]
    meet = [(x, y) for x, y in every if x // 32 == y // 32 and group_of[x % 32] == group_of[y % 32]]
    apart = [pair for pair in every if pair not in meet]
    assert pairs(banks, meet) == lds_time(len(meet), 2 * len(meet), len(meet))
    assert pairs(banks, apart) == lds_time(len(apart), 2 * len(apart), 2 * len(apart))
    assert pairs(banks // 2, [(0, 1)]) == lds_time(1, 1, 1)


@each_target
def test_lane_exchanges_use_no_bank(target: str) -> None:
    c = count(target, "ds_bpermute_b32 v2, v1, v0\nds_swizzle_b32 v3, v0 offset:0x8000", lds=256)
    assert kinds(c) == {"lds": 2}
    assert c["lds"]["accesses"] == 0 and c["bytes"]["lds"] == {"read": 0, "written": 0}


@each_target
def test_a_load_to_lds(target: str) -> None:
    c = count(target, "global_load_lds_dword v1, s[4:5]\ns_waitcnt vmcnt(0)", lds=256)
    assert kinds(c) == {"vmem_load": 1, "sync": 1}
    assert arguments(c) == {"a": traffic(256, 0, 256, 0)}
    assert c["bytes"]["lds"] == {"read": 0, "written": 256}
    assert c["lds"]["accesses"] == 0


@each_target
def test_scratch_and_flat(target: str) -> None:
    body = "scratch_store_dword off, v0, off\nscratch_load_dwordx2 v[2:3], off, off\n" \
           "v_mov_b32_e32 v4, s4\nv_mov_b32_e32 v5, s5\nflat_store_dword v[4:5], v0"  # fmt: skip
    c = count(target, body, scratch=16)
    assert kinds(c) == {"scratch": 2, "valu": 2, "flat": 1}
    assert c["bytes"]["scratch"] == {"read": 512, "written": 256}
    # All lanes store to the same dword.
    assert arguments(c) == {"a": traffic(0, 256, 0, 4)}
    assert c["coalescing"]["store"] == coalescing(1, 1, 1, 1, 1)
    assert c["issue_cycles"]["vmem"] == 12


@each_target
def test_scalar_memory(target: str) -> None:
    c = count(target, "s_load_dwordx8 s[16:23], s[4:5], 0\ns_waitcnt lgkmcnt(0)\ns_buffer_load_dword s24, s[16:19], 0")
    assert kinds(c) == {"smem": 2, "sync": 1}
    # Eight dwords; the buffer of zeros has no record, so nothing is read through it.
    assert c["bytes"]["scalar"] == {"read": 24 + 32, "written": 0}


# Cycles of the matrix unit, gfx942 and gfx950; None: the target has no such instruction. 4 cycles a pass.
MATRIX = {
    "v_mfma_f32_4x4x1_16b_f32 a[0:3], v0, v1, a[0:3]": (8, 8),
    "v_mfma_f32_16x16x1_4b_f32 a[0:15], v0, v1, a[0:15]": (32, 32),
    "v_mfma_f32_32x32x1_2b_f32 a[0:31], v0, v1, a[0:31]": (64, 64),
    "v_mfma_f32_16x16x4_f32 a[0:3], v0, v1, a[0:3]": (32, 32),
    "v_mfma_f32_32x32x2_f32 a[0:15], v0, v1, a[0:15]": (64, 64),
    "v_mfma_f32_16x16x8_xf32 a[0:3], v[2:3], v[4:5], a[0:3]": (16, None),
    "v_mfma_f32_32x32x4_xf32 a[0:15], v[2:3], v[4:5], a[0:15]": (32, None),
    "v_mfma_f32_4x4x4_16b_f16 a[0:3], v[2:3], v[4:5], a[0:3]": (8, 8),
    "v_mfma_f32_16x16x4_4b_f16 a[0:15], v[2:3], v[4:5], a[0:15]": (32, 32),
    "v_mfma_f32_32x32x4_2b_bf16 a[0:31], v[2:3], v[4:5], a[0:31]": (64, 64),
    "v_mfma_f32_16x16x16_f16 a[0:3], v[2:3], v[4:5], a[0:3]": (16, 16),
    "v_mfma_f32_16x16x16_bf16 a[0:3], v[2:3], v[4:5], a[0:3]": (16, 16),
    "v_mfma_f32_32x32x8_f16 a[0:15], v[2:3], v[4:5], a[0:15]": (32, 32),
    "v_mfma_i32_16x16x32_i8 a[0:3], v[2:3], v[4:5], a[0:3]": (16, 16),
    "v_mfma_i32_32x32x16_i8 a[0:15], v[2:3], v[4:5], a[0:15]": (32, 32),
    "v_mfma_i32_16x16x4_4b_i8 a[0:15], v2, v4, a[0:15]": (32, 32),
    "v_mfma_f32_16x16x32_fp8_fp8 a[0:3], v[2:3], v[4:5], a[0:3]": (16, 16),
    "v_mfma_f32_32x32x16_bf8_fp8 a[0:15], v[2:3], v[4:5], a[0:15]": (32, 32),
    "v_mfma_f64_4x4x4_4b_f64 a[0:1], v[2:3], v[4:5], a[0:1]": (16, 16),
    "v_mfma_f64_16x16x4_f64 a[0:7], v[2:3], v[4:5], a[0:7]": (32, 64),
    "v_smfmac_f32_16x16x32_f16 v[8:11], v[2:3], v[4:7], v12": (16, 16),
    "v_smfmac_f32_32x32x16_bf16 v[16:31], v[2:3], v[4:7], v12": (32, 32),
    "v_mfma_f32_16x16x32_bf16 a[0:3], v[4:7], v[8:11], a[0:3]": (None, 16),
    "v_mfma_f32_32x32x16_f16 a[0:15], v[4:7], v[8:11], a[0:15]": (None, 32),
    "v_mfma_i32_16x16x64_i8 a[0:3], v[4:7], v[8:11], a[0:3]": (None, 16),
    "v_mfma_i32_32x32x32_i8 a[0:15], v[4:7], v[8:11], a[0:15]": (None, 32),
    "v_mfma_f32_16x16x128_f8f6f4 a[0:3], v[8:15], v[16:23], a[0:3]": (None, 32),
    "v_mfma_f32_32x32x64_f8f6f4 a[0:15], v[8:15], v[16:23], a[0:15]": (None, 64),
    # fp6 and fp4 on both sides run at twice the rate of fp8 on either.
    "v_mfma_f32_16x16x128_f8f6f4 a[0:3], v[8:11], v[16:19], a[0:3] cbsz:4 blgp:4": (None, 16),
    "v_mfma_f32_32x32x64_f8f6f4 a[0:15], v[8:11], v[16:21], a[0:15] cbsz:4 blgp:2": (None, 32),
    "v_mfma_f32_16x16x128_f8f6f4 a[0:3], v[8:15], v[16:19], a[0:3] blgp:4": (None, 32),
    "v_mfma_scale_f32_16x16x128_f8f6f4 a[0:3], v[8:11], v[16:19], a[0:3], v2, v3 cbsz:4 blgp:4": (None, 16),
}


@each_target
def test_matrix_cycles(target: str) -> None:
    index = assembly.TARGETS.index(target)
    known = {text: cycles[index] for text, cycles in MATRIX.items() if cycles[index] is not None}
    c = count(target, "\n".join(known))
    assert kinds(c) == {"mfma": len(known)}
    expected: dict[str, dict[str, int]] = {}
    for text, cycles in known.items():
        entry = expected.setdefault(text.split()[0], {"count": 0, "cycles": 0})
        entry["count"] += 1
        entry["cycles"] += cycles or 0
    assert c["mfma"] == expected
    assert c["matrix_cycles"] == sum(cycles or 0 for cycles in known.values())
    assert c["issue_cycles"]["mfma"] == 4 * len(known)


@each_target
@pytest.mark.parametrize(
    ("vgprs", "offset", "sgprs", "block", "lds", "expected"),
    [
        # 64 of 512 registers a lane: eight waves a SIMD. 16 + 6 SGPRs are 32.
        (64, 64, 16, 64, 0, ("waves", 8, 32)),
        # 72 registers: seven waves a SIMD, 28 a CU.
        (72, 72, 16, 64, 0, ("vgprs", 7, 28)),
        # 256 VGPRs and as many AGPRs fill the file.
        (512, 256, 16, 64, 0, ("vgprs", 1, 4)),
        # 102 SGPRs and VCC's and its like are 112: seven waves of 800 registers.
        (64, 64, 96, 64, 0, ("sgprs", 7, 28)),
        # Two waves a workgroup: 16 workgroups fill the SIMDs.
        (64, 64, 16, 128, 0, ("waves", 8, 16)),
        # 40000 bytes of LDS: one workgroup in 64 KiB, four in 160.
        (64, 64, 16, 256, 40000, {"gfx942": ("lds", 1, 1), "gfx950": ("lds", 4, 4)}),
    ],
)
def test_occupancy(
    target: str, vgprs: int, offset: int, sgprs: int, block: int, lds: int, expected: Any
) -> None:  # fmt: skip
    loaded = watched.module(
        target, "", lds, next_free_vgpr=str(vgprs), accum_offset=str(offset), next_free_sgpr=str(sgprs)
    )
    o = watched.launch(loaded, 1, block, counters=True).counters["occupancy"]
    limit, waves, workgroups = expected[target] if isinstance(expected, dict) else expected
    assert (o["limit"], o["waves_per_simd"], o["workgroups_per_cu"]) == (limit, waves, workgroups)
    assert (o["vgprs"], o["agprs"]) == (offset, vgprs - offset)
    assert o["sgprs"] == -(-(sgprs + 6) // 16) * 16
    assert (o["lds_bytes"], o["waves_per_workgroup"]) == (lds, block // 64)


@each_target
@pytest.mark.parametrize("block", [64, 256, 1024])
@pytest.mark.parametrize("vgprs", [8, 88, 512])
@pytest.mark.parametrize("lds", [0, 1, 513, 4000])
def test_occupancy_is_what_the_table_of_hardware_gives(target: str, block: int, vgprs: int, lds: int) -> None:
    """The emulator's constants are compiled; this holds them to aiterlite/hardware.py."""
    arch, waves = ARCHITECTURES[target], block // 64
    offset, free = min(vgprs, 256), arch.simds * arch.waves_per_simd
    # The hardware could not start a workgroup of more registers than a SIMD has.
    if -(-waves // arch.simds) * vgprs > arch.lane_registers:
        vgprs = offset = arch.lane_registers // -(-waves // arch.simds)
    loaded = watched.module(target, "", lds, next_free_vgpr=str(vgprs), accum_offset=str(offset), next_free_sgpr="96")
    o = watched.launch(loaded, 1, block, counters=True).counters["occupancy"]
    limits = [free // waves, arch.lane_registers // vgprs * arch.simds // waves]
    limits.append(arch.scalar_registers // o["sgprs"] * arch.simds // waves)
    if lds:
        limits.append(arch.lds_unit_bytes // (-(-lds // arch.lds_granule) * arch.lds_granule))
    if waves > 1:
        limits.append(arch.barriers)
    assert o["workgroups_per_cu"] == min(limits) and o["sgprs"] % arch.scalar_granule == 0


@pytest.mark.torch
@each_target
@pytest.mark.parametrize(
    ("n", "m", "k", "with_bias"), [(1, 256, 512, True), (4, 512, 1024, False), (16, 96, 2048, True)]
)
def test_bytes_of_the_skinny_gemm(n: int, m: int, k: int, with_bias: bool, target: str) -> None:
    """Each byte of the operands once, and the operator's own traffic: weights are read once, x once a tile of rows."""
    torch = pytest.importorskip("torch")
    from aiterlite.ops.gemm import wvSplitK

    session.device(target)
    generator = torch.Generator().manual_seed(1)
    x, weight, bias = (torch.randn(s, generator=generator).to(torch.bfloat16) for s in ((n, k), (m, k), (m,)))
    with envs.override(AITERLITE_TARGET=target), watching(("races", "lds"), counters=True) as seen:
        wvSplitK(x, weight, bias if with_bias else None)
    assert not seen.findings, [str(f) for f in seen.findings]
    (c,) = seen.counters
    held = arguments(c)
    # K is a multiple of the tiles' depth: no column is read twice.
    assert held["weight"] == traffic(2 * m * k, 0, 2 * m * k, 0)
    assert held["x"]["unique_read"] == 2 * n * k
    assert held["y"] == traffic(0, 2 * n * m, 0, 2 * n * m)
    assert ("bias" in held) == with_bias
    unique = 2 * (m * k + n * k) + (2 * m if with_bias else 0)
    assert c["bytes"]["global"]["unique_read"] == unique
    # Multiply-accumulates of the matrix unit: 16 rows of weights, 16 of x, whatever n is.
    depth = 16 if target == "gfx942" else 32
    assert sum(entry["count"] for entry in c["mfma"].values()) == m // 16 * k // depth
    assert c["matrix_cycles"] == 16 * (m // 16 * k // depth)
    persona = resolve(target)
    floor = bytes_floor_us(c, persona)
    assert floor == pytest.approx((unique + 2 * n * m) / (persona.memory_gb_per_s * 1e9) * 1e6)


def report(target: str) -> Report:
    body = "v_mfma_f32_16x16x16_f16 a[0:3], v[2:3], v[4:5], a[0:3]\nglobal_load_dword v2, v1, s[4:5]\n" \
           "v_lshlrev_b32_e32 v2, 7, v0\nds_read_b32 v3, v2"  # fmt: skip
    return watched.launch(watched.module(target, body, 16384), counters=True)


@each_target
def test_the_table_shows_the_numbers(target: str) -> None:
    persona = resolve(assembly.PERSONA[target])
    text = to_text(report(target).counters, persona)
    for line in (
        rf"1 workgroups, 1 waves on {target}",
        "v_mfma_f32_16x16x16_f16",
        "16 matrix cycles",
        "LDS: 1 accesses, 64 cycles, 62 of them for bank conflicts",
        "loads: 1 accesses, 4 segments of 64 bytes (least 4), 2 of 128 (least 2)",
        "limited by vgprs",
        "floor computed from published figures, not a time: bytes 0.000 us",
    ):
        assert line in text, text
    assert "floor" not in to_text(report(target).counters)


def test_floors_come_from_published_figures() -> None:
    counters = {"matrix_cycles": 304 * 4 * 2100, "bytes": {"global": {"unique_read": 5300, "unique_written": 5300}}}
    chip = resolve("mi300x")
    assert bytes_floor_us(counters, chip) == pytest.approx(0.002)
    assert matrix_floor_us(counters, chip) == pytest.approx(1.0)
    assert bytes_floor_us(counters, resolve("mi350p:128")) is None
    assert matrix_floor_us(counters, resolve("mi308x")) is None


def test_counting_changes_no_result() -> None:
    a = np.arange(64, dtype=np.uint32)
    outputs = []
    for counters in (False, True):
        arguments = {**watched.arguments(), "a": a.copy()}
        loaded = watched.module("gfx942", "global_load_dword v2, v1, s[4:5]\ns_waitcnt vmcnt(0)\n"
                                          "global_store_dword v1, v2, s[6:7]")  # fmt: skip
        got = loaded.launch("watched", 1, 64, arguments, counters=counters)
        assert bool(got.counters) == counters
        outputs.append(arguments["b"].copy())
    assert np.array_equal(outputs[0], outputs[1]) and np.array_equal(outputs[0][:64], a)


def test_the_largest_workgroup() -> None:
    """Workgroups 1 and 2 of three leave at once; the first executes 50 more, by two waves."""
    body = "s_cmp_lg_u32 s2, 0\ns_cbranch_scc1 out\n" + "v_add_f32 v2, v2, v2\n" * 50 + "out:"
    c = count("gfx942", body, grid=3, block=128)
    assert c["largest_workgroup"] == 2 * (6 + 2 + 50)
    assert c["instructions"]["total"] == c["largest_workgroup"] + 2 * 2 * (6 + 2)


def test_some_workgroups_of_a_launch() -> None:
    """The first two of five run and are counted; each has 64 dwords of `a` and 64 of `b` to itself."""
    body = """
    s_lshl_b32 s10, s2, 8
    v_add_u32 v1, s10, v1
    global_load_dword v2, v1, s[4:5]
    s_waitcnt vmcnt(0)
    global_store_dword v1, v2, s[6:7]
    """
    loaded = watched.module("gfx942", body)
    c = watched.launch(loaded, 5, 64, counters=True, only=2).counters
    assert (c["launched"], c["workgroups"]) == (5, 2)
    assert arguments(c) == {"a": traffic(512, 0, 512, 0), "b": traffic(0, 512, 0, 512)}
    assert c["arguments"]["a"]["size"] == 4 * 4096
    for only in (0, 5, 99):
        c = watched.launch(loaded, 5, 64, counters=True, only=only).counters
        assert (c["launched"], c["workgroups"]) == (5, 5)
    with pytest.raises(KernelArgumentError, match="only is -1"):
        watched.launch(loaded, 5, 64, only=-1)
