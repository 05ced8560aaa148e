"""MLA decode, prefill and merge against float64, on the CPU; what must not be read, and what is refused. L2."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mla_cases import (  # noqa: E402
    PLAN,
    Batch,
    assert_right,
    assert_rows_before_and_behind_are_no_request_s,
    batch,
    plan,
    ringed,
    run,
)
from torch_threads import threads  # noqa: E402

from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.mla import mla_decode_fwd, mla_prefill_fwd, mla_reduce_v1  # noqa: E402
from aiterlite.reference import mla as reference  # noqa: E402
from aiterlite.tables import mla as tables  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]

HEADS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
TYPES = list(dict.fromkeys((q, kv) for q, kv, _ in tables.TYPES))
PAGE_SIZES = (1, 16, 64)


def ragged(number: int, heads: int, **options: Any) -> Batch:
    """The number-th batch: requests of few and many tokens, one of none, of as many rows of q as the number says."""
    generator = torch.Generator().manual_seed(number)
    q_len = 1 + number % 8
    lengths = [0, *torch.randint(1, 40, (2,), generator=generator).tolist(), 97 + number % 32]
    order = torch.randperm(4, generator=generator).tolist()
    counts = [q_len, *torch.randint(1, q_len + 1, (3,), generator=generator).tolist()]
    return batch([lengths[i] for i in order], counts, heads, seed=number, **options)


@pytest.mark.parametrize("heads", HEADS)
def test_every_count_of_heads_types_and_pages(heads: int) -> None:
    """A sixth of the pairs of types and page size with each count; other rows, splits and masks."""
    first = HEADS.index(heads)
    every = list(itertools.product(TYPES, PAGE_SIZES))
    for number, (types, page_size) in enumerate(every[first % 6 :: 6], first):
        case = ragged(number, heads, types=types, page_size=page_size)
        causal = number % 3 != 0
        given = {"num_kv_splits": (None, 1, 3)[number % 3], "causal": causal}
        if number % 2:
            given = {**plan(case, heads, seed=number, tile=1 + number % 4), "causal": causal}
        assert_right(run(case, **given), case.exact(causal))


@pytest.mark.parametrize("heads", [1, 4, 12, 20])
def test_other_counts_of_heads_are_no_worse(heads: int) -> None:
    case = ragged(heads, heads)
    assert_right(run(case, num_kv_splits=2), case.exact())


@pytest.mark.parametrize("q_len", range(1, 9))
def test_a_plan_is_decoded_by_its_own_fold(q_len: int) -> None:
    heads, fold = ((64, 4), (128, 8), (48, 3), (32, 1))[q_len % 4]
    types = (("bf16", "bf16"), ("e4m3fn", "e4m3fn"), ("bf16", "e4m3fnuz"))[q_len % 3]
    case = batch([5, 0, 40, 13], [q_len] * 4, heads, types=types, seed=q_len)
    assert_right(run(case, **plan(case, heads, fold, seed=q_len, tile=(8, 2, 1)[q_len % 3])), case.exact())


def test_a_plan_without_stamps_is_read_by_the_table() -> None:
    """CPUs fold nothing; test_mla_emulated.py has targets that do."""
    for types in (("bf16", "e4m3fn"), ("bf16", "bf16")):
        case = batch([40, 7], [2, 2], 64, types=types)
        assert_right(run(case, **plan(case, 64, stamp=False, seed=3)), case.exact())


def test_both_modes_of_the_crash_at_64_heads_are_right() -> None:
    """64 heads, 8-bit, planned as they are and folded into four: upstream's decode followed neither its planner nor its
    sizes."""
    for q_len in (1, 4):
        case = batch([30, 70, 3], [q_len] * 3, 64, types=("e4m3fn", "e4m3fn"), seed=q_len)
        results = [run(case, **plan(case, 64, fold, seed=5)) for fold in (1, 4)]
        for got in results:
            assert_right(got, case.exact())


def test_splits_of_each_request() -> None:
    case = batch([100, 33, 0, 170], [2, 1, 3, 2], 16)
    indptr = torch.tensor([0, 1, 5, 6, 9], dtype=torch.int32)
    assert_right(run(case, num_kv_splits=4, num_kv_splits_indptr=indptr), case.exact())


def test_parts_are_normalised_and_merge_to_the_result() -> None:
    case = batch([100, 33], [2, 1], 16)
    o, _ = ringed(3, 16, torch.bfloat16)
    logits, lse = mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, 2, num_kv_splits=3, return_logits=True)
    assert lse is None and logits is not None and logits.shape == (3, 3, 16, 512)
    one, _ = mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, 2, num_kv_splits=1, return_logits=True)
    assert one is not None and one.shape == (3, 1, 16, 512) and torch.equal(one[:, 0], o)
    seen = reference.decode(
        case.q[:2],
        case.kv_buffer,
        torch.tensor([0, 2]),
        torch.tensor([0, 64]),
        case.kv_indices,
        torch.ones(1).int(),
        causal=False,
    )
    torch.testing.assert_close(logits[:2, 0].double(), seen.out, rtol=1e-3, atol=1e-4)


def test_threads_change_no_bit() -> None:
    case = ragged(11, 32)
    results = []
    for count in (1, 3):
        with threads(count):
            results.append(run(case, num_kv_splits=5))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_outliers_stay_finite_and_right() -> None:
    case = batch([64, 20], [1, 1], 16, seed=2)
    case.q[..., 512:] *= 0
    case.kv_buffer[..., 512:] *= 1000
    case.q[0] *= 1e4
    assert_right(run(case, num_kv_splits=2), case.exact())


# What must not be read ------------------------------------------------------------------------------------------------


def poisoned(case: Batch, value: float) -> Batch:
    """The same, with `value` in each row of KV that no request has."""
    kept = torch.zeros(case.kv_buffer.shape[:2], dtype=torch.bool)
    for b, length in enumerate(case.lengths):
        for at in range(length):
            index = case.kv_indices[int(case.kv_indptr[b]) + at // case.page_size]
            kept[index, at % case.page_size] = True
    assert not bool(kept.all())
    buffer = case.kv_buffer.clone()
    held = torch.full((576,), value).to(buffer.dtype).view(torch.uint8)
    buffer.view(torch.uint8)[~kept] = held
    return Batch(case.q, buffer, *case.pages, case.lengths, case.counts, case.q_scale, case.kv_scale)


def same_bits(a: tuple[Any, ...], b: tuple[Any, ...]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("types", [("bf16", "bf16"), ("fp16", "fp16"), ("bf16", "e4m3fn"), ("e4m3fnuz", "e4m3fnuz")])
@pytest.mark.parametrize("page_size", PAGE_SIZES)
def test_rows_of_no_request_change_no_bit(page_size: int, types: tuple[str, str]) -> None:
    case = batch([50, 0, 21, 17], [3, 1, 2, 4], 16, types=types, page_size=page_size)
    for given in ({"num_kv_splits": 2}, plan(case, 16, seed=1, tile=2)):
        clean = run(poisoned(case, 0.0), **given)
        values = (math.nan,) if types[1].startswith("e4m3") else (math.nan, math.inf)
        assert all(same_bits(run(poisoned(case, value), **given), clean) for value in values)


def test_rows_before_and_behind_requests_stay() -> None:
    assert_rows_before_and_behind_are_no_request_s("cpu", (1, 2, 9))


@pytest.mark.parametrize("heads", [8, 24, 64])
def test_a_row_sees_nothing_of_masked_tokens(heads: int) -> None:
    """NaN in the last tokens reaches the rows that see them, and no bit of the others."""
    case = batch([40, 37], [5, 2], heads, seed=4)
    clean = run(case, num_kv_splits=2)
    for back in range(1, 5):
        token = int(case.kv_indices[int(case.kv_indptr[1]) - back])
        buffer = case.kv_buffer.clone()
        buffer[token, 0, 0, :512] = math.nan
        o, lse = run(Batch(case.q, buffer, *case.pages, case.lengths, case.counts), num_kv_splits=2)
        unseen = [*range(5 - back), 5, 6]
        assert torch.equal(o[unseen], clean[0][unseen]) and torch.equal(lse[unseen], clean[1][unseen])
        assert bool(o[[i for i in range(5) if i not in unseen]].isnan().all())


def test_an_index_that_names_no_page_has_no_tokens() -> None:
    case = batch([30, 12], [1, 2], 16, seed=6)
    case.kv_indices[[3, 17, 33]] = torch.tensor([-1, 1 << 20, -7], dtype=torch.int32)
    assert_right(run(case, num_kv_splits=2, causal=False), case.exact(False))


def test_rows_of_a_plan_that_do_not_fit_are_no_work() -> None:
    """Requests, rows, parts and folds that the operands have not: nothing is written for them."""
    case = batch([20, 30], [2, 2], 32)
    given = plan(case, 32, seed=2, room=0)
    for column, value in ((0, 7), (0, -1), (2, 40), (3, 3000), (1, 1 << 30), (7, 0x4D4C0003)):
        broken = {name: tensor.clone() for name, tensor in given.items()}
        broken["work_info_set"][:, column] = value
        broken["reduce_indptr"].zero_()
        o, _ = run(case, **broken)
        assert bool(o.isnan().all()) or column == 1
    given["work_indptr"][1:] = 0x7FFFFFFF
    assert_right(run(case, **given), case.exact())


# Merge ----------------------------------------------------------------------------------------------------------------


def parts(tiles: int, heads: int, dim: int, seed: int = 0) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(seed)
    return {
        "partial_output": torch.randn(12, 1, heads, dim, generator=generator),
        "partial_lse": torch.randn(12, 1, heads, 1, generator=generator),
        "reduce_indptr": torch.tensor([0, 3, 3, 4, 6, 6], dtype=torch.int32)[: tiles + 1],
        "reduce_final_map": torch.tensor([[0, 2], [2, 3], [3, 5], [5, 6], [6, 7]], dtype=torch.int32)[:tiles],
        "reduce_partial_map": torch.tensor([0, 4, 2, 8, 10, 6], dtype=torch.int32),
    }


@pytest.mark.parametrize("dim", tables.MERGED_DIMS)
@pytest.mark.parametrize("heads", [1, 10, 16, 128])
def test_merge_of_tiles(heads: int, dim: int) -> None:
    given = parts(5, heads, dim)
    given["partial_lse"][[4, 10]] = -math.inf
    given["partial_output"][[4, 10]] = math.nan
    for dtype in (torch.bfloat16, torch.float16):
        out = torch.full((8, heads, dim), 7.0, dtype=dtype)
        lse = torch.full((8, heads), 7.0)
        mla_reduce_v1(**given, max_seqlen_q=2, num_kv_splits=0, final_output=out, final_lse=lse)
        alone = torch.full_like(out, 7.0)
        # The older form: no num_kv_splits, by position.
        mla_reduce_v1(*given.values(), 2, alone)
        assert torch.equal(alone, out)
        untouched = [2, 3, 4, 6, 7]
        assert bool((out[untouched] == 7).all() and (lse[untouched] == 7).all())
        for row, of in ((0, [0, 4, 2]), (1, [1, 5, 3]), (5, [10, 6])):
            value, log_sum = reference.merge(given["partial_output"][of, 0], given["partial_lse"][of, 0, :, 0])
            torch.testing.assert_close(out[row].double(), value, rtol=2**-7, atol=2**-8)
            torch.testing.assert_close(lse[row].double(), log_sum, rtol=1e-5, atol=1e-5)


def test_merge_without_a_final_map_and_of_nothing() -> None:
    given = parts(2, 16, 512)
    given["reduce_final_map"] = None
    given["reduce_indptr"] = torch.tensor([0, 2, 4], dtype=torch.int32)
    given["reduce_partial_map"] = torch.tensor([0, 2, 4, 6], dtype=torch.int32)
    given["partial_lse"][4:8] = -math.inf
    out, lse = torch.full((4, 16, 512), math.nan, dtype=torch.bfloat16), torch.full((4, 16), math.nan)
    mla_reduce_v1(**given, max_seqlen_q=2, num_kv_splits=3, final_output=out, final_lse=lse)
    value, _ = reference.merge(given["partial_output"][[1, 3], 0], given["partial_lse"][[1, 3], 0, :, 0])
    torch.testing.assert_close(out[1].double(), value, rtol=2**-7, atol=2**-8)
    assert bool((out[2:] == 0).all() and (lse[2:] == -math.inf).all()) and torch.isfinite(lse[:2]).all()


# Prefill --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("heads", "page_size"), [(16, 1), (128, 16), (24, 64)])
def test_prefill(heads: int, page_size: int) -> None:
    case = batch([30, 9, 45], [20, 9, 1], heads, page_size=page_size)
    o, _ = ringed(30, heads, torch.bfloat16)
    out, lse = mla_prefill_fwd(case.q, case.kv_buffer, o, *case.pages, 20)
    assert out is o and lse.shape == (30, 1, heads, 1)
    assert_right((o, lse[:, 0, :, 0]), case.exact())


# Refusals -------------------------------------------------------------------------------------------------------------


def refused(case: Batch, said: str, **changes: Any) -> None:
    rows, heads = case.q.shape[:2]
    given = {
        "q": case.q,
        "kv_buffer": case.kv_buffer,
        "o": torch.empty(rows, heads, 512, dtype=torch.bfloat16),
        **dict(zip(("qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens"), case.pages, strict=True)),
        "max_seqlen_q": 2,
        "q_scale": case.q_scale,
        "kv_scale": case.kv_scale,
        **changes,
    }
    with pytest.raises(ArgumentError, match=said):
        mla_decode_fwd(**given)


def test_what_is_refused() -> None:
    case = batch([20, 30], [2, 2], 16)
    refused(case, "`q` is of shape", q=case.q[..., :512])
    refused(case, "`kv_buffer` is of dtype torch.float16", kv_buffer=case.kv_buffer.half())
    refused(case, "`kv_buffer` is of shape", kv_buffer=case.kv_buffer[:, :, 0])
    refused(case, "`o` is of shape", o=torch.empty(4, 16, 576).bfloat16())
    refused(case, "`o` is of dtype", o=torch.empty(4, 16, 512).half())
    refused(case, "`q` is of strides", q=case.q.transpose(0, 1).contiguous().transpose(0, 1))
    refused(case, "`page_size` is 16; allowed: 1", page_size=16)
    refused(case, "`qo_indptr` is of dtype torch.int64", qo_indptr=case.qo_indptr.long())
    refused(case, r"`kv_indptr` is of shape \[2\]; allowed: \[3\] or longer", kv_indptr=case.kv_indptr[:2])
    refused(case, "`kv_indices` is on meta", kv_indices=case.kv_indices.to("meta"))
    refused(case, "`num_kv_splits` is 65", num_kv_splits=65)
    refused(case, "`logit_cap` is 30.0", logit_cap=30.0)
    refused(case, "`nhead_kv` is 2", nhead_kv=2)
    refused(case, "`cp_world_size` is 2", cp_world_size=2)
    refused(case, "`max_seqlen_q` is 0", max_seqlen_q=0)
    given = plan(case, 16)
    for name in PLAN[1:]:
        refused(case, f"`{name}` is None", **{**given, name: None})
    refused(
        case, "`work_info_set` is of shape", **{**given, "work_info_set": given["work_info_set"][:, :7].contiguous()}
    )
    refused(case, "`reduce_final_map` is of shape", **{**given, "reduce_final_map": given["reduce_final_map"][:1]})
    eight = batch([20], [2], 16, types=("e4m3fn", "e4m3fn"))
    refused(eight, "`q_scale` is None; allowed: float32 of one element, beside a q of", q_scale=None)
    refused(eight, "`kv_scale` is of shape", kv_scale=torch.ones(2))
    shifted = torch.empty(32 * 576 + 4, dtype=torch.bfloat16)[4:].view(32, 1, 1, 576)
    refused(case, "rows at multiples of 16 bytes", kv_buffer=shifted)


def test_an_empty_call_writes_nothing() -> None:
    case = batch([20], [2], 16)
    none = torch.zeros(1, dtype=torch.int32)
    o = torch.empty(0, 16, 512, dtype=torch.bfloat16)
    _, lse = mla_decode_fwd(
        case.q[:0], case.kv_buffer, o, none, none, case.kv_indices, case.kv_last_page_lens, 1, return_lse=True
    )
    assert lse is not None and lse.shape == (0, 16)


def test_strided_pages_are_read_where_they_are() -> None:
    case = batch([20, 40], [2, 2], 16, page_size=16)
    wide = torch.full((*case.kv_buffer.shape[:2], 1, 640), math.nan, dtype=torch.bfloat16)
    wide[..., 64:] = case.kv_buffer
    case.kv_buffer = wide[..., 64:]
    assert_right(run(case, num_kv_splits=2), case.exact())
