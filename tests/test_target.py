"""Targets, personas and their detection, for machines that are not this one."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiterlite import dispatch, envs, target
from aiterlite.errors import DispatchError, TargetError
from aiterlite.tables import FAMILIES, TABLES

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


@pytest.mark.parametrize(
    ("name", "plain"),
    [
        ("MI300X", "mi300x"),
        ("mi308", "mi308x"),
        ("mi325", "mi325x"),
        ("gfx942:sramecc+:xnack-", "gfx942"),
        ("amdgcn-amd-amdhsa--gfx950:sramecc+", "gfx950"),
        ("sm90", "sm_90a"),
        ("sm90a", "sm_90a"),
        ("sm_90", "sm_90a"),
        ("SM_89", "sm_89"),
        ("cuda:90", "sm_90a"),
        ("cuda:80", "sm_80"),
        ("compute_90a", "sm_90a"),
    ],
)
def test_spellings_that_people_paste_are_taken(name: str, plain: str) -> None:
    assert target.canonical(name) == plain
    assert target.resolve(name) == target.resolve(plain)
    assert target.canonical(plain) == plain


@pytest.mark.parametrize("name", ["", "gfx90", "sm_91", "mi300", "cpu-x86-64-v5", "cpu-", "native", "cuda:0", "sm_80a"])
def test_an_unknown_name_is_an_error_that_lists_the_known_ones(name: str) -> None:
    with pytest.raises(TargetError, match="known: .*gfx942.*mi308x.*cpu"):
        target.resolve(name)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        (
            "h20",
            "unknown target 'h20', nearest: h200; kernels are here for .*gfx950.*sm_89.*CPUs, and for nothing else",
        ),
        ("b200", "unknown target 'b200', nearest: h200"),
        ("gfx952", "unknown target 'gfx952', nearest: gfx950"),
        ("mi300", "'mi300' is more than one chip: mi300x, mi300a"),
        ("native", "'native' names no one target: .*`cpu` is this machine's; .*GPU.*no target named"),
        ("gpu", "'gpu' names no one target"),
        ("mi350p", "CU count of mi350p is not known here: .*mi350p:128"),
        ("mi300x:0", "mi300x has 1 to 304 CUs, not 0"),
        ("mi300x:305", "mi300x has 1 to 304 CUs, not 305"),
        ("gfx942:0", "gfx942 has at least 1 CU, not 0"),
        ("mi300x:38:38", "'mi300x:38:38' is no target and CU count"),
        ("mi300x:", "'mi300x:' is no target and CU count"),
        ("mi300x:x", "'mi300x:x' is no target and CU count"),
        ("sm_90a:xnack-", "'sm_90a:xnack-' is no target and CU count"),
        ("cpu:8", "cpu has no CUs"),
        ("cpu-x86-64-v3:8", "cpu-x86-64-v3 has no CUs"),
    ],
)
def test_what_is_wrong_with_a_name_is_told(name: str, said: str) -> None:
    with pytest.raises(TargetError, match=said):
        target.resolve(name)


@given(st.one_of(st.text(max_size=20), st.from_regex(r"(gfx|sm_?|mi|cuda:|h|cpu)[0-9a-z:+_-]{0,12}", fullmatch=True)))
def test_any_text_is_a_target_or_an_error_of_that_kind(name: str) -> None:
    try:
        persona = target.resolve(name)
    except TargetError:
        return
    assert target.resolve(target.canonical(name)) == persona


@pytest.mark.parametrize(
    ("name", "chip", "cu_count", "xcds"),
    [
        ("mi300x:304", "mi300x", 304, 8),
        ("mi300x:152", "mi300x", 152, 4),
        ("mi300x:76", "mi300x", 76, 2),
        ("MI300X:38", "mi300x", 38, 1),
        ("mi300a:38", "mi300a", 38, 1),
        ("mi355x:32", "mi355x", 32, 1),
        ("mi300x:100", "mi300x", 100, 0),
        ("mi308x:20", "mi308x", 20, 0),
        ("mi350p:128", "mi350p", 128, 0),
        ("gfx942:228", "mi300a", 228, 6),  # as a device of that count and no name
        ("gfx942:sramecc+:38", "mi300x", 38, 1),
        ("sm_90:78", "h100", 78, 0),
        ("h200:66", "h200", 66, 0),
    ],
)
def test_a_name_may_have_a_cu_count(name: str, chip: str, cu_count: int, xcds: int) -> None:
    persona = target.resolve(name)
    assert (persona.chip, persona.cu_count, persona.xcds) == (chip, cu_count, xcds)
    whole = target.resolve(chip if chip != "mi350p" else "mi350p:64")
    assert dataclasses.replace(whole, cu_count=cu_count, xcds=xcds) == persona


OTHERS = ("gfx90a", "gfx1100", "gfx1151", "gfx1201", "gfx1250", "sm_75", "sm_100", "sm_120")


@pytest.mark.parametrize("name", OTHERS)
def test_an_architecture_without_kernels_is_a_persona_of_which_nothing_is_claimed(name: str) -> None:
    persona = target.resolve(name)
    family, wave = ("amd", 64 if name == "gfx90a" else 32) if name.startswith("gfx") else ("cuda", 32)
    assert (persona.chip, persona.target, persona.family, persona.wave_size) == (name, name, family, wave)
    assert persona.cu_count == persona.lds_bytes == persona.xcds == persona.clock_mhz == persona.memory_gb_per_s == 0
    assert name not in target.names()


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("op", sorted(table.op for table in FAMILIES["gemm"].tables))
def test_tables_refuse_an_architecture_without_kernels_by_its_name(op: str, name: str) -> None:
    problem = dispatch.problem_from(TABLES[op], {"n": 4, "m": 256, "k": 7168})
    decision = dispatch.decide(TABLES[op], problem, target.resolve(name))
    if op == "linear":
        assert decision.row is not None and decision.row.name == "torch" and not decision.units
    else:
        assert decision.row is None
        with pytest.raises(DispatchError, match=f"the target is {name}"):
            dispatch.require(decision, dispatch.Wishes())
    refused = [item for item in decision.rejected if item.row != "torch"]
    assert refused and all(f"the target is {name}" in str(item.refusals[0]) for item in refused)


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
    resolved = target.resolve_list(random.choice((",", ";", " ", ", ")).join(spelled))
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
        ("gfx950", 0x75A8, "", 128, "mi350p"),
        ("gfx950", None, "AMD Instinct MI350P", 128, "mi350p"),
    ],
)
def test_amd_chips_are_told_by_id_then_name_then_count(
    arch: str, pci: int | None, name: str, cu_count: int, chip: str
) -> None:
    persona = target.identify_amd_chip(arch, pci, name, cu_count)
    assert (persona.chip, persona.target, persona.cu_count) == (chip, arch.split(":")[0], cu_count)


@pytest.mark.parametrize(
    ("arch", "pci", "cu_count", "xcds"),
    [
        ("gfx942", 0x74A1, 304, 8),
        ("gfx942", 0x74A1, 152, 4),  # DPX
        ("gfx942", 0x74A1, 76, 2),  # QPX
        ("gfx942", 0x74B5, 38, 1),  # CPX, a virtual function
        ("gfx942", 0x74A1, 300, 0),  # no partition
        ("gfx942", 0x74A0, 76, 2),  # TPX of an MI300A
        ("gfx950", 0x75A3, 32, 1),
        ("gfx942", 0x74A2, 20, 0),
    ],
)
def test_a_partition_has_its_own_number_of_dies(arch: str, pci: int, cu_count: int, xcds: int) -> None:
    persona = target.identify_amd_chip(arch, pci, "", cu_count)
    assert (persona.cu_count, persona.xcds) == (cu_count, xcds)


@pytest.mark.parametrize("arch", ["gfx90a:sramecc+:xnack-", "gfx1100", "gfx1151", "gfx1201", "gfx1250", "gfx1310"])
def test_an_amd_device_of_another_arch_is_a_persona_that_nothing_serves(arch: str) -> None:
    persona = target.identify_amd_chip(arch, 0x744C, "AMD Radeon", 96)
    name = arch.split(":")[0]
    assert (persona.chip, persona.target, persona.family, persona.cu_count) == (name, name, "amd", 96)
    assert (persona.wave_size, persona.lds_bytes, persona.xcds) == (64 if name == "gfx90a" else 32, 0, 0)


@pytest.mark.parametrize("arch", ["", "sm_90a"])
def test_a_device_that_names_no_amd_arch_is_an_error(arch: str) -> None:
    with pytest.raises(TargetError, match="names its arch"):
        target.identify_amd_chip(arch, None, "AMD Instinct MI300X", 304)


@pytest.mark.parametrize(
    ("capability", "name", "chip", "target_id"),
    [
        ((9, 0), "NVIDIA H100 80GB HBM3", "h100", "sm_90a"),
        ((9, 0), "NVIDIA H200", "h200", "sm_90a"),
        ((9, 0), "NVIDIA GH200 480GB", "sm_90a", "sm_90a"),
        ((8, 0), "NVIDIA A100-SXM4-80GB", "a100", "sm_80"),
        ((12, 0), "NVIDIA GeForce RTX 5090", "sm_120", "sm_120"),
        ((8, 0), "NVIDIA H100", "sm_80", "sm_80"),  # no chip of that target
        ((13, 1), "NVIDIA X", "sm_131", "sm_131"),  # of the future
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
    with envs.override(AITERLITE_TARGET="gfx942:sramecc+:xnack-"):
        assert target.persona_for("cuda", 0).cu_count == 100
    for name in ("mi308x", "mi308", "mi300x:38", "gfx942:38"):
        with envs.override(AITERLITE_TARGET=name):
            assert target.persona_for("cuda", 0) == target.resolve(name)
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


@pytest.mark.torch
@pytest.mark.parametrize("name", ["gfx90a", "gfx1100", "gfx1250"])
def test_linear_takes_torch_where_no_kernel_is_and_other_operators_say_why_not(name: str) -> None:
    import torch

    import aiterlite

    x, weight = torch.randn(4, 64).bfloat16(), torch.randn(32, 64).bfloat16()
    with envs.override(AITERLITE_TARGET=name):
        assert torch.equal(aiterlite.linear(x, weight), torch.nn.functional.linear(x, weight))
        for call in (aiterlite.wvSplitK, aiterlite.wvSplitKrc):
            with pytest.raises(DispatchError, match=f"runs on .*, the target is {name}"):
                call(x, weight)


@pytest.mark.parametrize("name", ["gfx1100", "gfx942:sramecc+:xnack-", "mi300x:38"])
def test_a_decision_is_explained_for_any_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from aiterlite.cli import main

    assert main(["explain", "linear", "--target", name, "n=4", "m=256", "k=7168"]) == 0
    text = capsys.readouterr().out
    if name == "gfx1100":
        assert "on gfx1100\n  -> torch (torch)\n" in text
        assert "not mfma: runs on gfx942, gfx950, the target is gfx1100\n" in text
    else:
        assert f"on mi300x (gfx942, {38 if ':38' in name else 304} CUs)\n  -> mfma (hip)\n" in text


def test_a_list_of_names_goes_by_their_one_spelling() -> None:
    from aiterlite.cli.targets import named_personas

    found = named_personas(["MI308;gfx942:xnack-", "sm90, mi308x", "mi300x:38"])
    assert list(found) == ["mi308x", "gfx942", "sm_90a", "mi300x:38"]
    assert [persona.cu_count for persona in found.values()] == [80, 304, 132, 38]
