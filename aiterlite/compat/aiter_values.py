"""What aiter has beside operators, as its clients ask for it: the chip, dtypes, GEMMs of bfloat16, files of tuned
kernels, and names that are there to be imported alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from enum import IntEnum
from typing import Any

import torch
from torch import Tensor

from aiterlite import envs
from aiterlite.errors import ArgumentError, EnvironmentValueError, NotOfferedError
from aiterlite.gemm import gemm_a8w8_blockscale
from aiterlite.ops import operands
from aiterlite.ops.linear import linear
from aiterlite.ops.mla_query import persona_here
from aiterlite.reference import mxfp4

logger = logging.getLogger("aiter")


def get_logger() -> logging.Logger:
    """The logger `aiter`, which this package configures as little as any other."""
    return logger


class MlaVersion(IntEnum):
    """Layouts of MLA's cache."""

    V32 = 0
    V40 = 1


# The chip -------------------------------------------------------------------------------------------------------------


def get_gfx() -> str:
    """The target that calls are served for, or the last one of GPU_ARCHS: gfx942, gfx950, and, where upstream has no
    answer, sm_90a or a level of CPUs."""
    named = [name.strip() for name in envs.GPU_ARCHS.get().split(";") if name.strip()]
    return named[-1] if named and named[-1] != "native" else get_gfx_runtime()


def get_gfx_runtime() -> str:
    """That of the current device, or of AITERLITE_TARGET, whatever GPU_ARCHS says."""
    return persona_here().target


def get_gfx_list() -> list[str]:
    """All of GPU_ARCHS, or the one that is here."""
    named = [name.strip() for name in envs.GPU_ARCHS.get().split(";") if name.strip()]
    return named if named and named != ["native"] else [get_gfx_runtime()]


def get_cu_num() -> int:
    """Compute units of the current device, or CU_NUM; a CPU counts as one."""
    text = envs.CU_NUM.get()
    if text and not text.isdecimal():
        raise EnvironmentValueError(envs.CU_NUM.name, text, envs.CU_NUM.allowed)
    return int(text or 0) or max(1, persona_here().cu_count)


def fp8() -> torch.dtype:
    """The e4m3 type of the current device: fnuz on gfx942."""
    return operands.FP8_DTYPES[persona_here().fp8 or "e4m3fn"]


# Names of `aiter.dtypes` but for fp8, which is asked for when it is used: it is the device's.
DTYPES: dict[str, torch.dtype] = {
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "fp32": torch.float32,
    "fp8_e8m0": getattr(torch, "float8_e8m0fnu", torch.uint8),
    "fp4x2": getattr(torch, "float4_e2m1fn_x2", torch.uint8),
    "i4x2": getattr(torch, "int4", torch.uint8),
    "i8": torch.int8,
    "i16": torch.int16,
    "i32": torch.int32,
    "i64": torch.int64,
    "u8": torch.uint8,
    "u32": torch.uint32,
    "u64": torch.uint64,
}


# MXFP4 ----------------------------------------------------------------------------------------------------------------


def f32_to_mxfp4(x: Tensor) -> Tensor:
    """e2m1 codes float4_e2m1fn_x2 [..., K / 2] of numbers that are divided by their scales already."""
    one = torch.full((1,) * x.dim(), 127, dtype=torch.uint8, device=x.device)
    return mxfp4.pack(mxfp4.encode(x.float(), one)).view(DTYPES["fp4x2"])


def mxfp4_to_f32(x: Tensor) -> Tensor:
    """float32 [..., K] of e2m1 codes [..., K / 2]."""
    return mxfp4.numbers(x).float()


def e8m0_to_f32(scale_e8m0_biased: Tensor) -> Tensor:
    """float32 of the bytes of scales; of 255, NaN."""
    return mxfp4.scale_value(scale_e8m0_biased).float()


# GEMMs ----------------------------------------------------------------------------------------------------------------


def gemm_a16w16(
    A: Tensor,  # noqa: N803 (upstream's names)
    B: Tensor,  # noqa: N803
    bias: Tensor | None = None,
    otype: torch.dtype | None = None,
    scale_a: Tensor | None = None,
    scale_b: Tensor | None = None,
    scale_c: Tensor | None = None,
) -> Tensor:
    """A[..., K] · B[N, K]^T + bias: `aiterlite.linear`. Results are of A's type, and there are no scales."""
    scales = {"scale_a": scale_a, "scale_b": scale_b, "scale_c": scale_c}
    for name, scale in scales.items():
        if scale is not None:
            raise ArgumentError("gemm_a16w16", name, "a tensor", "None", "8-bit operands are other operators'.")
    if otype not in (None, A.dtype):
        raise ArgumentError("gemm_a16w16", "otype", otype, f"None or {A.dtype}, the type of A", "Convert the result.")
    if getattr(B, "is_shuffled", False):
        raise ArgumentError(
            "gemm_a16w16", "B", "shuffled", "rows as they are", "Pass the weight before shuffle_weight."
        )
    return linear(A, B, bias)


class TunedGemm:
    """`aiter.tuned_gemm.tgemm`: `gemm_a16w16` under another name."""

    def mm(
        self,
        inp: Tensor,
        weights: Tensor,
        bias: Tensor | None = None,
        otype: torch.dtype | None = None,
        scale_a: Tensor | None = None,
        scale_b: Tensor | None = None,
        scale_c: Tensor | None = None,
    ) -> Tensor:
        return gemm_a16w16(inp, weights, bias, otype, scale_a, scale_b, scale_c)


tgemm = TunedGemm()


def triton_gemm_a8w8_blockscale(
    x: Tensor,
    w: Tensor,
    x_scale: Tensor,
    w_scale: Tensor,
    dtype: torch.dtype = torch.bfloat16,
    y: Tensor | None = None,
    config: object = None,
    skip_reduce: bool = False,
) -> Tensor:
    """`aiterlite.gemm.gemm_a8w8_blockscale` under the arguments of upstream's Triton function, whose result may be
    written to y, a copy more. `config`, a tuning, is not read."""
    if skip_reduce:
        raise ArgumentError("gemm_a8w8_blockscale", "skip_reduce", True, "False", "There are no parts of a sum.")
    made = gemm_a8w8_blockscale(x, w, x_scale, w_scale, dtype)
    return made if y is None else y.copy_(made)


class _Configs:
    """Files of tuned kernels, of which there are none: vLLM asks them whether a GEMM is worth calling, and an empty
    file answers no."""

    AITER_CONFIG_GEMM_A8W8_FILE = os.devnull
    AITER_CONFIG_GEMM_A8W8_BPRESHUFFLE_FILE = os.devnull


AITER_CONFIGS = _Configs()


# Names that import ----------------------------------------------------------------------------------------------------


def not_offered(name: str) -> Callable[..., Any]:
    """A function that is there to be imported; a call of it raises `NotOfferedError`."""

    def function(*_: Any, **__: Any) -> Any:
        raise NotOfferedError(
            f"aiter.{name} has no kernel in aiterlite; it can be imported, since engines import it with names that "
            "have. Choose another backend for what calls it; docs/compat.md lists all names."
        )

    function.__name__ = function.__qualname__ = name
    return function
