. /etc/os-release
{
  echo "NAME=$NAME"
  echo "VERSION=$VERSION_ID"
  echo "VARIANT=$(cat /etc/variant)"
  busybox | head -n 1
} > /tmp/image-version.txt
