// What a pass does with one row, however many rows it has: norm, operand, cache, logits.
#pragma once

#include "gpt.h"

namespace bark {

// Layer norm of one row, eps 1e-5; sums run by lanes, then in one tree. All arrays padded with
// zeros to a multiple of 64.
inline void normalise(const float* values, int width, const Norm& norm, float* out) {
  const int padded = static_cast<int>(round_up(width, kDepthMultiple));
  __m512 sum = _mm512_setzero_ps();
  for (int i = 0; i < padded; i += 16) sum = _mm512_add_ps(sum, _mm512_loadu_ps(values + i));
  const float count = static_cast<float>(width);
  const __m512 mean = _mm512_set1_ps(sum_lanes(sum) / count);
  sum = _mm512_setzero_ps();
  for (int i = 0; i < padded; i += 16) {
    const __m512 v =
        _mm512_maskz_sub_ps(first_lanes(width - i), _mm512_loadu_ps(values + i), mean);
    sum = _mm512_fmadd_ps(v, v, sum);
  }
  const float deviation =
      _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(sum_lanes(sum) / count + 1e-5f)));
  const __m512 scale = _mm512_set1_ps(1.0f / deviation);
  for (int i = 0; i < padded; i += 16) {
    const __m512 v = _mm512_mul_ps(_mm512_sub_ps(_mm512_loadu_ps(values + i), mean), scale);
    _mm512_storeu_ps(out + i, _mm512_fmadd_ps(v, _mm512_loadu_ps(norm.weight + i),
                                              _mm512_loadu_ps(norm.bias + i)));
  }
}

inline void store_pair(float* out, __m512 low, __m512 high) {
  _mm512_storeu_ps(out, low);
  _mm512_storeu_ps(out + 16, high);
}

inline void add_pair(float* out, __m512 low, __m512 high) {
  store_pair(out, _mm512_add_ps(_mm512_loadu_ps(out), low),
             _mm512_add_ps(_mm512_loadu_ps(out + 16), high));
}

// One call's arrays. `row` counts the rows of the call, `block_row` those of a block.
template <Precision p>
struct RowWork {
  Gpt& gpt;
  const float* hidden;  // [rows][width]
  int columns;          // of the output head
  float* logits;        // [wanted rows][columns]

  void take_hidden(int row) const {
    const size_t width = gpt.shape.width;
    std::memcpy(gpt.stream.row(row), hidden + row * width, width * sizeof(float));
  }

  void norm_to_operand(int row, const Norm& norm, const Block& block, int block_row,
                       int thread) const {
    float* normed = gpt.scratch[thread]->normed.row(0);
    normalise(gpt.stream.row(row), gpt.shape.width, norm, normed);
    fill_operand<p>(block.operand, block_row, normed, gpt.shape.width);
  }

  const uint32_t* query(int row, int head) const {
    return gpt.queries.row(row) + static_cast<size_t>(head) * gpt.layout.query_units;
  }

  // q of one head to the queries, k and v to the cache.
  void store_head(const Block& block, int block_row, int row, int head, uint8_t* layer_cache,
                  int position, bool is_last) const {
    const float* projected = block.projected.row(block_row) + head * gpt.layout.head_dim;
    const int projection = gpt.shape.projection();
    fill_query<p>(gpt.layout, projected, const_cast<uint32_t*>(query(row, head)));
    store_key_value<p>(gpt.layout, layer_cache + head * gpt.layout.head_bytes, position,
                        projected + projection, projected + 2 * projection, is_last);
  }

  void store_logits(int wanted_row, int column, __m512 low, __m512 high) const {
    float* out = logits + static_cast<size_t>(wanted_row) * columns + column;
    _mm512_mask_storeu_ps(out, first_lanes(columns - column), low);
    _mm512_mask_storeu_ps(out + 16, first_lanes(columns - column - 16), high);
  }
};

}  // namespace bark
