# `make demo` and `make test` create a virtual environment in .venv and install the dependencies.
PYTHON ?= python3
BIN := .venv/bin
# Half of the test time is single-threaded Python, so two workers keep two cores busy. `make test WORKERS=` disables workers.
WORKERS ?= -n 2 --dist worksteal
# Only code that behaves differently on another Keras backend is tested again on JAX: compiled losses, gradients, and the
# state of heads, models, optimizers and checkpoints. tests/test_backends.py compares networks on both backends.
JAX_TESTS := tests/margins tests/test_models.py tests/test_keras_habits.py \
	$(patsubst %,tests/layers/test_%.py,arguments auxiliary_losses chunked distillation embedding_head embedding_loss \
	every_head inner_product large_margin_product margin_product negatives partial_fc quality softmax_product) \
	$(patsubst %,tests/training/test_%.py,adam checkpoints gradient_accumulation sgd steps) \
	tests/pretrained/test_onnx_converter.py::test_training_changes_every_weight
# PyTorch runs the heads and their loss only. The other tests of layers take gradients by TensorFlow or JAX.
TORCH_TESTS := tests/test_registered.py \
	$(patsubst %,tests/layers/test_%.py,chunked custom_reduction inner_product modern_presets)
# Slow tests that CI runs after `make test`, because they guard what matters most to users: the wheel in a clean environment,
# the demo, the notebook, Ctrl-C, killed writers of a gallery, several replicas against one device. `pytest -m slow` has more.
SLOW_TESTS := \
	tests/packaging \
	tests/backbones/test_resnet.py \
	tests/beam \
	tests/examples/test_omniglot.py \
	tests/examples/test_readme.py \
	tests/examples/test_notebook.py \
	tests/cli/test_train.py::test_demo_exports_a_saved_model \
	tests/cli/test_train.py::test_ctrl_c_stops_after_a_step_with_a_checkpoint_and_no_traceback \
	tests/evaluation/test_real_data.py \
	tests/faces \
	tests/fuzzing \
	tests/gallery/test_processes.py \
	tests/layers/test_every_head.py::test_degenerate_batches_have_a_finite_loss_and_gradient \
	tests/layers/test_partial_fc.py::test_it_learns_and_continues_after_loading \
	tests/layers/test_partial_fc.py::test_other_classes_and_pairs_are_drawn_with_equal_probability \
	tests/layers/test_partial_fc.py::test_the_mean_over_draws_approaches_the_expectation \
	tests/layers/test_partial_fc.py::test_two_replicas_draw_and_train_as_one \
	tests/serving/deploy/test_kubernetes_canary.py \
	tests/serving/saved_model/test_export.py::test_an_export_after_training_in_bfloat16_answers_in_float32 \
	tests/serving/saved_model/test_export.py::test_the_graph_does_not_require_xla \
	tests/test_keras_habits.py \
	tests/test_keras_models.py \
	tests/test_replicas.py \
	tests/training/test_checkpoints.py::test_a_second_training_is_told_who_trains_in_the_directory \
	tests/training/test_distribution.py::test_sharded_heads_equal_a_head_on_one_device_with_traffic_independent_of_the_classes \
	tests/training/test_distribution.py::test_two_hosts_train_like_one_process_and_never_hold_all_centers \
	tests/training/test_fine_tuning.py::test_a_loaded_model_continues_training_exactly \
	tests/training/test_gradient_accumulation.py \
	tests/training/test_interruption.py \
	tests/training/test_replica_check.py \
	tests/training/test_resume_elsewhere.py::test_a_training_continues_on_another_number_of_devices[fewer-hosts]
# Most of the time on JAX is compilation: the workers, and the next run, take over what another one has compiled.
ON_JAX := KERAS_BACKEND=jax JAX_COMPILATION_CACHE_DIR=$(CURDIR)/.pytest_cache/jax \
	JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=0 JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=-1

# Hides TensorFlow's startup messages.
export TF_CPP_MIN_LOG_LEVEL ?= 2

.PHONY: demo test check test-tensorflow test-jax test-slow test-torch coverage docs build lint clean

demo: .venv/demo
	$(BIN)/python examples/train_ms1m.py

test: check test-tensorflow test-jax

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test-tensorflow: .venv/dev
	$(BIN)/python -m pytest $(WORKERS)

test-jax: .venv/dev
	$(ON_JAX) $(BIN)/python -m pytest $(WORKERS) $(JAX_TESTS)

test-slow: .venv/dev
	$(BIN)/python -m pytest -m slow $(WORKERS) $(SLOW_TESTS)

# Requires PyTorch, which is in no extra.
test-torch: .venv/dev
	KERAS_BACKEND=torch $(BIN)/python -m pytest $(WORKERS) $(TORCH_TESTS)

coverage: .venv/dev
	$(BIN)/python -m pytest $(WORKERS) --cov --cov-report=
	$(ON_JAX) $(BIN)/python -m pytest $(WORKERS) --cov --cov-append $(JAX_TESTS)

# Material for MkDocs announces its successor in every build, until it ends in May 2027.
docs: .venv/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The files that are published, in dist/.
build: .venv/dev
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

lint: .venv/dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv build dist site *.egg-info

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/demo: .venv/bin/python setup.cfg
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[demo]'
	touch $@

.venv/dev: .venv/bin/python setup.cfg
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[dev]'
	touch $@

.venv/docs: .venv/bin/python setup.cfg
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --editable '.[docs]'
	touch $@
