"""What ends a launch from outside: signals, above all Ctrl-C.

A launch is one call into the library, and Python runs handlers of signals between bytecodes of the main thread only. So
the library calls back every 50 ms, on the thread that launched. What is raised there meanwhile ends the launch, and is
raised again where it was made: KeyboardInterrupt, what the handler of a signal raises, what another thread asked this
one to raise.

Other threads are told of no signal. A launch on one of them ends with KeyboardInterrupt while the main thread handles
one, as in the `with` of a thread pool that waits for its threads, and after one has ended the main thread: the process
would otherwise wait for the launch before it ends.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Generator
from typing import Any

POLL = ctypes.CFUNCTYPE(ctypes.c_int)


class _Thread(threading.local):
    """What a thread has handed to the library, and what was raised while it was called back."""

    callback: Any = None
    raised: BaseException | None = None


_thread = _Thread()


def watch(library: ctypes.CDLL) -> None:
    """Have this thread's launches end where a signal says so. Once a thread, and again after each that ended so."""
    if _thread.callback is None:
        # A generator and no function: what is raised on the way into a function is raised outside of its `try`, and
        # ctypes would print it and go on. Here all of it is raised at the `yield`.
        asked = _ask()
        next(asked)
        _thread.callback = POLL(asked.__next__)
        library.aiterlite_emulator_set_poll(_thread.callback)


def take_raised(library: ctypes.CDLL) -> BaseException:
    """What ended this thread's last launch."""
    raised = _thread.raised or KeyboardInterrupt()
    # A generator that has raised answers no more.
    library.aiterlite_emulator_set_poll(POLL())
    _thread.callback = _thread.raised = None
    return raised


def _ask() -> Generator[int]:
    """Answers 1 where the launch is to end, else 0."""
    main = threading.main_thread()
    is_main = threading.current_thread() is main
    answer = 0
    try:
        while True:
            yield answer
            answer = int(not is_main and _is_interrupted(main))
    except GeneratorExit:
        return
    except BaseException as error:
        _thread.raised = error
        yield 1


def _is_interrupted(main: threading.Thread) -> bool:
    """Whether the main thread handles a KeyboardInterrupt, or has ended by one."""
    if not main.is_alive():
        return issubclass(getattr(sys, "last_type", None) or type(None), KeyboardInterrupt)
    handled = sys._current_exceptions().get(main.ident or 0)
    # Until Python 3.12 it is a tuple of type, value and traceback.
    error = handled[1] if isinstance(handled, tuple) else handled
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None
