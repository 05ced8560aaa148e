"""RMSNorm on an NVIDIA GPU: float64's results at the sizes of a model, in captured graphs, behind kernels that write
its rows, and with the same bits for a row in any batch. `test_norm.py` has every form."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from norm_cases import Case, assert_is_the_norm, run, run_quantised  # noqa: E402
from quant_cases import CODES, same  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import norm  # noqa: E402
from aiterlite.reference import norm as reference  # noqa: E402

pytestmark = pytest.mark.gpu
K, EPSILON = 7168, 1e-6


def rows(n: int, k: int = K, seed: int = 0) -> Any:
    generator = torch.Generator(device="cuda").manual_seed(seed)
    return (torch.randn(n, k, device="cuda", generator=generator) * 3).to(torch.bfloat16)


@pytest.mark.parametrize("width", [7168, 1536, 512, 128, 769, 20000])
@pytest.mark.parametrize("n", [1, 16, 255, 4096])
def test_a_model_s_rows(n: int, width: int) -> None:
    # The oracle is float64's, on the CPU: fewer of the widest rows, still more than the chip holds at once.
    n = min(n, (1 << 24) // width)
    run(Case(n, width), "cuda", n)
    run(Case(n, width, "fp16", with_add=True, pad=8), "cuda", n)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("n", [1, 255, 2048])
def test_a_model_s_rows_quantised(n: int, code: str) -> None:
    for case in (Case(n, K), Case(n, K, with_add=True)):
        for group, transposed in ((0, False), (128, False), (128, True)):
            run_quantised(case, code, "cuda", group, transposed)


@pytest.mark.parametrize(("width", "group"), [(520, 0), (1536, 64), (7168, 128), (16384, 128), (16384, 0)])
def test_rows_that_workgroups_take_several_of(width: int, group: int) -> None:
    """Some workgroups have a row more than others; rows are strided, and the last lanes of a narrow one have none."""
    run_quantised(Case(1061, width, pad=16), "e4m3fn", "cuda", group, bool(group))
    run_quantised(Case(530, width, "fp16", pad=16, sensitive=True), "int8", "cuda", group, False)


def test_codes_of_a_row_do_not_depend_on_others() -> None:
    x, weight = rows(4096), rows(1, seed=2)[0]
    found = []
    for n in (1, 255, 400, 4096):
        codes = torch.empty(n, K, dtype=torch.float8_e4m3fn, device="cuda")
        scales = torch.empty(n, K // 128, device="cuda")
        norm.rmsnorm2d_fwd_with_dynamicquant(codes, x[:n], scales, weight, EPSILON, 0, 128)
        found.append((codes, scales))
    for codes, scales in found:
        assert same(codes, found[-1][0][: len(codes)]) and same(scales, found[-1][1][: len(scales)])


def test_a_row_s_bits_do_not_depend_on_others() -> None:
    x, residual, weight = rows(4096), rows(4096, seed=1), rows(1, seed=2)[0]
    outs = []
    for n in (1, 16, 255, 4096):
        out, total = torch.empty_like(x[:n]), torch.empty_like(x[:n])
        norm.rmsnorm2d_fwd_with_add(out, x[:n], residual[:n], total, weight, EPSILON)
        outs.append(out)
    assert all(same(out, outs[-1][: len(out)]) for out in outs)


@pytest.mark.parametrize("n", [1, 16])
def test_rows_that_the_kernel_before_writes_are_read_after_it(n: int) -> None:
    """A kernel of this package, which lets its successor start early, and torch's, in one graph many times over: no
    result is of the rows that were there before."""
    weights = [(torch.randn(K, 256, device="cuda") / 16).to(torch.bfloat16) for _ in range(8)]
    inputs, sources = [rows(n, 256, seed) for seed in range(8)], [rows(n, seed=seed) for seed in range(8)]
    x, scale = torch.zeros(n, K, dtype=torch.bfloat16, device="cuda"), rows(1, seed=9)[0]

    def chain() -> list[Any]:
        found: list[Any] = []
        for weight, given, source in zip(weights, inputs, sources, strict=True):
            y = aiterlite.linear(given, weight)
            found.append((y, norm.rms_norm(y, scale, EPSILON)))
            x.copy_(source)
            once, total = norm.rms_norm(x, scale, EPSILON), torch.empty_like(x)
            found.append((source, once))
            out = torch.empty_like(x)
            norm.rmsnorm2d_fwd_with_add(out, once, x, total, scale, EPSILON)
            found.append((total, out))
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
    for h, out in found:
        assert_is_the_norm(out.cpu(), h.cpu(), scale.cpu(), Case(n, K))


def test_in_place_in_a_graph() -> None:
    x, residual, weight = rows(64), rows(64, seed=1), rows(1, seed=2)[0]
    given = x.clone(), residual.clone()
    norm.fused_add_rms_norm_cu(x.clone(), residual.clone(), weight, EPSILON)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        norm.fused_add_rms_norm_cu(x, residual, weight, EPSILON)
    for turn in range(3):
        x.copy_(given[0].roll(turn, 0)), residual.copy_(given[1].roll(turn, 0))
        h = reference.add(x, residual)
        graph.replay()
        torch.cuda.synchronize()
        assert same(residual, h)
        assert_is_the_norm(x.cpu(), h.cpu(), weight.cpu(), Case(64, K))
