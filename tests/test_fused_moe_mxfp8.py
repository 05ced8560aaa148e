"""Hidden states and h as MXFP8 has them, beside weights of MXFP4: every 16-bit pattern, by the CPU's kernel, by the
emulated one and by sm_90's on the host, to the bit."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from fused_moe_mxfp4_cases import case_of, problem_of, run  # noqa: E402
from gemm_operands import AMD, on  # noqa: E402
from hostsim_sm90 import simulate  # noqa: E402
from test_fused_moe_mxfp4_hostsim import only  # noqa: E402
from torch import Tensor  # noqa: E402

from aiterlite.dispatch import decide  # noqa: E402
from aiterlite.emulator.observe import Recording  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.ops import fused_moe as ops  # noqa: E402
from aiterlite.reference import mxfp8  # noqa: E402
from aiterlite.tables import fused_moe as tables  # noqa: E402
from aiterlite.tables import fused_moe_mxfp4 as mx  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
TOKENS, WIDTH = 32, 2080


def patterns(dtype: torch.dtype) -> Tensor:
    """All of them but NaN and infinities, of which a few blocks have one, in blocks of like magnitudes and of any."""
    numbers = torch.arange(1 << 16, dtype=torch.int32).to(torch.int16).view(dtype)
    # What is below the least normal number is not asked of matrix units; of bf16 2^-100 leaves room for its codes.
    finite = numbers[numbers.isfinite() & ((numbers.float().abs() > 2.0**-100) | (numbers == 0))]
    order = torch.randperm(len(finite), generator=torch.Generator().manual_seed(1))
    rows = torch.cat((finite, finite[order]))
    x = rows.repeat(1 + TOKENS * WIDTH // len(rows))[: TOKENS * WIDTH].view(TOKENS, WIDTH).clone()
    x[1, 70], x[2, 33], x[3, 64:96] = torch.nan, -torch.inf, 0.0
    # Their codes round up to the next power, which is not there.
    x[x.float().abs() > 3.2e38] = 1.0
    return x


def expected(x: Tensor) -> Tensor:
    return mxfp8.dequantise(*mxfp8.quantise(x)).bfloat16()


def same(got: Tensor, wanted: Tensor) -> bool:
    either = got.isnan() | wanted.isnan()
    return torch.equal(got.isnan(), wanted.isnan()) and torch.equal(got[~either], wanted[~either])


def test_the_reference_has_numbers_that_one_can_check() -> None:
    """449 needs a scale of 2; 1 is 8 / 8 then, and of codes of 2^-9 the least stays."""
    x = torch.zeros(3, 32)
    x[0, :4] = torch.tensor([448.0, 1.0, 17.0, 0.001])
    x[1, :4] = torch.tensor([449.0, 1.0, -19.0, 0.003])
    codes, byte = mxfp8.quantise(x)
    assert byte.flatten().tolist() == [127, 128, 0]
    numbers = mxfp8.dequantise(codes, byte)
    assert numbers[0, :4].tolist() == [448.0, 1.0, 16.0, 0.001953125]
    assert numbers[1, :4].tolist() == [448.0, 1.0, -20.0, 0.00390625] and not numbers[2].any()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_every_pattern_on_hopper(dtype: torch.dtype, tmp_path: Path) -> None:
    for quantised in (False, True):
        x = patterns(dtype)
        name = "bf16" if dtype == torch.bfloat16 else "fp16"
        fields = {"tokens": TOKENS, "width": WIDTH, "precision": "a8w4", "dtype": name, "quantised": quantised}
        problem = problem_of(**fields)
        kernel = next(k for k in decide(tables.TABLE, problem, resolve("h200")).kernels if k.symbol == mx.NUMBERS)
        sizes = {**ops.layer_sizes(problem, False), "stride_x": WIDTH}
        sizes |= {"stride_scale_token": WIDTH // 32, "stride_scale_group": 1}
        h = torch.full((TOKENS + 1, WIDTH), -1, dtype=torch.int16).view(torch.bfloat16)
        given: dict[str, Tensor | None] = {"x": x, "h": h, "num_local_tokens": torch.tensor([TOKENS - 1]).int()}
        if quantised:
            codes, scales = mxfp8.quantise(x)
            given |= {"x": codes.view(torch.uint8), "x_scale": scales}
        simulate(only(kernel), given, sizes, tmp_path)
        assert same(h[: TOKENS - 1], expected(x)[: TOKENS - 1])
        assert bool((h[TOKENS - 1 :].view(torch.int16) == -1).all()), "a token that does not count was written"


def check_exact(x: Tensor) -> None:
    """A layer whose w1 is ones at [i, i] of up and zeros else, and w2 ones at [i, i]: with a bias of 32 for gate, of
    which a silu is 32 to the bit, h is 32 times x, and so is the result."""
    problem = problem_of(tokens=len(x), experts=1, topk=1, width=64, inter=64, precision="a8w4", bias1=True)
    case = case_of(problem)
    made = case.made
    made.x = x
    made.ids.zero_()
    made.routing.fill_(1.0)
    made.w1.zero_()
    made.w2.zero_()
    for i in range(64):
        made.w1[0, 64 + i, i // 2] = made.w2[0, i, i // 2] = 2 << (i % 2 * 4)
    for scale in (made.w1_scale, made.w2_scale):
        assert scale is not None
        scale.fill_(127)
    assert made.weights.bias1 is not None
    made.weights.bias1[:, :64], made.weights.bias1[:, 64:] = 32.0, 0.0
    assert torch.equal(run(case), 32 * expected(x))


def ordinary(rows: int) -> Tensor:
    """Those that may be multiplied by 32, without what is not a number."""
    x = patterns(torch.bfloat16)
    x = torch.where(x.isfinite() & (x.float().abs() < 2.0**120), x, 0.0)
    return x.view(-1, 64)[torch.randperm(x.numel() // 64, generator=torch.Generator().manual_seed(2))[:rows]]


def test_many_patterns_on_the_cpu() -> None:
    check_exact(ordinary(TOKENS * WIDTH // 64))


@pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
@pytest.mark.parametrize("target", AMD)
def test_many_patterns_emulated(target: str, sanitized: Recording) -> None:
    with on(target):
        check_exact(ordinary(100))
    assert mx.NUMBERS in [report["kernel"] for report in sanitized.launches]
