"""Tensors of a checkpoint by their names, and parts of them: each rank reads its own rows or columns, no more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from aiterlite.errors import ArgumentError

_INDEX, _SINGLE = "model.safetensors.index.json", "model.safetensors"


class Checkpoint:
    """A folder of safetensors files, as Hugging Face writes it, or a mapping of names to tensors."""

    def __init__(self, source: str | Path | Mapping[str, Tensor]) -> None:
        self._tensors: Mapping[str, Tensor] = source if isinstance(source, Mapping) else {}
        self._files: dict[str, Path] = {} if isinstance(source, Mapping) else _files(Path(source))
        self._opened: dict[Path, Any] = {}
        self._from = "the mapping" if isinstance(source, Mapping) else str(source)

    def __contains__(self, name: str) -> bool:
        return name in self._tensors or name in self._files

    def read(self, name: str, rows: slice | None = None, columns: slice | None = None) -> Tensor:
        """The tensor, or the rows and columns of it; a range may end behind the tensor."""
        whole: Any
        if name in self._tensors:
            whole = self._tensors[name]
        elif name in self._files:
            whole = self._open(self._files[name]).get_slice(name)
        else:
            remedy = "Look for the layer's other names: a checkpoint of a part of a model, or of another model?"
            raise ArgumentError("aiterlite.models.deepseek", "checkpoint", f"{self._from}", f"with {name}", remedy)
        if columns is not None:
            part: Tensor = whole[rows or slice(None), columns]
        else:
            part = whole[rows or slice(None)]
        return part

    def _open(self, path: Path) -> Any:
        if path not in self._opened:
            self._opened[path] = _safetensors().safe_open(str(path), framework="pt")
        return self._opened[path]


def _files(folder: Path) -> dict[str, Path]:
    """The file of each tensor. The names that an index holds are those of files in its folder."""
    if (folder / _INDEX).exists():
        index: dict[str, str] = json.loads((folder / _INDEX).read_text())["weight_map"]
        return {name: folder / Path(file).name for name, file in index.items()}
    paths = [folder / _SINGLE] if (folder / _SINGLE).exists() else sorted(folder.glob("*.safetensors"))
    if not paths:
        got, allowed = f"{folder}, without safetensors files", f"a folder with {_INDEX} or {_SINGLE}"
        raise ArgumentError("aiterlite.models.deepseek", "checkpoint", got, allowed)
    found: dict[str, Path] = {}
    for path in paths:
        with _safetensors().safe_open(str(path), framework="pt") as file:
            found |= dict.fromkeys(file.keys(), path)
    return found


def _safetensors() -> Any:
    try:
        import safetensors
    except ImportError as error:
        raise ImportError("reading a checkpoint needs safetensors: pip install 'aiterlite[models]'") from error
    return safetensors
