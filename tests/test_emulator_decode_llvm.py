"""The decoder against LLVM 22: random encodings of every opcode, both ways, and what clang makes of real kernels."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from emulator import corpus, encodings, llvm, native, session

PER_OPCODE = 12
SEED = 42

pytestmark = [
    pytest.mark.compile,
    pytest.mark.torch,
    pytest.mark.slow,
    pytest.mark.skipif(bool(llvm.missing()), reason=llvm.missing()),
    pytest.mark.skipif(native.compiler() is None, reason="no C++ compiler"),
]

# Encodings that LLVM both prints and assembles and that the decoder refuses, because they mean nothing on the hardware.
REFUSED_ON_PURPOSE = (
    r"v_(mfma|mfma_scale)_f32_\w+_f8f6f4 .* (cbsz|blgp):[567]",  # formats that do not exist
    r"v_nop .",  # DPP of an instruction without operands
    r"v_mfma_f64_4x4x4_4b_f64 .*, src_",  # a scalar register as accumulator
    r"v_(cmpx?\w*_e64|readlane_b32|readfirstlane_b32) src_",  # a destination that is read-only
    r"global_load_lds_\w+ v\d+, exec",  # LLVM refuses exec as a base address in the other loads
    r"v_mfma_ld_scale_b32 ",  # in front of an MFMA that LLVM cannot read
)
# Encodings that the decoder reads and LLVM 22 does not.
READ_ON_PURPOSE = (
    r"(flat|global)_atomic_(add_f32|pk_add_f16|add_f64|min_f64|max_f64) a.* sc0",  # its tables lack results in AGPRs
    r"v_read(first)?lane_b32 m0,",  # legal in earlier versions of LLVM
)


def matches(patterns: tuple[str, ...], text: str) -> bool:
    return any(re.match(pattern, text) for pattern in patterns)


@pytest.fixture(scope="session")
def library() -> native.Library:
    return native.shared_library()


@pytest.mark.parametrize("target", native.TARGETS)
def test_random_encodings(library: native.Library, target: str) -> None:
    """What LLVM prints we print; what it refuses we refuse. An encoding that LLVM prints but would assemble otherwise
    (bits set that it ignores, operands it flags) we may refuse, but not print differently."""
    draws = [data.ljust(16, b"\0") for _, _, data in encodings.draw(PER_OPCODE, SEED)]
    theirs = llvm.disassemble((target, data) for data in draws)
    ours = [library.decode(target, data) for data in draws]
    # LLVM reads a 12-byte VOP3 with a literal, which these targets lack, and flags operands in comments.
    printed = [size not in (0, 12) and "/*" not in text and "Warning" not in text for size, text in theirs]

    doubtful = [i for i, decoded in enumerate(ours) if printed[i] and decoded.status != "ok"]
    again = llvm.assemble(target, [theirs[i][1] for i in doubtful])
    refused = [
        (draws[i].hex(), theirs[i][1], ours[i].text)
        for i, encoded in zip(doubtful, again, strict=True)
        if encoded == draws[i][: theirs[i][0]] and not matches(REFUSED_ON_PURPOSE, theirs[i][1])
    ]
    different = [
        (draws[i].hex(), theirs[i], decoded)
        for i, decoded in enumerate(ours)
        if printed[i] and decoded.status == "ok" and theirs[i] != (decoded.size, decoded.text)
    ]
    invented = [
        (draws[i].hex(), decoded.text)
        for i, decoded in enumerate(ours)
        if decoded.status == "ok" and not printed[i] and not matches(READ_ON_PURPOSE, decoded.text)
    ]
    assert refused == []
    assert different == []
    assert invented == []
    agreed = sum(1 for i, decoded in enumerate(ours) if printed[i] and decoded.status == "ok")
    assert agreed > 8000


@pytest.mark.parametrize("target", native.TARGETS)
def test_text_assembles_to_the_same_bytes(library: native.Library, target: str) -> None:
    draws = [data.ljust(16, b"\0") for _, _, data in encodings.draw(PER_OPCODE, SEED + 1)]
    ours = [(data, library.decode(target, data)) for data in draws]
    accepted = [(data, decoded) for data, decoded in ours if decoded.status == "ok"]
    encoded = llvm.assemble(target, [decoded.text for _, decoded in accepted])
    same = sum(e == data[: decoded.size] for e, (data, decoded) in zip(encoded, accepted, strict=True))
    # The rest has a shorter spelling (a literal that is an inline constant) or bits that do not matter.
    assert same > 0.98 * len(accepted)
    assembled = {decoded.op for e, (_, decoded) in zip(encoded, accepted, strict=True) if e is not None}
    on_target = {decoded.op for _, decoded in accepted}
    assert on_target - assembled <= {"v_nop", "v_clrexcp"}


# Compiled kernels -----------------------------------------------------------------------------------------------------


LINE = re.compile(r"\t(.*?)\s*// ([0-9A-F]+):((?: [0-9A-F]{8})+)(.*)")


def instructions(listing: str) -> dict[int, tuple[str, str, str]]:
    """Text, dwords and branch label by address."""
    found = (LINE.match(line) for line in listing.splitlines())
    return {int(m[2], 16): (m[1].strip(), m[3], m[4].strip()) for m in found if m}


@pytest.mark.skipif(bool(session.missing()), reason=session.missing())
@pytest.mark.parametrize("target", native.TARGETS)
@pytest.mark.parametrize("level", [*corpus.LEVELS, "-O2"])
def test_compiled_kernels(library: native.Library, tmp_path: Path, target: str, level: str) -> None:
    """Of the corpus, and at one level more than it is executed at."""
    objdump = shutil.which("llvm-objdump-22")
    assert objdump is not None
    total, forms = 0, set()
    sources = [source for source in corpus.sources() if target in corpus.targets_of(source)]
    assert len(sources) >= 20
    path = tmp_path / "kernel.co"
    for source in sources:
        data = corpus.compile_object(source, target, level, session.folder())
        path.write_bytes(data)
        theirs = instructions(subprocess.run([objdump, "-d", path], capture_output=True, text=True, check=True).stdout)
        ours = instructions(library.listing(data))
        # Only what pads the end of a function may be missing.
        padding = {address for address in theirs.keys() - ours.keys() if theirs[address][0] == "s_nop 0"}
        assert ours == {address: theirs[address] for address in theirs.keys() - padding}, source
        total += len(ours)
        for function in library.coverage(data)["functions"]:
            assert function["unknown"] == []
            forms |= {(form["op"], form["encoding"]) for form in function["forms"]}
    assert total > 5000
    assert len(forms) > 150
