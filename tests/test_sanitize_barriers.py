"""Waves that do not come to a barrier at which others of their workgroup wait."""

from __future__ import annotations

import pytest
from emulator.assembly import TARGETS
from emulator.executor import library
from emulator.planted import findings

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

# The wave's number in s20.
_WAVE = "v_lshrrev_b32_e32 v3, 6, v1\ns_nop 1\nv_readfirstlane_b32 s20, v3\ns_nop 1\n"
_SKIP_IF = "s_cmp_eq_u32 s20, {}\ns_cbranch_scc1 {}\n"


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


# name -> (faulty, mended, waves)
FAULTS = {
    "skips the only one": (
        _WAVE + _SKIP_IF.format(1, ".Lend") + "s_barrier\n.Lend:",
        _WAVE + "s_barrier\n" + _SKIP_IF.format(1, ".Lend") + "s_nop 0\n.Lend:",
        2,
    ),
    "leaves early": (
        _WAVE + "s_barrier\n" + _SKIP_IF.format(2, ".Lend") + "s_barrier\ns_barrier\n.Lend:",
        _WAVE + "s_barrier\ns_barrier\ns_barrier\n.Lend:",
        4,
    ),
    "one round less": (
        _WAVE + "s_sub_u32 s21, 5, s20\n.Lloop:\ns_barrier\ns_sub_u32 s21, s21, 1\ns_cmp_lg_u32 s21, 0\n"
        "s_cbranch_scc1 .Lloop",
        _WAVE + "s_mov_b32 s21, 5\n.Lloop:\ns_barrier\ns_sub_u32 s21, s21, 1\ns_cmp_lg_u32 s21, 0\n"
        "s_cbranch_scc1 .Lloop",
        2,
    ),
}
_PARTING = _WAVE + _SKIP_IF.format(1, ".Lskip") + "s_barrier\n.Lskip:\ns_nop 3\ns_barrier"
_ROLES = _WAVE + _SKIP_IF.format(1, ".Lother") + "s_barrier\ns_branch .Lend\n.Lother:\ns_nop 0\ns_barrier\n.Lend:"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", FAULTS)
def test_faults_are_found_and_named(name: str, target: str) -> None:
    faulty, mended, waves = FAULTS[name]
    found = findings(target, faulty, "barriers", items=64 * waves)
    assert found
    late = 2 if name == "leaves early" else 1
    for finding in found:
        assert (finding.check, finding.instruction, finding.other_instruction) == ("barriers", "s_barrier", "s_endpgm")
        assert finding.what == f"wave 0 waits here, and wave {late} ended without coming"
        assert finding.mend == f"let wave {late} come to this s_barrier before its s_endpgm"
        assert finding.wave == 0
    assert not findings(target, mended, "barriers", items=64 * waves)


@pytest.mark.parametrize("target", TARGETS)
def test_where_the_waves_parted_is_named(target: str) -> None:
    """Wave 1 skips a barrier: it meets wave 0 at its next one, and is gone when wave 0 gets there."""
    found = {finding.what: finding for finding in findings(target, _PARTING, "barriers", items=128)}
    assert set(found) == {
        "wave 0 waits here, and wave 1 ended without coming",
        "wave 0 waited here while wave 1 waited at another s_barrier",
    }
    parted = found["wave 0 waited here while wave 1 waited at another s_barrier"]
    assert parted.instruction == parted.other_instruction == "s_barrier" and parted.pc < parted.other_pc


@pytest.mark.parametrize("target", TARGETS)
def test_roles_that_pair_their_barriers_are_clean(target: str) -> None:
    assert not findings(target, _ROLES, "barriers", items=128)


@pytest.mark.parametrize("target", TARGETS)
def test_a_single_wave_is_clean(target: str) -> None:
    assert not findings(target, "s_barrier\ns_barrier", "barriers")
