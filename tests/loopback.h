/* A dl_transport without a network: the "processes" of a world are threads of one program, each of which calls dl_launch. */
#ifndef LOOPBACK_H
#define LOOPBACK_H
#include <pthread.h>
#include <time.h>

enum { LOOP_MOST = 8, LOOP_CHANNELS = 2 };
typedef struct loop {
    int size;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    struct { int arrived; unsigned round; bool here[LOOP_MOST]; const void *data[LOOP_MOST]; } channel[LOOP_CHANNELS];
    struct { const void *data; int state; } box[LOOP_CHANNELS][LOOP_MOST][LOOP_MOST]; /* from, to: 0 empty, 1 sent, 2 taken */
    char failed[512];
    int reductions;          /* all_reduce calls so far, on channel 1 */
} loop;
typedef struct loop_end { loop *all; dl_transport transport; } loop_end;

static void loop_open(loop *l, loop_end *end, int size)
{
    memset(l, 0, sizeof *l);
    l->size = size;
    pthread_mutex_init(&l->mutex, NULL);
    pthread_cond_init(&l->changed, NULL);
    for (int i = 0; i < size; i++) end[i].all = l;
}

static void loop_close(loop *l)
{
    pthread_cond_destroy(&l->changed);
    pthread_mutex_destroy(&l->mutex);
}

/* Waits for a change; false when time is up or the world has failed. The mutex is held. */
static bool loop_wait(loop *l, double *left)
{
    struct timespec until;
    bool forever = *left <= 0;
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 20000000;
    if (until.tv_nsec >= 1000000000) until.tv_sec++, until.tv_nsec -= 1000000000;
    if (l->failed[0]) return false;
    if (pthread_cond_timedwait(&l->changed, &l->mutex, &until) && !forever && (*left -= 0.02) <= 0) return false;
    return !l->failed[0];
}

/* All meet and leave a pointer; NULL, or why not. */
static const char *loop_meet(loop *l, int channel, int rank, const void *data, double seconds, bool *missing)
{
    const char *why = NULL;
    double left = seconds;
    pthread_mutex_lock(&l->mutex);
    unsigned round = l->channel[channel].round;
    if (data) l->channel[channel].data[rank] = data; /* NULL: all have read */
    l->channel[channel].here[rank] = true;
    if (++l->channel[channel].arrived == l->size) {
        l->channel[channel].arrived = 0;
        l->channel[channel].round++;
        memset(l->channel[channel].here, 0, sizeof l->channel[channel].here);
        pthread_cond_broadcast(&l->changed);
    }
    while (l->channel[channel].round == round && !why)
        if (!loop_wait(l, &left) && l->channel[channel].round == round) {
            why = l->failed[0] ? l->failed : "time is up";
            for (int p = 0; missing && !l->failed[0] && p < l->size; p++) missing[p] = !l->channel[channel].here[p];
        }
    pthread_mutex_unlock(&l->mutex);
    return why;
}

static loop *loop_of(void *user) { return ((loop_end *)user)->all; }
static int loop_rank(void *user) { return ((loop_end *)user)->transport.rank; }

static const char *loop_all_gather(void *user, int channel, const void *mine, void *all, size_t bytes, double seconds, bool *missing)
{
    loop *l = loop_of(user);
    const char *why = loop_meet(l, channel, loop_rank(user), mine, seconds, missing);
    for (int p = 0; !why && p < l->size; p++) memcpy((char *)all + (size_t)p * bytes, l->channel[channel].data[p], bytes);
    return why ? why : loop_meet(l, channel, loop_rank(user), NULL, seconds, NULL);
}

static const char *loop_all_reduce(void *user, int channel, dl_real *data, size_t n, dl_comm_op op, dl_real factor, double seconds)
{
    loop *l = loop_of(user);
    dl_real *sum = (dl_real *)malloc(n * sizeof *sum + 1);
    pthread_mutex_lock(&l->mutex);
    if (channel == 1) l->reductions++;
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
    const char *why = loop_meet(l, channel, loop_rank(user), data, seconds, NULL);
    for (size_t i = 0; !why && i < n; i++) {
        sum[i] = ((const dl_real *)l->channel[channel].data[0])[i];
        for (int p = 1; p < l->size; p++) {
            dl_real x = ((const dl_real *)l->channel[channel].data[p])[i];
            sum[i] = op == DL_COMM_SUM ? sum[i] + x : x > sum[i] ? x : sum[i];
        }
        sum[i] *= factor;
    }
    if (!why) why = loop_meet(l, channel, loop_rank(user), NULL, seconds, NULL);
    if (!why && n) memcpy(data, sum, n * sizeof *sum);
    free(sum);
    return why;
}

static const char *loop_broadcast(void *user, int channel, void *data, size_t bytes, int root, double seconds)
{
    loop *l = loop_of(user);
    const char *why = loop_meet(l, channel, loop_rank(user), data, seconds, NULL);
    if (!why && bytes && loop_rank(user) != root) memcpy(data, l->channel[channel].data[root], bytes);
    return why ? why : loop_meet(l, channel, loop_rank(user), NULL, seconds, NULL);
}

static const char *loop_exchange(void *user, int channel, int peer, const void *send, void *receive, size_t bytes, double seconds)
{
    loop *l = loop_of(user);
    int rank = loop_rank(user);
    double left = seconds;
    bool ok = true;
    pthread_mutex_lock(&l->mutex);
    l->box[channel][rank][peer].data = send;
    l->box[channel][rank][peer].state = 1;
    pthread_cond_broadcast(&l->changed);
    while (ok && l->box[channel][peer][rank].state != 1) ok = loop_wait(l, &left);
    if (ok) {
        memcpy(receive, l->box[channel][peer][rank].data, bytes);
        l->box[channel][peer][rank].state = 2;
        pthread_cond_broadcast(&l->changed);
    }
    while (ok && l->box[channel][rank][peer].state != 2) ok = loop_wait(l, &left);
    if (ok) l->box[channel][rank][peer].state = 0;
    pthread_mutex_unlock(&l->mutex);
    return ok ? NULL : l->failed[0] ? l->failed : "the other process does not answer";
}

static void loop_abort(void *user, const char *sentence)
{
    loop *l = loop_of(user);
    pthread_mutex_lock(&l->mutex);
    if (!l->failed[0]) snprintf(l->failed, sizeof l->failed, "%s", sentence);
    pthread_cond_broadcast(&l->changed);
    pthread_mutex_unlock(&l->mutex);
}

static const dl_transport *loop_transport(loop_end *end, int rank)
{
    dl_transport *t = &end[rank].transport;
    memset(t, 0, sizeof *t);
    t->rank = rank;
    t->size = end[rank].all->size;
    t->user = &end[rank];
    t->all_gather = loop_all_gather;
    t->all_reduce = loop_all_reduce;
    t->broadcast = loop_broadcast;
    t->exchange = loop_exchange;
    t->abort = loop_abort;
    return t;
}
#endif
