/* What comes after what, across streams (CUDASIM_ORDER=1). Work that touches what other work wrote, or writes what other work
   read, must be ordered after it by its stream, an event, a graph's edge or the host's waiting; otherwise it is reported,
   whatever the schedule happened to be.

   Every stream has a counter; a view holds, for each of them, up to where its work is known to be done. Nodes of a graph count
   for the stream they were captured in. Streams beyond MAX_VIEW share counters, several host threads share a view, all
   collectives count as one order, and of several readers the last is remembered: some races are missed then, none invented. */
#include "streams.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint32_t counts[MAX_VIEW];
static struct { uint32_t stream, count; char name[48]; } *past; /* by launch number */
static uint32_t past_count, past_room;
view host_view;

void view_join(view *to, const view *from)
{
    for (int i = 0; i < MAX_VIEW; i++) if (from->at[i] > to->at[i]) to->at[i] = from->at[i];
}

/* New work in a stream, seen from v: its number. */
uint32_t launch_new(view *v, uint32_t stream_index, const char *name)
{
    if (past_count + 1 >= past_room) {
        past_room = past_room ? 2 * past_room : 1024;
        past = realloc(past, past_room * sizeof *past);
    }
    uint32_t id = ++past_count, index = stream_index % MAX_VIEW;
    v->at[index] = ++counts[index];
    past[id].stream = index;
    past[id].count = counts[index];
    snprintf(past[id].name, sizeof past[id].name, "%s", name);
    return id;
}

bool launch_ordered(const view *v, uint32_t earlier)
{
    return earlier == 0 || v->at[past[earlier].stream] >= past[earlier].count;
}
const char *launch_name(uint32_t id) { return id ? past[id].name : "?"; }

/* A copy, or setting of memory, touches this range: false, and a report, if other work on it is not ordered before. */
bool range_ordered(const view *v, uint32_t id, allocation *a, uint64_t offset, uint64_t size, bool write)
{
    bool good = true;
    for (uint64_t i = offset / 4; i < (offset + size + 3) / 4; i++) {
        global_cell *c = &a->cells[i];
        if (good && c->launch != id && (write || c->write) && !launch_ordered(v, c->launch)) {
            report("race between streams at 0x%llx: %s %s what %s %s, and nothing orders them",
                (unsigned long long)(a->base + 4 * i), launch_name(id), write ? "writes" : "reads", launch_name(c->launch),
                c->write ? "wrote" : "read");
            good = false;
        }
        *c = (global_cell){ .launch = id, .write = write ? 1u << 31 : 0, .read = write ? 0 : 1u << 31 };
    }
    return good;
}
