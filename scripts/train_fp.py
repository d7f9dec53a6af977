#!/usr/bin/env python3
"""Train a full-precision CIFAR ResNet on all of CIFAR-10 and write its weights.

    python scripts/train_fp.py --epochs 20 --out runs/fp/resnet20_fp

The 50,000 training images train, but for a stratified share that is watched while training; the 10,000 test images are
looked at once, at the end. Weights go to OUT.safetensors, and what made them to OUT.json. A run that was killed goes on
from its last whole epoch when the same command is given again. With another --epochs it goes on in the cycle of that
length, at the share of it that the epochs done make up; OUT.json tells each piece.
"""
import argparse, json, sys, time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.schedule import *  # fit_one_cycle is patched into Learner
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.metrics import accuracy
from fastai.optimizer import OptimWrapper
from safetensors.torch import save_file

from triqdef.core import atomic_path, seed_everything, versions
from triqdef.data import EpochOrder, cifar_dls, sample_dls
from triqdef.models import build_model
from triqdef.quant.checkpoint import pretrained
from triqdef.train.run import Bfloat16


def plain(o):
    "NumPy scalars, which schedules leave in an optimizer's state, as Python numbers: a safe load refuses the former."
    if isinstance(o, dict): return {k: plain(v) for k, v in o.items()}
    if isinstance(o, (list, tuple)): return type(o)(plain(v) for v in o)
    return o.item() if isinstance(o, np.generic) else o


class ChannelsLast(Callback):
    "Images in the layout in which convolutions are fastest; the same numbers."
    def before_batch(self): self.learn.xb = tuple(x.contiguous(memory_format=torch.channels_last) for x in self.xb)


class Keep(Callback):
    "A line and a checkpoint per epoch."
    order = 70
    def __init__(self, path): self.path, self.start, self.first, self.pieces = path, time.time(), 0, []
    def before_fit(self): self.pieces = self.pieces + [dict(from_epoch=self.first, cycle=self.n_epoch)]
    def after_epoch(self):
        if self.epoch < self.first: return    # fastai walks through the epochs that it skips
        names, values = self.recorder.metric_names[1:-1], self.recorder.log[1:]
        line = ' '.join(f'{n} {v:.4f}' for n, v in zip(names, values))
        minutes = (time.time() - self.start)/60
        print(f'epoch {self.epoch} {line} minutes {minutes:.1f}', flush=True)
        state = dict(model=self.model.state_dict(), opt=plain(self.opt.state_dict()),
                     epoch=self.epoch + 1, pieces=self.pieces, minutes=minutes)
        with atomic_path(self.path) as tmp: torch.save(state, tmp)


def arguments():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--model', default='resnet20')
    p.add_argument('--data', default='cifar10', choices=['cifar10', 'sample'])
    p.add_argument('--start', default='scratch', help="'scratch' or a full-precision checkpoint that ships, to go on from")
    p.add_argument('--epochs', type=int, default=20)
    p.add_argument('--bs', type=int, default=128)
    p.add_argument('--lr', type=float, default=.2, help='peak of the one-cycle schedule')
    p.add_argument('--wd', type=float, default=5e-4)
    p.add_argument('--smooth', type=float, default=0., help='label smoothing')
    p.add_argument('--valid-n', type=int, default=1000, help='training images set aside to watch')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--device', default=None)
    p.add_argument('--amp', action='store_true', help='bfloat16 autocast in the training forward')
    p.add_argument('--out', default='runs/fp/resnet20_fp', help='path without suffix')
    return p.parse_args()


def test_accuracy(net, dl):
    "Right answers and images, in float32."
    net.eval()
    with torch.no_grad(): right = [(net(x).argmax(1) == y).sum().item() for x, y in dl]
    return sum(right), len(dl.dataset)


def main():
    a = arguments()
    out = Path(a.out)
    check = out.with_name(out.name + '.ckpt.pth')
    seed_everything(a.seed)
    maker = cifar_dls if a.data == 'cifar10' else sample_dls
    dls = maker(bs=a.bs, valid='split', valid_n=a.valid_n, seed=a.seed, device=a.device)
    net = build_model(a.model, dls.c) if a.start == 'scratch' else pretrained(a.start)
    net.to(dls.device, memory_format=torch.channels_last)
    sgd = partial(OptimWrapper, opt=partial(torch.optim.SGD, momentum=.9, nesterov=True, weight_decay=a.wd))
    learn = Learner(dls, net, loss_func=CrossEntropyLossFlat(label_smoothing=a.smooth), opt_func=sgd, metrics=accuracy,
                    moms=None, wd=None, cbs=[EpochOrder(), ChannelsLast(), Keep(check)] + ([Bfloat16()] if a.amp else []))
    learn.create_opt()
    first = 0
    if check.exists():
        state = torch.load(check, map_location=dls.device, weights_only=True)
        net.load_state_dict(state['model']); learn.opt.load_state_dict(state['opt']); first = state['epoch']
        learn.keep.first, learn.keep.pieces = first, state['pieces']
        learn.keep.start -= 60*state['minutes']
        print(f'resumed after {first} epochs', flush=True)
    with learn.no_bar(), learn.no_logging():
        if first < a.epochs:
            learn.fit_one_cycle(a.epochs, a.lr, wd=a.wd, moms=(.9, .9, .9), pct_start=.2, div=10., start_epoch=first)
    right, n = test_accuracy(learn.model, dls[2])
    with atomic_path(out.with_suffix('.safetensors')) as tmp:
        save_file({k: v.detach().cpu().contiguous(memory_format=torch.contiguous_format) for k, v in net.state_dict().items()}, tmp)
    about = dict(command=' '.join(['python'] + sys.argv), settings=vars(a), train_images=len(dls.train.dataset),
                 test_right=right, test_n=n, test_accuracy=right/n, minutes=round((time.time() - learn.keep.start)/60, 1),
                 pieces=learn.keep.pieces, arithmetic='bfloat16 autocast, float32 weights' if a.amp else 'float32',
                 versions=versions(dls.device))
    with atomic_path(out.with_suffix('.json')) as tmp: tmp.write_text(json.dumps(about, indent=1) + '\n')
    print(f'test accuracy {right/n:.4f} of {n}', flush=True)


if __name__ == '__main__': main()
