"""Several processes on one cache, and injected faults: killed builders, missing locks, failing builds."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support import (
    HOST_TARGET,
    OBTAIN,
    TOY_TREE,
    Wrapper,
    child,
    edit,
    environment,
    finish,
    is_running,
    obtain_arguments,
    start,
    toy_unit,
    wait_for,
    wrap_compiler,
)

from aiterlite import envs
from aiterlite.cli import main
from aiterlite.errors import BuildError, BuildTimeoutError, MissingArtifactError
from aiterlite.jit import engine
from aiterlite.jit.engine import obtain
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.store import open_store
from aiterlite.tables import gemm
from aiterlite.target import resolve

pytestmark = [pytest.mark.compile, pytest.mark.usefixtures("cache_dir")]
UNIT = toy_unit("gfx942")
PROCESSES = 8
# What ends because it was told to, and not because a compiler of 300 s did, ends by then on the busiest machine.
AT_ONCE = 60

# All children wait here, so that they come to the cold cache at once.
GATE = """
import aiterlite.jit.engine
open(f"{sys.argv[3]}.{os.getpid()}", "w").close()
while not os.path.exists(sys.argv[3]):
    time.sleep(0.002)
"""
CATCH = """
from aiterlite.errors import JitError
began = time.monotonic()
try:
%s
except JitError as error:
    result = {"type": type(error).__name__, "text": str(error), "at": time.time()}
result["waited"] = time.monotonic() - began
"""


def catching(code: str) -> str:
    return CATCH % "".join(f"    {line}\n" for line in code.splitlines())


def slow_compiler(folder: Path, seconds: float = 0.4) -> Wrapper:
    return wrap_compiler("amd", folder, before=f"/bin/sleep {seconds}")


def at_once(
    count: int, code: str, tree: SourceTree, gate: Path, unit: Any = UNIT, **changes: str
) -> list[dict[str, Any]]:
    """The reports of `count` children that reach `code` together."""
    children = [start(GATE + code, *obtain_arguments(unit, tree), str(gate), **changes) for _ in range(count)]
    wait_for(lambda: len(list(gate.parent.glob(f"{gate.name}.*"))) == count)
    gate.touch()
    return [finish(process) for process in children]


def results_of(reports: list[dict[str, Any]]) -> list[Any]:
    return [report["result"] for report in reports]


# Cold together --------------------------------------------------------------------------------------------------------


def test_eight_cold_processes_compile_once(source_tree: SourceTree, tmp_path: Path) -> None:
    wrapper = slow_compiler(tmp_path / "wrapper")
    results = results_of(
        at_once(PROCESSES, OBTAIN, source_tree, tmp_path / "go", AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    )
    assert wrapper.compiles() == 1
    assert sum(result["built"] for result in results) == 1
    assert len({(result["sha256"], result["path"]) for result in results}) == 1


@pytest.mark.torch
def test_eight_cold_processes_get_eight_right_answers(source_tree: SourceTree, tmp_path: Path) -> None:
    """A host unit: the answers are what its function returns. Then once more, warm, in a fresh process."""
    wrapper = wrap_compiler("host", tmp_path / "wrapper")
    call = """
from pathlib import Path
from aiterlite.jit import engine, loader
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
tree = SourceTree(Path(sys.argv[2]))
engine.package_tree = lambda: tree
result = loader.host_library(Unit.from_json(json.loads(sys.argv[1]))).toy_scale(5)
"""
    unit = toy_unit(HOST_TARGET)
    results = results_of(at_once(PROCESSES, call, source_tree, tmp_path / "go", unit, AITERLITE_CXX=str(wrapper.path)))
    assert results == [15] * PROCESSES and wrapper.compiles() == 1
    # With no compiler at all, and with another one, both only allowed to look.
    other = wrap_compiler("host", tmp_path / "other", version="c++ 99.1")
    for changes in ({"PATH": str(tmp_path)}, {"AITERLITE_CXX": str(other.path)}):
        warm = child(call, *obtain_arguments(unit, source_tree), AITERLITE_JIT="require-cache", **changes)
        assert warm["result"] == 15 and warm["started"] == []
        heavy = {"filelock", "packaging", "rich", "ninja", "torch", "logging"}
        assert {name.split(".")[0] for name in warm["imported"]} & heavy == set()


@pytest.mark.parametrize("broken", ["ENOLCK", "ENOSYS", "EOPNOTSUPP", "filelock"])
def test_without_file_locks_all_is_right_and_nobody_waits(source_tree: SourceTree, tmp_path: Path, broken: str) -> None:
    wrapper = slow_compiler(tmp_path / "wrapper", 0.2)
    if broken == "filelock":
        # The probe succeeds, and the lock itself does not.
        fault = "import filelock\ndef refuse(*a, **k): raise NotImplementedError('no flock')\n"
        fault += "filelock.FileLock.acquire = refuse\n"
    else:
        fault = (
            f"import errno, fcntl\ndef refuse(*a): raise OSError(errno.{broken}, 'no locks')\nfcntl.flock = refuse\n"
        )
    began = time.monotonic()
    reports = at_once(PROCESSES, fault + OBTAIN, source_tree, tmp_path / "go", AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    assert time.monotonic() - began < 30
    assert all("no file locks in" in report["stderr"] for report in reports if report["result"]["built"])
    results = results_of(reports)
    assert 1 <= wrapper.compiles() <= PROCESSES
    assert len({(result["sha256"], result["path"]) for result in results}) == 1
    assert len(list(open_store().all_entries())) == 1
    assert list((open_store().writable.root / "tmp").iterdir()) == []


def test_eight_processes_heal_a_damaged_artifact_once(source_tree: SourceTree, tmp_path: Path) -> None:
    first = obtain(UNIT, tree=source_tree)
    first.entry.path.write_bytes(first.data[:-100])
    wrapper = slow_compiler(tmp_path / "wrapper")
    results = results_of(
        at_once(PROCESSES, OBTAIN, source_tree, tmp_path / "go", AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    )
    assert wrapper.compiles() == 1
    assert len({result["sha256"] for result in results}) == 1
    assert all(Path(result["path"]).read_bytes() == first.data for result in results)


# Builders that die ----------------------------------------------------------------------------------------------------


@pytest.fixture
def hanging(tmp_path: Path) -> Any:
    """A compiler whose first compile hangs; what is left of it is killed in the end."""
    pid = tmp_path / "hanging.pid"
    wrapper = wrap_compiler(
        "amd", tmp_path / "hanging", before=f'if [ ! -e "{pid}" ]; then echo $$ > "{pid}"; exec /bin/sleep 300; fi'
    )
    yield wrapper, pid
    if pid.exists() and pid.read_text().strip():
        try:
            os.kill(int(pid.read_text()), signal.SIGKILL)
        except ProcessLookupError:
            return


def test_after_a_killed_builder_the_next_process_goes_on_at_once(
    source_tree: SourceTree, hanging: tuple[Wrapper, Path]
) -> None:
    wrapper, pid = hanging
    code, arguments = OBTAIN, obtain_arguments(UNIT, source_tree)
    doomed = start(code, *arguments, AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    os.killpg(doomed.pid, signal.SIGKILL)
    doomed.communicate()
    began = time.monotonic()
    assert child(code, *arguments, AITERLITE_AMDGPU_CLANG=str(wrapper.path))["result"]["built"]
    assert time.monotonic() - began < AT_ONCE
    assert wrapper.compiles() == 2


def test_a_waiter_takes_over_from_a_killed_builder(source_tree: SourceTree, hanging: tuple[Wrapper, Path]) -> None:
    wrapper, pid = hanging
    arguments = obtain_arguments(UNIT, source_tree)
    doomed = start(OBTAIN, *arguments, AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    waiter = start(OBTAIN, *arguments, AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    time.sleep(0.7)
    doomed.kill()
    doomed.communicate()
    began = time.monotonic()
    assert finish(waiter)["result"]["built"]
    assert time.monotonic() - began < AT_ONCE


def test_an_interrupted_build_stops_its_compiler_and_leaves_nothing(
    source_tree: SourceTree, hanging: tuple[Wrapper, Path]
) -> None:
    wrapper, pid = hanging
    process = start(OBTAIN, *obtain_arguments(UNIT, source_tree), AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=AT_ONCE)
    assert "KeyboardInterrupt" in errors
    wait_for(lambda: not is_running(int(pid.read_text())), AT_ONCE)
    assert list((open_store().writable.root / "tmp").iterdir()) == []


# Obtains, or builds as the command does, and is asked to end meanwhile.
BUILD = """
from pathlib import Path
from aiterlite.cli import main
from aiterlite.jit import sources
sources.PACKAGE_ROOT = Path(sys.argv[2])
words = [word for text in json.loads(sys.argv[1]) for word in ("--unit", json.dumps(text))]
sys.exit(main(["build", "--jobs", "2", *words]))
"""


def compilers_of(folder: Path) -> list[int]:
    return [int(path.read_text()) for path in folder.glob("pid.*") if path.read_text().strip()]


@pytest.fixture
def endless(tmp_path: Path) -> Any:
    """Compilers of each kind that never end by themselves, and the folder in which they leave their numbers."""
    before = f'echo $$ > "{tmp_path}/pid.$$"; /bin/sleep 300'
    yield {
        "AITERLITE_AMDGPU_CLANG": str(wrap_compiler("amd", tmp_path / "amd", before=before).path),
        "AITERLITE_CXX": str(wrap_compiler("host", tmp_path / "host", before=before).path),
    }
    for pid in filter(is_running, compilers_of(tmp_path)):
        os.kill(pid, signal.SIGKILL)


@pytest.mark.torch
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_build_command_that_is_asked_to_end_ends_at_once_with_its_compilers(
    source_tree: SourceTree, tmp_path: Path, endless: dict[str, str], number: signal.Signals
) -> None:
    """Two compile, two wait for their turn, and of the two of one unit one waits for the other."""
    units = [toy_unit("gfx942"), toy_unit(HOST_TARGET), toy_unit("gfx950"), toy_unit("gfx942", TOY_FACTOR="9")]
    process = start(BUILD, json.dumps([unit.to_json() for unit in units]), str(source_tree.root), **endless)
    wait_for(lambda: len(compilers_of(tmp_path)) == 2, 60)
    process.send_signal(number)
    began = time.monotonic()
    output, errors = process.communicate(timeout=AT_ONCE)
    assert time.monotonic() - began < AT_ONCE
    assert process.returncode == 128 + number and output == ""
    said = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
    assert errors.splitlines()[-1] == f"aiterlite: {said}" and "Traceback" not in errors
    wait_for(lambda: not any(map(is_running, compilers_of(tmp_path))), AT_ONCE)
    root = open_store().writable.root
    assert list((root / "tmp").iterdir()) == [] and list((root / "failed").iterdir()) == []
    assert len(compilers_of(tmp_path)) == 2


@pytest.mark.torch
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
@pytest.mark.parametrize("target", ["gfx942", HOST_TARGET])
def test_a_server_that_dies_takes_its_compilers_with_it(
    source_tree: SourceTree, tmp_path: Path, endless: dict[str, str], number: signal.Signals, target: str
) -> None:
    """It has no handler of this package, and after SIGKILL nothing of it runs."""
    process = start(OBTAIN, *obtain_arguments(toy_unit(target), source_tree), **endless)
    wait_for(lambda: compilers_of(tmp_path), 60)
    process.send_signal(number)
    assert process.wait(AT_ONCE) == -number
    wait_for(lambda: not any(map(is_running, compilers_of(tmp_path))), AT_ONCE)
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    process.stderr.close()


def test_who_waits_for_another_builder_ends_at_once_too(
    source_tree: SourceTree, tmp_path: Path, endless: dict[str, str]
) -> None:
    told = """
from aiterlite.jit import locks
acquire = locks._acquire
def tell(*arguments):
    open(sys.argv[3], "w").close()
    return acquire(*arguments)
locks._acquire = tell
"""
    builder = start(OBTAIN, *obtain_arguments(UNIT, source_tree), **endless)
    wait_for(lambda: compilers_of(tmp_path), 60)
    waiter = start(
        told + BUILD, json.dumps([UNIT.to_json()]), str(source_tree.root), str(tmp_path / "waits"), **endless
    )
    wait_for(lambda: (tmp_path / "waits").exists(), 60)
    waiter.send_signal(signal.SIGTERM)
    began = time.monotonic()
    waiter.communicate(timeout=AT_ONCE)
    assert time.monotonic() - began < AT_ONCE and waiter.returncode == 128 + signal.SIGTERM
    assert all(map(is_running, compilers_of(tmp_path)))
    builder.kill()
    builder.communicate()


# Failures -------------------------------------------------------------------------------------------------------------


def test_every_waiter_gets_the_builder_s_error_at_once(source_tree: SourceTree, tmp_path: Path) -> None:
    edit(source_tree, "csrc/toy/toy.hip", "out[0] =", "first_problem;\nout[0] =")
    wrapper = slow_compiler(tmp_path / "wrapper", 1.0)
    results = results_of(
        at_once(PROCESSES, catching(OBTAIN), source_tree, tmp_path / "go", AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    )
    assert wrapper.compiles() == 1
    assert {result["type"] for result in results} == {"BuildError"}
    assert len({result["text"] for result in results}) == 1 and "first_problem" in results[0]["text"]
    ended = [result["at"] for result in results]
    assert max(ended) - min(ended) < AT_ONCE


BROKEN = "first_problem;\nout[0] ="


def broken(tree: SourceTree, tmp_path: Path, said: str = "") -> tuple[Wrapper, dict[str, str]]:
    """A unit that does not compile, by what its source has, or by what a compiler says that ends with status 1."""
    if not said:
        edit(tree, "csrc/toy/toy.hip", "out[0] =", BROKEN)
    before = f"echo '{said}'; exit 1" if said else ""
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", before=before)
    return wrapper, {"AITERLITE_AMDGPU_CLANG": str(wrapper.path), "AITERLITE_LOG": "info"}


def test_a_failed_build_is_remembered_by_every_process(source_tree: SourceTree, tmp_path: Path) -> None:
    wrapper, changes = broken(source_tree, tmp_path)
    arguments = obtain_arguments(UNIT, source_tree)
    first = child(catching(OBTAIN), *arguments, **changes)
    code = catching(OBTAIN) + "result['seconds'] = time.time() - started\n"
    ranks = [child(f"started = time.time()\n{code}", *arguments, **changes) for _ in range(2)]
    assert wrapper.compiles() == 1
    assert {rank["result"]["text"] for rank in ranks} == {first["result"]["text"]}
    assert first["result"]["type"] == "BuildError" and "first_problem" in first["result"]["text"]
    assert all(rank["result"]["seconds"] < 2 for rank in ranks)
    for rank in ranks:
        assert "failed to build on 20" in rank["stderr"] and "aiterlite build --retry" in rank["stderr"]
    assert "not compiled again" not in first["stderr"]


def test_a_remembered_failure_costs_no_compile_in_the_same_process(source_tree: SourceTree, tmp_path: Path) -> None:
    wrapper, changes = broken(source_tree, tmp_path)
    with envs.override(**changes):
        texts = set()
        for _ in range(3):
            with pytest.raises(BuildError) as caught:
                obtain(UNIT, tree=source_tree)
            texts.add(str(caught.value))
        assert len(texts) == 1 and wrapper.compiles() == 1
        began = time.monotonic()
        with pytest.raises(BuildError):
            obtain(UNIT, tree=source_tree)
        assert time.monotonic() - began < 1  # what a compile takes at least, and mostly a fiftieth of that
        with pytest.raises(BuildError):
            obtain(UNIT, tree=source_tree, retry=True)
        assert wrapper.compiles() == 2


def test_what_changed_is_compiled_again(source_tree: SourceTree, tmp_path: Path) -> None:
    """A header that may or may not be read, a source, the compiler; and what was repaired is forgotten."""
    wrapper, changes = broken(source_tree, tmp_path)

    def fails() -> int:
        with envs.override(**changes), pytest.raises(BuildError):
            obtain(UNIT, tree=source_tree)
        return wrapper.compiles()

    assert (fails(), fails()) == (1, 1)
    (source_tree.include / "aiterlite" / "other.h").write_text("// new\n")
    assert (fails(), fails()) == (2, 2)
    edit(source_tree, "csrc/toy/toy.hip", "first_problem", "second_problem")
    assert (fails(), fails()) == (3, 3)
    other = wrap_compiler("amd", tmp_path / "other", before=": another compiler")
    changes["AITERLITE_AMDGPU_CLANG"] = str(other.path)
    assert fails() == 3 and other.compiles() == 1
    edit(source_tree, "csrc/toy/toy.hip", "second_problem;\n", "")
    with envs.override(**changes):
        assert obtain(UNIT, tree=source_tree).built


@pytest.mark.parametrize(
    "said",
    [
        "toy.hip:3:1: error: x\nKilled",
        "toy.hip:3:1: fatal error: missing.h: No such file or directory",
        "toy.hip:3:1: error: x\nNo space left on device",
        "toy.hip:3:1: error: x\nResource temporarily unavailable",
        "clang: error: unable to execute command: Segmentation fault",
        "it did not say why",
    ],
)
def test_what_may_pass_is_not_remembered(source_tree: SourceTree, tmp_path: Path, said: str) -> None:
    wrapper, changes = broken(source_tree, tmp_path, said)
    with envs.override(**changes):
        for count in (1, 2):
            with pytest.raises(BuildError):
                obtain(UNIT, tree=source_tree)
            assert wrapper.compiles() == count


def test_a_timeout_is_not_remembered(source_tree: SourceTree, tmp_path: Path) -> None:
    wrapper = slow_compiler(tmp_path / "wrapper", 60)
    with envs.override(AITERLITE_AMDGPU_CLANG=str(wrapper.path), AITERLITE_BUILD_TIMEOUT="0.3"):
        for count in (1, 2):
            with pytest.raises(BuildTimeoutError):
                obtain(UNIT, tree=source_tree)
            assert wrapper.compiles() == count


def test_build_takes_retry(
    source_tree: SourceTree, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrapper, changes = broken(source_tree, tmp_path)
    monkeypatch.setattr(engine, "package_tree", lambda: source_tree)
    words = ["build", "--json", "--unit", json.dumps(UNIT.to_json())]
    with envs.override(**changes):
        assert [main(words), main(words), wrapper.compiles()] == [1, 1, 1]
        assert [main([*words, "--retry"]), wrapper.compiles()] == [1, 2]
    assert "first_problem" in capsys.readouterr().out


def test_a_later_process_tries_again(source_tree: SourceTree, tmp_path: Path) -> None:
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", before=f'[ -e "{tmp_path}/repaired" ] || exit 1')
    arguments, changes = obtain_arguments(UNIT, source_tree), {"AITERLITE_AMDGPU_CLANG": str(wrapper.path)}
    assert child(catching(OBTAIN), *arguments, **changes)["result"]["type"] == "BuildError"
    (tmp_path / "repaired").touch()
    assert child(OBTAIN, *arguments, **changes)["result"]["built"]


def test_waiters_of_a_timed_out_build_get_its_time_out(source_tree: SourceTree, tmp_path: Path) -> None:
    wrapper = slow_compiler(tmp_path / "wrapper", 60)
    results = results_of(
        at_once(
            3,
            catching(OBTAIN),
            source_tree,
            tmp_path / "go",
            AITERLITE_AMDGPU_CLANG=str(wrapper.path),
            AITERLITE_BUILD_TIMEOUT="1",
        )
    )
    assert wrapper.compiles() == 1
    assert {result["type"] for result in results} == {"BuildTimeoutError"}


@pytest.mark.parametrize(
    "record",
    ["", "5", '{"time": 1e18, "type": "SystemExit", "arguments": ["x"]}', "[" * 100000],
    ids=lambda text: text[:20],
)
def test_a_spoiled_record_of_a_failure_is_ignored(source_tree: SourceTree, record: str) -> None:
    edit(source_tree, "csrc/toy/toy.hip", "out[0] =", "first_problem;\nout[0] =")
    arguments = obtain_arguments(UNIT, source_tree)
    assert child(catching(OBTAIN), *arguments)["result"]["type"] == "BuildError"
    (path,) = (open_store().writable.root / "failed").glob("*.json")
    path.write_text(record)
    assert "first_problem" in child(catching(OBTAIN), *arguments)["result"]["text"]


def test_a_failure_of_a_clock_ahead_blocks_nobody(source_tree: SourceTree, tmp_path: Path) -> None:
    """A cache shared between machines, or a clock that was set back: the next call tries again all the same."""
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", before=f'[ -e "{tmp_path}/repaired" ] || exit 1')
    arguments, changes = obtain_arguments(UNIT, source_tree), {"AITERLITE_AMDGPU_CLANG": str(wrapper.path)}
    ahead = "real = time.time\ntime.time = lambda: real() + 1e6\n"
    assert child(ahead + catching(OBTAIN), *arguments, **changes)["result"]["type"] == "BuildError"
    (tmp_path / "repaired").touch()
    assert child(OBTAIN, *arguments, **changes)["result"]["built"]


def test_who_waits_too_long_learns_who_builds(
    source_tree: SourceTree, tmp_path: Path, hanging: tuple[Wrapper, Path]
) -> None:
    wrapper, pid = hanging
    arguments = obtain_arguments(UNIT, source_tree)
    builder = start(OBTAIN, *arguments, AITERLITE_AMDGPU_CLANG=str(wrapper.path))
    wait_for(lambda: pid.exists() and pid.read_text().strip())
    changes = {"AITERLITE_AMDGPU_CLANG": str(wrapper.path), "AITERLITE_LOCK_TIMEOUT": "0.5"}
    result = child(catching(OBTAIN), *arguments, **changes)["result"]
    assert result["type"] == "LockTimeoutError" and 0.5 <= result["waited"] < 3
    assert f"process {builder.pid} on {socket.gethostname()}" in result["text"]
    assert UNIT.label in result["text"] and ".lock" in result["text"] and "AITERLITE_LOCK_TIMEOUT" in result["text"]
    os.killpg(builder.pid, signal.SIGKILL)
    builder.communicate()


# Prebuilding ----------------------------------------------------------------------------------------------------------


def test_the_command_of_a_miss_builds_what_was_missing() -> None:
    """As it is, in the environment in which the miss was met."""
    persona = resolve("mi308x")
    problem = gemm.GemmProblem(2, 96, 512)
    unit = gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))
    with envs.override(AITERLITE_JIT="require-cache"):
        with pytest.raises(MissingArtifactError) as caught:
            obtain(unit)
        subprocess.run(caught.value.command, shell=True, check=True, env=environment(AITERLITE_JIT="require-cache"))
        assert not obtain(unit).built


# An unusual locale ----------------------------------------------------------------------------------------------------

ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("target", ["gfx942", pytest.param(HOST_TARGET, marks=pytest.mark.torch)])
def test_names_and_errors_survive_an_ascii_locale(tmp_path: Path, target: str) -> None:
    tree = SourceTree(tmp_path / "tr\u00e9e \u6a21")
    shutil.copytree(TOY_TREE, tree.root)
    unit, changes = toy_unit(target), {**ASCII, "AITERLITE_CACHE_DIR": str(tmp_path / "c\u00e4che")}
    text = "import os, pathlib\nsys.argv[2] = os.fsdecode(os.fsencode(sys.argv[2]))\n"
    assert child(text + OBTAIN, *obtain_arguments(unit, tree), **changes)["result"]["built"]
    with open(tree.root / unit.sources[0], "a", encoding="utf-8") as source:
        source.write("int problem = \u6a21\u6a21;\n")
    result = child(text + catching(OBTAIN), *obtain_arguments(unit, tree), **changes)["result"]
    assert result["type"] == "BuildError" and "error" in result["text"]
    assert "\u6a21\u6a21" in result["text"] or "\\U00006a21" in result["text"]


# Locks ----------------------------------------------------------------------------------------------------------------


def test_a_lock_s_owner_file_goes_with_the_lock(cache_dir: Path) -> None:
    from aiterlite.jit import locks

    root = open_store().prepare()
    path = root / "locks" / "x.lock"
    with locks.build_lock(root / "locks", "x", "a unit") as held:
        assert held and f"process {os.getpid()} on " in locks.describe_owner(path)
    assert locks.describe_owner(path) == "an unknown process"
    for text in ("", "{", "[]", '{"pid": 1}', '{"pid": 1, "host": "h", "since": "x"}'):
        path.with_suffix(".owner").write_text(text)
        assert locks.describe_owner(path) == "an unknown process"
        with locks.build_lock(root / "locks", "x", "a unit") as held:
            assert held


def test_the_cache_may_vanish_during_a_build(source_tree: SourceTree, cache_dir: Path, tmp_path: Path) -> None:
    """Somebody clears the cache: an error of this package, or a success, and the next call is right."""
    wrapper = wrap_compiler("amd", tmp_path / "wrapper", after=f'/bin/mv "{cache_dir}" "{tmp_path}/away"')
    result = child(catching(OBTAIN), *obtain_arguments(UNIT, source_tree), AITERLITE_AMDGPU_CLANG=str(wrapper.path))[
        "result"
    ]
    assert result.get("type", "none") in ("none", "BuildError", "SourceError", "CacheDirectoryError"), result
    envs.reload()
    assert obtain(UNIT, tree=source_tree).data


def test_children_report_what_they_start(source_tree: SourceTree) -> None:
    """The audit that other tests rely on sees a cold build's processes."""
    report = child(OBTAIN, *obtain_arguments(UNIT, source_tree))
    assert report["result"]["built"] and len(report["started"]) >= 2
    assert all(event == "subprocess.Popen" for event, _ in report["started"])
    assert json.dumps(report)
