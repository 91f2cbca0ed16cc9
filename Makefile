# perilune. `make help` lists the targets. Sources are found by wildcards: a new file needs no entry.
# SANITIZE=1 builds under AddressSanitizer and UndefinedBehaviorSanitizer, in build/sanitized;
# FUZZER=1 the fuzz targets, by clang, in build/fuzz; BUILD=dir anywhere. STRICT=1 makes warnings
# errors, V=1 shows whole commands. HOME_DIR=dir compiles in a last place to look for the Lua files.
BUILD        ?= build$(if $(FUZZER),/fuzz,$(if $(SANITIZE),/sanitized))
PREFIX       ?= /usr/local
MODULE_DIR   ?= $(PREFIX)/lib/lua/5.4
JOBS         ?= $(shell nproc)
FUZZ_SECONDS ?= 600
CFLAGS       ?= -O3 -g
CC           := $(if $(FUZZER),clang,$(CC))

say  = $(if $(V),,@echo "  $(1)";)
pkg  = $(shell pkg-config $(1) $(2) 2>/dev/null)

comma     := ,
CHECKS    := $(if $(FUZZER)$(SANITIZE),-fsanitize=$(if $(FUZZER),fuzzer-no-link$(comma))address$(comma)undefined)
WARNINGS  := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith
ALL_FLAGS := -std=c11 -D_GNU_SOURCE -fPIC -ffp-contract=off -fno-math-errno -fvisibility=hidden -pthread \
  $(WARNINGS) $(if $(STRICT),-Werror) $(CFLAGS) $(if $(FUZZER),,-Wno-format-truncation) \
  $(if $(CHECKS),-O1 $(CHECKS) -fno-sanitize-recover=all -fno-omit-frame-pointer)
LDLIBS     = $(CHECKS) $(call pkg,--libs,libpcre2-8 jansson) -lm -ldl -lpthread

# One file per instruction set, chosen among at run time; only these may use its instructions.
AVX2   := -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
VNNI   := $(AVX512) -mavx512vnni
BF16   := $(VNNI) -mavx512bf16
AMX    := $(BF16) -mamx-tile -mamx-int8 -mamx-bf16
isa_flags = $(if $(filter %_avx2.c,$(1)),$(AVX2))$(if $(filter %_avx512.c,$(1)),$(AVX512))$(if $(filter %_vnni.c,$(1)),$(VNNI))$(if $(filter %_bf16.c,$(1)),$(BF16))$(if $(filter %_amx.c,$(1)),$(AMX))
PROCESSOR := $(firstword $(subst -, ,$(shell $(CC) -dumpmachine)))
FOREIGN   := $(if $(filter-out x86_64,$(PROCESSOR)),%_avx2.c %_avx512.c %_vnni.c %_bf16.c %_amx.c) \
  $(if $(filter-out aarch64,$(PROCESSOR)),%_neon.c)

ENGINE  := $(filter-out $(FOREIGN),$(wildcard engine/*/*.c))
PROGRAM := $(wildcard lua/main*.c lua/repl*.c)#   in the program only; the module must not need readline
BINDING := $(filter-out $(PROGRAM),$(wildcard lua/*.c))
SUITES  := $(wildcard tests/engine/test_*.c)
HELPERS := $(filter-out $(SUITES),$(wildcard tests/engine/*.c))
FUZZERS := $(wildcard tests/fuzz/fuzz_*.c)
BENCHES := $(wildcard tests/bench/*.c)
PLUGINS := $(wildcard plugins/*.c)
HEADERS := engine/perilune.h $(wildcard plugins/perilune_plugin.h)
SHARED  := $(wildcard lua/perilune scripts models plugins)
SUITE_PROGRAMS := $(patsubst tests/engine/%.c,$(BUILD)/tests/%,$(SUITES))
BENCH_PROGRAMS := $(patsubst tests/bench/%.c,$(BUILD)/bench/%,$(BENCHES))
FUZZ_PROGRAMS  := $(patsubst tests/fuzz/%.c,build/fuzz/%,$(FUZZERS))
C_FILES := $(ENGINE) $(PROGRAM) $(BINDING) $(SUITES) $(HELPERS) $(FUZZERS) $(BENCHES) $(PLUGINS)
object   = $(patsubst %.c,$(BUILD)/%.o,$(1))
flags    = $(ALL_FLAGS) $(call isa_flags,$(1)) $(if $(filter lua/%,$(1)),$(call pkg,--cflags,lua5.4 libcurl libcrypto) \
  $(if $(HOME_DIR),-DPL_HOME_DIR='"$(HOME_DIR)"'))

PLUGIN_FILES := $(patsubst plugins/%.c,$(BUILD)/plugins/%.so,$(PLUGINS))

.PHONY: all plugins help setup default-model demo check suites test-engine test-arm64 test-lua bench bench-peers fuzz docs format lint tidy install clean
.SECONDARY:
all: $(BUILD)/libperilune.a $(if $(BINDING),$(BUILD)/perilune.so) $(if $(PROGRAM),$(BUILD)/perilune) \
  $(PLUGIN_FILES)

plugins: $(PLUGIN_FILES) ## every plugins/*.c, into build/plugins

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

setup: ## installs the Debian packages that building needs, where they are missing
	@.ci/packages build

demo: setup ## builds and continues a prompt with the embedded model
	@$(MAKE) --no-print-directory -j$(JOBS) all
	$(BUILD)/perilune generate --seed 1 --max-new-tokens 120 "Once upon a time"

check: ## builds and runs every test and every check of the sources
	@.ci/packages check
	@JOBS=$(JOBS) tests/checks/check.sh

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(call say,CC $<)$(CC) $(call flags,$<) -MMD -MP -c $< -o $@

$(BUILD)/libperilune.a: $(call object,$(ENGINE))
	@rm -f $@
	$(call say,AR $@)ar rcs $@ $^

$(BUILD)/perilune.so: $(call object,$(BINDING)) $(BUILD)/libperilune.a
	$(call say,LD $@)$(CC) -shared -Wl,-z,nodelete -o $@ $^ $(LDLIBS)

$(BUILD)/perilune: $(call object,$(PROGRAM) $(BINDING)) $(BUILD)/libperilune.a
	$(call say,LD $@)$(CC) -rdynamic -o $@ $^ $(LDLIBS) $(call pkg,--libs,lua5.4 readline)

$(BUILD)/plugins/%.so: $(BUILD)/plugins/%.o
	$(call say,LD $@)$(CC) -shared -o $@ $^ $(CHECKS) -lm

# A suite gets the fuzz target of its name, to feed it damaged files.
.SECONDEXPANSION:
$(BUILD)/tests/test_%: $(BUILD)/tests/engine/test_%.o $$(call object,$$(wildcard tests/fuzz/fuzz_$$*.c)) \
  $(call object,$(HELPERS)) $(BUILD)/libperilune.a
	$(call say,LD $@)$(CC) -o $@ $^ $(LDLIBS) -lcmocka

suites: $(SUITE_PROGRAMS)

test-engine: suites ## the C suites
	@tests/checks/each.sh $(SUITE_PROGRAMS)

# With a cross compiler, that machine's cmocka, and QEMU.
test-arm64: ## the kernels' suite for 64-bit ARM, emulated
	@mkdir -p build/arm64
	aarch64-linux-gnu-gcc $(ALL_FLAGS) -o build/arm64/test_kernels tests/engine/test_kernels.c $(wildcard engine/base/*.c) \
	  $(filter-out %_avx2.c %_avx512.c %_vnni.c %_bf16.c %_amx.c,$(wildcard engine/kernels/*.c)) -lcmocka -lm
	qemu-aarch64-static -L /usr/aarch64-linux-gnu -E LD_LIBRARY_PATH=/usr/lib/aarch64-linux-gnu build/arm64/test_kernels

test-lua: all ## the Lua specs: in stock lua5.4, or with SANITIZE=1 inside the program
	@LUA_CPATH="$(BUILD)/?.so;;" $(if $(SANITIZE),ASAN_OPTIONS=allocator_may_return_null=1 \
	  LSAN_OPTIONS=suppressions=tests/checks/leaks.supp \
	  $(BUILD)/perilune,lua5.4) tests/lua/run.lua

$(BUILD)/bench/%: $(BUILD)/tests/bench/%.o $(BUILD)/libperilune.a
	@mkdir -p $(@D)
	$(call say,LD $@)$(CC) -o $@ $^ $(LDLIBS)

# The texts but valid.txt, which is held out where it is there; see models/README.md.
DATA ?= ../shared/data/text/children
default-model: all ## trains models/default.gguf anew, in two hours on two cores; DATA=folder of .txt files
	$(if $(wildcard $(DATA)/*.txt),,$(error there are no .txt files in $(DATA): give DATA=folder))
	$(BUILD)/perilune train $(filter-out %/valid.txt,$(wildcard $(DATA)/*.txt)) \
	  $(addprefix --valid ,$(wildcard $(DATA)/valid.txt)) --out build/default-model --name stories \
	  --layers 8 --heads 8 --width 256 --vocab-size 4096 --ctx 512 --batch 16 --steps 2600 \
	  --lr 0.0015 --warmup 150 --beta2 0.95 --every 130 --seed 1 --dtype q8_0
	cp build/default-model/model.gguf models/default.gguf

bench: setup ## measures this machine, then speed and memory on it; JSON=FILE gets the numbers too
	@$(MAKE) --no-print-directory -j$(JOBS) all $(BENCH_PROGRAMS)
	@$(if $(JSON),rm -f $(JSON); export BENCH_JSON=$(abspath $(JSON));) for b in $(BENCH_PROGRAMS); do $$b || exit 1; done
	$(if $(wildcard tests/bench/bench.lua),$(BUILD)/perilune tests/bench/bench.lua)

bench-peers: setup ## pairs of runs with llama.cpp: LLAMA_BENCH=PATH MODELS="FILE.gguf ..."
	@$(MAKE) --no-print-directory -j$(JOBS) $(BUILD)/bench/bench_models
	@LLAMA_BENCH="$(LLAMA_BENCH)" tests/bench/peers.sh $(MODELS)

fuzz: ## libFuzzer on every parser, FUZZ_SECONDS (600) each
	@.ci/packages check
	@$(MAKE) --no-print-directory -j$(JOBS) FUZZER=1 $(FUZZ_PROGRAMS)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/checks/fuzz.sh $(FUZZ_PROGRAMS)

$(BUILD)/fuzz_%: $(BUILD)/tests/fuzz/fuzz_%.o $(BUILD)/libperilune.a
	$(call say,LD $@)$(CC) -fsanitize=fuzzer -o $@ $^ $(LDLIBS)

docs: ## the reference pages of the Lua library, into build/docs
	@.ci/packages check
	@rm -rf build/docs && mkdir -p build/docs/source
	@lua5.4 lua/docs/reference.lua build/docs/source $(shell find lua/perilune -name '*.lua' 2>/dev/null)
	lua5.1 /usr/bin/ldoc --fatalwarnings --dir build/docs --config config.ld .

format: ## rewrites the C sources in the repository's format
	clang-format -i $(C_FILES) $(shell find engine lua plugins tests -name '*.h' 2>/dev/null)

# The object's dependencies are the stamp's: a changed header checks again what includes it.
$(BUILD)/%.tidy: $(BUILD)/%.o .clang-tidy
	$(call say,TIDY $*.c)clang-tidy --quiet --warnings-as-errors='*' $*.c -- $(filter-out -f% -Wno-format-truncation,$(call flags,$*.c))
	@touch $@

tidy: $(patsubst %.c,$(BUILD)/%.tidy,$(ENGINE) $(BINDING) $(PROGRAM))

lint: ## the format, clang-tidy, luacheck, the rules of the layers, the reference pages
	@tests/checks/check.sh lint

install: all ## into PREFIX (/usr/local), below DESTDIR if given
	install -d $(DESTDIR)$(MODULE_DIR) $(addprefix $(DESTDIR)$(PREFIX)/,bin lib include share/perilune)
	$(if $(PROGRAM),install -m 755 $(BUILD)/perilune $(DESTDIR)$(PREFIX)/bin/)
	$(if $(BINDING),install -m 755 $(BUILD)/perilune.so $(DESTDIR)$(MODULE_DIR)/)
	install -m 644 $(BUILD)/libperilune.a $(DESTDIR)$(PREFIX)/lib/
	install -m 644 $(HEADERS) $(DESTDIR)$(PREFIX)/include/
	$(if $(PLUGIN_FILES),install -D -m 755 -t $(DESTDIR)$(PREFIX)/lib/perilune/plugins $(PLUGIN_FILES))
	for d in $(SHARED); do (cd $$d && find . -type f -exec install -D -m 644 {} \
	  $(abspath $(DESTDIR)$(PREFIX))/share/perilune/$$d/{} \;) || exit 1; done

clean: ## removes build/
	rm -rf build

-include $(patsubst %.o,%.d,$(call object,$(C_FILES)))
