"""Multi-head latent attention: `mla_decode_fwd`, `mla_prefill_fwd` and `mla_reduce_v1`.

What a call means is in the docstrings; what a piece of it is, in csrc/include/aiterlite/mla/work.h.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from aiterlite.dispatch import Table
from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import calls, operands
from aiterlite.ops import mla_operands as checks
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.tables import mla as tables

_OP, _PREFILL, _REDUCE = tables.DECODE.op, tables.PREFILL.op, tables.REDUCE.op
_DECODE_OPERANDS = (
    *("q", "kv_buffer", "o", "lse", "partial", "partial_lse"),
    *("qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens", "splits_indptr"),
    *(*checks.PLAN[1:], "q_scale", "kv_scale"),
)
_REDUCE_OPERANDS = ("partial", "partial_lse", "o", "lse", "reduce_indptr", "reduce_final_map", "reduce_partial_map")


def mla_decode_fwd(
    q: Tensor,
    kv_buffer: Tensor,
    o: Tensor,
    qo_indptr: Tensor,
    kv_indptr: Tensor,
    kv_indices: Tensor,
    kv_last_page_lens: Tensor,
    max_seqlen_q: int,
    page_size: int = 1,
    nhead_kv: int = 1,
    sm_scale: float | None = None,
    logit_cap: float = 0.0,
    num_kv_splits: int | None = None,
    num_kv_splits_indptr: Tensor | None = None,
    work_meta_data: Tensor | None = None,
    work_indptr: Tensor | None = None,
    work_info_set: Tensor | None = None,
    reduce_indptr: Tensor | None = None,
    reduce_final_map: Tensor | None = None,
    reduce_partial_map: Tensor | None = None,
    q_scale: Tensor | None = None,
    kv_scale: Tensor | None = None,
    intra_batch_mode: bool = False,
    return_logits: bool = False,
    return_lse: bool = False,
    g_kv_indptr: Tensor | None = None,
    cp_world_size: int = 1,
    cp_rank: int = 0,
    causal: bool = True,
) -> tuple[Tensor | None, Tensor | None]:
    """Attention of a few tokens of each request over its paged latent KV; writes `o`.

    softmax(sm_scale · q_scale · kv_scale · q k^T) · v · kv_scale, where v is the first 512 columns of k's rows.

    Args:
        q: [total_q, heads, 576], contiguous, of bfloat16, float16 or an 8-bit e4m3 type; 1 to 128 heads.
        kv_buffer: [pages, page_size, 1, 576] of q's type, or of an 8-bit one beside a 16-bit q; rows of a page and
            pages may be strided by multiples of 16 bytes.
        o: [total_q, heads, 512], contiguous, of q's type; bfloat16 or float16 for an 8-bit q.
        qo_indptr: int32 [batch + 1]: request b has the rows of q from qo_indptr[b] to qo_indptr[b + 1]. Rows of o that
            are no request's are not written.
        kv_indptr: int32 [batch + 1]: and the pages that stand in kv_indices from kv_indptr[b] to kv_indptr[b + 1].
        kv_indices: int32, page numbers; may be longer. A token of an index that names no page (-1) does not exist.
        kv_last_page_lens: int32 [batch]: tokens of each request's last page; not read for pages of 1.
        max_seqlen_q: the most rows of q that a request has.
        page_size, nhead_kv: that of kv_buffer; 1.
        sm_scale: None for 576^-0.5.
        logit_cap: at most 0; capped scores are not supported.
        num_kv_splits: pieces that each request's KV is cut into, 1 to 64; None for a number by batch and by context,
            that of kv_indices' length rounded up (tables/mla_context.py). Not used with a plan.
        num_kv_splits_indptr: int32 [batch + 1] beside num_kv_splits: request b is cut into as many of them as lie
            between its two numbers.
        work_meta_data, work_indptr, work_info_set, reduce_indptr, reduce_final_map, reduce_partial_map: a plan of
            `get_mla_metadata_v1`, used where work_meta_data is given. It is decoded by the fold that it was planned
            with, whatever types and heads it was planned for. With a fold, requests must have equally many rows.
        q_scale, kv_scale: float32 of one element. An 8-bit q needs both; 8-bit KV beside a 16-bit q takes kv_scale,
            1 where that is None; 16-bit operands take none.
        intra_batch_mode: not used (upstream accepts it).
        return_logits: return the parts of rows that were merged: [total_q, splits, heads, 512] float32, or as the plan
            has them; o itself where there is one split.
        return_lse: return the natural logarithm of each row's sum of exponentials.
        g_kv_indptr, cp_world_size, cp_rank: context parallel decode is not supported.
        causal: row i of a request's n sees all tokens but the last n - 1 - i; else all.

    Returns (logits, lse), None what was not asked for; lse is [total_q, heads] float32. A row that sees no token is 0,
    and its lse -inf. What no row sees is not read: whatever a page, a slot or a row holds beside, no bit of the result
    depends on it. Same operands and plan, same bits. Not differentiable.

    Accuracy: a row's relative error is at most 2e-3, and 1e-2 with an 8-bit q; `aiterlite explain mla_decode_fwd` names
    the class of a call. Weights are rounded to 16 bits at most; products of 8-bit operands are exact, sums float32.

    Source of the semantics: `aiter.mla.mla_decode_fwd`. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    logits, lse = OPERATOR(
        *(q, kv_buffer, o, qo_indptr, kv_indptr, kv_indices, kv_last_page_lens, max_seqlen_q, page_size, nhead_kv),
        *(sm_scale, logit_cap, num_kv_splits, num_kv_splits_indptr, work_meta_data, work_indptr, work_info_set),
        *(reduce_indptr, reduce_final_map, reduce_partial_map, q_scale, kv_scale, intra_batch_mode, return_logits),
        *(return_lse, g_kv_indptr, cp_world_size, cp_rank, causal),
    )
    if return_logits and logits.shape[0] == 0:
        logits = o.unsqueeze(1)
    return (logits if return_logits else None), (lse if return_lse else None)


def mla_prefill_fwd(
    q: Tensor,
    kv_buffer: Tensor,
    o: Tensor,
    qo_indptr: Tensor,
    kv_indptr: Tensor,
    kv_indices: Tensor,
    kv_last_page_lens: Tensor,
    max_seqlen_q: int,
    sm_scale: float | None = None,
    logit_cap: float = 0.0,
    num_kv_splits: int | None = None,
) -> tuple[Tensor, Tensor]:
    """`mla_decode_fwd`, causal, for any number of rows a request, in one piece; writes `o`.

    Args are those of `mla_decode_fwd`; the page size is kv_buffer's. num_kv_splits is 1 or None.
    Returns (o, lse), lse [total_q, 1, heads, 1] float32.

    Source of the semantics: `aiter.mla.mla_prefill_fwd`. Raises as `mla_decode_fwd` does.
    """
    lse = PREFILL(
        *(q, kv_buffer, o, qo_indptr, kv_indptr, kv_indices, kv_last_page_lens, max_seqlen_q, sm_scale, logit_cap),
        num_kv_splits,
    )
    return o, lse


def mla_reduce_v1(
    partial_output: Tensor,
    partial_lse: Tensor,
    reduce_indptr: Tensor,
    reduce_final_map: Tensor | None,
    reduce_partial_map: Tensor,
    max_seqlen_q: int,
    num_kv_splits: int | Tensor = 0,
    final_output: Tensor | None = None,
    final_lse: Tensor | None = None,
) -> None:
    """Merges normalised parts of rows by their log-sums, in the order of the parts; writes final_output and final_lse.

    Args:
        partial_output: [rows, heads, dim] or [rows, 1, heads, dim] float32, contiguous; dim 64, 128 or 512.
        partial_lse: float32 [rows, heads], or with ones between, contiguous. A part of -inf has no tokens, and is not
            read.
        reduce_indptr: int32 [tiles + 1]: tile t has the parts from reduce_indptr[t] to the next. A tile of fewer than
            two is not touched.
        reduce_final_map: int32 [tiles, 2], the first row of final_output of each tile and the one behind its last;
            None: tiles are as many rows as lie between the first two parts, one tile behind the other.
        reduce_partial_map: int32, the first row in partial_output of each part.
        max_seqlen_q: the most rows of a tile.
        num_kv_splits: not used; callers of upstream's older form leave it out, also by position.
        final_output: [rows, heads, dim] bfloat16 or float16, contiguous.
        final_lse: float32 [rows, heads], contiguous, or None.

    Where all parts of a row are empty it becomes 0, and its log-sum -inf (upstream: +inf). Not differentiable.

    Source of the semantics: `aiter.mla_reduce_v1`. Raises `ArgumentError`, `DispatchError` or a `JitError`.
    """
    if isinstance(num_kv_splits, Tensor):
        if final_lse is not None:
            raise ArgumentError(_REDUCE, "num_kv_splits", "a tensor, and final_lse given", "a number")
        splits, final_output, final_lse = 0, num_kv_splits, final_output
    else:
        splits = num_kv_splits
    if final_output is None:
        raise ArgumentError(_REDUCE, "final_output", "None", "a tensor to write to")
    given = (partial_output, partial_lse, reduce_indptr, reduce_final_map, reduce_partial_map, max_seqlen_q)
    if final_lse is None:
        REDUCE_ALONE(*given, splits, final_output)
    else:
        REDUCE(*given, splits, final_output, final_lse)


# Decode and prefill ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Call:
    """The arguments of a decode by their names, those too that were left out: torch drops trailing defaults."""

    q: Tensor
    kv_buffer: Tensor
    o: Tensor
    qo_indptr: Tensor
    kv_indptr: Tensor
    kv_indices: Tensor
    kv_last_page_lens: Tensor
    max_seqlen_q: int
    page_size: int | None = 1
    nhead_kv: int = 1
    sm_scale: float | None = None
    logit_cap: float = 0.0
    num_kv_splits: int | None = None
    num_kv_splits_indptr: Tensor | None = None
    work_meta_data: Tensor | None = None
    work_indptr: Tensor | None = None
    work_info_set: Tensor | None = None
    reduce_indptr: Tensor | None = None
    reduce_final_map: Tensor | None = None
    reduce_partial_map: Tensor | None = None
    q_scale: Tensor | None = None
    kv_scale: Tensor | None = None
    intra_batch_mode: bool = False
    return_logits: bool = False
    return_lse: bool = False
    g_kv_indptr: Tensor | None = None
    cp_world_size: int = 1
    cp_rank: int = 0
    causal: bool = True

    @property
    def planned(self) -> bool:
        return self.work_meta_data is not None

    @property
    def batch(self) -> int:
        return self.qo_indptr.shape[0] - 1

    @property
    def context(self) -> int:
        return checks.context(self.kv_indices.shape[0], self.kv_buffer.shape[1], self.batch)

    @property
    def scale(self) -> float:
        return tables.KEY_DIM**-0.5 if self.sm_scale is None else self.sm_scale

    @property
    def tensors(self) -> dict[str, Tensor | None]:
        """The operands of its kernels that it brings."""
        named = {name: getattr(self, name) for name in _DECODE_OPERANDS if hasattr(self, name)}
        by_pieces = self.num_kv_splits is not None and not self.planned
        named["splits_indptr"] = self.num_kv_splits_indptr if by_pieces else None
        return named if self.planned else {**named, **dict.fromkeys(checks.PLAN[1:])}

    def splits(self, op: str) -> int:
        """The pieces of each request; 0 with a plan."""
        if self.planned:
            return 0
        if self.num_kv_splits is None:
            persona = calls.persona_of(op, self.q.device)
            threads = torch.get_num_threads() if persona.family == "cpu" else 0
            return tables.splits_of(persona, self.problem(1), threads)
        if not 1 <= self.num_kv_splits <= tables.MOST_SPLITS:
            raise ArgumentError(op, "num_kv_splits", self.num_kv_splits, f"1 to {tables.MOST_SPLITS}, or None")
        return self.num_kv_splits

    def check(self, op: str) -> int:
        """Raises `ArgumentError`; returns the splits."""
        q = self.q
        checks.check_rows(op, q, self.kv_buffer, self.o, self.page_size, self.max_seqlen_q)
        checks.check_ints(op, q, qo_indptr=self.qo_indptr)
        checks.check_length(op, "qo_indptr", self.qo_indptr, 1, "one more than requests")
        checks.check_pages(op, q, self.batch, self.kv_indptr, self.kv_indices, self.kv_last_page_lens)
        checks.check_unsupported(op, self.nhead_kv, self.logit_cap, self.g_kv_indptr, self.cp_world_size)
        checks.check_scales(op, q, self.kv_buffer, self.q_scale, self.kv_scale)
        if self.planned:
            checks.check_plan(op, q, [getattr(self, name) for name in checks.PLAN])
        elif self.num_kv_splits_indptr is not None:
            checks.check_ints(op, q, num_kv_splits_indptr=self.num_kv_splits_indptr)
            allowed = "one more than requests"
            checks.check_length(op, "num_kv_splits_indptr", self.num_kv_splits_indptr, self.batch + 1, allowed)
        return self.splits(op)

    def parts_shape(self, splits: int) -> list[int]:
        """Of the parts of rows that are merged, without the 512: a plan's as wide as unfolded ones, since its fold is
        not known here."""
        rows, heads = self.q.shape[:2]
        if self.planned and self.reduce_partial_map is not None:
            return [self.reduce_partial_map.shape[0] * self.max_seqlen_q, 1, heads]
        return [rows, splits, heads] if splits != 1 else [0, 1, heads]

    def results(self, splits: int) -> tuple[Tensor, Tensor]:
        """(logits, lse), for which nothing is allocated where they were not asked for."""
        logits = [*self.parts_shape(splits), tables.VALUE_DIM] if self.return_logits else [0]
        lse = self.q.shape[:2] if self.return_lse else [0]
        return self.q.new_empty(logits, dtype=torch.float32), self.q.new_empty(lse, dtype=torch.float32)

    def problem(self, splits: int) -> tables.MlaProblem:
        return tables.MlaProblem(
            batch=self.batch,
            heads=self.q.shape[1],
            context=self.context,
            q_len=self.max_seqlen_q,
            page_size=self.kv_buffer.shape[1],
            q_dtype=operands.dtype_name(self.q.dtype),
            kv_dtype=operands.dtype_name(self.kv_buffer.dtype),
            out_dtype=operands.dtype_name(self.o.dtype),
            splits=splits,
            plan_units=self.work_indptr.shape[0] - 1 if self.planned and self.work_indptr is not None else 0,
            lse=self.return_lse,
            causal=self.causal,
            pages_exist=self.kv_buffer.shape[0] > 0,
        )

    def sizes(self, splits: int) -> dict[str, int | float]:
        """What the kernels' arguments hold besides addresses and the problem's fields."""
        parts = self.parts_shape(splits)
        plan = {name: self.tensors[name] for name in checks.PLAN[1:]}
        rows = {name: 0 if tensor is None else tensor.shape[0] for name, tensor in plan.items()}
        return {
            "stride_page": self.kv_buffer.stride(0),
            "stride_slot": self.kv_buffer.stride(1),
            "pages": self.kv_buffer.shape[0],
            "partial_rows": parts[0] * parts[1],
            "rows": self.q.shape[0],
            "scale": self.scale,
            "work_rows": rows["work_info_set"],
            "tiles": max(0, rows["reduce_indptr"] - 1),
            "map_rows": rows["reduce_partial_map"],
        }


_FIELDS = tuple(field.name for field in fields(_Call))
_DEFAULTS = tuple(field.default for field in fields(_Call))
# Operands that a call makes, not brings.
_LSE, _PARTIAL, _PARTIAL_LSE = (_DECODE_OPERANDS.index(name) for name in ("lse", "partial", "partial_lse"))


def _prepare_call(table: Table, call: _Call) -> Callable[[tuple[Any, ...]], tuple[Tensor, Tensor]]:
    """What runs such calls, by the arguments in the order of `_FIELDS`, trailing ones left out."""
    op = table.op
    splits = call.check(op)
    checks.check_layout(op, call.q, call.kv_buffer, call.o)
    if call.q.shape[0] * call.q.shape[1] * call.batch == 0:
        return lambda args: _Call(*args).results(splits)
    decision = calls.decide(table, call.problem(splits), calls.persona_of(op, call.q.device))
    parts, rows, merged = call.parts_shape(splits), list(call.q.shape[:2]), splits != 1
    here = {"lse": call.return_lse, "partial": merged, "partial_lse": merged}
    given = {**{name: tensor is not None for name, tensor in call.tensors.items()}, **here}
    absent = [name for name in _DECODE_OPERANDS if not given[name]]
    given_each = (*_DECODE_OPERANDS, "indices")
    launch = launches.prepare(decision, call.q.device, given_each, call.sizes(splits), absent, ("indices",))
    brought = {**{name: name for name in _DECODE_OPERANDS}, "splits_indptr": "num_kv_splits_indptr"}
    places = [_FIELDS.index(brought[name]) if given[name] and name not in here else -1 for name in _DECODE_OPERANDS]
    with_logits, with_lse = call.return_logits, call.return_lse

    def run(args: tuple[Any, ...]) -> tuple[Tensor, Tensor]:
        args = args + _DEFAULTS[len(args) :]
        tensors = [args[place] if place >= 0 else None for place in places]
        new = functools.partial(args[0].new_empty, dtype=torch.float32)
        lse = tensors[_LSE] = new(rows if with_lse else [0])
        logits = None
        if merged:
            logits = tensors[_PARTIAL] = new([*parts, tables.VALUE_DIM])
            tensors[_PARTIAL_LSE] = new(parts)
        launch(*tensors, args[checks.INDICES].shape[0])
        if logits is None or not with_logits:
            logits = new([*parts, tables.VALUE_DIM] if with_logits else [0])
        return logits, lse

    return run


def _prepare(*args: Any) -> Run:
    run = _prepare_call(tables.DECODE, _Call(*args))
    return lambda *args: run(args)


def _fake(*args: Any) -> tuple[Tensor, Tensor]:
    call = _Call(*args)
    return call.results(call.check(_OP))


def _as_decode(*args: Any) -> _Call:
    """A prefill as the decode that it is."""
    options: dict[str, Any] = {"sm_scale": None, "logit_cap": 0.0, "num_kv_splits": None}
    options |= dict(zip(options, args[8:], strict=False))
    if options["num_kv_splits"] not in (None, 1):
        raise ArgumentError(_PREFILL, "num_kv_splits", options["num_kv_splits"], "1 or None", "Call mla_decode_fwd.")
    return _Call(*args[:8], **{**options, "page_size": None, "num_kv_splits": 1, "return_lse": True})


def _prepare_prefill(*args: Any) -> Run:
    call = _as_decode(*args)
    run, options = _prepare_call(tables.PREFILL, call), tuple(getattr(call, name) for name in _FIELDS[8:])
    return lambda *args: run((*args[:8], *options))[1].unsqueeze(1).unsqueeze(3)


def _fake_prefill(*args: Any) -> Tensor:
    call = _as_decode(*args)
    return call.results(call.check(_PREFILL))[1].unsqueeze(1).unsqueeze(3)


# Merge ----------------------------------------------------------------------------------------------------------------


def _prepare_merge(*args: Any) -> Run:
    checks.check_merge(*args)
    partial, _, indptr, final_map, partial_map, max_seqlen_q, _, final = args[:8]
    lse = args[8] if len(args) > 8 else None
    tiles = indptr.shape[0] - 1
    if tiles * final.numel() * partial.numel() == 0:
        return lambda *args: None
    out_dtype, most = operands.dtype_name(final.dtype), partial_map.shape[0] // tiles
    problem = tables.MergeProblem(tiles, final.shape[1], final.shape[2], max_seqlen_q, most, out_dtype, lse is not None)
    decision = calls.decide(tables.REDUCE, problem, calls.persona_of(_REDUCE, final.device))
    sizes = {"partial_rows": partial.shape[0], "rows": final.shape[0], "map_rows": partial_map.shape[0]}
    absent = [name for name, value in (("lse", lse), ("reduce_final_map", final_map)) if value is None]
    nothing = ["work_info_set", "qo_indptr", "kv_indptr", "kv_last_page_lens"]
    launch = launches.prepare(decision, final.device, (*_REDUCE_OPERANDS, *nothing), sizes, (*absent, *nothing))

    def run(partial: Tensor, partial_lse: Tensor, *args: Any) -> None:
        indptr, final_map, partial_map, _, _, final, *lse = args
        given = (partial, partial_lse, final, lse[0] if lse else None, indptr, final_map, partial_map)
        launch(*given, None, None, None, None)

    return run


def _fake_merge(*args: Any) -> None:
    checks.check_merge(*args)


_PAGED = "Tensor q, Tensor kv_buffer, Tensor(a!) o, Tensor qo_indptr, Tensor kv_indptr, Tensor kv_indices, "
_PAGED += "Tensor kv_last_page_lens, int max_seqlen_q, "
_PLAN_SCHEMA = ", ".join(f"Tensor? {name}=None" for name in (*checks.PLAN, "q_scale", "kv_scale"))
OPERATOR = register(
    f"{_OP}({_PAGED}int page_size=1, int nhead_kv=1, float? sm_scale=None, float logit_cap=0.0, "
    f"int? num_kv_splits=None, Tensor? num_kv_splits_indptr=None, {_PLAN_SCHEMA}, bool intra_batch_mode=False, "
    "bool return_logits=False, bool return_lse=False, Tensor? g_kv_indptr=None, int cp_world_size=1, int cp_rank=0, "
    "bool causal=True) -> (Tensor, Tensor)",
    _prepare,
    _fake,
    checks.key_of,
)
PREFILL = register(
    f"{_PREFILL}({_PAGED}float? sm_scale=None, float logit_cap=0.0, int? num_kv_splits=None) -> Tensor",
    _prepare_prefill,
    _fake_prefill,
    checks.key_of,
)
_PARTS = "Tensor partial_output, Tensor partial_lse, Tensor reduce_indptr, Tensor? reduce_final_map, "
_PARTS += "Tensor reduce_partial_map, int max_seqlen_q, int num_kv_splits, Tensor(a!) final_output"
REDUCE = register(f"{_REDUCE}({_PARTS}, Tensor(b!) final_lse) -> ()", _prepare_merge, _fake_merge)
# A form of its own: torch's default backend compiles no call that may write to an argument and is given none.
REDUCE_ALONE = register(f"{_REDUCE}.alone({_PARTS}) -> ()", _prepare_merge, _fake_merge)
