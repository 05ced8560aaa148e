// MLA decode of 64 rows of q, heads of one or several tokens, with 8-bit q and KV (asm/mla/decode.S has 16 rows): the four
// waves of a workgroup have 16 rows each and share KV, which crosses memory once.
//
// Defines: AITERLITE_PLANNED 0 or 1.
//
// Tiles of 32 tokens, in two stages of LDS; each wave brings a fourth of a tile, two tiles ahead, through registers. From
// LDS a wave reads all of it twice: as operands of scores, and as rows of V, which it turns over (asm/mla/tile.inc). One
// barrier a tile. Softmax, weights and results are those of asm/mla/decode.S, all of a wave's own: nothing is added up
// behind the loop.
//
// Traffic: KV once for 64 rows from memory, 4 * (1 + 512 / 576) times from LDS; page numbers twice a lane of 16; q once.
//
// A row may see fewer tokens than another wave's: those are selected to -inf and zero. Else as asm/mla/decode.S says.
#include <aiterlite/asm/arguments.inc>
#include <aiterlite/asm/kernel.inc>

#if AITERLITE_PLANNED != 0 && AITERLITE_PLANNED != 1
#error "AITERLITE_PLANNED must be 0 or 1"
#endif
.set KV_BYTES, 1
.set PARTS, 2
.set WIDE, 1
.set SHARED, 0

#include <aiterlite/asm/mla/registers.inc>
#include <aiterlite/asm/mla/work.inc>
#include <aiterlite/asm/mla/start.inc>
#include <aiterlite/asm/mla/tile.inc>
#include <aiterlite/asm/mla/softmax.inc>
#include <aiterlite/asm/mla/finish.inc>
#include <aiterlite/asm/mla/wide.inc>

aiterlite_begin_kernel aiterlite_mla_decode_fp8_wide
  load_arguments
  s_waitcnt lgkmcnt(0)
  find_items
  places_in_tile
.Litem:
  s_cmp_ge_i32 S_ITEM, S_ITEMS
  s_cbranch_scc1 .Lend
  find_work .Lnext_item
  s_add_u32 S_TILES_OF_ROW, S_WORK_HEADS, 15
  s_lshr_b32 S_TILES_OF_ROW, S_TILES_OF_ROW, 4
  s_mul_i32 S_TILES, S_WORK_ROW_COUNT, S_TILES_OF_ROW
  s_lshl_b32 S_TILE, S_GROUP, 2
.Lrows:
  s_cmp_ge_u32 S_TILE, S_TILES
  s_cbranch_scc1 .Lnext_item
  // The last row that the workgroup has sees the most tokens; a wave that has none takes it too, and stores nothing.
  s_sub_u32 S_T5, S_TILES, 1
  s_add_u32 S_T4, S_TILE, 3
  s_min_u32 S_T4, S_T4, S_T5
  find_tile S_T4
  s_mov_b32 S_TILE_TOKEN, S_SEEN
  s_add_u32 S_T4, S_TILE, S_WAVE
  s_cmp_lt_u32 S_T4, S_TILES
  s_cselect_b32 S_HAS_ROWS, 1, 0
  s_min_u32 S_T4, S_T4, S_T5
  find_tile S_T4
  s_mov_b32 S_OWN_SEEN, S_SEEN
  s_mov_b32 S_SEEN, S_TILE_TOKEN
  s_mov_b32 S_TILE_TOKEN, S_BEGIN
  s_sub_u32 S_LAST, S_SEEN, 1
  s_sub_u32 S_LEFT, S_SEEN, S_BEGIN
  s_add_u32 S_LEFT, S_LEFT, TILE_TOKENS - 1
  s_lshr_b32 S_LEFT, S_LEFT, LOG_TILE_TOKENS
  s_and_b32 S_TOKEN, S_WAVE, 1
  s_lshl_b32 S_TOKEN, S_TOKEN, 4
  s_add_u32 S_TOKEN, S_TOKEN, S_BEGIN
  set_byte_selects
  load_own_q
  clear_sums
  s_waitcnt vmcnt(0)
  s_barrier                         // no wave reads LDS of the rows before any more
  s_cmp_eq_u32 S_LEFT, 0
  s_cbranch_scc1 .Lsummed
  find_pages
  s_waitcnt vmcnt(0)
  find_rows S_NEXT_EXISTS
  s_add_u32 S_TOKEN, S_TOKEN, TILE_TOKENS
  find_pages
  load_share 0, S_NEXT_EXISTS
  s_waitcnt vmcnt(SHARE - 1)
  find_rows (S_NEXT_EXISTS + 2)
  s_add_u32 S_TOKEN, S_TOKEN, TILE_TOKENS
  find_pages
  load_share 1, (S_NEXT_EXISTS + 2)
  leave_share 0

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
  store_own
  s_lshl_b32 S_T0, S_GROUPS, 2
  s_add_u32 S_TILE, S_TILE, S_T0
  s_branch .Lrows
.Lnext_item:
  s_add_u32 S_ITEM, S_ITEM, 1
  s_branch .Litem
.Lend:
  s_endpgm

.Lrescale0:
  rescale_tile
  select_values
  s_branch .Lweigh0
.Lrescale1:
  rescale_tile
  select_values
  s_branch .Lweigh1

aiterlite_end_kernel aiterlite_mla_decode_fp8_wide, ARGS_BYTES, 256, LDS_BYTES, SGPRS, VGPRS, AGPRS
