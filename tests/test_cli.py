"""The command line: what its commands need, how they end, and what those that only look print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from support import (
    PLAIN_HEADER,
    SCALE_HEADER,
    child,
    edit,
    environment,
    plain_unit,
    publish_fake,
    toy_unit,
)

import aiterlite
from aiterlite import dispatch, envs
from aiterlite.cli import bench, listing, main, output
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import Store, open_store
from aiterlite.tables import FAMILIES, TABLES, gemm_fp8, linear

PACKAGE = Path(aiterlite.__file__).parent
DOCUMENTS = PACKAGE.parent / "docs"
in_checkout = pytest.mark.skipif(
    not (PACKAGE.parent / "pyproject.toml").is_file(), reason="the documentation is not part of an installed package"
)
Both = Callable[..., tuple[str, Any, int]]


# What the commands need -----------------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import importlib.abc
class Block(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ImportError("torch is blocked")
sys.meta_path.insert(0, Block())
from aiterlite.cli import main
result = [main(argv) for argv in json.loads(sys.argv[1])]
"""


@pytest.mark.installed
def test_inspecting_needs_no_torch_no_compiler_and_no_process(toy_store: Store, source_tree: SourceTree) -> None:
    from aiterlite import target
    from aiterlite.tables import gemm

    # A unit of the real package, since the child sees the real sources.
    problem, persona = gemm.GemmProblem(4, 256, 7168), target.resolve("gfx942")
    unit = gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))
    publish_fake(toy_store, unit, SourceTree(PACKAGE), headers=("csrc/include/aiterlite/numeric/types.h",))
    bundle = str(toy_store.writable.root.parent / "bundle.tar")
    shape = ["n=4", "m=256", "k=7168"]
    commands = [
        ["env"],
        ["env", "--markdown"],
        ["list"],
        ["status"],
        ["verify"],
        ["gc", "--max-bytes", "1G"],
        ["export", bundle],
        ["export", "--check", bundle],
        ["import", bundle],
        ["explain", "build", "gemm/wv_split_k"],
        ["explain", "build", "linear", "--target", "gfx942,sm_90", *shape],
        ["explain", "linear", "--target", "mi300x,h100,cpu", *shape],
    ]
    commands += [[*command, "--json"] for command in commands]
    report = child(WITHOUT_TORCH, json.dumps(commands), PATH="", HOME="/nonexistent")
    assert report["result"] == [0] * len(commands)
    assert report["started"] == []
    assert not {"torch", "rich", "filelock"} & set(report["imported"])


def commands(capsys: pytest.CaptureFixture[str]) -> list[str]:
    assert main(["--help"]) == 0
    listed = re.search(r"^  COMMAND\n((?:    .*\n)+)", capsys.readouterr().out, re.MULTILINE)
    assert listed is not None
    return re.findall(r"^    ([\w-]+)", listed.group(1), re.MULTILINE)


@in_checkout
@pytest.mark.compile
@pytest.mark.parametrize("n", ["999999999999999", "99999999999999999999"])
def test_a_bench_of_more_than_memory_holds_says_so(n: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    assert main(["bench", "linear", f"n={n}", "m=64", "k=512", "--json"]) == 2
    assert "one whose operands fit in memory" in json.loads(capsys.readouterr().out)["error"]["message"]


@pytest.mark.installed
def test_every_command_takes_json_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    names = commands(capsys)
    assert {"env", "doctor", "list", "status", "build", "verify", "gc", "export", "import", "explain"} <= set(names)
    assert {"demo", "bench"} <= set(names)
    for name in names:
        assert main([name, "--help"]) == 0
        assert "--json" in capsys.readouterr().out


@in_checkout
def test_every_command_has_its_section_in_the_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    titles = re.findall(r"^## (.*)$", (DOCUMENTS / "cli.md").read_text(), re.MULTILINE)
    assert {name for title in titles for name in re.findall(r"\b[a-z]+(?:-[a-z]+)*\b", title)} == set(commands(capsys))


# How it ends ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "COMMAND"),
        (["nope"], "invalid choice"),
        (["list", "--what"], "unrecognized arguments: --what"),
        (["list", "word"], "unrecognized arguments: word"),
        (["gc"], "--max-bytes"),
        (["gc", "--max-bytes", "many"], "'many' is no size"),
        (["explain", "linar", "n=1"], "no operator 'linar'; there are wvSplitK, LLMM1, wvSplitKrc, wvSplitKQ, linear"),
        (["explain", "linear", "n=1", "m=1"], "linear: m and k go together, and m is given without k"),
        (["explain", "linear", "n=x", "m=1", "k=1"], "n is 'x'"),
        (["explain", "linear", "n=1", "m=1", "k=1", "q=1"], "'q=1'"),
        (["explain", "linear", "n=1", "n=2", "m=1", "k=1"], "'n=2'"),
        (["explain", "linear", "n=1", "m=1", "k=1", "bias=2"], "bias is '2'"),
        (["explain", "linear", "n=1", "m=1", "k=1", "--what"], "unrecognized arguments: --what"),
        (["explain", "linear", "--target", "gfx90", "n=1", "m=1", "k=1"], "unknown target 'gfx90'"),
        (["explain", "build"], "name of a unit"),
        (
            ["explain", "build", "gem"],
            "no unit 'gem'; there are LLMM1, ",
        ),
        (["build", "--shape", "12"], "unrecognized arguments: --shape"),
        (["build", "12"], "'12' is no shape word; give FIELD=V,V or FIELD:FIELD=V:V,V:V"),
        (["build", "m:k=256"], "'m:k=256' has '256' for m:k"),
        (["build", "m=256"], "wvSplitK: m and k go together, and m is given without k; the shape words are [m:k="),
        (["build", "q=1"], "shape word 'q=1' is not taken; there are wvSplitK: [m:k="),
        (["build", "--jobs", "0"], "'0' is no whole number above 0"),
        (["build", "--check-asm", "n=1"], "--check-asm takes --target only"),
        (["build", "--from", "x", "n=1"], "one of --from, --model, --unit, or operators and shape words"),
        (["build", "--unit", "{"], "no unit"),
        (["build", "--unit", "{}", "--ops", "linear"], "no unit"),
        (["build", "--from", "x", "--ops", "linear"], "one of --from, --model, --unit"),
        (["build", "--target", ","], "--target names no target"),
        (["export", "--check", "x", "--target", "cpu"], "--check verifies the whole bundle"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_wrong_command_line_ends_with_2_and_says_why(
    argv: list[str], message: str, toy_store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert message in captured.err and captured.err.startswith("usage: aiterlite")


def test_an_error_of_the_package_is_one_message_and_ends_with_1(
    toy_store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["import", str(tmp_path / "missing.tar")]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"aiterlite: cannot read {tmp_path / 'missing.tar'}: No such file or directory\n"


def test_an_unknown_variable_is_a_plain_warning(
    toy_store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AITERLITE_CACHE_LAYER", "/x")
    envs.reload()
    assert main(["verify"]) == 0
    expected = "unknown environment variable AITERLITE_CACHE_LAYER; did you mean AITERLITE_CACHE_LAYERS?"
    assert capsys.readouterr().err == f"aiterlite: warning: {expected}\n"


def test_a_closed_pipe_is_quiet() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "aiterlite", "env"], env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait(60) == 128 + 13


def test_an_interrupt_is_quiet(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(listing, "gather", interrupted)
    assert main(["list"]) == 130
    assert capsys.readouterr().err == "aiterlite: interrupted\n"


# env ------------------------------------------------------------------------------------------------------------------


def test_env_tells_the_same_as_text_and_as_data(both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AITERLITE_CACHE_DIR", str(tmp_path / "c"))
    monkeypatch.setenv("AITERLITE_MAX_JOBS", "3")
    monkeypatch.setenv("AITERLITE_CXX", "/nonexistent/c++")
    text, data, code = both("env")
    assert code == 0
    assert [item["name"] for item in data["variables"]] == list(envs.registry())
    for item in data["variables"]:
        assert f"{item['name']} = {item['effective']}  ({'set' if item['set'] else 'default'})" in text
        assert f"    {item['help']}" in text
    found = {item["name"]: item for item in data["variables"]}
    assert found["AITERLITE_MAX_JOBS"]["value"] == 3.0 and found["AITERLITE_MAX_JOBS"]["set"]
    assert found["AITERLITE_CACHE_DIR"]["effective"] == str(tmp_path / "c")
    assert found["AITERLITE_JIT"]["effective"] == "auto" and not found["AITERLITE_JIT"]["set"]


def test_env_resolves_what_unset_variables_stand_for(
    both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("AITERLITE_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    _, data, _ = both("env")
    found = {item["name"]: item["effective"] for item in data["variables"]}
    assert found["AITERLITE_CACHE_DIR"] == str(tmp_path / "aiterlite")
    assert found["AITERLITE_CXX"] == "(none found)"
    assert int(found["AITERLITE_MAX_JOBS"]) >= 1


def test_env_reports_bad_values_and_unknown_names(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AITERLITE_JIT", "sometimes")
    monkeypatch.setenv("AITERLITE_LOCK_TIMEOUT", "soon")
    monkeypatch.setenv("AITERLITE_JITT", "auto")
    text, data, code = both("env")
    assert code == 1
    bad = {item["name"]: item["error"] for item in data["variables"] if item["error"]}
    assert set(bad) == {"AITERLITE_JIT", "AITERLITE_LOCK_TIMEOUT"}
    assert "auto, require-cache, off" in bad["AITERLITE_JIT"]
    assert all(f"ERROR: {error}" in text for error in bad.values())
    assert data["unknown"] == [{"name": "AITERLITE_JITT", "nearest": "AITERLITE_JIT"}]
    assert "unknown: AITERLITE_JITT; did you mean AITERLITE_JIT?" in text
    assert text.endswith("2 with a bad value, 1 unknown")


@in_checkout
def test_the_page_of_variables_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["env", "--markdown"]) == 0
    assert capsys.readouterr().out == (DOCUMENTS / "environment.md").read_text()


def test_every_variable_that_the_package_names_is_registered() -> None:
    name = re.compile(r"\bAITER(?:LITE)?_[A-Z][A-Z0-9_]*[A-Z0-9]\b")
    kernels = [path for folder in ("csrc", "asm") for path in (PACKAGE / folder).rglob("*") if path.is_file()]
    macros = {macro for path in kernels for macro in name.findall(path.read_text())}
    assert not any("getenv" in path.read_text() for path in kernels)
    named = {found for path in PACKAGE.rglob("*.py") for found in name.findall(path.read_text())}
    # Those of aiter's attributes are no variables here.
    stray = {found for found in named - macros - set(envs.registry()) if "AITER_CONFIG" not in found}
    assert stray == set()
    # CU_NUM and GPU_ARCHS are named as upstream has them.
    assert {found for found in envs.registry() if found.startswith("AITER")} <= named


# list -----------------------------------------------------------------------------------------------------------------


@pytest.mark.installed
def test_list_names_every_row_with_its_requirements(both: Both) -> None:
    text, data, code = both("list")
    assert code == 0
    assert [operator["op"] for operator in data["operators"]] == list(TABLES)
    for operator in data["operators"]:
        rows = TABLES[operator["op"]].rows
        assert [(row["name"], row["backend"]) for row in operator["rows"]] == [(r.name, r.backend) for r in rows]
        assert f"{operator['op']}  {operator['shape']}\n" in text
        for row in operator["rows"]:
            assert f"  {row['name']}: {row['backend']}" in text
            assert f"      targets: {', '.join(row['targets'])}\n" in text
            assert all(need in text for need in row["requires"])
    assert "      needs: dtype bf16 or fp16, n 1 to 16, " in text
    assert "torch: torch, fallback\n      targets: any\n      needs: no batch_invariant to keep" in text


def test_requirements_in_words() -> None:
    words = [
        (dispatch.Targets(("gfx942", "cpu-*")), "target gfx942 or cpu-*"),
        (dispatch.ComputeUnits(80, 304), "80 to 304 CUs"),
        (dispatch.OneOf("dtype", ("bf16", "fp16")), "dtype bf16 or fp16"),
        (dispatch.Between("n", 1, 16), "n 1 to 16"),
        (dispatch.Holds("dense", True, "an operand is strided"), "dense"),
        (dispatch.Holds("bias", False, "there is a bias"), "not bias"),
        (linear.Fastest("wvSplitK"), "wvSplitK the fastest, or asked for"),
        (linear.Fastest("torch"), "no batch_invariant to keep"),
        (gemm_fp8.MatrixUnitTakes("gfx"), "the fp8 of the target's matrix unit"),
    ]
    assert [str(requirement) for requirement, _ in words] == [text for _, text in words]


# explain --------------------------------------------------------------------------------------------------------------


@pytest.mark.installed
def test_explain_gives_each_persona_its_decision(both: Both) -> None:
    text, data, code = both(
        *("explain", "linear", "--target", "mi300x,mi308x", "n=4", "--target", "h100,cpu-x86-64-v3"),
        *("m=256", "k=7168", "dtype=fp16", "bias=1"),
    )
    assert code == 0
    decisions = data["decisions"]
    assert [item["persona"]["chip"] for item in decisions] == ["mi300x", "mi308x", "h100", "cpu-x86-64-v3"]
    assert [item["chosen"] for item in decisions] == ["mfma", "mfma", "mma_sync", "cpu"]
    problem = {"n": 4, "m": 256, "k": 7168, "dtype": "fp16", "bias": True, "aligned": True, "dense": True}
    problem["reduction"] = "deterministic"
    for item in decisions:
        assert item["problem"] == problem
        assert f"-> {item['chosen']} ({item['backend']})" in text
        assert all(f"unit {unit}" in text for unit in item["units"])
        assert all(f"not {other['row']}: {other['why'][0]['reason']}" in text for other in item["rejected"])


def test_explain_says_why_not_and_what_would_help(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    text, data, _ = both("explain", "wvSplitK", "--target", "mi300x", "n=17", "m=8", "k=7169", "dtype=fp32")
    (decision,) = data["decisions"]
    assert decision["chosen"] is None and decision["units"] == []
    assert decision["problem"]["aligned"] is False
    assert "no row applies" in text
    assert "not mfma: dtype must be bf16 or fp16, it is fp32; n must be 1 to 16, it is 17" in text
    monkeypatch.setenv("AITERLITE_JIT", "off")
    envs.reload()
    text, data, _ = both("explain", "linear", "--target", "mi300x", "n=1", "m=8", "k=8")
    assert data["decisions"][0]["chosen"] == "torch"
    assert "not mfma: AITERLITE_JIT=off (AITERLITE_JIT=auto or require-cache)" in text


@pytest.mark.parametrize("target", ["mi300x", "mi355x", "h100", "a100", "cpu"])
@pytest.mark.parametrize("empty", ["n=0", "m=0", "k=0"])
def test_explain_of_nothing_is_a_refusal(both: Both, target: str, empty: str) -> None:
    """For every GEMM. `linear` has torch for it."""
    given = {"n": "n=4", "m": "m=64", "k": "k=512"} | {empty[0]: empty}
    for op in (table.op for table in FAMILIES["gemm"].tables):
        text, data, code = both("explain", op, "--target", target, *given.values())
        assert code == 0 and [item["chosen"] for item in data["decisions"]] == ["torch" if op == "linear" else None]
        assert re.search(rf"{empty[0]} must be 1 to \d+, it is 0", text)


def test_explain_without_words_goes_through_the_sweep(both: Both) -> None:
    _, data, code = both("explain", "LLMM1", "--target", "mi300x,cpu")
    (shapes, _, _) = TABLES["LLMM1"].sweep
    assert code == 0 and len(data["decisions"]) == 2 * len(shapes.values)
    found = [(item["problem"]["m"], item["problem"]["k"]) for item in data["decisions"][::2]]
    assert found == list(shapes.values) and {item["problem"]["n"] for item in data["decisions"]} == {1}


def test_explain_decides_for_the_target_of_the_environment(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AITERLITE_TARGET", "mi355x")
    envs.reload()
    _, data, _ = both("explain", "linear", "n=1", "m=8", "k=8")
    assert [item["persona"]["chip"] for item in data["decisions"]] == ["mi355x"]


def test_explain_takes_the_reduction_of_the_environment_where_none_is_named(
    both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AITERLITE_GEMM_REDUCTION", "batch_invariant")
    envs.reload()
    shape = ("--target", "mi300x", "n=1", "m=64", "k=64")
    for op, words, chosen in (
        ("linear", (), "rc_mfma"),
        ("linear", ("reduction=fast",), "mfma"),
        ("wvSplitKrc", (), "mfma"),
    ):
        _, data, _ = both("explain", op, *shape, *words)
        (decision,) = data["decisions"]
        assert decision["chosen"] == chosen
        assert decision["problem"]["reduction"] == ("fast" if words else "batch_invariant")


def test_explain_build_of_what_the_cache_holds(toy_store: Store, source_tree: SourceTree, both: Both) -> None:
    hit = publish_fake(toy_store, toy_unit("gfx942"), source_tree, toolchain="one")
    stale = publish_fake(toy_store, toy_unit("gfx950"), source_tree, headers=(SCALE_HEADER, PLAIN_HEADER))
    publish_fake(toy_store, plain_unit("gfx942"), source_tree, headers=())
    edit(source_tree, PLAIN_HEADER, "7", "8")
    text, data, code = both("explain", "build", "toy/toy")
    assert code == 0
    assert [(item["unit"], item["hit"]) for item in data["units"]] == [
        ("toy/toy for gfx942", True),
        ("toy/toy for gfx950", False),
    ]
    assert f"toy/toy for gfx942: hit\n  artifact: {hit.path}\n  built by: compiler one\n" in text
    assert f"toy/toy for gfx950: would be built\n  because: {stale.label}: {PLAIN_HEADER} changed since\n" in text
    assert f"  nearest: {stale.label}\n    header {PLAIN_HEADER}: changed since 2026-01-01T00:00:00Z" in text
    _, data, _ = both("explain", "build", "toy/toy", "--target", "gfx950")
    assert [item["unit"] for item in data["units"]] == ["toy/toy for gfx950"]


def test_explain_build_of_a_call(cache_dir: Path, both: Both) -> None:
    tree, store = SourceTree(PACKAGE), open_store()
    shape = ["n=4", "m=256", "k=7168"]
    _, data, code = both("explain", "build", "linear", "--target", "gfx942", *shape)
    assert code == 0
    assert [item["unit"].split("[")[0].split(" for")[0] for item in data["units"]] == ["gemm/wv_split_k", "launch"]
    assert [item["reasons"] for item in data["units"]] == [["no artifact under this key"]] * 2
    _, data, _ = both("explain", "build", "gemm/wv_split_k", "--target", "gfx942", *shape)
    assert len(data["units"]) == 1
    from aiterlite import target
    from aiterlite.tables import gemm

    problem, persona = gemm.GemmProblem(4, 256, 7168), target.resolve("gfx942")
    unit = gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))
    publish_fake(store, unit, tree, headers=())
    text, data, _ = both("explain", "build", "linear", "--target", "gfx942,gfx950", *shape)
    assert [item["hit"] for item in data["units"] if item["unit"].startswith("gemm/")] == [True, False]
    assert "    target: gfx942 -> gfx950" in text


def test_explain_build_takes_words_that_some_operators_lack(cache_dir: Path, both: Both) -> None:
    _, data, code = both("explain", "build", "gemm/wv_split_k_reduce", "--target", "gfx942", "n=64", "reduction=fast")
    assert code == 0 and data["units"] and not any(item["hit"] for item in data["units"])
    text, data, code = both("explain", "build", "gemm/wv_split_k_reduce", "--target", "sm_90", "n=4", "fp8=e4m3fn")
    assert (text, data["units"], code) == ("no call of this shape compiles gemm/wv_split_k_reduce", [], 0)


@pytest.mark.parametrize("name", ["gemm", "emulator", "benchmark", "benchmark/read_floor"])
def test_explain_build_of_a_name_without_artifacts(toy_store: Store, both: Both, name: str) -> None:
    text, data, code = both("explain", "build", name)
    assert (code, data["units"]) == (0, [])
    assert text == f"no artifact of {name} in any layer: every call would build one"


# bench ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", [[], ["gemm"]])
def test_bench_hands_the_family_its_options(
    both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, family: list[str]
) -> None:
    measuring = SimpleNamespace(
        add_arguments=lambda parser: parser.add_argument("--shape"),
        run=lambda arguments: {"shape": arguments.shape},
        to_text=lambda data: f"measured {data['shape']}",
    )
    monkeypatch.setattr(bench.importlib, "import_module", {"aiterlite.benchmark.gemm": measuring}.__getitem__)
    result = tmp_path / "result.json"
    words = ["bench", *family, "--shape", "2,8", "--output", str(result)]
    assert both(*words) == ("measured 2,8", {"shape": "2,8"}, 0)
    assert json.loads(result.read_text()) == {"shape": "2,8"}
    assert main(["bench", *family, "--what"]) == 2
    # Before anything is measured, which would be lost.
    measuring.run = None
    for place in (tmp_path, tmp_path / "no folder" / "result.json"):
        assert main([*words[:-1], str(place)]) == 2
    assert main(["bench", "nope"]) == 2


# Text -----------------------------------------------------------------------------------------------------------------


def test_a_table_s_cells_stand_under_their_headers() -> None:
    text = output.table(("name", "count", "x"), [("a", "5", "y"), ("longer name", "1234567", "z")], right=("count",))
    assert text.splitlines() == [
        "name           count  x",
        "a                  5  y",
        "longer name  1234567  z",
    ]
    with pytest.raises(ValueError, match="2 cells under 3 headers"):
        output.table(("a", "b", "c"), [("1", "2")])


def test_a_table_with_rules_holds_the_same_cells() -> None:
    pytest.importorskip("rich")
    rows = [("a[b]", "5"), ("longer " * 30, "1234567")]
    text = output.pretty_table(("name", "count"), rows, right=("count",))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if "│" in line]
    assert cells == [["name", "count"], ["a[b]", "5"], [("longer " * 30).strip(), "1234567"]]


def test_without_rich_it_is_plain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    rows = [("a", "5")]
    assert output.pretty_table(("name", "count"), rows) == output.table(("name", "count"), rows)


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (2**42, "4096.0 GiB")]
)
def test_sizes(count: int, text: str) -> None:
    assert output.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(-3, "0 s"), (59, "59 s"), (60, "1 min"), (7200, "2 h"), (86400 * 12, "12 d")]
)
def test_ages(seconds: float, text: str) -> None:
    assert output.age(seconds) == text


def test_resources_of_several_kernels_are_the_most_of_each() -> None:
    kernels = {"a": {"vgprs": 8, "lds_bytes": 64, "vgpr_spills": 0}, "b": {"vgprs": 4, "vgpr_spills": 2}}
    assert output.resources(kernels) == "8 VGPR, 64 B LDS, 2 vgpr spills"
    assert output.resources({}) == "-"
