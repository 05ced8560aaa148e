"""What a server of a model can reach is planned without running it, and is what a run of it calls. L1 and L2."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import deepseek_cases as cases  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import envs, norm, target  # noqa: E402
from aiterlite.cli import main, plan  # noqa: E402
from aiterlite.errors import ArgumentError, DispatchError  # noqa: E402
from aiterlite.jit import record  # noqa: E402
from aiterlite.models import deepseek  # noqa: E402
from aiterlite.models.deepseek import plan as models  # noqa: E402
from aiterlite.tables.mla_context import CONTEXTS  # noqa: E402

MOST, CHUNK, BATCH, PAGE = 24, 4, 3, 4
TINY = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128, "vocab_size": 64}
Run = Callable[..., tuple[int, Any, str]]


def fields(**changed: Any) -> dict[str, Any]:
    return cases.fields(**TINY, max_position_embeddings=MOST, **changed)


def server(given: dict[str, Any], **options: Any) -> models.Server:
    """One that is small enough to be run in every way that it can be."""
    small = {"max_batch": BATCH, "chunk": CHUNK, "page_size": PAGE}
    return models.Server(deepseek.Config.read(given), **{**small, **options})


def labels(given: models.Server, name: str) -> set[str]:
    """The units of a server on a target."""
    return {unit.label for decision in models.everything(given, name).decisions for unit in decision.units}


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*argv: str) -> tuple[int, Any, str]:
        code = main([argv[0], "--json", *argv[1:]])
        captured = capsys.readouterr()
        return code, json.loads(captured.out) if captured.out else None, captured.err

    return command


@pytest.fixture
def config(tmp_path: Path) -> str:
    (tmp_path / "config.json").write_text(json.dumps(fields()))
    return str(tmp_path)


def test_a_plan_holds_every_context_and_a_rank_s_share() -> None:
    given = {**fields(n_routed_experts=16, num_attention_heads=32), "max_position_embeddings": 1000}
    two = server(given, tensor_parallel=2, expert_parallel=2, max_batch=2, chunk=1)
    found = models.everything(two, "mi300x").decisions
    attended = [d.problem for d in found if d.op == "mla_decode_fwd"]
    expected = [context for context in CONTEXTS if context < 1000] + [1024]
    assert sorted({problem.context for problem in attended}) == expected
    assert {(p.batch, p.heads) for p in attended} == {(1, 16), (2, 16)}
    layers = {(d.problem.experts, d.problem.global_experts, d.problem.masked) for d in found if d.op == "fused_moe"}
    assert layers == {(8, 16, True)}
    parts = models.everything(server(given, tensor_parallel=2, max_batch=1, chunk=1), "mi300x").decisions
    layers = {(d.problem.experts, d.problem.inter, d.problem.masked) for d in parts if d.op == "fused_moe"}
    # The shared expert is one more of them.
    assert layers == {(17, 64, False)}
    assert {d.problem.m for d in found if d.op == "linear"} > {32}  # half of the vocabulary


def test_kinds_of_layers_and_targets_are_told_apart() -> None:
    given = fields(first_k_dense_replace=0)
    sparse = models.everything(server(given, max_batch=1), "h200").decisions
    assert {d.problem.shuffled for d in sparse if d.op == "fused_moe"} == {True}
    dense = models.everything(server(fields(first_k_dense_replace=2), max_batch=1, chunk=1), "cpu").decisions
    assert "fused_moe" not in {d.op for d in dense}
    scaled = server({**given, "quantization_config": cases.FP8}, max_batch=1, chunk=1)
    for name, flavour in (("mi300x", "e4m3fnuz"), ("mi355x", "e4m3fn")):
        found = models.everything(scaled, name)
        assert not found.unserved
        assert {d.problem.fp8 for d in found.decisions if d.op == "gemm_a8w8_blockscale"} == {flavour}


def test_attention_may_be_planned_over_latents_of_8_bits() -> None:
    given = server(fields(), max_batch=2, chunk=1, persistent=True, kv_cache="fp8")
    for name, flavour in (("mi300x", "e4m3fnuz"), ("h200", "e4m3fn")):
        found = models.everything(given, name)
        attended = [d.problem for d in found.decisions if d.op == "mla_decode_fwd"]
        assert not found.unserved and attended
        assert all(problem.plan_units > 0 and problem.kv_dtype == flavour for problem in attended)
        assert {d.problem.batch for d in found.decisions if d.op == "mla_plan"} == {1, 2}


@pytest.mark.parametrize("name", ["mi300x", "mi355x", "h200", "cpu"])
def test_models_of_mxfp4_are_planned(name: str) -> None:
    """Both published layouts: attention's projections too, or not."""
    dense, attention = {(128, 128), (128, 64)}, {(704, 128), (1536, 128), (128, 1024)}
    for exclude, products in (((), dense | attention), (("*self_attn*",), dense)):
        given = {**fields(), "quantization_config": cases.quark(*exclude)}
        two = server(given, tensor_parallel=2, max_batch=1, chunk=1)
        found = models.everything(two, name)
        assert not found.unserved
        layers = {(d.problem.quant, d.problem.precision, d.problem.inter, d.problem.shuffled) for d in found.decisions
                  if d.op == "fused_moe"}  # fmt: skip
        assert layers == {("mxfp4", "a4w4", 64, name != "cpu")}
        assert {(d.problem.m, d.problem.k) for d in found.decisions if d.op == "gemm_mxfp4"} == products


@pytest.mark.parametrize("count", [0, 1 << 40])
def test_a_server_of_no_or_endless_requests_is_refused(count: int) -> None:
    for name in ("max_batch", "chunk", "page_size", "tensor_parallel"):
        with pytest.raises(ArgumentError, match=rf"`{name}` is {count}; allowed: 1 to 65536"):
            server(fields(), **{name: count})


def test_planning_leaves_no_trace(tmp_path: Path) -> None:
    with aiterlite.recording(tmp_path / "run.json") as manifest:
        models.everything(server(fields(), max_batch=1, chunk=1), "mi300x")
    assert manifest.calls == {} and manifest.units == {}
    with pytest.raises(TypeError), models.Planner():
        raise TypeError
    # Calls are decided as ever again.
    with envs.override(AITERLITE_JIT="off"), pytest.raises(DispatchError, match="AITERLITE_JIT=off"):
        norm.rms_norm(torch.ones(1, 8, dtype=torch.bfloat16), torch.ones(8, dtype=torch.bfloat16), 0.0)


def test_build_takes_a_model(run: Run, config: str, cache_dir: Path) -> None:
    options = ["--model", config, "--target", "mi300x,cpu", "--max-batch", "2", "--chunk", "2"]
    code, data, _ = run("build", *options, "--check")
    two = server(fields(), max_batch=2, chunk=2, page_size=16)
    expected = labels(two, "mi300x") | labels(two, "cpu")
    assert {item["unit"] for item in data["units"]} == expected
    assert code == 1 and data["counts"]["missing"] == len(expected)
    asked = {item["name"]: item["asked_by"] for item in data["units"]}
    assert asked["fused_moe/few_tokens"][0].startswith("mi300x: fused_moe x ")


def test_a_recorded_run_is_held_against_the_plan(run: Run, config: str, tmp_path: Path, cache_dir: Path) -> None:
    manifest = record.Manifest()
    for decision in models.everything(server(fields(), max_batch=6, chunk=2), "mi300x").decisions:
        for unit in decision.units:
            manifest.add_unit(unit)
    path = tmp_path / "run.json"
    record.write(manifest, path)
    options = ["--model", config, "--chunk", "2", "--check", "--from", str(path), "--target"]
    code, data, _ = run("build", *options, "mi300x", "--max-batch", "6")
    assert (code, data["unplanned"], data["unused"]) == (0, [], [])
    # A server of fewer requests at once has kernels for few tokens only.
    code, data, _ = run("build", *options, "mi300x", "--max-batch", "1")
    fewer = labels(server(fields(), max_batch=1, chunk=2), "mi300x")
    assert data["unplanned"] and set(data["unplanned"]) == {unit.label for unit in manifest.units.values()} - fewer
    assert code == 1
    assert run("build", *options, "h200")[0] == 2  # the run was on no such GPU
    assert run("build", "--model", config, "--from", str(path))[0] == 2


def test_explain_shows_a_layer(run: Run, config: str) -> None:
    code, data, _ = run("explain", "--model", config, "--target", "mi300x,cpu", "--batch", "2", "--context", "16")
    first, second = data["models"]
    calls = {call["operator"]: call for call in first["calls"]}
    attention = calls["mla_decode_fwd"]
    # Latents of two requests, q and o of 16 heads, indices.
    expected = 2 * 16 * 576 * 2 + 2 * 16 * (576 + 512) * 2 + 4 * (3 + 3 + 2 + 2)
    assert code == 0 and attention["bytes"] == expected
    assert attention["floor_us"] == pytest.approx(expected / 5.3e6, rel=1e-3)
    assert "mla_decode_bf16" in attention["kernel"] and "not mfma: " in attention["why"]
    # Of 8 experts with 2 for each token, 1 - (3/4)^2 on average.
    # 8 routed experts as often as they are chosen, and the shared one.
    weights = 3 * (8 * (1 - 0.75**2) + 1) * 128 * 128 * 2
    assert calls["fused_moe"]["bytes"] == pytest.approx(weights, rel=0.01)
    assert calls["embedding"]["kernel"] == "torch"
    assert second["persona"] == str(target.host_persona()) and second["calls"][0]["floor_us"] is None


@pytest.mark.parametrize(
    "words, said",
    [
        (["build", "--tp", "2"], "--tp is of a model"),
        (["build", "--model", "{}", "--tp", "3"], "num_attention_heads, 16"),
        (["build", "--model", "{}", "--tp", "4", "--ep", "2"], "as many as tensor_parallel"),
        (["build", "--model", "{}", "--drafts"], "num_nextn_predict_layers is 0"),
        (["build", "--model", "{}", "--ops", "linear"], "give one of"),
        (["build", "--model", "nowhere"], "nowhere"),
        (["explain", "--model", "{}", "linear"], "leave out 'linear'"),
        (["explain", "--model", "{}", "--context", "25"], "1 to max_position_embeddings, 24"),
    ],
)
def test_what_is_no_server_is_told(words: list[str], said: str, config: str, run: Run) -> None:
    code, data, _ = run(*(word.replace("{}", config) for word in words))
    assert code == 2 and said in data["error"]["message"]


def test_a_recorded_call_is_another_one_on_another_target() -> None:
    """A run on this CPU, built for GPUs: floats of the target, weights in its order, its splits."""
    scaled = server({**fields(), "quantization_config": cases.FP8}, max_batch=2, chunk=2)
    manifest = record.Manifest()
    for decision in models.everything(scaled, "cpu").decisions:
        manifest.add_call({"op": decision.op, "problem": asdict(decision.problem)})
        for unit in decision.units:
            manifest.add_unit(unit)
    for name in ("gfx942", "gfx950", "sm_90a"):
        todo = plan.from_manifest(manifest, {name: target.resolve(name)})
        there = {unit for decision in models.everything(scaled, name).decisions for unit in decision.units}
        assert there - set(todo.units) == set()
        assert todo.unserved == []
