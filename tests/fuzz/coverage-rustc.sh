#!/usr/bin/env bash
# A compiler for the workspace's own crates alone (RUSTC_WORKSPACE_WRAPPER): it adds what libFuzzer
# needs to see where the code goes. The flags are of LLVM and work on the stable toolchain;
# dependencies stay as the ordinary build made them.
set -euo pipefail
rustc="$1"
shift
exec "$rustc" "$@" \
    --cfg fuzzing \
    -Cpasses=sancov-module \
    -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
    -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares \
    -Ccodegen-units=1 -Cdebug-assertions -Coverflow-checks
