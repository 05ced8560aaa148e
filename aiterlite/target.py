"""Targets (what code is compiled for) and personas (what dispatch may key on).

A *target id* names an instruction set: `gfx942`, `gfx950`, `sm_90a`, `cpu-x86-64-v4`. A *persona* is a target as one
chip shows it: CU count, LDS bytes, fp8 flavour. One table holds the chips; nothing else in the package knows them.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import dataclass, replace
from typing import Any

from aiterlite import envs, hardware
from aiterlite.errors import TargetError
from aiterlite.hardware import CHIPS, PCI_CHIPS, USUAL_CHIP, Chip

X86_LEVELS = ("x86-64", "x86-64-v2", "x86-64-v3", "x86-64-v4")
# What each level adds over the one before (x86-64 psABI), in the kernel's spelling of cpuid flags.
_X86_FLAGS = {
    "x86-64-v2": {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    "x86-64-v3": {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    "x86-64-v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
}


@dataclass(frozen=True)
class Persona:
    """A target as one chip shows it.

    `cu_count` is compute units (AMD), multiprocessors (NVIDIA) or 0 (CPU); `lds_bytes` the shared memory that one
    workgroup may use; `fp8` the e4m3 flavour; `vskip_safe` whether kernels that use s_setvskip may be chosen unasked;
    `xcds` the dies that workgroups are dealt to in turn (0: one, or not published).
    `clock_mhz` and `memory_gb_per_s` (10^9 bytes) are the vendor's published peaks, 0 where none is given: floors are
    computed from them, never times.
    """

    chip: str
    target: str
    family: str
    cu_count: int
    lds_bytes: int
    wave_size: int
    fp8: str = "e4m3fn"
    vskip_safe: bool = False
    clock_mhz: int = 0
    memory_gb_per_s: int = 0
    xcds: int = 0

    def __str__(self) -> str:
        units = f", {self.cu_count} CUs" if self.cu_count else ""
        return self.target if self.chip == self.target else f"{self.chip} ({self.target}{units})"


def _persona(chip: Chip) -> Persona:
    arch = hardware.architecture(chip.target)
    return Persona(
        chip=chip.name,
        target=chip.target,
        family=arch.family,
        cu_count=chip.compute_units,
        lds_bytes=arch.lds_bytes,
        wave_size=arch.wave_size,
        fp8=arch.fp8,
        vskip_safe=arch.vskip_safe,
        clock_mhz=chip.clock_mhz,
        memory_gb_per_s=chip.memory_gb_per_s,
        xcds=chip.xcds,
    )


_CHIPS = {chip.name: _persona(chip) for chip in CHIPS.values()}
_DEFAULT_CHIP = {target: _CHIPS[chip.name] for target, chip in USUAL_CHIP.items()}
_ALIASES = {"sm_90": "sm_90a"}


def names() -> tuple[str, ...]:
    """Every name that `resolve` takes, besides `cpu-<level>` of other machines."""
    return (*_DEFAULT_CHIP, *_ALIASES, *_CHIPS, "cpu", *(f"cpu-{level}" for level in X86_LEVELS), "cpu-aarch64")


def resolve(name: str) -> Persona:
    """The persona of a target id, alias or chip name. Raises `TargetError` on a name that none of them is."""
    key = name.strip().lower()
    if key == "cpu":
        return host_persona()
    if key.startswith("cpu-") and (key[4:] in X86_LEVELS or key == "cpu-aarch64"):
        return Persona(key, key, "cpu", 0, 0, 1)
    key = _ALIASES.get(key, key)
    persona = _CHIPS.get(key) or _DEFAULT_CHIP.get(key)
    if persona is None:
        raise TargetError(f"unknown target {name!r}; known: {', '.join(names())}")
    return persona


def resolve_list(text: str) -> tuple[Persona, ...]:
    """Personas of a comma-separated list, without repetition, in a canonical order."""
    personas = {resolve(part) for part in text.split(",") if part.strip()}
    if not personas:
        raise TargetError(f"no target in {text!r}; known: {', '.join(names())}")
    return tuple(sorted(personas, key=lambda persona: (persona.target, persona.chip)))


def x86_level(flags: frozenset[str]) -> str:
    """The highest x86-64 psABI level that a set of cpuid flags reaches."""
    level = X86_LEVELS[0]
    for candidate in X86_LEVELS[1:]:
        if not _X86_FLAGS[candidate] <= flags:
            break
        level = candidate
    return level


@functools.cache
def host_persona() -> Persona:
    """The CPU of this process."""
    machine = platform.machine().lower()
    if machine in ("x86_64", "amd64"):
        target = f"cpu-{x86_level(_cpu_flags())}"
    else:
        target = f"cpu-{'aarch64' if machine == 'arm64' else machine}"
    return Persona(target, target, "cpu", 0, 0, 1)


def launch_target() -> str:
    """The target of host units that only launch GPU kernels: this machine's baseline, so that a prebuilt cache serves
    any CPU of its kind."""
    machine = platform.machine().lower()
    return "cpu-x86-64" if machine in ("x86_64", "amd64") else host_persona().target


def _cpu_flags() -> frozenset[str]:
    try:
        # The kernel renders this file as it is read: the first block holds the first processor's flags.
        with open("/proc/cpuinfo", "rb", buffering=0) as file:
            text = file.read(8192).decode("ascii", "replace")
    except OSError:
        return frozenset()
    match = re.search(r"^flags\s*:(.*)$", text, re.MULTILINE)
    return frozenset(match.group(1).split()) if match else frozenset()


def identify_amd_chip(arch: str, pci_device: int | None, name: str, cu_count: int) -> Persona:
    """The persona of an AMD device: by PCI id, else by name, and by CU count only when neither says anything."""
    target = arch.split(":")[0]
    if target not in _DEFAULT_CHIP or _DEFAULT_CHIP[target].family != "amd":
        raise TargetError(f"AMD device of arch {arch!r} is not supported; supported: gfx942, gfx950")
    row = PCI_CHIPS.get(pci_device or 0)
    chip = row.name if row is not None else None
    if chip is None:
        match = re.search(r"mi\d{3}[xap]", name.lower())
        chip = match.group(0) if match else None
    known = _CHIPS.get(chip or "")
    if known is None or known.target != target:
        same = [p for p in _CHIPS.values() if p.target == target]
        known = next((p for p in same if p.cu_count == cu_count), _DEFAULT_CHIP[target])
    return replace(known, cu_count=cu_count)


def identify_cuda_chip(capability: tuple[int, int], name: str, cu_count: int, lds_bytes: int) -> Persona:
    """The persona of an NVIDIA device."""
    target = f"sm_{capability[0]}{capability[1]}"
    target = _ALIASES.get(target, target)
    chip = next((chip for chip in _CHIPS if re.search(rf"\b{chip}\b", name.lower())), target)
    return Persona(chip, target, "cuda", cu_count, lds_bytes, 32)


@functools.cache
def device_persona(index: int) -> Persona:
    """The persona of GPU `index` of this process. Initialises torch's GPU context."""
    import torch

    properties: Any = torch.cuda.get_device_properties(index)
    if torch.version.hip:
        return identify_amd_chip(
            properties.gcnArchName, _pci_device(properties), properties.name, properties.multi_processor_count
        )
    return identify_cuda_chip(
        (properties.major, properties.minor),
        properties.name,
        properties.multi_processor_count,
        properties.shared_memory_per_block_optin,
    )


def _pci_device(properties: Any) -> int | None:
    address = f"{properties.pci_domain_id:04x}:{properties.pci_bus_id:02x}:{properties.pci_device_id:02x}.0"
    try:
        with open(os.path.join("/sys/bus/pci/devices", address, "device")) as file:
            return int(file.read(), 16)
    except (OSError, ValueError):
        return None


def requested() -> Persona | None:
    """The persona that AITERLITE_TARGET names, or None."""
    name = envs.TARGET.get()
    return resolve(name) if name else None


def persona_for(device_type: str, index: int | None) -> Persona:
    """The persona that tensors on a device are dispatched for.

    CPU tensors follow AITERLITE_TARGET (an AMD target selects the AMD kernels for them). GPU tensors are dispatched
    for their GPU; AITERLITE_TARGET may then only name another chip of the same target, to plan as that chip would.
    """
    wanted = requested()
    if device_type == "cpu":
        host = host_persona()
        if wanted is None or wanted.family == "cuda":
            return host
        if wanted.family == "cpu" and not _runs_on(wanted.target, host.target):
            raise TargetError(f"AITERLITE_TARGET={envs.TARGET.get()} needs {wanted.target}, this CPU is {host.target}")
        return wanted
    actual = device_persona(index or 0)
    if wanted is None or wanted.family == "cpu":
        return actual
    if wanted.target != actual.target:
        raise TargetError(f"AITERLITE_TARGET={envs.TARGET.get()} is {wanted.target}, but the tensors are on {actual}")
    named = envs.TARGET.get().strip().lower()
    return actual if _ALIASES.get(named, named) == wanted.target else wanted


def _runs_on(target: str, host: str) -> bool:
    if target == host:
        return True
    levels = [f"cpu-{level}" for level in X86_LEVELS]
    return target in levels and host in levels and levels.index(target) <= levels.index(host)
