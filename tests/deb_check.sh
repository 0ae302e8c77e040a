# usage: deb_check.sh FILE.deb SAMPLE        (by `make check-deb`, as root)
# The package is in order, installs, runs, and leaves nothing behind.
set -u
deb=$(realpath "$1") sample=$2
passed=0 failed=0
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# result NAME PROBLEMS
result() {
    if [ -n "$2" ]; then
        failed=$((failed + 1))
        printf 'FAILED %s\n%s\n' "$1" "$2"
    else
        passed=$((passed + 1))
    fi
}

finish() {
    echo "$passed passed, $failed failed, ${1:-0} skipped"
    [ $failed = 0 ]
    exit
}

# ---- what is in it ----

unpacked=$scratch/unpacked
dpkg-deb --raw-extract "$deb" "$unpacked" || exit
paths=$(dpkg-deb --fsys-tarfile "$deb" | tar -t | sed -n 's|^\./\(.\)|/\1|p')

result "all is root's, and of the usual modes" "$(dpkg-deb --contents "$deb" | awk '
    $2 != "root/root" { print; next }
    $1 == "drwxr-xr-x" { next }
    $6 == "./usr/bin/quern" ? $1 != "-rwxr-xr-x" : $1 != "-rw-r--r--"')"
result "md5sums has every file" "$(cd "$unpacked" &&
    md5sum --quiet -c DEBIAN/md5sums 2>&1
    sed 's/^[^ ]*  //' DEBIAN/md5sums >"$scratch/summed"
    find usr -type f | LC_ALL=C sort | diff "$scratch/summed" -)"
result "manual and changelog are gzipped, without name and time" "$(cd "$unpacked/usr/share" &&
    for file in man/*/* doc/quern/changelog*; do
        [ "$(od -An -N8 -tx1 "$file")" = ' 1f 8b 08 00 00 00 00 00' ] && gzip -t "$file" || echo "  $file"
    done)"
result "copyright and changelog are there" "$(cd "$unpacked/usr/share/doc/quern" &&
    ls copyright changelog.gz 2>&1 >/dev/null
    zcat changelog.gz | head -n 1 | grep -qF "($(dpkg-deb -f "$deb" Version))" || echo "  another version")"
result "the program is stripped" "$(readelf -S "$unpacked/usr/bin/quern" | grep -o '\.debug[a-z_]*\|\.symtab')"
dpkg-deb -f "$deb" Depends | tr ',' '\n' | sed 's/^ *\([^ ]*\).*/\1/' >"$scratch/depends"
result "each library comes from a package it depends on" "$(
    readelf -d "$unpacked/usr/bin/quern" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | while read -r library; do
        dpkg -S "*/$library" 2>/dev/null | sed 's/:.*//' | grep -qxFf "$scratch/depends" || echo "  $library"
    done)"
result "the description has no line past 80 columns" "$(grep '^.\{81\}' "$unpacked/DEBIAN/control" | grep -v '^Depends')"

# ---- installed ----

if [ "$(id -u)" != 0 ]; then
    echo "SKIPPED installing: that takes root"
    finish 1
fi
if dpkg-query -W quern >/dev/null 2>&1; then
    echo "SKIPPED installing: a package quern is installed already"
    finish 1
fi

# One line for each path that is there.
present() {
    printf '%s\n' "$paths" | while read -r path; do
        [ ! -e "$path" ] && [ ! -L "$path" ] || echo "$path"
    done
}
present >"$scratch/before"

# Images for containers leave the manual out.
result "it installs" "$(dpkg --path-include='/usr/share/man/*' --path-include='/usr/share/doc/*' -i "$deb" \
    >"$scratch/log" 2>&1 || cat "$scratch/log")"
result "all of it is there" "$(dpkg --verify quern
    printf '%s\n' "$paths" | while read -r path; do [ -e "$path" ] || echo "  $path"; done)"
version=$(dpkg-query -W -f '${Version}' quern)
result "quern --version" "$(/usr/bin/quern --version 2>&1 | grep -vxF "quern $version")"
result "quern inspect" "$(/usr/bin/quern inspect "$sample" 2>&1 >"$scratch/inspect" || echo "  status $?"
    grep -q 'DeepseekV3ForCausalLM' "$scratch/inspect" || echo "  no architecture")"
result "quern quantize" "$(/usr/bin/quern quantize -q --recipe int4-fast "$sample" "$scratch/out" 2>&1 >/dev/null)"
if command -v man >/dev/null; then
    page=$(MANPATH=/usr/share/man man -w quern 2>&1)
    result "man -w quern" "$([ "$page" = /usr/share/man/man1/quern.1.gz ] || echo "  $page")"
fi
result "bash completes" "$(bash -c '. /usr/share/bash-completion/completions/quern && complete -p quern' 2>&1 >/dev/null)"

# ---- and removed ----

result "it is removed" "$(dpkg --purge quern >"$scratch/log" 2>&1 || cat "$scratch/log")"
present >"$scratch/after"
result "nothing stays behind" "$(diff "$scratch/before" "$scratch/after")"
result "dpkg has forgotten it" "$(dpkg-query -W quern 2>/dev/null)"
finish
