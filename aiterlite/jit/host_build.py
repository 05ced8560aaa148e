"""The child process that builds one host unit through `torch.utils.cpp_extension`.

Run as a script with a request file. It lives in a process of its own so that no library is loaded into the caller
before its digest is known, and so that a hung compiler can be killed. It imports nothing of this package.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys


def main(request_path: str) -> int:
    with open(request_path, encoding="utf-8", errors="surrogateescape") as file:
        request = json.load(file)
    sys.path[:] = request["sys_path"]
    from torch.utils import cpp_extension

    try:
        cpp_extension.load(
            name=request["name"],
            sources=request["sources"],
            extra_cflags=request["cflags"],
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
