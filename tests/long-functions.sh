#!/bin/sh
# Lists the functions longer than LIMIT lines as rustfmt's defaults would lay them out, the longest first, and counts them.
# usage: tests/long-functions.sh [LIMIT]
set -eu
limit=${1:-100}
cd "$(dirname "$0")/.."
copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
git ls-files -z '*.rs' | xargs -0 cp --parents -t "$copy"
: > "$copy/rustfmt.toml"
# rustfmt says what it cannot shorten; it is the layout that counts.
(cd "$copy" && find . -name '*.rs' -exec rustfmt --edition 2024 --config-path rustfmt.toml {} + > /dev/null 2>&1 || true)
cd "$copy"
find . -name '*.rs' ! -path './tests/*' ! -path '*/tests/*' ! -path './benches/*' | sort | xargs awk -v limit="$limit" '
    FNR == 1 { delete start; depth = "" }
    match($0, /^ *(pub(\([a-z ]+\))? )?(const |async |unsafe |extern "C" )*fn [a-z_0-9]+/) {
        indent = match($0, /[^ ]/) - 1; name = $0; sub(/^.*fn /, "", name); sub(/[^a-z_0-9].*$/, "", name)
        start[indent] = FNR; names[indent] = name
    }
    /^ *}$/ {
        indent = match($0, /[^ ]/) - 1
        if (indent in start) {
            lines = FNR - start[indent] + 1
            if (lines > limit) printf "%4d  %s:%d  %s\n", lines, substr(FILENAME, 3), start[indent], names[indent]
            delete start[indent]
        }
    }
' | sort -rn | awk '{ print } END { print NR " functions are longer than '"$limit"' lines" }'
