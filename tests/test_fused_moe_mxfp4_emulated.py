"""Weights of MXFP4 in the mixture of experts on gfx942 and gfx950, emulated with all sanitizers, small: both
precisions, every way that weights and scales lie, ids that are none, blocks of both sizes; and what each chip takes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import skewed_ids  # noqa: E402
from fused_moe_mxfp4_cases import case_of, check, first_stage, problem_of, run  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from moe_layers import assert_nothing_spilled  # noqa: E402

from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4 as tables  # noqa: E402
from aiterlite.tables.fused_moe import TABLE  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.torch,
    pytest.mark.compile,
    pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd")),
]
each_target = pytest.mark.parametrize("target", AMD)
# Steps that are not whole, waves behind the width and the inner width, a part of a block that has few entries.
CASES: dict[str, dict[str, Any]] = {
    "codes": {"tokens": 5, "width": 160, "inter": 96},
    "codes that come": {"tokens": 3, "width": 160, "inter": 32, "quantised": True, "weighted_input": True},
    "shuffled, fp16": {"tokens": 20, "topk": 1, "experts": 1, "width": 320, "inter": 64, "dtype": "fp16"},
    "kept": {"tokens": 5, "width": 288, "inter": 96, "precision": "a16w4", "activation": "gelu"},
    "kept, fp16": {
        **{"tokens": 2, "width": 64, "inter": 64, "precision": "a16w4", "dtype": "fp16", "interleaved": True},
        **{"activation": "swiglu", "masked": True, "global_experts": 11},
    },
    "eight bits": {"tokens": 5, "width": 2080, "inter": 32, "precision": "a8w4", "interleaved": True},
    "eight bits, fp16": {"tokens": 2, "width": 160, "inter": 96, "precision": "a8w4", "dtype": "fp16"},
    "eight bits that come": {"tokens": 2, "width": 96, "inter": 64, "precision": "a8w4", "quantised": True},
}


@each_target
@pytest.mark.parametrize("name", CASES)
def test_layers(name: str, target: str, sanitized: Recording) -> None:
    """Plain and shuffled operands give the same bits."""
    problem = problem_of(**CASES[name])
    live = 4 if name in ("codes", "eight bits") else None
    case = case_of(problem, 1, live=live)
    with on(target):
        got = run(case, spare=1)
        names = [report["kernel"] for report in sanitized.launches]
        check(case, got)
        if problem.width % 64 == 0 and problem.inter % 64 == 0:
            assert torch.equal(run(case_of(replace(problem, shuffled=True), 1, live=live)), got)
    assert tables.STAGE1 in names and tables.STAGE2 in names


@each_target
def test_ids_of_every_kind(target: str, sanitized: Recording) -> None:
    problem = problem_of(tokens=9, topk=3, experts=5, width=64, inter=32)
    for kind in ("none", "strange"):
        case = case_of(problem, 2, skewed_ids(kind, problem))
        with on(target):
            check(case, run(case))


@each_target
def test_the_first_stage(target: str, sanitized: Recording) -> None:
    case, h = first_stage(problem_of(tokens=4, topk=1, experts=2, width=96, inter=96))
    with on(target):
        assert reference.relative_error(run(case), h) <= 5e-3


@each_target
def test_nothing_is_spilled(target: str) -> None:
    persona = resolve(target)
    for tokens, precision in ((4, "a4w4"), (16, "a4w4"), (600, "a4w4"), (16, "a16w4"), (600, "a8w4")):
        problem = problem_of(tokens=tokens, experts=8, width=7168, inter=256, precision=precision, shuffled=True)
        assert_nothing_spilled(decide(TABLE, problem, persona).kernels)


@each_target
def test_blocks_hold_what_experts_have(target: str) -> None:
    persona = resolve(target)
    for tokens, entries in ((1, 16), (16, 16), (128, 16), (600, 32), (4096, 32)):
        made = tables.plan(problem_of(tokens=tokens, experts=256, topk=8), persona)
        assert made.entries == entries, tokens


# Loops of odd and even numbers of steps, three and two of them; waves behind the width; blocks of both sizes.
STEPS: dict[str, dict[str, Any]] = {
    "five, two": {"tokens": 3, "width": 1280, "inter": 512, "topk": 2, "experts": 2, "shuffled": True},
    "six, three": {"tokens": 2, "width": 1568, "inter": 768, "topk": 1, "experts": 1, "weighted_input": True},
    "three, one": {"tokens": 21, "width": 768, "inter": 352, "topk": 1, "experts": 1, "dtype": "fp16"},
}


@pytest.mark.parametrize("name", STEPS)
def test_codes_are_multiplied_as_words_are(name: str, sanitized: Recording) -> None:
    """gfx950's loop over codes has the sums of the one that it falls back to, which hidden states that come take."""
    problem = problem_of(**STEPS[name])
    given = replace(problem, quantised=True)
    made = [decide(TABLE, one, resolve("mi355x")).kernels for one in (problem, given)]
    used = [any("CODE_STEPS" in name for kernel in one for name, _ in kernel.unit.defines) for one in made]
    assert used == [True, False]
    case = case_of(problem, 4)
    with on("gfx950"):
        got = run(case, spare=1)
        check(case, got)
        assert torch.equal(run(case_of(given, 4)), got)


def test_what_is_too_large_for_codes_is_multiplied_otherwise() -> None:
    for sizes in ({"tokens": 2**19}, {"inter": 2**18}):
        problem = problem_of(**{"tokens": 4, "width": 7168, "inter": 256, **sizes})
        kernels = decide(TABLE, problem, resolve("mi355x")).kernels
        assert kernels and not any("CODE_STEPS" in name for kernel in kernels for name, _ in kernel.unit.defines), sizes
