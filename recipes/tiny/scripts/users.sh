#!/bin/sh -e
# Adds the user that the image is for.
echo "tiny:x:1000:1000:tiny:/home/tiny:/bin/sh" >> /etc/passwd
echo "tiny:x:1000:" >> /etc/group
mkdir -p /home/tiny
chown 1000:1000 /home/tiny
echo "$VARIANT" > /etc/variant
