"""Writes tests/fixtures/golden/: what the sample's conversions must hold, computed without Quern.

    python3 tests/oracle/make_golden.py        (Debian's python3-torch and python3-numpy)

Float values come from ckpt.py's reader and torch's roundings. The quantizers below follow the published rules of the
formats (DeepSeek's block FP8, compressed-tensors' pack-quantized) in float32, one numpy operation a rounding; none of
it was written from Quern's sources. golden_test.c names the recipe behind each case.
"""
import hashlib
import os
import sys

import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(ROOT, 'samples/training')]
import ckpt  # noqa: E402
import dsv3  # noqa: E402

F = np.float32
MATRICES = [  # whole blocks; a single block row; a ragged edge block; several blocks both ways
    'model.layers.1.mlp.experts.0.gate_proj',
    'model.layers.3.mlp.experts.15.down_proj',
    'model.layers.0.self_attn.kv_a_proj_with_mqa',
    'model.layers.0.mlp.down_proj',
    'model.layers.2.self_attn.q_b_proj',
]
SEARCHED = MATRICES[:3]


def sha(array):
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


def bf16_bits(x):
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16)


def bf16(x):
    return torch.from_numpy(np.ascontiguousarray(x)).to(torch.bfloat16).float().numpy()


def e4m3(x):
    """Codes of float32 values: to even, saturating at 448. The steps are powers of two, so float64 is exact."""
    a = np.minimum(np.abs(x.astype(np.float64)), 448)
    exponent = np.clip(np.floor(np.log2(np.maximum(a, 2.0**-9))), -6, 8)
    step = np.exp2(exponent - 3)
    value = np.minimum(np.rint(a / step) * step, 448)
    table = np.array([dsv3.E4[i].item() for i in range(127)])
    code = np.searchsorted(table, value)
    assert (table[code] == value).all()
    return (code + 128 * np.signbit(x)).astype(np.uint8)


def blocks(rows, cols, block_rows, block_cols):
    for r in range(0, rows, block_rows):
        for c in range(0, cols, block_cols):
            yield r // block_rows, c // block_cols, slice(r, r + block_rows), slice(c, c + block_cols)


def fp8(w, block_rows=128, block_cols=128, pow2=False):
    rows, cols = w.shape
    codes = np.zeros(w.shape, np.uint8)
    scales = np.zeros((-(-rows // block_rows), -(-cols // block_cols)), F)
    for i, j, r, c in blocks(rows, cols, block_rows, block_cols):
        amax = np.abs(w[r, c]).max()
        s = amax / F(448) if amax > 0 else F(1)
        if pow2 and amax > 0:
            fraction, exponent = np.frexp(s)  # s = fraction * 2^exponent, fraction in [0.5, 1)
            s = np.ldexp(F(1), exponent - 1 if fraction == 0.5 else exponent)
        scales[i, j] = s
        codes[r, c] = e4m3(w[r, c] / F(s))
    return codes, scales


def pack(q):
    """Columns 8w .. 8w+7 of a row into word w, lowest bits first, offset by 8."""
    rows, cols = q.shape
    u = np.zeros((rows, -(-cols // 8) * 8), np.uint32)
    u[:, :cols] = q.astype(np.int64) + 8
    return sum(u[:, i::8] << np.uint32(4 * i) for i in range(8)).astype(np.uint32)


def grouped(w, group):
    rows, cols = w.shape
    return w.reshape(rows, cols // (group or cols), group or cols)


def int4_codes(w, scales, zeros, group):
    g = grouped(w, group)
    t = g / scales[..., None] + zeros[..., None].astype(F)
    return np.rint(np.clip(t, F(-8), F(7))).reshape(w.shape)


def int4(w, group, asym):
    g = grouped(w, group)
    if asym:
        low, high = np.minimum(g.min(-1), F(0)), np.maximum(g.max(-1), F(0))
        scales = bf16((high - low) / F(15))
        zeros = np.rint(np.clip(F(-8) - low / scales, F(-8), F(7)))
    else:
        scales = bf16(np.abs(g).max(-1) / F(7.5))
        zeros = np.zeros(scales.shape, F)
    return int4_codes(w, scales, zeros, group), scales, zeros


def search(w, group, positive):
    """Scale search: 12 candidates a sign, each refitted twice by least squares; sums run over j in order."""
    g = grouped(w, group)
    n = g.shape[-1]
    a = np.abs(g).max(-1)
    v = np.take_along_axis(g, np.abs(g).argmax(-1)[..., None], -1)[..., 0]
    best, chosen = np.full(a.shape, np.inf, F), np.ones(a.shape, F)
    signs = [np.ones(a.shape, F)] if positive else [np.sign(v), -np.sign(v)]
    for sign in signs:
        for k in range(12):
            s = sign * ((a / F(7.5)) * F(0.5 + 0.65 * k / 11))
            for _ in range(2):
                r = F(1) / s
                num, den = np.zeros_like(a), np.zeros_like(a)
                for j in range(n):
                    z = np.clip(np.rint(g[..., j] * r), F(-8), F(7))
                    num += g[..., j] * z
                    den += z * z
                s = np.where((den > 0) & (num != 0), num / den, s)
            err = np.zeros_like(a)
            for j in range(n):
                d = g[..., j] - s * np.clip(np.rint(g[..., j] * r), F(-8), F(7))
                err += d * d
            better = err < best
            best, chosen = np.where(better, err, best), np.where(better, s, chosen)
    scales = bf16(chosen)
    zeros = np.zeros(scales.shape, F)
    return int4_codes(w, scales, zeros, group), scales, zeros


def total(terms):
    """Sums over the columns of a group, one after the other, each rounded."""
    sum_ = np.zeros(terms.shape[:-1], F)
    for j in range(terms.shape[-1]):
        sum_ += terms[..., j]
    return sum_


def search_asym(w, group, h):
    """Scale and zero point: for 25 step counts over the range, a line s u + m through the codes by weighted least
    squares, m rounded to a zero point, the codes made again from it and s refitted to them; the least direct residual
    wins. The make_qkx idea with an integer zero point."""
    g = grouped(w, group)
    h = np.broadcast_to(grouped(h[None, :], group), g.shape)
    low = np.minimum(g.min(-1), F(0))
    size = np.maximum(g.max(-1), F(0)) - low
    assert (size > 0).all()
    _, scales, zeros = int4(w, group, True)
    best = np.full(low.shape, np.inf, F)
    sh, shw, hw = total(h), total(h * g), h * g
    for i in range(25):
        u = np.clip(np.rint((g - low[..., None]) * (F(14 + 0.1 * i) / size)[..., None]), F(0), F(15))
        su, suu, suw = total(h * u), total(h * (u * u)), total(hw * u)
        det = sh * suu - su * su
        s, m = (sh * suw - shw * su) / det, (suu * shw - su * suw) / det
        line = (det > 0) & (m <= 0)
        s, m = np.where(line, s, suw / suu), np.where(line, m, F(0))
        r = F(1) / s
        zero = np.clip(np.rint(-m * r), F(0), F(15))
        q = np.clip(np.rint(g * r[..., None]), -zero[..., None], F(15) - zero[..., None])
        num, den = total(hw * q), total(h * (q * q))
        s = num / den
        d = g - s[..., None] * q
        err = total(h * (d * d))
        better = (den > 0) & (num > 0) & (err < best)
        best = np.where(better, err, best)
        scales, zeros = np.where(better, bf16(s), scales), np.where(better, zero - F(8), zeros)
    return int4_codes(w, scales, zeros, group), scales, zeros


def put_floats(out, name, values):
    x = values.numpy()
    assert x.dtype == F
    out.append(('f32', name, sha(x)))
    out.append(('bf16', name, sha(bf16_bits(x))))
    out.append(('f16', name, sha(values.half().numpy())))


def put_fp8(out, case, module, codes, scales, scale_name):
    out.append((case, module + '.weight', sha(codes)))
    out.append((case, module + scale_name, sha(scales)))


def put_int4(out, case, module, q, scales, zeros, asym):
    out.append((case, module + '.weight_packed', sha(pack(q))))
    out.append((case, module + '.weight_scale', sha(bf16_bits(scales))))
    out.append((case, module + '.weight_shape', sha(np.array(q.shape, np.int64))))
    if asym:
        out.append((case, module + '.weight_zero_point', sha(pack(zeros.T).T)))


def quantized(weights):
    out = []
    for m in MATRICES:
        w = weights[m + '.weight'].numpy()
        rounded = bf16(w)
        put_fp8(out, 'fp8-of-bf16', m, *fp8(rounded), '.weight_scale_inv')
        put_fp8(out, 'fp8-ue8m0-of-bf16', m, *fp8(rounded, pow2=True), '.weight_scale_inv')
        put_fp8(out, 'fp8-ue8m0', m, *fp8(w, pow2=True), '.weight_scale_inv')
        codes, scales = fp8(w, pow2=True)
        put_fp8(out, 'fp8-e8m0', m, codes, (scales.view(np.uint32) >> 23).astype(np.uint8), '.weight_scale_inv')
        put_fp8(out, 'fp8-channel', m, *fp8(w, 1, w.shape[1]), '.weight_scale')
        for group in (32, 64, 128, 0):
            for asym in (False, True):
                case = 'int4-%s%s' % ('g%d' % group if group else 'channel', '-asym' if asym else '')
                put_int4(out, case, m, *int4(w, group, asym), asym)
    for m in SEARCHED:
        w = weights[m + '.weight'].numpy()
        for group in (32, 128, 0):
            for positive in (False, True):
                case = 'int4-%s-search%s' % ('g%d' % group if group else 'channel', '-positive' if positive else '')
                put_int4(out, case, m, *search(w, group, positive), False)
            case = 'int4-%s-asym-search' % ('g%d' % group if group else 'channel')
            put_int4(out, case, m, *search_asym(w, group, np.ones(w.shape[1], F)), True)
    return out


def weighted():
    """Columns that weigh: the matrices and second moments of tests/fixtures/quant."""
    def read(name, dtype):
        return np.fromfile(os.path.join(ROOT, 'tests/fixtures/quant', name), dtype)

    out = []
    for name in ('resid', 'swiglu'):
        values = np.array([dsv3.E4[i].item() for i in range(256)], F)
        w = values[read(name + '_w_e4m3.u8', np.uint8)].reshape(64, 512) * np.repeat(read(name + '_w_scale.f32', F), 128)
        h = read(name + '_hdiag.f32', F)
        for group in (32, 128):
            for case, weights_ in (('asym', np.ones(512, F)), ('asym-diag', h)):
                q, scales, zeros = search_asym(w, group, weights_)
                where = '%s-g%d' % (name, group)
                out.append((case, where + '.codes', sha(pack(q))))
                out.append((case, where + '.scales', sha(bf16_bits(scales))))
                out.append((case, where + '.zeros', sha(zeros.astype(np.int8))))
    return out


def write(name, rows):
    with open(os.path.join(ROOT, 'tests/fixtures/golden', name), 'w') as f:
        f.write('# case tensor SHA-256 of its bytes; made by tests/oracle/make_golden.py\n')
        for row in sorted(rows):
            f.write(' '.join(row) + '\n')


_, weights = ckpt.load_hf(os.path.join(ROOT, 'samples/tiny-v3'))
floats = []
for tensor, values in weights.items():
    put_floats(floats, tensor, values)
write('floats.txt', floats)
write('quantized.txt', quantized(weights))
write('searched.txt', weighted())
