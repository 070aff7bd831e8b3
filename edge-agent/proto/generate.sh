#!/usr/bin/env bash
# Makes src/runtime/cri/api.rs of cri.proto. Needs protoc (Debian: protobuf-compiler); nothing of it is needed
# to build the agent.
set -euo pipefail
cd "$(dirname "$0")/.."
version=0.5.0

tools="$(mktemp -d)"
trap 'rm -rf "$tools"' EXIT
cargo install --quiet --locked --root "$tools" protoc-gen-prost --version "$version"
# Stable maps: what is sent is the same for the same request.
PATH="$tools/bin:$PATH" protoc --proto_path=proto --prost_out="$tools" --prost_opt=btree_map=. proto/cri.proto

{
    echo "//! What is said in CRI v1. Generated from \`proto/cri.proto\` by \`proto/generate.sh\`: change that one."
    echo
    grep -v '^// @@protoc_insertion_point\|^// @generated' "$(find "$tools" -name '*.rs' -path '*runtime*' -not -path '*/registry/*' | head -1)"
} >src/runtime/cri/api.rs
rustfmt --edition 2024 src/runtime/cri/api.rs
