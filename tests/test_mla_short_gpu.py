"""MLA's kernel for few tokens a workgroup on a GPU (csrc/mla/sm90_decode_short.hip): clusters and splits, pages, masks.
L2, marked `gpu`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import pytest

torch = pytest.importorskip("torch")

from mla_cases import Batch, assert_replays_agree, assert_right, batch, run  # noqa: E402

from aiterlite import cache  # noqa: E402
from aiterlite.mla import mla_decode_fwd  # noqa: E402
from aiterlite.ops import mla as ops  # noqa: E402
from aiterlite.reference.mla import Attention  # noqa: E402
from aiterlite.tables import mla_sm90  # noqa: E402

pytestmark = pytest.mark.gpu

LENGTHS = (1000, 0, 1, 64, 65, 2300, 17, 640)
Cut = Callable[[int, int], None]


@pytest.fixture
def cut(monkeypatch: pytest.MonkeyPatch) -> Cut:
    """Has all calls be cut into so many columns and ranks, whatever the table says."""

    def force(columns: int, ranks: int) -> None:
        short = mla_sm90.Short(columns, ranks, 1)
        monkeypatch.setattr(mla_sm90, "short_cut", lambda problem, *_: replace(short, splits=problem.splits))
        monkeypatch.setattr(ops.OPERATOR.prepared, "_kept", (None, {}, {}))

    return force


def exact(case: Batch) -> Attention:
    """By the GPU, in float64, since cases are many."""
    found = case.to("cuda").exact()
    return Attention(found.out.cpu(), found.lse.cpu(), found.spread.cpu())


@pytest.mark.parametrize(
    ("types", "columns", "ranks", "pages"),
    [
        (("bf16", "bf16"), 16, 16, (64, 1)),
        (("bf16", "bf16"), 32, 8, (64, 48)),
        (("bf16", "bf16"), 16, 1, (64,)),
        (("bf16", "bf16"), 32, 1, (16, 1)),
        (("fp16", "fp16"), 16, 8, (64,)),
        (("bf16", "e4m3fn"), 32, 16, (64, 1)),
        (("bf16", "e4m3fn"), 16, 2, (16,)),
        (("e4m3fn", "e4m3fn"), 16, 8, (64,)),
        (("fp16", "e4m3fn"), 32, 4, (64,)),
    ],
)
def test_ragged_batches_however_they_are_cut(
    cut: Cut, types: tuple[str, str], columns: int, ranks: int, pages: tuple[int, ...]
) -> None:
    cut(columns, ranks)
    for page_size in pages:
        for heads in (16, 5, 40):
            case = batch(LENGTHS, [1] * len(LENGTHS), heads, types=types, page_size=page_size, seed=heads)
            expected = exact(case)
            for splits in (1, 3):
                assert_right(run(case.to("cuda"), num_kv_splits=splits), expected)


@pytest.mark.parametrize("types", [("bf16", "bf16"), ("bf16", "e4m3fn")])
@pytest.mark.parametrize(("columns", "ranks", "page_size"), [(16, 8, 64), (16, 1, 16), (32, 4, 1)])
def test_what_must_not_be_read_changes_no_bit(
    cut: Cut, columns: int, ranks: int, page_size: int, types: tuple[str, str]
) -> None:
    """NaN in pages of no request, in slots behind a request's end, and behind an index of -1."""
    cut(columns, ranks)
    case = batch([700, 5, 64], [1, 1, 1], 16, types=types, page_size=page_size, seed=3, spare=3)
    case.kv_indices[1] = -1
    used = set(case.kv_indices.tolist()) - {-1}
    buffer = case.kv_buffer.clone()
    for page in set(range(buffer.shape[0])) - used:
        buffer[page] = math.nan
    if page_size > 1:
        for request, length in enumerate(case.lengths):
            last = int(case.kv_indices[int(case.kv_indptr[request + 1]) - 1])
            buffer[last, (length - 1) % page_size + 1 :] = math.nan
    poisoned = replace(case, kv_buffer=buffer)
    for splits in (1, 2):
        clean = run(case.to("cuda"), num_kv_splits=splits)
        got = run(poisoned.to("cuda"), num_kv_splits=splits)
        assert all(torch.equal(a, b) for a, b in zip(got, clean, strict=True))
        assert bool(got[0].isfinite().all())


def test_values_far_apart_keep_their_accuracy(cut: Cut) -> None:
    """What ranks send each other are fp16 with a power of two: large values beside small ones, none within the reach of
    fp16."""
    cut(16, 8)
    case = batch([1024], [1], 16, page_size=64, seed=5)
    scale = torch.logspace(16, 20, 32).repeat_interleave(16)
    case.kv_buffer[..., :512] *= scale.to(torch.bfloat16)
    case.q[..., :512] = 0
    o, _ = run(case.to("cuda"))
    expected = exact(case).out
    apart = ((o.cpu().double() - expected) / scale.double()).norm() / (expected / scale.double()).norm()
    assert apart <= 2e-3


def test_replays_give_the_same_bits_on_two_streams(cut: Cut) -> None:
    cut(16, 8)
    case = batch([1000, 333], [1, 1], 16, page_size=64).to("cuda")
    outs = [torch.empty(2, 16, 512, dtype=torch.bfloat16, device="cuda") for _ in range(2)]

    def call(o: torch.Tensor) -> None:
        mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, 1, page_size=64, num_kv_splits=1)

    assert_replays_agree(call, outs, 400, 5)


@pytest.mark.parametrize(
    ("page_size", "types"), [(64, ("bf16", "bf16")), (16, ("bf16", "e4m3fn")), (1, ("bf16", "bf16"))]
)
def test_what_the_kernel_before_writes_is_read(cut: Cut, page_size: int, types: tuple[str, str]) -> None:
    """The call starts before its predecessor has ended, which writes all of KV anew."""
    cut(16, 8)
    lengths = [1000, 1024, 64, 700]
    case = batch(lengths, [1] * 4, 16, types=types, page_size=page_size).to("cuda")
    slots = torch.arange(case.kv_buffer.shape[0] * page_size, device="cuda")
    latents = [torch.randn(len(slots), 576, device="cuda", dtype=torch.bfloat16) for _ in range(2)]
    scale = case.kv_scale if case.kv_scale is not None else torch.ones(1, device="cuda")
    scales = {"q_scale": case.q_scale, "kv_scale": case.kv_scale}

    def calls(outs: list[torch.Tensor], between: Callable[[], object] = lambda: None) -> None:
        for latent, o in zip(latents, outs, strict=True):
            kind = "auto" if types[1] == "bf16" else "fp8"
            cache.concat_and_cache_mla(
                latent[:, :512], latent[:, 512:], case.kv_buffer.squeeze(2), slots, kind, scale.reshape(1)
            )
            between()
            mla_decode_fwd(case.q, case.kv_buffer, o, *case.pages, 1, page_size=page_size, num_kv_splits=1, **scales)
            between()

    outs, expected = (
        [torch.full((4, 16, 512), math.nan, dtype=torch.bfloat16, device="cuda") for _ in latents] for _ in "ab"
    )
    calls(expected, torch.cuda.synchronize)
    assert not torch.equal(*expected) and bool(expected[0].isfinite().all())
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(5):
            calls(outs)
    for _ in range(50):
        graph.replay()
        assert all(torch.equal(o, alone) for o, alone in zip(outs, expected, strict=True))
