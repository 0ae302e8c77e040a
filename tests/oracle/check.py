"""Has an independent reader read what Quern writes.        python3 tests/oracle/check.py build/quern

The sample is converted to every type. ckpt.py reads each result, and must see, bit for bit, the numbers of Quern's own
`convert --to f32` of that result; and against the source no weight may be further off than its type allows.

And the forward pass is held to the PyTorch model's, over the sample and what is made of it: logits, hidden states and MTP
logits within 1e-5 of the largest, chosen experts the same but where less than 1e-5 decides.
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

# The forward pass over the source, and over bundles of each kind.
FORWARD = [None, ['--to', 'bf16'], ['--to', 'fp8-ue8m0'], ['--to', 'int4:g64:asym:absmax'], ['--recipe', 'int4-absmax']]
FORWARD_TOKENS = 96
FORWARD_BOUND = 1e-5


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


def model_of(path):
    """ckpt.py gives a missing embedding or head of MTP the main one's place by leaving it out, as dsv3.py does."""
    with open(os.path.join(path, 'config.json'), encoding='utf-8') as f:
        model = dsv3.DSV3(json.load(f))
    tensors = ckpt.load_hf(path)[1]
    model.load_state_dict({n: tensors[n].float() for n in model.state_dict()})
    return model.eval()


def gap(values, count):
    """Between the last that is taken and the first that is not."""
    top = values.topk(count + 1)[0]
    return float(top[-2] - top[-1])


def is_close_call(moe, scores):
    c = moe.c
    choice = scores + moe.gate.e_score_correction_bias
    groups = choice.view(c['n_group'], -1)
    sums = groups.topk(2, -1)[0].sum(-1)
    kept = torch.full_like(sums, float('-inf')).scatter(0, sums.topk(c['topk_group'])[1], 0)
    masked = (groups + kept[:, None]).flatten()
    return min(gap(sums, c['topk_group']), gap(masked, c['num_experts_per_tok'])) < FORWARD_BOUND


def wrong_choices(model, got):
    wrong = close = 0
    for i, layer in enumerate(model.model.layers[:model.c['num_hidden_layers']]):
        if isinstance(layer.mlp, dsv3.MoE):
            ids, scores = layer.mlp.last
            for t in (ids.sort(-1)[0].int() != got['experts.%d' % i][0]).any(-1).nonzero()[:, 0].tolist():
                fine = is_close_call(layer.mlp, scores[t])
                close, wrong = close + fine, wrong + (not fine)
    return wrong, close


def check_forward(quern, how, folder):
    name = 'forward ' + (' '.join(how) if how else 'source')
    path, out, ids_path = SAMPLE, os.path.join(folder, 'logits'), os.path.join(folder, 'ids')
    if how:
        path = os.path.join(folder, 'bundle')
        convert(quern, how, SAMPLE, path)
    ids = [(7 * i * i + 331 * i + 95) % 4096 for i in range(FORWARD_TOKENS)]
    with open(ids_path, 'w', encoding='utf-8') as f:
        f.write(' '.join(map(str, ids)) + '\n')
    subprocess.run([quern, 'logits', '-q', '--ids', ids_path, '--hidden', '--routing', '--mtp', '-o', out, path], check=True)
    got, model = load_st(out), model_of(path)
    with torch.no_grad():
        logits, hidden = model(torch.tensor([ids]), hidden=True)
        wrong, close = wrong_choices(model, got)
        mtp = model(torch.tensor([ids]), mtp=True)[1]
    want = dict({'hidden.%d' % i: h[0] for i, h in enumerate(hidden)}, logits=logits[0], mtp_logits=mtp[0])
    worst = max(float((got[n][0][:len(w)] - w).abs().max() / w.abs().max()) for n, w in want.items())
    print('%-42s largest difference %.2g, %d close choices differ' % (name, worst, close))
    if wrong:
        return '%s: %d tokens have other experts' % (name, wrong)
    return None if worst <= FORWARD_BOUND else '%s: difference %.2g is past %.2g' % (name, worst, FORWARD_BOUND)


def main():
    quern = os.path.abspath(sys.argv[1])
    failures = []
    cases = [(['--to', t], b) for t, b in CASES] + [(['--recipe', r], b) for r, b in RECIPES]
    checks = [lambda folder, how=how, bound=bound: check(quern, how, bound, folder) for how, bound in cases]
    checks += [lambda folder, how=how: check_forward(quern, how, folder) for how in FORWARD]
    for run in checks:
        with tempfile.TemporaryDirectory() as folder:
            problem = run(folder)
        if problem:
            failures.append(problem)
            print('FAILED', problem)
    print('%d passed, %d failed, 0 skipped' % (len(checks) - len(failures), len(failures)))
    return 1 if failures else 0


sys.exit(main())
