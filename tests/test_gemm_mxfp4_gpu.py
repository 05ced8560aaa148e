"""GEMMs of MXFP4 weights on an NVIDIA GPU: float64's results at the sizes of a model, odd sizes and strides, every
layout, every kind of cut, captured graphs, and kernels that write what they read."""

from __future__ import annotations

import random
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_mxfp4_cases import Case, assert_near, moved, operands, run  # noqa: E402

from aiterlite import gemm  # noqa: E402
from aiterlite.ops import gemm_mxfp4 as ops  # noqa: E402
from aiterlite.ops.shuffle import shuffle_scale, shuffle_weight  # noqa: E402
from aiterlite.reference import gemm_mxfp4 as reference  # noqa: E402
from aiterlite.reference import mxfp4  # noqa: E402
from aiterlite.tables import gemm_mxfp4_sm90 as sm90  # noqa: E402

pytestmark = pytest.mark.gpu
SHAPES = [(2112, 7168), (7168, 2048), (24576, 1536), (4096, 7168), (7168, 16384)]


@pytest.mark.parametrize("n", [1, 13, 64])
@pytest.mark.parametrize(("m", "k"), SHAPES)
def test_a_model_s_projections(m: int, k: int, n: int) -> None:
    run(Case(n, m, k, "fp4" if n == 13 else "bf16"), "cuda", n)


# N and K of the contract, parts of tiles, more tokens than a tile, strides, both 16-bit types, factors and bias.
ODD = [
    Case(1, 96, 128),
    Case(5, 160, 384, "fp16", "fp16", pad=16, bias="fp32", factors=(0.5, 2.0)),
    Case(17, 288, 1664, "fp4", pad=16, lying="columns", bias="result", factors=(1.5, 1.0)),
    Case(33, 800, 7168, "bf16", "fp32", bias="fp32"),
    Case(130, 2112, 384, "fp4"),
    Case(3, 7, 32, lying="columns"),
    Case(70, 50, 96, "fp16", pad=32),
]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_sizes_and_strides(number: int) -> None:
    run(ODD[number], "cuda", number)


def test_batches() -> None:
    for n, kind in ((1, "bf16"), (9, "fp4"), (70, "bf16")):
        made = operands(Case(n, 512, 128, kind), n, batch=16)
        on = [moved(t, "cuda") for t in (made.x, made.w, made.x_scale, made.w_scale)]
        for first in (False, True):
            got = ops.FORWARD(*on, None, torch.bfloat16, 1.0, 0.0, tokens_first=first)
            assert_near(got.transpose(0, 1) if first else got, made.exact, made.magnitude)


def test_quantised_on_the_way() -> None:
    x = torch.randn(9, 512, device="cuda", dtype=torch.bfloat16)
    w, w_scale = mxfp4.quantise(torch.randn(96, 512, device="cuda"))
    codes, scale = mxfp4.quantise(x, 2)
    wanted = gemm.gemm_afp4wfp4(codes, w, scale, w_scale)
    assert torch.equal(gemm.gemm_afp4wfp4_pre_quant(x, w, w_scale), wanted)


@pytest.mark.parametrize("cols", sm90.COLUMNS)
@pytest.mark.parametrize("cluster", sm90.CLUSTERS)
def test_every_kind_of_cut(monkeypatch: Any, cols: int, cluster: int) -> None:
    m, k = 528, 2176
    cuts = [cut for cut in sm90.candidates(cols, m, k) if cut.cluster == cluster]
    made = operands(Case(cols - 3, m, k), cols)
    on = [moved(t, "cuda") for t in (made.x, made.w, made.x_scale, made.w_scale)]
    for cut in random.Random(cols + cluster).sample(cuts, min(2, len(cuts))):
        monkeypatch.setattr(sm90, "cut_for", lambda *_, cut=cut: cut)
        args = (*on, None, torch.bfloat16, 1.0, 0.0)
        assert_near(ops.FORWARD.prepare(*args)(*args), made.exact, made.magnitude)


@pytest.mark.parametrize("n", [2, 16, 40, 128])
def test_layouts_have_the_same_bits(n: int) -> None:
    """Plain and shuffled weights and scales, whole steps of K and not, of scales on both sides of 2."""
    for m, k in ((2112, 1024), (96, 1344)):
        made = operands(Case(n, m, k), n)
        w_scale = made.w_scale.clone()
        w_scale[5::7, ::3] = 140
        x, w, w_scale = moved(made.x, "cuda"), moved(made.w, "cuda"), moved(w_scale, "cuda")
        rest = (None, torch.bfloat16, 1.0, 0.0)
        plain = ops.FORWARD(x, w, None, w_scale, *rest)
        dense = mxfp4.dequantise(w, w_scale)
        assert_near(plain, *reference.product(x, dense))
        for other_w, other_scale in ((w, shuffle_scale(w_scale)), (shuffle_weight(w.contiguous()), w_scale)):
            how = (other_w is not w, False, other_scale is not w_scale)
            assert torch.equal(ops.FORWARD(x, other_w, None, other_scale, *rest, *how), plain)


def test_special_numbers() -> None:
    """A NaN or an infinity is that of its token or row; scales of the least and great powers; subnormal x."""
    n, m, k = 9, 100, 384
    made = operands(Case(n, m, k), 3)
    x, w, w_scale = made.x.clone(), made.w.clone(), made.w_scale.clone()
    x[3, 383] = torch.nan
    x[5, :32], w[:, :16] = torch.inf, 0x11
    w_scale[99, 4], w_scale[98, :] = 255, 0
    w_scale[97, 1] = 127 + 60
    x[7] = 2.0**-130
    got = gemm.gemm_a16wfp4(x.cuda(), w.cuda(), w_scale.cuda()).cpu()
    wanted = torch.zeros(n, m, dtype=torch.bool)
    wanted[3] = wanted[:, 99] = True
    assert torch.equal(got.isnan(), wanted)
    assert bool(got[5, :99].isinf().all())
    exact, magnitude = reference.product(x, mxfp4.dequantise(w, w_scale))
    kept = [0, 1, 2, 4, 6, 8]
    assert_near(got[kept][:, :98], exact[kept][:, :98], magnitude[kept][:, :98])


def test_codes_that_the_kernel_before_writes_are_read_after_it() -> None:
    k, m, n = 7168, 2112, 4
    xs = [torch.randn(n, k, device="cuda").to(torch.bfloat16) for _ in range(6)]
    w, w_scale = mxfp4.quantise(torch.randn(m, k, device="cuda"))
    live_w, live_scale = w.clone(), w_scale.clone()

    def chain() -> list[Any]:
        found = []
        for i, x in enumerate(xs):
            live_w.copy_(w.roll(i, 0))
            live_scale.copy_(w_scale.roll(i, 0))
            y = gemm.gemm_a16wfp4(x, live_w, live_scale)
            found.append(gemm.gemm_a16wfp4(torch.cat((y, y, y, y), 1)[:, :k].contiguous(), live_w, live_scale))
        return found

    wanted = [t.clone() for t in chain()]
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for _ in range(20):
        graph.replay()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(wanted, found, strict=True))


def test_the_same_call_has_the_same_bits() -> None:
    for n in (1, 16, 64):
        made = operands(Case(n, 2112, 7168), n)
        on = [moved(t, "cuda") for t in (made.x, made.w, made.w_scale)]
        first = gemm.gemm_a16wfp4(*on)
        assert all(torch.equal(gemm.gemm_a16wfp4(*on), first) for _ in range(50))


@pytest.mark.parametrize("n", [1, 16, 64])
def test_a_chain_of_the_same_product(n: int) -> None:
    """Launches that start before the one ahead has ended: each ends, with the same bits."""
    for m, k in ((2112, 7168), (7168, 2048)):
        made = operands(Case(n, m, k), n)
        on = [moved(t, "cuda") for t in (made.x, made.w, made.w_scale)]
        first = gemm.gemm_a16wfp4(*on)
        torch.cuda.synchronize()
        found = [gemm.gemm_a16wfp4(*on) for _ in range(20)]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = [gemm.gemm_a16wfp4(*on) for _ in range(60)]
        for _ in range(3):
            graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(y, first) for y in (*found, *captured))
