// MLA decode of 16 heads of a token: softmax(scale * q k^T) v over paged rows of KV, for a plan's pieces or for equal
// splits (mla/args.h). bf16 q and KV, or 8-bit ones; o is bf16. gfx942; gfx950 has asm/mla/decode_shared.S.
//
// Defines: AITERLITE_KV 2 or 1, the bytes of an element of q and KV; AITERLITE_PLANNED 0 or 1; AITERLITE_PARTS, the
// numbers that a weight is a sum of: the second is what the first lost. Of bf16 there are two.
//
// Formulation. Tokens are rows of matrix products and rows of q their columns: S^T = K q^T, then O^T = V^T P^T. Scores
// come out of the first product in the order in which the second takes weights, so that nothing but V moves between
// lanes, and nothing between waves: each of four waves runs over tiles of its own, every fourth of the piece, 16 tokens
// of bf16 or 32 of fp8, with all 16 rows of q and all 512 values. There is no barrier in the loop. What waves have
// summed they add up behind it, through LDS, in the order of waves.
//
// K comes from memory as operands, 16 bytes a lane: 18 loads a tile, each into registers that a product has just used up,
// so that a wave always has a tile of KV on its way (72 KiB a workgroup). V are the first 512 columns of the same
// registers: they cross LDS, the wave's own 16 KiB, and are turned over by v_perm_b32 (asm/mla/tile.inc).
//
// Weights are rounded before they are multiplied: to one or two numbers of KV's type. Of one, the sum that results are
// divided by is that of the rounded weights. The log-sum is that of exact ones. Maxima are followed lazily
// (asm/mla/softmax.inc).
//
// Traffic: KV once a workgroup from memory, through LDS once; page numbers once a lane of 16, q once a piece; o, or float
// parts, and their log-sums once. More than 16 rows of q are taken one after the other, or by workgroups beside.
//
// Tokens that nobody sees, behind the end or behind an index that names no page, are not read: their rows are zero, and
// their scores are selected to -inf. No atomics: same operands, same bits.
//
// Assumed: q, rows of KV and results begin at multiples of 16 bytes; a page has a power of two of tokens; fewer than 2^24
// requests.
#include <aiterlite/asm/arguments.inc>
#include <aiterlite/asm/kernel.inc>

#if AITERLITE_KV == 2
#define KERNEL aiterlite_mla_decode_bf16
#elif AITERLITE_KV == 1
#define KERNEL aiterlite_mla_decode_fp8
#else
#error "AITERLITE_KV must be 2 or 1"
#endif
#if AITERLITE_PLANNED != 0 && AITERLITE_PLANNED != 1
#error "AITERLITE_PLANNED must be 0 or 1"
#endif
#if AITERLITE_PARTS != 2 && (AITERLITE_PARTS != 1 || AITERLITE_KV == 2)
#error "AITERLITE_PARTS must be 2, or 1 of fp8"
#endif
.set KV_BYTES, AITERLITE_KV
.set WIDE, 0
.set SHARED, 0
.set PARTS, AITERLITE_PARTS

#include <aiterlite/asm/mla/registers.inc>
#include <aiterlite/asm/mla/work.inc>
#include <aiterlite/asm/mla/start.inc>
#include <aiterlite/asm/mla/tile.inc>
#include <aiterlite/asm/mla/softmax.inc>
#include <aiterlite/asm/mla/finish.inc>

aiterlite_begin_kernel KERNEL
  load_arguments
  s_lshl_b32 s57, S_WAVE, 14
  // LDS of the token whose vectors the lane brings, and of the four that it reads.
  v_mov_b32 v[V_T], v[V_LANE16]
  swizzle (V_T + 1), V_T
  v_xor_b32 v[V_T + 1], v[V_GROUP], v[V_T + 1]
  v_lshlrev_b32 v[V_T + 1], 4, v[V_T + 1]
  v_mul_u32_u24 v[V_TO], V_ROW, v[V_LANE16]
  v_add3_u32 v[V_TO], v[V_TO], v[V_T + 1], s57
  v_xor_b32 v[V_TO + 1], 64, v[V_TO]
  .set I, 0
  .rept 4
  v_add_u32 v[V_T], I, v[V_TIMES4]
  v_mul_u32_u24 v[V_T + 2], V_ROW, v[V_T]
  swizzle (V_T + 1), V_T
  v_xor_b32 v[V_T + 1], v[V_LANE16], v[V_T + 1]
  v_lshlrev_b32 v[V_T + 1], 4, v[V_T + 1]
  v_add3_u32 v[V_FROM + I], v[V_T + 2], v[V_T + 1], s57
  .set I, I + 1
  .endr
  s_waitcnt lgkmcnt(0)
  find_items
.Litem:
  s_cmp_ge_i32 S_ITEM, S_ITEMS
  s_cbranch_scc1 .Lend
  find_work .Lnext_item
  s_add_u32 S_TILES_OF_ROW, S_WORK_HEADS, 15
  s_lshr_b32 S_TILES_OF_ROW, S_TILES_OF_ROW, 4
  s_mul_i32 S_TILES, S_WORK_ROW_COUNT, S_TILES_OF_ROW
  s_mov_b32 S_TILE, S_GROUP
.Lrows:
  s_cmp_ge_u32 S_TILE, S_TILES
  s_cbranch_scc1 .Lnext_item
  find_tile S_TILE
  // Tiles of this wave: every fourth of those there are.
  s_sub_u32 S_LEFT, S_SEEN, S_BEGIN
  s_add_u32 S_LEFT, S_LEFT, TILE_TOKENS - 1
  s_lshr_b32 S_LEFT, S_LEFT, LOG_TILE_TOKENS
  s_sub_u32 S_LEFT, S_LEFT, S_WAVE
  s_add_u32 S_LEFT, S_LEFT, 3
  s_ashr_i32 S_LEFT, S_LEFT, 2
  s_lshl_b32 S_TOKEN, S_WAVE, LOG_TILE_TOKENS
  s_add_u32 S_TOKEN, S_TOKEN, S_BEGIN
  set_byte_selects
  load_q
  s_barrier                         // no wave reads LDS of the rows before any more
  s_cmp_eq_u32 S_LEFT, 0
  s_cbranch_scc1 .Lhave_q
  find_pages
  clear_sums
  s_waitcnt vmcnt(0)
  leave_q
  find_rows S_EXISTS
  s_add_u32 S_TOKEN, S_TOKEN, 4 * TILE_TOKENS
  find_pages
  all_exist S_EXISTS
  s_cbranch_scc0 .Lfirst_masked
  .set F, 0
  .rept FRAGMENTS
  load_fragment F
  .set F, F + 1
  .endr
.Lfirst_loaded:
  take_q

.Ltile:
  s_cmp_eq_u32 S_LEFT, 1
  s_cbranch_scc1 .Llast_tile
  s_waitcnt vmcnt(FRAGMENTS)
  find_rows S_NEXT_EXISTS
  s_add_u32 S_TOKEN, S_TOKEN, 4 * TILE_TOKENS
  find_pages
  all_exist S_NEXT_EXISTS
  s_cbranch_scc0 .Lnext_masked
  score_tile 1
.Lscored:
  relative_scores .Lrescale
.Lweigh:
  weigh
  add_values
  s_mov_b64 s[S_EXISTS:S_EXISTS + 1], s[S_NEXT_EXISTS:S_NEXT_EXISTS + 1]
.if SUBTILES == 2
  s_mov_b64 s[S_EXISTS + 2:S_EXISTS + 3], s[S_NEXT_EXISTS + 2:S_NEXT_EXISTS + 3]
.endif
  s_sub_u32 S_LEFT, S_LEFT, 1
  s_cmp_lg_u32 S_LEFT, 0
  s_cbranch_scc1 .Ltile
.Lsummed:
  merge_waves
  store_result
  s_add_u32 S_TILE, S_TILE, S_GROUPS
  s_branch .Lrows
.Lnext_item:
  s_add_u32 S_ITEM, S_ITEM, 1
  s_branch .Litem
.Lend:
  s_endpgm

.Lhave_q:                           // a wave without tiles brings its part of q, and nothing
  clear_sums
  s_waitcnt vmcnt(0)
  leave_q
  take_q
  s_branch .Lsummed
.Lfirst_masked:
  .set F, 0
  .rept FRAGMENTS
  load_fragment_masked F, S_EXISTS
  .set F, F + 1
  .endr
  s_branch .Lfirst_loaded
.Lnext_masked:
  score_tile 2
  s_branch .Lscored
.Llast_tile:
  score_tile 0
  s_branch .Lscored
.Lrescale:
  rescale_tile
  s_branch .Lweigh

aiterlite_end_kernel KERNEL, ARGS_BYTES, 256, LDS_BYTES, SGPRS, VGPRS, AGPRS
