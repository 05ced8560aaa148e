"""Gated activations in plain PyTorch, at float32: what the operators compute, and where they round.

    gate, up = the first and the second half of a row; with a limit, min(gate, limit), and up within it
    out      = act(gate) * up, rounded to x's type

silu is g / (1 + e^-g), gelu g * Phi(g), by the error function, and gelu_tanh the polynomial that many models have in
its place, g/2 * (1 + tanh(u)), u = sqrt(2 / pi) * (g + 0.044715 g^3); that is g / (1 + e^-2u), which, other than
torch's code, does not cancel below zero. What is quantised is the rounded out, so that a fused call gives the bits of
its parts. Of a gate of -infinity all three are NaN, as by these formulas.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from aiterlite.reference.norm import quantised

__all__ = ["ACTIVATIONS", "act_and_mul", "quantised"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": torch.nn.functional.silu,
    "gelu": lambda x: x * torch.special.ndtr(x),
    "gelu_tanh": lambda x: x * torch.sigmoid(2 * math.sqrt(2 / math.pi) * x * (1 + 0.044715 * x * x)),
}


def act_and_mul(x: Tensor, activation: str = "silu", limit: float = 0.0) -> Tensor:
    """[..., d] of x's type, of x [..., 2 d]."""
    gate, up = x.float().chunk(2, -1)
    if limit:
        gate, up = gate.clamp(max=limit), up.clamp(-limit, limit)
    return (ACTIVATIONS[activation](gate) * up).to(x.dtype)
