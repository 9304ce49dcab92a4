#!/usr/bin/env python3
"""Writes tests/gold_training.h: what PyTorch gets for the training runs, optimizers and schedules of the tests.

    python3 tools/gold_training.py > tests/gold_training.h

Everything is computed in float64. Numbers come from a generator that the header repeats in C; each is a float32 number, so that
a float program starts from the very same weights and inputs."""
import math
import textwrap
import warnings

import torch
from torch import nn

from gold_numbers import classes, numbers
from torch.nn import functional as F

warnings.filterwarnings("ignore")  # PyTorch wants an optimizer's step before a scheduler's: here only the rates count
torch.set_default_dtype(torch.float64)
torch.set_num_threads(1)
STEPS = 10


class MLP(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc1 = nn.Linear(20, 17)
        self.fc2 = nn.Linear(17, 10)

    def loss(self, step):
        x = numbers((16, 20), 1000 + step)
        return F.cross_entropy(self.fc2(F.relu(self.fc1(x))), classes(16, 10, step))


class CNN(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(2, 6, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 9, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(9)
        self.fc = nn.Linear(9, 5)

    def loss(self, step):
        x = numbers((6, 2, 11, 11), 1000 + step)
        x = F.max_pool2d(F.relu(self.bn1(self.conv1(x))), 2)
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return F.cross_entropy(self.fc(x), classes(6, 5, step))


class Block(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.ln1 = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ln2 = nn.LayerNorm(width)
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)

    def forward(self, x):
        hidden = torch.full((x.shape[1], x.shape[1]), -math.inf).triu(1)
        h = self.ln1(x)
        x = x + self.attention(h, h, h, attn_mask=hidden, need_weights=False)[0]
        return x + self.down(F.gelu(self.up(self.ln2(x))))


class LM(nn.Module):
    def __init__(self):
        super().__init__()
        self.token = nn.Embedding(13, 12)
        self.position = nn.Embedding(7, 12)
        self.block = Block(12, 3)
        self.ln = nn.LayerNorm(12)
        self.head = nn.Linear(12, 13)

    def loss(self, step):
        x = self.token(classes(21, 13, step).reshape(3, 7)) + self.position(torch.arange(7))
        target = classes(21, 13, step + 1)
        target[::8] = -100  # ignored
        return F.cross_entropy(self.head(self.ln(self.block(x))).reshape(21, 13), target)


def start(name, shape):
    """offset and scale of a parameter's first numbers: powers of two, so that they are exact."""
    if len(shape) == 1:
        return (1, 0.25) if name.endswith("weight") else (0, 0.125)
    return 0, 2.0 ** -round(math.log2(math.prod(shape[1:])) / 2)


def g(x):
    return "%.17g" % x


def row(values, indent=""):
    """In lines of at most 140 columns."""
    one = "{ " + ", ".join(g(v) for v in values) + " }"
    if len(one) < 90:
        return one
    return "{\n" + textwrap.fill(one[2:-2], 140, initial_indent=indent + "    ", subsequent_indent=indent + "    ") + f"\n{indent}}}"


def train(name, model, optimizer):
    print(f"static const gold_param gold_{name}[] = {{ /* name, numbers, offset, scale; the salt is the row */")
    with torch.no_grad():
        for i, (key, p) in enumerate(model.named_parameters()):
            offset, scale = start(key, p.shape)
            p.copy_(offset + scale * numbers(p.shape, i))
            assert torch.equal(p, p.float().double())
            print(f'    {{ "{key}", {p.numel()}, {g(offset)}, {g(scale)} }},')
    print("    { 0, 0, 0, 0 }\n};")
    opt = optimizer(model)
    losses = []
    for step in range(STEPS):
        opt.zero_grad()
        loss = model.loss(step)
        loss.backward()
        opt.step()
        losses.append(loss.item())
    print(f"static const double gold_{name}_loss[GOLD_STEPS] = {row(losses)};")
    for key, p in model.named_buffers():
        if p.ndim:
            print(f"static const double gold_{name}_{key.replace('.', '_')}[{p.numel()}] = {row(p.tolist())};")
    print()


def adamw(model):
    decay = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim == 1]
    return torch.optim.AdamW([dict(params=decay), dict(params=rest, weight_decay=0)], lr=1 / 128, weight_decay=0.125)


# ---- optimizers: what C's desc says, 0 for a default ----
OPTIMIZERS = [
    ("sgd", dict(lr=0.1)),
    ("sgd", dict(lr=0.1, weight_decay=0.03)),
    ("sgd", dict(lr=0.1, momentum=0.9)),
    ("sgd", dict(lr=0.05, momentum=0.8, dampening=0.3, weight_decay=0.02)),
    ("sgd", dict(lr=0.05, momentum=0.9, nesterov=True)),
    ("sgd", dict(lr=0.05, momentum=0.7, weight_decay=0.05, nesterov=True)),
    ("adam", dict()),
    ("adam", dict(lr=0.1)),
    ("adam", dict(lr=0.02, betas=(0.8, 0.95), eps=0.01, weight_decay=0.1)),
    ("adamw", dict()),
    ("adamw", dict(lr=0.1)),
    ("adamw", dict(lr=0.05, betas=(0.7, 0.9), eps=0.1, weight_decay=0.2)),
    ("adamw", dict(lr=0.05, weight_decay=-1)),
    ("rmsprop", dict()),
    ("rmsprop", dict(lr=0.05, alpha=0.9, eps=0.01)),
    ("rmsprop", dict(lr=0.05, weight_decay=0.1)),
    ("rmsprop", dict(lr=0.02, momentum=0.9)),
    ("rmsprop", dict(lr=0.02, alpha=0.8, centered=True)),
    ("rmsprop", dict(lr=0.01, alpha=0.9, eps=1e-3, momentum=0.5, weight_decay=0.05, centered=True)),
]
TORCH = dict(sgd=torch.optim.SGD, adam=torch.optim.Adam, adamw=torch.optim.AdamW, rmsprop=torch.optim.RMSprop)


def optimizer_rows():
    print("""/* p starts as gold_start; the gradient of element k at step i is gold_curvature[k] p + ((i (k + 1)) % 5) / 4 - 1/2.
   0 is C's default; b1 is alpha, too. */
static const double gold_start[3] = { 1, -0.5, 0.25 }, gold_curvature[3] = { 1, 2, 0.5 };
typedef struct gold_optimizer {
    const char *rule;
    double lr, momentum, dampening, weight_decay, b1, b2, eps;
    int nesterov, centered;
    double p[8][3]; /* after each step */
} gold_optimizer;
static const gold_optimizer gold_optimizers[] = {""")
    for rule, d in OPTIMIZERS:
        p = nn.Parameter(torch.tensor([1, -0.5, 0.25]))
        args = dict(d)
        if args.get("weight_decay") == -1:  # C's way to say none where the default is some
            args["weight_decay"] = 0
        opt = TORCH[rule]([p], **args)
        path = []
        for i in range(8):
            b = torch.tensor([((i * (k + 1)) % 5) / 4 - 0.5 for k in range(3)])
            opt.zero_grad()
            (0.5 * torch.tensor([1, 2, 0.5]) * p * p + b * p).sum().backward()
            opt.step()
            path.append(row(p.tolist()))
        b1, b2 = d.get("betas", (d.get("alpha", 0), 0))
        fields = [d.get("lr", 0), d.get("momentum", 0), d.get("dampening", 0), d.get("weight_decay", 0), b1, b2, d.get("eps", 0)]
        flags = [int(d.get("nesterov", False)), int(d.get("centered", False))]
        print(f'    {{ "{rule}", ' + ", ".join(g(v) for v in fields) + ", " + ", ".join(map(str, flags)) + ",")
        print("        { " + ",\n        ".join(path) + " } },")
    print("};\n")


# ---- schedules ----
RATES = 34
SCHEDULES = [
    dict(kind="CONSTANT", lr=0.1),
    dict(kind="CONSTANT", lr=0.1, warmup=7),
    dict(kind="STEP", lr=0.3, period=4),
    dict(kind="STEP", lr=0.3, period=1, gamma=0.97),
    dict(kind="STEP", lr=0.3, period=5, gamma=0.5, warmup=6),
    dict(kind="MULTI_STEP", lr=0.2, milestones=(3, 4, 11, 30)),
    dict(kind="MULTI_STEP", lr=0.2, milestones=(2, 9, 20), gamma=0.3, warmup=5),
    dict(kind="COSINE", lr=0.1, total=33),
    dict(kind="COSINE", lr=0.1, min_lr=0.02, total=33),
    dict(kind="COSINE", lr=0.7, min_lr=1e-4, total=29, warmup=4),
    dict(kind="ONE_CYCLE", lr=0.1, total=34),
    dict(kind="ONE_CYCLE", lr=0.5, total=34, up=0.4, div=10, final_div=100),
    dict(kind="ONE_CYCLE", lr=0.5, total=30, up=0.1, div=4, final_div=1000),
    dict(kind="ONE_CYCLE", lr=0.1, total=30, up=0.5),
]


def rates(s):
    o = torch.optim
    lr, gamma, warmup = s["lr"], s.get("gamma", 0.1), s.get("warmup", 0)
    opt = o.SGD([nn.Parameter(torch.zeros(1))], lr=lr)
    sch = o.lr_scheduler
    main = {
        "CONSTANT": lambda: sch.LambdaLR(opt, lambda t: 1),
        "STEP": lambda: sch.StepLR(opt, s["period"], gamma),
        "MULTI_STEP": lambda: sch.MultiStepLR(opt, s["milestones"], gamma),
        "COSINE": lambda: sch.CosineAnnealingLR(opt, s["total"], s.get("min_lr", 0)),
        "ONE_CYCLE": lambda: sch.OneCycleLR(opt, lr, total_steps=s["total"], pct_start=s.get("up", 0.3), anneal_strategy="cos",
                                            cycle_momentum=False, div_factor=s.get("div", 25), final_div_factor=s.get("final_div", 1e4)),
    }[s["kind"]]()
    if warmup:
        rise = sch.LinearLR(opt, 1 / warmup, 1, warmup - 1)
        main = sch.SequentialLR(opt, [rise, main], [warmup])
    out = []
    n = s["total"] if s["kind"] == "ONE_CYCLE" else RATES
    while True:
        out.append(opt.param_groups[0]["lr"])
        if len(out) == n:  # one-cycle ends with its total: one more step is an error
            return out
        main.step()


def schedule_rows():
    print("""/* The rate of steps 0 to n - 1. */
typedef struct gold_schedule {
    dl_schedule_kind kind;
    double lr, min_lr, gamma, up, div, final_div;
    int warmup, total, period, n_milestones;
    int64_t milestones[4];
    int n;
    double rate[GOLD_RATES];
} gold_schedule;
static const gold_schedule gold_schedules[] = {""")
    for s in SCHEDULES:
        m = list(s.get("milestones", ()))
        r = rates(s)
        path = row(r, "    ")
        fields = ", ".join(g(s.get(k, 0)) for k in ("lr", "min_lr", "gamma", "up", "div", "final_div"))
        ints = ", ".join(str(v) for v in (s.get("warmup", 0), s.get("total", 0), s.get("period", 0), len(m)))
        print(f"    {{ DL_SCHEDULE_{s['kind']}, {fields}, {ints}, {{ {', '.join(map(str, m or [0]))} }}, {len(r)}, {path} }},")
    print("};\n")


def clip_rows():
    a = nn.Parameter(torch.zeros(3))
    b = nn.Parameter(torch.zeros(2))
    print("/* Gradients 3 -4 12, 0.5 -2: clip_grad_norm to these norms: the norm before, the five gradients. */")
    print("static const double gold_clip[4][7] = {")
    for top in (1, 5, 13.2, 20):
        a.grad, b.grad = torch.tensor([3.0, -4, 12]), torch.tensor([0.5, -2])
        norm = nn.utils.clip_grad_norm_([a, b], top)
        print("    " + row([top, norm.item()] + a.grad.tolist() + b.grad.tolist()) + ",")
    print("};")


version = torch.__version__.split("+")[0]
print(f"""/* Made by tools/gold_training.py with PyTorch {version}, float64: do not edit. Include dltrain.h first. */
#ifndef GOLD_TRAINING_H
#define GOLD_TRAINING_H
enum {{ GOLD_STEPS = {STEPS}, GOLD_RATES = {RATES} }};
typedef struct gold_param {{ const char *name; int n; double offset, scale; }} gold_param;
""")
torch.manual_seed(0)
train("mlp", MLP(), lambda m: torch.optim.SGD(m.parameters(), lr=0.125, momentum=0.875))
train("cnn", CNN(), lambda m: torch.optim.Adam(m.parameters(), lr=1 / 128))
train("lm", LM(), adamw)
optimizer_rows()
schedule_rows()
clip_rows()
print("#endif")
