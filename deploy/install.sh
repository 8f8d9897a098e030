#!/bin/sh
# Installs xray-batch as a systemd service, and upgrades it; README, "Run as a service".  Run it again as often as you
# like: what is as it should be stays as it is.  The configuration, films and results are never written over or removed.
set -eu
umask 022 # the service's user must be able to read the program, however careful root is otherwise

usage() {
    cat <<'USAGE'
Usage: deploy/install.sh [OPTION]...

  --uninstall       remove the service and the program; the configuration, films and results stay
  --no-start        do not start the service, nor have it started at boot
  --web, --no-web   install, enable and start the worklist page too, or remove it; without either what is there stays
  --gpu, --no-gpu   open the NVIDIA devices to the service, or not; without either they are opened where there are any,
                    and stay open
  --python PROGRAM  Python 3.11 or newer for the service (default: python3)
  --wheel FILE      install this wheel of xray-batch instead of the folder of this script
  --no-package      leave the Python packages as they are
  --root DIR        install into another root folder, of an image for instance; nothing is started there
  --help            print this
USAGE
}

source=$(cd "$(dirname "$0")/.." && pwd)
root='' uninstall=no start=yes gpu=auto web=auto python=python3 package=$source

while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) uninstall=yes ;;
        --no-start) start=no ;;
        --gpu) gpu=yes ;;
        --no-gpu) gpu=no ;;
        --web) web=yes ;;
        --no-web) web=no ;;
        --no-package) package='' ;;
        --python | --wheel | --root)
            [ $# -ge 2 ] || { echo "$1 needs a value" >&2; exit 2; }
            case $1 in
                --python) python=$2 ;;
                --wheel) package=$2 ;;
                --root) root=${2%/} ;;
            esac
            shift
            ;;
        --help) usage; exit 0 ;;
        *) echo "unknown option $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done

case $root in
    '' | /*) ;;
    *) root=$PWD/$root ;;
esac
unit=xray-batch.service
web_unit=xray-batch-web.service
units=$root/etc/systemd/system
program=$root/opt/xray-batch
configuration=$root/etc/xray-batch/xray-batch.toml

# Where the page is installed, an upgrade upgrades it too.
if [ "$web" = auto ]; then
    if [ -e "$units/$web_unit" ]; then web=yes; else web=no; fi
fi

say() { echo "xray-batch: $*"; }
fail() { say "$@" >&2; exit 1; }

# Whether there is a systemd that can start something.
systemd_runs() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# The files that go elsewhere as they are, and where to: one list, for installing and uninstalling.
system_files() {
    echo "deploy/$unit $units/$unit"
    echo "deploy/sysusers.d/xray-batch.conf $root/etc/sysusers.d/xray-batch.conf"
    echo "deploy/tmpfiles.d/xray-batch.conf $root/etc/tmpfiles.d/xray-batch.conf"
    echo "deploy/sysctl.d/60-xray-batch.conf $root/etc/sysctl.d/60-xray-batch.conf"
    echo "README.md $program/README.md"
}

# put FILE TARGET: install a file, unless it is there as it should be.
put() {
    if cmp -s "$source/$1" "$2" && [ "$(stat -c %a "$2")" = 644 ]; then return; fi
    install -D -m 644 "$source/$1" "$2"
    say "installed ${2#"$root"}"
}

# drop TARGET: remove a file that `put` installed.
drop() {
    [ -e "$1" ] || return 0
    rm "$1"
    say "removed ${1#"$root"}"
}

install_files() {
    system_files | while read -r file target; do put "$file" "$target"; done
    # What stands there is the operator's.
    [ -e "$configuration" ] || put deploy/xray-batch.toml "$configuration"
    if [ "$gpu" = auto ] && [ -z "$root" ] && [ -e /dev/nvidiactl ]; then gpu=yes; fi
    if [ "$web" = yes ]; then put "deploy/$web_unit" "$units/$web_unit"; fi
    case $gpu in
        yes) put deploy/xray-batch-gpu.conf "$units/$unit.d/gpu.conf" ;;
        no) drop "$units/$unit.d/gpu.conf" ;;
    esac
}

# Python is isolated (-I): nothing in the folder from which root calls this script, or in PYTHONPATH, is run or built upon.
install_package() {
    [ -n "$package" ] || return 0
    # One without pip is what Debian's Python leaves where the package python3-venv is missing.
    if ! "$program/venv/bin/python" -I -m pip --version >/dev/null 2>&1; then
        "$python" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' || fail "needs Python 3.11 or newer"
        case $("$python" -I -c 'import sys; print(sys.base_prefix)') in
            /home/* | /root/*) fail "$python is in a home folder, which the service cannot see; name another by --python" ;;
        esac
        "$python" -I -m venv --clear "$program/venv"
    fi
    [ "$web" = no ] || package="${package}[web]"
    "$program/venv/bin/python" -I -m pip install --quiet --upgrade "$package"
}

# Make the user, the folders and the limits now, as the next boot would.
apply() {
    systemd-sysusers ${root:+"--root=$root"} xray-batch.conf
    systemd-tmpfiles ${root:+"--root=$root"} --create xray-batch.conf
    [ -n "$root" ] || sysctl --quiet --load=/etc/sysctl.d/60-xray-batch.conf ||
        say "the limits of inotify cannot be set here; with less of them nothing is lost" >&2
}

# Stop and forget the page; its drop-ins are the operator's.
remove_web() {
    [ -e "$units/$web_unit" ] || return 0
    if systemd_runs && systemctl --quiet is-active "$web_unit"; then systemctl stop "$web_unit"; fi
    systemctl ${root:+"--root=$root"} --quiet disable "$web_unit"
    drop "$units/$web_unit"
}

install_all() {
    # The program must not change below a service that runs.
    for each in "$web_unit" "$unit"; do
        if systemd_runs && systemctl --quiet is-active "$each"; then
            systemctl stop "$each"
            trap 'say "interrupted; the service is stopped" >&2' EXIT
        fi
    done
    install_files
    [ "$web" = yes ] || remove_web
    install_package
    apply
    if systemd_runs; then systemctl daemon-reload; fi
    trap - EXIT
    if [ "$start" = no ]; then
        say "installed, not started"
        return
    fi
    start_at_boot "$unit" "the service" xray-batch
    [ "$web" = no ] || start_at_boot "$web_unit" "the worklist page" xray-batch-web
}

# start_at_boot UNIT WHAT LOG: enable a unit, and start it where there is a systemd.
start_at_boot() {
    systemctl ${root:+"--root=$root"} --quiet enable "$1"
    if systemd_runs; then
        systemctl start "$1" || fail "$2 does not start; journalctl -u $3 says why"
        say "$2 runs; journalctl -u $3 shows its log"
    else
        say "installed; the next boot starts $2"
    fi
}

uninstall_all() {
    remove_web
    if systemd_runs && systemctl --quiet is-active "$unit"; then systemctl stop "$unit"; fi
    if [ -e "$units/$unit" ]; then systemctl ${root:+"--root=$root"} --quiet disable "$unit"; fi
    system_files | while read -r _ target; do drop "$target"; done
    drop "$units/$unit.d/gpu.conf"
    if [ -d "$program/venv" ]; then
        rm -r "$program/venv"
        say "removed ${program#"$root"}/venv"
    fi
    for folder in "$program" "$units/$unit.d" "$units/$web_unit.d"; do
        if [ -d "$folder" ]; then rmdir --ignore-fail-on-non-empty "$folder"; fi
    done
    if systemd_runs; then systemctl daemon-reload; fi
    say "left as they are: films and results in /var/lib/xray-batch, /etc/xray-batch, the user xray"
}

[ -n "$root" ] || [ "$(id -u)" -eq 0 ] || fail "run this with sudo"
command -v systemd-sysusers >/dev/null || fail "needs systemd"
if [ "$uninstall" = yes ]; then uninstall_all; else install_all; fi
