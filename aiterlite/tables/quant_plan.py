"""How quantisation is cut into workgroups, and what a call of it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

from aiterlite.hardware import ARCHITECTURES
from aiterlite.target import Persona

# Elements of a lane's piece of a strip (quant/strip.h).
PIECE = 16
# Pieces a lane of a wave may hold; and those that all lanes of a workgroup may, one or two each, since more threads
# have fewer registers.
_WAVE_UNITS, _WORKGROUP_PIECES = 4, 1024
_TEAM_THREADS, _TENSOR_THREADS, _TENSOR_UNITS = 128, 256, 2
# Of a workgroup where there are more segments than the chip holds, and segments a lane. On an H200, microseconds for
# 4,096 rows of 7,168 in groups of 128: 22.1 of (512, 1), 22.3 of (128, 2), 22.5 of (128, 1), 22.3 of (256, 2).
_MANY_CUDA, _MANY = (512, 1), (_TEAM_THREADS, 2)
# Registers that so many pieces a lane need on Hopper.
_NEEDED = {1: 32, 2: 48, 4: 96}
# The second kernel of a tensor reads this many maxima a thread.
_MAXIMA_A_THREAD = 4
# Rows of a tile, whose groups are numbered together where scales are transposed (quant/rows.hip).
TILE_ROWS = 8


@dataclass(frozen=True)
class QuantProblem:
    """`row_count` rows of `row_width` elements of `dtype` as `out_dtype`, a scale of `scale_dtype` for
    each `group_size` elements of a row; 0 is for all of the tensor.

    `transposed`: scales lie as [groups of a row, rows]. `aligned`: every row of x and of the output starts at a
    multiple of 16 bytes, and is one of 16 elements.
    """

    row_count: int
    row_width: int
    group_size: int = 128
    dtype: str = "bf16"
    out_dtype: str = "e4m3fn"
    scale_dtype: str = "fp32"
    transposed: bool = False
    aligned: bool = True

    @property
    def groups(self) -> int:
        """Of a row."""
        return self.row_width // self.group_size


@dataclass(frozen=True)
class RowsPlan:
    """One launch of quant/rows.hip: `lanes` share a segment, `units` times 16 elements each, and have `batch` segments
    at once; `passes` is 2 where they do not hold a whole segment. `early`: the whole grid is on the chip at once.
    `resident`: workgroups that a multiprocessor's registers must have room for."""

    threads: int
    lanes: int
    units: int
    batch: int
    passes: int
    early: bool
    resident: int
    grid: int


@dataclass(frozen=True)
class TensorPlan:
    """Launches of quant/tensor.hip: `maxima` workgroups of the first kernel (0: static), `grid` of the last."""

    threads: int
    units: int
    maxima: int
    resident: int
    grid: int


def plan_rows(problem: QuantProblem, persona: Persona) -> RowsPlan:
    """As few lanes as hold a segment, a wave's if they can. Segments fill workgroups of 128 threads. Where those are
    more than the chip holds at once, each lane of an AMD chip has two segments, so that more loads are under way and
    fewer workgroups are started, and workgroups of Hopper have 512 threads.

    Rows longer than a wave's registers have a workgroup each: with one unit a lane where rows are few, as that is the
    shortest way through; with two where they are many.
    """
    wave, units_of_row = persona.wave_size, -(-problem.group_size // PIECE)
    compute_units = max(1, persona.cu_count)
    if units_of_row <= wave * _WAVE_UNITS:
        lanes = min(wave, max(2, _power(units_of_row)))
        units = _power(-(-units_of_row // lanes))
        tiles = -(-problem.row_count // TILE_ROWS) * TILE_ROWS if problem.transposed else problem.row_count
        segments = tiles * problem.groups
        many = units == 1 and segments * lanes > 2048 * compute_units
        threads, batch = _TEAM_THREADS, 1
        if many:
            threads, batch = _MANY_CUDA if ARCHITECTURES[persona.target].family == "cuda" else _MANY
        grid = -(-segments // (threads // lanes * batch))
        early, resident = _at_once(grid, threads, compute_units), _resident(problem, persona, threads, units * batch)
        return RowsPlan(threads, lanes, units, batch, 1, early, resident, grid)
    passes = 1 if units_of_row <= _WORKGROUP_PIECES else 2
    units = 1 if problem.row_count < 4 * compute_units and passes == 1 else 2
    threads = min(_WORKGROUP_PIECES // units, -(-units_of_row // (units * wave)) * wave)
    early = _at_once(problem.row_count, threads, compute_units)
    resident = _resident(problem, persona, threads, units, 8) if passes == 1 else 1
    return RowsPlan(threads, threads, units, 1, passes, early, resident, problem.row_count)


def _at_once(grid: int, threads: int, compute_units: int) -> bool:
    """Whether all workgroups have a place, with as much room again for their successors."""
    return grid * threads <= 1024 * compute_units


def _resident(problem: QuantProblem, persona: Persona, threads: int, pieces: int, more: int = 0) -> int:
    """How many workgroups of a Hopper multiprocessor hide each other's latency: ptxas, which takes what registers it
    finds, needs no more than these for so many pieces a lane. What loads element by element does not hide it anyway."""
    arch = ARCHITECTURES[persona.target]
    if arch.family != "cuda" or not problem.aligned:
        return 1
    most = arch.simds * arch.waves_per_simd * arch.wave_size
    registers = _NEEDED[pieces] + more
    return max(1, min(most // threads, arch.unit_registers // (registers * threads)))


def _power(count: int) -> int:
    """The least power of two that is not below."""
    return 1 << max(0, count - 1).bit_length()


def plan_tensor(problem: QuantProblem, persona: Persona) -> TensorPlan:
    """Shares of 8,192 elements a workgroup; maxima by as many workgroups as keep the chip busy, and no more than the
    second kernel reads at once."""
    shares = -(-problem.row_count * problem.row_width // (_TENSOR_THREADS * _TENSOR_UNITS * PIECE))
    maxima = min(shares, 4 * max(1, persona.cu_count), _MAXIMA_A_THREAD * _TENSOR_THREADS)
    resident = _resident(problem, persona, _TENSOR_THREADS, _TENSOR_UNITS)
    return TensorPlan(_TENSOR_THREADS, _TENSOR_UNITS, maxima, resident, shares)


def plan_static(problem: QuantProblem, persona: Persona) -> TensorPlan:
    planned = plan_tensor(problem, persona)
    return replace(planned, maxima=0)


def division(by: int) -> dict[str, int]:
    """number * multiplier >> shift is number // by, for numbers below 2^31: the multiplier, 2^31 / by rounded up after
    it was scaled to 32 bits, is too large by less than what any such number shows."""
    bits = (by - 1).bit_length()
    return {"multiplier": -(-(1 << (31 + bits)) // by), "shift": 31 + bits}
