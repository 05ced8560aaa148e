"""Calls the CPU's kernel of the fused mixture of experts in memory whose every operand touches an inaccessible page.

A script and a module, as guarded_gemm.py is: a child process of the tests, which an access outside ends by a signal.
"""

from __future__ import annotations

import ctypes
import resource
import struct
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from guarded_gemm import _BODY, _PARALLEL_FOR, Pool, guarded, serve


@dataclass(frozen=True)
class Call:
    """`packing` is the struct's format and `fields` its names in that order; `numbers` holds those that are none of
    `operands`, whose bytes are copied between the pages. `out` is what is there before. With `memory`, so many bytes of
    address space may be asked for."""

    symbol: str
    packing: str
    fields: tuple[str, ...]
    numbers: dict[str, int | float]
    operands: dict[str, bytes]
    out: bytes
    pool: Pool | None = None
    threads: int = 1
    memory: int = 0


def run(library: Any, call: Call, placement: str) -> tuple[int, bytes]:
    """(status, what is in out)."""

    @_PARALLEL_FOR
    def parallel_for(begin: int, end: int, grain: int, function: int, context: int | None) -> int:
        assert call.pool is not None
        body = _BODY(function)
        call.pool.run(begin, end, lambda first, last: body(first, last, context))
        return call.pool.status

    with ExitStack() as stack:
        values: dict[str, Any] = dict(call.numbers)
        for name, data in call.operands.items():
            values[name] = stack.enter_context(guarded(data, placement, False))
        out = stack.enter_context(guarded(call.out, placement, True))
        assert out is not None
        arguments = struct.pack(call.packing, *[out if name == "out" else values.get(name, 0) for name in call.fields])
        entry = getattr(library, call.symbol)
        entry.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_int32]
        pool = None if call.pool is None else ctypes.cast(parallel_for, ctypes.c_void_p)
        limits = resource.getrlimit(resource.RLIMIT_AS)
        if call.memory:
            resource.setrlimit(resource.RLIMIT_AS, (_address_space() + call.memory, limits[1]))
        try:
            status = entry(arguments, pool, call.threads)
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        return status, ctypes.string_at(out, len(call.out))


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()


if __name__ == "__main__":
    # What is pickled belongs to the module, not to this script.
    import guarded_moe

    serve(guarded_moe.run)
