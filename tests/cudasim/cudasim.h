/* A simulated CUDA driver: proves GPU code on a machine that has no GPU. Test equipment; nothing outside tests/ depends on it.

   build/cudasim/libcuda.so.1 has the driver's symbols and executes, on the CPU, the PTX that the real NVRTC made. It is strict:
   an opcode, modifier, argument or flag that it does not know is an error with its PTX line, never ignored.
   tests/cudasim/build.sh makes it, with the NVRTC shim and the stand-in NCCL. To use them: LD_LIBRARY_PATH=build/cudasim PROGRAM.

       decode.c    PTX text to instructions           memory.c    allocations; bounds, alignment, uninitialised reads, races
       ops.c       what each opcode computes          streams.c   streams, events, graphs: run late, in random legal order
       exec.c      lanes, warps, barriers, blocks     driver.c    the driver's functions, strict about arguments
       order.c     what comes after what, if asked    nvrtc.c     the shim: forwards to NVRTC, keeps the PTX of each cubin
       faults.c    settings, planned faults, reports  nccl.c      the stand-in NCCL
       cublas.c    the stand-in cuBLAS
       selftest.c  planted bugs (bugs.cu) are caught, right kernels (kernels.cu) give the results of plain C

   What a kernel does wrong is written to stderr (and to the file CUDASIM_LOG) as
       cudasim: kernel NAME, PTX line N (opcode), block (x,y,z), thread (x,y,z): what was wrong
   and comes back from the next call as a sticky error, as on hardware. The settings, all environment variables, are listed in
   faults.c. Never shown this way: speed, what ptxas and the driver do, the memory order of hardware, the rounding inside tensor
   cores, real peer copies. */
#ifndef CUDASIM_H
#define CUDASIM_H

#include <setjmp.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))
#define LANES 32
#define MAX_WARPS 32
#define ALL 0xffffffffu

/* Addresses. A device's memory starts at DEVICE_BASE + (device << 40): no host accepts such an address, so touching one from C
   faults at once. Shared and local memory have windows of their own in the generic space; within its window neither starts at 0,
   so that a null pointer misses. */
#define DEVICE_BASE 0x00d0000000000000ull
#define SHARED_WINDOW 0x00e0000000000000ull
#define LOCAL_WINDOW 0x00f0000000000000ull
#define SHARED_START 1024u
#define LOCAL_START 256u

typedef struct warp warp;
typedef struct inst inst;
typedef void (*op_fn)(warp *, const inst *, uint32_t mask);

/* ---- instructions (decode.c makes them, ops.c and exec.c run them) ---- */

enum { SPACE_GENERIC, SPACE_GLOBAL, SPACE_SHARED, SPACE_LOCAL, SPACE_PARAM, SPACE_CONST };
enum { /* who runs an instruction: its own function, or the warp's loop in exec.c */
    KIND_PLAIN, KIND_BRANCH, KIND_BRANCH_INDEXED, KIND_EXIT, KIND_MASKED, KIND_WARP, KIND_BARRIER, KIND_TRAP
};

typedef struct { /* one accepted opcode string */
    const char *name;
    op_fn run;
    const char *operands; /* grammar at parse_operands in decode.c */
    uint8_t kind, space, size, count, is_signed; /* size and count: of memory operations, bytes an element and elements */
    uint8_t mask_at;                             /* the operand with the lanes' mask */
    uint32_t detail;
    bool contracts; /* float arithmetic without an explicit rounding */
} opcode;

struct inst {
    const opcode *op, *was; /* was: what CUDASIM_DROP took away */
    op_fn run;
    uint32_t o[20]; /* operands in order, vectors flattened: byte offset of a register, or of a constant (bit 0); ~0: absent */
    uint8_t bytes[20];    /* their register sizes */
    uint32_t negated;     /* bit k: predicate operand k is complemented */
    uint32_t guard;       /* ~0: none */
    bool guard_not;
    uint8_t operands;
    int64_t offset;       /* of the address operand, or the immediate of cp.async.wait_group */
    int32_t target;       /* of a branch: index of an instruction */
    uint32_t line, source_line;
};

typedef struct { char name[128]; uint32_t offset, size, align; } param;

typedef struct kernel {
    char *name;
    struct module *module;
    inst *code;
    uint32_t instructions, registers_bytes, constants_bytes, params_bytes, local_bytes, shared_bytes;
    uint8_t *constants;
    param *params;
    uint32_t param_count, max_threads, required_threads[3], max_dynamic_shared;
    bool fences;
    uint32_t registers;   /* that ptxas gave a thread; 0: not known, it was loaded as PTX */
    int32_t *branch_targets; /* of brx.idx: count, then that many indices */
    uint32_t slots[32];   /* where special registers live: SR_ names */
} kernel;

enum {
    SR_TID_X,
    SR_TID_Y,
    SR_TID_Z,
    SR_NTID_X,
    SR_NTID_Y,
    SR_NTID_Z,
    SR_CTAID_X,
    SR_CTAID_Y,
    SR_CTAID_Z,
    SR_NCTAID_X,
    SR_NCTAID_Y,
    SR_NCTAID_Z,
    SR_LANEID,
    SR_WARPID,
    SR_NWARPID,
    SR_LANEMASK_EQ,
    SR_LANEMASK_LT,
    SR_LANEMASK_LE,
    SR_LANEMASK_GT,
    SR_LANEMASK_GE,
    SR_SMID,
    SR_NSMID,
    SR_CLOCK,
    SR_CLOCK64,
    SR_GLOBALTIMER,
    SR_DYNAMIC_SMEM,
    SR_TOTAL_SMEM,
    SR_COUNT,
    SR_DYNAMIC_BASE_64 = SR_COUNT,
    SR_DYNAMIC_BASE_32
};
extern const struct special { const char *name; uint8_t bytes; } special_registers[SR_COUNT];

typedef struct global_variable { char *name; uint64_t address; uint32_t size; } global_variable;

typedef struct module {
    uint32_t magic;
    int device;
    char *text;
    uint32_t target; /* 80 of sm_80 */
    uint32_t shared_bytes; /* of shared variables that belong to no kernel */
    kernel *kernels;
    uint32_t kernel_count;
    global_variable *globals;
    uint32_t global_count;
    struct module *next;
} module;

const opcode *opcode_find(const char *name);                     /* ops.c */
/* NULL and a sentence with the PTX line on failure. cubin: the text stands for one, whose age does not matter to a driver. */
module *module_decode(int device, const char *text, bool cubin, char *error, size_t error_size);
void module_free(module *);

/* ---- order across streams (order.c) ---- */

#define MAX_VIEW 64
typedef struct { uint32_t at[MAX_VIEW]; } view; /* by stream: how far its work is known to be done */
extern view host_view;
void view_join(view *to, const view *from);
uint32_t launch_new(view *, uint32_t stream_index, const char *name);
bool launch_ordered(const view *, uint32_t earlier);
const char *launch_name(uint32_t id);

/* ---- memory (memory.c) ---- */

typedef struct { uint32_t launch, writer_block, write, reader_block, read; } global_cell; /* races on 4 bytes: see memory.c */
typedef struct { uint32_t stamp_init, write, read, read_other; } shared_cell;

typedef struct allocation {
    uint64_t base, size;
    uint8_t *data, *init;  /* init: one bit a byte */
    global_cell *cells;
    size_t cells_bytes;
    int device;
    bool freed;
    bool internal;         /* a module's variables: not a leak */
} allocation;

allocation *allocation_find(uint64_t address);                   /* live or freed; NULL if the address was never given out */
uint64_t device_alloc(int device, uint64_t size, bool internal); /* 0: does not fit */
int device_free(uint64_t address);
void device_free_all(int device);
uint64_t device_used(int device);
int device_leaks(int device);                                    /* reports each live allocation */
bool range_ordered(const view *, uint32_t id, allocation *, uint64_t offset, uint64_t size, bool write); /* order.c */
void init_set(allocation *, uint64_t offset, uint64_t size, bool value);
bool init_all(const allocation *, uint64_t offset, uint64_t size);

/* One lane's access in a kernel: a host pointer to `size` bytes, or no return (kernel_fault). */
typedef enum { ACCESS_READ, ACCESS_WRITE, ACCESS_ATOMIC } access_kind;
uint8_t *global_access(warp *, const inst *, int lane, uint64_t address, unsigned size, access_kind, const void *value);
uint8_t *shared_access(warp *, const inst *, int lane, uint64_t address, unsigned size, access_kind, const void *value);
uint8_t *local_access(warp *, const inst *, int lane, uint64_t address, unsigned size, access_kind, const void *value);
uint8_t *memory_access(
    warp *, const inst *, int space, int lane, uint64_t address, unsigned size, access_kind, const void *value);
void shared_undefine(warp *, uint64_t address, unsigned size); /* until a pending cp.async arrives */
void fence_publish(warp *);
void fence_atomic(warp *);

/* ---- execution (exec.c) ---- */

typedef struct {
    uint32_t shared;
    uint64_t global;
    uint32_t size, source_size;
    uint8_t group_open;
    uint32_t group;
    const inst *in;
} async_copy;

struct warp {
    uint8_t *base[2];      /* registers, constants: base[o & 1] + (o & ~1) */
    struct block *block;
    const inst *code;
    uint32_t index, pc, others_pc, carry;
    uint32_t active, alive, born, blocked; /* masks of lanes: born began, alive are left, active run at pc, blocked wait */
    uint32_t lane_pc[LANES];
    uint32_t floor, now;   /* moments: see cells.h */
    uint8_t state;
    uint32_t barrier, barrier_threads; const inst *barrier_inst;
    uint32_t barrier_predicate;
    uint64_t steps;
    uint8_t *local, *local_init;
    async_copy *copies[LANES]; uint32_t copy_count[LANES], copy_room[LANES], copy_group[LANES];
    uint32_t *fence; bool fence_pending;
};

typedef struct block {
    struct launch *launch;
    uint32_t index, x, y, z, threads, warp_count;
    warp warps[MAX_WARPS];
    uint8_t *shared;
    shared_cell *cells;
    uint32_t shared_bytes, stamp;
    uint32_t clock[MAX_WARPS][MAX_WARPS]; /* [w][v]: the last moment of warp v that warp w is ordered after; [w][w]: now */
} block;

typedef struct launch {
    kernel *k;
    int device;
    uint32_t grid[3], dim[3], dynamic_shared;
    const uint8_t *params;
    uint32_t id;
    const view *seen;      /* NULL: order across streams is not checked */
    uint64_t budget;
    jmp_buf stop;
    int error;
    uint32_t *published; uint64_t *published_at, *acquired_at; uint64_t atomics; /* fences: memory.c */
    allocation *cached;
} launch;

int kernel_run(kernel *k, int device, const uint32_t grid[3], const uint32_t dim[3], uint32_t dynamic_shared,
    const uint8_t *params, uint32_t id, const view *seen);
void kernel_fault(warp *, const inst *, int lane, int error, const char *format, ...)
    __attribute__((noreturn, format(printf, 5, 6)));
bool peer_enabled(int from, int to);                              /* streams.c */

/* ---- settings, faults, random numbers, reports (faults.c) ---- */

typedef struct {
    int devices, arch, driver_version, budget_millions, shared_limit, shared_optin, processors;
    uint64_t memory, seed;
    bool peer, races, count, exact, order;
    char name[64];
} settings;
extern settings sim;
void settings_read(void);
int fault_due(const char *what);     /* counts calls of this kind; the error code to give now, or 0 */
int device_lost(int device, const char *what);
bool dropped(const char *kernel, const char *opcode, uint32_t count);
uint32_t random_below(uint32_t n);
void report(const char *format, ...) __attribute__((format(printf, 1, 2)));
void sim_lock(void);
void sim_unlock(void);

extern struct statistics {
    uint64_t launches, thread_instructions, warp_instructions, shared_requests, shared_conflicts, global_requests, global_sectors;
} stats;

#endif
