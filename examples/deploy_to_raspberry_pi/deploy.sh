#!/usr/bin/env bash
# Puts a model on a Raspberry Pi over ssh and keeps it running there as a service.
#
#   ./deploy.sh [--dry-run] HOST BUNDLE PUBLIC_KEY WHEEL
#
#   HOST         as ssh takes it, e.g. pi@raspberrypi.local; that user may use sudo there
#   BUNDLE       model.ember, made by `emberfleet convert`
#   PUBLIC_KEY   of whoever signed it: `emberfleet convert` says it
#   WHEEL        emberfleet-*.whl, made by `make wheel`
#   --dry-run    print every command and run none
#
# Run it again to bring a newer bundle or a newer wheel: every step can be repeated. The new bundle is
# checked on the Pi before it takes the place of the old one.
#
# DESTDIR=/some/folder puts everything below that folder: for disk images, and for the test.
set -euo pipefail

usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "$0"; }
fail() { echo "deploy.sh: $1" >&2; exit 2; }

dry_run=
if [ "${1:-}" = --help ] || [ "${1:-}" = -h ]; then usage; exit 0; fi
if [ "${1:-}" = --dry-run ]; then dry_run=1; shift; fi
[ $# -eq 4 ] || { usage >&2; exit 2; }
host=$1 bundle=$2 public_key=$3 wheel=$4
here=$(cd "$(dirname "$0")" && pwd)

case $host in -*) fail "HOST is '$host', expected a name such as pi@raspberrypi.local" ;; esac
for file in "$bundle" "$wheel"; do [ -f "$file" ] || fail "no such file: $file"; done
case $wheel in *.whl) ;; *) fail "WHEEL is '$wheel', expected a file that ends in .whl" ;; esac
# The key is put into a command line on the other machine, so nothing but the letters of a key may be in it.
case $public_key in *[!A-Za-z0-9+/=:_-]* | '') fail "PUBLIC_KEY is '$public_key', which is no key" ;; esac

root=${DESTDIR:-}
program=$root/opt/emberfleet      # the virtual environment and the program; belongs to root
state=$root/var/lib/emberfleet    # the model and the pictures; the service may write pictures only
units=$root/etc/systemd/system
parcel=.emberfleet-deploy         # in the home folder on the Pi, removed at the end
wheel_name=$(basename "$wheel")

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
run scp -q "$bundle" "$wheel" "$here/watch.py" "$here/emberfleet-watch.service" "$host:$parcel/"
on_pi "mv $parcel/$(printf %q "$(basename "$bundle")") $parcel/model.ember.new"

echo "2. A user of its own, without a shell, and the folders"
on_pi "id -u emberfleet >/dev/null 2>&1 || sudo useradd --system --no-create-home --shell /usr/sbin/nologin emberfleet"
on_pi "sudo install -d -m 755 $program $state $units && sudo install -d -m 2775 -g emberfleet $state/pictures"

echo "3. The program, in a virtual environment"
on_pi "python3 -c 'import ensurepip, venv' 2>/dev/null || sudo apt-get install -y python3-venv"
on_pi "[ -x $program/bin/python ] || sudo python3 -m venv $program"
on_pi "sudo $program/bin/python -m pip install --quiet --upgrade $parcel/$wheel_name'[litert,train]'"
on_pi "sudo install -m 644 $parcel/watch.py $program/watch.py"

echo "4. The model: checked first, then put in place"
on_pi "printf '%s\n' $public_key > $parcel/trusted.key"
on_pi "$program/bin/python $program/watch.py --bundle $parcel/model.ember.new --key $parcel/trusted.key --pictures $parcel --once"
on_pi "sudo install -m 644 $parcel/model.ember.new $state/model.ember.new && sudo install -m 644 $parcel/trusted.key $state/"
on_pi "sudo mv $state/model.ember.new $state/model.ember"

echo "5. The service"
on_pi "sudo install -m 644 $parcel/emberfleet-watch.service $units/emberfleet-watch.service"
on_pi "sudo systemctl daemon-reload && sudo systemctl enable --quiet emberfleet-watch && sudo systemctl restart emberfleet-watch"
on_pi "rm -r $parcel"
on_pi "sleep 2; systemctl is-active emberfleet-watch || { sudo journalctl --no-pager -n 20 -u emberfleet-watch; exit 1; }"

echo "Done. Put pictures into $state/pictures on the Pi; follow what the model says with"
echo "  ssh $host journalctl -f -u emberfleet-watch"
