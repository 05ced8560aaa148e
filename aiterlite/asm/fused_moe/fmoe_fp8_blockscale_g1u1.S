// The one-stage fused mixture of experts of sorted pairs: gate and up, activation, quantisation and down in one kernel, fp8 with
// a scale for each 128 x 128 of the weights and each 1 x 128 of x. gfx942 (e4m3fnuz) and gfx950 (e4m3fn); bf16 results.
// Arguments are those of fused_moe/args.h.
//
// Defines: AITERLITE_VSKIP 0 or 1, AITERLITE_ACTIVATION silu or gelu; both are in the kernel's name. AITERLITE_STORE atomic: a pair's result is added
// to its token's row of `out`, as pairs of bf16; rows begin at multiples of 4 bytes, and order shows in the last bits.
// AITERLITE_STORE partial: it is stored to its row of `slots`, and another kernel sums. AITERLITE_SLICES 1 to 4: slices
// of 256 columns of inter that a workgroup takes one after the other, so that it stores a row once. More than 1 means
// all of inter, and partial stores need all of it. AITERLITE_MARKS 1: local_topk_ids becomes 1 for each pair.
// AITERLITE_GRID: the workgroups that are launched, at most 65,536.
//
// Tile. Workgroups are as many as the chip has CUs, and each takes every GRID-th item: 32 entries of one expert, and
// SLICES * 256 columns of inter. num_valid_ids says how many there are, of those that buffers hold (sorted_entries).
// Four waves, one a SIMD, with all 512 registers. A wave has 64 rows of gate and the 64 of up that they are multiplied
// with, of all 32 entries; then 64 of each 256 columns of the result.
//
// Weights go from memory to registers, 16 bytes a lane in the order in which they lie, each once for a block of entries;
// two stages of 128 of k (64 KiB of them a workgroup) are on their way or in use. They are the first operand of 32 x 32
// products; the second is x, through LDS, or h, which stays in registers. Products of 128 of k are summed by the matrix
// unit, multiplied by the product of both scales and added in float. h is rounded to fp8 with a scale for 128 columns of
// an entry, results to bf16 after both blocks of all slices are added and the routing weight has been multiplied.
//
// Traffic of an item: weights and their scales once; 32 rows of x with scales; 32 rows of results once. Results cross
// LDS so that a wave stores whole rows, 512 bytes of one at a time: entries of padding, whose token is `tokens` or more,
// are not stored, by exec or by VSKIP, and no x is read for them.
//
// Assumed: width is a multiple of 512 from 1024 to 16384, inter of 256; gate rows before up rows; x, its rows and the
// weights begin at multiples of 16 bytes; an expert's w1 has less than 4 GiB, there are fewer than 2^24 items.
#include <aiterlite/asm/arguments.inc>
#include <aiterlite/asm/kernel.inc>
#include <aiterlite/asm/matrix_32x32.inc>

#define STORE_atomic 1
#define STORE_partial 2
#define STORE_NUMBER_OF(name) STORE_##name
#define STORE_NUMBER(name) STORE_NUMBER_OF(name)
#if STORE_NUMBER(AITERLITE_STORE) == 1
#define ATOMIC 1
.set STORES, 16                     // instructions of a wave and step
.set LOG_STORED, 2                  // bytes of a lane
#elif STORE_NUMBER(AITERLITE_STORE) == 2
#define ATOMIC 0
.set STORES, 8
.set LOG_STORED, 3
#else
#error "AITERLITE_STORE must be atomic or partial"
#endif
#define ACTIVATION_silu 1
#define ACTIVATION_gelu 2
#define ACTIVATION_NUMBER_OF(name) ACTIVATION_##name
#define ACTIVATION_NUMBER(name) ACTIVATION_NUMBER_OF(name)
#if ACTIVATION_NUMBER(AITERLITE_ACTIVATION) == 1
#define GELU 0
#elif ACTIVATION_NUMBER(AITERLITE_ACTIVATION) == 2
#define GELU 1
#else
#error "AITERLITE_ACTIVATION must be silu or gelu"
#endif
#define NAME_OF(skipping, activation) fmoe_bf16_blockscaleFp8_g1u1_##skipping##_##activation##_1tg_ps_32x256
#define NAME(skipping, activation) NAME_OF(skipping, activation)
#if AITERLITE_VSKIP == 1
#define KERNEL NAME(vs, AITERLITE_ACTIVATION)
#elif AITERLITE_VSKIP == 0
#define KERNEL NAME(novs, AITERLITE_ACTIVATION)
#else
#error "AITERLITE_VSKIP must be 0 or 1"
#endif
#if AITERLITE_SLICES < 1 || AITERLITE_SLICES > 4
#error "AITERLITE_SLICES must be 1 to 4"
#endif
.set SLICES, AITERLITE_SLICES
#if AITERLITE_MARKS != 0 && AITERLITE_MARKS != 1
#error "AITERLITE_MARKS must be 0 or 1"
#endif
#if AITERLITE_GRID < 1 || AITERLITE_GRID > 65536
#error "AITERLITE_GRID must be 1 to 65536"
#endif
#if ATOMIC && (AITERLITE_MARKS || AITERLITE_SLICES > 1)
#error "atomic results have AITERLITE_SLICES=1 and AITERLITE_MARKS=0"
#endif

#include <aiterlite/asm/fmoe/registers.inc>
#include <aiterlite/asm/fmoe/places.inc>
#include <aiterlite/asm/fmoe/item.inc>
#include <aiterlite/asm/fmoe/stage1.inc>
#include <aiterlite/asm/fmoe/activate.inc>
#include <aiterlite/asm/fmoe/stage2.inc>

// What is loaded by several fields at once.
.if ARGS_w2_scale - ARGS_x != 40 || ARGS_num_valid_ids - ARGS_sorted_ids != 24 || ARGS_inter - ARGS_width != 4
  .error "aiterlite_fused_moe_args is ordered otherwise than this kernel loads it"
.endif
.if ARGS_stride_scale_group - ARGS_stride_scale_token != 8
  .error "aiterlite_fused_moe_args is ordered otherwise than this kernel loads it"
.endif

.macro nothing
.endm

aiterlite_begin_kernel KERNEL
  s_load_dwordx8 s[72:79], s[0:1], ARGS_x
  s_load_dwordx4 s[80:83], s[0:1], ARGS_w2
  s_load_dwordx8 s[84:91], s[0:1], ARGS_sorted_ids
  s_load_dwordx2 s[6:7], s[0:1], ARGS_width
  s_load_dword S_TOKENS, s[0:1], ARGS_tokens
  s_load_dword S_TOPK, s[0:1], ARGS_topk
  s_load_dword S_EXPERT, s[0:1], ARGS_sorted_entries
  v_lshrrev_b32 v[V_T], 6, v0
  v_and_b32 v1, 63, v0
  v_readfirstlane_b32 S_WAVE, v[V_T]
  v_and_b32 v[V_ENTRY], 31, v0
  v_bfe_u32 v[V_HALF], v0, 5, 1
  v_lshlrev_b32 v[V_TOKEN4], 2, v[V_ENTRY]
  v_lshrrev_b32 v[V_T], 3, v0
  v_lshlrev_b32 v[V_ROW4], 2, v[V_T]
  v_lshl_or_b32 v[V_GROUP], S_WAVE, 1, v[V_HALF]
  s_waitcnt lgkmcnt(0)
  s_load_dword S_ITEMS, s[90:91], 0

  places_of_lanes
  s_lshl_b32 S_W2_STEP, S_INTER, 8
  s_mov_b32 S_PARTS, 1
.if SLICES == 1
  s_lshr_b32 S_PARTS, S_INTER, 8
.endif
  s_waitcnt lgkmcnt(0)
  s_max_i32 S_ITEMS, S_ITEMS, 0
  s_min_u32 S_ITEMS, S_ITEMS, S_EXPERT
  s_lshr_b32 S_ITEMS, S_ITEMS, 5
  s_mul_i32 S_ITEMS, S_ITEMS, S_PARTS
  s_cmp_ge_u32 S_ITEM, S_ITEMS
  s_cbranch_scc1 .Lend

.Litem:
  s_mov_b32 S_BLOCK, S_ITEM
  s_mov_b32 S_PART, 0
  s_cmp_eq_u32 S_PARTS, 1
  s_cbranch_scc0 .Ldivide
.Ldivided:
  s_lshl_b32 s14, S_BLOCK, 7
  s_add_u32 s16, s84, s14
  s_addc_u32 s17, s85, 0
  s_add_u32 s18, s86, s14
  s_addc_u32 s19, s87, 0
  s_lshl_b32 s14, S_BLOCK, 2
  s_add_u32 s14, s88, s14
  s_addc_u32 s15, s89, 0
  s_load_dword S_EXPERT, s[14:15], 0
  global_load_dword v[V_T], v[V_ROW4], s[16:17]
  global_load_dword v[V_ID], v[V_TOKEN4], s[16:17]
  global_load_dword v[V_WEIGHT], v[V_TOKEN4], s[18:19]
  s_lshl_b32 s14, S_WAVE, 5
  s_add_u32 s16, s16, s14
  s_addc_u32 s17, s17, 0
  s_load_dwordx8 s[92:99], s[16:17], 0
  s_load_dword s18, s[0:1], ARGS_experts
  s_load_dwordx2 s[32:33], s[0:1], ARGS_stride_x
  s_load_dwordx4 s[36:39], s[0:1], ARGS_stride_scale_token
#if ATOMIC
  s_load_dwordx2 s[40:41], s[0:1], ARGS_out
  s_load_dwordx2 s[34:35], s[0:1], ARGS_stride_out
#else
  s_load_dwordx2 s[40:41], s[0:1], ARGS_slots
#endif
  s_waitcnt vmcnt(0) lgkmcnt(0)
  s_cmp_ge_u32 S_EXPERT, s18
  s_cbranch_scc1 .Lnext

#if AITERLITE_MARKS
  s_cmp_eq_u32 S_WAVE, 0
  s_cbranch_scc1 .Lmark
.Lmarked:
#endif
  rows_of_x
  weights_of_expert
  rows_of_results
  .set SLICE, 0
  .rept SLICES
  begin_slice SLICE
.if SLICE == SLICES - 1
  multiply_w1 SLICE, load_w2_early, first_weights_of_w2, second_weights_of_w2
.else
  multiply_w1 SLICE, load_w1, weights_of_next_slice, nothing
.endif
  activate SLICE
  .set SLICE, SLICE + 1
  .endr

  scales_of_w2
  s_load_dwordx2 s[32:33], S_W2_SCALES, 0
  multiply_w2
  s_barrier                         // the next item's x and scales go where the results were
.Lnext:
  s_add_u32 S_ITEM, S_ITEM, AITERLITE_GRID
  s_cmp_lt_u32 S_ITEM, S_ITEMS
  s_cbranch_scc1 .Litem
.Lend:
  s_endpgm

#if AITERLITE_MARKS
.Lmark:
  s_load_dwordx2 s[16:17], s[0:1], ARGS_local_topk_ids
  v_and_b32 v[V_T + 1], 0xffffff, v[V_ID]
  v_lshrrev_b32 v[V_T + 2], 24, v[V_ID]
  v_mad_u64_u32 v[V_T + 4:V_T + 5], vcc, v[V_T + 1], S_TOPK, 0
  v_add_u32 v[V_T + 2], v[V_T + 2], v[V_T + 4]
  v_lshlrev_b32 v[V_T + 2], 2, v[V_T + 2]
  v_mov_b32 v[V_T + 3], 1
  v_cmp_gt_u32 vcc, S_TOKENS, v[V_T + 1]
  s_mov_b32 exec_hi, 0              // the upper lanes have the same entries
  s_and_b32 exec_lo, exec_lo, vcc_lo
  s_waitcnt lgkmcnt(0)
  global_store_dword v[V_T + 2], v[V_T + 3], s[16:17]
  s_mov_b64 exec, -1
  s_branch .Lmarked
#endif

.Ldivide:
  // In float, put right by one: items are fewer than 2^24.
  v_cvt_f32_u32 v[V_T], S_PARTS
  v_cvt_f32_u32 v[V_T + 1], S_ITEM
  v_rcp_f32 v[V_T], v[V_T]
  s_nop 0
  v_mul_f32 v[V_T], v[V_T], v[V_T + 1]
  v_cvt_u32_f32 v[V_T], v[V_T]
  s_nop 0
  v_readfirstlane_b32 S_BLOCK, v[V_T]
  s_mul_i32 s14, S_BLOCK, S_PARTS
  s_sub_i32 S_PART, S_ITEM, s14
  s_cmp_lt_i32 S_PART, 0
  s_cbranch_scc0 .Lnot_less
  s_sub_u32 S_BLOCK, S_BLOCK, 1
  s_add_u32 S_PART, S_PART, S_PARTS
.Lnot_less:
  s_cmp_ge_i32 S_PART, S_PARTS
  s_cbranch_scc0 .Ldivided
  s_add_u32 S_BLOCK, S_BLOCK, 1
  s_sub_u32 S_PART, S_PART, S_PARTS
  s_branch .Ldivided

aiterlite_end_kernel KERNEL, ARGS_BYTES, 256, LDS_BYTES, SGPRS, VGPRS, AGPRS
