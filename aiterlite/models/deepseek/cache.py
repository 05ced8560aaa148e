"""The paged cache of latents: what a token leaves for those behind it is 512 + 64 numbers a layer.

A request has pages in the order of its tokens; a page that it gives back serves the next one. Pages, lengths and slots
are kept on the host, which knows them before the device does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError


@dataclass
class Request:
    """The pages of a request, and how many tokens are in them."""

    pages: list[int] = field(default_factory=list)
    length: int = 0


@dataclass(frozen=True)
class Places:
    """A decode step on the host: positions and slots of its rows; pages, and how many there are before each request and
    after the last; how many tokens each request's last page has."""

    positions: list[int]
    slots: list[int]
    page_rows: list[int]
    pages: list[int]
    last_lengths: list[int]


@dataclass(frozen=True)
class Step:
    """Where the tokens of a decode step are and go, as the operators take it. `plan`: the work of its attention, which
    the first layer makes that needs it."""

    positions: Tensor
    slots: Tensor
    rows: Tensor
    page_rows: Tensor
    pages: Tensor
    last_lengths: Tensor
    most_rows: int
    plan: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """Where a part of one request's prompt is and goes. `history`: the slots of all its tokens, this part's last."""

    positions: Tensor
    slots: Tensor
    history: Tensor


class LatentCache:
    """`pages` pages of `page_size` tokens for each of `layers`."""

    def __init__(
        self, layers: int, width: int, pages: int, page_size: int, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.page_size, self.device = page_size, device
        # Slots that no token has written are not read, so what they hold does not matter.
        self.latents = torch.empty(layers, pages, page_size, width, dtype=dtype, device=device)
        self._free = list(range(pages - 1, -1, -1))

    @property
    def free_tokens(self) -> int:
        return len(self._free) * self.page_size

    def chunk(self, request: Request, tokens: int) -> Chunk:
        """Makes room for the next tokens of a prompt."""
        begin = self._grow(request, tokens)
        history = self._slots(request)
        return Chunk(torch.arange(begin, request.length, device=self.device), history[begin:], history)

    def places(self, requests: Sequence[Request], tokens: int = 1) -> Places:
        """Makes room for as many tokens of each request."""
        positions: list[int] = []
        slots, page_rows, pages, last = list[int](), [0], list[int](), list[int]()
        for request in requests:
            begin = self._grow(request, tokens)
            positions += range(begin, request.length)
            slots += [self._slot(request, position) for position in range(begin, request.length)]
            pages += request.pages
            page_rows.append(len(pages))
            last.append((request.length - 1) % self.page_size + 1)
        return Places(positions, slots, page_rows, pages, last)

    def step(self, requests: Sequence[Request], tokens: int = 1) -> Step:
        """Makes room for as many tokens of each request."""
        places = self.places(requests, tokens)
        return Step(
            positions=self._longs(places.positions),
            slots=self._longs(places.slots),
            rows=self._ints(range(0, len(requests) * tokens + 1, tokens)),
            page_rows=self._ints(places.page_rows),
            pages=self._ints(places.pages),
            last_lengths=self._ints(places.last_lengths),
            most_rows=tokens,
        )

    def shorten(self, request: Request, length: int) -> None:
        """Forgets the tokens from `length` on."""
        request.length = min(request.length, length)
        keep = -(-request.length // self.page_size)
        self._free += reversed(request.pages[keep:])
        del request.pages[keep:]

    def release(self, request: Request) -> None:
        self.shorten(request, 0)

    def _grow(self, request: Request, tokens: int) -> int:
        """Returns the request's length of before."""
        need = -(-(request.length + tokens) // self.page_size) - len(request.pages)
        if need > len(self._free):
            got, allowed = f"{tokens} more, which need {need} pages", f"as many as {len(self._free)} free pages hold"
            raise ArgumentError("aiterlite.models.deepseek", "tokens", got, allowed, "Make the cache of more pages.")
        request.pages += [self._free.pop() for _ in range(need)]
        request.length += tokens
        return request.length - tokens

    def _slot(self, request: Request, position: int) -> int:
        return request.pages[position // self.page_size] * self.page_size + position % self.page_size

    def _slots(self, request: Request) -> Tensor:
        starts = self._longs(request.pages) * self.page_size
        offsets = torch.arange(self.page_size, device=self.device)
        return (starts[:, None] + offsets).flatten()[: request.length]

    def _ints(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int32, device=self.device)

    def _longs(self, numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=self.device)
