"""aiterlite: JIT-compiled kernels for AMD Instinct, NVIDIA Hopper and CPUs.

Importing this package builds nothing, starts nothing and touches no GPU. Operators are imported with torch at first
use; the first call with a new shape compiles the one kernel variant that it needs, or finds it in the cache.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from aiterlite.jit.engine import seal, unseal
    from aiterlite.jit.record import recording
    from aiterlite.launch.reserve import reserve
    from aiterlite.ops.gemm import wvSplitK
    from aiterlite.ops.gemm_fp8 import wvSplitKQ
    from aiterlite.ops.gemm_rc import wvSplitKrc, wvSplitKrc_workspace_size
    from aiterlite.ops.linear import linear
    from aiterlite.tables.mx_types import MxScaleRoundMode
    from aiterlite.tables.quant_types import ActivationType, QuantType

__all__ = [
    "ActivationType",
    "LLMM1",
    "MxScaleRoundMode",
    "QuantType",
    "linear",
    "recording",
    "reserve",
    "seal",
    "unseal",
    "wvSplitK",
    "wvSplitKQ",
    "wvSplitKrc",
    "wvSplitKrc_workspace_size",
]

# Names that no family of operators brings; those of families are in `aiterlite.tables`.
_LAZY = {
    "seal": "aiterlite.jit.engine",
    "unseal": "aiterlite.jit.engine",
    "recording": "aiterlite.jit.record",
    "reserve": "aiterlite.launch.reserve",
}


def _homes() -> dict[str, str]:
    """Where each public name lives; the module is imported when the name is first used."""
    from aiterlite.tables import FAMILIES

    return {**_LAZY, **{name: home for family in FAMILIES.values() for name, home in family.public.items()}}


def _is_module(name: str) -> bool:
    places = [os.path.join(folder, name) for folder in __path__]
    return any(os.path.exists(f"{place}.py") or os.path.isdir(place) for place in places)


def __getattr__(name: str) -> Any:
    import importlib

    # `from aiterlite import envs` asks here first, also while the tables themselves are being imported.
    home = None if name.startswith("_") or _is_module(name) else _homes().get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_homes()})
