# libtelemetry. `make help` lists what there is; every target does its own set-up.

PYTHON  ?= python3
CARGO   ?= cargo
UWSGI   ?= uwsgi
VENV    := .venv
OUT     := target/release
ACCEL   := python/libtelemetry/_accel.abi3.so

export PYTHON

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 14

build: ## the shared library, the static one, and the command, in target/release
	+@$(MAKE) --no-print-directory -j2 libraries command

# Both by one run of the compiler: link-time optimisation is most of the time, and is done once.
# The sources of the crates are named without the home directory that this machine has them in.
libraries: export RUSTFLAGS ?= --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=/cargo
libraries:
	$(CARGO) rustc --release --lib --crate-type cdylib,staticlib
	ln -sf libtelemetry.so $(OUT)/libtelemetry.so.0

command:
	$(CARGO) build --profile tool --features tool --bin telemetry --target-dir target/tool
	mkdir -p $(OUT)
	install -m 755 target/tool/tool/telemetry $(OUT)/telemetry

setup:
	tests/setup.sh

demo: build setup accelerator ## a preloaded Gunicorn, a collector, real requests, and a table of what arrived
	$(VENV)/bin/python python/examples/demo.py

test: build setup accelerator lint test-rust test-loom test-all-python ## everything

test-rust:
	$(CARGO) test --features tool

test-loom: ## the models of the queue, the page and the sender
	RUSTFLAGS="--cfg loom" $(CARGO) test --profile loom --test loom --target-dir target/loom

test-all-python:
	$(VENV)/bin/python -m pytest tests

chaos: build setup ## the long form of the kill tests
	CHAOS=1 $(VENV)/bin/python -m pytest tests/chaos tests/fleet

bench: build setup accelerator ## the budgets, measured here (SECONDS=n for a shorter run)
	tests/bench/run.sh $(if $(SECONDS),--seconds $(SECONDS))

fuzz: ## fuzz the reading of a spool for a minute each (SECONDS=n for another time)
	cargo fuzz --version >/dev/null 2>&1 || $(CARGO) install --locked cargo-fuzz
	$(CARGO) +nightly --version >/dev/null 2>&1 || rustup toolchain install nightly --profile minimal
	for target in scan orphans; do \
	    $(CARGO) +nightly run --manifest-path tests/fuzz/Cargo.toml -q --bin seeds -- tests/fuzz/corpus/$$target && \
	    $(CARGO) +nightly fuzz run --fuzz-dir tests/fuzz $$target -- \
	        -max_total_time=$(or $(SECONDS),60) -max_len=4096 || exit 1; \
	done

accelerator: $(ACCEL) ## the Python client's enqueue in C (optional; needs Python.h)

# For the stable ABI: one file for every CPython from 3.9 on, whichever's headers are used.
$(ACCEL): python/libtelemetry/_accel.c
	@include=$$($(PYTHON) -c 'import sysconfig; print(sysconfig.get_path("include"))') && \
	if [ ! -e "$$include/Python.h" ]; then \
	    echo "$$include/Python.h is not there: install python3-dev, or name another PYTHON" >&2; exit 1; \
	fi && set -x && \
	$(CC) -std=c11 -Wall -Wextra -Werror -pedantic -O2 -fPIC -fvisibility=hidden -fstack-protector-strong \
	    -D_FORTIFY_SOURCE=2 -isystem "$$include" $(CFLAGS) -shared -Wl,-z,relro,-z,now,-z,noexecstack \
	    -Wl,--as-needed $(LDFLAGS) -o $@ $<

generate: ## write the header, the tables of keys and the fleet's diagram anew
	UPDATE=1 $(CARGO) test --test generated --test fleet_policy

# Empty means the default, which install.sh knows: /usr/local, and lib below PREFIX.
quoted   = '$(subst ','\'',$(1))'
INSTALL  = $(foreach name,PREFIX LIBDIR DESTDIR OUT,$(name)=$(call quoted,$($(name)))) bindings/c/install.sh
LICENSES = $(OUT)/THIRD-PARTY-LICENSES.txt

# Not made anew by `sudo make install`: root may have no cargo.
build: $(LICENSES)
$(LICENSES): Cargo.lock bindings/third_party.py
	$(PYTHON) bindings/third_party.py $@ --features tool

install: $(if $(wildcard $(OUT)/libtelemetry.so),,build) $(LICENSES) ## library, headers, command, man pages (PREFIX= DESTDIR= LIBDIR=)
	@$(INSTALL) install

uninstall: ## remove what install put there, and nothing else
	@$(INSTALL) uninstall

abi: $(if $(wildcard $(OUT)/libtelemetry.so),,build) setup ## names, numbers and layouts, and the comparison with the release before
	$(VENV)/bin/python -m pytest -q tests/abi
	$(PYTHON) bindings/c/abi.py

deb: build ## Debian packages of the library, the headers and the command, in dist
	bindings/debian/build.sh

wheel: build ## the Python wheel and the source distribution, checked, in dist
	python/build_wheel.sh

lint: ## formatting and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --features tool --all-targets -- -D warnings

fmt: ## format the code
	$(CARGO) fmt

uwsgi-plugin: PLUGIN_DIR ?= $(OUT)
uwsgi-plugin: $(if $(wildcard $(OUT)/libtelemetry.so),,build) ## uWSGI's plugin, for UWSGI= and into PLUGIN_DIR=, with the library of this tree
	mkdir -p $(PLUGIN_DIR)
	uwsgi=$$(realpath "$$(command -v $(UWSGI))") && cd $(PLUGIN_DIR) && \
	TELEMETRY_CFLAGS="-I$(CURDIR)/include" \
	TELEMETRY_LIBS="-L$(abspath $(OUT)) -ltelemetry -Wl,-rpath,$(abspath $(OUT))" \
	"$$uwsgi" --build-plugin $(CURDIR)/bindings/uwsgi && rm -r .uwsgi_plugins_builder

clean: ## remove what was built
	$(CARGO) clean
	rm -rf $(VENV) $(ACCEL) dist demo-out

.PHONY: help build libraries command setup demo test test-rust test-loom test-all-python chaos bench fuzz generate lint fmt clean install uninstall deb wheel accelerator uwsgi-plugin abi
