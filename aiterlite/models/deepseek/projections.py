"""Linear layers of bf16 weights, and of 8-bit codes with a scale for each 128 x 128, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite.activation import silu_and_mul
from aiterlite.gemm import gemm_a8w8_blockscale
from aiterlite.models.deepseek.checkpoint import Checkpoint
from aiterlite.models.deepseek.config import BLOCK, Config
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.norm import _fused_qk_rmsnorm, rms_norm, rmsnorm2d_fwd_with_add
from aiterlite.ops.linear import linear
from aiterlite.quant import dynamic_per_group_scaled_quant
from aiterlite.target import persona_for

# Hugging Face's models round a norm before its weights are multiplied.
_ROUND_FIRST = 1
ALL = slice(None)


@dataclass(frozen=True)
class Projection:
    """y = x · weight^T. Codes have scales, and x is quantised by groups of 128 before it meets them."""

    weight: Tensor
    scale: Tensor | None = None
    reduction: str | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.scale is None:
            return linear(x, self.weight, reduction=self.reduction)
        codes = torch.empty(x.shape, dtype=self.weight.dtype, device=x.device)
        scales = torch.empty((*x.shape[:-1], -(-x.shape[-1] // BLOCK)), dtype=torch.float32, device=x.device)
        dynamic_per_group_scaled_quant(codes, x.contiguous(), scales, BLOCK, False)
        return gemm_a8w8_blockscale(codes, self.weight, scales, self.scale, x.dtype)


@dataclass(frozen=True)
class Norm:
    """RMSNorm, of a sum where a residual is given."""

    weight: Tensor
    epsilon: float

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.epsilon, _ROUND_FIRST)

    def add(self, x: Tensor, residual: Tensor | None) -> tuple[Tensor, Tensor]:
        """(norm, x + residual)."""
        if residual is None:
            return self(x), x
        out, total = torch.empty_like(x), torch.empty_like(x)
        rmsnorm2d_fwd_with_add(out, x, residual, total, self.weight, self.epsilon, False, _ROUND_FIRST)
        return out, total

    def pair(self, x: Tensor, other: Norm, y: Tensor) -> tuple[Tensor, Tensor]:
        """(this norm of x, the other of y) in one launch, each rounded once."""
        return _fused_qk_rmsnorm(None, x, self.weight, self.epsilon, None, y, other.weight, other.epsilon)


def gated(x: Tensor) -> Tensor:
    """silu(gate) * up of rows [gate, up]."""
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    silu_and_mul(out, x)
    return out


@dataclass(frozen=True)
class FeedForward:
    """down(silu(gate x) * up x): a dense layer, or the shared expert. A rank has a part of the features between."""

    gate_up: Projection
    down: Projection

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(gated(self.gate_up(x)))


@dataclass(frozen=True)
class Reader:
    """Reads a rank's part of a checkpoint to a device."""

    checkpoint: Checkpoint
    config: Config
    parallel: Parallel
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    reduction: str | None = None

    def tensor(self, name: str, rows: slice = ALL, dtype: torch.dtype | None = None) -> Tensor:
        return self.checkpoint.read(name, rows).to(self.device, dtype or self.dtype).contiguous()

    def norm(self, name: str) -> Norm:
        return Norm(self.tensor(f"{name}.weight"), self.config.rms_norm_eps)

    def weight(self, name: str, rows: slice = ALL, columns: slice = ALL) -> tuple[Tensor, Tensor | None]:
        """(weights, None), or (codes of the device's 8-bit type, scales)."""
        weight = self.checkpoint.read(f"{name}.weight", rows, columns).to(self.device)
        if not self.scaled(name):
            return weight.to(self.dtype), None
        scale = self.checkpoint.read(f"{name}.weight_scale_inv", _blocks(rows), _blocks(columns))
        return self._native(weight, scale.to(self.device, torch.float32))

    def scaled(self, name: str) -> bool:
        return f"{name}.weight_scale_inv" in self.checkpoint

    def plain(self, name: str, rows: slice = ALL) -> Tensor:
        """Weights of the model's type, whether they are codes in the checkpoint or not."""
        weight = self.checkpoint.read(f"{name}.weight", rows).to(self.device)
        if not self.scaled(name):
            return weight.to(self.dtype)
        # Rows of a rank may begin within a block, as long as they are read whole.
        first = (rows.start or 0) // BLOCK
        last = None if rows.stop is None else -(-rows.stop // BLOCK)
        scale = self.checkpoint.read(f"{name}.weight_scale_inv", slice(first, last)).to(self.device, torch.float32)
        begin = (rows.start or 0) - first * BLOCK
        wide = scale.repeat_interleave(BLOCK, 0)[begin : begin + weight.shape[0]].repeat_interleave(BLOCK, 1)
        return (weight.float() * wide[:, : weight.shape[1]]).to(self.dtype)

    def projection(self, *names: str, rows: slice = ALL, columns: slice = ALL) -> Projection:
        """One projection of the rows of all names, one below the other."""
        parts = [self.weight(name, rows, columns) for name in names]
        scales = [scale for _, scale in parts if scale is not None]
        weight = _stack([weight for weight, _ in parts])
        return Projection(weight, torch.cat(scales).contiguous() if scales else None, self.reduction)

    def feed_forward(self, name: str, inter: int) -> FeedForward:
        """A rank's part of the features between the two projections."""
        here = self.parallel.share("intermediate_size", inter, self._multiple(f"{name}.gate_proj"))
        gate_up = self.projection(f"{name}.gate_proj", f"{name}.up_proj", rows=here)
        return FeedForward(gate_up, self.projection(f"{name}.down_proj", columns=here))

    def _multiple(self, name: str) -> int:
        return BLOCK if self.scaled(name) else 1

    def _native(self, codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
        """Checkpoints hold e4m3fn. The same bits are half as much in e4m3fnuz, whose NaN is e4m3fn's -0."""
        if persona_for(self.device.type, self.device.index).fp8 != "e4m3fnuz":
            return codes, scale
        bits = codes.view(torch.int8)
        return torch.where(bits == -128, torch.zeros_like(bits), bits).view(torch.float8_e4m3fnuz), scale * 2


def _stack(parts: Sequence[Tensor]) -> Tensor:
    if len(parts) == 1:
        return parts[0].contiguous()
    if parts[0].element_size() > 1:
        return torch.cat(list(parts))
    # torch puts no 8-bit floats side by side, but their bytes.
    return torch.cat([part.view(torch.uint8) for part in parts]).view(parts[0].dtype)


def _blocks(rows: slice) -> slice:
    return slice(
        None if rows.start is None else rows.start // BLOCK, None if rows.stop is None else -(-rows.stop // BLOCK)
    )
