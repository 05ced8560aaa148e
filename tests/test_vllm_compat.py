"""`aiterlite.compat.vllm_ops`: vLLM's names, its orders of arguments, and its CU count."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator, envs  # noqa: E402
from aiterlite.compat import vllm_ops  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
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


FIRST, LATER = (
    ("0.15.0", "0.15.1", "v0.16.0", "0.17.1+rocm700", "0.17.1rc2.dev3+g01234"),
    ("0.17.2", "0.18.0rc1", "1.0"),
)


@pytest.mark.parametrize("version", [*FIRST, *LATER, "0.14.1", "0.1.dev1+g0123"])
def test_each_version_of_vllm_has_its_order(version: str) -> None:
    """Only of wvSplitKrc it has changed. Builds without a tag call themselves 0.1.dev, and are new."""
    ops = vllm_ops.for_version(version)
    operands = (A, B) if version in FIRST else (B, A)
    assert torch.equal(ops.wvSplitKrc(*operands, 304, BIAS), aiterlite.wvSplitKrc(B, A, BIAS))
    parameters = list(inspect.signature(ops.wvSplitKrc).parameters)
    assert parameters == ["a", "b", "cu_count", "bias", *([] if version in FIRST else ["fast_skinny_gemm"])]
    assert (ops.LLMM1, ops.wvSplitK, ops.wvSplitKQ) == (vllm_ops.LLMM1, vllm_ops.wvSplitK, vllm_ops.wvSplitKQ)


def test_what_is_no_version() -> None:
    with pytest.raises(ArgumentError, match="`version` is 'main'; allowed: a version of vLLM, such as 0.16.0"):
        vllm_ops.for_version("main")


@pytest.mark.parametrize(("version", "first"), [("0.16.0", "weight"), ("0.18.0", "x"), ("main", "x"), (None, "x")])
def test_the_order_is_that_of_the_vllm_that_is_installed(version: str | None, first: str, tmp_path: Path) -> None:
    if version is not None:
        (tmp_path / "vllm.dist-info").mkdir()
        (tmp_path / "vllm.dist-info" / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}\n"
        )
    program = (
        "import torch\nfrom aiterlite.compat import vllm_ops\n"
        "x, weight = torch.zeros(2, 64).bfloat16(), torch.zeros(5, 64).bfloat16()\n"
        "print('x' if vllm_ops.wvSplitKrc(x, weight, 304).shape == (2, 5) else 'weight')"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == first, done.stderr


NEW, OLD = vllm_ops.for_version("0.18.0"), vllm_ops.for_version("0.16.0")
SMALL, LARGE = torch.randn(16, 64).bfloat16(), torch.randn(200, 64).bfloat16()


@pytest.mark.parametrize(
    ("ops", "a", "b", "bias", "argument", "remedy"),
    [
        (NEW, LARGE, SMALL, None, "a", 'for_version("0.17.1")'),
        (OLD, SMALL, LARGE, None, "b", 'for_version("0.17.2")'),
        (NEW, A, SMALL, BIAS, "bias", 'for_version("0.17.1")'),
        (NEW, A, SMALL, BIAS.expand(16, 24), "bias", 'for_version("0.17.1")'),
        (OLD, SMALL, A, BIAS, "bias", 'for_version("0.17.2")'),
    ],
)
def test_operands_that_fit_the_other_order_alone(
    ops: vllm_ops.VllmOps, a: torch.Tensor, b: torch.Tensor, bias: torch.Tensor | None, argument: str, remedy: str
) -> None:
    """A matrix of more than 128 rows is no activation; a bias has as many features as the weight has rows."""
    with pytest.raises(ArgumentError, match="fit the other order alone") as caught:
        ops.wvSplitKrc(a, b, 304, bias)
    assert caught.value.argument == argument and remedy in caught.value.remedy
    other = OLD if ops is NEW else NEW
    assert other.wvSplitKrc(a, b, 304, bias).shape == ((len(b), len(a)) if other is OLD else (len(a), len(b)))


def test_operands_that_fit_no_order_are_said_to_as_ever() -> None:
    for a, b, bias, argument in ((SMALL, A, BIAS[:3], "bias"), (SMALL, A[:, :32], None, "b")):
        with pytest.raises(ArgumentError) as caught:
            vllm_ops.wvSplitKrc(a, b, 304, bias)
        assert caught.value.argument == argument and "other order" not in str(caught.value)
    with pytest.raises(DispatchError, match="n must be 1 to 128, it is 200"):
        vllm_ops.wvSplitKrc(LARGE, LARGE, 304)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_a_bias_is_taken_in_any_shape_and_float(dtype: torch.dtype) -> None:
    """One a row of x, strided, of another type, or without elements: as torch would add it, in the dtype of y."""
    calls = (
        lambda bias: vllm_ops.wvSplitK(A, B, 304, bias),
        lambda bias: NEW.wvSplitKrc(B, A, 304, bias),
        lambda bias: OLD.wvSplitKrc(A, B, 304, bias),
        lambda bias: vllm_ops.wvSplitKQ(QA, QB, torch.bfloat16, SCALE_X, SCALE_W, 304, bias),
    )
    biases = [
        torch.randn(3, 1),
        torch.randn(24),
        torch.randn(24, 3).T,
        torch.randn(3, 48)[:, ::2],
        torch.randn(48)[::2],
    ]
    for call in calls:
        for bias in biases:
            given = bias.to(dtype)
            assert torch.equal(call(given), call(given.expand(3, 24).bfloat16().contiguous()))
        assert torch.equal(call(torch.empty(0, dtype=dtype)), call(None))
        with pytest.raises(ArgumentError, match="`bias`"):
            call(torch.ones(24, dtype=torch.int32))


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
    """Told from the launches: their workgroups, and what they read of a workspace in each way to reduce. What takes no
    mode (None: the order of older versions) takes that of the environment, and False is one."""
    x, weight = torch.randn(33, 4096).bfloat16(), torch.randn(256, 4096).bfloat16()
    expected = x.double() @ weight.double().T
    for mode, fast, environment in (
        ("deterministic", False, None),
        ("deterministic", False, "fast"),
        ("batch_invariant", None, "batch_invariant"),
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
                    if fast is None:
                        y = vllm_ops.for_version("0.16.0").wvSplitKrc(weight, x, cu_count)
                    else:
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
        (lambda: vllm_ops.wvSplitKQ(QA, QB, torch.float16, torch.ones(5), one, 304), "scale_a"),
        (lambda: vllm_ops.wvSplitKQ(QA, QB, torch.float16, one, torch.ones(3), 304), "scale_b"),
    ):
        with pytest.raises(ArgumentError) as caught:
            call()
        assert caught.value.argument == argument and "b is x, a is the weight" in str(caught.value)
    for call, argument in (
        (lambda: vllm_ops.wvSplitKrc(B, A.half(), 304), "b"),
        (lambda: vllm_ops.wvSplitKrc(B.float(), A.float(), 304), "a"),
        (lambda: vllm_ops.wvSplitKrc(B, A, 304, BIAS[:5]), "bias"),
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
