"""`linear` over the whole family: what it launches is what the operators launch, in every reduction. L2."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import AMD, TARGETS, assert_within_bound, biases, cancelling, matrix, on  # noqa: E402
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode  # noqa: E402
from torch.fx.experimental.proxy_tensor import make_fx  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch  # noqa: E402
from aiterlite.benchmark.options import decision_of  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError, EnvironmentValueError  # noqa: E402
from aiterlite.launch import workspace  # noqa: E402
from aiterlite.ops import calls, gemm_rc, operands  # noqa: E402
from aiterlite.tables import gemm_rc as rc_tables  # noqa: E402
from aiterlite.tables.gemm_rc import RcProblem  # noqa: E402
from aiterlite.tables.linear import LINEAR  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

TOKENS = (*range(1, 18), 31, 32, 33, 63, 64, 65, 100, 127, 128)
# A shape that gfx942 and gfx950 cut into several shards, into other ones for other token counts.
M, K = 40, 4096


def operator_of(n: int, m: int, k: int, device: str = "cpu", reduction: str = "deterministic") -> str:
    row = decision_of("linear", RcProblem(n, m, k, reduction=reduction), torch.device(device)).row
    assert row is not None
    return "torch" if row.name == "torch" else "wvSplitKrc" if row.name.startswith("rc_") else "wvSplitK"


@pytest.mark.parametrize("target", TARGETS)
def test_every_operator_is_right_through_linear(target: str) -> None:
    """Every token count around the buckets, every bias form, odd M, padded rows, unaligned K; beyond 128 tokens too."""
    torch.manual_seed(5)
    used = set()
    with on(target) as device:
        for n in (1, 5, 9, 16, 17, 33, 100, 128, 129):
            for m, k, pad in ((37, 776, 24), (40, 4096, 0), (19, 101, 3)):
                dtype = (torch.bfloat16, torch.float16)[(n + m) % 2]
                x = matrix(n, k, "mixed", dtype, pad, device=device)
                weight = matrix(m, k, "normal", dtype, 2 * pad, k**-0.5, device)
                bias = biases(n, m, "normal", dtype, device)[(n + m) % 4]
                y = aiterlite.linear(x, weight, bias)
                used.add(operator_of(n, m, k, device))
                if used == {"torch"} or operator_of(n, m, k, device) == "torch":
                    # torch's products on CPUs with AMX read what lies behind a row: poison, here.
                    plain = torch.nn.functional.linear(x, weight, bias)
                    torch.testing.assert_close(y, plain, rtol=0, atol=0, equal_nan=True)
                else:
                    assert_within_bound(y, x, weight, bias)
    expected = {"wvSplitK", "torch"} if target == "cpu" else {"wvSplitK", "wvSplitKrc", "torch"}
    # What a GPU takes is measured, and may be measured anew.
    assert "torch" in used and (len(used) > 1 if target == "cuda" else used == expected)


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("reduction", [None, "fast", "batch_invariant"])
def test_linear_gives_the_bits_of_wv_split_k_rc_where_that_is_taken(reduction: str | None, target: str) -> None:
    """By its launch path: in the thread's workspace of the reduction's kind."""
    with on(target):
        x, weight = cancelling(100, M, K, "cpu")
        assert operator_of(100, M, K, reduction=reduction or "deterministic") == "wvSplitKrc"
        pool = workspace._thread.pool = workspace.Pool()
        y = aiterlite.linear(x.view(4, 25, K), weight, reduction=reduction).view(100, M)
        assert (
            len(pool._eager) == 1
            and next(iter(pool._eager))[2] == f"gemm {'atomic' if reduction == 'fast' else 'slices'}"
        )
        if reduction == "fast":
            assert_within_bound(y, x, weight, None)
        else:
            assert torch.equal(y, aiterlite.wvSplitKrc(x, weight, reduction=reduction))
        assert torch.equal(aiterlite.linear(x[:3], weight), aiterlite.wvSplitK(x[:3], weight))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "k", "pad"), [(M, K, 8), (M, K, 2), (19, 2881, 2)])
def test_in_batch_invariant_a_rows_bits_do_not_depend_on_the_batch(m: int, k: int, pad: int, target: str) -> None:
    with on(target, AITERLITE_GEMM_REDUCTION="batch_invariant") as device:
        x, weight = cancelling(128, m, k, device)
        bias = matrix(1, m, "normal", torch.bfloat16, device=device)
        padded = torch.empty(128, k + pad, dtype=x.dtype, device=device)[:, :k].copy_(x)
        whole = aiterlite.linear(padded, weight, bias)
        for n in TOKENS if pad == 8 else (1, 8, 9, 16, 17, 64):
            assert operator_of(n, m, k, device, "batch_invariant") == "wvSplitKrc"
            for rows in (slice(0, n), slice(128 - n, 128)):
                assert torch.equal(aiterlite.linear(padded[rows], weight, bias), whole[rows]), (n, rows)
    with on(target) as device:
        asked = aiterlite.linear(padded[:3], weight, bias, reduction="batch_invariant")
        assert torch.equal(asked, whole[:3])


def test_in_batch_invariant_a_row_alone_is_as_aligned_as_among_others() -> None:
    """Alignment may choose a kernel of another order, which the number of rows must not."""
    weight = matrix(24, 64, "normal", torch.bfloat16)
    for pad, offset in ((0, 0), (8, 0), (2, 0), (8, 4), (0, 4)):
        x = matrix(9, 64, "normal", torch.bfloat16, pad, offset=offset)
        for first in range(4):
            found = {
                gemm_rc.problem_of(x[first : first + n], weight, None, "batch_invariant").aligned for n in (1, 2, 5)
            }
            assert found == {pad in (0, 8) and offset == 0}, (pad, offset, first)
    assert gemm_rc.problem_of(matrix(2, 64, "normal", x.dtype, 2)[:1], weight, None, "deterministic").aligned


@pytest.mark.parametrize("target", AMD)
def test_without_it_they_do(target: str) -> None:
    """The negative control: the same operands show the order of wvSplitK, and of another cut of K."""
    with on(target):
        x, weight = cancelling(128, M, K, "cpu")
        whole = aiterlite.linear(x, weight)
        assert not torch.equal(aiterlite.linear(x[:1], weight), whole[:1])
        assert not torch.equal(aiterlite.linear(x[:16], weight), whole[:16])


@pytest.mark.emulated
@pytest.mark.parametrize("wish", ["asm", "hip"])
def test_no_wish_makes_batch_invariant_break_its_promise(wish: str) -> None:
    """The assembly kernel has another order. Under AITERLITE_STRICT=1 the wish that cannot be met is an error."""
    x, weight = cancelling(16, M, K, "cpu")
    with on("gfx942", AITERLITE_PREFER=wish):
        expected = aiterlite.wvSplitKrc(x, weight, reduction="batch_invariant")
        assert torch.equal(aiterlite.linear(x, weight, reduction="batch_invariant"), expected)
        assert torch.equal(aiterlite.linear(x[:2], weight, reduction="batch_invariant"), expected[:2])
    with on("gfx942", AITERLITE_PREFER=wish, AITERLITE_STRICT="1"):
        if wish == "asm":
            with pytest.raises(DispatchError, match="AITERLITE_PREFER=asm has no row for this problem; took rc_mfma"):
                aiterlite.linear(x, weight, reduction="batch_invariant")
        else:
            aiterlite.linear(x, weight, reduction="batch_invariant")


def test_where_batch_invariant_cannot_be_kept_the_call_is_an_error() -> None:
    x, weight = matrix(3, 64, "normal", torch.bfloat16), matrix(24, 64, "normal", torch.bfloat16)
    strided = torch.empty(64, 24, dtype=x.dtype).copy_(weight.T).T
    with on("cpu", AITERLITE_GEMM_REDUCTION="batch_invariant"):
        with pytest.raises(DispatchError, match="make it contiguous") as caught:
            aiterlite.linear(x, strided)
        assert "the bits of torch may depend on n (AITERLITE_GEMM_REDUCTION=deterministic)" in str(caught.value)
        # What the promise is not for: other dtypes, and more rows.
        assert torch.equal(aiterlite.linear(x.float(), weight.float()), x.float() @ weight.float().T)
        many = matrix(129, 64, "normal", torch.bfloat16)
        assert torch.equal(aiterlite.linear(many, weight), torch.nn.functional.linear(many, weight))
    with (
        on("cpu", AITERLITE_GEMM_REDUCTION="batch_invariant", AITERLITE_JIT="off"),
        pytest.raises(DispatchError, match="AITERLITE_JIT=off"),
    ):
        aiterlite.linear(x, weight)
    assert torch.equal(aiterlite.linear(x, strided), torch.nn.functional.linear(x, strided))


def test_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = matrix(12, 64, "normal", torch.bfloat16), matrix(16, 64, "normal", torch.bfloat16)
    decided: list[tuple[str, str]] = []
    decide = calls.decide

    def seen(table: dispatch.Table, problem: RcProblem, persona: object) -> object:
        decided.append((table.op, problem.reduction))
        return decide(table, problem, persona)  # type: ignore[arg-type]

    monkeypatch.setattr(calls, "decide", seen)
    for variable, argument, wanted in (
        (None, None, "deterministic"),
        ("fast", None, "fast"),
        ("batch_invariant", None, "batch_invariant"),
        ("batch_invariant", "fast", "fast"),
        ("fast", "deterministic", "deterministic"),
    ):
        with on("cpu", AITERLITE_GEMM_REDUCTION=variable):
            aiterlite.linear(x, weight, reduction=argument)
        assert decided[-1] == ("linear", wanted)
    with on("cpu"):
        # One set of operands, so that calls which were prepared for another reduction are met.
        for argument in ("fast", None, "batch_invariant", "deterministic"):
            aiterlite.linear(x[:9], weight, reduction=argument)
            assert decided[-1] == ("linear", argument or "deterministic")
    with pytest.raises(ArgumentError, match="linear: argument `reduction` is 'quick'; allowed: deterministic, fast"):
        aiterlite.linear(x, weight, reduction="quick")
    with pytest.raises(ArgumentError, match="linear: argument `reduction` is 'quick'"):
        torch.ops.aiterlite.linear(x.to("meta"), weight.to("meta"), reduction="quick")
    with on("cpu"), pytest.raises(EnvironmentValueError), on("cpu", AITERLITE_GEMM_REDUCTION="quick"):
        aiterlite.linear(x, weight)


def test_linear_launches_what_the_operator_s_own_table_chooses() -> None:
    """For every row of wvSplitKrc, also one that is added, `linear` has one of the same plan and kernels."""
    own = [row for row in LINEAR.rows if row.name.startswith("rc_")]
    assert len(own) == len(rc_tables.WV_SPLIT_K_RC.rows)
    for row, original in zip(own, rc_tables.WV_SPLIT_K_RC.rows, strict=True):
        assert (row.plan, row.kernels, row.workspace, row.backend, row.preference) == (
            original.plan,
            original.kernels,
            original.workspace,
            original.backend,
            original.preference,
        )
        assert row.requires[:-1] == original.requires
    with on("gfx950"):
        persona = persona_for("cpu", None)
        problem = RcProblem(100, M, K)
        inner = dispatch.decide(rc_tables.WV_SPLIT_K_RC, problem, persona)
        outer = dispatch.decide(LINEAR, problem, persona)
        assert (outer.plan, outer.kernels, outer.workspace) == (inner.plan, inner.kernels, inner.workspace)


def test_opcheck_with_a_reduction() -> None:
    torch.library.opcheck(
        torch.ops.aiterlite.linear.default,
        (torch.randn(2, 10, 64).bfloat16(), torch.randn(24, 64).bfloat16()),
        {"reduction": "batch_invariant"},
    )


# Passing by the dispatcher --------------------------------------------------------------------------------------------


class Seen(TorchDispatchMode):
    """The operators that reach torch's dispatcher."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.names.append(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("tokens", [1, 4096])
@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(("place", "given"), [(0, None), (0, [1.0]), (1, None), (1, 2.0), (2, "b")])
def test_what_is_no_tensor_is_refused_by_name(place: int, given: Any, grad: bool, tokens: int) -> None:
    """Here, or, of a type that the dispatcher looks at, there."""
    args: list[Any] = [torch.randn(tokens, 64).bfloat16(), torch.randn(8, 64).bfloat16(), None]
    args[place] = given
    told = f"argument [`']{('x', 'weight', 'bias')[place]}[`']"
    with torch.set_grad_enabled(grad), pytest.raises((ArgumentError, RuntimeError), match=told):
        aiterlite.linear(*args)


def test_whoever_watches_operators_sees_linear() -> None:
    """Where nobody does, the call passes by torch's dispatcher, with the same bits."""
    x, weight = matrix(3, 64, "normal", torch.bfloat16), matrix(24, 64, "normal", torch.bfloat16)
    plain = aiterlite.linear(x, weight)
    with Seen() as seen:
        assert torch.equal(aiterlite.linear(x, weight), plain)
    assert "aiterlite.linear.default" in seen.names
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        aiterlite.linear(x, weight)
    assert "aiterlite::linear" in {event.name for event in profile.events()}
    traced = make_fx(lambda x: aiterlite.linear(x, weight))(x)
    assert any("aiterlite.linear" in str(node.target) for node in traced.graph.nodes)
    with FakeTensorMode() as mode:
        fake = aiterlite.linear(mode.from_tensor(x), mode.from_tensor(weight))
    assert isinstance(fake, FakeTensor) and fake.shape == plain.shape
    assert aiterlite.linear(x.to("meta"), weight.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("scope", "plain"),
    [
        (contextlib.nullcontext, True),
        (Seen, False),
        (FakeTensorMode, False),
        (lambda: torch.device("cpu"), False),  # a mode over torch's functions
        (torch.profiler.profile, False),
    ],
    ids=["nothing", "dispatch mode", "fake tensors", "function mode", "profiler"],
)
def test_only_a_call_that_nobody_watches_is_plain(scope: Callable[[], Any], plain: bool) -> None:
    x, weight = torch.zeros(3, 64), torch.nn.Parameter(torch.zeros(24, 64))
    with scope():
        assert (operands.plain_layouts(x, weight, None) is not None) == plain


def test_tensors_of_other_kinds_are_not_plain() -> None:
    class Other(torch.Tensor):
        pass

    x, weight = torch.zeros(3, 64), torch.zeros(24, 64)
    assert operands.plain_layouts(x, weight, weight[:, 0]) is not None
    assert not (operands.plain_layouts(x.as_subclass(Other), weight, None) is not None)
    assert not (operands.plain_layouts(x, weight.as_subclass(Other), None) is not None)
    assert not (operands.plain_layouts(x, weight, weight[:, 0].as_subclass(Other)) is not None)
    assert not (operands.plain_layouts(x.to("meta"), weight, None) is not None)
    seen = []
    torch.func.vmap(lambda row: seen.append(operands.plain_layouts(row, weight, None) is not None) or row)(x)
    assert seen == [False]
