"""What an artifact's `meta.json` may say. Pure.

Metadata is read wherever a cache came from, so it is held to its form before anything else looks at it: the types that
other modules count on, texts without control characters, and names and keys that agree with one another and with the
directory that the artifact lies in. A leaf that was copied under another key is then no hit under that key.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aiterlite.errors import DamagedArtifactError
from aiterlite.jit import key as keys
from aiterlite.jit import text
from aiterlite.jit.spec import Unit


def slug(unit: str) -> str:
    """The name of a unit's directory."""
    return unit.replace("/", ".")


def check(meta: Any, directory: Path) -> Unit:
    """The unit of an artifact whose metadata agrees with itself and with where it lies.

    Raises `DamagedArtifactError`.
    """
    try:
        unit = Unit.from_json(meta["unit"])
        _check_fields(meta)
        _check_parts(unit, meta["key_parts"])
        key = keys.lookup_key(meta["key_parts"])
        leaf = keys.leaf_id(key, meta["headers"], meta["toolchain"]["fingerprint"])
        expected = (keys.SCHEMA, key, unit.artifact_name, slug(unit.name), key, leaf)
        folders = (directory.parent.parent.name, directory.parent.name, directory.name)
        if (meta["schema"], meta["key"], meta["artifact"]["name"], *folders) != expected:
            raise ValueError(f"it belongs at {slug(unit.name)}/{key}/{leaf}/{unit.artifact_name}")
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        what = f"it has no {error}" if isinstance(error, KeyError) else str(error)
        raise DamagedArtifactError(f"{directory}: unusable metadata: {what}", str(directory)) from error
    return unit


def _check_parts(unit: Unit, parts: dict[str, Any]) -> None:
    """The key's parts are those of the unit. The command lines in them may be another version's."""
    expected = keys.key_parts(unit, parts["sources"])
    free = {"schema", "build_text", "host_abi", "arguments"}
    wrong = [name for name in sorted({*expected, *parts} - free) if parts.get(name) != expected.get(name)]
    wrong += [] if sorted(parts["sources"]) == sorted(unit.sources) else ["sources"]
    # The layout of a struct that the unit only names.
    layout = str(parts.get("arguments", ""))
    wrong += [] if layout.partition(" ")[0] == unit.arguments.rpartition(":")[2] else ["arguments"]
    if wrong:
        raise ValueError(f"key parts and unit differ in {', '.join(wrong)}")


def _check_fields(meta: dict[str, Any]) -> None:
    """What other modules read from metadata, by type."""
    artifact = meta["artifact"]
    texts = [meta["toolchain"]["title"], meta["toolchain"]["fingerprint"], artifact["sha256"], meta["built_at"]]
    texts += [word for pair in meta["headers"].items() for word in pair]
    numbers = [meta["build_seconds"], *(count for kernel in meta["resources"].values() for count in kernel.values())]
    if not all(isinstance(word, str) for word in texts):
        raise ValueError("a field that should be text is not")
    if not all(type(number) in (int, float) for number in numbers) or type(artifact["size"]) is not int:
        raise ValueError("a field that should be a number is not")
    odd = next((word for word in _words(meta) if text.printable(word) != word), None)
    if odd is not None:
        raise ValueError(f"{odd!r} holds control characters")


def _words(data: Any) -> Iterator[str]:
    if isinstance(data, str):
        yield data
    elif isinstance(data, dict):
        for name, value in data.items():
            yield from _words(name)
            yield from _words(value)
    elif isinstance(data, list):
        for item in data:
            yield from _words(item)
