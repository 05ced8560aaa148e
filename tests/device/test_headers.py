"""Every header of the device library compiles alone for each target that it is for, and tells others why it is not."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from device_units import CSRC, HOSTSIM

from aiterlite.jit import toolchain

pytestmark = pytest.mark.compile

AMD_TARGETS = ("gfx942", "gfx950")
FOLDERS = ("isa", "tile", "fragment", "block", "numeric")
# Which headers are for one chip family: by the file's name.
ONLY_AMD = ("isa_amdgcn", "isa/amdgcn", "fragment/mfma")
ONLY_NVIDIA = ("isa_ptx", "isa/ptx", "fragment/mma_sync", "fragment/e4m3_operand", "fragment/sm90", "tile/sm90")
# Those of a family that a file of another may include, and then is told why not.
GUARDED = [
    ("fragment/mfma.h", "sm_90a", "fragment/mma_sync.h"),
    ("fragment/mma_sync.h", "gfx942", "fragment/mfma.h"),
    ("fragment/sm90_wgmma.h", "gfx950", "fragment/mfma.h"),
    ("tile/sm90_copy.h", "gfx942", "await_loads"),
]
# Calls of what a target has not, and what the compiler must say.
ABSENT = [
    ("gfx942", "load_transposed_16bit(p)", "gfx942 has no transposing LDS read"),
    ("gfx942", "load_to_lds<16>(p, p)", "gfx942 loads 4 bytes a lane into LDS"),
    ("gfx950", "load_to_lds<8>(p, p)", "8 bytes do not exist"),
    ("gfx942", "mfma_16x16x128_fp8(p, p)", "fragment/mfma.h takes four instead"),
    ("gfx950", "take_registers<240>()", "registers of an AMD wave are fixed"),
    ("gfx950", "named_barrier_wait(1, 64)", "one barrier a workgroup"),
    ("gfx942", "add_in_rank(0, 1)", "AMD has no distributed shared memory"),
    ("gfx942", "copy_async(p, p)", "tile/copy.h"),
    ("sm_90a", "load_to_lds<4>(p, p)", "copy_async, tile/copy.h"),
    ("sm_90a", "take_registers<100>()", "a multiple of 8 from 24 to 256"),
]


def headers() -> list[str]:
    root = CSRC / "include" / "aiterlite"
    files = [*(root / f"{name}.h" for name in ("platform", "vector", "overlap", "isa_amdgcn", "isa_ptx"))]
    files += [path for folder in FOLDERS for path in (root / folder).glob("*.h")]
    return sorted(str(path.relative_to(root)) for path in files)


def is_for(header: str, target: str) -> bool:
    if header.startswith(ONLY_AMD):
        return target.startswith("gfx")
    if header.startswith(ONLY_NVIDIA):
        return target == "sm_90a"
    return True


def command(target: str) -> list[str]:
    if target == "sm_90a":
        location = toolchain.require("cuda")
        words = [*location.cc, "-cubin", "-arch=sm_90a", "-x", "cu", "-std=c++17", "-ccbin", location.ccbin]
        words += ["-Werror", "all-warnings", "-o", "/dev/null"]
    elif target.startswith("gfx"):
        location = toolchain.require("amd")
        words = [*location.cc, "-x", "hip", "--cuda-device-only", f"--offload-arch={target}", "-nogpulib", "-nogpuinc"]
        words += ["-nostdinc", "-isystem", location.builtin] if location.builtin else []
        words += ["-std=c++20", "-Wall", "-Wextra", "-Werror", "-fsyntax-only"]
    else:
        location = toolchain.require("host")
        words = [*location.cc, "-x", "c++", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        words += [f"-DAITERLITE_HOST_SIM={target}", f"-I{HOSTSIM}", "-fsyntax-only"]
    return [*words, f"-I{CSRC / 'include'}"]


def compile_text(target: str, text: str, folder: Path) -> str:
    """What the compiler says of a text; empty where it takes it."""
    folder.mkdir(exist_ok=True)
    source = folder / "text.cpp"
    source.write_text(text)
    done = subprocess.run([*command(target), str(source)], capture_output=True, text=True)
    return "" if done.returncode == 0 else done.stdout + done.stderr or "it fails without a word"


def compile_all(target: str, texts: Sequence[str], folder: Path) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda pair: compile_text(target, pair[1], folder / str(pair[0])), enumerate(texts)))


def each_alone(target: str, names: Sequence[str], folder: Path) -> None:
    # Twice: a header that is not guarded against that is none.
    said = compile_all(target, [f"#include <aiterlite/{name}>\n" * 2 for name in names], folder)
    wrong = {name: text[:1500] for name, text in zip(names, said, strict=True) if text}
    assert not wrong, "\n".join(f"{name}: {text}" for name, text in wrong.items())


def check_absent(target: str, folder: Path) -> None:
    cases = [(call, why) for name, call, why in ABSENT if name == target]
    text = "#include <aiterlite/platform.h>\nAITERLITE_KERNEL(64) k(char* p) { aiterlite::%s; }\n"
    for (call, why), said in zip(cases, compile_all(target, [text % call for call, _ in cases], folder), strict=True):
        assert why in said, f"{call} on {target}: {said[:1500] or 'compiles'}"


def check_guarded(target: str, folder: Path) -> None:
    for header, wrong_target, remedy in GUARDED:
        if wrong_target == target:
            said = compile_text(target, f"#include <aiterlite/{header}>\n", folder)
            assert f"aiterlite/{header.replace('copy', 'barrier')}: " in said and remedy in said, said[:1500] or header


@pytest.mark.parametrize("target", AMD_TARGETS)
def test_amd_headers_compile_alone(target: str, tmp_path: Path) -> None:
    each_alone(target, [name for name in headers() if is_for(name, target)], tmp_path)


@pytest.mark.parametrize("target", AMD_TARGETS)
def test_amd_says_what_it_has_not(target: str, tmp_path: Path) -> None:
    check_absent(target, tmp_path)
    check_guarded(target, tmp_path)


@pytest.mark.nvcc
def test_nvidia_headers_compile_alone(tmp_path: Path) -> None:
    each_alone("sm_90a", [name for name in headers() if is_for(name, "sm_90a")], tmp_path)


@pytest.mark.nvcc
def test_nvidia_says_what_it_has_not(tmp_path: Path) -> None:
    check_absent("sm_90a", tmp_path)
    check_guarded("sm_90a", tmp_path)


@pytest.mark.parametrize("simulated", ["90", "950"])
def test_headers_compile_alone_for_the_simulation(simulated: str, tmp_path: Path) -> None:
    """But for the instruction sets, which it replaces, and what only the emulator or a GPU runs."""
    names = [name for name in headers() if not name.startswith(("isa", "fragment/mfma", "tile/sm90", "fragment/sm90"))]
    names = [name for name in names if simulated == "90" or not name.startswith(ONLY_NVIDIA)]
    # One file a simulation: each header alone would parse the simulation as often.
    text = "".join(f"#include <aiterlite/{name}>\n" for name in names)
    assert compile_text(simulated, text, tmp_path) == ""
