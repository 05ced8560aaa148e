"""GEMMs of 8-bit floats on an NVIDIA GPU: float64's results at the sizes of a model, odd sizes and strides, every kind
of cut, captured graphs, and kernels that write what they read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_a8w8_cases import (  # noqa: E402
    Batch,
    Case,
    assert_near,
    blockscale_operands,
    moved,
    run_batched,
    run_blockscale,
    run_rowscale,
)

from aiterlite import gemm, quant  # noqa: E402
from aiterlite.ops import gemm_a8w8 as ops  # noqa: E402
from aiterlite.ops.shuffle import shuffle_weight  # noqa: E402
from aiterlite.reference import gemm_a8w8 as reference  # noqa: E402
from aiterlite.tables import gemm_a8w8_sm90 as sm90  # noqa: E402

pytestmark = pytest.mark.gpu
FP8, DROPS = torch.float8_e4m3fn, reference.HOPPER_DROPS
SHAPES = [(2112, 7168), (7168, 2048), (24576, 1536), (4096, 7168)]


@pytest.mark.parametrize("n", [1, 13, 33, 128])
@pytest.mark.parametrize(("m", "k"), SHAPES)
def test_a_model_s_projections(m: int, k: int, n: int) -> None:
    run_blockscale(Case(n, m, k, lying="columns" if n % 2 else "rows"), FP8, "cuda", n, DROPS)


def test_more_tokens_than_a_tile() -> None:
    run_blockscale(Case(300, 2112, 1536), FP8, "cuda", 0, DROPS)


# One of everything; a tile's part; K that is no multiple of a step, or less than one.
ODD = [(1, 1, 16), (3, 130, 144), (9, 3, 1040), (20, 272, 272), (70, 1000, 400), (130, 16, 32)]


@pytest.mark.parametrize("number", range(len(ODD)))
def test_odd_sizes_and_strides(number: int) -> None:
    n, m, k = ODD[number]
    run_blockscale(Case(n, m, k, "fp16" if number % 2 else "bf16", pad=16, lying="columns"), FP8, "cuda", n, DROPS)
    run_rowscale(Case(n, m, k, "bf16" if number % 2 else "fp16", pad=32, bias=True), FP8, "cuda", n, DROPS)


def test_scales_of_rows() -> None:
    run_rowscale(Case(1, 2112, 7168, bias=True), FP8, "cuda", 1, DROPS)
    run_rowscale(Case(128, 2112, 1536, one_scale=True), FP8, "cuda", 128, DROPS)


@pytest.mark.parametrize("n", [1, 5, 64, 200])
def test_absorbed_projections(n: int) -> None:
    for number, first in enumerate(((True, False), (False, False), (True, True), (False, True))):
        run_batched(Batch(16, n, 512, 128, pad=64, first=first), FP8, "cuda", number, DROPS)
        run_batched(Batch(16, n, 128, 512, first=first, bias=True), FP8, "cuda", number, DROPS)
    run_batched(Batch(3, n, 40, 256, "fp16"), FP8, "cuda", n, DROPS)


KINDS = [(cols, by_tokens) for cols in sm90.COLUMNS for by_tokens in (False, True)[: 1 + (cols >= 32)]]


@pytest.mark.parametrize(("cols", "by_tokens"), KINDS)
@pytest.mark.parametrize("cluster", sm90.CLUSTERS)
def test_every_kind_of_cut(monkeypatch: Any, cols: int, by_tokens: bool, cluster: int) -> None:
    """Few rows or many, some fetched early, with the bits of shuffled weights."""
    m, k = 528, 2176
    every = sm90.candidates(cols, m, k, (by_tokens,))
    cuts = [cut for cut in every if cut.cluster == cluster]
    cut = cuts[(cols + 7 * cluster) % len(cuts)]
    x, w, x_scale, w_scale = (moved(t, "cuda") for t in blockscale_operands(Case(cols - 3, m, k), FP8, cols))
    exact, magnitude = reference.blockscale(x, w, x_scale, w_scale)
    monkeypatch.setattr(sm90, "cut_for", lambda *_: cut)
    given = x, w, x_scale, w_scale, torch.bfloat16, False
    got = ops.FORWARD.prepare(*given)(*given)
    assert_near(got, exact, magnitude, k, DROPS)
    monkeypatch.setattr(sm90, "cut_for", lambda *_: replace(cut, early=3))
    given = x, shuffle_weight(w), x_scale, w_scale, torch.bfloat16, True
    assert torch.equal(ops.FORWARD.prepare(*given)(*given).view(torch.int16), got.view(torch.int16)), cut


@pytest.mark.parametrize(("n", "m", "rows", "cluster"), [(70, 1003, 80, 2), (77, 1008, 80, 2), (33, 1003, 48, 4)])
def test_lanes_that_store_apart_exchange_words_together(
    monkeypatch: Any, n: int, m: int, rows: int, cluster: int
) -> None:
    """Tokens as rows: ptxas let lanes that had stored begin the next exchange without the others, where rows end within
    a vector and a rank has several pairs of rows."""
    k = 272 if cluster == 2 else 1040
    cut = sm90.Cut(128 if n > 64 else 64, rows, cluster, 2, by_tokens=True)
    monkeypatch.setattr(sm90, "cut_for", lambda *_: cut)
    x, w, x_scale, w_scale = (moved(t, "cuda") for t in blockscale_operands(Case(n, m, k), FP8, n))
    exact, magnitude = reference.blockscale(x, w, x_scale, w_scale)
    given = x, w, x_scale, w_scale, torch.bfloat16, False
    run = ops.FORWARD.prepare(*given)
    for _ in range(20):
        assert_near(run(*given), exact, magnitude, k, DROPS)


def test_nothing_beyond_the_operands_has_a_part() -> None:
    """Between and behind their rows is NaN (`gemm_a8w8_cases.py`); and a NaN of a token, or of a row, is its own."""
    case = Case(21, 200, 400, pad=16)
    x, w, x_scale, w_scale = blockscale_operands(case, FP8)
    x.view(torch.uint8)[3, 399] = 0x7F
    w.view(torch.uint8)[199, 0] = 0x7F
    got = gemm.gemm_a8w8_blockscale(*(moved(t, "cuda") for t in (x, w, x_scale, w_scale))).cpu()
    expected = torch.zeros(21, 200, dtype=torch.bool)
    expected[3] = expected[:, 199] = True
    assert torch.equal(got.isnan(), expected)


def test_codes_that_the_kernel_before_writes_are_read_after_it() -> None:
    """Quantisation and a product after each other in one graph many times over, each of rows that change."""
    k, m, n = 7168, 2112, 16
    hidden = [(torch.randn(n, k, device="cuda") * (1 + i)).to(torch.bfloat16) for i in range(6)]
    w, w_scale = torch.randn(m, k, device="cuda").to(FP8), torch.rand(17, 56, device="cuda")
    x, x_scale = torch.empty(n, k, dtype=FP8, device="cuda"), torch.empty(n, 56, device="cuda")

    def chain() -> list[Any]:
        found = []
        for rows in hidden:
            quant.dynamic_per_group_scaled_quant(x, rows, x_scale, 128, False)
            found.append(gemm.gemm_a8w8_blockscale(x, w, x_scale, w_scale))
        return found

    chain()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = chain()
    for turn in range(20):
        for rows in hidden:
            rows.copy_(rows.roll(turn + 1, 0))
        graph.replay()
    torch.cuda.synchronize()
    for rows, got in zip(hidden, found, strict=True):
        quant.dynamic_per_group_scaled_quant(x, rows, x_scale, 128, False)
        assert torch.equal(gemm.gemm_a8w8_blockscale(x, w, x_scale, w_scale), got)


def test_the_same_call_has_the_same_bits() -> None:
    for n in (1, 16, 128):
        operands = [moved(t, "cuda") for t in blockscale_operands(Case(n, 2112, 7168), FP8)]
        first = gemm.gemm_a8w8_blockscale(*operands)
        assert all(torch.equal(gemm.gemm_a8w8_blockscale(*operands), first) for _ in range(50))
