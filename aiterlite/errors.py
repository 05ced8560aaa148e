"""Every exception that aiterlite raises on purpose. All derive from `AiterliteError`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


class AiterliteError(Exception):
    """Base of all errors of this package. They pickle: worker pools and servers send them between processes."""

    def __reduce__(self) -> tuple[Any, ...]:
        # Not through `__init__`, whose parameters are not `args`.
        return _restore, (type(self), self.args, dict(vars(self)))


def _restore(kind: type[AiterliteError], args: tuple[Any, ...], state: dict[str, Any]) -> AiterliteError:
    error = kind.__new__(kind)
    error.args = args
    vars(error).update(state)
    return error


class ArgumentError(AiterliteError, ValueError):
    """An argument of a public function is not one the function can take.

    Attributes: `function`, `argument`, `got`, `allowed`, `remedy`.
    """

    def __init__(self, function: str, argument: str, got: object, allowed: str, remedy: str = "") -> None:
        self.function, self.argument, self.got, self.allowed, self.remedy = function, argument, got, allowed, remedy
        text = f"{function}: argument `{argument}` is {got}; allowed: {allowed}."
        super().__init__(f"{text} {remedy}" if remedy else text)


class EnvironmentValueError(AiterliteError, ValueError):
    """An environment variable holds a value that is not allowed."""

    def __init__(self, variable: str, got: str, allowed: str) -> None:
        self.variable, self.got, self.allowed = variable, got, allowed
        super().__init__(f"environment variable {variable}={got!r}; allowed: {allowed}. Unset it or correct it.")


class NotOfferedError(AiterliteError, NotImplementedError):
    """A name of another package that can be imported, since its clients import it with others, was called or asked
    for, and nothing serves it."""


class ShadowError(AiterliteError, ImportError):
    """Modules were to take the name of another package that is there."""


class TargetError(AiterliteError, ValueError):
    """A target id, alias or persona name is unknown, or does not fit the tensors' device."""


class DispatchError(AiterliteError):
    """No row of an operator's table may serve the call. `decision` holds the trace (None in another process)."""

    def __init__(self, message: str, decision: Any = None) -> None:
        self.decision = decision
        super().__init__(message)

    def __reduce__(self) -> tuple[Any, ...]:
        # A decision refers to functions of its table, which do not pickle.
        return _restore, (type(self), self.args, {"decision": None})


class JitError(AiterliteError):
    """Base of what can go wrong between a unit's sources and its loaded artifact."""


class SourceError(JitError):
    """A kernel source breaks a rule that the cache key depends on, or changed while it was compiled."""


class ToolchainNotFoundError(JitError):
    """No compiler for a target. The message says how to get one."""


class BuildError(JitError):
    """A compile failed.

    Attributes: `unit` (its name), `diagnostic` (the first real error line), `hint`, `log` (path of the whole
    output), `command` (one shell line that repeats the compile), `lasting` (the sources are to blame, so that the same
    compile ends the same).
    """

    lasting = False

    def __init__(self, unit: str, diagnostic: str, hint: str = "", log: str = "", command: str = "") -> None:
        self.unit, self.diagnostic, self.hint, self.log, self.command = unit, diagnostic, hint, log, command
        self.arguments = (unit, diagnostic, hint, log, command)
        lines = [f"building {unit} failed: {diagnostic}"]
        for label, value in (("hint", hint), ("full log", log), ("repeat with", command)):
            if value:
                lines.append(f"  {label}: {value}")
        super().__init__("\n".join(lines))


class BuildTimeoutError(BuildError):
    """A compiler ran longer than AITERLITE_BUILD_TIMEOUT and was killed."""


class MissingArtifactError(JitError):
    """AITERLITE_JIT=require-cache and no layer holds the unit. `command` builds it."""

    def __init__(self, unit: str, searched: Iterable[str], command: str, reason: str = "") -> None:
        self.unit, self.searched, self.command = unit, tuple(searched), command
        where = ", ".join(self.searched) or "no cache directory"
        why = f" ({reason})" if reason else ""
        super().__init__(
            f"{unit} is not in the cache{why} and AITERLITE_JIT=require-cache forbids to build it.\n"
            f"  searched: {where}\n  prebuild with: {command}"
        )


class JitDisabledError(JitError):
    """AITERLITE_JIT=off: no kernel of this package is built or loaded."""


class SealedError(JitError):
    """A build was needed after `aiterlite.seal()`."""


class CaptureError(JitError):
    """A build or a first module load was needed while a CUDA or HIP graph was being captured."""


class LockTimeoutError(JitError):
    """Another process held a unit's build lock longer than AITERLITE_LOCK_TIMEOUT."""


class CacheDirectoryError(JitError):
    """The writable cache directory cannot be created or used."""


class UntrustedArtifactError(JitError):
    """An artifact is not the user's own, or others may write it, in a layer that is not named as trusted."""


class DamagedArtifactError(JitError):
    """An artifact's bytes do not match the digest in its metadata. `directory` is where it lies."""

    def __init__(self, message: str, directory: str = "") -> None:
        self.directory = directory
        super().__init__(message)


class BundleError(JitError):
    """An exported cache bundle or a manifest is malformed, or its digests do not match its bytes."""


class LoadError(JitError):
    """A verified artifact could not be loaded (by the dynamic loader or by the GPU driver)."""


class ExecutorError(AiterliteError):
    """A target's code can be compiled here, but nothing here can run it."""


class LaunchError(AiterliteError, RuntimeError):
    """A driver refused a kernel launch. Names kernel, grid, block and arguments."""

    def __init__(
        self, kernel: str, code: int, detail: str, grid: tuple[int, ...], block: tuple[int, ...], arguments: str
    ) -> None:
        self.kernel, self.code, self.detail = kernel, code, detail
        self.grid, self.block, self.arguments = grid, block, arguments
        super().__init__(f"launch of {kernel} failed: {detail} (code {code}); grid {grid}, block {block}, {arguments}")
