"""Sorting of tokens by experts: `moe_sorting`, `moe_sorting_fwd`, `moe_align_block_size`.

What `moe_sorting` makes, for topk_ids[M, topk] and blocks of B (all int32 but the weights):

    sorted_ids          [M * topk + experts * B - topk]   slot << 24 | token, experts in order, and tokens within them
    sorted_weights      the same, float32                 the weight of each entry
    sorted_expert_ids   [a block of B entries each]       the local number of the block's expert
    num_valid_ids       [2]                               entries in use, a multiple of B; tokens in use
    moe_buf             [M, model_dim]                    zeros
    local_topk_ids      [M, topk]                         the local number of each id's expert, -1 where it has none

Each expert's entries are filled up to whole blocks by topk << 24 | M, of weight 0; an expert without entries has no
block. What lies behind the entries in use is left as it was. Experts whose mask is 0 are skipped, and the others
numbered anew. So are ids that are no expert's, such as -1, and tokens from `num_local_tokens` on; nothing else is made
of an id, so that none leads outside a buffer. The same call gives the same bits on every target.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import moe_sorting as tables

__all__ = ["moe_align_block_size", "moe_sorting", "moe_sorting_fwd"]

_FWD, _ALIGN = "moe_sorting_fwd", tables.ALIGN_OP
_ID_DTYPES = (torch.int32, torch.int64)
_MOE_BUF_DTYPES = tuple(operands.DTYPES.values())
# Operands of the kernels, in the order in which calls bring them.
_OPERANDS = (
    "topk_ids", "topk_weights", "sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids", "moe_buf",
    "local_topk_ids", "expert_mask", "num_local_tokens", "token_nums",
)  # fmt: skip


def moe_sorting(
    topk_ids: Tensor,
    topk_weights: Tensor,
    num_experts: int,
    model_dim: int,
    moebuf_dtype: torch.dtype,
    block_size: int = 32,
    expert_mask: Tensor | None = None,
    num_local_tokens: Tensor | None = None,
    dispatch_policy: int = 0,
    return_local_topk_ids: bool = False,
    accumulate: bool = True,
    flat: bool = False,
    output_aux: bool = False,
) -> tuple[Tensor, ...]:
    """(sorted_ids, sorted_weights, sorted_expert_ids, num_valid_ids, moe_buf[, local_topk_ids]), as the module says.

    Args:
        topk_ids: int32 or int64 [M, topk]; rows may be strided.
        topk_weights: float32 [M, topk], too.
        num_experts: of the ids; with a mask, `expert_mask.numel()`.
        model_dim, moebuf_dtype: of moe_buf, which a kernel that adds to it needs zeroed.
        block_size: 1 to 1024.
        expert_mask: int32 [num_experts]: 0 skips an expert.
        num_local_tokens: int32 [1], on the device: how many tokens there are, at most M.
        dispatch_policy: 0 takes what is faster, 1 one workgroup where one can, which is the same, 2 a workgroup a
            tile of pairs. The results are the same.
        return_local_topk_ids: return them as well.
        accumulate: False if nothing will be added to moe_buf, which then is an empty [0, model_dim].
        flat, output_aux: not here.

    Source of the semantics: `aiter.fused_moe.moe_sorting`. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    if flat:
        raise ArgumentError(tables.OP, "flat", flat, "False", "Sort, or route inside a kernel that needs no sorting.")
    if output_aux:
        remedy = "Make them from sorted_ids: an entry's token is its lower 24 bits, its slot the upper ones."
        raise ArgumentError(tables.OP, "output_aux", output_aux, "False", remedy)
    _check_ids(tables.OP, topk_ids, topk_weights)
    _check_numbers(tables.OP, dispatch_policy, num_experts=num_experts, block_size=block_size)
    _check_read(tables.OP, topk_ids, num_experts, num_local_tokens, expert_mask=expert_mask)
    if moebuf_dtype not in _MOE_BUF_DTYPES:
        raise ArgumentError(tables.OP, "moebuf_dtype", moebuf_dtype, ", ".join(map(str, _MOE_BUF_DTYPES)))
    arguments.check_ints(tables.OP, model_dim=(model_dim, 0, 2**31 - 1))
    tokens, topk = topk_ids.shape
    entries = tables.capacity(tokens, topk, num_experts, block_size)
    ints = functools.partial(torch.empty, dtype=torch.int32, device=topk_ids.device)
    sorted_ids = ints(entries)
    sorted_weights = torch.empty(entries, dtype=torch.float32, device=topk_ids.device)
    sorted_expert_ids = ints(_blocks(entries, block_size))
    num_valid_ids = ints(2)
    rows = tokens if accumulate else 0
    moe_buf = torch.empty((rows, model_dim), dtype=moebuf_dtype, device=topk_ids.device)
    local_topk_ids = ints((tokens if return_local_topk_ids else 0, topk))
    made = (sorted_ids, sorted_weights, sorted_expert_ids, num_valid_ids, moe_buf)
    SORT(
        topk_ids, topk_weights, *made, local_topk_ids, expert_mask, num_local_tokens,
        num_experts, block_size, dispatch_policy,
    )  # fmt: skip
    return (*made, local_topk_ids) if return_local_topk_ids else made


def moe_sorting_fwd(
    topk_ids: Tensor,
    topk_weights: Tensor,
    sorted_token_ids: Tensor,
    sorted_weights: Tensor,
    sorted_expert_ids: Tensor,
    num_valid_ids: Tensor,
    moe_buf: Tensor,
    num_experts: int,
    unit_size: int,
    local_expert_mask: Tensor | None = None,
    num_local_tokens: Tensor | None = None,
    dispatch_policy: int = 0,
) -> None:
    """`moe_sorting` into buffers of the caller's, for blocks of `unit_size`.

    They are contiguous and hold what any ids may need: M * topk + min(num_experts, M * topk) * (unit_size - 1) entries,
    in whole blocks, and one of sorted_expert_ids for each block. num_valid_ids may have one entry; then the number of
    tokens is not said. All of moe_buf is zeroed, also its rows from `num_local_tokens` on.

    Source of the semantics: `aiter.moe_sorting_fwd`. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    arguments.check_tensors(_FWD, sorted_token_ids=sorted_token_ids)
    nothing = sorted_token_ids.new_empty(0)
    SORT(
        topk_ids, topk_weights, sorted_token_ids, sorted_weights, sorted_expert_ids, num_valid_ids, moe_buf, nothing,
        local_expert_mask, num_local_tokens, num_experts, unit_size, dispatch_policy,
    )  # fmt: skip


def moe_align_block_size(
    topk_ids: Tensor,
    num_experts: int,
    block_size: int,
    sorted_token_ids: Tensor,
    experts_ids: Tensor,
    token_nums: Tensor,
    num_tokens_post_pad: Tensor,
) -> None:
    """Sort the places of ids by experts, into int32 buffers of the caller's.

    Entry i of `sorted_token_ids` is a place in topk_ids (int32 or int64, contiguous, of any shape), ascending within an
    expert; each expert's are filled up to whole blocks by topk_ids.numel(). `experts_ids` is each block's expert,
    `token_nums` how many ids its expert has from the block on, `num_tokens_post_pad` [1] how many entries are in use.
    Ids that are no expert's are skipped. What lies behind the entries in use is left as it was.

    Source of the semantics: `aiter.moe_align_block_size`, whose order within an expert differs from run to run, and
    which leaves filling up to the caller. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    ALIGN(topk_ids, sorted_token_ids, experts_ids, token_nums, num_tokens_post_pad, num_experts, block_size)


# Sorting --------------------------------------------------------------------------------------------------------------


def _check_ids(op: str, ids: Tensor, weights: Tensor) -> None:
    arguments.check_tensors(op, topk_ids=ids, topk_weights=weights)
    operands.check_dims(op, "topk_ids", ids, 2, "[tokens, topk]")
    operands.check_dtype(op, "topk_ids", ids, _ID_DTYPES)
    operands.check_shape(op, "topk_weights", weights, [ids.shape])
    operands.check_dtype(op, "topk_weights", weights, (torch.float32,))
    operands.check_device(op, "topk_weights", weights, ids, "topk_ids")
    operands.check_dense(op, topk_ids=ids, topk_weights=weights)


def _check_numbers(op: str, policy: int, **limited: int) -> None:
    """The number of experts, then the size of blocks, each by the name that its function has for it."""
    most = (tables.MOST_EXPERTS, tables.MOST_BLOCK)
    arguments.check_ints(
        op, **{name: (value, 1, most) for (name, value), most in zip(limited.items(), most, strict=True)}
    )
    if policy not in tables.POLICIES:
        raise ArgumentError(op, "dispatch_policy", policy, ", ".join(map(str, tables.POLICIES)))


def _check_read(op: str, ids: Tensor, experts: int, live: Tensor | None, **masks: Tensor | None) -> None:
    """What is read besides ids and weights, where it is there."""
    for name, mask in masks.items():
        _check_held(op, name, mask, ids, experts, "It has one entry an expert, of all ranks; pass num_experts as many.")
    _check_held(op, "num_local_tokens", live, ids, 1, "Leave it out where all tokens count.")


_REMEDY = "Make it for the largest batch: what any ids may need depends on tokens, experts and the block size."


def _check_held(
    op: str,
    name: str,
    tensor: Tensor | None,
    ids: Tensor,
    least: int,
    remedy: str = _REMEDY,
    dtypes: Sequence[torch.dtype] = (torch.int32,),
) -> None:
    """Contiguous, on the device of the ids, of so many entries or more."""
    if tensor is None:
        return
    arguments.check_tensors(op, **{name: tensor})
    operands.check_dtype(op, name, tensor, dtypes)
    operands.check_device(op, name, tensor, ids, "topk_ids")
    arguments.check_contiguous(op, **{name: tensor})
    if tensor.numel() < least:
        raise ArgumentError(op, name, f"of {tensor.numel()} entries", f"at least {least}", remedy)


def _blocks(entries: int, block_size: int) -> int:
    return -(-entries // block_size)


def _check_sort(*args: Any) -> None:
    """Raises `ArgumentError`, in the names of `moe_sorting_fwd`: the other function checks what it takes, by its own
    names, and makes the rest."""
    (ids, weights, sorted_ids, sorted_weights, expert_ids, num_valid, moe_buf, local, mask, live,
     experts, block_size, policy) = args  # fmt: skip
    _check_ids(_FWD, ids, weights)
    _check_numbers(_FWD, policy, num_experts=experts, unit_size=block_size)
    pairs = ids.shape[0] * ids.shape[1]
    entries = tables.least_capacity(pairs, experts, block_size)
    held = functools.partial(_check_held, _FWD, ids=ids)
    held("sorted_token_ids", sorted_ids, least=entries)
    held("sorted_weights", sorted_weights, least=entries, dtypes=(torch.float32,))
    held("sorted_expert_ids", expert_ids, least=_blocks(entries, block_size))
    held("num_valid_ids", num_valid, least=1)
    held("moe_buf", moe_buf, least=0, dtypes=_MOE_BUF_DTYPES)
    held("local_topk_ids", local, least=pairs if local.numel() else 0)
    _check_read(_FWD, ids, experts, live, local_expert_mask=mask)


def _prepare_sort(*args: Any) -> Run:
    (ids, weights, sorted_ids, sorted_weights, expert_ids, num_valid, moe_buf, local, mask, live,
     experts, block_size, policy) = args  # fmt: skip
    _check_sort(*args)
    tokens, topk = ids.shape
    problem = tables.SortProblem(tokens, experts, topk, block_size, moe_buf.nbytes, policy, mask is not None)
    decision = calls.decide(tables.TABLE, problem, calls.persona_of(tables.OP, ids.device))
    named = {"local_topk_ids": local, "moe_buf": moe_buf, "expert_mask": mask, "num_local_tokens": live}
    absent = {"token_nums", *[name for name, tensor in named.items() if tensor is None or not tensor.numel()]}
    given = {"sorted_ids": sorted_ids, "sorted_weights": sorted_weights, "sorted_expert_ids": expert_ids}
    given |= {"topk_ids": ids, "topk_weights": weights}
    absent |= {name for name, tensor in given.items() if not tensor.numel()}
    sizes = _sizes(ids, tokens, topk) | {
        "padding": topk << 24 | tokens,
        "valid_words": min(2, num_valid.numel()),
        "moe_buf_bytes": moe_buf.nbytes,
        "stride_ids": ids.stride(0),
        "stride_weights": weights.stride(0),
    }
    launch = launches.prepare(decision, ids.device, _OPERANDS, sizes, sorted(absent))

    def run(*args: Any) -> None:
        launch(*args[:10], None)

    return run


def _sizes(ids: Tensor, tokens: int, topk: int) -> dict[str, int | float]:
    return {"tokens": tokens, "topk": topk, "id_words": ids.itemsize // 4}


def _check_align(*args: Any) -> None:
    ids, sorted_ids, expert_ids, nums, post_pad, experts, block_size = args
    _check_numbers(_ALIGN, 0, num_experts=experts, block_size=block_size)
    entries = tables.least_capacity(ids.numel(), experts, block_size)
    held = functools.partial(_check_held, _ALIGN, ids=ids)
    held("topk_ids", ids, least=0, dtypes=_ID_DTYPES)
    held("sorted_token_ids", sorted_ids, least=entries)
    held("experts_ids", expert_ids, least=_blocks(entries, block_size))
    held("token_nums", nums, least=_blocks(entries, block_size))
    held("num_tokens_post_pad", post_pad, least=1)


def _prepare_align(*args: Any) -> Run:
    ids, sorted_ids, expert_ids, nums, _, experts, block_size = args
    _check_align(*args)
    problem = tables.AlignProblem(ids.numel(), experts, block_size)
    decision = calls.decide(tables.ALIGN_TABLE, problem, calls.persona_of(_ALIGN, ids.device))
    named = {"topk_ids": ids, "sorted_ids": sorted_ids, "sorted_expert_ids": expert_ids, "token_nums": nums}
    absent = {"topk_weights", "sorted_weights", "moe_buf", "local_topk_ids", "expert_mask", "num_local_tokens"}
    absent |= {name for name, tensor in named.items() if not tensor.numel()}
    sizes = _sizes(ids, ids.numel(), 1) | {
        "padding": ids.numel(), "valid_words": 1, "moe_buf_bytes": 0, "stride_ids": 1, "stride_weights": 0,
    }  # fmt: skip
    launch = launches.prepare(decision, ids.device, _OPERANDS, sizes, sorted(absent))

    def run(*args: Any) -> None:
        ids, sorted_ids, expert_ids, nums, post_pad, *_ = args
        launch(ids, None, sorted_ids, None, expert_ids, post_pad, None, None, None, None, nums)

    return run


SORT = register(
    f"{tables.OP}(Tensor topk_ids, Tensor topk_weights, Tensor(a!) sorted_token_ids, Tensor(b!) sorted_weights, "
    "Tensor(c!) sorted_expert_ids, Tensor(d!) num_valid_ids, Tensor(e!) moe_buf, Tensor(f!) local_topk_ids, "
    "Tensor? local_expert_mask, Tensor? num_local_tokens, int num_experts, int unit_size, int dispatch_policy) -> ()",
    _prepare_sort,
    _check_sort,
)
ALIGN = register(
    f"{_ALIGN}(Tensor topk_ids, Tensor(a!) sorted_token_ids, Tensor(b!) experts_ids, Tensor(c!) token_nums, "
    "Tensor(d!) num_tokens_post_pad, int num_experts, int block_size) -> ()",
    _prepare_align,
    _check_align,
)
