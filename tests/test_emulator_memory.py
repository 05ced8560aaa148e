"""Global, flat, scratch, buffer and scalar memory: every width, addressing mode and atomic."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from emulator import floats as fp
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text
from emulator.executor import library
from emulator.floats import BF16, F16, F32, F64
from emulator.integer_models import M32, M64, signed
from emulator.values import floats, generator, integers

from aiterlite.emulator import MemoryViolation, Report, use_library

pytestmark = pytest.mark.emulated

Bytes = npt.NDArray[np.uint8]
# Lane number in v1, 4 * lane in v2, the arguments in s[4:5], s[6:7], ...
PROLOGUE = """
v_and_b32_e32 v1, 0x3ff, v0
v_lshlrev_b32_e32 v2, 2, v1
s_load_dwordx4 s[4:7], s[0:1], 0
s_waitcnt lgkmcnt(0)
"""


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def launch(target: str, body: str, data: Any, out: Any, kernel: Kernel | None = None, **options: Any) -> Report:
    text = kernel_text(target, "k", PROLOGUE + body + "\ns_endpgm", kernel or Kernel(), ("data", "out"))
    return device(target).load(assemble(target, text)).launch("k", 1, 64, {"data": data, "out": out}, **options)


def store_registers(registers: list[str]) -> str:
    """Stores registers to out, 256 bytes each."""
    return "\n".join(f"global_store_dword v2, {r}, s[6:7] offset:{256 * i}" for i, r in enumerate(registers))


def sign_extend(value: int, bits: int) -> int:
    return signed(value, bits) & M32


# Bytes read, dwords written, and what becomes of the raw value over the register's old one.
LOADS: dict[str, tuple[int, Callable[[int, int], int]]] = {
    "ubyte": (1, lambda raw, old: raw),
    "sbyte": (1, lambda raw, old: sign_extend(raw, 8)),
    "ushort": (2, lambda raw, old: raw),
    "sshort": (2, lambda raw, old: sign_extend(raw, 16)),
    "dword": (4, lambda raw, old: raw),
    "dwordx2": (8, lambda raw, old: raw),
    "dwordx3": (12, lambda raw, old: raw),
    "dwordx4": (16, lambda raw, old: raw),
    "ubyte_d16": (1, lambda raw, old: old & 0xFFFF0000 | raw),
    "ubyte_d16_hi": (1, lambda raw, old: old & 0xFFFF | raw << 16),
    "sbyte_d16": (1, lambda raw, old: old & 0xFFFF0000 | sign_extend(raw, 8) & 0xFFFF),
    "sbyte_d16_hi": (1, lambda raw, old: old & 0xFFFF | (sign_extend(raw, 8) & 0xFFFF) << 16),
    "short_d16": (2, lambda raw, old: old & 0xFFFF0000 | raw),
    "short_d16_hi": (2, lambda raw, old: old & 0xFFFF | raw << 16),
}
STORES: dict[str, tuple[int, int]] = {  # bytes, shift of the register
    "byte": (1, 0), "byte_d16_hi": (1, 16), "short": (2, 0), "short_d16_hi": (2, 16), "dword": (4, 0),
    "dwordx2": (8, 0), "dwordx3": (12, 0), "dwordx4": (16, 0),
}  # fmt: skip
OLD = 0x5A5AA5A5


def span(first: int, count: int) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


def address_of(space: str, size: int, offset: int) -> tuple[str, str]:
    """Set-up lines and operands for lane l's access at data + 20 * l + offset (unaligned for the wide ones)."""
    scale = "v_mul_u32_u24_e32 v3, 20, v1"
    if space == "saddr":
        return scale, f"v3, DATA, s[4:5] offset:{offset}"
    if space == "flat":
        lines = "v_mov_b32_e32 v5, s5\nv_add_co_u32_e32 v4, vcc, s4, v3\nv_addc_co_u32_e32 v5, vcc, 0, v5, vcc"
        return f"{scale}\n{lines}", f"v[4:5], DATA offset:{offset}"
    lines = "v_mov_b32_e32 v5, s5\nv_add_co_u32_e32 v4, vcc, s4, v3\nv_addc_co_u32_e32 v5, vcc, 0, v5, vcc"
    return f"{scale}\n{lines}", f"v[4:5], DATA, off offset:{offset}"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("space", ["saddr", "pair", "flat"])
@pytest.mark.parametrize("name", LOADS)
def test_load(target: str, space: str, name: str) -> None:
    size, model = LOADS[name]
    dwords = max(1, size // 4)
    data = generator(name).integers(0, 256, 20 * 64 + 64, dtype=np.uint8)
    offset = 9 if space != "flat" else 0
    setup, operands = address_of(space, size, offset)
    registers = [f"v{32 + i}" for i in range(dwords)]
    prefix = "flat" if space == "flat" else "global"
    address, _, rest = operands.partition(", DATA")
    lines = [setup, *(f"v_mov_b32_e32 {r}, {OLD:#x}" for r in registers)]
    # Odd lanes are off: they keep what they had, and their addresses are of no consequence.
    lines += ["v_mov_b32_e32 v6, -1", "s_mov_b32 exec_lo, 0x55555555", "s_mov_b32 exec_hi, 0x55555555"]
    lines += [
        f"{prefix}_load_{name} {span(32, dwords)}, {address}{rest}",
        "s_mov_b64 exec, -1",
        "s_waitcnt vmcnt(0) lgkmcnt(0)",
    ]
    out = np.zeros(64 * dwords, np.uint32)
    launch(target, "\n".join([*lines, store_registers(registers)]), data, out)
    for lane in range(64):
        start = 20 * lane + offset
        for d in range(dwords):
            raw = int.from_bytes(data[start + 4 * d : start + min(size, 4 * d + 4)].tobytes(), "little")
            want = OLD if lane % 2 else model(raw, OLD)
            assert int(out[64 * d + lane]) == want, (lane, d)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("space", ["saddr", "pair", "flat"])
@pytest.mark.parametrize("name", STORES)
def test_store(target: str, space: str, name: str) -> None:
    size, shift = STORES[name]
    dwords = max(1, size // 4)
    data = np.zeros(20 * 64 + 64, np.uint8)
    values = np.concatenate([integers(generator(name, i)) for i in range(dwords)])
    offset = 3 if space != "flat" else 0
    setup, operands = address_of(space, size, offset)
    prefix = "flat" if space == "flat" else "global"
    lines = [
        setup,
        *(f"global_load_dword v{32 + i}, v2, s[6:7] offset:{256 * i}" for i in range(dwords)),
        "s_waitcnt vmcnt(0)",
    ]
    lines += ["s_mov_b32 exec_hi, 0x0f0f0f0f", f"{prefix}_store_{name} {operands.replace('DATA', span(32, dwords))}"]
    launch(target, "\n".join(lines), data, values)
    want = np.zeros_like(data)
    mask = 0x0F0F0F0F << 32 | M32
    for lane in range(64):
        if mask >> lane & 1:
            raw = b"".join((int(values[64 * d + lane]) >> shift).to_bytes(4, "little") for d in range(dwords))[:size]
            want[20 * lane + offset : 20 * lane + offset + size] = np.frombuffer(raw, np.uint8)
    assert np.array_equal(data, want)


@pytest.mark.parametrize("target", TARGETS)
def test_consecutive_lanes(target: str) -> None:
    """The dense forms, which take another way than scattered lanes."""
    for dwords in (1, 2, 3, 4):
        data = generator("dense", dwords).integers(0, 1 << 32, 64 * dwords, dtype=np.uint64).astype(np.uint32)
        name = "dword" if dwords == 1 else f"dwordx{dwords}"
        lines = (
            f"v_mul_u32_u24_e32 v3, {4 * dwords}, v1\n"
            f"global_load_{name} {span(32, dwords)}, v3, s[4:5]\ns_waitcnt vmcnt(0)\n"
        )
        out = np.zeros_like(data)
        launch(target, lines + f"global_store_{name} v3, {span(32, dwords)}, s[6:7]", data, out)
        assert np.array_equal(data, out)
        transposed = np.zeros_like(data)
        launch(target, lines + store_registers([f"v{32 + i}" for i in range(dwords)]), data, transposed)
        assert np.array_equal(transposed.reshape(dwords, 64), data.reshape(64, dwords).T)


@pytest.mark.parametrize("target", TARGETS)
def test_accumulation_registers(target: str) -> None:
    data = generator("agpr").integers(0, 1 << 32, 256, dtype=np.uint64).astype(np.uint32)
    out = np.zeros_like(data)
    body = (
        "v_lshlrev_b32_e32 v3, 4, v1\nglobal_load_dwordx4 a[8:11], v3, s[4:5]\n"
        "s_waitcnt vmcnt(0)\nglobal_store_dwordx4 v3, a[8:11], s[6:7]"
    )
    launch(target, body, data, out)
    assert np.array_equal(data, out)


@pytest.mark.parametrize("target", TARGETS)
def test_scratch(target: str) -> None:
    """Scratch is a lane's own: scalar, vector and immediate parts of the address, widths, and flat access."""
    data = generator("scratch").integers(0, 1 << 32, 64, dtype=np.uint64).astype(np.uint32)
    body = """
global_load_dword v8, v2, s[4:5]
s_waitcnt vmcnt(0)
v_xor_b32_e32 v9, -1, v8
v_add_u32_e32 v10, 77, v8
v_add_u32_e32 v11, v8, v8
s_mov_b32 s20, 32
scratch_store_dwordx4 off, v[8:11], s20 offset:16
v_mov_b32_e32 v3, 40
scratch_store_byte v3, v8, off offset:24
scratch_store_short off, v9, off offset:70
v_and_b32_e32 v4, 3, v1
v_lshlrev_b32_e32 v4, 2, v4
scratch_load_dword v32, v4, off offset:48
scratch_load_dwordx2 v[34:35], off, s20 offset:20
s_waitcnt vmcnt(0)
v_mov_b32_e32 v33, v34
v_mov_b32_e32 v34, v35
scratch_load_ubyte v35, off, off offset:64
scratch_load_sshort v36, off, off offset:70
scratch_load_dword v37, off, off offset:49
s_mov_b64 s[22:23], src_private_base
v_mov_b32_e32 v6, 52
v_mov_b32_e32 v7, s23
flat_load_dword v38, v[6:7]
s_waitcnt vmcnt(0) lgkmcnt(0)
v_mov_b32_e32 v6, 60
flat_store_dword v[6:7], v38
scratch_load_dword v39, off, off offset:60
s_waitcnt vmcnt(0)
"""
    registers = [f"v{32 + i}" for i in range(8)]
    out = np.zeros(8 * 64, np.uint32)
    launch(target, body + store_registers(registers), data, out, Kernel(scratch=80))
    columns = out.reshape(8, 64)
    for lane in range(64):
        x = int(data[lane])
        words = [x, x ^ M32, (x + 77) & M32, 2 * x & M32]
        raw = b"".join(w.to_bytes(4, "little") for w in words)
        want = [
            words[lane & 3],
            words[1],
            words[2],
            x & 255,
            sign_extend(words[1] & 0xFFFF, 16),
            int.from_bytes(raw[1:5], "little"),
            words[1],
            words[1],
        ]
        assert [int(v) for v in columns[:, lane]] == want, lane


RESOURCE = "s_mov_b64 s[8:9], s[4:5]\ns_mov_b32 s10, {records}\ns_mov_b32 s11, 0x00020000\n"


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", LOADS)
def test_buffer_load(target: str, name: str) -> None:
    """Lanes out of the resource read zeros, dword by dword."""
    size, model = LOADS[name]
    dwords = max(1, size // 4)
    data = generator("buffer" + name).integers(0, 256, 2048, dtype=np.uint8)
    records, step, soffset, imm = 1000, 24, 40, 12
    registers = [f"v{32 + i}" for i in range(dwords)]
    lines = [RESOURCE.format(records=records), f"v_mul_u32_u24_e32 v3, {step}, v1", f"s_mov_b32 s20, {soffset}"]
    lines += [f"v_mov_b32_e32 {r}, {OLD:#x}" for r in registers]
    lines += [
        f"buffer_load_{name} {span(32, dwords)}, v3, s[8:11], s20 offen offset:{imm}",
        "s_waitcnt vmcnt(0)",
        store_registers(registers),
    ]
    out = np.zeros(64 * dwords, np.uint32)
    report = launch(target, "\n".join(lines), data, out, buffer_findings=True)
    outside = set()
    for lane in range(64):
        offset = step * lane + imm
        for d in range(dwords):
            width = min(size, 4)
            inside = offset + 4 * d + width <= records - soffset
            start = soffset + offset + 4 * d
            raw = int.from_bytes(data[start : start + width].tobytes(), "little") if inside else 0
            assert int(out[64 * d + lane]) == model(raw, OLD), (lane, d)
            if not inside:
                outside.add(lane)
    assert {f.lane for f in report.buffer_findings} == outside and all(not f.write for f in report.buffer_findings)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", STORES)
def test_buffer_store(target: str, name: str) -> None:
    size, shift = STORES[name]
    dwords = max(1, size // 4)
    values = np.concatenate([integers(generator("b" + name, i)) for i in range(dwords)])
    data = np.full(2048, 0xEE, np.uint8)
    records, step = 900, 20
    lines = [RESOURCE.format(records=records), f"v_mul_u32_u24_e32 v3, {step}, v1"]
    lines += [f"global_load_dword v{32 + i}, v2, s[6:7] offset:{256 * i}" for i in range(dwords)]
    lines += ["s_waitcnt vmcnt(0)", f"buffer_store_{name} {span(32, dwords)}, v3, s[8:11], 0 offen"]
    launch(target, "\n".join(lines), data, values)
    want = np.full(2048, 0xEE, np.uint8)
    for lane in range(64):
        for d in range(dwords):
            width, start = min(size, 4), step * lane + 4 * d
            if start + width <= records:
                raw = (int(values[64 * d + lane]) >> shift & ((1 << (8 * width)) - 1)).to_bytes(width, "little")
                want[start : start + width] = np.frombuffer(raw, np.uint8)
    assert np.array_equal(data, want)


@pytest.mark.parametrize("target", TARGETS)
def test_buffer_addressing(target: str) -> None:
    """Index and offset registers, strides, and swizzled buffers."""
    data = generator("stride").integers(0, 1 << 32, 1024, dtype=np.uint64).astype(np.uint32)
    stride, element, index_stride = 16, 4, 8
    body = f"""
s_mov_b32 s8, s4
s_or_b32 s9, s5, {stride << 16:#x}
s_mov_b32 s10, {60 * stride}
s_mov_b32 s11, 0x00020000
buffer_load_dword v32, v1, s[8:11], 0 idxen offset:4
v_mov_b32_e32 v4, v1
v_and_b32_e32 v5, 12, v2
buffer_load_dword v33, v[4:5], s[8:11], 0 idxen offen
s_or_b32 s9, s9, 0x80000000
s_mov_b32 s10, 50
s_mov_b32 s11, 0x00080000
buffer_load_dword v34, v[4:5], s[8:11], 0 idxen offen
buffer_load_dword v35, off, s[8:11], 0
s_waitcnt vmcnt(0)
"""
    out = np.zeros(4 * 64, np.uint32)
    launch(target, body + store_registers(["v32", "v33", "v34", "v35"]), data, out)
    columns = out.reshape(4, 64)
    for lane in range(64):
        part = (4 * lane) & 12
        assert columns[0][lane] == (data[lane * 4 + 1] if lane < 60 else 0)
        assert columns[1][lane] == (data[(lane * stride + part) // 4] if lane < 60 else 0)
        at = (
            (lane // index_stride * stride + part // element * element) * index_stride
            + lane % index_stride * element
            + part % element
        )
        assert columns[2][lane] == (data[at // 4] if lane < 50 else 0)
        assert columns[3][lane] == data[0]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("kind", ["buffer", "global"])
def test_load_to_lds(target: str, kind: str) -> None:
    """Lane l's data lands at M0 + offset + l times its size."""
    data = generator("lds").integers(0, 1 << 32, 512, dtype=np.uint64).astype(np.uint32)
    forms = [("dword", 1)] + ([("dwordx3", 3), ("dwordx4", 4)] if target == "gfx950" else [])
    for name, dwords in forms:
        setup = (
            f"v_mul_u32_u24_e32 v3, {4 * dwords}, v1\n"
            f"v_xor_b32_e32 v3, {4 * dwords * 5 if dwords != 3 else 0}, v3\n"
            "s_mov_b32 m0, 128\n"
        )
        if kind == "buffer":
            load = RESOURCE.format(records=2048) + f"buffer_load_{name} v3, s[8:11], 0 offen offset:64 lds\n"
        else:
            load = f"global_load_lds_{name} v3, s[4:5] offset:64\n"
        read = (
            "s_waitcnt vmcnt(0)\n"
            + "\n".join(f"ds_read_b32 v{32 + i}, v2 offset:{192 + 256 * i}" for i in range(dwords))
            + "\ns_waitcnt lgkmcnt(0)\n"
        )
        out = np.zeros(64 * dwords, np.uint32)
        launch(
            target,
            setup + load + read + store_registers([f"v{32 + i}" for i in range(dwords)]),
            data,
            out,
            Kernel(lds=2048),
        )
        want = np.zeros(64 * dwords, np.uint32)
        for lane in range(64):
            start = (4 * dwords * lane ^ (4 * dwords * 5 if dwords != 3 else 0)) + 64
            want[lane * dwords : (lane + 1) * dwords] = data[start // 4 : start // 4 + dwords]
        assert np.array_equal(out, want), name


@pytest.mark.parametrize("target", TARGETS)
def test_narrow_loads_to_lds(target: str) -> None:
    data = generator("narrow").integers(0, 256, 256, dtype=np.uint8)
    body = "s_mov_b32 m0, 0\n"
    for i, name in enumerate(("ubyte", "sbyte", "ushort", "sshort")):
        body += (
            f"global_load_lds_{name} v1, s[4:5] offset:{16 * i}\ns_waitcnt vmcnt(0)\n"
            f"ds_read_b32 v{32 + i}, v2 offset:{16 * i}\ns_waitcnt lgkmcnt(0)\n"
        )
    out = np.zeros(256, np.uint32)
    launch(target, body + store_registers([f"v{32 + i}" for i in range(4)]), data, out, Kernel(lds=1024))
    for lane in range(64):
        byte = [int(data[lane + 16 * i]) for i in range(4)]
        short = [byte[i] | int(data[lane + 16 * i + 1]) << 8 for i in range(4)]
        want = [byte[0], sign_extend(byte[1], 8), short[2], sign_extend(short[3], 16)]
        assert [int(out[64 * i + lane]) for i in range(4)] == want


INTEGER_ATOMICS: dict[str, Callable[[int, int, int], int]] = {
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


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("space", ["global", "flat", "buffer"])
@pytest.mark.parametrize("bits", [32, 64])
def test_integer_atomics(target: str, space: str, bits: int) -> None:
    """Lanes l and l + 32 go to the same word, in order; the value before comes back where it is asked for."""
    mask = M32 if bits == 32 else M64
    dtype = np.uint32 if bits == 32 else np.uint64
    words = bits // 32
    for name, model in INTEGER_ATOMICS.items():
        rng = generator(f"{space}{name}", bits)
        start = np.concatenate([integers(rng) for _ in range(words)]).view(dtype)[:32].copy()
        values = np.concatenate([integers(rng) for _ in range(words)]).view(dtype).copy()
        data, out = start.copy(), values.copy()
        suffix = "_x2" if bits == 64 else ""
        scale = 4 * words
        lines = [f"v_and_b32_e32 v3, 31, v1\nv_mul_u32_u24_e32 v3, {scale}, v3\nv_mul_u32_u24_e32 v6, {scale}, v1"]
        lines.append(f"global_load_dword{'x2' if words == 2 else ''} {span(32, words)}, v6, s[6:7]\ns_waitcnt vmcnt(0)")
        lines.append("v_mov_b32_e32 v5, s5\nv_add_co_u32_e32 v4, vcc, s4, v3\nv_addc_co_u32_e32 v5, vcc, 0, v5, vcc")
        result, source = span(40, words), span(32, words)
        if space == "global":
            lines.append(f"global_atomic_{name}{suffix} {result}, v3, {source}, s[4:5] sc0")
        elif space == "flat":
            lines.append(f"flat_atomic_{name}{suffix} {result}, v[4:5], {source} sc0")
        else:
            lines += [
                RESOURCE.format(records=32 * scale),
                f"buffer_atomic_{name}{suffix} {source}, v3, s[8:11], 0 offen sc0",
            ]
            result = source
        lines.append(
            f"s_waitcnt vmcnt(0) lgkmcnt(0)\nglobal_store_dword{'x2' if words == 2 else ''} v6, {result}, s[6:7]"
        )
        launch(target, "\n".join(lines), data, out)
        memory = [int(v) for v in start]
        for lane in range(64):
            before = memory[lane % 32]
            assert int(out[lane]) == before, (name, lane)
            memory[lane % 32] = model(before, int(values[lane]), bits) & mask
        assert [int(v) for v in data] == memory, name


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("space", ["global", "flat", "buffer"])
@pytest.mark.parametrize("bits", [32, 64])
def test_compare_and_swap(target: str, space: str, bits: int) -> None:
    """The comparand, behind the new value, is right in even lanes only. A buffer's result replaces the new value."""
    dtype = np.uint32 if bits == 32 else np.uint64
    words = bits // 32
    tail, wide = ("_x2", "x2") if words == 2 else ("", "")
    data = np.arange(64, dtype=dtype) // 2
    out = np.arange(64, dtype=dtype)
    comparand = 32 + words
    body = f"v_mul_u32_u24_e32 v6, {4 * words}, v1\nv_mov_b32_e32 v33, 0\nv_mov_b32_e32 v35, 0\n"
    body += f"v_add_u32_e32 v32, 1000, v1\nv_lshrrev_b32_e32 v{comparand}, 1, v1\n"
    body += f"v_and_b32_e32 v7, 1, v1\nv_add_u32_e32 v{comparand}, v{comparand}, v7\n"
    result, source = span(40, words), span(32, 2 * words)
    if space == "global":
        body += f"global_atomic_cmpswap{tail} {result}, v6, {source}, s[4:5] sc0\n"
    elif space == "flat":
        body += "v_mov_b32_e32 v5, s5\nv_add_co_u32_e32 v4, vcc, s4, v6\nv_addc_co_u32_e32 v5, vcc, 0, v5, vcc\n"
        body += f"flat_atomic_cmpswap{tail} {result}, v[4:5], {source} sc0\n"
    else:
        body += RESOURCE.format(records=64 * 4 * words)
        body += f"buffer_atomic_cmpswap{tail} {source}, v6, s[8:11], 0 offen sc0\n"
        result = span(32, words)
    launch(target, f"{body}s_waitcnt vmcnt(0) lgkmcnt(0)\nglobal_store_dword{wide} v6, {result}, s[6:7]", data, out)
    for lane in range(64):
        assert int(out[lane]) == lane // 2
        assert int(data[lane]) == (1000 + lane if lane % 2 == 0 else lane // 2)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("space", ["global", "flat", "buffer"])
def test_float_atomics(target: str, space: str) -> None:
    def packed(f: fp.Format) -> Callable[[int, int], int]:
        return lambda a, b: fp.add(f, a & 0xFFFF, b & 0xFFFF) | fp.add(f, a >> 16, b >> 16) << 16

    table: dict[str, tuple[int, Callable[[int, int], int]]] = {
        "add_f32": (1, lambda a, b: fp.add(F32, a, b)),
        "pk_add_f16": (1, packed(F16)),
        "pk_add_bf16": (1, packed(BF16)),
        "add_f64": (2, lambda a, b: fp.add(F64, a, b)),
        "min_f64": (2, lambda a, b: fp.minimum(F64, a, b, False)),
        "max_f64": (2, lambda a, b: fp.maximum(F64, a, b, False)),
    }
    if space == "buffer" and target == "gfx942":
        del table["pk_add_bf16"]
    for name, (words, model) in table.items():
        rng = generator(space + name)
        dtype = np.uint32 if words == 1 else np.uint64
        if words == 2:
            start, values = (rng.normal(0, 4, n).view(np.uint64).copy() for n in (32, 64))
        elif name == "add_f32":
            start, values = (rng.normal(0, 4, n).astype(np.float32).view(np.uint32).copy() for n in (32, 64))
        else:
            f = F16 if name.endswith("_f16") else BF16
            start, values = (
                np.array(
                    [fp.convert(f, F32, int(v)) for v in rng.normal(0, 4, 2 * n).astype(np.float32).view(np.uint32)],
                    np.uint16,
                )
                .view(np.uint32)
                .copy()
                for n in (32, 64)
            )
        data, out = start.copy(), values.copy()
        scale, wide = 4 * words, "x2" if words == 2 else ""
        lines = [f"v_and_b32_e32 v3, 31, v1\nv_mul_u32_u24_e32 v3, {scale}, v3\nv_mul_u32_u24_e32 v6, {scale}, v1"]
        lines.append(f"global_load_dword{wide} {span(32, words)}, v6, s[6:7]\ns_waitcnt vmcnt(0)")
        lines.append("v_mov_b32_e32 v5, s5\nv_add_co_u32_e32 v4, vcc, s4, v3\nv_addc_co_u32_e32 v5, vcc, 0, v5, vcc")
        if space == "global":
            lines.append(f"global_atomic_{name} v3, {span(32, words)}, s[4:5]")
        elif space == "flat":
            lines.append(f"flat_atomic_{name} v[4:5], {span(32, words)}")
        else:
            lines += [
                RESOURCE.format(records=32 * scale),
                f"buffer_atomic_{name} {span(32, words)}, v3, s[8:11], 0 offen",
            ]
        launch(target, "\n".join(lines), data, out)
        want = [model(model(int(start[i]), int(values[i])), int(values[i + 32])) for i in range(32)]
        assert [int(v) for v in data] == want, name
        assert data.dtype == dtype


@pytest.mark.parametrize("target", TARGETS)
def test_misaligned_atomics(target: str) -> None:
    data, out = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    with pytest.raises(MemoryViolation) as caught:
        launch(target, "v_add_u32_e32 v3, 2, v2\nglobal_atomic_add v3, v1, s[4:5]", np.concatenate([data, data]), out)
    assert caught.value.kind == "misaligned" and caught.value.lane == 0


# Atomics on LDS at v3, which is a multiple of four: faulty at an offset that is none of their size, legal at one.
LDS_ATOMICS = [
    ("ds_add_u32 v3, v1", 2, 4),
    ("ds_add_rtn_u32 v4, v3, v1", 1, 8),
    ("ds_cmpst_b32 v3, v1, v1", 6, 0),
    ("ds_add_f32 v3, v1", 2, 4),
    ("ds_pk_add_f16 v3, v1", 2, 4),
    ("ds_add_u64 v3, v[6:7]", 4, 8),
    ("ds_wrxchg_rtn_b64 v[8:9], v3, v[6:7]", 12, 16),
    ("ds_append v4", 2, 4),
]


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("text, faulty, legal", LDS_ATOMICS, ids=[text.split()[0] for text, *_ in LDS_ATOMICS])
def test_misaligned_atomics_on_lds(text: str, faulty: int, legal: int, target: str) -> None:
    data, out = np.zeros(128, np.uint32), np.zeros(64, np.uint32)
    start = "s_mov_b32 m0, 0\nv_mov_b32_e32 v3, 32\n"
    launch(target, f"{start}{text} offset:{legal}", data, out, Kernel(lds=256))
    with pytest.raises(MemoryViolation) as caught:
        launch(target, f"{start}{text} offset:{faulty}", data, out, Kernel(lds=256))
    error = caught.value
    assert (error.kind, error.space, error.write, error.lane) == ("misaligned", "LDS", True, 0)
    assert error.address == faulty + (0 if text.startswith("ds_append") else 32) and error.address % error.size
    assert "is not aligned to its size: the workgroup's LDS has 256 bytes" in str(error)


@pytest.mark.parametrize("target", TARGETS)
def test_misaligned_loads_of_lds_are_legal(target: str) -> None:
    """The driver sets the chips up to take them."""
    body = "v_mov_b32_e32 v3, 33\nds_write_b32 v3, v1\nds_read_b64 v[8:9], v3 offset:4\ns_waitcnt lgkmcnt(0)"
    launch(target, body, np.zeros(128, np.uint32), np.zeros(64, np.uint32), Kernel(lds=256))


@pytest.mark.parametrize("target", TARGETS)
def test_misaligned_flat_atomic_on_lds(target: str) -> None:
    body = (
        "s_mov_b64 s[12:13], src_shared_base\nv_mov_b32_e32 v5, s13\nv_mov_b32_e32 v4, {}\nflat_atomic_add v[4:5], v1"
    )
    data, out = np.zeros(128, np.uint32), np.zeros(64, np.uint32)
    launch(target, body.format(8), data, out, Kernel(lds=256))
    with pytest.raises(MemoryViolation) as caught:
        launch(target, body.format(10), data, out, Kernel(lds=256))
    error = caught.value
    assert (error.kind, error.space, error.address, error.lane) == ("misaligned", "LDS", 10, 0)


@pytest.mark.parametrize("target", TARGETS)
def test_scalar_memory(target: str) -> None:
    data = generator("smem").integers(0, 1 << 32, 128, dtype=np.uint64).astype(np.uint32)
    body = """
s_mov_b32 s8, 8
s_load_dword s20, s[4:5], 12
s_load_dwordx2 s[22:23], s[4:5], s8
s_load_dwordx4 s[24:27], s[4:5], s8 offset:16
s_load_dwordx8 s[28:35], s[4:5], 64
s_load_dwordx16 s[36:51], s[4:5], 128
s_mov_b64 s[12:13], s[4:5]
s_mov_b32 s14, 40
s_mov_b32 s15, 0
s_buffer_load_dwordx4 s[52:55], s[12:15], 32
s_buffer_load_dword s56, s[12:15], s8
s_waitcnt lgkmcnt(0)
"""
    reads = [
        ("s20", 3),
        ("s22", 2),
        ("s23", 3),
        *((f"s{24 + i}", 6 + i) for i in range(4)),
        *((f"s{28 + i}", 16 + i) for i in range(8)),
    ]
    reads += [
        *((f"s{36 + i}", 32 + i) for i in range(16)),
        ("s52", 8),
        ("s53", 9),
        ("s54", None),
        ("s55", None),
        ("s56", 2),
    ]
    lines = "\n".join(
        f"v_mov_b32_e32 v32, {r}\nglobal_store_dword v2, v32, s[6:7]\ns_add_u32 s6, s6, 256\ns_addc_u32 s7, s7, 0"
        for r, _ in reads
    )
    out = np.zeros(64 * len(reads), np.uint32)
    launch(target, body + lines, data, out)
    for (register, index), lanes in zip(reads, out.reshape(-1, 64), strict=True):
        assert int(lanes[0]) == (0 if index is None else int(data[index])), register


@pytest.mark.parametrize("target", TARGETS)
def test_float_results_are_exact(target: str) -> None:
    """An order of additions that shows: lanes one after the other."""
    values = floats(generator("order"))
    ordinary = np.where((values & 0x7F800000) == 0x7F800000, np.uint32(0x3F800000), values)
    data = np.zeros(1, np.uint32)
    launch(
        target,
        (
            "global_load_dword v32, v2, s[6:7]\ns_waitcnt vmcnt(0)\nv_mov_b32_e32 v3, 0\n"
            "global_atomic_add_f32 v3, v32, s[4:5]"
        ),
        data,
        ordinary,
    )
    total = 0
    for v in ordinary:
        total = fp.add(F32, total, int(v))
    assert int(data[0]) == total
