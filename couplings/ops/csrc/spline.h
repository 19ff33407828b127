// Rational-quadratic splines: the formulas stand in couplings/ops/spline_planes.py.
//
// A block of numbers is worked on at a time. Its parameters are planes, one bin of all its numbers
// each; loops over numbers, of which each goes over the bins, are the vectorised ones.
#pragma once
#include <initializer_list>

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

// Memory of a block, in numbers: its planes and SplineArrays, with room for 16 of up to 164 bins.
constexpr int64_t SPLINE_MEMORY = 8192, SPLINE_BLOCK = 128, SPLINE_ARRAYS = 16;

template <class T> struct SplinePlanes {
  const T* raw;
  int64_t step;  // stride of `raw` from one bin to the next
  T* exps;       // terms of both softmaxes, before normalisation
  int64_t limit;  // their stride, and that of SplineArrays
};

// Of a block's numbers: sums of both softmaxes; of the bin of each its terms, the terms below it,
// the raw slopes at its ends and its index. The others are for work, and for what is not dense.
template <class T> struct SplineArrays {
  T *total[2], *term[2], *below[2], *slope[2], *sum[2];
  T *index, *position, *x, *grad, *log_slope, *out;

  INLINE SplineArrays(T* memory, int64_t limit) {
    for (T** pair : {total, term, below, slope, sum})
      for (int i = 0; i < 2; ++i, memory += limit) pair[i] = memory;
    for (T** one : {&index, &position, &x, &grad, &log_slope, &out}) *one = memory, memory += limit;
  }
};

template <class T> INLINE T spline_spread(const Spline& map) {
  return T(2 * map.bound * (1 - map.least_size * map.bins));
}

INLINE int64_t spline_limit(const Spline& map) {
  const int64_t most = SPLINE_MEMORY / (3 * map.bins - 1 + SPLINE_ARRAYS);
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
void spline_search(const Spline& map, const SplinePlanes<T>& planes, int64_t count, const T* x,
                   const SplineArrays<T>& to) {
  const int64_t bins = map.bins, step = planes.step, limit = planes.limit;
  const T bound = T(map.bound), scale = 1 / spline_spread<T>(map);
  const T least = T(map.least_size / (1 - map.least_size * map.bins));
  const T* own = planes.exps + inverse * bins * limit;
  const T* other = planes.exps + !inverse * bins * limit;
  const T *slopes = planes.raw + 2 * bins * step, *total = to.total[inverse];
  T *own_term = to.term[inverse], *other_term = to.term[!inverse];
  T *own_below = to.below[inverse], *other_below = to.below[!inverse];
  T *left = to.slope[0], *right = to.slope[1], *index = to.index;
  T *sum = to.sum[0], *other_sum = to.sum[1], *position = to.position;
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

  INLINE SplineNumbers(const Spline& map, const SplineArrays<T>& bins)
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

// Map x to y; fill `bins`, log-slopes among them.
template <class T, bool inverse>
void spline_map(const Spline& map, const SplinePlanes<T>& planes, int64_t count, const T* x,
                const SplineArrays<T>& bins, T* y) {
  spline_search<T, inverse>(map, planes, count, x, bins);
  const SplineNumbers<T> numbers(map, bins);
  const T bound = numbers.bound;
  T* log_slope = bins.log_slope;
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

  // How many samples are joined.
  INLINE int64_t together() const { return limit / (rows * columns); }

  template <class F> void run(ParallelFor parallel_for, F work) const {
    if (!joined) return for_samples(parallel_for, samples, work);
    for_samples(parallel_for, (samples + together() - 1) / together(), work);
  }

  // Blocks of task n; those of joined samples are whole rows.
  template <class F> INLINE void blocks(int64_t n, F work) const {
    if (!joined) return for_blocks(rows, columns, limit, work);
    const int64_t first = n * together();
    work(Block{first, lesser(together(), samples - first), 0, rows * columns});
  }

  // Call work(sample, start, size) for what a block of task n has of each sample.
  template <class F> INLINE void parts(int64_t n, const Block& block, F work) const {
    if (!joined) return work(n, int64_t(0), block.count());
    for (int64_t r = 0; r < block.rows; ++r) work(block.row + r, r * block.columns, block.columns);
  }
};

// Read the parameters of a block and compute the terms and sums of its softmaxes.
template <class T>
INLINE SplinePlanes<T> spline_planes(const Spline& map, const View& parameters, int64_t step,
                                     int64_t sample, const Block& block, int64_t limit, T* memory,
                                     const SplineArrays<T>& to) {
  SplinePlanes<T> planes{memory, limit, memory, limit};
  if (is_dense<T>(parameters, block)) {
    planes.raw = read(parameters, sample, block, memory);
    planes.step = step;
  } else {
    for (int64_t k = 0; k < 3 * map.bins - 1; ++k)
      read(parameters.at(k * step), sample, block, memory + k * limit);
  }
  for (int g = 0; g < 2; ++g) {
    const int64_t first = g * map.bins;
    spline_softmax(block.count(), map.bins, planes.raw + first * planes.step, planes.step,
                   planes.exps + first * limit, limit, to.total[g], to.term[g]);
  }
  return planes;
}

struct SplineForward {
  Spline map;
  int64_t passive_rows, passive_columns;
  View active, parameters, passive, y_active, y_passive, log_det, index;
};

template <class T, bool inverse>
void spline_forward(ParallelFor parallel_for, const SplineForward& f) {
  const Spline map = f.map;
  const int64_t limit = spline_limit(map);
  const SplineTasks tasks(map, limit);
  const View active = tasks.view(f.active), parameters = tasks.view(f.parameters);
  const View y_active = tasks.view(f.y_active), index = tasks.view(f.index);
  tasks.run(parallel_for, [&](int64_t n) {
    alignas(64) T memory[SPLINE_MEMORY];
    const SplineArrays<T> bins(memory + (3 * map.bins - 1) * limit, limit);
    double sum = 0;
    tasks.blocks(n, [&](const Block& block) {
      const int64_t b = tasks.joined ? 0 : n, count = block.count();
      const auto planes =
          spline_planes(map, parameters, map.step(f.parameters), b, block, limit, memory, bins);
      T* y = target(y_active, b, block, bins.out);
      spline_map<T, inverse>(map, planes, count, read(active, b, block, bins.x), bins, y);
      write(y_active, b, block, y);
      write(index, b, block, bins.index);
      tasks.parts(n, block, [&](int64_t sample, int64_t start, int64_t size) {
        T part = 0;
#pragma omp simd reduction(+ : part)
        for (int64_t i = start; i < start + size; ++i) part += bins.log_slope[i];
        sum = tasks.joined ? part : sum + part;
        const T log_det = T(sum);
        write(f.log_det, sample, Block{0, 1, 0, 1}, &log_det);
      });
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

// Compute what spline_planes.fill_gradients does, but for the planes; bins.log_slope has the
// gradient of log_det.
template <class T, bool inverse>
void spline_gradients(const Spline& map, const SplinePlanes<T>& planes, int64_t count, const T* x,
                      const T* grad, const SplineArrays<T>& bins, T* grad_x) {
  spline_search<T, inverse>(map, planes, count, x, bins);
  const SplineNumbers<T> numbers(map, bins);
  const T bound = numbers.bound, spread = numbers.spread;
  const T* by_log_det = bins.log_slope;
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
    T grad_y = inside ? grad[i] : T(0), grad_log = inside ? by_log_det[i] : T(0);
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

// Gradient of the raw slope at one edge: right end of the bin `before` it, left end of the next.
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
  const int64_t limit = spline_limit(map);
  const SplineTasks tasks(map, limit);
  const View active = tasks.view(f.active), parameters = tasks.view(f.parameters);
  const View grad = tasks.view(f.grad), grad_active = tasks.view(f.grad_active);
  const View grad_parameters = tasks.view(f.grad_parameters);
  tasks.run(parallel_for, [&](int64_t n) {
    alignas(64) T memory[SPLINE_MEMORY];
    const SplineArrays<T> bins(memory + (3 * map.bins - 1) * limit, limit);
    tasks.blocks(n, [&](const Block& block) {
      const int64_t b = tasks.joined ? 0 : n, count = block.count();
      const auto planes =
          spline_planes(map, parameters, map.step(f.parameters), b, block, limit, memory, bins);
      tasks.parts(n, block, [&](int64_t sample, int64_t start, int64_t size) {
        T value[1];
        const T upstream = *read(f.grad_log_det, sample, Block{0, 1, 0, 1}, value);
        for (int64_t i = start; i < start + size; ++i) bins.log_slope[i] = upstream;
      });
      T* grad_x = target(grad_active, b, block, bins.out);
      spline_gradients<T, inverse>(map, planes, count, read(active, b, block, bins.x),
                                   read(grad, b, block, bins.grad), bins, grad_x);
      write(grad_active, b, block, grad_x);
      for (int64_t k = 0; k < 3 * map.bins - 1; ++k) {
        const View view = grad_parameters.at(k * map.step(f.grad_parameters));
        T* to = target(view, b, block, bins.out);
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
