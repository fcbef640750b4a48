# make quickstart: the whole job on the emoji corpus, into runs/quickstart.
# make test: the tests but those marked slow, make test-slow: those.
# make docs: the documentation as a site, in build/docs/site.
# On a GPU machine: make quickstart EXTRAS=cuda13.   With the check against PyTorch: make quickstart EXTRAS=torch
PYTHON ?= python3
EXTRAS ?=
VENV ?= .venv
RUN ?= runs/quickstart
comma := ,
extra = $(if $(EXTRAS),$(comma)$(EXTRAS))
py := $(VENV)/bin/python

# Huge pages for the large buffers that XLA's CPU backend takes and returns every step: page faults cost a third of it.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
export JAX_COMPILATION_CACHE_DIR ?= $(CURDIR)/.cache/jax
# The quickstart's batches are too small to share.
export CUDA_VISIBLE_DEVICES ?= 0

.PHONY: quickstart test test-slow docs lint clean
.NOTPARALLEL:
.SECONDARY:

quickstart: $(RUN)/report.html
	@echo "open $(RUN)/report.html"

$(VENV)/.installed-$(EXTRAS): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if v >= (3, 11) else f"{sys.executable} is Python {v[0]}.{v[1]}: needs 3.11 or newer, set PYTHON=python3.12")'
	test -x $(py) || $(PYTHON) -m venv $(VENV)
	$(py) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev$(extra)]'
	touch $@

# Every training resumes by itself; the stamp only says that it came to its end.
$(RUN)/tokenizer_%/.done: | $(VENV)/.installed-$(EXTRAS)
	$(py) -m pretrain --config=configs/emoji_tokenizer.py:$* --workdir=$(@D)
	touch $@

# Few crops: in so few steps pictures are far from learned by heart, and crop 0 is how they are tested.
$(RUN)/tokens/manifest.json: $(RUN)/tokenizer_rgb/.done $(RUN)/tokenizer_gray/.done
	rm -rf $(@D)
	$(py) -m tools.tokenize --source=emoji --out=$(@D) --crops=3 \
		--tokenizers=rgb=$(RUN)/tokenizer_rgb,gray=$(RUN)/tokenizer_gray

$(RUN)/model/.done: $(RUN)/tokens/manifest.json
	$(py) -m pretrain --config=configs/emoji.py --workdir=$(@D) --config.data.path=$(RUN)/tokens
	touch $@

$(RUN)/model/eval.json: $(RUN)/model/.done
	$(py) -m pretrain.evals --checkpoint=$(RUN)/model

$(RUN)/export/model.safetensors: $(RUN)/model/.done
	rm -rf $(@D)
	$(py) -m tools.export --workdir=$(RUN)/model --out=$(@D)

$(RUN)/report.html: $(RUN)/model/eval.json $(RUN)/export/model.safetensors
	$(py) -m tools.report --workdir=$(RUN)/model --out=$@

test: | $(VENV)/.installed-$(EXTRAS)
	$(py) -m ruff check .
	$(py) -m ruff format --check .
	$(py) -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m 'not slow'

test-slow: | $(VENV)/.installed-$(EXTRAS)
	$(py) -m pytest -n 2 --dist load -m slow

# The tool keeps a cache beside its config, which has to be a copy: what it warned of once it warns of for ever.
docs: | $(VENV)/.installed-$(EXTRAS)
	$(py) -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	rm -rf build/docs
	mkdir -p build/docs
	cp -r docs build/docs/docs
	mv build/docs/docs/mkdocs.yml build/docs/
	cd build/docs && $(abspath $(VENV))/bin/zensical build --strict

lint: | $(VENV)/.installed-$(EXTRAS)
	$(py) -m ruff check --fix .
	$(py) -m ruff format .

clean:
	rm -rf $(VENV) .cache runs/quickstart
