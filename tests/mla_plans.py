"""Random calls of the planners of MLA decode, buffers ringed with poison, and what must hold of any plan."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from aiterlite.ops import mla_plan_operators as operators
from aiterlite.reference import mla_plan as reference
from aiterlite.reference.mla_plan import PlanCall, Planned
from aiterlite.tables.mla_plan import Sizes, most_pieces

POISON, RING = -0x5A5A5A5B, 24


def prefix(lengths: Sequence[int]) -> list[int]:
    sums = [0]
    for length in lengths:
        sums.append(sums[-1] + length)
    return sums


@dataclass(frozen=True)
class Case:
    """A call, and what its buffers hold."""

    planner: str
    call: PlanCall
    held: Sizes

    @property
    def batch(self) -> int:
        return len(self.call.kv_indptr) - 1

    def expected(self) -> Planned:
        return reference.PLANNERS[self.planner](self.call)


def tiles_at_most(call: PlanCall) -> int:
    batch = len(call.kv_indptr) - 1
    return batch * call.fold * reference.up(call.uniform_q or call.max_q, call.tile_tokens)


def case_of(random: random.Random, planner: str, most_batch: int = 40, most_kv: int = 3000) -> Case:
    """A random call: ragged or uniform, folded or not, with short and empty requests, in buffers of any size that
    serves."""
    batch = random.choice([0, 1, 2, 3, random.randint(1, most_batch)])
    max_q = random.randint(1, 8)
    uniform_q = random.choice([0, max_q, max_q, random.randint(1, max_q)])
    scale = random.choice([3, 20, 300, most_kv])
    same = random.randint(0, scale) if random.random() < 0.2 else None
    granularity = random.choice([1, 4, 16, 16, 16, 64])

    def length() -> int:
        # Some a little longer than whole blocks: what is left behind a cut may then be too short for a piece.
        close = granularity * random.randint(1, 40) + random.randint(0, 9)
        return random.choice([0, 1, random.randint(0, scale), scale, close, close])

    kv = [length() if same is None else same for _ in range(batch)]
    q = [uniform_q or random.randint(0, max_q) for _ in range(batch)]
    page = random.choice([1, 1, 1, 16, 64])
    kv = [length if page == 1 else reference.up(length, page) for length in kv]
    units = random.choice([1, 2, 7, 64, 132, 304])
    call = PlanCall(
        qo_indptr=prefix(q),
        kv_indptr=prefix(kv),
        kv_last_page_lens=[random.randint(1, page) for _ in range(batch)],
        heads=16,
        fold=random.choice([1, 1, 2, 4, 8]),
        tile_tokens=random.choice([1, 2, 3, 8]),
        max_q=max_q,
        uniform_q=uniform_q,
        page_size=page,
        granularity=granularity,
        trim=page == 1 and random.random() < 0.5,
        units=units,
        splits=0,
        fixed_splits=random.choice([0, 16]),
        reduce_tiles=0,
    )
    tiles = tiles_at_most(call)
    tight = random.random() < 0.3
    spare = 0 if tight else random.randint(0, 5) * units
    rows = tiles + (0 if planner == "fast" else tiles * random.randint(0, 16)) + spare
    held = Sizes(units, rows, tiles + (0 if tight else random.randint(0, 9)), rows if tight else rows + 3)
    most = random.choice([0, 0, 1, 3, 500])
    return Case(
        planner, replace(call, splits=most_pieces(planner, held, tiles, most), reduce_tiles=held.reduce_tiles), held
    )


class Buffers:
    """A plan's buffers, each in the middle of poison."""

    def __init__(self, held: Sizes, device: torch.device | str = "cpu") -> None:
        shapes = {
            "work_info_set": (held.work_rows, 8),
            "work_indptr": (held.units + 1,),
            "reduce_indptr": (held.reduce_tiles + 1,),
            "reduce_final_map": (held.reduce_tiles, 2),
            "reduce_partial_map": (held.partial_entries,),
        }
        self.whole: dict[str, Tensor] = {}
        self.inner: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            entries = torch.Size(shape).numel()
            self.whole[name] = torch.full((entries + 2 * RING,), POISON, dtype=torch.int32, device=device)
            self.inner[name] = self.whole[name][RING : RING + entries].view(shape)
        self.addresses = torch.zeros(2, dtype=torch.uint64, device=device)

    @property
    def in_order(self) -> list[Tensor]:
        """As `get_mla_metadata_v1` takes them."""
        return [self.addresses, *self.inner.values()]

    def check_rings(self) -> None:
        for name, whole in self.whole.items():
            around = torch.cat([whole[:RING], whole[-RING:]])
            assert bool((around == POISON).all()), f"{name}: a write outside"


def run(case: Case, buffers: Buffers, device: torch.device | str = "cpu") -> None:
    call = case.call

    def ints(values: Sequence[int]) -> Tensor:
        return torch.tensor(list(values), dtype=torch.int32, device=device)

    operators.PLAN(
        ints(call.qo_indptr),
        ints(call.kv_indptr),
        ints(call.kv_last_page_lens),
        *buffers.in_order,
        planner=case.planner,
        heads=call.heads,
        fold=call.fold,
        tile_tokens=call.tile_tokens,
        max_q=call.max_q,
        uniform_q=call.uniform_q,
        page_size=call.page_size,
        granularity=call.granularity,
        trim=call.trim,
        splits=call.splits,
        fixed_splits=call.fixed_splits,
    )


def check_equal(case: Case, buffers: Buffers, expected: Planned) -> None:
    """Every entry that the contract names has its value, and nothing else was written."""
    held = {name: tensor.tolist() for name, tensor in buffers.inner.items()}
    untouched = [POISON, POISON]
    assert held["work_indptr"] == expected.work_indptr
    rows = len(expected.work_info_set)
    assert [tuple(row) for row in held["work_info_set"][:rows]] == expected.work_info_set
    assert all(row == [POISON] * 8 for row in held["work_info_set"][rows:])
    assert held["reduce_indptr"] == expected.reduce_indptr
    final = [list(expected.reduce_final_map.get(tile, untouched)) for tile in range(case.held.reduce_tiles)]
    entries = len(expected.reduce_partial_map)
    if case.planner == "cost":
        # It keeps what it needs meanwhile in the maps.
        final = final[: len(expected.reduce_final_map)]
    assert held["reduce_final_map"][: len(final)] == final
    assert held["reduce_partial_map"][:entries] == expected.reduce_partial_map
    assert all(entry == POISON for entry in held["reduce_partial_map"][entries:])
    pointers = [buffers.inner[name].data_ptr() for name in ("work_indptr", "work_info_set")]
    assert buffers.addresses.tolist() == pointers
    buffers.check_rings()


def covered(planned: Planned) -> dict[tuple[int, int], list[tuple[int, int]]]:
    """The pieces of each (folded request, first query row), in the order of the rows."""
    found: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for folded, _, q_start, _, kv_start, kv_end, _, _ in planned.work_info_set:
        found.setdefault((folded, q_start), []).append((kv_start, kv_end))
    return found


def check_covers(case: Case, planned: Planned) -> None:
    """Pieces cover the KV of each tile once, in order; partial results lie apart; what is split is merged."""
    call, pieces = case.call, covered(planned)
    tiles = reference.tiles_of(call)
    assert set(pieces) == {(tile.folded, tile.q_start) for tile in tiles if tile.works}
    places_of: dict[tuple[int, int], list[int]] = {}
    for row in planned.work_info_set:
        places_of.setdefault((row[0], row[2]), []).append(row[1])
    taken: set[int] = set()
    for number, tile in enumerate(tiles):
        if not tile.works:
            assert planned.reduce_indptr[number] == planned.reduce_indptr[number + 1]
            continue
        own = sorted(pieces[tile.folded, tile.q_start])
        if case.planner != "cost":
            assert own == pieces[tile.folded, tile.q_start]
        assert own[0][0] == tile.kv_begin and own[-1][1] == tile.kv_end - tile.tail
        assert all(start < end for start, end in own)
        assert all(end == start for (_, end), (start, _) in itertools.pairwise(own))
        places = sorted(places_of[tile.folded, tile.q_start])
        entries = planned.reduce_partial_map[planned.reduce_indptr[number] : planned.reduce_indptr[number + 1]]
        if len(own) == 1:
            assert places == [-1] and entries in ([], [-1])
            continue
        assert sorted(entries) == places and planned.reduce_final_map[number] == (tile.q_start, tile.q_end)
        for place in places:
            used = set(range(place, place + tile.q_end - tile.q_start))
            assert not used & taken
            taken |= used
    assert len(planned.work_info_set) == planned.work_indptr[-1] <= case.held.work_rows
    assert planned.work_indptr == sorted(planned.work_indptr) and planned.work_indptr[0] == 0
    assert len(planned.reduce_partial_map) <= case.held.partial_entries
    assert not taken or max(taken) < max(1, case.held.partial_entries) * call.max_q
