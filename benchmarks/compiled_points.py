"""Points of compiled kernels: AMD's times of its HIP kernels, and counters of what a compiler here makes of them.

    python benchmarks/compiled_points.py --aiter CHECKOUT --work FOLDER --output points.csv

CHECKOUT is one of ROCm/aiter (MIT licence). Its bf16 and fp8 tuning tables have rows of compiled kernels: `opus`, by
the name of an instance, and `skinny`, a wave a CU for few tokens. Its sources are built in FOLDER with the compiler of
this package, for the measurement only, and executed in the emulator. A row of the output is a point as
benchmarks/calibrate.py takes it. These kernels have one to four waves a SIMD. Nothing here was measured by this
project, and AMD's compiler may have made other code of the same sources.

Calls that leave partial results to a second kernel (split-K, benchmarks/compiled_calls.py) are a row for each launch.
What is not had is told at the end.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import math
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

import torch  # noqa: E402

from aiterlite.benchmark import calibration as fitting  # noqa: E402
from aiterlite.emulator import Device  # noqa: E402
from aiterlite.emulator.errors import EmulatorError  # noqa: E402
from aiterlite.hardware import CHIPS  # noqa: E402
from aiterlite.jit import toolchain  # noqa: E402
from aiterlite.target import resolve  # noqa: E402

CALIBRATED = ("mi300x", "mi308x", "mi355x")
# Workgroups that run of a launch whose workgroups are alike.
_ONLY = 4
BF16 = "opus::tuple<opus::bf16_t, opus::bf16_t, opus::bf16_t, opus::fp32_t"


@dataclass(frozen=True)
class Kind:
    """How the kernels of a tag are instantiated and launched. `{traits}` and `{i.FIELD}` are filled."""

    header: str
    kernel: str
    traits: str
    # Workgroups of (tiles of m, tiles of n): x and y.
    grid: str = "flat"
    # Workgroups differ: all run. They clear a result and add to it, and none waits for another one.
    adds: bool = False
    fp8: bool = False
    arguments: str = "opus_gemm_noscale_kargs"
    # The arguments have an address of a bias, which is none.
    bias: bool = True


_A16 = "gfx942/a16w16/opus_gemm_pipeline_a16w16_"
GFX942_TRAITS = (
    "opus_gemm_a16w16_traits<{i.BLOCK_SIZE}, opus::seq<{i.B_M}, {i.B_N}, {i.B_K}>, " + BF16 + ">, "
    "opus::seq<{i.VEC_A}, {i.VEC_B}, {i.VEC_C}>, opus::seq<{i.T_M}, {i.T_N}, {t_k}>, "
    "opus::seq<{i.W_M}, {i.W_N}, {i.W_K}>{depth}>"
)
_FP8_TRAITS942 = (
    "opus_gemm_a8w8_blockscale_bpreshuffle_traits_gfx942<{i.BLOCK_SIZE}, opus::seq<{i.B_M}, {i.B_N}, {i.B_K}>, "
    "opus::tuple<opus::fp8_t, opus::fp8_t, opus::bf16_t, opus::fp32_t, opus::fp32_t>, "
    "opus::seq<{i.VEC_A}, {i.VEC_B}, {i.VEC_C}>, opus::seq<{i.GROUP_M}, {i.GROUP_N}, {i.GROUP_K}>, "
    "opus::seq<{i.T_M}, {i.T_N}, 1>, opus::seq<{i.W_M}, {i.W_N}, {i.W_K}>>"
)
_TRAITS950 = (
    "opus_gemm_a16w16_traits_gfx950<{i.BLOCK_SIZE}, opus::seq<{i.B_M}, {i.B_N}, {i.B_K}>, " + BF16 + ">, "
    "opus::seq<{i.VEC_A}, {i.VEC_B}, {i.VEC_C}>"
)
_NOSCALE = "opus_gemm_noscale_kargs"
KINDS = {
    "a16w16_wave_k_coop": Kind(
        _A16 + "wave_k_coop.cuh", "gemm_a16w16_wave_k_coop_kernel<{traits}>", GFX942_TRAITS, "n,m"
    ),
    "a16w16_wave_k_coop_accum": Kind(
        _A16 + "wave_k_coop.cuh", "gemm_a16w16_wave_k_coop_accum_kernel<{traits}>", GFX942_TRAITS, "8n,m", adds=True
    ),
    "a16w16_kbuf1_large_tile": Kind(
        _A16 + "kbuf1_large_tile.cuh", "gemm_a16w16_kbuf1_large_tile_kernel<{traits}>", GFX942_TRAITS
    ),
    "a16w16_kbuf2v": Kind(_A16 + "kbuf2v.cuh", "gemm_a16w16_kbuf2v_kernel<{traits}, " + _NOSCALE + ">", GFX942_TRAITS),
    "a16w16_kbuf2v_bk128": Kind(
        _A16 + "kbuf2v_bk128.cuh", "gemm_a16w16_kbuf2v_bk128_kernel<{traits}, " + _NOSCALE + ">", GFX942_TRAITS
    ),
    "a8w8_blockscale_bpreshuffle_singlebuf": Kind(
        "gfx942/a8w8/opus_gemm_pipeline_a8w8_blockscale_bpreshuffle.cuh",
        "gemm_a8w8_blockscale_bpreshuffle_singlebuf_kernel_gfx942<{traits}>",
        _FP8_TRAITS942,
        "n,m",
        fp8=True,
        arguments="opus_gemm_a8w8_blockscale_bpreshuffle_kargs_gfx942",
    ),
    "a16w16": Kind(
        "gfx950/opus_gemm_pipeline_a16w16{safe}_gfx950.cuh",
        "gemm_a16w16{safe}_kernel<{traits}>",
        _TRAITS950 + ", opus::seq<{i.T_M}, {i.T_N}, 1>, opus::seq<{i.W_M}, {i.W_N}, {i.W_K}>, false, opus::bf16_t, "
        "{oob}{policy}>",
        arguments="opus_gemm_noscale_kargs_gfx950",
    ),
    "a16w16_mono_tile": Kind(
        "gfx950/opus_gemm_pipeline_a16w16_mono_tile{safe}_gfx950.cuh",
        "gemm_a16w16_mono_tile{safe}_kernel_gfx950<{traits}>",
        _TRAITS950.replace("traits_gfx950", "mono_tile_traits_gfx950") + ">",
        arguments="opus_gemm_mono_tile_kargs_gfx950",
        bias=False,
    ),
}


@dataclass(frozen=True)
class PublishedRow:
    chip: str
    instance: str
    m: int
    n: int
    k: int
    us: float


def rows(configs: Path) -> Iterator[PublishedRow]:
    """The rows of compiled kernels, without bias, of bf16 results."""
    chips = {(CHIPS[name].target, CHIPS[name].compute_units): name for name in CALIBRATED}
    seen = set()
    for file in sorted(configs.rglob("*tuned_gemm*.csv")):
        for row in csv.DictReader(file.open()):
            chip = chips.get((row.get("gfx", ""), int(row.get("cu_num") or 0)))
            if chip is None or row.get("libtype") not in ("opus", "skinny") or row.get("bias", "False") != "False":
                continue
            if row.get("outdtype", "torch.bfloat16") != "torch.bfloat16":
                continue
            name = f"skinny_{row['M']}" if row["libtype"] == "skinny" else row["kernelName"]
            found = PublishedRow(chip, name, *(int(row[name]) for name in "MNK"), float(row["us"]))
            if found not in seen:
                seen.add(found)
                yield found


def instances(checkout: Path) -> dict[str, Any]:
    """Upstream's instances by name."""
    spec = importlib.util.spec_from_file_location("opus", checkout / "csrc" / "opus_gemm" / "opus_gemm_common.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["opus"] = module
    spec.loader.exec_module(module)
    return {instance.name: instance for instance in module.kernels_list.values()}


def source_of(instance: Any, kind: Kind) -> str:
    waves = instance.BLOCK_SIZE // 64
    cooperative = "wave_k_coop" in instance.kernel_tag
    safe = "_4g_safe" if instance.is_4g_safe else ""
    traits = kind.traits.format(
        i=instance,
        t_k=waves if cooperative else 1,
        depth=", 1" if cooperative else "",
        oob="true" if instance.has_oob else "false",
        policy=f", {instance.cachectl_a}, {instance.cachectl_b}" if instance.cachectl_a >= 0 else "",
    )
    header, kernel = kind.header.format(safe=safe), kind.kernel.format(traits="Traits", safe=safe)
    return (
        f'#include "opus_gemm_utils.cuh"\n#include "{header}"\n'
        f"using Traits = {traits};\ntemplate __global__ void {kernel}({kind.arguments});\n"
    )


# What the skinny kernel needs of HIP's headers, as they define it.
_SKINNY = """#include "opus/hip_minimal.hpp"
#include <cstdint>
#include <type_traits>
struct float2 { float x, y; };
struct __hip_bfloat16 { __bf16 value; };
struct __hip_bfloat162 { __hip_bfloat16 x, y; };
struct half {};
struct Place { unsigned x, y; };
#define threadIdx (Place{__builtin_amdgcn_workitem_id_x(), __builtin_amdgcn_workitem_id_y()})
#define blockIdx (Place{__builtin_amdgcn_workgroup_id_x(), __builtin_amdgcn_workgroup_id_y()})
template <typename T> struct type_to_type2 { using type = __hip_bfloat162; };
template <typename T> __device__ __forceinline__ T loadnt(T* at) { return __builtin_nontemporal_load(at); }
template <typename T> __device__ __forceinline__ T __float2s(float v) { return T{static_cast<__bf16>(v)}; }
__device__ __forceinline__ float wide(__hip_bfloat16 v) { return static_cast<float>(v.value); }
__device__ __forceinline__ float2 __hmul2_fp32(__hip_bfloat162 a, __hip_bfloat162 b) {
  return {wide(a.x) * wide(b.x), wide(a.y) * wide(b.y)};
}
__device__ __forceinline__ float2 __hfma2_fp32(__hip_bfloat162 a, __hip_bfloat162 b, float2 c) {
  return {__builtin_fmaf(wide(a.x), wide(b.x), c.x), __builtin_fmaf(wide(a.y), wide(b.y), c.y)};
}
#define DOT2C(a, b, c)
"""


def skinny_source(checkout: Path, tokens: int) -> str:
    """wv_splitk_small_fp16_bf16_kernel of upstream's custom_kernels.cu, for so many tokens."""
    text = (checkout / "csrc" / "kernels" / "custom_kernels.cu").read_text()
    begin = text.index("template <typename scalar_t, int THRDS, int YTILE")
    kernel = text[begin : text.index("#else", begin)]
    arguments = "int, int, const __hip_bfloat16*, const __hip_bfloat16* __restrict__, __hip_bfloat16*, int, int"
    name = f"wv_splitk_small_fp16_bf16_kernel<__hip_bfloat16, 64, 1, 1, 8, 4, {tokens}>"
    return f"{_SKINNY}{kernel}template __global__ void {name}({arguments});\n"


def build(name: str, source_text: str, target: str, checkout: Path, work: Path) -> Path:
    """The code object of an instance. Raises `CalledProcessError`."""
    made, source = work / f"{name}_{target}.co", work / f"{name}.hip"
    if made.exists():
        return made
    source.write_text(source_text)
    compiler = toolchain.find("amd")
    assert compiler is not None
    gcc = sorted(Path("/usr/include/c++").iterdir())[-1]
    system = (gcc, Path("/usr/include/x86_64-linux-gnu/c++") / gcc.name, Path("/usr/include"))
    headers = [item for path in (compiler.builtin, *system) for item in ("-isystem", str(path))]
    headers += ["-isystem", "/usr/include/x86_64-linux-gnu"]
    headers += [f"-I{checkout / 'csrc' / name}" for name in ("include", "opus_gemm/include")]
    options = "-mcode-object-version=5 -nogpulib -nogpuinc -nostdinc -std=c++20 -O3 -fuse-cuid=none -w -D__HIPCC_RTC__"
    target_of = ["-x", "hip", "--cuda-device-only", f"--offload-arch={target}"]
    out = work / f"{name}.o"
    command = [*compiler.cc, *target_of, *options.split(), *headers, str(source), "-S", "-Xclang", "-emit-obj"]
    subprocess.run([*command, "-o", str(out)], check=True, capture_output=True)
    subprocess.run([*compiler.lld, "-shared", "--no-undefined", str(out), "-o", str(made)], check=True)
    return made


def counted(object_file: Path, instance: Any, kind: Kind, row: PublishedRow) -> Mapping[str, Any]:
    """Counters of a row's launch; of its first workgroups where all are alike. Raises `EmulatorError`."""
    m, n, k = row.m, row.n, row.k
    tiles_m, tiles_n = math.ceil(m / instance.B_M), math.ceil(n / instance.B_N)
    grid = {"flat": (tiles_m * tiles_n, 1, 1), "n,m": (tiles_n, tiles_m, 1), "8n,m": (8 * tiles_n, tiles_m, 1)}[
        kind.grid
    ]
    element = torch.uint8 if kind.fp8 else torch.bfloat16
    held = {
        "a": torch.zeros(m, k, dtype=element),
        "b": torch.zeros(n, k, dtype=element),
        "c": torch.zeros(m, n, dtype=torch.bfloat16),
    }
    if kind.fp8:
        held |= {"scales of a": torch.ones(k // 128, m), "scales of b": torch.ones(n // 128, k // 128)}
    at = {name: tensor.data_ptr() for name, tensor in held.items()}
    if kind.fp8:
        segment = struct.pack(
            "<3Q5i4x2Qi4x", at["a"], at["b"], at["c"], m, k, k, k, n, *list(at.values())[3:], k // 128
        )
    else:
        addresses = struct.pack("<3Q8x" if kind.bias else "<3Q", at["a"], at["b"], at["c"])
        segment = addresses + struct.pack("<11i4x", m, n, k, 1, k, k, n, m * k, n * k, m * n, 0)
    module = Device(resolve(row.chip)).load(object_file)
    (kernel,) = module.kernels
    extra = [(tensor.data_ptr(), tensor.nbytes, name) for name, tensor in held.items()]
    groups = math.prod(grid)
    only = 0 if kind.adds or groups <= _ONLY else _ONLY
    info = module.kernels[kernel]
    segment = segment.ljust(info.kernarg_bytes, b"\0")
    return module.launch(kernel, grid, instance.BLOCK_SIZE, segment, extra=extra, counters=True, only=only).counters


def counted_skinny(object_file: Path, row: PublishedRow) -> Mapping[str, Any]:
    """Counters of a launch of the skinny kernel: a wave a CU, each on every so many rows of weights."""
    persona = resolve(row.chip)
    shapes = {"a": (row.m, row.k), "b": (row.n, row.k), "c": (row.m, row.n)}
    held = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}
    at = {name: tensor.data_ptr() for name, tensor in held.items()}
    segment = struct.pack("<2i3Q2i", row.k, row.n, at["b"], at["a"], at["c"], 1, persona.cu_count)
    module = Device(persona).load(object_file)
    (kernel,) = module.kernels
    segment = segment.ljust(module.kernels[kernel].kernarg_bytes, b"\0")
    extra = [(tensor.data_ptr(), tensor.nbytes, name) for name, tensor in held.items()]
    return module.launch(kernel, persona.cu_count, 64, segment, extra=extra, counters=True).counters


def point(
    row: PublishedRow, family: str, counters: Mapping[str, Any], split: int | None = None, launch: int = 1
) -> dict[str, Any]:
    """The row of a launch. None of these workgroups waits for another one, also where plain stores are beside atomics:
    they clear a result and add to it."""
    made = fitting.own_row(family, row.instance, row.us, counters, resolve(row.chip), "", launch)
    return {**made, "family": family, "M": row.m, "N": row.n, "K": row.k, "split": split or 0, "waits": 0}


def calls(checkout: Path, known: Mapping[str, Any], work: Path, lacks: Counter[str]) -> Iterator[dict[str, Any]]:
    """The rows of calls of two kernels, one after the other."""
    import compiled_calls

    for row in compiled_calls.rows(checkout / "aiter" / "configs"):
        instance = known.get(row.instance)
        if instance is None or instance.kernel_tag not in compiled_calls.TAGS:
            continue
        published = PublishedRow(compiled_calls.CHIP, row.instance, row.m, row.n, row.k, row.us)
        try:
            split, counters = compiled_calls.counters(row, instance, checkout, work)
        except (subprocess.CalledProcessError, EmulatorError) as error:
            lacks[f"{row.instance}: {str(error)[:300]}"] += 1
            continue
        for launch, held in enumerate(counters, 1):
            yield point(published, "opus_bf16", held, split, launch)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--aiter", type=Path, required=True, help="a checkout of ROCm/aiter")
    parser.add_argument("--work", type=Path, required=True, help="a folder for what is built")
    parser.add_argument("--commit", default="", help="of the checkout, for the head of the file")
    parser.add_argument("--output", type=Path, required=True, help="a CSV file of points")
    asked = parser.parse_args(arguments)
    torch.set_num_threads(1)
    asked.work.mkdir(exist_ok=True)
    import compiled_calls

    known, made, lacks = instances(asked.aiter), [], Counter()
    for row in rows(asked.aiter / "aiter" / "configs"):
        is_skinny, target = row.instance.startswith("skinny"), resolve(row.chip).target
        instance = known.get(row.instance)
        kind = KINDS.get(instance.kernel_tag) if instance is not None else None
        if kind is None and not is_skinny:
            tag = instance.kernel_tag if instance else "no instance of the name"
            if tag not in compiled_calls.TAGS or row.chip != compiled_calls.CHIP:
                lacks[f"{row.chip} {tag}: not launched here"] += 1
            continue
        try:
            text = skinny_source(asked.aiter, row.m) if is_skinny else source_of(instance, kind)
            object_file = build(row.instance, text, target, asked.aiter, asked.work)
            counters = counted_skinny(object_file, row) if is_skinny else counted(object_file, instance, kind, row)
        except subprocess.CalledProcessError as error:
            lacks[f"{row.instance} does not compile: {error.stderr.decode()[:300]}"] += 1
            continue
        except EmulatorError as error:
            lacks[f"{row.instance}: {str(error)[:300]}"] += 1
            continue
        family = "skinny" if kind is None else "opus_fp8" if kind.fp8 else "opus_bf16"
        made.append(point(row, family, counters))
        if len(made) % 20 == 0:
            print(f"{len(made)} points", flush=True)
    made += list(calls(asked.aiter, known, asked.work, lacks))
    about = (
        f"ROCm/aiter (MIT licence), commit {asked.commit or 'unknown'}, aiter/configs/**/*tuned_gemm*.csv:\n"
        "times that AMD measured of compiled kernels; counters by the emulator, of that commit's sources as a\n"
        "compiler here builds them: benchmarks/compiled_points.py."
    )
    rounded = [{name: f"{v:.7g}" if isinstance(v, float) else v for name, v in row.items()} for row in made]
    fitting.write(asked.output, rounded, about)
    print(f"{len(made)} points; without one:")
    for why, count in sorted(lacks.items()):
        print(f"  {count} {why}")


if __name__ == "__main__":
    main()
