# make demo                learn handwritten digits: a minute, nothing needed but cc and make
# make examples            each of the learning methods in a quick form: some minutes. docs/methods.md has the full ones
# make test                every test; REQUIRE_ALL=1 turns a skip into a failure
# make test T=test_errors  one of them
# make test-mpi            those over MPI: 2 and 4 processes, and two hosts with a link between them
# make gpu-check           on a machine with a GPU, 10 minutes: results against the CPU's, speed beside PyTorch, build/gpu-report.txt
# make bench               speed of four workloads, beside PyTorch if it is there: docs/speed.md. W=W2 T=1 ROUNDS=9: these alone
# make bench-gemm          matrix products, beside OpenBLAS and oneDNN if they are there. T=1 ROUNDS=5
# make bench-parallel      one replica and two, over threads and MPI, and where the time goes. ROUNDS=5
# make cost-model          of parallel training on 8, 64 and 512 devices: docs/cost.md. build/cost_model --help
# make clean
CC ?= cc
CFLAGS ?= -O2 -Wall -Wextra
LDLIBS = -lm -pthread

demo: build/digits
	build/digits --save build/digits.safetensors

build/digits: examples/digits.c dltrain.h dltrain_cuda.h
	@mkdir -p build
	$(CC) $(CFLAGS) examples/digits.c -o $@ $(LDLIBS)

# Quick forms on the digits that are shipped, or on MNIST where DLTRAIN_DATA says.
examples: build/backprop build/multitask build/mil build/self_distill build/distill $(if $(wildcard /usr/include/stb/stb_image.h),build/image_folder)
	build/backprop --out build/backprop
	build/multitask --quick --out build/multitask
	build/mil --quick --out build/mil
	build/mil --quick --experiment labels --poolings mean,noisy-or,noisy-and --out build/mil-labels
	build/self_distill --seeds 3 --out build/self_distill
	build/distill --seeds 3 --out build/distill
	$(if $(filter build/image_folder,$^),build/image_folder --seeds 2 --out build/image_folder,@echo "image_folder: skipped, stb_image.h is not installed (libstb-dev)")

test:
	@CC="$(CC)" REQUIRE_ALL="$(REQUIRE_ALL)" tests/run $(T)

test-mpi:
	@CC="$(CC)" REQUIRE_ALL="$(REQUIRE_ALL)" tests/run check_mpi check_hosts

test-cuda:
	@CC="$(CC)" REQUIRE_ALL="$(REQUIRE_ALL)" tests/run check_cuda check_cudasim

gpu-check:
	@CC="$(CC)" tools/gpu_check.sh

build/gpu_bounds: tools/workloads.h
build/bake_kernels build/gpu_bounds: build/%: tools/%.c dltrain.h dltrain_cuda.h
	@mkdir -p build
	$(CC) $(CFLAGS) -O1 -DDLTRAIN_NO_SIMD $< -o $@ $(LDLIBS)

build/bench: tools/bench.c tools/workloads.h tools/measure.h dltrain.h dltrain_cuda.h
build/bench_gemm: tools/bench_gemm.c tools/measure.h dltrain.h dltrain_cuda.h
build/bench build/bench_gemm:
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS) -ldl

bench_options = $(if $(T),--threads $(T)) $(if $(ROUNDS),--rounds $(ROUNDS))
bench: build/bench
	@build/bench $(bench_options) $(if $(W),--only $(W))

bench-gemm: build/bench_gemm
	@build/bench_gemm $(bench_options)

build/bench_parallel: tools/bench_parallel.c tools/cost.h tools/workloads.h tools/measure.h dltrain.h dltrain_mpi.h
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS)
	$(if $(shell command -v mpicc),mpicc -DDLTRAIN_MPI $(CFLAGS) $< -o $@_mpi $(LDLIBS))

bench-parallel: build/bench_parallel
	@build/bench_parallel $(if $(ROUNDS),--rounds $(ROUNDS))

build/cost_model: tools/cost_model.c tools/cost.h
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@

cost-model: build/cost_model
	@build/cost_model

# The implementation once, for the examples that are built without theirs. image_folder has one of its own, with stb_image.
build/dltrain.o: dltrain.h
	@mkdir -p build
	printf '#define DLTRAIN_IMPLEMENTATION\n#include "dltrain.h"\n' | $(CC) $(CFLAGS) -I. -x c -c - -o $@

build/backprop build/multitask build/mil build/self_distill build/distill: build/%: examples/%.c examples/lab.h build/dltrain.o
	sed '/^#define DLTRAIN_IMPLEMENTATION$$/d' $< | $(CC) $(CFLAGS) -Iexamples -x c - -x none build/dltrain.o -o $@ $(LDLIBS)

build/image_folder: examples/image_folder.c examples/lab.h dltrain.h
	@mkdir -p build
	$(CC) $(CFLAGS) $< -o $@ $(LDLIBS)

clean:
	rm -rf build

.PHONY: demo examples test test-cuda test-mpi gpu-check bench bench-gemm bench-parallel cost-model clean
