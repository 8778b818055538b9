# Compiles the source for every kernel whose headers are here. Before it stand the stage's parameters, as shell variables,
# and `kbuild`, which calls make. All of it happens in memory; what is taken out lies in $work.

# Where the recipe names a cache, the kernel's own makefiles use it. Its entries are told apart by the compiler's packages:
# size and time of its files, which ccache looks at by itself, say little where times are all the same.
for cache in /run/impasto/caches/*; do
    [ -d "$cache" ] || continue
    compilers=$(dpkg-query -W -f '${Package} ${Version}\n' 'gcc-*' 'cpp-*' 'binutils-*' 'clang-*' 2>/dev/null || :)
    export DEBIAN_KERNEL_USE_CCACHE=1 CCACHE_DIR="$cache" CCACHE_STATSLOG="$work/ccache.log"
    export CCACHE_COMPILERCHECK="string:$compilers"
done

# Several threads of pahole number types as they come: never the same twice.
pahole=$(command -v pahole || :)
if [ -n "$pahole" ]; then
    mkdir "$work/bin"
    printf '#!/bin/sh\nexec %s "$@" -j1\n' "$pahole" >"$work/bin/pahole"
    chmod 0755 "$work/bin/pahole"
    PATH=$work/bin:$PATH
fi

source=$inputs/source
if [ ! -d "$source" ]; then
    mkdir "$work/unpacked"
    tar --extract --no-same-owner --directory="$work/unpacked" --file="$source" ||
        fail 'the source is neither a directory nor an archive that tar can read' \
            'give a directory, or a .tar, .tar.gz, .tar.bz2, .tar.xz or .tar.zst'
    source=$work/unpacked
    only=$(ls -A "$source")
    [ ! -d "$source/$only" ] || source=$source/$only
fi
[ -d "$source/$directory" ] || fail "the source has no directory $directory" 'see `directory` of the stage'
[ -f "$source/$directory/Makefile" ] || [ -f "$source/$directory/Kbuild" ] ||
    fail "the source has neither Makefile nor Kbuild in $directory" \
        'name the directory that has one: `directory`; it says what is made: obj-m := NAME.o'

all=$(for headers in /lib/modules/*/build; do
    [ ! -f "$headers/Makefile" ] || basename "$(dirname "$headers")"
done | sort -V)
releases=$(for release in $all; do ! chosen "$release" || printf '%s\n' "$release"; done)
[ -n "$all" ] || fail 'there are no kernel headers to compile with'
[ -n "$releases" ] || fail "no kernel of the image is among those of \`kernels\`: it has $(echo $all)"

# What the compiler says is wrong, with the lines of source that it shows, and nothing that only follows from it.
excerpt() {
    cat >"$work/all"
    awk '/(error|ERROR): |undefined!|undefined reference|No rule to make target/ { shown = 3 } shown-- > 0' \
        "$work/all" >"$work/errors"
    [ -s "$work/errors" ] || tail -n 12 "$work/all" >"$work/errors"
    head -n 12 "$work/errors"
    left=$(($(wc -l <"$work/errors") - 12))
    [ "$left" -le 0 ] || say "… and $left lines more"
}

failed=
for release in $releases; do
    tree=$work/trees/$release
    mkdir -p "$tree"
    cp -a "$source/." "$tree"
    # What the user's own make left there was made for another kernel.
    find "$tree" \( -name '*.o' -o -name '*.ko' -o -name '*.mod' -o -name '*.mod.c' -o -name '.*.cmd' -o -name '.*.d' \
        -o -name modules.order -o -name Module.symvers -o -name .tmp_versions \) -prune -exec rm -rf {} +
    say "compiles for linux $release"
    if kbuild -C "/lib/modules/$release/build" M="$tree${directory:+/$directory}" -j"$(nproc)" modules >"$work/said" 2>&1; then
        sed "/ing directory '/d; /^Skipping BTF/d; s|$tree/||g" "$work/said"
    else
        failed="$failed $release"
        sed "s|$tree/||g" "$work/said" | excerpt >"$work/said-$release"
    fi
done
if [ -n "$failed" ]; then
    last=
    for release in $failed; do
        if [ -n "$last" ] && cmp -s "$work/said-$last" "$work/said-$release"; then
            say "for linux $release the same"
        else
            say "for linux $release:"
            cat "$work/said-$release"
        fi
        last=$release
    done
    fail "it does not compile for linux$(echo "$failed" | sed 's/ \(.\)/, \1/2g')"
fi
if [ -f "$work/ccache.log" ]; then
    # The kernel's makefiles also ask the compiler what it can do.
    awk '/^#/ { own = /\/trees\// } own && /_cache_hit$/ { known++ } own && /^cache_miss$/ { new++ }
        END { printf "impasto: ccache: %d files known, %d new\n", known, new }' "$work/ccache.log"
fi

# Names that the kernel takes for one.
plain() { printf '%s' "$1" | tr - _; }

printf 'kernel\tmodule\tversion\tsigner\tsha256\n' >"$work/report.txt"
for release in $releases; do
    config=/lib/modules/$release/build/.config
    target=$made/$release
    mkdir -p "$target"
    find "$work/trees/$release" -type f -name '*.ko' | sort >"$work/found"
    [ -s "$work/found" ] || fail "make made no module for linux $release" 'the Makefile says what is made: obj-m := NAME.o'
    names=
    while read -r path; do
        file=${path##*/}
        [ ! -e "$target/$file" ] || fail "two modules are called $file"
        magic=$(modinfo -F vermagic "$path")
        [ "${magic%% *}" = "$release" ] ||
            fail "$file was made for linux ${magic%% *}, where it is to be for linux $release" \
                'its Makefile asks which kernel runs; it should take the one that make is given'
        cp "$path" "$target/$file"
        # As the kernel's own: what only a debugger reads is left out.
        strip --strip-debug "$target/$file"
        names="$names $(plain "${file%.ko}")"
    done <"$work/found"
    for name in $wanted; do
        case "$names " in
        *" $(plain "$name") "*) ;;
        *) fail "the module $name did not come out for linux $release: there is$names" ;;
        esac
    done
    if [ -n "$key" ]; then
        hash=$(sed -n 's/^CONFIG_MODULE_SIG_HASH="\(.*\)"$/\1/p' "$config")
        for file in "$target"/*.ko; do
            "/lib/modules/$release/build/scripts/sign-file" "${hash:-sha256}" "/run/impasto/secrets/$key" \
                "$inputs/certificate" "$file" ||
                fail "${file##*/} cannot be signed: what sign-file says is above" \
                    'the key must be a private key without passphrase, the certificate its own, both as openssl writes them'
        done
    fi
    how=$compress
    if [ -z "$how" ]; then
        how=none
        ! grep -q '^CONFIG_MODULE_COMPRESS_GZIP=y' "$config" || how=gzip
        ! grep -q '^CONFIG_MODULE_COMPRESS_XZ=y' "$config" || how=xz
        ! grep -q '^CONFIG_MODULE_COMPRESS_ZSTD=y' "$config" || how=zstd
    fi
    for file in "$target"/*.ko; do
        name=${file##*/}
        facts="$(modinfo -F version "$file" | head -n 1)	$(modinfo -F signer "$file")"
        # As the kernel's own makefiles do it: the kernel itself may have to unpack it.
        case $how in
        gzip) gzip -n "$file" ;;
        xz) xz --check=crc32 --lzma2=dict=1MiB "$file" ;;
        zstd) zstd -q --rm "$file" ;;
        esac
        sum=$(sha256sum "$file"*)
        printf '%s\t%s\t%s\t%s\n' "$release" "${name%.ko}" "$facts" "${sum%% *}" >>"$work/report.txt"
    done
done
tar --create --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
    --directory="$made" --file="$work/modules.tar" -- $releases
