#!/usr/bin/env bash
# A Cortex-M4F learns digits in QEMU: at most 64 KiB of RAM, and 43.1 KiB of text and read-only data besides the samples.
cd "$(dirname "$0")/.." || exit 1
dir=build/firmware
rm -rf $dir
mkdir -p $dir
array() { # NAME FILE HEADER-BYTES COUNT
    echo "static const unsigned char $1[] = {"
    od -An -v -tu1 -j"$3" -N"$4" "$2" | sed 's/  */,/g; s/^,//; s/$/,/'
    echo "};"
}
train=1437 test=360
{
    echo "#define TRAIN $train"
    echo "#define TEST $test"
    array train_x examples/data/digits-train-images.idx 16 $((train * 64))
    array train_y examples/data/digits-train-labels.idx 8 $train
    array test_x examples/data/digits-test-images.idx 16 $((test * 64))
    array test_y examples/data/digits-test-labels.idx 8 $test
} > $dir/samples.h
samples=$(((train + test) * 65))
small="-DDLTRAIN_STATIC -DDLTRAIN_NO_THREADS -DDLTRAIN_NO_STDIO -DDLTRAIN_MAX_DIMS=4 -DDLTRAIN_MAX_INPUTS=8 -DDLTRAIN_NAME_MAX=32 -DDLTRAIN_ERROR_MAX=160 -DDLTRAIN_PLANS=2 -DDLTRAIN_TILE=32 -DDLTRAIN_ALIGN=8"
block=${MEMORY:-54272}
if ! command -v arm-none-eabi-gcc > /dev/null; then
    echo "skip firmware: arm-none-eabi-gcc is not installed"
    exit
fi
# The weights that the same program reaches on this computer, with its vector kernels.
"${CC:-cc}" -std=c99 -O2 ${small/-DDLTRAIN_NO_STDIO/} -DDLTRAIN_NO_FILES -DPRINT_HASH -DMEMORY=200000 -DEPOCHS=8 -I$dir tests/firmware.c -o $dir/host -lm
expect=$($dir/host)
cpu="-mthumb -mcpu=cortex-m4 -mfloat-abi=hard -mfpu=fpv4-sp-d16 --specs=picolibc.specs"
start=$(date +%s%N)
if ! arm-none-eabi-gcc -std=c99 -Os -Wall -Wextra -Werror -ffunction-sections -fdata-sections $cpu $small -DDLTRAIN_NO_MALLOC -DMEMORY=$block -DEPOCHS=8 -DEXPECT=$expect -I$dir -c tests/firmware.c -o $dir/firmware.o 2> $dir/build.log; then
    echo "not ok firmware: builds: $(head -3 $dir/build.log | tr '\n' ' ')"
    exit
fi
echo "ok firmware: builds without warnings ($((($(date +%s%N) - start) / 1000000)) ms)"
arm-none-eabi-gcc $cpu --oslib=semihost --crt0=hosted -Wl,--gc-sections -Wl,--defsym=__flash=0x0 -Wl,--defsym=__flash_size=0x400000 -Wl,--defsym=__ram=0x20000000 -Wl,--defsym=__ram_size=0x10000 \
    -Wl,--defsym=__stack_size=0x1800 $dir/firmware.o -o $dir/firmware.elf 2> $dir/link.log || { echo "not ok firmware: does not link into 64 KiB of RAM: $(tail -3 $dir/link.log | tr '\n' ' ')"; exit; }
read -r text data bss _ < <(arm-none-eabi-size $dir/firmware.elf | tail -1)
if [ $((text - samples)) -le 44134 ]; then echo "ok firmware: $((text - samples)) bytes of text and read-only data"; else echo "not ok firmware: $((text - samples)) bytes of text and read-only data, more than 44134"; fi
if [ $((data + bss)) -le 65536 ]; then echo "ok firmware: $((data + bss)) bytes of RAM, the stack among them"; else echo "not ok firmware: $((data + bss)) bytes of RAM, more than 65536"; fi
if ! command -v qemu-system-arm > /dev/null; then
    echo "skip firmware: run: qemu-system-arm is not installed"
    exit
fi
timeout 120 qemu-system-arm -M mps2-an386 -nographic -monitor none -serial none -semihosting-config enable=on,target=native -kernel $dir/firmware.elf
status=$?
if [ $status = 0 ]; then echo "ok firmware: learns the digits on a Cortex-M4F, to the same bits as here"; else echo "not ok firmware: exit status $status (2, 3: an error; 5: other weights than here; 124: too slow; else the test error in percent)"; fi
