#!/usr/bin/env bash
# Puts a model on a Raspberry Pi over ssh and keeps it running there as a service that watches a folder of pictures.
#
#   ./deploy.sh [--dry-run] HOST PACKAGE
#
#   HOST         as ssh takes it, e.g. pi@raspberrypi.local; that user may use sudo there
#   PACKAGE      my-model.deb, made by `emberfleet convert --to raspberrypi`
#   --dry-run    print every command and run none
#
# Run it again to bring a newer package: every step can be repeated. The installation checks the model's signature
# before the new one takes the place of the old one.
#
# DESTDIR=/some/folder puts everything below that folder: for disk images, and for the test.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "deploy.sh: $1" >&2; exit 2; }

dry_run=
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then usage; exit 0; fi
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi
[ $# -eq 2 ] || { usage >&2; exit 2; }
host=$1 package=$2
here=$(cd "$(dirname "$0")" && pwd)

case $host in -*) fail "HOST is '$host', expected a name such as pi@raspberrypi.local" ;; esac
[ -f "$package" ] || fail "no such file: $package"
case $package in *.deb) ;; *) fail "PACKAGE is '$package', expected a file that ends in .deb" ;; esac

root=${DESTDIR:-}
program=$root/usr/local/lib/emberfleet-watch
pictures=$root/var/lib/emberfleet/pictures
units=$root/etc/systemd/system
parcel=.emberfleet-deploy         # in the home folder on the Pi, removed at the end

run() {
    local word
    printf '+'
    for word in "$@"; do
        case $word in *[!A-Za-z0-9@%+=:,./_-]* | '') printf ' %s' "${word@Q}" ;; *) printf ' %s' "$word" ;; esac
    done
    printf '\n'
    [ -n "$dry_run" ] || "$@"
}
# -t: sudo may ask for a password.
on_pi() { run ssh -t "$host" "$1"; }

echo "1. Bring the files"
on_pi "mkdir -p $parcel"
run scp -q "$package" "$here/watch.py" "$here/emberfleet-watch.service" "$host:$parcel/"
on_pi "mv $parcel/$(printf %q "$(basename "$package")") $parcel/model.deb"

echo "2. The package: the program, the model and a user of its own"
on_pi "sudo apt-get install --yes ./$parcel/model.deb"

echo "3. The service, and the folder it watches"
on_pi "sudo install -d -m 755 $program $units && sudo install -d -m 2775 -g emberfleet $pictures"
on_pi "sudo install -m 644 $parcel/watch.py $program/watch.py"
on_pi "sudo install -m 644 $parcel/emberfleet-watch.service $units/emberfleet-watch.service"
on_pi "sudo systemctl daemon-reload && sudo systemctl enable --quiet emberfleet-watch && sudo systemctl restart emberfleet-watch"
on_pi "rm -r $parcel"
on_pi "sleep 2; systemctl is-active emberfleet-watch || { sudo journalctl --no-pager -n 20 -u emberfleet-watch; exit 1; }"

echo "Done. Put pictures into $pictures on the Pi; follow what the model says with"
echo "  ssh $host journalctl -f -u emberfleet-watch"
