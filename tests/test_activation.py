"""Gated activations on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: held to float64, with the
bits of their parts where parts are fused, and nothing written beside their outputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from activation_cases import FUNCTIONS, Case, assert_is_right, call, run, run_quantised, x_of  # noqa: E402
from gemm_operands import TARGETS, on  # noqa: E402
from hostsim_launch import simulate  # noqa: E402
from quant_cases import CODES, DTYPES, same  # noqa: E402

from aiterlite import activation, dispatch  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import activation as ops  # noqa: E402
from aiterlite.reference import activation as reference  # noqa: E402
from aiterlite.tables import activation as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
where = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# The activation -------------------------------------------------------------------------------------------------------

# Tiles that rows do not fill, strided; an odd width, misaligned; several tiles a row.
CASES = [
    Case(9, 136, pad=8),
    Case(3, 77, "fp16", "gelu", pad=1, offset=1),
    Case(2, 2304, "bf16", "gelu_tanh"),
    Case(3, 256, "fp16", limit=1.5),
]
ON_A_CPU = [
    Case(17, 512, "fp16", pad=24),
    Case(5, 1, "bf16", "gelu_tanh"),
    Case(2, 5001, "bf16", "gelu", pad=3),
    Case(2, 18432, "fp16", "gelu_tanh"),
    Case(3, 4099, limit=0.25),
]


@where
@pytest.mark.parametrize("number", range(len(CASES)))
def test_rows(number: int, target: str) -> None:
    with on(target) as device:
        run(CASES[number], device, number)


@pytest.mark.parametrize("number", range(len(ON_A_CPU)))
def test_rows_on_a_cpu(number: int) -> None:
    run(ON_A_CPU[number], "cpu", number)


@where
@pytest.mark.parametrize("name", FUNCTIONS)
def test_gates_of_every_magnitude(name: str, target: str) -> None:
    """Of both signs: what is far below zero is zero, not NaN, and a NaN stays one."""
    bits = torch.arange(0, 1 << 16, 7, dtype=torch.int32)[: 9 * 1024].to(torch.int16)
    gate = bits.view(9, 1024).view(torch.bfloat16)
    finite = torch.where(gate.isfinite(), gate, 0.0)
    x = torch.cat([finite, torch.full_like(finite, 0.5)], 1)
    case = Case(9, 1024, "bf16", name)
    with on(target) as device:
        assert_is_right(call(case, x, device), x, case)
        odd = torch.tensor([[float("nan"), float("inf"), 1.0, 2.0, -1.0, 1.0, float("nan"), float("inf")]])
        out = torch.empty(1, 4, dtype=torch.bfloat16, device=device)
        FUNCTIONS[name](out, odd.bfloat16().to(device))
    wanted = reference.act_and_mul(odd.bfloat16(), name)
    assert out.isnan().tolist() == wanted.isnan().tolist() == [[True, False, True, False]]
    assert bool(out.isinf().cpu()[0, 1]) and bool(out.isinf().cpu()[0, 3])


@where
def test_a_limit_lets_a_nan_through(target: str) -> None:
    x = torch.tensor([[float("nan"), 9.0, 1.0, -9.0, 1.0, 9.0, float("nan"), -9.0]]).bfloat16()
    with on(target) as device:
        out = torch.empty(1, 4, dtype=torch.bfloat16, device=device)
        activation.silu_and_mul(out, x.to(device), 2.0)
    assert same(out, reference.act_and_mul(x, limit=2.0)) and out.isnan().tolist() == [[True, False, True, False]]
    assert float(out[0, 1]) == pytest.approx(2 * 2 / (1 + 2.718281828**-2), rel=2.0**-8)


@where
def test_results_beyond_the_type_are_infinite(target: str) -> None:
    """And a limit that float32 does not tell from 0 is one."""
    x = torch.tensor([[200.0, 10.0, 65504.0, -3.0, 2000.0, 1.0, 65504.0, 70000.0]]).half()
    with on(target) as device:
        out, none = (torch.empty(1, 4, dtype=torch.float16, device=device) for _ in range(2))
        activation.silu_and_mul(out, x.to(device))
        activation.silu_and_mul(none, x.to(device), 1e-60)
    inf = float("inf")
    assert out.tolist() == [[inf, pytest.approx(10, abs=0.01), inf, -inf]] and not none.any()


# Quantised ------------------------------------------------------------------------------------------------------------

QUANTISED = [
    (Case(9, 384), "e4m3fn", 128, True),
    (Case(2, 16408, limit=30.0), "e4m3fnuz", 0, False),
    (Case(3, 96, "fp16", "gelu_tanh"), "int8", 32, False),
    (Case(3, 77, "fp16", "gelu", pad=1, offset=1), "e4m3fn", 0, False),
    (Case(3, 2304), "e4m3fnuz", 64, False),
]


@where
@pytest.mark.parametrize("number", range(len(QUANTISED)))
def test_a_fused_call_has_the_bits_of_its_parts(number: int, target: str) -> None:
    case, code, group, transposed = QUANTISED[number]
    with on(target) as device:
        run_quantised(case, code, device, group, transposed, number)


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_codes_of_all_kinds_on_a_cpu(dtype: str, code: str) -> None:
    for group, transposed in ((0, False), (64, False), (128, True), (128, False)):
        for name in FUNCTIONS:
            run_quantised(Case(5, 1280, dtype, name), code, "cpu", group, transposed)
    run_quantised(Case(2, 8320, dtype), code, "cpu", 128)
    run_quantised(Case(2, 5001, dtype, limit=9.0), code, "cpu", 0)


@where
@pytest.mark.parametrize("shape", [(0, 256), (4, 0), (2, 0, 128)])
def test_nothing_to_do(shape: tuple[int, ...], target: str) -> None:
    with on(target) as device:
        x = torch.empty(*shape[:-1], 2 * shape[-1], dtype=torch.bfloat16, device=device)
        codes, scales = torch.empty(shape, dtype=torch.int8, device=device), torch.full((0,), 7.0, device=device)
        activation.silu_and_mul(torch.empty(shape, dtype=torch.bfloat16, device=device), x)
        activation.silu_and_mul_quant(codes, x, scales, 128)
        found = activation.act_mul_and_fp8_group_quant(x, "silu", 128)
        assert found[0].shape == shape and found[1].shape == (*shape[:-1], shape[-1] // 128)


def test_batches_of_any_dimension() -> None:
    x, out = x_of(Case(6, 96)), torch.empty(6, 96).bfloat16()
    activation.silu_and_mul(out, x)
    again = torch.empty(2, 3, 96).bfloat16()
    activation.silu_and_mul(again, x.view(2, 3, 192))
    assert same(again.view(6, 96), out)
    activation.silu_and_mul(again.view(3, 2, 96), x.view(2, 3, 192).transpose(0, 1))
    assert same(again.view(3, 2, 96), out.view(2, 3, 96).transpose(0, 1).contiguous())
    activation.silu_and_mul(again[0, 0], x[4])
    assert same(again[0, 0], out[4])
    codes, scales = activation.act_mul_and_fp8_group_quant(x.view(2, 3, 192), "silu", 32)
    flat = activation.act_mul_and_fp8_group_quant(x, "silu", 32)
    assert same(codes.view(6, 96), flat[0]) and same(scales.view(6, 3), flat[1])


@pytest.mark.parametrize(("target", "code"), [("gfx942", "e4m3fnuz"), ("gfx950", "e4m3fn"), ("cpu", "e4m3fn")])
def test_codes_are_of_the_e4m3_type_of_a_target_unless_named(target: str, code: str) -> None:
    with on(target):
        x = torch.empty(0, 512, dtype=torch.bfloat16)
        assert activation.act_mul_and_fp8_group_quant(x, "silu", 128)[0].dtype == CODES[code]


# sm_90 on the host ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "code", "group"),
    [
        (Case(9, 640, limit=2.0), "e4m3fn", 128),
        (Case(1, 16400, "fp16"), "e4m3fnuz", 0),
        (Case(5, 77, "fp16"), "", 0),
    ],
)
def test_sm90_s_path_on_the_host(case: Case, code: str, group: int, tmp_path: Path) -> None:
    """The kernel as sm_90 compiles it, lane by lane, under the address sanitizer: tiles, groups of them, and a scale of
    a row that is made twice."""
    x, aligned = x_of(case), case.width % (16 if code else 8) == 0
    problem: Any = tables.ActProblem(case.rows, case.width, case.dtype, limited=case.limit > 0, aligned=aligned)
    table, tensors = tables.SILU_TABLE, {"x": x, "out": torch.zeros(case.rows, case.width, dtype=x.dtype)}
    if code:
        table, size = tables.SILU_QUANT_TABLE, group or case.width
        problem = tables.QuantActProblem(**vars(problem), group_size=size, out_dtype=code, transposed=bool(group))
        tensors["out"] = torch.zeros(case.rows, case.width, dtype=CODES[code])
        tensors["scales"] = torch.zeros(case.width // size, case.rows)
    (kernel,) = dispatch.decide(table, problem, resolve("h100")).kernels
    strides = {"stride_x": 2 * case.width, "stride_out": case.width}
    simulate(kernel, tensors, {**strides, "limit": case.limit}, tmp_path)
    if not code:
        assert_is_right(tensors["out"], x, case)
        return
    codes, scales = reference.quantised(reference.act_and_mul(x, limit=case.limit), CODES[code], group, bool(group))
    # The reference has another exponential: a number may be rounded the other way.
    unlike = int((tensors["out"].view(torch.uint8) != codes.view(torch.uint8)).sum())
    assert unlike <= 3 and torch.allclose(tensors["scales"].view(scales.shape), scales, rtol=2.0**-7)


# How it is cut --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ("mi300x", "mi308x", "mi355x", "h200", "h100"))
def test_tiles_hold_a_row(chip: str) -> None:
    persona = resolve(chip)
    for width in (1, 16, 128, 256, 769, 2048, 2304, 18432, 1 << 20):
        for rows in (1, 3, 256, 4096, 1 << 16):
            plan = tables.plan_rows(tables.ActProblem(rows, width), persona)
            assert plan.tiles * plan.lanes * 16 >= width > (plan.tiles - 1) * plan.lanes * 16
            assert plan.lanes in (16, 32, persona.wave_size) and plan.threads % persona.wave_size == 0
            per_workgroup = plan.threads // plan.lanes
            assert plan.grid * per_workgroup >= rows * plan.tiles > (plan.grid - 1) * per_workgroup
            # No team of another size would leave fewer lanes idle.
            pieces = -(-width // 16)
            assert plan.tiles * plan.lanes == min(-(-pieces // n) * n for n in (16, 32, persona.wave_size))
            whole = tables.plan_rows(tables.QuantActProblem(rows, width, group_size=width), persona)
            assert whole.tiles == 1 and whole.passes == 1 + (whole.lanes * 16 < width)
            assert whole.threads == whole.lanes if whole.lanes > persona.wave_size else whole.lanes >= 16
    idle = tables.plan_rows(tables.ActProblem(1, 2304), persona)
    assert idle.lanes == 16 and idle.tiles == 9


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for table in (tables.GELU_TABLE, tables.SILU_QUANT_TABLE):
        problem = table.problem(**table.derive({"row_count": 4096, "row_width": 2048}))
        for kernel in dispatch.decide(table, problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"
            assert used.get("registers", 0) <= 64 and used.get("vgprs", 0) <= 64


# The public names -----------------------------------------------------------------------------------------------------

SIGNATURES = {
    "silu_and_mul": "out, input, limit=0.0",
    "gelu_and_mul": "out, input",
    "gelu_tanh_and_mul": "out, input",
    "silu_and_mul_quant": "out, input, scale, group_size, limit=0.0, shuffle_scale=False",
    "act_mul_and_fp8_group_quant": "x, activation, group_size, dtype_quant=None",
}


def test_signatures_are_upstream_s() -> None:
    assert set(activation.__all__) == set(SIGNATURES)
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(activation, name)).parameters.values()
        shown = [f"{p.name}{'' if p.default is p.empty else f'={p.default}'}" for p in parameters]
        assert ", ".join(shown) == wanted


X, OUT = torch.ones(4, 512).bfloat16(), torch.zeros(4, 256).bfloat16()
FP8, SCALES = torch.zeros(4, 256, dtype=torch.float8_e4m3fn), torch.zeros(4, 2)


def _silu(out: Any = OUT, x: Any = X, **rest: Any) -> Callable[[], None]:
    return functools.partial(activation.silu_and_mul, out, x, **rest)


def _quantised(
    out: Any = FP8, x: Any = X, scale: Any = SCALES, group_size: int = 128, **rest: Any
) -> Callable[[], None]:
    return functools.partial(activation.silu_and_mul_quant, out, x, scale, group_size, **rest)


REFUSED: dict[str, Callable[[], Any]] = {
    "input` is of dtype torch.float32": _silu(OUT.float(), X.float()),
    "input` is of no dimension": _silu(OUT, X[0, 0]),
    r"input` is of shape \[4, 511\]; allowed: \[..., 2 d\]": _silu(OUT, X[:, :511]),
    r"input` is of strides \[1, 4\].*Call .contiguous": _silu(OUT, X.view(512, 4).T),
    "out` is of dtype torch.float16": _silu(OUT.half()),
    r"out` is of shape \[4, 512\]; allowed: \[4, 256\]": _silu(X),
    r"out` is of strides \[0, 1\].*do not overlap": _silu(OUT[:1].expand(4, 256)),
    "limit` is -1.0; allowed: a number above 0": _silu(limit=-1.0),
    "limit` is nan": _quantised(limit=float("nan")),
    "out` is of dtype torch.float8_e5m2": _quantised(FP8.view(torch.float8_e5m2)),
    r"scale` is of shape \[4, 1\]; allowed: 8 elements": _quantised(scale=SCALES[:, :1]),
    "scale` is of dtype torch.float64": _quantised(scale=SCALES.double()),
    r"scale` is of strides \[1, 4\]; allowed: contiguous": _quantised(scale=torch.zeros(2, 4).T),
    "group_size` is 96; allowed: 32, 64, 128, or 256, for a scale a row": _quantised(group_size=96),
    r"input` is of shape \[4, 192\]; allowed: \[..., 2 d\], d a multiple of 64. Pad": _quantised(
        FP8[:, :96].contiguous(), X[:, :192], SCALES, 64
    ),
    "scale` is None; allowed: a tensor": _quantised(scale=None),
    "activation` is 'relu'; allowed: silu, gelu, gelu_tanh": lambda: activation.act_mul_and_fp8_group_quant(
        X, "relu", 128
    ),
    "dtype_quant` is of dtype torch.uint8.*MXFP4": lambda: activation.act_mul_and_fp8_group_quant(
        X, "silu", 128, torch.uint8
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_the_tables_refuse_in_words() -> None:
    def said(table: dispatch.Table, **given: Any) -> str:
        return str(dispatch.decide(table, table.problem(**table.derive(given)), resolve("h200")))

    assert "no multiple of the group, 128 (pad the rows)" in said(tables.SILU_QUANT_TABLE, row_count=1, row_width=200)
    assert "(clamp the operands)" in said(tables.GELU_TABLE, row_count=1, row_width=8, limited=True)
    assert "more than 2^30 tiles" in said(tables.SILU_TABLE, row_count=1 << 30, row_width=512)


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.SILU.mutates == ops.GELU.mutates == ("out",) and ops.SILU_QUANT.mutates == ("out", "scale")
    x, out = x_of(Case(3, 64)), torch.empty(3, 64).bfloat16()
    torch.library.opcheck(ops.SILU.overload, (out, x), test_utils=("test_schema", "test_faketensor"))
    args = (x, "gelu", 32, torch.int8)
    torch.library.opcheck(ops.ANY_QUANT.overload, args, test_utils=("test_schema", "test_faketensor"))


def test_a_compiled_function_has_the_same_bits() -> None:
    x = x_of(Case(3, 64))

    def layer(x: Any) -> tuple[Any, ...]:
        out = torch.empty(3, 64, dtype=x.dtype)
        activation.silu_and_mul(out, x, 1.0)
        return out, *activation.act_mul_and_fp8_group_quant(x, "silu", 32)

    results = [function(x) for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager"))]
    assert all(same(a, b) for a, b in zip(*results, strict=True))
