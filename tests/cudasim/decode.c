/* PTX text to instructions. What is not in the table of opcodes, or does not fit its operands, is an error that names the PTX
   line. Functions are decoded into their callers; their parameters become local memory. */
#include "cudasim.h"
#include <ctype.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

const struct special special_registers[SR_COUNT] = {
    { "%tid.x", 4 }, { "%tid.y", 4 }, { "%tid.z", 4 }, { "%ntid.x", 4 }, { "%ntid.y", 4 }, { "%ntid.z", 4 },
    { "%ctaid.x", 4 }, { "%ctaid.y", 4 }, { "%ctaid.z", 4 }, { "%nctaid.x", 4 }, { "%nctaid.y", 4 }, { "%nctaid.z", 4 },
    { "%laneid", 4 }, { "%warpid", 4 }, { "%nwarpid", 4 }, { "%lanemask_eq", 4 }, { "%lanemask_lt", 4 }, { "%lanemask_le", 4 },
    { "%lanemask_gt", 4 }, { "%lanemask_ge", 4 }, { "%smid", 4 }, { "%nsmid", 4 }, { "%clock", 4 }, { "%clock64", 8 },
    { "%globaltimer", 8 }, { "%dynamic_smem_size", 4 }, { "%total_smem_size", 4 },
};

enum { SYM_REGISTER, SYM_ADDRESS, SYM_PARAM, SYM_LOCAL_PARAM, SYM_DYNAMIC };
typedef struct {
    char name[160];
    int kind, scope;
    bool numbered;            /* %r<9>: %r0 to %r8 */
    uint32_t count, bytes;    /* registers: bytes 0 is a predicate */
    uint64_t value;           /* first slot, or address */
} symbol;

typedef struct { char name[160]; int scope; int32_t at; } label;
typedef struct {
    char name[160];
    int scope;
    uint32_t inst;
    int32_t table;
    uint32_t line;
} reference; /* table >= 0: an entry of branch_targets */
typedef struct { char name[160]; const char *text; uint32_t line; } function;

typedef struct {
    const char *p;
    uint32_t line, source_line;
    module *m;
    kernel *k;
    symbol *symbols; size_t symbol_count, symbol_room;
    label *labels; size_t label_count, label_room;
    reference *references; size_t reference_count, reference_room;
    function *functions; size_t function_count, function_room;
    int scope, *scope_parent; size_t scope_count, scope_room;
    size_t inst_room, constants_room, targets_room, targets_count;
    int return_label, depth;
    bool cubin;
    jmp_buf stop;
    char *error; size_t error_size;
} decoder;

static void fail(decoder *d, const char *format, ...) __attribute__((noreturn, format(printf, 2, 3)));
static void fail(decoder *d, const char *format, ...)
{
    int n = snprintf(d->error, d->error_size, "PTX line %u: ", d->line);
    va_list list;
    va_start(list, format);
    vsnprintf(d->error + n, d->error_size - (size_t)n, format, list);
    va_end(list);
    longjmp(d->stop, 1);
}

static void *grow(void *array, size_t count, size_t *room, size_t size)
{
    if (count < *room) return array;
    *room = *room ? *room * 2 : 64;
    return realloc(array, *room * size);
}
#define PUSH(d, array) ((d)->array##s = grow((d)->array##s, (d)->array##_count, &(d)->array##_room, sizeof *(d)->array##s), \
                        &(d)->array##s[(d)->array##_count++])

/* ---- tokens ---- */

static void skip_space(decoder *d)
{
    for (;; d->p++) {
        if (*d->p == '\n') d->line++;
        else if (d->p[0] == '/' && d->p[1] == '/') { while (d->p[1] && d->p[1] != '\n') d->p++; }
        else if (d->p[0] == '/' && d->p[1] == '*') {
            for (d->p += 2; *d->p && !(d->p[0] == '*' && d->p[1] == '/'); d->p++) if (*d->p == '\n') d->line++;
            if (*d->p) d->p++; else return;
        }
        else if (!isspace((unsigned char)*d->p)) return;
    }
}

static bool accept(decoder *d, char c)
{
    skip_space(d);
    if (*d->p != c) return false;
    d->p++;
    return true;
}

static void expect(decoder *d, char c)
{
    if (!accept(d, c)) fail(d, "'%c' expected before '%.20s'", c, d->p);
}

static bool word_char(char c) { return isalnum((unsigned char)c) || c == '_' || c == '$' || c == '%' || c == '.' || c == ':'; }

/* A name, directive, opcode or special register. Empty if there is none here. */
static size_t word(decoder *d, char *out, size_t room)
{
    skip_space(d);
    size_t n = 0;
    while (word_char(*d->p) && (*d->p != ':' || (d->p[1] == ':'))) {
        if (n + 1 >= room) fail(d, "a name is too long");
        if (*d->p == ':') out[n++] = *d->p++;
        out[n++] = *d->p++;
    }
    out[n] = 0;
    return n;
}

static bool accept_word(decoder *d, const char *text)
{
    skip_space(d);
    size_t n = strlen(text);
    if (strncmp(d->p, text, n) != 0 || word_char(d->p[n])) return false;
    d->p += n;
    return true;
}

static uint64_t integer(decoder *d)
{
    skip_space(d);
    bool minus = accept(d, '-');
    if (!isdigit((unsigned char)*d->p)) fail(d, "an integer expected before '%.20s'", d->p);
    char *end;
    uint64_t value = strtoull(d->p, &end, 0);
    if (*end == 'U') end++;
    d->p = end;
    return minus ? 0 - value : value;
}

/* An immediate: bits, and the size it claims (4 for 0f, 8 for 0d, 0 for an integer). */
static uint64_t immediate(decoder *d, unsigned *claimed)
{
    skip_space(d);
    *claimed = 0;
    if (d->p[0] == '0' && (d->p[1] == 'f' || d->p[1] == 'F' || d->p[1] == 'd' || d->p[1] == 'D')) {
        int digits = tolower((unsigned char)d->p[1]) == 'f' ? 8 : 16;
        char text[17] = "";
        for (int i = 0; i < digits; i++) {
            if (!isxdigit((unsigned char)d->p[2 + i])) fail(d, "a floating-point immediate has too few digits");
            text[i] = d->p[2 + i];
        }
        d->p += 2 + digits;
        *claimed = digits == 8 ? 4 : 8;
        return strtoull(text, NULL, 16);
    }
    return integer(d);
}

/* ---- symbols and slots ---- */

static symbol *find(decoder *d, const char *name)
{
    size_t length = strlen(name), digits = length;
    while (digits > 0 && isdigit((unsigned char)name[digits - 1])) digits--;
    for (size_t i = d->symbol_count; i-- > 0; ) {
        symbol *s = &d->symbols[i];
        if (!s->numbered && strcmp(s->name, name) == 0) return s;
        if (s->numbered && digits < length && strncmp(s->name, name, digits) == 0 && s->name[digits] == 0 &&
            strtoul(name + digits, NULL, 10) < s->count) return s;
    }
    return NULL;
}

static uint32_t slot_bytes(uint32_t bytes) { return bytes == 0 ? 32 : bytes * LANES; }

static uint32_t new_slot(decoder *d, uint32_t bytes)
{
    uint32_t at = d->k->registers_bytes;
    d->k->registers_bytes += slot_bytes(bytes);
    return at;
}

/* The slot of a constant: all lanes alike, one copy a value. */
static uint32_t constant(decoder *d, uint64_t value, uint32_t bytes)
{
    kernel *k = d->k;
    uint8_t text[256];
    if (bytes == 0) { memset(text, 0, sizeof text); if (value) memset(text, 0xff, 4); }
    for (int i = 0; i < LANES && bytes; i++) memcpy(text + (size_t)i * bytes, &value, bytes);
    uint32_t size = slot_bytes(bytes);
    for (uint32_t at = 0; at + size <= k->constants_bytes; at += 32)
        if (memcmp(k->constants + at, text, size) == 0) return at | 1;
    while (k->constants_bytes + size > d->constants_room) {
        d->constants_room = d->constants_room ? d->constants_room * 2 : 4096;
        uint8_t *bigger = aligned_alloc(64, d->constants_room);
        if (k->constants) memcpy(bigger, k->constants, k->constants_bytes);
        free(k->constants);
        k->constants = bigger;
    }
    memcpy(k->constants + k->constants_bytes, text, size);
    k->constants_bytes += size;
    return (k->constants_bytes - size) | 1;
}

static bool type_bytes(const char *type, uint32_t *bytes)
{
    static const struct { const char *name; uint32_t bytes; } types[] = {
        { ".pred", 0 }, { ".b8", 1 }, { ".u8", 1 }, { ".s8", 1 }, { ".b16", 2 }, { ".u16", 2 }, { ".s16", 2 }, { ".f16", 2 },
        { ".bf16", 2 }, { ".b32", 4 }, { ".u32", 4 }, { ".s32", 4 }, { ".f32", 4 }, { ".f16x2", 4 }, { ".b64", 8 },
        { ".u64", 8 }, { ".s64", 8 }, { ".f64", 8 },
    };
    for (size_t i = 0; i < sizeof types / sizeof *types; i++)
        if (strcmp(types[i].name, type) == 0) {
            *bytes = types[i].bytes;
            return true;
        }
    return false;
}

static void declare_registers(decoder *d)
{
    char type[32], name[160];
    word(d, type, sizeof type);
    uint32_t bytes;
    if (!type_bytes(type, &bytes)) fail(d, ".reg: unknown type '%s'", type);
    if (bytes == 1) bytes = 2;
    do {
        word(d, name, sizeof name);
        symbol *s = PUSH(d, symbol);
        memset(s, 0, sizeof *s);
        strcpy(s->name, name);
        s->scope = d->scope;
        s->bytes = bytes;
        s->count = 1;
        if (accept(d, '<')) { s->numbered = true; s->count = (uint32_t)integer(d); expect(d, '>'); }
        s->value = d->k->registers_bytes;
        for (uint32_t i = 0; i < s->count; i++) new_slot(d, bytes);
    } while (accept(d, ','));
    expect(d, ';');
}

/* [.align N] type name[[N]]: its size and alignment */
static void variable(decoder *d, char *name, size_t room, uint64_t *size, uint32_t *align, uint32_t *element)
{
    char text[160];
    *align = 0;
    for (;;) {
        word(d, text, sizeof text);
        if (strcmp(text, ".align") == 0) *align = (uint32_t)integer(d);
        else if (strcmp(text, ".ptr") == 0)
            while (
                accept_word(d, ".global") || accept_word(d, ".shared") || accept_word(d, ".const") || accept_word(d, ".local")) {}
        else break;
    }
    uint32_t vector = strcmp(text, ".v4") == 0 ? 4 : strcmp(text, ".v2") == 0 ? 2 : 1;
    if (vector > 1) word(d, text, sizeof text);
    if (!type_bytes(text, element) || *element == 0) fail(d, "a variable of unknown type '%s'", text);
    for (;;) { /* parameters: attributes stand between type and name */
        word(d, name, room);
        if (strcmp(name, ".ptr") == 0) continue;
        if (strcmp(name, ".align") == 0) { integer(d); continue; }
        if (name[0] != '.') break;
        if (strcmp(name, ".global") && strcmp(name, ".shared") && strcmp(name, ".const") && strcmp(name, ".local"))
            fail(d, "unknown attribute '%s'", name);
    }
    *size = (uint64_t)*element * vector;
    while (accept(d, '[')) {
        if (accept(d, ']')) { *size = 0; break; }
        *size *= integer(d);
        expect(d, ']');
    }
    if (*align == 0) *align = *element * vector;
}

static uint64_t round_up(uint64_t x, uint64_t to) { return (x + to - 1) / to * to; }

static symbol *add_symbol(decoder *d, const char *name, int kind, uint64_t value)
{
    symbol *s = PUSH(d, symbol);
    memset(s, 0, sizeof *s);
    strcpy(s->name, name);
    s->kind = kind;
    s->scope = d->scope;
    s->value = value;
    return s;
}

static void declare_local(decoder *d, int kind)
{
    char name[160];
    uint64_t size;
    uint32_t align, element;
    variable(d, name, sizeof name, &size, &align, &element);
    d->k->local_bytes = (uint32_t)round_up(d->k->local_bytes, align);
    add_symbol(d, name, kind, LOCAL_START + d->k->local_bytes);
    d->k->local_bytes += (uint32_t)size;
}

/* In a kernel, or of the module: then every kernel has it, at the same address. */
static void declare_shared(decoder *d)
{
    uint32_t *used = d->k ? &d->k->shared_bytes : &d->m->shared_bytes;
    char name[160];
    uint64_t size;
    uint32_t align, element;
    variable(d, name, sizeof name, &size, &align, &element);
    expect(d, ';');
    *used = (uint32_t)round_up(*used, align);
    add_symbol(d, name, SYM_ADDRESS, SHARED_START + *used);
    *used += (uint32_t)size;
}

/* A variable of the module, in device memory. Constants too: they are read at their generic address. */
static void declare_global(decoder *d)
{
    char name[160];
    uint64_t size;
    uint32_t align, element;
    variable(d, name, sizeof name, &size, &align, &element);
    uint64_t address = device_alloc(d->m->device, size, true);
    if (!address) fail(d, "variable '%s' of %llu bytes does not fit into the device's memory", name, (unsigned long long)size);
    allocation *a = allocation_find(address);
    init_set(a, 0, size, true);
    d->m->globals = realloc(d->m->globals, (d->m->global_count + 1) * sizeof *d->m->globals);
    d->m->globals[d->m->global_count++] = (global_variable){ strdup(name), address, (uint32_t)size };
    add_symbol(d, name, SYM_ADDRESS, address);
    if (accept(d, '=')) {
        bool list = accept(d, '{');
        uint64_t at = 0;
        do {
            unsigned claimed;
            uint64_t value = immediate(d, &claimed);
            if (at + element > size) fail(d, "variable '%s' has too many initial values", name);
            memcpy(a->data + at, &value, element);
            at += element;
        } while (list && accept(d, ','));
        if (list) expect(d, '}');
    }
    expect(d, ';');
}

/* ---- operands ---- */

static void put(decoder *d, inst *in, uint32_t slot, uint32_t bytes)
{
    if (in->operands >= 20) fail(d, "too many operands");
    in->o[in->operands] = slot;
    in->bytes[in->operands++] = (uint8_t)bytes;
}

/* Where a kernel's dynamic shared memory begins is known when all of its static one is: exec.c fills these slots. */
static uint32_t dynamic_slot(decoder *d, uint32_t bytes)
{
    uint32_t *slot = &d->k->slots[bytes == 8 ? SR_DYNAMIC_BASE_64 : SR_DYNAMIC_BASE_32];
    if (*slot == ~0u) *slot = new_slot(d, bytes);
    return *slot;
}

/* One register, immediate or symbol. want: its bytes, 0 a predicate, -1 any. */
static void operand(decoder *d, inst *in, int want, bool target)
{
    char name[160];
    skip_space(d);
    if (!target && (isdigit((unsigned char)*d->p) || *d->p == '-')) {
        unsigned claimed;
        uint64_t value = immediate(d, &claimed);
        uint32_t bytes = want >= 0 ? (uint32_t)want : claimed ? claimed : 8;
        if (claimed && want >= 0 && claimed != bytes)
            fail(d, "%s: an immediate of %u bytes, %u expected", in->op->name, claimed, bytes);
        put(d, in, constant(d, value, bytes), bytes);
        return;
    }
    if (!target && want == 0 && accept(d, '!')) in->negated |= 1u << in->operands;
    if (word(d, name, sizeof name) == 0) fail(d, "%s: operand %d expected before '%.20s'", in->op->name, in->operands + 1, d->p);
    if (target && strcmp(name, "_") == 0) {
        uint32_t bytes = want < 0 ? in->op->size : (uint32_t)want;
        put(d, in, new_slot(d, bytes), bytes);
        return;
    }
    if (!target && strcmp(name, "WARP_SZ") == 0) { put(d, in, constant(d, 32, 4), 4); return; }
    for (int i = 0; i < SR_COUNT && !target; i++) if (strcmp(name, special_registers[i].name) == 0) {
            if (want >= 0 && (uint32_t)want != special_registers[i].bytes)
                fail(d, "%s: %s has %u bytes", in->op->name, name, special_registers[i].bytes);
            if (d->k->slots[i] == ~0u) d->k->slots[i] = new_slot(d, special_registers[i].bytes);
            put(d, in, d->k->slots[i], special_registers[i].bytes);
            return;
    }
    symbol *s = find(d, name);
    if (!s) fail(d, "%s: '%s' is not declared", in->op->name, name);
    if (s->kind == SYM_DYNAMIC && !target && (want == 4 || want == 8)) {
        put(d, in, dynamic_slot(d, (uint32_t)want), (uint32_t)want);
        return;
    }
    if (s->kind != SYM_REGISTER) {
        if (target || (want != 4 && want != 8)) fail(d, "%s: '%s' is a variable, not a register", in->op->name, name);
        put(d, in, constant(d, s->value, (uint32_t)want), (uint32_t)want);
        return;
    }
    if (want >= 0 && s->bytes != (uint32_t)want)
        fail(d, "%s: register %s has %u bytes, %d expected (0: predicate)", in->op->name, name, s->bytes, want);
    uint32_t index = 0;
    if (s->numbered) index = (uint32_t)strtoul(name + strlen(s->name), NULL, 10);
    put(d, in, (uint32_t)s->value + index * slot_bytes(s->bytes), s->bytes);
}

/* [register], [variable], [either+offset] */
static void address(decoder *d, inst *in)
{
    char name[160];
    expect(d, '[');
    skip_space(d);
    if (isdigit((unsigned char)*d->p)) put(d, in, constant(d, integer(d), 8), 8);
    else {
        const char *start = d->p;
        word(d, name, sizeof name);
        symbol *s = find(d, name);
        if (!s) fail(d, "%s: '%s' is not declared", in->op->name, name);
        if (s->kind == SYM_REGISTER) {
            d->p = start;
            operand(d, in, -1, false);
            uint32_t bytes = in->bytes[in->operands - 1];
            if (bytes != 8 && !(bytes == 4 && (in->op->space == SPACE_SHARED || in->op->space == SPACE_LOCAL)))
                fail(d, "%s: an address register of %u bytes", in->op->name, bytes);
        }
        else if (s->kind == SYM_DYNAMIC) put(d, in, dynamic_slot(d, 8), 8);
        else put(d, in, constant(d, s->value, 8), 8);
    }
    if (accept(d, '+')) {
        int64_t offset = (int64_t)integer(d);
        if (in->operands > 1 && in->op->operands[0] == 'A') in->target = (int32_t)offset; /* the second address of cp.async */
        else in->offset = offset;
    }
    expect(d, ']');
}

static void refer(decoder *d, uint32_t at, int32_t table)
{
    reference *r = PUSH(d, reference);
    memset(r, 0, sizeof *r);
    if (word(d, r->name, sizeof r->name) == 0) fail(d, "a label expected before '%.20s'", d->p);
    r->scope = d->scope;
    r->inst = at;
    r->table = table;
    r->line = d->line;
}

/* The grammar of opcode.operands, tokens between spaces, operands between commas in PTX:
       R4 target of 4 bytes, r4 source; R* r* of any size; P p predicate; Q predicate[|predicate];
       S4 register[|predicate]; 4R4 {a,b,c,d}; A address; L label; I integer; a leading ? makes it and the rest
       optional (an absent operand's slot is ~0). */
static void parse_operands(decoder *d, inst *in, uint32_t at)
{
    const char *t = in->op->operands;
    for (bool first = true; *t; first = false) {
        bool optional = *t == '?';
        if (optional) t++;
        bool there = first ? (skip_space(d), *d->p != ';') : accept(d, ',');
        if (!there) {
            if (!optional) fail(d, "%s: too few operands", in->op->name);
            while (*t) { if (*t != ' ' && (t[-1] == ' ' || t[-1] == '?')) put(d, in, ~0u, 0); t++; }
            break;
        }
        int count = 1;
        bool vector = isdigit((unsigned char)*t);
        if (vector) { count = *t++ - '0'; expect(d, '{'); }
        char kind = *t++;
        int want = -1;
        if (kind == 'P' || kind == 'p' || kind == 'Q') want = 0;
        if (*t == '*') t++;
        else if (isdigit((unsigned char)*t)) want = *t++ - '0';
        for (int i = 0; i < count; i++) {
            if (i) expect(d, ',');
            switch (kind) {
            case 'R': case 'P': operand(d, in, want, true); break;
            case 'r': case 'p': operand(d, in, want, false); break;
            case 'Q': case 'S':
                operand(d, in, want, true);
                if (accept(d, '|')) operand(d, in, 0, true);
                else put(d, in, ~0u, 0);
                break;
            case 'A': address(d, in); break;
            case 'L': refer(d, at, -1); break;
            case 'I': in->offset = (int64_t)integer(d); break;
            default: fail(d, "%s: bad operand grammar '%s'", in->op->name, in->op->operands);
            }
        }
        if (vector) expect(d, '}');
        while (*t == ' ') t++;
    }
    expect(d, ';');
}

/* ---- statements ---- */

static inst *new_inst(decoder *d, const opcode *op)
{
    kernel *k = d->k;
    k->code = grow(k->code, k->instructions, &d->inst_room, sizeof *k->code);
    inst *in = &k->code[k->instructions++];
    memset(in, 0, sizeof *in);
    in->op = op;
    in->run = op->run;
    in->guard = ~0u;
    in->line = d->line;
    in->source_line = d->source_line;
    return in;
}

static void body(decoder *d);

static int open_scope(decoder *d, int parent)
{
    d->scope_parent = grow(d->scope_parent, d->scope_count, &d->scope_room, sizeof *d->scope_parent);
    d->scope_parent[d->scope_count] = parent;
    return (int)d->scope_count++;
}

/* call[.uni] [(result),] name [, (arguments)]; the function's body is decoded here, its parameters are the caller's variables. */
static void call(decoder *d)
{
    char result[160] = "", name[160], arguments[32][160];
    int count = 0;
    if (accept(d, '(')) { word(d, result, sizeof result); expect(d, ')'); expect(d, ','); }
    word(d, name, sizeof name);
    if (accept(d, ',')) {
        expect(d, '(');
        if (!accept(d, ')')) {
            do {
                if (count == 32) fail(d, "call of %s: more than 32 arguments", name);
                word(d, arguments[count++], 160);
            } while (accept(d, ','));
            expect(d, ')');
        }
    }
    expect(d, ';');
    function *f = NULL;
    for (size_t i = 0; i < d->function_count; i++) if (strcmp(d->functions[i].name, name) == 0) f = &d->functions[i];
    if (!f) fail(d, "call of '%s', which has no body here", name);
    if (++d->depth > 16) fail(d, "call of '%s': calls nest deeper than 16, or recur", name);
    const char *p = d->p;
    uint32_t line = d->line;
    int scope = d->scope, return_label = d->return_label;
    size_t symbols = d->symbol_count;
    uint64_t values[33];
    for (int i = 0; i < count; i++) {
        symbol *s = find(d, arguments[i]);
        if (!s || s->kind != SYM_LOCAL_PARAM) fail(d, "call of '%s': argument '%s' is not a .param variable", name, arguments[i]);
        values[i] = s->value;
    }
    if (result[0]) {
        symbol *s = find(d, result);
        if (!s) fail(d, "call of '%s': result '%s' is not declared", name, result);
        values[32] = s->value;
    }
    d->scope = open_scope(d, -1);
    d->return_label = d->scope;
    d->p = f->text;
    d->line = f->line;
    char text[160];
    uint64_t size;
    uint32_t align, element;
    if (accept(d, '(')) {
        word(d, text, sizeof text);
        variable(d, text, sizeof text, &size, &align, &element);
        expect(d, ')');
        add_symbol(d, text, SYM_LOCAL_PARAM, values[32]);
    }
    word(d, text, sizeof text);
    int n = 0;
    if (accept(d, '(') && !accept(d, ')')) {
        do {
            word(d, text, sizeof text);
            variable(d, text, sizeof text, &size, &align, &element);
            if (n >= count) fail(d, "call of '%s' with too few arguments", name);
            add_symbol(d, text, SYM_LOCAL_PARAM, values[n++]);
        } while (accept(d, ','));
        expect(d, ')');
    }
    while (accept_word(d, ".noreturn")) { }
    expect(d, '{');
    body(d);
    label *end = PUSH(d, label);
    memset(end, 0, sizeof *end);
    strcpy(end->name, "return");
    end->scope = d->return_label;
    end->at = (int32_t)d->k->instructions;
    d->p = p;
    d->line = line;
    d->scope = scope;
    d->return_label = return_label;
    d->symbol_count = symbols;
    d->depth--;
}

/* mov to or from {...} and ld/st of a function's parameters stand in the table under names of their own. */
static void rename_opcode(decoder *d, char *name, size_t room)
{
    size_t n = strlen(name);
    if (strncmp(name, "mov.b", 5) == 0) {
        skip_space(d);
        const char *comma = d->p;
        if (*d->p == '{') {
            int parts = 1;
            for (const char *c = d->p; *c && *c != '}'; c++) parts += *c == ',';
            snprintf(name + n, room - n, ":unpack%d", parts);
        } else {
            while (*comma && *comma != ',' && *comma != ';') comma++;
            if (*comma == ',') for (comma++; isspace((unsigned char)*comma); comma++) { }
            if (*comma == '{') {
                int parts = 1;
                for (const char *c = comma; *c && *c != '}'; c++) parts += *c == ',';
                snprintf(name + n, room - n, ":pack%d", parts);
            }
        }
    }
    if (strncmp(name, "ld.param", 8) == 0 || strncmp(name, "st.param", 8) == 0) {
        const char *bracket = strchr(d->p, '[');
        char text[160];
        if (!bracket) return;
        const char *p = d->p;
        uint32_t line = d->line;
        d->p = bracket + 1;
        word(d, text, sizeof text);
        d->p = p;
        d->line = line;
        symbol *s = find(d, text);
        if (s && s->kind == SYM_LOCAL_PARAM) memcpy(name + 3, "local", 5);
    }
}

static void statement(decoder *d, char *name, size_t room, uint32_t guard, bool guard_not)
{
    if (strcmp(name, "call") == 0 || strcmp(name, "call.uni") == 0) {
        if (guard != ~0u) fail(d, "a guarded call");
        call(d);
        return;
    }
    if (strcmp(name, "ret") == 0 && d->return_label >= 0) {
        inst *in = new_inst(d, opcode_find("bra"));
        in->guard = guard;
        in->guard_not = guard_not;
        reference *r = PUSH(d, reference);
        memset(r, 0, sizeof *r);
        strcpy(r->name, "return");
        r->scope = d->return_label;
        r->inst = d->k->instructions - 1;
        r->table = -1;
        expect(d, ';');
        return;
    }
    rename_opcode(d, name, room);
    const opcode *op = opcode_find(name);
    if (!op) fail(d, "unknown opcode '%s'", name);
    if (sim.exact && op->contracts) fail(d, "'%s' without a rounding may be fused into an fma by ptxas (CUDASIM_EXACT)", name);
    inst *in = new_inst(d, op);
    in->guard = guard;
    in->guard_not = guard_not;
    if (strncmp(name, "membar", 6) == 0 || strncmp(name, "fence", 5) == 0) d->k->fences = true;
    uint32_t at = d->k->instructions - 1;
    parse_operands(d, in, at);
    if (!getenv("CUDASIM_DROP")) return;
    uint32_t count = 0; /* of this opcode, so far */
    for (uint32_t i = 0; i <= at; i++) count += strcmp(d->k->code[i].op->name, op->name) == 0;
    for (uint32_t i = 0; i < at; i++) count += d->k->code[i].was == op;
    if (dropped(d->k->name, op->name, count)) {
        in = &d->k->code[at];
        in->was = op;
        in->op = opcode_find("nanosleep.u32"); /* which does nothing */
        in->run = in->op->run;
        in->guard = ~0u;
    }
}

static void body(decoder *d)
{
    char name[160];
    int top = d->scope;
    size_t symbols[64], depth = 0;
    for (;;) {
        skip_space(d);
        if (*d->p == 0) fail(d, "the text ends inside a function");
        if (accept(d, '{')) {
            if (depth == 64) fail(d, "scopes nest too deep");
            symbols[depth++] = d->symbol_count;
            d->scope = open_scope(d, d->scope);
            continue;
        }
        if (accept(d, '}')) {
            if (depth == 0) { if (d->scope != top) fail(d, "scopes do not match"); return; }
            d->symbol_count = symbols[--depth];
            d->scope = d->scope_parent[d->scope];
            continue;
        }
        if (accept(d, ';')) continue;
        uint32_t guard = ~0u;
        bool guard_not = false;
        if (accept(d, '@')) {
            guard_not = accept(d, '!');
            word(d, name, sizeof name);
            symbol *s = find(d, name);
            if (!s || s->kind != SYM_REGISTER || s->bytes != 0) fail(d, "guard '%s' is not a predicate", name);
            guard = (uint32_t)s->value + (s->numbered ? (uint32_t)strtoul(name + strlen(s->name), NULL, 10) * slot_bytes(0) : 0);
        }
        if (word(d, name, sizeof name) == 0) fail(d, "an instruction expected before '%.20s'", d->p);
        if (guard == ~0u && accept(d, ':')) {
            if (accept_word(d, ".branchtargets")) {
                label *l = PUSH(d, label);
                memset(l, 0, sizeof *l);
                snprintf(l->name, sizeof l->name, "%s", name);
                l->scope = d->scope;
                l->at = (int32_t)d->targets_count;
                size_t first = d->targets_count++;
                do {
                    d->k->branch_targets = grow(d->k->branch_targets, d->targets_count + 1, &d->targets_room, sizeof(int32_t));
                    refer(d, 0, (int32_t)d->targets_count++);
                } while (accept(d, ','));
                d->k->branch_targets[first] = (int32_t)(d->targets_count - first - 1);
                expect(d, ';');
                continue;
            }
            label *l = PUSH(d, label);
            memset(l, 0, sizeof *l);
            snprintf(l->name, sizeof l->name, "%s", name);
            l->scope = d->scope;
            l->at = (int32_t)d->k->instructions;
        }
        else if (strcmp(name, ".reg") == 0) declare_registers(d);
        else if (strcmp(name, ".local") == 0) { declare_local(d, SYM_ADDRESS); expect(d, ';'); }
        else if (strcmp(name, ".param") == 0) { declare_local(d, SYM_LOCAL_PARAM); expect(d, ';'); }
        else if (strcmp(name, ".shared") == 0) declare_shared(d);
        else if (strcmp(name, ".pragma") == 0) {
            if (!accept(d, '"')) fail(d, ".pragma: a string expected");
            while (*d->p && *d->p != ';') d->p++;
            expect(d, ';');
        }
        else if (strcmp(name, ".loc") == 0) {
            integer(d);
            d->source_line = (uint32_t)integer(d);
            while (*d->p && *d->p != '\n') d->p++;
        }
        else if (name[0] == '.') fail(d, "unknown directive '%s'", name);
        else statement(d, name, sizeof name, guard, guard_not);
    }
}

static void resolve(decoder *d)
{
    uint32_t line = d->line;
    for (size_t i = 0; i < d->reference_count; i++) {
        reference *r = &d->references[i];
        int32_t at = -1;
        for (int scope = r->scope; scope >= 0 && at < 0; scope = d->scope_parent[scope])
            for (size_t j = 0; j < d->label_count; j++)
                if (d->labels[j].scope == scope && strcmp(d->labels[j].name, r->name) == 0) { at = d->labels[j].at; break; }
        d->line = r->line;
        if (at < 0) fail(d, "label '%s' does not exist", r->name);
        if (r->table >= 0) d->k->branch_targets[r->table] = at;
        else d->k->code[r->inst].target = at;
    }
    d->reference_count = d->label_count = 0;
    d->line = line;
}

static void kernel_entry(decoder *d)
{
    char name[160];
    d->m->kernels = realloc(d->m->kernels, (d->m->kernel_count + 1) * sizeof *d->m->kernels);
    kernel *k = d->k = &d->m->kernels[d->m->kernel_count++];
    memset(k, 0, sizeof *k);
    memset(k->slots, 0xff, sizeof k->slots);
    d->inst_room = d->constants_room = d->targets_room = d->targets_count = 0;
    size_t symbols = d->symbol_count;
    d->scope = open_scope(d, -1);
    d->return_label = -1;
    word(d, name, sizeof name);
    k->name = strdup(name);
    k->max_threads = 1024;
    k->shared_bytes = d->m->shared_bytes;
    if (accept(d, '(') && !accept(d, ')')) {
        do {
            word(d, name, sizeof name);
            if (strcmp(name, ".param") != 0) fail(d, ".param expected, not '%s'", name);
            uint64_t size;
            uint32_t align, element;
            variable(d, name, sizeof name, &size, &align, &element);
            k->params = realloc(k->params, (k->param_count + 1) * sizeof *k->params);
            k->params_bytes = (uint32_t)round_up(k->params_bytes, align);
            k->params[k->param_count].offset = k->params_bytes;
            k->params[k->param_count++].size = (uint32_t)size;
            add_symbol(d, name, SYM_PARAM, k->params_bytes);
            k->params_bytes += (uint32_t)size;
        } while (accept(d, ','));
        expect(d, ')');
    }
    for (;;) {
        if (accept(d, '{')) break;
        word(d, name, sizeof name);
        if (strcmp(name, ".maxntid") == 0 || strcmp(name, ".reqntid") == 0) {
            uint32_t n[3] = { 1, 1, 1 }, i = 0;
            do n[i++] = (uint32_t)integer(d); while (i < 3 && accept(d, ','));
            k->max_threads = n[0] * n[1] * n[2];
            if (name[1] == 'r') memcpy(k->required_threads, n, sizeof n);
        }
        else if (strcmp(name, ".minnctapersm") == 0 || strcmp(name, ".maxnreg") == 0) integer(d);
        else fail(d, "kernel %s: unknown directive '%s'", k->name, name);
    }
    body(d);
    resolve(d);
    new_inst(d, opcode_find("ret")); /* falling off the end */
    d->symbol_count = symbols;
    d->k = NULL;
}

/* Remembers where a function's text is and skips it: calls decode it. */
static void function_entry(decoder *d)
{
    function *f = PUSH(d, function);
    memset(f, 0, sizeof *f);
    f->text = d->p;
    f->line = d->line;
    if (accept(d, '(')) { while (*d->p && *d->p != ')') d->p++; expect(d, ')'); }
    word(d, f->name, sizeof f->name);
    skip_space(d);
    while (*d->p && *d->p != '{' && *d->p != ';') { if (*d->p == '\n') d->line++; d->p++; }
    if (accept(d, ';')) { d->function_count--; return; } /* a declaration */
    int depth = 0;
    do {
        if (*d->p == '\n') d->line++;
        if (*d->p == '{') depth++;
        if (*d->p == '}') depth--;
        if (*d->p == 0) fail(d, "the text ends inside a function");
        d->p++;
    } while (depth);
}

static void top_level(decoder *d)
{
    char name[160];
    for (;;) {
        skip_space(d);
        if (*d->p == 0) return;
        if (word(d, name, sizeof name) == 0) fail(d, "'%.20s' not understood", d->p);
        if (strcmp(name, ".version") == 0) {
            char version[32];
            word(d, version, sizeof version);
            if (!d->cubin && atoi(version) > sim.driver_version / 1000 - 4)
                fail(d, "PTX version %s is newer than the driver (%d)", version, sim.driver_version);
        }
        else if (strcmp(name, ".target") == 0) {
            char target[64];
            word(d, target, sizeof target);
            if (strncmp(target, "sm_", 3) != 0) fail(d, ".target '%s' is not sm_...", target);
            d->m->target = (uint32_t)atoi(target + 3);
            while (accept(d, ',')) word(d, target, sizeof target);
        }
        else if (strcmp(name, ".address_size") == 0) { if (integer(d) != 64) fail(d, ".address_size is not 64"); }
        else if (strcmp(name, ".visible") == 0 || strcmp(name, ".weak") == 0) continue;
        else if (strcmp(name, ".entry") == 0) kernel_entry(d);
        else if (strcmp(name, ".func") == 0) function_entry(d);
        else if (strcmp(name, ".global") == 0 || strcmp(name, ".const") == 0) declare_global(d);
        else if (strcmp(name, ".shared") == 0) declare_shared(d);
        else if (strcmp(name, ".file") == 0) { while (*d->p && *d->p != '\n') d->p++; }
        else if (strcmp(name, ".extern") == 0) {
            word(d, name, sizeof name);
            if (strcmp(name, ".func") == 0) { function_entry(d); continue; }
            if (strcmp(name, ".shared") != 0) fail(d, ".extern %s is not known", name);
            uint64_t size;
            uint32_t align, element;
            variable(d, name, sizeof name, &size, &align, &element);
            expect(d, ';');
            add_symbol(d, name, SYM_DYNAMIC, 0);
        }
        else if (strcmp(name, ".section") == 0) { /* debugging information */
            while (*d->p && *d->p != '{') d->p++;
            while (*d->p && *d->p != '}') { if (*d->p == '\n') d->line++; d->p++; }
            expect(d, '}');
        }
        else fail(d, "unknown directive '%s'", name);
    }
}

module *module_decode(int device, const char *text, bool cubin, char *error, size_t error_size)
{
    decoder d = { .line = 1, .cubin = cubin, .error = error, .error_size = error_size };
    module *volatile kept = calloc(1, sizeof *kept);
    module *m = kept;
    m->device = device;
    m->text = strdup(text);
    d.p = m->text;
    d.m = m;
    bool good = setjmp(d.stop) == 0;
    if (good) {
        top_level(&d);
        for (uint32_t i = 0; i < m->kernel_count; i++) m->kernels[i].module = m;
    }
    free(d.symbols); free(d.labels); free(d.references); free(d.functions); free(d.scope_parent);
    if (good) return kept;
    module_free(kept);
    return NULL;
}

void module_free(module *m)
{
    for (uint32_t i = 0; i < m->kernel_count; i++) {
        kernel *k = &m->kernels[i];
        free(k->name); free(k->code); free(k->constants); free(k->params); free(k->branch_targets);
    }
    for (uint32_t i = 0; i < m->global_count; i++) { device_free(m->globals[i].address); free(m->globals[i].name); }
    free(m->kernels); free(m->globals); free(m->text);
    m->magic = 0;
    free(m);
}
