"""Reads of LDS that nothing wrote: planted ones are found and named, and their mended twins are clean."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from emulator import assembly, session, watched

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.compile,
    pytest.mark.skipif(bool(session.missing()), reason=session.missing()),
]
each_target = pytest.mark.parametrize("target", assembly.TARGETS)


@dataclass(frozen=True)
class Unwritten:
    """A kernel with a hole, `{}`: with `fault` in it, `at` reads what nothing wrote, `byte` first."""

    body: str
    fault: str
    mended: str
    at: str
    byte: int
    wave: int = 0
    lane: int = 0
    grid: int = 1
    block: int = 64


CASES = {
    "nothing was written": Unwritten("{}\nds_read_b32 v2, v1", "", "ds_write_b32 v1, v0", "ds_read_b32 v2, v1", 0),
    "half the lanes wrote": Unwritten(
        "s_mov_b64 exec, {}\nds_write_b32 v1, v0\ns_mov_b64 exec, -1\nds_read_b32 v2, v1",
        "0xffff", "-1", "ds_read_b32 v2, v1", 64, lane=16,
    ),
    "one byte is missing": Unwritten(
        "v_lshlrev_b32_e32 v2, 3, v0\nds_write_b32 v2, v0\nds_write_b16 v2, v0 offset:4\n{}\nds_read_b64 v[4:5], v2",
        "ds_write_b8 v2, v0 offset:6", "ds_write_b16 v2, v0 offset:6", "ds_read_b64 v[4:5], v2", 7,
    ),
    "a read past what was written": Unwritten(
        "ds_write_b32 v1, v0\nds_read_b32 v2, v1 offset:{}", "4", "0", "ds_read_b32 v2, v1 offset:4", 256, lane=63,
    ),
    "an atomic on what was not set": Unwritten(
        "v_mov_b32_e32 v2, 32\nv_mov_b32_e32 v3, 0\n{}\nds_add_u32 v2, v0", "ds_write_b32 v2, v3 offset:4",
        "ds_write_b32 v2, v3", "ds_add_u32 v2, v0", 32,
    ),
    "the second address": Unwritten(
        "ds_write_b32 v1, v0\n{}\nds_read2_b32 v[2:3], v1 offset0:0 offset1:64", "", "ds_write_b32 v1, v0 offset:256",
        "ds_read2_b32 v[2:3], v1 offset1:64", 256,
    ),
    "what only the other wave's half covers": Unwritten(
        "s_cmp_eq_u32 s2, s2\nds_write_b32 v1, v0\ns_waitcnt lgkmcnt(0)\ns_barrier\nds_read_b32 v2, v1 offset:{}",
        "256", "0", "ds_read_b32 v2, v1 offset:256", 512, wave=1, block=128,
    ),
    "a load to LDS that stops early": Unwritten(
        "s_mov_b64 exec, {}\nglobal_load_lds_dword v1, s[4:5]\ns_waitcnt vmcnt(0)\ns_mov_b64 exec, -1\n"
        "ds_read_b32 v2, v1",
        "0xff", "-1", "ds_read_b32 v2, v1", 32, lane=8,
    ),
    "what an earlier workgroup left": Unwritten(
        "s_cmp_lg_u32 s2, {}\ns_cbranch_scc1 skip\nds_write_b32 v1, v0\nskip:\ns_waitcnt lgkmcnt(0)\n"
        "ds_read_b32 v2, v1",
        "0", "s2", "ds_read_b32 v2, v1", 0, grid=2,
    ),
}  # fmt: skip


@each_target
@pytest.mark.parametrize("name", CASES)
def test_an_unwritten_byte_is_found_and_its_mended_twin_is_clean(name: str, target: str) -> None:
    case = CASES[name]
    found = watched.find(target, case.body.format(case.fault), "lds", case.grid, case.block, 1024)
    assert len(found) == 1, [str(f) for f in found]
    finding = found[0]
    assert (finding.check, finding.instruction) == ("lds", case.at)
    assert "nothing in the workgroup has written" in finding.what
    assert f"LDS byte {case.byte} " in finding.mend
    assert (finding.wave, finding.lane) == (case.wave, case.lane)
    assert finding.workgroup == (case.grid - 1, 0, 0)
    assert finding.other_pc == -1
    clean = watched.find(target, case.body.format(case.mended), "lds", case.grid, case.block, 1024)
    assert not clean, [str(f) for f in clean]


@each_target
def test_a_write_through_a_flat_address_counts(target: str) -> None:
    body = """
    s_mov_b64 s[12:13], src_shared_base
    v_mov_b32_e32 v2, v1
    v_mov_b32_e32 v3, s13
    {}
    s_waitcnt vmcnt(0) lgkmcnt(0)
    ds_read_b32 v4, v1
    """
    assert watched.find(target, body.format(""), "lds", 1, 64, 256)
    assert not watched.find(target, body.format("flat_store_dword v[2:3], v0"), "lds", 1, 64, 256)


@each_target
def test_lds_is_watched_without_the_other_checks(target: str) -> None:
    body = CASES["nothing was written"].body.format("")
    assert not watched.find(target, body, "races", 1, 64, 256)
    assert not watched.launch(watched.module(target, body, 256)).findings
