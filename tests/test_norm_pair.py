"""RMSNorm of two tensors in one launch, on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: the
bits of calls of `rms_norm` and of quantisation, and nothing written beside outputs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import TARGETS, on  # noqa: E402
from hostsim_launch import simulate  # noqa: E402
from norm_cases import Case, assert_is_the_norm, operands_of  # noqa: E402
from quant_cases import CODES, Ringed, same, strided_like  # noqa: E402

from aiterlite import dispatch, norm  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import norm_pair as ops  # noqa: E402
from aiterlite.reference import norm as reference  # noqa: E402
from aiterlite.tables import norm as single  # noqa: E402
from aiterlite.tables import norm_pair as tables  # noqa: E402
from aiterlite.tables.quant_types import QuantType  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
where = pytest.mark.parametrize("target", TARGETS)


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    callspec = getattr(request.node, "callspec", None)
    if callspec is not None and str(callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


@dataclass(frozen=True)
class Pair:
    """Two tensors of as many rows; `code` and `group` say how the first is quantised (0: a scale a row)."""

    q: Case
    k: Case | None
    code: str = ""
    group: int = 0
    transposed: bool = False
    both: bool = False


def expected(pair: Pair, device: str) -> dict[str, Any]:
    """What calls of one tensor each give on a target."""
    given, case, found = operands_of(pair.q), pair.q, {}
    x, residual, weight = (strided_like(tensor, device) for tensor in (given.x, given.residual, given.weight))
    plain = torch.empty(case.rows, case.width, dtype=x.dtype, device=device)
    total = torch.empty_like(plain)
    if case.with_add:
        norm.rmsnorm2d_fwd_with_add(plain, x, residual, total, weight, case.epsilon, case.gemma)
        found["q_res_out"] = total
    elif case.gemma:
        # The only norm that has such weights adds a residual.
        zeros = torch.zeros_like(plain)
        norm.rmsnorm2d_fwd_with_add(plain, x, zeros, total, weight, case.epsilon, True)
    else:
        norm.rms_norm_cu(plain, x, weight, case.epsilon)
    if pair.code:
        codes, scales = reference.quantised(plain.cpu(), CODES[pair.code], pair.group, False)
        found |= {"q_out_quantized": codes, "q_out_scale": scales}
    if pair.both or not pair.code:
        found["q_out_unquantized"] = plain
    if pair.k is not None:
        other = operands_of(pair.k, 1)
        k, k_weight = strided_like(other.x, device), strided_like(other.weight, device)
        found["k_out"] = torch.empty(pair.k.rows, pair.k.width, dtype=k.dtype, device=device)
        if case.gemma:
            zeros = torch.zeros_like(found["k_out"])
            norm.rmsnorm2d_fwd_with_add(
                found["k_out"], k, zeros, torch.empty_like(zeros), k_weight, pair.k.epsilon, True
            )
        else:
            norm.rms_norm_cu(found["k_out"], k, k_weight, pair.k.epsilon)
    return found


def run(pair: Pair, device: str) -> None:
    """A call in rings of poison, with the bits of several."""
    wanted, given = expected(pair, device), operands_of(pair.q)
    rings: dict[str, Ringed] = {}
    for name, value in wanted.items():
        shape = value.T.shape if name == "q_out_scale" and pair.transposed else value.shape
        offset = pair.q.offset * 2 if value.dtype in (torch.bfloat16, torch.float16) else 0
        rings[name] = Ringed.of(tuple(shape), value.dtype, device, offset)
    outputs = {name: ring.inner for name, ring in rings.items()}
    if pair.transposed:
        outputs["q_out_scale"] = outputs["q_out_scale"].T
    inputs: dict[str, Any] = {"q": strided_like(given.x, device), "q_weight": strided_like(given.weight, device)}
    if pair.q.with_add:
        inputs["q_residual"] = strided_like(given.residual, device)
    if pair.k is not None:
        other = operands_of(pair.k, 1)
        inputs |= {"k": strided_like(other.x, device), "k_weight": strided_like(other.weight, device)}
        inputs["k_epsilon"] = pair.k.epsilon
    how = {"q_epsilon": pair.q.epsilon, "gemma_norm": pair.q.gemma}
    if pair.code and not pair.group:
        norm.fused_qk_rmsnorm_per_token_quant(**outputs, **inputs, **how)
    else:
        sized = {"group_size": pair.group or 128, "transpose_scale": pair.transposed}
        norm.fused_qk_rmsnorm_group_quant(**outputs, **inputs, **how, **sized)
    for name, value in wanted.items():
        assert same(outputs[name].contiguous(), value.cpu().contiguous()), f"{name} of {pair}"
        assert rings[name].ring_is_whole, f"beside {name} of {pair}"


# q's latents and k's, columns of one projection; a workgroup for a row of the second alone; a row that registers do not
# hold beside one that has a part of its workgroup; odd widths; one tensor, with everything written of it.
PAIRS = [
    Pair(Case(3, 1536, pad=576), Case(3, 512, pad=1600)),
    Pair(Case(9, 128, "fp16", gemma=True), Case(9, 1536, "fp16", epsilon=1e-5)),
    Pair(Case(2, 16408), Case(2, 1300 * 8), "e4m3fnuz"),
    Pair(Case(3, 769, with_add=True, pad=1, offset=1), Case(3, 77, pad=3, offset=1), "int8", both=True),
    Pair(Case(5, 1536, with_add=True), Case(5, 512), "e4m3fn", 128, transposed=True, both=True),
    Pair(Case(5, 384, with_add=True), None, "e4m3fn", 64),
    Pair(Case(2, 20008, with_add=True), Case(2, 2056)),
]


def _cells() -> list[Any]:
    """Each on a CPU, gfx942 and a GPU; on gfx950 those with codes."""
    kept = [(n, t) for n, pair in enumerate(PAIRS) for t in TARGETS if pair.code or "gfx950" not in str(t)]
    return [pytest.param(n, getattr(t, "values", [t])[0], marks=getattr(t, "marks", ())) for n, t in kept]


@pytest.mark.parametrize(("number", "target"), _cells())
def test_one_launch_has_the_bits_of_several(number: int, target: str) -> None:
    with on(target) as device:
        run(PAIRS[number], device)


@pytest.mark.parametrize("code", CODES)
def test_codes_of_all_kinds_on_a_cpu(code: str) -> None:
    for group, transposed, both in ((0, False, True), (32, True, False), (128, False, True)):
        for dtype in ("bf16", "fp16"):
            run(Pair(Case(4, 1280, dtype, True), Case(4, 96, dtype), code, group, transposed, both), "cpu")
            run(Pair(Case(2, 8192 + 128, dtype), Case(2, 33, dtype), code, group, transposed, both), "cpu")


@pytest.mark.parametrize("target", [t for t in TARGETS if "gfx950" not in str(t)])
def test_two_rows_a_team(target: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where rows are many, each tensor's teams have two; q's by groups one."""
    monkeypatch.setattr(single, "_CROWDED", 0)
    with on(target) as device:
        run(Pair(Case(11, 136), Case(11, 219 * 8)), device)
        run(Pair(Case(5, 256), Case(5, 64), "e4m3fn", 64), device)


def test_a_norm_is_that_of_float64() -> None:
    q, k = Case(4, 1536), Case(4, 512, epsilon=1e-4)
    given, other = operands_of(q), operands_of(k, 1)
    found = norm._fused_qk_rmsnorm(None, given.x, given.weight, q.epsilon, None, other.x, other.weight, k.epsilon)
    assert_is_the_norm(found[0], given.x, given.weight, q)
    assert_is_the_norm(found[1], other.x, other.weight, k)


def test_the_pair_writes_to_what_it_is_given() -> None:
    """Columns of a larger tensor, as clients have them."""
    latents = torch.randn(4, 2112).bfloat16()
    q, k, weights = latents[:, :1536], latents[:, 1536:2048], [torch.rand(n).bfloat16() for n in (1536, 512)]
    wanted = [norm.rms_norm(x, w, 1e-6) for x, w in zip((q, k), weights, strict=True)]
    rest = latents[:, 2048:].clone()
    out = norm._fused_qk_rmsnorm(
        q_out=q, q=q, q_weight=weights[0], q_eps=1e-6, k_out=k, k=k, k_weight=weights[1], k_eps=1e-6
    )
    assert out[0] is q and out[1] is k and same(latents[:, 2048:].contiguous(), rest)
    assert same(q.contiguous(), wanted[0]) and same(k.contiguous(), wanted[1])


@pytest.mark.parametrize("kind", [QuantType.No, QuantType.per_Token, QuantType.per_1x128, QuantType.per_1x32, 5])
def test_kinds_of_quantisation(kind: int) -> None:
    given, other = operands_of(Case(3, 256, with_add=True)), operands_of(Case(3, 64), 1)
    group = {0: 0, 2: 256, 3: 32}.get(int(kind), 128)
    out = torch.empty(3, 256, dtype=torch.float8_e4m3fn) if group else torch.empty(3, 256).bfloat16()
    scale, k_out = torch.empty(3, 256 // group) if group else None, torch.empty(3, 64).bfloat16()
    rest = {"k": other.x, "k_weight": other.weight, "k_epsilon": 1e-6, "k_out": k_out, "quant_type": kind}
    norm.fused_qk_rmsnorm(out, scale, given.x, given.weight, 1e-6, **rest)
    plain = norm.rms_norm(given.x, given.weight, 1e-6)
    assert same(k_out, norm.rms_norm(other.x, other.weight, 1e-6))
    if scale is None:
        assert same(out, plain)
        return
    codes, scales = reference.quantised(plain, out.dtype, 0 if group == 256 else group)
    assert same(out, codes) and same(scale, scales)


@where
def test_the_norms_of_a_layer_s_two_inputs(target: str) -> None:
    """Under the name of upstream's Triton function, which returns its results."""
    given, other = operands_of(Case(5, 512, with_add=True)), operands_of(Case(5, 96), 1)
    with on(target) as device:
        x, residual, weight = (t.contiguous().to(device) for t in (given.x, given.residual, given.weight))
        k, k_weight = other.x.to(device), other.weight.to(device)
        h = (x.float() + residual.float()).to(x.dtype)
        plain, second = norm.rms_norm(h, weight, 1e-6), norm.rms_norm(k, k_weight, 1e-5)
        call = functools.partial(
            norm.fused_rms_fp8_group_quant, x, weight, 1e-6, k, k_weight, 1e-5, 128, CODES["e4m3fn"]
        )
        (codes, scales), unquantised, k_out, total = call(residual, True)
        wanted = reference.quantised(plain.cpu(), CODES["e4m3fn"], 128)
        assert same(codes, wanted[0]) and same(scales, wanted[1]) and same(unquantised, plain)
        assert same(k_out, second) and same(total, h)
        (again, transposed), unquantised, _, total = call(None, False, True)
        assert unquantised is None and total is None and transposed.shape == (5, 4) and transposed.is_contiguous()
        (_, strided), *_ = call(None, False, True, True)
        assert strided.stride() == (1, 5) and same(strided.T.contiguous().view(5, 4), transposed)
        codes, scales = reference.quantised(norm.rms_norm(x, weight, 1e-6).cpu(), CODES["e4m3fn"], 128)
        assert same(again, codes) and same(strided.contiguous(), scales)
        alone = norm.fused_rms_fp8_group_quant(x, weight, 1e-6)
        fp8 = "e4m3fnuz" if target == "gfx942" else "e4m3fn"
        assert alone[0][0].dtype == CODES[fp8] and alone[1:] == (None, None, None)


def test_no_rows() -> None:
    q, k = torch.empty(0, 256).bfloat16(), torch.empty(0, 64).bfloat16()
    found = norm._fused_qk_rmsnorm(None, q, q.new_empty(256), 1e-6, None, k, k.new_empty(64), 1e-6)
    assert [tuple(t.shape) for t in found] == [(0, 256), (0, 64)]


# sm_90 on the host, and how it is cut ---------------------------------------------------------------------------------


@pytest.mark.parametrize("widths", [(640, 2048)])
def test_sm90_s_path_on_the_host(widths: tuple[int, int], tmp_path: Path) -> None:
    """The kernel as sm_90 compiles it, lane by lane, under the address sanitizer: a team of some waves only."""
    q, k = Case(3, widths[0], with_add=True), Case(3, widths[1])
    given, other = operands_of(q), operands_of(k, 1)
    problem = tables.PairNormProblem(3, q.width, k.width, with_add=True, both=True, group_size=128)
    (kernel,) = dispatch.decide(tables.PAIR_TABLE, problem, resolve("h100")).kernels
    tensors = {
        **{"x": given.x, "weight": given.weight, "residual_in": given.residual, "residual_out": given.x.clone()},
        **{"out": torch.zeros_like(given.x), "codes": torch.zeros(given.x.shape, dtype=CODES["e4m3fn"])},
        **{"scales": torch.zeros(3, q.width // 128), "second_x": other.x, "second_weight": other.weight},
        "second_out": torch.zeros_like(other.x),
    }
    strides = dict.fromkeys(("stride_x", "stride_in", "stride_sum", "stride_out", "stride_codes"), q.width)
    strides |= dict.fromkeys(("second_stride_x", "second_stride_out"), k.width)
    simulate(kernel, tensors, {**strides, "epsilon": q.epsilon, "second_epsilon": k.epsilon}, tmp_path)
    h = reference.add(given.x, given.residual)
    assert same(tensors["residual_out"], h)
    assert_is_the_norm(tensors["out"], h, given.weight, q)
    assert_is_the_norm(tensors["second_out"], other.x, other.weight, k)
    codes, scales = reference.quantised(tensors["out"], CODES["e4m3fn"], 128)
    assert same(tensors["codes"], codes) and same(tensors["scales"], scales)


@pytest.mark.parametrize("chip", ("mi300x", "mi308x", "mi355x", "h200"))
def test_teams_are_those_of_launches_of_their_own(chip: str) -> None:
    persona = resolve(chip)
    for first in (64, 512, 769, 1536, 7168, 20000):
        for second in (0, 1, 512, 1536, 16384, 20000):
            for rows in (1, 16, 4096, 1 << 20):
                plan = tables.plan_pair(tables.PairNormProblem(rows, first, second), persona)
                alone = single.plan_rows(single.NormProblem(rows, first), persona)
                assert (plan.lanes, plan.batch, plan.passes) == (alone.lanes, alone.batch, alone.passes)
                assert plan.threads % persona.wave_size == 0 and plan.lanes <= plan.threads <= 1024
                grids = [(plan.first_grid, plan.lanes, plan.batch)]
                if second:
                    other = single.plan_rows(single.NormProblem(rows, second), persona)
                    assert (plan.second_lanes, plan.second_batch) == (other.lanes, other.batch)
                    grids.append((plan.grid - plan.first_grid, plan.second_lanes, plan.second_batch))
                for grid, lanes, batch in grids:
                    per = (1 if lanes > persona.wave_size else plan.threads // lanes) * batch
                    assert grid * per >= rows > (grid - 1) * per
                assert plan.second_lanes > 0 or plan.grid == plan.first_grid


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for group in (0, 128):
        problem = tables.PairNormProblem(4096, 1536, with_add=bool(group), both=bool(group), group_size=group)
        for kernel in dispatch.decide(tables.PAIR_TABLE, problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"


# The public names -----------------------------------------------------------------------------------------------------

_Q = "q_out_quantized{0}, q_out_scale{0}, q{0}, q_weight{0}, q_epsilon{1}"
_REST = "q_out_unquantized=None, k_out=None, q_res_out=None, k=None, k_weight=None, k_epsilon=None, q_residual=None"
SIGNATURES = {
    "_fused_qk_rmsnorm": "q_out, q, q_weight, q_eps, k_out, k, k_weight, k_eps",
    "fused_qk_rmsnorm_group_quant": f"{_Q.format('=None', '=1e-06')}, {_REST}, group_size=128, "
    "transpose_scale=False, gemma_norm=False",
    "fused_qk_rmsnorm_per_token_quant": f"{_Q.format('', '')}, {_REST}, gemma_norm=False",
    "fused_qk_rmsnorm": f"{_Q.format('=None', '=1e-06')}, {_REST}, gemma_norm=False, quant_type=0, "
    "group_size=None, transpose_scale=False",
    "fused_rms_fp8_group_quant": "inp1, inp1_weight, inp1_epsilon, inp2=None, inp2_weight=None, inp2_epsilon=None, "
    "group_size=128, dtype_quant=None, res1=None, output_unquantized_inp1=False, transpose_scale=False, "
    "is_x_scale_strided=False",
}


def test_signatures_are_upstream_s() -> None:
    assert {name for name in norm.__all__ if "_qk_" in name or "group_quant" in name} == set(SIGNATURES)
    for name, wanted in SIGNATURES.items():
        parameters = inspect.signature(getattr(norm, name)).parameters.values()
        shown = [f"{p.name}{'' if p.default is p.empty else f'={p.default}'}" for p in parameters]
        assert ", ".join(shown) == wanted


Q, K, W = torch.ones(4, 256).bfloat16(), torch.ones(4, 64).bfloat16(), torch.ones(256).bfloat16()
FP8, SCALE = torch.zeros(4, 256, dtype=torch.float8_e4m3fn), torch.zeros(4, 2)


def _pair(q: Any = Q, weight: Any = W, k: Any = K, k_weight: Any = W[:64], q_out: Any = None) -> Callable[[], object]:
    return functools.partial(norm._fused_qk_rmsnorm, q_out, q, weight, 1e-6, None, k, k_weight, 1e-6)


def _group(codes: Any = FP8, scale: Any = SCALE, q: Any = Q, **rest: Any) -> Callable[[], object]:
    return functools.partial(norm.fused_qk_rmsnorm_group_quant, codes, scale, q, W, 1e-6, **rest)


REFUSED: dict[str, Callable[[], object]] = {
    "q` is of dtype torch.float32": _pair(Q.float(), W.float()),
    r"q` is of shape \[2, 2, 256\]; allowed: \[tokens, K\]": _pair(Q.view(2, 2, 256)),
    r"q_weight` is of shape \[255\]; allowed: \[256\]": _pair(weight=W[1:]),
    r"k` is of shape \[3, 64\]; allowed: \[4, 64\]": _pair(k=K[:3]),
    "k` is of dtype torch.float16": _pair(k=K.half()),
    r"k_weight` is of shape \[256\]; allowed: \[64\]": _pair(k_weight=W),
    r"q_out_unquantized` is of strides \[0, 1\].*do not overlap": _pair(q_out=Q[:1].expand(4, 256)),
    "`q` is None": _group(q=None),
    "group_size` is 96; allowed: 32, 64, 128, 256, for a scale a row": _group(group_size=96),
    "group_size` is 0; allowed": _group(group_size=0),
    r"q_out_scale` is of shape \[4, 2\]; allowed: \[4, 4\]": _group(group_size=64),
    "q_out_quantized` is None; allowed: a tensor, as q_out_scale is given": _group(None),
    "q_out_unquantized` is None; allowed: a tensor, where nothing is quantised": _group(None, None),
    "q_res_out` is None; allowed: a tensor, as q_residual is given": _group(q_residual=Q),
    "q_res_out` is a tensor; allowed: None, as q_residual is": _group(q_res_out=Q),
    "k_out` is None; allowed: a tensor, as k is given": _group(k=K, k_weight=W[:64], k_epsilon=1e-6),
    "k_epsilon` is None": _group(k=K, k_weight=W[:64], k_out=K),
    r"q_out_scale` is of strides \[1, 4\]; allowed: contiguous": _group(scale=torch.zeros(2, 4).T),
    "inp1_weight` is of shape": lambda: norm.fused_rms_fp8_group_quant(Q, W[1:], 1e-6),
    "inp2` is of dtype torch.float16": lambda: norm.fused_rms_fp8_group_quant(Q, W, 1e-6, K.half(), W[:64], 1e-6),
    r"res1` is of shape \[3, 256\]": lambda: norm.fused_rms_fp8_group_quant(Q, W, 1e-6, res1=Q[:3]),
    r"inp1` is of shape \[4, 255\]; .*Pad": lambda: norm.fused_rms_fp8_group_quant(Q[:, 1:], W[1:], 1e-6),
    "quant_type` is per_Tensor; allowed: No, per_Token": lambda: norm.fused_qk_rmsnorm(
        FP8, SCALE, Q, W, quant_type=QuantType.per_Tensor
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_the_table_refuses_in_words() -> None:
    def said(**given: Any) -> str:
        return str(dispatch.decide(tables.PAIR_TABLE, tables.PairNormProblem(4, **given), resolve("h200")))

    assert "no multiple of the group, 128" in said(row_width=200, group_size=128)
    assert "there are no codes" in said(row_width=200, both=True)


def test_the_operator_is_traced_with_its_writes() -> None:
    written = ("q_out_quantized", "q_out_scale", "q_out_unquantized", "q_res_out", "k_out")
    assert ops.PAIR.mutates == written
    given = operands_of(Case(3, 64))
    args = (given.x, given.weight, 1e-6, None, None, given.x.clone(), *[None] * 4, 0.0, None, 0, False, False)
    torch.library.opcheck(ops.PAIR.overload, args, test_utils=("test_schema", "test_faketensor"))


def test_a_compiled_function_has_the_same_bits() -> None:
    given, other = operands_of(Case(3, 128, with_add=True)), operands_of(Case(3, 64), 1)

    def layer(x: Any, k: Any) -> tuple[Any, ...]:
        q, k = norm._fused_qk_rmsnorm(None, x, given.weight, 1e-6, None, k, other.weight, 1e-6)
        (codes, scales), _, _, total = norm.fused_rms_fp8_group_quant(q, given.weight, 1e-6, res1=x)
        return q, k, codes, scales, total

    results = [f(given.x, other.x) for f in (layer, torch.compile(layer, fullgraph=True, backend="aot_eager"))]
    assert all(same(a, b) for a, b in zip(*results, strict=True))
