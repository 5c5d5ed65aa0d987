// Work shared between the calling thread and XLA's own threads.
//
//   ParallelFor(pool, num_items, nanoseconds, [&](int64_t item) { ... });
//
// The caller takes items as the helpers do, so all work is done even if no helper ever starts, and it waits only for items
// that were taken. No thread is made here.

#ifndef TRELLAX_KERNELS_NATIVE_PARALLEL_H_
#define TRELLAX_KERNELS_NATIVE_PARALLEL_H_

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <thread>

#include "xla/ffi/api/ffi.h"

namespace trellax {

// Outlives the call: a helper that starts late finds every item taken, and touches nothing else.
struct SharedItems {
  std::atomic<int64_t> next{0};
  std::atomic<int64_t> finished{0};
  int64_t num_items;
  const void* body;
  void (*run)(const void* body, int64_t item);

  void Work() {
    for (;;) {
      const int64_t item = next.fetch_add(1, std::memory_order_relaxed);
      if (item >= num_items) return;
      run(body, item);
      finished.fetch_add(1, std::memory_order_release);
    }
  }

  void WaitForTaken() const {
    for (int spins = 0; finished.load(std::memory_order_acquire) < num_items; ++spins) {
      if (spins > 4096) std::this_thread::yield();
    }
  }
};

constexpr double kNanosecondsAHelper = 5000;  // of work: waking a thread takes a few microseconds

// Runs body(item) for all items. `nanoseconds` estimates what they take together on one thread.
template <typename Body>
void ParallelFor(xla::ffi::ThreadPool& pool, int64_t num_items, double nanoseconds, const Body& body) {
  const int64_t worthwhile = 1 + static_cast<int64_t>(nanoseconds / kNanosecondsAHelper);
  const int64_t helpers = std::min({pool.num_threads(), num_items, worthwhile}) - 1;
  if (helpers < 1) {
    for (int64_t item = 0; item < num_items; ++item) body(item);
    return;
  }
  auto items = std::make_shared<SharedItems>();
  items->num_items = num_items;
  items->body = &body;
  items->run = [](const void* b, int64_t item) { (*static_cast<const Body*>(b))(item); };
  for (int64_t i = 0; i < helpers; ++i) {
    pool.Schedule([items] { items->Work(); });
  }
  items->Work();
  items->WaitForTaken();
}

}  // namespace trellax

#endif  // TRELLAX_KERNELS_NATIVE_PARALLEL_H_
