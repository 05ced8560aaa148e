"""The routing kernel of gfx942 and gfx950, emulated with all sanitizers: every cut of a row, all types, hard rows."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import AMD, on  # noqa: E402
from routing_cases import CASES, R1, assert_right, problem, run_framed, run_odd  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.tables import TABLES  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize(("op", "experts", "topk", "given"), CASES)
def test_hard_rows(op: str, experts: int, topk: int, given: dict[str, Any], target: str, sanitized: Any) -> None:
    """Twelve rows, the last two of them random; a wave has up to four, so that one has lanes without a row."""
    made = problem(op, 1, experts, topk, **given)
    with on(target):
        left = run_odd(op, made)
    assert_right(op, made, left)


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize(("op", "experts", "topk", "given"), [CASES[1], CASES[12]])
def test_strides_are_honoured(
    op: str, experts: int, topk: int, given: dict[str, Any], target: str, sanitized: Any
) -> None:
    with on(target):
        run_framed(op, problem(op, 5, experts, topk, **given))


@pytest.mark.parametrize("chip", ["gfx942", "gfx950", pytest.param("h100", marks=pytest.mark.nvcc)])
@pytest.mark.parametrize(
    ("op", "experts", "topk", "given"),
    [
        ("biased_grouped_topk", 256, 8, R1),
        ("biased_grouped_topk", 384, 8, {"dtype": "bf16", "bias": "fp32"}),
        ("topk_softmax", 1024, 32, {"renorm": False, "shared_experts": 2}),
    ],
)
def test_nothing_goes_through_scratch(op: str, experts: int, topk: int, given: dict[str, Any], chip: str) -> None:
    """What a lane sorts stays in registers. With more than 72 of them, 28 tokens would not be on an SM of Hopper at
    once."""
    decision = dispatch.decide(TABLES[op], problem(op, 4, experts, topk, **given), resolve(chip))
    (kernel,) = decision.kernels
    used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
    assert [name for name, value in used.items() if ("spill" in name or "scratch" in name) and value] == [], used
    if experts == 256:
        assert used.get("registers", used.get("vgprs", 0)) <= 72, used
