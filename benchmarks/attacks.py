"Patch PGD, GAP and LaVAN against plain loops of the usual kind: images a second of a step."
import torch
import torch.nn.functional as F

from measure import begin, finish, interleaved, parser, ratios, table
from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.pgd import PatchPGD
from triqdef.data import sample_dls, take
from triqdef.quant.checkpoint import pretrained
from triqdef.quant.convert import at_bits

NETS = {'float': ('cifar10-resnet20-fp', None), '4 bits': ('cifar10-resnet20-qat', 4)}
CORNER = (0, 0)


def plain_loop(net, x, y, args, loss, update, universal):
    """A loop as papers' code has it: a patch as large as the image behind a mask, `backward` to every parameter,
    and after each step a second forward pass that asks whether the goal is met."""
    mask = torch.zeros_like(x[:1])
    mask[..., :args.size, :args.size] = 1
    patch = torch.rand_like(x[:1] if universal else x)
    for _ in range(args.steps):
        patch = patch.detach().requires_grad_()
        loss(net((1 - mask)*x + mask*patch), y).backward()
        patch = update(patch, patch.grad).detach().clamp(0, 1)
        with torch.no_grad(): (net(((1 - mask)*x + mask*patch).clamp(0, 1)).argmax(1) != y).float().mean()
    return patch

def one_by_one(net, x, y, args, *how):
    "The same loop for one image after the other, as the first published ones."
    for i in range(len(x)): plain_loop(net, x[i:i+1], y[i:i+1], args, *how)

def push(out, y): return -F.cross_entropy(out, y)
def pull(args): return lambda out, y: F.cross_entropy(out, torch.full_like(y, args.target))
def logits(args): return lambda out, y: (out.gather(1, y[:, None])[:, 0] - out[:, args.target]).sum()
def descend(p, g): return p - 8/255*g.sign()
def adam_like(p, g): return p - .05*g/(g.abs() + 1e-8)

def attacks(args):
    "name → (our attack as a function of network, images and labels, and the pieces of the plain loop)."
    a = dict(size=args.size, seed=args.seed, steps=args.steps)
    pgd = PatchPGD(**a, places=CORNER, keep='success')
    gap = GAP(**a, target=args.target, bs=args.batch, lr=.05, angle=0., places=CORNER)
    lavan = LaVAN(**a, target=args.target, confidence=None, places=CORNER)
    return {'Patch PGD': (lambda net, x, y, b: pgd.attack(net, x, y, bits=b), (push, descend, False)),
            'GAP': (lambda net, x, y, b: gap.fit(net, [(x, y)], bits=b), (pull(args), adam_like, True)),
            'LaVAN': (lambda net, x, y, b: lavan.attack(net, x, y, bits=b), (logits(args), descend, False))}

def variants(args, net, bits, x, y, ours, how):
    "name → (function, images)."
    few = max(1, args.batch//16)
    def at(f, x, y):
        def run():
            with at_bits(net, bits): f(net, x, y, args, *how)
        return run
    return {'triqdef': (lambda: ours(net, x, y, bits), len(x)), 'plain loop': (at(plain_loop, x, y), len(x)),
            'plain loop, one image at a time': (at(one_by_one, x[:few], y[:few]), few)}

def main():
    p = parser(__doc__, repeats=5)
    for name, value, note in (('size', 8, 'side of the patch in pixels'), ('target', 3, 'class to reach'), ('batch', 128, 'images'), ('steps', 5, 'steps that are timed')):
        p.add_argument('--' + name, type=int, default=value, help=note)
    p.set_defaults(warmup=1)
    args = begin(p)
    x, y = take(sample_dls(seed=0).valid, 2*args.batch)
    x, y = (t[y != args.target][:args.batch].to(args.device) for t in (x, y))
    results, limits = {}, {}
    for which, (name, bits) in NETS.items():
        net = pretrained(name).to(args.device).eval()
        for attack, (ours, how) in attacks(args).items():
            fs = variants(args, net, bits, x, y, ours, how)
            times = interleaved({n: f for n, (f, _) in fs.items()}, args.repeats, args.warmup, args.device, clock=args.clock)
            rows = ratios({n: [t/k/args.steps for t in times[n]] for n, (_, k) in fs.items()}, 'triqdef')
            for r in rows.values(): r['images/s'] = 1e3/r['ms']
            title = f'{attack}, {which}'
            table(title, rows, ['images/s', 'ratio'])
            results[title] = rows
            limits[f'{title}: ours / plain loop'] = (1/rows['plain loop']['ratio'], 1/3)
            limits[f'{title}: ours / one image at a time'] = (1/rows['plain loop, one image at a time']['ratio'], 1/3)
    finish(args, results, limits)


if __name__ == '__main__': main()
