// The planners of MLA decode on a CPU: mla/plan.h by one thread.
#define AITERLITE_MLA_HOST 1
#include <aiterlite/host_abi.h>
#include <aiterlite/mla/plan.h>
#include <aiterlite/mla/plan_cost.h>
#include <aiterlite/mla/plan_update.h>
#include <string.h>

namespace {

using namespace aiterlite::mla;

struct Scanned {
  int32_t before;
  int32_t all;
};

struct Alone {
  static constexpr int32_t kThreads = 1, kLanes = 1;
  struct Shared {
    int32_t rest[1], moves[1], at[1], ends[1], first[1], unit[1], entry[1], partial[1], next;
  };
  Shared memory = {};

  Shared& shared() { return memory; }
  int32_t thread() const { return 0; }
  void barrier() const {}
  Scanned scan(int32_t value) const { return {0, value}; }
  Scanned scan_lanes(int32_t value) const { return {0, value}; }
  int64_t sum(int64_t value) const { return value; }
  int32_t lane() const { return 0; }
  Candidate least_of_lanes(const Candidate& own) const { return own; }
  int32_t load(const int32_t* p) const { return *p; }
  void store(int32_t* p, int32_t value) const { *p = value; }
  void store_address(uint64_t* p, const void* address) const { *p = reinterpret_cast<uint64_t>(address); }
  void load_row(const int32_t* p, int32_t (&words)[kRowWords]) const { memcpy(words, p, sizeof words); }
  void store_row(int32_t* p, const int32_t (&words)[kRowWords]) const { memcpy(p, words, sizeof words); }
};

}  // namespace

AITERLITE_EXPORT int32_t aiterlite_mla_plan_fast_cpu(const aiterlite_mla_plan_args* args, parallel_for_t, int32_t) {
  Alone team;
  plan_in_order<true>(team, *args);
  return 0;
}

AITERLITE_EXPORT int32_t aiterlite_mla_plan_intra_cpu(const aiterlite_mla_plan_args* args, parallel_for_t, int32_t) {
  Alone team;
  plan_in_order<false>(team, *args);
  return 0;
}

AITERLITE_EXPORT int32_t aiterlite_mla_plan_cost_cpu(const aiterlite_mla_plan_args* args, parallel_for_t, int32_t) {
  Alone team;
  plan_by_cost(team, *args);
  return 0;
}

AITERLITE_EXPORT int32_t aiterlite_mla_plan_update_cpu(const aiterlite_mla_plan_update_args* args, parallel_for_t,
                                                       int32_t) {
  Alone team;
  update(team, *args);
  return 0;
}
