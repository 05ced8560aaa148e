"""Linear layers of bf16 weights, of 8-bit codes with a scale for each 128 x 128, of MXFP4, and how they are read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.activation import silu_and_mul, silu_and_mul_quant
from aiterlite.gemm import gemm_a8w8_blockscale, gemm_a16wfp4, gemm_afp4wfp4
from aiterlite.models.deepseek.checkpoint import Checkpoint
from aiterlite.models.deepseek.config import BLOCK, Config
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.quark import MX_PACK
from aiterlite.mxfp4 import dynamic_mxfp4_quant
from aiterlite.norm import (
    _fused_qk_rmsnorm,
    fused_qk_rmsnorm_group_quant,
    rms_norm,
    rmsnorm2d_fwd_with_add,
    rmsnorm2d_fwd_with_add_dynamicquant,
    rmsnorm2d_fwd_with_dynamicquant,
)
from aiterlite.ops.linear import linear
from aiterlite.quant import dynamic_per_group_scaled_quant
from aiterlite.reference import mxfp4
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.target import persona_for

# Hugging Face's models round a norm before its weights are multiplied.
_ROUND_FIRST = 1
ALL = slice(None)


@dataclass(frozen=True)
class Codes:
    """Rows in 8 bits [T, K], with a scale for each 128 [T, K / 128], and the type that they stand for."""

    codes: Tensor
    scales: Tensor
    dtype: torch.dtype

    @classmethod
    def empty(cls, x: Tensor, width: int, kind: torch.dtype) -> Codes:
        """For rows of this width, as many as x has."""
        codes = torch.empty((*x.shape[:-1], width), dtype=kind, device=x.device)
        scales = torch.empty((*x.shape[:-1], -(-width // BLOCK)), dtype=torch.float32, device=x.device)
        return cls(codes, scales, x.dtype)

    @classmethod
    def of(cls, x: Tensor, kind: torch.dtype) -> Codes:
        made = cls.empty(x, x.shape[-1], kind)
        dynamic_per_group_scaled_quant(made.codes, x.contiguous(), made.scales, BLOCK, False)
        return made


Rows = Tensor | Codes


@dataclass(frozen=True)
class Projection:
    """y = x · weight^T. Weights in codes have scales, and meet rows in codes: those of a norm or a gate, or else
    made here. Those of MXFP4 have scales of bytes, and meet rows that become MXFP4 here, or keep their 16 bits by
    AITERLITE_MXFP4_ACTIVATIONS."""

    weight: Tensor
    scale: Tensor | None = None
    reduction: str | None = None

    @property
    def code(self) -> torch.dtype | None:
        """What rows are quantised to before they meet the weights, if they are."""
        return None if self.scale is None or self._is_mx else self.weight.dtype

    @property
    def _is_mx(self) -> bool:
        return self.scale is not None and self.scale.dtype == torch.uint8

    def __call__(self, x: Rows) -> Tensor:
        if self.scale is None:
            assert isinstance(x, Tensor)
            return linear(x, self.weight, reduction=self.reduction)
        if self._is_mx:
            assert isinstance(x, Tensor)
            if envs.MXFP4_ACTIVATIONS.get() == "bf16":
                return gemm_a16wfp4(x, self.weight, self.scale, dtype=x.dtype)
            codes, scales = dynamic_mxfp4_quant(x)
            return gemm_afp4wfp4(codes, self.weight, scales, self.scale, x.dtype)
        if isinstance(x, Tensor):
            x = Codes.of(x, self.weight.dtype)
        return gemm_a8w8_blockscale(x.codes, self.weight, x.scales, self.scale, x.dtype)


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

    def add_in(self, code: torch.dtype | None, x: Tensor, residual: Tensor | None) -> tuple[Rows, Tensor]:
        """`add`, with the norm in `code` where one is given."""
        if code is None:
            return self.add(x, residual)
        made, how = Codes.empty(x, x.shape[-1], code), (self.weight, self.epsilon, _ROUND_FIRST, BLOCK)
        if residual is None:
            rmsnorm2d_fwd_with_dynamicquant(made.codes, x, made.scales, *how)
            return made, x
        total = torch.empty_like(x)
        rmsnorm2d_fwd_with_add_dynamicquant(made.codes, x, residual, total, made.scales, *how)
        return made, total

    def pair(self, x: Tensor, other: Norm, y: Tensor, code: torch.dtype | None = None) -> tuple[Rows, Tensor]:
        """(this norm of x, in `code` where one is given, the other of y) in one launch, each rounded once."""
        if code is None:
            return _fused_qk_rmsnorm(None, x, self.weight, self.epsilon, None, y, other.weight, other.epsilon)
        made, out = Codes.empty(x, x.shape[-1], code), y.new_empty(y.shape)
        fused_qk_rmsnorm_group_quant(
            *(made.codes, made.scales, x, self.weight, self.epsilon),
            k_out=out,
            k=y,
            k_weight=other.weight,
            k_epsilon=other.epsilon,
            group_size=BLOCK,
        )
        return made, out


def gated(x: Tensor, code: torch.dtype | None = None) -> Rows:
    """silu(gate) * up of rows [gate, up], in `code` where one is given."""
    if code is not None:
        made = Codes.empty(x, x.shape[-1] // 2, code)
        silu_and_mul_quant(made.codes, x, made.scales, BLOCK)
        return made
    out = x.new_empty(*x.shape[:-1], x.shape[-1] // 2)
    silu_and_mul(out, x)
    return out


@dataclass(frozen=True)
class FeedForward:
    """down(silu(gate x) * up x): a dense layer, or the shared expert. A rank has a part of the features between."""

    gate_up: Projection
    down: Projection

    @property
    def code(self) -> torch.dtype | None:
        return self.gate_up.code

    def __call__(self, x: Rows) -> Tensor:
        return self.down(gated(self.gate_up(x), self.down.code))


@dataclass(frozen=True)
class Reader:
    """Reads a rank's part of a checkpoint to a device."""

    checkpoint: Checkpoint
    config: Config
    parallel: Parallel
    device: torch.device
    dtype: torch.dtype = torch.bfloat16
    reduction: str | None = None
    persistent: bool = False

    def tensor(self, name: str, rows: slice = ALL, dtype: torch.dtype | None = None) -> Tensor:
        return self.checkpoint.read(name, rows).to(self.device, dtype or self.dtype).contiguous()

    @property
    def is_amd(self) -> bool:
        """Whether the model runs, or is planned, for kernels of `gfx` targets."""
        return persona_for(self.device.type, self.device.index).target.startswith("gfx")

    def norm(self, name: str) -> Norm:
        return Norm(self.tensor(f"{name}.weight"), self.config.rms_norm_eps)

    def weight(self, name: str, rows: slice = ALL, columns: slice = ALL) -> tuple[Tensor, Tensor | None]:
        """(weights, None), or (codes of the device's 8-bit type, scales), or of MXFP4."""
        if self.is_mx(name):
            codes = self.checkpoint.read(f"{name}.weight", rows, _divided(columns, MX_PACK))
            scale = self.checkpoint.read(f"{name}.weight_scale", rows, _divided(columns, MX_BLOCK))
            return codes.to(self.device).view(torch.uint8), scale.to(self.device).view(torch.uint8)
        weight = self.checkpoint.read(f"{name}.weight", rows, columns).to(self.device)
        if not self.scaled(name):
            return weight.to(self.dtype), None
        scale = self.checkpoint.read(f"{name}.weight_scale_inv", _blocks(rows), _blocks(columns))
        return self._native(weight, scale.to(self.device, torch.float32))

    def scaled(self, name: str) -> bool:
        return f"{name}.weight_scale_inv" in self.checkpoint

    def is_mx(self, name: str) -> bool:
        quark = self.config.quark
        return quark is not None and (quark.has(name) or f"{name}.weight_scale" in self.checkpoint)

    def plain(self, name: str, rows: slice = ALL) -> Tensor:
        """Weights of the model's type, whether they are codes in the checkpoint or not."""
        if self.is_mx(name):
            codes, bytes_ = self.weight(name, rows)
            assert bytes_ is not None
            return mxfp4.dequantise(codes, bytes_).to(self.dtype)
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
        return BLOCK if self.scaled(name) else MX_BLOCK if self.is_mx(name) else 1

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


def _divided(columns: slice, by: int) -> slice:
    """A rank's columns of what holds `by` of them each; ranks have whole ones."""
    if columns == ALL:
        return ALL
    return slice(columns.start // by, columns.stop // by)


def _blocks(rows: slice) -> slice:
    return slice(
        None if rows.start is None else rows.start // BLOCK, None if rows.stop is None else -(-rows.stop // BLOCK)
    )
