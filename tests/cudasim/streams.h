/* What driver.c and streams.c share: work that waits in streams or graphs, and the handles that programs hold. */
#ifndef CUDASIM_STREAMS_H
#define CUDASIM_STREAMS_H
#include "cudasim.h"
#include <pthread.h>

typedef enum { WORK_KERNEL, WORK_COPY, WORK_SET, WORK_RECORD, WORK_WAIT, WORK_CALL, WORK_GRAPH } work_kind;

typedef struct work {
    work_kind kind;
    int device;
    kernel *k; uint32_t grid[3], dim[3], dynamic_shared; uint8_t *params;  /* WORK_KERNEL; the parameters are a copy */
    uint64_t to, from, size;
    uint8_t *staged; /* WORK_COPY: device addresses or host pointers; staged: pageable memory, read at the call */
    uint32_t value, width;                                                 /* WORK_SET: size elements of width bytes */
    uint64_t ticket;                                                       /* WORK_RECORD, WORK_WAIT */
    int (*call)(void *);
    void *user; /* WORK_CALL: 0 done, 1 not yet (it waits for another device) */
    struct graph *graph; uint8_t *done; view *views;                       /* WORK_GRAPH: by node */
    view *since;                                                           /* what the host knew to be done at the call */
    uint32_t lane;                                                         /* index of the stream that it was put into */
    struct work *next;
} work;

typedef struct { work w; uint32_t *after, after_count; } node;
typedef struct graph {
    node *nodes;
    uint32_t count;
    struct stream *origin;
    bool broken;
    int device, users, mode;            /* of the capture: 0 global, 1 of this thread, 2 relaxed */
    pthread_t thread;                   /* that began it */
} graph;

typedef struct stream {
    int device;
    bool nonblocking, dead;
    work *head, *tail;
    uint32_t index;
    view seen;                          /* what its next work comes after */
    uint64_t added, finished;
    graph *capture;                     /* being captured into this graph, after these nodes */
    uint32_t *capture_after, capture_count;
    struct stream *next;
} stream;

typedef struct { uint64_t ticket; bool timed; int device; graph *capture; uint32_t *after, after_count; } event;

typedef enum {
    HANDLE_STREAM = 1,
    HANDLE_EVENT,
    HANDLE_MODULE,
    HANDLE_FUNCTION,
    HANDLE_GRAPH,
    HANDLE_EXEC,
    HANDLE_CONTEXT
} handle_kind;
void *handle_new(handle_kind, void *object, int device);
void *handle_get(void *handle, handle_kind, int *device);   /* NULL: of another kind, ended, or never given out */
void handle_end(void *handle);
void context_end(int device);           /* everything of the device: work, handles, memory */
uint32_t handles_alive(handle_kind, int device);

extern int device_error[64];            /* sticky: what a kernel did wrong, or 46 for a lost device */
stream *stream_new(int device, bool nonblocking);
stream *stream_default(int device);
int stream_add(stream *, work);         /* to the queue, or to the graph that is being captured */
int run_stream(stream *);               /* until what was added so far is done */
int run_ticket(uint64_t ticket);
int run_device(int device);
void run_some(void);                    /* a step somewhere: what a program that polls relies on */
uint64_t ticket_new(void);
bool ticket_done(uint64_t ticket);
void host_after(uint64_t ticket);       /* the host has seen that it is done */
double ticket_time(uint64_t ticket);
int capture_begin(stream *, int mode);
int capture_end(stream *, graph **);
void capture_drop(stream *);            /* without a graph */
bool capture_forbids(int device);       /* a call that a capture does not see; of a device: one that waits for all of it. Breaks the capture */
graph *graph_copy(const graph *);
void graph_release(graph *);
int event_record(event *, stream *);
int event_wait(stream *, event *);
void peer_set(int from, int to, bool on);
bool pinned(const void *p, uint64_t size);
void pinned_add(void *p, uint64_t size);
bool pinned_remove(void *p);
#endif
