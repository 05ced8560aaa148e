"""A launch in files: written by hand as on a GPU, or from a call here, and replayed with the same bits."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from emulator.assembly import Kernel, assemble, device, kernel_text
from emulator.executor import library

from aiterlite import emulator
from aiterlite.emulator import KernelArgumentError, MemoryViolation, Module, launch_file
from aiterlite.emulator.arguments import Memory

pytestmark = [pytest.mark.emulated, pytest.mark.torch, pytest.mark.compile]

# out[i] = sum of the two float arrays that `table` points to; `table` and `out` are the arguments.
SUM = """
s_load_dwordx4 s[4:7], s[0:1], 0
v_lshlrev_b32_e32 v1, 2, v0
s_waitcnt lgkmcnt(0)
s_load_dwordx4 s[8:11], s[4:5], 0
s_waitcnt lgkmcnt(0)
global_load_dword v2, v1, s[8:9]
global_load_dword v3, v1, s[10:11]
s_waitcnt vmcnt(0)
v_add_f32_e32 v2, v2, v3
global_store_dword v1, v2, s[6:7]
s_endpgm
"""


@pytest.fixture(scope="module")
def module() -> Module:
    emulator.use_library(str(library()))
    text = kernel_text("gfx942", "sum", SUM, Kernel(), ("table", "out"))
    return device("gfx942").load(assemble("gfx942", text))


def by_hand(folder: Path, tensors: dict[str, Any], kernarg: bytes) -> Path:
    """The launch as the function of docs/emulator.md writes it on a GPU."""
    page = (Path(__file__).parents[1] / "docs" / "emulator.md").read_text()
    (code,) = re.findall(r"^```python\n(import json.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    exec(code, names)
    names["dump_launch"](str(folder / "launch.json"), "sum", 1, 64, kernarg, tensors)
    return folder / "launch.json"


def replay(module: Module, stored: launch_file.StoredLaunch) -> torch.Tensor:
    module.launch(stored.kernel, stored.grid, stored.block, stored.kernarg, stored.lds, extra=stored.memory)
    return stored.tensors["out"].view(torch.float32)


@pytest.fixture
def inputs() -> dict[str, torch.Tensor]:
    x, y = torch.randn(64, generator=torch.Generator().manual_seed(1)), torch.arange(64, dtype=torch.float32)
    table = torch.tensor([x.data_ptr(), y.data_ptr()], dtype=torch.int64)
    return {"x": x, "y": y, "table": table, "out": torch.zeros(64)}


def test_a_launch_written_by_hand(module: Module, inputs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    kernarg = struct.pack("<QQ", inputs["table"].data_ptr(), inputs["out"].data_ptr())
    path = by_hand(tmp_path, inputs, kernarg)
    words = json.loads(path.read_text())
    words["buffers"][2]["pointers"] = "all"
    path.write_text(json.dumps(words))
    stored = launch_file.read(path)
    # It is other memory, in the same place within 256 bytes.
    for name, tensor in inputs.items():
        assert stored.tensors[name].data_ptr() != tensor.data_ptr()
        assert stored.tensors[name].data_ptr() % 256 == tensor.data_ptr() % 256
    assert torch.equal(replay(module, stored), inputs["x"] + inputs["y"])
    # Without "pointers" a buffer is data: the kernel then reads where the GPU had its arrays.
    del words["buffers"][2]["pointers"]
    path.write_text(json.dumps(words))
    with pytest.raises(MemoryViolation):
        replay(module, launch_file.read(path))


def test_a_call_here_is_replayed_with_the_same_bits(
    module: Module, inputs: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    path = tmp_path / "call.json"
    args = {"table": inputs["table"], "out": inputs["out"]}
    module.launch("sum", 1, 64, args, extra=[inputs["x"], inputs["y"]], dump=path)
    # Whoever wrote it does not hold its memory any longer.
    expected, before = inputs["out"].clone(), torch.zeros(64)
    for tensor in inputs.values():
        tensor.zero_()
    stored = launch_file.read(path)
    assert (stored.kernel, stored.grid, stored.block, stored.lds) == ("sum", (1, 1, 1), (64, 1, 1), 0)
    assert torch.equal(stored.tensors["out"], before) and stored.tensors["out"].dtype == torch.float32
    assert torch.equal(replay(module, stored), expected)


def test_what_only_looks_like_a_pointer_is_left_alone(tmp_path: Path) -> None:
    target = torch.zeros(16)
    address = target.data_ptr()
    segment = struct.pack("<QQQ", address, address + 64, address)
    memory = [Memory(address, 64, "x")]
    (path,) = launch_file.write(tmp_path / "a.json", "k", (1,), (64,), 0, segment, memory)[:1]
    stored = launch_file.read(path)
    at = stored.memory[0].base
    # One past the end is a pointer too.
    assert struct.unpack("<QQQ", stored.kernarg) == (at, at + 64, at)
    words = json.loads(path.read_text())
    assert words["pointers"] == [0, 8, 16]
    path.write_text(json.dumps({**words, "pointers": [8]}))
    stored = launch_file.read(path)
    assert struct.unpack("<QQQ", stored.kernarg) == (address, stored.memory[0].base + 64, address)


def test_an_input_may_be_read_only(module: Module, inputs: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "call.json"
    module.launch("sum", 1, 64, {"table": inputs["table"], "out": inputs["out"]},
                  extra=[inputs["x"], inputs["y"]], dump=path)  # fmt: skip
    words = json.loads(path.read_text())
    for buffer in words["buffers"]:
        buffer["writable"] = buffer["name"] != "out"
    path.write_text(json.dumps(words))
    with pytest.raises(MemoryViolation, match="read-only"):
        replay(module, launch_file.read(path))


BUFFER = {"name": "x", "address": 4096, "file": "x.bin"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("{", "is no JSON"),
        ("[]", "holds a list"),
        ({"grid": None}, "the launch lacks grid"),
        ({"gird": 1}, "has unknown fields gird"),
        ({"grid": 0}, "grid is 0; allowed: one to three positive numbers"),
        ({"block": [1, 2, 3, 4]}, "block is"),
        ({"kernarg": "absent"}, "names absent, which cannot be read"),
        ({"buffers": {}}, "buffers is {}; it is a list"),
        ({"buffers": ["x"]}, "a buffer is 'x'"),
        ({"buffers": [{"name": "x"}]}, "x lacks address, file"),
        ({"buffers": [{**BUFFER, "address": "0x10"}]}, "the address of x is '0x10'; it is a number"),
        ({"buffers": [BUFFER, BUFFER]}, "buffers of one name"),
        ({"buffers": [BUFFER, {**BUFFER, "name": "y", "address": 4100}]}, "buffers x and y overlap at 0x1004"),
        ({"buffers": [{**BUFFER, "dtype": "float33"}]}, "the dtype of x is 'float33'"),
        ({"buffers": [{**BUFFER, "shape": [3]}]}, "buffer x: 16 bytes cannot be shown as torch.uint8 of shape"),
        ({"buffers": [{**BUFFER, "pointers": [12]}]}, "pointers of buffer x is"),
        ({"pointers": [0]}, "the pointer at byte 0 of kernarg is 0x1000, which lies in no buffer"),
        ({"pointers": "some"}, "pointers of kernarg is 'some'"),
    ],
)  # fmt: skip
def test_files_that_are_wrong(tmp_path: Path, words: Any, message: str) -> None:
    (tmp_path / "x.bin").write_bytes(bytes(16))
    (tmp_path / "kernarg.bin").write_bytes(struct.pack("<QQ", 4096, 0))
    path = tmp_path / "launch.json"
    if isinstance(words, dict):
        whole = {"grid": 1, "block": 64, "kernarg": "kernarg.bin", **words}
        words = json.dumps({name: value for name, value in whole.items() if value is not None})
    path.write_text(words)
    with pytest.raises(KernelArgumentError) as refused:
        launch_file.read(path)
    assert message in str(refused.value) and str(path) in str(refused.value)
    with pytest.raises(KernelArgumentError, match="cannot be read"):
        launch_file.read(tmp_path / "absent.json")
