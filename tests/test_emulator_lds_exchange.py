"""LDS atomics with two operands, on floats, and without a result: compare and store, masked or, minimum, exchanges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulator import floats as fp
from emulator.assembly import TARGETS, Case, Kernel, join64, run, split64
from emulator.executor import library
from emulator.floats import F32, F64
from emulator.integer_models import M32
from emulator.values import doubles, exec_mask, floats, generator, integers

from aiterlite.emulator import MemoryViolation, use_library

pytestmark = pytest.mark.emulated
LDS = Kernel(lds=49152)
LANES = np.arange(64, dtype=np.uint32)
Model = Callable[[int, int, int], int]  # old value, first and second operand


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def span(first: int, count: int) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


def wait(*lines: str) -> str:
    return "".join(f"{line}\ns_waitcnt lgkmcnt(0)\n" for line in lines)


def registers(first: int, values: Any) -> dict[str, Any]:
    if values.dtype == np.uint64:
        low, high = split64(values)
        return {f"v{first}": low, f"v{first + 1}": high}
    return {f"v{first}": values}


def number(rng: np.random.Generator, kind: str) -> Any:
    return (
        {"f32": floats, "f64": doubles, "b32": integers}[kind](rng)
        if kind != "b64"
        else join64(integers(rng), integers(rng))
    )


def without_signalling(f: fp.Format, values: Any) -> Any:
    """Quiet NaNs only: what a comparison makes of a signalling one is not documented."""
    return np.array([fp.quiet(f, int(v)) if fp.is_nan(f, int(v)) else int(v) for v in values], values.dtype)


def stores_if_equal(f: fp.Format | None) -> Model:
    if f is None:
        return lambda old, compare, new: new if old == compare else old
    return lambda old, compare, new: new if fp.compare(f, old, compare) == 0 else old


TABLE: dict[str, tuple[str, Model, int]] = {
    "cmpst_b32": ("b32", stores_if_equal(None), 2),
    "cmpst_b64": ("b64", stores_if_equal(None), 2),
    "cmpst_f32": ("f32", stores_if_equal(F32), 2),
    "cmpst_f64": ("f64", stores_if_equal(F64), 2),
    "mskor_b32": ("b32", lambda old, mask, bits: old & ~mask | bits, 2),
    "mskor_b64": ("b64", lambda old, mask, bits: old & ~mask | bits, 2),
    "min_f32": ("f32", lambda old, data, _: fp.minimum(F32, old, data, False), 1),
    "max_f32": ("f32", lambda old, data, _: fp.maximum(F32, old, data, False), 1),
    "min_f64": ("f64", lambda old, data, _: fp.minimum(F64, old, data, False), 1),
    "max_f64": ("f64", lambda old, data, _: fp.maximum(F64, old, data, False), 1),
    "add_f32": ("f32", lambda old, data, _: fp.add(F32, old, data), 1),
    "add_f64": ("f64", lambda old, data, _: fp.add(F64, old, data), 1),
}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", TABLE)
def test_two_operands(target: str, name: str) -> None:
    """With and without the old value as result, some lanes off."""
    kind, model, operands = TABLE[name]
    operation, _, _ = name.partition("_")
    words = 2 if kind.endswith("64") else 1
    f = {"f32": F32, "f64": F64}.get(kind)
    cases, expected = [], []
    for returns in (True, False):
        rng = generator(name, returns)
        start, first, second = (number(rng, kind) for _ in range(3))
        if f is not None:
            start, first, second = (without_signalling(f, v) for v in (start, first, second))
            if operation == "add":
                start, first = (np.where((v & v.dtype.type(f.sign - 1)) > f.largest, 0, v) for v in (start, first))
        if operation == "cmpst":
            first[::2] = start[::2]
            if f is not None:
                start[:2], first[:2] = [0, f.sign], [f.sign, 0]  # zeros are equal
        elif f is not None and operation != "add":
            same = [i for i in range(64) if fp.is_zero(f, int(start[i])) and fp.is_zero(f, int(first[i]))]
            first[same] = start[same]  # of two zeros either is right
        mask = exec_mask(rng)
        vector = (
            {"v4": LANES * np.uint32(4 * words)} | registers(8, start) | registers(10, first) | registers(12, second)
        )
        vector |= {f"v{32 + k}": np.uint32(7) for k in range(4)}
        data = f"{span(10, words)}, {span(12, words)}" if operands == 2 else span(10, words)
        form = f"{operation}_rtn_{kind} {span(32, words)}, v4, {data}" if returns else f"{name} v4, {data}"
        text = wait(
            f"s_mov_b64 exec, -1\nds_write_b{32 * words} v4, {span(8, words)} offset:8",
            f"s_mov_b32 exec_lo, {mask & M32:#x}\ns_mov_b32 exec_hi, {mask >> 32:#x}\nds_{form} offset:8",
            f"s_mov_b64 exec, -1\nds_read_b{32 * words} {span(34, words)}, v4 offset:8",
        )
        cases.append(Case(text, vector, read=[f"v{32 + k}" for k in range(4)]))
        top = (1 << (32 * words)) - 1
        after = [
            model(int(o), int(a), int(b)) & top if mask >> i & 1 else int(o)
            for i, (o, a, b) in enumerate(zip(start, first, second, strict=True))
        ]
        nothing = 7 << 32 | 7 if words == 2 else 7
        before = [int(o) if returns and mask >> i & 1 else nothing for i, o in enumerate(start)]
        expected.append((before, after))
    for case, (before, after), got in zip(cases, expected, run(target, cases, LDS), strict=True):
        found = [
            [int(v) for v in (got[f"v{r}"] if words == 1 else join64(got[f"v{r}"], got[f"v{r + 1}"]))] for r in (32, 34)
        ]
        bad = [i for i in range(64) if (found[0][i], found[1][i]) != (before[i], after[i])]
        assert not bad, (case.text, bad[0], [hex(x[bad[0]]) for x in (*found, before, after)])


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("words", [1, 2])
def test_double_exchange(target: str, many: bool, words: int) -> None:
    """Offsets count elements, or 64 of them; where both meet in one place, the second exchange sees the first."""
    size = 4 * words
    unit = 64 * size if many else size
    suffix = "st64" if many else ""
    rng = generator("wrxchg2", words)
    start, other, a, b = ([integers(rng) for _ in range(words)] for _ in range(4))
    vector: dict[str, Any] = {"v4": LANES * np.uint32(size)}
    for first, values in ((8, start), (10, other), (12, a), (14, b)):
        vector |= {f"v{first + k}": v for k, v in enumerate(values)}
    cases, mask = [], exec_mask(rng)
    for offsets in ((3, 70) if not many else (1, 3), (2, 2)):
        write = [
            f"ds_write_b{32 * words} v4, {span(r, words)} offset:{o * unit}"
            for r, o in zip((8, 10), offsets, strict=False)
        ]
        read = [
            f"ds_read_b{32 * words} {span(r, words)}, v4 offset:{o * unit}"
            for r, o in zip((40, 42), offsets, strict=False)
        ]
        text = wait(
            "s_mov_b64 exec, -1",
            *write,
            f"s_mov_b32 exec_lo, {mask & M32:#x}\ns_mov_b32 exec_hi, {mask >> 32:#x}",
            f"ds_wrxchg2{suffix}_rtn_b{32 * words} {span(32, 2 * words)}, v4, {span(12, words)}, {span(14, words)} "
            f"offset0:{offsets[0]} offset1:{offsets[1]}",
            "s_mov_b64 exec, -1",
            *read,
        )
        reads = [f"v{32 + k}" for k in range(2 * words)] + [f"v{r + k}" for r in (40, 42) for k in range(words)]
        cases.append(Case(text, vector | {f"v{32 + k}": np.uint32(7) for k in range(4)}, read=reads))
    apart, together = ([list(lanes) for lanes in got.values()] for got in run(target, cases, LDS))
    for lane in range(64):
        active = mask >> lane & 1
        old, second, x, y = ([int(v[lane]) for v in values] for values in (start, other, a, b))
        want = [*old, *second, *x, *y] if active else [7] * (2 * words) + [*old, *second]
        assert [int(v[lane]) for v in apart] == want, lane
        want = [*second, *x, *y, *y] if active else [7] * (2 * words) + [*second, *second]
        assert [int(v[lane]) for v in together] == want, lane


@pytest.mark.parametrize("target", TARGETS)
def test_no_operation(target: str) -> None:
    value = integers(generator("ds_nop"))
    got = run(
        target,
        [Case(wait("ds_write_b32 v4, v8", "ds_nop", "ds_read_b32 v32, v4"), {"v4": LANES * np.uint32(4), "v8": value})],
        LDS,
    )
    assert np.array_equal(got[0]["v32"], value)


@pytest.mark.parametrize("target", TARGETS)
def test_past_the_end(target: str) -> None:
    """The second of two places is checked as well."""
    text = "ds_wrxchg2_rtn_b64 v[32:35], v4, v[12:13], v[14:15] offset0:0 offset1:1"
    small = Kernel(lds=512 + 8)
    run(target, [Case(text, {"v4": LANES * np.uint32(8)})], small)
    with pytest.raises(MemoryViolation) as caught:
        run(target, [Case(text.replace("offset1:1", "offset1:2"), {"v4": LANES * np.uint32(8)})], small)
    assert (caught.value.space, caught.value.lane) == ("LDS", 63)
