"""`wvSplitKrc` through the public function: cpu, gfx942 and gfx950 in the emulator, and a GPU where there is one. L2.

What each reduction promises has a test of its own; the workspace has tests/test_workspace.py.
"""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import (  # noqa: E402
    AMD,
    KINDS,
    NAN,
    TARGETS,
    assert_within_bound,
    biases,
    cancelling,
    matrix,
    on,
)

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator, envs  # noqa: E402
from aiterlite.emulator import Schedule  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError, EnvironmentValueError  # noqa: E402
from aiterlite.kernel import Workspace  # noqa: E402
from aiterlite.launch import workspace  # noqa: E402
from aiterlite.ops import calls, gemm_rc  # noqa: E402
from aiterlite.tables import gemm_rc as tables  # noqa: E402
from aiterlite.tables.gemm_rc_plan import COUNTERS, REDUCE_ATOMIC, REDUCE_NONE, REDUCE_SLICES, REDUCTIONS  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

TOKENS = (1, 2, 9, 16, 17, 31, 32, 63, 64, 100, 128)
EVERY_N = sorted({*range(1, 17), *TOKENS, 25, 33, 47, 65, 81, 127})
# A shape that every GPU cuts into several shards at 128 tokens, and into few tiles.
M, K = 40, 4096


def plan_of(n: int, m: int, k: int, reduction: str) -> tables.WvSplitKrcPlan | None:
    problem = tables.RcProblem(n, m, k, reduction=reduction)
    return dispatch.decide(tables.WV_SPLIT_K_RC, problem, persona_for("cpu", None)).plan


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("n", EVERY_N)
def test_every_token_count(n: int, target: str) -> None:
    """Distributions, bias forms, dtypes, padded strides of both operands, odd M and unaligned K, each reduction."""
    torch.manual_seed(n)
    shapes = ((64, 1024, 0), (37, 776, 24), (19, 101, 3))
    with on(target) as device:
        for index, (m, k, pad) in enumerate(shapes):
            dtype = (torch.bfloat16, torch.float16)[(n + index) % 2]
            kind = KINDS[(n + index) % 3]
            reduction = REDUCTIONS[(n // 3 + index) % 3]
            x = matrix(n, k, kind, dtype, pad, device=device)
            weight = matrix(m, k, KINDS[n % 2], dtype, 2 * pad, k**-0.5, device)
            forms = biases(n, m, kind, dtype, device)
            for bias in (forms[0], forms[1 + (n + index) % 3]):
                assert_within_bound(aiterlite.wvSplitKrc(x, weight, bias, reduction=reduction), x, weight, bias)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("n", "k"), [(16, 12288), (33, 7168), (100, 12288), (128, 4104), (64, 12287)])
def test_long_k(n: int, k: int, kind: str, target: str) -> None:
    """Each reduction, into a shard width of its own, with a form of bias each."""
    torch.manual_seed(k)
    with on(target) as device:
        x = matrix(n, k, kind, torch.bfloat16, device=device)
        weight = matrix(33, k, "normal", torch.bfloat16, k % 2, k**-0.5, device)
        for reduction, bias in zip(REDUCTIONS, biases(n, 33, kind, x.dtype, device)[n % 2 :], strict=False):
            assert_within_bound(aiterlite.wvSplitKrc(x, weight, bias, reduction=reduction), x, weight, bias)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_the_bias_is_checked(reduction: str, target: str) -> None:
    """The negative control of the bias cases: without it, or with that of the neighbour, the bound is exceeded; also of
    one row alone, and of one element."""
    torch.manual_seed(9)
    with on(target) as device:
        x, weight = matrix(20, K, "normal", torch.bfloat16, device=device), matrix(M, K, "normal", torch.bfloat16)
        weight = (weight * K**-0.5).to(device)
        for bias in biases(20, M, "normal", x.dtype, device)[1:]:
            y = aiterlite.wvSplitKrc(x, weight, bias, reduction=reduction)
            assert_within_bound(y, x, weight, bias)
            for wrong in (None, bias.roll(1, -1)):
                with pytest.raises(AssertionError, match="times the bound"):
                    assert_within_bound(aiterlite.wvSplitKrc(x, weight, wrong, reduction=reduction), x, weight, bias)
        without = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        y[7, M - 1] = without[7, M - 1]
        with pytest.raises(AssertionError, match="times the bound"):
            assert_within_bound(y, x, weight, bias)


@pytest.mark.parametrize("target", AMD)
def test_shapes_above_take_every_reduction_of_the_kernel(target: str) -> None:
    """The cases of this file are worth something only if they split K, into two shards and into more."""
    with on(target):
        plans = [
            plan_of(n, m, k, reduction)
            for reduction in REDUCTIONS
            for n, m, k in ((16, 64, 1024), (128, 33, 12288), (33, 33, 7168), (128, M, K), (31, 37, 776))
        ]
    assert {plan.reduce for plan in plans} == {REDUCE_NONE, REDUCE_SLICES, REDUCE_ATOMIC}
    assert len({plan.shard_k for plan in plans if plan.shards > 1}) > 1 and max(plan.shards for plan in plans) > 2


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", ["deterministic", "batch_invariant"])
def test_ten_calls_give_the_same_bits(reduction: str, target: str) -> None:
    """In the emulator also where workgroups and waves run in other orders."""
    with on(target) as device:
        x, weight = cancelling(128, M, K, device)
        first = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        for seed in range(10):
            schedule = Schedule(quantum=(1, 7, 64, 1024)[seed % 4], seed=seed)
            with emulator.watching(sanitize=False, schedule=schedule):
                assert torch.equal(first, aiterlite.wvSplitKrc(x, weight, reduction=reduction))


@pytest.mark.parametrize("target", AMD)
def test_atomics_show_the_order(target: str) -> None:
    """The negative control of the test above: the same operands tell one order from another."""
    with on(target):
        assert plan_of(128, M, K, "fast").shards > 2
        x, weight = cancelling(128, M, K, "cpu")
        found = []
        for seed in range(6):
            with emulator.watching(sanitize=False, schedule=Schedule(quantum=64, seed=seed)):
                found.append(aiterlite.wvSplitKrc(x, weight, reduction="fast"))
        assert any(not torch.equal(found[0], other) for other in found[1:])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("m", "k", "pad"), [(33, 7168, 0), (M, K, 8), (19, 2881, 2)])
def test_a_rows_bits_do_not_depend_on_the_batch(m: int, k: int, pad: int, target: str) -> None:
    with on(target) as device:
        x, weight = cancelling(128, m, k, device)
        padded = torch.empty(128, k + pad, dtype=x.dtype, device=device)[:, :k].copy_(x)
        whole = aiterlite.wvSplitKrc(padded, weight, reduction="batch_invariant")
        for n in TOKENS:
            for rows in (slice(0, n), slice(128 - n, 128)):
                part = aiterlite.wvSplitKrc(padded[rows], weight, reduction="batch_invariant")
                assert torch.equal(part, whole[rows]), (n, rows)


@pytest.mark.emulated
def test_deterministic_alone_is_not_batch_invariant() -> None:
    """The negative control: the same operands tell one cut of K from another."""
    with on("gfx942"):
        x, weight = cancelling(128, M, K, "cpu")
        assert plan_of(16, M, K, "deterministic").shard_k != plan_of(128, M, K, "deterministic").shard_k
        whole = aiterlite.wvSplitKrc(x, weight, reduction="deterministic")
        assert not torch.equal(whole[:16], aiterlite.wvSplitKrc(x[:16], weight, reduction="deterministic"))


@pytest.mark.emulated
def test_batch_invariance_holds_between_chips_of_a_target() -> None:
    x, weight = cancelling(64, M, K, "cpu")
    results = []
    for chip in ("mi300x", "mi308x"):
        with on(chip):
            results.append(aiterlite.wvSplitKrc(x, weight, reduction="batch_invariant"))
    assert torch.equal(*results)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_nan_stays_in_its_row(reduction: str, target: str) -> None:
    with on(target) as device:
        x, weight = (matrix(rows, K, "normal", torch.bfloat16).to(device) for rows in (100, M))
        clean = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        dirty = x.clone()
        # Row 0 is what lanes without a token read.
        dirty[0, K - 1], dirty[57, 0] = NAN, float("inf")
        y = aiterlite.wvSplitKrc(dirty, weight, reduction=reduction)
        assert not bool(torch.isfinite(y[[0, 57]]).any())
        others = [row for row in range(100) if row not in (0, 57)]
        assert torch.equal(y[others], clean[others]) or reduction == "fast"
        assert bool(torch.isfinite(y[others]).all())
        weight[M - 1, 5] = NAN
        y = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        assert bool(torch.isnan(y[:, M - 1]).all()) and bool(torch.isfinite(y[:, : M - 1]).all())


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_zero_input_gives_the_bias(reduction: str, target: str) -> None:
    with on(target) as device:
        weight, bias = (matrix(rows, K, "normal", torch.bfloat16).to(device) for rows in (M, 1))
        bias = bias[0, :M]
        x = torch.zeros(100, K, dtype=torch.bfloat16, device=device)
        y = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        assert torch.equal(y.view(torch.int16), torch.zeros_like(y).view(torch.int16))
        assert torch.equal(aiterlite.wvSplitKrc(x, weight, bias, reduction=reduction), bias.expand(100, M))


@pytest.mark.parametrize("target", TARGETS)
def test_leading_dimensions_and_empty(target: str) -> None:
    with on(target) as device:
        x, weight = (matrix(rows, 64, "normal", torch.float16).to(device) for rows in (30, 24))
        bias = matrix(30, 24, "normal", torch.float16).to(device)
        y = aiterlite.wvSplitKrc(x.view(2, 15, 64), weight, bias)
        assert y.shape == (2, 15, 24) and torch.equal(y.view(30, 24), aiterlite.wvSplitKrc(x, weight, bias))
        assert aiterlite.wvSplitKrc(x[0], weight).shape == (24,)
        assert aiterlite.wvSplitKrc(x[:0].view(0, 3, 64), weight).shape == (0, 3, 24)
        assert aiterlite.wvSplitKrc(x, weight[:0]).shape == (30, 0)


# Reductions by name ---------------------------------------------------------------------------------------------------


@pytest.mark.emulated
def test_the_argument_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert envs.GEMM_REDUCTION.allowed == ", ".join(REDUCTIONS)
    taken: list[str] = []
    decide = calls.decide

    def seen(table: dispatch.Table, problem: tables.RcProblem, persona: object) -> object:
        taken.append(problem.reduction)
        return decide(table, problem, persona)  # type: ignore[arg-type]

    monkeypatch.setattr(calls, "decide", seen)
    x, weight = matrix(20, 64, "normal", torch.bfloat16), matrix(16, 64, "normal", torch.bfloat16)
    for variable, argument, wanted in (
        (None, None, "deterministic"),
        ("batch_invariant", None, "batch_invariant"),
        ("batch_invariant", "fast", "fast"),
    ):
        with envs.override(AITERLITE_TARGET="gfx942", AITERLITE_GEMM_REDUCTION=variable):
            aiterlite.wvSplitKrc(x, weight, reduction=argument)
        assert taken[-1] == wanted
    with pytest.raises(EnvironmentValueError, match="batch_invariant"), envs.override(AITERLITE_GEMM_REDUCTION="quick"):
        aiterlite.wvSplitKrc(x, weight)


# What bad input gets --------------------------------------------------------------------------------------------------

X, W = torch.randn(20, 64).bfloat16(), torch.randn(24, 64).bfloat16()


@pytest.mark.parametrize(
    ("x", "weight", "options", "argument", "said"),
    [
        (X.float(), W.float(), {}, "x", "torch.float32"),
        (X, W[:, :63], {}, "weight", r"\[24, 63\]"),
        (X, torch.randn(64, 24).bfloat16().T, {}, "weight", r"strides \[1, 24\]"),
        (X, W, {"bias": W[0]}, "bias", r"\[64\]"),
        (X, W, {"reduction": "atomic"}, "reduction", "deterministic, fast, batch_invariant"),
    ],
)
def test_bad_operands_are_named(x: object, weight: object, options: object, argument: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as caught:
        aiterlite.wvSplitKrc(x, weight, **options)
    assert caught.value.argument == argument and f"`{argument}`" in str(caught.value)


def test_too_many_tokens() -> None:
    with pytest.raises(DispatchError, match="n must be 1 to 128, it is 129"):
        aiterlite.wvSplitKrc(torch.randn(129, 64).bfloat16(), W)
    with pytest.raises(DispatchError, match="n must be 1 to 128, it is 129"):
        aiterlite.wvSplitKrc_workspace_size(129, 24, 64, device="cpu")


# The caller's workspace -----------------------------------------------------------------------------------------------


def own_workspace(n: int, m: int, k: int, reduction: str, poison: bool = True) -> torch.Tensor:
    size = aiterlite.wvSplitKrc_workspace_size(n, m, k, reduction=reduction, device="cpu")
    memory = torch.zeros(size // 4, dtype=torch.float32)
    if poison and reduction != "fast":
        memory[COUNTERS:] = NAN
    return memory


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_callers_workspace_is_left_as_it_must_be(reduction: str, target: str) -> None:
    """Counters are zero after each call, so is an atomic region; what slices held before does not matter."""
    with on(target):
        m = 200 if reduction == "batch_invariant" else M
        k = 12288 if reduction == "batch_invariant" else K
        x, weight = matrix(100, k, "normal", torch.bfloat16), matrix(m, k, "normal", torch.bfloat16)
        expected = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        memory = own_workspace(100, m, k, reduction)
        assert memory.numel() > COUNTERS
        for _ in range(3):
            y = aiterlite.wvSplitKrc(x, weight, reduction=reduction, workspace=memory)
            assert torch.equal(y, expected) or reduction == "fast"
            assert_within_bound(y, x, weight, None)
            zeroed = memory if reduction == "fast" else memory[:COUNTERS]
            assert not bool(zeroed.view(torch.int32).any())
        if reduction != "fast":
            assert not bool(torch.isnan(memory[COUNTERS:]).all())


def test_a_workspace_is_checked_where_none_is_needed() -> None:
    x, weight = matrix(4, K, "normal", torch.bfloat16), matrix(M, K, "normal", torch.bfloat16)
    for bad, said in (
        (torch.zeros(8)[::2], "contiguous"),
        (torch.zeros(8, device="meta"), "the device of the operands"),
    ):
        with pytest.raises(ArgumentError, match=said):
            gemm_rc.WITH_WORKSPACE.run(x, weight, workspace=bad)


@pytest.mark.emulated
def test_a_workspace_that_does_not_fit_is_refused() -> None:
    with on("gfx942"):
        x, weight = matrix(128, K, "normal", torch.bfloat16), matrix(M, K, "normal", torch.bfloat16)
        memory = own_workspace(128, M, K, "deterministic")
        size = memory.numel()
        for bad, said in (
            (memory[:-1], f"at least {4 * size} bytes"),
            (torch.zeros(size + 1)[1:], "a multiple of 16 bytes"),
            (torch.zeros(2 * size)[::2], "contiguous"),
            (memory.to("meta"), "the device of the operands"),
        ):
            with pytest.raises(ArgumentError, match=said) as caught:
                torch.ops.aiterlite.wvSplitKrc(x, weight, workspace=bad) if bad.device == x.device else (
                    gemm_rc.WITH_WORKSPACE.run(x, weight, workspace=bad)
                )
            assert caught.value.argument == "workspace"


@pytest.mark.parametrize("target", AMD)
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_failed_launch_leaves_the_workspace_usable(
    reduction: str, target: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Some workgroups have counted themselves in when another one reads outside its operands."""
    with on(target):
        m, k = (200, 12288) if reduction == "batch_invariant" else (M, K)
        x, weight = matrix(100, k, "normal", torch.bfloat16), matrix(m, k, "normal", torch.bfloat16)
        expected = aiterlite.wvSplitKrc(x, weight, reduction=reduction)
        mine = own_workspace(100, m, k, reduction)
        kind = "gemm atomic" if reduction == "fast" else "gemm slices"
        kept = workspace.on_thread(Workspace(kind, 4 * COUNTERS, 4 * COUNTERS))
        restored: list[int] = []
        restore = workspace.restore

        def seen(memory: torch.Tensor, need: Workspace) -> None:
            restored.append(int(memory[: 4 * COUNTERS].count_nonzero()))
            restore(memory, need)

        monkeypatch.setattr(workspace, "restore", seen)
        prepare = emulator.prepare_launch

        def short(persona: object, tensors: dict[str, torch.Tensor]) -> None:
            prepare(persona, {**tensors, "weight": tensors_of_all_but_the_end(weight)})

        for memory in (None, mine):
            with monkeypatch.context() as patch, pytest.raises(emulator.MemoryViolation):
                patch.setattr(emulator, "prepare_launch", short)
                aiterlite.wvSplitKrc(x, weight, reduction=reduction, workspace=memory)
            held = kept if memory is None else workspace.as_bytes(memory)
            assert restored[-1] > 0 and not bool(held[: 4 * COUNTERS].any())
            y = aiterlite.wvSplitKrc(x, weight, reduction=reduction, workspace=memory)
            assert torch.equal(y, expected) or reduction == "fast"
            assert_within_bound(y, x, weight, None)


def tensors_of_all_but_the_end(weight: torch.Tensor) -> torch.Tensor:
    """The memory of a matrix without the last columns of its last row, which only its last shard reads."""
    return weight.view(-1)[:-64]


# torch ----------------------------------------------------------------------------------------------------------------


def test_opcheck() -> None:
    op = torch.ops.aiterlite.wvSplitKrc.default
    torch.library.opcheck(op, (X, W))
    torch.library.opcheck(op, (X.view(2, 10, 64), W, W[:, 0].contiguous()), {"reduction": "fast"})


@pytest.mark.emulated
def test_opcheck_with_a_workspace() -> None:
    with on("gfx942"):
        x, weight = matrix(128, K, "normal", torch.bfloat16), matrix(M, K, "normal", torch.bfloat16)
        options = {"workspace": own_workspace(128, M, K, "deterministic", poison=False)}
        op = gemm_rc.WITH_WORKSPACE
        assert op.mutates == ("workspace",) and not gemm_rc.OPERATOR.mutates
        torch.library.opcheck(op.overload, (x, weight), options, test_utils=("test_schema", "test_faketensor"))


def test_compiles_without_a_graph_break() -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(aiterlite.wvSplitKrc(x, W, reduction="batch_invariant")) + 1

    torch._dynamo.reset()
    assert torch.equal(torch.compile(model, fullgraph=True, backend="aot_eager")(X), model(X))
