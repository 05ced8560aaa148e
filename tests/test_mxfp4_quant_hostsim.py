"""The source of the kernels that quantise to MXFP4 executed on the host as sm_90 would, lane by lane, under the address
sanitizer: on machines without that GPU nothing else runs this path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hostsim_launch import simulate  # noqa: E402
from mxfp4_cases import DTYPES, assert_codes, rows_of, shuffled  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.reference import activation as gated  # noqa: E402
from aiterlite.reference import mxfp4 as reference  # noqa: E402
from aiterlite.tables import mxfp4_quant as tables  # noqa: E402
from aiterlite.tables.mx_types import rule  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]

# rows, width, mode, and options of the problem.
CASES: list[tuple[int, int, int, dict[str, Any]]] = [
    (5, 288, 1, {"layout": "shuffled"}),
    (35, 96, 2, {"layout": "columns", "dtype": "fp16", "aligned": False}),
]


@pytest.mark.parametrize(("rows", "width", "mode", "given"), CASES)
def test_rows(rows: int, width: int, mode: int, given: dict[str, Any], tmp_path: Path) -> None:
    problem = tables.MxQuantProblem(rows, width, **given)
    x = rows_of(rows, width, DTYPES[problem.dtype], mode)
    check(tables.QUANT_TABLE, problem, x, x, mode, tmp_path)


def test_a_gated_activation(tmp_path: Path) -> None:
    """Gates of which silu is the gate itself: no result is near a rounding."""
    ups = rows_of(4, 96, torch.bfloat16, 2)
    x = torch.cat([torch.full_like(ups, 64.0), ups], 1)
    problem = tables.MxActProblem(4, 96, layout="rows", activation="silu")
    check(tables.ACT_QUANT_TABLE, problem, x, gated.act_and_mul(x, "silu"), 3, tmp_path)


def check(table: Any, problem: Any, x: Any, made: Any, mode: int, folder: Path) -> None:
    """What a decision for an H100 launches. Tensors are allocations of their own, so that the sanitizer sees a byte
    beside them."""
    rows, blocks = problem.row_count, problem.blocks
    size = 256 * problem.block_tiles * 8 if problem.layout == "shuffled" else rows * blocks
    codes, scales = torch.zeros(rows, blocks * 16, dtype=torch.uint8), torch.full((size,), 7, dtype=torch.uint8)
    columns = problem.layout == "columns"
    sizes = {
        "stride_x": x.stride(0),
        "stride_part": 0,
        "part_blocks": blocks,
        "stride_row": 1 if columns else blocks,
        "stride_block": rows if columns else 1,
        "num_rows_factor": 1,
        **rule(mode),
    }
    tensors = {"x": x, "out": codes, "scales": scales, "num_rows": None}
    for kernel in dispatch.decide(table, problem, resolve("h100")).kernels:
        simulate(kernel, tensors, sizes, folder)
    wanted = reference.quantise(made, mode)
    assert_codes(codes, wanted[0], "codes")
    if problem.layout == "shuffled":
        assert_codes(scales.view(256, -1), shuffled(wanted[1], 256), "scales")
    else:
        assert_codes(scales.view(blocks, rows).T if columns else scales.view(rows, blocks), wanted[1], "scales")
