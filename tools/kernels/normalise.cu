// Normalisation by groups of numbers, as >>normalisation of dltrain.h: group k of x [outer][channels][inner] is channel k, or, by row,
// row k of x [rows][inner]. The sums come from reduce.cu.

// saved = mean, 1 / sqrt(var + eps), and, by channel, var: a row of `groups` each. step 0: of the sums in `sum`; 1: of squares.
extern "C" __global__ void norm_moments(float *saved, const float *sum, uint64_t groups, float share, float eps, int step, int keep_var)
{
    uint64_t k = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (k >= groups) return;
    float v = E_MUL(sum[k], share);
    if (!step) {
        saved[k] = v;
        return;
    }
    saved[groups + k] = E_DIV(1.0f, E_SQRT(E_ADD(v, eps)));
    if (keep_var) saved[2 * groups + k] = v;
}

// y = (x - m) r w + b; by row w and b are [inner]
extern "C" __global__ void norm_apply(float *y, const float *x, const float *saved, const float *w, const float *b, uint64_t n, uint64_t groups,
    uint64_t inner, int by_row)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t k = by_row ? i / inner : i / inner % groups, j = by_row ? i % inner : k;
        float h = E_MUL(E_SUB(x[i], saved[k]), saved[groups + k]);
        y[i] = E_ADD(E_MUL(h, w ? w[j] : 1), b ? b[j] : 0);
    }
}

// dx = k ((g - a) - h b): a and b the means of g and g h, k = w r by channel, r by row
extern "C" __global__ void norm_back(float *dx, const float *g, const float *x, const float *saved, const float *sums, const float *w,
    uint64_t n, uint64_t groups, uint64_t inner, float share, int by_row)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) {
        uint64_t k = by_row ? i / inner : i / inner % groups;
        float r = saved[groups + k], slope = w && !by_row ? E_MUL(w[k], r) : r, h = E_MUL(E_SUB(x[i], saved[k]), r);
        float a = E_MUL(sums[k], share), b = E_MUL(sums[groups + k], share);
        dx[i] = E_MUL(slope, E_SUB(E_SUB(g[i], a), E_MUL(h, b)));
    }
}

// y = x z; z is repeated every `inner`
extern "C" __global__ void norm_scale(float *y, const float *x, const float *z, uint64_t n, uint64_t inner)
{
    for (uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (uint64_t)gridDim.x * blockDim.x) y[i] = E_MUL(x[i], z[i % inner]);
}

// sums = the gradients of b and of w by row, [2][inner]: blocks of 256 rows are chains, their totals are added in order
extern "C" __global__ void norm_weights(float *sums, const float *dy, const float *x, const float *saved, uint64_t rows, uint64_t inner)
{
    uint64_t j = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (j >= inner) return;
    float db = 0, dw = 0;
    for (uint64_t r0 = 0; r0 < rows; r0 += DL__KB) {
        float b = 0, w = 0;
        for (uint64_t r = r0; r < rows && r < r0 + DL__KB; r++) {
            float g = dy[r * inner + j];
            b = E_ADD(b, g);
            w = E_ADD(w, E_MUL(g, E_MUL(E_SUB(x[r * inner + j], saved[r]), saved[rows + r])));
        }
        db = r0 ? E_ADD(db, b) : b;
        dw = r0 ? E_ADD(dw, w) : w;
    }
    sums[j] = db;
    sums[inner + j] = dw;
}

// buffer = (1 - momentum) buffer + momentum (scale batch)
extern "C" __global__ void running(float *y, const float *x, uint64_t n, float momentum, float scale)
{
    uint64_t i = (uint64_t)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = E_ADD(E_MUL(E_SUB(1.0f, momentum), y[i]), E_MUL(momentum, E_MUL(x[i], scale)));
}
