"""Specs and keys: what changes a key and what must not. No compiler runs."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support import HOST_TARGET, SCALE_HEADER, assembly_unit, edit, toy_unit

from aiterlite.errors import SourceError
from aiterlite.jit import engine, key, spec
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit

UNIT = Unit("toy/toy", ("csrc/toy/toy.hip",), "gfx942", (("A", "1"), ("B", "x")), ("-fno-math-errno",), ("toy",))
DIGESTS = {"csrc/toy/toy.hip": "0" * 64}


def key_of(unit: Unit, digests: dict[str, str] | None = None) -> str:
    # The layout of an argument struct, which is in the key, is here its name.
    return key.lookup_key(key.key_parts(unit, digests or DIGESTS, unit.arguments))


# What changes a key ---------------------------------------------------------------------------------------------------

CHANGES: list[dict[str, Any]] = [
    {"name": "toy/other"},
    {"sources": ("csrc/toy/plain.hip",)},
    {"sources": ("csrc/toy/toy.hip", "csrc/toy/plain.hip")},
    {"target": "gfx950"},
    {"target": "sm_90a"},
    {"target": "cpu-x86-64"},
    {"defines": (("A", "2"), ("B", "x"))},
    {"defines": (("A", "1"),)},
    {"defines": (("A", "1x"), ("B", ""))},
    {"defines": ()},
    {"flags": ()},
    {"flags": ("-fno-math-errno", "-O2")},
    {"flags": ("-fno-math-errno -O2",)},
    {"symbols": ("toy2",)},
    {"symbols": ()},
    {"arguments": "aiterlite/args.h:one"},
    {"arguments": "aiterlite/args.h:other"},
    {"target": "cpu-x86-64", "prelude": "aiterlite/args.h"},
    {"target": "cpu-x86-64", "prelude": "aiterlite/other.h"},
]


def test_every_field_of_a_unit_is_perturbed_here() -> None:
    assert {name for change in CHANGES for name in change} == {field.name for field in dataclasses.fields(Unit)}


def test_every_change_of_a_unit_gives_another_key() -> None:
    units = [UNIT, *(dataclasses.replace(UNIT, **change) for change in CHANGES)]
    assert len({key_of(unit) for unit in units}) == len(units)


def test_every_byte_of_a_source_is_in_the_key(source_tree: SourceTree) -> None:
    unit = toy_unit("gfx942")
    path = source_tree.root / unit.sources[0]
    original = path.read_bytes()
    keys = {engine.wanted(unit, source_tree).key}
    positions = range(0, len(original), 7)
    for position in positions:
        changed = bytearray(original)
        changed[position] ^= 1
        path.write_bytes(changed)
        keys.add(engine.wanted(unit, source_tree).key)
    path.write_bytes(original + b"\n")
    keys.add(engine.wanted(unit, source_tree).key)
    assert len(keys) == len(positions) + 2


def test_the_command_lines_are_in_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for unit, templates in (
        (UNIT, "_AMD_TEXT"),
        (assembly_unit(), "_AMD_ASM_TEXT"),
        (toy_unit("sm_90a"), "_CUDA_TEXT"),
        (toy_unit("cpu-x86-64"), "_HOST_FLAGS"),
        (toy_unit("cpu-x86-64"), "_HOST_LINK"),
    ):
        before = key_of(unit)
        with monkeypatch.context() as patch:
            patch.setattr(spec, templates, (*getattr(spec, templates), "-extra"))
            assert key_of(unit) != before, templates
        assert key_of(unit) == before


def test_the_platform_is_in_the_key_of_host_units_only(monkeypatch: pytest.MonkeyPatch) -> None:
    host, device = toy_unit("cpu-x86-64"), toy_unit("gfx942")
    before = key_of(host), key_of(device)
    monkeypatch.setattr(key, "host_abi", lambda: "linux-x86_64-musl")
    assert key_of(host) != before[0]
    assert key_of(device) == before[1]


words = st.text(alphabet="abAB01_-=. /", min_size=1, max_size=6)
units = st.builds(
    Unit,
    name=st.sampled_from(["toy", "toy/toy"]),
    sources=st.lists(words, min_size=1, max_size=3).map(tuple),
    target=st.sampled_from(["gfx942", "gfx950", "sm_90a", "cpu-x86-64"]),
    defines=st.dictionaries(st.sampled_from("ABC"), words, max_size=3).map(lambda pairs: tuple(pairs.items())),
    flags=st.lists(words, max_size=3).map(tuple),
    symbols=st.lists(words, max_size=2).map(tuple),
)


@given(units, units)
@example(Unit("toy", ("0",), "gfx942", flags=("0",)), Unit("toy", ("0", "0"), "gfx942"))
def test_two_units_share_a_key_only_if_they_are_equal(left: Unit, right: Unit) -> None:
    same_files = dict.fromkeys({*left.sources, *right.sources}, "0" * 64)
    assert (key_of(left, same_files) == key_of(right, same_files)) == (left == right)


@given(st.lists(words, max_size=4), st.lists(words, max_size=4))
@example(["-a b"], ["-a", "b"])
def test_lists_of_flags_are_told_apart_however_they_would_join(left: list[str], right: list[str]) -> None:
    texts = [spec.build_text(dataclasses.replace(UNIT, flags=tuple(flags))) for flags in (left, right)]
    assert (texts[0] == texts[1]) == (left == right)


# What does not change a key -------------------------------------------------------------------------------------------


@given(st.permutations([("A", "1"), ("B", "2"), ("C", "3"), ("D", "4")]))
def test_the_order_of_defines_does_not_matter(pairs: list[tuple[str, str]]) -> None:
    shuffled = dataclasses.replace(UNIT, defines=tuple(pairs))
    ordered = dataclasses.replace(UNIT, defines=tuple(sorted(pairs)))
    assert key_of(shuffled) == key_of(ordered)
    assert shuffled == ordered and hash(shuffled) == hash(ordered)


def test_a_macro_defined_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="A"):
        dataclasses.replace(UNIT, defines=(("A", "1"), ("A", "2")))


def test_where_a_checkout_lies_and_when_it_was_written_do_not_matter(source_tree: SourceTree) -> None:
    moved = SourceTree(source_tree.root.parent / "elsewhere" / "deep er")
    shutil.copytree(source_tree.root, moved.root)
    for path in moved.root.rglob("*"):
        os.utime(path, (1, 1))
    for unit in (toy_unit("gfx942"), toy_unit("sm_90a"), toy_unit(HOST_TARGET), assembly_unit()):
        assert engine.wanted(unit, moved).key == engine.wanted(unit, source_tree).key


def test_the_environment_does_not_matter(source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch) -> None:
    units = [toy_unit("gfx942"), toy_unit(HOST_TARGET)]
    before = [engine.wanted(unit, source_tree).key for unit in units]
    for name in ("PATH", "HOME", "CXX", "CXXFLAGS", "CPATH", "TORCH_CUDA_ARCH_LIST", "PYTORCH_ROCM_ARCH", "CUDA_HOME"):
        monkeypatch.setenv(name, "/nonexistent")
    monkeypatch.chdir("/")
    assert [engine.wanted(unit, source_tree).key for unit in units] == before


def test_no_path_of_this_machine_is_in_the_key_parts(source_tree: SourceTree) -> None:
    for unit in (toy_unit("gfx942"), toy_unit("sm_90a"), toy_unit(HOST_TARGET), assembly_unit()):
        text = json.dumps(engine.wanted(unit, source_tree).parts)
        assert str(source_tree.root) not in text and os.path.expanduser("~") + "/" not in text


def test_a_header_is_no_part_of_the_lookup_key(source_tree: SourceTree) -> None:
    """Headers are compared at lookup, as the compiler listed them: before a compile nobody knows which they are."""
    unit = toy_unit("gfx942")
    before = engine.wanted(unit, source_tree).key
    edit(source_tree, SCALE_HEADER, "3", "4")
    assert engine.wanted(unit, source_tree).key == before


def test_a_leaf_s_name_covers_headers_and_toolchain() -> None:
    leaves = {
        key.leaf_id("k", {"a.h": "1"}, "t"),
        key.leaf_id("k", {"a.h": "2"}, "t"),
        key.leaf_id("k", {"b.h": "1"}, "t"),
        key.leaf_id("k", {}, "t"),
        key.leaf_id("k", {"a.h": "1"}, "u"),
        key.leaf_id("j", {"a.h": "1"}, "t"),
    }
    assert len(leaves) == 6
    assert key.leaf_id("k", {"a": "1", "b": "2"}, "t") == key.leaf_id("k", {"b": "2", "a": "1"}, "t")


# Units as data --------------------------------------------------------------------------------------------------------


@given(units)
def test_the_json_form_of_a_unit_is_stable(unit: Unit) -> None:
    assert json.loads(json.dumps(unit.to_json())) == unit.to_json()


@pytest.mark.parametrize("unit", [UNIT, assembly_unit(), toy_unit("sm_90a", K="2"), toy_unit("cpu-x86-64-v3")])
def test_a_unit_survives_its_json_form(unit: Unit) -> None:
    assert Unit.from_json(json.loads(json.dumps(unit.to_json()))) == unit


# A manifest comes from elsewhere, and these fields end in file names and in ninja's command lines.
HOSTILE = [
    {"name": ".."},
    {"name": "../x"},
    {"name": "x;touch y"},
    {"name": "-x"},
    {"name": "a/b/c"},
    {"name": ""},
    {"sources": ["../outside.cpp"]},
    {"sources": ["/etc/passwd"]},
    {"sources": ["csrc/toy/$(x).cpp"]},
    {"sources": []},
    {"target": "native"},
    {"target": "cpu-x86-64 -fplugin=x"},
    {"target": "gfx942;x"},
    {"defines": [["A B", "1"]]},
    {"defines": [["A", "$(x)"]]},
    {"defines": [["A", "1"], ["A", "2"]]},
    {"flags": ["-fplugin=/tmp/x.so"]},
    {"flags": ["-wrapper", "sh"]},
    {"flags": ["@/tmp/x"]},
    {"flags": ["-I/tmp"]},
    {"flags": ["-o/tmp/x"]},
    {"flags": ["-fpass-plugin"]},
    {"flags": ["-fpass-plugin=/tmp/x.so"]},
    {"flags": ["-fplugin", "x"]},
    {"flags": ["-mllvm", "-load"]},
    {"flags": ["-mlink-builtin-bitcode", "x"]},
    {"flags": ["-fprofile-use"]},
    {"flags": ["-fmodules"]},
    {"flags": ["-fopenmp"]},
    {"flags": ["-ffp-contract=/x"]},
    {"flags": ["-Wa"]},
    {"flags": [5]},
    {"flags": [["-O3"]]},
    {"defines": [["A", 1]]},
    {"arguments": []},
    {"symbols": ["a b"]},
    {"arguments": ""},
    {"arguments": "../args.h:one"},
    {"arguments": None},
    {"prelude": "aiterlite/args.h"},  # of a device unit
    {"target": "cpu-x86-64", "prelude": "../args.h"},
    {"target": "cpu-x86-64", "prelude": ""},
    {"name": 5},
    {"flags": "-O3"},
    {"sources": "csrc/toy/toy.hip"},
    {"defines": [["A"]]},
    {"defines": {"A": "1"}},
    {"extra": 1},
]


@pytest.mark.parametrize("change", HOSTILE, ids=json.dumps)
def test_data_that_is_no_unit_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError):
        Unit.from_json({**UNIT.to_json(), **change})


def test_every_field_of_a_unit_has_its_json_form() -> None:
    assert list(spec.FORM) == [field.name for field in dataclasses.fields(Unit)]


def test_a_field_that_only_some_units_have_is_in_their_keys_alone() -> None:
    assert "arguments" not in key.key_parts(UNIT, DIGESTS)
    struct = dataclasses.replace(UNIT, arguments="aiterlite/args.h:one")
    assert key.key_parts(struct, DIGESTS, "a layout")["arguments"] == "a layout"
    plain = dataclasses.replace(UNIT, target="cpu-x86-64")
    begun = dataclasses.replace(plain, prelude="aiterlite/args.h")
    assert spec.build_text(begun).endswith("\nprelude aiterlite/args.h")
    assert "prelude" not in spec.build_text(plain) + json.dumps(plain.to_json()) and "-std=" not in spec.build_text(
        plain
    )


@pytest.mark.parametrize("data", [None, [], "x", 1, {}, {"name": "x"}])
def test_data_of_another_form_is_refused(data: Any) -> None:
    with pytest.raises(ValueError):
        Unit.from_json(data)


# Filling templates ----------------------------------------------------------------------------------------------------


def test_paths_with_spaces_stay_one_word() -> None:
    words = spec.fill("{cc} -I{include} {flags} {src} -o {out}", {
        "cc": ("/a b/zig", "clang"),
        "include": "/c d/{x}",
        "flags": (),
        "src": ["e f", "g"],
        "out": "h i",
    })  # fmt: skip
    assert words == ["/a b/zig", "clang", "-I/c d/{x}", "e f", "g", "-o", "h i"]


def test_the_difference_of_two_keys_is_told_in_words() -> None:
    left, right = (key.key_parts(unit, DIGESTS) for unit in (UNIT, dataclasses.replace(UNIT, target="gfx950")))
    lines = key.difference(left, right)
    assert "target: gfx950 -> gfx942" in lines
    assert key.difference(left, left) == []
    assert key.difference({"a": {"b": "1" * 64}}, {"a": {}}) == [f"a.b: (absent) -> {'1' * 12}..."]


# Sources --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("#if __has_include(<aiterlite/x.h>)\n#endif", "__has_include"),
        ("#if __has_include_next(<x.h>)\n#endif", "__has_include"),
        ("#embed <x>", "#embed"),
        ("#if __has_embed(<x>)\n#endif", "#embed"),
        ('#include "toy.h"', "<aiterlite/...>"),
        ('  #  include "toy.h"', "<aiterlite/...>"),
        ('/* why */ #include "toy.h"', "<aiterlite/...>"),
        ('#import "toy.h"', "<aiterlite/...>"),
        ('#include_next "toy.h"', "<aiterlite/...>"),
        ('%:include "toy.h"', "<aiterlite/...>"),
        ("#define HEADER <toy.h>\n#include HEADER", "<aiterlite/...>"),
        ('asm(".incbin \\"x\\"");', ".incbin"),
        ('.include "x.s"', ".include"),
        ('asm volatile(".include \\"x\\"");', ".include"),
        ('asm volatile("nop\\n.include \\"x\\"");', ".include"),
        ("#include <torch/extension.h>", "torch"),
        ("#include <ATen/ATen.h>", "torch"),
        ("#include <c10/core/Device.h>", "torch"),
        ("#include <pybind11/pybind11.h>", "torch"),
        ("#include <Python.h>", "torch"),
        ("const char* when = __DATE__;", "build time"),
        ("const char* when = __TIME__;", "build time"),
        ("const char* when = __TIMESTAMP__;", "build time"),
        ("#pragma GCC system_header", "system header"),
        ("#pragma clang system_header", "system header"),
    ],
)
def test_what_a_compiler_s_include_list_does_not_show_is_refused(source_tree: SourceTree, text: str, why: str) -> None:
    path = source_tree.root / "csrc/toy/toy.hip"
    path.write_text(f"// first line\n{text}\n")
    with pytest.raises(SourceError, match=r"csrc/toy/toy\.hip:[23]: ") as caught:
        source_tree.check(["csrc/toy/toy.hip"])
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        "#include <aiterlite/toy.h>",
        "#include <stdint.h>",
        "  #  include   <stdint.h>",
        '// #include "toy.h" would look beside this file first',
        "int includes; x.include();",
        "#if __has_builtin(__builtin_bit_cast)\n#endif",
    ],
)
def test_honest_sources_pass(source_tree: SourceTree, text: str) -> None:
    (source_tree.root / "csrc/toy/toy.hip").write_text(text + "\n")
    source_tree.check(["csrc/toy/toy.hip"])


def test_the_package_s_own_sources_pass() -> None:
    from aiterlite.jit.sources import package_tree

    tree = package_tree()
    found = [name for name in tree.snapshot() if not name.endswith(".md")]
    assert any(name.endswith(".hip") for name in found) and any(name.endswith(".h") for name in found)
    tree.check(found)


@pytest.mark.parametrize("relative", ["/etc/passwd", "../x.cpp", "csrc/../../x.cpp", "csrc/missing.cpp", "csrc/\0.h"])
def test_a_source_outside_the_tree_is_an_error(source_tree: SourceTree, relative: str) -> None:
    with pytest.raises(SourceError):
        source_tree.read(relative)
