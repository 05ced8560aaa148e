"""Plans that a table might take on AMD chips, by family, for `benchmarks/estimate_choices.py --plans`.

A `Case` is a call of zeros and the operator whose table decides it; `candidates` gives plans that the kernels of the
row compile for. Shapes are those of DeepSeek-R1 over 2, 4 and 8 ranks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from aiterlite import QuantType, mla, moe
from aiterlite.dispatch import Decision
from aiterlite.ops import gemm, gemm_a8w8, gemm_mxfp4_operators, gemm_rc, norm, quant
from aiterlite.ops.samples import mla as mla_samples
from aiterlite.tables import fused_moe_amd, gemm_a8w8_amd, gemm_plan, gemm_rc_plan, moe_sorting
from aiterlite.tables import mla as mla_tables
from aiterlite.tables.gemm_rc import reduce_kind, workspace_bytes
from aiterlite.target import Persona, resolve

# (rows of weights, k): of projections in bf16, and of those in 8 and 4 bits, over 8, 4 and 2 ranks.
BF16 = ((256, 7168), (2112, 7168), (3072, 1536), (7168, 2048))
NARROW = ((2112, 7168), (3072, 1536), (7168, 2048), (512, 7168), (7168, 256), (4608, 7168), (7168, 2304))
NARROW += ((6144, 1536), (7168, 4096), (12288, 1536), (7168, 8192), (2048, 7168))
# (experts, topk, width, inter) over 8 and 4 ranks.
LAYERS = ((256, 8, 7168, 256), (256, 8, 7168, 512))
_SPLITS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 14, 16, 20, 24, 28, 32, 48, 64)


@dataclass(frozen=True)
class Case:
    """`call` makes the call of an operator on a chip; `only`: how many workgroups of each launch are alike and run, or
    0 where all must."""

    op: str
    words: str
    call: Callable[[], Any]
    only: int = 0


@dataclass(frozen=True)
class Family:
    """Cases on a chip, and the plans that may take the place of a decision's, by name. `again`: plans differ in how
    many workgroups read the same, and nothing says from which cache."""

    cases: Callable[[str], Iterator[Case]]
    candidates: Callable[[Decision], Iterator[tuple[str, Any]]]
    again: bool = False


def _zeros(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(shape, dtype=torch.uint8).view(dtype) if dtype.itemsize == 1 else torch.zeros(shape, dtype=dtype)


def _fp8(chip: str) -> torch.dtype:
    return torch.float8_e4m3fnuz if resolve(chip).fp8 == "e4m3fnuz" else torch.float8_e4m3fn


# Skinny GEMMs ---------------------------------------------------------------------------------------------------------


def _skinny(chip: str) -> Iterator[Case]:
    for m, k in BF16:
        for n in (1, 4, 16):
            x, w = _zeros(n, k), _zeros(m, k)
            yield Case("wvSplitK", f"{n} x [{m}, {k}]", functools.partial(gemm.wvSplitK, x, w), 4)


def _skinny_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """The first five cuts of rows and K, with the waves and loads in flight that the plan gives them, and half as many
    waves."""
    problem, persona, chip = decision.problem, decision.persona, gemm_plan.CHIPS[decision.persona.target]
    for cut in gemm_plan.ranked_cuts(chip, problem.n, problem.m, problem.k, persona.cu_count)[:5]:
        whole = gemm_plan.split_k(chip, cut, problem.m, problem.k, persona.cu_count)
        few = replace(whole, waves=max(1, whole.waves // 2))
        for tiling in (whole, few):
            if gemm_plan.compiles(chip, tiling):
                t, grid = tiling, tiling.workgroups(problem.m)
                made = replace(decision.plan, tiling=t, grid=grid, block=64 * t.waves)
                yield f"slices {t.slices}, tiles {t.tiles}, waves {t.waves}, unroll {t.unroll}", made


def _reduced(chip: str) -> Iterator[Case]:
    for m, k in BF16:
        for n in (16, 128):
            x, w = _zeros(n, k), _zeros(m, k)
            call = functools.partial(gemm_rc.wvSplitKrc, x, w, reduction="deterministic")
            yield Case("wvSplitKrc", f"{n} x [{m}, {k}]", call)


def _reduced_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """Of each tile of rows and each number of waves over K the best two by the plan's own estimate, in shards that
    differ by a quarter or more."""
    problem, persona = decision.problem, decision.persona
    units, seen = persona.cu_count, {}
    columns = decision.plan.tiling.cols
    cuts = gemm_rc_plan._candidates(persona.target, columns, problem.m, problem.k)
    for cut in sorted(cuts, key=lambda c: gemm_rc_plan._time(persona.target, c, columns, problem.m, problem.k, units)):
        own = seen.setdefault((cut.tiling.rows, cut.tiling.k_waves), [])
        if cut.tiling.k_waves < 4 or len(own) >= 2 or any(0.8 < cut.shards / other < 1.25 for other in own):
            continue
        own.append(cut.shards)
        reduce, tiles = reduce_kind(problem.reduction, cut.shards), -(-problem.m // cut.tiling.rows)
        made = replace(
            decision.plan,
            tiling=cut.tiling,
            reduce=reduce,
            shards=cut.shards,
            shard_k=cut.shard_k,
            grid=tiles * cut.shards,
            block=cut.tiling.waves * persona.wave_size,
            workspace=workspace_bytes(reduce, tiles, cut.tiling.rows * cut.tiling.cols, cut.shards),
        )
        t = cut.tiling
        yield f"rows {t.rows}, waves {t.row_waves} x {t.k_waves}, unroll {t.unroll}, shards {cut.shards}", made


# GEMMs of 8 and 4 bits ------------------------------------------------------------------------------------------------


def _a8w8(chip: str) -> Iterator[Case]:
    dtype = _fp8(chip)
    for m, k in NARROW:
        for n in (1, 16, 32, 64, 128):
            given = _zeros(n, k, dtype=dtype), _zeros(m, k, dtype=dtype)
            scales = torch.ones(n, k // 128), torch.ones(-(-m // 128), k // 128)
            call = functools.partial(gemm_a8w8.gemm_a8w8_blockscale, *given, *scales, isBpreshuffled=True)
            yield Case("gemm_a8w8_blockscale", f"{n} x [{m}, {k}]", call, 4)


def _mxfp4(chip: str) -> Iterator[Case]:
    for m, k in NARROW[:8]:
        for n in (1, 16, 64, 128):
            given = _zeros(n, k), _zeros(m, k // 2, dtype=torch.uint8), _zeros(m, k // 32, dtype=torch.uint8)
            call = functools.partial(gemm_mxfp4_operators.gemm_a16wfp4, *given)
            yield Case("gemm_mxfp4", f"{n} x [{m}, {k}]", call, 4)


def _split_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """Tiles of rows, by splits of K; more tokens a workgroup are read again by each."""
    problem, plan = decision.problem, decision.plan
    steps, tokens = -(-problem.k // 128), plan.tokens
    batches = getattr(problem, "batches", 1)
    for rows in (64, 128, 256) if decision.op == "gemm_a8w8_blockscale" else (64, 128):
        pieces = -(-problem.m // rows) * -(-problem.n // tokens) * batches
        for split_steps in dict.fromkeys(-(-steps // splits) for splits in _SPLITS if splits <= steps):
            splits = -(-steps // split_steps)
            made = gemm_a8w8_amd.Plan(tokens, rows, splits, split_steps, pieces * splits)
            yield f"rows {rows}, splits {splits}", made


# MLA decode -----------------------------------------------------------------------------------------------------------


def _mla(chip: str) -> Iterator[Case]:
    for heads in (16, 32, 64, 128):
        for batch, context in ((1, 4096), (4, 4096), (16, 1024), (64, 1024)):
            splits = mla_tables.unasked_splits(resolve(chip).cu_count, batch, context)
            problem = mla_tables.MlaProblem(batch, heads, context, splits=splits, lse=False)
            named: dict[str, Any] = mla_samples.paged(problem, 0)
            call = functools.partial(mla.mla_decode_fwd, *named.values(), 1, num_kv_splits=splits)
            yield Case("mla_decode_fwd", f"{heads} heads, {batch} x {context}", call, 2)


def _mla_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """Tiles of columns and tiles of tokens that fit LDS, of the compiled kernel."""
    problem, persona = decision.problem, decision.persona
    tiles = problem.q_len * -(-problem.heads // 16)
    for columns in (1, 2, 4):
        if columns > 1 and columns // 2 >= tiles:
            continue
        for tokens in (32, 64):
            size = mla_tables.shared_bytes((problem.q_dtype, problem.kv_dtype), columns, tokens)
            if size > persona.lds_bytes or (columns == 4 and tokens == 64):
                continue
            groups = -(-tiles // columns)
            made = mla_tables.MlaPlan(columns, groups, tokens, size, problem.batch * problem.splits * groups)
            yield f"columns {columns}, tokens {tokens}", made


# Mixtures of experts --------------------------------------------------------------------------------------------------


def moe_call(chip: str, tokens: int, layer: tuple[int, ...]) -> Callable[[], Any]:
    """A call of random routing, with 8-bit weights of zeros in blocks, shuffled."""
    experts, _, width, inter = layer
    x, weight, ids = _routed(tokens, layer)
    w1 = _zeros(experts, 2 * inter, width, dtype=_fp8(chip))
    w2 = _zeros(experts, width, inter, dtype=_fp8(chip))
    scales = torch.ones(experts, 2 * inter // 128, width // 128), torch.ones(experts, width // 128, inter // 128)
    w1.is_shuffled = w2.is_shuffled = True  # type: ignore[attr-defined]
    given = {"quant_type": QuantType.per_128x128, "w1_scale": scales[0], "w2_scale": scales[1]}
    return lambda: moe.fused_moe(x, w1, w2, weight, ids, **given)


def _routed(tokens: int, layer: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.rand(tokens, layer[0], generator=generator).topk(layer[1], dim=1).indices.int()
    return _zeros(tokens, layer[2]), torch.rand(tokens, layer[1], generator=generator), ids


def _moe(chip: str) -> Iterator[Case]:
    for layer in LAYERS[:1]:
        for tokens in (8, 32, 128):
            yield Case("fused_moe", f"{tokens} tokens, {layer}", moe_call(chip, tokens, layer))


def _moe_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """Sizes of sorted blocks, entries of a workgroup, and features of stage 2."""
    problem = decision.problem
    for block, entries, features in ((16, 16, 256), (16, 16, 128), (32, 32, 256), (32, 16, 256), (64, 64, 128)):
        blocks = moe_sorting.least_capacity(problem.pairs, problem.experts, block) // block
        made = fused_moe_amd.TwoStagePlan(block, max(1, blocks), entries, features)
        yield f"blocks of {block}, entries {entries}, features {features}", made


def _few(chip: str) -> Iterator[Case]:
    for layer in LAYERS[:1]:
        for tokens in (1, 2):
            yield Case("fused_moe", f"{tokens} tokens, {layer}", moe_call(chip, tokens, layer))


def _few_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    for waves, unroll, down in ((8, 7, 2), (4, 7, 2), (8, 4, 2), (4, 4, 2), (8, 7, 1), (2, 7, 2)):
        yield f"waves {waves}, unroll {unroll}, {down}", fused_moe_amd.FewPlan(waves, unroll, down)


def _mxfp4_moe(chip: str) -> Iterator[Case]:
    experts, _, width, inter = layer = LAYERS[0]
    for tokens in (8, 32, 128):
        x, weight, ids = _routed(tokens, layer)
        shapes = ((2 * inter, width // 2), (width, inter // 2), (2 * inter, width // 32), (width, inter // 32))
        w1, w2, w1_scale, w2_scale = (_zeros(experts, *shape, dtype=torch.uint8) for shape in shapes)
        given: dict[str, Any] = {"quant_type": QuantType.per_1x32, "w1_scale": w1_scale, "w2_scale": w2_scale}
        call = functools.partial(moe.fused_moe, x, w1, w2, weight, ids, **given)
        yield Case("fused_moe", f"{tokens} tokens, {layer}", call)


def _mxfp4_moe_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    problem = decision.problem
    for entries in (16, 32):
        capacity = moe_sorting.least_capacity(problem.pairs, problem.experts, entries)
        made = replace(decision.plan, entries=entries, blocks=max(1, capacity // entries), few=False)
        yield f"entries {entries}", made


# Rows -----------------------------------------------------------------------------------------------------------------


def _norm(chip: str) -> Iterator[Case]:
    for width in (512, 1536, 7168):
        for rows in (1, 16, 128):
            call = functools.partial(norm.rmsnorm2d_fwd, _zeros(rows, width), _zeros(width), 1e-6)
            yield Case("rmsnorm2d_fwd", f"{rows} x {width}", call)


def _norm_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """Threads of a workgroup of teams of a wave, and rows of a team."""
    plan, rows = decision.plan, decision.problem.row_count
    for threads in (64, 128, 256) if plan.lanes <= 64 else (plan.threads,):
        for batch in (1, 2) if plan.lanes <= 512 else (1,):
            grid = -(-rows // (threads // plan.lanes * batch))
            yield f"threads {threads}, batch {batch}", replace(plan, threads=threads, batch=batch, grid=grid)


def _quant(chip: str) -> Iterator[Case]:
    op = "dynamic_per_group_scaled_quant"
    for width in (1536, 7168):
        for rows in (1, 16, 128):
            given = _zeros(rows, width, dtype=_fp8(chip)), _zeros(rows, width), torch.zeros(rows, width // 128)
            yield Case(op, f"{rows} x {width}", functools.partial(quant.dynamic_per_group_scaled_quant, *given, 128))


def _quant_plans(decision: Decision) -> Iterator[tuple[str, Any]]:
    """Threads of a workgroup, and segments of a lane."""
    plan, segments = decision.plan, decision.problem.row_count * decision.problem.groups
    for threads in (64, 128, 256):
        for batch in (1, 2):
            grid = -(-segments // (threads // plan.lanes * batch))
            yield f"threads {threads}, batch {batch}", replace(plan, threads=threads, batch=batch, grid=grid)


FAMILIES: Mapping[str, Family] = {
    "wvSplitK": Family(_skinny, _skinny_plans),
    "wvSplitKrc": Family(_reduced, _reduced_plans),
    "gemm_a8w8": Family(_a8w8, _split_plans),
    "gemm_mxfp4": Family(_mxfp4, _split_plans),
    "mla": Family(_mla, _mla_plans, again=True),
    "moe_two_stage": Family(_moe, _moe_plans),
    "moe_gemv": Family(_few, _few_plans),
    "moe_mxfp4": Family(_mxfp4_moe, _mxfp4_moe_plans),
    "norm": Family(_norm, _norm_plans),
    "quant": Family(_quant, _quant_plans),
}


def rows_of(family: str, persona: Persona) -> tuple[str, ...]:
    """The rows of a table whose plans are asked about, where it is not the one that the table takes."""
    named = {"moe_two_stage": (f"two_stage_{persona.cu_count}",), "moe_gemv": ("gemv",), "mla": ("mfma",)}
    return named.get(family, ())
