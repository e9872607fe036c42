# Needs Python 3.10 to 3.12 and make; everything else goes into .venv.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
# The TensorFlow build: tf-cpu is the small one, which macOS does not have.
TF ?= $(if $(filter Darwin,$(shell uname -s)),tf,tf-cpu)
BIN := .venv/bin

.PHONY: demo test test-runners test-kill test-quality test-package test-prism test-dataflow \
  benchmark clean

# Clusters 4,601 e-mails by their 57 features, then shows how much spam each cluster holds.
demo: .venv/package
	rm -rf demo
	$(BIN)/beam-kmeans train --input examples/spambase.csv --work_dir demo/work \
	  --features "$$(head -n 1 examples/spambase.csv | sed 's/,label$$//')" \
	  --num_clusters 20 --model_dir demo/model
	$(BIN)/beam-kmeans predict --model demo/model --input examples/spambase.csv \
	  --id_columns label --output demo/predictions --output_format csv
	$(BIN)/python examples/spambase_clusters.py demo | tee demo/clusters.txt

test: .venv/workshop
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/pytest -n 2

# The same bytes on every runner, with every split of the files.
test-runners: .venv/workshop
	$(BIN)/pytest -n 2 -m "heavy and runners"

# Runs that are killed at many moments and started again.
test-kill: .venv/workshop
	$(BIN)/pytest -n 2 -m "heavy and kill"

# Statistics over many seeds, and costs beside published tables.
test-quality: .venv/workshop
	$(BIN)/pytest -n 2 -m "heavy and quality"

# The wheel and the source archive, built and installed.
test-package: .venv/workshop
	$(BIN)/pytest -m "heavy and package"

# On Beam's runner in Go, which is built for it: needs Go 1.26.
test-prism: .venv/workshop .prism/bin/prism
	$(BIN)/pytest -n 2 -m "heavy and prism"

# What Dataflow's runner stages, and a stand-in for its service that runs it.
test-dataflow: .venv/gcp
	$(BIN)/pytest -n 2 -m "heavy and dataflow"

# The kernel against a bare matrix product, training and mini-batch steps against scikit-learn's.
benchmark: .venv/workshop
	$(BIN)/python benchmarks/kernel.py
	$(BIN)/python benchmarks/train.py
	$(BIN)/python benchmarks/minibatch.py

clean:
	rm -rf .venv .prism demo build dist *.egg-info

# Stamps: a changed pyproject.toml makes the environment anew.
.venv/package: pyproject.toml setup.py
	@echo "Installing Apache Beam and TensorFlow into .venv: some minutes."
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --editable ".[$(TF)]"
	touch $@

.venv/workshop: .venv/package
	$(BIN)/python -m pip install --quiet --editable ".[$(TF),test,dev]"
	touch $@

.venv/gcp: .venv/workshop
	$(BIN)/python -m pip install --quiet --editable ".[$(TF),test,dev,gcp]"
	touch $@

# Prism of the same version as Beam itself.
.prism/bin/prism: .venv/workshop
	version=$$($(BIN)/python -c "from importlib.metadata import version as v; print(v('apache-beam'))") \
	  && GOBIN=$(CURDIR)/.prism/bin go install github.com/apache/beam/sdks/v2/go/cmd/prism@v$$version
