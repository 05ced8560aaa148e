"""The planners' kernels as Hopper runs them, 32 lanes a wave, on the host: `plan.hip` is compiled by g++ against the
simulation of the GPU primitives (`hostsim/`), under AddressSanitizer, and held to the contract's walk."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import mla_plans  # noqa: E402
from mla_plans import Buffers, Case, case_of  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.tables.mla_plan import PLANNERS  # noqa: E402

pytestmark = pytest.mark.compile

CSRC = Path(aiterlite.__file__).resolve().parent / "csrc"
HOSTSIM = Path(__file__).resolve().parent / "hostsim"
NAMES = ("work_info_set", "work_indptr", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
# Of each case: planner, seed, the sizes of eight arrays, the numbers of the struct; the arrays' words. It is written
# back with what the kernel made of the arrays, each of which was an allocation of its own.
PROGRAM = """
#include <hostsim/isa.h>
#include <mla/plan.hip>
#include <vector>
int main(int, char** argv) {
  FILE* file = fopen(argv[1], "r+b");
  uint32_t head[10];
  while (file && fread(head, sizeof head, 1, file) == 1) {
    int32_t numbers[15];
    if (fread(numbers, sizeof numbers, 1, file) != 1) hostsim::fail("no numbers");
    const long at = ftell(file);
    std::vector<std::unique_ptr<int32_t[]>> arrays;
    for (uint32_t i = 0; i < 8; ++i) {
      arrays.emplace_back(new int32_t[head[2 + i]]);
      if (fread(arrays[i].get(), 4, head[2 + i], file) != head[2 + i]) hostsim::fail("no array");
    }
    uint64_t addresses[2] = {};
    aiterlite_mla_plan_args args = {};
    args.qo_indptr = arrays[0].get();
    args.kv_indptr = arrays[1].get();
    args.kv_last_page_lens = arrays[2].get();
    args.work_metadata_ptrs = addresses;
    args.work_info_set = arrays[3].get();
    args.work_indptr = arrays[4].get();
    args.reduce_indptr = arrays[5].get();
    args.reduce_final_map = arrays[6].get();
    args.reduce_partial_map = arrays[7].get();
    memcpy(&args.batch, numbers, sizeof numbers);
    hostsim::scheduler.run(0, 1, 512, aiterlite::kWaveSize, head[1], [&] {
      if (head[0] == 0) return aiterlite_mla_plan_fast(args);
      if (head[0] == 1) return aiterlite_mla_plan_intra(args);
      aiterlite_mla_plan_cost(args);
    });
    if (addresses[0] != reinterpret_cast<uint64_t>(args.work_indptr)) hostsim::fail("address of work_indptr");
    if (addresses[1] != reinterpret_cast<uint64_t>(args.work_info_set)) hostsim::fail("address of work_info_set");
    fseek(file, at, SEEK_SET);
    for (uint32_t i = 0; i < 8; ++i) fwrite(arrays[i].get(), 4, head[2 + i], file);
    fflush(file);
  }
  return 0;
}
"""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("plan") / "plan"
    path.with_suffix(".cpp").write_text(PROGRAM)
    flags = ["-std=c++17", "-Og", "-fsanitize=address", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    folders = [f"-I{folder}" for folder in (CSRC / "include", HOSTSIM, CSRC)]
    command = [*toolchain.require("host").cc, *flags, "-DAITERLITE_HOST_SIM=90", *folders]
    done = subprocess.run([*command, path.with_suffix(".cpp"), "-o", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return path


def packed(case: Case, buffers: Buffers, seed: int) -> bytes:
    call, held = case.call, case.held
    arrays = [list(call.qo_indptr), list(call.kv_indptr), list(call.kv_last_page_lens)]
    arrays += [buffers.inner[name].flatten().tolist() for name in NAMES]
    head = struct.pack("10I", PLANNERS.index(case.planner), seed, *map(len, arrays))
    numbers = (case.batch, call.fold, call.tile_tokens, call.heads, call.max_q, call.uniform_q, call.page_size)
    numbers += (call.granularity, int(call.trim), held.units, call.splits, call.fixed_splits, held.work_rows)
    numbers += (held.reduce_tiles, held.partial_entries)
    return head + struct.pack("15i", *numbers) + b"".join(struct.pack(f"{len(a)}i", *a) for a in arrays)


@pytest.mark.parametrize("planner", PLANNERS)
def test_simulated_hopper_plans_by_the_contract(planner: str, program: Path, tmp_path: Path) -> None:
    source = random.Random(planner)
    cases = [case_of(source, planner, 30) for _ in range(8 if planner == "cost" else 25)]
    made = [Buffers(case.held) for case in cases]
    texts = [packed(case, buffers, seed) for seed, (case, buffers) in enumerate(zip(cases, made, strict=True))]
    file = tmp_path / "cases"
    file.write_bytes(b"".join(texts))
    options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    done = subprocess.run([program, file], capture_output=True, text=True, env=options)
    assert done.returncode == 0, done.stderr[:4000]
    words, at = torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.int32), 0
    for case, buffers, text in zip(cases, made, texts, strict=True):
        end = at + len(text) // 4
        for name in reversed(NAMES):
            inner = buffers.inner[name]
            inner.copy_(words[end - inner.numel() : end].view(inner.shape))
            end -= inner.numel()
        buffers.addresses.copy_(
            torch.tensor([buffers.inner[name].data_ptr() for name in ("work_indptr", "work_info_set")])
        )
        mla_plans.check_equal(case, buffers, case.expected())
        at += len(text) // 4
