"""A decode step as a captured graph: on a GPU the launches of a layer take the host longer than the device.

The graph reads what changes from step to step, tokens and places, from buffers of its own, which two copies fill. Rows
without a request have the slot -1 and no pages, so that they write nothing and attend to nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.models.deepseek.cache import Places, Request, Step
from aiterlite.models.deepseek.model import DeepSeek

_NAME = "aiterlite.models.deepseek"


class DecodeGraph:
    """`model.decode` of at most `batch` requests whose pages hold at most `context` tokens each, captured once.

    Raises `ArgumentError` where the model is not on a GPU, and from `decode` for more requests or longer ones. It keeps
    the memory of a step; capture all graphs before the first is replayed, largest batch first, to share theirs."""

    def __init__(self, model: DeepSeek, batch: int, context: int, pool: Any = None) -> None:
        device = model.embedding.device
        if device.type != "cuda":
            raise ArgumentError(_NAME, "model", f"on {device}", "a model on a GPU", "Call model.decode.")
        for name, value in (("batch", batch), ("context", context)):
            if value < 1:
                raise ArgumentError(_NAME, name, value, "1 or more")
        self.model, self.batch = model, batch
        self.most_pages = -(-context // model.cache.page_size)
        # Tokens, positions, slots; then pages before each request and after the last, last lengths, pages.
        self._longs = torch.zeros(3 * batch, dtype=torch.int64, device=device)
        self._ints = torch.zeros(batch + 1 + batch + batch * self.most_pages, dtype=torch.int32, device=device)
        self._rows = torch.arange(batch + 1, dtype=torch.int32, device=device)
        self._fill([], Places([], [], [0], [], []))
        self.graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            self._warm(device)
            with torch.cuda.graph(self.graph, pool=pool):
                self._logits = self._run()

    @torch.inference_mode()
    def decode(self, requests: Sequence[Request], tokens: Sequence[int]) -> Tensor:
        """`model.decode`; the logits are a part of a buffer that the next call writes."""
        self.model.check_step(requests, tokens)
        if len(requests) > self.batch:
            raise ArgumentError(_NAME, "requests", len(requests), f"at most the graph's batch, {self.batch}")
        size = self.model.cache.page_size
        if any(request.length >= self.most_pages * size for request in requests):
            got = max(request.length for request in requests) + 1
            raise ArgumentError(_NAME, "requests", f"one of {got} tokens", f"at most {self.most_pages * size} each")
        self._fill(tokens, self.model.cache.places(requests))
        self.graph.replay()
        return self._logits[: len(requests)]

    def _run(self) -> Tensor:
        batch = self.batch
        ids, positions, slots = torch.split(self._longs, batch)
        page_rows, last, pages = torch.split(self._ints, [batch + 1, batch, batch * self.most_pages])
        step = Step(positions, slots, self._rows, page_rows, pages, last, most_rows=1)
        return self.model.logits(self.model.run(ids, step))

    def _warm(self, device: torch.device) -> None:
        """Builds kernels and sets up libraries, which a capture must not."""
        make_stream: Any = torch.cuda.Stream
        side = make_stream(device)
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            self._run()
        torch.cuda.current_stream(device).wait_stream(side)

    def _fill(self, tokens: Sequence[int], places: Places) -> None:
        idle = self.batch - len(tokens)
        longs = [*tokens, *[0] * idle, *places.positions, *[0] * idle, *places.slots, *[-1] * idle]
        unused = self.batch * self.most_pages - len(places.pages)
        page_rows = places.page_rows + [places.page_rows[-1]] * idle
        ints = [*page_rows, *places.last_lengths, *[0] * idle, *places.pages, *[-1] * unused]
        # From memory that is not pinned: the copy has been read when it returns.
        self._longs.copy_(torch.tensor(longs, dtype=torch.int64))
        self._ints.copy_(torch.tensor(ints, dtype=torch.int32))
