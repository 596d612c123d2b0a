# shellcheck shell=bash
# /dev/kvm says little: on many rented machines it is there and no guest boots with it. So try once, and remember.

KVM_PROBE_LIMIT=15

# Sets USE_KVM.
choose_accelerator() {
  USE_KVM=0
  [[ -w /dev/kvm ]] || return 0
  local answer=$CACHE/kvm/$SERIES identity
  identity=$(uname -rv && cat "$CACHE/kernels/$SERIES/version")
  mkdir -p "$CACHE/kvm"
  if [[ ! -e $answer || $(head -n -1 "$answer") != "$identity" ]]; then
    with_lock kvm probe_kvm "$answer" "$identity"
  fi
  if [[ $(tail -n 1 "$answer") == yes ]]; then USE_KVM=1; fi
}

probe_kvm() {
  local answer=$1 identity=$2 works=no
  verbose 'trying whether a guest boots with KVM (once)'
  if kvm_boots; then works=yes; fi
  verbose "KVM works: $works"
  printf '%s\n%s\n' "$identity" "$works" >"$answer.tmp.$$"
  mv "$answer.tmp.$$" "$answer"
}

# In a shell of its own, as it changes the options of the run it stands before.
# shellcheck disable=SC2034,SC2030
kvm_boots() (
  USE_KVM=1 BOOT_LIMIT=$KVM_PROBE_LIMIT TIMEOUT=5 COMMAND=(true) ADDED=() DISK_SIZES=() ENVIRONMENT=() APPEND='' QUIET=1 LOG=''
  INTERACTIVE=0 VERBOSE=0
  run_vm >/dev/null 2>&1
)
