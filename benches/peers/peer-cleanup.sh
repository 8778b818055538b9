#!/bin/sh
set -eu
apt-get clean
rm -rf /var/lib/apt/lists/* /tmp/* /var/tmp/* /var/lib/cloud /var/log/cloud-init*.log
rm -f /etc/ssh/ssh_host_*
: > /etc/machine-id
