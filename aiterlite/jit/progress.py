"""What a person sees while kernels compile: a line at the start, a heartbeat, one summary line.

A build of several steps tells how many of them are done: in its heartbeats, and on a terminal in a line that is written
over, or in the progress bar that a list of builds draws where `rich` is installed. AITERLITE_LOG=debug logs each step.
"""

from __future__ import annotations

import logging
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from aiterlite import envs
from aiterlite.jit.text import printable

HEARTBEAT_SECONDS = 10.0
LOOK_SECONDS = 0.2
Steps = Callable[[], tuple[int, int]]
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
def announce(what: str, why: str, expected_seconds: float | None = None) -> Iterator[Callable[[Steps], None]]:
    """Log the start of a build, a heartbeat while it lasts, and its end.

    The callable that it gives takes what counts the steps of the build: (done, all).
    """
    log = logger()
    guess = f", about {expected_seconds:.0f} s" if expected_seconds and expected_seconds >= 1 else ""
    log.info("building %s (%s%s)", what, why, guess)
    beat = _Heartbeat(what)
    beat.start()
    try:
        yield beat.tell
        beat.stop()
        log.info("built %s in %.2f s", what, beat.seconds)
    except KeyboardInterrupt:
        beat.stop()
        log.info("stopped building %s after %.2f s", what, beat.seconds)
        raise
    except BaseException:
        beat.stop()
        log.error("building %s failed after %.2f s", what, beat.seconds)
        raise


class _Heartbeat:
    """Tells of a build while it lasts."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._steps: Steps | None = None
        self._told: tuple[int, int] | None = None
        self._started = time.monotonic()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, name="aiterlite-heartbeat", daemon=True)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._started

    def tell(self, steps: Steps) -> None:
        self._steps = steps

    def start(self) -> None:
        try:
            self._thread.start()
        except RuntimeError:
            # No further thread can be started: the build goes on in silence.
            self._done.set()

    def stop(self) -> None:
        if not self._done.is_set():
            self._done.set()
            self._thread.join()
        _line.show(self._what, "")

    def _run(self) -> None:
        next_beat = HEARTBEAT_SECONDS
        while not self._done.wait(min(LOOK_SECONDS, HEARTBEAT_SECONDS)):
            counted = self._look()
            if self.seconds >= next_beat:
                next_beat = self.seconds + HEARTBEAT_SECONDS
                _line.clear()
                logger().info(
                    "still building %s, %s%.0f s", self._what, f"{counted}, " if counted else "", self.seconds
                )

    def _look(self) -> str:
        """`31 of 71 steps`; empty where nobody counts."""
        try:
            counted = self._steps() if self._steps else None
        except OSError:
            # The folder is gone already: the build has just ended.
            return ""
        if counted is None:
            return ""
        text = f"{counted[0]} of {counted[1]} steps"
        if counted != self._told:
            self._told = counted
            logger().debug("building %s, %s", self._what, text)
            _line.show(self._what, text)
        return text


class _Line:
    """The line of a terminal that says how far builds are. Nothing where standard error is no terminal."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._shown: dict[str, str] = {}
        # Takes the place of the line while a progress bar is drawn.
        self.bar: Callable[[str], None] | None = None

    def show(self, what: str, text: str) -> None:
        """What is said of a build; an empty text ends it."""
        with self._guard:
            before = dict(self._shown)
            self._shown.pop(what, None)
            if text:
                self._shown[what] = text
            if before == self._shown:
                return
            said = "; ".join(f"{name}: {text}" for name, text in self._shown.items())
            if self.bar:
                self.bar(said)
            elif _is_watched():
                width = shutil.get_terminal_size().columns - 1
                self._write(printable(f"aiterlite: building {said}")[:width] if said else "")

    def clear(self) -> None:
        """Make room for a line of the log; the next step draws anew."""
        with self._guard:
            if self._shown and not self.bar and _is_watched():
                self._write("")

    @staticmethod
    def _write(text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()


_line = _Line()


def _is_watched() -> bool:
    """Whether a person reads what this writes: not a file, and not under a level that asks for silence."""
    return sys.stderr is not None and sys.stderr.isatty() and envs.LOG.get() in ("debug", "info")


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
        _line.bar = lambda said: view.update(task, description=said or title)
        try:
            yield lambda step: view.update(task, advance=1, description=step)
        finally:
            _line.bar = None
