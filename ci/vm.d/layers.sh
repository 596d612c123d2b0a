# shellcheck shell=bash
# The guest's file system: layers that the guest puts over each other, the topmost in its memory.
#
#   base   tools of this machine with their libraries, kernel modules; made once and kept
#   added  what this run adds
#
# Both are disks, of which the guest reads only what it uses. As an initramfs, 170 MB would be unpacked by an emulated
# processor first, which takes longer than all the rest of the boot. The initramfs holds the few bytes that mount them.

# Not every one exists on every machine; those in GUEST_TOOLS_NEEDED must.
GUEST_TOOLS_NEEDED='bash busybox blkid blockdev cat cmp cp cryptsetup dd debugfs dmsetup e2fsck env fio findmnt
  kmod losetup ls lsblk mkfs.ext4 mkfs.xfs mount perl setpriv sha256sum sort stat strace systemd-udevd tar timeout truncate
  udevadm umount xfs_repair'
GUEST_TOOLS_WANTED='awk b2sum base64 basename blkdiscard chcpu chmod chown chrt cksum comm cut date df dirname dmesg du
  dumpe2fs expr fallocate find flock fstrim getfattr grep head id install ionice ip join kill ln logger lscpu lsns
  md5sum mkdir mkfifo mknod mktemp mv nice nl nproc nsenter numfmt od paste pgrep pidof pivot_root pkill printf prlimit
  ps readlink realpath resize2fs rm rmdir sed seq setsid sha1sum shred shuf sleep split stty sync tac tail
  taskset tee touch tr tune2fs uniq unshare uuidgen wc wipefs xargs xfs_io xfs_db veritysetup integritysetup zramctl'

# Device nodes and links as a real machine makes them, and its habit of opening a block device at each event.
# 80-drivers is left out: init loads what is needed, and the rest comes when asked for.
UDEV_RULES='50-udev-default 55-dm 60-block 60-persistent-storage 60-persistent-storage-dm 95-dm-notify'

# The directories every part agrees on. A later archive that said "lib" is a directory would undo the link.
make_skeleton() {
  local root=$1 dir
  mkdir -p "$root"/{dev,proc,sys,run,root,mnt,etc,var/lib,var/log,usr/{bin,sbin,lib/locale,lib64}}
  mkdir -p "$root/tmp"
  chmod 1777 "$root/tmp"
  for dir in bin sbin lib lib64; do ln -sfn "usr/$dir" "$root/$dir"; done
  ln -sfn ../run "$root/var/run"
}

# make_image ROOT FILE: a file system with everything in ROOT, all of it root's, whoever we are.
make_image() {
  local root=$1 file=$2 kib
  local -a as_root=()
  # Where user namespaces are forbidden the files stay ours, which the guest's root does not mind.
  if ((EUID)) && unshare -r true 2>/dev/null; then as_root=(unshare -r); fi
  kib=$(du -sk --apparent-size "$root" | cut -f 1)
  # Small files and directories take a block each.
  kib=$((kib + kib / 10 + $(find "$root" | wc -l) * 4 + 4096))
  tool_run "${as_root[@]}" mkfs.ext4 -q -F -b 4096 -m 0 -O '^has_journal' -E lazy_itable_init=0,root_owner=0:0 \
    -d "$root" "$file" "${kib}k" >/dev/null || die "$EX_SOFTWARE" "mkfs.ext4 cannot make $file"
}

# guest_path PATH: where it lies in the guest, whose /bin, /lib and so on are links into /usr. Sets GUEST_PATH.
guest_path() {
  GUEST_PATH=$1
  case $GUEST_PATH in
    "$CACHE/tools"/*) GUEST_PATH=${GUEST_PATH#"$CACHE/tools"} ;;
  esac
  case $GUEST_PATH in
    /bin/* | /sbin/* | /lib/* | /lib64/*) GUEST_PATH=/usr$GUEST_PATH ;;
  esac
}

# libraries_of FILE...: the shared libraries they load, one a line.
libraries_of() {
  { tool_run ldd "$@" 2>/dev/null || true; } | sed -n -e 's/.* => \(\/[^ ]*\) .*/\1/p' -e 's/^\t\(\/[^ ]*\) .*/\1/p' | sort -u
}

# add_files ROOT: copies the files named on standard input, and writes to ROOT.files whence each came.
add_files() {
  local root=$1 file
  while read -r file; do
    guest_path "$file"
    [[ -e $root$GUEST_PATH ]] && continue
    mkdir -p "$root${GUEST_PATH%/*}"
    cp -L "$file" "$root$GUEST_PATH"
    printf '%s\n' "$file" >>"$root.files"
  done
}

# What decides whether a base is still right: this recipe, the kernel, and each file that went into it.
base_identity() {
  local list=$1 series=$2
  cat "$CACHE/kernels/$series/version"
  sha256sum "$VM_D"/{layers.sh,guest-mount,guest-init}
  xargs -d '\n' -r stat -c '%n %s %Y' <"$list" 2>&1 || true
}

base_is_current() {
  local base=$CACHE/base/$1
  [[ -e $base/image && -e $base/initramfs && -e $base/identity ]] &&
    [[ $(base_identity "$base/files" "$1") == "$(<"$base/identity")" ]]
}

# The needed tools that are nowhere to be found, as words.
missing_tools() {
  local tool
  for tool in $GUEST_TOOLS_NEEDED; do
    find_tool "$tool" >/dev/null || printf '%s ' "$tool"
  done
}

make_base() {
  local series=$1 final=$CACHE/base/$1 temporary root tool path
  local -a paths=()
  verbose "making the guest's file system for kernel $(<"$CACHE/kernels/$series/version")"
  remove_leftovers "$final"
  temporary=$final.tmp.$$
  root=$temporary/root
  mkdir -p "$temporary"
  make_skeleton "$root"
  for tool in $GUEST_TOOLS_NEEDED $GUEST_TOOLS_WANTED; do
    if path=$(find_tool "$tool"); then paths+=("$path"); fi
  done
  printf '%s\n' "${paths[@]}" | add_files "$root"
  libraries_of "${paths[@]}" | add_files "$root"
  cp -r /usr/lib/locale/C.utf8 "$root/usr/lib/locale/" 2>/dev/null || true
  # glibc loads these by name: nothing that ldd could see.
  find /usr/lib/x86_64-linux-gnu /lib/x86_64-linux-gnu -maxdepth 1 \
    \( -name 'libnss_files.so.2' -o -name 'libgcc_s.so.1' \) 2>/dev/null | add_files "$root"
  add_fio_engines "$root"
  add_busybox "$root"
  add_udev_rules "$root"
  add_etc "$root"
  cp -r "$CACHE/kernels/$series/modules/usr/lib/modules" "$root/usr/lib/"
  cp "$VM_D/guest-init" "$root/init"
  chmod 755 "$root/init"
  make_image "$root" "$temporary/image"
  make_initramfs "$root" "$temporary/initramfs" "$(<"$CACHE/kernels/$series/version")"
  sort -u "$root.files" >"$temporary/files"
  base_identity "$temporary/files" "$series" >"$temporary/identity"
  rm -rf "$root" "$root.files"
  replace_dir "$temporary" "$final"
}

# make_initramfs BASE FILE VERSION
make_initramfs() {
  local base=$1 file=$2 version=$3 root=$2.root module applet number=10
  mkdir -p "$root"/{bin,dev,sys,modules}
  cp "$base/usr/bin/busybox" "$root/bin/"
  for applet in sh mount insmod cat mkdir cp switch_root; do ln -s busybox "$root/bin/$applet"; done
  cp "$VM_D/guest-mount" "$root/init"
  chmod 755 "$root/init"
  # In the order in which they are to be loaded.
  while read -r _ module; do
    cp "$module" "$root/modules/$number-${module##*/}"
    number=$((number + 1))
  done < <(tool_run modprobe -d "$base" -S "$version" --show-depends -a virtio_blk ext4 overlay | grep '^insmod ')
  pack "$root" >"$file"
  rm -rf "$root"
}

# pack ROOT: an archive as the kernel takes it, everything in it root's.
pack() { (cd "$1" && find . -print0 | tool_run cpio --quiet --null -o -H newc -R 0:0); }

add_fio_engines() {
  local root=$1 engines
  for engines in /usr/lib/x86_64-linux-gnu/fio "$CACHE/tools/usr/lib/x86_64-linux-gnu/fio"; do
    if [[ -d $engines ]]; then
      find "$engines" -name 'fio-libaio.so' | add_files "$root"
      find "$engines" -name 'fio-libaio.so' -print0 | xargs -0 -r bash -c 'ldd "$@"' ldd |
        sed -n 's/.* => \(\/[^ ]*\) .*/\1/p' | sort -u | add_files "$root"
    fi
  done
}

# Busybox fills the gaps only: where the real program is there, it stays.
add_busybox() {
  local root=$1 applet
  for applet in $(chroot_free_busybox --list); do
    if [[ ! -e $root/usr/bin/$applet && ! -e $root/usr/sbin/$applet ]]; then
      ln -s busybox "$root/usr/bin/$applet"
    fi
  done
  for applet in modprobe insmod rmmod lsmod modinfo depmod; do ln -sf ../bin/kmod "$root/usr/sbin/$applet"; done
  rm -f "$root"/usr/bin/{modprobe,insmod,rmmod,lsmod,modinfo,depmod}
  ln -sf bash "$root/usr/bin/sh"
}

chroot_free_busybox() { "$(find_tool busybox)" "$@"; }

add_udev_rules() {
  local root=$1 rule file
  mkdir -p "$root/usr/lib/udev/rules.d"
  for rule in $UDEV_RULES; do
    for file in {,"$CACHE/tools"}{/usr,}/lib/udev/rules.d/"$rule.rules"; do
      if [[ -e $file ]]; then
        cp "$file" "$root/usr/lib/udev/rules.d/"
        printf '%s\n' "$file" >>"$root.files"
        break
      fi
    done
  done
}

add_etc() {
  local root=$1
  printf 'root:x:0:0:root:/root:/bin/bash\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n' >"$root/etc/passwd"
  # The groups that udev's rules name.
  printf '%s\n' root:x:0: tty:x:5: disk:x:6: lp:x:7: kmem:x:15: dialout:x:20: cdrom:x:24: tape:x:26: audio:x:29: \
    video:x:44: sgx:x:103: render:x:104: input:x:105: kvm:x:106: nogroup:x:65534: >"$root/etc/group"
  printf 'passwd: files\ngroup: files\nhosts: files\n' >"$root/etc/nsswitch.conf"
  printf '127.0.0.1 localhost\n::1 localhost\n' >"$root/etc/hosts"
  printf 'blkseal-vm\n' >"$root/etc/hostname"
  printf '0123456789abcdef0123456789abcdef\n' >"$root/etc/machine-id"
  ln -s ../proc/self/mounts "$root/etc/mtab"
}

# add_host_path SERIES ROOT HOSTPATH[:GUESTPATH]: for one --add.
add_host_path() {
  local series=$1 root=$2 host=${3%%:*} guest libraries
  guest=$host
  if [[ $3 == *:* ]]; then guest=${3#*:}; fi
  if [[ $guest != /* ]]; then guest=$(realpath -s "$guest"); fi
  guest_path "$guest"
  guest=$GUEST_PATH
  mkdir -p "$root${guest%/*}"
  if [[ -d $host ]]; then
    mkdir -p "$root$guest"
    cp -r "$host/." "$root$guest/"
    # ldd fails on scripts, which is no failure here.
    libraries=$(find "$host" -type f -perm /111 -print0 | xargs -0 -r bash -c 'ldd "$@" 2>/dev/null || true' ldd)
  else
    cp -L "$host" "$root$guest"
    libraries=$(ldd "$host" 2>/dev/null) || return 0
  fi
  # Libraries that the base already took from this machine need no second copy.
  sed -n -e 's/.* => \(\/[^ ]*\) .*/\1/p' -e 's/^\t\(\/[^ ]*\) .*/\1/p' <<<"$libraries" | sort -u |
    { grep -Fxv -f "$CACHE/base/$series/files" || true; } | add_files "$root"
}
