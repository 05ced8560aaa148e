"""The host unit `csrc/gemm/gemm.cpp` through its C interface, at each CPU level that this machine can run.

Every kernel call is made in guarded memory, in a child process (guarded_gemm.py): an access outside an operand, or a
write into an input, is a crash that a test reports. The oracle is float64 with the bound of the accumulation model,
and exact where a sum has one term.
"""

from __future__ import annotations

import importlib.util
import pickle
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import guarded_gemm  # noqa: E402
from guarded_gemm import Call, Pool, Result  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.jit import engine, spec  # noqa: E402
from aiterlite.jit.sources import package_tree  # noqa: E402
from aiterlite.jit.spec import Unit  # noqa: E402
from aiterlite.reference import gemm as reference  # noqa: E402
from aiterlite.tables import gemm as tables  # noqa: E402
from aiterlite.target import X86_LEVELS, host_persona  # noqa: E402

pytestmark = pytest.mark.compile

HOST = host_persona().target
LEVELS = [f"cpu-{level}" for level in X86_LEVELS]
RUNNABLE = LEVELS[: LEVELS.index(HOST) + 1] if HOST in LEVELS else [HOST]
# AVX-512 without AVX512_BF16, which such a unit uses where the CPU has it: what other CPUs of the level compute.
NO_DOT = "cpu-x86-64-v4 without bf16 dot products"
RUNNABLE += [NO_DOT] if LEVELS[-1] in RUNNABLE else []
DTYPES = [torch.bfloat16, torch.float16]
ELEMENTS = {torch.bfloat16: 0, torch.float16: 1}
POISON = b"\xc1\x7f"  # a NaN in both types that no arithmetic here gives
NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module", params=RUNNABLE)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def host_unit(target: str) -> Unit:
    if target != NO_DOT:
        return tables.host_unit(target)
    return replace(tables.host_unit(LEVELS[-1]), defines=(("AITERLITE_CPU_BF16_DOT", "0"),))


@dataclass(frozen=True)
class Problem:
    """Operands whose rows may be strided; y's rows are `y_pad` elements further apart than they are long."""

    x: Tensor
    w: Tensor
    bias: Tensor | None = None
    y_pad: int = 0
    pool: Pool | None = None
    num_threads: int = 1

    def call(self) -> Call:
        n, k, m = *self.x.shape, self.w.shape[0]
        stride_y = m + self.y_pad
        return Call(
            x=memory(self.x),
            w=memory(self.w),
            bias=None if self.bias is None else memory(self.bias),
            y=POISON * ((n - 1) * stride_y + m),
            strides=(
                self.x.stride(0),
                self.w.stride(0),
                self.bias.stride(0) if self.bias is not None and self.bias.dim() == 2 else 0,
                stride_y,
            ),
            sizes=(n, m, k),
            element=ELEMENTS[self.x.dtype],
            pool=self.pool,
            num_threads=self.num_threads,
        )

    def __str__(self) -> str:
        bias = "no bias" if self.bias is None else f"bias {list(self.bias.shape)}"
        strides = self.call().strides
        return f"{self.x.dtype}, n={len(self.x)} m={len(self.w)} k={self.x.shape[1]}, strides {strides}, {bias}"


def memory(t: Tensor) -> bytes:
    """The bytes from a tensor's first element to its last, with what lies between its rows."""
    if t.numel() == 0:
        return b""
    length = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) + 1
    return torch.as_strided(t, (length,), (1,)).view(torch.int16).numpy().tobytes()


def matrix(rows: int, columns: int, dtype: torch.dtype, pad: int = 0, scale: float = 1.0) -> Tensor:
    """Random, with NaN between the rows."""
    storage = torch.full((rows, columns + pad), NAN, dtype=dtype)
    storage[:, :columns] = (torch.randn(rows, columns) * scale).to(dtype)
    return storage[:, :columns]


def run_calls(target: str, calls: list[Call], names: list[str]) -> list[Result]:
    """The result of each call, made in guarded memory in a child process; both placements give the same."""
    library = engine.obtain(host_unit(target)).entry.path
    words = [sys.executable, guarded_gemm.__file__]
    done = subprocess.run(words, input=pickle.dumps((str(library), calls)), capture_output=True, timeout=120)
    errors = done.stderr.decode(errors="replace")
    if done.returncode != 0:
        at = re.findall(r"^(\d+) (\w+)$", errors, re.MULTILINE)
        where = f"{names[int(at[-1][0])]}, inaccessible page {at[-1][1]}" if at else "before the first call"
        pytest.fail(f"the child ended with {done.returncode} in {where}\n{errors[-2000:]}")
    results: list[Result] = pickle.loads(done.stdout)
    behind, before = results[::2], results[1::2]
    assert len(behind) == len(before) == len(calls)
    for name, one, other in zip(names, behind, before, strict=True):
        assert one == other, f"{name}: the result depends on the operands' addresses"
    return behind


def run(target: str, problems: list[Problem], status: int = 0) -> list[Tensor]:
    """y of each problem. Checks the status, and that nothing was written between y's rows."""
    results = run_calls(target, [problem.call() for problem in problems], [str(problem) for problem in problems])
    ys = []
    for problem, result in zip(problems, results, strict=True):
        assert result.status == status, str(problem)
        n, m = len(problem.x), len(problem.w)
        flat = torch.frombuffer(bytearray(result.y + POISON * problem.y_pad), dtype=torch.int16).view(n, -1)
        gap = flat[:, m:]
        assert bool((gap == int.from_bytes(POISON, "little")).all()), f"{problem}: y is written between its rows"
        ys.append(flat[:, :m].contiguous().view(problem.x.dtype))
    return ys


def assert_right(target: str, problems: list[Problem]) -> None:
    for problem, y in zip(problems, run(target, problems), strict=True):
        exact = problem.x.double() @ problem.w.double().T
        if problem.bias is not None:
            exact = exact + problem.bias.double()
        error = (y.double() - exact).abs()
        bound = reference.error_bound(problem.x, problem.w, exact)
        assert bool((error <= bound).all()), f"{problem}: {float((error / bound).max()):.2f} times the bound"


def bits(t: Tensor) -> Tensor:
    return t.contiguous().view(torch.int16)


def assert_same_numbers(y: Tensor, expected: Tensor, what: str) -> None:
    """Equal bit for bit, but for the sign of zero and the payload of a NaN."""
    differ = ~((y == expected) | (y.isnan() & expected.isnan()))
    assert not bool(differ.any()), f"{what}: {y[differ][:4].tolist()} for {expected[differ][:4].tolist()}"


# Shapes ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_tail_of_k(target: str, dtype: torch.dtype) -> None:
    """K 1 to 67: ends inside a vector of every level, one vector, one step and two steps of K."""
    torch.manual_seed(1)
    problems = []
    for k in range(1, 68):
        n, m = k % 16 + 1, k % 11 + 1
        x, w = matrix(n, k, dtype, k % 3), matrix(m, k, dtype, (k + 1) % 4, k**-0.5)
        problems.append(Problem(x, w, y_pad=k % 5))
    assert_right(target, problems)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_token_count(target: str, dtype: torch.dtype) -> None:
    """N 1 to 16, and beyond what one panel of sums holds; K within a strip, at its end, one and a tail beyond."""
    torch.manual_seed(2)
    problems = []
    for n in (*range(1, 17), 17, 33):
        for m, k in ((5, 33), (3, 2048), (6, 2049), (2, 4096 + 31)):
            problems.append(Problem(matrix(n, k, dtype, n % 2), matrix(m, k, dtype, n % 3, k**-0.5), y_pad=n % 4))
    assert_right(target, problems)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_count_of_rows(target: str, dtype: torch.dtype) -> None:
    """M 1 to 35 in 1 to 7 shares: runs of rows that come out even, short, and empty."""
    torch.manual_seed(3)
    k = 4099
    w = matrix(35, k, dtype, 5, k**-0.5)
    x = matrix(9, k, dtype)
    assert_right(target, [Problem(x, w[:m], pool=Pool(3), num_threads=m % 7 + 1) for m in range(1, 36)])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_strides(target: str, dtype: torch.dtype) -> None:
    """Rows that are far apart, and one row seen as many."""
    torch.manual_seed(4)
    x, w = matrix(6, 71, dtype, 3000), matrix(7, 71, dtype, 4099, 1 / 8)
    assert_right(
        target,
        [
            Problem(x, w, y_pad=2100),
            Problem(x[2:3].expand(6, 71), w),
            Problem(x, w[3:4].expand(7, 71)),
            Problem(x[::2], w[1::3]),
        ],
    )


def test_nothing_to_add_up(target: str) -> None:
    """K 0: y is the bias, or zero. N or M 0: nothing is touched."""
    nothing, w = torch.empty(3, 0, dtype=torch.bfloat16), torch.empty(5, 0, dtype=torch.bfloat16)
    bias = matrix(3, 5, torch.bfloat16)
    without, biased = run(target, [Problem(nothing, w), Problem(nothing, w, bias)])
    assert not bool(bits(without).any()) and torch.equal(biased, bias)
    call = replace(Problem(matrix(2, 8, torch.bfloat16), matrix(3, 8, torch.bfloat16)).call(), x=None, w=None)
    for sizes in ((0, 3, 8), (2, 0, 8)):
        (result,) = run_calls(target, [replace(call, sizes=sizes)], [str(sizes)])
        assert (result.status, result.y) == (0, call.y)


# Values ---------------------------------------------------------------------------------------------------------------


def every_value(dtype: torch.dtype) -> Tensor:
    return torch.arange(65536, dtype=torch.int32).to(torch.int16).view(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_value_survives(target: str, dtype: torch.dtype) -> None:
    """All 65536 patterns times 1: widening and rounding lose nothing, subnormals included."""
    values = every_value(dtype)
    one = torch.ones(1, 1, dtype=dtype)
    as_weights, as_tokens = run(
        target, [Problem(one, values[:, None]), Problem(values[:, None], torch.ones(1, 1, dtype=dtype))]
    )
    assert_same_numbers(as_weights[0], values, "weights")
    assert_same_numbers(as_tokens[:, 0], values, "tokens")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_one_product_is_rounded_once(target: str, dtype: torch.dtype) -> None:
    """A product of two 16-bit numbers is exact in fp32, so y is its nearest neighbour, ties to even: at every
    magnitude, from subnormal results to those that overflow to infinity."""
    generator = torch.Generator().manual_seed(5)
    values = every_value(dtype)
    tokens = values[torch.randint(0, 65536, (13,), generator=generator)]
    tiny, big = torch.finfo(dtype).smallest_normal, torch.finfo(dtype).max
    special = torch.tensor([tiny / 2, tiny / 16, big, -1.5, 1 / 3, INF, NAN, 0.0, 2.0**-11], dtype=dtype)
    for x in (special[:, None], tokens[:, None]):
        (y,) = run(target, [Problem(x, values[:, None])])
        assert_same_numbers(y, (x.float() * values.float()).to(dtype), "product")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_place_of_a_row_counts_once(target: str, dtype: torch.dtype) -> None:
    """Row m of the weights is zero but for one value, in column m mod K; y is that value's product."""
    torch.manual_seed(6)
    for k in (64, 67, 2113):
        m, n = max(512, k), 5
        w = torch.zeros(m, k, dtype=dtype)
        row = torch.arange(m)
        w[row, row % k] = torch.randn(m).to(dtype)
        w[::7] *= torch.finfo(dtype).smallest_normal / 4
        x = matrix(n, k, dtype)
        (y,) = run(target, [Problem(x, w)])
        assert_same_numbers(y, (x.float()[:, row % k] * w[row, row % k].float()).to(dtype), f"k={k}")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_of_subnormals(target: str, dtype: torch.dtype) -> None:
    """Subnormal operands are not flushed, neither in whole steps of K nor in the tail."""
    least = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    for k in (3, 96, 129):
        x, w = torch.full((4, k), 1.0, dtype=dtype), torch.full((5, k), least, dtype=dtype)
        forward, swapped = run(target, [Problem(x, w), Problem(w, x)])
        expected = torch.tensor(k * least, dtype=torch.float64).to(dtype)
        assert bool((forward == expected).all()) and bool((swapped == expected).all()) and float(expected) > 0


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("value", [NAN, INF, -INF], ids=str)
def test_a_special_value_stays_in_its_row(target: str, dtype: torch.dtype, value: float) -> None:
    """One special value in a token, or in a weight row, at the start, in each half of a step, and in the tail."""
    torch.manual_seed(7)
    n, m, k = 7, 9, 2048 + 67
    x, w = matrix(n, k, dtype, 1), matrix(m, k, dtype, 1).abs() + 0.5
    columns = (0, 1, 17, 2047, 2048, k - 2, k - 1)
    problems = [Problem(x, w)]
    for column in columns:
        one_token, one_row = x.clone(), w.clone()
        one_token[3, column] = value
        one_row[4, column] = value
        problems += [Problem(one_token, w), Problem(x, one_row)]
    clean, *dirty = run(target, problems)
    assert bool(clean.isfinite().all())
    for column, tokens, rows in zip(columns, dirty[::2], dirty[1::2], strict=True):
        expected = torch.full((m,), value, dtype=dtype)
        assert_same_numbers(tokens[3], expected, f"token, column {column}")
        assert_same_numbers(rows[:, 4], x[:, column].sign() * value, f"row, column {column}")
        others_n, others_m = [i for i in range(n) if i != 3], [i for i in range(m) if i != 4]
        assert torch.equal(bits(tokens[others_n]), bits(clean[others_n])), f"column {column}"
        assert torch.equal(bits(rows[:, others_m]), bits(clean[:, others_m])), f"column {column}"


# Numbers that a dot product of bf16 takes for zero --------------------------------------------------------------------

TINY = 2.0**-126  # the least normal number of bf16


def exponents(low: int, high: int, *shape: int) -> Tensor:
    """Numbers of random sign and fraction, of every exponent alike; below -126 they are subnormal."""
    powers = torch.randint(low, high + 1, shape).double().exp2()
    return (powers * (1 + torch.rand(shape)) * (2 * torch.randint(0, 2, shape) - 1)).bfloat16()


def assert_right_down_to_subnormals(target: str, problems: list[Problem]) -> None:
    """As `assert_right`, with half the distance of two subnormal numbers for the rounding of a subnormal y."""
    for problem, y in zip(problems, run(target, problems), strict=True):
        exact = problem.x.double() @ problem.w.double().T
        bound = reference.error_bound(problem.x, problem.w, exact) + 2.0**-134
        error = (y.double() - exact).abs()
        assert bool((error <= bound).all()), f"{problem}: {float((error / bound).max()):.2f} times the bound"


def test_sums_of_any_magnitude(target: str) -> None:
    """Tokens and weights of magnitudes whose products lie around the least normal number, above and far below it."""
    torch.manual_seed(11)
    problems = []
    for low, high in ((-133, -120), (-133, 60), (-60, -20), (0, 60), (100, 119)):
        for k in (1, 5, 64, 1100, 2048 + 67):
            middle = (low + high) // 2
            x = exponents(low, high, 6, k)
            w = exponents(max(-133, -middle - 140), max(-127, min(100, -middle - 112)), 13, k)
            problems += [Problem(x, w), Problem(w, x)] if k < 2000 else [Problem(x, w)]
    assert_right_down_to_subnormals(target, problems)


def test_a_subnormal_token_counts(target: str) -> None:
    """Where a weight is so large that most of a sum comes from a subnormal element."""
    torch.manual_seed(12)
    x, w = exponents(-30, -20, 7, 2113), exponents(-3, 3, 13, 2113)
    for token, column in ((0, 0), (3, 1500), (6, 2112)):
        x[token, column] = TINY / 4
        w[token::2, column] = 2.0**120
    assert_right_down_to_subnormals(target, [Problem(x, w), Problem(x[3:4], w)])


def test_a_subnormal_weight_counts(target: str) -> None:
    """In a row of its own, among subnormal weights, and among others that do not matter beside it."""
    torch.manual_seed(13)
    x, w = matrix(7, 2113, torch.bfloat16, scale=2.0**-20), exponents(-3, 3, 13, 2113)
    x[:, 7] = 2.0**120
    w[1] = 0
    w[::3] = exponents(-133, -127, 5, 2113)
    w[1:3, 7] = TINY / 4
    assert_right_down_to_subnormals(target, [Problem(x, w), Problem(x[:2], w)])


def test_a_subnormal_number_times_infinity(target: str) -> None:
    """Is infinity, where zero times infinity is NaN; in a token's row and column alone."""
    for k in (1, 70, 2113):
        x, w = torch.ones(6, k, dtype=torch.bfloat16), torch.ones(9, k, dtype=torch.bfloat16)
        x[2, k // 2], w[5, k // 2] = INF, TINY / 2
        x[4, k - 1], w[7, k - 1] = TINY / 8, -INF
        y, swapped = run(target, [Problem(x, w), Problem(w, x)])
        exact = x.double() @ w.double().T
        assert torch.equal(y.isinf(), exact.isinf()) and not bool(y.isnan().logical_xor(exact.isnan()).any())
        assert torch.equal(y[4, 7].sign(), torch.tensor(-1.0).bfloat16()) and torch.equal(bits(y), bits(swapped.T))


def test_zero_rows(target: str) -> None:
    """A token of zeros and a row of zeros give zero, whatever else is subnormal."""
    torch.manual_seed(14)
    x, w = matrix(6, 1100, torch.bfloat16), exponents(-133, 3, 11, 1100)
    x[2], w[4] = 0, 0
    (y,) = run(target, [Problem(x, w)])
    assert not bool(y[2].any()) and not bool(y[:, 4].any()) and int((y == 0).sum()) == 11 + 6 - 1


def errors_alone(x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    """Both with columns by which every sum loses what it comes to: y is what rounding made of the order of additions,
    which the 8 bits of y's own rounding hide otherwise."""
    n, rest = len(x), x.double() @ w.double().T
    columns, negated = [], []
    for _ in range(3):
        part = rest.to(x.dtype)
        rest -= part.double()
        columns.append(torch.eye(n, dtype=x.dtype))
        negated.append(-part.T)
    return torch.cat([x, *columns], 1), torch.cat([w, *negated], 1)


@pytest.mark.skipif(NO_DOT not in RUNNABLE, reason="this CPU has no AVX-512")
def test_a_cpu_without_dot_products_gives_the_same_bits() -> None:
    """Where nothing is subnormal. So a row's bits do not depend on the CPU within a level."""
    torch.manual_seed(15)
    x, w = errors_alone(matrix(16, 2113, torch.bfloat16), matrix(35, 2113, torch.bfloat16, scale=2113**-0.5))
    problems = [Problem(x[:n], w) for n in (1, 2, 3, 4, 5, 9, 16)]
    ones, others = run(LEVELS[-1], problems), run(NO_DOT, problems)
    for one, other in zip(ones, others, strict=True):
        assert torch.equal(bits(one), bits(other))
    assert float(ones[-1].abs().max()) < 1e-5 and int((ones[-1] != 0).sum()) > 16 * 35 // 2


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_order_of_additions_does_not_depend_on_the_rest_of_the_problem(target: str, dtype: torch.dtype) -> None:
    """Every N to one tile more than a panel of sums, of any number of rows and threads: the same fp32 sums."""
    torch.manual_seed(17)
    x, w = errors_alone(matrix(33, 2113, dtype), matrix(35, 2113, dtype, scale=2113**-0.5))
    problems = [Problem(x[:n], w, pool=Pool(3), num_threads=n % 4 + 1) for n in (*range(1, 18), 32)]
    problems += [Problem(x[:3], w[:m]) for m in range(1, 14)]
    whole, *parts = run(target, [Problem(x, w), *problems])
    for problem, y in zip(problems, parts, strict=True):
        assert torch.equal(bits(y), bits(whole[: len(y), : y.shape[1]])), str(problem)
    assert float(whole.abs().max()) < 1e-5 and int((whole != 0).sum()) > 33 * 35 // 2


def test_bits_with_subnormal_numbers_do_not_depend_on_the_rest_of_the_problem(target: str) -> None:
    """What is summed again is so for its own token and row: alone, y has the same bits."""
    torch.manual_seed(16)
    x, w = exponents(-133, 3, 9, 1100), exponents(-3, 3, 13, 1100)
    x[::2] = exponents(-3, 3, 5, 1100)
    w[::3] = exponents(-133, -100, 5, 1100)
    w[4] = 0
    parts = [Problem(x[i : i + 1], w) for i in range(9)] + [Problem(x, w[j : j + 1]) for j in range(13)]
    whole, *rest = run(target, [Problem(x, w), *parts])
    assert torch.equal(bits(torch.cat(rest[:9])), bits(whole))
    assert torch.equal(bits(torch.cat(rest[9:], 1)), bits(whole))


# Bias -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_forms(target: str, dtype: torch.dtype) -> None:
    torch.manual_seed(8)
    problems = []
    for n, m, k in ((1, 1, 1), (5, 13, 67), (16, 6, 130)):
        x, w = matrix(n, k, dtype), matrix(m, k, dtype, scale=k**-0.5)
        shared = matrix(1, m, dtype)[0]
        for bias in (None, shared, matrix(n, m, dtype), matrix(n, m, dtype, 3), matrix(n, m, dtype, 4099)):
            problems.append(Problem(x, w, bias, y_pad=m % 3))
    assert_right(target, problems)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_of_each_token_and_feature(target: str, dtype: torch.dtype) -> None:
    """With zero products y is the bias itself, each element in its place."""
    bias = torch.arange(7 * 11).view(7, 11).to(dtype)
    x, w = torch.zeros(7, 40, dtype=dtype), torch.ones(11, 40, dtype=dtype)
    per_token, shared = run(target, [Problem(x, w, bias), Problem(x, w, bias[2])])
    assert torch.equal(per_token, bias) and torch.equal(shared, bias[2].expand(7, 11))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bias_is_added_before_the_rounding(target: str, dtype: torch.dtype) -> None:
    """1 + eps/2 is a tie that alone rounds to 1; with a bias of eps/4 it must become 1 + eps."""
    eps = torch.finfo(dtype).eps
    x, w = torch.tensor([[1.0, eps / 2]], dtype=dtype), torch.ones(3, 2, dtype=dtype)
    bias = torch.full((3,), eps / 4, dtype=dtype)
    alone, biased = run(target, [Problem(x, w), Problem(x, w, bias)])
    assert alone.tolist() == [[1.0] * 3] and biased.tolist() == [[1 + eps] * 3]


# The same bits --------------------------------------------------------------------------------------------------------

POOLS = [
    *[Pool(chunks, reverse) for chunks in (1, 2, 3, 7) for reverse in (False, True)],
    Pool(7, threads=True),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_threads(target: str, dtype: torch.dtype) -> None:
    torch.manual_seed(9)
    n, m, k = 5, 61, 2113
    alone = Problem(matrix(n, k, dtype, 1), matrix(m, k, dtype, 3), matrix(n, m, dtype, 2), y_pad=3)
    shared = [replace(alone, pool=pool, num_threads=threads) for pool in (None, *POOLS) for threads in (1, 2, 3, 7, 64)]
    results = run_calls(target, [p.call() for p in (alone, *shared)], [f"{p}, {p.pool}" for p in (alone, *shared)])
    assert_right(target, [alone])
    for problem, result in zip(shared, results[1:], strict=True):
        assert result.y == results[0].y, f"{problem.pool}, {problem.num_threads} threads"
        # One thread needs no pool, no pool is one thread, and no share is less than a tile of 4 rows.
        shares = 1 if problem.pool is None else min(problem.num_threads, -(-m // 4))
        assert result.asked == (() if shares == 1 else ((0, shares, 1),))


def test_a_small_problem_wakes_no_thread(target: str) -> None:
    problem = Problem(matrix(2, 64, torch.bfloat16), matrix(64, 64, torch.bfloat16), pool=Pool(2), num_threads=2)
    (result,) = run_calls(target, [problem.call()], [str(problem)])
    assert (result.status, result.asked) == (0, ())


def test_the_status_of_the_pool_is_returned(target: str) -> None:
    x, w = matrix(4, 1024, torch.bfloat16), matrix(64, 1024, torch.bfloat16)
    run(target, [Problem(x, w, pool=Pool(2, status=77), num_threads=2)], status=77)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_bits_do_not_depend_on_the_rest_of_the_problem(target: str, dtype: torch.dtype) -> None:
    """y[n, m] is the same in a problem of fewer tokens, of fewer rows, and of other strides."""
    torch.manual_seed(10)
    n, m, k = 16, 10, 2048 + 77
    x, w, bias = matrix(n, k, dtype), matrix(m, k, dtype), matrix(n, m, dtype)
    problems = [Problem(x, w, bias)]
    problems += [Problem(x[:count], w, bias[:count]) for count in range(1, n)]
    problems += [Problem(x, w[:count], bias[:, :count]) for count in range(1, m)]
    problems += [Problem(x[i : i + 1], w[j : j + 1], bias[i : i + 1, j]) for i, j in ((0, 9), (7, 3), (15, 0))]
    padded = matrix(m, k, dtype, 7)
    padded.copy_(w)
    problems.append(Problem(x, padded, bias, y_pad=2))
    whole, *parts = run(target, problems)
    for problem, y in zip(problems[1:], parts, strict=True):
        first = next(i for i in range(n) if torch.equal(x[i], problem.x[0]))
        column = next(j for j in range(m) if torch.equal(w[j], problem.w[0]))
        expected = whole[first : first + y.shape[0], column : column + y.shape[1]]
        assert torch.equal(bits(y), bits(expected)), str(problem)


# Compilers ------------------------------------------------------------------------------------------------------------


def compile_strictly(words: list[str], unit: Any, folder: Path) -> None:
    """Compile the unit with its own flags and every warning an error."""
    flags = ["-std=c++20", "-Wextra", "-Werror", f"-I{package_tree().include}"]
    for source in unit.sources:
        done = subprocess.run(
            [*words, *flags, "-c", str(package_tree().root / source), "-o", str(folder / "gemm.o")],
            capture_output=True,
            text=True,
            timeout=300,
            env={"PATH": "/usr/bin:/bin", "HOME": str(folder), "ZIG_GLOBAL_CACHE_DIR": str(folder / "zig")},
        )
        assert done.returncode == 0 and done.stderr == "", done.stderr


def test_compiles_without_a_warning(target: str, tmp_path: Path) -> None:
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    unit = host_unit(target)
    compile_strictly([compiler, *spec.host_flags(unit)], unit, tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("ziglang") is None, reason="no cross compiler: ziglang is not installed")
@pytest.mark.parametrize("target", [*LEVELS, "cpu-aarch64"])
def test_clang_compiles_every_level_without_a_warning(target: str, tmp_path: Path) -> None:
    """Cross-compiled, so also for levels and machines that are not this one."""
    found = importlib.util.find_spec("ziglang")
    assert found is not None and found.submodule_search_locations
    zig = str(Path(next(iter(found.submodule_search_locations))) / "zig")
    machine, cpu = ("aarch64", "generic") if target == "cpu-aarch64" else ("x86_64", target[4:].replace("-", "_"))
    unit = host_unit(target)
    # Levels are CPUs to this driver, under names of its own.
    flags = [flag for flag in spec.host_flags(unit) if not flag.startswith("-march=")]
    compile_strictly([zig, "c++", "-target", f"{machine}-linux-gnu", f"-mcpu={cpu}", *flags], unit, tmp_path)
