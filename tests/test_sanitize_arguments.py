"""The kernel arguments' segment: what a kernel reads behind it, and callers that give too few bytes or too many."""

from __future__ import annotations

import ctypes
import struct

import numpy as np
import pytest
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text
from emulator.executor import library
from emulator.planted import PROLOGUE, Planted, expect, findings

from aiterlite.emulator import KernelArgumentError, Module, use_library
from aiterlite.emulator.library import Options, Range, open_library

pytestmark = pytest.mark.emulated

_STORE = "global_store_dword v2, v9, s[6:7]"
_SCALAR = "s_load_dword s20, s[0:1], {}\ns_waitcnt lgkmcnt(0)\nv_mov_b32_e32 v9, s20\n" + _STORE
# `data` and `out` are 16 bytes; what lies behind them is no argument.
FAULTS = [
    Planted("a scalar behind the last", _SCALAR.format(16), _SCALAR.format(12), "global_store_dword", "s_load_dword",
            ("v9, stored data,", "`s_load_dword s20, s[0:1], 0x10` reads behind the 16 bytes of arguments"),
            "kernarg_segment_size", lane=0),
    Planted("the end of a wide load",
            "s_load_dwordx8 s[20:27], s[0:1], 0\ns_waitcnt lgkmcnt(0)\nv_mov_b32_e32 v9, s24\n" + _STORE,
            "s_load_dwordx8 s[20:27], s[0:1], 0\ns_waitcnt lgkmcnt(0)\nv_mov_b32_e32 v9, s23\n" + _STORE,
            "global_store_dword", "s_load_dwordx8", ("v9, stored data,",), "kernarg_segment_size", lane=0),
    Planted("an address", "s_load_dword s20, s[0:1], 16\ns_waitcnt lgkmcnt(0)\ns_and_b32 s20, s20, 12\n"
            "s_load_dword s21, s[4:5], s20", "s_load_dword s20, s[0:1], 8\ns_waitcnt lgkmcnt(0)\n"
            "s_and_b32 s20, s20, 12\ns_load_dword s21, s[4:5], s20", "s_load_dword s21", "s_load_dword s20",
            ("s20, an address,", "reads behind the 16 bytes"), "declare all of them"),
    Planted("a vector load", "v_mov_b32_e32 v3, 0\nglobal_load_dwordx2 v[8:9], v3, s[0:1] offset:12\n"
            "s_waitcnt vmcnt(0)\n" + _STORE, "v_mov_b32_e32 v3, 0\nglobal_load_dwordx2 v[8:9], v3, s[0:1] offset:8\n"
            "s_waitcnt vmcnt(0)\n" + _STORE, "global_store_dword", "global_load_dwordx2",
            ("v9, stored data,", "reads behind the 16 bytes"), "declare all of them", lane=0),
    Planted("a byte", "v_mov_b32_e32 v3, 0\nglobal_load_ubyte v9, v3, s[0:1] offset:16\ns_waitcnt vmcnt(0)\n" + _STORE,
            "v_mov_b32_e32 v3, 0\nglobal_load_ubyte v9, v3, s[0:1] offset:15\ns_waitcnt vmcnt(0)\n" + _STORE,
            "global_store_dword", "global_load_ubyte", ("v9, stored data,",), "declare all of them", lane=0),
]  # fmt: skip
LEGAL = {
    "a load of a whole line": "s_load_dwordx16 s[20:35], s[0:1], 0\ns_waitcnt lgkmcnt(0)\nv_mov_b32_e32 v9, s20\n"
    + _STORE,
    "the rest of it is masked off": "s_load_dwordx8 s[20:27], s[0:1], 0\ns_waitcnt lgkmcnt(0)\ns_and_b32 s20, s24, 0\n"
    "v_mov_b32_e32 v9, s20\n" + _STORE,
    "written before it is used": "s_load_dwordx8 s[20:27], s[0:1], 0\ns_waitcnt lgkmcnt(0)\ns_mov_b32 s24, 5\n"
    "v_mov_b32_e32 v9, s24\n" + _STORE,
}


@pytest.fixture(scope="module", autouse=True)
def emulator() -> None:
    use_library(str(library()))


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("planted", FAULTS, ids=str)
def test_what_lies_behind_the_arguments_is_undefined(planted: Planted, target: str) -> None:
    expect(target, planted, "registers")


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("body", LEGAL.values(), ids=LEGAL)
def test_loads_past_the_arguments_may_be_dropped(body: str, target: str) -> None:
    found = findings(target, body, "registers")
    assert not found, "\n".join(map(str, found))


def _module(metadata: bool = True) -> tuple[Module, bytes]:
    """A kernel that stores its 16 bytes of arguments, and the dword behind them, to `out`."""
    body = PROLOGUE + "s_load_dwordx8 s[20:27], s[0:1], 0\ns_waitcnt lgkmcnt(0)\n" + "\n".join(
        f"v_mov_b32_e32 v9, s{20 + i}\nglobal_store_dword v2, v9, s[6:7] offset:{256 * i}" for i in range(5)
    )  # fmt: skip
    text = kernel_text("gfx942", "k", body + "\ns_endpgm", Kernel(), ("data", "out"))
    if not metadata:
        text = text[: text.index(".amdgpu_metadata")]
    data = assemble("gfx942", text)
    return device("gfx942").load(data), data


@pytest.mark.parametrize("metadata", [True, False], ids=["metadata", "descriptor"])
def test_packed_arguments_of_another_length(metadata: bool) -> None:
    module, _ = _module(metadata)
    out = np.zeros(5 * 64, np.uint32)
    packed = struct.pack("<QQ", out.ctypes.data, out.ctypes.data)
    report = module.launch("k", 1, 64, packed, extra=[out])
    assert not report.notes and out[0] == out.ctypes.data & 0xFFFFFFFF
    for short in (b"", packed[:8], packed[:15]):
        with pytest.raises(KernelArgumentError, match=f"declares 16 bytes of arguments, {len(short)} given"):
            module.launch("k", 1, 64, short, extra=[out])
    report = module.launch("k", 1, 64, packed + b"\1\2\3\4" * 4, extra=[out])
    (note,) = report.notes
    assert note.startswith("arguments: 32 bytes are given, and a driver passes the 16 that the kernel declares")
    assert out[256] != 0x04030201


def test_a_driver_shaped_launch_with_too_few() -> None:
    _, data = _module()
    lib = open_library()
    handle, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert lib.aiterlite_emulator_module_load_data(ctypes.byref(handle), data) == 0
    assert lib.aiterlite_emulator_module_get_function(ctypes.byref(function), handle, b"k") == 0
    out = np.zeros(5 * 64, np.uint32)
    options = Options(quantum=1, check_memory=1, trace_group=-1, compute_units=304, lds_bytes=65536)
    assert lib.aiterlite_emulator_set_ranges((Range * 1)(Range(out.ctypes.data, out.nbytes, b"out", 1)), 1) == 0
    assert lib.aiterlite_emulator_set_options(ctypes.byref(options)) == 0
    lib.aiterlite_emulator_launch_kernel.argtypes = [
        ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    packed = struct.pack("<QQ", out.ctypes.data, out.ctypes.data)
    for given, status in ((packed, 0), (packed[:12], 3)):
        size = ctypes.c_size_t(len(given))
        buffer = ctypes.create_string_buffer(given)
        extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 3)
        assert lib.aiterlite_emulator_launch_kernel(function, 1, 1, 1, 64, 1, 1, 0, None, None, extra) == status
    assert lib.aiterlite_emulator_error() == (
        b"kernel `k` declares 16 bytes of arguments, 12 are given; give all of them"
    )
