"""The DeepSeek decoder: its logits are transformers', whatever weights, chunks, ranks and neighbours it has. L2."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch")

import deepseek_cases as cases  # noqa: E402
from support import finish, start  # noqa: E402
from torch_threads import threads  # noqa: E402

import aiterlite  # noqa: E402
from aiterlite import demo, envs  # noqa: E402
from aiterlite.cli import main  # noqa: E402
from aiterlite.emulator import library, use_library  # noqa: E402
from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.kernel import launch_unit  # noqa: E402
from aiterlite.models import deepseek  # noqa: E402
from aiterlite.models.deepseek import plan  # noqa: E402

pytestmark = pytest.mark.compile

# What is measured is 0.003, and a page's last token left out makes 0.0079 of it.
AGREEMENT, DIFFERENCE, QUANTISED = 0.99, 0.006, 0.02
# Each rank rounds its part of a sum.
RANKED = 0.01
# Hidden states of 4 bits: 0.07 is measured against the dequantised model.
MXFP4 = 0.1
# How the second story's model was served.
STORY: dict[str, Any] = {"kv_cache": "fp8", "persistent": True}
PROMPT, DECODED, CHUNK = 100, 32, 48

# Another model of the family: no low-rank queries, no yarn, halves as pairs, weights of experts as they are.
OTHER = {
    "q_lora_rank": None,
    "rope_scaling": None,
    "rope_interleave": False,
    "norm_topk_prob": False,
    "routed_scaling_factor": 1.0,
    "first_k_dense_replace": 0,
    "n_shared_experts": 2,
    "n_group": 1,
    "topk_group": 1,
}

SMALL = {"hidden_size": 128, "intermediate_size": 128, "moe_intermediate_size": 128, "vocab_size": 64}

# A process that imports torch once, and forks the ranks.
GROUPS = (2, 4, 8)
PARENT = """
sys.path[:0] = [sys.argv[1]]
import multiprocessing
import torch
torch.set_num_threads(1)
import test_models_deepseek as shared
fork = multiprocessing.get_context("fork")
for ranks in shared.GROUPS:
    running = [fork.Process(target=shared.rank_of, args=(rank, ranks, sys.argv[2])) for rank in range(ranks)]
    for process in running:
        process.start()
    for process in running:
        process.join()
    assert not any(process.exitcode for process in running)
result = 0
"""


def model_of(fields: dict[str, Any], weights: dict[str, Any], **options: Any) -> deepseek.DeepSeek:
    return deepseek.load("", weights=weights, config=deepseek.Config.read(fields), **{"chunk": CHUNK, **options})


def teacher_forced(model: deepseek.DeepSeek, tokens: list[int], prompt: int = PROMPT) -> Any:
    """Logits of what follows each token, the first `prompt` by prefill, the others each by a decode step."""
    request = deepseek.Request()
    logits = [model.prefill(request, tokens[:prompt], every=True)]
    logits += [model.decode([request], [token]) for token in tokens[prompt:]]
    model.cache.release(request)
    return torch.cat(logits)


def hold(logits: Any, expected: Any, difference: float = DIFFERENCE, agreement: float = AGREEMENT) -> None:
    agreed, apart = cases.distance(logits, expected)
    assert agreed >= agreement and apart <= difference, f"top-1 {agreed:.4f}, log-probabilities {apart:.5f} apart"


def written(folder: Path, fields: dict[str, Any], weights: dict[str, Any]) -> Path:
    safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")
    (folder / "config.json").write_text(json.dumps(fields))
    safetensors.save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.mark.parametrize("changed", [{}, OTHER], ids=["r1", "other"])
def test_logits_are_those_of_transformers(changed: dict[str, Any], tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    fields = cases.fields(**changed)
    folder = written(tmp_path, fields, cases.weights(fields, 4))
    (tokens,) = cases.prompts(PROMPT + DECODED, seed=5)
    with threads(1):
        theirs = transformers.DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        with torch.inference_mode():
            expected = theirs(torch.tensor([tokens])).logits[0]
        logits = teacher_forced(deepseek.load(folder, chunk=CHUNK), tokens)
    hold(logits[:PROMPT], expected[:PROMPT])
    hold(logits[PROMPT:], expected[PROMPT:])


def test_block_scales_are_those_of_the_dequantised_model() -> None:
    fields = cases.fields()
    codes, plain = cases.quantised(cases.weights(fields, 3))
    (tokens,) = cases.prompts(PROMPT + DECODED, seed=4)
    with threads(1):
        expected = teacher_forced(model_of(fields, plain), tokens)
        logits = teacher_forced(model_of({**fields, "quantization_config": cases.FP8}, codes), tokens)
    hold(logits, expected, QUANTISED, 0.97)


def test_a_cache_of_8_bits_says_nearly_the_same() -> None:
    fields = cases.fields()
    weights = cases.weights(fields, 4)
    (tokens,) = cases.prompts(PROMPT + DECODED, seed=5)
    with threads(1):
        expected = teacher_forced(model_of(fields, weights), tokens)
        model = model_of(fields, weights, kv_cache="fp8")
        logits = teacher_forced(model, tokens)
    assert model.cache.latents.dtype == torch.float8_e4m3fn
    hold(logits, expected, QUANTISED, 0.97)
    assert cases.distance(logits, expected)[1] > 0
    with pytest.raises(ArgumentError, match="`kv_cache`"):
        model_of(fields, weights, kv_cache="int4")


def test_planned_attention_says_the_same() -> None:
    """Of requests of several lengths, with drafts and without; a plan is of all of a step."""
    fields = cases.fields(num_nextn_predict_layers=1)
    weights, prompts = cases.weights(fields, 4), cases.prompts(9, 60, 33)
    (tokens,) = cases.prompts(PROMPT + DECODED, seed=5)
    with threads(1):
        model = model_of(fields, weights, drafts=True)
        planned = model_of(fields, weights, drafts=True, persistent=True)
        hold(teacher_forced(planned, tokens)[PROMPT:], teacher_forced(model, tokens)[PROMPT:])
        expected = model.generate(prompts, 8)
        assert planned.generate(prompts, 8) == expected
        assert deepseek.generate_with_drafts(planned, prompts, 8).tokens == expected
    with pytest.raises(ArgumentError, match="`persistent`"):
        model_of(fields, weights, persistent=True, batch_invariant=True)


def test_mxfp4_is_that_of_the_dequantised_model() -> None:
    """With hidden states as they are, and as MXFP4 too; with attention's projections, and with these left out; with
    planned attention over a cache of 8 bits."""
    fields = cases.fields()
    weights, (tokens,) = cases.weights(fields, 3), cases.prompts(PROMPT + 8, seed=4)
    for attention, exclude in ((True, ()), (False, ("*self_attn*", "re:model.layers.9"))):
        with threads(1):
            codes, plain = cases.mxfp4_of(weights, attention)
            expected = teacher_forced(model_of(fields, plain), tokens)
            model = model_of({**fields, "quantization_config": cases.quark(*exclude)}, codes)
            assert (model.layers[0].attention.out.scale is not None) == attention
            if attention:
                hold(teacher_forced(model, tokens), expected, MXFP4)
            with envs.override(AITERLITE_MXFP4_ACTIVATIONS="bf16"):
                hold(teacher_forced(model, tokens), expected)
                if attention:
                    served = model_of({**fields, "quantization_config": cases.quark()}, codes, **STORY)
                    hold(teacher_forced(served, tokens), teacher_forced(model_of(fields, plain, **STORY), tokens))


def test_greedy_decoding_repeats_itself_and_gives_pages_back() -> None:
    fields = cases.fields()
    weights, prompts = cases.weights(fields, 2), cases.prompts(9, 60, 33)
    with threads(1):
        first = model_of(fields, weights)
        free = first.cache.free_tokens
        tokens = first.generate(prompts, 12)
        assert first.cache.free_tokens == free
        assert tokens == first.generate(prompts, 12) == model_of(fields, weights).generate(prompts, 12)
        ends = first.generate(prompts, 12, end=[tokens[1][3]])[1]
    assert [len(made) for made in tokens] == [12, 12, 12]
    assert ends == tokens[1][: tokens[1].index(tokens[1][3]) + 1]


def test_drafts_change_steps_and_not_tokens() -> None:
    """Guesses that come true, and guesses that do not, in requests that stop at different times."""
    fields = cases.fields(num_nextn_predict_layers=1)
    weights, prompts = cases.weights(fields, 2), cases.prompts(9, 60, 33)
    # Attention that decides more, so that a row that should be forgotten would show, and some guesses are wrong.
    for layer in (0, 1):
        weights[f"model.layers.{layer}.self_attn.o_proj.weight"] *= 5
    with threads(1):
        model = model_of(fields, weights, drafts=True)
        free = model.cache.free_tokens
        expected = model.generate(prompts, 21)
        drafted = deepseek.generate_with_drafts(model, prompts, 21)
        assert drafted.tokens == expected and model.cache.free_tokens == free
        assert drafted.guesses < 2 * drafted.right < 2 * drafted.guesses < 2 * 3 * 20
        end = [expected[0][5]]
        assert deepseek.generate_with_drafts(model, prompts, 21, end).tokens == model.generate(prompts, 21, end)
        with pytest.raises(ArgumentError, match="drafts=True"):
            deepseek.generate_with_drafts(model_of(fields, weights), prompts, 2)
    with pytest.raises(ArgumentError, match="num_nextn_predict_layers is 0"):
        model_of(cases.fields(), weights, drafts=True)


def test_the_head_of_drafts_is_that_of_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    layers = pytest.importorskip("transformers.modeling_layers")
    if not hasattr(layers, "MtpModel"):
        pytest.skip("this transformers has no multi-token prediction")
    fields = cases.fields(num_nextn_predict_layers=1)
    weights, (tokens,) = cases.weights(fields, 4), cases.prompts(41, seed=5)
    folder = written(tmp_path, fields, weights)
    hidden = torch.randn(40, fields["hidden_size"], generator=torch.Generator().manual_seed(1)).bfloat16()
    with threads(1), torch.inference_mode():
        main = transformers.DeepseekV3ForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
        theirs = layers.MtpModel(main, 1).to(torch.bfloat16).eval()
        named = theirs.state_dict()
        for name, tensor in mtp_names(weights, "model.layers.2.", fields["n_routed_experts"]).items():
            named[name].copy_(tensor)
        places = torch.arange(40)[None]
        expected = theirs.forward_layer(0, hidden[None], places, None, input_ids=torch.tensor([tokens[1:]]))[0]
        model = model_of(fields, weights, drafts=True)
        assert model.draft is not None
        place = model.cache.chunk(deepseek.Request(), 40)
        given = model.draft(hidden, model.embed(model.ids(tokens[1:])), model.attend(place))
        hold(model.logits(given), main.lm_head(expected))


def mtp_names(weights: dict[str, Any], prefix: str, experts: int) -> dict[str, Any]:
    """The tensors of the extra layer under the names that transformers gives them once they are loaded."""
    own = {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}
    named = {}
    for name, tensor in own.items():
        if name.startswith(("enorm", "hnorm", "eh_proj")):
            named[f"layers.0.{name}"] = tensor
        elif name.startswith("shared_head.norm"):
            named["layers.0.post_norm.weight"] = tensor
        elif ".experts." not in name:
            named[f"layers.0.mtp_block.{name}"] = tensor
    parts = {p: [own[f"mlp.experts.{e}.{p}_proj.weight"] for e in range(experts)] for p in ("gate", "up", "down")}
    pairs = zip(parts["gate"], parts["up"], strict=True)
    named["layers.0.mtp_block.mlp.experts.gate_up_proj"] = torch.stack([torch.cat(pair) for pair in pairs])
    named["layers.0.mtp_block.mlp.experts.down_proj"] = torch.stack(parts["down"])
    return named


def test_chunks_and_steps_are_one_model() -> None:
    """A prompt at once, in chunks, or token by token: what is in the cache is the same, so is what follows."""
    fields = cases.fields()
    weights, (tokens,) = cases.weights(fields, 3), cases.prompts(70, seed=7)
    with threads(1):
        expected = teacher_forced(model_of(fields, weights, chunk=128), tokens, 70)
        hold(teacher_forced(model_of(fields, weights, chunk=17, page_size=1, pages=80), tokens, 70), expected)
        hold(teacher_forced(model_of(fields, weights, page_size=64, pages=2), tokens, 1), expected)


def shared_models(parallel: deepseek.Parallel) -> list[Any]:
    """Logits of a model of bf16, of one of block scales, of one whose ranks have experts whole, and of one of MXFP4."""
    # Eighths of features are whole blocks.
    fields = cases.fields(moe_intermediate_size=1024, intermediate_size=1024)
    (tokens,) = cases.prompts(20, seed=6)
    plain = cases.weights(fields, 4)
    scaled = {**fields, "quantization_config": cases.FP8}
    whole = dataclasses.replace(parallel, experts_whole=parallel.world > 1)
    models = (
        model_of(fields, plain, parallel=parallel),
        model_of(scaled, cases.quantised(plain)[0], parallel=parallel),
        model_of(fields, plain, parallel=whole),
        model_of(
            {**fields, "quantization_config": cases.quark()}, cases.mxfp4_of(plain)[0], parallel=parallel, **STORY
        ),
    )
    return [teacher_forced(model, tokens, 12) for model in models]


def rank_of(rank: int, ranks: int, folder: str) -> None:
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{folder}/meet-{ranks}", rank=rank, world_size=ranks)
    logits = shared_models(deepseek.Parallel(rank, ranks))
    dist.destroy_process_group()
    torch.save(logits, f"{folder}/{ranks}-{rank}")


def test_ranks_agree_with_one_process(tmp_path: Path) -> None:
    with threads(1):
        one = shared_models(deepseek.Parallel())  # also builds what the ranks load
    given = {"GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"}
    finish(start(PARENT, str(Path(__file__).parent), str(tmp_path), **given), 300)
    for ranks in GROUPS:
        first, *others = (torch.load(tmp_path / f"{ranks}-{rank}") for rank in range(ranks))
        for index, (logits, expected) in enumerate(zip(first, one, strict=True)):
            hold(logits, expected, {1: QUANTISED, 3: MXFP4}.get(index, RANKED))
            assert all(torch.equal(logits, other[index]) for other in others)


@pytest.mark.emulated
@pytest.mark.parametrize("scaled", [False, True], ids=["bf16", "fp8"])
def test_a_step_as_gfx942_makes_it(scaled: bool, sanitized: Any) -> None:
    """One decode step of two requests, all of whose kernels are executed from their code objects. Codes are e4m3fnuz
    there, so that activations lie on another grid than here: both are as far from the weights as they are."""
    fields = cases.fields(**SMALL)
    weights, prompts = cases.weights(fields, 2), cases.prompts(5, 18, vocabulary=64)
    if scaled:
        fields, weights = {**fields, "quantization_config": cases.FP8}, cases.quantised(weights)[0]
    with threads(1):
        here = model_of(fields, weights)
        requests = [deepseek.Request() for _ in prompts]
        for request, prompt in zip(requests, prompts, strict=True):
            here.prefill(request, prompt)
        before = [deepseek.Request(list(request.pages), request.length) for request in requests]
        expected = here.decode(requests, [7, 9])
        with envs.override(AITERLITE_TARGET="mi300x"):
            there = model_of(fields, weights)
            # What the same step wrote to the same slots before is written over, and seen as it is written now.
            there.cache = here.cache
            made = there.decode(before, [7, 9])
    hold(made, expected, 1.5 * QUANTISED if scaled else DIFFERENCE)
    assert sanitized.launches


def calls_of(problems: Iterable[tuple[str, dict[str, Any]]]) -> set[str]:
    return {json.dumps([op, problem], sort_keys=True) for op, problem in problems}


@pytest.mark.parametrize("kind", ["plain", "drafts of block scales", "batch-invariant", "8 bits, persistent"])
def test_a_plan_is_what_a_run_calls_and_no_more(kind: str, tmp_path: Path) -> None:
    """Every batch and every length of a chunk of a server that is small enough for that."""
    drafts = kind.startswith("drafts")
    given = cases.fields(**SMALL, max_position_embeddings=24, num_nextn_predict_layers=int(drafts))
    weights = cases.weights(given, 2)
    if drafts:
        given, weights = {**given, "quantization_config": cases.FP8}, cases.quantised(weights)[0]
    config = deepseek.Config.read(given)
    options: dict[str, Any] = {"batch_invariant": kind == "batch-invariant", "drafts": drafts}
    if kind == "8 bits, persistent":
        options |= {"kv_cache": "fp8", "persistent": True}
    # Another environment than that of other tests, whose calls are prepared already.
    with threads(1), envs.override(AITERLITE_BUILD_TIMEOUT="1234"):
        with aiterlite.recording(tmp_path / "run.json") as manifest:
            model = deepseek.load("", weights=weights, config=config, chunk=4, page_size=4, **options)
            for batch in range(1, 4):
                prompts = cases.prompts(*[4 + batch] * batch, vocabulary=64)
                if drafts:
                    deepseek.generate_with_drafts(model, prompts, 4)
                else:
                    model.generate(prompts, 2)
        server = plan.Server(config, max_batch=3, chunk=4, page_size=4, **options)
        found = plan.everything(server, "cpu").decisions
    called = calls_of((call["op"], call["problem"]) for call in manifest.calls.values())
    planned = calls_of((decision.op, asdict(decision.problem)) for decision in found)
    assert (called - planned, planned - called) == (set(), set())


# Loads the model for gfx942, and may build nothing.
SERVED = """
import test_models_deepseek as shared
from aiterlite import emulator
emulator.use_library(sys.argv[1])
result = shared.small_tokens()
"""


def small_tokens() -> list[list[int]]:
    fields = cases.fields(**SMALL)
    codes = cases.quantised(cases.weights(fields, 2))[0]
    with threads(1):
        model = model_of({**fields, "quantization_config": cases.FP8}, codes, chunk=8)
        return model.generate(cases.prompts(5, 18, vocabulary=64), 3)


@pytest.mark.emulated
def test_a_manifest_of_this_cpu_serves_another_target(tmp_path: Path, emulator_library: str) -> None:
    """A run is recorded here, built for gfx942, and that cache is all that a process of that target may use."""
    with envs.override(AITERLITE_BUILD_TIMEOUT="1235"), aiterlite.recording(tmp_path / "run.json"):
        tokens = small_tokens()
    cache = {"AITERLITE_CACHE_DIR": str(tmp_path / "cache"), "AITERLITE_LOG": "warning"}
    with envs.override(**cache):
        assert main(["build", "--from", str(tmp_path / "run.json"), "--target", "gfx942"]) == 0
    cache |= {"AITERLITE_TARGET": "gfx942", "AITERLITE_JIT": "require-cache", "PYTHONPATH": str(Path(__file__).parent)}
    there = finish(start(SERVED, emulator_library, **cache), 120)["result"]
    assert [len(made) for made in there] == [3, 3] and there[0][0] == tokens[0][0]


@pytest.mark.parametrize("scaled", [False, True], ids=["bf16", "fp8"])
def test_a_layer_compiles_as_one_graph(scaled: bool) -> None:
    """Decode and prefill, dense and of experts: the same bits, and `fullgraph` lets no break pass."""
    fields = cases.fields(**SMALL)
    weights = cases.weights(fields, 2)
    if scaled:
        fields, weights = {**fields, "quantization_config": cases.FP8}, cases.quantised(weights)[0]
    with threads(1), torch.inference_mode():
        model = model_of(fields, weights)
        requests = [deepseek.Request() for _ in range(3)]
        for request, prompt in zip(requests, cases.prompts(5, 18, 9, vocabulary=64), strict=True):
            model.prefill(request, prompt)
        places = [(3, model.cache.step(requests)), (7, model.cache.chunk(deepseek.Request(), 7))]
        for layer in model.layers:
            for rows, place in places:
                # What torch has of its own to compile is mostly the same in all of them.
                whole = not scaled and layer.index == 1 and rows == 3
                x = model.embed(torch.arange(rows))
                residual = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(x.dtype)
                attend = model.attend(place)
                expected = layer(x, residual, attend)
                torch._dynamo.reset()
                compiled = torch.compile(layer.__call__, fullgraph=True, backend="inductor" if whole else "aot_eager")
                for got, wanted in zip(compiled(x, residual, attend), expected, strict=True):
                    assert torch.equal(got, wanted)
    torch._dynamo.reset()


@pytest.mark.emulated
def test_the_demonstration(
    emulator_library: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_library(emulator_library)
    monkeypatch.setattr(library, "unit", lambda: launch_unit())  # it is here
    monkeypatch.setattr(demo, "MODEL", {**demo.MODEL, **SMALL, "num_hidden_layers": 2, "n_routed_experts": 16})
    monkeypatch.setattr(demo, "PROMPT", 64)
    monkeypatch.setattr(demo, "STEPS", 6)
    with threads(1):
        assert main(["demo", "--json", "--target", "mi300x"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["distance"]["agreement"] == 1.0 and 0 < data["distance"]["mean_difference"] < DIFFERENCE
    (step,) = data["emulated"]
    assert step["target"] == "mi300x" and step["distance"]["agreement"] == 1.0
    assert 0 < step["distance"]["mean_difference"] < DIFFERENCE
    assert [len(made) for made in data["tokens"]] == [6] * 4
    assert all(rate > 0 for rate in (*data["rates"].values(), *data["prompt_rates"].values()))


def test_a_request_does_not_know_its_neighbours() -> None:
    fields = cases.fields()
    weights = cases.weights(fields, 2)
    # More than the rows that a CPU's kernel takes of torch: without the promise, bits change here.
    prompts = cases.prompts(20, 50, 3, 31, 70, *[3] * 18)
    with threads(1):
        model = model_of(fields, weights, batch_invariant=True)

        def logits(which: list[int]) -> dict[int, list[Any]]:
            requests = [deepseek.Request() for _ in which]
            made = {i: [model.prefill(request, prompts[i])] for i, request in zip(which, requests, strict=True)}
            for step in range(3):
                rows = model.decode(requests, [prompts[i][step] for i in which])
                for i, row in zip(which, rows, strict=True):
                    made[i].append(row)
            for request in requests:
                model.cache.release(request)
            return made

        together, apart = logits(list(range(23))), {i: logits([i])[i] for i in range(5)}
        pair = logits([3, 1])
    for i in range(5):
        for given, alone in zip(together[i], apart[i], strict=True):
            assert torch.equal(given, alone)
    for given, alone in zip(pair[1], apart[1], strict=True):
        assert torch.equal(given, alone)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("vocab_size", (None, -1, 0, "7", 1.5, [], {}, True, 10**13, math.nan)),
        ("num_hidden_layers", (-1, 0, "x", 1.5)),
        ("n_routed_experts", ("x", [])),
        ("q_lora_rank", (0, "x")),
        ("first_k_dense_replace", (-1, 0.5)),
        ("topk_group", (0, 99)),
        ("num_experts_per_tok", (0, 10**4)),
        ("norm_topk_prob", ("yes", 1)),
        ("rms_norm_eps", (-1, "1e-6", math.inf, math.nan)),
        ("rope_theta", (-1, "x", True)),
        ("rope_scaling", (["yarn"], "yarn")),
        ("factor", (0, "2", math.nan)),
        ("original_max_position_embeddings", (0, "4096")),
        ("quantization_config", ("fp8", ["fp8"], {"quant_method": "fp8", "weight_block_size": 128})),
    ],
)
def test_values_of_no_kind_that_a_field_has(name: str, values: tuple[Any, ...]) -> None:
    fields = cases.fields()
    yarn = {"type": "yarn", "factor": 2, "original_max_position_embeddings": 4096}
    for value in values:
        changed = {"rope_scaling": {**yarn, name: value}} if name in yarn else {name: value}
        with pytest.raises(ArgumentError, match=f"`{name}`"):
            deepseek.Config.read({**fields, **changed})
    assert deepseek.Config.read({**fields, "max_position_embeddings": None, "rope_scaling": {**yarn, "factor": None}})


def test_what_a_model_refuses(tmp_path: Path) -> None:
    fields = cases.fields()
    for changed, name in (
        ({"hidden_act": "gelu"}, "hidden_act"),
        ({"kv_lora_rank": 256}, "kv_lora_rank"),
        ({"rope_scaling": {"type": "linear", "factor": 2}}, "rope_scaling"),
        ({"quantization_config": {"quant_method": "gptq"}}, "quantization_config"),
        ({"quantization_config": {**cases.quark(), "exclude": []}}, "lm_head is not excluded"),
        ({"quantization_config": {**cases.quark(), "layer_quant_config": {"a": {}}}}, "layer_quant_config"),
        ({"quantization_config": {**cases.quark(), "global_quant_config": {"weight": {"dtype": "fp8"}}}}, "dtype is"),
        ({"n_group": 3}, "n_group"),
        ({"q_lora_rank": 192, "quantization_config": cases.FP8}, "q_lora_rank"),
    ):
        with pytest.raises(ArgumentError, match=name):
            deepseek.Config.read({**fields, **changed})
    for kind in ([], "model", 3):
        (tmp_path / "config.json").write_text(json.dumps(kind))
        with pytest.raises(ArgumentError, match="`config` is a .*allowed: an object"):
            deepseek.Config.read(tmp_path)
    with pytest.raises(ArgumentError, match="vocab_size.*missing"):
        deepseek.Config.read({name: value for name, value in fields.items() if name != "vocab_size"})
    with pytest.raises(ArgumentError, match="without safetensors"):
        deepseek.load(tmp_path, config=deepseek.Config.read(fields))
    weights = cases.weights(fields)
    del weights["model.layers.1.mlp.experts.3.up_proj.weight"]
    with pytest.raises(ArgumentError, match=r"experts\.3\.up_proj"):
        model_of(fields, weights)
    model = model_of(fields, cases.weights(fields), pages=2)
    with pytest.raises(ArgumentError, match="0 to 511"):
        model.generate([[3, 512]], 1)
    with pytest.raises(ArgumentError, match="Make the cache of more pages"):
        model.generate(cases.prompts(33), 1)


def test_a_checkpoint_of_many_files(tmp_path: Path) -> None:
    """A rank reads its part of tensors, by the index or without one."""
    save = pytest.importorskip("safetensors.torch", reason="safetensors is not installed").save_file
    a, b = torch.arange(24.0).view(4, 6), torch.arange(5)
    save({"a": a}, tmp_path / "model-00001.safetensors")
    save({"b": b}, tmp_path / "model-00002.safetensors")
    without = deepseek.Checkpoint(tmp_path)
    index = {"weight_map": {"a": "model-00001.safetensors", "b": "model-00002.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    for checkpoint in (without, deepseek.Checkpoint(tmp_path), deepseek.Checkpoint({"a": a, "b": b})):
        assert "a" in checkpoint and "c" not in checkpoint
        assert torch.equal(checkpoint.read("a", slice(1, 3), slice(2, 9)), a[1:3, 2:])
        assert torch.equal(checkpoint.read("b"), b)
        with pytest.raises(ArgumentError, match="with c"):
            checkpoint.read("c")
