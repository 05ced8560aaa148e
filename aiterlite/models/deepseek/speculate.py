"""Greedy generation with drafts: a step takes the next token and a guess of the one behind it, and keeps both where the
model would have said the second itself.

A request's step has two rows. Where the guess was wrong, what its row left in the cache is forgotten: the next step
writes over it, in the draft's layer too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from aiterlite.errors import ArgumentError
from aiterlite.models.deepseek.cache import Chunk, Request, Step
from aiterlite.models.deepseek.model import DeepSeek, likeliest


@dataclass
class Drafted:
    """The tokens of each prompt, and how many guesses there were and came true."""

    tokens: list[list[int]]
    guesses: int = 0
    right: int = 0


@torch.inference_mode()
def generate_with_drafts(
    model: DeepSeek, prompts: Sequence[Sequence[int]], max_new_tokens: int, end: Sequence[int] = ()
) -> Drafted:
    """`model.generate`, in fewer steps, of a model that was loaded with `drafts`. Tokens may differ from those where
    two logits are nearly equal, since a step of more rows may round otherwise."""
    if model.draft is None:
        raise ArgumentError("aiterlite.models.deepseek", "model", "without drafts", "one of load(..., drafts=True)")
    requests = [Request() for _ in prompts]
    try:
        starts = [_begin(model, request, prompt) for request, prompt in zip(requests, prompts, strict=True)]
        made, guess = Drafted([[token] for token, _ in starts]), [draft for _, draft in starts]
        while True:
            going = [i for i, t in enumerate(made.tokens) if len(t) < max_new_tokens and t[-1] not in end]
            if not going:
                return made
            rows = [token for i in going for token in (made.tokens[i][-1], guess[i])]
            for i in going:
                model.check(requests[i], [made.tokens[i][-1], guess[i]])
            step = model.cache.step([requests[i] for i in going], 2)
            hidden = model.run(model.ids(rows), step)
            said = likeliest(model.logits(hidden))
            guesses = likeliest(model.logits(_draft(model, hidden, said, step)))
            for row, i in zip(range(0, len(rows), 2), going, strict=True):
                right = said[row] == guess[i]
                made.guesses, made.right = made.guesses + 1, made.right + right
                for token in said[row : row + 1 + right]:
                    if len(made.tokens[i]) < max_new_tokens and made.tokens[i][-1] not in end:
                        made.tokens[i].append(token)
                guess[i] = guesses[row + right]
                if not right:
                    model.cache.shorten(requests[i], requests[i].length - 1)
    finally:
        for request in requests:
            model.cache.release(request)


def _begin(model: DeepSeek, request: Request, prompt: Sequence[int]) -> tuple[int, int]:
    """(the first token behind a prompt, a guess of the second)."""
    model.check(request, prompt)
    first = guess = -1
    for begin in range(0, len(prompt), model.chunk):
        part = prompt[begin : begin + model.chunk]
        place = model.cache.chunk(request, len(part))
        hidden = model.run(model.ids(part), place)
        following = list(prompt[begin + 1 : begin + 1 + len(part)])
        if begin + len(part) == len(prompt):
            first = likeliest(model.logits(hidden[-1:]))[0]
            following.append(first)
        drafted = _draft(model, hidden, following, place)
        guess = likeliest(model.logits(drafted[-1:]))[0]
    return first, guess


def _draft(model: DeepSeek, hidden: Tensor, following: Sequence[int], place: Chunk | Step) -> Tensor:
    assert model.draft is not None
    return model.draft(hidden, model.embed(model.ids(following)), model.attend(place))
