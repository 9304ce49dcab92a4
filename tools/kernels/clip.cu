// Clipping gradients by their norm. Squares are added in double by rule 5, each parameter's alone; these sums are added in order.
struct Update { float *p, *g, *s[3]; uint64_t n; float h[10]; };
enum { WARP = 32 };
#define FULL 0xffffffffu

static double add_lanes(double low, double high) // the 64 lanes of a warp
{
    double v = __dadd_rn(low, high);
    for (int h = WARP / 2; h; h /= 2) v = __dadd_rn(v, __shfl_down_sync(FULL, v, h));
    return __shfl_sync(FULL, v, 0);
}

static double *chunks_of(const Update *list, uint64_t k, double *chunk) { return chunk + k + (list[k].g - list[0].g) / DL__CHUNK; }

// The sums of chunks: a warp each, blockIdx.y is a parameter
extern "C" __global__ void clip_chunks(const Update *list, uint64_t count, double *chunk, double *, double *, double)
{
    uint32_t lane = threadIdx.x % WARP;
    for (uint64_t k = blockIdx.y; k < count; k += gridDim.y) {
        const float *g = list[k].g;
        uint64_t unit = ((uint64_t)blockIdx.x * blockDim.x + threadIdx.x) / WARP, first = unit * DL__CHUNK, n = list[k].n;
        if (first >= n) continue;
        uint32_t end = (uint32_t)(n - first < DL__CHUNK ? n - first : DL__CHUNK);
        double low = 0, high = 0;
#pragma unroll 8
        for (uint32_t i = lane; i < end; i += DL__LANES) {
            double a = g[first + i], b = i + WARP < end ? g[first + i + WARP] : 0;
            low = __dadd_rn(low, __dmul_rn(a, a));
            high = __dadd_rn(high, __dmul_rn(b, b));
        }
        low = add_lanes(low, high);
        if (!lane) chunks_of(list, k, chunk)[unit] = low;
    }
}

// The sum of n numbers by a warp: n to DL__CHUNK of them, or so many such sums
static double sum_of(const double *x, uint64_t n)
{
    double low = 0, high = 0;
    for (uint64_t i = threadIdx.x % WARP; i < n; i += DL__LANES) {
        low = __dadd_rn(low, x[i]);
        if (i + WARP < n) high = __dadd_rn(high, x[i + WARP]);
    }
    return add_lanes(low, high);
}
static double sum_of_sums(const double *x, uint64_t n)
{
    double low = 0, high = 0;
    if (n <= DL__CHUNK) return sum_of(x, n);
    for (uint64_t k = 0; k * DL__CHUNK < n; k++) {
        double v = sum_of(x + k * DL__CHUNK, n - k * DL__CHUNK < DL__CHUNK ? n - k * DL__CHUNK : DL__CHUNK);
        if (k % WARP != threadIdx.x % WARP) continue;
        if (k % DL__LANES < WARP) low = __dadd_rn(low, v);
        else high = __dadd_rn(high, v);
    }
    return add_lanes(low, high);
}

// One block: total, of each parameter by a warp, and norm, which the host may ask for
extern "C" __global__ void clip_norm(const Update *list, uint64_t count, double *chunk, double *total, double *norm, double)
{
    for (uint64_t k = threadIdx.x / WARP; k < count; k += blockDim.x / WARP) {
        uint64_t n = list[k].n;
        double v = sum_of_sums(chunks_of(list, k, chunk), (n + DL__CHUNK - 1) / DL__CHUNK);
        if (threadIdx.x % WARP == 0) total[k] = v;
    }
    __syncthreads();
    if (threadIdx.x) return;
    double sum = 0;
#pragma unroll 8
    for (uint64_t k = 0; k < count; k++) sum = __dadd_rn(sum, total[k]);
    *norm = __dsqrt_rn(sum);
}

extern "C" __global__ void clip_scale(const Update *list, uint64_t count, const double *norm, double most)
{
    double factor = __ddiv_rn(most, __dadd_rn(*norm, 1e-6));
    float by = (float)factor;
    if (!(factor < 1)) return;
    for (uint64_t k = blockIdx.y; k < count; k += gridDim.y) {
        Update u = list[k];
        for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < u.n; i += (uint64_t)gridDim.x * blockDim.x)
            u.g[i] = E_MUL(u.g[i], by);
    }
}
