"""GEMM of MXFP4 weights: its problem, and what every kernel asks of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, OneOf, Refusal, Wishes
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.kernel import Value
from aiterlite.tables.mx_types import BLOCK
from aiterlite.target import Persona

OP = "gemm_mxfp4"
KINDS, RESULTS = ("bf16", "fp16", "fp4"), ("bf16", "fp16", "fp32")
# How scales of weights lie: in rows of whole words, of which two are those of 256 k; in rows of any strides; or
# shuffled.
LAYS = ("rows", "strided", "shuffled")
VECTOR, SHUFFLED_ROWS, SHUFFLED_K, WHOLE_K = 16, 16, 64, 256
ARGS = ArgumentStruct("aiterlite_gemm_mxfp4_args", "aiterlite/gemm_mxfp4/args.h")
SIZE_MAX = 2**31 - 1
NEAR_ROWS, NEAR_BYTES = 128, 2**31


@dataclass(frozen=True)
class MxGemmProblem:
    """alpha * x[n, k] · w[m, k]^T + beta * bias, n tokens by m features; w of e2m1, with a scale for 32 k of a row.

    `x`: the type of x, `fp4` where it is as w. `dtype`: that of the output. `shuffled`: w lies as shuffle_weight puts
    it. `w_scale`: how its scales lie, of LAYS; `x_scale_shuffled`: x's lie as shuffle_scale puts them. `aligned`:
    operands begin at 16-byte addresses, and so does each of their rows. `near`: 128 neighbouring rows of each,
    and of scales, lie within 2^31 bytes.
    """

    n: int
    m: int
    k: int
    x: str = "bf16"
    dtype: str = "bf16"
    shuffled: bool = False
    w_scale: str = "rows"
    x_scale_shuffled: bool = False
    bias: bool = False
    batch: int = 1
    aligned: bool = True
    near: bool = True

    @property
    def is_packed(self) -> bool:
        return self.x == "fp4"


def sizes(problem: MxGemmProblem) -> dict[str, Value]:
    return {"n": problem.n, "m": problem.m, "k": problem.k, "batch": problem.batch}


@dataclass(frozen=True)
class LaysFit:
    """K comes in whole blocks, and shuffled weights in pieces of 16 rows by 64 k."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.k % BLOCK:
            return Refusal(f"k is {problem.k}, no multiple of {BLOCK}", "pad x and w with zeros")
        if problem.w_scale == "rows" and problem.k % WHOLE_K:
            return Refusal(f"k is {problem.k}; scales in rows need a multiple of {WHOLE_K}", "w_scale=strided")
        if not problem.shuffled or (problem.m % SHUFFLED_ROWS == 0 and problem.k % SHUFFLED_K == 0):
            return None
        got = f"shuffled weights of m {problem.m}, k {problem.k}"
        return Refusal(f"{got}; allowed: multiples of {SHUFFLED_ROWS} and {SHUFFLED_K}", "pad w before it is shuffled")

    def __str__(self) -> str:
        return f"k a multiple of {BLOCK}, shuffled weights in whole pieces"


REQUIRES = (
    OneOf("x", KINDS),
    OneOf("dtype", RESULTS),
    OneOf("w_scale", LAYS),
    Between("n", 1, SIZE_MAX),
    Between("m", 1, SIZE_MAX),
    Between("k", 1, SIZE_MAX),
    Between("batch", 1, SIZE_MAX),
    LaysFit(),
)
