// Softmax over scores that arrive in pieces: the running maximum and sum, the factor of earlier sums when the maximum
// grows, and how two parts of a row become one.
//
// Scores are in log2: multiplied by log2(e) where the scale is applied, so that each weight is one exp2. -inf is a
// masked score and weighs 0, also where all are masked: then the sum is 0 and the logarithm -inf. A NaN or +inf score
// makes weights and sum NaN, as it does in torch. One thread's arithmetic, the same on every target but for the last
// bits of exp2; combine maxima and sums of lanes with block/reduce.h first.
#pragma once
#include <aiterlite/platform.h>

namespace aiterlite {

inline constexpr float kLog2E = 1.44269504088896340736f;
inline constexpr float kLn2 = 0.69314718055994530942f;

class OnlineSoftmax {
 public:
  // Whether a piece's maximum lies more than `slack` above what weights are relative to. While it does not for any row
  // of a wave (any_lane), rescale can be left out: weights grow up to 2^slack, 8 is safe for fp16 weights.
  AITERLITE_DEVICE bool has_grown(float piece_maximum, float slack) const { return piece_maximum > maximum_ + slack; }

  // Takes a piece's maximum into account. All sums so far must be multiplied by the result, in [0, 1].
  AITERLITE_DEVICE float rescale(float piece_maximum) {
    const float before = maximum_;
    maximum_ = __builtin_fmaxf(before, piece_maximum);
    const float factor = fast_exp2(before - base());
    sum_ *= factor;
    return factor;
  }

  // A score's weight, relative to the maximum so far; `add` a piece's weights, once each.
  AITERLITE_DEVICE float weight(float score) const { return fast_exp2(score - base()); }
  AITERLITE_DEVICE void add(float weights) { sum_ += weights; }

  // Takes another part of the row in, say another wave's. This part's sums must be multiplied by `mine`, the other's by
  // `others`, and then be added.
  struct Factors {
    float mine;
    float others;
  };
  AITERLITE_DEVICE Factors merge(const OnlineSoftmax& other) {
    const float mine = rescale(other.maximum_);
    const float others = fast_exp2(other.maximum_ - base());
    sum_ += other.sum_ * others;
    return {mine, others};
  }

  AITERLITE_DEVICE float maximum() const { return maximum_; }
  AITERLITE_DEVICE float sum() const { return sum_; }
  // The final factor of the sums of weighted values; 0 for a row without scores.
  AITERLITE_DEVICE float normalizer() const { return sum_ == 0.0f ? 0.0f : 1.0f / sum_; }
  // The natural logarithm of the sum of exponentials; -inf for a row without scores.
  AITERLITE_DEVICE float log_sum_exp() const {
    return sum_ == 0.0f ? -__builtin_inff() : (maximum_ + fast_log2(sum_)) * kLn2;
  }

 private:
  // What exponents are relative to: finite while there are no scores, so that -inf minus it is -inf.
  AITERLITE_DEVICE float base() const { return maximum_ == -__builtin_inff() ? 0.0f : maximum_; }

  float maximum_ = -__builtin_inff();
  float sum_ = 0.0f;
};

// Normalized parts of a row, each with its log_sum_exp: their weights sum to 1, or are 0 where neither has scores.
struct PartWeights {
  float a;
  float b;
  float log_sum_exp;
};
AITERLITE_DEVICE PartWeights merge_parts(float log_sum_exp_a, float log_sum_exp_b) {
  const float most = __builtin_fmaxf(log_sum_exp_a, log_sum_exp_b);
  if (most == -__builtin_inff()) return {0.0f, 0.0f, most};
  const float a = fast_exp2((log_sum_exp_a - most) * kLog2E), b = fast_exp2((log_sum_exp_b - most) * kLog2E);
  return {a / (a + b), b / (a + b), most + fast_log2(a + b) * kLn2};
}

}  // namespace aiterlite
