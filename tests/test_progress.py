"""What a person sees of a cold path, and how commands are run."""

from __future__ import annotations

import io
import logging
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from support import OBTAIN, child, edit, is_running, obtain_arguments, toy_unit, wait_for

from aiterlite import envs
from aiterlite.jit import process, progress
from aiterlite.jit.sources import SourceTree


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setenv("AITERLITE_LOG", "info")
    envs.reload()
    monkeypatch.setattr(logging.getLogger("aiterlite"), "propagate", True)
    progress.logger()
    return caplog


def lines(log: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in log.records]


# Telling --------------------------------------------------------------------------------------------------------------


def test_a_build_says_when_it_starts_and_ends(log: pytest.LogCaptureFixture) -> None:
    with progress.announce("toy for gfx942", "no artifact", 12.4):
        assert lines(log) == ["building toy for gfx942 (no artifact, about 12 s)"]
    assert len(lines(log)) == 2 and lines(log)[1].startswith("built toy for gfx942 in 0.0")


def test_a_failed_build_is_not_called_finished(log: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ValueError), progress.announce("toy", "no artifact"):
        raise ValueError
    assert lines(log)[0] == "building toy (no artifact)"
    assert lines(log)[1].startswith("building toy failed after") and len(lines(log)) == 2


def test_a_long_build_has_a_heartbeat(log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.05)
    with progress.announce("toy", "no artifact"):
        time.sleep(0.3)
    assert sum(line.startswith("still building toy, ") for line in lines(log)) >= 2


def test_a_build_of_steps_says_how_many_are_done(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In its heartbeats, and each of them under debug; a folder that went away meanwhile is no failure."""
    monkeypatch.setattr(progress, "HEARTBEAT_SECONDS", 0.05)
    counts = iter([(0, 3), (1, 3), (1, 3)])

    def steps() -> tuple[int, int]:
        for count in counts:
            return count
        raise FileNotFoundError

    with envs.override(AITERLITE_LOG="debug"), progress.announce("toy", "no artifact") as tell:
        tell(steps)
        time.sleep(0.4)
    said = lines(log)
    assert [line for line in said if line.startswith("building toy, ")] == [
        "building toy, 0 of 3 steps",
        "building toy, 1 of 3 steps",
    ]
    assert any(line.startswith("still building toy, 1 of 3 steps, 0 s") for line in said)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("level", ["info", "warning"])
def test_on_a_terminal_a_line_counts_the_steps(monkeypatch: pytest.MonkeyPatch, level: str) -> None:
    """It is written over, and gone at the end."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    count = [0, 71]
    with envs.override(AITERLITE_LOG=level), progress.announce("emulator for cpu", "no artifact") as tell:
        tell(lambda: (count[0], count[1]))
        for done in range(1, 4):
            time.sleep(0.1)
            count[0] = done
        time.sleep(0.1)
    drawn = [text for text in terminal.getvalue().split("\r\x1b[K") if not text.startswith("aiterlite: built")]
    expected = [f"aiterlite: building emulator for cpu: {done} of 71 steps" for done in range(4)]
    assert [text for text in drawn if "steps" in text] == (expected if level == "info" else [])
    assert level != "info" or "\r\x1b[K" in terminal.getvalue().rpartition("steps")[2]


def test_a_bar_tells_the_steps_in_its_own_place(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("rich")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(progress, "LOOK_SECONDS", 0.01)
    with envs.override(AITERLITE_LOG="info"), progress.bar("building", 2) as step:
        with progress.announce("toy", "no artifact") as tell:
            tell(lambda: (5, 9))
            time.sleep(0.3)
        step("toy")
    assert "toy: 5 of 9 steps" in terminal.getvalue() and "aiterlite: building toy: 5" not in terminal.getvalue()


def test_a_build_goes_on_where_no_thread_can_be_started(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with progress.announce("toy", "no artifact"):
        pass
    assert lines(log)[1].startswith("built toy in ")


@pytest.mark.parametrize(("level", "count"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 1), ("quiet", 0)])
def test_the_level_is_the_environment_s(
    log: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, level: str, count: int
) -> None:
    with envs.override(AITERLITE_LOG=level):
        logger = progress.logger()
        logger.debug("a decision")
        logger.info("a build")
        logger.error("a failure")
    assert len(log.records) == count


def test_without_a_terminal_there_is_no_bar(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.bar("building", 2) as step:
        step("one")
        step("two")
    assert capsys.readouterr() == ("", "")


def test_a_cold_path_is_visible_and_a_warm_one_is_silent(source_tree: SourceTree, cache_dir: Path) -> None:
    """In a process of its own, where nobody set up logging."""
    arguments = obtain_arguments(toy_unit("gfx942"), source_tree)
    cold = child(OBTAIN, *arguments, AITERLITE_LOG=None)["stderr"].splitlines()
    assert cold[0] == "aiterlite: building toy/toy for gfx942 (no artifact under this key)"
    assert cold[1].startswith("aiterlite: built toy/toy for gfx942 in ") and len(cold) == 2
    assert child(OBTAIN, *arguments, AITERLITE_LOG=None)["stderr"] == ""
    edit(source_tree, "csrc/include/aiterlite/deep/scale.h", "3", "4")
    assert "scale.h changed since" in child(OBTAIN, *arguments, AITERLITE_LOG=None)["stderr"]
    assert child(OBTAIN, *arguments, AITERLITE_LOG="quiet")["stderr"] == ""


# Running --------------------------------------------------------------------------------------------------------------


def run(code: str, cwd: Path, timeout: float = 20) -> process.Finished:
    return process.run([sys.executable, "-c", code], cwd, process.clean_environment(cwd), timeout)


def test_a_command_ends_with_its_status_and_all_its_output(tmp_path: Path) -> None:
    code = "import os, sys; print(os.getcwd()); sys.stdout.flush(); os.write(2, b'\\xff error'); sys.exit(3)"
    finished = run(code, tmp_path)
    assert finished == process.Finished(3, f"{tmp_path}\n\ufffd error")


def test_only_named_variables_reach_a_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CPATH", "CXX", "LIBRARY_PATH", "NVCC_APPEND_FLAGS", "MADE_UP", "AITERLITE_CACHE_DIR", "TMPDIR"):
        monkeypatch.setenv(name, "leaked")
    environment = process.clean_environment(tmp_path, {"CXX": "/usr/bin/c++"})
    assert "leaked" not in environment.values() and environment["CXX"] == "/usr/bin/c++"
    assert environment["TMPDIR"] == str(tmp_path) and environment["LC_ALL"] == "C"
    monkeypatch.delenv("PATH")
    assert process.clean_environment(tmp_path)["PATH"] == os.defpath


def test_past_its_time_a_command_is_killed_with_its_children(tmp_path: Path) -> None:
    """Also with a child that left the command's process group, as ninja's children do."""
    code = (
        "import subprocess, time\n"
        "child = subprocess.Popen(['/bin/sleep', '300'], process_group=0)\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "print('started', flush=True)\n"
        "time.sleep(300)"
    )
    if sys.version_info < (3, 11):
        code = code.replace("process_group=0", "preexec_fn=__import__('os').setpgrp")
    began = time.monotonic()
    finished = run(code, tmp_path, 1.5)
    assert finished == process.Finished(None, "started\n")
    assert time.monotonic() - began < 60
    wait_for(lambda: not is_running(int((tmp_path / "pid").read_text())), 60)
