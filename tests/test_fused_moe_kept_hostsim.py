"""Stage 2 that keeps sums in shared memory (csrc/fused_moe/sm90_down_kept.hip), executed on the host, lane by lane,
under the address sanitizer, in clusters: on sorted entries, against float64, with copies that land late and in any
order."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hostsim_sm90 import simulate  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.reference import moe_sorting  # noqa: E402
from aiterlite.tables import fused_moe as tables  # noqa: E402
from aiterlite.tables import fused_moe_sm90_kernels as sm90  # noqa: E402
from aiterlite.tables import fused_moe_sm90_plan as plans  # noqa: E402
from aiterlite.tables import problems  # noqa: E402
from aiterlite.tables.fused_moe_problem import MoeProblem  # noqa: E402
from aiterlite.tables.fused_moe_sm90_plan import KeptPlan  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
H200 = resolve("h200")
# Columns that do not fill their last workgroup, or cluster; experts of more than one block; a workgroup of the second
# kind of scales; one warpgroup, of a ring that is shorter than a block; more blocks than lanes.
CASES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    (
        {"tokens": 40, "experts": 5, "topk": 3, "width": 384, "inter": 256},
        {"columns": 16, "down_rows": 56, "down_groups": 2, "down_stages": 3, "sum_bits": 20},
    ),
    (
        {"tokens": 40, "experts": 40, "topk": 2, "width": 128, "inter": 128, "dtype": "fp16"},
        {"columns": 8, "ranks": 1, "sum_bits": 24},
    ),
    (
        {"tokens": 40, "experts": 5, "topk": 3, "width": 256, "inter": 256},
        {"columns": 16, "down_rows": 56, "sum_bits": 24},
    ),
    (
        {"tokens": 30, "experts": 2, "topk": 1, "width": 128, "inter": 384, "weighted_input": True},
        {"columns": 48, "down_rows": 40, "down_stages": 2, "down_groups": 1, "sum_bits": 20},
    ),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_sums_that_are_kept(number: int, tmp_path: Path) -> None:
    fields, cut = CASES[number]
    problem = problems.problem(tables.TABLE, {**fields, "quant": "block", "code": "e4m3fn"})
    assert isinstance(problem, MoeProblem)
    problem = replace(problem, global_experts=problem.experts)
    plan = replace(KeptPlan(16, 132, 2, 64, 4, 2), **cut)
    source = torch.Generator().manual_seed(number)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=source)

    tokens, experts, width, inter = problem.tokens, problem.experts, problem.width, problem.inter
    routing, ids = torch.rand(tokens, experts, generator=source).topk(problem.topk, dim=1)
    rows = moe_sorting.moe_sorting(ids.tolist(), routing.tolist(), experts, plan.columns)
    capacity, steps = plans.entries(problem, plan), inter // 128
    sorted_ids = torch.full((capacity,), -1, dtype=torch.int32)
    weights = torch.full((capacity,), torch.nan)
    blocks = torch.full((capacity // plan.columns,), 1 << 20, dtype=torch.int32)
    for to, values in ((sorted_ids, rows.sorted_ids), (weights, rows.sorted_weights), (blocks, rows.sorted_expert_ids)):
        to[: len(values)] = torch.tensor(values, dtype=to.dtype)
    live = [entry for entry in range(len(rows.sorted_ids)) if rows.sorted_ids[entry] & 0xFFFFFF < tokens]
    arrived = torch.zeros_like(blocks)
    for entry in live:
        arrived[entry // plan.columns] += 1
    h, h_scale = random(capacity, inter).to(torch.float8_e4m3fn), random(steps, capacity).abs()
    w2, w2_scale = random(experts, width, inter).to(torch.float8_e4m3fn), random(experts, width // 128, steps).abs()
    # Where nothing may be read: NaN.
    padding = torch.ones(capacity, dtype=torch.bool)
    padding[live] = False
    h.view(torch.uint8)[padding] = 0x7F
    tiles = h.view(torch.uint8).view(-1, plan.columns, steps, 8, 16).permute(0, 2, 1, 3, 4)
    row = torch.arange(plan.columns) % 8
    places = torch.arange(8)[None, :] ^ row[:, None]
    tiled = torch.empty_like(tiles).scatter_(3, places[None, None, :, :, None].expand(tiles.shape), tiles)
    (kernel,) = [one for one in sm90.kept_kernels(problem, H200, plan) if one.symbol == sm90.DOWN_KEPT]
    kernel = replace(kernel, args={name: v for name, v in kernel.args.items() if isinstance(v, int | float)})
    out = torch.full((tokens, width), torch.nan, dtype=torch.bfloat16 if problem.dtype == "bf16" else torch.float16)
    given: dict[str, Tensor | None] = {
        "w2": w2, "w2_scale": w2_scale, "sorted_ids": sorted_ids, "sorted_weights": weights, "out": out,
        "sorted_expert_ids": blocks, "num_valid_ids": torch.tensor(list(rows.num_valid_ids), dtype=torch.int32),
        "h": tiled.contiguous(), "h_scale": h_scale, "arrived": arrived,
    }  # fmt: skip
    sizes = {**layer_sizes(problem, problem.interleaved), "stride_out": width}
    exact = torch.zeros(tokens, width, dtype=torch.float64)
    w = w2.double() * w2_scale.double().repeat_interleave(128, 1).repeat_interleave(128, 2)
    for entry in live:
        of = h[entry].double() * h_scale[:, entry].double().repeat_interleave(128)
        weight = 1.0 if problem.weighted_input else rows.sorted_weights[entry]
        exact[rows.sorted_ids[entry] & 0xFFFFFF] += weight * (w[rows.sorted_expert_ids[entry // plan.columns]] @ of)
    made = []
    for seed in (0, 5):
        out.fill_(torch.nan)
        simulate(kernel, given, sizes, tmp_path, seed)
        made.append(out.clone())
        assert reference.relative_error(out, exact) <= 2e-3
    assert torch.equal(*made)
