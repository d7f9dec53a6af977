#!/usr/bin/env python3
"""Accuracy of a published classifier among ImageNet's 1000 classes at several bit-widths after calibration alone, and patches against it.

    measure_imagenet.py --path imagenette2-224 --model resnet50_v1 --weights resnet50.pth --folder measured

calibrates once on pictures of the train folder and keeps the network in FOLDER/network.safetensors; predicts every validation picture
(FOLDER/predictions, shards that resume); and writes FOLDER/accuracy.json. `triqdef evaluate FOLDER/network.safetensors` attacks it afterwards."""
import argparse, sys, time
from pathlib import Path

import torch

from triqdef.classifiers import classifier, fill, read_state
from triqdef.core import seed_everything, versions
from triqdef.data import ImageLoader
from triqdef.evaluate.sharded import gather_shards, predict_shard
from triqdef.files import write_json
from triqdef.imagenet import imagenet_dls
from triqdef.quant.checkpoint import load_checkpoint, save_checkpoint
from triqdef.quant.convert import bits_of, calibrate, to_multibit


def network(a, folder):
    "The calibrated network and the loaders that it wants."
    file = folder/'network.safetensors'
    if file.exists():
        net = load_checkpoint(file)
        return net, imagenet_dls(a.path, net.preset, bs=a.bs, train_n=a.calibrate, scale=None, device='cpu')
    plain = classifier(a.model)
    fill(plain.net, read_state(a.weights), by_order=True)
    dls = imagenet_dls(a.path, plain.preset, bs=a.bs, train_n=a.calibrate, scale=None, device='cpu')
    seed_everything(0)
    net, start = to_multibit(plain.to(memory_format=torch.channels_last), a.bits, per_channel=True), time.time()
    calibrate(net, dls.train, n_batches=a.calibrate//a.bs)
    meta = dict(calibration=dict(images=a.calibrate, seconds=round(time.time() - start, 1)), weights=a.about)
    save_checkpoint(net, file, a.model, 1000, meta)
    return load_checkpoint(file), dls


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', required=True); p.add_argument('--model', required=True)
    p.add_argument('--weights', required=True, help='a state dict, taken by the order of its tensors where names differ')
    p.add_argument('--about', default='', help='where the weights are from, for the record')
    p.add_argument('--folder', required=True); p.add_argument('--bits', type=int, nargs='+', default=[32, 8, 5, 4, 2])
    p.add_argument('--calibrate', type=int, default=256); p.add_argument('--bs', type=int, default=64)
    a, start = p.parse_args(), time.time()
    folder = Path(a.folder)
    net, dls = network(a, folder)
    print(f"calibrated after {time.time() - start:.0f} s", flush=True)
    net.to(memory_format=torch.channels_last)
    start = time.time()
    predict_shard(net, dls.valid.dataset, folder/'predictions', bs=a.bs, progress=sys.stdout.isatty())
    table = gather_shards(folder/'predictions').to_frame()
    print(table)
    write_json(folder/'accuracy.json', dict(model=a.model, about=a.about, bits=list(bits_of(net)), command=' '.join(sys.argv[1:]),
        meta=net.description['meta'], rows=table.reset_index().to_dict('records'), seconds=round(time.time() - start), versions=versions('cpu')))


if __name__ == '__main__': main()
