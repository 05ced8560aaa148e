"""Checkpoints of MXFP4, as quark writes them: what their `quantization_config` says, and which layers it leaves out.

A layer `name` that is not left out has `name.weight`, uint8 [N, K / 2] of two e2m1 codes a byte, and
`name.weight_scale`, uint8 [N, K / 32] of e8m0.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.tables.mx_types import BLOCK as MX_BLOCK

# Codes of a byte.
MX_PACK = 2
# What each tensor's description must say, where it says it.
_WANTED = {"dtype": "fp4", "qscheme": "per_group", "group_size": MX_BLOCK, "scale_format": "e8m0"}


@dataclass(frozen=True)
class Quark:
    """The layers that are not MXFP4: names, patterns with `*`, or `re:` and an expression that begins a name."""

    exclude: tuple[str, ...] = ()

    def has(self, name: str) -> bool:
        """Whether a layer's weights are MXFP4."""
        return not any(_matches(name, pattern) for pattern in self.exclude)


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("re:"):
        return re.match(pattern.removeprefix("re:"), name) is not None
    # A module's name is those of its parts too.
    return fnmatch.fnmatchcase(name, pattern) or name.startswith(f"{pattern}.")


def read(given: Mapping[str, Any]) -> Quark | str:
    """What a configuration says, or why it is none that is here."""
    for name in ("layer_quant_config", "layer_type_quant_config"):
        if given.get(name):
            return f"{name} is not empty; allowed: one global_quant_config"
    described = given.get("global_quant_config") or {}
    for part in ("weight", "input_tensors"):
        tensors = described.get(part) or ({} if part == "input_tensors" else {"dtype": None})
        for name, wanted in _WANTED.items():
            if name in tensors and tensors[name] != wanted:
                return f"{part}.{name} is {tensors[name]!r}; allowed: {wanted!r}"
    quark = Quark(tuple(given.get("exclude") or ()))
    return "lm_head is not excluded; allowed: a head of bfloat16" if quark.has("lm_head") else quark
