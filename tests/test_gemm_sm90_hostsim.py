"""sm_90's skinny GEMM executed on the host: the copy engine's boxes, the matrix unit's operands, barriers, the ring,
clusters and the exchange of their sums, with copies that land late and in any order."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from hostsim_sm90 import simulate  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.reference.gemm import error_bound  # noqa: E402
from aiterlite.tables import gemm_sm90 as tables  # noqa: E402
from aiterlite.tables.gemm_rc import RcProblem  # noqa: E402
from aiterlite.tables.gemm_sm90 import Sm90Tiling  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def run(cut: Sm90Tiling, x: Tensor, w: Tensor, bias: Tensor | None, dtype: str, folder: Path, seed: int) -> Tensor:
    (n, k), m = x.shape, w.shape[0]
    y = torch.full((n, m), float("nan"), dtype=x.dtype)
    (kernel,) = tables.kernels(RcProblem(n, m, k, dtype), resolve("h200"), tables.plan_of(cut, m))
    stride = 0 if bias is None or bias.dim() == 1 else m
    sizes = {"stride_x": k, "stride_w": k, "stride_y": m, "stride_bias": stride}
    simulate(kernel, {"x": x, "weight": w, "y": y, "bias": bias}, sizes, folder, seed)
    return y


# Tokens, features, k: rows that are parts of warpgroups and waves, ends by panels, by pairs and alone, odd M (y is
# stored by elements), K that is no multiple of a step, rings that wrap, steps that do not come out even between ranks,
# tokens and weights that are shared.
CASES = [
    (100, 224, 456, "bf16", Sm90Tiling(128, 112, 2, 2)),
    (33, 333, 328, "fp16", Sm90Tiling(64, 56, 3, 3)),
    (20, 50, 648, "bf16", Sm90Tiling(32, 24, 2, 5)),
    (16, 40, 1344, "bf16", Sm90Tiling(16, 16, 2, 3, depth=4, early=2, admits_early=True)),
    (7, 65, 200, "fp16", Sm90Tiling(8, 32, 2, 1)),
    (65, 90, 456, "bf16", Sm90Tiling(64, 48, 2, 2, 2, tiles=2)),
    (100, 210, 392, "fp16", Sm90Tiling(64, 112, 3, 1, tiles=2)),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_cuts(number: int, tmp_path: Path) -> None:
    n, m, k, dtype, cut = CASES[number]
    torch.manual_seed(number)
    x, w = torch.randn(n, k).to(DTYPES[dtype]), torch.randn(m, k).to(DTYPES[dtype])
    bias = (None, torch.randn(m), torch.randn(n, m))[number % 3]
    bias = None if bias is None else bias.to(x.dtype)
    exact = x.double() @ w.double().T + (0 if bias is None else bias.double())
    first = run(cut, x, w, bias, dtype, tmp_path, 0)
    assert bool(((first.double() - exact).abs() <= error_bound(x, w, exact)).all())
    if number % 3:
        return
    # Copies land in another order.
    assert torch.equal(run(cut, x, w, bias, dtype, tmp_path, 5), first)
