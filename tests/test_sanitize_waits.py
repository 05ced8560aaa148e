"""Registers used while a load into them is under way."""

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


def _planted(name: str, before: str, wait: str, use: str, other: str, register: str, verb: str, mend: str) -> Planted:
    """`wait` is what is missing between `before` and `use`."""
    what = (register, f"is {verb} while `{other}", "is under way")
    return Planted(name, f"{before}\n{use}", f"{before}\n{wait}\n{use}", use.split("\n")[0], other, what, mend)


_TWO = "global_load_dword v3, v2, s[4:5]\nglobal_load_dword v4, v2, s[4:5]\n"
FAULTS = [
    _planted("global load", "global_load_dword v3, v2, s[4:5]", "s_waitcnt vmcnt(0)", "v_add_u32_e32 v5, v3, v3",
             "global_load_dword v3", "v3", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("older of three", _TWO + "global_store_dword v2, v1, s[6:7]", "s_waitcnt vmcnt(2)",
             "v_add_u32_e32 v5, v3, v3", "global_load_dword v3", "v3", "read", "`s_waitcnt vmcnt(2)`"),
    _planted("count too high", _TWO + "s_waitcnt vmcnt(1)", "s_waitcnt vmcnt(0)", "v_add_u32_e32 v5, v4, v4",
             "global_load_dword v4", "v4", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("second half", "global_load_dwordx2 v[8:9], v2, s[4:5]", "s_waitcnt vmcnt(0)", "v_mov_b32_e32 v5, v9",
             "global_load_dwordx2", "v9", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("address", "global_load_dword v3, v2, s[4:5]", "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v3, 0",
             "global_load_dword v5, v3, s[4:5]", "global_load_dword v3", "v3", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("stored data", "global_load_dword v3, v2, s[4:5]", "s_waitcnt vmcnt(0)",
             "global_store_dword v2, v3, s[6:7]", "global_load_dword v3", "v3", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("accumulator", "global_load_dword v3, v2, s[4:5]", "s_waitcnt vmcnt(0)", "v_fmac_f32_e32 v3, v1, v2",
             "global_load_dword v3", "v3", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("accumulation register", "global_load_dword a3, v2, s[4:5]", "s_waitcnt vmcnt(0)",
             "v_accvgpr_read_b32 v5, a3", "global_load_dword a3", "a3", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("overwritten", "global_load_dword v3, v2, s[4:5]", "s_waitcnt vmcnt(0)", "v_mov_b32_e32 v3, 0",
             "global_load_dword v3", "v3", "overwritten", "`s_waitcnt vmcnt(0)`"),
    _planted("returning atomic", "global_atomic_add v3, v2, v1, s[6:7] sc0", "s_waitcnt vmcnt(0)",
             "v_mov_b32_e32 v5, v3", "global_atomic_add v3", "v3", "read", "`s_waitcnt vmcnt(0)`"),
    _planted("LDS", "ds_read_b32 v3, v2\nds_read_b32 v4, v2 offset:4", "s_waitcnt lgkmcnt(1)", "v_mov_b32_e32 v5, v3",
             "ds_read_b32 v3", "v3", "read", "`s_waitcnt lgkmcnt(1)`"),
    _planted("LDS into a global load", "global_load_dword v3, v2, s[4:5]", "s_waitcnt vmcnt(0)", "ds_read_b32 v3, v2",
             "global_load_dword v3", "v3", "overwritten", "`s_waitcnt vmcnt(0)`"),
    _planted("scalar memory has no order", "s_load_dword s10, s[4:5], 0\ns_load_dword s11, s[4:5], 4\n"
             "s_waitcnt lgkmcnt(1)", "s_waitcnt lgkmcnt(0)", "s_add_u32 s12, s10, s10", "s_load_dword s10", "s10",
             "read", "`s_waitcnt lgkmcnt(0)`"),
    _planted("scalar memory takes LDS out of order", "ds_read_b32 v3, v2\ns_load_dword s10, s[4:5], 0\n"
             "s_waitcnt lgkmcnt(1)", "s_waitcnt lgkmcnt(0)", "v_mov_b32_e32 v5, v3", "ds_read_b32 v3", "v3", "read",
             "`s_waitcnt lgkmcnt(0)`"),
    _planted("scalar base of a load", "s_load_dwordx2 s[10:11], s[0:1], 0", "s_waitcnt lgkmcnt(0)",
             "global_load_dword v3, v2, s[10:11]", "s_load_dwordx2", "s10", "read", "`s_waitcnt lgkmcnt(0)`"),
    _planted("flat counts twice", "v_mov_b32_e32 v6, s4\nv_mov_b32_e32 v7, s5\nflat_load_dword v3, v[6:7]\n"
             "s_waitcnt vmcnt(0)", "s_waitcnt lgkmcnt(0)", "v_mov_b32_e32 v5, v3", "flat_load_dword v3", "v3", "read",
             "`s_waitcnt lgkmcnt(0)`"),
]  # fmt: skip

CLEAN = {
    "loads of one kind return in order": "global_load_dword v3, v2, s[4:5]\nglobal_load_dword v3, v2, s[4:5]\n"
    "s_waitcnt vmcnt(0)\nv_mov_b32_e32 v5, v3",
    "stored data may be overwritten": "global_store_dword v2, v1, s[6:7]\nv_mov_b32_e32 v1, 0",
    "an address may be overwritten": "v_mov_b32_e32 v3, v2\nglobal_load_dword v4, v3, s[4:5]\nv_mov_b32_e32 v3, 0",
    "stores at the end": "global_store_dword v2, v1, s[6:7]",
    "more loads than the counter holds": "\n".join(["global_load_dword v3, v2, s[4:5]"]
    + ["global_load_dword v4, v2, s[4:5]"] * 63 + ["s_waitcnt vmcnt(63)", "v_mov_b32_e32 v5, v3"]),
    "registers beside it": "global_load_dwordx2 v[8:9], v2, s[4:5]\nv_mov_b32_e32 v10, v7\nv_mov_b32_e32 v7, 0",
    "the wait names one counter": "global_load_dword v3, v2, s[4:5]\nds_read_b32 v4, v2\ns_waitcnt lgkmcnt(0)\n"
    "v_mov_b32_e32 v5, v4\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v5, v3",
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("planted", FAULTS, ids=str)
def test_faults_are_found_and_named(planted: Planted, target: str) -> None:
    expect(target, planted, "waits")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("body", CLEAN.values(), ids=CLEAN)
def test_what_needs_no_wait_is_clean(body: str, target: str) -> None:
    assert not findings(target, body, "waits")


@pytest.mark.parametrize("target", TARGETS)
def test_each_wave_is_named(target: str) -> None:
    """The first of all waves is kept, and the others are counted."""
    body = "global_load_dword v3, v2, s[4:5]\nv_mov_b32_e32 v5, v3"
    (finding,) = findings(target, body, "waits", items=256)
    assert (finding.wave, finding.count) == (0, 4)
    assert "v_mov_b32_e32 v5, v3" in str(finding) and "4 times" in str(finding)
