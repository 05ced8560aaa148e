"""RMSNorm: which kernels serve a call, and how they are cut.

One kernel in every case. A row is held in registers, by a team of a wave or by a workgroup; only rows that 1,024 lanes
do not hold are read again. What a row's team is follows from its width alone. Where rows are many, and results of
8 bits, workgroups of Hopper take several each, and the copy engine brings the next ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Holds, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.hardware import ARCHITECTURES
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables.family import Family
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_norm_args", "aiterlite/norm/args.h")
DTYPES = ("bf16", "fp16")
CODES = ("e4m3fn", "e4m3fnuz", "int8")
GROUPS = (32, 64, 128)
PLAIN, WITH_ADD = "rmsnorm2d_fwd", "rmsnorm2d_fwd_with_add"
DYNAMIC, ADD_DYNAMIC = "rmsnorm2d_fwd_with_dynamicquant", "rmsnorm2d_fwd_with_add_dynamicquant"
_INT32_MAX = 2**31 - 1

# Elements of a lane's piece of a row (quant/strip.h); lanes that hold a group of 128, so the fewest of a team; those of
# the largest workgroup.
_PIECE, _LEAST_LANES, _MOST_LANES = 16, 16, 1024
_TEAM_THREADS = 128
# Threads of a multiprocessor, beyond which rows wait for others.
_CROWDED = 2048
# Registers that so many rows a lane need on Hopper. Two whose groups have scales of their own would need 80, and leave
# room for fewer rows than one has.
_NEEDED = {1: 40, 2: 72}
# norm/sm90_rows.hip: rows a multiprocessor from which it is faster; its registers a lane; the rows of its ring, where
# three take 1 % longer and eight 20 %; and the bytes beside it, sums of two rows' waves.
_STREAMED, _STREAM_REGISTERS, _STAGES, _STREAM_SUMS = 3, 64, 2, 2 * 2 * 32 * 4


@dataclass(frozen=True)
class NormProblem:
    """RMSNorm of `row_count` rows of `row_width` elements of `dtype`.

    `gemma`: weights are one more than given. `model_sensitive`: the result is rounded before it is multiplied by them,
    too. `aligned`: every row that is read or written starts at a multiple of 16 bytes, and is one of 16 bytes.
    """

    row_count: int
    row_width: int
    dtype: str = "bf16"
    gemma: bool = False
    model_sensitive: bool = False
    aligned: bool = True


@dataclass(frozen=True)
class QuantNormProblem(NormProblem):
    """The same as `out_dtype`, with a float32 scale for each `group_size` elements of a row; `transposed`: scales lie
    as [groups of a row, rows]."""

    group_size: int = 128
    out_dtype: str = "e4m3fn"
    transposed: bool = False


@dataclass(frozen=True)
class NormPlan:
    """One launch of norm/rows.hip: `lanes` share a row, and have `batch` rows at once; `passes` is 2 where they do not
    hold a whole row. `early`: the whole grid is on the chip at once. `resident`: workgroups that a multiprocessor's
    registers must have room for."""

    threads: int
    lanes: int
    batch: int
    passes: int
    early: bool
    resident: int
    grid: int


@dataclass(frozen=True)
class GroupsFit:
    """A scale is for a row, or for a group that kernels are made for."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        size, width = problem.group_size, problem.row_width
        if size == width:
            return None
        if size not in GROUPS:
            sizes = ", ".join(map(str, GROUPS))
            return Refusal(f"group_size is {size}; there are {sizes}, and the width of a row")
        if width % size:
            return Refusal(f"row_width, {width}, is no multiple of the group, {size}", "pad the rows")
        return None

    def __str__(self) -> str:
        return f"a scale a row, or for groups of {', '.join(map(str, GROUPS))}"


@dataclass(frozen=True)
class StreamPlan:
    """One launch of norm/sm90_rows.hip: `grid` workgroups of `threads`, `resident` on a multiprocessor, each with
    `stages` rows on their way in `lds` bytes of shared memory."""

    threads: int
    stages: int
    resident: int
    lds: int
    grid: int


@dataclass(frozen=True)
class Streams:
    """Rows of a workgroup each, of 16-byte pieces, and enough of them."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        pieces = _pieces(problem)
        if not problem.aligned or not persona.wave_size < pieces <= _MOST_LANES:
            return Refusal(f"rows of {problem.row_width} elements are no whole workgroup's, in pieces of 16 bytes")
        least = _STREAMED * max(1, persona.cu_count)
        if problem.row_count < least:
            return Refusal(f"row_count is {problem.row_count}; from {least} on, workgroups have several rows each")
        return None

    def __str__(self) -> str:
        return f"at least {_STREAMED} rows a compute unit, each of a workgroup"


def _pieces(problem: NormProblem) -> int:
    """The lanes that hold a row."""
    return -(-problem.row_width // _PIECE)


def _workgroup_lanes(pieces: int, persona: Persona) -> int:
    """Those of a row that a workgroup has, for whichever kernel: a row's bits follow from them."""
    return min(_MOST_LANES, -(-pieces // persona.wave_size) * persona.wave_size)


def plan_rows(problem: NormProblem, persona: Persona) -> NormPlan:
    """A row of at most a wave's pieces has a team of a wave, several in a workgroup; a longer one a workgroup. Where
    rows are more than the chip holds at once, a team has two, for which it reads weights and meets once, unless their
    groups have scales."""
    wave, pieces = persona.wave_size, _pieces(problem)
    compute_units = max(1, persona.cu_count)
    if pieces <= wave:
        lanes, threads = min(wave, max(_LEAST_LANES, 1 << (pieces - 1).bit_length())), _TEAM_THREADS
    else:
        lanes = threads = _workgroup_lanes(pieces, persona)
    passes = 1 if pieces <= _MOST_LANES else 2
    crowded = passes == 1 and problem.row_count * lanes > _CROWDED * compute_units
    in_groups = 0 < getattr(problem, "group_size", 0) < problem.row_width
    batch = 2 if crowded and lanes <= _MOST_LANES // 2 and not in_groups else 1
    grid = -(-problem.row_count // (threads // lanes * batch))
    early = grid * threads <= 1024 * compute_units
    resident = _resident(problem, persona, threads, batch) if crowded else 1
    return NormPlan(threads, lanes, batch, passes, early, resident, grid)


def _resident(problem: NormProblem, persona: Persona, threads: int, batch: int) -> int:
    """How many workgroups of a Hopper multiprocessor hide each other's latency. What loads element by element does not
    hide it anyway."""
    arch = ARCHITECTURES[persona.target]
    if arch.family != "cuda" or not problem.aligned:
        return 1
    most = arch.simds * arch.waves_per_simd * arch.wave_size
    return max(1, min(most // threads, arch.unit_registers // (_NEEDED[batch] * threads)))


def plan_stream(problem: NormProblem, persona: Persona) -> StreamPlan:
    """As many workgroups as registers hold, at most four."""
    arch = ARCHITECTURES[persona.target]
    threads = _workgroup_lanes(_pieces(problem), persona)
    resident = max(1, min(4, arch.unit_registers // (_STREAM_REGISTERS * threads)))
    lds = _STAGES * (2 * _PIECE * threads + 8) + _STREAM_SUMS
    return StreamPlan(threads, _STAGES, resident, lds, resident * max(1, persona.cu_count))


# Kernels --------------------------------------------------------------------------------------------------------------

KERNEL, STREAM = "aiterlite_norm_rows", "aiterlite_norm_sm90_rows"
_CPU = "aiterlite_norm_cpu_{}"


def _args(problem: NormProblem) -> dict[str, Value]:
    return {
        "rows": problem.row_count,
        "width": problem.row_width,
        "group": getattr(problem, "group_size", 0),
        "transposed": int(getattr(problem, "transposed", False)),
        "gemma": int(problem.gemma),
        "model_sensitive": int(problem.model_sensitive),
        "inverse_width": 1.0 / problem.row_width,
        "workgroups": 0,
    }


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each pair of types."""
    symbols = [_CPU.format("_".join(filter(None, (d, c)))) for d in DTYPES for c in ("", *CODES)]
    return Unit("norm", ("csrc/norm/norm.cpp",), target, symbols=tuple(symbols))


def _cpu(problem: NormProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    symbol = _CPU.format("_".join(filter(None, (problem.dtype, getattr(problem, "out_dtype", "")))))
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_args(problem)),)


def _variant(problem: NormProblem, with_add: bool) -> dict[str, object]:
    """The defines that say what is computed."""
    size = getattr(problem, "group_size", 0)
    return {
        "add": int(with_add),
        "code": getattr(problem, "out_dtype", CODES[0]),
        "element": problem.dtype,
        "gemma": int(problem.gemma),
        # A row that is one group is that of its team.
        "group": size if size < problem.row_width else 1,
        "model_sensitive": int(problem.model_sensitive),
        "transposed": int(getattr(problem, "transposed", False) and size < problem.row_width),
    }


def _unit(name: str, target: str, values: Mapping[str, object], symbol: str) -> Unit:
    defines = {f"AITERLITE_{key.upper()}": str(values[key]) for key in sorted(values)} | overlap_defines(target)
    return Unit(f"norm/{name}", (f"csrc/norm/{name}.hip",), target, tuple(defines.items()), symbols=(symbol,))


def _gpu(with_add: bool) -> Callable[[NormProblem, Persona, NormPlan], tuple[Kernel, ...]]:
    def kernels(problem: NormProblem, persona: Persona, plan: NormPlan) -> tuple[Kernel, ...]:
        values = _variant(problem, with_add) | {
            "aligned": int(problem.aligned),
            "batch": plan.batch,
            # Elsewhere nothing overlaps, and one kernel serves both.
            "early": int(plan.early and bool(overlap_defines(persona.target))),
            "lanes": plan.lanes,
            "passes": plan.passes,
            "resident": plan.resident,
            "threads": plan.threads,
        }
        unit = _unit("rows", persona.target, values, KERNEL)
        return (Kernel(unit, KERNEL, ARGS, along_x(plan.grid), along_x(plan.threads), args=_args(problem)),)

    return kernels


def _stream(problem: NormProblem, persona: Persona, plan: StreamPlan) -> tuple[Kernel, ...]:
    ring = {"resident": plan.resident, "shared_bytes": plan.lds, "stages": plan.stages, "threads": plan.threads}
    unit = _unit("sm90_rows", persona.target, _variant(problem, False) | ring, STREAM)
    args = {**_args(problem), "workgroups": plan.grid}
    return (Kernel(unit, STREAM, ARGS, along_x(plan.grid), along_x(plan.threads), lds=plan.lds, args=args),)


# The tables -----------------------------------------------------------------------------------------------------------

_ROWS = (OneOf("dtype", DTYPES), Between("row_count", 1, _INT32_MAX), Between("row_width", 1, _INT32_MAX))
_NO_GEMMA = Holds("gemma", False, "only rmsnorm2d_fwd_with_add has weights that count from one", "add 1 to the weights")
_CODED = (OneOf("out_dtype", CODES, "quantise to an e4m3 type or int8"), GroupsFit())


def _table(op: str, problem: type, with_add: bool, *extra: Any) -> Table:
    requires, coded = (*_ROWS, *extra), problem is QuantNormProblem
    streamed = (Targets(("sm_90a",)), *requires, Streams())
    streams = (Row("stream", "cuda", streamed, 1, plan_stream, _stream),) if coded and not with_add else ()

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"aligned": values.get("row_width", 0) % (16 if coded else 8) == 0, **values}

    return Table(
        op,
        problem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=_cpu),
            Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *requires), 0, plan_rows, _gpu(with_add)),
            *streams,
            Row("warps", "cuda", (Targets(("sm_90a",)), *requires), 0, plan_rows, _gpu(with_add)),
        ),
        # DeepSeek-R1's hidden size, for decode, a batch of it, and prefill.
        (one_axis("row_count", 1, 16, 256, 4096), one_axis("row_width", 7168)),
        derive,
    )


PLAIN_TABLE = _table(PLAIN, NormProblem, False, _NO_GEMMA)
ADD_TABLE = _table(WITH_ADD, NormProblem, True)
DYNAMIC_TABLE = _table(DYNAMIC, QuantNormProblem, False, _NO_GEMMA, *_CODED)
ADD_DYNAMIC_TABLE = _table(ADD_DYNAMIC, QuantNormProblem, True, _NO_GEMMA, *_CODED)

FAMILY = Family(
    name="norm",
    tables=(PLAIN_TABLE, ADD_TABLE, DYNAMIC_TABLE, ADD_DYNAMIC_TABLE),
    ops=("aiterlite.ops.norm",),
    samples="aiterlite.ops.samples.norm",
)
