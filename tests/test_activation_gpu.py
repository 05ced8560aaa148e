"""Gated activations on an NVIDIA GPU: float64's results at the sizes of a model, in captured graphs, and behind kernels
that write their rows. `test_activation.py` has every form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from activation_cases import FUNCTIONS, Case, assert_is_right, run, run_quantised  # noqa: E402
from quant_cases import CODES, same  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import activation  # noqa: E402

pytestmark = pytest.mark.gpu
K = 2048


def rows(n: int, k: int = 2 * K, seed: int = 0) -> Any:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return (torch.randn(n, k, device="cuda", generator=generator) * 3).to(torch.bfloat16)


@pytest.mark.parametrize("width", [2048, 256, 2304, 18432, 769])
@pytest.mark.parametrize("n", [1, 16, 255, 4096])
def test_a_model_s_rows(n: int, width: int) -> None:
    # The oracle is float64's, on the CPU: fewer of the widest rows, still more than the chip holds at once.
    n = min(n, (1 << 24) // width)
    run(Case(n, width), "cuda", n)
    run(Case(n, width, "fp16", limit=2.0, pad=8), "cuda", n)
    for name in FUNCTIONS:
        run(Case(min(n, 1024), width, "bf16", name), "cuda", n)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("n", [1, 255, 2048])
def test_a_model_s_rows_quantised(n: int, code: str) -> None:
    for width in (K, 256, 2304):
        for group, transposed in ((0, False), (128, False), (128, True)):
            run_quantised(Case(n, width), code, "cuda", group, transposed)
    run_quantised(Case(min(n, 255), 18432), code, "cuda", 0)


def test_a_row_s_bits_do_not_depend_on_others() -> None:
    x = rows(4096)
    codes, scales = activation.act_mul_and_fp8_group_quant(x, "silu", 128)
    for n in (1, 16, 255):
        found = activation.act_mul_and_fp8_group_quant(x[:n], "silu", 128)
        assert same(found[0], codes[:n]) and same(found[1], scales[:n])


@pytest.mark.parametrize("n", [1, 16])
def test_rows_that_the_kernel_before_writes_are_read_after_it(n: int) -> None:
    """A kernel of this package, which lets its successor start early, and torch's, in one graph many times over: no
    result is of the rows that were there before."""
    weights = [(torch.randn(2 * K, 256, device="cuda") / 16).to(torch.bfloat16) for _ in range(8)]
    inputs, sources = [rows(n, 256, seed) for seed in range(8)], [rows(n, seed=seed) for seed in range(8)]
    x = torch.zeros(n, 2 * K, dtype=torch.bfloat16, device="cuda")

    def chain() -> list[Any]:
        found: list[Any] = []
        for weight, given, source in zip(weights, inputs, sources, strict=True):
            y = aiterlite.linear(given, weight)
            out = torch.empty(n, K, dtype=torch.bfloat16, device="cuda")
            activation.silu_and_mul(out, y)
            found.append((y, out))
            x.copy_(source)
            out = torch.empty_like(out)
            activation.silu_and_mul(out, x)
            found.append((source, out))
        return found

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for turn in range(20):
        for source in (*sources, *inputs):
            source.copy_(torch.roll(source, turn + 1, -1))
        graph.replay()
    torch.cuda.synchronize()
    for given, out in found:
        assert_is_right(out.cpu(), given.cpu(), Case(n, K))
