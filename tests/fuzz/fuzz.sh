#!/usr/bin/env bash
# Builds, runs and replays the targets of fuzzing. On the stable toolchain.
#
#   fuzz.sh run SECONDS [TARGET...]   each target (or these) for so long; fails on a finding
#   fuzz.sh short                     what `make test` runs: shows that fuzzing works, then a few seconds each
#   fuzz.sh replay TARGET FILE...     one execution of each input, with a backtrace
#   fuzz.sh seeds                     adds seeds to the corpus; minimise then
#   fuzz.sh minimise [TARGET...]      puts into the corpus what earlier runs found and the corpus lacks
#
# Inputs that a run finds are kept in target/fuzz/found/TARGET, those that fail in target/fuzz/failed.
set -euo pipefail
cd "$(dirname "$0")/../.."

here=tests/fuzz
work="${CARGO_TARGET_DIR:-target}/fuzz"
program="${CARGO_TARGET_DIR:-target}/debug/fuzz_target"

# Counters that a build with coverage has at least; one without has none.
counters_min=50000
# An input of a few KiB reaches every limit that does not take a whole map update.
input_bytes_max=4096
# Tokio's workers have 2 MiB of stack: what recurses deeper here would overflow there.
stack_kib_max=2048
seconds_short=4
files_a_target_max=90

build() {
    # The same packages as everywhere, so that no dependency is built anew for other features.
    RUSTC_WORKSPACE_WRAPPER="$PWD/$here/coverage-rustc.sh" \
        "${CARGO:-cargo}" build --workspace --bin fuzz_target
}

targets() { (cd "$here/corpus" && printf '%s\n' *); }

start() { # start TARGET ARGUMENT...: libFuzzer within all limits
    local target="$1"
    shift
    ulimit -s "$stack_kib_max"
    ulimit -c 0
    FUZZ_TARGET="$target" "$program" -rss_limit_mb=512 -timeout=10 "$@"
}

dictionary() { # dictionary TARGET
    local own="$here/dictionaries/$1.dict"
    [ -e "$own" ] || own="$here/dictionaries/cbor.dict"
    printf '%s' "$own"
}

figure() { # figure NAME LOG: the last value of NAME in libFuzzer's output
    grep -aoE "$1: *[0-9]+" "$2" | tail -1 | grep -oE '[0-9]+$' || printf 0
}

fuzz_one() { # fuzz_one TARGET SECONDS: one line, or what was found and how to see it again
    local target="$1" seconds="$2" log="$work/log/$1" found="$work/found/$1" before rc=0
    mkdir -p "$found" "$work/log" "$work/failed"
    before="$(find "$found" -type f | wc -l)"
    start "$target" "$found" "$here/corpus/$target" -max_total_time="$seconds" -seed="${SEED:-1}" \
        -max_len="$input_bytes_max" -dict="$(dictionary "$target")" -print_final_stats=1 \
        -artifact_prefix="$work/failed/$target-" >"$log" 2>&1 || rc=$?
    if [ "$rc" -ne 0 ]; then
        local input
        input="$(grep -aoE "Test unit written to .*" "$log" | tail -1 | sed 's/.*written to //' || true)"
        printf '%s FAILED\n' "$target"
        grep -aE -A2 'panicked at|one execution holds|ERROR: libFuzzer' "$log" | head -8 || true
        printf 'replay it: tests/fuzz/fuzz.sh replay %s %s\n' "$target" "${input:-(see $log)}"
        printf 'once it is repaired, with a name that begins with crash-: cp %s %s/corpus/%s/crash-NAME\n' \
            "${input:-INPUT}" "$here" "$target"
        return 1
    fi
    printf '%-14s %9s executions %7s/s  coverage %6s  features %6s  new inputs %5s\n' "$target" \
        "$(figure stat::number_of_executed_units "$log")" \
        "$(figure stat::average_exec_per_sec "$log")" "$(figure cov "$log")" "$(figure ft "$log")" \
        "$(($(find "$found" -type f | wc -l) - before))"
}

fuzz_all() { # fuzz_all SECONDS JOBS TARGET...
    local seconds="$1" jobs="$2"
    shift 2
    printf '%s\n' "$@" | xargs -P "$jobs" -I '{}' "$0" one '{}' "$seconds"
}

require_instrumentation() {
    local line counters
    line="$(start planted_panic -runs=0 2>&1 | grep -a 'inline 8-bit counters' || true)"
    counters="$(printf '%s' "$line" | grep -oE '[0-9]+ inline' | grep -oE '[0-9]+' || printf 0)"
    if [ "$counters" -lt "$counters_min" ]; then
        echo "built without coverage: $counters counters, expected at least $counters_min" >&2
        exit 1
    fi
    echo "coverage: $counters counters"
}

require_found() { # require_found TARGET WORDS: the planted fault is found, kept, and fails again
    local target="$1" words="$2" log="$work/log/$1" folder="$work/planted"
    mkdir -p "$folder" "$work/log"
    rm -f "$folder/$target"-*
    if start "$target" -max_total_time=30 -seed=1 -max_len=64 -artifact_prefix="$folder/$target-" \
        >"$log" 2>&1 || ! grep -aq "$words" "$log"; then
        echo "the fault of $target was not found in 30 s: fuzzing is blind; see $log" >&2
        exit 1
    fi
    local kept=("$folder/$target"-*)
    if [ ! -e "${kept[0]}" ] || start "$target" "${kept[0]}" >/dev/null 2>&1; then
        echo "the input that made $target fail was not kept, or does not fail again" >&2
        exit 1
    fi
    echo "$target: found"
}

short() {
    require_instrumentation
    require_found planted_panic 'the planted panic was found'
    require_found planted_memory 'one execution holds more than'
    require_found planted_recursion 'libFuzzer: deadly signal'
    # From the committed corpus alone, whatever was found here before.
    work="$work/short"
    rm -rf "$work"
    mapfile -t all < <(targets)
    FUZZ_WORK="$work" fuzz_all "$seconds_short" "$(nproc)" "${all[@]}"
}

minimise_one() { # minimise_one TARGET: the fewest files that reach what all reach, then a bound
    local target="$1" corpus="$here/corpus/$1" fewer="$work/minimised/$1"
    rm -rf "$fewer"
    mkdir -p "$fewer" "$work/found/$target"
    start "$target" -set_cover_merge=1 -use_counters=0 "$fewer" "$corpus" "$work/found/$target" \
        >"$work/log/$target-minimise" 2>&1
    # Larger ones reach more: they go last.
    while [ "$(find "$fewer" -type f | wc -l)" -gt "$files_a_target_max" ]; do
        rm "$(find "$fewer" -type f -printf '%s %p\n' | sort -n | head -1 | cut -d' ' -f2-)"
    done
    # What made a target fail once stays, whatever else reaches.
    cp "$corpus"/crash-* "$fewer" 2>/dev/null || true
    rm -rf "$corpus"
    cp -r "$fewer" "$corpus"
    printf '%-14s %4s files\n' "$target" "$(find "$corpus" -type f | wc -l)"
}

work="${FUZZ_WORK:-$work}"
command="${1:-}"
shift || true
case "$command" in
run)
    seconds="$1"
    shift
    build
    require_instrumentation
    if [ "$#" -eq 0 ]; then mapfile -t names < <(targets); else names=("$@"); fi
    fuzz_all "$seconds" "${JOBS:-1}" "${names[@]}"
    ;;
short)
    build
    short
    ;;
replay)
    build
    target="$1"
    shift
    RUST_BACKTRACE=1 start "$target" "$@"
    ;;
seeds)
    build
    FUZZ_SEEDS="$here/corpus" "$program"
    ;;
minimise)
    build
    mkdir -p "$work/log"
    if [ "$#" -eq 0 ]; then mapfile -t names < <(targets); else names=("$@"); fi
    for name in "${names[@]}"; do minimise_one "$name"; done
    ;;
one) fuzz_one "$@" ;; # started by the others, each in a process of its own
*)
    sed -n '2,/^set/p' "$0" | grep '^#' >&2
    exit 2
    ;;
esac
