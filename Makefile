# Everything runs from .venv; the first target that needs it makes it. `make help` lists targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
KUBERAY_CRDS ?= https://raw.githubusercontent.com/ray-project/kuberay/v1.7.0/helm-chart/kuberay-operator/crds
DEMO_TEXT := Hello, I am a small Bark. I run on your machine.

.DEFAULT_GOAL := help
.PHONY: help venv demo test check lint fix unit parity e2e infra kuberay-crds k8s k8s-values image image-smoke bench bulk plan-check nano soak cluster-sim gpu clean clean-kernels

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Editable, with the native kernels compiled by hatch_build.py; again when one of these changes.
$(VENV)/.ready: pyproject.toml constraints.txt hatch_build.py $(wildcard pipeline/engine/native/*.h pipeline/engine/native/*.cpp)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed; on Debian: apt install python3-venv"; exit 1; }
	@echo "installing into $(VENV) (the first time takes a few minutes)"
	@PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@ls pipeline/engine/native/*.so >/dev/null 2>&1 || echo "no C++ compiler found: running on torch, which is slower. Install one (apt install g++), then: make clean-kernels venv"
	@touch $@

venv: $(VENV)/.ready ## set up .venv

demo: $(VENV)/.ready ## turn a sentence into a WAV
	@$(BIN)/bark-serve say "$(DEMO_TEXT)" -o demo.wav --voice heart --seed 9
	@! $(BIN)/python -c "import pocketsphinx" 2>/dev/null || $(BIN)/python -m training.nano.recogniser demo.wav

test: $(VENV)/.ready ## run all tests
	@$(BIN)/python -m pytest

check: lint unit ## format, lint, types, import rules, unit tests; changes nothing

lint: $(VENV)/.ready ## the same without tests
	@$(BIN)/ruff format --check --quiet . || { echo "run: make fix"; exit 1; }
	@$(BIN)/ruff check --quiet .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

fix: $(VENV)/.ready ## format, and mend what ruff can
	@$(BIN)/ruff check --fix --quiet . ; $(BIN)/ruff format --quiet .

unit parity e2e infra: $(VENV)/.ready
	@$(BIN)/python -m pytest tests/$@

k8s: $(VENV)/.ready ## make what the overlays of k8s/ hold from serve_config.yaml and Terraform's values
	@$(BIN)/python k8s/render.py

k8s-values: $(VENV)/.ready ## take in what Terraform made, then the same
	@terraform -chdir=infra/terraform output -json | $(BIN)/python k8s/render.py -

kuberay-crds: ## fetch KubeRay's CRDs, against which `make infra` then holds our objects, too
	@mkdir -p .infra/kuberay-crds
	@for kind in rayclusters rayservices rayjobs raycronjobs; do \
	  curl --fail --silent --show-error --location --retry 3 --output .infra/kuberay-crds/ray.io_$$kind.yaml \
	    $(KUBERAY_CRDS)/ray.io_$$kind.yaml || exit 1; \
	done

image: ## build the image for GPUs (needs docker)
	@docker build --target gpu --tag bark-serve:$$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml) .

image-smoke: $(VENV)/.ready ## build the image without docker or registry, and start it (root; ten minutes)
	@$(BIN)/python -m pytest tests/infra/test_image.py -m image -s

bench: $(VENV)/.ready ## measure against transformers (about 6 minutes on 2 cores)
	@$(BIN)/bark-serve bench

bulk: $(VENV)/.ready ## ten thousand prompts through the pipeline, within bounds of memory
	@$(BIN)/python -m pytest tests/serve/test_bulk_many.py -m soak -s

plan-check: $(VENV)/.ready ## the real service beside `bark-serve plan` (12 minutes, a quiet machine)
	@$(BIN)/python -m deployments.plan_check

nano: $(VENV)/.ready ## train nano from nothing (hours on 2 cores)
	@$(BIN)/python -m training.nano all

soak: $(VENV)/.ready ## a thousand jobs among dying processes, then twenty minutes of traffic: nothing may grow
	@BARK_TEST_JOBS=1000 $(BIN)/python -m pytest tests/serve/test_jobs.py -k end_once_each
	@$(BIN)/python -m pytest tests/serve/test_soak.py -m soak -s

# told before Ray is imported: handles of a cluster that is gone must not look for the next one
cluster-sim: export RAY_ENABLE_AUTO_CONNECT = 0
cluster-sim: $(VENV)/.ready ## production's pools as processes here: scale up, scale down, lose a node
	@$(BIN)/python tests/sim/cluster_sim.py

gpu: $(VENV)/.ready ## parity, reproducibility and benchmark on a CUDA device
	@$(BIN)/python -c 'import sys, torch; sys.exit(0 if torch.cuda.is_available() else "torch sees no CUDA device here")'
	@$(BIN)/python -m pytest tests -m gpu
	@$(BIN)/bark-serve bench --suite gpu --profile

clean: ## remove what the targets made
	rm -rf $(VENV) .infra build dist demo.wav .*_cache .hypothesis pipeline/engine/native/*.so
	find . -name __pycache__ -prune -exec rm -rf {} +

clean-kernels:
	rm -f $(VENV)/.ready pipeline/engine/native/*.so
