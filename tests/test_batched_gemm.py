"""`batched_gemm_bf16` on CPUs, both AMD targets and a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import NAN, TARGETS, matrix, on  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.dispatch import Wishes, decide  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.gemm import batched_gemm_bf16, batched_gemm_bf16_CK  # noqa: E402
from aiterlite.reference import gemm as reference  # noqa: E402
from aiterlite.tables.batched_gemm import BATCHED_GEMM, BatchedGemmProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

# Batches, tokens, features, k: absorbed projections, edges of tiles, operands that are not aligned, many tokens.
SHAPES = [(2, 1, 512, 128), (3, 5, 37, 77), (2, 16, 40, 520), (1, 3, 17, 64), (2, 19, 24, 96)]


def operands_of(batch: int, n: int, m: int, k: int, dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor, Tensor]:
    """x whose batches lie inside its tokens, weights that lie apart, and a bias."""
    x = torch.stack([matrix(n, k, "normal", dtype) for _ in range(batch)], 1).to(device).transpose(0, 1)
    room = torch.full((batch, m + 1, k), NAN, dtype=dtype, device=device)
    for number in range(batch):
        room[number, :m] = matrix(m, k, "normal", dtype, scale=k**-0.5).to(device)
    return x, room[:, :m], torch.randn(batch, 1, m).to(dtype).to(device)


def check(y: Tensor, x: Tensor, w: Tensor, bias: Tensor | None) -> None:
    for number in range(x.shape[0]):
        exact = x[number].double() @ w[number].double().T
        exact = exact if bias is None else exact + bias[number].double()
        bound = reference.error_bound(x[number], w[number], exact)
        assert bool(((y[number].double() - exact).abs() <= bound).all())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_product_is_its_own(target: str, dtype: torch.dtype) -> None:
    torch.manual_seed(5)
    with on(target) as device:
        for number, shape in enumerate((*SHAPES, *(((16, 16, 512, 128), (16, 9, 128, 512)) * (target == "cuda")))):
            x, w, bias = operands_of(*shape, dtype, device)
            given = bias if number % 2 else None
            batch, n, m, _ = shape
            room = torch.full((n, batch, m + 8), NAN, dtype=dtype, device=device)
            y = room[..., :m].transpose(0, 1)
            assert batched_gemm_bf16(x, w, given, dtype, YQ=y) is y
            check(y, x, w, given)
            assert bool(room[..., m:].isnan().all())
            again = batched_gemm_bf16_CK(x, w, given, dtype)
            assert again.is_contiguous() and torch.equal(again, y)


def test_what_it_takes() -> None:
    x, w, bias = operands_of(2, 3, 8, 16, torch.bfloat16, "cpu")
    assert batched_gemm_bf16(x[:, :0], w).shape == (2, 0, 8)
    assert torch.equal(batched_gemm_bf16(x[..., :0], w[..., :0], bias), bias.expand(2, 3, 8))
    over = torch.zeros(2, 3, 8).bfloat16().as_strided((2, 3, 8), (4, 8, 1))
    for call, argument in (
        (lambda: batched_gemm_bf16(x.float(), w.float()), "XQ"),
        (lambda: batched_gemm_bf16(x, w, dtype=torch.float32), "dtype"),
        (lambda: batched_gemm_bf16(x[0], w), "XQ"),
        (lambda: batched_gemm_bf16(None, w), "XQ"),  # type: ignore[arg-type]
        (lambda: batched_gemm_bf16(x, w[:1]), "WQ"),
        (lambda: batched_gemm_bf16(x, w.half()), "WQ"),
        (lambda: batched_gemm_bf16(x, w.mT.contiguous().mT), "WQ"),
        (lambda: batched_gemm_bf16(x, w, bias[0]), "bias"),
        (lambda: batched_gemm_bf16(x, w, YQ=torch.empty(2, 3, 9).bfloat16()), "YQ"),
        (lambda: batched_gemm_bf16(x, w, YQ=over), "YQ"),
    ):
        with pytest.raises(ArgumentError, match="^batched_gemm_bf16") as caught:
            call()
        assert caught.value.argument == argument


def test_who_serves() -> None:
    rows = {("mi300x", 16): "mfma", ("mi355x", 17): "torch", ("h200", 1): "mma_sync", ("h200", 64): "torch"}
    for (name, n), row in rows.items():
        decision = decide(BATCHED_GEMM, BatchedGemmProblem(n, 512, 128, 16), resolve(name), Wishes())
        assert decision.row is not None and decision.row.name == row
        assert all(kernel.grid[1] == 16 for kernel in decision.kernels)


def test_it_traces() -> None:
    x, w, bias = operands_of(2, 3, 8, 16, torch.bfloat16, "cpu")
    torch.library.opcheck(torch.ops.aiterlite.batched_gemm_bf16.default, (x, w, bias))
    torch.library.opcheck(torch.ops.aiterlite.batched_gemm_bf16.out, (torch.empty(2, 3, 8).bfloat16(), x, w, bias))
