"""Routing of tokens to experts, under the names, the parameters and the defaults of `aiter`.

All six functions write to tensors of the caller's (`fused_topk` makes them where they are not given): weights in
float32 and ids in int32, [tokens, topk], best first. Rows of logits and results may be strided, each by its own stride;
columns that are no result are not touched. Logits are float32, bfloat16 or float16; up to 1,024 experts, 32 chosen and
32 groups. Nothing is differentiable; same operands, same bits.

What is chosen
    Without a bias, experts are ranked by their logits, of which the score (sigmoid or softmax) is a monotone function:
    the choice depends on no rounding, and scores that round to the same number do not tie. With one, they are ranked by
    sigmoid(logit) + bias, in float32. Ties go to the lowest index. A group is ranked by the sum of its two greatest
    choices (without a bias by its greatest); experts of dropped groups are -inf, behind those that are -inf otherwise,
    and are never chosen. The weight of an expert is its score, without the bias. `routed_scaling_factor` always
    multiplies, whether weights are divided by their sum or not. (Upstream masks by 0 in one place and by -inf in
    another, and scales in some kernels only.)

Rows that are no numbers
    Ids are distinct and name experts, and weights are finite, whatever a row holds. A NaN logit counts as -inf. For a
    sigmoid, logits below -87 count as -87, so that no score is zero or subnormal, and a row of such has equal shares.
    For a softmax, infinities count as the largest finite numbers: several of +inf share the weight. A choice that is
    NaN (as its bias may be) counts as -inf.
"""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.ops import arguments, direct
from aiterlite.ops import routing_operators as operators
from aiterlite.tables import routing as tables


def biased_grouped_topk(
    gating_output: Tensor,
    correction_bias: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    num_expert_group: int,
    topk_group: int,
    need_renorm: bool,
    routed_scaling_factor: float = 1.0,
) -> None:
    """DeepSeek's routing: sigmoid scores, a bias on the choice alone, and groups. Writes topk_weights and topk_ids.

    Args:
        gating_output: [tokens, experts].
        correction_bias: [experts], of the logits' dtype or float32.
        topk_weights, topk_ids: [tokens, topk].
        num_expert_group, topk_group: equal parts of the experts, and how many of them are kept.
        need_renorm: divide weights by their sum.
        routed_scaling_factor: multiplies weights, always.

    See the module for ties, dropped groups, NaN and infinities. Source of the semantics: `aiter.biased_grouped_topk`.
    Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    direct.call(
        operators.BIASED_GROUPED_TOPK,
        (
            *(gating_output, correction_bias, topk_weights, topk_ids),
            *(num_expert_group, topk_group, need_renorm, routed_scaling_factor),
        ),
        (topk_weights, topk_ids),
    )


def grouped_topk(
    gating_output: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    num_expert_group: int,
    topk_group: int,
    need_renorm: bool,
    is_softmax: bool = True,
    routed_scaling_factor: float = 1.0,
) -> None:
    """`biased_grouped_topk` without a bias, of the row's softmax or of sigmoids. A group is ranked by its best expert.

    A softmax is of all experts of a row, those of dropped groups too. Source of the semantics: `aiter.grouped_topk`.
    Raises as `biased_grouped_topk` does.
    """
    direct.call(
        operators.GROUPED_TOPK,
        (
            *(gating_output, topk_weights, topk_ids, num_expert_group, topk_group, need_renorm),
            *(is_softmax, routed_scaling_factor),
        ),
        (topk_weights, topk_ids),
    )


def moe_fused_gate(
    input: Tensor,
    bias: Tensor,
    topk_weights: Tensor,
    topk_ids: Tensor,
    num_expert_group: int,
    topk_group: int,
    topk: int,
    n_share_experts_fusion: int,
    routed_scaling_factor: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """`biased_grouped_topk` with weights divided by their sum, and with shared experts behind the chosen ones.

    Args:
        topk: columns of topk_weights and topk_ids that are written; these may have more.
        n_share_experts_fusion: how many of them, the last ones, are shared experts: slot i of token t is expert
            experts + (t + i) % n of weight 1. (The share that upstream gives them, 1 / routed_scaling_factor, is what
            remains where the caller scales; here the scale is applied.)

    Returns (topk_weights, topk_ids). Source of the semantics: `aiter.moe_fused_gate`. Raises as `biased_grouped_topk`
    does.
    """
    direct.call(
        operators.MOE_FUSED_GATE,
        (
            *(input, bias, topk_weights, topk_ids, num_expert_group, topk_group, topk),
            *(n_share_experts_fusion, routed_scaling_factor),
        ),
        (topk_weights, topk_ids),
    )
    return topk_weights, topk_ids


def topk_softmax(
    topk_weights: Tensor,
    topk_indices: Tensor,
    token_expert_indices: Tensor,
    gating_output: Tensor,
    need_renorm: bool,
    num_shared_experts: int = 0,
    shared_expert_scoring_func: str = "",
) -> None:
    """The greatest of each row's softmax. Writes topk_weights, topk_indices and token_expert_indices.

    Args:
        topk_weights: [tokens, topk] or wider; with scored shared experts [tokens, topk + num_shared_experts] or wider.
        topk_indices: [tokens, topk].
        token_expert_indices: int32 [tokens, topk]; slot k of token t becomes k * tokens + t.
        gating_output: [tokens, experts + num_shared_experts].
        need_renorm: divide weights by their sum.
        num_shared_experts: columns behind a row's experts, which are no part of the softmax.
        shared_expert_scoring_func: "sigmoid": the sigmoids of these are written behind a row's weights. "": nothing is.
            Ids of shared experts are the caller's.

    Source of the semantics: `aiter.topk_softmax`. Raises as `biased_grouped_topk` does.
    """
    direct.call(
        operators.TOPK_SOFTMAX,
        (
            *(topk_weights, topk_indices, token_expert_indices, gating_output),
            *(need_renorm, num_shared_experts, shared_expert_scoring_func),
        ),
        (topk_weights, topk_indices, token_expert_indices),
    )


def topk_sigmoid(topk_weights: Tensor, topk_indices: Tensor, gating_output: Tensor) -> None:
    """The greatest of each row of gating_output[tokens, experts], and their sigmoids. Writes topk_weights and
    topk_indices, [tokens, topk].

    Source of the semantics: `aiter.topk_sigmoid`. Raises as `biased_grouped_topk` does.
    """
    direct.call(operators.TOPK_SIGMOID, (topk_weights, topk_indices, gating_output), (topk_weights, topk_indices))


def fused_topk(
    hidden_states: Tensor,
    gating_output: Tensor,
    topk: int,
    renormalize: bool,
    topk_ids: Tensor | None = None,
    topk_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The greatest of each row's softmax, in tensors that are made where they are not given.

    Of hidden_states only the number of rows is looked at, which is gating_output's. Returns (topk_weights, topk_ids).
    Source of the semantics: `aiter.fused_moe.fused_topk`. Raises as `biased_grouped_topk` does.
    """
    arguments.check_tensors(tables.FUSED_TOPK.op, hidden_states=hidden_states, gating_output=gating_output)
    arguments.check_ints(tables.FUSED_TOPK.op, topk=(topk, 1, tables.MOST_TOPK))
    shape = (*gating_output.shape[:1], topk)
    weights = gating_output.new_empty(shape, dtype=torch.float32) if topk_weights is None else topk_weights
    ids = gating_output.new_empty(shape, dtype=torch.int32) if topk_ids is None else topk_ids
    direct.call(operators.FUSED_TOPK, (hidden_states, gating_output, topk, renormalize, ids, weights), (ids, weights))
    return weights, ids
