"""The local data share: loads, stores, lane exchanges, transposed loads, atomics."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import TARGETS, Case, Kernel, join64, run, split64
from emulator.executor import library
from emulator.floats import BF16, F16, F32, F64
from emulator.integer_models import M32, M64, signed
from emulator.values import exec_mask, generator, integers

from aiterlite.emulator import use_library

pytestmark = pytest.mark.emulated
LDS = Kernel(lds=16384)


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def wait(*lines: str) -> str:
    return "\ns_waitcnt lgkmcnt(0)\n".join(lines) + "\ns_waitcnt lgkmcnt(0)"


def spans(first: int, count: int) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


LANES = np.arange(64, dtype=np.uint32)


@pytest.mark.parametrize("target", TARGETS)
def test_loads_and_stores(target: str) -> None:
    """Whole registers of every width, to scattered addresses and back."""
    cases, expected = [], []
    for dwords in (1, 2, 3, 4):
        rng = generator("ds", dwords)
        order = rng.permutation(64).astype(np.uint32)
        values = [integers(rng) for _ in range(dwords)]
        vector: dict[str, Any] = {"v4": order * np.uint32(4 * dwords)} | {f"v{8 + i}": v for i, v in enumerate(values)}
        vector |= {f"v{32 + i}": np.uint32(1) for i in range(dwords)}
        name = f"b{32 * dwords}"
        mask = exec_mask(rng)
        text = wait(
            f"ds_write_{name} v4, {spans(8, dwords)} offset:16",
            (
                f"s_mov_b32 exec_lo, {mask & M32:#x}\ns_mov_b32 exec_hi, {mask >> 32:#x}\n"
                f"ds_read_{name} {spans(32, dwords)}, v4 offset:16"
            ),
        )
        cases.append(Case(text, vector, read=[f"v{32 + i}" for i in range(dwords)]))
        expected.append([[int(v[i]) if mask >> i & 1 else 1 for i in range(64)] for v in values])
    for case, want, got in zip(cases, expected, run(target, cases, LDS), strict=True):
        assert [[int(x) for x in lanes] for lanes in got.values()] == want, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_narrow_loads_and_stores(target: str) -> None:
    rng = generator("narrow")
    value, old = integers(rng), integers(rng)
    loads: dict[str, Callable[[int, int], int]] = {
        "u8": lambda v, o: v & 255,
        "i8": lambda v, o: signed(v, 8) & M32,
        "u16": lambda v, o: v & 0xFFFF,
        "i16": lambda v, o: signed(v, 16) & M32,
        "u8_d16": lambda v, o: o & 0xFFFF0000 | v & 255,
        "u8_d16_hi": lambda v, o: o & 0xFFFF | (v & 255) << 16,
        "i8_d16": lambda v, o: o & 0xFFFF0000 | signed(v, 8) & 0xFFFF,
        "i8_d16_hi": lambda v, o: o & 0xFFFF | (signed(v, 8) & 0xFFFF) << 16,
        "u16_d16": lambda v, o: o & 0xFFFF0000 | v & 0xFFFF,
        "u16_d16_hi": lambda v, o: o & 0xFFFF | (v & 0xFFFF) << 16,
    }
    stores: dict[str, Callable[[int, int], int]] = {
        "b8": lambda v, o: o & ~255 | v & 255,
        "b16": lambda v, o: o & ~0xFFFF | v & 0xFFFF,
        "b8_d16_hi": lambda v, o: o & ~255 | v >> 16 & 255,
        "b16_d16_hi": lambda v, o: o & ~0xFFFF | v >> 16,
    }
    vector = {"v4": LANES * np.uint32(4), "v8": value, "v9": old, "v32": old}
    cases = [Case(wait("ds_write_b32 v4, v8", f"ds_read_{name} v32, v4"), vector) for name in loads]
    for (name, model), got in zip(loads.items(), run(target, cases, LDS), strict=True):
        assert [int(v) for v in got["v32"]] == [model(int(v), int(o)) for v, o in zip(value, old, strict=True)], name
    cases = [
        Case(wait("ds_write_b32 v4, v9", f"ds_write_{name} v4, v8", "ds_read_b32 v32, v4"), vector) for name in stores
    ]
    for (name, model), got in zip(stores.items(), run(target, cases, LDS), strict=True):
        assert [int(v) for v in got["v32"]] == [model(int(v), int(o)) for v, o in zip(value, old, strict=True)], name


@pytest.mark.parametrize("target", TARGETS)
def test_two_addresses(target: str) -> None:
    """Offsets count elements, or 64 of them; the address register may be a result."""
    rng = generator("two")
    a, b = integers(rng), integers(rng)
    c, d = integers(rng), integers(rng)
    forms = [("b32", 4, 1), ("b64", 8, 2)]
    cases, expected = [], []
    for name, size, dwords in forms:
        for many in (False, True):
            suffix, unit = ("st64", 64 * size) if many else ("", size)
            vector: dict[str, Any] = {"v4": LANES * np.uint32(size), "v8": a, "v9": b, "v10": c, "v11": d}
            at = (3, 7) if many else (100, 200)
            first, second = (spans(8, dwords), spans(10, dwords))
            text = wait(
                f"ds_write2{suffix}_{name} v4, {first}, {second} offset0:{at[0]} offset1:{at[1]}",
                f"ds_read_{name} {spans(32, dwords)}, v4 offset:{at[0] * unit}",
                f"ds_read_{name} {spans(34, dwords)}, v4 offset:{at[1] * unit}",
                f"ds_read2{suffix}_{name} {spans(4, 2 * dwords)}, v4 offset0:{at[1]} offset1:{at[0]}",
            )
            reads = (
                [f"v{32 + i}" for i in range(dwords)]
                + [f"v{34 + i}" for i in range(dwords)]
                + [f"v{4 + i}" for i in range(2 * dwords)]
            )
            cases.append(Case(text, vector, read=reads))
            one, two = [a, b][:dwords], [c, d][:dwords]
            if not many:
                # Neighbouring lanes' second elements overwrite the first ones of lanes 100 further on: none here.
                assert at[1] - at[0] >= 64
            expected.append([*one, *two, *two, *one])
    for case, want, got in zip(cases, expected, run(target, cases, LDS), strict=True):
        for lanes, values in zip(got.values(), want, strict=True):
            assert np.array_equal(lanes, values), case.text


@pytest.mark.parametrize("target", TARGETS)
def test_address_arithmetic_wraps(target: str) -> None:
    """A negative register and a large offset make a small address."""
    value = integers(generator("wrap"))
    vector = {"v4": LANES * np.uint32(4), "v5": (LANES * np.uint32(4) - np.uint32(512)).astype(np.uint32), "v8": value}
    got = run(target, [Case(wait("ds_write_b32 v4, v8 offset:64", "ds_read_b32 v32, v5 offset:576"), vector)], LDS)[0]
    assert np.array_equal(got["v32"], value)


@pytest.mark.parametrize("target", TARGETS)
def test_lane_exchanges(target: str) -> None:
    rng = generator("permute")
    value = integers(rng)
    lanes = rng.permutation(64).astype(np.uint32)
    many = rng.integers(0, 64, 64).astype(np.uint32)
    mask = exec_mask(rng)
    vector = {"v4": lanes * np.uint32(4), "v5": many * np.uint32(4) + np.uint32(1024), "v8": value, "v32": np.uint32(9)}
    cases = [
        Case(wait("ds_permute_b32 v32, v4, v8"), vector),
        Case(wait("ds_bpermute_b32 v32, v5, v8"), vector),
        Case(wait("ds_bpermute_b32 v32, v5, v8 offset:8"), vector, exec=mask),
        Case(wait("ds_permute_b32 v32, v5, v8"), vector, exec=mask),
    ]
    got = [[int(v) for v in r["v32"]] for r in run(target, cases)]
    inverse = {int(to): i for i, to in enumerate(lanes)}
    assert got[0] == [int(value[inverse[i]]) for i in range(64)]
    assert got[1] == [int(value[many[i]]) for i in range(64)]
    sources = [(int(m) + 2) % 64 for m in many]
    assert got[2] == [(int(value[s]) if mask >> s & 1 else 0) if mask >> i & 1 else 9 for i, s in enumerate(sources)]
    pushed = {int(many[i]): int(value[i]) for i in range(64) if mask >> i & 1}
    assert got[3] == [pushed.get(i, 0) if mask >> i & 1 else 9 for i in range(64)]


@pytest.mark.parametrize("target", TARGETS)
def test_swizzle(target: str) -> None:
    value = integers(generator("swizzle"))
    patterns: dict[str, Callable[[int], int]] = {
        "swizzle(QUAD_PERM, 2, 1, 0, 3)": lambda i: (i & ~3) + (2, 1, 0, 3)[i & 3],
        'swizzle(BITMASK_PERM, "00p11")': lambda i: (i & 32) | (i & 4) | 3,
        "swizzle(SWAP, 8)": lambda i: i ^ 8,
        "swizzle(REVERSE, 16)": lambda i: i ^ 15,
        "swizzle(BROADCAST, 4, 1)": lambda i: (i & ~3) | 1,
        "0x041f": lambda i: i ^ 1,
    }
    cases = [Case(wait(f"ds_swizzle_b32 v32, v8 offset:{p}"), {"v8": value}) for p in patterns]
    for (pattern, source), got in zip(patterns.items(), run(target, cases), strict=True):
        assert [int(v) for v in got["v32"]] == [int(value[source(i)]) for i in range(64)], pattern


@pytest.mark.parametrize(("bits", "elements"), [(16, 4), (8, 8), (4, 16), (6, 16)])
def test_transposed_loads(bits: int, elements: int) -> None:
    """In 16 lanes that hold 16 columns of a matrix row by row, each lane gets one column."""
    size = bits * elements // 8
    rng = generator("transpose", bits)
    matrix = rng.integers(0, 1 << bits, (4, elements, 16))  # [lane group][row][column]
    lanes_per_row = 16 // elements
    # Lane l of a group loads elements of row l / lanes_per_row, from column (l % lanes_per_row) * elements on.
    stride = 16 if size == 12 else size
    memory = bytearray(64 * stride)
    for lane in range(64):
        group, row, column = lane // 16, lane % 16 // lanes_per_row, lane % 16 % lanes_per_row * elements
        codes = sum(int(matrix[group][row][column + e]) << (bits * e) for e in range(elements))
        memory[lane * stride : lane * stride + size] = codes.to_bytes(size, "little")
    words = np.frombuffer(bytes(memory), np.uint32).reshape(64, -1)
    dwords = size // 4
    count = stride // 4
    vector: dict[str, Any] = {f"v{8 + i}": words[:, i].copy() for i in range(count)} | {"v4": LANES * np.uint32(stride)}
    name = f"ds_read_b{8 * size}_tr_b{bits}"
    text = wait(f"ds_write_b{32 * count} v4, {spans(8, count)}", f"{name} {spans(32, dwords)}, v4")
    got = run("gfx950", [Case(text, vector, read=[f"v{32 + i}" for i in range(dwords)])], LDS)[0]
    for lane in range(64):
        value = sum(int(got[f"v{32 + i}"][lane]) << (32 * i) for i in range(dwords))
        found = [value >> (bits * n) & ((1 << bits) - 1) for n in range(elements)]
        assert found == [int(v) for v in matrix[lane // 16, :, lane % 16]], lane


INTEGER: dict[str, tuple[str, Callable[[int, int, int], int]]] = {
    "add": ("u", lambda o, d, b: o + d),
    "sub": ("u", lambda o, d, b: o - d),
    "rsub": ("u", lambda o, d, b: d - o),
    "inc": ("u", lambda o, d, b: 0 if o >= d else o + 1),
    "dec": ("u", lambda o, d, b: d if o == 0 or o > d else o - 1),
    "min": ("u", lambda o, d, b: min(o, d)),
    "max": ("u", lambda o, d, b: max(o, d)),
    "min ": ("i", lambda o, d, b: min(o, d, key=lambda v: signed(v, b))),
    "max ": ("i", lambda o, d, b: max(o, d, key=lambda v: signed(v, b))),
    "and": ("b", lambda o, d, b: o & d),
    "or": ("b", lambda o, d, b: o | d),
    "xor": ("b", lambda o, d, b: o ^ d),
    "wrxchg": ("b", lambda o, d, b: d),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [32, 64])
def test_integer_atomics(target: str, bits: int) -> None:
    """Lanes l and l + 32 go to the same word, in order."""
    mask = M32 if bits == 32 else M64
    words = bits // 32
    cases, expected = [], []
    for key, (kind, model) in INTEGER.items():
        name = key.strip()
        rng = generator(f"{key}{bits}")
        start, data = ([integers(rng) for _ in range(words)] for _ in range(2))
        vector: dict[str, Any] = {
            "v4": LANES % np.uint32(32) * np.uint32(4 * words),
            "v5": LANES * np.uint32(4 * words),
        }
        vector |= {f"v{8 + i}": v for i, v in enumerate(start)} | {f"v{10 + i}": v for i, v in enumerate(data)}
        width = f"b{bits}"
        for returns in (True, False) if name != "wrxchg" else (True,):
            text = wait(
                f"ds_write_{width} v5, {spans(8, words)}",
                f"ds_{name}_rtn_{kind}{bits} {spans(32, words)}, v4, {spans(10, words)}"
                if returns
                else f"ds_{name}_{kind}{bits} v4, {spans(10, words)}",
                f"ds_read_{width} {spans(34, words)}, v5",
            )
            cases.append(
                Case(text, vector, read=[f"v{32 + i}" for i in range(words)] + [f"v{34 + i}" for i in range(words)])
            )
            old = [int(v) for v in (start[0] if words == 1 else join64(*start))]
            values = [int(v) for v in (data[0] if words == 1 else join64(*data))]
            memory, before = list(old), []
            for lane in range(64):
                before.append(memory[lane % 32])
                memory[lane % 32] = model(memory[lane % 32], values[lane], bits) & mask
            expected.append((before if returns else None, memory))
    for case, (before, memory), got in zip(cases, expected, run(target, cases, LDS), strict=True):
        found, after = (
            [int(v) for v in (got[f"v{r}"] if words == 1 else join64(got[f"v{r}"], got[f"v{r + 1}"]))] for r in (32, 34)
        )
        assert before is None or found == before, case.text
        assert after == memory, case.text


@pytest.mark.parametrize("target", TARGETS)
def test_other_atomics(target: str) -> None:
    """Compare and swap, masked or, wrapping, double and conditional exchange."""
    rng = generator("other")
    start, a, b = integers(rng), integers(rng), integers(rng)
    compare = np.where(LANES % 2 == 0, start, a).astype(np.uint32)
    vector = {"v4": LANES * np.uint32(4), "v8": start, "v9": a, "v10": b, "v11": compare, "v12": LANES * np.uint32(8)}
    write = "ds_write_b32 v4, v8"
    read = "ds_read_b32 v33, v4"
    cases = [
        Case(wait(write, "ds_cmpst_rtn_b32 v32, v4, v11, v10", read), vector, read=("v32", "v33")),
        Case(wait(write, "ds_mskor_rtn_b32 v32, v4, v9, v10", read), vector, read=("v32", "v33")),
        Case(wait(write, "ds_wrap_rtn_b32 v32, v4, v9, v10", read), vector, read=("v32", "v33")),
    ]
    models: list[Callable[[int], int]] = [
        lambda i: int(b[i]) if compare[i] == start[i] else int(start[i]),
        lambda i: int(start[i]) & ~int(a[i]) | int(b[i]),
        lambda i: (int(start[i]) - int(a[i]) if start[i] >= a[i] else int(start[i]) + int(b[i])) & M32,
    ]
    for case, model, got in zip(cases, models, run(target, cases, LDS), strict=True):
        assert np.array_equal(got["v32"], start), case.text
        assert [int(v) for v in got["v33"]] == [model(i) for i in range(64)], case.text
    exchange = wait(
        "ds_write2_b32 v12, v8, v9 offset0:0 offset1:1",
        "ds_wrxchg2_rtn_b32 v[32:33], v12, v10, v11 offset0:0 offset1:1",
        "ds_read2_b32 v[34:35], v12 offset0:0 offset1:1",
    )
    got = run(target, [Case(exchange, vector, read=("v32", "v33", "v34", "v35"))], LDS)[0]
    for register, want in zip(("v32", "v33", "v34", "v35"), (start, a, b, compare), strict=True):
        assert np.array_equal(got[register], want)
    conditional = wait(
        "ds_write2_b32 v12, v8, v9 offset0:0 offset1:1",
        "ds_condxchg32_rtn_b64 v[32:33], v12, v[10:11]",
        "ds_read2_b32 v[34:35], v12 offset0:0 offset1:1",
    )
    got = run(target, [Case(conditional, vector, read=("v32", "v33", "v34", "v35"))], LDS)[0]
    for register, old, data in (("v34", start, b), ("v35", a, compare)):
        assert [int(v) for v in got[register]] == [
            int(d) & 0x7FFFFFFF if d >> 31 else int(o) for o, d in zip(old, data, strict=True)
        ]


@pytest.mark.parametrize("target", TARGETS)
def test_float_atomics(target: str) -> None:
    def packed(f: fp.Format) -> Callable[[int, int], int]:
        return lambda x, y: fp.add(f, x & 0xFFFF, y & 0xFFFF) | fp.add(f, x >> 16, y >> 16) << 16

    table: dict[str, tuple[int, Callable[[int, int], int]]] = {
        "add_rtn_f32": (1, lambda x, y: fp.add(F32, x, y)),
        "min_rtn_f32": (1, lambda x, y: fp.minimum(F32, x, y, False)),
        "max_rtn_f32": (1, lambda x, y: fp.maximum(F32, x, y, False)),
        "add_rtn_f64": (2, lambda x, y: fp.add(F64, x, y)),
        "min_rtn_f64": (2, lambda x, y: fp.minimum(F64, x, y, False)),
        "max_rtn_f64": (2, lambda x, y: fp.maximum(F64, x, y, False)),
        "pk_add_rtn_f16": (1, packed(F16)),
        "pk_add_rtn_bf16": (1, packed(BF16)),
    }
    for name, (words, model) in table.items():
        rng = generator(name)
        if words == 2:
            x, y = (rng.normal(0, 3, 64) for _ in range(2))
            start, data = (list(split64(v, np.float64)) for v in (x, y))
        elif "pk" in name:
            f = F16 if name.endswith("_f16") else BF16
            start, data = (
                [
                    np.array(
                        [fp.convert(f, F32, int(v)) for v in rng.normal(0, 3, 128).astype(np.float32).view(np.uint32)],
                        np.uint16,
                    ).view(np.uint32)
                ]
                for _ in range(2)
            )
        else:
            start, data = ([rng.normal(0, 3, 64).astype(np.float32).view(np.uint32)] for _ in range(2))
        vector: dict[str, Any] = (
            {"v4": LANES * np.uint32(4 * words)}
            | {f"v{8 + i}": v for i, v in enumerate(start)}
            | {f"v{10 + i}": v for i, v in enumerate(data)}
        )
        text = wait(
            f"ds_write_b{32 * words} v4, {spans(8, words)}",
            f"ds_{name} {spans(32, words)}, v4, {spans(10, words)}",
            f"ds_read_b{32 * words} {spans(34, words)}, v4",
        )
        got = run(target, [Case(text, vector, read=[f"v{32 + i}" for i in range(4) if i % 2 < words])], LDS)[0]
        before, after = (
            [int(v) for v in (got[f"v{r}"] if words == 1 else join64(got[f"v{r}"], got[f"v{r + 1}"]))] for r in (32, 34)
        )
        old = [int(v) for v in (start[0] if words == 1 else join64(*start))]
        values = [int(v) for v in (data[0] if words == 1 else join64(*data))]
        assert before == old, name
        assert after == [model(o, v) for o, v in zip(old, values, strict=True)], name


@pytest.mark.parametrize("target", TARGETS)
def test_addresses_from_m0(target: str) -> None:
    value = integers(generator("addtid"))
    text = wait(
        "s_mov_b32 m0, 64",
        "ds_write_addtid_b32 v8 offset:16",
        "ds_read_addtid_b32 v32 offset:16",
        "ds_read_b32 v33, v4 offset:80",
    )
    got = run(target, [Case(text, {"v8": value, "v4": LANES * np.uint32(4)}, read=("v32", "v33"))], LDS)[0]
    assert np.array_equal(got["v32"], value) and np.array_equal(got["v33"], value)
    mask = exec_mask(generator("append"))
    counter = wait(
        "v_mov_b32_e32 v5, 0\nv_mov_b32_e32 v6, 1000\nds_write_b32 v5, v6 offset:12\ns_mov_b32 m0, 8",
        f"s_mov_b32 exec_lo, {mask & M32:#x}\ns_mov_b32 exec_hi, {mask >> 32:#x}\nds_append v32 offset:4",
        "ds_append v33 offset:4",
        "ds_consume v34 offset:4",
    )
    got = run(
        target,
        [Case(counter, {"v32": np.uint32(0), "v33": np.uint32(0), "v34": np.uint32(0)}, read=("v32", "v33", "v34"))],
        LDS,
    )[0]
    active = mask.bit_count()
    for register, want in (("v32", 1000), ("v33", 1000 + active), ("v34", 1000 + 2 * active)):
        assert [int(v) for v in got[register]] == [want if mask >> i & 1 else 0 for i in range(64)]
