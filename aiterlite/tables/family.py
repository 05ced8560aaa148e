"""What a family of operators brings, in one record: all that the package knows of it goes through here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from aiterlite.dispatch import Table
from aiterlite.tables.asm import AsmKernel


@dataclass(frozen=True)
class Family:
    """A family: its dispatch tables, and where the rest of it lives.

    `ops` are the modules that register its operators, and `samples` the one that makes operands up for its problems
    (`aiterlite/ops/samples/`); both import torch, so they are named and imported when they are needed. `public` are the
    names that `aiterlite` itself offers, each with its module. `asm` are its assembly kernels, `defaults` the operators
    that `aiterlite build` builds where none is named, and `bench` the module that measures it, where it does that in a
    way of its own.
    """

    name: str
    tables: tuple[Table, ...]
    ops: tuple[str, ...]
    samples: str
    public: Mapping[str, str] = field(default_factory=dict)
    asm: tuple[AsmKernel, ...] = ()
    defaults: tuple[str, ...] = ()
    bench: str = ""
