"""The one-stage mixture of experts in assembly, executed by the emulator with all sanitizers: against float64, `vs` and
`novs` bit for bit, under other schedules, in rings of poison."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_asm_cases import BF16, NAN, PERSONAS, Case, arguments, case, expected, launch, load, planned  # noqa: E402

from aiterlite.emulator import disassemble, find_races  # noqa: E402
from aiterlite.errors import BuildError  # noqa: E402
from aiterlite.jit import engine  # noqa: E402
from aiterlite.reference.fused_moe import relative_error  # noqa: E402
from aiterlite.tables import fused_moe_asm as tables  # noqa: E402
from aiterlite.tables.asm import AsmVariant  # noqa: E402

pytestmark = [pytest.mark.compile, pytest.mark.emulated]

each_target = pytest.mark.parametrize("target", PERSONAS)
each_store = pytest.mark.parametrize("store", tables.STORES)
# bf16 loses at most 2^-9 of a number, 2^-9 / sqrt(3) of all on average: once where results are stored, again with each
# addition to a sum of two; what float sums and approximate instructions lose turns a code of h now and then.
TOLERANCE = {"partial": 2e-3, "atomic": 4e-3}

# Blocks with and without padding, several blocks of an expert, items after each other in a workgroup, ids of none, each
# number of slices, a width whose loops go round; which ways of storing each is for.
SHAPES: dict[str, dict[str, Any]] = {
    "padding": {"tokens": 13, "experts": 4, "topk": 2},
    "blocks": {"tokens": 70, "experts": 2, "topk": 1, "ids": [[1]] * 70},
    "no_expert": {"tokens": 5, "experts": 4, "topk": 2, "ids": [[-1, 3], [4, 1], [2, -7], [0, 9], [-1, -1]]},
    "two_slices": {"tokens": 20, "experts": 2, "topk": 2, "inter": 512, "transposed": False},
    "three_slices": {"tokens": 2, "experts": 2, "topk": 1, "inter": 768},
    "four_slices": {"tokens": 1, "experts": 1, "topk": 1, "inter": 1024},
    "wider": {"tokens": 3, "experts": 1, "topk": 1, "width": 2048, "transposed": False},
}
TWINS = [(name, "partial") for name in SHAPES] + [(name, "atomic") for name in ("padding", "no_expert", "two_slices")]


def same_bits(a: Any, b: Any) -> bool:
    return torch.equal(a.contiguous().view(torch.int16), b.contiguous().view(torch.int16))


def pairs_of(made: Case) -> Any:
    """[tokens, topk]: which slots have an expert."""
    return (made.ids >= 0) & (made.ids < made.experts)


@each_target
@pytest.mark.parametrize(("shape", "store"), TWINS)
def test_right_and_both_twins_bit_equal(shape: str, target: str, store: str) -> None:
    """Each row of a result by itself, so that a small one does not hide; what has no expert stays as it was."""
    made = case(target, **SHAPES[shape], seed=len(shape))
    exact, counts = expected(made), pairs_of(made)
    if store == "atomic":
        exact, counts = exact.sum(1), counts.any(1)
    results = [launch(target, made, planned(made, vskip, store))[0].clone() for vskip in (False, True)]
    if store == "partial" or made.topk * made.inter == 256:
        assert same_bits(*results)
    for got in results:
        assert bool((got[~counts] == 0).all() if store == "atomic" else got[~counts].isnan().all())
        assert relative_error(got[counts], exact[counts]) <= TOLERANCE[store]
        worst = ((got[counts].double() - exact[counts]).norm(dim=-1) / exact[counts].norm(dim=-1)).max()
        assert float(worst) <= 2 * TOLERANCE[store]


@each_target
@pytest.mark.parametrize("inter", [256, 512])
def test_atomic_twins_are_bit_equal_where_sums_are_exact(inter: int, target: str) -> None:
    made = case(target, tokens=21, experts=4, topk=2, inter=inter, whole=True)
    exact = expected(made).sum(1)
    assert 8 < float(exact.abs().max()) <= 256 and torch.equal(exact, exact.round())
    for vskip in (False, True):
        assert torch.equal(launch(target, made, planned(made, vskip, "atomic"))[0].double(), exact)


@each_target
def test_gelu(target: str) -> None:
    """Gates of either sign, from the smallest to where phi is 0 or 1."""
    made = case(target, tokens=6, experts=1, topk=1)
    made.given["x_scale"].mul_(torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 20.0]))
    made.exact["x"].mul_(torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 20.0])[:, None])
    for vskip in (False, True):
        got, _ = launch(target, made, planned(made, vskip, "partial", activation="gelu"))
        wanted = expected(made, activation="gelu")
        for token in range(6):
            assert relative_error(got[token], wanted[token]) <= 2 * TOLERANCE["partial"]


@each_target
def test_close_to_what_is_not_rounded(target: str) -> None:
    """h has 8 bits: the bound is that of the operator for a reference without roundings."""
    made = case(target, tokens=8, experts=2, topk=1)
    got, _ = launch(target, made, planned(made, False, "partial"))
    assert relative_error(got, expected(made, rounded=False)) <= 5e-2


@each_store
@each_target
@pytest.mark.parametrize("vskip", [False, True], ids=["novs", "vs"])
def test_schedules_leave_the_same_bits(vskip: bool, target: str, store: str) -> None:
    made = case(target, tokens=11, experts=2, topk=2, whole=store == "atomic")
    plan = replace(planned(made, vskip, store, grid=2))
    module, symbol = load(target, plan)
    shape = (made.tokens, made.topk, made.width) if store == "partial" else (made.tokens, made.width)
    out = torch.full(shape, NAN if store == "partial" else 0.0, dtype=BF16)
    found = find_races(module, symbol, plan.grid, 256, arguments(made, out, store))
    assert not found and bool(out.isfinite().all())


@each_store
@each_target
def test_vskip_changes_only_where_no_vector_work_is_under_way(target: str, store: str) -> None:
    """As the manual asks, with a wait state behind it; and `novs` has none."""
    found = {}
    for vskip in (False, True):
        plan = planned(case(target, tokens=1, experts=1, topk=1), vskip, store)
        entry = engine.obtain(tables.KERNEL_OF[vskip, "silu"].device_unit(plan.variant, target)).entry
        lines = [line.split("//")[0].strip() for line in disassemble(entry.path.read_bytes()).splitlines()]
        found[vskip] = [lines[at - 1 : at + 2] for at, line in enumerate(lines) if line.startswith("s_setvskip")]
    assert not found[False] and len(found[True]) % 9 == 0 and found[True]
    for before, _, behind in found[True]:
        assert before == "s_waitcnt vmcnt(0) lgkmcnt(0)" and behind == "s_nop 0"


@each_target
def test_grids_leave_the_same_bits(target: str) -> None:
    """One workgroup for all items, as many as items, and more."""
    made = case(target, tokens=9, experts=4, topk=2)
    results = [launch(target, made, planned(made, True, "partial", grid=grid))[0].clone() for grid in (1, 4, 7)]
    assert all(same_bits(results[0], result) for result in results)


@each_target
def test_rows_apart(target: str) -> None:
    """Rows of x and of the result that are not dense: the padding between them is neither read nor written."""
    made = case(target, tokens=5, experts=2, topk=1)
    wide = torch.full((5, made.width + 48), 0x7F, dtype=torch.uint8).view(made.code)
    wide.view(torch.uint8)[:, : made.width] = made.given["x"].view(torch.uint8)
    plan = planned(made, False, "atomic")
    module, symbol = load(target, plan)
    storage = torch.full((5, made.width + 6), 7.0, dtype=BF16)
    out = storage[:, : made.width].zero_()
    given = {**arguments(made, out, "atomic"), "x": wide[:, : made.width], "stride_x": wide.stride(0)}
    report = module.launch(symbol, plan.grid, 256, given, sanitize=True)
    assert not report.findings and bool((storage[:, made.width :] == 7).all())
    assert relative_error(out, expected(made).sum(1)) <= TOLERANCE["atomic"]


@each_target
def test_a_value_stays_in_its_row(target: str) -> None:
    """NaN of one token's codes or scales, whatever its bits, makes that row NaN and changes no other."""
    made = case(target, tokens=6, experts=1, topk=1)
    plan = planned(made, False, "partial")
    clean = launch(target, made, plan)[0].clone()
    others = [0, 1, 2, 4, 5]
    x, scale = made.given["x"], made.given["x_scale"]
    kept = x.clone()
    x.view(torch.uint8)[3, 700] = 0x80 if target == "gfx942" else 0x7F
    got = launch(target, made, plan)[0]
    assert bool(got[3].isnan().all()) and same_bits(got[others], clean[others])
    x.copy_(kept)
    for bits in (0x7FC00000, 0x7FFFFFFF, -1):
        scale.view(torch.int32)[5, 3] = bits
        got = launch(target, made, plan)[0]
        assert bool(got[3].isnan().all()) and same_bits(got[others], clean[others])
    scale[5, 3] = 1.0
    clean = launch(target, made, plan)[0].clone()
    # Rows of w2's scales: columns 256 to 383 become NaN, and no others.
    for bits in (0x7FFFFFFF, -1):
        made.given["w2_scale"].view(torch.int32)[0, 2, 0] = bits
        got = launch(target, made, plan)[0]
        assert bool(got[..., 256:384].isnan().all())
        assert same_bits(got[..., :256], clean[..., :256]) and same_bits(got[..., 384:], clean[..., 384:])


@each_target
def test_extremes(target: str) -> None:
    """Gates so large that exp overflows or vanishes; a token of zeros, whose h has the least scale; routing weights of
    0 and below."""
    made = case(target, tokens=6, experts=1, topk=1)
    made.given["x_scale"][:, 0] = 0.0
    made.given["x_scale"][:, 1] *= 1000.0
    made.given["sorted_weights"][2:4] = torch.tensor([0.0, -2.0])
    exact = made.exact["x"]
    exact[0], exact[1] = 0.0, exact[1] * 1000.0
    made.weights[2:4, 0] = torch.tensor([0.0, -2.0])
    got, wanted = launch(target, made, planned(made, False, "partial"))[0], expected(made)
    assert bool((got[[0, 2]] == 0).all())
    for token in (1, 3, 4, 5):
        assert relative_error(got[token], wanted[token]) <= 2 * TOLERANCE["partial"]


@each_target
def test_marks(target: str) -> None:
    """Which slots there are, for the sum behind it; those that there are not keep their zeros."""
    made = case(target, **SHAPES["no_expert"])
    plan = planned(made, True, "partial", marks=True)
    module, symbol = load(target, plan)
    slots = torch.full((made.tokens, made.topk, made.width), NAN, dtype=BF16)
    marks = made.ring.put(torch.zeros(made.tokens, made.topk, dtype=torch.int32))
    given = {**arguments(made, slots, "partial"), "local_topk_ids": marks}
    report = module.launch(symbol, plan.grid, 256, given, sanitize=True)
    assert not report.findings
    made.ring.assert_untouched()
    assert torch.equal(marks, pairs_of(made).int()) and torch.equal(slots.isfinite().all(-1), pairs_of(made))


@each_target
def test_weights_are_read_once(target: str) -> None:
    """Of each block, and of x no more than the rows that there are."""
    made = case(target, tokens=33, experts=2, topk=1, ids=[[1]] * 33, inter=512)
    for store in tables.STORES:
        _, report = launch(target, made, planned(made, False, store), counters=True, sanitize=False)
        read = {name: report.counters["arguments"][name]["read"] for name in ("w1", "w2", "x")}
        assert read["w1"] == 2 * made.given["w1"][1].nbytes and read["w2"] == 2 * made.given["w2"][1].nbytes
        assert read["x"] == 2 * 33 * made.width  # for each slice


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        ({"STORE": "sum"}, "STORE must be"),
        ({"ACTIVATION": "swiglu"}, "ACTIVATION must be"),
        ({"VSKIP": 2}, "VSKIP must be"),
        ({"SLICES": 5}, "SLICES must be"),
        ({"MARKS": 2}, "MARKS must be"),
        ({"GRID": 0}, "GRID must be"),
        ({"STORE": "atomic", "SLICES": 2}, "atomic results have"),
    ],
)
def test_other_knob_values_do_not_assemble(knobs: dict[str, Any], said: str) -> None:
    given = {"ACTIVATION": "silu", "GRID": 4, "MARKS": 0, "SLICES": 1, "STORE": "partial", "VSKIP": 0, **knobs}
    variant = AsmVariant(tuple((f"AITERLITE_{name}", str(value)) for name, value in given.items()), (32, 256), 4, 1, 1)
    with pytest.raises(BuildError, match=said):
        engine.obtain(tables.KERNEL_OF[False, "silu"].device_unit(variant, "gfx942"))
