"""What a call of the fused mixture of experts is, and what every row of its tables asks of one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.target import Persona

OP, FMOE_OP = "fused_moe", "fmoe_fp8_blockscale_g1u1"
ARGS = ArgumentStruct("aiterlite_fused_moe_args", "aiterlite/fused_moe/args.h")

# By the numbers that the CPU's kernel has for them.
QUANTS = ("none", "token", "block", "mxfp4", "tensor")
ACTIVATIONS = ("silu", "gelu", "swiglu")
BLOCK = 128
# Of MXFP4 weights: their code, and what they are multiplied by: MXFP4, 16 bits, or MXFP8.
MX_CODE = "e2m1"
PRECISIONS = A4W4, A16W4, A8W4 = ("a4w4", "a16w4", "a8w4")
# The code of a target's own 8-bit floats.
NATIVE = "native"


@dataclass(frozen=True)
class MoeProblem:
    """`tokens` of `width` elements, `topk` of `experts` each, whose layer is `inter` wide.

    `dtype` is that of hidden states and result, `code` that of the weights' elements (empty: as `dtype`; `native`: the
    target's own). `quant`: weights have no scale (none), one a row (token), one a block of 128 x 128 (block), one an
    expert, or of w1 one of gate and one of up (tensor), or are of MXFP4 (mxfp4), beside which x and h become that, or
    MXFP8, or neither (`precision`, of PRECISIONS; else empty). `quantised`: the hidden states come in `code` with a
    scale for each 128 elements of a token where weights have them by blocks, else one a token or one for all, or beside
    MXFP4 in what they would become. `shuffled`: weights lie as `shuffle_weight` puts them, and scales of MXFP4 as
    `shuffle_scale` does. `interleaved`: rows of gate and up take turns. `weighted_input`: the routing weight goes on x,
    not on the result. `masked`: ids are those of `global_experts`, of which a mask names the ones here. `by_slots`: the
    result has a row a slot, which are not summed. `bias1`, `bias2`: whether rows of w1, of w2, have biases.
    """

    tokens: int
    experts: int
    topk: int = 8
    width: int = 7168
    inter: int = 256
    dtype: str = "bf16"
    code: str = "e4m3fn"
    quant: str = "block"
    activation: str = "silu"
    shuffled: bool = False
    interleaved: bool = False
    quantised: bool = False
    weighted_input: bool = False
    masked: bool = False
    global_experts: int = 0
    aligned: bool = True
    deterministic: bool = True
    precision: str = ""
    by_slots: bool = False
    bias1: bool = False
    bias2: bool = False

    @property
    def pairs(self) -> int:
        return self.tokens * self.topk

    @property
    def is_mx(self) -> bool:
        return self.quant == "mxfp4"


@dataclass(frozen=True)
class FmoeProblem:
    """The same of tokens that are sorted by experts, in blocks of `block_size`; added to a result that is there.
    Hidden states are quantised, weights shuffled, gate rows before up rows."""

    tokens: int
    experts: int
    topk: int = 8
    width: int = 7168
    inter: int = 256
    block_size: int = 32
    dtype: str = "bf16"
    code: str = "e4m3fn"
    activation: str = "silu"
    deterministic: bool = True

    @property
    def pairs(self) -> int:
        return self.tokens * self.topk


_Problem = TypeVar("_Problem", MoeProblem, FmoeProblem)


def on(problem: _Problem, persona: Persona) -> _Problem:
    """The problem as a target has it."""
    return replace(problem, code=persona.fp8) if problem.code == NATIVE else problem
