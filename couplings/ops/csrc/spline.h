// Rational-quadratic splines: the formulas stand in couplings/ops/spline_planes.py.
//
// A block of numbers is worked on at a time. Its parameters are planes, one bin of all its numbers
// each; loops over numbers, of which each goes over the bins, are the vectorised ones.
#pragma once
#include "view.h"

struct Spline {
  int64_t samples, rows, columns, bins, inverse;
  int64_t channels_last;  // which are columns, then, of rows of positions
  double bound, least_size, unit_slope;

  // Stride of parameters from one bin to the next.
  INLINE int64_t step(const View& view) const {
    return channels_last ? columns * view.column : rows * view.row;
  }
};

// Numbers that a block has room for; at 146 bins and more there is none for 16 at a time.
constexpr int64_t SPLINE_SCRATCH = 8192, SPLINE_BLOCK = 128, SPLINE_ARRAYS = 24;

template <class T> struct SplineBlock {
  int64_t limit, step;  // strides of `exps` and `raw` from one bin to the next
  const T* raw;
  T *exps, *scratch;  // exps: the terms of both softmaxes, before normalisation

  INLINE T* array(int n) const { return scratch + n * limit; }
};

// Of each number's bin: the sums of both softmaxes, its term, the terms below it; raw slopes at its
// ends.
template <class T> struct SplineBins {
  T *total[2], *term[2], *below[2], *slope[2], *index;

  INLINE explicit SplineBins(const SplineBlock<T>& block)
      : total{block.array(0), block.array(1)}, term{block.array(2), block.array(3)},
        below{block.array(4), block.array(5)}, slope{block.array(6), block.array(7)},
        index(block.array(8)) {}
};
constexpr int SPLINE_BIN_ARRAYS = 9;

template <class T> INLINE T spline_spread(const Spline& map) {
  return T(2 * map.bound * (1 - map.least_size * map.bins));
}

template <class T> INLINE int64_t spline_limit(const Spline& map) {
  const int64_t most = SPLINE_SCRATCH / (3 * map.bins - 1 + SPLINE_ARRAYS);
  return lesser(SPLINE_BLOCK, most - most % 16);
}

template <class T>
void spline_softmax(int64_t count, int64_t bins, const T* raw, int64_t step, T* exps, int64_t limit,
                    T* __restrict total, T* __restrict top) {
  for (int64_t i = 0; i < count; ++i) top[i] = raw[i];
  for (int64_t k = 1; k < bins; ++k)
    for (int64_t i = 0; i < count; ++i) top[i] = greater(top[i], raw[k * step + i]);
  for (int64_t i = 0; i < count; ++i) total[i] = 0;
  for (int64_t k = 0; k < bins; ++k)
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      const T term = decaying_exponential(raw[k * step + i] - top[i]);
      exps[k * limit + i] = term;
      total[i] += term;
    }
}

// Count the inner edges at or before x and select what belongs to the bin after them.
template <class T, bool inverse>
void spline_search(const Spline& map, const SplineBlock<T>& block, int64_t count, const T* x,
                   const SplineBins<T>& to, T* __restrict position, T* __restrict sum,
                   T* __restrict other_sum) {
  const int64_t bins = map.bins, step = block.step, limit = block.limit;
  const T bound = T(map.bound), scale = 1 / spline_spread<T>(map);
  const T least = T(map.least_size / (1 - map.least_size * map.bins));
  const T *own = block.exps + inverse * bins * limit, *other = block.exps + !inverse * bins * limit;
  const T *slopes = block.raw + 2 * bins * step, *total = to.total[inverse];
  T *own_term = to.term[inverse], *other_term = to.term[!inverse];
  T *own_below = to.below[inverse], *other_below = to.below[!inverse];
  T *left = to.slope[0], *right = to.slope[1], *index = to.index;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    position[i] = (clamp(x[i], -bound, bound) + bound) * total[i] * scale;
    index[i] = left[i] = right[i] = own_below[i] = other_below[i] = sum[i] = other_sum[i] = 0;
    own_term[i] = own[i];
    other_term[i] = other[i];
  }
  for (int64_t k = 1; k < bins; ++k) {
    const T edge = T(k), before = T(k - 1);
    const T *own_terms = own + k * limit, *other_terms = other + k * limit;
    const T* edge_slopes = slopes + (k - 1) * step;
#pragma omp simd
    for (int64_t i = 0; i < count; ++i) {
      sum[i] += own_terms[i - limit];
      other_sum[i] += other_terms[i - limit];
      const bool passed = sum[i] <= position[i] - edge * (total[i] * least);
      const bool next = !passed & (index[i] == before);  // the edge at the right end of the bin
      const T slope = edge_slopes[i];
      right[i] = passed ? T(0) : next ? slope : right[i];
      left[i] = passed ? slope : left[i];
      index[i] = passed ? edge : index[i];
      own_term[i] = passed ? own_terms[i] : own_term[i];
      other_term[i] = passed ? other_terms[i] : other_term[i];
      own_below[i] = passed ? sum[i] : own_below[i];
      other_below[i] = passed ? other_sum[i] : other_below[i];
    }
  }
}

// The curve of spline_planes.Curve in one number's bin.
template <class T, bool inverse> struct SplineCurve {
  T softmax[2], below[2], size[2], edge[2], s, a, b, theta, rest, t, inverse_d, m, rise;

  INLINE SplineCurve(T u, const T (&total)[2], const T (&term)[2], const T (&under)[2], T index,
                     T slope0, T slope1, T spread, T least_size, T bound) {
    for (int g = 0; g < 2; ++g) {
      softmax[g] = term[g] / total[g];
      below[g] = under[g] / total[g];
      size[g] = softmax[g] * spread + least_size;
      edge[g] = (index * least_size - bound) + below[g] * spread;
    }
    s = size[1] / size[0];
    a = slope0 / s;
    b = slope1 / s;
    theta = clamp((u - edge[inverse]) / size[inverse], T(0), T(1));
    rest = 1 - theta;
    if (inverse) solve();
    t = theta * rest;
    inverse_d = 1 / ((a + b - 2) * t + 1);
    const T least = lesser(lesser(a, b), T(1));
    m = least + (b - least) * (theta * theta) + (a - least) * (rest * rest) + 2 * ((1 - least) * t);
    rise = (theta * theta + a * t) * inverse_d;
  }

  // reference_spline.root; θ : r is 2ξ to what this adds to it.
  INLINE void solve() {
    const T lead = a * rest - b * theta, product = 4 * (rest * theta), twice = 2 * theta;
    const T large = root(lead * lead + product) + magnitude(lead);
    const T other = lead < 0 ? product / large : large, whole = 1 / (other + twice);
    theta = twice * whole;
    rest = other * whole;
  }
};

template <class T> struct SplineNumbers {
  const T *total0, *total1, *term0, *term1, *below0, *below1, *slope0, *slope1, *index;
  T spread, least_size, bound, unit_slope, least_slope;

  INLINE SplineNumbers(const Spline& map, const SplineBins<T>& bins)
      : total0(bins.total[0]), total1(bins.total[1]), term0(bins.term[0]), term1(bins.term[1]),
        below0(bins.below[0]), below1(bins.below[1]), slope0(bins.slope[0]), slope1(bins.slope[1]),
        index(bins.index), spread(spline_spread<T>(map)), least_size(T(2 * map.bound * map.least_size)),
        bound(T(map.bound)), unit_slope(T(map.unit_slope)), least_slope(1 - softplus(T(map.unit_slope))) {}

  INLINE T slope(T raw) const { return least_slope + softplus(raw + unit_slope); }
  template <bool inverse> INLINE SplineCurve<T, inverse> curve(T u, int64_t i) const {
    return {u, {total0[i], total1[i]}, {term0[i], term1[i]}, {below0[i], below1[i]}, index[i],
            slope(slope0[i]), slope(slope1[i]), spread, least_size, bound};
  }
};

// Map x to y and log-slopes; `bins` is filled.
template <class T, bool inverse>
void spline_map(const Spline& map, const SplineBlock<T>& block, int64_t count, const T* x,
                const SplineBlock<T>& places, const SplineBins<T>& bins, T* y, T* log_slope) {
  spline_search<T, inverse>(map, block, count, x, bins, places.array(12), places.array(13), places.array(14));
  const SplineNumbers<T> numbers(map, bins);
  const T bound = numbers.bound;
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T u = clamp(x[i], -bound, bound);
    const SplineCurve<T, inverse> curve = numbers.template curve<inverse>(u, i);
    const T value = curve.edge[!inverse] + (inverse ? curve.theta : curve.rise) * curve.size[!inverse];
    const T log_derivative = logarithm(curve.s * curve.m * curve.inverse_d * curve.inverse_d);
    // What is not finite must not pass for a number in the tails.
    log_slope[i] = u == x[i] ? (inverse ? -log_derivative : log_derivative) : 0 * x[i];
    y[i] = u == x[i] ? value : x[i];
  }
}

// Call work(sample, block) for blocks of at most `limit` numbers. Samples of one short row are rows
// of one sample: `view` says how they then lie in memory.
struct SplineTasks {
  int64_t samples, rows, columns, limit;
  bool joined;

  INLINE SplineTasks(const Spline& map, int64_t limit)
      : samples(map.samples), rows(map.rows), columns(map.columns), limit(limit),
        joined(lesser(rows, columns) == 1 && 2 * rows * columns <= limit) {}

  INLINE View view(View v) const {
    if (!joined) return v;
    if (columns == 1) v.column = v.row;
    v.row = v.sample;
    v.sample = 0;
    return v;
  }

  template <class F> void run(ParallelFor parallel_for, F work) const {
    const int64_t size = rows * columns, together = limit / size;
    if (!joined) return for_samples(parallel_for, samples, work);
    for_samples(parallel_for, (samples + together - 1) / together, work);
  }

  // Blocks of task n; those of joined samples are whole rows.
  template <class F> INLINE void blocks(int64_t n, F work) const {
    if (!joined) return for_blocks(rows, columns, limit, work);
    const int64_t size = rows * columns, together = limit / size;
    work(Block{n * together, lesser(together, samples - n * together), 0, size});
  }
};

// Read the parameters of a block and compute its softmaxes.
template <class T>
INLINE SplineBlock<T> spline_block(const Spline& map, const View& parameters, int64_t step,
                                   int64_t sample, const Block& block, int64_t limit, T* scratch,
                                   const SplineBins<T>& to) {
  const int64_t planes = 3 * map.bins - 1;
  SplineBlock<T> read_block{limit, limit, scratch, scratch, scratch};
  if (is_dense<T>(parameters, block)) {
    read_block.raw = read(parameters, sample, block, scratch);
    read_block.step = step;
  } else {
    for (int64_t k = 0; k < planes; ++k)
      read(parameters.at(k * step), sample, block, scratch + k * limit);
  }
  for (int g = 0; g < 2; ++g)
    spline_softmax(block.count(), map.bins, read_block.raw + g * map.bins * read_block.step,
                   read_block.step, scratch + g * map.bins * limit, limit, to.total[g], to.term[g]);
  return read_block;
}

struct SplineForward {
  Spline map;
  int64_t passive_rows, passive_columns;
  View active, parameters, passive, y_active, y_passive, log_det, index;
};

template <class T, bool inverse>
void spline_forward(ParallelFor parallel_for, const SplineForward& f) {
  const Spline map = f.map;
  const int64_t limit = spline_limit<T>(map), planes = 3 * map.bins - 1;
  const SplineTasks tasks(map, limit);
  const View active = tasks.view(f.active), parameters = tasks.view(f.parameters);
  const View y_active = tasks.view(f.y_active), index = tasks.view(f.index);
  tasks.run(parallel_for, [&](int64_t n) {
    alignas(64) T scratch[SPLINE_SCRATCH];
    T* arrays = scratch + planes * limit;
    const SplineBlock<T> places{limit, 0, nullptr, nullptr, arrays};
    const SplineBins<T> bins(places);
    T *x_buffer = places.array(SPLINE_BIN_ARRAYS), *y_buffer = places.array(SPLINE_BIN_ARRAYS + 1);
    T* log_slopes = places.array(SPLINE_BIN_ARRAYS + 2);
    double sum = 0;
    tasks.blocks(n, [&](const Block& block) {
      const int64_t b = tasks.joined ? 0 : n, count = block.count();
      const auto planes = spline_block<T>(map, parameters, map.step(f.parameters), b, block, limit, scratch, bins);
      T* y = target(y_active, b, block, y_buffer);
      spline_map<T, inverse>(map, planes, count, read(active, b, block, x_buffer), places, bins, y, log_slopes);
      write(y_active, b, block, y);
      write(index, b, block, bins.index);
      for (int64_t r = 0; r < (tasks.joined ? block.rows : 1); ++r) {
        const int64_t size = tasks.joined ? block.columns : count;
        T part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = 0; i < size; ++i) part += log_slopes[r * size + i];
        sum = tasks.joined ? part : sum + part;
        const T log_det = T(sum);
        write(f.log_det, tasks.joined ? block.row + r : n, Block{0, 1, 0, 1}, &log_det);
      }
      if (!f.passive.data || !tasks.joined) return;
      for (int64_t r = block.row; r < block.row + block.rows; ++r)
        copy_sample<T>(f.passive, f.y_passive, r, f.passive_rows, f.passive_columns);
    });
    if (f.passive.data && !tasks.joined)
      copy_sample<T>(f.passive, f.y_passive, n, f.passive_rows, f.passive_columns);
  });
}

struct SplineBackward {
  Spline map;
  View grad, grad_log_det, active, parameters, grad_active, grad_parameters;
};

// Gradients of one block: what spline_planes.fill_gradients does.
template <class T, bool inverse>
void spline_gradients(const Spline& map, const SplineBlock<T>& block, int64_t count, const T* x,
                      const T* grad, const T* grad_log_det, const SplineBlock<T>& places,
                      const SplineBins<T>& bins, T* grad_x) {
  spline_search<T, inverse>(map, block, count, x, bins, places.array(12), places.array(13), places.array(14));
  const SplineNumbers<T> numbers(map, bins);
  const T bound = numbers.bound, spread = numbers.spread;
  // Of both groups: factors of the terms in the bin, below it and above it, in place of the shares.
  T *at0 = bins.term[0], *at1 = bins.term[1], *under0 = bins.below[0], *under1 = bins.below[1];
  T *over0 = bins.total[0], *over1 = bins.total[1], *left = bins.slope[0], *right = bins.slope[1];
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) {
    const T u = clamp(x[i], -bound, bound);
    const bool inside = u == x[i];
    const SplineCurve<T, inverse> c = numbers.template curve<inverse>(u, i);
    const T width = c.size[0], height = c.size[1], inverse_m = 1 / c.m;
    const T slant = c.rest - c.theta, slope = c.m * c.inverse_d * c.inverse_d;
    const T log_theta = 2 * ((c.b * c.theta - c.a * c.rest + slant) * inverse_m -
                             (c.a + c.b - 2) * slant * c.inverse_d);
    T grad_y = inside ? grad[i] : T(0), grad_log = inside ? grad_log_det[i] : T(0);
    T grad_theta, grad_rise;
    if (inverse) {
      // g_y = (g_x - g_L L_x) / y_x; what follows sees -g_y and -g_L.
      grad_log = -grad_log;
      grad_theta = -grad_y * width;
      grad_rise = (grad_theta - grad_log * log_theta) / slope;
      grad_y = grad_rise / height;
    } else {
      grad_rise = grad_y * height;
      grad_theta = slope * grad_rise + grad_log * log_theta;
    }
    const T common = -2 * (grad_log * c.inverse_d * c.t), weight = c.inverse_d * c.t * grad_rise;
    const T by_m = grad_log * inverse_m;
    const T by_a = common + weight * (1 - c.rise) + by_m * (c.rest * c.rest);
    const T by_b = common - weight * c.rise + by_m * (c.theta * c.theta);
    const T by_s = grad_log - by_a * c.a - by_b * c.b;  // s g_s, at given d0 and d1
    const T by_x = grad_theta / width, own = inverse ? -grad_y : by_x;
    const T by_width = -(by_s + grad_theta * c.theta) / width;
    const T by_height = c.rise * grad_y + by_s / height;
    const T scale0 = spread / over0[i], scale1 = spread / over1[i];
    const T mean0 = by_width * c.softmax[0] - by_x * c.below[0];
    const T mean1 = by_height * c.softmax[1] + grad_y * c.below[1];
    at0[i] = (by_width - mean0) * scale0;
    at1[i] = (by_height - mean1) * scale1;
    under0[i] = (-by_x - mean0) * scale0;
    under1[i] = (grad_y - mean1) * scale1;
    over0[i] = -mean0 * scale0;
    over1[i] = -mean1 * scale1;
    left[i] = by_a / c.s * sigmoid(left[i] + numbers.unit_slope);
    right[i] = by_b / c.s * sigmoid(right[i] + numbers.unit_slope);
    grad_x[i] = inside ? own : grad[i];
  }
}

// Gradient of the raw width or height of one bin from that of its term.
template <class T>
INLINE void spline_size_plane(int64_t count, T k, const T* exps, const T* index, const T* at,
                              const T* under, const T* over, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i)
    out[i] = exps[i] * (index[i] == k ? at[i] : index[i] > k ? under[i] : over[i]);
}

// Gradient of the raw slope at one edge: the right end of the bin `before` it, the left of the next.
template <class T>
INLINE void spline_slope_plane(int64_t count, T before, const T* index, const T* left,
                               const T* right, T* out) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i)
    out[i] = index[i] == before ? right[i] : index[i] == before + 1 ? left[i] : T(0);
}

template <class T, bool inverse>
void spline_backward(ParallelFor parallel_for, const SplineBackward& f) {
  const Spline map = f.map;
  const int64_t limit = spline_limit<T>(map), planes = 3 * map.bins - 1;
  const SplineTasks tasks(map, limit);
  const View active = tasks.view(f.active), parameters = tasks.view(f.parameters);
  const View grad = tasks.view(f.grad), grad_active = tasks.view(f.grad_active);
  const View grad_parameters = tasks.view(f.grad_parameters);
  tasks.run(parallel_for, [&](int64_t n) {
    alignas(64) T scratch[SPLINE_SCRATCH];
    const SplineBlock<T> places{limit, 0, nullptr, nullptr, scratch + planes * limit};
    const SplineBins<T> bins(places);
    T *x_buffer = places.array(SPLINE_BIN_ARRAYS), *grad_buffer = places.array(SPLINE_BIN_ARRAYS + 1);
    T *grad_log = places.array(SPLINE_BIN_ARRAYS + 2), *out = places.array(SPLINE_BIN_ARRAYS + 3);
    tasks.blocks(n, [&](const Block& block) {
      const int64_t b = tasks.joined ? 0 : n, count = block.count();
      const auto planes = spline_block<T>(map, parameters, map.step(f.parameters), b, block, limit, scratch, bins);
      for (int64_t r = 0; r < (tasks.joined ? block.rows : 1); ++r) {
        const int64_t size = tasks.joined ? block.columns : count;
        T value[1];
        const T upstream =
            *read(f.grad_log_det, tasks.joined ? block.row + r : n, Block{0, 1, 0, 1}, value);
        for (int64_t i = 0; i < size; ++i) grad_log[r * size + i] = upstream;
      }
      T* grad_x = target(grad_active, b, block, out);
      spline_gradients<T, inverse>(map, planes, count, read(active, b, block, x_buffer),
                                   read(grad, b, block, grad_buffer), grad_log, places, bins, grad_x);
      write(grad_active, b, block, grad_x);
      for (int64_t k = 0; k < 3 * map.bins - 1; ++k) {
        const View view = grad_parameters.at(k * map.step(f.grad_parameters));
        T* to = target(view, b, block, out);
        const int g = k >= map.bins;
        if (k < 2 * map.bins)
          spline_size_plane(count, T(k - g * map.bins), planes.exps + k * limit, bins.index,
                            bins.term[g], bins.below[g], bins.total[g], to);
        else
          spline_slope_plane(count, T(k - 2 * map.bins), bins.index, bins.slope[0], bins.slope[1], to);
        write(view, b, block, to);
      }
    });
  });
}

template <class T> void spline_couple(ParallelFor parallel_for, const SplineForward& f) {
  f.map.inverse ? spline_forward<T, true>(parallel_for, f) : spline_forward<T, false>(parallel_for, f);
}

template <class T> void spline_couple_backward(ParallelFor parallel_for, const SplineBackward& f) {
  f.map.inverse ? spline_backward<T, true>(parallel_for, f)
                : spline_backward<T, false>(parallel_for, f);
}
