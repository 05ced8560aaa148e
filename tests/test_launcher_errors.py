"""What a driver keeps after a call: the code of a failure, and the bytes of an image (fake_driver.cpp): no GPU.

torch reads HIP's last error after launches of its own. A code that a refused call of ours leaves there is raised by the
next operator of torch, which has nothing to do with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import fake_driver
import pytest
from fake_driver import IMAGE
from support import toy_unit

from aiterlite import launcher
from aiterlite.errors import LaunchError, LoadError
from aiterlite.jit import loader
from aiterlite.target import resolve

pytestmark = pytest.mark.compile

# More than glibc ever takes from its heap: such bytes are unmapped as soon as they are freed.
UNMAPPED_WHEN_FREED = 33 << 20


@pytest.fixture(scope="module")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return fake_driver.build(tmp_path_factory.mktemp("drivers"))


# The launcher, as far as these tests know it --------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """A kernel's handle and the address that launches it."""

    handle: int
    address: int


def load(driver: launcher.Driver, image: bytes, symbol: str, shared_bytes: int = 0) -> Loaded:
    function = driver.load(image, symbol, shared_bytes)
    return Loaded(function.handle, driver.launch_address)


def load_for_a_call() -> Loaded:
    """As an operator's call does, which holds no image."""
    function = launcher.function(toy_unit("gfx942"), resolve("mi300x"), "cuda", 0, "kernel")
    return Loaded(function.handle, function.launch)


def report(driver: launcher.Driver, family: str, code: int) -> None:
    """What a call does with the status of a launch. Raises `LaunchError`."""
    launcher.check_launch(code, launcher.Function("kernel", 1, 2), family, 1, 64, "")


@pytest.fixture
def drivers(libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By family, the fake driver that calls are made with, and its record."""
    found = {family: fake_driver.open_driver(family, libraries[family]) for family in ("amd", "cuda")}
    monkeypatch.setattr(launcher, "driver", lambda family: found[family][0])
    monkeypatch.setattr(launcher, "make_ready", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(launcher, "capturing", lambda: False)
    monkeypatch.setattr(launcher, "_functions", {})
    return found


def launch(loaded: Loaded, grid: int = 1) -> int:
    """In the shape that host units call."""
    call = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p
    )(loaded.address)
    argument = (ctypes.c_char * 80)()
    arguments = (ctypes.c_void_p * 1)(ctypes.addressof(argument))
    return int(call(loaded.handle, grid, 1, 1, 64, 1, 1, 0, 0, ctypes.addressof(arguments), None))


# The fake itself ------------------------------------------------------------------------------------------------------


def test_the_fake_keeps_the_last_error_until_it_is_read(libraries: dict[str, Path]) -> None:
    library = ctypes.CDLL(str(libraries["amd"]))
    _, record = fake_driver.open_driver("amd", libraries["amd"])
    module = ctypes.c_void_p()
    assert library.hipModuleLoadData(ctypes.byref(module), b"bad image" + bytes(7)) == 200
    assert library.hipModuleLoadData(ctypes.byref(module), IMAGE) == 0
    assert (library.hipPeekAtLastError(), record.last_error) == (200, 200)
    assert (library.hipGetLastError(), library.hipGetLastError(), record.last_error) == (200, 0, 0)


@pytest.mark.parametrize(("family", "prefix"), [("amd", "hip"), ("cuda", "cu")])
def test_the_fake_tells_whether_an_image_is_still_there(libraries: dict[str, Path], family: str, prefix: str) -> None:
    """Without the launcher, which may keep an image by itself."""
    driver, record = fake_driver.open_driver(family, libraries[family])
    library = ctypes.CDLL(str(libraries[family]))

    def load_alone(image: Any) -> Loaded:
        module, handle = ctypes.c_void_p(), ctypes.c_void_p()
        assert getattr(library, f"{prefix}ModuleLoadData")(ctypes.byref(module), image) == 0
        assert getattr(library, f"{prefix}ModuleGetFunction")(ctypes.byref(handle), module, b"kernel") == 0
        return Loaded(handle.value or 0, driver.launch_address)

    image = ctypes.create_string_buffer(IMAGE)
    function = load_alone(image)
    assert launch(function) == 0
    image[3] = b"X"
    assert (launch(function), record.lost_images) == (98, 1)
    freed = load_alone(IMAGE + bytes(UNMAPPED_WHEN_FREED))
    gc.collect()
    assert (launch(freed), record.lost_images) == (98, 2)


# The launcher ---------------------------------------------------------------------------------------------------------


def refused_load(driver: launcher.Driver) -> None:
    with pytest.raises(LoadError):
        load(driver, b"bad image" + bytes(7), "kernel")


def missing_kernel(driver: launcher.Driver) -> None:
    with pytest.raises(LoadError):
        load(driver, IMAGE, "missing")


def too_much_shared_memory(driver: launcher.Driver) -> None:
    """The code of this one has no text here, so that asking for it fails once more."""
    with pytest.raises(LoadError):
        load(driver, IMAGE, "kernel", 65537)


def unknown_stream(driver: launcher.Driver) -> None:
    with pytest.raises(LoadError):
        driver.capture_id(0x30)


def refused_launch(driver: launcher.Driver) -> None:
    code = launch(load(driver, IMAGE, "kernel"), grid=2000000)
    with pytest.raises(LaunchError):
        report(driver, "amd", code)


REFUSALS = [refused_load, missing_kernel, too_much_shared_memory, unknown_stream, refused_launch]


@pytest.mark.xfail(strict=True, reason="the launcher does not read hipGetLastError after a failure yet")
@pytest.mark.parametrize("refuse", REFUSALS, ids=lambda refuse: refuse.__name__)
def test_a_failure_leaves_nothing_for_torch_to_trip_over(
    drivers: dict[str, Any], refuse: Callable[[launcher.Driver], None]
) -> None:
    driver, record = drivers["amd"]
    refuse(driver)
    assert record.last_error == 0


@pytest.mark.xfail(strict=True, reason="the launcher does not keep the bytes of an image yet")
def test_an_image_is_kept_as_long_as_its_functions(drivers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "device_image", lambda unit: IMAGE + bytes(UNMAPPED_WHEN_FREED))
    loaded = load_for_a_call()
    gc.collect()
    assert (launch(loaded), drivers["amd"][1].lost_images) == (0, 0)


@pytest.mark.xfail(strict=True, reason="the launcher does not tell whose fault a fault is yet")
@pytest.mark.parametrize("family", ["amd", "cuda"])
def test_a_launch_that_reports_an_earlier_kernel_s_fault_says_so(drivers: dict[str, Any], family: str) -> None:
    driver, _ = drivers[family]
    code = launch(load(driver, IMAGE, "kernel"), grid=719)
    with pytest.raises(LaunchError, match=r"(?s)unspecified launch failure.*launched earlier faulted"):
        report(driver, family, code)


@pytest.mark.xfail(strict=True, reason="the launcher does not say what an image is that was refused yet")
def test_a_refused_image_is_described(drivers: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=r"(?s)invalid image.*neither a code object nor a cubin"):
        load(drivers["amd"][0], b"bad image" + bytes(7), "kernel")
