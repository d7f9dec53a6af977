"""Attack every network that ships with the package at each of its bit-widths; the rows go to JSON.

    python scripts/measure_shipped.py --out nbs/results/shipped.json

Clean accuracy is what the checkpoint records: all 10,000 test images. Patch PGD makes an 8×8 patch for each image at a random
place (`--places center` for the middle), at each bit-width and at all of them together. Each row is written when it is done: the same command goes on with
those that are missing."""
import argparse, time
from pathlib import Path

from triqdef.attack.pgd import PatchPGD
from triqdef.core import asset
from triqdef.data import cifar_dls
from triqdef.evaluate.transfer import attack_settings, evaluation_images, transfer_matrix
from triqdef.files import plain, write_json
from triqdef.quant.checkpoint import pretrained, pretrained_names
from triqdef.quant.convert import bits_of

from recorded import begun


def clean(net, bits):
    "Bit-width → images classified rightly and tried, as the checkpoint records them."
    meta = net.description['meta']
    if 'clean' in meta: return {b: {k: meta['clean'][str(b)][k] for k in ('k', 'n')} for b in bits}
    return {b: dict(k=meta['test_right'], n=meta['test_n']) for b in bits}

def measured(name, dls, args, parts):
    "The row of one network."
    start, net = time.time(), pretrained(name)
    bits, (x, y) = [*bits_of(net)] or [None], evaluation_images(net, dls.valid, args.n)
    attacks = {'Patch PGD 8×8': PatchPGD(8, args.steps, places=args.places)}
    sources = [*bits, *([tuple(bits)] if len(bits) > 1 and not args.single else [])]
    m = transfer_matrix(net, [(x, y)], attacks, bits, sources, seed=args.seed, bs=args.bs, parts=parts/name,
                        progress=False)
    cells = m.to_frame('asr').to_dict('records')
    nulls = [dict(attack=a, null=k, target=b) | m.null_success(a, k, b).rate.to_dict()
             for a in attacks for k in m.nulls_of(a) for b in bits]
    return plain(dict(network=name, description=net.description, bytes=asset(f'{name}.safetensors').stat().st_size, images=len(y),
                      clean=clean(net, bits), attacks={k: attack_settings(a) for k, a in attacks.items()}, cells=cells, nulls=nulls,
                      seconds=round(time.time() - start, 1)))

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--n', type=int, default=300, help='test images, the first of the test set')
    p.add_argument('--steps', type=int, default=60, help='of Patch PGD')
    p.add_argument('--places', default='random', choices=['random', 'center'], help='where a patch lies')
    p.add_argument('--single', action='store_true', help='make patches at single bit-widths only')
    p.add_argument('--bs', type=int, default=100, help='images attacked together')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--only', nargs='+', help='names of networks')
    p.add_argument('--out', required=True)
    args = p.parse_args()
    out = Path(args.out)
    done = begun(out, 'triqdef-shipped-1', 'rows', seed=args.seed)
    dls = cifar_dls(bs=128, device='cpu')
    for name in args.only or pretrained_names():
        if any(r['network'] == name for r in done['rows']): continue
        done['rows'].append(measured(name, dls, args, out.with_suffix('.parts')))
        write_json(out, done)
        print(name, done['rows'][-1]['seconds'], 's', flush=True)


if __name__ == '__main__': main()
