"""The sorting's kernels as Hopper runs them, 32 lanes a wave, on the host: the sources are compiled by g++ against the
simulation of the GPU primitives (`hostsim/`), under AddressSanitizer, and held to the plain definition. Threads take
turns in an order drawn from a seed, and every array is an allocation of its own. So is the CPU's kernel."""

from __future__ import annotations

import itertools
import random
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from moe_sortings import Case, Ringed, case_of, check, large, layout_of  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import dispatch  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.tables import moe_sorting as tables  # noqa: E402
from aiterlite.target import resolve  # noqa: E402
from aiterlite.wishes import Wishes  # noqa: E402

pytestmark = pytest.mark.compile

CSRC = Path(aiterlite.__file__).resolve().parent / "csrc"
HOSTSIM = Path(__file__).resolve().parent / "hostsim"
# The sizes of kernels, as (experts, threads); the one of few pairs and the one of many.
SIZES = [(256, 256), (256, 1024), (1024, 512)]
INPUTS = ("topk_ids", "topk_weights", "expert_mask", "num_local_tokens")
OUTPUTS = ("sorted_ids", "sorted_weights", "sorted_expert_ids", "num_valid_ids", "local_topk_ids", "moe_buf")
# Of each case: whether it is of tiles, a seed, the bytes of ten arrays (0: null), the numbers of the struct; then the
# arrays. It is written back with what the kernels made of them.
PROGRAM = """
#include <hostsim/isa.h>
#include <moe_sorting/SOURCE>
#include <vector>
int main(int, char** argv) {
  FILE* file = fopen(argv[1], "r+b");
  uint32_t head[12];
  while (file && fread(head, sizeof head, 1, file) == 1) {
    int64_t strides[3];
    int32_t numbers[11];
    if (fread(strides, sizeof strides, 1, file) != 1 || fread(numbers, sizeof numbers, 1, file) != 1) {
      hostsim::fail("no numbers");
    }
    const long at = ftell(file);
    // moe_buf lies an element off a multiple of 16 bytes, where the seed is odd.
    const uint32_t off = head[1] % 2 * 2;
    std::vector<std::unique_ptr<char[]>> arrays;
    std::vector<char*> place;
    for (uint32_t i = 0; i < 10; ++i) {
      const uint32_t before = i == 9 ? off : 0;
      arrays.emplace_back(new char[head[2 + i] + before]);
      place.push_back(head[2 + i] ? arrays[i].get() + before : nullptr);
      if (head[2 + i] && fread(place[i], head[2 + i], 1, file) != 1) hostsim::fail("no array");
    }
    aiterlite_moe_sorting_args args = {};
    args.topk_ids = place[0];
    args.topk_weights = reinterpret_cast<float*>(place[1]);
    args.expert_mask = reinterpret_cast<int32_t*>(place[2]);
    args.num_local_tokens = reinterpret_cast<int32_t*>(place[3]);
    args.sorted_ids = reinterpret_cast<int32_t*>(place[4]);
    args.sorted_weights = reinterpret_cast<float*>(place[5]);
    args.sorted_expert_ids = reinterpret_cast<int32_t*>(place[6]);
    args.num_valid_ids = reinterpret_cast<int32_t*>(place[7]);
    args.local_topk_ids = reinterpret_cast<int32_t*>(place[8]);
    args.moe_buf = place[9];
    memcpy(&args.moe_buf_bytes, strides, sizeof strides);
    memcpy(&args.tokens, numbers, sizeof numbers);
    const uint32_t pairs = args.tokens * args.topk;
    std::unique_ptr<uint16_t[]> counts(new uint16_t[AITERLITE_EXPERTS * args.tiles]);
    std::unique_ptr<int32_t[]> ranks(new int32_t[pairs]);
    args.counts = counts.get();
    args.ranks = ranks.get();
    const auto run = [&](uint32_t groups, void (*kernel)(aiterlite_moe_sorting_args)) {
      for (uint32_t i = 0; i < groups; ++i) {
        hostsim::scheduler.run(i, 1, AITERLITE_THREADS, aiterlite::kWaveSize, head[1] + i, [&] { kernel(args); });
      }
    };
    LAUNCH
    fseek(file, at, SEEK_SET);
    for (uint32_t i = 0; i < 10; ++i) fwrite(place[i], head[2 + i], 1, file);
    fflush(file);
  }
  return 0;
}
"""
SOURCES = {"sort": "sort.cpp"}
LAUNCHES = {
    "once": "run(args.groups, aiterlite_moe_sort_once);",
    "tiles": "run(args.groups, aiterlite_moe_sort_count); run(args.tiles, aiterlite_moe_sort_place);",
    "sort": """(void)run;
    const auto loop = [](int64_t begin, int64_t end, int64_t, void (*body)(int64_t, int64_t, void*), void* context) {
      for (int64_t i = end; i > begin; --i) body(i - 1, i, context);
      return int32_t{0};
    };
    if (aiterlite_moe_sort_cpu(&args, loop, 1) != 0) hostsim::fail("the kernel failed");
    """,
}


def compiled(folder: Path, kernel: str, experts: int, threads: int) -> Path:
    path = folder / f"{kernel}_{experts}_{threads}"
    path.with_suffix(".cpp").write_text(
        PROGRAM.replace("SOURCE", SOURCES.get(kernel, f"{kernel}.hip")).replace("LAUNCH", LAUNCHES[kernel])
    )
    flags = ["-std=c++17", "-Og", "-fsanitize=address", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
    flags += ["-DAITERLITE_HOST_SIM=90", f"-DAITERLITE_EXPERTS={experts}", f"-DAITERLITE_THREADS={threads}"]
    folders = [f"-I{each}" for each in (CSRC / "include", HOSTSIM, CSRC)]
    command = [*toolchain.require("host").cc, *flags, *folders, path.with_suffix(".cpp"), "-o", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[:4000]
    return path


def plan_of(case: Case) -> tables.SortPlan:
    layout = case.layout
    cleared = layout.tokens * layout.buffer[0] * 2
    problem = tables.SortProblem(layout.tokens, layout.experts, layout.topk, layout.block_size, cleared, layout.policy)
    plan: tables.SortPlan = dispatch.decide(tables.TABLE, problem, resolve("h100"), Wishes()).plan
    return plan


def arrays_of(case: Case, made: Ringed) -> list[bytes]:
    layout, ids = case.layout, [number for row in case.ids for number in row]
    weights = [weight for row in case.weights for weight in row]
    given = [struct.pack(f"{len(ids)}{'q' if layout.wide else 'i'}", *ids), struct.pack(f"{len(weights)}f", *weights)]
    given.append(b"" if case.mask is None else struct.pack(f"{len(case.mask)}i", *case.mask))
    given.append(b"" if case.live is None else struct.pack("i", case.live))
    return given + [made.inner[name].view(torch.uint8).numpy().tobytes() for name in OUTPUTS]


def buffers_of(case: Case) -> Ringed:
    layout, made = case.layout, Ringed()
    entries = tables.least_capacity(layout.tokens * layout.topk, layout.experts, layout.block_size)
    made.out("sorted_ids", entries)
    made.out("sorted_weights", entries, torch.float32)
    made.out("sorted_expert_ids", entries // layout.block_size)
    made.out("num_valid_ids", layout.valid_words)
    made.out("local_topk_ids", layout.tokens * layout.topk if layout.local else 0)
    made.out("moe_buf", layout.tokens * layout.buffer[0], torch.bfloat16)
    return made


def here(case: Case) -> int:
    """Of a mask's experts nearly all are: the others do not count."""
    return case.layout.experts if case.mask is None else max(1, sum(map(bool, case.mask)) - case.layout.tokens % 3)


def counting(case: Case) -> Case:
    """The same, by a mask of those that count."""
    if case.mask is None:
        return case
    first = list(itertools.accumulate(map(bool, case.mask)))
    return replace(
        case, mask=[mark if number <= here(case) else 0 for mark, number in zip(case.mask, first, strict=True)]
    )


def packed(case: Case, arrays: list[bytes], seed: int) -> bytes:
    layout, plan = case.layout, plan_of(case)
    head = struct.pack("12I", plan.tiles, seed, *map(len, arrays))
    head += struct.pack("3q", len(arrays[9]), layout.topk, layout.topk)
    numbers = [layout.tokens, layout.topk, layout.experts, layout.block_size, 2 if layout.wide else 1]
    numbers += [layout.topk << 24 | layout.tokens, layout.valid_words, plan.steps, plan.tiles]
    return head + struct.pack("11i", *numbers, plan.tiles + plan.clearing, here(case)) + b"".join(arrays)


def cases(kernel: str, experts: int, threads: int) -> list[Case]:
    """Calls that these kernels serve: random ones, and one of several pairs a lane or several tiles."""
    policy = 2 if kernel == "tiles" else 1
    source = random.Random(f"{kernel} {experts} {threads}")
    low = {256: 1, 512: 257, 1024: 513}[experts]
    found = []
    while len(found) < (60 if kernel == "sort" else 4):
        layout = layout_of(source, 60 if threads == 256 else 500, experts)
        layout = replace(
            layout, policy=policy, experts=max(low, layout.experts), spare=0, strides=(0, 0),
            block_size=min(layout.block_size, 32), buffer=(layout.buffer[0], torch.bfloat16),
        )  # fmt: skip
        made = case_of(source, layout)
        if layout.tokens and (plan_of(made).bound, plan_of(made).threads) == (experts, threads):
            found.append(made)
    if threads > 256:
        found.append(large(140 if kernel == "once" else 190, low + 50, 8, policy))
    return found


@pytest.mark.parametrize(
    ("kernel", "experts", "threads"),
    [("once", *size) for size in SIZES] + [("tiles", *size) for size in SIZES[1:]] + [("sort", *SIZES[0])],
)
def test_simulated_hopper_sorts(kernel: str, experts: int, threads: int, tmp_path: Path) -> None:
    program, calls = compiled(tmp_path, kernel, experts, threads), cases(kernel, experts, threads)
    made = [buffers_of(case) for case in calls]
    given = [arrays_of(case, buffers) for case, buffers in zip(calls, made, strict=True)]
    texts = [packed(case, arrays, seed) for seed, (case, arrays) in enumerate(zip(calls, given, strict=True))]
    file = tmp_path / "cases"
    file.write_bytes(b"".join(texts))
    options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
    done = subprocess.run([program, file], capture_output=True, text=True, env=options)
    assert done.returncode == 0, done.stderr[:4000]
    memory, at = bytearray(file.read_bytes()), 0
    for case, buffers, arrays, text in zip(calls, made, given, texts, strict=True):
        place = at + len(text) - sum(map(len, arrays[len(INPUTS) :]))
        for name in OUTPUTS:
            inner = buffers.inner[name]
            if inner.numel():
                inner.copy_(torch.frombuffer(memory, dtype=inner.dtype, count=inner.numel(), offset=place))
            place += inner.nbytes
        check(counting(case), buffers)
        at += len(text)
