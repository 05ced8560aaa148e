"""The 8-bit half of the host unit, `csrc/gemm/gemm_fp8.cpp`, through its C interface, at each CPU level that runs here.

As in test_gemm_cpu_unit.py, every kernel call is made in guarded memory in a child process.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest

torch = pytest.importorskip("torch")

from guarded_gemm import Call, Pool  # noqa: E402
from test_gemm_cpu_unit import POISON, RUNNABLE, bits, memory, run_calls  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.reference import gemm as reference  # noqa: E402

pytestmark = pytest.mark.compile

FLAVOURS = {torch.float8_e4m3fn: 0, torch.float8_e4m3fnuz: 1}
RESULTS = {torch.bfloat16: 0, torch.float16: 1}
NAN = float("nan")


@pytest.fixture(scope="module", params=RUNNABLE)
def target(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@dataclass(frozen=True)
class Problem:
    """Operands whose rows may be strided; y's rows are `y_pad` elements further apart than they are long."""

    x: Tensor
    w: Tensor
    scale_x: Tensor
    scale_w: Tensor
    out: torch.dtype = torch.bfloat16
    bias: Tensor | None = None
    y_pad: int = 0
    pool: Pool | None = None
    num_threads: int = 1

    def call(self) -> Call:
        n, k, m = *self.x.shape, self.w.shape[0]
        stride_y = m + self.y_pad
        return Call(
            x=bytes_of(self.x),
            w=bytes_of(self.w),
            bias=None if self.bias is None else memory(self.bias),
            y=POISON * ((n - 1) * stride_y + m),
            strides=(
                self.x.stride(0),
                self.w.stride(0),
                self.bias.stride(0) if self.bias is not None and self.bias.dim() == 2 else 0,
                stride_y,
                self.scale_w.stride(0) if self.scale_w.numel() > 1 else 0,
                self.scale_x.stride(0) if self.scale_x.numel() > 1 else 0,
            ),
            sizes=(n, m, k),
            element=FLAVOURS[self.x.dtype],
            result=RESULTS[self.out],
            scales=(bytes_of(self.scale_x), bytes_of(self.scale_w)),
            pool=self.pool,
            num_threads=self.num_threads,
        )

    def exact(self) -> Tensor:
        y = self.x.double() @ self.w.double().T * reference.scales(self.x, self.scale_x, self.scale_w)
        return y if self.bias is None else y + self.bias.double()


def bytes_of(t: Tensor) -> bytes:
    """The bytes from a tensor's first element to its last, with what lies between."""
    if t.numel() == 0:
        return b""
    length = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) + 1
    return torch.as_strided(t, (length,), (1,)).view(torch.uint8).numpy().tobytes()


def matrix(rows: int, columns: int, dtype: torch.dtype, pad: int = 0) -> Tensor:
    """Random, with NaN between the rows."""
    storage = torch.full((rows, columns + pad), NAN).to(dtype)
    storage[:, :columns] = torch.randn(rows, columns).to(dtype)
    return storage[:, :columns]


def run(target: str, problems: list[Problem]) -> list[Tensor]:
    """y of each problem; nothing was written between its rows."""
    names = [f"{p.x.dtype} {p.out} {tuple(p.x.shape)} {tuple(p.w.shape)}" for p in problems]
    ys = []
    for problem, result in zip(problems, run_calls(target, [p.call() for p in problems], names), strict=True):
        assert result.status == 0
        n, m = len(problem.x), len(problem.w)
        flat = torch.frombuffer(bytearray(result.y + POISON * problem.y_pad), dtype=torch.int16).view(n, -1)
        assert bool((flat[:, m:] == int.from_bytes(POISON, "little")).all())
        ys.append(flat[:, :m].contiguous().view(problem.out))
    return ys


def assert_right(target: str, problems: list[Problem]) -> None:
    for p, y in zip(problems, run(target, problems), strict=True):
        bound = reference.scaled_error_bound(p.x, p.w, p.out, p.scale_x, p.scale_w, p.exact())
        assert bool(((y.double() - p.exact()).abs() <= bound).all()), (p.x.shape, p.w.shape)


@pytest.mark.parametrize("out", RESULTS, ids=str)
@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_every_tail_of_k_and_token_count(target: str, flavour: torch.dtype, out: torch.dtype) -> None:
    """K 1 to 67, then within a strip, at its end, and beyond; N 1 to 17; M that four does not divide."""
    torch.manual_seed(1)
    problems = []
    for index, k in enumerate((*range(1, 68), 2048, 2049, 4096 + 31)):
        n, m = index % 17 + 1, index % 11 + 1
        x, w = matrix(n, k, flavour, index % 3), matrix(m, k, flavour, (index + 1) % 4)
        scale_x, scale_w = torch.rand(1) + 0.5, (torch.rand(m if index % 2 else 1) + 0.5) * k**-0.5
        bias = [None, torch.randn(m), torch.randn(n, m + 3)[:, :m]][index % 3]
        problems.append(Problem(x, w, scale_x, scale_w, out, None if bias is None else bias.to(out), index % 5))
    assert_right(target, problems)


@pytest.mark.parametrize("out", RESULTS, ids=str)
@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_every_code_survives(target: str, flavour: torch.dtype, out: torch.dtype) -> None:
    """All 256 codes times 1, as weights and as tokens, in whole steps of K and in the tail: each is its number."""
    values = torch.arange(256, dtype=torch.int32).to(torch.uint8).view(flavour)
    one, scale = torch.ones(1, 1).to(flavour), torch.ones(1)
    at = torch.zeros(256, 97).to(flavour)
    place = torch.arange(256) % 97
    at[torch.arange(256), place] = values
    ones = torch.ones(1, 97).to(flavour)
    columns = [Problem(one, values[:, None], scale, scale, out), Problem(ones, at, scale, scale, out)]
    rows = [Problem(p.w, p.x, p.scale_x, p.scale_w, p.out) for p in columns]
    expected = values.float().to(out)
    results = run(target, [*columns, *rows])
    for y in (*(y[0] for y in results[:2]), *(y[:, 0] for y in results[2:])):
        assert torch.equal(y.isnan(), expected.isnan()) and bool(expected.isnan().any())
        assert torch.equal(y.nan_to_num(), expected.nan_to_num())


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_a_nan_stays_in_its_row(target: str, flavour: torch.dtype) -> None:
    torch.manual_seed(2)
    k = 2048 + 67
    x, w, scale = matrix(7, k, flavour, 1), matrix(9, k, flavour, 1), torch.ones(1)
    nan = torch.tensor(NAN).to(flavour)
    clean = Problem(x, w, scale, scale)
    dirty = []
    for column in (0, 17, 2047, 2048, k - 1):
        token, row = x.clone(), w.clone()
        token[3, column], row[4, column] = nan, nan
        dirty.append(Problem(token, row, scale, scale))
    expected, *others = run(target, [clean, *dirty])
    assert bool(expected.isfinite().all())
    expected[3], expected[:, 4] = NAN, NAN
    for y in others:
        torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_scales_of_any_size(target: str) -> None:
    """Also where their product, or that of a sum and one of them, overflows or is subnormal, and a zero stays zero."""
    x, w = torch.tensor([[2.0**-6], [0.0]]).to(torch.float8_e4m3fn), torch.full((2, 1), 2.0**-6).to(torch.float8_e4m3fn)
    pairs = [((100, 110), [float("inf"), 2.0**88]), ((127, -127), [2.0**-12, 2.0**115]), ((-149, 127), [2.0**-34, 0.0])]
    problems = [Problem(x, w, torch.tensor([2.0**a]), torch.tensor([2.0**b, 1.0])) for (a, b), _ in pairs]
    for y, (_, first) in zip(run(target, problems), pairs, strict=True):
        assert y.tolist() == [first, [0.0, 0.0]]


def test_a_scale_for_each_token(target: str) -> None:
    """Strided, with NaN between, and beside one for each row of the weight."""
    torch.manual_seed(5)
    problems = []
    for n in (1, 3, 5, 16):
        rows = torch.full((n, 3), NAN)
        rows[:, 0] = torch.rand(n) + 0.5
        x, w = matrix(n, 131, torch.float8_e4m3fn, 1), matrix(9, 131, torch.float8_e4m3fn, 3)
        problems += [Problem(x, w, scale, torch.rand(9)) for scale in (rows[:, 0], rows[:, :1], rows[:, 0].clone())]
    assert_right(target, problems)


@pytest.mark.parametrize("flavour", FLAVOURS, ids=str)
def test_scales_and_bias_before_the_rounding(target: str, flavour: torch.dtype) -> None:
    """1 + eps/2 is a tie that alone rounds to 1; with a bias of eps/4 it must become 1 + eps."""
    eps = torch.finfo(torch.bfloat16).eps
    x, w = torch.tensor([[1.0, 2.0**-8]]).to(flavour), torch.ones(3, 2).to(flavour)
    bias = torch.full((3,), 2 * eps / 4).bfloat16()
    halves = torch.tensor([4.0]), torch.tensor([0.5, 0.5, 0.5])
    alone, biased = run(target, [Problem(x, w, *halves), Problem(x, w, *halves, bias=bias)])
    assert alone.tolist() == [[2.0] * 3] and biased.tolist() == [[2 * (1 + eps)] * 3]


def test_bits_do_not_depend_on_threads_or_strides(target: str) -> None:
    torch.manual_seed(3)
    flavour = torch.float8_e4m3fn
    x, w = matrix(5, 2113, flavour, 1), matrix(61, 2113, flavour, 3)
    first = Problem(x, w, torch.rand(1), torch.rand(61))
    others = [replace(first, pool=Pool(chunks), num_threads=threads) for chunks in (2, 7) for threads in (2, 3, 64)]
    others.append(replace(first, x=x.clone(memory_format=torch.contiguous_format), y_pad=4))
    expected, *results = run(target, [first, *others])
    assert all(torch.equal(bits(expected), bits(y)) for y in results)
