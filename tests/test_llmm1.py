"""`LLMM1`: what it takes, and that it is `wvSplitK` for one row."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import KINDS, assert_within_bound, matrix  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import envs  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402

DTYPES = [torch.bfloat16, torch.float16]
X, W = torch.randn(1, 64).bfloat16(), torch.randn(24, 64).bfloat16()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("target", ["", *(pytest.param(t, marks=pytest.mark.emulated) for t in ("gfx942", "gfx950"))])
@pytest.mark.parametrize("rows_per_block", [2, 4, 8, 16])
def test_every_row_is_written(rows_per_block: int, target: str, dtype: torch.dtype) -> None:
    """M that no rows_per_block divides, and K beyond what one block of threads holds."""
    torch.manual_seed(rows_per_block)
    with envs.override(AITERLITE_TARGET=target):
        shapes = ((1, 8), (37, 520), (19, 77)) if target else ((1, 8), (37, 520), (131, 16384), (19, 77))
        for kind, (m, k) in zip((*KINDS, KINDS[1]), shapes, strict=False):
            x, weight = matrix(1, k, kind, dtype), matrix(m, k, "normal", dtype, k % 3, k**-0.5)
            y = aiterlite.LLMM1(x, weight, rows_per_block)
            assert y.dtype == dtype
            assert_within_bound(y, x, weight, None)
            assert torch.equal(y, aiterlite.wvSplitK(x, weight))


def test_sums_are_float32() -> None:
    """4096 ones: in bfloat16 a sum of ones stops at 256."""
    ones = torch.ones(3, 4096).bfloat16()
    assert aiterlite.LLMM1(ones[:1], ones).tolist() == [[4096.0] * 3]


def test_shapes() -> None:
    assert aiterlite.LLMM1(X[0], W).shape == (24,)
    assert torch.equal(aiterlite.LLMM1(X.view(1, 1, 64), W)[0], aiterlite.LLMM1(X, W, 16))
    padded = torch.full((24, 72), float("nan")).bfloat16()
    padded[:, :64] = W
    assert torch.equal(aiterlite.LLMM1(X, padded[:, :64]), aiterlite.LLMM1(X, W))


@pytest.mark.parametrize(
    ("x", "weight", "rows_per_block", "argument", "said"),
    [
        (X, W, 3, "rows_per_block", "is 3; allowed: 2, 4, 8, 16"),
        (X, W, 0, "rows_per_block", "is 0"),
        (X.expand(2, 64), W, 4, "x", r"\[2, 64\]; allowed: .*one row. Call wvSplitK"),
        (X[:0], W, 4, "x", r"\[0, 64\]"),
        (X.float(), W.float(), 4, "x", "torch.float32"),
        (X, W.half(), 4, "weight", "torch.float16"),
        (X, W[:, :63], 4, "weight", r"\[24, 63\]"),
        (X, torch.randn(64, 24).bfloat16().T, 4, "weight", "strides"),
    ],
)
def test_bad_operands_are_named(x: object, weight: object, rows_per_block: int, argument: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as caught:
        aiterlite.LLMM1(x, weight, rows_per_block)
    assert caught.value.argument == argument and str(caught.value).startswith(f"LLMM1: argument `{argument}`")


def test_wvsplitk_s_own_errors_keep_its_name() -> None:
    """The two share prepared calls' code, and no prepared call."""
    aiterlite.LLMM1(X, W)
    with pytest.raises(ArgumentError, match="^wvSplitK: argument `x`"):
        aiterlite.wvSplitK(X.float(), W.float())
    with pytest.raises(ArgumentError, match="^LLMM1: argument `x`"):
        aiterlite.LLMM1(X.float(), W.float())


def test_torch_knows_it() -> None:
    torch.library.opcheck(torch.ops.aiterlite.LLMM1.default, (X, W, 8))
    with pytest.raises(ArgumentError):
        torch.ops.aiterlite.LLMM1(X.to("meta"), W.to("meta"), 5)

    def model(x: torch.Tensor) -> torch.Tensor:
        return aiterlite.LLMM1(x, W) + 1

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), model(X))
