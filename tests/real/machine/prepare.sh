#!/usr/bin/env bash
# Makes a machine for QEMU out of Debian's packages, in the folder $1: `kernel`, and `initrd`, whose
# init loads the network card's driver and runs /test.sh. Nothing is installed; does nothing where
# both are there.
set -euo pipefail
folder=$1
[ -e "$folder/initrd" ] && [ -e "$folder/kernel" ] && exit
mkdir -p "$folder"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The newest there is: its name changes with every update.
package=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image-/ { print $2; exit }')
apt-get -o APT::Sandbox::User=root -qq download "$package"
dpkg-deb --fsys-tarfile "$package"_*.deb | tar -x --wildcards './boot/vmlinuz-*' \
  '*/kernel/drivers/virtio/*' '*/kernel/drivers/net/*failover.ko' \
  '*/kernel/drivers/net/virtio_net.ko' '*/kernel/net/core/failover.ko'

mkdir -p root/{bin,m,dev,proc,sys,tmp,etc}
cp "$(command -v busybox)" root/bin/busybox
ln -s busybox root/bin/sh
find lib -name '*.ko' -exec cp {} root/m/ \;
# A stranger's datagrams: busybox has no tool for them.
rustc -O -C target-feature=+crt-static -o root/bin/datagram "$2/datagram.rs"
cat > root/bin/lease <<'LEASE'
#!/bin/sh
[ "$1" = bound ] || exit 0
[ -z "$mtu" ] || ip link set eth0 mtu "$mtu"
ip addr add "$ip/$mask" dev eth0
ip route add default via "$router"
for server in $dns; do echo "nameserver $server" >> /etc/resolv.conf; done
LEASE
cat > root/init <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc p /proc; mount -t sysfs s /sys; mount -t devtmpfs d /dev
for m in virtio_ring virtio virtio_pci_legacy_dev virtio_pci_modern_dev virtio_pci failover net_failover virtio_net; do
  insmod /m/$m.ko
done
ip link set lo up
tries=0
while [ ! -e /sys/class/net/eth0 ] && [ $tries -lt 500 ]; do usleep 20000; tries=$((tries + 1)); done
. /test.sh
poweroff -f
INIT
chmod +x root/init root/bin/lease
(cd root && find . -mindepth 1 -printf '%P\n' | LC_ALL=C sort | cpio -o -H newc -R 0:0 --quiet) > "$folder/initrd.new"
cp boot/vmlinuz-* "$folder/kernel"
mv "$folder/initrd.new" "$folder/initrd"
