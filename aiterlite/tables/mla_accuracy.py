"""How exact MLA's results are: the class of a call, which its q decides, and what its kernel rounds besides o. Pure.

A class bounds the relative error of a row of q's heads together: the norm of the difference to exact attention over the
operands as they were given, in their own types, by the norm of the latter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Accuracy:
    """The class of a q of `q_bits`, and how the kernel of the call rounds `weights`."""

    q_bits: int
    relative_error: float
    weights: str

    def __str__(self) -> str:
        return f"class of a {self.q_bits}-bit q: relative error at most {self.relative_error:g}; weights {self.weights}"


# Of the classes, by the bits of q, at most.
RELATIVE_ERROR = {16: 2e-3, 8: 1e-2}
# The same where weights have 8 bits too. Against a reference that rounds them alike it is that of 16 bits.
EIGHT_BIT_WEIGHTS = 3e-2
_TWO_FP8 = "rounded to two e4m3 numbers"
_TWO_PARTS, _FP16 = "rounded to 16 bits, two bf16 numbers", "rounded to fp16"


def _class_of(weights: Callable[[Any], str]) -> Callable[[Any], Accuracy]:
    """What a row says of a problem. But for one row no weight is left 8 bits: all targets have these classes."""

    def accuracy(problem: Any) -> Accuracy:
        bits = 8 if problem.q_dtype.startswith("e4m3") else 16
        return Accuracy(bits, RELATIVE_ERROR[bits], weights(problem))

    return accuracy


# csrc/mla/decode.cpp multiplies fp16 in float32, and what is bf16 or becomes it by tiles of AMX where the CPU has them.
CPU = _class_of(lambda problem: "not rounded" if problem.q_dtype == "fp16" else f"{_TWO_PARTS} (with AMX), or not")
# csrc/mla/decode.hip multiplies in q's 16-bit type, csrc/mla/sm90_decode.hip in KV's; 8-bit ones become fp16.
AMD = _class_of(lambda problem: _TWO_PARTS if problem.q_dtype == "bf16" else _FP16)
# With 64 rows of q a workgroup the second number is that of the larger loss of each two tokens.
SM90 = _class_of(lambda problem: _TWO_PARTS if problem.kv_dtype == "bf16" else _FP16)

# asm/mla/ multiplies in KV's type.
ASM = _class_of(lambda problem: _TWO_PARTS if problem.q_dtype == "bf16" else _TWO_FP8)


def ASM_ONE_PART(problem: Any) -> Accuracy:  # noqa: N802
    """Weights of 8 bits, as upstream's kernels have them: a class of its own, for who asks for it."""
    return Accuracy(8, EIGHT_BIT_WEIGHTS, "rounded to e4m3, as their sum is")
