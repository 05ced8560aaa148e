"""Any kernel of one argument struct executed on the host as sm_90 would, lane by lane, under the address sanitizer.
Not a test file."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch

from aiterlite.jit import toolchain
from aiterlite.jit.sources import PACKAGE_ROOT
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel

HERE = Path(__file__).parent

# Reads grid, threads, the size of the argument struct, the count of its pointers and of buffers; then the struct, whose
# pointers are numbers of buffers from 1 on, and the buffers. Runs the workgroups one after the other; writes buffers.
_MAIN = """
#include <hostsim/isa.h>
#include <stdio.h>
#include <vector>
%s
int main(int, char** argv) {
  FILE* file = fopen(argv[1], "rb");
  uint64_t head[5];
  if (!file || fread(head, sizeof head, 1, file) != 1) hostsim::fail("no launch");
  %s args = {};
  if (head[2] != sizeof args || fread(&args, sizeof args, 1, file) != 1) hostsim::fail("no arguments");
  std::vector<std::vector<char>*> buffers;
  for (uint64_t i = 0; i < head[4]; ++i) {
    uint64_t size;
    if (fread(&size, sizeof size, 1, file) != 1) hostsim::fail("no buffer");
    buffers.push_back(new std::vector<char>(size));
    if (size && fread(buffers.back()->data(), size, 1, file) != 1) hostsim::fail("no bytes");
  }
  fclose(file);
  uint64_t words[sizeof args / 8];
  memcpy(words, &args, sizeof words);
  for (uint64_t i = 0; i < head[3]; ++i) {
    if (words[i]) words[i] = reinterpret_cast<uint64_t>(buffers[words[i] - 1]->data());
  }
  memcpy(&args, words, sizeof words);
  for (uint32_t group = 0; group < head[0]; ++group) {
    hostsim::scheduler.run(group, 1, head[1], aiterlite::kWaveSize, group, [&] { %s(args); });
  }
  file = fopen(argv[1], "wb");
  for (auto* buffer : buffers) fwrite(buffer->data(), 1, buffer->size(), file);
  return fclose(file);
}
"""


@functools.cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@functools.cache
def program(unit: Unit, symbol: str, arguments: str) -> Path:
    made = Path(_folder().name) / f"{symbol}{len(list(Path(_folder().name).iterdir()))}"
    source = f"#include <{PACKAGE_ROOT / unit.sources[0]}>"
    made.with_suffix(".cpp").write_text(_MAIN % (source, arguments, symbol))
    defines = [f"-D{name}={value}" for name, value in unit.defines if name != "AITERLITE_OVERLAP"]
    flags = ["-std=c++17", "-Og", "-fsanitize=address", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    folders = [f"-I{PACKAGE_ROOT / 'csrc' / 'include'}", f"-I{HERE / 'hostsim'}"]
    command = [*toolchain.require("host").cc, *flags, "-DAITERLITE_HOST_SIM=90", *defines, *folders]
    done = subprocess.run(
        [*command, str(made.with_suffix(".cpp")), "-o", str(made)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    return made


def simulate(kernel: Kernel, tensors: dict[str, Any], sizes: dict[str, Any], folder: Path) -> None:
    """Runs a kernel on tensors by name, which it writes to."""
    names = [name for name, tensor in tensors.items() if tensor is not None]
    fields = kernel.layout.packed
    values = {**sizes, **kernel.args, **{name: at + 1 for at, name in enumerate(names)}}
    arguments = kernel.layout.packer.pack(*[values.get(field.name, 0) for field in fields])
    raw = [tensors[name].view(-1).view(torch.uint8).numpy().tobytes() for name in names]
    pointers = sum(field.pointer for field in fields)
    head = struct.pack("5Q", kernel.grid[0], kernel.block[0], len(arguments), pointers, len(raw))
    path = folder / "launch"
    path.write_bytes(head + arguments + b"".join(struct.pack("Q", len(data)) + data for data in raw))
    options = "detect_leaks=0:detect_stack_use_after_return=0"
    done = subprocess.run(
        [str(program(kernel.unit, kernel.symbol, kernel.arguments.name)), str(path)],
        capture_output=True,
        text=True,
        env={"ASAN_OPTIONS": options},
        check=False,
    )
    assert done.returncode == 0, done.stderr[:4000]
    data = bytearray(path.read_bytes())
    for name in names:
        flat = tensors[name].view(-1).view(torch.uint8)
        flat.copy_(torch.frombuffer(data, dtype=torch.uint8, count=flat.numel(), offset=0))
        data = data[flat.numel() :]
