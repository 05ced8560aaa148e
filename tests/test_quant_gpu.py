"""Quantisation on an NVIDIA GPU: the reference's bits at the sizes of a model, in captured graphs, behind kernels that
write its rows, and on two streams. `test_quant.py` has every value and every form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quant_cases import CODES, assert_same, same  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import quant  # noqa: E402
from aiterlite.reference import quant as reference  # noqa: E402

pytestmark = pytest.mark.gpu
FP8, K = torch.float8_e4m3fn, 7168


def rows(n: int, k: int = K, seed: int = 0) -> Any:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return (torch.randn(n, k, device="cuda", generator=generator) * 3).to(torch.bfloat16)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("n", [1, 16, 255, 4096])
def test_a_model_s_rows(n: int, code: str) -> None:
    """On a GPU torch divides and rounds as on a CPU, so the reference runs there too."""
    x, dtype = rows(n), CODES[code]
    for transposed in (False, True):
        out, scales = quant.get_hip_quant(4)(x, quant_dtype=dtype, transpose_scale=transposed)
        wanted = reference.per_group(x, dtype, 128)
        found = scales.view(56, n).T if transposed else scales
        assert_same({"out": out, "scales": found}, dict(zip(("out", "scales"), wanted, strict=True)))
    for kind, of in ((2, reference.per_token), (1, reference.per_tensor)):
        found = quant.get_hip_quant(kind)(x, quant_dtype=dtype)
        assert all(same(a, b) for a, b in zip(found, of(x, dtype), strict=True))


def test_a_captured_graph_follows_its_number_of_rows() -> None:
    x, live = rows(64), torch.tensor([64], dtype=torch.int32, device="cuda")
    out, scales = torch.zeros(64, K, dtype=FP8, device="cuda"), torch.zeros(64, 56, device="cuda")

    def call() -> None:
        quant.dynamic_per_token_scaled_quant(out, x.view(-1, 128), scales, None, True, live, 2)

    call()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    codes, wanted = reference.per_group(x, FP8, 128)
    for count in (3, 0, 17, 32, 90):
        out.zero_(), scales.zero_(), live.fill_(count)
        graph.replay()
        torch.cuda.synchronize()
        n = min(64, 2 * count)
        assert same(out[:n], codes[:n]) and not out[n:].view(torch.uint8).any()
        found = scales.view(-1)[: 56 * n].view(56, n).T
        assert same(found, wanted[:n]) and not scales.view(-1)[56 * n :].any()


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
            found.append((y, *quant.get_hip_quant(4)(y, quant_dtype=FP8)))
            x.copy_(source)
            found.append((source, *quant.get_hip_quant(4)(x, quant_dtype=FP8)))
            found.append((source, *quant.get_hip_quant(2)(x, quant_dtype=FP8)))
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
        wanted = reference.per_group(y, FP8, K if scales.shape[1] == 1 else 128)
        assert same(codes, wanted[0]) and same(scales, wanted[1])


def test_tensors_on_two_streams_do_not_meet() -> None:
    """Each stream has its own maxima."""
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    given = [rows(512, seed=1), rows(512, seed=2) * 64]
    wanted = [reference.per_tensor(x, FP8) for x in given]
    torch.cuda.synchronize()
    for _ in range(50):
        found = []
        for stream, x in zip(streams, given, strict=True):
            with torch.cuda.stream(stream):
                found.append(quant.get_hip_quant(1)(x, quant_dtype=FP8))
        torch.cuda.synchronize()
        for mine, right in zip(found, wanted, strict=True):
            assert same(mine[0], right[0]) and same(mine[1], right[1])


def test_static_follows_a_scale_on_the_device() -> None:
    x, scale = rows(16), torch.tensor([0.5], device="cuda")
    out = torch.zeros(16, K, dtype=FP8, device="cuda")
    graph = torch.cuda.CUDAGraph()
    quant.static_per_tensor_quant(out, x, scale)
    with torch.cuda.graph(graph):
        quant.static_per_tensor_quant(out, x, scale)
    for value in (0.5, 0.037, 12.0):
        scale.fill_(value)
        graph.replay()
        torch.cuda.synchronize()
        assert same(out, reference.static(x, FP8, scale))
