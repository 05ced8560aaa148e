"""Calls of the CPU's kernel of the fused mixture of experts through its C interface, and a float64 oracle of them."""

from __future__ import annotations

import ctypes
import math
from dataclasses import dataclass
from typing import Any

import torch
import torch_threads
from torch import Tensor

from aiterlite.jit import loader
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.launch.calls import parallel_for

ARGS = ArgumentStruct("aiterlite_fused_moe_cpu_args", "aiterlite/fused_moe/args.h")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CODES = {"none": None, "e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}
ACTIVATIONS, QUANTS = ("silu", "gelu", "swiglu"), ("none", "token", "block", "mxfp4", "tensor")
SYMBOLS = tuple(f"aiterlite_fused_moe_cpu_{dtype}_{code}" for dtype in DTYPES for code in CODES)
_GUARD = 512  # elements of poison around an operand


def host_unit(target: str) -> Unit:
    return Unit("fused_moe", ("csrc/fused_moe/cpu.cpp",), target, symbols=SYMBOLS)


@dataclass
class Case:
    """A call. `w1` and `w2` are unshuffled codes or numbers; `shuffled` is for the kernel. `ids` are those of all
    experts where there is a mask. `sorted_block`: the pairs come in sorted buffers of such blocks."""

    x: Tensor
    w1: Tensor
    w2: Tensor
    ids: Tensor
    weights: Tensor
    dtype: str = "bf16"
    code: str = "e4m3fn"
    quant: str = "block"
    w1_scale: Tensor | None = None
    w2_scale: Tensor | None = None
    x_scale: Tensor | None = None
    mask: Tensor | None = None
    live: int | None = None
    activation: str = "silu"
    limit: float = math.inf
    beta: float = 1.702
    linear_beta: float = 1.0
    shuffled: bool = False
    interleaved: bool = False
    weighted_input: bool = False
    sorted_block: int = 0
    added: Tensor | None = None
    out_pad: int = 0

    @property
    def inter(self) -> int:
        return self.w2.shape[2]

    @property
    def width(self) -> int:
        return self.w2.shape[1]


def make(
    tokens: int,
    experts: int,
    topk: int,
    width: int,
    inter: int,
    *,
    dtype: str = "bf16",
    code: str = "e4m3fn",
    quant: str = "block",
    quantised: bool = False,
    seed: int = 0,
    pad: int = 0,
    **more: Any,
) -> Case:
    """Random operands; rows of x, ids and weights lie `pad` elements further apart than they are long."""
    g = torch.Generator().manual_seed(seed)
    of_weights = CODES[code] or DTYPES[dtype]

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g)

    def strided(t: Tensor) -> Tensor:
        if not pad:
            return t
        room = torch.full((*t.shape[:-1], t.shape[-1] + pad), -1 if t.dtype in (torch.int32, torch.int64) else math.nan)
        return room.to(t.dtype)[..., : t.shape[-1]].copy_(t)

    scale = 1.0 if quant == "none" else 100.0
    w1 = (random(experts, 2 * inter, width) * scale * width**-0.5).to(of_weights)
    w2 = (random(experts, width, inter) * scale * inter**-0.5).to(of_weights)
    if quant == "token":
        more["w1_scale"], more["w2_scale"] = ((0.5 + torch.rand(*w.shape[:2], generator=g)) / scale for w in (w1, w2))
    elif quant == "tensor":
        # Gate's and up's.
        more["w1_scale"] = (0.5 + torch.rand(experts, 2, generator=g)) / scale
        more["w2_scale"] = (0.5 + torch.rand(experts, generator=g)) / scale
    elif quant == "block":
        more["w1_scale"], more["w2_scale"] = (
            (0.5 + torch.rand(experts, -(-w.shape[1] // 128), -(-w.shape[2] // 128), generator=g)) / scale
            for w in (w1, w2)
        )
    x = random(tokens, width)
    if quantised:
        more["x_scale"] = (0.5 + torch.rand(tokens, -(-width // 128), generator=g)) / 50
        x = (x * 50).to(of_weights)
    ids = torch.rand(tokens, max(topk, experts), generator=g).argsort(1)[:, :topk] % experts
    weights = torch.rand(tokens, topk, generator=g)
    return Case(
        strided(x if quantised else x.to(DTYPES[dtype])),
        w1,
        w2,
        strided(ids.int()),
        strided(weights),
        dtype,
        code,
        quant,
        **more,
    )


# The oracle -----------------------------------------------------------------------------------------------------------


def _numbers(codes: Tensor, scale: Tensor | None, quant: str) -> Tensor:
    values = codes.double()
    if scale is None:
        return values
    if quant == "token":
        return values * scale.double().unsqueeze(1)
    rows, columns = codes.shape
    if quant == "tensor":
        return values * scale.double().reshape(-1).repeat_interleave(rows // scale.numel()).unsqueeze(1)
    return values * scale.double().repeat_interleave(128, 0)[:rows].repeat_interleave(128, 1)[:, :columns]


def local_expert(case: Case, expert: int) -> int:
    if case.mask is None:
        return expert if 0 <= expert < len(case.w1) else -1
    if not 0 <= expert < len(case.mask) or not int(case.mask[expert]):
        return -1
    return int((case.mask[:expert] != 0).sum())


def pairs(case: Case) -> list[tuple[int, int, int, float]]:
    """(token, slot, the expert here, weight) of all that count."""
    live = len(case.x) if case.live is None else max(0, min(case.live, len(case.x)))
    found = []
    for token in range(live):
        for slot, expert in enumerate(case.ids[token].tolist()):
            here = local_expert(case, expert)
            if here >= 0:
                found.append((token, slot, here, float(case.weights[token, slot])))
    return found


def exact(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """In float64: the result, what rounding each h to bf16 adds to its variance, and w2's products' magnitudes."""
    tokens, width = len(case.x), case.width
    out, variance, terms = (torch.zeros(tokens, width, dtype=torch.float64) for _ in range(3))
    x = case.x.double()
    if case.x_scale is not None:
        x = x * case.x_scale.double().repeat_interleave(128, 1)[:, :width]
    if case.added is not None:
        out += case.added.double()
    by_expert: dict[int, list[tuple[int, float]]] = {}
    for token, _, expert, weight in pairs(case):
        by_expert.setdefault(expert, []).append((token, weight))
    for expert, chosen in by_expert.items():
        w1 = _numbers(case.w1[expert], None if case.w1_scale is None else case.w1_scale[expert], case.quant)
        w2 = _numbers(case.w2[expert], None if case.w2_scale is None else case.w2_scale[expert], case.quant)
        at = torch.tensor([token for token, _ in chosen])
        weight = torch.tensor([weight for _, weight in chosen], dtype=torch.float64).unsqueeze(1)
        made = x[at] @ w1.T
        gate, up = (made[:, 0::2], made[:, 1::2]) if case.interleaved else made.split(case.inter, 1)
        if case.weighted_input:
            gate, up, weight = gate * weight, up * weight, torch.ones_like(weight)
        h = activated(case, gate, up)
        out.index_add_(0, at, h @ w2.T * weight)
        terms.index_add_(0, at, h.abs() @ w2.abs().T * weight.abs())
        variance.index_add_(0, at, h**2 @ w2.T**2 * weight**2 * (2.0**-8) ** 2 / 3)
    return out, variance, terms


def activated(case: Case, gate: Tensor, up: Tensor) -> Tensor:
    if case.activation == "silu":
        return gate * torch.sigmoid(gate) * up
    if case.activation == "gelu":
        return torch.nn.functional.gelu(gate) * up
    gate, up = gate.clamp(max=case.limit), up.clamp(-case.limit, case.limit)
    return gate * torch.sigmoid(case.beta * gate) * (up + case.linear_beta)


def bound(case: Case, of: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """How far an element may be off: its rounding, six deviations of rounding h, and fp32 sums (of w1 too)."""
    out, variance, terms = of
    unit = 2.0**-8 if case.dtype == "bf16" else 2.0**-11
    spread = variance.sqrt() * (6 if case.dtype == "bf16" else 0)
    return unit * out.abs() * (1 + 2.0**-8) + spread + 2.0**-17 * terms + 2.0**-24


# The kernel -----------------------------------------------------------------------------------------------------------


def shuffled(w: Tensor) -> Tensor:
    """(16, 16): 16 rows by 16 bytes of each, in turn."""
    piece = 16 // w.itemsize
    n, k = w.shape[-2:]
    return w.view(-1, n // 16, 16, k // piece, piece).permute(0, 1, 3, 2, 4).contiguous().view(w.shape)


def sort(case: Case) -> dict[str, Tensor]:
    """Sorted buffers as moe_sorting makes them, with what must not be read behind their ends."""
    block, entries, blocks, weights = case.sorted_block, [], [], []
    padding = case.ids.shape[1] << 24 | len(case.x)
    found = pairs(case)
    for expert in range(len(case.w1)):
        of = [(t, s, w) for t, s, e, w in found if e == expert]
        for i in range(0, len(of), block):
            part = of[i : i + block]
            blocks.append(expert)
            entries += [s << 24 | t for t, s, _ in part] + [padding] * (block - len(part))
            weights += [w for *_, w in part] + [0.0] * (block - len(part))
    poison = [1 << 24] * 3
    return {
        "sorted_ids": torch.tensor(entries + poison, dtype=torch.int32),
        "sorted_weights": torch.tensor(weights + [math.nan] * 3, dtype=torch.float32),
        "sorted_expert_ids": torch.tensor([*blocks, 0], dtype=torch.int32),
        "num_valid_ids": torch.tensor([len(entries), len(case.x)], dtype=torch.int32),
    }


def operands(case: Case) -> dict[str, Tensor | None]:
    """The tensors of a call by the names of their fields, but for `out`."""
    place = shuffled if case.shuffled else lambda w: w
    given = {
        "x": case.x,
        "x_scale": case.x_scale,
        "w1": place(case.w1),
        "w1_scale": case.w1_scale,
        "w2": place(case.w2),
        "w2_scale": case.w2_scale,
        "topk_ids": case.ids,
        "topk_weights": case.weights,
        "expert_mask": None if case.mask is None else case.mask.int(),
        "num_local_tokens": None if case.live is None else torch.tensor([case.live], dtype=torch.int32),
    }
    if case.sorted_block:
        given |= {"topk_ids": None, "topk_weights": None, "expert_mask": None, **sort(case)}
    return given


def numbers(case: Case) -> dict[str, int | float]:
    """The fields that are no tensors."""
    x_scale = case.x_scale
    return {
        "stride_x": case.x.stride(0),
        "stride_out": case.width + case.out_pad,
        "stride_ids": case.ids.stride(0),
        "stride_weights": case.weights.stride(0),
        "stride_scale_token": 0 if x_scale is None else x_scale.stride(0),
        "stride_scale_group": 0 if x_scale is None else x_scale.stride(1),
        "tokens": len(case.x),
        "topk": case.ids.shape[1],
        "experts": len(case.w1),
        "global_experts": len(case.w1) if case.mask is None else len(case.mask),
        "id_words": case.ids.itemsize // 4,
        "width": case.width,
        "inter": case.inter,
        "block_size": case.sorted_block,
        "sorted_entries": 1 << 24 if case.sorted_block else 0,
        "gate_step": 2 if case.interleaved else 1,
        "up_offset": 1 if case.interleaved else case.inter,
        "limit": case.limit,
        "beta": case.beta,
        "linear_beta": case.linear_beta,
        "w1_scales": 2,
        "activation": ACTIVATIONS.index(case.activation),
        "quant": QUANTS.index(case.quant),
        "shuffled": int(case.shuffled),
        "weighted_input": int(case.weighted_input),
        "quantised": int(x_scale is not None),
        "add": int(case.added is not None),
    }


def packed(case: Case, addresses: dict[str, int]) -> bytes:
    values = {**numbers(case), **addresses}
    layout = ARGS.layout()
    return layout.packer.pack(*[values.get(field.name, 0) for field in layout.packed])


def symbol(case: Case) -> str:
    return f"aiterlite_fused_moe_cpu_{case.dtype}_{case.code}"


def poisoned(t: Tensor) -> tuple[Tensor, Tensor]:
    """(a copy with as large a stride, between words of NaN; all of its memory)."""
    length = sum((size - 1) * stride for size, stride in zip(t.shape, t.stride(), strict=True)) + 1
    room = torch.full((length + 2 * _GUARD,), math.nan if t.is_floating_point() else 1 << 24).to(t.dtype)
    room[_GUARD:-_GUARD] = torch.as_strided(t, (length,), (1,))
    return torch.as_strided(room, t.shape, t.stride(), _GUARD), room


def run(target: str, case: Case, threads: int = 1) -> Tensor:
    """The kernel's result; nothing was written beside it, or to an operand."""
    held = {name: (*poisoned(t), t) for name, t in operands(case).items() if t is not None}
    before = {name: room.clone() for name, (_, room, _) in held.items()}
    stride = case.width + case.out_pad
    out, memory = poisoned(torch.full((len(case.x), stride), math.nan, dtype=DTYPES[case.dtype])[:, : case.width])
    if case.added is not None:
        out.copy_(case.added)
    addresses = {name: t.data_ptr() for name, (t, _, _) in held.items()}
    entry = getattr(loader.host_library(host_unit(target)), symbol(case))
    entry.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
    with torch_threads.threads(threads):
        assert entry(packed(case, {**addresses, "out": out.data_ptr()}), parallel_for(), threads) == 0
    for name, (_, room, _) in held.items():
        assert torch.equal(room.view(torch.uint8), before[name].view(torch.uint8)), f"{name} was written to"
    result = out.clone()
    out.fill_(math.nan)
    assert bool(memory.isnan().all()), "memory beside out was written to"
    return result


def off(case: Case, got: Tensor) -> float:
    """The largest error in bounds: up to 1 is right."""
    of = exact(case)
    return float(((got.double() - of[0]).abs() / bound(case, of)).nan_to_num(nan=math.inf).max())
