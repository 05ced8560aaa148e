"""Planted faults: each is caught where it happens and says so; what only looks like one is not.

The kernels of hip/faults.hip do one wrong access in a launch, in the work-item that the launch names. The races of
hip/races.hip are found by running a launch under several schedules.
"""

from __future__ import annotations

import functools
import re
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from emulator import corpus, executor, llvm, native, session
from emulator.launches import Array

from aiterlite.emulator import MemoryViolation, Report, Schedule, find_races

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.compile,
    pytest.mark.skipif(bool(session.missing()), reason=session.missing()),
]

each_target = pytest.mark.parametrize("target", corpus.TARGETS)
# At -O0 pointers are generic and the same faults come through flat instructions.
each_level = pytest.mark.parametrize("level", ["-O0", "-O3"])
FAR = 1 << 40


def words(n: int) -> Array:
    return np.arange(n, dtype=np.uint32)


def launch(
    target: str, level: str, kernel: str, grid: int, block: int, args: Mapping[str, Any], **options: Any
) -> Report:
    return session.module("faults", target, level).launch(kernel, grid, block, args, **options)


def violation(
    target: str, level: str, kernel: str, grid: int, block: int, args: Mapping[str, Any], **options: Any
) -> MemoryViolation:
    """What the launch raises; its place in the code is checked here."""
    with pytest.raises(MemoryViolation) as caught:
        launch(target, level, kernel, grid, block, args, **options)
    error = caught.value
    assert error.kernel == kernel
    image = corpus.compile_object("faults", target, level, session.folder())
    assert text_at(image, target, error.pc) == error.instruction
    message = str(error)
    for part in (kernel, error.instruction, f"workgroup {error.workgroup}", f"wave {error.wave}", hex(error.pc)):
        assert part in message, part
    assert ("write" if error.write else "read") in message and f"{error.size} bytes" in message
    return error


def text_at(image: bytes, target: str, pc: int) -> str:
    """The instruction at a byte of the code: as LLVM reads it where it is installed, else as our decoder does."""
    (table,), (entry, count, names) = struct.unpack_from("<Q", image, 40), struct.unpack_from("<HHH", image, 58)
    headers = [struct.unpack_from("<IIQQQQ", image, table + entry * i) for i in range(count)]
    code = next(h for h in headers if image[headers[names][4] + h[0] :].startswith(b".text\0"))
    data = image[code[4] + pc : code[4] + min(pc + 20, code[5])]
    if not llvm.missing():
        size, text = llvm.disassemble([(target, data)])[0]
        assert size > 0
        return text
    return _decoder().decode(target, data).text


@functools.cache
def _decoder() -> native.Library:
    return native.Library(executor.library())


def space_of(level: str, space: str = "global") -> str:
    return "flat" if level == "-O0" else space


def assert_near(error: MemoryViolation, name: str, array: Array, distance: int) -> None:
    nearest = error.nearest
    assert nearest is not None
    assert (nearest.name, nearest.base, nearest.bytes) == (name, array.ctypes.data, array.nbytes)
    assert nearest.distance == distance
    assert f"`{name}`" in str(error)


@each_target
@each_level
@pytest.mark.parametrize(
    ("index", "distance"), [(256, 1), (257, 5), (-1, -4)], ids=["one past the end", "two past the end", "one before"]
)
def test_a_read_beside_a_tensor(target: str, level: str, index: int, distance: int) -> None:
    x, out = words(256), words(256)
    args = {"x": x, "out": out, "item": 200, "index": index & ((1 << 64) - 1)}
    error = violation(target, level, "read_at", 2, 128, args)
    assert (error.workgroup, error.wave, error.lane) == ((1, 0, 0), 1, 200 % 64)
    assert (error.kind, error.space, error.write, error.size) == ("out_of_range", space_of(level), False, 4)
    assert error.address == x.ctypes.data + 4 * index
    assert_near(error, "x", x, distance)
    assert re.match(r"(flat|global)_load_dword v", error.instruction)


@each_target
@each_level
def test_a_write_past_the_end(target: str, level: str) -> None:
    out = np.zeros(128, np.uint32)
    error = violation(target, level, "write_at", 1, 128, {"out": out, "item": 70, "index": 128})
    assert (error.workgroup, error.wave, error.lane) == ((0, 0, 0), 1, 6)
    assert (error.kind, error.space, error.write, error.size) == ("out_of_range", space_of(level), True, 4)
    assert error.address == out.ctypes.data + out.nbytes
    assert_near(error, "out", out, 1)
    assert re.match(r"(flat|global)_store_dword v", error.instruction)


@each_target
@each_level
def test_an_access_far_away(target: str, level: str) -> None:
    x, out = words(128), words(128)
    error = violation(target, level, "read_at", 1, 128, {"x": x, "out": out, "item": 3, "index": FAR})
    assert error.address == x.ctypes.data + 4 * FAR
    last = max((x, "x"), (out, "out"), key=lambda pair: pair[0].ctypes.data)
    assert (
        error.nearest is not None
        and error.nearest.distance >= error.address - (last[0].ctypes.data + last[0].nbytes) - FAR
    )
    assert f"{error.address:#x}" in str(error)


@each_target
@each_level
def test_a_wide_read_that_begins_inside(target: str, level: str) -> None:
    """12 of 16 bytes lie in the tensor."""
    x, out = words(512), words(512)
    error = violation(target, level, "read_wide_at", 1, 128, {"x": x, "out": out, "item": 70, "byte": 2036})
    assert (error.lane, error.wave, error.size, error.write) == (6, 1, 16, False)
    assert error.address == x.ctypes.data + 2036
    assert_near(error, "x", x, 0)
    assert "_load_dwordx4" in error.instruction


@each_target
@each_level
def test_a_write_to_what_may_only_be_read(target: str, level: str) -> None:
    out = words(128)
    out.flags.writeable = False
    error = violation(target, level, "write_at", 1, 128, {"out": out, "item": 0, "index": 0})
    # Every wave is wrong here; at -O0 the first one is not the first to get there.
    assert (error.kind, error.write, error.lane, error.size) == ("read_only", True, 0, 4)
    assert error.address == out.ctypes.data + 256 * error.wave
    assert_near(error, "out", out, 0)


@each_target
def test_a_scalar_read(target: str) -> None:
    """A load that all lanes share is of no lane."""
    x, out = words(256), words(64)
    error = violation(target, "-O3", "read_uniform", 2, 64, {"x": x, "out": out, "index": 255})
    assert (error.workgroup, error.wave, error.lane) == ((1, 0, 0), 0, -1)
    assert (error.kind, error.space, error.write, error.size) == ("out_of_range", "scalar", False, 4)
    assert error.address == x.ctypes.data + x.nbytes
    assert_near(error, "x", x, 1)
    assert error.instruction.startswith("s_load_dword ")


@each_target
@each_level
def test_a_lane_that_is_off_touches_nothing(target: str, level: str) -> None:
    """Its address may be anything; the lanes beside it work."""
    n = 128
    x, out = words(n) * 3, np.zeros(n, np.uint32)
    index = np.arange(n, dtype=np.uint64)
    index[5::7] = np.uint64(FAR)
    index[6::11] = np.uint64(0xDEADBEEFDEAD)
    launch(target, level, "masked_read", 1, 128, {"x": x, "index": index, "out": out, "n": n})
    np.testing.assert_array_equal(out, np.where(index < n, words(n) * 3, 7))
    # The same launch with the mask opened by one reads one past the end, in that lane.
    index[77] = n
    error = violation(target, level, "masked_read", 1, 128, {"x": x, "index": index, "out": out, "n": n + 1})
    assert (error.wave, error.lane, error.address) == (1, 77 % 64, x.ctypes.data + x.nbytes)


@each_target
@each_level
@pytest.mark.parametrize("write", [0, 1], ids=["read", "write"])
@pytest.mark.parametrize("index", [128, 1 << 14], ids=["one past the end", "far"])
def test_lds_past_its_end(target: str, level: str, index: int, write: int) -> None:
    out = words(256)
    args = {"out": out, "item": 200, "index": index, "write": write}
    error = violation(target, level, "lds_at", 2, 128, args)
    assert (error.workgroup, error.wave, error.lane) == ((1, 0, 0), 1, 8)
    assert (error.kind, error.space, error.write, error.size) == ("out_of_range", "LDS", bool(write), 4)
    assert (error.address, error.nearest) == (4 * index, None)
    assert "512 bytes" in str(error)
    if level == "-O3":
        assert error.instruction.startswith("ds_write_b32" if write else "ds_read_b32")


@each_target
@each_level
def test_scratch_past_its_end(target: str, level: str) -> None:
    x, out = words(96), words(64)
    launch(target, level, "scratch_at", 1, 64, {"x": x, "out": out, "item": 7, "index": 95})
    error = violation(target, level, "scratch_at", 1, 64, {"x": x, "out": out, "item": 7, "index": 1 << 20})
    assert (error.workgroup, error.wave, error.lane) == ((0, 0, 0), 0, 7)
    assert (error.kind, error.space, error.write, error.size) == ("out_of_range", "scratch", False, 4)
    scratch = session.module("faults", target, level).kernels["scratch_at"].scratch_bytes
    assert 4 * (1 << 20) <= error.address < 4 * (1 << 20) + scratch
    assert f"{scratch} bytes" in str(error)


@each_target
@each_level
def test_a_pointer_that_was_loaded(target: str, level: str) -> None:
    """A page that the table names but the launch does not."""
    case = corpus.KERNELS["gather_pointers"]
    work = case.work(target)
    values, pages = corpus.arrays_of(work)
    module = session.module(case.source, target, level)
    forgotten = pages.pop(9)
    move = int(np.flatnonzero(values["pages"] == forgotten.ctypes.data)[0])
    with pytest.raises(MemoryViolation) as caught:
        module.launch(
            case.symbol, work.grid, work.block, values, extra=[(p.ctypes.data, p.nbytes, "page") for p in pages]
        )
    error = caught.value
    assert (error.kernel, error.space, error.write, error.size) == ("gather_pointers", "flat", False, 2)
    assert error.address == forgotten.ctypes.data + 2 * (error.lane % 16) + 36 * (error.wave // 2)
    # Eight moves a workgroup, 16 lanes each, two halves of a row.
    assert error.workgroup == (move // 8, 0, 0)
    assert move % 8 == (64 * error.wave + error.lane) // 16 % 8
    assert error.instruction.startswith("flat_load_ushort")
    module.launch(case.symbol, work.grid, work.block, values, extra=[*pages, forgotten])
    assert not corpus.mismatches(work, values)


@each_target
@each_level
def test_unaligned_accesses(target: str, level: str) -> None:
    """Words may lie anywhere; an atomic may not."""
    x = np.arange(260, dtype=np.uint8)
    out, counters = np.zeros(64, np.uint32), np.zeros(16, np.uint8)
    args = {"x": x, "out": out, "counters": counters, "offset": 3, "counter": 4}
    launch(target, level, "unaligned_at", 1, 64, args)
    np.testing.assert_array_equal(out, x[3:259].copy().view(np.uint32))
    np.testing.assert_array_equal(counters.view(np.uint32), [0, 5, 0, 0])
    error = violation(target, level, "unaligned_at", 1, 64, {**args, "counter": 6})
    assert (error.kind, error.write, error.lane, error.size) == ("misaligned", True, 17, 4)
    assert error.address == counters.ctypes.data + 6
    assert_near(error, "counters", counters, 0)
    assert re.match(r"(flat|global)_atomic_add v", error.instruction)


@each_target
@each_level
@pytest.mark.parametrize("write", [0, 1], ids=["load", "store"])
def test_a_resource_keeps_its_bounds(target: str, level: str, write: int) -> None:
    """Outside its resource a load gives 0 and a store vanishes, neither is an error; both are reported on demand."""
    x, out = words(64) + 1, np.full(64, 9, np.uint32)
    args = {"x": x, "out": out, "bytes": 200, "item": 7, "byte": 4000, "write": write}
    quiet = launch(target, level, "resource_at", 1, 64, args)
    assert quiet.buffer_findings == ()
    # 50 words are covered; item 7 went elsewhere.
    covered = (words(64) < 50) & (words(64) != 7)
    if write:
        np.testing.assert_array_equal(x, np.where(covered, words(64), words(64) + 1))
    else:
        np.testing.assert_array_equal(out, np.where(covered, words(64) + 1, 0))
    told = launch(target, level, "resource_at", 1, 64, args, buffer_findings=True)
    outside = {f.lane: f for f in told.buffer_findings}
    assert sorted(outside) == [7, *range(50, 64)]
    finding = outside[7]
    assert (finding.offset, finding.num_records, finding.size, finding.write) == (4000, 200, 4, bool(write))
    assert finding.instruction.startswith("buffer_store_dword" if write else "buffer_load_dword")
    image = corpus.compile_object("faults", target, level, session.folder())
    assert text_at(image, target, finding.pc) == finding.instruction


@each_target
@each_level
@pytest.mark.parametrize("write", [0, 1], ids=["load", "store"])
def test_a_resource_that_claims_too_much(target: str, level: str, write: int) -> None:
    """Inside its resource, but outside the tensor."""
    x, out = words(64), words(64)
    args = {"x": x, "out": out, "bytes": 4096, "item": 7, "byte": 256, "write": write}
    error = violation(target, level, "resource_at", 1, 64, args)
    assert (error.kind, error.space, error.write) == ("out_of_range", "buffer", bool(write))
    assert (error.wave, error.lane, error.size, error.address) == (0, 7, 4, x.ctypes.data + 256)
    assert_near(error, "x", x, 1)


@each_target
@each_level
def test_a_fault_leaves_the_device_usable(target: str, level: str) -> None:
    x, out = words(128), np.zeros(128, np.uint32)
    args = {"x": x, "out": out, "item": 3, "index": FAR}
    violation(target, level, "read_at", 1, 128, args)
    launch(target, level, "read_at", 1, 128, {**args, "item": 1 << 20})
    np.testing.assert_array_equal(out, x + 1)


# Races ----------------------------------------------------------------------------------------------------------------


def races_in(target: str, kernel: str, level: str) -> list[Any]:
    torch = pytest.importorskip("torch")
    x = torch.arange(512, dtype=torch.int32) * 7 + 1
    args = {"x": x, "out": torch.zeros(512, dtype=torch.int32)}
    return find_races(session.module("races", target, level), kernel, (2,), (256,), args)


@pytest.mark.torch
@each_target
@each_level
@pytest.mark.parametrize("kernel", ["exchange", "rounds"])
def test_a_missing_barrier_shows_under_other_schedules(target: str, level: str, kernel: str) -> None:
    found = races_in(target, f"racy_{kernel}", level)
    assert found and {difference.argument for difference in found} == {"out"}
    assert all(difference.bytes_different > 0 for difference in found)
    assert races_in(target, kernel, level) == []


@each_target
def test_waves_that_stay_close_hide_a_missing_barrier(target: str) -> None:
    """The default schedule keeps waves as close as hardware does: the result is the intended one, race or not."""
    x = words(512) * 7 + 1
    expected = x.reshape(2, 256)
    for _ in range(4):
        expected = expected * np.uint32(3) + expected[:, ::-1]
        for j in range(40):
            expected = expected * np.uint32(5) + (expected >> np.uint32(7)) + np.uint32(j)
    module = session.module("races", target, "-O3")
    for kernel in ("rounds", "racy_rounds"):
        out = np.zeros(512, np.uint32)
        module.launch(kernel, 2, 256, {"x": x, "out": out})
        np.testing.assert_array_equal(out.reshape(2, 256), expected, err_msg=kernel)
    out = np.zeros(512, np.uint32)
    module.launch("racy_rounds", 2, 256, {"x": x, "out": out}, schedule=Schedule(quantum=1 << 20))
    assert (out.reshape(2, 256) != expected).any()
