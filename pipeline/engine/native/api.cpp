// The C interface: library.py types it, pipeline/engine/native_gpt.py checks the arguments.
#include <new>

#include "draw.h"
#include "forward.h"

#define BARK_API extern "C" __attribute__((visibility("default")))

namespace {

using bark::Gpt;
using bark::PoolLock;
using bark::Precision;
using bark::RowWork;

constexpr int kOk = 0;
constexpr int kOutOfMemory = 1;

// Hold the pool, call `run` with the arrays in the network's precision.
template <class Run>
int with_pool(void* handle, const float* hidden, int columns, float* logits, Run run) {
  const PoolLock lock;
  auto& gpt = *static_cast<Gpt*>(handle);
  try {
    switch (gpt.shape.precision) {
      case Precision::fp32:
        run(RowWork<Precision::fp32>{gpt, hidden, columns, logits});
        break;
      case Precision::bf16:
        run(RowWork<Precision::bf16>{gpt, hidden, columns, logits});
        break;
      case Precision::int8:
        run(RowWork<Precision::int8>{gpt, hidden, columns, logits});
        break;
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

}  // namespace

// Which of the instructions that the kernels need this CPU lacks: a bit each, 0 when none.
BARK_API int bark_missing_features() {
  __builtin_cpu_init();
  return (__builtin_cpu_supports("avx512f") ? 0 : 1) |
         (__builtin_cpu_supports("avx512bw") ? 0 : 2) |
         (__builtin_cpu_supports("avx512vl") ? 0 : 4) |
         (__builtin_cpu_supports("avx512dq") ? 0 : 8) |
         (__builtin_cpu_supports("avx512vnni") ? 0 : 16) |
         (__builtin_cpu_supports("avx512bf16") ? 0 : 32);
}

BARK_API void bark_set_num_threads(int num_threads) {
  const PoolLock lock;
  bark::Pool::instance().resize(num_threads);
}

BARK_API void* bark_gpt_new(int num_layers, int num_heads, int width, int precision, int num_slots,
                            int max_positions, int causal, int num_heads_out) {
  try {
    return new Gpt({num_layers, num_heads, width, static_cast<Precision>(precision), num_slots,
                    max_positions, causal != 0, num_heads_out});
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

BARK_API void bark_gpt_delete(void* handle) {
  const PoolLock lock;
  delete static_cast<Gpt*>(handle);
}

BARK_API void bark_gpt_load_linear(void* handle, int layer, int which, const float* weight,
                                   const float* bias) {
  const PoolLock lock;
  static_cast<Gpt*>(handle)->load_linear(layer, which, weight, bias);
}

// which: 0 norm_1, 1 norm_2, 2 the final norm (`layer` ignored).
BARK_API void bark_gpt_load_norm(void* handle, int layer, int which, const float* weight,
                                 const float* bias) {
  auto& gpt = *static_cast<Gpt*>(handle);
  gpt.load_norm(which == 2   ? gpt.final_norm
                : which == 1 ? gpt.layers[layer].norm_2
                             : gpt.layers[layer].norm_1,
                weight, bias);
}

BARK_API int bark_gpt_load_head(void* handle, int index, int columns, const float* weight) {
  const PoolLock lock;
  try {
    static_cast<Gpt*>(handle)->load_head(index, columns, weight);
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}

BARK_API int64_t bark_gpt_weight_bytes(void* handle) {
  return static_cast<int64_t>(static_cast<Gpt*>(handle)->weight_bytes);
}

BARK_API int64_t bark_gpt_cache_bytes(void* handle) {
  return static_cast<int64_t>(static_cast<Gpt*>(handle)->cache.bytes());
}

BARK_API void bark_gpt_discard_cache(void* handle) {
  const PoolLock lock;
  static_cast<Gpt*>(handle)->cache.discard();
}

// The three calls of forward.h; 0, or 1 when memory is short.
BARK_API int bark_gpt_extend(void* handle, int slot, int start, int num, const float* hidden,
                             int columns, float* logits) {
  return with_pool(handle, hidden, columns, logits,
                   [&](const auto& work) { bark::extend(work, slot, start, num); });
}

BARK_API int bark_gpt_decode(void* handle, const int32_t* slots, const int32_t* positions, int rows,
                             const float* hidden, int columns, float* logits) {
  return with_pool(handle, hidden, columns, logits,
                   [&](const auto& work) { bark::decode(work, slots, positions, rows); });
}

BARK_API int bark_gpt_encode(void* handle, int num, const float* hidden, int head, int first,
                             int last, int columns, float* logits) {
  return with_pool(handle, hidden, columns, logits,
                   [&](const auto& work) { bark::encode(work, num, head, first, last); });
}

// A token for each row of logits [num_rows, columns]; 0, or 1 when memory is short.
BARK_API int bark_draw(const float* logits, int columns, int num_rows, const void* asked,
                       int32_t* tokens) {
  const bark::FixedRounding rounding;
  thread_local bark::Drawing drawing;
  const auto* rows = static_cast<const bark::Asked*>(asked);
  try {
    for (int r = 0; r < num_rows; ++r) {
      tokens[r] = drawing.draw(logits + static_cast<size_t>(r) * columns, rows[r]);
    }
  } catch (const std::bad_alloc&) {
    return kOutOfMemory;
  }
  return kOk;
}
