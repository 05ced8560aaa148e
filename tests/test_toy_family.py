"""A family that is no GEMM, through every command and every check: adding one touches its own files and one line."""

from __future__ import annotations

import ast
import functools
import importlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import toy_family  # noqa: E402
from toy_family.tables import TABLE, RowsProblem  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import emulator, envs, target  # noqa: E402
from aiterlite.cli import main, plan  # noqa: E402
from aiterlite.jit import record, toolchain  # noqa: E402
from aiterlite.ops import operator  # noqa: E402
from aiterlite.ops.samples import sample  # noqa: E402
from aiterlite.tables import FAMILIES, TABLES, problems  # noqa: E402

pytestmark = [pytest.mark.torch]
Both = Callable[..., tuple[str, Any, int]]
needs_amdgpu_clang = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
OP = toy_family.OP


@pytest.fixture(scope="module", autouse=True)
def _registered(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with toy_family.registered(tmp_path_factory.mktemp("tree")):
        yield
    assert OP not in TABLES and OP not in operator.OPERATORS and "toy" not in FAMILIES


# list, explain --------------------------------------------------------------------------------------------------------


def test_list_shows_it_with_its_words_and_requirements(both: Both) -> None:
    text, data, code = both("list")
    assert code == 0 and [item["op"] for item in data["operators"]] == list(TABLES)
    (found,) = [item for item in data["operators"] if item["op"] == OP]
    assert found["shape"] == "[heads:width=3:256,2:300] [batch=1,2] [whole=1] [order=first]"
    assert found["sweep"][0] == {"fields": ["heads", "width"], "values": [[3, 256], [2, 300]]}
    assert f"{OP}  {found['shape']}\n" in text and "rows of at most 64 parts" in found["rows"][1]["requires"]


def test_explain_gives_its_kernels_and_refusals_in_words(both: Both) -> None:
    text, data, code = both("explain", OP, "heads:width=3:700", "batch=2", "--target", "gfx942,cpu-x86-64-v3")
    assert code == 0 and [item["chosen"] for item in data["decisions"]] == ["waves", "cpu"]
    gpu = data["decisions"][0]
    assert gpu["problem"] == {"batch": 2, "heads": 3, "width": 700, "whole": False, "order": "first"}
    assert [(kernel["symbol"], kernel["grid"]) for kernel in gpu["kernels"]] == [
        ("aiterlite_toy_parts", [3, 3, 2]),
        ("aiterlite_toy_join", [1, 3, 2]),
    ]
    assert "parts=3" in text and "kernel aiterlite_toy_parts grid 3 x 3 x 2, block 64" in text
    # Without words it is the whole sweep.
    text, data, code = both("explain", OP, "--target", "gfx942")
    assert code == 0 and len(data["decisions"]) == 4
    text, data, code = both("explain", OP, "heads=1", "width=16640,0", "batch=1", "--target", "gfx942")
    assert code == 0 and [item["chosen"] for item in data["decisions"]] == [None, None]
    assert "width must be at most 16384, it is 16640 (split the rows)" in text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            ["heads=3"],
            "heads and width go together, and heads is given without width; the shape words are [heads:width=",
        ),
        (["heads:batch=3:1"], "heads and width go together"),
        (["depth=3"], "shape word 'depth=3' is not taken; the shape words of toy_rows are [heads:width=3:256,2:300]"),
        (["heads:width=3"], "'heads:width=3' has '3' for heads:width; give FIELD=V,V or FIELD:FIELD=V:V,V:V"),
        (["heads:width=3:x"], "width is 'x'; allowed: a whole number"),
        (["batch=1", "batch=2"], "'batch=2' names batch again; give several values as batch=V,V"),
        (["batch=1,"], "'batch=1,' has '' for batch"),
        (["batch=" + "9" * 5000], "allowed: a whole number"),
        (["whole=2"], "whole is '2'; allowed: 0, 1, false, true"),
    ],
)
@pytest.mark.parametrize("command", ["explain", "emulate", "bench"])
def test_wrong_words_are_told_with_what_is_allowed(
    command: str, given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, OP, *given]) == 2
    assert said in capsys.readouterr().err
    assert main(["build", "--ops", OP, *given]) == 2
    assert said.split("; the shape words")[0] in capsys.readouterr().err.replace("there are", "the shape words")


# explain build, build, export, verify ---------------------------------------------------------------------------------

SHAPE = ("heads:width=2:300", "batch=1,2")


@pytest.mark.compile
@needs_amdgpu_clang
def test_build_ships_and_explains_its_units(cache_dir: Path, both: Both, capsys: pytest.CaptureFixture[str]) -> None:
    text, data, code = both("explain", "build", "toy_rows/rows")
    assert (code, data["units"]) == (0, []) and "every call would build one" in text
    assert main(["build", "--json", "--target", "gfx942", "--ops", OP, *SHAPE]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["counts"] == {"built": 2, "cached": 0, "missing": 0, "failed": 0}
    built = {item["name"]: item for item in data["units"]}
    assert set(built) == {"toy_rows/rows", "launch"}
    assert set(built["toy_rows/rows"]["resources"]) == {"aiterlite_toy_parts", "aiterlite_toy_join"}
    for name, hits in ((OP, [True, True]), ("toy_rows/rows", [True])):
        _, data, code = both("explain", "build", name)
        assert code == 0 and [item["hit"] for item in data["units"]] == hits
    # Whole rows are another variant; what they differ in is named.
    text, data, code = both("explain", "build", OP, "heads:width=1:512", "batch=1", "--target", "gfx942")
    assert code == 0 and [item["hit"] for item in data["units"]] == [False, True]
    assert "defines.TOY_WHOLE: 0 -> 1" in text
    _, data, code = both("status")
    assert {item["unit"].split("[")[0] for item in data["artifacts"]} >= {"toy_rows/rows"}
    bundle = str(cache_dir.parent / "toy.tar")
    assert main(["verify"]) == 0 and main(["export", bundle]) == 0 and main(["export", "--check", bundle]) == 0


def test_it_stands_in_no_other_command_s_way(both: Both, cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gemm = ["m:k=64:512", "n=4"]
    for name in ("gemm/wv_split_k", "gemm", "linear"):
        _, data, code = both("explain", "build", name, "--target", "gfx942,cpu-x86-64-v3", *gemm)
        assert code == 0 and data["units"]
    _, data, code = both("explain", "build", "gemm/wv_split_k_reduce", "--target", "gfx942", *gemm, "reduction=fast")
    assert code == 0 and data["units"]
    # A unit's name with the words of some operators, where others lack the fields.
    _, data, code = both("explain", "build", "gemm", "reduction=fast")
    assert code == 0 and data["units"]
    _, data, code = both("explain", "build", "toy_rows/rows", "--target", "gfx942", "heads:width=1:512", "batch=1")
    assert code == 0 and len(data["units"]) == 1
    assert main(["explain", "build", "toy_row"]) == 2
    listed = capsys.readouterr().err.partition("no unit 'toy_row'; there are ")[2]
    assert {"gemm", "gemm/wv_split_k", "launch", "toy_rows", "toy_rows/rows", "linear"} <= set(
        listed.strip().split(", ")
    )
    _, data, code = both("build", "--check", "--target", "gfx942", "--ops", "linear", *gemm)
    assert code == 1 and {item["name"] for item in data["units"]} == {"gemm/wv_split_k", "launch"}
    _, data, code = both(
        "build", "--check", "--target", "gfx942", "--ops", f"wvSplitK,{OP}", "heads:width=1:512", *gemm
    )
    assert code == 1 and {item["name"] for item in data["units"]} == {"gemm/wv_split_k", "toy_rows/rows", "launch"}
    assert main(["build", "--check", "--ops", f"linear,{OP}", "depth=1"]) == 2
    assert "shape word 'depth=1' is not taken; there are linear: [m:k=" in capsys.readouterr().err


# emulate --------------------------------------------------------------------------------------------------------------


@pytest.mark.emulated
@pytest.mark.compile
@needs_amdgpu_clang
def test_emulate_watches_both_kernels_and_holds_every_output(emulator_library: str, both: Both) -> None:
    emulator.use_library(emulator_library)
    chips = ("--target", "mi300x,gfx950")
    text, data, code = both("emulate", OP, "heads:width=2:300", "batch=2", *chips, "--sanitize", "--counters")
    assert code == 0 and [run["target"] for run in data["runs"]] == ["mi300x", "gfx950"]
    for run in data["runs"]:
        assert run["findings"] == [] and len(run["counters"]) == 2
        assert run["kernels"] == ["aiterlite_toy_parts", "aiterlite_toy_join"]
        kinds = {name: output["kind"] for name, output in run["outputs"].items()}
        assert kinds == {"total": "within", "index": "exact", "peak": "exact"}
        assert run["outputs"]["index"]["error"] == 0 and 0 < run["of_bound"] <= 1
    assert "index: every bit right" in text and "nothing found by the sanitizers" in text
    text, data, code = both("emulate", OP, "heads:width=2:300", "batch=1,2", "--races")
    assert code == 0 and [run["problem"]["batch"] for run in data["runs"]] == [1, 2]
    assert text.count("7 schedules: the same bits under each") == 2


@pytest.mark.emulated
@pytest.mark.compile
@needs_amdgpu_clang
def test_a_wrong_output_of_several_is_told(emulator_library: str, both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    from toy_family import samples

    emulator.use_library(emulator_library)

    def wrong(problem: Any, seed: int) -> Any:
        made = samples._rows(problem, seed)
        made.outputs["index"].value[0, 0] += 1
        return made

    monkeypatch.setitem(samples.SAMPLES, OP, wrong)
    text, _, code = both("emulate", OP, "heads:width=2:300", "batch=1")
    assert code == 1 and "index: 1 elements differ" in text and "NOT WITHIN the bound" in text


@pytest.mark.emulated
@pytest.mark.compile
@needs_amdgpu_clang
def test_other_bits_of_any_output_are_a_race(
    emulator_library: str, both: Both, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dataclasses import replace

    from toy_family import samples

    emulator.use_library(emulator_library)
    plain, runs = samples._rows, itertools.count()

    def unsteady(x: torch.Tensor, peak: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        total, index = samples.toy_rows(x, peak)
        return total, index + (next(runs) % 8 == 3)

    def bind(given: samples.Tensors) -> functools.partial[object]:
        return functools.partial(unsteady, *given.values())

    monkeypatch.setitem(samples.SAMPLES, OP, lambda *given: replace(plain(*given), bind=bind))
    text, data, code = both("emulate", OP, "heads:width=2:300", "batch=1", "--races")
    (run,) = data["runs"]
    assert code == 1 and run["of_bound"] <= 1 and len(run["races"]) == 1 and "OTHER BITS under" in text


# bench ----------------------------------------------------------------------------------------------------------------


@pytest.mark.compile
def test_bench_measures_it_beside_torch(both: Both, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from aiterlite.benchmark import operator as measuring
    from aiterlite.benchmark import timing

    monkeypatch.setattr(timing, "last_level_cache_bytes", lambda device: 1 << 16)
    monkeypatch.setattr(measuring, "_PROBE", (64, 512))
    path = tmp_path / "bench.json"
    shape = ("heads:width=4:1000", "batch=1,2", "--device", "cpu", "--samples", "3", "--output", str(path))
    text, data, code = both("bench", OP, *shape)
    assert code == 0 and json.loads(path.read_text()).keys() == data.keys()
    assert data["bandwidth"]["read"] > 0 and data["bandwidth"]["copy"] > 0
    for row, batch in zip(data["rows"], (1, 2), strict=True):
        assert row["problem"]["batch"] == batch and row["row"] == "cpu" and row["kernels"] == ["aiterlite_toy_rows_cpu"]
        # x, peak, total and index, the written argument once.
        assert row["bytes"] == 4 * batch * (4 * 1000 + 3 * 4)
        assert row["ours_us"] > 0 and row["speedup"] == row["baseline_us"] / row["ours_us"]
        assert row["gigabytes_per_second"] == pytest.approx(row["bytes"] / row["ours_us"] * 1e-3)
        assert row["share_of_read"] == pytest.approx(row["gigabytes_per_second"] / data["bandwidth"]["read"])
        assert row["cold"] and 0 <= row["of_bound"] <= 1 and set(row["timings"]) == {"ours", "torch"}
    assert "toy_rows(batch=2, heads=4, width=1000" in text
    # Without a call of torch, and where so many copies as it would take are too many, it says so.
    monkeypatch.setattr(measuring, "_MOST_COPIES", 2)
    from toy_family import samples

    plain = samples._rows
    monkeypatch.setitem(samples.SAMPLES, OP, lambda *given: _without_baseline(plain(*given)))
    monkeypatch.setattr(timing, "last_level_cache_bytes", lambda device: 1 << 20)
    text, data, code = both("bench", "toy", "heads:width=1:8", "batch=1", "--device", "cpu", "--samples", "2")
    (row,) = data["rows"]
    assert code == 0 and row["baseline_us"] is None and not row["cold"] and "in the cache" in text


def _without_baseline(made: Any) -> Any:
    from dataclasses import replace

    return replace(made, baseline=None)


@pytest.mark.compile
def test_bench_measures_a_gemm_from_its_sample_too(both: Both, monkeypatch: pytest.MonkeyPatch) -> None:
    from aiterlite.benchmark import operator as measuring
    from aiterlite.benchmark import timing

    monkeypatch.setattr(timing, "last_level_cache_bytes", lambda device: 1 << 16)
    monkeypatch.setattr(measuring, "_PROBE", (64, 512))
    device = ("--device", "cpu", "--samples", "2")
    _, data, code = both("bench", "wvSplitKQ", "n=2", "m:k=32:64", "fp8=e4m3fn", *device)
    # The 8-bit operands are made before the time begins, and count as such.
    assert code == 0 and data["rows"][0]["bytes"] == 2 * 64 + 32 * 64 + 4 + 4 + 2 * 2 * 32


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["bench", "nope"], "no operator or family 'nope'; there are wvSplitK,"),
        (["bench", OP, "--device", "nope"], "'nope' is no device to measure on; allowed: cpu, cuda, cuda:N"),
        (["bench", OP, "--device", "cuda:77"], "'cuda:77' is not here: torch sees"),
        (["bench", OP, "--samples", "0"], "'0' is no whole number above 0"),
        (["bench", OP, "--shape", "foo"], "unrecognized arguments: --shape"),
        (["bench", "--shape", "foo"], "'foo' is no whole number above 0"),
        (["bench", "--shape", "1,2,3"], "'1,2,3' is not M,K; give two numbers"),
        (["bench", "gemm", "--tokens", "1,x"], "'x' is no whole number above 0"),
    ],
)
def test_nonsense_is_an_error_of_the_command_line(
    given: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(given) == 2
    assert said in capsys.readouterr().err


def test_an_emulated_chip_is_not_timed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("AITERLITE_TARGET", "gfx942")
    envs.reload()
    for words_ in ([OP], ["gemm", "--shape", "8,8"]):
        assert main(["bench", *words_, "--device", "cpu"]) == 2
        assert "`--device` is cpu, emulating mi300x; allowed: a device that can be timed" in capsys.readouterr().err


# record ---------------------------------------------------------------------------------------------------------------


@pytest.mark.emulated
@pytest.mark.compile
@needs_amdgpu_clang
def test_a_recording_is_built_for_other_targets(
    emulator_library: str, tmp_path: Path, both: Both, capsys: pytest.CaptureFixture[str]
) -> None:
    emulator.use_library(emulator_library)
    path = tmp_path / "kernels.json"
    # Of a shape and a variant that no test before has launched: what a process has loaded is not noted again.
    made = sample(OP, problems.problem(TABLE, {"batch": 2, "heads": 5, "width": 512}))
    with aiterlite.recording(path) as manifest, envs.override(AITERLITE_TARGET="gfx942"):
        assert made.of_bound(made.run()) <= 1
    (call,) = manifest.calls.values()
    assert call == {"op": OP, "problem": vars(RowsProblem(2, 5, 512))}
    assert "toy_rows/rows" in {unit.name for unit in manifest.units.values()}
    _, data, code = both("build", "--from", str(path), "--check")
    assert code == 0 and data["counts"]["missing"] == 0
    other = plan.from_manifest(record.read(path), {"gfx950": target.resolve("gfx950")})
    assert {unit.label.split(" for ")[1] for unit in other.units if "/" in unit.name} == {"gfx950"}
    for value, said in (("5", "heads is '5', not of type int"), (None, "heads is None, not of type int")):
        stored = json.loads(path.read_text())
        stored["calls"][0]["problem"]["heads"] = value
        (tmp_path / "bad.json").write_text(json.dumps(stored))
        assert main(["build", "--from", str(tmp_path / "bad.json"), "--target", "gfx950"]) == 1
        assert said in capsys.readouterr().err


# torch: every operator ------------------------------------------------------------------------------------------------


def operators() -> list[str]:
    """The registry: the operators of all families, and the toy's, which is registered while these tests run."""
    for family in FAMILIES.values():
        for module in family.ops:
            importlib.import_module(module)
    return [*operator.OPERATORS, OP]


def samples_of(op: str) -> list[Any]:
    """Samples of the first problem of the operator's sweep, and of the next one that differs in one axis."""
    return [sample(op, problem, seed) for seed, problem in enumerate(itertools.islice(problems.sweep(TABLES[op]), 2))]


def test_the_registry_and_the_tables_know_the_same_operators() -> None:
    assert set(operators()) == set(operator.OPERATORS) == set(TABLES)


@pytest.mark.compile
@pytest.mark.parametrize("op", operators())
def test_opcheck(op: str) -> None:
    made = samples_of(op)[0]
    given = made.bind(made.fresh())
    assert set(operator.OPERATORS[op].mutates) >= {name for name in made.outputs if name in made.inputs}
    # opcheck's other tests multiply the operands, which torch cannot do in 8 bits.
    small = any(isinstance(arg, torch.Tensor) and arg.dtype.itemsize == 1 for arg in given.args)
    only = {"test_utils": "test_faketensor"} if small else {}
    torch.library.opcheck(operator.OPERATORS[op].overload, given.args, given.keywords, **only)


@pytest.mark.compile
@pytest.mark.parametrize("op", operators())
def test_compiled_with_dynamic_shapes_it_gives_the_same_outputs(op: str) -> None:
    torch._dynamo.reset()
    first = samples_of(op)[0]
    compiled = torch.compile(first.bind(first.fresh()).func, fullgraph=True, dynamic=True, backend="aot_eager")
    for made in samples_of(op):
        given = made.fresh()
        bound = made.bind(given)
        outputs = made.named(compiled(*bound.args, **bound.keywords), given)
        assert made.of_bound(outputs) <= 1
        # An argument that is written to is written to once.
        expected = made.run()
        assert all(torch.equal(outputs[name], expected[name]) for name in outputs)


# The shared files know no family -------------------------------------------------------------------------------------

PACKAGE = Path(aiterlite.__file__).parent
# A model's own, as a demonstration is.
OF_MODELS = ("demo.py", "model.py")
SHARED = [
    *(path for path in (PACKAGE / "cli").glob("*.py") if path.name not in OF_MODELS),
    *(PACKAGE / "launch").glob("*.py"),
    *(PACKAGE / name for name in ("dispatch.py", "kernel.py", "wishes.py")),
    *(PACKAGE / "benchmark" / name for name in ("operator.py", "options.py", "timing.py")),
    *(PACKAGE / "ops" / name for name in ("operator.py", "operands.py", "calls.py", "samples/__init__.py")),
    *(PACKAGE / "tables" / name for name in ("family.py", "problems.py", "asm.py", "asm_check.py")),
]
# Of `asm.py` the requirements that every manifest's rows may have.
OWN_WORDS = {"asm.py": {"n", "heads", "tokens"}}
# Words that a problem's field shares with all tensors, with the words that make one, with errors and objects, with
# argument structs, sets and parsers, and with a sign between sizes.
COMMON = {"dtype", "fp8", "code", "layout", "add", "x"}


def family_modules() -> set[str]:
    """The modules of the package that belong to a family: what its record names, and tables of no shared file."""
    shared = {path.stem for path in SHARED if path.parent.name == "tables"} | {"__init__"}
    found = {f"aiterlite.tables.{p.stem}" for p in (PACKAGE / "tables").glob("*.py") if p.stem not in shared}
    found |= {f"aiterlite.{path.parent.name}.{path.stem}" for path in (PACKAGE / "reference").glob("*.py")}
    for family in FAMILIES.values():
        found |= {*family.ops, family.samples, family.bench, *family.public.values()}
    return found - {""}


def family_words() -> set[str]:
    """Names of families and their operators, and the fields of their problems."""
    fields = {name for table in TABLES.values() for name in problems.field_types(table)}
    return fields | set(FAMILIES) | set(TABLES)


def _any(names: set[str]) -> str:
    return "|".join(map(re.escape, sorted(names)))


def findings(path: Path) -> list[str]:
    """Where a file imports a family, reads a field of its problems, or says its name or theirs in a string."""
    tree = ast.parse(path.read_text())
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef))
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    names = family_words() - OWN_WORDS.get(path.name, set()) - COMMON
    shown = re.compile(rf"(?<![\w.-])(?:(?:{_any(names)})(?=$|[=:/\]])|(?:{_any(COMMON)})=)")
    found = []
    for node in ast.walk(tree):
        where = f"{path.relative_to(PACKAGE)}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.ImportFrom) and node.module:
            imported = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            found += [f"{where}: imports {name}" for name in imported & family_modules()]
        elif isinstance(node, ast.Attribute) and node.attr in names:
            found.append(f"{where}: reads .{node.attr}")
        elif not isinstance(node, ast.Constant) or not isinstance(node.value, str) or id(node) in docstrings:
            continue
        elif node.value in names or shown.search(node.value):
            found.append(f"{where}: says {node.value!r}")
    return found


def test_shared_files_know_no_family() -> None:
    assert len(SHARED) > 30 and all(path.is_file() for path in SHARED)
    assert [found for path in SHARED for found in findings(path)] == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("from aiterlite.tables import gemm_plan", "imports aiterlite.tables.gemm_plan"),
        ("def f():\n    from aiterlite.ops.linear import linear", "imports aiterlite.ops.linear"),
        ("x = problem.m", "reads .m"),
        ("x = values['k']", "says 'k'"),
        ("x = 'aiterlite emulate OP n=4'", "says 'aiterlite emulate OP n=4'"),
        ("x = 'linear'", "says 'linear'"),
        ("x = 'dtype=bf16'", "says 'dtype=bf16'"),
        ("x = f'{n} of m:k=1:2'", "says ' of m:k=1:2'"),
        ("x = values['heads']", "says 'heads'"),
    ],
)
def test_a_file_that_knows_one_is_found(text: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shared.py"
    path.write_text(text)
    monkeypatch.setattr("test_toy_family.PACKAGE", tmp_path)
    monkeypatch.setattr(
        "test_toy_family.family_modules", lambda: {"aiterlite.tables.gemm_plan", "aiterlite.ops.linear"}
    )
    assert [found.partition(": ")[2] for found in findings(path)] == [said]
