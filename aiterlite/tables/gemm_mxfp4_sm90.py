"""GEMM of MXFP4 weights on sm_90a: the kernel that decodes codes to operands of warpgroups, and how problems are cut.

Every cut that fits is given an estimated time, and the best is taken: by the bytes that memory and a multiprocessor
take in, by what decoding and products take, and by the steps that a warpgroup does one after the other.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import astuple, dataclass, replace
from typing import Any

from aiterlite import hardware
from aiterlite.dispatch import Between, Holds, Refusal, Row, Targets, Wishes
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, TensorMap, along_x, overlap_defines
from aiterlite.tables.gemm_mxfp4_problem import LAYS, REQUIRES, SHUFFLED_ROWS, MxGemmProblem, sizes
from aiterlite.target import Persona

TARGET = "sm_90a"
KERNEL = "aiterlite_sm90_gemm_mxfp4"
ARGS = ArgumentStruct("aiterlite_sm90_gemm_mxfp4_args", "aiterlite/gemm_mxfp4/sm90_args.h")
STEP_K, TILE_ROWS, GROUP_TILES, MOST_ROWS = 256, 16, 4, 256
ROW_BYTES = STEP_K // 2
COLUMNS, CLUSTERS, TURNS, FOLDS = (8, 16, 32, 64, 128), (1, 2, 4, 8), (1, 2, 4), (1, 2)
MOST_GROUPS, MOST_PRODUCT_COLUMNS = 4, 128
# Warps that bring tokens, by columns: many sums leave registers for fewer.
LOADERS = {8: 4, 16: 6, 32: 6, 64: 2, 128: 2}
MOST_TOKENS = 256
_UNIT_BYTES, _MOST_RECEIVED = 512, 16 << 10
_ARCH = hardware.ARCHITECTURES[TARGET]


@dataclass(frozen=True)
class Cut:
    """The defines of one variant: a cluster of `cluster` workgroups owns `rows` weight rows by `cols` tokens and splits
    K. Warpgroups have 64 / `fold` rows and `fold` parts of a step; `turns` of them take steps in turn. `stages` steps
    are under way. Codes are decoded by `words` words of a block at once; a token is `parts` columns."""

    cols: int
    rows: int
    cluster: int = 1
    turns: int = 1
    fold: int = 1
    stages: int = 4
    words: int = 2
    parts: int = 1
    loaders: int = 6
    early: int = 0

    @property
    def groups(self) -> int:
        return -(-self.rows * self.fold // (TILE_ROWS * GROUP_TILES)) * self.turns

    @property
    def threads(self) -> int:
        return 128 * self.groups + 32 * (2 + self.loaders)

    @property
    def registers(self) -> int:
        """Of a multiplying thread: sums, two sets of operands, and the rest, as ptxas has them."""
        sums = self.cols * self.parts * self.fold // 2
        return sums + 16 * self.words + (40 if sums >= 32 else 36)

    @property
    def stage_bytes(self) -> int:
        tokens = 2 * (self.cols * self.parts // 8) * (4 * (2 * 256 + 16))
        return self.rows * ROW_BYTES + tokens + (self.rows // 32 + 1) * 256

    @property
    def units(self) -> int:
        """Groups of sums that warps hand over: 16 rows by 8 tokens."""
        return self.rows // TILE_ROWS * self.cols // 8

    @property
    def received_bytes(self) -> int:
        """Of sums that the others of a cluster send. Many lie where the ring was."""
        return -(-self.units // self.cluster) * self.cluster * _UNIT_BYTES if self.cluster > 1 else 0

    @property
    def shared_bytes(self) -> int:
        handed = (self.turns * self.fold - 1) * self.units * _UNIT_BYTES
        received = self.received_bytes if self.received_bytes <= _MOST_RECEIVED else 0
        own = self.stages * (self.stage_bytes + 16) + handed + received + 64
        return -(-own // 1024) * 1024 + 1024

    @property
    def fits_sums(self) -> bool:
        """Whether sums that reuse the ring fit it."""
        ring = self.stages * (self.stage_bytes - (self.rows // 32 + 1) * 256)
        return self.received_bytes <= max(_MOST_RECEIVED, ring)

    @property
    def resident(self) -> int:
        """Workgroups that a multiprocessor has room for, one or two."""
        by_memory = _ARCH.lds_unit_bytes // (self.shared_bytes + _ARCH.lds_overhead)
        return 2 if by_memory >= 2 and self.registers <= self.room_for_registers(2) else 1

    def room_for_registers(self, workgroups: int) -> int:
        """What a thread may have: a quarter of the multiprocessor holds every fourth warp."""
        warps = -(-workgroups * self.threads // 32 // _ARCH.simds)
        return _ARCH.unit_registers // _ARCH.simds // warps // 32 // 8 * 8


@dataclass(frozen=True)
class Plan:
    """One launch."""

    cut: Cut
    grid: int
    block: int
    shared_bytes: int


@dataclass(frozen=True)
class Cost:
    """What an estimate weighs. In bytes a microsecond: `memory`, and `intake` of a multiprocessor. In a microsecond:
    cycles (`clock`). In cycles: what a chunk of 64 rows takes a multiprocessor to decode (`decode`), and a warpgroup
    alone (`latency`); a product of few columns (`product`); what a `step` takes beside that. In microseconds: `base`;
    an `exchange` in a cluster and each `doubling` of it; each further `wave` of workgroups; being `alone` on a
    multiprocessor."""

    memory: float = 4.4e6
    intake: float = 42e3
    clock: float = 1750.0
    decode: float = 230.0
    latency: float = 320.0
    product: float = 13.0
    step: float = 150.0
    base: float = 1.7
    exchange: float = 0.4
    doubling: float = 0.05
    wave: float = 1.0
    alone: float = 0.35


def plan(problem: MxGemmProblem, persona: Persona) -> Plan:
    return plan_of(cut_for(problem, max(1, persona.cu_count)), problem)


def plan_of(cut: Cut, problem: MxGemmProblem) -> Plan:
    tiles = -(-problem.m // cut.rows) * -(-problem.n // cut.cols) * problem.batch
    return Plan(cut, tiles * cut.cluster, cut.threads, cut.shared_bytes)


def parts_of(problem: MxGemmProblem) -> int:
    """bf16 has all tokens but those of fp16, which are two columns each."""
    return 2 if problem.x == "fp16" else 1


def cut_for(problem: MxGemmProblem, compute_units: int) -> Cut:
    """The same for all tokens that need the same columns, and for all layouts, so that these have the same bits."""
    parts = parts_of(problem)
    columns = [c for c in COLUMNS if c * parts <= MOST_PRODUCT_COLUMNS]
    cols = next((c for c in columns if c >= problem.n), columns[-1])
    return _best(cols, parts, -(-problem.n // cols), problem.m, problem.k, problem.batch, compute_units)


@functools.lru_cache(maxsize=4096)
def _best(cols: int, parts: int, token_tiles: int, m: int, k: int, batch: int, compute_units: int) -> Cut:
    def score(cut: Cut) -> tuple[float, tuple[int, ...]]:
        return round(estimate(cut, token_tiles, m, k, batch, compute_units), 3), astuple(cut)

    return min(candidates(cols, m, k, parts), key=score)


def candidates(cols: int, m: int, k: int, parts: int = 1) -> Iterator[Cut]:
    """Cuts whose warpgroups each have a step, with as many stages as they have use of and as leave room for the next
    launch, and as one workgroup alone has room for."""
    steps = -(-k // STEP_K)
    most = min(MOST_ROWS, -(-m // TILE_ROWS) * TILE_ROWS)
    for rows, cluster, turns, fold in itertools.product(range(TILE_ROWS, most + 1, TILE_ROWS), CLUSTERS, TURNS, FOLDS):
        own = -(-steps // cluster)
        if cluster > steps or turns > own or (fold == 2 and rows % 32):
            continue
        bare = Cut(cols, rows, cluster, turns, fold, 2 * turns, parts=parts, loaders=LOADERS[cols])
        if bare.groups > MOST_GROUPS or cols * parts * fold > MOST_PRODUCT_COLUMNS:
            continue
        # The matrix unit multiplies 64 rows, whether they are there or not.
        if rows < 32 * fold and rows < m and fold == 1 and cols > 8:
            continue
        if bare.registers > min(bare.room_for_registers(1), 248):
            continue
        seen: set[int] = set()
        for room in (_ARCH.lds_unit_bytes // 2 - _ARCH.lds_overhead, _ARCH.lds_bytes):
            made = _filled(bare, own, room)
            if made is not None and made.stages not in seen:
                seen.add(made.stages)
                yield made


def _filled(bare: Cut, own: int, room: int) -> Cut | None:
    """With as many stages as are left room for, and as there are steps."""
    most = max(2 * bare.turns, -(-own // bare.turns) * bare.turns)
    for stages in range(min(most, 16), 2 * bare.turns - 1, -1):
        made = replace(bare, stages=stages)
        if stages % bare.turns == 0 and made.shared_bytes <= room and made.fits_sums:
            return made
    return None


def estimate(cut: Cut, token_tiles: int, m: int, k: int, batch: int, compute_units: int, cost: Cost = Cost()) -> float:
    """Microseconds: the weights' stream, or what the busiest multiprocessor takes in, decodes, multiplies or does in
    one warpgroup, whichever is longest; what starting and the exchange of sums take."""
    steps = -(-k // STEP_K)
    own = -(-steps // cut.cluster)
    usable = max(1, hardware.units_in_clusters(cut.cluster, compute_units))
    grid = -(-m // cut.rows) * token_tiles * batch * cut.cluster
    busiest = -(-grid // usable)
    together = min(busiest, cut.resident)
    rounds = -(-busiest // together)
    weights = 17 / 32 * STEP_K * cut.rows * own
    tokens = 2 * STEP_K * own * (cut.cols / 2 if cut.cols == COLUMNS[0] else cut.cols)
    memory = m * k * batch * 17 / 32 / cost.memory
    intake = busiest * (weights + tokens) / cost.intake
    # A part of the multiprocessor decodes the tiles of every fourth warp.
    tiles = cut.rows // TILE_ROWS
    busy = (
        -(-tiles // GROUP_TILES) if cut.turns * cut.fold == 1 else max(1.0, tiles * cut.turns / GROUP_TILES) / cut.turns
    )
    decoding = busiest * own * 2 * busy * cost.decode
    products = busiest * own * 2 * cut.groups / cut.turns / cut.fold * 8
    products *= max(cost.product, cut.cols * cut.parts * cut.fold / 2)
    of_unit = max(cost.latency, 8 * max(cost.product, cut.cols * cut.parts * cut.fold / 2))
    one = rounds * -(-own // cut.turns) * (2 / cut.fold * of_unit + cost.step)
    exchange = 0.1 * (cut.turns * cut.fold > 1)
    if cut.cluster > 1:
        sent = 4 * cut.rows * cut.cols * (cut.cluster - 1) / cut.cluster
        exchange += cost.exchange + cost.doubling * cut.cluster.bit_length() + sent / 34e3
    # Too few bytes on their way leave memory idle.
    held = together * min(cut.stages, own) * cut.rows * STEP_K * 17 / 32
    under_way = min(1.0, held * min(grid / together, usable) / usable / 40e3)
    start = cost.base + cost.wave * (rounds - 1) + cost.alone * (cut.resident == 1)
    cycles = max(decoding, products, one) / cost.clock
    return start + max(memory / max(under_way, 0.05), intake, cycles) + exchange


# Kernels --------------------------------------------------------------------------------------------------------------


def _unit(problem: MxGemmProblem, made: Plan) -> Unit:
    cut = made.cut
    values: dict[str, int | str] = {
        "CLUSTER": cut.cluster,
        "COLS": cut.cols,
        "EARLY": cut.early,
        "FOLD": cut.fold,
        "LOADERS": cut.loaders,
        "NUMBER": "fp16" if problem.x == "fp16" else "bf16",
        "PACKED": int(problem.is_packed),
        "RESIDENT": cut.resident,
        "RESULT": "float" if problem.dtype == "fp32" else problem.dtype,
        "ROWS": cut.rows,
        "SHARED_BYTES": made.shared_bytes,
        "SHUFFLED": int(problem.shuffled),
        "STAGES": cut.stages,
        "TURNS": cut.turns,
        "WORDS": cut.words,
        "W_SCALES": LAYS.index(problem.w_scale),
        "X_SCALE_SHUFFLED": int(problem.x_scale_shuffled),
    }
    defines = {f"AITERLITE_{name}": str(value) for name, value in values.items()} | overlap_defines(TARGET)
    return Unit("gemm_mxfp4/sm90", ("csrc/gemm_mxfp4/sm90.hip",), TARGET, tuple(defines.items()), symbols=(KERNEL,))


def kernels(problem: MxGemmProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    grid, block = along_x(made.grid), along_x(made.block)
    unit, cut = _unit(problem, made), made.cut
    if problem.shuffled:
        # Lines of 8 rows of a block; 16 rows are a panel.
        line, lines = 8 * 16, problem.k // 16
        w_sizes: tuple[int | str, ...] = (line, lines, problem.m // SHUFFLED_ROWS)
        w_strides: tuple[int | str, ...] = (line, line * lines)
        w_box = (line, STEP_K // 16, cut.rows // TILE_ROWS)
    else:
        w_sizes, w_strides = (problem.k // 2, problem.m, problem.batch), ("stride_w", "stride_w_batch")
        w_box = (ROW_BYTES, cut.rows, 1)
    maps = (TensorMap("w_map", "w", "uint8", w_sizes, w_strides, w_box),)
    given = dict(sizes(problem))
    return (Kernel(unit, KERNEL, ARGS, grid, block, lds=made.shared_bytes, cluster=cut.cluster, args=given, maps=maps),)


@dataclass(frozen=True)
class GridFits:
    """Workgroups number in 31 bits."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        tiles = -(-problem.n // COLUMNS[-1]) * -(-problem.m // TILE_ROWS) * problem.batch * CLUSTERS[-1]
        if tiles < 2**31:
            return None
        return Refusal("its tiles number 2^31 or more", "split the tokens")

    def __str__(self) -> str:
        return "tiles that number in 31 bits"


_REQUIRES = (
    Targets((TARGET,)),
    *REQUIRES,
    Holds("aligned", True, "x, w or their rows do not begin at multiples of 16 bytes", "copy them"),
    Between("n", 1, MOST_TOKENS, "dequantised by torch, which is faster"),
    Between("k", 1, 2**24),
    GridFits(),
)
ROW = Row("wgmma", "cuda", _REQUIRES, 0, plan, kernels)
# Weights dequantised by torch, and its product: of more tokens than that, decoding for each tile takes longer, by the
# kernel's times and the bytes that dequantising moves; and of rows that the kernel does not read. No speed is claimed.
DENSE_ROW = Row("dequantised", "torch", (Targets((TARGET,)), *REQUIRES), -1)
