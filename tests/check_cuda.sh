#!/usr/bin/env bash
# dltrain_cuda.h on a simulated GPU (tests/cudasim): what it computes, against the CPU, bit for bit; what it says when things are missing
# or fail; its kernels, for every architecture that NVRTC knows. Without NVRTC, which compiles them, all of it is skipped. This shows
# nothing of speed. check_cuda.sh [PART...]: these parts; without, all of them, as many at once as there are CPUs.
cd "$(dirname "$0")/.." || exit 1
root=$PWD dir=$PWD/build/cuda parts=$*
mkdir -p "$dir"
wants() { [[ " $parts " == *" $1 "* ]]; }
# The longest first. What takes time is NVRTC: kernels needs no kernel of the others, and these take those of bits from the cache.
all="kernels bits schedules worlds planted gold gpu-check digits failures generated cache linking"
if [ -z "$parts" ]; then
    rm -f "$dir/built"
    tr ' ' '\n' <<< "$all" | one_run=1 xargs -P "$(nproc)" -I{} bash -c 'bash tests/check_cuda.sh {} > build/cuda/{}.txt 2>&1'
    for part in $all; do cat "$dir/$part.txt"; done
    exit
fi
if ! wants linking; then :
elif ! command -v python3 > /dev/null; then echo "skip cuda: is the embedded text of the kernels fresh: no python3"
elif stale=$(python3 tools/embed_kernels.py --check 2>&1); then echo "ok cuda: the embedded text of the kernels is fresh"
else echo "not ok cuda: $stale"; fi

built=$(tests/cudasim/build.sh 2>&1)
if [ ! -f build/cudasim/libcuda.so.1 ]; then echo "not ok cuda: the simulated driver does not build: $(tail -1 <<< "$built")"; exit; fi
if [[ $built == *"no NVRTC"* ]]; then echo "skip cuda: there is no NVRTC: tools/setup.sh installs it"; exit; fi
sim() { LD_LIBRARY_PATH=$root/build/cudasim DLTRAIN_CUDA_CACHE=${cache-$root/build/cuda/cache} timeout 600 "$@"; }

# The core is compiled once, for all tests; dltrain_cuda.h once here, beside those programs that look into it.
core=$(tests/run --library plain)
compile() { # NAME SOURCE ARGUMENT...: SOURCE is what a complaint names
    ${CC:-cc} -std=gnu11 -Wall -Wextra "${@:3}" -o "$dir/$1" > "$dir/$1.build" 2>&1 && [ ! -s "$dir/$1.build" ] && return
    echo "not ok cuda: $2 does not build without warnings: $(cat "$core.build" "$dir/$1.build" | head -3 | tr '\n' ' ')"
    return 1
}
object() { # NAME LINE...: an implementation of dltrain_cuda.h, after these lines
    printf '%s\n' '#include "dltrain.h"' '#define DLTRAIN_IMPLEMENTATION' "${@:2}" '#include "dltrain_cuda.h"' > "$dir/$1.c"
    compile "$1.o" dltrain_cuda.h -O1 -I. "-I$dir" -c "$dir/$1.c"
}
build() { # NAME FILE ARGUMENT...: linked to the core
    compile "$1" "$2" -O1 "$2" "${@:3}" "$core" -lm -pthread
}
build_example() { # NAME OBJECT: linked to the core and to this
    sed 's/^#define DLTRAIN_IMPLEMENTATION$/#include <stdio.h>/' "examples/$1.c" > "$dir/$1.c"
    compile "$1" "examples/$1.c" -O1 -iquote examples "$dir/$1.c" "$2" "$core" -lm -pthread
}
build_alone() { # NAME FILE: with an implementation of its own
    compile "$1" "$2" -O0 -DDLTRAIN_NO_SIMD "$2" -lm -pthread
}
# Lines of a test program, with what the simulator reports
report() { # NAME COMMAND...
    local log=$dir/$1.log status
    "${@:2}" > "$log" 2>&1
    status=$?
    grep -E '^(ok|not ok|skip) ' "$log" | sed "s/^\(ok\|not ok\|skip\) /\1 cuda $1: /" | tee "$log.lines"
    if grep -q '^cudasim:' "$log" && ! grep -q '^not ok' "$log"; then echo "not ok cuda $1: $(grep -m1 '^cudasim:' "$log")"
    elif [ $status != 0 ] && ! grep -q '^not ok' "$log"; then echo "not ok cuda $1: exit status $status: $(tail -1 "$log")"; fi
}

# Registers, spills and shared memory: of the kernels that every program shares; and of some that are generated, those of W1 to W4 and those of
# operations that want the most registers
if wants kernels && build_alone kernels tests/cuda_kernels.c; then report kernels sim "$dir/kernels" tests/cuda_bounds.txt; fi
[ "$parts" != kernels ] || exit

# By the first part of a run that comes here, for all
prepare() {
    [ -n "$one_run" ] && [ -e "$dir/built" ] || { object cuda && build check tests/cuda_check.c && touch "$dir/built"; }
}
exec 9> "$dir/lock"
flock 9
prepare || exit
exec 9>&-

if wants generated && build_alone gpu_bounds tools/gpu_bounds.c && build_alone generated tests/cuda_kernels.c; then
    rm -rf "$dir/generated.texts"
    export DLTRAIN_CUDA_TEXTS=$dir/generated.texts
    sim "$dir/gpu_bounds" > "$dir/gpu_bounds.log" 2>&1
    sim "$dir/check" '*' random pow pow_minus_2 > "$dir/hungry.log" 2>&1
    unset DLTRAIN_CUDA_TEXTS
    report generated sim "$dir/generated" tests/cuda_bounds.txt "$dir/generated.texts"
    other=$(grep -vxFf docs/cuda.md "$dir/gpu_bounds.log")
    if [ "$(wc -l < "$dir/gpu_bounds.log")" = 4 ] && [ -z "$other" ]; then echo "ok cuda: the static bounds of docs/cuda.md"
    else echo "not ok cuda: the static bounds of docs/cuda.md are now: $other"; fi
fi

strict="-Wall -Wextra -pedantic -Wshadow -Wconversion -DDLTRAIN_NO_SIMD -I."
# As C99 and C++11, strictly; the two implementations in two files; and what a program says that lacks the second
if wants linking; then
    printf '#include <stdio.h>\n#include "dltrain.h"\nint main(void) { dl_config c = { 0 }; c.device = "cuda:0"; puts(dl_error(dl_create(&c))); return 0; }\n' > "$dir/main.c"
    for compiler in "${CC:-cc} -std=c99" "g++ -x c++ -std=c++11" "clang -std=c99"; do
        command -v ${compiler%% *} > /dev/null || { echo "skip cuda: $compiler is not installed"; continue; }
        if log=$($compiler $strict -fsyntax-only "$dir/cuda.c" 2>&1) && [ -z "$log" ]; then echo "ok cuda: strictly, by $compiler"
        else echo "not ok cuda: by $compiler: $(head -2 <<< "$log" | tr '\n' ' ')"; fi
    done
    build without "$dir/main.c" -I. && build with "$dir/main.c" "$dir/cuda.o" -I.
    if [[ $("$dir/without") == *"'cuda:0' needs dltrain_cuda.h"* ]]; then echo "ok cuda: without the header, the sentence that names it"; else echo "not ok cuda: without the header: $("$dir/without")"; fi
    if [ -z "$(sim "$dir/with")" ]; then echo "ok cuda: the implementations in two files"; else echo "not ok cuda: in two files: $(sim "$dir/with")"; fi
fi

if wants bits; then CUDASIM_DEVICES=4 CUDASIM_ORDER=1 report bits sim "$dir/check" 'cudasim sm_80'; fi
if wants schedules; then # the order of blocks, warps and streams, and both of NVRTC's compilers: up to sm_90 and from sm_100 on
    for seed in 2 3 4 5; do CUDASIM_SEED=$seed report "schedule-$seed" sim "$dir/check" 'cudasim sm_80' reading random optimizers nets; done
    # Inputs cross while steps run, results while the update does; the traces of three schedules tell
    for seed in 1 2 3; do CUDASIM_TRACE=$dir/trace-$seed CUDASIM_ORDER=1 CUDASIM_SEED=$seed report "inputs-$seed" sim "$dir/check" '*' inputs; done
    if cat "$dir"/trace-[123] | awk '$3 == "copy" { runs = 1; lane = $2 } $3 ~ /^update/ { runs = 0 } runs && $2 != lane { while_it_runs[$3] = 1 }
        END { exit !(while_it_runs["upload"] && while_it_runs["download"]) }'; then echo "ok cuda: inputs and results cross while a step runs"
    else echo "not ok cuda: inputs and results wait for steps to end"; fi
    CUDASIM_SEED=6 report schedule-6 sim "$dir/check" 'cudasim sm_80' tensor-nets
    CUDASIM_ARCH=120 report sm_120 sim "$dir/check" 'cudasim sm_120' reading random large wide tensor optimizers nets apart
    CUDASIM_ORDER=1 CUDASIM_SEED=6 report graphs-in-order sim "$dir/check" 'cudasim sm_80' graphs
    CUDASIM_ARCH=75 report sm_75 sim "$dir/check" 'cudasim sm_75' nets tensor
    CUDASIM_ARCH=130 report later-than-NVRTC sim "$dir/check" 'cudasim sm_130' reading # of a generation that it does not know: by PTX
fi

# Tests against PyTorch's numbers and known hashes, on the GPU instead of the CPU
if wants gold; then
    for name in ops_float layers methods training hashes; do
        build "gold-$name" "tests/test_$name.c" -DONE_WAY tests/device.c "$dir/cuda.o" -Wl,--wrap=dl_create && TEST_DEVICE=cuda:0 report "gold-$name" sim "$dir/gold-$name"
    done
fi

if wants digits && build_example digits "$dir/cuda.o"; then
    "$dir/digits" --epochs 2 --save "$dir/cpu.safetensors" > "$dir/digits-cpu.log" 2>&1
    rm -rf "$dir/texts"
    DLTRAIN_CUDA_TEXTS=$dir/texts sim "$dir/digits" --epochs 2 --device cuda:0 --save "$dir/gpu.safetensors" > "$dir/digits-gpu.log" 2>&1
    if cmp -s "$dir/cpu.safetensors" "$dir/gpu.safetensors"; then echo "ok cuda: digits.c trains to the same bytes on cuda:0 as on the CPU"
    else echo "not ok cuda: digits.c on cuda:0: $(tail -1 "$dir/digits-gpu.log")"; fi
    "$dir/digits" --epochs 1 --device cpu,cpu --save "$dir/cpu-2.safetensors" > "$dir/digits-cpu.log" 2>&1
    CUDASIM_DEVICES=2 sim "$dir/digits" --epochs 1 --device cuda:0,cuda:1 --save "$dir/gpu-2.safetensors" > "$dir/digits-gpu.log" 2>&1
    if cmp -s "$dir/cpu-2.safetensors" "$dir/gpu-2.safetensors"; then echo "ok cuda: digits.c trains to the same bytes on cuda:0,cuda:1 as on cpu,cpu"
    else echo "not ok cuda: digits.c on cuda:0,cuda:1: $(tail -1 "$dir/digits-gpu.log")"; fi
    if ldd "$dir/digits" | grep -vqE 'linux-vdso|libm\.so|libc\.so|ld-linux|libpthread|libdl'; then echo "not ok cuda: digits is linked to $(ldd "$dir/digits" | tr '\n' ' ')"
    else echo "ok cuda: digits is linked to libc and libm alone"; fi

    # Its kernels baked in, machine code and PTX: without NVRTC and without a cache
    if ! build_alone bake tools/bake_kernels.c || ! sim "$dir/bake" --for 80,75+ --texts "$dir/texts" "$dir/baked.h" > "$dir/bake.log" 2>&1; then
        echo "not ok cuda: baking: $(tail -1 "$dir/bake.log")"
    elif object baked '#include "baked.h"' && mv "$dir/digits" "$dir/digits-online" && build_example digits "$dir/baked.o" && mv "$dir/digits" "$dir/digits-baked"; then
        mv "$dir/digits-online" "$dir/digits"
        baked() { CUDASIM_ARCH=$1 DLTRAIN_NVRTC=no/such.so cache= sim "$dir/digits-baked" --device cuda:0 "${@:2}" 2>&1; }
        "$dir/digits" --epochs 1 --save "$dir/cpu-1.safetensors" > "$dir/digits-cpu.log" 2>&1
        for arch in 80 120; do
            rm -f "$dir/baked.safetensors"
            log=$(baked $arch --epochs 1 --save "$dir/baked.safetensors")
            if cmp -s "$dir/cpu-1.safetensors" "$dir/baked.safetensors"; then echo "ok cuda: kernels baked in train to the same bytes on sm_$arch without NVRTC"
            else echo "not ok cuda: kernels baked in, sm_$arch: $(tail -1 <<< "$log")"; fi
        done
        log=$(baked 70)
        if grep -q 'baked in are kernels for compute capability 8.0, 7.5 and later; .* is of 7.0' <<< "$log"; then echo "ok cuda: baked for other GPUs"
        else echo "not ok cuda: baked for other GPUs: $(tail -1 <<< "$log")"; fi
        cat > "$dir/tanh.c" << 'END'
#include <stdio.h>
#include "dltrain.h"
#include "dltrain_cuda.h"
int main(void)
{
    static dl_config c;
    c.device = "cuda:0";
    dl_context *ctx = dl_create(&c);
    dl_item(dl_tanh(dl_full(ctx, DL_SHAPE(1), 1)));
    puts(dl_error(ctx));
    dl_destroy(ctx);
    return 0;
}
END
        for how in "${CC:-cc} -std=c99" "g++ -x c++ -std=c++11"; do
            command -v ${how%% *} > /dev/null || { echo "skip cuda: $how is not installed"; continue; }
            if log=$($how $strict -I"$dir" -fsyntax-only "$dir/baked.c" 2>&1) && [ -z "$log" ]; then echo "ok cuda: baked, strictly, by $how"
            else echo "not ok cuda: baked, by $how: $(head -2 <<< "$log" | tr '\n' ' ')"; fi
        done
        build tanh "$dir/tanh.c" -I. "$dir/baked.o"
        log=$(DLTRAIN_NVRTC=no/such.so cache= sim "$dir/tanh" 2>&1)
        if grep -q "'[a-z_]*' of this program is not among them" <<< "$log"; then echo "ok cuda: a kernel that was not baked"
        else echo "not ok cuda: a kernel that was not baked: $(tail -1 <<< "$log")"; fi
    fi
    if log=$(sim "$dir/bake" --for 80,42 "$dir/none.h" 2>&1) || [[ $log != *"does not compile for 42; it does for 75"* ]] || [ -f "$dir/none.h" ]; then
        echo "not ok cuda: baking for a GPU that NVRTC does not know: $log"
    else echo "ok cuda: baking for a GPU that NVRTC does not know"; fi
fi

# Several GPUs: other schedules, with the order of streams checked; and the examples
if wants worlds; then
    for seed in 2 3; do CUDASIM_TRACE=$dir/trace CUDASIM_DEVICES=4 CUDASIM_ORDER=1 CUDASIM_SEED=$seed report "worlds-$seed" sim "$dir/check" '*' worlds; done
    # In some step a bucket's sum runs before the kernel that ends the backward pass
    if awk '$1 == 1 && /update/ { early = 0 } $1 == 1 && /sum_parts/ { early = 1 } $1 == 1 && /conv_weight/ && early { found = 1 } END { exit !found }' "$dir/trace"
    then echo "ok cuda: sums of gradients overlap with the backward pass"; else echo "not ok cuda: no sum of gradients runs before the backward pass has ended"; fi
    for seed in 1 2; do CUDASIM_DEVICES=4 CUDASIM_ORDER=1 CUDASIM_SEED=$seed report "nccl-$seed" sim "$dir/check" '*' nccl; done
    report one-GPU-for-all sim "$dir/check" '*' worlds
    CUDASIM_DEVICES=4 CUDASIM_PEER=0 report worlds-out-of-reach sim "$dir/check" '*' worlds
    CUDASIM_DEVICES=4 CUDASIM_FAIL=peer*:1 report worlds-that-refuse sim "$dir/check" '*' worlds
    gpus=cuda:0,cuda:1,cuda:2,cuda:3 options="1 1 --batch_size 64 --invariant 4 --digits examples/data --snapshot"
    if build_example ddp "$dir/cuda.o"; then
        rm -f "$dir"/*.run*
        on_cpu=$("$dir/ddp" $options "$dir/cpu.run" | grep checksum)
        log=$(CUDASIM_DEVICES=4 sim "$dir/ddp" $options "$dir/gpu.run" --devices $gpus 2>&1)
        if [ -n "$on_cpu" ] && grep -qF "$on_cpu" <<< "$log"; then echo "ok cuda: ddp.c trains to the same bits on four GPUs as on one CPU"
        else echo "not ok cuda: ddp.c on $gpus: $(tail -1 <<< "$log") instead of $on_cpu"; fi
    fi
    if build_example data_parallel "$dir/cuda.o"; then
        for how in each "output --output 3"; do
            "$dir/data_parallel" --epochs 1 --loss $how --devices cpu,cpu,cpu,cpu > "$dir/cpu.lines" 2>&1
            CUDASIM_DEVICES=4 sim "$dir/data_parallel" --epochs 1 --loss $how --devices $gpus > "$dir/gpu.lines" 2>&1
            if [ "$(sed 's/ on cpu.*//' "$dir/cpu.lines")" = "$(sed 's/ on cuda.*//' "$dir/gpu.lines")" ]; then echo "ok cuda: data_parallel.c --loss $how says the same on four GPUs as on four CPUs"
            else echo "not ok cuda: data_parallel.c --loss $how on $gpus: $(tail -1 "$dir/gpu.lines")"; fi
        done
    fi
fi

# Sentences for what is missing, and for calls that fail: each from optimizers, which do all that training does, or from $part.
says() { # NAME WORDS VARIABLE=VALUE...: with these it fails by an error of these words, and neither hangs, crashes nor leaks
    local log status
    log=$(timeout 60 env LD_LIBRARY_PATH="$root/build/cudasim" DLTRAIN_CUDA_CACHE="$root/build/cuda/cache" "${@:3}" "$dir/check" '*' ${part-optimizers} 2>&1)
    status=$?
    if [ $status -lt 100 ] && [ $status != 0 ] && grep -q "$2" <<< "$log" && ! grep -q '^cudasim:' <<< "$log"; then echo "ok cuda: $1"
    else echo "not ok cuda: $1: exit status $status: $(grep -v '^ok' <<< "$log" | tail -2 | tr '\n' ' ' | cut -c1-400)"; fi
}
if wants failures; then
    says "no driver" "needs NVIDIA's driver: no/such.so" DLTRAIN_CUDA_DRIVER=no/such.so
    says "a driver that is none" "has no cuInit: it is too old" DLTRAIN_CUDA_DRIVER=libm.so.6
    for why in nodevice stub mismatch; do says "no GPU ($why)" "there is no GPU here" CUDASIM_FAIL=$why:1; done
    says "no NVRTC" "NVRTC, which is not there: no/such.so" DLTRAIN_CUDA_CACHE= DLTRAIN_NVRTC=no/such.so
    says "NVRTC fails" "NVRTC cannot compile the kernels" DLTRAIN_CUDA_CACHE= CUDASIM_FAIL=nvrtc:1
    says "a GPU older than NVRTC knows" "is of compute capability 5.0; this NVRTC compiles for 7.5 and later" DLTRAIN_CUDA_CACHE= CUDASIM_ARCH=50
    part=cublas says "a failing cuBLAS" "cuda:0: cublasGemmStridedBatchedEx says 13: the GPU program failed to execute" 'CUDASIM_FAIL=cublas*:7'
    log=$(DLTRAIN_CUBLAS=no/such.so sim "$dir/check" '*' cublas 2>&1)
    if grep -q "^skip cublas: dl_create: the blas 'cublas' is not there: no/such.so: .*; DLTRAIN_CUBLAS names it" <<< "$log"; then echo "ok cuda: no cuBLAS"; else echo "not ok cuda: no cuBLAS: $log"; fi
    says "out of memory" "out of memory: asked for .* bytes, .* are free" 'CUDASIM_FAIL=alloc*:3'
    # How much of the batch would fit, at most: a little more does not, half of that does.
    cat > "$dir/batch.c" << 'END'
#include <stdio.h>
#include <stdlib.h>
#include "dltrain.h"
int main(int argc, char **argv)
{
    static float x[40000 * 16];
    static dl_config config;
    config.device = "cuda:0";
    dl_context *ctx = dl_create(&config);
    for (int i = 0; i < 2 && argc > 1; i++) {
        dl_tensor t = dl_borrow(ctx, DL_F32, DL_SHAPE(atoi(argv[1]), 16), x);
        for (int k = 0; k < 3; k++) t = dl_relu(dl_linear(t, k == 0 ? "a" : k == 1 ? "b" : "c", 16));
        dl_backward(dl_mean(t));
        dl_zero_grad(ctx);
    }
    dl_read(dl_full(ctx, DL_SHAPE(16), 0), x, 16);
    puts(dl_failed(ctx) ? dl_error(ctx) : "it fits");
    dl_destroy(ctx);
    return 0;
}
END
    build batch "$dir/batch.c" -I. "$dir/cuda.o"
    log=$(CUDASIM_MEMORY=6 sim "$dir/batch" 40000)
    percent=$(sed -n 's/.* room for [0-9]*: for at most \([0-9]*\) % of this batch/\1/p' <<< "$log")
    if [ "${percent:-0}" -gt 20 ] && [ "$percent" -lt 100 ] && [ "$(CUDASIM_MEMORY=6 sim "$dir/batch" $((200 * percent)))" = "it fits" ] &&
        [[ $(CUDASIM_MEMORY=6 sim "$dir/batch" $((420 * percent))) == *"out of memory"* ]]; then echo "ok cuda: out of memory: how much of the batch would fit"
    else echo "not ok cuda: out of memory: a batch that fits: $log"; fi
    for what in hostalloc:1 launch:1 launch:7 copy:1 copy:5 sync:1 module:3 stream:1 event:2 context:1 lost:1 lost:9; do
        says "a failing $what" "cuda:0: cu[A-Za-z0-9_]* says" "CUDASIM_FAIL=${what/:/*:}"
    done
    for what in graph:1 graph:2 graph:3 graph:3:46 graph:9:719 launch:120 lost:60 lost:110; do # while a graph is captured and launched
        part=graphs says "a graph, a failing $what" "cuda:0: cu[A-Za-z0-9_]* says" "CUDASIM_FAIL=$what"
    done
    for what in lost@1:1 lost@1:40 lost@1:90 lost@0:60 launch*:50 copy*:30 copy*:60 copy*:71 sync*:9 hostalloc*:4 event*:22; do # at many places of a step
        part=worlds says "replicas, a failing $what" "rank [01] (cuda:[01]), step [0-9]*.*: cuda:[01]: cu[A-Za-z0-9_]* says" CUDASIM_DEVICES=4 "CUDASIM_FAIL=$what"
    done
    part=nccl says "no NCCL" "NCCL is not there: no/such.so" CUDASIM_DEVICES=4 DLTRAIN_NCCL=no/such.so
    part=nccl says "NCCL does not begin" "rank 0 (cuda:0), step 0.*: ncclCommInitAll says internal error" CUDASIM_DEVICES=4 CUDASIM_FAIL=nccl:1
    part=nccl says "NCCL fails" "rank [0-3] (cuda:[0-3]), step 0.*: ncclAllReduce says internal error" CUDASIM_DEVICES=4 CUDASIM_FAIL=nccl:4
    part=nccl says "NCCL hangs" "rank [0-3] (cuda:[0-3]), step 0.*: a sum of NCCL has not ended in 2 seconds" CUDASIM_DEVICES=4 CUDASIM_FAIL=hang:2
fi

# The cache: eight programs at once on an empty one, damaged files, a folder that cannot be written
if wants cache; then
    cache=$dir/cold
    rm -rf "$cache"
    pids=()
    for i in 1 2 3 4 5 6 7 8; do sim "$dir/check" '*' reading > "$dir/cold-$i.log" 2>&1 & pids+=($!); done
    wait "${pids[@]}"
    if [ "$(cat "$dir"/cold-[1-8].log | grep -c '^ok reading')" = 8 ]; then echo "ok cuda: eight programs on an empty cache"
    else echo "not ok cuda: eight programs on an empty cache: $(grep -hv '^ok' "$dir"/cold-*.log | head -1)"; fi
    if [ -n "$(find "$cache" -type f)" ] && [ -z "$(find "$cache" -name '*.*.*')" ]; then echo "ok cuda: the cache has files, and none unfinished"
    else echo "not ok cuda: the cache: $(find "$cache" | head -3 | tr '\n' ' ')"; fi
    for f in "$cache"/*; do truncate -s 100 "$f"; done
    report "truncated-cache" sim "$dir/check" '*' reading
    for f in "$cache"/*; do printf 'x' | dd of="$f" bs=1 seek=900 conv=notrunc 2> /dev/null; done
    report "damaged-cache" sim "$dir/check" '*' reading
    cache=/proc/no/such report "unwritable-cache" sim "$dir/check" '*' reading
fi

# Bugs planted in the real kernels: each must be found, with kernel, PTX line, block and thread.
planted() { # NAME KERNEL SED-SCRIPT PART; KERNEL may be streams: a copy between them or any kernel
    local tree=$dir/planted log found="kernel $2, PTX line [0-9]+ .*, block \([0-9,]*\), thread \([0-9,]*\)"
    [ "$2" != streams ] || found="(kernel .*, PTX line [0-9]+ .*|race between streams at 0x[0-9a-f]+): .*nothing orders them"
    mkdir -p "$tree/tests" "$tree/build/cuda"
    cp dltrain.h "$tree" && cp tests/cuda_check.c tests/*.h tests/test_ops.c "$tree/tests" && sed "$3" dltrain_cuda.h > "$tree/dltrain_cuda.h"
    if cmp -s dltrain_cuda.h "$tree/dltrain_cuda.h"; then echo "not ok cuda: planted: $1: the text to change is not there"; return; fi
    build planted.program "$tree/tests/cuda_check.c" -O0 || return
    log=$(cd "$tree" && sim "$dir/planted.program" '*' "$4" 2>&1)
    if grep -qE "^cudasim: $found" <<< "$log"; then echo "ok cuda: planted: $1 is found"
    else echo "not ok cuda: planted: $1: $(tail -2 <<< "$log" | tr '\n' ' ' | cut -c1-300)"; fi
}
if wants planted; then
    planted "a missing barrier in the product" matmul_64 '/dl__cuda_tile_cu\[/,/^    NULL/s/__syncthreads();//' optimizers
    planted "a missing barrier in the large product" 'matmul_128_[kr]*' '/dl__cuda_warp_cu\[/,/^    NULL/s/__syncthreads();//' wide
    planted "a missing barrier on tensor cores" 'tensor_64' '/dl__cuda_tensor_cu\[/,/^    NULL/s/__syncthreads();//' tensor
    planted "a missing wait for copies on tensor cores" 'tensor_64' '/dl__cuda_tensor_cu\[/,/^    NULL/s/cp.async.wait_group %0;//' tensor
    export CUDASIM_DEVICES=4 CUDASIM_ORDER=1
    planted "a missing wait before the sums of replicas" streams '/^static bool dl__cuda_reduce/,/^}/{/if (.*CALL($/{N;N;s/if (.*cuStreamWaitEvent(.*/(void)r, (void)bucket;/}}' worlds
    planted "a missing wait behind the sums of replicas" streams '/^static bool dl__cuda_after_sums/,/^}/s/return .*/return d \&\& other;/' worlds
    for n in 2 3 21 23; do # of an input's arrival, of its place, while graphs come again, of a result
        if CUDASIM_DROP=stream:wait:$n sim "$dir/check" '*' inputs 2>&1 | grep -q '^cudasim:.* race between streams'; then echo "ok cuda: planted: a missing wait for copies, number $n, is found"
        else echo "not ok cuda: planted: the missing wait number $n is not found"; fi
    done
    unset CUDASIM_DEVICES CUDASIM_ORDER
fi

# tools/gpu_check.sh: refuses without a real GPU; on the simulated one, when asked, its report says so, and failures are failures
refuses() { # NAME WORDS VARIABLE=VALUE...
    local log
    if log=$(env LD_LIBRARY_PATH="$PWD/build/cudasim" "${@:3}" tools/gpu_check.sh 2>&1) || [[ $log != *"$2"* ]]; then echo "not ok cuda: gpu-check: $1: $log"
    else echo "ok cuda: gpu-check: $1"; fi
}
simulated() { # NAME STATUS PATTERNS VARIABLE=VALUE...: each line of PATTERNS is in the report
    local pattern status missing=
    env DLTRAIN_CUDA_CACHE="$root/build/cuda/cache" "${@:4}" tools/gpu_check.sh --simulated > "$dir/gpu_check.log" 2>&1
    status=$?
    while read -r pattern; do grep -qE "$pattern" build/gpu-report-simulated.txt || missing="$missing '$pattern'"; done <<< "$3"
    if [ $status = "$2" ] && [ -z "$missing" ]; then echo "ok cuda: gpu-check: $1"
    else echo "not ok cuda: gpu-check: $1: status $status, missing$missing: $(tail -3 "$dir/gpu_check.log" | tr '\n' ' ')"; fi
}
if wants gpu-check; then
    refuses "no driver" "there is no GPU to check: dl_create: the device 'cuda:0' needs NVIDIA's driver" DLTRAIN_CUDA_DRIVER=no/such.so
    refuses "no GPU" "there is no GPU to check: dl_create: the device 'cuda:0': there is no GPU here" CUDASIM_FAIL=nodevice:1
    refuses "not on the simulator" "is the simulated GPU of tests/cudasim, no real one"
    simulated "on the simulator" 0 '^simulated: no speed
^GPU: cudasim sm_80, compute capability 8.0
^tests/cuda_check.c: [1-9][0-9]* right, 0 wrong$
^examples/digits.c, 1 epochs: the same checkpoint
^W1c cuda:0 dltrain [0-9]+ samples/s
^1T +200 +130 +70 NN +1 +[0-9]+\.[0-9]{2}$
^W1 to W4 and matrix products with matmul_precision bf16$
^everything is right$'
    simulated "a GPU that fails" 1 '^FAILED: not ok reading
^FAILED: examples/digits.c: another checkpoint
^FAILED: tools/bench.c gives no figures
^FAILED: tools/bench_gemm.c
^[0-9]+ failures$' 'CUDASIM_FAIL=launch*:3'
fi
