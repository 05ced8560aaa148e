"""What the hardware reads of a code object, against LLVM's encodings and against damage."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import TOY_TREE, assembly_unit, toy_unit

from aiterlite.amdgpu import code_object, encoding
from aiterlite.jit import engine
from aiterlite.jit.sources import SourceTree
from aiterlite.tables import gemm
from aiterlite.target import resolve

INSTRUCTIONS = Path(__file__).parent / "emulator" / "instructions.txt"
# The two words of a scaled matrix instruction's scales, which this walk sees as an instruction of their own.
_PAIRED = 16


@functools.cache
def image(target: str = "gfx942") -> bytes:
    return engine.obtain(toy_unit(target), tree=SourceTree(TOY_TREE)).data


def test_instructions_begin_where_llvm_s_do() -> None:
    lines = [line.split(maxsplit=2) for line in INSTRUCTIONS.read_text().splitlines()]
    assert len(lines) > 1900
    for _, digits, text in lines:
        code = bytes.fromhex(digits)
        sizes = [size for _, size, _ in encoding.starts(code)]
        assert sizes == [len(code)] or (len(code) == _PAIRED and sizes == [8, 8]), text
        assert encoding.setvskip_offsets(code) == ([0] if text.startswith("s_setvskip") else []), text


def test_a_stream_of_instructions_is_walked_in_step() -> None:
    codes = [bytes.fromhex(line.split()[1]) for line in INSTRUCTIONS.read_text().splitlines()]
    starts = {at for at, _, _ in encoding.starts(b"".join(codes))}
    at = 0
    for code in codes:
        assert at in starts
        at += len(code)


@given(st.binary(max_size=64))
def test_no_bytes_crash_the_walk(code: bytes) -> None:
    try:
        encoding.setvskip_offsets(code)
    except ValueError as error:
        assert "cut off" in str(error)


@pytest.mark.compile
@pytest.mark.parametrize("target", ["gfx942", "gfx950"])
def test_target_version_and_symbols(target: str) -> None:
    assert (code_object.target(image(target)), code_object.version(image(target))) == (target, 5)
    assert {"toy", "toy.kd"} <= code_object.symbols(image(target))


@pytest.mark.compile
def test_a_compiled_kernel_s_descriptor_agrees_with_its_metadata() -> None:
    for chip, n in (("mi300x", 1), ("mi355x", 16)):
        persona = resolve(chip)
        problem = gemm.GemmProblem(n, 300, 4096)
        artifact = engine.obtain(gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona)))
        told = artifact.entry.meta["resources"][gemm.KERNEL]
        found = code_object.descriptor(artifact.data, gemm.KERNEL)
        assert (found.lds_bytes, found.scratch_bytes) == (told["lds_bytes"], told["scratch_bytes"])
        assert (found.kernarg_bytes, found.wave_size) == (told["kernarg_bytes"], 64)
        # A compiler may give more than is used, to keep to the waves that it was told of.
        assert found.vgprs >= told["vgprs"] and found.sgprs >= told["sgprs"]
        sizes = [size for _, size, _ in encoding.starts(code_object.code(artifact.data, gemm.KERNEL))]
        assert set(sizes) == {4, 8} and len(sizes) > 100


@pytest.mark.compile
def test_an_assembled_kernel_s_descriptor_is_what_its_source_says() -> None:
    data = engine.obtain(assembly_unit(), tree=SourceTree(TOY_TREE)).data
    found = code_object.descriptor(data, "toy")
    assert found == code_object.Descriptor(0, 0, 0, 8, 4, 16, 64)
    assert code_object.code(data, "toy")[-4:] == bytes.fromhex("000081bf")
    with pytest.raises(KeyError):
        code_object.descriptor(data, "other")


def read_or_refuse(data: bytes) -> None:
    for read in (lambda: code_object.descriptor(data, "toy"), lambda: code_object.code(data, "toy")):
        try:
            read()
            code_object.target(data)
        except (ValueError, KeyError):
            pass


@pytest.mark.compile
@given(st.data())
def test_no_damage_crashes_the_reader(data: st.DataObject) -> None:
    damaged = bytearray(image())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
