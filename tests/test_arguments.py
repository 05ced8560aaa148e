"""Argument structs: what their headers declare is what every compiler lays out, what Python packs, and what assembly is
told."""

from __future__ import annotations

import ctypes
import re
import shutil
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiterlite.errors import SourceError
from aiterlite.jit import arguments, engine
from aiterlite.jit.arguments import ArgumentStruct, Field, Layout
from aiterlite.jit.sources import SourceTree, package_tree
from aiterlite.jit.spec import Unit

HEADER = "aiterlite/args.h"


def declared() -> list[ArgumentStruct]:
    """Every argument struct of the package: its headers end in args.h."""
    include = package_tree().include
    found = []
    for path in sorted(include.rglob("*args.h")):
        names = re.findall(r"^struct (\w+) \{", path.read_text(), re.MULTILINE)
        found += [ArgumentStruct(name, path.relative_to(include).as_posix()) for name in names]
    return found


def offsets_of(folder: Path, include: Path, struct_: ArgumentStruct, layout: Layout) -> list[int]:
    """(offset, size) of each field, then the size and the alignment of the struct, as a C++ compiler has them."""
    nested = {field: f"{path}.{field}" for field, path in members(include, struct_).items()}
    fields = [nested.get(field.name, field.name) for field in layout.fields]
    name = struct_.name
    numbers = [f"offsetof({name}, {field}), sizeof((({name}*)0)->{field})" for field in fields]
    text = f"#include <{struct_.header}>\n#include <stddef.h>\n#include <stdio.h>\nint main() {{\n  size_t all[] = {{"
    text += ", ".join([*numbers, f"sizeof({name}), alignof({name})"])
    text += '};\n  for (size_t number : all) printf("%zu ", number);\n}\n'
    source = folder / "layout.cpp"
    source.write_text(text)
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))))
    words = [compiler, "-std=c++17", "-Wno-invalid-offsetof", f"-I{include}", str(source), "-o", str(folder / "layout")]
    subprocess.run(words, check=True)
    return [int(word) for word in subprocess.run([folder / "layout"], capture_output=True, text=True).stdout.split()]


def members(include: Path, struct_: ArgumentStruct) -> dict[str, str]:
    """The member that each nested field belongs to; of nested ones their path."""
    text = (include / struct_.header).read_text()
    body = re.search(rf"struct {struct_.name} \{{(.*?)\}};", text, re.DOTALL)
    assert body is not None
    found = {}
    for inner, member in re.findall(r"struct (\w+) (\w+);", body[1]):
        home = next(s for s in declared() if s.name == inner)
        within = members(include, home)
        paths = {field.name: within.get(field.name) for field in home.layout().fields}
        found.update({name: f"{member}.{path}" if path else member for name, path in paths.items()})
    return found


def numbers_of(layout: Layout) -> list[int]:
    return [*(n for field in layout.fields for n in (field.offset, field.size)), layout.size, layout.alignment]


@pytest.mark.compile
@pytest.mark.parametrize("struct_", declared(), ids=lambda struct_: struct_.name)
def test_the_compiler_lays_it_out_as_it_is_derived(struct_: ArgumentStruct, tmp_path: Path) -> None:
    layout = struct_.layout()
    assert offsets_of(tmp_path, package_tree().include, struct_, layout) == numbers_of(layout)


def tree_of(folder: Path, **headers: str) -> SourceTree:
    include = folder / "csrc" / "include" / "aiterlite"
    include.mkdir(parents=True, exist_ok=True)
    for name, text in headers.items():
        (include / f"{name}.h").write_text(text)
    return SourceTree(folder)


def layout_of(folder: Path, body: str, before: str = "") -> Layout:
    tree = tree_of(folder, args=f"#pragma once\n{before}\nstruct toy {{\n{body}\n}};\n")
    return ArgumentStruct("toy", HEADER).layout(tree)


def test_every_kind_of_field(tmp_path: Path) -> None:
    body = (
        "const void* a; // why\n float* b;\n /* c */ uint64_t c, d;\n float e;\n int16_t f; uint8_t g; int8_t reserved;"
    )
    layout = layout_of(tmp_path, body)
    assert [(f.name, f.offset, f.size, f.code, f.pointer) for f in layout.fields] == [
        ("a", 0, 8, "Q", True),
        ("b", 8, 8, "Q", True),
        ("c", 16, 8, "Q", False),
        ("d", 24, 8, "Q", False),
        ("e", 32, 4, "f", False),
        ("f", 36, 2, "h", False),
        ("g", 38, 1, "B", False),
        ("reserved", 39, 1, "b", False),
    ]
    assert (layout.size, layout.alignment, layout.fields[-1].is_reserved) == (40, 8, True)
    packed = layout.packer.pack(1, 2, 3, 4, 0.5, -1, 7, 0)
    assert packed == struct.pack("<4QfhBb", 1, 2, 3, 4, 0.5, -1, 7, 0)


def test_structs_inside_and_maps(tmp_path: Path) -> None:
    tree = tree_of(
        tmp_path,
        inner="struct inner {\n  void* p;\n  int32_t n;\n  int32_t m;\n};\n",
        args="#include <aiterlite/inner.h>\nstruct toy { aiterlite_tensor_map map; struct inner in; int64_t k; };\n",
    )
    layout = ArgumentStruct("toy", HEADER).layout(tree)
    assert [(f.name, f.offset, f.is_map) for f in layout.fields] == [
        ("map", 0, True),
        ("p", 128, False),
        ("n", 136, False),
        ("m", 140, False),
        ("k", 144, False),
    ]
    # Padded to the alignment of a map.
    assert (layout.size, layout.alignment) == (192, 64)
    assert layout.packer.pack(1, 2, 3, 4) == bytes(128) + struct.pack("<QiiQ", 1, 2, 3, 4) + bytes(40)


@pytest.mark.parametrize(
    ("body", "before", "message"),
    [
        ("int32_t n;\n void* p;", "", "p would lie 4 bytes behind the field before it; order fields by size, or add"),
        ("std::array<int, 4> a;", "", "a field is `type name`"),
        ("int n;", "", "int is no type of an argument; allowed: a pointer, int8_t, .*aiterlite_tensor_map"),
        ("int32_t n[4];", "", "a field is `type name`"),
        ("void* a, b;", "", "declare one pointer at a time"),
        ("", "", "toy has no fields"),
        ("int32_t n; int32_t n;", "", "toy has n twice"),
        ("struct toy inside;", "", "contains itself"),
        ("struct a one; struct a two;", "struct a { int32_t n; };", "toy has n twice, nested structs included"),
        (
            "; ".join(f"aiterlite_tensor_map m{i}" for i in range(33)) + ";",
            "",
            "4224 bytes; a kernel takes at most 4096",
        ),
    ],
)
def test_what_is_refused(body: str, before: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=f"aiterlite/args.h: toy.*{message}|{message}"):
        layout_of(tmp_path, body, before)


def test_a_struct_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="args.h declares no struct other"):
        ArgumentStruct("other", HEADER).layout(tree_of(tmp_path, args="struct toy { int32_t n; };"))
    with pytest.raises(SourceError, match="cannot read source"):
        ArgumentStruct("toy", "aiterlite/nothing.h").layout(tree_of(tmp_path))


TYPES = {"int8_t": 1, "uint16_t": 2, "int32_t": 4, "float": 4, "uint64_t": 8, "double": 8, "const void*": 8}


@given(kinds=st.lists(st.sampled_from(sorted(TYPES)), min_size=1, max_size=12))
def test_layouts_agree_with_ctypes(kinds: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    """Sorted by size, so that there is no gap; ctypes lays out as C compilers do."""
    kinds = sorted(kinds, key=lambda kind: -TYPES[kind])
    c = {"int8_t": ctypes.c_int8, "uint16_t": ctypes.c_uint16, "int32_t": ctypes.c_int32, "float": ctypes.c_float}
    c |= {"uint64_t": ctypes.c_uint64, "double": ctypes.c_double, "const void*": ctypes.c_void_p}
    fields = [(f"f{i}", c[kind]) for i, kind in enumerate(kinds)]
    peer = type("Peer", (ctypes.Structure,), {"_fields_": fields})
    layout = layout_of(tmp_path_factory.mktemp("h"), "\n".join(f"{kind} f{i};" for i, kind in enumerate(kinds)))
    assert layout.size == ctypes.sizeof(peer)
    assert [f.offset for f in layout.fields] == [getattr(peer, name).offset for name, _ in fields]


# Assembly -------------------------------------------------------------------------------------------------------------


def test_what_assembly_is_told(tmp_path: Path) -> None:
    layout = layout_of(tmp_path, "const void* x;\n int32_t n;\n int32_t y;")
    assert arguments.assembly(layout).splitlines()[1:] == [
        ".set ARGS_x, 0",
        ".set ARGS_n, 8",
        ".set ARGS_y, 12",
        ".set ARGS_BYTES, 16",
        "#define AITERLITE_KERNEL_ARGS ["
        "{.name: !str x, .offset: 0, .size: 8, .value_kind: global_buffer, .address_space: global}, "
        "{.name: !str n, .offset: 8, .size: 4, .value_kind: by_value}, "
        "{.name: !str y, .offset: 12, .size: 4, .value_kind: by_value}]",
    ]


def test_differences_name_the_argument() -> None:
    one, two = Field("x", 0, 8, "Q", True), Field("n", 8, 4, "i")
    assert arguments.differences((one, two), (one, two)) == []
    moved = Field("n", 12, 4, "i")
    assert arguments.differences((one, two), (one, moved)) == [
        ("n", "4 bytes at 12, by_value", "4 bytes at 8, by_value")
    ]
    assert arguments.differences((one, two), (one,)) == [("n", "none", "4 bytes at 8, by_value")]
    assert arguments.differences((one, two), (two, one)) == [("order", "n, x", "x, n")]


def test_the_layout_is_in_the_key_of_an_assembly_unit(tmp_path: Path) -> None:
    """And nothing else of the header is: a comment changes nothing."""
    text = "// {0}\nstruct toy {{\n  void* x;\n  int32_t n;\n  int32_t {1};\n}};\n"
    unit = Unit("toy/toy", ("asm/toy.S",), "gfx942", symbols=("toy",), arguments="aiterlite/args.h:toy")
    tree = tree_of(tmp_path, args=text.format("one", "m"))
    (tmp_path / "asm").mkdir()
    (tmp_path / "asm" / "toy.S").write_text("")
    first = engine.wanted(unit, tree)
    assert first.parts["arguments"] == "toy of 16 bytes: x * 0+8, n i 8+4, m i 12+4"
    tree_of(tmp_path, args=text.format("two", "m"))
    assert engine.wanted(unit, tree).key == first.key
    tree_of(tmp_path, args=text.format("one", "k"))
    assert engine.wanted(unit, tree).key != first.key
