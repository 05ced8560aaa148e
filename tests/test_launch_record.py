"""The record of the last launches: it outlives every end of its process, and tells a torn slot from a whole one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import environment

from aiterlite import envs
from aiterlite.cli import main
from aiterlite.errors import EnvironmentValueError
from aiterlite.launch import record as launch_record
from aiterlite.launch.record import LaunchRecord

Both = Callable[..., tuple[str, Any, int]]


def note(record: LaunchRecord, index: int, **changes: Any) -> None:
    settings: dict[str, Any] = {
        "kernel": f"kernel_{index}",
        "grid": (index, 2, 3),
        "block": (256, 1, 1),
        "lds": 1024,
        "arguments": bytes([index % 256]) * 80,
        "decision": "linear: mfma",
    }
    record.note(**{**settings, **changes})


def read(directory: Path) -> launch_record.Contents:
    path = launch_record.newest(directory)
    assert path is not None
    return launch_record.read(path)


# What is kept ---------------------------------------------------------------------------------------------------------


def test_a_launch_is_kept_as_it_was_noted(tmp_path: Path) -> None:
    record = LaunchRecord(tmp_path)
    note(record, 7, lds=65536, arguments=b"\x01\x02\x00", decision="wvSplitK: mfma_asm")
    (launch,) = read(tmp_path).launches
    assert (launch.number, launch.kernel, launch.decision) == (1, "kernel_7", "wvSplitK: mfma_asm")
    assert (launch.grid, launch.block, launch.lds_bytes) == ((7, 2, 3), (256, 1, 1), 65536)
    # Zeros at the end are bytes like any.
    assert (launch.arguments, launch.argument_bytes) == (b"\x01\x02\x00", 3)
    assert launch.thread == threading.get_ident()


def test_the_last_launches_are_kept_in_order(tmp_path: Path) -> None:
    record = LaunchRecord(tmp_path)
    for index in range(1, 201):
        note(record, index)
    launches = read(tmp_path).launches
    assert [launch.number for launch in launches] == list(range(201 - launch_record.SLOTS, 201))
    assert all(launch.kernel == f"kernel_{launch.number}" for launch in launches)
    assert [launch.time_ns for launch in launches] == sorted(launch.time_ns for launch in launches)


def test_what_does_not_fit_is_cut_off(tmp_path: Path) -> None:
    record = LaunchRecord(tmp_path)
    note(record, 1, kernel="k" * 500, decision="\u00e4" * 500, arguments=bytes(range(250)) * 3)
    note(record, 2)
    first, second = read(tmp_path).launches
    assert first.kernel == "k" * 96 and first.decision.startswith("\u00e4" * 48)
    assert first.arguments == (bytes(range(250)) * 3)[:256] and first.argument_bytes == 750
    assert second.kernel == "kernel_2"


def test_threads_take_slots_of_their_own(tmp_path: Path) -> None:
    record = LaunchRecord(tmp_path)
    threads = [threading.Thread(target=lambda: [note(record, 1) for _ in range(500)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents = read(tmp_path)
    assert [launch.number for launch in contents.launches] == list(range(2001 - launch_record.SLOTS, 2001))
    assert contents.torn == 0


@pytest.mark.parametrize("kept", range(1, launch_record._SLOT.size - 8, 36))
def test_a_slot_that_was_half_written_is_told_from_a_whole_one(tmp_path: Path, kept: int) -> None:
    """The process ended within a slot: its first bytes are of the new launch, those behind are zero or the old."""
    record = LaunchRecord(tmp_path)
    size, slots = launch_record._SLOT.size, launch_record.SLOTS
    for index in range(1, slots + 1):
        note(record, index)
    start = launch_record._HEADER.size + size
    old = record.path.read_bytes()[start : start + size]
    note(record, slots + 1)
    whole = record.path.read_bytes()
    for behind in (bytes(size), old):
        record.path.write_bytes(whole[: start + kept] + behind[kept:] + whole[start + size :])
        contents = launch_record.read(record.path)
        assert [launch.number for launch in contents.launches] == list(range(2, slots + 1))
        assert contents.torn == 1


# What it outlives -----------------------------------------------------------------------------------------------------

LAUNCHING = """
import os, signal, sys
from aiterlite.launch import record as launch_record
record = launch_record.open_from_env()
for index in range(1, 101):
    record.note(f"kernel_{index}", (index, 1, 1), (64, 1, 1), 0, index.to_bytes(8, "little"), "linear: mfma")
end = sys.argv[1]
if end == "abort":
    os.abort()
elif end == "segfault":
    import ctypes
    ctypes.string_at(0)
elif end == "_exit":
    os._exit(3)
elif end == "wait":
    print("launched", flush=True)
    signal.pause()
"""


@pytest.mark.parametrize(
    ("end", "status"),
    [("abort", -signal.SIGABRT), ("segfault", -signal.SIGSEGV), ("_exit", 3), ("exit", 0), ("wait", -signal.SIGKILL)],
)
def test_the_record_outlives_its_process(tmp_path: Path, end: str, status: int) -> None:
    words = [sys.executable, "-c", LAUNCHING, end]
    variables = environment(AITERLITE_LAST_LAUNCHES=str(tmp_path / "records"))
    with subprocess.Popen(words, env=variables, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        if end == "wait":
            assert process.stdout is not None and process.stdout.readline() == b"launched\n"
            process.kill()
        assert process.wait(60) == status
    contents = read(tmp_path / "records")
    assert contents.process == process.pid and "launch_record" in contents.command
    assert [launch.kernel for launch in contents.launches][-1] == "kernel_100" and contents.torn == 0
    assert contents.launches[-1].arguments == (100).to_bytes(8, "little")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_child_has_a_record_of_its_own(tmp_path: Path) -> None:
    record = LaunchRecord(tmp_path)
    note(record, 1)
    child = os.fork()
    if child == 0:
        note(record, 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    note(record, 3)
    assert [launch.kernel for launch in launch_record.read(record.path).launches] == ["kernel_1", "kernel_3"]
    (other,) = set(tmp_path.iterdir()) - {record.path}
    contents = launch_record.read(other)
    assert contents.process == child and [launch.kernel for launch in contents.launches] == ["kernel_2"]


# Opening --------------------------------------------------------------------------------------------------------------


def test_it_is_off_unless_a_directory_is_named(tmp_path: Path) -> None:
    assert launch_record.open_from_env() is None
    with envs.override(AITERLITE_LAST_LAUNCHES=str(tmp_path / "a" / "b")):
        record = launch_record.open_from_env()
    assert record is not None and record.path.parent == tmp_path / "a" / "b"
    # Arguments hold addresses, and the command line may hold more: they are the user's own.
    assert record.path.stat().st_mode & 0o777 == 0o600


def test_a_directory_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        envs.override(AITERLITE_LAST_LAUNCHES=str(tmp_path / "file")),
        pytest.raises(EnvironmentValueError, match="AITERLITE_LAST_LAUNCHES=.*a directory with room for a file"),
    ):
        launch_record.open_from_env()


def test_a_full_disk_is_an_error_when_it_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Later, where a page is first written, it would end the process."""

    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", refuse)
    with (
        envs.override(AITERLITE_LAST_LAUNCHES=str(tmp_path)),
        pytest.raises(EnvironmentValueError, match="No space left on device"),
    ):
        launch_record.open_from_env()


# The command ----------------------------------------------------------------------------------------------------------


def test_the_command_shows_the_newest_record(tmp_path: Path, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    note(LaunchRecord(tmp_path), 1)
    record = LaunchRecord(tmp_path)
    for index in range(1, 4):
        note(record, index)
    note(record, 4, arguments=bytes(range(40)))
    (tmp_path / "other.txt").write_text("")
    text, data, code = both("last-launches", str(tmp_path))
    assert code == 0 and data["file"] == str(record.path) and data["process"] == os.getpid()
    assert [item["kernel"] for item in data["launches"]] == [f"kernel_{index}" for index in range(1, 5)]
    last = data["launches"][-1]
    assert (last["grid"], last["block"], last["lds_bytes"]) == ([4, 2, 3], [256, 1, 1], 1024)
    assert bytes.fromhex(last["arguments"]) == bytes(range(40)) and last["seconds_before_last"] == 0
    lines = text.splitlines()
    assert " ".join(lines[2].split()) == "launch before the last kernel grid block LDS chosen by"
    assert " ".join(lines[6].split()) == "4 0.000 ms kernel_4 4 x 2 x 3 256 x 1 x 1 1024 B linear: mfma"
    assert "arguments of launch 4 (40 bytes):" in text
    assert "  0x000  0706050403020100 0f0e0d0c0b0a0908 1716151413121110 1f1e1d1c1b1a1918" in text
    assert both("last-launches", str(record.path))[0] == text
    monkeypatch.setenv("AITERLITE_LAST_LAUNCHES", str(tmp_path))
    envs.reload()
    assert both("last-launches")[0] == text
    assert [item["number"] for item in both("last-launches", "--last", "2")[1]["launches"]] == [3, 4]


def test_the_command_tells_of_torn_slots_and_of_nothing(tmp_path: Path, both: Both) -> None:
    record = LaunchRecord(tmp_path)
    assert "it launched nothing" in both("last-launches", str(tmp_path))[0]
    note(record, 1)
    record._pages[launch_record._HEADER.size + launch_record._SLOT.size] = 77
    text, data, _ = both("last-launches", str(tmp_path))
    assert data["torn"] == 1 and "1 slot torn" in text


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "set AITERLITE_LAST_LAUNCHES"),
        (["nothing"], "does not exist; a process that launches GPU kernels"),
        (["empty"], "holds no record; run the process with AITERLITE_LAST_LAUNCHES="),
        (["text"], "is no record of launches"),
        (["cut"], "is a record of 64 slots of"),
        (["--last", "-1"], "--last is -1"),
    ],
)
def test_what_is_no_record_is_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    record = LaunchRecord(tmp_path / "records")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("launches")
    (tmp_path / "cut").write_bytes(record.path.read_bytes()[:-1])
    assert main(["last-launches", *words]) == 2
    assert said in capsys.readouterr().err


@given(st.binary(max_size=400), st.integers(0, 400))
def test_no_damage_to_a_record_is_anything_but_a_value_error(data: bytes, at: int) -> None:
    header = launch_record._HEADER.pack(launch_record._MAGIC, 1, 2, 1, launch_record._SLOT.size, b"command")
    whole = bytearray(header + bytes(launch_record._SLOT.size))
    whole[at : at + len(data)] = data
    path = Path(os.environ["AITERLITE_CACHE_DIR"]).parent / "damaged.launches"
    path.write_bytes(whole)
    try:
        launch_record.read(path)
    except ValueError as error:
        assert "record of" in str(error)
