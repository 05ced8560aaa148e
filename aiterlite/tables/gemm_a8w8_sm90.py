"""GEMM of 8-bit floats on sm_90a: the kernel that its copy engine feeds, and how problems are cut.

A cluster owns some rows of weights, any multiple of 16, so that clusters are about as many as the chip holds at once,
and each multiprocessor streams as many bytes. Every cut that fits is given an estimated time, and the best is taken.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass
from typing import Any

from aiterlite import hardware
from aiterlite.dispatch import Between, Holds, Refusal, Row, Targets, Wishes
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, TensorMap, Workspace, along_x, overlap_defines
from aiterlite.tables.gemm_a8w8_parts import quantised, quantised_bytes, sizes
from aiterlite.tables.gemm_a8w8_problem import (
    SIZES,
    STEP_K,
    VECTOR,
    A8w8Problem,
    NativeFloats,
    WholeGroups,
    flavour,
)
from aiterlite.target import Persona

TARGET = "sm_90a"
KERNEL = "aiterlite_sm90_gemm_a8w8"
ARGS = ArgumentStruct("aiterlite_sm90_gemm_a8w8_args", "aiterlite/gemm_a8w8/sm90_args.h")
COLUMNS = (8, 16, 32, 64, 128)
CLUSTERS, SHARES = (1, 2, 4, 8), (1, 2, 4)
GROUP_ROWS, TILE_ROWS, MOST_ROWS, MAX_STAGES = 64, 16, 256, 48
# Registers of a multiplying thread where copying ones give some up, by warpgroups.
_MOVED_REGISTERS = {3: 160, 4: 112}
_BY_TOKENS_REGISTERS = 232
# Where tokens are rows: those that matrix instructions take in large pieces.
_TOKEN_ROWS = (16, 32, 48, 64, 80, 96, 128, 144, 192)
# On an H200 more under way was slower in every shape, and less than this too.
_MOST_RING, _SHORT_RING = 150 << 10, 112e3
_ARCH = hardware.ARCHITECTURES[TARGET]


@dataclass(frozen=True)
class Cut:
    """The defines of one variant: a cluster of `cluster` workgroups owns `rows` weight rows by `cols` token columns and
    splits K; each has `stages` steps of 128 k under way, and fetches the weights of `early` of them to the L2 before
    the kernels ahead have ended. `share` such clusters are one, and fetch a part of the tokens each for all.
    `by_tokens`: tokens are the rows of the matrix unit, 64 a warpgroup, and weights its columns (sm90_tokens.hip);
    otherwise it is the other way (sm90.hip)."""

    cols: int
    rows: int
    cluster: int
    stages: int
    early: int = 0
    share: int = 1
    by_tokens: bool = False

    @property
    def together(self) -> int:
        """Workgroups of a cluster."""
        return self.cluster * self.share

    @property
    def row_groups(self) -> int:
        return -(-self.rows // GROUP_ROWS)

    @property
    def turns(self) -> int:
        """Warpgroups that take steps in turn."""
        return 2 if self.row_groups == 1 and not self.by_tokens else 1

    @property
    def groups(self) -> int:
        return -(-self.cols // GROUP_ROWS) if self.by_tokens else self.row_groups * self.turns

    @property
    def parts(self) -> int:
        """Steps whose products a warpgroup holds at once."""
        return 2 if self.by_tokens and self.rows <= GROUP_ROWS else 1

    @property
    def moves(self) -> bool:
        """Whether copying threads, a warpgroup of them, give registers to multiplying ones."""
        if self.by_tokens:
            return self.groups > 1 and self.rows > 128
        return self.groups > 2 and self.cols > 32

    @property
    def threads(self) -> int:
        return 128 * self.groups + (128 if self.moves else 64)

    @property
    def fixed_bytes(self) -> int:
        """Shared memory beside the ring: sums that are received and handed over, and what products read beyond it."""
        if self.by_tokens:
            owned = -(-self.rows // TILE_ROWS // self.cluster)
            beyond = max(16, STEP_K * (GROUP_ROWS * self.groups - self.cols))
            return beyond + 16 * ((self.cluster - 1) * owned * 2 * 128 * self.groups + 1) + 64
        pairs = -(-self.cols // 2 // self.cluster)
        received = pairs * self.cluster * self.rows // 2 if self.cluster > 1 else 0
        handed = self.cols // 8 * 128 * self.row_groups if self.turns > 1 else 0
        beyond = max(16, 128 * (GROUP_ROWS * self.row_groups - self.rows - self.cols))
        return beyond + 16 * (received + handed + 2) + 64

    @property
    def stage_bytes(self) -> int:
        """Of a stage: both tiles, its scales and its barriers."""
        return STEP_K * (self.rows + self.cols) + 4 * (self.cols + 4) + 16

    @property
    def shared_bytes(self) -> int:
        return -(-(self.fixed_bytes + self.stages * self.stage_bytes) // 1024) * 1024


@dataclass(frozen=True)
class Plan:
    """One launch. `resident`: how many workgroups, of this launch and the next, a multiprocessor has room for."""

    cut: Cut
    grid: int
    block: int
    shared_bytes: int
    resident: int


@dataclass(frozen=True)
class Cost:
    """What an estimate weighs, fitted to 200 timings of 4 shapes on an H200 (docs/perf/gemm-a8w8.md).

    `memory`, and of a multiprocessor `intake` and `send`, in bytes a microsecond. In microseconds: `base`; each further
    `wave` of workgroups; each further workgroup of a multiprocessor beside others, a `crowd`; being `alone` there; each
    doubling of `sharing`; a `step` of a warpgroup, and each `product` of it for 8 columns; where tokens are rows, a
    `token_step`, and each `row_product` for 8 rows and 64 tokens; to `finish` 1,000 sums by 2 bytes. Without unit: what
    a step takes where `two` are held; the `power` that adds up memory and products, which hide each other in part; what
    a ring of no bytes takes longer, that is `short`.
    """

    memory: float = 4.529e6
    intake: float = 71e3
    base: float = 1.773
    send: float = 16.1e3
    wave: float = 2.191
    crowd: float = 0.637
    alone: float = 0.387
    sharing: float = 0.124
    step: float = 0.073
    product: float = 0.0323
    token_step: float = 0.0736
    row_product: float = 0.0136
    finish: float = 0.1771
    two: float = 0.79
    power: float = 1.75
    short: float = 0.2195


def plan(problem: A8w8Problem, persona: Persona) -> Plan:
    return plan_of(cut_for(problem, max(1, persona.cu_count)), problem)


def plan_of(cut: Cut, problem: A8w8Problem) -> Plan:
    tiles = -(-problem.m // (cut.rows * cut.share)) * -(-problem.n // cut.cols) * problem.batches
    return Plan(cut, tiles * cut.together, cut.threads, cut.shared_bytes, _resident(cut))


def cut_for(problem: A8w8Problem, compute_units: int) -> Cut:
    """The same for all tokens that need the same columns, so that a batch that grows and shrinks compiles five kernels
    at most; and for plain and shuffled weights, so that both give the same bits."""
    cols = next((c for c in COLUMNS if c >= problem.n), COLUMNS[-1])
    token_tiles = -(-problem.n // cols)
    return _best(cols, token_tiles, problem.m, problem.k, problem.batches, compute_units)


@functools.lru_cache(maxsize=4096)
def _best(cols: int, token_tiles: int, m: int, k: int, batch: int, compute_units: int) -> Cut:
    def score(cut: Cut) -> tuple[float, tuple[int, ...]]:
        # Of rings of which neither leaves room for the next launch, the longer one.
        return round(estimate(cut, token_tiles, m, k, batch, compute_units), 3), (-cut.stages, *astuple(cut))

    # With more tokens than a tile, whose products are the time, tokens as rows were not measured.
    formulations = (False, True) if token_tiles == 1 else (False,)
    return min(candidates(cols, m, k, formulations), key=score)


def candidates(cols: int, m: int, k: int, formulations: tuple[bool, ...] = (False, True)) -> Iterator[Cut]:
    """Cuts that leave each workgroup of a cluster a step of K, with as long a ring as leaves room for a workgroup of
    the next launch, and as keeps memory busy. `formulations`: those with weights as rows, or `by_tokens`."""
    steps = -(-k // STEP_K)
    most_rows = min(192 if cols == 128 else MOST_ROWS, -(-m // TILE_ROWS) * TILE_ROWS)
    every = itertools.product(range(TILE_ROWS, most_rows + 1, TILE_ROWS), CLUSTERS, SHARES, formulations)
    for rows, cluster, share, by_tokens in every:
        if by_tokens and (cols < 32 or rows not in _TOKEN_ROWS):
            continue
        if cluster > steps or (share > 1 and (cluster > 1 or cols < 32 or rows * share > m)):
            continue  # few tokens are not worth sharing, and workgroups that split K lose by it
        own, bare = -(-steps // cluster), Cut(cols, rows, cluster, 0, share=share, by_tokens=by_tokens)
        # A warpgroup waits for its next step before it says that it has read this one.
        each = bare.parts * bare.turns
        least = (3 if bare.parts == 2 else 2) * each
        seen: set[int] = set()
        for shared in (_ARCH.lds_unit_bytes // 2 - _ARCH.lds_overhead, _ARCH.lds_bytes):
            ring = min(_MOST_RING, shared - 1024 - bare.fixed_bytes)
            stages = min(MAX_STAGES, max(least, own + own % each), ring // bare.stage_bytes)
            stages -= stages % each
            if stages >= least and stages not in seen:
                seen.add(stages)
                yield Cut(cols, rows, cluster, stages, share=share, by_tokens=by_tokens)


def _resident(cut: Cut) -> int:
    """Workgroups that a multiprocessor has room for, one or two: by shared memory, and by the registers that ptxas
    needs for so many columns."""
    by_memory = _ARCH.lds_unit_bytes // (cut.shared_bytes + _ARCH.lds_overhead)
    if cut.by_tokens:
        needed = cut.rows * cut.parts // 2 + cut.rows // 2 + 32
    else:
        needed = {8: 48, 16: 56, 32: 96}.get(cut.cols, 256)
    return 2 if by_memory >= 2 and 2 * needed * cut.threads <= _ARCH.unit_registers else 1


def estimate(cut: Cut, token_tiles: int, m: int, k: int, batch: int, compute_units: int, cost: Cost = Cost()) -> float:
    """Microseconds: the weights' stream from memory and what warpgroups multiply, which hide each other in part; what
    starting, the exchange of sums and the end take."""
    steps = -(-k // STEP_K)
    own = -(-steps // cut.cluster)
    clusters = max(1, hardware.units_in_clusters(cut.together, compute_units) // cut.together)
    tiles = -(-m // (cut.rows * cut.share)) * token_tiles * batch
    # Clusters are packed on a part of the chip where multiprocessors have room for more than one workgroup.
    together = _resident(cut) if cut.together == 1 else 1
    # Workgroups that a multiprocessor has in all, and one after the other.
    load, waves = -(-tiles // clusters), -(-tiles // (clusters * together))
    if cut.by_tokens:
        step = cost.token_step + cost.row_product * cut.rows / 8 * cut.groups
        step *= cost.two if cut.parts == 2 else 1.0
    else:
        step = (cost.step + cost.product * cut.cols / 8) / cut.turns
    memory = max(m * k * batch / cost.memory, load * own * STEP_K * cut.rows / cost.intake)
    products = (waves + load) / 2 * own * step
    stream = float((memory**cost.power + products**cost.power) ** (1 / cost.power))
    # Too few bytes on their way leave memory idle; a part that is held is a stage that is not.
    under_way = (cut.stages - cut.parts + 1) * STEP_K * (cut.rows + cut.cols) * min(load, together)
    stream *= 1 + cost.short * max(0.0, 1 - under_way / _SHORT_RING)
    sums = cut.rows * cut.cols / cut.cluster
    end = 4 * sums * (cut.cluster - 1) / cost.send + cost.sharing * (cut.share.bit_length() - 1)
    if not (cut.by_tokens or (cut.cluster == 1 and cut.cols >= 32)):
        end += cost.finish * sums / 1000
    start = cost.base + cost.wave * (waves - 1) + cost.crowd * (load - waves) + cost.alone * (_resident(cut) == 1)
    return start + stream + end


# Kernels --------------------------------------------------------------------------------------------------------------


def _unit(problem: A8w8Problem, plan: Plan) -> Unit:
    cut = plan.cut
    values: dict[str, int | str] = {
        "CLUSTER": cut.cluster,
        "CLUSTER_SIZE": cut.together,
        "COLS": cut.cols,
        "EARLY": cut.early,
        "K_GROUPS": cut.turns,
        "REGISTERS": _BY_TOKENS_REGISTERS if cut.by_tokens else _MOVED_REGISTERS.get(cut.groups, 0),
        "RESIDENT": plan.resident,
        "RESULT": problem.dtype,
        "ROWS": cut.rows,
        "SHARE": cut.share,
        "SHARED_BYTES": plan.shared_bytes,
        "SHUFFLED": int(problem.is_shuffled),
        "STAGES": cut.stages,
        "W_BLOCKS": int(problem.W_BLOCKS),
        "X_GROUPS": int(problem.X_GROUPS),
    }
    defines = {f"AITERLITE_{name}": str(value) for name, value in values.items()} | overlap_defines(TARGET)
    name = "sm90_tokens" if cut.by_tokens else "sm90"
    return Unit(f"gemm_a8w8/{name}", (f"csrc/gemm_a8w8/{name}.hip",), TARGET, tuple(defines.items()), symbols=(KERNEL,))


def kernels(problem: A8w8Problem, persona: Persona, plan: Plan) -> tuple[Kernel, ...]:
    cut, code = plan.cut, flavour(problem, persona)
    args, before = quantised(problem, persona)
    if problem.is_shuffled:
        piece, panels = TILE_ROWS * VECTOR, problem.batches * problem.m // TILE_ROWS
        w_sizes: tuple[int | str, ...] = (piece, panels, problem.k // VECTOR)
        w_strides: tuple[int | str, ...] = (TILE_ROWS * problem.k, piece)
        w_box, swizzle = (piece, cut.rows // TILE_ROWS, STEP_K // VECTOR), 0
    else:
        w_sizes, w_strides = (problem.k, problem.m, problem.batches), ("stride_w", "stride_w_batch")
        w_box, swizzle = (STEP_K, cut.rows, 1), 128
    maps = (
        TensorMap("w_map", "w", code, w_sizes, w_strides, w_box, swizzle),
        TensorMap(
            "x_map",
            "x",
            code,
            (problem.k, problem.n, problem.batches),
            ("stride_x", "stride_x_batch"),
            (STEP_K, cut.cols // cut.share, 1),
        ),
    )
    unit, grid, block = _unit(problem, plan), along_x(plan.grid), along_x(plan.block)
    given = {**sizes(problem), **args}
    return (
        *before,
        Kernel(unit, KERNEL, ARGS, grid, block, lds=plan.shared_bytes, cluster=cut.together, args=given, maps=maps),
    )


def workspace(problem: A8w8Problem, persona: Persona, plan: Plan) -> Workspace | None:
    total = quantised_bytes(problem)
    return Workspace("gemm_a8w8", 0, total) if total else None


@dataclass(frozen=True)
class GridFits:
    """Workgroups number in 31 bits, and so do rows of all batches."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        tiles = -(-problem.n // COLUMNS[-1]) * -(-problem.m // TILE_ROWS) * problem.batches * CLUSTERS[-1]
        if tiles < 2**31 and problem.m * problem.batches < 2**31 and problem.n * problem.batches < 2**31:
            return None
        return Refusal("its tiles number 2^31 or more", "split the tokens")

    def __str__(self) -> str:
        return "tiles that number in 31 bits"


_REQUIRES = (
    Targets((TARGET,)),
    NativeFloats(),
    *SIZES,
    Holds("aligned", True, "x, w or their rows do not begin at multiples of 16 bytes", "copy them"),
    WholeGroups(VECTOR),
    GridFits(),
)
ROW = Row("wgmma", "cuda", _REQUIRES, 0, plan, kernels, workspace)
BATCHED_ROW = Row(
    "wgmma", "cuda", (*_REQUIRES, WholeGroups(STEP_K), Between("batch", 1, 1 << 20)), 0, plan, kernels, workspace
)
