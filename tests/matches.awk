# usage: awk -v expected=FILE -v actual=FILE -f matches.awk
# Whether one text is as expected. In what is expected, a line "~ REGEX" is a pattern for the whole line, and a line
# "..." stands for any number of lines.
function same(want, have) { return want ~ /^~ / ? have ~ ("^(" substr(want, 3) ")$") : want == have }
function from(i, j) {
    if (i > wants) return j > haves
    if (want[i] == "...") {
        for (; j <= haves + 1; j++) if (from(i + 1, j)) return 1
        return 0
    }
    return j <= haves && same(want[i], have[j]) && from(i + 1, j + 1)
}
BEGIN {
    while ((getline line < expected) > 0) want[++wants] = line
    while ((getline line < actual) > 0) have[++haves] = line
    exit !from(1, 1)
}
