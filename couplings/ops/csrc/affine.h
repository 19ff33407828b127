// Affine couplings: the formulas stand in couplings/ops/affine.py.
#pragma once
#include "view.h"

struct Affine {
  int64_t samples, rows, columns, atan, inverse;
  double limit, gain;
};

constexpr int64_t AFFINE_BLOCK = 1024;

struct AffineForward {
  Affine map;
  int64_t passive_rows, passive_columns;
  View active, raw, shift, passive, y_active, y_passive, log_det, unit;
};

template <class T>
INLINE T affine_block(const Affine& map, int64_t count, const T* __restrict x, const T* __restrict raw,
                      const T* __restrict shift, T* __restrict y, T* __restrict unit) {
  const T gain = T(map.gain), signed_limit = T(map.inverse ? -map.limit : map.limit);
  if (map.atan)
    for (int64_t i = 0; i < count; ++i) unit[i] = arctangent_share(gain * raw[i]);
  else
    for (int64_t i = 0; i < count; ++i) unit[i] = hyperbolic_tangent(gain * raw[i]);
  T sum = 0;
  if (map.inverse) {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
      y[i] = (x[i] - shift[i]) * exponential(signed_limit * unit[i]);
      sum += unit[i];
    }
  } else {
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < count; ++i) {
      y[i] = x[i] * exponential(signed_limit * unit[i]) + shift[i];
      sum += unit[i];
    }
  }
  return sum;
}

template <class T> void affine_forward(ParallelFor parallel_for, const AffineForward& f) {
  const Affine map = f.map;
  for_samples(parallel_for, map.samples, [&](int64_t b) {
    T buffer[5][AFFINE_BLOCK];
    double sum = 0;
    for_blocks(map.rows, map.columns, AFFINE_BLOCK, [&](const Block& block) {
      T* y = target(f.y_active, b, block, buffer[3]);
      T* unit = target(f.unit, b, block, buffer[4]);
      sum += affine_block(map, block.count(), read(f.active, b, block, buffer[0]),
                          read(f.raw, b, block, buffer[1]), read(f.shift, b, block, buffer[2]), y, unit);
      write(f.y_active, b, block, y);
      write(f.unit, b, block, unit);
    });
    const T log_det = T(sum * (map.inverse ? -map.limit : map.limit));
    write(f.log_det, b, Block{0, 1, 0, 1}, &log_det);
    if (f.passive.data) copy_sample<T>(f.passive, f.y_passive, b, f.passive_rows, f.passive_columns);
  });
}

struct AffineBackward {
  Affine map;
  View grad, grad_log_det, kept, unit, grad_active, grad_raw, grad_shift;
};

template <class T>
INLINE void affine_gradients(const Affine& map, int64_t count, T by_log_det, const T* __restrict grad,
                             const T* __restrict kept, const T* __restrict unit,
                             T* __restrict grad_active, T* __restrict grad_raw,
                             T* __restrict grad_shift) {
  const T signed_limit = T(map.inverse ? -map.limit : map.limit);
  const T factor = T(map.gain) * signed_limit;
  for (int64_t i = 0; i < count; ++i) {
    const T g = grad[i], u = unit[i], scaled = g * exponential(signed_limit * u);
    const T by_scale = (map.inverse ? g : scaled) * kept[i] + by_log_det;
    grad_active[i] = scaled;
    grad_shift[i] = map.inverse ? -scaled : g;
    grad_raw[i] = by_scale * factor * ((1 - u) * (1 + u));
  }
  if (!map.atan) return;
  for (int64_t i = 0; i < count; ++i) {
    const T u = unit[i], by_scale = (map.inverse ? grad[i] : grad_active[i]) * kept[i] + by_log_det;
    const T slope = quarter_cosine(u);
    grad_raw[i] = by_scale * factor / half_pi<T> * (slope * slope);
  }
}

template <class T> void affine_backward(ParallelFor parallel_for, const AffineBackward& f) {
  const Affine map = f.map;
  for_samples(parallel_for, map.samples, [&](int64_t b) {
    T buffer[6][AFFINE_BLOCK], by_log_det[1];
    const T upstream = *read(f.grad_log_det, b, Block{0, 1, 0, 1}, by_log_det);
    for_blocks(map.rows, map.columns, AFFINE_BLOCK, [&](const Block& block) {
      T* grad_active = target(f.grad_active, b, block, buffer[3]);
      T* grad_raw = target(f.grad_raw, b, block, buffer[4]);
      T* grad_shift = target(f.grad_shift, b, block, buffer[5]);
      affine_gradients(map, block.count(), upstream, read(f.grad, b, block, buffer[0]),
                       read(f.kept, b, block, buffer[1]), read(f.unit, b, block, buffer[2]),
                       grad_active, grad_raw, grad_shift);
      write(f.grad_active, b, block, grad_active);
      write(f.grad_raw, b, block, grad_raw);
      write(f.grad_shift, b, block, grad_shift);
    });
  });
}
