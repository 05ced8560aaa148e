"""The code-object loader: what it reads from well-formed files, and a typed refusal for every way to be malformed."""

from __future__ import annotations

import json
import re
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from emulator import llvm, native
from emulator.elf_builder import DATA, S_ENDPGM, TEXT, Builder, Descriptor, msgpack

pytestmark = [
    pytest.mark.compile,
    pytest.mark.torch,
    pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="session")
def library() -> native.Library:
    return native.shared_library()


def patched(data: bytes, at: int, pattern: str, value: int) -> bytes:
    changed = bytearray(data)
    struct.pack_into(pattern, changed, at, value)
    return bytes(changed)


def refusal(library: native.Library, data: bytes) -> tuple[str, str]:
    with pytest.raises(native.LoadError) as caught:
        library.describe(data)
    for call in (library.listing, library.coverage):
        with pytest.raises(native.LoadError) as again:
            call(data)
        assert str(again.value) == str(caught.value)
    return caught.value.status, caught.value.message


def test_minimal_object(library: native.Library) -> None:
    described = library.describe(Builder().build())
    assert (described["arch"], described["target"]) == ("gfx942", "amdgcn-amd-amdhsa--gfx942")
    assert (described["xnack"], described["sramecc"], described["abi_version"]) == ("any", "any", 4)
    (kernel,) = described["kernels"]
    assert (kernel["name"], kernel["code_size"]) == ("k", 4)
    assert kernel["descriptor"]["entry"] == TEXT
    assert kernel["args"] == [
        {
            "name": "x",
            "offset": 0,
            "size": 8,
            "value_kind": "global_buffer",
            "address_space": "global",
            "hidden": False,
        },
        {"name": "", "offset": 8, "size": 4, "value_kind": "by_value", "address_space": "", "hidden": False},
    ]
    assert kernel["uniform_work_group_size"] is True
    assert kernel["reqd_workgroup_size"] == [0, 0, 0]


@pytest.mark.parametrize(
    ("mach", "features", "arch", "xnack", "sramecc"),
    [
        (0x4C, 0x000, "gfx942", "unsupported", "unsupported"),
        (0x4C, 0x600, "gfx942", "off", "any"),
        (0x4F, 0xF00, "gfx950", "on", "on"),
        (0x4F, 0x900, "gfx950", "any", "off"),
    ],
)
def test_target(library: native.Library, mach: int, features: int, arch: str, xnack: str, sramecc: str) -> None:
    described = library.describe(Builder(mach=mach, features=features).build())
    assert (described["arch"], described["xnack"], described["sramecc"]) == (arch, xnack, sramecc)


def descriptor_of(library: native.Library, descriptor: Descriptor) -> dict[str, Any]:
    result: dict[str, Any] = library.describe(Builder(descriptor=descriptor).build())["kernels"][0]["descriptor"]
    return result


def test_descriptor_registers_and_modes(library: native.Library) -> None:
    # VGPRs (5 + 1) * 8, SGPRs (6 / 2 + 1) * 16, round up / to zero, denormals 1 and 2, clamp, no IEEE, FP16_OVFL.
    rsrc1 = 5 | 6 << 6 | 1 << 12 | 3 << 14 | 1 << 16 | 2 << 18 | 1 << 21 | 1 << 26
    d = descriptor_of(library, Descriptor(1024, 48, 64, None, rsrc3=11 | 1 << 16, rsrc1=rsrc1))
    assert (d["group_segment_size"], d["private_segment_size"], d["kernarg_size"]) == (1024, 48, 64)
    assert (d["vgprs"], d["accum_offset"], d["sgprs"]) == (48, 48, 64)
    assert (d["round_mode_32"], d["round_mode_16_64"]) == (1, 3)
    assert (d["denorm_mode_32"], d["denorm_mode_16_64"]) == (1, 2)
    assert (d["dx10_clamp"], d["ieee_mode"], d["fp16_overflow"], d["tg_split"]) == (True, False, True, True)


def test_descriptor_user_sgprs_are_numbered_in_order(library: native.Library) -> None:
    rsrc2 = 1 | 15 << 1 | 1 << 7 | 1 << 9 | 2 << 11
    d = descriptor_of(library, Descriptor(rsrc2=rsrc2, properties=0b1111111 | 1 << 11))
    numbers = ["private_segment_buffer", "dispatch_ptr", "queue_ptr", "kernarg_ptr", "dispatch_id"]
    numbers += ["flat_scratch_init", "private_segment_size"]
    assert [d[f"sgpr_{name}"] for name in numbers] == [0, 4, 6, 8, 10, 12, 14]
    assert (d["user_sgprs"], d["scratch_enabled"], d["workitem_id"]) == (15, True, 2)
    assert (d["workgroup_id_x"], d["workgroup_id_y"], d["workgroup_id_z"]) == (True, False, True)
    assert d["uses_dynamic_stack"] is True


def test_descriptor_preload(library: native.Library) -> None:
    d = descriptor_of(library, Descriptor(rsrc2=6 << 1, preload=4 | 3 << 7))
    assert (d["kernarg_preload_length"], d["kernarg_preload_offset"], d["sgpr_preload"]) == (4, 3, 2)
    assert (d["sgpr_kernarg_ptr"], d["sgpr_dispatch_ptr"]) == (0, -1)


@pytest.mark.parametrize(
    ("descriptor", "status", "why"),
    [
        (Descriptor(properties=8 | 1 << 10), "unsupported", "waves of 32"),
        (Descriptor(rsrc2=0x84 | 3 << 11), "malformed", "WORKITEM_ID"),
        (Descriptor(entry_offset=0x1001), "malformed", "multiple of 4"),
        (Descriptor(entry_offset=0), "malformed", "not in executable memory"),
        (Descriptor(entry_offset=-(1 << 63)), "malformed", "not in executable memory"),
        (Descriptor(rsrc2=0, properties=8), "malformed", "USER_SGPR_COUNT is 0"),
    ],
)
def test_bad_descriptor(library: native.Library, descriptor: Descriptor, status: str, why: str) -> None:
    got = refusal(library, Builder(descriptor=descriptor).build())
    assert got[0] == status
    assert why in got[1]
    assert "kernel k" in got[1]


@pytest.mark.parametrize(
    ("change", "status", "why"),
    [
        ({"machine": 62}, "wrong_target", "e_machine is 62"),
        ({"osabi": 0}, "wrong_target", "EI_OSABI is 0"),
        ({"mach": 0x3F}, "wrong_target", "target 63"),
        ({"abi_version": 1}, "unsupported", "EI_ABIVERSION is 1"),
        ({"kind": 1}, "malformed", "e_type is 1"),
        ({"descriptor_size": 32}, "malformed", "has 32 bytes, not 64"),
        ({"bss": 1 << 40}, "unsupported", "largest image"),
        ({"extra_dynamic": [(17, 0)]}, "unsupported", "DT_REL"),
        ({"extra_dynamic": [(11, 16)]}, "malformed", "DT_SYMENT"),
        ({"extra_dynamic": [(4, 1 << 40)]}, "malformed", "DT_HASH"),
        ({"extra_dynamic": [(5, 1 << 40)]}, "malformed", "DT_STRTAB"),
        ({"extra_dynamic": [(6, 0)]}, "malformed", "name is outside"),
        ({"extra_dynamic": [(10, 6)]}, "malformed", "symbol 2 of .dynsym: its name does not end"),
        ({"symbols": [("x" * 700, 0x12, 7, TEXT, 4)] * 70}, "malformed", "names overlap"),
        ({"relocations": [(DATA, 9, 0, 0)]}, "unsupported", "of type 9"),
        ({"relocations": [(DATA + 0x100000, 13, 0, 0)]}, "malformed", "outside the segments"),
        ({"relocations": [(DATA, 3, 99, 0)]}, "malformed", "symbol that is not there"),
        ({"metadata": b""}, "malformed", "not a MessagePack map"),
        ({"metadata": msgpack({"amdhsa.kernels": 5})}, "malformed", "amdhsa.kernels"),
        ({"metadata": msgpack({"amdhsa.target": [1]})}, "malformed", "amdhsa.target"),
        ({"metadata": msgpack({"amdhsa.kernels": [{".name": "k", ".args": 3}]})}, "malformed", "entry 0"),
        ({"metadata": msgpack({"amdhsa.kernels": [{".sgpr_count": 1 << 40}]})}, "malformed", "entry 0"),
        ({"metadata": b"\x81\xaeamdhsa.kernels\xdd\xff\xff\xff\xff"}, "malformed", "amdhsa.kernels"),
        ({"metadata": b"\x81\xaeamdhsa.kernels\x91\x81\xa5.args\xdd\xff\xff\xff\xff"}, "malformed", "entry 0"),
        ({"metadata": b"\x82\xa1x" + b"\x91" * 400}, "malformed", "cut off in x"),
        ({"notes": 2}, "malformed", "two metadata notes"),
    ],
)
def test_refused(library: native.Library, change: dict[str, Any], status: str, why: str) -> None:
    got = refusal(library, Builder(**change).build())
    assert got[0] == status, got
    assert why in got[1]


def test_argument_past_the_stated_size(library: native.Library) -> None:
    """Vendor objects do this; only what no kernarg segment can hold is refused."""
    builder = Builder()
    metadata = builder.default_metadata()
    argument = metadata["amdhsa.kernels"][0][".args"][1]
    argument[".offset"] = 16
    (kernel,) = library.describe(Builder(metadata=msgpack(metadata)).build())["kernels"]
    assert (kernel["kernarg_segment_size"], kernel["kernarg_bytes"]) == (16, 20)
    argument[".offset"] = 65533
    status, message = refusal(library, Builder(metadata=msgpack(metadata)).build())
    assert status == "malformed"
    assert "at 65533 of 4 bytes ends past the largest kernarg segment" in message


def test_bytes_that_are_no_elf(library: native.Library) -> None:
    good = Builder().build()
    assert refusal(library, b"") == ("truncated", "the file has 0 bytes, an ELF header has 64")
    assert refusal(library, b"#!/bin/sh" + bytes(100))[0] == "not_elf"
    assert refusal(library, patched(good, 4, "B", 1))[0] == "not_elf"
    assert refusal(library, patched(good, 5, "B", 2))[0] == "not_elf"


def test_every_truncation_is_refused_or_harmless(library: native.Library) -> None:
    """The end of the file holds only section headers and padding: what is left of a longer cut still loads."""
    builder = Builder()
    data = builder.build()
    loaded = []
    for size in range(0, len(data), 3):
        try:
            library.describe(data[:size])
            loaded.append(size)
        except native.LoadError as error:
            assert error.status in ("truncated", "malformed"), size
    assert loaded == []
    without_sections = patched(data, 60, "<H", 0)
    assert library.describe(without_sections[: builder.offsets["sections"]])["kernels"]


def test_structure_faults(library: native.Library) -> None:
    builder = Builder(relocations=[(DATA, 13, 0, 0x1234)])
    data = builder.build()
    at = builder.offsets

    def check(where: int, pattern: str, value: int, status: str, why: str) -> None:
        got = refusal(library, patched(data, where, pattern, value))
        assert got[0] == status, got
        assert why in got[1], got

    headers = at["program_headers"]
    check(54, "<H", 32, "malformed", "e_phentsize is 32")
    check(56, "<H", 65535, "unsupported", "e_phnum is 65535")
    check(32, "<Q", 1 << 60, "truncated", "program headers")
    check(headers + 32, "<Q", 1 << 62, "truncated", "program header 0 covers bytes past")
    check(headers + 8, "<Q", (1 << 64) - 8, "truncated", "program header 0 covers bytes past")
    check(headers + 56 + 40, "<Q", 1, "malformed", "p_memsz is smaller")
    check(headers + 56 + 16, "<Q", 0x100, "malformed", "overlap")
    check(headers + 56 + 16, "<Q", (1 << 64) - 8, "unsupported", "largest image")
    check(at["symbols"] + 24, "<I", 0xFFFFFFFF, "malformed", "symbol 1 of .dynsym: its name is outside")
    check(at["hash"] + 4, "<I", 0xFFFFFFFF, "malformed", "dynamic symbol table is outside")
    check(at["note"], "<I", 0xFFFFFFF0, "truncated", "a note ends past")
    check(at["note"] + 4, "<I", 0xFFFFFFF0, "truncated", "a note ends past")
    check(40, "<Q", 1 << 60, "truncated", "section headers")
    check(58, "<H", 40, "malformed", "e_shentsize is 40")
    check(at["sections"] + 64 + 40, "<I", 77, "malformed", "sh_link")
    check(at["sections"] + 64 + 32, "<Q", 1 << 60, "truncated", ".symtab")
    check(at["dynamic"], "<Q", 99, "malformed", "no dynamic symbol table")
    check(at["dynamic"] + 4 * 16, "<Q", 99, "unsupported", "no DT_HASH")


def test_two_descriptors_of_one_name(library: native.Library) -> None:
    builder = Builder()
    builder.build()
    at = builder.offsets["descriptor"]
    twice = [("k", 0x12, 7, TEXT, 4), ("k.kd", 0x11, 6, at, 64), ("k.kd", 0x11, 6, at, 64)]
    assert refusal(library, Builder(symbols=twice).build()) == ("malformed", "two kernel descriptors are named k.kd")


def test_undefined_symbols(library: native.Library) -> None:
    builder = Builder()
    builder.build()
    kernel = [("k", 0x12, 7, TEXT, 4), ("k.kd", 0x11, 6, builder.offsets["descriptor"], 64)]
    relocation = [(DATA, 3, 3, 0)]
    strong = Builder(symbols=[*kernel, ("missing", 0x10, 0, 0, 0)], relocations=relocation).build()
    assert refusal(library, strong) == ("unsupported", "relocation 0 needs the undefined symbol missing")
    weak = Builder(symbols=[*kernel, ("missing", 0x20, 0, 0, 0)], relocations=relocation).build()
    assert library.describe(weak)["relocations"] == 1


def test_object_without_sections_or_metadata(library: native.Library) -> None:
    builder = Builder(section_headers=False)
    data = bytearray(builder.build())
    # A note of another owner is skipped.
    data[builder.offsets["note"] + 12 : builder.offsets["note"] + 18] = b"OTHERS"
    (kernel,) = library.describe(bytes(data))["kernels"]
    assert kernel["has_metadata"] is False
    assert "args" not in kernel


def test_metadata_of_the_other_kind(library: native.Library) -> None:
    """Long forms, unknown keys with nested values, names for symbols, numbers for flags: all legal."""
    builder = Builder()
    metadata = builder.default_metadata()
    kernel = metadata["amdhsa.kernels"][0]
    del kernel[".symbol"]
    kernel[".uniform_work_group_size"] = False
    kernel[".reqd_workgroup_size"] = [64, 2, 1]
    kernel[".unknown"] = [{"a": 1.5, "b": [1, [2, {"c": "x" * 40}]], "d": -0.0}, (1 << 40), "y" * 31]
    metadata["later"] = {"x": [True] * 20}
    (described,) = library.describe(Builder(metadata=msgpack(metadata)).build())["kernels"]
    assert described["has_metadata"] is True
    assert described["reqd_workgroup_size"] == [64, 2, 1]
    assert described["uniform_work_group_size"] is False


def test_names_are_valid_json(library: native.Library) -> None:
    builder = Builder()
    metadata = builder.default_metadata()
    metadata["amdhsa.target"] = 'a"b\\c\nd\x7fé'
    assert library.describe(Builder(metadata=msgpack(metadata)).build())["target"] == 'a"b\\c\nd\x7fé'.encode().decode(
        "latin-1"
    )


def test_listing_and_coverage(library: native.Library) -> None:
    code = (
        struct.pack("<IIII", 0x7E000280, 0xBF820001, 0xFFFFFFFF, 0x7E0402FA) + struct.pack("<I", 0xFF000003) + S_ENDPGM
    )
    data = Builder(code=code).build()
    lines = library.listing(data).splitlines()
    assert lines[0] == f"{TEXT:016x} <k>:"
    text = [re.sub(r"\s+//", " //", line.strip()) for line in lines[1:]]
    assert text[0] == "v_mov_b32_e32 v0, 0 // 000000001000: 7E000280"
    assert text[1] == "s_branch 1 // 000000001004: BF820001 <k+0xc>"
    assert text[2].startswith(".long 0xffffffff // 000000001008: FFFFFFFF gfx942 unknown encoding ffffffff: ")
    assert text[3].startswith("v_mov_b32_dpp v2, v3 quad_perm:[0,0,0,0]")
    (function,) = library.coverage(data)["functions"]
    assert (function["name"], function["kernel"], function["instructions"]) == ("k", True, 4)
    assert [(form["op"], form["encoding"], form["count"]) for form in function["forms"]] == [
        ("s_branch", "SOPP", 1),
        ("s_endpgm", "SOPP", 1),
        ("v_mov_b32", "VOP1", 1),
        ("v_mov_b32", "VOP1_DPP", 1),
    ]
    assert [unknown["pc"] for unknown in function["unknown"]] == [TEXT + 8]


def test_labels_replace_branch_distances(library: native.Library) -> None:
    code = struct.pack("<IIII", 0xBF820001, 0x7E000280, 0xBF82FFFD, 0xBF82FFFD) + S_ENDPGM
    builder = Builder()
    builder.build()
    labels = [("later", 0x00, 7, TEXT + 8, 0), ("first", 0x00, 7, TEXT + 8, 0), ("absolute", 0x00, 0xFFF1, TEXT, 0)]
    symbols = [("k", 0x12, 7, TEXT, 20), ("k.kd", 0x11, 6, builder.offsets["descriptor"], 64), *labels]
    lines = library.listing(Builder(code=code, symbols=symbols).build()).splitlines()
    assert [re.sub(r"\s+//.*?: \w+", "", line.strip()) for line in lines[1:]] == [
        "s_branch first",
        "v_mov_b32_e32 v0, 0",
        "s_branch 65533 <k>",
        "s_branch 65533 <k+0x4>",
        "s_endpgm",
    ]


def test_kernel_without_a_size_reaches_to_its_padding(library: native.Library) -> None:
    code = struct.pack("<II", 0x7E000280, 0xBF810000) + struct.pack("<I", 0xBF800000) * 3 + bytes(12)
    builder = Builder()
    builder.build()
    symbols = [("k", 0x10, 7, TEXT, 0), ("k.kd", 0x11, 6, builder.offsets["descriptor"], 64)]
    (function,) = library.coverage(Builder(code=code, symbols=symbols).build())["functions"]
    assert (function["instructions"], function["unknown"]) == (2, [])


@pytest.mark.skipif(bool(llvm.missing()), reason=llvm.missing())
def test_llvm_reads_the_built_object_alike(tmp_path: Path, library: native.Library) -> None:
    """The builder makes what LLVM takes for a code object too, so that the tests above do not test a fiction."""
    path = tmp_path / "k.co"
    # Without sections, whose note LLVM would look for by its section's type.
    path.write_bytes(Builder(mach=0x4F, section_headers=False).build())
    run = subprocess.run(
        ["llvm-readelf-22", "--notes", "--dyn-syms", "-h", path], capture_output=True, text=True, check=True
    )
    assert run.stderr == ""
    assert re.search(r"Flags: .*gfx950", run.stdout)
    assert re.search(r"64 OBJECT\s+GLOBAL PROTECTED\s+6 k\.kd", run.stdout)
    assert ".kernarg_segment_size: 16" in run.stdout
    assert json.loads(json.dumps(library.describe(path.read_bytes())))["arch"] == "gfx950"
