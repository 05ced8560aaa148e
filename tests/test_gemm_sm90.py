"""The skinny GEMM of sm_90's copy engine, as far as no GPU is needed: its plans, its compiled kernels, its launch."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import fake_driver
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("torch")

from aiterlite import dispatch, kernel
from aiterlite.jit import engine
from aiterlite.launch import calls, program
from aiterlite.tables import gemm_rc, gemm_sm90
from aiterlite.tables.gemm_rc_plan import REDUCTIONS
from aiterlite.tables.gemm_sm90 import Sm90Tiling
from aiterlite.target import resolve

sizes = st.one_of(st.integers(1, 20000), st.sampled_from([1, 63, 64, 65, 65536, 2**31 - 1]))
H100 = resolve("h100")


def plan(n: int, m: int, k: int, reduction: str = "deterministic", chip: str = "h100") -> gemm_sm90.Sm90Plan:
    return gemm_sm90.plan(gemm_rc.RcProblem(n, m, k, reduction=reduction), resolve(chip))


# Plans ----------------------------------------------------------------------------------------------------------------


@given(st.integers(1, 128), sizes, sizes, st.sampled_from(REDUCTIONS))
def test_every_plan_is_one_that_the_kernel_can_run(n: int, m: int, k: int, reduction: str) -> None:
    """What sm90_wv_split_k.hip and the architecture state: tokens, steps of K, shared memory, grid."""
    chosen = plan(n, m, k, reduction)
    cut = chosen.tiling
    assert n <= cut.cols * cut.tiles and cut.cluster <= -(-k // cut.step_k) and 2 <= cut.stages <= 16
    assert cut.depth == 1 or (k % 64 == 0 and cut.depth <= 8)
    assert cut.rows % (8 * cut.tiles) == 0 and 8 <= cut.rows <= 128
    assert chosen.shared_bytes == cut.shared_bytes <= 227 << 10
    assert chosen.grid == -(-m // (cut.rows * cut.share)) * cut.together < 2**31 * 16
    assert cut.together == cut.cluster * cut.share * cut.tiles <= 16 and cut.cols % (8 * cut.share) == 0
    assert chosen.block == 128 * cut.groups + 32 and chosen.workspace == 0
    # A part of the chip with few multiprocessors must still hold a cluster that is not portable.
    assert cut.together <= 8 or 2 * (cut.shared_bytes + 1024) <= 228 << 10


@given(sizes, sizes)
def test_in_batch_invariant_the_cluster_is_the_same_for_every_n_and_chip(m: int, k: int) -> None:
    chosen = [plan(n, m, k, "batch_invariant").tiling for n in (1, 8, 9, 16, 33, 64, 128)]
    chosen.append(gemm_sm90.tiling(16, m, k, 60, invariant=True))
    assert len({(cut.cluster, cut.depth) for cut in chosen}) == 1


def test_the_cluster_does_depend_on_n_elsewhere() -> None:
    """The negative control of the test above."""
    assert len({plan(n, 640, 2880).tiling.cluster for n in (8, 16, 32, 64, 128)}) > 1


def test_only_aligned_operands_are_for_the_copy_engine() -> None:
    for aligned, row in ((True, "wgmma"), (False, "mma_sync")):
        problem = gemm_rc.RcProblem(64, 256, 7168, aligned=aligned)
        decision = dispatch.decide(gemm_rc.WV_SPLIT_K_RC, problem, H100)
        assert decision.row is not None and decision.row.name == row
    for chip, row in (("a100", "mma_sync"), ("mi300x", "mfma")):
        decision = dispatch.decide(gemm_rc.WV_SPLIT_K_RC, gemm_rc.RcProblem(64, 256, 7168), resolve(chip))
        assert decision.row is not None and decision.row.name == row


# Kernels --------------------------------------------------------------------------------------------------------------


@pytest.mark.nvcc
@pytest.mark.parametrize("dtype", ["bf16", "fp16"])
@pytest.mark.parametrize(
    "cut",
    [
        Sm90Tiling(8, 32, 5, 2, depth=4, early=1),
        Sm90Tiling(16, 64, 7, 16, early=7, admits_early=True),
        Sm90Tiling(32, 128, 5, 3),
        Sm90Tiling(64, 64, 14, 1, 8),
        Sm90Tiling(128, 48, 9, 2, early=4),
        Sm90Tiling(64, 112, 9, 1, tiles=2, early=4),
    ],
    ids=str,
)
def test_kernels_compile_without_spills(cut: Sm90Tiling, dtype: str) -> None:
    """Each number of columns; the kernel's own assertions hold the plan's formula of shared memory to its struct."""
    problem = gemm_rc.RcProblem(cut.cols, 640, 2880, dtype)
    unit = gemm_sm90.device_unit(problem, H100, gemm_sm90.plan_of(cut, problem.m))
    artifact = engine.obtain(unit, build=True)
    resources = artifact.entry.meta["resources"][gemm_sm90.KERNEL]
    assert resources["spill_store_bytes"] == resources["spill_load_bytes"] == resources["stack_bytes"] == 0
    assert kernel.OVERLAP in unit.defines


# Launch ---------------------------------------------------------------------------------------------------------------


CLUSTER_OF_FIVE = Sm90Tiling(128, 64, 5, 5)


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fake_driver.build(tmp_path_factory.mktemp("drivers"))


@pytest.fixture
def cuda(libraries: dict[str, Path]) -> Any:
    """The launch of a problem over the fake CUDA driver, and that driver's record."""
    driver, record = fake_driver.open_driver("cuda", libraries["cuda"])
    ctypes.c_int.in_dll(ctypes.CDLL(str(libraries["cuda"])), "fake_argument_bytes").value = 256 + 80
    entry = calls.launch_entry(lambda: False)

    def launch(
        n: int = 100, k: int = 2880, dtype: str = "bf16", x: int = 0x1000, cut: Sm90Tiling = CLUSTER_OF_FIVE
    ) -> int:
        m = 640
        problem = gemm_rc.RcProblem(n, m, k, dtype)
        kernels = gemm_sm90.kernels(problem, H100, gemm_sm90.plan_of(cut, m))
        sizes = {"stride_x": 2888, "stride_w": 2880, "stride_bias": 0, "stride_y": m, "bias": 0}
        filled = program.packing(kernels, ("x", "weight", "y"), sizes)
        words = program.words(kernels, [0x77], driver.launch_words, True, filled.offsets, sizes)
        return int(entry(words.buffer_info()[0], 0x5000, filled.pack((x, 0x2000, 0x4000))))

    return launch, record


@pytest.mark.compile
@pytest.mark.torch
@pytest.mark.parametrize(("dtype", "type_of_map"), [("bf16", 9), ("fp16", 6)])
def test_what_a_launch_says(dtype: str, type_of_map: int, cuda: Any) -> None:
    launch, record = cuda
    plan = gemm_sm90.plan_of(CLUSTER_OF_FIVE, 640)
    assert launch(dtype=dtype) == 0
    assert (record.function, record.stream, record.shared_bytes) == (0x77, 0x5000, plan.shared_bytes)
    assert (list(record.grid), list(record.block), list(record.cluster)) == ([50, 1, 1], [160, 1, 1], [5, 1, 1])
    assert record.launch_attribute == 6
    # Of x, which is described last: the type, three dimensions, 128-byte swizzle, 128-byte promotion, zeros outside.
    assert record.encodes == 2 and list(record.encoded_as)[:6] == [type_of_map, 3, 0, 3, 2, 0]
    assert list(record.encoded) == [0x1000, 2880, 100, 2 * 2888, 1, 100 * 2 * 2888] and list(record.box) == [64, 128, 1]
    # Two maps, then aiterlite_gemm_args.
    assert bytes(record.arguments)[:256] == b"\x55" * 256
    said = struct.pack("<4Q4q4i", 0x1000, 0x2000, 0, 0x4000, 2888, 2880, 0, 640, 100, 640, 2880, 0)
    assert bytes(record.arguments)[256:336] == said


@pytest.mark.compile
@pytest.mark.torch
def test_a_single_row_may_have_any_stride(cuda: Any) -> None:
    """A driver refuses strides that are no multiples of 16 bytes, and that of one row is never used."""
    launch, record = cuda
    assert launch(n=1, k=2876) == 0
    assert list(record.encoded) == [0x1000, 2876, 1, 2 * 2880, 1, 2 * 2880]


@pytest.mark.compile
@pytest.mark.torch
def test_what_the_driver_does_not_describe_is_not_launched(cuda: Any) -> None:
    launch, record = cuda
    assert launch(x=0x1008) == 1
    assert record.launches == 0


@pytest.mark.compile
@pytest.mark.torch
def test_workgroups_that_share_tokens_are_one_cluster_and_copy_a_part_each(cuda: Any) -> None:
    launch, record = cuda
    assert launch(cut=Sm90Tiling(128, 64, 3, 2, 4)) == 0
    # 640 rows are 10 tiles of 64, in threes of four.
    assert (list(record.grid), list(record.cluster)) == ([24, 1, 1], [8, 1, 1])
    assert list(record.encoded) == [0x1000, 2880, 100, 2 * 2888, 1, 100 * 2 * 2888] and list(record.box) == [64, 32, 1]


@pytest.mark.compile
@pytest.mark.torch
def test_steps_of_several_pieces_are_a_dimension_of_their_own(cuda: Any) -> None:
    launch, record = cuda
    assert launch(n=16, cut=Sm90Tiling(16, 16, 3, 3, depth=5)) == 0
    assert list(record.encoded) == [0x1000, 64, 16, 2 * 2888, 45, 128] and list(record.box) == [64, 16, 5]
