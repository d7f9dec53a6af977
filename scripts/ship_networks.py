#!/usr/bin/env python3
"""Copy trained networks of a study into the package, with what they scored.

    python scripts/ship_networks.py runs/study --arms patch-at triqdef
    python scripts/ship_networks.py runs/qat --run qat

An arm's network becomes triqdef/assets/cifar10-resnet20-ARM.safetensors. Its header keeps the settings and the accuracy
on the test images that the study measured, which a test measures again. With --run the folder is that of one training,
and the 10,000 test images are scored here.
"""
import argparse
from pathlib import Path

import pandas as pd

from triqdef.data import cifar_dls
from triqdef.evaluate.success import clean_accuracy, predict
from triqdef.quant.checkpoint import load_checkpoint, save_checkpoint
from triqdef.quant.convert import bits_of
from triqdef.study import read_cell

assets = Path(__file__).resolve().parent.parent/'triqdef'/'assets'


def write(net, name, more):
    "Write a network into the package, with `more` in its header."
    d = net.description
    path = assets/f"cifar10-{d['arch']}-{name}.safetensors"
    save_checkpoint(net, path, d['arch'], d['n_classes'], d['meta'] | more)
    print(path.name, {b: f"{c['value']:.2%}" for b, c in more['clean'].items()}, f'{path.stat().st_size/1e6:.2f} MB')


def ship_arm(folder, arm, seed):
    run = folder/arm/f'seed{seed}'/'train'
    cell = read_cell(run/'cell.json')
    more = {k: cell[k] for k in ('recipe', 'scale', 'arm', 'seed', 'command', 'seconds', 'clean')}
    write(load_checkpoint(run/'network.safetensors'), arm, more)


def ship_run(folder, name):
    net, test = load_checkpoint(folder/'network.safetensors'), cifar_dls(device='cpu').valid
    clean = {str(b): clean_accuracy(*predict(net, test, b)).rate.to_dict() for b in bits_of(net)}
    write(net, name, dict(seconds=round(pd.read_csv(folder/'history.csv').seconds.sum()), clean=clean))


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('folder', type=Path, help='folder of the study, or with --run of one training')
    p.add_argument('--arms', nargs='+', default=['patch-at', 'triqdef'])
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--run', metavar='NAME', help='the folder is a run, which ships as cifar10-ARCH-NAME')
    a = p.parse_args()
    if a.run: return ship_run(a.folder, a.run)
    for arm in a.arms: ship_arm(a.folder, arm, a.seed)


if __name__ == '__main__': main()
