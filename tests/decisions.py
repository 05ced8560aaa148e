"""What tests read in decisions."""

from __future__ import annotations

from aiterlite import dispatch


def why(decision: dispatch.Decision, name: str) -> str:
    (found,) = [item for item in decision.rejected if item.row == name]
    return "; ".join(map(str, found.refusals))


def chosen(decision: dispatch.Decision) -> str | None:
    return decision.row.name if decision.row else None
