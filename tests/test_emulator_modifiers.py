"""What surrounds an operation: DPP, SDWA, absolute values and negation, clamp and output multipliers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import FULL, TARGETS, Case, Kernel, as_f32, f32, join64, run, split64
from emulator.executor import library
from emulator.floats import F16, F32
from emulator.integer_models import M32, signed
from emulator.values import exec_mask, floats, generator, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def row(lane: int) -> int:
    return lane & ~15


# The lane that lane i reads, None where there is none.
DPP: dict[str, Callable[[int], int | None]] = {
    "quad_perm:[3,1,0,2]": lambda i: (i & ~3) + (3, 1, 0, 2)[i & 3],
    "quad_perm:[0,0,0,0]": lambda i: i & ~3,
    "row_shl:1": lambda i: i + 1 if i & 15 < 15 else None,
    "row_shl:15": lambda i: i + 15 if i & 15 < 1 else None,
    "row_shr:1": lambda i: i - 1 if i & 15 >= 1 else None,
    "row_shr:8": lambda i: i - 8 if i & 15 >= 8 else None,
    "row_ror:1": lambda i: row(i) + (i - 1 & 15),
    "row_ror:12": lambda i: row(i) + (i - 12 & 15),
    "wave_shl:1": lambda i: i + 1 if i < 63 else None,
    "wave_rol:1": lambda i: i + 1 & 63,
    "wave_shr:1": lambda i: i - 1 if i else None,
    "wave_ror:1": lambda i: i - 1 & 63,
    "row_mirror": lambda i: row(i) + 15 - (i & 15),
    "row_half_mirror": lambda i: (i & ~7) + 7 - (i & 7),
    "row_bcast:15": lambda i: row(i) - 1 if i >= 16 else None,
    "row_bcast:31": lambda i: 31 if i >= 32 else None,
    "row_newbcast:0": row,
    "row_newbcast:11": lambda i: row(i) + 11,
}
DPP["row_shl:1"] = lambda i: i + 1 if (i & 15) < 15 else None
DPP["row_shl:15"] = lambda i: i + 15 if (i & 15) < 1 else None
DPP["row_shr:1"] = lambda i: i - 1 if (i & 15) >= 1 else None
DPP["row_shr:8"] = lambda i: i - 8 if (i & 15) >= 8 else None


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("instruction", ["v_mov_b32", "v_add_u32"])
def test_dpp(target: str, instruction: str) -> None:
    rng = generator("dpp")
    a, b, old = integers(rng), integers(rng), integers(rng)
    cases, expected = [], []
    for control, source in DPP.items():
        for bound in (False, True):
            for rows, banks in ((15, 15), (5, 15), (15, 6), (10, 3)):
                for mask in (FULL, exec_mask(rng)):
                    operands = "v8" if instruction == "v_mov_b32" else "v8, v9"
                    text = f"{instruction}_dpp v32, {operands} {control} row_mask:{rows:#x} bank_mask:{banks:#x}"
                    cases.append(
                        Case(text + (" bound_ctrl:0" if bound else ""), {"v8": a, "v9": b, "v32": old}, exec=mask)
                    )
                    want = []
                    for i in range(64):
                        lane = source(i)
                        valid = lane is not None and mask >> lane & 1
                        written = (
                            mask >> i & 1 and rows >> (i >> 4) & 1 and banks >> (i >> 2 & 3) & 1 and (valid or bound)
                        )
                        value = int(a[lane]) if valid and lane is not None else 0
                        total = value if instruction == "v_mov_b32" else value + int(b[i]) & M32
                        want.append(total if written else int(old[i]))
                    expected.append(want)
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == want, (case.text, hex(case.exec))


@pytest.mark.parametrize("target", TARGETS)
def test_dpp_with_signs_and_compares(target: str) -> None:
    rng = generator("dpp_signs")
    a, b = floats(rng), floats(rng)
    cases = [
        Case("v_max_f32_dpp v32, -|v8|, v9 row_newbcast:3 row_mask:0xf bank_mask:0xf", {"v8": a, "v9": b}),
        Case(
            "v_mov_b64_dpp v[32:33], v[8:9] row_newbcast:7 row_mask:0xf bank_mask:0xf",
            {"v8": a, "v9": b},
            read=("v32", "v33"),
        ),
    ]
    got = run(target, cases)
    for i in range(64):
        want = fp.maximum(F32, int(a[row(i) + 3]) | 0x80000000, int(b[i]), True)
        assert int(got[0]["v32"][i]) == want
        assert got[1]["v32"][i] == a[row(i) + 7] and got[1]["v33"][i] == b[row(i) + 7]


SELECT = {
    "BYTE_0": (0, 8),
    "BYTE_1": (8, 8),
    "BYTE_2": (16, 8),
    "BYTE_3": (24, 8),
    "WORD_0": (0, 16),
    "WORD_1": (16, 16),
    "DWORD": (0, 32),
}


def selected(value: int, name: str, sext: bool) -> int:
    shift, bits = SELECT[name]
    field = value >> shift & ((1 << bits) - 1)
    return signed(field, bits) & M32 if sext else field


def placed(value: int, old: int, name: str, unused: str) -> int:
    shift, bits = SELECT[name]
    if bits == 32:
        return value
    field = ((1 << bits) - 1) << shift
    part = value << shift & field
    if unused == "UNUSED_PRESERVE":
        return part | (old & ~field & M32)
    if unused == "UNUSED_SEXT":
        return signed(value, bits) << shift & M32
    return part


@pytest.mark.parametrize("target", TARGETS)
def test_sdwa_sources(target: str) -> None:
    rng = generator("sdwa")
    a, b = integers(rng), integers(rng)
    cases, expected = [], []
    for x in SELECT:
        for y in ("BYTE_3", "WORD_1", "DWORD"):
            for sext in (False, True):
                first = "sext(v8)" if sext else "v8"
                cases.append(
                    Case(f"v_add_u32_sdwa v32, {first}, v9 dst_sel:DWORD src0_sel:{x} src1_sel:{y}", {"v8": a, "v9": b})
                )
                expected.append(
                    [selected(int(p), x, sext) + selected(int(q), y, False) & M32 for p, q in zip(a, b, strict=True)]
                )
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == want, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_sdwa_destinations(target: str) -> None:
    rng = generator("sdwa_dst")
    a, b, old = integers(rng), integers(rng), integers(rng)
    cases, expected = [], []
    for name in SELECT:
        for unused in ("UNUSED_PAD", "UNUSED_SEXT", "UNUSED_PRESERVE"):
            mask = exec_mask(rng)
            text = f"v_or_b32_sdwa v32, v8, v9 dst_sel:{name} dst_unused:{unused} src0_sel:DWORD src1_sel:DWORD"
            cases.append(Case(text, {"v8": a, "v9": b, "v32": old}, exec=mask))
            expected.append(
                [
                    placed(int(x | y), int(z), name, unused) if mask >> i & 1 else int(z)
                    for i, (x, y, z) in enumerate(zip(a, b, old, strict=True))
                ]
            )
    text = "v_cmp_eq_u32_sdwa s[40:41], v8, v9 src0_sel:BYTE_2 src1_sel:BYTE_2"
    near = np.where(np.arange(64) % 2, a, b)
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == want, case.text
    compared = run(target, [Case(text, {"v8": a, "v9": near}, read=("s40", "s41"))])[0]
    equal = sum((int(x) >> 16 & 255 == int(y) >> 16 & 255) << i for i, (x, y) in enumerate(zip(a, near, strict=True)))
    assert compared["s40"] | compared["s41"] << 32 == equal


@pytest.mark.parametrize("target", TARGETS)
def test_sdwa_halves(target: str) -> None:
    rng = generator("sdwa_half")
    a = rng.normal(0, 3, 128).astype(np.float16).view(np.uint16)
    packed = a[:64].astype(np.uint32) | a[64:].astype(np.uint32) << np.uint32(16)
    text = "v_add_f16_sdwa v32, -v8, |v8| dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE src0_sel:WORD_0 src1_sel:WORD_1"
    got = run(target, [Case(text, {"v8": packed, "v32": np.uint32(0x1111)})])[0]
    for i in range(64):
        total = fp.add(F16, int(a[i]) ^ 0x8000, int(a[64 + i]) & 0x7FFF)
        assert int(got["v32"][i]) == total << 16 | 0x1111


@pytest.mark.parametrize("target", TARGETS)
def test_signs(target: str) -> None:
    rng = generator("signs")
    a, b, c = floats(rng), floats(rng), floats(rng)
    vector = {"v8": a, "v9": b, "v10": c}

    def sign(value: int, absolute: bool, negated: bool) -> int:
        return (value & 0x7FFFFFFF if absolute else value) ^ (0x80000000 if negated else 0)

    cases, expected = [], []
    for bits in range(64):
        flags = [(bits >> i & 1, bits >> (3 + i) & 1) for i in range(3)]
        names = [f"{'-' if n else ''}{'|' if a else ''}v{8 + i}{'|' if a else ''}" for i, (a, n) in enumerate(flags)]
        cases.append(Case(f"v_fma_f32 v32, {', '.join(names)}", vector))
        expected.append(
            [
                fp.fma(F32, *(sign(int(v), bool(f[0]), bool(f[1])) for v, f in zip(values, flags, strict=True)))
                for values in zip(a, b, c, strict=True)
            ]
        )
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == want, case.text
    low, high = split64(rng.normal(0, 1, 64), np.float64)
    case = Case("v_add_f64 v[32:33], -|v[8:9]|, 0", {"v8": low, "v9": high}, read=("v32", "v33"))
    wide = run(target, [case])[0]
    assert np.array_equal(join64(wide["v32"], wide["v33"]), join64(low, high) | np.uint64(1 << 63))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("dx10", [True, False])
def test_clamp_and_multipliers(target: str, dx10: bool) -> None:
    rng = generator("clamp")
    a, b = floats(rng), floats(rng)
    vector: dict[str, Any] = {"v8": a, "v9": b}

    def clamp(code: int) -> int:
        if fp.is_nan(F32, code):
            return 0 if dx10 else code
        if fp.negative(F32, code):
            return 0
        return 0x3F800000 if code > 0x3F800000 else code

    def times(code: int, factor: float) -> int:
        product = fp.flush(F32, fp.mul(F32, code, int(f32(factor))))
        return 0 if fp.is_zero(F32, product) else product

    table: dict[str, Callable[[int], int]] = {
        "clamp": clamp,
        "mul:2": lambda x: times(x, 2.0),
        "mul:4": lambda x: times(x, 4.0),
        "div:2": lambda x: times(x, 0.5),
        "clamp mul:2": lambda x: clamp(times(x, 2.0)),
    }
    # Multipliers are ignored in IEEE mode and where denormal results are kept: test_emulator_forms.py.
    cases = [Case(f"v_add_f32_e64 v32, v8, v9 {text}", vector, mode=0xC0) for text in table]
    kernel = Kernel(ieee=False, dx10_clamp=dx10)
    for (text, model), got in zip(table.items(), run(target, cases, kernel), strict=True):
        sums = [fp.add(F32, fp.flush(F32, int(x)), fp.flush(F32, int(y))) for x, y in zip(a, b, strict=True)]
        want = [model(fp.flush(F32, total)) for total in sums]
        assert [int(v) for v in got["v32"]] == want, text


@pytest.mark.parametrize("target", TARGETS)
def test_inline_constants(target: str) -> None:
    """Constants read as the operand's type: 1.0 is another pattern in f16, f32 and f64."""
    zero = {"v8": np.uint32(0), "v9": np.uint32(0)}
    floats_ = {"0.5": 0.5, "-4.0": -4.0, "0.15915494": 0.15915494}
    cases, expected = [], []
    for text, value in floats_.items():
        cases.append(Case(f"v_add_f32 v32, {text}, v8", zero))
        expected.append(int(f32(value)))
        cases.append(Case(f"v_add_f16 v32, {text}, v8", zero))
        expected.append(int(np.float16(value).view(np.uint16)))
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert int(got["v32"][0]) == want, case.text
    wide = run(
        target,
        [
            Case("v_add_f64 v[32:33], v[8:9], 2.0", zero, read=("v32", "v33")),
            Case("v_add_f64 v[32:33], v[8:9], -1", zero, read=("v32", "v33")),
        ],
    )
    assert join64(wide[0]["v32"], wide[0]["v33"])[0] == 0x4000000000000000
    # An integer constant is the pattern of a 64-bit integer, here a NaN.
    assert join64(wide[1]["v32"], wide[1]["v33"])[0] == 0xFFFFFFFFFFFFFFFF
    literal = run(
        target,
        [
            Case("v_add_f32 v32, 0x40490fdb, v8", zero),
            Case("v_fmaak_f32 v32, v8, v9, 0x40490fdb", zero),
            Case("v_fmamk_f32 v32, v8, 0x40490fdb, v9", {"v8": f32(2.0), "v9": f32(1.0)}),
        ],
    )
    assert [float(as_f32(got["v32"])[0]) for got in literal] == pytest.approx([3.1415927, 3.1415927, 7.2831855])
