"""The MLA kernels on a GPU: accuracy over heads, types and modes, graphs, streams. L2, marked `gpu`."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mla_cases import (  # noqa: E402
    Batch,
    assert_nothing_leaks,
    assert_replays_agree,
    assert_right,
    assert_rows_before_and_behind_are_no_request_s,
    batch,
    plan,
    run,
)

from aiterlite.errors import DispatchError  # noqa: E402
from aiterlite.mla import mla_decode_fwd  # noqa: E402

pytestmark = pytest.mark.gpu

HEADS = (8, 16, 24, 32, 48, 64, 80, 96, 112, 128)
TYPES = (
    ("bf16", "bf16"),
    ("fp16", "fp16"),
    ("bf16", "e4m3fn"),
    ("fp16", "e4m3fn"),
    ("e4m3fn", "e4m3fn"),
)


def moved(given: dict[str, Any]) -> dict[str, Any]:
    return {name: value.cuda() if isinstance(value, torch.Tensor) else value for name, value in given.items()}


@pytest.mark.parametrize("heads", HEADS)
def test_every_count_of_heads_types_and_pages(heads: int) -> None:
    for number, (types, page_size) in enumerate(itertools.product(TYPES, (1, 16, 64)), HEADS.index(heads)):
        q_len = 1 + number % 8
        counts = [q_len, 1, max(1, q_len // 2), q_len]
        case = batch([0, 7, 130, 300 + number], counts, heads, types=types, page_size=page_size, seed=number)
        causal = number % 3 != 0
        given: dict[str, Any] = {"num_kv_splits": (None, 1, 3)[number % 3]}
        if number % 2:
            given = plan(case, heads, workgroups=7, tile=1 + number % 4, seed=number)
        assert_right(run(case.to("cuda"), causal=causal, **moved(given)), case.exact(causal))


@pytest.mark.parametrize("types", [("bf16", "bf16"), ("fp16", "fp16")])
def test_workgroups_of_64_rows_without_a_plan(types: tuple[str, str]) -> None:
    """As many requests as fill the GPU: of fewer, each workgroup has fewer rows."""
    lengths, counts = [1 + 37 * i % 330 for i in range(150)], [1 + i % 2 for i in range(150)]
    for page_size, splits in ((64, 1), (16, 2), (1, 2)):
        case = batch(lengths, counts, 64, types=types, page_size=page_size, seed=page_size)
        assert_right(run(case.to("cuda"), num_kv_splits=splits), case.exact())


@pytest.mark.parametrize("q_len", [1, 4])
@pytest.mark.parametrize("fold", [1, 4])
def test_64_heads_of_8_bits_by_either_plan(fold: int, q_len: int) -> None:
    case = batch([200, 0, 77], [q_len] * 3, 64, types=("e4m3fn", "e4m3fn"))
    assert_right(run(case.to("cuda"), **moved(plan(case, 64, fold, workgroups=9))), case.exact())


def _call(case: Batch, o: torch.Tensor, **given: Any) -> torch.Tensor:
    _, lse = mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, max(case.counts), return_lse=True, **given)
    assert lse is not None
    return lse


def test_replays_of_a_graph_give_the_same_bits_on_two_streams() -> None:
    case = batch([1000, 333], [1, 1], 16).to("cuda")
    outs = [torch.empty(2, 16, 512, dtype=torch.bfloat16, device="cuda") for _ in range(2)]
    assert_replays_agree(lambda o: _call(case, o, num_kv_splits=8), outs, 500)


def test_a_plan_is_refilled_under_a_captured_graph() -> None:
    """Buffers are made once for the largest batch; the graph reads what they hold when it is replayed."""
    cases = [batch([500, 20, 90], [2, 2, 2], 16, seed=seed, spare=7) for seed in range(3)]
    plans = [plan(case, 16, workgroups=11, seed=seed, room=40) for seed, case in enumerate(cases)]
    sizes = {name: max(given[name].shape[0] for given in plans) for name in plans[0]}
    held = {name: plans[0][name].new_zeros((sizes[name], *plans[0][name].shape[1:])).cuda() for name in plans[0]}
    held["work_indptr"] = plans[0]["work_indptr"].cuda()
    device = cases[0].to("cuda")

    def fill(number: int) -> None:
        given, case = plans[number], cases[number].to("cuda")
        for name, tensor in given.items():
            held[name][: tensor.shape[0]].copy_(tensor)
            if name == "reduce_indptr":
                held[name][tensor.shape[0] :] = tensor[-1]
        device.kv_indices.copy_(case.kv_indices)
        device.kv_buffer.copy_(case.kv_buffer)
        device.q.copy_(case.q)

    o = torch.empty(6, 16, 512, dtype=torch.bfloat16, device="cuda")
    fill(0)
    _call(device, o, **held)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        lse = _call(device, o, **held)
    for number in (1, 2, 0):
        fill(number)
        graph.replay()
        torch.cuda.synchronize()
        assert_right((o, lse), cases[number].exact())


@pytest.mark.parametrize("types", TYPES)
@pytest.mark.parametrize("heads", [16, 64])
def test_what_must_not_be_read_changes_no_bit(heads: int, types: tuple[str, str]) -> None:
    assert_nothing_leaks("cuda", types, heads)


def test_rows_before_and_behind_requests_stay() -> None:
    assert_rows_before_and_behind_are_no_request_s("cuda", (1, 2, 9))


@pytest.mark.parametrize("types", TYPES)
def test_outliers_stay_finite_and_within_the_class(types: tuple[str, str]) -> None:
    """Rows of q of 1e4 beside ones of 1, rope dimensions of 1e3: as far as the types reach."""
    case = batch([700, 90], [1, 2], 32, types=types, seed=4)
    q, kv = (448 if name == "e4m3fn" else large for name, large in zip(types, (1e4, 1e3), strict=True))
    case.q = (
        (case.q.float() * torch.where(torch.arange(32) % 5 == 0, q / 4, 1.0)[:, None]).clamp(-q, q).to(case.q.dtype)
    )
    rope = case.kv_buffer[..., 512:].float() * (kv / 4)
    case.kv_buffer[..., 512:] = rope.clamp(-kv, kv).to(case.kv_buffer.dtype)
    o, lse = run(case.to("cuda"), sm_scale=1e-4)
    exact = case.exact(sm_scale=1e-4)
    assert bool(o.isfinite().all() and lse.isfinite().all())
    apart = (o.cpu().double() - exact.out).norm() / exact.out.norm()
    assert apart <= 2e-3


def test_8_bit_kv_of_another_flavour_is_refused() -> None:
    with pytest.raises(DispatchError, match="kv_dtype must be bf16 or fp16 or e4m3fn"):
        run(batch([20], [1], 16, types=("bf16", "e4m3fnuz")).to("cuda"))
