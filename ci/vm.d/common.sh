# shellcheck shell=bash
# What every part of ci/vm shares: messages, exit codes, the cache and its locks.
# shellcheck disable=SC2034 # the other parts use them

# As sysexits(3) has them, so that a caller can tell "you asked wrongly" and "this machine lacks something"
# from what the command in the guest said.
EX_USAGE=64
EX_UNAVAILABLE=69
EX_SOFTWARE=70
# As timeout(1) and git-bisect(1) use them: the time limit passed; the guest said nothing about its command.
EX_TIMED_OUT=124
EX_GUEST_DIED=125
# As if SIGPIPE had ended us.
EX_PIPE=141

VERBOSE=${VERBOSE:-0}

say() { printf 'ci/vm: %s\n' "$*" >&2; }
verbose() { if ((VERBOSE)); then say "$@"; fi; }
die() {
  local code=$1
  shift
  say "$@"
  exit "$code"
}

CACHE=${BLKSEAL_CACHE:-${XDG_CACHE_HOME:-${HOME:?HOME is not set: set it, or BLKSEAL_CACHE}/.cache}/blkseal}/vm

open_cache() {
  mkdir -p "$CACHE/locks" "$CACHE/logs" 2>/dev/null ||
    die "$EX_UNAVAILABLE" "cannot write to $CACHE: set BLKSEAL_CACHE to a directory that can be written"
  CACHE=$(cd "$CACHE" && pwd)
}

# with_lock NAME COMMAND...: one process at a time prepares a thing; the others wait and then find it done.
# The lock is the open file, so it ends with its holder however that dies. Call it as a plain command: behind || or in
# an if, bash would go on after errors in there.
with_lock() {
  local name=$1
  shift
  (
    flock 9
    "$@" 9>&-
  ) 9>"$CACHE/locks/$name"
}

# replace_dir NEW FINAL: puts a finished directory where readers look for it, whole or not at all.
replace_dir() {
  local old="$2.old.$$"
  if [[ -e $2 ]]; then mv "$2" "$old"; fi
  mv "$1" "$2"
  rm -rf "$old"
}

# Leftovers of preparations that were killed. Only called with the lock of that name held.
remove_leftovers() { rm -rf "$1".tmp.* "$1".old.*; }

need_x86_64() {
  [[ $(uname -m) == x86_64 ]] ||
    die "$EX_UNAVAILABLE" "the guest runs this machine's programs under an amd64 kernel, and this machine is $(uname -m)"
}
