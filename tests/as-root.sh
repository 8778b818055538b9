#!/usr/bin/env bash
# Runs a command as root, with sudo where the caller is somebody else: `tests/as-root.sh COMMAND…`.
# What it leaves in target/ is given back to the caller, who compiled what it runs.
set -euo pipefail
if [ "$(id -u)" = 0 ]; then exec "$@"; fi
cd "$(dirname "$0")/.."
if ! sudo --non-interactive true 2> /dev/null; then
  echo 'What follows makes disks, devices and name spaces: it runs as root, with sudo.' >&2
  sudo --validate
fi
# shellcheck disable=SC2016 # it is expanded by root's shell
as_root='
  owner=$SUDO_UID:$SUDO_GID
  trap '\''chown --recursive --no-dereference "$owner" target/tmp target/nextest target/bench 2> /dev/null || true'\'' EXIT
  # Taken away by sudo; and where snapshots are looked for, or root would ask cargo.
  export PATH=$1:/usr/sbin:/sbin INSTA_WORKSPACE_ROOT=$PWD INSTA_UPDATE=${INSTA_UPDATE:-no}
  # Stores that are made now are root'\''s, and where the caller keeps things is nothing to root.
  unset SUDO_UID SUDO_GID SUDO_USER SUDO_COMMAND XDG_CACHE_HOME XDG_CONFIG_HOME
  shift
  "$@"'
sudo --preserve-env --set-home \
  RUSTUP_HOME="${RUSTUP_HOME:-$HOME/.rustup}" CARGO_HOME="${CARGO_HOME:-$HOME/.cargo}" \
  bash -euc "$as_root" as-root "$PATH" "$@"
