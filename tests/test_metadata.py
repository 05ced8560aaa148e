"""What AMDGPU code objects say of themselves, and that no damage to one raises anything but `ValueError`."""

from __future__ import annotations

import functools
import shutil
import struct
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import TOY_TREE, assembly_unit, toy_unit

from aiterlite.amdgpu import metadata
from aiterlite.jit import engine
from aiterlite.jit.sources import SourceTree, package_tree
from aiterlite.jit.spec import Unit
from aiterlite.tables import gemm
from aiterlite.target import resolve

pytestmark = pytest.mark.compile


@functools.cache
def code_object() -> bytes:
    return engine.obtain(toy_unit("gfx942"), tree=SourceTree(TOY_TREE)).data


def test_a_code_object_tells_its_kernels() -> None:
    kernels = metadata.kernels(code_object())
    assert [kernel["name"] for kernel in kernels] == ["toy"]
    assert kernels[0]["wavefront_size"] == 64
    assert [argument["value_kind"] for argument in kernels[0]["args"]] == ["global_buffer"]


def test_a_code_object_tells_its_resources() -> None:
    resources = metadata.resources(code_object())["toy"]
    assert 0 < resources["vgprs"] <= 8 and resources["max_workgroup"] == 64 and resources["kernarg_bytes"] == 8
    assert resources["lds_bytes"] == resources["scratch_bytes"] == resources["vgpr_spills"] == 0


def test_assembly_is_described_by_its_own_metadata() -> None:
    artifact = engine.obtain(assembly_unit(), tree=SourceTree(TOY_TREE))
    assert artifact.entry.meta["resources"]["toy"]["max_workgroup"] == 64
    assert set(artifact.entry.meta["headers"]) == {
        "csrc/include/aiterlite/deep/scale.h",
        "csrc/include/aiterlite/kernel_asm.inc",
    }


def test_every_launch_bound_of_the_package_is_obeyed() -> None:
    """An attribute that the compiler ignores would leave 1024, and half of the registers."""
    for chip, n in (("mi300x", 1), ("mi300x", 16), ("mi308x", 4), ("mi355x", 8)):
        persona = resolve(chip)
        problem = gemm.GemmProblem(n, 256, 512)
        plan = gemm.plan_wv_split_k(problem, persona)
        artifact = engine.obtain(gemm.device_unit(problem, persona, plan))
        assert artifact.entry.meta["resources"][gemm.KERNEL]["max_workgroup"] == plan.block, plan
        assert artifact.entry.meta["resources"][gemm.KERNEL]["scratch_bytes"] == 0


@pytest.mark.parametrize("threads", [64, 192, 1024])
def test_the_macro_of_the_device_library_bounds_a_workgroup(tmp_path: Path, threads: int) -> None:
    shutil.copytree(package_tree().include, tmp_path / "csrc/include")
    (tmp_path / "csrc/toy").mkdir()
    (tmp_path / "csrc/toy/bound.hip").write_text(
        "#include <aiterlite/platform.h>\n"
        "AITERLITE_KERNEL(THREADS) bound(int* out) { out[aiterlite::lane_id()] = 1; }\n"
    )
    unit = Unit("toy/bound", ("csrc/toy/bound.hip",), "gfx942", (("THREADS", str(threads)),), symbols=("bound",))
    resources = engine.obtain(unit, tree=SourceTree(tmp_path)).entry.meta["resources"]
    assert resources["bound"]["max_workgroup"] == threads


# Damage ---------------------------------------------------------------------------------------------------------------


def read_or_refuse(image: bytes) -> None:
    try:
        metadata.resources(image)
    except ValueError:
        pass


@given(st.data())
def test_no_damage_crashes_the_reader(data: st.DataObject) -> None:
    image = bytearray(code_object())
    for _ in range(data.draw(st.integers(1, 4))):
        image[data.draw(st.integers(0, len(image) - 1))] = data.draw(st.integers(0, 255))
    read_or_refuse(bytes(image[: data.draw(st.integers(0, len(image)))]))


def with_note(content: bytes) -> bytes:
    """An ELF file that holds nothing but a metadata note."""
    note = struct.pack("<III", 7, len(content), 32) + b"AMDGPU\0\0" + content
    start = b"\x7fELF\x02\x01".ljust(16, b"\0") + struct.pack("<HHIQ", 3, 224, 1, 0)
    header = start + struct.pack("<QQIHHHHHH", 64, 0, 0, 64, 56, 1, 64, 0, 0)
    return header + struct.pack("<IIQQQQQQ", 4, 0, 120, 0, 0, len(note), len(note), 4) + note


@given(st.binary(max_size=40))
def test_no_metadata_crashes_the_reader(content: bytes) -> None:
    read_or_refuse(with_note(content))


@pytest.mark.parametrize(
    "content",
    [
        b"\x05",  # a number
        b"\x81\xaeamdhsa.kernels\x05",  # kernels that are no list
        b"\x81\xaeamdhsa.kernels\x91\x05",  # a kernel that is no map
        b"\x81\xaeamdhsa.kernels\x91\x80",  # a kernel without a name
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xa5.args\x05",
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xab.vgpr_count\xa1x",
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xab.vgpr_count\x90",
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xab.vgpr_count\xca\x7f\x80\x00\x00",
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xab.vgpr_count\xff",  # -1
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xab.vgpr_count\xc3",  # true
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xaf.wavefront_size\xa1x",
        b"\x81\xaeamdhsa.kernels\x91\x82\xa5.name\xa1k\xa5.args\x91\x81\xa7.offset\xa1x",
        b"\x91" * 5000 + b"\x05",  # nested beyond any stack
        b"\xdf\xff\xff\xff\xff",  # a map longer than the file
        b"\xc1",
    ],
)
def test_metadata_of_another_form_is_an_error(content: bytes) -> None:
    with pytest.raises(ValueError):
        metadata.resources(with_note(content))


def test_a_kernel_list_may_be_empty() -> None:
    assert metadata.resources(with_note(b"\x81\xaeamdhsa.kernels\x90")) == {}
