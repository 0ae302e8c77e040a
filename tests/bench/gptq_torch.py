#!/usr/bin/env python3
"""What the textbook needs for the expert of bench_ldlq.c: GPTQ in PyTorch on one core, a linear at a time.

    taskset -c 0 /usr/bin/python3 tests/bench/gptq_torch.py [divisor]

Moments of 4,096 tokens in float32, 1 % of the mean diagonal, inverse by Cholesky, upper Cholesky factor of the inverse,
then columns in blocks of 128 with updates to what follows; int4 in groups of 128, absmax scales when a group is reached.
Written from the published algorithm (Frantar et al. 2022, section 3). Needs python3-torch, as Debian has it."""
import os
import sys
import time

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
import torch

torch.set_num_threads(1)
torch.manual_seed(1)
TOKENS, BLOCK, GROUP = 4096, 128, 128


def libraries():
    """The BLAS that is really loaded, as the system's alternatives chose it."""
    with open("/proc/self/maps") as f:
        names = {os.path.realpath(line.split()[-1]) for line in f if "/" in line}
    return sorted(n for n in names if any(k in n for k in ("blas", "lapack", "mkl", "blis")))


def gptq(w, h):
    n = w.shape[1]
    w = w.clone()
    h = h.clone()
    h.diagonal().add_(0.01 * h.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    u = torch.linalg.cholesky(inverse, upper=True)
    q = torch.zeros_like(w)
    for begin in range(0, n, BLOCK):
        end = min(begin + BLOCK, n)
        part, errors, own = w[:, begin:end].clone(), torch.zeros(w.shape[0], end - begin), u[begin:end, begin:end]
        for j in range(end - begin):
            if (begin + j) % GROUP == 0:
                scale = w[:, begin + j:begin + j + GROUP].abs().amax(1) * (2 / 15)
            code = torch.clamp(torch.round(part[:, j] / scale), -8, 7)
            q[:, begin + j] = code * scale
            errors[:, j] = (part[:, j] - q[:, begin + j]) / own[j, j]
            part[:, j:] -= errors[:, j:j + 1] * own[j, j:]
        w[:, end:] -= errors @ u[begin:end, end:]
    return q


def main():
    by = int(sys.argv[1]) if len(sys.argv) > 1 else 1
    hidden, inner = (max(width // by // GROUP, 1) * GROUP for width in (7168, 2048))
    torch.randn(64, 64) @ torch.randn(64, 64)
    torch.linalg.cholesky(torch.eye(64))
    print("torch", torch.__version__, "on", ", ".join(libraries()))
    total = 0.0
    for name, rows, cols in (("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)):
        x, w = torch.randn(TOKENS, cols), torch.randn(rows, cols) * 0.02
        start = time.process_time()
        h = x.T @ x / TOKENS
        moments = time.process_time()
        gptq(w, h)
        end = time.process_time()
        print(f"  {name:5} moments {moments - start:.2f} s, the rest {end - moments:.2f} s")
        total += end - start
    print(f"core-seconds: {total:.2f}")


if __name__ == "__main__":
    main()
