// Every mnemonic of the gfx942 and gfx950 instruction sets that the decoder knows, one X() each, grouped by the unit
// that executes it. Names carry no _e32/_e64/_dpp/_sdwa suffix: an encoding does not change what an instruction
// computes.
#pragma once

// clang-format off

// Scalar ALU, program flow and messages: SOP1, SOP2, SOPC, SOPK, SOPP.
#define AITERLITE_SALU_OPS(X) \
  X(s_add_u32) X(s_sub_u32) X(s_add_i32) X(s_sub_i32) X(s_addc_u32) X(s_subb_u32) X(s_min_i32) X(s_min_u32) \
  X(s_max_i32) X(s_max_u32) X(s_cselect_b32) X(s_cselect_b64) X(s_and_b32) X(s_and_b64) X(s_or_b32) X(s_or_b64) \
  X(s_xor_b32) X(s_xor_b64) X(s_andn2_b32) X(s_andn2_b64) X(s_orn2_b32) X(s_orn2_b64) X(s_nand_b32) X(s_nand_b64) \
  X(s_nor_b32) X(s_nor_b64) X(s_xnor_b32) X(s_xnor_b64) X(s_lshl_b32) X(s_lshl_b64) X(s_lshr_b32) X(s_lshr_b64) \
  X(s_ashr_i32) X(s_ashr_i64) X(s_bfm_b32) X(s_bfm_b64) X(s_mul_i32) X(s_bfe_u32) X(s_bfe_i32) X(s_bfe_u64) \
  X(s_bfe_i64) X(s_cbranch_g_fork) X(s_absdiff_i32) X(s_rfe_restore_b64) X(s_mul_hi_u32) X(s_mul_hi_i32) \
  X(s_lshl1_add_u32) X(s_lshl2_add_u32) X(s_lshl3_add_u32) X(s_lshl4_add_u32) X(s_pack_ll_b32_b16) \
  X(s_pack_lh_b32_b16) X(s_pack_hh_b32_b16) X(s_movk_i32) X(s_cmovk_i32) X(s_cmpk_eq_i32) X(s_cmpk_lg_i32) \
  X(s_cmpk_gt_i32) X(s_cmpk_ge_i32) X(s_cmpk_lt_i32) X(s_cmpk_le_i32) X(s_cmpk_eq_u32) X(s_cmpk_lg_u32) \
  X(s_cmpk_gt_u32) X(s_cmpk_ge_u32) X(s_cmpk_lt_u32) X(s_cmpk_le_u32) X(s_addk_i32) X(s_mulk_i32) \
  X(s_cbranch_i_fork) X(s_getreg_b32) X(s_setreg_b32) X(s_setreg_imm32_b32) X(s_call_b64) X(s_mov_b32) X(s_mov_b64) \
  X(s_cmov_b32) X(s_cmov_b64) X(s_not_b32) X(s_not_b64) X(s_wqm_b32) X(s_wqm_b64) X(s_brev_b32) X(s_brev_b64) \
  X(s_bcnt0_i32_b32) X(s_bcnt0_i32_b64) X(s_bcnt1_i32_b32) X(s_bcnt1_i32_b64) X(s_ff0_i32_b32) X(s_ff0_i32_b64) \
  X(s_ff1_i32_b32) X(s_ff1_i32_b64) X(s_flbit_i32_b32) X(s_flbit_i32_b64) X(s_flbit_i32) X(s_flbit_i32_i64) \
  X(s_sext_i32_i8) X(s_sext_i32_i16) X(s_bitset0_b32) X(s_bitset0_b64) X(s_bitset1_b32) X(s_bitset1_b64) \
  X(s_getpc_b64) X(s_setpc_b64) X(s_swappc_b64) X(s_rfe_b64) X(s_and_saveexec_b64) X(s_or_saveexec_b64) \
  X(s_xor_saveexec_b64) X(s_andn2_saveexec_b64) X(s_orn2_saveexec_b64) X(s_nand_saveexec_b64) X(s_nor_saveexec_b64) \
  X(s_xnor_saveexec_b64) X(s_quadmask_b32) X(s_quadmask_b64) X(s_movrels_b32) X(s_movrels_b64) X(s_movreld_b32) \
  X(s_movreld_b64) X(s_cbranch_join) X(s_abs_i32) X(s_set_gpr_idx_idx) X(s_andn1_saveexec_b64) \
  X(s_orn1_saveexec_b64) X(s_andn1_wrexec_b64) X(s_andn2_wrexec_b64) X(s_bitreplicate_b64_b32) X(s_cmp_eq_i32) \
  X(s_cmp_lg_i32) X(s_cmp_gt_i32) X(s_cmp_ge_i32) X(s_cmp_lt_i32) X(s_cmp_le_i32) X(s_cmp_eq_u32) X(s_cmp_lg_u32) \
  X(s_cmp_gt_u32) X(s_cmp_ge_u32) X(s_cmp_lt_u32) X(s_cmp_le_u32) X(s_bitcmp0_b32) X(s_bitcmp1_b32) X(s_bitcmp0_b64) \
  X(s_bitcmp1_b64) X(s_setvskip) X(s_set_gpr_idx_on) X(s_cmp_eq_u64) X(s_cmp_lg_u64) X(s_nop) X(s_endpgm) \
  X(s_branch) X(s_wakeup) X(s_cbranch_scc0) X(s_cbranch_scc1) X(s_cbranch_vccz) X(s_cbranch_vccnz) \
  X(s_cbranch_execz) X(s_cbranch_execnz) X(s_barrier) X(s_setkill) X(s_waitcnt) X(s_sethalt) X(s_sleep) X(s_setprio) \
  X(s_sendmsg) X(s_sendmsghalt) X(s_trap) X(s_icache_inv) X(s_incperflevel) X(s_decperflevel) X(s_ttracedata) \
  X(s_cbranch_cdbgsys) X(s_cbranch_cdbguser) X(s_cbranch_cdbgsys_or_user) X(s_cbranch_cdbgsys_and_user) \
  X(s_endpgm_saved) X(s_set_gpr_idx_off) X(s_set_gpr_idx_mode) X(s_endpgm_ordered_ps_done)

// Scalar memory.
#define AITERLITE_SMEM_OPS(X) \
  X(s_load_dword) X(s_load_dwordx2) X(s_load_dwordx4) X(s_load_dwordx8) X(s_load_dwordx16) X(s_scratch_load_dword) \
  X(s_scratch_load_dwordx2) X(s_scratch_load_dwordx4) X(s_buffer_load_dword) X(s_buffer_load_dwordx2) \
  X(s_buffer_load_dwordx4) X(s_buffer_load_dwordx8) X(s_buffer_load_dwordx16) X(s_store_dword) X(s_store_dwordx2) \
  X(s_store_dwordx4) X(s_scratch_store_dword) X(s_scratch_store_dwordx2) X(s_scratch_store_dwordx4) \
  X(s_buffer_store_dword) X(s_buffer_store_dwordx2) X(s_buffer_store_dwordx4) X(s_atc_probe) X(s_atc_probe_buffer) \
  X(s_dcache_discard) X(s_dcache_discard_x2) X(s_buffer_atomic_swap) X(s_buffer_atomic_cmpswap) \
  X(s_buffer_atomic_add) X(s_buffer_atomic_sub) X(s_buffer_atomic_smin) X(s_buffer_atomic_umin) \
  X(s_buffer_atomic_smax) X(s_buffer_atomic_umax) X(s_buffer_atomic_and) X(s_buffer_atomic_or) \
  X(s_buffer_atomic_xor) X(s_buffer_atomic_inc) X(s_buffer_atomic_dec) X(s_buffer_atomic_swap_x2) \
  X(s_buffer_atomic_cmpswap_x2) X(s_buffer_atomic_add_x2) X(s_buffer_atomic_sub_x2) X(s_buffer_atomic_smin_x2) \
  X(s_buffer_atomic_umin_x2) X(s_buffer_atomic_smax_x2) X(s_buffer_atomic_umax_x2) X(s_buffer_atomic_and_x2) \
  X(s_buffer_atomic_or_x2) X(s_buffer_atomic_xor_x2) X(s_buffer_atomic_inc_x2) X(s_buffer_atomic_dec_x2) \
  X(s_atomic_swap) X(s_atomic_cmpswap) X(s_atomic_add) X(s_atomic_sub) X(s_atomic_smin) X(s_atomic_umin) \
  X(s_atomic_smax) X(s_atomic_umax) X(s_atomic_and) X(s_atomic_or) X(s_atomic_xor) X(s_atomic_inc) X(s_atomic_dec) \
  X(s_atomic_swap_x2) X(s_atomic_cmpswap_x2) X(s_atomic_add_x2) X(s_atomic_sub_x2) X(s_atomic_smin_x2) \
  X(s_atomic_umin_x2) X(s_atomic_smax_x2) X(s_atomic_umax_x2) X(s_atomic_and_x2) X(s_atomic_or_x2) \
  X(s_atomic_xor_x2) X(s_atomic_inc_x2) X(s_atomic_dec_x2) X(s_dcache_inv) X(s_dcache_wb) X(s_dcache_inv_vol) \
  X(s_dcache_wb_vol) X(s_memtime) X(s_memrealtime)

// Vector ALU: VOP1, VOP2 and the VOP3-only opcodes.
#define AITERLITE_VALU_OPS(X) \
  X(v_cndmask_b32) X(v_add_f32) X(v_sub_f32) X(v_subrev_f32) X(v_fmac_f64) X(v_mul_f32) X(v_mul_i32_i24) \
  X(v_mul_hi_i32_i24) X(v_mul_u32_u24) X(v_mul_hi_u32_u24) X(v_min_f32) X(v_max_f32) X(v_min_i32) X(v_max_i32) \
  X(v_min_u32) X(v_max_u32) X(v_lshrrev_b32) X(v_ashrrev_i32) X(v_lshlrev_b32) X(v_and_b32) X(v_or_b32) X(v_xor_b32) \
  X(v_dot2c_f32_bf16) X(v_fmamk_f32) X(v_fmaak_f32) X(v_add_co_u32) X(v_sub_co_u32) X(v_subrev_co_u32) \
  X(v_addc_co_u32) X(v_subb_co_u32) X(v_subbrev_co_u32) X(v_add_f16) X(v_sub_f16) X(v_subrev_f16) X(v_mul_f16) \
  X(v_mac_f16) X(v_madmk_f16) X(v_madak_f16) X(v_add_u16) X(v_sub_u16) X(v_subrev_u16) X(v_mul_lo_u16) \
  X(v_lshlrev_b16) X(v_lshrrev_b16) X(v_ashrrev_i16) X(v_max_f16) X(v_min_f16) X(v_max_u16) X(v_max_i16) \
  X(v_min_u16) X(v_min_i16) X(v_ldexp_f16) X(v_add_u32) X(v_sub_u32) X(v_subrev_u32) X(v_dot2c_f32_f16) \
  X(v_dot2c_i32_i16) X(v_dot4c_i32_i8) X(v_dot8c_i32_i4) X(v_fmac_f32) X(v_pk_fmac_f16) X(v_xnor_b32) X(v_mov_b32) \
  X(v_readfirstlane_b32) X(v_cvt_i32_f64) X(v_cvt_f64_i32) X(v_cvt_f32_i32) X(v_cvt_f32_u32) X(v_cvt_u32_f32) \
  X(v_cvt_i32_f32) X(v_cvt_f16_f32) X(v_cvt_f32_f16) X(v_cvt_rpi_i32_f32) X(v_cvt_flr_i32_f32) X(v_cvt_off_f32_i4) \
  X(v_cvt_f32_f64) X(v_cvt_f64_f32) X(v_cvt_f32_ubyte0) X(v_cvt_f32_ubyte1) X(v_cvt_f32_ubyte2) X(v_cvt_f32_ubyte3) \
  X(v_cvt_u32_f64) X(v_cvt_f64_u32) X(v_trunc_f64) X(v_ceil_f64) X(v_rndne_f64) X(v_floor_f64) X(v_fract_f32) \
  X(v_trunc_f32) X(v_ceil_f32) X(v_rndne_f32) X(v_floor_f32) X(v_exp_f32) X(v_log_f32) X(v_rcp_f32) \
  X(v_rcp_iflag_f32) X(v_rsq_f32) X(v_rcp_f64) X(v_rsq_f64) X(v_sqrt_f32) X(v_sqrt_f64) X(v_sin_f32) X(v_cos_f32) \
  X(v_not_b32) X(v_bfrev_b32) X(v_ffbh_u32) X(v_ffbl_b32) X(v_ffbh_i32) X(v_frexp_exp_i32_f64) X(v_frexp_mant_f64) \
  X(v_fract_f64) X(v_frexp_exp_i32_f32) X(v_frexp_mant_f32) X(v_screen_partition_4se_b32) X(v_mov_b64) \
  X(v_cvt_f16_u16) X(v_cvt_f16_i16) X(v_cvt_u16_f16) X(v_cvt_i16_f16) X(v_rcp_f16) X(v_sqrt_f16) X(v_rsq_f16) \
  X(v_log_f16) X(v_exp_f16) X(v_frexp_mant_f16) X(v_frexp_exp_i16_f16) X(v_floor_f16) X(v_ceil_f16) X(v_trunc_f16) \
  X(v_rndne_f16) X(v_fract_f16) X(v_sin_f16) X(v_cos_f16) X(v_exp_legacy_f32) X(v_log_legacy_f32) \
  X(v_cvt_norm_i16_f16) X(v_cvt_norm_u16_f16) X(v_sat_pk_u8_i16) X(v_swap_b32) X(v_accvgpr_mov_b32) X(v_cvt_f32_fp8) \
  X(v_cvt_f32_bf8) X(v_cvt_pk_f32_fp8) X(v_cvt_pk_f32_bf8) X(v_prng_b32) X(v_permlane16_swap_b32) \
  X(v_permlane32_swap_b32) X(v_cvt_f32_bf16) X(v_mad_i32_i24) X(v_mad_u32_u24) X(v_cubeid_f32) X(v_cubesc_f32) \
  X(v_cubetc_f32) X(v_cubema_f32) X(v_bfe_u32) X(v_bfe_i32) X(v_bfi_b32) X(v_fma_f32) X(v_fma_f64) X(v_lerp_u8) \
  X(v_alignbit_b32) X(v_alignbyte_b32) X(v_min3_f32) X(v_min3_i32) X(v_min3_u32) X(v_max3_f32) X(v_max3_i32) \
  X(v_max3_u32) X(v_med3_f32) X(v_med3_i32) X(v_med3_u32) X(v_sad_u8) X(v_sad_hi_u8) X(v_sad_u16) X(v_sad_u32) \
  X(v_cvt_pk_u8_f32) X(v_div_fixup_f32) X(v_div_fixup_f64) X(v_div_scale_f32) X(v_div_scale_f64) X(v_div_fmas_f32) \
  X(v_div_fmas_f64) X(v_msad_u8) X(v_qsad_pk_u16_u8) X(v_mqsad_pk_u16_u8) X(v_mqsad_u32_u8) X(v_mad_u64_u32) \
  X(v_mad_i64_i32) X(v_mad_legacy_f16) X(v_mad_legacy_u16) X(v_mad_legacy_i16) X(v_perm_b32) X(v_fma_legacy_f16) \
  X(v_div_fixup_legacy_f16) X(v_cvt_pkaccum_u8_f32) X(v_mad_u32_u16) X(v_mad_i32_i16) X(v_xad_u32) X(v_min3_f16) \
  X(v_min3_i16) X(v_min3_u16) X(v_max3_f16) X(v_max3_i16) X(v_max3_u16) X(v_med3_f16) X(v_med3_i16) X(v_med3_u16) \
  X(v_lshl_add_u32) X(v_add_lshl_u32) X(v_add3_u32) X(v_lshl_or_b32) X(v_and_or_b32) X(v_or3_b32) X(v_mad_f16) \
  X(v_mad_u16) X(v_mad_i16) X(v_fma_f16) X(v_div_fixup_f16) X(v_lshl_add_u64) X(v_bitop3_b16) X(v_bitop3_b32) \
  X(v_cvt_scalef32_pk_fp8_f32) X(v_cvt_scalef32_pk_bf8_f32) X(v_cvt_scalef32_sr_fp8_f32) \
  X(v_cvt_scalef32_sr_bf8_f32) X(v_cvt_scalef32_pk_f32_fp8) X(v_cvt_scalef32_pk_f32_bf8) X(v_cvt_scalef32_f32_fp8) \
  X(v_cvt_scalef32_f32_bf8) X(v_cvt_scalef32_pk_fp4_f32) X(v_cvt_scalef32_sr_pk_fp4_f32) \
  X(v_cvt_scalef32_pk_f32_fp4) X(v_cvt_scalef32_pk_fp8_f16) X(v_cvt_scalef32_pk_bf8_f16) \
  X(v_cvt_scalef32_sr_fp8_f16) X(v_cvt_scalef32_sr_bf8_f16) X(v_cvt_scalef32_pk_fp8_bf16) \
  X(v_cvt_scalef32_pk_bf8_bf16) X(v_cvt_scalef32_sr_fp8_bf16) X(v_cvt_scalef32_sr_bf8_bf16) \
  X(v_cvt_scalef32_pk_f16_fp8) X(v_cvt_scalef32_pk_f16_bf8) X(v_cvt_scalef32_f16_fp8) X(v_cvt_scalef32_f16_bf8) \
  X(v_cvt_scalef32_pk_fp4_f16) X(v_cvt_scalef32_pk_fp4_bf16) X(v_cvt_scalef32_sr_pk_fp4_f16) \
  X(v_cvt_scalef32_sr_pk_fp4_bf16) X(v_cvt_scalef32_pk_f16_fp4) X(v_cvt_scalef32_pk_bf16_fp4) \
  X(v_cvt_scalef32_2xpk16_fp6_f32) X(v_cvt_scalef32_2xpk16_bf6_f32) X(v_cvt_scalef32_sr_pk32_fp6_f32) \
  X(v_cvt_scalef32_sr_pk32_bf6_f32) X(v_cvt_scalef32_pk32_f32_fp6) X(v_cvt_scalef32_pk32_f32_bf6) \
  X(v_cvt_scalef32_pk32_fp6_f16) X(v_cvt_scalef32_pk32_fp6_bf16) X(v_cvt_scalef32_pk32_bf6_f16) \
  X(v_cvt_scalef32_pk32_bf6_bf16) X(v_cvt_scalef32_sr_pk32_fp6_f16) X(v_cvt_scalef32_sr_pk32_fp6_bf16) \
  X(v_cvt_scalef32_sr_pk32_bf6_f16) X(v_cvt_scalef32_sr_pk32_bf6_bf16) X(v_cvt_scalef32_pk32_f16_fp6) \
  X(v_cvt_scalef32_pk32_bf16_fp6) X(v_cvt_scalef32_pk32_f16_bf6) X(v_cvt_scalef32_pk32_bf16_bf6) X(v_ashr_pk_i8_i32) \
  X(v_ashr_pk_u8_i32) X(v_cvt_pk_f16_f32) X(v_cvt_pk_bf16_f32) X(v_cvt_scalef32_pk_bf16_fp8) \
  X(v_cvt_scalef32_pk_bf16_bf8) X(v_add_f64) X(v_mul_f64) X(v_min_f64) X(v_max_f64) X(v_ldexp_f64) X(v_mul_lo_u32) \
  X(v_mul_hi_u32) X(v_mul_hi_i32) X(v_ldexp_f32) X(v_readlane_b32) X(v_writelane_b32) X(v_bcnt_u32_b32) \
  X(v_mbcnt_lo_u32_b32) X(v_mbcnt_hi_u32_b32) X(v_lshlrev_b64) X(v_lshrrev_b64) X(v_ashrrev_i64) X(v_trig_preop_f64) \
  X(v_bfm_b32) X(v_cvt_pknorm_i16_f32) X(v_cvt_pknorm_u16_f32) X(v_cvt_pkrtz_f16_f32) X(v_cvt_pk_u16_u32) \
  X(v_cvt_pk_i16_i32) X(v_cvt_pknorm_i16_f16) X(v_cvt_pknorm_u16_f16) X(v_add_i32) X(v_sub_i32) X(v_add_i16) \
  X(v_sub_i16) X(v_pack_b32_f16) X(v_mul_legacy_f32) X(v_cvt_pk_fp8_f32) X(v_cvt_pk_bf8_f32) X(v_cvt_sr_fp8_f32) \
  X(v_cvt_sr_bf8_f32) X(v_cvt_sr_f16_f32) X(v_cvt_sr_bf16_f32) X(v_minimum3_f32) X(v_maximum3_f32) X(v_nop) \
  X(v_clrexcp)

// Vector compares (VOPC and their VOP3 twins).
#define AITERLITE_VOPC_OPS(X) \
  X(v_cmp_class_f32) X(v_cmpx_class_f32) X(v_cmp_class_f64) X(v_cmpx_class_f64) X(v_cmp_class_f16) \
  X(v_cmpx_class_f16) X(v_cmp_f_f16) X(v_cmp_lt_f16) X(v_cmp_eq_f16) X(v_cmp_le_f16) X(v_cmp_gt_f16) X(v_cmp_lg_f16) \
  X(v_cmp_ge_f16) X(v_cmp_o_f16) X(v_cmp_u_f16) X(v_cmp_nge_f16) X(v_cmp_nlg_f16) X(v_cmp_ngt_f16) X(v_cmp_nle_f16) \
  X(v_cmp_neq_f16) X(v_cmp_nlt_f16) X(v_cmp_tru_f16) X(v_cmpx_f_f16) X(v_cmpx_lt_f16) X(v_cmpx_eq_f16) \
  X(v_cmpx_le_f16) X(v_cmpx_gt_f16) X(v_cmpx_lg_f16) X(v_cmpx_ge_f16) X(v_cmpx_o_f16) X(v_cmpx_u_f16) \
  X(v_cmpx_nge_f16) X(v_cmpx_nlg_f16) X(v_cmpx_ngt_f16) X(v_cmpx_nle_f16) X(v_cmpx_neq_f16) X(v_cmpx_nlt_f16) \
  X(v_cmpx_tru_f16) X(v_cmp_f_f32) X(v_cmp_lt_f32) X(v_cmp_eq_f32) X(v_cmp_le_f32) X(v_cmp_gt_f32) X(v_cmp_lg_f32) \
  X(v_cmp_ge_f32) X(v_cmp_o_f32) X(v_cmp_u_f32) X(v_cmp_nge_f32) X(v_cmp_nlg_f32) X(v_cmp_ngt_f32) X(v_cmp_nle_f32) \
  X(v_cmp_neq_f32) X(v_cmp_nlt_f32) X(v_cmp_tru_f32) X(v_cmpx_f_f32) X(v_cmpx_lt_f32) X(v_cmpx_eq_f32) \
  X(v_cmpx_le_f32) X(v_cmpx_gt_f32) X(v_cmpx_lg_f32) X(v_cmpx_ge_f32) X(v_cmpx_o_f32) X(v_cmpx_u_f32) \
  X(v_cmpx_nge_f32) X(v_cmpx_nlg_f32) X(v_cmpx_ngt_f32) X(v_cmpx_nle_f32) X(v_cmpx_neq_f32) X(v_cmpx_nlt_f32) \
  X(v_cmpx_tru_f32) X(v_cmp_f_f64) X(v_cmp_lt_f64) X(v_cmp_eq_f64) X(v_cmp_le_f64) X(v_cmp_gt_f64) X(v_cmp_lg_f64) \
  X(v_cmp_ge_f64) X(v_cmp_o_f64) X(v_cmp_u_f64) X(v_cmp_nge_f64) X(v_cmp_nlg_f64) X(v_cmp_ngt_f64) X(v_cmp_nle_f64) \
  X(v_cmp_neq_f64) X(v_cmp_nlt_f64) X(v_cmp_tru_f64) X(v_cmpx_f_f64) X(v_cmpx_lt_f64) X(v_cmpx_eq_f64) \
  X(v_cmpx_le_f64) X(v_cmpx_gt_f64) X(v_cmpx_lg_f64) X(v_cmpx_ge_f64) X(v_cmpx_o_f64) X(v_cmpx_u_f64) \
  X(v_cmpx_nge_f64) X(v_cmpx_nlg_f64) X(v_cmpx_ngt_f64) X(v_cmpx_nle_f64) X(v_cmpx_neq_f64) X(v_cmpx_nlt_f64) \
  X(v_cmpx_tru_f64) X(v_cmp_f_i16) X(v_cmp_lt_i16) X(v_cmp_eq_i16) X(v_cmp_le_i16) X(v_cmp_gt_i16) X(v_cmp_ne_i16) \
  X(v_cmp_ge_i16) X(v_cmp_t_i16) X(v_cmp_f_u16) X(v_cmp_lt_u16) X(v_cmp_eq_u16) X(v_cmp_le_u16) X(v_cmp_gt_u16) \
  X(v_cmp_ne_u16) X(v_cmp_ge_u16) X(v_cmp_t_u16) X(v_cmpx_f_i16) X(v_cmpx_lt_i16) X(v_cmpx_eq_i16) X(v_cmpx_le_i16) \
  X(v_cmpx_gt_i16) X(v_cmpx_ne_i16) X(v_cmpx_ge_i16) X(v_cmpx_t_i16) X(v_cmpx_f_u16) X(v_cmpx_lt_u16) \
  X(v_cmpx_eq_u16) X(v_cmpx_le_u16) X(v_cmpx_gt_u16) X(v_cmpx_ne_u16) X(v_cmpx_ge_u16) X(v_cmpx_t_u16) \
  X(v_cmp_f_i32) X(v_cmp_lt_i32) X(v_cmp_eq_i32) X(v_cmp_le_i32) X(v_cmp_gt_i32) X(v_cmp_ne_i32) X(v_cmp_ge_i32) \
  X(v_cmp_t_i32) X(v_cmp_f_u32) X(v_cmp_lt_u32) X(v_cmp_eq_u32) X(v_cmp_le_u32) X(v_cmp_gt_u32) X(v_cmp_ne_u32) \
  X(v_cmp_ge_u32) X(v_cmp_t_u32) X(v_cmpx_f_i32) X(v_cmpx_lt_i32) X(v_cmpx_eq_i32) X(v_cmpx_le_i32) X(v_cmpx_gt_i32) \
  X(v_cmpx_ne_i32) X(v_cmpx_ge_i32) X(v_cmpx_t_i32) X(v_cmpx_f_u32) X(v_cmpx_lt_u32) X(v_cmpx_eq_u32) \
  X(v_cmpx_le_u32) X(v_cmpx_gt_u32) X(v_cmpx_ne_u32) X(v_cmpx_ge_u32) X(v_cmpx_t_u32) X(v_cmp_f_i64) X(v_cmp_lt_i64) \
  X(v_cmp_eq_i64) X(v_cmp_le_i64) X(v_cmp_gt_i64) X(v_cmp_ne_i64) X(v_cmp_ge_i64) X(v_cmp_t_i64) X(v_cmp_f_u64) \
  X(v_cmp_lt_u64) X(v_cmp_eq_u64) X(v_cmp_le_u64) X(v_cmp_gt_u64) X(v_cmp_ne_u64) X(v_cmp_ge_u64) X(v_cmp_t_u64) \
  X(v_cmpx_f_i64) X(v_cmpx_lt_i64) X(v_cmpx_eq_i64) X(v_cmpx_le_i64) X(v_cmpx_gt_i64) X(v_cmpx_ne_i64) \
  X(v_cmpx_ge_i64) X(v_cmpx_t_i64) X(v_cmpx_f_u64) X(v_cmpx_lt_u64) X(v_cmpx_eq_u64) X(v_cmpx_le_u64) \
  X(v_cmpx_gt_u64) X(v_cmpx_ne_u64) X(v_cmpx_ge_u64) X(v_cmpx_t_u64)

// Packed and mixed-precision arithmetic, dot products, and the accumulation-register moves.
#define AITERLITE_VOP3P_OPS(X) \
  X(v_pk_mad_i16) X(v_pk_mul_lo_u16) X(v_pk_add_i16) X(v_pk_sub_i16) X(v_pk_lshlrev_b16) X(v_pk_lshrrev_b16) \
  X(v_pk_ashrrev_i16) X(v_pk_max_i16) X(v_pk_min_i16) X(v_pk_mad_u16) X(v_pk_add_u16) X(v_pk_sub_u16) \
  X(v_pk_max_u16) X(v_pk_min_u16) X(v_pk_fma_f16) X(v_pk_add_f16) X(v_pk_mul_f16) X(v_pk_min_f16) X(v_pk_max_f16) \
  X(v_dot2_f32_bf16) X(v_pk_minimum3_f16) X(v_pk_maximum3_f16) X(v_fma_mix_f32) X(v_fma_mixlo_f16) \
  X(v_fma_mixhi_f16) X(v_dot2_f32_f16) X(v_dot2_i32_i16) X(v_dot2_u32_u16) X(v_dot4_i32_i8) X(v_dot4_u32_u8) \
  X(v_dot8_i32_i4) X(v_dot8_u32_u4) X(v_pk_fma_f32) X(v_pk_mul_f32) X(v_pk_add_f32) X(v_pk_mov_b32) \
  X(v_accvgpr_read_b32) X(v_accvgpr_write_b32)

// Matrix multiply-accumulate, dense, sparse (SMFMAC) and block-scaled.
#define AITERLITE_MFMA_OPS(X) \
  X(v_mfma_f32_16x16x128_f8f6f4) X(v_mfma_f32_32x32x64_f8f6f4) X(v_mfma_f32_16x16x32_bf16) X(v_mfma_i32_16x16x64_i8) \
  X(v_mfma_f32_32x32x16_bf16) X(v_mfma_i32_32x32x32_i8) X(v_smfmac_f32_16x16x64_bf16) X(v_smfmac_i32_16x16x128_i8) \
  X(v_smfmac_f32_16x16x128_bf8_bf8) X(v_smfmac_f32_16x16x128_bf8_fp8) X(v_smfmac_f32_16x16x128_fp8_bf8) \
  X(v_mfma_f32_16x16x8_xf32) X(v_mfma_f32_32x32x4_xf32) X(v_mfma_f32_32x32x1_2b_f32) X(v_mfma_f32_16x16x1_4b_f32) \
  X(v_mfma_f32_4x4x1_16b_f32) X(v_smfmac_f32_16x16x128_fp8_fp8) X(v_mfma_f32_32x32x2_f32) X(v_mfma_f32_16x16x4_f32) \
  X(v_smfmac_f32_32x32x32_bf16) X(v_smfmac_i32_32x32x64_i8) X(v_mfma_f32_32x32x4_2b_f16) \
  X(v_mfma_f32_16x16x4_4b_f16) X(v_mfma_f32_4x4x4_16b_f16) X(v_smfmac_f32_32x32x64_bf8_bf8) \
  X(v_mfma_f32_32x32x8_f16) X(v_mfma_f32_16x16x16_f16) X(v_smfmac_f32_32x32x64_bf8_fp8) \
  X(v_smfmac_f32_32x32x64_fp8_bf8) X(v_mfma_i32_32x32x4_2b_i8) X(v_mfma_i32_16x16x4_4b_i8) \
  X(v_mfma_i32_4x4x4_16b_i8) X(v_smfmac_f32_32x32x64_fp8_fp8) X(v_mfma_f32_16x16x32_f16) X(v_mfma_f32_32x32x16_f16) \
  X(v_mfma_i32_32x32x16_i8) X(v_mfma_i32_16x16x32_i8) X(v_smfmac_f32_16x16x64_f16) X(v_smfmac_f32_32x32x32_f16) \
  X(v_mfma_f32_32x32x4_2b_bf16) X(v_mfma_f32_16x16x4_4b_bf16) X(v_mfma_f32_4x4x4_16b_bf16) \
  X(v_mfma_f32_32x32x8_bf16) X(v_mfma_f32_16x16x16_bf16) X(v_smfmac_f32_16x16x32_f16) X(v_smfmac_f32_32x32x16_f16) \
  X(v_smfmac_f32_16x16x32_bf16) X(v_smfmac_f32_32x32x16_bf16) X(v_smfmac_i32_16x16x64_i8) \
  X(v_smfmac_i32_32x32x32_i8) X(v_mfma_f64_16x16x4_f64) X(v_mfma_f64_4x4x4_4b_f64) X(v_mfma_f32_16x16x32_bf8_bf8) \
  X(v_mfma_f32_16x16x32_bf8_fp8) X(v_mfma_f32_16x16x32_fp8_bf8) X(v_mfma_f32_16x16x32_fp8_fp8) \
  X(v_mfma_f32_32x32x16_bf8_bf8) X(v_mfma_f32_32x32x16_bf8_fp8) X(v_mfma_f32_32x32x16_fp8_bf8) \
  X(v_mfma_f32_32x32x16_fp8_fp8) X(v_smfmac_f32_16x16x64_bf8_bf8) X(v_smfmac_f32_16x16x64_bf8_fp8) \
  X(v_smfmac_f32_16x16x64_fp8_bf8) X(v_smfmac_f32_16x16x64_fp8_fp8) X(v_smfmac_f32_32x32x32_bf8_bf8) \
  X(v_smfmac_f32_32x32x32_bf8_fp8) X(v_smfmac_f32_32x32x32_fp8_bf8) X(v_smfmac_f32_32x32x32_fp8_fp8) \
  X(v_mfma_ld_scale_b32) X(v_mfma_scale_f32_16x16x128_f8f6f4) X(v_mfma_scale_f32_32x32x64_f8f6f4)

// Local data share.
#define AITERLITE_DS_OPS(X) \
  X(ds_add_u32) X(ds_sub_u32) X(ds_rsub_u32) X(ds_inc_u32) X(ds_dec_u32) X(ds_min_i32) X(ds_max_i32) X(ds_min_u32) \
  X(ds_max_u32) X(ds_and_b32) X(ds_or_b32) X(ds_xor_b32) X(ds_mskor_b32) X(ds_write_b32) X(ds_write2_b32) \
  X(ds_write2st64_b32) X(ds_cmpst_b32) X(ds_cmpst_f32) X(ds_min_f32) X(ds_max_f32) X(ds_nop) X(ds_add_f32) \
  X(ds_pk_add_f16) X(ds_pk_add_bf16) X(ds_write_addtid_b32) X(ds_write_b8) X(ds_write_b16) X(ds_add_rtn_u32) \
  X(ds_sub_rtn_u32) X(ds_rsub_rtn_u32) X(ds_inc_rtn_u32) X(ds_dec_rtn_u32) X(ds_min_rtn_i32) X(ds_max_rtn_i32) \
  X(ds_min_rtn_u32) X(ds_max_rtn_u32) X(ds_and_rtn_b32) X(ds_or_rtn_b32) X(ds_xor_rtn_b32) X(ds_mskor_rtn_b32) \
  X(ds_wrxchg_rtn_b32) X(ds_wrxchg2_rtn_b32) X(ds_wrxchg2st64_rtn_b32) X(ds_cmpst_rtn_b32) X(ds_cmpst_rtn_f32) \
  X(ds_min_rtn_f32) X(ds_max_rtn_f32) X(ds_wrap_rtn_b32) X(ds_add_rtn_f32) X(ds_read_b32) X(ds_read2_b32) \
  X(ds_read2st64_b32) X(ds_read_i8) X(ds_read_u8) X(ds_read_i16) X(ds_read_u16) X(ds_swizzle_b32) X(ds_permute_b32) \
  X(ds_bpermute_b32) X(ds_add_u64) X(ds_sub_u64) X(ds_rsub_u64) X(ds_inc_u64) X(ds_dec_u64) X(ds_min_i64) \
  X(ds_max_i64) X(ds_min_u64) X(ds_max_u64) X(ds_and_b64) X(ds_or_b64) X(ds_xor_b64) X(ds_mskor_b64) X(ds_write_b64) \
  X(ds_write2_b64) X(ds_write2st64_b64) X(ds_cmpst_b64) X(ds_cmpst_f64) X(ds_min_f64) X(ds_max_f64) \
  X(ds_write_b8_d16_hi) X(ds_write_b16_d16_hi) X(ds_read_u8_d16) X(ds_read_u8_d16_hi) X(ds_read_i8_d16) \
  X(ds_read_i8_d16_hi) X(ds_read_u16_d16) X(ds_read_u16_d16_hi) X(ds_add_f64) X(ds_add_rtn_u64) X(ds_sub_rtn_u64) \
  X(ds_rsub_rtn_u64) X(ds_inc_rtn_u64) X(ds_dec_rtn_u64) X(ds_min_rtn_i64) X(ds_max_rtn_i64) X(ds_min_rtn_u64) \
  X(ds_max_rtn_u64) X(ds_and_rtn_b64) X(ds_or_rtn_b64) X(ds_xor_rtn_b64) X(ds_mskor_rtn_b64) X(ds_wrxchg_rtn_b64) \
  X(ds_wrxchg2_rtn_b64) X(ds_wrxchg2st64_rtn_b64) X(ds_cmpst_rtn_b64) X(ds_cmpst_rtn_f64) X(ds_min_rtn_f64) \
  X(ds_max_rtn_f64) X(ds_read_b64) X(ds_read2_b64) X(ds_read2st64_b64) X(ds_add_rtn_f64) X(ds_condxchg32_rtn_b64) \
  X(ds_gws_sema_release_all) X(ds_gws_init) X(ds_gws_sema_v) X(ds_gws_sema_br) X(ds_gws_sema_p) X(ds_gws_barrier) \
  X(ds_read_addtid_b32) X(ds_pk_add_rtn_f16) X(ds_pk_add_rtn_bf16) X(ds_consume) X(ds_append) X(ds_write_b96) \
  X(ds_write_b128) X(ds_read_b64_tr_b4) X(ds_read_b96_tr_b6) X(ds_read_b64_tr_b8) X(ds_read_b64_tr_b16) \
  X(ds_read_b96) X(ds_read_b128)

// Flat memory.
#define AITERLITE_FLAT_OPS(X) \
  X(flat_load_ubyte) X(flat_load_sbyte) X(flat_load_ushort) X(flat_load_sshort) X(flat_load_dword) \
  X(flat_load_dwordx2) X(flat_load_dwordx3) X(flat_load_dwordx4) X(flat_store_byte) X(flat_store_byte_d16_hi) \
  X(flat_store_short) X(flat_store_short_d16_hi) X(flat_store_dword) X(flat_store_dwordx2) X(flat_store_dwordx3) \
  X(flat_store_dwordx4) X(flat_load_ubyte_d16) X(flat_load_ubyte_d16_hi) X(flat_load_sbyte_d16) \
  X(flat_load_sbyte_d16_hi) X(flat_load_short_d16) X(flat_load_short_d16_hi) X(flat_atomic_swap) \
  X(flat_atomic_cmpswap) X(flat_atomic_add) X(flat_atomic_sub) X(flat_atomic_smin) X(flat_atomic_umin) \
  X(flat_atomic_smax) X(flat_atomic_umax) X(flat_atomic_and) X(flat_atomic_or) X(flat_atomic_xor) X(flat_atomic_inc) \
  X(flat_atomic_dec) X(flat_atomic_add_f32) X(flat_atomic_pk_add_f16) X(flat_atomic_add_f64) X(flat_atomic_min_f64) \
  X(flat_atomic_max_f64) X(flat_atomic_pk_add_bf16) X(flat_atomic_swap_x2) X(flat_atomic_cmpswap_x2) \
  X(flat_atomic_add_x2) X(flat_atomic_sub_x2) X(flat_atomic_smin_x2) X(flat_atomic_umin_x2) X(flat_atomic_smax_x2) \
  X(flat_atomic_umax_x2) X(flat_atomic_and_x2) X(flat_atomic_or_x2) X(flat_atomic_xor_x2) X(flat_atomic_inc_x2) \
  X(flat_atomic_dec_x2)

// Global memory.
#define AITERLITE_GLOBAL_OPS(X) \
  X(global_load_ubyte) X(global_load_sbyte) X(global_load_ushort) X(global_load_sshort) X(global_load_dword) \
  X(global_load_dwordx2) X(global_load_dwordx3) X(global_load_dwordx4) X(global_store_byte) \
  X(global_store_byte_d16_hi) X(global_store_short) X(global_store_short_d16_hi) X(global_store_dword) \
  X(global_store_dwordx2) X(global_store_dwordx3) X(global_store_dwordx4) X(global_load_ubyte_d16) \
  X(global_load_ubyte_d16_hi) X(global_load_sbyte_d16) X(global_load_sbyte_d16_hi) X(global_load_short_d16) \
  X(global_load_short_d16_hi) X(global_load_lds_ubyte) X(global_load_lds_sbyte) X(global_load_lds_ushort) \
  X(global_load_lds_sshort) X(global_load_lds_dword) X(global_atomic_swap) X(global_atomic_cmpswap) \
  X(global_atomic_add) X(global_atomic_sub) X(global_atomic_smin) X(global_atomic_umin) X(global_atomic_smax) \
  X(global_atomic_umax) X(global_atomic_and) X(global_atomic_or) X(global_atomic_xor) X(global_atomic_inc) \
  X(global_atomic_dec) X(global_atomic_add_f32) X(global_atomic_pk_add_f16) X(global_atomic_add_f64) \
  X(global_atomic_min_f64) X(global_atomic_max_f64) X(global_atomic_pk_add_bf16) X(global_atomic_swap_x2) \
  X(global_atomic_cmpswap_x2) X(global_atomic_add_x2) X(global_atomic_sub_x2) X(global_atomic_smin_x2) \
  X(global_atomic_umin_x2) X(global_atomic_smax_x2) X(global_atomic_umax_x2) X(global_atomic_and_x2) \
  X(global_atomic_or_x2) X(global_atomic_xor_x2) X(global_atomic_inc_x2) X(global_atomic_dec_x2) \
  X(global_load_lds_dwordx4) X(global_load_lds_dwordx3)

// Private (scratch) memory.
#define AITERLITE_SCRATCH_OPS(X) \
  X(scratch_load_ubyte) X(scratch_load_sbyte) X(scratch_load_ushort) X(scratch_load_sshort) X(scratch_load_dword) \
  X(scratch_load_dwordx2) X(scratch_load_dwordx3) X(scratch_load_dwordx4) X(scratch_store_byte) \
  X(scratch_store_byte_d16_hi) X(scratch_store_short) X(scratch_store_short_d16_hi) X(scratch_store_dword) \
  X(scratch_store_dwordx2) X(scratch_store_dwordx3) X(scratch_store_dwordx4) X(scratch_load_ubyte_d16) \
  X(scratch_load_ubyte_d16_hi) X(scratch_load_sbyte_d16) X(scratch_load_sbyte_d16_hi) X(scratch_load_short_d16) \
  X(scratch_load_short_d16_hi) X(scratch_load_lds_ubyte) X(scratch_load_lds_sbyte) X(scratch_load_lds_ushort) \
  X(scratch_load_lds_sshort) X(scratch_load_lds_dword)

// Untyped buffers.
#define AITERLITE_MUBUF_OPS(X) \
  X(buffer_load_format_x) X(buffer_load_format_xy) X(buffer_load_format_xyz) X(buffer_load_format_xyzw) \
  X(buffer_store_format_x) X(buffer_store_format_xy) X(buffer_store_format_xyz) X(buffer_store_format_xyzw) \
  X(buffer_load_format_d16_x) X(buffer_load_format_d16_xy) X(buffer_load_format_d16_xyz) \
  X(buffer_load_format_d16_xyzw) X(buffer_store_format_d16_x) X(buffer_store_format_d16_xy) \
  X(buffer_store_format_d16_xyz) X(buffer_store_format_d16_xyzw) X(buffer_load_ubyte) X(buffer_load_sbyte) \
  X(buffer_load_ushort) X(buffer_load_sshort) X(buffer_load_dword) X(buffer_load_dwordx2) X(buffer_load_dwordx3) \
  X(buffer_load_dwordx4) X(buffer_store_byte) X(buffer_store_byte_d16_hi) X(buffer_store_short) \
  X(buffer_store_short_d16_hi) X(buffer_store_dword) X(buffer_store_dwordx2) X(buffer_store_dwordx3) \
  X(buffer_store_dwordx4) X(buffer_load_ubyte_d16) X(buffer_load_ubyte_d16_hi) X(buffer_load_sbyte_d16) \
  X(buffer_load_sbyte_d16_hi) X(buffer_load_short_d16) X(buffer_load_short_d16_hi) X(buffer_load_format_d16_hi_x) \
  X(buffer_store_format_d16_hi_x) X(buffer_wbl2) X(buffer_inv) X(buffer_atomic_swap) X(buffer_atomic_cmpswap) \
  X(buffer_atomic_add) X(buffer_atomic_sub) X(buffer_atomic_smin) X(buffer_atomic_umin) X(buffer_atomic_smax) \
  X(buffer_atomic_umax) X(buffer_atomic_and) X(buffer_atomic_or) X(buffer_atomic_xor) X(buffer_atomic_inc) \
  X(buffer_atomic_dec) X(buffer_atomic_add_f32) X(buffer_atomic_pk_add_f16) X(buffer_atomic_add_f64) \
  X(buffer_atomic_min_f64) X(buffer_atomic_max_f64) X(buffer_atomic_pk_add_bf16) X(buffer_atomic_swap_x2) \
  X(buffer_atomic_cmpswap_x2) X(buffer_atomic_add_x2) X(buffer_atomic_sub_x2) X(buffer_atomic_smin_x2) \
  X(buffer_atomic_umin_x2) X(buffer_atomic_smax_x2) X(buffer_atomic_umax_x2) X(buffer_atomic_and_x2) \
  X(buffer_atomic_or_x2) X(buffer_atomic_xor_x2) X(buffer_atomic_inc_x2) X(buffer_atomic_dec_x2)

// Typed buffers.
#define AITERLITE_MTBUF_OPS(X) \
  X(tbuffer_load_format_x) X(tbuffer_load_format_xy) X(tbuffer_load_format_xyz) X(tbuffer_load_format_xyzw) \
  X(tbuffer_store_format_x) X(tbuffer_store_format_xy) X(tbuffer_store_format_xyz) X(tbuffer_store_format_xyzw) \
  X(tbuffer_load_format_d16_x) X(tbuffer_load_format_d16_xy) X(tbuffer_load_format_d16_xyz) \
  X(tbuffer_load_format_d16_xyzw) X(tbuffer_store_format_d16_x) X(tbuffer_store_format_d16_xy) \
  X(tbuffer_store_format_d16_xyz) X(tbuffer_store_format_d16_xyzw)

#define AITERLITE_ALL_OPS(X) \
  AITERLITE_SALU_OPS(X) AITERLITE_SMEM_OPS(X) AITERLITE_VALU_OPS(X) AITERLITE_VOPC_OPS(X) \
  AITERLITE_VOP3P_OPS(X) AITERLITE_MFMA_OPS(X) AITERLITE_DS_OPS(X) AITERLITE_FLAT_OPS(X) \
  AITERLITE_GLOBAL_OPS(X) AITERLITE_SCRATCH_OPS(X) AITERLITE_MUBUF_OPS(X) AITERLITE_MTBUF_OPS(X)

// clang-format on
