# shellcheck shell=bash
# What the demos have in common: a daemon with directories of its own, steps that are shown, a tree of files that is stored
# and compared. Sourced with the tree in $1.

TREE=$1
HOME_DIR=$(mktemp -d)
MARKER='TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION'
export BLKSEAL_RUN_DIR=$HOME_DIR/run BLKSEAL_STATE_DIR=$HOME_DIR/state BLKSEAL_CONFIG_DIR=$HOME_DIR/etc
export BLKSEAL_DEV_DIR=$HOME_DIR/dev BLKSEAL_SOCKET=$HOME_DIR/run/daemon.sock
IMAGE=$HOME_DIR/disk.img
MOUNT=$HOME_DIR/mnt
PASSPHRASE=$HOME_DIR/recovery
STEP=0

step() {
  STEP=$((STEP + 1))
  printf '\n[%2d] %s\n' "$STEP" "$*"
}
show() {
  printf '     $ %s\n' "${*//$HOME_DIR/DEMO}"
  "$@" 2>&1 | sed "s|$HOME_DIR|DEMO|g; s/^/       /"
}
wrong() {
  printf '\nblkseal demo: WRONG: %s\n' "$*" >&2
  exit 1
}

clean_up() {
  set +e
  mountpoint -q "$MOUNT" && umount "$MOUNT"
  [[ -e /dev/mapper/blkseal-demo ]] && cryptsetup close blkseal-demo
  clean_up_more
  blkseal close demo
  [[ -n ${DAEMON:-} ]] && kill "$DAEMON" && wait "$DAEMON"
  rm -rf "$HOME_DIR"
} 2>/dev/null

start_daemon() {
  blkseal daemon 2>"$HOME_DIR/daemon.log" &
  DAEMON=$!
  for _ in $(seq 100); do
    if blkseal list >/dev/null 2>&1; then return; fi
    kill -0 "$DAEMON" 2>/dev/null || break
    sleep 0.1
  done
  cat "$HOME_DIR/daemon.log" >&2
  wrong 'the daemon did not start'
}

checksums() { (cd "$MOUNT" && find tree -type f -print0 | sort -z | xargs -0 sha256sum); }

# mkfs.ext4 puts no data into the image by itself that could be taken for the tree's.
store_tree() {
  show mkfs.ext4 -q "$HOME_DIR/dev/demo"
  show mount "$HOME_DIR/dev/demo" "$MOUNT"
  mkdir "$MOUNT/tree"
  cp -r "$TREE/." "$MOUNT/tree/"
  checksums >"$HOME_DIR/written"
  (cd "$TREE" && find . -type f | wc -l) >"$HOME_DIR/count"
  [[ $(wc -l <"$HOME_DIR/written") == "$(cat "$HOME_DIR/count")" ]] || wrong 'not all files were stored'
  printf '       %s files, %s\n' "$(cat "$HOME_DIR/count")" "$(du -sh "$MOUNT/tree" | cut -f1)"
}

verify_tree() {
  checksums | cmp -s - "$HOME_DIR/written" || wrong "$1 reads other files than were written"
  printf '       %s: all %s checksums are right\n' "$1" "$(cat "$HOME_DIR/count")"
}

look_for_plaintext() {
  local in_tree in_device
  in_tree=$(grep -rlF "$MARKER" "$TREE" | wc -l)
  in_device=$(grep -caF "$MARKER" "$HOME_DIR/dev/demo" || true)
  ((in_tree > 0 && in_device > 0)) || wrong 'the search does not find what is there'
  if grep -qaF "$MARKER" "$IMAGE"; then wrong 'plaintext is in the image'; fi
  printf '       "%s"\n       in %s files of the tree, found on the open device, nowhere in the image\n' \
    "$MARKER" "$in_tree"
}

# Ends what a demo started besides; each has its own.
clean_up_more() { :; }

begin() {
  trap clean_up EXIT
  mkdir -p "$MOUNT"
  printf 'a recovery passphrase for the demo' >"$PASSPHRASE"
  chmod 600 "$PASSPHRASE"
  printf 'Linux %s, %s processors\n' "$(uname -r)" "$(nproc)"
}

# Stock cryptsetup and dm-crypt on a volume that blkseal had open.
verify_by_cryptsetup() {
  show blkseal recovery add demo --key-file "$PASSPHRASE"
  udevadm settle 2>/dev/null || true
  show blkseal close demo
  show cryptsetup open --key-file "$PASSPHRASE" "$IMAGE" blkseal-demo
  show mount -o ro /dev/mapper/blkseal-demo "$MOUNT"
  verify_tree dm-crypt
  show umount "$MOUNT"
  show cryptsetup close blkseal-demo
}

finish() { printf '\nblkseal demo: everything was as it should be (%d s)\n' "$SECONDS"; }
