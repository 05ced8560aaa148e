"""Plans of MLA decode on a GPU: the bits of the CPU, under capture, and the time they take."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import mla_plans  # noqa: E402
from mla_plans import Buffers, case_of, prefix  # noqa: E402

from aiterlite import mla as ops  # noqa: E402
from aiterlite.tables.mla_plan import PLANNERS, Sizes  # noqa: E402

pytestmark = pytest.mark.gpu
BF16 = torch.bfloat16


@pytest.mark.parametrize("planner", PLANNERS)
def test_the_bits_of_the_cpu(planner: str) -> None:
    source = random.Random(planner)
    for _ in range(2000 // len(PLANNERS) + 1):
        case = case_of(source, planner)
        host, device = Buffers(case.held), Buffers(case.held, "cuda")
        mla_plans.run(case, host)
        mla_plans.run(case, device, "cuda")
        assert all(torch.equal(whole, device.whole[name].cpu()) for name, whole in host.whole.items())


class Call:
    """A plan of 16 heads whose index arrays can be filled anew."""

    def __init__(self, batch: int, context: int) -> None:
        info = ops.get_mla_metadata_info_v1(batch, 1, 16, BF16, BF16, False, device="cuda")
        held = Sizes(info[1][0] - 1, info[2][0][0], info[3][0] - 1, info[5][0])
        self.buffers = Buffers(held, "cuda")
        self.kv = torch.tensor(prefix([context] * batch), dtype=torch.int32, device="cuda")
        self.qo = torch.arange(batch + 1, dtype=torch.int32, device="cuda")
        self.last = torch.ones(batch, dtype=torch.int32, device="cuda")
        self.given: tuple[Any, ...] = (self.qo, self.kv, self.last, 16, 1, True, *self.buffers.in_order)

    def plan(self) -> None:
        ops.get_mla_metadata_v1(*self.given, max_seqlen_qo=1, uni_seqlen_qo=1)

    def update(self) -> None:
        ops.decode_update_mla_metadata_v1(*self.given)


def test_a_captured_plan_follows_its_indices() -> None:
    """Replayed on two streams in turn, for other lengths each time."""
    call = Call(16, 1000)
    call.plan()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call.plan()
    source = random.Random(0)
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    for turn in range(20):
        kv = prefix([source.choice([0, source.randint(0, 9000)]) for _ in range(16)])
        call.kv.copy_(torch.tensor(kv, dtype=torch.int32))
        torch.cuda.synchronize()
        with torch.cuda.stream(streams[turn % 2]):
            graph.replay()
        torch.cuda.synchronize()
        replayed = {name: whole.clone() for name, whole in call.buffers.whole.items()}
        for whole in call.buffers.whole.values():
            whole.fill_(mla_plans.POISON)
        call.plan()
        for name, whole in call.buffers.inner.items():
            works = int(call.buffers.inner["work_indptr"][-1])
            written = whole[:works] if name == "work_info_set" else whole
            again = replayed[name][mla_plans.RING : mla_plans.RING + whole.numel()].view(whole.shape)
            if name in ("work_info_set", "work_indptr", "reduce_indptr"):
                assert torch.equal(written, again[: len(written)])
        call.buffers.check_rings()


def test_a_plan_of_128_requests_takes_ten_microseconds_and_an_update_three() -> None:
    """Graph-timed, 50 in one graph. The bounds have room for another GPU's clock."""
    for context in (1024, 8192):
        call = Call(128, context)
        for step, most in ((call.plan, 10.0), (call.update, 3.0)):
            took = microseconds(step)
            print(f"{step.__name__} of 128 requests of {context}: {took:.2f} us")
            assert took <= most


def microseconds(step: Any, count: int = 50) -> float:
    step()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(count):
            step()
    times = []
    for _ in range(5):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        graph.replay()
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) * 1000 / count)
    return min(times)
