"""Targets, personas and their detection, for machines that are not this one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiterlite import envs, target
from aiterlite.errors import TargetError

LEVEL_FLAGS = target._X86_FLAGS
ALL_FLAGS = sorted(set().union(*LEVEL_FLAGS.values()))


@pytest.mark.parametrize(
    ("name", "chip", "target_id", "cu_count", "fp8"),
    [
        ("gfx942", "mi300x", "gfx942", 304, "e4m3fnuz"),
        ("mi300x", "mi300x", "gfx942", 304, "e4m3fnuz"),
        ("MI308X", "mi308x", "gfx942", 80, "e4m3fnuz"),
        ("mi325x", "mi325x", "gfx942", 304, "e4m3fnuz"),
        ("mi300a", "mi300a", "gfx942", 228, "e4m3fnuz"),
        ("gfx950", "mi355x", "gfx950", 256, "e4m3fn"),
        (" mi355x ", "mi355x", "gfx950", 256, "e4m3fn"),
        ("sm_90a", "h100", "sm_90a", 132, "e4m3fn"),
        ("sm_90", "h100", "sm_90a", 132, "e4m3fn"),
        ("h200", "h200", "sm_90a", 132, "e4m3fn"),
        ("cpu-x86-64-v3", "cpu-x86-64-v3", "cpu-x86-64-v3", 0, "e4m3fn"),
        ("cpu-aarch64", "cpu-aarch64", "cpu-aarch64", 0, "e4m3fn"),
    ],
)
def test_names_resolve(name: str, chip: str, target_id: str, cu_count: int, fp8: str) -> None:
    persona = target.resolve(name)
    assert (persona.chip, persona.target, persona.cu_count, persona.fp8) == (chip, target_id, cu_count, fp8)


def test_every_listed_name_resolves() -> None:
    for name in target.names():
        assert target.resolve(name).family in ("amd", "cuda", "cpu")


@pytest.mark.parametrize("name", ["", "gfx90a", "sm_91", "mi300", "cpu-x86-64-v5", "cpu-", "native"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(TargetError, match="known: .*gfx942.*mi308x.*cpu"):
        target.resolve(name)


def test_chips_of_one_target_share_their_code_and_differ_in_size() -> None:
    mi300x, mi308x = target.resolve("mi300x"), target.resolve("mi308x")
    assert mi300x.target == mi308x.target
    assert mi300x.cu_count > mi308x.cu_count
    assert target.resolve("mi355x").lds_bytes > mi300x.lds_bytes


def test_vskip_is_not_safe_where_it_crashed() -> None:
    for chip in ("mi300x", "mi308x", "mi325x", "mi300a"):
        assert not target.resolve(chip).vskip_safe
    assert target.resolve("mi355x").vskip_safe


@given(st.lists(st.sampled_from(target.names()), min_size=1, max_size=8), st.randoms())
def test_the_order_and_spelling_of_a_list_do_not_matter(names: list[str], random: Any) -> None:
    spelled = [random.choice((name, name.upper(), f" {name} ")) for name in names]
    random.shuffle(spelled)
    resolved = target.resolve_list(",".join(spelled))
    assert resolved == target.resolve_list(",".join(names + names))
    assert len(resolved) == len(set(resolved))


def test_an_empty_list_is_an_error() -> None:
    for text in ("", " , "):
        with pytest.raises(TargetError):
            target.resolve_list(text)


# CPU ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", target.X86_LEVELS)
def test_each_level_needs_all_flags_up_to_it(level: str) -> None:
    below = target.X86_LEVELS[1 : target.X86_LEVELS.index(level) + 1]
    flags = frozenset().union(*(LEVEL_FLAGS[name] for name in below))
    assert target.x86_level(flags) == level
    for missing in flags:
        assert target.X86_LEVELS.index(target.x86_level(flags - {missing})) < target.X86_LEVELS.index(level)


@given(st.frozensets(st.sampled_from(ALL_FLAGS)), st.frozensets(st.sampled_from(ALL_FLAGS)))
def test_more_flags_never_lower_the_level(some: frozenset[str], more: frozenset[str]) -> None:
    order = target.X86_LEVELS.index
    assert order(target.x86_level(some)) <= order(target.x86_level(some | more))


def test_this_machine_s_cpu_is_a_known_target() -> None:
    persona = target.host_persona()
    assert persona == target.resolve("cpu")
    assert persona.family == "cpu" and persona.target in target.names()


def test_host_units_that_only_launch_serve_every_cpu_of_the_kind() -> None:
    assert target.launch_target() in ("cpu-x86-64", "cpu-aarch64")


# GPUs -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arch", "pci", "name", "cu_count", "chip"),
    [
        ("gfx942:sramecc+:xnack-", 0x74A1, "AMD Instinct MI300X", 304, "mi300x"),
        ("gfx942", 0x74A1, "", 38, "mi300x"),  # one of eight partitions
        ("gfx942", 0x74A1, "", 76, "mi300x"),
        ("gfx942", 0x74B5, "AMD Instinct MI300X VF", 304, "mi300x"),
        ("gfx942", 0x74A2, "", 80, "mi308x"),
        ("gfx942", 0x74A2, "AMD Instinct MI300X", 20, "mi308x"),  # the id says more than the name
        ("gfx942", None, "AMD Instinct MI308X", 80, "mi308x"),
        ("gfx942", None, "AMD Instinct MI300X", 80, "mi300x"),  # the name says more than the count
        ("gfx942", None, "", 80, "mi308x"),
        ("gfx942", None, "", 228, "mi300a"),
        ("gfx942", 0xFFFF, "unnamed", 61, "mi300x"),
        ("gfx950", 0x75A3, "", 256, "mi355x"),
        ("gfx950", None, "AMD Instinct MI350X", 256, "mi350x"),
        ("gfx950", 0x74A1, "", 256, "mi355x"),  # an id of another arch says nothing
    ],
)
def test_amd_chips_are_told_by_id_then_name_then_count(
    arch: str, pci: int | None, name: str, cu_count: int, chip: str
) -> None:
    persona = target.identify_amd_chip(arch, pci, name, cu_count)
    assert (persona.chip, persona.target, persona.cu_count) == (chip, arch.split(":")[0], cu_count)


@pytest.mark.parametrize("arch", ["gfx90a", "gfx1100", "", "sm_90a"])
def test_other_amd_archs_are_refused(arch: str) -> None:
    with pytest.raises(TargetError, match="supported: gfx942, gfx950"):
        target.identify_amd_chip(arch, None, "AMD Instinct MI300X", 304)


@pytest.mark.parametrize(
    ("capability", "name", "chip", "target_id"),
    [
        ((9, 0), "NVIDIA H100 80GB HBM3", "h100", "sm_90a"),
        ((9, 0), "NVIDIA H200", "h200", "sm_90a"),
        ((9, 0), "NVIDIA GH200 480GB", "sm_90a", "sm_90a"),
        ((8, 0), "NVIDIA A100-SXM4-80GB", "a100", "sm_80"),
        ((12, 0), "NVIDIA GeForce RTX 5090", "sm_120", "sm_120"),
    ],
)
def test_nvidia_chips_are_told_by_name(capability: tuple[int, int], name: str, chip: str, target_id: str) -> None:
    persona = target.identify_cuda_chip(capability, name, 132, 232448)
    assert (persona.chip, persona.target, persona.family, persona.lds_bytes) == (chip, target_id, "cuda", 232448)


# What tensors are dispatched for --------------------------------------------------------------------------------------


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what this machine shows: its CPU level and its GPU."""

    def show(cpu: str = "cpu-x86-64-v3", gpu: str = "") -> None:
        monkeypatch.setattr(target, "host_persona", lambda: target.Persona(cpu, cpu, "cpu", 0, 0, 1))
        if gpu:
            shown = dataclasses.replace(target.resolve(gpu), cu_count=100)
            monkeypatch.setattr(target, "device_persona", lambda index: shown)

    return show


def test_cpu_tensors_follow_the_environment(machine: Any) -> None:
    machine()
    assert target.persona_for("cpu", None).target == "cpu-x86-64-v3"
    for name in ("mi300x", "mi308x", "gfx950"):
        with envs.override(AITERLITE_TARGET=name):
            assert target.persona_for("cpu", None) == target.resolve(name)
    with envs.override(AITERLITE_TARGET="h100"):
        assert target.persona_for("cpu", None).target == "cpu-x86-64-v3"
    with envs.override(AITERLITE_TARGET="cpu-x86-64-v2"):
        assert target.persona_for("cpu", None).target == "cpu-x86-64-v2"


def test_a_cpu_level_above_this_machine_s_is_refused(machine: Any) -> None:
    machine("cpu-x86-64-v3")
    for name in ("cpu-x86-64-v4", "cpu-aarch64"):
        with envs.override(AITERLITE_TARGET=name), pytest.raises(TargetError, match=f"{name}.*cpu-x86-64-v3"):
            target.persona_for("cpu", None)


def test_gpu_tensors_are_dispatched_for_their_gpu(machine: Any) -> None:
    machine(gpu="mi300x")
    assert target.persona_for("cuda", 0).cu_count == 100
    with envs.override(AITERLITE_TARGET="cpu"):
        assert target.persona_for("cuda", 0).chip == "mi300x"
    with envs.override(AITERLITE_TARGET="gfx942"):
        assert target.persona_for("cuda", 0).cu_count == 100
    with envs.override(AITERLITE_TARGET="mi308x"):
        assert target.persona_for("cuda", 0) == target.resolve("mi308x")
    with envs.override(AITERLITE_TARGET="mi355x"), pytest.raises(TargetError, match="gfx950.*mi300x"):
        target.persona_for("cuda", 0)


def test_an_alias_of_the_gpu_s_own_target_keeps_the_gpu(machine: Any) -> None:
    machine(gpu="h100")
    with envs.override(AITERLITE_TARGET="sm_90"):
        assert target.persona_for("cuda", 0).cu_count == 100


def test_an_unknown_target_in_the_environment_is_an_error(machine: Any) -> None:
    machine()
    with envs.override(AITERLITE_TARGET="gfx000"), pytest.raises(TargetError, match="gfx000"):
        target.persona_for("cpu", None)
