"""What torch and the GPU drivers of this machine say, asked in a child process.

A driver or a torch that is broken can end the process that loads it; `doctor` must survive to report that.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from typing import Any

_TIMEOUT_SECONDS = 120


_DRIVERS_ONLY = "drivers"


def ask() -> dict[str, Any]:
    """The children's findings: `drivers` by family, `torch` or `torch_error`, `devices`, `hip_version`."""
    found = _child()
    if "drivers" not in found:
        # torch ended the process before the drivers' turn came.
        found = {**_child(_DRIVERS_ONLY), **found}
    return found


def _child(*arguments: str) -> dict[str, Any]:
    words = [sys.executable, "-m", "aiterlite.cli.probe", *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    try:
        done = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return {"torch_error": f"importing torch or opening a GPU driver took over {_TIMEOUT_SECONDS} s"}
    # The findings come line by line, each once it is known, so that a crash leaves those before it.
    found: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        if line.startswith("{"):
            found.update(json.loads(line))
    if done.returncode != 0 and "torch" not in found and not arguments:
        found.setdefault("torch_error", f"the process that imports torch ended with status {done.returncode}")
    return found


def _drivers() -> dict[str, Any]:
    """The driver library of each family that can be opened, "" where none can, and the version of HIP's.

    A library that the process has mapped, which torch may have brought, is the one that launches use.
    """
    from aiterlite.errors import LoadError
    from aiterlite.launch import drivers

    found: dict[str, Any] = {"drivers": {}}
    for family, points in drivers.ENTRY_POINTS.items():
        try:
            library = drivers._open(points.libraries)
        except LoadError:
            found["drivers"][family] = ""
            continue
        found["drivers"][family] = library._name
        version = getattr(library, "hipDriverGetVersion", None)
        number = ctypes.c_int()
        if version is not None and version(ctypes.byref(number)) == 0:
            found["hip_version"] = number.value
    return found


def _main(arguments: list[str]) -> None:
    if arguments == [_DRIVERS_ONLY]:
        print(json.dumps(_drivers()), flush=True)
        return
    # torch goes first: a runtime that is opened before it opens its own would become the one that it binds to.
    try:
        import torch
    except Exception as error:
        print(json.dumps({"torch_error": f"{type(error).__name__}: {error}"}), flush=True)
        print(json.dumps(_drivers()), flush=True)
        return
    print(json.dumps({"torch": torch.__version__}), flush=True)
    print(json.dumps(_drivers()), flush=True)
    from aiterlite.errors import TargetError
    from aiterlite.target import device_persona

    devices = []
    for index in range(torch.cuda.device_count()):
        try:
            kind = str(device_persona(index))
        except TargetError as error:
            kind = str(error)
        devices.append(f"{torch.cuda.get_device_name(index)}: {kind}")
    print(json.dumps({"devices": devices}), flush=True)


if __name__ == "__main__":
    _main(sys.argv[1:])
