"""`emulate` and `disasm`: kernels run from the command line, and how wrong words are answered."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from emulator.assembly import Kernel, assemble, kernel_text

from aiterlite import emulator, envs
from aiterlite.cli import kernel_args, main
from aiterlite.cli.command import UsageError
from aiterlite.emulator import coverage
from aiterlite.emulator.arguments import Argument, pack

pytestmark = [pytest.mark.emulated, pytest.mark.torch, pytest.mark.compile]
Both = Callable[..., tuple[str, Any, int]]

# outputs[i] = 3 * inputs[i] for one wave of float32.
TRIPLE = """
s_load_dwordx4 s[4:7], s[0:1], 0
v_lshlrev_b32_e32 v1, 2, v0
s_waitcnt lgkmcnt(0)
global_load_dword v2, v1, s[4:5]
s_waitcnt vmcnt(0)
v_mul_f32_e32 v2, 0x40400000, v2
global_store_dword v1, v2, s[6:7]
s_endpgm
"""
# Wave 1 stores its lane numbers, and wave 0 copies what it finds there, with nothing between them.
UNORDERED = """
s_load_dwordx4 s[4:7], s[0:1], 0
v_and_b32_e32 v1, 63, v0
v_lshlrev_b32_e32 v1, 2, v1
v_readfirstlane_b32 s8, v0
s_waitcnt lgkmcnt(0)
s_cmp_eq_u32 s8, 0
s_cbranch_scc1 copy
global_store_dword v1, v0, s[4:5]
s_waitcnt vmcnt(0)
s_endpgm
copy:
s_nop 7
global_load_dword v2, v1, s[4:5]
s_waitcnt vmcnt(0)
global_store_dword v1, v2, s[6:7]
s_endpgm
"""


@pytest.fixture(autouse=True)
def use(emulator_library: str) -> None:
    emulator.use_library(emulator_library)


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., str]:
    """Assembles a kernel `k` with pointers `inputs` and `outputs`; gives its file."""

    def assembled(body: str, target: str = "gfx942", name: str = "k") -> str:
        path = tmp_path / f"{name}-{target}.co"
        path.write_bytes(assemble(target, kernel_text(target, "k", body, Kernel())))
        return str(path)

    return assembled


TENSORS = ("--arg", "inputs=f32[64]:arange", "--arg", "outputs=f32[64]")


def test_a_kernel_of_a_file(both: Both, make: Callable[..., str]) -> None:
    text, data, code = both("emulate", make(TRIPLE), *TENSORS)
    expected = 3 * np.arange(64, dtype=np.float32)
    assert code == 0 and data["instructions"] == 8 and data["target"] == "mi300x"
    assert data["tensors"]["outputs"]["sha256"] == hashlib.sha256(expected.tobytes()).hexdigest()
    assert (data["tensors"]["outputs"]["least"], data["tensors"]["outputs"]["most"]) == (0.0, 189.0)
    assert "outputs: float32[64], 0 to 189, sha256 " in text


@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
def test_a_trace(both: Both, make: Callable[..., str], target: str) -> None:
    text, data, code = both("emulate", make(TRIPLE, target), "--kernel", "k", "--trace", "0,0", *TENSORS)
    assert code == 0 and data["target"] == {"gfx942": "mi300x", "gfx950": "mi355x"}[target]
    wrote = "v_mul_f32_e32 v2, 0x40400000, v2\n    v2 = 00000000 40400000 40c00000"
    assert wrote in data["trace"] and wrote in text
    # Each line has the address that listings have, and its distance from the start of the code.
    listing = both("disasm", make(TRIPLE, target))[1]["listing"]
    for line in re.findall(r"^ +\d+ .*", data["trace"], re.MULTILINE):
        _, listed, pc, instruction = line.split(maxsplit=3)
        assert int(listed, 16) - int(pc, 16) == int(listing[0].split()[0], 16)
        assert any(item.split("//")[0].strip() == instruction and listed.upper() in item for item in listing[1:])
    short = both("emulate", make(TRIPLE, target), "--trace", "0,0", "--trace-lines", "2", *TENSORS)[1]["trace"]
    assert short.count("\n     1 ") == 1 and "\n     2 " not in short and "\n     2 " in data["trace"]


def test_an_estimate_from_one_workgroup_of_a_file(both: Both, make: Callable[..., str]) -> None:
    """The kernel runs once and stands for 3,040 workgroups; `outputs` is written by all of them alike."""
    words = (make(TRIPLE), *TENSORS, "--grid", "3040", "--estimate", "--only", "1", "--published", "1e-6")
    text, data, code = both("emulate", *words)
    assert code == 0 and data["instructions"] == 8
    assert "from 1 of 3040 workgroups" in data["estimate"]["why"] and data["estimate"]["published"]["impossible"]
    assert "at most 1 workgroups ran" in text and "IMPOSSIBLE 1e-06 us cannot be" in text
    whole = both("emulate", *words[:-4], "--published", "1e-6")[1]
    assert whole["instructions"] == 8 * 3040
    assert whole["estimate"]["us"] == pytest.approx(data["estimate"]["us"])


def test_an_access_outside_is_an_error(make: Callable[..., str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["emulate", make(TRIPLE), "--arg", "inputs=f32[63]", "--arg", "outputs=f32[64]"]) == 1
    message = capsys.readouterr().err
    assert "kernel `k`" in message and "lane 63" in message and "global_load_dword" in message


def test_an_error_says_where_listings_have_it(make: Callable[..., str], both: Both) -> None:
    """`listed` is the address in the listing, `pc` the distance from the start of the code, and messages have both."""
    args = {"inputs": torch.zeros(64), "outputs": torch.zeros(64)}
    path = make(TRIPLE.replace("0x40400000, v2", "0x40400000, v2\nv_mov_b32_e32 v1, -1"), name="outside")
    with pytest.raises(emulator.MemoryViolation) as outside:
        emulator.Device("gfx942").load(path).launch("k", 1, 64, args)
    error = outside.value
    data = both("disasm", path)[1]
    line = next(line for line in data["listing"] if f"// {error.listed:012X}:" in line)
    assert line.split("//")[0].strip() == error.instruction and error.listed - error.pc == data["code_base"]
    assert f", at {error.listed:#x} (pc {error.pc:#x}) `{error.instruction}`" in str(error)
    # Into the literal of s_mov_b32.
    jump = "s_getpc_b64 s[4:5]\ns_add_u32 s4, s4, 12\ns_setpc_b64 s[4:5]\ns_mov_b32 s6, 0x12345678\ns_endpgm"
    path = make(jump, name="jump")
    with pytest.raises(emulator.ControlFlowError) as astray:
        emulator.Device("gfx942").load(path).launch("k", 1, 64, args)
    place = f"{both('disasm', path)[1]['code_base'] + 16:#x} (pc 0x10)"
    assert f"control went to {place}, where no instruction begins" in str(astray.value)


def test_races_between_waves(both: Both, make: Callable[..., str]) -> None:
    words = ("--block", "128", "--races", "--arg", "inputs=i32[64]", "--arg", "outputs=i32[64]")
    text, data, code = both("emulate", make(UNORDERED), *words)
    assert code == 1 and {race["argument"] for race in data["races"]} == {"outputs"} and "RACE: outputs differs" in text
    text, data, code = both("emulate", make(TRIPLE), "--races", *TENSORS)
    assert code == 0 and data["races"] == [] and "the same bits under 7 schedules" in text


@pytest.mark.installed
@pytest.mark.parametrize("chips", ["mi300x,gfx950", "mi308x"])
def test_an_operator(both: Both, chips: str) -> None:
    text, data, code = both("emulate", "wvSplitK", "n=3", "m=37", "k=520", "bias=1", "--races", "--target", chips)
    assert code == 0 and [run["target"] for run in data["runs"]] == chips.split(",")
    for run in data["runs"]:
        assert run["row"] == "mfma" and run["instructions"] > 1000 and run["races"] == []
        assert 0.01 < run["of_bound"] <= 1
    assert text.count("7 schedules: the same bits under each") == len(data["runs"])


@pytest.mark.installed
def test_an_operator_in_assembly(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AITERLITE_PREFER", "asm")
    envs.reload()
    _, data, code = both("emulate", "wvSplitK", "n=3", "m=37", "k=520", "--target", "mi300x,gfx950")
    assert code == 0 and [run["target"] for run in data["runs"]] == ["mi300x", "gfx950"]
    assert all(run["row"] == "mfma_asm" and 0.01 < run["of_bound"] <= 1 for run in data["runs"])


def test_a_wrong_result_is_told(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiterlite.ops import samples

    monkeypatch.setattr(samples.Sample, "of_bound", lambda self, y: 1.5)
    text, _, code = both("emulate", "wvSplitK", "n=1", "m=16", "k=64")
    assert code == 1 and "NOT WITHIN the bound (1.50 of it)" in text


def test_other_bits_under_another_schedule_are_told(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiterlite.cli import emulate_op

    monkeypatch.setattr(emulate_op, "_same_bits", lambda a, b: False)
    text, data, code = both("emulate", "wvSplitK", "n=1", "m=16", "k=64", "--races")
    assert code == 1 and len(data["runs"][0]["races"]) == len(emulator.SCHEDULES) and "OTHER BITS under" in text


# Sanitizers and counters ----------------------------------------------------------------------------------------------

HASTY = TRIPLE.replace("s_waitcnt vmcnt(0)\n", "")


def test_sanitizers_name_the_fault_and_its_mending(both: Both, make: Callable[..., str]) -> None:
    text, data, code = both("emulate", make(HASTY), *TENSORS, "--sanitize")
    assert code == 1 and [finding["check"] for finding in data["findings"]] == ["waits"]
    assert "FOUND waits 1\n  waits: v2 is read" in text and "s_waitcnt vmcnt(0)" in text and "`v_mul_f32_e32" in text
    text, data, code = both("emulate", make(TRIPLE), *TENSORS, "--sanitize")
    assert code == 0 and data["findings"] == [] and "nothing found by the sanitizers (all)" in text


def test_what_the_checks_let_pass_is_noted(both: Both, make: Callable[..., str]) -> None:
    """Two workgroups store the same numbers to the same bytes."""
    text, data, code = both("emulate", make(TRIPLE), *TENSORS, "--grid", "2", "--sanitize", "races")
    assert code == 0 and data["findings"] == [] and len(data["notes"]) == 1
    assert f"  NOTE {data['notes'][0]}" in text.splitlines() and "run it with other data" in data["notes"][0]
    _, data, _ = both("emulate", make(TRIPLE), *TENSORS, "--sanitize", "races")
    assert data["notes"] == []


@pytest.mark.parametrize(("names", "found"), [("waits", 1), ("races,waits", 1), ("hazards,lds", 0)])
def test_sanitizers_can_be_chosen(both: Both, make: Callable[..., str], names: str, found: int) -> None:
    _, data, code = both("emulate", make(HASTY), *TENSORS, "--sanitize", names)
    assert len(data["findings"]) == code == found


@pytest.mark.parametrize("names", ["wait", ",", "waits,al"])
def test_an_unknown_sanitizer(make: Callable[..., str], capsys: pytest.CaptureFixture[str], names: str) -> None:
    assert main(["emulate", make(TRIPLE), *TENSORS, "--sanitize", names]) == 2
    assert f"--sanitize is '{names}'; allowed: all, or some of waits,hazards" in capsys.readouterr().err


def test_counters_of_a_file(both: Both, make: Callable[..., str]) -> None:
    text, data, _ = both("emulate", make(TRIPLE), *TENSORS, "--counters")
    moved = data["counters"]["bytes"]["global"]
    assert (moved["read"], moved["written"]) == (256, 256) and data["counters"]["instructions"]["total"] == 8
    assert "not a time" in text and "on mi300x" in text


def test_an_operator_watched(both: Both) -> None:
    words = ("emulate", "wvSplitK", "n=2", "m=32", "k=256", "--sanitize", "all", "--counters")
    text, data, code = both(*words)
    (run,) = data["runs"]
    assert code == 0 and run["findings"] == [] and "nothing found by the sanitizers" in text
    (counted,) = run["counters"]
    assert counted["arguments"]["weight"]["unique_read"] == 32 * 256 * 2


def test_the_fixture_fails_a_test_with_a_finding(pytester: pytest.Pytester, make: Callable[..., str]) -> None:
    pytester.makepyfile(
        f"""
        import torch
        from aiterlite import emulator

        def launch(path):
            module = emulator.Device("gfx942").load(path)
            module.launch("k", 1, 64, {{"inputs": torch.ones(64), "outputs": torch.empty(64)}})

        def test_hasty(sanitized):
            launch({make(HASTY)!r})

        def test_quiet(sanitized):
            launch({make(TRIPLE, name="twin")!r})
        """
    )
    # In this process, which has the emulator: another one takes ten seconds to start.
    result = pytester.runpytest_inprocess("-p", "aiterlite.emulator.pytest_plugin", "-p", "no:cacheprovider")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the sanitizers found waits 1*", "*waits: v2 is*s_waitcnt vmcnt(0)*"])


# Coverage and listing -------------------------------------------------------------------------------------------------


def test_coverage_names_each_form(both: Both, make: Callable[..., str]) -> None:
    path = make(TRIPLE)
    text, data, code = both("emulate", "--coverage", path)
    forms = {(form["op"], form["encoding"]): form for form in data["files"][path]["forms"]}
    assert code == 0 and "all supported" in text and data["files"][path]["instructions"] == 8
    assert forms["s_waitcnt", "SOPP"]["count"] == 2 and forms["v_mul_f32", "VOP2"]["functions"] == ["k"]


def test_coverage_names_what_cannot_run(both: Both, make: Callable[..., str]) -> None:
    path = make("ds_gws_barrier v0 gds\n.long 0xffffffff\ns_endpgm")
    text, data, code = both("emulate", "--coverage", path)
    found = data["files"][path]
    assert code == 1 and not found["complete"]
    assert [place[1] - found["unknown"][0][1] for place in found["unknown"]] == [0]
    refused = [form for form in found["forms"] if form["refusal"]]
    assert [form["op"] for form in refused] == ["ds_gws_barrier"]
    ((_, listed, _),) = found["unknown"]
    assert "refused: ds_gws_barrier DS, 1 times" in text
    assert f"unknown: k at {listed:#x} (pc {listed - found['code_base']:#x}): " in text and listed > found["code_base"]


def test_coverage_adds_the_functions_of_an_object_up(make: Callable[..., str]) -> None:
    found = coverage(Path(make(TRIPLE)).read_bytes())
    assert found.complete and found.functions == 1 and sum(form.count for form in found.forms) == found.instructions


def test_a_listing(both: Both, make: Callable[..., str]) -> None:
    text, data, code = both("disasm", make(TRIPLE))
    assert code == 0 and data["listing"][0].endswith("<k>:") and text.count("s_waitcnt") == 2
    assert text.startswith(f"code at {data['code_base']:#x}, from which reports count pc\n")
    assert int(data["listing"][0].split()[0], 16) == data["code_base"]


def test_a_file_that_is_no_object(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "text").write_text("no object")
    for words in (["disasm"], ["emulate"], ["emulate", "--coverage"]):
        assert main([*words, str(tmp_path / "text")]) == 1
        assert "ELF" in capsys.readouterr().err
        assert main([*words, str(tmp_path / "absent")]) == 2
        assert "absent cannot be read" in capsys.readouterr().err


# Words ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["wvSplitK", "n=1", "m=16", "k=64", "--target", "h100"], "h100 is no AMD target"),
        (["linear", "n=129", "m=16", "k=64"], "no kernel of this package serves this problem on mi300x"),
        (["wvSplitK", "n=1", "k=8"], "wvSplitK: m and k go together, and k is given without m"),
        (["wvSplitK", "n=1", "--what"], "unrecognized arguments: --what"),
        (["wvSplitK", "n=1", "m=1", "k=8", "--quantum", "0"], "--quantum must be at least 1"),
        (["FILE", "--arg", "x"], "--arg takes NAME=..., each name once"),
        (["FILE", "--grid", "1,x"], "--grid is '1,x'"),
        (["FILE", "--target", "gfx942,gfx950"], "a file runs on one chip"),
        (["FILE", "n=4"], "give one file, or one operator"),
        (["FILE", "--frobnicate"], "unrecognized arguments: --frobnicate"),
        (["FILE", "--save", "x", *TENSORS], "--save takes NAME=..., each name once"),
        (["FILE", "--save", "x=y.bin", *TENSORS], "--save: no tensor 'x'; there are inputs, outputs"),
        (["wvSplitK", "n=1", "m=1", "k=8", "--save", "x=y"], "--save is for a FILE; wvSplitK makes its own operands"),
        (
            ["wvSplitK", "n=1,2", "m=1", "k=8", "--write-baseline", "x"],
            "--write-baseline takes the findings of one run",
        ),
        (["FILE", "--arg", "inputs=&none"], "no tensor 'none'"),
        (["FILE", "--arg", "inputs={i32:1"], "lacks its closing brace"),
    ],
)
def test_wrong_words(
    make: Callable[..., str], capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    path = make(TRIPLE)
    assert main(["emulate", *(path if word == "FILE" else word for word in words)]) == 2
    assert message in capsys.readouterr().err


def test_a_kernel_must_be_named_where_there_are_two(
    monkeypatch: pytest.MonkeyPatch, make: Callable[..., str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(TRIPLE)
    load = emulator.Device.load

    def two(self: emulator.Device, data: bytes) -> emulator.Module:
        module = load(self, data)
        module.kernels["other"] = module.kernels["k"]
        return module

    monkeypatch.setattr(emulator.Device, "load", two)
    assert main(["emulate", path, *TENSORS]) == 2
    assert "--kernel names one of k, other" in capsys.readouterr().err


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_tensors_in_words() -> None:
    made = kernel_args.tensor("bf16[2,3]:arange", generator())
    assert made.dtype == torch.bfloat16 and made.tolist() == [[0, 1, 2], [3, 4, 5]]
    assert kernel_args.tensor("u8[4]", generator()).tolist() == [0, 0, 0, 0]
    assert kernel_args.tensor("f32[4]:ones", generator()).tolist() == [1, 1, 1, 1]
    assert bool(torch.isnan(kernel_args.tensor("f16[5]:nan", generator())).all())
    assert kernel_args.tensor("i32[1000]:bits", generator()).abs().max() > 2**30
    normal = kernel_args.tensor("f64[1000]:normal", generator())
    assert torch.equal(normal, kernel_args.tensor("f64[1000]:normal", generator())) and 0.9 < float(normal.std()) < 1.1
    uniform = kernel_args.tensor("f32[1000]:uniform", generator())
    assert 0 <= float(uniform.min()) < 0.1 and 0.9 < float(uniform.max()) < 1
    given = {"x": made, "y": normal}
    assert kernel_args.tensor("f32[4]:1,-2,0.5,3", generator()).tolist() == [1, -2, 0.5, 3]
    assert kernel_args.tensor("bf16[2,2]:7", generator()).tolist() == [[7, 7], [7, 7]]
    assert kernel_args.tensor("i8[3]:-128,0x7f,0", generator()).tolist() == [-128, 127, 0]
    assert kernel_args.tensor("u64[1]:0xffffffffffffffff", generator()).view(torch.int64).tolist() == [-1]
    assert kernel_args.tensor("fp8[2]:1,-0.5", generator()).float().tolist() == [1, -0.5]
    table = kernel_args.tensor("ptr[2,2]:&x,null,&y+16,&x", generator(), given)
    x, y = made.data_ptr(), normal.data_ptr()
    assert table.dtype == torch.int64 and table.tolist() == [[x, 0], [y + 16, x]]
    assert kernel_args.tensor("ptr[3]:&x", generator(), given).tolist() == [x] * 3
    assert kernel_args.tensor("ptr[2]", generator(), given).tolist() == [0, 0]
    for wrong in ("i8[1]:128", "u8[1]:-1", "i32[1]:0.5", "f32[3]:1,2", "f32[2]:1,x", "ptr[1]:&z", "ptr[2]:&x,&y,&x",
                  "ptr[1]:x", "ptr[1]:&x+y", "ptr[1]:5"):  # fmt: skip
        with pytest.raises(UsageError, match="tensor"):
            kernel_args.tensor(wrong, generator(), given)
    for wrong in ("bf16", "bf17[4]", "bf16[4]:full", "bf16[x]", "i32[4]:nan", "i32[4]:uniform"):
        with pytest.raises(UsageError, match="tensor"):
            kernel_args.tensor(wrong, generator())


def test_tensors_from_files(tmp_path: Path) -> None:
    def read(text: str) -> torch.Tensor:
        made: torch.Tensor = kernel_args.tensor(text, generator())
        return made

    half = torch.randn(2, 3, generator=generator()).bfloat16()
    array = np.arange(6, dtype=np.float16).reshape(2, 3)
    for name, value in {"a.pt": half, "a.bin": half, "b.npy": torch.from_numpy(array)}.items():
        kernel_args.write_tensor(value, tmp_path / name)
    assert torch.equal(read(f"@{tmp_path}/a.pt"), half) and torch.equal(read(f"bf16[2,3]:@{tmp_path}/a.bin"), half)
    assert read(f"@{tmp_path}/b.npy").dtype == torch.float16 and read(f"@{tmp_path}/b.npy").tolist() == array.tolist()
    (tmp_path / "list.pt").write_bytes(b"")
    torch.save([half], tmp_path / "tuple.pt")
    (tmp_path / "c.npy").write_bytes(b"no array")
    for wrong, message in {
        f"bf16[2,4]:@{tmp_path}/a.bin": "has 12 bytes, and .* is 16",
        f"@{tmp_path}/a.bin": "only .npy and .pt files know dtype and shape",
        f"@{tmp_path}/absent.npy": "cannot be read",
        f"@{tmp_path}/list.pt": "holds no tensor",
        f"@{tmp_path}/tuple.pt": "it holds a list, not a tensor",
        f"@{tmp_path}/c.npy": "holds no tensor",
    }.items():
        with pytest.raises(UsageError, match=message):
            read(wrong)
    with pytest.raises(UsageError, match=r"numpy has no torch.bfloat16; save it as .pt"):
        kernel_args.write_tensor(half, tmp_path / "d.npy")


def test_contents_go_in_and_results_come_out(both: Both, make: Callable[..., str], tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", np.linspace(0, 1, 64, dtype=np.float32))
    words = ("--arg", f"inputs=@{tmp_path}/in.npy", "--arg", "outputs=f32[64]:nan")
    text, data, code = both("emulate", make(TRIPLE), *words, "--save", f"outputs={tmp_path}/out.npy")
    assert code == 0 and data["saved"] == {"outputs": f"{tmp_path}/out.npy"} and "outputs saved as" in text
    assert np.array_equal(np.load(tmp_path / "out.npy"), 3 * np.load(tmp_path / "in.npy"))


def test_a_table_of_pointers(both: Both, make: Callable[..., str]) -> None:
    follow = TRIPLE.replace("s_waitcnt lgkmcnt(0)", "s_waitcnt lgkmcnt(0)\ns_load_dwordx2 s[4:5], s[4:5], 8\n"
                            "s_waitcnt lgkmcnt(0)", 1)  # fmt: skip
    words = ("--tensor", "x=f32[64]:ones", "--tensor", "y=f32[64]:2", "--arg", "inputs=ptr[2]:&x,&y")
    _, data, code = both("emulate", make(follow, name="table"), *words, "--arg", "outputs=f32[64]", "--races")
    assert code == 0 and (data["tensors"]["outputs"]["least"], data["tensors"]["outputs"]["most"]) == (6, 6)


def test_a_launch_is_written_and_replayed(both: Both, make: Callable[..., str], tmp_path: Path) -> None:
    dump = tmp_path / "launch.json"
    path, words = make(TRIPLE), ("--arg", "inputs=f32[64]:normal", "--arg", "outputs=f32[64]")
    text, made, _ = both("emulate", path, *words, "--dump-kernarg", str(dump))
    assert f"launch written to {dump}" in text and json.loads(dump.read_text())["pointers"] == [0, 8]
    _, replayed, code = both("emulate", path, "--kernarg", str(dump), "--races")
    assert code == 0 and replayed["tensors"] == made["tensors"] and replayed["races"] == []
    # What the words name comes before what the file says.
    assert both("emulate", path, "--kernarg", str(dump), "--grid", "2")[1]["instructions"] == 16


def test_padding_is_zero_and_counted() -> None:
    layout = (("pad", 8, 8), ("n", 16, 4), ("pad", 20, 4), ("_pad3", 24, 16))
    arguments = [Argument("x", "global_buffer", 0, 8), *(Argument(name, "by_value", *at) for name, *at in layout)]
    by_name, by_order = pack("k", arguments, {"x": None, "n": 7}, 40), pack("k", arguments, [None, 7], 40)
    assert by_name == by_order and by_name[0] == struct.pack("<16xI20x", 7)
    assert pack("k", arguments, {"x": None, "n": 7, "pad": 1}, 40)[0] == struct.pack("<8xQII16x", 1, 7, 1)
    with pytest.raises(emulator.KernelArgumentError) as missing:
        pack("k", arguments, {"x": None}, 40)
    assert str(missing.value) == "k takes (x, n, and 3 of padding, 0 by default): missing n"
    with pytest.raises(emulator.KernelArgumentError, match="takes 2, or with padding 5, arguments"):
        pack("k", arguments, [None], 40)
    # A pointer is no padding, whatever its name.
    with pytest.raises(emulator.KernelArgumentError, match="missing pad"):
        pack("k", [Argument("pad", "global_buffer", 0, 8)], {}, 8)


def test_a_baseline(both: Both, make: Callable[..., str], tmp_path: Path) -> None:
    known = str(tmp_path / "known.json")
    assert both("emulate", make(HASTY), *TENSORS, "--sanitize", "--write-baseline", known)[2] == 0
    text, data, code = both("emulate", make(HASTY), *TENSORS, "--sanitize", "--baseline", known)
    assert code == 0 and data["findings"] == [] and len(data["known"]) == 1 and "known: waits 1" in text
    _, data, code = both("emulate", make(HASTY), *TENSORS, "--sanitize")
    assert code == 1 and data["known"] == []


def test_values_in_words() -> None:
    tensors: dict[str, Any] = {}
    assert kernel_args.value("0x10", tensors, "a", generator()) == 16
    assert kernel_args.value("-0.5", tensors, "a", generator()) == -0.5
    assert kernel_args.value("null", tensors, "a", generator()) is None and not tensors
    made = kernel_args.value("f32[4]", tensors, "x", generator())
    assert tensors == {"x": made} and kernel_args.value("&x", tensors, "y", generator()) is made


def test_structs_in_words() -> None:
    x = torch.zeros(4)
    packed = kernel_args.pack_struct("u8:1, &x,null,i16:-2,f32:0.5", {"x": x})
    assert packed == struct.pack("<B7xQQh2xf", 1, x.data_ptr(), 0, -2, 0.5)
    assert kernel_args.pack_struct("i64:1,u8:2", {}) == struct.pack("<qB7x", 1, 2)
    for wrong in ("i8:200", "i32:0.5", "4", "&y", "q7:1", "f16:1e9"):
        with pytest.raises(UsageError, match=r"struct member|no tensor"):
            kernel_args.pack_struct(wrong, {"x": x})
