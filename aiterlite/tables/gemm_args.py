"""The argument structs of the skinny-GEMM kernels, and how their launches fill them."""

from __future__ import annotations

from aiterlite.jit.arguments import ArgumentStruct

_HEADER = "aiterlite/gemm_args.h"
GEMM_ARGS = ArgumentStruct("aiterlite_gemm_args", _HEADER)
BATCHED_GEMM_ARGS = ArgumentStruct("aiterlite_batched_gemm_args", _HEADER)
SCALED_GEMM_ARGS = ArgumentStruct("aiterlite_scaled_gemm_args", _HEADER)
REDUCE_ARGS = ArgumentStruct("aiterlite_gemm_reduce_args", "aiterlite/gemm_reduce_args.h")
SM90_ARGS = ArgumentStruct("aiterlite_sm90_gemm_args", "aiterlite/sm90_gemm_args.h")
