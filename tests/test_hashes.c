/* The bits themselves: hashes of the weights of four small nets (W1 to W4 in small) after 20 steps. A change here needs a stated reason:
   it means that results differ from those of the versions before. tests/check_matrix.sh runs this under other compilers and flags,
   tests/check_levels.sh at every SIMD level and on other machines.   test_hashes [THREADS] */
#include "../dltrain.h"
#include "test.h"
#include "nets.h"

static const uint64_t committed[4] = { 0x18bf8b9726d746cdu, 0x7a24be85b074d683u, 0x589cc8e0911fdd32u, 0x2eaa93e0b3f9d77fu };

static int threads;
static void hash(int i)
{
    dl_config c;
    memset(&c, 0, sizeof c);
    c.seed = 7;
    c.threads = threads;
    uint64_t got = net_train(&nets[i], &c, 20, false);
    CHECK(got == committed[i], "%s: the weights hash to %016llx, committed is %016llx", nets[i].name, (unsigned long long)got, (unsigned long long)committed[i]);
}
static void mlp(void) { hash(0); }
static void cnn(void) { hash(1); }
static void resnet(void) { hash(2); }
static void gpt(void) { hash(3); }

int main(int argc, char **argv)
{
    threads = argc > 1 ? atoi(argv[1]) : 0;
    RUN(mlp);
    RUN(cnn);
    RUN(resnet);
    RUN(gpt);
    return REPORT();
}
