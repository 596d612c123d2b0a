# shellcheck shell=bash
# Programs that the guest, or the making of it, needs. What this machine has installed is used; the rest is
# unpacked into the cache and installed nowhere.

TOOL_PACKAGES='bash busybox-static coreutils cpio cryptsetup-bin dmsetup e2fsprogs fio kmod mount perl-base strace
  udev util-linux xfsprogs xz-utils zstd'

# Newer than 10.0, QEMU hands a guest's AES instructions to those of this machine: encryption in the guest is several
# times faster than with 7.2.
QEMU_MAJOR_NEEDED=10

TOOL_DIRS='usr/local/bin usr/bin usr/sbin bin sbin lib/systemd usr/lib/systemd'

# The directories in which a cached tool's libraries are.
cached_library_path() {
  printf '%s\n' "$1/usr/lib/x86_64-linux-gnu:$1/lib/x86_64-linux-gnu"
}

# find_tool NAME: its path on this machine or in the cache.
find_tool() {
  local root dir
  for root in '' "$CACHE/tools"; do
    for dir in $TOOL_DIRS; do
      if [[ -x $root/$dir/$1 ]]; then
        printf '%s\n' "$root/$dir/$1"
        return
      fi
    done
  done
  return 1
}

# tool_run COMMAND...: runs it where it and whatever it starts find cached tools as well as this machine's.
tool_run() {
  local root=$CACHE/tools
  LD_LIBRARY_PATH=$(cached_library_path "$root") \
    PATH=$PATH:/usr/sbin:/sbin:$root/usr/bin:$root/usr/sbin:$root/bin:$root/sbin "$@"
}

fetch_tools() {
  local -a packages
  read -r -d '' -a packages <<<"$TOOL_PACKAGES" || true
  download_missing "$CACHE/tools" --no-upgrade "${packages[@]}"
}

installed_qemu() {
  local major
  command -v qemu-system-x86_64 >/dev/null || return 1
  major=$(qemu-system-x86_64 --version | sed -n 's/^QEMU emulator version \([0-9]*\).*/\1/p')
  ((${major:-0} >= QEMU_MAJOR_NEEDED))
}

fetch_qemu() {
  if installed_qemu || cached_qemu_works; then return; fi
  say 'fetching QEMU'
  # Backports only where the release's own is too old.
  local -a from=()
  if [[ $(machine_codename) == bookworm ]]; then from=(-t bookworm-backports); fi
  download_missing "$CACHE/qemu" "${from[@]}" qemu-system-x86
  cached_qemu_works || die "$EX_SOFTWARE" "the QEMU in $CACHE/qemu does not start"
}

cached_qemu_works() {
  [[ -x $CACHE/qemu/usr/bin/qemu-system-x86_64 ]] && qemu_command && "${QEMU[@]}" --version >/dev/null 2>&1
}

# Sets QEMU, the beginning of QEMU's command line.
qemu_command() {
  local root=$CACHE/qemu
  if installed_qemu; then
    QEMU=(qemu-system-x86_64)
  else
    QEMU=(env "LD_LIBRARY_PATH=$(cached_library_path "$root")" "$root/usr/bin/qemu-system-x86_64"
      -L "$root/usr/share/qemu" -L "$root/usr/share/seabios" -L "$root/usr/lib/ipxe/qemu")
  fi
}
