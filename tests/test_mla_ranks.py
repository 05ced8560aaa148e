"""128 heads of MLA decoded by two ranks of 64 at once, on one machine and from one cold cache, over gloo. L2."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mla_cases import Batch, assert_right, batch, run  # noqa: E402
from support import finish, start, wrap_compiler  # noqa: E402
from test_mla_planned import planned  # noqa: E402

from aiterlite.tables import mla as tables  # noqa: E402
from aiterlite.tables import mla_plan  # noqa: E402
from aiterlite.target import host_persona  # noqa: E402

HEADS, RANKS = 128, 2
# Tokens of each request, (q, KV), page size. Each request has one row of q, so that all counts of heads have one tile.
CASES = (
    ([90, 0, 33, 257], ("bf16", "bf16"), 1),
    ([70, 5], ("e4m3fn", "e4m3fn"), 16),
    ([41, 130], ("bf16", "e4m3fn"), 64),
)
MODES = ("unasked", "splits", "fast", "intra")
# A rank: it waits for the other one, decodes its heads, and gathers those of both.
RANK = """
sys.path[:0] = [sys.argv[1]]
import torch.distributed as dist
import test_mla_ranks as shared
rank = int(sys.argv[3])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=shared.RANKS)
dist.barrier()
result = shared.digests([shared.gathered(dist, got) for got in shared.share(rank, shared.RANKS)])
dist.destroy_process_group()
"""


def cases() -> list[Batch]:
    return [
        batch(lengths, [1] * len(lengths), HEADS, types=types, page_size=page_size, seed=seed)
        for seed, (lengths, types, page_size) in enumerate(CASES)
    ]


def share(rank: int, ranks: int) -> list[tuple[Any, Any]]:
    """(o, lse) of the heads of one of `ranks`, for each case and mode. A rank plans for its own heads."""
    each = HEADS // ranks
    results = []
    for case, (_, types, _) in zip(cases(), CASES, strict=True):
        case.q = case.q[:, rank * each : (rank + 1) * each].contiguous()
        for mode in MODES:
            given = {"unasked": {}, "splits": {"num_kv_splits": 3}}.get(mode)
            results.append(run(case, **(planned(case, each, types, mode, 1) if given is None else given)))
    return results


def gathered(dist: Any, got: tuple[Any, Any]) -> tuple[Any, ...]:
    """The same of all heads."""
    whole = []
    for mine in got:
        parts = [torch.empty_like(mine) for _ in range(RANKS)]
        dist.all_gather([part.view(torch.uint8) for part in parts], mine.view(torch.uint8))
        whole.append(torch.cat(parts, 1))
    return tuple(whole)


def digests(results: list[tuple[Any, ...]]) -> list[str]:
    """Of the bits of each result."""
    return [
        hashlib.sha256(b"".join(tensor.contiguous().view(torch.uint8).numpy().tobytes() for tensor in got)).hexdigest()
        for got in results
    ]


@pytest.mark.torch
@pytest.mark.compile
@pytest.mark.usefixtures("cache_dir")
def test_two_ranks_of_64_heads_have_the_bits_of_one_process_of_128(tmp_path: Path) -> None:
    wrapper = wrap_compiler("host", tmp_path / "wrapper")
    given = {"AITERLITE_CXX": str(wrapper.path), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    paths = str(Path(__file__).parent), str(tmp_path / "rendezvous")
    ranks = [start(RANK, *paths, str(rank), **given) for rank in range(RANKS)]
    first, second = [finish(rank, 300)["result"] for rank in ranks]
    # Neither rank compiled what the other one did.
    target = host_persona().target
    units = tables.host_unit(target), mla_plan.host_unit(target)
    assert wrapper.compiles() == sum(len(unit.sources) for unit in units)
    one = share(0, 1)
    assert first == second == digests(one)
    exact = [case.exact() for case in cases() for _ in MODES]
    for got, wanted in zip(one, exact, strict=True):
        assert_right(got, wanted)
