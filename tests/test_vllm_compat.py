"""`aiterlite.compat.vllm_ops`: vLLM's names, its orders of arguments, and its CU count."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator, envs  # noqa: E402
from aiterlite.compat import vllm_ops  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.kernel import Kernel  # noqa: E402
from aiterlite.launch import functions  # noqa: E402
from aiterlite.tables import gemm as tables  # noqa: E402
from aiterlite.tables import gemm_rc as rc_tables  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

FN = torch.float8_e4m3fn
A, B = torch.randn(24, 64).bfloat16(), torch.randn(3, 64).bfloat16()
QA, QB = A.to(FN), B.to(FN)
BIAS = torch.randn(24).bfloat16()
SCALE_X, SCALE_W = torch.tensor([0.5]), torch.rand(24) + 0.5


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("LLMM1", ["a", "b", "rows_per_block"]),
        ("wvSplitK", ["a", "b", "cu_count", "bias"]),
        ("wvSplitKrc", ["a", "b", "cu_count", "bias", "fast_skinny_gemm"]),
        ("wvSplitKQ", ["a", "b", "out_dtype", "scale_a", "scale_b", "cu_count", "bias"]),
    ],
)
def test_arguments_are_upstream_s(name: str, parameters: list[str]) -> None:
    signature = inspect.signature(getattr(vllm_ops, name))
    assert list(signature.parameters) == parameters
    defaults = {n: p.default for n, p in signature.parameters.items() if p.default is not inspect.Parameter.empty}
    optional = {"bias": None, "fast_skinny_gemm": False}
    assert defaults == {name: optional[name] for name in parameters if name in optional}


def test_the_weight_comes_first() -> None:
    assert torch.equal(vllm_ops.LLMM1(A, B[:1], 4), aiterlite.LLMM1(B[:1], A))
    assert torch.equal(vllm_ops.wvSplitK(A, B, 304), aiterlite.wvSplitK(B, A))
    assert torch.equal(vllm_ops.wvSplitK(A, B, 304, BIAS), aiterlite.wvSplitK(B, A, BIAS))
    scaled = aiterlite.wvSplitKQ(QB, QA, torch.float16, SCALE_X, SCALE_W)
    assert torch.equal(vllm_ops.wvSplitKQ(QA, QB, torch.float16, SCALE_X, SCALE_W, 304), scaled)
    biased = aiterlite.wvSplitKQ(QB, QA, torch.bfloat16, SCALE_X, SCALE_W, BIAS)
    assert torch.equal(vllm_ops.wvSplitKQ(QA, QB, torch.bfloat16, SCALE_X, SCALE_W, 304, BIAS), biased)
    assert not torch.equal(biased, aiterlite.wvSplitKQ(QB, QA, torch.bfloat16, SCALE_X, SCALE_W))


def test_of_wv_split_k_rc_the_activation_comes_first() -> None:
    assert torch.equal(vllm_ops.wvSplitKrc(B, A, 304), aiterlite.wvSplitKrc(B, A))
    biased = aiterlite.wvSplitKrc(B, A, BIAS)
    assert torch.equal(vllm_ops.wvSplitKrc(B, A, 304, BIAS), biased)
    assert torch.equal(vllm_ops.wvSplitKrc(B, A, 304, BIAS, True), biased)
    assert not torch.equal(biased, aiterlite.wvSplitKrc(B, A))


@pytest.mark.emulated
def test_the_cu_count_is_planned_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each count is a plan of its own, also for the same operands; the results are right under all."""
    a, b = torch.randn(200, 512).bfloat16(), torch.randn(1, 512).bfloat16()
    loaded = []
    find = functions.find

    def watched(kernel: Kernel, *rest: Any) -> int:
        loaded.append(kernel.unit)
        return find(kernel, *rest)

    monkeypatch.setattr(functions, "find", watched)
    with envs.override(AITERLITE_TARGET="mi300x"):
        persona = persona_for("cpu", None)
        own = vllm_ops.wvSplitK(a, b, persona.cu_count)
        few = [vllm_ops.wvSplitK(a, b, 4) for _ in range(2)]
    problem = tables.GemmProblem(1, 200, 512)
    units = [dispatch.decide(tables.WV_SPLIT_K, problem, p).units[0] for p in (persona, four(persona))]
    assert units[0] != units[1] and loaded == units
    expected = b.double() @ a.double().T
    for y in (own, *few):
        torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-3)


@pytest.mark.emulated
def test_the_cu_count_and_the_fast_mode_reach_the_plan_of_wv_split_k_rc() -> None:
    """Told from the launches: their workgroups, and what they read of a workspace in each way to reduce."""
    x, weight = torch.randn(33, 4096).bfloat16(), torch.randn(256, 4096).bfloat16()
    expected = x.double() @ weight.double().T
    for mode, fast, environment in (
        ("deterministic", False, None),
        ("batch_invariant", False, "batch_invariant"),
        ("fast", True, None),
        ("fast", True, "batch_invariant"),
    ):
        grids = []
        with envs.override(AITERLITE_TARGET="mi300x", AITERLITE_GEMM_REDUCTION=environment):
            for cu_count in (304, 4):
                problem = rc_tables.RcProblem(33, 256, 4096, reduction=mode)
                plan = rc_tables.plan_wv_split_krc(problem, replace(persona_for("cpu", None), cu_count=cu_count))
                options = {"reduction": mode, "device": "cpu", "cu_count": cu_count}
                assert aiterlite.wvSplitKrc_workspace_size(33, 256, 4096, **options) == plan.workspace
                with emulator.watching(sanitize=False, counters=True) as seen:
                    y = vllm_ops.wvSplitKrc(x, weight, cu_count, None, fast)
                (counters,) = seen.counters
                read = counters["arguments"].get("workspace", {"read": 0})["read"]
                copies = 0 if plan.shards == 1 else plan.shards + (mode == "fast")
                assert read == (4 * (33 * 256 * copies + plan.grid) if copies else 0)
                grids.append(plan.grid)
                torch.testing.assert_close(y.double(), expected, rtol=2**-8, atol=1e-2)
        assert grids[0] != grids[1]


def four(persona: object) -> object:
    return replace(persona, cu_count=4)  # type: ignore[type-var]


@pytest.mark.parametrize("cu_count", [0, -1])
def test_a_cu_count_below_one_is_refused(cu_count: int) -> None:
    for call in (
        lambda: vllm_ops.wvSplitK(A, B, cu_count),
        lambda: vllm_ops.wvSplitKrc(B, A, cu_count),
        lambda: vllm_ops.wvSplitKQ(QA, QB, torch.float16, SCALE_X, SCALE_W, cu_count),
    ):
        with pytest.raises(ArgumentError, match=f"`cu_count` is {cu_count}; allowed: at least 1"):
            call()


def test_errors_name_the_arguments_of_the_caller() -> None:
    one = torch.ones(1)
    for call, argument in (
        (lambda: vllm_ops.LLMM1(A, B, 4), "b"),
        (lambda: vllm_ops.LLMM1(A, B[:1], 5), "rows_per_block"),
        (lambda: vllm_ops.wvSplitK(A.half(), B, 304), "a"),
        (lambda: vllm_ops.wvSplitK(A, B, 304, BIAS[:3]), "bias"),
        (lambda: vllm_ops.wvSplitKQ(QA, QB, torch.float16, torch.ones(3), one, 304), "scale_a"),
        (lambda: vllm_ops.wvSplitKQ(QA, QB, torch.float16, one, torch.ones(3), 304), "scale_b"),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        assert caught.value.argument == argument and "b is x, a is the weight" in str(caught.value)
    for call, argument in (
        (lambda: vllm_ops.wvSplitKrc(B, A.half(), 304), "b"),
        (lambda: vllm_ops.wvSplitKrc(B.float(), A.float(), 304), "a"),
        (lambda: vllm_ops.wvSplitKrc(B, A, 304, BIAS[:3]), "bias"),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        assert caught.value.argument == argument and "a is x, b is the weight" in str(caught.value)


def test_the_operator_s_own_cu_count_may_be_zero_and_not_negative() -> None:
    assert torch.equal(aiterlite.wvSplitKrc(B, A, cu_count=0), aiterlite.wvSplitKrc(B, A))
    for call in (
        lambda: aiterlite.wvSplitKrc(B, A, cu_count=-2),
        lambda: aiterlite.wvSplitKrc_workspace_size(3, 24, 64, device="cpu", cu_count=-2),
    ):
        with pytest.raises(ArgumentError, match="`cu_count` is -2"):
            call()


def test_compiles_without_a_graph_break() -> None:
    def model(b: torch.Tensor) -> torch.Tensor:
        scaled = vllm_ops.wvSplitKQ(QA, b.to(FN), torch.bfloat16, SCALE_X, SCALE_W, 80, BIAS)
        skinny = vllm_ops.wvSplitK(A, b, 80, BIAS) + vllm_ops.wvSplitKrc(b, A, 80, BIAS, True)
        return skinny + vllm_ops.LLMM1(A, b[:1], 4) + scaled

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(B), model(B))
