"""Bound transfer between bit-widths from below by the distance of their logits, on networks that ship; the rows go to JSON.

    python scripts/measure_bound.py --out nbs/results/bound.json

Patch PGD makes an 8×8 patch for each image at a random place, at each bit-width. Images: the first of the bundled test sample.
A network whose rows are there is not attacked again."""
import argparse, time
from pathlib import Path

from triqdef.attack.pgd import PatchPGD
from triqdef.data import sample_tensors
from triqdef.evaluate.margins import transfer_bound
from triqdef.files import plain, write_json
from triqdef.quant.checkpoint import load_start
from triqdef.quant.convert import bits_of

from recorded import begun


def rows(net, x, y, args):
    "The bound from each bit-width to each other."
    pgd = PatchPGD(8, args.steps, step_size=args.step_size, seed=args.seed)
    for b in bits_of(net):
        f = transfer_bound(net, pgd.attack(net, x, y, bits=b), y, b)
        for r in f.to_dict('records'): yield r | {k: r[k].to_dict() for k in ('bound', 'fooled')}

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--networks', nargs='+', default=[f'cifar10-resnet20-{k}' for k in ('qat', 'patch-at', 'triqdef')])
    p.add_argument('--n', type=int, default=100, help='test images')
    p.add_argument('--steps', type=int, default=40, help='of Patch PGD')
    p.add_argument('--step-size', type=float, default=.05, help='of Patch PGD')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', required=True)
    args = p.parse_args()
    out, t = Path(args.out), sample_tensors()
    x, y = t['x_test'][:args.n].float()/255, t['y_test'][:args.n].long()
    done = begun(out, 'triqdef-bound-1', 'networks', n=args.n, seed=args.seed)
    for name in args.networks:
        if any(r['network'] == name for r in done['networks']): continue
        start = time.time()
        found = [*rows(load_start(name), x, y, args)]
        done['networks'].append(plain(dict(network=name, rows=found, seconds=round(time.time() - start, 1))))
        write_json(out, done)
        print(name, done['networks'][-1]['seconds'], 's', flush=True)


if __name__ == '__main__': main()
