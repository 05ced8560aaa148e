"""Quantisation to MXFP4 on a CPU, emulated on both AMD targets with all sanitizers, and on a GPU: the reference's bits,
for every 16-bit value, four modes, and nothing written beside them."""

from __future__ import annotations

import platform
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from gemm_operands import TARGETS, on  # noqa: E402
from mxfp4_cases import DTYPES, MODES, assert_codes, in_turns, nearest_code, rows_of, run, scale_exponent  # noqa: E402
from quant_cases import every_value  # noqa: E402

from aiterlite import activation  # noqa: E402
from aiterlite.ops import mxfp4 as ops  # noqa: E402
from aiterlite.ops import mxfp4_factory as factory  # noqa: E402
from aiterlite.reference import mxfp4 as reference  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
# The least CPU of this kind too: it has no instruction for half of what others do.
LEAST = [
    pytest.param(
        "cpu-x86-64", marks=pytest.mark.skipif(platform.machine() != "x86_64", reason="not a CPU of this kind")
    )
]
where = pytest.mark.parametrize("target", [*TARGETS, *LEAST])


@pytest.fixture(autouse=True)
def _all_sanitizers(request: pytest.FixtureRequest) -> None:
    if not hasattr(request.node, "callspec"):
        return
    if str(request.node.callspec.params.get("target", "")).startswith("gfx"):
        request.getfixturevalue("sanitized")


# The reference --------------------------------------------------------------------------------------------------------


def blocks_of_one(dtype: Any) -> Any:
    """A block for each finite magnitude of a type: it, with fractions of it."""
    values = every_value(dtype)[32768:]
    values = values[values.isfinite()].view(-1, 1)
    return (values.double() * torch.linspace(0.0, 1.0, 32, dtype=torch.float64).flip(0)).to(dtype)


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_is_the_format_s_words(mode: int) -> None:
    """Every bf16 number as a block's greatest, against exact numbers; the least byte is the format's, or by m / 6 and
    m / 4 as float32 1."""
    x = blocks_of_one(torch.bfloat16)
    codes, scales = reference.quantise(x, mode)
    greatest = x[:, 0].double().numpy()
    least = 1 if mode in (1, 3) else 0
    wanted = [0 if m == 0 else max(least, scale_exponent(m, mode) + 127) for m in greatest]
    np.testing.assert_array_equal(scales[:, 0].numpy(), wanted)
    for row in range(0, len(x), 331):
        quotients = x[row].double().numpy() * 2.0 ** (127 - int(scales[row, 0]))
        assert reference.unpack(codes[row]).tolist() == [nearest_code(value) for value in quotients]


@pytest.mark.parametrize("mode", MODES)
def test_the_reference_s_error_is_half_a_step(mode: int) -> None:
    """Dequantised, a number is off by half the distance of codes at its place, or is beyond the largest."""
    x = torch.randn(64, 256, generator=torch.Generator().manual_seed(mode), dtype=torch.float64).float()
    codes, scales = reference.quantise(x, mode)
    back = reference.dequantise(codes, scales).double().view(64, 8, 32)
    scale = reference.scale_value(scales).unsqueeze(-1)
    quotient = x.double().view(64, 8, 32).abs() / scale
    step = torch.where(quotient < 2, 0.5, torch.where(quotient < 4, 1.0, 2.0))
    apart = (back - x.double().view(64, 8, 32)).abs() / scale
    most = {0: 8.0, 1: 6.0, 2: 7.0, 3: 4.0}[mode]
    assert bool(((apart <= step / 2) | ((quotient > 6) & (back.abs() == 6 * scale))).all())
    assert float(quotient.max()) <= most and bool((quotient.amax(-1) > most / 2.34).all())


def test_what_the_docstring_says_of_special_blocks() -> None:
    def block(*values: float, mode: int = 1) -> tuple[list[int], int]:
        x = torch.tensor([[*values, *[0.0] * (32 - len(values))]])
        codes, scale = reference.quantise(x, mode)
        return reference.unpack(codes)[0, : len(values)].tolist(), int(scale)

    for mode in MODES:
        assert block(0.0, -0.0, mode=mode) == ([0, 8], 0)
        assert block(1.0, float("inf"), -2.0, mode=mode) == ([7, 7, 15], 255)
        assert block(-1.0, float("nan"), mode=mode) == ([15, 7], 255)
        assert block(1e-40, -1e-40, mode=mode)[1] == (1 if mode in (1, 3) else 0)
        assert block(3.3895e38, mode=mode)[1] == (252 if mode == 0 else 253)
    assert block(6.0, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5.0, -5.0)[0] == [7, 0, 2, 2, 4, 4, 6, 6, 14]
    assert bool(reference.dequantise(*reference.quantise(torch.full((1, 32), float("inf")))).isnan().all())
    assert [block(1.75, mode=mode)[1] for mode in MODES] == [125, 126, 126, 126]
    assert [block(1.5, mode=mode)[1] for mode in MODES] == [125, 125, 125, 126]
    assert [block(1.0, mode=mode)[1] for mode in MODES] == [125, 125, 125, 125]


# Every value ----------------------------------------------------------------------------------------------------------


@where
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("mode", MODES)
def test_every_value(mode: int, dtype: str, target: str) -> None:
    """As an element of a block, NaN and infinities among them, and as the greatest of one."""
    x = torch.cat([every_value(DTYPES[dtype]).view(-1, 32), blocks_of_one(DTYPES[dtype])])
    x = x[: len(x) // 64 * 64].view(-1, 2048)
    if target.startswith("gfx"):
        # Some blocks of each, another choice for each mode.
        x = x.view(-1, 32)[mode :: len(x) * 64 // 640][:640].reshape(-1, 640)
    with on(target) as device:
        run(x.contiguous(), mode, device=device)


# Rows -----------------------------------------------------------------------------------------------------------------

# rows, width, layout, and options: padding between rows, offsets of x and out, live rows.
CASES: list[tuple[int, int, str, dict[str, Any]]] = [
    (1, 32, "rows", {}),
    (33, 288, "rows", {}),
    (5, 512, "columns", {}),
    (33, 96, "columns", {"pad": 8}),
    (1, 64, "columns", {}),
    (3, 224, "shuffled", {}),
    (70, 544, "shuffled", {"scale_rows": 96}),
    (257, 32, "shuffled", {}),
    (9, 256, "shuffled", {"pad": 3, "offset": 5}),
    (7, 320, "rows", {"pad": 1, "offset": 1, "out_offset": 1}),
    (40, 256, "rows", {"live": 3, "factor": 7}),
    (40, 256, "shuffled", {"live": 33}),
    (4, 64, "shuffled", {"live": -1}),
    (4, 64, "columns", {"live": 9}),
]


@pytest.mark.parametrize(("number", "target"), in_turns(len(CASES)))
def test_rows(number: int, target: str) -> None:
    rows, width, layout, given = CASES[number]
    options = dict(given)
    dtype = torch.bfloat16 if number % 2 else torch.float16
    x = rows_of(rows, width, dtype, number, options.pop("pad", 0), options.pop("offset", 0))
    options["offset"] = options.pop("out_offset", 0)
    with on(target) as device:
        for mode in MODES if target.startswith("cpu") else (number % 4,):
            run(x, mode, layout, device, **options)


def heavy_tailed(kind: str, rows: int, width: int) -> Any:
    generator = torch.Generator().manual_seed(len(kind))
    x = torch.randn(rows, width, generator=generator)
    if kind == "laplace":
        x = x.sign() * -torch.rand(rows, width, generator=generator).clamp(min=1e-30).log()
    if kind == "outliers":
        x[torch.rand(rows, width, generator=generator) < 0.01] *= 200
    return x.to(torch.bfloat16)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["normal", "laplace", "outliers"])
def test_distributions(kind: str, mode: int) -> None:
    run(heavy_tailed(kind, 67, 1536), mode, "shuffled")


@pytest.mark.parametrize(("number", "target"), in_turns(3))
def test_rows_whose_parts_lie_apart_are_not_copied(number: int, target: str) -> None:
    """Attention leaves its heads one behind the other; a part's bounds are no bounds of tiles."""
    count, size = [(5, 96), (2, 512), (1, 64)][number]
    x = rows_of(9 * count, size, torch.bfloat16, size).view(count, 9, size).transpose(0, 1)
    with on(target) as device:
        codes, scales = factory.fused_flatten_mxfp4_quant(x.to(device))
    wanted = reference.quantise(x.reshape(9, -1), 2)
    assert_codes(codes, wanted[0], "codes")
    assert_codes(scales, wanted[1], "scales")
    assert scales.stride() == (1, 9)


@pytest.mark.parametrize(("number", "target"), in_turns(3))
def test_gated_activations_have_the_bits_of_their_parts(number: int, target: str) -> None:
    name = ("silu", "gelu", "gelu_tanh")[number]
    rows = {"silu": 35, "gelu": 3, "gelu_tanh": 1}[name]
    dtype = torch.float16 if name == "gelu" else torch.bfloat16
    x = torch.randn(rows, 2 * 352, generator=torch.Generator().manual_seed(rows)).to(dtype)
    x[0, 5], x[0, 40], x[-1, 64:96] = float("nan"), 400.0, 0.0
    with on(target) as device:
        out = torch.empty(rows, 352, dtype=dtype, device=device)
        getattr(activation, f"{name}_and_mul")(out, x.to(device))
        found = [
            factory.act_mul_and_mxfp4_quant(x.to(device), name, shuffle=s, scale_shuffle_padding=p)
            for s, p in ((False, False), (True, False), (False, True))
        ]
    codes, scales = reference.quantise(out.cpu(), 2)
    for got, _ in found:
        assert_codes(got, codes, "codes")
    assert_codes(found[0][1], scales, "scales")
    assert_codes(found[1][1], factory.per_1x32_f4_quant(out.cpu(), shuffle=True, round_mode=2)[1], "shuffled")
    padded = found[2][1].cpu()
    assert padded.shape == (256, 16) and int(padded.sum(dtype=torch.int64)) == int(scales.sum(dtype=torch.int64))
    assert_codes(padded[:rows, :11], scales, "padded")


@where
@pytest.mark.parametrize("shape", [(0, 256), (4, 0), (2, 0, 128)])
def test_nothing_to_quantise(shape: tuple[int, ...], target: str) -> None:
    with on(target) as device:
        x = torch.empty(shape, dtype=torch.bfloat16, device=device)
        codes, scales = factory.per_1x32_f4_quant_hip(x)
        assert codes.shape == (*shape[:-1], shape[-1] // 2) and scales.shape == (*shape[:-1], shape[-1] // 32)
        padded = torch.full((256, 8), 7, dtype=torch.uint8, device=device)
        ops.quantise(
            torch.empty(0, 256, dtype=torch.bfloat16, device=device), codes.view(torch.uint8)[:0], padded, 1, True
        )
        assert not padded.any()
