"""What `quern diff` computes, in PyTorch with the model of samples/training/dsv3.py, for bench_diff.c to be held against.
usage: kl_torch.py REF CAND TEXT TOKENS CONTEXT THREADS        prints one line of JSON; exits 77 where there is no PyTorch"""
import json, math, os, sys

try:
    import regex, torch  # noqa: F401  (regex: the tokenizer's)
except ImportError as problem:
    print(problem)
    sys.exit(77)
import torch.nn.functional as F

root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path[:0] = [os.path.join(root, "samples", "training"), os.path.join(root, "tests", "oracle")]
import bpe, ckpt  # noqa: E402

BATCH = 8  # contexts at a time


def forward(model, x):
    """Log-probabilities in float64, and the chosen experts of the main layers."""
    logits = model(x)
    layers = model.model.layers[: model.c["num_hidden_layers"]]
    return F.log_softmax(logits.double(), -1), [layer.mlp.last[0] for layer in layers if hasattr(layer.mlp, "last")]


def main(ref, cand, text, tokens, context, threads):
    torch.set_num_threads(threads)
    ids = bpe.Tok(ref).enc(open(text, encoding="utf-8").read())[:tokens]
    step = context - 1
    contexts = [[0] + ids[i : i + step] for i in range(0, len(ids) - step + 1, step)]
    a = ckpt.model(ref)
    b = ckpt.model(cand, a.c)
    kl, top1, agree, chosen, nll, scored = [], 0, 0, 0, [0.0, 0.0], 0
    with torch.no_grad():
        for i in range(0, len(contexts), BATCH):
            x = torch.tensor(contexts[i : i + BATCH])
            p, of_a = forward(a, x)
            q, of_b = forward(b, x)
            kl.append((p.exp() * (p - q)).sum(-1).flatten())
            top1 += (p.argmax(-1) == q.argmax(-1)).sum().item()
            for side, logs in enumerate((p, q)):
                nll[side] -= logs[:, :-1].gather(-1, x[:, 1:, None]).sum().item()
            scored += x[:, 1:].numel()
            for u, v in zip(of_a, of_b):
                agree += (u[:, :, None] == v[:, None, :]).sum().item()
                chosen += u.numel()
    kl = torch.cat(kl)
    print(json.dumps({"positions": kl.numel(), "kl": kl.mean().item(), "top1": top1 / kl.numel(),
                      "perplexity_ref": math.exp(nll[0] / scored), "perplexity_cand": math.exp(nll[1] / scored),
                      "routing_overlap": agree / max(chosen, 1)}))


main(*sys.argv[1:4], *map(int, sys.argv[4:7]))
