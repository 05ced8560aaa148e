"""The manifest of what a run used."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from support import TOY_TREE, finish, publish_fake, start, toy_unit

import aiterlite
from aiterlite import envs
from aiterlite.errors import BundleError
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


@pytest.mark.parametrize("place", ["proc", "null", "pipe", "folder", "other file"])
def test_a_recording_that_cannot_be_written_is_one_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, place: str
) -> None:
    """The operator's result is right without it; only manifests are overwritten, and nothing is waited for."""
    path = tmp_path / "manifest.json"
    if place == "pipe":
        os.mkfifo(path)
    elif place == "folder":
        path.mkdir()
    elif place == "other file":
        path.write_text("dear diary")
    else:
        path = {"proc": Path("/proc/nonexistent/manifest.json"), "null": Path("/dev/null/manifest.json")}[place]
    monkeypatch.setattr(record, "_warned", set())
    monkeypatch.setenv("AITERLITE_RECORD", str(path))
    envs.reload()
    with caplog.at_level("WARNING", "aiterlite"):
        for unit in UNITS:
            assert loader.device_image(unit)
        record.note_call("linear", {"n": 1})
    assert [line.getMessage().startswith("not recorded: ") for line in caplog.records] == [True]
    assert str(path) in caplog.text
    if place == "other file":
        assert path.read_text() == "dear diary"
    with pytest.raises(BundleError, match=str(path)), aiterlite.recording(path):
        raise AssertionError("the scope began")


def test_a_scope_whose_file_is_lost_ends_with_an_error_but_not_its_calls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(record, "_warned", set())
    folder = tmp_path / "folder"
    with pytest.raises(BundleError, match="manifest"), aiterlite.recording(folder / "m.json"):
        shutil.rmtree(folder)
        folder.write_text("in its place")
        assert loader.device_image(UNITS[0])
    with pytest.raises(KeyError, match="the call's own"), aiterlite.recording(tmp_path / "n" / "m.json"):
        shutil.rmtree(tmp_path / "n")
        (tmp_path / "n").write_text("in its place")
        raise KeyError("the call's own")
    assert record._scopes == []


def test_a_home_directory_is_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AITERLITE_RECORD", "~/a/manifest.json")
    envs.reload()
    loader.device_image(UNITS[0])
    assert labels(tmp_path / "home" / "a" / "manifest.json") == [UNITS[0].label]
    with aiterlite.recording("~/b.json"):
        loader.device_image(UNITS[1])
    assert labels(tmp_path / "home" / "b.json") == [UNITS[1].label]
    with pytest.raises(BundleError, match="no home directory"), aiterlite.recording("~no.such.user/b.json"):
        pass
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith("~")]


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
