"""Conversions of the 8-, 6- and 4-bit formats: FNUZ on gfx942, OCP on gfx950, with and without block scales."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import FULL, TARGETS, Case, run
from emulator.executor import library
from emulator.floats import BF6, BF8_FNUZ, BF8_OCP, BF16, F16, F32, FP4, FP6, FP8_FNUZ, FP8_OCP, Format
from emulator.integer_models import M32
from emulator.values import exec_mask, floats, generator, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated

EIGHT = {"gfx942": {"fp8": FP8_FNUZ, "bf8": BF8_FNUZ}, "gfx950": {"fp8": FP8_OCP, "bf8": BF8_OCP}}
FORMATS = {"fp8": FP8_OCP, "bf8": BF8_OCP, "fp6": FP6, "bf6": BF6, "fp4": FP4, "f16": F16, "bf16": BF16, "f32": F32}


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def narrow_floats(rng: np.random.Generator, count: int = 64) -> Any:
    """f32 bits around the range of the small formats, halfway cases included."""
    spread = (rng.choice([-1, 1], count) * np.exp2(rng.uniform(-20, 17, count))).astype(np.float32)
    ties = (rng.integers(-64, 64, count) / 16).astype(np.float32)
    values = np.where(rng.random(count) < 0.4, ties, spread).astype(np.float32).view(np.uint32)
    corners = floats(rng, count)
    return np.where(rng.random(count) < 0.3, corners, values).astype(np.uint32)


def test_the_model_knows_the_formats() -> None:
    """Published values: largest magnitudes, smallest denormals, special codes."""
    largest = {FP8_FNUZ: 240, BF8_FNUZ: 57344, FP8_OCP: 448, BF8_OCP: 57344, FP6: 7.5, BF6: 28, FP4: 6}
    for f, value in largest.items():
        assert fp.value(f, f.largest) == Fraction(value)
    smallest = {FP8_FNUZ: -10, BF8_FNUZ: -17, FP8_OCP: -9, BF8_OCP: -16, FP6: -3, BF6: -4, FP4: -1}
    for f, power in smallest.items():
        assert fp.value(f, 1) == Fraction(2) ** power
    assert [fp.is_nan(FP8_FNUZ, c) for c in (0x80, 0x7F)] == [True, False]
    assert [fp.is_nan(FP8_OCP, c) for c in (0x80, 0x7F, 0xFF)] == [False, True, True]


@pytest.mark.parametrize("target", TARGETS)
def test_widening(target: str) -> None:
    """Every code, in every byte."""
    codes = np.arange(256, dtype=np.uint32)
    cases, expected = [], []
    for name, f in EIGHT[target].items():
        table = [fp.convert(F32, f, c) for c in range(256)]
        for byte in range(4):
            for start in range(0, 256, 64):
                noise = integers(generator(name, byte)) & ~np.uint32(0xFF << (8 * byte))
                lanes = noise | codes[start : start + 64] << np.uint32(8 * byte)
                suffix = f"_sdwa v32, v8 src0_sel:BYTE_{byte}" if byte else "_e32 v32, v8"
                cases.append(Case(f"v_cvt_f32_{name}{suffix}", {"v8": lanes}))
                expected.append([table[start : start + 64]])
                if byte % 2 == 0:
                    suffix = f"_sdwa v[32:33], v8 src0_sel:WORD_{byte // 2}" if byte else "_e32 v[32:33], v8"
                    cases.append(Case(f"v_cvt_pk_f32_{name}{suffix}", {"v8": lanes}, read=("v32", "v33")))
                    expected.append([[table[int(v) >> s & 255] for v in lanes] for s in (8 * byte, 8 * byte + 8)])
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        for lanes, values in zip(got.values(), want, strict=True):
            assert [normal_nan(int(v)) for v in lanes] == [normal_nan(v) for v in values], case.text


def normal_nan(code: int) -> int:
    """Widened NaNs have no documented payload."""
    return F32.quiet_nan if fp.is_nan(F32, code) else code


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("saturate", [False, True])
def test_packing_fp8(target: str, saturate: bool) -> None:
    cases, expected = [], []
    for name, f in EIGHT[target].items():
        for number in range(4):
            rng = generator(name, number)
            a, b, old = narrow_floats(rng), narrow_floats(rng), integers(rng)
            mask = exec_mask(rng) if number == 3 else FULL
            select = " op_sel:[0,0,1]" if number % 2 else ""
            text = f"v_cvt_pk_{name}_f32 v32, v8, -|v9|{select}"
            if saturate:
                text = (
                    f"s_setreg_imm32_b32 hwreg(HW_REG_MODE, 23, 1), 1\n{text}\n"
                    "s_setreg_imm32_b32 hwreg(HW_REG_MODE, 23, 1), 0"
                )
            cases.append(Case(text, {"v8": a, "v9": b, "v32": old}, exec=mask))
            want = []
            for i in range(64):
                low, high = (fp.convert(f, F32, c, saturate=saturate) for c in (int(a[i]), int(b[i]) | 0x80000000))
                both = low | high << 8
                merged = (int(old[i]) & 0xFFFF) | both << 16 if number % 2 else (int(old[i]) & 0xFFFF0000) | both
                want.append(merged if mask >> i & 1 else int(old[i]))
            expected.append((f, want))
    for case, (f, want), got in zip(cases, expected, run(target, cases), strict=True):
        found = [int(v) for v in got["v32"]]
        bad = [i for i in range(64) if found[i] != want[i] and not same_but_nan(f, found[i], want[i])]
        assert not bad, (
            case.text,
            hex(found[bad[0]]),
            hex(want[bad[0]]),
            [hex(int(case.vector[r][bad[0]])) for r in ("v8", "v9")],
        )


def same_but_nan(f: Format, x: int, y: int) -> bool:
    """Bytes equal, but for which of several NaNs they are."""
    for k in range(0, 32, 8):
        a, b = x >> k & 255, y >> k & 255
        if a != b and not (f.nan == "ieee" and fp.is_nan(f, a) and fp.is_nan(f, b)):
            return False
    return True


def stochastic(f: Format, code: int, random: int) -> set[int]:
    """Both neighbours of a number; which one it is depends on the random bits."""
    if fp.is_nan(F32, code) or fp.is_infinite(F32, code):
        return {fp.convert(f, F32, code)}
    return {fp.convert(f, F32, code, fp.UP), fp.convert(f, F32, code, fp.DOWN), fp.convert(f, F32, code, fp.ZERO)}


@pytest.mark.parametrize("target", TARGETS)
def test_stochastic_rounding(target: str) -> None:
    """The result is a neighbour, exact values stay, and the mean is right."""
    names: dict[str, tuple[Format, int]] = {name: (f, 8) for name, f in EIGHT[target].items()}
    if target == "gfx950":
        names |= {"f16": (F16, 16), "bf16": (BF16, 16)}
    for name, (f, bits) in names.items():
        rng = generator("sr" + name)
        a, random, old = narrow_floats(rng), integers(rng), integers(rng)
        places = 32 // bits
        cases = []
        for place in range(places):
            select = [place & 1, place >> 1] if bits == 8 else [0, place]
            cases.append(
                Case(
                    f"v_cvt_sr_{name}_f32 v32, v8, v9 op_sel:[0,0,{select[0]},{select[1]}]"
                    if bits == 8
                    else f"v_cvt_sr_{name}_f32 v32, v8, v9 op_sel:[0,0,{place}]",
                    {"v8": a, "v9": random, "v32": old},
                )
            )
        for place, got in enumerate(run(target, cases)):
            for i in range(64):
                found, before = int(got["v32"][i]), int(old[i])
                field = ((1 << bits) - 1) << (bits * place)
                assert found & ~field == before & ~field
                code = found >> (bits * place) & ((1 << bits) - 1)
                allowed = stochastic(f, int(a[i]), int(random[i]))
                assert code in allowed or (fp.is_nan(f, code) and any(fp.is_nan(f, x) for x in allowed)), (
                    name,
                    hex(int(a[i])),
                    hex(code),
                )
        # A quarter of the way between two values rounds up for a quarter of the random numbers.
        step = Fraction(1, 1 << f.mantissa)
        value = fp.encode(F32, 1 + step / 4)
        evenly = (np.arange(64, dtype=np.uint64) << np.uint64(26)).astype(np.uint32)
        got = run(
            target,
            [Case(f"v_cvt_sr_{name}_f32 v32, v8, v9", {"v8": np.uint32(value), "v9": evenly, "v32": np.uint32(0)})],
        )[0]
        up = sum(int(v) == fp.encode(f, 1 + step) for v in got["v32"])
        assert up == 16, (name, up)


def pack_fields(codes: Sequence[Sequence[int]], bits: int) -> list[Any]:
    """Registers that hold, lane by lane, codes of `bits` bits one after the other."""
    count = (len(codes[0]) * bits + 31) // 32
    registers = np.zeros((count, 64), np.uint32)
    for lane, values in enumerate(codes):
        word = sum(code << (bits * i) for i, code in enumerate(values))
        for r in range(count):
            registers[r][lane] = word >> (32 * r) & M32
    return list(registers)


def unpack_fields(registers: Sequence[Any], bits: int, count: int) -> list[list[int]]:
    result = []
    for lane in range(64):
        word = sum(int(r[lane]) << (32 * i) for i, r in enumerate(registers))
        result.append([word >> (bits * i) & ((1 << bits) - 1) for i in range(count)])
    return result


def span(first: int, count: int) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


def scaled(to: Format, source: Format, code: int, power: int) -> int:
    """A code times 2^power in another format, nearest even."""
    if fp.is_nan(source, code) or fp.is_infinite(source, code):
        return fp.convert(to, source, code)
    return fp.encode(to, fp.value(source, code) * Fraction(2) ** power, sign_of_zero=fp.negative(source, code))


def random_codes(rng: np.random.Generator, f: Format, count: int) -> list[list[int]]:
    if f is F32:
        return [[int(v) for v in narrow_floats(rng, count)] for _ in range(64)]
    if f in (F16, BF16):
        return [[fp.convert(f, F32, int(v)) for v in narrow_floats(rng, count)] for _ in range(64)]
    return rng.integers(0, 1 << f.bits, (64, count)).tolist()


# Source, destination, values a lane, mnemonic's middle; the registers follow from the widths.
WIDENING = [
    ("pk_f32_fp8", "fp8", "f32", 2), ("pk_f32_bf8", "bf8", "f32", 2), ("pk_f32_fp4", "fp4", "f32", 2),
    ("pk_f16_fp8", "fp8", "f16", 2), ("pk_f16_bf8", "bf8", "f16", 2), ("pk_f16_fp4", "fp4", "f16", 2),
    ("pk_bf16_fp8", "fp8", "bf16", 2), ("pk_bf16_bf8", "bf8", "bf16", 2), ("pk_bf16_fp4", "fp4", "bf16", 2),
    ("pk32_f32_fp6", "fp6", "f32", 32), ("pk32_f32_bf6", "bf6", "f32", 32),
    ("pk32_f16_fp6", "fp6", "f16", 32), ("pk32_f16_bf6", "bf6", "f16", 32),
    ("pk32_bf16_fp6", "fp6", "bf16", 32), ("pk32_bf16_bf6", "bf6", "bf16", 32),
    ("f32_fp8", "fp8", "f32", 1), ("f32_bf8", "bf8", "f32", 1),
    ("f16_fp8", "fp8", "f16", 1), ("f16_bf8", "bf8", "f16", 1),
]  # fmt: skip
NARROWING = [
    ("pk_fp8_f16", "f16", "fp8", 2), ("pk_bf8_f16", "f16", "bf8", 2), ("pk_fp4_f16", "f16", "fp4", 2),
    ("pk_fp8_bf16", "bf16", "fp8", 2), ("pk_bf8_bf16", "bf16", "bf8", 2), ("pk_fp4_bf16", "bf16", "fp4", 2),
    ("pk32_fp6_f16", "f16", "fp6", 32), ("pk32_bf6_f16", "f16", "bf6", 32),
    ("pk32_fp6_bf16", "bf16", "fp6", 32), ("pk32_bf6_bf16", "bf16", "bf6", 32),
]  # fmt: skip


def check_scaled(name: str, source: str, to: str, count: int, narrows: bool) -> None:
    f, t = FORMATS[source], FORMATS[to]
    rng = generator(name)
    codes = random_codes(rng, f, count)
    powers = rng.integers(-6, 7, 64)
    scale = ((127 + powers) << 23 | rng.integers(0, 1 << 23, 64)).astype(np.uint32)
    registers = pack_fields(codes, f.bits)
    outputs = (count * t.bits + 31) // 32
    vector = {f"v{8 + i}": r for i, r in enumerate(registers)} | {"v60": scale}
    read = [f"v{100 + i}" for i in range(outputs)]
    vector |= {r: np.uint32(0x77777777) for r in read}
    text = f"v_cvt_scalef32_{name} {span(100, outputs)}, {span(8, len(registers))}, v60"
    got = run("gfx950", [Case(text, vector, read=read)])[0]
    found = unpack_fields([got[r] for r in read], t.bits, count)
    for lane in range(64):
        power = int(powers[lane])
        for x, y in zip(codes[lane], found[lane], strict=True):
            want = scaled(t, f, x, -power if narrows else power)
            both_nan = t.nan != "none" and fp.is_nan(t, want) and fp.is_nan(t, y)
            if fp.is_nan(f, x) and t.nan == "none":
                continue  # what a NaN becomes in a format without one is not documented
            assert y == want or both_nan, (name, lane, hex(x), power, hex(y), hex(want))
    width = count * t.bits
    if width < 32:  # the rest of the register stays
        assert all(int(got[read[0]][lane]) >> width == 0x77777777 >> width for lane in range(64))


@pytest.mark.parametrize(("name", "source", "to", "count"), WIDENING, ids=[w[0] for w in WIDENING])
def test_scaled_widening(name: str, source: str, to: str, count: int) -> None:
    check_scaled(name, source, to, count, narrows=False)


@pytest.mark.parametrize(("name", "source", "to", "count"), NARROWING, ids=[n[0] for n in NARROWING])
def test_scaled_narrowing(name: str, source: str, to: str, count: int) -> None:
    check_scaled(name, source, to, count, narrows=True)


@pytest.mark.parametrize("to", ["fp8", "bf8", "fp4"])
def test_scaled_pairs(to: str) -> None:
    """Two f32 sources and a scale, into every place of the destination."""
    f = FORMATS[to]
    rng = generator("pair" + to)
    a, b, old = narrow_floats(rng), narrow_floats(rng), integers(rng)
    power = rng.integers(-4, 5, 64)
    scale = ((127 + power) << 23).astype(np.uint32)
    places = [(0, 0), (1, 0), (0, 1), (1, 1)] if to == "fp4" else [(0, 0), (0, 1)]
    width = 2 * f.bits
    cases = [
        Case(
            f"v_cvt_scalef32_pk_{to}_f32 v32, v8, v9, v10 op_sel:[0,0,{x},{y}]",
            {"v8": a, "v9": b, "v10": scale, "v32": old},
        )
        for x, y in places
    ]
    for (x, y), got in zip(places, run("gfx950", cases), strict=True):
        shift = 8 * (x + 2 * y) if to == "fp4" else 16 * y
        for i in range(64):
            if to == "fp4" and (fp.is_nan(F32, int(a[i])) or fp.is_nan(F32, int(b[i]))):
                continue
            pair = scaled(f, F32, int(a[i]), -int(power[i])) | scaled(f, F32, int(b[i]), -int(power[i])) << f.bits
            field = ((1 << width) - 1) << shift
            want = (int(old[i]) & ~field) | pair << shift
            assert int(got["v32"][i]) == want or same_but_nan(f, int(got["v32"][i]), want), (
                to,
                hex(int(a[i])),
                hex(int(b[i])),
                hex(int(got["v32"][i])),
                hex(want),
            )


@pytest.mark.parametrize("source", ["fp8", "bf8"])
def test_scaled_single_half(source: str) -> None:
    """Any byte of the source, into either half of the destination; the other half stays."""
    f = FORMATS[source]
    rng = generator("single" + source)
    codes, old = integers(rng), integers(rng)
    power = rng.integers(-4, 5, 64)
    vector = {"v8": codes, "v9": ((127 + power) << 23).astype(np.uint32), "v32": old}
    places = [(byte, half) for byte in range(4) for half in range(2)]
    cases = [
        Case(f"v_cvt_scalef32_f16_{source} v32, v8, v9 op_sel:[{byte & 1},{byte >> 1},{half}]", vector)
        for byte, half in places
    ]
    for (byte, half), got in zip(places, run("gfx950", cases), strict=True):
        for i in range(64):
            want = scaled(F16, f, int(codes[i]) >> (8 * byte) & 255, int(power[i]))
            found = int(got["v32"][i])
            assert found & ~(0xFFFF << (16 * half)) == int(old[i]) & ~(0xFFFF << (16 * half)), (byte, half)
            code = found >> (16 * half) & 0xFFFF
            assert code == want or (fp.is_nan(F16, code) and fp.is_nan(F16, want)), (byte, half, hex(code), hex(want))


@pytest.mark.parametrize("to", ["fp6", "bf6"])
def test_scaled_2xpk16(to: str) -> None:
    """Sixteen values each of two sources, interleaved."""
    f = FORMATS[to]
    rng = generator("2xpk16" + to)
    first, second = random_codes(rng, F32, 16), random_codes(rng, F32, 16)
    power = rng.integers(-4, 5, 64)
    vector = {f"v{8 + i}": r for i, r in enumerate(pack_fields(first, 32))} | {
        f"v{24 + i}": r for i, r in enumerate(pack_fields(second, 32))
    }
    vector["v60"] = ((127 + power) << 23).astype(np.uint32)
    read = [f"v{100 + i}" for i in range(6)]
    got = run(
        "gfx950", [Case(f"v_cvt_scalef32_2xpk16_{to}_f32 v[100:105], v[8:23], v[24:39], v60", vector, read=read)]
    )[0]
    for lane, codes in enumerate(unpack_fields([got[r] for r in read], 6, 32)):
        for i, code in enumerate(codes):
            x = (first, second)[i % 2][lane][i // 2]
            if not fp.is_nan(F32, x):
                assert code == scaled(f, F32, x, -int(power[lane])), (to, lane, i)


@pytest.mark.parametrize(
    "name",
    [f"{to}_{source}" for to in ("fp8", "bf8", "pk_fp4", "pk32_fp6", "pk32_bf6") for source in ("f32", "f16", "bf16")],
)
def test_scaled_stochastic(name: str) -> None:
    """Results are neighbours of the scaled value."""
    *_, to, source = name.split("_")
    f, t = FORMATS[source], FORMATS[to]
    count = 32 if "pk32" in name else 2 if "pk" in name else 1
    rng = generator("sr" + name)
    codes = random_codes(rng, f, count)
    registers = pack_fields(codes, f.bits)
    power = rng.integers(-3, 4, 64)
    outputs = max(1, count * t.bits // 32)
    vector = {f"v{8 + i}": r for i, r in enumerate(registers)}
    vector |= {"v60": integers(rng), "v61": ((127 + power) << 23).astype(np.uint32)}
    read = [f"v{100 + i}" for i in range(outputs)]
    text = f"v_cvt_scalef32_sr_{name} {span(100, outputs)}, {span(8, len(registers))}, v60, v61"
    got = run("gfx950", [Case(text, vector, read=read)])[0]
    for lane, found in enumerate(unpack_fields([got[r] for r in read], t.bits, count)):
        for x, y in zip(codes[lane], found, strict=True):
            if fp.is_nan(f, x) or fp.is_infinite(f, x):
                continue
            number = fp.value(f, x) * Fraction(2) ** -int(power[lane])
            allowed = {fp.encode(t, number, r, fp.negative(f, x)) for r in (fp.UP, fp.DOWN, fp.ZERO)}
            assert y in allowed, (name, lane, hex(x), hex(y))
