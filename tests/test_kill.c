/* kill -9 at a hundred moments of runs that write snapshots: what is on the disk always loads, and each run, resumed again and again, ends
   with the bits of one that was left alone. */
#if (defined(__unix__) || defined(__APPLE__)) && !defined(_POSIX_C_SOURCE)
#define _POSIX_C_SOURCE 200809L
#endif
#include "../dltrain.h"
#include "nets.h"
#include "runs.h"
#include "test.h"
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static const char *const file = "build/tests/kill.safetensors", *const result = "build/tests/kill.hash";
enum { SAMPLES = 50, EPOCHS = 12, KILLS = 100 };

static dl_tensor loss(const dl_batch *b, void *user)
{
    (void)user;
    dl_tensor h = dl_batch_norm(dl_linear(b->x, "fc1", 40), "bn", NULL);
    return dl_cross_entropy(dl_linear(dl_dropout(dl_relu(h), 0.3f), "fc2", 3), b->y);
}

static dl_loader *loader(dl_context *ctx)
{
    dl_loader_desc l;
    memset(&l, 0, sizeof l);
    l.batch = 6;
    l.shuffle = true;
    return dl_loader_create(run_data(ctx, SAMPLES, 6), &l);
}

static dl_context *context(void) { return run_context(8, 1); }

/* The run; the hash of its parameters goes to a file. */
static int child(const char *snapshot)
{
    dl_context *ctx = context();
    dl_trainer_desc t;
    memset(&t, 0, sizeof t);
    t.train = loader(ctx);
    t.optimizer = dl_adam(ctx, NULL);
    t.epochs = EPOCHS;
    t.loss = loss;
    t.accumulate.steps = 2;
    t.snapshot = snapshot;
    t.save_steps = 1;
    t.keep = 2;
    t.quiet = true;
    bool ok = dl_trainer_run(ctx, &t);
    FILE *f = ok ? fopen(result, "wb") : NULL;
    if (f) fprintf(f, "%016llx", (unsigned long long)net_hash(ctx)), fclose(f);
    else fprintf(stderr, "%s\n", dl_error(ctx));
    dl_destroy(ctx);
    return f ? 0 : 1;
}

/* Does every file that is there load? How many are there? */
static int files(void)
{
    char name[100];
    int n = 0;
    for (int i = 0; i < 2; i++) {
        FILE *f = fopen(inside_version(name, sizeof name, file, i), "rb");
        if (!f) continue;
        fclose(f);
        n++;
        dl_context *c = context();
        CHECK(dl_load(c, name), "%s", dl_error(c));
        const char *wrong = inside_snapshot_wrong(c, name);
        CHECK(!wrong, "%s: %s", name, wrong);
        dl_destroy(c);
    }
    return n;
}

static void clean(void)
{
    run_clean(file, 2);
    remove(result);
}

static uint64_t hash_of_result(void)
{
    unsigned long long h = 0;
    FILE *f = fopen(result, "rb");
    if (!f || fscanf(f, "%llx", &h) != 1) h = 0;
    if (f) fclose(f);
    return h;
}

static void killed(void)
{
    int kills = 0, ended = 0, with_files = 0;
    uint32_t state = 7;
    clean();
    CHECK(child(NULL) == 0, "the run that is left alone");
    uint64_t want = hash_of_result();
    clean();
    while ((kills < KILLS || !ended) && kills < 10 * KILLS && !test__.bad) {
        pid_t p = fork();
        int status;
        if (!p) _exit(child(file));
        struct timespec t = { 0, 0 };
        state = state * 1664525u + 1013904223u;
        t.tv_nsec = (long)(state >> 8) % 40000000;
        nanosleep(&t, NULL);
        kill(p, SIGKILL);
        waitpid(p, &status, 0);
        if (WIFSIGNALED(status)) kills++, with_files += files() > 0;
        else {
            CHECK(WIFEXITED(status) && !WEXITSTATUS(status), "a run failed: status %d", status);
            CHECK(hash_of_result() == want, "after %d kills a run ended elsewhere", kills);
            ended++;
            clean(); /* and another one */
        }
    }
    CHECK(ended && with_files * 2 > kills, "%d kills, %d with files, %d runs ended", kills, with_files, ended);
    clean();
}

int main(void)
{
    (void)net_train;
    run_begin();
    RUN(killed);
    return REPORT();
}
