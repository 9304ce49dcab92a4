/* Settings from the environment, planned faults, random numbers, reports.

       CUDASIM_DEVICES=1         how many devices             CUDASIM_PEER=1     may they reach each other's memory
       CUDASIM_ARCH=80           compute capability           CUDASIM_DRIVER=13000  what cuDriverGetVersion says
       CUDASIM_MEMORY=4096       MiB a device                 CUDASIM_SEED=1     of every random choice
       CUDASIM_BUDGET=20         million instructions a warp may run before it is called hung
       CUDASIM_RACES=1           0: no race checks            CUDASIM_LOG=FILE   reports are added to this file too
       CUDASIM_ORDER=0           1: work of different streams on the same memory must be ordered (order.c)
       CUDASIM_EXACT=0           1: add.f32 and kin without .rn are refused: ptxas may contract them
       CUDASIM_COUNT=0           1: bank conflicts and sectors are counted (cudasim_statistics)
       CUDASIM_TRACE=FILE        the order of execution: device, stream, kernel or upload, copy, download, memset, a line each
       CUDASIM_CUBINS=DIR        where the NVRTC shim leaves the PTX of each cubin (else beside the library)
       CUDASIM_FAIL=WHAT:N[:CODE],...   the N-th call of a kind fails: alloc (2), hostalloc (2), launch (719), copy (700),
                                 module (200), sync (719), stream (2), event (2), graph (1: begin of a capture, instantiation, a
                                 graph's launch), init (999), context (2), peer (217), nvrtc (6), nccl (3), cublas; WHAT* instead of WHAT: from the N-th on
       CUDASIM_FAIL=lost:N       the device is lost at its N-th launch: this and every later call returns 46;
                                 lost@1:N: only device 1
       CUDASIM_FAIL=hang:N       the N-th NCCL collective never completes
       CUDASIM_DROP=KERNEL:OPCODE:N,...   a planted bug: the kernel's N-th instruction whose opcode begins with OPCODE does
                                 nothing (gemm:bar.sync:2); stream:wait:N: the N-th cuStreamWaitEvent; N 0: all of them
       CUDASIM_FAIL=nodevice:1, stub:1, mismatch:1     cuInit returns 100, 34, 803 */
#define _GNU_SOURCE
#include "cudasim.h"
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

settings sim;
struct statistics stats;

static pthread_mutex_t mutex = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;
void sim_lock(void) { pthread_mutex_lock(&mutex); }
void sim_unlock(void) { pthread_mutex_unlock(&mutex); }
void *sim_mutex(void) { return &mutex; }

static uint64_t random_state;
uint32_t random_below(uint32_t n)
{
    random_state += 0x9e3779b97f4a7c15ull;
    uint64_t z = random_state;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return n ? (uint32_t)(((z ^ z >> 31) >> 32) * n >> 32) : 0;
}

static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    return text && *text ? strtoull(text, NULL, 0) : otherwise;
}

void settings_read(void)
{
    static bool read;
    if (read) return;
    read = true;
    sim.devices = (int)number("CUDASIM_DEVICES", 1);
    if (sim.devices > 64) sim.devices = 64;
    sim.arch = (int)number("CUDASIM_ARCH", 80);
    sim.driver_version = (int)number("CUDASIM_DRIVER", 13000);
    sim.memory = number("CUDASIM_MEMORY", 4096) << 20;
    sim.seed = number("CUDASIM_SEED", 1);
    sim.budget_millions = (int)number("CUDASIM_BUDGET", 20);
    sim.peer = number("CUDASIM_PEER", 1) != 0;
    sim.races = number("CUDASIM_RACES", 1) != 0;
    sim.order = number("CUDASIM_ORDER", 0) != 0;
    sim.exact = number("CUDASIM_EXACT", 0) != 0;
    sim.count = number("CUDASIM_COUNT", 0) != 0;
    sim.processors = 16;
    sim.shared_limit = 48 * 1024;
    sim.shared_optin = sim.arch == 75                     ? 64 * 1024
                       : sim.arch == 80 || sim.arch == 87 ? 163 * 1024
                       : sim.arch < 90 || sim.arch >= 120 ? 99 * 1024
                                                          : 227 * 1024;
    snprintf(sim.name, sizeof sim.name, "cudasim sm_%d", sim.arch);
    random_state = sim.seed * 0xd1342543de82ef95ull;
}

static char reports[16384];
static size_t reports_length;

void report(const char *format, ...)
{
    char text[1024];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    fprintf(stderr, "cudasim: %s\n", text);
    int n = snprintf(reports + reports_length, sizeof reports - reports_length, "%s\n", text);
    if (n > 0 && reports_length + (size_t)n < sizeof reports) reports_length += (size_t)n;
    const char *path = getenv("CUDASIM_LOG");
    FILE *f = path && *path ? fopen(path, "a") : NULL;
    if (f) { fprintf(f, "cudasim: %s\n", text); fclose(f); }
}

/* What was reported so far, and forgets it: for tests. Owned by the library, overwritten by the next call. */
EXPORT const char *cudasim_reports(void)
{
    static char copy[sizeof reports];
    sim_lock();
    memcpy(copy, reports, reports_length);
    copy[reports_length] = 0;
    reports_length = 0;
    sim_unlock();
    return copy;
}

/* launches, thread instructions, warp instructions, shared requests, extra shared wavefronts (bank conflicts), global requests,
   global sectors: since the last call */
EXPORT void cudasim_statistics(uint64_t out[7])
{
    sim_lock();
    memcpy(out, &stats, sizeof stats);
    memset(&stats, 0, sizeof stats);
    sim_unlock();
}

/* New random choices from here on: for tests that try several schedules in one process. */
EXPORT void cudasim_seed(uint64_t seed)
{
    sim_lock();
    settings_read();
    sim.seed = seed;
    random_state = seed * 0xd1342543de82ef95ull;
    sim_unlock();
}

static struct { const char *name; int code; long calls; } kinds[] = {
    { "alloc", 2, 0 }, { "hostalloc", 2, 0 }, { "launch", 719, 0 }, { "copy", 700, 0 }, { "module", 200, 0 },
    { "sync", 719, 0 }, { "stream", 2, 0 }, { "event", 2, 0 }, { "graph", 1, 0 }, { "init", 999, 0 }, { "context", 2, 0 },
    { "peer", 217, 0 }, { "nvrtc", 6, 0 }, { "nccl", 3, 0 }, { "hang", 1, 0 }, { "cublas", 1, 0 }, { "nodevice", 100, 0 }, { "stub", 34, 0 },
    { "mismatch", 803, 0 },
};

static const size_t first_state = 16; /* nodevice, stub, mismatch: not the N-th call, a state */

static bool matches(const char **p, const char *name)
{
    size_t n = strlen(name);
    if (strncmp(*p, name, n) != 0 || !strchr(":*@", (*p)[n]) || !(*p)[n]) return false;
    *p += n;
    return true;
}

EXPORT int fault_due(const char *what)
{
    const char *plan = getenv("CUDASIM_FAIL");
    for (size_t k = 0; k < sizeof kinds / sizeof *kinds; k++) {
        if (strcmp(kinds[k].name, what) != 0) continue;
        long call = ++kinds[k].calls;
        for (const char *p = plan; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
            if (!matches(&p, what)) continue;
            bool onward = *p == '*' || k >= first_state || strcmp(what, "init") == 0;
            char *end;
            long n = strtol(strchr(p, ':') ? strchr(p, ':') + 1 : p, &end, 10);
            if (call == n || (onward && call >= n)) return *end == ':' ? atoi(end + 1) : kinds[k].code;
        }
    }
    return 0;
}

/* Is this instruction, the count-th of its opcode in the kernel, to be dropped? */
bool dropped(const char *kernel, const char *opcode, uint32_t count)
{
    char name[200], prefix[100];
    unsigned n;
    for (const char *p = getenv("CUDASIM_DROP"); p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
        if (sscanf(p, "%199[^:]:%99[^:]:%u", name, prefix, &n) == 3 && strcmp(name, kernel) == 0 &&
            strncmp(opcode, prefix, strlen(prefix)) == 0 && (n == 0 || n == count)) return true;
    return false;
}

static long device_launches[64];
int device_lost(int device, const char *what)
{
    const char *plan = getenv("CUDASIM_FAIL");
    if (what) device_launches[device]++;
    for (const char *p = plan; p && *p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL) {
        if (!matches(&p, "lost")) continue;
        if (*p == '@' && atoi(p + 1) != device) continue;
        const char *colon = strchr(p, ':');
        if (colon && device_launches[device] >= atol(colon + 1)) return 46;
    }
    return 0;
}
