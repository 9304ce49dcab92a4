/* dltrain_mpi.h: replicas in several processes and on several machines, over MPI. Include it after dltrain.h;
   build with mpicc:

       #define DLTRAIN_IMPLEMENTATION
       #include "dltrain.h"
       #include "dltrain_mpi.h"

       int main(void)
       {
           char error[512] = "";
           dl_launch_desc desc = { .error = error, .error_size = sizeof error };
           if (!dl_mpi_launch(&desc, train, NULL)) return fprintf(stderr, "%s\n", error), 1;
       }

       mpicc -O2 program.c -o program -lm -pthread && mpirun -np 4 ./program

   Replicas of one process and processes compose: mpirun -np 2 with dl_launch_desc.replicas = 2 is a world of four.

   The device "cuda" is the GPU of this process, or one for each of its replicas: those after the GPUs of the node's
   processes before it.

   Who waits polls and sleeps in between, so that there are deadlines, and so that processes may outnumber the CPUs.
   Processes that are all on one machine sum in memory that they share (MPI_Win_allocate_shared), others, or where
   MPI gives none, by messages. Sums are made in the order of the processes, either way: two runs give the same bits.
   MIT licence, as dltrain.h. */
#ifndef DLTRAIN_MPI_H
#define DLTRAIN_MPI_H
#ifdef __cplusplus
extern "C" {
#endif

/* dl_launch with the replicas of all processes that mpirun or srun started as one world; desc->transport is filled in
   here. Starts MPI and ends it, unless the program has done so. After an error MPI is left as it is: return from main
   with another status than 0, which makes the launcher end the other processes. */
DL_API bool dl_mpi_launch(
    const dl_launch_desc *desc, void (*fn)(dl_context *ctx, dl_comm *comm, void *user), void *user);

#ifdef __cplusplus
}
#endif
#endif /* DLTRAIN_MPI_H */

#if defined(DLTRAIN_IMPLEMENTATION) && !defined(DLTRAIN_MPI_IMPLEMENTED)
#define DLTRAIN_MPI_IMPLEMENTED
#include <mpi.h>
#include <signal.h>
#include <stdio.h>
#include <sys/select.h>

/* ---- state ---- */
enum { DL__MPI_SENTENCE = 512, DL__MPI_PART = 1 << 30 }; /* bytes of one message: MPI counts in int */
/* numbers of a process in shared memory; bytes of a small all_gather */
enum { DL__MPI_SHARE = 1 << 17, DL__MPI_NOTE = 256 };

/* What a process shows the others on its machine. DL__MPI_SHARE numbers follow: a part for each process. */
typedef struct dl__mpi_shared {
    uint64_t stage;          /* how far it has come: one more with each meeting */
    char apart[120];         /* who reads the stage does not touch what is being written */
    char note[2][DL__MPI_NOTE]; /* in turn: others may still read the one before */
} dl__mpi_shared;

typedef struct dl__mpi_channel {
    MPI_Win window;
    dl__mpi_shared **shared; /* of each process; NULL: messages alone */
    size_t part;             /* numbers of a part there */
    uint64_t stage, due;     /* of this process; the one that is waited for, 0: messages are */
    uint64_t gathered;       /* notes so far */
    MPI_Comm comm;
    MPI_Request *request;    /* two a process, and room for what comes */
    char *room;
    size_t room_size;
    char sentence[DL__MPI_SENTENCE];
} dl__mpi_channel;

typedef struct dl__mpi {
    int rank, size;
    dl__mpi_channel channel[2];
    MPI_Comm node;           /* the processes on this machine */
    MPI_Comm control;        /* the sentence of a process that fails comes here, at any time */
    MPI_Request failing;
    char heard[DL__MPI_SENTENCE], told[DL__MPI_SENTENCE];
    bool over;               /* heard or told */
    bool lent;               /* MPI is the program's */
    pthread_mutex_t mutex;   /* one thread at a time is in MPI: MPI_THREAD_SERIALIZED is enough */
} dl__mpi;

/* The launcher ends a job whose process died with SIGTERM, and a second later with SIGKILL. In between the survivors
   say what they were waiting for. The one variable of the process: signals know no other. */
static volatile sig_atomic_t dl__mpi_terminated;
static void dl__mpi_on_term(int number) { dl__mpi_terminated = number; }

static const char *dl__mpi_say(dl__mpi_channel *c, const char *format, const char *text, int number)
{
    snprintf(c->sentence, sizeof c->sentence, format, text, number);
    return c->sentence;
}

static const char *dl__mpi_error(dl__mpi_channel *c, int code)
{
    char text[MPI_MAX_ERROR_STRING + 1] = "";
    int n = 0;
    if (MPI_Error_string(code, text, &n)) n = 0;
    text[n] = 0;
    return dl__mpi_say(c, "MPI: %s (%d)", text, code);
}

/* After so many seconds of waiting. Who has waited long may sleep long: an eighth more, and a few dozen polls
   do for a second. */
static void dl__mpi_nap(double waited)
{
    struct timeval t; /* nanosleep hides from a strict -std=c99 */
    t.tv_sec = 0;
    t.tv_usec = waited > 16e-3 ? 2000 : waited > 160e-6 ? (int)(waited * 1e6 / 8) : 20;
    if (waited < 100e-6) sched_yield();
    else select(0, NULL, NULL, NULL, &t);
}

static double dl__mpi_now(void) { return 1e-6 * (double)dl__microseconds(); }

/* Has another process failed, or is the job being ended? The mutex is held. */
static const char *dl__mpi_ended(dl__mpi *m, dl__mpi_channel *c)
{
    int flag = 0;
    if (!m->over && m->failing != MPI_REQUEST_NULL && !MPI_Test(&m->failing, &flag, MPI_STATUS_IGNORE) && flag) {
        m->heard[sizeof m->heard - 1] = 0;
        m->over = true;
    }
    if (m->over) return dl__mpi_say(c, "%s", *m->heard ? m->heard : m->told, 0);
    if (!dl__mpi_terminated) return NULL;
    return dl__mpi_say(c, "%s by signal %d: has another process died?", "the job is being ended", dl__mpi_terminated);
}

/* Have all processes come to the stage that is due? */
static bool dl__mpi_reached(const dl__mpi *m, const dl__mpi_channel *c)
{
    for (int p = 0; p < m->size; p++)
        if (__atomic_load_n(&c->shared[p]->stage, __ATOMIC_ACQUIRE) < c->due) return false;
    return true;
}

/* Waits for all requests, or for the stage that is due. NULL, or why not; "" is the deadline. Requests that are left
   then are left for good: MPI is not used again. */
static const char *dl__mpi_wait(dl__mpi *m, dl__mpi_channel *c, double seconds)
{
    double last = dl__mpi_now(), waited = 0;
    for (;;) {
        int flag = 0;
        if (c->due && dl__mpi_reached(m, c)) return NULL;
        pthread_mutex_lock(&m->mutex);
        int code = c->due ? MPI_SUCCESS : MPI_Testall(2 * m->size, c->request, &flag, MPI_STATUSES_IGNORE);
        const char *why = code ? dl__mpi_error(c, code) : flag ? NULL : dl__mpi_ended(m, c);
        pthread_mutex_unlock(&m->mutex);
        if (why || flag) return why;
        double now = dl__mpi_now();
        waited += now - last < 0.1 ? now - last : 0.1; /* a process that was stopped itself has not waited */
        last = now;
        if (seconds > 0 && waited >= seconds) return "";
        dl__mpi_nap(waited);
    }
}

/* After a deadline: which processes have not sent, or not taken, what was due. */
static const char *dl__mpi_late(dl__mpi *m, dl__mpi_channel *c, bool *missing, double seconds)
{
    char list[128] = "";
    size_t at = 0;
    pthread_mutex_lock(&m->mutex);
    for (int p = 0; p < m->size; p++) {
        int received = !c->due || __atomic_load_n(&c->shared[p]->stage, __ATOMIC_ACQUIRE) >= c->due, sent = 1;
        if (c->request[p] != MPI_REQUEST_NULL) MPI_Test(&c->request[p], &received, MPI_STATUS_IGNORE);
        if (c->request[m->size + p] != MPI_REQUEST_NULL) MPI_Test(&c->request[m->size + p], &sent, MPI_STATUS_IGNORE);
        if (received && sent) continue;
        if (missing) missing[p] = true;
        if (at < sizeof list - 16) at += (size_t)snprintf(list + at, sizeof list - at, "%s%d", at ? ", " : "", p);
    }
    pthread_mutex_unlock(&m->mutex);
    snprintf(c->sentence, sizeof c->sentence, "process %s has not answered for %g s", list, seconds);
    return c->sentence;
}

static bool dl__mpi_room(dl__mpi_channel *c, size_t bytes)
{
    if (bytes <= c->room_size) return true;
    char *p = (char *)realloc(c->room, bytes);
    if (p) c->room = p, c->room_size = bytes;
    return p != NULL;
}

/* ---- messages. The requests of receiving come first, one a process, those of sending behind them ---- */
static void dl__mpi_clear(dl__mpi *m, dl__mpi_channel *c)
{
    for (int i = 0; i < 2 * m->size; i++) c->request[i] = MPI_REQUEST_NULL;
}

static int dl__mpi_receive(dl__mpi *m, dl__mpi_channel *c, int from, void *to, size_t bytes)
{
    pthread_mutex_lock(&m->mutex);
    int code = MPI_Irecv(to, (int)bytes, MPI_BYTE, from, 0, c->comm, &c->request[from]);
    pthread_mutex_unlock(&m->mutex);
    return code;
}

static int dl__mpi_send(dl__mpi *m, dl__mpi_channel *c, int to, const void *from, size_t bytes)
{
    pthread_mutex_lock(&m->mutex);
    int code = MPI_Isend((void *)(uintptr_t)from, (int)bytes, MPI_BYTE, to, 0, c->comm, &c->request[m->size + to]);
    pthread_mutex_unlock(&m->mutex);
    return code;
}

static const char *dl__mpi_finish(dl__mpi *m, dl__mpi_channel *c, int code, double seconds, bool *missing)
{
    if (code) return dl__mpi_error(c, code);
    const char *why = dl__mpi_wait(m, c, seconds);
    return why && !*why ? dl__mpi_late(m, c, missing, seconds) : why;
}

/* Where part i of n elements begins; part `size`: the end. */
static size_t dl__mpi_cut(const dl__mpi *m, size_t n, int i)
{
    size_t first, count;
    dl_shard(n, i, m->size, &first, &count);
    return first;
}

/* Their sums or maxima, times `factor`. */
DL__HOT static void dl__mpi_add(dl_real *to, const dl_real *from, size_t n, dl_comm_op op, dl_real factor)
{
    if (op == DL_COMM_MAX)
        for (size_t i = 0; i < n; i++) to[i] = (from[i] > to[i] || from[i] != from[i] ? from[i] : to[i]) * factor;
    else
        for (size_t i = 0; i < n; i++) to[i] = (to[i] + from[i]) * factor;
}

/* ---- on one machine, in shared memory ---- */
/* All have written what they had to, before any goes on to read it. */
static const char *dl__mpi_meet(dl__mpi *m, dl__mpi_channel *c, double seconds, bool *missing)
{
    c->due = ++c->stage;
    __atomic_store_n(&c->shared[m->rank]->stage, c->stage, __ATOMIC_RELEASE);
    const char *why = dl__mpi_finish(m, c, MPI_SUCCESS, seconds, missing);
    c->due = 0;
    return why;
}

static const char *dl__mpi_gather_note(
    dl__mpi *m, dl__mpi_channel *c, const void *mine, void *all, size_t bytes, double seconds, bool *missing)
{
    uint64_t turn = c->gathered++ & 1;
    if (bytes) memcpy(c->shared[m->rank]->note[turn], mine, bytes);
    const char *why = dl__mpi_meet(m, c, seconds, missing);
    for (int p = 0; p < m->size && !why && bytes; p++)
        memcpy((char *)all + (size_t)p * bytes, c->shared[p]->note[turn], bytes);
    return why;
}

/* In the memory of process `owner`, what goes to process `reader`, or, where they are the same, to all. */
static dl_real *dl__mpi_shared_part(const dl__mpi_channel *c, int owner, int reader)
{
    void *numbers = c->shared[owner] + 1;
    return (dl_real *)numbers + (size_t)reader * c->part;
}

/* Everybody shows the others their parts, sums its own from all, and shows the sum; n is at most so many parts.
   What was shown is not written to before all have met again, and so have read it. */
static const char *dl__mpi_reduce_shared(
    dl__mpi *m, dl__mpi_channel *c, dl_real *data, size_t n, dl_comm_op op, dl_real factor, double seconds)
{
    size_t first = dl__mpi_cut(m, n, m->rank), own = dl__mpi_cut(m, n, m->rank + 1) - first, k;
    for (int p = 0; p < m->size; p++) {
        size_t at = dl__mpi_cut(m, n, p);
        if (p != m->rank)
            memcpy(dl__mpi_shared_part(c, m->rank, p), data + at, (dl__mpi_cut(m, n, p + 1) - at) * sizeof *data);
    }
    const char *why = dl__mpi_meet(m, c, seconds, NULL);
    for (size_t at = 0; at < own && !why; at += k) {
        dl_real *sum = dl__mpi_shared_part(c, m->rank, m->rank) + at;
        k = DL__MIN(own - at, (size_t)DL__SUM_TILE);
        for (int p = 0; p < m->size; p++) {
            const dl_real *x = p == m->rank ? data + first + at : dl__mpi_shared_part(c, p, m->rank) + at;
            if (p) dl__mpi_add(sum, x, k, op, p == m->size - 1 ? factor : 1);
            else memcpy(sum, x, k * sizeof *sum);
        }
        memcpy(data + first + at, sum, k * sizeof *sum);
    }
    if (!why) why = dl__mpi_meet(m, c, seconds, NULL);
    for (int p = 0; p < m->size && !why; p++) {
        size_t at = dl__mpi_cut(m, n, p);
        if (p != m->rank)
            memcpy(data + at, dl__mpi_shared_part(c, p, p), (dl__mpi_cut(m, n, p + 1) - at) * sizeof *data);
    }
    return why;
}

/* Memory of this channel for all, if all are on one machine and MPI gives it; otherwise there are messages.
   False: MPI has failed. */
static bool dl__mpi_share(dl__mpi *m, dl__mpi_channel *c)
{
    int size = 0, unit, mine, all;
    MPI_Aint room = (MPI_Aint)(sizeof(dl__mpi_shared) + DL__MPI_SHARE * sizeof(dl_real)), found;
    void *own = NULL;
    MPI_Comm_size(m->node, &size);
    c->part = (size_t)DL__MPI_SHARE / (size_t)m->size / 16 * 16; /* whole cache lines */
    mine = size == m->size && c->part &&
        (c->shared = (dl__mpi_shared **)calloc((size_t)size, sizeof *c->shared)) != NULL;
    if (MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, m->control)) return false;
    mine = all && !MPI_Win_allocate_shared(room, 1, MPI_INFO_NULL, m->node, &own, &c->window);
    for (int p = 0; p < m->size && mine; p++) mine = !MPI_Win_shared_query(c->window, p, &found, &unit, &c->shared[p]);
    if (mine) memset(own, 0, sizeof(dl__mpi_shared));
    if (MPI_Allreduce(&mine, &all, 1, MPI_INT, MPI_MIN, m->control)) return false;
    if (all) return true;
    free(c->shared);
    c->shared = NULL;
    return true;
}

/* ---- messages between all ---- */
/* Every process sends to every other: nobody's lateness hides behind another's. */
static const char *dl__mpi_gather_part(dl__mpi *m, dl__mpi_channel *c, const char *mine, char *all, size_t stride,
    size_t bytes, double seconds, bool *missing)
{
    int code = 0;
    dl__mpi_clear(m, c);
    for (int p = 0; p < m->size && !code; p++)
        if (p != m->rank) code = dl__mpi_receive(m, c, p, all + (size_t)p * stride, bytes);
    for (int p = 0; p < m->size && !code; p++)
        if (p != m->rank) code = dl__mpi_send(m, c, p, mine, bytes);
    if (bytes) memcpy(all + (size_t)m->rank * stride, mine, bytes);
    return dl__mpi_finish(m, c, code, seconds, missing);
}

static const char *dl__mpi_all_gather(
    void *user, int channel, const void *mine, void *all, size_t bytes, double seconds, bool *missing)
{
    dl__mpi *m = (dl__mpi *)user;
    const char *why = NULL;
    if (m->channel[channel].shared && bytes <= DL__MPI_NOTE)
        return dl__mpi_gather_note(m, &m->channel[channel], mine, all, bytes, seconds, missing);
    for (size_t at = 0, n; !why && (at < bytes || !at); at += n ? n : 1) {
        n = DL__MIN(bytes - at, (size_t)DL__MPI_PART);
        why = dl__mpi_gather_part(
            m, &m->channel[channel], (const char *)mine + at, (char *)all + at, bytes, n, seconds, missing);
    }
    return why;
}

/* Each process gets its part of everybody's numbers, sums in the order of processes, and sends the sum to all. */
static const char *dl__mpi_reduce_part(
    dl__mpi *m, dl__mpi_channel *c, dl_real *data, size_t n, dl_comm_op op, dl_real factor, double seconds)
{
    size_t first = dl__mpi_cut(m, n, m->rank), own = dl__mpi_cut(m, n, m->rank + 1) - first;
    int code = 0;
    dl_real *room;
    if (!dl__mpi_room(c, ((size_t)m->size * own + 1) * sizeof *data))
        return dl__mpi_say(c, "%s", "out of memory for a reduction", 0);
    void *raw = c->room;
    room = (dl_real *)raw;
    dl__mpi_clear(m, c);
    for (int p = 0; p < m->size && !code; p++)
        if (p != m->rank) code = dl__mpi_receive(m, c, p, room + (size_t)p * own, own * sizeof *data);
    for (int p = 0; p < m->size && !code; p++) {
        size_t at = dl__mpi_cut(m, n, p);
        if (p != m->rank) code = dl__mpi_send(m, c, p, data + at, (dl__mpi_cut(m, n, p + 1) - at) * sizeof *data);
    }
    const char *why = dl__mpi_finish(m, c, code, seconds, NULL);
    if (why) return why;
    dl_real *sum = m->rank ? room : data + first;
    for (int p = 1; p < m->size; p++)
        dl__mpi_add(sum, p == m->rank ? data + first : room + (size_t)p * own, own, op, p == m->size - 1 ? factor : 1);
    if (m->rank && own) memcpy(data + first, sum, own * sizeof *data);
    dl__mpi_clear(m, c);
    for (int p = 0; p < m->size && !code; p++) {
        size_t at = dl__mpi_cut(m, n, p);
        if (p != m->rank) code = dl__mpi_receive(m, c, p, data + at, (dl__mpi_cut(m, n, p + 1) - at) * sizeof *data);
    }
    for (int p = 0; p < m->size && !code; p++)
        if (p != m->rank) code = dl__mpi_send(m, c, p, sum, own * sizeof *data);
    return dl__mpi_finish(m, c, code, seconds, NULL);
}

static const char *dl__mpi_all_reduce(
    void *user, int channel, dl_real *data, size_t n, dl_comm_op op, dl_real factor, double seconds)
{
    dl__mpi *m = (dl__mpi *)user;
    dl__mpi_channel *c = &m->channel[channel];
    const char *why = NULL;
    for (size_t at = 0, part; !why && at < n; at += part) {
        part = DL__MIN(n - at, c->shared ? c->part * (size_t)m->size : (size_t)DL__MPI_PART / sizeof *data);
        why = (c->shared ? dl__mpi_reduce_shared : dl__mpi_reduce_part)(m, c, data + at, part, op, factor, seconds);
    }
    return why;
}

/* Down a binomial tree: relative to the root, process r has r without its lowest bit as parent. */
static const char *dl__mpi_broadcast_part(
    dl__mpi *m, dl__mpi_channel *c, char *data, size_t bytes, int root, double seconds)
{
    int relative = (m->rank - root + m->size) % m->size, low = 1, code = 0;
    while (low < m->size && !(relative & low)) low <<= 1;
    if (relative) {
        dl__mpi_clear(m, c);
        code = dl__mpi_receive(m, c, (relative - low + root) % m->size, data, bytes);
        const char *why = dl__mpi_finish(m, c, code, seconds, NULL);
        if (why) return why;
    }
    dl__mpi_clear(m, c);
    for (int bit = low >> 1; bit && !code; bit >>= 1)
        if (relative + bit < m->size) code = dl__mpi_send(m, c, (relative + bit + root) % m->size, data, bytes);
    return dl__mpi_finish(m, c, code, seconds, NULL);
}

static const char *dl__mpi_broadcast(void *user, int channel, void *data, size_t bytes, int root, double seconds)
{
    dl__mpi *m = (dl__mpi *)user;
    const char *why = NULL;
    for (size_t at = 0, n; !why && at < bytes; at += n) {
        n = DL__MIN(bytes - at, (size_t)DL__MPI_PART);
        why = dl__mpi_broadcast_part(m, &m->channel[channel], (char *)data + at, n, root, seconds);
    }
    return why;
}

static const char *dl__mpi_exchange(
    void *user, int channel, int peer, const void *send, void *receive, size_t bytes, double seconds)
{
    dl__mpi *m = (dl__mpi *)user;
    dl__mpi_channel *c = &m->channel[channel];
    const char *why = NULL;
    for (size_t at = 0, n; !why && at < bytes; at += n) {
        n = DL__MIN(bytes - at, (size_t)DL__MPI_PART);
        dl__mpi_clear(m, c);
        int code = dl__mpi_receive(m, c, peer, (char *)receive + at, n);
        if (!code) code = dl__mpi_send(m, c, peer, (const char *)send + at, n);
        why = dl__mpi_finish(m, c, code, seconds, NULL);
    }
    return why;
}

/* ---- the end ---- */
/* Tells the other processes; at most half a second is spent on it, as they may be gone. A job that is being ended
   needs no telling. */
static void dl__mpi_abort(void *user, const char *sentence)
{
    dl__mpi *m = (dl__mpi *)user;
    MPI_Request *sent = (MPI_Request *)malloc((size_t)m->size * sizeof *sent);
    pthread_mutex_lock(&m->mutex);
    bool first = !m->over && sent && !dl__mpi_terminated;
    m->over = true;
    if (first) snprintf(m->told, sizeof m->told, "%s", sentence);
    for (int p = 0; first && p < m->size; p++) {
        sent[p] = MPI_REQUEST_NULL;
        if (p != m->rank) MPI_Isend(m->told, (int)sizeof m->told, MPI_BYTE, p, 1, m->control, &sent[p]);
    }
    pthread_mutex_unlock(&m->mutex);
    double end = dl__mpi_now() + 0.5;
    for (int flag = !first; !flag && dl__mpi_now() < end;) {
        pthread_mutex_lock(&m->mutex);
        if (MPI_Testall(m->size, sent, &flag, MPI_STATUSES_IGNORE)) flag = 1;
        pthread_mutex_unlock(&m->mutex);
        if (!flag) dl__mpi_nap(1e-3);
    }
    free(sent);
}

static bool dl__mpi_start(dl__mpi *m)
{
    int begun = 0, level = MPI_THREAD_SINGLE;
    MPI_Initialized(&begun);
    m->lent = begun;
    if (begun) MPI_Query_thread(&level);
    else if (MPI_Init_thread(NULL, NULL, MPI_THREAD_SERIALIZED, &level)) return false;
    if (level < MPI_THREAD_SERIALIZED) return false;
    MPI_Comm_rank(MPI_COMM_WORLD, &m->rank);
    MPI_Comm_size(MPI_COMM_WORLD, &m->size);
    pthread_mutex_init(&m->mutex, NULL);
    for (int i = 0; i < 3; i++) {
        MPI_Comm *comm = i < 2 ? &m->channel[i].comm : &m->control;
        if (MPI_Comm_dup(MPI_COMM_WORLD, comm)) return false;
        MPI_Comm_set_errhandler(*comm, MPI_ERRORS_RETURN);
        if (i < 2 && !(m->channel[i].request = (MPI_Request *)malloc(2 * (size_t)m->size * sizeof(MPI_Request))))
            return false;
    }
    if (MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, 0, MPI_INFO_NULL, &m->node)) return false;
    MPI_Comm_set_errhandler(m->node, MPI_ERRORS_RETURN);
    for (int i = 0; i < 2; i++) {
        dl__mpi_clear(m, &m->channel[i]);
        if (m->size > 1 && !dl__mpi_share(m, &m->channel[i])) return false;
    }
    return !MPI_Irecv(m->heard, (int)sizeof m->heard, MPI_BYTE, MPI_ANY_SOURCE, 1, m->control, &m->failing);
}

static void dl__mpi_stop(dl__mpi *m)
{
    if (m->failing != MPI_REQUEST_NULL) {
        MPI_Cancel(&m->failing);
        MPI_Wait(&m->failing, MPI_STATUS_IGNORE);
    }
    for (int i = 0; i < 2; i++) {
        if (m->channel[i].shared) MPI_Win_free(&m->channel[i].window);
        free(m->channel[i].shared);
        MPI_Comm_free(&m->channel[i].comm);
        free(m->channel[i].request);
        free(m->channel[i].room);
    }
    MPI_Comm_free(&m->node);
    MPI_Comm_free(&m->control);
    pthread_mutex_destroy(&m->mutex);
    if (!m->lent) MPI_Finalize();
}

/* The device "cuda": as many GPUs as this process has replicas, after those of the node's processes of lower rank that
   see the same GPUs. malloc'd, or NULL where devices have other names. */
static char *dl__mpi_own_gpus(const dl__mpi *m, const dl_launch_desc *d)
{
    const char *device = d->devices ? d->devices : d->config ? d->config->device : NULL,
               *visible = getenv("CUDA_VISIBLE_DEVICES");
    int mine = d->replicas > 0 ? d->replicas : 1, first = 0, rank = 0;
    unsigned color = 0;
    MPI_Comm peers;
    if (!device) device = "cpu";
    for (; visible && *visible; visible++) color = color * 31 + (unsigned char)*visible;
    if (MPI_Comm_split(m->node, (int)(color & 0x7fffffff), 0, &peers)) return NULL;
    MPI_Comm_rank(peers, &rank);
    MPI_Exscan(&mine, &first, 1, MPI_INT, MPI_SUM, peers);
    MPI_Comm_free(&peers);
    char *names = strcmp(device, "cuda") ? NULL : (char *)malloc((size_t)mine * 16), *p = names;
    for (int i = 0; p && i < mine; i++) p += snprintf(p, 16, "%scuda:%d", i ? "," : "", (rank ? first : 0) + i);
    return names;
}

/* Why MPI, though it has started, is not what the environment promises; or NULL. */
static const char *dl__mpi_alone(const dl__mpi *m)
{
    const char *tasks = getenv("SLURM_NTASKS");
    if (m->size > 1 || getenv("OMPI_COMM_WORLD_SIZE") || !getenv("SLURM_STEP_ID") || !tasks || atoi(tasks) < 2)
        return NULL;
    return "SLURM started several processes, but MPI sees this one alone: start them by mpirun, or by srun --mpi=pmix";
}

DL_API bool dl_mpi_launch(
    const dl_launch_desc *desc, void (*fn)(dl_context *ctx, dl_comm *comm, void *user), void *user)
{
    dl__mpi *m = (dl__mpi *)calloc(1, sizeof *m); /* not on the stack: after an error MPI still has requests in it */
    dl_launch_desc d;
    dl_transport t;
    memset(&d, 0, sizeof d);
    memset(&t, 0, sizeof t);
    if (desc) d = *desc;
    const char *wrong = m && dl__mpi_start(m)
        ? dl__mpi_alone(m)
        : "MPI does not start, or not with MPI_THREAD_SERIALIZED, which is needed";
    if (wrong) {
        if (d.error && d.error_size) snprintf(d.error, d.error_size, "dl_mpi_launch: %s", wrong);
        return false;
    }
    t.rank = m->rank;
    t.size = m->size;
    t.user = m;
    t.all_gather = dl__mpi_all_gather;
    t.all_reduce = dl__mpi_all_reduce;
    t.broadcast = dl__mpi_broadcast;
    t.exchange = dl__mpi_exchange;
    t.abort = dl__mpi_abort;
    d.transport = m->size > 1 ? &t : NULL;
    char *gpus = dl__mpi_own_gpus(m, &d);
    if (gpus) d.devices = gpus;
    void (*before)(int) = signal(SIGTERM, dl__mpi_on_term);
    bool ok = dl_launch(&d, fn, user);
    signal(SIGTERM, before == SIG_ERR ? SIG_DFL : before);
    size_t said = d.error ? strlen(d.error) : 0;
    if (!ok && gpus && said && strstr(d.error, "there is no device"))
        snprintf(d.error + said, d.error_size - said,
            "; 'cuda' is a GPU of its own for each process of a node: to share one, name it");
    free(gpus);
    if (!ok) return false;
    dl__mpi_stop(m);
    free(m);
    return true;
}
#endif
