"""GEMM of 8-bit floats with scales: its problems, and what every kernel asks of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Wishes
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.target import Persona

NATIVE, FLAVOURS, DTYPES = "native", ("e4m3fn", "e4m3fnuz"), ("bf16", "fp16")
BLOCK, STEP_K, VECTOR, SHUFFLED_ROWS, SHUFFLED_K = 128, 128, 16, 16, 32
ARGS = ArgumentStruct("aiterlite_gemm_a8w8_args", "aiterlite/gemm_a8w8/args.h")
SIZE_MAX = 2**31 - 1


@dataclass(frozen=True)
class A8w8Problem:
    """x[n, k] · w[m, k]^T of 8-bit floats, scaled, n tokens by m features.

    `fp8`: the type of both operands, `native` for the target's own. `dtype`: that of the output. `aligned`: operands
    begin at 16-byte addresses, and so does each of their rows.
    """

    n: int
    m: int
    k: int
    fp8: str = NATIVE
    dtype: str = "bf16"
    aligned: bool = True

    # What is fixed for a kind of problems: scales of 128 k of a token, or of a token; of a block of 128 x 128 weights,
    # or of a row; and whether x comes in 16 bits and is quantised here.
    X_GROUPS, W_BLOCKS, QUANTISES = True, True, False

    @property
    def batches(self) -> int:
        return int(getattr(self, "batch", 1))

    @property
    def is_shuffled(self) -> bool:
        return bool(getattr(self, "shuffled", False))

    @property
    def has_bias(self) -> bool:
        return bool(getattr(self, "bias", False))


@dataclass(frozen=True)
class BlockScaleProblem(A8w8Problem):
    """With a scale for 128 k of a token, and one for a block of 128 x 128 weights. `shuffled`: the weights lie as
    shuffle_weight puts them."""

    shuffled: bool = False


@dataclass(frozen=True)
class RowScaleProblem(A8w8Problem):
    """With a scale for a token and one for a row of weights, and a bias, where there is one."""

    shuffled: bool = False
    bias: bool = False

    X_GROUPS, W_BLOCKS = False, False


@dataclass(frozen=True)
class BatchedProblem(A8w8Problem):
    """`batch` products of 16-bit x, of the output's type, which is quantised with a scale for 128 k of a token, and
    weights that share a scale. `tokens_first`: x is [n, batch, k], not [batch, n, k]."""

    batch: int = 1
    bias: bool = False
    tokens_first: bool = True

    X_GROUPS, W_BLOCKS, QUANTISES = True, False, True


def flavour(problem: A8w8Problem, persona: Persona) -> str:
    """The 8-bit float of a problem's operands on a target."""
    return persona.fp8 if problem.fp8 == NATIVE else problem.fp8


@dataclass(frozen=True)
class ShuffledFits:
    """Shuffled weights come in pieces of 16 rows by 32 k."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if not problem.is_shuffled or (problem.m % SHUFFLED_ROWS == 0 and problem.k % SHUFFLED_K == 0):
            return None
        got = f"shuffled weights of m {problem.m}, k {problem.k}"
        return Refusal(f"{got}; m must be a multiple of {SHUFFLED_ROWS}, k of {SHUFFLED_K}", "pad w before shuffling")

    def __str__(self) -> str:
        return "whole pieces of shuffled weights"


@dataclass(frozen=True)
class NativeFloats:
    """Operands are of the 8-bit float that the target multiplies."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.fp8 in (NATIVE, persona.fp8):
            return None
        reason = f"{persona.target} multiplies {persona.fp8}, the operands are {problem.fp8}"
        return Refusal(reason, f"quantise the operands to torch.float8_{persona.fp8}")

    def __str__(self) -> str:
        return "the fp8 of the target's matrix unit"


@dataclass(frozen=True)
class WholeGroups:
    """k is a multiple of a number, of operands that kernels read by so many."""

    of: int

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.k % self.of == 0:
            return None
        return Refusal(f"k is {problem.k}, no multiple of {self.of}", "pad x and w with zeros")

    def __str__(self) -> str:
        return f"k a multiple of {self.of}"


SIZES = (
    OneOf("fp8", (NATIVE, *FLAVOURS)),
    OneOf("dtype", DTYPES),
    Between("n", 1, SIZE_MAX),
    Between("m", 1, SIZE_MAX),
    Between("k", 1, SIZE_MAX),
    ShuffledFits(),
)
