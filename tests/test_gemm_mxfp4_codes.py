"""gfx950's kernel of MXFP4 tokens and weights, emulated with all sanitizers: every kind of cut is right in all layouts,
and what its plans promise."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_mxfp4_cases import Case, assert_near, operands, run, shuffled_scale  # noqa: E402
from gemm_operands import on  # noqa: E402

from aiterlite import dispatch, emulator  # noqa: E402
from aiterlite.emulator import Schedule  # noqa: E402
from aiterlite.jit import engine  # noqa: E402
from aiterlite.ops import gemm_mxfp4 as ops  # noqa: E402
from aiterlite.ops.shuffle import shuffle_weight  # noqa: E402
from aiterlite.tables import gemm_mxfp4 as tables  # noqa: E402
from aiterlite.tables import gemm_mxfp4_codes as codes  # noqa: E402
from aiterlite.tables.gemm_mxfp4_problem import LAYS, MxGemmProblem  # noqa: E402
from aiterlite.target import Persona, resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
TARGET = "gfx950"


def forced(monkeypatch: pytest.MonkeyPatch, tokens: int, tiles: int, waves: int, splits: int) -> None:
    """Calls are cut so, whatever they are."""

    def plan(problem: MxGemmProblem, persona: Persona) -> codes.Plan:
        steps = -(-problem.k // codes.STEP_K)
        split_steps = -(-steps // splits)
        pieces = -(-problem.m // (16 * tiles)) * -(-problem.n // tokens) * problem.batch
        assert -(-steps // split_steps) == splits
        return codes.Plan(tokens, 16 * tiles, waves, splits, split_steps, pieces * splits)

    monkeypatch.setattr(tables, "TABLE", replace(tables.TABLE, rows=(replace(codes.ROW, plan=plan),)))
    for prepared in (ops.FORWARD.prepared, ops.OUT.prepared):
        monkeypatch.setattr(prepared, "find", lambda _: None)


# Calls, and tiles of tokens, tiles of 16 rows, waves and splits.
CUTS = [
    # Rows that begin in the middle of 32, one whole step and half of another.
    (Case(3, 80, 384, "fp4", bias="fp32", factors=(0.5, 2.0)), (16, 3, 2, 1)),
    # A split whose last step is a part, waves of which only some have a second step.
    (Case(17, 160, 1664, "fp4", "fp16", pad=16), (32, 5, 3, 2)),
    # A last split without a whole step for each wave; columns of scales; parts of tiles of rows and tokens.
    (Case(40, 40, 800, "fp4", lying="columns", bias="result"), (64, 2, 4, 2)),
    # Tiles of tokens; no whole step at all; a wave alone.
    (Case(70, 7, 96, "fp4", "fp32"), (64, 1, 1, 1)),
    # Loops of an odd and of an even number of steps, and three steps.
    (Case(2, 16, 2304, "fp4", lying="columns"), (16, 1, 2, 1)),
    (Case(5, 64, 3072, "fp4", "fp32"), (16, 4, 2, 1)),
    (Case(1, 32, 2304, "fp4"), (16, 2, 3, 1)),
    # Three splits of two waves; eight tiles of rows, of which the last ones do not exist.
    (Case(16, 208, 1536, "fp4", bias="fp32"), (16, 8, 2, 3)),
]


@pytest.mark.parametrize("number", range(len(CUTS)))
def test_every_kind_of_cut(number: int, sanitized: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Right, and the same bits in all layouts; calls again and again, so that counters must be left zero."""
    case, cut = CUTS[number]
    forced(monkeypatch, *cut)
    with on(TARGET):
        run(case, seed=number)


def test_batches_of_split_calls(sanitized: None, monkeypatch: pytest.MonkeyPatch) -> None:
    forced(monkeypatch, 16, 2, 2, 2)
    made = operands(Case(3, 48, 1024, "fp4", pad=16), 5, batch=2)
    with on(TARGET):
        got = ops.FORWARD(made.x, made.w, made.x_scale, made.w_scale, None, torch.bfloat16, 1.0, 1.0)
    assert_near(got, made.exact, made.magnitude)


def test_special_numbers(sanitized: None) -> None:
    """A NaN is that of its token or its row; scales of the least and the greatest."""
    made = operands(Case(6, 48, 512, "fp4"), 3)
    assert made.x_scale is not None
    x_scale, w_scale = made.x_scale.clone(), made.w_scale.clone()
    x_scale[2, 9], w_scale[47, 3], w_scale[20, :] = 255, 255, 0
    with on(TARGET):
        got = ops.FORWARD(made.x, made.w, x_scale, w_scale, None, torch.bfloat16, 1.0, 1.0)
        x_tiles, w_tiles, w = shuffled_scale(x_scale), shuffled_scale(w_scale), shuffle_weight(made.w)
        other = ops.FORWARD(made.x, w, x_tiles, w_tiles, None, torch.bfloat16, 1.0, 1.0, True, True, True)
    wanted = torch.zeros(6, 48, dtype=torch.bool)
    wanted[2] = wanted[:, 47] = True
    assert torch.equal(got.isnan(), wanted) and torch.equal(got.view(torch.int16), other.view(torch.int16))
    assert bool((got[:, 20][~wanted[:, 20]].abs() < 2.0**-90).all())


def test_schedules_leave_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever split is the last to arrive."""
    forced(monkeypatch, 16, 1, 2, 4)
    made, results = operands(Case(4, 32, 2048, "fp4"), 7), []
    with on(TARGET):
        for seed in range(6):
            with emulator.watching(sanitize=False, schedule=Schedule(quantum=(1, 7, 64)[seed % 3], seed=seed)):
                results.append(ops.FORWARD(made.x, made.w, made.x_scale, made.w_scale, None, torch.float32, 1.0, 1.0))
    assert_near(results[0], made.exact, made.magnitude)
    assert all(torch.equal(result, results[0]) for result in results)


def test_plans() -> None:
    """Splits cover K, a workgroup fits, counters suffice; all layouts, and all tokens of a class, have one cut."""
    source = random.Random(3)
    for chip in ("mi355x", "mi355x:64"):
        persona = resolve(chip)
        for _ in range(8):
            k = 64 * source.choice([1, 3, 28, 112, 256, source.randint(1, 300)])
            n, m = source.choice([1, 3, 16, 17, 64, 4096, source.randint(1, 9000)]), 16 * source.randint(1, 2000)
            problem = MxGemmProblem(n, m, k, "fp4", w_scale="strided", batch=source.choice([1, 1, 5]))
            decision = dispatch.decide(tables.TABLE, problem, persona)
            assert decision.row is codes.ROW
            plan, steps = decision.plan, -(-k // codes.STEP_K)
            assert plan.splits * plan.split_steps >= steps > (plan.splits - 1) * plan.split_steps
            assert plan.waves <= min(16, plan.split_steps) and plan.waves * plan.tiles <= 160
            pieces = -(-m // plan.rows) * -(-n // plan.tokens) * problem.batch
            assert plan.grid == pieces * plan.splits and (plan.splits == 1 or pieces <= codes.COUNTERS)
            for lay in LAYS if k % 256 == 0 else LAYS[1:]:
                assert codes.plan(replace(problem, shuffled=True, w_scale=lay), persona) == plan
            for sizes in ((1, 2, 4), (5, 11, 16), (17, 32), (33, 50, 64)):
                assert len({codes.plan(replace(problem, n=size), persona) for size in sizes}) == 1


def test_rows_far_apart_take_another_kernel() -> None:
    def chosen(**given: Any) -> Any:
        return dispatch.decide(tables.TABLE, MxGemmProblem(4, 64, 512, "fp4", **given), resolve("mi355x"))

    assert chosen().row.name == "codes" and chosen(near=False).row.name == "mfma"
    assert "lie 2^31 bytes apart or more" in str(chosen(near=False))
    assert ops._is_near(torch.empty_strided((3, 64), (2**20, 1), dtype=torch.uint8, device="meta"))
    assert not ops._is_near(torch.empty_strided((3, 64), (2**24, 1), dtype=torch.uint8, device="meta"))


def test_nothing_goes_through_scratch() -> None:
    """Of the widest cuts: sums of many tokens, in loops and without them, whatever the call is."""
    for problem in (
        MxGemmProblem(64, 7168, 16384, "fp4", shuffled=True, w_scale="shuffled", x_scale_shuffled=True),
        MxGemmProblem(200, 5000, 7136, "fp4", w_scale="strided", bias=True, batch=3),
        MxGemmProblem(16, 7168, 16384, "fp4", w_scale="strided", bias=True),
    ):
        (kernel,) = dispatch.decide(tables.TABLE, problem, resolve("mi355x")).kernels
        used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
        assert used and not any(used.get(name) for name in ("vgpr_spills", "scratch_bytes")), f"{kernel}: {used}"
