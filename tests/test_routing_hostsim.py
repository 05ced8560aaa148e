"""The routing kernel's source executed on the host as a warp of sm_90 would, lane by lane, under the address sanitizer:
where there is no such GPU nothing else runs this path."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from routing_cases import R1, assert_right, odd_rows, problem  # noqa: E402

from aiterlite import dispatch  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.jit.sources import PACKAGE_ROOT  # noqa: E402
from aiterlite.ops import operands  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.ops.samples.routing import SCALE, ids_of  # noqa: E402
from aiterlite.tables import TABLES  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

pytestmark = [pytest.mark.torch, pytest.mark.compile]
HOSTSIM = Path(__file__).parent / "hostsim"
NAMES = ("gating_output", "correction_bias", "topk_weights", "topk_ids", "token_expert_indices")

# Reads grid, threads, tokens, the scale, and for each of five tensors its bytes and its stride, then the tensors, each
# an allocation of its own; runs the workgroups one after the other, and writes the tensors back.
PROGRAM = """
#include <hostsim/isa.h>
#include <routing/route.hip>
#include <vector>
int main(int, char** argv) {
  FILE* file = fopen(argv[1], "rb");
  struct { uint32_t grid, threads, tokens; float scale; uint64_t bytes[5], stride[5]; } head;
  if (!file || fread(&head, sizeof head, 1, file) != 1) hostsim::fail("no launch");
  std::unique_ptr<char[]> data[5];
  for (int i = 0; i < 5; ++i) {
    if (head.bytes[i] == 0) continue;
    data[i].reset(new char[head.bytes[i]]);
    if (fread(data[i].get(), head.bytes[i], 1, file) != 1) hostsim::fail("no tensor");
  }
  fclose(file);
  aiterlite_routing_args args = {};
  args.gating = data[0].get();
  args.bias = data[1].get();
  args.weights = reinterpret_cast<float*>(data[2].get());
  args.ids = reinterpret_cast<int32_t*>(data[3].get());
  args.token_expert_indices = reinterpret_cast<int32_t*>(data[4].get());
  args.stride_gating = head.stride[0];
  args.stride_weights = head.stride[2];
  args.stride_ids = head.stride[3];
  args.stride_indices = head.stride[4];
  args.scale = head.scale;
  args.tokens = head.tokens;
  for (uint32_t group = 0; group < head.grid; ++group) {
    hostsim::scheduler.run(group, 1, head.threads, aiterlite::kWaveSize, group, [&] { aiterlite_route(args); });
  }
  file = fopen(argv[1], "wb");
  for (int i = 0; i < 5; ++i) fwrite(data[i].get(), 1, head.bytes[i], file);
  return fclose(file);
}
"""


def build(defines: Any, folder: Path) -> Path:
    path = folder / "route"
    path.with_suffix(".cpp").write_text(PROGRAM)
    flags = ["-std=c++17", "-Og", "-fsanitize=address", "-Wall", "-Werror", "-Wno-unknown-pragmas"]
    words = [f"-D{name}={value}" for name, value in defines if name != "AITERLITE_OVERLAP"]
    folders = [f"-I{folder}" for folder in (PACKAGE_ROOT / "csrc/include", HOSTSIM, PACKAGE_ROOT / "csrc")]
    command = [*toolchain.require("host").cc, *flags, "-DAITERLITE_HOST_SIM=90", *words, *folders]
    done = subprocess.run([*command, path.with_suffix(".cpp"), "-o", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return path


@pytest.mark.parametrize(
    ("op", "experts", "topk", "given"),
    [
        ("biased_grouped_topk", 256, 8, R1),
        ("moe_fused_gate", 384, 8, {"shared_experts": 2}),
        ("topk_softmax", 60, 12, {"shared_experts": 4, "dtype": "fp16", "renorm": False}),
    ],
)
def test_a_simulated_warp_routes_hard_rows(
    op: str, experts: int, topk: int, given: dict[str, Any], tmp_path: Path
) -> None:
    made = problem(op, 1, experts, topk, **given)
    rows = odd_rows(experts + (made.shared_experts if made.shared_scored else 0))
    made = replace(made, num_tokens=len(rows) + 2)
    tensors = sample(op, made, 1).fresh()
    tensors["gating_output"][: len(rows)] = torch.tensor(rows).to(operands.DTYPES[made.dtype])
    (kernel,) = dispatch.decide(TABLES[op], made, resolve("h100")).kernels
    program = build(kernel.unit.defines, tmp_path)

    names = [ids_of(op) if name == "topk_ids" else name for name in NAMES]
    held = [tensors.get(name) for name in names]
    sizes = [0 if tensor is None else tensor.nbytes for tensor in held]
    strides = [0 if tensor is None else tensor.stride(0) for tensor in held]
    scale = 1.0 if op == "topk_softmax" else SCALE
    head = struct.pack("3If10Q", kernel.grid[0], kernel.block[0], made.num_tokens, scale, *sizes, *strides)
    raw = [t.view(-1).view(torch.uint8).numpy().tobytes() for t in held if t is not None]
    file = tmp_path / "launch"
    file.write_bytes(head + b"".join(raw))
    options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    done = subprocess.run([program, file], capture_output=True, text=True, env=options)
    assert done.returncode == 0, done.stderr[:4000]
    left = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.uint8)
    for tensor, size in zip(held, sizes, strict=True):
        if tensor is not None:
            tensor.view(-1).view(torch.uint8).copy_(left[:size])
            left = left[size:]
    assert_right(op, made, tensors)
