"""Quantisation to MXFP4 on an NVIDIA GPU: the reference's bits at the sizes of a model, in captured graphs, and behind
kernels that write its rows. `test_mxfp4_quant.py` has every value and every form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mxfp4_cases import MODES, assert_codes  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import activation, mxfp4  # noqa: E402
from aiterlite.reference import mxfp4 as reference  # noqa: E402

pytestmark = pytest.mark.gpu
K = 7168


def rows(n: int, k: int = K, seed: int = 0) -> Any:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return (torch.randn(n, k, device="cuda", generator=generator) * 3).to(torch.bfloat16)


def check(x: Any, mode: int, codes: Any, scales: Any) -> None:
    wanted = reference.quantise(x.cpu(), mode)
    assert_codes(codes, wanted[0], "codes")
    assert_codes(scales, wanted[1], "scales")


@pytest.mark.parametrize("n", [1, 16, 255, 4096])
def test_a_model_s_rows(n: int) -> None:
    x = rows(n)
    check(x, 1, *mxfp4.per_1x32_f4_quant_hip(x))
    check(x, 2, *mxfp4.dynamic_mxfp4_quant(x))
    codes, scales = mxfp4.per_1x32_f4_quant_hip(x, shuffle=True)
    found = mxfp4.unshuffle_scale(scales.view(torch.uint8))
    check(x, 1, codes, found[:n])
    assert not found[n:].any()


@pytest.mark.parametrize("mode", MODES)
def test_every_pair_of_bits(mode: int) -> None:
    """All bf16 values beside a greatest of every binade: the arithmetic of two bf16 at once has a path of its own."""
    # 65,536 values in rows of 31, which the last row takes from the first ones to be whole.
    whole = torch.arange(-(1 << 15), (1 << 15) + 29, dtype=torch.int32).to(torch.int16)
    every = whole.view(torch.bfloat16).view(-1, 31)
    most = torch.exp2(torch.arange(-133, 128, 8).double()).to(torch.bfloat16)
    x = torch.cat([torch.cat([every, one.expand(len(every), 1)], 1) for one in most]).cuda()
    check(x, mode, *mxfp4.quant_mxfp4_hip(x, round_mode=mode))


def test_heads_that_lie_apart_and_gates() -> None:
    x = rows(128 * 64, 128).view(128, 64, 128).transpose(0, 1)
    check(x.reshape(64, -1), 2, *mxfp4.fused_flatten_mxfp4_quant(x))
    for n in (1, 300):
        x, out = rows(n, 4096), torch.empty(n, 2048, dtype=torch.bfloat16, device="cuda")
        activation.silu_and_mul(out, x)
        check(out, 2, *mxfp4.act_mul_and_mxfp4_quant(x, "silu"))


def test_a_captured_graph_follows_its_number_of_rows() -> None:
    x, live = rows(64), torch.tensor([64], dtype=torch.int32, device="cuda")
    out = torch.zeros(64, K // 2, dtype=torch.uint8, device="cuda")
    scales = torch.zeros(256, K // 32, dtype=torch.uint8, device="cuda")

    def call() -> None:
        mxfp4.dynamic_per_group_scaled_quant_fp4(out, x, scales, 32, True, live, 2)

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    codes, wanted = reference.quantise(x.cpu(), 1)
    for count in (3, 0, 17, 32, 90):
        out.zero_(), scales.fill_(7), live.fill_(count)
        graph.replay()
        torch.cuda.synchronize()
        n = min(64, 2 * count)
        assert_codes(out[:n], codes[:n], "codes")
        found = mxfp4.unshuffle_scale(scales)
        assert_codes(found[:n], wanted[:n], "scales")
        assert not out[n:].any() and not found[n:].any()


@pytest.mark.parametrize("n", [1, 16])
def test_rows_that_the_kernel_before_writes_are_read_after_it(n: int) -> None:
    """A kernel of this package, which lets its successor start early, and torch's, in one graph many times over: no
    code is of the rows that were there before."""
    weights = [(torch.randn(K, 256, device="cuda") / 16).to(torch.bfloat16) for _ in range(8)]
    inputs = [rows(n, 256, seed) for seed in range(8)]
    x, sources = torch.zeros(n, K, dtype=torch.bfloat16, device="cuda"), [rows(n, seed=seed) for seed in range(8)]

    def chain() -> list[Any]:
        found: list[Any] = []
        for weight, given, source in zip(weights, inputs, sources, strict=True):
            y = aiterlite.linear(given, weight)
            found.append((y, *mxfp4.dynamic_mxfp4_quant(y)))
            x.copy_(source)
            found.append((source, *mxfp4.dynamic_mxfp4_quant(x)))
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
    for y, codes, scales in found:
        check(y, 2, codes, scales)
