// Sums and winners. What a warp sums is in sums.cu.
// out[group * chunks + chunk] (+)= the sum of a chunk of a group's terms: a warp a chunk.
extern "C" __global__ void sum_chunks(float *out, Terms t, int accumulate)
{
    uint64_t chunks = t.n ? (t.n + DL__CHUNK - 1) / DL__CHUNK : 1, unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (unit >= t.groups * chunks) return;
    uint64_t group = unit / chunks;
    float m = t.m ? t.m[group] : 0, r = t.r ? t.r[group] : 0;
    float v = chunk_sum(t, group, unit % chunks * DL__CHUNK, [&](uint64_t at) { return term(t.what, t.x[at], t.z ? t.z[at] : 0, m, r); });
    if (threadIdx.x % WARP == 0) out[unit] = accumulate ? E_ADD(out[unit], v) : v;
}

// out[o][c] (+)= sum over rows of x[o][row][c]
extern "C" __global__ void __launch_bounds__(256) sum_columns(float *out, float *part, const float *x, uint64_t outer, uint64_t rows,
    uint64_t inner, int accumulate)
{
    __shared__ Columns s;
    uint64_t blocks = (rows + DL__KB - 1) / DL__KB;
    for (uint64_t o = blockIdx.y; o < outer; o += gridDim.y) {
        columns_sum(s, out + o * inner, part ? part + o * blocks * inner : 0, rows, inner, accumulate,
            [&](uint64_t, uint64_t at) { return x[o * rows * inner + at]; });
        __syncthreads();
    }
}
extern "C" __global__ void sum_columns_join(float *out, const float *part, uint64_t outer, uint64_t blocks, uint64_t inner, int accumulate)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= outer * inner) return;
    part += i / inner * blocks * inner + i % inner;
    float total = part[0];
#pragma unroll 8
    for (uint64_t b = 1; b < blocks; b++) total = E_ADD(total, part[b * inner]);
    out[i] = accumulate ? E_ADD(out[i], total) : total;
}

// The same for rows offset[s] .. offset[s + 1] of x [rows][inner].
extern "C" __global__ void segment_sum(float *out, const float *x, const int *offset, uint64_t segments, uint64_t inner)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= segments * inner) return;
    uint64_t s = i / inner, c = i % inner;
    float total = 0;
    for (int r0 = offset[s]; r0 < offset[s + 1]; r0 += DL__KB) {
        int end = offset[s + 1] - r0 < DL__KB ? offset[s + 1] : r0 + DL__KB;
        float p = 0;
        for (int r = r0; r < end; r++) p = E_ADD(p, x[r * inner + c]);
        total = r0 > offset[s] ? E_ADD(total, p) : p;
    }
    out[i] = total;
}

// y[o][c] = the place among count of the winner of x[o][.][c]: the first, and a NaN before all.
extern "C" __global__ void argmax(int *y, const float *x, uint64_t outer, uint64_t count, uint64_t inner, int least)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= outer * inner) return;
    const float *p = x + i / inner * count * inner + i % inner;
    uint64_t best = 0;
    float a = p[0];
    for (uint64_t k = 1; k < count; k++) {
        float b = p[k * inner];
        if (a == a && (b != b || (least ? b < a : b > a))) best = k, a = b;
    }
    y[i] = (int)best;
}

static float warp_max(const float *x, uint64_t n)
{
    uint64_t i = threadIdx.x % WARP;
    float best = i < n ? x[i] : -HUGE_VALF;
    for (i += WARP; i < n; i += WARP)
        if (x[i] > best || x[i] != x[i]) best = x[i];
    for (int h = WARP / 2; h; h /= 2) {
        float b = __shfl_xor_sync(FULL, best, h);
        if (b > best || b != b) best = b;
    }
    return best;
}

// y = softmax(x), or its logarithm, over rows of n; a warp a row. y holds the exponentials in between: each lane reads what it wrote.
extern "C" __global__ void softmax(float *y, const float *x, uint64_t rows, uint64_t n, int log)
{
    uint64_t row = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (row >= rows) return;
    x += row * n, y += row * n;
    float top = warp_max(x, n);
    for (uint64_t i = threadIdx.x % WARP; i < n; i += WARP) y[i] = E_EXP(E_SUB(x[i], top));
    float sum = warp_sum(SUM, y, 0, n, 0, 0);
    if (log) sum = E_LOG(sum);
    for (uint64_t i = threadIdx.x % WARP; i < n; i += WARP)
        y[i] = log ? E_SUB(E_SUB(x[i], top), sum) : E_DIV(y[i], sum);
}
