"""Stands between this package and a compiler, and ends it, with all it started, when its parent is gone.

Run as a script: the process to watch, then the command. A compiler is a session of its own, so that all of it can be
killed at a time limit; for the same reason no signal of a terminal or of a service manager reaches it, and a process
that dies cannot kill what it started. This script leads the session and looks whether its parent still lives.

It imports nothing of this package and is started before each compile, so it is short.
"""

from __future__ import annotations

import os
import signal
import sys

POLL_SECONDS = 0.2


def session(leader: int) -> list[int]:
    """The processes of a session, but not its leader.

    ninja gives each compiler a process group of its own; they stay in the session.
    """
    members = []
    for name in os.listdir("/proc") if os.path.isdir("/proc/self") else []:
        try:
            if name.isdigit() and int(name) != leader and os.getsid(int(name)) == leader:
                members.append(int(name))
        except ProcessLookupError:
            continue
    return members


def kill(pids: list[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue


def kill_members(leader: int) -> None:
    # The second round is for what was started while the first looked around.
    for _ in range(2):
        kill(session(leader))


def main(parent: int, words: list[str]) -> int:
    # Blocked, so that waiting for the end of the command cannot miss it.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])
    try:
        child = os.posix_spawnp(words[0], words, os.environ, setsigmask=[])
    except OSError as error:
        print(f"error: cannot start {words[0]}: {error.strerror}", flush=True)
        return 127
    while True:
        if os.getppid() != parent:
            kill_members(os.getpid())
            return 1
        signal.sigtimedwait([signal.SIGCHLD], POLL_SECONDS)
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)


def end_as(status: int) -> int:
    """The exit status of a command that ended; one that a signal killed is imitated, without a dump of memory."""
    if status < 0:
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if -status != signal.SIGKILL:
            signal.signal(-status, signal.SIG_DFL)
        os.kill(os.getpid(), -status)
    return status


if __name__ == "__main__":
    sys.exit(end_as(main(int(sys.argv[1]), sys.argv[2:])))
