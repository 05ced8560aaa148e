"""verify and gc: is the cache whole, and how large may it stay."""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

from aiterlite.cli import output
from aiterlite.cli.command import Commands, Report, command
from aiterlite.errors import JitError
from aiterlite.jit.store import Entry, Store, collect, damage, discard_damaged, open_store

_SUFFIXES = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def add(commands: Commands) -> None:
    command(commands, "verify", "re-hash every artifact of every cache layer", _verify)
    parser = command(commands, "gc", "delete damaged and the longest unused artifacts of the writable layer", _gc)
    parser.add_argument(
        "--max-bytes", type=byte_count, required=True, metavar="N", help="bytes to keep; K, M, G, T are understood"
    )
    parser.add_argument("--dry-run", action="store_true", help="delete nothing, show what would be deleted")


def byte_count(text: str) -> int:
    """A size such as 500M or 1.5G (powers of 1024)."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; allowed: a number, with K, M, G or T behind it")
    return int(float(match.group(1)) * _SUFFIXES[match.group(2).upper()])


def _verify(args: argparse.Namespace) -> Report:
    data = verify(open_store())
    return Report(data, render_verify(data), failed=bool(data["bad"]))


def verify(store: Store) -> dict[str, Any]:
    good, total, bad = 0, 0, []
    for _, directory, found in store.survey():
        error = found if isinstance(found, JitError) else damage(found)
        if error is None:
            good += 1
            total += found.size() if isinstance(found, Entry) else 0
        else:
            bad.append({"directory": str(directory), "kind": type(error).__name__, "error": str(error)})
    return {"layers": [str(layer.root) for layer in store.layers], "good": good, "bytes": total, "bad": bad}


def render_verify(data: Mapping[str, Any]) -> str:
    lines = [f"{item['kind']}: {item['error']}" for item in data["bad"]]
    lines.append(
        f"{output.plural(data['good'], 'artifact')} verified ({output.size(data['bytes'])}), {len(data['bad'])} bad, "
        f"in {', '.join(data['layers'])}"
    )
    return "\n".join(lines)


def _gc(args: argparse.Namespace) -> Report:
    store = open_store()
    damaged = [{"directory": error.directory, "error": str(error)} for error in discard_damaged(store, args.dry_run)]
    before = _usage(store, {item["directory"] for item in damaged})
    deleted: list[dict[str, Any]] = [
        {"unit": entry.label, "directory": str(entry.directory), "bytes": before.get(str(entry.directory), 0)}
        for entry in collect(store, args.max_bytes, args.dry_run)
    ]
    freed = sum(item["bytes"] for item in deleted)
    data = {
        "cache": str(store.writable.root),
        "max_bytes": args.max_bytes,
        "dry_run": args.dry_run,
        "damaged": damaged,
        "deleted": deleted,
        "deleted_bytes": freed,
        "kept": len(before) - len(deleted),
        "kept_bytes": sum(before.values()) - freed,
    }
    return Report(data, render_gc(data))


def _usage(store: Store, damaged: set[str]) -> dict[str, int]:
    """Bytes of each whole artifact of the writable layer, by directory."""
    found = [entry for _, _, entry in Store((store.writable,)).survey() if isinstance(entry, Entry)]
    return {str(entry.directory): entry.size() for entry in found if str(entry.directory) not in damaged}


def render_gc(data: Mapping[str, Any]) -> str:
    word = "would delete" if data["dry_run"] else "deleted"
    lines = [f"{word}, damaged: {item['error']}" for item in data["damaged"]]
    lines += [f"{word} {item['unit']}, {output.size(item['bytes'])}" for item in data["deleted"]]
    lines.append(
        f"{word} {output.plural(len(data['deleted']), 'artifact')} ({output.size(data['deleted_bytes'])}), "
        f"kept {data['kept']} ({output.size(data['kept_bytes'])}) in {data['cache']}"
    )
    return "\n".join(lines)
