#!/usr/bin/env bash
# Builds the agent as it is installed: small. `build-agent.sh [TARGET]`, this machine's by default; the last line says
# where the program is.
set -euo pipefail
cd "$(dirname "$0")/.."
host="$(rustc -vV | sed -n 's/^host: //p')"
target="${1:-$host}"
folder="${CARGO_TARGET_DIR:-target}"

arguments=()
if [ "$target" != "$host" ]; then
    arguments=(--target "$target")
    folder="$folder/$target"
fi
# Rust's own linker also where it is not the default: it folds functions and tables that are equal.
linker="$(rustc --print sysroot)/lib/rustlib/$host/bin/gcc-ld"
flags=()
for flag in -fuse-ld=lld "-B$linker" -Wl,--icf=all -Wl,--ignore-data-address-equality; do
    flags+=(-C "link-arg=$flag")
done
# No panic passes through C.
CFLAGS="-fno-asynchronous-unwind-tables -fno-unwind-tables" \
    "${CARGO:-cargo}" rustc --profile node "${arguments[@]}" -p edge-agent --bin edge-agent -- "${flags[@]}"
echo "$folder/node/edge-agent"
