// Elementary functions as branch-free series, so that loops over them vectorise. Errors: a few ulp.
// NaN stays NaN; the number of terms follows from the type's precision.
#pragma once
#include <cstdint>

#define INLINE inline __attribute__((always_inline))

template <class T> struct Real;
template <> struct Real<float> {
  using Bits = int32_t;
  static constexpr int mantissa = 23, bias = 127, exp_terms = 8, log_terms = 5, log1p_terms = 8;
  static constexpr int atan_terms = 9, sin_terms = 7;
  static constexpr float ln2_high = 0.693359375f, ln2_low = -2.12194440e-4f, largest = 104.0f;
  static constexpr float smallest = 87.0f;
};
template <> struct Real<double> {
  using Bits = int64_t;
  static constexpr int mantissa = 52, bias = 1023, exp_terms = 14, log_terms = 11, log1p_terms = 17;
  static constexpr int atan_terms = 21, sin_terms = 12;
  static constexpr double ln2_high = 0.6931471803691238, ln2_low = 1.9082149292705877e-10;
  static constexpr double largest = 745.0, smallest = 708.0;
};

template <class T> constexpr T half_pi = T(1.57079632679489661923);

template <class T> INLINE T lesser(T a, T b) { return a < b ? a : b; }
template <class T> INLINE T greater(T a, T b) { return a > b ? a : b; }
// NaN passes through: no comparison with it holds.
template <class T> INLINE T clamp(T x, T low, T high) { return x < low ? low : x > high ? high : x; }
template <class T> INLINE T magnitude(T x) { return x < 0 ? -x : x; }
INLINE float root(float x) { return __builtin_sqrtf(x); }
INLINE double root(double x) { return __builtin_sqrt(x); }
INLINE float rounded(float x) { return __builtin_rintf(x); }
INLINE double rounded(double x) { return __builtin_rint(x); }

template <class T> INLINE T two_to(typename Real<T>::Bits k) {
  return __builtin_bit_cast(T, typename Real<T>::Bits((k + Real<T>::bias) << Real<T>::mantissa));
}

template <class T> constexpr T factorial(int n) { return n < 2 ? T(1) : n * factorial<T>(n - 1); }

// Split x = k ln 2 + r with |r| <= ln 2 / 2; return e^r - 1 = r + r^2/2! + r^3/3! + ...
template <class T> INLINE T reduced_expm1(T x, typename Real<T>::Bits& k) {
  using R = Real<T>;
  const T turns = rounded(x * T(1.44269504088896340736));
  const T r = (x - turns * R::ln2_high) - turns * R::ln2_low;
  T sum = 1 / factorial<T>(R::exp_terms);
#pragma GCC unroll 16
  for (int n = R::exp_terms - 1; n > 1; --n) sum = 1 / factorial<T>(n) + sum * r;
  k = typename R::Bits(turns);
  return r + (r * r) * sum;
}

template <class T> INLINE T exponential(T x) {
  typename Real<T>::Bits k;
  const T p = reduced_expm1(clamp(x, -Real<T>::largest, Real<T>::largest), k);
  const typename Real<T>::Bits half = k >> 1;  // 2^k itself may overflow where e^x does not
  return (1 + p) * two_to<T>(half) * two_to<T>(k - half);
}

// e^x of x <= 0, at least the smallest normal number.
template <class T> INLINE T decaying_exponential(T x) {
  typename Real<T>::Bits k;
  const T p = reduced_expm1(x < -Real<T>::smallest ? -Real<T>::smallest : x, k);
  const T scale = two_to<T>(k);
  return scale + scale * p;
}

// tanh v = (e^2v - 1) / (e^2v + 1); beyond |2v| = 40 it is 1 in float64 too.
template <class T> INLINE T hyperbolic_tangent(T v) {
  typename Real<T>::Bits k;
  const T p = reduced_expm1(clamp(2 * v, T(-40), T(40)), k), scale = two_to<T>(k);
  const T expm1 = p * scale + (scale - 1);
  return expm1 / (expm1 + 2);
}

// 2 atanh f = 2 (f + f^3/3 + f^5/5 + ...)
template <class T, int terms> INLINE T twice_artanh(T f) {
  const T square = f * f;
  T sum = 1 / T(2 * terms + 1);
#pragma GCC unroll 32
  for (int n = terms - 1; n > 0; --n) sum = 1 / T(2 * n + 1) + sum * square;
  const T twice = 2 * f;
  return twice + twice * square * sum;
}

// log x = e ln 2 + 2 atanh((m - 1)/(m + 1)) with m in [1/sqrt 2, sqrt 2)
template <class T> INLINE T logarithm(T x) {
  using R = Real<T>;
  using Bits = typename R::Bits;
  const Bits bits = __builtin_bit_cast(Bits, x);
  const Bits low = bits & ((Bits(1) << R::mantissa) - 1);
  T m = __builtin_bit_cast(T, Bits(low | (Bits(R::bias) << R::mantissa)));
  T e = T((bits >> R::mantissa) - R::bias);
  const bool big = m > T(1.41421356237309504880);
  m = big ? m / 2 : m;
  e = big ? e + 1 : e;
  const T value = e * R::ln2_high + (e * R::ln2_low + twice_artanh<T, R::log_terms>((m - 1) / (m + 1)));
  const T unusual = x == 0 ? -__builtin_inf() : x < 0 ? __builtin_nan("") : x;
  return x > 0 && x < T(__builtin_inf()) ? value : unusual;
}

// log(1 + e^x) = max(x, 0) + 2 atanh(y/(2 + y)) with y = e^-|x|
template <class T> INLINE T softplus(T x) {
  const T y = decaying_exponential(-magnitude(x));
  return (x < 0 ? T(0) : x) + twice_artanh<T, Real<T>::log1p_terms>(y / (2 + y));
}

// 1/(1 + e^-x), the derivative of softplus
template <class T> INLINE T sigmoid(T x) {
  const T y = decaying_exponential(-magnitude(x));
  return (x < 0 ? y : T(1)) / (1 + y);
}

// (2/pi) atan v, by atan v = pi/4 + atan((v - 1)/(v + 1)) or pi/2 - atan(1/v) for larger v.
template <class T> INLINE T arctangent_share(T v) {
  const T size = magnitude(v);
  const bool middle = size > T(0.41421356237309503), large = size > T(2.4142135623730951);
  const T above = large ? T(-1) : middle ? size - 1 : size;
  const T below = large ? size : middle ? size + 1 : T(1);
  const T x = above / below, square = x * x;
  constexpr double factor = 2 / 3.14159265358979323846;
  T sum = T(factor / (2 * Real<T>::atan_terms + 1));
#pragma GCC unroll 32
  for (int n = Real<T>::atan_terms - 1; n >= 0; --n) sum = T(factor / (2 * n + 1)) - sum * square;
  const T share = (large ? T(1) : middle ? T(0.5) : T(0)) + x * sum;
  return v < 0 ? -share : share;
}

// cos(u pi/2) = sin((1 - |u|) pi/2) for |u| <= 1: exact to the last digits where it vanishes.
template <class T> INLINE T quarter_cosine(T u) {
  const T x = half_pi<T> * (1 - magnitude(u)), square = x * x;
  T sum = 1 / factorial<T>(2 * Real<T>::sin_terms + 1);
#pragma GCC unroll 16
  for (int n = Real<T>::sin_terms - 1; n >= 0; --n) sum = 1 / factorial<T>(2 * n + 1) - sum * square;
  return x * sum;
}
