// Products of a few rows with packed weights, in fp32, bf16 and int8.
//
// Weights lie in panels of 32 output columns; within a panel the depth runs in units of four bytes
// (1 float, 2 bf16 or 4 int8), 32 of them side by side. A tile multiplies up to 12 rows with one
// panel. One lane holds one output column and sums over the depth from first to last, so an output
// depends on its own row and column alone: not on the tile's height, the other rows or the threads.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstring>

#include "memory.h"
#include "simd.h"

namespace bark {

enum class Precision : int { fp32 = 0, bf16 = 1, int8 = 2 };

inline constexpr int kPanel = 32;        // columns of a panel: two registers
inline constexpr int kTileRows = 12;     // 24 accumulators + 2 weights + 1 row value: 27 of 32
inline constexpr int kUnitBytes = 4;
inline constexpr int kStepBytes = kPanel * kUnitBytes;  // one unit of depth of one panel
inline constexpr int kDepthMultiple = 64;               // operands are padded with zeros to this

constexpr int depth_per_unit(Precision p) {
  return p == Precision::fp32 ? 1 : p == Precision::bf16 ? 2 : 4;
}

struct Range {
  int first;
  int last;
};
// What one of `parts` workers takes of [0, total).
inline Range share(int total, int part, int parts) {
  return {static_cast<int>(static_cast<int64_t>(total) * part / parts),
          static_cast<int>(static_cast<int64_t>(total) * (part + 1) / parts)};
}

template <Precision p>
inline __m512i multiply_add(__m512i sum, __m512i rows, __m512i weights) {
  if constexpr (p == Precision::fp32) {
    return _mm512_castps_si512(_mm512_fmadd_ps(_mm512_castsi512_ps(rows),
                                               _mm512_castsi512_ps(weights),
                                               _mm512_castsi512_ps(sum)));
  } else if constexpr (p == Precision::bf16) {
    return _mm512_castps_si512(
        _mm512_dpbf16_ps(_mm512_castsi512_ps(sum), (__m512bh)rows, (__m512bh)weights));
  } else {
    return _mm512_dpbusd_epi32(sum, rows, weights);
  }
}

// out[rows][32] = a[rows][units] * panel[units][32], raw sums (int32 bits for int8).
// `ahead`: how many bytes after the current weights to fetch from memory, if `fetches`.
template <Precision p, int rows, bool fetches>
void multiply_tile(const uint32_t* a, ptrdiff_t a_stride, const uint8_t* panel, int units,
                   float* out, ptrdiff_t out_stride, ptrdiff_t ahead) {
  __m512i sums[rows][2];
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) sums[r][0] = sums[r][1] = _mm512_setzero_si512();
  // Four pointers and the strides 0, 1, 2 address twelve rows; twelve pointers would be spilled.
  const uint32_t* starts[4] = {a, a + 3 * a_stride, a + 6 * a_stride, a + 9 * a_stride};
  for (int k = 0; k < units; ++k) {
    const __m512i low = _mm512_loadu_si512(panel);
    const __m512i high = _mm512_loadu_si512(panel + 64);
    if constexpr (fetches) {
      _mm_prefetch(reinterpret_cast<const char*>(panel + ahead), _MM_HINT_T0);
      _mm_prefetch(reinterpret_cast<const char*>(panel + ahead + 64), _MM_HINT_T0);
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      const __m512i value =
          _mm512_set1_epi32(static_cast<int>(starts[r / 3][(r % 3) * a_stride]));
      sums[r][0] = multiply_add<p>(sums[r][0], value, low);
      sums[r][1] = multiply_add<p>(sums[r][1], value, high);
    }
    panel += kStepBytes;
#pragma GCC unroll 4
    for (int i = 0; i < (rows + 2) / 3; ++i) ++starts[i];
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
    _mm512_storeu_si512(out + r * out_stride, sums[r][0]);
    _mm512_storeu_si512(out + r * out_stride + 16, sums[r][1]);
  }
}

using Tile = void (*)(const uint32_t*, ptrdiff_t, const uint8_t*, int, float*, ptrdiff_t,
                      ptrdiff_t);

template <Precision p, bool fetches>
inline Tile tile_of(int rows) {
  static constexpr Tile kTiles[] = {
      nullptr,
      multiply_tile<p, 1, fetches>,  multiply_tile<p, 2, fetches>,  multiply_tile<p, 3, fetches>,
      multiply_tile<p, 4, fetches>,  multiply_tile<p, 5, fetches>,  multiply_tile<p, 6, fetches>,
      multiply_tile<p, 7, fetches>,  multiply_tile<p, 8, fetches>,  multiply_tile<p, 9, fetches>,
      multiply_tile<p, 10, fetches>, multiply_tile<p, 11, fetches>, multiply_tile<p, 12, fetches>};
  return kTiles[rows];
}

// The rows of a product, ready for the tiles: fp32 as they are, bf16 rounded, int8 quantised.
struct Operand {
  Operand() = default;
  Operand(Precision p, size_t num_rows, size_t depth)
      : units(num_rows, round_up(depth, kDepthMultiple) / depth_per_unit(p)),
        scales(1, num_rows) {}

  Rows<uint32_t> units;
  Rows<float> scales;  // [1, rows], int8 only
};

// Quantise `length` values, padded with zeros to `padded` (a multiple of 16), and return the scale:
// max|x|/127, rounded half to even; (nearly) zeros alone have scale 0, NaN makes the scale NaN.
// `is_row`: stored + 128, for the instruction multiplies unsigned rows with signed weights.
template <bool is_row>
inline float quantise(const float* values, int length, int padded, uint32_t* units) {
  __m512 largest = _mm512_setzero_ps();
  for (int i = 0; i < padded; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(length - i), values + i);
    largest = _mm512_max_ps(largest, abs_lanes(v));
  }
  const float peak = _mm512_reduce_max_ps(largest);
  const bool is_zero = peak < 1e-30f;
  const __m512 inverse = _mm512_set1_ps(is_zero ? 0.0f : 127.0f / peak);
  const __m128i shift = _mm_set1_epi8(is_row ? -128 : 0);
  for (int i = 0; i < padded; i += 16) {
    const __m512 v = _mm512_maskz_loadu_ps(first_lanes(length - i), values + i);
    const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(v, inverse));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(units + i / 4),
                     _mm_xor_si128(_mm512_cvtsepi32_epi8(whole), shift));
  }
  return is_zero ? 0.0f : peak / 127.0f;
}

// The sum of the signed bytes of so many units (a multiple of 4).
inline int32_t sum_bytes(const uint32_t* units, int count) {
  __m128i sum = _mm_setzero_si128();
  for (int i = 0; i < count; i += 4) {
    sum = _mm_dpbusd_epi32(sum, _mm_set1_epi8(1),
                           _mm_loadu_si128(reinterpret_cast<const __m128i*>(units + i)));
  }
  sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xB1)));
}

// Round or quantise one row. `values`: padded with zeros to a multiple of 64.
template <Precision p>
void fill_operand(const Operand& operand, int row, const float* values, int depth) {
  uint32_t* units = operand.units.row(row);
  const int padded = static_cast<int>(round_up(depth, kDepthMultiple));
  if constexpr (p == Precision::fp32) {
    std::memcpy(units, values, padded * sizeof(float));
  } else if constexpr (p == Precision::bf16) {
    for (int i = 0; i < padded; i += 16) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(units + i / 2),
                          to_bf16(_mm512_loadu_ps(values + i)));
    }
  } else {
    operand.scales.row(0)[row] = quantise<true>(values, padded, padded, units);
  }
}

// One packed weight matrix [columns, depth].
struct Matrix {
  int columns = 0;  // including padding, a multiple of 32
  int depth = 0;
  int units = 0;
  uint8_t* panels = nullptr;
  float* bias = nullptr;       // [columns], zeros when the layer has none
  float* scales = nullptr;     // [columns], int8 only
  int32_t* offsets = nullptr;  // [columns], int8 only: 128 * sum of the column's weights

  int num_panels() const { return columns / kPanel; }
  const uint8_t* panel(int index) const {
    return panels + static_cast<size_t>(index) * units * kStepBytes;
  }
  static size_t panel_bytes(Precision p, int columns, int depth) {
    return static_cast<size_t>(columns) * round_up(depth, kDepthMultiple) * kUnitBytes /
           depth_per_unit(p);
  }
};

// Pack (and quantise) one output column. `weights`: [depth].
template <Precision p>
void pack_column(const Matrix& matrix, int column, const float* weights) {
  uint8_t* target = matrix.panels +
                    static_cast<size_t>(column / kPanel) * matrix.units * kStepBytes +
                    column % kPanel * kUnitBytes;
  if constexpr (p == Precision::fp32) {
    for (int k = 0; k < matrix.depth; ++k) {
      std::memcpy(target + static_cast<size_t>(k) * kStepBytes, weights + k, 4);
    }
  } else if constexpr (p == Precision::bf16) {
    for (int k = 0; k < matrix.depth; ++k) {
      const __m128bh value = _mm_cvtneps_pbh(_mm_set_ss(weights[k]));
      std::memcpy(target + static_cast<size_t>(k / 2) * kStepBytes + k % 2 * 2, &value, 2);
    }
  } else {
    float peak = 0.0f;
    for (int k = 0; k < matrix.depth; ++k) peak = std::max(peak, std::abs(weights[k]));
    const bool is_zero = peak < 1e-30f;
    const float inverse = is_zero ? 0.0f : 127.0f / peak;
    int32_t sum = 0;
    for (int k = 0; k < matrix.depth; ++k) {
      // NOTE: cvtss rounds half to even, as the rows are rounded.
      const int value = _mm_cvtss_si32(_mm_set_ss(weights[k] * inverse));
      target[static_cast<size_t>(k / 4) * kStepBytes + k % 4] =
          static_cast<uint8_t>(static_cast<int8_t>(value));
      sum += value;
    }
    matrix.scales[column] = is_zero ? 0.0f : peak / 127.0f;
    matrix.offsets[column] = 128 * sum;
  }
}

// rows [first, first + num_rows) of `operand` times panels [panels.first, panels.last).
// `finish(row, column, low, high)` receives 2 x 16 finished values (scaled, bias added).
// `ahead`: see multiply_tile; the first tile of each panel fetches.
template <Precision p, class Finish>
void multiply(const Operand& operand, int first, int num_rows, const Matrix& matrix, Range panels,
              ptrdiff_t ahead, Finish finish) {
  alignas(64) float sums[kTileRows * kPanel];
  const int num_tiles = (num_rows + kTileRows - 1) / kTileRows;
  const ptrdiff_t stride = static_cast<ptrdiff_t>(operand.units.stride());
  for (int index = panels.first; index < panels.last; ++index) {
    const int column = index * kPanel;
    const __m512 bias_low = _mm512_loadu_ps(matrix.bias + column);
    const __m512 bias_high = _mm512_loadu_ps(matrix.bias + column + 16);
    for (int t = 0; t < num_tiles; ++t) {
      const Range rows = share(num_rows, t, num_tiles);
      const int count = rows.last - rows.first;
      const Tile tile = t == 0 ? tile_of<p, true>(count) : tile_of<p, false>(count);
      tile(operand.units.row(first + rows.first), stride, matrix.panel(index), matrix.units, sums,
           kPanel, ahead);
      for (int r = 0; r < count; ++r) {
        const int row = first + rows.first + r;
        __m512 low = _mm512_load_ps(sums + r * kPanel);
        __m512 high = _mm512_load_ps(sums + r * kPanel + 16);
        if constexpr (p == Precision::int8) {
          const __m512 scale = _mm512_set1_ps(operand.scales.row(0)[row]);
          low = _mm512_cvtepi32_ps(
              _mm512_sub_epi32(_mm512_castps_si512(low),
                               _mm512_loadu_si512(matrix.offsets + column)));
          high = _mm512_cvtepi32_ps(
              _mm512_sub_epi32(_mm512_castps_si512(high),
                               _mm512_loadu_si512(matrix.offsets + column + 16)));
          low = _mm512_mul_ps(_mm512_mul_ps(low, scale), _mm512_loadu_ps(matrix.scales + column));
          high = _mm512_mul_ps(_mm512_mul_ps(high, scale),
                               _mm512_loadu_ps(matrix.scales + column + 16));
        }
        finish(row, column, _mm512_add_ps(low, bias_low), _mm512_add_ps(high, bias_high));
      }
    }
  }
}

}  // namespace bark
