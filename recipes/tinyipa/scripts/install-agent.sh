# Installs the agent from its wheels, without network.
wheels=/run/impasto/inputs/wheels

# pip runs out of its own wheel, and stays out of the ramdisk.
PYTHONPATH=$(echo $wheels/pip-*.whl) python3 -m pip install --no-index --find-links $wheels \
  --root-user-action=ignore --break-system-packages ironic-python-agent

# What the kernel starts in a ramdisk.
ln -s /usr/lib/systemd/systemd /init

# Nobody lives here long enough for these.
systemctl --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer fstrim.timer

# nvme-cli made them up when it was installed: they are one machine's, and the next build's are others.
rm -f /etc/nvme/hostid /etc/nvme/hostnqn
