"""Reads llama.cpp's importance matrices by their layouts, and says whether both forms say the same.

usage: imatrix.py QUERN

The .gguf form as gguf.h lays files out and tools/imatrix writes them: per tensor NAME.in_sum2 and NAME.counts. The .dat
form as older llama.cpp wrote and all read it: means times calls. Only main knows Quern, which makes the files.
"""

import os
import struct
import subprocess
import sys
import tempfile


class Reader:
    def __init__(self, path):
        self.data = open(path, "rb").read()
        self.at = 0

    def take(self, form):
        size = struct.calcsize("<" + form)
        values = struct.unpack_from("<" + form, self.data, self.at)
        self.at += size
        return values[0] if len(values) == 1 else values

    def text(self, form):
        size = self.take(form)
        self.at += size
        return self.data[self.at - size : self.at].decode()


def value_of(r, kind):
    if kind == 8:
        return r.text("Q")
    if kind == 9:
        inner, count = r.take("IQ")
        return [value_of(r, inner) for _ in range(count)]
    return r.take({0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}[kind])


def read_gguf(path):
    r = Reader(path)
    assert r.data[:4] == b"GGUF"
    r.at = 4
    version, tensors, keys = r.take("IQQ")
    assert version == 3
    meta = {}
    for _ in range(keys):
        key = r.text("Q")
        meta[key] = value_of(r, r.take("I"))
    infos = []
    for _ in range(tensors):
        name = r.text("Q")
        assert len(name) < 64, name
        dims = [r.take("Q") for _ in range(r.take("I"))]
        infos.append((name, dims, *r.take("IQ")))
    start = -(-r.at // 32) * 32
    values, expected = {}, 0
    for name, dims, kind, offset in infos:
        count = dims[0] * dims[1]
        assert kind == 0 and offset == expected, name
        values[name] = (dims, struct.unpack_from("<%df" % count, r.data, start + offset))
        expected += -(-count * 4 // 32) * 32
    assert start + expected == len(r.data)
    return meta, values


def read_dat(path):
    r = Reader(path)
    entries = {}
    for _ in range(r.take("i")):
        name = r.text("i")
        calls, count = r.take("ii")
        entries[name] = (calls, struct.unpack_from("<%df" % count, r.data, r.at))
        r.at += 4 * count
    last, text = r.take("i"), r.text("i")
    assert r.at == len(r.data)
    return entries, last, text


def compare(gguf, dat):
    meta, values = read_gguf(gguf)
    entries, last, text = read_dat(dat)
    assert meta["general.type"] == "imatrix" and meta["imatrix.datasets"] == [text], meta
    assert meta["imatrix.chunk_count"] == last, (meta, last)
    names = sorted(n[: -len(".in_sum2")] for n in values if n.endswith(".in_sum2"))
    assert names == sorted(entries) and len(values) == 2 * len(names)
    worst = 0.0
    for name in names:
        (cols, n), sums = values[name + ".in_sum2"]
        shape, counts = values[name + ".counts"]
        calls, means = entries[name]
        assert shape == [1, n] and len(means) == cols * n and calls == last, name
        for i, mean in enumerate(means):
            seen = counts[i // cols]
            want = sums[i] / seen if seen > 0 else 1.0
            worst = max(worst, abs(mean / calls - want) / want if want else abs(mean))
    assert worst < 1e-6, worst
    print("imatrix: %d tensors of %d chunks, both forms say the same" % (len(names), last))


def main():
    root = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    with tempfile.TemporaryDirectory() as folder:
        stats, gguf, dat = (os.path.join(folder, n) for n in ("stats", "im.gguf", "im.dat"))
        text = ["--text", root + "/samples/text/calibration.txt", "--tokens", "512", "--context", "128"]
        run = [sys.argv[1], "calibrate", "-q"]
        out = subprocess.DEVNULL
        subprocess.check_call(run + [root + "/samples/tiny-v3", *text, "-o", stats, "--imatrix", gguf], stdout=out)
        subprocess.check_call(run + ["--merge", stats, "--imatrix", dat], stdout=out)
        compare(gguf, dat)


main()
