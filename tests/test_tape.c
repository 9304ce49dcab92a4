/* The tape: names, lifetimes, what can be read when, gradients of all kinds, the seal, user operations, random numbers and contexts in
   threads of their own. tests: tsan */
#include "../dltrain.h"
#include "test.h"
#include <pthread.h>
#include <unistd.h>
#define COUNT(array) (sizeof (array) / sizeof *(array))
#define SAYS(part) CHECK(dl_failed(c) && strstr(dl_error(c), part), "'%s' does not say '%s'", dl_error(c), part)
#define FINE() CHECK(!dl_failed(c), "%s", dl_error(c))

static dl_context *make(uint64_t seed) { return dl_create(&(dl_config){ .seed = seed, .threads = 1 }); }

/* In [-1, 1), without a pattern; multiples of 1/128, so that small sums and products are exact. */
static dl_tensor some(dl_context *c, dl_shape s, int salt)
{
    dl_real v[4096];
    uint32_t state = 12345u + (uint32_t)salt * 7919u;
    size_t n = 1;
    for (int i = 0; i < s.ndim; i++) n *= (size_t)s.dim[i];
    for (size_t i = 0; i < n; i++) {
        state = state * 1664525u + 1013904223u;
        v[i] = (dl_real)(state >> 24) / 128 - 1;
    }
    return dl_input(c, DL_F32, s, v);
}
#define SOME(salt, ...) some(c, DL_SHAPE(__VA_ARGS__), salt)
#define INPUT(n, ...) dl_input(c, DL_F32, DL_SHAPE(n), (dl_real[]){ __VA_ARGS__ })
#define VARIABLE(n, ...) dl_variable(c, DL_SHAPE(n), (dl_real[]){ __VA_ARGS__ })

/* A parameter that starts with i + 1 in element i. */
static dl_tensor counting(dl_context *c, const char *name, dl_index n)
{
    dl_param_desc d = { .shape = DL_SHAPE(n), .init = DL_INIT_CONSTANT, .value = 0.5f };
    dl_real v[64];
    int before = dl_param_count(c);
    dl_tensor w = dl_parameter(c, name, &d);
    for (int i = 0; i < 64; i++) v[i] = (dl_real)(i + 1);
    if (dl_param_count(c) > before) dl_param_set(c, name, v, (size_t)n);
    return w;
}

static double grad(dl_context *c, const char *name, int k)
{
    dl_param_info p;
    return dl_param_find(c, name, &p) && p.grad && p.has_grad ? (double)p.grad[k] : NAN;
}

static double value(dl_context *c, const char *name, int k)
{
    dl_param_info p;
    return dl_param_find(c, name, &p) && p.value ? (double)p.value[k] : NAN;
}

static bool has_grad(dl_context *c, const char *name)
{
    dl_param_info p;
    return dl_param_find(c, name, &p) && p.has_grad;
}

static double at(dl_tensor t, int k)
{
    const dl_real *p = (const dl_real *)dl_data(t);
    return p ? (double)p[k] : NAN;
}

static dl_tensor loss_of(dl_tensor y) { return dl_mean(dl_square(y)); }

static dl_optimizer *sgd(dl_context *c, double lr) { return dl_sgd(c, &(dl_sgd_desc){ .lr = (dl_real)lr }); }

/* ---- names ---- */
static void scopes_nest(void)
{
    static const char *const want[] = { "a.b.l.weight", "a.b.l.bias", "a.l.weight", "a.l.bias", "l.weight", "l.bias", "a.c.d.l.weight",
        "a.c.d.l.bias", "a.p" };
    dl_context *c = make(1);
    dl_param_info p;
    CHECK(dl_scope_begin(c, "a") && dl_scope_begin(c, "b"), "%s", dl_error(c));
    dl_linear(SOME(1, 2, 3), "l", 2);
    CHECK(dl_scope_end(c), "%s", dl_error(c));
    dl_linear(SOME(1, 2, 3), "l", 2);
    dl_scope_end(c);
    dl_linear(SOME(1, 2, 3), "l", 2);
    dl_scope_begin(c, "a.c");
    dl_scope_begin(c, "d");
    dl_linear(SOME(1, 2, 3), "l", 2);
    dl_scope_end(c);
    dl_scope_end(c);
    dl_scope_begin(c, "a");
    dl_parameter(c, "p", &(dl_param_desc){ .shape = DL_SHAPE(2) });
    dl_scope_end(c);
    CHECK(dl_param_count(c) == (int)COUNT(want), "%d parameters", dl_param_count(c));
    for (int i = 0; i < (int)COUNT(want) && dl_param_get(c, i, &p); i++)
        CHECK(!strcmp(p.name, want[i]), "%d is %s, not %s", i, p.name, want[i]);
    FINE();
    CHECK(!dl_scope_end(c), "one scope_end too many was taken");
    SAYS("dl_scope_end");
    dl_destroy(c);
}

static void layer_name_twice(void)
{
    for (int deep = 0; deep < 2; deep++) {
        dl_context *c = make(1);
        if (deep) dl_scope_begin(c, "net");
        dl_linear(SOME(1, 2, 3), "l", 3);
        FINE();
        CHECK(!dl_ok(dl_linear(SOME(1, 2, 3), "l", 3)), "a name used twice was taken");
        SAYS(deep ? "dl_linear: 'l' is already used in 'net'" : "dl_linear: 'l' is already used in this step");
        SAYS("open a scope per call to share it");
        dl_clear_error(c);
        dl_linear(SOME(1, 2, 3), "l", 3); /* the root, opened anew */
        FINE();
        dl_scope_begin(c, "net"); /* an inner scope does not make the outer name free again */
        dl_linear(SOME(1, 2, 3), "l", 3);
        dl_scope_end(c);
        FINE();
        dl_linear(SOME(1, 2, 3), "l", 3);
        SAYS("already used");
        dl_destroy(c);
    }
}

static void scope_reopened_shares(void)
{
    dl_context *c = make(1);
    dl_tensor y[2];
    for (int i = 0; i < 2; i++) {
        dl_scope_begin(c, "net");
        y[i] = dl_linear(i ? INPUT(3, 4, 5, 6) : INPUT(3, 1, 2, 3), "l", 2);
        dl_scope_end(c);
    }
    CHECK(dl_param_count(c) == 2, "%d parameters", dl_param_count(c));
    dl_backward(dl_add(dl_sum(y[0]), dl_sum(y[1])));
    for (int k = 0; k < 6; k++) CHECK(grad(c, "net.l.weight", k) == 5 + 2 * (k % 3), "gradient %d is %g", k, grad(c, "net.l.weight", k));
    for (int k = 0; k < 2; k++) CHECK(grad(c, "net.l.bias", k) == 2, "gradient %d of the bias is %g", k, grad(c, "net.l.bias", k));
    FINE();
    dl_destroy(c);
}

static void root_opens_anew(void)
{
    dl_context *c = make(1);
    for (int i = 0; i < 4; i++) {
        dl_tensor y = dl_linear(SOME(1, 2, 3), "l", 3);
        if (i & 1) dl_end(c);
        else dl_backward(loss_of(y));
    }
    dl_scope_begin(c, "left open");
    dl_end(c);
    dl_linear(SOME(1, 2, 3), "l", 3);
    CHECK(dl_param_count(c) == 2, "a scope outlived its step: %d parameters", dl_param_count(c));
    FINE();
    dl_destroy(c);
}

static void parameters(void)
{
    dl_context *c = make(1);
    dl_param_desc d = { .shape = DL_SHAPE(2, 3), .init = DL_INIT_CONSTANT, .value = 0.25f };
    dl_param_info p;
    dl_real v[6] = { 1, 2, 3, 4, 5, 6 };
    dl_tensor w = dl_parameter(c, "w", &d), again = dl_parameter(c, "w", &d);
    CHECK(w.node == again.node && dl_param_count(c) == 1, "a parameter asked for twice is not one tensor");
    CHECK(dl_param_find(c, "w", &p) && !p.value && !p.grad, "a place before the first run");
    CHECK(p.shape.ndim == 2 && p.shape.dim[0] == 2 && p.shape.dim[1] == 3 && p.numel == 6, "wrong shape");
    CHECK(!p.buffer && !p.frozen && !p.has_grad, "wrong flags");
    dl_backward(dl_sum(w));
    CHECK(dl_param_get(c, 0, &p) && p.value && p.grad && p.has_grad, "no place after the run");
    for (int i = 0; i < 6; i++)
        CHECK(value(c, "w", i) == 0.25 && grad(c, "w", i) == 1, "element %d: %g, gradient %g", i, value(c, "w", i), grad(c, "w", i));
    CHECK(dl_param_set(c, "w", v, 6), "%s", dl_error(c));
    w = dl_parameter(c, "w", &d);
    CHECK(at(w, 4) == 5, "dl_param_set is not seen: %g", at(w, 4));
    dl_end(c);
    d = (dl_param_desc){ .shape = DL_SHAPE(3), .init = DL_INIT_CONSTANT, .value = 7, .buffer = true };
    dl_tensor b = dl_parameter(c, "b", &d);
    CHECK(dl_param_set(c, "b", v, 3) && at(b, 1) == 2, "set before the first run: %g", at(b, 1));
    CHECK(dl_param_find(c, "b", &p) && p.buffer && p.value && !p.grad, "not a buffer");
    dl_end(c);
    FINE();
    CHECK(!dl_param_find(c, "v", &p), "found what is not there");
    SAYS("there is no parameter 'v'; the nearest is ");
    dl_clear_error(c);
    CHECK(!dl_param_get(c, 2, &p) && dl_failed(c), "there are 2 parameters");
    dl_clear_error(c);
    CHECK(!dl_param_set(c, "w", v, 5), "a wrong count was taken");
    SAYS("'w' has 6 elements, not 5");
    dl_destroy(c);
}

static void parameter_other_desc(void)
{
    static const struct { dl_param_desc d; const char *says; } rows[] = {
        { { .shape = { 1, { 4 } }, .init = DL_INIT_NORMAL, .value = 1 }, "'w' is [3], asked for as [4]" },
        { { .shape = { 2, { 3, 1 } }, .init = DL_INIT_NORMAL, .value = 1 }, "'w' is [3], asked for as [3,1]" },
        { { .shape = { 1, { 3 } }, .init = DL_INIT_NORMAL, .value = 2 }, "'w' exists with another initialiser" },
        { { .shape = { 1, { 3 } }, .init = DL_INIT_UNIFORM, .value = 1 }, "'w' exists with another initialiser" },
        { { .shape = { 1, { 3 } }, .init = DL_INIT_NORMAL, .value = 1, .buffer = true }, "'w' exists with another initialiser" },
    };
    dl_context *c = make(1);
    for (size_t i = 0; i < COUNT(rows); i++) {
        dl_parameter(c, "w", &(dl_param_desc){ .shape = DL_SHAPE(3), .init = DL_INIT_NORMAL, .value = 1 });
        FINE();
        CHECK(!dl_ok(dl_parameter(c, "w", &rows[i].d)), "row %d was taken", (int)i);
        SAYS(rows[i].says);
        dl_clear_error(c);
    }
    CHECK(dl_param_count(c) == 1, "%d parameters", dl_param_count(c));
    dl_destroy(c);
}

static void glob_table(void)
{
    static const struct { const char *pattern, *name; bool match; } rows[] = {
        { "*", "a", true }, { "*", "", true }, { "", "", true }, { "", "a", false }, { "a", "", false }, { "?", "a", true },
        { "?", "", false }, { "?", "ab", false }, { "a*c", "abbc", true }, { "a*c", "ac", true }, { "a*c", "acb", false },
        { "a*b*c", "a.b.b.c", true },
        { "*.bias", "fc1.bias", true }, { "*.bias", "fc1.bias2", false }, { "*.bias", "bias", false }, { "fc?.weight", "fc1.weight", true },
        { "fc?.weight", "fc12.weight", false }, { "a|b", "b", true }, { "a|b", "ab", false }, { "a|b", "a|b", false }, { "a|", "", true },
        { "|a", "", true }, { "|", "", true }, { "x|*.bias|y?", "yz", true }, { "x|*.bias|y?", "l.bias", true },
        { "x|*.bias|y?", "y", false }, { "**", "ab", true },
        { "*a", "aab", false }, { "*ab", "aab", true }, { "a*", "ba", false }, { "A", "a", false }, { "a.b", "axb", false },
        { "*?", "", false },
        { "?*?", "ab", true }, { "?*?", "a", false }, { "*x*y*", "aaxbbycc", true }, { "*x*y*", "aaybbxcc", false }, { "ab*|a", "a", true },
    };
    for (size_t i = 0; i < COUNT(rows); i++)
        CHECK(dl_glob(rows[i].pattern, rows[i].name) == rows[i].match, "'%s' and '%s'", rows[i].pattern, rows[i].name);
}

static void freeze(void)
{
    dl_context *c = make(1);
    dl_optimizer *o = dl_sgd(c, &(dl_sgd_desc){ .lr = 0.5f, .momentum = 0.5f, .weight_decay = 0.125f });
    dl_param_info p;
    dl_backward(dl_add(dl_sum(counting(c, "a.w", 2)), dl_sum(counting(c, "b.w", 2)))); /* a gradient from before the freeze */
    CHECK(dl_freeze(c, "a.*", true), "%s", dl_error(c));
    CHECK(dl_param_find(c, "a.w", &p) && p.frozen && dl_param_find(c, "b.w", &p) && !p.frozen, "frozen is wrong");
    dl_step(o);
    CHECK(value(c, "a.w", 1) == 2 && value(c, "b.w", 1) != 2, "a %g, b %g", value(c, "a.w", 1), value(c, "b.w", 1));
    for (int i = 0; i < 3; i++) {
        dl_backward(dl_sum(dl_mul(counting(c, "a.w", 2), counting(c, "b.w", 2))));
        CHECK(!has_grad(c, "a.w") && has_grad(c, "b.w") && grad(c, "b.w", 1) == 2, "gradients of step %d", i);
        dl_step(o);
        CHECK(value(c, "a.w", 0) == 1 && value(c, "a.w", 1) == 2, "a frozen parameter moved");
    }
    dl_freeze(c, "*", true);
    FINE();
    dl_backward(dl_sum(counting(c, "a.w", 2)));
    SAYS("no parameter that can be trained");
    dl_clear_error(c);
    dl_freeze(c, "a.w", false);
    dl_backward(dl_sum(counting(c, "a.w", 2)));
    dl_step(o);
    CHECK(value(c, "a.w", 1) < 2, "thawed, and does not move");
    FINE();
    CHECK(!dl_freeze(c, "c.*|d", true), "a pattern without match was taken");
    SAYS("dl_freeze: no parameter matches 'c.*|d'");
    dl_destroy(c);
}

/* ---- the seal ---- */
typedef struct lines { int n; char line[16][200]; } lines;
static void note(const char *sentence, void *user)
{
    lines *l = (lines *)user;
    if (l->n < 16) snprintf(l->line[l->n++], sizeof *l->line, "%s", sentence);
}

static dl_tensor sealed_net(dl_context *c, const char *last)
{
    dl_tensor x = dl_batch_norm(dl_linear(SOME(1, 4, 3), "fc1", 5), "bn", NULL);
    return loss_of(dl_linear(x, last, 2));
}

static void seal(void)
{
    static const char *const want[] = { "parameter fc1.weight [5,3]", "parameter fc1.bias [5]", "parameter bn.weight [5]",
        "parameter bn.bias [5]", "buffer bn.running_mean [5]", "buffer bn.running_var [5]", "parameter head.weight [2,5]",
        "parameter head.bias [2]" };
    for (int by_step = 0; by_step < 2; by_step++) {
        static lines log;
        memset(&log, 0, sizeof log);
        dl_context *c = dl_create(&(dl_config){ .threads = 1, .log = note, .log_user = &log });
        dl_optimizer *o = sgd(c, 0.1);
        dl_backward(sealed_net(c, "head"));
        CHECK(log.n == 0, "'%s' before the seal", log.line[0]);
        for (int i = 0; i < 2; i++) CHECK(by_step ? dl_step(o) : dl_seal(c), "%s", dl_error(c));
        CHECK(log.n == (int)COUNT(want), "%d lines", log.n);
        for (int i = 0; i < (int)COUNT(want); i++) CHECK(!strcmp(log.line[i], want[i]), "'%s', not '%s'", log.line[i], want[i]);
        dl_backward(sealed_net(c, "head"));
        FINE();
        CHECK(!dl_ok(sealed_net(c, "haed")), "a misspelt name was taken");
        SAYS("dl_linear: there is no parameter 'haed.weight'");
        SAYS("the nearest is 'head.weight'");
        CHECK(log.n == (int)COUNT(want) + 1 && !strcmp(log.line[log.n - 1], dl_error(c)), "the error was not told");
        dl_clear_error(c);
        dl_scope_begin(c, "fc1");
        dl_parameter(c, "biass", &(dl_param_desc){ .shape = DL_SHAPE(5) });
        SAYS("the nearest is 'fc1.bias'");
        dl_clear_error(c);
        CHECK(dl_param_count(c) == (int)COUNT(want), "%d parameters", dl_param_count(c));
        dl_destroy(c);
    }
}

/* ---- what can be read ---- */
enum { HANDLES = 24, SMALL = 1, UNREAD = 2 };
typedef struct handles { int n; dl_tensor t[HANDLES]; int must[HANDLES]; } handles;

static dl_tensor hold(handles *h, dl_tensor t, int must)
{
    h->t[h->n] = t;
    h->must[h->n++] = must;
    return t;
}

/* A step with values of every kind. `must`: why the value has to be readable. */
static dl_tensor step_of(dl_context *c, handles *h)
{
    h->n = 0;
    dl_tensor x = hold(h, SOME(1, 20, 30), 0);
    dl_tensor a = hold(h, dl_linear(x, "fc1", 40), 0), b = hold(h, dl_relu(a), 0);
    hold(h, dl_tanh(a), UNREAD);
    hold(h, dl_mul_scalar(b, 3), UNREAD);
    hold(h, dl_transpose(b, 0, 1), UNREAD);
    dl_tensor v = hold(h, dl_reshape(b, DL_SHAPE(40, 20)), 0), w = hold(h, dl_exp(dl_mul_scalar(v, 0.25f)), 0);
    dl_tensor few = hold(h, dl_slice(w, 0, 0, 1, 1), 0); /* [1,20] */
    hold(h, dl_slice(w, 0, 3, 9, 2), UNREAD);
    dl_tensor tiny = hold(h, dl_sum_dims(few, (int[]){ 1 }, 1, false), SMALL);
    dl_tensor row = hold(h, dl_sum_dims(w, (int[]){ 0 }, 1, false), 0);
    dl_tensor max = hold(h, dl_max_dims(w, (int[]){ 0, 1 }, 2, false), SMALL);
    dl_tensor sixteen = hold(h, dl_slice(row, 0, 0, 16, 1), SMALL), corner = hold(h, dl_slice(b, 0, 0, 1, 1), 0);
    dl_tensor edge = hold(h, dl_slice(dl_flatten(corner, 0), 0, 4, 20, 1), SMALL); /* 64 bytes of a larger value */
    dl_tensor half = hold(h, dl_mul_scalar(sixteen, 0.5f), SMALL), cut = hold(h, dl_dropout(b, 0.5f), 0);
    dl_tensor sum = hold(h, dl_add(dl_sum(dl_mul(half, dl_exp(edge))), dl_add(dl_mean(cut), dl_sum(tiny))), SMALL);
    hold(h, dl_argmax(b, 1, false), UNREAD);
    return hold(h, dl_add(dl_add(sum, max), loss_of(dl_linear(b, "fc2", 3))), SMALL);
}

static void reading_after_the_run(void)
{
    static unsigned char want[HANDLES][8192], got[8192];
    handles h, g;
    int gone = 0;
    for (int mode = 0; mode < 4; mode++) { /* dl_backward; dl_end; dl_end in a no-grad region; dl_item of the loss there */
        dl_context *r = dl_create(&(dl_config){ .threads = 1, .no_reuse = true, .no_fusion = true });
        dl_tensor loss = step_of(r, &g);
        for (int i = 0; i < g.n; i++) dl_keep(g.t[i]);
        if (mode) dl_end(r);
        else dl_backward(loss);
        for (int i = 0; i < g.n; i++) CHECK(dl_read(g.t[i], want[i], dl_numel(g.t[i])), "%s", dl_error(r));
        for (int i = 0; i < g.n; i++)
            for (int keep = 0; keep < 2; keep++) {
                dl_context *c = make(0);
                dl_set_grad(c, mode < 2);
                loss = step_of(c, &h);
                if (keep) CHECK(dl_ok(dl_keep(h.t[i])), "%s", dl_error(c));
                if (mode == 0) dl_backward(loss);
                else if (mode == 3) dl_item(loss);
                else dl_end(c);
                FINE();
                size_t n = dl_numel(h.t[i]);
                const char *why = keep ? ", kept" : h.must[i] == SMALL ? ", small" : h.must[i] ? ", not consumed" : "";
                if (dl_read(h.t[i], got, n)) CHECK(!memcmp(got, want[i], 4 * n), "mode %d: value %d%s: other bytes", mode, i, why);
                else {
                    gone++;
                    CHECK(!keep && !h.must[i], "mode %d: value %d%s: %s", mode, i, why, dl_error(c));
                    SAYS("was planned away: call dl_keep before dl_backward");
                }
                dl_destroy(c);
            }
        dl_destroy(r);
    }
    CHECK(gone > 4, "only %d values were planned away: what is tested here?", gone);
}

static void stale_handles(void)
{
    dl_context *c = make(1);
    dl_real out[2];
    dl_tensor w = counting(c, "w", 2), y = dl_mul_scalar(w, 3), loss = dl_sum(y);
    dl_backward(loss);
    CHECK(dl_item(loss) == 9 && at(y, 1) == 6 && dl_numel(y) == 2, "%s", dl_error(c)); /* nothing recorded yet */
    CHECK(!dl_backward(loss), "dl_backward twice");
    SAYS("the step has ended already");
    dl_clear_error(c);
    for (int i = 0; i < 6; i++) {
        w = counting(c, "w", 2);
        y = dl_mul_scalar(w, 3);
        dl_end(c);
        if (i == 0) dl_add(y, y); /* recording with them is too late even before the next operation */
        else counting(c, "w", 2);
        if (i == 1) dl_data(y);
        if (i == 2) dl_read(y, out, 2);
        if (i == 3) dl_numel(y);
        if (i == 4) dl_add(y, w);
        if (i == 5) dl_keep(y);
        SAYS("stale");
        dl_clear_error(c);
    }
    y = dl_mul_scalar(counting(c, "w", 2), 3);
    dl_end(c);
    CHECK(!dl_ok(dl_keep(y)), "dl_keep after the run");
    SAYS("dl_keep: the step has ended");
    dl_destroy(c);
}

static dl_tensor read_net(dl_context *c, bool read)
{
    dl_tensor a = dl_linear(SOME(1, 20, 30), "fc1", 40), b = dl_relu(a), d = dl_dropout(dl_exp(b), 0.25f);
    if (read) CHECK(at(b, 0) == (at(a, 0) > 0 ? at(a, 0) : 0), "mid-step: %s", dl_error(c));
    dl_tensor e = dl_linear(dl_mul(d, b), "fc2", 20), l = loss_of(dl_add(e, dl_slice(b, 1, 0, 20, 1)));
    if (read) CHECK(dl_item(l) == dl_item(l) && at(e, 3) == at(e, 3), "%s", dl_error(c));
    return dl_add(l, dl_mean(dl_mul(a, d)));
}

static void reading_in_mid_step(void)
{
    dl_context *c = make(3), *d = make(3);
    dl_param_info p, q;
    for (int i = 0; i < 3; i++) { /* gradients add up; the plans of both kinds are used again */
        dl_backward(read_net(c, true));
        dl_backward(read_net(d, false));
    }
    FINE();
    for (int i = 0; i < 4 && dl_param_get(c, i, &p) && dl_param_get(d, i, &q); i++)
        CHECK(p.grad && q.grad && !memcmp(p.grad, q.grad, p.numel * sizeof *p.grad), "%s has another gradient", p.name);
    dl_destroy(c);
    dl_destroy(d);
}

static void former_values(void)
{
    dl_context *c = make(1);
    CHECK(dl_train(c, false) && !dl_train(c, false) && !dl_train(c, true) && dl_train(c, true), "dl_train");
    CHECK(dl_set_grad(c, false) && !dl_set_grad(c, false) && !dl_set_grad(c, true) && dl_set_grad(c, true), "dl_set_grad");
    dl_destroy(c);
}

/* ---- gradients ---- */
static void backward_retained(void)
{
    dl_context *c = make(1);
    dl_tensor w = counting(c, "w", 3), x = INPUT(3, 2, 4, 8), one = dl_sum(dl_mul(w, x)), two = dl_sum(dl_mul(w, w));
    const dl_backward_desc retain = { .retain = true };
    CHECK(dl_backward_ex(one, &retain) && grad(c, "w", 2) == 8, "first: %g", grad(c, "w", 2));
    CHECK(dl_backward_ex(two, &retain) && grad(c, "w", 2) == 8 + 6, "second: %g", grad(c, "w", 2));
    dl_tensor three = dl_mul_scalar(one, 10); /* the step goes on */
    CHECK(dl_backward(three) && grad(c, "w", 2) == 8 + 6 + 80, "third: %g", grad(c, "w", 2));
    CHECK(grad(c, "w", 0) == 2 + 2 + 20 && grad(c, "w", 1) == 4 + 4 + 40, "%g %g", grad(c, "w", 0), grad(c, "w", 1));
    CHECK(dl_item(one) == 34 && dl_item(three) == 340, "%s", dl_error(c));
    FINE();
    dl_destroy(c);
}

static void backward_scaled(void)
{
    dl_context *c = make(1);
    for (int i = 0; i < 3; i++) {
        dl_tensor w = counting(c, "w", 3);
        dl_backward_ex(dl_sum(dl_mul(w, w)), &(dl_backward_desc){ .scale = i == 2 ? 0 : i ? -2 : 0.25f });
        CHECK(grad(c, "w", 2) == (i == 2 ? -4.5 : i ? -10.5 : 1.5), "step %d: %g", i, grad(c, "w", 2));
    }
    dl_zero_grad(c);
    CHECK(!has_grad(c, "w"), "dl_zero_grad");
    dl_backward(dl_sum(counting(c, "w", 3)));
    CHECK(grad(c, "w", 2) == 1, "the gradient is not fresh: %g", grad(c, "w", 2));
    FINE();
    dl_destroy(c);
}

static dl_tensor part(dl_context *c, const char *scope, dl_tensor x)
{
    dl_scope_begin(c, scope);
    dl_tensor y = dl_linear(dl_relu(dl_linear(x, "l1", 6)), "l2", 5);
    dl_scope_end(c);
    return y;
}

static void backward_pattern(void)
{
    dl_context *c = make(1);
    dl_real before[30];
    dl_param_info p;
    dl_backward_ex(loss_of(part(c, "d", part(c, "g", SOME(1, 4, 5)))), &(dl_backward_desc){ .pattern = "g.*" });
    CHECK(has_grad(c, "g.l1.weight") && has_grad(c, "g.l2.bias"), "the generator has no gradient");
    CHECK(!has_grad(c, "d.l1.weight") && !has_grad(c, "d.l2.bias"), "the discriminator has a gradient");
    dl_zero_grad(c);
    dl_tensor fake = part(c, "g", SOME(1, 4, 5));
    dl_tensor loss = dl_add(loss_of(part(c, "d", SOME(2, 4, 5))), loss_of(part(c, "d", dl_detach(fake))));
    dl_backward_ex(loss, &(dl_backward_desc){ .pattern = "d.*" });
    CHECK(!has_grad(c, "g.l1.weight") && dl_param_find(c, "d.l1.weight", &p) && p.has_grad && p.numel == 30, "who has a gradient?");
    memcpy(before, p.grad, sizeof before);
    dl_backward_ex(loss_of(part(c, "d", part(c, "g", SOME(3, 4, 5)))), &(dl_backward_desc){ .pattern = "x|g.*" });
    CHECK(has_grad(c, "g.l1.weight") && dl_param_find(c, "d.l1.weight", &p), "%s", dl_error(c));
    CHECK(!memcmp(before, p.grad, sizeof before), "the generator's step touched the discriminator");
    FINE();
    dl_tensor y = part(c, "g", SOME(3, 4, 5));
    CHECK(!dl_backward_ex(dl_sum(y), &(dl_backward_desc){ .pattern = "h.*" }), "a pattern without match was taken");
    SAYS("no parameter matches 'h.*'");
    dl_destroy(c);
}

static void grad_of_cube(void)
{
    for (int eager = 0; eager < 2; eager++) {
        dl_context *c = dl_create(&(dl_config){ .threads = 1, .eager = eager });
        for (int way = 0; way < 2; way++) {
            dl_tensor x = VARIABLE(3, 2, -1, 3), d1, d2, d3, y = way ? dl_pow_scalar(x, 3) : dl_mul(x, dl_mul(x, x));
            dl_grad(dl_sum(y), &x, 1, &d1);
            dl_grad(dl_sum(d1), &x, 1, &d2);
            dl_grad(dl_sum(d2), &x, 1, &d3);
            for (int k = 0; k < 3; k++) {
                double v = k == 0 ? 2 : k == 1 ? -1 : 3;
                CHECK(fabs(at(d1, k) - 3 * v * v) < 1e-5 && fabs(at(d2, k) - 6 * v) < 1e-5 && fabs(at(d3, k) - 6) < 1e-5,
                    "way %d, x %g: %g %g %g", way, v, at(d1, k), at(d2, k), at(d3, k));
            }
            dl_end(c);
        }
        FINE();
        dl_destroy(c);
    }
}

static void grad_of_many(void)
{
    dl_context *c = make(1);
    dl_tensor a = VARIABLE(2, 3, 4), b = VARIABLE(2, 5, 6), lone = VARIABLE(4, 1, 2, 3, 4), w = counting(c, "w", 2), in[5], dx[5];
    dl_tensor ab = dl_mul(a, b), y = dl_sum(dl_mul(ab, w)), late = dl_mul_scalar(a, 2);
    in[0] = a, in[1] = lone, in[2] = w, in[3] = ab, in[4] = late;
    CHECK(dl_grad(y, in, 5, dx), "%s", dl_error(c));
    CHECK(at(dx[0], 0) == 5 && at(dx[0], 1) == 12, "a: %g %g", at(dx[0], 0), at(dx[0], 1));
    CHECK(dl_numel(dx[1]) == 4 && at(dx[1], 0) == 0 && at(dx[1], 3) == 0, "what y does not depend on: %g", at(dx[1], 0));
    CHECK(at(dx[2], 0) == 15 && at(dx[2], 1) == 24, "a parameter: %g %g", at(dx[2], 0), at(dx[2], 1));
    CHECK(at(dx[3], 0) == 1 && at(dx[3], 1) == 2, "what is made of variables: %g %g", at(dx[3], 0), at(dx[3], 1));
    CHECK(dl_numel(dx[4]) == 2 && at(dx[4], 0) == 0, "what came after y: %g", at(dx[4], 0));
    CHECK(dl_grad(y, &y, 1, dx) && dl_item(dx[0]) == 1, "dy/dy: %g", dl_item(dx[0]));
    dl_end(c);
    CHECK(!has_grad(c, "w"), "dl_grad left a gradient at a parameter");
    FINE();
    a = INPUT(2, 1, 2);
    b = VARIABLE(2, 1, 2);
    CHECK(!dl_grad(dl_sum(dl_mul(a, b)), &a, 1, dx), "an input takes no gradient");
    SAYS("dl_variable and parameters do");
    dl_destroy(c);
}

static void grad_penalty(void) /* a loss made of a gradient */
{
    dl_context *c = make(1);
    for (int i = 0; i < 2; i++) {
        dl_tensor w = counting(c, "w", 3), g;
        dl_grad(dl_sum(dl_mul(w, dl_mul(w, w))), &w, 1, &g);
        dl_backward(dl_sum(dl_square(g))); /* sum (3 w^2)^2: 36 w^3 */
        CHECK(fabs(grad(c, "w", 2) / ((i + 1) * 36 * 27) - 1) < 1e-6, "through a parameter: %g", grad(c, "w", 2));
    }
    dl_zero_grad(c);
    dl_tensor x = VARIABLE(3, 1, 2, 3), w = counting(c, "w", 3), g;
    dl_grad(dl_sum(dl_mul(w, dl_mul(x, x))), &x, 1, &g); /* 2 w x */
    dl_backward(dl_sum(dl_square(g)));                   /* 4 w^2 x^2: 8 w x^2 */
    for (int k = 0; k < 3; k++) CHECK(grad(c, "w", k) == 8 * (k + 1) * (k + 1) * (k + 1), "%d: %g", k, grad(c, "w", k));
    FINE();
    dl_destroy(c);
}

static void variables_and_detach(void)
{
    dl_context *c = make(1);
    dl_real data[2] = { 3, 5 };
    dl_tensor x = dl_variable(c, DL_SHAPE(2), data), g;
    data[0] = data[1] = -1;
    dl_tensor y = dl_mul(x, dl_detach(x));
    dl_grad(dl_sum(y), &x, 1, &g);
    CHECK(at(x, 0) == 3 && at(y, 0) == 9 && at(y, 1) == 25, "dl_variable does not copy: %g %g", at(x, 0), at(y, 1));
    CHECK(at(g, 0) == 3 && at(g, 1) == 5, "dl_detach lets a gradient through: %g %g", at(g, 0), at(g, 1));
    dl_end(c);
    dl_tensor w = counting(c, "w", 2), h = dl_mul_scalar(w, 3), d = dl_detach(h);
    dl_backward(dl_sum(dl_mul(d, dl_add(w, d)))); /* 3w (w + 3w), the 3w held fixed: 3w */
    CHECK(grad(c, "w", 0) == 3 && grad(c, "w", 1) == 6, "%g %g", grad(c, "w", 0), grad(c, "w", 1));
    FINE();
    CHECK(!dl_backward(dl_sum(dl_detach(counting(c, "w", 2)))), "nothing to train was taken");
    SAYS("depends on no parameter");
    dl_destroy(c);
}

static void no_grad_region(void)
{
    dl_context *c = make(1);
    dl_tensor w = counting(c, "w", 2);
    bool was = dl_set_grad(c, false);
    dl_tensor h = dl_mul_scalar(w, 3);
    dl_set_grad(c, was);
    dl_backward(dl_sum(dl_mul(h, w)));
    CHECK(grad(c, "w", 0) == 3 && grad(c, "w", 1) == 6, "%g %g", grad(c, "w", 0), grad(c, "w", 1));
    dl_set_grad(c, false);
    dl_tensor y = dl_sum(dl_mul_scalar(counting(c, "w", 2), 2));
    CHECK(dl_item(y) == 6, "%g", dl_item(y));
    CHECK(!dl_backward(y), "a gradient in a no-grad region");
    SAYS("dl_backward: ");
    dl_clear_error(c);
    dl_set_grad(c, true);
    CHECK(grad(c, "w", 1) == 6, "the gradient changed");
    dl_destroy(c);
}

static void end_of_step(void)
{
    dl_context *c = make(1);
    dl_end(c); /* an empty one */
    dl_batch_norm(dl_reshape(INPUT(2, 1, 3), DL_SHAPE(2, 1)), "bn", NULL);
    dl_tensor y = dl_sum(INPUT(2, 1, 3));
    dl_end(c);
    dl_end(c);
    CHECK(dl_item(y) == 4, "%g", dl_item(y));
    CHECK(fabs(value(c, "bn.running_mean", 0) - 0.2) < 1e-6, "dl_end runs everything: %g", value(c, "bn.running_mean", 0));
    FINE();
    dl_destroy(c);
}

/* What a failed backward left unwritten is no gradient: the next one starts as if it had not been. */
static void gradients_after_an_error(void)
{
    dl_context *c = make(1);
    for (int i = 0; i < 3; i++) {
        dl_tensor w = counting(c, "w", 6), index = dl_input(c, DL_I32, DL_SHAPE(1), (int32_t[]){ i == 1 ? 3 : 1 }); /* of 3 rows */
        dl_tensor rows = dl_embedding_op(dl_reshape(w, DL_SHAPE(3, 2)), index);
        bool ok = dl_backward(dl_sum(dl_mul_scalar(rows, i ? 5 : 7)));
        CHECK(ok == (i != 1), "step %d: '%s'", i, dl_error(c));
        if (i == 1) dl_clear_error(c);
        else CHECK(grad(c, "w", 2) == (i ? 5 : 7) && grad(c, "w", 0) == 0, "step %d: %g %g", i, grad(c, "w", 2), grad(c, "w", 0));
        if (i == 0) dl_zero_grad(c);
    }
    dl_destroy(c);
}

/* ---- growth before the seal ---- */
static void growth(void)
{
    dl_context *c = make(4), *d = make(4);
    dl_param_info p, q;
    dl_real values[12], grads[12], mean[4];
    dl_backward(loss_of(dl_batch_norm(dl_linear(SOME(1, 5, 3), "a", 4), "bn", NULL)));
    CHECK(dl_param_find(c, "a.weight", &p) && p.numel == 12, "%s", dl_error(c));
    memcpy(values, p.value, sizeof values);
    memcpy(grads, p.grad, sizeof grads);
    CHECK(dl_param_find(c, "bn.running_mean", &p), "%s", dl_error(c));
    memcpy(mean, p.value, sizeof mean);
    dl_linear(SOME(1, 5, 3), "unused", 300); /* placed without a gradient */
    dl_end(c);
    dl_tensor y = dl_linear(SOME(2, 5, 3), "a", 4), z = dl_linear(y, "b", 500);
    (void)dl_item(dl_sum(z));
    dl_backward(dl_add(dl_sum(y), dl_sum(dl_linear(dl_batch_norm(z, "bn2", NULL), "late", 700)))); /* in mid-step, too */
    CHECK(!dl_failed(c), "%s", dl_error(c));
    CHECK(dl_param_find(c, "a.weight", &p) && p.has_grad && !memcmp(p.value, values, sizeof values), "the growth changed values");
    CHECK(dl_param_find(c, "bn.running_mean", &q) && !memcmp(q.value, mean, sizeof mean), "the growth changed a buffer");
    dl_linear(some(d, DL_SHAPE(1, 3), 1), "a", 4);
    dl_end(d); /* the same weights, and a gradient of the second step alone */
    y = dl_linear(some(d, DL_SHAPE(5, 3), 2), "a", 4);
    z = dl_linear(y, "b", 500);
    dl_backward(dl_add(dl_sum(y), dl_sum(dl_linear(dl_batch_norm(z, "bn2", NULL), "late", 700))));
    CHECK(dl_param_find(d, "a.weight", &q), "%s", dl_error(d));
    for (int i = 0; i < 12; i++)
        CHECK(p.grad[i] == grads[i] + q.grad[i], "gradient %d is %g, not %g", i, (double)p.grad[i], (double)(grads[i] + q.grad[i]));
    CHECK(dl_param_find(c, "late.weight", &p) && dl_param_find(d, "late.weight", &q), "%s", dl_error(c));
    CHECK(!memcmp(p.value, q.value, p.numel * sizeof *p.value), "a late parameter starts otherwise");
    CHECK(!memcmp(p.grad, q.grad, p.numel * sizeof *p.grad), "a late parameter has another gradient");
    dl_destroy(c);
    dl_destroy(d);
}

static void two_models(void)
{
    dl_context *c = make(1);
    dl_optimizer *o[2] = { sgd(c, 0.5), sgd(c, 0.25) };
    dl_optimizer_select(o[0], "m.*");
    dl_optimizer_select(o[1], "n.*");
    dl_scope_begin(c, "m");
    dl_tensor a = dl_linear(INPUT(2, 1, 2), "l", 1);
    dl_scope_end(c);
    dl_scope_begin(c, "n");
    dl_tensor b = dl_linear(INPUT(2, 3, 4), "l", 1);
    dl_scope_end(c);
    dl_backward(dl_add(dl_sum(a), dl_sum(b)));
    double m = value(c, "m.l.weight", 0), n = value(c, "n.l.weight", 0);
    CHECK(m != n && grad(c, "m.l.weight", 1) == 2 && grad(c, "n.l.weight", 1) == 4, "%g %g", m, n);
    dl_step(o[0]);
    CHECK(fabs(value(c, "m.l.weight", 0) - (m - 0.5)) < 1e-6 && value(c, "n.l.weight", 0) == n, "the first optimizer");
    dl_step(o[1]);
    CHECK(fabs(value(c, "n.l.weight", 0) - (n - 0.75)) < 1e-6, "the second optimizer");
    CHECK(fabs(value(c, "m.l.weight", 0) - (m - 0.5)) < 1e-6, "the second optimizer moved the first model");
    FINE();
    dl_destroy(c);
}

static void eager_stops_at_nan(void)
{
    for (int eager = 0; eager < 2; eager++) {
        dl_context *c = dl_create(&(dl_config){ .threads = 1, .eager = eager });
        dl_tensor l = dl_log(INPUT(3, 1, 2, -1)), y = dl_sum(dl_mul_scalar(l, 2));
        CHECK(dl_ok(y) == !eager, "eager %d: '%s'", eager, dl_error(c));
        if (eager) {
            SAYS("dl_log (node 1): the first NaN, at element 2 of [3]");
            dl_clear_error(c);
        } else CHECK(isnan(dl_item(y)), "%g", dl_item(y));
        FINE();
        dl_end(c);
        dl_tensor w = counting(c, "w", 2), zero = dl_mul_scalar(dl_sqrt(dl_sub(w, dl_detach(w))), 0); /* 0 times an infinite slope */
        CHECK(dl_backward(dl_sum(zero)) == !eager, "a NaN in a gradient: '%s'", dl_error(c));
        if (eager) SAYS("the first NaN");
        dl_destroy(c);
    }
}

/* ---- user operations ---- */
static void axpy_run(const dl_run_args *r) /* f[0] a + b, and i[0] when there is one */
{
    const dl_real *a = (const dl_real *)r->in[0], *b = (const dl_real *)r->in[1];
    for (size_t i = 0; i < r->n; i++) ((dl_real *)r->out)[i] = r->node->f[0] * a[i] + b[i] + (r->node->n_i ? (dl_real)r->node->i[0] : 0);
}
static void axpy_grad(const dl_grad_args *g)
{
    if (g->want[0]) g->dx[0] = dl_mul_scalar(g->dy, (float)g->node->f[0]);
    if (g->want[1]) g->dx[1] = g->dy;
}
static const dl_op axpy = { "axpy", DL_OP_ELEMENTWISE, NULL, axpy_run, axpy_grad, NULL, NULL };

static void user_elementwise(void)
{
    for (int mode = 0; mode < 3; mode++) {
        dl_context *c = dl_create(&(dl_config){ .threads = 2, .no_fusion = mode == 1, .eager = mode == 2 });
        for (int step = 0; step < 3; step++) { /* f[0] changes under the same plan */
            dl_real f = (dl_real)(step + 2);
            dl_index four = 4;
            dl_attrs at_ = { .n = step == 2, .i = &four, .f = { f } };
            dl_tensor w = counting(c, "w", 3), in[2];
            in[0] = dl_reshape(w, DL_SHAPE(3, 1));
            in[1] = dl_mul_scalar(counting(c, "v", 50), 2);
            dl_tensor y = dl_keep(dl_apply(&axpy, 2, in, &at_)), z = dl_mul_scalar(y, 0.5f);
            dl_shape s = dl_shape_of(y);
            CHECK(s.ndim == 2 && s.dim[0] == 3 && s.dim[1] == 50, "not broadcast");
            dl_backward(dl_sum(z));
            for (int i = 0; i < 150; i++) {
                double want = (double)f * (i / 50 + 1) + 2 * (i % 50 + 1) + (step == 2 ? 4 : 0);
                CHECK(at(y, i) == want, "mode %d: element %d is %g, not %g", mode, i, at(y, i), want);
            }
            CHECK(grad(c, "w", 1) == 25 * (double)f && grad(c, "v", 7) == 3, "mode %d: %g %g", mode, grad(c, "w", 1), grad(c, "v", 7));
            dl_zero_grad(c);
        }
        dl_tensor bad[2] = { INPUT(2, 1, 2), INPUT(3, 1, 2, 3) };
        FINE();
        dl_apply(&axpy, 2, bad, NULL);
        SAYS("dl_axpy: ");
        dl_destroy(c);
    }
}

/* Sums over i[0] neighbours in each row, by prefix sums in scratch; rows in parallel. */
static bool window_shape(dl_context *ctx, dl_node *const *in, int n, const dl_attrs *attrs, dl_dtype *dtype, dl_shape *out)
{
    if (n != 1 || in[0]->ndim != 2 || in[0]->dtype != DL_F32) return dl_fail(ctx, "dl_window: takes [rows,width], not %S", in[0]);
    if (!attrs || attrs->n != 1 || attrs->i[0] < 1 || attrs->i[0] > in[0]->dim[1]) return false;
    *dtype = DL_F32;
    *out = DL_SHAPE(in[0]->dim[0], in[0]->dim[1] - attrs->i[0] + 1);
    return true;
}
static size_t window_scratch(const dl_node *n) { return (size_t)(n->in[0]->dim[1] + 1) * sizeof(double); }
static void window_row(const dl_run_args *r, size_t row)
{
    size_t width = (size_t)r->node->in[0]->dim[1], out = (size_t)r->node->dim[1], k = (size_t)r->node->i[0];
    const dl_real *x = (const dl_real *)r->in[0] + row * width;
    dl_real *y = (dl_real *)r->out + row * out;
    double *sum = (double *)r->scratch, scale = *(const double *)r->user;
    sum[0] = 0;
    for (size_t i = 0; i < width; i++) sum[i + 1] = sum[i] + (double)x[i];
    for (size_t i = 0; i < out; i++) y[i] = (dl_real)((sum[i + k] - sum[i]) * scale);
}
static void window_run(const dl_run_args *r)
{
    dl_run_args a = *r;
    double scale = (double)r->node->f[0];
    a.user = &scale;
    dl_parallel(&a, (size_t)r->node->dim[0], window_row);
}
static void window_grad(const dl_grad_args *g);
static const dl_op window_op = { "window", 0, window_shape, window_run, window_grad, window_scratch, NULL };
static dl_tensor window(dl_tensor x, dl_index k, double scale)
{
    return dl_apply(&window_op, 1, &x, &(dl_attrs){ .n = 1, .i = &k, .f = { (dl_real)scale } });
}
static void window_grad(const dl_grad_args *g)
{
    dl_index k = g->node->i[0], pads[2] = { k - 1, k - 1 };
    g->dx[0] = window(dl_pad(g->dy, pads, 2, 0), k, (double)g->node->f[0]);
}

static void user_shape_scratch_parallel(void)
{
    dl_real first[450] = { 0 };
    for (int mode = 0; mode < 3; mode++) {
        dl_context *c = dl_create(&(dl_config){ .threads = mode == 1 ? 3 : 1, .eager = mode == 2 });
        dl_tensor x = SOME(1, 50, 9), w = counting(c, "w", 9), in = dl_mul(x, w), y = dl_keep(window(in, 4, 0.5)), g;
        dl_keep(in);
        CHECK(dl_dim(y, 0) == 50 && dl_dim(y, 1) == 6, "%s", dl_error(c));
        dl_backward_ex(dl_sum(dl_mul(y, SOME(2, 50, 6))), &(dl_backward_desc){ .retain = true });
        for (int i = 0; i < 300; i++) {
            double want = 0;
            for (int k = 0; k < 4; k++) want += at(in, i / 6 * 9 + i % 6 + k) / 2;
            CHECK(at(y, i) == want, "element %d is %g, not %g", i, at(y, i), want);
        }
        dl_tensor v = SOME(2, 50, 6);
        for (int k = 0; k < 9; k++) {
            double want = 0;
            for (int row = 0; row < 50; row++)
                for (int j = k - 3 < 0 ? 0 : k - 3; j <= k && j < 6; j++) want += at(x, row * 9 + k) * at(v, row * 6 + j) / 2;
            CHECK(fabs(grad(c, "w", k) - want) < 1e-4, "gradient %d is %g, not %g", k, grad(c, "w", k), want);
        }
        dl_grad(dl_sum(dl_square(y)), &w, 1, &g); /* and a second derivative through it */
        dl_backward(dl_sum(g));
        CHECK(!dl_failed(c), "%s", dl_error(c));
        for (int k = 0; k < 9; k++) {
            if (mode == 0) first[k] = (dl_real)grad(c, "w", k);
            CHECK((dl_real)grad(c, "w", k) == first[k], "mode %d has other bits", mode);
        }
        window(INPUT(3, 1, 2, 3), 2, 1);
        SAYS("dl_window: takes [rows,width], not [3]");
        dl_clear_error(c);
        window(SOME(1, 2, 3), 4, 1);
        SAYS("dl_window: the shape rule refused its inputs");
        dl_destroy(c);
    }
}

/* A gradient that may be added to what is there, and an operation without one. */
static void triple_run(const dl_run_args *r)
{
    for (size_t i = 0; i < r->n; i++) {
        dl_real v = 3 * ((const dl_real *)r->in[0])[i];
        if (r->accumulate) ((dl_real *)r->out)[i] += v;
        else ((dl_real *)r->out)[i] = v;
    }
}
static void triple_grad(const dl_grad_args *g);
static const dl_op triple = { "triple", DL_OP_ACCUMULATES, NULL, triple_run, triple_grad, NULL, NULL };
static const dl_op constant = { "constant", 0, NULL, triple_run, NULL, NULL, NULL };
static void triple_grad(const dl_grad_args *g) { g->dx[0] = dl_apply(&triple, 1, &g->dy, NULL); }

static void user_accumulates(void)
{
    dl_context *c = make(1);
    for (int i = 1; i < 4; i++) {
        dl_tensor w = counting(c, "w", 30), y = dl_apply(&triple, 1, &w, NULL);
        dl_backward(dl_sum(dl_mul(y, SOME(1, 30))));
        dl_tensor x = SOME(1, 30);
        for (int k = 0; k < 30; k++)
            CHECK(grad(c, "w", k) == 3 * i * at(x, k), "backward %d, element %d: %g, not %g", i, k, grad(c, "w", k), 3 * i * at(x, k));
        dl_end(c);
    }
    dl_tensor w = counting(c, "w", 30), y = dl_apply(&constant, 1, &w, NULL);
    CHECK(dl_item(dl_sum(y)) == 3 * 465, "%g", dl_item(dl_sum(y)));
    CHECK(!dl_backward(dl_sum(y)), "an operation without a gradient passed one");
    SAYS("depends on no parameter");
    dl_destroy(c);
}

/* The tiles of an elementwise operation are the threads' already. */
static void negate_part(const dl_run_args *r, size_t part)
{
    for (size_t i = part; i < r->n; i += 4) ((dl_real *)r->out)[i] = -((const dl_real *)r->in[0])[i];
}
static void negate_run(const dl_run_args *r) { dl_parallel(r, 4, negate_part); }
static const dl_op negate = { "negate", DL_OP_ELEMENTWISE, NULL, negate_run, NULL, NULL, NULL };

static void user_parallel_in_elementwise(void)
{
    dl_context *c = dl_create(&(dl_config){ .threads = 3 });
    dl_tensor x = dl_rand(c, DL_SHAPE(9000)), y;
#if defined(__unix__) || defined(__APPLE__)
    alarm(10); /* for a thread that waits for itself */
#endif
    dl_keep(x);
    y = dl_apply(&negate, 1, &x, NULL);
    for (int i = 0; i < 9000; i++) CHECK(at(y, i) == -at(x, i), "element %d is %g", i, at(y, i));
    FINE();
#if defined(__unix__) || defined(__APPLE__)
    alarm(0);
#endif
    dl_destroy(c);
}

/* Asking for scratch, an elementwise operation gets it, or is told that there is none. */
static void twice_run(const dl_run_args *r)
{
    dl_real *s = (dl_real *)r->scratch;
    for (size_t i = 0; i < r->n && s; i++) s[i] = 2 * ((const dl_real *)r->in[0])[i];
    for (size_t i = 0; i < r->n; i++) ((dl_real *)r->out)[i] = s ? s[i] : -1;
}
static size_t twice_scratch(const dl_node *n) { return n->numel * sizeof(dl_real); }
static const dl_op twice = { "twice", DL_OP_ELEMENTWISE, NULL, twice_run, NULL, twice_scratch, NULL };

static void user_scratch_in_elementwise(void)
{
    dl_context *c = make(1);
    dl_tensor x = INPUT(3, 1, 2, 3), y = dl_apply(&twice, 1, &x, NULL);
    if (dl_failed(c)) SAYS("scratch");
    else CHECK(at(y, 2) == 6, "without a scratch, and without an error: %g", at(y, 2));
    dl_destroy(c);
}

/* ---- random numbers ---- */
enum { MANY = 20000 };
static void masks_of(uint64_t seed, dl_real *out) /* two steps of two masks */
{
    dl_context *c = make(seed);
    for (int i = 0; i < 2; i++) {
        dl_tensor x = dl_full(c, DL_SHAPE(MANY), 1), a = dl_keep(dl_dropout(x, 0.25f)), b = dl_keep(dl_dropout(x, 0.25f));
        dl_end(c);
        CHECK(dl_read(a, out + 2 * i * MANY, MANY) && dl_read(b, out + (2 * i + 1) * MANY, MANY), "%s", dl_error(c));
    }
    dl_destroy(c);
}

static void dropout_masks(void)
{
    static dl_real one[4 * MANY], two[4 * MANY], other[4 * MANY];
    masks_of(5, one);
    masks_of(5, two);
    masks_of(6, other);
    CHECK(!memcmp(one, two, sizeof one), "a seed does not repeat its masks");
    for (int m = 0; m < 4; m++) {
        int kept = 0;
        for (int i = 0; i < MANY; i++) {
            dl_real v = one[m * MANY + i];
            CHECK(v == 0 || fabs((double)v - 1 / 0.75) < 1e-6, "mask %d has %g", m, (double)v);
            kept += v != 0;
        }
        CHECK(fabs(kept - 0.75 * MANY) < 5 * sqrt(0.75 * 0.25 * MANY), "mask %d keeps %d of %d", m, kept, MANY);
        for (int k = 0; k <= m; k++) { /* two masks agree in 5 of 8 places by chance */
            const dl_real *with = k == m ? other + m * MANY : one + k * MANY;
            int same = 0;
            for (int i = 0; i < MANY; i++) same += (one[m * MANY + i] != 0) == (with[i] != 0);
            CHECK(fabs(same - 0.625 * MANY) < 5 * sqrt(0.625 * 0.375 * MANY), "mask %d and %s %d agree in %d of %d", m,
                k == m ? "another seed's" : "mask", k, same, MANY);
        }
    }
}

static void dropout_rules(void)
{
    dl_context *c = make(1);
    dl_tensor w = counting(c, "w", 60), y = dl_keep(dl_dropout(w, 0.5f));
    dl_backward(dl_sum(y));
    int kept = 0;
    for (int i = 0; i < 60; i++) { /* forward and backward take one mask */
        double g = grad(c, "w", i);
        CHECK((g == 0 || g == 2) && at(y, i) == g * (i + 1), "%d: %g, gradient %g", i, at(y, i), g);
        kept += at(y, i) != 0;
    }
    CHECK(kept > 10 && kept < 50, "%d of 60", kept);
    w = counting(c, "w", 60);
    dl_tensor none = dl_dropout(w, 0), all = dl_dropout(w, 1);
    dl_train(c, false);
    dl_tensor eval = dl_dropout(w, 0.5f);
    dl_train(c, true);
    for (int i = 0; i < 60; i++)
        CHECK(at(none, i) == i + 1 && at(all, i) == 0 && at(eval, i) == i + 1, "%d: %g %g %g", i, at(none, i), at(all, i), at(eval, i));
    FINE();
    dl_destroy(c);
}

static void random_tensors(void)
{
    static dl_real v[2][4][MANY];
    for (int run = 0; run < 2; run++) {
        dl_context *c = make(run == 0 ? 8 : 9);
        dl_tensor t[4];
        t[0] = dl_rand(c, DL_SHAPE(MANY));
        t[1] = dl_rand(c, DL_SHAPE(MANY));
        t[2] = dl_randn(c, DL_SHAPE(MANY));
        dl_end(c);
        for (int i = 0; i < 3; i++) CHECK(dl_read(t[i], v[run][i], MANY), "%s", dl_error(c));
        t[3] = dl_rand(c, DL_SHAPE(MANY));
        dl_end(c);
        CHECK(dl_read(t[3], v[run][3], MANY), "%s", dl_error(c));
        dl_destroy(c);
    }
    for (int run = 0; run < 2; run++)
        for (int k = 0; k < 4; k++) {
            double sum[5] = { 0 };
            for (int i = 0; i < MANY; i++) {
                double u = (double)v[run][k][i];
                CHECK(k == 2 || (u >= 0 && u < 1), "dl_rand gives %g", u);
                CHECK(fabs(u) < 7, "dl_randn gives %g", u);
                for (int e = 1; e < 5; e++) sum[e] += pow(k == 2 ? u : u - 0.5, e) / MANY;
            }
            double n = MANY, variance = k == 2 ? 1 : 1 / 12.0, spread = sqrt(k == 2 ? 2 / n : 1 / (180 * n));
            CHECK(fabs(sum[1]) < 5 * sqrt(variance / n), "tensor %d: mean off by %g", k, sum[1]);
            CHECK(fabs(sum[2] - variance) < 5 * spread, "tensor %d: variance %g", k, sum[2]);
            if (k == 2) CHECK(fabs(sum[3]) < 5 * sqrt(15 / n) && fabs(sum[4] - 3) < 5 * sqrt(96 / n), "moments %g and %g", sum[3], sum[4]);
            for (int j = 0; j <= k; j++) { /* earlier tensors, and the same one of the other seed */
                const dl_real *other = j == k ? v[!run][k] : v[run][j];
                double both = 0;
                if (k == 2 || j == 2) continue;
                for (int i = 0; i < MANY; i++) both += ((double)v[run][k][i] - 0.5) * ((double)other[i] - 0.5) * 12 / n;
                CHECK(fabs(both) < 5 / sqrt(n), "tensor %d and %s %d correlate: %g", k, j == k ? "the other seed's" : "tensor", j, both);
            }
        }
    CHECK(memcmp(v[0][2], v[1][2], sizeof v[0][2]), "two seeds are one");
}

/* ---- two contexts in two threads ---- */
static uint64_t train_alone(uint64_t seed)
{
    dl_context *c = dl_create(&(dl_config){ .seed = seed, .threads = 2 });
    dl_optimizer *o = dl_adam(c, NULL);
    uint64_t h = 14695981039346656037u;
    dl_param_info p;
    for (int i = 0; i < 6; i++) {
        dl_tensor x = dl_gelu(dl_linear(SOME(i + (int)seed, 32, 24), "fc1", 40));
        x = dl_layer_norm(dl_dropout(x, 0.1f), "ln", NULL);
        x = dl_batch_norm(dl_linear(x, "fc2", 16), "bn", NULL);
        dl_backward(dl_add(loss_of(dl_softmax(x, 1)), dl_mean(dl_mul(x, dl_randn(c, DL_SHAPE(16))))));
        dl_step(o);
    }
    for (int i = 0; i < dl_param_count(c) && dl_param_get(c, i, &p); i++)
        for (size_t k = 0; k < p.numel * sizeof *p.value; k++) h = (h ^ ((const unsigned char *)p.value)[k]) * 1099511628211u;
    if (dl_failed(c)) h = 0;
    dl_destroy(c);
    return h;
}

static void *train_in_thread(void *hash)
{
    uint64_t *h = (uint64_t *)hash;
    *h = train_alone(*h);
    return NULL;
}

static void contexts_in_threads(void)
{
    for (int round = 0; round < 3; round++) { /* at once first: the contexts meet everything for the first time there */
        uint64_t h[2] = { 1, 2 };
        pthread_t thread[2];
        for (int i = 0; i < 2; i++)
            if (pthread_create(&thread[i], NULL, train_in_thread, &h[i])) return SKIP("no thread could be made");
        for (int i = 0; i < 2; i++) pthread_join(thread[i], NULL);
        for (int i = 0; i < 2; i++) {
            uint64_t alone = train_alone((uint64_t)i + 1);
            CHECK(h[i] == alone && alone, "%016llx, alone %016llx", (unsigned long long)h[i], (unsigned long long)alone);
        }
        CHECK(h[0] != h[1], "two seeds are one");
    }
}

int main(void)
{
    RUN(contexts_in_threads); /* first: nothing has warmed up yet */
    RUN(scopes_nest);
    RUN(layer_name_twice);
    RUN(scope_reopened_shares);
    RUN(root_opens_anew);
    RUN(parameters);
    RUN(parameter_other_desc);
    RUN(glob_table);
    RUN(freeze);
    RUN(seal);
    RUN(reading_after_the_run);
    RUN(stale_handles);
    RUN(reading_in_mid_step);
    RUN(former_values);
    RUN(backward_retained);
    RUN(backward_scaled);
    RUN(backward_pattern);
    RUN(grad_of_cube);
    RUN(grad_of_many);
    RUN(grad_penalty);
    RUN(variables_and_detach);
    RUN(no_grad_region);
    RUN(end_of_step);
    RUN(gradients_after_an_error);
    RUN(growth);
    RUN(two_models);
    RUN(eager_stops_at_nan);
    RUN(user_elementwise);
    RUN(user_shape_scratch_parallel);
    RUN(user_accumulates);
    RUN(dropout_masks);
    RUN(dropout_rules);
    RUN(random_tensors);
    RUN(user_scratch_in_elementwise);
    RUN(user_parallel_in_elementwise);
    return REPORT();
}
