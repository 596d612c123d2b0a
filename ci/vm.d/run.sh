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
# cryptomgr.notests: self-tests that only take time in an emulator.
KERNEL_PARAMETERS='console=ttyS0 quiet panic=-1 oops=panic mitigations=off secretmem.enable=1 cryptomgr.notests
  apparmor=0 selinux=0 net.ifnames=0'

# How the kernel begins to say that something in it is wrong.
COMPLAINTS='\] (WARNING|BUG|INFO: task|INFO: rcu)'

cleanup() {
  local pid
  end_qemu
  for pid in ${HELPERS[@]+"${HELPERS[@]}"}; do kill "$pid" 2>/dev/null || true; done
  if [[ -n ${RUN_DIR:-} ]]; then rm -rf "$RUN_DIR"; fi
}

# Nothing in the guest is worth an orderly end, and an orderly end can hang.
end_qemu() {
  if [[ -z ${QEMU_PID:-} ]]; then return; fi
  kill -KILL "$QEMU_PID" 2>/dev/null || true
  wait "$QEMU_PID" 2>/dev/null || true
  QEMU_PID=
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

# write_layers: what only this run needs. Everything else is in the base.
write_layers() {
  local root=$RUN_DIR/settings item
  mkdir -p "$root/.vm"
  printf '%s\0' "${COMMAND[@]}" >"$root/.vm/command"
  : >"$root/.vm/environment"
  if ((${#ENVIRONMENT[@]})); then printf '%s\0' "${ENVIRONMENT[@]}" >"$root/.vm/environment"; fi
  {
    printf 'TIMEOUT=%q\nUDEV=%q\nINTERACTIVE=%q\nONE_STREAM=%q\n' "$TIMEOUT" "$UDEV" "$INTERACTIVE" "$ONE_STREAM"
    if ((INTERACTIVE)); then
      printf 'TERM_OUTSIDE=%q\nWINDOW=%q\n' "${TERM:-linux}" "$(stty size)"
    fi
  } >"$root/.vm/settings"
  { cat "$CACHE/base/$SERIES/initramfs" && pack "$root"; } >"$RUN_DIR/initramfs"
  if ((${#ADDED[@]})); then
    root=$RUN_DIR/added
    make_skeleton "$root"
    for item in "${ADDED[@]}"; do add_host_path "$SERIES" "$root" "$item"; done
    make_image "$root" "$RUN_DIR/added.image"
    rm -rf "$root" "$root.files"
  fi
}

# Sets MACHINE to the accelerator and processor.
choose_machine() {
  if ((USE_KVM)); then
    MACHINE=(-accel kvm -cpu host)
  else
    # Without 57-bit addresses: a level of page table less to walk in software. Without fast string instructions: newer
    # kernels copy with them from and to user memory, and QEMU emulates those byte by byte.
    MACHINE=(-accel 'tcg,thread=multi' -cpu 'max,la57=off,erms=off,fsrm=off,fsrs=off,fzrm=off')
  fi
}

add_disks() {
  local size number=0
  DISKS=()
  for size in ${DISK_SIZES[@]+"${DISK_SIZES[@]}"}; do
    truncate -s "$size" "$RUN_DIR/disk$number" 2>/dev/null || die "$EX_USAGE" "--disk $size: not a size"
    # The data need not outlive the guest, so nothing is flushed to this machine's disk.
    DISKS+=(-drive "if=none,id=disk$number,format=raw,cache=unsafe,discard=unmap,file=$RUN_DIR/disk$number"
      -device "virtio-blk-pci,drive=disk$number,serial=disk$number")
    number=$((number + 1))
  done
  # The layers come last, so that the first disk that was asked for is /dev/vda. The guest knows them by serial.
  add_layer base "$CACHE/base/$SERIES/image"
  if ((${#ADDED[@]})); then add_layer added "$RUN_DIR/added.image"; fi
}

# add_layer NAME FILE: guests may share it; none can write to it.
add_layer() {
  DISKS+=(-drive "if=none,id=$1,format=raw,readonly=on,file.locking=off,file=$2"
    -device "virtio-blk-pci,drive=$1,serial=layer-$1")
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
    -kernel "$CACHE/kernels/$SERIES/kernel" -initrd "$RUN_DIR/initramfs" \
    -append "${KERNEL_PARAMETERS//$'\n'/} $(known_clock) $APPEND" \
    -chardev "file,id=console,path=$RUN_DIR/console" -serial chardev:console \
    -device 'virtio-serial-pci,max_ports=8' -object rng-random,id=rng,filename=/dev/urandom \
    -chardev "file,id=verdict,path=$RUN_DIR/verdict" -device 'virtserialport,chardev=verdict,nr=1,name=verdict' \
    "${io[@]}" "${DISKS[@]}" <&"$STDIN" 2>"$RUN_DIR/qemu.err" {STDIN}<&- &
  QEMU_PID=$!
}

# A child that ended stays visible until somebody waits for it, so its state has to be looked at.
qemu_runs() {
  local stat
  stat=$(<"/proc/$QEMU_PID/stat") && [[ $stat != *') Z '* ]]
}

# Says "gone" when QEMU has ended, or soon after the kernel's last words: neither it nor QEMU always gets to the end.
watch_guest() {
  while qemu_runs; do
    sleep 0.2
    if grep -q -a -E 'Kernel panic - not syncing|reboot: (Power down|Restarting|System halted)' "$RUN_DIR/console"; then
      # A panic says more after that.
      sleep 1
      break
    fi
  done
  echo gone >"$RUN_DIR/verdict"
} 2>/dev/null

# next_verdict SECONDS: sets VERDICT to the guest's next line, "gone" when QEMU ended, nothing when the time is up.
next_verdict() {
  VERDICT=
  IFS= read -r -t "$1" -u "$VERDICTS" VERDICT || true
}

# A guest finds out how fast the processor's clock runs by counting it against an emulated timer. When this machine is
# busy that can go wrong, and then the guest's time runs many times too fast or slow, and its timeouts with it. So
# remember what a guest found in its long, careful second measurement, and tell the next ones.
clock_file() { printf '%s/clock-%s\n' "$CACHE" "$(</proc/sys/kernel/random/boot_id)"; }

learn_clock() {
  local mhz=${1##* } file
  file=$(clock_file)
  if ((USE_KVM)) || [[ ! $mhz =~ ^[0-9]+\.[0-9]{3}$ ]]; then return; fi
  if [[ ! -e $file || $(<"$file") == unknown ]]; then
    rm -f "$CACHE"/clock-*
    printf '%s\n' "${mhz/./}" >"$file.tmp.$$"
    mv "$file.tmp.$$" "$file"
  fi
}

known_clock() {
  local file
  file=$(clock_file)
  if ((USE_KVM)); then return; fi
  if [[ -e $file && $(<"$file") != unknown ]]; then
    printf 'tsc_early_khz=%s\n' "$(<"$file")"
  else
    # An emulated clock is slow to read, but right.
    printf 'clocksource=hpet\n'
  fi
}

# Nobody reads what the command says any more (ci/vm run ... | head): then there is no use in going on.
copy_out() {
  cat "$1" || echo closed >"$RUN_DIR/verdict"
} 2>/dev/null

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
    copy_out "$RUN_DIR/out" &
    copiers+=($!)
    copy_out "$RUN_DIR/err" >&2 &
    copiers+=($!)
    HELPERS+=("${copiers[@]}")
  fi
  start_qemu
  watch_guest &
  HELPERS+=($!)

  next_verdict "$BOOT_LIMIT"
  case $VERDICT in
    ready*)
      verbose "ready: $(cut -d " " -f 2 <<<"$VERDICT") s in the guest, $((SECONDS - started)) s here"
      learn_clock "$VERDICT"
      ;;
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
  end_qemu
  # QEMU has closed its ends: everything that was said is still to be passed on, and then they end.
  if ((${#copiers[@]})); then wait "${copiers[@]}" 2>/dev/null || true; fi
  case $VERDICT in
    exit\ [0-9]*) STATUS=${VERDICT#exit } ;;
    closed) STATUS=$EX_PIPE ;;
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
  end_qemu
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
  if ((!${FAILED:-0})) && grep -a -q -E "$COMPLAINTS" "$RUN_DIR/console"; then
    say 'the kernel complained while the command ran:'
    grep -a -E -A 3 "$COMPLAINTS" "$RUN_DIR/console" | tr -d '\r' | head -n 20 | sed 's/^/  /' >&2
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
  write_layers
  run_guest
  keep_log
  return "$STATUS"
}
