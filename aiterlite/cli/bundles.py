"""export and import: a cache in one file."""

from __future__ import annotations

import argparse

from aiterlite.cli import output
from aiterlite.cli.command import Commands, Report, UsageError, command, near, path
from aiterlite.cli.targets import add_target_option, personas, target_ids
from aiterlite.errors import BundleError
from aiterlite.jit import bundle
from aiterlite.jit.store import Entry, open_store


def add(commands: Commands) -> None:
    out = command(commands, "export", "write the artifacts of all cache layers into one file", _export)
    out.add_argument("file", type=path, metavar="FILE.tar")
    add_target_option(out, "only artifacts for these (a GPU's with the library that launches them)")
    out.add_argument("--unit-name", action="append", default=[], metavar="NAME", help="only this unit; repeatable")
    out.add_argument("--check", action="store_true", help="write nothing; verify the bundle FILE.tar")
    into = command(commands, "import", "verify a bundle, then place its artifacts in the writable layer", _import)
    into.add_argument("source", type=path, metavar="FILE.tar|DIR", help="a bundle, or one that was unpacked")
    into.add_argument("--sha256", metavar="HEX", help="refuse a file of another SHA-256 (`export` prints it)")


def _export(args: argparse.Namespace) -> Report:
    if args.check:
        return _check(args)
    targets = target_ids(personas(args.target)) if args.target else None
    store = open_store()
    try:
        exported = bundle.export(store, args.file, targets, args.unit_name or None)
    except BundleError as error:
        there = {entry.meta["unit"]["name"] for _, _, entry in store.survey() if isinstance(entry, Entry)}
        advice = next(filter(None, (near(name, there) for name in args.unit_name if name not in there)), "")
        raise BundleError(f"{error}{advice}") from None
    units = exported.units
    digest, size = bundle.file_digest(args.file), args.file.stat().st_size
    data = {
        "file": str(args.file),
        "bytes": size,
        "sha256": digest,
        "artifacts": [{"unit": unit.label} for unit in units],
        "left_out": [{"kind": type(error).__name__, "error": str(error)} for error in exported.left_out],
    }
    lines = [unit.label for unit in units]
    lines.append(f"exported {output.plural(len(units), 'artifact')} to {args.file}, {output.size(size)}")
    lines.append(f"sha256 {digest}")
    lines += [f"left out: {error}" for error in exported.left_out]
    if exported.left_out:
        lines.append("`aiterlite gc` deletes what is damaged, and `aiterlite build` builds it anew")
    return Report(data, "\n".join(lines), failed=bool(exported.left_out))


def _check(args: argparse.Namespace) -> Report:
    if args.target or args.unit_name:
        raise UsageError("--check verifies the whole bundle: leave out --target and --unit-name")
    leaves = bundle.verify(args.file)
    units = [leaf.unit.label for leaf in leaves]
    data = {"file": str(args.file), "artifacts": [{"unit": unit} for unit in units]}
    return Report(data, "\n".join([*units, f"{args.file}: {output.plural(len(units), 'artifact')} verified"]))


def _import(args: argparse.Namespace) -> Report:
    store = open_store()
    placed = bundle.load(store, args.source, args.sha256)
    new = sum(item.new for item in placed)
    data = {
        "source": str(args.source),
        "cache": str(store.writable.root),
        "artifacts": [{"unit": item.unit.label, "path": str(item.path), "new": item.new} for item in placed],
        "new": new,
        "present": len(placed) - new,
    }
    lines = [f"{'placed ' if item.new else 'present'} {item.unit.label}" for item in placed]
    lines.append(
        f"{output.plural(new, 'artifact')} placed, {len(placed) - new} already there, in {store.writable.root}"
    )
    return Report(data, "\n".join(lines))
