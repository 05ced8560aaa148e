"""What can be asked of MLA decode without planning: splits of a call without plan, and which shapes are taken, from the
table that plans are made by (tables/mla_heads.py)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite import dispatch
from aiterlite.errors import ArgumentError
from aiterlite.ops import operands
from aiterlite.tables import mla as tables
from aiterlite.tables import mla_heads
from aiterlite.target import Persona, persona_for, requested, resolve
from aiterlite.wishes import wishes

_META = "get_meta_param"
# Tokens that a split has at least where q and KV are fp8, by rows (heads times queries).
_FP8_BLOCKS = ((8, 64), (16, 128), (24, 128), (32, 128), (48, 64), (64, 64), (128, 32))


def persona_here(device: torch.device | str | None = None) -> Persona:
    """The persona that calls without tensors are planned for: that of `device`, else of the current GPU, else of the
    CPU, which AITERLITE_TARGET may make another. Where it names a GPU of another make than the one that is here, it is
    CPU tensors that it means."""
    device = device_here(device)
    return persona_for(device.type, device.index)


def device_here(device: torch.device | str | None = None) -> torch.device:
    if device is not None:
        return torch.device(device)
    wanted = requested()
    family = "amd" if torch.version.hip else "cuda"
    on_gpu = torch.cuda.is_available() and (wanted is None or wanted.family == family)
    return torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")


def get_meta_param(
    num_kv_splits: int | None,
    bs: int,
    total_kv: int,
    nhead: int,
    max_seqlen_q: int,
    dtype: torch.dtype,
    tg_factor: int = 1,
    ignore_total_kv: int = 0,
    *,
    device: torch.device | str | None = None,
) -> tuple[int, Tensor]:
    """Into how many parts decode without a plan cuts each request's KV, and their prefix sums: int32 [bs + 1].

    `num_kv_splits` None takes the number from 1 to 16 that fills the compute units best and has the longest parts, with
    `tg_factor` workgroups a part; the lowest of equals. `total_kv` is the number of entries of all requests. Where q
    and KV are fp8 (`dtype`), parts have a least length, by `nhead` times `max_seqlen_q`; numbers of rows that upstream
    has no entry for, and raises `KeyError`, take that of the next fewer. `ignore_total_kv` leaves out the lengths.

    Source of the semantics: `aiter.mla.get_meta_param`. Raises `ArgumentError`.
    """
    for name, value, least in (("bs", bs, 1), ("nhead", nhead, 1), ("max_seqlen_q", max_seqlen_q, 1)):
        if value < least:
            raise ArgumentError(_META, name, value, f"at least {least}")
    if num_kv_splits is not None and num_kv_splits < 1:
        raise ArgumentError(_META, "num_kv_splits", num_kv_splits, "at least 1, or None")
    at = device_here(device)
    splits = num_kv_splits
    if splits is None:
        units = mla_heads.compute_units(persona_here(at))
        length = None if ignore_total_kv else total_kv / bs
        splits = tables.unasked_splits(units, bs * max(1, tg_factor), length)
    if dtype in operands.FP8_DTYPES.values() and not ignore_total_kv:
        rows = nhead * max_seqlen_q
        block = next((tokens for least, tokens in reversed(_FP8_BLOCKS) if rows >= least), _FP8_BLOCKS[0][1])
        splits = max(1, min(splits, -(-total_kv // (bs * block))))
        if splits > 1:
            splits = min(splits, int(abs(total_kv / bs - max_seqlen_q) // block) + 1)
    return splits, torch.arange(0, (bs + 1) * splits, splits, dtype=torch.int32, device=at)


@dataclass(frozen=True)
class MlaDecodeShapeSupport:
    """Whether decode takes a shape, and how it is planned: `fold_factor` requests of `heads` heads for one, queries of
    `q_tiles` tiles. `reasons` says why not. `seqlen_fold`, by which upstream folds heads into queries, is always 1."""

    supported: bool
    fold_factor: int = 1
    heads: int = 0
    q_tiles: int = 0
    backend: str = ""
    reasons: tuple[str, ...] = ()
    seqlen_fold: int = 1

    @property
    def planner_accepts(self) -> bool:
        return self.q_tiles > 0

    @property
    def reduce_supported(self) -> bool:
        """The heads of all shapes that are planned are merged."""
        return self.planner_accepts


def get_mla_decode_shape_support(
    num_heads: int,
    max_seqlen_q: int,
    q_dtype: torch.dtype,
    kv_dtype: torch.dtype,
    *,
    arch: str | None = None,
    page_size: int = 1,
    causal: bool = True,
    return_lse: bool = False,
    cp_round_robin: bool = False,
    fast_mode: bool = True,
    intra_batch_mode: bool = False,
    enable_experimental: bool | None = None,
    flydsl_ps1: bool | None = None,
) -> MlaDecodeShapeSupport:
    """Whether decode takes a shape on `arch` (a target; None is the current device's), and with which fold.

    The tables decide that plan and decode go by, whatever the planner; the switches of upstream's experiments change
    nothing. Source of the semantics: `aiter.ops.attention.get_mla_decode_shape_support`.
    """
    persona = resolve(arch) if arch else persona_here()
    q, kv = operands.dtype_name(q_dtype), operands.dtype_name(kv_dtype)
    try:
        found = mla_heads.fold(persona.target, num_heads, q, kv, max_seqlen_q)
    except ValueError as error:
        return MlaDecodeShapeSupport(False, reasons=(str(error),))
    out, units = "bf16" if q in tables.EIGHT_BITS else q, mla_heads.compute_units(persona)
    problem = tables.MlaProblem(
        1, num_heads, 1, max_seqlen_q, page_size, q, kv, out, splits=0, plan_units=units, lse=return_lse, causal=causal
    )
    decision = dispatch.decide(tables.DECODE, problem, persona, wishes())
    refused: list[str] = []
    if decision.row is None:
        # The row that came nearest says most, and one for another target nothing.
        others = {row.name for row in tables.DECODE.rows if row.requires[0].refuse(problem, persona, wishes())}
        nearest = min(decision.rejected, key=lambda item: (item.row in others, len(item.refusals)))
        refused += map(str, nearest.refusals)
    if cp_round_robin:
        refused.append("KV that is dealt to ranks token by token has no kernel; merge by LSE what ranks hold in a row")
    backend = decision.row.backend if decision.row else ""
    return MlaDecodeShapeSupport(not refused, found.fold, found.heads, found.q_tiles, backend, tuple(refused))


OK, NOT_SUPPORTED = 0, 1
_BY_NAME = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp8": torch.float8_e4m3fn}


def mla_decode_asm_query(
    arch: str,
    q_dtype: str,
    kv_dtype: str,
    num_heads: int,
    page_size: int,
    max_seqlen_q: int,
    persistent: bool,
    causal: bool,
    return_lse: bool,
    cp_round_robin: bool,
) -> tuple[int, str]:
    """Whether a shape is taken: (0, the back end) or (1, why not). Dtypes by name: bf16, fp16, fp8.

    The answer is that of `get_mla_decode_shape_support`: of one table, whatever the kernels are written in.
    """
    for name, value in (("q_dtype", q_dtype), ("kv_dtype", kv_dtype)):
        operands.check_choice("mla_decode_asm_query", name, value, tuple(_BY_NAME))
    ask: Callable[..., MlaDecodeShapeSupport] = get_mla_decode_shape_support
    dtypes = _BY_NAME[q_dtype], _BY_NAME[kv_dtype]
    found = ask(num_heads, max_seqlen_q, *dtypes, arch=arch, page_size=page_size, cp_round_robin=cp_round_robin)
    return (OK, found.backend) if found.supported else (NOT_SUPPORTED, "; ".join(found.reasons))
