"use strict";
// Does again what report/program.py wrote down. A tensor is {data, shape}: its numbers, row after row.

const size = shape => shape.reduce((a, b) => a * b, 1);
const strides = shape => shape.map((_, d) => size(shape.slice(d + 1)));

function gathered(data, shape, stride, offset = 0) { // the numbers of a view
  const own = strides(shape), place = (i, d) => Math.floor(i / own[d]) % shape[d] * stride[d];
  const from = i => shape.reduce((at, _, d) => at + place(i, d), offset);
  return Float32Array.from({ length: size(shape) }, (_, i) => data[from(i)]);
}

function expanded(x, shape) { // the numbers of an argument, repeated where it has fewer
  if (x === null || x === undefined) return undefined;
  if (typeof x === "number" || typeof x === "boolean") return new Float32Array(size(shape)).fill(x);
  if (!x.data) throw new Error(`this page does not know the argument ${x}`);
  if (x.data.length === size(shape)) return x.data;
  const own = strides(x.shape), lacking = shape.length - own.length;
  return gathered(x.data, shape, shape.map((_, d) => (x.shape[d - lacking] ?? 1) === 1 ? 0 : own[d - lacking]));
}

const each = f => (shape, ...xs) => {
  const [a, b, c] = xs.map(x => expanded(x, shape));
  return Float32Array.from({ length: size(shape) }, (_, i) => f(a[i], b && b[i], c && c[i]));
};

const along = f => (shape, x, dims) => { // f of all numbers along some dimensions
  const all = x.shape.map((_, d) => d), own = strides(x.shape);
  const gone = dims?.length ? dims.map(d => (d + all.length) % all.length) : all;
  const order = [...all.filter(d => !gone.includes(d)), ...gone], width = size(gone.map(d => x.shape[d]));
  const rows = gathered(x.data, order.map(d => x.shape[d]), order.map(d => own[d]));
  return Float32Array.from({ length: rows.length / width }, (_, i) => f(rows.subarray(i * width, (i + 1) * width)));
};

const sum = row => row.reduce((a, b) => a + b, 0);
const mean = row => sum(row) / row.length;
const most = row => row.reduce((a, b) => Math.max(a, b));
const logSumExp = (row, top = most(row)) => top + Math.log(sum(row.map(v => Math.exp(v - top))));

function softmax(shape, x, dim) {
  const total = { data: along(logSumExp)(null, x, [dim]), shape: [...shape].fill(1, dim, dim + 1 || undefined) };
  return each((v, scale) => Math.exp(v - scale))(shape, x, total);
}

function erf(v) { // Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: to 1.5e-7
  const t = 1 / (1 + 0.3275911 * Math.abs(v)), c = [1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592];
  return Math.sign(v) * (1 - c.reduce((a, b) => a * t + b, 0) * t * Math.exp(-v * v));
}

function matmul([n, m], a, b) {
  const k = a.shape[1], out = new Float32Array(n * m), numbers = b.data;
  for (let i = 0; i < n; i++) for (let j = 0; j < k; j++) {
    const factor = a.data[i * k + j], from = j * m, to = i * m;
    for (let l = 0; l < m; l++) out[to + l] += factor * numbers[from + l];
  }
  return out;
}

function convolution(shape, x, w, bias, stride, padding, dilation, transposed) {
  if (shape.length !== 4) throw new Error("this page knows convolutions of images alone");
  const out = perChannel((_, c) => bias ? bias.data[c] : 0, shape, new Float32Array(size(shape)));
  // A transposed one goes from the small side to the large, the other from the large to the small, by the same pairs.
  const [small, large] = transposed ? [x.shape, shape] : [shape, x.shape];
  const [batch, S, h, wide] = small, [, L, H, W] = large, [, G, kh, kw] = w.shape; // G: of L in a group
  for (let n = 0; n < batch; n++) for (let s = 0; s < S; s++) for (let g = 0; g < G; g++)
    for (let ky = 0; ky < kh; ky++) for (let kx = 0; kx < kw; kx++) {
      const l = Math.floor(s * L / (S * G)) * G + g, factor = w.data[((s * G + g) * kh + ky) * kw + kx];
      for (let y = 0; y < h; y++) for (let x0 = 0; x0 < wide; x0++) {
        const Y = y * stride[0] - padding[0] + ky * dilation[0], X = x0 * stride[1] - padding[1] + kx * dilation[1];
        if (Y < 0 || Y >= H || X < 0 || X >= W) continue;
        const i = ((n * S + s) * h + y) * wide + x0, j = ((n * L + l) * H + Y) * W + X;
        if (transposed) out[j] += factor * x.data[i]; else out[i] += factor * x.data[j];
      }
    }
  return out;
}

function gridSampler(shape, x, grid, mode, padding, aligned) {
  if (mode || padding) throw new Error("this page knows grid_sampler_2d as bilinear with zeros outside alone");
  const out = new Float32Array(size(shape)), [, C, H, W] = shape, [, , h, w] = x.shape;
  const place = (v, n) => aligned ? (v + 1) / 2 * (n - 1) : ((v + 1) * n - 1) / 2;
  for (let i = 0; i < out.length; i++) {
    const image = Math.floor(i / (H * W)), cell = Math.floor(image / C) * H * W + i % (H * W);
    const X = place(grid.data[2 * cell], w), Y = place(grid.data[2 * cell + 1], h);
    for (const y of [Math.floor(Y), Math.floor(Y) + 1]) for (const x0 of [Math.floor(X), Math.floor(X) + 1])
      if (y >= 0 && y < h && x0 >= 0 && x0 < w)
        out[i] += (1 - Math.abs(Y - y)) * (1 - Math.abs(X - x0)) * x.data[(image * h + y) * w + x0];
  }
  return out;
}

function layerNorm(shape, x, over, weight, bias, epsilon) {
  const out = new Float32Array(x.data), width = size(over);
  for (let start = 0; start < out.length; start += width) {
    const row = out.subarray(start, start + width), middle = mean(row);
    const deviation = Math.sqrt(mean(row.map(v => (v - middle) ** 2)) + epsilon);
    row.set(row.map((v, i) => weighted((v - middle) / deviation, i, weight, bias)));
  }
  return out;
}

const weighted = (v, i, weight, bias) => v * (weight ? weight.data[i] : 1) + (bias ? bias.data[i] : 0);

function perChannel(f, shape, data) {
  const area = size(shape.slice(2));
  return data.map((v, i) => f(v, Math.floor(i / area) % shape[1]));
}

function cat(shape, xs, dim) { // and stack
  const d = (dim + shape.length) % shape.length, rows = size(shape.slice(0, d)), out = new Float32Array(size(shape));
  for (let r = 0, start = 0; r < rows; r++) for (const { data } of xs) {
    out.set(data.subarray(r * data.length / rows, (r + 1) * data.length / rows), start);
    start += data.length / rows;
  }
  return out;
}

const same = (_, x) => x.data;
const OPERATIONS = { // of ATen: from the shape of the result and all arguments to numbers
  add: each((a, b, factor) => a + b * factor), sub: each((a, b, factor) => a - b * factor), neg: each(v => -v),
  rsub: each((a, b, factor) => b - a * factor), mul: each((a, b) => a * b), div: each((a, b) => a / b),
  pow: each((a, b) => a ** b), maximum: each((a, b) => Math.max(a, b)), minimum: each((a, b) => Math.min(a, b)),
  eq: each((a, b) => a === b), ne: each((a, b) => a !== b), lt: each((a, b) => a < b), le: each((a, b) => a <= b),
  gt: each((a, b) => a > b), ge: each((a, b) => a >= b), where: each((test, a, b) => test ? a : b),
  reciprocal: each(v => 1 / v), sigmoid: each(v => 1 / (1 + Math.exp(-v))), silu: each(v => v / (1 + Math.exp(-v))),
  sqrt: each(v => Math.sqrt(v)), rsqrt: each(v => 1 / Math.sqrt(v)), relu: each(v => Math.max(v, 0)), erf: each(erf),
  leaky_relu: each((v, slope) => v < 0 ? v * slope : v),
  elu: each((v, alpha, scale) => scale * (v < 0 ? alpha * Math.expm1(v) : v)),
  softplus: each((v, beta, linear) => v * beta > linear ? v : Math.log1p(Math.exp(v * beta)) / beta),
  clamp: each((v, low = -Infinity, high = Infinity) => Math.min(Math.max(v, low), high)),
  gelu: (shape, x, how) => how === "none" ? each(v => v / 2 * (1 + erf(v / Math.SQRT2)))(shape, x) : expanded(how),
  sum: along(sum), mean: along(mean), amax: along(most), logsumexp: along(logSumExp), _softmax: softmax,
  mm: matmul, cat, stack: cat, convolution, grid_sampler_2d: gridSampler, native_layer_norm: layerNorm,
  ones_like: each(() => 1), zeros_like: each(() => 0), clone: same, _unsafe_view: same,
  addmm: (shape, c, a, b, beta, alpha) =>
    each((v, w) => beta * v + alpha * w)(shape, c, { data: matmul(shape, a, b), shape }),
  native_batch_norm: (shape, x, weight, bias, middle, variance, _training, _momentum, epsilon) => perChannel((v, c) =>
    weighted((v - middle.data[c]) / Math.sqrt(variance.data[c] + epsilon), c, weight, bias), shape, x.data),
};
for (const op of ["abs", "exp", "expm1", "log", "log1p", "sin", "cos", "tanh"]) OPERATIONS[op] = each(v => Math[op](v));

function half(bits) { // the number that 16 bits are
  const exponent = bits >> 10 & 31, fraction = (bits & 1023) / 1024;
  return (bits & 32768 ? -1 : 1) * (exponent ? 2 ** (exponent - 15) * (1 + fraction) : 2 ** -14 * fraction);
}

function unpacked({ scales, ...packed }) { // of int8, 64 numbers share a scale
  const [[kind, text]] = Object.entries(packed), bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt());
  if (kind === "float32") return new Float32Array(bytes.buffer);
  if (kind === "float16") return Float32Array.from(new Uint16Array(bytes.buffer), half);
  const each = unpacked({ float16: scales });
  return Float32Array.from(new Int8Array(bytes.buffer), (v, i) => v * each[i >> 6]);
}

function program({ calls, constants, outputs }) { // from the numbers of inputs, by name, to those of the outputs
  const lacking = new Set(calls.map(call => call.op).filter(op => !Object.hasOwn(OPERATIONS, op)));
  if (lacking.size) throw new Error(`this page does not know the operations ${[...lacking].join(", ")}`);
  const known = Object.fromEntries(Object.entries(constants).map(([number, packed]) => [number, unpacked(packed)]));
  return given => {
    const memory = { ...known, ...given };
    const read = x => Array.isArray(x) ? x.map(read) : !x?.shape ? x
      : { shape: x.shape, data: x.stride ? gathered(memory[x.of], x.shape, x.stride, x.offset) : memory[x.of] };
    for (const { number, op, shape, inputs } of calls) memory[number] = OPERATIONS[op](shape, ...inputs.map(read));
    return Object.fromEntries(Object.entries(outputs).map(([name, x]) => [name, read(x).data]));
  };
}
