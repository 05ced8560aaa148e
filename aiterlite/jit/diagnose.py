"""From a compiler's output to the first real error and a hint. Pure."""

from __future__ import annotations

import re

_ERROR = re.compile(r"(fatal error|nvcc fatal|error|Error|undefined reference|undefined symbol)\b")
# Lines that only say that something else failed.
_ECHO = re.compile(
    r"^(ninja: |FAILED: |subprocess\.CalledProcessError|RuntimeError: Error building|make: |collect2: "
    r"|Traceback|\d+ errors? generated|\[\d+/\d+\])"
)
_LOCATED = re.compile(r"^[^\s:][^:]*:\d+(:\d+)?: (fatal )?error\b|\(\d+\): (fatal )?error\b")

_HINTS = (
    (r"No space left on device", "the disk is full: free space, or point AITERLITE_CACHE_DIR elsewhere"),
    (
        r"Killed signal|terminated by signal 9|signal 9|out of memory|cannot allocate memory|virtual memory exhausted",
        "the compiler ran out of memory: lower AITERLITE_MAX_JOBS or raise the memory limit",
    ),
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
    """The line that a person should read first: the first located error, else the first error, else `fallback`."""
    lines = [line.strip() for line in output.splitlines()]
    errors = [line for line in lines if _ERROR.search(line) and not _ECHO.match(line)]
    located = [line for line in errors if _LOCATED.search(line)]
    for line in (*located, *errors):
        return line
    return fallback


def hint(output: str, status: int | None) -> str:
    """What a person can do about it, for known causes; else nothing."""
    if status is None:
        return "the compiler was killed at its time limit: raise AITERLITE_BUILD_TIMEOUT, or look for a hung tool"
    if status in (-9, 137):
        return _HINTS[1][1]
    for pattern, text in _HINTS:
        if re.search(pattern, output):
            return text
    return ""
