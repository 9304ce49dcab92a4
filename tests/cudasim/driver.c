/* The driver's functions, by their exact names. Strict: a wrong argument is reported with the function's name and returns the
   code of the real driver. */
#define _GNU_SOURCE
#include "streams.h"
#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

typedef int CUresult;
typedef int CUdevice;
typedef void *CUcontext, *CUmodule, *CUfunction, *CUstream, *CUevent, *CUgraph, *CUgraphExec;
typedef uint64_t CUdeviceptr;

static bool initialised;
static int retained[64];
static void *contexts[64];
static __thread int current = -1;

static const struct { int code; const char *name, *text; } errors[] = {
    { 0, "CUDA_SUCCESS", "no error" },
    { 1, "CUDA_ERROR_INVALID_VALUE", "invalid argument" },
    { 2, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory" },
    { 3, "CUDA_ERROR_NOT_INITIALIZED", "initialization error" },
    { 34, "CUDA_ERROR_STUB_LIBRARY", "CUDA driver is a stub library" },
    { 46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "CUDA-capable device(s) is/are busy or unavailable" },
    { 100, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected" },
    { 101, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal" },
    { 200, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid" },
    { 201, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context" },
    { 209, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device" },
    { 217, "CUDA_ERROR_PEER_ACCESS_UNSUPPORTED", "peer access is not supported between these two devices" },
    { 218, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed" },
    { 222, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION", "the provided PTX was compiled with an unsupported toolchain." },
    { 400, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle" },
    { 500, "CUDA_ERROR_NOT_FOUND", "named symbol not found" },
    { 600, "CUDA_ERROR_NOT_READY", "device not ready" },
    { 700, "CUDA_ERROR_ILLEGAL_ADDRESS", "an illegal memory access was encountered" },
    { 701, "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES", "too many resources requested for launch" },
    { 702, "CUDA_ERROR_LAUNCH_TIMEOUT", "the launch timed out and was terminated" },
    { 704, "CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED", "peer access is already enabled" },
    { 705, "CUDA_ERROR_PEER_ACCESS_NOT_ENABLED", "peer access has not been enabled" },
    { 716, "CUDA_ERROR_MISALIGNED_ADDRESS", "misaligned address" },
    { 719, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure" },
    { 801, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported" },
    { 803, "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH", "system has unsupported display driver / cuda driver combination" },
    { 900, "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "operation not permitted when stream is capturing" },
    { 901, "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED", "operation failed due to a previous error during capture" },
    { 902, "CUDA_ERROR_STREAM_CAPTURE_MERGE", "operation would result in a merge of separate capture sequences" },
    { 903, "CUDA_ERROR_STREAM_CAPTURE_UNMATCHED", "capture was not ended in the same stream as it began" },
    { 904, "CUDA_ERROR_STREAM_CAPTURE_UNJOINED", "capturing stream has unjoined work" },
    { 905, "CUDA_ERROR_STREAM_CAPTURE_ISOLATION", "dependency created on uncaptured work in another stream" },
    { 906, "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT", "operation would make the legacy stream depend on a capturing blocking stream" },
    { 908, "CUDA_ERROR_STREAM_CAPTURE_WRONG_THREAD", "attempt to terminate a thread-local capture sequence from another thread" },
    { 907, "CUDA_ERROR_CAPTURED_EVENT", "operation not permitted on an event last recorded in a capturing stream" },
    { 999, "CUDA_ERROR_UNKNOWN", "unknown error" },
};

static CUresult refuse(const char *function, CUresult code, const char *format, ...) __attribute__((format(printf, 3, 4)));
static CUresult refuse(const char *function, CUresult code, const char *format, ...)
{
    char text[512];
    va_list list;
    va_start(list, format);
    vsnprintf(text, sizeof text, format, list);
    va_end(list);
    report("%s: %s", function, text);
    return code;
}
#define REFUSE(code, ...) do { sim_unlock(); return refuse(__func__, code, __VA_ARGS__); } while (0)
#define RETURN(code) do { CUresult r_ = (code); sim_unlock(); return r_; } while (0)
/* Every function of a context starts with this: the lock, a context, the context's sticky error, a lost device. */
#define ENTER \
    sim_lock(); \
    if (!initialised) REFUSE(3, "called before cuInit"); \
    if (current < 0 || !retained[current]) REFUSE(201, "the calling thread has no current context"); \
    if (!device_error[current] && device_lost(current, NULL)) device_error[current] = 46; \
    if (device_error[current]) RETURN(device_error[current])
/* A planned fault. What a context does not survive sticks to it, as on hardware. */
static int fault(const char *what)
{
    int code = fault_due(what);
    if (current >= 0 && (code == 46 || code == 700 || code == 702 || code == 716 || code == 719)) device_error[current] = code;
    return code;
}
#define FAULT(what) do { int f_ = fault(what); if (f_) RETURN(f_); } while (0)
#define NOT_CAPTURING if (capture_forbids(-1)) { REFUSE(900, "not allowed while a stream is being captured"); }

EXPORT CUresult cuGetErrorName(CUresult code, const char **out)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) if (errors[i].code == code) { *out = errors[i].name; return 0; }
    *out = NULL;
    return 1;
}
EXPORT CUresult cuGetErrorString(CUresult code, const char **out)
{
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) if (errors[i].code == code) { *out = errors[i].text; return 0; }
    *out = NULL;
    return 1;
}

/* ---- device and context ---- */

EXPORT CUresult cuInit(unsigned flags)
{
    sim_lock();
    settings_read();
    FAULT("nodevice"); FAULT("stub"); FAULT("mismatch"); FAULT("init");
    if (flags) REFUSE(1, "flags are %u, must be 0", flags);
    initialised = true;
    RETURN(0);
}
EXPORT CUresult cuDriverGetVersion(int *out) { sim_lock(); settings_read(); *out = sim.driver_version; RETURN(0); }
EXPORT CUresult cuDeviceGetCount(int *out)
{
    sim_lock();
    if (!initialised) REFUSE(3, "called before cuInit");
    *out = sim.devices;
    RETURN(0);
}
#define DEVICE(d) \
    do { \
        if (!initialised) REFUSE(3, "called before cuInit"); \
        if ((d) < 0 || (d) >= sim.devices) REFUSE(101, "device %d of %d", d, sim.devices); \
    } while (0)
EXPORT CUresult cuDeviceGet(CUdevice *out, int ordinal) { sim_lock(); DEVICE(ordinal); *out = ordinal; RETURN(0); }
EXPORT CUresult cuDeviceGetName(char *out, int room, CUdevice d)
{
    sim_lock();
    DEVICE(d);
    snprintf(out, (size_t)room, "%s", sim.name);
    RETURN(0);
}
EXPORT CUresult cuDeviceTotalMem_v2(size_t *out, CUdevice d) { sim_lock(); DEVICE(d); *out = sim.memory; RETURN(0); }
EXPORT CUresult cuDeviceGetUuid_v2(char out[16], CUdevice d)
{
    sim_lock();
    DEVICE(d);
    memset(out, 0, 16);
    memcpy(out, "cudasim", 7);
    out[15] = (char)d;
    RETURN(0);
}
EXPORT CUresult cuDeviceGetAttribute(int *out, int attribute, CUdevice d)
{
    static const struct { int attribute, value; } fixed[] = {
        { 1, 1024 }, { 2, 1024 }, { 3, 1024 }, { 4, 64 }, { 5, 2147483647 }, { 6, 65535 }, { 7, 65535 }, { 8, 49152 },
        { 9, 65536 }, { 10, 32 }, { 11, 2147483647 }, { 12, 65536 }, { 13, 1000000 }, { 14, 512 }, { 15, 1 }, { 17, 0 },
        { 18, 0 }, { 19, 1 }, { 20, 0 }, { 31, 1 }, { 32, 0 }, { 33, 1 }, { 35, 0 }, { 36, 1000000 }, { 37, 256 },
        { 38, 4194304 }, { 39, 1536 }, { 40, 2 }, { 41, 1 }, { 50, 0 }, { 78, 1 }, { 79, 1 }, { 80, 1 }, { 82, 65536 },
        { 83, 0 }, { 106, 16 }, { 115, 0 },
    };
    sim_lock();
    DEVICE(d);
    switch (attribute) {
    case 16: *out = sim.processors; RETURN(0);
    case 34: *out = d; RETURN(0);
    case 75: *out = sim.arch / 10; RETURN(0);
    case 76: *out = sim.arch % 10; RETURN(0);
    case 81: *out = sim.shared_optin + 1024; RETURN(0);
    case 97: *out = sim.shared_optin; RETURN(0);
    default: break;
    }
    for (size_t i = 0; i < sizeof fixed / sizeof *fixed; i++)
        if (fixed[i].attribute == attribute) {
            *out = fixed[i].value;
            RETURN(0);
        }
    REFUSE(1, "attribute %d is not known to the simulator", attribute);
}
EXPORT CUresult cuDevicePrimaryCtxRetain(CUcontext *out, CUdevice d)
{
    sim_lock();
    DEVICE(d);
    FAULT("context");
    if (retained[d]++ == 0) {
        contexts[d] = handle_new(HANDLE_CONTEXT, &contexts[d], d);
        device_error[d] = 0;
    }
    *out = contexts[d];
    RETURN(0);
}
EXPORT CUresult cuDevicePrimaryCtxRelease_v2(CUdevice d)
{
    sim_lock();
    DEVICE(d);
    if (!retained[d]) REFUSE(201, "device %d has no context", d);
    if (--retained[d] == 0) {
        int error = device_error[d];
        if (!error) run_device(d);
        if (!error && !device_error[d] && !device_lost(d, NULL)) {
            device_leaks(d);
            static const struct {
                handle_kind kind;
                const char *name;
            } kept[] = { { HANDLE_STREAM, "streams" }, { HANDLE_EVENT, "events" }, { HANDLE_MODULE, "modules" },
                { HANDLE_GRAPH, "graphs" }, { HANDLE_EXEC, "executable graphs" } };
            for (int i = 0; i < 5; i++)
                if (handles_alive(kept[i].kind, d))
                    report("leak: %u %s of device %d still exist when its context ends", handles_alive(kept[i].kind, d),
                        kept[i].name, d);
        }
        context_end(d);
        device_error[d] = 0;
    }
    RETURN(0);
}
EXPORT CUresult cuCtxSetCurrent(CUcontext context)
{
    sim_lock();
    if (!initialised) REFUSE(3, "called before cuInit");
    int d = -1;
    if (context && !handle_get(context, HANDLE_CONTEXT, &d)) REFUSE(201, "%p is not a live context", context);
    current = d;
    RETURN(0);
}
EXPORT CUresult cuCtxGetCurrent(CUcontext *out)
{
    sim_lock();
    *out = current >= 0 && retained[current] ? contexts[current] : NULL;
    RETURN(0);
}
EXPORT CUresult cuCtxGetDevice(CUdevice *out) { ENTER; *out = current; RETURN(0); }
EXPORT CUresult cuCtxSynchronize(void)
{
    ENTER;
    if (capture_forbids(current)) REFUSE(900, "not allowed while a stream of the device is being captured");
    FAULT("sync");
    RETURN(run_device(current));
}
EXPORT CUresult cuDeviceCanAccessPeer(int *out, CUdevice from, CUdevice to)
{
    sim_lock();
    DEVICE(from);
    DEVICE(to);
    *out = sim.peer && from != to;
    RETURN(0);
}
EXPORT CUresult cuCtxEnablePeerAccess(CUcontext context, unsigned flags)
{
    ENTER;
    int d;
    if (flags) REFUSE(1, "flags are %u, must be 0", flags);
    if (!handle_get(context, HANDLE_CONTEXT, &d)) REFUSE(201, "%p is not a live context", context);
    FAULT("peer");
    if (d == current) REFUSE(101, "device %d is the caller's own", d);
    if (!sim.peer) RETURN(217);
    if (peer_enabled(current, d)) RETURN(704);
    peer_set(current, d, true);
    RETURN(0);
}
EXPORT CUresult cuCtxDisablePeerAccess(CUcontext context)
{
    ENTER;
    int d;
    if (!handle_get(context, HANDLE_CONTEXT, &d)) REFUSE(201, "%p is not a live context", context);
    if (d == current || !peer_enabled(current, d)) RETURN(705);
    peer_set(current, d, false);
    RETURN(0);
}
EXPORT CUresult cuCtxGetStreamPriorityRange(int *least, int *greatest)
{
    ENTER;
    if (least) *least = 0;
    if (greatest) *greatest = -5;
    RETURN(0);
}
EXPORT CUresult cuGetExportTable(const void **out, const void *id) { (void)id; *out = NULL; return 500; } /* NVRTC asks for it */

/* ---- memory ---- */

EXPORT CUresult cuMemAlloc_v2(CUdeviceptr *out, size_t size)
{
    ENTER; NOT_CAPTURING;
    if (!out || size == 0) REFUSE(1, "%zu bytes", size);
    FAULT("alloc");
    *out = device_alloc(current, size, false);
    RETURN(*out ? 0 : 2);
}
EXPORT CUresult cuMemFree_v2(CUdeviceptr p)
{
    ENTER; NOT_CAPTURING;
    if (p == 0) RETURN(0);
    int error = run_device(current);
    if (device_free(p)) REFUSE(1, "0x%llx is not the start of a live allocation", (unsigned long long)p);
    RETURN(error);
}
EXPORT CUresult cuMemGetInfo_v2(size_t *left, size_t *total)
{
    ENTER;
    *left = sim.memory - device_used(current);
    *total = sim.memory;
    RETURN(0);
}
EXPORT CUresult cuMemHostAlloc(void **out, size_t size, unsigned flags)
{
    ENTER; NOT_CAPTURING;
    if (!out || size == 0 || flags & ~7u) REFUSE(1, "%zu bytes, flags %u", size, flags);
    FAULT("hostalloc");
    *out = aligned_alloc(4096, (size + 4095) / 4096 * 4096);
    if (!*out) RETURN(2);
    pinned_add(*out, size);
    RETURN(0);
}
EXPORT CUresult cuMemFreeHost(void *p)
{
    sim_lock();
    if (!p) RETURN(0);
    NOT_CAPTURING;
    for (int d = 0; d < sim.devices; d++) if (retained[d] && !device_error[d]) run_device(d);
    if (!pinned_remove(p)) REFUSE(1, "%p did not come from cuMemHostAlloc", p);
    free(p);
    RETURN(0);
}
EXPORT CUresult cuMemHostRegister_v2(void *p, size_t size, unsigned flags)
{
    ENTER;
    if (!p || !size || flags & ~15u) REFUSE(1, "%zu bytes, flags %u", size, flags);
    if (pinned(p, size)) RETURN(712);
    FAULT("hostalloc");
    pinned_add(p, size);
    RETURN(0);
}
EXPORT CUresult cuMemHostUnregister(void *p)
{
    ENTER;
    int error = run_device(current);
    if (!pinned_remove(p)) RETURN(713);
    RETURN(error);
}

static stream *stream_of(CUstream handle, int *device)
{
    if (handle == NULL || handle == (CUstream)1) { *device = current; return stream_default(current); }
    return handle_get(handle, HANDLE_STREAM, device);
}
#define STREAM(s, handle) \
    int s##_device = 0; \
    stream *s = stream_of(handle, &s##_device); \
    if (!s) REFUSE(400, "stream %p was destroyed or never created", (void *)(handle)); \
    if (s##_device != current) \
    REFUSE(400, "stream %p is of device %d, the current context of device %d", (void *)(handle), s##_device, current)
#define RANGE(p, size) \
    do { \
        allocation *a_ = allocation_find(p); \
        if (!a_ || a_->freed || (size) > a_->size - ((p) - a_->base)) \
            REFUSE(1, "0x%llx with %llu bytes is not inside a live allocation", (unsigned long long)(p), \
                (unsigned long long)(size)); \
        if (a_->device != current && !peer_enabled(current, a_->device)) \
            REFUSE(1, "0x%llx is memory of device %d, the current context of device %d", (unsigned long long)(p), a_->device, \
                current); \
    } while (0)
#define HOST(p) \
    do { \
        if ((uint64_t)(p) >> 52 == DEVICE_BASE >> 52 || !(p)) REFUSE(1, "%p is not host memory", (const void *)(p)); \
    } while (0)

EXPORT CUresult cuMemcpyHtoDAsync_v2(CUdeviceptr to, const void *from, size_t size, CUstream handle)
{
    ENTER; FAULT("copy");
    if (!size) RETURN(0);
    STREAM(s, handle); RANGE(to, size); HOST(from);
    work w = { .kind = WORK_COPY, .device = current, .to = to, .from = (uint64_t)from, .size = size };
    if (!pinned(from, size) && !s->capture) { /* pageable: the driver has its own copy before it returns */
        w.staged = malloc(size);
        memcpy(w.staged, from, size);
    }
    RETURN(stream_add(s, w));
}
EXPORT CUresult cuMemcpyDtoHAsync_v2(void *to, CUdeviceptr from, size_t size, CUstream handle)
{
    ENTER; FAULT("copy");
    if (!size) RETURN(0);
    STREAM(s, handle); RANGE(from, size); HOST(to);
    int error = stream_add(s, (work){ .kind = WORK_COPY, .device = current, .to = (uint64_t)to, .from = from, .size = size });
    if (!error && !pinned(to, size) && !s->capture) error = run_stream(s);
    RETURN(error);
}
EXPORT CUresult cuMemcpyDtoDAsync_v2(CUdeviceptr to, CUdeviceptr from, size_t size, CUstream handle)
{
    ENTER; FAULT("copy");
    if (!size) RETURN(0);
    STREAM(s, handle); RANGE(to, size); RANGE(from, size);
    RETURN(stream_add(s, (work){ .kind = WORK_COPY, .device = current, .to = to, .from = from, .size = size }));
}
EXPORT CUresult cuMemcpyPeerAsync(
    CUdeviceptr to, CUcontext to_context, CUdeviceptr from, CUcontext from_context, size_t size, CUstream handle)
{
    ENTER; FAULT("copy");
    if (!size) RETURN(0);
    STREAM(s, handle);
    int to_device, from_device;
    if (!handle_get(to_context, HANDLE_CONTEXT, &to_device) || !handle_get(from_context, HANDLE_CONTEXT, &from_device))
        REFUSE(201, "a context is not alive");
    allocation *a = allocation_find(to), *b = allocation_find(from);
    if (!a || a->freed || a->device != to_device || size > a->size - (to - a->base))
        REFUSE(1, "the target is not inside an allocation of device %d", to_device);
    if (!b || b->freed || b->device != from_device || size > b->size - (from - b->base))
        REFUSE(1, "the source is not inside an allocation of device %d", from_device);
    RETURN(stream_add(s, (work){ .kind = WORK_COPY, .device = current, .to = to, .from = from, .size = size }));
}
static CUresult set_async(const char *function, CUdeviceptr to, uint32_t value, uint32_t width, size_t count, CUstream handle)
{
    FAULT("copy");
    if (!count) RETURN(0);
    int device;
    stream *s = stream_of(handle, &device);
    allocation *a = allocation_find(to);
    if (!s || device != current) {
        sim_unlock();
        return refuse(function, 400, "stream %p is not one of the current context", handle);
    }
    if (!a || a->freed || count * width > a->size - (to - a->base) || to % width) {
        sim_unlock();
        return refuse(function, 1, "0x%llx with %zu elements of %u bytes is not inside a live allocation, or misaligned",
            (unsigned long long)to, count, width);
    }
    RETURN(stream_add(s, (work){ .kind = WORK_SET, .device = current, .to = to, .value = value, .width = width, .size = count }));
}
EXPORT CUresult cuMemsetD8Async(CUdeviceptr to, unsigned char value, size_t count, CUstream s)
{
    ENTER;
    return set_async(__func__, to, value, 1, count, s);
}
EXPORT CUresult cuMemsetD16Async(CUdeviceptr to, unsigned short value, size_t count, CUstream s)
{
    ENTER;
    return set_async(__func__, to, value, 2, count, s);
}
EXPORT CUresult cuMemsetD32Async(CUdeviceptr to, unsigned value, size_t count, CUstream s)
{
    ENTER;
    return set_async(__func__, to, value, 4, count, s);
}
/* The blocking forms: the legacy stream, then wait. */
static CUresult blocking(CUresult r) { if (r) return r; sim_lock(); RETURN(run_stream(stream_default(current))); }
EXPORT CUresult cuMemcpyHtoD_v2(CUdeviceptr to, const void *from, size_t size)
{
    return blocking(cuMemcpyHtoDAsync_v2(to, from, size, NULL));
}
EXPORT CUresult cuMemcpyDtoH_v2(void *to, CUdeviceptr from, size_t size)
{
    return blocking(cuMemcpyDtoHAsync_v2(to, from, size, NULL));
}
EXPORT CUresult cuMemcpyDtoD_v2(CUdeviceptr to, CUdeviceptr from, size_t size)
{
    return cuMemcpyDtoDAsync_v2(to, from, size, NULL);
}
EXPORT CUresult cuMemsetD8_v2(CUdeviceptr to, unsigned char value, size_t count)
{
    return cuMemsetD8Async(to, value, count, NULL);
}
EXPORT CUresult cuMemsetD32_v2(CUdeviceptr to, unsigned value, size_t count) { return cuMemsetD32Async(to, value, count, NULL); }

/* ---- streams and events ---- */

EXPORT CUresult cuStreamCreate(CUstream *out, unsigned flags)
{
    ENTER; FAULT("stream");
    if (flags > 1) REFUSE(1, "flags are %u", flags);
    *out = handle_new(HANDLE_STREAM, stream_new(current, flags == 1), current);
    RETURN(0);
}
EXPORT CUresult cuStreamCreateWithPriority(CUstream *out, unsigned flags, int priority)
{
    (void)priority;
    return cuStreamCreate(out, flags);
}
EXPORT CUresult cuStreamDestroy_v2(CUstream handle)
{
    sim_lock();
    int d;
    stream *s = handle_get(handle, HANDLE_STREAM, &d);
    if (!s) REFUSE(400, "stream %p was destroyed or never created", handle);
    if (s->capture) REFUSE(900, "the stream is being captured");
    int error = run_stream(s); /* the real driver lets the work finish later; finishing it here is one legal time */
    s->dead = true;
    handle_end(handle);
    RETURN(error);
}
EXPORT CUresult cuStreamSynchronize(CUstream handle)
{
    ENTER;
    FAULT("sync");
    STREAM(s, handle);
    if (s->capture) {
        s->capture->broken = true;
        REFUSE(900, "the stream is being captured");
    }
    RETURN(run_stream(s));
}
EXPORT CUresult cuStreamQuery(CUstream handle)
{
    ENTER; STREAM(s, handle);
    if (s->capture) { s->capture->broken = true; REFUSE(900, "the stream is being captured"); }
    run_some();
    if (!s->head) view_join(&host_view, &s->seen);
    RETURN(device_error[current] ? device_error[current] : s->head ? 600 : 0);
}
EXPORT CUresult cuStreamIsCapturing(CUstream handle, int *out)
{
    ENTER;
    STREAM(s, handle);
    *out = s->capture ? (s->capture->broken ? 2 : 1) : 0;
    RETURN(0);
}
#define EVENT(e, handle) \
    event *e = handle_get(handle, HANDLE_EVENT, NULL); \
    if (!e) REFUSE(400, "event %p was destroyed or never created", (void *)(handle))
EXPORT CUresult cuStreamWaitEvent(CUstream handle, CUevent eh, unsigned flags)
{
    ENTER;
    if (flags > 1) REFUSE(1, "flags are %u", flags);
    STREAM(s, handle);
    EVENT(e, eh);
    RETURN(event_wait(s, e));
}
EXPORT CUresult cuEventCreate(CUevent *out, unsigned flags)
{
    ENTER; FAULT("event");
    if (flags & ~7u) REFUSE(1, "flags are %u", flags);
    event *e = calloc(1, sizeof *e);
    e->timed = !(flags & 2);
    e->device = current;
    *out = handle_new(HANDLE_EVENT, e, current);
    RETURN(0);
}
EXPORT CUresult cuEventRecord(CUevent eh, CUstream handle)
{
    ENTER; STREAM(s, handle); EVENT(e, eh);
    if (e->device != current) REFUSE(400, "event of device %d recorded in a stream of device %d", e->device, current);
    RETURN(event_record(e, s));
}
EXPORT CUresult cuEventSynchronize(CUevent eh)
{
    ENTER; NOT_CAPTURING;
    FAULT("sync");
    EVENT(e, eh);
    if (e->capture) RETURN(907);
    run_ticket(e->ticket);
    RETURN(device_error[current]);
}
EXPORT CUresult cuEventQuery(CUevent eh)
{
    ENTER; NOT_CAPTURING;
    EVENT(e, eh);
    if (e->capture) RETURN(907);
    run_some();
    if (ticket_done(e->ticket)) host_after(e->ticket);
    RETURN(device_error[current] ? device_error[current] : ticket_done(e->ticket) ? 0 : 600);
}
EXPORT CUresult cuEventElapsedTime(float *out, CUevent ah, CUevent bh)
{
    ENTER; EVENT(a, ah); EVENT(b, bh);
    if (!a->timed || !b->timed || !a->ticket || !b->ticket) RETURN(400);
    if (!ticket_done(a->ticket) || !ticket_done(b->ticket)) RETURN(600);
    *out = (float)(ticket_time(b->ticket) - ticket_time(a->ticket));
    RETURN(0);
}
EXPORT CUresult cuEventElapsedTime_v2(float *out, CUevent a, CUevent b) { return cuEventElapsedTime(out, a, b); }
EXPORT CUresult cuEventDestroy_v2(CUevent eh) { sim_lock(); EVENT(e, eh); free(e->after); free(e); handle_end(eh); RETURN(0); }

/* ---- code ---- */

static void fnv(uint64_t h[2], const uint8_t *p, size_t n)
{
    h[0] = 0xcbf29ce484222325ull;
    h[1] = 0x9e3779b97f4a7c15ull;
    for (size_t i = 0; i < n; i++) {
        h[0] = (h[0] ^ p[i]) * 0x100000001b3ull;
        h[1] = (h[1] ^ p[i]) * 0x100000001b3ull + 0x7f4a7c15;
    }
}

static size_t elf_size(const uint8_t *image)
{
    uint64_t sections, programs;
    uint16_t entry, count, program_entry, program_count;
    memcpy(&programs, image + 32, 8);
    memcpy(&sections, image + 40, 8);
    memcpy(&program_entry, image + 54, 2);
    memcpy(&program_count, image + 56, 2);
    memcpy(&entry, image + 58, 2);
    memcpy(&count, image + 60, 2);
    uint64_t end = sections + (uint64_t)entry * count, programs_end = programs + (uint64_t)program_entry * program_count;
    if (programs_end > end) end = programs_end;
    for (int i = 0; i < count; i++) {
        uint32_t type;
        uint64_t offset, size;
        memcpy(&type, image + sections + (uint64_t)i * entry + 4, 4);
        memcpy(&offset, image + sections + (uint64_t)i * entry + 24, 8);
        memcpy(&size, image + sections + (uint64_t)i * entry + 32, 8);
        if (type != 8 && offset + size > end) end = offset + size;
    }
    return end;
}

/* The registers of each kernel, from attribute 0x2f (count of registers: symbol, value) of the cubin's section .nv.info */
static void cubin_registers(const uint8_t *image, module *m)
{
    uint64_t sections;
    uint16_t entry, count, names;
    memcpy(&sections, image + 40, 8);
    memcpy(&entry, image + 58, 2);
    memcpy(&count, image + 60, 2);
    memcpy(&names, image + 62, 2);
    const uint8_t *info = NULL, *symbols = NULL, *strings = NULL;
    uint64_t info_size = 0, offset, names_offset;
    memcpy(&names_offset, image + sections + (uint64_t)names * entry + 24, 8);
    for (int i = 0; i < count; i++) {
        const uint8_t *header = image + sections + (uint64_t)i * entry;
        uint32_t name;
        memcpy(&name, header, 4);
        memcpy(&offset, header + 24, 8);
        const char *text = (const char *)image + names_offset + name;
        if (strcmp(text, ".nv.info") == 0) { info = image + offset; memcpy(&info_size, header + 32, 8); }
        if (strcmp(text, ".symtab") == 0) symbols = image + offset;
        if (strcmp(text, ".strtab") == 0) strings = image + offset;
    }
    for (uint64_t at = 0; info && symbols && strings && at + 4 <= info_size; ) {
        uint16_t size;
        memcpy(&size, info + at + 2, 2);
        if (info[at] == 4 && info[at + 1] == 0x2f && size == 8) {
            uint32_t symbol, value, name;
            memcpy(&symbol, info + at + 4, 4);
            memcpy(&value, info + at + 8, 4);
            memcpy(&name, symbols + (uint64_t)symbol * 24, 4);
            for (uint32_t k = 0; k < m->kernel_count; k++)
                if (strcmp(m->kernels[k].name, (const char *)strings + name) == 0) m->kernels[k].registers = value;
        }
        at += info[at] == 4 ? 4u + size : 4u;
    }
}

/* Where the PTX of a cubin with these bytes is kept: the NVRTC shim writes it there, cuModuleLoadData reads it. */
EXPORT void cudasim_cubin_path(const void *image, size_t size, char *out, size_t room)
{
    uint64_t h[2];
    fnv(h, image, size);
    const char *folder = getenv("CUDASIM_CUBINS");
    char beside[4096] = "/tmp";
    Dl_info info;
    if (dladdr((void *)(uintptr_t)cudasim_cubin_path, &info) && info.dli_fname) {
        snprintf(beside, sizeof beside, "%s", info.dli_fname);
        char *slash = strrchr(beside, '/');
        if (slash) *slash = 0;
        else strcpy(beside, ".");
        strcat(beside, "/cubins");
    }
    if (!folder || !*folder) folder = beside;
    mkdir(folder, 0777);
    snprintf(out, room, "%s/%016llx%016llx.ptx", folder, (unsigned long long)h[0], (unsigned long long)h[1]);
}

static char *read_text(const char *path)
{
    FILE *f = fopen(path, "rb");
    if (!f) return NULL;
    fseek(f, 0, SEEK_END);
    long n = ftell(f);
    rewind(f);
    char *text = malloc((size_t)n + 1);
    size_t got = fread(text, 1, (size_t)n, f);
    fclose(f);
    text[got] = 0;
    return text;
}

EXPORT CUresult cuModuleLoadData(CUmodule *out, const void *image)
{
    ENTER; NOT_CAPTURING; FAULT("module");
    if (!out || !image) REFUSE(1, "no image");
    char *text = NULL, error[512];
    bool cubin = memcmp(image, "\177ELF", 4) == 0;
    if (cubin) {
        char path[4300];
        cudasim_cubin_path(image, elf_size(image), path, sizeof path);
        text = read_text(path);
        if (!text)
            REFUSE(200,
                "nobody knows the PTX of this cubin (%s): it was not compiled through the simulator's NVRTC, or its bytes were "
                "changed",
                path);
    } else {
        const char *p = image;
        while (*p == ' ' || *p == '\n' || *p == '/') { if (*p == '/') while (*p && *p != '\n') p++; else p++; }
        if (strncmp(p, ".version", 8) != 0) REFUSE(200, "the image is neither a cubin nor PTX");
        text = strdup(image);
    }
    module *m = module_decode(current, text, cubin, error, sizeof error);
    free(text);
    if (!m) REFUSE(strstr(error, "newer than the driver") ? 222 : 218, "%s", error);
    bool fits = cubin ? m->target / 10 == (uint32_t)sim.arch / 10 && m->target <= (uint32_t)sim.arch
                      : m->target <= (uint32_t)sim.arch;
    if (!fits) {
        unsigned target = m->target;
        module_free(m);
        REFUSE(209, "%s for sm_%u on a device of sm_%d", cubin ? "cubin" : "PTX", target, sim.arch);
    }
    if (cubin) cubin_registers(image, m);
    *out = handle_new(HANDLE_MODULE, m, current);
    RETURN(0);
}
EXPORT CUresult cuModuleLoadDataEx(CUmodule *out, const void *image, unsigned count, int *options, void **values)
{
    (void)count;
    (void)options;
    (void)values;
    return cuModuleLoadData(out, image);
}
EXPORT CUresult cuModuleUnload(CUmodule handle)
{
    ENTER; NOT_CAPTURING;
    int d;
    module *m = handle_get(handle, HANDLE_MODULE, &d);
    if (!m) REFUSE(400, "module %p was unloaded or never loaded", handle);
    int error = run_device(d);
    handle_end(handle);
    module_free(m);
    RETURN(error);
}
typedef struct { kernel *k; CUmodule module; uint32_t dynamic_limit; } function;
EXPORT CUresult cuModuleGetFunction(CUfunction *out, CUmodule handle, const char *name)
{
    ENTER;
    int d;
    module *m = handle_get(handle, HANDLE_MODULE, &d);
    if (!m) REFUSE(400, "module %p was unloaded or never loaded", handle);
    for (uint32_t i = 0; i < m->kernel_count; i++) if (strcmp(m->kernels[i].name, name) == 0) {
        function *f = calloc(1, sizeof *f);
        *f = (function){ &m->kernels[i], handle, 0 };
        f->dynamic_limit = m->kernels[i].shared_bytes < 49152 ? 49152 - m->kernels[i].shared_bytes : 0;
        *out = handle_new(HANDLE_FUNCTION, f, d);
        RETURN(0);
    }
    RETURN(500);
}
EXPORT CUresult cuModuleGetGlobal_v2(CUdeviceptr *out, size_t *size, CUmodule handle, const char *name)
{
    ENTER;
    module *m = handle_get(handle, HANDLE_MODULE, NULL);
    if (!m) REFUSE(400, "module %p was unloaded or never loaded", handle);
    for (uint32_t i = 0; i < m->global_count; i++)
        if (strcmp(m->globals[i].name, name) == 0) {
            if (out) *out = m->globals[i].address;
            if (size) *size = m->globals[i].size;
            RETURN(0);
        }
    RETURN(500);
}
#define FUNCTION(f, handle) \
    int f##_device; \
    function *f = handle_get(handle, HANDLE_FUNCTION, &f##_device); \
    if (!f) REFUSE(400, "function %p does not exist", handle); \
    if (!handle_get(f->module, HANDLE_MODULE, NULL)) REFUSE(400, "function %p belongs to a module that was unloaded", handle)
EXPORT CUresult cuFuncSetAttribute(CUfunction handle, int attribute, int value)
{
    ENTER; FUNCTION(f, handle);
    if (attribute == 9) { if (value < -1 || value > 100) REFUSE(1, "carve-out %d", value); RETURN(0); }
    if (attribute != 8) REFUSE(1, "attribute %d cannot be set", attribute);
    if (value < 0 || (uint32_t)value + f->k->shared_bytes > (uint32_t)sim.shared_optin)
        REFUSE(1, "%d bytes of dynamic and %u of static shared memory; the device has %d", value, f->k->shared_bytes,
            sim.shared_optin);
    f->dynamic_limit = (uint32_t)value;
    RETURN(0);
}
EXPORT CUresult cuFuncGetAttribute(int *out, int attribute, CUfunction handle)
{
    ENTER; FUNCTION(f, handle);
    switch (attribute) {
    case 0: *out = (int)f->k->max_threads; RETURN(0);
    case 1: *out = (int)f->k->shared_bytes; RETURN(0);
    case 2: *out = 0; RETURN(0);
    case 3: *out = (int)f->k->local_bytes; RETURN(0);
    case 4: *out = f->k->registers ? (int)f->k->registers : 32; RETURN(0); /* of PTX nothing is known: 32 is a guess */
    case 5: case 6: *out = (int)f->k->module->target; RETURN(0);
    case 7: *out = 0; RETURN(0);
    case 8: *out = (int)f->dynamic_limit; RETURN(0);
    default: REFUSE(1, "attribute %d", attribute);
    }
}
EXPORT CUresult cuOccupancyMaxActiveBlocksPerMultiprocessor(int *out, CUfunction handle, int threads, size_t dynamic)
{
    ENTER; FUNCTION(f, handle);
    if (threads <= 0) REFUSE(1, "%d threads", threads);
    size_t shared = f->k->shared_bytes + dynamic, by_threads = 1536 / (size_t)threads,
           by_shared = shared ? (size_t)sim.shared_optin / shared : 16;
    *out = (int)(by_threads < by_shared ? by_threads : by_shared);
    if (*out > 16) *out = 16;
    RETURN(0);
}
EXPORT CUresult cuLaunchKernel(CUfunction handle, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
    unsigned shared, CUstream sh, void **params, void **extra)
{
    ENTER; FUNCTION(f, handle); STREAM(s, sh);
    kernel *k = f->k;
    FAULT("launch");
    if (device_lost(current, "launch")) { device_error[current] = 46; RETURN(46); }
    if (f_device != current)
        REFUSE(400, "kernel %s is of device %d, the current context of device %d", k->name, f_device, current);
    if (!gx || !gy || !gz || gx > 2147483647u || gy > 65535 || gz > 65535)
        REFUSE(1, "kernel %s: grid (%u,%u,%u); 1 to 2147483647, 65535, 65535 are allowed", k->name, gx, gy, gz);
    if (!bx || !by || !bz || bx > 1024 || by > 1024 || bz > 64 || (uint64_t)bx * by * bz > 1024)
        REFUSE(1, "kernel %s: block (%u,%u,%u); 1 to 1024, 1024, 64 and 1024 threads are allowed", k->name, bx, by, bz);
    if (bx * by * bz > k->max_threads)
        REFUSE(701, "kernel %s: %u threads a block, declared for %u at most", k->name, bx * by * bz, k->max_threads);
    if (k->required_threads[0] && (bx != k->required_threads[0] || by != k->required_threads[1] || bz != k->required_threads[2]))
        REFUSE(1, "kernel %s: block (%u,%u,%u) is not the required one", k->name, bx, by, bz);
    uint32_t warps = (bx * by * bz + LANES - 1) / LANES, registers = (k->registers + 7) / 8 * 8;
    if (warps * LANES * registers > 65536)
        REFUSE(
            701, "kernel %s: %u threads of %u registers are more than the 65536 of a block", k->name, bx * by * bz, k->registers);
    if (shared > f->dynamic_limit)
        REFUSE(1,
            "kernel %s: %u bytes of dynamic shared memory; allowed are %u (more than 48 KB in all: cuFuncSetAttribute first)",
            k->name, shared, f->dynamic_limit);
    work w = {
        .kind = WORK_KERNEL, .device = current, .k = k, .grid = { gx, gy, gz }, .dim = { bx, by, bz }, .dynamic_shared = shared
    };
    w.params = calloc(1, k->params_bytes + 16);
    if (extra) {
        if (extra[0] != (void *)1 || extra[2] != (void *)2 || *(size_t *)extra[3] < k->params_bytes) {
            free(w.params);
            REFUSE(1, "kernel %s: 'extra' is not (buffer pointer, buffer size of at least %u, end)", k->name, k->params_bytes);
        }
        memcpy(w.params, extra[1], k->params_bytes);
    } else for (uint32_t i = 0; i < k->param_count; i++) {
            if (!params || !params[i]) {
                free(w.params);
                REFUSE(1, "kernel %s: parameter %u of %u is missing", k->name, i, k->param_count);
            }
        memcpy(w.params + k->params[i].offset, params[i], k->params[i].size);
    }
    RETURN(stream_add(s, w));
}

/* ---- graphs ---- */

EXPORT CUresult cuStreamBeginCapture_v2(CUstream handle, int mode)
{
    ENTER; FAULT("graph"); STREAM(s, handle);
    if (mode < 0 || mode > 2) REFUSE(1, "mode %d", mode);
    RETURN(capture_begin(s, mode));
}
EXPORT CUresult cuStreamEndCapture(CUstream handle, CUgraph *out)
{
    graph *g;
    *out = NULL;
    sim_lock();
    if (current >= 0 && device_error[current]) { /* the capture ends nevertheless */
        int d;
        stream *lost = handle_get(handle, HANDLE_STREAM, &d);
        if (lost) capture_drop(lost);
    }
    sim_unlock();
    ENTER; STREAM(s, handle);
    int error = capture_end(s, &g);
    if (error) REFUSE(error, "the capture failed");
    *out = handle_new(HANDLE_GRAPH, g, current);
    RETURN(0);
}
EXPORT CUresult cuGraphInstantiateWithFlags(CUgraphExec *out, CUgraph handle, unsigned long long flags)
{
    ENTER; FAULT("graph");
    graph *g = handle_get(handle, HANDLE_GRAPH, NULL);
    if (!g) REFUSE(400, "graph %p does not exist", handle);
    if (flags & ~15ull) REFUSE(1, "flags are %llu", flags);
    *out = handle_new(HANDLE_EXEC, graph_copy(g), current);
    RETURN(0);
}
EXPORT CUresult cuGraphLaunch(CUgraphExec handle, CUstream sh)
{
    ENTER; STREAM(s, sh);
    graph *g = handle_get(handle, HANDLE_EXEC, NULL);
    if (!g) REFUSE(400, "executable graph %p does not exist", handle);
    FAULT("graph"); FAULT("launch");
    if (device_lost(current, "launch")) { device_error[current] = 46; RETURN(46); }
    if (s->capture) REFUSE(900, "a graph launched inside a capture is not simulated");
    view known = host_view; /* launches of one executable graph do not overlap, but the host waits for none */
    while (g->users && !device_error[current]) run_stream(s), run_device(current);
    host_view = known;
    g->users++;
    RETURN(stream_add(s, (work){ .kind = WORK_GRAPH, .device = current, .graph = g, .done = calloc(g->count + 1, 1) }));
}
EXPORT CUresult cuGraphGetNodes(CUgraph handle, void **nodes, size_t *count)
{
    ENTER;
    graph *g = handle_get(handle, HANDLE_GRAPH, NULL);
    if (!g) REFUSE(400, "graph %p does not exist", handle);
    if (nodes) REFUSE(1, "only the number of nodes is known");
    *count = g->count;
    RETURN(0);
}
static CUresult end_graph(const char *function, void *handle, handle_kind kind)
{
    sim_lock();
    int d;
    graph *g = handle_get(handle, kind, &d);
    if (!g) { sim_unlock(); return refuse(function, 400, "graph %p does not exist", handle); }
    if (g->users) run_device(d);
    handle_end(handle);
    graph_release(g);
    RETURN(0);
}
EXPORT CUresult cuGraphExecDestroy(CUgraphExec handle) { return end_graph(__func__, handle, HANDLE_EXEC); }
EXPORT CUresult cuGraphDestroy(CUgraph handle) { return end_graph(__func__, handle, HANDLE_GRAPH); }
