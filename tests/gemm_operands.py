"""What the tests of the skinny GEMMs share: where a call runs, random operands, and when a result is right."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest
import torch

from aiterlite import envs
from aiterlite.reference import gemm as reference

NAN = float("nan")
KINDS = ("normal", "mixed", "sparse")
TARGETS = [
    "cpu",
    pytest.param("gfx942", marks=pytest.mark.emulated),
    pytest.param("gfx950", marks=pytest.mark.emulated),
    pytest.param("cuda", marks=pytest.mark.gpu),
]
AMD = [pytest.param("gfx942", marks=pytest.mark.emulated), pytest.param("gfx950", marks=pytest.mark.emulated)]


@contextlib.contextmanager
def on(target: str, **settings: str | None) -> Iterator[str]:
    """The device whose tensors a target takes; `settings` are further environment variables."""
    with envs.override(AITERLITE_TARGET=None if target in ("cpu", "cuda") else target, **settings):
        yield "cuda" if target == "cuda" else "cpu"


def values(rows: int, columns: int, kind: str) -> torch.Tensor:
    """Normal random numbers; in `mixed` 10 % of the columns are 30 times as large, in `sparse` 90 % are zero.

    Not both operands are sparse: a sum of a few small products may be a subnormal number of float16, whose rounding the
    bound does not model.
    """
    made = torch.randn(rows, columns)
    if kind == "mixed":
        made[:, torch.randperm(columns)[: max(1, columns // 10)]] *= 30
    elif kind == "sparse":
        made *= torch.rand(rows, columns) < 0.1
    return made


def matrix(
    rows: int,
    columns: int,
    kind: str,
    dtype: torch.dtype,
    pad: int = 0,
    scale: float = 1.0,
    device: str = "cpu",
    offset: int = 0,
) -> torch.Tensor:
    """A random matrix whose rows are `pad` elements further apart than they are long, `offset` elements into its
    memory; all that is not the matrix holds NaN."""
    storage = torch.full((offset + rows * (columns + pad),), NAN, dtype=dtype, device=device)
    view = torch.as_strided(storage, (rows, columns), (columns + pad, 1), offset)
    return view.copy_((values(rows, columns, kind) * scale).to(dtype))


def biases(n: int, m: int, kind: str, dtype: torch.dtype, device: str = "cpu") -> list[torch.Tensor | None]:
    """Every form of bias: none, [M], [1, M], [N, M], the last with padded rows."""
    one, many = matrix(1, m, kind, dtype, device=device), matrix(n, m, kind, dtype, 3, device=device)
    return [None, one[0], one, many]


def cancelling(n: int, m: int, k: int, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Operands whose second half of K cancels the first: what is left is rounding, so that bits show any order."""
    x, weight = matrix(n, k, "normal", torch.bfloat16), matrix(m, k, "normal", torch.bfloat16)
    half = k // 2
    x[:, half : 2 * half], weight[:, half : 2 * half] = x[:, :half], -weight[:, :half]
    # Unlike halves of the tiles, so that no two shards cancel exactly.
    return x.roll(72, 1).contiguous().to(device), weight.roll(72, 1).contiguous().to(device)


def assert_within_bound(y: torch.Tensor, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """y is x · weight^T + bias, as far as float32 sums and one rounding may be from it."""
    x, weight = x.cpu(), weight.cpu()
    exact = x.double() @ weight.double().T
    if bias is not None:
        exact = exact + bias.cpu().double()
    assert_close(y, exact, reference.error_bound(x, weight, exact))


def assert_close(y: torch.Tensor, exact: torch.Tensor, bound: torch.Tensor) -> None:
    """The three-part rule: at least 99.999 % of the outputs within the bound (so all of fewer than 100,000), none
    beyond three times, a quarter of it on average."""
    assert y.shape == exact.shape and bool(torch.isfinite(y).all())
    error = (y.cpu().double() - exact).abs()
    worst = f"worst error is {float((error / bound.clamp_min(1e-300)).max()):.2f} times the bound"
    assert float((error <= bound).double().mean()) >= 0.99999, worst
    assert bool((error <= 3 * bound).all()), worst
    assert float(error.mean()) <= 0.25 * float(bound.mean()), "the errors are large on average"
