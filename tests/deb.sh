# usage: VERSION=0.1.0 deb.sh WORK OUT        (by `make deb`, which has installed into WORK/debian/quern)
# Makes the package OUT. Everything that is Debian's is written here, under WORK. The same commit and
# compiler give the same bytes: the only date is the commit's, or SOURCE_DATE_EPOCH.
set -eu
umask 022
work=$1 out=$2
root=$work/debian/quern
doc=$root/usr/share/doc/quern
architecture=$(dpkg --print-architecture)
maintainer="${DEBFULLNAME:-Quern maintainers} <${DEBEMAIL:-maintainers@quern.invalid}>"
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || stat -c %Y Makefile)}
export SOURCE_DATE_EPOCH

strip --strip-unneeded --remove-section=.comment --remove-section=.note "$root/usr/bin/quern"

cat >"$doc/copyright" <<END
Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: Quern

Files: *
Copyright: the authors of Quern
License: Apache-2.0
 On Debian systems, the text of this license is in
 /usr/share/common-licenses/Apache-2.0.
END
rm "$doc/LICENSE" # the same text

cat >"$doc/changelog" <<END
quern ($VERSION) unstable; urgency=medium

  * Version $VERSION; the history of the source says what changed.

 -- $maintainer  $(date -u -R -d "@$SOURCE_DATE_EPOCH")
END
gzip -9n "$doc/changelog" "$root"/usr/share/man/man*/*

# dpkg-shlibdeps reads a source package's control file, and asks no more of it than names.
mkdir -p "$root/DEBIAN"
printf 'Source: quern\n\nPackage: quern\nArchitecture: any\n' >"$work/debian/control"
depends=$(cd "$work" && dpkg-shlibdeps -O debian/quern/usr/bin/quern | sed -n 's/^shlibs:Depends=//p')
[ -n "$depends" ]

(cd "$root" && find usr -type f | LC_ALL=C sort | xargs md5sum) >"$root/DEBIAN/md5sums"
cat >"$root/DEBIAN/control" <<END
Package: quern
Version: $VERSION
Architecture: $architecture
Maintainer: $maintainer
Installed-Size: $(find "$root/usr" -type f -printf '%s\n' | awk '{ kib += int(($1 + 1023) / 1024) } END { print kib }')
Depends: $depends
Section: science
Priority: optional
Description: conversion and quantization of DeepSeek-V3-class checkpoints
 Quern reads FP8 or BF16 safetensors checkpoints of the DeepSeek-V3 family,
 streams them through a few hundred megabytes of memory, and writes block-int4
 or FP8 bundles in the formats that vLLM and SGLang load. The same input and
 recipe give the same bytes on any CPU, with any number of threads.
END
find "$root" -type d -exec chmod 755 {} +

dpkg-deb --root-owner-group --build "$root" "$out" >/dev/null
echo "$out"
