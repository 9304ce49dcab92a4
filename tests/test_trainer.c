/* The trainer: runs that fail at some step and go on from their snapshot end with the bits of one that never failed, alone and in a world
   of threads; another world size is refused, but for invariant shards; evaluation counts each sample once.
   tests: tsan */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include "../dltrain.h"
#include "nets.h"
#include "runs.h"
#include "test.h"
#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

static const char *const file = "build/tests/trainer.safetensors";
enum { SAMPLES = 28, EPOCHS = 4 };

/* ---- what a run is asked for, and what came of it ---- */
typedef struct job {
    int world, shards, accumulate, epochs;
    dl_split split;
    bool saves, any_world;
    int64_t save_steps;
    int fails_at;                        /* the call of loss on rank 0 that fails; 0: none */
    uint64_t hash, history;              /* of the parameters; of the curves and counts */
    int resumed, epochs_told;
    char error[600];
} job;
typedef struct rank { job *j; dl_context *ctx; int calls; } rank;

static dl_tensor loss(const dl_batch *b, void *user)
{
    rank *r = (rank *)user;
    if (!dl_comm_rank(dl_comm_of(r->ctx)) && ++r->calls == r->j->fails_at) dl_fail(r->ctx, "on purpose");
    dl_tensor h = dl_dropout(dl_relu(dl_linear(b->x, "fc1", 6)), 0.25f);
    h = r->j->split == DL_SPLIT_PAD ? dl_batch_norm(h, "norm", NULL) : dl_layer_norm(h, "norm", NULL); /* parts may be of one sample */
    return dl_cross_entropy(dl_linear(h, "fc2", 3), b->y);
}

static dl_tensor index_metric(const dl_batch *b, void *user) /* a mean that only the right samples give, once each */
{
    (void)user;
    return dl_mean(dl_slice(b->x, 1, 0, 1, 1));
}

static void resumed(const dl_trainer_state *s, void *user)
{
    rank *r = (rank *)user;
    if (!dl_comm_rank(dl_comm_of(r->ctx))) r->j->resumed = s->epoch + 1;
}

static void told(const dl_trainer_state *s, void *user)
{
    rank *r = (rank *)user;
    double mean = 0;
    for (int i = 0; i < SAMPLES; i++) mean += (double)run_x[i * 5] / SAMPLES;
    if (!(fabs(s->metric - mean) < 1e-6)) dl_fail(r->ctx, "the metric is %g, not %g", s->metric, mean);
    if (!dl_comm_rank(dl_comm_of(r->ctx))) r->j->epochs_told = s->epoch;
}

static void one_rank(dl_context *ctx, dl_comm *comm, void *user)
{
    job *j = (job *)user;
    rank r;
    dl_loader_desc l;
    dl_trainer_desc t;
    memset(&r, 0, sizeof r);
    memset(&l, 0, sizeof l);
    memset(&t, 0, sizeof t);
    r.j = j;
    r.ctx = ctx;
    dl_dataset *data = run_data(ctx, SAMPLES, 5);
    l.batch = j->shards ? 8 : j->split == DL_SPLIT_BATCH ? 9 : j->split == DL_SPLIT_ONCE ? 3 : 5;
    l.shuffle = l.prefetch = true;
    l.split = j->split;
    t.train = dl_loader_create(data, &l);
    l.split = DL_SPLIT_ONCE;
    l.batch = 4;
    l.shuffle = false;
    t.test = dl_loader_create(data, &l);
    t.optimizer = dl_adam(ctx, NULL);
    t.epochs = j->epochs ? j->epochs : EPOCHS;
    t.loss = loss;
    t.metric = index_metric;
    t.resumed = resumed;
    t.epoch_done = told;
    t.user = &r;
    t.accumulate.steps = j->accumulate;
    t.accumulate.clip_norm = 1;
    t.history = dl_history_create(ctx);
    t.snapshot = j->saves ? file : NULL;
    t.save_steps = j->save_steps;
    t.any_world = j->any_world;
    t.keep = 2;
    t.quiet = true;
    bool ok = dl_trainer_run(ctx, &t);
    if (ok && !dl_comm_rank(comm)) {
        j->hash = net_hash(ctx);
        j->history = inside_mix_curves(inside_steps(t.optimizer), t.history);
    }
}

static bool run(job *j)
{
    dl_launch_desc d;
    dl_config c;
    memset(&d, 0, sizeof d);
    memset(&c, 0, sizeof c);
    c.seed = 4;
    c.threads = 1;
    d.replicas = j->world;
    d.config = &c;
    d.invariant_shards = j->shards;
    d.deadline_seconds = 100;
    d.error = j->error;
    d.error_size = sizeof j->error;
    j->hash = 0;
    return dl_launch(&d, one_rank, j);
}

static void clean(void) { run_clean(file, 3); }

/* ---- tests ---- */
/* calls: of loss, by rank 0 in an epoch */
static const struct { int world, shards, accumulate; dl_split split; int calls; } shapes[] = {
    { 1, 0, 1, DL_SPLIT_PAD, 6 }, { 1, 0, 3, DL_SPLIT_PAD, 6 }, { 2, 0, 1, DL_SPLIT_PAD, 3 }, { 2, 0, 2, DL_SPLIT_ONCE, 5 },
    { 3, 0, 1, DL_SPLIT_ONCE, 4 }, { 3, 0, 1, DL_SPLIT_BATCH, 4 }, { 2, 4, 0, DL_SPLIT_BATCH, 8 }, { 4, 4, 0, DL_SPLIT_BATCH, 4 },
    { 1, 4, 0, DL_SPLIT_BATCH, 16 },
};

static void goes_on(void)
{
    for (size_t k = 0; k < COUNT_OF(shapes); k++) {
        job whole, j;
        memset(&whole, 0, sizeof whole);
        whole.world = shapes[k].world;
        whole.shards = shapes[k].shards;
        whole.accumulate = shapes[k].accumulate;
        whole.split = shapes[k].split;
        CHECK(run(&whole) && whole.hash && whole.epochs_told == EPOCHS, "world %zu: %s", k, whole.error);
        j = whole;
        j.saves = true;
        clean();
        for (int every = 0; every <= 2; every++) {
            int lives = 0, far = 0, window = whole.shards ? whole.shards / whole.world : whole.accumulate;
            j.save_steps = every;
            for (bool ended = false; !ended && lives < 60; lives++) {
                j.resumed = 0;
                j.fails_at = (every ? window * (every + 2) : shapes[k].calls) + 1 + lives % 3; /* behind the next snapshot */
                ended = run(&j);
                CHECK(ended || strstr(j.error, "on purpose"), "world %zu: '%s'", k, j.error);
                CHECK(!lives || j.resumed, "world %zu: a run that did not resume", k);
                CHECK(j.resumed >= far, "world %zu: resumed at an earlier epoch than the run before", k);
                far = j.resumed;
            }
            CHECK(lives > 1 && lives < 60, "world %zu: ended after %d lives", k, lives);
            CHECK(j.hash == whole.hash, "world %zu, saved every %d steps: other parameters", k, every);
            CHECK(j.history == whole.history || shapes[k].world > 1, "world %zu, saved every %d steps: other curves", k, every);
            clean();
        }
    }
}

static void other_worlds(void) /* refused with a reason; asked for; exact with shards */
{
    job j;
    uint64_t want = 0;
    memset(&j, 0, sizeof j);
    clean();
    j.world = 2;
    j.saves = true;
    j.save_steps = 2;
    j.fails_at = 9;
    CHECK(!run(&j) && strstr(j.error, "on purpose"), "'%s'", j.error);
    j.world = 3;
    j.fails_at = 0;
    CHECK(!run(&j) && strstr(j.error, "is of a world of 2 ranks, this one has 3"), "'%s'", j.error);
    j.any_world = true;
    CHECK(run(&j) && j.epochs_told == EPOCHS, "'%s'", j.error);
    clean();
    memset(&j, 0, sizeof j);
    j.split = DL_SPLIT_BATCH;
    j.shards = 4;
    j.world = 1;
    CHECK(run(&j), "'%s'", j.error);
    want = j.hash;
    j.saves = true;
    j.save_steps = 1;
    static const int worlds[] = { 4, 1, 2, 4, 2, 1, 2 };
    for (size_t i = 0; i < COUNT_OF(worlds); i++) {
        j.world = worlds[i];
        j.fails_at = i + 1 < COUNT_OF(worlds) ? 1 + 2 * 4 / worlds[i] : 0;
        bool ok = run(&j);
        CHECK(ok ? !j.fails_at : strstr(j.error, "on purpose") != NULL, "life %zu: '%s'", i, j.error);
    }
    CHECK(j.hash == want, "invariant shards: a run that went through worlds of 4, 1, 2, ... ended elsewhere");
    clean();
}

static void only_longer(void) /* more epochs than before: as if they had been asked for at once */
{
    job j;
    memset(&j, 0, sizeof j);
    clean();
    j.world = 1;
    CHECK(run(&j), "%s", j.error);
    uint64_t want = j.hash;
    j.saves = true;
    j.epochs = 2;
    CHECK(run(&j) && !j.resumed, "%s", j.error);
    j.epochs = EPOCHS;
    CHECK(run(&j) && j.resumed == 3 && j.hash == want, "resumed %d. %s", j.resumed, j.error);
    j.epochs = 2; /* done already */
    CHECK(run(&j) && j.hash == want, "%s", j.error);
    clean();
}

static void wrong_descs(void)
{
    dl_context *c = dl_create(NULL);
    dl_trainer_desc t;
    memset(&t, 0, sizeof t);
    CHECK(!dl_trainer_run(c, &t) && strstr(dl_error(c), "are required"), "'%s'", dl_error(c));
    dl_destroy(c);
}

int main(void)
{
    (void)net_train;
    (void)run_context;
    run_begin();
    RUN(goes_on);
    RUN(other_worlds);
    RUN(only_longer);
    RUN(wrong_descs);
    return REPORT();
}
