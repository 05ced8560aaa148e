"""The source of the skinny GEMM that reduces over workgroups, executed on the host; see test_gemm_hostsim.py.

Workgroups run one after the other in a random order, so these tests find wrong indices, missing barriers, reads outside
a tensor or a slice, a workspace that is not left zero, and bits that depend on the order.
"""

from __future__ import annotations

import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import test_gemm_hostsim as plain
from test_gemm_hostsim import Tensor, compile_command, matrix, to_bits

NONE, SLICES, ATOMIC = 0, 1, 2


@dataclass(frozen=True)
class Variant:
    element: str
    cols: int
    tiles: int
    row_waves: int
    k_waves: int
    unroll: int
    reduce: int
    aligned: int = 1

    @property
    def rows(self) -> int:
        return 16 * self.tiles * self.row_waves

    @property
    def round_k(self) -> int:
        return 32 * self.unroll * self.k_waves


VARIANTS = {
    "sm_90": [
        Variant("bf16", 16, 1, 1, 2, 2, NONE),
        Variant("bf16", 16, 2, 2, 2, 2, SLICES, aligned=0),
        Variant("bf16", 32, 2, 1, 2, 2, SLICES),
        Variant("bf16", 64, 1, 2, 2, 2, SLICES),
        Variant("bf16", 64, 1, 2, 1, 2, ATOMIC),
        Variant("bf16", 128, 1, 1, 2, 2, SLICES),
        Variant("bf16", 128, 2, 1, 8, 1, NONE),
        Variant("fp16", 32, 4, 1, 2, 1, ATOMIC),
        Variant("fp16", 16, 1, 1, 2, 2, ATOMIC, aligned=0),
    ],
    "gfx942": [
        Variant("bf16", 16, 4, 1, 2, 2, SLICES),
        Variant("bf16", 32, 2, 2, 1, 4, NONE),
        Variant("fp16", 64, 1, 1, 4, 2, ATOMIC),
        Variant("bf16", 64, 1, 2, 2, 2, SLICES),
        Variant("bf16", 128, 2, 1, 8, 1, SLICES),
        Variant("bf16", 128, 1, 1, 2, 2, SLICES, aligned=0),
    ],
    "gfx950": [
        Variant("bf16", 16, 1, 1, 2, 2, SLICES),
        Variant("bf16", 64, 1, 1, 2, 2, SLICES),
        Variant("fp16", 32, 4, 1, 1, 2, NONE),
        Variant("fp16", 128, 1, 1, 2, 2, ATOMIC),
    ],
}
# They share K_WAVES and UNROLL, and nothing else.
SAME_ORDER = {
    target: [v for v in variants if (v.element, v.k_waves, v.unroll, v.reduce) == ("bf16", 2, 2, SLICES)]
    for target, variants in VARIANTS.items()
}
TARGETS = list(VARIANTS)


@dataclass
class Case(plain.Case):
    variant: Variant
    shards: int = 1
    shard_k: int = 0

    def serialize(self, kernel: int) -> bytes:
        whole = super().serialize(kernel)
        header = len(whole) - sum(tensor.rows.nbytes for tensor in (self.x, self.w, self.bias) if tensor is not None)
        return whole[:header] + struct.pack("2i", self.shards, self.shard_k) + whole[header:]


def program_text(variants: list[Variant]) -> str:
    names = ("aiterlite/fragment/row_tile.h", "aiterlite/overlap.h", "aiterlite/numeric/types.h", "aiterlite/vector.h")
    lines = [f"#include <{header}>" for header in (*names, "hostsim/reduce_runner.h")]
    for index, variant in enumerate(variants):
        lines.append(f"namespace v{index} {{")
        lines += [f"#define AITERLITE_{name.upper()} {value}" for name, value in vars(variant).items()]
        lines.append("#include <wv_split_k_reduce.hip>")
        lines += [f"#undef AITERLITE_{name.upper()}" for name in vars(variant)]
        lines.append("}")
    lines.append("int main(int, char** argv) {")
    lines.append("  static const hostsim::ReduceKernel kernels[] = {")
    for index in range(len(variants)):
        v = f"v{index}"
        lines.append(
            f"    {{{v}::aiterlite_wv_split_k_reduce, {v}::kThreads, {v}::kRows, {v}::kColumns, {v}::kReduce}},"
        )
    lines.append("  };")
    lines.append("  return hostsim::run_reduce_cases(argv[1], argv[2], kernels, sizeof kernels / sizeof kernels[0]);")
    lines.append("}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostsim")
    for target, variants in VARIANTS.items():
        source = folder / f"{target}.cpp"
        source.write_text(program_text(variants))
        done = subprocess.run(
            [*compile_command(target), str(source), "-o", str(folder / target)], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[:4000]
    return {target: folder / target for target in VARIANTS}


def run(programs: dict[str, Path], target: str, cases: list[Case], folder: Path) -> None:
    """Executes the cases in one process, which fails where a kernel touches or leaves what it must not."""
    inputs, outputs = folder / "cases", folder / "results"
    inputs.write_bytes(b"".join(case.serialize(VARIANTS[target].index(case.variant)) for case in cases))
    done = subprocess.run(
        [str(programs[target]), str(inputs), str(outputs)],
        capture_output=True,
        text=True,
        env={"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"},
    )
    assert done.returncode == 0, done.stderr[:4000]
    flat = np.frombuffer(outputs.read_bytes(), dtype=np.uint16)
    for case in cases:
        flat = case.take_result(flat)
    assert flat.size == 0


def make_case(
    rng: np.random.Generator,
    variant: Variant,
    n: int,
    m: int,
    k: int,
    shards: int = 1,
    *,
    bias: str = "none",
    **pads: int,
) -> Case:
    """A case whose K is cut into about so many shards; as many as there are 32-k steps for at most."""
    made = plain.make_case(rng, variant, n, m, k, bias=bias, **pads)  # type: ignore[arg-type]
    if variant.reduce == NONE:
        return Case(**vars(made) | {"shards": 1, "shard_k": k})
    shard_k = 32 * -(-k // (32 * shards))
    return Case(**vars(made) | {"shards": -(-k // shard_k), "shard_k": shard_k})


def tokens(variant: Variant) -> list[int]:
    return [variant.cols // 2 + 1, variant.cols] if variant.cols > 16 else [1, 9, 15]


@pytest.mark.parametrize("target", TARGETS)
def test_every_variant(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = []
    for index, variant in enumerate(VARIANTS[target]):
        step = 8 if variant.aligned else 1
        for number, n in enumerate(tokens(variant)):
            m = int(rng.integers(1, 2 * variant.rows + 2))
            k = max(step, int(variant.round_k * rng.choice([0.3, 1.0, 2.2])) // step * step + step * number)
            pad, offset = step * (1 + number), 0 if variant.aligned else 3
            bias = ("none", "[M]", "[N, M]")[(index + number) % 3]
            pads = {"pad_x": pad, "pad_w": 2 * pad, "pad_y": number, "offset": offset, "seed": n}
            cases.append(make_case(rng, variant, n, m, k, 1 + number * 3, bias=bias, **pads))
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()
    assert any(case.shards > 2 for case in cases)


@pytest.mark.parametrize("target", TARGETS)
def test_tails_of_k(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = []
    for variant in VARIANTS[target]:
        whole = variant.round_k
        lengths = (8, whole, whole + 8, 2 * whole + 24) if variant.aligned else (1, 33, whole + 3)
        cases += [make_case(rng, variant, 5, 18, k, 2) for k in lengths]
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_wide_strides(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """A row alone may have any stride; offsets of rows need 64 bits."""
    rng = np.random.default_rng(3)
    cases = []
    for v in VARIANTS[target]:
        cases.append(make_case(rng, v, 1, 1, 96, 2, pad_x=1 << 20, pad_w=1 << 20))
        cases.append(make_case(rng, v, 2, 3, 96, 2, bias="[N, M]", pad_x=1 << 31, pad_w=1 << 31, pad_y=1 << 31))
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_inf_stay_where_they_belong(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cases = []
    for variant in VARIANTS[target]:
        n, m, k = variant.cols - 1, variant.rows + 5, max(8, variant.round_k // 8 * 8)
        case = make_case(rng, variant, n, m, k, 3, pad_x=8, pad_w=8)
        special = to_bits(np.array([np.nan, np.inf]), variant.element)
        # The first token is what columns without one read, the last row what rows without one read.
        case.x.rows[0, [0, k // 2, k - 1]] = special[0]
        case.w.rows[m - 1, [0, k // 3, k - 1]] = special[0]
        case.w.rows[0, k - 1] = special[1]
        cases.append(case)
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_bits_do_not_depend_on_the_order(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """With the second half of K cancelling the first, what is left is rounding, which any other order would change."""
    cases = []
    for variant in VARIANTS[target]:
        for seed in (0, 1000, 2000):
            rng = np.random.default_rng(5)
            half = variant.round_k
            case = make_case(rng, variant, 9, 17, 2 * half, 4, seed=seed)
            case.x.rows[:, half:] = case.x.rows[:, :half]
            case.w.rows[:, half:] = case.w.rows[:, :half] ^ 0x8000
            cases.append(case)
    run(programs, target, cases, tmp_path)
    differ = 0
    for first, *others in (cases[i : i + 3] for i in range(0, len(cases), 3)):
        first.check()
        same = all((other.y == first.y).all() for other in others)
        assert same or first.variant.reduce == ATOMIC, first.variant
        differ += not same
    # The negative control: atomics onto one region do show the order.
    assert differ or all(v.reduce != ATOMIC for v in VARIANTS[target])


@pytest.mark.parametrize("target", TARGETS)
def test_a_rows_bits_depend_on_the_cut_of_k_alone(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """Other columns, tiles, waves over rows and loads, the same bits; another shard width, other bits."""
    variants = SAME_ORDER[target]
    assert len({(v.cols, v.tiles * v.row_waves, v.aligned) for v in variants}) == len(variants) > 1
    rng = np.random.default_rng(6)
    m, k = 33, 1024
    x, w = matrix(rng, 128, k, "bf16"), matrix(rng, m, k, "bf16")
    # The second half cancels the first: what is left is rounding.
    x[:, k // 2 :], w[:, k // 2 :] = x[:, : k // 2], w[:, : k // 2] ^ 0x8000
    cases = [
        Case(v, Tensor(x[: v.cols - 3], k), Tensor(w, k), None, shards=3, shard_k=384, seed=v.cols) for v in variants
    ]
    cases.append(replace(cases[0], shards=4, shard_k=320))
    run(programs, target, cases, tmp_path)
    *same, other = [case.y[:13] for case in cases]
    assert all((y == same[0]).all() for y in same)
    assert (other != same[0]).any()


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"cols": 48}, "AITERLITE_COLS"),
        ({"tiles": 3}, "AITERLITE_TILES"),
        ({"row_waves": 8, "k_waves": 4}, "AITERLITE_K_WAVES"),
        ({"cols": 128, "unroll": 4}, "AITERLITE_UNROLL"),
        ({"reduce": 3}, "AITERLITE_REDUCE"),
        ({"cols": 128, "tiles": 4, "unroll": 1}, "registers"),
    ],
)
def test_a_bad_combination_is_named(change: dict[str, int], argument: str, tmp_path: Path) -> None:
    variant = replace(Variant("bf16", 16, 1, 1, 2, 2, SLICES), **change)
    source = tmp_path / "bad.cpp"
    source.write_text(program_text([variant]))
    done = subprocess.run([*compile_command("sm_90"), "-fsyntax-only", str(source)], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error: static assertion failed" in line]
    assert done.returncode != 0 and any(argument in line for line in errors), done.stderr[:2000]
