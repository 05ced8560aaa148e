"""Spells out control characters, so that a text may reach a terminal. Pure."""

from __future__ import annotations

import re

# C0 and C1 controls drive a terminal, and the bidirectional ones reorder what is read on it. Bundles, manifests, names
# of files and compilers' output come from elsewhere.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def printable(text: str) -> str:
    """The text with its control characters spelled out; lines and tabs stay."""
    return _CONTROL.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


def one_line(text: str) -> str:
    """The same, for a text that must not look like several lines or columns."""
    return printable(text).replace("\n", r"\n").replace("\t", r"\t")
