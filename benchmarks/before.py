"A TriQDef step of this tree against that of another checkout: two processes that take turns."
import json, os, subprocess, sys
from argparse import Namespace
from pathlib import Path

from measure import CLOCKS, begin, finish, parser, ratios, table

HERE = Path(__file__).resolve().parents[1]
VARIANTS = {'λ = 0': (1., 0., 0.), 'TriQDef': (1., .1, .1)}


def serve(args):
    "Take a training step for each line of input, and print its milliseconds."
    from step import Step
    a = Namespace(**vars(args), size=32, patch=8, bits=(32, 4), attack_steps=5, weight='lsq', act='lsq', bf16=False, contiguous=False)
    steps, now = {k: Step(a, w, args.attack) for k, w in VARIANTS.items()}, CLOCKS[args.clock]
    print('ready', flush=True)
    for line in sys.stdin:
        start = now(); steps[line.strip()]()
        print(json.dumps((now() - start)*1e3), flush=True)

class Tree:
    "A process whose `triqdef` is that of one checkout."
    def __init__(self, path, args):
        call = [sys.executable, __file__, '--serve', '--clock', args.clock, '--arch', args.arch, '--batch', str(args.batch), '--threads', str(args.threads),
                '--seed', str(args.seed), '--device', args.device, *['--attack']*args.attack]
        env = dict(os.environ, PYTHONPATH=str(path))
        self.process = subprocess.Popen(call, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        if self.answer() != 'ready': raise SystemExit(f'{path} cannot run the step: PYTHONPATH={path} {" ".join(call)}')

    def answer(self): return self.process.stdout.readline().strip()
    def __call__(self, name):
        print(name, file=self.process.stdin, flush=True)
        return float(self.answer())

def main():
    p = parser(__doc__, repeats=5)
    p.add_argument('--old', default='', help='folder of the other checkout')
    p.add_argument('--commit', default='', help='its commit, for the record')
    p.add_argument('--arch', default='resnet20', help='builder of the network')
    p.add_argument('--batch', type=int, default=128, help='images a step')
    p.add_argument('--attack', action='store_true', help='with the 5-step inner attack')
    p.add_argument('--serve', action='store_true', help='used by the measurement')
    p.set_defaults(warmup=1)
    args = begin(p)
    if args.serve: return serve(args)
    if not args.old: return print('nothing to compare: give --old, a folder with the other checkout')
    trees = dict(before=Tree(args.old, args), now=Tree(HERE, args))
    times = {f'{k}, {t}': [] for k in VARIANTS for t in trees}
    try:
        for r in range(-args.warmup, args.repeats):
            for n in times:
                took = trees[n.split(', ')[1]](n.split(', ')[0])
                if r >= 0: times[n].append(took)
    finally:
        for t in trees.values(): t.process.kill()
    results, limits = {}, {}
    for k in VARIANTS:
        rows = ratios({n: v for n, v in times.items() if n.startswith(k)}, f'{k}, before')
        table(k, rows, ['ms', 'q1', 'q3', 'ratio'])
        results[k] = rows
        limits[f'{k} step, now / before'] = (rows[f'{k}, now']['ratio'], .6)
    sys.argv = [Path(a).name if a == args.old else a for a in sys.argv]      # no path of a machine in the file
    args.old = Path(args.old).name
    finish(args, results, limits)


if __name__ == '__main__': main()
