"""What the compiler makes of the corpus is right: no sanitizer of registers finds fault with it."""

from __future__ import annotations

import pytest
from emulator import corpus, session
from emulator.corpus import KERNELS
from emulator.launches import Kernel

CHECKS = ("waits", "hazards", "registers", "barriers")
LAUNCHES = [(kernel, target) for kernel in KERNELS.values() for target in kernel.targets]

pytestmark = [
    pytest.mark.emulated,
    pytest.mark.compile,
    pytest.mark.skipif(bool(session.missing()), reason=session.missing()),
]


@pytest.mark.parametrize(("kernel", "target"), LAUNCHES, ids=lambda value: getattr(value, "name", value))
def test_the_corpus_is_clean(kernel: Kernel, target: str) -> None:
    for level in ("-O1", "-O3"):
        report = corpus.run(session.module(kernel.source, target, level), kernel, target, sanitize=CHECKS)
        assert not report.findings, f"{level}: " + "\n".join(map(str, report.findings))
