"""sm_90's GEMM of MXFP4 weights executed on the host, under the address sanitizer: rings, folds, turns, clusters and
the exchange of their sums, in every layout of weights and scales."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_mxfp4_cases import Case, assert_near, operands, poisoned, shuffled_scale  # noqa: E402
from hostsim_sm90 import simulate  # noqa: E402

from aiterlite.ops.shuffle import shuffle_weight  # noqa: E402
from aiterlite.reference import gemm_mxfp4 as reference  # noqa: E402
from aiterlite.reference import mxfp4  # noqa: E402
from aiterlite.tables import gemm_mxfp4_sm90 as sm90  # noqa: E402
from aiterlite.tables.gemm_mxfp4_problem import MxGemmProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
BATCHES = [f"stride_{name}_batch" for name in ("x", "w", "y", "x_scale", "w_scale")]


def run(
    case: Case,
    cut: sm90.Cut,
    folder: Path,
    lay: str,
    shuffled: bool,
    seed: int = 0,
    great: bool = False,
    lagging_wave: int = 2**32 - 1,
) -> Any:
    made = operands(case, seed if case.bias == "none" else 1)
    if great:
        w_scale = made.w_scale.clone()
        w_scale[1::5, ::2], w_scale[2::7] = 129, 227
        exact, magnitude = reference.product(made.x, mxfp4.dequantise(made.w, w_scale))
        made = replace(made, w_scale=w_scale, exact=exact, magnitude=magnitude)
    y = poisoned((case.n, case.m), torch.bfloat16, "cpu")
    packed = case.x == "fp4"
    tiles = lay == "shuffled"
    problem = MxGemmProblem(
        case.n, case.m, case.k, case.x, "bf16", shuffled, lay, tiles and packed, case.bias != "none"
    )
    (kernel,) = sm90.kernels(problem, resolve("h200"), sm90.plan_of(cut, problem))
    x, w, w_scale, x_scale = made.x.contiguous(), made.w.contiguous(), made.w_scale.contiguous(), made.x_scale
    blocks = case.k // 32
    sizes: dict[str, Any] = {**dict.fromkeys(BATCHES, 0), "stride_x": x.shape[1], "stride_w": w.shape[1]}
    sizes |= {
        "stride_y": case.m,
        "stride_bias": case.m if made.bias is not None and made.bias.shape[0] > 1 else 0,
        "bias_is_float": 1,
    }
    sizes |= {"alpha": case.factors[0], "beta": case.factors[1]}
    for name in ("x_scale", "w_scale"):
        row, block = (32 * (-(-blocks // 8) * 8), 0) if tiles else (blocks, 1)
        if lay == "strided" and name == "w_scale":
            row, block = 1, case.m
        sizes |= {f"stride_{name}": row, f"stride_{name}_block": block}
    if tiles:
        w_scale = shuffled_scale(w_scale)
        x_scale = shuffled_scale(x_scale) if packed else None
    elif lay == "strided":
        w_scale = w_scale.t().contiguous()
    given = {
        "x": x,
        "w": shuffle_weight(w) if shuffled else w,
        "y": y,
        "bias": None if made.bias is None else made.bias.float(),
    }
    given |= {"x_scale": None if x_scale is None else x_scale.contiguous(), "w_scale": w_scale}
    simulate(kernel, given, sizes, folder, seed, lagging_wave)
    assert_near(y, made.exact, made.magnitude)
    return y


# Parts of tiles of rows and of columns; K that is no multiple of a step; rings that wrap; folds, turns and ranks that
# do not come out even; fp16, which is two columns; sums that reuse the ring.
CASES = [
    (Case(3, 16, 2816, bias="fp32", factors=(0.5, 2.0)), sm90.Cut(8, 32, 2, 2, 2, 4, 2)),
    (Case(13, 80, 1536, "fp4", bias="fp32"), sm90.Cut(16, 80, 1, 1, 1, 3, 4)),
    (Case(20, 48, 1344, "fp16", bias="fp32"), sm90.Cut(32, 32, 2, 1, 1, 2, 2, parts=2)),
    (Case(61, 64, 1024, bias="fp32"), sm90.Cut(64, 80, 4, 1, 1, 2, 2)),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_cuts(number: int, tmp_path: Path) -> None:
    case, cut = CASES[number]
    # With steps fetched early, and other warps that bring tokens.
    lay = "strided" if number == 1 else "shuffled"
    first = run(case, replace(cut, early=2, loaders=2), tmp_path, lay, True, seed=5)
    if number < 2:
        # In another layout: the same bits.
        again = run(case, cut, tmp_path, "rows" if case.k % 256 == 0 else "strided", False)
        assert torch.equal(again.view(torch.int16), first.view(torch.int16))


def test_a_row_of_the_least_scale(tmp_path: Path) -> None:
    """2^-127 is a subnormal float, and what is multiplied must leave room for it."""
    run(Case(3, 7, 32, lying="columns"), sm90.Cut(8, 16, 1, 1, 1, 2, 4), tmp_path, "strided", False, seed=5)


def test_scales_that_are_applied_twice(tmp_path: Path) -> None:
    """4 and 2^100, in some rows and blocks: bf16 has no power of two that takes a decoded code to them."""
    run(Case(3, 20, 288), sm90.Cut(8, 32, 1, 1, 2, 2, 2), tmp_path, "strided", False, great=True)


# Of 4 warpgroups that take turns: one that multiplies, the two that copy weights and scales, two that bring tokens.
@pytest.mark.parametrize("wave", [1, 17, 18, 20])
def test_no_wave_need_keep_up(wave: int, tmp_path: Path) -> None:
    """A warp that runs only while no other can misses no phase of a barrier. (A barrier tells one phase from the next
    alone: on an H200 a warp that waited also for stages whose tokens others brought came too late, and hung.)"""
    cut = sm90.Cut(8, 16, 1, 4, 1, 8, 2, loaders=4)
    run(Case(1, 16, 4096), cut, tmp_path, "rows", False, lagging_wave=wave)


def test_warps_without_a_token(tmp_path: Path) -> None:
    """Of six warps that bring one token to a ring of four stages two have none, and end. (On an H200 they did not.)"""
    run(Case(1, 16, 1536), sm90.Cut(8, 16, 1, 1, 1, 4, 2, loaders=6), tmp_path, "rows", False)
