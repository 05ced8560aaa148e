"""LLVM 22 as an oracle: its disassembler, in a child process because it aborts on some encodings, and its assembler.

`python llvm.py LIBRARY` is the child: it reads "target hex" lines and answers "size text" lines; size 0 is a refusal.
"""

from __future__ import annotations

import ctypes
import functools
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

Text = tuple[int, str]  # size in bytes and text; (0, "") if refused


@functools.cache
def library() -> str | None:
    """libLLVM of Debian's llvm-22."""
    config = shutil.which("llvm-config-22")
    if config is None:
        return None
    folder = subprocess.run([config, "--libdir"], capture_output=True, text=True, check=True).stdout.strip()
    for place in (Path(folder), Path("/usr/lib/x86_64-linux-gnu"), Path("/usr/lib/aarch64-linux-gnu")):
        for path in sorted(place.glob("libLLVM.so.22*")):
            return str(path)
    return None


def missing() -> str:
    """Why the oracle cannot be used, or nothing."""
    for tool in ("llvm-mc-22", "llvm-objdump-22", "llvm-readelf-22"):
        if shutil.which(tool) is None:
            return f"{tool} is not installed (Debian package llvm-22)"
    return "" if library() else "no libLLVM.so.22"


def disassemble(words: Iterable[tuple[str, bytes]]) -> list[Text]:
    """LLVM's reading of (target, bytes) pairs."""
    lines = "".join(f"{target} {data.hex()}\n" for target, data in words)
    child = [sys.executable, __file__, library() or ""]
    output = subprocess.run(child, input=lines, capture_output=True, text=True, check=True).stdout
    answers = (line.split(" ", 1) for line in output.splitlines())
    return [(int(size), text) for size, text in answers]


def assemble(target: str, texts: list[str]) -> list[bytes | None]:
    """The encoding of each instruction text, None where the assembler refuses it."""
    command = ["llvm-mc-22", "-triple=amdgcn-amd-amdhsa", f"-mcpu={target}", "-show-encoding"]
    run = subprocess.run(command, input="".join(f"{text}\n" for text in texts), capture_output=True, text=True)
    refused = {int(line) for line in re.findall(r"^<stdin>:(\d+):\d+: error", run.stderr, re.M)}
    encodings = iter(re.findall(r"encoding: \[([^\]]*)\]", run.stdout))
    result: list[bytes | None] = [
        None if line in refused else bytes(int(byte, 16) for byte in next(encodings).split(","))
        for line in range(1, len(texts) + 1)
    ]
    assert next(encodings, None) is None, "the assembler's answers do not match the texts"
    return result


def _child(path: str) -> None:
    lib = ctypes.CDLL(path)
    for part in ("TargetInfo", "Target", "TargetMC", "Disassembler"):
        getattr(lib, f"LLVMInitializeAMDGPU{part}")()
    lib.LLVMCreateDisasmCPU.restype = ctypes.c_void_p
    run = lib.LLVMDisasmInstruction
    run.restype = ctypes.c_size_t
    run.argtypes = [
        ctypes.c_void_p,
        ctypes.c_char_p,
        ctypes.c_uint64,
        ctypes.c_uint64,
        ctypes.c_char_p,
        ctypes.c_size_t,
    ]
    contexts = {
        target: lib.LLVMCreateDisasmCPU(b"amdgcn-amd-amdhsa", target.encode(), None, 0, None, None)
        for target in ("gfx942", "gfx950")
    }
    buffer = ctypes.create_string_buffer(1024)
    for line in sys.stdin:
        target, digits = line.split()
        data = bytes.fromhex(digits)
        size = run(contexts[target], data, len(data), 0, buffer, len(buffer))
        text = re.sub(r"\s+", " ", buffer.value.decode()).strip() if size else ""
        sys.stdout.write(f"{size} {text}\n")


if __name__ == "__main__":
    _child(sys.argv[1])
