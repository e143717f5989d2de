#!/usr/bin/env bash
# Makes the certificates of a federation where they are missing, and changes nothing that is there:
# an authority for TLS and one for enrolment, the coordinator's folder, one that asks for its
# health, and one for each client. It may be stopped at any point and run again.
#
#   operator/tls               the TLS authority
#   trustee/enrolment          the enrolment authority
#   coordinator/credentials    the coordinator's certificate and keys
#   coordinator/health         an auditor's, for health checks
#   sites/ID/credentials       a client's; its private keys are made here and stay here
#
# Environment:
#   PKI         folder of all these, default /pki
#   FEDERATION  its name, default `federation`
#   HOSTS       how clients reach the coordinator, default `coordinator localhost 127.0.0.1`
#   CLIENTS     ids of the clients
#   OWNER       UID:GID to give the finished folders to; default they stay as they are
#   RENEW       1 to issue new certificates to all, for the keys that are there
set -euo pipefail

pki=${PKI:-/pki}
federation=${FEDERATION:-federation}
read -r -a hosts <<<"${HOSTS:-coordinator localhost 127.0.0.1}"
read -r -a clients <<<"${CLIENTS:?ids of the clients, such as \`client-1 client-2 client-3\`}"
renew=${RENEW:-0}
credentials=$pki/coordinator/credentials
umask 077

# Let the owner have a folder, and nobody else.
give() { [ -z "${OWNER:-}" ] || chown -R "$OWNER" "$1"; }

# Put a copy of a file into a folder, whole, unless it is there. Usage: put FILE FOLDER
put() {
  local target=$2/${1##*/}
  ! cmp -s "$1" "$target" || return 0
  cp "$1" "$target.new"
  give "$target.new"
  mv "$target.new" "$target"
}

# Make the keys of a party, and have its certificate issued. Usage: certify FOLDER ID ROLE
certify() {
  local folder=$1 id=$2 role=$3 again=()
  [ -d "$folder" ] || choral pki request "$folder" --id "$id" --role "$role"
  if [ "$renew" = 1 ] || [ ! -e "$folder/certificate.pem" ]; then
    # What was issued and never arrived is issued once more.
    [ ! -e "$pki/operator/tls/issued/$id.pem" ] || again=(--renew)
    choral pki sign "$pki/operator" "$folder/request.json" --role "$role" "${again[@]}" \
      --out "$folder/certificate.pem"
  fi
  put "$credentials/federation.json" "$folder"
}

mkdir -p "$pki/operator" "$pki/trustee" "$pki/coordinator"
[ -d "$pki/operator/tls" ] ||
  choral pki init "$pki/operator" --name "$federation" --only tls
[ -d "$pki/trustee/enrolment" ] ||
  choral pki init "$pki/trustee" --name "$federation" --only enrolment

# federation.json is written last: a folder without it was never finished, and nobody knows its keys.
[ -e "$credentials/federation.json" ] || rm -rf "$credentials"
if [ "$renew" = 1 ] || [ ! -d "$credentials" ]; then
  options=(--enrolment "$pki/trustee/enrolment/authority.pem" --out "$credentials")
  for host in "${hosts[@]}"; do options+=(--name "$host"); done
  [ ! -e "$pki/operator/tls/issued/coordinator.pem" ] || options+=(--renew)
  choral pki coordinator "$pki/operator" "${options[@]}"
fi
put "$pki/operator/tls/revoked.pem" "$credentials"
certify "$pki/coordinator/health" health auditor
give "$pki/coordinator"

for id in "${clients[@]}"; do
  folder=$pki/sites/$id/credentials
  mkdir -p "$pki/sites/$id"
  certify "$folder" "$id" client
  [ -e "$folder/enrolment.json" ] ||
    choral pki enroll "$pki/trustee" "$folder/request.json" --out "$folder/enrolment.json"
  give "$pki/sites/$id"
done
