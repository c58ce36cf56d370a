// AVX-512 arithmetic that every kernel shares: exp2, GELU, fixed-order sums, rounding to bf16.
//
// Everything whose rounding matters is an explicit intrinsic, and the library is compiled without
// contraction, so a result does not depend on the compiler. Knows vectors of 16 floats and nothing
// of models.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace bark {

inline constexpr int kLanes = 16;

inline size_t round_up(size_t value, size_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The first `count` of 16 lanes; 16 and more give all, 0 and less none.
inline __mmask16 first_lanes(long count) {
  if (count >= kLanes) return 0xFFFF;
  return count <= 0 ? __mmask16{0} : static_cast<__mmask16>((1u << count) - 1);
}

// Sum of 16 lanes in one fixed tree. _mm512_reduce_add_ps leaves the order to the compiler.
inline float sum_lanes(__m512 v) {
  const __m256 halves = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
  __m128 quarter =
      _mm_add_ps(_mm256_castps256_ps128(halves), _mm256_extractf128_ps(halves, 1));
  quarter = _mm_add_ps(quarter, _mm_movehl_ps(quarter, quarter));
  quarter = _mm_add_ss(quarter, _mm_shuffle_ps(quarter, quarter, 1));
  return _mm_cvtss_f32(quarter);
}

inline __m512 abs_lanes(__m512 v) {
  return _mm512_castsi512_ps(
      _mm512_and_si512(_mm512_castps_si512(v), _mm512_set1_epi32(0x7FFFFFFF)));
}

// Horner's rule, highest coefficient first.
template <int count>
inline __m512 polynomial(__m512 x, const float (&coefficients)[count]) {
  __m512 sum = _mm512_set1_ps(coefficients[0]);
  for (int i = 1; i < count; ++i) {
    sum = _mm512_fmadd_ps(sum, x, _mm512_set1_ps(coefficients[i]));
  }
  return sum;
}

// 2^x, relative error below 2e-7 (minimax on [-1/2, 1/2], then exact scaling); NaN stays NaN.
inline __m512 exp2_lanes(__m512 x) {
  // Below -200 the result is zero anyhow; the bound keeps x - whole finite for x = -inf.
  // NOTE: max returns its second operand when either is NaN.
  x = _mm512_max_ps(_mm512_set1_ps(-200.0f), x);
  const __m512 whole =
      _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 fraction = _mm512_sub_ps(x, whole);
  static constexpr float kCoefficients[] = {1.326472731307149e-03f, 9.671513922512531e-03f,
                                            5.550733581185341e-02f, 2.4022242426872253e-01f,
                                            6.931470036506653e-01f, 1.0f};
  return _mm512_scalef_ps(polynomial(fraction, kCoefficients), whole);
}

// x * Phi(x) with the exact normal distribution (not the tanh form), absolute error below 2e-7.
//
// gelu(x) = max(x, 0) - |x|/2 * erfc(|x|/sqrt 2), and erfc(z) = 2^(-z Q(z)) on [0, 4] with Q of
// degree 7 (minimax in absolute error, 6e-8 once rounded to float); erfc(4) is 1.5e-8.
inline __m512 gelu_lanes(__m512 x) {
  const __m512 size = abs_lanes(x);
  const __m512 z = _mm512_min_ps(_mm512_set1_ps(4.0f),
                                 _mm512_mul_ps(size, _mm512_set1_ps(0.70710678118654752f)));
  static constexpr float kCoefficients[] = {
      -4.535859989118762e-05f, 4.455076705198735e-04f, -1.489441841840744e-03f,
      -7.746291812509298e-04f, 2.825368009507656e-02f, -1.484816074371338e-01f,
      -9.184163808822632e-01f, -1.6279085874557495e+00f};
  const __m512 complement = exp2_lanes(_mm512_mul_ps(polynomial(z, kCoefficients), z));
  return _mm512_fnmadd_ps(_mm512_mul_ps(size, _mm512_set1_ps(0.5f)), complement,
                          _mm512_max_ps(_mm512_setzero_ps(), x));
}

// 16 floats to bf16, round to nearest even (the instruction flushes denormals to zero).
inline __m256i to_bf16(__m512 v) { return (__m256i)_mm512_cvtneps_pbh(v); }

// The arithmetic of a forward pass starts from one known mode whatever the caller's thread has set
// (torch can turn denormals off): round to nearest even, denormals are zero.
class FixedRounding {
 public:
  FixedRounding() : saved_(_mm_getcsr()) { _mm_setcsr(0x9FC0); }
  ~FixedRounding() { _mm_setcsr(saved_); }
  FixedRounding(const FixedRounding&) = delete;
  FixedRounding& operator=(const FixedRounding&) = delete;

 private:
  unsigned saved_;
};

}  // namespace bark
