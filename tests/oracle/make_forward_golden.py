"""What small checkpoints of each kind must give: tests/fixtures/forward/*.safetensors, from samples/training/dsv3.py.

    python3 tests/oracle/make_forward_golden.py            (python3-torch)

A kind is its config.json, tests/fixtures/forward/KIND.json. Weights are drawn from the tensor's name by byte() below,
which tests/forward_support.c repeats in C; dsv3.py runs them in float32 as they decode. The kinds `far` and `long` run in
float64, but for the angle of rotation, which is a float32 product by definition.
"""
import json, math, os, sys
import numpy as np
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
OUT = os.path.join(ROOT, 'tests', 'fixtures', 'forward')
sys.path.insert(0, os.path.join(ROOT, 'samples', 'training'))
sys.dont_write_bytecode = True
import dsv3

CONTEXTS = [150, 21]
SHOWN = [0, 1, 127, 128, 149, 150, 170]
BASE = dict(architectures=['DeepseekV3ForCausalLM'], model_type='deepseek_v3', vocab_size=96, hidden_size=64,
            num_hidden_layers=3, num_nextn_predict_layers=0, num_attention_heads=4, num_key_value_heads=4, q_lora_rank=48,
            kv_lora_rank=32, qk_nope_head_dim=16, qk_rope_head_dim=8, v_head_dim=16, intermediate_size=96,
            moe_intermediate_size=32, n_routed_experts=16, n_shared_experts=1, num_experts_per_tok=4,
            first_k_dense_replace=1, moe_layer_freq=1, n_group=4, topk_group=2, topk_method='noaux_tc',
            scoring_func='sigmoid', norm_topk_prob=True, routed_scaling_factor=2.5, rms_norm_eps=1e-6, rope_theta=10000,
            rope_scaling=dict(type='yarn', factor=40, original_max_position_embeddings=4096, beta_fast=32, beta_slow=1,
                              mscale=1.0, mscale_all_dim=1.0),
            max_position_embeddings=163840, tie_word_embeddings=False, hidden_act='silu', torch_dtype='bfloat16')
FP8 = dict(quant_method='fp8', fmt='e4m3', activation_scheme='dynamic')
INT4 = dict(quant_method='compressed-tensors', format='pack-quantized', ignore=['lm_head'], config_groups=dict(
    group_0=dict(targets=['Linear'], weights=dict(num_bits=4, type='int', symmetric=True, strategy='group', group_size=32))))
V2 = dict(architectures=['DeepseekV2ForCausalLM'], model_type='deepseek_v2', scoring_func='softmax', norm_topk_prob=False)
KINDS = {
    'fp8': dict(num_nextn_predict_layers=1, quantization_config=dict(FP8, weight_block_size=[128, 128])),
    'fp8-blocks': dict(quantization_config=dict(FP8, weight_block_size=[32, 32])),
    'ue8m0': dict(quantization_config=dict(FP8, weight_block_size=[32, 32], scale_fmt='ue8m0')),
    'int4': dict(model_type='kimi_k2', rope_theta=50000, n_group=1, topk_group=1, routed_scaling_factor=2.827,
                 quantization_config=INT4, rope_scaling=dict(BASE['rope_scaling'], factor=32, beta_fast=1)),
    'v2': dict(V2, n_group=4, topk_group=2, topk_method='group_limited_greedy', n_shared_experts=2,
               routed_scaling_factor=16.0, rope_scaling=dict(BASE['rope_scaling'], mscale=0.707, mscale_all_dim=0.707)),
    'v2-lite': dict(V2, q_lora_rank=None, n_group=1, topk_group=1, topk_method='greedy', n_shared_experts=2,
                    routed_scaling_factor=1.0, torch_dtype='float16'),
    'negative-bias': dict(num_hidden_layers=2),
    'eps': dict(q_lora_rank=None, n_group=1, topk_group=1, rms_norm_eps=1e-5, rope_scaling=None, torch_dtype='float32'),
    'every-other': dict(num_hidden_layers=4, moe_layer_freq=2),
    'far': dict(num_hidden_layers=2, first_k_dense_replace=2),
    'long': dict(num_hidden_layers=1, first_k_dense_replace=1, num_attention_heads=2, num_key_value_heads=2),
}
FAR = 99900
LONG = 32768


def byte(name, count):
    """The top byte of splitmix64(FNV-1a(name) + i), for i < count."""
    h = 0xcbf29ce484222325
    for c in name.encode():
        h = (h ^ c) * 0x100000001b3 & 0xffffffffffffffff
    with np.errstate(over='ignore'):
        z = np.uint64(h) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9e3779b97f4a7c15)
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xbf58476d1ce4e5b9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94d049bb133111eb)
        z = z ^ (z >> np.uint64(31))
    return (z >> np.uint64(56)).astype(np.int64)


def width(cols):
    """The least k with 4^k >= cols: 2^-k is about 1 / sqrt(cols)."""
    k = 0
    while 4 ** k < cols:
        k += 1
    return k


def scales(name, shape, exponent, pow2):
    b = byte(name, int(np.prod(shape))).reshape(shape)
    return (2.0 ** (b % 2) if pow2 else (8 + b % 8) / 8.0) * 2.0 ** -exponent


def matrix(name, rows, cols, cfg):
    quant = cfg.get('quantization_config') or {}
    b = byte(name, rows * cols).reshape(rows, cols)
    linear = '_proj' in name and 'eh_proj' not in name
    if linear and quant.get('quant_method') == 'fp8':
        br, bc = quant['weight_block_size']
        s = scales(name + '_scale_inv', (-(-rows // br), -(-cols // bc)), width(cols) + 1, quant.get('scale_fmt') == 'ue8m0')
        value = np.where(b >= 128, -1, 1) * (1 + b % 8 / 8.0) * 2.0 ** (b // 8 % 4 - 2)
        return value * s.repeat(br, 0)[:rows].repeat(bc, 1)[:, :cols]
    if '.experts.' in name and quant.get('quant_method') == 'compressed-tensors':
        return (b // 16 - 8) * scales(name + '_scale', (rows, cols // 32), width(cols) + 2, False).repeat(32, 1)
    if 'embed' in name:
        return (b - 128) / 64.0
    return (b - 128) * 2.0 ** -(6 + width(cols))


def value(name, shape, cfg, kind):
    if name.endswith('e_score_correction_bias'):
        return (byte(name, shape[0]) - 128) / 512.0 - (2 if kind == 'negative-bias' else 0)
    if len(shape) == 1:
        return 1 + (byte(name, shape[0]) // 8 - 16) / 64.0
    return matrix(name, shape[0], shape[1], cfg)


def model(kind, cfg):
    m = dsv3.DSV3(cfg)
    n = cfg['num_hidden_layers']
    for i in range(n):   # dsv3.py has no moe_layer_freq
        dense = i < cfg['first_k_dense_replace'] or i % cfg['moe_layer_freq']
        if dense and isinstance(m.model.layers[i].mlp, dsv3.MoE):
            m.model.layers[i].mlp = dsv3.MLP(cfg['hidden_size'], cfg['intermediate_size'])
    for r in m.modules():
        if isinstance(r, dsv3.RMS) and r.weight.numel() == cfg['hidden_size']:
            r.eps = cfg['rms_norm_eps']
    sd = {k: torch.tensor(value(k, tuple(v.shape), cfg, kind), dtype=torch.float64).float() for k, v in m.state_dict().items()}
    m.load_state_dict(sd)
    return m.eval()


def run(kind, cfg, out):
    m = model(kind, cfg)
    count = sum(CONTEXTS)
    ids = torch.tensor(byte('tokens', count) % cfg['vocab_size'])
    hidden, logits, mtp, experts, at = [], [], [], {}, 0
    for n in CONTEXTS:
        x = ids[at:at + n][None]
        at += n
        lg, hs = m(x, hidden=True)
        for i, l in enumerate(m.model.layers[:cfg['num_hidden_layers']]):
            if isinstance(l.mlp, dsv3.MoE):
                experts.setdefault(i, []).append(l.mlp.last[0].sort(-1)[0])
        hidden.append(hs[-1][0])
        logits.append(lg[0])
        if cfg['num_nextn_predict_layers']:
            mtp.append(m(x, mtp=True)[1][0])
    out['hidden'] = torch.cat(hidden)[SHOWN]
    out['logits'] = torch.cat(logits)[SHOWN]
    for i, e in experts.items():
        out['experts.%d' % i] = torch.cat(e).to(torch.int32)
    if mtp:
        out['mtp_logits'] = torch.cat(mtp)[[0, 127, 128, 148, 149, 168]]


def run_sample(out):
    """The shipped sample, one context of 150 ids."""
    m = dsv3.load(os.path.join(ROOT, 'samples', 'tiny-v3'))
    ids = torch.tensor(byte('tokens', 300)[0::2] * 16 + byte('tokens', 300)[1::2] // 16)
    lg, hs = m(ids[None], hidden=True)
    out['tokens'] = ids.to(torch.int32)
    out['hidden'] = hs[-1][0][[0, 127, 128, 149]]
    out['logits'] = lg[0][[0, 128, 149]]
    for i in range(1, 4):
        out['experts.%d' % i] = m.model.layers[i].mlp.last[0].sort(-1)[0].to(torch.int32)
    out['mtp_logits'] = m(ids[None], mtp=True)[1][0][[0, 148]]


def run64(kind, cfg, first, count, queries, out):
    """Hidden states after the last layer and logits at the last `queries` positions of one context."""
    m = model(kind, cfg).double()
    ids = torch.tensor(byte('tokens', count) % cfg['vocab_size'])
    x = m.model.embed_tokens(ids)
    eps = cfg['rms_norm_eps']
    norm = lambda r, v: v * torch.rsqrt(v.pow(2).mean(-1, keepdim=True) + r.eps) * r.weight
    dn, dr, dv, rank, heads = (cfg[k] for k in ('qk_nope_head_dim', 'qk_rope_head_dim', 'v_head_dim', 'kv_lora_rank',
                                               'num_attention_heads'))
    pos = torch.arange(first, first + count)
    for l in m.model.layers:
        a, at = norm(l.input_layernorm, x), l.self_attn
        theta = (pos[:, None].float() * at.inv.float()[None]).double()
        def rope(v):
            p, q = v[..., 0::2], v[..., 1::2]
            return torch.stack((p * theta.cos() - q * theta.sin(), p * theta.sin() + q * theta.cos()), -1).flatten(-2)
        q = at.q_b_proj(norm(at.q_a_layernorm, at.q_a_proj(a))).view(count, heads, dn + dr).transpose(0, 1)
        kv = at.kv_a_proj_with_mqa(a)
        kb = at.kv_b_proj(norm(at.kv_a_layernorm, kv[:, :rank])).view(count, heads, dn + dv).transpose(0, 1)
        k = torch.cat((kb[..., :dn], rope(kv[:, rank:])[None].expand(heads, count, dr)), -1)
        q = torch.cat((q[..., :dn], rope(q[..., dn:])), -1)
        keep = queries if l is m.model.layers[-1] else count
        s = q[:, -keep:] @ k.transpose(-1, -2) * at.scale
        s = s.masked_fill(pos[None, :] > pos[-keep:, None], float('-inf'))
        o = (s.softmax(-1) @ kb[..., dn:]).transpose(0, 1).reshape(keep, heads * dv)
        x = x[-keep:] + at.o_proj(o)
        h = norm(l.post_attention_layernorm, x)
        x = x + l.mlp.down_proj(torch.nn.functional.silu(l.mlp.gate_proj(h)) * l.mlp.up_proj(h))
    out['hidden'] = x.float()
    out['logits'] = m.lm_head(norm(m.model.norm, x)).float()


def main():
    os.makedirs(OUT, exist_ok=True)
    torch.set_num_threads(1)
    for kind, change in KINDS.items():
        cfg = dict(BASE, **change)
        if cfg['model_type'] == 'deepseek_v2':
            del cfg['num_nextn_predict_layers']
        json.dump(cfg, open(os.path.join(OUT, kind + '.json'), 'w'), indent=1)
        cfg.setdefault('num_nextn_predict_layers', 0)
        out = {}
        with torch.no_grad():
            if kind == 'far':
                run64(kind, cfg, FAR, 100, 3, out)
            elif kind == 'long':
                run64(kind, cfg, 0, LONG, 2, out)
            else:
                run(kind, cfg, out)
        dsv3.save_st(os.path.join(OUT, kind + '.safetensors'), out, {'made_by': 'tests/oracle/make_forward_golden.py'})
        print(kind, {k: tuple(v.shape) for k, v in out.items()}, 'largest logit %.3g' % out['logits'].abs().max())
    out = {}
    with torch.no_grad():
        run_sample(out)
    dsv3.save_st(os.path.join(OUT, 'tiny-v3.safetensors'), out, {'made_by': 'tests/oracle/make_forward_golden.py'})


main()
