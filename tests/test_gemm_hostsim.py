"""The skinny-GEMM kernel's own source, executed on the host.

`wv_split_k.hip` is compiled by g++ against a simulation of the GPU primitives (`hostsim/`), with AddressSanitizer, and
compared with float64. This needs no GPU and finds wrong indices, missing barriers, reads outside a tensor and bits that
depend on the schedule. It says nothing about the hardware itself; the emulator and a GPU do.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pytest

import aiterlite

CSRC = Path(aiterlite.__file__).resolve().parent / "csrc"
HOSTSIM = Path(__file__).resolve().parent / "hostsim"

POISON = 0x7FC1  # what the simulation fills outputs with: a NaN in both types, and no result of arithmetic


@dataclass(frozen=True)
class Variant:
    element: str
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

    def __str__(self) -> str:
        aligned = "" if self.aligned else "-unaligned"
        return (
            f"{self.element}-c{self.cols}-s{self.slices}-w{self.waves}-u{self.unroll}-r{self.tiles}-cl{self.cluster}"
            f"{aligned}"
        )


VARIANTS = {
    "sm_90": [
        Variant("bf16", 8, 1, 2, 2, 1),
        Variant("bf16", 8, 2, 3, 1, 1),
        Variant("bf16", 8, 4, 2, 2, 2),
        Variant("bf16", 8, 8, 2, 1, 1),
        Variant("bf16", 16, 1, 2, 2, 2),
        Variant("bf16", 16, 2, 1, 2, 1),
        Variant("bf16", 16, 16, 1, 1, 1),
        Variant("bf16", 16, 1, 1, 1, 4),
        Variant("bf16", 8, 8, 1, 2, 1, cluster=2),
        Variant("bf16", 8, 1, 2, 1, 1, cluster=8),
        Variant("bf16", 16, 1, 2, 2, 1, cluster=4),
        Variant("bf16", 8, 2, 1, 2, 3, cluster=4),
        Variant("bf16", 16, 1, 3, 1, 1, cluster=2, aligned=0),
        Variant("bf16", 8, 4, 2, 1, 1, aligned=0),
        Variant("fp16", 16, 1, 2, 2, 1),
        Variant("fp16", 8, 4, 2, 1, 1, cluster=2),
        Variant("fp16", 16, 1, 2, 1, 1, aligned=0),
    ],
    "gfx942": [
        Variant("bf16", 16, 1, 2, 2, 1),
        Variant("bf16", 16, 2, 1, 2, 2),
        Variant("bf16", 16, 4, 3, 1, 1),
        Variant("bf16", 16, 16, 1, 1, 1),
        Variant("fp16", 16, 1, 2, 1, 2),
        Variant("fp16", 16, 8, 1, 1, 1),
        Variant("bf16", 16, 1, 2, 1, 1, aligned=0),
    ],
    "gfx950": [
        Variant("bf16", 16, 1, 2, 2, 1),
        Variant("bf16", 16, 4, 1, 1, 2),
        Variant("fp16", 16, 2, 3, 1, 1),
        Variant("fp16", 16, 1, 2, 1, 1, aligned=0),
    ],
}
TARGETS = list(VARIANTS)


def to_bits(values: np.ndarray, element: str) -> np.ndarray:
    """Rounds float64 to the storage type, ties to even, and returns the bits."""
    if element == "fp16":
        return values.astype(np.float16).view(np.uint16)
    bits = values.astype(np.float32).view(np.uint32)
    rounded = ((bits.astype(np.uint64) + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)
    return np.where(np.isnan(values), np.uint16(0x7FC0), rounded)


def from_bits(bits: np.ndarray, element: str) -> np.ndarray:
    if element == "fp16":
        return bits.view(np.float16).astype(np.float64)
    return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


@dataclass
class Tensor:
    """Rows of bits, `pitch` elements apart, from `offset` on in an allocation that ends with the last of them."""

    rows: np.ndarray
    pitch: int
    offset: int = 0

    def layout(self) -> bytes:
        return struct.pack("4q", *self.rows.shape, self.pitch, self.offset)


@dataclass
class Case:
    variant: Variant
    x: Tensor
    w: Tensor
    bias: Tensor | None = None  # one row serves all tokens
    pad_y: int = 0
    seed: int = 0
    y: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.rows.shape[0], self.w.rows.shape[0], self.x.rows.shape[1]

    def serialize(self, kernel: int) -> bytes:
        n, m, _ = self.shape
        y = Tensor(np.empty((n, m)), m + self.pad_y)
        bias = self.bias or Tensor(np.empty((0, 0), dtype=np.uint16), 0)
        header = struct.pack("2i2q", kernel, self.seed, 0, 0)
        header += b"".join(tensor.layout() for tensor in (self.x, self.w, bias, y))
        return header + b"".join(tensor.rows.tobytes() for tensor in (self.x, self.w, bias))

    def take_result(self, flat: np.ndarray) -> np.ndarray:
        """Takes y off the results; returns what is left."""
        n, m, _ = self.shape
        self.y = flat[: n * m].reshape(n, m)
        return flat[n * m :]

    def check(self) -> None:
        """|y - ref| <= 4 (eps_out |ref| + eps_fp32 sqrt(K) sum |x w|), the accumulation model of the kernel."""
        element = self.variant.element
        x, w = from_bits(self.x.rows, element), from_bits(self.w.rows, element)
        k = x.shape[1]
        reference = x @ w.T
        magnitude = np.abs(x) @ np.abs(w).T
        if self.bias is not None:
            bias = from_bits(self.bias.rows, element)
            reference = reference + bias
            magnitude = magnitude + np.abs(bias)
        eps_out = 2.0**-8 if element == "bf16" else 2.0**-11
        bound = 4 * (eps_out * np.abs(reference) + 2.0**-24 * np.sqrt(k) * magnitude)
        if element == "fp16":
            bound += 2.0**-25  # half the spacing of its denormals
        y = from_bits(self.y, element)
        finite = np.isfinite(reference)
        label = f"{self.variant} n,m,k={self.shape}"
        assert (self.y != POISON).all(), f"{label}: some outputs were not written"
        assert (np.isnan(y) == np.isnan(reference))[~finite].all(), f"{label}: NaN in the wrong place"
        assert np.isfinite(y[finite]).all(), f"{label}: a NaN or Inf spread"
        excess = np.abs(y[finite] - reference[finite]) - bound[finite]
        assert (excess <= 0).all(), f"{label}: error {np.max(excess)} above the bound"


def program_text(variants: list[Variant]) -> str:
    """One translation unit with every variant in a namespace of its own: their headers are parsed once."""
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
    for index, variant in enumerate(variants):
        defines = {
            "ELEMENT": variant.element,
            "COLS": variant.cols,
            "SLICES": variant.slices,
            "WAVES": variant.waves,
            "UNROLL": variant.unroll,
            "TILES": variant.tiles,
            "CLUSTER": variant.cluster,
            "ALIGNED": variant.aligned,
        }
        lines.append(f"namespace v{index} {{")
        lines += [f"#define AITERLITE_{name} {value}" for name, value in defines.items()]
        lines.append("#include <wv_split_k.hip>")
        lines += [f"#undef AITERLITE_{name}" for name in defines]
        lines.append("}")
    lines.append("int main(int, char** argv) {")
    lines.append("  static const hostsim::Kernel<aiterlite_gemm_args> kernels[] = {")
    for index in range(len(variants)):
        v = f"v{index}"
        lines.append(f"    {{{v}::aiterlite_wv_split_k, {v}::kThreads, {v}::kCluster, {v}::kRows}},")
    lines.append("  };")
    lines.append(
        "  return hostsim::run_cases<uint16_t>(argv[1], argv[2], kernels, sizeof kernels / sizeof kernels[0]);"
    )
    lines.append("}")
    return "\n".join(lines) + "\n"


def compile_command(target: str) -> list[str]:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++ to build the simulation with")
    simulated = target.split("_")[-1].removeprefix("gfx")
    flags = "-std=c++17 -Og -g1 -fsanitize=address -fno-omit-frame-pointer -Wall -Wextra -Werror -Wno-unknown-pragmas"
    folders = [f"-I{folder}" for folder in (CSRC / "include", CSRC / "gemm", HOSTSIM)]
    return [compiler, *flags.split(), f"-DAITERLITE_HOST_SIM={simulated}", *folders]


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("hostsim")
    built = {}
    for target, variants in VARIANTS.items():
        source, program = folder / f"{target}.cpp", folder / target
        source.write_text(program_text(variants))
        command = [*compile_command(target), str(source), "-o", str(program)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        built[target] = program
    return built


def run(programs: dict[str, Path], target: str, cases: list[Case], folder: Path) -> None:
    """Executes the cases in one process, and checks what a kernel must leave alone."""
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


def matrix(rng: np.random.Generator, rows: int, columns: int, element: str, scale: float = 1.0) -> np.ndarray:
    return to_bits(rng.uniform(-scale, scale, (rows, columns)), element)


def make_case(
    rng: np.random.Generator,
    variant: Variant,
    n: int,
    m: int,
    k: int,
    *,
    pad_x: int = 0,
    pad_w: int = 0,
    pad_y: int = 0,
    offset: int = 0,
    bias: str = "none",
    seed: int = 0,
) -> Case:
    element = variant.element
    x = Tensor(matrix(rng, n, k, element), k + pad_x, offset)
    w = Tensor(matrix(rng, m, k, element, k**-0.5), k + pad_w, offset)
    bias_tensor = None
    if bias == "[M]":
        bias_tensor = Tensor(matrix(rng, 1, m, element), m)
    elif bias == "[N, M]":
        bias_tensor = Tensor(matrix(rng, n, m, element), m + 3, offset=1)
    return Case(variant, x, w, bias_tensor, pad_y, seed)


def fitting_k(variant: Variant, rng: np.random.Generator, batches: float) -> int:
    """A K of about so many rounds over all waves; a multiple of 8 where the variant asks for it."""
    whole = 32 * variant.slices * variant.waves * variant.unroll * variant.cluster
    k = max(1, int(whole * batches) + int(rng.integers(-9, 10)))
    return max(8, k // 8 * 8) if variant.aligned else k


@pytest.mark.parametrize("target", TARGETS)
def test_every_variant_and_token_count(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    cases = []
    for variant in VARIANTS[target]:
        for n in range(1, variant.tokens + 1):
            m = int(rng.integers(1, 2 * variant.rows + 2))
            k = fitting_k(variant, rng, float(rng.choice([0.1, 0.6, 1.0, 1.7])))
            bias = str(rng.choice(["none", "[M]", "[N, M]"]))
            padding = 1 if not variant.aligned else 8
            cases.append(
                make_case(
                    rng,
                    variant,
                    n,
                    m,
                    k,
                    pad_x=padding * int(rng.integers(0, 3)),
                    pad_w=padding * int(rng.integers(0, 3)),
                    pad_y=int(rng.integers(0, 3)),
                    offset=0 if variant.aligned else int(rng.integers(0, 8)),
                    bias=bias,
                    seed=n,
                )
            )
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()
    reached = {case.shape[0] for case in cases}
    assert reached == set(range(1, 17))


@pytest.mark.parametrize("target", TARGETS)
def test_k_tails_and_exact_batches(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    cases = []
    for variant in VARIANTS[target]:
        n = variant.tokens
        batch = 32 * variant.slices * variant.unroll
        whole = batch * variant.waves * variant.cluster
        if variant.aligned:
            lengths = [8, 32 * variant.slices, batch + 8, whole, whole + batch - 8, 2 * whole + 8]
        else:
            lengths = [1, 7, 33, batch + 1, whole - 1, whole + 3]
        cases += [make_case(rng, variant, n, variant.rows + 1, k) for k in lengths]
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_one_row_views_of_wide_strides(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """A row alone may have any stride: nothing beyond its K elements exists."""
    rng = np.random.default_rng(3)
    cases = [make_case(rng, v, 1, 1, fitting_k(v, rng, 1.3), pad_x=1 << 20, pad_w=1 << 20) for v in VARIANTS[target]]
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_rows_more_than_four_gib_apart(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """Offsets of rows need 64 bits: the third row of w begins 2^32 elements and 2^33 bytes from the first."""
    rng = np.random.default_rng(7)
    cases = [
        make_case(rng, v, 2, 3, fitting_k(v, rng, 0.5), pad_x=1 << 31, pad_w=1 << 31, pad_y=1 << 31, bias="[N, M]")
        for v in VARIANTS[target]
        if v.tokens > 1
    ]
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_nan_and_inf_stay_where_they_belong(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    rng = np.random.default_rng(4)
    cases = []
    for variant in VARIANTS[target]:
        n, m, k = max(1, variant.tokens - 1), 2 * variant.rows - 1, fitting_k(variant, rng, 1.2)
        case = make_case(rng, variant, n, m, k, pad_x=8, pad_w=8)
        special = to_bits(np.array([np.nan, np.inf]), variant.element)
        if n > 1:
            case.x.rows[n - 1, [0, k // 2, k - 1]] = special[0]
        if m > 1:
            case.w.rows[m - 1, [0, k // 3, k - 1]] = special[0]
        if m > 2:
            case.w.rows[0, k - 1] = special[1]
        cases.append(case)
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()


@pytest.mark.parametrize("target", TARGETS)
def test_bits_do_not_depend_on_the_schedule(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """With the second half of K cancelling the first, what is left is rounding, which any other order would change."""
    cases = []
    for variant in VARIANTS[target]:
        for seed in (0, 1000, 2000):
            rng = np.random.default_rng(5)
            half = fitting_k(variant, rng, 1.1)
            case = make_case(rng, variant, variant.tokens, variant.rows, 2 * half, seed=seed)
            case.x.rows[:, half:] = case.x.rows[:, :half]
            case.w.rows[:, half:] = case.w.rows[:, :half] ^ 0x8000
            cases.append(case)
    run(programs, target, cases, tmp_path)
    for case in cases:
        case.check()
    for first, *others in (cases[i : i + 3] for i in range(0, len(cases), 3)):
        assert all((other.y == first.y).all() for other in others), first.variant


@pytest.mark.parametrize("target", TARGETS)
def test_one_rounding_to_nearest_even(programs: dict[str, Path], target: str, tmp_path: Path) -> None:
    """Sums of two products and a bias that float holds exactly: the result is their rounding, bit for bit."""
    rng = np.random.default_rng(6)
    cases, wanted = [], []
    for variant in VARIANTS[target]:
        m, k, element = 40, 8, variant.element
        precision, top = (8, 127) if element == "bf16" else (11, 15)
        x, w, bias = np.zeros((1, k)), np.zeros((m, k)), np.zeros((1, m))
        x[0, [0, k - 1]] = 1
        # Integers of `precision` bits scaled so that w0 + w1 has ties, and values just beside them; then overflow.
        unit = 2.0 ** (1 - precision)
        w[:, 0] = 1 + unit * rng.integers(0, 2 ** (precision - 1), m)
        w[:, k - 1] = unit * rng.choice([0.25, 0.5, 0.75, -0.25, -0.5, 1.5], m)
        bias[0] = unit * rng.choice([0.0, 0.125, -0.125], m)
        w[0, [0, k - 1]] = 2.0**top * (2 - unit), 2.0**top * unit
        case = Case(variant, *(Tensor(to_bits(t, element), k) for t in (x, w)), Tensor(to_bits(bias, element), m))
        cases.append(case)
        wanted.append(to_bits(np.where(w[:, 0] > 2, np.inf, w.sum(axis=1)) + bias[0], element))
    run(programs, target, cases, tmp_path)
    for case, bits in zip(cases, wanted, strict=True):
        assert (case.y[0] == bits).all(), f"{case.variant}: {case.y[0]} instead of {bits}"


@pytest.mark.parametrize(
    ("change", "argument"),
    [
        ({"cols": 12}, "AITERLITE_COLS"),
        ({"slices": 3}, "AITERLITE_SLICES"),
        ({"waves": 33}, "AITERLITE_WAVES"),
        ({"unroll": 12, "tiles": 4}, "AITERLITE_UNROLL"),
        ({"aligned": 0}, "AITERLITE_UNROLL"),
        ({"waves": 16, "unroll": 1, "tiles": 4, "cols": 16}, "AITERLITE_TILES"),
        ({"cluster": 3}, "AITERLITE_CLUSTER"),
    ],
)
def test_a_bad_combination_is_named(change: dict[str, int], argument: str, tmp_path: Path) -> None:
    variant = replace(Variant("bf16", 8, 1, 2, 2, 1), **change)
    source = tmp_path / "bad.cpp"
    source.write_text(program_text([variant]))
    done = subprocess.run([*compile_command("sm_90"), "-fsyntax-only", str(source)], capture_output=True, text=True)
    errors = [line for line in done.stderr.splitlines() if "error: static assertion failed" in line]
    assert done.returncode != 0 and any(argument in line for line in errors), done.stderr[:2000]
