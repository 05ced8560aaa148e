"""MLA's kernel of 64 rows of q a workgroup on a GPU (csrc/mla/sm90_decode_wide.hip): pages, masks, lengths of q,
and the order of its two groups of warps. L2, marked `gpu`."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from mla_cases import Batch, assert_nothing_leaks, assert_replays_agree, assert_right, batch, plan, run  # noqa: E402

from aiterlite.mla import mla_decode_fwd  # noqa: E402
from aiterlite.reference.mla import Attention  # noqa: E402

pytestmark = pytest.mark.gpu


def exact(case: Batch, causal: bool = True) -> Attention:
    """By the GPU, in float64, since cases are many."""
    found = case.to("cuda").exact(causal)
    return Attention(found.out.cpu(), found.lse.cpu(), found.spread.cpu())


TYPES = (("bf16", "bf16"), ("fp16", "fp16"))
PAGES = (1, 16, 64)


@pytest.mark.parametrize("page_size", PAGES)
@pytest.mark.parametrize("types", TYPES)
def test_every_length_of_q_and_count_of_heads_by_a_plan(types: tuple[str, str], page_size: int) -> None:
    """Pieces of none, one and many tiles behind each other in a workgroup, in either order of its groups."""
    for number, (heads, q_len) in enumerate(
        itertools.product((40, 64, 96, 128), range(1, 9)),
    ):
        lengths = [q_len, 0, 130, 300 + number, 64, 63 + q_len, 1, 700]
        counts = [q_len, 1, max(1, q_len // 2), q_len, 1, q_len, 1, q_len]
        case = batch(lengths, counts, heads, types=types, page_size=page_size, seed=number)
        causal = number % 3 != 0
        given = plan(case, heads, workgroups=3 + number % 5, tile=1 + number % 8, seed=number)
        got = run(case.to("cuda"), causal=causal, **{name: value.cuda() for name, value in given.items()})
        assert_right(got, exact(case, causal))


@pytest.mark.parametrize("page_size", PAGES)
@pytest.mark.parametrize("types", TYPES)
def test_ragged_batches_that_fill_the_gpu_without_a_plan(types: tuple[str, str], page_size: int) -> None:
    for q_len, splits in ((1, 1), (4, 2), (8, 1)):
        lengths, counts = [1 + 37 * i % 530 for i in range(150)], [1 + i % q_len for i in range(150)]
        case = batch(lengths, counts, 64, types=types, page_size=page_size, seed=page_size)
        assert_right(run(case.to("cuda"), num_kv_splits=splits), exact(case))


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("heads", [64, 128])
def test_what_must_not_be_read_changes_no_bit(heads: int, types: tuple[str, str]) -> None:
    assert_nothing_leaks("cuda", types, heads)


@pytest.mark.parametrize("page_size", PAGES)
@pytest.mark.parametrize("types", TYPES)
def test_scores_that_grow_and_weights_of_few_tokens(types: tuple[str, str], page_size: int) -> None:
    """The maximum rises from tile to tile, in rows of its own each; one token, or a few, have all the weight."""
    case = batch([1000, 65, 640], [1, 1, 2], 64, types=types, page_size=page_size, seed=5, spread=6.0)
    given = {name: value.cuda() for name, value in plan(case, 64, workgroups=4, seed=1).items()}
    assert_right(run(case.to("cuda"), **given), exact(case))
    # Not to scores of 60 and more: what the matrix unit's sums lose there, fp16's bound on elements has no room for.
    case = batch([1000, 65, 640], [1, 1, 2], 64, types=types, page_size=page_size, seed=6, spread=3.0)
    given = {name: value.cuda() for name, value in plan(case, 64, workgroups=4, seed=1).items()}
    rising = replace(case, kv_buffer=case.kv_buffer.clone())
    indices = case.kv_indices[: int(case.kv_indptr[-1])].long()
    steps = torch.linspace(0.05, 2.0, len(indices))[:, None, None, None]
    rising.kv_buffer[indices] = (case.kv_buffer[indices].float() * steps).to(case.kv_buffer.dtype)
    assert_right(run(rising.to("cuda"), **given), exact(rising))


@pytest.mark.parametrize("sm_scale", [-0.05, 0.0, 1e-3])
def test_any_scale(sm_scale: float) -> None:
    case = batch([200, 0, 129], [2, 1, 3], 64, page_size=16, seed=2)
    given = {name: value.cuda() for name, value in plan(case, 64, workgroups=3, seed=3).items()}
    assert_right(run(case.to("cuda"), sm_scale=sm_scale, **given), case.exact(sm_scale=sm_scale))


@pytest.mark.parametrize("page_size", [1, 64])
def test_values_that_are_not_finite_reach_the_rows_that_see_them_alone(page_size: int) -> None:
    """In the first, a middle and the last tile's last tokens, which only the later of 8 rows of q see."""
    case = batch([200, 129, 70], [8, 8, 8], 64, page_size=page_size, seed=9)
    given = {name: value.cuda() for name, value in plan(case, 64, workgroups=2, tile=8, seed=4).items()}
    clean = run(case.to("cuda"), **given)
    broken = replace(case, kv_buffer=case.kv_buffer.clone())
    for request, length in enumerate(case.lengths):
        at = length - 3 + request
        page = int(case.kv_indices[int(case.kv_indptr[request]) + at // page_size])
        broken.kv_buffer[page, at % page_size, 0, 100 * request : 100 * request + 7] = (math.nan, math.inf, 1)[request]
    o, lse = run(broken.to("cuda"), **given)
    for request in range(2):
        rows = slice(8 * request, 8 * request + 5 + request)
        assert torch.equal(o[rows], clean[0][rows]) and torch.equal(lse[rows], clean[1][rows])


@pytest.mark.parametrize("page_size", [1, 64])
def test_replays_of_a_graph_give_the_same_bits_on_two_streams(page_size: int) -> None:
    case = batch([1 + 91 * i % 900 for i in range(140)], [1] * 140, 128, page_size=page_size).to("cuda")
    outs = [torch.empty_like(case.q[..., :512]) for _ in range(2)]

    def call(o: torch.Tensor) -> None:
        mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, 1, page_size=page_size, num_kv_splits=2)

    assert_replays_agree(call, outs, 300)
