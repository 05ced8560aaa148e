"""Experts of MXFP4 by 8-bit products on sm_90: the kernels executed on the host under the address sanitizer, one after
the other, against float64; and which calls they serve."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import skewed_ids  # noqa: E402
from fused_moe_mxfp4_cases import Case, case_of, check, problem_of  # noqa: E402
from hostsim_sm90 import simulate  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.kernel import Kernel  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.reference.fused_moe import local_ids  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4_e4m3 as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
HOPPER = resolve("h200")
SPARE = 8  # elements between rows of x and of the result


def own_numbers(kernel: Kernel) -> Kernel:
    """Its own numbers; what lies in the workspace is given by name."""
    return replace(kernel, args={name: value for name, value in kernel.args.items() if isinstance(value, int | float)})


def simulated(case: Case, folder: Path, cluster: int = 1) -> Tensor:
    """The result of a call, between whose rows nothing may change; what kernels leave each other begins as poison.
    Workgroups of stage 2 have as many rows as of a layer of 7,168, rings are short."""
    problem, operands = case.problem, case.made
    made = replace(tables.plan(problem, HOPPER), down_rows=56, stages=3, down_groups=2, down_stages=2)
    made = replace(made, cluster=cluster, together=case.problem.precision == "a8w4")
    x = torch.full((problem.tokens, problem.width + SPARE), math.nan, dtype=torch.bfloat16)
    x[:, : problem.width] = operands.x
    out = torch.full((problem.tokens, problem.width + SPARE), -7.0, dtype=torch.bfloat16)
    left = {name: torch.full((size,), 0xFF, dtype=torch.uint8) for name, size in tables.sizes(problem, made).items()}
    tensors: dict[str, Tensor | None] = {
        "x": x, "w1": operands.w1, "w1_scale": operands.w1_scale, "w2": operands.w2, "w2_scale": operands.w2_scale,
        "topk_ids": operands.ids, "topk_weights": operands.routing, "expert_mask": operands.mask, "out": out,
        "num_local_tokens": None if case.live is None else torch.tensor([case.live], dtype=torch.int32),
        "bias1": operands.weights.bias1, "bias2": operands.weights.bias2, **left,
    }  # fmt: skip
    named = problem.global_experts if problem.masked else problem.experts
    sizes = {
        **layer_sizes(problem, problem.interleaved), "global_experts": named, "id_words": operands.ids.itemsize // 4,
        "stride_x": problem.width + SPARE, "stride_out": problem.width + SPARE, "stride_ids": problem.topk,
        "stride_weights": problem.topk, "limit": 7.0, "beta": 1.702, "linear_beta": 1.0,
    }  # fmt: skip
    for seed, kernel in enumerate(tables.kernels(problem, HOPPER, made)):
        simulate(own_numbers(kernel), tensors, sizes, folder, seed=seed)
    assert bool((out[:, problem.width :] == -7.0).all()), "a write between rows of the result"
    return out[:, : problem.width]


CASES: dict[str, dict[str, Any]] = {
    "codes": {"tokens": 9, "topk": 3, "width": 512, "inter": 256, "masked": True, "global_experts": 9},
    "eight bits": {
        **{"tokens": 10, "topk": 2, "width": 1280, "inter": 512, "precision": "a8w4", "interleaved": True},
        **{"activation": "swiglu", "bias1": True, "bias2": True, "experts": 2, "shuffled": True},
    },
}


def test_layers(tmp_path: Path) -> None:
    """Both layouts, the same bits."""
    case = case_of(problem_of(**CASES["codes"]), 3)
    got = simulated(case, tmp_path)
    check(case, got)
    shuffled = case_of(replace(case.problem, shuffled=True), 3)
    assert torch.equal(simulated(shuffled, tmp_path), got)


def test_clusters_and_eight_bits(tmp_path: Path) -> None:
    case = case_of(problem_of(**CASES["eight bits"]), 3)
    check(case, simulated(case, tmp_path, cluster=2))


def test_tokens_do_not_depend_on_others(tmp_path: Path) -> None:
    """Ids of none and of experts that are not there, an expert that a token names twice; then fewer tokens count."""
    problem = problem_of(**CASES["codes"])
    ids = skewed_ids("strange", replace(problem, experts=problem.global_experts), 3)
    ids[1, 2] = ids[1, 0]
    case = case_of(problem, 3, ids)
    whole = simulated(case, tmp_path)
    check(case, whole)
    for live in (2, 0):
        fewer = replace(case, live=live)
        got = simulated(fewer, tmp_path)
        check(fewer, got)
        assert torch.equal(got[:live], whole[:live])


def test_great_scales(tmp_path: Path) -> None:
    """Scales of 2 and more beside small ones in the same rows, and one of NaN."""
    case = case_of(problem_of(**CASES["codes"]), 5)
    for scale in (case.made.w1_scale, case.made.w2_scale):
        assert scale is not None
        scale.view(torch.uint8)[:, ::3, 1::2] += 12
        assert int(scale.view(torch.uint8).max()) >= 128
    check(case, simulated(case, tmp_path))
    assert case.made.w2_scale is not None and case.made.mask is not None
    case.made.w2_scale.view(torch.uint8)[:, 5, 2] = 255
    got = simulated(case, tmp_path)
    counts = local_ids(case.made.ids, case.problem.experts, case.made.mask).amax(1) >= 0
    assert bool(counts.any()) and torch.equal(got[:, 5].isnan(), counts)
    assert not bool(got[:, :5].isnan().any())
