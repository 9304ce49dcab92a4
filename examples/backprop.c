/* The laboratory of back-propagation: everything that a textbook claims about gradients, computed from the tape and by the formula.

       cc -O2 examples/backprop.c -o backprop -lm -pthread && ./backprop
       ./backprop --loss mse --w 2 --b 2 --lr 0.15 --steps 300       one neuron that starts saturated, and hardly learns

   1  a sigmoid neuron under the squared error and under cross-entropy; 2  the error terms of every layer of a network; 3  losses as
   likelihoods; 4  batch, mini-batch and stochastic descent; 5  linear regression against its closed form. Results: docs/methods.md. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "lab.h"

typedef struct options { const char *loss, *out; double w, b, lr; int steps; } options;

static const char *usage =
    "usage: backprop [options]\n"
    "  --loss NAME     mse or ce: one neuron of your own instead of the four of the textbook; then\n"
    "  --w X --b X     where it starts (2, 2)\n"
    "  --lr X          learning rate of gradient descent (0.15)\n"
    "  --steps N       (300)\n"
    "  --out PREFIX    PREFIX.csv: the checks; PREFIX-neuron.svg, PREFIX-descent.svg: curves (backprop)\n"
    "  --help\n";

/* ---- the table of checks ---- */
enum { CHECKS = 64 };
typedef struct check { char what[72]; double value, expected, tolerance; } check;
static check checks[CHECKS];
static int n_checks;

static void note(double value, double expected, double tolerance, const char *what)
{
    if (n_checks == CHECKS) return;
    check *c = &checks[n_checks++];
    snprintf(c->what, sizeof c->what, "%s", what);
    c->value = value, c->expected = expected, c->tolerance = tolerance;
}

static bool print_checks(const options *o)
{
    char path[1024];
    int failed = 0;
    snprintf(path, sizeof path, "%s.csv", o->out);
    FILE *f = lab_create("backprop", path);
    if (!f) return false;
    fprintf(f, "check,value,expected,tolerance,holds\n");
    printf("\n%-64s %13s %13s %9s\n", "check", "value", "expected", "within");
    for (int i = 0; i < n_checks; i++) {
        const check *c = &checks[i];
        bool holds = fabs(c->value - c->expected) <= c->tolerance;
        printf("%-64s %13.7g %13.7g %9.0e %s\n", c->what, c->value, c->expected, c->tolerance, holds ? "" : "  DOES NOT HOLD");
        fprintf(f, "\"%s\",%.9g,%.9g,%g,%d\n", c->what, c->value, c->expected, c->tolerance, holds);
        failed += !holds;
    }
    printf("%d checks, %d of them do not hold; wrote %s\n", n_checks, failed, path);
    return fclose(f) == 0 && !failed;
}

/* ---- 1: one neuron, x = 1, target 0: a = sigmoid(w x + b) ---- */
typedef struct neuron { bool ce; double w, b, lr; int steps; double at[4]; } neuron; /* a after 0, 1/3, 2/3 and all of the steps */

static dl_param_desc starts_at(double value) { return (dl_param_desc){ .shape = DL_SCALAR, .init = DL_INIT_CONSTANT, .value = (float)value }; }

static double train_neuron(neuron *n, dl_history *curves)
{
    char name[64];
    double a = NAN;
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = (dl_real)n->lr });
    dl_param_desc w = starts_at(n->w), b = starts_at(n->b);
    snprintf(name, sizeof name, "output/%s from %.4g, %.4g at %.4g", n->ce ? "cross-entropy" : "MSE", n->w, n->b, n->lr);
    for (int step = 0; step <= n->steps && !dl_failed(ctx); step++) {
        dl_tensor z = dl_add(dl_parameter(ctx, "w", &w), dl_parameter(ctx, "b", &b)), y = dl_full(ctx, DL_SCALAR, 0);
        dl_tensor out = dl_keep(dl_sigmoid(z));
        dl_tensor loss = n->ce ? dl_bce_with_logits(z, y, DL_SUM) : dl_mul_scalar(dl_mse(out, y, DL_SUM), 0.5f);
        dl_backward(loss);
        a = dl_item(out);
        dl_history_add(curves, name, step, a);
        for (int k = 0; k < 4; k++)
            if (step == n->steps * k / 3) n->at[k] = a;
        dl_step(opt);
    }
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx)), a = NAN;
    dl_destroy(ctx);
    return a;
}

static void neurons(const options *o, dl_history *curves)
{
    neuron golden[4] = { { false, 0.6, 0.9, 0.15, 300, { 0 } }, { false, 2, 2, 0.15, 300, { 0 } }, { true, 2, 2, 0.15, 300, { 0 } },
        { true, 2, 2, 0.005, 300, { 0 } } };
    static const double after[4] = { 0.093956, 0.202848, 0.012009, 0.779587 };
    neuron own = { o->loss && !strcmp(o->loss, "ce"), o->w, o->b, o->lr, o->steps, { 0 } };
    neuron *all = o->loss ? &own : golden;
    printf("1. One sigmoid neuron, x = 1, target 0, gradient descent: its output a\n\n| loss | start (w, b) | rate | steps | at first | after 1/3 | after 2/3 | at last |\n"
           "|---|---|---|---|---|---|---|---|\n");
    for (int i = 0; i < (o->loss ? 1 : 4); i++) {
        neuron *n = &all[i];
        char what[72];
        train_neuron(n, curves);
        printf("| %s | %g, %g | %g | %d | %.6f | %.6f | %.6f | %.6f |\n", n->ce ? "cross-entropy" : "squared error", n->w, n->b, n->lr, n->steps, n->at[0], n->at[1],
            n->at[2], n->at[3]);
        snprintf(what, sizeof what, "neuron %d: a after 300 steps", i + 1);
        if (!o->loss) note(n->at[3], after[i], 6e-7, what);
    }
    printf("\nThe gradient at the output is (a - y) a (1 - a) under the squared error and a - y under cross-entropy: the factor that makes a saturated neuron slow is gone.\n");
    if (!o->loss) note(golden[2].at[3] < golden[1].at[3], 1, 0, "from the saturated start cross-entropy learns more (1: yes)");
}

/* ---- 2: a network 2-3-2-1 of sigmoids; z[l] = W[l] a[l-1] + b[l] + shift[l], where shifts are 0 but for differences ---- */
enum { LAYERS = 3, WIDEST = 3 };
static const int width[LAYERS + 1] = { 2, 3, 2, 1 };
static const char *const layer_names[LAYERS] = { "fc1", "fc2", "fc3" };
typedef struct network { dl_tensor z[LAYERS], a[LAYERS + 1], loss; } network;

static network record(dl_context *ctx, bool ce, const float (*shift)[WIDEST])
{
    static const float x[2] = { 0.75f, -1.25f }, target = 0.25f;
    network net = { 0 };
    net.a[0] = dl_input(ctx, DL_F32, DL_SHAPE(1, 2), x);
    for (int l = 0; l < LAYERS; l++) {
        net.z[l] = dl_linear(net.a[l], layer_names[l], width[l + 1]);
        if (shift) net.z[l] = dl_add(net.z[l], dl_input(ctx, DL_F32, DL_SHAPE(1, width[l + 1]), shift[l]));
        net.a[l + 1] = dl_sigmoid(net.z[l]);
    }
    dl_tensor y = dl_input(ctx, DL_F32, DL_SHAPE(1, 1), &target);
    net.loss = ce ? dl_bce_with_logits(net.z[LAYERS - 1], y, DL_SUM) : dl_mul_scalar(dl_mse(net.a[LAYERS], y, DL_SUM), 0.5f);
    return net;
}

/* delta[L] = a - y, under the squared error times a (1 - a); delta[l] = (W[l+1]' delta[l+1]) a[l] (1 - a[l]) */
static void by_formula(dl_context *ctx, bool ce, const float (*a)[WIDEST], double (*delta)[WIDEST])
{
    for (int l = LAYERS - 1; l >= 0; l--) {
        dl_param_info w = { 0 };
        char name[32];
        snprintf(name, sizeof name, "%s.weight", l + 1 < LAYERS ? layer_names[l + 1] : layer_names[l]);
        if (!dl_param_find(ctx, name, &w) || !w.value) return;
        for (int i = 0; i < width[l + 1]; i++) {
            double out = a[l + 1][i], back = 0;
            if (l == LAYERS - 1) back = out - 0.25;
            else
                for (int k = 0; k < width[l + 2]; k++) back += (double)w.value[k * width[l + 1] + i] * delta[l + 1][k];
            delta[l][i] = l == LAYERS - 1 && ce ? back : back * out * (1 - out);
        }
    }
}

/* dloss/dz by four points: the error is of order step^4. */
static double by_difference(dl_context *ctx, bool ce, int l, int i)
{
    static const double at[4] = { 1, -1, 2, -2 }, factor[4] = { 8, -8, -1, 1 }, step = 0.06;
    double sum = 0;
    for (int p = 0; p < 4; p++) {
        float shift[LAYERS][WIDEST] = { { 0 } };
        shift[l][i] = (float)(at[p] * step);
        sum += factor[p] * dl_item(record(ctx, ce, (const float (*)[WIDEST])shift).loss);
        dl_end(ctx);
    }
    return sum / (12 * step);
}

/* Weights four times as large as they start, so that error terms reach the first layer in a size that one can see. */
static void strengthen(dl_context *ctx)
{
    dl_item(record(ctx, true, NULL).loss);
    dl_end(ctx);
    for (int k = 0; k < dl_param_count(ctx); k++) {
        float value[WIDEST * WIDEST];
        dl_param_info p;
        if (!dl_param_get(ctx, k, &p) || !p.value || p.numel > WIDEST * WIDEST) continue;
        for (size_t i = 0; i < p.numel; i++) value[i] = 4 * (float)p.value[i];
        dl_param_set(ctx, p.name, value, p.numel);
    }
}

static double worse(double a, double b) /* fmax passes over NaN; this does not */
{
    return a != a || b != b ? HUGE_VAL : a > b ? a : b;
}

/* The largest of |a - b| against the largest |b|, over the n of a layer. */
static double off_by(const float *a, const double *b, int n)
{
    double off = 0, size = 1e-30;
    for (int i = 0; i < n; i++) off = worse(off, fabs((double)a[i] - b[i])), size = fmax(size, fabs(b[i]));
    return off / size;
}

static void error_terms(bool ce)
{
    float a[LAYERS + 1][WIDEST] = { { 0 } }, tape[LAYERS][WIDEST] = { { 0 } };
    double formula[LAYERS][WIDEST] = { { 0 } }, off_formula = 0, off_difference = 0, off_weight = 0;
    const char *name = ce ? "cross-entropy" : "squared error";
    dl_context *ctx = dl_create(&(dl_config){ .seed = 4, .threads = 1 });
    dl_tensor delta[LAYERS];
    strengthen(ctx);
    network net = record(ctx, ce, NULL);
    for (int l = 0; l <= LAYERS; l++) dl_keep(net.a[l]);
    dl_grad(net.loss, net.z, LAYERS, delta);
    for (int l = 0; l < LAYERS; l++) dl_keep(delta[l]);
    dl_backward(net.loss);
    for (int l = 0; l <= LAYERS; l++) dl_read(net.a[l], a[l], (size_t)width[l]);
    for (int l = 0; l < LAYERS; l++) dl_read(delta[l], tape[l], (size_t)width[l + 1]);
    by_formula(ctx, ce, (const float (*)[WIDEST])a, formula);
    for (int l = 0; l < LAYERS; l++) { /* dloss/dW[l] = delta[l] a[l-1]', dloss/db[l] = delta[l] */
        dl_param_info w = { 0 };
        char parameter[32];
        snprintf(parameter, sizeof parameter, "%s.weight", layer_names[l]);
        double product[WIDEST * WIDEST];
        for (int i = 0; i < width[l + 1] * width[l]; i++) product[i] = formula[l][i / width[l]] * (double)a[l][i % width[l]];
        bool there = dl_param_find(ctx, parameter, &w) && w.grad;
        off_weight = worse(off_weight, there ? off_by(w.grad, product, width[l + 1] * width[l]) : NAN);
    }
    printf("\n2. Error terms delta = dloss/dz of a network 2-3-2-1, %s\n\n| layer | unit | tape | formula | difference in z |\n|---|---|---|---|---|\n", name);
    for (int l = LAYERS - 1; l >= 0; l--) {
        double difference[WIDEST];
        for (int i = 0; i < width[l + 1]; i++) {
            difference[i] = by_difference(ctx, ce, l, i);
            printf("| %d | %d | %+.7f | %+.7f | %+.7f |\n", l + 1, i + 1, (double)tape[l][i], formula[l][i], difference[i]);
        }
        off_formula = worse(off_formula, off_by(tape[l], formula[l], width[l + 1]));
        off_difference = worse(off_difference, off_by(tape[l], difference, width[l + 1]));
    }
    char what[72];
    snprintf(what, sizeof what, "%s: delta by tape and formula (of a layer's largest)", name);
    note(dl_failed(ctx) ? NAN : off_formula, 0, 1e-5, what);
    snprintf(what, sizeof what, "%s: delta by tape and differences in z", name);
    note(dl_failed(ctx) ? NAN : off_difference, 0, 1e-3, what);
    snprintf(what, sizeof what, "%s: weights by tape and delta times activation", name);
    note(dl_failed(ctx) ? NAN : off_weight, 0, 1e-5, what);
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx));
    dl_destroy(ctx);
}

/* ---- 3: losses as negative log-likelihoods, from the densities themselves ---- */
static void likelihoods(void)
{
    enum { N = 8 };
    static const float f[N] = { 0.5f, -1, 2, 0.25f, 1.5f, -0.75f, 0, 3 }, y[N] = { 0.75f, -1.5f, 1.75f, 0.5f, 1, -0.5f, 0.25f, 2.5f };
    static const float class[N] = { 1, 0, 1, 0, 1, 0, 1, 1 };
    const double pi = 3.14159265358979324;
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_tensor out = dl_input(ctx, DL_F32, DL_SHAPE(N), f), target = dl_input(ctx, DL_F32, DL_SHAPE(N), y);
    dl_tensor mse_node = dl_keep(dl_mse(out, target, DL_MEAN));
    double bce = dl_item(dl_bce_with_logits(out, dl_input(ctx, DL_F32, DL_SHAPE(N), class), DL_SUM)), mse = dl_item(mse_node), bernoulli = 0;
    printf("\n3. Losses as negative logarithms of likelihoods, of %d samples\n\n| variance | Gaussian density | from the mean squared error |\n|---|---|---|\n", N);
    double best = HUGE_VAL, best_variance = 0;
    for (int k = 0; k < 5; k++) {
        static const double of_mse[5] = { 0.25, 0.5, 1, 2, 4 };
        double variance = of_mse[k] * mse, density = 1, from_mse = N / 2.0 * log(2 * pi * variance) + N * mse / (2 * variance);
        char what[72];
        for (int i = 0; i < N; i++) density *= exp(-((double)y[i] - f[i]) * ((double)y[i] - f[i]) / (2 * variance)) / sqrt(2 * pi * variance);
        printf("| %.5f | %.6f | %.6f |\n", variance, -log(density), from_mse);
        snprintf(what, sizeof what, "Gaussian of variance %.3g: -log density and its formula", variance);
        note(-log(density), from_mse, 1e-5, what);
        if (from_mse < best) best = from_mse, best_variance = variance;
    }
    note(best_variance, mse, 1e-9, "the most likely of these variances is the mean squared error");
    for (int i = 0; i < N; i++) {
        double p = 1 / (1 + exp(-(double)f[i]));
        bernoulli -= log(pow(p, class[i]) * pow(1 - p, 1 - class[i]));
    }
    printf("\nBernoulli: -log of the product of p^y (1-p)^(1-y) is %.6f, the cross-entropy %.6f.\n", bernoulli, bce);
    note(bce, bernoulli, 1e-5, "Bernoulli: -log likelihood and binary cross-entropy");
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx));
    dl_destroy(ctx);
}

/* ---- 4: descent on 240 points inside and outside a ring, 2-8-1 ---- */
enum { POINTS = 240 };
static void points(float *x, float *y)
{
    uint64_t state = 11;
    for (int i = 0; i < POINTS; i++) {
        double angle = 6.283185307179586 * lab_random(&state) / 4294967296.0, radius = (i % 2 ? 1.3 : 0.3) + 0.9 * lab_random(&state) / 4294967296.0;
        x[2 * i] = (float)(radius * cos(angle)), x[2 * i + 1] = (float)(radius * sin(angle));
        y[i] = (float)(i % 2);
    }
}

static dl_tensor ring_loss(dl_tensor x, dl_tensor y)
{
    return dl_bce_with_logits(dl_linear(dl_tanh(dl_linear(x, "hidden", 8)), "out", 1), y, DL_MEAN);
}

static double whole_loss(dl_context *ctx, const float *x, const float *y)
{
    bool recording = dl_set_grad(ctx, false);
    double loss = dl_item(ring_loss(dl_input(ctx, DL_F32, DL_SHAPE(POINTS, 2), x), dl_input(ctx, DL_F32, DL_SHAPE(POINTS, 1), y)));
    dl_end(ctx);
    dl_set_grad(ctx, recording);
    return loss;
}

/* Until the loss of an epoch differs from the one before by less than `tolerance` of it; returns the epochs. */
static int descend(const char *name, size_t batch, double lr, double tolerance, const float *x, const float *y, dl_history *curves, double *loss, size_t *updates)
{
    enum { MOST = 400 };
    dl_context *ctx = dl_create(&(dl_config){ .seed = 2, .threads = 1 });
    dl_dataset *data = dl_dataset_create(ctx, &(dl_dataset_desc){ .count = POINTS, .x_dtype = DL_F32, .y_dtype = DL_F32, .x_shape = DL_SHAPE(2), .y_shape = DL_SHAPE(1), .x = x, .y = y });
    dl_loader *loader = dl_loader_create(data, &(dl_loader_desc){ .batch = batch, .shuffle = true });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = (dl_real)lr });
    double last = whole_loss(ctx, x, y);
    char series[64];
    int epoch = 0;
    *updates = 0;
    snprintf(series, sizeof series, "loss/%s", name);
    dl_history_add(curves, series, 0, last);
    while (epoch < MOST && !dl_failed(ctx)) {
        for (dl_batch b; dl_next(loader, &b); ++*updates) {
            dl_backward(ring_loss(b.x, b.y));
            dl_step(opt);
        }
        *loss = whole_loss(ctx, x, y);
        dl_history_add(curves, series, ++epoch, *loss);
        if (fabs(*loss - last) < tolerance * last) break;
        last = *loss;
    }
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx)), *loss = NAN;
    dl_destroy(ctx);
    return epoch;
}

/* The mean of the gradients of single samples is the gradient of the batch. */
static double mean_of_gradients(const float *x, const float *y)
{
    enum { MOST = 64 };
    double mean[MOST] = { 0 }, largest = 0;
    size_t n = 0;
    dl_context *ctx = dl_create(&(dl_config){ .seed = 2, .threads = 1 });
    for (int i = 0; i <= POINTS && !dl_failed(ctx); i++) { /* the last: all of them at once */
        dl_index count = i < POINTS ? 1 : POINTS, from = i < POINTS ? i : 0;
        dl_zero_grad(ctx);
        dl_backward(ring_loss(dl_input(ctx, DL_F32, DL_SHAPE(count, 2), x + 2 * from), dl_input(ctx, DL_F32, DL_SHAPE(count, 1), y + from)));
        n = 0;
        for (int k = 0; k < dl_param_count(ctx); k++) {
            dl_param_info p;
            if (!dl_param_get(ctx, k, &p) || !p.grad) continue;
            for (size_t j = 0; j < p.numel && n < MOST; j++, n++) {
                if (i < POINTS) mean[n] += (double)p.grad[j] / POINTS;
                else largest = worse(largest, fabs(mean[n] - (double)p.grad[j]));
            }
        }
    }
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx)), largest = NAN;
    dl_destroy(ctx);
    return n ? largest : NAN;
}

static void descents(dl_history *curves)
{
    static const struct { const char *name; size_t batch; double lr; } way[3] = { { "batch", POINTS, 1 }, { "mini-batch of 20", 20, 0.5 }, { "stochastic", 1, 0.05 } };
    static float x[2 * POINTS], y[POINTS];
    points(x, y);
    printf("\n4. Descent, until an epoch changes the loss by less than 0.1 %%\n\n| | rate | epochs | updates | loss |\n|---|---|---|---|---|\n");
    for (int k = 0; k < 3; k++) {
        double loss = NAN;
        size_t updates;
        char what[72];
        int epochs = descend(way[k].name, way[k].batch, way[k].lr, 1e-3, x, y, curves, &loss, &updates);
        printf("| %s | %g | %d | %zu | %.4f |\n", way[k].name, way[k].lr, epochs, updates, loss);
        snprintf(what, sizeof what, "%s: the loss is under 0.6 (from 0.69; 1: yes)", way[k].name);
        note(loss < 0.6, 1, 0, what);
    }
    note(mean_of_gradients(x, y), 0, 1e-6, "mean of the samples' gradients and the batch's (largest difference)");
}

/* ---- 5: linear regression ---- */
static void regression(void)
{
    enum { N = 60, FEATURES = 3, K = FEATURES + 1 };
    static float x[N * FEATURES], y[N];
    double m[K][K + 1] = { { 0 } }, exact[K], off = 0;
    uint64_t state = 5;
    for (int i = 0; i < N; i++) {
        double noise = lab_random(&state) / 4294967296.0 - 0.5;
        for (int k = 0; k < FEATURES; k++) x[i * FEATURES + k] = (float)(4 * (lab_random(&state) / 4294967296.0) - 2);
        y[i] = (float)(1.5 * x[i * FEATURES] - 0.75 * x[i * FEATURES + 1] + 0.25 * x[i * FEATURES + 2] + 2 + noise);
        double row[K] = { x[i * FEATURES], x[i * FEATURES + 1], x[i * FEATURES + 2], 1 };
        for (int r = 0; r < K; r++)
            for (int c = 0; c <= K; c++) m[r][c] += row[r] * (c < K ? row[c] : y[i]); /* X'X and X'y */
    }
    for (int p = 0; p < K; p++) /* Gauss and Jordan; X'X is positive definite */
        for (int r = 0; r < K; r++) {
            double by = m[r][p] / m[p][p];
            for (int c = 0; r != p && c <= K; c++) m[r][c] -= by * m[p][c];
        }
    for (int p = 0; p < K; p++) exact[p] = m[p][K] / m[p][p];
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_optimizer *opt = dl_sgd(ctx, &(dl_sgd_desc){ .lr = 0.2f });
    dl_param_info w = { 0 }, b = { 0 };
    float now[K] = { 0 }, before[K];
    double change = 1, size = 1;
    int step = 0;
    for (; step < 5000 && change > 1e-7 * size && !dl_failed(ctx); step++) { /* the stopping rule: how far a step goes, against where it is */
        dl_tensor f = dl_linear(dl_borrow(ctx, DL_F32, DL_SHAPE(N, FEATURES), x), "f", 1);
        dl_backward(dl_mse(f, dl_borrow(ctx, DL_F32, DL_SHAPE(N, 1), y), DL_MEAN));
        dl_step(opt);
        if (!dl_param_find(ctx, "f.weight", &w) || !dl_param_find(ctx, "f.bias", &b)) break;
        memcpy(before, now, sizeof now);
        memcpy(now, w.value, FEATURES * sizeof *now);
        now[FEATURES] = b.value[0];
        change = size = 0;
        for (int k = 0; k < K; k++) change = fmax(change, fabs((double)now[k] - before[k])), size = fmax(size, fabs((double)now[k]));
    }
    printf("\n5. Linear regression by gradient descent, %d steps until the largest parameter moves by less than 1e-7 of itself\n\n| | descent | closed form |\n|---|---|---|\n", step);
    for (int k = 0; k < K; k++) {
        if (k < FEATURES) printf("| w%d | %.7f | %.7f |\n", k + 1, (double)now[k], exact[k]);
        else printf("| b | %.7f | %.7f |\n", (double)now[k], exact[k]);
        off = worse(off, fabs((double)now[k] - exact[k]));
    }
    note(dl_failed(ctx) ? NAN : off, 0, 1e-5, "linear regression: descent and closed form (largest difference)");
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx));
    dl_destroy(ctx);
}

int main(int argc, char **argv)
{
    options o = { .out = "backprop", .w = 2, .b = 2, .lr = 0.15, .steps = 300 };
    const lab_option option[] = { { "--loss", 's', &o.loss, 0, 0 }, { "--out", 's', &o.out, 0, 0 }, { "--w", 'd', &o.w, -1e6, 1e6 }, { "--b", 'd', &o.b, -1e6, 1e6 },
        { "--lr", 'd', &o.lr, 1e-9, 1e6 }, { "--steps", 'i', &o.steps, 1, 1e6 } };
    char path[1024];
    if (!lab_parse("backprop", usage, argc, argv, option, (int)(sizeof option / sizeof *option))) return 2;
    if (o.loss && strcmp(o.loss, "mse") && strcmp(o.loss, "ce")) return fprintf(stderr, "backprop: --loss is mse or ce, not '%s'\n", o.loss), 2;
    dl_context *ctx = dl_create(&(dl_config){ .threads = 1 });
    dl_history *learning = dl_history_create(ctx), *losses = dl_history_create(ctx);
    bool ok = true;
    neurons(&o, learning);
    snprintf(path, sizeof path, "%s-neuron.svg", o.out);
    dl_history_svg(learning, path, "A sigmoid neuron learns to answer 0, from w, b at a rate");
    if (!o.loss) {
        error_terms(false);
        error_terms(true);
        likelihoods();
        descents(losses);
        regression();
        snprintf(path, sizeof path, "%s-descent.svg", o.out);
        dl_history_svg(losses, path, "Loss over the epochs");
        ok = print_checks(&o);
    }
    if (dl_failed(ctx)) fprintf(stderr, "backprop: %s\n", dl_error(ctx)), ok = false;
    dl_destroy(ctx);
    return ok ? 0 : 1;
}
