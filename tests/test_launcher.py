"""The launcher against a driver that records what it is asked (fake_driver.cpp): no GPU."""

from __future__ import annotations

import contextlib
import ctypes
import shutil
import struct
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fake_driver
import pytest
from fake_driver import IMAGE, Record, points
from support import toy_unit

from aiterlite import dispatch, envs, launcher
from aiterlite.errors import CaptureError, ExecutorError, LaunchError, LoadError
from aiterlite.jit import loader
from aiterlite.tables import gemm, overlap
from aiterlite.target import launch_target, resolve

pytestmark = pytest.mark.compile

UNIT = toy_unit("gfx942")


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fake_driver.build(tmp_path_factory.mktemp("drivers"))


@pytest.fixture(params=["amd", "cuda"])
def fake(request: pytest.FixtureRequest, libraries: dict[str, Path]) -> Any:
    """A driver over the fake library of a family, and that library's record, set to zero."""
    return fake_driver.open_driver(request.param, libraries[request.param])


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


def test_only_clusters_that_are_not_portable_are_asked_for(libraries: dict[str, Path]) -> None:
    driver, record = fake_driver.open_driver("cuda", libraries["cuda"])
    driver.load(IMAGE, "kernel", cluster=8)
    assert record.attribute == 0
    driver.load(IMAGE, "kernel", cluster=16)
    assert (record.attribute, record.attribute_value) == (14, 1)


def test_other_functions_of_a_driver_are_found_by_name(fake: Any) -> None:
    driver, _ = fake
    assert driver.entry(driver._points.launch) == driver.launch_address
    with pytest.raises(LoadError, match=r"libfake_\w+\.so is too old: it has no cuNothing"):
        driver.entry("cuNothing")


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


@pytest.fixture
def cuda(libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> Any:
    """`launcher.function` over the fake CUDA driver; gives its record."""
    driver, record = fake_driver.open_driver("cuda", libraries["cuda"])
    monkeypatch.setattr(launcher, "driver", lambda family: driver)
    monkeypatch.setattr(launcher, "make_ready", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(launcher, "capturing", lambda: False)
    monkeypatch.setattr(launcher, "_functions", {})
    monkeypatch.setattr(loader, "device_image", lambda unit: IMAGE)
    launcher._overlapped_launch.cache_clear()
    yield record
    launcher._overlapped_launch.cache_clear()


def launch_as_drivers_do(function: launcher.Function) -> int:
    """Through the address that the launcher gives, in the shape that host units call."""
    launch = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
    )(function.launch)
    argument = (ctypes.c_char * 80)(*range(80))
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    return int(launch(function.handle, 12, 2, 3, 256, 4, 5, 1024, 0x5000, ctypes.addressof(arguments), None))


@pytest.mark.torch
def test_only_kernels_that_wait_are_launched_overlapped(cuda: Any) -> None:
    """The define that makes a kernel wait for its predecessors is what the launcher goes by."""
    persona = resolve("h100")
    waiting = toy_unit("sm_90a", **dict((overlap.DEFINE,)))
    plain = launcher.function(toy_unit("sm_90a"), persona, "cuda", 0, "kernel")
    assert launch_as_drivers_do(plain) == 0 and cuda.launch_attribute == 0
    overlapped = launcher.function(waiting, persona, "cuda", 0, "kernel")
    assert launch_as_drivers_do(overlapped) == 0
    # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
    assert (cuda.launch_attribute, cuda.launch_attribute_value) == (6, 1)
    said = (list(cuda.grid), list(cuda.block), cuda.shared_bytes, cuda.function, cuda.stream)
    assert said == ([12, 2, 3], [256, 4, 5], 1024, overlapped.handle, 0x5000)
    assert bytes(cuda.arguments)[:80] == bytes(range(80))
    with envs.override(AITERLITE_OVERLAP="0"):
        assert launcher.function(waiting, persona, "cuda", 0, "kernel").launch == plain.launch


def test_what_overlaps_is_sm_90_s(cuda: Any) -> None:
    for chip, overlaps in (("h100", True), ("a100", False), ("mi300x", False), ("mi355x", False)):
        persona = resolve(chip)
        problem = gemm.GemmProblem(4, 256, 7168)
        units = dispatch.decide(gemm.WV_SPLIT_K, problem, persona).units
        assert overlap.overlaps(units[0]) == overlaps == (overlap.host_unit() in units)


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


def test_a_host_unit_of_another_abi_is_refused(libraries: dict[str, Path]) -> None:
    """The fake driver's cuInit answers 0, as a unit's ABI function would."""
    library = ctypes.CDLL(str(libraries["cuda"]))
    loader.require_abi(library, "cuInit", 0)
    with pytest.raises(LoadError, match=r"libfake_cuda\.so speaks ABI 0, this package 1"):
        loader.require_abi(library, "cuInit", 1)
