"""The decoder: layers between the embedding and the logits, prompts in chunks, and greedy generation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.errors import ArgumentError
from aiterlite.models.deepseek import rope
from aiterlite.models.deepseek.attention import Attention, Rope
from aiterlite.models.deepseek.cache import Chunk, LatentCache, Request
from aiterlite.models.deepseek.checkpoint import Checkpoint
from aiterlite.models.deepseek.config import Config
from aiterlite.models.deepseek.experts import Experts
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.projections import FeedForward, Norm, Projection, Reader

_NAME = "aiterlite.models.deepseek"


@dataclass(frozen=True)
class Layer:
    input_norm: Norm
    attention: Attention
    output_norm: Norm
    feed_forward: FeedForward | Experts


class DeepSeek:
    """A rank of a DeepSeek-V3 model with its cache. Make one with `load`."""

    def __init__(self, reader: Reader, pages: int, page_size: int, chunk: int) -> None:
        self.config, self.parallel, self.chunk = reader.config, reader.parallel, chunk
        config = reader.config
        cos, sin = rope.tables(config, reader.dtype, reader.device)
        tables = Rope(cos, sin, torch.ones(1, dtype=torch.float32, device=reader.device))
        self.embedding = reader.tensor("model.embed_tokens.weight")
        self.layers = [_layer(reader, index, tables) for index in range(config.num_hidden_layers)]
        self.norm = reader.norm("model.norm")
        words = reader.parallel.share("vocab_size", config.vocab_size)
        name = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        self.head = Projection(reader.tensor(name, words), reduction=reader.reduction)
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.cache = LatentCache(len(self.layers), width, pages, page_size, reader.dtype, reader.device)

    @torch.inference_mode()
    def prefill(self, request: Request, tokens: Sequence[int], every: bool = False) -> Tensor:
        """Runs tokens of one request through the model, in chunks; float32 logits [vocabulary] of what follows the
        last, or with `every` [tokens, vocabulary] of what follows each."""
        self._check(request, tokens)
        logits = []
        for begin in range(0, len(tokens), self.chunk):
            part = tokens[begin : begin + self.chunk]
            place = self.cache.chunk(request, len(part))
            hidden = self._run(part, functools.partial(self._prefill, place))
            if every or begin + len(part) == len(tokens):
                logits.append(self._logits(hidden if every else hidden[-1:]))
        return torch.cat(logits) if every else logits[-1][0]

    @torch.inference_mode()
    def decode(self, requests: Sequence[Request], tokens: Sequence[int]) -> Tensor:
        """One more token of each request; float32 logits [requests, vocabulary]."""
        if len(requests) != len(tokens) or not requests:
            raise ArgumentError(_NAME, "tokens", f"{len(tokens)} of {len(requests)} requests", "one of each request")
        for request, token in zip(requests, tokens, strict=True):
            self._check(request, [token])
        step = self.cache.step(requests)

        def attend(index: int, x: Tensor) -> Tensor:
            return self.layers[index].attention.decode(x, step, self.cache.latents[index])

        return self._logits(self._run(tokens, attend))

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, end: Sequence[int] = ()
    ) -> list[list[int]]:
        """The likeliest token after another, for each prompt: at most `max_new_tokens`, up to one of `end`, which is
        the last where it comes. Equal logits: the lowest token."""
        requests = [Request() for _ in prompts]
        try:
            made = [
                [_likeliest(self.prefill(request, prompt))[0]]
                for request, prompt in zip(requests, prompts, strict=True)
            ]
            while True:
                going = [i for i, tokens in enumerate(made) if len(tokens) < max_new_tokens and tokens[-1] not in end]
                if not going:
                    return made
                logits = self.decode([requests[i] for i in going], [made[i][-1] for i in going])
                for i, token in zip(going, _likeliest(logits), strict=True):
                    made[i].append(token)
        finally:
            for request in requests:
                self.cache.release(request)

    def _run(self, tokens: Sequence[int], attend: Callable[[int, Tensor], Tensor]) -> Tensor:
        """Hidden states behind the last norm."""
        device = self.embedding.device
        x = functional.embedding(torch.tensor(tokens, dtype=torch.int64, device=device), self.embedding)
        residual: Tensor | None = None
        for index, layer in enumerate(self.layers):
            normed, residual = layer.input_norm.add(x, residual)
            normed, residual = layer.output_norm.add(attend(index, normed), residual)
            x = layer.feed_forward(normed)
            if isinstance(layer.feed_forward, FeedForward):
                x = self.parallel.sum(x)
        return self.norm.add(x, residual)[0]

    def _prefill(self, place: Chunk, index: int, x: Tensor) -> Tensor:
        return self.layers[index].attention.prefill(x, place, self.cache.latents[index])

    def _logits(self, hidden: Tensor) -> Tensor:
        return self.parallel.beside(self.head(hidden)).float()

    def _check(self, request: Request, tokens: Sequence[int]) -> None:
        if not tokens:
            raise ArgumentError(_NAME, "tokens", "none", "one or more")
        wrong = [token for token in tokens if not 0 <= token < self.config.vocab_size]
        if wrong:
            raise ArgumentError(_NAME, "tokens", wrong[0], f"0 to {self.config.vocab_size - 1}")
        if request.length + len(tokens) > self.config.max_position_embeddings:
            got, most = request.length + len(tokens), self.config.max_position_embeddings
            raise ArgumentError(_NAME, "tokens", f"{got} of one request", f"at most max_position_embeddings, {most}")


def load(
    folder: str | Path,
    *,
    weights: Mapping[str, Tensor] | None = None,
    config: Config | None = None,
    device: str | torch.device = "cpu",
    parallel: Parallel | None = None,
    pages: int = 256,
    page_size: int = 16,
    chunk: int = 512,
    batch_invariant: bool = False,
) -> DeepSeek:
    """A model of bfloat16 from a folder with config.json and safetensors, as Hugging Face has them.

    Args:
        folder: of config.json and the checkpoint.
        weights, config: used instead of what is in the folder, which is then not opened.
        device: where the model is.
        parallel: this process among those that share the model.
        pages, page_size: the cache: pages of so many tokens, for all requests together.
        chunk: the most tokens of a prompt that go through the model at once.
        batch_invariant: a request's bits do not depend on the others of a step, at some cost.
    """
    config = config or Config.read(folder)
    checkpoint = Checkpoint(folder if weights is None else weights)
    reduction = "batch_invariant" if batch_invariant else None
    reader = Reader(checkpoint, config, parallel or Parallel(), torch.device(device), reduction=reduction)
    with torch.inference_mode():
        return DeepSeek(reader, pages, page_size, chunk)


def _layer(reader: Reader, index: int, tables: Rope) -> Layer:
    name = f"model.layers.{index}"
    dense = reader.config.is_dense(index)
    return Layer(
        reader.norm(f"{name}.input_layernorm"),
        Attention.read(reader, f"{name}.self_attn", tables),
        reader.norm(f"{name}.post_attention_layernorm"),
        reader.feed_forward(f"{name}.mlp", reader.config.intermediate_size)
        if dense
        else Experts.read(reader, f"{name}.mlp"),
    )


def _likeliest(logits: Tensor) -> list[int]:
    # The first of the largest, which `argmax` does not promise.
    logits = logits.view(-1, logits.shape[-1])
    ids = torch.arange(logits.shape[-1], device=logits.device)
    best = logits == logits.max(-1, keepdim=True).values
    return torch.where(best, ids, logits.shape[-1]).min(-1).values.tolist()
