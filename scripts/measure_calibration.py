#!/usr/bin/env python3
"""A published ResNet-50, quantized without training and without labels: what each method of calibration keeps.

    python scripts/measure_calibration.py --path imagenette2-224 --weights resnet50.pth --n 120 --peers

Each cell is a method at one bit-width: how many of --n validation pictures keep the class of full precision among 1000,
how far the logits are from it, and top-1. --cells names some, as METHOD@BITS; the methods are those of `calibrate`, with
weight steps per channel unless the name begins with `tensor-`, on equal ranges if it begins with `equal-`. --peers adds
ONNX Runtime's static quantization (QDQ, per channel, reduce_range).
All calibrate on the same --calibrate-n training pictures. Networks and logits are kept in --folder: the same command
goes on where it stopped, and with a larger --n it predicts the pictures that are missing."""
import argparse, time
from importlib.metadata import version
from pathlib import Path

import torch

from triqdef.classifiers import classifier
from triqdef.core import atomic_path, fast_layout, seed_everything, versions
from triqdef.files import read_json, write_json
from triqdef.imagenet import imagenet_dls, imagenet_valid
from triqdef.pictures import to_pixels
from triqdef.quant.calibrate import calibrate
from triqdef.quant.convert import to_multibit
from triqdef.quant.equalize import equalize
from triqdef.quant.frozen import weights_once
from triqdef.quant.switch import at_bits

from recorded import command

FORMAT = 'triqdef-calibration-1'
CELLS = 'mse@8 outputs@8 mse@4 outputs@4 adaround@4 adaround@8 tensor-mse@8'


def batches(data, first, bs):
    "Pictures from `first` on, pixels in [0,1]."
    for i in torch.arange(first, len(data)).split(bs): yield fast_layout(to_pixels(data.batch(i)[0]))

def keep(values, file):
    with atomic_path(file) as tmp: torch.save(values, tmp)

@torch.no_grad()
def logits(run, data, file, bs):
    "Logits of all pictures; those in the file are not computed again."
    out = [torch.load(file)] if file.exists() else []
    if out and len(out[0]) >= len(data): return out[0][:len(data)]
    for x in batches(data, len(out[0]) if out else 0, bs):
        out.append(run(x).float())
        keep(torch.cat(out), file)
    return torch.cat(out)

def network(method, bits, plain, pictures, folder):
    "The calibrated network of a method, made once."
    kinds, file = method.split('-'), folder/f"{method} {' '.join(map(str, bits))}.pt"
    if 'equal' in kinds: plain = equalize(plain)
    weight = 'adaround' if 'adaround' in kinds else 'lsq'
    net = to_multibit(plain, (32, *bits), weight=weight, per_channel='tensor' not in kinds).eval()
    if file.exists():
        net.load_state_dict(torch.load(file))
        return net
    start = time.time()
    calibrate(net, pictures, len(pictures), method=kinds[-1])
    print(f'{method} calibrated in {time.time() - start:.0f} s', flush=True)
    keep(net.state_dict(), file)
    return net

def ours(cell, cells, plain, pictures, folder):
    "A function of images: the logits of a cell."
    method, bits = cell.split('@')
    same = sorted({int(c.split('@')[1]) for c in cells if c.split('@')[0] == method}, reverse=True)
    net = network(method, same, plain, pictures, folder)
    def run(x):
        with at_bits(net, int(bits)), weights_once(net): return net(x)
    return run

def onnxruntime_static(plain, pictures, folder):
    "ONNX Runtime's static quantization: QDQ, per channel, reduce_range."
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationDataReader, quantize_static, QuantFormat
    from onnxruntime.quantization.shape_inference import quant_pre_process
    files = [str(folder/f'{n}.onnx') for n in ('float', 'ready', 'static')]

    class Reader(CalibrationDataReader):
        def __init__(self): self.left = iter(b for x in pictures for b in x.contiguous().split(8))
        def get_next(self):
            x = next(self.left, None)
            return None if x is None else dict(x=x.numpy())

    if not Path(files[2]).exists():
        dynamic = dict(x={0: torch.export.Dim('batch')})
        torch.onnx.export(plain, (pictures[0][:2].contiguous(),), files[0], input_names=['x'], output_names=['y'], dynamic_shapes=dynamic)
        quant_pre_process(files[0], files[1])
        quantize_static(files[1], files[2], Reader(), quant_format=QuantFormat.QDQ, per_channel=True, reduce_range=True)
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    session = ort.InferenceSession(files[2], options)
    return lambda x: torch.from_numpy(session.run(None, dict(x=x.contiguous().numpy()))[0])

PEERS = {'onnxruntime static@8': onnxruntime_static}


def figures(z, z32, y):
    "What a cell keeps of full precision, and its accuracy."
    p, p32 = z.argmax(1), z32.argmax(1)
    far = ((z - z32).norm(dim=1)/z32.norm(dim=1)).mean()
    return dict(n=len(y), kept=round((p == p32).float().mean().item(), 4), logits_off=round(far.item(), 4),
                top1=round((p == y).float().mean().item(), 4), top1_float=round((p32 == y).float().mean().item(), 4))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--path', required=True, help='Imagenette or ImageNet, train and val')
    p.add_argument('--weights', required=True, help='a state dict of resnet50_v1, or `default`')
    p.add_argument('--model', default='resnet50_v1')
    p.add_argument('--cells', nargs='*', default=CELLS.split(), metavar='METHOD@BITS')
    p.add_argument('--n', type=int, default=120, help='validation pictures')
    p.add_argument('--calibrate-n', type=int, default=64, help='training pictures')
    p.add_argument('--bs', type=int, default=20)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--peers', action='store_true')
    p.add_argument('--folder', default='runs/calibration', help='where networks and logits are kept')
    p.add_argument('--out', default='nbs/results/calibration.json')
    a = p.parse_args()
    seed_everything(a.seed)
    folder = Path(a.folder); folder.mkdir(parents=True, exist_ok=True)
    plain = classifier(a.model, a.weights).to(memory_format=torch.channels_last)
    valid = imagenet_valid(a.path, plain.preset, a.n)
    train = imagenet_dls(a.path, plain.preset, train_n=a.calibrate_n, scale=None, device='cpu').train.dataset
    pictures = list(batches(train, 0, 32))
    z32 = logits(plain, valid, folder/'float.logits', a.bs)
    out = Path(a.out)
    kept = read_json(out, FORMAT) if out.exists() else dict(commands=[], cells={})
    found = kept['cells'].setdefault(str(a.n), {})
    makers = {c: lambda *args, c=c: ours(c, a.cells, *args) for c in a.cells}
    if a.peers: makers |= PEERS
    for name, make in makers.items():
        file = folder/f'{name}.logits'
        done = torch.load(file) if file.exists() else []
        run = None if len(done) >= a.n else make(plain, pictures, folder)
        found[name] = figures(logits(run, valid, file, a.bs), z32, valid.y)
        print(name, found[name], flush=True)
        write_json(out, dict(format=FORMAT, commands=sorted({*kept['commands'], command()}), model=a.model, calibrate_n=a.calibrate_n, seed=a.seed,
                             versions=versions('cpu') | dict(onnxruntime=version('onnxruntime')), cells=kept['cells']))


if __name__ == '__main__': main()
