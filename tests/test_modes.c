/* One seed, one result: planned, eager, without reuse, without fusion, read in mid-step, on 1 to 4 threads, portable or SIMD.
   tests: tsan */
#include "../dltrain.h"
#include "test.h"
#include "nets.h"

typedef struct mode { const char *name; bool eager, no_reuse, no_fusion, read; int threads; } mode;

static uint64_t trained(const net *n, const mode *m)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = 7;
    c.threads = m->threads;
    c.eager = m->eager;
    c.no_reuse = m->no_reuse;
    c.no_fusion = m->no_fusion;
    return net_train(n, &c, 5, m->read);
}

static void one_hash(const net *n)
{
    static const mode modes[] = {
        { "eager", true, false, false, false, 1 },       { "no reuse", false, true, false, false, 1 },
        { "no fusion", false, false, true, false, 1 },   { "neither", false, true, true, false, 2 },
        { "read in mid-step", false, false, false, true, 1 }, { "2 threads", false, false, false, false, 2 },
        { "3 threads", false, false, false, false, 3 },  { "4 threads", false, false, false, false, 4 },
        { "eager, 3 threads", true, false, false, true, 3 },
    };
    static const mode plain = { "planned", false, false, false, false, 1 };
    uint64_t want = trained(n, &plain);
    CHECK(want != 0, "training failed");
    for (size_t i = 0; i < sizeof modes / sizeof *modes; i++) {
        uint64_t got = trained(n, &modes[i]);
        CHECK(got == want, "%s, %s: %016llx, planned %016llx", n->name, modes[i].name, (unsigned long long)got, (unsigned long long)want);
    }
}

static void mlp(void) { one_hash(&nets[0]); }
static void cnn(void) { one_hash(&nets[1]); }
static void resnet(void) { one_hash(&nets[2]); }
static void gpt(void) { one_hash(&nets[3]); }

int main(void)
{
    RUN(mlp);
    RUN(cnn);
    RUN(resnet);
    RUN(gpt);
    return REPORT();
}
