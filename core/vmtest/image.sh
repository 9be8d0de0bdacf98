#!/bin/sh
# image.sh ROOT STAGE RELEASE: what package vmtest adds to the system of a disk image while mmdebstrap makes it.
set -eu
root=$1
stage=$2
release=$3

case $stage in
essential) # before the kernel is installed, which makes its initramfs
	mkdir -p "$root/etc/initramfs-tools/conf.d"
	# Few modules, quickly unpacked: an emulated machine waits for both.
	printf 'MODULES=list\nCOMPRESS=lz4\nFSTYPE=ext4\n' >"$root/etc/initramfs-tools/conf.d/vmtest.conf"
	printf 'virtio_pci\nvirtio_blk\next4\n' >"$root/etc/initramfs-tools/modules"
	;;
customize)
	test -e "$root/boot/initrd.img-$release" || {
		echo "no initramfs was made for $release" >&2
		exit 1
	}
	cat >"$root/etc/systemd/system/vmtest-agent.service" <<-'END'
		[Unit]
		Description=Runs what the host of this virtual machine asks for

		[Service]
		ExecStartPre=mkdir -p /run/vmtest
		ExecStartPre=mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose agent /run/vmtest
		ExecStart=/run/vmtest/init service
		StandardError=journal+console
		TasksMax=infinity

		[Install]
		WantedBy=multi-user.target
	END
	cat >"$root/etc/systemd/system/share.mount" <<-'END'
		[Mount]
		What=share
		Where=/share
		Type=9p
		Options=trans=virtio,version=9p2000.L,msize=262144,access=any,cache=mmap
	END
	cat >"$root/etc/systemd/system/share.automount" <<-'END'
		[Automount]
		Where=/share

		[Install]
		WantedBy=local-fs.target
	END
	systemctl --root "$root" --quiet enable vmtest-agent.service share.automount
	# Nobody sits at the console, and nothing is to take dpkg's lock, or the machine's time, by itself.
	systemctl --root "$root" --quiet mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
		dpkg-db-backup.timer fstrim.timer e2scrub_all.timer systemd-tmpfiles-clean.timer
	echo guest >"$root/etc/hostname"
	: >"$root/etc/fstab"
	echo b0075a9ed15c4f0e8a6c2d3be1f49a70 >"$root/etc/machine-id" # without one the first boot would be another than the rest
	mkdir -p "$root/var/log/journal"                             # the journal outlives a reboot
	# What made the image small is no part of the system.
	rm -f "$root/etc/dpkg/dpkg.cfg.d/99mmdebstrap" "$root/etc/apt/apt.conf.d/99mmdebstrap"
	;;
esac
