"""What the emulator can show of `wvSplitKrc`'s machine code beyond its results: faults, traffic, conflicts. L2."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator, envs  # noqa: E402
from aiterlite.tables import gemm_rc as tables  # noqa: E402
from aiterlite.tables.gemm_rc_plan import REDUCTIONS  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

pytestmark = pytest.mark.emulated

CHIPS = ("gfx942", "gfx950")
SHAPES = [(1, 64, 7168), (4, 64, 7168), (16, 64, 7168), (64, 64, 7168), (128, 40, 4096)]


def operands(n: int, m: int, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(n, k).bfloat16(), (torch.randn(m, k) * k**-0.5).bfloat16()


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_sanitizer_finds_a_fault(reduction: str, chip: str, sanitized: emulator.Recording) -> None:
    with envs.override(AITERLITE_TARGET=chip):
        for n, m, k in (*SHAPES, (33, 37, 776), (100, 19, 101), (17, 33, 2881)):
            x, weight = operands(n, m, k)
            aiterlite.wvSplitKrc(x, weight, torch.randn(m).bfloat16(), reduction=reduction)
    assert len(sanitized.launches) == len(SHAPES) + 3


def counted(chip: str, n: int, m: int, k: int, reduction: str) -> tuple[dict[str, Any], tables.WvSplitKrcPlan]:
    x, weight = operands(n, m, k)
    with envs.override(AITERLITE_TARGET=chip), emulator.watching(sanitize=False, counters=True) as seen:
        aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        problem = tables.RcProblem(n, m, k, reduction=reduction)
        plan = dispatch.decide(tables.WV_SPLIT_K_RC, problem, persona_for("cpu", None)).plan
    (counters,) = seen.counters
    return counters, plan


@pytest.mark.parametrize("chip", CHIPS)
@pytest.mark.parametrize("n", [1, 4, 16, 64, 128])
def test_traffic_is_what_the_kernel_says(n: int, chip: str) -> None:
    """Weights once; tokens once for each COLS by 16 R rows; sums once into and out of the workspace; no conflicts."""
    m, k = 64, 7168
    for reduction in REDUCTIONS:
        counters, plan = counted(chip, n, m, k, reduction)
        tiling, traffic = plan.tiling, counters["arguments"]
        assert traffic["weight"]["read"] <= 1.05 * 2 * m * k
        waves = -(-m // (16 * tiling.tiles))
        assert traffic["x"]["read"] <= 1.05 * 2 * waves * tiling.cols * k
        if plan.shards > 1:
            # The sums, and the counter that an arrival reads; an atomic reads what it adds to.
            copies = plan.shards + (reduction == "fast")
            assert traffic["workspace"]["read"] == 4 * (n * m * copies + plan.grid)
        least = -(-m // 16) * tiling.cols // 16 * -(-k // 32) * (2 if chip == "gfx942" else 1)
        assert least <= counters["instructions"]["mfma"] <= 1.2 * least
        assert counters["lds"]["conflict_cycles"] == 0
        assert counters["instructions"]["scratch"] == 0
