"""The skinny GEMM of sm_90's copy engine, and overlapped launches, on a GPU. L2, marked `gpu`."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite import dispatch, envs  # noqa: E402
from aiterlite.dispatch import Decision, Row  # noqa: E402
from aiterlite.launch import calls as launches  # noqa: E402
from aiterlite.ops import matmul  # noqa: E402
from aiterlite.reference.gemm import error_bound  # noqa: E402
from aiterlite.tables import gemm_rc  # noqa: E402
from aiterlite.tables import gemm_sm90 as tables  # noqa: E402
from aiterlite.tables.gemm_sm90 import Sm90Tiling  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

pytestmark = [pytest.mark.gpu]

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}
CUTS = [
    Sm90Tiling(8, 64, 2, 1),
    Sm90Tiling(8, 128, 4, 7),
    Sm90Tiling(16, 64, 3, 16),
    Sm90Tiling(16, 64, 6, 5),
    Sm90Tiling(32, 128, 3, 3),
    Sm90Tiling(32, 64, 9, 1),
    Sm90Tiling(64, 64, 5, 8),
    Sm90Tiling(64, 128, 2, 1),
    Sm90Tiling(128, 64, 3, 6),
    Sm90Tiling(128, 128, 4, 2),
    Sm90Tiling(128, 64, 3, 16),
    Sm90Tiling(16, 64, 4, 3, 2),
    Sm90Tiling(32, 128, 3, 1, 4),
    Sm90Tiling(64, 64, 2, 2, 8),
    Sm90Tiling(128, 64, 5, 1, 2),
    Sm90Tiling(128, 128, 3, 2, 4),
    # Rows that are parts of warpgroups and waves; steps of several pieces; weights that are fetched early.
    Sm90Tiling(128, 112, 6, 2),
    Sm90Tiling(128, 120, 3, 2, 2, early=2),
    Sm90Tiling(128, 72, 2, 3, admits_early=True),
    Sm90Tiling(128, 56, 2, 1, 8, depth=2),
    Sm90Tiling(64, 40, 3, 5),
    # Tiles of tokens that share weights.
    Sm90Tiling(64, 112, 9, 1, tiles=2),
    Sm90Tiling(64, 48, 3, 2, 2, tiles=2),
    Sm90Tiling(32, 16, 2, 16),
    Sm90Tiling(16, 16, 2, 8, depth=2, early=9),
    Sm90Tiling(16, 8, 5, 1, depth=4),
    Sm90Tiling(8, 24, 3, 2, depth=8, admits_early=True),
]


def padded(rows: int, k: int, dtype: torch.dtype, scale: float = 1.0) -> torch.Tensor:
    """Random rows of a wider matrix whose other columns are NaN: what is read beyond a row would show."""
    whole = torch.full((rows, k + 24), float("nan"), device="cuda", dtype=dtype)
    view = whole[:, 8 : 8 + k]
    view.copy_(torch.randn(rows, k, device="cuda") * scale)
    return view


def assert_within_bound(y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    exact = x.double() @ w.double().T + (0 if bias is None else bias.double())
    error = (y.double() - exact).abs() / error_bound(x, w, exact)
    assert bool((error <= 1).all()), f"{float(error.max())} times the bound"


def run(cut: Sm90Tiling, dtype: str, x: torch.Tensor, w: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """One launch of this very tiling, into poisoned memory."""
    problem = gemm_rc.RcProblem(x.shape[0], *w.shape, dtype)
    row = Row("wgmma", "cuda", (), kernels=tables.kernels)
    decision = Decision("wvSplitKrc", problem, persona_for("cuda", 0), row, tables.plan_of(cut, w.shape[0]))
    absent = () if bias is not None else ("bias",)
    launch = launches.prepare(decision, x.device, matmul.OPERANDS, matmul.strides(x, w, bias), absent)
    y = torch.full((x.shape[0], w.shape[0]), float("nan"), device="cuda", dtype=x.dtype)
    launch(x, w, bias, y)
    return y


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cut", CUTS, ids=str)
def test_every_kind_of_tiling_is_within_the_bound(cut: Sm90Tiling, dtype: str) -> None:
    """Fewer tokens than columns, odd M, K with and without a tail, or few steps, padded strides, each kind of bias."""
    torch.manual_seed(cut.cols + cut.cluster)
    tail = 1096 if cut.depth == 1 else 1088
    few, tokens = cut.step_k * cut.cluster, cut.cols * cut.tiles
    for n, m, k in ((tokens, 640, 2880), (tokens // 2 + 1, 333, tail), (1, 1, few), (3, 65, 7168)):
        x, w = padded(n, k, DTYPES[dtype]), padded(m, k, DTYPES[dtype], k**-0.5)
        for shape in (None, (m,), (1, m), (n, m)):
            bias = None if shape is None else torch.randn(shape, device="cuda").to(DTYPES[dtype])
            assert_within_bound(run(cut, dtype, x, w, bias), x, w, bias)


@pytest.mark.parametrize("cut", CUTS[2:9:2], ids=str)
def test_a_nan_stays_in_its_row_and_zeros_give_zeros(cut: Sm90Tiling) -> None:
    x, w = padded(cut.cols, 2880, torch.bfloat16), padded(333, 2880, torch.bfloat16)
    clean = run(cut, "bf16", x, w, None)
    x[1, 2879] = float("nan")
    dirty = run(cut, "bf16", x, w, None)
    assert bool(dirty[1].isnan().all())
    dirty[1] = clean[1]
    assert torch.equal(dirty, clean)
    bias = torch.randn(333, device="cuda").bfloat16()
    assert torch.equal(run(cut, "bf16", torch.zeros_like(x), w, bias), bias.expand(cut.cols, 333))


def test_ten_calls_give_the_same_bits() -> None:
    for n, m, k in ((16, 256, 7168), (64, 640, 2880), (128, 2112, 7168)):
        x, w = padded(n, k, torch.bfloat16), padded(m, k, torch.bfloat16, k**-0.5)
        first = aiterlite.wvSplitKrc(x, w)
        assert all(torch.equal(aiterlite.wvSplitKrc(x, w), first) for _ in range(9))


def test_a_row_s_bits_do_not_depend_on_the_others() -> None:
    for m, k in ((256, 7168), (2880, 2880), (333, 1096)):
        x, w = padded(128, k, torch.bfloat16), padded(m, k, torch.bfloat16, k**-0.5)
        whole = aiterlite.wvSplitKrc(x, w, reduction="batch_invariant")
        for n in (1, 2, 7, 8, 9, 16, 17, 31, 33, 64, 65, 127):
            for first in (0, 128 - n):
                part = aiterlite.wvSplitKrc(x[first : first + n], w, reduction="batch_invariant")
                assert torch.equal(part, whole[first : first + n]), (m, k, n, first)


@pytest.mark.parametrize("stride", [0, 64])
def test_rows_may_overlap(stride: int) -> None:
    """An expanded row, and a sliding window: strides smaller than a row."""
    memory = torch.randn(16 * 64 + 512, device="cuda").bfloat16()
    x = memory.as_strided((16, 512), (stride, 1))
    w = padded(256, 512, torch.bfloat16)
    assert_within_bound(aiterlite.wvSplitKrc(x, w), x, w)


def slow_then(write: object) -> None:
    torch.cuda._sleep(2_000_000)
    write()  # type: ignore[operator]


@pytest.mark.parametrize("op", ["wvSplitK", "wvSplitKrc", "wvSplitKQ", "rc_mma_sync"])
def test_an_overlapped_kernel_reads_what_the_kernel_before_it_writes(op: str) -> None:
    """Each call's operands, and what its output overwrites, belong to kernels just ahead on the stream."""
    n, m, k = 16, 640, 2880 if op != "rc_mma_sync" else 2876
    x, w = torch.zeros(n, k, device="cuda").bfloat16(), torch.zeros(m, k, device="cuda").bfloat16()
    one = torch.ones(1, device="cuda")

    def call() -> torch.Tensor:
        if op == "wvSplitKQ":
            flavour = torch.float8_e4m3fn
            return aiterlite.wvSplitKQ(x.to(flavour), w.to(flavour), torch.bfloat16, one, one)
        if op == "wvSplitK":
            return aiterlite.wvSplitK(x, w)
        return aiterlite.wvSplitKrc(x, w)

    call()
    results, expected = [], []
    for turn in range(20):
        fresh_x, fresh_w = torch.randn(n, k, device="cuda").bfloat16(), torch.randn(m, k, device="cuda").bfloat16()
        slow_then(lambda values=(fresh_x, fresh_w): (x.copy_(values[0]), w.copy_(values[1])))
        results.append(call())
        # Two kernels of this package in a row: the second reads the first's output.
        if op == "wvSplitK" and turn % 2:
            square = torch.eye(m, device="cuda").bfloat16()
            results[-1] = aiterlite.wvSplitK(results[-1], square)
        x.fill_(float("nan"))
        w.fill_(float("nan"))
        expected.append((fresh_x, fresh_w))
    torch.cuda.synchronize()
    for y, (fresh_x, fresh_w) in zip(results, expected, strict=True):
        x.copy_(fresh_x)
        w.copy_(fresh_w)
        torch.cuda.synchronize()
        assert torch.equal(y, call())


def test_overlapped_launches_are_captured_also_behind_a_join() -> None:
    """In a graph whose kernel follows two branches, a memset and a copy; and replays see new inputs."""
    x, w = torch.randn(32, 2880, device="cuda").bfloat16(), torch.randn(640, 2880, device="cuda").bfloat16()
    other = torch.randn(32, 640, device="cuda").bfloat16()
    source = torch.zeros_like(x)
    eye = torch.eye(640, device="cuda").bfloat16()
    # What is captured has been loaded before.
    aiterlite.wvSplitKrc(x, w), aiterlite.wvSplitKrc(other, eye), aiterlite.wvSplitK(other[:4], eye)
    side = torch.cuda.Stream()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        main = torch.cuda.current_stream()
        side.wait_stream(main)
        with torch.cuda.stream(side):
            second = aiterlite.wvSplitKrc(other, eye)
        x.zero_()
        x.copy_(source)
        main.wait_stream(side)
        y = aiterlite.wvSplitKrc(x, w)
        z = aiterlite.wvSplitK((y + second)[:4], eye)
    for _ in range(5):
        source.copy_(torch.randn(32, 2880, device="cuda"))
        graph.replay()
        torch.cuda.synchronize()
        wanted = aiterlite.wvSplitKrc(source, w)
        assert torch.equal(y, wanted) and torch.equal(z, (wanted + other)[:4])


def test_without_overlap_the_bits_are_the_same() -> None:
    x, w = padded(16, 7168, torch.bfloat16), padded(256, 7168, torch.bfloat16)
    overlapped = aiterlite.wvSplitK(x, w), aiterlite.wvSplitKrc(x, w)
    with envs.override(AITERLITE_OVERLAP="0"):
        plain = aiterlite.wvSplitK(x, w), aiterlite.wvSplitKrc(x, w)
    assert torch.equal(overlapped[0], plain[0]) and torch.equal(overlapped[1], plain[1])


def test_every_cluster_of_a_plan_can_be_resident() -> None:
    """Shapes whose plan takes each size of cluster that any plan takes."""
    taken = set()
    for m in (64, 128, 256, 384, 640, 1024, 1536, 2112, 2880, 4096, 7168):
        for k in (64, 512, 2048, 7168):
            problem = gemm_rc.RcProblem(16, m, k)
            decision = dispatch.decide(gemm_rc.WV_SPLIT_K_RC, problem, persona_for("cuda", 0))
            cluster = decision.plan.tiling.cluster
            if cluster not in taken:
                taken.add(cluster)
                x, w = padded(16, k, torch.bfloat16), padded(m, k, torch.bfloat16)
                assert_within_bound(aiterlite.wvSplitKrc(x, w), x, w)
    assert {1, 16} <= taken and len(taken) >= 5
