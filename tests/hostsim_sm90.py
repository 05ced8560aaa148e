"""A kernel of sm_90's copy engine and warpgroups executed on the host, lane by lane, under the address sanitizer: of an
argument struct with tensor maps, in clusters. Not a test file."""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from aiterlite.jit import toolchain
from aiterlite.jit.sources import PACKAGE_ROOT
from aiterlite.jit.spec import Unit
from aiterlite.kernel import Kernel, TensorMap

HERE = Path(__file__).parent

# Reads grid, cluster, threads, seed, the wave that lags, the struct and where its pointers are (numbers of buffers from
# 1 on), its maps, and the buffers. Runs the clusters one after the other; writes buffers.
_MAIN = """
#include <hostsim/isa.h>
#include <stdio.h>
#include <vector>
#include <aiterlite/tile/sm90_copy.h>
%s
static FILE* file;
static uint64_t next() {
  uint64_t word;
  if (fread(&word, sizeof word, 1, file) != 1) hostsim::fail("no word");
  return word;
}
int main(int, char** argv) {
  file = fopen(argv[1], "rb");
  const uint64_t grid = next(), cluster = next(), threads = next(), seed = next();
  hostsim::lagging_wave = static_cast<uint32_t>(next());
  alignas(64) %s args = {};
  auto* bytes = reinterpret_cast<char*>(&args);
  if (next() != sizeof args || fread(bytes, sizeof args, 1, file) != 1) hostsim::fail("no arguments");
  std::vector<uint64_t> pointers(next());
  for (uint64_t& offset : pointers) offset = next();
  struct Map { uint64_t at, address; aiterlite::TensorMap map; };
  std::vector<Map> maps(next());
  for (Map& one : maps) {
    one.at = next();
    one.address = next();
    for (uint64_t& size : one.map.size) size = next();
    for (uint64_t& stride : one.map.stride) stride = next();
    for (uint64_t& box : one.map.box) box = next();
    one.map.swizzle = next();
    one.map.element_bytes = next();
  }
  std::vector<std::vector<char>*> buffers(next());
  for (auto*& buffer : buffers) {
    buffer = new std::vector<char>(next());
    if (!buffer->empty() && fread(buffer->data(), buffer->size(), 1, file) != 1) hostsim::fail("no bytes");
  }
  fclose(file);
  const auto word = [&](uint64_t offset) -> uint64_t& { return *reinterpret_cast<uint64_t*>(bytes + offset); };
  for (const uint64_t offset : pointers) {
    if (word(offset) != 0) word(offset) = reinterpret_cast<uint64_t>(buffers[word(offset) - 1]->data());
  }
  for (Map& one : maps) {
    one.map.address = word(one.address);
    memcpy(bytes + one.at, &one.map, sizeof one.map);
  }
  hostsim::landing_order.seed(seed);
  for (uint64_t first = 0; first < grid; first += cluster) {
    hostsim::begin_cluster();
    hostsim::scheduler.run(first, cluster, threads, aiterlite::kWaveSize, seed + first, [&] { %s(args); });
    hostsim::end_cluster();
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
    own = [HERE / "hostsim" / "sm90", HERE / "hostsim", PACKAGE_ROOT / "csrc" / "include"]
    command = [
        *toolchain.require("host").cc,
        *flags,
        "-DAITERLITE_HOST_SIM=90",
        *defines,
        *(f"-I{path}" for path in own),
    ]
    done = subprocess.run(
        [*command, str(made.with_suffix(".cpp")), "-o", str(made)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[:4000]
    return made


def _map_words(made: TensorMap, kernel: Kernel, values: Mapping[str, Any]) -> list[int]:
    at = {field.name: field.offset for field in kernel.layout.fields}

    def sizes(given: tuple[int | str, ...]) -> list[int]:
        return [int(values[size]) if isinstance(size, str) else size for size in given]

    # A matrix is a tensor of one matrix.
    lacks = 3 - len(made.box)
    return [
        at[made.field],
        at[made.address],
        *sizes(made.sizes),
        *[1] * lacks,
        *sizes(made.strides),
        *[0] * lacks,
        *made.box,
        *[1] * lacks,
        made.swizzle_bytes,
        2 if made.dtype in ("bf16", "fp16") else 1,
    ]


def simulate(
    kernel: Kernel,
    tensors: Mapping[str, Tensor | None],
    sizes: Mapping[str, Any],
    folder: Path,
    seed: int = 0,
    lagging_wave: int = 2**32 - 1,
) -> None:
    """Runs a kernel on tensors by name, whole allocations, which it writes to. The threads of one wave of each
    workgroup may be made to run only while no other can."""
    names = [name for name, tensor in tensors.items() if tensor is not None]
    layout, values = kernel.layout, {**sizes, **kernel.args}
    memory = bytearray(layout.size)
    for field in layout.fields:
        if field.is_map:
            continue
        value = names.index(field.name) + 1 if field.name in names else values.get(field.name, 0)
        struct.pack_into(f"<{field.code}", memory, field.offset, value)
    pointers = [field.offset for field in layout.fields if field.pointer]
    maps = [_map_words(made, kernel, values) for made in kernel.maps]
    words = [kernel.grid[0], kernel.cluster, kernel.block[0], seed, lagging_wave, layout.size]
    after = [len(pointers), *pointers, len(maps), *(word for made in maps for word in made), len(names)]
    data = struct.pack(f"<{len(words)}Q", *words) + bytes(memory) + struct.pack(f"<{len(after)}Q", *after)
    for name in names:
        tensor = tensors[name]
        assert tensor is not None
        raw = tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()
        data += struct.pack("<Q", len(raw)) + raw
    path = folder / "launch"
    path.write_bytes(data)
    done = subprocess.run(
        [str(program(kernel.unit, kernel.symbol, kernel.arguments.name)), str(path)],
        capture_output=True,
        text=True,
        env={"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"},
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[:4000]
    written = bytearray(path.read_bytes())
    for name in names:
        tensor = tensors[name]
        assert tensor is not None
        flat = tensor.view(-1).view(torch.uint8)
        flat.copy_(torch.frombuffer(written, dtype=torch.uint8, count=flat.numel()))
        written = written[flat.numel() :]
