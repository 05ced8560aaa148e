"""What a launch of the kernel of rotary embeddings does, how it is cut, and its kernels: for the families of rope and
of the cache, whose calls differ in what they ask of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiterlite.hardware import ARCHITECTURES
from aiterlite.jit.arguments import ArgumentStruct
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Operand, Value, along_x, overlap_defines
from aiterlite.target import Persona

ARGS = ArgumentStruct("aiterlite_rope_args", "aiterlite/rope/args.h")
DTYPES = ("bf16", "fp16")
TABLES = (*DTYPES, "fp32")
CODES = ("e4m3fn", "e4m3fnuz")
INDICES = ("none", "int32", "int64")
# The fields of the struct that are addresses.
ADDRESSES = (
    *("q_nope", "q_pe", "q_out", "k_nope", "k_pe", "k_out", "cos", "sin", "positions", "offsets", "slots"),
    *("q_scale", "k_scale", "q_pe_out", "q_zeros", "k_pe_out"),
)
# Strides, which a call brings as sizes.
STRIDES = (
    *(f"{side}_{part}" for side in "qk" for part in ("nope_token", "nope_head", "pe_token", "pe_head")),
    *(f"{side}_{part}" for side in "qk" for part in ("out_token", "out_head", "in_inner", "out_inner")),
    *("k_block", "cos_row", "sin_row"),
)

# Elements of a vector, and pairs that a lane rotates.
_VECTOR, _PAIRS = 8, 8
# Threads of a workgroup that only rotates, and the most that copy.
_ROPE_THREADS, _NOPE_THREADS = 128, 512
# Registers of a lane on Hopper, for its pairs, their angles (one each, or two) and addresses; and workgroups that a
# multiprocessor takes.
_NEEDED, _MOST_RESIDENT = {True: 40, False: 56}, 32


@dataclass(frozen=True)
class Job:
    """A launch: rows of `heads` for each of `tokens` on two sides, of `nope` copied and `rope` rotated elements. The
    names are those of rope/args.h. `sources` says which operand an address is of, where it has another name."""

    q_tokens: int
    k_tokens: int
    q_heads: int
    k_heads: int
    nope: int
    rope: int
    element: str
    table: str
    neox: bool
    half_table: bool
    nope_first: bool
    rotates: bool = True
    positions: str = "int64"
    offsets: bool = False
    inner: bool = False
    slots: str = "none"
    paged: bool = False
    q_needs_slot: bool = False
    nearest: bool = False
    extras: bool = False
    q_code: str = ""
    k_code: str = ""
    k_scaled: bool = False
    aligned: bool = True
    sources: Mapping[str, Operand] = field(default_factory=dict)


@dataclass(frozen=True)
class RopePlan:
    """One launch of rope/rows.hip: workgroups of `rows` rows, `q_groups` of q and then those of k; the first
    `nope_threads` of a workgroup copy, the others rotate. `early`: the whole grid is on the chip at once. `resident`:
    workgroups that a multiprocessor's registers must have room for."""

    threads: int
    nope_threads: int
    rows: int
    early: bool
    resident: int
    q_groups: int
    grid: int


def plan(job: Job, persona: Persona) -> RopePlan:
    """A wave's lanes rotate the rows that a workgroup copies with two vectors a lane; without anything to copy, four
    waves of 32 or two of 64 rotate."""
    wave = persona.wave_size
    units, vectors = -(-job.rope // (2 * _PAIRS)), -(-job.nope // _VECTOR)
    if vectors:
        rows = max(1, min(wave // units, 2 * _NOPE_THREADS // vectors))
        nope_threads = min(_NOPE_THREADS, _up(-(-rows * vectors // 2), wave))
    else:
        rows, nope_threads = max(1, _ROPE_THREADS // units), 0
    threads = nope_threads + min(_ROPE_THREADS, _up(rows * units, wave))
    q_groups, k_groups = (-(-count // rows) for count in (job.q_tokens * job.q_heads, job.k_tokens * job.k_heads))
    grid = q_groups + k_groups
    early = grid * threads <= 1024 * max(1, persona.cu_count)
    resident = 1 if early else _resident(job, persona, threads)
    return RopePlan(threads, nope_threads, rows, early, resident, q_groups, grid)


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


def _resident(job: Job, persona: Persona, threads: int) -> int:
    """How many workgroups of a Hopper multiprocessor hide each other's latency."""
    arch = ARCHITECTURES[persona.target]
    if arch.family != "cuda" or not job.aligned:
        return 1
    most = min(_MOST_RESIDENT, arch.simds * arch.waves_per_simd * arch.wave_size // threads)
    return max(1, min(most, arch.unit_registers // (_NEEDED[job.half_table] * threads)))


# Kernels --------------------------------------------------------------------------------------------------------------

KERNEL = "aiterlite_rope_rows"
_CPU = "aiterlite_rope_cpu_{}_{}"


def _args(job: Job, q_groups: int = 0) -> dict[str, Value]:
    codes = ("", *CODES)
    return {
        **{name: job.sources.get(name, 0) for name in ADDRESSES},
        "q_tokens": job.q_tokens,
        "k_tokens": job.k_tokens,
        "q_heads": job.q_heads,
        "k_heads": job.k_heads,
        "q_groups": q_groups,
        "nope": job.nope,
        "rope": job.rope,
        "nope_first": int(job.nope_first),
        "neox": int(job.neox),
        "half_table": int(job.half_table),
        "position_bits": _bits(job.positions),
        "slot_bits": _bits(job.slots),
        "q_needs_slot": int(job.q_needs_slot),
        "nearest": int(job.nearest),
        "q_code": codes.index(job.q_code),
        "k_code": codes.index(job.k_code),
    }


def _bits(index: str) -> int:
    return 0 if index == "none" else int(index.removeprefix("int"))


def host_unit(target: str) -> Unit:
    """The CPU implementation of both families, a symbol for each pair of types."""
    symbols = [_CPU.format(element, table) for element in DTYPES for table in (element, "fp32")]
    return Unit("rope", ("csrc/rope/rope.cpp",), target, symbols=tuple(symbols))


def cpu_kernels(job: Job, persona: Persona) -> tuple[Kernel, ...]:
    symbol = _CPU.format(job.element, job.table)
    return (Kernel(host_unit(persona.target), symbol, ARGS, args=_args(job)),)


def gpu_kernels(job: Job, persona: Persona, planned: RopePlan) -> tuple[Kernel, ...]:
    values: dict[str, object] = {
        "aligned": int(job.aligned),
        # Elsewhere nothing overlaps, and one kernel serves both.
        "early": int(planned.early and bool(overlap_defines(persona.target))),
        "element": job.element,
        "extras": int(job.extras),
        "half_table": int(job.half_table),
        "inner": int(job.inner),
        "k_code": job.k_code or CODES[0],
        "k_coded": int(bool(job.k_code)),
        "k_heads": job.k_heads,
        "k_scaled": int(job.k_scaled),
        "nearest": int(job.nearest),
        "neox": int(job.neox),
        "nope": job.nope,
        "nope_first": int(job.nope_first),
        "nope_threads": planned.nope_threads,
        "offsets": int(job.offsets),
        "paged": int(job.paged),
        "position_bits": _bits(job.positions),
        "q_code": job.q_code or CODES[0],
        "q_coded": int(bool(job.q_code)),
        "q_heads": job.q_heads,
        "q_needs_slot": int(job.q_needs_slot),
        "resident": planned.resident,
        "rope": job.rope,
        "rotates": int(job.rotates),
        "rows": planned.rows,
        "slot_bits": _bits(job.slots),
        "table": "float" if job.table == "fp32" else job.table,
        "threads": planned.threads,
    }
    defines = {f"AITERLITE_{name.upper()}": str(value) for name, value in values.items()}
    defines |= overlap_defines(persona.target)
    unit = Unit("rope/rows", ("csrc/rope/rows.hip",), persona.target, tuple(defines.items()), symbols=(KERNEL,))
    args = _args(job, planned.q_groups)
    return (Kernel(unit, KERNEL, ARGS, along_x(planned.grid), along_x(planned.threads), args=args),)
