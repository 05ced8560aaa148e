"""The plan of `wvSplitKrc`: every plan is one that the kernel can run, in exactly the workspace that it states."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from aiterlite.tables import gemm_rc as tables
from aiterlite.tables import gemm_rc_plan as plans
from aiterlite.tables.gemm_plan import CHIPS
from aiterlite.target import resolve

GPUS = ["mi300x", "mi308x", "mi355x", "h100", "a100", "l40s"]
sizes = st.one_of(st.integers(1, 20000), st.sampled_from([1, 15, 16, 17, 65536, 131072, 2**31 - 1]))


@given(st.integers(1, 128), sizes, sizes, st.sampled_from(GPUS), st.sampled_from(plans.REDUCTIONS))
def test_every_plan_is_one_that_the_kernel_can_run(n: int, m: int, k: int, chip: str, reduction: str) -> None:
    """What wv_split_k_reduce.hip states of defines and launch."""
    persona = resolve(chip)
    plan = tables.plan_wv_split_krc(tables.RcProblem(n, m, k, reduction=reduction), persona)
    tiling = plan.tiling
    tiles = -(-m // tiling.rows)
    assert n <= tiling.cols and plans.compiles(CHIPS[persona.target], tiling)
    assert plan.grid == tiles * plan.shards < 2**31 and plan.block == tiling.waves * persona.wave_size <= 1024
    assert (plan.shards - 1) * plan.shard_k < k <= plan.shards * plan.shard_k < 2**32
    assert plan.shard_k < 2**31 and (plan.shards == 1 or plan.shard_k % plans.TILE_K == 0)
    assert (plan.reduce == plans.REDUCE_NONE) == (plan.shards == 1)
    assert plan.reduce != plans.REDUCE_ATOMIC or reduction == "fast"
    if plan.reduce == plans.REDUCE_NONE:
        assert plan.workspace == 0
        return
    # The last float that the kernel addresses: the last of the last slice or region of the last tile.
    assert tiles <= plans.COUNTERS
    slices = plan.shards if plan.reduce == plans.REDUCE_SLICES else 1
    last = ((tiles - 1) * slices + slices - 1) * tiling.rows * tiling.cols + tiling.rows * tiling.cols - 1
    assert plan.workspace == 4 * plans.COUNTERS + 4 * (last + 1)


@given(sizes, sizes, st.sampled_from(["mi300x", "mi308x", "mi355x", "h100"]))
def test_a_batch_invariant_cut_of_k_is_the_same_for_every_n(m: int, k: int, chip: str) -> None:
    persona = resolve(chip)
    cuts = {
        (plan.tiling.k_waves, plan.tiling.unroll, plan.shards, plan.shard_k)
        for n in (1, 16, 17, 32, 33, 64, 65, 128)
        for aligned in (False, True)
        for plan in [
            tables.plan_wv_split_krc(tables.RcProblem(n, m, k, aligned=aligned, reduction="batch_invariant"), persona)
        ]
    }
    assert len(cuts) == 1


def test_the_cut_of_k_does_depend_on_n_elsewhere() -> None:
    """The negative control of the test above."""
    cuts = {
        tables.plan_wv_split_krc(tables.RcProblem(n, 2880, 2880), resolve("mi300x")).shard_k for n in (16, 32, 64, 128)
    }
    assert len(cuts) > 1
