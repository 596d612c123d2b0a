# shellcheck shell=bash
# Tries the harness itself: each kernel, each way in which a run can end.

# expect STATUS WHAT OPTIONS...: runs ci/vm with these, and says whether it exits so.
expect() {
  local want=$1 what=$2 status=0 started=$SECONDS
  shift 2
  "$VM_D/../vm" run --kernel "$CURRENT" --timeout 120 "$@" >"$OUTPUT" 2>&1 </dev/null || status=$?
  if ((status == want)); then
    PASSED=$((PASSED + 1))
    printf 'ok    %-4s  %s (%s s)\n' "$CURRENT" "$what" $((SECONDS - started))
  else
    FAILED_TESTS=$((FAILED_TESTS + 1))
    printf 'FAIL  %-4s  %s: exit %s instead of %s\n' "$CURRENT" "$what" "$status" "$want"
    sed 's/^/      /' "$OUTPUT"
  fi
}

# expect_output PATTERN WHAT: about the run before.
expect_output() {
  if grep -q -e "$1" "$OUTPUT"; then
    PASSED=$((PASSED + 1))
    printf 'ok    %-4s  %s\n' "$CURRENT" "$2"
  else
    FAILED_TESTS=$((FAILED_TESTS + 1))
    printf 'FAIL  %-4s  %s: no line with "%s" in\n' "$CURRENT" "$2" "$1"
    sed 's/^/      /' "$OUTPUT"
  fi
}

selftest() {
  local series
  PASSED=0 FAILED_TESTS=0
  OUTPUT=$(mktemp)
  for series in $SERIES_KNOWN; do
    # shellcheck disable=SC2153 # it is the --kernel that was given
    if ((SERIES_GIVEN)) && [[ $SERIES != "$series" ]]; then continue; fi
    CURRENT=$series
    selftest_kernel
  done
  rm -f "$OUTPUT"
  printf '%s passed, %s failed\n' "$PASSED" "$FAILED_TESTS"
  ((FAILED_TESTS == 0))
}

selftest_kernel() {
  expect 0 'devices, secret memory, dm-crypt, file systems, sandboxes' --disk 64M --env SAID='a b' \
    --add "$VM_D/selftest-guest:/tests/selftest-guest" -- /tests/selftest-guest "an argument with 'quotes' and \$signs"
  expect 7 'exit status' -- bash -c 'echo to stdout; echo to stderr >&2; sleep 100 & exit 7'
  expect_output '^to stdout$' 'standard output comes through'
  expect_output '^to stderr$' 'standard error comes through'
  expect 137 'killed by a signal' -- bash -c 'kill -9 $$'
  expect 127 'no such command' -- no-such-command
  expect 124 'time limit' --timeout 3 -- sleep 1000
  expect 125 'kernel panic' -- bash -c 'echo c >/proc/sysrq-trigger; sleep 100'
  expect_output 'Kernel panic' 'the panic is shown'
  expect 125 'guest switched off' -- bash -c 'busybox poweroff -f; sleep 100'
  expect 125 'kernel that cannot boot' --append 'rdinit=/nowhere root=/dev/none' -- true
  expect 64 'wrong usage' --memory lots -- true
}
