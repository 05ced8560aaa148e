"""Single instructions on chosen register contents: assembled into one kernel a batch, run on the emulator, read back.

A `Case` names what is in the registers before its instruction and which registers are looked at after it. Vector
registers hold 64 values, scalar ones a number. `run` executes many cases in one launch.
"""

from __future__ import annotations

import functools
import importlib.util
import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from aiterlite.emulator import Device, Module

Lanes = npt.NDArray[np.uint32]

FULL = (1 << 64) - 1
TARGETS = ("gfx942", "gfx950")
PERSONA = {"gfx942": "mi300x", "gfx950": "mi355x"}
# Registers that the harness needs for itself.
_LANE = "v255"
_MOVE = "v254"
_ARGUMENTS, _IN, _OUT, _KEEP = "s[90:91]", 92, 94, 96


@functools.cache
def clang() -> tuple[list[str], list[str]] | None:
    """Assembler and linker commands, or None where there is neither ROCm's nor ziglang's."""
    spec = importlib.util.find_spec("ziglang")
    if spec is not None and spec.submodule_search_locations:
        zig = str(Path(spec.submodule_search_locations[0]) / "zig")
        return [zig, "clang"], [zig, "ld.lld"]
    rocm = Path("/opt/rocm/llvm/bin")
    if (rocm / "clang").exists():
        return [str(rocm / "clang")], [str(rocm / "ld.lld")]
    found = shutil.which("clang"), shutil.which("ld.lld")
    return ([found[0]], [found[1]]) if found[0] and found[1] else None


@functools.lru_cache(maxsize=64)
def assemble(target: str, text: str) -> bytes:
    """A code object from assembler text. Raises `AssertionError` with the assembler's messages."""
    tools = clang()
    assert tools is not None, "no AMDGPU clang"
    with tempfile.TemporaryDirectory() as folder:
        source, unit, linked = (str(Path(folder) / name) for name in ("a.s", "a.o", "a.co"))
        Path(source).write_text(text)
        command = [
            *tools[0],
            "-x",
            "assembler",
            "-target",
            "amdgcn-amd-amdhsa",
            f"-mcpu={target}",
            "-c",
            source,
            "-o",
            unit,
        ]
        run = subprocess.run(command, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr[:4000]
        subprocess.run([*tools[1], "-shared", "--no-undefined", unit, "-o", linked], check=True)
        return Path(linked).read_bytes()


@dataclass
class Case:
    """One instruction (or a few lines) and its surroundings.

    `vector` and `scalar` set registers before (`"v8"`, `"a3"`, `20`, `"vcc_lo"`, `"m0"`, `"scc"`); `read` lists the
    registers to look at: `"v32"`, `"a0"`, `"s40"`, `"vcc"`, `"exec"`, `"scc"`, `"m0"`. `lds` is LDS before.
    """

    text: str
    vector: Mapping[str, Any] = field(default_factory=dict)
    scalar: Mapping[str | int, int] = field(default_factory=dict)
    read: Sequence[str] = ("v32",)
    exec: int = FULL
    mode: int | None = None  # MODE[7:0]: rounding and denormals; None leaves the kernel's
    note: str = ""


@dataclass
class Kernel:
    """Properties of the kernel that surrounds the cases."""

    ieee: bool = True
    dx10_clamp: bool = True
    lds: int = 0
    scratch: int = 0


def kernel_text(
    target: str, name: str, body: str, kernel: Kernel, pointers: Sequence[str] = ("inputs", "outputs")
) -> str:
    """The assembler text of a kernel with all registers, x workgroup id in s2, arguments (all pointers) at s[0:1]."""
    kernarg = 8 * len(pointers)
    arguments = "".join(
        f"""      - .name: {pointer}
        .offset: {8 * i}
        .size: 8
        .value_kind: global_buffer
        .address_space: global
"""
        for i, pointer in enumerate(pointers)
    )
    return f"""
.amdgcn_target "amdgcn-amd-amdhsa--{target}"
.text
.globl {name}
.p2align 8
.type {name},@function
{name}:
{body}
.Lend_{name}:
.size {name}, .Lend_{name}-{name}
.rodata
.p2align 6
.amdhsa_kernel {name}
  .amdhsa_user_sgpr_kernarg_segment_ptr 1
  .amdhsa_kernarg_size {kernarg}
  .amdhsa_group_segment_fixed_size {kernel.lds}
  .amdhsa_private_segment_fixed_size {kernel.scratch}
  .amdhsa_enable_private_segment {int(kernel.scratch > 0)}
  .amdhsa_next_free_vgpr 512
  .amdhsa_next_free_sgpr 100
  .amdhsa_accum_offset 256
  .amdhsa_float_denorm_mode_32 3
  .amdhsa_ieee_mode {int(kernel.ieee)}
  .amdhsa_dx10_clamp {int(kernel.dx10_clamp)}
.end_amdhsa_kernel
.amdgpu_metadata
---
amdhsa.version: [1, 2]
amdhsa.target: amdgcn-amd-amdhsa--{target}
amdhsa.kernels:
  - .name: {name}
    .symbol: {name}.kd
    .kernarg_segment_size: {kernarg}
    .kernarg_segment_align: 8
    .group_segment_fixed_size: {kernel.lds}
    .private_segment_fixed_size: {kernel.scratch}
    .wavefront_size: 64
    .max_flat_workgroup_size: 1024
    .sgpr_count: 100
    .vgpr_count: 256
    .agpr_count: 256
    .args:
{arguments}...
.end_amdgpu_metadata
"""


class _Writer:
    """The body of a kernel that runs cases one after the other."""

    def __init__(self) -> None:
        self.lines = [
            "s_mov_b64 s[90:91], s[0:1]",
            f"s_load_dwordx4 s[{_IN}:{_OUT + 1}], s[90:91], 0",
            f"v_and_b32_e32 {_LANE}, 0x3ff, v0",
            f"v_lshlrev_b32_e32 {_LANE}, 2, {_LANE}",
            "s_waitcnt lgkmcnt(0)",
        ]
        self.inputs: list[Lanes] = []
        self.outputs = 0

    def _advance(self, base: int, bytes_: int) -> None:
        self.lines += [f"s_add_u32 s{base}, s{base}, {bytes_}", f"s_addc_u32 s{base + 1}, s{base + 1}, 0"]

    def _load(self, register: str, values: Lanes) -> None:
        self.inputs.append(values)
        self.lines.append(f"global_load_dword {register}, {_LANE}, s[{_IN}:{_IN + 1}]")
        self._advance(_IN, 256)

    def _store(self, register: str) -> None:
        self.lines.append(f"global_store_dword {_LANE}, {register}, s[{_OUT}:{_OUT + 1}]")
        self._advance(_OUT, 256)
        self.outputs += 1

    def add(self, case: Case) -> None:
        for register, values in case.vector.items():
            lanes = np.asarray(values)
            lanes = np.ascontiguousarray(
                np.broadcast_to(lanes.astype(np.uint32) if lanes.dtype != np.float32 else lanes, 64)
            )
            self._load(register, lanes.view(np.uint32))
        self.lines.append("s_waitcnt vmcnt(0)")
        scc = 0
        for name, value in case.scalar.items():
            if name == "scc":
                scc = value
                continue
            self.lines.append(f"s_mov_b32 {f's{name}' if isinstance(name, int) else name}, {value & 0xFFFFFFFF:#x}")
        if case.mode is not None:
            self.lines += [
                "s_getreg_b32 s98, hwreg(HW_REG_MODE, 0, 8)",
                f"s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 8), {case.mode:#x}",
            ]
        self.lines += [
            f"s_mov_b32 exec_lo, {case.exec & 0xFFFFFFFF:#x}",
            f"s_mov_b32 exec_hi, {case.exec >> 32:#x}",
            f"s_cmp_eq_u32 {scc}, 1",
            case.text,
            "s_cselect_b32 s99, 1, 0",
            f"s_mov_b64 s[{_KEEP}:{_KEEP + 1}], exec",
            "s_mov_b64 exec, -1",
        ]
        if case.mode is not None:
            self.lines.append("s_setreg_b32 hwreg(HW_REG_MODE, 0, 8), s98")
        for name in case.read:
            if name[0] in "va" and name != "vcc":
                self._store(name)
                continue
            named = {"scc": ["s99"], "vcc": ["vcc_lo", "vcc_hi"], "exec": [f"s{_KEEP}", f"s{_KEEP + 1}"]}
            for register in named.get(name, [name]):
                self.lines.append(f"v_mov_b32_e32 {_MOVE}, {register}")
                self._store(_MOVE)

    def text(self) -> str:
        return "\n".join([*self.lines, "s_endpgm"])


@functools.cache
def device(target: str) -> Device:
    return Device(PERSONA[target])


def run(target: str, cases: Sequence[Case], kernel: Kernel | None = None) -> list[dict[str, Any]]:
    """For each case, what its `read` registers hold: 64 values of a vector register, a number of a scalar one."""
    results: list[dict[str, Any]] = []
    for start in range(0, len(cases), 400):
        results += _run_batch(target, cases[start : start + 400], kernel or Kernel())
    return results


def _run_batch(target: str, cases: Sequence[Case], kernel: Kernel) -> list[dict[str, Any]]:
    writer = _Writer()
    for case in cases:
        writer.add(case)
    module: Module = device(target).load(assemble(target, kernel_text(target, "cases", writer.text(), kernel)))
    inputs = np.concatenate(writer.inputs) if writer.inputs else np.zeros(64, np.uint32)
    outputs = np.full(max(writer.outputs, 1) * 64, 0xDEADBEEF, np.uint32)
    module.launch("cases", 1, 64, {"inputs": inputs, "outputs": outputs})
    rows = iter(outputs.reshape(-1, 64))
    results = []
    for case in cases:
        values: dict[str, Any] = {}
        for name in case.read:
            if name[0] in "va" and name != "vcc":
                values[name] = next(rows).copy()
            elif name in ("vcc", "exec"):
                values[name] = int(next(rows)[0]) | int(next(rows)[0]) << 32
            else:
                values[name] = int(next(rows)[0])
        results.append(values)
    return results


def f32(values: Any) -> Lanes:
    return np.asarray(values, np.float32).view(np.uint32)


def as_f32(values: Lanes) -> npt.NDArray[np.float32]:
    return values.view(np.float32)


def split64(values: Any, dtype: Any = np.uint64) -> tuple[Lanes, Lanes]:
    """Low and high dwords of 64-bit values."""
    bits = np.asarray(values, dtype).view(np.uint64)
    return (bits & 0xFFFFFFFF).astype(np.uint32), (bits >> np.uint64(32)).astype(np.uint32)


def join64(low: Lanes, high: Lanes) -> npt.NDArray[np.uint64]:
    joined: npt.NDArray[np.uint64] = low.astype(np.uint64) | high.astype(np.uint64) << np.uint64(32)
    return joined
