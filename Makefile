# MFM-Mapper. `make` lists the targets; every variable can be given on the command line.
PRESET   ?= micro
MANIFEST ?= demo/clips
comma    := ,
# Features are the same with an option and without it; so is the mapper with ,fast; the sound is not.
CACHE    ?= cache/$(subst $(comma)mfm-mapper-m,,$(subst $(comma)fast,,$(PRESET)))
RUN      ?= runs/$(subst $(comma)fast,,$(PRESET))
OUT      ?= outputs/$(PRESET)
REFERENCE ?=
STAGE    ?= all
SHARDS   ?= all
FORMAT   ?= hdf5
EXECUTOR ?= local
ARGS     ?=
# The CPU build where there is no GPU; TORCH=torch takes whatever pip thinks fits this machine.
TORCH    ?= torch==2.13.0
PYTHON   ?= python3
DEMO_CLIPS := 288
# Its 192 training clips are too few to learn from nothing when things sound: it goes on from the shipped mapper.
DEMO_TRAINING := --set mapper.initialise=shipped --set training.epochs=10 --set training.learning_rate=2.0e-4
# Figure 2: the baseline, where it ships, makes three of the 48 test clips.
DEMO_V2A := $(wildcard presets/micro/v2a-mapper/config.json)
DEMO_THREE := --task-id 0 --num-tasks 16

VENV := .venv
BIN  := $(VENV)/bin
INSTALLED := $(VENV)/.installed

# A variable as one word for the shell, whatever spaces and quotation marks it has.
quoted = '$(subst ','\'',$($(1)))'

.DEFAULT_GOAL := help
.PHONY: help setup demo weights extract status train generate app evaluate study test lint clean

help: ## this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'
	@echo "  variables: PRESET MANIFEST CACHE RUN OUT REFERENCE STAGE SHARDS FORMAT EXECUTOR ARGS (see README.md)"

setup: $(INSTALLED) ## install everything into .venv

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

demo: $(INSTALLED) ## from nothing to sound on the micro preset: render clips, extract, train, generate, report
	$(BIN)/python -m micro render --out demo/clips --clips $(DEMO_CLIPS)
	$(BIN)/python -m pipeline extract --preset micro --manifest demo/clips --cache demo/cache
	$(BIN)/python -m trainer --preset micro --cache demo/cache --run demo/run $(DEMO_TRAINING)
	$(BIN)/python -m generate --preset micro --cache demo/cache --run demo/run --out demo/out
	$(BIN)/python -m evaluation --preset micro --out demo/out
	$(if $(DEMO_V2A),$(BIN)/python -m generate demo/clips/test --preset v2a-mapper-micro $(DEMO_THREE) --suffix wav -o demo/v2a)
	$(BIN)/python -m micro report --out demo/out $(if $(DEMO_V2A),--beside V2A-Mapper=demo/v2a)

demo/clips: | $(INSTALLED)
	$(BIN)/python -m micro render --out demo/clips --clips $(DEMO_CLIPS)

weights: $(INSTALLED) ## fetch the official files of PRESET=paper that are missing, after ARGS="--accept-licences"
	$(BIN)/python -m pipeline weights --preset $(call quoted,PRESET) --download $(ARGS)

extract: $(INSTALLED) $(if $(subst demo/clips,,$(MANIFEST)),,$(if $(MANIFEST),demo/clips)) ## MANIFEST (Parquet or a folder of videos) -> features in CACHE
	$(BIN)/python -m pipeline extract --preset $(call quoted,PRESET) --manifest $(call quoted,MANIFEST) --cache $(call quoted,CACHE) \
	  --stage $(call quoted,STAGE) --shards $(call quoted,SHARDS) --format $(call quoted,FORMAT) --executor $(call quoted,EXECUTOR) $(ARGS)

status: $(INSTALLED) ## what CACHE holds: stages by shards, clips, bytes, time left
	$(BIN)/python -m pipeline status $(call quoted,CACHE) --preset $(call quoted,PRESET) --format $(call quoted,FORMAT) $(ARGS)

train: $(INSTALLED) ## CACHE -> a trained mapper in RUN
	$(BIN)/python -m trainer --preset $(call quoted,PRESET) --cache $(call quoted,CACHE) --run $(call quoted,RUN) --format $(call quoted,FORMAT) $(ARGS)

generate: $(INSTALLED) ## CACHE and RUN (or the preset's own mapper) -> wav of a split and a page in OUT; ARGS="--mp4 all": videos of all clips
	$(BIN)/python -m generate --preset $(call quoted,PRESET) --cache $(call quoted,CACHE) $(if $(filter-out file,$(origin RUN))$(shell [ -d $(call quoted,RUN) ] && echo there),--run $(call quoted,RUN)) --out $(call quoted,OUT) --format $(call quoted,FORMAT) $(ARGS)

app: $(INSTALLED) ## a page in the browser: a film in, the film with its sound out (RUN: another mapper than the preset's)
	$(BIN)/python -m app --preset $(call quoted,PRESET) $(if $(filter-out file,$(origin RUN)),--run $(call quoted,RUN)) $(ARGS)

evaluate: $(INSTALLED) ## OUT against REFERENCE (default: the clips' own videos) -> the paper's metrics as JSON, Markdown and a page
	$(BIN)/python -m evaluation --preset $(call quoted,PRESET) --out $(call quoted,OUT) $(if $(REFERENCE),--reference $(call quoted,REFERENCE)) $(ARGS)

study: $(INSTALLED) ## Tables 1 to 3, Figure 3 and the cost of sampling at micro scale, in runs/study
	$(BIN)/python -m micro study $(ARGS)

test: $(INSTALLED) ## all tests of the default suite
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

lint: $(INSTALLED) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean: ## remove what demo made (never CACHE, RUN or OUT)
	rm -rf demo
