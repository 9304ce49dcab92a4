#!/usr/bin/env python3
"""The workloads of tools/workloads.h in PyTorch, for `make bench`, which starts it and talks to it over pipes.

    bench_torch.py SPEC THREADS SECONDS try        tries settings, prints 'NAME SAMPLES_PER_SECOND' for each, the best so far as it goes
    bench_torch.py SPEC THREADS SECONDS SETTINGS   a worker: 'ready', then for each line on its input one round:
                                                   'SAMPLES_PER_SECOND PEAK_RESIDENT_MB'
    bench_torch.py gemm cuda:0 SECONDS ROUNDS      adds PyTorch's GFLOP/s and the ratio to a table of bench_gemm on its input

THREADS may be a device instead, cuda:0: batches come from pinned memory of the host then, and products are in plain fp32, without tf32.

SPEC is a row of tools/workloads.h: KIND:SAMPLES:X:SIZE, for example cnn:64:1,28,28:32,64,128,10. SETTINGS are words joined by '+', or 'eager':
channels_last, foreach or fused (the optimizer), sdpa (attention by scaled_dot_product_attention), trace or compile (the model), graphs (CUDA graphs by torch.compile, on a GPU alone)."""
import sys
import time

try:
    import torch
except ImportError as e:
    sys.exit(f'PyTorch cannot be imported: {e}')
import torch.nn as nn
import torch.nn.functional as F

BATCHES = 16
device = None  # a GPU; None: the CPU


class Mlp(nn.Sequential):
    def __init__(self, x, size, settings):
        super().__init__(nn.Linear(x[0], size[0]), nn.ReLU(), nn.Linear(size[0], size[1]))


class Cnn(nn.Module):
    def __init__(self, x, size, settings):
        super().__init__()
        a, b, hidden, classes = size
        self.conv1, self.conv2 = nn.Conv2d(x[0], a, 3, padding=1), nn.Conv2d(a, b, 3, padding=1)
        self.fc1, self.fc2 = nn.Linear(b * (x[1] // 2 // 2) * (x[2] // 2 // 2), hidden), nn.Linear(hidden, classes)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


class Residual(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.shortcut = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b)) if stride != 1 else nn.Identity()

    def forward(self, x):
        y = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.bn2(self.conv2(y)))


class Resnet(nn.Module):
    def __init__(self, x, size, settings):
        super().__init__()
        width, stages, blocks, classes = size
        self.conv, self.bn = nn.Conv2d(x[0], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width)
        layers = []
        for stage in range(stages):
            for block in range(blocks):
                down = stage > 0 and block == 0
                layers.append(Residual((width << stage) // (2 if down else 1), width << stage, 2 if down else 1))
        self.blocks, self.fc = nn.Sequential(*layers), nn.Linear(width << stages - 1, classes)

    def forward(self, x):
        return self.fc(self.blocks(F.relu(self.bn(self.conv(x)))).mean((2, 3)))


class GptBlock(nn.Module):
    def __init__(self, tokens, d, heads, sdpa):
        super().__init__()
        self.heads, self.sdpa = heads, sdpa
        self.ln1, self.qkv, self.proj = nn.LayerNorm(d), nn.Linear(d, 3 * d), nn.Linear(d, d)
        self.ln2, self.up, self.down = nn.LayerNorm(d), nn.Linear(d, 4 * d), nn.Linear(4 * d, d)
        self.register_buffer('mask', torch.triu(torch.full((tokens, tokens), float('-inf')), 1))

    def attention(self, x):
        n, t, d = x.shape
        q, k, v = (p.view(n, t, self.heads, d // self.heads).transpose(1, 2) for p in self.qkv(x).split(d, 2))
        if self.sdpa:
            a = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            a = F.softmax((q @ k.transpose(-2, -1)) * (d // self.heads) ** -0.5 + self.mask, -1) @ v
        return self.proj(a.transpose(1, 2).reshape(n, t, d))

    def forward(self, x):
        x = x + self.attention(self.ln1(x))
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class Gpt(nn.Module):
    def __init__(self, x, size, settings):
        super().__init__()
        vocabulary, d, heads, layers = size
        self.token, self.position = nn.Embedding(vocabulary, d), nn.Parameter(torch.randn(x[0], d) * .02)
        self.blocks = nn.Sequential(*[GptBlock(x[0], d, heads, 'sdpa' in settings) for _ in range(layers)])
        self.ln, self.head = nn.LayerNorm(d), nn.Linear(d, vocabulary, bias=False)
        self.token.weight.data.mul_(.02)
        self.head.weight = self.token.weight

    def forward(self, x):
        return self.head(self.ln(self.blocks(self.token(x) + self.position))).flatten(0, 1)


# The model, its optimizer, and the settings to choose from, one of each tuple: '' is the plain one.
OPTIMIZER, GRAPH = ('', 'foreach', 'fused'), ('', 'trace', 'compile', 'graphs')
KINDS = {
    'mlp': (Mlp, lambda p, **o: torch.optim.SGD(p, .1, **o), (OPTIMIZER, GRAPH)),
    'cnn': (Cnn, lambda p, **o: torch.optim.Adam(p, 1e-3, **o), (('', 'channels_last'), OPTIMIZER, GRAPH)),
    'resnet': (Resnet, lambda p, **o: torch.optim.SGD(p, .1, momentum=.9, **o), (('', 'channels_last'), OPTIMIZER, GRAPH)),
    'gpt': (Gpt, lambda p, **o: torch.optim.AdamW(p, 3e-4, **o), (('', 'sdpa'), OPTIMIZER, GRAPH)),
}


def make_step(spec, settings):
    """A function that takes one training step on the next of BATCHES batches, and the samples of one."""
    kind, samples, x, size = spec.split(':')
    x, size = [[int(n) for n in part.split(',')] for part in (x, size)]
    samples = int(samples)
    model_class, make_optimizer, _ = KINDS[kind]
    torch.manual_seed(1)
    model = model_class(x, size, settings).to(device or 'cpu')
    if kind == 'gpt':
        xs = torch.randint(0, size[0], (BATCHES, samples, x[0]))
        ys = torch.randint(0, size[0], (BATCHES, samples * x[0]))
    else:
        xs, ys = torch.rand(BATCHES, samples, *x), torch.randint(0, size[-1] if kind != 'mlp' else size[1], (BATCHES, samples))
    batches = list(zip(xs, ys))
    if 'channels_last' in settings:
        model = model.to(memory_format=torch.channels_last)
        batches = [(x.to(memory_format=torch.channels_last), y) for x, y in batches]
    if device:
        batches = [(x.pin_memory(), y.pin_memory()) for x, y in batches]
    optimizer = make_optimizer(model.parameters(), **{word: True for word in ('foreach', 'fused') if word in settings})
    if 'trace' in settings:
        model = torch.jit.trace(model, batches[0][0].to(device or 'cpu'), check_trace=False)

    def loss_of(x, y):
        return F.cross_entropy(model(x), y)
    if 'compile' in settings:
        loss_of = torch.compile(loss_of)
    if 'graphs' in settings:
        loss_of = torch.compile(loss_of, mode='reduce-overhead')
    count = 0

    def step():
        nonlocal count
        optimizer.zero_grad(set_to_none=True)
        x, y = batches[count % BATCHES]
        if device:
            x, y = x.to(device, non_blocking=True), y.to(device, non_blocking=True)
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        count += 1
        return loss
    for _ in range(4):
        float(step().detach())
    return step, samples


def measure(step, samples, seconds):
    start, steps = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        loss = step()
        steps += 1
    float(loss.detach())  # a GPU is done with all steps then
    return samples * steps / (time.perf_counter() - start)


def gemm_rate(m, n, k, kind, batch, seconds):
    """GFLOP/s of a product, a and b stored transposed where kind says T."""
    a = torch.rand(batch, *((k, m) if kind[0] == 'T' else (m, k)), device=device)
    b = torch.rand(batch, *((n, k) if kind[1] == 'T' else (k, n)), device=device)
    a, b = a.transpose(1, 2) if kind[0] == 'T' else a, b.transpose(1, 2) if kind[1] == 'T' else b
    if batch == 1:
        a, b = a[0], b[0]
    c = a @ b
    torch.cuda.synchronize()
    start, times = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        for _ in range(10):
            torch.matmul(a, b, out=c)
        times += 10
        torch.cuda.synchronize()
    return 2e-9 * batch * m * n * k * times / (time.perf_counter() - start)


def extend_table(seconds, rounds):
    for line in sys.stdin:
        words = line.split()
        if len(words) != 7 or words[0] != '1T' or not words[1].isdigit():
            print(line, end='')
            continue
        m, n, k, batch = (int(words[i]) for i in (1, 2, 3, 5))
        rates = sorted(gemm_rate(m, n, k, words[4], batch, seconds) for _ in range(rounds))
        rate = rates[len(rates) // 2]
        print(f'{line.rstrip()}  torch {rate:.2f}  ratio {float(words[6]) / rate:.2f}', flush=True)


def peak_resident_mb():
    with open('/proc/self/status') as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith('VmHWM'))


def try_settings(spec, seconds):
    """One choice after the other, each at the best of those before."""
    best, rate, tried = (), 0, set()
    for choices in KINDS[spec.split(':')[0]][2]:
        found = best
        for choice in choices:
            settings = best + (choice,) if choice else best
            if settings in tried or choice == 'graphs' and not device:
                continue
            tried.add(settings)
            try:
                this = measure(*make_step(spec, settings), seconds)
            except Exception as e:  # a setting that does not work here: no compiler for torch.compile, say
                print('-', '+'.join(settings), 'fails:', str(e).strip().split('\n')[0], file=sys.stderr)
                continue
            print('+'.join(settings) or 'eager', f'{this:.1f}', flush=True)
            if this > rate:
                found, rate = settings, this
        best = found


def main():
    if len(sys.argv) != 5:
        sys.exit(__doc__)
    spec, seconds, settings = sys.argv[1], float(sys.argv[3]), sys.argv[4]
    if sys.argv[2].isdigit():
        torch.set_num_threads(int(sys.argv[2]))
    else:
        global device
        device = torch.device(sys.argv[2])
        if not torch.cuda.is_available():
            sys.exit('PyTorch has no CUDA here')
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    if spec == 'gemm':
        return extend_table(seconds, int(settings))
    print('torch', torch.__version__, flush=True)
    if settings == 'try':
        return try_settings(spec, seconds)
    step, samples = make_step(spec, () if settings == 'eager' else tuple(settings.split('+')))
    print('ready', flush=True)
    for _ in sys.stdin:
        measure(step, samples, 0.05)  # settling, as in measure.h
        rate = measure(step, samples, seconds)
        print(f'{rate:.1f} {peak_resident_mb():.1f}', flush=True)


if __name__ == '__main__':
    main()
