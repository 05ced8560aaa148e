"""Devices made ready for a thread's launches, and graphs under capture. Imports torch where it asks it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from aiterlite.launch import drivers

_thread = threading.local()


def capturing() -> bool:
    """Whether torch's current stream is being captured into a graph."""
    import torch

    return torch.cuda.is_current_stream_capturing()


def capture_id(stream: int) -> int | None:
    """The number of the capture that torch's stream of this raw handle is under; None without one."""
    import torch

    return drivers.driver("amd" if torch.version.hip else "cuda").capture_id(stream)


def is_ready(device: int) -> bool:
    """Whether this thread may launch on a device as it is: it is the current one, and its context is."""
    return getattr(_thread, "device", -1) == device and device == _thread.current()


def make_ready(device: int) -> AbstractContextManager[None]:
    """Make a device, and its context, current for a scope. A new thread has no context until its runtime is asked."""
    import torch

    torch.cuda.set_device(torch.cuda.current_device())
    _thread.device = torch.cuda.current_device()
    # `torch.cuda.current_device` calls this, but first asks each time whether CUDA is initialized.
    _thread.current = torch._C._cuda_getDevice
    return torch.cuda.device(device)


def submit(device: int, launch: Callable[..., Any], *arguments: Any) -> Any:
    """Make a launch with the device ready for it. Returns what the launch does."""
    if is_ready(device):
        return launch(*arguments)
    with make_ready(device):
        return launch(*arguments)
