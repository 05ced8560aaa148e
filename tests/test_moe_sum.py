"""The sum over a token's slots against its plain definition: on the CPU, emulated with all sanitizers, and on a GPU."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import moe_sortings  # noqa: E402
from gemm_operands import TARGETS, on  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.ops.moe_sum import moe_sum  # noqa: E402
from aiterlite.reference import moe_sorting as reference  # noqa: E402

pytestmark = pytest.mark.compile

DTYPES = [torch.bfloat16, torch.float16, torch.float32]


each_target = pytest.mark.parametrize("target", TARGETS)
# Rows of whole vectors, at multiples of 16 bytes and not; a width that needs several workgroups; single elements.
SHAPES = [(2, 9, 1096, 0), (3, 8, 16, 16), (2, 9, 40, 3), (5, 1, 77, 0), (2, 3, 131, 2), (1, 3, 1, 1)]


@each_target
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_sum_is_rounded_once(target: str, dtype: torch.dtype, sanitized: Recording) -> None:
    for tokens, topk, width, spare in SHAPES:
        generator = torch.Generator().manual_seed(width)
        memory = torch.randn(tokens, topk, width + spare, generator=generator) * 100.0
        given = memory.to(dtype)[..., :width]
        given[0, 0, 0], given[-1, -1, -1] = float("inf"), float("nan")
        with on(target) as device:
            whole = torch.full((tokens + 2, width + spare), 99.0, dtype=dtype, device=device)
            moe_sum(moe_sortings.moved(given, device), whole[1:-1, :width])
        expected, got = reference.moe_sum(given), whole[1:-1, :width].cpu()
        assert torch.equal(got.isnan(), expected.isnan()) and torch.equal(got.nan_to_num(), expected.nan_to_num())
        assert bool((whole[0] == 99).all() and (whole[-1] == 99).all() and (whole[:, width:] == 99).all())


@each_target
def test_of_no_slots_the_sum_is_zero(target: str) -> None:
    with on(target) as device:
        moe_sum(torch.empty(0, 4, 8, device=device), torch.empty(0, 8, device=device))
        total = torch.full((2, 8), 5.0, device=device)
        moe_sum(torch.empty(2, 0, 8, device=device), total)
        assert not total.any()


@each_target
def test_a_sum_goes_slot_by_slot(target: str) -> None:
    """1e8 takes a 1 in with it, so the order shows."""
    with on(target) as device:
        slots = torch.tensor([1.0, 1e8, -1e8, 1.0], device=device).view(1, 4, 1)
        total = torch.zeros(1, 1, device=device)
        moe_sum(slots, total)
        assert total.item() == 1.0
        moe_sum(slots[:, [1, 2, 0, 3]].contiguous(), total)
        assert total.item() == 2.0


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ((torch.rand(2, 8), torch.rand(2, 8)), "`input` is of shape [2, 8]; allowed: [tokens, topk, width]"),
        ((torch.rand(2, 3, 8).double(), torch.rand(2, 8)), "`input` is of dtype torch.float64"),
        ((torch.rand(2, 3, 8), torch.rand(2, 8).half()), "`output` is of dtype torch.float16; allowed: torch.float32"),
        ((torch.rand(2, 3, 8), torch.rand(3, 8)), "`output` is of shape [3, 8]; allowed: [2, 8]"),
        ((torch.rand(2, 8, 3).mT, torch.rand(2, 8)), "`input` is of strides"),
    ],
)
def test_a_sum_says_what_does_not_fit(pair: tuple[Tensor, Tensor], said: str) -> None:
    with pytest.raises(ArgumentError) as caught:
        moe_sum(*pair)
    assert said in str(caught.value)
