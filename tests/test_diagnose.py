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
        ("", "c++: error: unrecognized command-line option '-fno-such-flag'", "\n"),
        ("", "zig: error: unknown argument: '-fno-such-flag'", "\n"),
        ("", "nvcc fatal   : Unknown option '-fno-such-flag'", "\n"),
        ("", "cc1plus: error: bad value ('x86-64-v9') for '-march=' switch", "\n"),
        ("", "c++: fatal error: Killed signal terminated program cc1plus", "\ncompilation terminated.\n"),
        ("", "c++: internal compiler error: Segmentation fault signal terminated program cc1plus", "\n"),
        ("", "collect2: fatal error: ld terminated with signal 7 [Bus error], core dumped", "\n"),
        ("", "collect2: fatal error: ld terminated with signal 9 [Killed]", "\n"),
        (
            "",
            "/usr/bin/ld: final link failed: No space left on device",
            "\ncollect2: error: ld returned 1 exit status\n",
        ),
        ("", "/usr/bin/ld: cannot find -lstdc++: No such file or directory", "\ncollect2: error: ld returned 1\n"),
        ("", "ld.lld: error: failed to write output 'toy.co': No space left on device", "\n"),
        ("", "LLVM ERROR: IO failure on output stream: No space left on device", "\nPLEASE submit a bug report\n"),
        (
            "/usr/bin/ld: toy.o: in function `f':\n",
            "toy.cpp:(.text+0x5): undefined reference to `g'",
            "\ncollect2: error: ld returned 1 exit status\n",
        ),
        ("", "/usr/bin/ld: b.o:(.text+0x0): multiple definition of `f'; a.o:(.text+0x0): first defined here", "\n"),
        ("", "<built-in>: fatal error: when writing output to : No space left on device", "\n"),
        ("", "ninja: fatal: posix_spawn: Resource temporarily unavailable", "\n"),
        ("", "ninja: error: WriteFile(.ninja_deps): No space left on device", "\n"),
        (
            'Traceback (most recent call last):\n  File "x.py", line 5, in <module>\n    raise RuntimeError(message)\n',
            "OSError: [Errno 28] No space left on device: 'build.ninja'",
            "\n",
        ),
        ("all is well\n", "fallback", ""),
        ("", "fallback", ""),
    ],
)
def test_the_first_real_error_is_found(before: str, line: str, after: str) -> None:
    output = before if line == "fallback" else before + line + after
    assert diagnose.first_error(output, "fallback") == line


# What torch's builder gives of a command that fails without a located error: its own words, and the command twice.
COMMAND = "c++ -MMD -MF toy.o.d -Werror=return-type -DERROR=1 -c '/src/error: here/toy.cpp' -o toy.o"
BUILDER = "Error building extension 'toy': [1/2] {0}\nFAILED: [code={1}] toy.o\n{0}\n{2}ninja: build stopped: failed.\n"


@pytest.mark.parametrize(
    ("code", "said", "error", "hint"),
    [
        (137, "Killed\n", "the compiler of toy.o was killed by SIGKILL", "AITERLITE_MAX_JOBS"),
        (137, "", "the compiler of toy.o was killed by SIGKILL", "AITERLITE_MAX_JOBS"),
        (139, "", "the compiler of toy.o was killed by SIGSEGV", "crashed"),
        (-9, "", "the compiler of toy.o was killed by SIGKILL", "AITERLITE_MAX_JOBS"),
        (135, "Bus error (core dumped)\n", "the compiler of toy.o was killed by SIGBUS", "disk is full"),
        (3, "", "the compiler of toy.o ended with status 3 and named no error", ""),
        (1, "c++: error: unrecognized command-line option '-fx'\n", None, "does not know a flag"),
        (1, "c++: fatal error: Killed signal terminated program cc1plus\n", None, "AITERLITE_MAX_JOBS"),
        (1, "/usr/bin/ld: cannot find -lm: No such file\ncollect2: error: ld returned 1\n", None, "as a whole"),
        (1, "/src/toy.cpp:1:1: error: expected ';'\n", None, ""),
    ],
)
def test_the_builder_s_own_words_do_not_hide_the_error(code: int, said: str, error: str | None, hint: str) -> None:
    output = BUILDER.format(COMMAND, code, said)
    for text in (output, output.split(": ", 1)[1], "RuntimeError: " + output):
        assert diagnose.first_error(text, "fallback") == (error or said.splitlines()[0])
        assert hint in diagnose.hint(text, 1) and bool(hint) == bool(diagnose.hint(text, 1))


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (3, "ended with status 3 and named no error"),
        (-9, "was killed by SIGKILL"),
        (137, "was killed by SIGKILL"),
        (-7, "was killed by SIGBUS"),
        (139, "was killed by SIGSEGV"),
        (-40, "was killed by signal 40"),
        (255, "ended with status 255 and named no error"),
    ],
)
def test_a_status_in_words(status: int, words: str) -> None:
    assert diagnose.ended(status) == words


def test_a_full_disk_explains_what_says_nothing_else() -> None:
    assert "disk is full" in diagnose.hint("nvcc fatal   : Failed to preprocess host compiler properties.", 1, True)
    assert "disk is full" in diagnose.hint("", -7) and diagnose.hint("a.cpp:1:1: error: expected", 1) == ""
    assert "newer CUDA" in diagnose.hint("nvcc fatal   : Unsupported gpu architecture 'sm_100a'", 1, True)


@pytest.mark.parametrize(
    ("output", "status", "word"),
    [
        ("fatal error: error writing to /tmp/x.s: No space left on device", 1, "disk is full"),
        ("c++: fatal error: Killed signal terminated program cc1plus", 1, "AITERLITE_MAX_JOBS"),
        ("", -9, "AITERLITE_MAX_JOBS"),
        ("", -7, "disk is full"),
        ("", -11, "crashed"),
        ("collect2: fatal error: ld terminated with signal 7 [Bus error]", 1, "disk is full"),
        ("/usr/bin/ld: final link failed: No space left on device", 1, "disk is full"),
        ("write: Disk quota exceeded", 1, "disk is full"),
        ("ninja: fatal: posix_spawn: Resource temporarily unavailable", 1, "AITERLITE_MAX_JOBS"),
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
