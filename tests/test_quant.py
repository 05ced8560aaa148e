"""Quantisation on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: the reference's bits, for
every 16-bit value, zeros, NaN, infinities and subnormal numbers, and nothing written beside them."""

from __future__ import annotations

import math
import platform
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from gemm_operands import TARGETS, on  # noqa: E402
from quant_cases import (  # noqa: E402
    CODES,
    DTYPES,
    encoded,
    every_value,
    rows_of,
    run_groups,
    run_static,
    run_tensor,
    run_tokens,
)

from aiterlite import emulator  # noqa: E402
from aiterlite.ops import quant as ops  # noqa: E402
from aiterlite.reference import quant as reference  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
both = pytest.mark.parametrize(("dtype", "code"), [(d, c) for d in DTYPES for c in CODES])
# The least CPU of this kind too: it has no instruction for half of what others do.
LEAST = pytest.param(
    "cpu-x86-64", marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="not a CPU of this kind")
)
where = pytest.mark.parametrize("target", [*TARGETS, LEAST])


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    if str(request.node.callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# The reference --------------------------------------------------------------------------------------------------------


@both
def test_the_reference_rounds_as_the_formats_are_defined(dtype: str, code: str) -> None:
    x = every_value(DTYPES[dtype])
    wanted = encoded(x.double().numpy(), CODES[code])
    codes = reference.encode(x.float(), CODES[code]).view(torch.uint8).numpy()
    np.testing.assert_array_equal(codes, wanted)
    # The top binade, its last step too, and what lies beyond it.
    largest = reference.LARGEST[CODES[code]]
    assert float(reference.encode(torch.tensor([largest * 1.001]), CODES[code]).float()) == largest
    assert float(reference.encode(torch.tensor([float("inf")]), CODES[code]).float()) == largest


@both
def test_the_reference_s_error_is_half_a_step(dtype: str, code: str) -> None:
    """Against float64: a code is off by half the distance of codes at most, and the greatest one by none."""
    x = rows_of(2, 256, DTYPES[dtype])
    codes, scales = reference.per_group(x, CODES[code], 128)
    exact = x.double().view(2, -1, 128)
    back = codes.double().view(2, -1, 128) * scales.double().unsqueeze(-1)
    steps = 2.0**-4 if code != "int8" else 0.0
    least = {"e4m3fn": 2.0**-10, "e4m3fnuz": 2.0**-11, "int8": 0.5}[code]
    bound = torch.maximum(exact.abs() * steps, scales.double().unsqueeze(-1) * least) * (1 + 2.0**-20)
    assert bool(((back - exact).abs() <= bound).all())
    assert bool((codes.float().abs().view(2, -1, 128).amax(-1) == reference.LARGEST[CODES[code]]).all())


@pytest.mark.parametrize("code", CODES)
def test_what_the_docstring_says_of_special_rows(code: str) -> None:
    dtype, largest = CODES[code], reference.LARGEST[CODES[code]]
    nan_code = 0.0 if code == "int8" else math.nan

    def token(*values: float) -> tuple[list[float], float]:
        codes, scale = reference.per_token(torch.tensor([values], dtype=torch.bfloat16), dtype)
        return codes.float()[0].tolist(), float(scale)

    assert token(0.0, 0.0) == ([0.0, 0.0], np.float32(1e-10) / np.float32(largest))
    assert token(1e-40, 0.0)[1] == token(0.0, 0.0)[1] and token(1e-40)[0] == [0.0]
    codes, scale = token(2.0, math.nan, -1.0)
    assert codes[0] == largest and scale == np.float32(2) / np.float32(largest)
    assert math.isnan(codes[1]) == math.isnan(nan_code)
    codes, scale = token(1.0, math.inf, -math.inf)
    assert scale == math.inf and codes[0] == 0 and all(math.isnan(c) == math.isnan(nan_code) for c in codes[1:])


# Every value ----------------------------------------------------------------------------------------------------------


@where
@both
def test_every_value_is_rounded_to_nearest(target: str, dtype: str, code: str) -> None:
    """By a scale of 1 codes are the values', and held to the formats, not to torch; by 2^-6 all binades are met."""
    x = every_value(DTYPES[dtype]).view(64, 1024)
    with on(target) as device:
        codes = run_static(x, CODES[code], 1.0, device)
        np.testing.assert_array_equal(codes.cpu().view(torch.uint8).numpy(), encoded(x.double().numpy(), CODES[code]))
        run_static(x[:, ::16].contiguous(), CODES[code], 2.0**-6, device)


@where
@pytest.mark.parametrize("by", [0.0, 1e-45, 3e38, math.inf, math.nan, -0.37])
def test_a_static_scale_may_be_anything(target: str, by: float) -> None:
    with on(target) as device:
        run_static(rows_of(8, 64, torch.bfloat16), torch.float8_e4m3fn, by, device)


@where
@both
def test_every_scale_is_the_quotient(target: str, dtype: str, code: str) -> None:
    """Rows of the magnitudes of every other value, and of three numbers with it: a row's scale and codes are
    quotients, rounded once, for all mantissas of a scale."""
    values = every_value(DTYPES[dtype])[1::2].view(-1, 1)
    x = (values.float() * torch.linspace(0.1, 1.0, 16)).to(DTYPES[dtype])
    if not target.startswith("cpu"):
        x = x[::8].contiguous()
    with on(target) as device:
        run_tokens(x, CODES[code], device=device)


def at_ties(dtype: Any, code: str) -> Any:
    """Rows of every mantissa of a greatest magnitude, with numbers whose quotients by the scale are halfway between two
    codes, as near as the type has them."""
    bits = 7 if dtype == torch.bfloat16 else 10
    greatest = (torch.arange(1 << bits, 2 << bits) / (1 << bits)).view(-1, 1)
    ties = torch.arange(17, 32, 2, dtype=torch.float64)
    if code == "int8":
        ties = torch.arange(1, 16, 2) / 2
    binades = torch.tensor([1.0, 8.0]).view(2, 1, 1)
    numbers = (greatest.double() * ties * binades / reference.LARGEST[CODES[code]]).to(dtype)
    return torch.cat([greatest.to(dtype), numbers[0], numbers[1], torch.zeros(len(greatest), 15, dtype=dtype)], 1)


@where
@both
def test_halves_of_quotients_are_those_of_a_division(target: str, dtype: str, code: str) -> None:
    """By the reciprocal, which is rounded itself, some quotients that lie halfway between two codes would not."""
    x = at_ties(DTYPES[dtype], code)
    codes, scales = reference.per_token(x, CODES[code])
    by_reciprocal = reference.encode(x.float() * (1 / scales), CODES[code])
    unlike = int((codes.view(torch.uint8) != by_reciprocal.view(torch.uint8)).sum())
    assert unlike >= 16 or code != "e4m3fn"
    with on(target) as device:
        run_tokens(x, CODES[code], device=device)


# Rows, groups, tensors ------------------------------------------------------------------------------------------------


def codes_of(target: str, number: int) -> list[str]:
    """All codes; in the emulator one, another for each case, since each is a kernel to build."""
    names = list(CODES)
    return [names[number % len(names)]] if target.startswith("gfx") else names


# rows, width, group (0: rows), and options: transposed, padding between rows, offsets of x and out, live rows.
CASES = [
    (8, 384, 128, {}),
    (9, 256, 64, {"transposed": True}),
    (17, 96, 32, {"transposed": True, "pad": 8}),
    (8, 128, 128, {"pad": 24, "offset": 8}),
    (8, 256, 128, {"pad": 3, "offset": 5, "out_offset": 1}),
    (6, 384, 128, {"live": 3, "transposed": True}),
    (6, 384, 128, {"live": 2, "factor": 2}),
    (4, 128, 32, {"live": 9}),
    (4, 128, 32, {"live": -1}),
    (8, 48, 0, {}),
    (8, 2048, 0, {"pad": 8}),
    (8, 77, 0, {}),
    (3, 1, 0, {}),
    (9, 5120, 0, {"live": 7}),
    (4, 4097, 0, {"pad": 1, "live": 1, "factor": 3}),
    (3, 7168, 0, {}),
]


@where
@pytest.mark.parametrize("number", range(len(CASES)))
def test_rows_and_groups(number: int, target: str) -> None:
    rows, width, group, given = CASES[number]
    options: dict[str, Any] = dict(given)
    dtype = torch.bfloat16 if rows % 2 else torch.float16
    x = rows_of(rows, width, dtype, rows + width, options.pop("pad", 0), options.pop("offset", 0))
    options["offset"] = options.pop("out_offset", 0)
    with on(target) as device:
        for code in codes_of(target, number):
            if group:
                run_groups(x, CODES[code], group, device=device, **options)
            else:
                run_tokens(x, CODES[code], device=device, **options)


@where
@pytest.mark.parametrize("width", [16400, 17407])
def test_a_row_that_registers_do_not_hold_is_read_twice(width: int, target: str) -> None:
    x = rows_of(1, width, torch.bfloat16, 1)
    x[0, -1] = 1000
    with on(target) as device:
        run_tokens(x, torch.float8_e4m3fn, device=device)


@where
@pytest.mark.parametrize(
    ("dtype", "shape", "offset"),
    [("bf16", (3, 5, 1024), 0), ("fp16", (8, 128), 0), ("bf16", (7, 131), 1), ("fp16", (1,), 0)],
)
def test_tensors(dtype: str, shape: tuple[int, ...], offset: int, target: str) -> None:
    count = math.prod(shape)
    values = rows_of(1, count, DTYPES[dtype], count).view(shape)
    with on(target) as device:
        for code in codes_of(target, len(shape)):
            x = values.clone()
            run_tensor(x, CODES[code], device, offset)
            if count > 500:
                x.view(-1)[77] = float("nan")
                run_tensor(x, CODES[code], device, offset)
                x.view(-1)[count - 1] = -float("inf")
                run_tensor(x, CODES[code], device, offset)
            run_tensor(torch.zeros_like(x), CODES[code], device, offset)


@pytest.mark.emulated
@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
def test_the_bits_are_the_same_in_any_order(target: str) -> None:
    """A tensor's two kernels, and a row of several waves, under the schedules that races are looked for with."""
    x = rows_of(6, 5120, torch.bfloat16)
    found = []
    with on(target):
        for schedule in emulator.SCHEDULES:
            with emulator.watching(schedule=schedule):
                out, scale = torch.zeros(6, 5120, dtype=torch.float8_e4m3fn), torch.zeros(1)
                ops.dynamic_per_tensor_quant(out, x, scale)
                found.append((out.view(torch.uint8), scale))
    assert all(torch.equal(out, found[0][0]) and torch.equal(scale, found[0][1]) for out, scale in found)


@where
@pytest.mark.parametrize("shape", [(0, 256), (4, 0), (2, 0, 128)])
def test_nothing_to_quantise(shape: tuple[int, ...], target: str) -> None:
    with on(target) as device:
        x = torch.empty(shape, dtype=torch.bfloat16, device=device)
        out = torch.empty(shape, dtype=torch.float8_e4m3fn, device=device)
        scales = torch.empty((*shape[:-1], 1), device=device)
        ops.dynamic_per_token_scaled_quant(out, x, scales)
        ops.dynamic_per_group_scaled_quant(out, x, torch.empty(0, device=device), 128, False)
        scale = torch.full((1,), 7.0, device=device)
        ops.static_per_tensor_quant(out, x, scale)
        ops.dynamic_per_tensor_quant(out, x, scale)
        assert float(scale) == np.float32(1e-10) / np.float32(448)
