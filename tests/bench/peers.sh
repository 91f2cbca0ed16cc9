#!/bin/sh
# Runs perilune and llama.cpp's or ik_llama.cpp's llama-bench in turn over the same files, and
# prints the medians.
#
#   LLAMA_BENCH=/path/to/llama-bench tests/bench/peers.sh FILE.gguf...
#
# PAIRS (5) runs of each, alternating; THREADS (all cores). Both read a prompt of 512 tokens, or half
# of the context where that is shorter, and generate 64.
set -eu

bench=${LLAMA_BENCH:?set LLAMA_BENCH to the path of llama-bench}
pairs=${PAIRS:-5}
threads=${THREADS:-$(nproc)}
ours=$(dirname "$0")/../../build/bench/bench_models
[ -x "$bench" ] || { echo "$bench: not a program" >&2; exit 1; }
[ $# -gt 0 ] || { echo "usage: LLAMA_BENCH=PATH $0 FILE.gguf..." >&2; exit 2; }

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

median() { sort -g "$1" | awk '{v[NR] = $1} END {print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2}'; }
field() { sed -n "s/.*\"$1\": *\([0-9.e+-]*\).*/\1/p"; }

printf '%-28s %12s %12s %12s %12s\n' file "our prompt/s" "theirs" "our tokens/s" "theirs"
for file in "$@"; do
  [ -r "$file" ] || { echo "$file: cannot be read" >&2; exit 1; }
  rm -f "$work"/*
  i=0
  while [ $i -lt "$pairs" ]; do
    i=$((i + 1))
    BENCH_JSON=$work/json taskset -c 0-$((threads - 1)) "$ours" --file "$file" >/dev/null
    tail -n 1 "$work/json" | field prompt_tokens_per_s >>"$work/our_prompt"
    tail -n 1 "$work/json" | field tokens_per_s >>"$work/our_generation"
    prompt=$(tail -n 1 "$work/json" | field prompt)
    taskset -c 0-$((threads - 1)) "$bench" -m "$file" -t "$threads" -p "$prompt" -n 64 -r 1 -o json 2>"$work/said" |
      awk '/"n_gen":/ {generated = $2 + 0} /"avg_ts":/ {print generated ? "generation" : "prompt", $2 + 0}' >"$work/theirs"
    sed -n 's/^prompt //p' "$work/theirs" >>"$work/their_prompt"
    sed -n 's/^generation //p' "$work/theirs" >>"$work/their_generation"
  done
  [ -s "$work/their_prompt" ] || { echo "$bench has no figures of $file:" >&2; tail -n 3 "$work/said" >&2; exit 1; }
  printf '%-28s %12.0f %12.0f %12.1f %12.1f\n' "$(basename "$file")" "$(median "$work/our_prompt")" \
    "$(median "$work/their_prompt")" "$(median "$work/our_generation")" "$(median "$work/their_generation")"
done
