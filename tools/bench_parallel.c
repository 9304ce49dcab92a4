/* `make bench-parallel`: W2 and W3 of tools/workloads.h on one replica of one thread, and on two, each with a batch of its own: over threads, and
   over MPI where mpirun is there. One side after the other, a process each. Then where the time goes. docs/speed.md says how to read the output. */
#define _GNU_SOURCE
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef DLTRAIN_MPI
#include "../dltrain_mpi.h"
#endif
#include "cost.h"
#include "measure.h"
#include "workloads.h"
#include <sys/resource.h>

static const char help[] =
    "usage: build/bench_parallel [OPTIONS], from the top folder of dltrain\n"
    "    --rounds N     of each side (5); medians are printed\n"
    "    --seconds S    of a round (1)\n"
    "    --samples N    of a batch, instead of the workload's: of 1, the reduction is much of the step\n";

/* ---- one round: --run SIDE WORKLOAD REPLICAS SECONDS SAMPLES; it prints samples/s and seconds of CPU time of a replica's step, and for `reduce` what an
   all-reduce takes ---- */
typedef struct round_of { const workload *w; const char *side; double seconds; int here; } round_of;

/* CPU time of this process, user and system, on all its threads. */
static double cpu_seconds(void)
{
    struct rusage u;
    getrusage(RUSAGE_SELF, &u);
    return (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) + 1e-6 * (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
}

static void print_rate(dl_context *ctx, dl_comm *comm, const round_of *r)
{
    /* `apart`: each replica trains a context of its own, unconnected, at the same time: what the machine gives */
    bool apart = !strcmp(r->side, "apart");
    dl_context *mine = apart ? dl_create(&(dl_config){ .seed = 1, .threads = 1 }) : ctx;
    dl_optimizer *opt = r->w->optimizer(mine);
    void *data = wl_data(r->w);
    int step = 0;
    while (step < 4) wl_step(mine, r->w, opt, data, step++);
    double start = now();
    wl_step(mine, r->w, opt, data, step++);
    dl_real steps = (dl_real)(r->seconds / (now() - start)) + 1; /* as many on each rank */
    dl_all_reduce(comm, &steps, 1, DL_COMM_MAX);
    dl_barrier(comm);
    start = now();
    double cpu = cpu_seconds();
    for (int i = 0; i < (int)steps && !dl_failed(mine); i++) wl_step(mine, r->w, opt, data, step++);
    dl_barrier(comm);
    double rate = (double)((int)steps * r->w->samples * dl_comm_size(comm)) / (now() - start);
    cpu = (cpu_seconds() - cpu) / (steps * r->here);
    if (!dl_comm_rank(comm) && !dl_failed(mine)) printf("%.1f %.9f\n", rate, cpu);
    free(data);
    if (apart) dl_destroy(mine);
}

/* Seconds of one number, and of all gradients of the workload: medians. And how many numbers these are. */
static void print_reduction(dl_context *ctx, dl_comm *comm, const round_of *r)
{
    double took[2][MOST_ROUNDS];
    dl_param_info p;
    void *data = wl_data(r->w);
    wl_step(ctx, r->w, r->w->optimizer(ctx), data, 0);
    size_t n = 0;
    for (int i = 0; i < dl_param_count(ctx) && dl_param_get(ctx, i, &p); i++) n += p.buffer ? 0 : p.numel;
    dl_real *x = calloc(n, sizeof *x);
    for (int i = 0; x && i < MOST_ROUNDS; i++)
        for (int k = 0; k < 2; k++) {
            dl_barrier(comm);
            double start = now();
            dl_all_reduce(comm, x, k ? n : 1, DL_COMM_SUM);
            took[k][i] = now() - start;
        }
    if (x && !dl_comm_rank(comm) && !dl_failed(ctx)) printf("%.9f %.9f %zu\n", median(took[0], MOST_ROUNDS), median(took[1], MOST_ROUNDS), n);
    free(x);
    free(data);
}

static void run_side(dl_context *ctx, dl_comm *comm, void *user)
{
    const round_of *r = user;
    (!strcmp(r->side, "reduce") ? print_reduction : print_rate)(ctx, comm, r);
}

static int run_round(char **argv)
{
    char error[512] = "";
    workload w;
    round_of r = { .side = argv[1], .seconds = atof(argv[4]), .here = atoi(argv[3]) };
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++)
        if (!strcmp(workloads[i].name, argv[2])) w = workloads[i], r.w = &w;
    if (r.w && atoi(argv[5])) w.samples = atoi(argv[5]);
    dl_launch_desc desc = { .replicas = r.here, .config = &(dl_config){ .seed = 1, .threads = 1 }, .error = error, .error_size = sizeof error };
#ifdef DLTRAIN_MPI
    bool ok = r.w && dl_mpi_launch(&desc, run_side, &r);
#else
    bool ok = r.w && dl_launch(&desc, run_side, &r);
#endif
    if (!ok) fprintf(stderr, "bench_parallel: %s\n", error);
    return !ok;
}

/* ---- the comparison ---- */
typedef struct bench { const char *self; int rounds; double seconds; int samples; } bench;

/* What a round prints, as far as it is numbers. */
static bool ask(const bench *b, const char *side, const char *name, bool mpi, int replicas, double *out, int n)
{
    char command[512];
    if (mpi) snprintf(command, sizeof command, "mpirun --oversubscribe -np %d %s_mpi --run %s %s 1 %g %d", replicas, b->self, side, name, b->seconds, b->samples);
    else snprintf(command, sizeof command, "%s --run %s %s %d %g %d", b->self, side, name, replicas, b->seconds, b->samples);
    FILE *f = popen(command, "r");
    int got = 0;
    while (f && got < n && fscanf(f, "%lf", &out[got]) == 1) got++;
    bool ok = f && pclose(f) == 0 && got == n && out[0] > 0;
    if (!ok) printf("%s %s failed: %s\n", name, mpi ? "MPI" : "threads", command);
    return ok;
}

static bool compare(const bench *b, const workload *w, bool mpi)
{
    static const char *const sides[3] = { "run", "run", "apart" };
    double rate[3][MOST_ROUNDS], cpu[3][MOST_ROUNDS], got[2], reduction[3], exposed, middle[3];
    for (int i = 0; i < b->rounds; i++)
        for (int k = 0; k < 3; k++) {
            if (!ask(b, sides[k], w->name, mpi, k ? 2 : 1, got, 2)) return false;
            rate[k][i] = got[0];
            cpu[k][i] = got[1] * 1e3;
        }
    if (!ask(b, "reduce", w->name, mpi, 2, reduction, 3)) return false;
    for (int k = 0; k < 3; k++) middle[k] = median(rate[k], b->rounds);
    /* with two cores nothing runs beside two replicas: no overlap, and the step of both at once instead of one alone */
    double bytes = reduction[2] * sizeof(dl_real), each = (reduction[1] - reduction[0]) / bytes;
    cost_step step = { .forward = 2 * w->samples / middle[2], .bytes = bytes, .first = 1 << 20, .bucket = 25 << 20 };
    double predicted = 2 * w->samples / cost_of_step(&step, reduction[0], each > 0 ? each : 0, &exposed);
    printf("%s %s 1 replica %.0f samples/s  2 replicas %.0f samples/s  ratio %.2f  unconnected %.2f  predicted %.2f (measured %+.1f%%)\n", w->name,
        mpi ? "MPI" : "threads", middle[0], middle[1], middle[1] / middle[0], middle[2] / middle[0], predicted / middle[0], 100 * (middle[1] / predicted - 1));
    printf("%s %s CPU time of a step %.2f ms alone, %.2f ms of two, %.2f ms of two unconnected\n", w->name, mpi ? "MPI" : "threads",
        median(cpu[0], b->rounds), median(cpu[1], b->rounds), median(cpu[2], b->rounds));
    printf("%s %s all-reduce of %.2f MB %.3f ms, of a number %.1f us\n", w->name, mpi ? "MPI" : "threads", bytes * 1e-6, reduction[1] * 1e3, reduction[0] * 1e6);
    return true;
}

/* ---- where the time goes: two devices of one thread, by all forms ---- */
enum { OUTPUT_DEVICE, EACH_DEVICE, EVERY_RANK, FORMS };
static const char *const form_names[FORMS] = { "loss on output", "loss on each", "dl_launch" };
typedef struct phases_of { const workload *w; int steps; dl_parallel_stats from, to; dl_memory memory[2]; } phases_of;

static dl_tensor run_model(dl_tensor x, void *user) { return ((const workload *)user)->model(user, x); }

/* One batch of both devices: two of the workload's in a row. */
static void parallel_step(dl_context *ctx, dl_data_parallel *dp, const workload *w, int form, const int32_t *data, const int32_t *targets)
{
    dl_shape s = wl_batch_shape(w);
    s.dim[0] *= 2;
    dl_tensor x = dl_borrow(ctx, DL_F32, s, data), y = dl_borrow(ctx, DL_I32, DL_SHAPE(2 * (dl_index)wl_targets(w)), targets);
    if (form == EACH_DEVICE) dl_data_parallel_backward(dp, x, y, NULL);
    else dl_backward(dl_cross_entropy(dl_data_parallel_forward(dp, x), y));
}

static bool one_program(phases_of *p, int form)
{
    size_t nx = wl_inputs(p->w), ny = wl_targets(p->w);
    dl_context *ctx = dl_create(&(dl_config){ .seed = 1, .threads = 1 });
    dl_optimizer *opt = p->w->optimizer(ctx);
    dl_data_parallel *dp = dl_data_parallel_create(ctx, &(dl_data_parallel_desc){ .devices = "cpu,cpu", .model_with = run_model, .user = (void *)(uintptr_t)p->w });
    int32_t *data = wl_data_of(p->w, 2), *xy = malloc(2 * (nx + ny) * sizeof *xy);
    for (int k = 0; k < 2; k++) {
        memcpy(xy + k * nx, data + k * (nx + ny), nx * sizeof *xy);
        memcpy(xy + 2 * nx + k * ny, data + k * (nx + ny) + nx, ny * sizeof *xy);
    }
    for (int i = 0; i < p->steps + 3; i++) {
        if (i == 3) dl_data_parallel_stats(dp, &p->from);
        parallel_step(ctx, dp, p->w, form, xy, xy + 2 * nx);
        dl_step(opt);
    }
    dl_data_parallel_stats(dp, &p->to);
    for (int k = 0; k < 2; k++) p->memory[k] = dl_data_parallel_memory(dp, k);
    bool ok = !dl_failed(ctx);
    if (!ok) printf("%s\n", dl_error(ctx));
    dl_destroy(ctx);
    free(data);
    free(xy);
    return ok;
}

static void every_rank(dl_context *ctx, dl_comm *comm, void *user)
{
    phases_of *p = user;
    int rank = dl_comm_rank(comm);
    void *data = wl_data(p->w);
    dl_optimizer *opt = p->w->optimizer(ctx);
    for (int i = 0; i < p->steps + 3; i++) {
        if (i == 3 && !rank) dl_comm_stats(comm, &p->from);
        wl_step(ctx, p->w, opt, data, i + rank);
    }
    if (!rank) dl_comm_stats(comm, &p->to);
    p->memory[rank] = dl_memory_used(ctx);
    free(data);
}

static void print_phase(const phases_of *p, const dl_phase *from, const dl_phase *to)
{
    printf(" %8.3f %7.3f", (to->seconds - from->seconds) * 1e3 / p->steps, (double)(to->bytes - from->bytes) * 1e-6 / p->steps);
}

static bool phases(const workload *w, double seconds)
{
    static const char *const names[] = { "scatter", "replicate", "forward", "backward", "gather", "reduce", "wait" };
    char error[512] = "";
    printf("%s on two devices, %d samples on each: ms and MB of a step\n%-14s", w->name, w->samples, "");
    for (int i = 0; i < 7; i++) printf(" %8s %7s", names[i], "MB");
    printf("   arenas MB: first, other\n");
    for (int form = 0; form < FORMS; form++) {
        phases_of p = { .w = w, .steps = seconds < 0.1 ? 2 : 20 };
        bool ok = form < EVERY_RANK ? one_program(&p, form)
                                    : dl_launch(&(dl_launch_desc){ .replicas = 2, .config = &(dl_config){ .seed = 1, .threads = 1 }, .error = error, .error_size = sizeof error }, every_rank, &p);
        if (!ok) return printf("%s: %s\n", form_names[form], error), false;
        const dl_parallel_stats *a = &p.from, *b = &p.to;
        printf("%-14s", form_names[form]);
        print_phase(&p, &a->scatter, &b->scatter);
        print_phase(&p, &a->replicate, &b->replicate);
        print_phase(&p, &a->forward, &b->forward);
        print_phase(&p, &a->backward, &b->backward);
        print_phase(&p, &a->gather, &b->gather);
        print_phase(&p, &a->reduce, &b->reduce);
        print_phase(&p, &a->wait, &b->wait);
        for (int k = 0; k < 2; k++) printf("%s%.1f", k ? ", " : "   ", (double)(p.memory[k].persistent + p.memory[k].tape + p.memory[k].work) * 1e-6);
        printf("\n");
    }
    return true;
}

int main(int argc, char **argv)
{
    bench b = { argv[0], 5, 1, 0 };
    if (argc == 7 && !strcmp(argv[1], "--run")) return run_round(argv + 1);
    for (int i = 1; i < argc; i += 2) {
        bool number = !strcmp(argv[i], "--rounds"), time = !strcmp(argv[i], "--seconds"), samples = !strcmp(argv[i], "--samples");
        double value = i + 1 < argc ? atof(argv[i + 1]) : 0;
        if (!strcmp(argv[i], "--help")) return printf("%s", help), 0;
        if ((!number && !time && !samples) || !(value >= (time ? 0.001 : 1)) || value > (number ? MOST_ROUNDS : samples ? 4096 : 60))
            return fprintf(stderr, "bench_parallel: '%s' is no option, or its value is missing or out of range\n%s", argv[i], help), 2;
        if (number) b.rounds = (int)value;
        else if (samples) b.samples = (int)value;
        else b.seconds = value;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0); /* as in a container */
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    char mpi[512];
    snprintf(mpi, sizeof mpi, "%s_mpi", argv[0]);
    bool with_mpi = access(mpi, X_OK) == 0, good = true;
    workload w[2] = { workloads[1], workloads[2] };
    for (int i = 0; i < 2 && b.samples; i++) w[i].samples = b.samples;
    if (!with_mpi) printf("%s is not there: threads alone\n", mpi);
    for (int k = 0; k < (with_mpi ? 2 : 1); k++)
        for (int i = 0; i < 2; i++) good = compare(&b, &w[i], k == 1) && good;
    for (int i = 0; i < 2; i++) good = phases(&w[i], b.seconds) && good;
    return !good;
}
