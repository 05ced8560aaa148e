"""The planners of MLA decode by their contract, step by step in plain Python: a workgroup after the other, a tile after
the other. It shares nothing with csrc/include/aiterlite/mla/plan.h, whose closed form it is the measure of.

The three planners are AMD's v1_2 (`fast`), v1_0 (`intra`) and v1_1 (`cost`); where this package departs from them is
said in the docstring of `aiterlite.ops.mla_plan.get_mla_metadata_v1`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

STAMP = 0x4D4C0000
# A piece costs as much as so many tokens of KV, besides those that it reads.
_OVERHEAD = 16


@dataclass(frozen=True)
class PlanCall:
    """What a planner is asked: index arrays, how heads are folded and queries cut, and the sizes of the buffers.

    `trim`: tiles leave out the KV that none of their tokens sees. `splits`, `fixed_splits`: as in mla/plan_args.h.
    """

    qo_indptr: Sequence[int]
    kv_indptr: Sequence[int]
    kv_last_page_lens: Sequence[int]
    heads: int
    fold: int
    tile_tokens: int
    max_q: int
    uniform_q: int
    page_size: int
    granularity: int
    trim: bool
    units: int
    splits: int
    fixed_splits: int
    reduce_tiles: int


@dataclass
class Planned:
    """What a planner writes; `reduce_final_map` only for the tiles that it writes."""

    work_indptr: list[int] = field(default_factory=list)
    work_info_set: list[tuple[int, ...]] = field(default_factory=list)
    reduce_indptr: list[int] = field(default_factory=lambda: [0])
    reduce_final_map: dict[int, tuple[int, int]] = field(default_factory=dict)
    reduce_partial_map: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class Tile:
    """A folded request's queries, or a part of them."""

    request: int
    folded: int
    q_start: int
    q_end: int
    tokens: int
    kv_begin: int
    kv_end: int
    tail: int

    @property
    def works(self) -> bool:
        return self.kv_end - self.tail > self.kv_begin


def up(a: int, b: int) -> int:
    return -(-a // b)


def tiles_of(call: PlanCall) -> list[Tile]:
    """The tiles in their order: by request, head group, query."""
    tiles = []
    for request in range(len(call.kv_indptr) - 1):
        first, after = call.qo_indptr[request], call.qo_indptr[request + 1]
        q_len = call.uniform_q or after - first
        for group in range(call.fold):
            folded = request * call.fold + group
            begin = folded * call.max_q if call.fold > 1 else request * call.uniform_q if call.uniform_q else first
            count = up(q_len, call.tile_tokens)
            for index in range(count):
                size = up(q_len, count)
                start = begin + index * size
                tail = count - 1 - index if call.trim else 0
                end = min(start + size, begin + q_len)
                kv = call.kv_indptr[request], call.kv_indptr[request + 1]
                tiles.append(Tile(request, folded, start, end, size, *kv, tail))
    return tiles


def row_of(call: PlanCall, tile: Tile, partial: int, start: int, end: int) -> tuple[int, ...]:
    left = tile.kv_end - end
    offset = left
    if call.page_size > 1 and left:
        offset = (left - 1) * call.page_size + call.kv_last_page_lens[tile.request]
    return (tile.folded, partial, tile.q_start, tile.q_end, start, end, offset, STAMP | call.fold)


def finish(call: PlanCall, planned: Planned) -> Planned:
    rest = call.reduce_tiles + 1 - len(planned.reduce_indptr)
    planned.reduce_indptr += [planned.reduce_indptr[-1]] * rest
    return planned


def fast(call: PlanCall) -> Planned:
    """v1_2: each workgroup has the same budget and takes what comes."""
    tiles, planned = tiles_of(call), Planned()
    over = max(1, up(_OVERHEAD, call.page_size))
    blocks = [up(tile.kv_end - tile.kv_begin, call.granularity) for tile in tiles]
    total = sum(count + over for tile, count in zip(tiles, blocks, strict=True) if tile.works)
    budget = up(total, call.splits) + over
    at, taken, partial = 0, 0, 0
    pieces: list[tuple[int, int]] = []

    def done() -> None:
        planned.reduce_indptr.append(planned.reduce_indptr[-1] + (len(pieces) if len(pieces) > 1 else 0))

    for _ in range(call.units):
        planned.work_indptr.append(len(planned.work_info_set))
        remaining = budget
        while at < len(tiles):
            tile = tiles[at]
            if not tile.works:
                done()
                at += 1
                continue
            start, rest = tile.kv_begin + taken * call.granularity, blocks[at] - taken
            whole = remaining >= rest + over
            if not whole and remaining <= over:
                break
            if not whole:
                cut = start + (remaining - over) * call.granularity
                if call.page_size == 1 and tile.kv_end - min(cut, tile.kv_end - tile.tail) < call.max_q:
                    whole = True
            if not whole:
                pieces.append((start, cut))
                planned.work_info_set.append(row_of(call, tile, partial, start, cut))
                taken += remaining - over
                partial += tile.tokens
                break
            pieces.append((start, tile.kv_end - tile.tail))
            split = len(pieces) > 1
            planned.work_info_set.append(row_of(call, tile, partial if split else -1, *pieces[-1]))
            remaining -= rest + over
            if split:
                partial += tile.tokens
                planned.reduce_final_map[at] = tile.q_start, tile.q_end
                planned.reduce_partial_map += [partial - (len(pieces) - i) * tile.tokens for i in range(len(pieces))]
            done()
            at, taken, pieces = at + 1, 0, []
    # Tiles without work behind the last one that has some.
    assert all(not tile.works for tile in tiles[at:])
    planned.reduce_indptr += [planned.reduce_indptr[-1]] * (len(tiles) - at)
    planned.work_indptr.append(len(planned.work_info_set))
    return finish(call, planned)


def intra(call: PlanCall) -> Planned:
    """v1_0: a number of pieces by the length of the KV, and pieces dealt evenly."""
    tiles, planned = tiles_of(call), Planned()
    longest = call.uniform_q or call.max_q
    requests = (len(call.kv_indptr) - 1) * call.fold * up(longest, call.tile_tokens)
    stride = up(call.uniform_q, up(call.uniform_q, call.tile_tokens)) if call.uniform_q else call.max_q
    for number, tile in enumerate(tiles):
        end = tile.kv_end - tile.tail
        rows = []
        if tile.works:
            length = end - tile.kv_begin
            asked = call.fixed_splits or min(length // 196, up(call.units, requests))
            blocks = up(length, call.granularity)
            each = up(blocks, max(1, min(asked, call.splits))) * call.granularity
            cuts = list(range(tile.kv_begin, end, each))
            if len(cuts) > 1 and end - cuts[-1] <= 4 and end - cuts[-1] != each:
                cuts.pop()
            rows = list(zip(cuts, [*cuts[1:], end], strict=True))
        for start, until in rows:
            place = -1 if len(rows) == 1 else len(planned.work_info_set) * stride
            planned.work_info_set.append(row_of(call, tile, place, start, until))
            planned.reduce_partial_map.append(place)
        planned.reduce_indptr.append(len(planned.work_info_set))
        planned.reduce_final_map[number] = tile.q_start, tile.q_end
    works = len(planned.work_info_set)
    counts = [works // call.units + (unit < works % call.units) for unit in range(call.units)]
    planned.work_indptr = [sum(counts[:unit]) for unit in range(call.units + 1)]
    return finish(call, planned)


def cost(call: PlanCall) -> Planned:
    """v1_1: the most expensive request first, each piece to the workgroup that has least to do."""
    tiles, planned = tiles_of(call), Planned()
    requests = range(len(call.kv_indptr) - 1)
    rows = {number: 2 * tile.tokens * call.heads for number, tile in enumerate(tiles)}
    length = [max(0, tile.kv_end - tile.tail - tile.kv_begin) for tile in tiles]
    total = sum(rows[number] + kv for number, kv in enumerate(length) if kv > 0)
    limit = _cost_limit(call, total)

    def of_request(request: int) -> int:
        q_len = call.uniform_q or call.qo_indptr[request + 1] - call.qo_indptr[request]
        return call.kv_indptr[request + 1] - call.kv_indptr[request] + 2 * q_len * call.heads

    order = {request: place for place, request in enumerate(sorted(requests, key=lambda one: -of_request(one)))}
    busy = [0] * call.units
    works: list[list[tuple[int, ...]]] = [[] for _ in range(call.units)]
    partial = 0
    first: dict[int, int] = {}
    pieces: dict[int, int] = {}
    for number in sorted(range(len(tiles)), key=lambda one: order[tiles[one].request]):
        tile, left = tiles[number], length[number]
        floor = up(up(length[number], call.splits), call.granularity) * call.granularity
        dealt = []
        while left > 0:
            unit = min(range(call.units), key=lambda one: busy[one])
            room = max(limit - busy[unit] - rows[number], floor)
            taken = left if left - room <= 16 else room
            busy[unit] += rows[number] + taken
            dealt.append((unit, taken))
            left -= taken
        start = tile.kv_begin
        split = len(dealt) > 1
        first[number] = partial
        for unit, taken in dealt:
            works[unit].append(row_of(call, tile, partial if split else -1, start, start + taken))
            start += taken
            partial += tile.q_end - tile.q_start if split else 0
        pieces[number] = len(dealt) if split else 0
    for rows_of_unit in works:
        planned.work_indptr.append(len(planned.work_info_set))
        planned.work_info_set += rows_of_unit
    planned.work_indptr.append(len(planned.work_info_set))
    for number, tile in enumerate(tiles):
        size = tile.q_end - tile.q_start
        planned.reduce_partial_map += [first[number] + i * size for i in range(pieces[number])]
        planned.reduce_indptr.append(len(planned.reduce_partial_map))
        planned.reduce_final_map[number] = tile.q_start, tile.q_end
    return finish(call, planned)


def _cost_limit(call: PlanCall, total: int) -> int:
    rows = call.uniform_q or 128
    count = (len(call.kv_indptr) - 1) * call.fold
    average = max(1, up(total - 2 * rows * count, call.units))
    table = ((8, 32), (16, 64), (32, 128), (64, 192))
    base = next((least for most, least in table if average <= most), average)
    limit = 2 * rows + base + 2 * rows * (count + average + 1000) // 100
    return up(limit, call.granularity) * call.granularity


PLANNERS = {"fast": fast, "intra": intra, "cost": cost}


def brought_forward(call: PlanCall, planned: Planned, kv_indptr: Sequence[int], rejected: Sequence[int]) -> Planned:
    """The plan for one token a request, after each has got one more and lost the rejected ones. Cuts stay."""
    updated = replace(planned, work_info_set=[], reduce_final_map=dict(planned.reduce_final_map))
    for folded, place, q_start, q_end, kv_start, kv_end, offset, stamp in planned.work_info_set:
        request, size = folded // call.fold, q_end - q_start
        before = call.kv_indptr[request]
        begin, end = kv_indptr[request], kv_indptr[request + 1]
        assert end - begin == call.kv_indptr[request + 1] - before + 1 - rejected[request]
        start = min(begin + kv_start - before, end)
        until = end if offset == 0 else min(begin + kv_end - before, end)
        rows = (folded, folded + 1) if size > 1 else (q_start, q_end)
        place = place // size if place >= 0 else -1
        updated.work_info_set.append((folded, place, *rows, start, until, end - until, stamp))
    if call.max_q > 1:
        sizes = {tile: end - start for tile, (start, end) in planned.reduce_final_map.items()}
        updated.reduce_partial_map = list(planned.reduce_partial_map)
        for tile, size in sizes.items():
            span = range(planned.reduce_indptr[tile], planned.reduce_indptr[tile + 1])
            if span and size > 1:
                updated.reduce_final_map[tile] = (tile, tile + 1)
                for entry in span:
                    held = planned.reduce_partial_map[entry]
                    updated.reduce_partial_map[entry] = held // size if held >= 0 else -1
    return updated
