"""torch's number of threads, which the CPU's kernels take too, for as long as a test wants it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def bits_do_not_depend_on_threads(call: Callable[[], Tensor], counts: tuple[int, ...] = (1, 2, 5)) -> bool:
    """Whether a call's result has the same bits with each number of threads."""
    results = []
    for count in counts:
        with threads(count):
            results.append(call())
    return all(torch.equal(results[0], result) for result in results[1:])
