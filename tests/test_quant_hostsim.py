"""The source of the quantisation kernels executed on the host as sm_90 would, lane by lane, under the address
sanitizer: on machines without that GPU nothing else runs this path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from hostsim_launch import simulate  # noqa: E402
from quant_cases import CODES, DTYPES, assert_same, rows_of  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.reference import quant as reference  # noqa: E402
from aiterlite.tables import quant as tables  # noqa: E402
from aiterlite.tables.quant_plan import QuantProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]


def run(table: dispatch.Table, x: Any, problem: QuantProblem, folder: Path, live: int | None = None) -> Any:
    """(out, scales) of what a decision for an H100 launches; `live` rows of it. Tensors are allocations of their own,
    so that the sanitizer sees a byte beside them."""
    decision = dispatch.decide(table, problem, resolve("h100"))
    groups = problem.n * (problem.k // problem.group_size if problem.group_size else 1)
    tensors = {
        "x": torch.as_strided(x, ((x.shape[0] - 1) * x.stride(0) + x.shape[1],), (1,)).contiguous(),
        "out": torch.zeros(x.shape, dtype=CODES[problem.out_dtype]),
        "scales": torch.zeros(groups),
        "num_rows": None if live is None else torch.tensor([live], dtype=torch.int32),
    }
    if problem.group_size == 0:
        tensors["scale"] = tensors.pop("scales")[:1].clone()
        tensors["partial"] = torch.zeros(max(1, getattr(decision.plan, "maxima", 1)))
    sizes = {"stride_x": x.stride(0), "num_rows_factor": 1, "count": x.numel()}
    for kernel in decision.kernels:
        given = {name: value for name, value in kernel.args.items() if name != "partial"}
        changed = type(kernel)(**{**vars(kernel), "args": given})
        simulate(changed, tensors, sizes, folder)
    return tensors["out"], tensors.get("scales", tensors.get("scale"))


# rows, width, group (0: rows), and options.
CASES: list[tuple[int, int, int, dict[str, Any]]] = [
    (9, 256, 128, {"dtype": "bf16", "out_dtype": "e4m3fn"}),
    (9, 192, 64, {"dtype": "fp16", "out_dtype": "int8", "transposed": True, "live": 5}),
    (3, 5120, 0, {"dtype": "bf16", "out_dtype": "e4m3fnuz", "pad": 8}),
    (1, 16423, 0, {"dtype": "bf16", "out_dtype": "e4m3fn"}),
]


@pytest.mark.parametrize(("rows", "width", "group", "options"), CASES)
def test_rows_and_groups(rows: int, width: int, group: int, options: dict[str, Any], tmp_path: Path) -> None:
    given = dict(options)
    pad, live = given.pop("pad", 0), given.pop("live", None)
    x = rows_of(rows, width, DTYPES[given["dtype"]], rows, pad)
    aligned = width % 16 == 0 and pad % 8 == 0
    problem = QuantProblem(n=rows, k=width, group_size=group or width, aligned=aligned, **given)
    out, scales = run(tables.GROUP if group else tables.TOKEN, x, problem, tmp_path, live)
    codes, wanted = reference.per_group(x, CODES[problem.out_dtype], problem.group_size)
    count = rows if live is None else live
    right = wanted[:count].T.contiguous() if problem.transposed else wanted[:count]
    found = scales[: right.numel()].view(right.shape)
    assert_same({"out": out[:count], "scales": found}, {"out": codes[:count], "scales": right})
    assert not out[count:].view(torch.uint8).any() and not scales[right.numel() :].any()


def test_a_tensor(tmp_path: Path) -> None:
    x = rows_of(1, 9008, torch.bfloat16, 2)
    wanted = reference.per_tensor(x, torch.float8_e4m3fn)
    out, scale = run(tables.TENSOR, x, QuantProblem(1, 9008, 0), tmp_path)
    assert_same({"out": out, "scale": scale}, dict(zip(("out", "scale"), wanted, strict=True)))
