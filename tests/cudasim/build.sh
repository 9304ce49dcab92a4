#!/usr/bin/env bash
# Builds the simulated driver, the NVRTC shim and the stand-ins of NCCL and cuBLAS into build/cudasim.
# Says 'no NVRTC' (and still builds) where the real one is missing.
#     tests/cudasim/build.sh      then: LD_LIBRARY_PATH=build/cudasim PROGRAM
cd "$(dirname "$0")/../.." || exit 1
out=build/cudasim
mkdir -p $out/cubins
exec 9> $out/lock && flock 9 # two tests may want it at once
of_pypi='import glob, nvidia
print((sorted(g for p in nvidia.__path__ for g in glob.glob(p + "/*/lib/libnvrtc.so.1[23]")) or [""])[-1])'
find_nvrtc() {
    local place
    for place in "$CUDASIM_NVRTC" "${CUDA_HOME:-/usr/local/cuda}"/lib64/libnvrtc.so.1[23] \
        "$(python3 -c "$of_pypi" 2> /dev/null)" \
        "$(ldconfig -p 2> /dev/null | awk '/libnvrtc\.so\.1[23]/ { print $NF; exit }')"; do
        [ -f "$place" ] && { echo "$place"; return; }
    done
}
exec 9> $out/lock
flock 9 2> /dev/null || true # two tests may build at once
nvrtc=$(find_nvrtc)
[ -n "$nvrtc" ] || echo "no NVRTC: neither in the CUDA folder nor from PyPI (nvidia-cuda-nvrtc)"
set -e
# Compiled where it runs, hence -march=native; never contracted, and free to change the rounding mode.
flags="-std=gnu11 -O2 -march=native -ffp-contract=off -frounding-math -fno-math-errno -fPIC -fvisibility=hidden"
flags="$flags -Wall -Wextra -pthread"
same="$nvrtc $(cat tests/cudasim/*.[ch] tests/cudasim/build.sh | cksum)"
[ "$(cat $out/built 2> /dev/null)" = "$same" ] && exit 0
for part in decode memory exec order streams driver faults; do ${CC:-cc} $flags -c tests/cudasim/$part.c -o $out/$part.o; done
${CC:-cc} $flags -ftree-vectorize -c tests/cudasim/ops.c -o $out/ops.o
${CC:-cc} -shared -Wl,-soname,libcuda.so.1 -Wl,-z,defs $out/{decode,memory,exec,order,streams,driver,faults,ops}.o \
    -o $out/libcuda.so.1.new -lm -ldl -pthread
${CC:-cc} $flags -DREAL_NVRTC="\"$nvrtc\"" -shared -Wl,-soname,libnvrtc.so.13 tests/cudasim/nvrtc.c \
    -o $out/libnvrtc.so.13.new -ldl -pthread
mv $out/libcuda.so.1.new $out/libcuda.so.1
mv $out/libnvrtc.so.13.new $out/libnvrtc.so.13
if [ -f tests/cudasim/nccl.c ]; then
    ${CC:-cc} $flags -shared -Wl,-soname,libnccl.so.2 tests/cudasim/nccl.c -o $out/libnccl.so.2.new -ldl -pthread
    mv $out/libnccl.so.2.new $out/libnccl.so.2
fi
${CC:-cc} $flags -shared -Wl,-soname,libcublas.so.13 tests/cudasim/cublas.c -o $out/libcublas.so.13.new -ldl -lm
mv $out/libcublas.so.13.new $out/libcublas.so.13
echo "$same" > $out/built
