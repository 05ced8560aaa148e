"""A layer of a mixture of experts for tests: random operands among poison, its result at float64, and a call of a
table's row as an operator makes one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from aiterlite.dispatch import Table, decide
from aiterlite.jit import engine
from aiterlite.kernel import WORKSPACE, Kernel
from aiterlite.launch import calls
from aiterlite.ops.shuffle import shuffle_weight
from aiterlite.reference import fused_moe as reference
from aiterlite.reference import quant as quantisation
from aiterlite.reference.fused_moe import Activation, Weights
from aiterlite.tables.fused_moe_problem import BLOCK, MoeProblem
from aiterlite.target import Persona

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CODES = {"e4m3fn": torch.float8_e4m3fn, "e4m3fnuz": torch.float8_e4m3fnuz}
POISON = {"e4m3fn": 0x7F, "e4m3fnuz": 0x80}
NAN = float("nan")
OPERANDS = (
    "x", "x_scale", "w1", "w1_scale", "w2", "w2_scale", "topk_ids", "topk_weights", "expert_mask", "num_local_tokens",
    "out", "sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids", "bias1", "bias2",
)  # fmt: skip


@dataclass
class Layer:
    problem: MoeProblem
    tensors: dict[str, torch.Tensor | None]
    sizes: dict[str, Any]
    weights: Weights
    local: torch.Tensor  # [tokens, topk]: the expert of each slot here, -1 where there is none
    whole: torch.Tensor  # what out is a part of

    def expected(self, rounds: bool) -> torch.Tensor:
        """float64; `rounds`: x and h to the weights' code, as kernels do that multiply 8 bits by 8 bits."""
        weights = self.tensors["topk_weights"]
        assert weights is not None
        return self.expected_of(weights, rounds)

    def expected_of(self, weights: torch.Tensor, rounds: bool = True) -> torch.Tensor:
        """The same with these routing weights, where the call does not bring any."""
        x, x_scale, problem = self.tensors["x"], self.tensors["x_scale"], self.problem
        assert x is not None
        activation = Activation(problem.activation, *(self.sizes[n] for n in ("limit", "beta", "linear_beta")))
        # NaN, which poison is, counts for nothing where nothing is made of it.
        return reference.fused_moe(
            x, self.weights, self.local, weights, activation, None if x_scale is None else x_scale.T,
            weighted_input=problem.weighted_input, rounded=CODES[problem.code] if rounds else None,
        ).out  # fmt: skip


def _weights(
    generator: torch.Generator,
    shape: tuple[int, int, int],
    problem: MoeProblem,
    hit: Sequence[int],
    halves: bool = False,
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Codes and scales; experts that are not hit are NaN."""
    experts, rows, columns = shape
    values = torch.randn(shape, generator=generator)
    missing = [expert for expert in range(experts) if expert not in hit]
    if problem.quant == "none":
        codes = (values / math.sqrt(columns)).to(DTYPES[problem.dtype])
        codes[missing] = NAN
        return codes, None
    # Scales far apart, so that one that is taken for another shows.
    of_blocks = (experts, rows // BLOCK, columns // BLOCK)
    of_tensor = (experts, 2) if halves else (experts,)
    scale_shape = {"token": (experts, rows), "tensor": of_tensor}.get(problem.quant, of_blocks)
    scale = 10 ** (torch.rand(scale_shape, generator=generator) - 0.5) / 50 / math.sqrt(columns)
    codes = (values * 50).clamp(-240, 240).to(CODES[problem.code])
    codes.view(torch.uint8)[missing] = POISON[problem.code]
    scale[missing] = NAN
    return codes, scale


def layer(
    problem: MoeProblem,
    ids: Sequence[Sequence[int]],
    mask: Sequence[int] | None = None,
    live: int | None = None,
    id_dtype: torch.dtype = torch.int32,
    pad: int = 8,
    limit: float = 3.0,
    seed: int = 0,
    halves: bool = False,
) -> Layer:
    """`halves`: of scales of tensors, w1 has one for gate and one for up."""
    generator = torch.Generator().manual_seed(seed)
    dtype = DTYPES[problem.dtype]
    tokens, topk, width, inter = problem.tokens, problem.topk, problem.width, problem.inter
    named, held = torch.tensor(ids, dtype=id_dtype).reshape(tokens, topk), torch.tensor(mask) if mask else None
    local = reference.local_ids(named, problem.experts, held, live)
    hit = sorted(set(local.flatten().tolist()) - {-1})
    w1, w1_scale = _weights(generator, (problem.experts, 2 * inter, width), problem, hit, halves)
    w2, w2_scale = _weights(generator, (problem.experts, width, inter), problem, hit)

    rows = torch.randn(tokens, width, generator=generator) * torch.rand(tokens, 1, generator=generator) * 4
    x_scale = None
    sizes: dict[str, Any] = {"stride_scale_token": 0, "stride_scale_group": 0}
    storage = torch.full((tokens, width + pad), NAN, dtype=dtype)
    if problem.quantised:
        coarser = {"token": quantisation.per_token, "tensor": quantisation.per_tensor}.get(problem.quant)
        if coarser is not None:
            codes, scales = coarser(rows, CODES[problem.code])
        else:
            codes, scales = quantisation.per_group(rows, CODES[problem.code], BLOCK)
        storage = torch.full((tokens, width + 2 * pad), POISON[problem.code], dtype=torch.uint8)
        storage = storage.view(CODES[problem.code])
        storage.view(torch.uint8)[:, :width] = codes.view(torch.uint8)
        # Transposed, as upstream passes them.
        x_scale = scales.reshape(-1, 1 if coarser else width // BLOCK).t().contiguous()
        sizes["stride_scale_token"] = int(problem.quant != "tensor")
        sizes["stride_scale_group"] = 0 if coarser else tokens
    else:
        storage[:, :width] = rows.to(dtype)
    x = storage[:, :width]
    if live is not None:
        x.view(torch.uint8)[live:] = 0xFF
        if x_scale is not None and problem.quant != "tensor":
            x_scale[:, live:] = NAN

    ids_storage = torch.full((tokens, topk + 3), 0, dtype=id_dtype)
    ids_storage[:, :topk] = named
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
        "sorted_entries": 1 << 24,
        "w1_scales": 2 if halves else 1,
        "stride_x": x.stride(0),
        "stride_out": out.stride(0),
        "stride_ids": topk + 3,
        "stride_weights": topk + 1,
    }
    tensors: dict[str, torch.Tensor | None] = {
        "x": x,
        "x_scale": x_scale,
        "w1": shuffle_weight(w1) if problem.shuffled else w1,
        "w1_scale": w1_scale,
        "w2": shuffle_weight(w2) if problem.shuffled else w2,
        "w2_scale": w2_scale,
        "topk_ids": ids_storage[:, :topk],
        "topk_weights": weights_storage[:, :topk],
        "expert_mask": torch.tensor(mask, dtype=torch.int32) if mask else None,
        "num_local_tokens": None if live is None else torch.tensor([live], dtype=torch.int32),
        "out": out,
    }
    weights = Weights(w1, w2, w1_scale, w2_scale, problem.interleaved)
    return Layer(problem, tensors, sizes, weights, local, whole)


def assert_nothing_spilled(kernels: Sequence[Kernel]) -> None:
    """Nothing goes through scratch, and registers of compiled kernels leave room for two waves of a SIMD; for one where
    gfx950 multiplies codes and scales are not shuffled, a workgroup has 128 of the inner width, or a few tokens have
    biases."""
    for kernel in kernels:
        defines = dict(kernel.unit.defines)
        alone = "mxfp4_codes" in kernel.unit.name and (
            defines["AITERLITE_SHUFFLED"] == "0"
            or defines.get("AITERLITE_UNITS") == "4"
            or (defines["AITERLITE_BIASED"] == "1" and defines.get("AITERLITE_FEW", "0") != "0")
        )
        used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
        assert not any(used.get(name) for name in ("vgpr_spills", "sgpr_spills", "scratch_bytes")), (kernel, used)
        assert used["vgprs"] <= (512 if alone else 256) or kernel.unit.sources[0].endswith(".S"), (kernel, used)


def run(made: Layer, persona: Persona, table: Table, row: str, problem: Any = None) -> torch.Tensor:
    """out, by the row of this name of a table; in a workspace that is poison."""
    chosen = replace(table, rows=tuple(one for one in table.rows if one.name == row))
    decision = decide(chosen, made.problem if problem is None else problem, persona)
    assert decision.row is not None, str(decision)
    absent = [name for name in OPERANDS if made.tensors.get(name) is None]
    assert_nothing_spilled(decision.kernels)
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
