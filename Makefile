# Quern. `make demo` and `make check` do everything from a bare Debian; README says the rest.
#
#   make            build/quern                 make check      set up, build, run every test
#   make demo       the main job on the sample  make bench      ratios against the machine's limits
#   make install    PREFIX=/usr/local DESTDIR=  make clean
#   SAN=1           AddressSanitizer and UBSan, in their own object folder
#   WERROR=         for a compiler newer than ours

CC       ?= gcc
CXX      ?= g++
PREFIX   ?= /usr/local
WERROR   ?= -Werror
BUILD    := build
VERSION  := 0.1.0

ifeq ($(origin CC),default)
CC := gcc
endif
ifeq ($(origin CXX),default)
CXX := g++
endif

KIND := release
OPTIMIZE := -O2 -g
ifeq ($(SAN),1)
KIND := san
OPTIMIZE := -O1 -g -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
endif
ifeq ($(SAN),thread)
KIND := tsan
OPTIMIZE := -O1 -g -fsanitize=thread
endif
OBJ := $(BUILD)/obj/$(KIND)

PACKAGES := zlib libcjson openssl oniguruma
DEBIAN_PACKAGES := gcc g++ make pkg-config zlib1g-dev libcjson-dev libssl-dev libonig-dev libgtest-dev mandoc

# Evaluated when first used, so that `make deps` may run before pkg-config exists.
PKG_CFLAGS = $(eval PKG_CFLAGS := $(shell pkg-config --cflags $(PACKAGES)))$(PKG_CFLAGS)
PKG_LIBS = $(eval PKG_LIBS := $(shell pkg-config --libs $(PACKAGES)))$(PKG_LIBS)
GTEST_LIBS = $(shell pkg-config --libs gtest)

WARN := -Wall -Wextra $(WERROR) -Wshadow -Wundef -Wwrite-strings
CWARN := $(WARN) -Wconversion -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wswitch-enum
CFLAGS_ALL = -std=c17 -D_GNU_SOURCE -DQUERN_VERSION='"$(VERSION)"' -I. $(OPTIMIZE) $(CWARN) -ffp-contract=off -pthread -MMD -MP $(PKG_CFLAGS) $(ISA) $(CFLAGS)
CXXFLAGS_ALL = -std=c++17 -D_GNU_SOURCE -I. $(OPTIMIZE) $(WARN) -ffp-contract=off -pthread -MMD -MP $(CXXFLAGS)
LIBS = $(PKG_LIBS) -lm -pthread

# The instruction set of a kernel file is in its name.
%_avx2.o: ISA := -mavx2 -mf16c
%_avx512.o: ISA := -mavx512f -mavx512bw -mavx512vl -mavx512dq -mf16c

SOURCES := $(sort $(wildcard formats/base/*.c formats/*.c quant/*.c verify/*.c convert/*.c))
MAIN := convert/main.c
LIBRARY := $(filter-out $(MAIN),$(SOURCES))
TESTS := $(sort $(wildcard tests/*_test.c tests/*_support.c))
LIBRARY_OBJ := $(LIBRARY:%.c=$(OBJ)/%.o)
TEST_OBJ := $(TESTS:%.c=$(OBJ)/%.o) $(OBJ)/tests/ct.o

QUERN := $(BUILD)/quern
TEST_BIN := $(BUILD)/quern-test
ifneq ($(KIND),release)
QUERN := $(BUILD)/$(KIND)/quern
TEST_BIN := $(BUILD)/$(KIND)/quern-test
endif

.PHONY: all
all: $(QUERN)

$(QUERN): $(OBJ)/convert/main.o $(LIBRARY_OBJ)
	@mkdir -p $(@D)
	$(CC) $(OPTIMIZE) $(LDFLAGS) -o $@ $^ $(LIBS)

$(TEST_BIN): $(TEST_OBJ) $(LIBRARY_OBJ)
	@mkdir -p $(@D)
	$(CXX) $(OPTIMIZE) $(LDFLAGS) -o $@ $^ $(GTEST_LIBS) $(LIBS)

$(OBJ)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(CFLAGS_ALL) -c -o $@ $<

$(OBJ)/%.o: %.cc
	@mkdir -p $(@D)
	$(CXX) $(CXXFLAGS_ALL) -c -o $@ $<

-include $(shell test -d $(BUILD)/obj && find $(BUILD)/obj -name '*.d')

# One area's tests while working on it: make t F='json.*'
.PHONY: t
t: $(TEST_BIN)
	$(TEST_BIN) --gtest_brief=1 --gtest_filter='$(F)'

.PHONY: clean
clean:
	rm -rf $(BUILD)
