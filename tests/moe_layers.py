"""A layer of a mixture of experts for tests: random operands among poison, its result at float64, and a call of a
table's row as an operator makes one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from aiterlite.dispatch import Row, Table, decide
from aiterlite.kernel import WORKSPACE
from aiterlite.launch import calls
from aiterlite.reference import quant as quantisation
from aiterlite.tables.fused_moe_problem import BLOCK, OP, MoeProblem
from aiterlite.target import Persona

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CODES = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}
POISON = {"e4m3fn": 0x7F, "e4m3fnuz": 0x80}
NAN = float("nan")
OPERANDS = (
    "x", "x_scale", "w1", "w1_scale", "w2", "w2_scale", "topk_ids", "topk_weights", "expert_mask", "num_local_tokens",
    "out", "sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids",
)  # fmt: skip


def shuffled(weight: torch.Tensor) -> torch.Tensor:
    """[..., N, K] in pieces of 16 rows by 16 bytes, two of 16 or four of 8 elements for 32 of K."""
    each = 16 // weight.element_size()
    *outer, n, k = weight.shape
    pieces = weight.reshape(*outer, n // 16, 16, k // 32, 32 // each, each)
    order = [*range(len(outer)), *(len(outer) + i for i in (0, 2, 3, 1, 4))]
    return pieces.permute(*order).contiguous().reshape(weight.shape)


def widened(scale: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Scales of blocks, or of rows, for each element."""
    if scale.dim() == 2:
        return scale.double()[:, :, None].expand(-1, -1, columns)
    return scale.double().repeat_interleave(BLOCK, 1).repeat_interleave(BLOCK, 2)[:, :rows, :columns]


@dataclass
class Layer:
    problem: MoeProblem
    tensors: dict[str, torch.Tensor | None]
    exact: dict[str, torch.Tensor]  # x, w1, w2 at float64
    sizes: dict[str, Any]
    local: torch.Tensor  # [tokens, topk]: the expert of each slot here, -1 where there is none
    whole: torch.Tensor = field(default_factory=lambda: torch.empty(0))  # what out is a part of

    def expected(self, rounds: bool) -> torch.Tensor:
        """float64; `rounds`: x and h to the weights' code, as kernels do that multiply 8 bits by 8 bits."""
        weights = self.tensors["topk_weights"]
        assert weights is not None
        return self.expected_of(weights, rounds)

    def expected_of(self, weights: torch.Tensor, rounds: bool = True) -> torch.Tensor:
        """The same with these routing weights, where the call does not bring any."""
        problem, code = self.problem, CODES.get(self.problem.code)
        assert code is not None or not rounds
        out = torch.zeros(problem.tokens, problem.width, dtype=torch.float64)
        x = self.exact["x"]
        if rounds and not problem.quantised:
            x = _rounded(x, code)
        for token in range(problem.tokens):
            for slot in range(problem.topk):
                expert = int(self.local[token, slot])
                if expert < 0:
                    continue
                both = self.exact["w1"][expert] @ x[token]
                gate, up = (both[::2], both[1::2]) if problem.interleaved else both.chunk(2)
                h = self._activated(gate, up)
                weight = float(weights[token, slot])
                if problem.weighted_input:
                    h, weight = h * weight, 1.0
                if rounds:
                    h = _rounded(h, code)
                out[token] += self.exact["w2"][expert] @ h * weight
        return out

    def _activated(self, gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
        if self.problem.activation == "silu":
            return gate * gate.sigmoid() * up
        if self.problem.activation == "gelu":
            return 0.5 * gate * (1 + torch.erf(gate / math.sqrt(2))) * up
        limit, beta, linear = (self.sizes[name] for name in ("limit", "beta", "linear_beta"))
        gate, up = gate.clamp_max(limit), up.clamp(-limit, limit)
        return gate * (beta * gate).sigmoid() * (up + linear)


def _rounded(values: torch.Tensor, code: torch.dtype | None) -> torch.Tensor:
    assert code is not None
    groups = values.float().reshape(-1, BLOCK)
    codes, scale = quantisation.per_token(groups, code)
    return (codes.double() * scale.double()).reshape(values.shape)


def _weights(
    generator: torch.Generator, shape: tuple[int, int, int], problem: MoeProblem, hit: Sequence[int]
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Codes, scales and values; experts that are not hit are NaN."""
    experts, rows, columns = shape
    values = torch.randn(shape, generator=generator) / math.sqrt(columns)
    missing = [expert for expert in range(experts) if expert not in hit]
    if problem.quant == "none":
        codes = values.to(DTYPES[problem.dtype])
        exact = codes.double()
        codes[missing] = NAN
        return codes, None, exact
    # Scales that differ by a power of ten, so that one that is taken for another shows.
    scale_shape = (experts, rows) if problem.quant == "token" else (experts, rows // BLOCK, columns // BLOCK)
    scale = 10 ** (torch.rand(scale_shape, generator=generator) - 0.5) / 100
    codes = (values * 100).clamp(-240, 240).to(CODES[problem.code])
    exact = codes.double() * widened(scale, rows, columns)
    codes.view(torch.uint8)[missing] = POISON[problem.code]
    scale[missing] = NAN
    return codes, scale, exact


def layer(
    problem: MoeProblem,
    ids: Sequence[Sequence[int]],
    mask: Sequence[int] | None = None,
    live: int | None = None,
    id_dtype: torch.dtype = torch.int32,
    pad: int = 8,
    limit: float = 3.0,
    seed: int = 0,
) -> Layer:
    generator = torch.Generator().manual_seed(seed)
    dtype = DTYPES[problem.dtype]
    tokens, topk, width, inter = problem.tokens, problem.topk, problem.width, problem.inter
    numbers = [sum(mask[:i]) if mask[i] else -1 for i in range(len(mask))] if mask else list(range(problem.experts))
    local = torch.tensor(
        [
            [numbers[i] if 0 <= i < len(numbers) and (live is None or t < live) else -1 for i in row]
            for t, row in enumerate(ids)
        ]
    ).reshape(tokens, topk)
    hit = sorted(set(local.flatten().tolist()) - {-1})
    w1, w1_scale, exact1 = _weights(generator, (problem.experts, 2 * inter, width), problem, hit)
    w2, w2_scale, exact2 = _weights(generator, (problem.experts, width, inter), problem, hit)

    rows = torch.randn(tokens, width, generator=generator) * torch.rand(tokens, 1, generator=generator) * 4
    x_scale = None
    sizes: dict[str, Any] = {"stride_scale_token": 0, "stride_scale_group": 0}
    storage = torch.full((tokens, width + pad), NAN, dtype=dtype)
    if problem.quantised:
        codes, scales = quantisation.per_group(rows, CODES[problem.code], BLOCK)
        exact_x = codes.double() * scales.double().repeat_interleave(BLOCK, 1)
        storage = torch.full((tokens, width + 2 * pad), POISON[problem.code], dtype=torch.uint8)
        storage = storage.view(CODES[problem.code])
        storage.view(torch.uint8)[:, :width] = codes.view(torch.uint8)
        # Transposed, as upstream passes them.
        x_scale = scales.t().contiguous()
        sizes |= {"stride_scale_token": 1, "stride_scale_group": tokens}
    else:
        storage[:, :width] = rows.to(dtype)
        exact_x = storage[:, :width].double()
    exact_x = exact_x.clone()
    x = storage[:, :width]
    if live is not None:
        x.view(torch.uint8)[live:] = 0xFF
        if x_scale is not None:
            x_scale[:, live:] = NAN

    ids_storage = torch.full((tokens, topk + 3), 0, dtype=id_dtype)
    ids_storage[:, :topk] = torch.tensor(ids, dtype=id_dtype).reshape(tokens, topk)
    weights_storage = torch.full((tokens, topk + 1), NAN)
    weights_storage[:, :topk] = torch.rand(tokens, topk, generator=generator) + 0.1
    weights_storage[:, :topk][local < 0] = NAN
    whole = torch.full((tokens + 2, width + 8), 7.0, dtype=dtype)
    out = whole[1 : tokens + 1, :width]
    sizes |= {
        "tokens": tokens,
        "topk": topk,
        "experts": problem.experts,
        "global_experts": problem.global_experts or problem.experts,
        "id_words": 2 if id_dtype == torch.int64 else 1,
        "width": width,
        "inter": inter,
        "gate_step": 2 if problem.interleaved else 1,
        "up_offset": 1 if problem.interleaved else inter,
        "limit": limit,
        "beta": 1.5,
        "linear_beta": 0.75,
        "stride_x": x.stride(0),
        "stride_out": out.stride(0),
        "stride_ids": topk + 3,
        "stride_weights": topk + 1,
    }
    tensors: dict[str, torch.Tensor | None] = {
        "x": x,
        "x_scale": x_scale,
        "w1": shuffled(w1) if problem.shuffled else w1,
        "w1_scale": w1_scale,
        "w2": shuffled(w2) if problem.shuffled else w2,
        "w2_scale": w2_scale,
        "topk_ids": ids_storage[:, :topk],
        "topk_weights": weights_storage[:, :topk],
        "expert_mask": torch.tensor(mask, dtype=torch.int32) if mask else None,
        "num_local_tokens": None if live is None else torch.tensor([live], dtype=torch.int32),
        "out": out,
    }
    return Layer(problem, tensors, {"x": exact_x, "w1": exact1, "w2": exact2}, sizes, local, whole)


def run(
    made: Layer, persona: Persona, rows: Sequence[Row], row: str | None = None, problem: Any = None, op: str = OP
) -> torch.Tensor:
    """out, by the row of this name, or the one that dispatch takes; in a workspace that is poison."""
    chosen = tuple(one for one in rows if row is None or one.name == row)
    problem = made.problem if problem is None else problem
    decision = decide(Table(op, type(problem), chosen), problem, persona)
    assert decision.row is not None, str(decision)
    absent = [name for name in OPERANDS if made.tensors.get(name) is None]
    launch = calls.prepare(decision, torch.device("cpu"), OPERANDS, made.sizes, absent)
    need = decision.workspace
    workspace = None
    if need is not None:
        workspace = torch.full((need.total,), 0xFF, dtype=torch.uint8)
        workspace[: need.zeroed] = 0
    launch(*(made.tensors.get(name) for name in OPERANDS), **{WORKSPACE: workspace})
    if need is not None and workspace is not None:
        assert not bool(workspace[: need.zeroed].any()), "the zeroed part of the workspace is not zero again"
    out = made.tensors["out"]
    assert out is not None
    outside = made.whole.clone()
    outside[1:-1, : made.problem.width] = 7
    assert bool((outside == 7).all()), "something was written outside out"
    return out


def relative_error(got: torch.Tensor, exact: torch.Tensor) -> float:
    """Frobenius."""
    return float((got.double() - exact).norm() / exact.norm())
