"""A toy assembly kernel, its row of a manifest, and what a test may change in it.

The kernel writes bias[m] to y[m] for one token: what a skinny GEMM gives where x is zero.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import aiterlite
from aiterlite.dispatch import Holds
from aiterlite.jit.sources import SourceTree
from aiterlite.tables.asm import AsmKernel, AsmVariant
from aiterlite.tables.gemm_args import GEMM_ARGS

PACKAGE_ROOT = Path(aiterlite.__file__).parent

SOURCE = "asm/toy/checked.S"
ROWS = 64

TEXT = """// y[m] = bias[m] for one token of 16 bits, 64 weight rows a workgroup. Reads 2 * M bytes and writes as many.
  .text
  .globl toy_checked
  .p2align 8
  .type toy_checked, @function
toy_checked:
  s_load_dwordx4 s[4:7], s[0:1], 0x10
  s_load_dword s8, s[0:1], 0x44
  v_lshl_or_b32 v0, s2, 6, v0
  v_lshlrev_b32_e32 v1, 1, v0
  s_waitcnt lgkmcnt(0)
  v_cmp_gt_u32_e32 vcc, s8, v0
  s_and_saveexec_b64 s[10:11], vcc
  global_load_ushort v2, v1, s[4:5]
  s_waitcnt vmcnt(0)
  global_store_short v1, v2, s[6:7]
  s_endpgm
.Lend:
  .size toy_checked, .Lend - toy_checked

  .rodata
  .p2align 6
  .amdhsa_kernel toy_checked
    .amdhsa_kernarg_size 80
    .amdhsa_group_segment_fixed_size 256
    .amdhsa_private_segment_fixed_size 0
    .amdhsa_next_free_vgpr 16
    .amdhsa_next_free_sgpr 16
    .amdhsa_accum_offset 8
    .amdhsa_user_sgpr_kernarg_segment_ptr 1
    .amdhsa_system_sgpr_workgroup_id_x 1
  .end_amdhsa_kernel

#if defined(__gfx950__)
#define TARGET amdgcn-amd-amdhsa--gfx950
#else
#define TARGET amdgcn-amd-amdhsa--gfx942
#endif

  .amdgpu_metadata
amdhsa.version: [1, 2]
amdhsa.target: TARGET
amdhsa.kernels:
  - .name: toy_checked
    .symbol: toy_checked.kd
    .kernarg_segment_size: 80
    .kernarg_segment_align: 8
    .group_segment_fixed_size: 256
    .private_segment_fixed_size: 0
    .wavefront_size: 64
    .sgpr_count: 16
    .vgpr_count: 12
    .agpr_count: 4
    .vgpr_spill_count: 0
    .max_flat_workgroup_size: 64
    .args:
      - {.name: x, .offset: 0, .size: 8, .value_kind: global_buffer, .address_space: global}
      - {.name: weight, .offset: 8, .size: 8, .value_kind: global_buffer, .address_space: global}
      - {.name: bias, .offset: 16, .size: 8, .value_kind: global_buffer, .address_space: global}
      - {.name: !str y, .offset: 24, .size: 8, .value_kind: global_buffer, .address_space: global}
      - {.name: stride_x, .offset: 32, .size: 8, .value_kind: by_value}
      - {.name: stride_w, .offset: 40, .size: 8, .value_kind: by_value}
      - {.name: stride_bias, .offset: 48, .size: 8, .value_kind: by_value}
      - {.name: stride_y, .offset: 56, .size: 8, .value_kind: by_value}
      - {.name: !str n, .offset: 64, .size: 4, .value_kind: by_value}
      - {.name: m, .offset: 68, .size: 4, .value_kind: by_value}
      - {.name: k, .offset: 72, .size: 4, .value_kind: by_value}
      - {.name: reserved, .offset: 76, .size: 4, .value_kind: by_value}
  .end_amdgpu_metadata
"""


def kernel(**changes: Any) -> AsmKernel:
    """The toy's row of a manifest."""
    settings: dict[str, Any] = {
        "name": "toy_asm",
        "unit": "toy/checked",
        "symbol": "toy_checked",
        "source": SOURCE,
        "targets": ("gfx942", "gfx950"),
        "arguments": GEMM_ARGS,
        "dtypes": ("bf16",),
        "variants": lambda target: (variant(),),
        "tokens": (1, 1),
        "requires": (Holds("bias", True, "the toy copies the bias"),),
    }
    return AsmKernel(**{**settings, **changes})


def variant(**changes: Any) -> AsmVariant:
    """Its one variant."""
    settings: dict[str, Any] = {
        "defines": (),
        "tile": (1, ROWS),
        "waves": 1,
        "waves_per_simd": 8,
        "lds_bytes": 256,
    }
    return AsmVariant(**{**settings, **changes})


def write(tree: SourceTree, *edits: tuple[str, str]) -> None:
    """Put the toy's source into a tree, each (old, new) text replaced, and its struct where there is none; every old
    text must be there."""
    text = TEXT
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    path = tree.root / SOURCE
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    if not (tree.include / GEMM_ARGS.header).exists():
        write_struct(tree)


def write_struct(tree: SourceTree, *edits: tuple[str, str]) -> None:
    """Put the header of the toy's argument struct into a tree, each (old, new) text replaced once."""
    text = (PACKAGE_ROOT / "csrc" / "include" / GEMM_ARGS.header).read_text()
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new, 1)
    (tree.include / GEMM_ARGS.header).write_text(text)
