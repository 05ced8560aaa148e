"""Make-style dependency files, as gcc, clang and nvcc write them. Pure."""

from __future__ import annotations

import re

_TOKEN = re.compile(r"((?:[^\\\s]|\\.)+)")


def parse(text: str) -> list[str]:
    """The prerequisites of all rules in a dependency file, in order, without repetition.

    Raises `ValueError` on text that is no dependency file.
    """
    joined = re.sub(r"\\\r?\n", " ", text)
    paths: dict[str, None] = {}
    for line in joined.splitlines():
        if not line.strip():
            continue
        rule = re.search(r":(\s|$)", line)
        if rule is None:
            raise ValueError(f"not a dependency rule: {line[:80]!r}")
        for token in _TOKEN.findall(line[rule.end() :]):
            paths[re.sub(r"\\([\s#\\:])", r"\1", token).replace("$$", "$")] = None
    return list(paths)


def parse_ninja(text: str) -> list[str]:
    """The dependencies that `ninja -t deps` prints. Raises `ValueError` where it knows of none."""
    paths: dict[str, None] = {}
    for line in text.splitlines():
        if line.startswith("    "):
            paths[line.strip()] = None
    if not paths:
        raise ValueError("ninja recorded no dependencies")
    return list(paths)
