// Writes TOY_SCALE to the address that is its one argument.
#include <aiterlite/kernel_asm.inc>
#include <aiterlite/deep/scale.h>

  .text
  .globl toy
  .p2align 8
  .type toy, @function
toy:
  s_load_dwordx2 s[2:3], s[0:1], 0x0
  v_mov_b32 v0, 0
  v_mov_b32 v1, TOY_SCALE
  s_waitcnt lgkmcnt(0)
  global_store_dword v0, v1, s[2:3]
  s_endpgm
.Ltoy_end:
  .size toy, .Ltoy_end - toy

  .rodata
  .p2align 6
  toy_describe toy

  .amdgpu_metadata
amdhsa.version: [1, 2]
amdhsa.target: amdgcn-amd-amdhsa--gfx942
amdhsa.kernels:
  - .name: toy
    .symbol: toy.kd
    .kernarg_segment_size: 8
    .kernarg_segment_align: 8
    .group_segment_fixed_size: 0
    .private_segment_fixed_size: 0
    .wavefront_size: 64
    .sgpr_count: 8
    .vgpr_count: 4
    .max_flat_workgroup_size: 64
    .args:
      - {.size: 8, .offset: 0, .value_kind: global_buffer, .address_space: global}
  .end_amdgpu_metadata
