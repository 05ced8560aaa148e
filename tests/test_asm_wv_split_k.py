"""The assembly skinny GEMM, executed by the emulator: against float64, and bit for bit against the HIP kernel."""

from __future__ import annotations

import mmap
import re
import struct
import tempfile
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import NAN, assert_within_bound  # noqa: E402
from test_gemm import matrix  # noqa: E402

from aiterlite.emulator import Device, Module, Report, find_races  # noqa: E402
from aiterlite.errors import BuildError  # noqa: E402
from aiterlite.jit import engine  # noqa: E402
from aiterlite.jit.spec import Unit  # noqa: E402
from aiterlite.tables.gemm_args import GEMM_ARGS  # noqa: E402
from aiterlite.tables.gemm_plan import tiling as plan  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.emulated]

BF16 = torch.bfloat16
PERSONAS = {"gfx942": "mi300x", "gfx950": "mi355x"}
UNITS = {"gfx942": (304, 80), "gfx950": (256,)}
ASM, HIP = "aiterlite_wv_split_k_asm", "aiterlite_wv_split_k"
DEEPSEEK = [(256, 7168), (2112, 7168), (7168, 2048), (24576, 1536), (129280, 7168), (16, 512), (37, 776)]
Knobs = tuple[int, int, int, int]  # slices, tiles, unroll, waves


def planned(target: str, n: int, m: int, k: int, units: int = 0) -> Knobs:
    cut = plan(target, n, m, k, units or UNITS[target][0], True)
    assert cut.cols == 16 and cut.cluster == 1
    return cut.slices, cut.tiles, cut.unroll, cut.waves


PLANNED = {
    target: sorted({planned(target, n, m, k, units) for n in range(1, 5) for m, k in DEEPSEEK for units in counts})
    for target, counts in UNITS.items()
}
# Each knob's values, and the corners: batches that reach beyond a load's constant offset, more sums than work-items,
# fewer sums than lanes, one wave, the most LDS.
CORNERS: list[Knobs] = [(1, 4, 1, 1), (1, 1, 1, 1), (16, 4, 8, 1), (16, 1, 8, 2), (16, 2, 1, 1), (8, 2, 5, 3)]
CORNERS += [(2, 4, 3, 5), (2, 2, 7, 2), (8, 1, 6, 2), (4, 1, 1, 7), (4, 4, 1, 8), (2, 1, 3, 16), (1, 2, 2, 9)]
EVERY_VALUE = sorted(
    {(slices, tiles, 2, 3) for slices in (1, 2, 4, 8, 16) for tiles in (1, 2, 4)}
    | {(2, 1, unroll, 4) for unroll in range(1, 9)}
    | {(16, 2, unroll, 1) for unroll in range(1, 9)}
    | {(2, 1, 2, waves) for waves in range(1, 17)}
    | {(1, 4, 1, waves) for waves in range(1, 17)}
)

each_target = pytest.mark.parametrize("target", PERSONAS)
each_tiling = pytest.mark.parametrize(
    ("target", "knobs"),
    [(target, knobs) for target in PERSONAS for knobs in sorted({*PLANNED[target], *CORNERS})],
    ids=lambda value: value if isinstance(value, str) else "s{}-t{}-u{}-w{}".format(*value),
)


def unit(kernel: str, target: str, knobs: Knobs) -> Unit:
    names = ("SLICES", "TILES", "UNROLL", "WAVES")
    defines = {f"AITERLITE_{name}": str(value) for name, value in zip(names, knobs, strict=True)}
    if kernel == ASM:
        source, struct = ("asm/gemm/wv_split_k.S",), GEMM_ARGS.spec
        return Unit("gemm/wv_split_k_asm", source, target, tuple(defines.items()), symbols=(ASM,), arguments=struct)
    defines |= {"AITERLITE_ALIGNED": "1", "AITERLITE_CLUSTER": "1", "AITERLITE_COLS": "16", "AITERLITE_ELEMENT": "bf16"}
    return Unit("gemm/wv_split_k", ("csrc/gemm/wv_split_k.hip",), target, tuple(defines.items()), symbols=(HIP,))


def load(kernel: str, target: str, knobs: Knobs) -> Module:
    wanted = unit(kernel, target, knobs)
    return Device(PERSONAS[target]).load(engine.obtain(wanted).entry.path)


def arguments(x: Any, w: Any, bias: Any, y: Any) -> dict[str, Any]:
    """The kernel's arguments by name."""
    broadcast = bias is None or bias.dim() == 1
    strides = {
        "stride_x": x.stride(0),
        "stride_w": w.stride(0),
        "stride_bias": 0 if broadcast else bias.stride(0),
        "stride_y": y.stride(0),
    }
    return {
        "x": x,
        "weight": w,
        "bias": bias,
        "y": y,
        **strides,
        "n": len(x),
        "m": len(w),
        "k": x.shape[1],
        "reserved": 0,
    }


def grid(knobs: Knobs, m: int) -> int:
    slices, tiles, _, _ = knobs
    return -(-m * slices // (16 * tiles))


def launch(module: Module, knobs: Knobs, x: Any, w: Any, bias: Any = None, **options: Any) -> tuple[Any, Report]:
    """The output and the report of a launch under all sanitizers; y starts as NaN, and its padding stays so."""
    storage = torch.full((len(x), len(w) + 5), NAN, dtype=BF16)
    y = storage[:, : len(w)]
    named = arguments(x, w, bias, y)
    kernel = next(iter(module.kernels))
    if kernel == HIP:
        # One struct: its pointers reach the emulator beside it.
        pointers = [named[name].data_ptr() if named[name] is not None else 0 for name in ("x", "weight", "bias", "y")]
        numbers = [value for name, value in named.items() if name not in ("x", "weight", "bias", "y")]
        options["extra"] = [tensor for tensor in (x, w, bias, y) if tensor is not None]
        report = module.launch(
            kernel, grid(knobs, len(w)), 64 * knobs[3], struct.pack("<4Q4q4i", *pointers, *numbers), **options
        )
    else:
        report = module.launch(kernel, grid(knobs, len(w)), 64 * knobs[3], named, sanitize=True, **options)
        assert not report.findings, "\n".join(map(str, report.findings))
    assert bool(storage[:, len(w) :].isnan().all())
    return y, report


def same_bits(a: Any, b: Any) -> bool:
    return torch.equal(a.contiguous().view(torch.int16), b.contiguous().view(torch.int16))


def depths(knobs: Knobs) -> list[int]:
    """K at which the loop takes other ways: one vector; around a batch of a wave; around a turn of all waves."""
    slices, _, unroll, waves = knobs
    batch = 32 * slices * unroll
    turn = batch * waves
    return sorted({8, 264, batch - 8, batch, batch + 8, turn - 8, turn, turn + 8, turn + batch + 32, 2 * turn + 8})


@each_target
def test_every_knob_value_assembles(target: str) -> None:
    for knobs in {*EVERY_VALUE, *PLANNED[target]}:
        kernel = load(ASM, target, knobs).kernels[ASM]
        _, tiles, _, waves = knobs
        assert kernel.max_workgroup == 64 * waves and kernel.lds_bytes == 1024 * waves * tiles <= 65536
        assert kernel.kernarg_bytes == 80 and kernel.scratch_bytes == 0
        assert kernel.vgprs * -(-waves // 4) <= 512, knobs
        assert [a.name for a in kernel.arguments] == list(arguments(*[torch.zeros(1, 8)] * 4)), knobs


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ((3, 1, 1, 1), "SLICES must be"),
        ((1, 3, 1, 1), "TILES must be"),
        ((1, 1, 9, 1), "UNROLL must be"),
        ((1, 1, 1, 17), "WAVES must be"),
        ((1, 4, 8, 16), "does not fit the registers"),
    ],
)
def test_other_knob_values_do_not(knobs: Knobs, said: str) -> None:
    with pytest.raises(BuildError, match=said):
        engine.obtain(unit(ASM, "gfx942", knobs))


@each_tiling
def test_right_and_bit_equal_to_hip(target: str, knobs: Knobs) -> None:
    """Every way through the loop, odd M, N of 1 and the most, padded rows, each kind of bias."""
    torch.manual_seed(sum(knobs))
    asm, hip = load(ASM, target, knobs), load(HIP, target, knobs)
    most = 16 // knobs[0]
    for number, k in enumerate(depths(knobs)):
        n = (1, most, min(3, most), min(4, most))[number % 4]
        m = (37, 5, 1, 64, 19)[number % 5]
        x, w = matrix(n, k, BF16, "cpu", 8 * (number % 3)), matrix(m, k, BF16, "cpu", 8 * (number % 2), k**-0.5)
        bias = (None, matrix(1, m, BF16, "cpu")[0], matrix(n, m, BF16, "cpu", 3))[(number + n) % 3]
        y, _ = launch(asm, knobs, x, w, bias)
        assert_within_bound(y, x, w, bias)
        assert same_bits(y, launch(hip, knobs, x, w, bias)[0]), (n, m, k)


@each_target
@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_planned_shapes(n: int, target: str) -> None:
    """The planner's tilings of a model's shapes, cut to the rows of a few workgroups and one."""
    torch.manual_seed(n)
    for m, k in DEEPSEEK:
        knobs = planned(target, n, m, k)
        rows = min(m, 3 * 16 * knobs[1] // knobs[0] + 1)
        x, w = matrix(n, k, BF16, "cpu"), matrix(rows, k, BF16, "cpu", 0, k**-0.5)
        for bias in (None, matrix(1, rows, BF16, "cpu")[0], matrix(n, rows, BF16, "cpu", 3)):
            y, _ = launch(load(ASM, target, knobs), knobs, x, w, bias)
            assert_within_bound(y, x, w, bias)


@each_tiling
def test_a_value_stays_in_its_row(target: str, knobs: Knobs) -> None:
    """NaN and infinity of a token, and of a weight row, also in the last vector, reach no other output."""
    torch.manual_seed(1)
    asm = load(ASM, target, knobs)
    n, m, k = min(4, 16 // knobs[0]), 21, 264
    x, w = matrix(n, k, BF16, "cpu", 8), matrix(m, k, BF16, "cpu", 8)
    clean = launch(asm, knobs, x, w)[0].clone()
    for value in (NAN, float("inf")):
        spoiled_x, spoiled_w = x.clone(), w.clone()
        spoiled_x[n - 1, k - 1], spoiled_w[m - 1, k - 1] = value, value
        y = launch(asm, knobs, spoiled_x, w)[0]
        assert not bool(torch.isfinite(y[n - 1]).any()) and same_bits(y[: n - 1], clean[: n - 1])
        y = launch(asm, knobs, x, spoiled_w)[0]
        assert not bool(torch.isfinite(y[:, m - 1]).any()) and same_bits(y[:, : m - 1], clean[:, : m - 1])


@each_tiling
def test_zero_input_gives_the_bias(target: str, knobs: Knobs) -> None:
    asm = load(ASM, target, knobs)
    x, w = torch.zeros(1, 520, dtype=BF16), matrix(19, 520, BF16, "cpu")
    assert bool((launch(asm, knobs, x, w)[0].view(torch.int16) == 0).all())
    bias = matrix(1, 19, BF16, "cpu")[0]
    bias[3] = NAN
    assert torch.equal(launch(asm, knobs, x, w, bias)[0][0].nan_to_num(7.0), bias.nan_to_num(7.0))


@each_tiling
def test_schedules_leave_the_same_bits(target: str, knobs: Knobs) -> None:
    torch.manual_seed(2)
    n, m, k = min(4, 16 // knobs[0]), 21, 776
    x, w, y = matrix(n, k, BF16, "cpu"), matrix(m, k, BF16, "cpu"), torch.full((n, m), NAN, dtype=BF16)
    named = arguments(x, w, matrix(n, m, BF16, "cpu"), y)
    found = find_races(load(ASM, target, knobs), ASM, grid(knobs, m), 64 * knobs[3], named)
    assert not found and bool(y.isfinite().all())


def sparse(rows: int, stride: int, k: int, dtype: Any = BF16) -> Any:
    """A matrix [rows, k] whose rows are `stride` elements apart, in a file that is mostly a hole."""
    size = dtype.itemsize * ((rows - 1) * stride + k)
    try:
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            memory = mmap.mmap(file.fileno(), size)
    except (OSError, ValueError, OverflowError) as error:
        pytest.skip(f"no address space for the test: {error}")
    view = torch.as_strided(torch.frombuffer(memory, dtype=dtype), (rows, k), (stride, 1))
    view[:] = torch.randn(rows, k)
    return view


@each_target
@pytest.mark.parametrize("stride", [2**30 + 8, 2**32 + 8], ids=["beyond_2_to_31_bytes", "beyond_2_to_32_elements"])
def test_rows_far_apart(stride: int, target: str) -> None:
    torch.manual_seed(3)
    for knobs in ((2, 1, 4, 14), (1, 4, 2, 2)):
        x, w = sparse(2, stride, 264), sparse(3, stride, 264)
        y, bias = sparse(2, stride, 3), sparse(2, stride, 3)
        y[:] = NAN
        named = arguments(x, w, bias, y)
        load(ASM, target, knobs).launch(ASM, grid(knobs, 3), 64 * knobs[3], named)
        assert_within_bound(y.contiguous(), x.contiguous(), w.contiguous(), bias.contiguous())


# What is issued. Times are not claimed: an instruction is counted as the 4 cycles that a SIMD takes to accept it, a
# matrix instruction as its 4 passes of 4 cycles, s_nop as the wait states that it stands for.

_INSTRUCTION = re.compile(r"^ *\d+ [0-9a-f]+ [0-9a-f]+ +([a-z]\w*)(?: (\S+))?", re.MULTILINE)


def issued(traced: Callable[[int], Report], waves: int) -> Counter[str]:
    """Wave-instructions of a launch's one workgroup by kind, and under `cycles` what they take to issue; `traced` runs
    the launch and traces a wave."""
    count: Counter[str] = Counter()
    total = 0
    for wave in range(waves):
        report = traced(wave)
        total = report.instructions
        for name, operand in _INSTRUCTION.findall(report.trace):
            kind, cycles = "other", 4
            if name.startswith("v_mfma"):
                kind, cycles = "matrix", 16
            elif name == "global_load_dwordx4":
                kind = "operand loads"
            elif name.startswith(("global_", "ds_", "s_load")):
                kind = "other memory"
            elif name == "s_nop":
                kind, cycles = "waits", 4 * (1 + int(operand, 0))
            elif name in ("s_waitcnt", "s_barrier"):
                kind = "waits"
            elif name.startswith("v_"):
                kind = "vector"
            elif name.startswith("s_"):
                kind = "scalar"
            count[kind] += 1
            count["cycles"] += cycles
            count["instructions"] += 1
    assert count["instructions"] == total, "the trace shows every instruction"
    return count


@each_target
@pytest.mark.parametrize("n", [1, 4])
@pytest.mark.parametrize(("m", "k"), [(256, 7168), (2112, 7168)])
def test_issues_less_than_the_hip_kernel(m: int, k: int, n: int, target: str) -> None:
    """At most 0.9 of its instructions and of its issue cycles, for the same loads and products."""
    torch.manual_seed(4)
    knobs = planned(target, n, m, k)
    rows = 16 * knobs[1] // knobs[0]
    x, w = matrix(n, k, BF16, "cpu"), matrix(rows, k, BF16, "cpu")

    def count(kernel: str) -> Counter[str]:
        module = load(kernel, target, knobs)
        return issued(lambda wave: launch(module, knobs, x, w, trace=(0, wave))[1], knobs[3])

    asm, hip = count(ASM), count(HIP)
    print(f"\n{target} n={n} m={m} k={k} {knobs}\n  asm {dict(asm)}\n  hip {dict(hip)}")
    assert asm["operand loads"] == hip["operand loads"] and asm["matrix"] == hip["matrix"]
    assert asm["instructions"] <= 0.9 * hip["instructions"]
    assert asm["cycles"] <= 0.9 * hip["cycles"]
