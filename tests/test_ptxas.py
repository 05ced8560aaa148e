"""What `ptxas -v` prints is kept as a cubin's resources."""

from __future__ import annotations

import pytest
from support import TOY_TREE, toy_unit

from aiterlite.jit import engine, ptxas
from aiterlite.jit.sources import SourceTree


def test_what_ptxas_prints_is_read() -> None:
    log = """ptxas info    : 0 bytes gmem
ptxas info    : Compiling entry function 'one' for 'sm_90a'
ptxas info    : Function properties for one
    8 bytes stack frame, 4 bytes spill stores, 12 bytes spill loads
ptxas info    : Used 48 registers, used 1 barriers, 8 bytes cumulative stack size, 2696 bytes smem
ptxas info    : Compiling entry function 'two' for 'sm_90a'
ptxas info    : Used 10 registers, used 0 barriers
"""
    assert ptxas.resources(log) == {
        "one": {
            "registers": 48,
            "shared_bytes": 2696,
            "stack_bytes": 8,
            "spill_store_bytes": 4,
            "spill_load_bytes": 12,
        },
        "two": {"registers": 10},
    }
    assert ptxas.resources("nothing") == {}


@pytest.mark.compile
@pytest.mark.nvcc
def test_a_cubin_s_resources_are_kept() -> None:
    artifact = engine.obtain(toy_unit("sm_90a"), tree=SourceTree(TOY_TREE))
    resources = artifact.entry.meta["resources"]["toy"]
    assert resources["registers"] > 0 and resources["spill_store_bytes"] == 0
