"""Has an independent reader read what Quern writes.        python3 tests/oracle/check.py build/quern

The sample is converted to every type. ckpt.py reads each result, and must see, bit for bit, the numbers of Quern's own
`convert --to f32` of that result; and against the source no weight may be further off than its type allows.
The last line is "N passed, N failed, N skipped".
"""
import json
import os
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
SAMPLES = os.path.join(os.path.dirname(os.path.dirname(HERE)), 'samples')
SAMPLE = os.path.join(SAMPLES, 'tiny-v3')
sys.dont_write_bytecode = True
sys.path[:0] = [HERE, os.path.join(SAMPLES, 'training')]

try:
    import ckpt
    import dsv3
    import torch
except ImportError as e:
    print('SKIPPED check-oracle: %s (Debian: python3-torch python3-numpy)' % e)
    print('0 passed, 0 failed, 1 skipped')
    sys.exit(0)

# Relative error of a weight matrix, in the Frobenius norm. int4 groups of trained weights leave 7 to 13 %.
CASES = [
    ('f32', 0),
    ('bf16', 0.003),
    ('f16', 0.0005),
    ('fp8', 0.03),
    ('fp8-ue8m0', 0.04),
    ('fp8-channel', 0.04),
    ('int4:g32', 0.10),
    ('int4:g64', 0.11),
    ('int4:g128', 0.12),
    ('int4:g32:absmax', 0.12),
    ('int4:g128:absmax', 0.14),
    ('int4:g32:asym', 0.10),
    ('int4:g128:asym', 0.12),
    ('int4:g64:asym:absmax', 0.12),
]
RECIPES = [('int4-fast', 0.12), ('int4-absmax', 0.14), ('int4-fp8', 0.12), ('int4-all', 0.13), ('fp8-block', 0.03)]


load_st = dsv3.load_st


def load_st_blocks(path):
    """ckpt.py takes a weight_scale of one column for a scale per row; a grid of blocks can have one column too."""
    tensors = load_st(path)
    for name in [n for n, (_, dtype) in tensors.items() if dtype == 'F8_E4M3']:
        scale = tensors.get(name + '_scale')
        if scale and scale[0].dim() == 2 and scale[0].shape[0] != tensors[name][0].shape[0]:
            tensors[name + '_scale_inv'] = tensors.pop(name + '_scale')
    return tensors


dsv3.load_st = load_st_blocks


def convert(quern, how, src, dst):
    subprocess.run([quern, 'convert', '-q'] + how + [src, dst], check=True, stdout=subprocess.DEVNULL)


def relative(a, b):
    norm = float(b.double().norm())
    return float((a.double() - b.double()).norm()) / norm if norm else 0.0


def check(quern, how, bound, folder):
    name = ' '.join(how)
    out = os.path.join(folder, name.replace(':', '-').replace(' ', ''))
    convert(quern, how, SAMPLE, out)
    convert(quern, ['--to', 'f32'], out, out + '.f32')
    theirs, ours, source = ckpt.load_hf(out)[1], ckpt.load_hf(out + '.f32')[1], ckpt.load_hf(SAMPLE)[1]
    worst = 0.0
    for name_json in [f for f in os.listdir(out) if f.endswith('.json')]:
        with open(os.path.join(out, name_json), encoding='utf-8') as f:
            json.load(f)
    if not theirs.keys() == ours.keys() == source.keys():
        return '%s: other tensors: %s' % (name, sorted(theirs.keys() ^ source.keys())[:4])
    for tensor in source:
        if not torch.equal(theirs[tensor].view(torch.int32), ours[tensor].view(torch.int32)):
            return '%s: %s: the two readers disagree' % (name, tensor)
        worst = max(worst, relative(theirs[tensor], source[tensor]))
    print('%-28s largest relative error %.5f' % (name, worst))
    return None if worst <= bound else '%s: relative error %.5f is past %.5f' % (name, worst, bound)


def main():
    quern = os.path.abspath(sys.argv[1])
    failures = []
    cases = [(['--to', t], b) for t, b in CASES] + [(['--recipe', r], b) for r, b in RECIPES]
    for how, bound in cases:
        with tempfile.TemporaryDirectory() as folder:
            problem = check(quern, how, bound, folder)
        if problem:
            failures.append(problem)
            print('FAILED', problem)
    print('%d passed, %d failed, 0 skipped' % (len(cases) - len(failures), len(failures)))
    return 1 if failures else 0


sys.exit(main())
