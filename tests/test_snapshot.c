/* Snapshots: a resumed run has the bits of one that never stopped, from any step, with every optimizer, in mid-epoch and in mid-window;
   files that are damaged, of another run or hostile; the versions kept; a full disk.
   tests: valgrind */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include "../dltrain.h"
#include "nets.h"
#include "runs.h"
#include "test.h"
#include <signal.h>
#include <sys/resource.h>
#define COUNT_OF(a) (sizeof(a) / sizeof *(a))

static const char *const file = "build/tests/snapshot.safetensors";
enum { SAMPLES = 22, BATCH = 4, STEPS = 18, KINDS = 7 };

/* ---- a small program with everything in it ---- */
typedef struct program {
    dl_context *ctx;
    dl_optimizer *opt;
    dl_accumulator *acc;
    dl_loader *loader;
    dl_history *history;
    double number[2];
    dl_snapshot_desc run;
} program;

static dl_optimizer *optimizer(dl_context *ctx, int kind)
{
    dl_sgd_desc sgd;
    dl_adam_desc adam;
    dl_rmsprop_desc rms;
    dl_group_desc group;
    memset(&sgd, 0, sizeof sgd);
    memset(&adam, 0, sizeof adam);
    memset(&rms, 0, sizeof rms);
    memset(&group, 0, sizeof group);
    sgd.lr = (dl_real)0.1;
    if (kind == 0) return dl_sgd(ctx, &sgd);
    sgd.momentum = (dl_real)0.9;
    if (kind == 1) {
        sgd.dampening = (dl_real)0.5;
        sgd.weight_decay = (dl_real)0.01;
        return dl_sgd(ctx, &sgd);
    }
    sgd.nesterov = true;
    if (kind == 2) return dl_sgd(ctx, &sgd);
    adam.lr = (dl_real)0.02;
    if (kind == 3) {
        dl_optimizer *o = dl_adam(ctx, &adam);
        group.lr_scale = (dl_real)0.5;
        dl_optimizer_group(o, "*.bias", &group);
        return o;
    }
    if (kind == 4) return dl_adamw(ctx, &adam);
    rms.lr = (dl_real)0.01;
    rms.centered = true;
    rms.momentum = kind == 5 ? (dl_real)0.9 : 0;
    return dl_rmsprop(ctx, &rms);
}

static program start(int kind, int threads, uint64_t seed)
{
    program p;
    dl_loader_desc l;
    dl_accumulator_desc a;
    dl_schedule schedule;
    memset(&p, 0, sizeof p);
    memset(&l, 0, sizeof l);
    memset(&a, 0, sizeof a);
    memset(&schedule, 0, sizeof schedule);
    p.ctx = run_context(seed, threads);
    l.batch = BATCH;
    l.shuffle = true;
    l.prefetch = kind % 2;
    l.torch_order = kind == 4;
    p.loader = dl_loader_create(run_data(p.ctx, SAMPLES, 6), &l);
    p.opt = optimizer(p.ctx, kind);
    if (kind == 1) {
        schedule.kind = DL_SCHEDULE_ONE_CYCLE;
        schedule.lr = (dl_real)0.1;
        schedule.total = 10;
        dl_set_schedule(p.opt, &schedule);
    }
    a.steps = 1 + kind % 3;
    a.clip_norm = 1;
    p.acc = dl_accumulator_create(p.opt, &a);
    p.history = dl_history_create(p.ctx);
    p.run.optimizer[0] = p.opt;
    p.run.accumulator[0] = p.acc;
    p.run.loader[0] = p.loader;
    p.run.history = p.history;
    return p;
}

static void numbers(program *p)
{
    p->run.number = p->number;
    p->run.numbers = 2;
}

/* The next micro-batch; at the end of the epoch an evaluation that uses random numbers, and what remains of the window. */
static void step(program *p)
{
    dl_batch b;
    dl_norm_desc *norm = NULL;
    while (!dl_next(p->loader, &b)) {
        if (dl_failed(p->ctx)) return;
        dl_accumulator_flush(p->acc);
        dl_history_add(p->history, "epochs", p->number[1], p->number[0]);
        p->number[1]++;
        if (p->number[1] == 2) dl_set_lr(p->opt, dl_get_lr(p->opt) / 2);
        (void)dl_item(dl_sum(dl_rand(p->ctx, DL_SHAPE(5))));
        dl_end(p->ctx);
    }
    dl_tensor h = dl_batch_norm(dl_linear(b.x, "fc1", 5), "bn", norm);
    dl_tensor loss = dl_cross_entropy(dl_linear(dl_dropout(dl_relu(h), 0.3f), "fc2", 3), b.y);
    dl_accumulate(p->acc, loss, b.count);
    p->number[0] += dl_item(loss);
}

/* All that can differ. */
static uint64_t state(program *p)
{
    uint64_t h = net_hash(p->ctx);
    for (size_t i = 0; i < 2; i++) h = inside_mix_double(h, p->number[i]);
    h = inside_mix_double(h, dl_get_lr(p->opt));
    h = inside_mix_curves(h, p->history);
    return dl_failed(p->ctx) ? 0 : h;
}

static void resumes(void)
{
    for (int kind = 0; kind < KINDS; kind++) {
        program whole = start(kind, 1, 3);
        uint64_t want;
        for (int i = 0; i < STEPS; i++) step(&whole);
        want = state(&whole);
        CHECK(want, "%s", dl_error(whole.ctx));
        dl_destroy(whole.ctx);
        for (int stop = 0; stop < STEPS; stop++) {
            program a = start(kind, 1, 3);
            numbers(&a);
            for (int i = 0; i < stop; i++) step(&a);
            CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
            if (stop % 5 == 0) { /* saving changes nothing */
                for (int i = stop; i < STEPS; i++) step(&a);
                CHECK(state(&a) == want, "optimizer %d: a run that was saved after %d steps ends elsewhere. %s", kind, stop, dl_error(a.ctx));
            }
            dl_destroy(a.ctx);
            program b = start(kind, 1 + stop % 2, 3);
            numbers(&b);
            if (stop % 3 == 2) { /* the model has run before */
                step(&b);
                if (stop > 4) step(&b);
            }
            CHECK(dl_snapshot_load(b.ctx, file, &b.run), "%s", dl_error(b.ctx));
            for (int i = stop; i < STEPS; i++) step(&b);
            CHECK(state(&b) == want, "optimizer %d: stopped after %d steps, the run ends elsewhere. %s", kind, stop, dl_error(b.ctx));
            dl_destroy(b.ctx);
        }
    }
}

static void two_optimizers(void) /* each with its parameters, one frozen for a while, no loader */
{
    uint64_t want = 0;
    for (int stop = -1; stop < 6; stop++) {
        dl_context *c = NULL;
        dl_snapshot_desc run;
        for (int part = 0; part < (stop < 0 ? 1 : 2); part++) {
            c = run_context(0, 1);
            memset(&run, 0, sizeof run);
            run.optimizer[0] = net_adam(c);
            run.optimizer[1] = net_momentum(c);
            dl_optimizer_select(run.optimizer[0], "a.*");
            dl_optimizer_select(run.optimizer[1], "b.*");
            if (part) CHECK(dl_snapshot_load(c, file, &run), "%s", dl_error(c));
            for (int i = part ? stop : 0; i < (part || stop < 0 ? 6 : stop); i++) {
                if (i == 2) dl_freeze(c, "a.weight", true);
                if (i == 4) dl_freeze(c, "a.weight", false);
                dl_tensor x = net_input(c, DL_SHAPE(4, 5), i);
                dl_backward(dl_mean(dl_square(dl_linear(dl_tanh(dl_linear(x, "a", 4)), "b", 2))));
                dl_step(run.optimizer[i % 2]);
            }
            if (!part && stop >= 0) {
                CHECK(dl_snapshot_save(c, file, &run), "%s", dl_error(c));
                dl_destroy(c);
            }
        }
        uint64_t got = dl_failed(c) ? 0 : net_hash(c);
        if (stop < 0) want = got;
        CHECK(got && got == want, "stopped after %d: %s", stop, dl_error(c));
        dl_destroy(c);
    }
}

static void is_a_checkpoint(void) /* dl_load takes the parameters of a snapshot, and only these */
{
    program a = start(3, 1, 3);
    for (int i = 0; i < 4; i++) step(&a);
    CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    program b = start(0, 1, 9);
    CHECK(dl_load(b.ctx, file) && dl_load_pending(b.ctx) == dl_param_count(a.ctx), "%d wait. %s", dl_load_pending(b.ctx), dl_error(b.ctx));
    step(&b);
    CHECK(!dl_failed(b.ctx) && !dl_load_pending(b.ctx), "%s", dl_error(b.ctx));
    dl_destroy(a.ctx);
    dl_destroy(b.ctx);
}

/* ---- what does not fit ---- */
static void misfits(void)
{
    static const struct { int kind; uint64_t seed; int change; const char *says; } cases[] = {
        { 2, 3, 0, NULL }, { 2, 4, 0, "seed 3, this context has seed 4" }, { 3, 3, 0, "optimizer 0 is of another kind" },
        { 1, 3, 0, "optimizer 0" }, { 2, 3, 1, "has 1 accumulators, the program 0" }, { 2, 3, 2, "has 1 loaders, the program 0" },
        { 2, 3, 3, "1 histories, the program 0" }, { 2, 3, 4, "0 numbers of the program, the program 2" }, { 2, 3, 5, "'fc1.weight' is [5,6] in the file and [4,6]" },
        { 2, 3, 6, "has 'fc1.weight' where the program has 'other.weight'" }, { 2, 3, 7, "optimizer 0" }, { 2, 3, 8, "batches of 4, loader 0 makes batches of 5" },
        { 2, 3, 9, "something is of another context" }, { 2, 3, 10, "has no 'more'" }, { 2, 3, 11, "1 micro-batches of a window are done; accumulator 0 makes windows of 1" },
    };
    program a = start(2, 1, 3), other = start(0, 1, 3);
    for (int i = 0; i < 4; i++) step(&a);
    CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    for (size_t i = 0; i < COUNT_OF(cases); i++) {
        program b = start(cases[i].kind, 1, cases[i].seed);
        switch (cases[i].change) {
        case 1: b.run.accumulator[0] = NULL; break;
        case 2: b.run.loader[0] = NULL; break;
        case 3: b.run.history = NULL; break;
        case 4: numbers(&b); break;
        case 5: (void)dl_linear(net_input(b.ctx, DL_SHAPE(1, 6), 1), "fc1", 4); break;
        case 6: (void)dl_linear(net_input(b.ctx, DL_SHAPE(1, 6), 1), "other", 4); break;
        case 7: dl_optimizer_select(b.opt, "fc1.*"); break;
        case 8: inside_set_batch(b.loader, 5); break;
        case 11: inside_set_window(b.acc, 1); break;
        case 9: b.run.optimizer[0] = other.opt; break;
        case 10:
            for (int k = 0; k < 2; k++) step(&b);
            dl_param_desc d;
            memset(&d, 0, sizeof d);
            d.shape = DL_SHAPE(2);
            inside_unseal(b.ctx);
            (void)dl_parameter(b.ctx, "more", &d);
            break;
        }
        bool ok = dl_snapshot_load(b.ctx, file, &b.run);
        CHECK(ok == !cases[i].says && (ok || strstr(dl_error(b.ctx), cases[i].says)), "case %zu: '%s'", i, dl_error(b.ctx));
        dl_destroy(b.ctx);
    }
    dl_tensor open = net_input(a.ctx, DL_SHAPE(2), 1);
    CHECK(dl_ok(open) && !dl_snapshot_save(a.ctx, file, &a.run) && strstr(dl_error(a.ctx), "a step is open"), "'%s'", dl_error(a.ctx));
    dl_clear_error(a.ctx);
    CHECK(!dl_snapshot_save(a.ctx, "build/no/such/folder", &a.run) && strstr(dl_error(a.ctx), "build/no/such/folder"), "'%s'", dl_error(a.ctx));
    dl_clear_error(a.ctx);
    CHECK(!dl_snapshot_load(a.ctx, "build/none", &a.run) && strstr(dl_error(a.ctx), "cannot open 'build/none'"), "'%s'", dl_error(a.ctx));
    CHECK(!dl_snapshot_exists(other.ctx, "build/none", &a.run) && dl_snapshot_exists(other.ctx, file, &a.run), "dl_snapshot_exists");
    dl_destroy(a.ctx);
    dl_destroy(other.ctx);
}

/* ---- damage ---- */
static char *slurp(const char *path, size_t *size)
{
    FILE *f = fopen(path, "rb");
    char *bytes = (char *)malloc(1 << 20);
    *size = f ? fread(bytes, 1, 1 << 20, f) : 0;
    if (f) fclose(f);
    return bytes;
}

static void spill(const char *path, const char *bytes, size_t size)
{
    FILE *f = fopen(path, "wb");
    CHECK(f && fwrite(bytes, 1, size, f) == size, "%s", path);
    if (f) fclose(f);
}

static bool loads(const char *path, int kind, char *why, size_t size)
{
    program b = start(kind, 1, 3);
    bool ok = dl_snapshot_load(b.ctx, path, &b.run);
    if (ok) step(&b);
    snprintf(why, size, "%s", dl_error(b.ctx));
    dl_destroy(b.ctx);
    return ok;
}

static void damaged(void)
{
    size_t size;
    char why[600];
    const char *bad = "build/tests/snapshot_bad.safetensors";
    program a = start(3, 1, 3);
    for (int i = 0; i < 7; i++) step(&a);
    CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    dl_destroy(a.ctx);
    char *bytes = slurp(file, &size);
    CHECK(loads(file, 3, why, sizeof why), "%s", why);
    for (size_t at = 0; at < size; at += 1 + size / 150) {
        spill(bad, bytes, at);
        CHECK(!loads(bad, 3, why, sizeof why) && strstr(why, bad), "%zu of %zu bytes: '%s'", at, size, why);
        bytes[at] ^= 0x10;
        spill(bad, bytes, size);
        CHECK(!loads(bad, 3, why, sizeof why) && strstr(why, bad), "byte %zu of %zu: '%s'", at, size, why);
        uint64_t h = inside_check_sum(bytes, size); /* on purpose: the check sum is right */
        for (int k = 0; k < 8; k++) bytes[size - 8 + (size_t)k] = (char)(h >> 8 * k);
        spill(bad, bytes, size);
        (void)loads(bad, 3, why, sizeof why); /* the sanitizers watch */
        bytes[at] ^= 0x10;
    }
    remove(bad);
    free(bytes);
}

static void hostile_tables(void) /* every number of every table, some nasty values, a right check sum: an error or not, but nothing worse */
{
    static const int64_t nasty[] = { -1, 0, 1, 5, 1 << 20, INT64_MAX, INT64_MIN };
    size_t size;
    char why[600];
    const char *bad = "build/tests/snapshot_bad.safetensors";
    program a = start(3, 1, 3);
    for (int i = 0; i < 7; i++) step(&a);
    CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    char *bytes = slurp(file, &size);
    size_t data = inside_data_at(bytes);
    size_t tables = inside_snapshot_tables((size_t)dl_param_count(a.ctx));
    for (size_t at = data; at < data + tables; at += 4)
        for (size_t k = 0; k < COUNT_OF(nasty); k++) {
            char kept[8];
            memcpy(kept, bytes + at, 8);
            for (int i = 0; i < 8; i++) bytes[at + (size_t)i] = (char)((uint64_t)nasty[k] >> 8 * i);
            uint64_t h = inside_check_sum(bytes, size);
            for (int i = 0; i < 8; i++) bytes[size - 8 + (size_t)i] = (char)(h >> 8 * i);
            spill(bad, bytes, size);
            (void)loads(bad, 3, why, sizeof why);
            memcpy(bytes + at, kept, 8);
        }
    dl_destroy(a.ctx);
    remove(bad);
    free(bytes);
}

static void versions(void) /* the last three; when the newest is damaged the one before, and the log says why */
{
    char name[80], why[600];
    size_t size;
    run_clean(file, 5);
    program a = start(0, 1, 3);
    numbers(&a);
    a.run.keep = 3;
    for (int i = 1; i <= 5; i++) {
        step(&a);
        a.number[1] = i;
        CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    }
    for (int i = 0; i < 4; i++) {
        FILE *f = fopen(inside_version(name, sizeof name, file, i), "rb");
        CHECK(!f == (i > 2), "version %d", i);
        if (f) fclose(f);
    }
    for (int broken = 0; broken <= 3; broken++) {
        program b = start(0, 1, 3);
        numbers(&b);
        b.run.keep = 3;
        bool ok = dl_snapshot_load(b.ctx, file, &b.run);
        CHECK(ok == (broken < 3), "%d broken: %s", broken, dl_error(b.ctx));
        CHECK(!ok || b.number[1] == 5 - broken, "%d broken: that of step %g", broken, b.number[1]);
        snprintf(why, sizeof why, "'%s':", file);
        CHECK(ok || strstr(dl_error(b.ctx), why), "'%s'", dl_error(b.ctx));
        dl_destroy(b.ctx);
        char *bytes = slurp(inside_version(name, sizeof name, file, broken), &size);
        if (broken != 1) spill(name, bytes, size / 2); /* and one is missing */
        else remove(name);
        free(bytes);
    }
    dl_destroy(a.ctx);
    run_clean(file, 5);
}

static void full_disk(void) /* a file that cannot grow to its size: a sentence with the path, and the last snapshot stays */
{
    struct rlimit was, small;
    size_t before, after;
    char why[600];
    program a = start(3, 1, 3);
    a.run.keep = 2;
    step(&a);
    CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    char *old = slurp(file, &before);
    step(&a);
    getrlimit(RLIMIT_FSIZE, &was);
    small = was;
    small.rlim_cur = before / 2;
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &small);
    bool ok = dl_snapshot_save(a.ctx, file, &a.run);
    setrlimit(RLIMIT_FSIZE, &was);
    CHECK(!ok && strstr(dl_error(a.ctx), file) && strstr(dl_error(a.ctx), "disk full"), "'%s'", dl_error(a.ctx));
    char *now = slurp(file, &after);
    CHECK(after == before && !memcmp(old, now, before) && loads(file, 3, why, sizeof why), "the last snapshot: %s", why);
    FILE *left = fopen("build/tests/snapshot.safetensors.tmp", "rb");
    CHECK(!left, "a temporary file stays");
    free(old);
    free(now);
    dl_destroy(a.ctx);
}

static void same_run_same_bytes(void)
{
    size_t n, m;
    program a = start(4, 1, 3), b = start(4, 2, 3);
    for (int i = 0; i < 5; i++) step(&a), step(&b);
    CHECK(dl_snapshot_save(a.ctx, file, &a.run), "%s", dl_error(a.ctx));
    char *one = slurp(file, &n);
    CHECK(dl_snapshot_save(b.ctx, file, &b.run), "%s", dl_error(b.ctx));
    char *two = slurp(file, &m);
    CHECK(n && n == m && !memcmp(one, two, n), "%zu and %zu bytes", n, m);
    free(one);
    free(two);
    dl_destroy(a.ctx);
    dl_destroy(b.ctx);
}

int main(int argc, char **argv)
{
    (void)net_train;
    run_begin();
    if (argc == 3 && !strcmp(argv[1], "write")) { /* for tests/check_safetensors.sh */
        program a = start(3, 1, 3);
        for (int i = 0; i < 7; i++) step(&a);
        bool ok = dl_snapshot_save(a.ctx, argv[2], &a.run);
        dl_destroy(a.ctx);
        return !ok;
    }
    RUN(resumes);
    RUN(two_optimizers);
    RUN(is_a_checkpoint);
    RUN(misfits);
    RUN(damaged);
    RUN(hostile_tables);
    RUN(versions);
    RUN(full_disk);
    RUN(same_run_same_bytes);
    remove(file);
    return REPORT();
}
