"""What a person sees while kernels compile: a line at the start, a heartbeat, one summary line.

On a terminal with `rich` installed, a list of builds draws a progress bar instead of heartbeats.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiterlite import envs
from aiterlite.jit.text import printable

HEARTBEAT_SECONDS = 10.0
_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40, "quiet": 100}
_logger = logging.getLogger("aiterlite")
_own_handler: logging.Handler | None = None


class _Formatter(logging.Formatter):
    """Lines that hold no control characters: they quote compilers and metadata."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def logger() -> logging.Logger:
    """The package's logger at the level of AITERLITE_LOG, with a handler of its own only where nobody set one."""
    global _own_handler
    if _own_handler is None and not _logger.hasHandlers():
        _own_handler = logging.StreamHandler()
        _own_handler.setFormatter(_Formatter("%(name)s: %(message)s"))
        _logger.addHandler(_own_handler)
        _logger.propagate = False
    _logger.setLevel(_LEVELS[envs.LOG.get()])
    return _logger


@contextmanager
def announce(what: str, why: str, expected_seconds: float | None = None) -> Iterator[None]:
    """Log the start of a build, a heartbeat while it lasts, and its end."""
    log = logger()
    guess = f", about {expected_seconds:.0f} s" if expected_seconds and expected_seconds >= 1 else ""
    log.info("building %s (%s%s)", what, why, guess)
    started = time.monotonic()
    done = threading.Event()

    def beat() -> None:
        while not done.wait(HEARTBEAT_SECONDS):
            log.info("still building %s, %.0f s", what, time.monotonic() - started)

    thread = threading.Thread(target=beat, name="aiterlite-heartbeat", daemon=True)
    thread.start()
    try:
        yield
        log.info("built %s in %.2f s", what, time.monotonic() - started)
    except KeyboardInterrupt:
        log.info("stopped building %s after %.2f s", what, time.monotonic() - started)
        raise
    except BaseException:
        log.error("building %s failed after %.2f s", what, time.monotonic() - started)
        raise
    finally:
        done.set()
        thread.join()


@contextmanager
def bar(title: str, total: int) -> Iterator[Callable[[str], None]]:
    """A progress bar over `total` steps on a terminal; the callable that it gives marks one step done."""
    rich_progress: Any = None
    if sys.stderr.isatty() and envs.LOG.get() != "quiet":
        try:
            import rich.console
            import rich.progress

            rich_progress = rich.progress
        except ImportError:
            pass
    if rich_progress is None:
        yield lambda _: None
        return
    columns = (
        rich_progress.TextColumn("{task.description}"),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        rich_progress.TimeElapsedColumn(),
        rich_progress.TimeRemainingColumn(),
    )
    with rich_progress.Progress(*columns, console=rich.console.Console(stderr=True)) as view:
        task = view.add_task(title, total=total)
        yield lambda step: view.update(task, advance=1, description=step)
