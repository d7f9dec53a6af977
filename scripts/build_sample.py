#!/usr/bin/env python3
"""Build the CIFAR-10 sample that ships inside the package.

    python scripts/build_sample.py [--path CIFAR_FOLDER] [--out triqdef/assets] [--seed 0]

Reads the fastai layout ({train,test}/<class>/<index>_<class>.png, downloaded if absent), draws 200 training and 100 test
images of each class, and writes them as one lossless WebP mosaic, training first, classes in turn, with a JSON beside it:
the index of each image in the original set, its label, the seed and a SHA-256 of the pixels. Running it again gives the
same pixels; the test in nbs/345_cifar checks the sum.
"""
import argparse, json
from pathlib import Path

import torch
from fastai.data.external import URLs, untar_data
from PIL import Image

from triqdef.core import atomic_path
from triqdef.data import balanced_order, cifar_classes, class_files, pixel_hash, read_images, tiles

CITATION = 'A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, technical report, University of Toronto, 2009'


def draw(folder, per_class, seed):
    "Pixels, labels and original indices of a stratified draw, classes in turn."
    paths, y, _ = class_files(folder, cifar_classes)
    keep = balanced_order(y, seed)[:per_class*len(cifar_classes)]
    chosen = [paths[i] for i in keep]
    return read_images(chosen), y[keep].tolist(), [int(p.name.split('_')[0]) for p in chosen]


def mosaic(x, cols=60):
    "(n,3,s,s) bytes as one (rows*s, cols*s, 3) picture."
    n, _, s, _ = x.shape
    if n % cols: raise ValueError(f"{n} images do not fill rows of {cols}")
    return x.reshape(n//cols, cols, 3, s, s).permute(0, 3, 1, 4, 2).reshape(n//cols*s, cols*s, 3).numpy()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', help='CIFAR-10 in the fastai layout; downloaded by fastai when not given')
    p.add_argument('--out', default='triqdef/assets')
    p.add_argument('--seed', type=int, default=0)
    a = p.parse_args()
    path, out = Path(a.path) if a.path else untar_data(URLs.CIFAR), Path(a.out)
    train, test = draw(path/'train', 200, a.seed), draw(path/'test', 100, a.seed)
    x = torch.cat([train[0], test[0]])
    picture = mosaic(x)
    assert torch.equal(tiles(picture), x)
    with atomic_path(out/'cifar10-sample.webp') as tmp:
        Image.fromarray(picture).save(tmp, 'WEBP', lossless=True, quality=100, method=6)
    about = dict(data='CIFAR-10, a stratified sample', citation=CITATION, source='https://www.cs.toronto.edu/~kriz/cifar.html',
                 made_by='scripts/build_sample.py', seed=a.seed, vocab=cifar_classes, sha256=pixel_hash(x),
                 **{k: dict(index=i, label=y) for k, (_, y, i) in dict(train=train, test=test).items()})
    with atomic_path(out/'cifar10-sample.json') as tmp: tmp.write_text(json.dumps(about, separators=(',', ':')) + '\n')
    print(*(f'{f.name} {f.stat().st_size} bytes' for f in sorted(out.glob('cifar10-sample.*'))), sep='\n')


if __name__ == '__main__': main()
