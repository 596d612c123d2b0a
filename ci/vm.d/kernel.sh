# shellcheck shell=bash
# Debian's cloud kernels: small, quick to boot, and what servers run.

SERIES_KNOWN='6.12 7'

# Subtrees that storage work may want; the rest (graphics, network cards, radios) only costs boot time.
MODULE_TREES='arch block crypto fs lib mm drivers/block drivers/char drivers/dax drivers/md drivers/nvdimm
  drivers/nvme drivers/scsi drivers/target drivers/virtio drivers/watchdog net/unix net/sched'

archive_of_series() {
  case $1 in
    6.12) printf 'machine\n' ;;
    7) printf 'newer\n' ;;
    *) die "$EX_USAGE" "unknown kernel series $1 (known: $SERIES_KNOWN)" ;;
  esac
}

# newest_version SERIES: as uname -r will say it.
newest_version() {
  local archive
  archive=$(archive_of_series "$1") || exit
  apt-cache -c "$CACHE/apt/$archive/apt.conf" pkgnames "linux-image-$1." |
    sed -n 's/^linux-image-\(.*-cloud-amd64\)$/\1/p' | sort -V | tail -n 1
}

# A release's kernel package was split in 7.2; take whichever of the parts exist.
packages_of_version() {
  local archive=$1 version=$2 part
  for part in image binary modules base; do
    apt-cache -c "$CACHE/apt/$archive/apt.conf" pkgnames "linux-$part-$version" | grep -Fx "linux-$part-$version" || true
  done
}

fetch_kernel() {
  local series=$1 archive version final temporary packages
  final=$CACHE/kernels/$series
  archive=$(archive_of_series "$series") || exit
  if [[ $archive == newer ]]; then prepare_newer_archive; fi
  version=$(newest_version "$series") || exit
  [[ -n $version ]] || die "$EX_UNAVAILABLE" "the archive has no $series cloud kernel"
  if [[ -e $final/version && $(<"$final/version") == "$version" ]]; then
    verbose "kernel $version is the newest"
    return
  fi
  say "fetching kernel $version"
  mapfile -t packages < <(packages_of_version "$archive" "$version")
  mkdir -p "$CACHE/kernels"
  download_and_unpack "$archive" "$final.packages" "${packages[@]}"

  remove_leftovers "$final"
  temporary=$final.tmp.$$
  mkdir -p "$temporary"
  take_kernel "$final.packages" "$temporary" "$version"
  take_modules "$final.packages" "$temporary" "$version"
  printf '%s\n' "$version" >"$temporary/version"
  rm -rf "$final.packages"
  replace_dir "$temporary" "$final"
}

take_kernel() {
  local image
  image=$(find "$1" -name "vmlinuz-$3" -o -path "*/$3/vmlinuz" | head -n 1)
  [[ -n $image ]] || die "$EX_SOFTWARE" "no kernel image in the packages of $3"
  cp "$image" "$2/kernel"
  unpack_kernel "$image" "$2/kernel"
}

# A kernel unpacks itself, which costs an emulated processor a second at every boot. QEMU also takes it unpacked. If it
# is packed in another way than today's, it stays as it is.
unpack_kernel() {
  local image=$1 to=$2 offset
  offset=$(LC_ALL=C grep -a -b -o -m 1 -P '\x28\xb5\x2f\xfd' "$image" | head -n 1 | cut -d : -f 1) || return 0
  # zstd complains of what lies behind the kernel.
  tail -c "+$((offset + 1))" "$image" | tool_run zstd -d -c -q 2>/dev/null >"$to.unpacked" || true
  if [[ $(head -c 4 "$to.unpacked" | tail -c 3) == ELF ]] && is_whole_elf "$to.unpacked"; then
    mv "$to.unpacked" "$to"
  fi
  rm -f "$to.unpacked"
}

# The section table is at an ELF file's very end, where the header says.
is_whole_elf() {
  local start size count
  start=$(od -An -t u8 -j 40 -N 8 "$1")
  size=$(od -An -t u2 -j 58 -N 2 "$1")
  count=$(od -An -t u2 -j 60 -N 2 "$1")
  (($(stat -c %s "$1") >= start + size * count))
}

# Modules are unpacked here once, so that no emulated processor has to do it at every boot.
take_modules() {
  local from to=$2/modules/usr/lib/modules/$3 tree
  from=$(find "$1" -type d -path "*/lib/modules/$3" | head -n 1)
  [[ -d $from/kernel ]] || die "$EX_SOFTWARE" "no modules in the packages of $3"
  mkdir -p "$to/kernel"
  for tree in $MODULE_TREES; do
    [[ -d $from/kernel/$tree ]] || continue
    mkdir -p "$to/kernel/$(dirname "$tree")"
    cp -r "$from/kernel/$tree" "$to/kernel/$tree"
  done
  find "$to" -name '*.ko.xz' -print0 | tool_run xargs -0 -r -n 64 xz -d
  find "$to" -name '*.ko.zst' -print0 | tool_run xargs -0 -r zstd -q -d --rm
  cp "$from"/modules.builtin* "$from"/modules.order "$to/" 2>/dev/null || true
  ln -s usr/lib "$2/modules/lib"
  tool_run depmod -b "$2/modules" "$3" 2>/dev/null
  rm "$2/modules/lib"
}
