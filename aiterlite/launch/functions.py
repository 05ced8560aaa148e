"""Kernels loaded on a device: each module once, each function with what its launches need of the driver."""

from __future__ import annotations

import threading

from aiterlite.errors import CaptureError, ExecutorError
from aiterlite.jit import loader
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel
from aiterlite.launch import drivers, streams
from aiterlite.launch.drivers import Driver, Module
from aiterlite.target import Persona

# The emulator's modules stand beside those of device 0.
EMULATED = -1

_modules: dict[tuple[Unit, int], Module] = {}
# The handle, and the shared memory and cluster that the driver was last told of.
_functions: dict[tuple[Unit, int, str], tuple[int, int, int]] = {}
_lock = threading.Lock()


def find(kernel: Kernel, persona: Persona, device: int) -> int:
    """The driver's handle of a kernel on a GPU, or on the emulator (`EMULATED`), loaded if need be.

    Raises `JitError`, `ExecutorError`, or `CaptureError`: the first load of a module is refused while a graph is
    captured, where the driver would refuse it halfway.
    """
    emulated = device == EMULATED
    if emulated and persona.family != "amd":
        raise ExecutorError(f"{kernel.unit.label} is {persona.target} code; nothing runs it on CPU tensors")
    found = _functions.get((kernel.unit, device, kernel.symbol))
    if found is not None and found[1] >= kernel.lds and found[2] >= kernel.cluster:
        return found[0]
    if emulated:
        image = loader.device_image(kernel.unit)
        with _lock:
            return _load(drivers.driver("emulated"), kernel, device, image)
    if streams.capturing():
        raise CaptureError(
            f"{kernel.unit.label} would be built or loaded for the first time while a graph is captured; call the "
            "operator once with this shape before the capture"
        )
    image = loader.device_image(kernel.unit)
    with _lock, streams.make_ready(device):
        return _load(drivers.driver(persona.family), kernel, device, image)


def _load(driver: Driver, kernel: Kernel, device: int, image: bytes) -> int:
    """Load what another thread has not, and have the driver allow what this kernel needs. The lock is held."""
    key = (kernel.unit, device, kernel.symbol)
    handle, shared_bytes, cluster = _functions.get(key, (0, 0, 0))
    if not handle:
        module = _modules.get((kernel.unit, device))
        if module is None:
            module = _modules[kernel.unit, device] = driver.load(image, kernel.unit.label)
        handle = driver.function(module, kernel.symbol)
    # A launch that needs less must not take back what another one needs.
    shared_bytes, cluster = max(shared_bytes, kernel.lds), max(cluster, kernel.cluster)
    driver.allow(handle, kernel.symbol, shared_bytes, cluster)
    _functions[key] = (handle, shared_bytes, cluster)
    return handle
