"One TriQDef step against the same step with both penalties off: time, and peak memory."
import json, os, subprocess, sys

import torch

from measure import begin, finish, interleaved, parser, ratios, sync, table
from triqdef.attack.patch import place
from triqdef.attack.pgd import PatchPGD
from triqdef.models import build_model
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.train.objective import Objective

VARIANTS = {'joint patch-adversarial, λ = 0': (1., 0., 0.), 'FDP alone': (1., .1, 0.), 'GPDP alone': (1., 0., .1), 'TriQDef': (1., .1, .1)}
BASE = next(iter(VARIANTS))


class Step:
    "A network, its optimizer, a batch; each call is one training step."
    def __init__(self, args, weights, attack):
        torch.manual_seed(args.seed)
        layout = torch.contiguous_format if args.contiguous else torch.channels_last
        net = to_multibit(build_model(args.arch), args.bits, args.weight, args.act)
        self.net = net.to(args.device, memory_format=layout).train()
        self.x = torch.rand(args.batch, 3, args.size, args.size, device=args.device).to(memory_format=layout)
        self.y = torch.randint(10, (args.batch,), device=args.device)
        calibrate(self.net, [self.x], 1, method='lsq')
        self.opt = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=.9)
        self.patch = torch.rand(3, args.patch, args.patch, device=args.device)
        self.attack = PatchPGD(args.patch, args.attack_steps, 32/255, keep='loss', seed=args.seed) if attack else None
        self.objective, self.args, self.n = Objective(*weights), args, 0

    def __call__(self):
        a, self.n = self.args, self.n + 1
        with torch.autocast(torch.device(a.device).type, torch.bfloat16, enabled=a.bf16):
            if self.attack is None: x_adv = place(self.x, self.patch, (4, 4))
            else: x_adv = self.attack.attack(self.net, self.x, self.y, bits=a.bits[self.n % len(a.bits)])
            total = self.objective(self.net, self.x, self.y, x_adv, a.bits).total
        self.opt.zero_grad(); total.backward(); self.opt.step()


def peak_memory(args, name, attack):
    "MiB that two steps take above what was held before, in a process of its own."
    if torch.device(args.device).type == 'cuda':
        step = Step(args, VARIANTS[name], attack)
        before = torch.cuda.memory_allocated(args.device)
        torch.cuda.reset_peak_memory_stats(args.device)
        step(); step(); sync(args.device)
        return (torch.cuda.max_memory_allocated(args.device) - before)/2**20
    call = [sys.executable, __file__, *sys.argv[1:], '--child', name] + ['--child-attack']*attack
    out = subprocess.run(call, capture_output=True, text=True, env=dict(os.environ, MALLOC_ARENA_MAX='2'))
    if out.returncode: raise SystemExit(f'the memory measurement of {name!r} failed:\n{out.stderr}')
    return json.loads(out.stdout.splitlines()[-1])

def resident(key):
    "MiB of this process: VmRSS held now, VmHWM the most so far. `ru_maxrss` will not do, it outlives exec."
    with open('/proc/self/status') as f: return next(int(l.split()[1]) for l in f if l.startswith(key))/2**10

def child(args):
    "Print the MiB that two steps add to this process's peak."
    step = Step(args, VARIANTS[args.child], args.child_attack)
    before = resident('VmRSS')
    step(); step()
    print(json.dumps(resident('VmHWM') - before))

def with_options(p):
    "The parser, with the options that say what a step is."
    p.add_argument('--arch', default='resnet20', help='builder of the network')
    p.add_argument('--batch', type=int, default=128, help='images a step')
    p.add_argument('--size', type=int, default=32, help='side of the images in pixels')
    p.add_argument('--patch', type=int, default=8, help='side of the patch in pixels')
    p.add_argument('--bits', type=int, nargs='+', default=[32, 4], help='active bit-widths')
    p.add_argument('--attack-steps', type=int, default=5, help='steps of the inner attack, as in TriQDef')
    p.add_argument('--weight', default='lsq', help='weight quantizer')
    p.add_argument('--act', default='lsq', help='activation quantizer')
    p.add_argument('--contiguous', action='store_true', help='NCHW memory instead of channels_last')
    return p

def main():
    p = with_options(parser(__doc__, repeats=15))
    p.add_argument('--bf16', action='store_true', help='forward passes under bfloat16 autocast')
    p.add_argument('--no-attack', action='store_true', help='only the step without the inner attack')
    p.add_argument('--no-memory', action='store_true', help='skip the memory measurement')
    p.add_argument('--child', help='used by the memory measurement'); p.add_argument('--child-attack', action='store_true')
    args = begin(p); args.bits = tuple(args.bits)
    if args.child: return child(args)
    if not os.path.exists('/proc/self/status') and not args.device.startswith('cuda'): args.no_memory = True
    results, limits = {}, {}
    for attack in (False, True)[:1 if args.no_attack else 2]:
        title = f'with a {args.attack_steps}-step inner attack' if attack else 'without the inner attack'
        steps = {n: Step(args, w, attack) for n, w in VARIANTS.items()}
        rows = ratios(interleaved(steps, args.repeats, args.warmup, args.device, clock=args.clock), BASE)
        del steps
        if not args.no_memory:
            for n in rows: rows[n]['MiB'] = peak_memory(args, n, attack)
            for r in rows.values(): r['MiB ratio'] = r['MiB']/rows[BASE]['MiB']
        table(title, rows, ['ms', 'q1', 'q3', 'ratio'] + ([] if args.no_memory else ['MiB', 'MiB ratio']))
        results[title] = rows
        limits[f'TriQDef step, {title}'] = (rows['TriQDef']['ratio'], 1.25 if attack else 1.5)
    finish(args, results, limits)


if __name__ == '__main__': main()
