/* What a step of data-parallel training takes, by docs/cost.md: bytes, latency, overlap. Seconds and bytes everywhere. */
#ifndef COST_H
#define COST_H

typedef struct cost_network { const char *name; double bandwidth, latency; } cost_network; /* of a device, in one direction; of a message */
typedef struct cost_step {
    double forward, backward, update; /* on one device */
    double bytes, first, bucket;      /* of gradients; of the first bucket; of the others */
    double overlap;                   /* 1: reductions run beside the backward pass; 0: they take its processor away */
} cost_step;

/* A ring: 2 (N - 1) messages one after the other, each of an Nth of the bytes. */
static inline double cost_ring(const cost_network *w, int n, double bytes) { return 2.0 * (n - 1) * (w->latency + bytes / n / w->bandwidth); }

/* dltrain_mpi.h: everybody sends to everybody, first the call, then parts, then sums. `message`: what the processor spends on each */
static inline double cost_direct(const cost_network *w, int n, double bytes, double message)
{
    return 3 * (w->latency + (n - 1) * message) + 2 * bytes * (n - 1) / n / w->bandwidth;
}

/* The step's time when a reduction of b bytes takes fixed + b * each. Gradients become complete evenly during the backward pass; a bucket
   starts when it is complete and the one before it is done. *exposed: what of it the backward pass does not hide. */
static inline double cost_of_step(const cost_step *s, double fixed, double each, double *exposed)
{
    double done = 0, at = 0; /* since the begin of the backward pass; bytes so far */
    for (int i = 0; at < s->bytes; i++) {
        double b = i ? s->bucket : s->first;
        if (at + b > s->bytes) b = s->bytes - at;
        at += b;
        double complete = s->backward * at / s->bytes * s->overlap;
        done = (done > complete ? done : complete) + fixed + b * each;
    }
    *exposed = done - s->backward * s->overlap;
    return s->forward + s->backward + *exposed + s->update;
}
#endif
