"""Findings by kind in a limited number of lines, and against a baseline; on findings that are made up."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from aiterlite.emulator import Finding, baseline, grouping

LOAD = "global_load_dword v2, v1, s[4:5]"


def made(
    check: str, pc: int, instruction: str = "v_mov_b32_e32 v1, v2", what: str = "wrong", count: int = 1
) -> Finding:
    return Finding(check, pc, instruction, -1, "", what, "mend it", (0, 0, 0), 0, -1, count, "k", 0x1900 + pc)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (f"v2 is read while `{LOAD}` is under way", "v17 is read while `global_load_dword v9, v1, off` is under way"),
        ("s4 is read 0 wait states after `v_readlane_b32 s4, v1, 3`, and 2 are needed",
         "s11 is read 1 wait state after `v_readlane_b32 s11, v7, 0`, and 1 is needed"),
        ("vcc_lo is read", "vcc_hi is read"),
        ("a12 is read", "a3 is read"),
        ("overwrites LDS byte 16, which wave 1 of workgroup (0, 0, 0) reads",
         "overwrites LDS byte 0x40, which wave 3 of workgroup (2, 1, 0) reads"),
    ],
)  # fmt: skip
def test_numbers_and_registers_are_no_other_cause(one: str, other: str) -> None:
    assert grouping.cause(one) == grouping.cause(other)


def test_notes_that_are_alike_are_one_line() -> None:
    stores = [f"races: `global_store_dword v1, v{n}, s[4:5]` of wave 0 stores to byte {n} of `a`" for n in range(70)]
    others = [f"`op{letter}` was not looked at" for letter in "abcdef"]
    assert grouping.notes(stores, 5) == [f"{stores[0]} (and 69 more like it)"]
    assert grouping.notes([others[0], *stores], 5) == [others[0], f"{stores[0]} (and 69 more like it)"]
    assert grouping.notes(others, 5) == [*others[:4], "and 2 kinds of notes more"] and grouping.notes([], 5) == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("v2 is read", "s2 is read"),
        ("v2 is read", "v2 is overwritten"),
        ("v2 is read after `v_exp_f32_e32 v2, v1`", "v2 is read after `v_log_f32_e32 v2, v1`"),
        ("reads `data` bytes 0..3", "reads `out` bytes 0..3"),
        ("v9 is read", "a9 is read"),
    ],
)
def test_what_is_another_cause(one: str, other: str) -> None:
    assert grouping.cause(one) != grouping.cause(other)


def test_a_kind_has_its_first_place_and_its_counts() -> None:
    found = [made("hazards", 8 * at, what=f"v{at} is read", count=at) for at in (5, 3, 4)]
    (kind,) = grouping.kinds([*found, *found])
    assert (kind.first.pc, kind.places, kind.times) == (24, 3, 24)
    text = "\n".join(grouping.lines(found))
    assert text.startswith(
        "hazards, 3 places, 12 times: v3 is read; mend it\n    first at 0x1918 (pc 0x18) `v_mov_b32_e32"
    )
    assert text.endswith("workgroup (0, 0, 0), wave 0")


def test_what_was_met_in_a_run_replaces_what_was_seen_in_the_code() -> None:
    met = made("waits", 8, count=5)
    seen = Finding("waits", 8, met.instruction, -1, "", "wrong", "mend it", (0, 0, 0), -1, -1, 1, "k", 0x1908)
    assert grouping.merged([seen, met]) == grouping.merged([met, seen]) == [met]
    assert "wave" not in "\n".join(grouping.lines([seen]))


def test_the_worst_come_first() -> None:
    order = ["errors", "races", "schedules", "waits", "barriers", "hazards", "lds", "registers", "unknown", "metadata"]
    shown = [kind.check for kind in grouping.kinds([made(check, 0) for check in reversed(order)])]
    assert shown == order
    often = [made("waits", 0, "s_a", count=3), made("waits", 4, "s_b", count=9), made("waits", 8, "s_c", count=9)]
    assert [kind.first.instruction for kind in grouping.kinds(often)] == ["s_b", "s_c", "s_a"]
    assert grouping.summary(often) == "waits 3"


@pytest.mark.parametrize("room", [12, 20, 30, 40])
def test_no_more_lines_than_there_is_room_and_nothing_uncounted(room: int) -> None:
    found = [made("races", 0, "ds_write_b32 v1, v2"), made("waits", 4, "v_add_f32_e32 v1, v2, v3")]
    found += [made("hazards", 16 * at, f"v_op{at}_b32 v1, v2", f"cause {chr(97 + at)}") for at in range(26)] * 2
    found += [made("registers", 16 * at, f"v_op{at}_b32 v1, v2", "x" * 150) for at in range(40)]
    text = grouping.lines(found, room)
    assert len(text) <= room and all(len(line) <= grouping.WIDTH for line in text)
    assert text[0].startswith("races: ") and text[2].startswith("waits: ")
    joined = "\n".join(text)
    kinds = sum(int(line.split(" more kinds")[0].split()[-1]) for line in text if " more kinds" in line)
    alone = sum(line.startswith(("hazards: ", "hazards, 1", "hazards, 2 times", "registers: ")) for line in text)
    assert kinds + alone == 66, joined


def test_findings_that_are_known(tmp_path: Path) -> None:
    file = tmp_path / "known.json"
    old = [made("hazards", 8, "v_a v1", "v1 is read"), made("hazards", 16, "v_a v1", "v2 is read"), made("waits", 24)]
    baseline.write(file, old)
    moved = [made("hazards", 80, "v_a v1", "v7 is read"), made("hazards", 160, "v_a v1", "v3 is read")]
    found = baseline.split(moved, baseline.read(file))
    assert found.new == () and list(found.known) == moved and [name[1] for name in found.gone] == ["waits"]
    # A third place of what is known in two is told, with those two: which of them is new cannot be known.
    more = [*moved, made("hazards", 240, "v_a v1", "v1 is read")]
    assert list(baseline.split(more, baseline.read(file)).new) == more
    other = made("hazards", 8, "v_b v1", "v1 is read")
    assert baseline.split([*moved, other], baseline.read(file)).new == (other,)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"schema": 1, "known": [{}]}', '{"schema": 1, "known": 3}'])
def test_a_file_that_is_no_baseline(tmp_path: Path, text: str) -> None:
    file = tmp_path / "known.json"
    file.write_text(text)
    with pytest.raises(baseline.BaselineError, match="is no baseline .*--write-baseline makes one"):
        baseline.read(file)
    with pytest.raises(baseline.BaselineError, match="cannot be read: .*--write-baseline makes one"):
        baseline.read(tmp_path / "absent")
    file.write_text(json.dumps({"schema": 2, "known": []}))
    with pytest.raises(baseline.BaselineError, match="has schema 2; this version reads 1"):
        baseline.read(file)
