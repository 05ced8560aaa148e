"""The first real error in a compiler's output, and hints for known causes."""

from __future__ import annotations

import pytest

from aiterlite.jit import diagnose

NINJA = """ninja: Entering directory `/tmp/x'
[1/2] c++ -MMD -MF gemm.o.d -c /src/gemm.cpp -o gemm.o
FAILED: [code=1] gemm.o
c++ -MMD -MF gemm.o.d -Werror=return-type -c /src/gemm.cpp -o gemm.o
In file included from /src/gemm.cpp:3:
/src/include/a.h:12:1: warning: unused variable 'error'
/src/include/a.h:14:5: error: 'foo' was not declared in this scope
   14 |     foo();
/src/gemm.cpp:20:1: error: expected '}' at end of input
ninja: build stopped: subcommand failed.
RuntimeError: Error building extension 'gemm'
"""


def test_ninja_s_echo_of_a_failure_is_not_the_error() -> None:
    assert diagnose.first_error(NINJA, "") == "/src/include/a.h:14:5: error: 'foo' was not declared in this scope"


@pytest.mark.parametrize(
    ("before", "line", "after"),
    [
        ("", "k.hip:3:10: fatal error: 'vector' file not found", "\n1 error generated.\n"),
        ("", 'k.hip(7): error: identifier "x" is undefined', "\n\n1 error detected\n"),
        ("", "nvcc fatal   : Unsupported gpu architecture 'sm_1'", "\n"),
        ("", "/usr/bin/ld: gemm.o: undefined reference to `f'", "\ncollect2: error: ld returned 1\n"),
        ("", "ld.lld: error: undefined hidden symbol: tanhf", "\n>>> referenced by toy.hip\n"),
        ("", "ptxas error   : Entry function 'k' uses too much shared data", "\n"),
        ("", "/s p/\u00e4.hip:1:1: error: unknown type name 'x'", ""),
        ("/src/a.cpp:1:2: warning: deprecated\n", "error: no input", "\n"),
        ("error: something\n", "/src/a.cpp:1:2: error: the cause", "\n"),
        ("all is well\n", "fallback", ""),
        ("", "fallback", ""),
    ],
)
def test_the_first_real_error_is_found(before: str, line: str, after: str) -> None:
    output = before if line == "fallback" else before + line + after
    assert diagnose.first_error(output, "fallback") == line


@pytest.mark.parametrize(
    ("output", "status", "word"),
    [
        ("fatal error: error writing to /tmp/x.s: No space left on device", 1, "disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", 1, "AITERLITE_MAX_JOBS"),
        ("", -9, "AITERLITE_MAX_JOBS"),
        ("", 137, "AITERLITE_MAX_JOBS"),
        ("", None, "AITERLITE_BUILD_TIMEOUT"),
        ("nvcc fatal   : Unsupported gpu architecture 'sm_100a'", 1, "newer CUDA"),
        ("error: invalid target ID 'gfx1300'", 1, "newer ROCm"),
        (
            "error: unable to create target: 'No available targets are compatible with triple \"amdgcn-amd-amdhsa\"'",
            1,
            "AMDGPU",
        ),
        ("error: bad value ('x86-64-v4') for '-march=' switch", 1, "too old"),
        ("ModuleNotFoundError: No module named 'torch'", 1, "torch"),
        ("RuntimeError: Ninja is required to load C++ extensions", 1, "pip install ninja"),
        ("k.hip:1:10: fatal error: 'hip/hip_runtime.h' file not found", 1, "freestanding"),
        ("k.hip:1:10: fatal error: 'vector' file not found", 1, "freestanding"),
        ("k.hip:1:10: fatal error: 'stdio.h' file not found", 1, "freestanding"),
        ("k.hip:1:10: fatal error: 'cstdint' file not found", 1, "freestanding"),
        ("ld.lld: error: undefined hidden symbol: tanhf", 1, "device librar"),
        ("k.hip:1:10: fatal error: 'aiterlite/missing.h' file not found", 1, ""),
        ("a.cpp:1:1: error: expected ';'", 1, ""),
    ],
)
def test_known_causes_have_a_hint(output: str, status: int | None, word: str) -> None:
    hint = diagnose.hint(output, status)
    assert word in hint
    assert bool(hint) == bool(word)
