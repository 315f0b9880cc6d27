# make run | build | test | test-cluster | sim | asan | tsan | fuzz | bench | clean      (README.md says more)
BUILD ?= build
DATA ?= agro-data
SECONDS ?= 60
MINUTES ?= 60
JOBS ?= $(shell nproc)

.PHONY: run build test test-cluster sim check asan tsan fuzz bench clean
.DEFAULT_GOAL := build

# A release of the four programs in build/bin/.
build:
	@tools/setup build
	@cmake -G Ninja -S . -B $(BUILD) -DAGRO_TESTS=OFF >/dev/null
	@cmake --build $(BUILD) -j $(JOBS)

# Starts a one-machine cluster in ./agro-data with a 10 GiB volume `demo`; Ctrl-C stops it.
run: build
	@exec $(BUILD)/bin/agro standalone --data-dir $(DATA) --create-volume demo=10GiB

# Everything that can fail: unit tests, simulated crashes, fuzz corpora, real clients.
test:
	@tools/setup test
	@tools/tidy
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS)
	@ctest --test-dir $(BUILD)/test --output-on-failure -j $(JOBS) -LE cluster

# The scenarios with many processes, a real etcd, and networks that break; about 20 minutes, as root. One that fails is run a second
# time: they have bounds on time, and machines are noisy. The first failure is printed all the same.
test-cluster:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS) --target agro agroctl agroblock
	@ctest --test-dir $(BUILD)/test --output-on-failure -L cluster --repeat until-pass:2

# Random seeds of the simulator (docs/internals/simulation.md) on all cores for MINUTES; failing ones and their traces stay in
# build/sim-failures.
sim:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/test -DAGRO_TESTS=ON >/dev/null
	@cmake --build $(BUILD)/test -j $(JOBS) --target agro-sim
	@$(BUILD)/test/bin/agro-sim --minutes $(MINUTES) --jobs $(JOBS) --out $(BUILD)/sim-failures

# The unit tests under sanitizers, built by clang, which also flags dropped co_await results.
asan:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/asan -DCMAKE_CXX_COMPILER=clang++ -DAGRO_SANITIZE=address,undefined >/dev/null
	@cmake --build $(BUILD)/asan -j $(JOBS)
	@ctest --test-dir $(BUILD)/asan --output-on-failure -j $(JOBS) -LE 'e2e|cluster'

tsan:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/tsan -DCMAKE_CXX_COMPILER=clang++ -DAGRO_SANITIZE=thread >/dev/null
	@cmake --build $(BUILD)/tsan -j $(JOBS) --target base_test storage_test metadata_test
	@ctest --test-dir $(BUILD)/tsan --output-on-failure -j $(JOBS) -R '^(base|storage|metadata)\.'

# Known failings, one at a time: the simulator must notice each within 500 seeds (docs/internals/mutants.md).
mutants:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/mutants -DAGRO_MUTANTS=ON -DAGRO_TESTS=OFF >/dev/null
	@cmake --build $(BUILD)/mutants -j $(JOBS) --target agro-sim
	@tools/mutants $(BUILD)/mutants/bin/agro-sim --jobs $(JOBS)

# Every fuzzer for SECONDS with libFuzzer, from the corpora in fuzz/corpus.
fuzz:
	@tools/setup test
	@cmake -G Ninja -S . -B $(BUILD)/fuzzing -DCMAKE_CXX_COMPILER=clang++ -DAGRO_SANITIZE=address,undefined -DAGRO_FUZZ=ON -DAGRO_TESTS=OFF >/dev/null
	@cmake --build $(BUILD)/fuzzing -j $(JOBS)
	@tools/fuzz $(BUILD)/fuzzing/fuzz $(SECONDS)

# Microbenchmarks and the seven NBD workloads.
bench:
	@tools/setup bench
	@cmake -G Ninja -S . -B $(BUILD)/bench -DAGRO_TESTS=OFF -DAGRO_BENCH=ON >/dev/null
	@cmake --build $(BUILD)/bench -j $(JOBS)
	@tools/bench $(BUILD)/bench

clean:
	rm -rf $(BUILD)
