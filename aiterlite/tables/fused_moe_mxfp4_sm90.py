"""The fused mixture of experts with weights of MXFP4 for a few tokens on sm_90a: which problems its kernels that do
not sort serve, and how they are cut.

Two kernels, straight from topk_ids (csrc/fused_moe/sm90_mx_gate_up.hip, sm90_mx_down.hip). Hidden states become what
the call multiplies in the first, h in whichever of the two has a whole block of it: the numbers of the rows that sort.
Sums are cut otherwise than there, so a token's bits are those of its row; within this row they do not depend on other
tokens.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from aiterlite.dispatch import Between, Holds, OneOf, Refusal, Row, Targets, Wishes
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Value, Workspace, along_x, overlap_defines
from aiterlite.tables.fused_moe_parts import Places
from aiterlite.tables.fused_moe_problem import A4W4, A8W4, ACTIVATIONS, ARGS, MoeProblem
from aiterlite.tables.mx_types import BLOCK as MX_BLOCK
from aiterlite.target import Persona

GATE_UP, DOWN = (f"aiterlite_fused_moe_sm90_mx_{name}" for name in ("gate_up", "down"))
# Elements of a unit of K, and rows of gate and features of the result that a tile has.
_UNIT, _INNER, _FEATURES = 128, 8, 16
# Pairs are bits of two words (csrc/include/aiterlite/fused_moe/sm90_mx_pairs.h).
MOST_TOKENS, MOST_PAIRS = 8, 64
# All of a row of h is unrolled.
_MOST_INTER, _MOST_WIDTH = 2048, 16384
# Workgroups of stage 1 that are enough to fill the chip: nearly two a multiprocessor.
_FULL = 240
_ROUNDINGS = {A4W4: 1, A8W4: 2}


@dataclass(frozen=True)
class Plan:
    """Up to `columns` pairs of an expert are multiplied together. In stage 1 a workgroup has `waves` of `units` units
    each, `ahead` of them on their way, and `tiles` of 8 gate and 8 up rows; in stage 2 so many of 16 features. At least
    so many workgroups are `resident`. `early`: stage 2 asks for weights before stage 1 has ended."""

    columns: int
    waves: int
    units: int
    ahead: int
    tiles: int
    resident: int
    down_waves: int
    down_ahead: int
    down_tiles: int
    down_resident: int
    early: bool = True

    @property
    def finishes_h(self) -> bool:
        """Whether a workgroup of stage 1 has a whole block of h, and leaves it as stage 2 multiplies it."""
        return self.tiles * _INNER == MX_BLOCK


def _divisor(units: int, most: int) -> int:
    return next(count for count in range(min(units, most), 0, -1) if units % count == 0)


def plan(problem: MoeProblem, persona: Persona) -> Plan:
    """Warps of stage 1 have K in equal neighbouring parts: of 7,168 seven have a kilobyte of each row, whose scales are
    one sector. Where a block of h a workgroup would leave multiprocessors short of them, it is a part of a block. Few
    experts have more than two of 64 pairs. Measured on an H200 (docs/perf/moe-sm90.md)."""
    whole, down = problem.width // _UNIT, problem.inter // _UNIT
    units = 8 if whole >= 24 else 4 if whole >= 8 else min(whole, 2)
    strips = problem.pairs * problem.inter // _INNER
    most = MX_BLOCK // _INNER
    return Plan(
        columns=min(problem.tokens, 2),
        waves=-(-whole // units),
        units=units,
        ahead=min(units, 4),
        tiles=next((tiles for tiles in (most, most // 2) if strips // tiles >= _FULL), 1),
        resident=2 if whole <= 64 else 1,
        down_waves=4,
        down_ahead=_divisor(down, 2),
        down_tiles=1,
        down_resident=4,
    )


def _unit(name: str, symbol: str, defines: Mapping[str, int]) -> Unit:
    spelled = {f"AITERLITE_{key}": str(value) for key, value in sorted(defines.items())} | overlap_defines("sm_90a")
    source = f"csrc/fused_moe/sm90_mx_{name}.hip"
    return Unit(f"fused_moe/sm90_mx_{name}", (source,), "sm_90a", tuple(spelled.items()), symbols=(symbol,))


def gate_up_shared(problem: MoeProblem, made: Plan) -> int:
    """Sums of all warps, a block of h, experts of pairs, and x."""
    sums = 64 * made.tiles * made.waves * made.columns
    return sums + 64 * made.columns + 4 * MOST_PAIRS + made.columns * (2 * problem.width + 64)


def down_shared(problem: MoeProblem, made: Plan) -> int:
    """Sums of pairs, their weights and experts, what leads, and h where it is not finished."""
    sums = 4 * problem.pairs * (_FEATURES * made.down_tiles + 4)
    h = 16 if made.finishes_h else problem.pairs * (2 * problem.inter + 64)
    return sums + 3 * 4 * MOST_PAIRS + 16 + h


def kernels(problem: MoeProblem, persona: Persona, made: Plan) -> tuple[Kernel, ...]:
    args: dict[str, Value] = {"h": _places(problem).h, "h_scale": 0, "slots": 0, "local_topk_ids": 0, "block_size": 0}
    args |= dict.fromkeys(("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids"), 0)
    common = {
        "COLS": made.columns,
        "ROUNDING": _ROUNDINGS.get(problem.precision, 0),
        "SHUFFLED": int(problem.shuffled),
        "WEIGHTED": int(problem.weighted_input),
    }
    of_first, of_second = gate_up_shared(problem, made), down_shared(problem, made)
    gate_up = {
        **common, "ACTIVATION": ACTIVATIONS.index(problem.activation), "AHEAD": made.ahead,
        "BIASED": int(problem.bias1), "RESIDENT": made.resident, "SHARED_BYTES": of_first, "TILES": made.tiles,
        "UNITS": made.units, "WAVES": made.waves, "WIDTH": problem.width,
    }  # fmt: skip
    down = {
        **common, "AHEAD": made.down_ahead, "BIASED": int(problem.bias2), "EARLY": int(made.early),
        "FINISHED": int(made.finishes_h), "PAIRS": problem.pairs, "RESIDENT": made.down_resident,
        "SHARED_BYTES": of_second, "TILES": made.down_tiles, "UNITS": problem.inter // _UNIT, "WAVES": made.down_waves,
    }  # fmt: skip
    strips = problem.inter // (_INNER * made.tiles)
    grids = along_x(problem.pairs * strips), along_x(problem.width // (_FEATURES * made.down_tiles))
    threads = along_x(32 * made.waves), along_x(32 * made.down_waves)
    first, second = _unit("gate_up", GATE_UP, gate_up), _unit("down", DOWN, down)
    return (
        Kernel(first, GATE_UP, ARGS, grids[0], threads[0], lds=of_first, args=args),
        Kernel(second, DOWN, ARGS, grids[1], threads[1], lds=of_second, args=args),
    )


@dataclass(frozen=True)
class _Places:
    h: Value
    total: int


def _places(problem: MoeProblem) -> _Places:
    places = Places()
    return _Places(places.take(2 * problem.pairs * problem.inter), places.bytes)


def workspace(problem: MoeProblem, persona: Persona, made: Plan) -> Workspace:
    return Workspace("fused_moe", 0, _places(problem).total)


def _accuracy(problem: MoeProblem) -> str:
    kinds = {A4W4: "x and h are quantised to MXFP4", A8W4: "x and h are quantised to MXFP8"}
    how = kinds.get(problem.precision, "x is not quantised; h is rounded to bf16")
    return f"{how}; slots are summed in float32"


@dataclass(frozen=True)
class WholeUnits:
    """K comes in units of 128, and an expert's codes are at 32-bit offsets."""

    def refuse(self, problem: Any, persona: Persona, wishes: Wishes) -> Refusal | None:
        for name in ("width", "inter"):
            value = getattr(problem, name)
            if value < _UNIT or value % _UNIT:
                return Refusal(f"{name} is {value}, no multiple of {_UNIT}", "pad the weights with zeros")
        return None

    def __str__(self) -> str:
        return f"widths that are multiples of {_UNIT}"


_REQUIRES = (
    Targets(("sm_90a",)),
    OneOf("quant", ("mxfp4",)),
    OneOf("activation", ACTIVATIONS),
    OneOf("dtype", ("bf16",), "cast hidden states to bf16"),
    Between("tokens", 1, MOST_TOKENS, "tokens are sorted then"),
    Between("pairs", 1, MOST_PAIRS, "tokens are sorted then"),
    Between("width", 1, _MOST_WIDTH),
    Between("inter", 1, _MOST_INTER),
    Holds("aligned", True, "rows of x or a weight do not begin at multiples of 16 bytes", "copy them"),
    Holds("quantised", False, "hidden states are codes, and this makes numbers of 16-bit ones"),
    Holds("by_slots", False, "the result has a row a slot, and this adds them up"),
    WholeUnits(),
)
ROWS: tuple[Row, ...] = (Row("mxfp4_stream", "cuda", _REQUIRES, 10, plan, kernels, workspace, accuracy=_accuracy),)
