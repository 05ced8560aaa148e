"""Dispatch by the package's own tables, for chips that are not here.

The golden file holds what every persona takes. After a change of a table or a plan, read the difference that the
failing test shows, and write the file anew with `python tests/test_dispatch.py`.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from decisions import chosen, why
from hypothesis import given
from hypothesis import strategies as st

from aiterlite import dispatch
from aiterlite.dispatch import Table, Wishes
from aiterlite.tables import (
    TABLES,
    activation,
    gemm,
    gemm_fp8,
    gemm_plan,
    gemm_rc,
    linear,
    mla,
    mla_heads,
    mla_plan,
    norm_pair,
    routing,
)
from aiterlite.tables import gemm_crossover as crossover
from aiterlite.tables.activation import ActProblem, QuantActProblem
from aiterlite.tables.batched_gemm import BatchedGemmProblem
from aiterlite.tables.cache import ConcatProblem, FusedProblem
from aiterlite.tables.fused_moe_problem import FmoeProblem, MoeProblem
from aiterlite.tables.gemm_a8w8_problem import BatchedProblem, BlockScaleProblem, RowScaleProblem
from aiterlite.tables.gemm_mxfp4_problem import MxGemmProblem
from aiterlite.tables.gemm_rc_plan import REDUCTIONS
from aiterlite.tables.moe_sorting import AlignProblem, SortProblem, SumProblem
from aiterlite.tables.mxfp4_norm import MxNormProblem
from aiterlite.tables.mxfp4_quant import MxActProblem, MxQuantProblem
from aiterlite.tables.mxfp4_sort import MxQuantSortProblem, MxSortProblem
from aiterlite.tables.norm import NormProblem, QuantNormProblem
from aiterlite.tables.norm_pair import PairNormProblem
from aiterlite.tables.quant_plan import QuantProblem
from aiterlite.tables.rope import RopeProblem
from aiterlite.target import resolve

GOLDEN = Path(__file__).with_name("golden") / "dispatch.txt"
PERSONAS = ("mi300x", "mi308x", "mi355x", "h100", "cpu-x86-64-v4")


problems = st.builds(
    gemm.GemmProblem,
    n=st.integers(0, 20),
    m=st.integers(1, 20000),
    k=st.integers(1, 20000),
    dtype=st.sampled_from(["bf16", "fp16", "float32"]),
    bias=st.booleans(),
    aligned=st.booleans(),
    dense=st.booleans(),
)
scaled_problems = st.builds(
    gemm_fp8.ScaledGemmProblem,
    n=st.integers(0, 20),
    m=st.integers(1, 20000),
    k=st.integers(1, 20000),
    fp8=st.sampled_from(["native", "e4m3fn", "e4m3fnuz", "e5m2"]),
    dtype=st.sampled_from(["bf16", "fp16", "float32"]),
    scale_x=st.sampled_from(["tensor", "token", "block"]),
    scale_w=st.sampled_from(["tensor", "row", "block"]),
    bias=st.booleans(),
    aligned=st.booleans(),
    dense=st.booleans(),
)
rc_problems = st.builds(
    lambda problem, n, reduction: gemm_rc.RcProblem(**{**vars(problem), "n": n}, reduction=reduction),
    problems,
    st.integers(0, 140),
    st.sampled_from(REDUCTIONS),
)
_float_types = st.sampled_from(["bf16", "fp16", "e4m3fn", "e4m3fnuz", "fp32"])
mla_problems = st.builds(
    mla.MlaProblem,
    batch=st.integers(0, 300),
    heads=st.sampled_from([0, 1, 8, 16, 24, 64, 128, 129]),
    context=st.integers(0, 1 << 20),
    q_len=st.integers(0, 9),
    page_size=st.sampled_from([0, 1, 16, 64]),
    q_dtype=_float_types,
    kv_dtype=_float_types,
    out_dtype=_float_types,
    splits=st.integers(0, 70),
    plan_units=st.sampled_from([0, 64, 304]),
    lse=st.booleans(),
    causal=st.booleans(),
)
merge_problems = st.builds(
    mla.MergeProblem,
    batch=st.integers(0, 300),
    heads=st.integers(0, 130),
    head_dim=st.sampled_from([64, 96, 128, 512]),
    q_len=st.integers(0, 9),
    pieces=st.integers(0, 64),
    out_dtype=_float_types,
    lse=st.booleans(),
)
sort_problems = st.builds(
    SortProblem,
    tokens=st.integers(-1, 1 << 20),
    experts=st.integers(0, 1100),
    topk=st.integers(0, 70),
    block_size=st.integers(0, 1100),
    policy=st.integers(-1, 3),
)
sum_problems = st.builds(
    SumProblem,
    tokens=st.integers(0, 1 << 20),
    topk=st.integers(-1, 20),
    width=st.integers(0, 1 << 21),
    dtype=_float_types,
)
layers = {
    "tokens": st.integers(-1, 1 << 20),
    "experts": st.integers(0, 1100),
    "topk": st.integers(0, 70),
    "width": st.sampled_from([0, 64, 100, 7168, 1 << 20]),
    "inter": st.sampled_from([0, 64, 100, 256, 2048]),
    "dtype": _float_types,
    "code": st.sampled_from(["", "e4m3fn", "e4m3fnuz", "int8"]),
    "activation": st.sampled_from(["silu", "gelu", "swiglu", "relu"]),
    "deterministic": st.booleans(),
}
moe_problems = st.builds(
    MoeProblem,
    quant=st.sampled_from(["none", "token", "block", "tensor"]),
    shuffled=st.booleans(),
    interleaved=st.booleans(),
    quantised=st.booleans(),
    weighted_input=st.booleans(),
    global_experts=st.integers(0, 1100),
    aligned=st.booleans(),
    **layers,
)
norms = {
    "row_count": st.integers(-1, 1 << 31),
    "row_width": st.sampled_from([0, 1, 96, 128, 769, 7168, 1 << 31]),
    "dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
    "gemma": st.booleans(),
    "model_sensitive": st.booleans(),
    "aligned": st.booleans(),
}
_stored = st.sampled_from(["bf16", "fp16", "e4m3fn", "e4m3fnuz", "int8"])
latents = {
    "tokens": st.integers(-1, 1 << 31),
    "kv_lora_rank": st.sampled_from([0, 37, 512, 1 << 20]),
    "rope_dim": st.sampled_from([0, 7, 10, 64, 1 << 20]),
    "dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
    "cache_dtype": _stored,
    "slots": st.sampled_from(["none", "int32", "int64"]),
    "paged": st.booleans(),
    "aligned": st.booleans(),
}
turned = {
    "table_dtype": st.sampled_from(["bf16", "fp16", "fp32", "fp64"]),
    "style": st.sampled_from(["neox", "gptj", "glm"]),
    "nope_first": st.booleans(),
    "half_table": st.booleans(),
    "positions": st.sampled_from(["none", "int32", "int64", "int8"]),
}
_a8w8_sizes = st.one_of(st.integers(-1, 300), st.integers(0, 1 << 31))
_a8w8_multiples = st.one_of(_a8w8_sizes, st.integers(0, 300).map(lambda steps: 128 * steps))
products_of_8_bits = {
    **{"n": _a8w8_sizes, "m": _a8w8_multiples, "k": _a8w8_multiples, "dtype": _float_types, "aligned": st.booleans()},
    "fp8": st.sampled_from(["native", "e4m3fn", "e4m3fnuz", "e5m2"]),
}
acts = {
    "row_count": st.integers(-1, 1 << 31),
    "row_width": st.sampled_from([0, 1, 96, 128, 2304, 1 << 31]),
    "dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
    "activation": st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]),
    "limited": st.booleans(),
    "aligned": st.booleans(),
}
mx_rows: dict[str, Any] = {
    "row_count": st.integers(-1, 1 << 31),
    "row_width": st.sampled_from([0, 1, 32, 100, 7168, 1 << 31]),
    "dtype": st.sampled_from(["bf16", "fp16", "fp32"]),
    "layout": st.sampled_from(["rows", "columns", "shuffled", "tiles"]),
    "scale_rows": st.sampled_from([0, 32, 256, 1 << 20]),
    "aligned": st.booleans(),
}
mx_entries: dict[str, Any] = {
    "tokens": st.integers(-1, 1 << 25),
    "row_width": st.sampled_from([0, 1, 32, 100, 7168, 1 << 31]),
    "topk": st.integers(0, 200),
    "entries": st.integers(-1, 1 << 31),
}
PROBLEMS = {
    RopeProblem: st.builds(
        RopeProblem,
        tokens=st.integers(-1, 1 << 31),
        x_heads=st.sampled_from([0, 1, 16, 128, 1 << 20]),
        y_heads=st.sampled_from([-1, 0, 1, 128]),
        head_dim=st.sampled_from([0, 64, 81, 192, 1 << 20]),
        rot_dim=st.sampled_from([0, 10, 33, 64, 192]),
        dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
        in_place=st.booleans(),
        with_offsets=st.booleans(),
        inner=st.booleans(),
        aligned=st.booleans(),
        **turned,
    ),
    ConcatProblem: st.builds(ConcatProblem, **latents),
    FusedProblem: st.builds(
        FusedProblem,
        q_tokens=st.integers(-1, 1 << 31),
        heads=st.sampled_from([0, 1, 16, 128, 1 << 20]),
        kv_heads=st.sampled_from([0, 1, 8]),
        q_dtype=_stored,
        all_q=st.booleans(),
        scaled=st.booleans(),
        **latents,
        **turned,
    ),
    BlockScaleProblem: st.builds(BlockScaleProblem, shuffled=st.booleans(), **products_of_8_bits),
    RowScaleProblem: st.builds(RowScaleProblem, shuffled=st.booleans(), bias=st.booleans(), **products_of_8_bits),
    BatchedProblem: st.builds(BatchedProblem, batch=_a8w8_sizes, bias=st.booleans(), **products_of_8_bits),
    BatchedGemmProblem: st.builds(
        BatchedGemmProblem,
        n=_a8w8_sizes,
        m=_a8w8_multiples,
        k=_a8w8_multiples,
        batch=_a8w8_sizes,
        dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
        bias=st.booleans(),
        aligned=st.booleans(),
    ),
    MxGemmProblem: st.builds(
        MxGemmProblem,
        n=_a8w8_sizes,
        m=_a8w8_multiples,
        k=_a8w8_multiples,
        x=st.sampled_from(["bf16", "fp16", "fp4", "fp8"]),
        dtype=st.sampled_from(["bf16", "fp16", "fp32", "fp64"]),
        shuffled=st.booleans(),
        w_scale=st.sampled_from(["rows", "strided", "shuffled", "other"]),
        batch=_a8w8_sizes,
        aligned=st.booleans(),
    ),
    MoeProblem: moe_problems,
    FmoeProblem: st.builds(FmoeProblem, block_size=st.integers(0, 1100), **layers),
    SortProblem: sort_problems,
    AlignProblem: st.builds(AlignProblem, pairs=st.integers(-1, 1 << 23), experts=st.integers(0, 1100)),
    SumProblem: sum_problems,
    mla.MlaProblem: mla_problems,
    mla.MergeProblem: merge_problems,
    gemm.GemmProblem: problems,
    gemm_fp8.ScaledGemmProblem: scaled_problems,
    gemm_rc.RcProblem: rc_problems,
    mla_plan.PlanProblem: st.builds(
        mla_plan.PlanProblem,
        batch=st.integers(-1, 1 << 21),
        heads=st.sampled_from(mla_heads.HEADS),
        planner=st.sampled_from(["fast", "intra", "cost", "slow"]),
    ),
    mla_plan.UpdateProblem: st.builds(mla_plan.UpdateProblem, batch=st.integers(-1, 1 << 21)),
    routing.RoutingProblem: st.builds(
        routing.RoutingProblem,
        num_tokens=st.integers(-1, 5000),
        experts=st.integers(-1, 1100),
        topk=st.integers(-1, 40),
        groups=st.integers(-1, 70),
        topk_groups=st.integers(-1, 70),
        dtype=_float_types,
        bias=st.sampled_from(["none", "fp32", "bf16"]),
        score=st.sampled_from(["sigmoid", "softmax", "none"]),
        renorm=st.booleans(),
        shared_experts=st.integers(-1, 40),
        shared_scored=st.booleans(),
        aligned=st.booleans(),
    ),
    QuantProblem: st.builds(
        QuantProblem,
        row_count=st.integers(-1, 1 << 31),
        row_width=st.sampled_from([0, 1, 96, 128, 7168, 1 << 31]),
        group_size=st.sampled_from([-1, 0, 1, 32, 96, 128, 7168]),
        dtype=st.sampled_from(["bf16", "fp16", "fp32"]),
        out_dtype=st.sampled_from(["e4m3fn", "e4m3fnuz", "int8", "e2m1", "bf16"]),
        scale_dtype=st.sampled_from(["fp32", "e8m0", "bf16"]),
        transposed=st.booleans(),
        aligned=st.booleans(),
    ),
    MxQuantProblem: st.builds(MxQuantProblem, **mx_rows, parted=st.booleans()),
    MxActProblem: st.builds(MxActProblem, **mx_rows, activation=st.sampled_from(["silu", "gelu", "relu"])),
    MxNormProblem: st.builds(MxNormProblem, **mx_rows, add=st.booleans(), plain=st.booleans()),
    MxSortProblem: st.builds(MxSortProblem, **mx_entries),
    MxQuantSortProblem: st.builds(MxQuantSortProblem, **mx_entries, dtype=st.sampled_from(["bf16", "fp32"])),
    ActProblem: st.builds(ActProblem, **acts),
    QuantActProblem: st.builds(
        QuantActProblem,
        **acts,
        group_size=st.sampled_from([-1, 0, 1, 32, 96, 128, 2304]),
        out_dtype=st.sampled_from(["e4m3fn", "e4m3fnuz", "int8", "e2m1", "bf16"]),
        transposed=st.booleans(),
    ),
    NormProblem: st.builds(NormProblem, **norms),
    PairNormProblem: st.builds(
        PairNormProblem,
        **{name: drawn for name, drawn in norms.items() if name != "model_sensitive"},
        second_width=st.sampled_from([-1, 0, 1, 512, 7168, 1 << 31]),
        with_add=st.booleans(),
        both=st.booleans(),
        group_size=st.sampled_from([-1, 0, 1, 32, 96, 128, 7168]),
        out_dtype=st.sampled_from(["e4m3fn", "e4m3fnuz", "int8", "e2m1", "bf16"]),
        transposed=st.booleans(),
    ),
    QuantNormProblem: st.builds(
        QuantNormProblem,
        **norms,
        group_size=st.sampled_from([-1, 0, 1, 32, 96, 128, 7168]),
        out_dtype=st.sampled_from(["e4m3fn", "e4m3fnuz", "int8", "e2m1", "bf16"]),
        transposed=st.booleans(),
    ),
}
calls = st.sampled_from(list(TABLES.values())).flatmap(lambda table: st.tuples(st.just(table), PROBLEMS[table.problem]))
wishes = st.builds(
    Wishes,
    vskip=st.sampled_from([None, False, True]),
    prefer=st.sampled_from([None, *dispatch.KINDS]),
    jit_off=st.booleans(),
)


def test_every_table_s_calls_are_drawn() -> None:
    assert {table.problem for table in TABLES.values()} == set(PROBLEMS)


@given(calls, st.sampled_from(PERSONAS), wishes)
def test_every_row_is_chosen_or_rejected_with_a_reason(call: tuple[Table, Any], chip: str, wished: Wishes) -> None:
    table, problem = call
    decision = dispatch.decide(table, problem, resolve(chip), wished)
    told = [item.row for item in decision.rejected] + [name for name in [chosen(decision)] if name]
    assert sorted(told) == sorted(row.name for row in table.rows)
    assert all(item.refusals and all(refusal.reason for refusal in item.refusals) for item in decision.rejected)
    assert dispatch.decide(table, problem, resolve(chip), wished) == decision


@given(rc_problems, st.sampled_from(PERSONAS), st.sampled_from([None, "asm", "hip"]))
def test_linear_takes_what_the_fastest_operator_takes(problem: gemm_rc.RcProblem, chip: str, wish: str | None) -> None:
    """Row, plan and units are those of the operator's own table; torch serves what it is fastest at, or the rest."""
    wished = Wishes(prefer=wish)
    made = dispatch.decide(linear.LINEAR, problem, resolve(chip), wished)
    plain = gemm.GemmProblem(*(getattr(problem, f.name) for f in dataclasses.fields(gemm.GemmProblem)))
    few = dispatch.decide(gemm.WV_SPLIT_K, plain, resolve(chip), wished)
    many = dispatch.decide(gemm_rc.WV_SPLIT_K_RC, problem, resolve(chip), wished)
    if many.row is None:
        kernels = problem.dtype in gemm.DTYPES and 1 <= problem.n <= 128
        assert chosen(made) == (None if kernels and problem.reduction == "batch_invariant" else "torch")
        return
    operator = linear.verdict(problem, resolve(chip)).winner
    if problem.reduction == "batch_invariant":
        operator = "wvSplitKrc"
    elif few.row is not None and few.row.backend == wish == "asm":
        operator = "wvSplitK"
    own = {"wvSplitK": few, "wvSplitKrc": many}.get(operator)
    assert made.row is not None and (own is not None or made.row.name == "torch")
    if own is not None and own.row is not None:
        assert chosen(made) == ("rc_" if own is many else "") + own.row.name
        assert (made.plan, made.kernels, made.workspace) == (own.plan, own.kernels, own.workspace)


def test_only_torch_is_left_to_batch_invariant_where_it_promises_nothing() -> None:
    for change, expected in (
        ({}, "rc_mfma"),
        ({"n": 128}, "rc_mfma"),
        ({"n": 129}, "torch"),
        ({"dtype": "float32"}, "torch"),
        ({"dense": False}, None),
    ):
        problem = dataclasses.replace(gemm_rc.RcProblem(1, 256, 7168, reduction="batch_invariant"), **change)
        for wish in (None, "asm"):
            decision = dispatch.decide(linear.LINEAR, problem, resolve("mi300x"), Wishes(prefer=wish))
            assert chosen(decision) == expected
    assert "make it contiguous" in why(decision, "rc_mfma")
    assert "the bits of torch may depend on n (AITERLITE_GEMM_REDUCTION=deterministic)" in why(decision, "torch")
    off = dispatch.decide(
        linear.LINEAR, dataclasses.replace(problem, dense=True), resolve("mi300x"), Wishes(jit_off=True)
    )
    assert off.row is None


@given(problems, st.sampled_from(["mi300x", "mi308x", "mi355x", "h100", "h200", "a100", "l40s"]))
def test_every_plan_is_one_that_the_kernel_can_run(problem: gemm.GemmProblem, chip: str) -> None:
    """What wv_split_k.hip states of its defines and its launch."""
    persona = resolve(chip)
    decision = dispatch.decide(gemm.WV_SPLIT_K, problem, persona)
    if decision.row is None:
        return
    plan: gemm.WvSplitKPlan = decision.plan
    cut = plan.tiling
    rows = cut.tiles * 16 // cut.slices
    assert problem.n <= cut.cols // cut.slices
    assert plan.grid == cut.cluster * -(-problem.m // rows) and plan.grid < 2**31
    assert plan.block == cut.waves * persona.wave_size <= 1024
    assert cut.cluster == 1 or persona.target == "sm_90a"
    assert plan.aligned == problem.aligned and (plan.aligned or cut.unroll == 1)
    assert gemm_plan.compiles(gemm_plan.CHIPS[persona.target], cut)


def test_rows_of_a_table_have_names_of_their_own() -> None:
    for table in TABLES.values():
        names = [row.name for row in table.rows]
        assert len(set(names)) == len(names)


SHAPES = [(256, 7168), (576, 7168), (1536, 7168), (2112, 7168), (3072, 1536), (7168, 2048), (7168, 2304), (4096, 4096)]
ODD = {
    "fp16 with bias": {"dtype": "fp16", "bias": True},
    "unaligned": {"aligned": False},
    "strided": {"dense": False},
    "float32": {"dtype": "float32"},
    "17 tokens": {"n": 17},
    "129 tokens": {"n": 129},
    "no token": {"n": 0},
    "odd sizes": {"m": 257, "k": 7169, "aligned": False},
}


ODD_SCALED = {
    "e4m3fn": {"fp8": "e4m3fn"},
    "e4m3fnuz, fp16, a scale a row, bias": {"fp8": "e4m3fnuz", "dtype": "fp16", "scale_w": "row", "bias": True},
    "a scale a token": {"scale_x": "token", "scale_w": "row"},
    "17 tokens": {"n": 17},
    "odd sizes": {"m": 257, "k": 7169, "aligned": False},
}


def golden_text() -> str:
    """Each persona's plan for each shape and number of tokens, then traces of problems that are out of the ordinary."""
    lines = []
    for chip, (m, k) in itertools.product(PERSONAS, SHAPES):
        previous = ""
        for n in (1, 4, 16, 32, 64, 128):
            told = _short(dispatch.decide(linear.LINEAR, gemm_rc.RcProblem(n, m, k), resolve(chip)))
            lines.append(f"{chip} m={m} k={k} n={n}: {told if told != previous else 'the same'}")
            previous = told
    lines += _golden_assembly()
    for op, chip, (name, change) in itertools.product(("wvSplitK", "linear"), PERSONAS, ODD.items()):
        problem = dataclasses.replace(TABLES[op].problem(4, 2112, 7168), **change)
        lines += _trace(f"{op} {chip} {name}", dispatch.decide(TABLES[op], problem, resolve(chip)))
    for chip, (m, k), n in itertools.product(PERSONAS[:-1], SHAPES[::3], (1, 4, 16)):
        problem = gemm_fp8.ScaledGemmProblem(n, m, k)
        told = _short(dispatch.decide(gemm_fp8.WV_SPLIT_K_Q, problem, resolve(chip)))
        lines.append(f"wvSplitKQ {chip} m={m} k={k} n={n}: {told}")
    for chip, (name, change) in itertools.product((*PERSONAS, "a100"), ODD_SCALED.items()):
        problem = dataclasses.replace(gemm_fp8.ScaledGemmProblem(4, 2112, 7168), **change)
        lines += _trace(f"wvSplitKQ {chip} {name}", dispatch.decide(gemm_fp8.WV_SPLIT_K_Q, problem, resolve(chip)))
    lines += _golden_activation()
    for chip, (first, second), n in itertools.product(PERSONAS, ((1536, 512), (512, 7168), (128, 0)), (1, 4096)):
        pair = PairNormProblem(n, first, second, group_size=0 if second else 64)
        told = _short(dispatch.decide(norm_pair.PAIR_TABLE, pair, resolve(chip)))
        lines.append(f"fused_qk_rmsnorm {chip} n={n} widths={first},{second}: {told}")
    return "\n".join(lines) + "\n"


def _golden_activation() -> list[str]:
    """At 2,304 columns tiles are small; at 20,480 a row with one scale is read twice."""
    lines = []
    for chip, width, group in itertools.product(PERSONAS, (2048, 2304, 20480), ("", "128", "row")):
        table = activation.SILU_QUANT_TABLE if group else activation.SILU_TABLE
        size = {"group_size": width if group == "row" else 128} if group else {}
        for n in (1, 4096):
            problem = table.problem(**table.derive({"row_count": n, "row_width": width, **size}))
            told = _short(dispatch.decide(table, problem, resolve(chip)))
            lines.append(f"{table.op} {chip} n={n} width={width} group={group or 'none'}: {told}")
    odd = {"activation": "gelu", "out_dtype": "e2m1", "dtype": "fp32"}
    for chip, (name, value) in itertools.product((*PERSONAS, "a100"), odd.items()):
        change: Any = {name: value}
        problem = dataclasses.replace(activation.QuantActProblem(4, 2048), **change)
        decision = dispatch.decide(activation.SILU_QUANT_TABLE, problem, resolve(chip))
        lines += _trace(f"silu_and_mul_quant {chip} {name}={value}", decision)
    return lines


def _golden_assembly() -> list[str]:
    """What AITERLITE_PREFER=asm changes, and where it has nothing to give."""
    lines = []
    asked = Wishes(prefer="asm")
    for chip, (m, k), n in itertools.product(("mi300x", "mi308x", "mi355x"), SHAPES[::3], (1, 4, 16)):
        decision = dispatch.decide(linear.LINEAR, gemm_rc.RcProblem(n, m, k), resolve(chip), asked)
        lines.append(f"{chip} prefer=asm m={m} k={k} n={n}: {_short(decision)}")
    for chip, (name, change) in itertools.product(PERSONAS, ODD.items()):
        problem = dataclasses.replace(gemm_rc.RcProblem(4, 2112, 7168), **change)
        decision = dispatch.decide(linear.LINEAR, problem, resolve(chip), asked)
        lines.append(f"linear prefer=asm {chip} {name}: {_short(decision)}")
        lines += [f"    note: {note}" for note in decision.notes]
    scaled = {f"n={n}": {"n": n} for n in (1, 4, 16)} | ODD_SCALED
    for chip, (name, change) in itertools.product(("mi300x", "mi308x", "mi355x"), scaled.items()):
        problem = dataclasses.replace(gemm_fp8.ScaledGemmProblem(4, 2112, 7168), **change)
        decision = dispatch.decide(gemm_fp8.WV_SPLIT_K_Q, problem, resolve(chip), asked)
        lines.append(f"wvSplitKQ prefer=asm {chip} {name}: {_short(decision)}")
        lines += [f"    note: {note}" for note in decision.notes]
    return lines


def _trace(call: str, decision: dispatch.Decision) -> list[str]:
    """What a call takes, and why it does not take the other rows of its target."""
    lines = [f"{call}: {_short(decision)}"]
    for item in decision.rejected:
        if not any(f"the target is {decision.persona.target}" in refusal.reason for refusal in item.refusals):
            lines.append(f"    not {item.row}: {'; '.join(map(str, item.refusals))}")
    return lines


def _short(decision: dispatch.Decision) -> str:
    if decision.plan is None:
        return str(chosen(decision))
    whole = dataclasses.asdict(decision.plan)
    parts = [value for value in whole.values() if isinstance(value, dict)]
    numbers = {name: value for name, value in whole.items() if not isinstance(value, dict)}
    plan = " ".join(f"{name}={int(value)}" for part in (numbers, *parts) for name, value in part.items())
    return f"{chosen(decision)} {plan}"


def test_decisions_are_the_golden_ones() -> None:
    wanted, found = GOLDEN.read_text().splitlines(), golden_text().splitlines()
    difference = list(difflib.unified_diff(wanted, found, "golden", "now", n=0, lineterm=""))
    assert not difference, "\n".join(["`python tests/test_dispatch.py` writes these anew:", *difference])


MEASURED = crossover.CrossoverTable(
    "sm_90a",
    "h200",
    132,
    crossover.MEASURED,
    "a test",
    (
        crossover.Point(7168, 2048, 8, "wvSplitK"),
        crossover.Point(7168, 2048, 16, "torch"),
        crossover.Point(256, 7168, 32, "wvSplitKrc"),
        crossover.Point(256, 7168, 64, "torch"),
    ),
)
FROM_COUNTERS = "estimated from counters, calibrated on published times, not measured: "
ESTIMATED = f"wvSplitKrc is faster: {FROM_COUNTERS}mi300x at m 256, k 7168, n 16"


@pytest.fixture
def with_points(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The measured points of this test instead of the shipped ones, which the next measurement replaces."""
    tables = tuple(MEASURED if table.target == MEASURED.target else table for table in crossover.shipped())
    monkeypatch.setattr(crossover, "shipped", lambda target: [table for table in tables if table.target == target])
    crossover._verdict.cache_clear()
    yield
    crossover._verdict.cache_clear()


@pytest.mark.parametrize(
    ("chip", "n", "m", "k", "row", "other", "said"),
    [
        ("h200", 8, 7168, 2048, "mma_sync", "rc_wgmma", "wvSplitK is faster: measured: h200 at m 7168, k 2048, n 8"),
        ("h100", 9, 7168, 2048, "torch", "mma_sync", "torch is faster: measured: h200 at m 7168, k 2048, n 16, the"),
        ("h100", 32, 256, 7168, "rc_wgmma", "mma_sync", "n must be 1 to 16, it is 32"),
        ("h100", 32, 256, 7168, "rc_wgmma", "rc_mma_sync", "rc_wgmma is preferred"),
        ("h100", 64, 300, 7168, "torch", "rc_wgmma", "torch is faster: measured: h200 at m 256, k 7168, n 64, the"),
        ("h100", 4, 300, 7168, "mma_sync", "rc_wgmma", "wvSplitK is faster: nothing was measured on sm_90a, so up to"),
        ("a100", 17, 64, 512, "torch", "rc_mma_sync", "torch is faster: nothing was measured on sm_80, so beyond 16"),
        ("mi300x", 16, 256, 7168, "rc_mfma", "mfma", ESTIMATED),
        ("mi325x", 9, 250, 7168, "rc_mfma", "mfma_asm", ESTIMATED),
        ("mi308x", 16, 256, 7168, "rc_mfma", "mfma", f"wvSplitKrc is faster: {FROM_COUNTERS}mi308x"),
        ("mi308x", 16, 256, 1024, "mfma", "rc_mfma", "wvSplitK is faster: estimated from the cost model, not measured"),
        ("mi355x", 100, 4096, 4096, "rc_mfma", "mfma", "n must be 1 to 16, it is 100"),
        ("mi355x", 129, 4096, 4096, "torch", "rc_mfma", "n must be 1 to 128, it is 129"),
        ("cpu-x86-64-v4", 16, 64, 512, "cpu", "rc_cpu", "wvSplitK is faster: on CPUs up to 16 tokens"),
        (
            "cpu-x86-64-v4",
            17,
            64,
            512,
            "torch",
            "rc_cpu",
            "torch is faster: on CPUs beyond 16 tokens (call wvSplitKrc to",
        ),
    ],
)
def test_linear_leaves_to_others_what_they_do_faster(
    chip: str, n: int, m: int, k: int, row: str, other: str, said: str, with_points: None
) -> None:
    """And says so of the rows that it leaves, with how that is known."""
    decision = dispatch.decide(linear.LINEAR, gemm_rc.RcProblem(n, m, k), resolve(chip))
    assert chosen(decision) == row and why(decision, other).startswith(said)


if __name__ == "__main__":
    GOLDEN.write_text(golden_text())
