# usage: deb.sh build ROOT VERSION OUT     make a Debian package OUT from what `make install DESTDIR=ROOT PREFIX=/usr` left
#        deb.sh check OUT SAMPLE           install it, use it, remove it; needs root. Counts as the other scripts do.
set -eu

# The packages that hold the libraries which the program is linked to, with the least version by their symbols.
depends() {
    mkdir -p "$2/debian"
    printf 'Source: quern\n\nPackage: quern\nArchitecture: any\n' >"$2/debian/control"
    (cd "$2" && dpkg-shlibdeps -O "$1" 2>/dev/null | sed -n 's/^shlibs:Depends=//p')
}

build() {
    root=$1 version=$2 out=$3
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    arch=$(dpkg --print-architecture)
    doc=$root/usr/share/doc/quern
    # The newest commit's time, so that the same source gives the same package.
    date=$(git log -1 --format=%cd --date=rfc2822 2>/dev/null || date -R)
    SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
    export SOURCE_DATE_EPOCH
    printf 'quern (%s) unstable; urgency=medium\n\n  * Release %s.\n\n -- Quern <quern@localhost>  %s\n' \
        "$version" "$version" "$date" | gzip -9n >"$doc/changelog.gz"
    { printf 'Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\n'
      printf 'Copyright: The Quern authors\nLicense: Apache-2.0\n On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.\n'
    } >"$doc/copyright"
    rm -f "$doc/LICENSE"
    gzip -9n "$root"/usr/share/man/man*/*
    strip --strip-unneeded "$root/usr/bin/quern"
    size=$(du -sk "$root/usr" | cut -f1)
    needs=$(depends "$(cd "$root" && pwd -P)/usr/bin/quern" "$work")
    [ -n "$needs" ] || { echo "deb: the libraries' packages are not known" >&2; exit 1; }
    mkdir -p "$root/DEBIAN"
    cat >"$root/DEBIAN/control" <<END
Package: quern
Version: $version
Architecture: $arch
Maintainer: Quern <quern@localhost>
Installed-Size: $size
Depends: $needs
Section: science
Priority: optional
Description: converts and quantizes DeepSeek-V3-class checkpoints
 Reads FP8 and BF16 safetensors of the DeepSeek-V3 family, streams them through
 a few hundred megabytes of memory, and writes block-int4 or FP8 bundles that
 serving engines load, with the derivation of every tensor.
END
    (cd "$root" && find usr -type f | LC_ALL=C sort | xargs md5sum >DEBIAN/md5sums)
    find "$root" -type d -exec chmod 755 {} +
    dpkg-deb --root-owner-group --build "$root" "$out"
}

passed=0 failed=0
expect() {
    what=$1
    shift
    if "$@" >"$log" 2>&1; then passed=$((passed + 1)); else
        failed=$((failed + 1))
        echo "FAILED $what"
        sed 's/^/    /' "$log"
    fi
}

# Nothing of the package's own is there any more.
nothing_left() {
    while read -r path; do
        [ ! -f "$path" ] || { echo "$path is left"; return 1; }
    done <"$list"
    [ ! -e /usr/share/quern ] && [ ! -e /usr/share/doc/quern ]
}

modes_are_right() {
    wrong=$(dpkg-deb -c "$1" | awk '$2 != "root/root" { print }
        /^-/ && $1 != "-rw-r--r--" && $6 != "./usr/bin/quern" { print }
        /^d/ && $1 != "drwxr-xr-x" { print }')
    [ -z "$wrong" ] || { echo "$wrong"; return 1; }
}

check() {
    deb=$1 sample=$2
    log=$(mktemp) list=$(mktemp)
    trap 'rm -f "$log" "$list"' EXIT
    if [ "$(id -u)" != 0 ] || dpkg-query -W quern >/dev/null 2>&1; then
        echo "deb: needs root, and no quern installed"
        echo "0 passed, 0 failed, 1 skipped"
        exit 0
    fi
    expect "owners and modes" modes_are_right "$deb"
    expect "it installs" dpkg -i "$deb"
    dpkg -L quern >"$list"
    expect "it runs" quern --version
    expect "it inspects" quern inspect "$sample"
    expect "files have the sums of the package" dpkg --verify quern
    expect "the manual is there" test -f /usr/share/man/man1/quern.1.gz
    expect "the completion is there" bash -n /usr/share/bash-completion/completions/quern
    expect "it goes" dpkg --purge quern
    expect "it leaves nothing" nothing_left
    echo "$passed passed, $failed failed, 0 skipped"
    [ "$failed" = 0 ]
}

"$@"
