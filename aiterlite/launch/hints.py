"""What a GPU driver's status code does not say: why it may have refused an image, and whose fault a failed launch is.

Pure: everything here follows from numbers and bytes. The sources of ROCm's compiler support library (comgr) and of its
loader say what versions a runtime reads. `hipError_t` and `CUresult` agree in the codes named here.
"""

from __future__ import annotations

import struct

from aiterlite.amdgpu import code_object

# Invalid image, no binary for the GPU, invalid source: how runtimes refuse what they cannot read or run.
_NO_DEVICE, _INVALID_IMAGE, _NO_BINARY, _INVALID_SOURCE = 100, 200, 209, 300
_REFUSED = {_INVALID_IMAGE, _NO_BINARY, _INVALID_SOURCE}
# (the HIP version from which, what): code object versions, and targets.
_READS = ((60300000, 6), (50300000, 5), (0, 4))
_KNOWS = {"gfx942": (60000000, "6.0"), "gfx950": (60400000, "7.0")}
_EM_CUDA = 190
# From this ABI version on (CUDA 13 writes it) the target stands in the second byte of e_flags, before in the first.
_CUBIN_V2 = 8

# Faults that a kernel leaves behind: an illegal address, a failed assertion, a failure of another kind. Between them,
# those that only CUDA tells apart: stack, instruction, alignment, address space, program counter.
_FAULTS = {"amd": {700, 710, 719}, "cuda": {700, 710, 714, 715, 716, 717, 718, 719}}


def hip_version(number: int) -> str:
    """`hipDriverGetVersion`'s number as people write it: 60443484 is 6.4.43484."""
    return f"{number // 10000000}.{number // 100000 % 100}.{number % 100000}"


def newest_code_object(driver_version: int) -> int:
    """The newest code object version that a HIP runtime of this number reads; before ROCm 6.3, 6 is not among them."""
    return next(reads for since, reads in _READS if driver_version >= since)


def load_failure_hint(image: bytes, driver_version: int, code: int) -> str:
    """Why a driver may have refused to load an image, and what to do; empty where the code says all.

    `driver_version` is what `hipDriverGetVersion` or `cuDriverGetVersion` gave, 0 where that is not known; `code` is
    the status of the load.
    """
    if code == _NO_DEVICE:
        return "the driver sees no GPU: are its devices and groups passed to this container and user?"
    if code not in _REFUSED:
        return ""
    try:
        target, version = code_object.target(image), code_object.version(image)
    except ValueError:
        return _cubin_hint(image, driver_version)
    is_what = f"the image is code object version {version} for {target}"
    if driver_version:
        runtime = f"HIP {hip_version(driver_version)}"
        reads = newest_code_object(driver_version)
        if version > reads:
            return (
                f"{is_what}, and {runtime} reads versions up to {reads}: build it again, by this package's commands "
                "(they ask for version 5), or use ROCm 6.3 or newer"
            )
        since, release = _KNOWS.get(target, (0, ""))
        if driver_version < since:
            return f"{is_what}, and {runtime} does not know {target}: use ROCm {release} or newer"
        is_what += f", which {runtime} reads"
    log = "AMD_LOG_LEVEL=3 in the environment makes the runtime say what it compared"
    return f"{is_what}: is the device a {target}? {log}"


def _cubin_hint(image: bytes, driver_version: int) -> str:
    if image[:4] != b"\x7fELF" or len(image) < 64 or struct.unpack_from("<H", image, 18)[0] != _EM_CUDA:
        return "the image is neither a code object nor a cubin"
    layout, (flags,) = image[8], struct.unpack_from("<I", image, 48)
    target = f"sm_{flags >> 8 & 0xFF if layout >= _CUBIN_V2 else flags & 0xFF}"
    has = f" of CUDA {driver_version // 1000}.{driver_version % 1000 // 10}" if driver_version else ""
    return (
        f"the image is a cubin for {target}: is the device one, and the driver{has} as new as the toolkit that made it?"
    )


def launch_failure_hint(family: str, code: int) -> str:
    """Whose fault a launch's status is; empty where it is the launch's own.

    A kernel that faults is reported by whatever asks next (from ROCm 7.0 on; before, the runtime aborts the process).
    """
    if code not in _FAULTS.get(family, ()):
        return ""
    how = (
        "CUDA_LAUNCH_BLOCKING=1, or under compute-sanitizer,"
        if family == "cuda"
        else "AMD_SERIALIZE_KERNEL=3 in the environment"
    )
    return (
        f"a kernel that was launched earlier faulted, and this call is the first to hear of it. Run again with {how} "
        "to have the faulting launch named, or with AITERLITE_LAST_LAUNCHES=DIR to keep a list of the last ones, which "
        "`aiterlite last-launches` prints. This process cannot use the GPU any more"
    )
