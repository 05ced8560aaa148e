"""Which head counts of MLA are native, in one table that sizes, planners, decode and queries read. Pure.

A request whose head count is not native is folded: a plan sees `fold` requests of 16 heads in its place. The queries of
a folded request are cut into tiles of whole tokens, at most `tile_rows` rows each; a token has as many rows as a folded
request has heads.

The rows for gfx942 and gfx950 are those of AMD's own kernels. sm_90 and CPUs take gfx950's tiles but fold nothing: a
fold reads the whole KV once more for each 16 heads, and kernels there hold all heads of a request at once.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from aiterlite.target import Persona

# The head counts that kernels are for. Others are padded to the next one, with heads whose results nobody reads.
HEADS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
FOLDED_HEADS = 16
# (q, KV) as the table has them. Both 8-bit flavours are fp8.
DTYPES = (("bf16", "bf16"), ("bf16", "fp8"), ("fp16", "fp16"), ("fp16", "fp8"), ("fp8", "fp8"))
# A plan for a CPU is made for this many compute units, however many cores there are: so it is the same on every
# machine, and still has pieces for each thread of a large one.
CPU_UNITS = 64
# Word 8 of a row of work_info_set, which is padding upstream: this, and the fold that the plan was made with.
STAMP = 0x4D4C0000
ROW_WORDS = 8


class NotPlannedError(ValueError):
    """What no target plans, and what would change that."""

    def __init__(self, reason: str, remedy: str) -> None:
        super().__init__(f"{reason}; {remedy}")
        self.reason, self.remedy = reason, remedy


@dataclass(frozen=True)
class Heads:
    """How a request's heads are planned: as `fold` requests of `heads` heads, whose queries of the asked length are
    `q_tiles` tiles of at most `tile_rows` rows."""

    fold: int
    tile_rows: int
    q_tiles: int
    heads: int

    @property
    def tile_tokens(self) -> int:
        """Tokens of a tile, at most."""
        return max(1, self.tile_rows // self.heads)


@dataclass(frozen=True)
class _Native:
    """Head counts that a target's kernels take unfolded; None: all. `q_len` is the only query length, where given."""

    targets: tuple[str, ...]
    dtypes: tuple[tuple[str, str], ...]
    heads: tuple[int, ...] | None
    q_len: int | None = None

    def holds(self, target: str, heads: int, dtypes: tuple[str, str], q_len: int) -> bool:
        return (
            target in self.targets
            and dtypes in self.dtypes
            and (self.heads is None or heads in self.heads)
            and self.q_len in (None, q_len)
        )


_BF16, _FP8 = (("bf16", "bf16"), ("fp16", "fp16")), (("fp8", "fp8"),)
_NATIVE = (
    _Native(("gfx942", "gfx950"), DTYPES, (16,)),
    _Native(("gfx942",), _FP8, (64,), q_len=1),
    _Native(("gfx942",), _FP8, (128,)),
    _Native(("gfx950",), _FP8, (32, 64, 128)),
    _Native(("gfx950",), _BF16, None),
    _Native(("sm_90a", "cpu"), DTYPES, None),
)
TARGETS = ("gfx942", "gfx950", "sm_90a", "cpu")
_NAMES = {"e4m3fn": "fp8", "e4m3fnuz": "fp8"}


def padded(heads: int) -> int:
    """The head count that kernels and plans take for so many heads. Raises `NotPlannedError` beyond the largest."""
    found = next((count for count in HEADS if count >= heads), None)
    if found is None or heads < 1:
        raise NotPlannedError(f"heads is {heads}; allowed: 1 to {HEADS[-1]}", "split the heads over more ranks")
    return found


@functools.lru_cache(4096)
def fold(target: str, heads: int, q_dtype: str, kv_dtype: str, q_len: int) -> Heads:
    """The fold and the tiles of a call. Raises `NotPlannedError`, a `ValueError`, for what no target has."""
    family = "cpu" if target.startswith("cpu") else "sm_90a" if target == "sm_90" else target
    dtypes = (_NAMES.get(q_dtype, q_dtype), _NAMES.get(kv_dtype, kv_dtype))
    if family not in TARGETS:
        raise NotPlannedError(f"target is {target}; allowed: {', '.join(TARGETS)}", "name one of them")
    if dtypes not in DTYPES:
        pairs = ", ".join(f"{q} and {kv}" for q, kv in DTYPES)
        raise NotPlannedError(f"q and KV are {q_dtype} and {kv_dtype}; allowed: {pairs}", "convert q")
    if q_len < 1:
        raise NotPlannedError(f"the query length is {q_len}; allowed: at least 1", "plan for the longest query")
    count = padded(heads)
    native = any(row.holds(family, count, dtypes, q_len) for row in _NATIVE)
    # What is no multiple of 16 (8 and 24 heads) cannot be folded: the kernels fill their tiles up.
    factor = 1 if native or count % FOLDED_HEADS else count // FOLDED_HEADS
    if factor > 1 and count != heads:
        remedy = f"pad q to {count} heads, and drop the last {count - heads} of o"
        raise NotPlannedError(f"heads is {heads}, and {family} folds these types in heads of {FOLDED_HEADS}", remedy)
    own = count // factor
    made = Heads(factor, _tile_rows(family, own, dtypes, q_len), 0, own)
    return Heads(factor, made.tile_rows, -(-q_len // made.tile_tokens), own)


def _tile_rows(family: str, heads: int, dtypes: tuple[str, str], q_len: int) -> int:
    """128, and 64 where half of such a tile would be padding."""
    rows = heads * q_len
    q, kv = dtypes
    wide = q != "fp8" and (kv != "fp8" or family != "gfx950")
    halved = rows >= 64 and heads <= 64 and (rows < 128 or heads == 48)
    if family != "gfx942" and ((wide and halved) or (dtypes == ("fp8", "fp8") and heads == 32 and q_len == 3)):
        return 64
    return 128


def compute_units(persona: Persona) -> int:
    """The workgroups that a plan deals work to."""
    return persona.cu_count or CPU_UNITS


@functools.lru_cache(1024)
def most_tiles(target: str, heads: int, q_dtype: str, kv_dtype: str, q_len: int) -> int:
    """Tiles of a request, those of all its folds, for any query length up to this one. (A longer query may have fewer:
    three tokens of 32 heads are two tiles of 64 rows, four are one of 128.)"""
    made = (fold(target, heads, q_dtype, kv_dtype, shorter) for shorter in range(1, q_len + 1))
    return max(one.fold * one.q_tiles for one in made)
