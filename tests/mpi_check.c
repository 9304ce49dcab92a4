/* What tests/check_mpi.sh runs under mpirun: mpi_check MODE [REPLICAS]. Prints 'ok ...' or 'not ok ...' lines on rank 0, or fails as asked. */
#define _POSIX_C_SOURCE 200809L
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#include "../dltrain_mpi.h"
#include "nets.h"
#include <time.h>
#include <unistd.h>

typedef struct mode { const char *name; int replicas, shards; int failed; } mode;

static void report(dl_comm *comm, mode *m, bool ok, const char *what)
{
    dl_real bad = !ok;
    dl_all_reduce(comm, &bad, 1, DL_COMM_MAX);
    if (dl_comm_rank(comm) == 0) printf("%s mpi: %s, %d ranks, %d in a process\n", bad != 0 ? "not ok" : "ok", what, dl_comm_size(comm), m->replicas);
    m->failed |= bad != 0;
}

/* What the script compares between ways of reducing. */
static void tell_hash(dl_comm *comm, const mode *m, uint64_t hash)
{
    if (!dl_comm_rank(comm)) printf("hash %s %016llx\n", m->name, (unsigned long long)hash);
}

/* ---- collectives ---- */
static dl_real number(int rank, size_t i) { return (dl_real)((double)((i * 2654435761u + (size_t)rank * 40503u) % 1000003) * 1e-3 - 400); }

static void collectives(dl_context *ctx, dl_comm *comm, void *user)
{
    static const size_t sizes[] = { 0, 1, 3, 63, 1000, 70001, 600000 };
    mode *m = (mode *)user;
    int rank = dl_comm_rank(comm), size = dl_comm_size(comm);
    bool sums = true, most = true, spread = true, gathers = true, again = true;
    uint64_t hash = 0;
    dl_real *a = (dl_real *)malloc(600000 * sizeof *a), *b = (dl_real *)malloc(600000 * sizeof *b), *all = (dl_real *)malloc(70001 * 16 * sizeof *all);
    (void)ctx;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        size_t n = sizes[k];
        for (size_t i = 0; i < n; i++) a[i] = b[i] = number(rank, i);
        dl_all_reduce(comm, a, n, DL_COMM_SUM);
        dl_all_reduce(comm, b, n, DL_COMM_SUM);
        again = again && !memcmp(a, b, n * sizeof *a);
        hash = dl__hash_bytes(hash, (const char *)a, n * sizeof *a);
        for (size_t i = 0; i < n; i++) {
            double want = 0;
            for (int r = 0; r < size; r++) want += (double)number(r, i);
            sums = sums && fabs((double)a[i] - want) <= 1e-3;
        }
        for (size_t i = 0; i < n; i++) a[i] = number(rank, i);
        dl_all_reduce(comm, a, n, DL_COMM_MAX);
        for (size_t i = 0; i < n; i++) {
            dl_real want = number(0, i);
            for (int r = 1; r < size; r++) want = number(r, i) > want ? number(r, i) : want;
            most = most && a[i] == want;
        }
        for (int root = 0; root < size; root++) {
            for (size_t i = 0; i < n; i++) a[i] = number(rank + 100, i);
            dl_broadcast(comm, a, n * sizeof *a, root);
            for (size_t i = 0; i < n; i++) spread = spread && a[i] == number(root + 100, i);
        }
        if (n > 70001) continue;
        for (size_t i = 0; i < n; i++) a[i] = number(rank, i);
        dl_all_gather(comm, a, all, n * sizeof *a);
        for (int r = 0; r < size; r++)
            for (size_t i = 0; i < n; i++) gathers = gathers && all[(size_t)r * n + i] == number(r, i);
    }
    const dl_transport *t = comm->world->desc.transport;
    if (t) report(comm, m, !((dl__mpi *)t->user)->channel[0].shared == !!getenv("MESSAGES"), "the way that was to be tested");
    report(comm, m, sums, "sums");
    report(comm, m, again, "the same bits again");
    report(comm, m, most, "maxima");
    report(comm, m, spread, "broadcasts from every rank");
    report(comm, m, gathers, "gathers");
    report(comm, m, dl_barrier(comm), "barrier");
    tell_hash(comm, m, hash);
    free(a);
    free(b);
    free(all);
}

/* ---- training: a world against one context that sees every batch whole ---- */
enum { SAMPLES = 31, STEPS = 50 };

static dl_loader *loader(dl_context *ctx, int world, size_t batch)
{
    static dl_real x[SAMPLES * 6], y[SAMPLES];
    dl_dataset_desc d;
    dl_loader_desc l;
    memset(&d, 0, sizeof d);
    memset(&l, 0, sizeof l);
    for (size_t i = 0; i < SAMPLES * 7; i++) { /* every replica writes the same */
        uint32_t u = (uint32_t)i * 2654435761u >> 9;
        dl_real v = (dl_real)u / 4194304 - 1;
        __atomic_store(i < SAMPLES * 6 ? &x[i] : &y[i - SAMPLES * 6], &v, __ATOMIC_RELAXED);
    }
    d.count = SAMPLES;
    d.x_shape = DL_SHAPE(6);
    d.y_shape = DL_SHAPE(1);
    d.x = x;
    d.y = y;
    l.batch = batch;
    l.shuffle = true;
    l.world = world;
    l.split = DL_SPLIT_BATCH;
    return dl_loader_create(dl_dataset_create(ctx, &d), &l);
}

static dl_tensor loss(const dl_batch *b)
{
    return dl_mse(dl_linear(dl_tanh(dl_linear(b->x, "fc1", 9)), "fc2", 1), b->y, DL_MEAN);
}

static void steps(dl_context *ctx, dl_loader *l, int accumulate)
{
    dl_accumulator_desc a;
    dl_batch b;
    memset(&a, 0, sizeof a);
    a.steps = accumulate;
    dl_optimizer *opt = net_momentum(ctx);
    dl_accumulator *acc = dl_accumulator_create(opt, &a);
    while (!dl_failed(ctx) && opt->steps < STEPS) {
        while (dl_next(l, &b)) dl_accumulate(acc, loss(&b), b.count);
        dl_accumulator_flush(acc);
    }
}

/* The largest difference of parameters, against the largest parameter. */
static double apart(dl_context *a, dl_context *b)
{
    double most = 0, scale = 0;
    dl_param_info p, q;
    for (int i = 0; i < dl_param_count(a); i++) {
        if (!dl_param_get(a, i, &p) || !dl_param_get(b, i, &q) || p.numel != q.numel) return 1;
        for (size_t k = 0; k < p.numel; k++) {
            most = fmax(most, fabs((double)p.value[k] - (double)q.value[k]));
            scale = fmax(scale, fabs((double)q.value[k]));
        }
    }
    return scale > 0 ? most / scale : 1;
}

/* Batches of 10, for four ranks 3, 3, 2, 2, and a last one of a sample; or windows of three batches of 8. */
static void against_one(dl_context *ctx, dl_comm *comm, mode *m, size_t batch, int accumulate, const char *text)
{
    dl_config c;
    char what[100];
    memset(&c, 0, sizeof c);
    c.threads = 1;
    dl_context *alone = dl_create(&c);
    steps(alone, loader(alone, 1, batch), accumulate);
    steps(ctx, loader(ctx, 0, batch), accumulate);
    double d = apart(ctx, alone);
    snprintf(what, sizeof what, "%s ends where one rank ends (%.1e apart)", text, d);
    report(comm, m, d < 2e-6 && !dl_failed(ctx) && !dl_failed(alone), what);
    tell_hash(comm, m, net_hash(ctx));
    dl_destroy(alone);
}

static void training(dl_context *ctx, dl_comm *comm, void *user) { against_one(ctx, comm, (mode *)user, 10, 1, "training"); }
static void accumulating(dl_context *ctx, dl_comm *comm, void *user) { against_one(ctx, comm, (mode *)user, 8, 3, "accumulation"); }

static void invariant(dl_context *ctx, dl_comm *comm, void *user)
{
    dl_batch b;
    dl_optimizer *opt = net_momentum(ctx);
    dl_accumulator_desc a;
    memset(&a, 0, sizeof a);
    dl_accumulator *acc = dl_accumulator_create(opt, &a);
    dl_loader *l = loader(ctx, 0, 10);
    for (int epoch = 0; epoch < 6; epoch++) {
        while (dl_next(l, &b)) {
            dl_tensor h = dl_dropout(dl_tanh(dl_linear(b.x, "fc1", 9)), 0.25f);
            dl_accumulate(acc, dl_mse(dl_linear(h, "fc2", 1), b.y, DL_MEAN), b.count);
        }
        dl_accumulator_flush(acc);
    }
    if (!dl_failed(ctx)) tell_hash(comm, (const mode *)user, net_hash(ctx));
}

/* ---- faults ---- */
/* The clock of the machine, on which all processes are. */
static void tell_time(const char *what)
{
    struct timespec t;
    clock_gettime(CLOCK_REALTIME, &t);
    fprintf(stderr, "time %s %lld.%03ld\n", what, (long long)t.tv_sec, t.tv_nsec / 1000000);
}

static void faults(dl_context *ctx, dl_comm *comm, void *user)
{
    const char *name = ((mode *)user)->name;
    int last = dl_comm_size(comm) - 1;
    bool it = dl_comm_rank(comm) == last;
    dl_real v[4] = { 0 };
    dl_optimizer *opt = net_sgd(ctx);
    dl_loader *l = loader(ctx, 0, 12);
    for (int step = 0; step < 2000 && !dl_failed(ctx); step++) {
        dl_batch b;
        while (!dl_next(l, &b) && !dl_failed(ctx)) {}
        if (step == 4 && !strcmp(name, "stops")) comm->world->seconds = 1;
        if (it && step == 5) {
            tell_time("failed");
            if (!strcmp(name, "dies")) raise(SIGKILL);
            if (!strcmp(name, "stops")) raise(SIGSTOP);
            if (!strcmp(name, "fails")) dl_fail(ctx, "the model's own error");
            if (!strcmp(name, "size")) dl_all_reduce(comm, v, 3, DL_COMM_SUM);
            if (!strcmp(name, "other")) dl_broadcast(comm, v, sizeof v, 0);
            if (!strcmp(name, "leaves")) return;
        } else if (step == 5 && (!strcmp(name, "size") || !strcmp(name, "other"))) dl_all_reduce(comm, v, 4, DL_COMM_SUM);
        dl_backward(loss(&b));
        dl_step(opt);
    }
}

int main(int argc, char **argv)
{
    static const struct { const char *name; void (*fn)(dl_context *, dl_comm *, void *); int shards; } modes[] = {
        { "collectives", collectives, 0 }, { "training", training, 0 }, { "accumulating", accumulating, 0 }, { "invariant", invariant, 4 },
        { "dies", faults, 0 }, { "stops", faults, 0 }, { "fails", faults, 0 }, { "size", faults, 0 }, { "other", faults, 0 }, { "leaves", faults, 0 },
    };
    mode m = { argc > 1 ? argv[1] : "", argc > 2 ? atoi(argv[2]) : 1, 0, 0 };
    char error[1024] = "";
    dl_config c;
    dl_launch_desc d;
    (void)nets;
    (void)net_train;
    memset(&c, 0, sizeof c);
    memset(&d, 0, sizeof d);
    c.threads = 1;
    d.config = &c;
    d.replicas = m.replicas;
    d.deadline_seconds = 60; /* a busy machine starts slowly */
    d.error = error;
    d.error_size = sizeof error;
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        if (strcmp(m.name, modes[i].name)) continue;
        d.invariant_shards = modes[i].shards;
        if (dl_mpi_launch(&d, modes[i].fn, &m)) return m.failed;
        tell_time("ended");
        fprintf(stderr, "error: %s\n", error);
        return 3;
    }
    fprintf(stderr, "mpi_check: there is no mode '%s'\n", m.name);
    return 2;
}
