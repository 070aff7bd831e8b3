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
    # Its release profile links everything anew for speed that one check a change does not need.
    CARGO_PROFILE_DEV_DEBUG=0 "$cargo" install --quiet --locked --debug cargo-deny --version "$version"
fi

"$cargo" deny --log-level error check bans licenses sources

if [ -n "${ADVISORY_DATABASE:-}" ]; then
    work="$(mktemp -d)"
    trap 'rm -rf "$work"' EXIT
    # cargo-deny names its checkout after the database's address.
    database="$work/advisory-db-3157b0e258782691"
    git clone --quiet "$ADVISORY_DATABASE" "$database"
    touch "$database/.git/FETCH_HEAD"
    sed "s|^\[advisories\]|[advisories]\ndb-path = \"$work\"|" .deny.toml >"$work/deny.toml"
    "$cargo" deny --offline --log-level error --config "$work/deny.toml" check advisories
    echo "advisories: checked against $(git -C "$database" log -1 --format=%cs)"
elif timeout 60 "$cargo" deny --log-level error fetch db >/dev/null 2>&1; then
    "$cargo" deny --log-level error check advisories
else
    echo "WARNING: the advisory database can't be reached from here: advisories were NOT checked" >&2
fi
