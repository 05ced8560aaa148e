"""Run the tests that need no torch, on each Python from 3.10 to 3.13 that is at hand: python tests/run_without_torch.py

Tests that start compilers run on the oldest only: what is compiled is the same, and the tests with torch start
compilers on a newer one. Properties are tried on few examples, as they are on many with torch.

Each version gets a small virtual environment under build/without-torch (what the tests import; no torch). The
cross compiler of the running environment is linked in, so that AMD units are compiled there as well. Tests that need
torch skip themselves. Versions may be named: `python tests/run_without_torch.py 3.10 3.13`.

Exit status 1 if a test failed on any version, or if no version could be tried.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PLACE = ROOT / "build" / "without-torch"
VERSIONS = ("3.10", "3.11", "3.12", "3.13")
# Those left out run kernels that a C++ compiler made, simulated or emulated, or assemble every variant with every
# clang: they take most of the time, and nothing in them depends on the Python. The emulator needs torch besides.
SELECTED = (
    "--ignore-glob=tests/test_*_hostsim.py",
    "--ignore-glob=tests/test_emulator_*",
    "--ignore-glob=tests/test_sanitize_*",
    "--ignore=tests/device",
    "--ignore=tests/test_counters.py",
    "--ignore=tests/test_timeline.py",
    "--ignore=tests/test_cli_emulate.py",
    "--ignore=tests/test_asm_wv_split_k.py",
    "--ignore=tests/test_asm_wv_split_k_q.py",
    "--ignore=tests/test_amdgpu_clangs.py",
    "tests",
)
PACKAGES = ("pytest>=8", "pytest-xdist", "hypothesis", "filelock", "ninja", "packaging")


def find(version: str) -> str | None:
    """An interpreter of a version: this one, one on PATH, or one of pyenv's."""
    if version == f"{sys.version_info[0]}.{sys.version_info[1]}":
        return sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    candidates = [shutil.which(f"python{version}"), *sorted(map(str, pyenv.glob(f"{version}.*/bin/python")))]
    for path in filter(None, candidates):
        answer = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2], sep='.')"], capture_output=True)
        if answer.returncode == 0 and answer.stdout.decode().strip() == version:
            return path
    return None


def prepare(version: str, interpreter: str) -> Path | str:
    """The Python of a version's environment, or why there is none."""
    folder = PLACE / version
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        for words in ([interpreter, "-m", "venv", str(folder)], [str(python), "-m", "pip", "install", "-q", *PACKAGES]):
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode != 0:
                return (done.stderr or done.stdout).strip().splitlines()[-1]
        (folder / "ready").touch()
    return python


def link_compiler() -> Path:
    """A folder that holds the ziglang package alone."""
    folder = PLACE / "compiler"
    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("ziglang")
    link = folder / "ziglang"
    if spec is not None and spec.submodule_search_locations:
        link.unlink(missing_ok=True)
        link.symlink_to(spec.submodule_search_locations[0])
    return folder


def main(versions: tuple[str, ...]) -> int:
    compiler = link_compiler()
    results = {}
    pythons: dict[str, Path] = {}
    for version in versions:
        interpreter = find(version)
        python = prepare(version, interpreter) if interpreter else "no such interpreter here"
        if isinstance(python, str):
            results[version] = f"not tried: {python}"
        else:
            pythons[version] = python
    oldest = next(iter(pythons), "")
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{compiler}"}
    # Each version in one process, side by side: more processes would each import and collect all tests.
    running = {}
    for version, python in pythons.items():
        chosen = "not torch and not gpu" + ("" if version == oldest else " and not compile")
        words = [
            str(python),
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=again",
            "-m",
            chosen,
        ]
        with (PLACE / f"{version}.log").open("w") as log:
            running[version] = subprocess.Popen(
                [*words, *SELECTED], cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
            )
    for version, process in running.items():
        status = process.wait()
        print((PLACE / f"{version}.log").read_text(errors="replace"))
        results[version] = "passed" if status == 0 else f"FAILED with status {status}"
        results[version] += "" if version == oldest else ", without what starts compilers"
    for version in versions:
        print(f"Python {version} without torch: {results[version]}")
    passed = any(result.startswith("passed") for result in results.values())
    return 0 if passed and not any("FAILED" in result for result in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(tuple(sys.argv[1:]) or VERSIONS))
