"""A mixture of experts over 2, 4 and 8 ranks, each with its own experts, on one machine over gloo. L2."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from fused_moe_cases import Case, case_of, problem_of  # noqa: E402
from support import finish, start  # noqa: E402
from torch_threads import threads  # noqa: E402

from aiterlite import QuantType, moe  # noqa: E402
from aiterlite.reference import fused_moe as reference  # noqa: E402

EXPERTS, TOKENS, TOPK = 24, 13, 4
# A process that imports torch once, and forks the ranks: of 2, then of 4, then of 8.
GROUPS = (2, 4, 8)
PARENT = """
sys.path[:0] = [sys.argv[1]]
import multiprocessing
import torch
torch.set_num_threads(1)
import test_fused_moe_ranks as shared
shared.cases()
fork = multiprocessing.get_context("fork")
for ranks in shared.GROUPS:
    running = [fork.Process(target=shared.rank_of, args=(rank, ranks, sys.argv[2])) for rank in range(ranks)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert not any(process.exitcode for process in running)
result = 0
"""


def rank_of(rank: int, ranks: int, folder: str) -> None:
    """A rank: it waits for the others, multiplies by its experts, and sums what all made of its tokens."""
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{ranks}", rank=rank, world_size=ranks)
    dist.barrier()
    parts = [part.float() for part in share(rank, ranks)]
    for part in parts:
        dist.all_reduce(part)
    dist.destroy_process_group()
    torch.save(parts, f"{folder}/{ranks}-{rank}")


@functools.cache
def cases() -> list[Case]:
    fields = {"experts": EXPERTS, "tokens": TOKENS, "topk": TOPK, "inter": 256}
    return [
        case_of(problem_of(**fields, shuffled=True), 1),
        case_of(problem_of(**fields, quant="token", activation="swiglu", interleaved=True), 2),
        case_of(problem_of(**fields, quantised=True, shuffled=True, activation="gelu"), 3),
    ]


def owners(ranks: int) -> Any:
    """The rank of each expert; not neighbours, so that a mask renumbers them."""
    return torch.arange(EXPERTS) % ranks


def share(rank: int, ranks: int) -> list[Any]:
    """What the experts of one of `ranks` make of each case. The mask ends in an expert that is none."""
    kinds = {"block": QuantType.per_128x128, "token": QuantType.per_Token}
    made = []
    for case in cases():
        problem, given, weights = case.problem, case.made, case.made.weights
        here = owners(ranks) == rank
        mask = torch.cat([here.int(), torch.zeros(1, dtype=torch.int32)]) if ranks > 1 else None
        ids = torch.where(given.ids < 0, EXPERTS, given.ids)
        w1, w2 = (moe.shuffle_weight(w[here]) if problem.shuffled else w[here] for w in (weights.w1, weights.w2))
        assert weights.w1_scale is not None and weights.w2_scale is not None
        made.append(
            moe.fused_moe(
                given.x, w1, w2, given.routing, ids, mask, {"silu": 0, "gelu": 1, "swiglu": 2}[problem.activation],
                kinds[problem.quant], w1_scale=weights.w1_scale[here], w2_scale=weights.w2_scale[here],
                a1_scale=given.x_scale, dtype=torch.bfloat16,
                gate_mode="interleave" if problem.interleaved else "separated",
            )
        )  # fmt: skip
    return made


@pytest.mark.torch
@pytest.mark.compile
def test_ranks_make_what_one_process_makes(tmp_path: Path) -> None:
    with threads(1):
        compare(tmp_path)


def compare(tmp_path: Path) -> None:
    one = share(0, 1)  # also builds what the ranks load
    given = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    finish(start(PARENT, str(Path(__file__).parent), str(tmp_path), **given), 300)
    for ranks in GROUPS:
        results = [torch.load(tmp_path / f"{ranks}-{rank}") for rank in range(ranks)]
        shares = [share(rank, ranks) for rank in range(ranks)]
        for index, (case, whole) in enumerate(zip(cases(), one, strict=True)):
            apart = results[0][index]
            assert all(torch.equal(apart, other[index]) for other in results[1:])
            # The shares that one process makes of the same experts, summed in any order.
            mine = torch.stack([made[index].double() for made in shares])
            assert bool(((apart - mine.sum(0)).abs() <= ranks * 2.0**-23 * mine.abs().sum(0)).all())
            # Each rank rounds its share, to bfloat16, where one process rounds the whole.
            layer = case.layer()
            bound = 2.0**-8 * (layer.terms + layer.out.abs())
            assert bool(((apart - whole.double()).abs() <= bound).all())
            assert reference.relative_error(apart, layer.out) <= 5e-3
