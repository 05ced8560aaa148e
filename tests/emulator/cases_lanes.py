"""Launches and models of kernels that move data between the lanes of a wave."""

from __future__ import annotations

import numpy as np
from emulator.launches import Array, Work, kernel, read, write

LANE = np.arange(64)
ROW, IN_ROW = LANE // 16, LANE % 16


def dpp_source(control: int) -> Array:
    """The lane that each lane receives from under a DPP control, -1 where there is none."""
    amount = control & 15
    if control < 0x100:
        return LANE // 4 * 4 + (control >> 2 * (LANE % 4) & 3)
    if 0x101 <= control <= 0x10F:  # row_shl: towards lower lanes
        return np.where(IN_ROW + amount < 16, LANE + amount, -1)
    if 0x111 <= control <= 0x11F:  # row_shr
        return np.where(amount <= IN_ROW, LANE - amount, -1)
    if 0x121 <= control <= 0x12F:  # row_ror
        return ROW * 16 + (IN_ROW - amount) % 16
    if 0x150 <= control <= 0x15F:  # row_newbcast
        return ROW * 16 + amount
    return {
        0x130: np.where(LANE < 63, LANE + 1, -1),  # wave_shl:1
        0x134: (LANE + 1) % 64,  # wave_rol:1
        0x138: LANE - 1,  # wave_shr:1
        0x13C: (LANE - 1) % 64,  # wave_ror:1
        0x140: ROW * 16 + 15 - IN_ROW,  # row_mirror
        0x141: LANE // 8 * 8 + 7 - LANE % 8,  # row_half_mirror
        0x142: np.where(ROW > 0, ROW * 16 - 1, -1),  # row_bcast:15, to the next row
        0x143: np.where(LANE >= 32, 31, -1),  # row_bcast:31
    }[control]


def dpp_move(
    old: Array, x: Array, control: int, rows: int = 15, banks: int = 15, bound: bool = False, on: Array | None = None
) -> Array:
    """What a DPP move leaves in each lane; `old` and `x` are [..., 64], `on` the lanes that are active."""
    active = np.ones(64, bool) if on is None else on
    source = dpp_source(control)
    valid = (source >= 0) & active[source]
    written = active & (rows >> ROW & 1 == 1) & (banks >> IN_ROW // 4 & 1 == 1) & (valid | bound)
    return np.where(written, np.where(valid, x[..., source], 0), old)


MOVES: list[tuple[int, int, int, bool]] = [
    (0x1B, 15, 15, False),
    (0x93, 15, 15, False),
    (0x101, 15, 15, False),
    (0x105, 15, 15, True),
    (0x111, 15, 15, False),
    (0x11F, 15, 15, True),
    (0x123, 15, 15, False),
    (0x130, 15, 15, False),
    (0x134, 15, 15, False),
    (0x138, 15, 15, True),
    (0x13C, 15, 15, False),
    (0x140, 15, 15, False),
    (0x141, 15, 15, False),
    (0x142, 10, 15, False),
    (0x143, 12, 15, False),
    (0x15A, 15, 15, False),
    (0x112, 5, 15, False),
    (0x1B, 15, 6, False),
    (0x121, 9, 3, True),
]


@kernel("dpp")
def dpp(target: str, rng: np.random.Generator) -> Work:
    waves = 2
    x, old = (rng.integers(-(1 << 31), 1 << 31, (waves, 64)).astype(np.int32) for _ in range(2))
    on = LANE % 5 != 2
    rows = [dpp_move(old, x, *move) for move in MOVES]
    rows.append(np.where(on, dpp_move(old, x, 0x111, on=on), -1))
    rows.append(np.where(on, dpp_move(old, x, 0x140, bound=True, on=on), -2))
    args = {"x": read(x), "old": read(old), "out": write(np.stack(rows).astype(np.int32))}
    return Work(args, (waves,), (64,))


@kernel("wave_sums", "dpp")
def wave_sums(target: str, rng: np.random.Generator) -> Work:
    waves = 3
    x = rng.integers(-(1 << 31), 1 << 31, (waves, 64)).astype(np.int32)
    scanned = np.cumsum(x.view(np.uint32), axis=1, dtype=np.uint32).view(np.int32)
    args = {"x": read(x), "scanned": write(scanned), "totals": write(scanned[:, 63].copy())}
    return Work(args, (waves,), (64,))


def _waterfall(keys: Array) -> Array:
    """The turn in which each lane is served when every turn serves all lanes with the key of the first one left."""
    turns, turn = np.zeros(64, np.int32), 0
    left = np.ones(64, bool)
    while left.any():
        turn += 1
        served = left & (keys == keys[left][0])
        turns[served] = turn
        left &= ~served
    return turns


@kernel("cross_lane")
def cross_lane(target: str, rng: np.random.Generator) -> Work:
    waves = 3
    x = rng.integers(-1000, 1000, (waves, 64)).astype(np.int32)
    # A permutation, plus multiples of 64 that a lane index wraps at.
    index = np.stack([rng.permutation(64) for _ in range(waves)]) + 64 * rng.integers(0, 4, (waves, 64))
    out = np.zeros((13, waves, 64), np.int64)
    on = LANE % 3 != 1
    for w in range(waves):
        v, at = x[w].astype(np.int64), index[w] % 64
        pushed = np.zeros(64, np.int64)
        pushed[at] = v
        first = v[on & (v > 0)]
        votes = v > 100
        rows = [v[at], pushed, np.where(on, np.where(on[at], v[at], 0), -1)]
        rows.append(np.where(on & (v > 0), first[0] if len(first) else 0, -2))
        rows.append(v[LANE // 4 * 4 + np.array([2, 3, 0, 1])[LANE % 4]])
        rows.append(v[LANE ^ 1])
        rows.append(v[LANE // 32 * 32 + ((LANE % 32 & 7 | 9) ^ 4)])
        rows.append(np.full(64, v[at[0]]))
        rows.append(np.where(at[5] == LANE, v[7], v))
        rows.append(np.cumsum(votes) - votes)
        rows.append(np.full(64, votes.sum()))
        rows.append(_waterfall(index[w] & 7))
        rows.append(np.where(LANE == 9, v[w % 2 + 3], v))
        out[:, w] = rows
    args = {"x": read(x), "index": read(index.astype(np.int32)), "out": write(out.astype(np.int32))}
    return Work(args, (waves,), (64,))
