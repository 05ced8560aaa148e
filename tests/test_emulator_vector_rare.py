"""Vector instructions that compilers hardly ever choose: cube maps, normalised conversions, legacy arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import TARGETS, Case, run, split64
from emulator.executor import library
from emulator.floats import F16, F32, F64, Format
from emulator.integer_models import M32, clamp, signed
from emulator.values import doubles, exec_mask, floats, generator, halves, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated
OLD = 0xABCD1234


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def check(target: str, entries: list[tuple[Case, list[int | None]]]) -> None:
    """v32 of each case; None where no source says what a lane holds."""
    wrong = []
    for (case, want), got in zip(entries, run(target, [case for case, _ in entries]), strict=True):
        found = [int(v) for v in got["v32"]]
        bad = [i for i in range(64) if want[i] is not None and found[i] != want[i]]
        assert sum(w is not None for w in want) > 24, (case.text, "hardly a lane is compared")
        if bad:
            inputs = {name: hex(int(np.broadcast_to(np.asarray(v), 64)[bad[0]])) for name, v in case.vector.items()}
            wrong.append(f"{case.text}: lane {bad[0]} is {found[bad[0]]:#x}, not {want[bad[0]]:#x}; from {inputs}")
    assert not wrong, "\n".join(wrong[:20])


def with_old(values: dict[str, Any]) -> dict[str, Any]:
    return {**values, "v32": np.uint32(OLD)}


def masked(mask: int, lanes: list[int | None]) -> list[int | None]:
    return [w if mask >> i & 1 else OLD for i, w in enumerate(lanes)]


Cube = Callable[[int, int, int], int]


def cube(x: int, y: int, z: int) -> str:
    """The axis of largest magnitude; z wins over y, y over x."""
    ax, ay, az = (v & 0x7FFFFFFF for v in (x, y, z))
    return "z" if az >= ax and az >= ay else "y" if ay >= ax else "x"


def below(code: int) -> bool:
    return code >> 31 == 1 and not fp.is_zero(F32, code)


def minus(code: int) -> int:
    return code ^ 0x80000000


CUBE: dict[str, Callable[[str, int, int, int], int]] = {
    "v_cubeid_f32": lambda axis, x, y, z: fp.encode(
        F32, Fraction({"x": 0, "y": 2, "z": 4}[axis] + below({"x": x, "y": y, "z": z}[axis]))
    ),
    "v_cubesc_f32": lambda axis, x, y, z: {
        "x": z if below(x) else minus(z), "y": x, "z": minus(x) if below(z) else x
    }[axis],
    "v_cubetc_f32": lambda axis, x, y, z: {
        "x": minus(y), "y": minus(z) if below(y) else z, "z": minus(y)
    }[axis],
    "v_cubema_f32": lambda axis, x, y, z: fp.mul(F32, {"x": x, "y": y, "z": z}[axis], 0x40000000),
}  # fmt: skip


@pytest.mark.parametrize("target", TARGETS)
def test_cube_maps(target: str) -> None:
    entries: list[tuple[Case, list[int | None]]] = []
    for name, model in CUBE.items():
        for number in range(4):
            rng = generator(name, number)
            x, y, z = (floats(rng) for _ in range(3))
            y[::5] = x[::5] ^ np.uint32(0x80000000)  # equal magnitudes
            z[::7] = y[::7]
            z[1::2] = np.where(rng.random(32) < 0.5, 0x3E000000, z[1::2])
            mask = exec_mask(rng) if number else (1 << 64) - 1
            want: list[int | None] = [
                None if any(fp.is_nan(F32, v) for v in v3) else model(cube(*v3), *v3)
                for v3 in (tuple(int(v[i]) for v in (x, y, z)) for i in range(64))
            ]
            operands = "v8, v9, v10"
            if number == 3:
                operands = "-|v8|, v9, -v10"
                signs = [((int(a) | 1 << 31), int(b), int(c) ^ 1 << 31) for a, b, c in zip(x, y, z, strict=True)]
                want = [None if any(fp.is_nan(F32, v) for v in v3) else model(cube(*v3), *v3) for v3 in signs]
            case = Case(f"{name} v32, {operands}", with_old({"v8": x, "v9": y, "v10": z}), exec=mask)
            entries.append((case, masked(mask, want)))
    check(target, entries)


def normalised(code: int, is_signed: bool) -> tuple[int, ...] | None:
    """The integers that an f16 may become: two where the product is so near to a half that a rounding on the way to it
    decides."""
    if fp.is_nan(F16, code):
        return None
    low, top = (-1, 32767) if is_signed else (0, 65535)
    if fp.is_infinite(F16, code):
        x = Fraction(low if fp.negative(F16, code) else 1)
    else:
        x = max(Fraction(low), min(Fraction(1), fp.value(F16, code)))
    product = x * top
    near = abs(product - math.floor(product) - Fraction(1, 2)) < Fraction(1, 128)
    choices = (math.floor(product), math.floor(product) + 1) if near else (round(product),)
    return tuple(c & 0xFFFF for c in choices)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["i16", "u16"])
def test_normalised_halves(target: str, kind: str) -> None:
    """Every fifth f16, as e32, with a negated source as e64, out of the high half by SDWA, and in pairs."""
    codes = (np.arange(64 * 208, dtype=np.uint32) * 5 + 3) & 0xFFFF
    noise = generator("norm").integers(0, 1 << 16, len(codes)).astype(np.uint32)
    forms: list[tuple[str, Callable[[int], int]]] = [
        (f"v_cvt_norm_{kind}_f16_e32 v32, v8", lambda c: c),
        (f"v_cvt_norm_{kind}_f16_e64 v32, -v8", lambda c: c ^ 0x8000),
        (f"v_cvt_norm_{kind}_f16_sdwa v32, |v9| dst_sel:DWORD src0_sel:WORD_1", lambda c: c & 0x7FFF),
        (f"v_cvt_pknorm_{kind}_f16 v32, v8, v10", lambda c: c),
    ]
    cases, used = [], []
    for start in range(0, len(codes), 64):
        lanes, other = codes[start : start + 64], noise[start : start + 64]
        text, sign = forms[start // 64 % 4]
        vector = {"v8": lanes | other << 16, "v9": lanes << 16 | other, "v10": lanes[::-1].copy()}
        cases.append(Case(text, vector))
        used.append((lanes, sign, "pknorm" in text))
    for case, (lanes, sign, pair), got in zip(cases, used, run(target, cases), strict=True):
        for i in range(64):
            found = int(got["v32"][i])
            parts = [(found & 0xFFFF, int(lanes[i])), (found >> 16, int(lanes[63 - i]))]
            if not pair:
                assert found >> 16 == 0
            for value, code in parts[: 2 if pair else 1]:
                allowed = normalised(sign(code), kind == "i16")
                assert allowed is None or value in allowed, (case.text, hex(code), hex(value), allowed)


@pytest.mark.parametrize("target", TARGETS)
def test_rounding_up_on_ties(target: str) -> None:
    """v_cvt_rpi: the floor of the f32 sum with a half."""
    entries: list[tuple[Case, list[int | None]]] = []
    for number in range(3):
        rng = generator("rpi", number)
        values = floats(rng)
        values[:6] = [0x3EFFFFFF, 0xBF000000, 0x3F000000, 0x4B000001, 0xC0200000, 0x4EFFFFFF]
        want: list[int | None] = []
        for v in values:
            total = fp.add(F32, int(v), 0x3F000000)
            if fp.is_nan(F32, total):
                want.append(0)
            elif fp.is_infinite(F32, total):
                want.append(0x80000000 if fp.negative(F32, total) else 0x7FFFFFFF)
            else:
                want.append(clamp(math.floor(fp.value(F32, total)), -(1 << 31), (1 << 31) - 1) & M32)
        suffix = ("_e32", "_e64", "_sdwa")[number]
        select = " dst_sel:DWORD src0_sel:DWORD" if number == 2 else ""
        entries.append((Case(f"v_cvt_rpi_i32_f32{suffix} v32, v8{select}", {"v8": values}), want))
    check(target, entries)


@pytest.mark.parametrize("target", TARGETS)
def test_multiplication_by_zero(target: str) -> None:
    """v_mul_legacy_f32: zero times anything is +0."""
    entries: list[tuple[Case, list[int | None]]] = []
    for number in range(3):
        rng = generator("legacy", number)
        a, b = floats(rng), floats(rng)
        a[:8], b[4:12] = [0, 1 << 31] * 4, [1 << 31, 0] * 4
        b[:4] = [0x7F800000, 0x7FC00001, 0xFF800000, 0xBF800000]
        want: list[int | None] = [
            0 if fp.is_zero(F32, int(x)) or fp.is_zero(F32, int(y)) else fp.mul(F32, int(x), int(y))
            for x, y in zip(a, b, strict=True)
        ]
        entries.append((Case("v_mul_legacy_f32 v32, v8, v9", {"v8": a, "v9": b}), want))
    check(target, entries)


def multiply_add(a: int, b: int, c: int) -> int | None:
    """Two roundings. None where a denormal takes part: these instructions may not support them."""
    product = fp.mul(F16, a, b)
    total = fp.add(F16, product, c)
    return None if any(fp.is_denormal(F16, v) for v in (a, b, c, product, total)) else total


def fixup(_: int, denominator: int, numerator: int) -> int:
    sign = fp.negative(F16, denominator) != fp.negative(F16, numerator)
    for code in (numerator, denominator):
        if fp.is_nan(F16, code):
            return fp.quiet(F16, code)
    zero, infinite = ([test(F16, v) for v in (denominator, numerator)] for test in (fp.is_zero, fp.is_infinite))
    if all(zero) or all(infinite):
        return 0xFE00
    if zero[0] or infinite[1]:
        return fp.infinity(F16, sign)
    return (0x8000 if sign else 0) | (0 if infinite[0] or zero[1] else _ & 0x7FFF)


def wrapping(a: int, b: int, c: int) -> int:
    return (a * b + c) & 0xFFFF


# Model, and whether the other half of the destination stays.
HALVES: dict[str, tuple[Callable[[int, int, int], int | None], bool]] = {
    "v_mad_f16": (multiply_add, True),
    "v_mad_legacy_f16": (multiply_add, False),
    "v_fma_legacy_f16": (lambda a, b, c: fp.fma(F16, a, b, c), False),
    "v_div_fixup_legacy_f16": (fixup, False),
    "v_mad_legacy_i16": (wrapping, False),
    "v_mad_legacy_u16": (wrapping, False),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", HALVES)
def test_halves(target: str, name: str) -> None:
    """The legacy forms clear the high half of the destination."""
    model, keeps = HALVES[name]
    is_float = name.endswith("f16")
    entries: list[tuple[Case, list[int | None]]] = []
    for number in range(4):
        rng = generator(name, number)
        a, b, c = (halves(rng) if is_float else integers(rng) for _ in range(3))
        if is_float and number:  # ordinary values, whose products round
            a, b, c = (rng.normal(0, 3, 64).astype(np.float16).view(np.uint16).astype(np.uint32) for _ in range(3))
        mask = exec_mask(rng) if number else (1 << 64) - 1
        inputs = [[int(v) & 0xFFFF for v in values] for values in (a, b, c)]
        operands, modifiers = "v8, v9, v10", ""
        if number == 2 and is_float:
            operands = "-v8, |v9|, v10"
            inputs = [[v ^ 0x8000 for v in inputs[0]], [v & 0x7FFF for v in inputs[1]], inputs[2]]
        if number == 3 and keeps:
            modifiers = " op_sel:[0,1,0,1]"
            b = b << np.uint32(16)
        want: list[int | None] = []
        for values in zip(*inputs, strict=True):
            result = model(*values)
            if result is not None and keeps:
                result = result << 16 | OLD & 0xFFFF if modifiers else result | OLD & 0xFFFF0000
            want.append(result)
        case = Case(f"{name} v32, {operands}{modifiers}", with_old({"v8": a, "v9": b, "v10": c}), exec=mask)
        entries.append((case, masked(mask, want)))
    check(target, entries)


@pytest.mark.parametrize("target", TARGETS)
def test_saturating_halves(target: str) -> None:
    entries: list[tuple[Case, list[int | None]]] = []
    for name, low, high in (("v_mad_legacy_u16", 0, 0xFFFF), ("v_mad_legacy_i16", -0x8000, 0x7FFF)):
        rng = generator(name, 7)
        a, b, c = (integers(rng) for _ in range(3))
        read = (lambda v: v & 0xFFFF) if low == 0 else (lambda v: signed(v, 16))
        want: list[int | None] = [
            clamp(read(int(x)) * read(int(y)) + read(int(z)), low, high) & 0xFFFF
            for x, y, z in zip(a, b, c, strict=True)
        ]
        entries.append((Case(f"{name} v32, v8, v9, v10 clamp", with_old({"v8": a, "v9": b, "v10": c})), want))
    check(target, entries)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", ["v_cvt_pkaccum_u8_f32", "v_cvt_pk_u8_f32"])
def test_byte_insertion(target: str, name: str) -> None:
    """A float as a byte, into the byte of the destination or the third source that the second source numbers."""
    entries: list[tuple[Case, list[int | None]]] = []
    for number in range(3):
        rng = generator(name, number)
        values = rng.uniform(-20, 300, 64).astype(np.float32).view(np.uint32)
        values[::3] = floats(rng)[::3]
        values[1::9] = (np.arange(len(values[1::9])) * 8 + 0.5).astype(np.float32).view(np.uint32)
        position, into = integers(rng), integers(rng)
        accumulates = "accum" in name
        want: list[int | None] = []
        for v, p, old in zip(values, position, into, strict=True):
            code, shift = int(v), 8 * (int(p) & 3)
            if fp.is_nan(F32, code):
                want.append(None)
                continue
            edge = 0 if fp.negative(F32, code) else 255
            byte = edge if fp.is_infinite(F32, code) else clamp(round(fp.value(F32, code)), 0, 255)
            want.append(int(old) & ~(255 << shift) & M32 | byte << shift)
        vector = {"v8": values, "v9": position, "v10": into, "v32": into if accumulates else np.uint32(OLD)}
        entries.append((Case(f"{name} v32, v8, v9{'' if accumulates else ', v10'}", vector), want))
    check(target, entries)


def kind_of(f: Format, code: int) -> int:
    minus_sign = fp.negative(f, code)
    if fp.is_nan(f, code):
        return 0 if fp.is_signalling(f, code) else 1
    if fp.is_infinite(f, code):
        return 2 if minus_sign else 9
    if fp.is_zero(f, code):
        return 5 if minus_sign else 6
    if fp.is_denormal(f, code):
        return 4 if minus_sign else 7
    return 3 if minus_sign else 8


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("f", [F16, F32, F64], ids=["f16", "f32", "f64"])
def test_class_into_exec(target: str, f: Format) -> None:
    """v_cmpx_class writes EXEC as well as its destination; lanes that are off stay off."""
    name = {F16: "f16", F32: "f32", F64: "f64"}[f]
    cases, expected = [], []
    for form in ("e32 vcc", "e64 s[40:41]"):
        rng = generator(form + name)
        values = {F16: halves, F32: floats, F64: doubles}[f](rng)
        classes, mask = rng.integers(0, 1024, 64).astype(np.uint32), exec_mask(rng)
        vector: dict[str, Any] = {"v8": values, "v16": classes}
        if f is F64:
            vector["v8"], vector["v9"] = split64(values)
        want = mask & sum(
            (int(c) >> kind_of(f, int(v) & ((1 << f.bits) - 1)) & 1) << i
            for i, (v, c) in enumerate(zip(values, classes, strict=True))
        )
        operand = "v[8:9]" if f is F64 else "v8"
        scalar: dict[str | int, int] = {40: 1, 41: 2, "vcc_lo": 3, "vcc_hi": 4}
        text = f"v_cmpx_class_{name}_{form}, {operand}, v16"
        cases.append(Case(text, vector, scalar, ("exec", "vcc", "s40", "s41"), mask))
        expected.append((want, want, 1, 2) if "vcc" in form else (want, 4 << 32 | 3, want & M32, want >> 32))
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert tuple(got.values()) == want, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_accumulation_register_moves(target: str) -> None:
    a, mask = integers(generator("acc")), exec_mask(generator("acc", 1))
    text = "v_accvgpr_write_b32 a3, v8\nv_accvgpr_mov_b32 a9, a3\nv_accvgpr_read_b32 v32, a9"
    moved, partly = run(
        target,
        [
            Case(text, {"v8": a}),
            Case("v_accvgpr_mov_b32 a9, a3", {"a3": a, "a9": np.uint32(5)}, read=("a9",), exec=mask),
        ],
    )
    assert np.array_equal(moved["v32"], a)
    assert [int(v) for v in partly["a9"]] == [int(v) if mask >> i & 1 else 5 for i, v in enumerate(a)]


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_happens(target: str) -> None:
    a = integers(generator("nop"))
    text = "v_nop\nv_nop_e64\nv_clrexcp\nv_clrexcp_e64"
    scalar: dict[str | int, int] = {"vcc_lo": 3, "vcc_hi": 4, "m0": 9, "scc": 1}
    got = run(target, [Case(text, {"v0": a, "v32": a}, scalar, ("v0", "v32", "vcc", "m0", "scc", "exec"))])[0]
    assert np.array_equal(got["v0"], a) and np.array_equal(got["v32"], a)
    assert (got["vcc"], got["m0"], got["scc"], got["exec"]) == (4 << 32 | 3, 9, 1, (1 << 64) - 1)
