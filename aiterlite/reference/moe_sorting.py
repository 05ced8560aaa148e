"""The sorting of tokens by experts, and the sum over slots, in plain Python: their definition, the tests' oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

Rows = Sequence[Sequence[int]]


@dataclass
class Sorted:
    """What a sorting writes: the valid prefix of each buffer. `token_nums` are the pairs of a block's expert from that
    block on."""

    sorted_ids: list[int] = field(default_factory=list)
    sorted_weights: list[float] = field(default_factory=list)
    sorted_expert_ids: list[int] = field(default_factory=list)
    token_nums: list[int] = field(default_factory=list)
    local_topk_ids: list[list[int]] = field(default_factory=list)
    num_valid_ids: tuple[int, int] = (0, 0)


def moe_sorting(
    topk_ids: Rows,
    topk_weights: Sequence[Sequence[float]],
    num_experts: int,
    block_size: int,
    expert_mask: Sequence[int] | None = None,
    num_local_tokens: int | None = None,
) -> Sorted:
    """Experts ascend, within each of them tokens, and of one token slots. An entry is the slot << 24 | the token;
    blocks are filled up with the number of slots << 24 | the number of tokens. Ids that are no expert's, and experts
    whose mask is 0, do not count; those that do are numbered anew."""
    tokens, topk = len(topk_ids), len(topk_ids[0]) if len(topk_ids) else 0
    live = tokens if num_local_tokens is None else min(max(num_local_tokens, 0), tokens)
    counting = [expert for expert in range(num_experts) if expert_mask is None or expert_mask[expert]]
    local = {expert: number for number, expert in enumerate(counting)}
    of: dict[int, list[tuple[int, float]]] = {expert: [] for expert in counting}
    for token in range(live):
        for slot, expert in enumerate(topk_ids[token]):
            if expert in of:
                of[expert].append((slot << 24 | token, topk_weights[token][slot]))
    made = Sorted()
    for expert, entries in of.items():
        padding = -len(entries) % block_size
        made.sorted_ids += [entry for entry, _ in entries] + [topk << 24 | tokens] * padding
        made.sorted_weights += [weight for _, weight in entries] + [0.0] * padding
        for left in range(len(entries), 0, -block_size):
            made.sorted_expert_ids.append(local[expert])
            made.token_nums.append(left)
    made.local_topk_ids = [
        [local.get(expert, -1) if token < live else -1 for expert in row] for token, row in enumerate(topk_ids)
    ]
    made.num_valid_ids = len(made.sorted_ids), live
    return made


def moe_align_block_size(topk_ids: Sequence[int], num_experts: int, block_size: int) -> Sorted:
    """The same of single ids: an entry is the place of an id, blocks are filled up with the number of ids."""
    made = moe_sorting([[expert] for expert in topk_ids], [[0.0]] * len(topk_ids), num_experts, block_size)
    made.sorted_ids = [len(topk_ids) if entry >> 24 else entry for entry in made.sorted_ids]
    return made


def moe_sum(input: Tensor) -> Tensor:
    """Of input[tokens, slots, width] the sum over slots, added in float32 in their order, and rounded once."""
    total = torch.zeros(input.shape[0], input.shape[2])
    for slot in range(input.shape[1]):
        total = total + input[:, slot].float().cpu()
    return total.to(input.dtype)
