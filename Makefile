# Set-up, demo and tests on a machine without ROS: everything goes into .venv, models into ~/.cache/wildhands_ros.
# On a ROS 2 distribution build with colcon instead (docs/installation.md).

PYTHON ?=#          the Python to start from, 3.10 to 3.13; found by itself where none is named
INPUT ?=#           demo: a picture, video, folder or bag of your own
FOCAL ?=#           demo: its focal length in pixels
PIP_FLAGS ?=#       further arguments for pip install
PYTEST_FLAGS ?=#    further arguments for pytest
WORKERS ?= 2#       processes for the tests; with 0 pytest runs them itself, one after the other

VENV := .venv
BIN := $(VENV)/bin
DONE := $(VENV)/.done
PIP := $(BIN)/python -m pip --disable-pip-version-check

# the ROS 2 wheels mark their environment with this variable; inherited from another environment it misleads ours
unexport _ROS_WHEELS_BOOTSTRAP_COMPLETE
unexport PYTHONPATH PYTHONHOME

MESSAGE_SOURCES := CMakeLists.txt package.xml setup.py pyproject.toml \
    $(wildcard msg/*.msg config/* launch/* cmake/* third_party/*/CMakeLists.txt third_party/*/package.xml \
    third_party/*/msg/*.msg)

.DELETE_ON_ERROR:
.PHONY: help setup check demo test bench lint clean

help:
	@echo 'make setup    create .venv and install everything into it (demo and test do so by themselves)'
	@echo 'make demo     hands from photographs and from a rendered sequence over ROS topics, into out/demo'
	@echo 'make demo INPUT=path [FOCAL=px]    the same from your own picture, video, folder or bag'
	@echo 'make test     ruff and the whole test suite, in two processes (WORKERS=2)'
	@echo 'make bench    measure speed and accuracy on this machine'
	@echo 'make lint     ruff and mypy'
	@echo 'make clean    remove everything that was made in this folder, .venv too'
	@echo
	@echo 'make ... PYTHON=/path/to/python3.12    another Python to start from'

setup: check $(DONE)/models

demo: setup
	$(BIN)/wildhands demo $(if $(INPUT),--input "$(INPUT)") $(if $(FOCAL),--focal $(FOCAL))

test: setup
	$(BIN)/ruff check .
	$(BIN)/python -m pytest --strict-config -n $(WORKERS) $(PYTEST_FLAGS)

bench: setup
	$(BIN)/wildhands bench

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build install log out dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# --- set-up, one step after the other; a step is repeated when what it depends on has changed ---------------------

check:
	@tools/setup_python.sh $(if $(wildcard $(DONE)/venv),$(BIN)/python,"$(PYTHON)") > /dev/null

$(DONE)/venv: | check
	@echo '--- creating $(VENV)'
	@python=$$(tools/setup_python.sh "$(PYTHON)") && "$$python" -m venv $(VENV) && "$$python" --version
	@mkdir -p $(DONE) && touch $@

$(DONE)/dependencies: $(DONE)/venv pyproject.toml constraints.txt
	@echo '--- installing ROS 2, PyTorch and the rest from PyPI into $(VENV) (7 GB on disk; the first time takes minutes)'
	@$(BIN)/python tools/setup_requirements.py > $(DONE)/requirements.txt
	@$(PIP) install --progress-bar off --constraint constraints.txt --requirement $(DONE)/requirements.txt \
	    $(PIP_FLAGS) > $(DONE)/pip.log 2>&1 || { tail -n 25 $(DONE)/pip.log; \
	    echo; echo 'Installing failed: see above and $(DONE)/pip.log. Where no versions were found or all of them'; \
	    echo 'conflict, PyPI could not be reached: check the network, and behind a proxy set HTTPS_PROXY. It also'; \
	    echo 'needs 10 GB of disk. Then run the same command again.'; exit 1; }
	@touch $@

$(DONE)/messages: $(DONE)/dependencies $(MESSAGE_SOURCES)
	@echo '--- building the ROS messages'
	@$(PIP) install --no-build-isolation --no-deps --no-index --editable . > $(DONE)/messages.log 2>&1 || \
	    { tail -n 40 $(DONE)/messages.log; \
	    echo; echo 'Building the messages failed: see above and $(DONE)/messages.log.'; exit 1; }
	@touch $@

$(DONE)/models: $(DONE)/messages wildhands_ros/detection/models.py
	@echo '--- fetching the open hand detection models'
	@$(BIN)/wildhands models fetch
	@touch $@
