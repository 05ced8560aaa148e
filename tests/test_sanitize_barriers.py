"""Barriers of waves that do not pair up, and waves that end before others meet."""

from __future__ import annotations

import pytest
from emulator.assembly import TARGETS
from emulator.executor import library
from emulator.planted import findings, report

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

# The wave's number in s20.
_WAVE = "v_lshrrev_b32_e32 v3, 6, v1\ns_nop 1\nv_readfirstlane_b32 s20, v3\ns_nop 1\n"
_SKIP_IF = "s_cmp_eq_u32 s20, {}\ns_cbranch_scc1 {}\n"


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


# Barriers that the hardware accepts, since it does not count waves that have ended: body and waves.
LEGAL = {
    "no work for a wave": (_WAVE + _SKIP_IF.format(1, ".Lend") + "s_barrier\n.Lend:", 2),
    "no work for all but one": (
        _WAVE + "s_cmp_lg_u32 s20, 2\ns_cbranch_scc1 .Lend\ns_barrier\ns_barrier\n.Lend:", 4,
    ),
    "all come to all": (_WAVE + "s_barrier\ns_barrier", 4),
    "a single wave": ("s_barrier\ns_barrier", 1),
    "roles that pair their barriers": (
        _WAVE + _SKIP_IF.format(1, ".Lother") + "s_barrier\ns_branch .Lend\n.Lother:\ns_nop 0\ns_barrier\n.Lend:", 2,
    ),
}  # fmt: skip
# Legal as well, but a wave that took part in barriers has fewer of them than the others: body, waves, what is noted.
NOTED = {
    "leaves early": (
        _WAVE + "s_barrier\n" + _SKIP_IF.format(2, ".Lend") + "s_barrier\ns_barrier\n.Lend:", 4,
        "wave 2 of workgroup 0 ended after 1 barrier and others went on",
    ),
    "one round less": (
        _WAVE + "s_sub_u32 s21, 5, s20\n.Lloop:\ns_barrier\ns_sub_u32 s21, s21, 1\ns_cmp_lg_u32 s21, 0\n"
        "s_cbranch_scc1 .Lloop", 2,
        "wave 1 of workgroup 0 ended after 4 barriers and others went on",
    ),
}  # fmt: skip
_PARTING = _WAVE + _SKIP_IF.format(1, ".Lskip") + "s_barrier\n.Lskip:\ns_nop 3\ns_barrier"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LEGAL)
def test_what_the_hardware_accepts_is_clean(name: str, target: str) -> None:
    body, waves = LEGAL[name]
    seen = report(target, body, "barriers", items=64 * waves)
    assert not seen.findings and not seen.notes


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", NOTED)
def test_fewer_barriers_are_noted(name: str, target: str) -> None:
    body, waves, words = NOTED[name]
    seen = report(target, body, "barriers", items=64 * waves)
    assert not seen.findings
    assert len(seen.notes) == 1 and seen.notes[0].startswith("barriers: ") and words in seen.notes[0]


@pytest.mark.parametrize("target", TARGETS)
def test_a_skipped_barrier_is_named(target: str) -> None:
    """Wave 1 skips a barrier: it meets wave 0 at its next one, and is gone when wave 0 gets there."""
    (found,) = findings(target, _PARTING, "barriers", items=128)
    assert found.what == (
        "wave 0 waited here while wave 1 waited at another s_barrier, and wave 1 then ended after 1 barrier while "
        "wave 0 came to more"
    )
    assert found.mend == "let both come to the same s_barrier, or to as many"
    assert found.instruction == found.other_instruction == "s_barrier" and found.pc < found.other_pc
    mended = _PARTING.replace("s_nop 3\ns_barrier", "s_nop 3").replace(_SKIP_IF.format(1, ".Lskip"), "")
    assert not findings(target, mended, "barriers", items=128)
