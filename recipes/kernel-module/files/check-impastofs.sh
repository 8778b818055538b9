#!/bin/sh
# Loads the module, writes to its file system and reads back, and unloads it.
set -eu
at=/run/impastofs
mkdir -p "$at"

modprobe impastofs
grep -qw impastofs /proc/filesystems
mount -t impastofs none "$at"
[ "$(stat -f -c %t "$at")" = 696d7073 ]

mkdir "$at/dir"
echo 'kept in memory' >"$at/dir/file"
ln -s dir/file "$at/link"
[ "$(cat "$at/link")" = 'kept in memory' ]
mv "$at/dir/file" "$at/dir/other"
[ "$(ls "$at/dir")" = other ]
head -c 3000000 /dev/urandom >/run/random
cp /run/random "$at/random"
cmp /run/random "$at/random"
rm "$at/link" "$at/dir/other"
rmdir "$at/dir"
[ "$(ls "$at")" = random ]

umount "$at"
mount -t impastofs none "$at"
[ -z "$(ls "$at")" ]
umount "$at"
modprobe -r impastofs
! grep -q '^impastofs ' /proc/modules

echo "IMPASTOFS OK $(uname -r)"
