"""Packed arithmetic, dot products and mixed-precision multiply-add."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import FULL, TARGETS, Case, run
from emulator.executor import library
from emulator.floats import BF16, F16, F32
from emulator.integer_models import M32, clamp, signed
from emulator.values import exec_mask, floats, generator, halves, integers, packed_halves

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def s16(x: int) -> int:
    return signed(x, 16)


INTEGER: dict[str, tuple[int, Callable[..., int]]] = {
    "v_pk_mad_i16": (3, lambda a, b, c: a * b + c),
    "v_pk_mad_u16": (3, lambda a, b, c: a * b + c),
    "v_pk_mul_lo_u16": (2, lambda a, b: a * b),
    "v_pk_add_i16": (2, lambda a, b: a + b),
    "v_pk_sub_i16": (2, lambda a, b: a - b),
    "v_pk_add_u16": (2, lambda a, b: a + b),
    "v_pk_sub_u16": (2, lambda a, b: a - b),
    "v_pk_lshlrev_b16": (2, lambda a, b: b << (a & 15)),
    "v_pk_lshrrev_b16": (2, lambda a, b: b >> (a & 15)),
    "v_pk_ashrrev_i16": (2, lambda a, b: s16(b) >> (a & 15)),
    "v_pk_max_i16": (2, lambda a, b: max(s16(a), s16(b))),
    "v_pk_min_i16": (2, lambda a, b: min(s16(a), s16(b))),
    "v_pk_max_u16": (2, max),
    "v_pk_min_u16": (2, min),
}
CLAMPED: dict[str, tuple[int, Callable[..., int]]] = {
    "v_pk_add_i16": (2, lambda a, b: clamp(s16(a) + s16(b), -0x8000, 0x7FFF)),
    "v_pk_sub_i16": (2, lambda a, b: clamp(s16(a) - s16(b), -0x8000, 0x7FFF)),
    "v_pk_add_u16": (2, lambda a, b: min(a + b, 0xFFFF)),
    "v_pk_sub_u16": (2, lambda a, b: max(a - b, 0)),
    "v_pk_mad_i16": (3, lambda a, b, c: clamp(s16(a) * s16(b) + s16(c), -0x8000, 0x7FFF)),
    "v_pk_mad_u16": (3, lambda a, b, c: min(a * b + c, 0xFFFF)),
}
FLOAT: dict[str, tuple[int, Callable[..., int]]] = {
    "v_pk_fma_f16": (3, lambda a, b, c: fp.fma(F16, a, b, c)),
    "v_pk_add_f16": (2, lambda a, b: fp.add(F16, a, b)),
    "v_pk_mul_f16": (2, lambda a, b: fp.mul(F16, a, b)),
    "v_pk_min_f16": (2, lambda a, b: fp.minimum(F16, a, b, True)),
    "v_pk_max_f16": (2, lambda a, b: fp.maximum(F16, a, b, True)),
}


def half(value: int, high: bool) -> int:
    return value >> 16 if high else value & 0xFFFF


def bit_list(bits: list[int]) -> str:
    return "[" + ",".join(map(str, bits)) + "]"


def sweep(
    target: str,
    table: dict[str, tuple[int, Callable[..., int]]],
    make: Callable[[np.random.Generator], Any],
    is_float: bool,
    suffix: str = "",
) -> None:
    """Default selection, then random op_sel, op_sel_hi and, for floats, negations."""
    cases, expected = [], []
    for name, (count, model) in table.items():
        for number in range(4):
            rng = generator(name, number)
            values = [make(rng) for _ in range(count)]
            mask = exec_mask(rng) if number == 3 else FULL
            low = [0] * count if number == 0 else [int(v) for v in rng.integers(0, 2, count)]
            high = [1] * count if number == 0 else [int(v) for v in rng.integers(0, 2, count)]
            neg = [[0] * count, [0] * count] if number == 0 or not is_float else rng.integers(0, 2, (2, count)).tolist()
            text = f"{name} v32, {', '.join(f'v{8 + i}' for i in range(count))}"
            if number:
                text += f" op_sel:{bit_list(low)} op_sel_hi:{bit_list(high)}"
                if is_float:
                    text += f" neg_lo:{bit_list(neg[0])} neg_hi:{bit_list(neg[1])}"
            cases.append(
                Case(text + suffix, {**{f"v{8 + i}": v for i, v in enumerate(values)}, "v32": np.uint32(77)}, exec=mask)
            )
            want = []
            for lane in range(64):
                lanes = [int(v[lane]) for v in values]
                first = (
                    model(
                        *(half(v, bool(s)) ^ (0x8000 if n else 0) for v, s, n in zip(lanes, low, neg[0], strict=True))
                    )
                    & 0xFFFF
                )
                second = (
                    model(
                        *(half(v, bool(s)) ^ (0x8000 if n else 0) for v, s, n in zip(lanes, high, neg[1], strict=True))
                    )
                    & 0xFFFF
                )
                want.append(first | second << 16 if mask >> lane & 1 else 77)
            expected.append(want)
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        found = [int(v) for v in got["v32"]]
        bad = [i for i in range(64) if found[i] != want[i]]
        assert not bad, (
            case.text,
            hex(found[bad[0]]),
            hex(want[bad[0]]),
            {k: hex(int(np.broadcast_to(v, 64)[bad[0]])) for k, v in case.vector.items()},
        )


@pytest.mark.parametrize("target", TARGETS)
def test_packed_integers(target: str) -> None:
    sweep(target, INTEGER, integers, False)
    sweep(target, CLAMPED, integers, False, " clamp")


@pytest.mark.parametrize("target", TARGETS)
def test_packed_halves(target: str) -> None:
    sweep(target, FLOAT, packed_halves, True)


def test_packed_minimum3() -> None:
    def pick(a: int, b: int, wanted: int) -> int:
        nan = fp.propagate(F16, a, b)
        if nan is not None:
            return nan
        return fp.minimum(F16, a, b, False) if wanted < 0 else fp.maximum(F16, a, b, False)

    table: dict[str, tuple[int, Callable[..., int]]] = {
        "v_pk_minimum3_f16": (3, lambda a, b, c: pick(pick(a, b, -1), c, -1)),
        "v_pk_maximum3_f16": (3, lambda a, b, c: pick(pick(a, b, 1), c, 1)),
    }
    sweep("gfx950", table, packed_halves, True)
    rng = generator("minimum3")
    a, b, c = floats(rng), floats(rng), floats(rng)
    cases = [Case(f"v_{n}3_f32 v32, v8, v9, v10", {"v8": a, "v9": b, "v10": c}) for n in ("minimum", "maximum")]
    for wanted, got in zip((-1, 1), run("gfx950", cases), strict=True):

        def pick32(x: int, y: int, wanted: int = wanted) -> int:
            nan = fp.propagate(F32, x, y)
            if nan is not None:
                return nan
            return fp.minimum(F32, x, y, False) if wanted < 0 else fp.maximum(F32, x, y, False)

        assert [int(v) for v in got["v32"]] == [
            pick32(pick32(int(x), int(y)), int(z)) for x, y, z in zip(a, b, c, strict=True)
        ]


@pytest.mark.parametrize("target", TARGETS)
def test_packed_f32(target: str) -> None:
    rng = generator("pk_f32")
    registers = {f"v{8 + i}": floats(rng) for i in range(6)}
    models: dict[str, tuple[int, Callable[..., int]]] = {
        "v_pk_fma_f32": (3, lambda a, b, c: fp.fma(F32, a, b, c)),
        "v_pk_mul_f32": (2, lambda a, b: fp.mul(F32, a, b)),
        "v_pk_add_f32": (2, lambda a, b: fp.add(F32, a, b)),
    }
    cases, expected = [], []
    for name, (count, model) in models.items():
        for number in range(5):
            low = [0] * count if not number else [int(v) for v in rng.integers(0, 2, count)]
            high = [1] * count if not number else [int(v) for v in rng.integers(0, 2, count)]
            neg = rng.integers(0, 2, (2, count)).tolist() if number else [[0] * count, [0] * count]
            operands = ", ".join(f"v[{8 + 2 * i}:{9 + 2 * i}]" for i in range(count))
            text = f"{name} v[32:33], {operands}"
            if number:
                text += f" op_sel:{bit_list(low)} op_sel_hi:{bit_list(high)}"
                text += f" neg_lo:{bit_list(neg[0])} neg_hi:{bit_list(neg[1])}"
            cases.append(Case(text, registers, read=("v32", "v33")))
            for part, select in enumerate((low, high)):
                expected.append(
                    [
                        model(
                            *(
                                int(registers[f"v{8 + 2 * i + s}"][lane]) ^ (0x80000000 if neg[part][i] else 0)
                                for i, s in enumerate(select)
                            )
                        )
                        for lane in range(64)
                    ]
                )
    found = [got[r] for got in run(target, cases) for r in ("v32", "v33")]
    for number, (want, lanes) in enumerate(zip(expected, found, strict=True)):
        assert [int(v) for v in lanes] == want, cases[number // 2].text
    moves = [(x, y) for x in (0, 1) for y in (0, 1)]
    cases = [
        Case(f"v_pk_mov_b32 v[32:33], v[8:9], v[10:11] op_sel:[{x},{y}]", registers, read=("v32", "v33"))
        for x, y in moves
    ]
    for (x, y), got in zip(moves, run(target, cases), strict=True):
        assert np.array_equal(got["v32"], registers[f"v{8 + x}"]) and np.array_equal(
            got["v33"], registers[f"v{10 + y}"]
        )


@pytest.mark.parametrize("target", TARGETS)
def test_mixed_multiply_add(target: str) -> None:
    rng = generator("mix")
    values = [floats(rng), packed_halves(rng), packed_halves(rng)]
    vector = {**{f"v{8 + i}": v for i, v in enumerate(values)}, "v32": np.uint32(0x12345678)}
    cases, expected = [], []
    for number in range(24):
        select, is_half, negate, absolute = (rng.integers(0, 2, 3).tolist() for _ in range(4))
        kind = ("v_fma_mix_f32", "v_fma_mixlo_f16", "v_fma_mixhi_f16")[number % 3]
        names = [
            f"{'-' if n else ''}{'|' if a else ''}v{8 + i}{'|' if a else ''}"
            for i, (n, a) in enumerate(zip(negate, absolute, strict=True))
        ]
        cases.append(
            Case(f"{kind} v32, {', '.join(names)} op_sel:{bit_list(select)} op_sel_hi:{bit_list(is_half)}", vector)
        )
        want = []
        for lane in range(64):
            inputs = []
            for i in range(3):
                code = int(values[i][lane])
                if is_half[i]:
                    code = fp.convert(F32, F16, half(code, bool(select[i])))
                code = (code & 0x7FFFFFFF if absolute[i] else code) ^ (0x80000000 if negate[i] else 0)
                inputs.append(code)
            result = fp.fma(F32, *inputs)
            if kind == "v_fma_mix_f32":
                want.append(result)
            else:
                narrow = fp.convert(F16, F32, result)
                want.append(0x12340000 | narrow if kind == "v_fma_mixlo_f16" else narrow << 16 | 0x5678)
        expected.append(want)
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        found = [int(v) for v in got["v32"]]
        bad = [i for i in range(64) if found[i] != want[i]]
        assert not bad, (case.text, hex(found[bad[0]]), hex(want[bad[0]]), [hex(int(v[bad[0]])) for v in values])


def fields(value: int, bits: int, is_signed: bool) -> list[int]:
    parts = [value >> k & ((1 << bits) - 1) for k in range(0, 32, bits)]
    return [signed(p, bits) for p in parts] if is_signed else parts


@pytest.mark.parametrize("target", TARGETS)
def test_integer_dot_products(target: str) -> None:
    table = {
        "v_dot2_i32_i16": (16, True),
        "v_dot2_u32_u16": (16, False),
        "v_dot4_i32_i8": (8, True),
        "v_dot4_u32_u8": (8, False),
        "v_dot8_i32_i4": (4, True),
        "v_dot8_u32_u4": (4, False),
        "v_dot2c_i32_i16": (16, True),
        "v_dot4c_i32_i8": (8, True),
        "v_dot8c_i32_i4": (4, True),
    }
    cases, expected = [], []
    for name, (bits, is_signed) in table.items():
        rng = generator(name)
        a, b, c = integers(rng), integers(rng), integers(rng)
        accumulates = "c_" in name
        for saturating in (False, True):
            if saturating and accumulates:
                continue
            text = f"{name} v32, v8, v9" if accumulates else f"{name} v32, v8, v9, v10"
            cases.append(Case(text + (" clamp" if saturating else ""), {"v8": a, "v9": b, "v10": c, "v32": c}))
            want = []
            for x, y, z in zip(a, b, c, strict=True):
                start = signed(int(z)) if is_signed else int(z)
                total = start + sum(
                    p * q for p, q in zip(fields(int(x), bits, is_signed), fields(int(y), bits, is_signed), strict=True)
                )
                if saturating:
                    total = clamp(total, -(1 << 31), (1 << 31) - 1) if is_signed else min(total, M32)
                want.append(total & M32)
            expected.append(want)
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == want, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_float_dot_products(target: str) -> None:
    """Within the rounding of three additions: the order of the sums is not documented."""
    names = ["v_dot2_f32_f16", "v_dot2c_f32_f16"] + (
        ["v_dot2_f32_bf16", "v_dot2c_f32_bf16"] if target == "gfx950" else []
    )
    cases, expected = [], []
    for name in names:
        rng = generator(name)
        f = BF16 if "bf16" in name else F16
        raw = [rng.normal(0, 2, 128) for _ in range(2)]
        codes = [[fp.encode(f, Fraction(float(v))) for v in values] for values in raw]
        packed = [np.array([x | y << 16 for x, y in zip(c[:64], c[64:], strict=True)], np.uint32) for c in codes]
        c = rng.normal(0, 2, 64).astype(np.float32)
        text = f"{name} v32, v8, v9" + ("" if "c_" in name else ", v10")
        cases.append(Case(text, {"v8": packed[0], "v9": packed[1], "v10": c.view(np.uint32), "v32": c.view(np.uint32)}))
        x, y = ([fp.value(f, code) for code in column] for column in codes)
        products = [[x[i] * y[i], x[64 + i] * y[64 + i], Fraction(float(c[i]))] for i in range(64)]
        expected.append(products)
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        found = got["v32"].view(np.float32)
        for i, parts in enumerate(want):
            bound = sum(abs(p) for p in parts) * Fraction(3, 1 << 23)
            assert abs(Fraction(float(found[i])) - sum(parts)) <= bound, (case.text, i)


@pytest.mark.parametrize("target", TARGETS)
def test_accumulating(target: str) -> None:
    rng = generator("fmac")
    a, b, d = floats(rng), floats(rng), floats(rng)
    h, k, m = halves(rng), halves(rng), halves(rng)
    got = run(
        target,
        [
            Case("v_fmac_f32_e32 v32, v8, v9", {"v8": a, "v9": b, "v32": d}),
            Case("v_fmac_f32_e64 v32, -v8, |v9|", {"v8": a, "v9": b, "v32": d}),
            Case("v_pk_fmac_f16 v32, v8, v9", {"v8": h, "v9": k, "v32": m}),
        ],
    )
    for i in range(64):
        assert int(got[0]["v32"][i]) == fp.fma(F32, int(a[i]), int(b[i]), int(d[i]))
        assert int(got[1]["v32"][i]) == fp.fma(F32, int(a[i]) ^ 0x80000000, int(b[i]) & 0x7FFFFFFF, int(d[i]))
        low, high = (fp.fma(F16, half(int(h[i]), s), half(int(k[i]), s), half(int(m[i]), s)) for s in (False, True))
        assert int(got[2]["v32"][i]) == low | high << 16
