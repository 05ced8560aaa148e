"""Facts of the hardware: one row an architecture, one row a chip. Pure; nothing else in the package knows them.

A number is here because a public document gives it, and the row says which. Where none does, it is 0 (None for yes or
no): nothing is guessed. A number that was fitted to measurements is no fact: it weighs an estimate, and stays with the
kernel whose plan makes that. `target.py` makes personas of these rows and finds out which one a device is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

KIB, MIB = 1 << 10, 1 << 20
# The largest cluster that every chip with clusters holds; the driver must be told of larger ones before a first launch.
PORTABLE_CLUSTER = 8


@dataclass(frozen=True)
class Architecture:
    """What all chips of a target have in common. A compute unit is a CU (AMD) or a multiprocessor (NVIDIA).

    A compute unit has `simds`, each with a matrix unit. `lane_registers` are the 32-bit vector registers that a SIMD
    has for each lane, arch and accumulation together, given to a wave in steps of `register_granule`;
    `scalar_registers` are a SIMD's scalar ones, in steps of `scalar_granule`. A SIMD holds `waves_per_simd` waves, a
    compute unit `barriers` workgroups of several waves.

    `lds_bytes` is the shared memory that one workgroup may use, `lds_unit_bytes` that of a compute unit, which gives it
    out in steps of `lds_granule` and keeps `lds_overhead` for each workgroup. `l1_bytes` is the first cache of a
    compute unit, on NVIDIA together with its shared memory.

    A cluster of `portable_cluster` workgroups fits every chip; the driver must be asked for larger ones, up to
    `largest_cluster`. Both are 1 where there are no clusters. `fp8` is the e4m3 flavour of the target's software
    (empty: not known), `matrix_fp8` that of its matrix unit (empty: it has none; None: not known), `mx` whether it
    multiplies block-scaled fp4, fp6 and fp8. `vskip_safe` says whether kernels that use s_setvskip may be chosen
    unasked.
    """

    target: str
    family: str
    wave_size: int
    simds: int = 0
    lane_registers: int = 0
    register_granule: int = 0
    scalar_registers: int = 0
    scalar_granule: int = 0
    waves_per_simd: int = 0
    barriers: int = 0
    largest_workgroup: int = 0
    lds_bytes: int = 0
    lds_unit_bytes: int = 0
    lds_granule: int = 0
    lds_overhead: int = 0
    l1_bytes: int = 0
    portable_cluster: int = 1
    largest_cluster: int = 1
    fp8: str = "e4m3fn"
    matrix_fp8: str | None = None
    mx: bool | None = None
    vskip_safe: bool = False
    source: str = ""

    @property
    def unit_registers(self) -> int:
        """32-bit vector registers of a compute unit, of all lanes."""
        return self.simds * self.lane_registers * self.wave_size

    @property
    def unit_threads(self) -> int:
        """Threads that a compute unit holds."""
        return self.simds * self.waves_per_simd * self.wave_size


@dataclass(frozen=True)
class Chip:
    """One product. `xcds`: the dies that workgroups are dealt to in turn, with equal shares of `compute_units`; 0 where
    that is not published, or there is but one.

    `clock_mhz` and `memory_gb_per_s` (10^9 bytes) are the vendor's published peaks: floors are computed from them,
    never times. `l2_bytes` is one L2 cache, on AMD that of a die; `mall_bytes` the last level behind it. `pci` are the
    device ids of the accelerator and of its virtual functions (the public pci.ids database).
    """

    name: str
    target: str
    compute_units: int = 0
    xcds: int = 0
    clock_mhz: int = 0
    memory_gb_per_s: int = 0
    l2_bytes: int = 0
    mall_bytes: int = 0
    pci: tuple[int, ...] = ()
    source: str = ""

    def dies_of(self, compute_units: int) -> int:
        """The dies of a part of this chip. A partition has whole dies; nobody knows those of any other part."""
        each = self.compute_units // self.xcds if self.xcds else 0
        whole = each and compute_units <= self.compute_units and compute_units % each == 0
        return compute_units // each if whole else 0


# Registers, waves and LDS: LLVM's AMDGPU user guide, the CDNA3 and CDNA4 instruction set reference guides. Sizes of
# register files, LDS and caches, and CUs of a die, once more: the table of GPU specifications in ROCm's documentation.
_CDNA3 = Architecture(
    target="gfx942",
    family="amd",
    wave_size=64,
    simds=4,
    lane_registers=512,
    register_granule=8,
    scalar_registers=800,
    scalar_granule=16,
    waves_per_simd=8,
    barriers=16,
    largest_workgroup=1024,
    lds_bytes=64 * KIB,
    lds_unit_bytes=64 * KIB,
    lds_granule=512,
    l1_bytes=32 * KIB,
    fp8="e4m3fnuz",
    matrix_fp8="e4m3fnuz",
    mx=False,
    # A default flip of vskip on MI300X ended in memory-aperture violations (ROCm/aiter #1143) and no cause was ever
    # published, so nothing that shares its code objects takes those kernels unasked.
    vskip_safe=False,
    source="CDNA3 ISA reference guide; CDNA 3 white paper; LLVM AMDGPU user guide",
)
_CDNA4 = replace(
    _CDNA3,
    target="gfx950",
    lds_bytes=160 * KIB,
    lds_unit_bytes=160 * KIB,
    lds_granule=1280,
    fp8="e4m3fn",
    matrix_fp8="e4m3fn",
    mx=True,
    vskip_safe=True,
    source="CDNA4 ISA reference guide; CDNA 4 white paper; LLVM AMDGPU user guide",
)
# The table of compute capabilities in the CUDA C++ programming guide; the occupancy calculator's granules. NVIDIA gives
# registers to threads and names its barriers, so it has no scalar registers and no limit of that kind.
_AMPERE = Architecture(
    target="sm_80",
    family="cuda",
    wave_size=32,
    simds=4,
    lane_registers=512,
    register_granule=8,
    waves_per_simd=16,
    largest_workgroup=1024,
    lds_bytes=163 * KIB,
    lds_unit_bytes=164 * KIB,
    lds_granule=128,
    lds_overhead=1 * KIB,
    l1_bytes=192 * KIB,
    matrix_fp8="",
    mx=False,
    source="CUDA C++ programming guide, compute capability 8.0",
)
_ADA = replace(
    _AMPERE,
    target="sm_89",
    waves_per_simd=12,
    lds_bytes=99 * KIB,
    lds_unit_bytes=100 * KIB,
    l1_bytes=128 * KIB,
    matrix_fp8="e4m3fn",
    source="CUDA C++ programming guide, compute capability 8.9",
)
_HOPPER = replace(
    _AMPERE,
    target="sm_90a",
    lds_bytes=227 * KIB,
    lds_unit_bytes=228 * KIB,
    l1_bytes=256 * KIB,
    portable_cluster=PORTABLE_CLUSTER,
    largest_cluster=16,
    matrix_fp8="e4m3fn",
    source="CUDA C++ programming guide, compute capability 9.0",
)

ARCHITECTURES = {row.target: row for row in (_CDNA3, _CDNA4, _HOPPER, _AMPERE, _ADA)}

# AMD processors (LLVM's AMDGPU user guide) and NVIDIA compute capabilities that exist, and for which no kernel is here.
OTHER_TARGETS = (
    *("gfx900", "gfx906", "gfx908", "gfx90a", "gfx940", "gfx941"),
    *("gfx1010", "gfx1011", "gfx1012", "gfx1030", "gfx1031", "gfx1032", "gfx1034", "gfx1035", "gfx1036"),
    *("gfx1100", "gfx1101", "gfx1102", "gfx1103", "gfx1150", "gfx1151", "gfx1152", "gfx1153"),
    *("gfx1200", "gfx1201", "gfx1250", "gfx1251"),
    *("sm_70", "sm_75", "sm_86", "sm_87", "sm_100", "sm_103", "sm_110", "sm_120", "sm_121"),
)


def _instinct(name: str, target: str, units: int, xcds: int, clock: int, memory: int, *pci: int) -> Chip:
    """4 MiB of L2 a die and 256 MiB of Infinity Cache, of both generations."""
    paper = "CDNA 3" if target == "gfx942" else "CDNA 4"
    source = f"{paper} white paper; {name.upper()} data sheet"
    return Chip(name, target, units, xcds, clock, memory, 4 * MIB, 256 * MIB, pci, source)


CHIPS = {
    chip.name: chip
    for chip in (
        _instinct("mi300x", "gfx942", 304, 8, 2100, 5300, 0x74A1, 0x74A9, 0x74B5, 0x74BD),
        Chip(
            "mi308x",
            "gfx942",
            compute_units=80,
            memory_gb_per_s=5300,
            pci=(0x74A2, 0x74A8, 0x74B6, 0x74BC),
            source="no data sheet was at hand: the CUs that AMD's libraries are tuned for, the memory of an MI300X",
        ),
        _instinct("mi325x", "gfx942", 304, 8, 2100, 6000, 0x74A5, 0x74B9),
        _instinct("mi300a", "gfx942", 228, 6, 2100, 5300, 0x74A0),
        _instinct("mi355x", "gfx950", 256, 8, 2400, 8000, 0x75A3, 0x75B3),
        _instinct("mi350x", "gfx950", 256, 8, 2200, 8000, 0x75A0, 0x75B0),
        Chip("mi350p", "gfx950", pci=(0x75A8,), source="the pci.ids database; no data sheet was at hand"),
        Chip(
            "h100",
            "sm_90a",
            compute_units=132,
            memory_gb_per_s=3350,
            l2_bytes=50 * MIB,
            source="H100 data sheet (SXM), H100 white paper",
        ),
        Chip(
            "h200",
            "sm_90a",
            compute_units=132,
            memory_gb_per_s=4800,
            l2_bytes=50 * MIB,
            source="H200 data sheet, H100 white paper",
        ),
        Chip(
            "a100",
            "sm_80",
            compute_units=108,
            clock_mhz=1410,
            memory_gb_per_s=2039,
            l2_bytes=40 * MIB,
            source="A100 data sheet (SXM, 80 GB), A100 white paper",
        ),
        Chip("l40s", "sm_89", compute_units=142, memory_gb_per_s=864, source="L40S data sheet"),
    )
}
# The first chip of a target stands for it where no device says more.
USUAL_CHIP = {target: next(chip for chip in CHIPS.values() if chip.target == target) for target in ARCHITECTURES}
PCI_CHIPS = {number: chip for chip in CHIPS.values() for number in chip.pci}
# Of an H200's 132 multiprocessors, how many clusters of so many workgroups reach at once, one on each: its driver's
# occupancy query. Of two workgroups on each, two or three clusters more than twice as many fit.
_CLUSTERED, _CLUSTERED_OF = {1: 132, 2: 132, 4: 120, 8: 120, 16: 112}, 132


def units_in_clusters(size: int, compute_units: int) -> int:
    """The multiprocessors of a Hopper chip with so many that are in clusters of `size` workgroups, a power of two up to
    16, when these fill it."""
    return _CLUSTERED[size] * compute_units // _CLUSTERED_OF


def architecture(target: str) -> Architecture:
    """The facts of a target. Without a row, only the family and the size of a wave are known."""
    known = ARCHITECTURES.get(target)
    if known is not None:
        return known
    if target.startswith("gfx"):
        # gfx10 and later have both; 32 is LLVM's default for them, and that of their drivers.
        return Architecture(target, "amd", 32 if re.match(r"gfx1[0-9a-f]{3}", target) else 64, fp8="")
    if target.startswith("sm_"):
        return Architecture(target, "cuda", 32)
    return Architecture(target, "cpu", 1)
