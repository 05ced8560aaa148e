"""The stages of experts of MXFP4 weights as sm_90 compiles them, executed on the host under the address sanitizer: each
by itself, on sorted entries, against float64."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_mxfp4_cases import Case, case_of, problem_of  # noqa: E402
from hostsim_sm90 import simulate  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.kernel import Kernel  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.ops.samples import fused_moe as samples  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.reference import moe_sorting, mxfp4  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4 as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
CASES: list[dict[str, Any]] = [
    {"tokens": 3, "topk": 2, "experts": 3, "width": 160, "inter": 96},
    {"tokens": 20, "topk": 1, "experts": 2, "width": 192, "inter": 64, "shuffled": True, "weighted_input": True},
    {"tokens": 12, "topk": 2, "experts": 2, "width": 96, "inter": 32, "precision": "a16w4", "interleaved": True},
    {"tokens": 9, "topk": 2, "experts": 2, "width": 96, "inter": 64, "precision": "a8w4"},
]


def h_of(case: Case) -> Tensor:
    """float64 [tokens, topk, inter], before it is rounded; zeros where a slot has no expert."""
    problem, made = case.problem, case.made
    rounding = samples.rounding_of(problem)
    x = made.x.double() if rounding is None else reference.rounded_by_groups(made.x, rounding)
    h = torch.zeros(problem.tokens, problem.topk, problem.inter, dtype=torch.float64)
    for token, row in enumerate(made.ids.tolist()):
        for slot, expert in enumerate(row):
            if not 0 <= expert < problem.experts:
                continue
            (gate, up), (of_gate, of_up) = made.weights.gate_up(expert), made.weights.gate_up_bias(expert)
            given = x[token] * (made.routing[token, slot].double() if problem.weighted_input else 1.0)
            h[token, slot] = samples.activation_of(problem)(gate @ given + of_gate, up @ given + of_up)
    return h


def only(kernel: Kernel) -> Kernel:
    """Its own numbers; what lies in the workspace is given by name. The simulation asks how much shared memory a kernel
    sizes itself: none."""
    numbers = {name: value for name, value in kernel.args.items() if isinstance(value, int | float)}
    unit = replace(kernel.unit, defines=(*kernel.unit.defines, ("AITERLITE_SHARED_BYTES", "0")))
    return replace(kernel, args=numbers, unit=unit)


@pytest.mark.parametrize("number", range(len(CASES)))
def test_stages(number: int, tmp_path: Path) -> None:
    check_stages(CASES[number], number, tmp_path)


def check_stages(fields: dict[str, Any], seed: int, tmp_path: Path) -> None:
    problem = problem_of(**fields)
    case, persona = case_of(problem, seed), resolve("h200")
    made, packed = case.made, problem.precision == "a4w4"
    plan = tables.plan(problem, persona)
    first, second = (only(k) for k in tables.kernels(problem, persona, plan) if "mxfp4_stage" in k.unit.name)
    rows = moe_sorting.moe_sorting(made.ids.tolist(), made.routing.tolist(), problem.experts, plan.entries)
    ids = torch.full((plan.blocks * plan.entries,), -1, dtype=torch.int32)
    experts = torch.full((plan.blocks,), 1 << 20, dtype=torch.int32)
    weights = torch.full((len(ids),), torch.nan)
    for to, values in ((ids, rows.sorted_ids), (weights, rows.sorted_weights), (experts, rows.sorted_expert_ids)):
        to[: len(values)] = torch.tensor(values, dtype=to.dtype)
    x: Tensor = made.x
    x_scale = None
    if packed:
        x, x_scale = mxfp4.quantise(made.x)
    elif problem.precision == "a8w4":
        x = reference.rounded_by_groups(made.x, reference.MXFP8).bfloat16()
    pairs, inter, blocks = problem.pairs, problem.inter, problem.inter // 32
    h = torch.full((pairs, inter // 2 if packed else 2 * inter), 0xEE, dtype=torch.uint8)
    h_scale = torch.full((pairs, blocks), 0xEE, dtype=torch.uint8) if packed else None
    sizes = {
        **layer_sizes(problem, problem.interleaved), "block_size": plan.entries, "stride_x": x.shape[1],
        "stride_scale_token": problem.width // 32, "stride_scale_group": 1, "limit": 7.0, "beta": 1.702,
        "linear_beta": 1.0,
    }  # fmt: skip
    given: dict[str, Tensor | None] = {
        "x": x, "x_scale": x_scale, "w1": made.w1, "w1_scale": made.w1_scale, "w2": made.w2, "w2_scale": made.w2_scale,
        "sorted_ids": ids, "sorted_weights": weights, "sorted_expert_ids": experts,
        "num_valid_ids": torch.tensor(list(rows.num_valid_ids), dtype=torch.int32), "h": h, "h_scale": h_scale,
        "bias1": made.weights.bias1, "bias2": made.weights.bias2,
    }  # fmt: skip
    simulate(first, given, sizes, tmp_path)
    counts = reference.local_ids(made.ids, problem.experts).flatten() >= 0
    exact = h_of(case).view(pairs, inter)
    if packed:
        assert h_scale is not None
        got = mxfp4.dequantise(h, h_scale).double()
        wanted = reference.rounded_by_groups(exact.bfloat16(), reference.MXFP4)
    else:
        got, wanted = h.view(torch.bfloat16).double(), exact
    if problem.precision == "a8w4":
        wanted = reference.rounded_by_groups(exact.bfloat16(), reference.MXFP8)
    assert reference.relative_error(got[counts], wanted[counts]) <= 5e-3
    assert bool((h[~counts] == 0xEE).all()), "h of a slot without an expert was written"

    slots = torch.full((pairs, problem.width), torch.nan, dtype=case.dtype)
    simulate(second, {**given, "slots": slots}, sizes, tmp_path, seed=3)
    routing = torch.ones_like(made.routing) if problem.weighted_input else made.routing
    for pair in counts.nonzero().flatten().tolist():
        expert, weight = int(made.ids.view(-1)[pair]), float(routing.view(-1)[pair])
        exact_slot = (made.weights.down(expert) @ got[pair] + made.weights.down_bias(expert)) * weight
        assert reference.relative_error(slots[pair], exact_slot) <= 5e-3
    assert bool(slots[~counts].isnan().all()), "a slot without an expert was written"
