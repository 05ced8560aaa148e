"""Gated activations, act(gate) * up: which kernels serve a call, and how they are cut.

One kernel in every case. A team of lanes holds a tile of a row in registers: a part of it, in which groups that share a
scale lie whole, or, with a scale a row, the row; only rows that 1,024 lanes do not hold are read again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Holds, OneOf, Refusal, Row, Table, Targets, Wishes, one_axis
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, along_x, overlap_defines
from aiterlite.tables.family import Family
from aiterlite.tables.norm import CODES, DTYPES, GroupsFit
from aiterlite.tables.quant_plan import division
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_activation_args", "aiterlite/activation/args.h")
# As kernels number them.
ACTIVATIONS = ("silu", "gelu", "gelu_tanh")
SILU, GELU, GELU_TANH = (f"{name}_and_mul" for name in ACTIVATIONS)
SILU_QUANT, ANY_QUANT = "silu_and_mul_quant", "act_mul_and_fp8_group_quant"
_INT32_MAX = 2**31 - 1
# Kernels divide numbers of tiles below 2^31; half of that leaves room for workgroups that are not full.
_MOST_TILES = 2**30

# Elements of a lane's piece of a row (quant/strip.h); lanes that hold a group of 128, so the fewest of a team; those of
# the largest workgroup.
_PIECE, _LEAST_LANES, _MOST_LANES = 16, 16, 1024
# On an H200 the largest are the fastest where no codes are made, and slower where they are.
_TEAM_THREADS, _CROWDED_THREADS, _PLAIN_SM90_THREADS = 128, 256, 512
# Threads of a multiprocessor, beyond which rows wait for others.
_CROWDED = 2048


@dataclass(frozen=True)
class ActProblem:
    """act(gate) * up of `row_count` rows, whose results are `row_width` elements of `dtype`.

    `limited`: a gate counts as at most a limit, an up as within it. `aligned`: the gates and the ups of every row, and
    its results, start at multiples of 16 bytes, and results are whole 16 bytes.
    """

    row_count: int
    row_width: int
    dtype: str = "bf16"
    activation: str = "silu"
    limited: bool = False
    aligned: bool = True


@dataclass(frozen=True)
class QuantActProblem(ActProblem):
    """The same as `out_dtype`, with a float32 scale for each `group_size` elements of a row; `transposed`: scales lie
    as [groups of a row, rows]."""

    group_size: int = 128
    out_dtype: str = "e4m3fn"
    transposed: bool = False


@dataclass(frozen=True)
class ActPlan:
    """One launch of activation/rows.hip: `lanes` share a tile, of which a row has `tiles`; `passes` is 2 where they do
    not hold a row that has one scale. `early`: the whole grid is on the chip at once."""

    threads: int
    lanes: int
    tiles: int
    passes: int
    early: bool
    grid: int


@dataclass(frozen=True)
class TilesFit:
    """Tiles are as many as kernels can count."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        if problem.row_count * -(-problem.row_width // (_PIECE * _LEAST_LANES)) <= _MOST_TILES:
            return None
        given = f"{problem.row_count} rows of {problem.row_width} are more than 2^30 tiles of 256 elements"
        return Refusal(given, "split the rows")

    def __str__(self) -> str:
        return "at most 2^30 tiles of 256 elements"


def plan_rows(problem: ActProblem, persona: Persona) -> ActPlan:
    """Tiles leave as few lanes of their teams idle as they can; of equals the largest, whose accesses are longest. A
    row with one scale has a team of a wave, or a workgroup. Where there is more than the chip holds at once, workgroups
    are larger, so that fewer of them are started."""
    wave, pieces = persona.wave_size, -(-problem.row_width // _PIECE)
    compute_units = max(1, persona.cu_count)
    tiles = passes = 1
    if getattr(problem, "group_size", 0) == problem.row_width:
        if pieces <= wave:
            lanes = min(wave, max(_LEAST_LANES, 1 << (pieces - 1).bit_length()))
        else:
            lanes = min(_MOST_LANES, -(-pieces // wave) * wave)
            passes = 1 if pieces <= _MOST_LANES else 2
    else:
        choices = [_LEAST_LANES << i for i in range(3) if _LEAST_LANES << i <= wave]
        lanes = min(choices, key=lambda lanes: (-(-pieces // lanes) * lanes, -lanes))
        tiles = -(-pieces // lanes)
    teams = problem.row_count * tiles
    plain = persona.target.startswith("sm_") and not isinstance(problem, QuantActProblem)
    crowded = _PLAIN_SM90_THREADS if plain else _CROWDED_THREADS
    threads = crowded if teams * lanes > _CROWDED * compute_units else _TEAM_THREADS
    threads = lanes if lanes > wave else threads
    grid = -(-teams // (threads // lanes))
    return ActPlan(threads, lanes, tiles, passes, grid * threads <= 1024 * compute_units, grid)


# Kernels --------------------------------------------------------------------------------------------------------------

KERNEL = "aiterlite_activation_rows"
_CPU = "aiterlite_activation_cpu_{}"


def _args(problem: ActProblem, tiles: int = 1) -> dict[str, Value]:
    return {
        "rows": problem.row_count,
        "width": problem.row_width,
        "group": getattr(problem, "group_size", 0),
        "transposed": int(getattr(problem, "transposed", False)),
        "activation": ACTIVATIONS.index(problem.activation),
        "tiles": tiles,
        **division(tiles),
    }


def host_unit(target: str) -> Unit:
    """The family's CPU implementation, a symbol for each pair of types."""
    symbols = [_CPU.format("_".join(filter(None, (d, c)))) for d in DTYPES for c in ("", *CODES)]
    return Unit("activation", ("csrc/activation/activation.cpp",), target, symbols=tuple(symbols))


def _cpu(problem: ActProblem, persona: Persona, _: Any) -> tuple[Kernel, ...]:
    symbol = _CPU.format("_".join(filter(None, (problem.dtype, getattr(problem, "out_dtype", "")))))
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_args(problem)),)


def _gpu(problem: ActProblem, persona: Persona, plan: ActPlan) -> tuple[Kernel, ...]:
    size = getattr(problem, "group_size", 0)
    overlaps = overlap_defines(persona.target)
    values: dict[str, object] = {
        "activation": ACTIVATIONS.index(problem.activation),
        "aligned": int(problem.aligned),
        "code": getattr(problem, "out_dtype", CODES[0]),
        "admit": int(bool(overlaps)),
        # Elsewhere nothing overlaps, and one kernel serves both.
        "early": int(plan.early and bool(overlaps)),
        "element": problem.dtype,
        # A row that is one group is that of its team.
        "group": size if size < problem.row_width else 1,
        "lanes": plan.lanes,
        "limited": int(problem.limited),
        "passes": plan.passes,
        "threads": plan.threads,
        "transposed": int(getattr(problem, "transposed", False) and size < problem.row_width),
    }
    defines = {f"AITERLITE_{name.upper()}": str(value) for name, value in values.items()} | overlaps
    sources = ("csrc/activation/rows.hip",)
    unit = Unit("activation/rows", sources, persona.target, tuple(defines.items()), symbols=(KERNEL,))
    args = _args(problem, plan.tiles)
    return (Kernel(unit, KERNEL, ARGS, along_x(plan.grid), along_x(plan.threads), args=args),)


# The tables -----------------------------------------------------------------------------------------------------------

_ROWS = (OneOf("dtype", DTYPES), Between("row_count", 1, _INT32_MAX), Between("row_width", 1, _INT32_MAX), TilesFit())
_NO_LIMIT = Holds("limited", False, "only silu has a limit", "clamp the operands")
_CODED = (OneOf("out_dtype", CODES, "quantise to an e4m3 type or int8"), GroupsFit())


def _table(op: str, problem: type, activations: tuple[str, ...], *extra: Any) -> Table:
    requires = (*_ROWS, OneOf("activation", activations), *extra)
    whole = 16 if problem is QuantActProblem else 8

    def derive(values: Mapping[str, Any]) -> Mapping[str, Any]:
        return {"activation": activations[0], "aligned": values.get("row_width", 0) % whole == 0, **values}

    return Table(
        op,
        problem,
        (
            Row("cpu", "host", (Targets(("cpu-*",)), *requires), kernels=_cpu),
            Row("lanes", "hip", (Targets(("gfx942", "gfx950")), *requires), 0, plan_rows, _gpu),
            Row("warps", "cuda", (Targets(("sm_90a",)), *requires), 0, plan_rows, _gpu),
        ),
        # The shared expert of DeepSeek-R1, for decode, a batch of it, and prefill.
        (one_axis("row_count", 1, 16, 256, 4096), one_axis("row_width", 2048)),
        derive,
    )


SILU_TABLE = _table(SILU, ActProblem, ("silu",))
GELU_TABLE = _table(GELU, ActProblem, ("gelu",), _NO_LIMIT)
GELU_TANH_TABLE = _table(GELU_TANH, ActProblem, ("gelu_tanh",), _NO_LIMIT)
SILU_QUANT_TABLE = _table(SILU_QUANT, QuantActProblem, ("silu",), *_CODED)
ANY_QUANT_TABLE = _table(ANY_QUANT, QuantActProblem, ACTIVATIONS, _NO_LIMIT, *_CODED)
PLAIN_TABLES = {"silu": SILU_TABLE, "gelu": GELU_TABLE, "gelu_tanh": GELU_TANH_TABLE}

FAMILY = Family(
    name="activation",
    tables=(*PLAIN_TABLES.values(), SILU_QUANT_TABLE, ANY_QUANT_TABLE),
    ops=("aiterlite.ops.activation",),
    samples="aiterlite.ops.samples.activation",
)
