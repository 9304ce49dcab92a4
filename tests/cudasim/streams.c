/* Streams, events and graphs. Nothing runs when it is enqueued: work waits in its stream until a program synchronises, and then
   streams and graph nodes advance in a random order that the seed decides and events allow. So a missing wait shows as wrong
   data, and a pinned buffer that is reused too early does too. */
#include "streams.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

void *sim_mutex(void);
int device_error[64];
static stream *streams;
static bool peers[64][64];
static pthread_cond_t changed = PTHREAD_COND_INITIALIZER;

bool peer_enabled(int from, int to) { return from == to || peers[from][to]; }
void peer_set(int from, int to, bool on) { peers[from][to] = on; }

/* ---- handles: numbers that are no pointers, and are never given out twice ---- */

static struct { handle_kind kind; void *object; int device; bool alive; } *handles;
static size_t handle_count, handle_room;

void *handle_new(handle_kind kind, void *object, int device)
{
    if (handle_count == handle_room) {
        handle_room = handle_room ? 2 * handle_room : 256;
        handles = realloc(handles, handle_room * sizeof *handles);
    }
    handles[handle_count].kind = kind;
    handles[handle_count].object = object;
    handles[handle_count].device = device;
    handles[handle_count].alive = true;
    return (void *)(0x00ab000000000000ull + ++handle_count * 64 + kind);
}

static size_t handle_index(void *handle)
{
    uint64_t n = (uint64_t)handle - 0x00ab000000000000ull, index = n / 64;
    return index >= 1 && index <= handle_count && n % 64 == handles[index - 1].kind ? index : 0;
}

void *handle_get(void *handle, handle_kind kind, int *device)
{
    size_t i = handle_index(handle);
    if (!i || handles[i - 1].kind != kind || !handles[i - 1].alive) return NULL;
    if (device) *device = handles[i - 1].device;
    return handles[i - 1].object;
}

void handle_end(void *handle) { size_t i = handle_index(handle); if (i) handles[i - 1].alive = false; }

uint32_t handles_alive(handle_kind kind, int device)
{
    uint32_t n = 0;
    for (size_t i = 0; i < handle_count; i++) n += handles[i].kind == kind && handles[i].device == device && handles[i].alive;
    return n;
}

/* ---- pinned memory ---- */

static struct { uint8_t *p; uint64_t size; } *pins;
static size_t pin_count, pin_room;
void pinned_add(void *p, uint64_t size)
{
    if (pin_count == pin_room) { pin_room = pin_room ? 2 * pin_room : 16; pins = realloc(pins, pin_room * sizeof *pins); }
    pins[pin_count].p = p;
    pins[pin_count++].size = size;
}
bool pinned_remove(void *p)
{
    for (size_t i = 0; i < pin_count; i++) if (pins[i].p == p) { pins[i] = pins[--pin_count]; return true; }
    return false;
}
bool pinned(const void *p, uint64_t size)
{
    for (size_t i = 0; i < pin_count; i++)
        if ((const uint8_t *)p >= pins[i].p && (const uint8_t *)p + size <= pins[i].p + pins[i].size) return true;
    return false;
}

/* ---- tickets: one for each time that an event is recorded ---- */

static struct { bool done; double time; view *seen; } *tickets;
static uint64_t ticket_count, ticket_room;
uint64_t ticket_new(void)
{
    if (ticket_count == ticket_room) {
        ticket_room = ticket_room ? 2 * ticket_room : 256;
        tickets = realloc(tickets, ticket_room * sizeof *tickets);
    }
    tickets[ticket_count].done = false;
    tickets[ticket_count].time = 0;
    tickets[ticket_count].seen = NULL;
    return ++ticket_count;
}
bool ticket_done(uint64_t ticket) { return ticket == 0 || tickets[ticket - 1].done; }
static const view *ticket_view(uint64_t ticket) { return ticket ? tickets[ticket - 1].seen : NULL; }
void host_after(uint64_t ticket) { if (ticket_view(ticket)) view_join(&host_view, ticket_view(ticket)); }
double ticket_time(uint64_t ticket) { return ticket ? tickets[ticket - 1].time : 0; }

/* ---- one piece of work ---- */

static void free_work(work *w)
{
    free(w->params); free(w->staged); free(w->done); free(w->views); free(w->since);
    w->params = w->staged = w->done = NULL;
    w->views = w->since = NULL;
}

static view collectives; /* all of them count as one order */

static bool on_device(uint64_t address) { return address >> 52 == DEVICE_BASE >> 52; }

static int copy_now(work *w, uint32_t id, const view *seen)
{
    allocation *to = on_device(w->to) ? allocation_find(w->to) : NULL,
               *from = on_device(w->from) ? allocation_find(w->from) : NULL;
    if ((on_device(w->to) && (!to || to->freed)) || (on_device(w->from) && (!from || from->freed))) {
        report("copy of %llu bytes from 0x%llx to 0x%llx: the memory was freed before the copy ran", (unsigned long long)w->size,
            (unsigned long long)w->from, (unsigned long long)w->to);
        return 700;
    }
    if (from && device_error[from->device]) return device_error[from->device]; /* the other one of a copy between two */
    if (to && device_error[to->device]) return device_error[to->device];
    if (seen && ((from && !range_ordered(seen, id, from, w->from - from->base, w->size, false)) ||
                 (to && !range_ordered(seen, id, to, w->to - to->base, w->size, true)))) return 719;
    const uint8_t *source = from ? from->data + (w->from - from->base) : w->staged ? w->staged : (const uint8_t *)w->from;
    uint8_t *target = to ? to->data + (w->to - to->base) : (uint8_t *)w->to;
    memmove(target, source, w->size);
    if (to && !from) init_set(to, w->to - to->base, w->size, true);
    for (uint64_t i = 0; from && i < w->size; i++) {
        bool init = init_all(from, w->from - from->base + i, 1);
        if (i == 0 && init_all(from, w->from - from->base, w->size)) {
            if (to) init_set(to, w->to - to->base, w->size, true);
            break;
        }
        if (to) init_set(to, w->to - to->base + i, 1, init);
        else if (!init) target[i] = (uint8_t)(0xa5 ^ random_below(256)); /* what nobody wrote may be anything */
    }
    return 0;
}

static int set_now(work *w, uint32_t id, const view *seen)
{
    allocation *to = allocation_find(w->to);
    if (!to || to->freed) {
        report("memset at 0x%llx: the memory was freed before it ran", (unsigned long long)w->to);
        return 700;
    }
    if (seen && !range_ordered(seen, id, to, w->to - to->base, w->size * w->width, true)) return 719;
    uint8_t *target = to->data + (w->to - to->base);
    for (uint64_t i = 0; i < w->size; i++) memcpy(target + i * w->width, &w->value, w->width);
    init_set(to, w->to - to->base, w->size * w->width, true);
    return 0;
}

/* In the order of execution, to the file CUDASIM_TRACE. */
static void trace(const work *w, const char *what)
{
    static FILE *file;
    static bool asked;
    const char *path = asked ? NULL : getenv("CUDASIM_TRACE");
    asked = true;
    if (path && *path) file = fopen(path, "w");
    if (file) fprintf(file, "%d %u %s\n", w->device, w->lane, what), fflush(file);
}

/* 0: waits, 1: a part is done, 2: done. v: what the work comes after, which it becomes a part of. */
static int step(work *w, view *v)
{
    int error = 0;
    const view *seen = sim.order ? v : NULL;
    if (w->since) view_join(v, w->since);
    if (device_error[w->device] && w->kind != WORK_RECORD)
        return 2; /* a failed device does nothing any more; whoever waits for it in a collective goes on waiting */
    if (w->kind == WORK_KERNEL || w->kind == WORK_COPY || w->kind == WORK_SET)
        trace(w, w->kind == WORK_KERNEL ? w->k->name : w->kind == WORK_SET ? "memset"
            : !on_device(w->from) ? "upload" : on_device(w->to) ? "copy" : "download");
    switch (w->kind) {
    case WORK_KERNEL: error = kernel_run(w->k, w->device, w->grid, w->dim, w->dynamic_shared, w->params,
        launch_new(v, w->lane, w->k->name), seen); break;
    case WORK_COPY: error = copy_now(w, launch_new(v, w->lane, "a copy"), seen); break;
    case WORK_SET: error = set_now(w, launch_new(v, w->lane, "a memset"), seen); break;
    case WORK_RECORD: {
        struct timespec t;
        clock_gettime(CLOCK_MONOTONIC, &t);
        tickets[w->ticket - 1].done = true;
        if (seen) { tickets[w->ticket - 1].seen = malloc(sizeof *v); *tickets[w->ticket - 1].seen = *v; }
        tickets[w->ticket - 1].time = (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
        break;
    }
    case WORK_WAIT:
        if (!ticket_done(w->ticket)) return 0;
        if (ticket_view(w->ticket)) view_join(v, ticket_view(w->ticket));
        return 2;
    case WORK_CALL:
        view_join(&collectives, v);
        if (w->call(w->user)) return 0;
        view_join(v, &collectives);
        pthread_cond_broadcast(&changed);
        break;
    case WORK_GRAPH: {
        graph *g = w->graph;
        uint32_t ready = 0, left = 0, chosen = 0;
        for (uint32_t i = 0; i < g->count; i++) {
            if (w->done[i]) continue;
            left++;
            bool can = true;
            for (uint32_t j = 0; j < g->nodes[i].after_count; j++) can = can && w->done[g->nodes[i].after[j]];
            if (can && g->nodes[i].w.kind == WORK_CALL && w->done[i] == 0 && random_below(2))
                can = ready == 0; /* a waiting call does not keep others from their turn */
            if (can && random_below(++ready) == 0) chosen = i;
        }
        if (left == 0) {
            for (uint32_t i = 0; seen && w->views && i < g->count; i++) view_join(v, &w->views[i]);
            g->users--;
            return 2;
        }
        if (!ready) return 0;
        view mine = *v;
        if (seen && !w->views) w->views = calloc(g->count, sizeof *w->views);
        for (uint32_t j = 0; seen && j < g->nodes[chosen].after_count; j++)
            view_join(&mine, &w->views[g->nodes[chosen].after[j]]);
        int r = step(&g->nodes[chosen].w, &mine);
        if (seen) w->views[chosen] = mine;
        if (r == 2) w->done[chosen] = 1;
        return r == 0 ? 0 : 1;
    }
    }
    if (error && !device_error[w->device]) device_error[w->device] = error;
    return 2;
}

/* Advances one stream, chosen at random among those that can; false if none can. */
static bool advance(bool *calls)
{
    stream *tried[256];
    uint32_t n = 0;
    for (stream *s = streams; s; s = s->next) if (s->head && n < 256) tried[n++] = s;
    *calls = false;
    while (n) {
        uint32_t i = random_below(n);
        stream *s = tried[i];
        work *w = s->head;
        int r = step(w, &s->seen);
        if (r) {
            if (r == 2) {
                s->head = w->next;
                if (!s->head) s->tail = NULL;
                s->finished++;
                free_work(w);
                free(w);
            }
            return true;
        }
        if (w->kind == WORK_CALL || w->kind == WORK_GRAPH) *calls = true;
        tried[i] = tried[--n];
    }
    return false;
}

/* Runs until the condition holds. What waits for another thread's device lets that thread in. */
static void run_until(bool (*done)(uint64_t, void *), uint64_t number, void *object)
{
    while (!done(number, object)) {
        bool calls;
        if (advance(&calls)) continue;
        struct timespec t;
        clock_gettime(CLOCK_REALTIME, &t);
        t.tv_nsec += 2000000;
        if (t.tv_nsec >= 1000000000) { t.tv_nsec -= 1000000000; t.tv_sec++; }
        pthread_cond_timedwait(&changed, sim_mutex(), &t);
    }
}
static bool stream_finished(uint64_t number, void *object) { return ((stream *)object)->finished >= number; }
static bool ticket_finished(uint64_t number, void *object) { (void)object; return ticket_done(number); }

int run_stream(stream *s)
{
    run_until(stream_finished, s->added, s);
    view_join(&host_view, &s->seen);
    return device_error[s->device];
}
int run_ticket(uint64_t ticket)
{
    run_until(ticket_finished, ticket, NULL);
    host_after(ticket);
    return 0;
}
int run_device(int device)
{
    for (stream *s = streams; s; s = s->next) if (s->device == device && !s->dead) run_stream(s);
    return device_error[device];
}
void run_some(void) { bool calls; advance(&calls); }

stream *stream_new(int device, bool nonblocking)
{
    stream *s = calloc(1, sizeof *s);
    s->device = device;
    s->nonblocking = nonblocking;
    static uint32_t streams_so_far;
    s->index = streams_so_far++;
    s->next = streams;
    streams = s;
    return s;
}

stream *stream_default(int device)
{
    static stream *defaults[64];
    if (!defaults[device]) defaults[device] = stream_new(device, false);
    return defaults[device];
}

void context_end(int device)
{
    for (stream *s = streams; s; s = s->next) {
        if (s->device != device) continue;
        while (s->head) {
            work *w = s->head;
            s->head = w->next;
            s->finished++;
            if (w->kind == WORK_RECORD) tickets[w->ticket - 1].done = true;
            free_work(w);
            free(w);
        }
        s->tail = NULL;
        s->capture = NULL;
    }
    for (size_t i = 0; i < handle_count; i++) if (handles[i].device == device) handles[i].alive = false;
    for (int other = 0; other < 64; other++) peers[device][other] = false;
    device_free_all(device);
}

/* ---- capture ---- */

/* What no capture may do meanwhile, unless it is relaxed: a global one nobody in the process, one of a thread that thread. And nobody waits
   for a device with a stream that is being captured. */
bool capture_forbids(int device)
{
    bool forbids = false;
    for (stream *s = streams; s; s = s->next) {
        graph *g = s->capture;
        if (!g || (s->device != device && g->mode != 0 && (g->mode != 1 || !pthread_equal(g->thread, pthread_self())))) continue;
        forbids = g->broken = true;
    }
    return forbids;
}

static void after_set(uint32_t **list, uint32_t *count, const uint32_t *from, uint32_t n)
{
    *list = realloc(*list, (n + 1) * sizeof **list);
    if (n) memcpy(*list, from, n * sizeof **list);
    *count = n;
}

static int capture_add(stream *s, work w)
{
    graph *g = s->capture;
    g->nodes = realloc(g->nodes, (g->count + 1) * sizeof *g->nodes);
    node *n = &g->nodes[g->count];
    memset(n, 0, sizeof *n);
    n->w = w;
    n->w.lane = s->index;
    n->w.since = NULL;
    after_set(&n->after, &n->after_count, s->capture_after, s->capture_count);
    after_set(&s->capture_after, &s->capture_count, &g->count, 1);
    g->count++;
    return 0;
}

int stream_add(stream *s, work w)
{
    if (s->capture && s->capture->broken) { free_work(&w); return 901; }
    if (s->capture) return capture_add(s, w);
    stream *other = stream_default(s->device);
    if (s == other) {
        for (stream *t = streams; t; t = t->next)
            if (t->device == s->device && !t->nonblocking && t->capture) {
                report("the legacy stream waits for stream %u, which is being captured", t->index);
                t->capture->broken = true;
                return 906;
            }
        for (stream *t = streams; t; t = t->next)
            if (t->device == s->device && !t->nonblocking && t != s && !t->dead) run_stream(t);
    } else if (!s->nonblocking && other->head) run_stream(other);
    work *p = malloc(sizeof *p);
    *p = w;
    p->next = NULL;
    p->lane = s->index;
    if (sim.order) { p->since = malloc(sizeof(view)); *p->since = host_view; }
    if (s->tail) s->tail->next = p; else s->head = p;
    s->tail = p;
    s->added++;
    pthread_cond_broadcast(&changed);
    return 0;
}

int capture_begin(stream *s, int mode)
{
    if (s->capture || s == stream_default(s->device)) return 900;
    s->capture = calloc(1, sizeof(graph));
    s->capture->mode = mode;
    s->capture->thread = pthread_self();
    s->capture->origin = s;
    s->capture->device = s->device;
    s->capture_count = 0;
    return 0;
}

static void capture_leave(graph *g)
{
    for (stream *t = streams; t; t = t->next) if (t->capture == g) { t->capture = NULL; t->capture_count = 0; }
}
void capture_drop(stream *s)
{
    graph *g = s->capture;
    if (!g) return;
    capture_leave(g);
    graph_release(g);
}

int capture_end(stream *s, graph **out)
{
    *out = NULL;
    if (!s->capture) return 1;
    graph *g = s->capture;
    if (g->origin != s) return 903;
    if (g->mode != 2 && !pthread_equal(g->thread, pthread_self())) return 908;
    int error = g->broken ? 901 : 0;
    uint8_t *reached = calloc(g->count + 1, 1); /* nodes that the origin's end comes after */
    for (uint32_t i = 0; i < s->capture_count; i++) reached[s->capture_after[i]] = 1;
    for (uint32_t i = g->count; i-- > 0;)
        if (reached[i])
            for (uint32_t j = 0; j < g->nodes[i].after_count; j++) reached[g->nodes[i].after[j]] = 1;
    for (uint32_t i = 0; i < g->count && !error; i++)
        if (!reached[i]) {
            report("capture: a stream that joined it was not joined back before its end");
            error = 904;
        }
    free(reached);
    capture_leave(g);
    if (error) { graph_release(g); return error; }
    *out = g;
    return 0;
}

graph *graph_copy(const graph *g)
{
    graph *c = calloc(1, sizeof *c);
    c->device = g->device;
    c->count = g->count;
    c->nodes = calloc(g->count + 1, sizeof *c->nodes);
    for (uint32_t i = 0; i < g->count; i++) {
        c->nodes[i].w = g->nodes[i].w;
        after_set(&c->nodes[i].after, &c->nodes[i].after_count, g->nodes[i].after, g->nodes[i].after_count);
        if (g->nodes[i].w.params) {
            size_t size = g->nodes[i].w.k->params_bytes;
            c->nodes[i].w.params = malloc(size + 1);
            memcpy(c->nodes[i].w.params, g->nodes[i].w.params, size);
        }
        c->nodes[i].w.staged = NULL;
    }
    return c;
}

void graph_release(graph *g)
{
    for (uint32_t i = 0; i < g->count; i++) { free_work(&g->nodes[i].w); free(g->nodes[i].after); }
    free(g->nodes);
    free(g);
}

int event_record(event *e, stream *s)
{
    if (s->capture) {
        e->capture = s->capture;
        after_set(&e->after, &e->after_count, s->capture_after, s->capture_count);
        return 0;
    }
    e->capture = NULL;
    e->ticket = ticket_new();
    return stream_add(s, (work){ .kind = WORK_RECORD, .device = s->device, .ticket = e->ticket });
}

int event_wait(stream *s, event *e)
{
    static uint32_t waits;
    if (dropped("stream", "wait", ++waits)) return 0;
    if (e->capture) {
        bool live = false;
        for (stream *t = streams; t; t = t->next) live = live || t->capture == e->capture;
        if (!live) return 0; /* its capture has ended: nothing to wait for */
        if (s->capture && s->capture != e->capture) return 902;
        if (!s->capture) { if (s->head) return 905; s->capture = e->capture; s->capture_count = 0; }
        uint32_t n = s->capture_count + e->after_count, *all = malloc((n + 1) * sizeof *all);
        if (s->capture_count) memcpy(all, s->capture_after, s->capture_count * sizeof *all);
        if (e->after_count) memcpy(all + s->capture_count, e->after, e->after_count * sizeof *all);
        after_set(&s->capture_after, &s->capture_count, all, n);
        free(all);
        return 0;
    }
    if (s->capture) {
        if (e->ticket) {
            report("capture: waits for an event that was recorded outside of it");
            s->capture->broken = true;
            return 905;
        }
        return 0;
    }
    if (ticket_done(e->ticket)) {
        if (ticket_view(e->ticket)) view_join(&s->seen, ticket_view(e->ticket));
        return 0;
    }
    return stream_add(s, (work){ .kind = WORK_WAIT, .device = s->device, .ticket = e->ticket });
}

/* ---- for the stand-in NCCL ---- */

EXPORT int cudasim_call(void *handle, int (*call)(void *), void *user)
{
    sim_lock();
    int device;
    stream *s = handle_get(handle, HANDLE_STREAM, &device);
    int r = s ? stream_add(s, (work){ .kind = WORK_CALL, .device = device, .call = call, .user = user }) : 400;
    sim_unlock();
    return r;
}
EXPORT void *cudasim_memory(uint64_t address, uint64_t size, int write) /* call with the lock, from a work call */
{
    allocation *a = allocation_find(address);
    if (!a || a->freed || size > a->size - (address - a->base)) return NULL;
    if (write) init_set(a, address - a->base, size, true);
    else if (!init_all(a, address - a->base, size))
        report("a collective reads memory at 0x%llx that nobody wrote", (unsigned long long)address);
    return a->data + (address - a->base);
}
EXPORT void cudasim_lock(bool on) { if (on) sim_lock(); else { pthread_cond_broadcast(&changed); sim_unlock(); } }
EXPORT int cudasim_fault(const char *what) { sim_lock(); settings_read(); int r = fault_due(what); sim_unlock(); return r; }
