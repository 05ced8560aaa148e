"""The package's source tree: digests, and the rules that keep cache keys honest."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from aiterlite.errors import SourceError

PACKAGE_ROOT = Path(__file__).resolve().parent.parent

# Each of these reads a file, or asks whether one exists, in a way that a compiler's include list does not show; a
# quoted include looks beside the including file first, where a new file could shadow an old one, and only the
# preprocessor can tell what a macro includes. Torch headers would bind a unit to one torch version.
_DIRECTIVE = rb"^[ \t]*(?:/\*.*?\*/[ \t]*)*(?:#|%:)[ \t]*"
_FORBIDDEN = (
    (re.compile(rb"__has_include"), "__has_include is invisible to the compiler's include list"),
    (
        re.compile(rb"__has_embed|" + _DIRECTIVE + rb"embed\b", re.MULTILINE),
        "#embed is invisible to the compiler's include list",
    ),
    (re.compile(rb"\.\s*incbin\b"), ".incbin is invisible to the compiler's include list"),
    (
        re.compile(rb"(?:^|[\";]|\\[nt])\s*\.\s*include\b", re.MULTILINE),
        "use #include, .include is not in the compiler's include list",
    ),
    (
        re.compile(_DIRECTIVE + rb"(?:include|include_next|import)\b(?!\s*<).*$", re.MULTILINE),
        "include project headers as <aiterlite/...>",
    ),
    (
        re.compile(_DIRECTIVE + rb"pragma\s+(?:GCC|clang)\s+system_header\b", re.MULTILINE),
        "what a system header includes is not in the compiler's include list",
    ),
    (
        re.compile(_DIRECTIVE + rb"\w+\s*<(?:torch|ATen|c10|pybind11|Python\.h)\b", re.MULTILINE),
        "a unit includes no torch or Python header: it exports a plain C ABI",
    ),
    (re.compile(rb"__(DATE|TIME|TIMESTAMP)__"), "the build time must not enter an artifact"),
)


def digest_bytes(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@dataclass(frozen=True)
class SourceTree:
    """Where the kernel sources lie: `csrc/` and `asm/` under `root`, headers under the one include root."""

    root: Path

    @property
    def include(self) -> Path:
        return self.root / "csrc" / "include"

    def read(self, relative: str) -> bytes:
        """Raises `SourceError` where the file is missing or lies outside the tree."""
        path = self.root / relative
        if os.path.isabs(relative) or ".." in Path(relative).parts:
            raise SourceError(f"source {relative!r} lies outside the package")
        try:
            return path.read_bytes()
        except (OSError, ValueError) as error:
            raise SourceError(f"cannot read source {relative!r}: {error}") from error

    def digest(self, relative: str) -> str:
        return digest_bytes(self.read(relative))

    def digests(self, relatives: Iterable[str]) -> dict[str, str]:
        return {relative: self.digest(relative) for relative in sorted(relatives)}

    def snapshot(self) -> dict[str, str]:
        """Digests of every project source, taken before a compile so that an edit during it is noticed."""
        found = {}
        for folder in ("csrc", "asm"):
            for directory, _, files in os.walk(self.root / folder):
                inside = os.path.relpath(directory, self.root)
                for name in files:
                    try:
                        with open(os.path.join(directory, name), "rb") as file:
                            found[os.path.join(inside, name)] = digest_bytes(file.read())
                    except OSError:
                        # An editor's dangling lock link, or a file that went away: no compile can have read it.
                        continue
        return found

    def relative(self, path: str, base: Path) -> str | None:
        """The name of a file that a compiler read, or None where it is not the project's.

        A name under the root counts as it is spelled: a checkout may be made of links into some store.
        """
        for absolute, root in (
            (os.path.normpath(base / path), os.path.normpath(self.root)),
            (os.path.realpath(base / path), os.path.realpath(self.root)),
        ):
            relative = os.path.relpath(absolute, root)
            if relative.split(os.sep)[0] != os.pardir:
                return relative
        return None

    def check(self, relatives: Iterable[str]) -> None:
        """Raises `SourceError` where a file breaks a rule of this tree."""
        for relative in relatives:
            data = self.read(relative)
            for pattern, reason in _FORBIDDEN:
                match = pattern.search(data)
                if match:
                    line = data.count(b"\n", 0, match.start()) + 1
                    raise SourceError(f"{relative}:{line}: {match.group(0).decode().strip()!r} is refused: {reason}")


def package_tree() -> SourceTree:
    return SourceTree(PACKAGE_ROOT)
