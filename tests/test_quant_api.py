"""The public names of quantisation: upstream's signatures, enumerations, what is refused and with which remedy."""

from __future__ import annotations

import inspect
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from quant_cases import CODES, rows_of, same  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch, quant  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.ops import quant as ops  # noqa: E402
from aiterlite.quant import QuantType  # noqa: E402
from aiterlite.tables import quant as tables  # noqa: E402
from aiterlite.tables.quant_plan import QuantProblem  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
_LIVE = "num_rows=None, num_rows_factor=1"
SIGNATURES = {
    "dynamic_per_token_scaled_quant": f"out, input, scales, scale_ub=None, shuffle_scale=False, {_LIVE}",
    "dynamic_per_group_scaled_quant": "out, input, scales, group_size=32, shuffle_scale=True, "
    f"{_LIVE}, scale_layout_m32k4=False",
    "dynamic_per_tensor_quant": "out, input, scale",
    "static_per_tensor_quant": "out, input, scale",
    "per_token_quant_hip": f"x, scale=None, quant_dtype=torch.int8, {_LIVE}",
    "per_group_quant_hip": "x, scale=None, quant_dtype=torch.int8, group_size=128, transpose_scale=False, "
    f"{_LIVE}, scale_type=torch.float32, scale_layout_m32k4=False",
    "per_tensor_quant_hip": f"x, scale=None, quant_dtype=torch.int8, {_LIVE}",
    "pertoken_quant": "x, scale=None, x_scale=None, scale_dtype=torch.float32, quant_dtype=torch.int8, dtypeMax=None",
    "per_tensor_quant": "x, scale=None, scale_dtype=torch.float32, quant_dtype=torch.int8, dtypeMax=None",
    "get_hip_quant": "qType",
    "get_torch_quant": "qType",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_upstream_s(name: str) -> None:
    def shown(parameter: inspect.Parameter) -> str:
        default = "" if parameter.default is parameter.empty else f"={parameter.default}"
        return f"{parameter.name}{default}"

    parameters = inspect.signature(getattr(quant, name)).parameters.values()
    assert ", ".join(map(shown, parameters)) == SIGNATURES[name]


def test_kinds_are_upstream_s_numbers() -> None:
    assert aiterlite.QuantType is QuantType and aiterlite.ActivationType is quant.ActivationType
    assert {kind.name: kind.value for kind in QuantType} == {
        **{"No": 0, "per_Tensor": 1, "per_Token": 2, "per_1x32": 3, "per_1x128": 4},
        **{"per_128x128": 5, "per_256x128": 6, "per_1024x128": 7},
    }
    assert {kind.name: kind.value for kind in quant.ActivationType} == {
        **{"No": -1, "Silu": 0, "Gelu": 1, "Swiglu": 2, "Situv2": 3}
    }
    assert QuantType(4) is QuantType.per_1x128 and int(quant.ActivationType.Silu) == 0
    assert set(quant.__all__) >= {*SIGNATURES, "QuantType", "ActivationType"}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("kind", [QuantType.per_Tensor, QuantType.per_Token, QuantType.per_1x128, 4])
def test_kernels_and_torch_give_the_same_bits(kind: QuantType | int, code: str) -> None:
    x = rows_of(9, 384, torch.bfloat16)
    mine, other = (get(kind)(x, quant_dtype=CODES[code]) for get in (quant.get_hip_quant, quant.get_torch_quant))
    assert [part.shape for part in mine] == [part.shape for part in other]
    assert all(same(a, b) for a, b in zip(mine, other, strict=True))
    # int8 is the default, as it is upstream.
    assert quant.get_hip_quant(kind)(x)[0].dtype == torch.int8 == quant.get_torch_quant(kind)(x)[0].dtype
    if kind == QuantType.per_Tensor:
        scale = torch.tensor([0.37])
        mine, other = (
            get(kind)(x, scale, quant_dtype=CODES[code]) for get in (quant.get_hip_quant, quant.get_torch_quant)
        )
        assert all(same(a, b) for a, b in zip(mine, other, strict=True)) and same(mine[1], scale)


@pytest.mark.parametrize("kind", [QuantType.per_Tensor, QuantType.per_Token, QuantType.per_1x32, QuantType.per_1x128])
def test_kernels_and_torch_agree_on_shapes_of_nothing(kind: QuantType) -> None:
    """Of no rows, as a rank without a token has, and of rows of nothing; the scale of no element is a tensor's too."""
    for shape in ((0, 128), (3, 0)):
        x = torch.empty(shape, dtype=torch.bfloat16)
        mine, other = (get(kind)(x) for get in (quant.get_hip_quant, quant.get_torch_quant))
        assert [(part.shape, part.dtype) for part in mine] == [(part.shape, part.dtype) for part in other]
        assert kind != QuantType.per_Tensor or same(mine[1], other[1])


def test_a_kind_of_no_quantisation_returns_what_it_got() -> None:
    x = torch.ones(2, 3)
    for get in (quant.get_hip_quant, quant.get_torch_quant):
        assert get(QuantType.No)(x, quant_dtype=torch.int8) == (x, None)


def test_transposed_scales_report_rows_and_lie_by_groups() -> None:
    """The bytes are those of [K / 128, rows] under the shape and strides of [rows, K / 128]."""
    x = rows_of(5, 384, torch.bfloat16).view(5, 1, 384)
    fp8 = torch.float8_e4m3fn
    codes, scales = quant.get_hip_quant(QuantType.per_1x128)(x, quant_dtype=fp8, transpose_scale=True)
    wanted, plain = quant.get_hip_quant(QuantType.per_1x128)(x, quant_dtype=fp8)
    assert codes.shape == x.shape and scales.shape == plain.shape == (5, 1, 3) and scales.is_contiguous()
    assert same(codes, wanted) and same(scales.view(3, 5).T, plain.view(5, 3))
    # With fewer rows they follow each other without a gap.
    live = torch.tensor([2], dtype=torch.int32)
    _, scales = quant.get_hip_quant(4)(x, quant_dtype=fp8, transpose_scale=True, num_rows=live)
    assert same(scales.view(-1)[:6].view(3, 2).T, plain.view(5, 3)[:2])


def test_rows_of_128_beside_longer_outputs_are_groups() -> None:
    """Upstream's clients reshape x to [-1, 128]."""
    x = rows_of(5, 384, torch.bfloat16)
    wanted, plain = quant.get_torch_quant(QuantType.per_1x128)(x, quant_dtype=torch.float8_e4m3fn)
    for transposed in (False, True):
        out, scales = torch.zeros(5, 384, dtype=torch.float8_e4m3fn), torch.zeros(5, 3)
        quant.dynamic_per_token_scaled_quant(out, x.view(-1, 128), scales, shuffle_scale=transposed)
        assert same(out, wanted) and same(scales.view(3, 5).T if transposed else scales, plain)
    out, scales = torch.zeros(15, 128, dtype=torch.float8_e4m3fn), torch.zeros(15)
    quant.dynamic_per_token_scaled_quant(out, x.view(-1, 128), scales)
    assert same(out.view(5, 384), wanted) and same(scales.view(5, 3), plain)


def test_torch_s_options() -> None:
    x = rows_of(3, 64, torch.float16)[:2].float()
    smooth = torch.linspace(0.5, 2, 64)
    codes, scales = quant.pertoken_quant(x, x_scale=smooth, quant_dtype=torch.float8_e4m3fn, scale_dtype=torch.float64)
    wanted = quant.pertoken_quant(x * smooth, quant_dtype=torch.float8_e4m3fn)
    assert same(codes, wanted[0]) and scales.dtype == torch.float64 and bool((scales.float() == wanted[1]).all())
    codes, scales = quant.pertoken_quant(x, quant_dtype=torch.float8_e4m3fn, dtypeMax=100.0)
    assert float(codes.float().abs().max()) == 96.0 and bool((scales == x.abs().amax(1, keepdim=True) / 100).all())
    assert same(quant.pertoken_quant(x, scales, quant_dtype=torch.float8_e4m3fn)[0], codes)
    assert float(quant.per_tensor_quant(x, dtypeMax=64.0)[0].abs().max()) == 64


X, OUT = torch.zeros(4, 256, dtype=torch.bfloat16), torch.zeros(4, 256, dtype=torch.float8_e4m3fn)
TOKENS, GROUPS = torch.zeros(4, 1), torch.zeros(4, 2)
_token, _group = quant.dynamic_per_token_scaled_quant, quant.dynamic_per_group_scaled_quant


def _counted(tensor: Any) -> Any:
    return lambda: _token(OUT, X, TOKENS, num_rows=tensor)


REFUSED = {
    "input` is of dtype torch.float32": lambda: _token(OUT, X.float(), TOKENS),
    "input` is of no dimension": lambda: _token(OUT, X[0, 0], TOKENS),
    r"input` is of strides \[1, 4\].*Call .contiguous": lambda: _token(OUT, X.view(256, 4).T, TOKENS),
    r"input` is of strides \[512, 4\].*Call .contiguous": lambda: quant.dynamic_per_tensor_quant(
        OUT[:, :128].contiguous(), torch.cat([X, X], 1)[:, ::4], TOKENS[:1]
    ),
    "out` is of dtype torch.float8_e5m2": lambda: _token(OUT.view(torch.float8_e5m2), X, TOKENS),
    "out` is of dtype torch.uint8.*MXFP4 is per_1x32": lambda: _token(OUT.view(torch.uint8), X, TOKENS),
    "group_size` is 128; allowed: 32. A scale of MXFP4": lambda: _group(OUT.view(torch.uint8), X, GROUPS, 128),
    r"out` is of shape \[4, 128\]; allowed: 1024 elements": lambda: _token(OUT[:, :128], X, TOKENS),
    r"out` is of strides \[1, 4\]; allowed: contiguous": lambda: _token(OUT.view(256, 4).T, X, TOKENS),
    "scales` is of dtype torch.float64": lambda: _token(OUT, X, TOKENS.double()),
    "scales` is of dtype torch.uint8.*MXFP8, have no kernel": lambda: _group(OUT, X, GROUPS.byte(), 128),
    r"scales` is of shape \[4, 2\]; allowed: 4 elements": lambda: _token(OUT, X, GROUPS),
    r"scales` is of shape \[4, 1\]; allowed: 8 elements": lambda: _group(OUT, X, TOKENS, 128),
    r"scales` is of strides \[1, 4\]; allowed: contiguous": lambda: _group(OUT, X, GROUPS.view(2, 4).T, 128),
    r"scale` is of shape \[4, 1\]; allowed: 1 element": lambda: quant.static_per_tensor_quant(OUT, X, TOKENS),
    "group_size` is 96; allowed: 32, 64, 128": lambda: _group(OUT, X, GROUPS, 96),
    r"input` is of shape \[4, 96\]; allowed: rows of a multiple of 64. Pad": lambda: _group(
        OUT[:, :96].contiguous(), X[:, :96], GROUPS, 64
    ),
    "scale_layout_m32k4` is True": lambda: _group(OUT, X, GROUPS, 128, scale_layout_m32k4=True),
    "num_rows` is of dtype torch.int64": _counted(torch.zeros(1, dtype=torch.int64)),
    r"num_rows` is of shape \[2\]": _counted(torch.zeros(2, dtype=torch.int32)),
    "num_rows_factor` is 0; allowed: at least 1": lambda: _token(OUT, X, TOKENS, num_rows_factor=0),
    "quant_dtype` is torch.float8_e4m3fn; allowed.*MXFP8": lambda: quant.get_hip_quant(3)(
        X, quant_dtype=torch.float8_e4m3fn
    ),
    "qType` is per_128x128.*kind of weights": lambda: quant.get_torch_quant(QuantType.per_128x128)(X),
    "quant_dtype` is of dtype torch.float8_e5m2": lambda: quant.per_token_quant_hip(X, None, torch.float8_e5m2),
    "per_token_quant_hip: argument `scale` is a tensor.*per_Tensor": lambda: quant.per_token_quant_hip(X, TOKENS),
    "scale_type` is torch.uint8": lambda: quant.per_group_quant_hip(X, scale_type=torch.uint8),
    "per_tensor_quant_hip: argument `num_rows`": lambda: quant.per_tensor_quant_hip(
        X, num_rows=torch.zeros(1, dtype=torch.int32)
    ),
    "x` is of shape.*rows of a multiple of 128": lambda: quant.get_torch_quant(4)(X[:, :100]),
    "block_shape` is": lambda: quant.per_block_quant_wrapper((2, 128)),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


@pytest.mark.parametrize("target", ["gfx942", "gfx950", "sm_90a", "cpu-x86-64-v3"])
@pytest.mark.parametrize("table", [tables.GROUP, tables.TOKEN])
def test_mxfp4_is_another_operator_s_and_mxfp8_none_s(target: str, table: dispatch.Table) -> None:
    for code, said in (("e2m1", r"\(call quant_mxfp4\)"), ("e4m3fn", r"MXFP8 has no kernel \(quantise per_1x128")):
        problem = QuantProblem(4, 256, 32, out_dtype=code, scale_dtype="e8m0")
        decision = dispatch.decide(table, problem, resolve(target))
        assert decision.row is None
        with pytest.raises(DispatchError, match=said):
            dispatch.require(decision, dispatch.Wishes())


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.TOKEN.mutates == ops.GROUP.mutates == ("out", "scales")
    assert ops.TENSOR.mutates == ("out", "scale") and ops.STATIC.mutates == ("out",)
    with torch.device("meta"):
        codes, scales = quant.get_hip_quant(4)(torch.empty(3, 256, dtype=torch.bfloat16))
    assert codes.shape == (3, 256) and scales.shape == (3, 2) and codes.is_meta
