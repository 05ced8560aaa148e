"""The decoder: layers between the embedding and the logits, prompts in chunks, and greedy generation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from aiterlite.errors import ArgumentError
from aiterlite.models.deepseek import rope
from aiterlite.models.deepseek.attention import Attention, Rope
from aiterlite.models.deepseek.cache import Chunk, LatentCache, Request, Step
from aiterlite.models.deepseek.checkpoint import Checkpoint
from aiterlite.models.deepseek.config import Config
from aiterlite.models.deepseek.draft import Draft
from aiterlite.models.deepseek.layer import Attend, Layer
from aiterlite.models.deepseek.parallel import Parallel
from aiterlite.models.deepseek.projections import Projection, Reader, Rows
from aiterlite.target import persona_for

_NAME = "aiterlite.models.deepseek"


class DeepSeek:
    """A rank of a DeepSeek-V3 model with its cache. Make one with `load`."""

    def __init__(
        self, reader: Reader, pages: int, page_size: int, chunk: int, drafts: bool, kv_cache: torch.dtype
    ) -> None:
        self.config, self.parallel, self.chunk = reader.config, reader.parallel, chunk
        config = reader.config
        cos, sin = rope.tables(config, reader.dtype, reader.device)
        tables = Rope(cos, sin, torch.ones(1, dtype=torch.float32, device=reader.device))
        self.embedding = reader.tensor("model.embed_tokens.weight")
        self.layers = [Layer.read(reader, index, tables) for index in range(config.num_hidden_layers)]
        self.draft = Draft.read(reader, config.num_hidden_layers, tables) if drafts else None
        self.norm = reader.norm("model.norm")
        words = reader.parallel.share("vocab_size", config.vocab_size)
        name = "model.embed_tokens.weight" if config.tie_word_embeddings else "lm_head.weight"
        self.head = Projection(reader.tensor(name, words), reduction=reader.reduction)
        width = config.kv_lora_rank + config.qk_rope_head_dim
        self.cache = LatentCache(len(self.layers) + drafts, width, pages, page_size, kv_cache, reader.device)

    @torch.inference_mode()
    def prefill(self, request: Request, tokens: Sequence[int], every: bool = False) -> Tensor:
        """Runs tokens of one request through the model, in chunks; float32 logits [vocabulary] of what follows the
        last, or with `every` [tokens, vocabulary] of what follows each."""
        self.check(request, tokens)
        logits = []
        for begin in range(0, len(tokens), self.chunk):
            part = tokens[begin : begin + self.chunk]
            place = self.cache.chunk(request, len(part))
            hidden = self.run(self.ids(part), place)
            if every or begin + len(part) == len(tokens):
                logits.append(self.logits(hidden if every else hidden[-1:]))
        return torch.cat(logits) if every else logits[-1][0]

    @torch.inference_mode()
    def decode(self, requests: Sequence[Request], tokens: Sequence[int]) -> Tensor:
        """One more token of each request; float32 logits [requests, vocabulary]."""
        self.check_step(requests, tokens)
        return self.logits(self.run(self.ids(tokens), self.cache.step(requests)))

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, end: Sequence[int] = ()
    ) -> list[list[int]]:
        """The likeliest token after another, for each prompt: at most `max_new_tokens`, up to one of `end`, which is
        the last where it comes. Equal logits: the lowest token."""
        requests = [Request() for _ in prompts]
        try:
            made = [
                [likeliest(self.prefill(request, prompt))[0]] for request, prompt in zip(requests, prompts, strict=True)
            ]
            while True:
                going = [i for i, tokens in enumerate(made) if len(tokens) < max_new_tokens and tokens[-1] not in end]
                if not going:
                    return made
                logits = self.decode([requests[i] for i in going], [made[i][-1] for i in going])
                for i, token in zip(going, likeliest(logits), strict=True):
                    made[i].append(token)
        finally:
            for request in requests:
                self.cache.release(request)

    def run(self, ids: Tensor, place: Chunk | Step) -> Tensor:
        """Hidden states behind the last norm, of tokens."""
        x, residual = self.embed(ids), None
        for layer in self.layers:
            x, residual = layer(x, residual, self.attend(place))
        return self.norm.add(x, residual)[0]

    def attend(self, place: Chunk | Step) -> Attend:
        def attended(index: int, attention: Attention, x: Rows) -> Tensor:
            latents = self.cache.latents[index]
            return (
                attention.prefill(x, place, latents)
                if isinstance(place, Chunk)
                else attention.decode(x, place, latents)
            )

        return attended

    def ids(self, tokens: Sequence[int]) -> Tensor:
        return torch.tensor(tokens, dtype=torch.int64, device=self.embedding.device)

    def embed(self, ids: Tensor) -> Tensor:
        return functional.embedding(ids, self.embedding)

    def logits(self, hidden: Tensor) -> Tensor:
        return self.parallel.beside(self.head(hidden)).float()

    def check_step(self, requests: Sequence[Request], tokens: Sequence[int]) -> None:
        if len(requests) != len(tokens) or not requests:
            raise ArgumentError(_NAME, "tokens", f"{len(tokens)} of {len(requests)} requests", "one of each request")
        for request, token in zip(requests, tokens, strict=True):
            self.check(request, [token])

    def check(self, request: Request, tokens: Sequence[int]) -> None:
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
    drafts: bool = False,
    kv_cache: str = "auto",
    persistent: bool = False,
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
        kv_cache: "auto" for latents of bfloat16, "fp8" for the device's e4m3 codes, which take half the memory.
        persistent: plan the attention of each decode step, for workgroups that each do a share of all requests.
        drafts: read the head of the checkpoint that predicts one token more, for `generate_with_drafts`.
    """
    config = config or Config.read(folder)
    if drafts and not config.num_nextn_predict_layers:
        raise ArgumentError(_NAME, "drafts", True, "False, since num_nextn_predict_layers is 0")
    if persistent and batch_invariant:
        raise ArgumentError(_NAME, "persistent", True, "False with batch_invariant: a plan goes by all requests")
    checkpoint = Checkpoint(folder if weights is None else weights)
    reduction = "batch_invariant" if batch_invariant else None
    reader = Reader(
        checkpoint, config, parallel or Parallel(), torch.device(device), reduction=reduction, persistent=persistent
    )
    with torch.inference_mode():
        return DeepSeek(reader, pages, page_size, chunk, drafts, _cache_type(reader, kv_cache))


def _cache_type(reader: Reader, kind: str) -> torch.dtype:
    if kind not in ("auto", "fp8"):
        raise ArgumentError(_NAME, "kv_cache", repr(kind), "'auto' or 'fp8'")
    if kind == "auto":
        return reader.dtype
    fnuz = persona_for(reader.device.type, reader.device.index).fp8 == "e4m3fnuz"
    return torch.float8_e4m3fnuz if fnuz else torch.float8_e4m3fn


def likeliest(logits: Tensor) -> list[int]:
    # The first of the largest, which `argmax` does not promise.
    logits = logits.view(-1, logits.shape[-1])
    ids = torch.arange(logits.shape[-1], device=logits.device)
    best = logits == logits.max(-1, keepdim=True).values
    return torch.where(best, ids, logits.shape[-1]).min(-1).values.tolist()
