# Every target sets itself up: on a fresh machine `make demo` alone runs the main job.
# For GNU make 3.81 (macOS) and newer, and any POSIX sh.

PYTHON ?= python3
VENV   := .venv

# TensorFlow's build: `TF=tensorflow` or `TF=tensorflow-cpu`. The CPU build exists for Linux on x86-64 alone.
TF ?= $(shell if [ "`uname -sm`" = "Linux x86_64" ] && ! command -v nvidia-smi >/dev/null 2>&1; \
	then echo tensorflow-cpu; else echo tensorflow; fi)
EXTRA_tensorflow     = build
EXTRA_tensorflow-cpu = build-cpu
EXTRA = $(or $(EXTRA_$(TF)),$(error TF=$(TF): expected tensorflow or tensorflow-cpu))

PY    = $(VENV)/bin/python
ORCHESTRATE = exec $(PY) orchestrate.py
PYTEST = $(PY) -m pytest -n 2 --dist loadfile
PIP   = $(PY) -m pip install --quiet --no-input --disable-pip-version-check -c constraints.txt
READY = $(VENV)/ready-$(TF)

DIGITS = examples/digits

# Paths: taken as they are (a dollar is a dollar), and read by recipes from the environment.
PATHS = MODEL WEIGHTS NET OUT IMAGES LABELS
$(foreach name,$(PATHS),$(eval override $(name) := $$(value $(name))))
export $(PATHS)

TARGETS = help setup demo convert extract build verify validate lint type test test-slow test-py38 test-pythons \
	browser fuzz bench results docs proto pyz clean distclean
.PHONY: $(TARGETS)
.DEFAULT_GOAL := $(if $(MODEL)$(OUT),convert,help)
MAKEFLAGS += --no-builtin-rules

needed = $(foreach name,$1,$(if $($(name)),,missing-$(name)))

# Paths as names of make's, $1= with $2 behind it: blanks escaped; what every make can not be told is refused.
space := $(subst ,, )
tab   := $(subst ,,	)
define newline


endef
closing := )
UNFIT := : ; % | * ? [ ] \ \#
blankless = $(subst $(space),_,$($1)$2)
unfit = $(strip $(foreach mark,$(UNFIT),$(findstring $(mark),$($1))) $(if $(findstring $(tab),$($1)),tab) \
	$(if $(findstring $(newline),$($1)),newline) $(if $(filter ~%,$(blankless)),~) \
	$(if $(filter %$(closing),$(blankless)),$(closing) at its end) $(filter $(TARGETS),$(patsubst ./%,%,$(blankless))))
refused = $(error $1=$($1): make takes no path with $(unfit); choose another, or run orchestrate.py itself)
path = $(if $(unfit),$(refused))$(subst $(space),\$(space),$($1)$2)

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):[^#]*## \(.*\)/  make \1|\2/p' Makefile | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

setup: $(READY)  ## make .venv with pinned packages (PYTHON=, TF=tensorflow or tensorflow-cpu)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "make setup: Python 3.10 or newer is needed, $(PYTHON) is `$(PYTHON) -V 2>&1`; set PYTHON=" >&2; exit 7; }
	@echo "setting up $(VENV) with $(TF)"
	@$(PYTHON) -m venv --clear $(VENV)
	@$(PIP) setuptools
	@$(PIP) --no-build-isolation -e '.[extract,$(EXTRA),dev]'
	@touch $@

demo: $(READY)  ## convert the embedded example, verify it, score its test images
	@$(ORCHESTRATE) convert $(DIGITS)/deploy.prototxt $(DIGITS)/digits.caffemodel -o out/digits --force
	@$(PY) $(DIGITS)/demo.py out/digits

# A conversion is made where it is missing or older than what it is made of: Caffe's files, and NEEDS, what else ARGS
# name. ARGS themselves make does not see (`make -W net.prototxt ...` takes that file for changed). NET, if given, is the
# file between the stages, kept, and looked at as well; EXTRACT_ARGS are then those of stage 1. A model's folder gets its
# name when all in it is written: names.json, which marks one, stands for it.
GOAL := $(filter convert extract build,$(or $(MAKECMDGOALS),$(.DEFAULT_GOAL)))
$(if $(word 2,$(GOAL)),$(error $(GOAL): one of them at a time; convert with NET= does both stages))
ifneq (,$(and $(GOAL),$(MODEL),$(OUT)))
MADE  := $(call path,OUT,$(if $(filter extract,$(GOAL)),,/names.json))
CAFFE := $(call path,MODEL) $(call path,WEIGHTS) $(NEEDS)
endif
FILES   = "$$MODEL" $${WEIGHTS:+"$$WEIGHTS"}
REPLACE = $$(test ! -f "$$OUT/names.json" || echo --force)
replace = $$(test ! -f "$$$1" || head -c 4 <"$$$1" | tail -c 3 | LC_ALL=C sed -n s/HDF/--force/p)
extract = $(ORCHESTRATE) extract -o "$$$1" $(replace) $2 -- $(FILES)
build   = $(ORCHESTRATE) build -o "$$OUT" $(REPLACE) $(ARGS) -- "$$$1"

convert: $(call needed,MODEL OUT) $(MADE)  ## both stages: MODEL=net.prototxt WEIGHTS=net.caffemodel OUT=folder [NET= NEEDS= ARGS=]
extract: $(call needed,MODEL OUT) $(MADE)  ## stage 1 alone: MODEL=net.prototxt WEIGHTS=net.caffemodel OUT=net.h5 [...]
build: $(call needed,MODEL OUT) $(MADE)  ## stage 2 alone: MODEL=net.h5 OUT=folder [...]

ifneq (,$(MADE))
ifeq ($(GOAL),extract)
$(MADE): $(CAFFE) | $(READY)
	@$(call extract,OUT,$(ARGS))
else ifeq ($(GOAL),build)
$(MADE): $(call path,MODEL) $(NEEDS) | $(READY)
	@$(call build,MODEL)
else ifneq (,$(NET))
$(call path,NET): $(CAFFE) | $(READY)
	@$(call extract,NET,$(EXTRACT_ARGS))
$(MADE): $(call path,NET) $(NEEDS) | $(READY)
	@$(call build,NET)
else
$(MADE): $(CAFFE) | $(READY)
	@$(ORCHESTRATE) convert -o "$$OUT" $(REPLACE) $(ARGS) -- $(FILES)
endif
# Whole or not there at all, whatever ends make: it shall not tidy them away.
.PRECIOUS: $(MADE) $(call path,NET)
endif

verify: $(call needed,OUT) $(READY)  ## prove a converted model again: OUT=folder [ARGS=]
	@$(ORCHESTRATE) verify $(ARGS) -- "$$OUT"

validate: $(call needed,OUT IMAGES) $(READY)  ## top-1 and top-5: OUT=folder IMAGES=folder LABELS=file [ARGS=]
	@$(ORCHESTRATE) validate --images "$$IMAGES" $${LABELS:+--labels "$$LABELS"} $(ARGS) -- "$$OUT"

missing-%:
	@echo "$*= is missing; \`make help\` says what each target takes" >&2; exit 2

lint: $(READY)  ## ruff: rules and format
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

type: $(READY)  ## mypy
	$(PY) -m mypy

test: $(READY)  ## the tests but the slow ones, and those of stage 1 under Python 3.8 [ARGS=]
	status=0; $(PYTEST) -m "not slow" $(ARGS) || status=1; \
	$(PY) tools/pythons.py 3.8 || status=1; exit $$status

test-slow: $(READY)  ## the slow tests [ARGS=]
	$(PYTEST) -m slow $(ARGS)

test-py38: $(READY)  ## the tests of stage 1 under Python 3.8, with numpy, h5py and protobuf 3.20 alone
	$(PY) tools/pythons.py 3.8

test-pythons: $(READY)  ## the same under every other Python found (ARGS=--full: every test, from 3.10)
	$(PY) tools/pythons.py $(ARGS) $(if $(findstring --full,$(ARGS)),,3.8 3.9) 3.10 3.12 3.13

browser:  ## Chromium, for the tests of report.html (by apt-get, as root)
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; } >/dev/null 2>&1 || \
		echo "make browser: not installed; the tests of report.html in a browser will not run" >&2

fuzz: $(READY)  ## the readers of strangers' files, two minutes [ARGS=--seconds=60 --seed=1 --executions=1000]
	$(PY) -m tests.fuzz $(ARGS)

bench: $(READY)  ## speed and memory beside others', into benchmarks/ [ARGS=--only extraction --repeat 5]
	$(PY) benchmarks/run.py $(ARGS)

proto: $(READY)  ## compile schemas/caffe.proto to schemas/caffe.desc
	$(PY) tools/compile_proto.py

results: $(READY)  ## docs/results.md, from the shared models (some ten minutes)
	$(PY) tools/results.py

docs: $(READY)  ## docs/layers.md, from the registries
	$(PY) tools/layers_doc.py

pyz: $(READY)  ## dist/stage_extract.pyz: stage 1 in one file, for the machine that has Caffe
	$(PY) tools/build_pyz.py

clean:  ## remove what was made, but not .venv
	rm -rf out dist build *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name .git -prune -o -name '.venv*' -prune -o -name __pycache__ -type d -exec rm -rf {} +

distclean: clean  ## remove the environments as well
	rm -rf .venv .venvs
