"""Samples of sorting by experts: distinct experts drawn for each token, a few ids of none; buffers of zeros."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import moe_sorting as ops
from aiterlite.ops import moe_sum, operands
from aiterlite.ops.samples import Exact, Sample
from aiterlite.reference import moe_sorting as reference
from aiterlite.tables import moe_sorting as tables
from aiterlite.tables.moe_sorting import AlignProblem, SortProblem, SumProblem

# Every so many pairs one has no expert.
_NONE_EACH = 53


def _ids(tokens: int, topk: int, experts: int, seed: int) -> Tensor:
    if topk > experts:
        raise ArgumentError("sample", "topk", topk, f"at most experts, {experts}")
    scores = torch.rand(tokens, experts, generator=torch.Generator().manual_seed(seed))
    ids = scores.topk(topk, dim=1).indices.int()
    ids.view(-1)[_NONE_EACH - 1 :: _NONE_EACH] = -1
    return ids.contiguous()


def _filled(like: Tensor, prefix: list[Any]) -> Exact:
    """The buffer of zeros with what a sorting writes to its front."""
    whole = like.clone()
    whole[: len(prefix)] = torch.tensor(prefix, dtype=whole.dtype)
    return Exact(whole)


def _sort(problem: SortProblem, seed: int) -> Sample:
    tokens, topk, experts, block_size = problem.tokens, problem.topk, problem.experts, problem.block_size
    ids = _ids(tokens, topk, experts, seed)
    weights = torch.rand(tokens, topk, generator=torch.Generator().manual_seed(seed + 1))
    entries = tables.capacity(tokens, topk, experts, block_size)
    ints = functools.partial(torch.zeros, dtype=torch.int32)
    mask = (torch.arange(experts) % 3 != 0).int() if problem.masked else None
    made = reference.moe_sorting(
        ids.tolist(), weights.tolist(), experts, block_size, None if mask is None else mask.tolist()
    )
    inputs = {"topk_ids": ids, "topk_weights": weights, "sorted_token_ids": ints(entries)}
    inputs |= {"sorted_weights": torch.zeros(entries), "sorted_expert_ids": ints(-(-entries // block_size))}
    inputs |= {"num_valid_ids": ints(2), "moe_buf": torch.ones(problem.cleared // 2, dtype=torch.bfloat16)}
    inputs |= {"local_topk_ids": ints(tokens, topk)}
    if mask is not None:
        inputs["expert_mask"] = mask
    return Sample(
        inputs=inputs,
        bind=lambda given: functools.partial(
            ops.SORT, *list(given.values())[:8], given.get("expert_mask"), None, experts, block_size, problem.policy
        ),
        results=(),
        outputs={
            "sorted_token_ids": _filled(inputs["sorted_token_ids"], made.sorted_ids),
            "sorted_expert_ids": _filled(inputs["sorted_expert_ids"], made.sorted_expert_ids),
            "sorted_weights": _filled(inputs["sorted_weights"], made.sorted_weights),
            "num_valid_ids": Exact(torch.tensor(made.num_valid_ids, dtype=torch.int32)),
            "moe_buf": Exact(torch.zeros_like(inputs["moe_buf"])),
            "local_topk_ids": Exact(torch.tensor(made.local_topk_ids, dtype=torch.int32).view(tokens, topk)),
        },
    )


def _align(problem: AlignProblem, seed: int) -> Sample:
    ids = torch.randint(-1, problem.experts, (problem.pairs,), generator=torch.Generator().manual_seed(seed)).int()
    entries = tables.capacity(problem.pairs, 1, problem.experts, problem.block_size)
    ints = functools.partial(torch.zeros, dtype=torch.int32)
    blocks = -(-entries // problem.block_size)
    inputs = {"topk_ids": ids, "sorted_token_ids": ints(entries), "experts_ids": ints(blocks)}
    inputs |= {"token_nums": ints(blocks), "num_tokens_post_pad": ints(1)}
    made = reference.moe_align_block_size(ids.tolist(), problem.experts, problem.block_size)
    return Sample(
        inputs=inputs,
        bind=lambda given: functools.partial(ops.ALIGN, *given.values(), problem.experts, problem.block_size),
        results=(),
        outputs={
            "sorted_token_ids": _filled(inputs["sorted_token_ids"], made.sorted_ids),
            "experts_ids": _filled(inputs["experts_ids"], made.sorted_expert_ids),
            "token_nums": _filled(inputs["token_nums"], made.token_nums),
            "num_tokens_post_pad": Exact(torch.tensor(made.num_valid_ids[:1], dtype=torch.int32)),
        },
    )


def _sum(problem: SumProblem, seed: int) -> Sample:
    operands.check_choice("sample", "dtype", problem.dtype, tuple(operands.DTYPES))
    generator = torch.Generator().manual_seed(seed)
    dtype = operands.DTYPES[problem.dtype]
    # Rows that are no whole vectors lie one element further apart than they are long.
    width = problem.width if problem.vectors else problem.width | 1
    made = torch.randn(problem.tokens, problem.topk, width + (0 if problem.vectors else 2), generator=generator)
    given = made.to(dtype)[..., : problem.width]
    return Sample(
        inputs={"input": given, "output": torch.zeros(problem.tokens, problem.width, dtype=dtype)},
        bind=lambda given: functools.partial(moe_sum.SUM, given["input"], given["output"]),
        results=(),
        outputs={"output": Exact(reference.moe_sum(given))},
        baseline=lambda given: torch.sum(given["input"], 1, out=given["output"]),
    )


SAMPLES: dict[str, Callable[[Any, int], Sample]] = {
    tables.OP: _sort,
    tables.ALIGN_OP: _align,
    tables.SUM_OP: _sum,
}
