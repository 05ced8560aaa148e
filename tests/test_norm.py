"""RMSNorm on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: held to float64, with the bits of
its parts where parts are fused, and nothing written beside its outputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import TARGETS, on  # noqa: E402
from hostsim_launch import simulate  # noqa: E402
from norm_cases import Case, assert_is_the_norm, call, operands_of, run, run_quantised  # noqa: E402
from quant_cases import CODES, DTYPES, same  # noqa: E402

from aiterlite import dispatch, norm  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import norm as ops  # noqa: E402
from aiterlite.reference import norm as reference  # noqa: E402
from aiterlite.tables import norm as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
where = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# The norm -------------------------------------------------------------------------------------------------------------

# Rows that share a wave or a workgroup, strided; the odd width; of a workgroup; that registers do not hold.
CASES = [
    Case(9, 128, pad=8),
    Case(3, 769, "fp16", with_add=True, pad=1, offset=1),
    Case(3, 1152, with_add=True),
    Case(1, 16408, with_add=True),
]
ON_A_CPU = [
    Case(17, 512, "fp16", pad=24),
    Case(5, 1, epsilon=1e-3),
    Case(4, 7168, with_add=True, pad=8, epsilon=1e-5),
    Case(2, 20001, "fp16"),
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
def test_weights_that_count_from_one_and_models_that_round_twice(target: str) -> None:
    """Roundings in between show: some elements differ from those that are rounded once, and few from the reference,
    whose sum has another order."""
    case = Case(4, 200, "bf16", with_add=True, gemma=True, sensitive=True)
    with on(target) as device:
        out = run(case, device)
    given = operands_of(case)
    h = reference.add(given.x, given.residual)
    twice, once = (reference.rms_norm(h, given.weight, case.epsilon, True, how) for how in (True, False))
    assert int((out != twice).sum()) <= 2 < int((out != once).sum())


@where
def test_two_rows_a_team_have_the_bits_of_one(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A row's result does not depend on how many others there are. Where rows are many, a team has two, and a
    workgroup eight teams."""
    case = Case(11, 136)
    given = operands_of(case)
    with on(target) as device:
        alone = [
            call(replace(case, rows=1), replace(given, x=given.x[r : r + 1].clone()), device)[0] for r in range(11)
        ]
        monkeypatch.setattr(tables, "_CROWDED", 0)
        out, _ = call(case, given, device)
        if not target.startswith("cpu"):
            assert dispatch.decide(tables.PLAIN_TABLE, tables.NormProblem(11, 136), resolve("mi300x")).plan.batch == 2
    assert same(out, torch.cat(alone))
    assert_is_the_norm(out, given.x, given.weight, case)


@where
def test_rows_of_zeros_nan_and_infinity(target: str) -> None:
    """As the reference says; a row's neighbours are as ever."""
    x = torch.ones(4, 128, dtype=torch.bfloat16)
    x[0], x[1, 5], x[2, 7] = 0, float("nan"), float("inf")
    weight = torch.full((128,), 2.0, dtype=torch.bfloat16)
    with on(target) as device:
        out = norm.rms_norm(x.to(device), weight.to(device), 0.0).cpu()
    assert bool(out[:2].isnan().all()) and bool(out[2, 7].isnan()) and not bool(out[2, :7].any())
    assert bool((out[3] == 2).all())


# Quantised ------------------------------------------------------------------------------------------------------------

QUANTISED = [
    (CASES[2], "e4m3fn", 128, True),
    (CASES[3], "e4m3fnuz", 0, False),
    (CASES[0], "int8", 32, False),
    (CASES[1], "e4m3fn", 0, False),
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
    for group, transposed in ((0, False), (64, False), (128, True)):
        run_quantised(Case(5, 1280, dtype, with_add=bool(group)), code, "cpu", group, transposed)
    run_quantised(Case(2, 16384 + 128, dtype, sensitive=True), code, "cpu", 0)
    run_quantised(Case(2, 16384 + 128, dtype), code, "cpu", 128)
    run_quantised(Case(3, 130, dtype, pad=3, offset=5), code, "cpu", 0)


@where
@pytest.mark.parametrize("shape", [(0, 256), (4, 0), (2, 0, 128)])
def test_nothing_to_normalise(shape: tuple[int, ...], target: str) -> None:
    with on(target) as device:
        x = torch.empty(shape, dtype=torch.bfloat16, device=device)
        weight = torch.empty(shape[-1], dtype=torch.bfloat16, device=device)
        codes, scales = torch.empty(shape, dtype=torch.int8, device=device), torch.empty(*shape[:-1], 1, device=device)
        assert norm.rms_norm(x, weight, 1e-6).shape == shape
        norm.fused_add_rms_norm_cu(x, x.clone(), weight, 1e-6)
        scales.fill_(7)
        norm.rmsnorm2d_fwd_with_dynamicquant(codes, x, scales, weight, 1e-6)
        assert bool((scales == 7).all())


def test_batches_of_any_dimension() -> None:
    x, weight = operands_of(Case(6, 96)).x, operands_of(Case(6, 96)).weight
    wanted = norm.rms_norm(x, weight, 1e-6)
    assert same(norm.rms_norm(x.view(2, 3, 96), weight, 1e-6).view(6, 96), wanted)
    assert same(norm.rms_norm(x[2], weight, 1e-6), wanted[2])
    assert same(norm.rms_norm(x.view(2, 3, 96).transpose(0, 1), weight, 1e-6), wanted.view(2, 3, 96).transpose(0, 1))


# sm_90 on the host ----------------------------------------------------------------------------------------------------


def simulated(case: Case, folder: Path, code: str = "", group: int = 0) -> dict[str, Any]:
    """What a decision for an H100 writes, each tensor an allocation of its own; and the operands."""
    given = operands_of(case)
    problem: Any = tables.NormProblem(case.rows, case.width, case.dtype, aligned=case.width % 8 == 0)
    table = tables.ADD_TABLE if case.with_add else tables.PLAIN_TABLE
    tensors = {"x": given.x, "weight": given.weight, "out": torch.zeros_like(given.x)}
    if case.with_add:
        tensors |= {"residual_in": given.residual, "residual_out": torch.zeros_like(given.x)}
    if code:
        table = tables.ADD_DYNAMIC_TABLE if case.with_add else tables.DYNAMIC_TABLE
        size = group or case.width
        problem = tables.QuantNormProblem(**vars(problem), group_size=size, out_dtype=code, transposed=bool(group))
        tensors["out"] = torch.zeros(given.x.shape, dtype=CODES[code])
        tensors["scales"] = torch.zeros(case.width // size, case.rows)
    (kernel,) = dispatch.decide(table, problem, resolve("h100")).kernels
    strides = dict.fromkeys(("stride_x", "stride_in", "stride_sum", "stride_out"), case.width)
    simulate(kernel, tensors, {**strides, "epsilon": case.epsilon}, folder)
    return tensors


@pytest.mark.parametrize(
    ("case", "code", "group"),
    [(Case(2, 640, with_add=True), "e4m3fn", 128), (Case(1, 16400, "fp16"), "e4m3fnuz", 0)],
)
def test_sm90_s_path_on_the_host(case: Case, code: str, group: int, tmp_path: Path) -> None:
    """The kernel as sm_90 compiles it, lane by lane, under the address sanitizer: groups of a workgroup's row, and a
    scale of a row that is read three times."""
    found = simulated(case, tmp_path, code, group)
    h = found["x"]
    if case.with_add:
        h = reference.add(h, found["residual_in"])
        assert same(found["residual_out"], h)
    result = reference.rms_norm(h, found["weight"], case.epsilon)
    codes, scales = reference.quantised(result, CODES[code], group, bool(group))
    # The reference's sum has another order: a number may be rounded the other way.
    unlike = int((found["out"].view(torch.uint8) != codes.view(torch.uint8)).sum())
    assert unlike <= 3 and torch.allclose(found["scales"].view(scales.shape), scales, rtol=2.0**-7)


def test_sm90_s_two_rows_a_team_on_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "_CROWDED", 0)
    case = Case(11, 219)
    found = simulated(case, tmp_path)
    assert_is_the_norm(found["out"], found["x"], found["weight"], case)


# How it is cut --------------------------------------------------------------------------------------------------------

CHIPS = ("mi300x", "mi308x", "mi355x", "h200", "h100")


@pytest.mark.parametrize("chip", CHIPS)
def test_teams_hold_a_row_whatever_the_number_of_rows(chip: str) -> None:
    persona = resolve(chip)
    for width in (1, 16, 128, 512, 769, 1536, 7168, 7176, 16384, 16385, 1 << 20):
        plans = [tables.plan_rows(tables.NormProblem(rows, width), persona) for rows in (1, 3, 256, 4096, 1 << 20)]
        for plan, rows in zip(plans, (1, 3, 256, 4096, 1 << 20), strict=True):
            assert (plan.lanes, plan.threads, plan.passes) == (plans[0].lanes, plans[0].threads, plans[0].passes)
            assert plan.threads % persona.wave_size == 0 and 16 <= plan.lanes <= plan.threads <= 1024
            assert plan.lanes == plan.threads if plan.lanes > persona.wave_size else plan.lanes & (plan.lanes - 1) == 0
            assert plan.passes == 1 + (16 * plan.lanes < width)
            per_workgroup = plan.threads // plan.lanes * plan.batch
            assert plan.grid * per_workgroup >= rows > (plan.grid - 1) * per_workgroup
    grouped = tables.plan_rows(tables.QuantNormProblem(4096, 7168), persona)
    assert grouped.batch == 1 and grouped.lanes % 16 == 0


SPILLS: list[tuple[dispatch.Table, dict[str, Any]]] = [
    (tables.ADD_DYNAMIC_TABLE, {"row_count": 4096, "row_width": 7168, "group_size": 128}),
    (tables.ADD_DYNAMIC_TABLE, {"row_count": 4096, "row_width": 7168, "group_size": 7168}),
]


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for table, given in SPILLS if chip == "sm_90a" else SPILLS[:1]:
        problem = table.problem(**table.derive(given))
        for kernel in dispatch.decide(table, problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"


# The public names -----------------------------------------------------------------------------------------------------

_FLAG = "use_model_sensitive_rmsnorm=0"
SIGNATURES = {
    "rms_norm": f"input, weight, epsilon, {_FLAG}",
    "rmsnorm2d_fwd": f"input, weight, epsilon, {_FLAG}",
    "rms_norm_cu": "out, input, weight, epsilon",
    "fused_add_rms_norm_cu": "input, residual_in, weight, epsilon",
    "rmsnorm2d_fwd_with_add": f"out, input, residual_in, residual_out, weight, epsilon, gemma_norm=False, {_FLAG}",
    "rmsnorm2d_fwd_with_dynamicquant": f"out, input, yscale, weight, epsilon, {_FLAG}, group_size=0, "
    "shuffle_scale=False",
    "rmsnorm2d_fwd_with_add_dynamicquant": "out, input, residual_in, residual_out, yscale, weight, epsilon, "
    f"{_FLAG}, group_size=0, shuffle_scale=False",
}


def test_signatures_are_upstream_s() -> None:
    # Those of two tensors are in test_norm_pair.py.
    assert {name for name in norm.__all__ if "_qk_" not in name and "group_quant" not in name} == set(SIGNATURES)
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(norm, name)).parameters.values()
        shown = [f"{p.name}{'' if p.default is p.empty else f'={p.default}'}" for p in parameters]
        assert ", ".join(shown) == wanted


X, W = torch.ones(4, 256, dtype=torch.bfloat16), torch.ones(256, dtype=torch.bfloat16)
FP8, SCALES = torch.zeros(4, 256, dtype=torch.float8_e4m3fn), torch.zeros(4, 1)


def _add(out: Any = X, x: Any = X, residual: Any = X, total: Any = X, **rest: Any) -> Callable[[], None]:
    return functools.partial(norm.rmsnorm2d_fwd_with_add, out, x, residual, total, W, 1e-6, **rest)


def _quantised(out: Any = FP8, x: Any = X, scales: Any = SCALES, weight: Any = W, **rest: Any) -> Callable[[], None]:
    return functools.partial(norm.rmsnorm2d_fwd_with_dynamicquant, out, x, scales, weight, 1e-6, **rest)


REFUSED = {
    "input` is of dtype torch.float32": lambda: norm.rms_norm(X.float(), W.float(), 1e-6),
    "input` is of no dimension": lambda: norm.rms_norm(X[0, 0], W, 1e-6),
    "weight` is of dtype torch.float32; allowed: torch.bfloat16": lambda: norm.rms_norm(X, W.float(), 1e-6),
    r"weight` is of shape \[255\]; allowed: \[256\]": lambda: norm.rms_norm(X, W[1:], 1e-6),
    r"input` is of strides \[1, 4\].*Call .contiguous": lambda: norm.rms_norm(X.view(256, 4).T, W, 1e-6),
    "use_model_sensitive_rmsnorm` is 2; allowed: 0, 1": lambda: norm.rms_norm(X, W, 1e-6, 2),
    "out` is of dtype torch.float16": lambda: norm.rms_norm_cu(X.half(), X, W, 1e-6),
    r"residual_in` is of shape \[3, 256\]; allowed: \[4, 256\]": _add(residual=X[:3]),
    r"residual_out` is of strides \[0, 1\].*do not overlap": _add(total=X[:1].expand(4, 256)),
    r"out` is of strides \[256, 512, 1\].*as far apart": lambda: norm.rms_norm_cu(
        torch.ones(2, 2, 256).bfloat16().transpose(0, 1), X.view(2, 2, 256), W, 1e-6
    ),
    "out` is of dtype torch.float8_e5m2": _quantised(FP8.view(torch.float8_e5m2)),
    r"out` is of shape \[4, 128\]": _quantised(FP8[:, :128]),
    r"yscale` is of shape \[4, 1\]; allowed: 8 elements": _quantised(group_size=128),
    "yscale` is of dtype torch.float64": _quantised(scales=SCALES.double()),
    "group_size` is 96; allowed: 0, 32, 64, 128": _quantised(group_size=96),
    r"input` is of shape \[4, 96\]; allowed: rows of a multiple of 64. Pad": _quantised(
        FP8[:, :96].contiguous(), X[:, :96], SCALES, W[:96], group_size=64
    ),
    "yscale` is None; allowed: a tensor": _quantised(scales=None),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_the_tables_refuse_in_words() -> None:
    def said(table: dispatch.Table, **given: Any) -> str:
        return str(dispatch.decide(table, table.problem(**table.derive(given)), resolve("h200")))

    assert "no multiple of the group, 128 (pad the rows)" in said(tables.DYNAMIC_TABLE, row_count=1, row_width=200)
    assert "there are 32, 64, 128" in said(tables.DYNAMIC_TABLE, row_count=1, row_width=192, group_size=96)
    assert "(add 1 to the weights)" in said(tables.PLAIN_TABLE, row_count=1, row_width=8, gemma=True)


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.FORWARD.mutates == () and ops.OUT.mutates == ("out",)
    assert ops.ADD.mutates == ("out", "residual_out") and ops.ADD_IN_PLACE.mutates == ("input", "residual_in")
    assert ops.DYNAMIC.mutates == ("out", "yscale")
    assert ops.ADD_DYNAMIC.mutates == ("out", "residual_out", "yscale")
    with torch.device("meta"):
        y = norm.rms_norm(torch.empty(3, 512, dtype=torch.float16)[:, :256], torch.empty(256).half(), 1e-6)
    assert y.is_meta and y.shape == (3, 256) and y.is_contiguous()
    given = operands_of(Case(3, 64, with_add=True))
    args = (given.x.clone(), given.x, given.residual, given.residual.clone(), given.weight, 1e-6)
    torch.library.opcheck(ops.ADD.overload, args, test_utils=("test_schema", "test_faketensor"))


def test_a_compiled_function_has_the_same_bits() -> None:
    given = operands_of(Case(3, 64, with_add=True))

    def layer(x: Any, residual: Any) -> tuple[Any, Any]:
        norm.fused_add_rms_norm_cu(x, residual, given.weight, 1e-6)
        return norm.rms_norm(x, given.weight, 1e-6), residual

    results = []
    for function in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager")):
        x, residual = given.x.clone(), given.residual.clone()
        results.append((*function(x, residual), x))
    assert all(same(a, b) for a, b in zip(*results, strict=True))
