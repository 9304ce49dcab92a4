#!/usr/bin/env bash
# The SIMD levels: the same bits from each, on any number of threads; AVX-512 in emulation (SIMDe), NEON and a big-endian machine in QEMU;
# and what the compiler made of the inner loop of the product for AVX-512, which no test can run at speed here.
cd "$(dirname "$0")/.." || exit 1
dir=build/levels
rm -rf $dir
mkdir -p $dir

have() { command -v "$1" > /dev/null || { echo "skip levels: $2: $1 is not installed"; return 1; }; }
build() { # PROGRAM COMMAND...: with what it says, or one 'not ok'
    local log=$dir/$1.log
    if "${@:2}" -std=gnu11 -Wall -Wextra -lm -pthread > "$log" 2>&1; then return; fi
    echo "not ok levels: $* does not build: $(grep -m1 error "$log" | cut -c1-300)"
    return 1
}
passes() { # NAME COMMAND...
    local log
    if log=$("${@:2}" 2>&1); then echo "ok levels: $1"; else echo "not ok levels: $1: $(grep -v '^ok ' <<< "$log" | head -2 | tr '\n' ' ' | cut -c1-400)"; fi
}

# This CPU's levels. One that it lacks must say so.
if build hashes "${CC:-cc}" -O2 tests/test_hashes.c "$(tests/run --library plain)" -o $dir/hashes; then
    for level in portable avx2 avx512 neon; do
        if DLTRAIN_SIMD=$level $dir/hashes 1 2>&1 | grep -q "this CPU or build lacks it"; then continue; fi
        for threads in 1 2 3; do passes "$level, $threads threads" env DLTRAIN_SIMD=$level $dir/hashes $threads; done
    done
fi

# AVX-512, computed in C: the wrapper of <immintrin.h> in tests/avx512 takes SIMDe's intrinsics.
if [ "$(uname -m)" != x86_64 ]; then
    echo "skip levels: avx512 in emulation: this is not an x86-64"
elif ! grep -qw avx2 /proc/cpuinfo; then
    echo "skip levels: avx512 in emulation: the CPU has no AVX2"
elif ! echo '#include <simde/x86/avx512.h>' | gcc -E -x c - > /dev/null 2>&1; then
    echo "skip levels: avx512 in emulation: libsimde-dev is not installed"
else
    emulated="gcc -O1 -mavx2 -mfma -Wno-psabi -Wno-uninitialized -Itests/avx512"
    build avx512-library $emulated -c tests/library.c -o $dir/avx512.o && for test in hashes math; do
        build avx512-$test $emulated tests/test_$test.c $dir/avx512.o -o $dir/avx512-$test &&
            passes "avx512 in emulation, test_$test" env DLTRAIN_SIMD=avx512 $dir/avx512-$test
    done
fi

# The inner loop of dl__panel_avx512's largest tile: from a label to the jump back to it, with the multiply-adds in between.
if [ "$(uname -m)" = x86_64 ]; then
    printf '#define DLTRAIN_IMPLEMENTATION\n#include "../../dltrain.h"\n' > $dir/alone.c
    for cc in gcc clang; do
        have $cc "the loop of the product by $cc" || continue
        $cc -std=c99 -O2 -S $dir/alone.c -o $dir/$cc.s 2> $dir/$cc.log
        awk '/^dl__panel_avx512:/ { inside = 1 } /\.size[ \t]+dl__panel_avx512/ { inside = 0 }
            inside && /^\.L[A-Za-z0-9_]*:/ { label = $1; sub(/:.*/, "", label); body = "" }
            inside { body = body $0 "\n" }
            inside && $1 ~ /^j/ && $2 == label { n = gsub(/vfmadd/, "&", body); if (n > most) { most = n; loop = body } }
            END { printf "%s", loop }' $dir/$cc.s > $dir/$cc.loop
        fma=$(grep -c 'vfmadd[0-9]*ps' $dir/$cc.loop)
        moves=$(grep -cE 'vmov[a-z]*ps.*(%rsp|%rbp)|vmovaps.*%zmm[0-9]+, %zmm' $dir/$cc.loop)
        if [ "$fma" -ge 16 ] && [ "$moves" = 0 ]; then echo "ok levels: the loop of the product by $cc: $fma multiply-adds, nothing spilled"
        else echo "not ok levels: the loop of the product by $cc: $fma multiply-adds, $moves spills and copies"; fi
    done
fi

# Other machines.
if have qemu-aarch64-static "arm64" && have aarch64-linux-gnu-gcc "arm64"; then
    build arm64-library aarch64-linux-gnu-gcc -O2 -c tests/library.c -o $dir/arm64.o && for test in hashes math ops_float; do
        build arm64-$test aarch64-linux-gnu-gcc -O2 -static tests/test_$test.c $dir/arm64.o -o $dir/arm64-$test && passes "neon on arm64, test_$test" qemu-aarch64-static $dir/arm64-$test
    done
    if have clang "arm64 by clang"; then
        build arm64-clang clang --target=aarch64-linux-gnu -O1 -static tests/test_hashes.c tests/library.c -o $dir/arm64-clang && passes "neon on arm64 by clang, test_hashes" qemu-aarch64-static $dir/arm64-clang
    fi
fi
if have qemu-s390x-static "s390x" && have s390x-linux-gnu-gcc "s390x"; then
    build s390x s390x-linux-gnu-gcc -O1 -static -fexcess-precision=fast tests/test_hashes.c tests/library.c -o $dir/s390x && passes "portable on big-endian s390x, test_hashes" qemu-s390x-static $dir/s390x
fi
