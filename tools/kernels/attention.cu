// Attention: y [L,F] = softmax(scale q k' + mask) v, and its gradients. Rows of scores and of probabilities are written down,
// [batch][L][S] each; a causal row counts products with probabilities of 0 up to the end of its block of `block` queries, as on the CPU.
struct Matrix { float *base; dl_index row, column, batch[8]; }; // a number lies at base + batch + i * row + j * column
struct Attention {
    dl_index l, s, e, f;
    int batch_dims, causal;
    dl_index block, batches;
    uint32_t batch[8];
    float scale;
    Matrix q, k, v, mask, y, dq, dk, dv; // without a base: none
    float *p, *dp;
};

static float *matrix_at(const Attention &t, const Matrix &m, dl_index batch)
{
    float *p = m.base;
    for (int d = t.batch_dims - 1; d >= 0; d--) {
        p += batch % t.batch[d] * m.batch[d];
        batch /= t.batch[d];
    }
    return p;
}
static dl_index least(dl_index a, dl_index b) { return a < b ? a : b; }
static dl_index seen(const Attention &t, dl_index l) { return t.causal ? least(t.s, l + 1) : t.s; } // keys of a row
static dl_index counted(const Attention &t, dl_index l) // keys of its block of queries
{
    dl_index in_part = l % DL__KB, end = l - in_part + (in_part / t.block + 1) * t.block;
    return seen(t, least(least(end, l - in_part + DL__KB), t.l) - 1);
}

// a chain over k < n, in blocks of 256, of x[k * dx] y[k * dy]
static float dot(const float *x, dl_index dx, const float *y, dl_index dy, dl_index n)
{
    float total = 0;
    for (dl_index k0 = 0; k0 == 0 || k0 < n; k0 += DL__KB) {
        float p = 0;
#pragma unroll 1
        for (dl_index k = k0; k < n && k < k0 + DL__KB; k++) p = __fmaf_rn(x[k * dx], y[k * dy], p);
        total = k0 ? E_ADD(total, p) : p;
    }
    return total;
}

// p: a warp a query
extern "C" __global__ void attention_probabilities(Attention t)
{
    dl_index row = ((dl_index)blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= t.batches * t.l) return;
    dl_index batch = row / t.l, l = row % t.l, n = seen(t, l);
    const float *q = matrix_at(t, t.q, batch) + l * t.q.row, *k = matrix_at(t, t.k, batch);
    const float *mask = t.mask.base ? matrix_at(t, t.mask, batch) + l * t.mask.row : 0;
    float *p = t.p + row * t.s, top = -HUGE_VALF;
    for (dl_index j = lane; j < n; j += WARP) {
        float x = E_MUL(dot(q, t.q.column, k + j * t.k.row, t.k.column, t.e), t.scale);
        if (mask) x = E_ADD(x, mask[j * t.mask.column]);
        p[j] = x;
        top = x > top ? x : top;
    }
    for (int h = WARP / 2; h; h /= 2) {
        float b = __shfl_xor_sync(FULL, top, h);
        top = b > top ? b : top;
    }
    for (dl_index j = lane; j < n; j += WARP) p[j] = E_EXP(E_SUB(p[j], top));
    float sum = warp_sum(SUM, p, 0, (uint64_t)n, 0, 0);
    for (dl_index j = lane; j < t.s; j += WARP) p[j] = j < n ? E_DIV(p[j], sum) : 0;
}

// y = p v
extern "C" __global__ void attention_values(Attention t)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t.batches * t.l * t.f) return;
    dl_index f = i % t.f, l = i / t.f % t.l, batch = i / t.f / t.l;
    float *y = matrix_at(t, t.y, batch) + l * t.y.row + f * t.y.column;
    *y = dot(t.p + (batch * t.l + l) * t.s, 1, matrix_at(t, t.v, batch) + f * t.v.column, t.v.row, counted(t, l));
}

// dp: the gradient of the scores, p (dy v' - sum(p (dy v'))) scale; a warp a query
extern "C" __global__ void attention_scores_back(Attention t)
{
    dl_index row = ((dl_index)blockIdx.x * blockDim.x + threadIdx.x) / WARP, lane = threadIdx.x % WARP;
    if (row >= t.batches * t.l) return;
    dl_index batch = row / t.l, l = row % t.l, n = seen(t, l);
    const float *dy = matrix_at(t, t.y, batch) + l * t.y.row, *v = matrix_at(t, t.v, batch), *p = t.p + row * t.s;
    float *dp = t.dp + row * t.s;
    for (dl_index j = lane; j < n; j += WARP) dp[j] = dot(dy, t.y.column, v + j * t.v.row, t.v.column, t.f);
    float sum = warp_sum(PRODUCTS, dp, p, (uint64_t)n, 0, 1);
    for (dl_index j = lane; j < t.s; j += WARP) dp[j] = j < n ? E_MUL(E_MUL(p[j], E_SUB(dp[j], sum)), t.scale) : 0;
}

// dq = dp k
extern "C" __global__ void attention_dq(Attention t)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t.batches * t.l * t.e) return;
    dl_index e = i % t.e, l = i / t.e % t.l, batch = i / t.e / t.l;
    float *y = matrix_at(t, t.dq, batch) + l * t.dq.row + e * t.dq.column;
    *y = dot(t.dp + (batch * t.l + l) * t.s, 1, matrix_at(t, t.k, batch) + e * t.k.column, t.k.row, counted(t, l));
}

// to [s][width] = m' from: the queries of blocks that count key j, in chains of 256
static void keys_back(const Attention &t, const float *m, const Matrix &from, const Matrix &to, dl_index width)
{
    dl_index i = (dl_index)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= t.batches * t.s * width) return;
    dl_index c = i % width, j = i / width % t.s, batch = i / width / t.s;
    const float *x = matrix_at(t, from, batch) + c * from.column;
    float total = 0;
    m += batch * t.l * t.s + j;
    for (dl_index l0 = 0; l0 < t.l; l0 += DL__KB) {
        float p = 0;
#pragma unroll 1
        for (dl_index l = l0; l < t.l && l < l0 + DL__KB; l++)
            if (j < counted(t, l)) p = __fmaf_rn(m[l * t.s], x[l * from.row], p);
        total = l0 ? E_ADD(total, p) : p;
    }
    matrix_at(t, to, batch)[j * to.row + c * to.column] = total;
}
extern "C" __global__ void attention_dk(Attention t) { keys_back(t, t.dp, t.q, t.dk, t.e); }
extern "C" __global__ void attention_dv(Attention t) { keys_back(t, t.p, t.y, t.dv, t.f); }
