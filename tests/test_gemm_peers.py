"""Which kernels of other packages `bench` runs beside ours."""

from __future__ import annotations

import types
from collections.abc import Iterator

import pytest

torch = pytest.importorskip("torch")

from aiterlite.benchmark import gemm_peers  # noqa: E402

pytestmark = [pytest.mark.torch]


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    gemm_peers._imported.cache_clear()
    yield
    gemm_peers._imported.cache_clear()


def test_a_peer_that_is_not_here_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def importing(name: str) -> object:
        if name == gemm_peers.VLLM:
            return types.ModuleType(name)
        raise ImportError(f"no {name}")

    monkeypatch.setattr(gemm_peers.importlib, "import_module", importing)
    assert gemm_peers.absent() == ["flashinfer.gemm: not imported (ImportError: no flashinfer.gemm)"]


def test_peers_take_only_the_shapes_that_they_were_made_for() -> None:
    def taking(n: int, m: int, k: int) -> set[str]:
        return {name for name, (_, fits, _) in gemm_peers._PEERS.items() if fits(n, m, k)}

    assert taking(16, 2112, 7168) == {"flashinfer tiny", "vllm fused a"}
    assert taking(17, 2112, 7168) == taking(16, 256, 7232) == {"flashinfer tiny"}
    assert taking(16, 256, 7168) == {"flashinfer tiny", "flashinfer router"}
    assert taking(8, 333, 7168) == taking(8, 256, 7160) == set()


def test_operands_of_a_cpu_have_no_peers() -> None:
    x, weight = torch.zeros(1, 64).bfloat16(), torch.zeros(16, 64).bfloat16()
    assert gemm_peers.contenders([x], [weight]) == {}
