"""What a terminal, a program and a shell get from the command line, also where something is wrong."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import child, environment, plain_unit, publish_fake, toy_unit

import aiterlite
from aiterlite import envs
from aiterlite.cli import SCHEMA, bench, main, output
from aiterlite.errors import AiterliteError
from aiterlite.jit import text
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Store

Both = Callable[..., tuple[str, Any, int]]

# Errors as data -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "status", "kind", "message"),
    [
        (["import", "missing.tar"], 1, "BundleError", "cannot read missing.tar"),
        (["build", "--from", "missing.json"], 1, "BundleError", "cannot read manifest missing.json"),
        (["export", "e.tar"], 1, "BundleError", "no artifact in the cache matches"),
        (["gc"], 2, "UsageError", "--max-bytes"),
        (["gc", "--max-bytes", "many"], 2, "UsageError", "'many' is no size"),
        (["list", "--what"], 2, "UsageError", "unrecognized arguments: --what"),
        (["nope"], 2, "UsageError", "invalid choice"),
        (["explain", "linear", "n=x"], 2, "UsageError", "n is 'x'"),
        (["explain", "build"], 2, "UsageError", "name of a unit"),
        pytest.param(["emulate", "no_such_file"], 2, "UsageError", "no_such_file", marks=pytest.mark.torch),
        pytest.param(["disasm", "no_such_file"], 2, "UsageError", "no_such_file", marks=pytest.mark.torch),
        ([], 2, "UsageError", "COMMAND"),
    ],
)
def test_an_error_is_data_for_who_asked_for_data(
    toy_store: Store,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    argv: list[str],
    status: int,
    kind: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*argv, "--json"]) == status
    captured = capsys.readouterr()
    data = json.loads(captured.out)
    assert data["schema"] == SCHEMA and set(data) == {"schema", "error"}
    assert message in data["error"]["message"] and data["error"]["status"] == status
    assert data["error"]["kind"] == kind
    assert data["error"]["message"] in captured.err
    if argv:
        assert main(argv) == status
        plain = capsys.readouterr()
        assert plain.out == "" and plain.err == captured.err


def test_an_interrupt_and_a_bad_file_are_data_too(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from aiterlite.cli import listing

    def interrupted() -> None:
        raise KeyboardInterrupt

    def full() -> None:
        raise OSError(28, "No space left on device", "/somewhere")

    for fault, status, message in ((interrupted, 130, "interrupted"), (full, 1, "/somewhere: No space left on device")):
        monkeypatch.setattr(listing, "gather", fault)
        assert main(["list", "--json"]) == status
        captured = capsys.readouterr()
        assert json.loads(captured.out)["error"]["message"] == message
        assert captured.err == f"aiterlite: {message}\n"


def test_the_options_of_a_family_are_refused_as_data(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from types import SimpleNamespace

    family = SimpleNamespace(add_arguments=lambda parser: parser.add_argument("--samples"), run=None)
    monkeypatch.setattr(bench.importlib, "import_module", lambda name: family)
    assert main(["bench", "--sample", "5", "--json"]) == 2
    captured = capsys.readouterr()
    assert "did you mean --samples?" in json.loads(captured.out)["error"]["message"]
    assert captured.err.startswith("usage: aiterlite bench gemm")


# What may have been meant ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["statsu"], "status"),
        (["exprot", "x.tar"], "export"),
        (["verify", "--jsno"], "--json"),
        (["build", "--tagret", "cpu"], "--target"),
        (["gc", "--max-byte=5", "--dry-rum"], "--dry-run"),
        (["explain", "linear", "--tagret", "cpu"], "--target"),
        (["explain", "linar", "n=1"], "linear"),
        (["explain", "linear", "n=1", "m=1", "k=1", "dtyp=bf16"], "dtype"),
        (["build", "--ops", "linear,wvSplitKQ", "scal_w=row"], "scale_w"),
        (["explain", "linear", "--target", "mi300", "n=1", "m=1", "k=1"], "mi300x"),
        (["explain", "build", "gemm/wv_split"], "gemm/wv_split_k"),
        (["build", "--ops", "wvSplitk", "--target", "cpu"], "wvSplitK"),
        (["build", "--target", "gfx924"], "gfx942"),
        (["completion", "bsh"], "bash"),
        (["export", "x.tar", "--unit-name", "toy/tyo"], "toy/toy"),
    ],
)
def test_a_word_that_is_nearly_right_is_answered_with_the_right_one(
    toy_store: Store, source_tree: SourceTree, capsys: pytest.CaptureFixture[str], argv: list[str], meant: str
) -> None:
    publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    assert main(argv) in (1, 2)
    assert f"; did you mean {meant}?\n" in capsys.readouterr().err


def test_a_word_that_is_like_nothing_gets_no_advice(toy_store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    for argv in (["qqqq"], ["list", "--qqqq"], ["explain", "qqqq", "n=1"], ["build", "--target", "qqqq"]):
        assert main(argv) == 2
        assert "did you mean" not in capsys.readouterr().err


# The width of a terminal ----------------------------------------------------------------------------------------------

words = st.text(alphabet="abc xyz,-", max_size=60)


def letters(written: str) -> Counter[str]:
    return Counter(written.replace(" ", "").replace("\n", ""))


@given(st.lists(st.tuples(words, words, st.integers(0, 10**9).map(str), words), max_size=4), st.integers(20, 200))
def test_a_table_is_never_wider_than_the_terminal_and_loses_nothing(rows: list[Any], width: int) -> None:
    headers = ("unit", "toolchain", "size", "resources")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(output, "width", lambda: width)
        text = output.table(headers, rows, right=("size",))
        patch.setattr(output, "width", lambda: None)
        whole = output.table(headers, rows, right=("size",))
    # Records have the longest header and the narrowest column beside each other.
    assert all(len(line) <= max(width, 23) for line in text.splitlines())
    if max(map(len, whole.splitlines())) <= width:
        assert text == whole
    assert letters("".join(map("".join, rows))) - letters(text) == Counter()


TABLE = [
    "unit             size  toolchain",
    "gemm/wv_spli  1234567  clang version",
    "t_k cols=8             22",
    "a                   5  b",
]


def test_a_column_of_text_is_wrapped_and_numbers_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "width", lambda: 36)
    rows = [("gemm/wv_split_k cols=8", "1234567", "clang version 22"), ("a", "5", "b")]
    assert output.table(("unit", "size", "toolchain"), rows, right=("size",)).splitlines() == TABLE


def test_a_terminal_that_is_too_narrow_gets_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "width", lambda: 20)
    rows = [("a" * 30, "1", "x"), ("b", "2", "")]
    assert output.table(("unit", "size", "toolchain"), rows, right=("size",)).splitlines() == [
        "unit       " + "a" * 12,
        "           " + "a" * 12,
        "           " + "a" * 6,
        "size       1",
        "toolchain  x",
        "",
        "unit       b",
        "size       2",
        "toolchain",
    ]


def on_a_terminal(columns: int, *argv: str, **changes: str) -> str:
    """The output of a command whose standard output is a terminal of that width."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "aiterlite", *argv],
        env=environment(COLUMNS=str(columns), **changes),
        stdout=theirs,
        stderr=subprocess.PIPE,
    )
    os.close(theirs)
    pieces = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:
        # How a terminal whose other side was closed ends.
        pass
    os.close(ours)
    assert process.stderr is not None
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(60) == 0, errors
    return b"".join(pieces).decode().replace("\r\n", "\n")


@pytest.mark.parametrize("columns", [80, 100, 132])
def test_status_fits_its_terminal_and_a_pipe_gets_whole_rows(cache_dir: Path, columns: int) -> None:
    from aiterlite import target
    from aiterlite.jit.sources import package_tree
    from aiterlite.jit.store import open_store
    from aiterlite.tables import gemm

    persona, problem = target.resolve("mi300x"), gemm.GemmProblem(4, 2112, 7168)
    unit = gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))
    publish_fake(open_store(), unit, package_tree(), headers=())
    listed = on_a_terminal(columns, "status").split("\n\n")[1].splitlines()
    assert max(map(len, listed)) <= columns and len(listed) > 2
    piped = subprocess.run(
        [sys.executable, "-m", "aiterlite", "status"], env=environment(), capture_output=True, text=True, check=True
    ).stdout
    assert unit.label.removesuffix(" for gfx942") in piped


# Characters -----------------------------------------------------------------------------------------------------------


@given(st.text(alphabet=st.characters(exclude_categories=("Cs",))))
def test_no_control_character_is_printed(written: str) -> None:
    printed = text.printable(written)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", printed)
    assert "\n" not in text.one_line(written) and text.printable(printed) == printed


@pytest.mark.parametrize(
    ("encoding", "printed"), [("ascii", r"c\xe4che \u6a21 \udcff"), ("latin-1", "c\u00e4che \\u6a21 \\udcff")]
)
def test_what_an_encoding_lacks_is_spelled_out(encoding: str, printed: str) -> None:
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding=encoding)
    output.emit("c\u00e4che \u6a21 \udcff \x1b[2J", file)
    file.flush()
    assert raw.getvalue().decode(encoding) == printed + " \\x1b[2J\n"


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_path_of_any_characters_is_no_traceback(tmp_path: Path, encoding: str) -> None:
    folder = os.fsdecode(os.fsencode(tmp_path / "c\u00e4che \u6a21") + b"\xff\x1b[31m")
    # What fails, what is empty and what is a usage error; each as text and as data, in one encoding or another.
    commands = (["status"], ["verify"], ["env"], ["import", folder], ["export", folder], ["explain", folder])
    for at, argv in enumerate(commands, start=encoding == "latin-1"):
        words = [*argv, "--json"] if at % 2 else argv
        ended = subprocess.run(
            [sys.executable, "-m", "aiterlite", *words],
            env=environment(AITERLITE_CACHE_DIR=folder, PYTHONIOENCODING=encoding),
            capture_output=True,
        )
        assert ended.returncode in (0, 1, 2), (words, ended.stderr)
        assert b"Traceback" not in ended.stderr and b"\x1b" not in ended.stdout + ended.stderr
        if "--json" in words:
            assert json.loads(ended.stdout)["schema"] == SCHEMA


def test_a_log_line_holds_no_control_characters(cache_dir: Path) -> None:
    code = "from aiterlite.jit import progress\nprogress.logger().warning('built by %s', 'clang \\x1b[2J')\n"
    report = child(code)
    assert report["stderr"] == "aiterlite: built by clang \\x1b[2J\n"


def test_a_home_directory_is_filled_in_where_no_shell_does(
    toy_store: Store, source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_fake(toy_store, plain_unit("gfx942"), source_tree)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path)
    envs.reload()
    assert main(["export", "~/kernels.tar"]) == 0 and main(["import", "~/kernels.tar"]) == 0
    assert (tmp_path / "home" / "kernels.tar").is_file()
    assert main(["export", "~no.such.user/kernels.tar"]) == 2
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("~")] == []


# Help and completion --------------------------------------------------------------------------------------------------


def test_the_epilog_of_emulate_is_as_it_was_written(capsys: pytest.CaptureFixture[str]) -> None:
    from aiterlite.cli import kernel_args

    assert main(["emulate", "--help"]) == 0
    assert (kernel_args.__doc__ or "-").strip() in capsys.readouterr().out


def completed(script: str, line: str) -> list[str]:
    """What bash offers at the end of a line."""
    code = f"{script}\nCOMP_WORDS=({line})\n"
    code += "[ -n \"$NEW\" ] && COMP_WORDS+=('')\nCOMP_CWORD=$((${#COMP_WORDS[@]}-1))\n_aiterlite\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    ran = subprocess.run(
        ["bash", "-c", code],
        env={**os.environ, "NEW": "1" if line.endswith(" ") else ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stderr == ""
    return ran.stdout.split()


@pytest.mark.torch
@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash")
def test_bash_completes_commands_options_and_values(both: Both) -> None:
    script, data, code = both("completion", "bash")
    assert code == 0 and script == data["script"]
    for line, offered in (
        ("aiterlite stat", ["status"]),
        ("aiterlite build --fr", ["--from"]),
        ("aiterlite build --target mi300", ["mi300x", "mi300a"]),
        ("aiterlite build --target gfx942,gfx95", ["gfx942,gfx950"]),
        ("aiterlite explain lin", ["linear"]),
        ("aiterlite explain build gemm/wv_split_k_r", ["gemm/wv_split_k_reduce"]),
        ("aiterlite export --unit-name launc", ["launch"]),
        ("aiterlite completion f", ["fish"]),
        ("aiterlite build --from x", []),
        ("aiterlite build --jobs ", []),
        ("aiterlite bench wvSplitKr", ["wvSplitKrc"]),
    ):
        assert sorted(completed(script, line)) == sorted(offered), line
    assert {"status", "build", "completion", "--version"} <= set(completed(script, "aiterlite "))
    assert {"wvSplitK", "linear", "build", "--json"} <= set(completed(script, "aiterlite explain "))


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_takes_its_script(both: Both, shell: str) -> None:
    script, _, _ = both("completion", shell)
    for word in ("status", "max-bytes", "mi300x", "wvSplitKQ", "gemm/wv_split_k"):
        assert word in script
    if shutil.which(shell) is not None:
        ran = subprocess.run([shell, "-n"], input=script, capture_output=True, text=True)
        assert ran.returncode == 0, ran.stderr


def test_the_version_and_help_are_no_errors(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version", "--json"]) == 0
    assert capsys.readouterr().out == f"aiterlite {aiterlite.__version__}\n"
    assert issubclass(envs.EnvironmentValueError, AiterliteError)
