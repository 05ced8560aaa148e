"""Dependency files as gcc, clang, nvcc and ninja write them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiterlite.jit import depfile


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("k.o: k.hip a.h b.h\n", ["k.hip", "a.h", "b.h"]),
        ("k.o: k.hip \\\n  /x/a.h \\\n  /x/b.h\n", ["k.hip", "/x/a.h", "/x/b.h"]),
        ("k.o: k.hip \\\r\n a.h\r\n", ["k.hip", "a.h"]),
        ("k.o : k.hip\n", ["k.hip"]),  # nvcc puts a space before the colon
        ("k.o: k.hip a.h\n\na.h:\n", ["k.hip", "a.h"]),  # -MP adds a rule for each header
        ("one.o two.o: k.hip\n", ["k.hip"]),
        ("k.o: a.h a.h k.hip a.h\n", ["a.h", "k.hip"]),
        ("k\\ k.o: a\\ b/c.h\n", ["a b/c.h"]),
        ("k.o: a\\#b.h c$$d.h\n", ["a#b.h", "c$d.h"]),
        ("C:/k.o: x.h\n", ["x.h"]),
        ("k.o: /w/d\u00e9j\u00e0\\ vu/\u6a21.h\n", ["/w/d\u00e9j\u00e0 vu/\u6a21.h"]),
        ("k.o:\n", []),
        ("", []),
    ],
)
def test_rules_are_read(text: str, paths: list[str]) -> None:
    assert depfile.parse(text) == paths


@pytest.mark.parametrize("text", ["error: no such file\nfatal", "k.o k.hip\n", "\x7fELF\x02\x01"])
def test_text_that_is_no_rule_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="not a dependency rule"):
        depfile.parse(text)


names = st.lists(
    st.text(alphabet="ab/. #$-_\u00e9\u6a21", min_size=1, max_size=8).filter(lambda name: name.strip() == name),
    min_size=1,
    max_size=6,
    unique=True,
)


def escaped(name: str) -> str:
    return name.replace("$", "$$").replace("#", "\\#").replace(" ", "\\ ")


@given(names, st.sampled_from([" ", " \\\n  ", " \\\r\n "]))
def test_what_a_compiler_escapes_comes_back(paths: list[str], separator: str) -> None:
    assert depfile.parse("out.o: " + separator.join(map(escaped, paths)) + "\n") == paths


@given(st.text(max_size=60))
def test_no_text_crashes_the_parser(text: str) -> None:
    for parse in (depfile.parse, depfile.parse_ninja):
        try:
            parse(text)
        except ValueError:
            pass


def test_what_ninja_prints_is_read() -> None:
    text = "toy.o: #deps 3, deps mtime 17 (VALID)\n    /a b/toy.cpp\n    /a b/x.h\n    /y.h\n\n"
    text += "two.o: #deps 1, deps mtime 17 (VALID)\n    /y.h\n\n"
    assert depfile.parse_ninja(text) == ["/a b/toy.cpp", "/a b/x.h", "/y.h"]


@pytest.mark.parametrize("text", ["", "toy.o: deps not found\n"])
def test_a_compiler_that_listed_nothing_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="no dependencies"):
        depfile.parse_ninja(text)
