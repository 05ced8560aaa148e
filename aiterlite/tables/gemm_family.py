"""The skinny GEMMs as a family: `wvSplitK`, `wvSplitKQ`, `wvSplitKrc`, `LLMM1`, `router_gemm`,
`batched_gemm_bf16` and `linear`."""

from __future__ import annotations

from aiterlite.tables import batched_gemm, gemm, gemm_asm, gemm_fp8, gemm_rc, linear, router_gemm
from aiterlite.tables.family import Family

FAMILY = Family(
    name="gemm",
    tables=(
        gemm.WV_SPLIT_K,
        gemm.LLMM1,
        gemm_rc.WV_SPLIT_K_RC,
        gemm_fp8.WV_SPLIT_K_Q,
        linear.LINEAR,
        router_gemm.ROUTER_GEMM,
        batched_gemm.BATCHED_GEMM,
    ),
    ops=(
        "aiterlite.ops.gemm",
        "aiterlite.ops.gemm_rc",
        "aiterlite.ops.gemm_fp8",
        "aiterlite.ops.linear",
        "aiterlite.ops.router_gemm",
        "aiterlite.ops.batched_gemm",
    ),
    samples="aiterlite.ops.samples.gemm",
    public={
        "linear": "aiterlite.ops.linear",
        "wvSplitK": "aiterlite.ops.gemm",
        "wvSplitKQ": "aiterlite.ops.gemm_fp8",
        "LLMM1": "aiterlite.ops.gemm",
        "wvSplitKrc": "aiterlite.ops.gemm_rc",
        "wvSplitKrc_workspace_size": "aiterlite.ops.gemm_rc",
    },
    asm=gemm_asm.KERNELS,
    defaults=("wvSplitK", "wvSplitKQ", "linear"),
    bench="aiterlite.benchmark.gemm",
)
