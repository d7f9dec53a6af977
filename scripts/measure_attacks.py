"""Every attack on an undefended CIFAR-10 network, at its published area and budget, beside its null; rows go to JSON.

    python scripts/measure_attacks.py NETWORK --name "..." --out nbs/results/attacks.json

NETWORK is a checkpoint of this library, a run folder, or the name of a pretrained network; it is attacked at its highest
bit-width. Images are the first of the CIFAR-10 test set; patches for all images are made on training images. Each row is
written when it is done: the same command again goes on with the rows that are missing.
"""
import argparse, time
from pathlib import Path

from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.nes import NES
from triqdef.attack.patchattack import MPA, TPA
from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.attack.textures import TextureDictionary
from triqdef.data import cifar_dls
from triqdef.evaluate.success import clean_accuracy, predict
from triqdef.evaluate.transfer import attack_settings, evaluation_images, transfer_matrix
from triqdef.files import plain, write_json
from triqdef.quant.checkpoint import load_checkpoint, pretrained, pretrained_names
from triqdef.quant.convert import bits_of
from triqdef.train.run import load_run

from recorded import begun


def rows(q, textures, corner='corner'):
    "Name → (attack, share of --n that it is tried on)."
    out = {f'Patch PGD {s}×{s}, random place': (PatchPGD(s, 60), 1) for s in (8, 5, 4)}
    out |= {'Patch PGD 8×8, corner': (PatchPGD(8, 60, places=corner), 1),
            'Patch PGD 8×8, random place, target 3': (PatchPGD(8, 60, target=3), 1)}
    out |= {f'GAP {s}×{s}, target 3': (GAP(s, 3, 200, angle=0), 1) for s in (8, 12, 16)}
    out |= {'LaVAN 2 %, corner': (LaVAN(area=.02, steps=300), .5),
            'LaVAN 2 %, best of 16 places': (LaVAN(area=.02, steps=300, places='search'), .5),
            'LaVAN 2 %, corner, target 3': (LaVAN(area=.02, steps=300, target=3), .5),
            'LaVAN 2 %, universal, corner': (LaVAN(area=.02, steps=500, universal=True), 1),
            'Sparse-RS 8×8': (SparseRS(8, q), .25), 'NES 8×8': (NES(8, q), .25), 'MPA': (MPA(queries=q), .25),
            'TPA': (TPA(textures, queries=q), .25), 'TPA, target 3': (TPA(textures, queries=q, target=3), .25)}
    return out | {f'Patch PGD {s}×{s}, 20 steps': (PatchPGD(s, 20), .5) for s in (2, 3, 6, 10, 12, 16)}

def load(where):
    if where in pretrained_names(): return pretrained(where)
    return load_run(where).net if Path(where).is_dir() else load_checkpoint(where)

def measured(net, x, y, name, attack, dls, args, parts):
    "One row of the table."
    start, bits = time.time(), bits_of(net)[:1]
    m = transfer_matrix(net, [(x, y)], {name: attack}, bits, fit_on=dls.train, seed=args.seed, bs=args.bs, parts=parts,
                        progress=False)
    f = m.to_frame()
    cells = f[['definition', 'asr', 'low', 'high', 'n'] + [c for c in ('area', 'queries') if c in f]].to_dict('records')
    nulls = {k: m.null_success(name, k, bits[0]).rate.to_dict() for k in m.nulls_of(name)}
    return plain(dict(attack=name, settings=attack_settings(attack), images=len(x), cells=cells, nulls=nulls,
                      seconds=round(time.time() - start, 1)))

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('network')
    p.add_argument('--name', default='', help='what to call it in the tables')
    p.add_argument('--n', type=int, default=300, help='test images; slow attacks take a half or a quarter of them')
    p.add_argument('--queries', type=int, default=10_000, help='of the attacks that only see scores')
    p.add_argument('--bs', type=int, default=100, help='images attacked together')
    p.add_argument('--only', nargs='+', help='beginnings of the rows wanted')
    p.add_argument('--seed', type=int, default=0); p.add_argument('--device', default='cpu')
    p.add_argument('--textures', default='textures.safetensors', help='texture dictionary; made if it is missing')
    p.add_argument('--out', required=True)
    args, out = p.parse_args(), None
    out, parts = Path(args.out), Path(args.out).with_suffix('.parts')
    net = load(args.network).to(args.device).eval()
    dls = cifar_dls(bs=128, device=args.device)
    x, y = evaluation_images(net, dls.valid, args.n)
    textures = dictionary(net, dls, args)
    clean = clean_accuracy(predict(net, x, bits_of(net)[0])[0], y).rate.to_dict()
    done = begun(out, 'triqdef-attacks-1', 'rows', args.device, network=args.name or args.network, seed=args.seed, clean=clean)
    for name, (attack, share) in rows(args.queries, textures).items():
        if args.only and not name.startswith(tuple(args.only)): continue
        if any(r['attack'] == name for r in done['rows']): continue
        k = max(2, round(args.n*share))
        done['rows'].append(measured(net, x[:k], y[:k], name, attack, dls, args, parts))
        write_json(out, done)
        print(done['rows'][-1]['attack'], done['rows'][-1]['cells'], done['rows'][-1]['seconds'], 's', flush=True)

def dictionary(net, dls, args):
    "The textures of TPA, built once."
    where = Path(args.textures)
    if where.exists(): return TextureDictionary.load(where)
    made = TextureDictionary.build(net, dls.train, n_clusters=2, per_class=100, steps=100)
    made.save(where)
    return made


if __name__ == '__main__': main()
