"""Calls of two compiled kernels for benchmarks/compiled_points.py: AMD's split-K GEMMs in bf16 on an MI308X.

ROCm/aiter's bf16 tables (MIT licence) have times of split-K GEMMs that are two kernels each: one leaves a part for each
range of K, another one adds them up. Sources are built and executed as those of one kernel are.
"""

from __future__ import annotations

import csv
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from compiled_points import BF16, GFX942_TRAITS, Kind, build, source_of

from aiterlite.emulator import Device
from aiterlite.target import resolve

CHIP = "mi308x"
_HEAD, _ARGUMENTS = "gfx942/a16w16/opus_gemm_pipeline_a16w16_", "opus_gemm_splitk_kargs"
# Kernels by tag: header, name, whether K is cut into even numbers of turns, and what replaces the tile.
TAGS = {
    "a16w16_kbuf1_sk": ("kbuf1", "gemm_a16w16_kbuf1_kernel<{traits}, " + _ARGUMENTS + ">", False, None),
    "a16w16_kbuf2v_sk": ("kbuf2v", "gemm_a16w16_kbuf2v_kernel<{traits}, " + _ARGUMENTS + ">", True, None),
    "a16w16_kbuf2v_bk128_sk": (
        *("kbuf2v_bk128", "gemm_a16w16_kbuf2v_bk128_kernel<{traits}, " + _ARGUMENTS + ">", True),
        None,
    ),
    "a16w16_em3en4_lds1_pgr2_sk": (
        *("em3en4_lds1_pgr2_sk", "gemm_a16w16_em3en4_lds1_pgr2_sk_kernel<{traits}>", False),
        (96, 128),
    ),
}
# Of the second kernel: values of a lane, lanes of a row, rows of a workgroup, for columns that they fit; and the ranges
# of K that it is made for.
_EXACT = (
    (8, 8, 8),
    (8, 16, 4),
    (8, 32, 2),
    (16, 24, 4),
    (8, 64, 1),
    (8, 128, 4),
    (8, 128, 2),
    (8, 128, 1),
    (8, 256, 1),
)
_RANGES = (1, 3, 4, 5, 6, 8, 10)
_ONLY = 6


class Row(NamedTuple):
    instance: str
    m: int
    n: int
    k: int
    split: int
    us: float


def rows(configs: Path) -> Iterator[Row]:
    seen = set()
    for file in sorted(configs.rglob("*bf16_tuned_gemm*.csv")):
        for row in csv.DictReader(file.open()):
            plain = (row["bias"], row["outdtype"]) == ("False", "torch.bfloat16")
            if (row["gfx"], row["cu_num"], row["libtype"]) == ("gfx942", "80", "opus") and plain:
                found = Row(
                    row["kernelName"], *(int(row[name]) for name in ("M", "N", "K", "splitK")), float(row["us"])
                )
                if "splitk" in found.instance and found not in seen:
                    seen.add(found)
                    yield found


def ranges(row: Row, block_k: int, even: bool, tiles: int, compute_units: int) -> int:
    """How many K is cut into, as upstream's launcher bounds it; where the row leaves that to it, a workgroup a CU."""
    turns, count = math.ceil(row.k / block_k), row.split or min(16, max(1, math.ceil(compute_units / tiles)))
    while count > 1:
        full = math.ceil(turns / count)
        last = turns - (count - 1) * full
        if min(full, last) >= 2 and not (even and (full % 2 or last % 2)):
            break
        count -= 1
    return count


def second(row: Row, split: int, workspace: str) -> tuple[str, str, tuple[int, int, int], int, bytes]:
    """The kernel that adds parts up: its name, source, grid, threads, and what its arguments hold behind addresses."""
    exact = [item for item in _EXACT if item[0] * item[1] == row.n]
    fitting = next((item for item in exact if item is exact[-1] or row.m % item[2] == 0), None)
    head = '#include "gfx942/a16w16/splitk_reduce_gfx942.cuh"\n'
    front, behind = "const opus_splitk_ws_handle* __restrict__, __bf16* __restrict__", "const __bf16* __restrict__, int"
    if fitting is not None and split in _RANGES:
        vector, lanes, each = fitting
        kernel = f"splitk_reduce_kernel_exact_n_rowblock<{split}, {lanes}, {each}, {vector}, {workspace}, __bf16>"
        text = f"{head}template __global__ void {kernel}({front}, int, int, int, int, int, {behind});\n"
        name = f"reduce_{split}_{lanes}_{each}_{vector}_{workspace}"
        return name, text, (1, math.ceil(row.m / each), 1), lanes * each, b""
    which = "bf16ws_fallback" if workspace == "__bf16" else "fallback"
    kernel = f"splitk_reduce_kernel_{which}<16, 64, __bf16, false, __bf16, true>"
    text = f"{head}template __global__ void {kernel}({front}, int, int, int, int, int, int, {behind});\n"
    return f"reduce_{which}", text, (math.ceil(row.n / 1024), row.m, 1), 64, struct.pack("<i", split)


def counters(row: Row, instance: Any, checkout: Path, work: Path) -> tuple[int, list[dict[str, Any]]]:
    """How many ranges K is cut into, and the counters of both launches. Raises as `build` and `counted` do."""
    header, kernel, even, tile = TAGS[instance.kernel_tag]
    block_m, block_n = tile or (instance.B_M, instance.B_N)
    is_short = instance.splitk_workspace_dtype == "bf16_t" and any(item[0] * item[1] == row.n for item in _EXACT)
    traits = GFX942_TRAITS.replace(BF16, BF16.replace("opus::bf16_t, opus::fp32_t", "opus::fp32_t, opus::fp32_t"))
    traits = traits if not is_short else GFX942_TRAITS
    traits = traits.replace("{i.B_M}, {i.B_N}", f"{block_m}, {block_n}").replace(
        "{depth}", ", 1" if tile else "{depth}"
    )
    kind = Kind(f"{_HEAD}{header}.cuh", kernel, traits, arguments=_ARGUMENTS)
    persona = resolve(CHIP)
    tiles_m, tiles_n = math.ceil(row.m / instance.B_M), math.ceil(row.n / instance.B_N)
    split = ranges(row, instance.B_K, even, tiles_m * tiles_n, persona.cu_count)
    padded_m, padded_n = tiles_m * instance.B_M, tiles_n * instance.B_N
    part = torch.bfloat16 if is_short else torch.float32
    held = {
        "a": torch.zeros(row.m, row.k, dtype=torch.bfloat16),
        "b": torch.zeros(row.n, row.k, dtype=torch.bfloat16),
        "c": torch.zeros(row.m, row.n, dtype=torch.bfloat16),
        "parts": torch.zeros(split, padded_m, padded_n, dtype=part),
    }
    held["handle"] = torch.tensor([held["parts"].data_ptr(), held["parts"].nbytes])
    at = {name: tensor.data_ptr() for name, tensor in held.items()}
    extra = [(tensor.data_ptr(), tensor.nbytes, name) for name, tensor in held.items()]
    m, n, k = row.m, row.n, row.k
    first = struct.pack("<5Q", at["a"], at["b"], at["handle"], at["c"], 0)
    strides = (k, k, padded_n, n, m * k, n * k, padded_m * padded_n, m * n, 0)
    first += struct.pack("<14i", m, n, k, 1, split, *strides)
    name, text, grid, threads, front = second(row, split, "__bf16" if is_short else "float")
    behind = struct.pack("<2Q", at["handle"], at["c"]) + front + struct.pack("<5i", m, n, 1, padded_m, padded_n)
    behind = behind.ljust(-(-len(behind) // 8) * 8, b"\0") + struct.pack("<Qi4x", 0, 0)
    suffix = "_bf16" if is_short else "_fp32"
    launches = (
        (
            instance.name + suffix,
            source_of(instance, kind),
            (tiles_m * tiles_n * split, 1, 1),
            instance.BLOCK_SIZE,
            first,
        ),
        (name, text, grid, threads, behind),
    )
    found = []
    for unit, source, groups, block, segment in launches:
        module = Device(persona).load(build(unit, source, persona.target, checkout, work))
        (symbol,) = module.kernels
        segment = segment.ljust(module.kernels[symbol].kernarg_bytes, b"\0")
        only = _ONLY if math.prod(groups) > _ONLY else 0
        report = module.launch(symbol, groups, block, segment, extra=extra, counters=True, only=only)
        found.append(report.counters)
    return split, found
