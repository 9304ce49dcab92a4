/* Runs a kernel: blocks in an order shuffled by the seed, their warps interleaved by it, the lanes of a warp that stand at the
   lowest instruction together. So lanes that diverged meet again by themselves. What needs several lanes (shuffle, vote, matrix)
   waits until all of them have arrived. */
#include "cells.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WARP_RUNS, WARP_AT_BARRIER, WARP_DONE };

void kernel_fault(warp *w, const inst *in, int lane, int error, const char *format, ...)
{
    char text[512], source[40] = "";
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    block *b = w->block;
    const uint32_t *n = b->launch->dim;
    uint32_t thread = w->index * LANES + (uint32_t)lane;
    if (in->source_line) snprintf(source, sizeof source, ", source line %u", in->source_line);
    report("kernel %s, PTX line %u (%s)%s, block (%u,%u,%u), thread (%u,%u,%u): %s", b->launch->k->name, in->line, in->op->name,
        source, b->x, b->y, b->z, thread % n[0], thread / n[0] % n[1], thread / n[0] / n[1], text);
    b->launch->error = error;
    longjmp(b->launch->stop, 1);
}

static inline uint32_t predicate_at(const warp *w, uint32_t slot)
{
    uint32_t p;
    memcpy(&p, w->base[slot & 1] + (slot & ~1u), 4);
    return p;
}
static inline uint32_t value_at(const warp *w, const inst *in, int k, int lane)
{
    uint32_t v;
    memcpy(&v, w->base[in->o[k] & 1] + (in->o[k] & ~1u) + 4 * lane, 4);
    return v;
}

/* Makes the lanes at the lowest instruction the active ones. Those in `blocked` wait for others. */
static void regroup(warp *w)
{
    uint32_t ready = w->alive & ~w->blocked, lowest = ~0u, next = ~0u, active = 0;
    for (uint32_t m = ready; m; m &= m - 1) {
        uint32_t pc = w->lane_pc[__builtin_ctz(m)];
        if (pc < lowest) { next = lowest; lowest = pc; }
        else if (pc > lowest && pc < next) next = pc;
    }
    for (uint32_t m = ready; m; m &= m - 1) if (w->lane_pc[__builtin_ctz(m)] == lowest) active |= m & -m;
    w->pc = lowest;
    w->active = active;
    w->others_pc = next;
}

static void save(warp *w, uint32_t lanes, uint32_t pc)
{
    for (uint32_t m = lanes; m; m &= m - 1) w->lane_pc[__builtin_ctz(m)] = pc;
}

static void stuck(warp *w, const inst *in, uint32_t here, uint32_t wanted, const char *what) __attribute__((noreturn));
static void stuck(warp *w, const inst *in, uint32_t here, uint32_t wanted, const char *what)
{
    uint32_t missing = wanted & ~here;
    int lane = missing ? __builtin_ctz(missing) : 0;
    if (missing && !(w->alive >> lane & 1))
        kernel_fault(w, in, __builtin_ctz(here), 719, "%s: waits for lane %d, which has exited (here %08x, wanted %08x)", what,
            lane, here, wanted);
    kernel_fault(w, in, __builtin_ctz(here), 719,
        "%s: waits for lane %d, which never comes; it waits at PTX line %u (here %08x, wanted %08x)", what, lane,
        w->code[w->lane_pc[lane]].line, here, wanted);
}

/* The lanes `m` have arrived at an instruction of several lanes: lets those whose group is complete do it and waits with the
   rest. */
static void masked(warp *w, const inst *in, uint32_t m)
{
    uint32_t pc = w->pc, here = m, passed = w->active & ~m;
    for (uint32_t b = w->blocked; b; b &= b - 1) if (w->lane_pc[__builtin_ctz(b)] == pc) here |= b & -b;
    save(w, passed, pc + 1);
    uint32_t rest = here;
    while (rest) {
        int lane = __builtin_ctz(rest);
        uint32_t wanted = in->op->kind == KIND_WARP ? ALL : value_at(w, in, in->op->mask_at, lane), group = 0;
        for (uint32_t r = rest; r; r &= r - 1)
            if (in->op->kind == KIND_WARP || value_at(w, in, in->op->mask_at, __builtin_ctz(r)) == wanted) group |= r & -r;
        rest &= ~group;
        if (group & ~wanted) {
            int extra = __builtin_ctz(group & ~wanted);
            kernel_fault(w, in, extra, 719, "executed by lane %d, which its mask %08x does not name", extra, wanted);
        }
        if (wanted & ~w->alive) stuck(w, in, group, wanted, "mask");
        if (group == wanted) {
            in->run(w, in, group);
            save(w, group, pc + 1);
            w->blocked &= ~group;
        } else {
            save(w, group, pc);
            w->blocked |= group;
        }
    }
    regroup(w);
    if (!w->active && w->blocked)
        stuck(w, in, w->blocked & here ? w->blocked & here : w->blocked,
            in->op->kind == KIND_WARP ? ALL : value_at(w, in, in->op->mask_at, __builtin_ctz(here)), "deadlock");
}

/* A barrier: complete when every lane that the warp began with is at it; a warp may be gone, but not a part of one. The block's
   loop releases it. */
static void barrier(warp *w, const inst *in, uint32_t m)
{
    uint32_t pc = w->pc, here = m, passed = w->active & ~m;
    for (uint32_t b = w->blocked; b; b &= b - 1) if (w->lane_pc[__builtin_ctz(b)] == pc) here |= b & -b;
    save(w, passed, pc + 1);
    save(w, here, pc);
    w->blocked |= here;
    uint32_t at = in->op->count;
    uint32_t id = value_at(w, in, (int)at, __builtin_ctz(here));
    if (id > 15) kernel_fault(w, in, __builtin_ctz(here), 719, "barrier %u: 0 to 15 exist", id);
    if (here != w->born) {
        regroup(w);
        if (!w->active) stuck(w, in, here, w->born, "divergent barrier");
        return;
    }
    uint32_t detail = in->op->detail;
    w->barrier = id;
    w->barrier_inst = in;
    w->barrier_threads = in->operands > 1 + at && in->o[1 + at] != ~0u && detail == 0
                             ? value_at(w, in, 1 + (int)at, __builtin_ctz(here))
                             : 0;
    if (w->barrier_threads % LANES)
        kernel_fault(
            w, in, __builtin_ctz(here), 719, "barrier for %u threads: a multiple of %d is wanted", w->barrier_threads, LANES);
    w->barrier_predicate = detail >= 2 ? predicate_at(w, in->o[2]) ^ (in->negated >> 2 & 1 ? ALL : 0) : 0;
    w->state = WARP_AT_BARRIER;
}

static void leave_barrier(warp *w)
{
    save(w, w->alive, w->pc + 1);
    w->blocked = 0;
    w->state = WARP_RUNS;
    regroup(w);
}

/* Releases a barrier that is complete. False: none is. */
static bool release_barriers(block *b)
{
    uint32_t living = 0;
    for (uint32_t i = 0; i < b->warp_count; i++) living += (uint32_t)__builtin_popcount(b->warps[i].alive);
    for (uint32_t id = 0; id < 16; id++) {
        uint32_t arrived = 0, wanted = 0;
        bool whole = false, any = false;
        for (uint32_t i = 0; i < b->warp_count; i++) {
            warp *w = &b->warps[i];
            if (w->state != WARP_AT_BARRIER || w->barrier != id) continue;
            any = true;
            arrived += w->barrier_threads ? LANES : (uint32_t)__builtin_popcount(w->alive);
            if (w->barrier_threads) wanted = w->barrier_threads; else whole = true;
        }
        if (!any || (whole ? arrived < living : arrived < wanted)) continue;
        uint32_t joined[MAX_WARPS] = { 0 }, count = 0, all = ALL, some = 0;
        for (uint32_t i = 0; i < b->warp_count; i++) {
            warp *w = &b->warps[i];
            if (w->state != WARP_AT_BARRIER || w->barrier != id) continue;
            for (uint32_t v = 0; v < b->warp_count; v++) if (b->clock[i][v] > joined[v]) joined[v] = b->clock[i][v];
            count += (uint32_t)__builtin_popcount(w->barrier_predicate & w->alive);
            all &= w->barrier_predicate | ~w->alive;
            some |= w->barrier_predicate & w->alive;
        }
        for (uint32_t i = 0; i < b->warp_count; i++) {
            warp *w = &b->warps[i];
            if (w->state != WARP_AT_BARRIER || w->barrier != id) continue;
            memcpy(b->clock[i], joined, sizeof joined);
            b->clock[i][i]++;
            clock_changed(w);
            const inst *in = w->barrier_inst;
            if (in->op->detail >= 2) {
                uint8_t *d = w->base[0] + in->o[0];
                uint32_t value = in->op->detail == 2 ? count : (in->op->detail == 3 ? all == ALL : some != 0) ? ALL : 0;
                if (in->op->detail == 2) {
                    for (int lane = 0; lane < LANES; lane++)
                        if (w->alive >> lane & 1) memcpy(d + 4 * lane, &value, 4);
                } else {
                    uint32_t old;
                    memcpy(&old, d, 4);
                    value = (old & ~w->alive) | (value & w->alive);
                    memcpy(d, &value, 4);
                }
            }
            leave_barrier(w);
        }
        return true;
    }
    return false;
}

static void branch(warp *w, uint32_t taken, uint32_t target)
{
    if (taken == w->active) {
        w->pc = target;
        if (target > w->others_pc) { save(w, taken, target); regroup(w); }
        return;
    }
    save(w, w->active & ~taken, w->pc + 1);
    save(w, taken, target);
    regroup(w);
}

static void warp_run(warp *w, uint32_t quantum)
{
    const inst *code = w->code;
    uint64_t lanes = 0, start = w->steps;
    while (quantum-- > 0 && w->state == WARP_RUNS) {
        const inst *in = &code[w->pc];
        uint32_t m = w->active;
        if (in->guard != ~0u) { uint32_t p = predicate_at(w, in->guard); m &= in->guard_not ? ~p : p; }
        w->steps++;
        lanes += (uint32_t)__builtin_popcount(m);
        switch (in->op->kind) {
        case KIND_PLAIN:
            if (m) in->run(w, in, m);
            w->pc++;
            if (w->pc >= w->others_pc) { save(w, w->active, w->pc); regroup(w); }
            break;
        case KIND_BRANCH:
            if (m) { branch(w, m, (uint32_t)in->target); break; }
            w->pc++;
            if (w->pc >= w->others_pc) { save(w, w->active, w->pc); regroup(w); }
            break;
        case KIND_BRANCH_INDEXED: {
            const int32_t *targets = w->block->launch->k->branch_targets + in->target;
            save(w, w->active & ~m, w->pc + 1);
            for (uint32_t r = m; r; r &= r - 1) {
                int lane = __builtin_ctz(r);
                uint32_t index = value_at(w, in, 0, lane);
                if (index >= (uint32_t)targets[0])
                    kernel_fault(w, in, lane, 719, "branches to target %u of %d", index, targets[0]);
                w->lane_pc[lane] = (uint32_t)targets[1 + index];
            }
            regroup(w);
            break;
        }
        case KIND_EXIT:
            save(w, w->active & ~m, w->pc + 1);
            w->alive &= ~m;
            regroup(w);
            if (!w->alive) w->state = WARP_DONE;
            else if (!w->active) { /* lanes are left that wait for those which went */
                int lane = __builtin_ctz(w->blocked);
                const inst *at = &code[w->lane_pc[lane]];
                w->pc = w->lane_pc[lane];
                w->active = 0;
                if (at->op->kind == KIND_BARRIER) barrier(w, at, 0);
                else
                    stuck(
                        w, at, w->blocked, at->op->kind == KIND_WARP ? ALL : value_at(w, at, at->op->mask_at, lane), "deadlock");
            }
            break;
        case KIND_MASKED: case KIND_WARP:
            if (m) masked(w, in, m);
            else { w->pc++; if (w->pc >= w->others_pc) { save(w, w->active, w->pc); regroup(w); } }
            break;
        case KIND_BARRIER:
            if (m) barrier(w, in, m);
            else { w->pc++; if (w->pc >= w->others_pc) { save(w, w->active, w->pc); regroup(w); } }
            break;
        case KIND_TRAP:
            if (m) kernel_fault(w, in, __builtin_ctz(m), 719, "trap");
            w->pc++;
            if (w->pc >= w->others_pc) { save(w, w->active, w->pc); regroup(w); }
            break;
        }
    }
    stats.thread_instructions += lanes;
    stats.warp_instructions += w->steps - start;
    if (w->steps > w->block->launch->budget) {
        int lane = w->active ? __builtin_ctz(w->active) : 0;
        kernel_fault(w, &code[w->pc < w->block->launch->k->instructions ? w->pc : 0], lane, 702,
            "hangs: %llu instructions in one warp (CUDASIM_BUDGET sets the limit, in millions)", (unsigned long long)w->steps);
    }
}

static void set_register(warp *w, int which, uint64_t (*value)(const warp *, uint32_t thread))
{
    uint32_t slot = w->block->launch->k->slots[which];
    if (slot == ~0u) return;
    for (uint32_t i = 0; i < LANES; i++) {
        uint64_t v = value(w, w->index * LANES + i);
        if (which < SR_COUNT ? special_registers[which].bytes == 8 : which == SR_DYNAMIC_BASE_64)
            memcpy(w->base[0] + slot + 8 * i, &v, 8);
        else memcpy(w->base[0] + slot + 4 * i, &v, 4);
    }
}
#define SPECIAL(name, expression) \
    static uint64_t name(const warp *w, uint32_t thread) \
    { \
        (void)thread; \
        const block *b = w->block; \
        const launch *l = b->launch; \
        (void)l; \
        return (uint64_t)(expression); \
    }
SPECIAL(tid_x, thread % l->dim[0])
SPECIAL(tid_y, thread / l->dim[0] % l->dim[1]) SPECIAL(tid_z, thread / l->dim[0] / l->dim[1]) SPECIAL(ntid_x, l->dim[0])
    SPECIAL(ntid_y, l->dim[1]) SPECIAL(ntid_z, l->dim[2]) SPECIAL(ctaid_x, b->x) SPECIAL(ctaid_y, b->y) SPECIAL(ctaid_z, b->z)
        SPECIAL(nctaid_x, l->grid[0]) SPECIAL(nctaid_y, l->grid[1]) SPECIAL(nctaid_z, l->grid[2]) SPECIAL(laneid, thread % LANES)
            SPECIAL(warpid, w->index) SPECIAL(nwarpid, b->warp_count) SPECIAL(mask_eq, 1u << thread % LANES)
                SPECIAL(mask_lt, (1u << thread % LANES) - 1) SPECIAL(mask_le, (2u << thread % LANES) - 1)
                    SPECIAL(mask_gt, ~((2u << thread % LANES) - 1)) SPECIAL(mask_ge, ~((1u << thread % LANES) - 1)) SPECIAL(
                        smid, b->index % (uint32_t)sim.processors) SPECIAL(nsmid, sim.processors) SPECIAL(clock_now, w->steps)
                        SPECIAL(dynamic_size, l->dynamic_shared) SPECIAL(total_size, b->shared_bytes) SPECIAL(dynamic_base,
                            SHARED_START + (l->k->shared_bytes + 15) / 16 * 16) static uint64_t (*const specials[])(const warp *,
                            uint32_t) = { tid_x, tid_y, tid_z, ntid_x, ntid_y, ntid_z, ctaid_x, ctaid_y, ctaid_z, nctaid_x,
                            nctaid_y, nctaid_z, laneid, warpid, nwarpid, mask_eq, mask_lt, mask_le, mask_gt, mask_ge, smid, nsmid,
                            clock_now, clock_now, clock_now, dynamic_size, total_size, dynamic_base, dynamic_base };

/* What the next launch may find as this one leaves it, as the next block does: a launch needs megabytes of registers, often for one short
   block. One launch runs at a time. */
enum { SHARED, CELLS, REGISTERS, LOCAL, ROOMS };
static struct { void *at; size_t size; } rooms[ROOMS];
static void *room(size_t size)
{
    void *p = aligned_alloc(64, (size + 127) / 64 * 64);
    if (p) memset(p, 0, (size + 127) / 64 * 64);
    return p;
}
static void *kept(int which, size_t size)
{
    if (size > rooms[which].size) {
        free(rooms[which].at);
        rooms[which].at = room(size);
        rooms[which].size = size;
    }
    return rooms[which].at;
}

/* One block from start to end. Its memory is kept for the next. */
static void block_run(block *b, uint32_t index)
{
    launch *l = b->launch;
    kernel *k = l->k;
    static uint32_t stamps;
    b->index = index;
    b->x = index % l->grid[0];
    b->y = index / l->grid[0] % l->grid[1];
    b->z = index / l->grid[0] / l->grid[1];
    b->stamp = ++stamps & 0x0fffffff;
    if (b->stamp == 0) { memset(b->cells, 0, rooms[CELLS].size); b->stamp = stamps = 1; }
    for (uint32_t i = 0; i < b->warp_count; i++) for (uint32_t v = 0; v < b->warp_count; v++) b->clock[i][v] = i == v;
    for (uint32_t i = 0; i < b->warp_count; i++) {
        warp *w = &b->warps[i];
        uint32_t left = b->threads - i * LANES;
        w->alive = w->active = w->born = left >= LANES ? ALL : (1u << left) - 1;
        w->pc = 0;
        w->others_pc = ~0u;
        w->blocked = w->carry = 0;
        w->steps = 0;
        w->state = WARP_RUNS;
        w->fence_pending = false;
        memset(w->copy_count, 0, sizeof w->copy_count);
        memset(w->copy_group, 0, sizeof w->copy_group);
        if (k->local_bytes) memset(w->local_init, 0, (size_t)k->local_bytes * LANES);
        clock_changed(w);
        for (int s = SR_CTAID_X; s <= SR_CTAID_Z; s++) set_register(w, s, specials[s]);
        set_register(w, SR_SMID, specials[SR_SMID]);
    }
    uint32_t done = 0;
    while (done < b->warp_count) {
        uint32_t ready[MAX_WARPS], n = 0;
        for (uint32_t i = 0; i < b->warp_count; i++) if (b->warps[i].state == WARP_RUNS) ready[n++] = i;
        if (n == 0) {
            if (release_barriers(b)) continue;
            for (uint32_t i = 0; i < b->warp_count; i++) {
                warp *w = &b->warps[i];
                if (w->state == WARP_AT_BARRIER)
                    kernel_fault(w, w->barrier_inst, __builtin_ctz(w->alive), 719,
                        "barrier %u never completes: the other warps of the block wait elsewhere or have too few threads",
                        w->barrier);
            }
        }
        warp *w = &b->warps[ready[random_below(n)]];
        warp_run(w, 64 + random_below(4096));
        if (w->state == WARP_DONE) done++;
        else if (w->state == WARP_AT_BARRIER && w->barrier_threads) release_barriers(b);
    }
}

int kernel_run(kernel *k, int device, const uint32_t grid[3], const uint32_t dim[3], uint32_t dynamic_shared,
    const uint8_t *params, uint32_t id, const view *seen)
{
    launch l = { .k = k,
        .device = device,
        .dynamic_shared = dynamic_shared,
        .params = params,
        .id = id,
        .seen = seen,
        .budget = (uint64_t)sim.budget_millions * 1000000 };
    memcpy(l.grid, grid, sizeof l.grid);
    memcpy(l.dim, dim, sizeof l.dim);
    uint64_t blocks = (uint64_t)grid[0] * grid[1] * grid[2];
    if (blocks > 0x7fffffff) {
        report("kernel %s: limit of the simulator: %llu blocks", k->name, (unsigned long long)blocks);
        return 719;
    }
    block *b = room(sizeof *b);
    b->launch = &l;
    b->threads = dim[0] * dim[1] * dim[2];
    b->warp_count = (b->threads + LANES - 1) / LANES;
    b->shared_bytes = dynamic_shared ? (k->shared_bytes + 15) / 16 * 16 + dynamic_shared : k->shared_bytes;
    b->shared = kept(SHARED, b->shared_bytes + 16);
    b->cells = kept(CELLS, (b->shared_bytes / 4 + 8) * sizeof *b->cells);
    uint8_t *registers = kept(REGISTERS, (size_t)k->registers_bytes * b->warp_count);
    uint8_t *local = kept(LOCAL, (size_t)k->local_bytes * LANES * b->warp_count * 2);
    for (uint32_t i = 0; i < b->warp_count; i++) {
        warp *w = &b->warps[i];
        w->block = b;
        w->index = i;
        w->code = k->code;
        w->base[0] = registers + (size_t)k->registers_bytes * i;
        w->base[1] = k->constants;
        w->local = local + (size_t)k->local_bytes * LANES * i * 2;
        w->local_init = w->local + (size_t)k->local_bytes * LANES;
    }
    for (uint32_t i = 0; i < b->warp_count; i++)
        for (int s = 0; s <= SR_DYNAMIC_BASE_32; s++) set_register(&b->warps[i], s, specials[s]);
    if (k->fences) {
        l.published = room((size_t)blocks * MAX_WARPS * sizeof *l.published);
        l.published_at = room((size_t)blocks * sizeof *l.published_at);
        l.acquired_at = room((size_t)blocks * sizeof *l.acquired_at);
    }
    uint32_t *order = malloc(blocks * sizeof *order);
    for (uint32_t i = 0; i < blocks; i++) {
        uint32_t j = random_below(i + 1);
        order[i] = order[j];
        order[j] = i;
    }
    stats.launches++;
    if (setjmp(l.stop) == 0) for (uint64_t i = 0; i < blocks; i++) block_run(b, order[i]);
    for (uint32_t i = 0; i < b->warp_count; i++) {
        for (int lane = 0; lane < LANES; lane++) free(b->warps[i].copies[lane]);
        free(b->warps[i].fence);
    }
    free(order);
    free(l.published);
    free(l.published_at);
    free(l.acquired_at);
    free(b);
    return l.error;
}
