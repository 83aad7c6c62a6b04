PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
ARGS ?=

TORCHES ?= 2.13.0 2.14.1
TRITONS ?= 3.6.0 3.7.1 3.8.0 3.9.0
AARCH64 ?= aarch64-linux-gnu-g++

.PHONY: help setup train test test-slow test-torch-matrix test-triton-matrix bench roofline sanitize instructions neon lint clean
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

setup: $(READY)  ## create .venv, install, build the C++ libraries

train: $(READY)  ## train and evaluate NMER on the embedded data set (ARGS="--snr -20" to change it)
	$(BIN)/python -m nmer_fast.train --compile $(ARGS)

test: $(READY)  ## all fast tests, under 10 minutes on two cores; the Triton kernels in its interpreter
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile $(ARGS)
	OMP_NUM_THREADS=1 TRITON_INTERPRET=1 $(BIN)/python -m pytest --numprocesses 2 tests/kernels/test_kernels.py

test-slow: $(READY)  ## the tests that take minutes each
	$(BIN)/python -m pytest -m slow $(ARGS)

bench: $(READY)  ## throughput of the ops, and of training, beside what a user would write instead (ARGS=--quick)
	$(BIN)/python bench/noise_throughput.py $(ARGS)
	$(BIN)/python bench/vae_throughput.py $(ARGS)
	$(BIN)/python bench/train_throughput.py $(ARGS)
	$(BIN)/python bench/gather_throughput.py $(ARGS)
	$(BIN)/python bench/shapes.py $(ARGS)

roofline: $(READY)  ## what the compiled Triton kernels would ask of an A100 and an H100, read from their machine code
	$(BIN)/python bench/roofline.py $(ARGS)

sanitize: $(READY)  ## the C++ kernels' own tests, under AddressSanitizer and UndefinedBehaviorSanitizer
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/sanitize -G Ninja -DKERNEL_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DCMAKE_CXX_FLAGS="-fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer" --log-level=WARNING
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/sanitize
	PATH="$(CURDIR)/$(BIN):$$PATH" ctest --test-dir build/sanitize --output-on-failure

test-torch-matrix: $(READY)  ## one wheel, the op tests under each of TORCHES (other than 2.13.0 they are several GB)
	rm -rf build/matrix && mkdir -p build/matrix && cp -r tests build/matrix/
	$(BIN)/python -m pip wheel --quiet --no-build-isolation --no-deps --wheel-dir build/matrix .
	set -e; for torch in $(TORCHES); do \
		$(PYTHON) -m venv build/matrix/$$torch; \
		build/matrix/$$torch/bin/python -m pip install --quiet torch==$$torch build/matrix/*.whl pytest scipy; \
		echo "torch $$torch"; \
		(cd build/matrix && $$torch/bin/python -m nmer_fast.ops && $$torch/bin/python -m pytest -q -m "not slow" tests/ops); \
	done

test-triton-matrix: $(READY)  ## the Triton kernels, interpreted, compiled and counted, under each of TRITONS (3.6 needs an older NumPy)
	set -e; for triton in $(TRITONS); do \
		$(BIN)/python -m pip install --quiet --no-deps --upgrade --target build/triton/$$triton triton==$$triton 'numpy<2.4'; \
		export PYTHONPATH="$(CURDIR)/build/triton/$$triton"; echo "triton $$triton"; \
		TRITON_INTERPRET=1 $(BIN)/python -m pytest tests/kernels/test_kernels.py; \
		$(BIN)/python -m pytest tests/kernels/test_compiled.py; \
		$(BIN)/python bench/roofline.py --check > build/triton/$$triton.txt || tail -3 build/triton/$$triton.txt; \
	done

instructions: $(READY)  ## instructions an element of the CPU kernels, counted by valgrind's callgrind (AVX2: it knows no AVX-512)
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/count -G Ninja -DKERNEL_TESTS=ON -DCMAKE_BUILD_TYPE=Release --log-level=WARNING
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/count
	$(BIN)/python bench/instructions.py $(ARGS)

neon: $(READY)  ## compile the kernels for 64-bit Arm (Debian: g++-aarch64-linux-gnu); with qemu-user their tests run too
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake -S . -B build/neon -G Ninja -DKERNEL_TESTS=ON -DCMAKE_BUILD_TYPE=RelWithDebInfo \
		-DCMAKE_SYSTEM_NAME=Linux -DCMAKE_SYSTEM_PROCESSOR=aarch64 -DCMAKE_CXX_COMPILER=$(AARCH64) \
		-DCMAKE_EXE_LINKER_FLAGS=-static --log-level=WARNING
	PATH="$(CURDIR)/$(BIN):$$PATH" cmake --build build/neon
	! command -v qemu-aarch64 || qemu-aarch64 build/neon/kernels_test

lint: $(READY)  ## ruff, mypy on the package and the Triton kernels, clang-format on the C++
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror csrc/*.h csrc/*.cpp csrc/tests/*.cpp

clean:  ## remove what was built, the environment included
	rm -rf .venv build *.egg-info nmer_fast/*.so

# Installed once; again only when what it is made from has changed. Python files are live (editable install).
$(READY): pyproject.toml setup.py CMakeLists.txt constraints.txt $(wildcard csrc/*)
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt pip setuptools wheel cmake ninja pybind11 torch
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pip install --quiet --constraint constraints.txt \
		--no-build-isolation --editable '.[dev]'
	# pip hides what a build says: where the kernels are missing, the build says it again.
	@$(BIN)/python -W error::RuntimeWarning -c 'import nmer_fast.ops' 2> /dev/null || \
		$(BIN)/python setup.py --quiet build_ext --inplace
	touch $@
