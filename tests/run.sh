#!/usr/bin/env bash
# Runs every test there is: `make test`. What only computes (the simulated world, then the fuzzers) runs beside the
# others, at the lowest priority: those wait for timers, disks and links for most of their time.
set -euo pipefail
cd "$(dirname "$0")/.."

cargo="${CARGO:-cargo}"
log="${CARGO_TARGET_DIR:-target}/computing.log"
computing=(simulation)

# Always the whole workspace, so that nothing is built anew for other features.
"$cargo" build --workspace --bins --tests
"$cargo" test --workspace --no-run

compute() {
    "$cargo" test --workspace "${computing[@]/#/--test=}"
    tests/fuzz/fuzz.sh short
}
(
    # The others' deadlines are of real time: they go first.
    renice -n 19 "$BASHPID" >/dev/null
    compute
) >"$log" 2>&1 &
beside=$!
trap 'kill "$beside" 2>/dev/null || true' EXIT

others=()
for test in tests/tests/* tests/*/tests/*; do
    name="$(basename "$test" .rs)"
    [[ " ${computing[*]} " == *" $name "* ]] || others+=("--test=$name")
done
status=0
"$cargo" test --workspace --no-fail-fast --lib --bins "${others[@]}" || status=$?
"$cargo" test --workspace --doc || status=$?

wait "$beside" || status=$?
trap - EXIT
cat "$log"
exit "$status"
