# One stream, so that what is said last comes last.
exec 2>&1

fail() {
    printf 'impasto: %s\n' "$1"
    shift
    for line; do printf '  help: %s\n' "$line"; done
    exit 1
}
say() { printf 'impasto: %s\n' "$*"; }
has() { command -v "$1" >/dev/null; }

inputs=/run/impasto/inputs
made=$work/made
mkdir -p "$made"

# Whether a kernel's release is among those that the recipe names, or it names none.
chosen() {
    [ -n "$kernels" ] || return 0
    set -f
    for pattern in $kernels; do
        case $1 in $pattern) set +f; return 0 ;; esac
    done
    set +f
    return 1
}

