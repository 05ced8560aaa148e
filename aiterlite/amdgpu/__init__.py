"""AMDGPU code objects as data: no compiler, no device, no cache.

Modules, in reading order; each uses only those above it:

    elf         the container: sections, symbols, notes (pure)
    metadata    what a code object says of itself (pure)
    code_object what the hardware reads of it (pure)
    encoding    where its instructions begin (pure)
"""
