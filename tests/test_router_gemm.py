"""`router_gemm`: `wvSplitK` whose sums are not rounded, on CPUs, both AMD targets and a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import matrix  # noqa: E402

from aiterlite import envs, wvSplitK  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.moe import router_gemm  # noqa: E402
from aiterlite.reference import gemm as reference  # noqa: E402

X, W = torch.randn(2, 64).bfloat16(), torch.randn(24, 64).bfloat16()
TARGETS = [
    "",
    *(pytest.param(target, marks=pytest.mark.emulated) for target in ("gfx942", "gfx950")),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
# Rows, experts, k: aligned and not, several workgroups, all tokens that a kernel takes.
SHAPES = [(1, 256, 1024), (3, 37, 520), (16, 130, 272), (2, 19, 77)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_are_not_rounded(target: str, dtype: torch.dtype) -> None:
    torch.manual_seed(3)
    device = "cuda" if target == "cuda" else "cpu"
    with envs.override(AITERLITE_TARGET="" if target == "cuda" else target):
        for n, m, k in (*SHAPES, *(((1, 256, 7168), (16, 2064, 7168)) if target == "cuda" else ())):
            x, weight = matrix(n, k, "normal", dtype), matrix(m, k, "normal", dtype, k % 3, k**-0.5)
            x, weight = x.to(device), weight.to(device)
            y = router_gemm(x, weight)
            assert y.dtype == torch.float32
            exact = x.double() @ weight.double().T
            # A result that was rounded to 16 bits would be far outside.
            assert bool(((y.double() - exact).abs() <= reference.error_bound(x, weight, exact, torch.float32)).all())
            assert torch.equal(y.to(dtype), wvSplitK(x, weight))


def test_what_it_takes() -> None:
    assert router_gemm(X[0], W).shape == (24,) and router_gemm(X[:0], W).dtype == torch.float32
    for operands, argument in (((X.float(), W.float()), "x"), ((X, W[:, :8]), "weight")):
        with pytest.raises(ArgumentError, match="^router_gemm") as caught:
            router_gemm(*operands)
        assert caught.value.argument == argument
    with envs.override(AITERLITE_TARGET="gfx942"), pytest.raises(DispatchError, match="n must be 1 to 16, it is 17"):
        router_gemm(X[:1].expand(17, 64).contiguous(), W)


def test_it_traces() -> None:
    torch.library.opcheck(torch.ops.aiterlite.router_gemm.default, (X, W))
