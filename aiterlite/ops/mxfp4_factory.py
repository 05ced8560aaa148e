"""Quantisation to MXFP4 that returns new tensors, under upstream's names, each with its own default mode: RoundUp of
`aiter.ops.quant`, Even of what upstream has in Triton."""

from __future__ import annotations

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.ops import arguments, operands
from aiterlite.ops.direct import call
from aiterlite.ops.mxfp4 import ACT_QUANT, E8M0, FP4, check_input, mode_of, quantise
from aiterlite.ops.mxfp4 import quant_mxfp4 as _quant_mxfp4
from aiterlite.ops.shuffle import e8m0_shuffle as _e8m0_shuffle
from aiterlite.ops.shuffle import padded_scale_shape
from aiterlite.reference import mxfp4 as reference
from aiterlite.tables import mxfp4_quant as tables
from aiterlite.tables.mx_types import BLOCK, MX_DEFAULT_ROUND_MODE, MxScaleRoundMode

Quantised = tuple[Tensor, Tensor]
# Names of modes that Triton's `scaling_mode` has, and torchao's for the others.
SCALING_MODES = {
    "even": MxScaleRoundMode.Even,
    "floor": MxScaleRoundMode.RoundDown,
    "rceil": MxScaleRoundMode.RoundUp,
    "ceil": MxScaleRoundMode.Ceil,
}


def per_1x32_f4_quant(
    x: Tensor,
    scale: Tensor | None = None,
    quant_dtype: torch.dtype = FP4,
    shuffle: bool = False,
    pack_dim: int = -1,
    round_mode: int = MX_DEFAULT_ROUND_MODE,
) -> Quantised:
    """(codes float4_e2m1fn_x2 [..., K / 2], scales float8_e8m0fnu [rows, K / 32]) by plain PyTorch, on any device, for
    any floating-point x[..., K], whose leading dimensions are rows.

    Args:
        scale: None.
        quant_dtype: float4_e2m1fn_x2, or uint8, which it is stored as.
        shuffle: scales as `shuffle_scale` makes them.
        pack_dim: -1; or 0 for x[K, N]: codes [K / 2, N], scales [K / 32, N], blocks along the first dimension.
        round_mode: `MxScaleRoundMode`.

    Source of the semantics: `aiter.per_1x32_f4_quant`. Raises `ArgumentError`.
    """
    op = "per_1x32_f4_quant"
    arguments.check_tensors(op, x=x)
    _check_kind(op, scale, quant_dtype)
    mode = mode_of(op, round_mode)
    if pack_dim == 0:
        operands.check_dims(op, "x", x, 2, "[K, N]")
        codes, scales = per_1x32_f4_quant(x.T, None, quant_dtype, shuffle, -1, mode)
        back = (part.view(torch.uint8).T.contiguous().view(part.dtype) for part in (codes, scales))
        return next(back), next(back)
    operands.check_choice(op, "pack_dim", pack_dim, (-1, 0))
    if not x.dim() or x.shape[-1] % BLOCK or not x.is_floating_point():
        got = f"of shape {list(x.shape)} and dtype {x.dtype}"
        raise ArgumentError(op, "x", got, f"numbers [..., K], K a multiple of {BLOCK}", "Pad the rows.")
    codes, scales = reference.quantise(x, mode)
    scales = scales.view(operands.rows_of(x), scales.shape[-1])
    found = _e8m0_shuffle(scales) if shuffle else scales
    assert found is not None
    return codes.view(quant_dtype), found.view(E8M0)


def per_1x32_mx_quant_hip(
    x: Tensor,
    scale: Tensor | None = None,
    quant_dtype: torch.dtype = FP4,
    shuffle: bool = False,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
    scale_type: torch.dtype | None = None,
) -> Quantised:
    """(codes of quant_dtype [..., K / 2], scales float8_e8m0fnu [..., K / 32]) by RoundUp: the bits of
    `per_1x32_f4_quant`.

    Args:
        x: [..., K] as `quant_mxfp4` has it.
        scale: None.
        quant_dtype: float4_e2m1fn_x2, or uint8. 8-bit codes with such scales, MXFP8, have no kernel.
        shuffle: scales as `shuffle_scale` makes them, [rows up to a multiple of 256, K / 32 up to one of 8].
        num_rows, num_rows_factor: see `dynamic_per_group_scaled_quant_fp4`.
        scale_type: float8_e8m0fnu, or None.

    Source of the semantics: `aiter.per_1x32_mx_quant_hip`; see `dynamic_per_group_scaled_quant_fp4`.
    """
    op = "per_1x32_mx_quant_hip"
    _check_kind(op, scale, quant_dtype)
    if scale_type not in (None, E8M0):
        raise ArgumentError(op, "scale_type", scale_type, f"{E8M0}, None")
    return _quantised(op, x, quant_dtype, E8M0, MX_DEFAULT_ROUND_MODE, shuffle, num_rows, num_rows_factor)


def per_1x32_f4_quant_hip(
    x: Tensor,
    scale: Tensor | None = None,
    quant_dtype: torch.dtype = FP4,
    shuffle: bool = False,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> Quantised:
    """`per_1x32_mx_quant_hip`, under the older of upstream's names for it."""
    op = "per_1x32_f4_quant_hip"
    _check_kind(op, scale, quant_dtype)
    return _quantised(op, x, quant_dtype, E8M0, MX_DEFAULT_ROUND_MODE, shuffle, num_rows, num_rows_factor)


def quant_mxfp4_hip(
    x: Tensor,
    group_size: int = BLOCK,
    round_mode: int = MX_DEFAULT_ROUND_MODE,
    e8m0_shuffle: bool = False,
    a16w4_shuffle: bool = False,
    gate_up: bool = False,
    shuffle_weight: bool = False,
) -> Quantised:
    """(codes float4_e2m1fn_x2, scales float8_e8m0fnu) of `quant_mxfp4`, by RoundUp where no mode is named."""
    op = "quant_mxfp4_hip"
    arguments.check_tensors(op, x=x)
    check_input(op, "x", x)
    codes = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=torch.uint8, device=x.device).view(FP4)
    scales = _scales(x, x.shape[-1], e8m0_shuffle).view(E8M0)
    flags = e8m0_shuffle, a16w4_shuffle, gate_up, shuffle_weight
    _quant_mxfp4(x, codes, scales, group_size, round_mode, *flags)
    return codes, scales


def dynamic_mxfp4_quant(x: Tensor, scaling_mode: str = "even") -> Quantised:
    """(codes uint8 [M, K / 2], scales uint8 [M, K / 32] of strides (1, M)) by the mode Even.

    Args:
        x: [M, K] as `quant_mxfp4` has it.
        scaling_mode: even; or floor, rceil or ceil, torchao's names of the other modes.

    Source of the semantics: `aiter.ops.triton.quant.dynamic_mxfp4_quant`, which takes an infinity for the largest
    power of two. `utility_dynamic_mxfp4_quant` is the function of the same name in `aiter.utility.fp4_utils`.
    """
    op = "dynamic_mxfp4_quant"
    arguments.check_tensors(op, x=x)
    mode = scaling(op, scaling_mode)
    operands.check_dims(op, "x", x, 2, "[M, K]")
    check_input(op, "x", x)
    codes = torch.empty((x.shape[0], x.shape[1] // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((x.shape[1] // BLOCK, x.shape[0]), dtype=torch.uint8, device=x.device).T
    quantise(x, codes, scales, mode)
    return codes, scales


def utility_dynamic_mxfp4_quant(x: Tensor, scaling_mode: str = "even", shuffle: bool = False) -> Quantised:
    """(codes float4_e2m1fn_x2 [M, K / 2], scales float8_e8m0fnu [M, K / 32], or with `shuffle` as `shuffle_scale` makes
    them) by the mode Even. Arguments are those of `dynamic_mxfp4_quant`.

    Source of the semantics: `aiter.utility.fp4_utils.dynamic_mxfp4_quant`.
    """
    op = "dynamic_mxfp4_quant"
    arguments.check_tensors(op, x=x)
    mode = scaling(op, scaling_mode)
    operands.check_dims(op, "x", x, 2, "[M, K]")
    return _quantised(op, x, FP4, E8M0, mode, shuffle)


def per_1x32_f4_quant_triton(
    x: Tensor, scale: Tensor | None = None, quant_dtype: torch.dtype = FP4, shuffle: bool = False
) -> Quantised:
    """`utility_dynamic_mxfp4_quant` as `get_triton_quant` has it: by the mode Even."""
    op = "per_1x32_f4_quant_triton"
    _check_kind(op, scale, quant_dtype)
    return _quantised(op, x, quant_dtype, E8M0, MxScaleRoundMode.Even, shuffle)


def fused_flatten_mxfp4_quant(x: Tensor) -> Quantised:
    """(codes uint8 [M, N1 * N2 / 2], scales uint8 [M, N1 * N2 / 32] of strides (1, M)) of x[M, N1, N2], by the mode
    Even. Its rows may lie in parts that are apart, such as those of the heads of attention: none is copied.

    Args:
        x: of bfloat16 or float16, N2 a multiple of 32; the last dimension has stride 1.

    Source of the semantics: `aiter.ops.triton.quant.fused_mxfp4_quant.fused_flatten_mxfp4_quant`.
    """
    op = "fused_flatten_mxfp4_quant"
    arguments.check_tensors(op, x=x)
    operands.check_dims(op, "x", x, 3, "[M, N1, N2]")
    check_input(op, "x", x)
    rows, width = x.shape[0], x.shape[1] * x.shape[2]
    codes = torch.empty((rows, width // 2), dtype=torch.uint8, device=x.device)
    scales = torch.empty((width // BLOCK, rows), dtype=torch.uint8, device=x.device).T
    quantise(x, codes, scales, MxScaleRoundMode.Even, flatten=True)
    return codes, scales


def act_mul_and_mxfp4_quant(
    x: Tensor,
    activation: str,
    scaling_mode: str = "even",
    shuffle: bool = False,
    scale_shuffle_padding: bool = False,
) -> Quantised:
    """(codes uint8 [M, d / 2], scales uint8 [M, d / 32]) of act(gate) * up, by the mode Even: the bits of
    `silu_and_mul` or its siblings, and of `dynamic_mxfp4_quant` after it.

    Args:
        x: [M, 2 d] of bfloat16 or float16, the first half of each row gates, the second ups; d a multiple of 32.
        activation: silu, gelu or gelu_tanh.
        scaling_mode: see `dynamic_mxfp4_quant`.
        shuffle: scales as `shuffle_scale` makes them.
        scale_shuffle_padding: scales in a tensor of that shape, in order, zeros behind them.

    Source of the semantics: `aiter.ops.triton.activation.act_mul_and_mxfp4_quant`, which quantises before it rounds.
    """
    op = tables.ACT_QUANT
    arguments.check_tensors(op, x=x)
    mode = scaling(op, scaling_mode)
    operands.check_dims(op, "x", x, 2, "[M, 2 d]")
    check_input(op, "x", x, 2)
    width = x.shape[1] // 2
    codes = torch.empty((x.shape[0], width // 2), dtype=torch.uint8, device=x.device)
    scales, written = scales_in_place(x, width, shuffle, scale_shuffle_padding)
    call(ACT_QUANT, (x, codes, written, activation, mode, bool(shuffle)), (codes, scales))
    return codes, scales


# What they share ------------------------------------------------------------------------------------------------------


def scales_in_place(x: Tensor, width: int, shuffle: bool | None, padded: bool | None) -> Quantised:
    """New scales of rows of `width`, and what of them a call writes: where they are in order and padded, a part."""
    if shuffle or not padded:
        scales = _scales(x, width, bool(shuffle))
        return scales, scales
    rows, blocks = operands.rows_of(x), width // BLOCK
    scales = torch.zeros(padded_scale_shape(rows, blocks), dtype=torch.uint8, device=x.device)
    return scales, scales[:rows, :blocks]


def _scales(x: Tensor, width: int, shuffle: bool) -> Tensor:
    rows, blocks = operands.rows_of(x), width // BLOCK
    shape = padded_scale_shape(rows, blocks) if shuffle else (*x.shape[:-1], blocks)
    return torch.empty(shape, dtype=torch.uint8, device=x.device)


def _quantised(
    op: str,
    x: Tensor,
    code: torch.dtype,
    scale: torch.dtype,
    mode: int,
    shuffle: bool,
    num_rows: Tensor | None = None,
    num_rows_factor: int = 1,
) -> Quantised:
    arguments.check_tensors(op, x=x)
    check_input(op, "x", x)
    codes = torch.empty((*x.shape[:-1], x.shape[-1] // 2), dtype=torch.uint8, device=x.device)
    scales = _scales(x, x.shape[-1], shuffle)
    quantise(x, codes, scales, mode, shuffle, num_rows, num_rows_factor)
    return codes.view(code), scales.view(scale)


def _check_kind(op: str, scale: Tensor | None, quant_dtype: torch.dtype) -> None:
    if scale is not None:
        raise ArgumentError(op, "scale", "a tensor", "None", "Scales of MXFP4 are those of the blocks.")
    if quant_dtype not in (FP4, torch.uint8):
        remedy = "8-bit codes with scales of 8 bits, MXFP8, have no kernel: quantise per_1x128."
        raise ArgumentError(op, "quant_dtype", quant_dtype, f"{FP4}, torch.uint8", remedy)


def scaling(op: str, scaling_mode: str) -> int:
    operands.check_choice(op, "scaling_mode", scaling_mode, tuple(SCALING_MODES))
    return int(SCALING_MODES[scaling_mode])
