# shellcheck shell=bash
# Key servers (PyKMIP) and the certificates by which they and a host know each other. Sourced.
# Servers take their program from PYKMIP, their certificates from the directory PKI, and keep their files in HOME_DIR.

declare -A SERVERS=() # process ids by port

# certificate DIR NAME EXTENSIONS [NAME OF SIGNER]: a key, and a certificate for it.
certificate() {
  local key=$1/$2.key signer=(-signkey "$1/$2.key")
  openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$key" 2>/dev/null
  chmod 600 "$key"
  if [[ -n ${4:-} ]]; then signer=(-CA "$1/$4.pem" -CAkey "$1/$4.key" -CAcreateserial); fi
  openssl req -new -key "$key" -subj "/CN=$2" |
    openssl x509 -req -days 30 "${signer[@]}" -extfile <(printf '%s\n' "$3") -out "$1/$2.pem" 2>/dev/null
}

# What authenticates key servers and host to each other.
make_certificates() {
  certificate "$1" ca $'basicConstraints=critical,CA:TRUE\nkeyUsage=critical,keyCertSign'
  certificate "$1" server $'subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth' ca
  certificate "$1" host extendedKeyUsage=clientAuth ca
}

# start_server PORT: all of them have the same keys.
start_server() {
  local port=$1
  printf '%s\n' '[server]' hostname=127.0.0.1 "port=$port" "certificate_path=$PKI/server.pem" "key_path=$PKI/server.key" \
    "ca_path=$PKI/ca.pem" auth_suite=TLS1.2 "policy_path=$HOME_DIR/policies" enable_tls_client_auth=True \
    logging_level=WARNING "database_path=$HOME_DIR/keys.db" >"$HOME_DIR/server-$port.conf"
  mkdir -p "$HOME_DIR/policies"
  # It has children of its own, which end with its group.
  setsid "$PYKMIP" -f "$HOME_DIR/server-$port.conf" -l "$HOME_DIR/server-$port.log" >/dev/null 2>&1 </dev/null &
  SERVERS[$port]=$!
  disown # the shell is not to tell of its end
  for _ in $(seq 600); do
    if (: >"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then return; fi
    kill -0 "${SERVERS[$port]}" 2>/dev/null || break
    sleep 0.1
  done
  cat "$HOME_DIR/server-$port.log" >&2
  wrong "the key server at port $port did not start"
}

stop_server() {
  kill -KILL -- "-${SERVERS[$1]}" || true # it may be gone already
  while kill -0 "${SERVERS[$1]}"; do sleep 0.1; done
  unset "SERVERS[$1]"
} 2>/dev/null
