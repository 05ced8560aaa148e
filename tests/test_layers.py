"""Imports point down: no layer knows of one above it."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import aiterlite

PACKAGE = Path(aiterlite.__file__).parent

# From the bottom up. A module may import from its own layer and from those before it. The packages `amdgpu` and
# `jit` are one layer each here; their own order is tested below.
LAYERS = (
    ("errors",),
    ("envs",),
    ("hardware",),
    ("target",),
    ("amdgpu",),
    ("jit",),
    ("emulator",),
    ("kernel",),
    ("dispatch",),
    ("wishes",),
    ("tables",),
    ("launch",),
    ("reference",),
    ("ops",),
    ("operators", "activation", "cache", "gemm", "mla", "moe", "mxfp4", "norm", "quant", "rope"),
    ("compat",),
    ("models",),
    ("benchmark",),
    ("demo", "replay"),
    ("cli",),
)
# Packages whose docstring lists their modules in reading order.
ORDERED = ("amdgpu", "jit")


def imported(path: Path) -> set[str]:
    """The modules of this package that a file imports, without the package's name; at any depth of the file."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "aiterlite":
            base = node.module.removeprefix("aiterlite").lstrip(".")
            for alias in node.names:
                inner = f"{base}.{alias.name}".lstrip(".")
                is_module = (PACKAGE / (inner.replace(".", "/") + ".py")).exists() or (
                    PACKAGE / inner.replace(".", "/")
                ).is_dir()
                found.add(inner if is_module else base)
        elif isinstance(node, ast.Import):
            found |= {a.name.removeprefix("aiterlite.") for a in node.names if a.name.startswith("aiterlite.")}
    return {name for name in found if name}


def layer(module: str) -> int | None:
    top = module.split(".")[0]
    return next((index for index, names in enumerate(LAYERS) if top in names), None)


def test_every_module_has_a_layer() -> None:
    tops = {path.stem if path.suffix else path.name for path in PACKAGE.iterdir()}
    tops -= {"__init__", "__main__", "__pycache__", "py", "csrc", "asm", "py.typed"}
    assert {top for top in tops if layer(top) is None} == set()


def test_imports_point_down() -> None:
    wrong = []
    for path in PACKAGE.rglob("*.py"):
        module = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
        own = layer(module)
        if own is None:
            continue
        wrong += [f"{module} imports {name}" for name in imported(path) if (layer(name) or 0) > own]
    assert wrong == []


def reading_order(package: str) -> list[str]:
    text = ast.get_docstring(ast.parse((PACKAGE / package / "__init__.py").read_text())) or ""
    return [line.split()[0] for line in text.splitlines() if line.startswith("    ")]


@pytest.mark.parametrize("package", ORDERED)
def test_modules_use_only_those_above(package: str) -> None:
    order = reading_order(package)
    files = {path.stem for path in (PACKAGE / package).glob("*.py")} - {"__init__", "host_build"}
    assert files == set(order)
    wrong = []
    for module in order:
        for name in imported(PACKAGE / package / f"{module}.py"):
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1 and order.index(parts[1]) > order.index(module):
                wrong.append(f"{package}.{module} imports {name}")
    assert wrong == []


def test_the_machinery_of_assembly_rows_knows_no_family() -> None:
    assert {name for name in imported(PACKAGE / "tables" / "asm.py") if name.startswith("tables")} == set()
