# Puts the modules that were compiled into the image. Before it stand the stage's parameters, as shell variables.

has depmod || fail 'the image has no depmod, which tells the kernel where modules are' \
    'install the package kmod in a stage below'
[ -z "$initramfs" ] || has update-initramfs || fail 'the image has no update-initramfs' \
    'install the package initramfs-tools in a stage below, or leave out `initramfs`'

cp "$inputs/modules.tar" "$inputs/report.txt" "$work"
tar --extract --directory="$made" --file="$work/modules.tar"
all=$(for list in /lib/modules/*/modules.builtin; do
    [ ! -f "$list" ] || basename "$(dirname "$list")"
done | sort -V)
[ -n "$all" ] || fail 'the image has no kernel: there is no /lib/modules/RELEASE/modules.builtin' \
    'install one in a stage below, such as linux-image-amd64'
for release in $all; do
    chosen "$release" || continue
    [ -d "$made/$release" ] || fail "nothing was compiled for linux $release, which the image has" \
        'the lock was made for other kernels: a stage below has changed packages by itself; let a `packages` stage do that'
    updates=/lib/modules/$release/updates
    mkdir -p "$updates"
    for file in "$made/$release"/*; do
        name=${file##*/}
        name=${name%.ko*}
        # Whatever it is compressed by, one of a name is enough.
        rm -f "$updates/$name".ko "$updates/$name".ko.gz "$updates/$name".ko.xz "$updates/$name".ko.zst
        cp --preserve=timestamps "$file" "$updates"
    done
    depmod "$release"
    for file in "$made/$release"/*; do
        grep -qF "updates/${file##*/}:" "/lib/modules/$release/modules.dep" ||
            fail "depmod of the image cannot read ${file##*/} for linux $release" \
                'choose another compression: `compress = "none"`'
        say "linux $release: ${file##*/}"
    done
    if [ -n "$initramfs" ]; then
        if [ -f "/boot/initrd.img-$release" ]; then how=-u; else how=-c; fi
        update-initramfs "$how" -k "$release" || fail "the initramfs of linux $release cannot be made: what is wrong is above"
    fi
    touch "$made/$release.done"
done
for dir in "$made"/*/; do
    release=$(basename "$dir")
    [ -f "$made/$release.done" ] || say "linux $release is not in the image, and its modules are left out"
done
