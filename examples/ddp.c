/* Data-parallel training that can be stopped and goes on from its snapshot: threads of one process, processes on one or more machines, or
   both at once.

       cc -O2 examples/ddp.c -o ddp -lm -pthread && ./ddp 50 10 --world 2
       ./ddp 50 10 --devices cuda:0,cuda:1
       mpicc -O2 -DDLTRAIN_MPI examples/ddp.c -o ddp -lm -pthread && mpirun -np 4 ./ddp 50 10

   On a cluster: sbatch examples/ddp.slurm. With --invariant the parameters are the same, bit for bit, for every number of ranks. */
#define DLTRAIN_IMPLEMENTATION
#include "../dltrain.h"
#ifdef __linux__ /* --devices cuda:0,cuda:1 */
#include "../dltrain_cuda.h"
#endif
#ifdef DLTRAIN_MPI
#include "../dltrain_mpi.h"
#endif

#include <stdlib.h>
#include <string.h>

enum { SAMPLES = 2048, WIDTH = 20 };

typedef struct options {
    int epochs, save_every, batch, world, invariant, threads;
    const char *snapshot, *digits, *devices;
    float lr;
    double deadline;
} options;

static const char *usage =
    "usage: ddp TOTAL_EPOCHS SAVE_EVERY [options]\n"
    "  --batch_size N    samples of a batch of each rank; with --invariant of all ranks together (32)\n"
    "  --snapshot FILE   written every SAVE_EVERY epochs, and where training goes on when it is there (snapshot.safetensors)\n"
    "  --world N         replicas in this process, a thread each (1); with mpirun: in each process\n"
    "  --devices LIST    a replica on each of them: cuda:0,cuda:1 (cpu)\n"
    "  --invariant S     the same bits for every number of ranks that divides S, a power of two\n"
    "  --digits DIR      learn the digits in DIR, such as examples/data, instead of 2048 samples of noise\n"
    "  --lr X            learning rate of SGD (0.001; digits: 0.05)\n"
    "  --threads N       of each replica (1)\n"
    "  --deadline S      seconds that a rank waits for the others (60)\n";

static bool parse(int argc, char **argv, options *o)
{
    int plain = 0;
    for (int i = 1; i < argc; i++) {
        const char *name = argv[i], *value = name;
        char *end = NULL;
        if (strncmp(name, "--", 2) == 0) {
            if (++i == argc) return fprintf(stderr, "ddp: %s needs a value\n%s", name, usage), false;
            value = argv[i];
            if (!strcmp(name, "--snapshot")) { o->snapshot = value; continue; }
            if (!strcmp(name, "--digits")) { o->digits = value; continue; }
            if (!strcmp(name, "--devices")) { o->devices = value; continue; }
            if (!strcmp(name, "--lr") || !strcmp(name, "--deadline")) {
                double v = strtod(value, &end);
                if (*end || !(v > 0)) return fprintf(stderr, "ddp: %s needs a number above 0, not '%s'\n", name, value), false;
                if (name[2] == 'l') o->lr = (float)v;
                else o->deadline = v;
                continue;
            }
        }
        int *count = value == name ? (plain == 0 ? &o->epochs : plain == 1 ? &o->save_every : NULL)
            : !strcmp(name, "--batch_size") ? &o->batch : !strcmp(name, "--world") ? &o->world
            : !strcmp(name, "--invariant") ? &o->invariant : !strcmp(name, "--threads") ? &o->threads : NULL;
        if (!count) return fprintf(stderr, "ddp: what is '%s'?\n%s", name, usage), false;
        plain += value == name;
        long n = strtol(value, &end, 10);
        if (*end || n < 1 || n > 1000000) return fprintf(stderr, "ddp: %s needs a whole number above 0, not '%s'\n", name, value), false;
        *count = (int)n;
    }
    return plain == 2 || (fputs(usage, stderr), false);
}

/* ---- the model, as for one device ---- */
static dl_tensor noise_loss(const dl_batch *b, void *user)
{
    (void)user;
    return dl_mse(dl_linear(b->x, "fc", 1), b->y, DL_MEAN);
}

static dl_tensor digit_net(dl_tensor x)
{
    x = dl_relu(dl_conv2d(x, "conv1", &(dl_conv2d_desc){ .out_channels = 16, .kernel = 3, .padding = 1 }));
    x = dl_max_pool2d(x, &(dl_pool2d_desc){ .kernel = 2 });
    x = dl_relu(dl_linear(dl_flatten(x, 1), "fc1", 64));
    return dl_linear(x, "fc2", 10);
}

static dl_tensor digit_loss(const dl_batch *b, void *user)
{
    (void)user;
    return dl_cross_entropy(digit_net(b->x), b->y);
}

static dl_tensor digit_accuracy(const dl_batch *b, void *user)
{
    (void)user;
    return dl_mean(dl_eq(dl_to_float(dl_argmax(digit_net(b->x), 1, false)), dl_to_float(b->y)));
}

/* ---- the data ---- */
static bool noise_get(void *user, size_t index, void *x, void *y)
{
    uint32_t state = (uint32_t)index * 2654435761u + 1;
    (void)user;
    for (int i = 0; i <= WIDTH; i++) {
        state = state * 1664525u + 1013904223u;
        *(i < WIDTH ? (float *)x + i : (float *)y) = (float)(state >> 8) / 16777216;
    }
    return true;
}

static dl_dataset *noise(dl_context *ctx)
{
    return dl_dataset_create(
        ctx, &(dl_dataset_desc){ .count = SAMPLES, .x_shape = DL_SHAPE(WIDTH), .y_shape = DL_SHAPE(1), .get = noise_get });
}

static dl_dataset *digits(dl_context *ctx, const char *dir, const char *part)
{
    char images[1024], labels[1024];
    snprintf(images, sizeof images, "%s/digits-%s-images.idx", dir, part);
    snprintf(labels, sizeof labels, "%s/digits-%s-labels.idx", dir, part);
    return dl_open_idx(ctx, images, labels);
}

/* ---- the run of one rank ---- */
typedef struct run { const options *o; dl_context *ctx; dl_loader *train; } run;

static void resumed(const dl_trainer_state *s, void *user)
{
    const run *r = user;
    if (!dl_comm_rank(dl_comm_of(r->ctx))) printf("Resuming training from snapshot at epoch %d\n", s->epoch);
}

static void epoch_done(const dl_trainer_state *s, void *user)
{
    const run *r = user;
    char line[200];
    int rank = dl_comm_rank(dl_comm_of(r->ctx));
    int n = snprintf(line, sizeof line, "[rank %d] Epoch %d | Batchsize: %d | Steps: %zu", rank, s->epoch - 1, r->o->batch, dl_loader_batches(r->train));
    if (!rank) n += snprintf(line + n, sizeof line - (size_t)n, " | loss %.6f", s->loss);
    if (!rank && r->o->digits) snprintf(line + n, sizeof line - (size_t)n, " | accuracy %.2f%%", 100 * s->metric);
    printf("%s\n", line);
    fflush(stdout);
}

/* So that two runs can be compared: FNV-1a over the bits of all parameters. */
static void print_checksum(dl_context *ctx)
{
    uint64_t h = 14695981039346656037u;
    dl_param_info p;
    for (int i = 0; i < dl_param_count(ctx) && dl_param_get(ctx, i, &p); i++)
        for (size_t k = 0; k < p.numel * sizeof *p.value; k++) h = (h ^ ((const unsigned char *)p.value)[k]) * 1099511628211u;
    printf("checksum of the parameters: %016llx\n", (unsigned long long)h);
}

static void train(dl_context *ctx, dl_comm *comm, void *user)
{
    const options *o = user;
    run r = { .o = o, .ctx = ctx };
    dl_loader_desc split = { .batch = (size_t)o->batch, .shuffle = true, .split = o->invariant ? DL_SPLIT_BATCH : DL_SPLIT_PAD };
    r.train = dl_loader_create(o->digits ? digits(ctx, o->digits, "train") : noise(ctx), &split);
    dl_trainer_desc t = {
        .train = r.train,
        .optimizer = dl_sgd(ctx, &(dl_sgd_desc){ .lr = o->lr ? o->lr : o->digits ? 0.05f : 1e-3f }),
        .epochs = o->epochs,
        .loss = o->digits ? digit_loss : noise_loss,
        .resumed = resumed,
        .epoch_done = epoch_done,
        .user = &r,
        .snapshot = o->snapshot,
        .save_epochs = o->save_every,
        .keep = 2,
        .quiet = true,
    };
    if (o->digits) {
        t.test = dl_loader_create(digits(ctx, o->digits, "test"), &(dl_loader_desc){ .batch = 100, .split = DL_SPLIT_ONCE });
        t.metric = digit_accuracy;
    }
    if (dl_trainer_run(ctx, &t) && !dl_comm_rank(comm)) print_checksum(ctx);
}

/* Ranks come from MPI, not from the environment: a program started as one for torchrun would train alone, again and again. */
static bool started_otherwise(void)
{
    const char *world = getenv("WORLD_SIZE");
    if (!world || atoi(world) < 2 || !getenv("RANK")) return false;
    if (getenv("OMPI_COMM_WORLD_SIZE") || getenv("PMIX_RANK") || getenv("PMI_RANK")) return false;
    fprintf(stderr,
        "ddp: RANK and WORLD_SIZE are set, but ranks are MPI's here: start all of them with 'mpirun -np %s ddp ...' (built by mpicc "
        "-DDLTRAIN_MPI), or one process with --world %s\n",
        world, world);
    return true;
}

int main(int argc, char **argv)
{
    options o = { .batch = 32, .threads = 1, .snapshot = "snapshot.safetensors", .deadline = 60 };
    char error[1024] = "";
    if (!parse(argc, argv, &o)) return 2;
    if (started_otherwise()) return 2;
    dl_launch_desc desc = {
        .devices = o.devices,
        .replicas = o.world,
        .config = &(dl_config){ .seed = 1, .threads = o.threads },
        .deadline_seconds = o.deadline,
        .invariant_shards = o.invariant,
        .error = error,
        .error_size = sizeof error,
    };
#ifdef DLTRAIN_MPI
    bool ok = dl_mpi_launch(&desc, train, &o);
#else
    bool ok = dl_launch(&desc, train, &o);
#endif
    if (!ok) fprintf(stderr, "ddp: %s\n", error);
    return !ok;
}
