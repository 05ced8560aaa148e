"""The DeepSeek decoder on a GPU: the logits of the same weights on a CPU, eager and as a captured graph. L2, GPU."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

import deepseek_cases as cases  # noqa: E402
from test_models_deepseek import AGREEMENT, OTHER, PROMPT, QUANTISED, hold, model_of, teacher_forced  # noqa: E402

from aiterlite.errors import ArgumentError  # noqa: E402
from aiterlite.models import deepseek  # noqa: E402

pytestmark = [pytest.mark.gpu, pytest.mark.compile]

DIFFERENCE = 0.01
STEPS = 24


def on_gpu(fields: dict[str, Any], weights: dict[str, Any], **options: Any) -> deepseek.DeepSeek:
    return model_of(fields, weights, device="cuda", **options)


@pytest.mark.parametrize("heads", [16, 64, 128])
@pytest.mark.parametrize("changed", [{}, OTHER], ids=["r1", "other"])
def test_logits_are_those_of_a_cpu(changed: dict[str, Any], heads: int) -> None:
    fields = cases.fields(**changed, num_attention_heads=heads)
    weights = cases.weights(fields, 4)
    (tokens,) = cases.prompts(PROMPT + STEPS, seed=5)
    expected = teacher_forced(model_of(fields, weights), tokens)
    logits = teacher_forced(on_gpu(fields, weights), tokens).cpu()
    hold(logits[:PROMPT], expected[:PROMPT], DIFFERENCE, AGREEMENT)
    hold(logits[PROMPT:], expected[PROMPT:], DIFFERENCE, 0.95)


def test_block_scales_are_those_of_the_dequantised_model() -> None:
    fields = cases.fields()
    codes, plain = cases.quantised(cases.weights(fields, 3))
    (tokens,) = cases.prompts(PROMPT + STEPS, seed=4)
    expected = teacher_forced(on_gpu(fields, plain), tokens)
    logits = teacher_forced(on_gpu({**fields, "quantization_config": cases.FP8}, codes), tokens)
    hold(logits, expected, QUANTISED, 0.97)


@pytest.mark.parametrize("scaled", [False, True], ids=["bf16", "blocks"])
def test_a_captured_step_has_the_logits_of_a_launched_one(scaled: bool) -> None:
    """Of as many rows, bit by bit; of fewer, as nearly as rounding lets them. The cache begins as NaN."""
    fields = cases.fields()
    weights = cases.weights(fields, 2)
    if scaled:
        weights, fields = cases.quantised(weights)[0], {**fields, "quantization_config": cases.FP8}
    model = on_gpu(fields, weights)
    with torch.inference_mode():
        model.cache.latents.fill_(float("nan"))
    graph = deepseek.DecodeGraph(model, 4, 128)
    prompts, tokens = cases.prompts(9, 60, 33), [5, 6, 7]
    requests = [deepseek.Request() for _ in prompts]
    for request, prompt in zip(requests, prompts, strict=True):
        model.prefill(request, prompt)
    for count in (3, 3, 2, 1):
        captured = graph.decode(requests[:count], tokens[:count]).clone()
        for request in requests[:count]:
            model.cache.shorten(request, request.length - 1)
        with torch.inference_mode():
            assert torch.equal(graph._run()[:count], captured)
        launched = model.decode(requests[:count], tokens[:count])
        assert bool(captured.isfinite().all())
        # Four rows are cut otherwise than fewer, and may choose another expert by a hair.
        hold(captured, launched, 0.05, 1.0)


def test_a_captured_step_has_the_same_bits_each_time() -> None:
    fields = cases.fields()
    model = on_gpu(fields, cases.weights(fields, 2))
    graph = deepseek.DecodeGraph(model, 2, 64)
    request = deepseek.Request()
    model.prefill(request, cases.prompts(40)[0])

    def step() -> Any:
        logits = graph.decode([request], [3]).clone()
        model.cache.shorten(request, 40)
        return logits

    first = step()
    assert all(torch.equal(step(), first) for _ in range(200))


def test_what_a_graph_refuses() -> None:
    fields = cases.fields()
    weights = cases.weights(fields, 2)
    model = on_gpu(fields, weights)
    graph = deepseek.DecodeGraph(model, 1, 16)
    request = deepseek.Request()
    model.prefill(request, list(range(16)))
    with pytest.raises(ArgumentError, match="one of 17 tokens; allowed: at most 16 each"):
        graph.decode([request], [1])
    with pytest.raises(ArgumentError, match="`requests` is 2; allowed: at most the graph's batch, 1"):
        graph.decode([deepseek.Request(), deepseek.Request()], [1, 1])


def test_drafts_and_greedy_decoding_repeat_themselves() -> None:
    fields = cases.fields(num_nextn_predict_layers=1)
    model = on_gpu(fields, cases.weights(fields, 2), drafts=True)
    prompts = cases.prompts(9, 60, 33)
    tokens = model.generate(prompts, 12)
    assert tokens == model.generate(prompts, 12)
    drafted = deepseek.generate_with_drafts(model, prompts, 12)
    assert drafted.right > 0
    same = sum(
        a == b for ours, theirs in zip(drafted.tokens, tokens, strict=True) for a, b in zip(ours, theirs, strict=True)
    )
    assert same >= 30
