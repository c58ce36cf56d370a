// Attention of up to 12 queries of one head, and the key-value memory it reads.
//
// Keys and values are stored as the weights of two products: scores = queries * keys (32 keys are a
// panel) and output = probabilities * values (the positions are the depth). Both sum in the fixed
// order of the tiles, from position 0; keys after a query's own position weigh exactly zero. So the
// result for a query does not depend on how many queries are computed together.
//
// Of a full batch's step most is the reading of this memory, so an int8 model keeps its keys in
// int8, too. Its values stay bf16: a probability has no scale that would suit both a peak and the
// many small ones beside it.
#pragma once

#include <cmath>

#include "gemm.h"

namespace bark {

inline constexpr int kMaxHeadDim = 1024;

// The precision of values and probabilities.
constexpr Precision value_precision(Precision p) {
  return p == Precision::fp32 ? Precision::fp32 : Precision::bf16;
}

// Keys and values of one layer of one sequence: for each head its keys, then its values. Keys are
// in the model's precision; those of a panel in int8 are followed by 32 scales and 32 offsets, as
// those of weights (see Matrix).
struct KVLayout {
  KVLayout() = default;
  KVLayout(Precision precision, int heads, int head_dim, int max_positions)
      : num_heads(heads),
        head_dim(head_dim),
        positions(static_cast<int>(round_up(max_positions, kPanel))),
        depth(static_cast<int>(round_up(head_dim, 16))),
        value_panels(static_cast<int>(round_up(head_dim, kPanel)) / kPanel) {
    const bool is_scaled = precision == Precision::int8;
    key_units = depth / depth_per_unit(precision);
    query_units = key_units + is_scaled;
    key_panel_units = key_units + 2 * is_scaled;
    key_bytes = static_cast<size_t>(positions) * key_panel_units * kUnitBytes;
    value_panel_bytes = static_cast<size_t>(positions) * kStepBytes /
                        depth_per_unit(value_precision(precision));
    head_bytes = key_bytes + value_panels * value_panel_bytes;
    layer_bytes = num_heads * head_bytes;
  }

  int num_heads = 0;
  int head_dim = 0;
  int positions = 0;
  int depth = 0;            // of a key, padded
  int key_units = 0;        // of a key, in units of 4 bytes
  int query_units = 0;      // the same, and the scale of an int8 query
  int key_panel_units = 0;  // the same, and the scale and the offset of an int8 key
  int value_panels = 0;     // of 32 channels
  size_t key_bytes = 0;
  size_t value_panel_bytes = 0;
  size_t head_bytes = 0;
  size_t layer_bytes = 0;
};

// One head's vector in floats or bf16, padded with zeros. [depth]
template <Precision p>
inline void fill_head(const KVLayout& layout, const float* values, uint32_t* units) {
  for (int i = 0; i < layout.depth; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(layout.head_dim - i), values + i);
    if constexpr (p == Precision::fp32) {
      _mm512_storeu_ps(units + i, v);
    } else {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(units + i / 2), to_bf16(v));
    }
  }
}

// One head's query as it enters the scores, padded with zeros; int8: then its scale.
template <Precision p>
inline void fill_query(const KVLayout& layout, const float* values, uint32_t* units) {
  if constexpr (p == Precision::int8) {
    const float scale = quantise<true>(values, layout.head_dim, layout.depth, units);
    std::memcpy(units + layout.key_units, &scale, sizeof scale);
  } else {
    fill_head<p>(layout, values, units);
  }
}

// Write one position's key and value of one head. `is_last`: no later position is written in this
// call; then the other half of a bf16 pair is cleared, so that what an earlier sequence left there
// (possibly not finite) is never multiplied.
template <Precision p>
void store_key_value(const KVLayout& layout, uint8_t* head, int position, const float* key,
                     const float* value, bool is_last) {
  alignas(64) uint32_t units[kMaxHeadDim + 2];
  if constexpr (p == Precision::int8) {
    const float scale = quantise<false>(key, layout.head_dim, layout.depth, units);
    const int32_t offset = 128 * sum_bytes(units, layout.key_units);
    std::memcpy(units + layout.key_units, &scale, sizeof scale);
    std::memcpy(units + layout.key_units + 1, &offset, sizeof offset);
  } else {
    fill_head<p>(layout, key, units);
  }
  uint32_t* column = reinterpret_cast<uint32_t*>(head) +
                     static_cast<size_t>(position / kPanel) * layout.key_panel_units * kPanel +
                     position % kPanel;
  for (int u = 0; u < layout.key_panel_units; ++u) column[u * kPanel] = units[u];
  for (int j = 0; j < layout.value_panels; ++j) {
    uint8_t* panel = head + layout.key_bytes + j * layout.value_panel_bytes;
    for (int i = 0; i < kPanel; i += 16) {
      const int channel = j * kPanel + i;
      const __m512 v =
          _mm512_maskz_loadu_ps(first_lanes(layout.head_dim - channel), value + channel);
      if constexpr (p == Precision::fp32) {
        _mm512_storeu_ps(reinterpret_cast<float*>(panel) + position * kPanel + i, v);
      } else {
        // Two positions share each 4-byte unit; the even one is its low half.
        const bool is_odd = position % 2 != 0;
        __m512i wide = _mm512_cvtepu16_epi32(to_bf16(v));
        if (is_odd) wide = _mm512_slli_epi32(wide, 16);
        uint16_t* pair =
            reinterpret_cast<uint16_t*>(panel) + (position / 2 * kPanel + i) * 2;
        const __mmask32 half = is_odd ? 0xAAAAAAAAu : is_last ? 0xFFFFFFFFu : 0x55555555u;
        _mm512_mask_storeu_epi16(pair, half, wide);
      }
    }
  }
}

// What one thread needs to attend: scores and probabilities of one tile.
struct AttentionScratch {
  AttentionScratch() = default;
  explicit AttentionScratch(int positions)
      : scores(kTileRows, round_up(positions, kPanel)),
        probabilities(kTileRows, round_up(positions, kPanel) / 2) {}

  Rows<float> scores;
  Rows<uint32_t> probabilities;  // bf16 pairs; fp32 models reuse the scores
};

// exp(scale * (score - max)) of the first `length` scores, zeros up to `padded` (a multiple of 32).
// Returns the sum. `scale_log2`: scale * log2(e).
template <Precision p>
inline float soften(float* scores, uint32_t* probabilities, int length, int padded,
                    float scale_log2) {
  __m512 largest = _mm512_set1_ps(-INFINITY);
  int i = 0;
  for (; i + 16 <= length; i += 16) {
    largest = _mm512_max_ps(largest, _mm512_loadu_ps(scores + i));
  }
  if (i < length) {
    const __mmask16 live = first_lanes(length - i);
    largest = _mm512_mask_max_ps(largest, live, largest, _mm512_maskz_loadu_ps(live, scores + i));
  }
  const __m512 scale = _mm512_set1_ps(scale_log2);
  const __m512 shift = _mm512_set1_ps(_mm512_reduce_max_ps(largest) * scale_log2);
  __m512 sum_low = _mm512_setzero_ps();
  __m512 sum_high = _mm512_setzero_ps();
  const auto soften_panel = [&](int key, __mmask16 live_low, __mmask16 live_high) {
    const __m512 low = _mm512_maskz_mov_ps(
        live_low, exp2_lanes(_mm512_fmsub_ps(_mm512_loadu_ps(scores + key), scale, shift)));
    const __m512 high = _mm512_maskz_mov_ps(
        live_high, exp2_lanes(_mm512_fmsub_ps(_mm512_loadu_ps(scores + key + 16), scale, shift)));
    sum_low = _mm512_add_ps(sum_low, low);
    sum_high = _mm512_add_ps(sum_high, high);
    if constexpr (p == Precision::fp32) {
      _mm512_storeu_ps(scores + key, low);
      _mm512_storeu_ps(scores + key + 16, high);
    } else {
      _mm512_storeu_si512(probabilities + key / 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
  };
  for (i = 0; i + 32 <= length; i += 32) soften_panel(i, 0xFFFF, 0xFFFF);
  for (; i < padded; i += 32) {
    soften_panel(i, first_lanes(length - i), first_lanes(length - i - 16));
  }
  return sum_lanes(_mm512_add_ps(sum_low, sum_high));
}

// Turn a panel's raw int8 sums into scores; as `multiply` does for weights.
inline void scale_scores(const KVLayout& layout, const uint32_t* queries, ptrdiff_t query_stride,
                         int num_rows, const uint8_t* panel, float* scores, ptrdiff_t stride) {
  const uint8_t* scales = panel + static_cast<size_t>(layout.key_units) * kStepBytes;
  for (int i = 0; i < kPanel; i += 16) {
    const __m512 key_scale = _mm512_loadu_ps(scales + i * kUnitBytes);
    const __m512i offset = _mm512_loadu_si512(scales + kStepBytes + i * kUnitBytes);
    for (int r = 0; r < num_rows; ++r) {
      const __m512 scale = _mm512_castsi512_ps(
          _mm512_set1_epi32(static_cast<int>(queries[r * query_stride + layout.key_units])));
      float* out = scores + r * stride + i;
      const __m512 sum =
          _mm512_cvtepi32_ps(_mm512_sub_epi32(_mm512_loadu_si512(out), offset));
      _mm512_storeu_ps(out, _mm512_mul_ps(_mm512_mul_ps(sum, scale), key_scale));
    }
  }
}

// Attend `num_rows` <= 12 queries of one head; row r sees keys 0 .. first_length + r * growth - 1
// (growth 1: causal, consecutive positions; 0: all see the same). out: [num_rows][head_dim].
template <Precision p>
void attend(const KVLayout& layout, const uint8_t* head, const uint32_t* queries,
            ptrdiff_t query_stride, int num_rows, int first_length, int growth,
            const AttentionScratch& scratch, float* out, ptrdiff_t out_stride) {
  constexpr Precision kValues = value_precision(p);
  constexpr int kPerUnit = depth_per_unit(kValues);
  const int longest = first_length + (num_rows - 1) * growth;
  const int padded = static_cast<int>(round_up(longest, kPanel));
  const float scale_log2 =
      1.4426950408889634f / std::sqrt(static_cast<float>(layout.head_dim));
  const ptrdiff_t score_stride = static_cast<ptrdiff_t>(scratch.scores.stride());
  Tile tile = tile_of<p, true>(num_rows);
  for (int key = 0; key < padded; key += kPanel) {
    const uint8_t* panel = head + static_cast<size_t>(key) * layout.key_panel_units * kUnitBytes;
    float* scores = scratch.scores.row(0) + key;
    tile(queries, query_stride, panel, layout.key_units, scores, score_stride, 4096);
    if constexpr (p == Precision::int8) {
      scale_scores(layout, queries, query_stride, num_rows, panel, scores, score_stride);
    }
  }
  float factors[kTileRows];
  for (int r = 0; r < num_rows; ++r) {
    factors[r] = 1.0f / soften<p>(scratch.scores.row(r), scratch.probabilities.row(r),
                                   first_length + r * growth, padded, scale_log2);
  }
  const uint32_t* weights = p == Precision::fp32
                                ? reinterpret_cast<const uint32_t*>(scratch.scores.row(0))
                                : scratch.probabilities.row(0);
  const ptrdiff_t weight_stride = p == Precision::fp32
                                      ? score_stride
                                      : static_cast<ptrdiff_t>(scratch.probabilities.stride());
  tile = tile_of<kValues, true>(num_rows);
  alignas(64) float sums[kTileRows * kPanel];
  for (int j = 0; j < layout.value_panels; ++j) {
    tile(weights, weight_stride, head + layout.key_bytes + j * layout.value_panel_bytes,
         (longest + kPerUnit - 1) / kPerUnit, sums, kPanel, 2048);
    for (int r = 0; r < num_rows; ++r) {
      const __m512 factor = _mm512_set1_ps(factors[r]);
      for (int i = 0; i < kPanel; i += 16) {
        const int channel = j * kPanel + i;
        _mm512_mask_storeu_ps(out + r * out_stride + channel,
                              first_lanes(layout.head_dim - channel),
                              _mm512_mul_ps(_mm512_load_ps(sums + r * kPanel + i), factor));
      }
    }
  }
}

}  // namespace bark
