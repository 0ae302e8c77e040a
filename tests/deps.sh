# usage: deps.sh PACKAGE ...
# Installs the Debian packages that are missing; silent when none is. Elsewhere, says what is needed.
set -eu

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
    for tool in gcc g++ pkg-config mandoc; do
        command -v $tool >/dev/null || lacks="${lacks:-} $tool"
    done
    for library in zlib libcjson openssl oniguruma gtest; do
        pkg-config --exists $library 2>/dev/null || lacks="${lacks:-} $library"
    done
    [ -n "${lacks:-}" ] || exit 0
    echo "deps: missing:$lacks" >&2
    echo "deps: this is not Debian; please install what it calls: $*" >&2
    exit 1
fi

missing=
for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing="$missing $package"
done
[ -n "$missing" ] || exit 0

if [ "$(id -u)" = 0 ]; then
    as_root=
elif command -v sudo >/dev/null; then
    as_root=sudo
else
    echo "deps: missing, and neither root nor sudo to install it: apt-get install$missing" >&2
    exit 1
fi
echo "deps: installing$missing"
$as_root apt-get update -qq
$as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
