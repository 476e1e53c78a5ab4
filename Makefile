# `make demo` and `make test` do all the set-up themselves: a .venv that is made once and reused while the
# requirements stay the same.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test test-all lint clean

demo: $(VENV)/.installed
	$(BIN)/python launch.py --config imagedream-toybox.yaml \
		system.prompt_processor.image_path=launch_examples/robot.png \
		"system.prompt_processor.prompt=a gray robot with orange arms, white legs and a green backpack" \
		name=demo tag=robot use_timestamp=false

# two processes with a thread each; more with PYTEST="-n 8". A test that runs over its own time limit all the same ends its
# process, which says where it stood. Many tests start Python anew, and without bytecode each of them would take seconds to
# compile its imports.
test: $(VENV)/.installed
	PYTHONDONTWRITEBYTECODE= OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not weights" \
		-o faulthandler_timeout=400 -o faulthandler_exit_on_timeout=true $(PYTEST)

test-all: $(VENV)/.installed
	$(BIN)/python -m pytest $(PYTEST)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PYTHONPATH=custom/threestudio-imagedream:embedded:custom:. $(BIN)/lint-imports --no-cache --no-logo

$(VENV)/.installed: pyproject.toml hatch_build.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv -c constraints.txt
	$(BIN)/uv pip install --quiet --python $(BIN)/python -c constraints.txt --group dev \
		--editable ".[app,heif,draco,guidance,lora,perceptual,tensorboard]"
	touch $@

clean:
	rm -rf $(VENV) outputs
