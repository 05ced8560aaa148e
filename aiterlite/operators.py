"""Registers every operator with torch, and builds nothing.

`import aiterlite` registers an operator when its name is first used. A program that only loads what was exported with
them (`torch.export.load`, `torch.jit` archives) uses none by name: it imports this module first, after which
`torch.ops.aiterlite.<name>` is there.
"""

from __future__ import annotations

import importlib

from aiterlite.ops.operator import OPERATORS
from aiterlite.tables import FAMILIES

for _family in FAMILIES.values():
    for _module in _family.ops:
        importlib.import_module(_module)

NAMES = tuple(OPERATORS)
__all__ = ["NAMES"]
