"""What every operator does by being registered: no gradient is silently lost, no tensor is taken for what it is not,
and calls that were prepared are kept as long as they are of use."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from torch.autograd import forward_ad  # noqa: E402
from torch.nn import functional  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import envs  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError, MissingArtifactError, ToolchainNotFoundError  # noqa: E402
from aiterlite.jit import loader  # noqa: E402
from aiterlite.ops import calls, operands  # noqa: E402
from aiterlite.ops.calls import PreparedCalls  # noqa: E402
from aiterlite.ops.linear import OPERATOR as LINEAR  # noqa: E402
from aiterlite.ops.operator import OPERATORS as REGISTRY  # noqa: E402
from aiterlite.ops.operator import register  # noqa: E402
from aiterlite.tables import FAMILIES  # noqa: E402
from aiterlite.tables.gemm import CPU_LINEAR_TOKENS  # noqa: E402
from aiterlite.tables.gemm_rc_plan import MAX_TOKENS  # noqa: E402

pytestmark = pytest.mark.compile

X, W = torch.randn(4, 64).bfloat16(), torch.randn(24, 64).bfloat16()
B = torch.randn(24).bfloat16()
OPERATORS: dict[str, Callable[..., torch.Tensor]] = {
    "linear": aiterlite.linear,
    "wvSplitK": aiterlite.wvSplitK,
    "wvSplitKrc": aiterlite.wvSplitKrc,
}


def assert_like_torch(y: torch.Tensor, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None = None) -> None:
    torch.testing.assert_close(y, functional.linear(x, w, b), rtol=2**-6, atol=0.1)


@pytest.fixture(scope="module")
def toy() -> Iterator[Any]:
    """An operator of two results, one of integers, that also writes to an argument."""

    def prepare(x: torch.Tensor, out: torch.Tensor, *, by: int = 1) -> Callable[..., Any]:
        def run(x: torch.Tensor, out: torch.Tensor, *, by: int = 1) -> Any:
            out.copy_(x + by)
            return x * by, x.argmax(-1)

        return run

    def fake(x: torch.Tensor, out: torch.Tensor, *, by: int = 1) -> Any:
        return torch.empty_like(x), x.new_empty(x.shape[:-1], dtype=torch.int64)

    schema = "_test_two_results(Tensor x, Tensor(a!) out, *, int by=1) -> (Tensor, Tensor)"
    made = register(schema, prepare, fake)
    yield made
    del REGISTRY[made.name]


def is_plain(*tensors: torch.Tensor | None) -> bool:
    return operands.plain_layouts(*tensors) is not None


# Tensors that are not what their memory says --------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("negated", ["x", "weight", "bias"])
def test_a_negated_view_has_its_sign(name: str, negated: str) -> None:
    given = {"x": X, "weight": W, "bias": B}
    OPERATORS[name](*given.values())
    seen = {key: torch._neg_view(tensor) if key == negated else tensor for key, tensor in given.items()}
    meant = {key: -tensor if key == negated else tensor for key, tensor in given.items()}
    assert_like_torch(OPERATORS[name](*seen.values()), *meant.values())


def test_the_imaginary_part_of_a_conjugate_has_its_sign() -> None:
    part = torch.complex(torch.randn(4, 64), torch.randn(4, 64)).to(torch.complex32).conj().imag
    assert part.is_neg() and part.dtype == torch.float16
    whole = part.resolve_neg().clone()
    aiterlite.linear(whole, W.half())
    assert_like_torch(aiterlite.linear(part, W.half()), whole, W.half())


@pytest.mark.parametrize("name", OPERATORS)
def test_a_zero_tensor_has_no_memory_to_read(name: str) -> None:
    """It ended the process, after a call of the same shape."""
    OPERATORS[name](X, W)
    zero = torch._efficientzerotensor((4, 64), dtype=torch.bfloat16)
    with contextlib.suppress(ArgumentError):
        assert not bool(OPERATORS[name](zero, W).any())


@pytest.mark.parametrize("name", OPERATORS)
def test_operands_of_two_devices_are_named_also_after_a_call(name: str) -> None:
    OPERATORS[name](X, W)
    with pytest.raises(ArgumentError, match="`weight` is on meta; allowed: cpu, the device of x"):
        OPERATORS[name](X, W.to("meta"))


def test_none_is_no_tensor(toy: Any) -> None:
    """Torch's dispatcher takes it for one of any argument."""
    x, out = torch.randn(3), torch.empty(3)
    for args, argument in (((None, out), "x"), ((x, None), "out")):
        for function in (toy, toy.run, toy.fake):
            with pytest.raises(ArgumentError, match="_test_two_results: .* is None; allowed: a tensor") as refused:
                function(*args)
            assert refused.value.argument == argument


def test_what_is_plain() -> None:
    assert is_plain(X, W, None) and is_plain(torch.nn.Parameter(X), W, B)
    strange = [
        torch._neg_view(X),
        torch._efficientzerotensor((4, 64)),
        X.to("meta"),
        X.float().to_sparse(),
        torch.nested.nested_tensor([X, X[:2]]),
        torch.nn.Buffer(X).as_subclass(type("Sub", (torch.Tensor,), {})),
    ]
    assert not any(is_plain(X, tensor) or is_plain(tensor, W) for tensor in strange)
    with forward_ad.dual_level():
        assert not is_plain(X, W)
    with torch.overrides.BaseTorchFunctionMode():
        assert not is_plain(X, W)


# Gradients ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wvSplitK", "wvSplitKrc"])
def test_backward_is_an_error_and_no_part_of_a_gradient(name: str) -> None:
    x = X.clone().requires_grad_()
    y = OPERATORS[name](x, W)
    assert y.requires_grad and torch.equal(y.detach(), OPERATORS[name](X, W))
    # What is differentiable beside it would give a gradient that lacks this path.
    with pytest.raises(NotImplementedError, match=f"aiterlite::{name} is not differentiable"):
        (y.sum() + x.sum()).backward()
    assert x.grad is None
    with torch.no_grad():
        assert not OPERATORS[name](x, W).requires_grad


@pytest.mark.parametrize("name", sorted({*OPERATORS} - {"linear"}))
def test_a_tangent_is_an_error(name: str) -> None:
    """It was lost, or zero."""
    OPERATORS[name](X, W)
    for call, primal in ((lambda x: OPERATORS[name](x, W), X), (lambda w: OPERATORS[name](X, w), W)):
        with pytest.raises(NotImplementedError, match="not differentiable: an operand has a tangent"):
            torch.func.jvp(call, (primal,), (torch.ones_like(primal),))
        with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="an operand has a tangent"):
            call(forward_ad.make_dual(primal, torch.ones_like(primal)))
    with forward_ad.dual_level():
        # Nothing here has a tangent.
        assert torch.equal(OPERATORS[name](X, W), OPERATORS[name](X, W))


@pytest.mark.parametrize("name", ["wvSplitK", "wvSplitKrc"])
def test_gradients_of_functions_are_an_error(name: str) -> None:
    with pytest.raises(NotImplementedError, match=f"aiterlite::{name} is not differentiable"):
        torch.func.grad(lambda x: OPERATORS[name](x, W).float().sum())(X)


def test_linear_of_a_tangent_is_torchs() -> None:
    x, tangent = X.float(), torch.randn(4, 64)
    got = torch.func.jvp(lambda x: aiterlite.linear(x, W.float()), (x,), (tangent,))
    assert torch.equal(got[0], x @ W.float().T) and torch.allclose(got[1], tangent @ W.float().T, atol=1e-4)


def test_linear_of_nested_rows_is_torchs() -> None:
    rows = torch.nested.nested_tensor([X, X[:2]])
    for got, meant in zip(aiterlite.linear(rows, W).unbind(), (X, X[:2]), strict=True):
        assert_like_torch(got, meant, W)


def test_linear_takes_torch_where_a_gradient_is_needed() -> None:
    x, w = X.float().requires_grad_(), W.float().requires_grad_()
    torch.autograd.gradcheck(aiterlite.linear, (x[:2, :8].double(), w[:3, :8].double()))


def test_several_results_and_arguments_that_are_written(toy: Any) -> None:
    x, out = torch.randn(3, 5), torch.empty(3, 5)
    doubled, where = toy(x, out, by=2)
    assert torch.equal(doubled, 2 * x) and torch.equal(where, x.argmax(-1)) and torch.equal(out, x + 2)
    assert toy.mutates == ("out",)
    torch.library.opcheck(toy.overload, (x, out), {"by": 3})
    for given in ((x.clone().requires_grad_(), out), (x, out.clone().requires_grad_())):
        with pytest.raises(NotImplementedError, match="_test_two_results is not differentiable and writes to `out`"):
            toy(*given)
        with torch.no_grad():
            assert torch.equal(toy(*given, by=2)[0], 2 * x)


def test_a_compiled_graph_sees_what_is_written(toy: Any) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        out = torch.zeros_like(x)
        doubled, where = toy(x, out, by=2)
        return doubled + out + where.unsqueeze(-1)

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (2, 5):
        x = torch.randn(rows, 7)
        torch.testing.assert_close(compiled(x), model(x))


# Prepared calls -------------------------------------------------------------------------------------------------------


def held(kept: PreparedCalls) -> int:
    _, young, old = kept._kept
    return len(young) + len(old)


def test_the_least_recently_used_calls_are_forgotten() -> None:
    kept = PreparedCalls(most=4)
    for key in "abc":
        kept.prepare(key, lambda key=key: key)
    assert kept.find("a") == "a"
    for key in "de":
        kept.prepare(key, lambda key=key: key)
    assert [kept.find(key) for key in "abde"] == ["a", None, "d", "e"] and held(kept) <= 4


def test_what_is_used_again_and_again_is_kept_however_many_others_come() -> None:
    kept = PreparedCalls(most=8)
    for number in range(1000):
        kept.find("hot") or kept.prepare("hot", lambda number=number: f"made at {number}")
        kept.prepare(number, lambda: "other")
    assert kept.find("hot") == "made at 0" and held(kept) <= 8


def test_a_call_is_kept_only_under_the_environment_that_it_was_prepared_in() -> None:
    """Another thread changes the environment while this one prepares."""
    kept = PreparedCalls()
    assert kept.prepare("a", lambda: 1) == 1 and kept.find("a") == 1

    def prepare() -> int:
        envs.reload()
        return 2

    assert kept.prepare("b", prepare) == 2
    assert kept.find("b") is None and kept.find("a") is None


def test_hot_calls_survive_100_000_prefill_lengths(monkeypatch: pytest.MonkeyPatch) -> None:
    aiterlite.linear(X, W)
    hot = dict(LINEAR.prepared._kept[1])
    monkeypatch.setattr(calls, "decide", lambda *call: pytest.fail(f"decided {call}"))
    # Not its arithmetic, which would take minutes.
    served: list[int] = []
    monkeypatch.setattr(functional, "linear", lambda x, weight, bias: served.append(x.shape[0]))
    row = torch.empty(1, 64).bfloat16()
    for n in range(129, 100_129):
        aiterlite.linear(row.expand(n, 64), W)
    assert served == list(range(129, 100_129)) and hot.items() <= LINEAR.prepared._kept[1].items()


def test_tokens_that_no_cpu_kernel_serves_are_not_decided(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CPU has no kernel that is faster than torch beyond CPU_LINEAR_TOKENS: such calls cost what a prefill does."""
    monkeypatch.setattr(calls, "decide", lambda *call: pytest.fail(f"decided {call}"))
    for n in range(CPU_LINEAR_TOKENS + 1, MAX_TOKENS + 1):
        x = torch.randn(n, 64).bfloat16()
        assert torch.equal(aiterlite.linear(x, W, B), functional.linear(x, W, B))


def test_what_a_cpu_call_of_more_tokens_may_need_decided_is(monkeypatch: pytest.MonkeyPatch) -> None:
    decided: list[int] = []

    def decide(table: Any, problem: Any, persona: Any) -> None:
        decided.append(problem.n)
        raise DispatchError("enough is known")

    monkeypatch.setattr(calls, "decide", decide)
    for n, reduction, environment in (
        (CPU_LINEAR_TOKENS, None, {}),
        (CPU_LINEAR_TOKENS + 1, "batch_invariant", {}),
        (CPU_LINEAR_TOKENS + 2, None, {"AITERLITE_GEMM_REDUCTION": "batch_invariant"}),
        (CPU_LINEAR_TOKENS + 3, None, {"AITERLITE_TARGET": "gfx942"}),
        (CPU_LINEAR_TOKENS + 4, None, {"AITERLITE_STRICT": "1"}),
    ):
        with envs.override(**environment), pytest.raises(DispatchError, match="enough"):
            aiterlite.linear(torch.randn(n, 72).bfloat16(), torch.randn(24, 72).bfloat16(), reduction=reduction)
    assert decided == list(range(CPU_LINEAR_TOKENS, CPU_LINEAR_TOKENS + 5))


def test_prefill_is_decided_where_somebody_wants_to_know(tmp_path: Any) -> None:
    long = torch.randn(200, 64).bfloat16()
    with envs.override(AITERLITE_STRICT="1"), pytest.raises(DispatchError):
        aiterlite.linear(long, W)
    with aiterlite.recording(tmp_path / "calls.json") as seen:
        aiterlite.linear(long[:199], W)
    assert [call["problem"]["n"] for call in seen.calls.values()] == [199]


def test_operands_of_a_prefill_that_do_not_fit_are_named() -> None:
    long = torch.randn(200, 64).bfloat16()
    for given, said in (
        ((long, W[:, :63]), r"`weight` is of shape \[24, 63\]"),
        ((long, W.float()), "`weight` is of dtype torch.float32; allowed: torch.bfloat16"),
        ((long, W[0]), r"`weight` is of shape \[64\]; allowed: .M, K., 2 dimensions"),
        ((long, W, B[:3]), "`bias` is of shape"),
        ((long, W, B.float()), "`bias` is of dtype torch.float32"),
    ):
        with pytest.raises(ArgumentError, match=f"linear: argument {said}"):
            aiterlite.linear(*given)
    with pytest.raises(ArgumentError, match="`reduction` is 'quick'"):
        aiterlite.linear(long, W, reduction="quick")
    per_row = torch.randn(200, 24).bfloat16()
    assert_like_torch(aiterlite.linear(long.view(2, 100, 64), W, per_row).view(200, 24), long, W, per_row)


def test_threads_share_prepared_calls() -> None:
    results: list[torch.Tensor] = []
    threads = [threading.Thread(target=lambda: results.append(aiterlite.linear(X, W))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 8 and all(torch.equal(y, results[0]) for y in results)


# Where things are missing ---------------------------------------------------------------------------------------------


@pytest.fixture
def without_compilers(cache_dir: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(loader, "_libraries", {})
    envs.reload()


def test_without_a_compiler_torch_serves_linear_and_says_so_once(without_compilers: None) -> None:
    with pytest.warns(RuntimeWarning, match="torch serves linear: no compiler for host units") as seen:
        for rows in (1, 2, 3):
            assert torch.equal(aiterlite.linear(X[:rows], W), functional.linear(X[:rows], W))
    assert len({str(warning.message) for warning in seen}) == 1
    with pytest.raises(ToolchainNotFoundError):
        aiterlite.wvSplitK(X, W)
    with envs.override(AITERLITE_STRICT="1"), pytest.raises(ToolchainNotFoundError):
        aiterlite.linear(X, W)
    with pytest.raises(ToolchainNotFoundError):
        aiterlite.linear(X, W, reduction="batch_invariant")
    # A cache that may not be built into is another matter: its miss names the command that builds.
    with envs.override(AITERLITE_JIT="require-cache"), pytest.raises(MissingArtifactError):
        aiterlite.linear(X, W)


def test_what_was_exported_is_loaded_after_one_import(tmp_path: Any) -> None:
    class Model(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ops.aiterlite.wvSplitK(x, W) + torch.ops.aiterlite.linear(x, W)

    torch.export.save(torch.export.export(Model(), (X,)), tmp_path / "model.pt2")
    torch.save(X, tmp_path / "x.pt")
    code = """
import sys, torch, {module}
model = torch.export.load(sys.argv[1] + "/model.pt2").module()
print(model(torch.load(sys.argv[1] + "/x.pt")).shape)
"""
    for module, works in (("aiterlite.operators", True), ("aiterlite", False)):
        words = [sys.executable, "-c", code.format(module=module), str(tmp_path)]
        done = subprocess.run(words, capture_output=True, text=True)
        assert (done.returncode == 0) == works, done.stderr
        assert not works or "torch.Size([4, 24])" in done.stdout


def test_all_operators_are_registered_by_that_import() -> None:
    from aiterlite.operators import NAMES

    public = {name for family in FAMILIES.values() for name in family.public}
    assert {"linear", "wvSplitK", "wvSplitKQ", "wvSplitKrc", "LLMM1"} <= set(NAMES)
    assert {table.op for family in FAMILIES.values() for table in family.tables} <= set(NAMES)
    assert set(aiterlite.__all__) == public | set(aiterlite._LAZY)


@pytest.mark.parametrize("name", ["wvSplitK", "wvSplitKrc", "LLMM1"])
def test_a_trace_refuses_the_dtypes_that_a_call_refuses(name: str) -> None:
    x, weight = torch.empty(1, 64, device="meta"), torch.empty(24, 64, device="meta")
    with pytest.raises(ArgumentError, match=r"`x` is of dtype torch\.float32"):
        getattr(aiterlite, name)(x, weight)
