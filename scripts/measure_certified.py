"""Certify networks by double masking on the first images of the bundled test sample; the rows go to JSON.

    python scripts/measure_certified.py --out nbs/results/certified.json

NETWORKS are names of networks that ship, or run folders. A row is written when a network is done, and parts of it are kept:
the same command goes on with what is missing."""
import argparse, time
from pathlib import Path

from triqdef.data import sample_tensors
from triqdef.evaluate.certified import certified
from triqdef.files import plain, write_json
from triqdef.quant.checkpoint import load_start

from recorded import begun


def row(name, args, parts):
    "The certificate of one network at each bit-width."
    start, t = time.time(), sample_tensors()
    x, y = t['x_test'][:args.n].float()/255, t['y_test'][:args.n].long()
    c = certified(load_start(name), x, y, args.patch, masks=args.masks, parts=parts)
    shown = [dict(network=Path(name).name, bits=b, **r) for b, r in c.to_frame().to_dict('index').items()]
    return plain(dict(network=name, shown=shown, **c.to_dict(), seconds=round(time.time() - start, 1)))

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--networks', nargs='+', default=[f'cifar10-resnet20-{k}' for k in ('qat', 'triqdef', 'patch-at')])
    p.add_argument('--n', type=int, default=100, help='test images')
    p.add_argument('--patch', type=int, default=5, help='side in pixels')
    p.add_argument('--masks', type=int, default=6, help='along each axis')
    p.add_argument('--out', required=True)
    args = p.parse_args()
    out = Path(args.out)
    done = begun(out, 'triqdef-certified-1', 'rows', n=args.n, seed='nothing is drawn')
    for name in args.networks:
        if any(r['network'] == name for r in done['rows']): continue
        done['rows'].append(row(name, args, out.with_suffix('.parts')))
        write_json(out, done)
        print(*done['rows'][-1]['shown'], sep='\n', flush=True)


if __name__ == '__main__': main()
