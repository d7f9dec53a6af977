#!/usr/bin/env python3
"""Exported networks against the networks they were made of, on CIFAR-10 test images; cells go to JSON.

    python scripts/measure_export.py --out nbs/results/deploy-parity.json

Four architectures: the ResNet-20 that ships (its 8 bits from the full-precision one, calibrated), and ResNet-18,
MobileNetV2 and a small ViT, trained here for minutes, calibrated, and trained jointly at low bits for a moment, so that
their logits mean something; what is trained is kept in --nets. Each cell is a network at one bit-width in one form of
file: predictions, logits and levels on --n test images, sizes beside the float file, and for ResNet-20 the success of a
universal patch before and after export. Beside them: what torch agrees with itself by when it sums in another order, and
with torch in float64. Each cell is written when it is done: the same command again goes on with those that are missing.
"""
import argparse, copy, math, tempfile, time
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path

import torch
import torch.nn.functional as F
import torchvision.models as tv
from safetensors.torch import load_file, save_file
from torch import nn

from triqdef.attack.gap import GAP
from triqdef.core import Normalize, atomic_path, fast_layout, seed_everything
from triqdef.data import ImageLoader, ImageTensors, cifar_tensors, sample_dls
from triqdef.deploy.onnx import export_onnx, OnnxNet
from triqdef.deploy.parity import check_parity
from triqdef.files import fingerprint, write_json
from triqdef.models import cifar_mean, cifar_std
from triqdef.quant.checkpoint import pretrained
from triqdef.quant.convert import at_bits, calibrate, to_multibit

from recorded import begun

BITS, FORMS = (32, 8, 5, 4, 2), ('integer', 'fused', 'qdq')


def resnet18():
    "torchvision's, with a stem for small images."
    net = tv.resnet18(num_classes=10)
    net.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
    return net

def vit(): return tv.VisionTransformer(32, 4, 6, 4, 128, 256, num_classes=10)

def mobilenet_v2(): return tv.mobilenet_v2(num_classes=10)

# how to make it, side of its images in pixels, steps of training, of joint training, batch, highest rate, bfloat16
TRAINED = dict(resnet18=(resnet18, 32, 1000, 120, 96, 2e-3, True), vit=(vit, 32, 1000, 120, 96, 1e-3, True),
               mobilenet_v2=(mobilenet_v2, 64, 1100, 120, 96, 3e-3, False))
SHOWN = ('top-1 agreement', 'largest logit difference', 'accuracy, torch', 'accuracy, file', 'of the float file',
         'seconds')
# what is measured: name → bit-widths
CELLS = dict(resnet20_calibrated=(8,), resnet20_qat=(5, 4, 2), mobilenet_v2=BITS[1:], resnet18=BITS[1:], vit=BITS[1:])


def sized(x, side):
    "Images of this side."
    return x if x.shape[-1] == side else F.interpolate(x, side, mode='bilinear', align_corners=False).clamp(0, 1)

def train_set(t): return ImageTensors(t['x_train'], t['y_train'])

def rounds(dl):
    "Batches without end."
    while True: yield from dl

def fit(net, dl, side, steps, lr, bits=(32,), bf16=False):
    "One cycle of AdamW, the bit-widths in turn."
    if not steps: return net
    opt = torch.optim.AdamW(net.parameters(), lr, weight_decay=.01)
    cycle = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=steps, pct_start=.2)
    net.train()
    for i, (x, y) in zip(range(steps), rounds(dl)):
        x = fast_layout(sized(x, side))
        with at_bits(net, bits[i % len(bits)]), torch.autocast('cpu', torch.bfloat16) if bf16 else nullcontext():
            loss = F.cross_entropy(net(x).float(), y)
        opt.zero_grad(); loss.backward(); opt.step(); cycle.step()
        if i % 100 == 99: print(f'step {i + 1} of {steps}, loss {loss.item():.3f}', flush=True)
    return net.eval()

def trained(name, t, args):
    "A network of `TRAINED` at all bit-widths, made once."
    make, side, steps, joint, bs, lr, bf16 = TRAINED[name]
    if args.quick: steps, joint = 2, 4
    file = Path(args.nets)/f'{name}{"-quick" if args.quick else ""}.safetensors'
    dl = ImageLoader(train_set(t), bs=bs, shuffle=True, pad=4, flip=True, seed=args.seed)
    seed_everything(args.seed)
    net = nn.Sequential(Normalize(cifar_mean, cifar_std), make()).to(memory_format=torch.channels_last)
    if file.exists():
        net = to_multibit(net, BITS)
        net.load_state_dict(load_file(file))
        return net.eval(), side
    start = time.time()
    net = to_multibit(fit(net, dl, side, steps, lr, bf16=bf16), BITS)
    calibrate(net, [sized(x, side) for x, _ in few(dl, 2 if args.quick else 4)], method='mse')
    fit(net, dl, side, joint, lr/10, (32, 8, 5, 4, 2, 2))
    file.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(file) as tmp: save_file({k: v.contiguous() for k, v in net.state_dict().items()}, tmp)
    print(f'{name} made in {time.time() - start:.0f} s', flush=True)
    return net, side

def few(dl, n): return [b for b, _ in zip(dl, range(n))]

def network(name, t, args):
    "(multi-bit network, side of its images)."
    if name == 'resnet20_qat': return pretrained('cifar10-resnet20-qat').eval(), 32
    if name != 'resnet20_calibrated': return trained(name, t, args)
    net = to_multibit(pretrained('cifar10-resnet20-fp28'), BITS).eval()
    return calibrate(net, sample_dls(bs=128, seed=args.seed, device='cpu').train), 32


def patched(net, bits, t, x, args):
    "The images under a universal patch that was made at this bit-width on training images."
    dl = ImageLoader(train_set(t), bs=64, shuffle=True, seed=args.seed)
    steps = 2 if args.quick else args.steps
    patch = GAP(args.patch, 3, steps, bs=64, angle=0, seed=args.seed).fit(net, dl, bits)
    told = f'GAP {args.patch}×{args.patch}, target 3, {steps} steps'
    return patch.apply(x, generator=torch.Generator().manual_seed(args.seed)), told

def two(z):
    "The two highest logits and their classes."
    v, i = z.topk(2)
    return [[c, s] for c, s in zip(i.tolist(), v.tolist())]

def close(z, theirs):
    "How many images have two highest logits that are equal: in torch, and in the file."
    return [int((v.topk(2).values.diff()[:, 0] == 0).sum()) for v in (z, theirs)]

def cell(name, net, bits, form, x, y, adv, attack, floats):
    "One network at one bit-width in one form of file."
    start = time.time()
    with tempfile.TemporaryDirectory() as d:
        path = export_onnx(net, Path(d)/'net.onnx', bits, x[:1], form)
        size, took = path.stat().st_size, time.time() - start
        p = check_parity(net, path, bits, x, y=y, patched=adv, strict=False)
    other = [dict(image=i, torch=two(p.logits[i]), file=two(p.theirs[i])) for i in p.differ.tolist()[:20]]
    more = {'other predictions': other, 'equal highest logits, torch and file': close(p.logits, p.theirs),
            'bytes': size, 'bytes, float': floats, 'of the float file': round(size/floats, 4), 'attack': attack,
            'seconds, export': round(took, 1), 'seconds': round(time.time() - start, 1)}
    return dict(network=name, bits=bits, form=form, ok=p.ok, faults=p.faults, **p.numbers(), **more)

@torch.no_grad()
def with_itself(net, bits, x):
    "What torch agrees with itself by when it sums in another order: images in another memory layout, half as many at once."
    def classes(lay, n):
        with at_bits(net, bits): return torch.cat([net(lay(b)).argmax(1) for b in x.split(n)])
    return (classes(torch.Tensor.contiguous, 256) == classes(fast_layout, 128)).float().mean().item()

def float_file(net, x):
    "Bytes of the network at full precision."
    with tempfile.TemporaryDirectory() as d: return export_onnx(net, Path(d)/'net.onnx', 32, x[:1]).stat().st_size

def with_double(net, bits, x):
    "How often the file, torch in float32 and torch in float64 agree, two by two."
    with tempfile.TemporaryDirectory() as d:
        file, wide = OnnxNet(export_onnx(net, Path(d)/'net.onnx', bits, x[:1]), 1), copy.deepcopy(net).double()
        with at_bits(net, bits), at_bits(wide, bits), torch.no_grad():
            outs = [torch.cat([f(v.to(t)) for v in x.split(125)]).argmax(1)
                    for f, t in ((file, x.dtype), (net, x.dtype), (wide, torch.float64))]
    def same(a, b): return round((a == b).float().mean().item(), 4)
    return {'file, float32': same(*outs[:2]), 'file, float64': same(outs[0], outs[2]), 'float32, float64': same(*outs[1:])}

def begin(args, t):
    "The file as it stands, with what the cells were made by."
    settings = dict(n=args.n, seed=args.seed, patch=args.patch, steps=args.steps, quick=args.quick)
    done = begun(args.out, 'triqdef-deploy-parity-1', 'cells', settings=settings)
    made = done['versions'] | {n: version(n) for n in ('onnx', 'onnxscript', 'onnxruntime')}
    note = 'files for any CPU; a level of a file may lie a thousandth of a step from its boundary, and the slack of its bias'
    images = fingerprint(t['x_test'][:args.n])
    return done | dict(note=note, versions=made, images=images)

def worst(done):
    "The smallest agreement of each form."
    return {f: min((c['top-1 agreement'] for c in done['cells'] if c['form'] == f), default=math.nan) for f in FORMS}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--only', nargs='+', choices=list(CELLS), help='networks wanted')
    p.add_argument('--n', type=int, default=1000, help='test images')
    p.add_argument('--patch', type=int, default=12, help='side of the universal patch in pixels')
    p.add_argument('--steps', type=int, default=100, help='steps of the universal patch')
    p.add_argument('--nets', default='runs/deploy', help='folder for the trained networks')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--quick', action='store_true', help='a smoke run: 64 images, networks that were not trained')
    p.add_argument('--out', default='nbs/results/deploy-parity.json')
    args = p.parse_args()
    if args.quick: args.n = 64
    torch.set_num_threads(1)
    t = cifar_tensors()
    done, y = begin(args, t), t['y_test'][:args.n].long()
    floor, wide = done.setdefault('torch with itself', {}), done.setdefault('with float64', {})
    for name in args.only or CELLS:
        def known(b, f): return any((c['network'], c['bits'], c['form']) == (name, b, f) for c in done['cells'])
        todo = [(b, f) for b in CELLS[name] for f in FORMS if not known(b, f)]
        if not todo and all(f'{name}, {b} bits' in wide for b in CELLS[name]): continue
        net, side = network(name, t, args)
        x = sized(t['x_test'][:args.n].float()/255, side)
        floor |= {f'{name}, {b} bits': with_itself(net, b, x) for b in CELLS[name]}
        wide |= {f'{name}, {b} bits': with_double(net, b, x) for b in CELLS[name]}
        write_json(args.out, done)
        floats, adv = float_file(net, x), {}
        for b, f in todo:
            if b not in adv: adv[b] = patched(net, b, t, x, args) if name.startswith('resnet20') else (None, None)
            done['cells'].append(cell(name, net, b, f, x, y, *adv[b], floats))
            write_json(args.out, done)
            c = done['cells'][-1]
            told = 'ok' if c['ok'] else c['faults'][:2]
            print(name, b, f, told, *(f'{k} {c[k]}' for k in SHOWN), sep='; ', flush=True)
    print(worst(done))


if __name__ == '__main__': main()
