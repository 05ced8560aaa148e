"""The fused mixture of experts for tokens that are sorted already: `fmoe_fp8_blockscale_g1u1`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.launch import calls as launches
from aiterlite.ops import arguments, calls, direct, operands
from aiterlite.ops import fused_moe_operands as checks
from aiterlite.ops.calls import Run
from aiterlite.ops.fused_moe import layer_sizes
from aiterlite.ops.operator import register
from aiterlite.tables import fused_moe as tables
from aiterlite.tables.fused_moe_problem import BLOCK, FMOE_OP, FmoeProblem
from aiterlite.tables.quant_types import ActivationType

# Operands of the kernels that each call brings, in this order; then those that none brings.
OPERANDS = (
    *("out", "x", "x_scale", "w1", "w1_scale", "w2", "w2_scale"),
    *("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids"),
)
ABSENT = ("topk_ids", "topk_weights", "expert_mask", "num_local_tokens", "bias1", "bias2")


def fmoe_fp8_blockscale_g1u1(
    out: Tensor,
    input: Tensor,
    gate: Tensor,
    down: Tensor,
    sorted_token_ids: Tensor,
    sorted_weights: Tensor,
    sorted_expert_ids: Tensor,
    num_valid_ids: Tensor,
    topk: int,
    input_scale: Tensor,
    fc1_scale: Tensor,
    fc2_scale: Tensor,
    kernelName: str | None = "",  # noqa: N803 (upstream's name)
    fc_scale_blkn: int = 128,
    fc_scale_blkk: int = 128,
    fc2_smooth_scale: Tensor | None = None,
    activation: int | None = ActivationType.Silu.value,
    block_size_M: int = 32,  # noqa: N803 (upstream's name)
    deterministic: bool = True,
) -> None:
    """`fused_moe` of codes, for tokens that `moe_sorting` sorted; adds to `out`, which the sorting made zero.

    Args:
        out: [tokens, width] bfloat16 or float16; rows may be strided.
        input: [tokens, width], codes of gate's type; rows may be strided.
        gate: [experts, 2 * inter, width], codes of an e4m3 type, rows of gate before those of up, as `shuffle_weight`
            puts them; contiguous. (Whether they lie so cannot be seen.)
        down: [experts, width, inter], as `shuffle_weight` puts them; contiguous.
        sorted_token_ids, sorted_weights, sorted_expert_ids, num_valid_ids: what `moe_sorting` returned for blocks of
            block_size_M and these experts.
        topk: slots of a token.
        input_scale: float32 [width / 128, tokens], contiguous; or those bytes under the shape [tokens, width / 128], as
            per_1x128 quantisation with transpose_scale reports them.
        fc1_scale, fc2_scale: float32, a number for each block of 128 x 128 of gate and down; contiguous.
        kernelName: empty. The table chooses; AITER_ENABLE_VSKIP and AITERLITE_PREFER say what is preferred.
        fc_scale_blkn, fc_scale_blkk: 128.
        fc2_smooth_scale: None.
        activation: Silu or Gelu, of `ActivationType`, None for Silu.
        block_size_M: of the sorting, 1 to 1024.
        deterministic: the sum over slots goes in their order, and the same call gives the same bits. False allows
            kernels that add in any order.

    Source of the semantics: `aiter.fmoe_fp8_blockscale_g1u1`; `deterministic` is not upstream's. Not differentiable.
    Raises `ArgumentError`, `DispatchError` (with the reasons) or a `JitError`.
    """
    if kernelName:
        remedy = "Leave it empty; AITER_ENABLE_VSKIP and AITERLITE_PREFER say what is preferred."
        raise ArgumentError(FMOE_OP, "kernelName", repr(kernelName), "'' or None", remedy)
    for name, size in (("fc_scale_blkn", fc_scale_blkn), ("fc_scale_blkk", fc_scale_blkk)):
        if size != BLOCK:
            raise ArgumentError(FMOE_OP, name, size, str(BLOCK), "Quantise weights by blocks of 128 x 128.")
    if fc2_smooth_scale is not None:
        remedy = "What is between the stages is quantised by its own scales."
        raise ArgumentError(FMOE_OP, "fc2_smooth_scale", "a tensor", "None", remedy)
    kind = ActivationType.Silu if activation is None else activation
    args = (
        out, input, gate, down, sorted_token_ids, sorted_weights, sorted_expert_ids, num_valid_ids, topk, input_scale,
        fc1_scale, fc2_scale, checks.number_of(FMOE_OP, "activation", kind), block_size_M, deterministic,
    )  # fmt: skip
    direct.call(OPERATOR, args, (out,))


@dataclass(frozen=True)
class _Call:
    """The arguments of the operator by their names."""

    out: Tensor
    input: Tensor
    gate: Tensor
    down: Tensor
    sorted_token_ids: Tensor
    sorted_weights: Tensor
    sorted_expert_ids: Tensor
    num_valid_ids: Tensor
    topk: int
    input_scale: Tensor
    fc1_scale: Tensor
    fc2_scale: Tensor
    activation: int
    block_size_M: int  # noqa: N815 (upstream's name)
    deterministic: bool

    def check(self) -> None:
        """Raises `ArgumentError`."""
        x, gate, down, out = self.input, self.gate, self.down, self.out
        checks.activation_name(FMOE_OP, self.activation)
        arguments.check_ints(
            FMOE_OP, topk=(self.topk, 1, tables.MOST_TOPK), block_size_M=(self.block_size_M, 1, tables.MOST_BLOCK)
        )
        checks.check_weights(FMOE_OP, x, gate, down, ("input", "gate", "down"), True)
        checks.check_codes(FMOE_OP, "block", gate, out.dtype, "gate")
        if x.dtype != gate.dtype:
            remedy = "Quantise it per_1x128, with transpose_scale=True."
            raise ArgumentError(FMOE_OP, "input", f"of dtype {x.dtype}", f"{gate.dtype}, the dtype of gate", remedy)
        scales = {"fc1_scale": self.fc1_scale, "fc2_scale": self.fc2_scale}
        checks.check_scales(FMOE_OP, "block", gate, down, ("gate", "down"), **scales)
        operands.check_dtype(FMOE_OP, "out", out, checks.DTYPES)
        operands.check_shape(FMOE_OP, "out", out, [x.shape])
        operands.check_device(FMOE_OP, "out", out, x, "input")
        operands.check_dense(FMOE_OP, input=x, out=out)
        arguments.check_apart(FMOE_OP, "out", out)
        self._check_input_scale()
        self._check_sorted()

    def check_addresses(self) -> None:
        """Raises `ArgumentError`. A trace has no addresses."""
        if not checks.is_aligned(self.input, self.out, self.gate, self.down):
            remedy = "Call .contiguous() on what is not; memory that torch allocates is aligned."
            allowed = "rows at multiples of 16 bytes, of out, gate and down too"
            raise ArgumentError(FMOE_OP, "input", "one of rows at other addresses", allowed, remedy)

    def _check_input_scale(self) -> None:
        scale, (tokens, width) = self.input_scale, self.input.shape
        shapes = [width // BLOCK, tokens], [tokens, width // BLOCK]
        operands.check_dtype(FMOE_OP, "input_scale", scale, (torch.float32,), "the dtype of scales")
        operands.check_device(FMOE_OP, "input_scale", scale, self.input, "input")
        operands.check_shape(FMOE_OP, "input_scale", scale, shapes)
        transposed = list(scale.shape) == shapes[1] and scale.T.is_contiguous()
        if not (transposed or scale.is_contiguous()):
            got = f"of strides {list(scale.stride())}"
            raise ArgumentError(FMOE_OP, "input_scale", got, f"contiguous as {shapes[0]}", "Call .contiguous() on it.")

    def _check_sorted(self) -> None:
        blocks = self.sorted_expert_ids.numel()
        for name, dtype, least in (
            ("sorted_token_ids", torch.int32, 0),
            ("sorted_weights", torch.float32, self.sorted_token_ids.numel()),
            ("sorted_expert_ids", torch.int32, 0),
            ("num_valid_ids", torch.int32, 1),
        ):
            tensor = getattr(self, name)
            operands.check_dtype(FMOE_OP, name, tensor, (dtype,))
            operands.check_device(FMOE_OP, name, tensor, self.input, "input")
            arguments.check_contiguous(FMOE_OP, **{name: tensor})
            if tensor.numel() < least:
                raise ArgumentError(FMOE_OP, name, f"of {tensor.numel()} entries", f"at least {least}")
        entries = self.sorted_token_ids.numel()
        if blocks < entries // self.block_size_M:
            allowed = f"at least {entries // self.block_size_M}, one for each {self.block_size_M} sorted_token_ids"
            remedy = "Sort by blocks of block_size_M."
            raise ArgumentError(FMOE_OP, "sorted_expert_ids", f"of {blocks} entries", allowed, remedy)

    @property
    def problem(self) -> FmoeProblem:
        return FmoeProblem(
            tokens=self.input.shape[0],
            experts=self.gate.shape[0],
            topk=self.topk,
            width=self.gate.shape[2],
            inter=self.gate.shape[1] // 2,
            block_size=self.block_size_M,
            dtype=operands.dtype_name(self.out.dtype),
            code=operands.dtype_name(self.gate.dtype),
            activation=checks.ACTIVATIONS[ActivationType(self.activation)],
            deterministic=self.deterministic,
        )

    @property
    def _entries(self) -> int:
        """Those of the whole blocks that sorted buffers hold: kernels believe num_valid_ids no further."""
        size = self.block_size_M
        return min(self.sorted_token_ids.numel() // size, self.sorted_expert_ids.numel()) * size

    @property
    def sizes(self) -> dict[str, int | float]:
        """What the kernels' arguments hold besides addresses and what kernels say themselves."""
        tokens = self.input.shape[0]
        return layer_sizes(self.problem, False) | {
            "global_experts": self.gate.shape[0],
            "id_words": 1,
            "block_size": self.block_size_M,
            "sorted_entries": self._entries,
            "stride_x": self.input.stride(0),
            "stride_out": self.out.stride(0),
            "stride_ids": 0,
            "stride_weights": 0,
            "stride_scale_token": 1,
            "stride_scale_group": tokens,
            "limit": math.inf,
            "beta": 1.0,
            "linear_beta": 0.0,
        }


def _prepare(*args: Any) -> Run:
    call = _Call(*args)
    call.check()
    call.check_addresses()
    if call.input.shape[0] * call.sorted_token_ids.numel() == 0:
        return lambda *args: None
    decision = calls.decide(tables.FMOE_TABLE, call.problem, calls.persona_of(FMOE_OP, call.out.device))
    launch = launches.prepare(decision, call.out.device, (*OPERANDS, *ABSENT), call.sizes, ABSENT)

    def run(*args: Any) -> None:
        out, x, w1, w2, ids, weights, experts, valid, _, x_scale, w1_scale, w2_scale, *_ = args
        launch(out, x, x_scale, w1, w1_scale, w2, w2_scale, ids, weights, experts, valid, None, None, None, None)

    return run


def _fake(*args: Any) -> None:
    _Call(*args).check()


OPERATOR = register(
    f"{FMOE_OP}(Tensor(a!) out, Tensor input, Tensor gate, Tensor down, Tensor sorted_token_ids, "
    "Tensor sorted_weights, Tensor sorted_expert_ids, Tensor num_valid_ids, int topk, Tensor input_scale, "
    "Tensor fc1_scale, Tensor fc2_scale, int activation, int block_size_M, bool deterministic) -> ()",
    _prepare,
    _fake,
)
