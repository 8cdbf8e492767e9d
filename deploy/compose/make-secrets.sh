#!/bin/sh
# Passwords for compose.yaml, made once. What is there is kept.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets

password() {
  head -c 24 /dev/urandom | od -An -vtx1 | tr -d ' \n'
}

for name in database-password admin-password; do
  [ -e "secrets/$name" ] || { password && echo; } >"secrets/$name"
done
[ -e secrets/orthanc-users.json ] || printf '{"RegisteredUsers": {"triage": "%s"}}\n' "$(password)" >secrets/orthanc-users.json
# The containers' users read them as mounted; the folder keeps others out.
chmod 644 secrets/*
