"""Ragged batches of MLA decode, plans for them, and what a result must be. Not a test file."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from aiterlite.mla import mla_decode_fwd
from aiterlite.ops import operands
from aiterlite.reference import mla as reference
from aiterlite.tables import mla_accuracy

STAMP = 0x4D4C0000
DTYPES = {**operands.DTYPES, **operands.FP8_DTYPES}
PLAN = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
SENTINEL = 77.0


@dataclass
class Batch:
    """Operands of a decode; `lengths` are tokens of each request, `counts` its rows of q."""

    q: Tensor
    kv_buffer: Tensor
    qo_indptr: Tensor
    kv_indptr: Tensor
    kv_indices: Tensor
    kv_last_page_lens: Tensor
    lengths: Sequence[int]
    counts: Sequence[int]
    q_scale: Tensor | None = None
    kv_scale: Tensor | None = None

    @property
    def page_size(self) -> int:
        return self.kv_buffer.shape[1]

    @property
    def pages(self) -> tuple[Tensor, ...]:
        return self.qo_indptr, self.kv_indptr, self.kv_indices, self.kv_last_page_lens

    def to(self, device: str) -> Batch:
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        return Batch(**{name: v.to(device) if isinstance(v, Tensor) else v for name, v in moved.items()})

    def exact(self, causal: bool = True, **options: Any) -> reference.Attention:
        scales = {"q_scale": self.q_scale, "kv_scale": self.kv_scale}
        if self.q.itemsize > 1:
            scales["q_scale"] = None
        return reference.decode(self.q, self.kv_buffer, *self.pages, causal=causal, **scales, **options)


def batch(
    lengths: Sequence[int],
    counts: Sequence[int],
    heads: int,
    *,
    types: tuple[str, str] = ("bf16", "bf16"),
    page_size: int = 1,
    seed: int = 0,
    spare: int = 2,
    tail: int = 5,
    spread: float = 1.0,
) -> Batch:
    """Random numbers, pages in random order, `spare` of them in no request; the index buffer is `tail` longer, -1."""
    generator = torch.Generator().manual_seed(seed)
    per = [-(-length // page_size) for length in lengths]
    used = sum(per)
    order = torch.randperm(used + spare, generator=generator)[:used]
    rows = sum(counts)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    def prefix(values: Sequence[int]) -> Tensor:
        return torch.tensor([0, *values]).cumsum(0).int()

    made = Batch(
        (normal(rows, heads, 576) * spread).to(DTYPES[types[0]]),
        normal(used + spare, page_size, 1, 576).to(DTYPES[types[1]]),
        prefix(counts),
        prefix(per),
        torch.cat([order.int(), torch.full((tail,), -1, dtype=torch.int32)]),
        torch.tensor([(length - 1) % page_size + 1 for length in lengths], dtype=torch.int32),
        lengths,
        counts,
    )
    if types[1] in operands.FP8_DTYPES:
        made.q_scale, made.kv_scale = torch.tensor([0.5]), torch.tensor(0.25)
    return made


def plan(
    case: Batch,
    heads: int,
    fold: int = 1,
    *,
    workgroups: int = 5,
    tile: int = 8,
    seed: int = 0,
    stamp: bool = True,
    room: int = 3,
) -> dict[str, Tensor]:
    """A plan as upstream lays one out: each tile of rows of each folded request cut at random places into pieces, which
    are dealt to the workgroups in order. Buffers have `room` more than it takes, filled with what nobody may follow."""
    generator = torch.Generator().manual_seed(seed)
    junk = 0x3FFFFFFF
    page, rows_of = case.page_size, max(case.counts)
    assert fold == 1 or len(set(case.counts)) == 1
    work, final, partial_map, reduce_indptr, partial = [], [], [], [0], 0
    for folded in range(len(case.lengths) * fold):
        request = folded // fold
        first, count = int(case.qo_indptr[request]), case.counts[request]
        base = first if fold == 1 else folded * count
        begin, end = int(case.kv_indptr[request]), int(case.kv_indptr[request + 1])
        for at in range(0, count, tile):
            rows = base + at, base + min(at + tile, count)
            final.append(rows)
            if end > begin:
                cuts = torch.randint(begin, end + 1, (int(torch.randint(0, 4, (1,), generator=generator)),))
                edges = sorted({begin, end, *cuts.tolist()})
                pieces = list(itertools.pairwise(edges))
                for low, high in pieces:
                    last = 0 if high == end else (end - high - 1) * page + int(case.kv_last_page_lens[request])
                    where = -1 if len(pieces) == 1 else partial
                    word = STAMP | fold if stamp else 0
                    work.append((folded, where, *rows, low, high, last, word))
                    if len(pieces) > 1:
                        partial_map.append(partial)
                        partial += min(tile, rows_of)
            reduce_indptr.append(len(partial_map))
    per = -(-len(work) // workgroups)
    edges = [min(c * per, len(work)) for c in range(workgroups + 1)]
    parts = len(partial_map) + room
    ints = {"dtype": torch.int32}
    return {
        "work_meta_data": torch.zeros(2, dtype=torch.uint64),
        "work_indptr": torch.tensor(edges, **ints),
        "work_info_set": torch.tensor([*work, *[(junk,) * 7 + (STAMP | 3,)] * room], **ints).view(-1, 8),
        "reduce_indptr": torch.tensor([*reduce_indptr, *[len(partial_map)] * room], **ints),
        "reduce_final_map": torch.tensor([*final, *[(junk, junk)] * room], **ints),
        "reduce_partial_map": torch.tensor([*partial_map, *[junk] * (parts - len(partial_map))], **ints),
    }


def ringed(rows: int, heads: int, dtype: torch.dtype, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    """o amid memory that nobody may write to, and the whole of it."""
    whole = torch.full((rows + 4, heads, 512), SENTINEL, dtype=dtype, device=device)
    o = whole[2 : rows + 2]
    o.fill_(math.nan)
    return o, whole


def run(case: Batch, out_dtype: torch.dtype | None = None, **options: Any) -> tuple[Tensor, Tensor]:
    """(o, lse) of a call, whose surroundings of o are checked."""
    rows, heads = case.q.shape[:2]
    dtype = out_dtype or (case.q.dtype if case.q.itemsize > 1 else torch.bfloat16)
    o, whole = ringed(rows, heads, dtype, case.q.device)
    given = {"q_scale": case.q_scale, "kv_scale": case.kv_scale, "return_lse": True, **options}
    most = max(case.counts)
    _, lse = mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, most, page_size=case.page_size, **given)
    assert bool((whole[:2] == SENTINEL).all() and (whole[rows + 2 :] == SENTINEL).all())
    assert lse is not None
    return o, lse


def assert_right(
    got: tuple[Tensor, Tensor], exact: reference.Attention, relative: float = mla_accuracy.RELATIVE_ERROR[16]
) -> None:
    """Every request's rows within the class of accuracy, each element within what roundings allow; the log-sums. An
    8-bit q too is held to the class of 16 bits: no kernel rounds its weights to 8."""
    o, lse = got[0].cpu(), got[1].cpu()
    rows = exact.out.flatten(1).norm(dim=1)
    apart = (o.double() - exact.out).flatten(1).norm(dim=1)
    assert bool((apart <= relative * rows).all()), f"relative error {float((apart / rows).nan_to_num(0).max())}"
    bound = reference.error_bound(exact, o.dtype) * max(1.0, relative / 2e-3)
    assert bool(((o.double() - exact.out).abs() <= bound).all())
    torch.testing.assert_close(lse.double(), exact.lse, rtol=1e-5, atol=2e-4)


def assert_nothing_leaks(device: str, types: tuple[str, str] = ("bf16", "bf16"), heads: int = 16) -> None:
    """NaN in rows of no request, the buffer's first among them, in slots behind a request's end, behind an index of
    -1, and in tokens that only later rows see."""
    case = batch([37, 5], [3, 1], heads, types=types, page_size=16, seed=3, spare=3)
    # The buffer's first row stands in for those that there are not.
    if 0 in case.kv_indices[:4].tolist():
        swap = int(next(i for i in range(case.kv_buffer.shape[0]) if i not in case.kv_indices.tolist()))
        at = case.kv_indices.tolist().index(0)
        case.kv_buffer[swap] = case.kv_buffer[0]
        case.kv_indices[at] = swap
    case.kv_indices[1] = -1
    used = set(case.kv_indices.tolist()) - {-1}
    buffer = case.kv_buffer.clone()
    for page in range(buffer.shape[0]):
        if page not in used:
            buffer[page] = math.nan
    buffer[int(case.kv_indices[2]), 5:] = math.nan
    buffer[int(case.kv_indices[3]), 5:] = math.inf if case.kv_buffer.itemsize > 1 else math.nan
    poisoned = replace(case, kv_buffer=buffer)
    last = replace(case, kv_buffer=buffer.clone())
    last.kv_buffer[int(case.kv_indices[2]), 4] = math.nan
    clean_case, poisoned, last = case.to(device), poisoned.to(device), last.to(device)
    given_plan = {name: value.to(device) for name, value in plan(case, heads, workgroups=2, seed=2).items()}
    for given in ({"num_kv_splits": 2}, given_plan):
        clean = run(clean_case, **given)
        assert all(torch.equal(a, b) for a, b in zip(run(poisoned, **given), clean, strict=True))
        o, lse = run(last, **given)
        rows = [0, 1, 3]
        assert torch.equal(o[rows], clean[0][rows]) and torch.equal(lse[rows], clean[1][rows])
        assert bool(o[2].isnan().all() and lse[2].isnan().all())


def assert_rows_before_and_behind_are_no_request_s(device: str, splits: Sequence[int]) -> None:
    """Requests from the third row of q on, more rows before them than they have, and two behind: those are not
    written, and these are right. So may two calls share q and o."""
    case = batch([40, 0, 70], [1, 1, 1], 16)
    wanted, before, behind = case.exact(), 5, 2
    rows = torch.full((before + 3 + behind, 16, 576), math.nan, dtype=case.q.dtype)
    rows[before : before + 3] = case.q
    moved = replace(case, q=rows, qo_indptr=case.qo_indptr + before).to(device)
    for count in splits:
        o, lse = run(moved, num_kv_splits=count)
        assert_right((o[before : before + 3], lse[before : before + 3]), wanted)
        assert bool(o[:before].isnan().all() and o[before + 3 :].isnan().all())


def assert_replays_agree(
    call: Callable[[Tensor], object], outs: Sequence[Tensor], replays: int, calls: int = 1
) -> None:
    """A graph of some `calls` for each of `outs`, on a stream of its own, all replayed beside each other: every result
    has the bits of a call that ran alone."""
    call(outs[0])
    expected = outs[0].clone()
    graphs, streams = [], [torch.cuda.Stream() for _ in outs]
    for o, stream in zip(outs, streams, strict=True):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            for _ in range(calls):
                call(o)
        graphs.append(graph)
    for _ in range(replays):
        for graph, stream in zip(graphs, streams, strict=True):
            with torch.cuda.stream(stream):
                graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(o, expected) for o in outs)
