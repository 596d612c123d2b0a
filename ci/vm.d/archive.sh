# shellcheck shell=bash
# Debian packages without installing them: apt with a configuration and state of its own, verified by the
# archive's keys as always, unpacked with dpkg -x. Works without root.

# Of which architectures a private apt knows packages, with commas between them.
ARCHITECTURES=amd64

# The suites come from wherever this machine already gets its packages. apt itself lists what it would fetch, so
# that both formats of its sources, mirror lists, proxies and whatever comes next are read by the program they
# are written for.
machine_suites() {
  mkdir -p "$CACHE/apt/none"
  apt-get update --print-uris -o Dir::State::lists="$CACHE/apt/none" 2>/dev/null |
    sed -n "s|^'\(.*\)/dists/\([^']*\)/InRelease'.*|\1 \2|p"
}

# archive_uri debian|debian-security
archive_uri() {
  local uri suite
  while read -r uri suite; do
    # A mirror list, as Debian's cloud images have it, is a file named after the archive.
    if [[ $uri == */"$1" || $uri == */"$1".list ]]; then
      printf '%s\n' "$uri"
      return
    fi
  done < <(machine_suites)
  die "$EX_UNAVAILABLE" "this machine's apt sources name no archive whose address ends in /$1; what is missing comes" \
    "from there. Add the usual Debian line for it (man sources.list), or prepare the cache ($CACHE) elsewhere and copy it."
}

machine_codename() {
  local codename
  # shellcheck source=/dev/null
  codename=$(. /etc/os-release && printf '%s' "${VERSION_CODENAME:-}")
  case $codename in
    bookworm | trixie) printf '%s\n' "$codename" ;;
    *) die "$EX_UNAVAILABLE" "known to work on Debian 12 (bookworm) and 13 (trixie); this is ${codename:-something else}" ;;
  esac
}

# private_apt NAME: the options that keep apt away from the machine's own state. Its settings (proxies above all)
# still count.
private_apt() {
  printf '%s\n' -c "$CACHE/apt/$1/apt.conf"
}

# make_archive NAME KEYRING: writes the private apt's configuration; the lines "ARCHIVE SUITE" come on standard input.
make_archive() {
  local dir=$CACHE/apt/$1 keyring=$2 archive suite uri
  mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/empty"
  : >"$dir/debian.sources"
  while read -r archive suite; do
    uri=$(archive_uri "$archive") || exit
    cat >>"$dir/debian.sources" <<EOF
Types: deb
URIs: $uri
Suites: $suite
Components: main
Architectures: ${ARCHITECTURES//,/ }
Targets: Packages
Signed-By: $keyring

EOF
  done
  # Hooks of the machine's apt would act on the machine, so they go. Nothing here is ever installed.
  cat >"$dir/apt.conf" <<EOF
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Post-Invoke;
#clear DPkg::Pre-Install-Pkgs;
#clear Dir::Cache::pkgcache;
#clear Dir::Cache::srcpkgcache;
Dir::Etc::sourcelist "$dir/debian.sources";
Dir::Etc::sourceparts "$dir/empty";
Dir::Etc::preferences "$dir/empty/none";
Dir::Etc::preferencesparts "$dir/empty";
Dir::State::lists "$dir/lists";
Dir::Cache "$dir";
Dir::Cache::archives "$dir/archives";
APT::Architectures "$ARCHITECTURES";
APT::Sandbox::User "$(id -un)";
APT::Get::Assume-Yes "true";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Debug::NoLocking "true";
EOF
}

# update_archive NAME: fails when the lists cannot be had or a signature is wrong (apt only warns by default).
update_archive() {
  local name=$1 log=$CACHE/apt/$1/update.log
  if ! apt-get -c "$CACHE/apt/$name/apt.conf" -o APT::Update::Error-Mode=any update >"$log" 2>&1; then
    sed 's/^/  /' "$log" | tail -n 20 >&2
    die "$EX_UNAVAILABLE" "cannot get the package lists (above, and in $log)"
  fi
}

# The keys of Debian's archive. A machine from before trixie may lack trixie's: then the keyring package of the
# machine's own release, which its own keys vouch for, brings them. No check is ever switched off.
DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

keyring_for() {
  local codename=$1
  if [[ -e /usr/share/keyrings/debian-archive-$codename-automatic.gpg ]]; then
    printf '%s\n' "$DEBIAN_KEYRING"
    return
  fi
  local dir=$CACHE/keyring
  if [[ ! -e $dir$DEBIAN_KEYRING ]]; then
    download_and_unpack machine "$dir" debian-archive-keyring
  fi
  printf '%s\n' "$dir$DEBIAN_KEYRING"
}

prepare_machine_archive() {
  local codename
  codename=$(machine_codename) || exit
  [[ -e $DEBIAN_KEYRING ]] || die "$EX_UNAVAILABLE" "$DEBIAN_KEYRING is missing: apt-get install debian-archive-keyring"
  make_archive machine "$DEBIAN_KEYRING" <<EOF
debian $codename
debian $codename-updates
debian $codename-backports
debian-security $codename-security
EOF
  update_archive machine
}

# Kernels newer than a release exist only in the backports of Debian 13, on whatever release we are.
prepare_newer_archive() {
  local keyring
  keyring=$(keyring_for trixie) || exit
  make_archive newer "$keyring" <<<"debian trixie-backports"
  update_archive newer
}

# unpack_debs DIRECTORY DEB...: the directory appears whole or not at all.
unpack_debs() {
  local final=$1 temporary=$1.tmp.$$ deb link target
  shift
  remove_leftovers "$final"
  mkdir -p "$temporary"
  for deb in "$@"; do dpkg -x "$deb" "$temporary"; done
  # Links from the root mean the root that they were unpacked into.
  find "$temporary" -type l -lname '/*' | while read -r link; do
    target=$(readlink "$link")
    if [[ -e $temporary$target ]]; then ln -sfn "$final$target" "$link"; fi
  done
  replace_dir "$temporary" "$final"
}

# download_and_unpack ARCHIVE DIRECTORY PACKAGE...: exactly these packages, not what they depend on.
download_and_unpack() {
  local archive=$1 final=$2 dir
  shift 2
  dir=$CACHE/apt/$archive/download.$$
  mkdir -p "$dir"
  if ! (cd "$dir" && apt-get -c "$CACHE/apt/$archive/apt.conf" download "$@") >"$dir/log" 2>&1; then
    tail -n 20 "$dir/log" >&2
    rm -rf "$dir"
    die "$EX_UNAVAILABLE" "cannot download $*"
  fi
  unpack_debs "$final" "$dir"/*.deb
  rm -rf "$dir"
}

# download_missing DIRECTORY [-t SUITE] PACKAGE...: these packages and whatever of their dependencies this machine
# does not have installed.
download_missing() {
  local final=$1 debs=$CACHE/apt/machine/archives
  shift
  rm -f "$debs"/*.deb
  if ! apt-get -c "$CACHE/apt/machine/apt.conf" install --download-only --no-remove "$@" >"$debs/log" 2>&1; then
    tail -n 20 "$debs/log" >&2
    die "$EX_UNAVAILABLE" "cannot download $*"
  fi
  shopt -s nullglob
  unpack_debs "$final" "$debs"/*.deb
  shopt -u nullglob
  rm -f "$debs"/*.deb
}
