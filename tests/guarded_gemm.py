"""Runs the CPU GEMM's C functions in memory whose every operand touches an inaccessible page. A script and a module.

Each call is made twice: with operands that end where the next page is inaccessible, and with operands that begin where
the page before is. Inputs are read-only. An access outside ends this process by a signal, so it is a child of the
tests; the number of the call is on its standard error. Needs neither torch nor numpy, which would take longer to import
than all calls take.
"""

from __future__ import annotations

import ctypes
import itertools
import mmap
import pickle
import struct
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

PLACEMENTS = ("behind", "before")  # where the inaccessible page is
_BODY = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
_PARALLEL_FOR = ctypes.CFUNCTYPE(
    ctypes.c_int32, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p, ctypes.c_void_p
)
_PLAIN = ("aiterlite_wv_split_k_cpu_bf16", "aiterlite_wv_split_k_cpu_fp16")
_SCALED = tuple(
    tuple(f"aiterlite_wv_split_k_q_cpu_{element}_{result}" for result in ("bf16", "fp16"))
    for element in ("e4m3fn", "e4m3fnuz")
)
_PROT_NONE = 0  # the mmap module names the others only


@dataclass(frozen=True)
class Pool:
    """A parallel loop: cuts the range into `chunks`, takes them in order or reversed, one after the other or each in a
    thread of its own, and returns `status`."""

    chunks: int = 1
    reverse: bool = False
    threads: bool = False
    status: int = 0

    def run(self, begin: int, end: int, body: Callable[[int, int], None]) -> None:
        edges = [begin + (end - begin) * i // self.chunks for i in range(self.chunks + 1)]
        ranges = [(first, last) for first, last in itertools.pairwise(edges) if first < last]
        ranges = ranges[::-1] if self.reverse else ranges
        if not self.threads:
            for first, last in ranges:
                body(first, last)
            return
        workers = [threading.Thread(target=body, args=pair) for pair in ranges]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()


@dataclass(frozen=True)
class Call:
    """Arguments of aiterlite_wv_split_k_cpu_*, for `element` 0 bf16 and 1 fp16. Operands as bytes; None is a null
    pointer. `y` is what is there before.

    With `scales`, those of x and of w's rows as bytes, of aiterlite_wv_split_k_q_cpu_*: then `strides` holds those of
    w's and of x's scales too, and `element` is 0 for e4m3fn and 1 for e4m3fnuz; `result`, the type of bias and y, 0 for
    bf16 and 1 for fp16.
    """

    x: bytes | None
    w: bytes | None
    bias: bytes | None
    y: bytes
    strides: tuple[int, ...]
    sizes: tuple[int, int, int]
    element: int
    pool: Pool | None = None
    num_threads: int = 1
    scales: tuple[bytes, ...] = ()
    result: int = 0


@dataclass(frozen=True)
class Result:
    """What a call returned, left in y, and asked of its pool: (begin, end, grain) each time."""

    status: int
    y: bytes
    asked: tuple[tuple[int, int, int], ...]


@contextmanager
def guarded(data: bytes | None, placement: str, writable: bool) -> Iterator[int | None]:
    """The address of a copy of `data` beside an inaccessible page."""
    if data is None:
        yield None
        return
    page = mmap.PAGESIZE
    inside = max(1, -(-len(data) // page)) * page
    arena = mmap.mmap(-1, inside + 2 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(arena))
    address = base + page + (inside - len(data) if placement == "behind" else 0)
    ctypes.memmove(address, data, len(data))
    _protect(base, page, _PROT_NONE)
    _protect(base + page + inside, page, _PROT_NONE)
    if not writable:
        _protect(base + page, inside, mmap.PROT_READ)
    try:
        yield address
    finally:
        _protect(base, inside + 2 * page, mmap.PROT_READ | mmap.PROT_WRITE)


def _protect(address: int, size: int, access: int) -> None:
    if ctypes.CDLL(None, use_errno=True).mprotect(ctypes.c_void_p(address), ctypes.c_size_t(size), access) != 0:
        raise OSError(ctypes.get_errno(), "mprotect")


def run(library: Any, call: Call, placement: str) -> Result:
    asked: list[tuple[int, int, int]] = []

    @_PARALLEL_FOR
    def parallel_for(begin: int, end: int, grain: int, function: int, context: int | None) -> int:
        assert call.pool is not None
        asked.append((begin, end, grain))
        body = _BODY(function)
        call.pool.run(begin, end, lambda first, last: body(first, last, context))
        return call.pool.status

    with ExitStack() as stack:
        inputs = [stack.enter_context(guarded(data, placement, False)) for data in (call.x, call.w, call.bias)]
        y = stack.enter_context(guarded(call.y, placement, True))
        scales = [stack.enter_context(guarded(data, placement, False)) for data in call.scales]
        pool = None if call.pool is None else ctypes.cast(parallel_for, ctypes.c_void_p)
        name = _SCALED[call.element][call.result] if scales else _PLAIN[call.element]
        kernel = getattr(library, name)
        kernel.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
        addresses = [address or 0 for address in (*inputs, y, *scales)]
        strides, behind = (call.strides[:5], call.strides[5:]) if scales else (call.strides, ())
        numbers = (*strides, *call.sizes, 0, *behind)
        arguments = struct.pack(f"<{len(addresses)}Q{len(strides)}q4i{len(behind)}q", *addresses, *numbers)
        status = kernel(arguments, pool, call.num_threads)
        assert y is not None
        return Result(status, ctypes.string_at(y, len(call.y)), tuple(asked))


def serve(run: Callable[[ctypes.CDLL, Any, Any], Any]) -> None:
    """Reads a library's path and calls, and writes what `run` makes of each call, by each placement."""
    path, calls = pickle.load(sys.stdin.buffer)
    library = ctypes.CDLL(path)
    results = []
    for number, call in enumerate(calls):
        for placement in PLACEMENTS:
            print(number, placement, file=sys.stderr, flush=True)
            results.append(run(library, call, placement))
    pickle.dump(results, sys.stdout.buffer)


if __name__ == "__main__":
    # What is pickled belongs to the module, not to this script.
    import guarded_gemm

    guarded_gemm.serve(guarded_gemm.run)
