"""The timeline: cycles of small kernels counted by hand, and what is written of it."""

from __future__ import annotations

import itertools
import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from emulator import assembly, session, watched

from aiterlite import emulator
from aiterlite.cli import main
from aiterlite.emulator import calibration
from aiterlite.emulator import timeline as timelines
from aiterlite.target import resolve

pytestmark = [
    pytest.mark.torch,
    pytest.mark.emulated,
    pytest.mark.compile,
    pytest.mark.skipif(bool(session.missing()), reason=session.missing()),
]
each_target = pytest.mark.parametrize("target", assembly.TARGETS)
Both = Callable[..., tuple[str, Any, int]]
MFMA = "v_mfma_f32_32x32x8_f16 a[0:15], v[2:3], v[4:5], a[0:15]\n"  # 8 passes
SMALL = {"next_free_vgpr": "64", "accum_offset": "32"}  # registers of which a SIMD holds eight waves


def play(target: str, body: str, block: int = 64, grid: int = 1, lds: int = 0) -> dict[str, Any]:
    loaded = watched.module(target, body, lds, **SMALL)
    return watched.launch(loaded, grid, block, timeline=0).timeline


def waits(timeline: dict[str, Any], name: str) -> int:
    return sum(wave["waits"][name] for wave in timeline["waves"])


@pytest.fixture(scope="module")
def start() -> int:
    """The cycles of a kernel that does nothing: its wait for the scalar loads, and six instructions."""
    empty = play("gfx942", "")
    # The second load issues in slot 1, the wait in slot 4.
    assert empty["waves"][0]["waits"]["lgkmcnt"] == timelines.SCALAR_LATENCY - 12
    assert empty["waves"][0]["instructions"] == 6 and empty["complete"]
    return int(empty["cycles"])


@each_target
def test_instructions_of_a_wave_take_a_slot_each(target: str, start: int) -> None:
    assert play(target, "v_add_f32 v2, v2, v2\n" * 10)["cycles"] == start + 40
    assert play(target, "s_add_u32 s10, s10, 1\n" * 10)["cycles"] == start + 40
    assert play(target, "v_exp_f32 v2, v2\n" * 10)["cycles"] == start + 160
    nops = play(target, "s_nop 7\n" * 10)
    assert nops["cycles"] == start + 320 and waits(nops, "nops") == 280


@each_target
def test_the_matrix_unit(target: str, start: int) -> None:
    """8 passes of 4 cycles: the next one waits, and what lies between costs nothing."""
    alone = play(target, MFMA * 10)
    assert alone["cycles"] == start + 9 * 32 + 4
    assert alone["busy"]["matrix"] == [320, 0, 0, 0] and waits(alone, "matrix") == 9 * 28
    between = play(target, (MFMA + "v_add_f32 v6, v6, v6\n" * 7) * 10)
    assert between["cycles"] == start + 320 and waits(between, "matrix") == 0
    slow = play(target, (MFMA + "v_add_f32 v6, v6, v6\n" * 15) * 10)
    assert slow["cycles"] == start + 640


def test_waves_share_the_slots_of_a_simd(start: int) -> None:
    """Four waves have a SIMD each; the fifth and the first take turns at the vector ALU, and need not at the scalar."""
    body = "v_add_f32 v2, v2, v2\n" * 100
    four = play("gfx942", body, block=256)
    assert four["cycles"] == start + 400 and waits(four, "unit") <= 4 * 12
    five = play("gfx942", body, block=320)
    assert start + 800 <= five["cycles"] <= start + 820
    assert [wave["simd"] for wave in five["waves"]] == [0, 1, 2, 3, 0]
    assert 370 <= five["waves"][0]["waits"]["unit"] <= 430 and five["waves"][1]["waits"]["unit"] <= 12
    mixed = play("gfx942", "s_cmp_eq_u32 s2, s2\n" + "v_add_f32 v2, v2, v2\ns_add_u32 s10, s10, 1\n" * 50, block=320)
    assert mixed["cycles"] <= start + 400 + 24


def test_two_waves_fill_the_matrix_unit(start: int) -> None:
    """One wave that waits for LDS behind each matrix instruction leaves the unit idle; a second one takes it."""
    body = (MFMA + "ds_read_b32 v6, v1\ns_waitcnt lgkmcnt(0)\n") * 20
    one, two = (play("gfx942", body, block=block, lds=2048) for block in (256, 512))
    assert two["cycles"] < 1.35 * one["cycles"]
    assert sum(two["busy"]["matrix"]) == 2 * sum(one["busy"]["matrix"])


def test_latency_of_lds(start: int) -> None:
    """Conflict-free dwords take two groups of lanes, a cycle each; then the latency, up to a whole slot."""
    one = play("gfx942", "ds_read_b32 v2, v1\ns_waitcnt lgkmcnt(0)", lds=512)
    assert one["busy"]["lds"] == 2
    assert waits(one, "lgkmcnt") == timelines.SCALAR_LATENCY - 12 + timelines.LDS_LATENCY
    same = play("gfx942", "v_lshlrev_b32 v1, 5, v1\nds_read_b32 v2, v1\ns_waitcnt lgkmcnt(0)", lds=64 * 256)
    assert same["busy"]["lds"] == 64


def test_memory_comes_once_and_in_order(start: int) -> None:
    """A first touch comes from memory, a second from the caches, and one that is behind another never before it."""
    memory = timelines.timings(resolve("mi300x"))[3]
    load = "global_load_dword v2, v1, s[4:5]\n"
    first = play("gfx942", load + "s_waitcnt vmcnt(0)")
    again = play("gfx942", load + "s_waitcnt vmcnt(0)\n" + load + "s_waitcnt vmcnt(0)")
    assert memory < waits(first, "vmcnt") < memory + 30
    more = waits(again, "vmcnt") - waits(first, "vmcnt")
    assert timelines.CACHE_LATENCY <= more < timelines.CACHE_LATENCY + 30
    behind = play("gfx942", load + "global_load_dword v3, v1, s[4:5]\ns_waitcnt vmcnt(1)\ns_waitcnt vmcnt(0)")
    assert waits(behind, "vmcnt") <= waits(first, "vmcnt") + 8
    assert first["busy"]["memory"] > 0 and again["busy"]["memory"] == first["busy"]["memory"]


def test_a_full_queue_stalls(start: int) -> None:
    many = play("gfx942", "global_load_dwordx4 v[4:7], v1, s[4:5]\n" * 40)
    assert waits(many, "queue") > 0


def test_a_barrier_waits_for_the_last(start: int) -> None:
    body = (
        """
    v_readfirstlane_b32 s10, v0
    s_cmp_lg_u32 s10, 0
    s_cbranch_scc1 meet
    """
        + "v_add_f32 v2, v2, v2\n" * 200
    )
    timeline = play("gfx942", body + "meet:\ns_barrier\nv_add_f32 v2, v2, v2", block=128)
    late, early = (wave["waits"]["barrier"] for wave in timeline["waves"])
    assert late == 0 and 780 <= early <= 820
    assert timeline["waves"][0]["end"] == timeline["waves"][1]["end"]


def test_workgroups_that_share_a_compute_unit(start: int) -> None:
    """608 workgroups on 304 CUs: two at once, on SIMDs of their own as far as there are any."""
    body = "v_add_f32 v2, v2, v2\n" * 100
    two = play("gfx942", body, grid=608)
    assert two["together"] == 2 and [wave["simd"] for wave in two["waves"]] == [0, 1]
    assert two["cycles"] == start + 400
    eight = play("gfx942", body, grid=8 * 304)
    assert eight["together"] == 8 and start + 800 <= eight["cycles"] <= start + 820
    rows = timelines.row_names(two)
    assert rows[:2] == ["wave 0 (SIMD 0)", "wave 0 of twin 1 (SIMD 1)"] and rows[2:] == list(timelines.UNITS)


def test_the_last_workgroup_stands_in_for_one_that_is_not_there() -> None:
    loaded = watched.module("gfx942", "s_cmp_lg_u32 s2, 0\ns_cbranch_scc1 out\ns_nop 7\nout:", **SMALL)
    shown = {number: watched.launch(loaded, 3, 64, timeline=number).timeline for number in (0, 2, 99)}
    assert shown[99]["workgroup"] == 2 and shown[99]["cycles"] == shown[2]["cycles"] != shown[0]["cycles"]
    assert watched.launch(loaded, 3, 64).timeline == {}


def test_more_than_a_timeline_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    """The end is missing where a workgroup executes more than is noted, and later events where there are too many."""
    body = "v_add_f32 v2, v2, v2\n" * 100 + "s_barrier\n"
    whole = play("gfx942", body, block=128)
    monkeypatch.setattr(timelines, "MOST_NOTED", 150)
    monkeypatch.setattr(timelines, "MOST_EVENTS", 50)
    cut = play("gfx942", body, block=128)
    assert whole["complete"] and whole["events_until"] == whole["cycles"]
    assert not cut["complete"] and cut["cycles"] < whole["cycles"]
    assert sum(wave["instructions"] for wave in cut["waves"]) == 150
    assert len(cut["events"]) == 50 and cut["events_until"] < cut["cycles"]


def test_trace_events() -> None:
    """Every event lies in its row, rows of units never overlap, and each wait names its cause and instruction."""
    persona = resolve("mi300x")
    body = "global_load_dword v2, v1, s[4:5]\ns_waitcnt vmcnt(0)\nds_read_b32 v6, v1\n" + MFMA
    timeline = play("gfx942", body * 3, block=512, lds=2048)
    made = timelines.chrome([timeline], persona, ["watched"])
    assert made["otherData"]["model"] == timelines.LABEL and json.loads(json.dumps(made)) == made
    names = {e["tid"]: e["args"]["name"] for e in made["traceEvents"] if e["name"] == "thread_name"}
    assert list(names.values()) == timelines.row_names(timeline)
    slices = [e for e in made["traceEvents"] if e["ph"] == "X"]
    assert len(slices) == len(timeline["events"])
    waiting = [e for e in slices if e["name"] == "wait: vector memory (vmcnt)"]
    assert len(waiting) == 8 * 3 and {e["args"]["instruction"] for e in waiting} == {"s_waitcnt vmcnt(0)"}
    assert max(e["ts"] + e["dur"] for e in slices) * persona.clock_mhz <= timeline["cycles"] + 64
    for row, name in names.items():
        own = sorted((e["ts"], e["dur"]) for e in slices if e["tid"] == row)
        assert own, name
        assert all(a + d <= b + 1e-9 for (a, d), (b, _) in itertools.pairwise(own)), name


def test_a_timeline_in_lines() -> None:
    persona = resolve("mi300x")
    timeline = play("gfx942", "global_load_dword v2, v1, s[4:5]\ns_waitcnt vmcnt(0)")
    text = "\n".join(timelines.lines(timeline, persona))
    assert timelines.LABEL in text and "vector memory (vmcnt)" in text and f"{timeline['cycles']:,} cycles" in text
    cut = "\n".join(timelines.lines({**timeline, "complete": False, "events_until": 5}, persona))
    assert "its end is missing" in cut and "up to cycle 5" in cut


def test_chips_without_numbers_of_their_own() -> None:
    assert timelines.timings(resolve("mi325x"))[3] == timelines.timings(resolve("mi300x"))[3]
    assert timelines.timings(resolve("mi325x"))[5] > timelines.timings(resolve("mi300x"))[5]
    assert timelines.clock_mhz(resolve("mi308x")) == 2100


@pytest.fixture
def report(both: Both, tmp_path: Path, emulator_library: str) -> Path:
    """The page of a small GEMM, sanitized."""
    emulator.use_library(emulator_library)
    page, trace = tmp_path / "page.html", tmp_path / "trace.json"
    words = ("wvSplitK", "n=4", "m=64", "k=512", "--target", "mi300x", "--sanitize")
    text, data, code = both("emulate", *words, "--report", str(page), "--timeline", str(trace))
    assert code == 0 and f"report written to {page}" in text and f"timeline written to {trace}" in text
    assert timelines.LABEL in text and data["runs"][0]["findings"] == []
    assert any(e["ph"] == "X" for e in json.loads(trace.read_text())["traceEvents"])
    return page


def test_a_page_holds_all_of_a_run(report: Path) -> None:
    text = report.read_text()
    for part in (
        "<h2>Estimate</h2>",
        "The sanitizers found nothing.",
        "<canvas",
        "matrix-unit cycles",
        "floor computed",
    ):
        assert part in text, part
    assert (
        calibration.LABEL in text and text.count(timelines.LABEL) == 2 and "http" not in text.replace("http-equiv", "")
    )


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium")
def test_a_browser_draws_the_page(report: Path) -> None:
    """The script ran to its end: it then says how many timelines it drew."""
    options = ("--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom")
    shown = subprocess.run(
        ["chromium", *options, report.as_uri()], capture_output=True, text=True, timeout=120, check=True
    ).stdout
    assert 'data-drawn="1"' in shown and 'id="timeline0" width="' in shown


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--workgroup", "-1", "--report", "x"), "--workgroup is -1; allowed: a number from 0"),
        (("--workgroup", "1"), "--workgroup is for --timeline and --report"),
        (("--report", "x", "--target", "mi300x,mi308x"), "--report writes one run: name one problem and one target"),
    ],
)
def test_wrong_words(options: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", "wvSplitK", "n=4", "m=64", "k=512", *options]) == 2
    assert says in capsys.readouterr().err
