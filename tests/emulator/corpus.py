"""The corpus: small HIP kernels, how each is compiled and launched, and what must be in memory afterwards.

    case = KERNELS["softmax"]
    image = compile_object(case.source, "gfx942", "-O3", folder)
    run(device.load(image), case, "gfx942")

hip/*.hip holds the kernels, cases_*.py their launches and models, host/host.h what runs some of them on the host.
"""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
from emulator import cases_float, cases_gfx950, cases_integer, cases_lanes, cases_matrix, cases_memory, cases_rows
from emulator.launches import KERNELS, TARGETS, Array, Buffer, Kernel, Pages, Work

from aiterlite.jit import toolchain

HERE = Path(__file__).parent
HIP = HERE / "hip"
LEVELS = ("-O0", "-O1", "-O3")
PERSONAS = {"gfx942": "mi300x", "gfx950": "mi355x"}
CASES = (cases_float, cases_gfx950, cases_integer, cases_lanes, cases_matrix, cases_memory, cases_rows)

__all__ = [
    "KERNELS",
    "LEVELS",
    "PERSONAS",
    "TARGETS",
    "Kernel",
    "Work",
    "compile_object",
    "compile_host",
    "launch",
    "run",
]


def sources() -> list[str]:
    return sorted(path.stem for path in HIP.glob("*.hip"))


def targets_of(source: str) -> tuple[str, ...]:
    """gfx950_*.hip is for that target alone."""
    return tuple(t for t in TARGETS if not source.startswith("gfx") or source.startswith(t))


STRICT = ("-Wall", "-Wextra", "-Werror")


def compile_object(
    source: str, target: str, level: str, folder: Path, include: Path = HIP, flags: tuple[str, ...] = STRICT
) -> bytes:
    """The code object of `<source>.hip`, by the AMDGPU clang of this machine; compiled once a folder."""
    stem = folder / f"{source}{level}-{target}"
    output = stem.with_suffix(".co")
    if output.exists():
        return output.read_bytes()
    found = toolchain.probe("amd", folder, target)
    location, builtin = found.location, ("-isystem", found.builtin)
    compile_ = [*location.cc, "-x", "hip", "--cuda-device-only", f"--offload-arch={target}", "-nogpulib", "-nogpuinc"]
    compile_ += ["-nostdinc", *builtin, "-std=c++20", level, "-fuse-cuid=none", *flags]
    compile_ += [f"-I{include}", "-S", "-Xclang", "-emit-obj", f"{include / source}.hip", "-o", f"{stem}.o"]
    link = [*location.lld, "-shared", "--no-undefined", f"{stem}.o", "-o", str(output)]
    for command in (compile_, link):
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return output.read_bytes()


def compile_host(source: str, symbols: list[str], folder: Path, include: Path = HIP) -> ctypes.CDLL:
    """The same source for the host, as a library with `run_<symbol>`."""
    output = folder / f"{source}-host.so"
    text = f"#include <{source}.hip>\n" + "".join(f"CORPUS_ENTRY({symbol})\n" for symbol in symbols)
    # The kernels' floats must round as they are written, and -O1 keeps the compile short.
    flags = ["-std=c++20", "-O1", "-ffp-contract=off", "-fPIC", "-shared", "-DCORPUS_HOST", "-w"]
    command = [
        toolchain.require("host").executable,
        "-x",
        "c++",
        *flags,
        f"-I{include}",
        f"-I{HIP}",
        f"-I{HERE / 'host'}",
        "-",
    ]
    done = subprocess.run([*command, "-o", str(output)], input=text, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{done.stderr}")
    return ctypes.CDLL(str(output))


def arrays_of(work: Work) -> tuple[dict[str, Any], list[Array]]:
    """Fresh memory for a launch: the arguments by name, and what is reached through tables of addresses."""
    values: dict[str, Any] = {}
    extra: list[Array] = []
    for name, argument in work.args.items():
        if isinstance(argument, Buffer):
            values[name] = argument.start.copy()
            values[name].flags.writeable = argument.expected is not None
        elif isinstance(argument, Pages):
            pages = [None if page is None else page.copy() for page in argument.arrays]
            extra += [page for page in pages if page is not None]
            values[name] = np.array([0 if page is None else page.ctypes.data for page in pages], np.uint64)
        else:
            values[name] = argument
    return values, extra


def mismatches(work: Work, values: dict[str, Any]) -> list[str]:
    """Which outputs are not what they must be."""
    found = []
    for name, argument in work.args.items():
        if isinstance(argument, Buffer):
            text = argument.mismatch(values[name])
            if text:
                found.append(f"{name}{text}")
    return found


def launch(module: Any, kernel: Kernel, target: str, **options: Any) -> tuple[Work, dict[str, Any], Any]:
    """Launch a kernel of the corpus on an emulated device; the launch, its memory afterwards, and the report."""
    work = kernel.work(target)
    values, extra = arrays_of(work)
    report = module.launch(kernel.symbol, work.grid, work.block, values, work.lds, extra=extra, **options)
    return work, values, report


def run(module: Any, kernel: Kernel, target: str, **options: Any) -> Any:
    """Launch and compare. Raises `AssertionError` with the first wrong element of each output."""
    work, values, report = launch(module, kernel, target, **options)
    wrong = mismatches(work, values)
    assert not wrong, f"{kernel.name}: " + "; ".join(wrong)
    return report


class _Geometry(ctypes.Structure):
    _fields_ = [("grid", ctypes.c_uint32 * 3), ("block", ctypes.c_uint32 * 3), ("dynamic_shared", ctypes.c_uint32)]


def call_host(
    library: ctypes.CDLL,
    symbol: str,
    values: dict[str, Any],
    grid: tuple[int, ...],
    block: tuple[int, ...],
    lds: int = 0,
) -> None:
    """Run the host's copy of a kernel on arrays and numpy scalars, in the kernel's order."""
    cells = [
        np.array([v.ctypes.data], np.uint64) if isinstance(v, np.ndarray) and v.ndim else np.atleast_1d(v)
        for v in values.values()
    ]
    pointers = (ctypes.c_void_p * len(cells))(*[cell.ctypes.data for cell in cells])
    sizes = [(ctypes.c_uint32 * 3)(*(*size, 1, 1)[:3]) for size in (grid, block)]
    getattr(library, f"run_{symbol}")(ctypes.byref(_Geometry(*sizes, lds)), pointers)


def run_host(library: ctypes.CDLL, kernel: Kernel) -> None:
    """Run the host's copy and compare. Raises `AssertionError`."""
    work = kernel.work(TARGETS[0])
    values, _keep = arrays_of(work)
    call_host(library, kernel.symbol, values, work.grid, work.block, work.lds)
    wrong = mismatches(work, values)
    assert not wrong, f"{kernel.name} on the host: " + "; ".join(wrong)
