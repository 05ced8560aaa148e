"""One path to the GPU drivers: entry points opened at run time, modules loaded, functions found.

HIP and CUDA share the shape of what is used here, so a driver is a table of names. Host units receive the address of
the driver's launch function and call it themselves; building them needs no GPU runtime, and the bytes that are
loaded here are the bytes that the cache verified.
"""

from __future__ import annotations

import ctypes
import functools
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from aiterlite import emulator, envs
from aiterlite.errors import CaptureError, ExecutorError, LaunchError, LoadError
from aiterlite.jit import loader
from aiterlite.jit.spec import Unit
from aiterlite.tables import overlap
from aiterlite.target import PORTABLE_CLUSTER, Persona

# Beyond this much dynamic shared memory a CUDA kernel must be told so before its first launch.
_PLAIN_SHARED_BYTES = 48 * 1024


@dataclass(frozen=True)
class EntryPoints:
    """A driver's library, by the names it may have, the names of the functions that are used, and the numbers of the
    attributes of a function that are set: the most dynamic shared memory, and clusters of more than 8 workgroups (0
    where there are none)."""

    libraries: tuple[str, ...]
    initialize: str
    load: str
    function: str
    launch: str
    set_attribute: str
    max_dynamic_shared: int
    large_clusters: int
    error_text: str
    capture_info: str


ENTRY_POINTS = {
    "cuda": EntryPoints(
        libraries=("libcuda.so.1", "libcuda.so"),
        initialize="cuInit",
        load="cuModuleLoadData",
        function="cuModuleGetFunction",
        launch="cuLaunchKernel",
        set_attribute="cuFuncSetAttribute",
        max_dynamic_shared=8,
        large_clusters=14,
        error_text="cuGetErrorString",
        capture_info="cuStreamGetCaptureInfo_v2",
    ),
    "amd": EntryPoints(
        libraries=("libamdhip64.so", "libamdhip64.so.7", "libamdhip64.so.6"),
        initialize="hipInit",
        load="hipModuleLoadData",
        function="hipModuleGetFunction",
        launch="hipModuleLaunchKernel",
        set_attribute="hipFuncSetAttribute",
        max_dynamic_shared=8,
        large_clusters=0,
        error_text="hipDrvGetErrorString",
        capture_info="hipStreamGetCaptureInfo_v2",
    ),
}
# The emulator has calls of the same shape, so AMD kernels on CPU tensors take the same path.
_EMULATOR = EntryPoints(
    libraries=(),
    initialize="aiterlite_emulator_init",
    load="aiterlite_emulator_module_load_data",
    function="aiterlite_emulator_module_get_function",
    launch="aiterlite_emulator_launch_kernel",
    set_attribute="aiterlite_emulator_function_set_attribute",
    max_dynamic_shared=0,
    large_clusters=0,
    error_text="aiterlite_emulator_get_error_string",
    capture_info="",
)


@dataclass(frozen=True)
class Function:
    """A loaded kernel: its name, the driver's handle, and the address of the function that launches it, of the drivers'
    usual shape."""

    name: str
    handle: int
    launch: int


class Driver:
    """A GPU driver that is open in this process. Raises `LoadError` where it cannot be."""

    def __init__(self, points: EntryPoints, library: ctypes.CDLL | None = None) -> None:
        self._points = points
        self._library = library or _open(points.libraries)
        try:
            self.launch_address = ctypes.cast(getattr(self._library, points.launch), ctypes.c_void_p).value or 0
            self._load = getattr(self._library, points.load)
            self._function = getattr(self._library, points.function)
            self._set_attribute = getattr(self._library, points.set_attribute)
            self._error_text = getattr(self._library, points.error_text)
            initialize = getattr(self._library, points.initialize)
        except AttributeError as error:
            raise LoadError(f"{self._library._name} is too old: {error}") from error
        self._check(initialize(0), points.initialize)

    def load(self, image: bytes, symbol: str, shared_bytes: int = 0, cluster: int = 1) -> Function:
        """Load a code object or cubin into the current context and find a kernel in it, which will be launched with
        this much dynamic shared memory, in clusters of this many workgroups."""
        module, handle = ctypes.c_void_p(), ctypes.c_void_p()
        self._check(self._load(ctypes.byref(module), image), f"{self._points.load} of {symbol}")
        self._check(self._function(ctypes.byref(handle), module, symbol.encode()), f"looking up kernel {symbol}")
        if shared_bytes > _PLAIN_SHARED_BYTES:
            code = self._set_attribute(handle, self._points.max_dynamic_shared, shared_bytes)
            self._check(code, f"raising the shared memory of {symbol} to {shared_bytes} bytes")
        if cluster > PORTABLE_CLUSTER:
            code = self._set_attribute(handle, self._points.large_clusters, 1)
            self._check(code, f"allowing {symbol} clusters of {cluster}")
        return Function(symbol, handle.value or 0, self.launch_address)

    def entry(self, name: str) -> int:
        """The address of another of the driver's functions. Raises `LoadError` where it has none of that name."""
        try:
            return ctypes.cast(getattr(self._library, name), ctypes.c_void_p).value or 0
        except AttributeError:
            raise LoadError(f"{self._library._name} is too old: it has no {name}") from None

    def error_text(self, code: int) -> str:
        text = ctypes.c_char_p()
        self._error_text(code, ctypes.byref(text))
        return text.value.decode("utf-8", "replace") if text.value else "unknown error"

    def capture_id(self, stream: int) -> int | None:
        """The number of the capture that a stream is under, unlike that of any other in this process; None without one.

        Raises `LoadError` where the driver does not say.
        """
        name = self._points.capture_info
        query = getattr(self._library, name, None)
        if query is None:
            raise LoadError(f"{self._library._name} has no {name}: a graph cannot be captured with this driver")
        status, number = ctypes.c_int(), ctypes.c_ulonglong()
        code = query(ctypes.c_void_p(stream), ctypes.byref(status), ctypes.byref(number), None, None, None)
        self._check(code, name)
        return number.value if status.value else None

    def _check(self, code: int, what: str) -> None:
        if code != 0:
            raise LoadError(f"{what} failed: {self.error_text(code)} (code {code})")


def _open(names: tuple[str, ...]) -> ctypes.CDLL:
    """The library that the process has mapped already (torch may bring its own), else the first that can be opened."""
    errors = []
    for name in (*_mapped(names[0]), *names):
        try:
            return ctypes.CDLL(name)
        except OSError as error:
            errors.append(str(error))
    raise LoadError(f"no GPU driver: {'; '.join(errors)}")


def _mapped(name: str) -> list[str]:
    stem = name.split(".so")[0] + ".so"
    try:
        with open("/proc/self/maps") as file:
            paths = {line.split(maxsplit=5)[5].strip() for line in file if stem in line}
    except OSError:
        return []
    return sorted(path for path in paths if path.rsplit("/", 1)[-1].startswith(stem))


@functools.cache
def driver(family: str) -> Driver:
    """The driver of a family of targets (`cuda` or `amd`), or `emulated`, opened once."""
    if family == "emulated":
        return Driver(_EMULATOR, emulator.open_library())
    return Driver(ENTRY_POINTS[family])


_OVERLAP_ABI = 1


@functools.cache
def _overlapped_launch() -> int:
    """The address of the launch that does not wait for the kernels ahead on the stream."""
    library = loader.host_library(overlap.host_unit())
    loader.require_abi(library, "aiterlite_overlap_abi", _OVERLAP_ABI)
    library.aiterlite_overlap_bind(ctypes.c_void_p(driver("cuda").entry("cuLaunchKernelEx")))
    return ctypes.cast(library.aiterlite_launch_overlapped, ctypes.c_void_p).value or 0


_functions: dict[tuple[Unit, int, str, bool], Function] = {}
_lock = threading.Lock()
_thread = threading.local()


def function(
    unit: Unit,
    persona: Persona,
    device_type: str,
    device: int,
    symbol: str,
    shared_bytes: int = 0,
    cluster: int = 1,
) -> Function:
    """A kernel of a unit, loaded on a device. Raises `JitError`, `CaptureError` or `ExecutorError`.

    The first load of a module is refused while a graph is captured: the driver would refuse it halfway.
    """
    emulated = device_type == "cpu"
    if emulated and persona.family != "amd":
        raise ExecutorError(f"{unit.label} is {persona.target} code; nothing runs it on CPU tensors")
    # The emulator's functions stand beside those of device 0.
    overlapped = overlap.overlaps(unit) and envs.OVERLAP.get() == "1"
    key = (unit, -1 if emulated else device, symbol, overlapped)
    found = _functions.get(key)
    if found is not None:
        return found
    if emulated:
        with _lock:
            if key not in _functions:
                _functions[key] = driver("emulated").load(loader.device_image(unit), symbol, shared_bytes)
            return _functions[key]
    if capturing():
        raise CaptureError(
            f"{unit.label} would be built or loaded for the first time while a graph is captured; call the operator "
            "once with this shape before the capture"
        )
    image = loader.device_image(unit)
    with _lock, make_ready(device):
        if key not in _functions:
            loaded = driver(persona.family).load(image, symbol, shared_bytes, cluster)
            _functions[key] = replace(loaded, launch=_overlapped_launch()) if overlapped else loaded
        return _functions[key]


def capturing() -> bool:
    """Whether torch's current stream is being captured into a graph."""
    import torch

    return torch.cuda.is_current_stream_capturing()


def capture_id(stream: int) -> int | None:
    """The number of the capture that torch's stream of this raw handle is under; None without one."""
    import torch

    return driver("amd" if torch.version.hip else "cuda").capture_id(stream)


def is_ready(device: int) -> bool:
    """Whether this thread may launch on a device as it is: it is the current one, and its context is."""
    return getattr(_thread, "device", -1) == device and device == _thread.current()


def make_ready(device: int) -> AbstractContextManager[None]:
    """Make a device, and its context, current for a scope. A new thread has no context until its runtime is asked."""
    import torch

    torch.cuda.set_device(torch.cuda.current_device())
    _thread.device = torch.cuda.current_device()
    # What `torch.cuda.current_device` is once CUDA is initialized, which it asks each time.
    _thread.current = torch._C._cuda_getDevice
    return torch.cuda.device(device)


def submit(device: int, launch: Callable[..., Any], *arguments: Any) -> Any:
    """Make a launch with the device ready for it. Returns the driver's status."""
    if is_ready(device):
        return launch(*arguments)
    with make_ready(device):
        return launch(*arguments)


def check_launch(code: int, function: Function, family: str, grid: int, block: int, arguments: str) -> None:
    """Raise `LaunchError` for a launch that the driver refused."""
    if code == 0:
        return
    detail = "the problem does not fit 32-bit sizes" if code == -1 else driver(family).error_text(code)
    raise LaunchError(function.name, code, detail, (grid, 1, 1), (block, 1, 1), arguments)
