"""The skinny GEMM of 8-bit operands in the host simulation: the kernel source is that of test_gemm_hostsim.py."""

from __future__ import annotations

import os
import struct
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from test_gemm_hostsim import POISON, Tensor, compile_command, from_bits, to_bits

FLAVOUR = {"sm_90": "e4m3fn", "gfx942": "e4m3fnuz", "gfx950": "e4m3fn"}
NAN_CODE = {"e4m3fn": 0x7F, "e4m3fnuz": 0x80}


@dataclass(frozen=True)
class Variant:
    result: str
    cols: int
    slices: int
    waves: int
    unroll: int
    tiles: int
    cluster: int = 1
    aligned: int = 1

    @property
    def tokens(self) -> int:
        return self.cols // self.slices

    @property
    def rows(self) -> int:
        return 16 // self.slices * self.tiles

    @property
    def batch(self) -> int:
        """The k that all waves of a workgroup, or of its cluster, have in flight."""
        return 64 * self.slices * self.waves * self.unroll * self.cluster


AMD = [
    Variant("bf16", 16, 1, 2, 2, 1),
    Variant("bf16", 16, 4, 1, 2, 2),
    Variant("fp16", 16, 16, 2, 1, 1),
    Variant("bf16", 16, 2, 3, 1, 1, aligned=0),
]
VARIANTS = {
    "sm_90": [
        Variant("bf16", 8, 1, 2, 2, 1),
        Variant("bf16", 8, 4, 2, 1, 2),
        Variant("fp16", 16, 2, 1, 2, 1),
        Variant("bf16", 16, 16, 1, 1, 1),
        Variant("bf16", 16, 1, 1, 1, 2, cluster=4),
        Variant("fp16", 8, 8, 1, 1, 1, cluster=2),
        Variant("bf16", 16, 1, 2, 1, 1, cluster=2, aligned=0),
    ],
    "gfx942": AMD,
    "gfx950": AMD,
}
TARGETS = list(VARIANTS)


def values_of(flavour: str) -> np.ndarray:
    """The number of each of the 256 codes."""
    codes = np.arange(256)
    bias = 8 if flavour == "e4m3fnuz" else 7
    exponent, fraction = codes >> 3 & 15, codes & 7
    magnitude = np.where(exponent, (1 + fraction / 8) * 2.0 ** (exponent - bias), fraction / 8 * 2.0 ** (1 - bias))
    values = np.where(codes & 0x80, -magnitude, magnitude)
    values[[0x80] if flavour == "e4m3fnuz" else [0x7F, 0xFF]] = np.nan
    return values


def random_codes(rng: np.random.Generator, rows: int, columns: int, flavour: str) -> np.ndarray:
    """Codes of finite numbers, every one as likely."""
    finite = np.flatnonzero(np.isfinite(values_of(flavour))).astype(np.uint8)
    return rng.choice(finite, (rows, columns))


@dataclass
class Case:
    variant: Variant
    flavour: str
    x: Tensor
    w: Tensor
    scale_x: np.ndarray
    scale_w: np.ndarray
    bias: Tensor | None = None
    pad_y: int = 0
    seed: int = 0

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.rows.shape[0], self.w.rows.shape[0], self.x.rows.shape[1]

    def serialize(self, kernel: int) -> bytes:
        n, m, _ = self.shape
        bias = self.bias or Tensor(np.empty((0, 0), dtype=np.uint16), 0)
        y = Tensor(np.empty((n, m)), m + self.pad_y)
        header = struct.pack("2i2q", kernel, self.seed, self.scale_x.size, self.scale_w.size)
        header += b"".join(tensor.layout() for tensor in (self.x, self.w, bias, y))
        arrays = (self.x.rows, self.w.rows, bias.rows, self.scale_x, self.scale_w)
        return header + b"".join(array.tobytes() for array in arrays)

    def check(self, bits: np.ndarray) -> None:
        """|y - ref| <= 4 (eps_out |ref| + eps_fp32 sqrt(K) sum |x w| scales)."""
        x, w = values_of(self.flavour)[self.x.rows], values_of(self.flavour)[self.w.rows]
        scales = self.scale_x.astype(np.float64)[:, None] * self.scale_w.astype(np.float64)
        reference = x @ w.T * scales
        magnitude = np.abs(x) @ np.abs(w).T * np.abs(scales)
        if self.bias is not None:
            reference = reference + from_bits(self.bias.rows, self.variant.result)
            magnitude = magnitude + np.abs(from_bits(self.bias.rows, self.variant.result))
        eps_out = 2.0**-8 if self.variant.result == "bf16" else 2.0**-11
        bound = 4 * (eps_out * np.abs(reference) + 2.0**-24 * np.sqrt(x.shape[1]) * magnitude) + 2.0**-25
        y = from_bits(bits, self.variant.result)
        label = f"{self.variant} n,m,k={self.shape}"
        finite = np.isfinite(reference)
        assert (bits != POISON).all(), f"{label}: some outputs were not written"
        assert (np.isnan(y) == np.isnan(reference)).all(), f"{label}: NaN in the wrong place"
        worst = np.max(np.abs(y[finite] - reference[finite]) / bound[finite], initial=0)
        assert worst <= 1, f"{label}: {worst} times the bound"


def program_text(flavour: str, variants: list[Variant]) -> str:
    lines = [
        "#include <aiterlite/block/mailbox.h>",
        "#include <aiterlite/fragment/row_tile.h>",
        "#include <aiterlite/gemm_args.h>",
    ]
    lines += [
        "#include <aiterlite/overlap.h>",
        "#include <aiterlite/numeric/types.h>",
        "#include <aiterlite/vector.h>",
        "#include <hostsim/runner.h>",
    ]
    for index, v in enumerate(variants):
        defines = {"ELEMENT": flavour, "RESULT": v.result, "COLS": v.cols, "SLICES": v.slices, "WAVES": v.waves}
        defines |= {"UNROLL": v.unroll, "TILES": v.tiles, "CLUSTER": v.cluster, "ALIGNED": v.aligned}
        lines.append(f"namespace v{index} {{")
        lines += [f"#define AITERLITE_{name} {value}" for name, value in defines.items()]
        lines.append("#include <wv_split_k.hip>")
        lines += [f"#undef AITERLITE_{name}" for name in defines]
        lines.append("}")
    lines.append("int main(int, char** argv) {")
    lines.append("  static const hostsim::Kernel<aiterlite_scaled_gemm_args> kernels[] = {")
    for index in range(len(variants)):
        v = f"v{index}"
        lines.append(f"    {{{v}::aiterlite_wv_split_k_q, {v}::kThreads, {v}::kCluster, {v}::kRows}},")
    lines.append("  };")
    lines.append("  return hostsim::run_cases<uint8_t>(argv[1], argv[2], kernels, sizeof kernels / sizeof kernels[0]);")
    lines.append("}")
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="module", params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def program(target: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostsim_fp8")
    source = folder / "program.cpp"
    source.write_text(program_text(FLAVOUR[target], VARIANTS[target]))
    command = [*compile_command(target), str(source), "-o", str(folder / "program")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder / "program"


def run(program: Path, target: str, cases: list[Case], folder: Path) -> list[np.ndarray]:
    """The bits of y of each case, executed in one process."""
    inputs, outputs = folder / "cases", folder / "results"
    inputs.write_bytes(b"".join(case.serialize(VARIANTS[target].index(case.variant)) for case in cases))
    options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    words = [str(program), str(inputs), str(outputs)]
    done = subprocess.run(words, capture_output=True, text=True, env={**os.environ, **options})
    assert done.returncode == 0, done.stderr[:4000]
    flat = np.frombuffer(outputs.read_bytes(), dtype=np.uint16)
    results = []
    for case in cases:
        n, m, _ = case.shape
        results.append(flat[: n * m].reshape(n, m))
        flat = flat[n * m :]
    assert flat.size == 0
    return results


def make_case(rng: np.random.Generator, target: str, variant: Variant, n: int, m: int, k: int, **changes: int) -> Case:
    """A case of random codes; odd seeds have one scale for all rows, every other pair of seeds one for each token, and
    each third has no bias."""
    flavour, seed = FLAVOUR[target], changes.get("seed", 0)
    pad, offset = changes.get("pad", 0), changes.get("offset", 0)
    x = Tensor(random_codes(rng, n, k, flavour), k + pad, offset)
    w = Tensor(random_codes(rng, m, k, flavour), k + 2 * pad, offset)
    scale_x = (rng.uniform(0.5, 2, n if seed % 4 > 1 else 1) * 2.0**-8).astype(np.float32)
    scale_w = (rng.uniform(0.5, 2, 1 if seed % 2 else m) * 2.0**-6 * k**-0.5).astype(np.float32)
    shapes = [None, (1, m), (n, m)]
    shape = shapes[seed % 3]
    bias = None if shape is None else Tensor(to_bits(rng.uniform(-2, 2, shape), variant.result), m + seed % 4)
    return Case(variant, flavour, x, w, scale_x, scale_w, bias, changes.get("pad_y", 0), seed)


def fitting(variant: Variant, k: int) -> int:
    return max(16, k // 16 * 16) if variant.aligned else max(1, k)


def test_every_variant_and_token_count(program: Path, target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = []
    for variant in VARIANTS[target]:
        step = 16 if variant.aligned else 1
        for n in range(1, variant.tokens + 1):
            k = fitting(variant, int(variant.batch * rng.choice([0.1, 0.6, 1.0, 1.7])) + int(rng.integers(-9, 30)))
            m = int(rng.integers(1, 2 * variant.rows + 2))
            offset = 0 if variant.aligned else int(rng.integers(0, 16))
            pad = step * int(rng.integers(0, 3))
            cases.append(
                make_case(rng, target, variant, n, m, k, pad=pad, offset=offset, seed=n, pad_y=int(rng.integers(0, 3)))
            )
    for case, bits in zip(cases, run(program, target, cases, tmp_path), strict=True):
        case.check(bits)
    assert {case.shape[0] for case in cases} == set(range(1, 17))


def test_k_tails_and_exact_batches(program: Path, target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = []
    for variant in VARIANTS[target]:
        whole, wave = variant.batch, variant.batch // variant.waves // variant.cluster
        lengths = [16, 48, wave + 16, whole, whole + wave - 16, 2 * whole + 16]
        if not variant.aligned:
            lengths = [1, 15, 17, 65, wave + 1, whole - 1, whole + 3]
        cases += [make_case(rng, target, variant, variant.tokens, variant.rows + 1, k) for k in lengths]
    for case, bits in zip(cases, run(program, target, cases, tmp_path), strict=True):
        case.check(bits)


def test_one_row_views_of_wide_strides(program: Path, target: str, tmp_path: Path) -> None:
    """A row alone may have any stride: nothing beyond its K elements exists."""
    rng = np.random.default_rng(3)
    cases = [make_case(rng, target, v, 1, 1, fitting(v, v.batch + 80), pad=1 << 20) for v in VARIANTS[target]]
    for case, bits in zip(cases, run(program, target, cases, tmp_path), strict=True):
        case.check(bits)


def test_a_nan_stays_in_its_row(program: Path, target: str, tmp_path: Path) -> None:
    """The padding between rows is NaN too (the simulation's poison), and must not be multiplied by a zero."""
    rng = np.random.default_rng(4)
    cases = []
    for variant in VARIANTS[target]:
        n, m, k = max(1, variant.tokens - 1), 2 * variant.rows - 1, fitting(variant, variant.batch + 80)
        case = make_case(rng, target, variant, n, m, k, pad=16)
        nan = NAN_CODE[FLAVOUR[target]]
        if n > 1:
            case.x.rows[n - 1, [0, k // 2, k - 1]] = nan
        if m > 1:
            case.w.rows[m - 1, [0, k // 3, k - 1]] = nan
        cases.append(case)
    for case, bits in zip(cases, run(program, target, cases, tmp_path), strict=True):
        case.check(bits)


def test_bits_do_not_depend_on_the_schedule(program: Path, target: str, tmp_path: Path) -> None:
    """With the second half of K cancelling the first, what is left is rounding, which any other order would change."""
    cases = []
    for variant in VARIANTS[target]:
        for seed in (0, 1000, 2000):
            half = fitting(variant, variant.batch + 64)
            case = make_case(np.random.default_rng(5), target, variant, variant.tokens, variant.rows, 2 * half)
            case.seed = seed
            case.x.rows[:, half:] = case.x.rows[:, :half]
            case.w.rows[:, half:] = np.where(case.w.rows[:, :half] == 0, 0, case.w.rows[:, :half] ^ 0x80)
            cases.append(case)
    results = run(program, target, cases, tmp_path)
    for first, *others in (results[i : i + 3] for i in range(0, len(results), 3)):
        assert all((other == first).all() for other in others)


def test_scales_of_any_size(program: Path, target: str, tmp_path: Path) -> None:
    """Also where their product, or that of a sum and one of them, overflows or is subnormal, and a zero stays zero."""
    variant = VARIANTS[target][0]
    one = int(np.flatnonzero(values_of(FLAVOUR[target]) == 2.0**-6)[0])
    x, w = np.zeros((2, 16), np.uint8), np.full((3, 16), one, np.uint8)
    x[0, 3] = one
    rows = {
        -100: ([110, 0, 112], [2.0**-2, 2.0**-112, 1.0]),
        100: ([110, 0, 112], [np.inf, 2.0**88, np.inf]),
        127: ([-127, -149, 13], [2.0**-12, 2.0**-34, np.inf]),
        -149: ([127, 0, 126], [2.0**-34, 0.0, 2.0**-35]),
    }
    scaled = [(np.array([2.0**a], np.float32), (2.0 ** np.array(b)).astype(np.float32)) for a, (b, _) in rows.items()]
    cases = [Case(variant, FLAVOUR[target], Tensor(x, 16), Tensor(w, 16), *scales) for scales in scaled]
    for (_, first), bits in zip(rows.values(), run(program, target, cases, tmp_path), strict=True):
        assert from_bits(bits, "bf16").tolist() == [first, [0, 0, 0]]


@pytest.mark.parametrize("change", [{"tiles": 2}, {"waves": 9}], ids=str)
def test_what_element_wise_loads_leave_no_registers_for(change: dict[str, int], tmp_path: Path) -> None:
    variants = [replace(Variant("bf16", 8, 1, 8, 1, 1, aligned=0), **change)]
    source = tmp_path / "bad.cpp"
    source.write_text(program_text("e4m3fn", variants))
    done = subprocess.run([*compile_command("sm_90"), "-fsyntax-only", str(source)], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error: static assertion failed" in line]
    assert done.returncode != 0 and any("AITERLITE_TILES must be 1 and AITERLITE_WAVES at most 8" in e for e in errors)
    source.write_text(program_text("e4m3fn", [Variant("bf16", 8, 1, 8, 1, 1, aligned=0)]))
    subprocess.run([*compile_command("sm_90"), "-fsyntax-only", str(source)], check=True)
