"""A family of operators that is no GEMM, as one would add it: its own files, and one line that registers it.

`toy_rows` has two results, one of them of integers, and an argument that it writes to; on a GPU a call is two kernels
with three-dimensional grids and a workspace between them.

    csrc/           kernels and their argument structs, which a real family keeps in the package's tree
    tables.py       problem, rows, plan, sweep; the family's record
    ops.py          the operator
    samples.py      operands made up for a problem
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from aiterlite.jit import sources
from aiterlite.tables import register, unregister

OP = "toy_rows"
_OWN = Path(__file__).parent


@contextmanager
def registered(folder: Path) -> Iterator[None]:
    """The family as one of the package's, in a tree of links to the package's sources and its own."""
    from aiterlite.ops import operator
    from toy_family import ops
    from toy_family.tables import FAMILY

    for package in ("csrc", "asm"):
        shutil.copytree(sources.PACKAGE_ROOT / package, folder / package, copy_function=os.symlink)
    shutil.copytree(_OWN / "csrc", folder / "csrc", copy_function=os.symlink, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "PACKAGE_ROOT", folder)
        # The import registered it, the first time.
        operator.OPERATORS[OP] = ops.OPERATOR
        register(FAMILY)
        try:
            yield
        finally:
            unregister(FAMILY.name)
            del operator.OPERATORS[OP]
