"""The launcher against a driver that records what it is asked (fake_driver.cpp): no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import shutil
import struct
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from support import toy_unit

from aiterlite import launcher
from aiterlite.errors import CaptureError, ExecutorError, LaunchError, LoadError
from aiterlite.jit import loader
from aiterlite.tables import gemm
from aiterlite.target import launch_target, resolve

pytestmark = pytest.mark.compile

SOURCE = Path(__file__).with_name("fake_driver.cpp")
IMAGE = b"good image of 16"
UNIT = toy_unit("gfx942")


class Record(ctypes.Structure):
    _fields_ = [
        *[(name, ctypes.c_int32) for name in ("initialized", "loads", "attribute", "attribute_value", "launches")],
        ("grid", ctypes.c_uint32 * 3),
        ("block", ctypes.c_uint32 * 3),
        ("shared_bytes", ctypes.c_uint32),
        ("function", ctypes.c_uint64),
        ("stream", ctypes.c_uint64),
        ("image", ctypes.c_ubyte * 16),
        ("arguments", ctypes.c_ubyte * 128),
    ]


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The fake drivers, and two that are too old."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    folder = tmp_path_factory.mktemp("drivers")
    built = {}
    for name, defines in (
        ("amd", []),
        ("cuda", ["-DFAKE_CUDA"]),
        ("old", ["-DFAKE_CUDA", "-DFAKE_OLD"]),
        ("old_amd", ["-DFAKE_OLD"]),
    ):
        built[name] = folder / f"libfake_{name}.so"
        subprocess.run([compiler, "-shared", "-fPIC", *defines, str(SOURCE), "-o", str(built[name])], check=True)
    return built


def points(family: str, *libraries: Path | str) -> launcher.EntryPoints:
    return dataclasses.replace(launcher.ENTRY_POINTS[family], libraries=tuple(map(str, libraries)))


@pytest.fixture(params=["amd", "cuda"])
def fake(request: pytest.FixtureRequest, libraries: dict[str, Path]) -> Any:
    """A driver over the fake library of a family, and that library's record, set to zero."""
    library = ctypes.CDLL(str(libraries[request.param]))
    record = Record.in_dll(library, "fake_record")
    ctypes.memset(ctypes.byref(record), 0, ctypes.sizeof(record))
    ctypes.c_int.in_dll(library, "fake_initialize_code").value = 0
    return launcher.Driver(points(request.param, libraries[request.param])), record


# A driver -------------------------------------------------------------------------------------------------------------


def test_a_driver_is_initialised_once_and_loads_images(fake: Any) -> None:
    driver, record = fake
    assert record.initialized == 1
    function = driver.load(IMAGE, "kernel")
    assert (record.loads, bytes(record.image)) == (1, IMAGE)
    assert (function.name, function.handle, function.launch) == ("kernel", 0x1001 << 8 | 6, driver.launch_address)
    assert driver.load(IMAGE, "kernel").handle == 0x1002 << 8 | 6


@pytest.mark.parametrize(
    ("image", "symbol", "shared_bytes", "message"),
    [
        (b"bad image" + bytes(7), "kernel", 0, r"ModuleLoadData of kernel failed: invalid image \(code 200\)"),
        (IMAGE, "missing", 0, r"kernel missing failed: named symbol not found \(code 500\)"),
        (IMAGE, "kernel", 65537, r"shared memory of kernel to 65537 bytes failed: unknown error \(code 1\)"),
    ],
)
def test_what_a_driver_refuses_is_told_in_its_words(
    fake: Any, image: bytes, symbol: str, shared_bytes: int, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        fake[0].load(image, symbol, shared_bytes)


def test_only_much_shared_memory_is_asked_for(fake: Any) -> None:
    driver, record = fake
    driver.load(IMAGE, "kernel", 48 * 1024)
    assert record.attribute_value == 0
    driver.load(IMAGE, "kernel", 48 * 1024 + 1)
    assert (record.attribute, record.attribute_value) == (8, 48 * 1024 + 1)


def test_a_stream_s_capture_has_a_number(fake: Any) -> None:
    driver, _ = fake
    assert driver.capture_id(0x20) is None
    assert (driver.capture_id(0), driver.capture_id(0x40)) == (0, 0x40)
    with pytest.raises(LoadError, match=r"StreamGetCaptureInfo_v2 failed: invalid configuration \(code 9\)"):
        driver.capture_id(0x30)


def test_a_driver_that_cannot_tell_captures_apart_is_an_error(libraries: dict[str, Path]) -> None:
    driver = launcher.Driver(points("amd", libraries["old_amd"]))
    with pytest.raises(LoadError, match="hipStreamGetCaptureInfo_v2: a graph cannot be captured"):
        driver.capture_id(0x40)


def test_a_driver_that_does_not_start_is_an_error(libraries: dict[str, Path]) -> None:
    code = ctypes.c_int.in_dll(ctypes.CDLL(str(libraries["cuda"])), "fake_initialize_code")
    code.value = 500
    try:
        with pytest.raises(LoadError, match=r"cuInit failed: named symbol not found \(code 500\)"):
            launcher.Driver(points("cuda", libraries["cuda"]))
    finally:
        code.value = 0


def test_no_driver_is_an_error_that_names_what_was_tried() -> None:
    with pytest.raises(LoadError, match=r"no GPU driver: .*libnothing_1\.so.*libnothing_2\.so"):
        launcher.Driver(points("cuda", "libnothing_1.so", "libnothing_2.so"))


def test_a_driver_that_is_too_old_is_an_error(libraries: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match=r"libfake_old\.so is too old.*cuLaunchKernel"):
        launcher.Driver(points("cuda", libraries["old"]))


def test_the_library_that_is_mapped_already_is_the_one_used(libraries: dict[str, Path], tmp_path: Path) -> None:
    """torch may bring its own; a second copy of a runtime would know nothing of its contexts."""
    folder = tmp_path / "torch's lib"
    folder.mkdir()
    copy = shutil.copy(libraries["amd"], folder / "libbrought.so.9")
    mapped = ctypes.CDLL(copy)
    driver = launcher.Driver(points("amd", "libbrought.so", "libbrought.so.9"))
    assert Record.in_dll(mapped, "fake_record").initialized == 1
    assert driver._library._name == str(copy)


# Functions ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ready(fake: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`launcher.function` over the fake driver; gives the record and the list of devices made current."""
    devices: list[int] = []

    def make_ready(device: int) -> Any:
        devices.append(device)
        return contextlib.nullcontext()

    monkeypatch.setattr(launcher, "driver", lambda family: fake[0])
    monkeypatch.setattr(launcher, "make_ready", make_ready)
    monkeypatch.setattr(launcher, "capturing", lambda: False)
    monkeypatch.setattr(launcher, "_functions", {})
    monkeypatch.setattr(loader, "device_image", lambda unit: IMAGE)
    return fake[1], devices


def test_a_module_is_loaded_once_for_a_device(ready: Any) -> None:
    record, devices = ready
    persona = resolve("mi300x")
    first = launcher.function(UNIT, persona, "cuda", 0, "kernel")
    assert launcher.function(UNIT, persona, "cuda", 0, "kernel") is first
    assert launcher.function(UNIT, persona, "cuda", 1, "kernel") is not first
    assert record.loads == 2 and devices == [0, 1]


def test_threads_load_a_module_once(ready: Any) -> None:
    record, _ = ready
    barrier = threading.Barrier(8)

    def load(_: int) -> launcher.Function:
        barrier.wait()
        return launcher.function(UNIT, resolve("mi300x"), "cuda", 0, "kernel")

    with ThreadPoolExecutor(8) as pool:
        assert len({function.handle for function in pool.map(load, range(8))}) == 1
    assert record.loads == 1


def test_the_first_load_of_a_module_is_refused_during_a_capture(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = ready
    persona = resolve("mi300x")
    monkeypatch.setattr(launcher, "capturing", lambda: True)
    monkeypatch.setattr(loader, "device_image", lambda unit: pytest.fail("looked for the module"))
    with pytest.raises(CaptureError, match="toy/toy for gfx942.*captured.*before the capture"):
        launcher.function(UNIT, persona, "cuda", 0, "kernel")
    assert record.loads == 0
    monkeypatch.setattr(launcher, "capturing", lambda: False)
    monkeypatch.setattr(loader, "device_image", lambda unit: IMAGE)
    loaded = launcher.function(UNIT, persona, "cuda", 0, "kernel")
    monkeypatch.setattr(launcher, "capturing", lambda: True)
    assert launcher.function(UNIT, persona, "cuda", 0, "kernel") is loaded


def test_only_amd_code_runs_on_cpu_tensors(ready: Any) -> None:
    with pytest.raises(ExecutorError, match="sm_90a code; nothing runs it on CPU tensors"):
        launcher.function(UNIT, resolve("h100"), "cpu", 0, "kernel")


# Launches -------------------------------------------------------------------------------------------------------------


def test_a_refused_launch_names_kernel_geometry_and_arguments(ready: Any) -> None:
    function = launcher.Function("kernel", 1, 2)
    launcher.check_launch(0, function, "amd", 4, 64, "n=1")
    with pytest.raises(LaunchError) as caught:
        launcher.check_launch(9, function, "amd", 4, 64, "n=1, m=256")
    error = caught.value
    assert (error.kernel, error.code, error.grid, error.block) == ("kernel", 9, (4, 1, 1), (64, 1, 1))
    assert str(error) == (
        "launch of kernel failed: invalid configuration (code 9); grid (4, 1, 1), block (64, 1, 1), n=1, m=256"
    )
    with pytest.raises(LaunchError, match="32-bit"):
        launcher.check_launch(-1, function, "amd", 4, 64, "")


@pytest.mark.torch
def test_a_host_unit_launches_through_the_driver_s_own_function(fake: Any) -> None:
    """The package's own launch code: geometry, stream and the kernel's arguments arrive as given."""
    driver, record = fake
    function = driver.load(IMAGE, gemm.KERNEL)
    launch = loader.host_library(gemm.host_unit(launch_target())).aiterlite_wv_split_k_launch
    launch.argtypes = [*[ctypes.c_void_p] * 3, *[ctypes.c_uint32] * 3, *[ctypes.c_void_p] * 4, *[ctypes.c_int64] * 7]
    head = (function.launch, function.handle, 0x5000, 12, 256, 1024)
    addresses, strides, sizes = (0x10, 0x20, None, 0x40), (7168, 7176, 0, 2112), (4, 2112, 7168)
    assert launch(*head, *addresses, *strides, *sizes) == 0
    assert (list(record.grid), list(record.block), record.shared_bytes) == ([12, 1, 1], [256, 1, 1], 1024)
    assert (record.function, record.stream, record.launches) == (function.handle, 0x5000, 1)
    # aiterlite_gemm_args: x, w, bias, y, four strides, n, m, k and four reserved bytes.
    assert bytes(record.arguments)[:80] == struct.pack("<4Q4q4i", 0x10, 0x20, 0, 0x40, *strides, *sizes, 0)
    assert launch(function.launch, function.handle, 0, 2000000, 64, 0, *addresses, *strides, *sizes) == 9
    assert launch(*head, *addresses, *strides, 4, 2**31, 7168) == -1
    assert record.launches == 1
