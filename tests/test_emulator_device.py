"""The Python front: personas, arguments against the metadata, memory, traces, races, and the driver-shaped C calls."""

from __future__ import annotations

import ctypes
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text
from emulator.executor import library

from aiterlite import emulator
from aiterlite.emulator import (
    CodeObjectError,
    Device,
    KernelArgumentError,
    LaunchConfigurationError,
    MemoryViolation,
    Module,
    Schedule,
    UnknownKernelError,
    find_races,
)
from aiterlite.emulator.arguments import Argument, Memory, merge, pack
from aiterlite.emulator.library import Options, Range, open_library
from aiterlite.errors import TargetError
from aiterlite.target import resolve

pytestmark = pytest.mark.emulated

# y[i] = x[i] + delta for i < n
ADD = """
s_load_dwordx4 s[4:7], s[0:1], 0
s_load_dwordx2 s[8:9], s[0:1], 16
v_lshl_or_b32 v0, s2, 6, v0
v_lshlrev_b32_e32 v1, 2, v0
s_waitcnt lgkmcnt(0)
v_cmp_gt_u32_e32 vcc, s9, v0
s_and_saveexec_b64 s[10:11], vcc
global_load_dword v2, v1, s[4:5]
s_waitcnt vmcnt(0)
v_add_u32_e32 v2, s8, v2
global_store_dword v1, v2, s[6:7]
s_endpgm
"""


@pytest.fixture(scope="module", autouse=True)
def use() -> None:
    emulator.use_library(str(library()))


def add_object(target: str, kernel: Kernel | None = None, edit: tuple[str, str] = ("", "")) -> bytes:
    text = kernel_text(target, "add", ADD, kernel or Kernel(), ("x", "y"))
    arguments = "".join(
        f"      - .name: {name}\n        .offset: {at}\n        .size: 4\n        .value_kind: by_value\n"
        for name, at in (("delta", 16), ("n", 20))
    )
    text = text.replace("...\n.end_amdgpu_metadata", f"{arguments}...\n.end_amdgpu_metadata")
    text = text.replace(".kernarg_segment_size: 16", ".kernarg_segment_size: 24").replace(
        ".amdhsa_kernarg_size 16", ".amdhsa_kernarg_size 24"
    )
    return assemble(target, text.replace(*edit) if edit[0] else text)


@pytest.fixture(params=TARGETS)
def module(request: pytest.FixtureRequest) -> Module:
    return device(request.param).load(add_object(request.param))


def test_personas() -> None:
    """A device is what a persona of the package says, and an AMD chip."""
    sizes = {
        name: (p.target, p.cu_count, p.lds_bytes)
        for name in ("mi300x", "mi308x", "mi355x")
        for p in [Device(name).persona]
    }
    assert sizes == {
        "mi300x": ("gfx942", 304, 65536),
        "mi308x": ("gfx942", 80, 65536),
        "mi355x": ("gfx950", 256, 163840),
    }
    with pytest.raises(TargetError, match="mi300x"):
        Device("mi999x")
    with pytest.raises(KernelArgumentError, match="AMD"):
        Device("sm_90a")
    assert Device(resolve("gfx950")).persona.lds_bytes == 163840


def test_objects(tmp_path: Path) -> None:
    data = add_object("gfx942")
    path = tmp_path / "add.co"
    path.write_bytes(data)
    for source in (data, bytearray(data), path, str(path)):
        loaded = Device("mi300x").load(source)
        info = loaded.kernels["add"]
        assert [(a.name, a.kind, a.offset, a.size) for a in info.arguments][2:] == [
            ("delta", "by_value", 16, 4),
            ("n", "by_value", 20, 4),
        ]
        assert (info.kernarg_bytes, info.max_workgroup, info.vgprs) == (24, 1024, 512)
    with pytest.raises(CodeObjectError, match="mi355x runs gfx950"):
        Device("mi355x").load(data)
    for bad in (b"", b"\x7fELF", data[:-200], b"MZ" + data[2:]):
        with pytest.raises(CodeObjectError):
            Device("mi300x").load(bad)


def test_arguments(module: Module) -> None:
    """By name or order; tensors, arrays and numbers of every kind."""
    torch = pytest.importorskip("torch")
    x = np.arange(100, dtype=np.uint32)
    for delta in (5, np.int32(5), np.uint32(5), struct.pack("<I", 5), True + 4):
        y = np.zeros(100, np.uint32)
        report = module.launch("add", 2, 64, {"n": 100, "delta": delta, "y": y, "x": x})
        assert np.array_equal(y, x + 5) and report.instructions > 0 and report.kernel == "add"
    tx, ty = torch.arange(100, dtype=torch.int32), torch.zeros(100, dtype=torch.int32)
    module.launch("add", (2, 1, 1), (64,), [tx, ty, -1, 100])
    assert torch.equal(ty, tx - 1)
    y = np.zeros(100, np.uint32)
    packed = struct.pack("<QQII", x.ctypes.data, y.ctypes.data, 2, 100)
    module.launch("add", 2, 64, packed, extra=[x, (y.ctypes.data, y.nbytes, "result")])
    assert np.array_equal(y, x + 2)


def test_wrong_arguments(module: Module) -> None:
    x, y = np.zeros(64, np.uint32), np.zeros(64, np.uint32)
    good: dict[str, Any] = {"x": x, "y": y, "delta": 1, "n": 64}
    wrong: list[tuple[Any, str]] = [
        ({k: v for k, v in good.items() if k != "n"}, "missing n"),
        ({**good, "m": 3}, "unknown m"),
        ([x, y, 1], "4 arguments"),
        ({**good, "delta": 1.5j}, "delta"),
        ({**good, "delta": x}, "delta.*by value"),
        ({**good, "delta": 1 << 40}, "does not fit"),
        ({**good, "delta": np.int64(3)}, "4 bytes, int64 has 8"),
        ({**good, "delta": b"12345"}, "4 bytes, not 5"),
        ({**good, "x": 1.5}, "pointer"),
        ({**good, "x": "x"}, "pointer"),
    ]
    for args, message in wrong:
        with pytest.raises(KernelArgumentError, match=message):
            module.launch("add", 1, 64, args)
    with pytest.raises(UnknownKernelError, match="`sub`.*add"):
        module.launch("sub", 1, 64, good)
    for grid, block in ((0, 64), (1, 0), (1, (1, 2, 3, 4)), (-1, 64), (1.5, 64)):
        with pytest.raises(KernelArgumentError):
            module.launch("add", grid, block, good)  # type: ignore[arg-type]
    with pytest.raises(LaunchConfigurationError, match="1024"):
        module.launch("add", 1, 1025, good)
    with pytest.raises(LaunchConfigurationError, match="LDS"):
        module.launch("add", 1, 64, good, lds=200_000)


@pytest.mark.parametrize("target", TARGETS)
def test_limits_of_the_kernel(target: str) -> None:
    args: dict[str, Any] = {"x": np.zeros(64, np.uint32), "y": np.zeros(64, np.uint32), "delta": 1, "n": 64}
    small = device(target).load(
        add_object(target, edit=(".max_flat_workgroup_size: 1024", ".max_flat_workgroup_size: 64"))
    )
    with pytest.raises(LaunchConfigurationError, match="128.*at most 64"):
        small.launch("add", 1, 128, args)
    fixed = device(target).load(
        add_object(target, edit=(".wavefront_size: 64", ".wavefront_size: 64\n    .reqd_workgroup_size: [64, 1, 1]"))
    )
    with pytest.raises(LaunchConfigurationError, match="64 x 1 x 1"):
        fixed.launch("add", 1, 32, args)
    full = device(target).load(add_object(target, Kernel(lds=device(target).persona.lds_bytes)))
    full.launch("add", 1, 64, args)
    with pytest.raises(LaunchConfigurationError, match="1 dynamic"):
        full.launch("add", 1, 64, args, lds=1)


def test_floats_are_packed_by_size() -> None:
    def one(size: int, value: Any) -> bytes:
        return pack("k", [Argument("a", "by_value", 0, size)], [value], size)[0]

    assert [one(2, 1.0), one(4, 1.0), one(8, 1.0)] == [struct.pack(f, 1.0) for f in ("<e", "<f", "<d")]
    assert one(1, -1) == b"\xff" and one(4, np.float32(0.5)) == struct.pack("<f", 0.5)
    with pytest.raises(KernelArgumentError, match="no float"):
        one(1, 0.5)


def test_views_share_a_range() -> None:
    merged = merge(
        [
            Memory(100, 50, "a", False),
            Memory(300, 10, "c"),
            Memory(120, 50, "b"),
            Memory(130, 5, "b"),
            Memory(10, 0, "empty"),
        ]
    )
    assert merged == [Memory(100, 70, "a+b", True), Memory(300, 10, "c")]


def test_memory_is_the_tensors(module: Module) -> None:
    """A view may be touched where it lies, and not beside it; arrays that cannot be written are protected."""
    whole = np.arange(200, dtype=np.uint32)
    y = np.zeros(64, np.uint32)
    module.launch("add", 1, 64, {"x": whole[64:128], "y": y, "delta": 0, "n": 64})
    assert np.array_equal(y, whole[64:128])
    with pytest.raises(MemoryViolation) as caught:
        module.launch("add", 2, 64, {"x": whole[64:128], "y": y, "delta": 0, "n": 65})
    error = caught.value
    assert error.nearest is not None
    assert (error.kind, error.write, error.lane, error.wave, error.workgroup, error.size) == (
        "out_of_range",
        False,
        0,
        0,
        (1, 0, 0),
        4,
    )
    assert (error.nearest.name, error.nearest.distance, error.nearest.bytes) == ("x", 1, 256)
    assert error.address == whole[128:].ctypes.data and "global_load_dword v2, v1, s[4:5]" in str(error)
    module.launch(
        "add", 2, 64, {"x": whole[64:128], "y": np.zeros(65, np.uint32), "delta": 0, "n": 65}, check_memory=False
    )
    y.flags.writeable = False
    with pytest.raises(MemoryViolation) as caught:
        module.launch("add", 1, 64, {"x": whole, "y": y, "delta": 0, "n": 64})
    assert caught.value.kind == "read_only" and caught.value.write


@pytest.mark.parametrize("threads", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_workgroup_runs_once(module: Module, threads: int, seed: int) -> None:
    x = np.arange(64 * 500, dtype=np.uint32)
    y = x.copy()
    module.launch(
        "add", 500, 64, {"x": y, "y": y, "delta": 3, "n": y.size}, schedule=Schedule(threads=threads, seed=seed)
    )
    assert np.array_equal(y, x + 3)


@pytest.mark.parametrize("target", TARGETS)
def test_order_is_repeatable(target: str) -> None:
    """Float atomics from many workgroups: one order for each seed, whatever the machine does."""
    body = """
s_load_dwordx2 s[4:5], s[0:1], 0
v_lshl_or_b32 v0, s2, 6, v0
v_cvt_f32_u32_e32 v1, v0
v_rcp_f32_e32 v1, v1
v_mov_b32_e32 v2, 0
s_cmp_eq_u32 s2, 0
s_cselect_b64 exec, 0xfffffffffffffffe, -1
s_waitcnt lgkmcnt(0)
global_atomic_add_f32 v2, v1, s[4:5]
s_endpgm
"""
    loaded = device(target).load(
        assemble(target, kernel_text(target, "k", body.replace("0xfffffffffffffffe", "-2"), Kernel(), ("sum",)))
    )

    def total(seed: int) -> int:
        out = np.zeros(1, np.float32)
        report = loaded.launch("k", 100, 64, {"sum": out}, schedule=Schedule(seed=seed))
        assert report.ordered
        assert abs(float(out[0]) - sum(1 / i for i in range(1, 6400))) < 1e-4
        return int(out.view(np.uint32)[0])

    first = [total(seed) for seed in range(6)]
    assert first == [total(seed) for seed in range(6)]
    assert len(set(first)) > 1


def test_trace(module: Module) -> None:
    x, y = np.arange(256, dtype=np.uint32), np.zeros(256, np.uint32)
    args = {"x": x, "y": y, "delta": 7, "n": 200}
    trace = module.launch("add", 4, 64, args, trace=(3, 0)).trace
    lines = trace.splitlines()
    assert lines[0].endswith("000000  s_load_dwordx4 s[4:7], s[0:1], 0x0")
    assert "    s9 = 000000c8" in lines
    assert any(line.startswith("    v0 = 000000c0 000000c1") for line in lines)
    assert "    exec = 00000000000000ff" in lines
    assert sum("global_store_dword" in line for line in lines) == 1 and "s_endpgm" in lines[-1]
    assert module.launch("add", 4, 64, args).trace == ""
    assert len(module.launch("add", 4, 64, args, trace=(0, 0), trace_lines=3).trace.splitlines()) < len(lines)


@pytest.mark.parametrize("target", TARGETS)
def test_races(target: str) -> None:
    """A wave that reads another's LDS without a barrier is found, and one with a barrier is not."""
    torch = pytest.importorskip("torch")
    body = """
s_load_dwordx2 s[4:5], s[0:1], 0
v_lshlrev_b32_e32 v1, 2, v0
v_xor_b32_e32 v2, 0x1fc, v1
v_add_u32_e32 v3, 1, v0
ds_write_b32 v1, v3
s_waitcnt lgkmcnt(0)
BARRIER
ds_read_b32 v4, v2
s_waitcnt lgkmcnt(0)
global_store_dword v1, v4, s[4:5]
s_endpgm
"""
    for barrier, racy in (("s_nop 0", True), ("s_barrier", False)):
        loaded = device(target).load(
            assemble(target, kernel_text(target, "k", body.replace("BARRIER", barrier), Kernel(lds=512), ("out",)))
        )
        out = torch.zeros(128, dtype=torch.int32)
        found = find_races(loaded, "k", 1, 128, {"out": out})
        assert bool(found) is racy
        assert all(d.argument == "out" and d.bytes_different > 0 for d in found)
        assert torch.equal(out, torch.arange(128, 0, -1, dtype=torch.int32))


def test_driver_entry_points(module: Module) -> None:
    """Load, get function, launch with pointers to arguments: what a launcher calls."""
    target = module.device.persona.target
    data = add_object(target)
    lib = open_library()
    handle, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.aiterlite_emulator_init(0) == 0
    assert lib.aiterlite_emulator_module_load_data(ctypes.byref(handle), data) == 0
    assert lib.aiterlite_emulator_module_get_function(ctypes.byref(function), handle, b"add") == 0
    x, y = np.arange(128, dtype=np.uint32), np.zeros(128, np.uint32)
    ranges = (Range * 2)(Range(x.ctypes.data, x.nbytes, b"x", 0), Range(y.ctypes.data, y.nbytes, b"y", 1))
    options = Options(quantum=1, check_memory=1, trace_group=-1, compute_units=304, lds_bytes=65536)
    assert lib.aiterlite_emulator_set_ranges(ranges, 2) == 0
    assert lib.aiterlite_emulator_set_options(ctypes.byref(options)) == 0
    values = [ctypes.c_uint64(x.ctypes.data), ctypes.c_uint64(y.ctypes.data), ctypes.c_uint32(9), ctypes.c_uint32(128)]
    params = (ctypes.c_void_p * 4)(*(ctypes.addressof(v) for v in values))
    launch = lib.aiterlite_emulator_launch_kernel
    launch.argtypes = [ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
    assert launch(function, 2, 1, 1, 64, 1, 1, 0, None, params, None) == 0
    assert np.array_equal(y, x + 9)
    packed = struct.pack("<QQII", x.ctypes.data, y.ctypes.data, 11, 128)
    size = ctypes.c_size_t(len(packed))
    buffer = ctypes.create_string_buffer(packed, len(packed))
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 3)
    assert launch(function, 2, 1, 1, 64, 1, 1, 0, None, None, extra) == 0
    assert np.array_equal(y, x + 11)
    values[3].value = 129
    assert launch(function, 3, 1, 1, 64, 1, 1, 0, None, params, None) == 4
    text = ctypes.c_char_p()
    lib.aiterlite_emulator_get_error_string(4, ctypes.byref(text))
    assert b"past the end of `x`" in (text.value or b"")
    assert lib.aiterlite_emulator_module_get_function(ctypes.byref(function), handle, b"nothing") == 2
    assert lib.aiterlite_emulator_module_load_data(ctypes.byref(handle), b"not an object" + bytes(64)) == 1


@pytest.mark.parametrize("target", TARGETS)
def test_refusals(target: str) -> None:
    """Which encodings cannot be executed, without running them."""
    lib = open_library()

    def refusal(words: list[int]) -> str:
        data = struct.pack(f"<{len(words)}I", *words)
        text, size = ctypes.c_void_p(), ctypes.c_size_t()
        lib.aiterlite_emulator_refusal(
            TARGETS.index(target), data, ctypes.c_size_t(len(data)), ctypes.byref(text), ctypes.byref(size)
        )
        answer = ctypes.string_at(text, size.value).decode()
        lib.aiterlite_emulator_free(text)
        return answer

    assert refusal([0xBF800000]) == ""  # s_nop 0
    assert "no semantics" in refusal([0xBF900001])  # s_sendmsg
    assert refusal([0xBF9F0000]) != ""  # no such opcode


@pytest.mark.parametrize(
    ("chip", "xcds"), [("mi300x", 8), ("mi300a", 6), ("mi355x", 8), ("mi308x", 1), ("mi300x:76", 2), ("mi355x:32", 1)]
)
def test_workgroups_are_dealt_to_the_dies(chip: str, xcds: int) -> None:
    """HW_REG_XCC_ID, by which kernels place workgroups that share data; one die where the number is not published."""
    body = """
s_load_dwordx2 s[4:5], s[0:1], 8
s_getreg_b32 s8, hwreg(20, 0, 4)
v_mov_b32_e32 v1, s8
v_mov_b32_e32 v0, s2
v_lshlrev_b32_e32 v0, 2, v0
s_mov_b64 exec, 1
s_waitcnt lgkmcnt(0)
global_store_dword v0, v1, s[4:5]
s_endpgm
"""
    target = resolve(chip).target
    data = assemble(target, kernel_text(target, "where", body, Kernel()))
    out = np.full(20, -1, np.int32)
    Device(chip).load(data).launch("where", 20, 64, {"inputs": None, "outputs": out})
    assert out.tolist() == [group % xcds for group in range(20)]
