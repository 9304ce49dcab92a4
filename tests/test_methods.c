/* The learning methods: poolings of bags against PyTorch and, where |z| is large, against the textbook formulas with 1500 digits
   (tools/gold_methods.py); tasks weighted by their uncertainty; bags and tiles as data. */
#include "../dltrain.h"
#include "test.h"
#include "numbers.h"
#include "gold_methods.h"
enum { BAGS = 4, ROWS = 12, CLASSES = 2 };

static void near(const char *what, const float *got, const double *want, int n, double tolerance)
{
    for (int i = 0; i < n; i++)
        CHECK(fabs(got[i] - want[i]) <= tolerance * fmax(1, fabs(want[i])), "%s at %d: %.9g, not %.9g", what, i, got[i], want[i]);
}

static bool fails_with(dl_context *c, const char *a, const char *b)
{
    bool ok = dl_failed(c) && strstr(dl_error(c), a) && strstr(dl_error(c), b);
    CHECK(ok, "the error is '%s', which lacks '%s' or '%s'", dl_error(c), a, b);
    dl_clear_error(c);
    return ok;
}

/* ---- poolings ---- */
static void pooling(const char *set, const float *logits, const gold_pooling *gold)
{
    static const char *const name[] = { "max", "mean", "noisy-OR", "ISR", "generalised mean", "LSE", "noisy-AND" };
    for (int k = 0; k <= DL_MIL_NOISY_AND; k++) {
        char what[64];
        float y[BAGS * CLASSES], dz[ROWS * CLASSES], db[CLASSES];
        dl_context *c = dl_create(&(dl_config){ .threads = 1, .eager = k % 2 == 1 });
        dl_tensor x[2] = { dl_variable(c, DL_SHAPE(ROWS, CLASSES), logits), dl_variable(c, DL_SHAPE(CLASSES), gold_threshold) }, dx[2];
        dl_tensor offsets = dl_input(c, DL_I32, DL_SHAPE(BAGS + 1), gold_offsets);
        dl_tensor p = dl_keep(dl_mil_pool(x[0], offsets, &(dl_mil_desc){ .pooling = (dl_mil_pooling)k, .threshold = x[1] }));
        dl_tensor slope = dl_input(c, DL_F32, DL_SHAPE(BAGS, CLASSES), gold_slope);
        bool last = k == DL_MIL_NOISY_AND, ok = dl_grad(dl_sum(dl_mul(p, slope)), x, last ? 2 : 1, dx);
        CHECK(ok && dl_read(p, y, 8) && dl_read(dx[0], dz, 24) && (!last || dl_read(dx[1], db, 2)), "%s: %s", name[k], dl_error(c));
        if (!dl_failed(c)) {
            snprintf(what, sizeof what, "%s %s", set, name[k]);
            near(what, y, gold[k].y, 8, 2e-6);
            snprintf(what, sizeof what, "%s %s: gradient", set, name[k]);
            near(what, dz, gold[k].dz, 24, 2e-6);
            if (last) near("the gradient of the threshold", db, gold[k].db, 2, 2e-6);
        }
        dl_destroy(c);
    }
}
static void pools_as_pytorch(void) { pooling("plain", gold_plain_z, gold_plain); }
static void pools_extreme_logits(void) { pooling("far", gold_far_z, gold_far); }

/* An empty segment gives -inf, as PyTorch's logsumexp, and the others their gradient, which is the softmax. */
static void logsumexp_of_segments(void)
{
    static const float x[5] = { 1000, 999, -2000, 0, 0 };
    static const int32_t offset[5] = { 0, 2, 2, 3, 5 };
    float y[4], g[5], want[5];
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_tensor v = dl_variable(c, DL_SHAPE(5), x), o = dl_input(c, DL_I32, DL_SHAPE(5), offset), dx;
    dl_tensor lse = dl_keep(dl_segment_logsumexp(v, o)), softmax = dl_keep(dl_segment_softmax(v, o));
    CHECK(dl_grad(dl_sum(dl_slice(lse, 0, 0, 1, 1)), &v, 1, &dx) && dl_read(dx, g, 5), "%s", dl_error(c));
    CHECK(dl_read(lse, y, 4) && dl_read(softmax, want, 5), "%s", dl_error(c));
    CHECK(fabs(y[0] - 1000.3132617) < 1e-4 && y[1] == -INFINITY && y[2] == -2000 && fabs(y[3] - log(2)) < 1e-6, "%g %g %g %g", y[0], y[1], y[2], y[3]);
    for (int i = 0; i < 5; i++) CHECK(fabs(g[i] - (i < 2 ? want[i] : 0)) < 1e-6, "gradient %g at %d", g[i], i);
    dl_destroy(c);
}

/* r and a far from their defaults: P of bags of equal instances is p for all means, and noisy-AND of m = b is about one half. */
static void parameters_of_poolings(void)
{
    static const float z[4] = { 0.75f, 0.75f, -2, -2 }, half = 0.5f, zero[2] = { 0, 0 };
    static const int32_t offset[3] = { 0, 2, 4 };
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    for (int k = 0; k < 4; k++)
        for (int pooling = DL_MIL_GENERALISED_MEAN; pooling <= DL_MIL_LSE; pooling++) {
            static const float r[] = { 0.01f, 1, 30, 1000 };
            float y[2] = { 0, 0 };
            dl_tensor x = dl_input(c, DL_F32, DL_SHAPE(4), z), o = dl_input(c, DL_I32, DL_SHAPE(3), offset);
            dl_read(dl_mil_pool(x, o, &(dl_mil_desc){ .pooling = (dl_mil_pooling)pooling, .r = r[k] }), y, 2);
            CHECK(fabs(y[0] - 0.75) < 1e-3 && fabs(y[1] + 2) < 1e-3, "r %g: %g %g, not 0.75 -2", r[k], y[0], y[1]);
            dl_end(c);
        }
    dl_tensor b = dl_input(c, DL_F32, DL_SCALAR, &half), x = dl_input(c, DL_F32, DL_SHAPE(2), zero);
    dl_tensor o = dl_input(c, DL_I32, DL_SHAPE(2), ((int32_t[]){ 0, 2 }));
    double y = dl_item(dl_mil_pool(x, o, &(dl_mil_desc){ .pooling = DL_MIL_NOISY_AND, .a = 100, .threshold = b }));
    CHECK(fabs(y) < 1e-4, "noisy-AND at its threshold: logit %g", y);
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
}

static void attention_pools_as_pytorch(void)
{
    for (int gated = 0; gated < 2; gated++) {
        static const char *const name[] = { "mil.w.weight", "mil.V.weight", "mil.V.bias", "mil.U.weight", "mil.U.bias" };
        static const size_t size[] = { 4, 12, 4, 12, 4 };
        float y[12], a[12], dh[36];
        dl_context *c = dl_create(&(dl_config){ .threads = 1 });
        dl_param_info v;
        for (int pass = 0; pass < 2 && !dl_failed(c); pass++) { /* the first creates the parameters */
            dl_tensor h = dl_variable(c, DL_SHAPE(ROWS, 3), numbers(36, 1)), weights, dx;
            dl_tensor offsets = dl_input(c, DL_I32, DL_SHAPE(BAGS + 1), gold_offsets);
            dl_tensor p = dl_mil_attention(h, offsets, "mil", &(dl_mil_attention_desc){ .hidden = 4, .gated = gated }, &weights);
            dl_tensor loss = dl_sum(dl_mul(dl_keep(p), dl_input(c, DL_F32, DL_SHAPE(BAGS, 3), numbers(12, 9))));
            dl_keep(weights);
            dl_grad(loss, &h, 1, &dx);
            dl_read(p, y, 12), dl_read(weights, a, 12), dl_read(dx, dh, 36);
            dl_backward(loss);
            for (int k = 0; pass == 0 && k < (gated ? 5 : 3); k++) dl_param_set(c, name[k], numbers(size[k], 2 + k), size[k]);
            if (pass == 0) dl_zero_grad(c);
        }
        CHECK(!dl_failed(c) && dl_param_count(c) == (gated ? 5 : 3), "%s", dl_error(c));
        near("y", y, gated ? gold_gated_y : gold_attention_y, 12, 2e-6);
        near("weights", a, gated ? gold_gated_a : gold_attention_a, 12, 2e-6);
        near("dh", dh, gated ? gold_gated_dh : gold_attention_dh, 36, 2e-6);
        CHECK(dl_param_find(c, "mil.V.weight", &v), "%s", dl_error(c));
        if (!dl_failed(c)) near("dV", v.grad, gated ? gold_gated_dv : gold_attention_dv, 12, 2e-6);
        dl_destroy(c);
    }
}

static void pooling_errors(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
#define Z dl_input(c, DL_F32, DL_SHAPE(3, 2), numbers(6, 1))
#define O(...) dl_input(c, DL_I32, DL_SHAPE((dl_index)(sizeof((int32_t[]){ __VA_ARGS__ }) / sizeof(int32_t))), ((int32_t[]){ __VA_ARGS__ }))
    dl_item(dl_sum(dl_mil_pool(Z, O(0, 2, 2, 3), &(dl_mil_desc){ .pooling = DL_MIL_MEAN })));
    fails_with(c, "dl_mil_pool: bag 1 has no instances", "are 2");
    dl_item(dl_sum(dl_mil_attention(Z, O(0, 0, 3), "a", &(dl_mil_attention_desc){ .hidden = 2 }, NULL)));
    fails_with(c, "dl_mil_attention: bag 0", "no instances");
    dl_mil_pool(Z, O(0, 3), &(dl_mil_desc){ .pooling = DL_MIL_NOISY_AND });
    fails_with(c, "dl_mil_pool", "threshold");
    dl_mil_pool(Z, O(0, 3), &(dl_mil_desc){ .pooling = DL_MIL_NOISY_AND, .threshold = dl_mil_threshold(c, "t", 3) });
    fails_with(c, "threshold", "[3]");
    dl_mil_pool(Z, O(0, 3), &(dl_mil_desc){ .pooling = DL_MIL_LSE, .r = -1 });
    fails_with(c, "positive", "-1");
    dl_mil_pool(Z, O(0, 3), &(dl_mil_desc){ .pooling = (dl_mil_pooling)9 });
    fails_with(c, "no pooling", "9");
    dl_mil_attention(Z, O(0, 3), "b", &(dl_mil_attention_desc){ .hidden = 0 }, NULL);
    fails_with(c, "dl_mil_attention", "hidden");
    dl_mil_threshold(c, "t", 0);
    fails_with(c, "dl_mil_threshold", "0 classes");
    CHECK(!dl_ok(dl_mil_pool((dl_tensor){ 0 }, O(0, 3), &(dl_mil_desc){ .pooling = DL_MIL_MAX })) && !dl_failed(c), "a failed tensor");
    dl_destroy(c);
}

/* ---- tasks ---- */
static double parameter(dl_context *c, const char *name)
{
    dl_param_info p;
    return dl_param_find(c, name, &p) && p.value ? (double)*p.value : NAN;
}

static dl_tensor number(dl_context *c, double value) { return dl_full(c, DL_SCALAR, (float)value); }

static void variances_reach_the_losses(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_optimizer *opt = dl_adam(c, &(dl_adam_desc){ .lr = 0.02f });
    for (int step = 0; step < 3000; step++) {
        if (step == 1500) dl_set_lr(opt, 0.002);
        dl_task task[] = { { "a", number(c, 4), DL_TASK_SQUARED, 0 }, { "b", number(c, 0.25), DL_TASK_SQUARED, 0 },
            { "c", number(c, 3), DL_TASK_CLASSES, 0 }, { "d", number(c, 0.5), DL_TASK_ABSOLUTE, 0 } };
        dl_backward(dl_uncertainty_loss(task, 4));
        dl_step(opt);
    }
    double a = exp(parameter(c, "a.log_variance")), b = exp(parameter(c, "b.log_variance"));
    double k = exp(parameter(c, "c.log_variance")), d = exp(parameter(c, "d.log_variance"));
    CHECK(fabs(a - 4) < 1e-4 && fabs(b - 0.25) < 1e-4, "variances %g and %g for losses of 4 and 0.25", a, b);
    CHECK(fabs(k - 6) < 1e-4, "variance %g for a cross-entropy of 3: its optimum is 6", k);
    CHECK(fabs(d - 0.5) < 1e-4, "scale %g for an absolute error of 0.5", d);
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
}

/* The value is the negative log-likelihood, but for constants: of a Gaussian, and of a Laplace distribution. */
static void value_of_the_loss(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_task task[] = { { "a", number(c, 3), DL_TASK_SQUARED, 4 }, { "b", number(c, 3), DL_TASK_CLASSES, 2 },
        { "c", dl_reshape(number(c, 3), DL_SHAPE(1, 1)), DL_TASK_ABSOLUTE, 2 } };
    double y = dl_item(dl_uncertainty_loss(task, 3)), want = 3.0 / 8 + log(4) / 2 + 3.0 / 4 + log(4) / 2 + 3.0 / 2 + log(2);
    CHECK(fabs(y - want) < 1e-5, "%.9g, not %.9g", y, want);
    dl_tensor none = dl_uncertainty_loss(NULL, 0);
    CHECK(!dl_ok(none) && !dl_failed(c), "no tasks: %s", dl_error(c));
    dl_destroy(c);
}

static void without_the_logarithm_they_grow(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_optimizer *opt = dl_sgd(c, &(dl_sgd_desc){ .lr = 0.1f });
    double last[2] = { -1e-9, -1e-9 };
    for (int step = 0; step < 200; step++) {
        static const dl_param_desc t = { .shape = { 0 }, .init = DL_INIT_CONSTANT };
        dl_task task[] = { { "a", number(c, 4), DL_TASK_SQUARED, 0 }, { "b", number(c, 0.25), DL_TASK_CLASSES, 0 } };
        dl_tensor total = dl_uncertainty_loss(task, 2);
        dl_tensor log_terms = dl_add(dl_parameter(c, "a.log_variance", &t), dl_parameter(c, "b.log_variance", &t));
        dl_backward(dl_sub(total, dl_mul_scalar(log_terms, 0.5f)));
        dl_step(opt);
        double now[2] = { parameter(c, "a.log_variance"), parameter(c, "b.log_variance") };
        CHECK(now[0] > last[0] && now[1] > last[1], "step %d: from %g %g to %g %g", step, last[0], last[1], now[0], now[1]);
        memcpy(last, now, sizeof last);
    }
    CHECK(!dl_failed(c), "%s", dl_error(c));
    dl_destroy(c);
}

/* One shared layer, two regressions; the first loss is in units `unit` times as small, so unit^2 times as large, and the second has
   noise in its targets. Final shared weights and weights of the tasks, in the first unit. */
static void two_tasks(double unit, double noise, float *shared, double *weight)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1, .seed = 3 });
    dl_optimizer *opt = dl_adam(c, &(dl_adam_desc){ .lr = 0.01f });
    dl_param_info w;
    for (int step = 0; step < 400 && !dl_failed(c); step++) {
        dl_tensor x = dl_input(c, DL_F32, DL_SHAPE(32, 4), numbers(128, step));
        dl_tensor h = dl_tanh(dl_linear(x, "shared", 6)), y[2] = { dl_linear(h, "a", 1), dl_linear(h, "b", 1) };
        dl_tensor target = dl_mul_scalar(dl_slice(x, 1, 0, 1, 1), 0.5f), other = dl_slice(x, 1, 1, 2, 1);
        if (noise != 0) other = dl_add(other, dl_mul_scalar(dl_randn(c, DL_SHAPE(32, 1)), (float)noise));
        dl_task task[] = { { "first", dl_mul_scalar(dl_mse(y[0], target, DL_MEAN), (float)(unit * unit)), DL_TASK_SQUARED,
                               (float)(0.25 * unit * unit) },
            { "second", dl_mse(y[1], other, DL_MEAN), DL_TASK_SQUARED, 0.25f } };
        dl_backward(dl_uncertainty_loss(task, 2));
        dl_step(opt);
    }
    CHECK(!dl_failed(c) && dl_param_find(c, "shared.weight", &w), "%s", dl_error(c));
    if (!dl_failed(c)) memcpy(shared, w.value, 24 * sizeof(float));
    weight[0] = exp(-parameter(c, "first.log_variance")) * unit * unit;
    weight[1] = exp(-parameter(c, "second.log_variance"));
    dl_destroy(c);
}

static void units_do_not_matter(void)
{
    float one[24], other[24];
    double weight[2], also[2];
    two_tasks(1, 0, one, weight);
    for (int k = 0; k < 2; k++) {
        two_tasks(k ? 128 : 1 / 128.0, 0, other, also);
        for (int i = 0; i < 24; i++)
            CHECK(fabs(one[i] - other[i]) < 1e-5, "weight %d is %g in one unit, %g in the other", i, one[i], other[i]);
        for (int i = 0; i < 2; i++)
            CHECK(fabs(also[i] / weight[i] - 1) < 1e-4, "task %d has weight %g in one unit, %g in the other", i, weight[i], also[i]);
    }
}

static void label_noise_lowers_the_weight(void)
{
    float shared[24];
    double weight[3][2];
    for (int k = 0; k < 3; k++) two_tasks(1, 0.5 * k, shared, weight[k]);
    CHECK(weight[1][1] < weight[0][1] / 2 && weight[2][1] < weight[1][1] / 2, "weights %g %g %g under noise 0, 0.5, 1", weight[0][1],
        weight[1][1], weight[2][1]);
    CHECK(weight[1][0] > 2 * weight[1][1], "the task without noise has weight %g, the other %g", weight[1][0], weight[1][1]);
}

static void task_errors(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_task task = { "a", dl_full(c, DL_SHAPE(2), 1), DL_TASK_SQUARED, 0 };
    dl_uncertainty_loss(&task, 1);
    fails_with(c, "dl_uncertainty_loss: the loss of task 0", "[2]");
    task.loss = number(c, 1), task.kind = (dl_task_kind)7;
    dl_uncertainty_loss(&task, 1);
    fails_with(c, "no kind", "7");
    task.loss = number(c, 1), task.kind = DL_TASK_SQUARED, task.start = -2;
    dl_uncertainty_loss(&task, 1);
    fails_with(c, "positive", "-2");
    task.loss = number(c, 1), task.start = 0, task.name = NULL;
    dl_uncertainty_loss(&task, 1);
    fails_with(c, "dl_uncertainty_loss", "NULL");
    task.name = "a", task.loss = (dl_tensor){ 0 };
    CHECK(!dl_ok(dl_uncertainty_loss(&task, 1)) && !dl_failed(c), "a failed loss");
    dl_destroy(c);
}

/* ---- bags and tiles ---- */
static const uint8_t pixels[5][2] = { { 0, 255 }, { 10, 20 }, { 30, 40 }, { 50, 60 }, { 70, 80 } };

static void bags_become_batches(void)
{
    static const size_t offset[] = { 0, 2, 3, 6 }, row[] = { 4, 0, 1, 2, 0, 3 }, index[] = { 2, 0 };
    static const int want[] = { 2, 0, 3, 4, 0 };
    dl_context *c = dl_create(&(dl_config){ .threads = 1 });
    dl_bags bags = { .dtype = DL_U8, .shape = DL_SHAPE(2), .x = pixels, .instances = 5, .count = 3, .offset = offset, .row = row };
    dl_tensor x, offsets;
    float got[10];
    int32_t at[3];
    CHECK(dl_bags_input(c, &bags, index, 2, &x, &offsets), "%s", dl_error(c));
    CHECK(dl_read(x, got, 10) && dl_read(offsets, at, 3), "%s", dl_error(c));
    CHECK(at[0] == 0 && at[1] == 3 && at[2] == 5, "offsets %d %d %d", at[0], at[1], at[2]);
    for (int i = 0; i < 10; i++) CHECK(got[i] == (float)pixels[want[i / 2]][i % 2] / 255, "%g at %d", got[i], i);
    dl_end(c);
    static const int32_t whole[5][2] = { { 1, 2 }, { 3, 4 }, { 5, 6 }, { 7, 8 }, { 9, 10 } };
    static const size_t first = 1;
    int32_t same[2];
    bags.dtype = DL_I32, bags.x = whole, bags.row = NULL;
    CHECK(dl_bags_input(c, &bags, &first, 1, &x, &offsets) && dl_read(x, same, 2) && same[0] == 5 && same[1] == 6, "%s", dl_error(c));
    dl_end(c);
    CHECK(dl_bags_input(c, &bags, NULL, 0, &x, &offsets) && dl_dim(x, 0) == 0 && dl_dim(offsets, 0) == 1, "no bags: %s", dl_error(c));
    dl_end(c);
    static const size_t beyond = 3;
    dl_bags_input(c, &bags, &beyond, 1, &x, &offsets);
    fails_with(c, "no bag 3", "of 3");
    static const size_t third = 2;
    dl_bags_input(c, &bags, &third, 1, &x, &offsets);
    fails_with(c, "instance 5", "of 5");
    bags.offset = (const size_t[]){ 0, 2, 2, 5 };
    dl_bags_input(c, &bags, &first, 1, &x, &offsets);
    fails_with(c, "bag 1", "no instances");
    bags.x = NULL;
    dl_bags_input(c, &bags, &third, 1, &x, &offsets);
    fails_with(c, "dl_bags_input", "NULL");
    CHECK(!dl_ok(x) && !dl_ok(offsets), "after an error there are tensors");
    dl_destroy(c);
}

static void images_become_patches(void)
{
    enum { C = 2, H = 5, W = 7 };
    uint8_t image[C * H * W], patch[C * 9], seen[C * H * W] = { 0 };
    for (int i = 0; i < C * H * W; i++) image[i] = (uint8_t)i;
    dl_tiling t = { .image = DL_SHAPE(C, H, W), .size = 3, .stride = 3 };
    CHECK(dl_tile_count(&t) == 6, "%zu patches", dl_tile_count(&t));
    for (size_t k = 0; k < 6; k++) {
        static const int top[] = { 0, 0, 0, 2, 2, 2 }, left[] = { 0, 3, 4, 0, 3, 4 };
        dl_index at[2];
        CHECK(dl_tile_at(&t, k, at, at + 1) && at[0] == top[k] && at[1] == left[k], "patch %zu at %td %td", k, at[0], at[1]);
        CHECK(dl_tile_copy(&t, k, image, patch), "patch %zu", k);
        for (int i = 0; i < C * 9; i++) {
            int from = (i / 9 * H + top[k] + i / 3 % 3) * W + left[k] + i % 3;
            CHECK(patch[i] == from, "patch %zu has %d at %d, not %d", k, patch[i], i, from);
            seen[from] = 1;
        }
    }
    CHECK(!memchr(seen, 0, sizeof seen), "a pixel is in no patch");
    dl_index at[2];
    CHECK(!dl_tile_at(&t, 6, at, at + 1) && !dl_tile_copy(&t, 6, image, patch), "a seventh patch");
    t.size = 6;
    CHECK(dl_tile_count(&t) == 0, "patches larger than the image");
    t.size = 5, t.stride = 0;
    CHECK(dl_tile_count(&t) == 0, "a stride of 0");
}

int main(void)
{
#ifdef ONE_WAY /* on a simulated GPU, where learning takes long */
    const bool learns = false;
#else
    const bool learns = true;
#endif
    RUN(pools_as_pytorch);
    RUN(pools_extreme_logits);
    RUN(logsumexp_of_segments);
    RUN(parameters_of_poolings);
    RUN(attention_pools_as_pytorch);
    RUN(pooling_errors);
    RUN(value_of_the_loss);
    if (learns) {
        RUN(variances_reach_the_losses);
        RUN(without_the_logarithm_they_grow);
        RUN(units_do_not_matter);
        RUN(label_noise_lowers_the_weight);
    }
    RUN(task_errors);
    RUN(bags_become_batches);
    RUN(images_become_patches);
    return REPORT();
}
