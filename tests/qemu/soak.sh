#!/bin/sh
# SPDX-License-Identifier: MIT
#
# In a guest: a disk with a file system, at /var/tmp, and control groups that can make it slow.

# try NAME COMMAND...
count=0
try()
{
	name=$1
	shift
	count=$((count + 1))
	said=$("$@" 2>&1) && echo "ok $count - $name" || echo "not ok $count - $name: $said"
}

try 'modules are listed' depmod -a
# CRIU asks the kernel about sockets, and tries what it can do with networks.
modprobe -qa unix_diag inet_diag tcp_diag udp_diag raw_diag netlink_diag af_packet_diag nfnetlink nf_tables tun veth
# (SIOCSIFFLAGS, IFF_UP | IFF_RUNNING: CRIU tries a connection, too.)
try 'there is a loopback' perl -MSocket -e 'socket(S, PF_INET, SOCK_DGRAM, 0) && ioctl(S, 0x8914, my $lo = pack("a16s", "lo", 0x41)) or die $!'
mkdir -p /dev/pts
[ -e /dev/ptmx ] || mknod -m 666 /dev/ptmx c 5 2
try 'there are terminals' mount -t devpts devpts /dev/pts
# What is no module is part of that kernel.
modprobe -qa virtio_pci virtio_blk crc32c_generic ext4
for _ in 1 2 3 4 5 6 7 8 9 10; do
	[ ! -b /dev/vda ] || break
	sleep 0.5
done
try 'a disk is there' test -b /dev/vda
try 'it gets a file system' mkfs.ext4 -q /dev/vda
mkdir -p /var/tmp
try 'that is mounted' mount -t ext4 /dev/vda /var/tmp
try 'control groups are' mount -t cgroup2 cgroup /sys/fs/cgroup
try 'they hold disks' sh -c 'echo +io >/sys/fs/cgroup/cgroup.subtree_control'
echo "1..$count"
