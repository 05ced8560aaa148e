"""Padding between a tensor's rows: a kernel may touch the elements of a view, and nothing between them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from emulator.assembly import TARGETS, Kernel, assemble, device, kernel_text
from emulator.executor import library

from aiterlite import emulator
from aiterlite.emulator import KernelArgumentError, MemoryViolation, Module, arguments, use_library
from aiterlite.emulator.arguments import Memory, memory_of, merge

pytestmark = pytest.mark.emulated
torch = pytest.importorskip("torch")

# Lane l of workgroup g loads 4 bytes at s8 + 512 g + 4 l bytes from x, and stores them there in y.
_BODY = """
s_load_dwordx4 s[4:7], s[0:1], 0
s_load_dword s8, s[0:1], 16
s_waitcnt lgkmcnt(0)
s_lshl_b32 s9, s2, 9
s_add_u32 s8, s8, s9
v_lshlrev_b32_e32 v1, 2, v0
v_add_u32_e32 v1, s8, v1
global_load_{load} v2, v1, s[4:5]
s_waitcnt vmcnt(0)
global_store_{load} v1, v2, s[6:7]
s_endpgm
"""


@pytest.fixture(scope="module", autouse=True)
def emulated() -> None:
    use_library(str(library()))


def _module(target: str, load: str = "dword") -> Module:
    text = kernel_text(target, "k", _BODY.replace("{load}", load), Kernel(), ("x", "y", "start"))
    text = text.replace("        .value_kind: global_buffer\n        .address_space: global\n...",
                        "        .value_kind: by_value\n...")  # fmt: skip
    module: Module = device(target).load(assemble(target, text))
    return module


def _bits(memory: Memory) -> list[int]:
    """The bytes that may be touched, as a list of 0 and 1."""
    if memory.elements is None:
        return [1] * memory.size
    return np.unpackbits(np.frombuffer(memory.elements, np.uint8), bitorder="little")[: memory.size].tolist()


def _touched(*views: Any) -> list[int]:
    """Model of the bytes of views' elements, from their lowest address on: element by element."""
    places: set[int] = set()
    for view in views:
        first = view.data_ptr() if hasattr(view, "data_ptr") else view.__array_interface__["data"][0]
        item = view.element_size() if hasattr(view, "data_ptr") else view.itemsize
        steps = [s * item for s in view.stride()] if hasattr(view, "data_ptr") else view.strides
        for index in np.ndindex(*view.shape):
            at = first + sum(i * s for i, s in zip(index, steps, strict=True))
            places.update(range(at, at + item))
    return [int(at in places) for at in range(min(places), max(places) + 1)]


def _views() -> dict[str, Any]:
    base = torch.arange(6 * 10, dtype=torch.int16).view(6, 10)
    array = np.arange(60, dtype=np.int16).reshape(6, 10)
    return {
        "whole": base,
        "columns": base[:, :7],
        "one column": base[:, 3],
        "every other": base.view(-1)[::2],
        "transposed": base[:, 2:5].t(),
        "batches of rows": torch.zeros(3, 4, 5, 2, dtype=torch.int8)[:, 1:3, :4],
        "broadcast": base[:, :1].expand(6, 5),
        "overlapping windows": base.view(-1).as_strided((5, 4), (10, 2)),
        "windows without gaps": base.view(-1).as_strided((8, 4), (2, 1)),
        "a scalar": base[2, 2],
        "from the end": array[::-1, ::-2],
        "of an array": array[1:5, 2:4],
    }


@pytest.mark.parametrize("name", _views())
def test_the_elements_of_a_view(name: str) -> None:
    view = _views()[name]
    memory = memory_of(view, "x")
    assert memory is not None
    assert _bits(memory) == _touched(view)
    assert (memory.elements is None) == all(_touched(view))


def test_views_that_interleave_are_put_together() -> None:
    base = torch.zeros(6, 10, dtype=torch.int16)
    for views in (
        (base[:, :3], base[:, 5:7]),
        (base[:, :3], base[:, 3:]),
        (base[:, :3], base),
        (base[1:3, :3], base[2:, 2:9], base[::2, 9:]),
    ):
        (memory,) = merge([m for i, v in enumerate(views) if (m := memory_of(v, f"x{i}")) is not None])
        assert _bits(memory) == _touched(*views)


@pytest.mark.parametrize("target", TARGETS)
def test_padding_may_not_be_touched(target: str) -> None:
    """Rows of 400 bytes, 512 apart: of 64 lanes from byte 256 of a row on, number 36 is the first outside."""
    module = _module(target)
    x = torch.arange(4 * 128, dtype=torch.int32).view(4, 128)
    y = torch.zeros(4, 128, dtype=torch.int32)
    for row in range(4):
        module.launch("k", 1, 64, {"x": x[:, :100], "y": y, "start": 512 * row + 144})
    module.launch("k", 4, 64, {"x": x[:, :100], "y": y[:, :100], "start": 0})
    assert torch.equal(y[:, :100], x[:, :100])
    for start, lane, distance in ((256, 36, 0), (512 + 256, 36, 0), (512 * 3 + 256, 36, 1)):
        with pytest.raises(MemoryViolation) as caught:
            module.launch("k", 1, 64, {"x": x[:, :100], "y": y, "start": start})
        error = caught.value
        assert (error.kind, error.write, error.lane, error.size) == ("out_of_range", False, lane, 4)
        assert error.nearest is not None and (error.nearest.name, error.nearest.distance) == ("x", distance)
        assert ("0 bytes into the padding between its rows" in str(error)) == (distance == 0)
        assert ("name the whole tensor in extra=" in str(error)) == (distance == 0)
    with pytest.raises(MemoryViolation) as caught:
        module.launch("k", 1, 64, {"x": x, "y": y[:, :100], "start": 256})
    assert caught.value.write and caught.value.lane == 36
    module.launch("k", 1, 64, {"x": x[:, :100], "y": y, "start": 256}, extra=[x])


@pytest.mark.parametrize("target", TARGETS)
def test_an_access_may_not_reach_over_the_end_of_a_row(target: str) -> None:
    """Dwords of rows of 102 bytes: the last lane's begins in its row."""
    x, y = torch.zeros(4, 512, dtype=torch.uint8), torch.zeros(4, 512, dtype=torch.uint8)
    rows = {"x": x[:, :102], "y": y, "start": 512 - 152}
    with pytest.raises(MemoryViolation) as caught:
        _module(target).launch("k", 1, 64, rows)
    assert caught.value.lane == 0 and "258 bytes into the padding" in str(caught.value)
    with pytest.raises(MemoryViolation) as caught:
        _module(target).launch("k", 1, 64, {**rows, "start": 0})
    assert caught.value.lane == 25 and "0 bytes into the padding" in str(caught.value)


@pytest.mark.parametrize("target", TARGETS)
def test_a_strided_tensor_gives_the_same_under_watch(target: str) -> None:
    x = torch.arange(4 * 128, dtype=torch.int32).view(4, 128)
    y = torch.zeros(4, 128, dtype=torch.int32)
    report = _module(target).launch(
        "k", 4, 64, {"x": x[:, :64], "y": y[:, :64], "start": 0}, sanitize=True, counters=True
    )
    assert not report.findings and not report.notes
    assert torch.equal(y[:, :64], x[:, :64]) and not y[:, 64:].any()


def test_padding_too_large_to_tell_apart_is_noted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "MOST_TOLD_APART", 1024)
    x, y = torch.zeros(4, 128, dtype=torch.int32), torch.zeros(4, 128, dtype=torch.int32)
    module = _module("gfx942")
    report = module.launch("k", 1, 64, {"x": x[:, :100], "y": y, "start": 256})
    (note,) = report.notes
    assert note.startswith("memory: the padding between the rows of `x` may be touched")
    with emulator.watching() as seen:
        module.launch("k", 1, 64, {"x": x[:, :100], "y": y, "start": 256})
        module.launch("k", 1, 64, {"x": x[:, :100], "y": y, "start": 256})
    assert seen.notes == [note]
    with pytest.raises(KernelArgumentError):
        module.launch("k", 1, 64, {"x": "x", "y": y, "start": 0})
