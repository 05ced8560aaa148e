"""f32, f16 and f64 vector arithmetic against exact rational arithmetic, bit for bit."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import FULL, TARGETS, Case, Kernel, join64, run, split64
from emulator.executor import library
from emulator.floats import BF16, F16, F32, F64, Format
from emulator.values import doubles, exec_mask, floats, generator, halves, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

Model = Callable[..., int]
SUFFIX = {F16: "f16", F32: "f32", F64: "f64"}


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def arithmetic(f: Format, ieee: bool) -> dict[str, tuple[int, Model]]:
    """By mnemonic without type: number of sources and the model."""
    low = lambda a, b: fp.minimum(f, a, b, ieee)  # noqa: E731
    high = lambda a, b: fp.maximum(f, a, b, ieee)  # noqa: E731
    table: dict[str, tuple[int, Model]] = {
        "v_add": (2, lambda a, b: fp.add(f, a, b)),
        "v_mul": (2, lambda a, b: fp.mul(f, a, b)),
        "v_min": (2, low),
        "v_max": (2, high),
        "v_fma": (3, lambda a, b, c: fp.fma(f, a, b, c)),
    }
    if f is not F64:
        table |= {
            "v_sub": (2, lambda a, b: fp.add(f, a, b ^ f.sign) if not fp.is_nan(f, b) else fp.propagate(f, a, b)),
            "v_subrev": (2, lambda a, b: fp.add(f, b, a ^ f.sign) if not fp.is_nan(f, a) else fp.quiet(f, a)),
            "v_min3": (3, lambda a, b, c: low(low(a, b), c)),
            "v_max3": (3, lambda a, b, c: high(high(a, b), c)),
            "v_med3": (3, lambda a, b, c: fp.medium(f, a, b, c, ieee)),
        }
    return table


def lanes_of(f: Format, rng: np.random.Generator) -> Any:
    return {F16: halves, F32: floats, F64: doubles}[f](rng)


def load(f: Format, register: int, values: Any) -> tuple[str, dict[str, Any]]:
    """Operand text and the vector registers that hold `values`."""
    if f is F64:
        low, high = split64(values)
        return f"v[{register}:{register + 1}]", {f"v{register}": low, f"v{register + 1}": high}
    return f"v{register}", {f"v{register}": values}


def outputs(f: Format, got: dict[str, Any]) -> list[int]:
    return [int(v) for v in (join64(got["v32"], got["v33"]) if f is F64 else got["v32"])]


def result_of(f: Format) -> tuple[str, tuple[str, ...]]:
    return ("v[32:33]", ("v32", "v33")) if f is F64 else ("v32", ("v32",))


def keeps_high(name: str, f: Format) -> bool:
    return f is F16 and name in ("v_fma", "v_min3", "v_max3", "v_med3", "v_div_fixup")


def sweep(
    target: str,
    f: Format,
    table: dict[str, tuple[int, Model]],
    kernel: Kernel | None = None,
    mode: int | None = None,
    flush: tuple[bool, bool] = (False, False),
) -> None:
    """Runs every entry on two sets of values, one with lanes off. `flush` is (inputs, results) of denormals."""
    destination, read = result_of(f)
    cases, expected = [], []
    mask16 = 0xFFFF if f is F16 else (1 << f.bits) - 1
    for name, (count, model) in table.items():
        for number in range(2):
            rng = generator(name + SUFFIX[f], number)
            values = [lanes_of(f, rng) for _ in range(count)]
            mask = exec_mask(rng) if number else FULL
            old = 0x5A5A1234
            vector: dict[str, Any] = {"v32": np.uint32(old), "v33": np.uint32(old)}
            operands = []
            for i, v in enumerate(values):
                text, registers = load(f, 8 + 2 * i, v)
                operands.append(text)
                vector |= registers
            cases.append(
                Case(
                    f"{name}_{SUFFIX[f]} {destination}, {', '.join(operands)}", vector, read=read, exec=mask, mode=mode
                )
            )
            kept = old << 32 | old if f is F64 else old
            want = []
            for lane in range(64):
                if not mask >> lane & 1:
                    want.append(kept)
                    continue
                inputs = [int(v[lane]) & mask16 for v in values]
                if flush[0]:
                    inputs = [fp.flush(f, v) for v in inputs]
                result = model(*inputs)
                if flush[1]:
                    result = fp.flush(f, result)
                want.append(result | (old & 0xFFFF0000 if keeps_high(name, f) else 0))
            expected.append(want)
    wrong = []
    for case, want, got in zip(cases, expected, run(target, cases, kernel), strict=True):
        found = outputs(f, got)
        bad = [i for i in range(64) if found[i] != want[i]]
        if bad:
            inputs = {name: hex(int(np.broadcast_to(np.asarray(v), 64)[bad[0]])) for name, v in case.vector.items()}
            wrong.append(f"{case.text}: lane {bad[0]} is {found[bad[0]]:#x}, not {want[bad[0]]:#x}; from {inputs}")
    assert not wrong, "\n".join(wrong[:20])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("ieee", [True, False])
@pytest.mark.parametrize("f", [F16, F32, F64], ids=SUFFIX.values())
def test_arithmetic(target: str, f: Format, ieee: bool) -> None:
    sweep(target, f, arithmetic(f, ieee), Kernel(ieee=ieee))


@pytest.mark.parametrize("f", [F32, F64], ids=["f32", "f64"])
@pytest.mark.parametrize("rounding", [fp.UP, fp.DOWN, fp.ZERO])
def test_rounding_modes(f: Format, rounding: int) -> None:
    table: dict[str, tuple[int, Model]] = {
        "v_add": (2, lambda a, b: fp.add(f, a, b, rounding)),
        "v_mul": (2, lambda a, b: fp.mul(f, a, b, rounding)),
        "v_fma": (3, lambda a, b, c: fp.fma(f, a, b, c, rounding)),
    }
    sweep("gfx942", f, table, mode=0xF0 | rounding | rounding << 2)


@pytest.mark.parametrize("f", [F16, F32, F64], ids=SUFFIX.values())
@pytest.mark.parametrize("keep", [0, 1, 2])
def test_flushed_denormals(f: Format, keep: int) -> None:
    """Denormal modes other than "keep all": bit 0 keeps inputs, bit 1 results."""
    table = {name: entry for name, entry in arithmetic(f, True).items() if name in ("v_add", "v_mul")}
    mode = 0xF0 & ~(0x30 if f is F32 else 0xC0) | keep << (4 if f is F32 else 6)
    sweep("gfx942", f, table, mode=mode, flush=(not keep & 1, not keep & 2))


def integral(f: Format, code: int, how: Callable[[Fraction], int]) -> int:
    if fp.is_nan(f, code):
        return fp.quiet(f, code)
    if fp.is_infinite(f, code):
        return code
    return fp.encode(f, Fraction(how(fp.value(f, code))), sign_of_zero=fp.negative(f, code))


def fraction(f: Format, code: int) -> int:
    if fp.is_nan(f, code):
        return fp.quiet(f, code)
    if fp.is_infinite(f, code):
        return f.quiet_nan
    x = fp.value(f, code)
    return fp.encode(f, x - math.floor(x))


def mantissa(f: Format, code: int) -> int:
    if fp.is_nan(f, code) or fp.is_infinite(f, code) or fp.is_zero(f, code):
        return code
    x = fp.value(f, code)
    return fp.encode(f, x / Fraction(2) ** exponent(f, code))


def exponent(f: Format, code: int) -> int:
    if fp.is_nan(f, code) or fp.is_infinite(f, code) or fp.is_zero(f, code):
        return 0
    x = abs(fp.value(f, code))
    e = x.numerator.bit_length() - x.denominator.bit_length()
    return e + 1 if x >= Fraction(2) ** e else e


def away(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("f", [F16, F32, F64], ids=SUFFIX.values())
def test_rounding_instructions(target: str, f: Format) -> None:
    table: dict[str, tuple[int, Model]] = {
        "v_trunc": (1, lambda a: integral(f, a, math.trunc)),
        "v_floor": (1, lambda a: integral(f, a, math.floor)),
        "v_ceil": (1, lambda a: integral(f, a, math.ceil)),
        "v_rndne": (1, lambda a: integral(f, a, round)),
        "v_fract": (1, lambda a: fraction(f, a)),
    }
    sweep(target, f, table)


@pytest.mark.parametrize("target", TARGETS)
def test_frexp_and_ldexp(target: str) -> None:
    cases, expected = [], []
    for f in (F16, F32, F64):
        rng = generator("frexp" + SUFFIX[f])
        values = lanes_of(f, rng)
        operand, vector = load(f, 8, values)
        destination, read = result_of(f)
        mask = 0xFFFF if f is F16 else (1 << f.bits) - 1
        codes = [int(v) & mask for v in values]
        cases.append(Case(f"v_frexp_mant_{SUFFIX[f]} {destination}, {operand}", vector, read=read))
        # A NaN passes through.
        expected.append((f, [fp.quiet(f, c) if f is F16 and fp.is_nan(f, c) else mantissa(f, c) for c in codes]))
        integer = "i16" if f is F16 else "i32"
        cases.append(Case(f"v_frexp_exp_{integer}_{SUFFIX[f]} v32, {operand}", vector))
        expected.append((F32, [exponent(f, c) & (0xFFFF if f is F16 else 0xFFFFFFFF) for c in codes]))
        steps = rng.integers(-40, 40, 64).astype(np.int32)
        steps[:4] = [300, -300, 2000, -2100]
        if f is F16:
            steps = steps.astype(np.int16).astype(np.int32)
        cases.append(
            Case(
                f"v_ldexp_{SUFFIX[f]} {destination}, {operand}, v16",
                {**vector, "v16": steps.view(np.uint32)},
                read=read,
            )
        )
        shifted = []
        for code, step in zip(codes, steps, strict=True):
            if fp.is_nan(f, code):
                shifted.append(fp.quiet(f, code))
            elif fp.is_infinite(f, code) or fp.is_zero(f, code):
                shifted.append(code)
            else:
                shifted.append(
                    fp.encode(f, fp.value(f, code) * Fraction(2) ** int(step), sign_of_zero=fp.negative(f, code))
                )
        expected.append((f, shifted))
    for case, (f, want), got in zip(cases, expected, run(target, cases), strict=True):
        found = outputs(f, got)
        bad = [i for i in range(64) if found[i] != want[i]]
        assert not bad, (
            case.text,
            hex(found[bad[0]]),
            hex(want[bad[0]]),
            {k: hex(int(v[bad[0]])) for k, v in case.vector.items()},
        )


def to_integer(f: Format, code: int, low: int, high: int, how: Callable[[Fraction], int] = math.trunc) -> int:
    if fp.is_nan(f, code):
        return 0
    if fp.is_infinite(f, code):
        return low if fp.negative(f, code) else high
    return max(low, min(high, how(fp.value(f, code))))


@pytest.mark.parametrize("target", TARGETS)
def test_conversions(target: str) -> None:
    i32, u32 = (-(1 << 31), (1 << 31) - 1), (0, (1 << 32) - 1)
    signed32 = lambda a: a - (1 << 32) if a >> 31 else a  # noqa: E731
    signed16 = lambda a: (a & 0xFFFF) - (1 << 16) if a >> 15 & 1 else a & 0xFFFF  # noqa: E731
    number = lambda f, x: fp.encode(f, Fraction(x))  # noqa: E731
    table: list[tuple[str, str, str, Model]] = [
        # mnemonic, type of the source, type of the result, model
        ("v_cvt_f32_i32", "i", "32", lambda a: number(F32, signed32(a))),
        ("v_cvt_f32_u32", "i", "32", lambda a: number(F32, a)),
        ("v_cvt_i32_f32", "f32", "32", lambda a: to_integer(F32, a, *i32)),
        ("v_cvt_u32_f32", "f32", "32", lambda a: to_integer(F32, a, *u32)),
        ("v_cvt_flr_i32_f32", "f32", "32", lambda a: to_integer(F32, a, *i32, math.floor)),
        ("v_cvt_f16_f32", "f32", "32", lambda a: fp.convert(F16, F32, a)),
        ("v_cvt_f32_f16", "f16", "32", lambda a: fp.convert(F32, F16, a & 0xFFFF)),
        ("v_cvt_f64_i32", "i", "64", lambda a: number(F64, signed32(a))),
        ("v_cvt_f64_u32", "i", "64", lambda a: number(F64, a)),
        ("v_cvt_i32_f64", "f64", "32", lambda a: to_integer(F64, a, *i32)),
        ("v_cvt_u32_f64", "f64", "32", lambda a: to_integer(F64, a, *u32)),
        ("v_cvt_f64_f32", "f32", "64", lambda a: fp.convert(F64, F32, a)),
        ("v_cvt_f32_f64", "f64", "32", lambda a: fp.convert(F32, F64, a)),
        ("v_cvt_f16_u16", "i", "32", lambda a: number(F16, a & 0xFFFF)),
        ("v_cvt_f16_i16", "i", "32", lambda a: number(F16, signed16(a))),
        ("v_cvt_u16_f16", "f16", "32", lambda a: to_integer(F16, a & 0xFFFF, 0, 0xFFFF)),
        ("v_cvt_i16_f16", "f16", "32", lambda a: to_integer(F16, a & 0xFFFF, -0x8000, 0x7FFF) & 0xFFFF),
        *((f"v_cvt_f32_ubyte{k}", "i", "32", lambda a, k=k: number(F32, a >> (8 * k) & 255)) for k in range(4)),
        ("v_cvt_off_f32_i4", "i", "32", lambda a: fp.encode(F32, Fraction((a & 15) - (16 if a & 8 else 0), 16))),
    ]
    if target == "gfx950":
        table.append(("v_cvt_f32_bf16", "i", "32", lambda a: fp.convert(F32, BF16, a & 0xFFFF)))
    cases, expected = [], []
    for name, source, result, model in table:
        rng = generator(name)
        f = {"i": F32, "f16": F16, "f32": F32, "f64": F64}[source]
        values = integers(rng) if source == "i" else lanes_of(f, rng)
        operand, vector = load(f, 8, values)
        destination, read = result_of(F64 if result == "64" else F32)
        cases.append(Case(f"{name} {destination}, {operand}", vector, read=read))
        expected.append((F64 if result == "64" else F32, [model(int(v)) & ((1 << int(result)) - 1) for v in values]))
    for case, (f, want), got in zip(cases, expected, run(target, cases), strict=True):
        found = outputs(f, got)
        bad = [i for i in range(64) if found[i] != want[i]]
        assert not bad, (
            case.text,
            hex(found[bad[0]]),
            hex(want[bad[0]]),
            {k: hex(int(v[bad[0]])) for k, v in case.vector.items()},
        )


@pytest.mark.parametrize("target", TARGETS)
def test_packing_conversions(target: str) -> None:
    rng = generator("pack")
    a, b = floats(rng), floats(rng)
    unit = rng.uniform(-1.3, 1.3, 64).astype(np.float32).view(np.uint32)
    table: dict[str, tuple[Any, Any, Model]] = {
        "v_cvt_pkrtz_f16_f32": (a, b, lambda x: fp.convert(F16, F32, x, fp.ZERO)),
        "v_cvt_pk_bf16_f32": (a, b, lambda x: fp.convert(BF16, F32, x)),
        "v_cvt_pk_f16_f32": (a, b, lambda x: fp.convert(F16, F32, x)),
        "v_cvt_pknorm_i16_f32": (
            unit,
            unit[::-1].copy(),
            lambda x: round(max(Fraction(-1), min(Fraction(1), fp.value(F32, x))) * 32767) & 0xFFFF,
        ),
        "v_cvt_pknorm_u16_f32": (
            unit,
            unit[::-1].copy(),
            lambda x: round(max(Fraction(0), min(Fraction(1), fp.value(F32, x))) * 65535),
        ),
    }
    gfx950 = ("v_cvt_pk_bf16_f32", "v_cvt_pk_f16_f32")
    names = [name for name in table if target == "gfx950" or name not in gfx950]
    cases = [Case(f"{name} v32, v8, v9", {"v8": table[name][0], "v9": table[name][1]}) for name in names]
    for name, got in zip(names, run(target, cases), strict=True):
        x, y, model = table[name]
        for i in range(64):
            want = model(int(x[i])) | model(int(y[i])) << 16
            # The products of the normalising conversions round once more in f32 on the way.
            slack = 1 if "pknorm" in name else 0
            found = int(got["v32"][i])
            near = all(
                abs((found >> s & 0xFFFF) - (want >> s & 0xFFFF)) in (0, slack, 0x10000 - slack) for s in (0, 16)
            )
            assert near, (name, hex(int(x[i])), hex(int(y[i])), hex(found), hex(want))


def ulps(found: int, want: float) -> float:
    """Distance to the exact result in units of the last place of f32."""
    if math.isinf(want) or abs(want) > 3.4028235e38:
        return 0.0 if found == fp.infinity(F32, want < 0) else math.inf
    got = float(np.uint32(found).view(np.float32))
    unit = 2.0 ** (max(math.frexp(want)[1], -125) - 24)
    return abs(got - want) / unit


@pytest.mark.parametrize("target", TARGETS)
def test_transcendentals(target: str) -> None:
    """Within an ulp of the exact result; denormals are flushed by exp, log, rcp and rsq."""
    rng = generator("transcendental")
    spread = np.concatenate([rng.uniform(-140, 140, 32), rng.normal(0, 1, 32)]).astype(np.float32)
    positive = np.exp(rng.uniform(-80, 80, 64)).astype(np.float32)
    positive[:3] = [1.0, 1.0000001, 0.99999994]
    angle = np.concatenate([rng.uniform(-256, 256, 32), rng.uniform(-1, 1, 32)]).astype(np.float32)
    table: dict[str, tuple[Any, Callable[[float], float], float]] = {
        "v_exp_f32": (spread, lambda x: 2.0**x, 1),
        "v_log_f32": (positive, math.log2, 1),
        "v_rcp_f32": (spread, lambda x: 1 / x, 1),
        "v_rcp_iflag_f32": (spread, lambda x: 1 / x, 1),
        "v_rsq_f32": (positive, lambda x: 1 / math.sqrt(x), 1),
        "v_sqrt_f32": (positive, math.sqrt, 1),
        "v_sin_f32": (angle, lambda x: math.sin(2 * math.pi * math.fmod(x, 1.0)), 64),
        "v_cos_f32": (angle, lambda x: math.cos(2 * math.pi * math.fmod(x, 1.0)), 64),
    }
    cases = [Case(f"{name} v32, v8", {"v8": values}) for name, (values, _, _) in table.items()]
    for (name, (values, model, allowed)), got in zip(table.items(), run(target, cases), strict=True):
        for x, found in zip(values, got["v32"], strict=True):
            want = model(float(x))
            if abs(want) < 2.0**-126 and name in ("v_exp_f32", "v_rcp_f32", "v_rcp_iflag_f32"):
                assert found & 0x7FFFFFFF == 0, (name, x)
            else:
                # sin and cos: an absolute error counts, next to a zero crossing.
                scale = (
                    allowed if "sin" not in name and "cos" not in name else max(1.0, 2.0**-23 / max(abs(want), 1e-30))
                )
                assert ulps(int(found), want) <= scale, (name, x, hex(int(found)), want)
    corners = {
        "v_exp_f32": {0xFF800000: 0, 0x7F800000: 0x7F800000, 0x7F800001: 0x7FC00001, 0x00000001: 0x3F800000},
        "v_log_f32": {
            0: 0xFF800000,
            0x80000000: 0xFF800000,
            0x7F800000: 0x7F800000,
            0xBF800000: 0x7FC00000,
            1: 0xFF800000,
        },
        "v_rcp_f32": {0: 0x7F800000, 0x80000000: 0xFF800000, 0x7F800000: 0, 0xFF800000: 0x80000000, 1: 0x7F800000},
        "v_rsq_f32": {0: 0x7F800000, 0x80000000: 0xFF800000, 0x7F800000: 0, 0xBF800000: 0x7FC00000},
        "v_sqrt_f32": {0: 0, 0x80000000: 0x80000000, 0x7F800000: 0x7F800000, 0xBF800000: 0x7FC00000},
        "v_sin_f32": {0x7F800000: 0x7FC00000, 0x43808000: 0},
        "v_cos_f32": {0x7F800000: 0x7FC00000, 0x43808000: 0x3F800000},
    }
    flat = [(name, bits, want) for name, pairs in corners.items() for bits, want in pairs.items()]
    cases = [Case(f"{name} v32, v8", {"v8": np.uint32(bits)}) for name, bits, _ in flat]
    for (name, bits, want), got in zip(flat, run(target, cases), strict=True):
        assert int(got["v32"][0]) == want, (name, hex(bits), hex(int(got["v32"][0])), hex(want))


@pytest.mark.parametrize("target", TARGETS)
def test_transcendentals_of_other_widths(target: str) -> None:
    rng = generator("wide")
    positive = np.exp(rng.uniform(-200, 200, 64))
    low, high = split64(positive, np.float64)
    table64: dict[str, Callable[[float], float]] = {
        "v_rcp_f64": lambda x: 1 / x,
        "v_rsq_f64": lambda x: 1 / math.sqrt(x),
        "v_sqrt_f64": math.sqrt,
    }
    cases = [Case(f"{name} v[32:33], v[8:9]", {"v8": low, "v9": high}, read=("v32", "v33")) for name in table64]
    for (name, model), got in zip(table64.items(), run(target, cases), strict=True):
        found = join64(got["v32"], got["v33"]).view(np.float64)
        want = np.array([model(float(x)) for x in positive])
        assert np.all(np.abs(found / want - 1) < 2.0**-50), name
    half = np.exp(rng.uniform(-8, 8, 64)).astype(np.float16)
    table16: dict[str, Callable[[float], float]] = {
        "v_rcp_f16": lambda x: 1 / x,
        "v_rsq_f16": lambda x: 1 / math.sqrt(x),
        "v_sqrt_f16": math.sqrt,
        "v_log_f16": math.log2,
        "v_exp_f16": lambda x: 2.0**x,
        "v_sin_f16": lambda x: math.sin(2 * math.pi * math.fmod(x, 1)) if x <= 256 else 0.0,
        "v_cos_f16": lambda x: math.cos(2 * math.pi * math.fmod(x, 1)) if x <= 256 else 1.0,
    }
    cases = [Case(f"{name} v32, v8", {"v8": half.view(np.uint16).astype(np.uint32)}) for name in table16]
    for (name, model), got in zip(table16.items(), run(target, cases), strict=True):
        found = got["v32"].astype(np.uint16).view(np.float16).astype(float)
        for x, y in zip(half, found, strict=True):
            want = model(min(float(x), 100.0)) if name == "v_exp_f16" else model(float(x))
            if want > 65519:
                assert math.isinf(y)
            else:
                assert abs(y - want) <= max(2.0**-24, 2.0 ** (math.frexp(want)[1] - 11)), (name, x, y, want)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("f", [F16, F32, F64], ids=SUFFIX.values())
def test_compare(target: str, f: Format) -> None:
    def relation(*accepted: int | None) -> Callable[[int | None], bool]:
        return lambda c: c in accepted

    table = {
        "f": relation(), "lt": relation(-1), "eq": relation(0), "le": relation(-1, 0), "gt": relation(1),
        "lg": relation(-1, 1), "ge": relation(0, 1), "o": relation(-1, 0, 1), "u": relation(None),
        "nge": relation(-1, None), "nlg": relation(0, None), "ngt": relation(-1, 0, None), "nle": relation(1, None),
        "neq": relation(-1, 1, None), "nlt": relation(0, 1, None), "tru": relation(-1, 0, 1, None),
    }  # fmt: skip
    cases, expected = [], []
    mask16 = 0xFFFF if f is F16 else (1 << f.bits) - 1
    for name, accepts in table.items():
        rng = generator(name + SUFFIX[f])
        a, b = lanes_of(f, rng), lanes_of(f, rng)
        b[::4] = a[::4]
        first, left = load(f, 8, a)
        second, right = load(f, 10, b)
        want = sum(
            accepts(fp.compare(f, int(x) & mask16, int(y) & mask16)) << i
            for i, (x, y) in enumerate(zip(a, b, strict=True))
        )
        mask = exec_mask(rng)
        for prefix in ("v_cmp", "v_cmpx"):
            cases.append(
                Case(
                    f"{prefix}_{name}_{SUFFIX[f]} vcc, {first}, {second}", left | right, read=("vcc", "exec"), exec=mask
                )
            )
            expected.append((want & mask, want & mask if prefix == "v_cmpx" else mask))
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert tuple(got.values()) == want, case.text


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("f", [F16, F32, F64], ids=SUFFIX.values())
def test_class(target: str, f: Format) -> None:
    def kind(code: int) -> int:
        minus = fp.negative(f, code)
        if fp.is_nan(f, code):
            return 0 if fp.is_signalling(f, code) else 1
        if fp.is_infinite(f, code):
            return 2 if minus else 9
        if fp.is_zero(f, code):
            return 5 if minus else 6
        if fp.is_denormal(f, code):
            return 4 if minus else 7
        return 3 if minus else 8

    rng = generator("class" + SUFFIX[f])
    values, mask = lanes_of(f, rng), rng.integers(0, 1024, 64).astype(np.uint32)
    operand, vector = load(f, 8, values)
    cut = 0xFFFF if f is F16 else (1 << f.bits) - 1
    got = run(target, [Case(f"v_cmp_class_{SUFFIX[f]} vcc, {operand}, v16", {**vector, "v16": mask}, read=("vcc",))])[0]
    assert got["vcc"] == sum(
        (int(m) >> kind(int(v) & cut) & 1) << i for i, (v, m) in enumerate(zip(values, mask, strict=True))
    )


@pytest.mark.parametrize("target", TARGETS)
def test_fused_halves_round_once(target: str) -> None:
    """Sums so close to halfway between two f16 that a rounding to f32 on the way would be seen."""
    cases = [
        (a ^ x, b, c ^ x ^ y)
        for a, b in ((0x3C08, 0x0FF0), (0x3C10, 0x0FE0), (0x3C04, 0x0FF8))
        for c in (0x3C01, 0x3C02, 0x3D55)
        for x in (0, 0x8000)
        for y in (0, 0x8000)
    ]
    columns = [np.resize(np.array(column, np.uint32), 64) for column in zip(*cases, strict=True)]
    vector = {f"v{8 + i}": column for i, column in enumerate(columns)}
    got = run(target, [Case(f"{name} v32, v8, v9, v10", vector) for name in ("v_fma_f16", "v_pk_fma_f16")])
    want = [fp.fma(F16, *(int(v) for v in lanes)) for lanes in zip(*columns, strict=True)]
    through_f32 = [
        fp.convert(F16, F32, fp.encode(F32, fp.value(F16, int(a)) * fp.value(F16, int(b)) + fp.value(F16, int(c))))
        for a, b, c in zip(*columns, strict=True)
    ]
    assert want != through_f32
    for result in got:
        assert [int(v) & 0xFFFF for v in result["v32"]] == want
