"""`status`, `verify` and `gc`: what they say of a cache, and do to it."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import (
    PLAIN_HEADER,
    SCALE_HEADER,
    edit,
    fake_meta,
    plain_unit,
    publish_fake,
    toy_unit,
)

from aiterlite import envs
from aiterlite.cli import main, output, status
from aiterlite.jit import engine, key, toolchain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Entry, Layer, Store, open_store

Both = Callable[..., tuple[str, Any, int]]


def publish(store: Store, tree: SourceTree, unit: Unit, header: str, seconds: float, **kernel: int) -> Entry:
    """An artifact that no compiler made, with resources."""
    digests = tree.digests((header,))
    meta = fake_meta(unit, tree, b"x" * 100, digests, "one")
    meta.update(build_seconds=seconds, resources={"toy": kernel} if kernel else {})
    staged = store.staging(unit.name)
    (staged / unit.artifact_name).write_bytes(b"x" * 100)
    return store.publish(staged, meta, meta["key"], key.leaf_id(meta["key"], digests, "one"))


# status ---------------------------------------------------------------------------------------------------------------

STATUS = """\
layer 0: LAYER (read-only, trusted)
layer 1: CACHE (writable)

unit                   target      state    toolchain                      object     size   build  resources                    age  layer
plain                  cpu-x86-64  current  compiler one (not known here)  -       1.5 KiB  2.50 s  -                            3 d      0
toy/plain              gfx942      stale    compiler one (local)           -       1.5 KiB  0.12 s  34 VGPR, 30 SGPR, 640 B LDS  3 d      1
toy/toy[toy_factor=5]  gfx942      current  compiler one (local)           -       1.5 KiB  0.25 s  8 VGPR, 3 vgpr spills        3 d      1

stale:
  toy/plain for gfx942: header csrc/include/aiterlite/plain.h

3 artifacts, 4.5 KiB, 2.9 s of building: 2 current, 1 stale, 0 refused"""  # noqa: E501


def test_status_of_a_small_cache(
    toy_store: Store, source_tree: SourceTree, both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    publish(Store((Layer(layer, writable=True),)), source_tree, plain_unit("cpu-x86-64"), SCALE_HEADER, 2.5)
    publish(toy_store, source_tree, plain_unit("gfx942"), PLAIN_HEADER, 0.123, vgprs=34, sgprs=30, lds_bytes=640)
    publish(toy_store, source_tree, toy_unit("gfx942", TOY_FACTOR="5"), SCALE_HEADER, 0.25, vgprs=8, vgpr_spills=3)
    edit(source_tree, PLAIN_HEADER, "7", "8")
    monkeypatch.setenv("AITERLITE_TRUSTED_LAYERS", str(layer))
    envs.reload()
    local = SimpleNamespace(fingerprint="one")
    monkeypatch.setattr(toolchain, "known", lambda kind, *_: local if kind == "amd" else None)
    monkeypatch.setattr(Entry, "size", lambda entry: 1536)
    built = time.strptime("2026-01-04", "%Y-%m-%d")
    clock = SimpleNamespace(time=lambda: status.calendar.timegm(built), strptime=time.strptime)
    monkeypatch.setattr(status, "time", clock)
    text, data, code = both("status")
    assert code == 0
    assert text.replace(str(layer), "LAYER").replace(str(toy_store.writable.root), "CACHE") == STATUS
    assert data["totals"] == {
        "artifacts": 3,
        "bytes": 3 * 1536,
        "build_seconds": 2.873,
        "current": 2,
        "stale": 1,
        "problems": 0,
    }
    facts = [(item["unit"], item["state"], item["layer"], item["local_toolchain"]) for item in data["artifacts"]]
    assert facts == [
        ("plain for cpu-x86-64", "current", 0, None),
        ("toy/plain for gfx942", "stale", 1, True),
        ("toy/toy[toy_factor=5] for gfx942", "current", 1, True),
    ]
    assert data["artifacts"][1]["changes"] == [f"header {PLAIN_HEADER}"]
    assert data["artifacts"][2]["resources"] == {"toy": {"vgprs": 8, "vgpr_spills": 3}}


@pytest.mark.compile
def test_status_tells_the_version_of_a_code_object(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    """A runtime that is older than an object's version refuses it."""
    engine.obtain(toy_unit("gfx942"), tree=source_tree)
    publish_fake(toy_store, plain_unit("gfx942"), source_tree, b"\x7fELF")
    text, data, _ = both("status")
    versions = {item["name"]: item["code_object_version"] for item in data["artifacts"]}
    assert versions == {"toy/toy": 5, "toy/plain": None}
    assert [line.split()[0] for line in text.splitlines() if "  v5  " in line] == ["toy/toy"]


def test_status_tells_what_changed_in_the_sources(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    publish_fake(toy_store, plain_unit("gfx942"), source_tree, toolchain="two")
    edit(source_tree, "csrc/toy/toy.hip", "out[0]", "out[1]")
    (source_tree.root / "csrc/toy/plain.hip").unlink()
    _, data, _ = both("status")
    changes = {item["name"]: item["changes"] for item in data["artifacts"]}
    assert len(changes["toy/toy"]) == 1 and changes["toy/toy"][0].startswith("sources.csrc/toy/toy.hip: ")
    assert "csrc/toy/plain.hip" in changes["toy/plain"][0]


def test_status_reports_what_it_must_not_trust_and_goes_on(
    toy_store: Store, source_tree: SourceTree, both: Both
) -> None:
    good = publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    open_to_all = publish_fake(toy_store, toy_unit("gfx950"), source_tree)
    broken = publish_fake(toy_store, plain_unit("gfx942"), source_tree)
    open_to_all.directory.chmod(0o777)
    (broken.directory / "meta.json").write_text("{")
    text, data, code = both("status")
    assert code == 1
    assert [item["path"] for item in data["artifacts"]] == [str(good.path)]
    kinds = {item["directory"]: item["kind"] for item in data["problems"]}
    assert kinds == {str(open_to_all.directory): "untrusted", str(broken.directory): "damaged"}
    for item in data["problems"]:
        assert f"  {item['kind']}: {item['error']} (1 artifact)" in text
    assert "mode 777" in text and text.endswith("1 current, 0 stale, 2 refused")


def flip(entry: Entry) -> None:
    data = bytearray(entry.path.read_bytes())
    data[2] ^= 1
    entry.path.write_bytes(data)


def truncate(entry: Entry) -> None:
    os.truncate(entry.path, 3)


def remove(entry: Entry) -> None:
    entry.path.unlink()


def a_pipe(entry: Entry) -> None:
    entry.path.unlink()
    os.mkfifo(entry.path)


def elsewhere(entry: Entry) -> None:
    entry.directory.parent.rename(entry.directory.parent.with_name("0" * 40))


def metadata(**changes: Any) -> Callable[[Entry], None]:
    def change(entry: Entry) -> None:
        (entry.directory / "meta.json").write_text(json.dumps({**entry.meta, **changes}))

    return change


@pytest.mark.parametrize(
    ("harm", "what"),
    [
        (flip, "its metadata says"),
        (truncate, "3 bytes, its metadata says 5"),
        (remove, "No such file"),
        (a_pipe, "it is no regular file"),
        (elsewhere, "it belongs at toy.toy/"),
        (metadata(unit=5), "unusable metadata"),
        (metadata(unit={}), "unusable metadata"),
        (metadata(key_parts=None), "unusable metadata"),
        (metadata(resources=5), "unusable metadata"),
        (metadata(resources={"toy": {"vgprs": "x"}}), "unusable metadata"),
        (metadata(build_seconds="x"), "unusable metadata"),
        (metadata(built_at=[]), "unusable metadata"),
        (metadata(toolchain={"title": 5, "fingerprint": "one"}), "unusable metadata"),
        (metadata(toolchain={"title": "\x1b[31mred", "fingerprint": "one"}), "holds control characters"),
    ],
)
def test_every_command_that_reads_a_cache_tells_a_damaged_artifact(
    toy_store: Store, source_tree: SourceTree, both: Both, harm: Callable[[Entry], None], what: str, tmp_path: Path
) -> None:
    good = publish_fake(toy_store, plain_unit("gfx942"), source_tree, headers=(PLAIN_HEADER,))
    bad = publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    harm(bad)
    text, data, code = both("status")
    assert code == 1 and [item["path"] for item in data["artifacts"]] == [str(good.path)]
    assert [item["kind"] for item in data["problems"]] == ["damaged"] and what in data["problems"][0]["error"]
    assert text.endswith("1 current, 0 stale, 1 refused") and "\x1b" not in text
    text, data, code = both("verify")
    assert code == 1 and len(data["bad"]) == 1 and what in data["bad"][0]["error"] and data["good"] == 1
    for command in (["explain", "build", "toy/plain"], ["build", "--check", "--unit", json.dumps(bad.meta["unit"])]):
        text, _, code = both(*command)
        assert code in (0, 1) and "\x1b" not in text
    assert both("export", str(tmp_path / "b.tar"))[2] == 1
    _, data, code = both("gc", "--max-bytes", "1G", "--dry-run")
    assert code == 0 and [what in item["error"] for item in data["damaged"]] == [True] and data["kept"] == 1
    assert main(["gc", "--max-bytes", "1G"]) == 0
    assert good.directory.exists() and both("verify")[2] == 0 and both("status")[2] == 0


def test_gc_leaves_what_is_not_its_user_s(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    own = publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    other = publish_fake(toy_store, toy_unit("gfx950"), source_tree)
    other.directory.chmod(0o777)
    assert main(["gc", "--max-bytes", "0"]) == 0
    assert other.directory.exists() and not own.directory.exists()


def test_a_cache_that_is_mounted_noexec_is_good_for_no_library(
    noexec: Path, source_tree: SourceTree, toy_store: Store, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code objects are given to the driver as bytes; libraries are mapped from their files."""
    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(noexec / "cache"))
    envs.reload()
    host, device = toy_unit("cpu-x86-64"), toy_unit("gfx942")
    for unit in (host, device):
        publish_fake(open_store(), unit, source_tree)
    text, data, code = both("status")
    assert code == 1 and [item["unit"] for item in data["artifacts"]] == [device.label]
    assert [item["kind"] for item in data["problems"]] == ["noexec"]
    assert "mounted noexec: no library can be loaded from here" in text and "AITERLITE_CACHE_DIR" in text
    words = [word for unit in (host, device) for word in ("--unit", json.dumps(unit.to_json()))]
    _, data, code = both("build", "--check", *words)
    assert code == 1 and [item["result"] for item in data["units"]] == ["missing", "cached"]
    assert "noexec" in data["units"][0]["error"]


def test_status_of_an_untrusted_layer_says_so_once(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    for target in ("gfx942", "gfx950"):
        publish_fake(toy_store, toy_unit(target), source_tree)
    toy_store.writable.root.chmod(0o777)
    text, data, _ = both("status")
    assert data["artifacts"] == [] and len(data["problems"]) == 2
    assert text.count("may be written by others") == 1 and "(2 artifacts)" in text


def test_status_without_a_cache(toy_store: Store, both: Both) -> None:
    text, data, code = both("status")
    assert code == 0 and data["artifacts"] == [] and not toy_store.writable.root.exists()
    assert text == f"layer 0: {toy_store.writable.root} (writable, not there yet)\n\n" + (
        "0 artifacts, 0 B, 0.0 s of building: 0 current, 0 stale, 0 refused"
    )


# verify and gc --------------------------------------------------------------------------------------------------------


def test_verify_names_every_bad_artifact(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    good = publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    assert both("verify") == (
        f"1 artifact verified ({output.size(good.size())}), 0 bad, in {toy_store.writable.root}",
        {"layers": [str(toy_store.writable.root)], "good": 1, "bytes": good.size(), "bad": []},
        0,
    )
    flipped = publish_fake(toy_store, toy_unit("gfx950"), source_tree)
    flipped.path.write_bytes(b"bYtes")
    short = publish_fake(toy_store, toy_unit("sm_90a"), source_tree)
    short.path.write_bytes(b"byte")
    gone = publish_fake(toy_store, plain_unit("gfx942"), source_tree)
    gone.path.unlink()
    moved = publish_fake(toy_store, plain_unit("gfx950"), source_tree)
    elsewhere = moved.directory.with_name("0" * 24)
    moved.directory.rename(elsewhere)
    foreign = publish_fake(toy_store, plain_unit("sm_90a"), source_tree)
    foreign.directory.chmod(0o777)
    text, data, code = both("verify")
    assert code == 1 and data["good"] == 1
    bad = {item["directory"]: item for item in data["bad"]}
    assert {Path(name) for name in bad} == {*(e.directory for e in (flipped, short, gone, foreign)), elsewhere}
    assert "sha256" in bad[str(flipped.directory)]["error"]
    assert "4 bytes, its metadata says 5" in bad[str(short.directory)]["error"]
    assert "it belongs at" in bad[str(elsewhere)]["error"]
    assert bad[str(foreign.directory)]["kind"] == "UntrustedArtifactError"
    assert all(f"{item['kind']}: {item['error']}\n" in text for item in data["bad"])
    assert "1 artifact verified" in text and "5 bad" in text


def test_verify_sees_every_layer(
    toy_store: Store, source_tree: SourceTree, both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    layer = tmp_path / "layer"
    entry = publish_fake(Store((Layer(layer, writable=True),)), toy_unit("gfx942"), source_tree)
    entry.path.write_bytes(b"bYtes")
    monkeypatch.setenv("AITERLITE_CACHE_LAYERS", str(layer))
    envs.reload()
    _, data, code = both("verify")
    assert code == 1 and [item["directory"] for item in data["bad"]] == [str(entry.directory)]


@pytest.mark.parametrize(
    ("text", "count"), [("0", 0), ("17", 17), ("2K", 2048), ("1.5m", 3 * 2**19), ("1GiB", 2**30), ("1TB", 2**40)]
)
def test_byte_counts(text: str, count: int) -> None:
    from aiterlite.cli.maintenance import byte_count

    assert byte_count(text) == count


def test_gc_deletes_the_longest_unused_first(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    entries = [publish_fake(toy_store, toy_unit(target), source_tree) for target in ("gfx942", "gfx950", "sm_90a")]
    for entry, unused in zip(entries, (10, 30, 20), strict=True):
        os.utime(entry.directory / "meta.json", (time.time() - unused * 86400,) * 2)
    sizes = [entry.size() for entry in entries]
    text, data, code = both("gc", "--max-bytes", str(sizes[0]), "--dry-run")
    assert code == 0 and all(entry.directory.exists() for entry in entries)
    assert [item["directory"] for item in data["deleted"]] == [str(entries[1].directory), str(entries[2].directory)]
    assert data["deleted_bytes"] == sizes[1] + sizes[2] and data["kept_bytes"] == sizes[0] and data["kept"] == 1
    assert text.splitlines() == [
        f"would delete {entries[1].label}, {output.size(sizes[1])}",
        f"would delete {entries[2].label}, {output.size(sizes[2])}",
        f"would delete 2 artifacts ({output.size(sizes[1] + sizes[2])}), kept 1 ({output.size(sizes[0])}) "
        f"in {toy_store.writable.root}",
    ]
    assert main(["gc", "--max-bytes", str(sizes[0])]) == 0
    assert [entry.directory.exists() for entry in entries] == [True, False, False]
