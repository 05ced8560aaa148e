// Online softmax: a row a thread, scores in pieces of kPiece, values of the scores to average; and parts merged.
#include <aiterlite/block/online_softmax.h>

namespace {

constexpr uint32_t kPiece = 8;

struct Part {
  aiterlite::OnlineSoftmax softmax;
  float average = 0.0f;
};

AITERLITE_DEVICE Part attend(const float* scores, const float* values, uint32_t count, float slack) {
  Part part;
  for (uint32_t first = 0; first < count; first += kPiece) {
    float most = scores[first];
    for (uint32_t i = 1; i < kPiece; ++i) most = __builtin_fmaxf(most, scores[first + i]);
    if (slack < 0.0f || part.softmax.has_grown(most, slack)) part.average *= part.softmax.rescale(most);
    for (uint32_t i = 0; i < kPiece; ++i) {
      const float weight = part.softmax.weight(scores[first + i]);
      part.softmax.add(weight);
      part.average += weight * values[first + i];
    }
  }
  return part;
}

}  // namespace

// out, a row: the average and log-sum-exp, as a whole, rescaled late, from two parts before and after their division.
AITERLITE_KERNEL(64) soften(const float* scores, const float* values, float* out, uint32_t count, uint32_t cut) {
  const uint32_t row = aiterlite::workgroup_id() * 64 + aiterlite::thread_id();
  scores += row * count;
  values += row * count;
  out += row * 8;
  const Part whole = attend(scores, values, count, -1.0f), late = attend(scores, values, count, 8.0f);
  out[0] = whole.average * whole.softmax.normalizer();
  out[1] = whole.softmax.log_sum_exp();
  out[2] = late.average * late.softmax.normalizer();
  out[3] = late.softmax.log_sum_exp();
  Part a = attend(scores, values, cut, -1.0f);
  const Part b = attend(scores + cut, values + cut, count - cut, -1.0f);
  const float average_a = a.average * a.softmax.normalizer(), average_b = b.average * b.softmax.normalizer();
  const auto weights = aiterlite::merge_parts(a.softmax.log_sum_exp(), b.softmax.log_sum_exp());
  out[6] = average_a * weights.a + average_b * weights.b;
  out[7] = weights.log_sum_exp;
  const auto factors = a.softmax.merge(b.softmax);
  out[4] = (a.average * factors.mine + b.average * factors.others) * a.softmax.normalizer();
  out[5] = a.softmax.log_sum_exp();
}
