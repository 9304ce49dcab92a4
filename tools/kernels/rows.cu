// The rows of dltrain.h read as device functions, for generated kernels.
#define ROW1(name, forward, derivative) E_IN float ew_##name(float X) { return forward; }
#define ROWS(name, forward, derivative) E_IN float ew_##name(float X, float a, float b) { return forward; }
#define ROW2(name, forward, dx, dz) E_IN float ew_##name(float X, float Z) { return forward; }
#define ROW0(name, forward) E_IN float ew_##name(float X, float Z) { return E_ONE(forward); }
DL__UNARY_ROWS(ROW1)
DL__SCALED_ROWS(ROWS)
DL__BINARY_ROWS(ROW2)
DL__COMPARE_ROWS(ROW0)
// What may change from step to step without a new kernel or graph: floats and the random counter of a node.
struct Number { float a, b; uint64_t counter; };

E_IN float ew_where(float C, float X, float Z) { return E_SEL(E_NE(C, E_K(0)), X, Z); }

// Number i of the random stream `key`, `counter`: four to a Philox block.
E_IN void ew_block(uint64_t key, uint64_t counter, uint64_t i, uint32_t u[4]) { dl__philox(key, i / 4, counter, u); }
E_IN float ew_rand(uint64_t key, uint64_t counter, uint64_t i)
{
    uint32_t u[4];
    ew_block(key, counter, i, u);
    return dl__uniform(i & 2 ? i & 1 ? u[3] : u[2] : i & 1 ? u[1] : u[0]);
}
E_IN float ew_randn(uint64_t key, uint64_t counter, uint64_t i)
{
    uint32_t u[4], v[4];
    ew_block(key, counter, i, u);
    v[0] = v[2] = i & 2 ? u[2] : u[0]; // of constant indices: stays in registers
    v[1] = v[3] = i & 2 ? u[3] : u[1];
    return dl__normal(v, (int)(i & 1));
}
E_IN float ew_dropout(float x, float p, float scale, uint64_t key, uint64_t counter, uint64_t i)
{
    return ew_rand(key, counter, i) < p ? 0 : __fmul_rn(x, scale);
}

// What a thread takes at once: WIDE numbers from number i on, of one read or write where they are more.
template <class T> struct alignas(WIDE * sizeof(T)) Lanes { T v[WIDE]; };
template <class T> E_IN Lanes<T> get(const T *x, Index i) { return *(const Lanes<T> *)(x + i); }
template <class T> E_IN void put(T *y, Index i, const Lanes<T> &v) { *(Lanes<T> *)(y + i) = v; }
#define EACH(j) _Pragma("unroll") for (int j = 0; j < WIDE; j++)
