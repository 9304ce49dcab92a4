// Normalisation by groups of numbers, as >>normalisation of dltrain.h: group k of x [outer][channels][inner] is channel k, or, by row,
// row k of x [rows][inner]. saved = mean, 1 / sqrt(var + eps), and, by channel, var: a row of `groups` each. Sums by chunks are
// [group][chunk].
static uint64_t chunks_of(const Terms &t) { return (t.n + DL__CHUNK - 1) / DL__CHUNK; }
static uint64_t warp() { return ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP; }
static bool first_lane() { return threadIdx.x % WARP == 0; }

// Sums of squares by chunks, and the mean, from the sums by chunks
extern "C" __global__ void norm_squares(float *squares, const float *sums, float *saved, Terms t, float share)
{
    uint64_t chunks = chunks_of(t), group = warp() / chunks, chunk = warp() % chunks;
    if (group >= t.groups) return;
    float m = E_MUL(warp_sum(SUM, sums + group * chunks, 0, chunks, 0, 0), share);
    float v = chunk_sum(t, group, chunk * DL__CHUNK, [&](uint64_t at) { return term(SQUARES, t.x[at], 0, m, 0); });
    if (first_lane()) squares[warp()] = v;
    if (first_lane() && !chunk) saved[group] = m;
}
// Running statistics: buffer = (1 - momentum) buffer + momentum (scale batch)
struct Running { float *buffer; float momentum, scale; };
static void run(const Running &r, uint64_t i, float x)
{
    r.buffer[i] = E_ADD(E_MUL(E_SUB(1.0f, r.momentum), r.buffer[i]), E_MUL(r.momentum, E_MUL(x, r.scale)));
}
extern "C" __global__ void running(Running r, const float *x, uint64_t n)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) run(r, i, x[i]);
}

extern "C" __global__ void norm_moments(const float *squares, float *saved, uint64_t groups, uint64_t chunks, float share, float eps,
    int keep_var, Running mean, Running var)
{
    uint64_t k = warp();
    if (k >= groups) return;
    float v = E_MUL(warp_sum(SUM, squares + k * chunks, 0, chunks, 0, 0), share);
    if (!first_lane()) return;
    saved[groups + k] = E_DIV(1.0f, E_SQRT(E_ADD(v, eps)));
    if (keep_var) saved[2 * groups + k] = v;
    if (mean.buffer) run(mean, k, saved[k]);
    if (var.buffer) run(var, k, v);
}

// Which group number i belongs to, and which of w and b is for it
template <class I> static I group_of(I i, I groups, I inner, int by_row, I *j)
{
    I k = by_row ? i / inner : i / inner % groups;
    *j = by_row ? i % inner : k;
    return k;
}
static float normal(float x, float m, float r) { return E_MUL(E_SUB(x, m), r); }

// y = (x - m) r w + b; by row w and b are [inner]
template <class I> static void apply(float *y, const float *x, const float *saved, const float *w, const float *b, I n, I groups,
    I inner, int by_row)
{
    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {
        I j, k = group_of(i, groups, inner, by_row, &j);
        y[i] = E_ADD(E_MUL(normal(x[i], saved[k], saved[groups + k]), w ? w[j] : 1), b ? b[j] : 0);
    }
}
extern "C" __global__ void norm_apply(float *y, const float *x, const float *saved, const float *w, const float *b, uint64_t n, uint64_t groups,
    uint64_t inner, int by_row)
{
    if (n >> 31) apply<uint64_t>(y, x, saved, w, b, n, groups, inner, by_row);
    else apply<uint32_t>(y, x, saved, w, b, (uint32_t)n, (uint32_t)groups, (uint32_t)inner, by_row);
}

// Rows of no more than a chunk: all at once, a warp a row
extern "C" __global__ void norm_rows(float *y, const float *x, float *saved, const float *w, const float *b, uint64_t rows,
    uint32_t n, float share, float eps)
{
    uint64_t k = warp();
    if (k >= rows) return;
    x += k * n, y += k * n;
    float m = E_MUL(lanes_sum(n, [&](uint32_t i) { return x[i]; }), share);
    float v = E_MUL(lanes_sum(n, [&](uint32_t i) { return term(SQUARES, x[i], 0, m, 0); }), share), r = E_DIV(1.0f, E_SQRT(E_ADD(v, eps)));
    if (first_lane()) saved[k] = m, saved[rows + k] = r;
    for (uint32_t i = threadIdx.x % WARP; i < n; i += WARP) y[i] = E_ADD(E_MUL(normal(x[i], m, r), w ? w[i] : 1), b ? b[i] : 0);
}

// dx = k ((g - a) - h b): a and b the means of g and g h, k = w r by channel, r by row, where g is dy w
static float slope(float k, float g, float a, float h, float b) { return E_MUL(k, E_SUB(E_SUB(g, a), E_MUL(h, b))); }
extern "C" __global__ void norm_rows_back(float *dx, const float *dy, const float *x, const float *saved, const float *w,
    uint64_t rows, uint32_t n, float share)
{
    uint64_t k = warp();
    if (k >= rows) return;
    x += k * n, dx += k * n, dy += k * n;
    float m = saved[k], r = saved[rows + k];
    float a = E_MUL(lanes_sum(n, [&](uint32_t i) { return w ? E_MUL(dy[i], w[i]) : dy[i]; }), share);
    float b = E_MUL(lanes_sum(n, [&](uint32_t i) { return term(PRODUCTS, x[i], w ? E_MUL(dy[i], w[i]) : dy[i], m, r); }), share);
    for (uint32_t i = threadIdx.x % WARP; i < n; i += WARP) dx[i] = slope(r, w ? E_MUL(dy[i], w[i]) : dy[i], a, normal(x[i], m, r), b);
}

// Sums of g and of g h by chunks: part [2][group][chunk]; and of these, sums [2][group]
extern "C" __global__ void norm_back_chunks(float *part, const float *saved, Terms t)
{
    uint64_t chunks = chunks_of(t), group = warp() / chunks, first = warp() % chunks * DL__CHUNK;
    if (group >= t.groups) return;
    float m = saved[group], r = saved[t.groups + group];
    float g = chunk_sum(t, group, first, [&](uint64_t at) { return t.z[at]; });
    float h = chunk_sum(t, group, first, [&](uint64_t at) { return term(PRODUCTS, t.x[at], t.z[at], m, r); });
    if (first_lane()) part[warp()] = g, part[t.groups * chunks + warp()] = h;
}
extern "C" __global__ void norm_totals(float *sums, const float *part, uint64_t n, uint64_t chunks)
{
    if (warp() >= n) return;
    float v = warp_sum(SUM, part + warp() * chunks, 0, chunks, 0, 0);
    if (first_lane()) sums[warp()] = v;
}

template <class I> static void back(float *dx, const float *g, const float *x, const float *saved, const float *sums, const float *w,
    I n, I groups, I inner, float share, int by_row)
{
    for (I i = (I)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (I)gridDim.x * blockDim.x) {
        I j, k = group_of(i, groups, inner, by_row, &j);
        float r = saved[groups + k];
        dx[i] = slope(w && !by_row ? E_MUL(w[k], r) : r, g[i], E_MUL(sums[k], share), normal(x[i], saved[k], r),
            E_MUL(sums[groups + k], share));
    }
}
extern "C" __global__ void norm_back(float *dx, const float *g, const float *x, const float *saved, const float *sums, const float *w,
    uint64_t n, uint64_t groups, uint64_t inner, float share, int by_row)
{
    if (n >> 31) back<uint64_t>(dx, g, x, saved, sums, w, n, groups, inner, share, by_row);
    else back<uint32_t>(dx, g, x, saved, sums, w, (uint32_t)n, (uint32_t)groups, (uint32_t)inner, share, by_row);
}

// y = x z; z is repeated every `inner`
extern "C" __global__ void norm_scale(float *y, const float *x, const float *z, uint64_t n, uint64_t inner)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x)
        y[i] = E_MUL(x[i], z[i % inner]);
}

// sums = the gradients of b and of w by row, [2][inner]: blockIdx.y is one of them
extern "C" __global__ void __launch_bounds__(256) norm_weights(float *sums, float *part, const float *dy, const float *x,
    const float *saved, uint64_t rows, uint64_t inner)
{
    __shared__ Columns s;
    uint64_t which = blockIdx.y, blocks = (rows + DL__KB - 1) / DL__KB;
    columns_sum(s, sums + which * inner, part ? part + which * blocks * inner : 0, rows, inner, 0, [&](uint64_t row, uint64_t at) {
        float g = dy[at];
        return which ? E_MUL(g, normal(x[at], saved[row], saved[rows + row])) : g;
    });
}
