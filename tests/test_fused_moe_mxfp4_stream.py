"""Experts of MXFP4 for a few tokens on sm_90, without sorting: both kernels executed on the host under the address
sanitizer, one after the other, against float64; and which calls they serve."""

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

from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.kernel import Kernel  # noqa: E402
from aiterlite.ops.fused_moe import layer_sizes  # noqa: E402
from aiterlite.reference.fused_moe import local_ids  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4_sm90 as tables  # noqa: E402
from aiterlite.tables.fused_moe import TABLE  # noqa: E402
from aiterlite.tables.fused_moe_problem import MoeProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
HOPPER = resolve("h200")
SPARE = 8  # elements between rows of x and of the result


def own_numbers(kernel: Kernel) -> Kernel:
    """Its own numbers; what lies in the workspace is given by name."""
    return replace(kernel, args={name: value for name, value in kernel.args.items() if isinstance(value, int | float)})


def simulated(case: Case, folder: Path, made: tables.Plan | None = None, **asked: Tensor | None) -> Tensor:
    """The result of a call, between whose rows nothing may change; h begins as NaN."""
    problem, operands = case.problem, case.made
    made = made or tables.plan(problem, HOPPER)
    x = torch.full((problem.tokens, problem.width + SPARE), math.nan, dtype=torch.bfloat16)
    x[:, : problem.width] = operands.x
    out = torch.full((problem.tokens, problem.width + SPARE), -7.0, dtype=torch.bfloat16)
    tensors: dict[str, Tensor | None] = {
        "x": x, "w1": operands.w1, "w1_scale": operands.w1_scale, "w2": operands.w2, "w2_scale": operands.w2_scale,
        "topk_ids": operands.ids, "topk_weights": operands.routing, "expert_mask": operands.mask, "out": out,
        "num_local_tokens": None if case.live is None else torch.tensor([case.live], dtype=torch.int32),
        "bias1": operands.weights.bias1, "bias2": operands.weights.bias2,
        "h": torch.full((problem.pairs, problem.inter), math.nan, dtype=torch.bfloat16), **asked,
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
    "codes": {"tokens": 3, "topk": 3, "width": 384, "masked": True, "global_experts": 40},
    "codes, whole blocks of h": {"tokens": 5, "topk": 7, "experts": 9, "width": 256, "bias2": True},
    "kept": {
        **{"tokens": 1, "topk": 2, "precision": "a16w4", "weighted_input": True, "bias1": True},
        **{"width": 11 * 128, "activation": "gelu"},
    },
    "eight bits": {
        **{"tokens": 5, "topk": 2, "precision": "a8w4", "interleaved": True, "activation": "swiglu", "shuffled": True},
    },
}


@pytest.mark.parametrize("name", CASES)
def test_layers(name: str, tmp_path: Path) -> None:
    case = case_of(problem_of(**CASES[name]), 3)
    got = simulated(case, tmp_path)
    check(case, got)
    if name == "codes":
        shuffled = case_of(replace(case.problem, shuffled=True), 3)
        assert torch.equal(simulated(shuffled, tmp_path), got)


def test_tokens_do_not_depend_on_others(tmp_path: Path) -> None:
    """Ids of none and of experts that are not there, an expert that a token names twice, more pairs of one than go
    together; then the same call, of which fewer tokens count."""
    problem = problem_of(**CASES["codes"])
    ids = skewed_ids("strange", replace(problem, experts=problem.global_experts), 3)
    mask = case_of(problem, 3, ids).made.mask
    assert mask is not None
    ids[:, 0] = int(mask.nonzero()[0])
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
    """Scales of 2 and more, which take two multiplications, beside small ones in the same rows."""
    case = case_of(problem_of(**CASES["codes"]), 5)
    for scale in (case.made.w1_scale, case.made.w2_scale):
        assert scale is not None
        scale.view(torch.uint8)[:, ::3, 1::2] += 12
        assert int(scale.view(torch.uint8).max()) >= 128
    check(case, simulated(case, tmp_path))


def test_a_scale_of_nan(tmp_path: Path) -> None:
    case = case_of(problem_of(**CASES["codes"]), 6)
    assert case.made.w2_scale is not None
    case.made.w2_scale.view(torch.uint8)[:, 5, 2] = 255
    got = simulated(case, tmp_path)
    assert case.made.mask is not None
    counts = local_ids(case.made.ids, case.problem.experts, case.made.mask).amax(1) >= 0
    assert bool(counts.any()) and torch.equal(got[:, 5].isnan(), counts)
    assert not bool(got[:, :5].isnan().any())


def served(**fields: Any) -> str:
    given = {"tokens": 1, "topk": 8, "experts": 256, "width": 7168, "inter": 256, **fields}
    row = decide(TABLE, problem_of(**given), HOPPER).row
    return "" if row is None else row.name


def test_which_calls_they_serve() -> None:
    for fields, row in (
        ({}, "mxfp4_stream"),
        ({"tokens": 8, "inter": 512, "shuffled": True}, "mxfp4_stream"),
        ({"tokens": 8, "topk": 9}, "mxfp4_e4m3"),
        ({"tokens": 9, "topk": 2}, "mxfp4_e4m3"),
        ({"dtype": "fp16"}, "mxfp4_mma"),
        ({"quantised": True}, "mxfp4_mma"),
        ({"by_slots": True}, "mxfp4_mma"),
        ({"width": 96}, "mxfp4_mma"),
        ({"inter": 4096}, "mxfp4_mma"),
        ({"tokens": 2}, "mxfp4_e4m3"),
        ({"tokens": 64, "inter": 512}, "mxfp4_e4m3"),
        ({"tokens": 64, "experts": 16}, "mxfp4_mma"),
        ({"tokens": 64, "shuffled": True}, "mxfp4_mma"),
        ({"tokens": 64, "precision": "a8w4"}, "mxfp4_mma"),
    ):
        assert served(**fields) == row, fields


def test_plans_fill_the_chip() -> None:
    """Shared memory of the workgroups that are to be resident fits, and stage 1 has one for most multiprocessors."""
    for tokens in range(1, 9):
        for inter in (256, 512, 2048):
            problem: MoeProblem = problem_of(tokens=tokens, topk=8, experts=256, width=7168, inter=inter)
            made = tables.plan(problem, HOPPER)
            first, second = tables.kernels(problem, HOPPER, made)
            assert first.grid[0] >= 128 and second.grid[0] >= 3 * HOPPER.cu_count
            assert made.resident * (first.lds + 1024) <= 227 << 10
            assert made.down_resident * (second.lds + 1024) <= 227 << 10
