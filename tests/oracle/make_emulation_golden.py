"""What quern's --emulate must round, on the shipped sample.     python3 tests/oracle/make_emulation_golden.py

Writes tests/fixtures/forward/emulate.safetensors. The model is samples/training/dsv3.py's, with its weights as the
checkpoint stores them (FP8 codes times scales, not rounded again); the walk is here, since what matters is where it
rounds. Sums are float64, so that only a value on the edge between two roundings can come out otherwise elsewhere.

  bf16             transformers' DeepseekV3 in bfloat16 with eager attention (modeling_deepseek_v3.py): the result of
                   each operation is a bfloat16 tensor, but for what it computes in float32 itself: inside of norms,
                   softmax, the router, and the sum over experts. Scores are rounded before and after their scale, and
                   probabilities after they are divided; cos and sin too; a norm before its weight and after.
  fp8-activations  DeepSeek's kernel (inference/kernel.py, act_quant): inputs of linears whose weights are FP8 become
                   e4m3 codes with a scale of largest magnitude / 448 per token and 128 columns, the magnitude at
                   least 1e-4. Everything else stays as it is.

Roundings pile up: an element that falls on the other side moves all that follow. So each layer is held on its own, from
the same input:

  ids                 I32 [32]         one context
  bf16.L              BF16 [32, 256]   what enters layer L, and what bf16 made of bf16.(L-1)
  fp8-activations.L   F32 [8, 256]     what fp8-activations makes of bf16.(L-1), of the last 8 tokens
  logits              BF16 [2, 4096]   of the last 2 tokens of the last bf16.L, in bf16
"""
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(ROOT, 'samples', 'training'))
import torch
import torch.nn.functional as F

import dsv3

OUT = os.path.join(ROOT, 'tests', 'fixtures', 'forward', 'emulate.safetensors')
TOKENS, SHOWN = 32, 8
TEXT_IDS = torch.tensor([(7 * i * i + 331 * i + 95) % 4096 for i in range(TOKENS)])


def bf16(x):
    return x.float().bfloat16().double()


def e4m3(x):
    """Per row and 128 columns."""
    rows, cols = x.shape
    groups = F.pad(x, (0, -cols % 128)).float().view(rows, -1, 128)
    scale = groups.abs().amax(-1, keepdim=True).clamp(min=1e-4) / 448
    codes = dsv3.E4[dsv3.e4m3_encode((groups / scale).double()).long()]
    return (codes * scale).view(rows, -1)[:, :cols]


def same(x):
    return x


class Walk:
    """One decoder layer in float64. step: after each operation; feed: into linears that are FP8."""

    def __init__(self, model, step=same, feed=same):
        self.c, self.m, self.step, self.feed = model.c, model, step, feed
        self.pos = torch.arange(TOKENS)

    def linear(self, w, x):
        return self.step(self.feed(x) @ w.weight.double().T)

    def norm(self, r, x, eps):
        y = self.step(x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps))
        return self.step(r.weight.double() * y)

    def rope(self, at, x):
        theta = self.pos[:, None].float() * at.inv[None]
        cos, sin = (self.step((f(theta.double()).float() * at.cs).double()) for f in (torch.cos, torch.sin))
        a, b, s = x[..., 0::2], x[..., 1::2], self.step
        return torch.stack((s(s(a * cos) - s(b * sin)), s(s(a * sin) + s(b * cos))), -1).flatten(-2)

    def attention(self, at, x):
        c, s = self.c, self.step
        heads, nope, rope, rank = (c[k] for k in ('num_attention_heads', 'qk_nope_head_dim', 'qk_rope_head_dim',
                                                 'kv_lora_rank'))
        q = self.linear(at.q_b_proj, self.norm(at.q_a_layernorm, self.linear(at.q_a_proj, x), 1e-6))
        q = q.view(TOKENS, heads, nope + rope).transpose(0, 1)
        kv = self.linear(at.kv_a_proj_with_mqa, x)
        key = self.rope(at, kv[:, rank:])
        kv = self.linear(at.kv_b_proj, self.norm(at.kv_a_layernorm, kv[:, :rank], 1e-6))
        kv = kv.view(TOKENS, heads, -1).transpose(0, 1)
        q = torch.cat((q[..., :nope], self.rope(at, q[..., nope:])), -1)
        k = torch.cat((kv[..., :nope], key.expand(heads, TOKENS, rope)), -1)
        scores = s(s(q @ k.transpose(-1, -2)) * at.scale)
        scores = scores.masked_fill(torch.ones(TOKENS, TOKENS).triu(1).bool(), float('-inf'))
        out = s(s(scores.softmax(-1)) @ kv[..., nope:]).transpose(0, 1).reshape(TOKENS, -1)
        return self.linear(at.o_proj, out)

    def mlp(self, m, x):
        gate, up = self.linear(m.gate_proj, x), self.linear(m.up_proj, x)
        return self.linear(m.down_proj, self.step(self.step(F.silu(gate)) * up))

    def moe(self, m, x):
        chosen, weight, _ = m.route(x.float())
        y = torch.zeros_like(x)
        for e in range(self.c['n_routed_experts']):
            for t, j in (chosen == e).nonzero().tolist():
                y[t] += weight[t, j].double() * self.mlp(m.experts[e], x[t:t + 1])[0]
        return self.step(self.step(y) + self.mlp(m.shared_experts, x))

    def layer(self, i, x):
        layer, eps = self.m.model.layers[i], self.c['rms_norm_eps']
        x = self.step(x + self.attention(layer.self_attn, self.norm(layer.input_layernorm, x, eps)))
        f = self.moe if isinstance(layer.mlp, dsv3.MoE) else self.mlp
        return self.step(x + f(layer.mlp, self.norm(layer.post_attention_layernorm, x, eps)))


def main():
    model = dsv3.load(os.path.join(ROOT, 'samples', 'tiny-v3'))
    rounded, coded, exact = Walk(model, step=bf16), Walk(model, feed=e4m3), Walk(model)
    out = {'ids': TEXT_IDS.int()}
    with torch.no_grad():
        x = bf16(model.model.embed_tokens(TEXT_IDS))
        out['bf16.0'] = x.bfloat16()
        for i in range(model.c['num_hidden_layers']):
            y, coarse, fine = (w.layer(i, x) for w in (rounded, coded, exact))
            out['bf16.%d' % (i + 1)], out['fp8-activations.%d' % (i + 1)] = y.bfloat16(), coarse[-SHOWN:].float()
            off = [float((z - fine).norm() / (fine - x).norm()) for z in (y, coarse)]
            print('layer %d: bf16 is %.5f off, fp8-activations %.5f' % (i, *off))
            x = y
        x = rounded.norm(model.model.norm, x, model.c['rms_norm_eps'])
        out['logits'] = rounded.linear(model.lm_head, x)[-2:].bfloat16()
    dsv3.save_st(OUT, out, {'made_by': 'tests/oracle/make_emulation_golden.py'})


main()
