"""The source of the MLA kernels executed on the host as sm_90 would, lane by lane, under the address sanitizer.

Wrong indices, missing barriers of a wave's meetings, reads outside a tensor; on machines without that GPU nothing else
runs this path.
"""

from __future__ import annotations

import functools
import struct
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from mla_cases import Batch, assert_right, batch, plan  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.jit.sources import PACKAGE_ROOT  # noqa: E402
from aiterlite.jit.spec import Unit  # noqa: E402
from aiterlite.kernel import Kernel  # noqa: E402
from aiterlite.ops import mla as ops  # noqa: E402
from aiterlite.tables import mla as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
HERE = Path(__file__).parent

# Reads grid, threads, the size of the argument struct, the count of its pointers and of buffers; then the struct, whose
# pointers are numbers of buffers from 1 on, and the buffers. Runs the workgroups one after the other; writes buffers.
_MAIN = """
#include <hostsim/isa.h>
#define AITERLITE_DYNAMIC_SHARED(type, name) type& name = *::hostsim::shared_array<type>(1)
#include <aiterlite/fragment/row_tile.h>
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
    flags = ["-std=c++17", "-O1", "-fsanitize=address", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
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


def run(case: Batch, splits: int, given: dict[str, Any], folder: Path, causal: bool = True) -> Any:
    rows, heads = case.q.shape[:2]
    o = torch.full((rows, heads, 512), float("nan"), dtype=case.q.dtype if case.q.itemsize > 1 else torch.bfloat16)
    scales = {"q_scale": case.q_scale, "kv_scale": case.kv_scale, "causal": causal}
    call = ops._Call(
        case.q,
        case.kv_buffer,
        o,
        *case.pages,
        max(case.counts),
        case.page_size,
        num_kv_splits=splits,
        return_lse=True,
        **given,
        **scales,
    )
    found = 0 if given else splits
    shape = call.parts_shape(found)
    tensors = {**call.tensors, "lse": torch.full((rows, heads), float("nan"))}
    tensors["partial"] = torch.full((*shape, 512), float("nan")) if found != 1 else None
    tensors["partial_lse"] = torch.full(shape, float("nan")) if found != 1 else None
    decision = dispatch.decide(replace(tables.DECODE, rows=(tables.HOPPER,)), call.problem(found), resolve("h100"))
    for kernel in decision.kernels:
        simulate(kernel, tensors, call.sizes(found), folder)
    return tensors["o"], tensors["lse"]


CASES = [
    (16, [1, 2], [40, 5], ("bf16", "bf16"), 1, 1, 0),
    (8, [1], [9], ("bf16", "e4m3fn"), 16, 2, 0),
    (32, [2], [66], ("e4m3fn", "e4m3fn"), 64, 0, 2),
]


@pytest.mark.parametrize(("heads", "counts", "lengths", "types", "page_size", "splits", "fold"), CASES)
def test_decode(
    heads: int,
    counts: list[int],
    lengths: list[int],
    types: tuple[str, str],
    page_size: int,
    splits: int,
    fold: int,
    tmp_path: Path,
) -> None:
    case = batch(lengths, counts, heads, types=types, page_size=page_size, seed=heads)
    given = plan(case, heads, fold, workgroups=2, seed=1) if fold else {}
    assert_right(run(case, splits or 1, given, tmp_path), case.exact())


def test_masked_values_do_not_reach_a_row(tmp_path: Path) -> None:
    case = batch([12], [2], 16, seed=1)
    clean = run(case, 1, {}, tmp_path)
    case.kv_buffer[int(case.kv_indices[11])] = float("nan")
    o, lse = run(case, 1, {}, tmp_path)
    assert torch.equal(o[0], clean[0][0]) and torch.equal(lse[0], clean[1][0])
    assert bool(o[1].isnan().all())
