# The commands of the project. `make demo` and `make test` need Python 3.11, make and a package index, and set up the rest.
.DEFAULT_GOAL := help
.ONESHELL:
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
PYTHON ?= python3.11
BIN := .venv/bin
SUDO := $(shell test "$$(id -u)" = 0 || echo sudo)

.PHONY: help
help: ## list the targets
	@grep -hE '^[a-z_-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z_-]+):.*## /\1\t/' | expand -t 12

.PHONY: setup
setup: .venv/.installed ## make .venv with every pinned package

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --upgrade pip setuptools
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[programs]' --group dev
	touch $@

DEMO := build/demo
# What differs from the paper's settings, so that two cores learn 4,000 digits in minutes; see the README.
PRETRAIN := --size mu --pooling mean --head_bias -2.2 --steps 500 --batch 64 --log_every 100 \
  --optimizer adamw --peak 3e-3 --warmup 150 --cooldown 250 --min_area 0.8 --no_flip
LIT := --steps 60 --batch 128 --vocabulary 400 --log_every 20 --optimizer adamw --warmup 15 --cooldown 30
EXPORT := --batch_sizes 1 8 32

.PHONY: demo
demo: setup ## train, export, serve and classify real images; writes build/demo/report.json and predictions.png
	@rm -rf $(DEMO) && mkdir -p $(DEMO)
	python=$(BIN)/python
	timed() { # timed STAGE COMMAND...: shows the command, runs it, notes its seconds
	  local stage=$$1 begin=$$EPOCHREALTIME
	  shift
	  [ $$1 != serve ] && printf '\n$$ %s\n' "$$*"
	  "$$@"
	  awk -v stage=$$stage -v a=$$begin -v b=$$EPOCHREALTIME 'BEGIN {printf "%s\t%.1f\n", stage, b - a}' >> $(DEMO)/stages.tsv
	}
	serve() { # serve COMMAND...: starts a server, and waits for its port, which opens once the model is AVAILABLE
	  printf '\n$$ %s &\n' "$$*"
	  "$$@" 2> $(DEMO)/server.log &
	  server=$$!
	  trap 'kill $$server 2> /dev/null && wait $$server' EXIT
	  until address=$$(grep -oP 'Running gRPC ModelServer at \K[0-9.:]+' $(DEMO)/server.log); do
	    kill -0 $$server 2> /dev/null || { cat $(DEMO)/server.log; exit 1; }
	    sleep 0.1
	  done
	}
	$$python train/mnist.py --output $(DEMO)/digits
	timed pretrain $$python train/pretrain.py --data $(DEMO)/digits/train --workdir $(DEMO)/pretrain $(PRETRAIN)
	timed lit $$python train/lit.py --checkpoint $(DEMO)/pretrain --data $(DEMO)/digits/train --workdir $(DEMO)/lit $(LIT)
	timed export $$python export/to_savedmodel.py --checkpoint $(DEMO)/lit --output $(DEMO)/models/digits $(EXPORT)
	port=$$($$python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
	timed serve serve $$python serving/model_server.py --port=$$port --bind_address=127.0.0.1 --check_golden --max_num_load_retries=0 \
	  --model_name=digits --model_base_path=$$PWD/$(DEMO)/models/digits
	timed embed $$python clients/embed.py $(DEMO)/digits/heldout --address $$address --model digits \
	  --output $(DEMO)/heldout.npz
	timed classify $$python clients/zero_shot.py $(DEMO)/digits/heldout --address $$address --model digits \
	  --templates digits --sheet $(DEMO)/predictions.png --output $(DEMO)/zero_shot.json
	printf '\n'
	$$python export/parity.py --checkpoint $(DEMO)/lit --vectors $(DEMO)/heldout.npz --output $(DEMO)/parity.json
	$$python benchmarks/demo_report.py $(DEMO)

.PHONY: test
test: setup ## run the tests
	$(BIN)/python -m pytest

.PHONY: test-slow
test-slow: setup ## run the tests that train or export in several processes for a minute each
	$(BIN)/python -m pytest -m slow

EVAL := build/eval
# The demo's tower: size mu at 112 pixels in patches of 14, which two cores train in minutes.
EVAL_PRETRAIN := --size mu --resolution 112 --patch 14 --pooling mean --head_bias -4.6 --steps 500 --batch 64 --log_every 100 \
  --optimizer adamw --peak 3e-3 --warmup 60 --cooldown 300 --min_area 0.6 --no_flip --signals_every 0
EVAL_LIT := --steps 120 --batch 256 --vocabulary 1000 --log_every 40 --optimizer adamw --warmup 20 --cooldown 80

.PHONY: eval
eval: .venv/.eval ## train a small tower and judge it by every protocol of the paper; writes build/eval/report.json and .html
	python=$(BIN)/python
	$$python train/evaluation_data.py --output $(EVAL)/sets
	# A training knows its images by their number and a few names: of other images it is begun anew.
	images=$$(find $(EVAL)/sets/pretraining -type f | LC_ALL=C sort | xargs -d '\n' sha256sum | sha256sum)
	if [ "$$images" != "$$(cat $(EVAL)/trained_on 2> /dev/null)" ]; then
	  rm -rf $(EVAL)/pretrain $(EVAL)/lit
	  echo "$$images" > $(EVAL)/trained_on
	fi
	$$python train/pretrain.py --data $(EVAL)/sets/pretraining --workdir $(EVAL)/pretrain $(EVAL_PRETRAIN)
	$$python train/lit.py --checkpoint $(EVAL)/pretrain --data $(EVAL)/sets/pretraining --workdir $(EVAL)/lit $(EVAL_LIT)
	$$python train/evaluate.py --source checkpoint:$(EVAL)/lit --data $(EVAL)/sets --output $(EVAL)

.PHONY: scaling
scaling: .venv/.eval ## train and judge mu, Ti and S alike (an hour or so); writes build/scaling/scaling.png and scaling.html
	$(BIN)/python train/evaluation_data.py --output $(EVAL)/sets
	$(BIN)/python train/scaling.py --data $(EVAL)/sets --output build/scaling

.venv/.eval: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group eval
	touch $@

.PHONY: test-eval
test-eval: .venv/.eval ## run the tests that need the packages of the evaluation's sets
	$(BIN)/python -m pytest -m eval

.venv/.web: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group web
	touch $@

.PHONY: web
web: .venv/.web ## test the gateway's page in Chromium, and the openai client; installs Debian's chromium where it is missing
	command -v chromium > /dev/null || { $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends chromium fonts-dejavu-core; }
	$(BIN)/python -m pytest -m web

.venv/.tpu: .venv/.installed
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[programs,tpu]'
	touch $@

.PHONY: tpu
tpu: .venv/.tpu ## compile the 22B train step for v5p and v4 with the TPU compiler; writes build/tpu/report.json
	$(BIN)/python benchmarks/tpu_report.py

.PHONY: tpu-ci
tpu-ci: .venv/.tpu ## one of these compiles, its memory and its collectives checked
	$(BIN)/python benchmarks/tpu_report.py --ci
	$(BIN)/python -m pytest -m tpu

# The models that weights are imported from, in an environment of their own: PyTorch is no part of the project.
.venv-parity/.installed: pyproject.toml constraints.txt tests/parity/requirements.txt
	$(PYTHON) -m venv .venv-parity
	.venv-parity/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[model]' \
	  --requirement tests/parity/requirements.txt
	.venv-parity/bin/python -m pip install --quiet --no-deps torchvision==0.28.0 timm==1.0.31 netcal==1.4.0
	touch $@

.PHONY: parity
parity: .venv-parity/.installed ## compare imported weights with transformers, timm and onnxruntime; writes build/parity/report.json
	JAX_PLATFORMS=cpu .venv-parity/bin/python tests/parity/run.py --output build/parity/report.json

.PHONY: compatibility
compatibility: setup ## verify the demo's version on older TensorFlows; writes build/compatibility/report.json
	$(BIN)/python benchmarks/compatibility.py $(DEMO)/models/digits/1

.PHONY: conformance
conformance: setup ## answer what was recorded from TensorFlow Serving, gRPC and REST, as it did
	$(BIN)/python benchmarks/conformance.py

FUZZ_REQUESTS ?= 20000

.PHONY: fuzz
fuzz: setup ## send the server FUZZ_REQUESTS mutated requests, gRPC and REST; none may crash, hang or change another's answer
	$(BIN)/python benchmarks/fuzz.py --requests $(FUZZ_REQUESTS)

SOAK_KILLS ?= 6
SOAK_SECONDS ?= 180

.PHONY: soak soak-training soak-serving
soak: soak-training soak-serving ## both soaks

soak-training: setup ## kill a training run SOAK_KILLS times at random moments; it has to go on bit for bit
	$(BIN)/python benchmarks/soak.py --kills $(SOAK_KILLS)

soak-serving: setup ## load a server for SOAK_SECONDS while its versions change; writes build/soak/report.json
	$(BIN)/python benchmarks/soak_serving.py --seconds $(SOAK_SECONDS)

.PHONY: bench
bench: setup ## time the train step, the input pipeline, the export, the server and the client; writes build/bench/
	$(BIN)/python benchmarks/train_step.py
	$(BIN)/python benchmarks/export.py
	$(BIN)/python benchmarks/input_pipeline.py
	$(BIN)/python benchmarks/serving.py
	$(BIN)/python benchmarks/client.py

.PHONY: lint
lint: setup ## format, lint and types, as the pre-commit hooks run them
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

# Debian's Bazel, and its copies of the rules that it would otherwise fetch.
BAZEL_PACKAGES := bazel-bootstrap bazel-platforms bazel-rules-java bazel-rules-proto

.PHONY: bazel
bazel: setup ## run the tests under Bazel, offline; installs Debian's Bazel where it is missing
	dpkg --status $(BAZEL_PACKAGES) >/dev/null 2>&1 || { $(SUDO) apt-get update -qq && \
	  $(SUDO) env DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends $(BAZEL_PACKAGES); }
	PATH="$(CURDIR)/$(BIN):$$PATH" tests/bazel_offline/bazel test //...

.PHONY: proto
proto: ## write the *_pb2.py of the .proto files; protoc must be no newer than the protobuf in constraints.txt
	scratch=$$(mktemp -d)
	trap 'rm -rf $$scratch' EXIT
	$(PYTHON) -m venv $$scratch
	$$scratch/bin/pip install --quiet grpcio-tools==1.76.0
	$$scratch/bin/python -m grpc_tools.protoc --proto_path=. --python_out=. vit22b/wire.proto serving/server_config.proto \
	  clients/bulk/example.proto
