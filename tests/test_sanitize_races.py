"""The race detector: planted races are found and named, and their mended twins are clean."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from emulator import assembly, session, watched

from aiterlite import emulator
from aiterlite.emulator import Schedule

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.compile,
    pytest.mark.skipif(bool(session.missing()), reason=session.missing()),
]
each_target = pytest.mark.parametrize("target", assembly.TARGETS)


@dataclass(frozen=True)
class Race:
    """A kernel with a hole, `{}`: `fault` in it makes a race, `mended` mends it.

    `at` and `other` begin the two instructions' texts; `what` and `mend` are parts of the finding's words.
    """

    body: str
    fault: str
    mended: str
    at: str
    other: str
    what: str
    mend: str
    grid: int = 1
    block: int = 128
    lds: int = 1024

    def filled(self, text: str) -> str:
        return self.body.format(text, first=text)


EXCHANGE = """
ds_write_b32 v1, v0
{}
v_sub_u32_e32 v2, 0x1fc, v1
ds_read_b32 v3, v2
s_waitcnt lgkmcnt(0)
global_store_dword v1, v3, s[4:5]
"""
LDS_WAIT = "s_waitcnt lgkmcnt(0)\ns_barrier"
# The consumer, workgroup 1, polls a flag in b for what workgroup 0 leaves in a.
FLAG = """
s_cmp_eq_u32 s2, 0
s_cbranch_scc0 consumer
v_mov_b32_e32 v2, 7
global_store_dword v1, v2, s[4:5]
{}
s_endpgm
consumer:
v_mov_b32_e32 v3, 0
poll:
s_sleep 1
global_load_dword v4, v3, s[6:7] sc1
s_waitcnt vmcnt(0)
v_readfirstlane_b32 s12, v4
s_cmp_eq_u32 s12, 0
s_cbranch_scc1 poll
global_load_dword v5, v1, s[4:5]
s_waitcnt vmcnt(0)
global_store_dword v1, v5, s[8:9]
"""
POLL = "global_load_dword v4, v3, s[6:7] sc1\ns_waitcnt vmcnt(0)\nv_readfirstlane_b32 s12, v4"
SET_FLAG = "v_mov_b32_e32 v3, 0\nv_mov_b32_e32 v4, 1\nglobal_atomic_add v3, v4, s[6:7]"

STORE_FLAG = "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v3, 0\nv_mov_b32_e32 v4, 1\nglobal_store_dword v3, v4, s[6:7] {}"
# The wave's number in s20.
WAVE = "v_readfirstlane_b32 s20, v0\ns_lshr_b32 s20, s20, 6\n"
# Of four waves that read one dword of LDS, the first does not wait for it before the barrier, behind which the second
# writes there.
READERS = (
    WAVE
    + """
v_mov_b32_e32 v2, 0
v_mov_b32_e32 v3, 9
ds_write_b32 v2, v2
s_waitcnt lgkmcnt(0)
s_barrier
ds_read_b32 v4, v2
s_cmp_eq_u32 s20, {}
s_cbranch_scc1 meet
s_waitcnt lgkmcnt(0)
meet:
s_barrier
s_cmp_lg_u32 s20, 1
s_cbranch_scc1 end
ds_write_b32 v2, v3
end:
"""
)
# Workgroups 0, 1 and 2 read `a` and those from {} on say so in `b`; workgroup 3 writes to `a` once two or three have.
COUNTED = """
v_mov_b32_e32 v3, 0
s_cmp_eq_u32 s2, 3
s_cbranch_scc1 poll
global_load_dword v4, v3, s[4:5]
s_waitcnt vmcnt(0)
s_cmp_lt_u32 s2, {first}
s_cbranch_scc1 end
v_mov_b32_e32 v5, 1
s_mov_b64 exec, 1
global_atomic_add v3, v5, s[6:7]
s_endpgm
poll:
s_sleep 1
global_load_dword v4, v3, s[6:7] sc1
s_waitcnt vmcnt(0)
v_readfirstlane_b32 s12, v4
s_add_u32 s12, s12, {first}
s_cmp_lg_u32 s12, 3
s_cbranch_scc1 poll
v_mov_b32_e32 v5, 9
global_store_dword v3, v5, s[4:5]
end:
"""

RACES = {
    "no barrier": Race(
        EXCHANGE, "", LDS_WAIT, "ds_read_b32 v3, v2", "ds_write_b32 v1, v0", "reads LDS byte 508, which wave 1 writes",
        "put s_waitcnt lgkmcnt(0) and s_barrier between them",
    ),
    "no wait before the barrier": Race(
        EXCHANGE, "s_barrier", LDS_WAIT, "ds_read_b32 v3, v2", "ds_write_b32 v1, v0",
        "reads LDS byte 508, which wave 1 writes; it was not waited for before the barrier",
        "put s_waitcnt lgkmcnt(0) before the s_barrier between them",
    ),
    "a wait that waits for too little": Race(
        EXCHANGE.replace("ds_write_b32 v1, v0", "ds_write_b32 v1, v0\nds_write_b32 v1, v0 offset:512"),
        "s_waitcnt lgkmcnt(2)\ns_barrier", "s_waitcnt lgkmcnt(1)\ns_barrier", "ds_read_b32 v3, v2",
        "ds_write_b32 v1, v0", "reads LDS byte 508", "put s_waitcnt lgkmcnt(0) before the s_barrier",
    ),
    "overwritten while others read": Race(
        EXCHANGE.replace("{}", LDS_WAIT) + "{}\nv_add_u32_e32 v4, 9, v0\nds_write_b32 v1, v4", "", "s_barrier",
        "ds_write_b32 v1, v4", "ds_read_b32 v3, v2", "overwrites LDS byte 0, which wave 1 reads",
        "put s_waitcnt lgkmcnt(0) and s_barrier between them",
    ),
    "two waves write": Race(
        "v_and_b32_e32 v2, 63, v0\nv_lshlrev_b32_e32 v3, 2, v2\nds_write_b8 v3, {}",
        "v0", "v2", "ds_write_b8 v3, v0", "ds_write_b8 v3, v0", "overwrites LDS byte 0, which wave 0 writes",
        "put s_waitcnt lgkmcnt(0) and s_barrier between them",
    ),
    "a plain read of what atomics make": Race(
        "v_mov_b32_e32 v2, 16\nv_mov_b32_e32 v3, 0\nds_write_b32 v2, v3\n" + LDS_WAIT
        + "\nds_add_u32 v2, v0\n{}\nds_read_b32 v4, v2",
        "s_waitcnt lgkmcnt(0)", LDS_WAIT, "ds_read_b32 v4, v2", "ds_add_u32 v2, v0",
        "reads LDS byte 16, which wave 1 writes", "put s_waitcnt lgkmcnt(0) and s_barrier between them",
    ),
    "a load to LDS, read by its own wave": Race(
        "global_load_lds_dword v1, s[4:5]\n{}\nds_read_b32 v2, v1", "s_waitcnt lgkmcnt(0)", "s_waitcnt vmcnt(0)",
        "ds_read_b32 v2, v1", "global_load_lds_dword v1", "reads LDS byte 0, which wave 0 writes, which may land later",
        "put s_waitcnt vmcnt(0) between them", block=64,
    ),
    "a load to LDS, read by another wave": Race(
        "v_readfirstlane_b32 s12, v1\ns_mov_b32 m0, s12\nglobal_load_lds_dword v1, s[4:5]\n{}\ns_barrier\n"
        "v_sub_u32_e32 v2, 0x1fc, v1\nds_read_b32 v3, v2",
        "s_waitcnt lgkmcnt(0)", "s_waitcnt vmcnt(0)", "ds_read_b32 v3, v2", "global_load_lds_dword v1",
        "reads LDS byte 508, which wave 1 writes; it was not waited for before the barrier",
        "put s_waitcnt vmcnt(0) before the s_barrier between them",
    ),
    "the wait leaves the newest load to LDS": Race(
        "global_load_lds_dword v1, s[4:5]\ns_mov_b32 m0, 0x100\nglobal_load_lds_dword v1, s[4:5]\n{}\n"
        "ds_read_b32 v2, v1 offset:256",
        "s_waitcnt vmcnt(1)", "s_waitcnt vmcnt(0)", "ds_read_b32 v2, v1 offset:256", "global_load_lds_dword v1",
        "reads LDS byte 256, which wave 0 writes", "put s_waitcnt vmcnt(0) between them", block=64,
    ),
    "lanes of an LDS store": Race(
        "v_mov_b32_e32 v2, 8\nv_mov_b32_e32 v3, 5\nds_write_b32 v2, {}", "v0", "v3", "ds_write_b32 v2, v0", "",
        "lanes 0 and 1 write different values to LDS byte 8", "let one lane write it", block=64,
    ),
    "lanes of a global store": Race(
        "v_mov_b32_e32 v2, 8\nv_mov_b32_e32 v3, 5\nglobal_store_short v2, {}, s[4:5]", "v0", "v3",
        "global_store_short v2, v0", "", "lanes 0 and 1 write different values to byte 8 of `a`",
        "let one lane write it", block=64,
    ),
    "lanes whose dwords overlap": Race(
        "v_lshlrev_b32_e32 v2, {}, v0\nglobal_store_dwordx2 v2, v[0:1], s[4:5]", "2", "3",
        "global_store_dwordx2 v2, v[0:1]", "", "lanes 0 and 1 write different values to byte 4 of `a`",
        "let one lane write it", block=64,
    ),
    "workgroups that write the same bytes": Race(
        "s_lshl_b32 s12, s2, {}\nv_add_u32_e32 v2, s12, v1\nv_mov_b32_e32 v3, s2\nglobal_store_dword v2, v3, s[4:5]",
        "2", "8", "global_store_dword v2, v3", "global_store_dword v2, v3",
        "overwrites byte 4 of `a`, which wave 0 of workgroup (0, 0, 0) writes",
        "give each workgroup bytes of its own", grid=2, block=64,
    ),
    "a workgroup reads what another writes": Race(
        "s_lshl_b32 s12, s2, 8\nv_add_u32_e32 v2, s12, v1\nglobal_store_dword v2, v0, s[4:5]\n"
        "v_xor_b32_e32 v3, {}, v2\nglobal_load_dword v4, v3, s[4:5]",
        "0x100", "0x80", "global_load_dword v4, v3", "global_store_dword v2, v0",
        "reads byte 0 of `a`, which wave 0 of workgroup (0, 0, 0) writes", "give each workgroup bytes of its own",
        grid=2, block=64,
    ),
    "a workgroup overwrites what another reads": Race(
        "global_load_dword v4, v1, s[4:5]\ns_lshl_b32 s12, s2, 8\n{}\nv_add_u32_e32 v2, s12, v1\n"
        "v_mov_b32_e32 v3, 5\nglobal_store_dword v2, v3, s[4:5]",
        "", "s_add_u32 s12, s12, 0x400", "global_", "global_", "byte 0 of `a`", "give each workgroup bytes of its own",
        grid=2, block=64,
    ),
    "waves that exchange through global memory": Race(
        "global_store_dword v1, v0, s[4:5]\n{}\nv_sub_u32_e32 v2, 0x1fc, v1\nglobal_load_dword v3, v2, s[4:5]",
        "s_waitcnt vmcnt(0)", "s_barrier", "global_load_dword v3, v2", "global_store_dword v1, v0",
        "reads byte 508 of `a`, which wave 1 writes", "put s_waitcnt vmcnt(0) and s_barrier between them",
    ),
    "a scalar load of what another wave stores": Race(
        "global_store_dword v1, v0, s[4:5]\n{}\ns_load_dword s12, s[4:5], 0x100", "", "s_waitcnt vmcnt(0)\ns_barrier",
        "s_load_dword s12", "global_store_dword v1, v0", "reads byte 256 of `a`, which wave 1 writes",
        "put s_waitcnt vmcnt(0) and s_barrier between them",
    ),
    "a plain load of what atomics make": Race(
        "v_mov_b32_e32 v2, 0\nglobal_atomic_add v2, v0, s[4:5]\n{}", "global_load_dword v3, v2, s[4:5]",
        "global_load_dword v3, v2, s[4:5] sc1", "global_atomic_add v2, v0", "global_load_dword v3, v2",
        "overwrites byte 0 of `a`, which wave 0 of workgroup (0, 0, 0) reads", "make both accesses atomic",
        grid=2, block=64,
    ),
    "a flag set before the data is there": Race(
        FLAG, SET_FLAG, "s_waitcnt vmcnt(0)\n" + SET_FLAG, "global_load_dword v5, v1", "global_store_dword v1, v2",
        "reads byte 0 of `a`, which wave 0 of workgroup (0, 0, 0) writes", "wait (s_waitcnt vmcnt(0)), then set",
        grid=2, block=64,
    ),
    "a flag that is no atomic": Race(
        FLAG, "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v3, 0\nv_mov_b32_e32 v4, 1\nglobal_store_dword v3, v4, s[6:7]",
        "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v3, 0\nv_mov_b32_e32 v4, 1\nglobal_store_dword v3, v4, s[6:7] sc1",
        "global_load_dword v5, v1", "global_store_dword v1, v2",
        "reads byte 0 of `a`, which wave 0 of workgroup (0, 0, 0) writes", "set a flag by an atomic operation",
        grid=2, block=64,
    ),
    "a flag polled through the scalar cache": Race(
        FLAG.replace(POLL, "s_load_dword s12, s[6:7], 0 {}\ns_waitcnt lgkmcnt(0)").replace(
            "\n{}\ns_endpgm", "\ns_waitcnt vmcnt(0)\n" + SET_FLAG + "\ns_endpgm"),
        "", "glc", "s_load_dword s12, s[6:7]", "global_atomic_add v3, v4",
        "reads byte 0 of `b`, which wave 0 of workgroup (0, 0, 0) writes", "make both accesses atomic", grid=2,
        block=64,
    ),
    "a flag polled with the scope of the workgroup": Race(
        FLAG.replace(" sc1", " {}").replace("\n{}\ns_endpgm", "\ns_waitcnt vmcnt(0)\n" + SET_FLAG + "\ns_endpgm"),
        "sc0", "sc1", "global_load_dword v4, v3", "global_atomic_add v3, v4", "reads byte 0 of `b`", "set sc1 in both",
        grid=2, block=64,
    ),
    "a flag stored with the scope of the workgroup": Race(
        FLAG.replace("{}", STORE_FLAG),
        "sc0", "sc0 sc1", "global_load_dword v4, v3", "global_store_dword v3, v4", "reads byte 0 of `b`",
        "set sc1 in both", grid=2, block=64,
    ),
    "overwritten with the same value while others read": Race(
        "v_mov_b32_e32 v3, 7\nds_write_b32 v1, v3\n" + LDS_WAIT + "\nv_sub_u32_e32 v2, 0x1fc, v1\n"
        "ds_read_b32 v4, v2\ns_waitcnt lgkmcnt(0)\n{}\nds_write_b32 v1, v3", "", "s_barrier",
        "ds_write_b32 v1, v3", "ds_read_b32 v4, v2", "overwrites LDS byte 0, which wave 1 reads",
        "put s_waitcnt lgkmcnt(0) and s_barrier between them",
    ),
    "zeros over zeros that another workgroup reads": Race(
        "v_mov_b32_e32 v3, 0\nglobal_load_dword v4, v1, s[4:5]\ns_lshl_b32 s12, s2, 8\nv_add_u32_e32 v2, s12, v1\n"
        "global_store_dword v2, v3, s[4:5] offset:{}", "0", "2048", "global_", "global_", "of `a`",
        "give each workgroup bytes of its own", grid=2, block=64,
    ),
    "the third reader": Race(
        READERS, "0", "4", "ds_write_b32 v2, v3", "ds_read_b32 v4, v2", "overwrites LDS byte 0, which wave 0 reads",
        "put s_waitcnt lgkmcnt(0) before the s_barrier between them", block=256,
    ),
    "the third reader, of another workgroup": Race(
        WAVE + "v_mov_b32_e32 v2, 0\nglobal_load_dword v4, v2, s[4:5]\ns_waitcnt vmcnt(0)\ns_barrier\n"
        "s_cmp_lg_u32 s2, 1\ns_cbranch_scc1 end\ns_cmp_lg_u32 s20, 0\ns_cbranch_scc1 end\nv_mov_b32_e32 v5, 9\n"
        "global_store_dword v2, v5, s[4:5]{}\nend:", "", " offset:8", "global_store_dword v2, v5",
        "global_load_dword v4, v2", "overwrites byte 0 of `a`, which wave 1 of workgroup (0, 0, 0) reads",
        "give each workgroup bytes of its own", grid=2,
    ),
    "the third reader of those that were waited for": Race(
        COUNTED, "1", "0", "global_store_dword v3, v5", "global_load_dword v4, v3",
        "overwrites byte 0 of `a`, which wave 0 of workgroup (0, 0, 0) reads", "give each workgroup bytes of its own",
        grid=4, block=64,
    ),
    "lanes far apart of a store": Race(
        "v_and_b32_e32 v2, {}, v0\nv_mul_u32_u24_e32 v2, 20, v2\nds_write_b64 v2, v[0:1]", "31", "63",
        "ds_write_b64 v2, v[0:1]", "", "lanes 0 and 32 write different values to LDS byte 0", "let one lane write it",
        block=64, lds=2048,
    ),
    "padded rows of sixteens": Race(
        "v_mul_u32_u24_e32 v2, 0x50, v0\nds_write_b128 v2, v[4:7]\n{}\nv_sub_u32_e32 v3, 0x7f, v0\n"
        "v_mul_u32_u24_e32 v3, 0x50, v3\nds_read_b128 v[8:11], v3", "", LDS_WAIT, "ds_read_b128",
        "ds_write_b128", "reads LDS byte 10160, which wave 1 writes", "and s_barrier between them", lds=10240,
    ),
    "a byte of another wave's sixteen": Race(
        WAVE + "v_and_b32_e32 v2, 63, v0\nv_lshlrev_b32_e32 v2, 5, v2\ns_lshl_b32 s21, s20, 4\n"
        "v_add_u32_e32 v2, s21, v2\nds_write_b128 v2, v[4:7]\n{}\ns_cmp_lg_u32 s20, 0\ns_cbranch_scc1 end\n"
        "ds_read_u8 v8, v2 offset:21\nend:", "s_barrier", LDS_WAIT, "ds_read_u8", "ds_write_b128",
        "reads LDS byte 21, which wave 1 writes", "put s_waitcnt lgkmcnt(0) before the s_barrier", lds=2048,
    ),
    "the end of what lies on two lines": Race(
        WAVE + "v_mul_u32_u24_e32 v2, 0x44, v0\nds_write_b64 v2, v[4:5] offset:60\n{}\ns_cmp_lg_u32 s20, 0\n"
        "s_cbranch_scc1 end\nv_mov_b32_e32 v3, 0x1140\nds_read_b32 v8, v3\nend:", "s_barrier", LDS_WAIT,
        "ds_read_b32", "ds_write_b64", "reads LDS byte 4416, which wave 1 writes",
        "put s_waitcnt lgkmcnt(0) before the s_barrier", lds=8704,
    ),
    "the third reader of a sixteen": Race(
        READERS.replace("b32 v4, v2", "b128 v[4:7], v2").replace("b32 v2, v2", "b128 v2, v[4:7]").replace(
            "ds_write_b32 v2, v3", "s_mov_b64 exec, 1\nds_write_b32 v2, v3 offset:12"),
        "0", "4", "ds_write_b32 v2, v3 offset:12", "ds_read_b128", "overwrites LDS byte 12, which wave 0 reads",
        "put s_waitcnt lgkmcnt(0) before the s_barrier between them", block=256,
    ),
    "a byte of a line": Race(
        "s_cmp_eq_u32 s2, 1\ns_cbranch_scc1 byte\nv_lshlrev_b32_e32 v2, 4, v0\n"
        "global_store_dwordx4 v2, v[4:7], s[4:5]\ns_endpgm\nbyte:\nv_mov_b32_e32 v3, 0x25\nv_mov_b32_e32 v5, 9\n"
        "s_mov_b64 exec, 1\nglobal_store_byte v3, v5, s[4:5]{}", "", " offset:1024", "global_store_byte",
        "global_store_dwordx4", "overwrites byte 37 of `a`, which wave 0 of workgroup (0, 0, 0) writes",
        "give each workgroup bytes of its own", grid=2, block=64,
    ),
    "a scalar load of what the wave has stored": Race(
        "global_store_dword v1, v0, s[4:5]\n{}\ns_load_dword s12, s[4:5], 0", "", "s_waitcnt vmcnt(0)",
        "s_load_dword s12", "global_store_dword v1, v0",
        "reads byte 0 of `a`, which wave 0 writes, which may not be done", "put s_waitcnt vmcnt(0) between them",
        block=64,
    ),
    "a scalar load of what the wave has just stored, past the cache": Race(
        "s_load_dword s12, s[4:5], 0\ns_waitcnt lgkmcnt(0)\nglobal_store_dword v1, v0, s[4:5]\n{}\n"
        "s_load_dword s12, s[4:5], 0 glc", "", "s_waitcnt vmcnt(0)", "s_load_dword s12", "global_store_dword v1, v0",
        "reads byte 0 of `a`, which wave 0 writes, which may not be done", "put s_waitcnt vmcnt(0) between them",
        block=64,
    ),
    "a scalar load that finds what it loaded before": Race(
        "s_load_dword s12, s[4:5], 0\ns_waitcnt lgkmcnt(0)\nglobal_store_dword v1, v0, s[4:5]\ns_waitcnt vmcnt(0)\n"
        "{}\ns_load_dword s13, s[4:5], 4", "", "s_dcache_inv", "s_load_dword s13", "global_store_dword v1, v0",
        "reads byte 4 of `a` through the scalar cache, which may hold what it was before wave 0 wrote it",
        "put s_dcache_inv between them", block=64,
    ),
    "a store over what a scalar load reads": Race(
        "s_load_dword s12, s[4:5], 0\n{}\nv_mov_b32_e32 v2, 5\nglobal_store_dword v1, v2, s[4:5]", "",
        "s_waitcnt lgkmcnt(0)", "global_store_dword v1, v2", "s_load_dword s12",
        "overwrites byte 0 of `a`, which wave 0 reads, which may not be done", "put s_waitcnt lgkmcnt(0) between them",
        block=64,
    ),
    "a scalar load behind a barrier alone": Race(
        "global_store_dword v1, v0, s[4:5]\n{}\ns_barrier\ns_load_dword s12, s[4:5], 0x100", "", "s_waitcnt vmcnt(0)",
        "s_load_dword s12", "global_store_dword v1, v0",
        "reads byte 256 of `a`, which wave 1 writes; it was not waited for before the barrier",
        "put s_waitcnt vmcnt(0) before the s_barrier between them",
    ),
}  # fmt: skip
# What looks like one of them: body, workgroups, work-items.
LEGAL = {
    "a flag of eight bytes, polled past the scalar cache": (
        FLAG.replace(POLL, "s_load_dwordx2 s[12:13], s[6:7], 0 glc\ns_waitcnt lgkmcnt(0)").replace(
            "{}", "s_waitcnt vmcnt(0)\n" + SET_FLAG), 2, 64,
    ),
    "a flag polled through a scalar buffer": (
        "s_mov_b64 s[16:17], s[6:7]\ns_mov_b32 s18, 16\ns_mov_b32 s19, 0\n" + FLAG.replace(
            POLL, "s_buffer_load_dword s12, s[16:19], 0 glc\ns_waitcnt lgkmcnt(0)").replace(
            "{}", "s_waitcnt vmcnt(0)\n" + SET_FLAG), 2, 64,
    ),
    "a flag of the workgroup, with its scope": (
        WAVE + FLAG.replace("s2, 0", "s20, 0").replace("sc1", "sc0").replace("v1, v5", "v1, v4").replace(
            "{}", STORE_FLAG.format("sc0")), 1, 128,
    ),
    "scalar loads of what is read only by them": (
        "s_load_dwordx4 s[12:15], s[4:5], 0\ns_load_dwordx4 s[16:19], s[4:5], 0\nglobal_store_dword v1, v0, s[6:7]", 1,
        128,
    ),
    "a load past the scalar cache, which holds what was": (
        "s_load_dword s12, s[4:5], 0\ns_waitcnt lgkmcnt(0)\nglobal_store_dword v1, v0, s[4:5]\ns_waitcnt vmcnt(0)\n"
        "s_load_dword s13, s[4:5], 0 glc", 1, 64,
    ),
}  # fmt: skip


@each_target
@pytest.mark.parametrize("name", LEGAL)
def test_what_looks_like_a_race_is_clean(name: str, target: str) -> None:
    body, grid, block = LEGAL[name]
    report = watched.launch(watched.module(target, body, 1024), grid, block, sanitize="races")
    assert not report.findings, [str(f) for f in report.findings]
    assert not report.notes


@each_target
@pytest.mark.parametrize("name", RACES)
def test_a_planted_race_is_found_and_its_mended_twin_is_clean(name: str, target: str) -> None:
    race = RACES[name]
    found = watched.find(target, race.filled(race.fault), "races", race.grid, race.block, race.lds)
    assert found, "nothing was found"
    fitting = [f for f in found if f.instruction.startswith(race.at) and f.other_instruction.startswith(race.other)]
    assert fitting, [str(f) for f in found]
    finding = fitting[0]
    assert finding.check == "races"
    assert race.what in finding.what
    assert race.mend in finding.mend
    assert finding.workgroup[0] < race.grid and finding.wave < race.block // 64
    assert (finding.other_pc >= 0) == bool(race.other)
    clean = watched.find(target, race.filled(race.mended), "races", race.grid, race.block, race.lds)
    assert not clean, [str(f) for f in clean]


@each_target
@pytest.mark.parametrize("schedule", [Schedule(quantum=64), Schedule(quantum=1 << 20, seed=3)], ids=["far", "drawn"])
@pytest.mark.parametrize("name", ["no barrier", "no wait before the barrier", "workgroups that write the same bytes"])
def test_the_analysis_needs_no_luck(name: str, schedule: Schedule, target: str) -> None:
    """A race is found under any schedule, and no schedule makes one of a kernel that has none."""
    race = RACES[name]
    for text, expected in ((race.fault, True), (race.mended, False)):
        loaded = watched.module(target, race.body.format(text), race.lds)
        report = watched.launch(loaded, race.grid, race.block, sanitize="races", schedule=schedule)
        assert bool(report.findings) == expected, [str(f) for f in report.findings]


@each_target
def test_a_missing_barrier_shows_when_quantum_and_seed_vary(target: str) -> None:
    torch = pytest.importorskip("torch")
    race = RACES["no barrier"]
    arguments = {name: torch.zeros(256, dtype=torch.int32) for name in watched.NAMES}
    differences = emulator.find_races(
        watched.module(target, race.body.format(race.fault), race.lds), "watched", 1, race.block, arguments
    )
    assert {d.argument for d in differences} == {"a"}
    assert any(d.schedule.seed for d in differences) and any(d.schedule.quantum > 1 for d in differences)
    loaded = watched.module(target, race.body.format(race.mended), race.lds)
    assert not emulator.find_races(loaded, "watched", 1, race.block, arguments)


@each_target
def test_a_repeated_race_is_one_finding(target: str) -> None:
    race = RACES["no barrier"]
    found = watched.find(target, race.body.format(race.fault), "races", 5, race.block, race.lds)
    assert len(found) == 1
    assert found[0].count == 10  # two waves in each of five workgroups


@each_target
def test_tgsplit_workgroups_share_no_cache(target: str) -> None:
    """Waves of a workgroup that may lie on several CUs must wait for their stores before the barrier."""
    race = RACES["waves that exchange through global memory"]
    for text, expected in (("s_barrier", 1), ("s_waitcnt vmcnt(0)\ns_barrier", 0)):
        loaded = watched.module(target, race.body.format(text), ieee_mode="1\n  .amdhsa_tg_split 1")
        found = watched.launch(loaded, 1, 128, sanitize="races").findings
        assert len(found) == expected, [str(f) for f in found]


@each_target
@pytest.mark.parametrize("level", ["-O1", "-O3"])
@pytest.mark.parametrize("name", ["exchange", "rounds"])
def test_the_corpus_of_races(name: str, level: str, target: str) -> None:
    loaded = session.module("races", target, level)
    arguments = {"x": watched.aligned(512), "out": watched.aligned(512)}
    arguments["x"][:] = range(512)
    assert not loaded.launch(name, 2, 256, arguments, sanitize="races").findings
    found = loaded.launch(f"racy_{name}", 2, 256, arguments, sanitize="races").findings
    assert len(found) == 1
    assert "s_barrier between them" in found[0].mend
    at, other = ("ds_read", "ds_write") if name == "exchange" else ("ds_write", "ds_read")
    assert found[0].instruction.startswith(at) and found[0].other_instruction.startswith(other)


@each_target
def test_a_race_of_equal_stores_is_noted(target: str) -> None:
    """Two workgroups store to the same bytes: what hides it is that the data are the same."""
    body = (
        "s_lshl_b32 s12, s2, {}\nv_add_u32_e32 v2, s12, v1\nglobal_load_dword v3, v1, s[6:7]\ns_waitcnt vmcnt(0)\n"
        "global_store_dword v2, v3, s[4:5]"
    )
    report = watched.launch(watched.module(target, body.format(2)), 2, 64, sanitize="races")
    assert not report.findings
    (note,) = report.notes
    assert note.startswith("races: `global_store_dword v2, v3, s[4:5]` of wave 0 stores to byte 4 of `a` what `global_")
    assert "of wave 0 of workgroup (0, 0, 0) has stored there" in note and "other data" in note
    apart = watched.launch(watched.module(target, body.format(8)), 2, 64, sanitize="races")
    assert not apart.findings and not apart.notes
    varied = watched.arguments()
    varied["b"][:] = range(4096)
    found = watched.module(target, body.format(2)).launch("watched", 2, 64, varied, sanitize="races").findings
    assert len(found) == 1 and "overwrites byte 4 of `a`" in found[0].what


@each_target
def test_limits_are_noted(target: str) -> None:
    """More memory instructions than have numbers: a race with the last of them is found, and the limit is noted."""
    body = ".rept {}\nds_read_b32 v2, v1\n.endr\ns_waitcnt lgkmcnt(0)\n"
    write = "v_xor_b32_e32 v3, 0x100, v1\nds_write_b32 v3, v0"
    for count, noted in ((16000, False), (16500, True)):
        report = watched.launch(watched.module(target, body.format(count) + write, 512), 1, 128, sanitize="races")
        assert report.findings
        assert [note.startswith("races: the kernel has more than 16383 memory inst") for note in report.notes] == (
            [True] if noted else []
        )


@each_target
@pytest.mark.parametrize(("readers", "noted"), [(60, False), (70, True)])
def test_more_readers_than_there_is_room_for(readers: int, noted: bool, target: str) -> None:
    """All of them are waited for, but only some can be remembered."""
    body = COUNTED.format(first=0).replace("s2, 3", f"s2, {readers}").replace("s12, 3", f"s12, {readers}")
    body = body.replace("v_mov_b32_e32 v5, 9", "v_mov_b32_e32 v5, 9\ns_mov_b64 exec, {}")
    # A store of one lane, and one whose lanes meet.
    for lanes in (1, -1):
        report = watched.launch(watched.module(target, body.format(lanes)), readers + 1, 64, sanitize="races")
        assert not report.findings, [str(f) for f in report.findings]
        assert ["more than 64 waves read were then written" in note for note in report.notes] == [True] * noted
