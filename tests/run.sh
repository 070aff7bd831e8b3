#!/usr/bin/env bash
# Runs every test there is: `make test`. What only computes (the simulated world, then the fuzzers) runs beside the
# others, at the lowest priority: those wait for timers, disks and links for most of their time.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo="${CARGO:-cargo}"
log="${CARGO_TARGET_DIR:-target}/computing.log"
# Where it is called otherwise by now, it runs with the others.
simulation=every_seed_keeps_the_invariants_and_comes_to_rest

# Always the whole workspace, so that nothing is built anew for other features.
"$cargo" build --workspace --bins --tests
"$cargo" test --workspace --no-run

compute() {
    "$cargo" test --workspace --test simulation "$simulation"
    tests/fuzz/fuzz.sh short
}
# A process group of its own: it ends as a whole.
set -m
(
    # The others' deadlines are of real time: they go first.
    renice -n 19 "$BASHPID" >/dev/null
    compute
) >"$log" 2>&1 &
beside=$!
set +m
trap 'kill -- "-$beside" 2>/dev/null || true' EXIT

status=0
"$cargo" test --workspace --no-fail-fast -- --skip "$simulation" || status=$?

wait "$beside" || status=$?
trap - EXIT
cat "$log"
exit "$status"
