"""What a unit is. Pure: nothing here touches the file system."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

HOST, AMD, CUDA = "host", "amd", "cuda"
_SUFFIX = {HOST: ".so", AMD: ".co", CUDA: ".cubin"}

# Every runtime since ROCm 6.0 reads version 5; ROCm 6.1 and older refuse a newer clang's own choice (6) without a word
# on versions.
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

# Flags by name, since a pattern also lets through those that make a compiler load a library (-fpass-plugin), take the
# next word for its own (-mllvm), or read a file that no include list shows (-fprofile-use).
FLAGS = frozenset(
    (
        *("-O0", "-O1", "-O2", "-O3", "-Os", "-Werror", "-Wextra"),
        *("-fexceptions", "-fno-exceptions", "-frtti", "-fno-rtti", "-fwrapv", "-fno-strict-aliasing"),
        *("-ffp-contract=off", "-ffp-contract=on", "-ffp-contract=fast", "-ffast-math", "-fno-fast-math"),
        *("-fno-math-errno", "-fno-trapping-math", "-fno-signed-zeros", "-fno-finite-math-only"),
        *("-funroll-loops", "-fno-unroll-loops", "-fno-slp-vectorize", "-munsafe-fp-atomics", "-mcumode"),
        *("-Wno-uninitialized", "-Wno-maybe-uninitialized", "-Wno-ignored-attributes"),
    )
)

# What a unit from a manifest, a bundle or a command line may hold. A host unit's words pass through a ninja file, and
# the rest ends in file names: a unit of any other form would be a program, not data.
_SAFE = {
    "name": re.compile(r"[a-z0-9_]+(/[a-z0-9_]+)?"),
    "target": re.compile(r"(gfx|sm_|cpu-)[a-z0-9_-]+"),
    "source": re.compile(r"(csrc|asm)(/[A-Za-z0-9_]+)+\.(cpp|hip|S)"),
    "define": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "define value": re.compile(r"[A-Za-z0-9_.+-]*"),
    "flag": re.compile("|".join(map(re.escape, sorted(FLAGS)))),
    "symbol": re.compile(r"[A-Za-z_][A-Za-z0-9_]*"),
    "prelude": re.compile(r"aiterlite(/[A-Za-z0-9_]+)+\.h"),
    "argument struct": re.compile(r"aiterlite(/[A-Za-z0-9_]+)+\.h:[A-Za-z_][A-Za-z0-9_]*"),
}


def _text(what: str, data: Any) -> str:
    if not isinstance(data, str) or not _SAFE[what].fullmatch(data):
        raise ValueError(f"{data!r} is no {what} that a unit may have")
    return data


def _texts(what: str, data: Any) -> tuple[str, ...]:
    if not isinstance(data, list):
        raise ValueError(f"{data!r} is no list of {what}s")
    return tuple(_text(what, item) for item in data)


def _sources(data: Any) -> tuple[str, ...]:
    if data == []:
        raise ValueError("a unit has one source or more")
    return _texts("source", data)


def _defines(data: Any) -> tuple[tuple[str, str], ...]:
    if not isinstance(data, list) or not all(isinstance(pair, list) and len(pair) == 2 for pair in data):
        raise ValueError(f"{data!r} is no list of defines, each a list of two texts")
    return tuple((_text("define", name), _text("define value", value)) for name, value in data)


@dataclass(frozen=True)
class Form:
    """How one field of a unit is written as JSON and read back; `read` raises `ValueError`.

    An `optional` field is left out where it is empty, so that the JSON and the keys of other units stay as they were
    before the field existed.
    """

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]
    optional: bool = False


FORM: Mapping[str, Form] = {
    "name": Form(str, partial(_text, "name")),
    "sources": Form(list, _sources),
    "target": Form(str, partial(_text, "target")),
    "defines": Form(lambda pairs: [list(pair) for pair in pairs], _defines),
    "flags": Form(list, partial(_texts, "flag")),
    "symbols": Form(list, partial(_texts, "symbol")),
    "arguments": Form(str, partial(_text, "argument struct"), optional=True),
    "prelude": Form(str, partial(_text, "prelude"), optional=True),
}
_REQUIRED = {name for name, form in FORM.items() if not form.optional}


@dataclass(frozen=True)
class Unit:
    """One shared library, code object or cubin: sources of the package, defines and a target.

    `name` is the family for a host unit and `family/kernel` for a device unit. `sources` are relative to the package
    directory. `symbols` are what callers look up in the artifact. `arguments` names the argument struct whose layout an
    assembly unit is given (`ArgumentStruct.spec`), since it cannot read the C header; empty for others. `prelude` is a
    header that each source of a host unit begins with, compiled once for all of them; empty where there is none. The
    order of `defines` means nothing; `ValueError` is raised where one is given twice, and for the prelude of a device
    unit.
    """

    name: str
    sources: tuple[str, ...]
    target: str
    defines: tuple[tuple[str, str], ...] = ()
    flags: tuple[str, ...] = ()
    symbols: tuple[str, ...] = ()
    arguments: str = ""
    prelude: str = ""

    def __post_init__(self) -> None:
        names = [name for name, _ in self.defines]
        twice = {name for name in names if names.count(name) > 1}
        if twice:
            raise ValueError(f"{self.name} defines {', '.join(sorted(twice))} twice")
        if self.prelude and self.kind != HOST:
            raise ValueError(f"{self.name} for {self.target} has a prelude, which only a unit for a CPU may have")
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
        fields = ((name, form, getattr(self, name)) for name, form in FORM.items())
        return {name: form.write(value) for name, form, value in fields if value or not form.optional}

    @classmethod
    def from_json(cls, data: Any) -> Unit:
        """Raises `ValueError` on anything that `to_json` does not make."""
        if not isinstance(data, dict) or not _REQUIRED <= set(data) <= set(FORM):
            optional = ", ".join(name for name, form in FORM.items() if form.optional)
            raise ValueError(
                f"a unit has the fields {', '.join(sorted(_REQUIRED))}, and where it needs them {optional}"
            )
        return cls(**{name: form.read(data[name]) for name, form in FORM.items() if name in data})


def refusal(unit: Unit) -> str:
    """Why a unit would not survive a manifest or a bundle; empty where it would."""
    try:
        return "" if Unit.from_json(unit.to_json()) == unit else "its JSON form is another unit"
    except ValueError as error:
        return str(error)


def define_flags(unit: Unit) -> tuple[str, ...]:
    return tuple(f"-D{name}={value}" for name, value in unit.defines)


def host_flags(unit: Unit) -> tuple[str, ...]:
    """Compiler flags of a host unit. The target id carries the instruction set; -march=native never appears."""
    level = unit.target.removeprefix("cpu-")
    march = ("-march=armv8-a",) if level == "aarch64" else (f"-march={level}",)
    # A compiled header is of one version of C++, and torch's choice for the sources changes with torch.
    standard = ("-std=c++20",) if unit.prelude else ()
    return (*_HOST_FLAGS, *standard, *march, *define_flags(unit), *unit.flags)


def host_link_flags() -> tuple[str, ...]:
    return _HOST_LINK


def device_templates(unit: Unit) -> tuple[str, ...]:
    """The command lines of a device unit, as templates of words."""
    if unit.kind == CUDA:
        return _CUDA_TEXT
    return _AMD_ASM_TEXT if unit.is_assembly else _AMD_TEXT


def build_text(unit: Unit) -> str:
    """All that decides a unit's bytes except the contents of files and the versions of tools."""
    # In a line of their own, since a flag may be spelled as a source is.
    sources = f"sources {shlex.join(unit.sources)}"
    if unit.kind == HOST:
        words = shlex.join((*host_flags(unit), *host_link_flags()))
        lines: tuple[str, ...] = (f"cpp_extension {words}", sources)
        if unit.prelude:
            lines += (f"prelude {unit.prelude}",)
    else:
        words = shlex.join((*define_flags(unit), *unit.flags))
        lines = (*device_templates(unit), f"flags {words}", sources, f"target {unit.target}")
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
