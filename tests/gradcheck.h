/* Checks derivatives of operations against central differences. After dltrain.h, compiled with DLTRAIN_REAL double.

   A case names a function from up to four tensors to one tensor y. Its inputs are written "a2,3 p3 a": a domain and sizes for each. They
   come from a generator that tools/gold_ops.py repeats, so that nothing need be stored. y is made a number, sum(y w), by fixed weights w.

   Domains: a any in (-2,2); p positive; u inside (0,1); l large; k off the multiples of 1/8, where kinks are, and g on them; d distinct;
   t ties, in {-1,-.5,0,.5,1}; z in {0,.25,.5,.75,1}; o zeros. All are exact in float. */
#ifndef GRADCHECK_H
#define GRADCHECK_H
#include <math.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_IN = 4, MAX_NUMEL = 2048, WEIGHTS = 99, DIRECTION = 50 };

typedef enum case_kind {
    FULL,  /* first and second derivatives, and gold values */
    FIRST, /* no second derivative */
    GOLD,  /* at a kink: differences say nothing */
    VALUE  /* no derivative */
} case_kind;

typedef struct test_case {
    const char *name;
    case_kind kind;
    const char *spec;
    dl_tensor (*build)(dl_context *c, const dl_tensor *x);
} test_case;

typedef struct case_input { char domain; dl_shape shape; int numel; double value[MAX_NUMEL]; } case_input;
typedef struct case_data { int n; case_input in[MAX_IN]; } case_data;

static char gc_reason[512];
static const char *gc_fail(const char *format, ...)
{
    va_list args;
    va_start(args, format);
    vsnprintf(gc_reason, sizeof gc_reason, format, args);
    va_end(args);
    return gc_reason;
}

static void gc_fill(double *out, int n, const char *name, int which, char domain)
{
    uint64_t s = 14695981039346656037u;
    for (const char *p = name; *p; p++) s = (s ^ (unsigned char)*p) * 1099511628211u;
    s ^= (uint64_t)(which + 1) * 0x9E3779B97F4A7C15u;
    for (int i = 0; i < n; i++) {
        s = s * 6364136223846793005u + 1442695040888963407u;
        int k = (int)(s >> 52), j = (int)((s >> 33) % (unsigned)(i + 1)); /* k < 4096 */
        switch (domain) {
        case 'p': out[i] = 0.25 + k / 2048.0; break;
        case 'u': out[i] = 0.0625 + k * 7 / 32768.0; break;
        case 'l': out[i] = (2 * k - 4095) / 64.0; break;
        case 'k': out[i] = ((k >> 6) % 32 - 16) / 8.0 + 0.0625 + ((k & 63) - 32) / 1024.0; break;
        case 'g': out[i] = ((k >> 6) % 32 - 16) / 8.0; break;
        case 't': out[i] = (k % 5 - 2) / 2.0; break;
        case 'z': out[i] = k % 5 / 4.0; break;
        case 'o': out[i] = 0; break;
        case 'd': /* a shuffle from inside out */
            out[i] = out[j];
            out[j] = (2 * i + 1 - n) / 32.0;
            break;
        default: out[i] = (2 * k - 4095) / 2048.0;
        }
    }
}

static void gc_data(const test_case *t, case_data *d)
{
    d->n = 0;
    for (const char *p = t->spec; *p && d->n < MAX_IN;) {
        case_input *in = &d->in[d->n];
        in->domain = *p++;
        in->shape = DL_SCALAR;
        in->numel = 1;
        while (*p && *p != ' ') {
            char *end;
            long size = strtol(p, &end, 10);
            in->shape.dim[in->shape.ndim++] = size;
            in->numel *= (int)size;
            p = *end == ',' ? end + 1 : end;
        }
        if (in->numel > MAX_NUMEL) abort();
        gc_fill(in->value, in->numel, t->name, d->n++, in->domain);
        while (*p == ' ') p++;
    }
}

/* `shared`: the inputs of these bits are one tensor, the first of them. `variable`: these are made with dl_variable. */
static void gc_tensors(dl_context *c, const case_data *d, unsigned variable, unsigned shared, dl_tensor *x)
{
    static dl_real buffer[MAX_NUMEL];
    int first = -1;
    for (int i = 0; i < d->n; i++) {
        bool member = shared >> i & 1;
        if (member && first >= 0) {
            x[i] = x[first];
            continue;
        }
        if (member) first = i;
        for (int k = 0; k < d->in[i].numel; k++) buffer[k] = (dl_real)d->in[i].value[k];
        x[i] = variable >> i & 1 ? dl_variable(c, d->in[i].shape, buffer) : dl_input(c, DL_F32, d->in[i].shape, buffer);
    }
}

/* All elements as double; their number, or -1. */
static int gc_read(dl_tensor t, double *out)
{
    static dl_real real[MAX_NUMEL];
    static int32_t whole[MAX_NUMEL];
    size_t n = dl_numel(t);
    bool is_real = dl_dtype_of(t) == DL_F32;
    if (!dl_ok(t) || n > MAX_NUMEL || !dl_read(t, is_real ? (void *)real : (void *)whole, n)) return -1;
    for (size_t i = 0; i < n; i++) out[i] = is_real ? (double)real[i] : (double)whole[i];
    return (int)n;
}

static dl_tensor gc_constant(dl_context *c, const test_case *t, dl_shape s, int which)
{
    static double value[MAX_NUMEL];
    static dl_real buffer[MAX_NUMEL];
    int n = 1;
    for (int i = 0; i < s.ndim; i++) n *= (int)s.dim[i];
    gc_fill(value, n, t->name, which, 'a');
    for (int i = 0; i < n; i++) buffer[i] = (dl_real)value[i];
    return dl_input(c, DL_F32, s, buffer);
}

/* y of the case; its number of elements or -1. */
static int gc_forward(dl_context *c, const test_case *t, const case_data *d, unsigned shared, double *y)
{
    dl_tensor x[MAX_IN];
    gc_tensors(c, d, 0, shared, x);
    int n = gc_read(t->build(c, x), y);
    dl_end(c);
    return n;
}

/* Gradients of sum(y w) with respect to the inputs in `asked`, where those in `variable` could be asked for. */
static bool gc_gradient(dl_context *c, const test_case *t, const case_data *d, unsigned variable, unsigned asked, unsigned shared,
                        double (*grad)[MAX_NUMEL])
{
    dl_tensor x[MAX_IN], to[MAX_IN], dx[MAX_IN];
    int of[MAX_IN], n = 0;
    memset(to, 0, sizeof to);
    gc_tensors(c, d, variable, shared, x);
    for (int i = 0; i < d->n; i++)
        if (asked >> i & 1) {
            of[n] = i;
            to[n++] = x[i];
        }
    dl_tensor y = t->build(c, x), s = dl_sum(dl_mul(y, gc_constant(c, t, dl_shape_of(y), WEIGHTS)));
    bool ok = dl_ok(y) && dl_grad(s, to, n, dx);
    for (int i = 0; ok && i < n; i++) {
        dl_shape got = dl_shape_of(dx[i]), want = d->in[of[i]].shape;
        ok = got.ndim == want.ndim && !memcmp(got.dim, want.dim, sizeof *got.dim * (size_t)want.ndim) && gc_read(dx[i], grad[of[i]]) >= 0;
        if (!ok) dl_fail(c, "the gradient of input %d has shape %H, not %H", of[i], &got, &want);
    }
    dl_end(c);
    return ok;
}

static double gc_error(double a, double b)
{
    double scale = fmax(fmax(fabs(a), fabs(b)), 1e-2);
    return a == b ? 0 : a - b != a - b ? HUGE_VAL : fabs(a - b) / scale;
}

/* Four points: the error is of order step^4, so that rounding does not drown it. */
static const double gc_step = 1e-3, gc_step2 = 2.5e-4, gc_tolerance = 1e-6; /* the second for directions, which reach further */
static const double gc_at[4] = { 1, -1, 2, -2 }, gc_factor[4] = { 8, -8, -1, 1 };

/* The differences with respect to element k of input i, and of those that share its tensor. */
static bool gc_numeric(dl_context *c, const test_case *t, case_data *d, unsigned shared, int i, int k, const double *w, double *out)
{
    static double y[MAX_NUMEL];
    double keep = d->in[i].value[k], sum = 0;
    for (int p = 0; p < 4; p++) {
        d->in[i].value[k] = keep + gc_at[p] * gc_step;
        int n = gc_forward(c, t, d, shared, y);
        double s = 0;
        for (int j = 0; j < n; j++) s += y[j] * w[j];
        sum += gc_factor[p] * s;
        if (n < 0) return false;
    }
    d->in[i].value[k] = keep;
    *out = sum / (12 * gc_step);
    return true;
}

static const char *gc_compare(const case_input *in, const double *a, const double *n, const char *what, unsigned bits, int i)
{
    for (int k = 0; k < in->numel; k++)
        if (gc_error(a[k], n[k]) > gc_tolerance)
            return gc_fail("%s of input %d (inputs %x) at %d: %.12g, differences say %.12g", what, i, bits, k, a[k], n[k]);
    return NULL;
}

/* First derivatives: every subset of inputs wanted, each asked for alone, and one tensor in several places. NULL: right. */
static const char *gc_first(dl_context *c, const test_case *t, case_data *d)
{
    static double numeric[MAX_IN][MAX_NUMEL], analytic[MAX_IN][MAX_NUMEL], w[MAX_NUMEL], y[MAX_NUMEL];
    const char *bad = NULL;
    unsigned all = (1u << d->n) - 1;
    int n = gc_forward(c, t, d, 0, y);
    if (n < 0) return gc_fail("%s", dl_error(c));
    gc_fill(w, n, t->name, WEIGHTS, 'a');
    for (int i = 0; i < d->n; i++)
        for (int k = 0; k < d->in[i].numel; k++)
            if (!gc_numeric(c, t, d, 0, i, k, w, &numeric[i][k])) return gc_fail("%s", dl_error(c));
    for (unsigned variable = 1; variable <= all; variable++)
        for (unsigned asked = 1; asked <= variable; asked++) {
            if (asked != variable && (variable != all || asked & (asked - 1))) continue; /* of all, each alone */
            if (!gc_gradient(c, t, d, variable, asked, 0, analytic)) return gc_fail("inputs %x: %s", variable, dl_error(c));
            for (int i = 0; i < d->n && !bad; i++)
                if (asked >> i & 1) bad = gc_compare(&d->in[i], analytic[i], numeric[i], "gradient", variable, i);
            if (bad) return bad;
        }
    for (unsigned shared = 1; shared <= all; shared++) {
        int first = 0, from = -1;
        bool fits = (shared & (shared - 1)) != 0;
        while (!(shared >> first & 1)) first++;
        for (int i = first; i < d->n && fits; i++) {
            const dl_shape *a = &d->in[first].shape, *b = &d->in[i].shape;
            if (!(shared >> i & 1)) continue;
            fits = a->ndim == b->ndim && !memcmp(a->dim, b->dim, sizeof *a->dim * (size_t)a->ndim);
            if (from < 0 || (strchr("pu", d->in[i].domain) && d->in[from].domain != 'u')) from = i; /* values that suit all of them */
        }
        if (!fits) continue;
        static double kept[MAX_NUMEL];
        memcpy(kept, d->in[first].value, sizeof kept);
        memmove(d->in[first].value, d->in[from].value, sizeof kept);
        for (int k = 0; k < d->in[first].numel; k++)
            if (!gc_numeric(c, t, d, shared, first, k, w, &numeric[first][k])) return gc_fail("%s", dl_error(c));
        for (int others = 0; others < 2; others++) {
            bool ok = gc_gradient(c, t, d, others ? all : shared, 1u << first, shared, analytic);
            if (!ok) return gc_fail("shared %x: %s", shared, dl_error(c));
            bad = gc_compare(&d->in[first], analytic[first], numeric[first], "gradient of one tensor as several inputs", shared, first);
            if (bad) return bad;
        }
        memcpy(d->in[first].value, kept, sizeof kept);
    }
    return NULL;
}

/* Second derivatives along one direction u: the gradient of sum(dx u) against differences of dx. */
static const char *gc_second(dl_context *c, const test_case *t, case_data *d)
{
    static double analytic[MAX_IN][MAX_NUMEL], sum[MAX_IN][MAX_NUMEL], dx[MAX_IN][MAX_NUMEL], u[MAX_IN][MAX_NUMEL];
    static case_data moved;
    dl_tensor x[MAX_IN], g[MAX_IN], h[MAX_IN], s = { 0 };
    unsigned all = (1u << d->n) - 1;
    gc_tensors(c, d, all, 0, x);
    dl_tensor y = t->build(c, x);
    if (!dl_grad(dl_sum(dl_mul(y, gc_constant(c, t, dl_shape_of(y), WEIGHTS))), x, d->n, g)) return gc_fail("%s", dl_error(c));
    for (int i = 0; i < d->n; i++) {
        dl_tensor part = dl_sum(dl_mul(g[i], gc_constant(c, t, d->in[i].shape, DIRECTION + i)));
        s = i ? dl_add(s, part) : part;
        gc_fill(u[i], d->in[i].numel, t->name, DIRECTION + i, 'a');
        memset(sum[i], 0, sizeof sum[i]);
    }
    if (!dl_grad(s, x, d->n, h)) return gc_fail("second: %s", dl_error(c));
    for (int i = 0; i < d->n; i++)
        if (gc_read(h[i], analytic[i]) < 0) return gc_fail("second: %s", dl_error(c));
    dl_end(c);
    for (int p = 0; p < 4; p++) {
        moved = *d;
        for (int i = 0; i < d->n; i++)
            for (int k = 0; k < d->in[i].numel; k++) moved.in[i].value[k] += gc_at[p] * gc_step2 * u[i][k];
        if (!gc_gradient(c, t, &moved, all, all, 0, dx)) return gc_fail("%s", dl_error(c));
        for (int i = 0; i < d->n; i++)
            for (int k = 0; k < d->in[i].numel; k++) sum[i][k] += gc_factor[p] * dx[i][k] / (12 * gc_step2);
    }
    for (int i = 0; i < d->n; i++) {
        const char *bad = gc_compare(&d->in[i], analytic[i], sum[i], "second derivative", all, i);
        if (bad) return bad;
    }
    return NULL;
}

/* NULL, or what is wrong with the derivatives of the case. */
static const char *gradcheck(dl_context *c, const test_case *t)
{
    static case_data d;
    const char *bad = NULL;
    gc_data(t, &d);
    if (t->kind == FULL || t->kind == FIRST) bad = gc_first(c, t, &d);
    if (!bad && t->kind == FULL) {
        gc_data(t, &d);
        bad = gc_second(c, t, &d);
    }
    return bad;
}
#endif
