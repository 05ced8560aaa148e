"""Launches against a driver that records what it is asked (fake_driver.cpp): no GPU."""

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

from aiterlite import dispatch, kernel
from aiterlite.errors import CaptureError, ExecutorError, LaunchError, LoadError
from aiterlite.jit import loader
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, Operand, TensorMap, launch_unit
from aiterlite.launch import drivers, functions, program, streams
from aiterlite.launch.drivers import Driver
from aiterlite.tables import gemm
from aiterlite.tables.gemm_args import GEMM_ARGS, REDUCE_ARGS, SM90_ARGS
from aiterlite.target import resolve

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
    module = driver.load(IMAGE, "a unit")
    assert (record.loads, bytes(record.image), module.image) == (1, IMAGE, IMAGE)
    assert driver.function(module, "kernel") == 0x1001 << 8 | 6
    assert driver.function(driver.load(IMAGE, "a unit"), "kernel") == 0x1002 << 8 | 6


@pytest.mark.parametrize(
    ("image", "symbol", "shared_bytes", "message"),
    [
        (b"bad image" + bytes(7), "kernel", 0, r"ModuleLoadData of a unit failed: invalid image \(code 200\)"),
        (IMAGE, "missing", 0, r"kernel missing failed: named symbol not found \(code 500\)"),
        (IMAGE, "kernel", 65537, r"shared memory of kernel to 65537 bytes failed: unknown error \(code 1\)"),
    ],
)
def test_what_a_driver_refuses_is_told_in_its_words(
    fake: Any, image: bytes, symbol: str, shared_bytes: int, message: str
) -> None:
    with pytest.raises(LoadError, match=message):
        function = fake[0].function(fake[0].load(image, "a unit"), symbol)
        fake[0].allow(function, symbol, shared_bytes, 1)


def test_only_much_shared_memory_is_asked_for(fake: Any) -> None:
    driver, record = fake
    driver.allow(1, "kernel", 32 * 1024, 1)
    assert record.attribute_value == 0
    driver.allow(1, "kernel", 32 * 1024 + 1, 1)
    assert (record.attribute, record.attribute_value) == (8, 32 * 1024 + 1)


def test_only_clusters_that_are_not_portable_are_asked_for(libraries: dict[str, Path]) -> None:
    driver, record = fake_driver.open_driver("cuda", libraries["cuda"])
    driver.allow(1, "kernel", 0, 8)
    assert record.attribute == 0
    driver.allow(1, "kernel", 0, 16)
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
    driver = Driver(points("amd", libraries["old_amd"]))
    with pytest.raises(LoadError, match="hipStreamGetCaptureInfo_v2: a graph cannot be captured"):
        driver.capture_id(0x40)


def test_a_driver_that_does_not_start_is_an_error(libraries: dict[str, Path]) -> None:
    code = ctypes.c_int.in_dll(ctypes.CDLL(str(libraries["cuda"])), "fake_initialize_code")
    code.value = 500
    try:
        with pytest.raises(LoadError, match=r"cuInit failed: named symbol not found \(code 500\)"):
            Driver(points("cuda", libraries["cuda"]))
    finally:
        code.value = 0


def test_no_driver_is_an_error_that_names_what_was_tried() -> None:
    with pytest.raises(LoadError, match=r"no GPU driver: .*libnothing_1\.so.*libnothing_2\.so"):
        Driver(points("cuda", "libnothing_1.so", "libnothing_2.so"))


def test_a_driver_that_is_too_old_is_an_error(libraries: dict[str, Path]) -> None:
    with pytest.raises(LoadError, match=r"libfake_old\.so is too old.*cuLaunchKernel"):
        Driver(points("cuda", libraries["old"]))


def test_the_library_that_is_mapped_already_is_the_one_used(libraries: dict[str, Path], tmp_path: Path) -> None:
    """torch may bring its own; a second copy of a runtime would know nothing of its contexts."""
    folder = tmp_path / "torch's lib"
    folder.mkdir()
    copy = shutil.copy(libraries["amd"], folder / "libbrought.so.9")
    mapped = ctypes.CDLL(copy)
    driver = Driver(points("amd", "libbrought.so", "libbrought.so.9"))
    assert Record.in_dll(mapped, "fake_record").initialized == 1
    assert driver._library._name == str(copy)


def test_a_driver_without_attributes_or_maps_says_so(fake: Any) -> None:
    driver, _ = fake
    launch, launch_ex, encode = driver.launch_words
    assert launch == driver.launch_address
    cuda = driver._points is not None and driver._points.initialize == "cuInit"
    assert (bool(launch_ex), bool(encode)) == (cuda, cuda)


# Functions ------------------------------------------------------------------------------------------------------------


def of(unit: Unit, symbol: str = "kernel", **more: Any) -> Kernel:
    return Kernel(unit, symbol, GEMM_ARGS, (12, 2, 3), (256, 4, 1), **more)


@pytest.fixture
def ready(fake: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`functions.find` over the fake driver; gives the record and the list of devices made current."""
    return fake[1], prepare(fake[0], monkeypatch)


def prepare(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    devices: list[int] = []

    def make_ready(device: int) -> Any:
        devices.append(device)
        return contextlib.nullcontext()

    monkeypatch.setattr(drivers, "driver", lambda family: driver)
    monkeypatch.setattr(streams, "make_ready", make_ready)
    monkeypatch.setattr(streams, "capturing", lambda: False)
    monkeypatch.setattr(functions, "_functions", {})
    monkeypatch.setattr(functions, "_modules", {})
    monkeypatch.setattr(loader, "device_image", lambda unit: IMAGE)
    return devices


def test_a_module_is_loaded_once_for_a_device(ready: Any) -> None:
    record, devices = ready
    persona = resolve("mi300x")
    first = functions.find(of(UNIT), persona, 0)
    assert functions.find(of(UNIT), persona, 0) == first
    assert functions.find(of(UNIT), persona, 1) != first
    assert record.loads == 2 and devices == [0, 1]
    # Another kernel of the same module.
    assert functions.find(of(UNIT, "second"), persona, 0) == first - len("kernel") + len("second")
    assert record.loads == 2


def test_a_launch_that_needs_less_takes_nothing_back(ready: Any) -> None:
    record, _ = ready
    persona = resolve("h100")
    functions.find(of(UNIT, lds=60_000), persona, 0)
    assert record.attribute_value == 60_000
    functions.find(of(UNIT, lds=50_000), persona, 0)
    assert record.attribute_value == 60_000
    functions.find(of(UNIT, lds=65_536), persona, 0)
    assert record.attribute_value == 65_536


def test_threads_load_a_module_once(ready: Any) -> None:
    record, _ = ready
    barrier = threading.Barrier(8)

    def load(_: int) -> int:
        barrier.wait()
        return functions.find(of(UNIT), resolve("mi300x"), 0)

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(load, range(8)))) == 1
    assert record.loads == 1


def test_the_first_load_of_a_module_is_refused_during_a_capture(ready: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    record, _ = ready
    persona = resolve("mi300x")
    monkeypatch.setattr(streams, "capturing", lambda: True)
    monkeypatch.setattr(loader, "device_image", lambda unit: pytest.fail("looked for the module"))
    with pytest.raises(CaptureError, match="toy/toy for gfx942.*captured.*before the capture"):
        functions.find(of(UNIT), persona, 0)
    assert record.loads == 0
    monkeypatch.setattr(streams, "capturing", lambda: False)
    monkeypatch.setattr(loader, "device_image", lambda unit: IMAGE)
    loaded = functions.find(of(UNIT), persona, 0)
    monkeypatch.setattr(streams, "capturing", lambda: True)
    assert functions.find(of(UNIT), persona, 0) == loaded


def test_only_amd_code_runs_on_cpu_tensors(ready: Any) -> None:
    with pytest.raises(ExecutorError, match="sm_90a code; nothing runs it on CPU tensors"):
        functions.find(of(toy_unit("sm_90a")), resolve("h100"), functions.EMULATED)


# Packing --------------------------------------------------------------------------------------------------------------

SIZES = {"stride_x": 7168, "stride_w": 7176, "stride_bias": 0, "stride_y": 2112}
ARGS = {"n": 4, "m": 2112, "k": 7168}


def test_structs_are_filled_from_addresses_sizes_and_the_plan() -> None:
    filled = program.packing([of(UNIT, args=ARGS)], ("x", "weight", "y"), {**SIZES, "bias": 0})
    wanted = struct.pack("<4Q4q4i", 0x10, 0x20, 0, 0x40, 7168, 7176, 0, 2112, 4, 2112, 7168, 0)
    assert filled.pack((0x10, 0x20, 0x40))[:80] == wanted


def test_kernels_of_a_call_have_their_structs_behind_each_other() -> None:
    """The second takes a workspace, once as it is and once behind what the first part of it holds."""
    reduce = {
        **ARGS,
        "counters": Operand("workspace"),
        "partials": Operand("workspace", 256),
        "shards": 3,
        "shard_k": 64,
    }
    kernels = [of(UNIT, args=ARGS), Kernel(UNIT, "reduce", REDUCE_ARGS, (1, 1, 1), (64, 1, 1), args=reduce)]
    filled = program.packing(kernels, ("x", "weight", "bias", "y", "workspace"), SIZES)
    arguments = filled.pack((1, 2, 3, 4, 0x1000))
    assert filled.offsets == (0, 128)
    assert arguments[:16] == arguments[128:144] == struct.pack("<2Q", 1, 2)
    assert arguments[128 + 80 : 128 + 104] == struct.pack("<2Q2i", 0x1000, 0x1100, 3, 64)


def test_numbers_may_differ_from_call_to_call() -> None:
    sizes = {name: value for name, value in SIZES.items() if name != "stride_w"}
    brings = ("x", "weight", "bias", "y", "stride_w")
    filled = program.packing([of(UNIT, args=ARGS)], brings, sizes, ("stride_w",))
    for stride in (7176, -1, 0):
        wanted = struct.pack("<4Q4q4i", 1, 2, 3, 4, 7168, stride, 0, 2112, 4, 2112, 7168, 0)
        assert filled.pack((1, 2, 3, 4, stride))[:80] == wanted
    with pytest.raises(ValueError, match="stride_w is no pointer, and nothing is given for it but an address"):
        program.packing([of(UNIT, args=ARGS)], brings, sizes)
    with pytest.raises(ValueError, match="y is a pointer, and y a number"):
        program.packing([of(UNIT, args=ARGS)], ("x", "weight", "bias", "y"), SIZES, ("y",))


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ({**ARGS, "m": 2**31}, r"launch of kernel failed: m = 2147483648 does not fit its field of 32 bits"),
        ({**ARGS, "n": -(2**31) - 1}, "n = -2147483649 does not fit"),
        ({**ARGS, "n": 0.5}, "n = 0.5 does not fit"),
    ],
)
def test_a_size_that_does_not_fit_its_field_is_an_error(args: dict[str, Any], message: str) -> None:
    with pytest.raises(LaunchError, match=message):
        program.packing([of(UNIT, args=args)], ("x", "weight", "bias", "y"), SIZES)


def test_a_field_that_nothing_fills_is_an_error() -> None:
    with pytest.raises(ValueError, match="kernel: nothing is given for bias, which fills bias: x, weight, y, stride_x"):
        program.packing([of(UNIT, args=ARGS)], ("x", "weight", "y"), SIZES)


# Launches -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def launch() -> Any:
    entry = loader.host_library(launch_unit()).aiterlite_launch
    entry.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p]
    entry.restype = ctypes.c_int64
    return entry


def submit(launch: Any, driver: Driver, kernels: list[Kernel], overlap: bool = True) -> int:
    """One call of the launch unit for kernels whose handles are 0x600, 0x601, ..."""
    filled = program.packing(kernels, ("x", "weight", "bias", "y"), SIZES)
    handles = [0x600 + number for number in range(len(kernels))]
    words = program.words(kernels, handles, driver.launch_words, overlap, filled.offsets, SIZES)
    return int(launch(words.buffer_info()[0], 0x5000, filled.pack((0x10, 0x20, 0x30, 0x40))))


@pytest.mark.torch
def test_geometry_stream_and_arguments_arrive_as_given(fake: Any, launch: Any) -> None:
    driver, record = fake
    assert submit(launch, driver, [of(UNIT, lds=1024, args=ARGS)]) == 0
    assert (list(record.grid), list(record.block), record.shared_bytes) == ([12, 2, 3], [256, 4, 1], 1024)
    assert (record.function, record.stream, record.launches, record.launch_attribute) == (0x600, 0x5000, 1, 0)
    wanted = struct.pack("<4Q4q4i", 0x10, 0x20, 0x30, 0x40, *SIZES.values(), *ARGS.values(), 0)
    assert bytes(record.arguments)[:80] == wanted


@pytest.mark.torch
def test_several_kernels_are_launched_in_their_order(fake: Any, launch: Any) -> None:
    driver, record = fake
    later = Kernel(UNIT, "later", GEMM_ARGS, (7, 1, 1), (64, 1, 1), args={**ARGS, "n": 9})
    assert submit(launch, driver, [of(UNIT, args=ARGS), later]) == 0
    assert (record.launches, record.function, list(record.grid)) == (2, 0x601, [7, 1, 1])
    assert bytes(record.arguments)[64:68] == struct.pack("<i", 9)


@pytest.mark.torch
def test_what_a_driver_refuses_is_told_by_kernel(fake: Any, launch: Any) -> None:
    """The first kernel that is refused ends the call."""
    driver, record = fake
    large = Kernel(UNIT, "large", GEMM_ARGS, (2_000_000, 1, 1), (64, 1, 1), args=ARGS)
    assert submit(launch, driver, [of(UNIT, args=ARGS), large, of(UNIT, args=ARGS)]) == 1 << 32 | 9
    assert record.launches == 1


@pytest.fixture
def cuda(libraries: dict[str, Path]) -> Any:
    return fake_driver.open_driver("cuda", libraries["cuda"])


@pytest.mark.torch
def test_only_kernels_that_wait_are_launched_overlapped(cuda: Any, launch: Any) -> None:
    """The define that makes a kernel wait for its predecessors is what the launch goes by."""
    driver, record = cuda
    waiting = of(toy_unit("sm_90a", **dict((kernel.OVERLAP,))), args=ARGS)
    assert submit(launch, driver, [of(toy_unit("sm_90a"), args=ARGS)]) == 0 and record.launch_attribute == 0
    assert submit(launch, driver, [waiting], overlap=False) == 0 and record.launch_attribute == 0
    assert submit(launch, driver, [waiting]) == 0
    # CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION.
    assert (record.launch_attribute, record.launch_attribute_value) == (6, 1)
    assert (list(record.grid), list(record.block), record.stream) == ([12, 2, 3], [256, 4, 1], 0x5000)
    assert bytes(record.arguments)[:16] == struct.pack("<2Q", 0x10, 0x20)


@pytest.mark.torch
def test_a_cluster_is_asked_for_at_the_launch(cuda: Any, launch: Any) -> None:
    driver, record = cuda
    assert submit(launch, driver, [of(toy_unit("sm_90a"), cluster=4, args=ARGS)]) == 0
    assert (list(record.cluster), record.launch_attribute) == ([4, 1, 1], 0)
    both = of(toy_unit("sm_90a", **dict((kernel.OVERLAP,))), cluster=2, args=ARGS)
    assert submit(launch, driver, [both]) == 0
    assert (list(record.cluster), record.launch_attribute) == ([2, 1, 1], 6)


@pytest.mark.torch
def test_tensor_maps_are_encoded_at_the_launch(cuda: Any, launch: Any) -> None:
    driver, record = cuda
    ctypes.c_int.in_dll(driver._library, "fake_argument_bytes").value = 384
    maps = tuple(
        TensorMap(f"{short}_map", name, "bf16", ("k", rows), (f"stride_{short}",), (64, box))
        for short, name, rows, box in (("w", "weight", "m", 128), ("x", "x", "n", 8))
    )
    mapped = Kernel(UNIT, "kernel", SM90_ARGS, (1, 1, 1), (160, 1, 1), args=ARGS, maps=maps)
    assert submit(launch, driver, [mapped]) == 0
    assert record.encodes == 2 and bytes(record.arguments)[:256] == b"\x55" * 256
    assert bytes(record.arguments)[256:272] == struct.pack("<2Q", 0x10, 0x20)
    # The last one: bfloat16, two dimensions, no interleave, 128-byte swizzle, promotion to 128 bytes, zeros outside.
    assert list(record.encoded_as)[:6] == [9, 2, 0, 3, 2, 0]
    assert (list(record.encoded), list(record.box)) == ([0x10, 7168, 4, 2 * 7168, 0, 0], [64, 8, 0])
    # One row may have any stride; the driver is told one that it takes.
    one = Kernel(UNIT, "kernel", SM90_ARGS, (1, 1, 1), (160, 1, 1), args={**ARGS, "n": 1, "k": 7}, maps=maps)
    assert submit(launch, driver, [one]) == 0
    assert list(record.encoded) == [0x10, 7, 1, 16, 0, 0]


@pytest.mark.torch
def test_a_map_that_the_driver_refuses_launches_nothing(cuda: Any, launch: Any) -> None:
    driver, record = cuda
    maps = tuple(TensorMap(name, "stride_x", "bf16", ("k", "m"), ("stride_w",), (64, 8)) for name in ("w_map", "x_map"))
    odd = Kernel(UNIT, "kernel", SM90_ARGS, (1, 1, 1), (160, 1, 1), args={**ARGS, "stride_x": 7169}, maps=maps)
    assert submit(launch, driver, [odd]) == 1 and record.launches == 0


def test_what_overlaps_is_sm_90_s() -> None:
    for chip, overlaps in (("h100", True), ("a100", False), ("mi300x", False), ("mi355x", False)):
        decision = dispatch.decide(gemm.WV_SPLIT_K, gemm.GemmProblem(4, 256, 7168), resolve(chip))
        assert [kernel.overlaps for kernel in decision.kernels] == [overlaps]
        assert decision.units[-1] == launch_unit() and len(decision.units) == 2
