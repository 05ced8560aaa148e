"""A launch without an end: what interrupts it, its limit, and that no thread of it ends the process."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulator.assembly import Kernel, assemble, device, kernel_text
from emulator.executor import library
from support import environment

from aiterlite import emulator, envs
from aiterlite.cli import main
from aiterlite.emulator import InstructionLimitError, Module, Schedule, find_races, use_library
from aiterlite.launch import drivers

pytestmark = pytest.mark.emulated
TARGET = "gfx942"
LOOP = ".Lx:\ns_branch .Lx"
# Only the second workgroup has no end, so the thread that launched has nothing left to do.
SECOND_LOOPS = "s_cmp_eq_u32 s2, 0\ns_cbranch_scc1 .Lend\n.Lx:\ns_nop 0\ns_branch .Lx\n.Lend:\ns_nop 0"
# Rounds toward zero, and so would the host if nobody took care.
ROUNDS = "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 15\n" + LOOP
PROMPT = 60.0  # seconds; on an idle machine it is 0.1, and without an interrupt the limit ends a launch later
# Nothing hangs where an interrupt is lost.
LIMIT = 2_000_000_000


class RangError(Exception):
    """What the handler of a signal raises here."""


@pytest.fixture(scope="module", autouse=True)
def own_library() -> None:
    use_library(str(library()))


@pytest.fixture(autouse=True)
def ends_at_last() -> Iterator[None]:
    with envs.override(AITERLITE_MAX_INSTRUCTIONS=str(LIMIT)):
        yield


def image(body: str) -> bytes:
    return assemble(TARGET, kernel_text(TARGET, "k", body + "\ns_endpgm", Kernel(), ("out",)))


def load(body: str) -> Module:
    return device(TARGET).load(image(body))


def out() -> dict[str, Any]:
    return {"out": np.zeros(1, np.uint32)}


@contextlib.contextmanager
def ringing(seconds: float, handle: Callable[[], None] = lambda: None) -> Iterator[None]:
    """SIGALRM after so many seconds, whose handler raises `RangError`."""

    def ring(number: int, frame: Any) -> None:
        handle()
        raise RangError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def as_driver_call() -> None:
    """As the launches of operators are made."""
    driver = drivers.Driver(drivers._EMULATOR, emulator.open_library())
    function = driver.function(driver.load(image(LOOP), "a loop"), "k")
    emulator.prepare_launch(device(TARGET).persona, {})
    null = (ctypes.c_void_p * 1)(ctypes.cast(ctypes.pointer(ctypes.c_uint64(0)), ctypes.c_void_p))
    call = emulator.open_library().aiterlite_emulator_launch_kernel
    emulator.raise_last_error(call(ctypes.c_void_p(function), *(1, 1, 1, 64, 1, 1), 0, None, null, None))


LAUNCHES: dict[str, Callable[[], object]] = {
    "one wave": lambda: load(LOOP).launch("k", 1, 64, out()),
    "waves in turn": lambda: load(LOOP).launch("k", 1, 256, out()),
    "long turns": lambda: load(LOOP).launch("k", 1, 256, out(), schedule=Schedule(quantum=1 << 30)),
    "all threads": lambda: load(LOOP).launch("k", 16, 64, out(), schedule=Schedule(threads=4)),
    "another thread": lambda: load(SECOND_LOOPS).launch("k", 2, 64, out(), schedule=Schedule(threads=2)),
    "sanitized": lambda: load(LOOP).launch("k", 2, 64, out(), sanitize=True, counters=True),
    "traced": lambda: load(LOOP).launch("k", 1, 64, out(), trace=(0, 0), trace_lines=10),
    "schedules": lambda: find_races(load(LOOP), "k", 1, 64, out()),
    "operators": as_driver_call,
}


@pytest.mark.parametrize("launch", LAUNCHES)
def test_a_signal_s_handler_ends_an_endless_launch(launch: str) -> None:
    load(LOOP)
    with ringing(0.1), pytest.raises(RangError):
        began = time.monotonic()
        LAUNCHES[launch]()
    assert time.monotonic() - began < PROMPT
    # The next launch of the thread is another one.
    assert load("s_nop 0").launch("k", 1, 64, out()).instructions == 2


def test_a_handler_that_raises_nothing_lets_the_launch_go_on() -> None:
    seen: list[float] = []

    def handle(number: int, frame: Any) -> None:
        seen.append(1.0 / float(len(seen) + 10))
        if len(seen) == 3:
            raise RangError

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.1, 0.1)
    try:
        with pytest.raises(RangError):
            load(ROUNDS).launch("k", 1, 64, out())
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # The handler computes as the host does, whatever the kernel set, and so does the host afterwards.
    assert seen == [0.1, 1 / 11, 1 / 12] and 1.0 / float(len(seen) + 7) == 0.1


# Processes ------------------------------------------------------------------------------------------------------------

_CHILD = """
import os, signal, sys, threading, time
import numpy as np
from aiterlite.emulator import Device, Schedule, use_library
use_library(sys.argv[1])
module = Device("mi300x").load(sys.argv[2])
count = int(sys.argv[3])
def launch():
    module.launch("k", count, 64, {"out": np.zeros(1, np.uint32)}, schedule=Schedule(threads=count))
print("ready", flush=True)
"""
WAYS = {
    "main thread": "launch()",
    "a thread that is joined": "t = threading.Thread(target=launch); t.start(); t.join()",
    "a pool": """
from concurrent.futures import ThreadPoolExecutor
with ThreadPoolExecutor(2) as pool:
    list(pool.map(lambda _: launch(), range(2)))
""",
}


@pytest.fixture(scope="module")
def loop_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("loop") / "loop.co"
    path.write_bytes(image(LOOP))
    return path


def _heed_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def interrupted(words: list[str], number: int, **variables: str) -> tuple[int, str]:
    """The status and error output of a process that gets a signal once it says a line; it must end promptly."""
    process = subprocess.Popen(
        words,
        env=environment(AITERLITE_MAX_INSTRUCTIONS="0", **variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job ignores interrupts, and so would its children.
        preexec_fn=_heed_interrupts,
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        time.sleep(0.3)
        process.send_signal(number)
        began = time.monotonic()
        _, errors = process.communicate(timeout=60)
        assert time.monotonic() - began < PROMPT
        return process.returncode, errors
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(("way", "threads"), list(zip(WAYS, ("1", "3", "1"), strict=True)))
def test_ctrl_c_ends_a_process_promptly(loop_file: Path, way: str, threads: str) -> None:
    words = [sys.executable, "-c", _CHILD + WAYS[way], str(library()), str(loop_file), threads]
    status, errors = interrupted(words, signal.SIGINT)
    assert status == -signal.SIGINT and "KeyboardInterrupt" in errors and "ignored" not in errors


_COMMAND = """
import os, sys, threading
from aiterlite import emulator
from aiterlite.cli import main
emulator.use_library(sys.argv[1])
emulator.open_library()
threading.Timer(0.2, lambda: print("ready", flush=True)).start()
sys.exit(main(sys.argv[2:]))
"""


def test_the_command_line_is_asked_to_end(loop_file: Path) -> None:
    words = [
        sys.executable,
        "-c",
        _COMMAND,
        str(library()),
        "emulate",
        str(loop_file),
        "--races",
        "--arg",
        "out=i32[1]:zeros",
    ]
    status, errors = interrupted(words, signal.SIGTERM)
    assert status == 128 + signal.SIGTERM and "ignored" not in errors and "usage" not in errors


def test_another_thread_s_launch_goes_on_when_the_main_thread_just_ends() -> None:
    """As a thread in Python does. A launch of 0.3 s outlives its program's last line."""
    code = """
import sys, threading, time
import numpy as np
from aiterlite.emulator import Device, InstructionLimitError, use_library
use_library(sys.argv[1])
module = Device("mi300x").load(bytes.fromhex(sys.argv[2]))
def launch():
    try:
        module.launch("k", 1, 64, {"out": np.zeros(1, np.uint32)}, max_instructions=30_000_000)
    except InstructionLimitError:
        print("to its limit", flush=True)
threading.Thread(target=launch).start()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(library()), image(LOOP).hex()],
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (0, "to its limit\n")


# The limit ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize("body", [LOOP, "s_nop 0"])
def test_a_launch_has_a_limit_of_its_own_accord(body: str, threads: int) -> None:
    """Endless waves, and more workgroups that each end soon than the limit allows; the error says how to raise it."""
    grid = 8 if body == LOOP else 1 << 20
    with envs.override(AITERLITE_MAX_INSTRUCTIONS="1500000"), pytest.raises(InstructionLimitError) as error:
        load(body).launch("k", grid, 64, out(), schedule=Schedule(threads=threads))
    for word in ("1500000", "max_instructions", "AITERLITE_MAX_INSTRUCTIONS", "--max-instructions"):
        assert word in str(error.value)
    assert error.value.report["instructions"] < 1500000 + 2 * threads * (1 << 20)


def test_the_argument_wins_over_the_environment() -> None:
    body = "s_movk_i32 s4, 500\n.Lx:\ns_sub_u32 s4, s4, 1\ns_cmp_lg_u32 s4, 0\ns_cbranch_scc1 .Lx"
    with envs.override(AITERLITE_MAX_INSTRUCTIONS="1000"):
        for limit in (0, 2000):
            assert load(body).launch("k", 1, 64, out(), max_instructions=limit).instructions == 1502
        with pytest.raises(InstructionLimitError):
            load(body).launch("k", 1, 64, out())
        with pytest.raises(emulator.KernelArgumentError, match="max_instructions is -1; allowed"):
            load(body).launch("k", 1, 64, out(), max_instructions=-1)
    assert envs.MAX_INSTRUCTIONS.default == 10**10


def test_the_command_line_takes_a_limit(loop_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["emulate", str(loop_file), "--arg", "out=i32[1]:zeros", "--max-instructions"]
    assert main([*words, "5000"]) == 1
    assert "more than its limit of 5000 instructions" in capsys.readouterr().err
    assert main([*words, "-1"]) == 2
    assert "--max-instructions is -1; allowed" in capsys.readouterr().err


# Threads that cannot be started ---------------------------------------------------------------------------------------

_FEW_THREADS = """
import resource, sys
import numpy as np
from aiterlite.emulator import Device, Schedule, use_library
use_library(sys.argv[1])
module = Device("mi300x").load(bytes.fromhex(sys.argv[2]))
out = np.zeros(4096, np.uint32)
module.launch("k", 1, 64, {"out": out})
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
stack = 8 << 20
resource.setrlimit(resource.RLIMIT_STACK, (stack, resource.RLIM_INFINITY))
for room in 0, 3:
    # For the stacks of so many threads, and not of all.
    limit = used + room * stack + (16 << 20)
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.RLIM_INFINITY))
    out[:] = 0
    module.launch("k", 4096, 64, {"out": out}, schedule=Schedule(threads=64))
    print(room, out.sum(), out.min())
"""
COUNTS = """
s_load_dwordx2 s[4:5], s[0:1], 0
s_lshl_b32 s6, s2, 2
v_mov_b32_e32 v1, s6
v_mov_b32_e32 v2, 1
s_waitcnt lgkmcnt(0)
s_mov_b32 s7, 200
.Lx:
s_sub_u32 s7, s7, 1
s_cmp_lg_u32 s7, 0
s_cbranch_scc1 .Lx
global_store_dword v1, v2, s[4:5]
"""


def test_threads_that_cannot_be_started_are_done_without() -> None:
    words = [sys.executable, "-c", _FEW_THREADS, str(library()), image(COUNTS).hex()]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "0 4096 1\n3 4096 1\n"), done.stderr
