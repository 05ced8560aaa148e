"""The child process that builds one host unit through `torch.utils.cpp_extension`.

Run as a script with a request file. It lives in a process of its own so that no library is loaded into the caller
before its digest is known, and so that a hung compiler can be killed. It imports nothing of this package.
"""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import subprocess
import sys
from typing import Any


def precompile(request: dict[str, Any]) -> list[str]:
    """Compile the prelude of a unit, and give the flags with which a source begins with it; none where there is none.

    Where it cannot be compiled, or a compiled one cannot be used (g++ maps it at a fixed address, which may be taken),
    the sources read it as any header, and their errors tell what is wrong with it. The flags that torch adds do not
    matter: -fPIC is the only one that a compiler holds against a compiled header.
    """
    if not request["prelude"]:
        return []
    directory = request["directory"]
    with open(os.path.join(directory, "prelude.h"), "w") as file:
        file.write(f"#include <{request['prelude']}>\n")
    # The flags are quoted for ninja's shell.
    flags = [word for flag in request["cflags"] for word in shlex.split(flag)]
    words = [os.environ["CXX"], "-fPIC", *[f"-I{path}" for path in request["include"]], *flags]

    def compiles(*arguments: str) -> bool:
        ended = subprocess.run(
            [*words, *arguments], cwd=directory, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
        )
        return ended.returncode == 0

    rule = ["-MMD", "-MF", "prelude.d", "-MT", "prelude.h"]
    if compiles("-x", "c++-header", "prelude.h", *rule, "-o", "prelude.h.part"):
        # By its name the step counts as done.
        compiled = os.path.join(directory, "prelude.h.gch")
        os.rename(os.path.join(directory, "prelude.h.part"), compiled)
        if not compiles("-include", "prelude.h", "-fsyntax-only", "-x", "c++", os.devnull):
            os.unlink(compiled)
    # ninja runs the compiler in this directory too.
    return ["-include", "prelude.h"]


def main(request_path: str) -> int:
    with open(request_path, encoding="utf-8", errors="surrogateescape") as file:
        request = json.load(file)
    sys.path[:] = request["sys_path"]
    from torch.utils import cpp_extension

    try:
        cpp_extension.load(
            name=request["name"],
            sources=request["sources"],
            extra_cflags=[*request["cflags"], *precompile(request)],
            extra_ldflags=request["ldflags"],
            extra_include_paths=request["include"],
            build_directory=request["directory"],
            with_cuda=False,
            is_python_module=False,
        )
    except RuntimeError as error:
        # The error begins with a name, which would stand before the compiler's first line.
        print(str(error).removeprefix(f"Error building extension '{request['name']}': "))
        return 1
    library = ctypes.CDLL(os.path.join(request["directory"], request["name"] + ".so"))
    missing = [symbol for symbol in request["symbols"] if not hasattr(library, symbol)]
    if missing:
        print(f"error: the library does not export {', '.join(missing)}")
        return 1
    with open(os.path.join(request["directory"], "dependencies.txt"), "wb") as file:
        subprocess.run(["ninja", "-C", request["directory"], "-t", "deps"], stdout=file, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
