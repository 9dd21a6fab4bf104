# Fresh Debian machines in folders, for scripts that source this: fresh-machine, try-deb.
# shellcheck shell=bash

# debian_mirror: the one that this machine takes its Debian packages from.
debian_mirror() {
    # shellcheck disable=SC2016  # apt expands these
    apt-get indextargets --format '$(COMPONENT)|$(LABEL)|$(REPO_URI)' 'Created-By: Packages' |
        awk -F'|' '$1 == "main" && $2 == "Debian" && !uri { uri = $3 } END { print uri }'
}

# make_machine SUITE FOLDER PACKAGES: Debian's base and these, and this machine's way to the package registries.
make_machine() {
    local suite=$1 machine=$2 packages=$3 mirror
    [[ $EUID == 0 ]] || fail "not root: debootstrap and mounts need it"
    command -v debootstrap >/dev/null || fail "no debootstrap: apt-get install debootstrap"
    mirror=$(debian_mirror)
    [[ -n $mirror ]] || fail "this machine's apt sources name no Debian mirror (is apt-get update due?)"
    printf '%s: making a Debian %s in %s\n' "${0##*/}" "$suite" "$machine" >&2
    mkdir -p "$machine"
    chmod 755 "$machine"   # its root folder: users other than root must get in
    debootstrap --variant=minbase --include="$packages" "$suite" "$machine" "$mirror" >"$machine.log" 2>&1 ||
        fail "debootstrap failed: $(tail -n 1 "$machine.log") ($machine.log)"
    rm -f "$machine.log"

    cp /etc/resolv.conf /etc/hosts "$machine/etc/"
    mkdir -p "$machine/usr/local/share/ca-certificates" "$machine/root/.config/pip"
    cp -r /usr/local/share/ca-certificates/. "$machine/usr/local/share/ca-certificates/"
    chroot "$machine" update-ca-certificates >/dev/null 2>&1
    grep -lE '^[[:space:]]*Acquire::' /etc/apt/apt.conf.d/* 2>/dev/null | xargs -r cp -t "$machine/etc/apt/apt.conf.d/"
    [[ ! -e /etc/pip.conf ]] || cp /etc/pip.conf "$machine/etc/"
    [[ ! -e ~/.config/pip/pip.conf ]] || cp ~/.config/pip/pip.conf "$machine/root/.config/pip/"
}
