"""What a driver keeps after a call: the code of a failure, and the bytes of an image (fake_driver.cpp): no GPU.

torch reads HIP's last error after launches of its own. If a refused call of ours left a code there, torch's next
operator would raise it, which has nothing to do with it.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import fake_driver
import pytest
from fake_driver import IMAGE
from support import toy_unit

pytest.importorskip("torch")

from aiterlite.errors import LaunchError, LoadError
from aiterlite.jit import loader
from aiterlite.launch import calls, functions, streams
from aiterlite.launch import drivers as launcher
from aiterlite.target import resolve

pytestmark = pytest.mark.compile


class WipedWhenFreed(bytes):
    """Bytes that are zeros as soon as nobody holds them, whatever the allocator does with their memory."""

    def __del__(self) -> None:
        ctypes.memset(ctypes.cast(ctypes.c_char_p(self), ctypes.c_void_p).value or 0, 0, len(self))


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
    module = driver.load(image, symbol)
    KEPT.append(module)
    handle = driver.function(module, symbol)
    driver.allow(handle, symbol, shared_bytes, 1)
    return Loaded(handle, driver.launch_address)


KEPT = []


def load_for_a_call() -> Loaded:
    kernel = SimpleNamespace(unit=toy_unit("gfx942"), symbol="kernel", lds=0, cluster=1)
    return Loaded(functions.find(kernel, resolve("mi300x"), 0), launcher.driver("amd").launch_address)


def report(driver: launcher.Driver, family: str, code: int) -> None:
    kernel = SimpleNamespace(symbol="kernel", grid=(1, 1, 1), block=(64, 1, 1))
    decision = SimpleNamespace(kernels=[kernel], problem="", persona=SimpleNamespace(family=family))
    raise calls.launch_error(code, decision, driver)


@pytest.fixture
def drivers(libraries: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """By family, the fake driver that calls are made with, and its record."""
    found = {family: fake_driver.open_driver(family, libraries[family]) for family in ("amd", "cuda")}
    monkeypatch.setattr(launcher, "driver", lambda family: found[family][0])
    monkeypatch.setattr(streams, "make_ready", lambda device: contextlib.nullcontext())
    monkeypatch.setattr(streams, "capturing", lambda: False)
    monkeypatch.setattr(functions, "_functions", {})
    monkeypatch.setattr(functions, "_modules", {})
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
    freed = load_alone(WipedWhenFreed(IMAGE))
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


@pytest.mark.parametrize("refuse", REFUSALS, ids=lambda refuse: refuse.__name__)
def test_a_failure_leaves_nothing_for_torch_to_trip_over(
    drivers: dict[str, Any], refuse: Callable[[launcher.Driver], None]
) -> None:
    driver, record = drivers["amd"]
    refuse(driver)
    assert record.last_error == 0


def test_an_image_is_kept_as_long_as_its_functions(drivers: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "device_image", lambda unit: WipedWhenFreed(IMAGE))
    loaded = load_for_a_call()
    gc.collect()
    assert (launch(loaded), drivers["amd"][1].lost_images) == (0, 0)


@pytest.mark.parametrize("family", ["amd", "cuda"])
def test_a_launch_that_reports_an_earlier_kernel_s_fault_says_so(drivers: dict[str, Any], family: str) -> None:
    driver, _ = drivers[family]
    code = launch(load(driver, IMAGE, "kernel"), grid=719)
    with pytest.raises(LaunchError, match=r"(?s)unspecified launch failure.*launched earlier faulted"):
        report(driver, family, code)


def test_a_refused_image_is_described(drivers: dict[str, Any]) -> None:
    with pytest.raises(LoadError, match=r"(?s)invalid image.*neither a code object nor a cubin"):
        load(drivers["amd"][0], b"bad image" + bytes(7), "kernel")
