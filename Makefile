# Quern. `make demo` and `make check` do everything from a bare Debian; README.md says the rest.
#
#   make                 build/quern            make check           set up, build, run every test
#   make demo            the main job, shown    make bench           ratios against the machine's limits
#   make bench-peers     what bench compares with, by npm   make bench-quality   KL of every method on the sample
#   make faults          kills, full and broken disks (minutes)
#   make deb             a Debian package       make check-deb       install, use and remove it
#   make install         PREFIX= DESTDIR=       make uninstall       the same
#   make check-html      the HTML reports in a headless Chromium
#   make check-oracle    PyTorch reads what is written, and runs it (python3-torch; skips without)
#   make check-tokenizer  ids held against npm's tokenizers, over texts of many kinds (installs them under build/peers)
#   make fuzz T=json     one fuzz target        make t F='json.*'    one area's unit tests
#   make deps            install what is missing (Debian)            make format, make clean
#
#   SAN=1                AddressSanitizer and UBSan, in their own folders; SAN=thread: ThreadSanitizer
#   WERROR=              for a compiler newer than ours

CC       ?= gcc
CXX      ?= g++
PREFIX   ?= /usr/local
PYTHON   ?= $(firstword $(wildcard /usr/bin/python3) python3)
WERROR   ?= -Werror
BUILD    := build
VERSION  := 0.1.0

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

# A kind of build has its own objects and its own programs, so that kinds do not mix.
KIND := release
BIN := $(BUILD)
OPTIMIZE := -O2 -g
ifeq ($(SAN),1)
KIND := san
OPTIMIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
ifeq ($(SAN),thread)
KIND := tsan
OPTIMIZE := -O1 -g -fsanitize=thread
endif
ifeq ($(SAN),fuzz)
KIND := fuzz
CC := clang
OPTIMIZE := -O1 -g -fsanitize=address,undefined,fuzzer-no-link -fno-sanitize-recover=all
endif
ifneq ($(KIND),release)
BIN := $(BUILD)/$(KIND)
endif
OBJ := $(BUILD)/obj/$(KIND)

PACKAGES := zlib libcjson openssl oniguruma
DEBIAN_PACKAGES := gcc g++ make pkg-config zlib1g-dev libcjson-dev libssl-dev libonig-dev libgtest-dev mandoc
HTML_PACKAGES := chromium nodejs poppler-utils
FUZZ_PACKAGES := clang libclang-rt-14-dev

# Evaluated when first used, so that `make deps` may run before pkg-config exists.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES)))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $(shell pkg-config --libs $(PACKAGES)))$(PKG_LIBS)
GTEST_LIBS = $(shell pkg-config --libs gtest)

WARN := -Wall -Wextra $(WERROR) -Wshadow -Wundef -Wwrite-strings
CWARN := $(WARN) -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wswitch-enum
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE -DQUERN_VERSION='"$(VERSION)"' -I. $(OPTIMIZE) $(CWARN) -ffp-contract=off -pthread -MMD -MP $(PKG_CFLAGS) $(ISA) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 -D_GNU_SOURCE -I. $(OPTIMIZE) $(WARN) -ffp-contract=off -pthread -MMD -MP $(CXXFLAGS)
LIBS = $(PKG_LIBS) -lm -pthread
LINK = @mkdir -p $(@D) && echo "  LD  $@" && $(CC) $(OPTIMIZE) $(LDFLAGS) -o $@ $^ $(LIBS)

# The instruction set of a kernel file is in its name. FMA comes from intrinsics only: -ffp-contract=off is for all.
%_avx2.o: ISA := -mavx2 -mfma -mf16c
%_avx512.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c
%_amx.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mavx512bf16 -mamx-tile -mamx-bf16

MAIN := convert/main.c
SOURCES := $(sort $(wildcard formats/base/*.c formats/*.c quant/*.c verify/*.c convert/*.c))
LIBRARY_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(filter-out $(MAIN),$(SOURCES)))

# Generators: a .c beside a header is shared code, the others are programs.
GENERATE_SHARED := $(patsubst %.h,%.c,$(wildcard samples/generate/*.h))
GENERATE_OBJ := $(GENERATE_SHARED:%.c=$(OBJ)/%.o)
GENERATORS := $(patsubst samples/generate/%.c,$(BIN)/%,$(filter-out $(GENERATE_SHARED),$(wildcard samples/generate/*.c)))

TEST_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(sort $(wildcard tests/*.c))) $(OBJ)/tests/ct.o
BENCHES := $(patsubst tests/bench/bench_%.c,$(BIN)/bench/%,$(sort $(wildcard tests/bench/bench_*.c)))
BENCH_OBJ := $(patsubst %.c,$(OBJ)/%.o,$(filter-out $(wildcard tests/bench/bench_*.c),$(wildcard tests/bench/*.c)))

HTML_PAGES := $(BIN)/html-pages
FAULTS := $(BIN)/faults
SHIM := $(BUILD)/faults-shim.so

QUERN := $(BIN)/quern
TEST_BIN := $(BIN)/quern-test

.PHONY: all
all: $(QUERN)

$(QUERN): $(OBJ)/convert/main.o $(LIBRARY_OBJ)
	$(LINK)

$(GENERATORS): $(BIN)/%: $(OBJ)/samples/generate/%.o $(GENERATE_OBJ) $(LIBRARY_OBJ)
	$(LINK)

$(BENCHES): $(BIN)/bench/%: $(OBJ)/tests/bench/bench_%.o $(BENCH_OBJ) $(GENERATE_OBJ) $(LIBRARY_OBJ)
	$(LINK)

$(TEST_BIN): $(TEST_OBJ) $(GENERATE_OBJ) $(LIBRARY_OBJ)
	@mkdir -p $(@D)
	@echo "  LD  $@"
	@$(CXX) $(OPTIMIZE) $(LDFLAGS) -o $@ $^ $(GTEST_LIBS) $(LIBS)

$(OBJ)/%.o: %.c Makefile
	@mkdir -p $(@D)
	@echo "  CC  $<"
	@$(CC) $(CFLAGS_ALL) -c -o $@ $<

$(OBJ)/%.o: %.cc Makefile
	@mkdir -p $(@D)
	@echo "  CXX $<"
	@$(CXX) $(CXXFLAGS_ALL) -c -o $@ $<

-include $(shell test -d $(BUILD)/obj && find $(BUILD)/obj -name '*.d')

# What follows starts from a bare machine: first the packages, then a second make that may ask pkg-config.
# It uses every CPU, unless the caller chose a number.
AGAIN = +@$(MAKE) -s $(if $(findstring -j,$(MAKEFLAGS)),,-j$(shell nproc))

.PHONY: deps
deps:
	@sh tests/deps.sh $(DEBIAN_PACKAGES)

.PHONY: check
check: deps
	$(AGAIN) $(QUERN) $(TEST_BIN) $(GENERATORS) $(FAULTS) $(SHIM)
	@QUERN=$(QUERN) TEST_BIN=$(TEST_BIN) FAULTS=$(FAULTS) SHIM=$(SHIM) OUT=$(BIN)/check sh tests/check.sh

# The promise about files, held against kills, full and broken disks: minutes. QUICK=1: a few of each; SEED=N: others.
.PHONY: faults
faults: deps
	$(AGAIN) $(QUERN) $(FAULTS) $(SHIM)
	$(FAULTS) $(QUERN) $(SHIM) samples/tiny-v3

$(FAULTS): $(OBJ)/tests/faults/faults.o $(OBJ)/tests/faults/scene.o $(LIBRARY_OBJ)
	$(LINK)

# Loaded into programs of every kind of build, so without a sanitizer of its own.
$(SHIM): tests/faults/shim.c Makefile
	@mkdir -p $(@D)
	@echo "  CC  $@"
	@$(CC) -std=c17 -D_GNU_SOURCE -O2 -g $(WARN) -shared -fPIC -o $@ $< -ldl

# What the HTML reports look like to a browser: no overflow on a phone, charts that show something, nothing from outside.
.PHONY: check-html
check-html:
	@sh tests/deps.sh $(DEBIAN_PACKAGES) $(HTML_PACKAGES)
	$(AGAIN) $(QUERN) $(HTML_PAGES)
	@QUERN=$(QUERN) PAGES=$(HTML_PAGES) OUT=$(BIN)/html sh tests/html/check.sh

$(HTML_PAGES): $(OBJ)/tests/html/pages.o $(OBJ)/tests/diff_fixture.o $(LIBRARY_OBJ)
	$(LINK)

.PHONY: check-oracle
check-oracle: $(QUERN)
	@$(PYTHON) tests/oracle/check.py $(QUERN)
	@$(PYTHON) tests/oracle/imatrix.py $(QUERN)

# The Hugging Face tokenizers and tiktoken, which build/peers gets once.
.PHONY: check-tokenizer
check-tokenizer: $(QUERN)
	@test -d $(BUILD)/peers/node_modules/tiktoken || npm install --prefix $(BUILD)/peers --ignore-scripts --no-save --no-audit \
	    --no-fund tokenizers@0.23.2 @huggingface/tokenizers@0.2.0 tiktoken@1.0.22
	@node tests/oracle/check_tokenizer.mjs $(QUERN)

.PHONY: demo
demo: deps
	$(AGAIN) $(QUERN)
	@QUERN=$(QUERN) sh samples/demo.sh

.PHONY: bench
bench: deps
	$(AGAIN) $(QUERN) $(BENCHES) $(GENERATORS)
	@for b in $(BENCHES); do echo "== $$b"; $$b || exit 1; done

# What calibration is worth: KL of every method on the sample.
.PHONY: bench-quality
bench-quality: deps
	$(AGAIN) $(QUERN)
	@QUERN=$(QUERN) sh tests/bench/quality.sh

# What choosing widths by measured losses is worth: KL at several targets.
.PHONY: bench-bpw
bench-bpw: deps
	$(AGAIN) $(QUERN)
	@QUERN=$(QUERN) sh tests/bench/bpw.sh

# A layer of DeepSeek-V3's size through the forward pass: 11.5 GB of disk for some minutes.
.PHONY: bench-layer
bench-layer: deps
	$(AGAIN) $(QUERN) $(BIN)/synthetic_checkpoint $(BIN)/bench/gemm
	@QUERN=$(QUERN) MAKE_CHECKPOINT=$(BIN)/synthetic_checkpoint GEMM=$(BIN)/bench/gemm sh tests/bench/layer.sh

# What a calibrated run of such a layer holds: as much disk, for a quarter of an hour.
.PHONY: bench-memory
bench-memory: deps
	$(AGAIN) $(QUERN) $(BIN)/synthetic_checkpoint
	@QUERN=$(QUERN) MAKE_CHECKPOINT=$(BIN)/synthetic_checkpoint sh tests/bench/memory.sh

# What repacking gains and costs, on made-up traces and on a disk: 28 GB of it, some minutes.
.PHONY: bench-repack
bench-repack: deps
	$(AGAIN) $(QUERN) $(BIN)/bench/repack $(BIN)/synthetic_checkpoint $(BIN)/routing_trace
	@$(BIN)/bench/repack

# llama.cpp's quantizer, which npm's node-llama-cpp carries, for `make bench` to be held against. None of it is kept.
.PHONY: bench-peers
bench-peers:
	@mkdir -p $(BUILD)/peers
	npm install --prefix $(BUILD)/peers --ignore-scripts --no-save --no-audit --no-fund @node-llama-cpp/linux-x64@3.22.1

# One area's tests while working on it: make t F='json.*'
.PHONY: t
t: $(TEST_BIN)
	$(TEST_BIN) --gtest_brief=1 --gtest_filter='$(F)'

# make fuzz T=json ARGS=-max_total_time=60. What it finds goes to build/fuzz; what is worth keeping, by hand, to the corpus.
.PHONY: fuzz
fuzz:
	@sh tests/deps.sh $(DEBIAN_PACKAGES) $(FUZZ_PACKAGES)
	$(AGAIN) SAN=fuzz $(BUILD)/fuzz/$(T)
	@mkdir -p $(BUILD)/fuzz/new/$(T) tests/fuzz/corpus/$(T)
	$(BUILD)/fuzz/$(T) -artifact_prefix=$(BUILD)/fuzz/$(T)- $(ARGS) $(BUILD)/fuzz/new/$(T) tests/fuzz/corpus/$(T)

$(BUILD)/fuzz/%: $(OBJ)/tests/fuzz/fuzz_%.o $(LIBRARY_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPTIMIZE) -fsanitize=fuzzer $(LDFLAGS) -o $@ $^ $(LIBS)

MAN1 := $(wildcard man/*.1)
MAN5 := $(wildcard man/*.5)
RECIPES := $(wildcard samples/recipes/*.json)
TO = $(DESTDIR)$(PREFIX)

.PHONY: install
install: $(QUERN)
	install -D -m 755 $(QUERN) $(TO)/bin/quern
	install -D -m 644 -t $(TO)/share/man/man1 $(MAN1)
	install -D -m 644 -t $(TO)/share/man/man5 $(MAN5)
	install -D -m 644 -t $(TO)/share/doc/quern README.md LICENSE
	$(QUERN) completion bash >$(BUILD)/quern.bash
	install -D -m 644 $(BUILD)/quern.bash $(TO)/share/bash-completion/completions/quern
	$(if $(RECIPES),install -D -m 644 -t $(TO)/share/quern/recipes $(RECIPES))

.PHONY: uninstall
uninstall:
	rm -f $(TO)/bin/quern $(MAN1:man/%=$(TO)/share/man/man1/%) $(MAN5:man/%=$(TO)/share/man/man5/%)
	rm -f $(TO)/share/bash-completion/completions/quern
	rm -rf $(TO)/share/doc/quern $(TO)/share/quern

# A Debian package; all it is made of lies under build/deb. check-deb installs, uses and removes it.
DEB = $(BUILD)/quern_$(VERSION)_$(shell dpkg --print-architecture).deb
DEB_PACKAGES := dpkg-dev binutils

.PHONY: deb
deb: deps
	@sh tests/deps.sh $(DEB_PACKAGES)
	$(AGAIN) $(QUERN)
	@rm -rf $(BUILD)/deb
	@$(MAKE) --no-print-directory -s install DESTDIR=$(BUILD)/deb/debian/quern PREFIX=/usr
	@VERSION=$(VERSION) sh tests/deb.sh $(BUILD)/deb $(DEB)

.PHONY: check-deb
check-deb: deb
	@sh tests/deb_check.sh $(DEB) samples/tiny-v3

.PHONY: format
format:
	clang-format -i $(shell git ls-files '*.c' '*.h' '*.cc')

.PHONY: clean
clean:
	rm -rf $(BUILD)
