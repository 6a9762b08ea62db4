# SPDX-License-Identifier: Apache-2.0
# The front door; the build itself is CMakeLists.txt.
PREFIX ?= /usr/local
DESTDIR ?=
PROMPT ?=
MODEL ?=
ARGS ?=
# As many jobs as there are cores.
JOBS := $(shell nproc)
BUILD := build/release

.PHONY: serve run build test torture install clean
export PROMPT

# Serve the demo model, named demo, on http://127.0.0.1:8080; ARGS="--port 8081 ..." are options of quern serve, MODEL=... another model.
serve: build
	@model="$(MODEL)"; [ -n "$$model" ] || model=demo=$$(tools/get_demo_model.sh) || exit 1; \
	exec $(BUILD)/quern serve -m "$$model" $(ARGS)

# Chat with the demo model. PROMPT="..." answers once, and so does a pipe; with nothing in it there is a question ready.
# MODEL=... takes another model.
run: build
	@model="$(MODEL)"; [ -n "$$model" ] || model=$$(tools/get_demo_model.sh) || exit 1; \
	[ -t 0 ] || [ -n "$$PROMPT" ] || PROMPT=$$(cat); \
	[ -t 0 ] || [ -n "$$PROMPT" ] || PROMPT="Write a C function that reverses a string in place."; \
	if [ -n "$$PROMPT" ]; then exec $(BUILD)/quern run -m "$$model" -- "$$PROMPT"; \
	else exec $(BUILD)/quern run -m "$$model"; fi

build:
	@tools/setup.sh run
	@cmake --preset release -DCMAKE_INSTALL_PREFIX="$(PREFIX)" >/dev/null
	@cmake --build --preset release --target quern-cmd -j $(JOBS)

# Builds everything and runs every test; the last line is the count.
test:
	@tools/setup.sh test
	@cmake --preset release -DCMAKE_INSTALL_PREFIX="$(PREFIX)" >/dev/null
	@cmake --build --preset release -j $(JOBS)
	@tests/run.sh $(BUILD)

# Each allocation and each call of the system failed once, and weights that change under a server: minutes.
torture:
	@tools/setup.sh test
	@cmake --preset release >/dev/null
	@cmake --build --preset release --target quern-cmd fault test_server_oom -j $(JOBS)
	$(BUILD)/test_server_oom --full
	python3 tests/e2e/test_torture.py $(BUILD)/quern --full

install:
	@tools/setup.sh run
	@cmake --preset release -DCMAKE_INSTALL_PREFIX="$(PREFIX)" >/dev/null
	@cmake --build --preset release -j $(JOBS)
	DESTDIR="$(DESTDIR)" cmake --install $(BUILD)

clean:
	rm -rf build
