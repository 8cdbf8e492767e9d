#!/bin/sh
# Installs the daemon on a host with systemd, brings it to another version, takes it back, or removes it. Run as root.
#
#   deploy/install.sh dist/worklist_triage-*.whl                  packages come from the index pip is set to
#   deploy/install.sh --wheels wheels dist/worklist_triage-*.whl  offline: every package from this folder
#   deploy/install.sh --rollback                                  the version before, as it was installed
#   deploy/install.sh --uninstall                                 settings, films and database stay
#
# Again: changes nothing that is as it should be. A version has a folder of its own in /opt/triage; `current` is a link
# to the one in use. Neither a site's settings nor its data are touched, and the daemon is neither started nor stopped.
set -eu

HERE=$(cd "$(dirname "$0")" && pwd)
HOME_DIR=/opt/triage
SETTINGS=/etc/triage
LIBRARY=/usr/local/lib
COMMAND=/usr/local/bin/triage
# Of the system: one in somebody's home is of no use to a daemon.
PYTHON=${PYTHON:-/usr/bin/python3}
UNITS="triage.service triage@.service triage-backup.service triage-backup.timer"

fail() {
  echo "install.sh: $*" >&2
  exit 1
}

find_constraints() {
  for file in "$HERE/constraints.txt" "$HERE/../constraints.txt"; do
    [ ! -f "$file" ] || { echo "$file"; return; }
  done
  fail "constraints.txt is missing: it names the versions that were tested together"
}

make_user() {
  install -D -m 644 "$HERE/systemd/sysusers.conf" "$LIBRARY/sysusers.d/triage.conf"
  systemd-sysusers "$LIBRARY/sysusers.d/triage.conf"
  install -D -m 644 "$HERE/systemd/tmpfiles.conf" "$LIBRARY/tmpfiles.d/triage.conf"
  systemd-tmpfiles --create "$LIBRARY/tmpfiles.d/triage.conf"
}

# By way of env: setpriv itself still has root's rights when it looks for what it is to start.
as_daemon() {
  setpriv --reuid triage --regid triage --clear-groups env "$@"
}

need_python() {
  interpreter=$(command -v "$PYTHON") || fail "$PYTHON is missing"
  as_daemon "$interpreter" -c 'import ssl, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null ||
    fail "$interpreter: Python 3.11 or newer is needed, in a folder that the user triage may enter (not in a home folder)"
  "$interpreter" -c 'import ensurepip, venv' 2>/dev/null || fail "$interpreter has no venv: apt-get install python3-venv"
}

# A folder is in use only once it is complete: what was broken off is made anew.
make_version() {
  wheel=$1 wheels=$2
  version=$(basename "$wheel" | cut -d- -f2)-$(sha256sum "$wheel" | cut -c1-8)
  if [ ! -e "$HOME_DIR/$version/.complete" ]; then
    rm -rf "${HOME_DIR:?}/$version"
    "$interpreter" -m venv "$HOME_DIR/$version"
    # As for `make setup`: TORCH="torch==2.13.0 --index-url URL" has another build of torch than the index's.
    # shellcheck disable=SC2086
    [ -z "${TORCH:-}" ] || "$HOME_DIR/$version/bin/pip" install --quiet --no-cache-dir $TORCH
    set -- --quiet --disable-pip-version-check --no-cache-dir --constraint "$(find_constraints)"
    [ -z "$wheels" ] || set -- "$@" --no-index --find-links "$wheels"
    "$HOME_DIR/$version/bin/pip" install "$@" "$wheel"
    "$HOME_DIR/$version/bin/python" -m compileall -q -x torch/testing "$HOME_DIR/$version/lib"
    mkdir -p "$HOME_DIR/$version/share/triage"
    cp -R "$HERE" "$HOME_DIR/$version/share/triage/deploy"
    chmod -R u=rwX,go=rX "$HOME_DIR/$version"
    as_daemon "$HOME_DIR/$version/bin/triage" --help >/dev/null || fail "what was installed does not run: see above"
    touch "$HOME_DIR/$version/.complete"
  fi
  use_version "$version"
}

use_version() {
  old=$(readlink "$HOME_DIR/current" || true)
  [ "$old" != "$1" ] || return 0
  [ -z "$old" ] || point previous "$old"
  point current "$1"
  echo "in use: $HOME_DIR/$1${old:+ (before: $old)}"
}

# By a rename: there is no moment without a version.
point() {
  ln -sfn "$2" "$HOME_DIR/.$1"
  mv -T "$HOME_DIR/.$1" "$HOME_DIR/$1"
}

place_settings() {
  for file in triage.toml triage.env; do
    [ -e "$SETTINGS/$file" ] || install -m 640 -g triage "$HERE/systemd/$file" "$SETTINGS/$file"
  done
}

place_units() {
  for unit in $UNITS; do
    install -D -m 644 "$HERE/systemd/$unit" "$LIBRARY/systemd/system/$unit"
  done
  install -D -m 755 "$HERE/systemd/triage" "$COMMAND"
  reload_units
}

reload_units() {
  [ ! -d /run/systemd/system ] || systemctl daemon-reload
}

say_next() {
  cat <<EOF
installed: $(readlink -f "$HOME_DIR/current")
next:      settings in $SETTINGS/triage.toml (secrets in triage.env), then
             systemctl enable --now triage triage-backup.timer
           another version takes effect with: systemctl restart triage
           $HOME_DIR/current/share/triage/deploy/RUNBOOK.md says what to do when
EOF
}

install_wheel() {
  [ -f "$1" ] || fail "no wheel: $1"
  make_user
  need_python
  make_version "$1" "$2"
  place_settings
  place_units
  say_next
}

roll_back() {
  before=$(readlink "$HOME_DIR/previous") || fail "there is no version before this one"
  use_version "$before"
  HERE=$(readlink -f "$HOME_DIR/current")/share/triage/deploy
  place_units
  echo "now: systemctl restart triage; a database that was upgraded meanwhile must be restored first, see the runbook"
}

uninstall() {
  for unit in $UNITS; do
    [ ! -d /run/systemd/system ] || systemctl disable --now --quiet "$unit" 2>/dev/null || true
    rm -f "$LIBRARY/systemd/system/$unit"
  done
  [ ! -d /run/systemd/system ] || systemctl stop --quiet 'triage@*.service' || true
  rm -f "$COMMAND" "$LIBRARY/sysusers.d/triage.conf" "$LIBRARY/tmpfiles.d/triage.conf"
  rm -rf "${HOME_DIR:?}"
  reload_units
  echo "removed; kept: $SETTINGS, /var/lib/triage, /var/backups/triage and the user triage, who owns them"
}

main() {
  [ "$(id -u)" = 0 ] || fail "run it as root"
  wheels=''
  case "${1:-}" in
    --rollback) roll_back ;;
    --uninstall) uninstall ;;
    --wheels)
      [ $# = 3 ] || fail "--wheels FOLDER WHEEL"
      [ -d "$2" ] || fail "no folder: $2"
      install_wheel "$3" "$2"
      ;;
    '' | -*) sed -n '2,10s/^# \{0,1\}//p' "$0" && exit 1 ;;
    *) install_wheel "$1" "$wheels" ;;
  esac
}

main "$@"
