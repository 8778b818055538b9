#!/bin/sh
# What makes these packages this image.
set -eu

# Whoever logs in sees what this is.
. /etc/os-release
echo "$PRETTY_NAME, $VARIANT image" > /etc/motd

# Passwords are for the console: over the network only keys let in.
cat > /etc/ssh/sshd_config.d/50-image.conf <<CONF
PasswordAuthentication no
PermitRootLogin prohibit-password
CONF
