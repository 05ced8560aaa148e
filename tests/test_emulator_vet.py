"""`vet`: a page on somebody else's object that is read in a minute, from the command line, in Python, and in pytest."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator.assembly import TARGETS, Kernel, assemble, kernel_text

from aiterlite import emulator
from aiterlite.cli import main
from aiterlite.emulator import disassemble, grouping
from aiterlite.emulator.vet import Vetting, vet

pytestmark = [pytest.mark.emulated, pytest.mark.torch, pytest.mark.compile]
Both = Callable[..., tuple[str, Any, int]]

PROLOGUE = """
s_load_dwordx4 s[4:7], s[0:1], 0
v_lshlrev_b32_e32 v1, 2, v0
s_mov_b32 m0, 0
s_waitcnt lgkmcnt(0)
"""
CLEAN = f"""{PROLOGUE}
global_load_dword v2, v1, s[4:5]
s_waitcnt vmcnt(0)
v_mul_f32_e32 v2, 0x40400000, v2
global_store_dword v1, v2, s[6:7]
s_endpgm
"""
TRANSCENDENTALS = ("exp", "log", "rcp", "rsq", "sqrt")


def repetitive() -> str:
    """A kernel for two waves that says the same hundreds of times, as unrolled code does, and has a few faults beside:
    the races and waits come last in the code."""
    lines = [PROLOGUE]
    for i in range(100):
        lines += [f"v_readfirstlane_b32 s{20 + i % 60}, v1", f"v_mov_b32_e32 v3, s{20 + i % 60}"]
    for i in range(20):
        for name in TRANSCENDENTALS:
            lines += [f"v_{name}_f32_e32 v{3 + i}, v1", f"v_add_f32_e32 v2, v{3 + i}, v1"]
    for i in range(70):
        lines.append(f"global_store_dword v1, v{60 + i}, s[6:7] offset:{4 * i}")
    for i in range(30):
        lines += [f"ds_read_b32 v5, v1 offset:{1024 + 4 * i}", "s_waitcnt lgkmcnt(0)"]
    for i in range(4):
        lines += [f"global_load_dword v{40 + i}, v1, s[4:5] offset:{4 * i}", f"v_xor_b32_e32 v2, v{40 + i}, v1"]
    lines.append("s_waitcnt vmcnt(0)\nv_mov_b32_e32 v6, 0")
    for i in range(3):
        lines += [f"ds_write_b32 v6, v1 offset:{4 * i}", "s_waitcnt lgkmcnt(0)"]
    return "\n".join([*lines, "s_endpgm"])


@pytest.fixture(autouse=True)
def use(emulator_library: str) -> None:
    emulator.use_library(emulator_library)


def text_of(body: str, target: str = "gfx942", lds: int = 4096, largest: int = 256) -> str:
    text = kernel_text(target, "k", body, Kernel(lds=lds))
    return text.replace(".max_flat_workgroup_size: 1024", f".max_flat_workgroup_size: {largest}")


def build(body: str, target: str = "gfx942", **options: Any) -> bytes:
    return assemble(target, text_of(body, target, **options))


def launch() -> dict[str, Any]:
    # The tensors hold what the kernel stores beside its own work-item's element.
    return {"grid": 1, "block": 128, "args": {"inputs": torch.ones(1024), "outputs": torch.zeros(1024)}}


def addresses(image: bytes) -> dict[int, str]:
    """The instructions by the addresses that listings have."""
    lines = re.findall(r"^\t(.*?)\s*// ([0-9A-F]{12}):", disassemble(image), re.MULTILINE)
    return {int(address, 16): " ".join(text.split()) for text, address in lines}


@pytest.mark.parametrize("target", TARGETS)
def test_hundreds_of_findings_are_a_page(target: str) -> None:
    image = build(repetitive(), target)
    found = vet(image, **launch())
    page = found.page()
    lines = page.splitlines()
    assert len(found.findings) > 300 and not found.ok
    assert len(lines) <= 40 and max(map(len, lines)) <= grouping.WIDTH, page
    # Races and waits first, though they come last in the code.
    heads = [re.match(r"([a-z]+)[:,]", line) for line in lines]
    checks = [head[1] for head in heads if head and head[1] in grouping.ORDER]
    assert checks == sorted(checks, key=grouping.ORDER.index) and {"races", "waits", "hazards", "lds"} <= set(checks)
    assert checks[0] == "races", page
    # Each kind once, with its count.
    kinds = grouping.kinds(found.findings)
    names = [(k.check, grouping.mnemonic(k.first.instruction), grouping.cause(k.first.what)) for k in kinds]
    assert len(set(names)) == len(names)
    readlane = next(k for k in kinds if k.check == "hazards" and "readfirstlane" in k.first.other_instruction)
    assert readlane.places == 100 and "hazards, 100 places" in page
    assert sum(kind.places for kind in kinds if kind.check == "hazards") == 200
    assert any(kind.places == 4 for kind in kinds if kind.check == "waits")
    # Addresses as listings have them, and the first of each kind.
    listed = addresses(image)
    shown = re.findall(r"\bat (0x[0-9a-f]+)\s+\(pc\s+(0x[0-9a-f]+)\)\s+`([^`]*)`", page.replace("\n    ", " "))
    assert len(shown) >= 8
    for address, pc, instruction in shown:
        assert listed[int(address, 16)] == instruction and int(address, 16) - int(pc, 16) == min(listed)
    for kind in (kind for kind in kinds if kind.first.pc >= 0):
        assert listed[kind.first.listed] == kind.first.instruction
        assert kind.first.other_pc < 0 or listed[kind.first.other_listed] == kind.first.other_instruction
    assert lines[-1] == f"FOUND {grouping.summary(found.findings)}" and lines[-1].startswith("FOUND races ")


@pytest.mark.parametrize("target", TARGETS)
def test_a_clean_kernel(target: str) -> None:
    image = build(CLEAN, target)
    args = {"inputs": torch.arange(128.0), "outputs": torch.zeros(128)}
    found = vet(image, "k", grid=1, block=128, args=args)
    assert found.ok and found.page().splitlines()[-1] == "nothing found", found.page()
    assert torch.equal(args["outputs"], 3 * torch.arange(128.0))
    assert "k (inputs, outputs)" in found.page() and "under all sanitizers in 2 orders" in found.page()
    alone = vet(image)
    assert alone.ok and "not run: it was given no arguments" in alone.page()
    (fact,) = alone.facts
    assert fact["block"] == [256, 1, 1] and fact["occupancy"]["limit"] == "vgprs"


# Without a run --------------------------------------------------------------------------------------------------------

LOOP = """
s_mov_b32 s20, 4
loop:
v_add_f32_e32 v7, v8, v8
s_sub_u32 s20, s20, 1
s_cmp_lg_u32 s20, 0
v_mfma_f32_16x16x16_f16 v[8:11], v[4:5], v[6:7], 0
s_cbranch_scc1 loop
s_endpgm
"""


def only(body: str, target: str = "gfx942") -> list[tuple[str, str, str]]:
    found = vet(build(body, target)).findings
    assert all(finding.wave == -1 for finding in found)
    return [(f.check, f.instruction.split()[0], f.other_instruction.split()[0]) for f in found]


@pytest.mark.parametrize(
    ("name", "body", "expected"),
    [
        ("a wait in a line", CLEAN.replace("s_waitcnt vmcnt(0)", ""),
         [("waits", "v_mul_f32_e32", "global_load_dword")]),
        ("a wait state in a line", "v_readfirstlane_b32 s20, v1\nv_mov_b32_e32 v3, s20\ns_endpgm",
         [("hazards", "v_mov_b32_e32", "v_readfirstlane_b32")]),
        ("behind a branch that falls through", "v_readfirstlane_b32 s20, v1\ns_cbranch_scc1 to\n"
         "v_mov_b32_e32 v3, s20\nto:\ns_endpgm", [("hazards", "v_mov_b32_e32", "v_readfirstlane_b32")]),
        ("around a loop", LOOP, [("hazards", "v_add_f32_e32", "v_mfma_f32_16x16x16_f16")]),
        ("behind a branch that is taken", "v_readfirstlane_b32 s20, v1\ns_branch to\ns_nop 7\nto:\n"
         "v_mov_b32_e32 v3, s20\ns_endpgm", [("hazards", "v_mov_b32_e32", "v_readfirstlane_b32")]),
        ("not across the end", "v_readfirstlane_b32 s20, v1\ns_endpgm\nv_mov_b32_e32 v3, s20\ns_endpgm", []),
        ("not across a jump", "v_readfirstlane_b32 s20, v1\ns_branch to\nv_mov_b32_e32 v3, s20\nto:\ns_endpgm", []),
        ("not a wait that a branch decides about", "global_load_dword v2, v1, s[4:5]\ns_cbranch_scc1 to\n"
         "v_mov_b32_e32 v3, v2\nto:\ns_endpgm", []),
        ("not a wait into a block that others reach", "s_cbranch_scc1 to\nglobal_load_dword v2, v1, s[4:5]\nto:\n"
         "v_mov_b32_e32 v3, v2\ns_endpgm", []),
        ("not what indexing moves", "v_readfirstlane_b32 s20, v1\ns_set_gpr_idx_on s20, gpr_idx(SRC0)\n"
         "v_mov_b32_e32 v3, v2\ns_set_gpr_idx_off\ns_endpgm", []),
        ("waits are no branches", "v_readfirstlane_b32 s20, v1\ns_waitcnt vmcnt(0)\ns_nop 0\nv_mov_b32_e32 v3, s20\n"
         "s_endpgm", []),
    ],
)  # fmt: skip
def test_straight_lines(name: str, body: str, expected: list[tuple[str, str, str]]) -> None:
    assert only(body) == expected


def edited(*edits: tuple[str, str]) -> bytes:
    text = text_of(CLEAN)
    for before, after in edits:
        assert before in text, before
        text = text.replace(before, after)
    return assemble("gfx942", text)


@pytest.mark.parametrize(
    ("edit", "check", "what"),
    [
        ((".vgpr_count: 256", ".vgpr_count: 600"), "descriptor",
         ".vgpr_count is 600, and the descriptor allocates 512"),
        ((".agpr_count: 256", ".agpr_count: 300"), "descriptor",
         ".agpr_count is 300, and the descriptor allocates 256"),
        ((".sgpr_count: 100", ".sgpr_count: 200"), "descriptor",
         ".sgpr_count is 200, and the descriptor allocates 112"),
        ((".group_segment_fixed_size: 4096", ".group_segment_fixed_size: 2048"), "descriptor",
         ".group_segment_fixed_size is 2048, and the descriptor has 4096 bytes of LDS"),
        ((".private_segment_fixed_size: 0\n    .wave", ".private_segment_fixed_size: 16\n    .wave"), "descriptor",
         ".private_segment_fixed_size is 16, and the descriptor has 0 bytes of scratch"),
        (("    .kernarg_segment_size: 16", "    .kernarg_segment_size: 24"), "descriptor",
         ".kernarg_segment_size is 24, and the descriptor's 16"),
        ((".max_flat_workgroup_size: 256", ".max_flat_workgroup_size: 1024"), "descriptor",
         "the largest workgroup, 16 waves, does not fit on a compute unit by vgprs"),
        ((".wavefront_size: 64", ".wavefront_size: 32"), "metadata", ".wavefront_size is 32"),
        ((".max_flat_workgroup_size: 256", ".max_flat_workgroup_size: 128\n    .reqd_workgroup_size: [256, 1, 1]"),
         "metadata", ".reqd_workgroup_size is 256 work-items, and .max_flat_workgroup_size 128"),
        ((".offset: 8", ".offset: 4"), "metadata", "argument `outputs` at byte 4 lies over `inputs`"),
        ((".offset: 8", ".offset: 12"), "metadata",
         "argument `outputs` ends at byte 20, and .kernarg_segment_size is 16"),
        (("amdhsa.target: amdgcn-amd-amdhsa--gfx942", "amdhsa.target: amdgcn-amd-amdhsa--gfx950"), "metadata",
         "amdhsa.target is amdgcn-amd-amdhsa--gfx950, and the object's header says gfx942"),
        (("s_endpgm", "scratch_store_dword v1, v2, off\ns_endpgm"), "descriptor",
         "the code uses scratch (scratch_store_dword), and the descriptor has 0 bytes of it"),
        (("s_endpgm", "ds_gws_barrier v0 gds\ns_endpgm"), "unknown",
         "the emulator cannot run this form of it (DS): "),
        (("s_endpgm", ".long 0xffffffff\ns_endpgm"), "unknown", ""),
    ],
)  # fmt: skip
def test_what_an_object_says_of_itself(edit: tuple[str, str], check: str, what: str) -> None:
    found = vet(edited(edit))
    assert [finding.check for finding in found.findings] == [check], found.page()
    assert found.findings[0].what.startswith(what)
    assert found.findings[0].kernel == ("" if "amdhsa.target" in what else "k")
    assert check == "unknown" or found.findings[0].mend


def test_registers_that_a_kernel_does_not_have() -> None:
    text = kernel_text("gfx942", "k", "v_mov_b32_e32 v40, 0\nv_mov_b32_e32 v41, 0\ns_endpgm", Kernel(), ("out",))
    for field, value in {"next_free_vgpr": 32, "accum_offset": 32}.items():
        text = re.sub(rf"(\.amdhsa_{field}) \d+", rf"\1 {value}", text)
    found = [item for item in vet(assemble("gfx942", text)).findings if item.what.startswith("v4")]
    assert [(item.check, item.kernel, item.instruction) for item in found] == [
        ("descriptor", "k", "v_mov_b32_e32 v40, 0")
    ]
    assert "; 2 instructions have such, up to v41" in found[0].what and found[0].listed > found[0].pc >= 0


def test_kernels_that_are_unlike(both: Both, tmp_path: Path) -> None:
    """One without a size, as assembly often leaves it out, and behind it one that no metadata names."""
    first = text_of(CLEAN).replace(".size k, .Lend_k-k\n", "")
    bare = kernel_text("gfx942", "bare", "v_readfirstlane_b32 s20, v1\nv_mov_b32_e32 v3, s20\ns_endpgm", Kernel())
    bare = re.sub(r"(\.amdhsa_kernarg_size) \d+", r"\1 0", bare[bare.index(".text") : bare.index(".amdgpu_metadata")])
    (tmp_path / "two.co").write_bytes(assemble("gfx942", first + bare))
    text, data, code = both("vet", str(tmp_path / "two.co"))
    assert code == 1 and text.startswith(f"{tmp_path}/two.co: gfx942, 2 kernels, code at 0x")
    assert [(f["check"], f["kernel"]) for f in data["findings"]] == [("hazards", "bare"), ("metadata", "bare")]
    assert "bare (no metadata)" in text and "no metadata names this kernel" in text
    assert both("vet", str(tmp_path / "two.co"), "--kernel", "k")[2] == 0
    # Its arguments cannot be named, but it can be run.
    text, _, code = both("vet", str(tmp_path / "two.co"), "--kernel", "bare", "--grid", "1")
    assert code == 1 and "run on mi300x: bare" in text and text.endswith("FOUND hazards 1, metadata 1")


def test_lds_that_a_chip_does_not_have() -> None:
    found = vet(build(CLEAN, "gfx950", lds=163840))
    assert found.ok, found.page()
    (finding,) = vet(build(CLEAN, lds=65536 + 512)).findings
    assert finding.what == "66048 bytes of LDS, and a compute unit has 65536"


def test_an_object_that_cannot_be_loaded(both: Both, tmp_path: Path) -> None:
    image = build(CLEAN)
    (tmp_path / "short.co").write_bytes(image[: len(image) // 2])
    text, data, code = both("vet", str(tmp_path / "short.co"), "--arg", "x=1")
    assert code == 1 and text.splitlines()[-1] == "FOUND errors 1"
    assert "errors: the object cannot be loaded: " in text and data["findings"][0]["check"] == "errors"


# The command line -----------------------------------------------------------------------------------------------------

HASTY = CLEAN.replace("s_waitcnt vmcnt(0)\n", "")
TENSORS = ("--block", "128", "--arg", "inputs=f32[128]:arange", "--arg", "outputs=f32[128]")


@pytest.fixture
def file(tmp_path: Path) -> Callable[..., str]:
    def written(body: str, name: str = "k.co", **options: Any) -> str:
        (tmp_path / name).write_bytes(build(body, **options))
        return str(tmp_path / name)

    return written


def test_the_page_of_the_command_line(both: Both, file: Callable[..., str]) -> None:
    text, data, code = both("vet", file(CLEAN), *TENSORS)
    assert code == 0 and data["findings"] == data["kinds"] == [] and text.splitlines()[-1] == "nothing found"
    assert data["kernels"][0]["arguments"] == [["inputs", "global_buffer", 0, 8], ["outputs", "global_buffer", 8, 8]]
    text, data, code = both("vet", file(HASTY), *TENSORS)
    (kind,) = data["kinds"]
    assert (kind["check"], kind["places"], kind["cause"]) == (
        "waits", 1, "v# is read while `global_load_dword` is under way")  # fmt: skip
    assert code == 1 and "FOUND waits 1" in text
    assert "workgroup (0, 0, 0), wave 0" in text
    text, data, code = both("vet", file(HASTY), "--kernel", "k")
    assert code == 1 and "FOUND waits 1" in text and "workgroup (0" not in text


def test_a_run_that_stops_is_a_finding(both: Both, file: Callable[..., str]) -> None:
    short = ("--block", "128", "--arg", "inputs=f32[127]:arange", "--arg", "outputs=f32[128]")
    text, data, code = both("vet", file(HASTY), *short)
    assert code == 1 and text.splitlines()[-1] == "FOUND errors 1, waits 1"
    error = data["findings"][0]
    assert (
        error["check"] == "errors"
        and error["what"].startswith("MemoryViolation: global read of 4 bytes")
        and error["lane"] == 63
    )
    assert error["instruction"].startswith("global_load_dword") and "not looked at" in text
    endless = file("loop:\ns_branch loop")
    text, _, code = both("vet", endless, "--arg", "inputs=null", "--arg", "outputs=null", "--max-instructions", "10000")
    words = " ".join(text.split())
    assert code == 1 and "errors: InstructionLimitError: " in words and "limit of 10000 instructions" in words


def test_a_jump_to_nowhere(file: Callable[..., str]) -> None:
    # Into the literal of s_mov_b32, where there is no instruction to be named.
    astray = "s_getpc_b64 s[4:5]\ns_add_u32 s4, s4, 12\ns_setpc_b64 s[4:5]\ns_mov_b32 s6, 0x12345678\ns_endpgm"
    found = vet(file(astray), args={"inputs": None, "outputs": None})
    assert [finding.check for finding in found.findings] == ["errors"]
    place = f"{found.code_base + 16:#x} (pc 0x10)"
    assert f"    at {place}, workgroup (0, 0, 0), wave 0" in found.page().splitlines()
    assert f"control went to {place}, where no instruction begins" in " ".join(found.page().split())


def test_a_race_that_only_another_order_shows(both: Both, file: Callable[..., str]) -> None:
    # Workgroups write their number to the same element.
    body = f"{PROLOGUE}v_mov_b32_e32 v2, s2\nv_mov_b32_e32 v1, 0\ns_mov_b64 exec, 1\n"
    body += "global_store_dword v1, v2, s[6:7]\ns_endpgm"
    text, data, code = both("vet", file(body), "--grid", "8", "--arg", "inputs=null", "--arg", "outputs=i32[1]")
    assert code == 1 and {"races", "schedules"} <= {finding["check"] for finding in data["findings"]}
    assert "schedules" in text and "`outputs` has other bits in" in text


def test_a_baseline(both: Both, file: Callable[..., str], tmp_path: Path) -> None:
    known = str(tmp_path / "known.json")
    assert both("vet", file(HASTY), *TENSORS, "--write-baseline", known)[2] == 0
    text, data, code = both("vet", file(HASTY), *TENSORS, "--baseline", known)
    assert code == 0 and len(data["known"]) == 1 and "known: waits 1" in text and text.endswith("nothing found")
    # The same fault elsewhere is known; another one is not, and neither is the same once more.
    assert both("vet", file("s_nop 0\n" + HASTY), *TENSORS, "--baseline", known)[2] == 0
    other = HASTY.replace("s_endpgm", "v_readfirstlane_b32 s20, v2\nv_mov_b32_e32 v3, s20\ns_endpgm")
    text, data, code = both("vet", file(other), *TENSORS, "--baseline", known)
    assert code == 1 and text.splitlines()[-1] == "FOUND hazards 1"
    text, _, code = both("vet", file(CLEAN), *TENSORS, "--baseline", known)
    assert code == 0 and "1 known finding not met again" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lds", "64", "--grid", "x"], "--grid is 'x'"),
        (["--kernarg", "x.json", "--arg", "a=1"], "--kernarg holds all arguments"),
        (["--target", "gfx942,gfx950"], "a file runs on one chip"),
        (["--max-instructions", "-1"], "--max-instructions must be at least 0"),
    ],
)
def test_wrong_words(
    file: Callable[..., str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["vet", file(CLEAN), *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--kernel", "other"], "no kernel `other` in the object; it has: k"),
        (["--arg", "inputs=null"], "k takes (inputs, outputs): missing outputs"),
        (["--baseline", "absent.json"], "absent.json cannot be read"),
        (["--kernarg", "absent.json"], "absent.json cannot be read"),
    ],
)
def test_what_cannot_be_done(
    file: Callable[..., str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    assert main(["vet", file(CLEAN), *words]) == 1
    assert message in capsys.readouterr().err


def test_a_dump_is_vetted(both: Both, file: Callable[..., str], tmp_path: Path) -> None:
    dump = str(tmp_path / "dump.json")
    _, before, _ = both("emulate", file(CLEAN), *TENSORS, "--dump-kernarg", dump)
    text, _, code = both("vet", file(CLEAN), "--kernarg", dump)
    assert code == 0 and "grid 1 x 1 x 1, block 128 x 1 x 1" in text
    _, after, _ = both("emulate", file(CLEAN), "--kernarg", dump)
    assert after["tensors"] == before["tensors"]


# Pytest ---------------------------------------------------------------------------------------------------------------


def test_the_fixture(pytester: pytest.Pytester, file: Callable[..., str]) -> None:
    pytester.makepyfile(
        f"""
        import torch

        KNOWN = "known.json"

        def test_quiet(vet):
            x, y = torch.ones(128), torch.empty(128)
            vet({file(CLEAN)!r}, "k", grid=1, block=128, args={{"inputs": x, "outputs": y}})
            assert torch.equal(y, 3 * x)

        def test_hasty(vet):
            vet({file(HASTY, "hasty.co")!r})

        def test_known(vet):
            from aiterlite.emulator import baseline
            from aiterlite.emulator.vet import vet as look
            from pathlib import Path

            baseline.write(Path(KNOWN), look({file(HASTY, "hasty.co")!r}).findings)
            vet({file(HASTY, "hasty.co")!r}, baseline=KNOWN)
        """
    )
    # In this process, which has the emulator: another one takes ten seconds to start.
    result = pytester.runpytest_inprocess("-p", "aiterlite.emulator.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, failed=1)
    result.stdout.fnmatch_lines(["*hasty.co: gfx942*", "*waits: v2 is read while*", "*FOUND waits 1*"])


def test_data_is_json(file: Callable[..., str]) -> None:
    found: Vetting = vet(file(HASTY))
    assert json.loads(json.dumps(found.data()))["kinds"][0]["first"]["listed"] > 0
