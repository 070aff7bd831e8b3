#!/usr/bin/env bash
# Format, lints, the pure core without tokio, advisories, documents.
set -euo pipefail
cd "$(dirname "$0")/.."
cargo="${CARGO:-cargo}"

say() { printf '\n== %s\n' "$*"; }

say "format"
"$cargo" fmt --all --check

say "lints: warnings are errors"
"$cargo" clippy --workspace --all-targets -- -D warnings

say "the pure core compiles without tokio"
# Nothing of `shared` without `io` may reach tokio, sled, rumqttc or rustls.
if "$cargo" tree -p shared --no-default-features -e normal --prefix none |
    grep -E '^(tokio|sled|rumqttc-next|rustls) '; then
    echo "shared without its feature io depends on what is listed above" >&2
    exit 1
fi
"$cargo" check -p shared --no-default-features

say "advisories and banned crates"
tests/advisories.sh

say "documents: every relative link leads somewhere, every public name is documented"
tests/documents.sh
RUSTDOCFLAGS="-D warnings" "$cargo" doc -p shared -p edge-agent -p hub --no-deps --quiet
