#!/usr/bin/env bash
# Builds the agent as it is installed: small. `build-agent.sh [TARGET]`, this machine's by default; the last line says
# where the program is.
set -euo pipefail
cd "$(dirname "$0")/.."
host="$(rustc -vV | sed -n 's/^host: //p')"
target="${1:-$host}"
folder="${CARGO_TARGET_DIR:-target}"

# Rust's own linker also where it is not the default: it folds functions and tables that are equal. Tables for unwinding
# go, which the compiler makes all the same.
linker="$(rustc --print sysroot)/lib/rustlib/$host/bin/gcc-ld"
# Under another name whenever it is another: cargo looks at its arguments, not at what they name.
script="$folder/agent-$(sha256sum deploy/agent.ld | cut -c1-16).ld"
mkdir -p "$folder"
cp deploy/agent.ld "$script"
flags=()
for flag in -fuse-ld=lld "-B$linker" -Wl,--icf=all -Wl,--ignore-data-address-equality \
    -Wl,--no-eh-frame-hdr "-Wl,-T,$(realpath "$script")"; do
    flags+=(-C "link-arg=$flag")
done
# Nothing is unwound: a panic ends the program. With a target flags are not those of build scripts, whose panics do.
# Without entropy from the jitter of the CPU beside the kernel's, which takes 128 KiB for ever.
AWS_LC_SYS_NO_JITTER_ENTROPY=1 CFLAGS="-fno-asynchronous-unwind-tables -fno-unwind-tables" \
    RUSTFLAGS="${RUSTFLAGS:-} -C force-unwind-tables=no -C llvm-args=-enable-machine-outliner=always" \
    "${CARGO:-cargo}" rustc --profile node --target "$target" -p edge-agent --bin edge-agent -- "${flags[@]}"
program="$folder/$target/node/edge-agent"
seldom="$(readelf -SW "$program" | sed -n 's/.* \.text\.seldom *PROGBITS *[0-9a-f]* [0-9a-f]* \([0-9a-f]*\) .*/\1/p')"
if [ "$((16#${seldom:-0}))" -lt 500000 ]; then
    echo "$program: expected half a MB of code in .text.seldom, found 0x${seldom:-0} bytes:" \
        "the names in deploy/agent.ld are no longer those of the compiler" >&2
    exit 1
fi
if [ "$target" = "$host" ]; then
    mkdir -p "$folder/node"
    cp "$program" "$folder/node/edge-agent"
    program="$folder/node/edge-agent"
fi
echo "$program"
