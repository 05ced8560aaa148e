"""The one table of hardware facts agrees with itself, with C++ that cannot read it, and with the emulator's model."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import aiterlite
from aiterlite import hardware
from aiterlite.hardware import ARCHITECTURES, CHIPS, Architecture
from aiterlite.tables import asm_kernels

INCLUDE = Path(aiterlite.__file__).parent / "csrc" / "include" / "aiterlite"
WITH_KERNELS = sorted(ARCHITECTURES)


def test_each_chip_has_an_architecture_and_says_where_its_facts_are_from() -> None:
    assert {chip.target for chip in CHIPS.values()} == set(ARCHITECTURES)
    assert all(row.source for row in (*ARCHITECTURES.values(), *CHIPS.values()))
    assert {name: chip.name for name, chip in CHIPS.items()} == {name: name for name in CHIPS}


@pytest.mark.parametrize("target", WITH_KERNELS)
def test_an_architecture_with_kernels_is_described_whole(target: str) -> None:
    """A 0 here would make a plan of nothing."""
    arch = ARCHITECTURES[target]
    vague = {"scalar_registers", "scalar_granule", "barriers"} if arch.family == "cuda" else set()
    empty = {name for name, value in vars(arch).items() if value in (0, None) and value is not False}
    assert empty == vague | ({"lds_overhead"} if arch.family == "amd" else set())
    assert arch.lds_bytes + arch.lds_overhead <= arch.lds_unit_bytes
    assert arch.largest_workgroup <= arch.unit_threads
    assert arch.portable_cluster <= arch.largest_cluster


def test_no_pci_id_is_given_twice() -> None:
    numbers = [number for chip in CHIPS.values() for number in chip.pci]
    assert len(numbers) == len(set(numbers)) == len(hardware.PCI_CHIPS)


def test_dies_have_equal_shares_of_a_chip_s_compute_units() -> None:
    for chip in CHIPS.values():
        assert not chip.xcds or chip.compute_units % chip.xcds == 0
        assert chip.dies_of(chip.compute_units) == chip.xcds


@pytest.mark.parametrize(
    ("name", "compute_units", "xcds"),
    [
        ("mi300x", 304, 8),
        ("mi300x", 152, 4),
        ("mi300x", 76, 2),
        ("mi300x", 38, 1),
        ("mi300x", 61, 0),  # no partition has these
        ("mi300x", 342, 0),
        ("mi300a", 228, 6),
        ("mi300a", 76, 2),
        ("mi300a", 38, 1),
        ("mi355x", 32, 1),
        ("mi308x", 20, 0),  # its dies are not published
        ("mi350p", 128, 0),
        ("h100", 66, 0),
    ],
)
def test_a_partition_has_whole_dies(name: str, compute_units: int, xcds: int) -> None:
    assert CHIPS[name].dies_of(compute_units) == xcds


@pytest.mark.parametrize(
    ("target", "wave_size", "family"),
    [
        ("gfx90a", 64, "amd"),
        ("gfx1100", 32, "amd"),
        ("gfx1250", 32, "amd"),
        ("sm_120", 32, "cuda"),
        ("cpu-x", 1, "cpu"),
    ],
)
def test_of_other_architectures_next_to_nothing_is_claimed(target: str, wave_size: int, family: str) -> None:
    found = hardware.architecture(target)
    assert found == Architecture(target, family, wave_size, fp8="" if family == "amd" else "e4m3fn")
    assert found.simds == found.lds_bytes == found.unit_registers == 0 and found.mx is found.matrix_fp8 is None


def test_no_target_is_both_served_and_not() -> None:
    assert not set(hardware.OTHER_TARGETS) & set(ARCHITECTURES)


# What cannot read the table -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("header", "family"), [("isa/amdgcn_core.h", "amd"), ("isa/ptx_core.h", "cuda")])
def test_the_device_library_s_waves_and_registers_are_the_table_s(header: str, family: str) -> None:
    text = (INCLUDE / header).read_text()
    constants = dict(re.findall(r"inline constexpr uint32_t (kWaveSize|kSimdRegisters) = (\d+);", text))
    for arch in ARCHITECTURES.values():
        if arch.family == family:
            assert int(constants["kWaveSize"]) == arch.wave_size
            assert int(constants["kSimdRegisters"]) == arch.unit_registers // arch.simds


def test_targets_of_assembly_kernels_have_the_waves_and_registers_that_variants_are_checked_by() -> None:
    def waves(arch: Architecture) -> tuple[int, ...]:
        registers = (arch.lane_registers, arch.register_granule)
        return (arch.wave_size, arch.simds, arch.waves_per_simd, arch.largest_workgroup, *registers)

    targets = {target for kernel in asm_kernels() for target in kernel.targets}
    assert {waves(ARCHITECTURES[target]) for target in targets} == {waves(ARCHITECTURES["gfx942"])}
