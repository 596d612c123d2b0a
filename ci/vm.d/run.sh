# shellcheck shell=bash
# One run of one guest: put together what it gets, start QEMU, pass its output on, bring its verdict back.

# How long a kernel may take until our init says it is there. Seconds are usual; two cores may run several guests.
BOOT_LIMIT=${BLKSEAL_VM_BOOT_LIMIT:-120}
# Between the guest's own "time is up" and our not waiting any longer.
GRACE=10

# console: QEMU's serial port; printk goes there from the first line, and a panic's last words.
# panic, oops: a guest that is broken must end, not limp on: QEMU then exits (-no-reboot).
# mitigations=off: the guest runs nothing but its owner's tests, and emulated barriers cost much and protect nothing.
# secretmem.enable: memfd_secret(2), also where a kernel has it off by default.
# cryptomgr.notests, tsc=reliable, no_timer_check: self-tests and calibrations that only take time in an emulator.
KERNEL_PARAMETERS='console=ttyS0 quiet panic=-1 oops=panic mitigations=off secretmem.enable=1 cryptomgr.notests
  tsc=reliable no_timer_check apparmor=0 selinux=0 net.ifnames=0'

cleanup() {
  local pid
  for pid in ${QEMU_PID:-} ${HELPERS[@]+"${HELPERS[@]}"}; do kill "$pid" 2>/dev/null || true; done
  if [[ -n ${QEMU_PID:-} ]]; then wait "$QEMU_PID" 2>/dev/null || true; fi
  if [[ -n ${RUN_DIR:-} ]]; then rm -rf "$RUN_DIR"; fi
}

# Sets RUN_DIR: on a disk, not in memory, as disks and archives may be large.
make_run_dir() {
  HELPERS=()
  QEMU_PID=
  trap cleanup EXIT
  trap 'exit 129' HUP
  trap 'exit 130' INT
  trap 'exit 143' TERM
  RUN_DIR=$(mktemp -d "${TMPDIR:-/tmp}/blkseal-vm.XXXXXX")
}

# write_initramfs: the base, and behind it what only this run needs.
write_initramfs() {
  local root=$RUN_DIR/root item
  make_skeleton "$root"
  mkdir -p "$root/.vm"
  printf '%s\0' "${COMMAND[@]}" >"$root/.vm/command"
  : >"$root/.vm/environment"
  if ((${#ENVIRONMENT[@]})); then printf '%s\0' "${ENVIRONMENT[@]}" >"$root/.vm/environment"; fi
  {
    printf 'TIMEOUT=%q\nUDEV=%q\nINTERACTIVE=%q\nONE_STREAM=%q\n' "$TIMEOUT" "$UDEV" "$INTERACTIVE" "$ONE_STREAM"
    if ((INTERACTIVE)); then
      printf 'TERM_OUTSIDE=%q\nROWS=%q\nCOLUMNS=%q\n' "${TERM:-linux}" "$(tput lines 2>/dev/null || echo 24)" \
        "$(tput cols 2>/dev/null || echo 80)"
    fi
  } >"$root/.vm/settings"
  for item in ${ADDED[@]+"${ADDED[@]}"}; do add_host_path "$root" "$item"; done
  { cat "$CACHE/base/$SERIES/initramfs.cpio" && pack "$root"; } >"$RUN_DIR/initramfs"
  rm -rf "$root"
}

# Sets MACHINE to the accelerator and processor.
choose_machine() {
  if ((USE_KVM)); then
    MACHINE=(-accel kvm -cpu host)
  else
    # Without 57-bit addresses: a level of page table less to walk in software.
    MACHINE=(-accel 'tcg,thread=multi' -cpu 'max,la57=off')
  fi
}

add_disks() {
  local size number=0
  DISKS=()
  for size in ${DISK_SIZES[@]+"${DISK_SIZES[@]}"}; do
    truncate -s "$size" "$RUN_DIR/disk$number" 2>/dev/null || die $EX_USAGE "--disk $size: not a size"
    # The data need not outlive the guest, so nothing is flushed to this machine's disk.
    DISKS+=(-drive "if=none,id=disk$number,format=raw,cache=unsafe,discard=unmap,file=$RUN_DIR/disk$number"
      -device "virtio-blk-pci,drive=disk$number,serial=disk$number")
    number=$((number + 1))
  done
}

start_qemu() {
  local -a io
  qemu_command
  choose_machine
  add_disks
  : >"$RUN_DIR/console"
  if ((INTERACTIVE)); then
    # C-a x ends the machine, C-a h tells more.
    io=(-chardev 'stdio,id=terminal,mux=on,signal=off' -mon 'chardev=terminal' -device 'virtconsole,chardev=terminal,nr=0')
  else
    io=(-chardev "file,id=out,path=$RUN_DIR/out" -device 'virtserialport,chardev=out,nr=2,name=out'
      -chardev "file,id=err,path=$RUN_DIR/err" -device 'virtserialport,chardev=err,nr=3,name=err')
  fi
  # setpriv: should this script be killed in a way that it cannot clean up after, QEMU ends too.
  # Standard input has to be named, or a command in the background gets none.
  setpriv --pdeathsig KILL "${QEMU[@]}" -name blkseal-vm -M q35 -nodefaults -no-user-config -no-reboot -display none \
    "${MACHINE[@]}" -smp "$SMP" -m "$MEMORY" -nic none \
    -kernel "$CACHE/kernels/$SERIES/vmlinuz" -initrd "$RUN_DIR/initramfs" \
    -append "${KERNEL_PARAMETERS//$'\n'/} $APPEND" \
    -chardev "file,id=console,path=$RUN_DIR/console" -serial chardev:console \
    -device 'virtio-serial-pci,max_ports=8' -object rng-random,id=rng,filename=/dev/urandom \
    -chardev "file,id=verdict,path=$RUN_DIR/verdict" -device 'virtserialport,chardev=verdict,nr=1,name=verdict' \
    "${io[@]}" "${DISKS[@]}" <&"$STDIN" 2>"$RUN_DIR/qemu.err" {STDIN}<&- &
  QEMU_PID=$!
}

# next_verdict SECONDS: sets VERDICT to the guest's next line, "gone" when QEMU ended, nothing when the time is up.
next_verdict() {
  VERDICT=
  IFS= read -r -t "$1" -u "$VERDICTS" VERDICT || true
}

# run_guest: sets STATUS to what ci/vm shall exit with.
run_guest() {
  local copiers=() started=$SECONDS
  mkfifo "$RUN_DIR/verdict"
  # Read and write: opening must not wait for QEMU, and reading must not end with it.
  exec {VERDICTS}<>"$RUN_DIR/verdict"
  exec {STDIN}<&0
  if ((!INTERACTIVE)); then
    exec {STDIN}</dev/null
    mkfifo "$RUN_DIR/out" "$RUN_DIR/err"
    cat "$RUN_DIR/out" &
    copiers+=($!)
    cat "$RUN_DIR/err" >&2 &
    copiers+=($!)
    HELPERS+=("${copiers[@]}")
  fi
  start_qemu
  { while kill -0 "$QEMU_PID" 2>/dev/null; do sleep 0.2; done; echo gone >"$RUN_DIR/verdict"; } 2>/dev/null &
  HELPERS+=($!)

  next_verdict "$BOOT_LIMIT"
  case $VERDICT in
    ready*) verbose "ready: ${VERDICT#ready } s in the guest, $((SECONDS - started)) s here" ;;
    '')
      guest_died "the kernel did not come up in $BOOT_LIMIT s"
      return
      ;;
    *)
      guest_died 'the guest ended before it was ready'
      return
      ;;
  esac
  if ((INTERACTIVE)); then
    IFS= read -r -u "$VERDICTS" VERDICT
  else
    next_verdict $((TIMEOUT + GRACE))
  fi
  kill "$QEMU_PID" 2>/dev/null || true
  wait "$QEMU_PID" 2>/dev/null || true
  # QEMU has closed its ends: everything that was said is still to be passed on, and then they end.
  if ((${#copiers[@]})); then wait "${copiers[@]}" 2>/dev/null || true; fi
  case $VERDICT in
    exit\ [0-9]*) STATUS=${VERDICT#exit } ;;
    gone) guest_died 'the guest ended without a verdict on its command' ;;
    timeout)
      STATUS=$EX_TIMED_OUT
      failure "the command took longer than $TIMEOUT s"
      ;;
    *)
      STATUS=$EX_TIMED_OUT
      failure "the command took longer than $TIMEOUT s, and the guest did not answer"
      ;;
  esac
}

guest_died() {
  STATUS=$EX_GUEST_DIED
  kill "$QEMU_PID" 2>/dev/null || true
  wait "$QEMU_PID" 2>/dev/null || true
  if [[ -s $RUN_DIR/qemu.err ]]; then sed 's/^/  qemu: /' "$RUN_DIR/qemu.err" | tail -n 10 >&2; fi
  local panic
  panic=$(grep -a -m 1 -o 'Kernel panic.*' "$RUN_DIR/console" | tr -d '\r' || true)
  failure "$1${panic:+ ($panic)}"
}

# failure WHAT: shows the end of what the kernel said.
failure() {
  FAILED=1
  if ((QUIET)); then return; fi
  say "$1; the kernel said last:"
  tail -n 40 "$RUN_DIR/console" | tr -d '\r' | sed 's/^/  /' >&2
}

# Keeps the kernel's log if it may be wanted.
keep_log() {
  local log
  if [[ -n ${LOG:-} ]]; then
    tr -d '\r' <"$RUN_DIR/console" >"$LOG"
    log=$LOG
  elif ((STATUS != 0 && !INTERACTIVE && !QUIET)); then
    log=$CACHE/logs/$(date +%Y%m%d-%H%M%S)-$$.log
    tr -d '\r' <"$RUN_DIR/console" >"$log"
    find "$CACHE/logs" -name '*.log' -mtime +7 -delete 2>/dev/null || true
  fi
  if ((QUIET)); then return; fi
  if ((STATUS != 0 && !INTERACTIVE)); then say "exit $STATUS; the kernel's log: $log"; fi
  if ((!${FAILED:-0})) && grep -a -q -E 'WARNING: |BUG: |blocked for more than' "$RUN_DIR/console"; then
    say 'the kernel complained while the command ran:'
    grep -a -E -A 3 'WARNING: |BUG: |blocked for more than' "$RUN_DIR/console" | tr -d '\r' | head -n 20 | sed 's/^/  /' >&2
  fi
  if ((VERBOSE)); then tr -d '\r' <"$RUN_DIR/console" | sed 's/^/  /' >&2; fi
}

# run_vm: with the options already in their variables.
run_vm() {
  STATUS=$EX_SOFTWARE
  make_run_dir
  ONE_STREAM=0
  # When both end in the same place, one channel keeps their lines in order.
  if [[ $(readlink /proc/$$/fd/1) == "$(readlink /proc/$$/fd/2)" ]]; then ONE_STREAM=1; fi
  write_initramfs
  run_guest
  keep_log
  return "$STATUS"
}
