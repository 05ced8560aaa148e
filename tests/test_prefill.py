"""Planned prefill of 8-bit operands: float64's attention of the numbers that codes are, log-sums included, with the
plan's buffers poisoned and larger than the batch; and what is refused."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.mla import (  # noqa: E402
    get_ps_metadata_info_v1,
    get_ps_metadata_v1,
    mla_prefill_ps_asm_fwd,
    mla_reduce_v1,
)

HEADS, TILE = 16, 64
NAN = float("nan")


def ends(counts: list[int]) -> Any:
    return torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()], dtype=torch.int32)


def plan(rows: list[int], tokens: list[int], need_lse: bool, most: tuple[int, int] = (5, 200)) -> list[Any]:
    buffers = []
    for size, dtype in get_ps_metadata_info_v1(most[0], HEADS, most[1], TILE):
        shape = size if isinstance(size, tuple) else (size,)
        buffers.append(torch.full(shape, 77, dtype=torch.int64).to(dtype))
    given = ends(rows), ends(tokens), torch.tensor(tokens, dtype=torch.int32)
    how = {"qlen_granularity": TILE, "kvlen_granularity": 128, "block_size": 1, "need_lse": need_lse}
    get_ps_metadata_v1(*given, 1, HEADS, *buffers, **how)
    return buffers


def exact(q: Any, k: Any, v: Any, rows: list[int], tokens: list[int], causal: bool, scale: float) -> tuple[Any, Any]:
    out, lse = torch.zeros(q.shape[0], HEADS, 128).double(), torch.zeros(q.shape[0], HEADS).double()
    places = zip(pairwise(ends(rows).tolist()), pairwise(ends(tokens).tolist()), strict=True)
    for (first, last), (begin, end) in places:
        scores = torch.einsum("nhd,mhd->hnm", q[first:last].double(), k[begin:end].double()) * scale
        if causal:
            seen = torch.ones(scores.shape[1:], dtype=torch.bool).tril(end - begin - last + first)
            scores = scores.masked_fill(~seen, -torch.inf)
        out[first:last] = torch.einsum("hnm,mhd->nhd", scores.softmax(-1), v[begin:end].double())
        lse[first:last] = scores.logsumexp(-1).T
    return out, lse


@pytest.mark.parametrize("code", [torch.float8_e4m3fn, torch.float8_e4m3fnuz], ids=str)
@pytest.mark.parametrize(
    ("rows", "tokens", "causal", "need_lse"),
    [
        ([130, 5, 64], [130, 5, 64], True, False),
        ([130, 5, 64], [130, 5, 64], True, True),
        ([70, 3], [150, 9], False, True),
        ([3], [40], False, True),
    ],
    ids=["new tokens", "with log-sums", "a context", "one tile"],
)
def test_it_is_float64s_attention(rows: Any, tokens: Any, causal: bool, need_lse: bool, code: Any) -> None:
    torch.manual_seed(sum(rows))
    q, k = torch.randn(sum(rows), HEADS, 192).to(code), torch.randn(sum(tokens), HEADS, 192).to(code)
    v, page = torch.randn(sum(tokens), HEADS, 128).to(code), torch.randperm(sum(tokens)).int()
    scales = [torch.tensor(0.5), torch.tensor([0.25]), torch.tensor(2.0)]
    _, work_indptr, work_info, reduce_indptr, final_map, partial_map = plan(rows, tokens, need_lse)
    pieces = int(reduce_indptr[-1])
    tiles = sum(-(-n // TILE) for n in rows)
    assert pieces == (2 * tiles if need_lse else 0) and int(work_indptr[-1]) == tiles
    # What engines size partial results by.
    assert not pieces or int(partial_map[:pieces].max()) + TILE <= pieces * TILE
    out = torch.full((sum(rows), HEADS, 128), NAN, dtype=torch.bfloat16)
    lse = torch.full((sum(rows), HEADS), NAN)
    data, sums = torch.full((max(pieces, 1) * TILE, HEADS, 128), NAN), torch.full((max(pieces, 1) * TILE, HEADS), NAN)
    # Pages say which row a token is: those of shuffled memory are put right by them.
    lying_k, lying_v = (torch.empty_like(t).view(torch.uint8) for t in (k, v))
    lying_k[page.long()], lying_v[page.long()] = k.view(torch.uint8), v.view(torch.uint8)
    lying = lying_k.view(code), lying_v.view(code)
    where = ends(rows), ends(tokens), page, work_indptr, work_info
    mla_prefill_ps_asm_fwd(q, *lying, *where, max(rows), 0.4, causal, data, sums, out, *scales)
    mla_reduce_v1(data, sums, reduce_indptr, final_map, partial_map, TILE, 0, out, lse)
    right, right_lse = exact(q, k, v, rows, tokens, causal, 0.4 * 0.5 * 0.25)
    error = (out.double() - 2 * right).norm(dim=-1) / (2 * right).norm(dim=-1)
    # A tile of a request with log-sums is rounded, merged with nothing and rounded again to the same number.
    assert float(error.max()) < 8e-3
    if need_lse:
        torch.testing.assert_close(lse.double(), right_lse, rtol=0, atol=1e-4)
    else:
        assert bool(lse.isnan().all()) and bool(data.isnan().all())


def test_a_plan_fills_what_the_batch_does_not_need() -> None:
    *_, reduce_indptr, final_map, partial_map = buffers = plan([70, 3], [70, 3], True)
    assert buffers[1].tolist() == [0, *[3] * (buffers[1].numel() - 1)]
    assert reduce_indptr.tolist() == [0, 2, 4, *[6] * (reduce_indptr.numel() - 3)]
    assert final_map[:3].tolist() == [[0, 64], [64, 70], [70, 73]] and partial_map[:6].tolist() == [
        64 * i for i in range(6)
    ]
    # And writes nothing else.
    assert set(final_map[3:].flatten().tolist()) == {77} and set(partial_map[6:].tolist()) == {77}


def test_what_is_refused() -> None:
    with pytest.raises(ArgumentError, match=r"`work_info` is of 2 rows; allowed: at least 3.*get_ps_metadata_info_v1"):
        plan([130], [130], False, (1, 128))
    with pytest.raises(ArgumentError, match="`block_size` is 16; allowed: 1"):
        get_ps_metadata_v1(ends([3]), ends([3]), ends([3]), 1, HEADS, *plan([3], [3], False))
    with pytest.raises(ArgumentError, match="`max_qlen` is 0"):
        get_ps_metadata_info_v1(1, HEADS, 0)
    _, work_indptr, work_info, *_ = plan([3], [3], False)
    q, v = torch.zeros(3, HEADS, 192), torch.zeros(3, HEADS, 128)
    given = ends([3]), ends([3]), torch.arange(3, dtype=torch.int32)
    rest = 3, 1.0, True, torch.empty(0), torch.empty(0)
    with pytest.raises(ArgumentError, match="`Q` is of dtype torch.float32"):
        mla_prefill_ps_asm_fwd(q, q, v, *given, work_indptr, work_info, *rest, v.bfloat16())
    codes = q.to(torch.float8_e4m3fn), q.to(torch.float8_e4m3fn), v.to(torch.float8_e4m3fn)
    with pytest.raises(ArgumentError, match="`output` is of dtype torch.float32"):
        mla_prefill_ps_asm_fwd(*codes, *given, work_indptr, work_info, *rest, v)
    with pytest.raises(ArgumentError, match="`work_info_set` is None; allowed: a plan of get_ps_metadata_v1"):
        mla_prefill_ps_asm_fwd(*codes, *given, work_indptr, None, *rest, v.bfloat16())
