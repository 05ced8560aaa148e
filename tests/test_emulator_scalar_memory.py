"""Scalar stores, buffer accesses, atomics, cache instructions: one access of the whole wave, from scalar registers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text
from emulator.executor import library
from emulator.integer_models import M32, M64, signed
from emulator.values import generator, integers

from aiterlite.emulator import MemoryViolation, use_library

pytestmark = pytest.mark.emulated

# 4 * lane in v2, `data` at s[4:5], `out` at s[6:7].
PROLOGUE = """
v_and_b32_e32 v2, 0x3ff, v0
v_lshlrev_b32_e32 v2, 2, v2
s_load_dwordx4 s[4:7], s[0:1], 0
s_waitcnt lgkmcnt(0)
"""


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def launch(target: str, body: str, data: Any, out: Any) -> None:
    text = kernel_text(target, "k", PROLOGUE + body + "\ns_endpgm", Kernel(), ("data", "out"))
    device(target).load(assemble(target, text)).launch("k", 1, 64, {"data": data, "out": out})


def words(name: str, count: int) -> Any:
    return generator(name).integers(0, 1 << 32, count, dtype=np.uint64).astype(np.uint32)


def scalars(first: int, count: int) -> str:
    return f"s{first}" if count == 1 else f"s[{first}:{first + count - 1}]"


def set_scalars(first: int, values: Any) -> str:
    return "\n".join(f"s_mov_b32 s{first + i}, {int(v):#x}" for i, v in enumerate(values))


def store_scalars(first: int, count: int, offset: int = 0) -> str:
    """Scalar registers to out, a dword each in the lanes' order."""
    lines = ["s_waitcnt lgkmcnt(0)"]
    for i in range(count):
        lines += [f"v_mov_b32_e32 v32, s{first + i}", "v_mov_b32_e32 v33, 0"]
        lines.append(f"global_store_dword v33, v32, s[6:7] offset:{4 * (offset + i)}")
    return "\n".join(lines)


def suffix(count: int) -> str:
    return "dword" if count == 1 else f"dwordx{count}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("count", [1, 2, 4])
def test_store(target: str, count: int) -> None:
    """Immediate, register and both as offsets; a negative immediate; the low two bits of the sum are dropped."""
    values = words("store", count)
    forms = {
        "s[4:5], 16": 16,
        "s[4:5], s8": 36,
        "s[4:5], s8 offset:0x40": 36 + 64,
        "s[8:9], -0x20": 256 - 32,
        "s[4:5], 0x133": 0x130,
    }
    for operands, at in forms.items():
        data = np.full(128, 0x11111111, np.uint32)
        base = "s_mov_b32 s8, 36" if "s[8:9]" not in operands else "s_add_u32 s8, s4, 256\ns_addc_u32 s9, s5, 0"
        body = f"{set_scalars(20, values)}\n{base}\ns_store_{suffix(count)} {scalars(20, count)}, {operands}"
        # A store that EXEC does not concern.
        launch(target, body.replace("s_store", "s_mov_b64 exec, 0\ns_store"), data, np.zeros(1, np.uint32))
        want = np.full(128, 0x11111111, np.uint32)
        want[at // 4 : at // 4 + count] = values
        assert np.array_equal(data, want), operands


RESOURCE = "s_mov_b32 s12, s4\ns_or_b32 s13, s5, {stride:#x}\ns_mov_b32 s14, {records}\ns_mov_b32 s15, 0x00020000\n"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stride", [0, 12])
@pytest.mark.parametrize("count", [1, 2, 4, 8, 16])
def test_buffer_load(target: str, stride: int, count: int) -> None:
    """Dwords past the resource's end read as zeros; its size is num_records times the stride, where there is one."""
    data = words("buffer", 96)
    dwords = 30
    resource = RESOURCE.format(stride=stride << 16, records=dwords * 4 // (stride or 1))
    for start in (0, 8, dwords - 1, dwords - count + 1, dwords, 60):
        body = (
            f"{resource}s_mov_b32 s8, {4 * start}\n"
            f"s_buffer_load_{suffix(count)} {scalars(20, count)}, s[12:15], s8\n{store_scalars(20, count)}\n"
            f"s_buffer_load_{suffix(count)} {scalars(40, count)}, s[12:15], {4 * start}\n"
            f"{store_scalars(40, count, count)}"
        )
        out = np.zeros(2 * count, np.uint32)
        launch(target, body, data, out)
        want = [int(data[i]) if i < dwords else 0 for i in range(start, start + count)]
        assert [int(v) for v in out] == want * 2, start


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stride", [0, 8])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_buffer_store(target: str, stride: int, count: int) -> None:
    """Dwords past the resource's end are not written."""
    values = words("buffer store", count)
    dwords = 16
    resource = RESOURCE.format(stride=stride << 16, records=dwords * 4 // (stride or 1))
    for start in (0, 5, dwords - 1, dwords - count + 1, dwords):
        data = np.full(64, 0x22222222, np.uint32)
        body = (
            f"{resource}{set_scalars(20, values)}\ns_mov_b32 s8, {4 * start}\n"
            f"s_buffer_store_{suffix(count)} {scalars(20, count)}, s[12:15], s8"
        )
        launch(target, body, data, np.zeros(1, np.uint32))
        want = np.full(64, 0x22222222, np.uint32)
        stop = max(start, min(start + count, dwords))
        want[start:stop] = values[: stop - start]
        assert np.array_equal(data, want), start


ATOMICS: dict[str, Callable[[int, int, int], int]] = {
    "swap": lambda old, data, bits: data,
    "add": lambda old, data, bits: old + data,
    "sub": lambda old, data, bits: old - data,
    "smin": lambda old, data, bits: min(old, data, key=lambda v: signed(v, bits)),
    "umin": lambda old, data, bits: min(old, data),
    "smax": lambda old, data, bits: max(old, data, key=lambda v: signed(v, bits)),
    "umax": lambda old, data, bits: max(old, data),
    "and": lambda old, data, bits: old & data,
    "or": lambda old, data, bits: old | data,
    "xor": lambda old, data, bits: old ^ data,
    "inc": lambda old, data, bits: 0 if old >= data else old + 1,
    "dec": lambda old, data, bits: data if old == 0 or old > data else old - 1,
}


def wide(values: Any, bits: int) -> list[int]:
    return [int(v) for v in (values if bits == 32 else values.view(np.uint64))]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("name", ATOMICS)
def test_atomic(target: str, bits: int, name: str) -> None:
    """Once for the whole wave. With glc the value before comes back, without it the data register keeps the operand."""
    count, model = bits // 32, ATOMICS[name]
    mask = M32 if bits == 32 else M64
    tail = "_x2" if bits == 64 else ""
    steps = 6
    operands = integers(generator(name, bits), steps * count)
    start = integers(generator(name, bits + 1), steps * count)
    start[: 2 * count] = operands[: 2 * count]  # equal to the operand: where inc turns and min and max do not move
    start[2 * count : 3 * count] = 0
    data, out = start.copy(), np.zeros(2 * steps * count, np.uint32)
    lines = []
    for i in range(steps):
        first = 20 + 2 * i
        lines.append(set_scalars(first, operands[i * count : (i + 1) * count]))
        returns = i % 2 == 0
        lines.append(f"s_mov_b32 s8, {4 * count * i}")
        # Every other one is at the base plus an immediate.
        address = f"s[4:5], {4 * count * i:#x}" if i % 3 == 0 else "s[4:5], s8"
        lines.append(f"s_atomic_{name}{tail} {scalars(first, count)}, {address}{' glc' if returns else ''}")
        lines.append(store_scalars(first, count, i * count))
    launch(target, "\n".join(lines), data, out)
    before, values = wide(start, bits), wide(operands, bits)
    assert wide(data, bits) == [model(o, v, bits) & mask for o, v in zip(before, values, strict=True)]
    assert wide(out, bits)[:steps] == [before[i] if i % 2 == 0 else values[i] for i in range(steps)]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("returns", [False, True])
def test_compare_and_swap(target: str, bits: int, returns: bool) -> None:
    """The operand comes first, the comparand behind it; only the operand's registers take the value before."""
    count = bits // 32
    tail = "_x2" if bits == 64 else ""
    start = words("cmpswap", 2 * count)
    new = words("cmpswap new", count)
    other = start[count:] ^ np.uint32(1 << 31)  # differs in the highest bit only
    data, out = start.copy(), np.zeros(4 * count, np.uint32)
    lines = [set_scalars(20, [*new, *start[:count]]), set_scalars(28, [*new, *other])]
    for i, first in enumerate((20, 28)):
        glc = " glc" if returns else ""
        lines.append(f"s_atomic_cmpswap{tail} {scalars(first, 2 * count)}, s[4:5], {4 * count * i:#x}{glc}")
        lines.append(store_scalars(first, 2 * count, 2 * count * i))
    launch(target, "\n".join(lines), data, out)
    assert np.array_equal(data, np.concatenate([new, start[count:]]))
    kept = [start[:count], start[count:]] if returns else [new, new]
    assert np.array_equal(out, np.concatenate([kept[0], start[:count], kept[1], other]))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "access", ["s_store_dwordx2 s[20:21], s[4:5], 12", "s_atomic_add s20, s[4:5], 16", "s_atomic_add s20, s[4:5], -4"]
)
def test_access_outside(target: str, access: str) -> None:
    data = np.zeros(4, np.uint32)
    with pytest.raises(MemoryViolation) as caught:
        launch(target, access, data, np.zeros(1, np.uint32))
    assert caught.value.space == "scalar" and caught.value.write
    assert not data.any()


@pytest.mark.parametrize("target", TARGETS)
def test_cache_instructions(target: str) -> None:
    """Invalidations and write-backs change no value: memory is coherent here."""
    data = words("cache", 4)
    kept = data.copy()
    out = np.zeros(4, np.uint32)
    lines = ["s_movk_i32 s20, 7", "s_store_dword s20, s[4:5], 0"]
    for name in (
        "s_dcache_wb",
        "s_dcache_inv",
        "s_dcache_wb_vol",
        "s_dcache_inv_vol",
        "s_icache_inv",
        "buffer_wbl2 sc1",
        "buffer_inv sc1",
    ):
        lines.append(name)
    lines += ["s_load_dwordx4 s[24:27], s[4:5], 0", store_scalars(24, 4)]
    launch(target, "\n".join(lines), data, out)
    assert [int(v) for v in out] == [7, *(int(v) for v in kept[1:])] == [int(v) for v in data]
