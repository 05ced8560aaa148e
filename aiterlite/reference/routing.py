"""Routing of tokens to experts in plain torch, at float64: its definition, and the tests' oracle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# A sigmoid's logits are at least this, so that no score is zero or subnormal at float32.
LEAST_LOGIT = -87.0
_MOST = torch.finfo(torch.float32).max


@dataclass(frozen=True)
class Routed:
    """The chosen, best first: `ids` [tokens, topk] int64 and `weights` float64.

    `margin` [tokens]: by how much, relative to numbers above 1, those that are compared differ at least, where they are
    not made of equal operands. Where it is small, another rounding of the scores may choose otherwise.
    """

    ids: Tensor
    weights: Tensor
    margin: Tensor


def route(
    gating: Tensor,
    topk: int,
    *,
    bias: Tensor | None = None,
    groups: int = 1,
    topk_groups: int = 1,
    score: str = "softmax",
    renorm: bool = False,
    scale: float = 1.0,
) -> Routed:
    """`topk` of each row of gating[tokens, experts]; ties go to the lowest index.

    NaN logits are the least of all; to a softmax, infinities are the largest finite numbers. With a bias the choice is
    score + bias at float32, -inf where that is NaN; without, the logit itself, of which a score is a monotone function.
    A group ranks by its two greatest choices' sum, at float32, without a bias by its greatest choice. Experts of
    dropped groups come behind all others.
    """
    logits = gating.double()
    tamed = logits.nan_to_num(-_MOST, torch.inf, -_MOST).clamp(min=-_MOST)
    if score == "softmax":
        tamed = tamed.clamp(max=_MOST)
        scores = (tamed - tamed.amax(-1, keepdim=True)).exp()
    else:
        scores = logits.nan_to_num(LEAST_LOGIT, torch.inf, LEAST_LOGIT).clamp(min=LEAST_LOGIT).sigmoid()
    choice, made_of = tamed, [tamed]
    if bias is not None:
        choice = _least_for_nan(scores.float() + bias.float()).double()
        made_of = [scores, bias.double().expand_as(scores)]
    tokens, experts = choice.shape
    shape = (tokens, groups, experts // groups)
    ranked = choice.view(shape).topk(1 if bias is None or experts == groups else 2, -1)
    of_groups = _least_for_nan(ranked.values.float().sum(-1)).double()
    of_group = [part for one in made_of for part in one.reshape(shape).gather(-1, ranked.indices).unbind(-1)]
    kept_groups, group_margin = _first(of_groups, topk_groups, of_group)
    kept = torch.zeros(tokens, groups, dtype=torch.bool, device=gating.device).scatter_(1, kept_groups, True)
    ids, margin = _first(choice, topk, made_of, kept.repeat_interleave(experts // groups, 1))
    weights = scores.gather(1, ids)
    if renorm:
        weights = weights / weights.sum(-1, keepdim=True)
    elif score == "softmax":
        weights = weights / scores.sum(-1, keepdim=True)
    return Routed(ids, weights * scale, torch.minimum(margin, group_margin))


def _least_for_nan(values: Tensor) -> Tensor:
    return values.nan_to_num(-torch.inf, torch.inf, -torch.inf)


def _first(values: Tensor, count: int, made_of: Sequence[Tensor], alive: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The places of each row's `count` greatest values that are alive, the lowest of equals first, and the margin to
    the next of each; no margin where both are infinite or made of equal operands."""
    order = values.argsort(dim=-1, descending=True, stable=True)
    if alive is not None:
        dead = ~alive.gather(1, order)
        order = order.gather(1, dead.to(torch.uint8).argsort(dim=-1, stable=True))
        values = values.masked_fill(~alive, -torch.inf)
    best = order[:, : count + 1]

    def neighbours(numbers: Tensor) -> tuple[Tensor, Tensor]:
        ranked = numbers.gather(1, best)
        return ranked[:, :-1], ranked[:, 1:]

    greater, less = neighbours(values)
    same = torch.ones_like(greater, dtype=torch.bool)
    for one, other in map(neighbours, made_of):
        same &= one == other
    same |= greater.isinf() & (greater == less)
    apart = (greater - less) / torch.minimum(greater.abs(), less.abs()).clamp(min=1.0)
    # One more column, as there is nothing to compare where all are taken.
    margins = torch.cat([apart.masked_fill(same, torch.inf), apart.new_full((len(apart), 1), torch.inf)], 1)
    return order[:, :count], margins.amin(-1)


def token_expert_indices(tokens: int, topk: int) -> Tensor:
    """What `topk_softmax` writes beside the ids: slot k of token t is k * tokens + t."""
    return (torch.arange(topk) * tokens + torch.arange(tokens).unsqueeze(1)).int()
