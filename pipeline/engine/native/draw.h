// Logits -> a token: temperature, then the inverse of the cumulated distribution. A row at a time,
// so a draw can not depend on a neighbour; sums are taken in one fixed order, in double.
// The law is pipeline/engine/sampler.py's, without its filters.
#pragma once

#include <cfloat>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "simd.h"

namespace bark {

// In place of an index: the sequence ends; the logits are no numbers.
inline constexpr int kStopped = -1;
inline constexpr int kNoNumber = -2;

// What is asked of a row of logits; the binding packs it. Choices: [first, first + num), and `stop`
// (-1: none), whose choice, or a probability of at least `min_stop_p`, ends the sequence.
struct Asked {
  double uniform;
  float temperature;
  int32_t first;
  int32_t num;
  int32_t stop;
  float min_stop_p;
  int32_t unused;
};

class Drawing {
 public:
  // The index of the logit that is drawn, or kStopped, or kNoNumber.
  int draw(const float* logits, const Asked& asked) {
    num_ = asked.num + (asked.stop >= 0);
    weights_.resize(round_up(num_, kBlock));
    std::memcpy(weights_.data(), logits + asked.first, asked.num * sizeof(float));
    if (asked.stop >= 0) weights_[asked.num] = logits[asked.stop];
    std::fill(weights_.begin() + num_, weights_.end(), -INFINITY);
    const float largest = find_largest();
    if (!std::isfinite(largest)) return kNoNumber;
    const bool is_greedy = asked.temperature < FLT_MIN;
    weigh(largest, is_greedy ? 1.0f : asked.temperature);
    if (is_greedy) keep_best();
    const double total = sum_blocks();
    const int index = find(asked.uniform * total);
    if (asked.stop >= 0) {
      const auto stop_p = static_cast<float>(weights_[asked.num] / total);
      if (index == asked.num || stop_p >= asked.min_stop_p) return kStopped;
    }
    return asked.first + index;
  }

 private:
  static constexpr int kBlock = 128;

  // NaN where any of them is NaN.
  float find_largest() const {
    __m512 largest = _mm512_set1_ps(-INFINITY);
    __mmask16 broken = 0;
    for (size_t i = 0; i < weights_.size(); i += kLanes) {
      const __m512 x = _mm512_loadu_ps(weights_.data() + i);
      broken |= _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
      largest = _mm512_max_ps(largest, x);
    }
    return broken ? NAN : _mm512_reduce_max_ps(largest);
  }

  // exp((x - largest) / temperature). The largest becomes 0 first, so that no temperature,
  // however small, can overflow it.
  void weigh(float largest, float temperature) {
    const __m512 shift = _mm512_set1_ps(largest);
    const __m512 heat = _mm512_set1_ps(temperature);
    const __m512 log2_e = _mm512_set1_ps(1.4426950408889634f);
    for (size_t i = 0; i < weights_.size(); i += kLanes) {
      const __m512 x = _mm512_sub_ps(_mm512_loadu_ps(weights_.data() + i), shift);
      const __m512 weight = exp2_lanes(_mm512_mul_ps(_mm512_div_ps(x, heat), log2_e));
      _mm512_storeu_ps(weights_.data() + i, weight);
    }
  }

  // All mass to the first of the largest.
  void keep_best() {
    bool is_found = false;
    for (float& weight : weights_) {
      weight = !is_found && weight == 1.0f ? 1.0f : 0.0f;
      is_found = is_found || weight == 1.0f;
    }
  }

  double sum_blocks() {
    sums_.clear();
    double total = 0.0;
    for (size_t i = 0; i < weights_.size(); i += kBlock) {
      __m512d sum = _mm512_setzero_pd();
      for (int k = 0; k < kBlock; k += 8) {
        sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm256_loadu_ps(weights_.data() + i + k)));
      }
      alignas(64) double lanes[8];
      _mm512_store_pd(lanes, sum);
      for (const double lane : lanes) total += lane;
      sums_.push_back(total);
    }
    return total;
  }

  // The first index at which the sum exceeds what is wanted: the block, then within it.
  int find(double wanted) const {
    size_t block = 0;
    while (block + 1 < sums_.size() && sums_[block] <= wanted) ++block;
    double sum = block == 0 ? 0.0 : sums_[block - 1];
    const int begin = static_cast<int>(block) * kBlock;
    for (int i = begin; i < begin + kBlock; ++i) {
      sum += weights_[i];
      if (sum > wanted) return i;
    }
    // NOTE: rounding can put what is wanted on the block's total; take the last possible choice
    int last = begin + kBlock - 1;
    while (weights_[last] == 0.0f) --last;
    return last;
  }

  int num_ = 0;
  std::vector<float> weights_;
  std::vector<double> sums_;  // of all blocks up to each
};

}  // namespace bark
