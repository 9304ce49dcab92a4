/* Gradient accumulation: the numbers of one large batch, the memory of a small one. */
#include "../dltrain.h"
#include "test.h"

enum { SAMPLES = 24, FEATURES = 6, CLASSES = 4, MOST = 4096 };

static dl_context *context(void)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.threads = 1;
    c.seed = 5; /* parameters depend on the seed and their name: those of two contexts agree */
    return dl_create(&c);
}

static void destroy(dl_context *ctx)
{
    CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
    dl_destroy(ctx);
}

static dl_real *numbers(size_t n) /* in [-1, 1) */
{
    static dl_real buffer[256 * 28 * 28];
    uint32_t state = 99;
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        buffer[i] = (dl_real)(state >> 16) / 32768 - 1;
    }
    return buffer;
}

static bool is_ignored(int sample) { return sample % 3 == 1 || (sample >= 12 && sample < 15); }

/* Samples from..from+n-1; the loss is a mean over the `count` that are not ignored. */
static dl_tensor loss_of(dl_context *ctx, int from, int n, bool ignoring, dl_reduction reduction, size_t *count)
{
    int32_t y[SAMPLES];
    dl_cross_entropy_desc d;
    size_t valid = 0;
    memset(&d, 0, sizeof d);
    d.reduction = reduction;
    for (int i = 0; i < n; i++) {
        bool skip = ignoring && is_ignored(from + i);
        y[i] = skip ? -100 : (from + i) * (from + i + 3) / 2 % CLASSES;
        valid += !skip;
    }
    if (count) *count = valid;
    dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(n, FEATURES), numbers(SAMPLES * FEATURES) + from * FEATURES);
    x = dl_linear(dl_tanh(dl_linear(x, "fc1", 7)), "fc2", CLASSES);
    return dl_cross_entropy_ex(x, dl_input(ctx, DL_I32, DL_SHAPE(n), y), &d);
}

static dl_tensor mean_of(dl_context *ctx, int from, int n) { return loss_of(ctx, from, n, false, DL_MEAN, NULL); }

static bool backward(dl_tensor loss, const char *pattern, float scale)
{
    dl_backward_desc d;
    memset(&d, 0, sizeof d);
    d.pattern = pattern;
    d.scale = scale;
    return dl_backward_ex(loss, &d);
}

static dl_optimizer *sgd(dl_context *ctx)
{
    dl_sgd_desc d;
    memset(&d, 0, sizeof d);
    d.lr = 0.5f;
    d.momentum = 0.875f;
    d.weight_decay = 0.0625f;
    return dl_sgd(ctx, &d);
}

static dl_accumulator *accumulator(dl_optimizer *o, int steps, dl_accumulation mode, float clip)
{
    dl_accumulator_desc d;
    d.steps = steps;
    d.mode = mode;
    d.clip_norm = clip;
    return dl_accumulator_create(o, &d);
}

/* All gradients (or values), times factor, one after the other. */
static size_t collect(dl_context *ctx, bool values, double factor, double *out)
{
    size_t n = 0;
    dl_param_info p;
    for (int i = 0; i < dl_param_count(ctx); i++) {
        if (!dl_param_get(ctx, i, &p) || p.buffer || n + p.numel > MOST) continue;
        for (size_t k = 0; k < p.numel; k++) out[n++] = values ? (double)p.value[k] : p.has_grad ? factor * (double)p.grad[k] : 0;
    }
    return n;
}

static double distance(const double *a, const double *b, size_t n) /* relative to b, in the Euclidean norm */
{
    double difference = 0, norm = 0;
    for (size_t i = 0; i < n; i++) difference += (a[i] - b[i]) * (a[i] - b[i]), norm += b[i] * b[i];
    return norm > 0 ? sqrt(difference / norm) : difference > 0 ? HUGE_VAL : 0;
}

static double gradient_error(dl_context *ctx, double factor, dl_context *want)
{
    double a[MOST], b[MOST];
    size_t n = collect(ctx, false, factor, a), m = collect(want, false, 1, b);
    return n && n == m ? distance(a, b, n) : NAN;
}

static double value_error(dl_context *ctx, dl_context *want)
{
    double a[MOST], b[MOST];
    size_t n = collect(ctx, true, 1, a), m = collect(want, true, 1, b);
    return n && n == m ? distance(a, b, n) : NAN;
}

/* The relative error of the gradient of a window of micro-batches against that of one batch. */
static double window_error(const int *sizes, int n, dl_accumulation mode, bool ignoring)
{
    dl_context *ctx = context(), *large = context();
    dl_accumulator *a = accumulator(sgd(ctx), mode == DL_EXACT ? n + 1 : n, mode, 0); /* exact: the window stays open to be read */
    size_t count, total = 0;
    int from = 0;
    double error;
    for (int i = 0; i < n; i++) {
        dl_tensor loss = loss_of(ctx, from, sizes[i], ignoring, DL_MEAN, &count);
        if (mode == DL_EXACT || i < n - 1) dl_accumulate(a, loss, count);
        else backward(loss, NULL, 1.0f / (float)n); /* here the window has its true length and would step: what the last one adds */
        CHECK(!dl_accumulator_stepped(a), "stepped at micro-batch %d", i);
        from += sizes[i];
        total += count;
    }
    dl_backward(loss_of(large, 0, from, ignoring, DL_MEAN, NULL));
    error = gradient_error(ctx, mode == DL_EXACT ? 1 / (double)total : 1, large);
    destroy(ctx);
    destroy(large);
    return error;
}

static const int equal[2] = { 4, 4 }, uneven[2] = { 5, 3 }, skewed[3] = { 1, 8, 3 }, many[6] = { 2, 7, 1, 5, 3, 6 };

static void gradients_of_equal_batches(void)
{
    double exact = window_error(equal, 2, DL_EXACT, false), divide = window_error(equal, 2, DL_DIVIDE, false);
    CHECK(exact <= 1e-6, "exact: %g", exact);
    CHECK(divide <= 1e-6, "loss / 2: %g", divide);
}

static void gradients_of_uneven_batches(void)
{
    static const struct { const int *sizes; int n; } all[] = { { uneven, 2 }, { skewed, 3 }, { many, 6 } };
    for (int k = 0; k < 3; k++) {
        double exact = window_error(all[k].sizes, all[k].n, DL_EXACT, false);
        double divide = window_error(all[k].sizes, all[k].n, DL_DIVIDE, false);
        CHECK(exact <= 1e-6, "%d exact: %g", k, exact);
        CHECK(divide > 1e-2, "%d: loss / n should differ, by %g", k, divide);
    }
}

/* Equal batches, but not equally many valid targets; micro-batch 4 of the last has none at all. */
static void gradients_with_ignored_classes(void)
{
    static const int sizes[6] = { 4, 4, 4, 3, 4, 5 };
    for (int n = 2; n <= 6; n++) {
        double exact = window_error(sizes, n, DL_EXACT, true), divide = window_error(sizes, n, DL_DIVIDE, true);
        CHECK(exact <= 1e-6, "%d exact: %g", n, exact);
        CHECK(divide > 1e-2, "%d: loss / n should differ, by %g", n, divide);
    }
}

/* Three epochs of windows, the last of each partial, against the same windows as single batches. */
static void steps_are_those_of_large_batches(void)
{
    static const int sizes[7] = { 3, 5, 1, 4, 4, 2, 3 }; /* windows of 3: 9, 10 and the last with 3 */
    dl_context *ctx = context(), *large = context();
    dl_optimizer *ol = sgd(large);
    dl_accumulator *a = accumulator(sgd(ctx), 3, DL_EXACT, 0);
    for (int epoch = 0; epoch < 3; epoch++) {
        int begin = 0, from = 0;
        for (int i = 0; i < 7; i++) {
            CHECK(dl_accumulate(a, mean_of(ctx, from, sizes[i]), (size_t)sizes[i]), "%s", dl_error(ctx));
            CHECK(dl_accumulator_stepped(a) == (i % 3 == 2), "epoch %d, micro-batch %d: stepped?", epoch, i);
            from += sizes[i];
            if (i == 6) CHECK(dl_accumulator_flush(a) && dl_accumulator_stepped(a), "the flush did not step: %s", dl_error(ctx));
            if (i % 3 != 2 && i != 6) continue;
            dl_backward(mean_of(large, begin, from - begin));
            dl_step(ol);
            begin = from;
            double error = value_error(ctx, large);
            CHECK(error <= 1e-6, "epoch %d, after micro-batch %d: %g", epoch, i, error);
        }
        CHECK(dl_accumulator_flush(a) && !dl_accumulator_stepped(a), "an empty flush steps");
        CHECK(value_error(ctx, large) <= 1e-6, "an empty flush moves");
    }
    destroy(ctx);
    destroy(large);
}

/* In the compatible mode, a flushed window is the sum of loss / steps, as the usual loops have it. */
static void divide_flushes_as_it_is(void)
{
    dl_context *ctx = context(), *large = context();
    dl_optimizer *ol = sgd(large);
    dl_accumulator *a = accumulator(sgd(ctx), 4, DL_DIVIDE, 0);
    for (int i = 0; i < 3; i++) {
        dl_accumulate(a, mean_of(ctx, 0, 4), 4);
        dl_accumulate(a, mean_of(ctx, 4, 4), 4);
        CHECK(!dl_accumulator_stepped(a), "stepped at 2 of 4");
        CHECK(dl_accumulator_flush(a) && dl_accumulator_stepped(a), "%s", dl_error(ctx));
        dl_backward(mean_of(large, 0, 8));
        dl_scale_grad(large, 0.5);
        dl_step(ol);
        CHECK(value_error(ctx, large) <= 1e-6, "window %d: %g", i, value_error(ctx, large));
    }
    destroy(ctx);
    destroy(large);
}

static void explicit_loop(void)
{
    for (int way = 0; way < 2; way++) {
        dl_context *ctx = context(), *large = context();
        dl_optimizer *o = sgd(ctx), *ol = sgd(large);
        for (int i = 0; i < 3; i++) {
            size_t total = 0, count;
            for (int k = 0, from = 0; k < 3; from += skewed[k++]) {
                dl_tensor loss = loss_of(ctx, from, skewed[k], true, way ? DL_MEAN : DL_SUM, &count);
                if (way) backward(loss, NULL, (float)count);
                else dl_backward(loss);
                total += count;
            }
            dl_scale_grad(ctx, 1 / (double)total);
            dl_backward(loss_of(large, 0, 12, true, DL_MEAN, NULL));
            CHECK(gradient_error(ctx, 1, large) <= 1e-6, "gradient: %g", gradient_error(ctx, 1, large));
            dl_step(o);
            dl_step(ol);
            CHECK(value_error(ctx, large) <= 1e-6, "values: %g", value_error(ctx, large));
        }
        destroy(ctx);
        destroy(large);
    }
}

static void windows_of_one(void)
{
    for (int steps = 0; steps < 2; steps++) {
        dl_context *ctx = context(), *plain = context();
        dl_optimizer *op = sgd(plain);
        dl_accumulator *a = accumulator(sgd(ctx), steps, DL_EXACT, 0);
        for (int i = 0; i < 3; i++) {
            CHECK(dl_accumulate(a, mean_of(ctx, i, 5), 5) && dl_accumulator_stepped(a), "%s", dl_error(ctx));
            dl_backward(mean_of(plain, i, 5));
            dl_step(op);
            CHECK(value_error(ctx, plain) == 0, "differs by %g", value_error(ctx, plain));
        }
        destroy(ctx);
        destroy(plain);
    }
}

/* Where every target of a window is ignored nothing moves: not by momentum or weight decay either. */
static void windows_without_samples(void)
{
    for (int steps = 1; steps < 3; steps++) {
        dl_context *ctx = context(), *before = context();
        dl_accumulator *a = accumulator(sgd(ctx), steps, DL_EXACT, 0), *b = accumulator(sgd(before), 1, DL_EXACT, 0);
        for (int i = 0; i < steps; i++) dl_accumulate(a, mean_of(ctx, 0, 4), 4);
        dl_accumulate(b, mean_of(before, 0, 4), 4);
        for (int i = 0; i < steps; i++) {
            size_t count;
            dl_tensor loss = loss_of(ctx, 12, 3, true, DL_MEAN, &count);
            CHECK(count == 0 && dl_accumulate(a, loss, count), "%s", dl_error(ctx));
        }
        CHECK(value_error(ctx, before) <= 1e-6, "windows of %d: moved by %g", steps, value_error(ctx, before));
        destroy(ctx);
        destroy(before);
    }
}

/* A micro-batch of no samples adds nothing, whatever its loss says; the loss can be read afterwards as after any other. */
static void micro_batches_without_samples(void)
{
    for (int place = 0; place < 3; place++) {
        dl_context *ctx = context(), *plain = context();
        dl_optimizer *op = sgd(plain);
        dl_accumulator *a = accumulator(sgd(ctx), 3, DL_EXACT, 0);
        for (int i = 0, from = 0; i < 3; i++, from += 3) {
            size_t count = i == place ? 0 : 3;
            dl_tensor loss = mean_of(ctx, count ? from : 20, 3);
            dl_accumulate(a, loss, count);
            double item = dl_item(loss);
            CHECK(item > 0 && item < 10, "micro-batch %d of %d samples: loss %g, %s", i, (int)count, item, dl_error(ctx));
            if (!count) from -= 3;
        }
        dl_backward(mean_of(plain, 0, 6));
        dl_step(op);
        CHECK(dl_accumulator_stepped(a) && value_error(ctx, plain) <= 1e-6, "at %d: differs by %g", place, value_error(ctx, plain));
        destroy(ctx);
        destroy(plain);
    }
}

static void clips_the_whole_window(void)
{
    dl_context *ctx = context(), *large = context();
    dl_optimizer *ol = sgd(large);
    dl_accumulator *a = accumulator(sgd(ctx), 2, DL_EXACT, 0.0625f);
    for (int i = 0; i < 3; i++) {
        dl_accumulate(a, mean_of(ctx, 0, 5), 5);
        dl_accumulate(a, mean_of(ctx, 5, 3), 3);
        dl_backward(mean_of(large, 0, 8));
        CHECK(dl_clip_grad_norm(large, 0.0625, NULL) && dl_grad_norm(large) > 0.07, "nothing to clip");
        dl_step(ol);
        CHECK(value_error(ctx, large) <= 1e-6, "window %d: %g", i, value_error(ctx, large));
    }
    destroy(ctx);
    destroy(large);
}

/* An optimizer that trains a part of the net: the rest counts neither in the clipping of this window nor in that of the next. */
static void of_a_selection(void)
{
    for (int clip = 0; clip < 2; clip++) {
        dl_context *ctx = context(), *frozen = context();
        dl_optimizer *o = sgd(ctx), *of = sgd(frozen);
        dl_optimizer_select(o, "fc2.*");
        mean_of(frozen, 0, 4);
        dl_end(frozen);
        dl_freeze(frozen, "fc1.*", true);
        dl_accumulator *a = accumulator(o, 2, DL_EXACT, clip ? 0.0625f : 0), *af = accumulator(of, 2, DL_EXACT, clip ? 0.0625f : 0);
        for (int i = 0; i < 4; i++) {
            dl_accumulate(a, mean_of(ctx, 4 * i, 4), 4);
            dl_accumulate(af, mean_of(frozen, 4 * i, 4), 4);
            double error = value_error(ctx, frozen);
            CHECK(error <= 1e-6, "clipping %d, micro-batch %d: selecting some and freezing the others differ by %g", clip, i, error);
        }
        destroy(ctx);
        destroy(frozen);
    }
}

/* Two accumulators with a part of the net each, in turns: neither sees the losses of the other. */
static void of_two_selections(void)
{
    dl_context *ctx = context(), *want = context();
    dl_optimizer *o[2], *ow[2];
    dl_accumulator *a[2];
    for (int i = 0; i < 2; i++) {
        o[i] = sgd(ctx);
        ow[i] = sgd(want);
        dl_optimizer_select(o[i], i ? "fc2.*" : "fc1.*");
        dl_optimizer_select(ow[i], i ? "fc2.*" : "fc1.*");
        a[i] = accumulator(o[i], 2, DL_EXACT, 0);
    }
    for (int i = 0; i < 8; i++) {
        dl_accumulate(a[i % 2], mean_of(ctx, 2 * i, 4), 4);
        backward(mean_of(want, 2 * i, 4), i % 2 ? "fc2.*" : "fc1.*", 0.5f);
        if (i % 4 > 1) dl_step(ow[i % 2]);
        CHECK(value_error(ctx, want) <= 1e-6, "micro-batch %d: %g", i, value_error(ctx, want));
    }
    destroy(ctx);
    destroy(want);
}

/* A schedule counts windows, not micro-batches. */
static void schedules_count_windows(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = sgd(ctx);
    dl_schedule s;
    memset(&s, 0, sizeof s);
    s.kind = DL_SCHEDULE_STEP;
    s.lr = 0.5f;
    s.gamma = 0.5f;
    s.period = 1;
    dl_set_schedule(o, &s);
    dl_accumulator *a = accumulator(o, 3, DL_EXACT, 0);
    for (int i = 0; i < 9; i++) {
        CHECK(fabs(dl_get_lr(o) - 0.5 / (1 << i / 3)) < 1e-12, "micro-batch %d: %g", i, dl_get_lr(o));
        dl_accumulate(a, mean_of(ctx, i, 2), 2);
    }
    destroy(ctx);
}

static dl_tensor cnn_loss(dl_context *ctx, int n)
{
    static const char *const names[2] = { "conv1", "conv2" };
    dl_pool2d_desc pool;
    dl_conv2d_desc d;
    int32_t y[256];
    memset(&pool, 0, sizeof pool);
    memset(&d, 0, sizeof d);
    pool.kernel = 2;
    d.kernel = 3;
    d.padding = 1;
    for (int i = 0; i < n; i++) y[i] = i % 10;
    dl_tensor x = dl_borrow(ctx, DL_F32, DL_SHAPE(n, 1, 28, 28), numbers((size_t)n * 28 * 28));
    for (int i = 0; i < 2; i++) {
        d.out_channels = 16 << i;
        x = dl_max_pool2d(dl_relu(dl_conv2d(x, names[i], &d)), &pool);
    }
    return dl_cross_entropy(dl_linear(dl_flatten(x, 1), "fc", 10), dl_input(ctx, DL_I32, DL_SHAPE(n), y));
}

static size_t work_of(int batches, int n)
{
    dl_context *ctx = context();
    dl_accumulator *a = accumulator(sgd(ctx), batches, DL_EXACT, 0);
    for (int i = 0; i < batches; i++) dl_accumulate(a, cnn_loss(ctx, n), (size_t)n);
    CHECK(dl_accumulator_stepped(a), "no step");
    size_t work = dl_memory_used(ctx).work;
    destroy(ctx);
    return work;
}

static void memory(void)
{
    size_t eight = work_of(8, 32), one = work_of(1, 32), large = work_of(1, 256);
    CHECK(one > 0 && (double)eight <= 1.05 * (double)one, "8 micro-batches of 32 take %zu bytes, 1 takes %zu", eight, one);
    CHECK((double)eight <= 0.15 * (double)large, "8 micro-batches of 32 take %zu bytes, 1 of 256 %zu", eight, large);
}

int main(void)
{
    RUN(gradients_of_equal_batches);
    RUN(gradients_of_uneven_batches);
    RUN(gradients_with_ignored_classes);
    RUN(steps_are_those_of_large_batches);
    RUN(divide_flushes_as_it_is);
    RUN(explicit_loop);
    RUN(windows_of_one);
    RUN(windows_without_samples);
    RUN(micro_batches_without_samples);
    RUN(clips_the_whole_window);
    RUN(of_a_selection);
    RUN(of_two_selections);
    RUN(schedules_count_windows);
    RUN(memory);
    return REPORT();
}
