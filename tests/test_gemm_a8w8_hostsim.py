"""sm_90's GEMM of 8-bit floats executed on the host: the copy engine's boxes, the matrix unit's operands, barriers, the
ring, clusters and the exchange of their sums, with copies that land late and in any order."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_a8w8_cases import Case as Operands  # noqa: E402
from gemm_a8w8_cases import assert_near, blockscale_operands, poisoned  # noqa: E402
from hostsim_sm90 import simulate  # noqa: E402

from aiterlite.ops.shuffle import shuffle_weight  # noqa: E402
from aiterlite.reference import gemm_a8w8 as reference  # noqa: E402
from aiterlite.tables import gemm_a8w8_sm90 as sm90  # noqa: E402
from aiterlite.tables.gemm_a8w8_problem import BlockScaleProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
STRIDES = [f"stride_{name}_batch" for name in ("x", "w", "bias", "y", "x_scale", "w_scale")]


def run(n: int, m: int, k: int, cut: sm90.Cut, folder: Path, shuffled: bool, seed: int = 0) -> Any:
    x, w, x_scale, w_scale = (t.contiguous() for t in blockscale_operands(Operands(n, m, k), torch.float8_e4m3fn))
    exact, magnitude = reference.blockscale(x, w, x_scale, w_scale)
    y = poisoned((n, m), torch.bfloat16, "cpu")
    problem = BlockScaleProblem(n, m, k, shuffled=shuffled)
    (kernel,) = sm90.kernels(problem, resolve("h200"), sm90.plan_of(cut, problem))
    groups = x_scale.shape[1]
    sizes = {**dict.fromkeys(STRIDES, 0), "stride_x": k, "stride_w": k, "stride_y": m}
    sizes |= {"stride_x_scale": groups, "stride_x_scale_group": 1, "stride_w_scale": groups}
    given = {"x": x, "w": shuffle_weight(w) if shuffled else w, "y": y, "x_scale": x_scale, "w_scale": w_scale}
    simulate(kernel, given, sizes, folder, seed)
    assert_near(y, exact, magnitude, k, 0.0)
    return y


# Tokens, features, k: parts of a tile of rows and of columns, a block of scales that a tile crosses, K that is no
# multiple of a step, rings that wrap, steps that do not come out even between ranks and turns, registers that move.
CASES = [
    (4, 16, 1280, sm90.Cut(8, 16, 4, 4)),
    (13, 130, 784, sm90.Cut(16, 144, 2, 3)),
    (70, 208, 400, sm90.Cut(128, 112, 1, 2, share=2)),
    (20, 96, 1168, sm90.Cut(32, 48, 2, 4, share=2)),
    # Tokens as rows: both halves of a warpgroup's, tokens beyond the tile, features that no vector of 8 holds.
    (37, 60, 416, sm90.Cut(64, 32, 2, 2, share=2, by_tokens=True)),
    (70, 176, 272, sm90.Cut(128, 144, 3, 2, by_tokens=True)),
    (21, 40, 160, sm90.Cut(32, 48, 1, 2, by_tokens=True)),
    # The sums of a cluster, of which rows and tokens are a part, with features that no vector of 8 holds.
    (70, 100, 272, sm90.Cut(128, 80, 2, 2, by_tokens=True)),
]


@pytest.mark.parametrize("number", range(len(CASES)))
def test_cuts(number: int, tmp_path: Path) -> None:
    n, m, k, cut = CASES[number]
    first = run(n, m, k, cut, tmp_path, False)
    if k % 32 == 0 and m % 16 == 0:
        # Shuffled, with copies in another order.
        assert torch.equal(run(n, m, k, cut, tmp_path, True, seed=5).view(torch.int16), first.view(torch.int16))
