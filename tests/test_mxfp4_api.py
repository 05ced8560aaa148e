"""The names of MXFP4's quantisers and shuffles: upstream's arguments and default modes, what is refused, in words, and
the order of weights and scales."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mxfp4_cases import assert_codes, rows_of, shuffled  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch, mxfp4, quant  # noqa: E402
from aiterlite.compat import aiter_values  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.jit import engine, toolchain  # noqa: E402
from aiterlite.ops import mxfp4 as ops  # noqa: E402
from aiterlite.reference import mxfp4 as reference  # noqa: E402
from aiterlite.tables import mx_types  # noqa: E402
from aiterlite.tables import mxfp4_norm as norms  # noqa: E402
from aiterlite.tables import mxfp4_quant as tables  # noqa: E402
from aiterlite.tables import mxfp4_sort as sorts  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
FP4, E8M0 = torch.float4_e2m1fn_x2, torch.float8_e8m0fnu
_LIVE, _FP4 = "num_rows=None, num_rows_factor=1", "quant_dtype=torch.float4_e2m1fn_x2"
_FLAGS = "e8m0_shuffle=False, a16w4_shuffle=False, gate_up=False, shuffle_weight=False"
SIGNATURES = {
    "per_1x32_f4_quant": f"x, scale=None, {_FP4}, shuffle=False, pack_dim=-1, round_mode=1",
    "per_1x32_f4_quant_hip": f"x, scale=None, {_FP4}, shuffle=False, {_LIVE}",
    "per_1x32_mx_quant_hip": f"x, scale=None, {_FP4}, shuffle=False, {_LIVE}, scale_type=None",
    "per_1x32_f4_quant_triton": f"x, scale=None, {_FP4}, shuffle=False",
    "quant_mxfp4": f"inp, out_packed, out_scale, group_size=32, round_mode=0, {_FLAGS}",
    "quant_mxfp4_hip": f"x, group_size=32, round_mode=1, {_FLAGS}",
    "dynamic_per_group_scaled_quant_fp4": f"out, input, scales, group_size=32, shuffle_scale=True, {_LIVE}",
    "dynamic_mxfp4_quant": "x, scaling_mode=even",
    "utility_dynamic_mxfp4_quant": "x, scaling_mode=even, shuffle=False",
    "fused_flatten_mxfp4_quant": "x",
    "act_mul_and_mxfp4_quant": "x, activation, scaling_mode=even, shuffle=False, scale_shuffle_padding=False",
    "shuffle_scale": "src, experts_cnt=None, is_guinterleave=False, gate_up=False",
    "e8m0_shuffle": "scale",
}


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_are_upstream_s(name: str) -> None:
    def shown(parameter: inspect.Parameter) -> str:
        default = parameter.default
        default = int(default) if isinstance(default, mxfp4.MxScaleRoundMode) else default
        return parameter.name + ("" if default is parameter.empty else f"={default}")

    parameters = inspect.signature(getattr(mxfp4, name)).parameters.values()
    assert ", ".join(map(shown, parameters)) == SIGNATURES[name]


def test_modes_are_upstream_s_numbers() -> None:
    wanted = {"RoundDown": 0, "RoundUp": 1, "Even": 2, "Ceil": 3}
    assert {mode.name: mode.value for mode in mxfp4.MxScaleRoundMode} == wanted
    assert mxfp4.MX_DEFAULT_ROUND_MODE == 1 and aiterlite.MxScaleRoundMode is mxfp4.MxScaleRoundMode


X = rows_of(35, 96, torch.bfloat16, 3)


def by(mode: int) -> tuple[Any, Any]:
    return reference.quantise(X, mode)


def written(call: Any, **given: Any) -> tuple[Any, Any]:
    out, scales = torch.zeros(35, 48, dtype=torch.uint8), torch.zeros(35, 3, dtype=torch.uint8)
    call(out, scales, **given)
    return out, scales


# What each name returns of X in order, by which mode.
CALLS: dict[str, tuple[int, Any]] = {
    "per_1x32_f4_quant": (1, lambda: mxfp4.per_1x32_f4_quant(X)),
    "per_1x32_f4_quant, even": (2, lambda: mxfp4.per_1x32_f4_quant(X, round_mode=2)),
    "per_1x32_f4_quant_hip": (1, lambda: mxfp4.per_1x32_f4_quant_hip(X)),
    "per_1x32_mx_quant_hip": (1, lambda: mxfp4.per_1x32_mx_quant_hip(X, scale_type=E8M0)),
    "per_1x32_f4_quant_triton": (2, lambda: mxfp4.per_1x32_f4_quant_triton(X)),
    "quant_mxfp4": (0, lambda: written(lambda o, s: mxfp4.quant_mxfp4(X, o, s))),
    "quant_mxfp4, ceil": (3, lambda: written(lambda o, s: mxfp4.quant_mxfp4(X, o.view(FP4), s.view(E8M0), 32, 3))),
    "quant_mxfp4_hip": (1, lambda: mxfp4.quant_mxfp4_hip(X)),
    "quant_mxfp4_hip, down": (0, lambda: mxfp4.quant_mxfp4_hip(X, 32, mxfp4.MxScaleRoundMode.RoundDown)),
    "dynamic_per_group_scaled_quant_fp4": (
        1,
        lambda: written(lambda o, s: quant.dynamic_per_group_scaled_quant_fp4(o, X, s, shuffle_scale=False)),
    ),
    "dynamic_per_group_scaled_quant": (
        1,
        lambda: written(lambda o, s: quant.dynamic_per_group_scaled_quant(o.view(FP4), X, s, 32, False)),
    ),
    "dynamic_mxfp4_quant": (2, lambda: mxfp4.dynamic_mxfp4_quant(X)),
    "dynamic_mxfp4_quant, rceil": (1, lambda: mxfp4.dynamic_mxfp4_quant(X, "rceil")),
    "utility_dynamic_mxfp4_quant": (2, lambda: mxfp4.utility_dynamic_mxfp4_quant(X)),
    "get_hip_quant": (1, lambda: quant.get_hip_quant(quant.QuantType.per_1x32)(X)),
    "get_torch_quant": (1, lambda: quant.get_torch_quant(3)(X)),
    "get_triton_quant": (2, lambda: quant.get_triton_quant(3)(X)),
}


@pytest.mark.parametrize("name", CALLS)
def test_each_name_has_its_mode(name: str) -> None:
    mode, call = CALLS[name]
    codes, scales = call()
    wanted = by(mode)
    assert_codes(codes, wanted[0], "codes")
    assert_codes(scales, wanted[1], "scales")
    assert not torch.equal(by(1)[1], by(2)[1]) and not torch.equal(by(0)[1], by(2)[1])


def test_results_are_of_upstream_s_types_and_strides() -> None:
    codes, scales = mxfp4.dynamic_mxfp4_quant(X)
    assert codes.dtype == scales.dtype == torch.uint8 and scales.shape == (35, 3) and scales.stride() == (1, 35)
    for call in (mxfp4.per_1x32_f4_quant, mxfp4.per_1x32_f4_quant_hip, mxfp4.utility_dynamic_mxfp4_quant):
        codes, scales = call(X, shuffle=True)
        assert (codes.dtype, scales.dtype) == (FP4, E8M0) and codes.shape == (35, 48) and scales.shape == (256, 8)
    codes, scales = mxfp4.per_1x32_f4_quant(X.view(5, 7, 96))
    assert codes.shape == (5, 7, 48) and scales.shape == (35, 3)
    codes, scales = mxfp4.per_1x32_f4_quant_hip(X.view(5, 7, 96))
    assert codes.shape == (5, 7, 48) and scales.shape == (5, 7, 3)
    codes, scales = mxfp4.per_1x32_f4_quant(X.T.contiguous(), pack_dim=0)
    assert_codes(codes.view(torch.uint8).T.contiguous(), by(1)[0], "codes")
    assert_codes(scales.view(torch.uint8).T.contiguous(), by(1)[1], "scales")
    for kind in (1, 2, 4):
        x = torch.randn(3, 256).bfloat16()
        for mine, other in zip(quant.get_triton_quant(kind)(x), quant.get_hip_quant(kind)(x), strict=True):
            assert torch.equal(mine, other)


# The order of weights and scales --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("rows", "blocks"), [(1, 1), (256, 8), (300, 13), (96, 224)])
def test_scales_lie_by_the_published_formula_and_padding_is_zero(rows: int, blocks: int) -> None:
    scale = torch.randint(1, 256, (rows, blocks), dtype=torch.uint8)
    found = mxfp4.shuffle_scale(scale)
    padded = (-(-rows // 256) * 256, -(-blocks // 8) * 8)
    assert found.shape == padded and torch.equal(found, shuffled(scale, padded[0]))
    assert int((found != 0).sum()) == rows * blocks
    assert torch.equal(mxfp4.unshuffle_scale(found, rows, blocks), scale)
    assert torch.equal(mxfp4.e8m0_shuffle(scale.view(E8M0)).view(torch.uint8), found)
    assert mxfp4.unshuffle_scale(found.view(E8M0)).shape == padded


def test_what_is_no_scale_of_mxfp4_is_returned() -> None:
    scale = torch.ones(3, 4)
    assert mxfp4.shuffle_scale(scale) is scale and mxfp4.shuffle_scale(None) is None


@pytest.mark.parametrize("shape", [(16, 32), (32, 96), (2, 48, 64)])
def test_weights_lie_by_the_published_formula(shape: tuple[int, ...]) -> None:
    weight = torch.randint(0, 256, shape, dtype=torch.uint8)
    found = mxfp4.shuffle_weight(weight.view(FP4))
    assert found.dtype == FP4 and found.is_shuffled and found.shape == shape
    rows, width = shape[-2:]
    n, k = torch.meshgrid(torch.arange(rows), torch.arange(width), indexing="ij")
    at = n // 16 * 16 * width + k // 32 * 512 + k % 32 // 16 * 256 + n % 16 * 16 + k % 16
    for mine, given in zip(found.view(torch.uint8).view(-1, rows * width), weight.view(-1, rows * width), strict=True):
        assert torch.equal(mine[at.flatten()], given)
    assert torch.equal(mxfp4.unshuffle_weight(found).view(torch.uint8), weight)


def test_weights_are_quantised_and_shuffled_at_once() -> None:
    x = rows_of(48, 128, torch.bfloat16, 5)
    codes, scales = mxfp4.quant_mxfp4_hip(x, 32, 2, e8m0_shuffle=True, shuffle_weight=True)
    wanted = reference.quantise(x, 2)
    assert torch.equal(codes.view(torch.uint8), mxfp4.shuffle_weight(wanted[0])) and codes.is_shuffled
    assert torch.equal(scales.view(torch.uint8), mxfp4.shuffle_scale(wanted[1]))


def test_values_of_codes_and_scales() -> None:
    every = torch.arange(256, dtype=torch.uint8)
    numbers = aiter_values.mxfp4_to_f32(every.view(FP4))
    assert numbers[:14].tolist() == [0.0, 0.0, 0.5, 0.0, 1.0, 0.0, 1.5, 0.0, 2.0, 0.0, 3.0, 0.0, 4.0, 0.0]
    assert torch.equal(aiter_values.f32_to_mxfp4(numbers).view(torch.uint8), every)
    # The shell type's own conversion, exact for all bytes.
    assert torch.equal(aiter_values.e8m0_to_f32(every.view(E8M0))[:255], every.view(E8M0).float()[:255])
    assert bool(aiter_values.e8m0_to_f32(every)[255:].isnan())


def test_kernels_have_the_modes_of_the_reference() -> None:
    """The carry of a mode is what its limit lacks to the next exponent."""
    for mode, (limit, least, _) in reference._RULES.items():
        assert mx_types.rule(mode) == {"carry": 0x800000 - limit, "least": least}


# What is refused ------------------------------------------------------------------------------------------------------

OUT, SCALES = torch.zeros(35, 48, dtype=torch.uint8), torch.zeros(35, 3, dtype=torch.uint8)
PADDED = torch.zeros(256, 8, dtype=torch.uint8)
REFUSED = {
    "input` is of dtype torch.float32": lambda: mxfp4.quant_mxfp4(X.float(), OUT, SCALES),
    r"input` is of shape \[35, 80\]; allowed: rows of a multiple of 32": lambda: mxfp4.quant_mxfp4(
        X[:, :80], OUT, SCALES
    ),
    "input` is of strides": lambda: mxfp4.quant_mxfp4(X.T.contiguous().T, OUT, SCALES),
    "out_packed` is of dtype torch.int8": lambda: mxfp4.quant_mxfp4(X, OUT.view(torch.int8), SCALES),
    r"out_packed` is of shape \[35, 47\]; allowed: 1680 bytes": lambda: mxfp4.quant_mxfp4(X, OUT[:, :47], SCALES),
    "out_packed` is of strides": lambda: mxfp4.quant_mxfp4(X, OUT.T.contiguous().T, SCALES),
    "out_scale` is of dtype torch.float32": lambda: mxfp4.quant_mxfp4(X, OUT, SCALES.float()),
    r"out_scale` is of shape \[35, 2\]": lambda: mxfp4.quant_mxfp4(X, OUT, SCALES[:, :2]),
    "out_scale` is of strides.*do not overlap": lambda: mxfp4.quant_mxfp4(X, OUT, SCALES[:1].expand(35, 3)),
    r"out_scale` is of shape \[35, 3\]; allowed: 8 bytes for each of 35 rows": lambda: mxfp4.quant_mxfp4(
        X, OUT, SCALES, e8m0_shuffle=True
    ),
    r"out_scale` is of shape \[32, 8\]; allowed: 8 bytes": lambda: mxfp4.quant_mxfp4(
        X, OUT, PADDED[:32], e8m0_shuffle=True
    ),
    "out_scale` is at no multiple of 16 bytes": lambda: mxfp4.quant_mxfp4(
        X, OUT, torch.zeros(64 * 8 + 1, dtype=torch.uint8)[1:].view(64, 8), e8m0_shuffle=True
    ),
    "group_size` is 64; allowed: 32": lambda: mxfp4.quant_mxfp4_hip(X, 64),
    "round_mode` is 4; allowed: 0 \\(RoundDown\\)": lambda: mxfp4.quant_mxfp4_hip(X, round_mode=4),
    "a16w4_shuffle` is True": lambda: mxfp4.quant_mxfp4_hip(X, a16w4_shuffle=True),
    "shuffle_weight` is True; allowed: False without e8m0_shuffle": lambda: mxfp4.quant_mxfp4_hip(
        X, shuffle_weight=True
    ),
    "num_rows` is of dtype torch.int64": lambda: mxfp4.per_1x32_f4_quant_hip(X, num_rows=torch.zeros(1).long()),
    "num_rows_factor` is 0": lambda: mxfp4.per_1x32_f4_quant_hip(X, num_rows_factor=0),
    "scale` is a tensor; allowed: None": lambda: mxfp4.per_1x32_f4_quant_hip(X, SCALES),
    "scale_type` is torch.float32": lambda: mxfp4.per_1x32_mx_quant_hip(X, scale_type=torch.float32),
    "quant_dtype` is torch.int8": lambda: mxfp4.per_1x32_f4_quant(X, quant_dtype=torch.int8),
    "pack_dim` is 1": lambda: mxfp4.per_1x32_f4_quant(X, pack_dim=1),
    "scaling_mode` is 'odd'; allowed: even": lambda: mxfp4.dynamic_mxfp4_quant(X, "odd"),
    r"x` is of shape \[5, 7, 96\]": lambda: mxfp4.dynamic_mxfp4_quant(X.view(5, 7, 96)),
    r"x` is of shape \[35, 96\]; allowed: \[M, N1, N2\]": lambda: mxfp4.fused_flatten_mxfp4_quant(X),
    "x` is of shape.*multiple of 64, gates": lambda: mxfp4.act_mul_and_mxfp4_quant(X, "silu"),
    "activation` is 'relu'": lambda: mxfp4.act_mul_and_mxfp4_quant(X[:, :64].contiguous(), "relu"),
    r"src` is of shape \[2, 3, 4\].*one matrix": lambda: mxfp4.shuffle_scale(torch.zeros(2, 3, 4).byte()),
    "src` is of dtype torch.bfloat16": lambda: mxfp4.shuffle_scale(X),
    "is_guinterleave` is True.*Interleave rows": lambda: mxfp4.shuffle_scale(SCALES, 1, True),
    r"unshuffle_scale: argument `scale` is of shape \[35, 3\]": lambda: mxfp4.unshuffle_scale(SCALES),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_does_not_fit_is_refused_in_words(said: str) -> None:
    with pytest.raises(ArgumentError, match=said):
        REFUSED[said]()


def test_operators_are_traced_with_their_writes() -> None:
    assert ops.QUANT.mutates == ops.ACT_QUANT.mutates == ("out_packed", "out_scale")
    with torch.device("meta"):
        codes, scales = mxfp4.per_1x32_f4_quant_hip(torch.empty(3, 256, dtype=torch.bfloat16), shuffle=True)
    assert codes.shape == (3, 128) and scales.shape == (256, 8) and codes.is_meta


# Plans ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chip", ["mi300x", "mi308x", "mi355x", "h200", "h100"])
def test_tiles_hold_every_row_and_all_padding(chip: str) -> None:
    for rows, width, layout in (
        (1, 32, "rows"),
        (33, 7168, "columns"),
        (300, 288, "shuffled"),
        (4096, 7168, "shuffled"),
    ):
        decision = dispatch.decide(tables.QUANT_TABLE, tables.MxQuantProblem(rows, width, layout=layout), resolve(chip))
        tiles = -(-rows // 256) * 8 if layout == "shuffled" else -(-rows // 32)
        assert decision.plan.grid == tiles * -(-width // 256)
        assert decision.plan.early == (decision.plan.grid * 256 <= 1024 * resolve(chip).cu_count)
        assert decision.kernels[0].overlaps == (resolve(chip).target == "sm_90a")


def test_what_no_kernel_serves_is_refused_in_words() -> None:
    odd = [
        (tables.MxQuantProblem(4, 100), "row_width, 100, is no multiple of the block, 32"),
        (tables.MxQuantProblem(2**31 - 1, 2**20), "more than 2\\^30 tiles"),
        (tables.MxQuantProblem(4, 64, dtype="fp32"), "dtype"),
    ]
    for problem, said in odd:
        for chip in ("mi355x", "h200", "cpu-x86-64-v3"):
            decision = dispatch.decide(tables.QUANT_TABLE, problem, resolve(chip))
            assert decision.row is None
            with pytest.raises(aiterlite.errors.DispatchError, match=said):
                dispatch.require(decision, dispatch.Wishes())


SPILLS: list[tuple[Any, Any]] = [
    (tables.QUANT_TABLE, tables.MxQuantProblem(4096, 7168, "fp16", "columns")),
    (tables.QUANT_TABLE, tables.MxQuantProblem(4096, 7168, layout="shuffled")),
    (tables.ACT_QUANT_TABLE, tables.MxActProblem(4096, 2048, activation="gelu")),
    (norms.RMS_QUANT_TABLE, norms.MxNormProblem(4096, 7168, add=True, plain=True)),
    (sorts.SORT_TABLE, sorts.MxSortProblem(4096, 7168, entries=8192)),
]


@pytest.mark.parametrize(
    "chip",
    [
        pytest.param("gfx942", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("gfx950", marks=pytest.mark.skipif(toolchain.find("amd") is None, reason="no AMDGPU clang")),
        pytest.param("sm_90a", marks=pytest.mark.nvcc),
    ],
)
def test_nothing_goes_through_scratch(chip: str) -> None:
    for table, problem in SPILLS if chip == "sm_90a" else SPILLS[1::2]:
        for kernel in dispatch.decide(table, problem, resolve(chip)).kernels:
            used = engine.obtain(kernel.unit, build=True).entry.meta["resources"][kernel.symbol]
            spilled = ("vgpr_spills", "scratch_bytes", "spill_store_bytes", "spill_load_bytes", "stack_bytes")
            assert used and not any(used.get(name) for name in spilled), f"{kernel}: {used}"


GOLDEN = Path(__file__).parent / "golden" / "mxfp4.txt"


def golden_text() -> str:
    """What each persona takes: for a token and a prefill, of each operator, and what is refused."""
    lines = []
    for chip in ("mi300x", "mi308x", "mi355x", "h200", "h100", "cpu-x86-64-v4", "a100"):
        for rows in (1, 4096):
            problems = [
                (tables.QUANT_TABLE, tables.MxQuantProblem(rows, 7168, layout=layout))
                for layout in ("rows", "columns", "shuffled")
            ]
            problems += [
                (tables.ACT_QUANT_TABLE, tables.MxActProblem(rows, 2048)),
                (norms.RMS_QUANT_TABLE, norms.MxNormProblem(rows, 7168, add=True)),
                (norms.RMS_QUANT_TABLE, norms.MxNormProblem(rows, 1536, layout="shuffled")),
                (sorts.QUANT_SORT_TABLE, sorts.MxQuantSortProblem(rows, 7168, entries=8192)),
            ]
            for table, problem in problems:
                decision = dispatch.decide(table, problem, resolve(chip))
                told = "; ".join(str(kernel) for kernel in decision.kernels) or str(decision).partition("\n")[2].strip()
                row = decision.row.name if decision.row else "none"
                lines.append(f"{chip} {problem}: {row}, {told}")
    return "\n".join(lines) + "\n"


def test_decisions_are_the_golden_ones() -> None:
    """After a change of a table or a plan, read the difference, then write `golden_text()` to the file."""
    assert golden_text().splitlines() == GOLDEN.read_text().splitlines()
