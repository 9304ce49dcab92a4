/* How memory.c keeps earlier accesses, and the quick way past its checks: what is plainly right is answered here, all else
   (NULL) goes to memory.c, which knows the rules and finds the words. */
#ifndef CUDASIM_CELLS_H
#define CUDASIM_CELLS_H
#include "cudasim.h"

/* An access as a cell keeps it: bit 31 exists, 30 atomic (or several readers), 26-29 bytes, 10-25 moment, 0-9 thread */
#define CELL(thread, moment, bytes, flag) (1u << 31 | (uint32_t)(flag) << 30 | (bytes) << 26 | (moment) << 10 | (thread))
#define CELL_THREAD(c) ((c) & 1023)
#define CELL_MOMENT(c) ((c) >> 10 & 0xffff)
#define CELL_BYTES(c) ((c) >> 26 & 15)
#define CELL_FLAG(c) ((c) >> 30 & 1)
#define MANY_BLOCKS ~0u

/* w->floor: accesses up to this moment, of any warp, come before whatever w does now. */
static inline void clock_changed(warp *w)
{
    const uint32_t *clock = w->block->clock[w->index];
    uint32_t floor = clock[w->index] - 1;
    for (uint32_t v = 0; v < w->block->warp_count; v++) if (v != w->index && clock[v] < floor) floor = clock[v];
    w->floor = floor;
    w->now = clock[w->index];
}

static inline bool settled(const warp *w, uint32_t cell)
{
    return CELL_MOMENT(cell) <= w->floor;
} /* also true of an empty cell */

/* A warp's read of size 4, 8 or 16 bytes a lane: fills p of the lanes that are plainly right and returns their mask. What does
   not change stands before the loop: the stores into cells would make the compiler load it again and again. */
static inline __attribute__((always_inline)) uint32_t shared_read_quick(
    warp *w, uint32_t mask, const uint64_t address[LANES], unsigned size, uint8_t *p[LANES])
{
    block *b = w->block;
    uint8_t *const shared = b->shared;
    shared_cell *const cells = b->cells;
    const uint32_t good = b->stamp << 4 | 15, floor = w->floor, now = w->now, index = w->index;
    const uint64_t room = b->shared_bytes;
    uint64_t before = 0;
    uint32_t done = 0;
    if (now > 0xffff) return 0;
    for (uint32_t i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        uint64_t offset = address[i] - SHARED_START;
        if (offset >= room || size > room - offset || address[i] & (size - 1)) continue;
        shared_cell *c = &cells[offset >> 2];
        if (address[i] == before) { /* as the lane before */
            for (unsigned k = 0; k < size / 4; k++) c[k].read |= 1u << 30;
            p[i] = shared + offset;
            done |= 1u << i;
            continue;
        }
        bool right = true;
        for (unsigned k = 0; k < size / 4; k++) right &= c[k].stamp_init == good && CELL_MOMENT(c[k].write) <= floor;
        if (!right) continue;
        for (unsigned k = 0; k < size / 4; k++) {
            uint32_t previous = c[k].read, several = 0;
            if (previous) {
                if (CELL_THREAD(previous) / LANES != index) c[k].read_other = previous;
                else
                    several = CELL_MOMENT(previous) == now && (CELL_FLAG(previous) || CELL_THREAD(previous) != index * LANES + i);
            }
            c[k].read = CELL(index * LANES + i, now, 15u, several);
        }
        before = address[i];
        p[i] = shared + offset;
        done |= 1u << i;
    }
    return done;
}

static inline uint8_t *shared_write_quick(warp *w, uint32_t lane, uint64_t address, unsigned size)
{
    block *b = w->block;
    uint64_t offset = address - SHARED_START;
    if (offset >= b->shared_bytes || size > b->shared_bytes - offset || address & (size - 1) || w->now > 0xffff) return NULL;
    uint32_t thread = w->index * LANES + lane, good = b->stamp << 4 | 15;
    shared_cell *c = &b->cells[offset >> 2];
    for (unsigned k = 0; k < size / 4; k++)
        if (c[k].stamp_init >> 4 == b->stamp && !(settled(w, c[k].write) && settled(w, c[k].read) && settled(w, c[k].read_other)))
            return NULL;
    for (unsigned k = 0; k < size / 4; k++) c[k] = (shared_cell){ .stamp_init = good, .write = CELL(thread, w->now, 15u, 0) };
    return b->shared + offset;
}

static inline __attribute__((always_inline)) uint32_t global_read_quick(
    warp *w, uint32_t mask, const uint64_t address[LANES], unsigned size, bool relaxed, uint8_t *p[LANES])
{
    launch *l = w->block->launch;
    allocation *a = l->cached;
    if (!a || w->now > 0xffff) return 0;
    uint8_t *const data = a->data;
    const uint8_t *const init = a->init;
    global_cell *const cells = a->cells;
    const uint64_t base = a->base, room = a->size;
    const uint32_t id = l->id, me = w->block->index, now = w->now, first = w->index * LANES;
    const bool races = sim.races;
    const view *const seen = l->seen;
    uint32_t done = 0;
    for (uint32_t i = 0; i < LANES; i++) {
        if (!(mask >> i & 1)) continue;
        uint64_t offset = address[i] - base;
        if (offset >= room || size > room - offset || address[i] & (size - 1)) continue;
        const uint8_t *bits = init + (offset >> 3);
        if (size == 4 ? (bits[0] >> (offset & 4) & 15) != 15 : size == 8 ? bits[0] != 0xff : (bits[0] & bits[1]) != 0xff)
            continue;
        bool right = true;
        for (unsigned k = 0; races && k < size / 4; k++) {
            global_cell *c = &cells[(offset >> 2) + k];
            if (c->launch != id && seen && c->write && !launch_ordered(seen, c->launch)) { right = false; break; }
            if (c->launch != id)
                *c = (global_cell){ .launch = id, .reader_block = me, .read = relaxed ? 0 : CELL(first + i, now, 15u, 0) };
            else if (c->write) { right = false; break; }
            else if (relaxed) continue;
            else if (c->read && c->reader_block != me) c->reader_block = MANY_BLOCKS;
            else {
                c->reader_block = me;
                c->read = CELL(first + i, now, 15u, c->read && CELL_THREAD(c->read) != first + i);
            }
        }
        if (!right) continue;
        p[i] = data + offset;
        done |= 1u << i;
    }
    return done;
}

static inline uint8_t *global_write_quick(warp *w, uint32_t lane, uint64_t address, unsigned size)
{
    launch *l = w->block->launch;
    allocation *a = l->cached;
    if (!a) return NULL;
    uint64_t offset = address - a->base;
    if (offset >= a->size || size > a->size - offset || address & (size - 1) || w->now > 0xffff) return NULL;
    uint32_t thread = w->index * LANES + lane;
    global_cell *c = &a->cells[offset >> 2];
    if (sim.races) {
        for (unsigned k = 0; l->seen && k < size / 4; k++)
            if (c[k].launch != l->id && !launch_ordered(l->seen, c[k].launch)) return NULL;
        for (unsigned k = 0; k < size / 4; k++) if (c[k].launch == l->id) { /* its own earlier accesses do not matter */
            uint32_t me = w->block->index;
            if (c[k].write && (c[k].writer_block != me || CELL_THREAD(c[k].write) != thread)) return NULL;
            if (c[k].read && (c[k].reader_block != me || CELL_THREAD(c[k].read) != thread || CELL_FLAG(c[k].read))) return NULL;
        }
        for (unsigned k = 0; k < size / 4; k++)
            c[k] = (global_cell){ .launch = l->id, .writer_block = w->block->index, .write = CELL(thread, w->now, 15u, 0) };
    }
    uint8_t *bits = a->init + (offset >> 3);
    if (size == 4) bits[0] |= (uint8_t)(15u << (offset & 4)); else { bits[0] = 0xff; if (size == 16) bits[1] = 0xff; }
    return a->data + offset;
}
#endif
