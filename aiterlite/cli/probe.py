"""What torch and the GPU drivers of this machine say, asked in a child process.

A driver or a torch that is broken can end the process that loads it; `doctor` must survive to report that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

_TIMEOUT_SECONDS = 120


def ask() -> dict[str, Any]:
    """The child's findings: `drivers` by family, `torch` or `torch_error`, `devices`."""
    words = [sys.executable, "-m", "aiterlite.cli.probe"]
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
    if done.returncode != 0 and "torch" not in found:
        found.setdefault("torch_error", f"the process that imports torch ended with status {done.returncode}")
    return found


def _drivers() -> dict[str, str]:
    """The driver library of each family that can be opened; "" where none can."""
    import ctypes

    from aiterlite.launcher import ENTRY_POINTS

    found = {}
    for family, points in ENTRY_POINTS.items():
        found[family] = ""
        for name in points.libraries:
            try:
                ctypes.CDLL(name)
            except OSError:
                continue
            found[family] = name
            break
    return found


def _main() -> None:
    print(json.dumps({"drivers": _drivers()}), flush=True)
    try:
        import torch
    except Exception as error:
        print(json.dumps({"torch_error": f"{type(error).__name__}: {error}"}), flush=True)
        return
    print(json.dumps({"torch": torch.__version__}), flush=True)
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
    _main()
