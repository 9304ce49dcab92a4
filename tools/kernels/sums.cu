// Sums by rule 5 of the canonical arithmetic, by a warp: its lane l holds lanes l and l + 32 of the rule.
enum { WARP = 32, LEVELS = 3 };
#define FULL 0xffffffffu

// What is summed: x, (x - m)^2 or z (x - m) r, with m and r by group. Term i of group k is at k * step + i / run * stride + i % run.
enum { SUM, SQUARES, PRODUCTS };
struct Terms { const float *x, *z, *m, *r; uint64_t groups, n, run, stride, step; int what; };
static float term(int what, float x, float z, float m, float r)
{
    if (what == SUM) return x;
    x = E_SUB(x, m);
    return what == SQUARES ? E_MUL(x, x) : E_MUL(z, E_MUL(x, r));
}

// The 64 lanes of a warp added pairwise, for all of it.
static float add_lanes(float low, float high)
{
    float v = E_ADD(low, high);
    for (int h = WARP / 2; h; h /= 2) v = E_ADD(v, __shfl_down_sync(FULL, v, h));
    return __shfl_sync(FULL, v, 0);
}

// The sum of n <= DL__CHUNK terms f(i), by all of a warp
template <class Term> static float lanes_sum(uint32_t n, Term f)
{
    float low = 0, high = 0;
#pragma unroll 4
    for (uint32_t i = threadIdx.x % WARP; i < n; i += DL__LANES) {
        low = E_ADD(low, f(i));
        if (i + WARP < n) high = E_ADD(high, f(i + WARP));
    }
    return add_lanes(low, high);
}

// The chunk of a group's terms that begins at `first`; f is given where a term is
template <class Term> static float chunk_sum(const Terms &t, uint64_t group, uint64_t first, Term f)
{
    uint32_t n = (uint32_t)(t.n - first < DL__CHUNK ? t.n - first : DL__CHUNK), lane = threadIdx.x % WARP;
    if (t.run >= t.n) return lanes_sum(n, [&](uint32_t i) { return f(group * t.step + first + i); });
    uint64_t in = (first + lane) % t.run, at = group * t.step + (first + lane) / t.run * t.stride + in;
    float sum[2] = { 0, 0 };
#pragma unroll 4
    for (uint32_t i = lane; i < n;) {
#pragma unroll
        for (int half = 0; half < 2; half++, i += WARP) { // lane, and lane + 32 of the rule
            if (i < n) sum[half] = E_ADD(sum[half], f(at));
            at += WARP, in += WARP;
            if (in >= t.run) at += in / t.run * (t.stride - t.run), in %= t.run; // on to the next run: no division at each term
        }
    }
    return add_lanes(sum[0], sum[1]);
}

// Sums down columns by rule 2, of f(row, place), place = row * inner + column, by a block of 256 threads for 8 columns: numbers come into
// shared memory all at once, four blocks of 256 rows; then each of these is a chain. out [inner] (+)= the totals; or, where `part` is given, part [block][inner] takes
// those of the four blocks of rows that are blockIdx.z's, to be added by sum_columns_join.
enum { COLUMNS = 8, EACH = 256 / COLUMNS, BLOCKS = 4, DOWN = BLOCKS * DL__KB };
struct Columns { float x[BLOCKS][DL__KB * COLUMNS + COLUMNS], sum[BLOCKS][COLUMNS]; };
template <class Term> static void columns_sum(Columns &s, float *out, float *part, uint64_t rows, uint64_t inner, int accumulate, Term f)
{
    uint32_t c = threadIdx.x % COLUMNS, k = threadIdx.x / COLUMNS;
    uint64_t column = (uint64_t)blockIdx.x * COLUMNS + c;
    uint64_t end = part && rows > (blockIdx.z + 1ull) * DOWN ? (blockIdx.z + 1ull) * DOWN : rows;
    float total = 0;
    for (uint64_t r0 = part ? (uint64_t)blockIdx.z * DOWN : 0; r0 == 0 || r0 < end; r0 += DOWN) {
        uint32_t n = column < inner ? (uint32_t)(end - r0 < DOWN ? end - r0 : DOWN) : 0;
        uint64_t at = (r0 + k) * inner + column;
#pragma unroll 1
        for (uint32_t b = 0; b < BLOCKS && b * DL__KB + k < n; b++)
#pragma unroll
            for (uint32_t r = k; r < DL__KB; r += EACH, at += EACH * inner)
                if (b * DL__KB + r < n) s.x[b][r * COLUMNS + c] = f(r0 + b * DL__KB + r, at);
        __syncthreads();
        if (k < BLOCKS && (k == 0 || k * DL__KB < n)) {
            uint32_t rows_here = n < (k + 1) * DL__KB ? n - k * DL__KB : DL__KB;
            float p = 0;
#pragma unroll 8
            for (uint32_t r = 0; r < rows_here; r++) p = E_ADD(p, s.x[k][r * COLUMNS + c]);
            s.sum[k][c] = p;
            if (part && column < inner) part[(r0 / DL__KB + k) * inner + column] = p;
        }
        __syncthreads();
        for (uint32_t b = 0; k == 0 && b < BLOCKS && (b == 0 || b * DL__KB < n); b++)
            total = r0 + b ? E_ADD(total, s.sum[b][c]) : s.sum[b][c];
    }
    if (!part && k == 0 && column < inner) out[column] = accumulate ? E_ADD(out[column], total) : total;
}

// Sums of chunks, and of these: dl__total of dltrain.h.
struct Total { float low[LEVELS], high[LEVELS]; uint32_t n[LEVELS]; };
static float take(Total *t, int level)
{
    float v = add_lanes(t->low[level], t->high[level]);
    t->low[level] = t->high[level] = 0;
    t->n[level] = 0;
    return v;
}
static void carry(Total *t, int level, float v)
{
    for (; level < LEVELS; level++) {
        uint32_t at = t->n[level]++ % DL__LANES;
        if (at % WARP == threadIdx.x % WARP) {
            if (at < WARP) t->low[level] = E_ADD(t->low[level], v);
            else t->high[level] = E_ADD(t->high[level], v);
        }
        if (t->n[level] < DL__CHUNK) return;
        v = take(t, level);
    }
}

// The sum of the n terms x[i], by all of a warp.
static float warp_sum(int what, const float *x, const float *z, uint64_t n, float m, float r)
{
    Total t;
    for (int l = 0; l < LEVELS; l++) t.low[l] = t.high[l] = 0, t.n[l] = 0;
    for (uint64_t chunk = 0; chunk < n; chunk += DL__CHUNK) {
        uint64_t end = n - chunk < DL__CHUNK ? n : chunk + DL__CHUNK;
        float v = lanes_sum((uint32_t)(end - chunk), [&](uint32_t i) { return term(what, x[chunk + i], z ? z[chunk + i] : 0, m, r); });
        if (n <= DL__CHUNK) return v;
        carry(&t, 0, v);
    }
    float v = 0;
    for (int level = 0; level < LEVELS; level++) {
        uint32_t above = 0;
        for (int k = level + 1; k < LEVELS; k++) above += t.n[k];
        if (!above) return t.n[level] ? take(&t, level) : 0;
        if (t.n[level]) carry(&t, level + 1, take(&t, level));
    }
    return v;
}
