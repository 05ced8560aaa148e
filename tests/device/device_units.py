"""Runs small kernels that use the device library where they can run: emulator, simulation on the host, or GPU.

    run("gfx942", "lanes", "reduce_wave", grid=1, block=64, args=[x, y, np.uint32(3)])

An argument is a numpy array, which the kernel may change in place, or a numpy scalar of 4 bytes. Kernels are the
`kernels/*.hip` here, compiled as units of the package.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import aiterlite
from aiterlite.jit import engine, toolchain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit

HERE = Path(__file__).resolve().parent
KERNELS = HERE / "kernels"
CSRC = Path(aiterlite.__file__).resolve().parent / "csrc"
HOSTSIM = HERE.parent / "hostsim"
SIMULATION = "simulated sm_90"
# The kernels that the simulation runs, by source.
SIMULATED = ("fp8", "lanes", "softmax", "tile", "transpose", "mma_sync")

_emulated = (pytest.mark.compile, pytest.mark.emulated, pytest.mark.torch)
AMD = [pytest.param("gfx942", marks=_emulated), pytest.param("gfx950", marks=_emulated)]
SIMULATOR = pytest.param(SIMULATION, id="simulation", marks=pytest.mark.compile)
GPU = pytest.param("sm_90a", marks=pytest.mark.gpu)
EVERYWHERE = [*AMD, SIMULATOR, GPU]
NVIDIA = [SIMULATOR, GPU]


def wave_size(where: str) -> int:
    return 64 if where.startswith("gfx") else 32


def run(
    where: str, source: str, kernel: str, grid: int, block: int, args: Sequence[Any], shared: int = 0, cluster: int = 1
) -> None:
    """Launch `kernel` of `source` and wait for its end. On the emulator every sanitizer watches."""
    if where == SIMULATION:
        _simulate(kernel, grid, block, args)
    elif where.startswith("gfx"):
        _emulate(where, source, kernel, grid, block, args, shared)
    else:
        _launch(where, source, kernel, grid, block, args, shared, cluster)


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="aiterlite-device-")


@functools.cache
def _tree() -> SourceTree:
    """The package's headers, and the kernels here as a family of their own."""
    root = Path(_folder().name) / "tree"
    leave_out = shutil.ignore_patterns("emulator", "cpu", "asm")
    shutil.copytree(CSRC / "include", root / "csrc" / "include", ignore=leave_out)
    shutil.copytree(KERNELS, root / "csrc" / "device")
    return SourceTree(root)


@functools.cache
def image(source: str, target: str) -> bytes:
    """The code object or cubin of a source. Registers that do not suffice are an error: nothing here needs to spill."""
    unit = Unit(f"device/{source}", (f"csrc/device/{source}.hip",), target)
    artifact = engine.obtain(unit, tree=_tree(), build=True)
    for kernel, used in artifact.entry.meta["resources"].items():
        spills = [name for name, count in used.items() if count and ("spill" in name or name == "scratch_bytes")]
        assert not spills, f"{kernel} for {target} spills: {used}"
    return artifact.data


# The emulator ---------------------------------------------------------------------------------------------------------


@functools.cache
def _module(source: str, target: str) -> Any:
    from emulator import session

    if session.missing():
        pytest.skip(session.missing())
    return session.device(target).load(image(source, target))


def _emulate(target: str, source: str, kernel: str, grid: int, block: int, args: Sequence[Any], shared: int) -> None:
    report = _module(source, target).launch(kernel, grid, block, list(args), shared, sanitize=True)
    assert not report.findings, "\n".join(map(str, report.findings))


# The simulation on the host -------------------------------------------------------------------------------------------

_MAIN = """
#include <tuple>
#include <utility>
template <class T>
T from_cell(std::vector<char>& cell) {
  if constexpr (std::is_pointer_v<T>) {
    return reinterpret_cast<T>(cell.data());
  } else {
    T value;
    memcpy(&value, cell.data(), sizeof value);
    return value;
  }
}
template <class... A, size_t... i>
void call(void (*kernel)(A...), std::vector<std::vector<char>>& cells, std::index_sequence<i...>) {
  kernel(from_cell<A>(cells[i])...);
}
template <class... A>
void call(void (*kernel)(A...), std::vector<std::vector<char>>& cells) {
  if (cells.size() != sizeof...(A)) hostsim::fail("the kernel takes another number of arguments");
  call(kernel, cells, std::index_sequence_for<A...>{});
}
int main(int, char** argv) {
  FILE* file = fopen(argv[2], "rb");
  uint32_t header[4];
  if (!file || fread(header, sizeof header, 1, file) != 1) hostsim::fail("no launch");
  std::vector<std::vector<char>> cells;
  for (uint32_t i = 0; i < header[3]; ++i) {
    uint64_t size;
    if (fread(&size, sizeof size, 1, file) != 1) hostsim::fail("no argument");
    cells.emplace_back(size);
    if (size && fread(cells.back().data(), size, 1, file) != 1) hostsim::fail("no bytes of an argument");
  }
  fclose(file);
  const std::string name = argv[1];
  for (uint32_t group = 0; group < header[0]; ++group) {
    hostsim::scheduler.run(group, 1, header[1], aiterlite::kWaveSize, header[2] + group, [&] {
%s
      hostsim::fail("no such kernel");
    });
  }
  file = fopen(argv[2], "wb");
  for (const auto& cell : cells) fwrite(cell.data(), 1, cell.size(), file);
  return fclose(file);
}
"""


@functools.cache
def _simulation() -> Path:
    """One program with all kernels that it can run."""
    program = Path(_folder().name) / "simulation"
    texts = {source: (KERNELS / f"{source}.hip").read_text() for source in SIMULATED}
    headers = sorted({line for text in texts.values() for line in text.splitlines() if line.startswith("#include")})
    # Each source in a namespace of its own, after all headers.
    sources = [f"namespace {source} {{\n#include <kernels/{source}.hip>\n}}" for source in SIMULATED]
    kernels = [(source, name) for source, text in texts.items() for name in _KERNEL.findall(text)]
    calls = [f'      if (name == "{name}") return call({source}::{name}, cells);' for source, name in kernels]
    text = "\n".join(["#include <hostsim/isa.h>", *headers, *sources, _MAIN % "\n".join(calls)])
    program.with_suffix(".cpp").write_text(text)
    flags = ["-std=c++17", "-Og", "-fsanitize=address", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    folders = [f"-I{folder}" for folder in (CSRC / "include", HOSTSIM, HERE)]
    command = [*toolchain.require("host").cc, *flags, "-DAITERLITE_HOST_SIM=90", *folders]
    command += [str(program.with_suffix(".cpp")), "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return program


# Kernels are spelled at the beginning of a line, or by a macro there whose name ends so.
_KERNEL = re.compile(r"^(?:AITERLITE_KERNEL\(\w+\)\s+|\w+_KERNEL\()(\w+)", re.MULTILINE)


def _simulate(kernel: str, grid: int, block: int, args: Sequence[Any]) -> None:
    raw = [np.asarray(arg).tobytes() for arg in args]
    launch = Path(_folder().name) / "launch"
    cells = b"".join(struct.pack("Q", len(data)) + data for data in raw)
    launch.write_bytes(struct.pack("4I", grid, block, 1, len(raw)) + cells)
    done = subprocess.run(
        [str(_simulation()), kernel, str(launch)],
        capture_output=True,
        text=True,
        env={"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"},
    )
    assert done.returncode == 0, done.stderr[:4000]
    data = launch.read_bytes()
    for arg, before in zip(args, raw, strict=True):
        if isinstance(arg, np.ndarray) and arg.flags.writeable:
            arg[...] = np.frombuffer(data[: len(before)], arg.dtype).reshape(arg.shape)
        data = data[len(before) :]


# A GPU: the driver's own calls, and torch for memory ------------------------------------------------------------------


@functools.cache
def _function(source: str, target: str, kernel: str) -> Any:
    import torch

    torch.zeros(1, device="cuda")
    driver = ctypes.CDLL("libcuda.so.1")
    module, function = ctypes.c_void_p(), ctypes.c_void_p()
    assert driver.cuModuleLoadData(ctypes.byref(module), image(source, target)) == 0, f"{source} does not load"
    assert driver.cuModuleGetFunction(ctypes.byref(function), module, kernel.encode()) == 0, f"no kernel {kernel}"
    return driver, function


def _launch(
    target: str, source: str, kernel: str, grid: int, block: int, args: Sequence[Any], shared: int, cluster: int
) -> None:
    import torch

    driver, function = _function(source, target, kernel)
    if shared:
        assert driver.cuFuncSetAttribute(function, 8, shared) == 0, f"{kernel}: no {shared} bytes of shared memory"
    if cluster > 8:
        assert driver.cuFuncSetAttribute(function, 14, 1) == 0, f"{kernel}: no clusters of {cluster}"
    arrays = [arg for arg in args if isinstance(arg, np.ndarray)]
    tensors = [torch.from_numpy(array.view(np.uint8).reshape(-1).copy()).cuda() for array in arrays]
    pointers = iter(tensors)
    cells = [
        np.array([next(pointers).data_ptr()], np.uint64) if isinstance(arg, np.ndarray) else np.atleast_1d(arg)
        for arg in args
    ]
    addresses = (ctypes.c_void_p * len(cells))(*[cell.ctypes.data for cell in cells])
    stream = ctypes.c_void_p(torch.cuda.current_stream().cuda_stream)
    code = driver.cuLaunchKernel(function, grid, 1, 1, block, 1, 1, shared, stream, addresses, None)
    assert code == 0, f"{kernel}: the driver refused the launch with code {code}"
    torch.cuda.synchronize()
    for array, tensor in zip(arrays, tensors, strict=True):
        if array.flags.writeable:
            array[...] = tensor.cpu().numpy().view(array.dtype).reshape(array.shape)
