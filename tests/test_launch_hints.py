"""What errors say of a driver's refusal: images too new, of another target or none; faults of earlier kernels."""

from __future__ import annotations

import functools

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import TOY_TREE, toy_unit

from aiterlite.jit import engine, spec
from aiterlite.jit.sources import SourceTree
from aiterlite.launch import hints
from aiterlite.launch.hints import launch_failure_hint, load_failure_hint

ROCM_6_1, ROCM_6_4, ROCM_7_0 = 60140091, 60443484, 70051831


@functools.cache
def image(target: str = "gfx942", version: int = 5) -> bytes:
    with pytest.MonkeyPatch.context() as patch:
        text = tuple(part.replace("object-version=5", f"object-version={version}") for part in spec._AMD_TEXT)
        patch.setattr(spec, "_AMD_TEXT", text)
        return engine.obtain(toy_unit(target), tree=SourceTree(TOY_TREE), build=True).data


@pytest.mark.compile
@pytest.mark.parametrize("code", [200, 209, 300])
def test_an_object_that_is_newer_than_the_runtime_is_told(code: int) -> None:
    assert load_failure_hint(image(version=6), ROCM_6_1, code) == (
        "the image is code object version 6 for gfx942, and HIP 6.1.40091 reads versions up to 5: build it again, by "
        "this package's commands (they ask for version 5), or use ROCm 6.3 or newer"
    )
    for version, driver in ((5, ROCM_6_1), (6, ROCM_6_4), (5, ROCM_7_0)):
        assert "reads versions up to" not in load_failure_hint(image(version=version), driver, code)


@pytest.mark.compile
def test_a_refusal_names_target_and_version_and_where_to_look() -> None:
    for driver, reads in ((ROCM_6_4, ", which HIP 6.4.43484 reads"), (0, "")):
        assert load_failure_hint(image(), driver, 209) == (
            f"the image is code object version 5 for gfx942{reads}: is the device a gfx942? AMD_LOG_LEVEL=3 in the "
            "environment makes the runtime say what it compared"
        )


@pytest.mark.compile
def test_a_target_that_is_newer_than_the_runtime_is_told() -> None:
    hint = load_failure_hint(image("gfx950"), ROCM_6_1, 209)
    assert "HIP 6.1.40091 does not know gfx950: use ROCm 7.0 or newer" in hint
    assert "does not know" not in load_failure_hint(image("gfx950"), ROCM_7_0, 209)


@pytest.mark.nvcc
def test_a_cubin_s_target_is_told() -> None:
    hint = load_failure_hint(image("sm_90a"), 12040, 209)
    assert hint == (
        "the image is a cubin for sm_90: is the device one, and the driver of CUDA 12.4 as new as the toolkit that "
        "made it?"
    )


def test_both_layouts_of_a_cubin_s_flags_are_read() -> None:
    def cubin(layout: int, flags: int) -> bytes:
        header = bytearray(64)
        header[:9] = b"\x7fELF\x02\x01\x01\x41" + bytes([layout])
        header[18:20] = (190).to_bytes(2, "little")
        header[48:52] = flags.to_bytes(4, "little")
        return bytes(header)

    assert "cubin for sm_90:" in load_failure_hint(cubin(7, 0x5A055A), 0, 200)
    assert "cubin for sm_90:" in load_failure_hint(cubin(8, 0x6005A04), 0, 200)


def test_no_gpu_is_told() -> None:
    assert "sees no GPU" in load_failure_hint(b"", ROCM_6_4, 100)


@pytest.mark.parametrize("code", [0, 1, 2, 98, 500, 719])
def test_what_has_another_cause_gets_no_hint(code: int) -> None:
    assert load_failure_hint(b"\x7fELF", ROCM_6_4, code) == ""


@given(st.binary(max_size=80), st.integers(0, 10**9), st.sampled_from([200, 209]))
def test_no_image_makes_the_hint_fail(data: bytes, driver: int, code: int) -> None:
    assert load_failure_hint(data, driver, code)
    assert load_failure_hint(b"\x7fELF\x02\x01" + data, driver, code)


@pytest.mark.parametrize(
    ("driver", "newest"), [(60140091, 5), (60241133, 5), (60300000, 6), (70051831, 6), (50000000, 4)]
)
def test_which_versions_a_runtime_reads(driver: int, newest: int) -> None:
    assert hints.newest_code_object(driver) == newest


@pytest.mark.parametrize("code", [700, 710, 719])
def test_a_fault_is_an_earlier_kernel_s(code: int) -> None:
    for family, word in (
        ("amd", "AMD_SERIALIZE_KERNEL=3"),
        ("cuda", "CUDA_LAUNCH_BLOCKING=1, or under compute-sanitizer,"),
    ):
        hint = launch_failure_hint(family, code)
        assert hint.startswith("a kernel that was launched earlier faulted") and word in hint
        assert "AITERLITE_LAST_LAUNCHES=DIR" in hint and "aiterlite last-launches" in hint


def test_a_launch_s_own_refusal_is_its_own() -> None:
    for family in ("amd", "cuda", "emulated"):
        for code in (0, 1, 9, 98, 209, 701, 702, 999, -1):
            assert launch_failure_hint(family, code) == ""
    assert launch_failure_hint("emulated", 719) == ""
    assert launch_failure_hint("cuda", 716) and not launch_failure_hint("amd", 716)
