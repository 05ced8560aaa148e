"""Stage 2 that adds slots up as they get ready (csrc/fused_moe/sm90_down_join.hip), executed on the host, lane by lane,
under the address sanitizer: workgroups that run side by side, on sorted entries, against float64. Parts are written
over while others are added; copies land late and in any order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hostsim_sm90 import simulate  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.kernel import Kernel  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.reference import moe_sorting  # noqa: E402
from aiterlite.tables import fused_moe_sm90_kernels as sm90  # noqa: E402
from aiterlite.tables import fused_moe_sm90_plan as plans  # noqa: E402
from aiterlite.tables.fused_moe_problem import MoeProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
H200 = resolve("h200")
# Parts whose last is half there; experts of several blocks, and of none; slots that no expert here has; more slots than
# are fetched at a time; fewer parts in memory than there are.
CASES: list[tuple[dict[str, Any], dict[str, Any], int]] = [
    ({"tokens": 21, "experts": 3, "topk": 2, "width": 640, "inter": 256}, {"columns": 8, "parts": 1}, 2),
    ({"tokens": 10, "experts": 12, "topk": 10, "width": 1024, "inter": 128}, {"columns": 16, "parts": 2}, 3),
    ({"tokens": 9, "experts": 4, "topk": 3, "width": 384, "inter": 128}, {"columns": 8, "parts": 2, "adders": 1}, 1),
]
ABSENT = 2  # experts that ids name and that are not here


def random(source: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=source)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_slots_that_meet(number: int, tmp_path: Path) -> None:
    fields, cut, beside = CASES[number]
    problem = MoeProblem(**{"global_experts": fields["experts"], **fields})
    plan = replace(plans.plan_join(problem, H200), workgroups=beside, down_stages=2, **{"adders": 2, **cut})
    source = torch.Generator().manual_seed(number)
    tokens, experts, width, inter = problem.tokens, problem.experts, problem.width, problem.inter
    routing, ids = torch.rand(tokens, experts + ABSENT, generator=source).topk(problem.topk, dim=1)
    local = torch.where(ids < experts, ids, -1).int()
    rows = moe_sorting.moe_sorting(local.tolist(), routing.tolist(), experts, plan.columns)
    capacity, steps = plans.entries(problem, plan), inter // 128
    sorted_ids = torch.full((capacity,), -1, dtype=torch.int32)
    weights = torch.full((capacity,), torch.nan)
    blocks = torch.full((capacity // plan.columns,), 1 << 20, dtype=torch.int32)
    for to, values in ((sorted_ids, rows.sorted_ids), (weights, rows.sorted_weights), (blocks, rows.sorted_expert_ids)):
        to[: len(values)] = torch.tensor(values, dtype=to.dtype)
    live = [entry for entry in range(len(rows.sorted_ids)) if rows.sorted_ids[entry] & 0xFFFFFF < tokens]
    h, h_scale = random(source, capacity, inter).to(torch.float8_e4m3fn), random(source, steps, capacity).abs()
    w2 = random(source, experts, width, inter).to(torch.float8_e4m3fn)
    w2_scale = random(source, experts, width // 128, steps).abs()
    # Where nothing may be read: NaN.
    padding = torch.ones(capacity, dtype=torch.bool)
    padding[live] = False
    h.view(torch.uint8)[padding] = 0x7F
    tiles = h.view(torch.uint8).view(-1, plan.columns, steps, 8, 16).permute(0, 2, 1, 3, 4)
    places = torch.arange(8)[None, :] ^ (torch.arange(plan.columns) % 8)[:, None]
    tiled = torch.empty_like(tiles).scatter_(3, places[None, None, :, :, None].expand(tiles.shape), tiles)
    kernel = launched(problem, plan, beside)
    out = torch.full((tokens, width), torch.nan, dtype=torch.bfloat16)
    given: dict[str, Tensor | None] = {
        "w2": w2, "w2_scale": w2_scale, "sorted_ids": sorted_ids, "sorted_weights": weights, "out": out,
        "sorted_expert_ids": blocks, "num_valid_ids": torch.tensor(list(rows.num_valid_ids), dtype=torch.int32),
        "h": tiled.contiguous(), "h_scale": h_scale, "local_topk_ids": local,
    }  # fmt: skip
    exact = torch.zeros(tokens, width, dtype=torch.float64)
    w = w2.double() * w2_scale.double().repeat_interleave(128, 1).repeat_interleave(128, 2)
    for entry in live:
        of = h[entry].double() * h_scale[:, entry].double().repeat_interleave(128)
        of_slot = rows.sorted_weights[entry] * (w[rows.sorted_expert_ids[entry // plan.columns]] @ of)
        exact[rows.sorted_ids[entry] & 0xFFFFFF] += of_slot.bfloat16().double()
    made = []
    for seed, lagging in ((0, 2**32 - 1), (5, plan_warp("adder")), (6, plan_warp("storer"))):
        out.fill_(torch.nan)
        slots = torch.full((plan.parts, problem.pairs, 256), torch.nan, dtype=torch.bfloat16)
        arrived = torch.zeros(plans.arrivals(problem), dtype=torch.int32)
        sizes = {**layer_sizes(problem, False), "stride_out": width}
        simulate(kernel, {**given, "slots": slots, "arrived": arrived}, sizes, tmp_path, seed, lagging)
        made.append(out.clone())
        assert reference.relative_error(out, exact) <= 4e-3
        check_counters(arrived.view(-1, 32), problem, rows.num_valid_ids[0] // plan.columns)
    assert torch.equal(made[0], made[1]) and torch.equal(made[0], made[2])


def plan_warp(role: str) -> int:
    """As fused_moe/sm90_join.h numbers them: the first that adds, or stores."""
    return {"storer": 8, "adder": 15}[role]


def launched(problem: MoeProblem, plan: plans.JoinPlan, beside: int) -> Kernel:
    (kernel,) = [one for one in sm90.join_kernels(problem, H200, plan) if one.symbol == sm90.DOWN_JOIN]
    numbers = {name: value for name, value in kernel.args.items() if isinstance(value, int | float)}
    return replace(kernel, args=numbers, cluster=beside)


def check_counters(lines: Tensor, problem: MoeProblem, blocks: int) -> None:
    """A line each: what is taken; of each part warps that stored, and tokens that were fetched."""
    parts = -(-problem.width // 256)
    counted = lines[:, 0].tolist()
    assert counted[2 : 2 + parts] == [2 * blocks] * parts
    assert counted[2 + parts :] == [problem.tokens] * parts
    assert not lines[:, 1:].any()
