"""aiterlite: JIT-compiled kernels for AMD Instinct, NVIDIA Hopper and CPUs.

Importing this package builds nothing, starts nothing and touches no GPU. Operators are imported with torch at first
use; the first call with a new shape compiles the one kernel variant that it needs, or finds it in the cache.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aiterlite.jit.engine import seal, unseal
    from aiterlite.jit.record import recording
    from aiterlite.ops.gemm import wvSplitK
    from aiterlite.ops.gemm_fp8 import wvSplitKQ
    from aiterlite.ops.gemm_rc import wvSplitKrc, wvSplitKrc_workspace_size
    from aiterlite.ops.linear import linear
    from aiterlite.ops.llmm1 import LLMM1

# Where each public name lives; the module is imported when the name is first used.
_LAZY = {
    "linear": "aiterlite.ops.linear",
    "wvSplitK": "aiterlite.ops.gemm",
    "wvSplitKQ": "aiterlite.ops.gemm_fp8",
    "LLMM1": "aiterlite.ops.llmm1",
    "wvSplitKrc": "aiterlite.ops.gemm_rc",
    "wvSplitKrc_workspace_size": "aiterlite.ops.gemm_rc",
    "seal": "aiterlite.jit.engine",
    "unseal": "aiterlite.jit.engine",
    "recording": "aiterlite.jit.record",
}
__all__ = [
    "LLMM1",
    "linear",
    "recording",
    "seal",
    "unseal",
    "wvSplitK",
    "wvSplitKQ",
    "wvSplitKrc",
    "wvSplitKrc_workspace_size",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    value = getattr(importlib.import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
