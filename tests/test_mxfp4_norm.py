"""RMSNorm with results of MXFP4, on a CPU, emulated on both AMD targets with all sanitizers, as sm_90 would run it on
the host, and on a GPU: the bits of its parts, and nothing written beside them."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from gemm_operands import on  # noqa: E402
from hostsim_launch import simulate  # noqa: E402
from mxfp4_cases import assert_codes, in_turns, shuffled  # noqa: E402
from quant_cases import Ringed, strided_like  # noqa: E402

from aiterlite import dispatch, mxfp4, norm  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.ops import mxfp4_norm as ops  # noqa: E402
from aiterlite.reference import mxfp4 as reference  # noqa: E402
from aiterlite.tables import mxfp4_norm as tables  # noqa: E402
from aiterlite.tables.mx_types import rule  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    if hasattr(request.node, "callspec") and str(request.node.callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


def rows_of(rows: int, width: int, dtype: Any, pad: int = 0, seed: int = 0) -> Any:
    """Random rows, one of zeros, one with a NaN, one with an infinity; NaN between them."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows, width, generator=generator)
    values[:, ::17] *= 20
    for row, change in ((1, lambda v: v.zero_()), (2, lambda v: v[3:4].fill_(float("nan")))):
        if rows > row:
            change(values[row])
    storage = torch.full((rows * (width + pad),), float("nan"), dtype=dtype)
    return torch.as_strided(storage, (rows, width), (width + pad, 1)).copy_(values.to(dtype))


# rows, width, and options: a residual, an unquantised result, how scales lie, padding between rows.
CASES: list[tuple[int, int, dict[str, Any]]] = [
    (5, 7168, {"add": True, "plain": True}),
    (3, 544, {"layout": "shuffled", "add": True}),
    (35, 32, {"layout": "columns", "plain": True}),
    (33, 1536, {"layout": "shuffled"}),
    (4, 96, {"pad": 3, "add": True, "layout": "shuffled"}),
    (2, 16896, {"add": True, "plain": True, "layout": "columns"}),
    (1, 20480, {}),
]


@pytest.mark.parametrize(("number", "target"), in_turns(len(CASES)))
def test_a_call_has_the_bits_of_its_parts(number: int, target: str) -> None:
    rows, width, given = CASES[number]
    dtype, mode = (torch.float16 if number == 3 else torch.bfloat16), number % 4
    layout, pad = given.get("layout", "rows"), given.get("pad", 0)
    x, residual = rows_of(rows, width, dtype, pad), rows_of(rows, width, dtype, pad, 1)
    with on(target) as device:
        x, residual = strided_like(x, device), strided_like(residual, device) if given.get("add") else None
        weight = torch.randn(width, generator=torch.Generator().manual_seed(2)).to(dtype).to(device)
        wanted, total = norm_of(x, residual, weight)
        codes = Ringed.of((rows, width // 2), torch.uint8, device)
        blocks = width // 32
        shapes = {"rows": (rows, blocks), "columns": (blocks, rows), "shuffled": (256, -(-blocks // 8) * 8)}
        scales = Ringed.of(shapes[layout], torch.uint8, device)
        written = scales.inner.T if layout == "columns" else scales.inner
        sums = None if residual is None else Ringed.of((rows, width), dtype, device)
        plain = Ringed.of((rows, width), dtype, device) if given.get("plain") else None
        of = [None if tensor is None else tensor.inner for tensor in (sums, plain)]
        ops.QUANT(x, weight, 1e-6, residual, *of, codes.inner, written, mode, layout == "shuffled")
    wanted = wanted.cpu()
    right = reference.quantise(wanted, mode)
    assert_codes(codes.inner, right[0], "codes")
    assert_codes(written, shuffled(right[1], 256) if layout == "shuffled" else right[1], "scales")
    for found, value in ((sums, total), (plain, wanted)):
        if found is not None:
            assert torch.equal(found.inner.cpu().view(torch.int16), value.cpu().view(torch.int16))
            assert found.ring_is_whole
    assert codes.ring_is_whole and scales.ring_is_whole


def norm_of(x: Any, residual: Any, weight: Any) -> tuple[Any, Any]:
    if residual is None:
        return norm.rms_norm(x, weight, 1e-6), None
    out, total = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for _ in range(2))
    norm.rmsnorm2d_fwd_with_add(out, x, residual, total, weight, 1e-6)
    return out, total


@pytest.mark.parametrize(("rows", "width", "given"), [(3, 544, {"layout": "shuffled", "add": True, "plain": True})])
def test_on_the_host_as_hopper_would(rows: int, width: int, given: dict[str, Any], tmp_path: Path) -> None:
    """Rows whose roots are exact: no norm is near a rounding."""
    problem = tables.MxNormProblem(rows, width, **given)
    generator = torch.Generator().manual_seed(0)
    x = (torch.randint(0, 2, (rows, width), generator=generator) * 2.0 - 1).to(torch.bfloat16)
    weight = torch.randn(width, generator=generator).to(torch.bfloat16)
    tensors = {
        "x": x,
        "weight": weight,
        "residual_in": torch.zeros_like(x),
        "residual_out": torch.ones_like(x) * 7,
        "plain": torch.ones_like(x) * 7,
        "out": torch.full((rows, width // 2), 7, dtype=torch.uint8),
        "scales": torch.full((256, problem.blocks_of_scales), 7, dtype=torch.uint8),
    }
    strides = {f"stride_{name}": width for name in ("x", "in", "sum", "plain")}
    sizes = {**strides, "stride_row": 0, "stride_block": 0, "epsilon": 0.0, **rule(2)}
    for kernel in dispatch.decide(tables.RMS_QUANT_TABLE, problem, resolve("h100")).kernels:
        simulate(kernel, tensors, sizes, tmp_path)
    wanted = (x.float() * weight.float()).to(torch.bfloat16)
    right = reference.quantise(wanted, 2)
    assert torch.equal(tensors["residual_out"], x) and torch.equal(tensors["plain"], wanted)
    assert_codes(tensors["out"], right[0], "codes")
    assert_codes(tensors["scales"], shuffled(right[1], 256), "scales")


def test_the_name_is_upstream_s() -> None:
    wanted = (
        "x1, x1_weight, x1_epsilon, x2=None, x2_weight=None, x2_epsilon=0.0, res1=None, shuffle=False, "
        "scale_shuffle_padding=False, output_unquantized_inp1=False, inargs=auto"
    )
    parameters = inspect.signature(mxfp4.fused_rms_mxfp4_quant).parameters.values()
    shown = ", ".join(p.name + ("" if p.default is p.empty else f"={p.default}") for p in parameters)
    assert shown == wanted


def test_four_results_of_which_three_may_be_none() -> None:
    x, y = rows_of(5, 96, torch.bfloat16), rows_of(5, 64, torch.bfloat16, seed=3)
    weight, other = torch.ones(96).bfloat16(), torch.ones(64).bfloat16()
    right = reference.quantise(norm.rms_norm(x, weight, 1e-6), 2)
    (codes, scales), *rest = mxfp4.fused_rms_mxfp4_quant(x, weight, 1e-6)
    assert rest == [None, None, None] and codes.dtype == scales.dtype == torch.uint8
    assert_codes(codes, right[0], "codes")
    assert_codes(scales, right[1], "scales")
    (_, padded), plain, second, total = mxfp4.fused_rms_mxfp4_quant(
        x, weight, 1e-6, y, other, 1e-5, torch.zeros_like(x), False, True, True
    )
    assert padded.shape == (256, 8) and torch.equal(padded[:5, :3], right[1]) and not padded[5:].any()
    assert plain is not None and second is not None and total is not None
    assert torch.equal(second[:2], norm.rms_norm(y, other, 1e-5)[:2]) and torch.equal(total[:2], x[:2])
    (codes, scales), *_ = mxfp4.fused_rms_mxfp4_quant(torch.empty(0, 96).bfloat16(), weight, 1e-6, shuffle=True)
    assert codes.shape == (0, 48) and scales.shape == (0, 8)


X, W = torch.zeros(4, 96).bfloat16(), torch.zeros(96).bfloat16()
REFUSED = {
    r"x1` is of shape \[4, 80\]; allowed: rows of a multiple of 32": lambda: mxfp4.fused_rms_mxfp4_quant(
        X[:, :80], W[:80], 1e-6
    ),
    r"x1_weight` is of shape \[80\]": lambda: mxfp4.fused_rms_mxfp4_quant(X, W[:80], 1e-6),
    "x1_weight` is of dtype torch.float16": lambda: mxfp4.fused_rms_mxfp4_quant(X, W.half(), 1e-6),
    "x2_weight` is None; allowed: as x2 is": lambda: mxfp4.fused_rms_mxfp4_quant(X, W, 1e-6, X),
    r"res1` is of shape \[2, 96\]": lambda: mxfp4.fused_rms_mxfp4_quant(X, W, 1e-6, res1=X[:2]),
    "inargs` is 'fast'": lambda: mxfp4.fused_rms_mxfp4_quant(X, W, 1e-6, inargs="fast"),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_rows_of_no_whole_blocks_have_no_kernel() -> None:
    decision = dispatch.decide(tables.RMS_QUANT_TABLE, tables.MxNormProblem(4, 100), resolve("mi355x"))
    with pytest.raises(DispatchError, match="row_width, 100, is no multiple of the block, 32"):
        dispatch.require(decision, dispatch.Wishes())


@pytest.mark.parametrize("chip", ["mi355x", "h200"])
def test_padding_has_teams_too(chip: str) -> None:
    for rows, width in ((1, 7168), (300, 96)):
        plan = dispatch.decide(
            tables.RMS_QUANT_TABLE, tables.MxNormProblem(rows, width, layout="shuffled"), resolve(chip)
        ).plan
        assert plan.grid * (plan.threads // plan.lanes) >= -(-rows // 256) * 256
    # Where rows are more than the chip holds, each is alone, too.
    crowded = tables.MxNormProblem(4096, 7168)
    plan = dispatch.decide(tables.RMS_QUANT_TABLE, crowded, resolve(chip)).plan
    assert plan.batch == 1 and plan.grid == 4096
