/* `make bench-parallel`: W2 and W3 of tools/workloads.h on one replica of one thread, and on two, each with a batch of its own: over threads, and
   over MPI where mpirun is there. One side after the other, a process each. docs/speed.md says how to read the output. */
#define _GNU_SOURCE
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef DLTRAIN_MPI
#include "../dltrain_mpi.h"
#endif
#include "workloads.h"
#include "measure.h"

static const char help[] =
    "usage: build/bench_parallel [OPTIONS], from the top folder of dltrain\n"
    "    --rounds N     of each side (5); medians are printed\n"
    "    --seconds S    of a round (1)\n";

/* ---- one round: --run WORKLOAD REPLICAS SECONDS ---- */
typedef struct round_of { const workload *w; double seconds; } round_of;

static void train(dl_context *ctx, dl_comm *comm, void *user)
{
    const round_of *r = user;
    dl_optimizer *opt = r->w->optimizer(ctx);
    void *data = wl_data(r->w);
    int step = 0;
    while (step < 4) wl_step(ctx, r->w, opt, data, step++);
    double start = now();
    wl_step(ctx, r->w, opt, data, step++);
    dl_real steps = (dl_real)(r->seconds / (now() - start)) + 1; /* as many on each rank */
    dl_all_reduce(comm, &steps, 1, DL_COMM_MAX);
    start = now();
    for (int i = 0; i < (int)steps && !dl_failed(ctx); i++) wl_step(ctx, r->w, opt, data, step++);
    dl_barrier(comm);
    double rate = (double)((int)steps * r->w->samples * dl_comm_size(comm)) / (now() - start);
    if (!dl_comm_rank(comm) && !dl_failed(ctx)) printf("%.1f\n", rate);
    free(data);
}

static int run_round(char **argv)
{
    char error[512] = "";
    round_of r = { .seconds = atof(argv[3]) };
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++)
        if (!strcmp(workloads[i].name, argv[1])) r.w = &workloads[i];
    dl_launch_desc desc = { .replicas = atoi(argv[2]), .config = &(dl_config){ .seed = 1, .threads = 1 }, .error = error, .error_size = sizeof error };
#ifdef DLTRAIN_MPI
    bool ok = r.w && dl_mpi_launch(&desc, train, &r);
#else
    bool ok = r.w && dl_launch(&desc, train, &r);
#endif
    if (!ok) fprintf(stderr, "bench_parallel: %s\n", error);
    return !ok;
}

/* ---- the comparison ---- */
static double rate_of(const char *command)
{
    double rate = 0;
    FILE *f = popen(command, "r");
    bool got = f && fscanf(f, "%lf", &rate) == 1;
    return f && pclose(f) == 0 && got ? rate : 0;
}

static bool compare(const char *self, const char *name, bool mpi, int rounds, double seconds)
{
    double rate[2][MOST_ROUNDS];
    char command[512];
    for (int i = 0; i < rounds; i++)
        for (int k = 0; k < 2; k++) {
            if (mpi) snprintf(command, sizeof command, "mpirun --oversubscribe -np %d %s_mpi --run %s 1 %g", k + 1, self, name, seconds);
            else snprintf(command, sizeof command, "%s --run %s %d %g", self, name, k + 1, seconds);
            rate[k][i] = rate_of(command);
            if (!(rate[k][i] > 0)) return printf("%s %s failed: %s\n", name, mpi ? "MPI" : "threads", command), false;
        }
    double one = median(rate[0], rounds), two = median(rate[1], rounds);
    printf("%s %s 1 replica %.0f samples/s  2 replicas %.0f samples/s  ratio %.2f\n", name, mpi ? "MPI" : "threads", one, two, two / one);
    return true;
}

int main(int argc, char **argv)
{
    int rounds = 5;
    double seconds = 1;
    if (argc == 5 && !strcmp(argv[1], "--run")) return run_round(argv + 1);
    for (int i = 1; i < argc; i += 2) {
        bool number = !strcmp(argv[i], "--rounds"), time = !strcmp(argv[i], "--seconds");
        double value = i + 1 < argc ? atof(argv[i + 1]) : 0;
        if (!strcmp(argv[i], "--help")) return printf("%s", help), 0;
        if ((!number && !time) || !(value >= (number ? 1 : 0.001)) || value > (number ? MOST_ROUNDS : 60))
            return fprintf(stderr, "bench_parallel: '%s' is no option, or its value is missing or out of range\n%s", argv[i], help), 2;
        if (number) rounds = (int)value;
        else seconds = value;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    setenv("OMPI_ALLOW_RUN_AS_ROOT", "1", 0); /* as in a container */
    setenv("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1", 0);
    setenv("OMPI_MCA_btl_vader_single_copy_mechanism", "none", 0);
    char mpi[512];
    snprintf(mpi, sizeof mpi, "%s_mpi", argv[0]);
    bool with_mpi = access(mpi, X_OK) == 0, good = true;
    if (!with_mpi) printf("%s is not there: threads alone\n", mpi);
    for (int k = 0; k < (with_mpi ? 2 : 1); k++)
        for (int i = 1; i < 3; i++) good = compare(argv[0], workloads[i].name, k == 1, rounds, seconds) && good;
    return !good;
}
