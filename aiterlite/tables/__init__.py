"""The dispatch tables, a file a family. They import no torch: they answer for any target on any machine."""

from __future__ import annotations

from aiterlite.dispatch import Table
from aiterlite.tables import gemm

TABLES: dict[str, Table] = {table.op: table for table in (gemm.WV_SPLIT_K, gemm.LINEAR)}
