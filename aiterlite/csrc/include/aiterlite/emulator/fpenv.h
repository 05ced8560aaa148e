// The host's floating-point control word, set from a wave's MODE register.
#pragma once
#include <aiterlite/emulator/wave.h>

namespace aiterlite::emulator {

#if defined(__x86_64__)
inline uint32_t read_float_csr() { return _mm_getcsr(); }
inline void write_float_csr(uint32_t v) { _mm_setcsr(v); }
// `denorm` and `round` are MODE's two-bit fields: bit 0 of denorm keeps denormal inputs, bit 1 denormal results.
inline uint32_t make_float_csr(uint32_t denorm, uint32_t round) {
  static constexpr uint32_t kRound[4] = {0x0000, 0x4000, 0x2000, 0x6000};  // nearest, up, down, zero
  return 0x1f80u | kRound[round & 3] | (denorm & 1 ? 0 : 0x0040u) | (denorm & 2 ? 0 : 0x8000u);
}
#elif defined(__aarch64__)
inline uint32_t read_float_csr() { return static_cast<uint32_t>(__builtin_aarch64_get_fpcr()); }
inline void write_float_csr(uint32_t v) { __builtin_aarch64_set_fpcr(v); }
inline uint32_t make_float_csr(uint32_t denorm, uint32_t round) {
  static constexpr uint32_t kRound[4] = {0u << 22, 1u << 22, 2u << 22, 3u << 22};
  return kRound[round & 3] | (denorm == 3 ? 0 : 1u << 24);
}
#else
#error "the emulator runs on x86-64 and aarch64 hosts"
#endif

// Recomputes the wave's control words and makes the f32 one current.
inline void set_float_mode(Wave& w) {
  w.float_csr = make_float_csr(mode_denorm_f32(w.mode), mode_round_f32(w.mode));
  w.double_csr = make_float_csr(mode_denorm_f16_f64(w.mode), mode_round_f16_f64(w.mode));
  write_float_csr(w.float_csr);
}

// Makes the f64 control word current while it lives, where it differs from the f32 one.
class FloatGuard {
 public:
  FloatGuard(const Wave& w, bool is_double)
      : restore_(w.float_csr), changed_(is_double && w.double_csr != w.float_csr) {
    if (changed_) write_float_csr(w.double_csr);
  }
  ~FloatGuard() {
    if (changed_) write_float_csr(restore_);
  }
  FloatGuard(const FloatGuard&) = delete;
  FloatGuard& operator=(const FloatGuard&) = delete;

 private:
  uint32_t restore_;
  bool changed_;
};

}  // namespace aiterlite::emulator
