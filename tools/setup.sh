#!/usr/bin/env bash
# Installs what the tests can use beyond a C compiler, make and bash. Run it as often as you like. Debian or Ubuntu, as root.
#     tools/setup.sh [bench]     bench: also the libraries that `make bench-gemm` compares with
set -e
packages="gcc g++ make clang libclang-rt-14-dev valgrind libc6-dev-i386 lib32gcc-12-dev gcc-arm-none-eabi picolibc-arm-none-eabi qemu-system-arm libsimde-dev gcc-aarch64-linux-gnu libc6-dev-arm64-cross gcc-s390x-linux-gnu libc6-dev-s390x-cross qemu-user-static libopenmpi-dev openmpi-bin iproute2 libstb-dev python3 python3-pip"
[ "$1" = bench ] && packages="$packages libopenblas-dev libdnnl-dev"
wheels="torch==2.13.0 numpy safetensors"
missing=
for p in $packages; do
    dpkg -s "$p" > /dev/null 2>&1 || missing="$missing $p"
done
if [ -n "$missing" ]; then
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $missing > /dev/null
fi
python3 -c 'import torch, numpy, safetensors' 2> /dev/null || python3 -m pip install -q --break-system-packages $wheels 2> /dev/null || python3 -m pip install -q $wheels
# NVRTC, which tests/cudasim runs the kernels through: the CUDA folder's, else PyPI's
compgen -G "${CUDA_HOME:-/usr/local/cuda}/lib64/libnvrtc.so.1[23]" > /dev/null || python3 -c 'import glob, nvidia; exit(not any(glob.glob(p + "/*/lib/libnvrtc.so.1[23]") for p in nvidia.__path__))' 2> /dev/null ||
    python3 -m pip install -q --break-system-packages 'nvidia-cuda-nvrtc==13.0.*' 2> /dev/null || python3 -m pip install -q 'nvidia-cuda-nvrtc==13.0.*'
