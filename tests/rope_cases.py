"""Calls of rotary embeddings on strided rows, held to float64, and of caches in rings of poison. Not a test file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from norm_cases import half_steps
from quant_cases import Ringed, same, strided_like
from torch import Tensor

from aiterlite import cache, rope
from aiterlite.ops.rope_operator import ONE, TWO
from aiterlite.reference import cache as reference
from aiterlite.reference import rope as rotation

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
POSITIONS = 64


@dataclass(frozen=True)
class Case:
    """`sizes` of tokens, one or two; heads of `width` elements, `pad` apart, `offset` elements into their memory."""

    sizes: tuple[int, ...]
    heads: tuple[int, ...] = (4, 1)
    width: int = 64
    rotated: int = 64
    dtype: str = "bf16"
    table: str = "bf16"
    style: int = 1
    nope_first: bool = False
    half: bool = True
    pad: int = 0
    offset: int = 0
    positions: torch.dtype | None = torch.int64
    with_offsets: bool = False

    @property
    def tokens(self) -> int:
        return int(torch.Size(self.sizes).numel())

    @property
    def how(self) -> tuple[int, bool, bool]:
        return self.style, self.half, self.nope_first


@dataclass(frozen=True)
class Operands:
    tensors: list[Tensor]
    cos: Tensor
    sin: Tensor
    positions: Tensor | None
    offsets: Tensor | None
    at: Tensor


def strided(shape: Sequence[int], dtype: torch.dtype, generator: torch.Generator, pad: int, offset: int) -> Tensor:
    """Random rows further apart than they are long; what lies between them is NaN."""
    whole = torch.full((*shape[:-1], shape[-1] + pad), float("nan"))
    whole[..., : shape[-1]] = torch.randn(*shape, generator=generator) * 3
    storage = torch.cat((torch.full((offset,), float("nan")), whole.view(-1))).to(dtype)
    return storage[offset:].view(whole.shape)[..., : shape[-1]]


def tables_of(columns: int, dtype: torch.dtype, generator: torch.Generator, at: Tensor) -> tuple[Tensor, Tensor]:
    """cos and sin side by side in one tensor, as engines keep them. Rows that no position names are NaN."""
    angle = torch.rand(POSITIONS, columns, generator=generator) * 6.28
    both = torch.cat((angle.cos(), angle.sin()), -1)
    unnamed = torch.ones(POSITIONS, dtype=torch.bool)
    unnamed[at.clamp(0, POSITIONS - 1)] = False
    both[unnamed] = float("nan")
    cos, sin = both.to(dtype).chunk(2, -1)
    return cos, sin


def operands_of(case: Case, seed: int = 0) -> Operands:
    generator, dtype = torch.Generator().manual_seed(seed), DTYPES[case.dtype]
    made = [strided((*case.sizes, h, case.width), dtype, generator, case.pad, case.offset) for h in case.heads]
    at, offsets, positions = torch.arange(case.sizes[0]), None, None
    at = at.repeat_interleave(case.tokens // case.sizes[0])
    if case.positions is not None:
        at = torch.randint(0, POSITIONS // 2, (case.tokens,), generator=generator)
        positions = at.to(case.positions).view(case.sizes)
    if case.with_offsets:
        more = torch.randint(0, POSITIONS // 2, (case.tokens,), generator=generator)
        at, offsets = at + more, more.view(case.sizes)
    cos, sin = tables_of(case.rotated // (2 if case.half else 1), DTYPES[case.table], generator, at)
    return Operands(made, cos, sin, positions, offsets, at)


def exact_rotation(x: Tensor, given: Operands, case: Case) -> tuple[Tensor, Tensor]:
    """x of [tokens, heads, D] rotated in float64, and what float32 may be off by before it is rounded: products of
    16-bit numbers are exact and their sum is rounded once, those with float32 are rounded, too."""
    begin = case.width - case.rotated if case.nope_first else 0
    part = x[..., begin : begin + case.rotated].double()
    half = case.rotated // 2
    pairs = [(i, i + half) if case.style == 0 else (2 * i, 2 * i + 1) for i in range(half)]
    first, second = (torch.tensor([pair[i] for pair in pairs]) for i in (0, 1))
    cos, sin = (table[given.at].double()[:, None] for table in (given.cos, given.sin))
    if not case.half:
        of_first, of_second = [t[..., first] for t in (cos, sin)], [t[..., second] for t in (cos, sin)]
    else:
        of_first = of_second = [cos, sin]
    exact, off = x.double().clone(), torch.zeros(x.shape, dtype=torch.float64)
    terms = part[..., first] * of_first[0], part[..., second] * of_first[1]
    exact[..., begin + first], off[..., begin + first] = terms[0] - terms[1], terms[0].abs() + terms[1].abs()
    terms = part[..., second] * of_second[0], part[..., first] * of_second[1]
    exact[..., begin + second], off[..., begin + second] = terms[0] + terms[1], terms[0].abs() + terms[1].abs()
    return exact, off * (2.0**-24 if case.table != "fp32" else 2.0**-22)


def assert_is_rotated(out: Tensor, x: Tensor, given: Operands, case: Case) -> None:
    flat = (case.tokens, x.shape[-2], case.width)
    exact, off = exact_rotation(x.reshape(flat), given, case)
    apart = (out.cpu().reshape(flat).double() - exact).abs()
    bound = half_steps(exact.abs() + off, x.dtype) + off
    assert bool((apart <= bound).all()), f"{case}: {float((apart / bound).nan_to_num(9e9).max())} of the bound"
    kept = case.width - case.rotated
    rest = slice(0, kept) if case.nope_first else slice(case.rotated, None)
    assert torch.equal(out.cpu().reshape(flat)[..., rest], x.reshape(flat)[..., rest])


def between(tensor: Tensor) -> Tensor:
    """What of a tensor's memory is none of its elements."""
    whole = torch.as_strided(tensor, (tensor.untyped_storage().nbytes() // tensor.itemsize,), (1,), 0)
    there = torch.zeros(whole.shape, dtype=torch.bool)
    torch.as_strided(there, tensor.shape, tensor.stride(), tensor.storage_offset()).fill_(True)
    return whole.cpu()[~there]


def run(case: Case, device: str, seed: int = 0) -> list[Tensor]:
    """Calls in place and not, held to float64; nothing beside the rows was written. The results."""
    given = operands_of(case, seed)
    on_device = [strided_like(t, device) for t in (*given.tensors, given.cos, given.sin)]
    *tensors, cos, sin = on_device
    index = [None if t is None else t.to(device) for t in (given.positions, given.offsets)]
    rest = cos, sin, *index, *case.how
    outs = [ONE(tensors[0], *rest)] if len(tensors) == 1 else list(TWO(*tensors, *rest))
    for out, x in zip(outs, given.tensors, strict=True):
        assert out.is_contiguous()
        assert_is_rotated(out, x, given, case)
    if len(case.sizes) == 2:
        turned = ONE(tensors[0], *rest, True)
        assert same(turned.contiguous(), outs[0]) and turned.transpose(0, 1).is_contiguous()
    rope_in_place(tensors, rest)
    for tensor, out in zip(tensors, outs, strict=True):
        assert same(tensor.contiguous(), out) and bool(between(tensor).isnan().all())
    return [out.cpu() for out in outs]


def rope_in_place(tensors: Sequence[Tensor], rest: tuple[Any, ...]) -> None:
    """By the public name for what is given."""
    cos, sin, positions, offsets, *how = rest
    name = "rope_cached" + ("_positions" if positions is not None else "") + ("_offsets" if offsets is not None else "")
    name += "_2c" if len(tensors) == 2 else ""
    index = [t for t in (positions, offsets) if t is not None]
    getattr(rope, name + "_fwd_inplace")(*tensors, cos, sin, *index, *how)


# Caches ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class CacheCase:
    """Slots of `tokens`, `extra` more rows than these; caches of blocks that are `gap` entries apart."""

    tokens: int = 7
    extra: int = 2
    lora: int = 512
    width: int = 64
    heads: int = 3
    kv_heads: int = 1
    block: int = 4
    gap: int = 0
    dtype: str = "bf16"
    cache: torch.dtype = torch.bfloat16
    q: torch.dtype = torch.bfloat16
    neox: bool = False
    nope_first: bool = True
    all_q: bool = False
    pad: int = 0
    offset: int = 0
    index: torch.dtype = torch.int64


class Latents:
    """Operands of a case, on the CPU. Every third token has no slot, and positions of those are absurd."""

    def __init__(self, case: CacheCase, seed: int = 0) -> None:
        self.case, generator = case, torch.Generator().manual_seed(seed)
        dtype, rows = DTYPES[case.dtype], case.tokens + case.extra

        def made(heads: int, width: int) -> Tensor:
            return strided((rows, heads, width), dtype, generator, case.pad, case.offset)

        self.kv_c, self.k_pe = made(case.kv_heads, case.lora), made(case.kv_heads, case.width)
        # As an engine has q: one tensor, of which both parts are views.
        q = strided((rows, case.heads, case.lora + case.width), dtype, generator, case.pad, case.offset)
        self.q_nope, self.q_pe = q[..., : case.lora], q[..., case.lora :]
        self.blocks = -(-2 * rows // case.block)
        slots = torch.randperm(self.blocks * case.block, generator=generator)[: case.tokens]
        none = torch.tensor([-1, -(1 << 30), self.blocks * case.block, (1 << 31) - 1])
        slots[1::3] = none.repeat(case.tokens)[: len(slots[1::3])]
        self.slots = slots.to(case.index)
        self.there = (slots >= 0) & (slots < self.blocks * case.block)
        at = torch.randint(0, POSITIONS, (rows,), generator=generator)
        # Of tokens that have a slot: these are the nearest of the table's.
        at[::6], at[2::6] = -7, POSITIONS + 5
        self.cos, self.sin = tables_of(case.width // 2, dtype, generator, at)
        if not case.all_q:
            absurd = 1 << 62 if case.index == torch.int64 else (1 << 31) - 1
            at[: case.tokens] = torch.where(self.there, at[: case.tokens], absurd)
        self.positions = at.to(case.index)
        self.scales = torch.tensor([0.37]), torch.tensor([1.9])

    def cache(self, device: str) -> tuple[Ringed, Tensor]:
        """A cache in a ring of poison, and the same on the CPU, both all poison."""
        case = self.case
        shape = self.blocks, case.block + case.gap, case.kv_heads, case.lora + case.width
        ringed, own = (Ringed.of(shape, case.cache, where) for where in (device, "cpu"))
        return ringed, own.inner

    def turned(self, x: Tensor) -> Tensor:
        return rotation.rope(x, self.cos, self.sin, self.positions, self.case.neox, nearest=True)


def check_concat(case: CacheCase, device: str, as_bytes: bool = False, seed: int = 0) -> None:
    """`concat_and_cache_mla` writes what the reference does, and nothing else."""
    given = Latents(case, seed)
    ringed, wanted = given.cache(device)
    coded = case.cache.itemsize == 1
    reference.write(wanted[:, : case.block], given.slots, given.kv_c, given.k_pe, given.scales[0] if coded else None)
    own = ringed.inner[:, : case.block, 0]
    own = own.view(torch.uint8) if as_bytes else own
    rows = [strided_like(t, device)[:, 0] for t in (given.kv_c, given.k_pe)]
    scale = given.scales[0].to(device)
    cache.concat_and_cache_mla(*rows, own, given.slots.to(device), "fp8" if coded else "auto", scale)
    assert ringed.ring_is_whole and same(ringed.inner, wanted), case


def check_fused(case: CacheCase, device: str, seed: int = 0) -> None:
    """`fused_qk_rope_concat_and_cache_mla` writes what the reference does, and nothing else."""
    given = Latents(case, seed)
    ringed, wanted = given.cache(device)
    k_scale, q_scale = given.scales
    coded, q_coded = case.cache.itemsize == 1, case.q.itemsize == 1
    k_pe, q_pe = given.turned(given.k_pe), given.turned(given.q_pe)
    latents = given.slots, given.kv_c, k_pe, k_scale if coded else None, case.nope_first
    reference.write(wanted[:, : case.block], *latents)
    parts = (given.q_nope, q_pe) if case.nope_first else (q_pe, given.q_nope)
    joined = reference.scaled(torch.cat(parts, -1), case.q, q_scale if q_coded else None)
    q_out = Ringed.of(tuple(joined.shape), case.q, device)
    left = Ringed.of(tuple(joined.shape), case.q).inner
    written = torch.zeros(len(joined), dtype=torch.bool)
    written[: case.tokens] = given.there | case.all_q
    left[written] = joined[written]
    on_device = [strided_like(t, device) for t in (given.q_nope, given.q_pe, given.kv_c, given.k_pe)]
    if case.kv_heads == 1 and not case.pad:
        # The form without heads.
        on_device[2:] = [tensor[:, 0] for tensor in on_device[2:]]
    own = ringed.inner[:, : case.block]
    own = own[:, :, 0] if case.kv_heads == 1 else own
    index = [t.to(device) for t in (given.slots, k_scale, q_scale, given.positions)]
    tables = [strided_like(t, device) for t in (given.cos, given.sin)]
    how = case.neox, case.nope_first, case.all_q
    cache.fused_qk_rope_concat_and_cache_mla(*on_device, own, q_out.inner, *index, *tables, *how)
    assert ringed.ring_is_whole and same(ringed.inner, wanted), case
    assert q_out.ring_is_whole and same(q_out.inner, left), case
