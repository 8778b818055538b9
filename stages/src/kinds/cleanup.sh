# What the operations of a `cleanup` stage share. After it stand the operations, each between `begin` and `end`.
#
# Nothing here follows a link: a link that is in the way is removed or left, never what it leads to.

exec 2>&1

begin() {
    name=$1
    touched=0
}
end() {
    case $touched in
    0) echo "cleanup: $name: nothing to do" ;;
    1) echo "cleanup: $name: 1 file" ;;
    *) echo "cleanup: $name: $touched files" ;;
    esac
}
has() { command -v "$1" >/dev/null; }

# Whether a path leads through directories only.
direct() {
    case $1 in */*) ;; *) return 1 ;; esac
    dir=${1%/*}
    [ -z "$dir" ] || [ "$(readlink -f -- "$dir")" = "$dir" ] || {
        echo "cleanup: $name: $1 lies behind a link, and is left"
        return 1
    }
}

# Removes files, links, and directories with all below them.
gone() {
    for path; do
        [ -e "$path" ] || [ -L "$path" ] || continue
        direct "$path" || continue
        touched=$((touched + $(find "$path" -xdev ! -type d | wc -l)))
        rm -rf --one-file-system -- "$path" 2>/dev/null || rm -rf -- "$path"
    done
}

# Removes of what lies below a directory all that `find` selects.
below() {
    top=$1
    shift
    [ -d "$top" ] && [ ! -L "$top" ] || return 0
    direct "$top" || return 0
    touched=$((touched + $(find "$top" -xdev -mindepth 1 "$@" ! -type d | wc -l)))
    find "$top" -xdev -mindepth 1 -depth "$@" -delete
}

# Empties files. Owner and mode stay, which their programs need.
emptied() {
    for path; do
        [ -f "$path" ] && [ ! -L "$path" ] && [ -s "$path" ] || continue
        direct "$path" || continue
        : >"$path"
        touched=$((touched + 1))
    done
}

# Changes files by an expression of sed, where it changes anything.
edited() {
    expression=$1
    shift
    for path; do
        [ -f "$path" ] && [ ! -L "$path" ] || continue
        direct "$path" || continue
        mkdir -p /run/impasto/cleanup
        sed -E "$expression" "$path" >/run/impasto/cleanup/edited
        cmp -s /run/impasto/cleanup/edited "$path" || {
            cat /run/impasto/cleanup/edited >"$path"
            touched=$((touched + 1))
        }
    done
}

# Homes of the image's users, and those that nobody has any more.
homes=$(
    {
        cut -d: -f6 /etc/passwd 2>/dev/null || :
        printf '%s\n' /root /home/*
    } | while IFS= read -r home; do
        case $home in /?*) [ ! -d "$home" ] || readlink -f -- "$home" ;; esac
    done | sort -u
)

# Removes names, which may be patterns, from every home.
at_home() {
    for pattern; do
        while IFS= read -r home; do
            # Not quoted: this is where patterns become names.
            [ -z "$home" ] || gone "${home%/}"/$pattern
        done <<HOMES
$homes
HOMES
    done
}
# Does `"$@" FILE` to such files in every home.
each_at_home() {
    pattern=$1
    shift
    while IFS= read -r home; do
        [ -n "$home" ] || continue
        for file in "${home%/}"/$pattern; do "$@" "$file"; done
    done <<HOMES
$homes
HOMES
}

