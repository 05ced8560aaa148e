"""GEMMs of 8-bit floats on a CPU and emulated on both AMD targets with all sanitizers: held to float64, the same bits
with shuffled weights, and nothing read beside the operands, which have NaN between their rows."""

from __future__ import annotations

import difflib
import inspect
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_a8w8_cases import (  # noqa: E402
    Batch,
    Case,
    blockscale_operands,
    poisoned,
    run_batched,
    run_blockscale,
    run_rowscale,
)
from gemm_operands import AMD, on  # noqa: E402
from torch_threads import bits_do_not_depend_on_threads  # noqa: E402

from aiterlite import dispatch, gemm  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.kernel import Operand  # noqa: E402
from aiterlite.ops import gemm_a8w8 as ops  # noqa: E402
from aiterlite.ops import gemm_a8w8_batched as batched  # noqa: E402
from aiterlite.ops.shuffle import shuffle_weight  # noqa: E402
from aiterlite.tables import gemm_a8w8 as tables  # noqa: E402
from aiterlite.tables import gemm_a8w8_amd as amd  # noqa: E402
from aiterlite.tables import gemm_a8w8_sm90 as sm90  # noqa: E402
from aiterlite.tables import problems  # noqa: E402
from aiterlite.tables.gemm_a8w8_problem import (  # noqa: E402
    A8w8Problem,
    BatchedProblem,
    BlockScaleProblem,
    RowScaleProblem,
)
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
OCP, FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
GOLDEN = Path(__file__).with_name("golden") / "gemm_a8w8.txt"
FLAVOUR = {"cpu": OCP, "gfx942": FNUZ, "gfx950": OCP}
where = pytest.mark.parametrize("target", ["cpu", *AMD])


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# What every target takes ----------------------------------------------------------------------------------------------

# Rows and tokens beside whole tiles; one of each; K that is split; all sizes of tiles of tokens.
CASES = [
    Case(3, 144, 384, pad=16, lying="columns"),
    Case(1, 1, 128, "fp16"),
    Case(5, 130, 1024, pad=32),
    Case(17, 272, 256, "fp16", lying="columns"),
    Case(70, 66, 256, pad=16),
]


@where
@pytest.mark.parametrize("number", range(len(CASES)))
def test_scales_of_blocks(number: int, target: str) -> None:
    with on(target):
        run_blockscale(CASES[number], FLAVOUR[target], seed=number)


@where
def test_scales_of_rows(target: str) -> None:
    with on(target):
        run_rowscale(Case(3, 144, 512, pad=16, bias=True), FLAVOUR[target])
        run_rowscale(Case(33, 70, 256, "fp16", one_scale=True), FLAVOUR[target], seed=1)


@where
@pytest.mark.parametrize("first", [(True, False), (False, True)])
def test_absorbed_projections(first: tuple[bool, bool], target: str) -> None:
    with on(target):
        run_batched(Batch(3, 5, 72, 128, pad=64, first=first), FLAVOUR[target])
        run_batched(Batch(2, 2, 33, 256, "fp16", first=first, bias=True), FLAVOUR[target], seed=1)


@where
def test_a_nan_is_that_of_its_token_or_row(target: str) -> None:
    fp8 = FLAVOUR[target]
    x, w, x_scale, w_scale = blockscale_operands(Case(9, 100, 384, pad=16), fp8)
    nan = 0x7F if fp8 == OCP else 0x80
    x.view(torch.uint8)[3, 383] = w.view(torch.uint8)[99, 0] = nan
    x_scale[5, 1] = torch.nan
    with on(target):
        got = gemm.gemm_a8w8_blockscale(x, w, x_scale, w_scale)
    expected = torch.zeros(9, 100, dtype=torch.bool)
    expected[3] = expected[5] = expected[:, 99] = True
    assert torch.equal(got.isnan(), expected)


@where
def test_nothing_to_multiply(target: str) -> None:
    fp8 = FLAVOUR[target]
    with on(target):
        for n, m, k in ((0, 16, 256), (3, 0, 256), (3, 16, 0)):
            x, w = torch.zeros(n, k).to(fp8), torch.zeros(m, k).to(fp8)
            x_scale, w_scale = torch.ones(n, -(-k // 128)), torch.ones(-(-m // 128), -(-k // 128))
            y = gemm.gemm_a8w8_blockscale(x, w, x_scale, w_scale)
            assert y.shape == (n, m) and not y.any()
            out = poisoned((n, m), torch.bfloat16, "cpu")
            assert not gemm.gemm_a8w8_blockscale_bpreshuffle(x, w, x_scale, w_scale, out=out).any()
            bias = torch.arange(m, dtype=torch.bfloat16)
            y = gemm.gemm_a8w8(x, w, torch.ones(n, 1), torch.ones(m, 1), bias)
            assert y.shape == (n, m) and torch.equal(y, bias.expand(n, m) if k == 0 else y)
        call = gemm.batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant
        x, w, bias = torch.zeros(3, 2, 0).bfloat16(), torch.zeros(3, 4, 0).to(fp8), torch.ones(3, 1, 4).bfloat16()
        assert torch.equal(call(x, w, torch.ones(1), bias=bias), bias.expand(3, 2, 4))
        assert call(x[:0], w[:0], torch.ones(1)).shape == (0, 2, 4)


def test_sizes_of_every_kind_on_a_cpu() -> None:
    """K of any length, rows at any address, more tokens than a chunk or a panel, and both flavours."""
    source = random.Random(3)
    for number, (n, m, k) in enumerate([(2, 130, 70), (600, 18, 130), (33, 5, 7), (129, 48, 416), (1, 300, 2048)]):
        fp8, dtype = source.choice((OCP, FNUZ)), source.choice(("bf16", "fp16"))
        run_blockscale(Case(n, m, k, dtype, pad=number, lying=source.choice(("rows", "columns"))), fp8, seed=number)
        run_rowscale(Case(n, m, k, dtype, pad=number, bias=number % 2 == 0), fp8, seed=number)
    run_batched(Batch(40, 30, 20, 128, first=(True, True)), FNUZ)
    run_batched(Batch(2, 700, 16, 128, "fp16", first=(False, False), bias=True), OCP)


def test_the_bits_do_not_depend_on_threads() -> None:
    operands = blockscale_operands(Case(40, 400, 1024), OCP)
    assert bits_do_not_depend_on_threads(lambda: gemm.gemm_a8w8_blockscale(*operands))


def test_the_bits_do_not_depend_on_the_tokens_beside_one() -> None:
    operands = blockscale_operands(Case(40, 400, 1024), OCP)
    x, w, x_scale, w_scale = operands
    alone = gemm.gemm_a8w8_blockscale(x[7:8], w, x_scale[7:8], w_scale)
    assert torch.equal(alone, gemm.gemm_a8w8_blockscale(*operands)[7:8])


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", AMD)
def test_every_split_of_k_on_amd(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last split may be shorter, and a step alone; sums of splits come together in order."""
    table = tables.BLOCKSCALE_TABLE
    for n, steps, split_steps, rows in ((3, 5, 2, 64), (18, 5, 4, 128), (40, 3, 1, 256)):
        splits, tokens = -(-steps // split_steps), next(t for t in (16, 32, 64) if t >= n)
        plan = amd.Plan(tokens, rows, splits, split_steps, -(-72 // rows) * splits)
        by_plan = [replace(row, plan=lambda *_, plan=plan: plan) for row in table.rows]
        monkeypatch.setattr(tables, "BLOCKSCALE_TABLE", replace(table, rows=tuple(by_plan)))
        with on(target):
            run_blockscale(Case(n, 72, 128 * steps), FLAVOUR[target], seed=n)


def random_problem(source: random.Random) -> A8w8Problem:
    sizes = {
        "n": source.choice([1, 8, 9, 16, 100, 128, 129, 4096, source.randint(1, 70000)]),
        "m": 16 * source.choice([1, 2, 7, 132, 448, 1536, source.randint(1, 9000)]),
        "k": 128 * source.choice([1, 2, 3, 16, 56, source.randint(1, 300)]),
        "dtype": source.choice(["bf16", "fp16"]),
    }
    kind = source.choice([BlockScaleProblem, RowScaleProblem, BatchedProblem])
    if kind is BatchedProblem:
        return BatchedProblem(**sizes, batch=source.choice([1, 16, 128]), tokens_first=source.random() < 0.5)
    return kind(**sizes, shuffled=source.random() < 0.5)


def table_of(problem: A8w8Problem) -> dispatch.Table:
    of = {BlockScaleProblem: tables.BLOCKSCALE_TABLE, RowScaleProblem: tables.ROWSCALE_TABLE}
    return of.get(type(problem), tables.BATCHED_TABLE)


def test_a_hopper_takes_every_launch() -> None:
    """Shared memory, threads, boxes and strides are what it has room for; a ring's stages are read in turn; and the cut
    does not depend on how weights lie."""
    source = random.Random(1)
    for units in (132, 114, 16, 1):
        persona = replace(resolve("h200"), cu_count=units)
        for _ in range(60):
            problem = random_problem(source)
            decision = dispatch.decide(table_of(problem), problem, persona)
            assert decision.row is not None, decision
            plan, kernel = decision.plan, decision.kernels[-1]
            cut = plan.cut
            assert plan.shared_bytes <= 227 << 10 and plan.block <= 1024 and cut.stages >= 2
            assert cut.stages % cut.turns == 0 and cut.cluster <= -(-problem.k // 128)
            assert kernel.grid[0] == plan.grid and plan.grid % cut.cluster == 0 and kernel.grid[0] < 1 << 31
            for made in kernel.maps:
                assert all(1 <= size <= 256 for size in made.box)
                assert made.box[0] == 128 if made.swizzle_bytes else made.box[0] == 256
            if isinstance(problem, BatchedProblem):
                continue
            other = replace(problem, shuffled=not problem.is_shuffled)
            assert sm90.plan(other, persona) == plan


def test_columns_alone_choose_the_cut_of_few_tokens() -> None:
    persona = resolve("h200")
    for first, last in ((1, 8), (9, 16), (17, 32), (33, 64), (65, 128)):
        plans = {sm90.plan(BlockScaleProblem(n, 2112, 7168), persona) for n in (first, (first + last) // 2, last)}
        assert len(plans) == 1


@pytest.mark.parametrize("chip", ["mi300x", "mi308x", "mi355x", "mi300x:38"])
def test_splits_cover_k_on_amd(chip: str) -> None:
    source, persona = random.Random(2), resolve(chip)
    for _ in range(60):
        problem = random_problem(source)
        plan, steps = amd.plan(problem, persona), problem.k // 128
        assert plan.splits * plan.split_steps >= steps > (plan.splits - 1) * plan.split_steps
        tiles = -(-problem.m // plan.rows) * -(-problem.n // plan.tokens) * problem.batches
        assert plan.grid == tiles * plan.splits < 1 << 31
        need = amd.workspace(problem, persona, plan)
        for kernel in amd.kernels(problem, persona, plan):
            partial = kernel.args.get("partial", 0)
            if isinstance(partial, Operand):
                rows = plan.splits * problem.n * problem.batches
                assert need is not None and partial.offset + 4 * rows * int(kernel.args["pitch"]) == need.total


SPILLS = [
    (BlockScaleProblem(16, 2112, 7168), "mfma"),
    (BlockScaleProblem(64, 24576, 7168, shuffled=True), "mfma"),
    (BlockScaleProblem(8, 2112, 7168), "wgmma"),
    (RowScaleProblem(128, 24576, 1536), "wgmma"),
]


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for problem, row in SPILLS:
        if (row == "wgmma") != (chip == "sm_90a"):
            continue
        for kernel in dispatch.decide(table_of(problem), problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"


def golden_text() -> str:
    """What every chip takes of the tables' own problems."""
    lines = []
    for chip in ("mi300x", "mi308x", "mi355x", "h200"):
        for table in tables.FAMILY.tables:
            name = table.op if len(table.op) < 30 else "batched"
            for problem in problems.sweep(table):
                decision = dispatch.decide(table, problem, resolve(chip))
                plan = " ".join(f"{key}={value}" for key, value in vars(decision.plan).items())
                sizes = " ".join(f"{key}={getattr(problem, key)}" for key in ("n", "m", "k"))
                lines.append(f"{chip} {name} {sizes}: {decision.row.name if decision.row else None} {plan}")
    return "\n".join(lines) + "\n"


def test_decisions_are_the_golden_ones() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", n=0, lineterm=""))
    assert not difference, "\n".join(["`python tests/test_gemm_a8w8.py` writes these anew:", *difference])


# The public names -----------------------------------------------------------------------------------------------------

_CODES, _ROWS = "XQ, WQ, x_scale, w_scale", "bias=None, dtype=torch.bfloat16"
SIGNATURES = {
    "batched_gemm_bf16": "XQ, WQ, bias=None, dtype=torch.bfloat16, splitK=None, YQ=None, config=None",
    "batched_gemm_bf16_CK": "XQ, WQ, bias=None, dtype=torch.bfloat16, splitK=None",
    "gemm_a8w8_blockscale": f"{_CODES}, dtype=torch.bfloat16, isBpreshuffled=False",
    "gemm_a8w8_blockscale_bpreshuffle": f"{_CODES}, dtype=torch.bfloat16, out=None",
    "gemm_a8w8": f"{_CODES}, {_ROWS}, splitK=None",
    "gemm_a8w8_CK": f"{_CODES}, {_ROWS}, splitK=None",
    "gemm_a8w8_bpreshuffle": f"{_CODES}, {_ROWS}",
    tables.BATCHED: "X, WQ, w_scale, group_size=128, bias=None, dtype=torch.bfloat16, splitK=None, YQ=None, "
    "transpose_bm=False, transpose_bm_in=False, config=None",
}


def test_signatures_are_upstream_s() -> None:
    assert {name for name in gemm.__all__ if "fp4" not in name and "a4w4" not in name} == set(SIGNATURES)
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(gemm, name)).parameters.values()
        assert ", ".join(f"{p.name}{'' if p.default is p.empty else f'={p.default}'}" for p in parameters) == wanted


X, W = torch.zeros(4, 256).to(OCP), torch.zeros(32, 256).to(OCP)
XS, WS, ROW, COLUMN = torch.ones(4, 2), torch.ones(1, 2), torch.ones(4, 1), torch.ones(32, 1)
HIDDEN, HEADS, ONE = torch.zeros(4, 2, 256).bfloat16(), torch.zeros(2, 32, 256).to(OCP), torch.ones(1)


def _blocks(x: Any = X, w: Any = W, x_scale: Any = XS, w_scale: Any = WS, **rest: Any) -> Callable[[], Any]:
    return lambda: gemm.gemm_a8w8_blockscale(x, w, x_scale, w_scale, **rest)


def _shuffled(x: Any = X, w: Any = W, x_scale: Any = XS, w_scale: Any = WS, **rest: Any) -> Callable[[], Any]:
    return lambda: gemm.gemm_a8w8_blockscale_bpreshuffle(x, w, x_scale, w_scale, **rest)


def _rows(x_scale: Any = ROW, w_scale: Any = COLUMN, bias: Any = None, **rest: Any) -> Callable[[], Any]:
    return lambda: gemm.gemm_a8w8(X, W, x_scale, w_scale, bias, **rest)


def _batched(x: Any = HIDDEN, w: Any = HEADS, scale: Any = ONE, **rest: Any) -> Callable[[], Any]:
    call = gemm.batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant
    return lambda: call(x, w, scale, transpose_bm_in=True, **rest)


REFUSED = {
    "XQ` is of dtype torch.bfloat16": _blocks(X.bfloat16()),
    r"XQ` is of shape \[4, 2, 128\]; allowed: \[M, K\]": _blocks(X.view(4, 2, 128)),
    r"WQ` is of shape \[32, 128\]; allowed: \[N, 256\]": _blocks(w=W[:, :128]),
    "WQ` is of dtype torch.float8_e4m3fnuz": _blocks(w=W.view(FNUZ)),
    r"XQ` is of strides \[1, 4\]": _blocks(X.view(256, 4).T),
    r"x_scale` is of shape \[4, 1\]; allowed: \[4, 2\]": _blocks(x_scale=ROW),
    "x_scale` is of dtype torch.float64": _blocks(x_scale=XS.double()),
    r"w_scale` is of shape \[2, 2\]; allowed: \[1, 2\]": _blocks(w_scale=torch.ones(2, 2)),
    "dtype` is torch.float32; allowed: torch.bfloat16": _blocks(dtype=torch.float32),
    r"WQ` is of shape \[31, 256\].*N a multiple of 16 and K of 32. Pad": _blocks(w=W[:31], isBpreshuffled=True),
    r"WQ` is of strides \[512, 1\]; allowed: contiguous": _blocks(
        w=torch.zeros(32, 512).to(OCP)[:, :256], isBpreshuffled=True
    ),
    r"x_scale` is of strides \[3, 1\]; allowed: strides \(1, M\), or contiguous": _shuffled(
        x_scale=torch.ones(4, 3)[:, :2]
    ),
    "out` is of dtype torch.float16; allowed: torch.bfloat16": _shuffled(out=torch.zeros(4, 32).half()),
    r"out` is of shape \[4, 31\]; allowed: \[4, 32\]": _shuffled(out=torch.zeros(4, 31).bfloat16()),
    r"out` is of strides \[0, 1\].*do not overlap": _shuffled(out=torch.zeros(1, 32).bfloat16().expand(4, 32)),
    "x_scale` is None; allowed: a tensor": _shuffled(x_scale=None),
    r"x_scale` is of shape \[4, 2\]; allowed: one element": _rows(x_scale=XS),
    r"w_scale` is of shape \[31, 1\]; allowed: one element": _rows(w_scale=COLUMN[1:]),
    r"bias` is of shape \[31\]; allowed: \[32\] or \[1, 32\]": _rows(bias=torch.ones(31).bfloat16()),
    "bias` is of dtype torch.float32; allowed: torch.bfloat16": _rows(bias=torch.ones(32)),
    "group_size` is 64; allowed: 128": _batched(group_size=64),
    r"WQ` is of shape \[1, 32, 256\]; allowed: \[2, N, 256\]": _batched(w=HEADS[:1]),
    r"w_scale` is of shape \[2\]; allowed: one element": _batched(scale=torch.ones(2)),
    "X` is of dtype torch.bfloat16; allowed: torch.float16": _batched(dtype=torch.float16),
    r"K that is a multiple of 128. Pad": _batched(HIDDEN[..., :100], HEADS[..., :100]),
    r"YQ` is of shape \[4, 2, 32\]; allowed: \[2, 4, 32\]": _batched(YQ=torch.zeros(4, 2, 32).bfloat16()),
    r"YQ` is of strides \[0, 32, 1\].*do not overlap": _batched(YQ=torch.zeros(4, 32).bfloat16().expand(2, 4, 32)),
    r"bias` is of shape \[2, 32\]; allowed: \[2, 1, 32\]": _batched(bias=torch.zeros(2, 32).bfloat16()),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_the_tables_refuse_in_words() -> None:
    def said(chip: str, **given: Any) -> str:
        problem = BlockScaleProblem(**tables.BLOCKSCALE_TABLE.derive({"n": 1, "m": 64, "k": 256, **given}))
        return str(dispatch.decide(tables.BLOCKSCALE_TABLE, problem, resolve(chip)))

    assert "no multiple of 128 (pad x and w with zeros)" in said("mi300x", k=272)
    assert "no multiple of 16 (pad x and w with zeros)" in said("h200", k=200)
    assert "(copy them)" in said("h200", aligned=False)
    assert "gfx942 multiplies e4m3fnuz, the operands are e4m3fn (quantise the operands" in said("mi300x", fp8="e4m3fn")
    assert "shuffled weights of m 72" in said("cpu", m=72, shuffled=True)
    with on("gfx942"), pytest.raises(DispatchError, match="multiplies e4m3fnuz"):
        gemm.gemm_a8w8_blockscale(X, W, XS, WS)


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.FORWARD.mutates == ops.ROWS.mutates == batched.BATCHED.mutates == ()
    assert ops.OUT.mutates == ("out",) and batched.BATCHED_OUT.mutates == ("YQ",)
    with torch.device("meta"):
        x, w = torch.empty(3, 512).to(OCP)[:, :256], torch.empty(48, 256).to(OCP)
        y = gemm.gemm_a8w8_blockscale(x, w, torch.empty(3, 2), torch.empty(1, 2), torch.float16)
    assert y.is_meta and y.shape == (3, 48) and y.dtype == torch.float16
    for operator, args in (
        (ops.OUT, (torch.zeros(4, 32).bfloat16(), X, shuffle_weight(W), XS, WS, True)),
        (batched.BATCHED_OUT, (torch.zeros(2, 4, 32).bfloat16(), HIDDEN, HEADS, ONE, None, False, True)),
    ):
        torch.library.opcheck(operator.overload, args, test_utils="test_faketensor")


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
