"""From a compiler's output to the first real error and a hint. Pure."""

from __future__ import annotations

import re
import signal

_SIGNAL = re.compile(r"^(Killed|Terminated|Aborted|Segmentation fault|Bus error|Illegal instruction)\b")
# Kinds of lines, from the one that says most to the one that says least; the first line of the first kind found counts.
_KINDS = tuple(
    re.compile(pattern)
    for pattern in (
        r"^[^\s:][^:]*:\d+(:\d+)?: (fatal )?error\b|\(\d+\): (fatal |catastrophic )?error\b",
        r"\bundefined (hidden )?(reference|symbol)\b|\bmultiple definition of\b",
        r"^[\w./<>+ -]+: (internal compiler |fatal )?error\b|^error: |^\S+ (fatal|error) *: |LLVM ERROR: ",
        r"\bld(\.\w+)?: (?!\S+: in function)",
        _SIGNAL.pattern,
        r"^[\w.]+(Error|Exception): ",
        r"^ninja: (error|fatal): |^collect2: ",
        r"\b(error|Error)\b(?!=)",
    )
)
# Lines that only say that something else failed, or what was started.
_ECHO = re.compile(
    r"^(ninja: (build stopped|Entering)|FAILED: |subprocess\.CalledProcessError|make: |collect2: error: ld returned"
    r"|Traceback|\d+ errors? |\[\d+/\d+\]|File \"|compilation terminated)"
)
_PREFIX = re.compile(r"^(RuntimeError: )?Error building extension '[^']*'(: |$)")
_FAILED = re.compile(r"^FAILED: (?:\[code=(-?\d+)\] )?(\S*)", re.MULTILINE)
OUT_OF_MEMORY = "the compiler ran out of memory: lower AITERLITE_MAX_JOBS or raise the memory limit"
DISK_FULL = "the disk is full: free space, or point AITERLITE_CACHE_DIR elsewhere"
CRASHED = "the compiler crashed: use another version of it; `repeat with` shows whether it always does"

_HINTS = (
    # A linker that maps its output gets a bus error where the disk has no room for it.
    (r"No space left on device|Disk quota exceeded|[Bb]us error|signal 7\b", DISK_FULL),
    (
        r"Killed|terminated by signal 9|signal 9\b|[Oo]ut of memory|[Cc]annot allocate memory|virtual memory exhausted",
        OUT_OF_MEMORY,
    ),
    (
        r"[Rr]esource temporarily unavailable",
        "no further process could be started: lower AITERLITE_MAX_JOBS or raise the limit of processes",
    ),
    (
        r"unrecognized command-line option|unknown argument|[Uu]nknown option",
        "this compiler does not know a flag of the unit: use a newer one (`aiterlite doctor` names it)",
    ),
    (
        r"cannot find -l|cannot find (crt\w+|\S+\.o)\b",
        "a library of the C++ compiler is missing: install it as a whole",
    ),
    (r"internal compiler error|Segmentation fault|PLEASE submit a bug report|Illegal instruction", CRASHED),
    (
        r"unsupported gpu architecture|Unsupported gpu architecture|is not defined for option 'gpu-architecture'",
        "this nvcc does not know the target: use a newer CUDA toolkit or another --target",
    ),
    (
        r"invalid target ID|unknown target CPU|Unsupported CUDA gpu architecture|invalid offload arch",
        "this clang does not know the target: use a newer ROCm or ziglang, or another --target",
    ),
    (
        r"No available targets are compatible with triple \"amdgcn|unknown target triple 'amdgcn",
        "this clang has no AMDGPU back end: `pip install aiterlite[amdgpu]`, or unset AITERLITE_AMDGPU_CLANG",
    ),
    (r"bad value \(.*\) for '-march=|unknown value .* for '-march", "this C++ compiler is too old for the CPU target"),
    (
        r"No module named 'torch'",
        "the build process cannot import torch: is the environment that runs aiterlite complete?",
    ),
    (r"Ninja is required|No module named 'ninja'", "`pip install ninja`"),
    (
        r"hip/hip_runtime\.h|cuda_runtime\.h|'(?!aiterlite/)\S+' file not found",
        "device units include only <aiterlite/...> and freestanding C headers",
    ),
    (
        r"ld\.lld: error: undefined (hidden )?symbol",
        "kernels link no device library: write the function, or use one that is a builtin (exp, log, sqrt, pow)",
    ),
    (r"Permission denied", "a file or directory is not accessible to this user"),
)


def first_error(output: str, fallback: str) -> str:
    """The line that a person should read first, else what ninja says of the command that failed, else `fallback`."""
    lines = _said(output)
    failed = _FAILED.search(output)
    status = int(failed.group(1)) if failed and failed.group(1) else None
    told = f"the compiler of {failed.group(2)} {ended(status)}" if failed and status is not None else ""
    for kind in _KINDS:
        for line in lines:
            if kind.search(line):
                # A shell says only one word of a signal.
                return told if told and kind.pattern == _SIGNAL.pattern else line
    return told or fallback


# What may be otherwise by the next call, whatever else was said.
_PASSING = re.compile(
    r"No such file|file not found|cannot find|cannot open|[Pp]ermission denied|[Tt]imed out|Input/output error"
    r"|No module named|internal compiler error|Stale file handle"
)
_PASSING_HINTS = (OUT_OF_MEMORY, DISK_FULL, CRASHED)


def is_lasting(output: str, status: int | None, disk_full: bool = False) -> bool:
    """Whether a compiler named what is wrong with what it was given, and nothing hints at a cause that passes."""
    said = _said(output)
    named = any(kind.search(line) for kind in _KINDS[:2] for line in said)
    if status is None or signal_of(status) is not None or disk_full or not named:
        return False
    found = hint(output, status)
    return found not in _PASSING_HINTS and "process could be started" not in found and not _PASSING.search(output)


def _said(output: str) -> list[str]:
    """The lines without those that echo a command, which hold the names of its flags."""
    lines: list[str] = []
    command_follows = False
    for line in output.splitlines():
        text = _PREFIX.sub("", line.strip())
        if text and not command_follows and not _ECHO.match(text):
            lines.append(text)
        command_follows = text.startswith("FAILED: ")
    return lines


def ended(status: int) -> str:
    """What an exit status says: `was killed by SIGKILL`, `ended with status 3 and named no error`."""
    number = signal_of(status)
    if number is None:
        return f"ended with status {status} and named no error"
    try:
        return f"was killed by {signal.Signals(number).name}"
    except ValueError:
        return f"was killed by signal {number}"


def signal_of(status: int) -> int | None:
    """The signal that ended a command, as itself or as a shell tells it."""
    if status < 0:
        return -status
    return status - 128 if 128 < status < 128 + 32 else None


def hint(output: str, status: int | None, disk_full: bool = False) -> str:
    """What a person can do about a known cause; else nothing. `disk_full`: the disk was full when the command ended."""
    if status is None:
        return "the compiler was killed at its time limit: raise AITERLITE_BUILD_TIMEOUT, or look for a hung tool"
    said = "\n".join(_said(output))
    for pattern, text in _HINTS:
        if re.search(pattern, said):
            return text
    if disk_full:
        return DISK_FULL
    inner = _FAILED.search(output)
    number = signal_of(int(inner.group(1)) if inner and inner.group(1) else status)
    return {9: OUT_OF_MEMORY, 7: DISK_FULL, 4: CRASHED, 6: CRASHED, 11: CRASHED}.get(number or 0, "")
