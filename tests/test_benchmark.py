"""What benchmarks are made of: the read floor, a bare launch, and the skinny-GEMM table, on this CPU."""

from __future__ import annotations

import argparse
import json

import pytest

torch = pytest.importorskip("torch")

from aiterlite import envs  # noqa: E402
from aiterlite.benchmark import floor, gemm, options, timing  # noqa: E402
from aiterlite.launch.bare import bare  # noqa: E402
from aiterlite.ops import matmul  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.tables.gemm import GemmProblem  # noqa: E402
from aiterlite.tables.gemm_rc import RcProblem  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "last_level_cache_bytes", lambda device: 1 << 14)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.uint8])
def test_the_read_floor_reads_every_byte(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    """Each block's word is the sum of its 64-bit words."""
    sums = []
    make = torch.empty

    def kept(*size: int, **options: torch.dtype) -> torch.Tensor:
        sums.append(make(*size, **options))
        return sums[-1]

    monkeypatch.setattr(torch, "empty", kept)
    blocks = torch.get_num_threads()
    weights = [torch.randint(0, 255, (blocks * 4, 1024), dtype=torch.uint8).view(dtype) for _ in range(2)]
    read = floor.read_floor(weights)
    for copy in (1, 0):
        read(copy)
        assert sums[0].tolist() == weights[copy].view(torch.int64).view(blocks, -1).sum(1).tolist()


def test_a_bare_launch_is_the_kernel_of_the_call() -> None:
    made = sample("wvSplitK", GemmProblem(3, 40, 64, bias=True))
    x, weight, bias = made.inputs.values()
    y = torch.empty(3, 40, dtype=torch.bfloat16)
    decision = options.decision_of("wvSplitK", matmul.problem_of(x, weight, bias), CPU)
    launch = bare(decision, {"x": x, "weight": weight, "bias": bias, "y": y}, matmul.strides(x, weight, bias))
    assert launch() == 0
    assert torch.equal(y, made.run()["y"])


def test_a_bare_launch_refuses_what_it_cannot_do() -> None:
    x, weight = torch.randn(64, 4096).bfloat16(), torch.randn(64, 4096).bfloat16()
    tensors = {"x": x, "weight": weight, "bias": None, "y": torch.empty(64, 64)}
    with envs.override(AITERLITE_TARGET="gfx942"):
        split = options.decision_of("wvSplitKrc", RcProblem(64, 64, 4096), CPU)
        emulated = options.decision_of("wvSplitK", GemmProblem(4, 64, 4096), CPU)
    with pytest.raises(ValueError, match="wvSplitKrc needs a workspace"):
        bare(split, tensors, matmul.strides(x, weight, None))
    with pytest.raises(ValueError, match="launched on cpu, where only the emulator runs gfx942 code"):
        bare(emulated, tensors, matmul.strides(x, weight, None))


def test_a_call_is_measured_against_a_bare_launch() -> None:
    found = gemm.call_overhead_us(CPU, repeats=5)
    assert set(found) == {"linear", "torch", "bare_launch", "over_bare_launch"}
    assert min(found["linear"], found["torch"], found["bare_launch"]) > 0
    assert found["over_bare_launch"] == pytest.approx(found["linear"] - found["bare_launch"])


def test_the_table_of_the_skinny_gemms() -> None:
    parser = argparse.ArgumentParser()
    gemm.add_arguments(parser)
    words = ["--device", "cpu", "--shape", "64,128", "--tokens", "1,4", "--samples", "3"]
    data = gemm.run(parser.parse_args(words))
    assert [(row["m"], row["k"], row["n"]) for row in data["rows"]] == [(64, 128, 1), (64, 128, 4)]
    for row in data["rows"]:
        assert row["floor_us"] > 0 and row["over_floor"] == pytest.approx(row["ours_us"] / row["floor_us"])
        assert 0 < row["error_over_bound"] <= 1 and row["variant"] == "cpu"
    assert "geometric mean" in gemm.to_text(data) and json.loads(json.dumps(data)) is not None
