// Sums and winners. What a warp sums is in sums.cu.
// out[group * chunks + chunk] (+)= the sum of a chunk of a group's terms. Term i of a group is at group * step + i / run * stride + i % run.
// A warp a chunk; m and r by group.
extern "C" __global__ void sum_chunks(float *out, const float *x, const float *z, const float *m, const float *r, uint64_t groups, uint64_t n,
    uint64_t run, uint64_t stride, uint64_t step, int what, int accumulate)
{
    uint64_t chunks = n ? (n + DL__CHUNK - 1) / DL__CHUNK : 1, unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP;
    if (unit >= groups * chunks) return;
    uint64_t group = unit / chunks, first = unit % chunks * DL__CHUNK, base = group * step;
    uint32_t lane = threadIdx.x % WARP, end = (uint32_t)(n - first < DL__CHUNK ? n - first : DL__CHUNK);
    float low = 0, high = 0, mean = m ? m[group] : 0, scale = r ? r[group] : 0;
    for (uint32_t i = lane; i < end; i += WARP) {
        uint64_t at = first + i;
        at = base + (run == n ? at : at / run * stride + at % run);
        float v = term(what, x[at], z ? z[at] : 0, mean, scale);
        if (i / WARP % 2) high = E_ADD(high, v);
        else low = E_ADD(low, v);
    }
    float v = add_lanes(low, high);
    if (!lane) out[unit] = accumulate ? E_ADD(out[unit], v) : v;
}

// out[o][c] (+)= sum over rows of x[o][row][c]: blocks of 256 rows are chains, their totals are added in order. threadIdx.y takes a
// block of rows each, of eight that are worked on at a time.
extern "C" __global__ void sum_columns(float *out, const float *x, uint64_t outer, uint64_t rows, uint64_t inner, int accumulate)
{
    __shared__ float part[8][32];
    uint64_t c = (uint64_t)blockIdx.x * 32 + threadIdx.x;
    for (uint64_t o = blockIdx.y; o < outer; o += gridDim.y) {
        float total = 0;
        for (uint64_t r0 = 0; r0 == 0 || r0 < rows; r0 += 8 * DL__KB) {
            uint64_t r = r0 + threadIdx.y * DL__KB, end = rows < r + DL__KB ? rows : r + DL__KB;
            float p = 0;
            if (c < inner)
                for (; r < end; r++) p = E_ADD(p, x[(o * rows + r) * inner + c]);
            part[threadIdx.y][threadIdx.x] = p;
            __syncthreads();
            if (!threadIdx.y)
                for (int k = 0; k < 8 && (k == 0 || r0 + k * DL__KB < rows); k++)
                    total = r0 + k ? E_ADD(total, part[k][threadIdx.x]) : part[k][threadIdx.x];
            __syncthreads();
        }
        if (!threadIdx.y && c < inner) {
            float *y = out + o * inner + c;
            *y = accumulate ? E_ADD(*y, total) : total;
        }
    }
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
