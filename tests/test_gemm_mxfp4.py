"""GEMMs of MXFP4 weights on a CPU and emulated on both AMD targets with all sanitizers: held to float64, the same bits
in every layout, and nothing read beside the operands, which have NaN between their rows and in padding of scales."""

from __future__ import annotations

import difflib
import functools
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_mxfp4_cases import Case, assert_near, operands, poisoned, run, shuffled_scale  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from torch_threads import bits_do_not_depend_on_threads  # noqa: E402

from aiterlite import dispatch, gemm  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import gemm_mxfp4 as ops  # noqa: E402
from aiterlite.ops import gemm_mxfp4_operators as operators  # noqa: E402
from aiterlite.ops.shuffle import shuffle_weight  # noqa: E402
from aiterlite.reference import gemm_mxfp4 as reference  # noqa: E402
from aiterlite.reference import mxfp4  # noqa: E402
from aiterlite.tables import gemm_mxfp4 as tables  # noqa: E402
from aiterlite.tables import gemm_mxfp4_amd as amd  # noqa: E402
from aiterlite.tables import gemm_mxfp4_sm90 as sm90  # noqa: E402
from aiterlite.tables import problems  # noqa: E402
from aiterlite.tables.gemm_mxfp4_problem import LAYS, MxGemmProblem  # noqa: E402
from aiterlite.tables.mx_types import MxScaleRoundMode  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
GOLDEN = Path(__file__).with_name("golden") / "gemm_mxfp4.txt"
where = pytest.mark.parametrize("target", ["cpu", *AMD])


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# What every target takes ----------------------------------------------------------------------------------------------

# K of the contract and K that is no whole step; parts of tiles; K that is split; both 16-bit types, packed tokens.
CASES = [
    Case(3, 80, 384, "bf16", pad=16, bias="fp32", factors=(0.5, 2.0)),
    Case(17, 40, 224, "fp4", "fp16", lying="columns", bias="result"),
    Case(2, 16, 1664, "fp16", "fp32", lying="columns"),
]


@where
@pytest.mark.parametrize("number", range(len(CASES)))
def test_products(number: int, target: str) -> None:
    with on(target):
        run(CASES[number], seed=number)


@where
def test_batches(target: str) -> None:
    """Of x whose first dimension is tokens, into a result of either order."""
    made = operands(Case(3, 24, 128), 4, batch=2)
    x = made.x.transpose(0, 1).contiguous().transpose(0, 1)
    with on(target):
        got = gemm.batched_gemm_a16wfp4(x, made.w, made.w_scale, transpose_bm=True, prequant=False)
        out = poisoned((2, 3, 24), torch.bfloat16, "cpu", 16)
        assert gemm.batched_gemm_a16wfp4(x, made.w, made.w_scale, y=out, prequant=False) is out
    assert_near(out, made.exact, made.magnitude)
    assert torch.equal(got.transpose(0, 1), out)


@where
def test_special_numbers(target: str) -> None:
    """A NaN or an infinity is that of its token or row; scales of the least, the greatest and NaN."""
    n, m, k = 9, 36, 256
    made = operands(Case(n, m, k), 3)
    x, w, w_scale = made.x.clone(), made.w.clone(), made.w_scale.clone()
    x[3, 255] = torch.nan
    x[5, :32], w[:, :16] = torch.inf, 0x11
    x[7] = 2.0**-130
    w_scale[35, 4], w_scale[34, :], w_scale[33, 1] = 255, 0, 127 + 60
    with on(target):
        got = gemm.gemm_a16wfp4(x, w, w_scale)
    wanted = torch.zeros(n, m, dtype=torch.bool)
    wanted[3] = wanted[:, 35] = True
    assert torch.equal(got.isnan(), wanted)
    assert bool(got[5, :34].isinf().all())
    exact, magnitude = reference.product(x, mxfp4.dequantise(w, w_scale))
    kept = [0, 1, 2, 4, 6, 8]
    assert_near(got[kept][:, :34], exact[kept][:, :34], magnitude[kept][:, :34])


def test_nothing_to_multiply() -> None:
    for n, m, k in ((0, 16, 256), (3, 0, 256), (3, 16, 0)):
        x, w = torch.zeros(n, k, dtype=torch.bfloat16), torch.zeros(m, k // 2, dtype=torch.uint8)
        scale = torch.full((m, k // 32), 127, dtype=torch.uint8)
        y = gemm.gemm_a16wfp4(x, w, scale)
        assert y.shape == (n, m) and not y.any()
        bias = torch.arange(m, dtype=torch.float32)
        y = ops.FORWARD(x, w, None, scale, bias, torch.bfloat16, 1.0, 0.5)
        assert torch.equal(y, (0.5 * bias).bfloat16().expand(n, m) if k == 0 else y)


# On a CPU -------------------------------------------------------------------------------------------------------------


# More tokens than a tile of AMX, a panel, a chunk.
SIZES = [
    Case(1, 96, 128),
    Case(33, 160, 384, "fp4", "fp16", pad=1, bias="fp32"),
    Case(600, 18, 96, "bf16", "fp32", pad=2, bias="result"),
    Case(5, 288, 7168, "fp16", pad=6),
    Case(2, 7, 32, "fp4", "fp16", pad=4, bias="fp32"),
]


@pytest.mark.parametrize("number", range(len(SIZES)))
def test_sizes_of_every_kind_on_a_cpu(number: int) -> None:
    run(SIZES[number], seed=number)


def test_the_bits_do_not_depend_on_threads() -> None:
    made = operands(Case(20, 400, 1024), 1)
    assert bits_do_not_depend_on_threads(lambda: gemm.gemm_a16wfp4(made.x, made.w, made.w_scale))


@pytest.mark.parametrize("number", range(3))
def test_what_torch_computes_in_a_kernel_s_place(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """sm_90's other row, in every layout: as the definition says."""
    only = replace(sm90.DENSE_ROW, requires=())
    monkeypatch.setattr(tables, "TABLE", replace(tables.TABLE, rows=(only,)))
    case = [Case(5, 48, 384), Case(9, 32, 256, "fp4", "fp16", bias="fp32", factors=(0.5, 2.0)), Case(3, 7, 32, "fp16")][
        number
    ]
    made = operands(case, number)
    for prepared in (ops.FORWARD.prepared, ops.OUT.prepared):
        monkeypatch.setattr(prepared, "find", lambda _: None)
    run(case, seed=number)
    if number == 0:
        x, w, scale = (t[None].expand(2, *t.shape) for t in (made.x, made.w, made.w_scale))
        got = gemm.batched_gemm_a16wfp4(x, w, scale, transpose_bm=True, prequant=False)
        assert_near(got[:, 1], made.exact, made.magnitude)


# Plans ----------------------------------------------------------------------------------------------------------------


def random_problem(source: random.Random) -> MxGemmProblem:
    k = 64 * source.choice([1, 2, 3, 16, 56, source.randint(1, 300)])
    return MxGemmProblem(
        source.choice([1, 8, 9, 16, 64, 65, 4096, source.randint(1, 70000)]),
        16 * source.choice([1, 2, 7, 132, 448, 1536, source.randint(1, 9000)]),
        k,
        source.choice(["bf16", "fp16", "fp4"]),
        source.choice(["bf16", "fp16", "fp32"]),
        source.random() < 0.5,
        source.choice(LAYS if k % 256 == 0 else LAYS[1:]),
        batch=source.choice([1, 1, 16]),
    )


def test_a_hopper_takes_every_launch() -> None:
    """Shared memory, threads and registers are what it has room for, and the cut does not depend on layouts."""
    source = random.Random(1)
    for units in (132, 114, 16, 1):
        persona = replace(resolve("h200"), cu_count=units)
        for _ in range(40):
            problem = random_problem(source)
            decision = dispatch.decide(tables.TABLE, problem, persona)
            assert decision.row is not None, decision
            if problem.n > sm90.MOST_TOKENS:
                assert decision.row.name == "dequantised" and not decision.kernels
                continue
            plan, (kernel,) = decision.plan, decision.kernels
            cut, steps = plan.cut, -(-problem.k // 256)
            assert plan.shared_bytes <= 227 << 10 and plan.block <= 1024 and cut.registers <= cut.room_for_registers(1)
            assert cut.cluster <= steps and cut.stages % cut.turns == 0 and cut.stages >= 2 * cut.turns
            assert cut.cols * cut.parts * cut.fold <= 128 and (cut.parts == 2) == (problem.x == "fp16")
            assert cut.fits_sums
            assert kernel.grid[0] == plan.grid < 1 << 31 and plan.grid % cut.cluster == 0
            other = replace(problem, shuffled=not problem.shuffled, w_scale="shuffled")
            assert sm90.plan(other, persona) == plan


@pytest.mark.parametrize("chip", ["mi300x", "mi308x", "mi355x", "mi300x:38"])
def test_splits_cover_k_on_amd(chip: str) -> None:
    source, persona = random.Random(2), resolve(chip)
    for _ in range(40):
        problem = random_problem(source)
        plan, steps = amd.plan(problem, persona), -(-problem.k // 128)
        assert plan.splits * plan.split_steps >= steps > (plan.splits - 1) * plan.split_steps
        tiles = -(-problem.m // plan.rows) * -(-problem.n // plan.tokens) * problem.batch
        assert plan.grid == tiles * plan.splits < 1 << 31


SPILLS = [MxGemmProblem(4, 2112, 7168), MxGemmProblem(64, 7168, 16384, "fp4", shuffled=True, w_scale="shuffled")]


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("gfx950", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for problem in SPILLS:
        for kernel in dispatch.decide(tables.TABLE, problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"


def golden_text() -> str:
    """What every chip takes of the table's own problems."""
    lines = []
    for chip in ("mi300x", "mi308x", "mi355x", "h200", "cpu"):
        for problem in problems.sweep(tables.TABLE):
            decision = dispatch.decide(tables.TABLE, problem, resolve(chip))
            plan = vars(decision.plan) if decision.plan is not None else {}
            words = " ".join(f"{key}={value}" for key, value in plan.items())
            sizes = " ".join(f"{key}={getattr(problem, key)}" for key in ("n", "m", "k", "x"))
            lines.append(f"{chip} {sizes}: {decision.row.name if decision.row else None} {words}".rstrip())
    return "\n".join(lines) + "\n"


def test_decisions_are_the_golden_ones() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", n=0, lineterm=""))
    assert not difference, "\n".join(["`python tests/test_gemm_mxfp4.py` writes these anew:", *difference])


def test_the_table_refuses_in_words() -> None:
    def said(chip: str, **given: Any) -> str:
        problem = MxGemmProblem(**tables.TABLE.derive({"n": 1, "m": 64, "k": 256, **given}))
        return str(dispatch.decide(tables.TABLE, problem, resolve(chip)))

    assert "no multiple of 32 (pad x and w with zeros)" in said("mi300x", k=272)
    assert "shuffled weights of m 72" in said("cpu", m=72, shuffled=True)
    assert "(copy them)" in said("h200", aligned=False) and "(copy them)" in said("mi300x", aligned=False)


# The public names -----------------------------------------------------------------------------------------------------

_INTO = "dtype=torch.bfloat16, y=None, config=None"
_A4W4 = "bias=None, dtype=torch.bfloat16, alpha=1.0, beta=0.0, bpreshuffle=True, apreshuffle=False"
SIGNATURES = {
    "gemm_a4w4": f"A, B, A_scale, B_scale, {_A4W4}, global_A_scale=None, global_B_scale=None",
    "gemm_a4w4_asm": "A, B, A_scale, B_scale, out, kernelName=, bias=None, alpha=1.0, beta=0.0, bpreshuffle=True, "
    "log2_k_split=None",
    "gemm_a4w4_blockscale": "XQ, WQ, x_scale, w_scale, Out, splitK=0, kernelName=",
    "gemm_afp4wfp4": f"x, w, x_scales, w_scales, {_INTO}, skip_reduce=False",
    "gemm_afp4wfp4_preshuffle": f"x_fp4, w_preshuf, x_scales, w_scales, {_INTO}, skip_reduce=False",
    "gemm_a16wfp4": f"x, w, w_scales, atomic_add=False, {_INTO}",
    "gemm_a16wfp4_preshuffle": f"x, w, w_scales, prequant=True, {_INTO}, skip_reduce=False",
    "gemm_afp4wfp4_pre_quant": f"x, w, w_scales, {_INTO}",
    "batched_gemm_a16wfp4": f"x, w, w_scales, {_INTO}, transpose_bm=False, prequant=True, y_scale=None",
    "batched_gemm_afp4wfp4_pre_quant": f"x, w, w_scales, {_INTO}",
}


def test_signatures_are_upstream_s() -> None:
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(gemm, name)).parameters.values()
        assert ", ".join(f"{p.name}{'' if p.default is p.empty else f'={p.default}'}" for p in parameters) == wanted


def test_both_orders_of_a4w4() -> None:
    """The former one has the result fifth. Leading dimensions are kept; factors and bias are honoured; a bias that is
    given is added whatever beta's default."""
    made = operands(Case(6, 32, 256, "fp4"), 2)
    assert made.x_scale is not None
    b, a_scale, b_scale = shuffle_weight(made.w), shuffled_scale(made.x_scale), shuffled_scale(made.w_scale)
    bias = torch.randn(1, 32)
    numbers = mxfp4.dequantise(made.x, made.x_scale), mxfp4.dequantise(made.w, made.w_scale)

    def near(got: Any, bias: Any, alpha: float, beta: float) -> None:
        assert_near(got, *reference.product(*numbers, bias, alpha, beta))

    plain = gemm.gemm_a4w4(made.x.view(2, 3, 128), b, a_scale, b_scale)
    assert plain.shape == (2, 3, 32)
    near(plain.view(6, 32), None, 1.0, 1.0)
    near(gemm.gemm_a4w4(made.x, b, a_scale, b_scale, bias, torch.float32, 2.0, 0.5), bias, 2.0, 0.5)
    near(gemm.gemm_a4w4(made.x, b, a_scale, b_scale, bias), bias, 1.0, 1.0)
    near(gemm.gemm_a4w4(made.x, made.w, a_scale, b_scale, bpreshuffle=False), None, 1.0, 1.0)
    out = poisoned((32, 32), torch.bfloat16, "cpu")
    assert gemm.gemm_a4w4(made.x, b, a_scale, b_scale, out) is out
    near(out[:6], None, 1.0, 1.0)
    former: Any = (out, bias, 3.0, 1.0, False)
    assert gemm.gemm_a4w4(made.x, made.w, a_scale, b_scale, *former) is out
    near(out[:6], bias, 3.0, 1.0)
    assert bool((out[6:].view(torch.int16) == 0x7F7F).all())
    assert gemm.gemm_a4w4_asm(made.x, b, a_scale, b_scale, out, alpha=0.5) is out
    near(out[:6], None, 0.5, 1.0)
    assert gemm.gemm_a4w4_blockscale(made.x, b, a_scale, b_scale, out, 3) is out
    assert torch.equal(out[:6], plain.view(6, 32))


@pytest.mark.parametrize("n", [1, 6])
def test_a_bias_of_the_former_result_s_kind_is_added(n: int) -> None:
    """16-bit [M, N]: by its name, or beside a dtype, it is no memory to write to."""
    made = operands(Case(n, 32, 256, "fp4"), 2)
    assert made.x_scale is not None
    a_scale, b_scale = shuffled_scale(made.x_scale), shuffled_scale(made.w_scale)
    call = functools.partial(gemm.gemm_a4w4, made.x, shuffle_weight(made.w), a_scale, b_scale)
    numbers = mxfp4.dequantise(made.x, made.x_scale), mxfp4.dequantise(made.w, made.w_scale)
    bias = torch.randn(n, 32).bfloat16()
    given, wanted = bias.clone(), reference.product(*numbers, bias)
    for got in (call(bias=given), call(given, torch.bfloat16), call(given, dtype=torch.bfloat16)):
        assert_near(got, *wanted)
        assert torch.equal(given, bias)
    out = poisoned((n, 32), torch.bfloat16, "cpu")
    former: Any = (out, torch.randn(1, 32))
    assert call(*former) is out
    assert_near(out, *reference.product(*numbers, former[1]))
    with pytest.raises(RuntimeError, match="'dtype'"):
        call(None, "bf16")


def test_no_token_and_no_product() -> None:
    """Of forms that quantise x, too."""
    for batch, n, k in ((2, 0, 64), (0, 3, 64), (2, 3, 0)):
        x = torch.zeros(batch, n, k).bfloat16()
        w, scale = (torch.zeros(batch, 16, k // size, dtype=torch.uint8) for size in (2, 32))
        got = gemm.batched_gemm_a16wfp4(x, w, scale)
        assert got.shape == (batch, n, 16) and not got.any()
    none = torch.zeros(0, 64).bfloat16()
    w, scale = (torch.zeros(16, 64 // size, dtype=torch.uint8) for size in (2, 32))
    assert gemm.gemm_afp4wfp4_pre_quant(none, w, scale).shape == (0, 16)


@pytest.mark.parametrize("n", [5, 40])
def test_triton_s_forms(n: int) -> None:
    """Plain, shuffled and quantising; y in each of the forms; scales of few tokens are plain."""
    m, k = 64, 256
    made = operands(Case(n, m, k, "fp4"), n)
    assert made.x_scale is not None
    wanted = gemm.gemm_afp4wfp4(made.x, made.w, made.x_scale, made.w_scale)
    assert_near(wanted, made.exact, made.magnitude)
    w, w_scale = shuffle_weight(made.w).view(m // 16, 8 * k), shuffled_scale(made.w_scale).view(-1, k)
    x_scale = made.x_scale if n < 32 else shuffled_scale(made.x_scale).view(-1, k)
    assert torch.equal(gemm.gemm_afp4wfp4_preshuffle(made.x, w, x_scale, w_scale[: m // 32]), wanted)
    x = torch.randn(n, k).bfloat16()
    codes, scale = mxfp4.quantise(x, MxScaleRoundMode.Even)
    wanted = gemm.gemm_afp4wfp4(codes, made.w, scale, made.w_scale)
    for dtype in (torch.float16, torch.float32):
        y = poisoned((n, m), dtype, "cpu")
        assert gemm.gemm_afp4wfp4_pre_quant(x, made.w, made.w_scale, y=y) is y
        assert_near(y, wanted.double(), (4 * wanted.double()).abs() * 2**12)
    assert torch.equal(gemm.gemm_afp4wfp4_pre_quant(x, made.w, made.w_scale), wanted)
    assert torch.equal(gemm.gemm_a16wfp4_preshuffle(x, w, w_scale), wanted)
    kept = gemm.gemm_a16wfp4_preshuffle(x, w, w_scale, prequant=False)
    assert torch.equal(kept, gemm.gemm_a16wfp4(x, made.w, made.w_scale))
    batch = x[None].expand(1, n, k)
    got = gemm.batched_gemm_afp4wfp4_pre_quant(batch, made.w[None], made.w_scale[None])
    assert torch.equal(got[0], wanted)


X, W = torch.zeros(4, 256).bfloat16(), torch.zeros(32, 128, dtype=torch.uint8)
S, P = torch.full((32, 8), 127, dtype=torch.uint8), torch.zeros(4, 128, dtype=torch.uint8)
T = torch.full((256, 8), 127, dtype=torch.uint8)
_Call = Callable[[], Any]


def _a16(x: Any = X, w: Any = W, s: Any = S, **rest: Any) -> _Call:
    return lambda: gemm.gemm_a16wfp4(x, w, s, **rest)


def _a4(a: Any = P, b: Any = W, a_scale: Any = T, b_scale: Any = T, *rest: Any, **named: Any) -> _Call:
    return lambda: gemm.gemm_a4w4(a, b, a_scale, b_scale, *rest, **named)


REFUSED: dict[str, _Call] = {
    "x` is of dtype torch.float32": _a16(X.float()),
    "w` is of dtype torch.bfloat16": _a16(w=X),
    r"w` is of shape \[32, 64\]; allowed: \[N, 128\]": _a16(w=W[:, :64]),
    "x` is of K 40; allowed: a multiple of 32. Pad": _a16(X[:, :40], W[:, :20], S[:, :1]),
    r"x` is of strides \[1, 4\]": _a16(X.view(256, 4).T),
    r"w_scale` is of shape \[32, 7\]; allowed: \[32, 8\]": _a16(s=S[:, :7]),
    "w_scale` is of dtype torch.float32": _a16(s=S.float()),
    "dtype` is torch.float64; allowed: torch.bfloat16": _a16(dtype=torch.float64),
    r"y` is of shape \[4, 31\]; allowed: \(4, 32\)|y` is of shape \[4, 31\]; allowed: \[4, 32\]": _a16(
        y=torch.zeros(4, 31).bfloat16()
    ),
    r"y` is of strides \[0, 1\].*do not overlap": _a16(y=torch.zeros(1, 32).bfloat16().expand(4, 32)),
    "x_scale` is None; allowed: the scales of x": lambda: ops.FORWARD(P, W, None, S, None, torch.bfloat16, 1.0, 0.0),
    "x_scale` is a tensor; allowed: None": lambda: ops.FORWARD(X, W, S, S, None, torch.bfloat16, 1.0, 0.0),
    r"w` is of shape \[31, 128\].*N a multiple of 16.*Pad": _a4(b=W[:31]),
    r"w_scale` is of shape \[31, 8\]; allowed: \[rows, blocks\], multiples of 32 and 8": _a4(b_scale=T[:31]),
    r"w_scale` is of shape \[0, 8\]; allowed: at least \[32, 8\]": _a4(b_scale=T[:0]),
    "A_scale` is None; allowed: a tensor": _a4(a_scale=None),
    "apreshuffle` is True; allowed: False": _a4(apreshuffle=True),
    "global_A_scale` is a tensor; allowed: None": _a4(global_A_scale=T),
    r"bias` is of shape \[31\]; allowed: \[32\]": _a4(bias=torch.zeros(31)),
    r"out` is of shape \[3, 32\]; allowed: \[4 or more, N\]": lambda: gemm.gemm_a4w4_asm(
        P, W, T, T, torch.zeros(3, 32).bfloat16()
    ),
    "A` is of no dimension": _a4(P[0, 0]),
    "x` is of no dimension": lambda: gemm.gemm_afp4wfp4_pre_quant(X[0, 0], W, S),
    "y_scale` is a tensor; allowed: None": lambda: gemm.batched_gemm_a16wfp4(X[None], W[None], S[None], y_scale=S),
    "x` is of dtype torch.uint8.*Call gemm_afp4wfp4": lambda: gemm.gemm_afp4wfp4_pre_quant(P, W, S),
    r"w` is of shape \[2, 8\]; allowed: \[N / 16, 8 K\]": lambda: gemm.gemm_a16wfp4_preshuffle(
        X, W[:2, :8].contiguous(), S
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.FORWARD.mutates == () and ops.OUT.mutates == ("y",)
    with torch.device("meta"):
        y = operators.gemm_a16wfp4(
            torch.empty(3, 256, dtype=torch.float16),
            torch.empty(48, 128, dtype=torch.uint8),
            torch.empty(48, 8, dtype=torch.uint8),
        )
    assert y.is_meta and y.shape == (3, 48) and y.dtype == torch.bfloat16
    args = (torch.zeros(4, 32).bfloat16(), X, W, None, S, None, 1.0, 0.0)
    torch.library.opcheck(ops.OUT.overload, args, test_utils="test_faketensor")


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
