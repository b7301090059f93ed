# Kata Containers, in Python. `make help` lists what there is to make.

PYTHON := build/venv/bin/python
PYTEST := $(PYTHON) -m pytest
export PATH := $(CURDIR)/build/tools/usr/sbin:$(CURDIR)/build/tools/usr/bin:$(PATH):/usr/sbin:/sbin

.DEFAULT_GOAL := help
.PHONY: help bootstrap setup run demo-pod shell image man test lint format proto bench lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 26

bootstrap:
	@lab/bootstrap

setup: bootstrap ## install and build what is missing, for runs and tests
	@$(PYTHON) -m lab.setup --all

run: bootstrap ## run a container in a VM, from nothing
	@$(PYTHON) -m lab.setup
	@$(PYTHON) -m lab.run

demo-pod: bootstrap ## run the example Pod of the docs in a VM, as kubelet would
	@$(PYTHON) -m lab.setup
	@$(PYTHON) -m lab.demo_pod

shell: bootstrap ## keep a private containerd open, and show how to use it
	@$(PYTHON) -m lab.setup
	@$(PYTHON) -m lab.run --hold

image: bootstrap ## build the guest kernel and image
	@$(PYTHON) -m lab.setup

man: bootstrap ## write man pages and shell completions below build/opt/kata/share, and docs/kata-ctl.md
	@PYTHONPATH=src $(PYTHON) -m kata.cli.manual --share build/opt/kata/share
	@PYTHONPATH=src $(PYTHON) -m kata.cli.manual --docs > docs/kata-ctl.md

test: setup ## run every test (three closing lines at the end: pods, what starts no machine, the rest)
	@tests/everything $(PYTHON)

test-style: bootstrap ## linters, types, import direction, size budgets
test-unit: bootstrap ## pure Python
test-wire: bootstrap ## bytes of protocols
test-linux: setup ## namespaces, mounts, cgroups of this kernel
test-vm: setup ## boots QEMU
test-containerd: setup ## drives private containerds
test-node: bootstrap ## a whole Debian with KVM and systemd; takes KATA_TEST_NODE=1 and half an hour
test-%:
	@$(PYTEST) tests/$*

lint: bootstrap ## ruff and mypy
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m mypy
	@$(PYTHON) -m mypy --explicit-package-bases lab tests/containerd

format: bootstrap ## write all Python as ruff wants it
	@$(PYTHON) -m ruff check --fix .
	@$(PYTHON) -m ruff format .

proto: bootstrap ## generate src/kata_api from proto/
	@$(PYTHON) proto/generate.py

bench: setup ## measure, A against B
	@$(PYTHON) -m bench

lock: ## write the lock files anew (needs uv)
	@requirements/lock

clean: ## remove what was built; downloads stay in the user's cache
	rm -rf build
