"""Targets (what code is compiled for) and personas (what dispatch may key on).

A *target id* names an instruction set: `gfx942`, `gfx950`, `sm_90a`, `cpu-x86-64-v4`. A *persona* is a target as one
chip shows it: CU count, LDS bytes, fp8 flavour. `hardware.py` holds what is known of targets and chips; here they get
their names, and devices their personas.
"""

from __future__ import annotations

import difflib
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

    def with_compute_units(self, cu_count: int) -> Persona:
        """The same chip, partitioned or cut down to this many compute units."""
        chip = CHIPS.get(self.chip)
        return replace(self, cu_count=cu_count, xcds=chip.dies_of(cu_count) if chip is not None else 0)


def _of_chip(chip: Chip) -> Persona:
    return replace(
        _of_architecture(chip.target),
        chip=chip.name,
        cu_count=chip.compute_units,
        clock_mhz=chip.clock_mhz,
        memory_gb_per_s=chip.memory_gb_per_s,
        xcds=chip.xcds,
    )


def _of_architecture(target: str) -> Persona:
    """A chip of a target, of which nothing else is known."""
    arch = hardware.architecture(target)
    return Persona(
        chip=target,
        target=target,
        family=arch.family,
        cu_count=0,
        lds_bytes=arch.lds_bytes,
        wave_size=arch.wave_size,
        fp8=arch.fp8,
        vskip_safe=arch.vskip_safe,
    )


# Names ----------------------------------------------------------------------------------------------------------------

_CPUS = (*(f"cpu-{level}" for level in X86_LEVELS), "cpu-aarch64")
_VAGUE = ("native", "auto", "gpu", "cuda", "hip", "rocm", "amd", "nvidia")
# sramecc and xnack, which a driver adds to an arch; the code here runs with any of them.
_FEATURE = re.compile(r"[a-z][a-z0-9-]*[+-]")
_CAPABILITY = re.compile(r"(?:sm_?|cuda:|compute_)(\d{2,3}a?)")


def names() -> tuple[str, ...]:
    """Every name that `resolve` takes, besides other spellings, CU counts and targets that no kernel serves."""
    chips = (chip.name for chip in CHIPS.values() if chip.compute_units)
    return (*USUAL_CHIP, "sm_90", *chips, "cpu", *_CPUS)


def split(text: str) -> list[str]:
    """The names of a list that is separated by commas, semicolons or white space."""
    return [name for name in re.split(r"[,;\s]+", text) if name]


def canonical(name: str) -> str:
    """The one spelling of a name: `MI308` is mi308x, `sm90` and `cuda:90` are sm_90a, features of an arch are dropped,
    and a CU count stays behind its colon. Raises `TargetError` on an unknown name."""
    base, count = _parse(name)
    return base if count is None else f"{base}:{count}"


def resolve(name: str) -> Persona:
    """The persona of a target id or chip name, in any spelling that `canonical` takes; of a part of a chip where a CU
    count is given (`mi300x:38`). Raises `TargetError` on an unknown name, with the nearest."""
    base, count = _parse(name)
    if base == "cpu":
        return host_persona()
    if base in CHIPS:
        persona = _of_chip(CHIPS[base])
        if count is None and not persona.cu_count:
            raise TargetError(f"the CU count of {base} is not known here: name it with its own, such as {base}:128")
        return persona if count is None else persona.with_compute_units(count)
    if base in USUAL_CHIP:
        usual = _of_chip(USUAL_CHIP[base])
        return usual if count is None else _of_count(base, count).with_compute_units(count)
    return _of_architecture(base).with_compute_units(count or 0)


def resolve_list(text: str) -> tuple[Persona, ...]:
    """Personas of a list, without repetition, in a canonical order."""
    personas = {resolve(name) for name in split(text)}
    if not personas:
        raise TargetError(f"no target in {text!r}; known: {', '.join(names())}")
    return tuple(sorted(personas, key=lambda persona: (persona.target, persona.chip, -persona.cu_count)))


def _of_count(target: str, cu_count: int) -> Persona:
    """The chip of a target that has this many compute units, else the usual one."""
    same = (chip for chip in CHIPS.values() if chip.target == target and chip.compute_units == cu_count)
    return _of_chip(next(same, USUAL_CHIP[target]))


def _parse(name: str) -> tuple[str, int | None]:
    """A target id or chip in its one spelling, and the CU count that is given. Raises `TargetError`."""
    text = name.strip().lower().removeprefix("amdgcn-amd-amdhsa--")
    capability = _CAPABILITY.match(text)
    if capability is not None:
        text = f"sm_{capability[1]}{text[capability.end() :]}"
    base, *rest = text.split(":")
    base = _full(name, base)
    if rest and base.startswith("cpu"):
        raise TargetError(f"{name!r}: {base} has no CUs; give it without a count")
    counts = [part for part in rest if not (base.startswith("gfx") and _FEATURE.fullmatch(part))]
    if not counts:
        return base, None
    if len(counts) > 1 or not re.fullmatch(r"[0-9]{1,6}", counts[0]):
        raise TargetError(f"{name!r} is no target and CU count; allowed: {base}, or {base}:38 for a chip of 38 CUs")
    count, most = int(counts[0]), CHIPS[base].compute_units if base in CHIPS else 0
    if count < 1 or (most and count > most):
        allowed = f"1 to {most} CUs" if most else "at least 1 CU"
        raise TargetError(f"{base} has {allowed}, not {count}")
    return base, count


def _full(name: str, base: str) -> str:
    """The target id or chip that the part of a name before its first colon means. Raises `TargetError`."""
    if f"{base}a" in USUAL_CHIP:
        return f"{base}a"
    if base == "cpu" or base in (*USUAL_CHIP, *CHIPS, *_CPUS, *hardware.OTHER_TARGETS):
        return base
    if base in _VAGUE:
        raise TargetError(
            f"{name!r} names no one target: of CPUs `cpu` is this machine's; tensors on a GPU are dispatched for it "
            f"with no target named; known: {', '.join(names())}"
        )
    meant = [chip for chip in CHIPS if re.fullmatch(r"mi\d{3}", base) and chip.startswith(base)]
    if len(meant) == 1:
        return meant[0]
    if meant:
        raise TargetError(f"{name!r} is more than one chip: {', '.join(meant)}; known: {', '.join(names())}")
    near = difflib.get_close_matches(base, (*names(), *CHIPS, *hardware.OTHER_TARGETS), n=1)
    nearest = f", nearest: {near[0]}" if near else ""
    raise TargetError(
        f"unknown target {name!r}{nearest}; kernels are here for {', '.join(USUAL_CHIP)} and CPUs, and for nothing "
        f"else. A chip that is not known goes by its target and CU count, such as gfx942:80; known: "
        f"{', '.join(names())}"
    )


# CPUs -----------------------------------------------------------------------------------------------------------------


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


# GPUs -----------------------------------------------------------------------------------------------------------------


def identify_amd_chip(arch: str, pci_device: int | None, name: str, cu_count: int) -> Persona:
    """The persona of an AMD device: by PCI id, else by name, and by CU count only when neither says anything. A
    partitioned MI300X shows 152, 76 or 38 CUs, so the count alone would take it for another chip.

    A device of an arch that no kernel here serves has a persona too: tables refuse it by its target, and an operator
    that promises torch can take torch. Raises `TargetError` where the driver names no arch.
    """
    target = arch.split(":")[0]
    if not re.fullmatch(r"gfx[0-9a-f]{3,}", target):
        raise TargetError(f"an AMD device {name!r} names its arch as {arch!r}; allowed: gfx and digits, such as gfx942")
    if target not in USUAL_CHIP:
        return _of_architecture(target).with_compute_units(cu_count)
    chip = PCI_CHIPS.get(pci_device or 0)
    if chip is None:
        match = re.search(r"mi\d{3}[xap]", name.lower())
        chip = CHIPS.get(match.group(0)) if match else None
    known = _of_chip(chip) if chip is not None and chip.target == target else _of_count(target, cu_count)
    return known.with_compute_units(cu_count)


def identify_cuda_chip(capability: tuple[int, int], name: str, cu_count: int, lds_bytes: int) -> Persona:
    """The persona of an NVIDIA device, without published rates: one name is sold with several memories."""
    target = f"sm_{capability[0]}{capability[1]}"
    target = f"{target}a" if f"{target}a" in USUAL_CHIP else target
    chips = (chip.name for chip in CHIPS.values() if chip.target == target)
    chip = next((chip for chip in chips if re.search(rf"\b{chip}\b", name.lower())), target)
    return replace(_of_architecture(target), chip=chip, cu_count=cu_count, lds_bytes=lds_bytes)


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
    Tensors without memory (meta) are of whatever target is named: with them calls are planned, and none is made.
    """
    wanted = requested()
    if device_type == "meta":
        return wanted or host_persona()
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
    return actual if canonical(envs.TARGET.get()) == wanted.target else wanted


def _runs_on(target: str, host: str) -> bool:
    if target == host:
        return True
    levels = [f"cpu-{level}" for level in X86_LEVELS]
    return target in levels and host in levels and levels.index(target) <= levels.index(host)
