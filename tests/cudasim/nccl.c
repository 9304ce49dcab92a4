/* The stand-in NCCL: ranks of one process, over the simulated driver's streams. A collective runs when every rank's stream has
   come to it; ranks that disagree on operation, count, type or root get an error on every communicator. Sums are taken in an
   order that differs from place to place, as rings do. Strict: a thread that issues collectives for two ranks of a world must do
   so in a group. Faults: CUDASIM_FAIL=nccl:N (the N-th call of InitRank, InitAll or a collective fails), hang:N (the N-th
   collective never completes; ncclCommAbort ends it). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define EXPORT __attribute__((visibility("default")))
enum { SUCCESS = 0, UNHANDLED_CUDA = 1, INTERNAL = 3, INVALID_ARGUMENT = 4, INVALID_USAGE = 5, IN_PROGRESS = 7 };
typedef struct { char internal[128]; } unique_id;

typedef struct part { int what, type, op, root; size_t count; uint64_t from, to; bool arrived, issued; } part;
typedef struct { part parts[64]; int arrived, finished; bool done; } collective;
typedef struct world { char id[128]; int ranks, joined, left; collective **list; size_t count; struct world *next; } world;
typedef struct comm {
    world *w;
    int rank, error;
    bool aborted, ready;
    size_t issued;
    pthread_t last_thread;
    struct comm *next;
} comm;
typedef struct { comm *c; collective *x; bool hangs; } waiting;

static void *driver;
static int (*driver_call)(void *, int (*)(void *), void *), (*driver_fault)(const char *);
static void *(*driver_memory)(uint64_t, uint64_t, int);
static void (*driver_lock)(bool);
static world *worlds;
static comm *comms;
static __thread int group_depth;
static __thread comm *pending[64];
static __thread int pending_count;

static bool ready(void)
{
    static pthread_mutex_t once = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&once);
    if (!driver) {
        void *d = dlopen("libcuda.so.1", RTLD_NOW);
        if (d) {
            *(void **)&driver_call = dlsym(d, "cudasim_call");
            *(void **)&driver_fault = dlsym(d, "cudasim_fault");
            *(void **)&driver_memory = dlsym(d, "cudasim_memory");
            *(void **)&driver_lock = dlsym(d, "cudasim_lock");
        }
        if (driver_call && driver_fault && driver_memory && driver_lock) driver = d;
        else fprintf(stderr, "cudasim: the stand-in NCCL works with the simulated driver only\n");
    }
    pthread_mutex_unlock(&once);
    return driver != NULL;
}
static int type_bytes(int type)
{
    return type == 0 || type == 1                ? 1
           : type == 2 || type == 3 || type == 7 ? 4
           : type == 4 || type == 5 || type == 8 ? 8
           : type == 9 || type == 6              ? 2
                                                 : 0;
}

EXPORT int ncclGetVersion(int *out) { *out = 22703; return SUCCESS; }
EXPORT const char *ncclGetErrorString(int code)
{
    static const char *texts[] = { "no error", "unhandled cuda error", "unhandled system error", "internal error",
        "invalid argument", "invalid usage", "remote process exited or there was a network error", "NCCL operation in progress" };
    return code >= 0 && code < 8 ? texts[code] : "unknown result code";
}
EXPORT const char *ncclGetLastError(comm *c) { (void)c; return "cudasim"; }

EXPORT int ncclGetUniqueId(unique_id *out)
{
    static int number;
    if (!ready()) return UNHANDLED_CUDA;
    memset(out, 0, sizeof *out);
    driver_lock(true);
    snprintf(out->internal, sizeof out->internal, "cudasim-%ld-%d", (long)getpid(), ++number);
    driver_lock(false);
    return SUCCESS;
}

static comm *join(const char id[128], int ranks, int rank) /* with the lock */
{
    world *w = worlds;
    while (w && memcmp(w->id, id, 128) != 0) w = w->next;
    if (!w) {
        w = calloc(1, sizeof *w);
        memcpy(w->id, id, 128);
        w->ranks = ranks;
        w->next = worlds;
        worlds = w;
    }
    if (w->ranks != ranks) {
        fprintf(stderr, "cudasim: ncclCommInitRank: %d ranks, another rank said %d\n", ranks, w->ranks);
        return NULL;
    }
    for (comm *c = comms; c; c = c->next)
        if (c->w == w && c->rank == rank) {
            fprintf(stderr, "cudasim: ncclCommInitRank: rank %d twice\n", rank);
            return NULL;
        }
    comm *c = calloc(1, sizeof *c);
    c->w = w;
    c->rank = rank;
    c->next = comms;
    comms = c;
    w->joined++;
    return c;
}

static int wait_joined(comm *c)
{
    for (;;) {
        driver_lock(true);
        bool all = c->w->joined == c->w->ranks;
        driver_lock(false);
        if (all) return SUCCESS;
        usleep(300);
    }
}

EXPORT int ncclCommInitRank(comm **out, int ranks, unique_id id, int rank)
{
    if (!ready()) return UNHANDLED_CUDA;
    if (ranks < 1 || ranks > 64 || rank < 0 || rank >= ranks) return INVALID_ARGUMENT;
    int fault = driver_fault("nccl");
    if (fault) return fault;
    driver_lock(true);
    comm *c = join(id.internal, ranks, rank);
    driver_lock(false);
    if (!c) return INVALID_USAGE;
    *out = c;
    if (group_depth) { pending[pending_count++] = c; return SUCCESS; }
    return wait_joined(c);
}

EXPORT int ncclCommInitAll(comm **out, int ranks, const int *devices)
{
    (void)devices;
    unique_id id;
    int fault = ready() ? driver_fault("nccl") : UNHANDLED_CUDA;
    if (fault) return fault;
    if (ranks < 1 || ranks > 64) return INVALID_ARGUMENT;
    ncclGetUniqueId(&id);
    driver_lock(true);
    for (int r = 0; r < ranks; r++) out[r] = join(id.internal, ranks, r);
    driver_lock(false);
    return SUCCESS;
}

EXPORT int ncclGroupStart(void) { group_depth++; return SUCCESS; }
EXPORT int ncclGroupEnd(void)
{
    if (group_depth == 0) return INVALID_USAGE;
    if (--group_depth) return SUCCESS;
    for (int i = 0; i < pending_count; i++) wait_joined(pending[i]);
    pending_count = 0;
    return SUCCESS;
}

enum { ALL_REDUCE, BROADCAST, ALL_GATHER };
static void fail_world(world *w, const char *text)
{
    fprintf(stderr, "cudasim: nccl: %s\n", text);
    for (comm *c = comms; c; c = c->next) if (c->w == w) c->error = INVALID_USAGE;
}

static void compute(world *w, collective *x)
{
    part *p = x->parts;
    for (int r = 1; r < w->ranks; r++)
        if (p[r].what != p[0].what || p[r].count != p[0].count || p[r].type != p[0].type || p[r].op != p[0].op ||
            p[r].root != p[0].root) {
            char text[200];
            snprintf(text, sizeof text,
                "ranks 0 and %d disagree: operation %d and %d, count %zu and %zu, type %d and %d, reduction %d and %d", r,
                p[0].what, p[r].what, p[0].count, p[r].count, p[0].type, p[r].type, p[0].op, p[r].op);
            fail_world(w, text);
            return;
        }
    size_t bytes = p[0].count * (size_t)type_bytes(p[0].type);
    uint8_t *from[64], *to[64];
    for (int r = 0; r < w->ranks; r++) {
        bool reads = p[0].what != BROADCAST || r == p[0].root;
        from[r] = reads ? driver_memory(p[r].from, bytes, 0) : NULL;
        to[r] = driver_memory(p[r].to, p[0].what == ALL_GATHER ? bytes * (size_t)w->ranks : bytes, 1);
        if ((reads && !from[r]) || !to[r]) { fail_world(w, "a buffer is not inside a live allocation"); return; }
    }
    if (p[0].what == BROADCAST) { for (int r = 0; r < w->ranks; r++) memmove(to[r], from[p[0].root], bytes); return; }
    uint8_t *result = malloc(p[0].what == ALL_GATHER ? bytes * (size_t)w->ranks + 1 : bytes + 1);
    if (p[0].what == ALL_GATHER) {
        for (int r = 0; r < w->ranks; r++) memcpy(result + bytes * (size_t)r, from[r], bytes);
        bytes *= (size_t)w->ranks;
    } else for (size_t i = 0; i < p[0].count; i++) {
        int first = (int)(i / 64 % (size_t)w->ranks);
        if (p[0].type == 7) {
            float s = 0;
            for (int k = 0; k < w->ranks; k++) {
                float v;
                memcpy(&v, from[(first + k) % w->ranks] + 4 * i, 4);
                s = k == 0                         ? v
                    : p[0].op == 0 || p[0].op == 4 ? s + v
                    : p[0].op == 1                 ? s * v
                    : p[0].op == 2                 ? (v > s ? v : s)
                    : v < s                        ? v
                                                   : s;
            }
            if (p[0].op == 4) s /= (float)w->ranks;
            memcpy(result + 4 * i, &s, 4);
        } else { /* integers: sum, max, min of unsigned bytes to 64 bits; double sum */
            size_t n = (size_t)type_bytes(p[0].type);
            uint64_t s = 0;
            double d = 0;
            for (int k = 0; k < w->ranks; k++) {
                uint64_t v = 0;
                memcpy(&v, from[k] + n * i, n);
                if (p[0].type == 8) { double e; memcpy(&e, &v, 8); d = k == 0 ? e : d + e; continue; }
                s = k == 0 ? v : p[0].op == 0 ? s + v : p[0].op == 2 ? (v > s ? v : s) : p[0].op == 3 ? (v < s ? v : s) : s * v;
            }
            if (p[0].type == 8) memcpy(&s, &d, 8);
            memcpy(result + n * i, &s, n);
        }
    }
    for (int r = 0; r < w->ranks; r++) memcpy(to[r], result, bytes);
    free(result);
}

/* In stream order, with the lock: 1 until every rank has come here. */
static int turn(void *user)
{
    waiting *q = user;
    collective *x = q->x;
    part *p = &x->parts[q->c->rank];
    if (!q->c->aborted && !q->c->error) {
        if (q->hangs) return 1;
        if (!p->arrived) { p->arrived = true; x->arrived++; }
        if (!x->done) {
            if (x->arrived < q->c->w->ranks) return 1;
            compute(q->c->w, x);
            x->done = true;
        }
    }
    free(q);
    return 0;
}

static int issue(comm *c, part p, void *stream)
{
    if (!c || !ready()) return INVALID_ARGUMENT;
    int fault = driver_fault("nccl");
    if (fault) { driver_lock(true); c->error = fault; driver_lock(false); return fault; }
    if (!type_bytes(p.type) ||
        (p.what == ALL_REDUCE && (p.op < 0 || p.op > 4 || p.type == 6 || p.type == 9 || (p.op == 4 && p.type != 7)))) {
        fprintf(stderr, "cudasim: nccl: type %d with reduction %d is not simulated\n", p.type, p.op);
        return INVALID_ARGUMENT;
    }
    if (p.from == 0 || p.to == 0 || p.root >= c->w->ranks) return INVALID_ARGUMENT;
    bool hangs = driver_fault("hang") != 0;
    driver_lock(true);
    world *w = c->w;
    for (comm *o = comms; o && !group_depth; o = o->next)
        if (o != c && o->w == w && o->issued && pthread_equal(o->last_thread, pthread_self())) {
            fprintf(stderr,
                "cudasim: nccl: one thread issues collectives for ranks %d and %d outside a group: the real library would hang\n",
                o->rank, c->rank);
            driver_lock(false);
            return INVALID_USAGE;
        }
    c->last_thread = pthread_self();
    size_t at = c->issued++;
    if (at == w->count) {
        w->list = realloc(w->list, (w->count + 1) * sizeof *w->list);
        w->list[w->count++] = calloc(1, sizeof(collective));
    }
    waiting *q = malloc(sizeof *q);
    *q = (waiting){ c, w->list[at], hangs };
    p.issued = true;
    w->list[at]->parts[c->rank] = p;
    driver_lock(false);
    int r = driver_call(stream, turn, q);
    return r ? UNHANDLED_CUDA : SUCCESS;
}

EXPORT int ncclAllReduce(const void *from, void *to, size_t count, int type, int op, comm *c, void *stream)
{
    return count
               ? issue(c,
                     (part){
                         .what = ALL_REDUCE, .type = type, .op = op, .count = count, .from = (uint64_t)from, .to = (uint64_t)to },
                     stream)
               : SUCCESS;
}
EXPORT int ncclBroadcast(const void *from, void *to, size_t count, int type, int root, comm *c, void *stream)
{
    return count ? issue(c,
                       (part){ .what = BROADCAST,
                           .type = type,
                           .root = root,
                           .count = count,
                           .from = (uint64_t)from,
                           .to = (uint64_t)to },
                       stream)
                 : SUCCESS;
}
EXPORT int ncclAllGather(const void *from, void *to, size_t count, int type, comm *c, void *stream)
{
    return count
               ? issue(c, (part){ .what = ALL_GATHER, .type = type, .count = count, .from = (uint64_t)from, .to = (uint64_t)to },
                     stream)
               : SUCCESS;
}

EXPORT int ncclCommGetAsyncError(comm *c, int *out) { driver_lock(true); *out = c->error; driver_lock(false); return SUCCESS; }
EXPORT int ncclCommCount(const comm *c, int *out) { *out = c->w->ranks; return SUCCESS; }
EXPORT int ncclCommUserRank(const comm *c, int *out) { *out = c->rank; return SUCCESS; }
/* Its work that waits ends without a result. The memory stays: work of other ranks may still point at it. */
EXPORT int ncclCommAbort(comm *c) { driver_lock(true); c->aborted = true; driver_lock(false); return SUCCESS; }
EXPORT int ncclCommDestroy(comm *c) { driver_lock(true); c->aborted = true; driver_lock(false); return SUCCESS; }
EXPORT int ncclCommFinalize(comm *c) { (void)c; return SUCCESS; }
