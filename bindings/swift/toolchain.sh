#!/bin/bash
# Runs Swift 6 where there is some, and has it where Debian's apt can fetch it.
#
#   bindings/swift/toolchain.sh setup             makes the toolchain, if there is none
#   bindings/swift/toolchain.sh exec COMMAND...   runs a command with it, in the current folder
#   bindings/swift/toolchain.sh remove            deletes the toolchain that setup made
#
# The host's own Swift is used where `swift` is on PATH and of 6.0 or later. Elsewhere the packages of
# Debian 13, whose C library may be too new for this host, are unpacked in a folder, and commands run there
# by chroot, in a mount namespace of their own: nothing is installed, and no mount outlives a command. The
# repository, CARGO_TARGET_DIR, METAL_CANDLE_LIB_DIR and the current folder are seen there under their own
# paths. Ends with 75 where a toolchain cannot be had: no apt, no network, neither root nor user namespaces.
#
#   SWIFT_ROOT     the folder: 1.1 GB                      ($HOME/.cache/metal-candle/swift)
#   SWIFT_MIRROR   where Debian's packages come from       (http://deb.debian.org/debian)
#   SWIFT_BIND     more folders to see there, with ':' between them
set -euo pipefail

repository=$(cd "$(dirname "$0")/../.." && pwd -P)
root=${SWIFT_ROOT:-$HOME/.cache/metal-candle/swift}
mirror=${SWIFT_MIRROR:-http://deb.debian.org/debian}
suite=trixie
keyring=/usr/share/keyrings/debian-archive-keyring.gpg
home=/usr/libexec/swift
# base-files comes first: it carries the links of /bin and /lib that the others rely on. swiftlang does not
# ask for libc6-dev and binutils, though it compiles nothing without them; git is for dependencies by URL; gold,
# the linker that Swift is made for on Linux, does not mind what libswiftObservation of 6.0 misses.
packages=(base-files base-passwd bash dash coreutils findutils grep sed libc-bin tzdata
    swiftlang libc6-dev binutils binutils-gold libstdc++-14-dev git)
# What none of our commands loads: 1.5 GB.
left_out=(usr/share/{doc,man,info,locale,lintian,icons,perl,perl5}
    usr/libexec/gcc 'usr/lib/python3*' 'usr/lib/*/libpython3*' 'usr/lib/*/perl*' 'usr/lib/*/libperl*'
    "${home#/}"/bin/{'lldb*',clangd,sourcekit-lsp}
    "${home#/}"/lib/{'liblldb*','libLTO*',libsourcekitdInProc.so,libswiftGenericMetadataBuilder.so}
    "${home#/}"/lib/swift/{embedded,host/lib_InternalSwiftScan.so} "${home#/}"/lib/swift_static)
# A folder that another version of this script made is made again.
stamp="$suite ${packages[*]} ${left_out[*]}"

namespace=(--mount --propagation private)
[ "$(id -u)" = 0 ] || namespace+=(--user --map-root-user)

lack() { # WHY
    echo "toolchain.sh: there is no Swift toolchain to be had: $*" >&2
    exit 75
}

# The folder of the host's Swift, docc and all.
host_tools() {
    local swift
    swift=$(command -v swift) || return 1
    [ "$(swift --version 2>/dev/null | sed -n 's/.*Swift version \([0-9]*\).*/\1/p')" -ge 6 ] 2>/dev/null || return 1
    if [ "$(uname)" = Darwin ]; then swift=$(xcrun --find docc); fi
    dirname "$(realpath "$swift")"
}

is_there() { [ "$(cat "$root/.made" 2>/dev/null)" = "$stamp" ]; }

in_root() { # COMMAND...
    is_there || { echo "toolchain.sh: no toolchain in $root: run $0 setup" >&2; exit 1; }
    local folder folders=("$repository")
    IFS=: read -ra more <<<"${CARGO_TARGET_DIR:-}:${METAL_CANDLE_LIB_DIR:-}:${SWIFT_BIND:-}"
    for folder in "$(pwd -P)" "${more[@]}"; do
        [ -d "$folder" ] || continue
        folder=$(realpath "$folder")
        case $folder/ in
            "$repository"/*) continue ;;
            # Over these lies the toolchain.
            / | /bin/* | /dev/* | /etc/* | /lib*/* | /proc/* | /sbin/* | /usr/* | /root/) continue ;;
        esac
        folders+=("$folder")
    done
    # shellcheck disable=SC2016
    exec unshare "${namespace[@]}" /bin/bash -euc '
        root=$1 current=$2 path=$3 count=$4
        shift 4
        mount --rbind /proc "$root/proc"
        mount --rbind /dev "$root/dev"
        for folder in "${@:1:count}"; do
            mkdir -p "$root$folder"
            mount --rbind "$folder" "$root$folder"
        done
        shift "$count"
        exec chroot "$root" /usr/bin/env \
            -u LD_PRELOAD -u LD_LIBRARY_PATH -u LIBRARY_PATH -u CPATH -u C_INCLUDE_PATH -u CPLUS_INCLUDE_PATH \
            -u CC -u CXX -u CFLAGS -u LDFLAGS -u SDKROOT -u TOOLCHAINS -u LC_ALL -u XDG_CACHE_HOME -u XDG_CONFIG_HOME \
            HOME=/root USER=root TMPDIR=/tmp LANG=C.UTF-8 PATH="$path" \
            /bin/bash -c "cd \"\$0\" && exec \"\$@\"" "$current" "$@"
    ' toolchain.sh "$root" "$(pwd -P)" "$home/bin:/usr/bin:/bin" "${#folders[@]}" "${folders[@]}" "$@"
}

# An apt that knows this suite only and an empty machine, and of the host's settings no more than its proxy
# and how it takes dates: others would make it drop what it fetched.
configure_apt() { # FOLDER
    local architecture
    architecture=$(dpkg --print-architecture)
    : >"$1/status"
    echo "deb [signed-by=$keyring] $mirror $suite main" >"$1/sources.list"
    {
        apt-config dump | grep -E '^Acquire::(https?::|Check-Valid-Until)' || true
        cat <<APT
Dir::Etc::Parts "/dev/null";
Dir::Etc::Main "/dev/null";
Dir::Etc::SourceList "$1/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
Dir::State::Lists "$1/lists";
Dir::State::Status "$1/status";
Dir::Cache "$1";
Dir::Cache::Archives "$1/debs";
APT::Install-Recommends "false";
APT::Architecture "$architecture";
APT::Architectures { "$architecture"; };
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Languages "none";
Acquire::Retries "3";
APT
    } >"$1/apt.conf"
    export APT_CONFIG=$1/apt.conf DEBIAN_FRONTEND=noninteractive
}

unpack() { # PACKAGE.deb ROOT
    dpkg-deb --fsys-tarfile "$1" |
        tar -x -C "$2" --keep-directory-symlink --no-same-owner "${left_out[@]/#/--exclude=./}"
}

fetch() {
    local tool work package
    for tool in apt-get apt-config dpkg-deb unshare chroot flock; do
        command -v $tool >/dev/null || lack "$tool is missing"
    done
    [ -r "$keyring" ] || lack "Debian's keys are missing (package debian-archive-keyring)"
    unshare "${namespace[@]}" true 2>/dev/null || lack "neither root nor user namespaces are allowed"
    case $root in /?*) ;; *) echo "toolchain.sh: SWIFT_ROOT has to be an absolute path" >&2; exit 2 ;; esac

    mkdir -p "$(dirname "$root")"
    exec 9>"$root.lock"
    flock 9
    # Another one made it meanwhile.
    ! is_there || return 0
    remove
    work=$root.work
    rm -rf "$work"
    trap 'rm -rf "$root.work"' EXIT
    mkdir -p "$work"/{lists/partial,debs/partial,root}
    configure_apt "$work"
    echo "fetching Swift from $mirror ($suite)"
    apt-get -qq update || lack "the package lists of $mirror cannot be fetched"
    apt-get -qq -y --download-only install "${packages[@]}" >"$work/log" 2>&1 ||
        { cat "$work/log" >&2; lack "its packages cannot be fetched"; }

    echo "unpacking"
    unpack "$work"/debs/base-files_*.deb "$work/root"
    for package in "$work"/debs/*.deb; do
        unpack "$package" "$work/root"
    done
    # What the packages' scripts would have done, as far as it is needed.
    cp "$work/root/usr/share/base-passwd/passwd.master" "$work/root/etc/passwd"
    cp "$work/root/usr/share/base-passwd/group.master" "$work/root/etc/group"
    [ -e "$work/root/usr/bin/sh" ] || ln -s dash "$work/root/usr/bin/sh"
    ln -sf clang "$work/root$home/bin/cc"
    ln -sf /usr/share/zoneinfo/Etc/UTC "$work/root/etc/localtime"
    chmod 1777 "$work/root/tmp"
    /sbin/ldconfig -r "$work/root" 2>/dev/null
    echo "$stamp" >"$work/root/.made"
    mv "$work/root" "$root"
}

remove() {
    [ -e "$root" ] || return 0
    [ -e "$root/.made" ] || { echo "toolchain.sh: $root is not of this script" >&2; exit 1; }
    rm -rf --one-file-system "$root"
}

case ${1:-} in
    setup)
        if tools=$(host_tools); then
            echo "Swift is in $tools"
        else
            is_there || fetch
            (in_root swift --version) || lack "it does not run in $root"
        fi
        ;;
    exec)
        shift
        if tools=$(host_tools); then
            export PATH=$tools:$PATH
            exec "$@"
        fi
        in_root "$@"
        ;;
    remove) remove ;;
    *) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2; exit 2 ;;
esac
