# shellcheck shell=bash
# /dev/kvm says little: on many rented machines it is there and no guest boots with it. So try once, and remember.

KVM_PROBE_LIMIT=15

# Sets USE_KVM.
choose_accelerator() {
  USE_KVM=0
  if [[ -w /dev/kvm ]]; then choose_kvm; fi
  if ((!USE_KVM)) && [[ ! -e $(clock_file) ]]; then with_lock clock probe_clock; fi
}

choose_kvm() {
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
  if USE_KVM=1 try_boot $KVM_PROBE_LIMIT; then works=yes; fi
  verbose "KVM works: $works"
  printf '%s\n%s\n' "$identity" "$works" >"$answer.tmp.$$"
  mv "$answer.tmp.$$" "$answer"
}

# Any run without KVM finds out about the clock; should this one not, a later one may.
probe_clock() {
  if [[ -e $(clock_file) ]]; then return; fi
  verbose "measuring the processor's clock (once)"
  try_boot 60 || true
  if [[ ! -e $(clock_file) ]]; then echo unknown >"$(clock_file)"; fi
}

# try_boot SECONDS: boots a guest that does nothing. In a shell of its own, as it changes the options of the run it
# stands before.
# shellcheck disable=SC2034,SC2030
try_boot() (
  BOOT_LIMIT=$1 TIMEOUT=5 COMMAND=(true) ADDED=() DISK_SIZES=() ENVIRONMENT=() APPEND='' LOG=''
  QUIET=1 INTERACTIVE=0 VERBOSE=0
  run_vm >/dev/null 2>&1
)
