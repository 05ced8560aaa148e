"""What a unit is. Pure: nothing here touches the file system."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

HOST, AMD, CUDA = "host", "amd", "cuda"
_SUFFIX = {HOST: ".so", AMD: ".co", CUDA: ".cubin"}

# Version 5 is what every runtime since ROCm 6.0 reads: a newer clang's own choice (6) is refused by ROCm 6.1 and older
# without a word on versions.
CODE_OBJECT_VERSION = 5
_VERSION = f"-mcode-object-version={CODE_OBJECT_VERSION} "

# {cc}, {lld}, {builtin}, {src}, {include} and {out} are filled with this machine's paths when a unit is built. The
# text with the braces left in is what the key covers, so that no path is ever part of a key.
_AMD_TEXT = (
    "{cc} -x {language} --cuda-device-only --offload-arch={target} "
    + _VERSION
    + "-nogpulib -nogpuinc -nostdinc -isystem {builtin} -std=c++20 -O3 -fuse-cuid=none -Wall "
    "-Werror=undefined-internal -ffile-prefix-map={root}=. -I{include} "
    "-Xclang -dependency-file -Xclang {out}.d -Xclang -MT -Xclang {out} -Xclang -sys-header-deps "
    "{flags} -S -Xclang -emit-obj {src} -o {out}.o",
    "{lld} -shared --no-undefined {out}.o -o {out}",
)
# Assembly is plain target code: the offload flags would run it through the host's assembler. Without -nogpulib, clang
# before 22 asks for ROCm's device library even here.
_AMD_ASM_TEXT = (
    "{cc} -x assembler-with-cpp -target amdgcn-amd-amdhsa -mcpu={target} "
    + _VERSION
    + "-nogpulib -nostdinc -ffile-prefix-map={root}=. -I{include} -I{generated} "
    "-MD -MF {out}.d -MT {out} {flags} -c {src} -o {out}.o",
    "{lld} -shared --no-undefined {out}.o -o {out}",
)
_CUDA_TEXT = (
    "{cc} -cubin -arch={target} -x cu -std=c++17 -O3 -Xptxas -v -ccbin {ccbin} -I{include} -MD -MF {out}.d {flags} "
    "{src} -o {out}",
)
_HOST_FLAGS = ("-O3", "-fvisibility=hidden", "-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-Wall")
_HOST_LINK = ("-Wl,--as-needed", "-Wl,--no-undefined")

# What a unit from a manifest, a bundle or a command line may hold. A host unit's words pass through a ninja file, and
# some flags make a compiler load a library or read another file: such a unit would be a program, not data.
_SAFE = {
    "name": re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)?"),
    "target": re.compile(r"(gfx|sm_|cpu-)[a-z0-9_-]+"),
    "source": re.compile(r"(csrc|asm)(/[A-Za-z0-9_]+)+\.(cpp|hip|S)"),
    "define": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "define value": re.compile(r"[A-Za-z0-9_.+-]*"),
    "flag": re.compile(r"-(O[0-3s]|f[a-z][a-z0-9-]*|W[a-z][a-z0-9-]*|m[a-z][a-z0-9-]*(=[a-z0-9_.+-]+)?)"),
    "symbol": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "argument struct": re.compile(r"aiterlite(/[A-Za-z0-9_]+)+\.h:[A-Za-z_][A-Za-z0-9_]*"),
}


@dataclass(frozen=True)
class Unit:
    """One shared library, code object or cubin: sources of the package, defines and a target.

    `name` is the family for a host unit and `family/kernel` for a device unit. `sources` are relative to the package
    directory. `symbols` are what callers look up in the artifact. `arguments` names the argument struct whose layout an
    assembly unit is given (`ArgumentStruct.spec`), since it cannot read the C header; empty for others. The order of
    `defines` means nothing; `ValueError` is raised where one is given twice.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    defines: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    arguments: str = ""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.defines]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{self.name} defines {', '.join(sorted(twice))} twice")
        object.__setattr__(self, "defines", tuple(sorted(self.defines)))

    @property
    def kind(self) -> str:
        if self.target.startswith("gfx"):
            return AMD
        return CUDA if self.target.startswith("sm_") else HOST

    @property
    def is_assembly(self) -> bool:
        return self.sources[0].endswith(".S")

    @property
    def artifact_name(self) -> str:
        return self.name.rsplit("/", 1)[-1] + _SUFFIX[self.kind]

    @property
    def label(self) -> str:
        """A short name for people: `gemm/wv_split_k[bf16,cols=8] for gfx942`."""
        knobs = ",".join(f"{name.removeprefix('AITERLITE_').lower()}={value}" for name, value in self.defines)
        return f"{self.name}[{knobs}] for {self.target}" if knobs else f"{self.name} for {self.target}"

    def to_json(self) -> dict[str, Any]:
        arguments = {"arguments": self.arguments} if self.arguments else {}
        return {
            "name": self.name,
            "sources": list(self.sources),
            "target": self.target,
            "defines": [list(pair) for pair in self.defines],
            "flags": list(self.flags),
            "symbols": list(self.symbols),
            **arguments,
        }

    @classmethod
    def from_json(cls, data: Any) -> Unit:
        """Raises `ValueError` on anything that `to_json` does not make."""
        fields = {"name", "sources", "target", "defines", "flags", "symbols"}
        if not isinstance(data, dict) or set(data) - {"arguments"} != fields:
            raise ValueError(f"a unit has the fields {', '.join(sorted(fields))}, and arguments where it is assembly")
        lists = [data[name] for name in ("sources", "defines", "flags", "symbols")]
        pairs = data["defines"]
        if not all(isinstance(item, list) for item in lists) or not data["sources"]:
            raise ValueError("a unit has one source or more, and lists of defines, flags and symbols")
        if not all(isinstance(pair, list) and len(pair) == 2 for pair in pairs):
            raise ValueError("a define is a list of two texts")
        texts = [("name", data["name"]), ("target", data["target"])]
        texts += [("source", text) for text in data["sources"]] + [("flag", text) for text in data["flags"]]
        texts += [("symbol", text) for text in data["symbols"]] + [("define", pair[0]) for pair in pairs]
        texts += [("define value", pair[1]) for pair in pairs]
        texts += [("argument struct", data["arguments"])] if "arguments" in data else []
        for what, text in texts:
            if not isinstance(text, str) or not _SAFE[what].fullmatch(text):
                raise ValueError(f"{text!r} is no {what} that a unit may have")
        return cls(
            name=data["name"],
            sources=tuple(data["sources"]),
            target=data["target"],
            defines=tuple((name, value) for name, value in pairs),
            flags=tuple(data["flags"]),
            symbols=tuple(data["symbols"]),
            arguments=data.get("arguments", ""),
        )


def define_flags(unit: Unit) -> tuple[str, ...]:
    return tuple(f"-D{name}={value}" for name, value in unit.defines)


def host_flags(unit: Unit) -> tuple[str, ...]:
    """Compiler flags of a host unit. The target id carries the instruction set; -march=native never appears."""
    level = unit.target.removeprefix("cpu-")
    march = ("-march=armv8-a",) if level == "aarch64" else (f"-march={level}",)
    return (*_HOST_FLAGS, *march, *define_flags(unit), *unit.flags)


def host_link_flags() -> tuple[str, ...]:
    return _HOST_LINK


def device_templates(unit: Unit) -> tuple[str, ...]:
    """The command lines of a device unit, as templates of words."""
    if unit.kind == CUDA:
        return _CUDA_TEXT
    return _AMD_ASM_TEXT if unit.is_assembly else _AMD_TEXT


def build_text(unit: Unit) -> str:
    """All that decides a unit's bytes except the contents of files and the versions of tools."""
    if unit.kind == HOST:
        words = shlex.join((*host_flags(unit), *host_link_flags(), *unit.sources))
        lines: tuple[str, ...] = (f"cpp_extension {words}",)
    else:
        words = shlex.join((*define_flags(unit), *unit.flags, *unit.sources))
        lines = (*device_templates(unit), f"flags {words}", f"target {unit.target}")
    return "\n".join(lines)


def fill(template: str, values: Mapping[str, str | Sequence[str]]) -> list[str]:
    """A template's words with this machine's paths filled in.

    A word that is one placeholder may stand for several words; no word is ever split again, so paths may hold spaces.
    """
    words: list[str] = []
    for word in template.split():
        value = values.get(word[1:-1]) if word.startswith("{") and word.endswith("}") else None
        if value is None:
            words.append(word.format(**values))
        elif isinstance(value, str):
            words.append(value)
        else:
            words.extend(value)
    return words
