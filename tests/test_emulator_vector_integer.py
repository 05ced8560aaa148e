"""Every integer vector instruction against a model on Python integers, with all lanes and with some switched off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulator import integer_models as models
from emulator.assembly import FULL, TARGETS, Case, join64, run, split64
from emulator.executor import library
from emulator.values import exec_mask, generator, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def sources(name: str, count: int, number: int = 0) -> list[Any]:
    rng = generator(name, number)
    return [integers(rng) for _ in range(count)]


def expect(model: Callable[..., int], values: list[Any], mask: int, old: int, bits: int = 32) -> list[int]:
    """Active lanes get the model's value, the others keep what they had."""
    top = (1 << bits) - 1
    return [model(*(int(v[lane]) for v in values)) & top if mask >> lane & 1 else old for lane in range(64)]


def check(target: str, entries: list[tuple[Case, str, list[int]]]) -> None:
    results = run(target, [case for case, _, _ in entries])
    wrong = []
    for (case, register, expected), got in zip(entries, results, strict=True):
        lanes = [int(v) for v in got[register]]
        bad = [i for i in range(64) if lanes[i] != expected[i]]
        if bad:
            inputs = {name: hex(int(np.broadcast_to(np.asarray(v), 64)[bad[0]])) for name, v in case.vector.items()}
            wrong.append(f"{case.text}: lane {bad[0]} is {lanes[bad[0]]:#x}, not {expected[bad[0]]:#x}; from {inputs}")
    assert not wrong, "\n".join(wrong[:20])


def plain(table: dict[str, Callable[..., int]], count: int, suffix: str = "") -> list[tuple[Case, str, list[int]]]:
    entries = []
    for name, model in table.items():
        values = sources(name, count)
        operands = ", ".join(f"v{8 + i}" for i in range(count))
        for mask in (FULL, exec_mask(generator(name, 9))):
            vector = {**{f"v{8 + i}": v for i, v in enumerate(values)}, "v32": np.uint32(0xABCD1234)}
            case = Case(f"{name}{suffix} v32, {operands}", vector, exec=mask)
            entries.append((case, "v32", expect(model, values, mask, 0xABCD1234)))
    return entries


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("table", "count"), [(models.ONE, 1), (models.TWO, 2), (models.THREE, 3)], ids=["1", "2", "3"])
def test_32_bit(target: str, table: dict[str, Callable[..., int]], count: int) -> None:
    check(target, plain(table, count))


def test_gfx950() -> None:
    check("gfx950", plain(models.GFX950_ONE, 1))
    entries = []
    for table in range(0, 256, 7):
        a, b, c = sources("bitop3", 3, table)

        def model(x: int, y: int, z: int, table: int = table) -> int:
            return sum((table >> ((x >> i & 1) * 4 + (y >> i & 1) * 2 + (z >> i & 1)) & 1) << i for i in range(32))

        vector = {"v8": a, "v9": b, "v10": c, "v32": np.uint32(0x55AA55AA)}
        entries.append(
            (Case(f"v_bitop3_b32 v32, v8, v9, v10 bitop3:{table:#x}", vector), "v32", expect(model, [a, b, c], FULL, 0))
        )
        half = [model(int(x), int(y), int(z)) & 0xFFFF | 0x55AA0000 for x, y, z in zip(a, b, c, strict=True)]
        entries.append((Case(f"v_bitop3_b16 v32, v8, v9, v10 bitop3:{table:#x}", vector), "v32", half))
    for name, low, high in (("v_ashr_pk_i8_i32", -128, 127), ("v_ashr_pk_u8_i32", 0, 255)):
        a, b, c = sources(name, 3)
        expected = [
            (models.clamp(models.signed(int(x)) >> (int(z) & 31), low, high) & 255)
            | (models.clamp(models.signed(int(y)) >> (int(z) & 31), low, high) & 255) << 8
            | 0x55AA0000
            for x, y, z in zip(a, b, c, strict=True)
        ]
        vector = {"v8": a, "v9": b, "v10": c, "v32": np.uint32(0x55AA55AA)}
        entries.append((Case(f"{name} v32, v8, v9, v10", vector), "v32", expected))
    check("gfx950", entries)


@pytest.mark.parametrize("target", TARGETS)
def test_16_bit(target: str) -> None:
    entries = []
    for table, keep in ((models.HALF_TWO, False), (models.HALF_TWO_KEEP, True), (models.HALF_THREE_KEEP, True)):
        for name, model in table.items():
            count = 3 if table is models.HALF_THREE_KEEP else 2
            values = sources(name, count)
            operands = ", ".join(f"v{8 + i}" for i in range(count))
            low = [v & 0xFFFF for v in values]
            expected = [v | (0xABCD0000 if keep else 0) for v in expect(model, low, FULL, 0, 16)]
            vector = {**{f"v{8 + i}": v for i, v in enumerate(values)}, "v32": np.uint32(0xABCD1234)}
            entries.append((Case(f"{name} v32, {operands}", vector), "v32", expected))
            if keep:  # the older ones have no op_sel
                high = [values[0] >> np.uint32(16), *low[1:]]
                select = ",".join("1" if i in (0, count) else "0" for i in range(count + 1))
                swapped = [v << 16 | 0x1234 for v in expect(model, high, FULL, 0, 16)]
                entries.append((Case(f"{name} v32, {operands} op_sel:[{select}]", vector), "v32", swapped))
    check(target, entries)


@pytest.mark.parametrize("target", TARGETS)
def test_saturating(target: str) -> None:
    entries = []
    for name, model in models.CLAMPED.items():
        count = 3 if "mad" in name else 2
        values = sources(name, count)
        operands = ", ".join(f"v{8 + i}" for i in range(count))
        vector = {f"v{8 + i}": v for i, v in enumerate(values)}
        suffix = "" if "mad" in name or name.endswith("_i32") else "_e64"
        case = Case(f"{name}{suffix} v32, {operands} clamp", vector)
        entries.append((case, "v32", expect(model, values, FULL, 0)))
    check(target, entries)


@pytest.mark.parametrize("target", TARGETS)
def test_64_bit(target: str) -> None:
    cases, expected = [], []
    for name, (widths, model) in models.WIDE.items():
        rng = generator(name)
        vector: dict[str, Any] = {"v32": np.uint32(7), "v33": np.uint32(9)}
        values, operands = [], []
        register = 8
        for width in widths:
            low, high = integers(rng), integers(rng)
            vector[f"v{register}"] = low
            if width == 2:
                vector[f"v{register + 1}"] = high
                operands.append(f"v[{register}:{register + 1}]")
                values.append(join64(low, high))
            else:
                operands.append(f"v{register}")
                values.append(low)
            register += 2
        for mask in (FULL, exec_mask(rng)):
            cases.append(Case(f"{name} v[32:33], {', '.join(operands)}", vector, read=("v32", "v33"), exec=mask))
            expected.append(expect(model, values, mask, 9 << 32 | 7, 64))
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in join64(got["v32"], got["v33"])] == want, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_mqsad_u32(target: str) -> None:
    rng = generator("v_mqsad_u32_u8")
    a, b = (integers(rng), integers(rng)), integers(rng)
    c = [integers(rng) for _ in range(4)]
    vector = {"v8": a[0], "v9": a[1], "v10": b, **{f"v{12 + k}": v for k, v in enumerate(c)}}
    read = ("v32", "v33", "v34", "v35")
    got = run(target, [Case("v_mqsad_u32_u8 v[32:35], v[8:9], v10, v[12:15]", vector, read=read)])[0]
    wide = join64(*a)
    for k, register in enumerate(read):
        want = [
            models.msad_u8(int(wide[i]) >> (8 * k) & models.M32, int(b[i]), int(c[k][i])) & models.M32
            for i in range(64)
        ]
        assert [int(v) for v in got[register]] == want


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("sign", ["u", "i"])
@pytest.mark.parametrize("bits", [16, 32, 64])
def test_compare(target: str, sign: str, bits: int) -> None:
    cases, expected = [], []
    for name, model in models.COMPARE.items():
        rng = generator(f"{name}{sign}{bits}")
        a, b = integers(rng), integers(rng)
        b[::3] = a[::3]
        vector: dict[str, Any] = {"v8": a, "v10": b}
        x, y = [[int(v) & ((1 << min(bits, 32)) - 1) for v in lanes] for lanes in (a, b)]
        operand = ("v8", "v10")
        if bits == 64:
            high = integers(rng)
            vector |= {"v9": high, "v11": high}
            x, y = ([int(v) for v in join64(lanes, high)] for lanes in (a, b))
            operand = ("v[8:9]", "v[10:11]")
        if sign == "i":
            x, y = ([models.signed(v, bits) for v in lanes] for lanes in (x, y))
        want = sum(model(p, q) << lane for lane, (p, q) in enumerate(zip(x, y, strict=True)))
        for mask in (FULL, exec_mask(rng)):
            for prefix in ("v_cmp", "v_cmpx"):
                text = f"{prefix}_{name}_{sign}{bits}"
                cases.append(
                    Case(f"{text}_e32 vcc, {operand[0]}, {operand[1]}", vector, read=("vcc", "exec"), exec=mask)
                )
                expected.append((want & mask, want & mask if prefix == "v_cmpx" else mask))
                cases.append(
                    Case(f"{text}_e64 s[40:41], {operand[0]}, {operand[1]}", vector, read=("s40", "s41"), exec=mask)
                )
                expected.append((want & mask & models.M32, (want & mask) >> 32))
    for case, want, got in zip(cases, expected, run(target, cases), strict=True):
        assert tuple(got.values()) == want, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_carry(target: str) -> None:
    a, b = sources("carry", 2)
    carry = exec_mask(generator("carry", 1)) | 0xF
    # The sum fits, and the carry in makes it overflow; the same for the differences.
    a[:4], b[:4] = [0xFFFFFFFF, 0x80000000, 7, 0], [0, 0x7FFFFFFF, 7, 0]
    mask = exec_mask(generator("carry", 2)) | 0xF
    table: dict[str, Callable[[int, int, int], int]] = {
        "v_add_co_u32": lambda x, y, c: x + y,
        "v_sub_co_u32": lambda x, y, c: x - y,
        "v_subrev_co_u32": lambda x, y, c: y - x,
        "v_addc_co_u32": lambda x, y, c: x + y + c,
        "v_subb_co_u32": lambda x, y, c: x - y - c,
        "v_subbrev_co_u32": lambda x, y, c: y - x - c,
    }
    cases, expected = [], []
    vector = {"v8": a, "v9": b, "v32": np.uint32(5)}
    scalar: dict[str | int, int] = {
        "vcc_lo": carry & models.M32,
        "vcc_hi": carry >> 32,
        20: carry & models.M32,
        21: carry >> 32,
    }
    for name, model in table.items():
        full = [model(int(x), int(y), carry >> i & 1) for i, (x, y) in enumerate(zip(a, b, strict=True))]
        result = [full[i] & models.M32 if mask >> i & 1 else 5 for i in range(64)]
        out = sum((not 0 <= full[i] <= models.M32) << i for i in range(64)) & mask
        has_in = "addc" in name or "subb" in name
        cases.append(
            Case(f"{name}_e32 v32, vcc, v8, v9{', vcc' if has_in else ''}", vector, scalar, ("v32", "vcc"), mask)
        )
        expected.append((result, out))
        cases.append(
            Case(
                f"{name}_e64 v32, s[40:41], v8, v9{', s[20:21]' if has_in else ''}",
                vector,
                scalar,
                ("v32", "s40", "s41"),
                mask,
            )
        )
        expected.append((result, out))
    for case, (result, out), got in zip(cases, expected, run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == result, case.text
        assert (got["vcc"] if "vcc" in got else got["s40"] | got["s41"] << 32) == out, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_wide_multiply_add(target: str) -> None:
    rng = generator("mad64")
    a, b, low, high = (integers(rng) for _ in range(4))
    vector = {"v8": a, "v9": b, "v10": low, "v11": high}
    read = ("v32", "v33", "vcc")
    cases = [
        Case(f"{name} v[32:33], vcc, v8, v9, v[10:11]", vector, read=read)
        for name in ("v_mad_u64_u32", "v_mad_i64_i32")
    ]
    unsigned, as_signed = run(target, cases)
    c = join64(low, high)
    for i in range(64):
        total = int(a[i]) * int(b[i]) + int(c[i])
        assert int(join64(unsigned["v32"], unsigned["v33"])[i]) == total & models.M64
        assert unsigned["vcc"] >> i & 1 == total >> 64
        total = models.signed(int(a[i])) * models.signed(int(b[i])) + models.signed(int(c[i]), 64)
        assert int(join64(as_signed["v32"], as_signed["v33"])[i]) == total & models.M64
        assert as_signed["vcc"] >> i & 1 == total >> 64 & 1


@pytest.mark.parametrize("target", TARGETS)
def test_lanes(target: str) -> None:
    """Instructions that look across lanes."""
    a, b = sources("lanes", 2)
    mask = exec_mask(generator("lanes", 3)) & ~0b111
    low, high = 0xDEADBEEF, 0x12345678
    cases = [
        Case("v_readfirstlane_b32 s40, v8", {"v8": a}, read=("s40",), exec=mask),
        Case("v_readfirstlane_b32 s40, v8", {"v8": a}, read=("s40",), exec=0),
        Case("v_readlane_b32 s40, v8, 37", {"v8": a}, read=("s40",), exec=1),
        Case("v_readlane_b32 s40, v8, s20", {"v8": a}, {20: 64 + 21}, read=("s40",)),
        Case("v_writelane_b32 v32, s20, 5", {"v32": b}, {20: 0xCAFE}, exec=0),
        Case("v_mbcnt_lo_u32_b32 v32, s20, v8", {"v8": a}, {20: low}),
        Case("v_mbcnt_hi_u32_b32 v32, s21, v8", {"v8": a}, {21: high}),
        Case("v_cndmask_b32_e32 v32, v8, v9, vcc", {"v8": a, "v9": b}, {"vcc_lo": low, "vcc_hi": high}),
        Case("v_cndmask_b32_e64 v32, v8, -v9, s[20:21]", {"v8": a, "v9": b}, {20: low, 21: high}),
        Case("v_swap_b32 v8, v9", {"v8": a, "v9": b}, read=("v8", "v9"), exec=mask),
    ]
    got = run(target, cases)
    first = (mask & -mask).bit_length() - 1
    assert got[0]["s40"] == a[first]
    assert got[1]["s40"] == a[0]
    assert got[2]["s40"] == a[37]
    assert got[3]["s40"] == a[21]
    assert [int(v) for v in got[4]["v32"]] == [0xCAFE if i == 5 else int(b[i]) for i in range(64)]
    for i in range(64):
        below = (1 << i) - 1
        assert int(got[5]["v32"][i]) == ((low & below).bit_count() + int(a[i])) & models.M32
        assert int(got[6]["v32"][i]) == ((high & below >> 32).bit_count() + int(a[i])) & models.M32
        chosen = (high << 32 | low) >> i & 1
        assert got[7]["v32"][i] == (b if chosen else a)[i]
        assert int(got[8]["v32"][i]) == (int(b[i]) ^ 0x80000000 if chosen else int(a[i]))
        swapped = mask >> i & 1
        assert got[9]["v8"][i] == (b if swapped else a)[i] and got[9]["v9"][i] == (a if swapped else b)[i]


def test_permlane_swap() -> None:
    a, b = sources("permlane", 2)
    read = ("v8", "v9")
    sixteen, thirty_two = run(
        "gfx950", [Case(f"v_permlane{n}_swap_b32 v8, v9", {"v8": a, "v9": b}, read=read) for n in (16, 32)]
    )
    for rows, got in ((16, sixteen), (32, thirty_two)):
        for i in range(64):
            odd = i // rows % 2
            assert got["v8"][i] == (b[i - rows] if odd else a[i])
            assert got["v9"][i] == (b[i] if odd else a[i + rows])


@pytest.mark.parametrize("target", TARGETS)
def test_operands(target: str) -> None:
    """Sources of every kind: scalar registers, inline constants, literals, and the special ones."""
    a = sources("operands", 1)[0]
    scalar: dict[str | int, int] = {20: 100, "m0": 7, "vcc_lo": 0, "vcc_hi": 0}
    table = {
        "s20": 100, "m0": 7, "64": 64, "-16": -16, "0x12345": 0x12345, "vcc_lo": 0, "exec_lo": 0xFFFFFFFF, "scc": 1,
        "vccz": 1, "execz": 0,
    }  # fmt: skip
    cases = [
        Case(
            f"v_add_u32_e32 v32, src_{s}, v8" if s in ("scc", "vccz", "execz") else f"v_add_u32_e32 v32, {s}, v8",
            {"v8": a},
            scalar | {"scc": 1},
        )
        for s in table
    ]
    for (name, value), got in zip(table.items(), run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == [(int(x) + value) & models.M32 for x in a], name
    wide = run(
        target,
        [Case("v_lshl_add_u64 v[32:33], s[20:21], 1, v[8:9]", {"v8": a, "v9": a}, {20: 3, 21: 9}, ("v32", "v33"))],
    )[0]
    low, high = split64((join64(a, a) + np.uint64(2 * (9 << 32 | 3))).astype(np.uint64))
    assert np.array_equal(wide["v32"], low) and np.array_equal(wide["v33"], high)
