/* The arithmetic itself: elementary functions against the C library in double (in units in the last place), the kernels of every SIMD
   level of this CPU against the portable ones bit for bit, the fused multiply-add, the product and the sum against the canonical rules written out. */
#include "../dltrain.h"
#include "test.h"
#include "inside.h"

static uint32_t state = 1;
static uint32_t next(void) { return state = state * 1664525u + 1013904223u; }
static float uniform(float low, float high) { return low + (high - low) * (float)(next() >> 8) / 16777216.0f; }

static double ulps(float got, double want)
{
    float near_want = (float)want;
    if (got != got || want != want) return got != got && want != want ? 0 : 1e9;
    if (got == near_want) return 0;
    if (!isfinite(got) || !isfinite(near_want)) return 1e9;
    double unit = (double)nextafterf(fabsf(near_want), INFINITY) - fabs((double)near_want);
    return fabs((double)got - want) / unit;
}

typedef dl_tensor (*unary)(dl_tensor);
static void row_ulps(const char *name, unary f, double (*want)(double), float low, float high, double most)
{
    enum { N = 20003 }; /* with a rest for any vector width */
    static float x[N], y[INSIDE_LEVELS][N];
    double worst = 0;
    float at = 0;
    for (int i = 0; i < N; i++) x[i] = uniform(low, high);
    x[0] = low, x[1] = high, x[2] = 0, x[3] = -0.0f;
    if (low < 0) x[4] = -1e-30f;
    x[5] = 1e-30f;
    for (int level = 0; level < INSIDE_LEVELS; level++) {
        if (!inside_level(level)) continue;
        dl_config c;
        memset(&c, 0, sizeof c);
        c.simd = inside_level(level);
        dl_context *ctx = dl_create(&c);
        CHECK(inside_level_of(ctx) == level, "%s is not the level of '%s'", inside_level(inside_level_of(ctx)), c.simd);
        CHECK(dl_read(f(dl_borrow(ctx, DL_F32, DL_SHAPE(N), x)), y[level], N), "%s: %s", name, dl_error(ctx));
        CHECK(!memcmp(y[0], y[level], sizeof y[level]), "%s: the kernel for %s gives other bits", name, c.simd);
        dl_destroy(ctx);
    }
    for (int i = 0; i < N; i++) {
        double u = ulps(y[0][i], want((double)x[i]));
        if (u > worst) worst = u, at = x[i];
    }
    CHECK(worst <= most, "%s: %.2f ulp at %.9g; at most %.2f", name, worst, (double)at, most);
}

static double sigmoid_d(double x) { return 1 / (1 + exp(-x)); }
static double softplus_d(double x) { return (x > 0 ? x : 0) + log1p(exp(-fabs(x))); }
static double silu_d(double x) { return x / (1 + exp(-x)); }
static double rsqrt_d(double x) { return 1 / sqrt(x); }
static double gelu_d(double x) { return x * 0.5 * erfc(-x * 0.70710678118654752); }
static double neg_d(double x) { return -x; }

static void elementary(void)
{
    row_ulps("exp", dl_exp, exp, -87, 88.5f, 1.5);
    row_ulps("exp of subnormal results", dl_exp, exp, -103, -87, 1.5);
    row_ulps("expm1", dl_expm1, expm1, -20, 20, 3.5);
    row_ulps("expm1 near 0", dl_expm1, expm1, -0.5f, 0.5f, 3.5);
    row_ulps("log", dl_log, log, 1e-38f, 1e3f, 1.5);
    row_ulps("log near 1", dl_log, log, 0.5f, 2, 1.5);
    row_ulps("log of subnormals", dl_log, log, 1e-44f, 1e-38f, 1.5);
    row_ulps("log1p", dl_log1p, log1p, -0.9f, 50, 3);
    row_ulps("tanh", dl_tanh, tanh, -12, 12, 3);
    row_ulps("erf", dl_erf, erf, -5, 5, 3);
    row_ulps("sigmoid", dl_sigmoid, sigmoid_d, -80, 80, 3.5);
    row_ulps("softplus", dl_softplus, softplus_d, -80, 80, 3.5);
    row_ulps("silu", dl_silu, silu_d, -80, 80, 4.5);
    row_ulps("gelu", dl_gelu, gelu_d, -1, 8, 12);
    row_ulps("gelu of the left tail", dl_gelu, gelu_d, -8, -1, 60); /* of tiny numbers: 1 + erf had none of their digits */
    row_ulps("sin", dl_sin, sin, -1000, 1000, 0.51);
    row_ulps("cos", dl_cos, cos, -1000, 1000, 0.51);
    row_ulps("sin of large numbers", dl_sin, sin, -1e9f, 1e9f, 0.51);
    row_ulps("sqrt", dl_sqrt, sqrt, 0, 1e30f, 0.5);
    row_ulps("rsqrt", dl_rsqrt, rsqrt_d, 1e-30f, 1e30f, 1.5);
    row_ulps("neg", dl_neg, neg_d, -1, 1, 0);
}

static void special_values(void)
{
    static const float x[8] = { INFINITY, -INFINITY, NAN, 0, -0.0f, 200, -200, 1e-45f };
    static const struct { const char *name; unary f; double (*want)(double); } rows[] = {
        { "exp", dl_exp, exp }, { "log", dl_log, log }, { "log1p", dl_log1p, log1p }, { "expm1", dl_expm1, expm1 }, { "tanh", dl_tanh, tanh },
        { "erf", dl_erf, erf }, { "sigmoid", dl_sigmoid, sigmoid_d }, { "sqrt", dl_sqrt, sqrt },
    };
    dl_context *ctx = dl_create(NULL);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        float y[8];
        CHECK(dl_read(rows[i].f(dl_input(ctx, DL_F32, DL_SHAPE(8), x)), y, 8), "%s", dl_error(ctx));
        for (int k = 0; k < 8; k++) CHECK(ulps(y[k], rows[i].want((double)x[k])) <= 1.5, "%s(%g) = %g, not %g", rows[i].name, (double)x[k], (double)y[k], rows[i].want((double)x[k]));
        dl_end(ctx);
    }
    float m[3] = { 1, NAN, 2 }, out;
    int dim = 0;
    dl_tensor t = dl_input(ctx, DL_F32, DL_SHAPE(3), m);
    out = (float)dl_item(dl_max_dims(t, &dim, 1, false));
    CHECK(out != out, "max: NaN must win");
    CHECK(dl_item(dl_argmax(t, 0, false)) == 1, "argmax: NaN must win");
    dl_read(dl_relu(t), m, 3);
    CHECK(m[1] != m[1], "relu: NaN must pass");
    dl_destroy(ctx);
}

static void powers(void)
{
    dl_context *ctx = dl_create(NULL);
    double worst = 0;
    for (int i = 0; i < 2000; i++) {
        float x = uniform(0.001f, 30), y = uniform(-8, 8), out;
        out = (float)dl_item(dl_pow(dl_input(ctx, DL_F32, DL_SHAPE(1), &x), dl_input(ctx, DL_F32, DL_SHAPE(1), &y)));
        worst = fmax(worst, ulps(out, pow((double)x, (double)y)));
        dl_end(ctx);
    }
    CHECK(worst <= 0.51, "pow: %.2f ulp", worst);
    static const double pairs[][2] = { { 0, 0 }, { 0, 2 }, { 0, -1 }, { -2, 3 }, { -2, 2 }, { -8, 0.5 }, { 1, 1e9 }, { 2, -149 }, { -0.0, 3 }, { 5, 1 } };
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++)
        CHECK(ulps((float)inside_pow(pairs[i][0], pairs[i][1]), pow(pairs[i][0], pairs[i][1])) <= 1, "pow(%g, %g) = %g", pairs[i][0], pairs[i][1], inside_pow(pairs[i][0], pairs[i][1]));
    for (int i = 0; i < 20000; i++) {
        double x = (double)uniform(-700, 700), p = (double)uniform(0, 1e6f);
        CHECK(fabs(inside_exp(x) / exp(x) - 1) < 1e-15, "exp_d(%g)", x);
        CHECK(p == 0 || fabs(inside_log(p) - log(p)) <= 1e-15 * fmax(1, fabs(log(p))), "log_d(%g)", p);
        CHECK(fabs(inside_sin(x, 0) - sin(x)) < 4e-16 && fabs(inside_sin(x, 1) - cos(x)) < 4e-16, "sin_d(%g)", x);
    }
    dl_destroy(ctx);
}

/* Random bit patterns, and triples whose product lies next to the middle between two floats, where rounding twice shows. */
static void fused_multiply_add(void)
{
    for (int i = 0; i < 3000000; i++) {
        float a = inside_float(next() ^ next() >> 16), b = inside_float(next() ^ next() >> 16), c = inside_float(next() ^ next() >> 16);
        if (i & 1) {
            a = uniform(1, 2), b = uniform(1, 2);
            c = (float)((double)a * b) * ldexpf(1, (int)(next() >> 27) - 30);
            if (i & 2) c = -c;
        }
        float got = inside_fma(a, b, c), want = fmaf(a, b, c);
        if (memcmp(&got, &want, 4) && (got == got || want == want)) {
            CHECK(false, "fma(%a, %a, %a) = %a, not %a", (double)a, (double)b, (double)c, (double)got, (double)want);
            return;
        }
    }
}

static float canonical_dot(const float *a, const float *b, size_t k, size_t stride_b)
{
    float total = 0;
    for (size_t k0 = 0; k0 < k; k0 += 256) {
        float p = 0;
        for (size_t i = k0; i < k && i < k0 + 256; i++) p = fmaf(a[i], b[i * stride_b], p);
        total = k0 ? total + p : p;
    }
    return total;
}

static float canonical_sum(const float *x, size_t n)
{
    float part[4096];
    size_t chunks = 0;
    for (size_t c = 0; c < n; c += 4096) {
        float lane[64] = { 0 };
        for (size_t i = c; i < n && i < c + 4096; i++) lane[(i - c) % 64] += x[i];
        for (int h = 32; h; h /= 2)
            for (int l = 0; l < h; l++) lane[l] += lane[l + h];
        part[chunks++] = lane[0];
    }
    return chunks == 0 ? 0 : chunks == 1 ? part[0] : canonical_sum(part, chunks);
}

static void canonical_rules(void)
{
    enum { MAX = 600000 };
    static float a[MAX], b[MAX], y[MAX];
    static const int shapes[][3] = { { 1, 1, 1 }, { 7, 5, 3 }, { 6, 16, 256 }, { 13, 33, 257 }, { 97, 65, 64 }, { 5, 9, 1000 }, { 100, 3, 600 }, { 2, 4, 0 } };
    for (int i = 0; i < MAX; i++) a[i] = uniform(-1, 1), b[i] = uniform(-1, 1);
    for (int level = 0; level < INSIDE_LEVELS; level++) {
        if (!inside_level(level)) continue;
        dl_config c;
        memset(&c, 0, sizeof c);
        c.simd = inside_level(level);
        c.threads = 2;
        dl_context *ctx = dl_create(&c);
        for (size_t s = 0; s < sizeof shapes / sizeof *shapes; s++) {
            int m = shapes[s][0], n = shapes[s][1], k = shapes[s][2];
            CHECK(dl_read(dl_matmul(dl_borrow(ctx, DL_F32, DL_SHAPE(m, k), a), dl_borrow(ctx, DL_F32, DL_SHAPE(k, n), b)), y, (size_t)(m * n)), "%s", dl_error(ctx));
            for (int i = 0; i < m; i++)
                for (int j = 0; j < n; j++) CHECK(y[i * n + j] == canonical_dot(a + i * k, b + j, (size_t)k, (size_t)n), "matmul %d x %d x %d breaks the rule of blocks of 256 at [%d,%d]", m, n, k, i, j);
            dl_end(ctx);
        }
        static const int lengths[] = { 0, 1, 63, 64, 65, 4095, 4096, 4097, 9000, 70000, 262144, 262145, 600000 };
        for (size_t s = 0; s < sizeof lengths / sizeof *lengths; s++) {
            float got = (float)dl_item(dl_sum(dl_borrow(ctx, DL_F32, DL_SHAPE(lengths[s]), a)));
            float want = canonical_sum(a, (size_t)lengths[s]);
            CHECK(got == want, "the sum of %d numbers breaks the rule of lanes", lengths[s]);
            CHECK(inside_sum(level, a, (size_t)lengths[s]) == want, "the sum of %d numbers in a row breaks the rule of lanes", lengths[s]);
            dl_end(ctx);
        }
        dl_destroy(ctx);
    }
}

int main(void)
{
    RUN(elementary);
    RUN(special_values);
    RUN(powers);
    RUN(fused_multiply_add);
    RUN(canonical_rules);
    return REPORT();
}
