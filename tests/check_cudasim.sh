#!/usr/bin/env bash
# The simulated CUDA driver (tests/cudasim): right kernels give plain C's results on every architecture, from PTX and from cubins; planted bugs are caught and named.
cd "$(dirname "$0")/.." || exit 1
mkdir -p build
if ! tests/cudasim/build.sh > build/cudasim.log 2>&1; then
    echo "not ok cudasim: does not build: $(grep -m 3 -E 'error|No such' build/cudasim.log | tr '\n' ' ')"
    echo "0 passed, 1 failed, 0 skipped"
    exit 1
fi
if grep -q 'no NVRTC' build/cudasim.log; then
    echo "skip cudasim: $(cat build/cudasim.log)"
    echo "0 passed, 0 failed, 1 skipped"
    exit
fi
out=build/cudasim
"${CC:-cc}" -std=gnu11 -O1 -ffp-contract=off -Wall -Wextra tests/cudasim/selftest.c -o $out/selftest -L$out -l:libcuda.so.1 -lm -ldl -pthread || { echo "not ok selftest: does not build"; exit 1; }
export LD_LIBRARY_PATH=$PWD/$out
run() { # name, then the program
    local name=$1 status log=$out/log.${1// /-}.txt
    shift
    timeout 60 "$@" > "$log" 2> "$log.err"
    status=$?
    sed -E "s/^(ok|not ok) /\1 $name: /" "$log"
    [ $status = 0 ] || grep -q '^not ok' "$log" || echo "not ok $name: exit status $status: $(tail -n 2 "$log.err" | tr '\n' ' ')"
}
{
    for arch in 75 80 90 100 120; do CUDASIM_ARCH=$arch run compute_$arch $out/selftest results compute_$arch; done
    CUDASIM_ARCH=80 run sm_80 $out/selftest results sm_80
    for arch in 80 100; do CUDASIM_BUDGET=1 CUDASIM_ARCH=$arch run bugs_$arch $out/selftest bugs compute_$arch; done
    CUDASIM_COUNT=1 run opcodes $out/selftest opcodes
    # an older driver takes a cubin, no newer PTX; a cubin wants its own major architecture, PTX one that is not older
    for load in "80 12040 compute_80 222" "80 12040 sm_80 0" "75 13000 compute_80 209" "90 13000 sm_80 209" "86 13000 sm_80 0" "120 13000 sm_120 0"; do
        set -- $load
        CUDASIM_ARCH=$1 CUDASIM_DRIVER=$2 run "sm_$1 driver $2" $out/selftest load $3 $4
    done
    CUDASIM_DEVICES=2 run streams $out/selftest streams
    CUDASIM_DEVICES=4 run nccl $out/selftest nccl
    CUDASIM_ORDER=1 run order $out/selftest order
    run dropped $out/selftest dropped
    # faults of the two other libraries: the program sees the code
    sees() { # name, words of its output, the command
        if timeout 60 "${@:3}" 2>&1 | grep -q "$2"; then echo "ok $1"; else echo "not ok $1: not '$2'"; fi
    }
    sees "NVRTC missing" "rtc_create.* returned 11" env CUDASIM_NVRTC=/no/such $out/selftest load compute_80
    sees "NVRTC failing" "not ok compile for compute_80: 6" env CUDASIM_FAIL=nvrtc:1 $out/selftest load compute_80
    sees "NCCL failing" "nccl_init.* returned 3" env CUDASIM_DEVICES=4 CUDASIM_FAIL=nccl:2 $out/selftest nccl
    sees "fewer devices than ranks" "cuDevicePrimaryCtxRetain.* returned 101" env CUDASIM_DEVICES=2 $out/selftest nccl
    run faults $out/selftest faults
} > $out/log.txt
cat $out/log.txt
echo "$(grep -c '^ok ' $out/log.txt) passed, $(grep -c '^not ok ' $out/log.txt) failed, 0 skipped"
! grep -q '^not ok ' $out/log.txt
