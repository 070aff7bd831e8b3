#!/usr/bin/env bash
# Licences, sources and banned crates by cargo-deny; advisories where their database can be had:
# from ADVISORY_DATABASE (a checkout of the RustSec database), else from the network. A machine that
# can reach neither is told so in words, since the rest can still be checked.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo="${CARGO:-cargo}"
version=0.20.2

if ! "$cargo" deny --version 2>/dev/null | grep -q "$version"; then
    echo "installing cargo-deny $version"
    "$cargo" install --quiet --locked cargo-deny --version "$version"
fi

"$cargo" deny --log-level error check bans licenses sources

database="${CARGO_HOME:-$HOME/.cargo}/advisory-dbs"
if [ -n "${ADVISORY_DATABASE:-}" ]; then
    database="$(mktemp -d)"
    trap 'rm -rf "$database"' EXIT
    git clone --quiet "$ADVISORY_DATABASE" "$database/advisory-db-3157b0e258782691"
    "$cargo" deny --log-level error check --disable-fetch advisories
elif timeout 60 "$cargo" deny --log-level error fetch db >/dev/null 2>&1; then
    "$cargo" deny --log-level error check --disable-fetch advisories
else
    echo "WARNING: the advisory database can't be reached from here: advisories were NOT checked" >&2
fi
