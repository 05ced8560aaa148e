"""The assembly manifest: every row is what it says, and each way in which an object may differ from it is found."""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable
from typing import Any

import asm_toy
import pytest

from aiterlite import dispatch, emulator, envs, tables
from aiterlite.cli import check_asm
from aiterlite.dispatch import Table, Wishes
from aiterlite.jit import engine, sources, spec
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Store
from aiterlite.kernel import Kernel, along_x, launch_unit
from aiterlite.tables import TABLES, asm, gemm, gemm_asm, gemm_fp8, linear
from aiterlite.tables.asm import AsmKernel
from aiterlite.tables.asm_check import check
from aiterlite.tables.gemm_args import GEMM_ARGS
from aiterlite.tables.gemm_plan import SHAPES
from aiterlite.target import resolve

Both = Callable[..., tuple[str, Any, int]]


def each_target() -> list[tuple[AsmKernel, str]]:
    return [(kernel, target) for kernel in tables.asm_kernels() for target in kernel.targets]


# The package's manifest -----------------------------------------------------------------------------------------------


@pytest.mark.compile
@pytest.mark.torch
@pytest.mark.emulated
def test_every_kernel_is_what_the_manifest_says(both: Both, emulator_library: str) -> None:
    emulator.use_library(emulator_library)
    text, data, code = both("build", "--check-asm")
    assert code == 0, text
    assert len(data["variants"]) == sum(len(kernel.variants(target)) for kernel, target in each_target())
    assert {item["result"] for item in data["variants"]} == {"ok"}
    structs = {kernel.arguments.name: kernel.arguments.layout().text for kernel in tables.asm_kernels()}
    assert {item["name"]: item["layout"] for item in data["structs"]} == structs
    assert "struct: aiterlite_gemm_args of 80 bytes: x * 0+8, weight * 8+8, " in text


def test_names_units_and_defines_tell_kernels_apart() -> None:
    names = [(kernel.unit.partition("/")[0], kernel.name) for kernel in tables.asm_kernels()]
    assert len(set(names)) == len(names)
    for kernel, target in each_target():
        units = [kernel.device_unit(variant, target) for variant in kernel.variants(target)]
        assert len(set(units)) == len(units) > 0


def test_the_assembly_rows_of_the_tables_are_the_manifest_s() -> None:
    rows: dict[str, list[dispatch.Row]] = {}
    for row in (row for table in TABLES.values() for row in table.rows if row.backend == "asm"):
        rows.setdefault(row.name, []).append(row)
    served: dict[str, set[str]] = {}
    for kernel in tables.asm_kernels():
        for name in kernel.rows or (kernel.name,):
            served.setdefault(name, set()).update(kernel.targets)
    assert set(rows) == set(served)
    for kernel in tables.asm_kernels():
        for row in (row for name in kernel.rows or (kernel.name,) for row in rows[name]):
            targets = [needed.names for needed in row.requires if isinstance(needed, dispatch.Targets)]
            assert row.vskip == kernel.vskip and targets and set(targets[0]) <= served[row.name]
            assert set(targets[0]) & set(kernel.targets)
            assert dispatch.OneOf("dtype", kernel.dtypes) in row.requires
            assert kernel.rows or (row.preference, targets[0]) == (asm.PREFERENCE, kernel.targets)


def test_lds_leaves_room_for_the_waves_that_a_variant_wants() -> None:
    for kernel, target in each_target():
        for variant in kernel.variants(target):
            workgroups = max(1, 4 * variant.waves_per_simd // variant.waves)
            assert workgroups * variant.lds_bytes <= resolve(target).lds_bytes, variant


@pytest.mark.parametrize(
    ("kernel", "table"),
    [(gemm_asm.WV_SPLIT_K, linear.LINEAR), (gemm_asm.WV_SPLIT_K_Q, gemm_fp8.WV_SPLIT_K_Q)],
    ids=["wvSplitK", "wvSplitKQ"],
)
@pytest.mark.parametrize("chip", ["mi300x", "mi308x", "mi355x"])
def test_the_check_assembles_what_dispatch_takes_for_the_models_shapes(
    chip: str, kernel: AsmKernel, table: Table
) -> None:
    persona = resolve(chip)
    units = {kernel.device_unit(variant, persona.target) for variant in kernel.variants(persona.target)}
    for (m, k), n, dtype in itertools.product(SHAPES, (1, 4, 16), kernel.dtypes):
        problem = table.problem(n, m, k, dtype=dtype)
        decision = dispatch.decide(table, problem, persona, Wishes(prefer="asm"))
        assert decision.row is not None and decision.row.name == kernel.name
        assert decision.units[0] in units


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"waves": 0}, "waves is 0"),
        ({"waves": 17, "waves_per_simd": 5}, "waves is 17"),
        ({"waves": 16, "waves_per_simd": 3}, "needs 4"),
        ({"waves_per_simd": 9}, "a SIMD holds 8"),
    ],
)
def test_a_variant_that_nothing_could_meet_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        asm_toy.variant(**change)


def test_registers_leave_room_for_the_waves_that_a_variant_wants() -> None:
    assert [asm_toy.variant(waves_per_simd=waves).max_vgprs for waves in (1, 2, 3, 5, 8)] == [512, 256, 168, 96, 64]


# Keys -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "edit",
    [
        ("  int32_t n;\n  int32_t m;\n", "  int32_t m;\n  int32_t n;\n"),
        ("  int32_t n;\n  int32_t m;\n", "  int64_t n;\n"),
        ("  int32_t n;\n", "  int32_t tokens;\n"),
        ("  int32_t n;\n", "  float n;\n"),
        ("  int64_t stride_y;\n", "  void* stride_y;\n"),
        ("  int32_t n;\n", "  int64_t more;\n  int32_t n;\n"),
    ],
)
def test_an_object_is_never_found_for_another_struct(source_tree: SourceTree, edit: tuple[str, str]) -> None:
    unit = asm_toy.kernel().device_unit(asm_toy.variant(), "gfx942")
    asm_toy.write(source_tree)
    before = engine.wanted(unit, source_tree)
    asm_toy.write_struct(source_tree, edit)
    after = engine.wanted(unit, source_tree)
    assert before.key != after.key and before.parts["arguments"] != after.parts["arguments"]


def test_units_without_a_struct_have_none_in_their_keys(source_tree: SourceTree) -> None:
    unit = Unit("toy/toy", ("csrc/toy/toy.hip",), "gfx942", symbols=("toy",))
    assert "arguments" not in engine.wanted(unit, source_tree).parts and "arguments" not in unit.to_json()


def test_the_struct_survives_the_json_form() -> None:
    unit = asm_toy.kernel().device_unit(asm_toy.variant(), "gfx950")
    assert Unit.from_json(json.loads(json.dumps(unit.to_json()))) == unit
    assert unit.arguments == "aiterlite/gemm_args.h:aiterlite_gemm_args"


# What the check finds -------------------------------------------------------------------------------------------------

Y = ".name: !str y, .offset: 24, .size: 8, .value_kind: global_buffer"
WRITABLE = "  .globl toy_checked\n"
# name: (edits of the source, changes of the row, what is said)
MISMATCHES: dict[str, tuple[tuple[tuple[str, str], ...], dict[str, Any], str]] = {
    "kernarg size in the metadata": (
        ((".kernarg_segment_size: 80", ".kernarg_segment_size: 88"),),
        {},
        "kernarg size in .kernarg_segment_size: found 88 bytes, declared 80 bytes",
    ),
    "kernarg size in the descriptor": (
        ((".amdhsa_kernarg_size 80", ".amdhsa_kernarg_size 72"),),
        {},
        "kernarg size in .amdhsa_kernarg_size: found 72 bytes, declared 80 bytes",
    ),
    "a moved field": (
        ((".name: m, .offset: 68", ".name: m, .offset: 72"), (".name: k, .offset: 72", ".name: k, .offset: 68")),
        {},
        "argument m: found 4 bytes at 72, by_value, declared 4 bytes at 68, by_value",
    ),
    "a field of another size": (
        ((".name: reserved, .offset: 76, .size: 4", ".name: reserved, .offset: 76, .size: 2"),),
        {},
        "argument reserved: found 2 bytes at 76",
    ),
    "a pointer passed by value": (
        ((Y, Y.replace("global_buffer", "by_value")),),
        {},
        "argument y: found 8 bytes at 24, by_value, declared 8 bytes at 24, global_buffer",
    ),
    "a struct that was declared otherwise since": (
        (),
        {"struct": ("  const void* weight;\n  const void* bias;\n", "  const void* bias;\n  const void* weight;\n")},
        "argument bias: found 8 bytes at 16, global_buffer, declared 8 bytes at 8",
    ),
    "a field that is not listed": (
        (("      - {.name: k, .offset: 72, .size: 4, .value_kind: by_value}\n", ""),),
        {},
        "argument k: found none",
    ),
    "a renamed kernel": (
        (("toy_checked", "toy_renamed"),),
        {},
        "kernel in the metadata: found toy_renamed, declared toy_checked",
    ),
    "a kernel without a global symbol": (
        ((WRITABLE, WRITABLE + "  .hidden toy_checked\n"),),
        {},
        "exported symbol: found none, declared toy_checked;",
    ),
    "too many VGPRs": (
        ((".amdhsa_next_free_vgpr 16", ".amdhsa_next_free_vgpr 72"),),
        {},
        "VGPRs: found 72, declared at most 64 for 8 waves a SIMD",
    ),
    "more registers than the descriptor gives": (
        ((".vgpr_count: 12", ".vgpr_count: 40"),),
        {},
        ".vgpr_count beyond what the descriptor gives: found 40, declared 16",
    ),
    "more AGPRs than lie behind the accum offset": (
        ((".agpr_count: 4", ".agpr_count: 12"),),
        {},
        ".agpr_count beyond what the descriptor gives: found 12, declared 8",
    ),
    "more SGPRs than the descriptor gives": (
        ((".sgpr_count: 16", ".sgpr_count: 64"),),
        {},
        ".sgpr_count beyond what the descriptor gives: found 64",
    ),
    "LDS over the budget": (
        (
            (".amdhsa_group_segment_fixed_size 256", ".amdhsa_group_segment_fixed_size 512"),
            (".group_segment_fixed_size: 256", ".group_segment_fixed_size: 512"),
        ),
        {},
        "LDS: found 512 bytes, declared at most 256 bytes",
    ),
    "LDS that only the descriptor knows": (
        ((".group_segment_fixed_size: 256", ".group_segment_fixed_size: 0"),),
        {},
        "LDS in the metadata: found 0 bytes, declared 256 bytes in the descriptor",
    ),
    "scratch": (
        ((".amdhsa_private_segment_fixed_size 0", ".amdhsa_private_segment_fixed_size 16"),),
        {},
        "scratch in the descriptor: found 16, declared 0",
    ),
    "spills": ((((".vgpr_spill_count: 0", ".vgpr_spill_count: 3"),)), {}, "spilled VGPRs: found 3, declared 0"),
    "waves of 32 lanes": (
        ((".wavefront_size: 64", ".wavefront_size: 32"),),
        {},
        "wave size in .wavefront_size: found 32, declared 64",
    ),
    "a workgroup that a driver would refuse": (
        (),
        {"waves": 2},
        ".max_flat_workgroup_size: found 64, declared at least 128",
    ),
    "s_setvskip in a row that is not marked": (
        (("  s_waitcnt vmcnt(0)\n", "  s_waitcnt vmcnt(0)\n  s_setvskip 0, 0\n"),),
        {},
        "s_setvskip: found toy_checked+0x34, declared none",
    ),
    "a row that is marked for nothing": ((), {"vskip": True}, "s_setvskip: found none, declared vskip=True"),
    "a kernel without a size": (
        (("  .size toy_checked, .Lend - toy_checked\n", ""),),
        {},
        "code: found 0 bytes, declared a kernel",
    ),
    "metadata of another target": (
        (("#if defined(__gfx950__)", "#if 1"),),
        {},
        "target in amdhsa.target: found gfx950, declared gfx942",
    ),
}


def object_of(tree: SourceTree, *edits: tuple[str, str], target: str = "gfx942", **changes: Any) -> bytes:
    asm_toy.write(tree, *edits)
    return engine.obtain(asm_toy.kernel(**changes).device_unit(asm_toy.variant(), target), tree=tree).data


def check_toy(
    image: bytes, target: str = "gfx942", waves: int = 1, tree: SourceTree | None = None, **changes: Any
) -> list[str]:
    return list(map(str, check(asm_toy.kernel(**changes), asm_toy.variant(waves=waves), target, image, tree)))


@pytest.mark.compile
@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
def test_the_toy_is_what_its_row_says(cache_dir: Any, source_tree: SourceTree, target: str) -> None:
    assert check_toy(object_of(source_tree, target=target), target) == []


@pytest.mark.compile
@pytest.mark.parametrize("name", MISMATCHES)
def test_each_mismatch_is_found_and_told(cache_dir: Any, source_tree: SourceTree, name: str) -> None:
    edits, changes, said = MISMATCHES[name]
    row = {name: value for name, value in changes.items() if name == "vskip"}
    image = object_of(source_tree, *edits, **row)
    asm_toy.write_struct(source_tree, *([changes["struct"]] if "struct" in changes else []))
    found = check_toy(image, waves=changes.get("waves", 1), tree=source_tree, **row)
    assert any(said in mismatch for mismatch in found), "\n".join(found)
    # Each comes with what to do about it.
    assert all(mismatch.rpartition("; ")[2] for mismatch in found)


@pytest.mark.compile
def test_an_object_of_another_target_is_found(cache_dir: Any, source_tree: SourceTree) -> None:
    image = object_of(source_tree, target="gfx950")
    found = check_toy(image)
    assert len(found) == 2 and found[0].startswith("target in e_flags: found gfx950, declared gfx942")


@pytest.mark.compile
def test_an_object_of_another_version_is_found(
    cache_dir: Any, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ROCm 6.1 refuses version 6, which a new clang writes unless it is told."""
    asm_toy.write(source_tree)
    unit = asm_toy.kernel().device_unit(asm_toy.variant(), "gfx942")
    other = tuple(text.replace("object-version=5", "object-version=6") for text in spec._AMD_ASM_TEXT)
    monkeypatch.setattr(spec, "_AMD_ASM_TEXT", other)
    image = engine.obtain(unit, tree=source_tree).data
    (found,) = check_toy(image)
    assert found.startswith("code object version: found 6, declared 5; ")


@pytest.mark.compile
def test_s_setvskip_in_a_marked_row_passes_and_in_a_literal_does_not_count(
    cache_dir: Any, source_tree: SourceTree
) -> None:
    vskip = ("  s_waitcnt vmcnt(0)\n", "  s_waitcnt vmcnt(0)\n  s_setvskip 0, 0\n")
    assert check_toy(object_of(source_tree, vskip), vskip=True) == []
    literal = ("  s_waitcnt vmcnt(0)\n", "  s_waitcnt vmcnt(0)\n  v_mov_b32 v3, 0xbf100000\n")
    assert check_toy(object_of(source_tree, literal)) == []


# The command ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def toy_manifest(
    emulator_library: str, toy_store: Store, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> SourceTree:
    """A manifest of the toy alone, and the emulator, whose decoder walks its code."""
    emulator.use_library(emulator_library)
    asm_toy.write(source_tree)
    monkeypatch.setattr(tables, "asm_kernels", lambda: (asm_toy.kernel(),))
    return source_tree


@pytest.mark.compile
def test_the_command_names_what_is_wrong(toy_manifest: SourceTree, both: Both) -> None:
    asm_toy.write(toy_manifest, (".kernarg_segment_size: 80", ".kernarg_segment_size: 88"))
    text, data, code = both("build", "--check-asm", "--target", "gfx950")
    assert code == 1
    assert [(item["target"], item["result"]) for item in data["variants"]] == [("gfx950", "wrong")]
    assert "wrong: toy/checked for gfx950: kernarg size in .kernarg_segment_size: found 88 bytes" in text
    assert data["variants"][0]["mismatches"][0]["found"] == "88 bytes"
    assert data["variants"][0]["resources"]["toy_checked"]["vgprs"] == 12
    assert text.endswith("0 of 1 object as declared")


@pytest.mark.compile
@pytest.mark.emulated
@pytest.mark.torch
def test_registers_that_the_descriptor_does_not_allocate_are_told(toy_manifest: SourceTree, both: Both) -> None:
    asm_toy.write(toy_manifest, ("  s_endpgm\n", "  v_mov_b32_e32 v18, v40\n  v_mov_b32_e32 v17, 0\n  s_endpgm\n"))
    text, data, code = both("build", "--check-asm", "--target", "gfx950")
    assert code == 1 and data["variants"][0]["result"] == "wrong"
    assert "register v40: found `v_mov_b32_e32 v18, v40` at toy_checked+0x" in text
    assert "and 1 more, declared v0 to v15; raise .amdhsa_next_free_vgpr to 41 at least" in text


@pytest.mark.compile
def test_without_torch_registers_are_said_to_be_unchecked(
    toy_manifest: SourceTree, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(check_asm, "_registers", lambda: False)
    asm_toy.write(toy_manifest, ("  s_endpgm\n", "  v_mov_b32_e32 v18, v40\n  s_endpgm\n"))
    text, data, code = both("build", "--check-asm", "--target", "gfx950")
    assert code == 0 and not data["registers"] and "registers were not held against descriptors" in text


@pytest.mark.compile
def test_a_struct_that_is_no_struct_is_told(toy_manifest: SourceTree, both: Both) -> None:
    asm_toy.write_struct(toy_manifest, ("  int32_t n;", "  int n;"))
    text, data, code = both("build", "--check-asm", "--target", "gfx950")
    assert code == 1 and data["variants"][0]["result"] == "failed"
    assert "gemm_args.h: aiterlite_gemm_args: `int n`: int is no type of an argument" in text
    assert "int is no type" in data["structs"][0]["error"]


@pytest.mark.compile
def test_a_source_that_does_not_assemble_is_told_with_its_line(toy_manifest: SourceTree, both: Both) -> None:
    asm_toy.write(toy_manifest, ("  s_endpgm\n", "  s_endprogram\n"))
    text, data, code = both("build", "--check-asm", "--target", "mi300x")
    assert code == 1 and data["variants"][0]["result"] == "failed"
    assert "checked.S:17" in text and "invalid instruction" in text


@pytest.mark.parametrize("name", ["gfx1100", "sm_90", "cpu"])
def test_a_check_of_nothing_is_no_success(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    from aiterlite.cli import main

    assert main(["build", "--check-asm", "--target", name]) == 2
    said = f"no assembly kernel is for {resolve(name).target}; there are some for gfx942, gfx950"
    assert said in capsys.readouterr().err


def test_the_check_takes_targets_only(capsys: pytest.CaptureFixture[str]) -> None:
    from aiterlite.cli import main

    assert main(["build", "--check-asm", "--ops", "linear"]) == 2
    assert "--check-asm takes --target only" in capsys.readouterr().err


# Dispatch and launch --------------------------------------------------------------------------------------------------

COMPILED = dispatch.Row("hip", "hip", (dispatch.Targets(("gfx942", "gfx950")),))


@dataclasses.dataclass(frozen=True)
class ToyPlan:
    grid: int
    block: int


def toy_row(**changes: Any) -> dispatch.Row:
    def plan(problem: gemm.GemmProblem, persona: Any) -> ToyPlan:
        return ToyPlan(-(-problem.m // asm_toy.ROWS), asm_toy.variant().block)

    def launch(unit: Unit, symbol: str, problem: gemm.GemmProblem, plan: ToyPlan) -> tuple[Kernel, ...]:
        sizes = gemm.gemm_sizes(problem)
        return (Kernel(unit, symbol, GEMM_ARGS, along_x(plan.grid), along_x(plan.block), args=sizes),)

    return asm.dispatch_row(asm_toy.kernel(**changes), (), plan, lambda plan: asm_toy.variant(), launch)


TOY = toy_row()
TOY_TABLE = Table("wvSplitK", gemm.GemmProblem, (COMPILED, TOY))


@pytest.mark.parametrize(
    ("prefer", "n", "expected", "note"),
    [
        (None, 1, "hip", ""),
        ("hip", 1, "hip", ""),
        ("asm", 1, "toy_asm", ""),
        ("asm", 2, "hip", "AITERLITE_PREFER=asm has no row for this problem; took hip"),
    ],
)
def test_the_wish_chooses_the_kind(prefer: str | None, n: int, expected: str, note: str) -> None:
    problem = gemm.GemmProblem(n, 100, 64, bias=True)
    decision = dispatch.decide(TOY_TABLE, problem, resolve("gfx942"), Wishes(prefer=prefer))
    assert decision.row is not None and decision.row.name == expected
    assert decision.notes == ((note,) if note else ())
    assert f"note: {note}" in str(decision) or not note


def test_what_would_change_the_kind_is_told() -> None:
    problem = gemm.GemmProblem(1, 100, 64, bias=True)
    for prefer, loser, remedy in (
        (None, "toy_asm", "hip is preferred (AITERLITE_PREFER=asm)"),
        ("asm", "hip", "toy_asm is preferred (AITERLITE_PREFER=hip)"),
    ):
        decision = dispatch.decide(TOY_TABLE, problem, resolve("gfx950"), Wishes(prefer=prefer))
        assert f"not {loser}: {remedy}" in str(decision)


def test_the_command_line_obeys_the_wish(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ("explain", "linear", "--target", "mi300x,mi355x", "n=4", "m=256", "k=7168")
    for prefer, backend in (("asm", "asm"), ("hip", "hip"), ("", "hip")):
        monkeypatch.setenv("AITERLITE_PREFER", prefer)
        envs.reload()
        text, data, _ = both(*words)
        assert [decision["backend"] for decision in data["decisions"]] == [backend, backend]
        assert ("not mfma: mfma_asm is preferred" in text) == (prefer == "asm")


def test_a_plan_has_the_geometry_of_its_row() -> None:
    problem = gemm.GemmProblem(1, 100, 64, bias=True)
    decision = dispatch.decide(TOY_TABLE, problem, resolve("gfx942"), Wishes(prefer="asm"))
    assert decision.plan == ToyPlan(2, 64)
    (kernel,) = decision.kernels
    assert (kernel.symbol, kernel.grid, kernel.block) == ("toy_checked", (2, 1, 1), (64, 1, 1))
    assert decision.units == (kernel.unit, launch_unit())
    assert (kernel.unit.symbols, kernel.unit.arguments) == (("toy_checked",), GEMM_ARGS.spec)


def test_a_kernel_with_heads_is_asked_for_them() -> None:
    assert dispatch.OneOf("heads", (16, 128)) in toy_row(heads=(16, 128)).requires


@pytest.mark.torch
@pytest.mark.emulated
@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
def test_an_assembly_kernel_is_launched_like_any_other(
    target: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import shutil

    import torch

    from aiterlite.launch import drivers
    from aiterlite.ops import matmul

    drivers.driver("emulated")
    for folder in ("csrc", "asm"):
        shutil.copytree(sources.PACKAGE_ROOT / folder, tmp_path / folder)
    asm_toy.write(SourceTree(tmp_path))
    monkeypatch.setattr(sources, "PACKAGE_ROOT", tmp_path)
    x, weight = torch.zeros(1, 64).bfloat16(), torch.randn(100, 64).bfloat16()
    bias = torch.randn(100).bfloat16()
    with envs.override(AITERLITE_TARGET=target, AITERLITE_PREFER="asm"):
        run = matmul.prepare(TOY_TABLE, x, weight, bias)
        assert torch.equal(run(x, weight, bias)[0], bias)
