/* Normalisation, pooling and sums by channel in float at sizes that fill and overfill vectors, lanes, chunks and blocks: against loops in
   double, with the same bits from portable and SIMD kernels, on any number of threads, planned or eager.
   tests: tsan */
#include "../dltrain.h"
#include "test.h"

static const dl_tensor none;
enum { MOST = 400000 };
static float data[MOST], slope[MOST];

static void fill(float *p, size_t n, uint32_t state)
{
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        p[i] = (float)(int32_t)(state >> 8) / 8388608 - 1;
    }
}

/* What a function made of a context: values and gradients. */
typedef struct made { float *v[4]; size_t n[4]; int count; } made;
typedef dl_tensor (*function)(dl_context *c, const dl_tensor *x, const dl_index *size);

static const dl_config ways[] = {
    { .threads = 1 }, { .threads = 1, .simd = "portable" }, { .threads = 3 }, { .threads = 2, .eager = true }, { .threads = 1, .no_fusion = true },
};

/* y and the gradients of sum(y slope) for x of n numbers, w and b of per, in one way. */
static made make(const dl_config *way, function f, dl_shape shape, size_t n, dl_index per, const dl_index *size)
{
    made m = { .count = 0 };
    dl_context *c = dl_create(way);
    dl_tensor x[3], dx[4];
    fill(data, n, 1);
    x[0] = dl_variable(c, shape, data);
    fill(data, (size_t)per, 2);
    x[1] = dl_variable(c, DL_SHAPE(per), data);
    fill(data, (size_t)per, 3);
    x[2] = dl_variable(c, DL_SHAPE(per), data);
    dl_tensor y = f(c, x, size);
    fill(slope, dl_numel(y), 4);
    CHECK(dl_grad(dl_sum(dl_mul(y, dl_input(c, DL_F32, dl_shape_of(y), slope))), x, 3, dx + 1), "%s", dl_error(c));
    dx[0] = y;
    for (int k = 0; k < 4; k++) dl_keep(dx[k]);
    dl_end(c);
    for (int k = 0; k < 4 && !dl_failed(c); k++, m.count++) {
        m.n[k] = dl_numel(dx[k]);
        m.v[k] = malloc(m.n[k] * sizeof(float) + 1);
        CHECK(dl_read(dx[k], m.v[k], m.n[k]), "%s", dl_error(c));
    }
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
    return m;
}

static void discard(made *m)
{
    for (int k = 0; k < m->count; k++) free(m->v[k]);
}

/* The same in all ways; the caller discards what comes back. */
static made same(const char *what, function f, dl_shape shape, size_t n, dl_index per, const dl_index *size)
{
    made first = make(&ways[0], f, shape, n, per, size);
    for (size_t i = 1; i < sizeof ways / sizeof *ways; i++) {
        made m = make(&ways[i], f, shape, n, per, size);
        for (int k = 0; k < first.count && k < m.count; k++)
            CHECK(first.n[k] == m.n[k] && !memcmp(first.v[k], m.v[k], m.n[k] * sizeof(float)), "%s: other bits in way %d, array %d", what, (int)i, k);
        discard(&m);
    }
    return first;
}

static void near(const char *what, const float *got, const double *want, size_t n)
{
    double largest = 1e-30;
    for (size_t i = 0; i < n; i++) largest = fmax(largest, fabs(want[i]));
    for (size_t i = 0; i < n; i++)
        if (!(fabs(got[i] - want[i]) <= 1e-5 * largest)) {
            CHECK(false, "%s: %g at %zu, not %g", what, got[i], i, want[i]);
            return;
        }
}

/* ---- normalisation of x [a, b, c]: by channel b, or by row of c ---- */
static dl_tensor batch_norm(dl_context *c, const dl_tensor *x, const dl_index *size)
{
    (void)c, (void)size;
    return dl_batch_norm_op(x[0], x[1], x[2], none, none, 0, 1e-5f);
}
static dl_tensor layer_norm(dl_context *c, const dl_tensor *x, const dl_index *size)
{
    (void)c, (void)size;
    return dl_layer_norm_op(x[0], x[1], x[2], 1e-5f);
}

static void normalisation(bool by_row, dl_index a, dl_index b, dl_index c)
{
    static float w[MOST], s[MOST];
    static double want[4][MOST];
    dl_index size[3] = { a, b, c }, per = by_row ? c : b, groups = by_row ? a * b : b;
    size_t n = (size_t)(a * b * c), of = n / (size_t)groups;
    made m = same(by_row ? "layer_norm" : "batch_norm", by_row ? layer_norm : batch_norm, DL_SHAPE(a, b, c), n, per, size);
    if (m.count < 4) return;
    fill(data, n, 1), fill(w, (size_t)per, 2), fill(s, (size_t)per, 3), fill(slope, n, 4);
    memset(want, 0, sizeof want);
    for (dl_index g = 0; g < groups; g++) {
        double mean = 0, var = 0, d = 0, e = 0;
        for (int pass = 0; pass < 4; pass++)
            for (size_t i = 0; i < n; i++) {
                size_t weight = by_row ? i % (size_t)c : i / (size_t)c % (size_t)b;
                if ((by_row ? i / (size_t)c : weight) != (size_t)g) continue;
                double h = pass < 2 ? 0 : (data[i] - mean) / sqrt(var + 1e-5f), k = slope[i] * w[weight];
                if (pass == 0) mean += data[i] / (double)of;
                else if (pass == 1) var += (data[i] - mean) * (data[i] - mean) / (double)of;
                else if (pass == 2) {
                    want[0][i] = h * w[weight] + s[weight];
                    want[2][weight] += slope[i] * h;
                    want[3][weight] += slope[i];
                    d += k / (double)of, e += k * h / (double)of;
                } else want[1][i] = (k - d - h * e) / sqrt(var + 1e-5f);
            }
    }
    near("y", m.v[0], want[0], n);
    near("dx", m.v[1], want[1], n);
    near("dw", m.v[2], want[2], (size_t)per);
    near("db", m.v[3], want[3], (size_t)per);
    discard(&m);
}
static void batch_norm_small(void) { normalisation(false, 3, 5, 4); }
static void batch_norm_odd(void) { normalisation(false, 7, 3, 49); }
static void batch_norm_of_64(void) { normalisation(false, 5, 4, 64); }
static void batch_norm_of_1_image(void) { normalisation(false, 1, 3, 130); }
static void batch_norm_of_1_pixel(void) { normalisation(false, 33, 9, 1); }
static void batch_norm_beyond_a_chunk(void) { normalisation(false, 9, 3, 1000); }
static void batch_norm_of_large_planes(void) { normalisation(false, 2, 3, 5000); }
static void layer_norm_small(void) { normalisation(true, 1, 5, 3); }
static void layer_norm_of_128(void) { normalisation(true, 2, 150, 128); }
static void layer_norm_of_blocks(void) { normalisation(true, 1, 600, 11); }
static void layer_norm_beyond_a_chunk(void) { normalisation(true, 1, 3, 9001); }

/* Nothing in, nothing out, and weights whose gradient is 0. */
static void empty(void)
{
    static const dl_index size[1] = { 0 };
    function f[2] = { batch_norm, layer_norm };
    for (int i = 0; i < 2; i++) {
        made m = make(&ways[0], f[i], DL_SHAPE(0, 3, 3), 0, 3, size);
        for (int k = 0; k < 3 && m.count == 4; k++) CHECK(m.v[2][k] == 0 && m.v[3][k] == 0, "gradients of nothing: %g %g", m.v[2][k], m.v[3][k]);
        discard(&m);
    }
}

/* ---- sums over images and pixels: the bits of the sum of the permuted copy ---- */
static dl_tensor channel_sums(dl_context *c, const dl_tensor *x, const dl_index *size)
{
    (void)c, (void)size;
    return dl_add(dl_sum_dims(x[0], (int[]){ 0, 2 }, 2, false), dl_mul(x[1], x[2]));
}

static void sums(void)
{
    static const dl_index sizes[][3] = { { 3, 2, 5 }, { 4, 3, 64 }, { 70, 3, 100 }, { 3, 2, 4096 }, { 2, 1, 5000 }, { 300, 2, 49 } };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        const dl_index *s = sizes[i];
        made m = same("sums", channel_sums, DL_SHAPE(s[0], s[1], s[2]), (size_t)(s[0] * s[1] * s[2]), s[1], s);
        discard(&m);
        dl_context *c = dl_create(&ways[0]);
        fill(data, (size_t)(s[0] * s[1] * s[2]), 5);
        dl_tensor x = dl_input(c, DL_F32, DL_SHAPE(s[0], s[1], s[2]), data);
        dl_tensor y = dl_sum_dims(x, (int[]){ 0, 2 }, 2, false);
        dl_tensor z = dl_sum_dims(dl_reshape(dl_permute(x, (int[]){ 1, 0, 2 }), DL_SHAPE(s[1], s[0] * s[2])), (int[]){ 1 }, 1, false);
        float a[8], b[8];
        CHECK(dl_read(y, a, (size_t)s[1]) && dl_read(z, b, (size_t)s[1]), "%s", dl_error(c));
        CHECK(!memcmp(a, b, (size_t)s[1] * sizeof *a), "sizes %d: %.9g, the copy's is %.9g", (int)i, a[0], b[0]);
        dl_destroy(c);
    }
}

/* ---- pooling: x [2, 2, size 0, size 1], kernel, stride, padding; max or mean ---- */
static dl_tensor pool(dl_context *c, const dl_tensor *x, const dl_index *size)
{
    dl_pool2d_desc d = { .kernel = size[2], .stride = size[3], .padding = size[4] };
    (void)c;
    return dl_add(size[5] ? dl_max_pool2d(x[0], &d) : dl_avg_pool2d(x[0], &d), dl_sum(dl_mul(x[1], x[2])));
}

static void pooling(void)
{
    static const dl_index sizes[][5] = {
        { 2, 2, 2, 2, 0 }, { 6, 38, 2, 2, 0 }, { 7, 39, 2, 2, 0 }, { 28, 28, 2, 2, 0 }, { 9, 37, 3, 2, 1 }, { 9, 21, 3, 1, 1 },
        { 14, 14, 2, 2, 0 }, { 15, 15, 2, 2, 0 }, { 4, 9, 2, 2, 0 }, { 3, 10, 2, 2, 0 }, { 6, 12, 2, 2, 0 }, { 8, 7, 2, 2, 0 },
        { 8, 8, 8, 8, 0 }, { 11, 35, 3, 3, 0 }, { 5, 5, 1, 1, 0 }, { 9, 10, 4, 3, 2 }, { 5, 40, 5, 5, 0 },
    };
    static double want[2][MOST];
    for (size_t t = 0; t < 2 * sizeof sizes / sizeof *sizes; t++) {
        dl_index s[6];
        memcpy(s, sizes[t / 2], sizeof sizes[0]);
        s[5] = (dl_index)(t % 2);
        size_t plane = (size_t)(s[0] * s[1]), n = 4 * plane, at = 0;
        made m = same("pooling", pool, DL_SHAPE(2, 2, s[0], s[1]), n, 0, s);
        fill(data, n, 1), fill(slope, n, 4);
        memset(want, 0, sizeof want);
        for (size_t p = 0; p < 4; p++)
            for (dl_index y = -s[4]; y + s[2] <= s[0] + s[4]; y += s[3])
                for (dl_index x = -s[4]; x + s[2] <= s[1] + s[4]; x += s[3], at++) {
                    size_t best = SIZE_MAX;
                    for (dl_index k = 0; k < s[2] * s[2]; k++) {
                        dl_index iy = y + k / s[2], ix = x + k % s[2];
                        size_t i = p * plane + (size_t)(iy * s[1] + ix);
                        if (iy < 0 || ix < 0 || iy >= s[0] || ix >= s[1]) continue;
                        if (best == SIZE_MAX || data[i] > data[best]) best = i;
                        if (!s[5]) want[0][at] += data[i] / (double)(s[2] * s[2]), want[1][i] += slope[at] / (double)(s[2] * s[2]);
                    }
                    if (s[5]) want[0][at] = data[best], want[1][best] += slope[at];
                }
        CHECK(m.count == 4 && m.n[0] == at, "%zu outputs, not %zu", m.count ? m.n[0] : 0, at);
        if (m.count == 4) near("y", m.v[0], want[0], at), near("dx", m.v[1], want[1], n);
        discard(&m);
    }
}

/* The first NaN of a window wins, whatever is beside it; of equals the first. */
static void max_pool_nan(void)
{
    for (int wide = 0; wide < 2; wide++) /* 2x2 in a row of its own, and as windows that overlap */
        for (int mask = 0; mask < 16; mask++)
            for (int top = 0; top < 4; top++) {
                dl_context *c = dl_create(&(dl_config){ .threads = 1 });
                float x[4 * 9], dx[4 * 9];
                dl_tensor g, in;
                int first = -1;
                for (int k = 0; k < 4; k++) {
                    for (int i = 0; i < 9; i++) x[k / 2 * 18 + k % 2 + 2 * i] = mask >> k & 1 ? NAN : k >= top ? 1.0f : 0.0f;
                    if (first < 0 && mask >> k & 1) first = k;
                }
                if (first < 0) first = top;
                in = dl_variable(c, DL_SHAPE(1, 1, 2, 18), x);
                dl_tensor y = dl_max_pool2d(in, &(dl_pool2d_desc){ .kernel = 2, .stride = 2, .padding = wide });
                CHECK(dl_grad(dl_sum(y), &in, 1, &g) && dl_read(g, dx, 36), "%s", dl_error(c));
                for (int k = 0; k < 4 && !wide; k++)
                    CHECK(dx[k / 2 * 18 + k % 2 + 8] == (k == first ? 1.0f : 0.0f), "mask %x top %d: %g at %d, the first is %d", mask, top, dx[k / 2 * 18 + k % 2 + 8], k, first);
                double whole = 0;
                for (int k = 0; k < 36; k++) whole += dx[k];
                CHECK(whole == (double)dl_numel(y), "gradients of %zu windows add to %g", dl_numel(y), whole);
                dl_destroy(c);
            }
}

int main(void)
{
    RUN(batch_norm_small);
    RUN(batch_norm_odd);
    RUN(batch_norm_of_64);
    RUN(batch_norm_of_1_image);
    RUN(batch_norm_of_1_pixel);
    RUN(batch_norm_beyond_a_chunk);
    RUN(batch_norm_of_large_planes);
    RUN(layer_norm_small);
    RUN(layer_norm_of_128);
    RUN(layer_norm_of_blocks);
    RUN(layer_norm_beyond_a_chunk);
    RUN(empty);
    RUN(sums);
    RUN(pooling);
    RUN(max_pool_nan);
    return REPORT();
}
