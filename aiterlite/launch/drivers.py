"""One path to the GPU drivers: entry points opened at run time, modules loaded, functions found.

HIP and CUDA share the shape of what is used here, so a driver is a table of names. The launch unit receives the
addresses of a driver's functions and calls them itself; building it needs no GPU runtime, and the bytes that are loaded
here are the bytes that the cache verified.
"""

from __future__ import annotations

import ctypes
import functools
from dataclasses import dataclass

from aiterlite import emulator
from aiterlite.errors import LoadError
from aiterlite.hardware import PORTABLE_CLUSTER
from aiterlite.launch import hints

# CUDA must be told of a kernel with more than 48 KiB of shared memory before its first launch, what it declares itself
# counted, which is not known here. Kernels whose memory is the launch's declare no more than 16 KiB beside it.
_PLAIN_SHARED_BYTES = 32 * 1024


@dataclass(frozen=True)
class EntryPoints:
    """The names that a driver's library may have, the names of its functions that are used, and the numbers of the
    function attributes that are set: the most dynamic shared memory, and clusters of more than 8 workgroups (0 where
    there are none). `version` tells the driver's, `launch_ex` launches with attributes, `encode` describes a tensor to
    the copy engine, and `last_error` forgets an error that a call left behind: each is empty where the driver has no
    such thing."""

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
    version: str = ""
    launch_ex: str = ""
    encode: str = ""
    last_error: str = ""


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
        version="cuDriverGetVersion",
        launch_ex="cuLaunchKernelEx",
        encode="cuTensorMapEncodeTiled",
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
        version="hipDriverGetVersion",
        last_error="hipGetLastError",
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
class Module:
    """A loaded image. ROCm reads the bytes later than at the load, so they are kept as long as the module."""

    handle: int
    image: bytes


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
        self._check(initialize(0), points.initialize, b"")

    def load(self, image: bytes, what: str) -> Module:
        """Load a code object or cubin into the current context; errors call it `what`."""
        module = ctypes.c_void_p()
        self._check(self._load(ctypes.byref(module), image), f"{self._points.load} of {what}", image)
        return Module(module.value or 0, image)

    def function(self, module: Module, symbol: str) -> int:
        """The handle of a kernel in a module."""
        handle = ctypes.c_void_p()
        code = self._function(ctypes.byref(handle), ctypes.c_void_p(module.handle), symbol.encode())
        self._check(code, f"looking up kernel {symbol}")
        return handle.value or 0

    def allow(self, function: int, symbol: str, shared_bytes: int, cluster: int) -> None:
        """Tell the driver of a kernel that takes more dynamic shared memory, or larger clusters, than all may."""
        if shared_bytes > _PLAIN_SHARED_BYTES:
            code = self._set_attribute(ctypes.c_void_p(function), self._points.max_dynamic_shared, shared_bytes)
            self._check(code, f"raising the shared memory of {symbol} to {shared_bytes} bytes")
        if cluster > PORTABLE_CLUSTER:
            code = self._set_attribute(ctypes.c_void_p(function), self._points.large_clusters, 1)
            self._check(code, f"allowing {symbol} clusters of {cluster}")

    @property
    def launch_words(self) -> tuple[int, int, int]:
        """The addresses that the launch unit calls: launch, launch with attributes, encode; 0 where there is none."""
        points = self._points
        optional = [self.entry(name) if name else 0 for name in (points.launch_ex, points.encode)]
        return self.launch_address, optional[0], optional[1]

    def forget_error(self) -> None:
        """From ROCm 7.0 on an error stays until it is read, and torch would raise it elsewhere: so read it here."""
        if self._points.last_error:
            getattr(self._library, self._points.last_error, lambda: 0)()

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
        """The number of the capture that a stream is under, unique in this process; None without one.

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

    def version(self) -> int:
        """The driver's number of itself; 0 where it has none. It answers without a GPU."""
        number = ctypes.c_int()
        query = getattr(self._library, self._points.version, None) if self._points.version else None
        return number.value if query is not None and query(ctypes.byref(number)) == 0 else 0

    def _check(self, code: int, what: str, image: bytes | None = None) -> None:
        """Raise `LoadError` for a call that failed, with a hint where the call starts the driver or loads `image`."""
        if code != 0:
            text = self.error_text(code)
            # On the thread of the call: each thread has an error of its own.
            self.forget_error()
            hint = hints.load_failure_hint(image, self.version(), code) if image is not None else ""
            raise LoadError(f"{what} failed: {text} (code {code})" + (f"; {hint}" if hint else ""))


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
