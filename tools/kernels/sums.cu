// Sums by rule 5 of the canonical arithmetic, by a warp: its lane l holds lanes l and l + 32 of the rule.
enum { WARP = 32, LEVELS = 3 };
#define FULL 0xffffffffu

// What is summed: x, (x - m)^2 or z (x - m) r.
enum { SUM, SQUARES, PRODUCTS };
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
    uint32_t lane = threadIdx.x % WARP;
    Total t;
    for (int l = 0; l < LEVELS; l++) t.low[l] = t.high[l] = 0, t.n[l] = 0;
    for (uint64_t chunk = 0; chunk < n; chunk += DL__CHUNK) {
        uint64_t end = n - chunk < DL__CHUNK ? n : chunk + DL__CHUNK;
        float low = 0, high = 0;
        for (uint64_t i = chunk + lane; i < end; i += DL__LANES) {
            low = E_ADD(low, term(what, x[i], z ? z[i] : 0, m, r));
            if (i + WARP < end) high = E_ADD(high, term(what, x[i + WARP], z ? z[i + WARP] : 0, m, r));
        }
        float v = add_lanes(low, high);
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
