"""`wvSplitKQ` against float64 of the stored numbers. L2: cpu, emulated gfx942 and gfx950, a GPU where there is one."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import KINDS, NAN, assert_close, values  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch, emulator, envs  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.jit import engine  # noqa: E402
from aiterlite.launch import calls as launches  # noqa: E402
from aiterlite.ops import calls  # noqa: E402
from aiterlite.ops import gemm_fp8 as ops  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.reference import gemm as reference  # noqa: E402
from aiterlite.tables import gemm_fp8 as tables  # noqa: E402
from aiterlite.target import persona_for, resolve  # noqa: E402

FN, FNUZ = torch.float8_e4m3fn, torch.float8_e4m3fnuz
AMD = [("gfx942", FNUZ), ("mi308x", FNUZ), ("gfx950", FN)]
# Where a call runs: (device, AITERLITE_TARGET, flavour).
PLACES = [
    pytest.param("cpu", "", FN, id="cpu-fn"),
    pytest.param("cpu", "", FNUZ, id="cpu-fnuz"),
    pytest.param("cpu", "gfx942", FNUZ, id="gfx942", marks=pytest.mark.emulated),
    pytest.param("cpu", "gfx950", FN, id="gfx950", marks=pytest.mark.emulated),
    pytest.param("cuda", "", FN, id="cuda", marks=pytest.mark.gpu),
]


def stored(values: torch.Tensor, dtype: torch.dtype, pad: int = 0, offset: int = 0) -> torch.Tensor:
    """The values in 8 bits, rows `pad` elements further apart than they are long, NaN between them."""
    rows, columns = values.shape
    storage = torch.full((offset + rows * (columns + pad),), NAN).to(dtype).to(values.device)
    view = torch.as_strided(storage, (rows, columns), (columns + pad, 1), offset)
    view.copy_(values.clamp(-240, 240).to(dtype))
    return view


def normal(rows: int, columns: int) -> torch.Tensor:
    return values(rows, columns, "normal")


def scales(m: int, kind: str, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    per_row = {"tensor": (1,), "row": (m,), "column": (m, 1), "scalar": ()}[kind]
    return torch.rand(1) + 0.5, (torch.rand(per_row) + 0.5) * k**-0.5


def assert_right(
    x: torch.Tensor,
    weight: torch.Tensor,
    out_dtype: torch.dtype,
    scale_x: torch.Tensor,
    scale_w: torch.Tensor,
    bias: torch.Tensor | None = None,
) -> torch.Tensor:
    y = aiterlite.wvSplitKQ(x, weight, out_dtype, scale_x, scale_w, bias)
    x, weight, scale_x, scale_w = (t.cpu() for t in (x, weight, scale_x, scale_w))
    exact = x.double() @ weight.double().T * reference.scales(x, scale_x, scale_w)
    if bias is not None:
        exact = exact + bias.cpu().double()
    assert y.dtype == out_dtype
    assert_close(y, exact, reference.scaled_error_bound(x, weight, out_dtype, scale_x, scale_w, exact))
    return y


@pytest.mark.parametrize("n", range(1, 17))
@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_every_token_count(n: int, device: str, target: str, flavour: torch.dtype) -> None:
    torch.manual_seed(n)
    emulated = bool(target)
    shapes = [(40, 512, 0), (37, 784, 16)] if emulated else [(256, 512, 0), (37, 784, 16), (19, 1040, 256), (1, 16, 16)]
    kinds = ["tensor", "row", "column", "scalar"]
    with envs.override(AITERLITE_TARGET=target):
        for index, (m, k, pad) in enumerate(shapes):
            x = stored(values(n, k, KINDS[(n + index) % 3]).to(device), flavour, pad)
            weight = stored(normal(m, k).to(device), flavour, 2 * pad)
            scale_x, scale_w = (t.to(device) for t in scales(m, kinds[(n + index) % 4], k))
            out_dtype = (torch.bfloat16, torch.float16)[(n + index) % 2]
            biases = [None, torch.randn(m), torch.randn(1, m), torch.randn(n, m + 3)[:, :m]]
            for bias in biases[n % 4 :][:1] if emulated else biases:
                on_device = None if bias is None else bias.to(device).to(out_dtype)
                assert_right(x, weight, out_dtype, scale_x, scale_w, on_device)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_distributions(kind: str, device: str, target: str, flavour: torch.dtype) -> None:
    torch.manual_seed(3)
    n, m, k = (3, 24, 1296) if target else (3, 300, 7168)
    x, weight = (stored(values(rows, k, kind).to(device), flavour) for rows in (n, m))
    scale_x, scale_w = (t.to(device) for t in scales(m, "row", k))
    with envs.override(AITERLITE_TARGET=target):
        assert_right(x, weight, torch.bfloat16, scale_x, scale_w)
        assert_right(x, weight, torch.float16, scale_x, scale_w)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_a_long_k(kind: str, device: str, target: str, flavour: torch.dtype) -> None:
    torch.manual_seed(4)
    with envs.override(AITERLITE_TARGET=target):
        for n, k in ((16, 12288), (4, 65552)):
            x = stored(values(n, k, kind).to(device), flavour, 16)
            weight = stored(normal(9, k).to(device), flavour, 256 - k % 256)
            scale_x, scale_w = (t.to(device) for t in scales(9, "tensor", k))
            assert_right(x, weight, torch.bfloat16, scale_x, scale_w, torch.randn(n, 9).to(device).bfloat16())


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
@pytest.mark.parametrize("k", [1, 15, 17, 100, 527])
def test_rows_at_any_address(k: int, device: str, target: str, flavour: torch.dtype) -> None:
    """Odd lengths, strides and addresses break 16-byte alignment; the result stays right, and NaN beside rows out."""
    torch.manual_seed(k)
    x = stored(normal(5, k).to(device), flavour, 3, offset=1)
    weight = stored(normal(21, k).to(device), flavour, 1, offset=7)
    scale_x, scale_w = (t.to(device) for t in scales(21, "row", k))
    with envs.override(AITERLITE_TARGET=target):
        assert_right(x, weight, torch.bfloat16, scale_x, scale_w, torch.randn(21).bfloat16().to(device))


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_one_row_of_a_wide_stride(device: str, target: str, flavour: torch.dtype) -> None:
    """A tail slice of one row may have any stride; in the emulator a read beyond its K elements is an error."""
    storage = torch.randn(3, 4096).to(flavour).to(device)
    x = storage[2:3, -512:]
    weight = stored(normal(17, 512).to(device), flavour)
    scale_x, scale_w = (t.to(device) for t in scales(17, "tensor", 512))
    with envs.override(AITERLITE_TARGET=target):
        assert_right(x, weight, torch.bfloat16, scale_x, scale_w)


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_zero_input_gives_the_bias(device: str, target: str, flavour: torch.dtype) -> None:
    weight = stored(normal(40, 512).to(device), flavour)
    x = torch.zeros(5, 512).to(flavour).to(device)
    bias = torch.randn(40).bfloat16().to(device)
    scale_x, scale_w = (t.to(device) for t in scales(40, "row", 512))
    with envs.override(AITERLITE_TARGET=target):
        y = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, scale_x, scale_w)
        assert torch.equal(y, torch.zeros_like(y)) and y.shape == (5, 40)
        y = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, scale_x, scale_w, bias)
        assert torch.equal(y, bias.expand(5, 40))


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_a_nan_stays_in_its_row(device: str, target: str, flavour: torch.dtype) -> None:
    torch.manual_seed(6)
    x, weight = stored(normal(5, 528).to(device), flavour), stored(normal(21, 528).to(device), flavour)
    scale_x, scale_w = (t.to(device) for t in scales(21, "row", 528))
    with envs.override(AITERLITE_TARGET=target):
        clean = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, scale_x, scale_w)
        nan = torch.tensor(NAN).to(flavour)
        token, row = x.clone(), weight.clone()
        token[2, 527] = nan
        row[20, 0] = nan
        y = aiterlite.wvSplitKQ(token, row, torch.bfloat16, scale_x, scale_w)
    expected = clean.clone()
    expected[2], expected[:, 20] = NAN, NAN
    assert bool(clean.isfinite().all())
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_same_bits_every_time(device: str, target: str, flavour: torch.dtype) -> None:
    m, k = (32, 1024) if target else (300, 7168)
    x, weight = stored(normal(7, k).to(device), flavour), stored(normal(m, k).to(device), flavour)
    scale_x, scale_w = (t.to(device) for t in scales(m, "row", k))
    with envs.override(AITERLITE_TARGET=target):
        first = aiterlite.wvSplitKQ(x, weight, torch.float16, scale_x, scale_w)
        again = (aiterlite.wvSplitKQ(x, weight, torch.float16, scale_x, scale_w) for _ in range(3 if target else 10))
        assert all(torch.equal(first, y) for y in again)


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_a_scale_belongs_to_its_row(device: str, target: str, flavour: torch.dtype) -> None:
    """Powers of two scale exactly: each row is that of one scale, times its own. Also from a strided tensor."""
    torch.manual_seed(8)
    x, weight = stored(normal(3, 256).to(device), flavour), stored(normal(21, 256).to(device), flavour)
    one, four = torch.ones(1, device=device), torch.full((1,), 4.0, device=device)
    powers = 2.0 ** (torch.arange(21) % 5 - 2).float()
    strided = torch.stack([powers, torch.full((21,), NAN)], dim=1).to(device)[:, 0]
    with envs.override(AITERLITE_TARGET=target):
        plain = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, one, one)
        for scale in (strided, strided[:, None]):
            y = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, four, scale)
            assert torch.equal(y, plain * 4 * powers.to(device).bfloat16())
        shared = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, one, four.expand(21))
        assert torch.equal(shared, plain * 4)


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_a_scale_belongs_to_its_token(device: str, target: str, flavour: torch.dtype) -> None:
    """As quantisation by token gives them: [N] or [N, 1], strided too, beside one a row or one of the weight. A row has
    the bits that it has alone."""
    torch.manual_seed(9)
    for n in (2, 7, 16):
        x, weight = stored(normal(n, 256).to(device), flavour), stored(normal(37, 256).to(device), flavour)
        strided = torch.full((n, 3), NAN, device=device)
        strided[:, 0] = (torch.rand(n) + 0.5).to(device)
        bias = torch.randn(n, 37).to(device).bfloat16()
        with envs.override(AITERLITE_TARGET=target):
            for kind in ("row", "tensor"):
                scale_w = scales(37, kind, 256)[1].to(device)
                first = assert_right(x, weight, torch.bfloat16, strided[:, 0], scale_w, bias)
                for scale_x in (strided[:, :1], strided[:, 0].contiguous()):
                    y = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, scale_x, scale_w, bias)
                    assert torch.equal(y, first)
                one = scales(1, "tensor", 1)[0].to(device)
                shared = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, one.expand(n), scale_w)
                assert torch.equal(shared, aiterlite.wvSplitKQ(x, weight, torch.bfloat16, one, scale_w))
                alone = aiterlite.wvSplitKQ(x[1:2], weight, torch.bfloat16, strided[1:2, :1], scale_w, bias[1:2])
                if not target and device == "cpu":  # elsewhere the number of rows may choose another tiling
                    assert torch.equal(alone, first[1:2])


EXTREMES = [(100, -100), (126, -126), (-126, 126), (127, -149), (-149, 127), (-140, 120), (-60, -66), (64, 30), (5, 3)]


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_scales_of_any_size(device: str, target: str, flavour: torch.dtype) -> None:
    """Where a sum times one of the scales overflows or is subnormal and the result is not, it is as near as ever."""
    torch.manual_seed(10)
    x, weight = stored(normal(4, 528).to(device) * 8, flavour), stored(normal(21, 528).to(device) * 8, flavour)
    x[3] = 0
    for of_x, of_w in EXTREMES:
        scale_x, scale_w = torch.tensor([2.0**of_x]), (torch.rand(21) + 1) * 2.0**of_w
        if of_x > -126:
            scale_x *= 1.37 if of_x < 127 else 1
        exact = x.cpu().double() @ weight.cpu().double().T * reference.scales(x.cpu(), scale_x, scale_w)
        largest = float(exact.abs().max())
        assert largest < 2.0**127, "this is about finite results"
        with envs.override(AITERLITE_TARGET=target):
            for given in (scale_x, scale_x.expand(4)):
                y = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, given.to(device), scale_w.to(device)).cpu()
                bound = reference.scaled_error_bound(x.cpu(), weight.cpu(), y.dtype, scale_x, scale_w, exact)
                # What is subnormal in bfloat16 has fewer bits.
                assert bool(((y.double() - exact).abs() <= bound + 2.0**-133).all()), (of_x, of_w)
                assert not bool(y[3].any())


@pytest.mark.parametrize(("device", "target", "flavour"), PLACES)
def test_the_bits_are_those_of_one_scale_after_the_other(device: str, target: str, flavour: torch.dtype) -> None:
    """Where neither overflow nor underflow asks for anything else: (sum · scale_x) · scale_w, in float32. The bias
    takes away what float16 shows of it, so that the bits below show as well."""
    torch.manual_seed(11)
    m = 160
    x, weight = torch.zeros(1, 16).to(flavour).to(device), torch.zeros(m, 16).to(flavour).to(device)
    x[:, 3], weight[:, 3] = torch.tensor(1.5).to(flavour), (torch.rand(m) + 1).to(flavour).to(device)
    sums = x[:, 3].cpu().float() * weight[:, 3].cpu().float()
    differ = 0
    for shift in (0, 60, -60, 100, -90):
        scale_x, scale_w = (torch.rand(1) + 1) * 2.0**shift, (torch.rand(m) + 1) * 2.0 ** (10 - shift)
        product = (sums * scale_x).double() * scale_w.double()
        bias = -product.half()
        # GPUs round once after the bias, CPUs before it as well.
        before = product.float().double() if (device, target) == ("cpu", "") else product
        expected = (before + bias.double()).float().half()
        given = (scale_x.to(device), scale_w.to(device), bias.to(device))
        with envs.override(AITERLITE_TARGET=target):
            y = aiterlite.wvSplitKQ(x, weight, torch.float16, *given).cpu()
        assert torch.equal(y[0], expected)
        other = ((sums * scale_w).double() * scale_x.double() + bias.double()).float().half()
        differ += int((other != expected).sum())
    assert differ > 0, "the other order would give the same"


def test_the_bias_is_checked() -> None:
    """The negative control of the bias cases: without it the bound is exceeded."""
    x, weight, bias = stored(normal(4, 256), FN), stored(normal(64, 256), FN), torch.randn(64).bfloat16()
    scale_x, scale_w = scales(64, "row", 256)
    exact = x.double() @ weight.double().T * scale_x.double() * scale_w.double() + bias.double()
    bound = reference.scaled_error_bound(x, weight, torch.bfloat16, scale_x, scale_w, exact)
    for given in (None, bias.roll(1)):
        y = aiterlite.wvSplitKQ(x, weight, torch.bfloat16, scale_x, scale_w, given)
        with pytest.raises(AssertionError, match="times the bound"):
            assert_close(y, exact, bound)


def test_leading_dimensions_and_nothing_to_do() -> None:
    x, weight = torch.randn(2, 3, 64).to(FN), stored(normal(24, 64), FN)
    one, bias = torch.ones(()), torch.randn(6, 24).half()
    y = aiterlite.wvSplitKQ(x, weight, torch.float16, one, one, bias)
    assert y.shape == (2, 3, 24)
    assert torch.equal(y.view(6, 24), aiterlite.wvSplitKQ(x.view(6, 64), weight, torch.float16, one, one, bias))
    assert torch.equal(y[0, 1], aiterlite.wvSplitKQ(x[0, 1], weight, torch.float16, one, one, bias[1]))
    empty = aiterlite.wvSplitKQ(x[:, :0], weight, torch.float16, one, one)
    assert empty.shape == (2, 0, 24) and empty.dtype == torch.float16


# What bad input gets --------------------------------------------------------------------------------------------------

X, W = torch.randn(3, 64).to(FN), torch.randn(24, 64).to(FN)
ONE, BF16 = torch.ones(1), torch.bfloat16


@pytest.mark.parametrize(
    ("arguments", "argument", "said"),
    [
        ((X.bfloat16(), W.bfloat16(), BF16, ONE, ONE), "x", "torch.bfloat16"),
        ((X.to(torch.float8_e5m2), W.to(torch.float8_e5m2), BF16, ONE, ONE), "x", "torch.float8_e5m2"),
        ((X, W.to(FNUZ), BF16, ONE, ONE), "weight", "torch.float8_e4m3fnuz"),
        ((X, W[:, :48], BF16, ONE, ONE), "weight", r"\[24, 48\]"),
        ((X, W, torch.float32, ONE, ONE), "out_dtype", "torch.float32"),
        ((X, W, BF16, torch.ones(24), ONE), "scale_x", r"\[24\]"),
        ((X, W, BF16, torch.ones(1, 3), ONE), "scale_x", r"\[1, 3\]"),
        ((X, W, BF16, ONE.double(), ONE), "scale_x", "torch.float64"),
        ((X, W, BF16, ONE, torch.ones(23)), "scale_w", r"\[23\]"),
        ((X, W, BF16, ONE, torch.ones(1, 24)), "scale_w", r"\[1, 24\]"),
        ((X, W, BF16, ONE, ONE.half()), "scale_w", "torch.float16"),
        ((X, W, BF16, ONE, ONE.to("meta")), "scale_w", "meta"),
        ((X, W, BF16, ONE, ONE, torch.ones(24)), "bias", "torch.float32"),
        ((X, W, BF16, ONE, ONE, torch.ones(5).bfloat16()), "bias", r"\[5\]"),
        ((X, torch.randn(64, 24).to(FN).T, BF16, ONE, ONE), "weight", r"strides \[1, 24\]"),
    ],
)
def test_bad_operands_are_named(arguments: tuple[object, ...], argument: str, said: str) -> None:
    with pytest.raises(ArgumentError, match=said) as caught:
        aiterlite.wvSplitKQ(*arguments)
    assert caught.value.argument == argument and caught.value.allowed
    assert str(caught.value).startswith(f"wvSplitKQ: argument `{argument}`")


def test_a_negative_cu_count_is_refused() -> None:
    with pytest.raises(ArgumentError, match="`cu_count` is -1"):
        aiterlite.wvSplitKQ(X, W, BF16, ONE, ONE, cu_count=-1)


@pytest.mark.parametrize(
    ("target", "wrong", "takes"), [("gfx942", FN, "e4m3fnuz"), ("mi355x", FNUZ, "e4m3fn"), ("gfx950", FNUZ, "e4m3fn")]
)
def test_a_flavour_that_the_matrix_unit_lacks(target: str, wrong: torch.dtype, takes: str) -> None:
    given = str(wrong).removeprefix("torch.float8_")
    with envs.override(AITERLITE_TARGET=target), pytest.raises(DispatchError) as caught:
        aiterlite.wvSplitKQ(X.float().to(wrong), W.float().to(wrong), BF16, ONE, ONE)
    assert f"takes {takes}, the operands are {given} (quantise the operands to torch.float8_{takes})" in str(
        caught.value
    )


def test_a_target_without_fp8() -> None:
    decision = dispatch.decide(tables.WV_SPLIT_K_Q, tables.ScaledGemmProblem(1, 64, 64), resolve("a100"))
    assert decision.row is None and "the matrix unit of sm_80 has no 8-bit float" in str(decision)


def test_too_many_tokens() -> None:
    with pytest.raises(DispatchError, match="n must be 1 to 16, it is 17"):
        aiterlite.wvSplitKQ(torch.randn(17, 64).to(FN), W, BF16, ONE, ONE)


# Plans and machine code -----------------------------------------------------------------------------------------------

CHIPS = ["mi300x", "mi308x", "mi355x", "h100", "l40s"]


@pytest.mark.parametrize("chip", CHIPS)
def test_every_plan_is_one_that_the_kernel_can_run(chip: str) -> None:
    persona = resolve(chip)
    for n in range(1, 17):
        for m, k in ((256, 7168), (2112, 7168), (7168, 2304), (33, 16), (128, 65552), (300, 7167), (5, 1)):
            problem = tables.ScaledGemmProblem(n, m, k, aligned=k % 16 == 0)
            plan = dispatch.decide(tables.WV_SPLIT_K_Q, problem, persona).plan
            cut = plan.tiling
            assert n <= cut.cols // cut.slices and plan.block == cut.waves * persona.wave_size <= 1024
            assert plan.grid == cut.cluster * -(-m // (cut.tiles * 16 // cut.slices))
            assert plan.aligned or (cut.unroll == 1 and cut.tiles == 1 and cut.waves <= 8)


@pytest.mark.compile
@pytest.mark.parametrize("chip", [pytest.param(c, marks=pytest.mark.nvcc) if c == "h100" else c for c in CHIPS[1:4]])
def test_nothing_spills(chip: str) -> None:
    persona = resolve(chip)
    for n, m, k, dtype in (
        (1, 256, 7168, "bf16"),
        (4, 2112, 7168, "fp16"),
        (16, 7168, 2304, "bf16"),
        (9, 40, 77, "bf16"),
    ):
        problem = tables.ScaledGemmProblem(n, m, k, dtype=dtype, aligned=k % 16 == 0)
        decision = dispatch.decide(tables.WV_SPLIT_K_Q, problem, persona)
        resources = engine.obtain(decision.units[0]).entry.meta["resources"][tables.KERNEL]
        spilled = [name for name, value in resources.items() if ("spill" in name or "scratch" in name) and value]
        assert len(resources) > 2 and spilled == [], (decision.units[0].label, resources)


def rows_of(plan: object) -> int:
    return plan.tiling.tiles * 16 // plan.tiling.slices  # type: ignore[attr-defined]


@pytest.mark.emulated
@pytest.mark.parametrize(("target", "flavour"), AMD[::2])
def test_amd_code_keeps_inside_its_tensors(target: str, flavour: torch.dtype) -> None:
    """A kernel that is told of more rows than there are is stopped at the first address outside: of the weights, and of
    either scales where these suffice."""
    with envs.override(AITERLITE_TARGET=target):
        persona = persona_for("cpu", None)
        problem = tables.ScaledGemmProblem(n=2, m=48, k=64)
        decision = dispatch.decide(tables.WV_SPLIT_K_Q, problem, persona)
        strides = {"stride_x": 64, "stride_w": 64, "stride_bias": 0, "stride_y": 48}
        strides |= {"stride_scale_x": 1, "stride_scale_w": 1}
        launch = launches.prepare(decision, torch.device("cpu"), ops._OPERANDS, strides, ("bias",))
        for weight_rows, scale_rows, token_scales in ((24, 48, 2), (48, 24, 2), (48, 48, 1)):
            x, weight = torch.randn(2, 64).to(flavour), torch.randn(weight_rows, 64).to(flavour)
            y, per_token, per_row = torch.empty(2, 48).bfloat16(), torch.ones(token_scales), torch.ones(scale_rows)
            with pytest.raises(emulator.MemoryViolation, match="aiterlite_wv_split_k_q") as caught:
                launch(x, weight, None, y, per_token, per_row)
            short = weight if weight_rows == 24 else per_row if scale_rows == 24 else per_token
            assert not caught.value.write and caught.value.address >= short.data_ptr() + short.nbytes


@pytest.mark.emulated
def test_a_cu_count_plans_for_other_chips() -> None:
    """Fewer compute units make larger workgroups; the answer stays right."""
    x, weight = stored(normal(1, 512), FNUZ), stored(normal(200, 512), FNUZ)
    scale_x, scale_w = scales(200, "row", 512)
    problem = tables.ScaledGemmProblem(1, 200, 512, "e4m3fnuz", scale_w="row")
    grids = []
    with envs.override(AITERLITE_TARGET="mi300x"):
        for cu_count in (0, 4, 64):
            with emulator.watching(sanitize=False) as seen:
                y = aiterlite.wvSplitKQ(x, weight, torch.float16, scale_x, scale_w, cu_count=cu_count)
            exact = x.double() @ weight.double().T * scale_x.double() * scale_w.double()
            bound = reference.scaled_error_bound(x, weight, torch.float16, scale_x, scale_w, exact)
            assert bool(((y.double() - exact).abs() <= bound).all())
            persona = calls.persona_of("wvSplitKQ", x.device, cu_count)
            grids.append(tables.plan(problem, persona).grid)
            assert len(seen.launches) == 1
    assert grids[0] > grids[1]


@pytest.mark.emulated
@pytest.mark.parametrize(("target", "flavour"), AMD)
def test_samples(target: str, flavour: torch.dtype) -> None:
    """What `aiterlite emulate wvSplitKQ` runs, for the flavour that is named and for the target's own."""
    del flavour
    with envs.override(AITERLITE_TARGET=target):
        for scale_x, scale_w, bias in (("tensor", "tensor", False), ("tensor", "row", True), ("token", "row", True)):
            problem = tables.ScaledGemmProblem(3, 33, 528, scale_x=scale_x, scale_w=scale_w, bias=bias)
            made = sample("wvSplitKQ", problem)
            assert 0.01 < made.of_bound(made.run()) <= 1
        named = sample("wvSplitKQ", tables.ScaledGemmProblem(1, 16, 64, fp8="e4m3fn"))
        if target == "gfx950":
            assert named.of_bound(named.run()) <= 1
        else:
            with pytest.raises(DispatchError, match="takes e4m3fnuz"):
                named.run()


# torch ----------------------------------------------------------------------------------------------------------------


def test_fakes_and_compile() -> None:
    target = torch.ops.aiterlite.wvSplitKQ.default
    bias = torch.randn(24).bfloat16()
    # opcheck's other tests multiply the operands, which torch cannot do in 8 bits.
    operands = (X, W, BF16, ONE, torch.ones(24), bias)
    torch.library.opcheck(target, operands, {"cu_count": 3}, test_utils="test_faketensor")
    y = target(X.to("meta"), W.to("meta"), torch.float16, ONE.to("meta"), ONE.to("meta"))
    assert y.shape == (3, 24) and y.dtype == torch.float16 and y.device.type == "meta"

    def model(x: torch.Tensor) -> torch.Tensor:
        return torch.relu(aiterlite.wvSplitKQ(x, W, BF16, ONE, ONE, bias)) + 1

    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(X), model(X))
