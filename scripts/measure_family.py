#!/usr/bin/env python3
"""Does a patch made on the float ResNet-50 work on the files that are deployed?

    python scripts/measure_family.py --weights resnet50.pth --data imagenette2-224/val --out nbs/results/family.json

Members: the float network with ImageNet weights in torchvision's names (ResNet v1, stride in
the first convolution; --v2 for torchvision's own), what ONNX Runtime quantizes of it (int8 QDQ,
static, calibrated on other pictures), and int8 weights (a step for each output) and int4 weights
(in groups of 32) by torchao, or both rounded here in groups of 32 where it is not installed.
Imagenette at 224 pixels, 1000 classes. Patch PGD asks for gradients, Sparse-RS sees the scores of the ONNX file alone. Finished jobs are
kept in --parts: the same command goes on after an interruption.
"""
import argparse, copy, warnings
from importlib.util import find_spec
from pathlib import Path

import torch
import torchvision.models as tv
from torch import nn

from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.core import Normalize, versions
from triqdef.datasets import ImageFiles
from triqdef.deploy.family import family, member_table
from triqdef.deploy.onnx import OnnxNet
from triqdef.evaluate.transfer import transfer_matrix
from triqdef.files import write_json
from triqdef.layouts import imagenet_wnids
from triqdef.pictures import to_pixels

from recorded import command


def resnet50(weights, v2):
    "The network from pixels in [0,1] to 1000 logits."
    net = tv.resnet50()
    if not v2:
        for layer in (net.layer2, net.layer3, net.layer4): layer[0].conv1.stride, layer[0].conv2.stride = (2, 2), (1, 1)
    net.load_state_dict(torch.load(weights, weights_only=True))
    return nn.Sequential(Normalize((.485, .456, .406), (.229, .224, .225)), net).eval()

def pictures(folder, n, seed):
    "The first `n` of a shuffled folder of WordNet folders, as pixels and ImageNet's labels."
    at = {w: i for i, w in enumerate(imagenet_wnids())}
    paths = sorted(p for d in Path(folder).iterdir() if d.name in at for p in d.iterdir())
    order = torch.randperm(len(paths), generator=torch.Generator().manual_seed(seed))[:n]
    paths = [paths[i] for i in order]
    y = torch.tensor([at[p.parent.name] for p in paths])
    files = ImageFiles(paths, y, [str(i) for i in range(1000)], 224)
    return to_pixels(files.batch(torch.arange(n))[0]), y

def int8_file(net, x, path):
    "An int8 QDQ file by ONNX Runtime, calibrated on `x`."
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process
    if path.exists(): return path

    class Reader(CalibrationDataReader):
        def __init__(self): self.batches = iter([{'pixels': b.numpy()} for b in x.split(1)])
        def get_next(self): return next(self.batches, None)

    whole, ready = path.with_suffix('.float.onnx'), path.with_suffix('.ready.onnx')
    batch = torch.export.Dim('batch')
    torch.onnx.export(net, (x[:2],), whole, dynamo=True, verbose=False, input_names=['pixels'], output_names=['logits'],
                      dynamic_shapes=[{0: batch}], external_data=False)
    quant_pre_process(str(whole), str(ready))
    quantize_static(str(ready), str(path), Reader(), quant_format=QuantFormat.QDQ, per_channel=True, weight_type=QuantType.QInt8,
                    activation_type=QuantType.QUInt8, calibrate_method=CalibrationMethod.MinMax, extra_options=dict(ReduceRange=True))
    return path

def rounded(net, bits, group=32):
    "A copy with the weights of convolutions and linear layers rounded, one step for each `group` of them."
    net = copy.deepcopy(net)
    for m in net.modules():
        if not isinstance(m, (nn.Conv2d, nn.Linear)): continue
        w = m.weight.data.flatten(1)
        k = group if w.shape[1] % group == 0 else w.shape[1]
        w = w.view(len(w), -1, k)
        step = w.abs().amax(-1, keepdim=True)/(2**(bits - 1) - 1)
        m.weight.data = ((w/step).round()*step).nan_to_num().view_as(m.weight)
    return net

def by_torchao(net, bits, group=32):
    "A copy with all weights quantized by torchao: linear layers as it runs them; convolutions, which it leaves out, by its rounding."
    from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, quantize_
    from torchao.quantization.granularity import PerAxis, PerGroup
    def quantized(layer):
        k = layer.weight.shape[1]
        steps = PerGroup(group) if k % group == 0 else PerAxis(0)
        quantize_(layer, Int8WeightOnlyConfig() if bits == 8 else IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=steps))
        return layer
    net = copy.deepcopy(net)
    for m in net.modules():
        if isinstance(m, nn.Linear): quantized(m)
        if not isinstance(m, nn.Conv2d): continue
        w = m.weight.data.flatten(1)
        line = nn.Linear(*w.T.shape, bias=False)
        line.weight.data = w
        m.weight.data = quantized(line).weight.dequantize().detach().view_as(m.weight).contiguous()
    return net

def members(net, x, folder):
    "Name → member."
    out = {'fp32': net, 'ort int8': OnnxNet(int8_file(net, x, folder/'int8.onnx'), 1)}
    if find_spec('torchao'): return out | {f'torchao int{b}': by_torchao(net, b) for b in (8, 4)}
    return out | {f'int{b} weights': rounded(net, b) for b in (8, 4)}

def measured(args):
    "All figures."
    folder = Path(args.parts)
    folder.mkdir(parents=True, exist_ok=True)
    net = resnet50(args.weights, args.v2)
    x, y = pictures(args.data, args.n + args.calibrate, args.seed)
    fam = family(members(net, x[args.n:], folder))
    x, y = x[:args.n], y[:args.n]
    common = dict(n_attack=args.n_attack, seed=args.seed, bs=8, parts=folder/'jobs', progress=args.progress)
    print(member_table(fam, x, y).to_string(), flush=True)
    pgd = {f'Patch PGD {args.size}×{args.size}, {args.steps} steps': PatchPGD(args.size, args.steps, 16/255)}
    scores = {f'Sparse-RS {args.size}×{args.size}, {args.queries} queries': SparseRS(args.size, args.queries)}
    made = [transfer_matrix(fam, [(x, y)], pgd, sources=['fp32', 'ort int8'], **common),
            transfer_matrix(fam, [(x, y)], scores, sources=['ort int8'], **common)]
    for t in made: print((100*t.asr).round(1).to_string(), flush=True)
    return fam, made

def kept(args, fam, made):
    "What goes into the file."
    cells = [c for t in made for c in t.to_frame('asr')[['attack', 'source', 'target', 'asr', 'low', 'high', 'n', 'null']].to_dict('records')]
    left = {a: t.left_out(a) for t in made for a in t.attacks if t.left_out(a)}
    clean = [dict(member=b, accuracy=c.accuracy, low=c.low, high=c.high, n=int(c.n)) for b, c in made[0].clean.iterrows()]
    settings = {k: v for k, v in vars(args).items() if k not in ('weights', 'data', 'out', 'parts', 'progress')}
    used = versions('cpu') | {n: v for n, v in ((n, version_of(n)) for n in ('onnxruntime', 'torchao'))}
    return dict(format='triqdef-family-1', command=command(), settings=settings, versions=used, members=list(fam.bit_state.allowed),
                images_sha256=made[0].settings['images_sha256'], clean=clean, cells=cells, left_out=left)

def version_of(name):
    "The version of a package, or None."
    from importlib.metadata import version
    return version(name) if find_spec(name) else None

def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--weights', required=True, help='a state_dict with torchvision\'s names')
    p.add_argument('--data', required=True, help='a folder of WordNet folders with pictures')
    p.add_argument('--out', required=True, help='the JSON file')
    p.add_argument('--parts', default='runs/family', help='a folder for files and finished jobs')
    p.add_argument('--v2', action='store_true', help='the weights are torchvision\'s')
    p.add_argument('--progress', action='store_true', help='show a bar')
    for name, value, note in (('n', 60, 'pictures'), ('n-attack', 60, 'attacked pictures'), ('calibrate', 32, 'pictures for the file'),
                              ('size', 50, 'side of the patch'), ('steps', 30, 'of Patch PGD'), ('queries', 200, 'of Sparse-RS'), ('seed', 0, 'of all')):
        p.add_argument(f'--{name}', type=int, default=value, help=f'{note} (default: {value})')
    return p.parse_args()


if __name__ == '__main__':
    args = options()
    warnings.filterwarnings('ignore', category=FutureWarning)
    write_json(args.out, kept(args, *measured(args)))
