// Skinny GEMM for a few tokens: y[n, m] = sum_k x[n, k] * w[m, k] + bias, bf16, sums in float. gfx942 and gfx950.
// With 8-bit operands (AITERLITE_RESULT is defined, bf16 or fp16, and names the type of y and bias) the kernel is
// aiterlite_wv_split_k_q_asm, and the sum is multiplied by a scale of x and one of w's row before the bias is added.
// The operands are what the chip's matrix instruction takes: e4m3fnuz on gfx942, e4m3fn on gfx950.
//
// The tiling, the arithmetic and its order are those of csrc/gemm/wv_split_k.hip with the same defines, and so are the
// bits: a wave adds the tiles of its batches in order of k, a finishing lane adds the waves' sums in order of wave to
// +0, then the slices by halving (its butterfly over lanes 1, 2, 4, 8 apart), multiplies by the scale of x, and by that
// of the row as it adds the bias, with one rounding for both as the compiler has it, and rounds once to y; the scales
// are brought to about the same exponent before. Steps of a tile that lie beyond K add zeros there and here. There is
// one scale of x: stride_scale_x is not looked at.
//
// Defines: AITERLITE_SLICES (S) 1, 2, 4, 8 or 16; AITERLITE_TILES (T) 1, 2 or 4; AITERLITE_UNROLL (U) 1 to 8;
// AITERLITE_WAVES (W) 1 to 16. A workgroup of 64 * W work-items owns 16 * T / S weight rows, so the grid is
// ceil(M * S / (16 * T)). N <= 16 / S. A row's K elements are a multiple of 16 bytes, x and w and each of their rows
// begin at multiples of 16 bytes. Any stride. A tile covers 64 bytes of each row's K, whatever the elements.
//
// Traffic is the HIP kernel's. What differs is what is issued besides loads and products:
// * A slot is the operands of one step: a token vector and T weight vectors. As soon as its products are issued, the
//   same registers are loaded for the wave's next batch, so U - 1 to U slots are in flight throughout, also between
//   batches; a slot is waited for by count, which needs loads to complete in order, as those of one type do.
// * Sums go to LDS as they lie in registers, 16 bytes a lane, products of unequal slices included. The finishing lanes
//   pick what counts. LDS: 1024 * W * T bytes.
// * Only waves that finish outputs look at scales and bias or compute where outputs lie, and all others end at the
//   barrier.
#include <aiterlite/asm/arguments.inc>
#include <aiterlite/asm/kernel.inc>
#include <aiterlite/asm/matrix.inc>

#if AITERLITE_SLICES == 1
.set LOG_S, 0
#elif AITERLITE_SLICES == 2
.set LOG_S, 1
#elif AITERLITE_SLICES == 4
.set LOG_S, 2
#elif AITERLITE_SLICES == 8
.set LOG_S, 3
#elif AITERLITE_SLICES == 16
.set LOG_S, 4
#else
#error "AITERLITE_SLICES must be 1, 2, 4, 8 or 16"
#endif
#if AITERLITE_TILES == 1
.set LOG_T, 0
#elif AITERLITE_TILES == 2
.set LOG_T, 1
#elif AITERLITE_TILES == 4
.set LOG_T, 2
#else
#error "AITERLITE_TILES must be 1, 2 or 4"
#endif
#if AITERLITE_UNROLL < 1 || AITERLITE_UNROLL > 8
#error "AITERLITE_UNROLL must be 1 to 8"
#endif
#if AITERLITE_WAVES < 1 || AITERLITE_WAVES > 16
#error "AITERLITE_WAVES must be 1 to 16"
#endif

// What the two kernels differ in: elements, arguments, and whether the sum is scaled.
#if defined(AITERLITE_RESULT)
#define RESULT_bf16 1
#define RESULT_fp16 2
#define RESULT_NUMBER_OF(name) RESULT_##name
#define RESULT_NUMBER(name) RESULT_NUMBER_OF(name)
#if RESULT_NUMBER(AITERLITE_RESULT) == 1
.set FP16_RESULT, 0
#elif RESULT_NUMBER(AITERLITE_RESULT) == 2
.set FP16_RESULT, 1
#else
#error "AITERLITE_RESULT must be bf16 or fp16"
#endif
#define KERNEL aiterlite_wv_split_k_q_asm
#define MULTIPLY aiterlite_multiply_fp8
.set SCALED, 1
.set LOG_ELEMENT_BYTES, 0
// x, weight, bias, y, scale_x, scale_w, stride_x and stride_w follow each other; so do stride_y, stride_scale_w, n, m and k.
.if ARGS_stride_w - ARGS_x != 56 || ARGS_k - ARGS_stride_y != 24
  .error "aiterlite_scaled_gemm_args is ordered otherwise than this kernel loads it"
.endif
.macro load_arguments
  s_load_dwordx16 s[16:31], s[0:1], ARGS_x
  s_load_dwordx8 s[32:39], s[0:1], ARGS_stride_y
.endm
#define S_STRIDE_BIAS s[8:9]        /* only in waves that finish outputs, and so is the scale of x */
#define S_STRIDE_BIAS_LOW s8
#define S_STRIDE_BIAS_HIGH s9
#define S_X_SCALE s10
#define S_ROW_SCALE s11             /* of a workgroup with one row */
#define S_X_SCALE_AT s[24:25]
#define S_ROW_SCALES s[26:27]
#define S_ROW_SCALES_LOW s26
#define S_ROW_SCALES_HIGH s27
#define S_STRIDE_X_LOW s28
#define S_STRIDE_X_HIGH s29
#define S_STRIDE_W_LOW s30
#define S_STRIDE_W_HIGH s31
#define S_STRIDE_Y_LOW s32
#define S_STRIDE_Y_HIGH s33
#define S_STRIDE_SCALES_LOW s34
#define S_STRIDE_SCALES_HIGH s35
#define S_TOKENS s36
#define S_ROWS s37
#define S_DEPTH s38
#define S_ROW_SCALE_AT s[40:41]
#define S_ROW_SCALE_AT_LOW s40
#define S_ROW_SCALE_AT_HIGH s41
.set SGPRS, 42
#else
#define KERNEL aiterlite_wv_split_k_asm
#define MULTIPLY aiterlite_multiply_bf16
.set FP16_RESULT, 0
.set SCALED, 0
.set LOG_ELEMENT_BYTES, 1
// x, weight, bias, y and the four strides follow each other; so do n, m and k.
.if ARGS_stride_y - ARGS_x != 56 || ARGS_k - ARGS_n != 8
  .error "aiterlite_gemm_args is ordered otherwise than this kernel loads it"
.endif
.macro load_arguments
  s_load_dwordx16 s[16:31], s[0:1], ARGS_x
  s_load_dwordx4 s[8:11], s[0:1], ARGS_n
.endm
#define S_TOKENS s8
#define S_ROWS s9
#define S_DEPTH s10
#define S_STRIDE_X_LOW s24
#define S_STRIDE_X_HIGH s25
#define S_STRIDE_W_LOW s26
#define S_STRIDE_W_HIGH s27
#define S_STRIDE_BIAS_LOW s28
#define S_STRIDE_BIAS_HIGH s29
#define S_STRIDE_Y_LOW s30
#define S_STRIDE_Y_HIGH s31
.set SGPRS, 32
#endif

.set S, AITERLITE_SLICES
.set T, AITERLITE_TILES
.set U, AITERLITE_UNROLL
.set W, AITERLITE_WAVES
.set SLOT_LOADS, T + 1
.set LOG_VECTOR, 4 - LOG_ELEMENT_BYTES  // elements of 16 bytes
.set STEP_BYTES, 64 * S             // of a row, that one tile covers
.set STEP, STEP_BYTES >> LOG_ELEMENT_BYTES  // k of them
.set BATCH, STEP * U                // k that a wave has in flight
.set TURN, BATCH * W                // k from a wave's batch to its next one
.set LOG_SUMS, 4 + LOG_T            // sums that a wave holds for a token, slices apart
.set LOG_ROWS, LOG_SUMS - LOG_S     // weight rows of a workgroup
.set SUMS, 256 * T / S              // sums of all tokens that fit
.set PASSES, (SUMS + 64 * W - 1) / (64 * W)
// A load's constant offset has 13 bits with sign: where the last step is out of reach, addresses point to the middle.
.set MIDDLE, (STEP_BYTES * (U - 1)) / 4096 * (U / 2)

#define S_GROUP s2
#define S_ITEM s3                   /* first work-item of the wave */
#define S_LEFT s4                   /* k from the wave's batch to the end; negative beyond it */
#define S_K s5
#define S_TEMP s6
#define S_SUMS s7                   /* sums of the tokens that there are */
#define S_TURN_BYTES s[12:13]
#define S_LAST_ROW s14
#define S_LAST_TOKEN s15
#define S_X s[16:17]
#define S_W s[18:19]
#define S_BIAS s[20:21]
#define S_Y s[22:23]

// v0 work-item. Operands' addresses, sums and slots are there to the end of the products; what is needed before and
// after them shares the registers of slots and sums.
.set V_X, 2
.set V_W, V_X + 2
.set V_BIAS, V_W + 2 * T
.set V_SCALE, V_BIAS + PASSES
.set V_SUM, (V_SCALE + SCALED * PASSES + 1) / 2 * 2
.set V_SLOT, V_SUM + 4 * T
.set VGPRS_MULTIPLY, V_SLOT + 4 * U * SLOT_LOADS
.set V_PARTIAL, V_SUM + 10
.set VGPRS_FINISH, V_PARTIAL + W
.if VGPRS_MULTIPLY > VGPRS_FINISH
.set VGPRS, VGPRS_MULTIPLY
.else
.set VGPRS, VGPRS_FINISH
.endif
.if VGPRS > 256 || (VGPRS + 7) / 8 * 8 * ((W + 3) / 4) > 512
.error "AITERLITE_UNROLL * AITERLITE_TILES * AITERLITE_WAVES is too large: a batch does not fit the registers"
.endif

// Which vector of a step a lane takes: neighbouring lanes are neighbouring slices of a row, as in slice_vector
// (fragment/row_tile.h).
.macro lane_vector v, temp
.if S == 16
  v_and_b32 v[\v], 63, v0
.else
  v_bfe_u32 v[\v], v0, 4, 2
.if S > 1
  v_and_b32 v[\temp], S - 1, v0
  v_lshl_or_b32 v[\v], v[\v], LOG_S, v[\temp]
.endif
.endif
.endm

// Slot u of the batch that the addresses stand at: the token vector, then the weights, which are read once.
.macro load_vector to, from, u, hint
  global_load_dwordx4 v[\to:\to + 3], v[\from:\from + 1], off offset:STEP_BYTES * (\u - MIDDLE) \hint
.endm
.macro load_slot u
  load_vector V_SLOT + 4 * SLOT_LOADS * \u, V_X, \u
  .set R, 0
  .rept T
  load_vector V_SLOT + 4 * (SLOT_LOADS * \u + 1 + R), V_W + 2 * R, \u, nt
  .set R, R + 1
  .endr
.endm

// Waits until only `later` slots that were loaded after slot u are under way.
.macro multiply_slot u, later
  s_waitcnt vmcnt((\later) * SLOT_LOADS)
  .set R, 0
  .rept T
  MULTIPLY V_SUM + 4 * R, V_SLOT + 4 * (SLOT_LOADS * \u + 1 + R), V_SLOT + 4 * SLOT_LOADS * \u
  .set R, R + 1
  .endr
.endm

.macro multiply_batch
  .set I, 0
  .rept U
  multiply_slot I, U - 1 - I
  .set I, I + 1
  .endr
.endm

.macro next_turn
  .set R, 0
  .rept T + 1
  v_lshl_add_u64 v[V_X + 2 * R:V_X + 2 * R + 1], v[V_X + 2 * R:V_X + 2 * R + 1], 0, S_TURN_BYTES
  .set R, R + 1
  .endr
.endm

.macro turn_bytes
  s_mov_b32 s12, TURN << LOG_ELEMENT_BYTES
  s_mov_b32 s13, 0
.endm

// What a lane finishes in a pass. Sums are numbered token by token, and as tile rows within a token.
.set V_TOKEN, V_SUM
.set V_SLICE, V_SUM + 1
.set V_ROW, V_SUM + 2               // and 0 after it: the row as 64 bits
.set V_TEMP, V_SUM + 5
.set V_AT, V_SUM + 6                // an address
.set V_TOTAL, V_SUM + 8
.set V_OTHER, V_SUM + 9
.macro locate pass
.if \pass == 0
  .set V_INDEX, 0
.else
  .set V_INDEX, V_SUM + 4
  v_add_u32 v[V_INDEX], \pass * 64 * W, v0
.endif
  v_lshrrev_b32 v[V_TOKEN], LOG_SUMS, v[V_INDEX]
  v_and_b32 v[V_SLICE], S - 1, v[V_INDEX]
  v_bfe_u32 v[V_ROW], v[V_INDEX], LOG_S, LOG_ROWS
  v_lshl_or_b32 v[V_ROW], S_GROUP, LOG_ROWS, v[V_ROW]
  v_mov_b32 v[V_ROW + 1], 0
.endm

// v[V_AT:V_AT + 1] = base + ((index * stride + inner) << log_bytes), stride in two scalar registers.
.macro address base, log_bytes, index, stride_low, stride_high, inner
  v_mad_u64_u32 v[V_AT:V_AT + 1], vcc, v[\index], \stride_low, \inner
  v_mul_lo_u32 v[V_TEMP], v[\index], \stride_high
  v_add_u32 v[V_AT + 1], v[V_AT + 1], v[V_TEMP]
  v_lshl_add_u64 v[V_AT:V_AT + 1], v[V_AT:V_AT + 1], \log_bytes, \base
.endm
.macro element_address base, stride_low, stride_high
  address \base, 1, V_TOKEN, \stride_low, \stride_high, v[V_ROW:V_ROW+1]
.endm

.macro bias_to_float v
.if FP16_RESULT
  v_cvt_f32_f16 v[\v], v[\v]
.else
  v_lshlrev_b32 v[\v], 16, v[\v]
.endif
.endm

// Of the lanes that hold one output, one for each slice, the first is kept: its bytes are to be moved once.
.macro keep_live_lanes
  v_cmpx_gt_u32 vcc, S_TOKENS, v[V_TOKEN]
  v_cmpx_gt_u32 vcc, S_ROWS, v[V_ROW]
.if S > 1
  v_cmpx_eq_u32 vcc, 0, v[V_SLICE]
.endif
.endm

// Adds up, rounds and stores what a wave finishes in a pass.
.macro finish pass
  locate \pass
  // Where the sum lies in LDS, by tile, wave, quarter of the tile's rows, column (token and slice), and row. Parts are
  // or-ed, so that lanes beyond the last token that fits stay inside the wave's 1024 bytes.
  v_lshl_or_b32 v[V_TOTAL], v[V_TOKEN], LOG_S, v[V_SLICE]
  v_bfe_u32 v[V_TEMP], v[V_INDEX], 2, 2
  v_lshlrev_b32 v[V_TEMP], 8, v[V_TEMP]
  v_lshl_or_b32 v[V_TEMP], v[V_TOTAL], 4, v[V_TEMP]
  v_and_b32 v[V_OTHER], 3, v[V_INDEX]
  v_lshl_or_b32 v[V_TEMP], v[V_OTHER], 2, v[V_TEMP]
.if T > 1
  v_bfe_u32 v[V_OTHER], v[V_INDEX], 4, LOG_T
  v_mul_u32_u24 v[V_OTHER], 1024 * W, v[V_OTHER]
  v_add_u32 v[V_TEMP], v[V_TEMP], v[V_OTHER]
.endif
  .set I, 0
  .rept W / 2
  ds_read2st64_b32 v[V_PARTIAL + 2 * I:V_PARTIAL + 2 * I + 1], v[V_TEMP] offset0:8 * I offset1:8 * I + 4
  .set I, I + 1
  .endr
.if W % 2
  ds_read_b32 v[V_PARTIAL + W - 1], v[V_TEMP] offset:1024 * (W - 1)
.endif
  v_mov_b32 v[V_TOTAL], 0
  .set I, 0
  .rept W
.if I % 2 == 0
  s_waitcnt lgkmcnt((W + 1) / 2 - 1 - I / 2)
.endif
  v_add_f32 v[V_TOTAL], v[V_TOTAL], v[V_PARTIAL + I]
  .set I, I + 1
  .endr
  // Lanes 1, 2, 4 and 8 apart: where the nearer ones are equal already, a mirror does.
.if S >= 2
  s_nop 1
  v_add_f32_dpp v[V_TOTAL], v[V_TOTAL], v[V_TOTAL] quad_perm:[1,0,3,2] row_mask:0xf bank_mask:0xf
.endif
.if S >= 4
  s_nop 1
  v_add_f32_dpp v[V_TOTAL], v[V_TOTAL], v[V_TOTAL] quad_perm:[2,3,0,1] row_mask:0xf bank_mask:0xf
.endif
.if S >= 8
  s_nop 1
  v_add_f32_dpp v[V_TOTAL], v[V_TOTAL], v[V_TOTAL] row_half_mirror row_mask:0xf bank_mask:0xf
.endif
.if S >= 16
  s_nop 1
  v_add_f32_dpp v[V_TOTAL], v[V_TOTAL], v[V_TOTAL] row_mirror row_mask:0xf bank_mask:0xf
.endif
  s_waitcnt vmcnt(0)
  bias_to_float V_BIAS + \pass
.if SCALED
.if LOG_ROWS == 0
  v_mov_b32 v[V_SCALE + \pass], S_ROW_SCALE
.endif
  // Half of what the exponents are apart moves from the scale of x to the row's (wv_split_k.hip says why).
  v_bfe_u32 v[V_TEMP], S_X_SCALE, 23, 8
  v_bfe_u32 v[V_OTHER], v[V_SCALE + \pass], 23, 8
  v_sub_u32 v[V_TEMP], v[V_TEMP], v[V_OTHER]
  v_ashrrev_i32 v[V_TEMP], 1, v[V_TEMP]
  v_ldexp_f32 v[V_SCALE + \pass], v[V_SCALE + \pass], v[V_TEMP]
  v_sub_u32 v[V_TEMP], 0, v[V_TEMP]
  v_ldexp_f32 v[V_TEMP], S_X_SCALE, v[V_TEMP]
  v_mul_f32 v[V_TOTAL], v[V_TEMP], v[V_TOTAL]
  v_fma_f32 v[V_TOTAL], v[V_SCALE + \pass], v[V_TOTAL], v[V_BIAS + \pass]
.else
  v_add_f32 v[V_TOTAL], v[V_TOTAL], v[V_BIAS + \pass]
.endif
  element_address S_Y, S_STRIDE_Y_LOW, S_STRIDE_Y_HIGH
.if FP16_RESULT
  v_cvt_f16_f32 v[V_TEMP], v[V_TOTAL]
  keep_live_lanes
  global_store_short v[V_AT:V_AT + 1], v[V_TEMP], off
.else
  // To nearest, ties to even, in the upper half; a NaN stays one.
  v_cmp_u_f32 vcc, v[V_TOTAL], v[V_TOTAL]
  s_movk_i32 S_TEMP, 0x7fff
  v_bfe_u32 v[V_TEMP], v[V_TOTAL], 16, 1
  v_add3_u32 v[V_TEMP], v[V_TOTAL], v[V_TEMP], S_TEMP
  v_or_b32 v[V_OTHER], 0x400000, v[V_TOTAL]
  v_cndmask_b32 v[V_TEMP], v[V_TEMP], v[V_OTHER], vcc
  keep_live_lanes
  global_store_short_d16_hi v[V_AT:V_AT + 1], v[V_TEMP], off
.endif
.endm

// Before the products.
.set P_OFFSET, V_SLOT               // and 0 after it: k of the lane's first vector
.set P_LOCAL_ROW, V_SLOT + 2        // tile row and column alike
.set P_ROW, V_SLOT + 3              // T of them
.set P_TOKEN, V_SLOT + 7

aiterlite_begin_kernel KERNEL
  load_arguments
  v_readfirstlane_b32 S_ITEM, v0
.if BATCH % 64 == 0
  s_mul_i32 S_K, S_ITEM, BATCH / 64
.else
  s_mul_i32 S_K, S_ITEM, BATCH / 32
  s_lshr_b32 S_K, S_K, 1
.endif
  lane_vector P_OFFSET, P_TOKEN
  v_bfe_u32 v[P_LOCAL_ROW], v0, LOG_S, 4 - LOG_S
  v_lshl_or_b32 v[P_ROW], S_GROUP, LOG_ROWS, v[P_LOCAL_ROW]
  s_waitcnt lgkmcnt(0)
  s_sub_i32 S_LEFT, S_DEPTH, S_K
.if MIDDLE > 0
  s_add_i32 S_K, S_K, STEP * MIDDLE
.endif
  v_lshl_add_u32 v[P_OFFSET], v[P_OFFSET], LOG_VECTOR, S_K
  v_mov_b32 v[P_OFFSET + 1], 0
  s_add_i32 S_LAST_ROW, S_ROWS, -1
  s_add_i32 S_LAST_TOKEN, S_TOKENS, -1

  // Lanes past the last row or token take the last one: what they sum is not looked at.
  v_min_u32 v[P_TOKEN], S_LAST_TOKEN, v[P_LOCAL_ROW]
  v_mad_u64_u32 v[V_X:V_X + 1], vcc, v[P_TOKEN], S_STRIDE_X_LOW, v[P_OFFSET:P_OFFSET + 1]
  .set R, T
  .rept T
  .set R, R - 1
.if R > 0
  v_add_u32 v[P_ROW + R], R << (4 - LOG_S), v[P_ROW]
.endif
  v_min_u32 v[P_ROW + R], S_LAST_ROW, v[P_ROW + R]
  v_mad_u64_u32 v[V_W + 2 * R:V_W + 2 * R + 1], vcc, v[P_ROW + R], S_STRIDE_W_LOW, v[P_OFFSET:P_OFFSET + 1]
  .endr
  s_or_b32 S_TEMP, S_STRIDE_X_HIGH, S_STRIDE_W_HIGH
  s_cbranch_scc1 .Lwide_strides
.Lbase_addresses:
  v_lshl_add_u64 v[V_X:V_X + 1], v[V_X:V_X + 1], LOG_ELEMENT_BYTES, S_X
  .set R, 0
  .rept T
  v_lshl_add_u64 v[V_W + 2 * R:V_W + 2 * R + 1], v[V_W + 2 * R:V_W + 2 * R + 1], LOG_ELEMENT_BYTES, S_W
  .set R, R + 1
  .endr

  s_lshl_b32 S_SUMS, S_TOKENS, LOG_SUMS
  s_cmp_lt_u32 S_ITEM, S_SUMS
  s_cbranch_scc1 .Lfetch
.Lfetched:
  .set R, 0
  .rept 2 * T
  v_mov_b64 v[V_SUM + 2 * R:V_SUM + 2 * R + 1], 0
  .set R, R + 1
  .endr
  s_cmpk_lt_i32 S_LEFT, BATCH
  s_cbranch_scc1 .Llast_batch

  .set I, 0
  .rept U
  load_slot I
  .set I, I + 1
  .endr
  s_sub_i32 S_LEFT, S_LEFT, TURN
  s_cmpk_lt_i32 S_LEFT, BATCH
  s_cbranch_scc1 .Lmultiply
  turn_bytes
.Lturn:
  next_turn
  .set I, 0
  .rept U
  multiply_slot I, U - 1
  load_slot I
  .set I, I + 1
  .endr
  s_sub_i32 S_LEFT, S_LEFT, TURN
  s_cmpk_ge_i32 S_LEFT, BATCH
  s_cbranch_scc1 .Lturn
.Lmultiply:
  multiply_batch
  s_cmp_gt_i32 S_LEFT, 0
  s_cbranch_scc1 .Lpart_of_batch

.Lsum:
  v_lshlrev_b32 v1, 4, v0
  s_nop MATRIX_RESULT_WAIT - 1
  .set R, 0
  .rept T
  ds_write_b128 v1, v[V_SUM + 4 * R:V_SUM + 4 * R + 3] offset:1024 * W * R
  .set R, R + 1
  .endr
  s_waitcnt lgkmcnt(0)
.if W > 1
  s_barrier
.endif
  s_cmp_lt_u32 S_ITEM, S_SUMS
  s_cbranch_scc1 .Lfinish
  s_endpgm

.Lfinish:
  .set PASS, 0
  .rept PASSES
.if PASS > 0
  s_mov_b64 exec, -1
  s_add_i32 S_TEMP, S_ITEM, PASS * 64 * W
  s_cmp_lt_u32 S_TEMP, S_SUMS
  s_cbranch_scc0 .Lend
.endif
  finish PASS
  .set PASS, PASS + 1
  .endr
.Lend:
  s_endpgm

.Lwide_strides:
  // Rows that are 2^32 elements apart or more: the upper half of stride * row.
  v_mul_lo_u32 v1, v[P_TOKEN], S_STRIDE_X_HIGH
  v_add_u32 v[V_X + 1], v[V_X + 1], v1
  .set R, 0
  .rept T
  v_mul_lo_u32 v1, v[P_ROW + R], S_STRIDE_W_HIGH
  v_add_u32 v[V_W + 2 * R + 1], v[V_W + 2 * R + 1], v1
  .set R, R + 1
  .endr
  s_branch .Lbase_addresses

.Lfetch:
  // Scales and bias, before the operands, and not looked at before the end: their latency passes beside the operands'.
.if SCALED
  s_load_dwordx2 S_STRIDE_BIAS, s[0:1], ARGS_stride_bias
  s_load_dword S_X_SCALE, S_X_SCALE_AT, 0
.if LOG_ROWS == 0
  s_mul_i32 S_ROW_SCALE_AT_LOW, S_GROUP, S_STRIDE_SCALES_LOW
  s_mul_hi_u32 S_ROW_SCALE_AT_HIGH, S_GROUP, S_STRIDE_SCALES_LOW
  s_mul_i32 S_TEMP, S_GROUP, S_STRIDE_SCALES_HIGH
  s_add_i32 S_ROW_SCALE_AT_HIGH, S_ROW_SCALE_AT_HIGH, S_TEMP
  s_lshl_b64 S_ROW_SCALE_AT, S_ROW_SCALE_AT, 2
  s_add_u32 S_ROW_SCALE_AT_LOW, S_ROW_SCALE_AT_LOW, S_ROW_SCALES_LOW
  s_addc_u32 S_ROW_SCALE_AT_HIGH, S_ROW_SCALE_AT_HIGH, S_ROW_SCALES_HIGH
  s_load_dword S_ROW_SCALE, S_ROW_SCALE_AT, 0
.else
  .set PASS, 0
  .rept PASSES
  locate PASS
  address S_ROW_SCALES, 2, V_ROW, S_STRIDE_SCALES_LOW, S_STRIDE_SCALES_HIGH, 0
  keep_live_lanes
  global_load_dword v[V_SCALE + PASS], v[V_AT:V_AT + 1], off
  s_mov_b64 exec, -1
  .set PASS, PASS + 1
  .endr
.endif
.endif
  .set PASS, 0
  .rept PASSES
  v_mov_b32 v[V_BIAS + PASS], 0
  .set PASS, PASS + 1
  .endr
  s_cmp_eq_u64 S_BIAS, 0
  s_cbranch_scc1 .Lfetched
.if SCALED
  s_waitcnt lgkmcnt(0)
.endif
  .set PASS, 0
  .rept PASSES
  locate PASS
  element_address S_BIAS, S_STRIDE_BIAS_LOW, S_STRIDE_BIAS_HIGH
  keep_live_lanes
  global_load_ushort v[V_BIAS + PASS], v[V_AT:V_AT + 1], off
  s_mov_b64 exec, -1
  .set PASS, PASS + 1
  .endr
  s_branch .Lfetched

.Lpart_of_batch:
  turn_bytes
  next_turn
.Llast_batch:
  s_cmp_le_i32 S_LEFT, 0
  s_cbranch_scc1 .Lsum
  lane_vector 1, V_SLOT
  v_lshlrev_b32 v1, LOG_VECTOR, v1
  // Zeros where K has ended, and nothing read there: a lane that is past the end at one step is so at the next.
  .set I, 0
  .rept 2 * U * SLOT_LOADS
  v_mov_b64 v[V_SLOT + 2 * I:V_SLOT + 2 * I + 1], 0
  .set I, I + 1
  .endr
  .set I, 0
  .rept U
.if I > 0
  s_sub_i32 S_LEFT, S_LEFT, STEP
.endif
  v_cmpx_gt_i32 vcc, S_LEFT, v1
  load_slot I
  .set I, I + 1
  .endr
  s_mov_b64 exec, -1
  multiply_batch
  s_branch .Lsum

aiterlite_end_kernel KERNEL, ARGS_BYTES, 64 * W, 1024 * W * T, SGPRS, VGPRS
