"""Scratch loads and stores of every width and half, and what a lane that is off or past the end does."""

from __future__ import annotations

import numpy as np
import pytest
from emulator.assembly import TARGETS, Case, Kernel, run
from emulator.executor import library
from emulator.integer_models import M32, signed
from emulator.values import exec_mask, generator, integers

from aiterlite.emulator import MemoryViolation, use_library

pytestmark = pytest.mark.emulated
BYTES = 96
SCRATCH = Kernel(scratch=BYTES)
OLD = 0x5A5AA5A5

# Bytes read, and where the extended value goes: "" the whole register, or a half of it.
LOADS: dict[str, tuple[int, bool, str]] = {
    "ubyte": (1, False, ""), "sbyte": (1, True, ""), "ushort": (2, False, ""), "sshort": (2, True, ""),
    "dword": (4, False, ""), "dwordx2": (8, False, ""), "dwordx3": (12, False, ""), "dwordx4": (16, False, ""),
    "ubyte_d16": (1, False, "low"), "ubyte_d16_hi": (1, False, "high"),
    "sbyte_d16": (1, True, "low"), "sbyte_d16_hi": (1, True, "high"),
    "short_d16": (2, False, "low"), "short_d16_hi": (2, False, "high"),
}  # fmt: skip
STORES: dict[str, tuple[int, int]] = {  # bytes, shift of the register
    "byte": (1, 0), "byte_d16_hi": (1, 16), "short": (2, 0), "short_d16_hi": (2, 16), "dword": (4, 0),
    "dwordx2": (8, 0), "dwordx3": (12, 0), "dwordx4": (16, 0),
}  # fmt: skip
# Address operands: what they add to the immediate offset in lane i. v4 holds 4 * (i mod 8), s20 holds 20.
ADDRESSES = {"off, {}, off": lambda i: 0, "off, {}, s20": lambda i: 20, "v4, {}, off": lambda i: 4 * (i % 8)}


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


def span(first: int, count: int) -> str:
    return f"v{first}" if count == 1 else f"v[{first}:{first + count - 1}]"


def load_text(name: str, address: str, dwords: int, offset: int) -> str:
    first, _, last = address.partition(", {}, ")
    return f"scratch_load_{name} {span(32, dwords)}, {first}, {last} offset:{offset}"


def fill(words: int) -> str:
    """Registers v40 .. to scratch from its start."""
    return "\n".join(f"scratch_store_dword off, v{40 + k}, off offset:{4 * k}" for k in range(words))


def memory_of(contents: list[np.ndarray], lane: int) -> bytearray:
    return bytearray(b"".join(int(w[lane]).to_bytes(4, "little") for w in contents))


@pytest.mark.parametrize("target", TARGETS)
def test_load(target: str) -> None:
    rng = generator("scratch load")
    contents = [integers(rng) for _ in range(BYTES // 4)]
    base = {f"v{40 + k}": w for k, w in enumerate(contents)} | {"v4": np.arange(64, dtype=np.uint32) % 8 * 4}
    cases, models = [], []
    for name, (size, _, _) in LOADS.items():
        for address in ADDRESSES:
            for offset in (8, 13):
                dwords = max(1, size // 4)
                mask = exec_mask(rng)
                reads = [f"v{32 + d}" for d in range(dwords)]
                text = (
                    f"s_mov_b64 exec, -1\n{fill(BYTES // 4)}\ns_mov_b32 exec_lo, {mask & M32:#x}\n"
                    f"s_mov_b32 exec_hi, {mask >> 32:#x}\n{load_text(name, address, dwords, offset)}\n"
                    "s_waitcnt vmcnt(0)"
                )
                cases.append(Case(text, base | {r: np.uint32(OLD) for r in reads}, {20: 20}, reads))
                models.append((name, address, offset, mask))
    for (name, address, offset, mask), got in zip(models, run(target, cases, SCRATCH), strict=True):
        size, extends, half = LOADS[name]
        for lane in range(64):
            at = offset + ADDRESSES[address](lane)
            for d, lanes in enumerate(got.values()):
                raw = memory_of(contents, lane)[at + 4 * d : at + min(size, 4 * d + 4)]
                value = int.from_bytes(raw, "little")
                value = signed(value, 8 * size) & M32 if extends else value
                if half:
                    value &= 0xFFFF
                    value = OLD & 0xFFFF0000 | value if half == "low" else OLD & 0xFFFF | value << 16
                assert int(lanes[lane]) == (value if mask >> lane & 1 else OLD), (name, address, offset, lane)


@pytest.mark.parametrize("target", TARGETS)
def test_store(target: str) -> None:
    rng = generator("scratch store")
    words = 14
    contents = [integers(rng) for _ in range(words)]
    base = {f"v{40 + k}": w for k, w in enumerate(contents)} | {"v4": np.arange(64, dtype=np.uint32) % 8 * 4}
    reads = [f"v{100 + k}" for k in range(words)]
    back = "\n".join(f"scratch_load_dword {r}, off, off offset:{4 * k}" for k, r in enumerate(reads))
    cases, models = [], []
    for name, (size, _) in STORES.items():
        for address in ADDRESSES:
            for offset in (8, 5):
                data = [integers(rng) for _ in range(max(1, size // 4))]
                mask = exec_mask(rng)
                operands = address.format(span(32, len(data)))
                text = (
                    f"s_mov_b64 exec, -1\n{fill(words)}\ns_mov_b32 exec_lo, {mask & M32:#x}\n"
                    f"s_mov_b32 exec_hi, {mask >> 32:#x}\nscratch_store_{name} {operands} offset:{offset}\n"
                    f"s_mov_b64 exec, -1\n{back}\ns_waitcnt vmcnt(0)"
                )
                cases.append(Case(text, base | {f"v{32 + d}": v for d, v in enumerate(data)}, {20: 20}, reads))
                models.append((name, address, offset, mask, data))
    for (name, address, offset, mask, data), got in zip(models, run(target, cases, SCRATCH), strict=True):
        size, shift = STORES[name]
        for lane in range(64):
            memory = memory_of(contents, lane)
            if mask >> lane & 1:
                at = offset + ADDRESSES[address](lane)
                raw = b"".join((int(v[lane]) >> shift).to_bytes(4, "little") for v in data)[:size]
                memory[at : at + size] = raw
            found = b"".join(int(lanes[lane]).to_bytes(4, "little") for lanes in got.values())
            assert found == bytes(memory), (name, address, offset, lane)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(
    "access", ["scratch_load_dwordx3 v[32:34], off, off", "scratch_store_short_d16_hi v4, v8, off"]
)
def test_past_the_end(target: str, access: str) -> None:
    size = 12 if "load" in access else 2
    at = 4 * 7 if "v4" in access else 0  # the largest register part
    inside = Case(f"{access} offset:{BYTES - size - at}", {"v4": np.arange(64, dtype=np.uint32) % 8 * 4}, read=())
    run(target, [inside], SCRATCH)
    with pytest.raises(MemoryViolation) as caught:
        run(target, [Case(f"{access} offset:{BYTES - size - at + 1}", inside.vector, read=())], SCRATCH)
    assert (caught.value.space, caught.value.size, caught.value.lane) == ("scratch", size, 7 if at else 0)
