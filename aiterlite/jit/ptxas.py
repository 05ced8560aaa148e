"""What `ptxas -v` prints of the kernels that it assembles. Pure."""

from __future__ import annotations

import re


def resources(log: str) -> dict[str, dict[str, int]]:
    """Registers, shared memory, stack and spills of each kernel of a cubin."""
    found: dict[str, dict[str, int]] = {}
    name = ""
    for line in log.splitlines():
        entry = re.search(r"Compiling entry function '(\w+)'", line)
        if entry:
            name = entry.group(1)
            found[name] = {}
        if name:
            for field, pattern in (
                ("registers", r"Used (\d+) registers"),
                ("shared_bytes", r"(\d+) bytes smem"),
                ("stack_bytes", r"(\d+) bytes stack frame"),
                ("spill_store_bytes", r"(\d+) bytes spill stores"),
                ("spill_load_bytes", r"(\d+) bytes spill loads"),
            ):
                match = re.search(pattern, line)
                if match:
                    found[name][field] = int(match.group(1))
    return found
