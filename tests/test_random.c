/* Random programs: each is run eager, planned, without reuse, without fusion, on threads, portable and in a block of exactly its size,
   and everything that can be read must have the same bits. Then cases of the planner one by one.
       build/tests/test_random.plain SEED     that seed alone, with every event of a mismatch
   Tiles are small, for groups of many from small tensors, and plans few, for they are to be evicted. tests: with -DDLTRAIN_TILE=32 -DDLTRAIN_PLANS=3 */
#include "../dltrain.h"
#include "test.h"
#include "inside.h"

#if !defined(__SANITIZE_ADDRESS__) && defined(__has_feature)
#if __has_feature(address_sanitizer)
#define __SANITIZE_ADDRESS__ 1
#endif
#endif
#ifdef __SANITIZE_ADDRESS__
enum { PROGRAMS = 300 };
#else
enum { PROGRAMS = 3000 };
#endif

/* ---- random numbers, one stream for each thing that varies by itself ---- */
typedef struct rng { uint64_t s; } rng;

static uint32_t next(rng *r)
{
    r->s = r->s * 6364136223846793005u + 1442695040888963407u;
    uint64_t x = r->s ^ r->s >> 33;
    return (uint32_t)(x * 0x9E3779B97F4A7C15u >> 32);
}
static int below(rng *r, int n) { return (int)(next(r) % (uint32_t)n); }
static bool one_in(rng *r, int n) { return below(r, n) == 0; }
static float number(rng *r) { return (float)(int)(next(r) >> 8) / 8388608 - 1; }
static rng seeded(uint64_t a, uint64_t b)
{
    rng r;
    r.s = a * 0x9E3779B97F4A7C15u + b * 0xD1B54A32D192ED03u + 1;
    next(&r);
    next(&r);
    return r;
}

/* ---- operations of our own ---- */
/* y = x backwards, by way of scratch, on the threads: its own gradient, and one that obeys `accumulate` and tells what is finished. */
static void reverse_part(const dl_run_args *r, size_t part)
{
    size_t n = r->node->numel, end = part * 16 + 16 < n ? part * 16 + 16 : n;
    dl_real *y = (dl_real *)r->out, *own = (dl_real *)r->scratch;
    const dl_real *x = (const dl_real *)r->in[0];
    for (size_t i = part * 16; i < end; i++) own[i] = x[n - 1 - i];
    for (size_t i = part * 16; i < end; i++) y[i] = r->accumulate ? y[i] + own[i] : own[i];
    size_t third = (end - part * 16) / 3; /* in pieces, the last first */
    if (r->finished) r->finished(r, part * 16 + third, end - part * 16 - third);
    if (r->finished) r->finished(r, part * 16, third);
}
static void reverse_run(const dl_run_args *r) { dl_parallel(r, (r->node->numel + 15) / 16, reverse_part); }
static size_t reverse_scratch(const dl_node *n) { return n->numel * sizeof(dl_real); }
static void reverse_grad(const dl_grad_args *g);
static const dl_op reverse_op = { "test_reverse", DL_OP_ACCUMULATES | DL_OP_FINISHES, NULL, reverse_run, reverse_grad, reverse_scratch, NULL };
static void reverse_grad(const dl_grad_args *g) { g->dx[0] = dl_apply(&reverse_op, 1, &g->dy, NULL); }

/* y = f[0] x, elementwise, and obeys `accumulate` too. */
static void times_run(const dl_run_args *r)
{
    dl_real *y = (dl_real *)r->out;
    const dl_real *x = (const dl_real *)r->in[0];
    for (size_t i = 0; i < r->n; i++) y[i] = r->accumulate ? y[i] + r->node->f[0] * x[i] : r->node->f[0] * x[i];
}
static void times_grad(const dl_grad_args *g);
static const dl_op times_op = { "test_times", DL_OP_ELEMENTWISE | DL_OP_ACCUMULATES, NULL, times_run, times_grad, NULL, NULL };
static dl_tensor times(dl_tensor x, dl_real by)
{
    dl_attrs a;
    memset(&a, 0, sizeof a);
    a.f[0] = by;
    return dl_apply(&times_op, 1, &x, &a);
}
static void times_grad(const dl_grad_args *g) { g->dx[0] = times(g->dy, g->node->f[0]); }

/* y = x, elementwise, and asks for scratch. */
static void scratched_run(const dl_run_args *r) { memcpy(r->out, r->in[0], r->n * sizeof(dl_real)); }
static size_t scratched_scratch(const dl_node *n) { return n->numel * sizeof(dl_real); }
static const dl_op scratched_op = { "test_scratched", DL_OP_ELEMENTWISE, NULL, scratched_run, NULL, scratched_scratch, NULL };

/* ---- what a run gives: a list of events ---- */
typedef struct event { uint64_t hash; uint32_t step, node; const char *what; bool gone, may_go; dl_real first; } event;
typedef struct report { event *at; size_t n, capacity; char error[600]; dl_memory memory; bool finite; } report;

static event *append(report *r)
{
    if (r->n == r->capacity) {
        r->capacity = r->capacity ? 2 * r->capacity : 256;
        r->at = (event *)realloc(r->at, r->capacity * sizeof *r->at);
    }
    memset(&r->at[r->n], 0, sizeof *r->at);
    return &r->at[r->n++];
}

static uint64_t hash_bytes(const void *p, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) h = (h ^ ((const unsigned char *)p)[i]) * 1099511628211u;
    return h;
}

/* ---- the machine that records ---- */
enum { POOL = 40, MOST = 512, NODES = 20000, PARAMS = 8 };
typedef struct entry { dl_tensor t; double bound; bool requires; } entry;
typedef struct machine {
    dl_context *ctx;
    rng shape, data, keep;    /* structure; numbers; what is kept */
    entry pool[POOL];
    int n, step;
    bool recording;
    uint32_t mark;            /* nodes below have been run */
    unsigned char used[NODES], kept[NODES]; /* by number of node */
    dl_real *lent[64];        /* borrowed until the step ends */
    int lents;
    report *out;
} machine;

static void log_numbers(machine *m, const char *what, uint32_t node, const void *p, size_t bytes, bool floats)
{
    event *e = append(m->out);
    e->what = what;
    e->step = (uint32_t)m->step;
    e->node = node;
    e->hash = hash_bytes(p, bytes);
    if (floats && bytes) e->first = *(const dl_real *)p;
    for (size_t i = 0; floats && i < bytes / sizeof(dl_real); i++)
        if (!isfinite(((const dl_real *)p)[i])) m->out->finite = false;
}

static void log_tensor(machine *m, const char *what, dl_tensor t, bool may_go)
{
    dl_real buffer[4 * MOST];
    size_t n = dl_numel(t);
    bool floats = dl_dtype_of(t) == DL_F32, ok = n <= 4 * MOST && dl_read(t, buffer, n);
    if (ok) log_numbers(m, what, t.node, buffer, n * (floats ? sizeof *buffer : sizeof(int32_t)), floats);
    else {
        event *e = append(m->out);
        e->what = what;
        e->step = (uint32_t)m->step;
        e->node = t.node;
        e->gone = may_go && strstr(dl_error(m->ctx), "planned away");
    }
    m->out->at[m->out->n - 1].may_go = may_go;
}

static dl_shape some_shape(machine *m)
{
    static const dl_index sizes[] = { 1, 1, 2, 3, 4, 5, 8, 13, 40 };
    dl_shape s = DL_SCALAR;
    size_t n = 1;
    s.ndim = below(&m->shape, 4);
    for (int i = 0; i < s.ndim; i++) {
        s.dim[i] = sizes[below(&m->shape, 9)];
        while (n * (size_t)s.dim[i] > MOST) s.dim[i] = (s.dim[i] + 1) / 2;
        n *= (size_t)s.dim[i];
    }
    return s;
}

static size_t count(dl_shape s)
{
    size_t n = 1;
    for (int i = 0; i < s.ndim; i++) n *= (size_t)s.dim[i];
    return n;
}

static dl_tensor leaf(machine *m, dl_shape s, bool *requires)
{
    dl_real v[MOST], *own;
    size_t n = count(s);
    for (size_t i = 0; i < n; i++) v[i] = number(&m->data);
    *requires = false;
    switch (below(&m->shape, 5)) {
    case 0:
        *requires = true;
        return dl_variable(m->ctx, s, v);
    case 1:
        if (m->lents == 64) return dl_input(m->ctx, DL_F32, s, v);
        own = m->lent[m->lents++] = (dl_real *)malloc(n * sizeof *own + 1);
        memcpy(own, v, n * sizeof *own);
        return dl_borrow(m->ctx, DL_F32, s, own);
    case 2: return one_in(&m->shape, 2) ? dl_rand(m->ctx, s) : dl_full(m->ctx, s, v[0]);
    default: return dl_input(m->ctx, DL_F32, s, v);
    }
}

static const char *const names[PARAMS] = { "p0", "p1", "p2", "p3", "p4", "scope.p5", "p6", "p7" };
static dl_tensor param(machine *m, int k)
{
    dl_param_desc d;
    memset(&d, 0, sizeof d);
    switch (k) {
    case 0: d.shape = DL_SHAPE(5, 8); break;
    case 1: d.shape = DL_SHAPE(8); break;
    case 2: d.shape = DL_SCALAR; break;
    case 3: d.shape = DL_SHAPE(40, 5); break;
    case 4: d.shape = DL_SHAPE(3, 1, 8); break;
    case 5: d.shape = DL_SHAPE(13, 13); break;
    case 6: d.shape = DL_SHAPE(1); break;
    default: d.shape = DL_SHAPE(40); break;
    }
    d.init = k == 6 ? DL_INIT_CONSTANT : k == 1 ? DL_INIT_NORMAL : DL_INIT_UNIFORM;
    d.value = 0.5f;
    return dl_parameter(m->ctx, names[k], &d);
}

static void use(machine *m, dl_tensor t)
{
    if (t.node < NODES) m->used[t.node] = 1;
}

/* Values stay of this size: further operations can do no harm. */
static entry *put(machine *m, dl_tensor t, double bound, bool requires)
{
    if (!dl_ok(t)) return NULL;
    if (bound > 6) {
        use(m, t);
        t = bound > 40 || one_in(&m->shape, 2) ? dl_tanh(t) : dl_mul_scalar(t, (float)(1 / bound));
        bound = 1;
    }
    entry *e = m->n < POOL ? &m->pool[m->n++] : &m->pool[below(&m->shape, POOL)];
    e->t = t;
    e->bound = bound;
    e->requires = requires;
    if (t.node < NODES && one_in(&m->keep, 12)) {
        if (!m->kept[t.node] && t.node >= m->mark) m->kept[t.node] = 1, dl_keep(t);
    }
    return e;
}

/* Readable after any run, as the manual has it. */
static bool promised(const machine *m, dl_tensor t)
{
    return dl_numel(t) * sizeof(dl_real) <= 64 || (t.node < NODES && (m->kept[t.node] || !m->used[t.node]));
}

/* After a read: in a no-grad region what was not promised may be planned away. */
static void has_run(machine *m)
{
    int k = 0;
    for (int i = 0; i < m->n; i++)
        if (m->recording || m->pool[i].t.node < m->mark || promised(m, m->pool[i].t)) m->pool[k++] = m->pool[i];
    m->n = k;
    m->mark = inside_nodes(m->ctx);
}

static bool fits(dl_shape a, dl_shape b)
{
    size_t n = 1;
    int nd = a.ndim > b.ndim ? a.ndim : b.ndim;
    for (int i = 1; i <= nd; i++) {
        dl_index x = i <= a.ndim ? a.dim[a.ndim - i] : 1, y = i <= b.ndim ? b.dim[b.ndim - i] : 1;
        if (x != y && x != 1 && y != 1) return false;
        n *= (size_t)(x > y ? x : y);
    }
    return n <= MOST;
}

static entry pick(machine *m)
{
    if (!m->n) {
        bool requires;
        dl_tensor t = leaf(m, some_shape(m), &requires);
        if (!put(m, t, 1, requires)) return (entry){ t, 1, requires }; /* after an error */
    }
    int k = below(&m->shape, 2) ? below(&m->shape, m->n) : m->n - 1 - below(&m->shape, m->n < 4 ? m->n : 4);
    entry e = m->pool[k];
    use(m, e.t);
    return e;
}

/* Something that broadcasts with x: of the pool, x itself, a slice or a sum of it, or new. */
static entry partner(machine *m, entry x)
{
    entry e = x;
    dl_shape s = dl_shape_of(x.t);
    for (int i = 0; i < 6; i++) {
        entry *o = &m->pool[below(&m->shape, m->n)];
        if (fits(s, dl_shape_of(o->t))) {
            use(m, o->t);
            return *o;
        }
    }
    int d = s.ndim ? below(&m->shape, s.ndim) : 0;
    switch (below(&m->shape, 5)) {
    case 0: return x;
    case 1:
        if (!s.ndim) return x;
        e.t = dl_slice(x.t, d, s.dim[d] - 1, s.dim[d], 1);
        e.requires = x.requires && m->recording;
        return e;
    case 2:
        if (!s.ndim) return x;
        e.t = dl_mean_dims(x.t, &d, 1, true);
        e.requires = x.requires && m->recording;
        return e;
    default:
        for (int i = 0; i < s.ndim; i++)
            if (one_in(&m->shape, 3)) s.dim[i] = 1;
        while (s.ndim && one_in(&m->shape, 3)) {
            memmove(s.dim, s.dim + 1, sizeof *s.dim * (size_t)(s.ndim - 1));
            s.ndim--;
        }
        e.t = leaf(m, s, &e.requires);
        e.bound = 1;
        return e;
    }
}

static void elementwise1(machine *m)
{
    entry x = pick(m);
    dl_tensor y;
    double b = x.bound;
    bool r = x.requires && m->recording;
    float a = number(&m->data);
    switch (below(&m->shape, 20)) {
    case 0: y = dl_neg(x.t); break;
    case 1: y = dl_abs(x.t); break;
    case 2: y = dl_exp(dl_tanh(x.t)), b = 3; break;
    case 3: y = dl_square(x.t), b *= b; break;
    case 4: y = dl_sigmoid(x.t), b = 1; break;
    case 5: y = dl_tanh(x.t), b = 1; break;
    case 6: y = dl_sin(x.t), b = 1; break;
    case 7: y = dl_relu(x.t); break;
    case 8: y = dl_gelu(x.t); break;
    case 9: y = dl_silu(x.t); break;
    case 10: y = dl_softplus(x.t), b += 1; break;
    case 11: y = dl_clamp(x.t, -0.5f + a / 4, 0.5f + a / 4), b = 1; break;
    case 12: y = dl_add_scalar(x.t, a), b += 1; break;
    case 13: y = dl_mul_scalar(x.t, a); break;
    case 14: y = dl_leaky_relu(x.t, a); break;
    case 15: y = dl_rsqrt(dl_add_scalar(dl_square(x.t), 0.5f)), b = 2; break;
    case 16: y = dl_dropout(x.t, 0.3f + a / 4), b *= 2; break;
    case 17: y = dl_log1p(dl_square(x.t)), b += 1; break;
    case 18: y = dl_elu(x.t, a), b += 1; break;
    default: y = times(x.t, a); break;
    }
    put(m, y, b, r);
}

static void elementwise2(machine *m)
{
    entry x = pick(m), z = partner(m, x), c;
    bool swap = one_in(&m->shape, 2);
    entry a = swap ? z : x, b = swap ? x : z;
    double both = a.bound + b.bound;
    bool r = (a.requires || b.requires) && m->recording;
    dl_tensor y;
    switch (below(&m->shape, 10)) {
    case 0: case 1: y = dl_add(a.t, b.t); break;
    case 2: y = dl_sub(a.t, b.t); break;
    case 3: case 4: y = dl_mul(a.t, b.t), both = a.bound * b.bound; break;
    case 5: y = dl_div(a.t, dl_add_scalar(dl_square(b.t), 1)), both = a.bound; break;
    case 6: y = dl_maximum(a.t, b.t); break;
    case 7: y = dl_minimum(a.t, b.t); break;
    case 8: y = one_in(&m->shape, 2) ? dl_gt(a.t, b.t) : dl_le(a.t, b.t), both = 1, r = false; break;
    default:
        c = partner(m, x);
        if (!fits(dl_shape_of(dl_add(a.t, b.t)), dl_shape_of(c.t))) c = x;
        y = dl_where(dl_gt(c.t, dl_full(m->ctx, DL_SCALAR, 0.1f)), a.t, b.t);
    }
    put(m, y, both, r);
}

static void reduction(machine *m)
{
    entry x = pick(m);
    int nd = dl_ndim(x.t), dims[DLTRAIN_MAX_DIMS], n = 0;
    bool keep = one_in(&m->shape, 2), r = x.requires && m->recording;
    double b = x.bound;
    dl_tensor y;
    for (int i = 0; i < nd; i++)
        if (one_in(&m->shape, 2)) dims[n++] = one_in(&m->shape, 2) ? i : i - nd;
    const int *d = n ? dims : NULL;
    switch (below(&m->shape, 8)) {
    case 0: case 1: y = dl_sum_dims(x.t, d, n, keep), b *= (double)dl_numel(x.t); break;
    case 2: y = dl_mean_dims(x.t, d, n, keep); break;
    case 3: y = dl_max_dims(x.t, d, n, keep); break;
    case 4: y = dl_min_dims(x.t, d, n, keep); break;
    case 5: y = dl_var_dims(x.t, d, n, keep, 0), b *= 4 * b; break;
    case 6: y = dl_logsumexp_dims(x.t, d, n, keep), b += 7; break;
    default: y = dl_norm_dims(x.t, d, n, keep), b *= (double)dl_numel(x.t);
    }
    put(m, y, b, r);
}

static dl_tensor permuted(machine *m, dl_tensor t)
{
    int nd = dl_ndim(t), order[DLTRAIN_MAX_DIMS];
    for (int i = 0; i < nd; i++) {
        int k = below(&m->shape, i + 1);
        order[i] = order[k];
        order[k] = i;
    }
    return dl_permute(t, order);
}

static void moving(machine *m)
{
    entry x = pick(m), z;
    dl_shape s = dl_shape_of(x.t), to = DL_SCALAR;
    int nd = s.ndim, d = nd ? below(&m->shape, nd) : 0;
    bool r = x.requires && m->recording;
    double b = x.bound;
    dl_tensor y = x.t, list[3];
    bool other = false;
    int n;
    int32_t index[12];
    dl_index pads[2], rest;
    switch (below(&m->shape, 12)) {
    case 0: case 1: /* reshape: by chance a factor at a time */
        rest = (dl_index)dl_numel(x.t);
        for (to.ndim = 0; to.ndim < 3 && rest > 1;) {
            dl_index f = 2 + below(&m->shape, 8);
            if (rest % f) f = rest;
            to.dim[to.ndim++] = f;
            rest /= f;
        }
        to.dim[to.ndim++] = rest;
        y = dl_reshape(x.t, to);
        break;
    case 2: y = permuted(m, x.t); break;
    case 3: case 4: case 5: /* rows are views, columns and steps are copies */
        if (!nd) break;
        if (one_in(&m->shape, 2)) d = 0;
        rest = below(&m->shape, (int)s.dim[d]);
        y = dl_slice(x.t, d, rest, rest + 1 + below(&m->shape, (int)(s.dim[d] - rest)), 1 + below(&m->shape, 3) / 2);
        if (one_in(&m->shape, 2)) { /* with the tensor it is part of */
            y = dl_slice(x.t, d, rest, rest + 1, 1);
            y = one_in(&m->shape, 2) ? dl_add(x.t, y) : dl_mul(y, x.t), b = b + b * b;
        }
        break;
    case 6:
        if (!nd || dl_numel(x.t) * 3 > MOST) break;
        z = partner(m, x);
        list[0] = x.t;
        list[1] = dl_slice(x.t, d, 0, (s.dim[d] + 1) / 2, 1);
        list[2] = x.t;
        if (dl_ndim(z.t) == nd && !memcmp(dl_shape_of(z.t).dim, s.dim, sizeof *s.dim * (size_t)nd)) list[2] = z.t, other = true;
        n = 1 + below(&m->shape, 3);
        if (other && n == 3) r = r || (z.requires && m->recording), b = b > z.bound ? b : z.bound;
        y = dl_concat(list, n, d);
        break;
    case 7: {
        if (!nd || dl_numel(x.t) * 4 > MOST) break;
        n = 1 + below(&m->shape, 2 * (s.dim[d] < 6 ? (int)s.dim[d] : 6));
        for (int i = 0; i < n; i++) index[i] = (int32_t)below(&m->data, (int)s.dim[d]);
        y = dl_index_select(x.t, d, dl_input(m->ctx, DL_I32, DL_SHAPE(n), index));
        break;
    }
    case 8: {
        if (!nd || dl_numel(x.t) * 4 > MOST) break;
        dl_tensor at = dl_argmax(x.t, d, false); /* indices that are computed */
        if (dl_numel(at) > 4 * MOST / dl_numel(x.t)) break;
        y = dl_index_select(x.t, d, dl_reshape(at, DL_SHAPE(-1)));
        if (dl_numel(y) > MOST) y = dl_slice(y, d, 0, 1, 1);
        break;
    }
    case 9: y = dl_detach(x.t), r = false; break;
    case 10:
        pads[0] = below(&m->shape, 3), pads[1] = below(&m->shape, 3);
        if (nd && dl_numel(x.t) * 5 <= MOST) y = dl_pad(x.t, pads, 2, number(&m->data)), b += 1;
        break;
    default: {
        if (nd > 2 || dl_numel(x.t) * 3 > MOST) break;
        to.ndim = nd + 1;
        to.dim[0] = 3;
        for (int i = 0; i < nd; i++) to.dim[i + 1] = s.dim[i];
        y = dl_expand(x.t, to);
    }
    }
    if (dl_numel(y) <= MOST) put(m, y, b, r);
}

static void product(machine *m)
{
    entry x = pick(m), z = pick(m);
    dl_shape s = dl_shape_of(x.t);
    dl_tensor a = x.t, b, y;
    bool r = x.requires, free = one_in(&m->shape, 2);
    if (!s.ndim) return;
    if (s.ndim == 1) a = dl_reshape(a, DL_SHAPE(1, s.dim[0])), s = dl_shape_of(a);
    dl_index k = s.dim[s.ndim - 1];
    double bound = x.bound * z.bound * (double)k;
    int nz = dl_ndim(z.t);
    if (one_in(&m->shape, 3)) { /* of x with itself */
        b = one_in(&m->shape, 2) ? dl_transpose(a, -1, -2) : a;
        bound = x.bound * x.bound * (double)k;
        if (b.node == a.node) a = dl_transpose(a, -1, -2);
    } else if (nz && dl_dim(z.t, nz - 1) == k) { /* rows with rows */
        b = nz == 1 ? dl_reshape(z.t, DL_SHAPE(1, k)) : nz == 2 ? z.t : dl_reshape(z.t, DL_SHAPE((dl_index)dl_numel(z.t) / k, k));
        r = r || z.requires;
        if (free) b = dl_transpose(b, -1, -2);
        else {
            dl_matmul_desc d = { false, true };
            use(m, a);
            use(m, b);
            if (dl_numel(a) / (size_t)k * (size_t)dl_dim(b, 0) > MOST) return;
            y = dl_matmul_ex(a, b, &d);
            put(m, y, bound, r && m->recording);
            return;
        }
    } else {
        bool q;
        b = leaf(m, k * 3 <= MOST && one_in(&m->shape, 2) ? DL_SHAPE(k, 3) : DL_SHAPE(k), &q);
        r = r || q;
        bound = x.bound * (double)k;
    }
    size_t columns = dl_ndim(b) == 1 ? 1 : (size_t)dl_dim(b, -1);
    if (dl_numel(a) / (size_t)dl_dim(a, -1) * columns > MOST) return;
    use(m, a);
    use(m, b);
    y = dl_matmul(a, b);
    put(m, y, bound, r && m->recording);
    if (one_in(&m->shape, 3) && b.node != a.node && dl_numel(b) <= MOST) /* transposed ones are used again */
        put(m, b, x.bound > z.bound ? x.bound : z.bound, false);
}

static dl_tensor buffer(machine *m, const char *name, float value)
{
    dl_param_desc d;
    memset(&d, 0, sizeof d);
    d.shape = DL_SHAPE(8);
    d.init = DL_INIT_CONSTANT;
    d.value = value;
    d.buffer = true;
    return dl_parameter(m->ctx, name, &d);
}

static void normalisation(machine *m)
{
    entry x = pick(m);
    int nd = dl_ndim(x.t);
    bool r = x.requires && m->recording;
    dl_tensor none = { NULL, 0, 0 };
    if (nd > 1 && dl_dim(x.t, 1) == 8 && dl_numel(x.t) > 8) {
        dl_tensor mean = buffer(m, "mean", 0), var = buffer(m, "var", 1);
        if (one_in(&m->shape, 2)) put(m, dl_mul_scalar(mean, 2), 20, false); /* before it changes */
        put(m, dl_batch_norm_op(x.t, one_in(&m->shape, 2) ? param(m, 1) : none, none, mean, var, 0.1f, 0.1f), 20, r);
        if (one_in(&m->shape, 2)) put(m, dl_add(mean, dl_slice(var, 0, 1, 2, 1)), 20, false); /* and after */
        return;
    }
    switch (below(&m->shape, 4)) {
    case 0: put(m, dl_softmax(x.t, nd ? below(&m->shape, nd) : 0), 1, r); break;
    case 1: put(m, dl_log_softmax(x.t, nd ? below(&m->shape, nd) : 0), 20, r); break;
    case 2:
        if (nd) put(m, dl_layer_norm_op(x.t, none, none, 0.1f), 20, r);
        break;
    default: put(m, dl_apply(&reverse_op, 1, &x.t, NULL), x.bound, r);
    }
}

static void second_order(machine *m)
{
    entry y = pick(m), x = pick(m);
    dl_tensor in[2], d[2];
    if (!m->recording || !y.requires) return;
    in[0] = x.requires && (one_in(&m->shape, 2)) ? x.t : param(m, 0);
    in[1] = param(m, 0);
    if (!dl_grad(dl_sum(y.t), in, 2, d)) return;
    for (int k = 0; k < 2; k++) {
        use(m, d[k]);
        put(m, dl_tanh(d[k]), 1, false);
    }
}

static void read_some(machine *m)
{
    for (int k = 1 + below(&m->shape, 3); k > 0 && m->n; k--) {
        entry *e = &m->pool[below(&m->shape, m->n)];
        if (!m->recording && !promised(m, e->t)) continue;
        dl_tensor t = e->t;
        log_tensor(m, "read in mid-step", t, false);
        if (t.node >= m->mark) has_run(m); /* else it was there, and nothing ran */
    }
    if (one_in(&m->shape, 2)) {
        dl_tensor s = dl_mean(pick(m).t);
        (void)dl_item(s);
        log_tensor(m, "item", s, false);
        has_run(m);
    }
}

static void record(machine *m, int operations)
{
    for (int i = 0; i < operations && !dl_failed(m->ctx) && inside_nodes(m->ctx) < NODES / 4; i++) {
        if (!m->n || one_in(&m->shape, 10)) {
            bool requires;
            dl_tensor t = leaf(m, some_shape(m), &requires);
            put(m, t, 1, requires);
        }
        int kind = below(&m->shape, 100);
        if (kind < 26) elementwise1(m);
        else if (kind < 50) elementwise2(m);
        else if (kind < 60) reduction(m);
        else if (kind < 78) moving(m);
        else if (kind < 86) product(m);
        else if (kind < 92) normalisation(m);
        else if (kind < 94) read_some(m);
        else if (kind < 95) second_order(m);
        else if (kind < 97) {
            int k = below(&m->shape, PARAMS);
            put(m, param(m, k), 1, k != 1); /* p1 may be frozen */
        } else if (one_in(&m->shape, 3)) m->recording = !m->recording, dl_set_grad(m->ctx, m->recording);
    }
    m->recording = true;
    dl_set_grad(m->ctx, true);
}

static dl_tensor loss_of(machine *m)
{
    dl_tensor loss = dl_mean(dl_square(param(m, 0)));
    for (int k = 1 + below(&m->shape, 4); k > 0; k--) {
        dl_tensor t = pick(m).t;
        loss = dl_add(loss, one_in(&m->shape, 2) ? dl_mean(t) : dl_tanh(dl_sum(t)));
    }
    return loss;
}

static void log_params(machine *m, bool grads)
{
    dl_param_info p;
    for (int i = 0; i < dl_param_count(m->ctx); i++) {
        if (!dl_param_get(m->ctx, i, &p)) return;
        if (grads && p.has_grad) log_numbers(m, "gradient", (uint32_t)i, p.grad, p.numel * sizeof *p.grad, true);
        if (!grads) log_numbers(m, "parameter", (uint32_t)i, p.value, p.numel * sizeof *p.value, true);
    }
}

static void one_step(machine *m, int operations)
{
    dl_backward_desc d;
    m->n = m->lents = 0;
    m->mark = 0;
    m->recording = true;
    memset(m->used, 0, sizeof m->used);
    memset(m->kept, 0, sizeof m->kept);
    memset(&d, 0, sizeof d);
    int early = below(&m->shape, PARAMS + 1);
    for (int k = 0; k < early; k++) put(m, param(m, k), 1, k != 1);
    record(m, operations / 2);
    for (int k = early; k < PARAMS; k++) put(m, param(m, k), 1, k != 1);
    if (!m->step) buffer(m, "mean", 0), buffer(m, "var", 1);
    record(m, operations - operations / 2);
    if (one_in(&m->shape, 4)) {
        d.retain = true;
        d.pattern = one_in(&m->shape, 2) ? "p0|p3|scope*" : NULL;
        d.scale = one_in(&m->shape, 2) ? 0.5f : 0;
        dl_backward_ex(loss_of(m), &d);
        m->mark = inside_nodes(m->ctx);
        log_params(m, true);
        if (one_in(&m->shape, 2)) record(m, 5);
        if (one_in(&m->shape, 3)) read_some(m);
    }
    d.retain = false;
    d.pattern = one_in(&m->shape, 6) ? "p0|p1|p5" : NULL;
    d.scale = 0;
    dl_tensor loss = loss_of(m);
    dl_backward_ex(loss, &d);
    log_tensor(m, "loss", loss, false);
    for (int i = 0; i < m->n; i++)
        if (promised(m, m->pool[i].t)) {
            uint32_t node = m->pool[i].t.node;
            log_tensor(m, m->kept[node] ? "kept" : m->used[node] ? "small" : "unused", m->pool[i].t, false);
        }
    log_params(m, true);
    if (!one_in(&m->shape, 4)) { /* else the next step adds */
        log_numbers(m, "norm", 0, &(double){ (dl_clip_grad_norm(m->ctx, 0.5, NULL), dl_grad_norm(m->ctx)) }, sizeof(double), false);
        m->step |= 0x10000;
    }
    if (m->n && !dl_failed(m->ctx)) log_tensor(m, "any value", m->pool[below(&m->shape, m->n)].t, true);
}

typedef struct mode { const char *name; bool eager, no_reuse, no_fusion, portable, fixed; int threads, every; } mode;
static const mode modes[] = {
    { "eager", true, false, false, false, false, 1, 1 },            { "planned", false, false, false, false, false, 1, 1 },
    { "no reuse", false, true, false, false, false, 1, 2 },         { "no fusion", false, false, true, false, false, 1, 2 },
    { "neither", false, true, true, false, false, 1, 4 },           { "portable", false, false, false, true, false, 1, 2 },
    { "2 threads", false, false, false, false, false, 2, 16 },      { "3 threads", false, false, false, false, false, 3, 16 },
    { "eager, 2 threads", true, false, false, false, false, 2, 64 }, { "fixed block", false, false, false, false, true, 1, 2 },
    { "eager, fixed block", true, false, false, false, true, 1, 8 },
};

static void run(uint64_t seed, const mode *how, size_t bytes, report *out)
{
    static machine m;
    rng steps = seeded(seed, 1);
    dl_config c;
    dl_sgd_desc sgd;
    void *block = bytes ? malloc(bytes) : NULL;
    memset(&c, 0, sizeof c);
    memset(&sgd, 0, sizeof sgd);
    c.seed = seed;
    c.threads = how->threads;
    c.eager = how->eager;
    c.no_reuse = how->no_reuse;
    c.no_fusion = how->no_fusion;
    c.simd = how->portable ? "portable" : NULL;
    c.memory = block;
    c.memory_size = bytes;
    out->n = 0;
    out->error[0] = 0;
    out->finite = true;
    m.ctx = dl_create(&c);
    m.out = out;
    sgd.lr = 0.05f;
    sgd.momentum = one_in(&steps, 2) ? 0.9f : 0;
    dl_optimizer *opt = dl_sgd(m.ctx, &sgd);
    int variants = 1 + below(&steps, 4), operations = 5 + below(&steps, 56), count = 2 + below(&steps, 5), keeps = 1 + below(&steps, 2);
    for (int i = 0; i < count && !dl_failed(m.ctx); i++) {
        m.step = i;
        m.shape = seeded(seed, 1000 + (uint64_t)below(&steps, variants)); /* the same structure comes again, */
        m.data = seeded(seed, 2000 + (uint64_t)i);                        /* with other numbers */
        m.keep = seeded(seed, 3000 + (uint64_t)(i % keeps));              /* and with others kept */
        if (i && one_in(&steps, 6)) dl_freeze(m.ctx, "p1", i & 1);
        one_step(&m, operations);
        if (dl_failed(m.ctx) && !(out->n && out->at[out->n - 1].gone)) break;
        dl_clear_error(m.ctx); /* of the value that may be gone; ends the step in every mode alike */
        if (m.step & 0x10000) {
            dl_step(opt);
            log_params(&m, false);
        }
        for (int k = 0; k < m.lents; k++) free(m.lent[k]);
        m.lents = 0;
    }
    for (int k = 0; k < m.lents; k++) free(m.lent[k]);
    snprintf(out->error, sizeof out->error, "%s", dl_error(m.ctx));
    out->memory = dl_memory_used(m.ctx);
    dl_destroy(m.ctx);
    free(block);
}

/* NULL, or what differs. */
static const char *difference(const report *a, const report *b)
{
    static char text[1600];
    for (size_t i = 0; i < a->n && i < b->n; i++) {
        const event *x = &a->at[i], *y = &b->at[i];
        if (x->may_go && (x->gone || y->gone)) continue;
        if (x->hash == y->hash && x->gone == y->gone) continue;
        snprintf(text, sizeof text, "step %d, %s %u (%u): begins %.9g, in eager mode %.9g; %s", (int)(y->step & 0xffff),
            y->what, y->node, x->node, (double)y->first, (double)x->first, b->error);
        return text;
    }
    if (a->n == b->n && !*a->error && !*b->error) return NULL;
    snprintf(text, sizeof text, "%zu events, in eager mode %zu; '%s', in eager mode '%s'", b->n, a->n, b->error, a->error);
    return text;
}

static int seeds_tried, events_seen, gone_seen;
static bool try_seed(uint64_t seed, bool all)
{
    static report eager, other, growable;
    bool good = true;
    run(seed, &modes[0], 0, &eager);
    CHECK(!*eager.error, "seed %d, eager: %s", (int)seed, eager.error);
    CHECK(eager.finite, "seed %d: a value is not finite", (int)seed);
    for (size_t i = 1; i < sizeof modes / sizeof *modes; i++) {
        const mode *how = &modes[i];
        size_t bytes = 0;
        const char *wrong;
        if (!all && seed % (uint64_t)how->every) continue;
        if (how->fixed) {
            run(seed, how, 0, &growable);
            bytes = growable.memory.persistent + growable.memory.tape + growable.memory.work;
        }
        run(seed, how, bytes, &other);
        events_seen += (int)other.n;
        for (size_t k = 0; k < other.n; k++) gone_seen += other.at[k].gone;
        wrong = difference(&eager, &other);
        CHECK(!wrong, "seed %d, %s: %s", (int)seed, how->name, wrong);
        good = good && !wrong;
        if (wrong) printf("# seed %d, %s: %s\n", (int)seed, how->name, wrong);
    }
    seeds_tried++;
    return good;
}

static void random_programs(void)
{
    int bad = 0;
    for (int seed = 1; seed <= PROGRAMS && bad < 10; seed++) bad += !try_seed((uint64_t)seed, false);
    CHECK(bad == 0, "%d of %d seeds", bad, seeds_tried);
    CHECK(gone_seen > 0 && events_seen > 50 * PROGRAMS, "the programs do nothing: %d events, %d planned away", events_seen, gone_seen);
}

/* ---- one by one: programs that the planner could get wrong, run in every mode as well ---- */
static dl_tensor ramp(machine *m, dl_shape s, int salt) /* numbers without a pattern */
{
    dl_real v[4 * MOST];
    rng r = seeded((uint64_t)salt, 7);
    for (size_t i = 0; i < count(s); i++) v[i] = number(&r);
    return dl_input(m->ctx, DL_F32, s, v);
}

static dl_tensor weight(machine *m, const char *name, dl_shape s)
{
    dl_param_desc d;
    memset(&d, 0, sizeof d);
    d.shape = s;
    d.value = 0.5f;
    return dl_parameter(m->ctx, name, &d);
}

static dl_tensor sum_squares(dl_tensor x) { return dl_sum(dl_square(x)); }

static void all_same(void (*program)(machine *m))
{
    static report eager, other;
    static machine m;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        report *out = i ? &other : &eager;
        const char *wrong;
        dl_config c;
        memset(&c, 0, sizeof c);
        c.eager = modes[i].eager;
        c.no_reuse = modes[i].no_reuse;
        c.no_fusion = modes[i].no_fusion;
        c.simd = modes[i].portable ? "portable" : NULL;
        c.threads = modes[i].threads;
        memset(&m, 0, sizeof m);
        m.recording = true;
        m.out = out;
        out->n = 0;
        m.ctx = dl_create(&c);
        program(&m);
        snprintf(out->error, sizeof out->error, "%s", dl_error(m.ctx));
        dl_destroy(m.ctx);
        CHECK(!*eager.error, "eager: %s", eager.error);
        CHECK(eager.n > 0, "nothing was read");
        wrong = i ? difference(&eager, &other) : NULL;
        CHECK(!wrong, "%s: %s", modes[i].name, wrong);
    }
}

static void p_gradient_of_a_transposed(machine *m)
{
    dl_tensor t = dl_transpose(weight(m, "w", DL_SHAPE(8, 20)), 0, 1), d, y = sum_squares(dl_matmul(ramp(m, DL_SHAPE(6, 20), 1), t));
    dl_grad(y, &t, 1, &d);
    log_tensor(m, "gradient", d, false);
}
static void gradient_of_a_transposed(void) { all_same(p_gradient_of_a_transposed); }

/* Recorded without gradients, it takes none, whoever reads it. */
static void p_transposed_without_gradient(machine *m)
{
    dl_tensor w = weight(m, "w", DL_SHAPE(8, 20)), v = weight(m, "v", DL_SHAPE(6, 20)), t;
    dl_set_grad(m->ctx, false);
    t = dl_transpose(w, 0, 1);
    dl_set_grad(m->ctx, true);
    dl_backward(sum_squares(dl_matmul(v, t)));
    log_params(m, true);
}
static void transposed_without_gradient(void) { all_same(p_transposed_without_gradient); }

/* What was planned away under a transposed tensor is not read again. */
static void p_transposed_after_a_read(machine *m)
{
    dl_tensor a = ramp(m, DL_SHAPE(6, 20), 1), t;
    dl_set_grad(m->ctx, false);
    t = dl_keep(dl_transpose(dl_tanh(ramp(m, DL_SHAPE(8, 20), 2)), 0, 1));
    log_tensor(m, "kept", t, false);
    log_tensor(m, "product", dl_matmul(a, t), false);
}
static void transposed_after_a_read(void) { all_same(p_transposed_after_a_read); }

/* A read in mid-step takes nothing away while gradients are recorded. */
static void p_transposed_used_again(machine *m)
{
    dl_tensor t = dl_transpose(weight(m, "w", DL_SHAPE(8, 20)), 0, 1), y = sum_squares(dl_matmul(ramp(m, DL_SHAPE(6, 20), 1), t));
    log_tensor(m, "loss", y, false);
    log_tensor(m, "transposed", t, false);
    dl_backward(dl_add(y, dl_sum(dl_sin(t))));
    log_params(m, true);
}
static void transposed_used_again(void) { all_same(p_transposed_used_again); }

static void p_small_transposed(machine *m)
{
    dl_tensor t = dl_transpose(weight(m, "w", DL_SHAPE(2, 3)), 0, 1);
    dl_backward(sum_squares(dl_matmul(ramp(m, DL_SHAPE(6, 3), 1), t)));
    log_tensor(m, "transposed", t, false);
}
static void small_transposed(void) { all_same(p_small_transposed); }

static void p_small_view(machine *m)
{
    dl_tensor x = dl_tanh(weight(m, "w", DL_SHAPE(100))), v = dl_slice(x, 0, 3, 5, 1), y = dl_mul(v, v);
    dl_backward(dl_add(dl_sum(y), sum_squares(dl_exp(x))));
    log_tensor(m, "view", v, false);
}
static void small_view(void) { all_same(p_small_view); }

/* The same operations with the product of the transposed tensor, then of the tensor itself: other plans. */
static void p_bypassed_and_not(machine *m)
{
    dl_matmul_desc d = { false, true };
    for (int i = 0; i < 4; i++) {
        dl_tensor w = weight(m, "w", DL_SHAPE(8, 20)), x = ramp(m, DL_SHAPE(6, 20), i), t = dl_transpose(w, 0, 1);
        dl_tensor y = i & 1 ? dl_matmul(x, t) : dl_matmul_ex(x, w, &d);
        dl_backward(sum_squares(y));
        if (!(i & 1)) log_tensor(m, "transposed", t, false);
        log_params(m, true);
    }
}
static void bypassed_and_not(void) { all_same(p_bypassed_and_not); }

/* Sums of gradients in the order of the uses, whether a transposed tensor stands between or not. */
static void p_order_of_gradients(machine *m)
{
    dl_tensor w = weight(m, "w", DL_SHAPE(13, 20)), t = dl_transpose(w, 0, 1), a = dl_sin(w), b = dl_exp(w), c = dl_tanh(w);
    dl_tensor y = dl_matmul(ramp(m, DL_SHAPE(6, 20), 1), t);
    y = dl_add(sum_squares(y), dl_sum(dl_matmul(ramp(m, DL_SHAPE(3, 20), 2), t)));
    dl_backward(dl_add(y, dl_add(sum_squares(a), dl_add(sum_squares(b), dl_sum(c)))));
    log_params(m, true);
}
static void order_of_gradients(void) { all_same(p_order_of_gradients); }

/* A product does not see what batch_norm does to a buffer after it was transposed. */
static void p_transposed_buffer(machine *m)
{
    for (int i = 0; i < 2; i++) {
        dl_tensor mean = buffer(m, "mean", 0.5f), var = buffer(m, "var", 1), none = { NULL, 0, 0 };
        dl_tensor t = dl_transpose(dl_reshape(mean, DL_SHAPE(1, 8)), 0, 1);
        dl_tensor y = dl_batch_norm_op(ramp(m, DL_SHAPE(30, 8), i), none, none, mean, var, 0.5f, 0.1f);
        log_tensor(m, "product", dl_matmul(y, t), false);
        dl_end(m->ctx);
    }
}
static void transposed_buffer(void) { all_same(p_transposed_buffer); }

/* Reading a buffer gives what is recorded, not what has been run. */
static void p_buffer_read(machine *m)
{
    dl_tensor mean = buffer(m, "mean", 0.5f), var = buffer(m, "var", 1), none = { NULL, 0, 0 };
    log_tensor(m, "before", mean, false);
    dl_tensor y = dl_batch_norm_op(ramp(m, DL_SHAPE(30, 8), 1), none, none, mean, var, 0.5f, 0.1f);
    log_tensor(m, "after", mean, false);
    log_tensor(m, "normalised", y, false);
}
static void buffer_read(void) { all_same(p_buffer_read); }

/* What was recorded before a parameter changed has its old value. */
static void p_parameter_set(machine *m)
{
    dl_real v[20] = { 3, 4 };
    dl_tensor y = dl_mul_scalar(weight(m, "w", DL_SHAPE(20)), 2);
    dl_param_set(m->ctx, "w", v, 20);
    log_tensor(m, "twice", y, false);
}
static void parameter_set(void) { all_same(p_parameter_set); }

static void p_step_in_mid_step(machine *m)
{
    dl_sgd_desc sgd;
    dl_backward_desc d;
    memset(&sgd, 0, sizeof sgd);
    memset(&d, 0, sizeof d);
    sgd.lr = 0.5f;
    d.retain = true;
    dl_optimizer *opt = dl_sgd(m->ctx, &sgd);
    dl_tensor w = weight(m, "w", DL_SHAPE(20));
    dl_backward_ex(sum_squares(w), &d);
    dl_tensor y = dl_mul_scalar(w, 2);
    dl_step(opt);
    log_tensor(m, "twice", y, false);
}
static void step_in_mid_step(void) { all_same(p_step_in_mid_step); }

/* A gradient that an operation of the user's writes: over, then on top. */
static void p_user_accumulates(machine *m)
{
    for (int i = 0; i < 3; i++) {
        dl_tensor w = weight(m, "w", DL_SHAPE(100)), v = weight(m, "v", DL_SHAPE(100));
        dl_tensor y = dl_mul(times(w, (dl_real)(i + 2)), ramp(m, DL_SHAPE(100), i));
        dl_tensor z = dl_mul(dl_apply(&reverse_op, 1, &v, NULL), ramp(m, DL_SHAPE(100), i + 9));
        dl_backward(dl_add(dl_sum(y), sum_squares(z)));
        log_params(m, true);
    }
}
static void user_accumulates(void) { all_same(p_user_accumulates); }

/* An elementwise operation runs in tiles and gets no scratch: it is told so, and not run without. */
static void elementwise_scratch(void)
{
    dl_context *ctx = dl_create(NULL);
    dl_real v[3] = { 1, 2, 3 };
    dl_tensor x = dl_input(ctx, DL_F32, DL_SHAPE(3), v), y = dl_apply(&scratched_op, 1, &x, NULL);
    CHECK(!dl_ok(y) && strstr(dl_error(ctx), "test_scratched"), "'%s'", dl_error(ctx));
    dl_destroy(ctx);
}

/* Micro-batches of other shapes on top of each other, parameters used once and twice, long sums. */
static void p_micro_batches(machine *m)
{
    static const dl_index rows[] = { 3, 1, 200, 700, 700, 3 };
    for (int i = 0; i < 6; i++) {
        dl_index n = rows[i];
        dl_tensor x = dl_mul_scalar(dl_rand(m->ctx, DL_SHAPE(n, 20)), 0.1f), w = weight(m, "w", DL_SHAPE(17, 20));
        dl_tensor b = weight(m, "b", DL_SHAPE(17));
        dl_tensor v = weight(m, "v", DL_SHAPE(17, 17)), s = weight(m, "s", DL_SCALAR);
        dl_tensor h = dl_tanh(dl_affine(x, w, b));
        h = dl_matmul(dl_tanh(dl_matmul(h, v)), v);
        dl_backward(dl_mean(dl_mul(dl_square(h), s)));
        log_params(m, true);
    }
}
static void micro_batches(void) { all_same(p_micro_batches); }

/* The same program with other values kept and other numbers in it. */
static void p_kept_and_numbers(machine *m)
{
    for (int i = 0; i < 8; i++) {
        dl_tensor w = weight(m, "w", DL_SHAPE(10, 13)), x = dl_tanh(w), v = dl_slice(x, 0, 1, 2, 1), y = dl_add(x, v);
        dl_tensor z = dl_mul(y, y), u = dl_add_scalar(dl_exp(dl_mul_scalar(z, 0.1f * (float)i)), (float)i), q = dl_detach(u);
        dl_tensor all[5];
        all[0] = x, all[1] = v, all[2] = y, all[3] = z, all[4] = u;
        if (i >= 2) dl_keep(all[i % 5]);
        dl_backward(dl_add(dl_sum(dl_mul(u, z)), dl_mean(dl_mul(q, x))));
        if (i >= 2) log_tensor(m, "kept", all[i % 5], false);
        log_params(m, true);
        log_tensor(m, "any", all[(i + 1) % 5], true);
        dl_clear_error(m->ctx);
    }
}
static void kept_and_numbers(void) { all_same(p_kept_and_numbers); }

/* Written over where nothing else reads: neither a leaf, nor a parent of a view, nor what is kept. */
static void p_in_place(machine *m)
{
    static dl_real lent[130];
    dl_tensor leaf_ = dl_borrow(m->ctx, DL_F32, DL_SHAPE(130), lent), in = ramp(m, DL_SHAPE(130), 1);
    for (int i = 0; i < 130; i++) lent[i] = (dl_real)i / 64;
    dl_set_grad(m->ctx, false);
    dl_tensor a = dl_sin(leaf_), b = dl_reshape(a, DL_SHAPE(13, 10)), c = dl_exp(a), k = dl_keep(dl_cos(c)), e = dl_add(k, k);
    dl_tensor f = dl_mul(dl_reshape(e, DL_SHAPE(13, 10)), dl_reshape(b, DL_SHAPE(13, 10)));
    dl_tensor g = dl_add(f, dl_slice(f, 0, 0, 1, 1)), h = dl_sub(g, dl_slice(g, 1, 9, 10, 1));
    log_tensor(m, "result", dl_add(h, dl_reshape(dl_neg(in), DL_SHAPE(13, 10))), false);
    log_tensor(m, "kept", k, false);
    log_tensor(m, "lent", leaf_, false);
    log_tensor(m, "input", in, false);
    dl_end(m->ctx);
}
static void in_place(void) { all_same(p_in_place); }

int main(int argc, char **argv)
{
    if (argc > 1) {
        test__begin("seed");
        try_seed((uint64_t)atoi(argv[1]), true);
        test__end();
        return REPORT();
    }
    RUN(gradient_of_a_transposed);
    RUN(transposed_without_gradient);
    RUN(transposed_after_a_read);
    RUN(transposed_used_again);
    RUN(small_transposed);
    RUN(small_view);
    RUN(bypassed_and_not);
    RUN(order_of_gradients);
    RUN(transposed_buffer);
    RUN(buffer_read);
    RUN(parameter_set);
    RUN(step_in_mid_step);
    RUN(user_accumulates);
    RUN(elementwise_scratch);
    RUN(micro_batches);
    RUN(kept_and_numbers);
    RUN(in_place);
    RUN(random_programs);
    return REPORT();
}
