/* Optimizers, clipping and schedules in double: golden trajectories, PyTorch's numbers, and who is stepped at all.
   tests: with -DDLTRAIN_REAL=double */
#include "../dltrain.h"
#include "test.h"
#include "gold_training.h"

static dl_context *context(void)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.threads = 1;
    return dl_create(&c);
}

static void destroy(dl_context *ctx)
{
    CHECK(!dl_failed(ctx), "%s", dl_error(ctx));
    dl_destroy(ctx);
}

static dl_tensor param(dl_context *ctx, const char *name, dl_index n, float value)
{
    dl_param_desc d;
    memset(&d, 0, sizeof d);
    d.shape = DL_SHAPE(n);
    d.init = DL_INIT_CONSTANT;
    d.value = value;
    return dl_parameter(ctx, name, &d);
}

/* The sum of gradient * parameter: its gradient is `gradient`. */
static dl_tensor slope(dl_context *ctx, const char *name, dl_index n, float start, const double *gradient)
{
    return dl_sum(dl_mul(param(ctx, name, n, start), dl_input(ctx, DL_F32, DL_SHAPE(n), gradient)));
}

static dl_tensor slope1(dl_context *ctx, const char *name, double gradient) { return slope(ctx, name, 1, 1, &gradient); }

static double value(dl_context *ctx, const char *name)
{
    dl_param_info p;
    return dl_param_find(ctx, name, &p) && p.value ? p.value[0] : NAN;
}

static double gradient(dl_context *ctx, const char *name) /* NaN: none */
{
    dl_param_info p;
    return dl_param_find(ctx, name, &p) && p.has_grad ? p.grad[0] : NAN;
}

static bool near(double a, double b, double tolerance) { return fabs(a - b) <= tolerance * fmax(1, fabs(b)); }

static dl_optimizer *sgd(dl_context *ctx, double lr, double momentum, double weight_decay)
{
    dl_sgd_desc d;
    memset(&d, 0, sizeof d);
    d.lr = lr;
    d.momentum = momentum;
    d.weight_decay = weight_decay;
    return dl_sgd(ctx, &d);
}

static dl_optimizer *make(dl_context *ctx, const char *rule, double lr, double momentum, double dampening, double weight_decay, double b1,
    double b2, double eps, bool nesterov, bool centered)
{
    dl_sgd_desc s;
    dl_adam_desc a;
    dl_rmsprop_desc r;
    memset(&s, 0, sizeof s);
    memset(&a, 0, sizeof a);
    memset(&r, 0, sizeof r);
    s.lr = a.lr = r.lr = lr;
    s.momentum = r.momentum = momentum;
    s.dampening = dampening;
    s.weight_decay = a.weight_decay = r.weight_decay = weight_decay;
    s.nesterov = nesterov;
    a.beta1 = r.alpha = b1;
    a.beta2 = b2;
    a.eps = r.eps = eps;
    r.centered = centered;
    if (!strcmp(rule, "sgd")) return dl_sgd(ctx, &s);
    if (!strcmp(rule, "rmsprop")) return dl_rmsprop(ctx, &r);
    return !strcmp(rule, "adam") ? dl_adam(ctx, &a) : dl_adamw(ctx, &a);
}

/* p0 = 1, the loss of step i is p^2 (i + 1) / 2. */
static void golden_trajectories(void)
{
    static const struct { const char *rule; double momentum, dampening, weight_decay, eps; bool nesterov; double p[4]; } runs[] = {
        { "sgd", 0.9, 0, 0, 0, false, { 0.9, 0.63, 0.198, -0.27 } },
        { "sgd", 0.9, 0.5, 0.01, 0, false, { 0.899, 0.7177505, 0.44660449975, 0.113028897325 } },
        { "sgd", 0.9, 0, 0.01, 0, true, { 0.8081, 0.41767661, -0.026388404259, -0.292792998238 } },
        { "adam", 0, 0, 0, 0, false, { 0.900000001, 0.802414600477, 0.704841372345, 0.606505602930 } },
        { "adam", 0, 0, 0.01, 0.1, false, { 0.909009009009, 0.817658710833, 0.725139736528, 0.631241719226 } },
        { "adamw", 0, 0, 0.1, 0, false, { 0.890000001, 0.783408902428, 0.677829916861, 0.572510484858 } },
    };
    for (size_t k = 0; k < sizeof runs / sizeof *runs; k++) {
        dl_context *ctx = context();
        dl_optimizer *o = make(ctx, runs[k].rule, 0.1, runs[k].momentum, runs[k].dampening, runs[k].weight_decay, 0, 0, runs[k].eps,
            runs[k].nesterov, false);
        for (int i = 0; i < 4; i++) {
            dl_backward(dl_mul_scalar(dl_sum(dl_square(param(ctx, "p", 1, 1))), 0.5f * (float)(i + 1)));
            dl_step(o);
            double p = value(ctx, "p");
            CHECK(fabs(p - runs[k].p[i]) <= 1e-12, "run %d, step %d: %.15g, not %.12g", (int)k, i + 1, p, runs[k].p[i]);
        }
        destroy(ctx);
    }
}

static void optimizers_as_in_pytorch(void)
{
    for (size_t k = 0; k < sizeof gold_optimizers / sizeof *gold_optimizers; k++) {
        dl_context *ctx = context();
        const gold_optimizer *g = &gold_optimizers[k];
        dl_optimizer *o = make(ctx, g->rule, g->lr, g->momentum, g->dampening, g->weight_decay, g->b1, g->b2, g->eps, g->nesterov,
            g->centered);
        param(ctx, "p", 3, 0);
        dl_param_set(ctx, "p", gold_start, 3);
        for (int i = 0; i < 8; i++) {
            double b[3];
            dl_param_info p;
            for (int j = 0; j < 3; j++) b[j] = (double)(i * (j + 1) % 5) / 4 - 0.5;
            dl_tensor x = param(ctx, "p", 3, 0), c = dl_input(ctx, DL_F32, DL_SHAPE(3), gold_curvature);
            dl_tensor bend = dl_mul_scalar(dl_mul(x, c), 0.5f), tilt = dl_input(ctx, DL_F32, DL_SHAPE(3), b);
            dl_backward(dl_sum(dl_mul(x, dl_add(bend, tilt))));
            dl_step(o);
            if (!dl_param_get(ctx, 0, &p)) break;
            for (int j = 0; j < 3; j++)
                CHECK(near(p.value[j], g->p[i][j], 1e-13), "row %d (%s), step %d, p[%d] is %.17g, PyTorch has %.17g", (int)k, g->rule, i, j,
                    p.value[j], g->p[i][j]);
        }
        destroy(ctx);
    }
}

static void groups(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = sgd(ctx, 0.5, 0, 0.25);
    dl_group_desc slow, none, own;
    memset(&slow, 0, sizeof slow);
    none = own = slow;
    slow.lr_scale = 0.125;
    none.no_weight_decay = true;
    none.set_weight_decay = true; /* no_weight_decay has the last word */
    none.weight_decay = 9;
    own.set_weight_decay = true;
    own.weight_decay = 2;
    own.lr_scale = 2;
    CHECK(dl_optimizer_group(o, "fc1.*", &slow), "%s", dl_error(ctx));
    CHECK(dl_optimizer_group(o, "*.bias|*norm*", &none), "%s", dl_error(ctx));
    CHECK(dl_optimizer_group(o, "head*", &own), "%s", dl_error(ctx));
    /* p = 1 and g = 3 everywhere: p -= lr scale (g + decay p) */
    static const struct { const char *name; double want; } all[] = {
        { "fc1.weight", 1 - 0.5 * 0.125 * 3.25 }, { "fc1.bias", 1 - 0.5 * 0.125 * 3.25 }, /* of the first that matches alone: decay stays */
        { "fc2.weight", 1 - 0.5 * 3.25 }, { "fc2.bias", 1 - 0.5 * 3 }, { "norm1.weight", 1 - 0.5 * 3 },
        { "head.bias", 1 - 0.5 * 3 }, { "head.weight", 1 - 0.5 * 2 * (3 + 2) },
    };
    dl_tensor loss = slope1(ctx, all[0].name, 3);
    for (size_t i = 1; i < sizeof all / sizeof *all; i++) loss = dl_add(loss, slope1(ctx, all[i].name, 3));
    dl_backward(loss);
    dl_step(o);
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        CHECK(near(value(ctx, all[i].name), all[i].want, 1e-15), "%s: %.17g, not %.17g", all[i].name, value(ctx, all[i].name), all[i].want);
    destroy(ctx);
}

static void groups_of_adamw(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = make(ctx, "adamw", 0.5, 0, 0, 0.125, 0, 0, 0, false, false);
    dl_group_desc d;
    memset(&d, 0, sizeof d);
    d.lr_scale = 0.5;
    dl_optimizer_group(o, "a", &d);
    d.lr_scale = 0;
    d.no_weight_decay = true;
    dl_optimizer_group(o, "b", &d);
    dl_backward(dl_add(dl_add(slope1(ctx, "a", 3), slope1(ctx, "b", 3)), slope1(ctx, "c", 3)));
    dl_step(o);
    double unit = 3 / (3 + 1e-8); /* the first step of Adam */
    CHECK(near(value(ctx, "a"), 1 - 0.25 * 0.125 - 0.25 * unit, 1e-14), "a is %.17g", value(ctx, "a"));
    CHECK(near(value(ctx, "b"), 1 - 0.5 * unit, 1e-14), "b is %.17g", value(ctx, "b"));
    CHECK(near(value(ctx, "c"), 1 - 0.5 * 0.125 - 0.5 * unit, 1e-14), "c is %.17g", value(ctx, "c"));
    destroy(ctx);
}

/* Two optimizers share a backward pass: each steps its own and leaves the gradients of the other. */
static void select_parameters(void)
{
    dl_context *ctx = context();
    dl_optimizer *oa = sgd(ctx, 0.5, 0, 0.5), *ob = sgd(ctx, 0.25, 0.5, 0);
    CHECK(dl_optimizer_select(oa, "net.*|extra") && dl_optimizer_select(ob, "other"), "%s", dl_error(ctx));
    for (int i = 0; i < 2; i++) {
        dl_backward(dl_add(dl_add(slope1(ctx, "net.p", 1), slope1(ctx, "other", 4)), slope1(ctx, "extra", 2)));
        double other = value(ctx, "other"), p = value(ctx, "net.p"), extra = value(ctx, "extra");
        dl_step(oa);
        CHECK(value(ctx, "other") == other, "other moved to %.17g", value(ctx, "other"));
        CHECK(gradient(ctx, "other") == 4, "the gradient of other is %g", gradient(ctx, "other"));
        CHECK(value(ctx, "net.p") == p - 0.5 * (1 + 0.5 * p), "net.p is %.17g", value(ctx, "net.p"));
        CHECK(value(ctx, "extra") == extra - 0.5 * (2 + 0.5 * extra), "extra is %.17g", value(ctx, "extra"));
        p = value(ctx, "net.p");
        dl_step(ob);
        CHECK(value(ctx, "other") == other - 0.25 * (i ? 6 : 4), "other is %.17g", value(ctx, "other"));
        CHECK(value(ctx, "net.p") == p, "net.p moved to %.17g", value(ctx, "net.p"));
        CHECK(isnan(gradient(ctx, "other")) && isnan(gradient(ctx, "net.p")), "gradients are left");
    }
    destroy(ctx);
}

static void frozen_parameters(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = sgd(ctx, 0.5, 0.5, 0.25);
    dl_backward(dl_add(slope1(ctx, "a", 1), slope1(ctx, "b", 1)));
    dl_step(o); /* p = 1 - (1 + 0.25) / 2; both have momentum 1.25 now */
    CHECK(value(ctx, "a") == 0.375 && value(ctx, "b") == 0.375, "%g %g", value(ctx, "a"), value(ctx, "b"));
    dl_freeze(ctx, "a", true);
    for (int i = 0; i < 3; i++) {
        dl_backward(dl_add(slope1(ctx, "a", 1), slope1(ctx, "b", 1)));
        CHECK(isnan(gradient(ctx, "a")) && gradient(ctx, "b") == 1, "a frozen parameter has a gradient");
        dl_step(o);
        CHECK(value(ctx, "a") == 0.375 && value(ctx, "b") < 0.375, "a frozen parameter moved: %.17g", value(ctx, "a"));
    }
    dl_freeze(ctx, "a", false);
    dl_backward(slope1(ctx, "a", 1));
    dl_step(o);
    CHECK(value(ctx, "a") == 0.375 - 0.5 * (0.5 * 1.25 + 1 + 0.25 * 0.375), "its momentum changed: %.17g", value(ctx, "a"));
    destroy(ctx);
}

/* "dl_step: the gradients are fresh afterwards", of what was frozen meanwhile, too. */
static void frozen_after_backward(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = sgd(ctx, 0.5, 0, 0);
    dl_backward(dl_add(slope1(ctx, "a", 1), slope1(ctx, "b", 1)));
    dl_freeze(ctx, "a", true);
    dl_step(o);
    CHECK(value(ctx, "a") == 1 && value(ctx, "b") == 0.5, "%g %g", value(ctx, "a"), value(ctx, "b"));
    dl_freeze(ctx, "a", false);
    dl_backward(dl_add(slope1(ctx, "a", 4), slope1(ctx, "b", 4)));
    CHECK(gradient(ctx, "b") == 4 && gradient(ctx, "a") == 4, "that of a is %g: the one of the step before was added", gradient(ctx, "a"));
    destroy(ctx);
}

/* Parameters without a gradient are skipped: no decay, no momentum, no step of Adam's bias correction. */
static void without_gradient(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = sgd(ctx, 0.1, 0.9, 0);
    dl_tensor both = dl_add(slope1(ctx, "a", 1), slope1(ctx, "b", 1));
    dl_backward(both);
    dl_step(o);
    for (int i = 0; i < 3; i++) {
        dl_backward(slope1(ctx, "b", 1));
        dl_step(o);
        CHECK(near(value(ctx, "a"), 0.9, 1e-15), "a moved without a gradient: %.17g", value(ctx, "a"));
    }
    dl_backward(slope1(ctx, "a", 1));
    dl_step(o);
    CHECK(near(value(ctx, "a"), 1 - 0.1 - 0.19, 1e-15), "its momentum changed: %.17g", value(ctx, "a"));
    destroy(ctx);

    static const char *const rules[] = { "adam", "adamw", "rmsprop" };
    for (int r = 0; r < 3; r++) { /* each parameter's own first two steps are the same, however far apart */
        ctx = context();
        o = make(ctx, rules[r], 0.1, 0, 0, 0.5, 0, 0, 0, false, false);
        dl_backward(dl_add(slope1(ctx, "a", 1), slope1(ctx, "b", 1)));
        dl_step(o);
        double first = value(ctx, "a");
        for (int i = 0; i < 2; i++) {
            dl_backward(slope1(ctx, "b", 2));
            dl_step(o);
            CHECK(value(ctx, "a") == first, "%s: moved without a gradient", rules[r]);
            if (!i) first = value(ctx, "a");
        }
        dl_context *alone = context();
        dl_optimizer *p = make(alone, rules[r], 0.1, 0, 0, 0.5, 0, 0, 0, false, false);
        for (int i = 0; i < 2; i++) {
            dl_backward(slope1(alone, "a", 1 + i));
            dl_step(p);
        }
        dl_backward(slope1(ctx, "a", 2));
        dl_step(o);
        CHECK(value(ctx, "a") == value(alone, "a"), "%s: %.17g, alone %.17g", rules[r], value(ctx, "a"), value(alone, "a"));
        destroy(ctx);
        destroy(alone);
    }
}

static void fresh_gradients(void)
{
    dl_context *ctx = context();
    dl_optimizer *o = sgd(ctx, 0.5, 0, 0);
    dl_backward(slope1(ctx, "a", 1));
    dl_backward(slope1(ctx, "a", 2));
    CHECK(gradient(ctx, "a") == 3, "two backward passes give %g, not 3", gradient(ctx, "a"));
    dl_scale_grad(ctx, 0.5);
    CHECK(gradient(ctx, "a") == 1.5, "scaled: %g", gradient(ctx, "a"));
    dl_zero_grad(ctx);
    CHECK(isnan(gradient(ctx, "a")), "dl_zero_grad leaves a gradient");
    dl_step(o);
    CHECK(value(ctx, "a") == 1, "a step without gradients moves to %g", value(ctx, "a"));
    dl_backward(slope1(ctx, "a", 4));
    CHECK(gradient(ctx, "a") == 4, "after dl_zero_grad: %g", gradient(ctx, "a"));
    dl_step(o);
    dl_backward(slope1(ctx, "a", 8));
    CHECK(gradient(ctx, "a") == 8, "after dl_step: %g", gradient(ctx, "a"));
    destroy(ctx);
}

static void gradients(dl_context *ctx)
{
    static const double a[3] = { 3, -4, 12 }, b[2] = { 0.5, -2 };
    dl_zero_grad(ctx);
    dl_backward(dl_add(slope(ctx, "a", 3, 1, a), slope(ctx, "b", 2, 1, b)));
}

static void check_gradients(dl_context *ctx, const char *what, const double *want, double tolerance)
{
    dl_param_info a, b;
    if (!dl_param_find(ctx, "a", &a) || !dl_param_find(ctx, "b", &b)) return;
    for (int i = 0; i < 5; i++) {
        double g = i < 3 ? a.grad[i] : b.grad[i - 3];
        CHECK(near(g, want[i], tolerance), "%s: gradient %d is %.17g, not %.17g", what, i, g, want[i]);
    }
}

static void clip_norm(void)
{
    dl_context *ctx = context();
    CHECK(isnan(dl_grad_norm(ctx)), "a norm before there is one");
    for (int k = 0; k < 4; k++) {
        gradients(ctx);
        double norm = (dl_clip_grad_norm(ctx, gold_clip[k][0], NULL), dl_grad_norm(ctx)), coef = fmin(1, gold_clip[k][0] / (norm + 1e-6));
        double want[5] = { 3 * coef, -4 * coef, 12 * coef, 0.5 * coef, -2 * coef };
        CHECK(near(norm, gold_clip[k][1], 1e-14), "the norm is %.17g", norm);
        check_gradients(ctx, "PyTorch", gold_clip[k] + 2, 1e-14);
        check_gradients(ctx, "formula", want, 1e-15);
    }
    gradients(ctx);
    double coef = 6.5 / (13 + 1e-6), want[5] = { 3 * coef, -4 * coef, 12 * coef, 0.5, -2 }; /* of a alone */
    CHECK(dl_clip_grad_norm(ctx, 6.5, "a") && dl_grad_norm(ctx) == 13, "the norm of a is not 13");
    check_gradients(ctx, "pattern", want, 1e-15);
    static const double zero[5] = { 0, 0, 0, 0, 0 };
    dl_clip_grad_norm(ctx, 0, NULL);
    check_gradients(ctx, "to nothing", zero, 0);
    gradients(ctx);
    dl_zero_grad(ctx); /* what lies in memory of old gradients does not count */
    CHECK(dl_clip_grad_norm(ctx, 1, NULL) && dl_grad_norm(ctx) == 0, "a norm without gradients");
    destroy(ctx);
}

/* Of several chunks, the last one short: whole numbers, whose sum of squares is exact in any order */
static void clip_norm_of_many(void)
{
    enum { N = 2 * 4096 + 100 };
    static double x[N];
    double sum = 0;
    for (int i = 0; i < N; i++) x[i] = i % 97 + i / 4096, sum += x[i] * x[i];
    dl_context *ctx = context();
    dl_backward(slope(ctx, "many", N, 1, x));
    CHECK(dl_clip_grad_norm(ctx, 1e9, NULL) && dl_grad_norm(ctx) == sqrt(sum), "the norm is %.17g, not %.17g", dl_grad_norm(ctx), sqrt(sum));
    destroy(ctx);
}

static void clip_value(void)
{
    static const double want[5] = { 2.5, -2.5, 2.5, 0.5, -2 }, only_b[5] = { 2.5, -2.5, 2.5, 0.25, -0.25 };
    dl_context *ctx = context();
    gradients(ctx);
    CHECK(dl_clip_grad_value(ctx, 2.5, NULL), "%s", dl_error(ctx));
    check_gradients(ctx, "all", want, 0);
    CHECK(dl_clip_grad_value(ctx, 0.25, "b"), "%s", dl_error(ctx));
    check_gradients(ctx, "pattern", only_b, 0);
    destroy(ctx);
}

static dl_schedule schedule_of(size_t k)
{
    dl_schedule s;
    const gold_schedule *g = &gold_schedules[k];
    memset(&s, 0, sizeof s);
    s.kind = g->kind;
    s.lr = g->lr;
    s.min_lr = g->min_lr;
    s.gamma = g->gamma;
    s.up = g->up;
    s.div = g->div;
    s.final_div = g->final_div;
    s.warmup = g->warmup;
    s.total = g->total;
    s.period = g->period;
    s.milestones = g->milestones;
    s.n_milestones = g->n_milestones;
    return s;
}

static void schedules_as_in_pytorch(void)
{
    for (size_t k = 0; k < sizeof gold_schedules / sizeof *gold_schedules; k++) {
        dl_schedule s = schedule_of(k);
        for (int i = 0; i < gold_schedules[k].n; i++) {
            double lr = dl_schedule_lr(&s, i), want = gold_schedules[k].rate[i];
            CHECK(fabs(lr - want) <= 1e-12, "row %d, step %d: %.17g, PyTorch has %.17g", (int)k, i, lr, want);
        }
    }
}

/* The optimizer follows its schedule from the step at which it was set. */
static void schedules_in_use(void)
{
    for (size_t k = 0; k < sizeof gold_schedules / sizeof *gold_schedules; k++) {
        dl_context *ctx = context();
        dl_optimizer *o = sgd(ctx, 0.75, 0, 0);
        dl_schedule s = schedule_of(k);
        for (int i = 0; i < 3; i++) {
            CHECK(dl_get_lr(o) == 0.75, "before the schedule: %g", dl_get_lr(o));
            dl_backward(slope1(ctx, "a", 1));
            dl_step(o);
        }
        CHECK(dl_set_schedule(o, &s), "%s", dl_error(ctx));
        for (int i = 0; i < gold_schedules[k].n; i++) {
            double before = value(ctx, "a"), want = gold_schedules[k].rate[i];
            CHECK(near(dl_get_lr(o), want, 1e-12), "row %d, step %d: dl_get_lr gives %.17g, not %.17g", (int)k, i, dl_get_lr(o), want);
            dl_backward(slope1(ctx, "a", 1));
            dl_step(o);
            double moved = before - value(ctx, "a");
            CHECK(near(moved, want, 1e-12), "row %d, step %d moved by %.17g, not %.17g", (int)k, i, moved, want);
        }
        CHECK(dl_set_schedule(o, &s) && near(dl_get_lr(o), gold_schedules[k].rate[0], 1e-12), "set again, it does not begin again");
        dl_set_lr(o, 0.0625);
        CHECK(dl_get_lr(o) == 0.0625, "dl_set_lr: %g", dl_get_lr(o));
        double before = value(ctx, "a");
        dl_backward(slope1(ctx, "a", 1));
        dl_step(o);
        CHECK(near(before - value(ctx, "a"), 0.0625, 1e-14) && dl_get_lr(o) == 0.0625, "dl_set_lr: moved by %g", before - value(ctx, "a"));
        destroy(ctx);
    }
}

static void schedules_at_their_ends(void)
{
    dl_schedule s;
    memset(&s, 0, sizeof s);
    s.lr = 0.5;
    s.min_lr = 0.125;
    s.total = 10;
    s.kind = DL_SCHEDULE_COSINE;
    for (int i = 10; i < 40; i++) CHECK(dl_schedule_lr(&s, i) == 0.125, "cosine stays at its minimum: %g", dl_schedule_lr(&s, i));
    s.kind = DL_SCHEDULE_ONE_CYCLE;
    for (int i = 9; i < 40; i++)
        CHECK(near(dl_schedule_lr(&s, i), 0.5 / 25 / 1e4, 1e-15), "one cycle after its end: %g", dl_schedule_lr(&s, i));
    for (int total = 1; total < 12; total++) /* PyTorch divides by zero where the way up has one step */
        for (int up = 1; up < 20; up++)
            for (int i = 0; i < total; i++) {
                s.total = total;
                s.up = up / 20.0;
                double lr = dl_schedule_lr(&s, i);
                CHECK(lr > 0 && lr <= 0.5, "one cycle, total %d, up %g, step %d: %g", total, s.up, i, lr);
            }
    memset(&s, 0, sizeof s);
    s.lr = 0.5;
    s.kind = DL_SCHEDULE_STEP;
    s.period = 1;
    CHECK(dl_schedule_lr(&s, INT64_C(1) << 62) >= 0, "a far step");
    s.warmup = 4;
    s.kind = DL_SCHEDULE_CONSTANT;
    for (int i = 0; i < 4; i++) CHECK(dl_schedule_lr(&s, i) == 0.5 * (i + 1) / 4, "warm-up %d: %g", i, dl_schedule_lr(&s, i));
    CHECK(dl_schedule_lr(&s, 4) == 0.5, "after the warm-up: %g", dl_schedule_lr(&s, 4));
}

/* One sigmoid neuron, x = 1, target 0: MSE learns slowly from a bad start, cross-entropy does not. */
static void sigmoid_neuron(void)
{
    static const struct { double w, b; bool ce; double rate, a[4]; } runs[] = {
        { 0.6, 0.9, false, 0.15, { 0.8176, 0.2110, 0.1237, 0.093956 } },
        { 2, 2, false, 0.15, { 0.9820, 0.9641, 0.7887, 0.202848 } },
        { 2, 2, true, 0.15, { 0.9820, 0.0411, 0.0186, 0.012009 } },
        { 2, 2, true, 0.005, { 0.9820, 0.9539, 0.8912, 0.779587 } },
    };
    for (size_t k = 0; k < sizeof runs / sizeof *runs; k++)
        for (int logits = 0; logits <= runs[k].ce; logits++) { /* cross-entropy in both its forms */
            dl_context *ctx = context();
            dl_optimizer *o = sgd(ctx, runs[k].rate, 0, 0);
            param(ctx, "w", 1, 0);
            param(ctx, "b", 1, 0);
            dl_param_set(ctx, "w", &runs[k].w, 1);
            dl_param_set(ctx, "b", &runs[k].b, 1);
            for (int i = 0; i <= 300; i++) {
                dl_tensor x = dl_full(ctx, DL_SHAPE(1), 1), y = dl_full(ctx, DL_SHAPE(1), 0);
                dl_tensor z = dl_add(dl_mul(param(ctx, "w", 1, 0), x), param(ctx, "b", 1, 0)), a = dl_keep(dl_sigmoid(z));
                dl_tensor mse = runs[k].ce ? a : dl_mul_scalar(dl_mse(a, y, DL_MEAN), 0.5f);
                dl_backward(logits ? dl_bce_with_logits(z, y, DL_MEAN) : runs[k].ce ? dl_bce(a, y, DL_MEAN) : mse);
                double got = dl_item(a), want = runs[k].a[i / 100], most = i == 300 ? 5.1e-7 : 5.1e-5;
                if (i % 100 == 0) CHECK(fabs(got - want) <= most, "run %d, step %d: %.7f, not %g", (int)k, i, got, want);
                dl_step(o);
            }
            destroy(ctx);
        }
}

int main(void)
{
    RUN(golden_trajectories);
    RUN(optimizers_as_in_pytorch);
    RUN(groups);
    RUN(groups_of_adamw);
    RUN(select_parameters);
    RUN(frozen_parameters);
    RUN(frozen_after_backward);
    RUN(without_gradient);
    RUN(fresh_gradients);
    RUN(clip_norm);
    RUN(clip_norm_of_many);
    RUN(clip_value);
    RUN(schedules_as_in_pytorch);
    RUN(schedules_in_use);
    RUN(schedules_at_their_ends);
    RUN(sigmoid_neuron);
    return REPORT();
}
