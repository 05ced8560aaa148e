"""status: every artifact of every layer, and whether it still fits the sources."""

from __future__ import annotations

import argparse
import calendar
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from aiterlite.amdgpu import code_object
from aiterlite.cli import output
from aiterlite.cli.command import Commands, Report, command
from aiterlite.errors import DamagedArtifactError, JitError, SourceError, UntrustedArtifactError
from aiterlite.jit import engine, key, toolchain
from aiterlite.jit.sources import SourceTree, package_tree
from aiterlite.jit.spec import HOST, Unit
from aiterlite.jit.store import Entry, Layer, Store, damage, open_store

_HEADERS = ("unit", "target", "state", "toolchain", "object", "size", "build", "resources", "age", "layer")


def add(commands: Commands) -> None:
    command(commands, "status", "show every artifact of every cache layer, and whether it fits the sources", _run)


def _run(args: argparse.Namespace) -> Report:
    data = gather(open_store(), package_tree())
    return Report(data, render(data), failed=bool(data["problems"]))


def gather(store: Store, tree: SourceTree) -> dict[str, Any]:
    artifacts, problems = [], []
    digests: dict[str, str | None] = {}
    for layer, directory, found in store.survey():
        refused = _refused(found) if isinstance(found, Entry) else (_kind(found), str(found))
        if refused is None and isinstance(found, Entry):
            artifacts.append(_artifact(found, store, tree, digests))
        elif refused is not None:
            kind, error = refused
            problems.append(
                {"layer": store.layers.index(layer), "directory": str(directory), "kind": kind, "error": error}
            )
    states = Counter(item["state"] for item in artifacts)
    return {
        "layers": [_layer(layer) for layer in store.layers],
        "artifacts": artifacts,
        "problems": problems,
        "totals": {
            "artifacts": len(artifacts),
            "bytes": sum(item["size"] for item in artifacts),
            "build_seconds": round(sum(item["build_seconds"] for item in artifacts), 3),
            "current": states["current"],
            "stale": states["stale"],
            "problems": len(problems),
        },
    }


def _refused(entry: Entry) -> tuple[str, str] | None:
    """Why an artifact would not be loaded, whatever the sources: its kind and what is wrong."""
    if error := damage(entry):
        return _kind(error), str(error)
    if Unit.from_json(entry.meta["unit"]).kind == HOST and (why := entry.layer.noexec):
        return "noexec", why
    return None


def _kind(error: JitError) -> str:
    kinds = {UntrustedArtifactError: "untrusted", DamagedArtifactError: "damaged"}
    return kinds.get(type(error), "unreadable")


def _layer(layer: Layer) -> dict[str, Any]:
    return {
        "root": str(layer.root),
        "writable": layer.writable,
        "trusted": layer.trusted,
        "exists": layer.root.is_dir(),
        "noexec": bool(layer.noexec),
    }


def _artifact(entry: Entry, store: Store, tree: SourceTree, digests: dict[str, str | None]) -> dict[str, Any]:
    meta = entry.meta
    changes = staleness(entry, tree, digests)
    unit = Unit.from_json(meta["unit"])
    return {
        "unit": unit.label,
        "name": unit.name,
        "target": unit.target,
        "state": "stale" if changes else "current",
        "changes": changes,
        "toolchain": meta["toolchain"]["title"],
        "local_toolchain": _is_local(entry, store.writable.root),
        "code_object_version": _code_object_version(entry.path),
        "size": entry.size(),
        "build_seconds": meta["build_seconds"],
        "resources": meta["resources"],
        "built_at": meta["built_at"],
        "layer": store.layers.index(entry.layer),
        "path": str(entry.path),
    }


def staleness(entry: Entry, tree: SourceTree, digests: dict[str, str | None]) -> list[str]:
    """What changed since an artifact was built; empty where a call would use it as it is."""
    try:
        want = engine.wanted(Unit.from_json(entry.meta["unit"]), tree)
    except SourceError as error:
        return [str(error)]
    changes = []
    if want.key != entry.directory.parent.name:
        changes = key.difference(want.parts, entry.meta["key_parts"]) or ["the key"]
    return changes + [f"header {name}" for name in engine.changed_headers(tree, entry.meta["headers"], digests)]


def _is_local(entry: Entry, memo: Path) -> bool | None:
    """Whether the local toolchain built it; None where there is none, or its version is not on record."""
    unit = Unit.from_json(entry.meta["unit"])
    local = toolchain.known(unit.kind, memo, unit.target)
    return None if local is None else bool(local.fingerprint == entry.meta["toolchain"]["fingerprint"])


def _code_object_version(artifact: Path) -> int | None:
    """The version of an AMD code object, which older runtimes refuse; None for anything else."""
    try:
        with artifact.open("rb") as file:
            return code_object.version(file.read(64))
    except (OSError, ValueError):
        # No code object, or damaged: `survey` and `verify` report damage.
        return None


def render(data: Mapping[str, Any]) -> str:
    lines = []
    for index, layer in enumerate(data["layers"]):
        kind = "writable" if layer["writable"] else "read-only"
        marks = [kind, *(["trusted"] if layer["trusted"] else []), *([] if layer["exists"] else ["not there yet"])]
        marks += ["mounted noexec: no library can be loaded from here"] if layer["noexec"] else []
        lines.append(f"layer {index}: {layer['root']} ({', '.join(marks)})")
    if data["artifacts"]:
        rows = [_row(item) for item in data["artifacts"]]
        lines += ["", output.table(_HEADERS, rows, right=("size", "build", "age", "layer"))]
    stale = [item for item in data["artifacts"] if item["changes"]]
    if stale:
        lines += ["", "stale:"]
        lines += [f"  {item['unit']}: {'; '.join(item['changes'])}" for item in stale]
    if data["problems"]:
        counts = Counter((item["kind"], item["error"]) for item in data["problems"])
        lines += ["", "refused:"]
        lines += [f"  {kind}: {error} ({output.plural(n, 'artifact')})" for (kind, error), n in counts.items()]
    totals = data["totals"]
    lines += [
        "",
        f"{output.plural(totals['artifacts'], 'artifact')}, {output.size(totals['bytes'])}, "
        f"{totals['build_seconds']:.1f} s of building: {totals['current']} current, {totals['stale']} stale, "
        f"{totals['problems']} refused",
    ]
    return "\n".join(lines)


_ORIGIN = {True: "local", False: "other", None: "not known here"}


def _row(item: Mapping[str, Any]) -> tuple[str, ...]:
    return (
        item["unit"].removesuffix(f" for {item['target']}"),
        item["target"],
        item["state"],
        f"{item['toolchain']} ({_ORIGIN[item['local_toolchain']]})",
        f"v{item['code_object_version']}" if item["code_object_version"] else "-",
        output.size(item["size"]),
        f"{item['build_seconds']:.2f} s",
        output.resources(item["resources"]),
        _age(item["built_at"]),
        str(item["layer"]),
    )


def _age(built_at: str) -> str:
    try:
        built = calendar.timegm(time.strptime(built_at, "%Y-%m-%dT%H:%M:%SZ"))
    except ValueError:
        return "-"
    return output.age(time.time() - built)
