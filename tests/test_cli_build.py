"""`aiterlite build`: which units it chooses, and what it does with them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import PLAIN_HEADER, edit, plain_unit, publish_fake, toy_unit

from aiterlite import envs, target
from aiterlite.cli import build, main, plan, words
from aiterlite.errors import BundleError
from aiterlite.jit import engine, record, sources, toolchain
from aiterlite.jit.record import Manifest
from aiterlite.jit.sources import SourceTree
from aiterlite.jit.spec import Unit
from aiterlite.jit.store import Store, open_store
from aiterlite.kernel import launch_unit
from aiterlite.tables import gemm, gemm_fp8, gemm_rc

needs_amdgpu_clang = pytest.mark.skipif(toolchain.find("amd") is None, reason=toolchain.how_to_get("amd"))
Run = Callable[..., tuple[int, Any, str]]


@pytest.fixture
def run(cache_dir: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs `build` with --json; gives the exit status, the data and what came on standard error."""

    def build(*argv: str) -> tuple[int, Any, str]:
        code = main(["build", "--json", *argv])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return build


def device(name: str, n: int, m: int = 256, k: int = 7168, dtype: str = "bf16") -> Unit:
    persona, problem = target.resolve(name), gemm.GemmProblem(n, m, k, dtype, aligned=k % 8 == 0)
    return gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))


def scaled(name: str, n: int, m: int) -> Unit:
    persona, problem = target.resolve(name), gemm_fp8.ScaledGemmProblem(n, m, 7168)
    return gemm_fp8.device_unit(problem, persona, gemm_fp8.plan(problem, persona))


def reducing(name: str, n: int, m: int) -> Unit:
    persona, problem = target.resolve(name), gemm_rc.RcProblem(n, m, 7168)
    return gemm_rc.device_unit(problem, persona, gemm_rc.plan_wv_split_krc(problem, persona))


def launcher() -> Unit:
    return launch_unit()


def unit_words(*units: Unit) -> list[str]:
    return [word for unit in units for word in ("--unit", json.dumps(unit.to_json()))]


# Which units ----------------------------------------------------------------------------------------------------------


def chosen(*names: str, ops: str = "", shape: str = "") -> plan.Plan:
    personas = [target.resolve(name) for name in names]
    return plan.from_problems(ops.split(), personas, words.read(shape.split()))


R1 = "m:k=256:7168,2112:7168 n=1,4,16"


def test_the_default_operators_and_problems_are_those_of_the_families() -> None:
    found = set(chosen("gfx942", shape=R1).units)
    expected = {make("gfx942", n, m) for make in (device, scaled) for m in (256, 2112) for n in (1, 4, 16)}
    # `linear` has 16 tokens served by wvSplitKrc here.
    expected |= {reducing("gfx942", 16, m) for m in (256, 2112)}
    assert found == expected | {launcher()}
    assert set(chosen("cpu-x86-64-v3").units) == {gemm.host_unit("cpu-x86-64-v3")}
    shapes, tokens, _ = gemm.SWEEP
    swept = {device("gfx942", n, m, k) for m, k in shapes.values for (n,) in tokens.values}
    assert set(chosen("gfx942", ops="wvSplitK").units) == swept | {launcher()}
    assert set(chosen("gfx942").units) > swept | expected


def test_a_chip_s_compute_units_decide_and_targets_add_up() -> None:
    large: dict[str, Any] = {"ops": "linear", "shape": "m:k=2112:7168 n=1"}
    mi300x, mi308x = set(chosen("mi300x", **large).units), set(chosen("mi308x", **large).units)
    assert mi300x != mi308x and mi300x == set(chosen("gfx942", **large).units)
    assert set(chosen("mi300x", "mi308x", "sm_90", **large).units) == mi300x | mi308x | {
        device("sm_90a", 1, 2112),
        launcher(),
    }


def test_words_choose() -> None:
    shapes, dtypes = [(64, 512), (32, 515)], ["bf16", "fp16"]
    units = set(chosen("gfx950", ops="wvSplitK linear", shape="m:k=64:512,32:515 n=2 dtype=bf16,fp16").units)
    both = {device("gfx950", 2, m, k, dtype) for m, k in shapes for dtype in dtypes}
    assert units == both | {launcher()}
    # Rows of 515 elements cannot all start at 16-byte addresses.
    assert {dict(unit.defines)["AITERLITE_ALIGNED"] for unit in both} == {"0", "1"}


def test_a_word_goes_to_the_operators_that_have_its_field() -> None:
    shape = "m=256 k=7168 n=1 reduction=fast,batch_invariant"
    units = set(chosen("gfx942", ops="wvSplitK linear", shape=shape).units)
    problem = gemm_rc.RcProblem(1, 256, 7168, reduction="batch_invariant")
    persona = target.resolve("gfx942")
    invariant = gemm_rc.device_unit(problem, persona, gemm_rc.plan_wv_split_krc(problem, persona))
    assert units == {device("gfx942", 1), invariant, launcher()}
    assert set(chosen("gfx942", shape="m=256 k=7168 n=1 fp8=e4m3fnuz scale_w=row").units) > {device("gfx942", 1)}


def test_a_call_that_nothing_serves_counts_where_its_operator_was_named() -> None:
    shape = "m=64 k=512 n=129"
    unasked = chosen("gfx942", shape=shape)
    assert unasked.units == {} and unasked.unserved == []
    assert [call.split("(")[0] for call in unasked.torch] == ["wvSplitK", "wvSplitKQ", "linear"]
    named = chosen("gfx942", ops="wvSplitK", shape=shape)
    assert len(named.unserved) == 1 and "no row applies" in named.unserved[0]
    assert chosen("gfx942", ops="linear", shape=shape).unserved == []


def test_the_mode_of_this_process_does_not_change_what_is_chosen() -> None:
    expected = set(chosen("gfx942", shape=R1).units)
    for mode in ("off", "require-cache"):
        with envs.override(AITERLITE_JIT=mode):
            assert set(chosen("gfx942", shape=R1).units) == expected


def manifest(*units: Unit, calls: tuple[dict[str, Any], ...] = ()) -> Manifest:
    recorded = Manifest()
    for unit in units:
        recorded.add_unit(unit)
    for call in calls:
        recorded.add_call(call)
    return recorded


CALL = {"op": "linear", "problem": {"n": 4, "m": 2112, "k": 7168, "dtype": "fp16", "aligned": False}}


def from_manifest(recorded: Manifest, *names: str) -> set[Unit]:
    found = plan.from_manifest(recorded, {name: target.resolve(name) for name in names})
    assert found.unserved == []
    return set(found.units)


def unaligned(name: str) -> Unit:
    persona = target.resolve(name)
    problem = gemm.GemmProblem(**CALL["problem"])  # type: ignore[arg-type]
    return gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))


def test_a_manifest_without_targets_is_built_exactly() -> None:
    units = (device("gfx942", 1), device("sm_90a", 8), launcher(), toy_unit("gfx950"))
    assert from_manifest(manifest(*units, calls=(CALL,))) == set(units)


def test_recorded_units_of_a_target_come_with_what_launches_them() -> None:
    recorded = manifest(device("gfx942", 1), device("sm_90a", 8), launcher(), calls=(CALL,))
    assert from_manifest(recorded, "gfx942") == {device("gfx942", 1), launcher()}
    assert from_manifest(recorded, "gfx942", "sm_90") == {device("gfx942", 1), device("sm_90a", 8), launcher()}


def test_for_a_target_that_was_not_recorded_dispatch_chooses() -> None:
    recorded = manifest(device("gfx942", 1), launcher(), calls=(CALL,))
    assert from_manifest(recorded, "gfx950") == {unaligned("gfx950"), launcher()}
    assert from_manifest(recorded, "cpu-x86-64-v3") == {gemm.host_unit("cpu-x86-64-v3")}


def test_for_a_part_of_a_chip_dispatch_chooses_too() -> None:
    recorded = manifest(device("gfx942", 1), launcher(), calls=(CALL,))
    persona = target.resolve("mi300x:38")
    problem = gemm.GemmProblem(**CALL["problem"])
    own = gemm.device_unit(problem, persona, gemm.plan_wv_split_k(problem, persona))
    for name in ("mi300x:38", "gfx942:38", "MI300X:38"):
        assert from_manifest(recorded, name) == {device("gfx942", 1), own, launcher()}
    assert from_manifest(recorded, "gfx942:xnack-") == {device("gfx942", 1), launcher()}


def test_for_a_chip_that_is_named_dispatch_chooses_too() -> None:
    recorded = manifest(device("gfx942", 1), launcher(), calls=(CALL,))
    assert from_manifest(recorded, "mi308x") == {device("gfx942", 1), unaligned("mi308x"), launcher()}


def test_a_recorded_call_that_nothing_serves_is_told() -> None:
    call = {"op": "wvSplitK", "problem": {"n": 17, "m": 8, "k": 8}}
    found = plan.from_manifest(manifest(calls=(call,)), {"gfx942": target.resolve("gfx942")})
    assert len(found.unserved) == 1


@pytest.mark.parametrize(
    "call",
    [
        {"op": "matmul", "problem": {}},
        {"op": "linear", "problem": {"n": 1}},
        {"op": "linear", "problem": {"n": 1, "m": 1, "k": 1, "q": 1}},
        {"op": "linear", "problem": {"n": 1, "m": 1, "k": "1"}},
        {"op": "linear", "problem": {"n": 1, "m": 1, "k": 1, "bias": 1}},
    ],
)
def test_a_recorded_call_that_no_operator_takes_is_an_error(call: dict[str, Any]) -> None:
    with pytest.raises(BundleError, match="manifest"):
        plan.from_manifest(manifest(calls=(call,)), {"gfx942": target.resolve("gfx942")})


# --check --------------------------------------------------------------------------------------------------------------


def test_check_names_what_is_missing_and_builds_nothing(run: Run, cache_dir: Path, capsys: Any) -> None:
    words = ["--target", "gfx942", "m:k=256:7168", "--ops", "linear", "--check", "n=4"]
    code, data, _ = run(*words)
    assert code == 1 and data["check"]
    assert data["counts"] == {"built": 0, "cached": 0, "missing": 2, "failed": 0}
    assert {item["unit"] for item in data["units"]} == {device("gfx942", 4).label, launcher().label}
    assert all(item["error"] == "no artifact under this key" for item in data["units"])
    assert not cache_dir.exists()
    assert main(["build", *words]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert f"missing: {launcher().label}: no artifact under this key" in lines
    assert lines[-1] == "2 units: 2 missing"
    store, tree = open_store(), sources.package_tree()
    publish_fake(store, launcher(), tree, headers=())
    code, data, _ = run(*words)
    assert code == 1 and data["counts"]["cached"] == 1 and data["counts"]["missing"] == 1
    publish_fake(store, device("gfx942", 4), tree, headers=())
    code, data, _ = run(*words)
    assert code == 0 and {item["result"] for item in data["units"]} == {"cached"}


def test_check_sees_changed_headers_damage_and_what_is_not_to_be_trusted(
    run: Run, toy_store: Store, source_tree: SourceTree
) -> None:
    units = [plain_unit("gfx942"), toy_unit("gfx942"), toy_unit("gfx950"), toy_unit("sm_90a")]
    publish_fake(toy_store, units[0], source_tree, headers=(PLAIN_HEADER,))
    publish_fake(toy_store, units[1], source_tree).path.write_bytes(b"bYtes")
    publish_fake(toy_store, units[2], source_tree).directory.chmod(0o777)
    publish_fake(toy_store, units[3], source_tree)
    edit(source_tree, PLAIN_HEADER, "7", "8")
    code, data, _ = run("--check", *unit_words(*units))
    assert code == 1
    assert [item["result"] for item in data["units"]] == ["missing", "missing", "failed", "cached"]
    errors = [item["error"] for item in data["units"]]
    assert f"{PLAIN_HEADER} changed since" in errors[0]
    assert "sha256" in errors[1] and "mode 777" in errors[2] and errors[3] == ""


def test_check_of_a_manifest(run: Run, toy_store: Store, source_tree: SourceTree, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    record.write(manifest(toy_unit("gfx942"), plain_unit("gfx942")), path)
    publish_fake(toy_store, toy_unit("gfx942"), source_tree)
    code, data, _ = run("--check", "--from", str(path))
    assert code == 1
    assert {item["unit"]: item["result"] for item in data["units"]} == {
        "toy/toy for gfx942": "cached",
        "toy/plain for gfx942": "missing",
    }


def test_a_file_that_is_no_manifest_is_an_error(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "kernels.json"
    for text in ("", "{}", '{"format": "aiterlite-manifest", "schema": 1, "units": [{"name": ".."}], "calls": []}'):
        path.write_text(text)
        code, data, errors = run("--from", str(path))
        assert code == 1 and errors.startswith(f"aiterlite: {path} is no manifest")
        assert data["error"]["message"] == errors.removeprefix("aiterlite: ").removesuffix("\n")
    code, _, errors = run("--from", str(tmp_path / "missing.json"))
    assert code == 1 and "cannot read manifest" in errors


def test_a_manifest_without_units_builds_nothing(run: Run, tmp_path: Path, capsys: Any) -> None:
    record.write(Manifest(), tmp_path / "kernels.json")
    assert main(["build", "--from", str(tmp_path / "kernels.json")]) == 0
    assert capsys.readouterr().out.startswith("0 units: nothing to do")


# Building -------------------------------------------------------------------------------------------------------------


@pytest.mark.compile
@needs_amdgpu_clang
@pytest.mark.parametrize("mode", ["auto", "require-cache", "off"])
def test_it_builds_whatever_the_mode(run: Run, toy_store: Store, monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    monkeypatch.setenv("AITERLITE_JIT", mode)
    envs.reload()
    units = [toy_unit("gfx942"), plain_unit("gfx950")]
    code, data, _ = run(*unit_words(*units))
    assert code == 0 and data["counts"] == {"built": 2, "cached": 0, "missing": 0, "failed": 0}
    for item, unit in zip(data["units"], units, strict=True):
        assert item["unit"] == unit.label and item["size"] > 0 and Path(item["path"]).is_file()
        assert item["resources"][unit.symbols[0]]["vgprs"] > 0
        assert engine.lookup(engine.wanted(unit), toy_store).entry is not None
    code, data, _ = run(*unit_words(*units))
    assert code == 0 and data["counts"]["cached"] == 2


@pytest.mark.compile
@needs_amdgpu_clang
def test_every_failure_is_told_and_the_rest_is_built(run: Run, toy_store: Store, capsys: Any) -> None:
    bad = [toy_unit("gfx942", TOY_FACTOR="no_such_name"), toy_unit("gfx950", TOY_FACTOR="nor_this")]
    units = [bad[0], toy_unit("gfx942"), bad[1]]
    code, data, _ = run("--jobs", "2", *unit_words(*units))
    assert code == 1
    assert [item["result"] for item in data["units"]] == ["failed", "built", "failed"]
    assert "no_such_name" in data["units"][0]["error"] and "nor_this" in data["units"][2]["error"]
    assert main(["build", *unit_words(*units)]) == 1
    text = capsys.readouterr().out
    assert "error: use of undeclared identifier 'no_such_name'" in text and "identifier 'nor_this'" in text
    lines = text.splitlines()
    header = lines[0]
    for line, unit, result in zip(lines[1:4], units, ("failed", "cached", "failed"), strict=True):
        name = line[header.index("unit") : header.index("target")].rstrip()
        assert f"{name} for {line[header.index('target') :].split()[0]}" == unit.label
        assert line[header.index("result") :].split()[0] == result
    assert lines[-1].startswith("3 units: 1 cached, 2 failed; ")


@pytest.mark.compile
@needs_amdgpu_clang
def test_a_missing_compiler_is_one_failure_with_advice(
    run: Run, toy_store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AITERLITE_NVCC", "/nonexistent/nvcc")
    envs.reload()
    code, data, _ = run(*unit_words(toy_unit("sm_90a"), toy_unit("gfx942")))
    assert code == 1 and [item["result"] for item in data["units"]] == ["failed", "built"]
    assert "CUDA_HOME" in data["units"][0]["error"]


def test_jobs_limit_what_runs_at_once(
    run: Run, toy_store: Store, source_tree: SourceTree, monkeypatch: pytest.MonkeyPatch
) -> None:
    units = [toy_unit("gfx942", TOY_FACTOR=str(factor)) for factor in range(6)]
    entry = publish_fake(toy_store, units[0], source_tree)
    lock, running, most = threading.Lock(), 0, 0
    meeting = threading.Barrier(3)

    def act(unit: Unit) -> build.Outcome:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        # Passes only while three of them run at the same time.
        meeting.wait(20)
        with lock:
            running -= 1
        return build.Outcome("built", entry=entry)

    monkeypatch.setattr(build, "_build", act)
    code, data, _ = run("--jobs", "3", *unit_words(*units))
    assert (code, data["jobs"], most) == (0, 3, 3)
    assert [item["unit"] for item in data["units"]] == [unit.label for unit in units]


@pytest.mark.installed
@pytest.mark.compile
@needs_amdgpu_clang
@pytest.mark.torch
def test_a_gpu_target_comes_with_what_launches_its_kernels(run: Run) -> None:
    words = ["--target", "gfx942", "--ops", "linear", "m:k=256:7168", "n=4"]
    code, data, _ = run(*words)
    assert code == 0, data
    assert [(item["name"], item["target"], item["result"]) for item in data["units"]] == [
        ("gemm/wv_split_k", "gfx942", "built"),
        ("launch", launcher().target, "built"),
    ]
    assert "linear(n=4, m=256, k=7168" in data["units"][1]["asked_by"][0]
    assert run(*words, "--check")[0] == 0


@pytest.mark.installed
@pytest.mark.compile
@pytest.mark.nvcc
@pytest.mark.torch
def test_hopper_s_kernels_come_with_what_launches_them(run: Run) -> None:
    words = ["--target", "sm_90", "--ops", "wvSplitK", "m=256", "k=7168", "n=4"]
    code, data, _ = run(*words)
    assert code == 0, data
    built = {(item["name"], item["target"]) for item in data["units"] if item["result"] == "built"}
    assert built == {("gemm/wv_split_k", "sm_90a"), ("launch", launcher().target)}
