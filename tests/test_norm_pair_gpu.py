"""RMSNorm of two tensors on an NVIDIA GPU: the bits of two calls at the sizes of a model, in a captured graph, and
behind a kernel that writes its rows. `test_norm_pair.py` has every form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from norm_cases import Case  # noqa: E402
from quant_cases import same  # noqa: E402
from test_norm_pair import Pair, run  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import norm  # noqa: E402

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("widths", [(1536, 512), (7168, 1536), (512, 7168), (769, 77)])
@pytest.mark.parametrize("n", [1, 16, 255, 4096])
def test_a_model_s_rows(n: int, widths: tuple[int, int]) -> None:
    q, k = Case(n, widths[0], pad=8), Case(n, widths[1], pad=24, epsilon=1e-5)
    run(Pair(q, k), "cuda")
    if widths[0] % 128 == 0:
        for group, transposed in ((0, False), (128, False), (128, True)):
            run(Pair(Case(n, widths[0], with_add=True), k, "e4m3fn", group, transposed, both=True), "cuda")


@pytest.mark.parametrize("n", [1, 16])
def test_latents_that_a_projection_before_writes(n: int) -> None:
    """In one graph many times over, behind a kernel of this package, which lets its successor start early."""
    weight = (torch.randn(2112, 256, device="cuda") / 16).to(torch.bfloat16)
    inputs = [torch.randn(n, 256, device="cuda").to(torch.bfloat16) for _ in range(8)]
    weights = [torch.rand(size, device="cuda").to(torch.bfloat16) for size in (1536, 512)]

    def chain() -> list[Any]:
        found: list[Any] = []
        for x in inputs:
            latents = aiterlite.linear(x, weight)
            q, k = latents[:, :1536], latents[:, 1536:2048]
            found.append((latents, norm._fused_qk_rmsnorm(None, q, weights[0], 1e-6, None, k, weights[1], 1e-6)))
        return found

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for turn in range(20):
        for x in inputs:
            x.copy_(torch.roll(x, turn + 1, -1))
        graph.replay()
    torch.cuda.synchronize()
    for latents, (q, k) in found:
        assert same(q, norm.rms_norm(latents[:, :1536], weights[0], 1e-6))
        assert same(k, norm.rms_norm(latents[:, 1536:2048], weights[1], 1e-6))
