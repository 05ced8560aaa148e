"""How quantisation is cut: every element once, on every chip, and no kernel that spills."""

from __future__ import annotations

import random

import pytest

from aiterlite import dispatch
from aiterlite.jit import engine, toolchain
from aiterlite.tables import quant as tables
from aiterlite.tables import quant_plan
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.target import resolve

CHIPS = ("mi300x", "mi308x", "mi355x", "h200", "h100")


def decided(table: dispatch.Table, chip: str, **given: object) -> dispatch.Decision:
    values = table.derive(given)
    return dispatch.decide(table, QuantProblem(**values), resolve(chip))  # type: ignore[arg-type]


@pytest.mark.parametrize("chip", CHIPS)
def test_teams_hold_a_segment_and_workgroups_all_of_them(chip: str) -> None:
    persona, source = resolve(chip), random.Random(chip)
    wave = persona.wave_size
    widths = [source.randint(1, 1 << source.randint(1, 18)) for _ in range(300)]
    for width in (*widths, 128, 512, 7168, 16384, 16385):
        rows = source.randint(1, 1 << source.randint(1, 16))
        plan = decided(tables.TOKEN, chip, row_count=rows, row_width=width).plan
        held = plan.lanes * plan.units * 16
        assert plan.threads % wave == 0 and plan.threads <= 1024 and plan.units in (1, 2, 4)
        assert plan.lanes == plan.threads if plan.lanes > wave else plan.lanes & (plan.lanes - 1) == 0
        assert held >= width if plan.passes == 1 else (width > 16384 and plan.batch == 1)
        assert plan.grid * (plan.threads // plan.lanes) * plan.batch >= rows
        # No more than a half of the lanes is left without elements, but for the shortest rows.
        assert held < max(64, 4 * width)
    for transposed in (False, True):
        for rows in (1, 7, 8, 9, 4096):
            problem = decided(tables.GROUP, chip, row_count=rows, row_width=1792, transposed=transposed)
            plan, tiles = problem.plan, -(-rows // 8) * 8 if transposed else rows
            assert plan.lanes == 8 and plan.grid * (plan.threads // 8) * plan.batch >= tiles * 14


@pytest.mark.parametrize("chip", CHIPS)
def test_few_rows_are_on_the_chip_at_once_and_many_fill_larger_workgroups(chip: str) -> None:
    units = resolve(chip).cu_count
    for rows, early in ((1, True), (16, True), (256, units > 128), (4096, False)):
        plan = decided(tables.GROUP, chip, row_count=rows, row_width=7168).plan
        assert plan.early == early == (plan.grid * plan.threads <= 1024 * units)
        many = (512, 1) if resolve(chip).family == "cuda" else (128, 2)
        assert (plan.threads, plan.batch) == (many if rows == 4096 else (128, 1))
    kernels = [decided(tables.GROUP, chip, row_count=rows, row_width=7168).kernels[0] for rows in (1, 4096)]
    overlaps = resolve(chip).target == "sm_90a"
    assert {kernel.overlaps for kernel in kernels} == {overlaps}
    assert dict(kernels[0].unit.defines)["AITERLITE_EARLY"] == str(int(overlaps))


def test_numbers_of_groups_are_divided_exactly() -> None:
    source = random.Random(0)
    for by in (*range(1, 600), *(source.randint(1, 1 << 26) for _ in range(500))):
        given = quant_plan.division(by)
        multiplier, shift = given["multiplier"], given["shift"]
        assert multiplier < 1 << 32
        last = ((1 << 31) - 1) // by * by
        for number in (0, 1, by - 1, by, by + 1, last - 1, last, (1 << 31) - 1, source.randrange(1 << 31)):
            assert number >= 1 << 31 or number * multiplier >> shift == number // by


def test_what_cannot_be_counted_is_refused() -> None:
    decision = decided(tables.GROUP, "h200", row_count=1 << 25, row_width=7168)
    assert decision.row is None and "2^30 groups (split the rows)" in str(decision)
    decision = decided(tables.GROUP, "h200", row_count=1, row_width=200)
    assert decision.row is None and "no multiple of the group, 128 (pad the rows)" in str(decision)
    decision = decided(tables.TOKEN, "h200", row_count=1, row_width=256, group_size=128)
    assert decision.row is None and "(quantise by groups)" in str(decision)


@pytest.mark.parametrize("chip", CHIPS)
def test_a_tensor_s_maxima_are_as_many_as_the_second_kernel_reads(chip: str) -> None:
    for rows in (1, 16, 4096, 1 << 20):
        decision = decided(tables.TENSOR, chip, row_count=rows, row_width=7168)
        plan, workspace = decision.plan, decision.workspace
        assert plan.grid * plan.threads * plan.units * 16 >= rows * 7168 and 1 <= plan.maxima <= 4 * plan.threads
        assert workspace is not None and workspace.total == 4 * plan.maxima and workspace.zeroed == 0
        assert [kernel.grid[0] for kernel in decision.kernels] == [plan.maxima, plan.grid]
        static = decided(tables.STATIC, chip, row_count=rows, row_width=7168)
        assert static.workspace is None and len(static.kernels) == 1


# Every number of pieces a lane, with each code and both types, as rows are held by a team of a wave or of a workgroup;
# rows read twice, element by element; tensors.
SPILLS: list[tuple[dispatch.Table, dict[str, object]]] = [
    (tables.GROUP, {"row_count": 4096, "row_width": 7168}),
    (tables.GROUP, {"row_count": 4096, "row_width": 7168, "dtype": "fp16", "transposed": True}),
    (tables.GROUP, {"row_count": 16, "row_width": 7168, "out_dtype": "e4m3fnuz"}),
    (tables.TOKEN, {"row_count": 4096, "row_width": 7168}),
    (tables.TOKEN, {"row_count": 4096, "row_width": 16384, "dtype": "fp16"}),
    (tables.TOKEN, {"row_count": 1, "row_width": 7168, "dtype": "fp16", "out_dtype": "e4m3fnuz"}),
    (tables.TOKEN, {"row_count": 9, "row_width": 2048, "out_dtype": "e4m3fnuz"}),
    (tables.TOKEN, {"row_count": 1, "row_width": 70001, "out_dtype": "int8"}),
    (tables.TENSOR, {"row_count": 4096, "row_width": 7168}),
    (tables.STATIC, {"row_count": 4096, "row_width": 7168, "out_dtype": "e4m3fnuz", "dtype": "fp16"}),
]


@pytest.mark.compile
@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("gfx950", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for table, given in SPILLS if chip == "sm_90a" else SPILLS[::2]:
        for kernel in decided(table, chip, **given).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"
