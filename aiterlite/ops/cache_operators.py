"""The operators that write latents of MLA to a paged cache: what their operands must be, and how calls are prepared.
The functions are in `ops/cache.py`; what is written is in `aiterlite.reference.cache`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, direct, operands
from aiterlite.ops.calls import Run
from aiterlite.ops.operator import register
from aiterlite.ops.rope_operator import INDICES, check_index, check_tables, is_aligned
from aiterlite.tables import cache as tables
from aiterlite.tables.cache import CONCAT, ConcatProblem, FusedProblem
from aiterlite.tables.rope import DTYPES, STYLES

_DTYPES = tuple(operands.DTYPES[name] for name in DTYPES)
_CODES = tuple(operands.FP8_DTYPES.values())
_CONCAT_NAMES = ("kv_c", "k_pe", "kv_cache", "slot_mapping", "k_scale")
_FUSED_NAMES = (*_CONCAT_NAMES, "q_nope", "q_pe", "q_out", "positions", "cos", "sin", "q_scale")
_CAT_NAMES = (*_FUSED_NAMES[:-1], "q_pe_out", "q_zeros", "k_pe_out")
_MOST_SLOTS = 2**31 - 1
KV_CACHE_DTYPES = ("auto", "fp8", "fp8_e4m3")


# What operands must be ------------------------------------------------------------------------------------------------


def _as_heads(tensor: Tensor) -> Tensor:
    """[tokens, W] as [tokens, 1, W]."""
    return tensor.unsqueeze(1) if tensor.dim() == 2 else tensor


def _as_cache(cache: Tensor) -> Tensor:
    """[blocks, block, W] as [blocks, block, 1, W]."""
    return cache.unsqueeze(2) if cache.dim() == 3 else cache


def _check_latents(op: str, kv_c: Tensor, k_pe: Tensor, names: tuple[str, str], dims: tuple[int, ...]) -> None:
    """Rows of one type, of as many tokens and heads."""
    operands.check_dtype(op, names[0], kv_c, _DTYPES)
    operands.check_like(op, names[1], k_pe, kv_c, names[0])
    for name, tensor in zip(names, (kv_c, k_pe), strict=True):
        if tensor.dim() not in dims:
            allowed = " or ".join("[tokens, W]" if d == 2 else "[tokens, heads, W]" for d in dims)
            raise ArgumentError(op, name, f"of shape {list(tensor.shape)}", allowed)
    operands.check_dense(op, **dict(zip(names, (kv_c, k_pe), strict=True)))
    nope, rope = _as_heads(kv_c), _as_heads(k_pe)
    operands.check_shape(op, names[1], rope, [(*nope.shape[:2], rope.shape[2])], f"the tokens and heads of {names[0]}")


def _check_cache(op: str, cache: Tensor, like: Tensor, of: str, heads: int, width: int, codes: tuple[Any, ...]) -> None:
    """A cache of [blocks, block, heads, width]."""
    operands.check_dtype(op, "kv_cache", cache, codes)
    operands.check_device(op, "kv_cache", cache, like, of)
    if cache.dim() != 4 or list(cache.shape[2:]) != [heads, width]:
        given = f"of shape {list(cache.shape)}, heads apart"
        raise ArgumentError(op, "kv_cache", given, f"[blocks, block, {heads}, {width}]")
    operands.check_dense(op, kv_cache=cache)
    arguments.check_apart(op, "kv_cache", cache)
    if cache.shape[0] * cache.shape[1] > _MOST_SLOTS:
        raise ArgumentError(op, "kv_cache", f"of shape {list(cache.shape)}", f"at most {_MOST_SLOTS} slots")


def _check_slots(op: str, slots: Tensor, like: Tensor, of: str, rows: int) -> None:
    operands.check_dims(op, "slot_mapping", slots, 1, "[tokens]")
    check_index(op, "slot_mapping", slots, like, of, 0, False)
    arguments.check_contiguous(op, slot_mapping=slots)
    if slots.numel() > rows:
        raise ArgumentError(op, "slot_mapping", f"of {slots.numel()} elements", f"at most the {rows} rows of {of}")


def _check_scale(op: str, name: str, scale: Tensor | None, like: Tensor, of: str) -> None:
    if scale is None:
        return
    operands.check_dtype(op, name, scale, (torch.float32,))
    operands.check_device(op, name, scale, like, of)
    if scale.numel() != 1:
        raise ArgumentError(op, name, f"of shape {list(scale.shape)}", "one element")


def _check_q(op: str, q_nope: Tensor, q_pe: Tensor, like: Tensor, of: str, lora: int, width: int) -> None:
    for name, tensor in (("q_nope", q_nope), ("q_pe", q_pe)):
        operands.check_like(op, name, tensor, like, of)
        operands.check_dims(op, name, tensor, 3, "[tokens, heads, W]")
    operands.check_dense(op, q_nope=q_nope, q_pe=q_pe)
    operands.check_shape(op, "q_nope", q_nope, [(*q_nope.shape[:2], lora)], f"[tokens, heads, {lora}], as {of} has it")
    operands.check_shape(op, "q_pe", q_pe, [(*q_nope.shape[:2], width)])
    if not q_nope.shape[1]:
        raise ArgumentError(op, "q_nope", f"of shape {list(q_nope.shape)}", "at least one head")


def _check_q_out(op: str, q_out: Tensor, q_nope: Tensor, width: int) -> None:
    operands.check_dtype(op, "q_out", q_out, (q_nope.dtype, *_CODES))
    operands.check_device(op, "q_out", q_out, q_nope, "q_nope")
    operands.check_shape(op, "q_out", q_out, [(*q_nope.shape[:2], width)])
    operands.check_dense(op, q_out=q_out)
    arguments.check_apart(op, "q_out", q_out)


def _check_pairs(op: str, rope: Tensor, cos: Tensor, sin: Tensor, of: str, names: tuple[str, str]) -> bool:
    """Whether a row of cos has a number a pair."""
    check_tables(op, cos, sin, rope, of, names)
    width = rope.shape[-1]
    if width % 2 or cos.shape[-1] not in (width // 2, width):
        given, allowed = f"of shape {list(cos.shape)}", f"{width // 2} or {width} columns, for {width} elements"
        raise ArgumentError(op, names[0], given, allowed)
    return cos.shape[-1] == width // 2


# How calls are prepared -----------------------------------------------------------------------------------------------


def _cache_sizes(cache: Tensor) -> tuple[dict[str, int], bool]:
    """What a kernel must know of a cache of four dimensions, and whether its blocks are apart."""
    blocks, size = cache.shape[:2]
    strides = cache.stride()
    paged = blocks > 1 and size > 1 and strides[0] != size * strides[1]
    entry = strides[0] if size == 1 else strides[1]
    sizes = {"cache_slots": blocks * size, "block_size": size, "k_block": strides[0] if blocks > 1 else 0}
    return {**sizes, "k_out_token": entry, "k_out_head": strides[2]}, paged


def _of_side(side: str, nope: Tensor, rope: Tensor) -> dict[str, int]:
    """Strides of [tokens, heads, W]."""
    return {
        f"{side}_nope_token": nope.stride(0),
        f"{side}_nope_head": nope.stride(1),
        f"{side}_pe_token": rope.stride(0),
        f"{side}_pe_head": rope.stride(1),
        f"{side}_in_inner": 0,
        f"{side}_out_inner": 0,
    }


_NO_Q = {f"q_{name}": 0 for name in ("nope_token", "nope_head", "pe_token", "pe_head", "in_inner", "out_inner")}
_NO_Q |= {"q_out_token": 0, "q_out_head": 0, "cos_row": 0, "sin_row": 0}
_PLAIN = {"inner": 1, "table_rows": 0, "copied": 0, "rotated": 0}


def _are_aligned(lora: int, width: int, *tensors: Tensor) -> bool:
    return lora % 8 == 0 and width % 16 == 0 and all(is_aligned(tensor) for tensor in tensors)


def _stored(op: str, cache: Tensor) -> str:
    """The type of a cache; bytes are of the target's own 8-bit format."""
    if cache.dtype == torch.uint8:
        return calls.persona_of(op, cache.device).fp8
    return operands.dtype_name(cache.dtype)


def _nothing(*_: Any, **__: Any) -> None:
    return None


def _fake_concat(
    kv_c: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, kv_cache_dtype: str, scale: Tensor
) -> None:
    _check_latents(CONCAT, kv_c, k_pe, ("kv_c", "k_pe"), (2,))
    operands.check_choice(CONCAT, "kv_cache_dtype", kv_cache_dtype, KV_CACHE_DTYPES)
    codes = (kv_c.dtype,) if kv_cache_dtype == "auto" else (*_CODES, torch.uint8)
    operands.check_dims(CONCAT, "kv_cache", kv_cache, 3, "[blocks, block, W]")
    _check_cache(CONCAT, _as_cache(kv_cache), kv_c, "kv_c", 1, kv_c.shape[1] + k_pe.shape[1], codes)
    _check_slots(CONCAT, slot_mapping, kv_c, "kv_c", kv_c.shape[0])
    if kv_cache_dtype != "auto":
        _check_scale(CONCAT, "scale", scale, kv_c, "kv_c")


def _prepare_concat(
    kv_c: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, kv_cache_dtype: str, scale: Tensor
) -> Run:
    _fake_concat(kv_c, k_pe, kv_cache, slot_mapping, kv_cache_dtype, scale)
    if not (slot_mapping.numel() and kv_cache.numel()):
        return _nothing
    sizes, paged = _cache_sizes(_as_cache(kv_cache))
    problem = ConcatProblem(
        tokens=slot_mapping.numel(),
        kv_lora_rank=kv_c.shape[1],
        rope_dim=k_pe.shape[1],
        dtype=operands.dtype_name(kv_c.dtype),
        cache_dtype=_stored(CONCAT, kv_cache),
        slots=INDICES[slot_mapping.dtype],
        paged=paged,
        aligned=_are_aligned(kv_c.shape[1], k_pe.shape[1], kv_c, k_pe, kv_cache),
    )
    decision = calls.decide(tables.CONCAT_TABLE, problem, calls.persona_of(CONCAT, kv_c.device))
    sizes |= {**_PLAIN, **_NO_Q, **_of_side("k", _as_heads(kv_c), _as_heads(k_pe))}
    coded = kv_cache_dtype != "auto"
    launch = launches.prepare(decision, kv_c.device, _CONCAT_NAMES, sizes, () if coded else ("k_scale",))

    def run(
        kv_c: Tensor, k_pe: Tensor, kv_cache: Tensor, slot_mapping: Tensor, dtype: str, scale: Tensor, **_: Any
    ) -> None:
        launch(kv_c, k_pe, kv_cache, slot_mapping, scale if coded else None)

    return run


def _fused_problem(
    op: str, given: Mapping[str, Tensor], cache: Tensor, half: bool, neox: bool, paged: bool, **more: Any
) -> FusedProblem:
    """Of operands by their names in the table, heads apart; `more` are its other fields."""
    kv_c, k_pe, q_nope, q_out = (given[name] for name in ("kv_c", "k_pe", "q_nope", "q_out"))
    rows = [given[name] for name in ("kv_c", "k_pe", "q_nope", "q_pe", "q_out", "cos", "sin")]
    return FusedProblem(
        kv_lora_rank=kv_c.shape[2],
        rope_dim=k_pe.shape[2],
        dtype=operands.dtype_name(kv_c.dtype),
        cache_dtype=_stored(op, cache),
        slots=INDICES[given["slot_mapping"].dtype],
        paged=paged,
        aligned=_are_aligned(kv_c.shape[2], k_pe.shape[2], *rows, cache),
        heads=q_nope.shape[1],
        kv_heads=kv_c.shape[1],
        q_dtype=operands.dtype_name(q_out.dtype),
        table_dtype=operands.dtype_name(given["cos"].dtype),
        style=STYLES[0 if neox else 1],
        half_table=half,
        positions=INDICES[given["positions"].dtype],
        **more,
    )


def _fused_sizes(given: Mapping[str, Tensor]) -> dict[str, int]:
    cos, sin, q_out = given["cos"], given["sin"], given["q_out"]
    return {
        **_of_side("q", given["q_nope"], given["q_pe"]),
        **_of_side("k", given["kv_c"], given["k_pe"]),
        "q_out_token": q_out.stride(0),
        "q_out_head": q_out.stride(1),
        "cos_row": cos.stride(0),
        "sin_row": sin.stride(0),
        "inner": 1,
        "table_rows": cos.shape[0],
    }


def _fake_fused(
    q_nope: Tensor,
    q_pe: Tensor,
    kv_c: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    q_out: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor,
    q_scale: Tensor,
    positions: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    is_neox: bool,
    is_nope_first: bool,
    compute_all_q_rope: bool = False,
) -> bool:
    """Whether a row of cos_cache has a number a pair."""
    op = tables.FUSED
    _check_latents(op, kv_c, k_pe, ("kv_c", "k_pe"), (2, 3))
    latents, rope = _as_heads(kv_c), _as_heads(k_pe)
    lora, width = latents.shape[2], rope.shape[2]
    _check_q(op, q_nope, q_pe, kv_c, "kv_c", lora, width)
    _check_q_out(op, q_out, q_nope, lora + width)
    heads, codes = latents.shape[1], (kv_c.dtype, *_CODES, torch.uint8)
    _check_cache(op, _as_cache(kv_cache), kv_c, "kv_c", heads, lora + width, codes)
    _check_slots(op, slot_mapping, kv_c, "kv_c", kv_c.shape[0])
    count = slot_mapping.numel()
    if q_nope.shape[0] < count:
        given = f"of shape {list(q_nope.shape)}"
        raise ArgumentError(op, "q_nope", given, f"at least {count} tokens, as slot_mapping has")
    check_index(op, "positions", positions, kv_c, "kv_c", count, False)
    arguments.check_contiguous(op, positions=positions)
    half = _check_pairs(op, rope, cos_cache, sin_cache, "k_pe", ("cos_cache", "sin_cache"))
    _check_scale(op, "k_scale", k_scale, kv_c, "kv_c")
    _check_scale(op, "q_scale", q_scale, kv_c, "kv_c")
    return half


def _prepare_fused(
    q_nope: Tensor,
    q_pe: Tensor,
    kv_c: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    q_out: Tensor,
    slot_mapping: Tensor,
    k_scale: Tensor,
    q_scale: Tensor,
    positions: Tensor,
    cos_cache: Tensor,
    sin_cache: Tensor,
    is_neox: bool,
    is_nope_first: bool,
    compute_all_q_rope: bool = False,
) -> Run:
    operand = q_nope, q_pe, kv_c, k_pe, kv_cache, q_out, slot_mapping, k_scale, q_scale
    angles = positions, cos_cache, sin_cache
    half = _fake_fused(*operand, *angles, is_neox, is_nope_first, compute_all_q_rope)
    op, count = tables.FUSED, slot_mapping.numel()
    if not count:
        return _nothing
    named = {"kv_c": _as_heads(kv_c), "k_pe": _as_heads(k_pe), "slot_mapping": slot_mapping, "q_nope": q_nope}
    named |= {"q_pe": q_pe, "q_out": q_out, "positions": positions, "cos": cos_cache, "sin": sin_cache}
    cache = _as_cache(kv_cache)
    sizes, paged = _cache_sizes(cache)
    scaled = cache.dtype != kv_c.dtype
    more = {"tokens": count, "q_tokens": count, "nope_first": is_nope_first, "all_q": compute_all_q_rope}
    problem = _fused_problem(op, named, cache, half, is_neox, paged, scaled=scaled, **more)
    decision = calls.decide(tables.FUSED_TABLE, problem, calls.persona_of(op, kv_c.device))
    sizes |= {**_fused_sizes(named), "copied": 0, "rotated": count}
    q_scaled = q_out.dtype != q_nope.dtype
    absent = [name for name, there in (("k_scale", scaled), ("q_scale", q_scaled)) if not there]
    launch = launches.prepare(decision, kv_c.device, _FUSED_NAMES, sizes, absent)

    def run(
        q_nope: Tensor,
        q_pe: Tensor,
        kv_c: Tensor,
        k_pe: Tensor,
        kv_cache: Tensor,
        q_out: Tensor,
        slot_mapping: Tensor,
        k_scale: Tensor,
        q_scale: Tensor,
        positions: Tensor,
        cos_cache: Tensor,
        sin_cache: Tensor,
        *_: Any,
        **__: Any,
    ) -> None:
        of_k, of_q = k_scale if scaled else None, q_scale if q_scaled else None
        rest = q_nope, q_pe, q_out, positions, cos_cache, sin_cache, of_q
        launch(kv_c, k_pe, kv_cache, slot_mapping, of_k, *rest)

    return run


def _fake_cat(
    q_nope: Tensor,
    q_pe: Tensor,
    k_nope: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    slot_mapping: Tensor,
    pos: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_scale: Tensor | None,
    is_neox: bool,
    q_out: Tensor,
    decode_q_pe_out: Tensor,
    k_pe_out: Tensor,
    q_nope_zeros_out: Tensor,
) -> bool:
    """Whether a row of cos has a number a pair."""
    op = tables.CAT
    _check_latents(op, k_nope, k_pe, ("k_nope", "k_pe"), (3,))
    lora, width = k_nope.shape[2], k_pe.shape[2]
    _check_q(op, q_nope, q_pe, k_nope, "k_nope", lora, width)
    _check_q_out(op, q_out, q_nope, lora + width)
    operands.check_dims(op, "kv_cache", kv_cache, 3, "[slots, heads, W]")
    codes = (k_nope.dtype, *_CODES, torch.uint8)
    _check_cache(op, kv_cache.unsqueeze(1), k_nope, "k_nope", k_nope.shape[1], lora + width, codes)
    _check_slots(op, slot_mapping, k_nope, "k_nope", k_nope.shape[0])
    tokens = q_nope.shape[0]
    if tokens > k_nope.shape[0]:
        given = f"of shape {list(q_nope.shape)}"
        raise ArgumentError(op, "q_nope", given, f"at most the {k_nope.shape[0]} tokens of k_nope")
    check_index(op, "pos", pos, k_nope, "k_nope", tokens, False)
    arguments.check_contiguous(op, pos=pos)
    _check_scale(op, "k_scale", k_scale, k_nope, "k_nope")
    heads = q_nope.shape[1]
    for name, tensor, sizes in (
        ("decode_q_pe_out", decode_q_pe_out, (decode_q_pe_out.shape[:1].numel(), heads, width)),
        ("q_nope_zeros_out", q_nope_zeros_out, (decode_q_pe_out.shape[:1].numel(), heads, lora)),
        ("k_pe_out", k_pe_out, (*k_pe.shape,)),
    ):
        operands.check_like(op, name, tensor, k_nope, "k_nope")
        operands.check_shape(op, name, tensor, [sizes])
    written = {"decode_q_pe_out": decode_q_pe_out, "q_nope_zeros_out": q_nope_zeros_out, "k_pe_out": k_pe_out}
    arguments.check_contiguous(op, **written)
    if decode_q_pe_out.shape[0] > tokens:
        given = f"of shape {list(decode_q_pe_out.shape)}"
        raise ArgumentError(op, "decode_q_pe_out", given, f"at most the {tokens} tokens of q_nope")
    return _check_pairs(op, k_pe, cos, sin, "k_pe", ("cos", "sin"))


def _prepare_cat(
    q_nope: Tensor,
    q_pe: Tensor,
    k_nope: Tensor,
    k_pe: Tensor,
    kv_cache: Tensor,
    slot_mapping: Tensor,
    pos: Tensor,
    cos: Tensor,
    sin: Tensor,
    k_scale: Tensor | None,
    is_neox: bool,
    q_out: Tensor,
    decode_q_pe_out: Tensor,
    k_pe_out: Tensor,
    q_nope_zeros_out: Tensor,
) -> Run:
    operand = q_nope, q_pe, k_nope, k_pe, kv_cache, slot_mapping, pos, cos, sin, k_scale, is_neox
    half = _fake_cat(*operand, q_out, decode_q_pe_out, k_pe_out, q_nope_zeros_out)
    op, count, tokens = tables.CAT, slot_mapping.numel(), q_nope.shape[0]
    if not (count or tokens):
        return _nothing
    named = {"kv_c": k_nope, "k_pe": k_pe, "slot_mapping": slot_mapping, "q_nope": q_nope, "q_pe": q_pe}
    named |= {"q_out": q_out, "positions": pos, "cos": cos, "sin": sin}
    cache = kv_cache.unsqueeze(1)
    sizes, paged = _cache_sizes(cache)
    more = {"tokens": count, "q_tokens": tokens, "nope_first": True, "all_q": True, "scaled": k_scale is not None}
    problem = _fused_problem(op, named, cache, half, is_neox, paged, **more)
    problem = _with_dense(problem, decode_q_pe_out, k_pe_out, q_nope_zeros_out)
    decision = calls.decide(tables.CAT_TABLE, problem, calls.persona_of(op, k_nope.device))
    sizes |= {**_fused_sizes(named), "copied": decode_q_pe_out.shape[0], "rotated": tokens}
    launch = launches.prepare(decision, k_nope.device, _CAT_NAMES, sizes, () if k_scale is not None else ("k_scale",))

    def run(
        q_nope: Tensor,
        q_pe: Tensor,
        k_nope: Tensor,
        k_pe: Tensor,
        kv_cache: Tensor,
        slot_mapping: Tensor,
        pos: Tensor,
        cos: Tensor,
        sin: Tensor,
        k_scale: Tensor | None,
        is_neox: bool,
        q_out: Tensor,
        decode_q_pe_out: Tensor,
        k_pe_out: Tensor,
        q_nope_zeros_out: Tensor,
    ) -> None:
        of_k = k_nope, k_pe, kv_cache, slot_mapping, k_scale
        launch(*of_k, q_nope, q_pe, q_out, pos, cos, sin, decode_q_pe_out, q_nope_zeros_out, k_pe_out)

    return run


def _with_dense(problem: FusedProblem, *dense: Tensor) -> FusedProblem:
    """The problem, unaligned where a dense result is."""
    if all(tensor.data_ptr() % 16 == 0 for tensor in dense):
        return problem
    return FusedProblem(**{**vars(problem), "aligned": False})


def _fake_fused_call(*args: Any, **kwargs: Any) -> None:
    _fake_fused(*args, **kwargs)


def _fake_cat_call(*args: Any, **kwargs: Any) -> None:
    _fake_cat(*args, **kwargs)


CONCAT_AND_CACHE = register(
    f"{CONCAT}(Tensor kv_c, Tensor k_pe, Tensor(a!) kv_cache, Tensor slot_mapping, str kv_cache_dtype, Tensor scale)"
    " -> ()",
    _prepare_concat,
    _fake_concat,
)
FUSED_CONCAT = register(
    f"{tables.FUSED}(Tensor q_nope, Tensor q_pe, Tensor kv_c, Tensor k_pe, Tensor(a!) kv_cache, Tensor(b!) q_out, "
    "Tensor slot_mapping, Tensor k_scale, Tensor q_scale, Tensor positions, Tensor cos_cache, Tensor sin_cache, "
    "bool is_neox, bool is_nope_first, bool compute_all_q_rope=False) -> ()",
    _prepare_fused,
    _fake_fused_call,
)
FUSED_CAT = register(
    f"{tables.CAT}(Tensor q_nope, Tensor q_pe, Tensor k_nope, Tensor k_pe, Tensor(a!) kv_cache, Tensor slot_mapping, "
    "Tensor pos, Tensor cos, Tensor sin, Tensor? k_scale, bool is_neox, Tensor(b!) q_out, "
    "Tensor(c!) decode_q_pe_out, Tensor(d!) k_pe_out, Tensor(e!) q_nope_zeros_out) -> ()",
    _prepare_cat,
    _fake_cat_call,
)


def cat_and_cache(*args: Any) -> None:
    """The last of these, by its arguments."""
    direct.call(FUSED_CAT, args, tuple(args[place] for place in (4, 11, 12, 13, 14)))
