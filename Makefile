# perilune. `make help` lists the targets; BUILD=dir builds elsewhere, SANITIZE=1 under
# AddressSanitizer and UndefinedBehaviorSanitizer (in build/sanitized).
SANITIZE ?=
comma    := ,
BUILD    ?= build$(if $(SANITIZE),/sanitized)
PREFIX   ?= /usr/local
CC       ?= gcc
PACKAGES := libpcre2-8 jansson openblas

pkg = $(shell pkg-config $(1) $(2) 2>/dev/null)

WARNINGS := -Wall -Wextra -Wshadow -Wstrict-prototypes -Wmissing-prototypes -Wvla -Wpointer-arith
CFLAGS   ?= -O3 -g
ALL_CFLAGS := -std=c11 -D_GNU_SOURCE -fPIC -fopenmp -ffp-contract=off -fno-math-errno \
  -fvisibility=hidden -pthread $(WARNINGS) $(CFLAGS) \
  $(if $(SANITIZE),-O1 -fsanitize=address$(comma)undefined -fno-sanitize-recover=all -fno-omit-frame-pointer)
LDLIBS = -fopenmp $(if $(SANITIZE),-fsanitize=address$(comma)undefined) \
  $(call pkg,--libs,$(PACKAGES)) -lm -ldl -lpthread

# One file per instruction set; only these may use its instructions.
AVX2   := -mavx2 -mfma -mf16c
AVX512 := $(AVX2) -mavx512f -mavx512bw -mavx512dq -mavx512vl
VNNI   := $(AVX512) -mavx512vnni
isa_flags = $(if $(filter %_avx2.c,$(1)),$(AVX2))$(if $(filter %_avx512.c,$(1)),$(AVX512))$(if $(filter %_vnni.c,$(1)),$(VNNI))

X86_ONLY := $(if $(filter-out x86_64,$(shell uname -m)),%_avx2.c %_avx512.c %_vnni.c)
ENGINE := $(filter-out $(X86_ONLY),$(wildcard engine/*/*.c))
LUA    := $(filter-out lua/main.c,$(wildcard lua/*.c))
TESTS  := $(wildcard tests/engine/test_*.c)
object = $(patsubst %.c,$(BUILD)/%.o,$(1))

.PHONY: all help
all: $(BUILD)/libperilune.a $(if $(LUA),$(BUILD)/perilune.so $(BUILD)/perilune)

help: ## this list
	@sed -n 's/^\([a-z][a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 16

$(BUILD)/%.o: %.c
	@mkdir -p $(@D)
	$(CC) $(ALL_CFLAGS) $(call isa_flags,$<) $(if $(filter lua/%,$<),$(call pkg,--cflags,lua5.4)) -MMD -MP -c $< -o $@

$(BUILD)/libperilune.a: $(call object,$(ENGINE))
	@rm -f $@
	ar rcs $@ $^

$(BUILD)/perilune.so: $(call object,$(LUA)) $(BUILD)/libperilune.a
	$(CC) -shared -o $@ $^ $(LDLIBS)

$(BUILD)/perilune: $(call object,lua/main.c $(LUA)) $(BUILD)/libperilune.a
	$(CC) -rdynamic -o $@ $^ $(LDLIBS) $(call pkg,--libs,lua5.4 readline)

$(BUILD)/tests/%: $(BUILD)/tests/engine/%.o $(BUILD)/libperilune.a
	@mkdir -p $(@D)
	$(CC) -o $@ $^ $(LDLIBS) -lcmocka

.PHONY: test-engine
test-engine: $(patsubst tests/engine/%.c,$(BUILD)/tests/%,$(TESTS)) ## the C suites
	@for t in $^; do echo "== $$t"; ASAN_OPTIONS=handle_segv=2 $$t || exit 1; done

.PHONY: format
format: ## rewrites the C sources in the repository's format
	clang-format -i $$(git ls-files '*.c' '*.h')

.PHONY: clean
clean: ## removes build/
	rm -rf build

-include $(patsubst %.o,%.d,$(call object,$(ENGINE) $(LUA) lua/main.c $(TESTS)))
