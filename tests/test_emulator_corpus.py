"""The corpus of HIP kernels: its models against the host, and the emulator against the models.

Every kernel is compiled at -O0, -O1 and -O3 for both targets, executed by the emulator with its memory checked, and
compared with a model that shares no code with either; inputs are read-only, and outputs start as what they must not be.
What the compiler makes of the corpus is right: no sanitizer finds fault with it either.
"""

from __future__ import annotations

import zlib
from pathlib import Path

import numpy as np
import pytest
from emulator import corpus, formats, random_programs, session
from emulator.corpus import KERNELS, LEVELS
from emulator.launches import Buffer, Kernel, Work, read, u32, write

from aiterlite.emulator import Schedule
from aiterlite.emulator.vet import vet

needs_compilers = pytest.mark.skipif(bool(session.missing()), reason=session.missing())
pytestmark = [pytest.mark.compile, pytest.mark.emulated]

# No instruction of the corpus is left out by chance: no launch is longer than this.
LIMIT = 20_000_000
LAUNCHES = [(kernel, target) for kernel in KERNELS.values() for target in kernel.targets]
HOST_SOURCES = sorted({kernel.source for kernel in KERNELS.values() if kernel.host})
# Sources of test_emulator_faults.py.
ELSEWHERE = {"faults", "races"}

each_launch = pytest.mark.parametrize(("kernel", "target"), LAUNCHES, ids=lambda value: getattr(value, "name", value))


def test_every_source_has_a_launch() -> None:
    assert set(corpus.sources()) == {kernel.source for kernel in KERNELS.values()} | ELSEWHERE
    for kernel in KERNELS.values():
        assert set(kernel.targets) <= set(corpus.targets_of(kernel.source)), kernel.name


@pytest.mark.torch
@pytest.mark.parametrize(
    "name", ["float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz", "float16", "bfloat16"]
)
def test_formats_agree_with_torch(name: str) -> None:
    torch = pytest.importorskip("torch")
    fmt = {
        "float8_e4m3fn": formats.E4M3FN,
        "float8_e5m2": formats.E5M2,
        "float8_e4m3fnuz": formats.E4M3FNUZ,
        "float8_e5m2fnuz": formats.E5M2FNUZ,
        "float16": formats.F16,
        "bfloat16": formats.BF16,
    }[name]
    unsigned = torch.uint8 if fmt.bits == 8 else torch.uint16
    codes = torch.arange(1 << fmt.bits, dtype=torch.int32).to(unsigned)
    assert np.array_equal(codes.view(getattr(torch, name)).double().numpy(), fmt.values, equal_nan=True)
    rng = np.random.default_rng(1)
    ties = (fmt.finite[1:] + fmt.finite[:-1]) / 2
    values = np.concatenate([ties, -ties, rng.standard_normal(4000) * np.exp2(rng.integers(-20, 4, 4000))])
    values = values.astype(np.float32)
    values = values[np.abs(values) <= fmt.largest]  # what torch makes of larger ones changed between its versions
    rounded = torch.from_numpy(values).to(getattr(torch, name)).view(unsigned).numpy()
    np.testing.assert_array_equal(fmt.encode(values), rounded)


@each_launch
def test_untouched_memory_is_wrong(kernel: Kernel, target: str) -> None:
    """A kernel that does nothing fails: no output is right to begin with, but for counters that end as they began."""
    outputs = [a for a in kernel.work(target).args.values() if isinstance(a, Buffer) and a.expected is not None]
    wrong = [bool(buffer.mismatch(buffer.start)) for buffer in outputs]
    idle = [np.array_equal(buffer.start, np.asarray(buffer.expected)) for buffer in outputs]
    assert any(wrong) and all(w or i for w, i in zip(wrong, idle, strict=True))


@needs_compilers
@pytest.mark.parametrize("source", HOST_SOURCES)
def test_models_agree_with_the_host(source: str) -> None:
    """The same source, compiled for the host, gives what the model expects: a difference on the emulator is its own."""
    kernels = [kernel for kernel in KERNELS.values() if kernel.source == source and kernel.host]
    library = corpus.compile_host(source, sorted({kernel.symbol for kernel in kernels}), session.folder())
    for kernel in kernels:
        corpus.run_host(library, kernel)


# How waves take turns, and what registers, LDS and scratch start with.
SCHEDULES = (
    Schedule(quantum=1),
    Schedule(quantum=1 << 20, seed=5),
    Schedule(quantum=256, seed=7),
    # A NaN, or a large integer.
    Schedule(quantum=7, seed=9, fill=0x7FC15A5A, threads=1),
)


def drawn(kernel: Kernel, target: str, level: str) -> tuple[Schedule, Schedule]:
    """Two of the schedules, the same ones every time. The levels of a kernel meet all four."""
    first = zlib.crc32(f"{kernel.name} {target}".encode()) + LEVELS.index(level)
    return SCHEDULES[first % 4], SCHEDULES[(first + 2) % 4]


@needs_compilers
@pytest.mark.parametrize("level", LEVELS)
@each_launch
def test_kernel(kernel: Kernel, target: str, level: str) -> None:
    """Right as users run it and under all sanitizers, which run it by another loop. No kernel races, nor reads what was
    never written: no schedule shows in a result, and nothing is found."""
    module = session.module(kernel.source, target, level)
    plain, watched = drawn(kernel, target, level)
    corpus.run(module, kernel, target, schedule=plain, max_instructions=LIMIT)
    report = corpus.run(module, kernel, target, schedule=watched, max_instructions=LIMIT, sanitize=True)
    assert not report.findings, "\n".join(map(str, report.findings))


@needs_compilers
@pytest.mark.parametrize("target", corpus.TARGETS)
def test_the_sanitizers_of_registers_on_all_cores(target: str) -> None:
    """A limit of instructions, and watching for races, keep a launch on one thread: these have neither."""
    for kernel in (kernel for kernel, chosen in LAUNCHES if chosen == target):
        module = session.module(kernel.source, target, "-O3")
        report = corpus.run(module, kernel, target, sanitize=("waits", "hazards", "registers", "barriers"))
        assert not report.findings, "\n".join(map(str, report.findings))


@needs_compilers
@pytest.mark.parametrize("target", corpus.TARGETS)
def test_nothing_is_found_without_a_run(target: str) -> None:
    """The compiler waits as it must along every line and branch, and says the same in descriptor and metadata."""
    session.device(target)
    for source in (name for name in corpus.sources() if target in corpus.targets_of(name)):
        for level in ("-O0", "-O3"):
            found = vet(corpus.compile_object(source, target, level, session.folder()))
            assert found.ok, f"{source} {level}:\n{found.page()}"


def test_every_schedule_is_drawn_for_every_kernel() -> None:
    for kernel, target in LAUNCHES:
        assert {schedule for level in LEVELS for schedule in drawn(kernel, target, level)} == set(SCHEDULES)


@needs_compilers
@pytest.mark.parametrize("seed", range(6))
def test_random_program(seed: int, tmp_path: Path) -> None:
    """A program that nobody wrote does on the emulator what it does on the host."""
    (tmp_path / "random_program.hip").write_text(random_programs.source(seed))
    library = corpus.compile_host("random_program", ["random_program"], tmp_path, include=tmp_path)
    words = np.random.default_rng(seed).integers(0, 1 << 32, 999).astype(np.uint32)
    words[:8] = [0, 1, 2, 3, 0xFFFFFFFF, 0x80000000, 0x7FFFFFFF, 0x10000]
    result = np.zeros(192, np.uint64)
    corpus.call_host(library, "random_program", {"in": words, "out": result, "n": u32(len(words))}, (3,), (64,))
    work = Work({"in": read(words), "out": write(result), "n": u32(len(words))}, (3,), (64,))
    kernel = Kernel("random_program", "random_program", "random_program", lambda target, rng: work)
    for target in kernel.targets:
        for level in LEVELS:
            flags = ("-w", "-ffp-contract=off", f"-I{corpus.HIP}")
            image = corpus.compile_object("random_program", target, level, tmp_path, include=tmp_path, flags=flags)
            corpus.run(session.device(target).load(image), kernel, target, max_instructions=LIMIT)


@needs_compilers
def test_a_wrong_result_is_reported(tmp_path: Path) -> None:
    """A kernel that differs from its model in one element of one row is caught, and the element named."""
    text = (corpus.HIP / "transpose.hip").read_text()
    broken = text.replace("out[c * rows + r] = tile[tx][y];", "out[c * rows + r] = tile[tx][y] + (r == 33 && c == 40);")
    assert broken != text
    (tmp_path / "transpose.hip").write_text(broken)
    (tmp_path / "device.h").write_text((corpus.HIP / "device.h").read_text())
    image = corpus.compile_object("transpose", "gfx942", "-O3", tmp_path, include=tmp_path)
    with pytest.raises(AssertionError, match=r"transpose_b32: out\[40, 33\] is .*; 1 of 3150 differ"):
        corpus.run(session.device("gfx942").load(image), KERNELS["transpose_b32"], "gfx942")
