"""Lookup keys. Pure.

The lookup key covers what is known before a compiler runs: the spec, its build text, the digests of the unit's own
sources, the target and, for host units, the platform. The headers that a compile read and the tools that ran are
recorded with each artifact and compared at lookup (see `store`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from typing import Any

from aiterlite.jit.spec import HOST, Unit, build_text

SCHEMA = 1


def host_abi() -> str:
    """What a plain C library depends on besides its instruction set: system, machine, C library family."""
    libc = "system"
    if sys.platform == "linux":
        try:
            libc = "gnu" if os.confstr("CS_GNU_LIBC_VERSION") else "musl"
        except (ValueError, OSError):
            libc = "musl"
    return f"{sys.platform}-{platform.machine()}-{libc}"


def key_parts(unit: Unit, source_digests: Mapping[str, str], layout: str = "") -> dict[str, Any]:
    """Everything that the lookup key is the digest of; `layout` is that of an assembly unit's argument struct."""
    # Absent, not empty, where there is none, so that the keys of other units stay as they were.
    arguments = {"arguments": layout} if layout else {}
    return {
        "schema": SCHEMA,
        "name": unit.name,
        "target": unit.target,
        "defines": dict(unit.defines),
        "build_text": build_text(unit),
        "symbols": list(unit.symbols),
        "sources": dict(sorted(source_digests.items())),
        "host_abi": host_abi() if unit.kind == HOST else None,
        **arguments,
    }


def digest_json(data: Any) -> str:
    text = json.dumps(data, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def lookup_key(parts: Mapping[str, Any]) -> str:
    return digest_json(parts)[:40]


def leaf_id(key: str, headers: Mapping[str, str], toolchain: str) -> str:
    """The name of one artifact under a lookup key: what its compile read, and by which tools it was made."""
    return digest_json({"key": key, "headers": dict(headers), "toolchain": toolchain})[:24]


def difference(wanted: Any, found: Any, path: str = "") -> list[str]:
    """The leaves in which two key-part trees differ, in words."""
    if isinstance(wanted, Mapping) and isinstance(found, Mapping):
        lines = []
        for name in sorted({*wanted, *found}):
            where = f"{path}.{name}" if path else name
            lines += difference(wanted.get(name), found.get(name), where)
        return lines
    if wanted == found:
        return []
    if isinstance(wanted, str) and isinstance(found, str) and " " in wanted and " " in found:
        return [f"{path}: {_words(found.split(), wanted.split())}"]
    return [f"{path}: {_short(found)} -> {_short(wanted)}"]


def _words(found: list[str], wanted: list[str]) -> str:
    """The words in which two command lines differ: `gfx942 -> gfx950; added -DX=1`."""
    changes = []
    for kind, i, j, k, m in difflib.SequenceMatcher(None, found, wanted, autojunk=False).get_opcodes():
        old, new = " ".join(found[i:j]), " ".join(wanted[k:m])
        if kind == "replace":
            changes.append(f"{old} -> {new}")
        elif kind != "equal":
            changes.append(f"removed {old}" if kind == "delete" else f"added {new}")
    return "; ".join(changes) or "only its white space"


def _short(value: Any) -> str:
    text = "(absent)" if value is None else value if isinstance(value, str) else json.dumps(value)
    return f"{text[:12]}..." if len(text) == 64 and text.isalnum() else text
