"""The manifest of what a run used."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from support import TOY_TREE, finish, publish_fake, start, toy_unit

import aiterlite
from aiterlite import envs
from aiterlite.errors import BundleError, JitError
from aiterlite.jit import engine, loader, record
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import open_store

UNITS = [toy_unit("gfx942", A=str(index)) for index in range(4)]


@pytest.fixture(autouse=True)
def _loadable(cache_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toy units are the package's, they are in the cache, and nothing was noted before."""
    tree = SourceTree(tmp_path / "tree")
    shutil.copytree(TOY_TREE, tree.root)
    monkeypatch.setattr(engine, "package_tree", lambda: tree)
    monkeypatch.setattr(record, "_run", record.Manifest())
    for unit in UNITS:
        publish_fake(open_store(), unit, tree)


def labels(path: Path) -> list[str]:
    return sorted(unit.label for unit in record.read(path).units.values())


def test_a_run_writes_what_it_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new folder" / "manifest.json"
    monkeypatch.setenv("AITERLITE_RECORD", str(path))
    envs.reload()
    loader.device_image(UNITS[1])
    loader.device_image(UNITS[0])
    loader.device_image(UNITS[1])
    record.note_call("linear", {"n": 1})
    assert labels(path) == [UNITS[0].label, UNITS[1].label]
    data = json.loads(path.read_text())
    assert data["format"] == record.FORMAT and data["calls"] == [{"op": "linear", "problem": {"n": 1}}]
    assert [Unit.from_json(item) for item in data["units"]] == UNITS[:2]


def test_a_scope_is_recorded_by_itself(tmp_path: Path) -> None:
    loader.device_image(UNITS[0])
    path = tmp_path / "manifest.json"
    with aiterlite.recording(path) as manifest:
        loader.device_image(UNITS[1])
        assert labels(path) == [UNITS[1].label] and len(manifest.units) == 1
    loader.device_image(UNITS[2])
    assert labels(path) == [UNITS[1].label]
    with aiterlite.recording(tmp_path / "empty.json"):
        pass
    assert labels(tmp_path / "empty.json") == []


def test_order_and_repetition_do_not_show(tmp_path: Path) -> None:
    texts = []
    for name, units in (("a", UNITS), ("b", [*reversed(UNITS), UNITS[0]])):
        with aiterlite.recording(tmp_path / name):
            for unit in units:
                record.note_unit(unit)
        texts.append((tmp_path / name).read_text())
    assert texts[0] == texts[1]


def test_several_processes_merge_into_one_manifest(tmp_path: Path) -> None:
    code = """
from aiterlite.jit import record
from aiterlite.jit.spec import Unit
for data in json.loads(sys.argv[1]):
    record.note_unit(Unit.from_json(data))
"""
    path = tmp_path / "manifest.json"
    shares = [UNITS[:2], UNITS[1:3], UNITS[2:], UNITS[::3]]
    children = [
        start(code, json.dumps([unit.to_json() for unit in share]), AITERLITE_RECORD=str(path)) for share in shares
    ]
    for process in children:
        finish(process)
    assert labels(path) == sorted(unit.label for unit in UNITS)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "null",
        "5",
        "{}",
        '{"format": "other", "schema": 1, "units": [], "calls": []}',
        '{"format": "aiterlite-manifest", "schema": 99, "units": [], "calls": []}',
        '{"format": "aiterlite-manifest", "schema": 1, "units": 5, "calls": []}',
        '{"format": "aiterlite-manifest", "schema": 1, "units": [{"name": "x"}], "calls": []}',
        '{"format": "aiterlite-manifest", "schema": 1, "units": [], "calls": [{"op": 1, "problem": {}}]}',
        '{"format": "aiterlite-manifest", "schema": 1, "units": [], "calls": [{"op": "x"}]}',
        "[" * 100000,
        "\xff",
    ],
    ids=lambda text: text[:70],
)
def test_a_file_that_is_no_manifest_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "manifest.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(BundleError, match=str(path)):
        record.read(path)


def test_a_missing_manifest_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot read manifest"):
        record.read(tmp_path / "nothing.json")


def test_a_manifest_s_units_are_checked_as_data(tmp_path: Path) -> None:
    path = tmp_path / "manifest.json"
    with aiterlite.recording(path):
        record.note_unit(UNITS[0])
    data = json.loads(path.read_text())
    data["units"][0]["flags"] = ["-fplugin=/tmp/x.so"]
    path.write_text(json.dumps(data))
    with pytest.raises(BundleError, match="-fplugin"):
        record.read(path)


@pytest.mark.parametrize("place", ["/proc/nonexistent/manifest.json", "/dev/null/manifest.json"])
def test_a_manifest_that_cannot_be_written_is_an_error_of_this_package(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AITERLITE_RECORD", place)
    envs.reload()
    with pytest.raises(JitError, match=place):
        loader.device_image(UNITS[0])


def test_a_manifest_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader never sees half of one, and nothing is left beside it but its lock."""
    path = tmp_path / "here" / "manifest.json"
    seen = []
    with aiterlite.recording(path):
        for unit in UNITS:
            record.note_unit(unit)
            seen.append(labels(path))
    assert [len(names) for names in seen] == [1, 2, 3, 4]
    left = {file.name for file in path.parent.iterdir()}
    assert left <= {path.name, f".{path.name}.lock"}
