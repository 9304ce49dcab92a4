/* Allocations, and what a kernel may not do to memory: reach beyond one, misalign, read what nobody wrote, race.

   Races. Every warp has a clock, which barriers and bar.warp.sync advance; block.clock[w][v] is the last moment of warp v that
   warp w is ordered after. Each 4 bytes remember their last writer and readers as (thread, moment, bytes). An access conflicts
   with an earlier one of another thread, on the same bytes, one of them a write and not both atomic, if the moment is not among
   those that its warp is ordered after. Storing the value that is already there is no conflict. Between blocks there is no order
   within a launch, except through a fence and an atomic: see fence_publish. */
#include "cells.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

static allocation **allocations; /* by address; freed ones stay, so that a late use can be named */
static size_t allocation_count, allocation_room;
static uint64_t next_address[64], used[64];

allocation *allocation_find(uint64_t address)
{
    size_t low = 0, high = allocation_count;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (allocations[middle]->base <= address) low = middle + 1; else high = middle;
    }
    if (low == 0) return NULL;
    allocation *a = allocations[low - 1];
    return address - a->base < a->size ? a : NULL;
}

static void *pages(size_t size)
{
    void *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

uint64_t device_alloc(int device, uint64_t size, bool internal)
{
    if (size == 0) size = 1;
    if (size > sim.memory - used[device]) return 0;
    allocation *a = calloc(1, sizeof *a);
    a->size = size;
    a->device = device;
    a->internal = internal;
    a->cells_bytes = (size + 3) / 4 * sizeof(global_cell);
    a->data = pages(size + 64);
    a->init = pages(size / 8 + 64);
    a->cells = pages(a->cells_bytes);
    if (!a->data || !a->init || !a->cells) { free(a); return 0; }
    if (!next_address[device]) next_address[device] = DEVICE_BASE + ((uint64_t)device << 40) + 0x302000000ull;
    a->base = next_address[device];
    next_address[device] = (a->base + size + 511) / 512 * 512 + 512; /* with a gap, so that running over the end is seen */
    used[device] += size;
    if (allocation_count == allocation_room) {
        allocation_room = allocation_room ? allocation_room * 2 : 64;
        allocations = realloc(allocations, allocation_room * sizeof *allocations);
    }
    size_t at = allocation_count++;
    for (; at > 0 && allocations[at - 1]->base > a->base; at--) allocations[at] = allocations[at - 1];
    allocations[at] = a;
    return a->base;
}

int device_free(uint64_t address)
{
    allocation *a = allocation_find(address);
    if (!a || a->base != address || a->freed) return 1;
    a->freed = true;
    used[a->device] -= a->size;
    munmap(a->data, a->size + 64);
    munmap(a->init, a->size / 8 + 64);
    munmap(a->cells, a->cells_bytes);
    return 0;
}

uint64_t device_used(int device) { return used[device]; }

void device_free_all(int device)
{
    for (size_t i = 0; i < allocation_count; i++)
        if (allocations[i]->device == device && !allocations[i]->freed) device_free(allocations[i]->base);
}

int device_leaks(int device)
{
    int leaks = 0;
    for (size_t i = 0; i < allocation_count; i++) {
        allocation *a = allocations[i];
        if (a->device != device || a->freed || a->internal) continue;
        report("leak: %llu bytes at 0x%llx on device %d are still allocated when its context ends", (unsigned long long)a->size,
            (unsigned long long)a->base, device);
        leaks++;
    }
    return leaks;
}

void init_set(allocation *a, uint64_t offset, uint64_t size, bool value)
{
    uint64_t end = offset + size;
    for (; offset < end && offset & 7; offset++)
        a->init[offset >> 3] = (uint8_t)((a->init[offset >> 3] & ~(1u << (offset & 7))) | (unsigned)value << (offset & 7));
    if (end > offset) {
        memset(a->init + (offset >> 3), value ? 0xff : 0, (end - offset) >> 3);
        offset += (end - offset) & ~7ull;
    }
    for (; offset < end; offset++)
        a->init[offset >> 3] = (uint8_t)((a->init[offset >> 3] & ~(1u << (offset & 7))) | (unsigned)value << (offset & 7));
}

bool init_all(const allocation *a, uint64_t offset, uint64_t size)
{
    for (uint64_t i = offset; i < offset + size; i++) {
        if ((i & 7) == 0 && offset + size - i >= 8) { if (a->init[i >> 3] != 0xff) return false; i += 7; continue; }
        if (!(a->init[i >> 3] >> (i & 7) & 1)) return false;
    }
    return true;
}

static inline bool ordered(const warp *w, uint32_t cell, uint32_t thread)
{
    uint32_t other = CELL_THREAD(cell), v = other / LANES, moment = CELL_MOMENT(cell);
    if (other == thread) return true;
    return v == w->index ? moment < w->block->clock[v][v] : moment <= w->block->clock[w->index][v];
}

static void thread_name(const warp *w, uint32_t thread, char text[48])
{
    const uint32_t *n = w->block->launch->dim;
    snprintf(text, 48, "thread (%u,%u,%u)", thread % n[0], thread / n[0] % n[1], thread / n[0] / n[1]);
}

static void race(
    warp *w, const inst *in, int lane, const char *space, uint64_t address, bool write, bool earlier_write, uint32_t cell)
{
    char other[48];
    thread_name(w, CELL_THREAD(cell), other);
    kernel_fault(w, in, lane, 719, "race in %s memory at 0x%llx: %s what %s %s without a barrier between", space,
        (unsigned long long)address, write ? "writes" : "reads", other, earlier_write ? "wrote" : "read");
}

static inline uint32_t moment_now(warp *w, const inst *in, int lane)
{
    uint32_t now = w->block->clock[w->index][w->index];
    if (now > 0xffff) kernel_fault(w, in, lane, 719, "limit of the simulator: more than 65535 barriers in a block");
    return now;
}

uint8_t *shared_access(warp *w, const inst *in, int lane, uint64_t address, unsigned size, access_kind how, const void *value)
{
    block *b = w->block;
    uint64_t offset = address - SHARED_START;
    if (address < SHARED_START || offset >= b->shared_bytes || size > b->shared_bytes - offset)
        kernel_fault(w, in, lane, 700, "out of bounds: %s %u bytes at shared address 0x%llx; the block has 0x%x to 0x%x",
            how == ACCESS_READ ? "reads" : "writes", size, (unsigned long long)address, SHARED_START,
            SHARED_START + b->shared_bytes);
    if (address & (size - 1))
        kernel_fault(
            w, in, lane, 716, "misaligned: shared address 0x%llx is not a multiple of %u", (unsigned long long)address, size);
    uint8_t *p = b->shared + offset;
    uint32_t thread = w->index * LANES + (uint32_t)lane, now = moment_now(w, in, lane);
    for (unsigned done = 0; done < size; done += 4) {
        shared_cell *c = &b->cells[(offset + done) >> 2];
        uint32_t bytes = size >= 4 ? 15 : ((1u << size) - 1) << (offset & 3);
        if (c->stamp_init >> 4 != b->stamp) *c = (shared_cell){ .stamp_init = b->stamp << 4 };
        if (how != ACCESS_WRITE && (c->stamp_init & bytes) != bytes)
            kernel_fault(w, in, lane, 719, "uninitialised: reads %u bytes at shared address 0x%llx that nobody wrote", size,
                (unsigned long long)address);
        if (!sim.races) { if (how == ACCESS_WRITE) c->stamp_init |= bytes; continue; }
        if (c->write && CELL_BYTES(c->write) & bytes && !ordered(w, c->write, thread) &&
            !(how == ACCESS_ATOMIC && CELL_FLAG(c->write))) {
            unsigned part = size < 4 ? size : 4;
            if (how != ACCESS_WRITE || !value || (c->stamp_init & bytes) != bytes ||
                memcmp(p + done, (const uint8_t *)value + done, part) != 0)
                race(w, in, lane, "shared", address, how != ACCESS_READ, true, c->write);
        }
        if (how == ACCESS_READ) {
            uint32_t previous = c->read;
            bool several = previous && CELL_THREAD(previous) != thread && CELL_THREAD(previous) / LANES == w->index &&
                           CELL_MOMENT(previous) == now;
            if (previous && CELL_THREAD(previous) / LANES != w->index) c->read_other = previous;
            if (several) bytes |= CELL_BYTES(previous);
            c->read = CELL(thread, now, bytes,
                several || (previous && CELL_FLAG(previous) && CELL_MOMENT(previous) == now &&
                               CELL_THREAD(previous) / LANES == w->index));
        } else {
            if (how == ACCESS_WRITE) c->stamp_init |= bytes;
            uint32_t reads[2] = { c->read, c->read_other };
            for (int k = 0; k < 2; k++) if (reads[k] && CELL_BYTES(reads[k]) & bytes) {
                bool own = CELL_THREAD(reads[k]) == thread;
                if (own && CELL_FLAG(reads[k]) && CELL_MOMENT(reads[k]) == now)
                    own = false; /* other lanes of this warp have read it too */
                if (own) continue;
                if (CELL_THREAD(reads[k]) == thread || !ordered(w, reads[k], thread)) {
                    if (how == ACCESS_WRITE && value && memcmp(p + done, (const uint8_t *)value + done, size < 4 ? size : 4) == 0)
                        continue;
                    race(w, in, lane, "shared", address, true, false, reads[k]);
                }
            }
            if (c->write && CELL_MOMENT(c->write) == now && CELL_THREAD(c->write) == thread) bytes |= CELL_BYTES(c->write);
            c->write = CELL(thread, now, bytes, how == ACCESS_ATOMIC);
        }
    }
    return p;
}

void shared_undefine(warp *w, uint64_t address, unsigned size)
{
    block *b = w->block;
    for (unsigned done = 0; done < size; done += 4) b->cells[(address - SHARED_START + done) >> 2].stamp_init &= ~15u;
}

/* Between blocks. A fence publishes the moments that the fencing warp is ordered after; the block's next atomic makes them
   visible to every block whose own atomic comes later. Which address the atomics use is not looked at. */
void fence_publish(warp *w)
{
    if (!w->fence) w->fence = malloc(MAX_WARPS * sizeof *w->fence);
    memcpy(w->fence, w->block->clock[w->index], MAX_WARPS * sizeof *w->fence);
    w->fence_pending = true;
    w->block->clock[w->index][w->index]++;
    clock_changed(w);
}

void fence_atomic(warp *w)
{
    launch *l = w->block->launch;
    if (!l->published) return;
    uint64_t now = ++l->atomics;
    if (w->fence_pending) {
        for (int v = 0; v < MAX_WARPS; v++) {
            uint32_t *p = &l->published[(size_t)w->block->index * MAX_WARPS + (size_t)v];
            if (w->fence[v] > *p) *p = w->fence[v];
        }
        if (!l->published_at[w->block->index]) l->published_at[w->block->index] = now;
        w->fence_pending = false;
    }
    l->acquired_at[w->block->index] = now;
}

static bool ordered_blocks(const warp *w, uint32_t other, uint32_t cell)
{
    launch *l = w->block->launch;
    if (!l->published || !l->published_at[other]) return false;
    return CELL_MOMENT(cell) <= l->published[(size_t)other * MAX_WARPS + CELL_THREAD(cell) / LANES] &&
           l->published_at[other] < l->acquired_at[w->block->index];
}

static void race_blocks(warp *w, const inst *in, int lane, uint64_t address, bool write, bool earlier_write, uint32_t other)
{
    const uint32_t *g = w->block->launch->grid;
    kernel_fault(w, in, lane, 719, "race in global memory at 0x%llx: %s what block (%u,%u,%u) %s in the same launch",
        (unsigned long long)address, write ? "writes" : "reads", other % g[0], other / g[0] % g[1], other / g[0] / g[1],
        earlier_write ? "wrote" : "read");
}

static void global_races(
    warp *w, const inst *in, int lane, allocation *a, uint64_t offset, unsigned size, access_kind how, const void *value)
{
    uint32_t launch = w->block->launch->id, me = w->block->index, thread = w->index * LANES + (uint32_t)lane,
             now = moment_now(w, in, lane);
    bool relaxed = in->op->detail & 2 && how != ACCESS_ATOMIC; /* volatile and .relaxed loads and stores synchronise by hand */
    for (unsigned done = 0; done < size; done += 4) {
        global_cell *c = &a->cells[(offset + done) >> 2];
        uint32_t bytes = size >= 4 ? 15 : ((1u << size) - 1) << (offset & 3);
        if (c->launch != launch) {
            const view *seen = w->block->launch->seen;
            if (seen && (how != ACCESS_READ || c->write) && !launch_ordered(seen, c->launch))
                kernel_fault(w, in, lane, 719, "race between streams at 0x%llx: %s what %s %s, and nothing orders them",
                    (unsigned long long)(a->base + offset), how == ACCESS_READ ? "reads" : "writes", launch_name(c->launch),
                    c->write ? "wrote" : "read");
            *c = (global_cell){ .launch = launch };
        }
        bool atomic = how == ACCESS_ATOMIC || relaxed;
        if (c->write && CELL_BYTES(c->write) & bytes && !(atomic && CELL_FLAG(c->write))) {
            bool here = c->writer_block == me;
            if (in->op->detail & 1 && how == ACCESS_READ)
                kernel_fault(w, in, lane, 719, "reads 0x%llx as constant (.nc), which this launch has written",
                    (unsigned long long)(a->base + offset));
            if (!(here ? ordered(w, c->write, thread) : ordered_blocks(w, c->writer_block, c->write)) &&
                (how != ACCESS_WRITE ||
                    memcmp(a->data + offset + done, (const uint8_t *)value + done, size < 4 ? size : 4) != 0)) {
                if (here) race(w, in, lane, "global", a->base + offset, how != ACCESS_READ, true, c->write);
                race_blocks(w, in, lane, a->base + offset, how != ACCESS_READ, true, c->writer_block);
            }
        }
        if (how == ACCESS_READ) {
            if (relaxed) continue;
            if (c->read && c->reader_block != me) c->reader_block = MANY_BLOCKS;
            else {
                bool several = c->read && CELL_THREAD(c->read) != thread;
                c->reader_block = me;
                c->read = CELL(thread, now, bytes | (c->read ? CELL_BYTES(c->read) : 0), several);
            }
            continue;
        }
        if (c->read && CELL_BYTES(c->read) & bytes &&
            (!value || memcmp(a->data + offset + done, (const uint8_t *)value + done, size < 4 ? size : 4) != 0)) {
            if (c->reader_block == MANY_BLOCKS) {
                if (!w->block->launch->published) race_blocks(w, in, lane, a->base + offset, true, false, me);
            } else if (c->reader_block != me) {
                if (!ordered_blocks(w, c->reader_block, c->read))
                    race_blocks(w, in, lane, a->base + offset, true, false, c->reader_block);
            } else if (!ordered(w, c->read, thread)) race(w, in, lane, "global", a->base + offset, true, false, c->read);
        }
        if (c->write && c->writer_block == me && CELL_MOMENT(c->write) == now && CELL_THREAD(c->write) == thread)
            bytes |= CELL_BYTES(c->write);
        c->writer_block = me;
        c->write = CELL(thread, now, bytes, atomic);
    }
}

uint8_t *global_access(warp *w, const inst *in, int lane, uint64_t address, unsigned size, access_kind how, const void *value)
{
    launch *l = w->block->launch;
    allocation *a = l->cached;
    if (!a || address - a->base >= a->size) {
        a = allocation_find(address);
        if (!a) {
            allocation *before = NULL;
            for (uint64_t back = 1; back <= 4096 && !before; back *= 2) before = allocation_find(address - back);
            if (before)
                kernel_fault(w, in, lane, 700,
                    "out of bounds: %s %u bytes at 0x%llx, %llu bytes behind the %s of %llu bytes at 0x%llx",
                    how == ACCESS_READ ? "reads" : "writes", size, (unsigned long long)address,
                    (unsigned long long)(address - before->base - before->size),
                    before->freed ? "freed allocation" : "allocation", (unsigned long long)before->size,
                    (unsigned long long)before->base);
            kernel_fault(w, in, lane, 700, "out of bounds: %s %u bytes at 0x%llx, where nothing was ever allocated",
                how == ACCESS_READ ? "reads" : "writes", size, (unsigned long long)address);
        }
        if (a->freed)
            kernel_fault(w, in, lane, 700, "use after free: %s 0x%llx in the allocation of %llu bytes at 0x%llx",
                how == ACCESS_READ ? "reads" : "writes", (unsigned long long)address, (unsigned long long)a->size,
                (unsigned long long)a->base);
        if (a->device != l->device && !peer_enabled(l->device, a->device))
            kernel_fault(
                w, in, lane, 700, "touches memory of device %d from device %d without peer access", a->device, l->device);
        l->cached = a;
    }
    uint64_t offset = address - a->base;
    if (address & (size - 1))
        kernel_fault(w, in, lane, 716, "misaligned: address 0x%llx is not a multiple of %u", (unsigned long long)address, size);
    if (size > a->size - offset)
        kernel_fault(w, in, lane, 700,
            "out of bounds: %s %u bytes at 0x%llx, %llu bytes before the end of the allocation of %llu bytes at 0x%llx",
            how == ACCESS_READ ? "reads" : "writes", size, (unsigned long long)address, (unsigned long long)(a->size - offset),
            (unsigned long long)a->size, (unsigned long long)a->base);
    /* an access is aligned to its size, so that its bits lie within whole bytes or one */
    uint8_t *bits = a->init + (offset >> 3);
    uint32_t field = size >= 8 ? 0xff : ((1u << size) - 1) << (offset & 7);
    for (unsigned k = 0; k < (size + 7) / 8; k++) {
        if (how == ACCESS_WRITE) bits[k] |= (uint8_t)field;
        else if ((bits[k] & field) != field)
            kernel_fault(w, in, lane, 719,
                "uninitialised: reads %u bytes at 0x%llx (offset %llu of the allocation at 0x%llx) that nobody wrote", size,
                (unsigned long long)address, (unsigned long long)offset, (unsigned long long)a->base);
    }
    if (sim.races) global_races(w, in, lane, a, offset, size, how, value);
    return a->data + offset;
}

uint8_t *local_access(warp *w, const inst *in, int lane, uint64_t address, unsigned size, access_kind how, const void *value)
{
    (void)value;
    uint32_t room = w->block->launch->k->local_bytes;
    uint64_t offset = address - LOCAL_START;
    if (address < LOCAL_START || offset >= room || size > room - offset)
        kernel_fault(w, in, lane, 700, "out of bounds: %s %u bytes at local address 0x%llx; the thread has 0x%x to 0x%x",
            how == ACCESS_READ ? "reads" : "writes", size, (unsigned long long)address, LOCAL_START, LOCAL_START + room);
    if (address & (size - 1))
        kernel_fault(
            w, in, lane, 716, "misaligned: local address 0x%llx is not a multiple of %u", (unsigned long long)address, size);
    uint8_t *init = w->local_init + (size_t)lane * room + offset;
    if (how == ACCESS_WRITE) memset(init, 1, size);
    else
        for (unsigned k = 0; k < size; k++)
            if (!init[k])
                kernel_fault(w, in, lane, 719, "uninitialised: reads %u bytes at local address 0x%llx that nobody wrote", size,
                    (unsigned long long)address);
    return w->local + (size_t)lane * room + offset;
}

uint8_t *memory_access(
    warp *w, const inst *in, int space, int lane, uint64_t address, unsigned size, access_kind how, const void *value)
{
    switch (space) {
    case SPACE_SHARED: return shared_access(w, in, lane, address, size, how, value);
    case SPACE_LOCAL: return local_access(w, in, lane, address, size, how, value);
    case SPACE_GENERIC:
        if (address >> 52 == SHARED_WINDOW >> 52) return shared_access(w, in, lane, address - SHARED_WINDOW, size, how, value);
        if (address >> 52 == LOCAL_WINDOW >> 52) return local_access(w, in, lane, address - LOCAL_WINDOW, size, how, value);
        break;
    default: break;
    }
    return global_access(w, in, lane, address, size, how, value);
}
