/* Attention as one operation against attention made of others: values and gradients, for lengths that fill blocks and lengths that do not;
   and the same bits from every level and number of threads, and from q, k and v that are parts of one tensor as from copies of them.
   tests: tsan valgrind */
#include "../dltrain.h"
#include "test.h"

enum { MOST = 3 * 400 * 40 };
typedef struct lengths { dl_index n, heads, l, s, e, f; } lengths;
static const lengths cases[] = { { 1, 1, 1, 1, 1, 1 }, { 2, 3, 5, 7, 4, 3 }, { 1, 2, 33, 65, 5, 17 }, { 1, 1, 70, 40, 16, 32 }, { 2, 1, 64, 64, 32, 16 },
    { 1, 1, 300, 20, 8, 8 }, { 1, 1, 20, 300, 3, 40 }, { 1, 1, 257, 270, 2, 1 }, { 1, 1, 3, 4, 260, 5 } };
static const dl_config ways[] = { { .seed = 1, .threads = 1 }, { .seed = 1, .threads = 3 }, { .seed = 1, .threads = 2, .simd = "portable" }, { .seed = 1, .eager = true, .threads = 1 } };
enum { WAYS = sizeof ways / sizeof *ways };

static dl_real data[4][MOST], got[4][MOST], want[4][MOST];

static void fill(dl_real *x, size_t n, uint32_t state)
{
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        x[i] = (dl_real)(state >> 8) / 8388608 - 1;
    }
}

static dl_tensor composite(dl_tensor q, dl_tensor k, dl_tensor v, bool causal)
{
    static dl_real mask[400 * 400];
    dl_index l = dl_dim(q, -2), s = dl_dim(k, -2);
    dl_tensor scores = dl_mul_scalar(dl_matmul_ex(q, k, &(dl_matmul_desc){ .transpose_b = true }), (float)(1 / sqrt((double)dl_dim(q, -1))));
    for (dl_index i = 0; i < l * s; i++) mask[i] = causal && i % s > i / s ? -HUGE_VALF : 0;
    return dl_matmul(dl_softmax(dl_add(scores, dl_input(q.ctx, DL_F32, DL_SHAPE(l, s), mask)), -1), v);
}

/* y and the gradients of sum(y w) of those in `asked`, into out[0..3]. */
static bool attend(dl_context *c, const lengths *t, bool causal, bool whole, unsigned asked, dl_real (*out)[MOST])
{
    dl_shape s[3] = { DL_SHAPE(t->n, t->heads, t->l, t->e), DL_SHAPE(t->n, t->heads, t->s, t->e), DL_SHAPE(t->n, t->heads, t->s, t->f) };
    dl_tensor x[3], from[3], dx[3];
    int n = 0;
    for (int k = 0; k < 3; k++) {
        x[k] = asked >> k & 1 ? dl_variable(c, s[k], data[k]) : dl_input(c, DL_F32, s[k], data[k]);
        if (asked >> k & 1) from[n++] = x[k];
    }
    dl_tensor y = whole ? dl_scaled_dot_product_attention(x[0], x[1], x[2], &(dl_attention_desc){ .causal = causal }) : composite(x[0], x[1], x[2], causal);
    dl_tensor w = dl_input(c, DL_F32, dl_shape_of(y), data[3]);
    bool ok = (!n || dl_grad(dl_sum(dl_mul(y, w)), from, n, dx)) && dl_read(y, out[0], dl_numel(y));
    for (int k = 0, i = 0; ok && k < 3; k++)
        if (asked >> k & 1) ok = dl_read(dx[i], out[1 + k], dl_numel(dx[i])), i++;
    dl_end(c);
    return ok;
}

static double worst(const dl_real *a, const dl_real *b, size_t n)
{
    double most = 0;
    for (size_t i = 0; i < n; i++) most = fmax(most, fabs((double)a[i] - (double)b[i]) / fmax(1, fabs((double)b[i])));
    return most;
}

static void as_its_parts(void)
{
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        for (int causal = 0; causal < 2; causal++) {
            const lengths *t = &cases[i];
            size_t b = (size_t)(t->n * t->heads), sizes[4] = { b * (size_t)(t->l * t->f), b * (size_t)(t->l * t->e), b * (size_t)(t->s * t->e), b * (size_t)(t->s * t->f) };
            static dl_real first[4][MOST];
            for (int k = 0; k < 4; k++) fill(data[k], MOST, (uint32_t)(i * 4) + (uint32_t)k);
            for (int way = 0; way < WAYS; way++) {
                dl_context *c = dl_create(&ways[way]);
                CHECK(attend(c, t, causal, false, 7, want), "%s", dl_error(c));
                for (unsigned asked = 0; asked < 8; asked++) {
                    CHECK(attend(c, t, causal, true, asked, got), "%s", dl_error(c));
                    for (unsigned k = 0; k < 4; k++) {
                        if (k && !(asked >> (k - 1) & 1)) continue;
                        CHECK(worst(got[k], want[k], sizes[k]) < 2e-6, "case %d, causal %d, way %d, wanted %x, result %d: %g off", (int)i, causal, way, asked, (int)k,
                              worst(got[k], want[k], sizes[k]));
                        if (!way && asked == 7) memcpy(first[k], got[k], sizes[k] * sizeof **got);
                        if (way) CHECK(!memcmp(first[k], got[k], sizes[k] * sizeof **got), "case %d, causal %d, way %d, wanted %x, result %d: other bits", (int)i, causal, way, asked, (int)k);
                    }
                }
                dl_destroy(c);
            }
        }
}

/* Heads taken out of one product, as a transformer does: views with strides when the step is planned, copies when it is eager. */
static double parts_of_one(const dl_config *config, dl_real *y, dl_real *g, bool keep)
{
    enum { N = 2, T = 35, H = 3, W = 5, D = H * W };
    dl_context *c = dl_create(config);
    dl_tensor x = dl_parameter(c, "x", &(dl_param_desc){ .shape = DL_SHAPE(N, T, 3 * D), .init = DL_INIT_NORMAL, .value = 1 }), part[3];
    dl_tensor qkv = dl_mul_scalar(x, 2);
    for (int k = 0; k < 3; k++) part[k] = dl_transpose(dl_reshape(dl_slice(qkv, 2, k * D, (k + 1) * D, 1), DL_SHAPE(N, T, H, W)), 1, 2);
    dl_tensor a = dl_scaled_dot_product_attention(part[0], part[1], part[2], &(dl_attention_desc){ .causal = true });
    dl_tensor out = dl_keep(dl_reshape(dl_transpose(a, 1, 2), DL_SHAPE(N, T, D))), unread = dl_transpose(dl_exp(qkv), 0, 1);
    if (keep) dl_keep(part[1]);
    dl_param_info p = { 0 };
    CHECK(dl_backward(dl_sum(dl_mul(out, out))) && dl_read(out, y, N * T * D) && dl_param_find(c, "x", &p) && p.grad, "%s", dl_error(c));
    if (p.grad) memcpy(g, p.grad, N * T * 3 * D * sizeof *g);
    dl_real some[N * T * 3 * D], key[N * T * D];
    double sum = 0;
    if (dl_ok(unread) && dl_read(unread, some, N * T * 3 * D)) sum = (double)some[7];
    if (keep && dl_read(part[1], key, N * T * D)) sum += (double)key[N * T * D - 1];
    CHECK(!dl_failed(c), "%s", dl_error(c));
    if (!keep && !config->eager) {
        CHECK(!dl_data(part[0]) && strstr(dl_error(c), "planned away"), "a view with strides can be read: %s", dl_error(c));
    }
    dl_destroy(c);
    return sum;
}

static void views(void)
{
    static dl_real y[2][4000], g[2][4000];
    for (int keep = 0; keep < 2; keep++) {
        double sum = parts_of_one(&ways[WAYS - 1], y[0], g[0], keep);
        for (int way = 0; way < WAYS; way++) {
            double other = parts_of_one(&ways[way], y[1], g[1], keep);
            CHECK(!memcmp(y[0], y[1], sizeof y[0]) && !memcmp(g[0], g[1], sizeof g[0]) && sum == other, "way %d, kept %d: other bits", way, keep);
        }
    }
}

/* A key that nobody may see does not matter, whatever it is; a row that sees nothing but -inf is NaN, as softmax's is. */
static void extremes(void)
{
    enum { T = 40, W = 4 };
    for (int way = 0; way < WAYS - 1; way++) {
        dl_context *c = dl_create(&ways[way]);
        static dl_real x[T * W], z[T * W], y[2][T * W], mask[T];
        fill(x, T * W, 9);
        memcpy(z, x, sizeof z);
        for (int i = 0; i < W; i++) z[(T - 1) * W + i] = HUGE_VALF;
        for (int k = 0; k < 2; k++) {
            dl_tensor q = dl_input(c, DL_F32, DL_SHAPE(T, W), x), v = dl_input(c, DL_F32, DL_SHAPE(T, W), k ? z : x);
            CHECK(dl_read(dl_scaled_dot_product_attention(q, q, v, &(dl_attention_desc){ .causal = true }), y[k], T * W), "%s", dl_error(c));
            dl_end(c);
        }
        CHECK(!memcmp(y[0], y[1], 32 * W * sizeof **y), "way %d: a later block's value matters", way);
        for (int i = 0; i < T; i++) mask[i] = -HUGE_VALF;
        dl_tensor q = dl_input(c, DL_F32, DL_SHAPE(T, W), x);
        dl_tensor a = dl_scaled_dot_product_attention(q, q, q, &(dl_attention_desc){ .mask = dl_input(c, DL_F32, DL_SHAPE(T), mask) });
        CHECK(dl_read(a, y[0], T * W) && y[0][0] != y[0][0], "way %d: %g, not NaN: %s", way, (double)y[0][0], dl_error(c));
        dl_destroy(c);
    }
}

int main(void)
{
    RUN(as_its_parts);
    RUN(views);
    RUN(extremes);
    return REPORT();
}
