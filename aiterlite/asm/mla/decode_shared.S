// MLA decode of 16 heads of a token on gfx950 (asm/mla/decode.S serves both chips): scores are a wave's own, as there, but
// all waves share V, so that products are of as many tokens as gfx950's fastest have, and LDS reads transpose it.
//
// Defines: AITERLITE_KV 2 or 1, AITERLITE_PLANNED 0 or 1, AITERLITE_PARTS 1 or 2 as in asm/mla/decode.S; of bf16 it is 2.
//
// Tiles of 64 tokens of bf16 or 128 of fp8, a fourth of them a wave's: it loads them as operands of scores, 18 vectors of
// 16 bytes a lane, each into registers that a product has just used up, and leaves the first 512 columns in LDS. Weights
// go through LDS too. Then a wave multiplies 128 of the 512 columns of all the tile's tokens, read by ds_read_b64_tr. V
// and weights have two stages, so that one barrier a tile suffices. All waves' weights are relative to the same: a wave
// whose scores lie too high raises a flag beside its weights, and where one did, all exchange maxima, and weigh again.
//
// Traffic: KV once a workgroup from memory, through LDS once; page numbers, q, and results as asm/mla/decode.S.
#include <aiterlite/asm/arguments.inc>
#include <aiterlite/asm/kernel.inc>

#if AITERLITE_KV == 2
#define KERNEL aiterlite_mla_decode_bf16_shared
#define PLACE_OF(f) (f)
#elif AITERLITE_KV == 1
#define KERNEL aiterlite_mla_decode_fp8_shared
#define PLACE_OF(f) ((f) % 2 * 9 + (f) / 2)
#else
#error "AITERLITE_KV must be 2 or 1"
#endif
#if AITERLITE_PLANNED != 0 && AITERLITE_PLANNED != 1
#error "AITERLITE_PLANNED must be 0 or 1"
#endif
#if AITERLITE_PARTS != 2 && (AITERLITE_PARTS != 1 || AITERLITE_KV == 2)
#error "AITERLITE_PARTS must be 2, or 1 of fp8"
#endif
#if !defined(__gfx950__)
#error "gfx942 has no LDS reads that transpose"
#endif
.set KV_BYTES, AITERLITE_KV
.set PARTS, AITERLITE_PARTS
.set WIDE, 0
.set SHARED, 1

#include <aiterlite/asm/mla/registers.inc>
#include <aiterlite/asm/mla/work.inc>
#include <aiterlite/asm/mla/start.inc>
#include <aiterlite/asm/mla/tile.inc>
#include <aiterlite/asm/mla/softmax.inc>
#include <aiterlite/asm/mla/finish.inc>
#include <aiterlite/asm/mla/shared.inc>

aiterlite_begin_kernel KERNEL
  load_arguments
  s_waitcnt lgkmcnt(0)
  find_items
  places_of_lanes
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
  s_sub_u32 S_LEFT, S_SEEN, S_BEGIN
  s_add_u32 S_LEFT, S_LEFT, 4 * TILE_TOKENS - 1
  s_lshr_b32 S_LEFT, S_LEFT, LOG_TILE_TOKENS + 2
  s_lshl_b32 S_TOKEN, S_WAVE, LOG_TILE_TOKENS
  s_add_u32 S_TOKEN, S_TOKEN, S_BEGIN
  set_byte_selects
  clear_sums
  s_barrier                         // no wave reads LDS of the rows before any more
  s_cmp_eq_u32 S_LEFT, 0
  s_cbranch_scc1 .Lsummed
  load_q
  find_pages
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
  shared_tile 0
  s_sub_u32 S_LEFT, S_LEFT, 1
  s_cmp_eq_u32 S_LEFT, 0
  s_cbranch_scc1 .Lsummed
  shared_tile 1
  s_sub_u32 S_LEFT, S_LEFT, 1
  s_cmp_eq_u32 S_LEFT, 0
  s_cbranch_scc0 .Ltile
.Lsummed:
  store_shared
  s_add_u32 S_TILE, S_TILE, S_GROUPS
  s_branch .Lrows
.Lnext_item:
  s_add_u32 S_ITEM, S_ITEM, 1
  s_branch .Litem
.Lend:
  s_endpgm

.Lfirst_masked:
  .set F, 0
  .rept FRAGMENTS
  load_fragment_masked F, S_EXISTS
  .set F, F + 1
  .endr
  s_branch .Lfirst_loaded

aiterlite_end_kernel KERNEL, ARGS_BYTES, 256, LDS_BYTES, SGPRS, VGPRS, AGPRS
