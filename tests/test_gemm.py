"""`linear` and `wvSplitK` against float64, through the public functions. L2: cpu, and a GPU where there is one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

import gemm_operands as operands  # noqa: E402
from gemm_operands import KINDS, NAN, assert_within_bound, biases  # noqa: E402
from torch_threads import bits_do_not_depend_on_threads  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator, envs  # noqa: E402
from aiterlite.benchmark import options  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError, JitDisabledError  # noqa: E402
from aiterlite.launch import calls as launches  # noqa: E402
from aiterlite.ops import matmul  # noqa: E402
from aiterlite.tables import gemm as tables  # noqa: E402
from aiterlite.target import persona_for  # noqa: E402

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.bfloat16, torch.float16]


def matrix(rows: int, columns: int, dtype: torch.dtype, device: str, pad: int = 0, scale: float = 1.0) -> torch.Tensor:
    return operands.matrix(rows, columns, "normal", dtype, pad, scale, device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("n", range(1, 17))
def test_every_token_count(n: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(n)
    for index, (m, k, pad) in enumerate(((256, 512, 0), (37, 776, 24), (1, 8, 8), (33, 12288, 0))):
        kind = KINDS[(n + index) % 3]
        x = operands.matrix(n, k, kind, dtype, pad, device=device)
        weight = operands.matrix(m, k, KINDS[n % 2], dtype, 2 * pad, k**-0.5, device)
        for bias in biases(n, m, kind, dtype, device):
            assert_within_bound(aiterlite.wvSplitK(x, weight, bias), x, weight, bias)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("m", "k"), [(256, 7168), (2112, 7168), (129, 7167), (640, 2880), (33, 1)])
def test_model_shapes(m: int, k: int, dtype: torch.dtype, device: str) -> None:
    torch.manual_seed(k)
    for n in (1, 3, 16):
        x, weight = matrix(n, k, dtype, device), matrix(m, k, dtype, device, scale=k**-0.5)
        assert_within_bound(aiterlite.wvSplitK(x, weight), x, weight, None)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("pad", [1, 3, 8])
def test_rows_at_any_address(pad: int, device: str) -> None:
    """Odd strides and addresses break 16-byte alignment; the result stays right."""
    storage = torch.randn(5 * 103 + 7, device=device).to(torch.bfloat16)
    x = torch.as_strided(storage, (4, 96), (96 + pad, 1), 1)
    weight = matrix(19, 96, torch.bfloat16, device, pad)
    assert_within_bound(aiterlite.wvSplitK(x, weight), x, weight, None)


@pytest.mark.parametrize("device", DEVICES)
def test_bias_is_used(device: str) -> None:
    """The negative control of the bias cases: without it the bound is exceeded."""
    x, weight = matrix(4, 256, torch.bfloat16, device), matrix(64, 256, torch.bfloat16, device, scale=1 / 16)
    bias = torch.randn(64, device=device).to(torch.bfloat16)
    without = aiterlite.wvSplitK(x, weight)
    with pytest.raises(AssertionError):
        assert_within_bound(without, x, weight, bias)
    torch.testing.assert_close(
        aiterlite.wvSplitK(x, weight, bias), aiterlite.wvSplitK(x, weight, bias[None, :]), rtol=0, atol=0
    )


def test_the_rule_for_results_has_three_parts() -> None:
    """What every test of the family calls right: see each part refuse."""
    exact = torch.zeros(400, 500, dtype=torch.float64)
    bound = torch.ones_like(exact)
    y = exact.clone()
    y[0, 0] = y[7, 9] = 1.5
    operands.assert_close(y, exact, bound)
    for wrong, said in ((3.1, "worst error is 3.10 times the bound"), (NAN, None)):
        bad = y.clone()
        bad[0, 0] = wrong
        with pytest.raises(AssertionError, match=said):
            operands.assert_close(bad, exact, bound)
    y[1, :2] = 1.5
    with pytest.raises(AssertionError, match="worst error is 1.50 times the bound"):
        operands.assert_close(y, exact, bound)
    operands.assert_close(exact + 0.24, exact, bound)
    with pytest.raises(AssertionError, match="large on average"):
        operands.assert_close(exact + 0.26, exact, bound)
    with pytest.raises(AssertionError):
        operands.assert_close(exact[:399], exact, bound)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("call", [aiterlite.linear, aiterlite.wvSplitK], ids=["linear", "wvSplitK"])
def test_leading_dimensions(call: object, device: str) -> None:
    x, weight = torch.randn(2, 3, 64, device=device).half(), torch.randn(24, 64, device=device).half()
    bias = torch.randn(6, 24, device=device).half()
    y = call(x, weight)
    assert y.shape == (2, 3, 24)
    assert torch.equal(y.view(6, 24), call(x.view(6, 64), weight))
    assert torch.equal(call(x, weight, bias).view(6, 24), call(x.view(6, 64), weight, bias))
    assert call(x[0, 0], weight).shape == (24,)
    transposed = torch.randn(3, 2, 64, device=device).half().transpose(0, 1)
    assert torch.equal(call(transposed, weight), call(transposed.contiguous(), weight))


@pytest.mark.parametrize("device", DEVICES)
def test_empty(device: str) -> None:
    weight = torch.randn(24, 64, device=device).half()
    for shape in ((0, 64), (2, 0, 64)):
        y = aiterlite.wvSplitK(torch.empty(shape, device=device).half(), weight)
        assert y.shape == (*shape[:-1], 24) and y.device == weight.device
    assert aiterlite.linear(torch.randn(3, 64, device=device).half(), weight[:0]).shape == (3, 0)


@pytest.mark.parametrize("device", DEVICES)
def test_zero_input_gives_the_bias(device: str) -> None:
    weight, bias = torch.randn(40, 512, device=device).bfloat16(), torch.randn(40, device=device).bfloat16()
    x = torch.zeros(5, 512, device=device).bfloat16()
    assert torch.equal(aiterlite.wvSplitK(x, weight), torch.zeros(5, 40, device=device).bfloat16())
    assert torch.equal(aiterlite.wvSplitK(x, weight, bias), bias.expand(5, 40))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_a_token_keeps_its_nan(value: float, device: str) -> None:
    x, weight = torch.randn(5, 520, device=device).bfloat16(), torch.randn(40, 520, device=device).bfloat16()
    clean = aiterlite.wvSplitK(x, weight)
    x[2, 519] = value
    y = aiterlite.wvSplitK(x, weight)
    assert not bool(torch.isfinite(y[2]).any())
    others = [0, 1, 3, 4]
    assert torch.equal(y[others], clean[others])


@pytest.mark.parametrize("device", DEVICES)
def test_same_bits_every_time(device: str) -> None:
    x, weight = torch.randn(7, 7168, device=device).bfloat16(), torch.randn(300, 7168, device=device).bfloat16()
    first = aiterlite.wvSplitK(x, weight)
    assert all(torch.equal(first, aiterlite.wvSplitK(x, weight)) for _ in range(10))


def test_bits_do_not_depend_on_threads() -> None:
    x, weight = torch.randn(3, 1024).bfloat16(), torch.randn(301, 1024).bfloat16()
    assert bits_do_not_depend_on_threads(lambda: aiterlite.wvSplitK(x, weight))


# What bad input gets --------------------------------------------------------------------------------------------------

X, W = torch.randn(3, 64).bfloat16(), torch.randn(24, 64).bfloat16()
B = torch.randn(24).bfloat16()


@pytest.mark.parametrize(
    ("x", "weight", "bias", "argument", "said"),
    [
        (X.float(), W.float(), None, "x", "torch.float32"),
        (X, W.half(), None, "weight", "torch.float16"),
        (X, W, B.half(), "bias", "torch.float16"),
        (X, W, B[:5], "bias", r"\[5\]"),
        (X, W, B.expand(2, 24), "bias", r"\[2, 24\]"),
        (X, W[:, :63], None, "weight", r"\[24, 63\]"),
        (X, W[0], None, "weight", r"\[64\]"),
        (X, W[None], None, "weight", r"\[1, 24, 64\]"),
        (torch.tensor(1.0).bfloat16(), W, None, "x", "0-dimensional"),
        (X, W.to("meta"), None, "weight", "meta"),
        (X, torch.randn(64, 24).bfloat16().T, None, "weight", r"strides \[1, 24\]"),
        (torch.randn(64, 3).bfloat16().T, W, None, "x", r"strides \[1, 3\]"),
    ],
)
def test_bad_operands_are_named(x: object, weight: object, bias: object, argument: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as caught:
        aiterlite.wvSplitK(x, weight, bias)
    assert caught.value.argument == argument
    assert caught.value.allowed and f"`{argument}`" in str(caught.value)


@pytest.mark.parametrize("bad", [(X, W.half(), None), (X, W[:, :63], None), (X, W, B[:5]), (X, W[0], None)])
def test_linear_refuses_what_torch_would(bad: tuple[object, ...]) -> None:
    with pytest.raises(ArgumentError):
        aiterlite.linear(*bad)


def test_too_many_tokens() -> None:
    with pytest.raises(DispatchError, match="n must be 1 to 16, it is 17"):
        aiterlite.wvSplitK(torch.randn(17, 64).bfloat16(), W)


def test_linear_takes_torch_elsewhere() -> None:
    x = torch.randn(17, 64).bfloat16()
    assert torch.equal(aiterlite.linear(x, W, B), torch.nn.functional.linear(x, W, B))
    transposed = torch.randn(64, 24).bfloat16().T
    assert torch.equal(aiterlite.linear(X, transposed), torch.nn.functional.linear(X, transposed))
    assert torch.equal(aiterlite.linear(X.double(), W.double()), torch.nn.functional.linear(X.double(), W.double()))


def test_strict_makes_the_fallback_an_error() -> None:
    x = torch.randn(17, 64).bfloat16()
    with envs.override(AITERLITE_STRICT="1"):
        with pytest.raises(DispatchError, match="AITERLITE_STRICT=1") as caught:
            aiterlite.linear(x, W)
        assert "n must be 1 to 16, it is 17" in str(caught.value)
        aiterlite.linear(X, W)


def test_jit_off_leaves_torch() -> None:
    with envs.override(AITERLITE_JIT="off"):
        assert torch.equal(aiterlite.linear(X, W), torch.nn.functional.linear(X, W))
        with pytest.raises((DispatchError, JitDisabledError), match="AITERLITE_JIT=off"):
            aiterlite.wvSplitK(X, W)


# The AMD path on CPU tensors: dispatch, host code, kernel arguments and machine code, run by the emulator -------------


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["gfx942", "mi308x", "gfx950"])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_amd_code_is_right(dtype: torch.dtype, target: str) -> None:
    torch.manual_seed(7)
    shapes = [(1, 256, 1024, 0), (4, 37, 776, 8), (16, 64, 512, 0), (5, 33, 100, 1), (2, 17, 33, 3), (9, 40, 264, 0)]
    with envs.override(AITERLITE_TARGET=target):
        for index, (n, m, k, pad) in enumerate(shapes):
            kind = KINDS[index % 3]
            x, weight = operands.matrix(n, k, kind, dtype, pad), matrix(m, k, dtype, "cpu", 2 * pad, k**-0.5)
            for bias in biases(n, m, kind, dtype):
                assert_within_bound(aiterlite.wvSplitK(x, weight, bias), x, weight, bias)
        y = aiterlite.linear(X.to(dtype).view(1, 3, 64), W.to(dtype))
        assert torch.equal(y.view(3, 24), aiterlite.linear(X.to(dtype), W.to(dtype)))


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
@pytest.mark.parametrize("n", range(1, 17))
def test_amd_code_takes_every_token_count(n: int, target: str) -> None:
    torch.manual_seed(n)
    with envs.override(AITERLITE_TARGET=target):
        for index, (m, k, pad) in enumerate(((37, 776, 8), (19, 12288, 0))):
            kind, dtype = KINDS[(n + index) % 3], DTYPES[(n + index) % 2]
            x, weight = operands.matrix(n, k, kind, dtype, pad), matrix(m, k, dtype, "cpu", 2 * pad, k**-0.5)
            bias = biases(n, m, kind, dtype)[(n + index) % 4]
            assert_within_bound(aiterlite.wvSplitK(x, weight, bias), x, weight, bias)


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["gfx942", "mi308x", "gfx950"])
def test_amd_assembly_is_right(target: str) -> None:
    """The assembly kernel where it serves, the compiled one where it does not; the two give the same bits."""
    torch.manual_seed(11)
    shapes = [(1, 256, 1024, 0), (4, 37, 776, 8), (16, 64, 512, 0), (3, 48, 8, 0), (5, 33, 100, 1)]
    for n, m, k, pad in shapes:
        x, weight = matrix(n, k, torch.bfloat16, "cpu", pad), matrix(m, k, torch.bfloat16, "cpu", pad, k**-0.5)
        for bias in biases(n, m, "normal", torch.bfloat16):
            results = {}
            for kind in ("asm", "hip"):
                with envs.override(AITERLITE_TARGET=target, AITERLITE_PREFER=kind):
                    decision = options.decision_of("wvSplitK", matmul.problem_of(x, weight, bias), x.device)
                    expected = "hip" if k == 100 else kind
                    assert decision.row is not None and decision.row.backend == expected
                    results[kind] = aiterlite.wvSplitK(x, weight, bias)
            assert_within_bound(results["asm"], x, weight, bias)
            assert torch.equal(results["asm"], results["hip"])


@pytest.mark.emulated
def test_amd_code_keeps_inside_its_tensors() -> None:
    """A kernel that is told of more rows than there are is stopped at the first address outside."""
    with envs.override(AITERLITE_TARGET="gfx942"):
        problem = tables.GemmProblem(n=2, m=48, k=64)
        decision = dispatch.decide(tables.WV_SPLIT_K, problem, persona_for("cpu", None))
        strides = {"stride_x": 64, "stride_w": 64, "stride_bias": 0, "stride_y": 48}
        launch = launches.prepare(decision, X.device, matmul.OPERANDS, strides, ("bias",))
        x, weight, y = X[:2], W.clone(), torch.empty(2, 48).bfloat16()
        with pytest.raises(emulator.MemoryViolation, match="aiterlite_wv_split_k.*`weight`") as caught:
            launch(x, weight, None, y)
        assert not caught.value.write and caught.value.address >= weight.data_ptr() + 24 * 64 * 2


# torch ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["linear", "wvSplitK"])
@pytest.mark.parametrize("bias", [None, B], ids=["plain", "bias"])
def test_opcheck(op: str, bias: torch.Tensor | None) -> None:
    target = getattr(torch.ops.aiterlite, op).default
    torch.library.opcheck(target, (X, W, bias))
    torch.library.opcheck(target, (torch.randn(2, 3, 64).bfloat16(), W, bias))


@pytest.mark.parametrize("name", ["linear", "wvSplitK"])
def test_compiles_without_a_graph_break(name: str) -> None:
    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(getattr(aiterlite, name)(x, W, B)) + 1

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), model(X))


def test_gradients_take_torch() -> None:
    weight = W.float().requires_grad_()
    aiterlite.linear(X.float(), weight).sum().backward()
    assert weight.grad is not None and weight.grad.shape == weight.shape


def test_autocast_takes_torch() -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert aiterlite.linear(X.float(), W.float()).dtype == torch.bfloat16


def test_meta_tensors() -> None:
    y = torch.ops.aiterlite.wvSplitK(X.to("meta"), W.to("meta"))
    assert y.shape == (3, 24) and y.dtype == torch.bfloat16
