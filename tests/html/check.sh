# usage: check.sh        (by `make check-html`, which sets QUERN, PAGES and OUT)
# The HTML reports as a browser shows them: made-up ones of every kind, and one of the sample. Pictures are left in OUT.
set -eu
cd "$(dirname "$0")/../.."
rm -rf "$OUT"
mkdir -p "$OUT/pages"
"$PAGES" "$OUT/pages"
"$QUERN" quantize -q --recipe int4-fast samples/tiny-v3 "$OUT/cand"
"$QUERN" diff -q --tokens 1024 --html "$OUT/pages/sample.html" samples/tiny-v3 "$OUT/cand" >"$OUT/sample.txt"
chromium=$(command -v chromium || command -v chromium-browser || command -v google-chrome) || {
    echo "check-html: there is no chromium"
    exit 1
}
node tests/html/chrome.mjs "$chromium" "$OUT/pictures" "$OUT"/pages/*.html
echo "pictures: $OUT/pictures"
