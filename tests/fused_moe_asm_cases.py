"""Calls of the assembly mixture of experts: operands, sorted by experts, in rings of poison, and a float64 oracle."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aiterlite.emulator import Device, Module, Report
from aiterlite.jit import engine
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import moe_sorting, quant
from aiterlite.tables import fused_moe_asm as asm

PERSONAS = {"gfx942": "mi300x", "gfx950": "mi355x"}
CODES = {"gfx942": torch.float8_e4m3fnuz, "gfx950": torch.float8_e4m3fn}
BF16, NAN = torch.bfloat16, float("nan")
BLOCK, RING = 32, 64


def blocks(scale: Tensor, rows: int, columns: int) -> Tensor:
    """Scales of blocks of 128 x 128 for each element, or of 1 x 128 where there is one a row."""
    wide = scale.double().repeat_interleave(128, -1)[..., :columns]
    return wide if scale.shape[-2] == rows else wide.repeat_interleave(128, -2)[..., :rows, :]


class Ring:
    """Tensors in the middle of poison that nothing may touch."""

    def __init__(self) -> None:
        self.whole: list[tuple[Tensor, Tensor]] = []

    def put(self, value: Tensor) -> Tensor:
        size = value.numel() * value.element_size()
        whole = torch.full((size + 2 * RING,), 0x7F, dtype=torch.uint8)
        inner = whole[RING : RING + size].view(value.dtype).view(value.shape)
        inner.copy_(value)
        self.whole.append((whole, inner))
        return inner

    def assert_untouched(self) -> None:
        for whole, _ in self.whole:
            assert bool((whole[:RING] == 0x7F).all()) and bool((whole[-RING:] == 0x7F).all())


@dataclass
class Case:
    """x, weights and scales as float64 values (`exact`), and as the kernel takes them (`given`)."""

    tokens: int
    topk: int
    experts: int
    width: int
    inter: int
    code: torch.dtype
    ids: Tensor
    weights: Tensor
    exact: dict[str, Tensor]
    given: dict[str, Any]
    ring: Ring = field(default_factory=Ring)


def case(
    target: str,
    tokens: int = 32,
    topk: int = 2,
    experts: int = 8,
    width: int = 1024,
    inter: int = 256,
    seed: int = 0,
    whole: bool = False,
    ids: list[list[int]] | None = None,
    transposed: bool = True,
) -> Case:
    """Random operands; `whole`: of which results are small whole numbers, whose bf16 sums are exact in any order.
    `transposed`: scales of x are [width / 128, tokens]."""
    random = torch.Generator().manual_seed(seed)
    code, ring = CODES[target], Ring()

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=random)

    def codes(*shape: int) -> Tensor:
        return normal(*shape).mul(4.0).to(code)

    def scales(*shape: int) -> Tensor:
        return torch.rand(*shape, generator=random) * 0.06 + 0.02

    x, w1, w2 = codes(tokens, width), codes(experts, 2 * inter, width), codes(experts, width, inter)
    xs = scales(tokens, width // 128)
    s1, s2 = scales(experts, 2 * inter // 128, width // 128), scales(experts, width // 128, inter // 128)
    if whole:
        # Gate is 128, up the largest code, and so h one number for all, whose scale is a power of two.
        largest = quant.LARGEST[code]
        w1 = torch.full((experts, 2 * inter, width), 128.0)
        w1[:, inter:] = largest
        x, w1 = torch.ones(tokens, width).to(code), w1.to(code)
        w2 = torch.randint(-inter // 5, inter // 5 + 1, (experts, width, inter), generator=random).float()
        w2 = torch.where(w2.abs() > 1, 0.0, w2).to(code)
        xs, s1 = torch.ones_like(xs), torch.full_like(s1, 1 / width)
        s2 = torch.full_like(s2, 2.0**-11 if largest == 240 else 2.0**-13)
    if ids is None:
        ids = [torch.randperm(experts, generator=random)[:topk].tolist() for _ in range(tokens)]
    weights = torch.rand(tokens, topk, generator=random) + 0.1
    if whole:
        weights = torch.ones(tokens, topk)
    found = moe_sorting.moe_sorting(ids, weights.tolist(), experts, BLOCK)
    sorted_ids = torch.tensor(found.sorted_ids, dtype=torch.int32)
    exact = {
        "x": x.double() * blocks(xs, tokens, width),
        "w1": w1.double() * blocks(s1, 2 * inter, width),
        "w2": w2.double() * blocks(s2, width, inter),
    }
    put = ring.put
    given: dict[str, Any] = {
        "x": put(x),
        "x_scale": put(xs.T.contiguous() if transposed else xs),
        "w1": put(shuffle_weight(w1)),
        "w1_scale": put(s1),
        "w2": put(shuffle_weight(w2)),
        "w2_scale": put(s2),
        "sorted_ids": put(sorted_ids),
        "sorted_weights": put(torch.tensor(found.sorted_weights)),
        "sorted_expert_ids": put(torch.tensor(found.sorted_expert_ids, dtype=torch.int32)),
        "num_valid_ids": put(torch.tensor([len(found.sorted_ids), tokens], dtype=torch.int32)),
        "stride_x": width,
        "stride_scale_token": 1 if transposed else width // 128,
        "stride_scale_group": tokens if transposed else 1,
    }
    made = Case(tokens, topk, experts, width, inter, code, torch.tensor(ids), weights, exact, given, ring)
    return made


def expected(made: Case, rounded: bool = True, activation: str = "silu") -> Tensor:
    """[tokens, topk, width] in float64, times the routing weights; h `rounded` to 8 bits as in the kernel, or not."""
    out = torch.zeros(made.tokens, made.topk, made.width, dtype=torch.float64)
    for token in range(made.tokens):
        for slot, expert in enumerate(made.ids[token].tolist()):
            if not 0 <= expert < made.experts:
                continue
            both = made.exact["w1"][expert] @ made.exact["x"][token]
            gate, up = both[: made.inter], both[made.inter :]
            phi = gate.sigmoid() if activation == "silu" else 0.5 * torch.erfc(-gate / math.sqrt(2))
            h = gate * phi * up
            if rounded:
                found, scale = quant.per_group(h.float()[None], made.code, 128)
                h = (found.double() * scale.double().repeat_interleave(128, -1))[0]
            out[token, slot] = made.exact["w2"][expert] @ h * made.weights[token, slot].double()
    return out


@functools.cache
def load(target: str, plan: asm.OneStagePlan) -> tuple[Module, str]:
    kernel = asm.KERNEL_OF[plan.vskip, plan.activation]
    return Device(PERSONAS[target]).load(
        engine.obtain(kernel.device_unit(plan.variant, target)).entry.path
    ), kernel.symbol


def arguments(made: Case, out: Tensor, store: str) -> dict[str, Any]:
    """The kernel's arguments by name; `out` is the result of the whole, or the slots."""
    absent = ("topk_ids", "topk_weights", "expert_mask", "num_local_tokens", "local_topk_ids", "h", "h_scale")
    absent += ("bias1", "bias2")
    zeros = ("stride_ids", "stride_weights", "global_experts", "id_words", "beta", "linear_beta", "w1_scales")
    sizes = {"tokens": made.tokens, "topk": made.topk, "experts": made.experts, "width": made.width}
    return {
        **dict.fromkeys(absent),
        **dict.fromkeys(zeros, 0),
        **made.given,
        **sizes,
        "inter": made.inter,
        "sorted_entries": made.given["sorted_ids"].numel() // BLOCK * BLOCK,
        "block_size": BLOCK,
        "gate_step": 1,
        "up_offset": made.inter,
        "limit": float("inf"),
        "slots": out if store == "partial" else None,
        "out": out if store == "atomic" else None,
        "stride_out": out.stride(0) if store == "atomic" else 0,
    }


def planned(
    made: Case, vskip: bool, store: str, grid: int = 4, marks: bool = False, activation: str = "silu"
) -> asm.OneStagePlan:
    slices = made.inter // 256 if store == "partial" else 1
    return asm.OneStagePlan(activation, store, slices, vskip, marks, blocks=0, grid=grid)


def launch(target: str, made: Case, plan: asm.OneStagePlan, **options: Any) -> tuple[Tensor, Report]:
    """What the kernel stores, slots as NaN before and results as zero, and the report under all sanitizers."""
    module, symbol = load(target, plan)
    shape = (made.tokens, made.topk, made.width) if plan.store == "partial" else (made.tokens, made.width)
    out = made.ring.put(torch.full(shape, NAN if plan.store == "partial" else 0.0, dtype=BF16))
    options.setdefault("sanitize", True)
    report = module.launch(symbol, plan.grid, 256, arguments(made, out, plan.store), **options)
    assert not report.findings, "\n".join(map(str, report.findings))
    made.ring.assert_untouched()
    return out, report
