#!/usr/bin/env bash
# Every relative link in a Markdown file leads to a file that is there.
set -euo pipefail
cd "$(dirname "$0")/.."
broken=0
while IFS= read -r file; do
    while IFS= read -r link; do
        case "$link" in http*|mailto:*|'#'*) continue ;; esac
        target="$(dirname "$file")/${link%%#*}"
        if [ ! -e "$target" ]; then
            echo "$file: the link $link leads nowhere" >&2
            broken=1
        fi
    done < <(grep -oE '\]\([^) ]+\)' "$file" | sed 's/^](//; s/)$//')
done < <(git ls-files '*.md')
exit "$broken"
