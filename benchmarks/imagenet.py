"ImageNet's loader and the evaluation of a multi-bit network at 32 bits against a plain torchvision loop over the same pictures; the predictions are compared first."
import tempfile
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset
from torchvision.datasets.folder import pil_loader
from torchvision.transforms._presets import ImageClassification

from measure import begin, finish, interleaved, parser, ratios, table
from triqdef.classifiers import classifier, fill, read_state
from triqdef.data import ImageLoader
from triqdef.evaluate.sharded import predict_shard
from triqdef.imagenet import imagenet_files, imagenet_names, imagenet_wnids, ImageNetFiles
from triqdef.quant.convert import to_multibit


class Pictures(Dataset):
    "Pictures read and transformed as torchvision's ImageFolder does."
    def __init__(self, paths, preset):
        self.paths, p = paths, preset
        self.transform = ImageClassification(crop_size=p.crop, resize_size=p.resize, mean=p.mean, std=p.std)
    def __len__(self): return len(self.paths)
    def __getitem__(self, i): return self.transform(pil_loader(str(self.paths[i])))


def plain_loop(net, loader):
    "The loop of every tutorial: normalised pictures, the network as torchvision made it."
    with torch.no_grad(): return torch.cat([net(x).argmax(1) for x in loader])

def synthetic(folder, n):
    "Smooth random JPEGs of 500 × 375 pixels."
    for i in range(n):
        file = folder/imagenet_wnids()[i % 10]/f'{i}.JPEG'
        file.parent.mkdir(parents=True, exist_ok=True)
        small = torch.randint(0, 256, (24, 32, 3), dtype=torch.uint8).numpy()
        Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(file, quality=90)

def options():
    p = parser(__doc__, 3)
    p.add_argument('--path', default='', help='class folders named by WordNet numbers, or a folder with such a val; synthetic pictures without')
    p.add_argument('--model', default='resnet18', help='name for triqdef.classifiers.classifier')
    p.add_argument('--weights', default='', help='a state dict; fresh weights without')
    p.add_argument('--n', type=int, default=128, help='pictures, evenly over the folder; 0 for all')
    p.add_argument('--batch', type=int, default=32, help='pictures a forward pass')
    p.add_argument('--workers', type=int, default=2, help="processes of torchvision's loader")
    p.add_argument('--compare', action='store_true', help='compare predictions only')
    return p

def loaders(args, data, net):
    "The four things that are timed."
    theirs = Pictures(data.paths, net.preset)
    def loader(): return DataLoader(theirs, args.batch, num_workers=args.workers)
    fast = to_multibit(net, (32, 8), per_channel=True).eval().to(memory_format=torch.channels_last)
    def drain(loader):
        for _ in loader: pass
    return {'plain evaluation': lambda: plain_loop(net.net, loader()),
            'triqdef evaluation': lambda: predict_shard(fast, data, bits=(32,), shard='0/1', bs=args.batch, progress=False)['top/32'][:, 0],
            'plain loader': lambda: drain(loader()),
            'triqdef loader': lambda: drain(ImageLoader(data, args.batch, device='cpu'))}

def run(args, path):
    paths, y = imagenet_files(path)
    keep = torch.linspace(0, len(paths) - 1, args.n or len(paths)).round().long()
    net = classifier(args.model)
    if args.weights: fill(net.net, read_state(args.weights), by_order=True)
    timed = loaders(args, ImageNetFiles(paths, y, imagenet_names(), net.preset).subset(keep), net)
    different = int((timed['plain evaluation']() != timed['triqdef evaluation']()).sum())
    print(f"{len(keep)} pictures: {different} predictions differ from torchvision's")
    results, limits = dict(pictures=len(keep), different=different), {'predictions that differ': (different, 0)}
    for what in () if args.compare else ('evaluation', 'loader'):
        names = [f'plain {what}', f'triqdef {what}']
        rows = ratios(interleaved({n: timed[n] for n in names}, args.repeats, args.warmup), names[0])
        for r in rows.values(): r['pictures/s'] = len(keep)/r['ms']*1e3
        table(what, rows, ['ms', 'pictures/s', 'ratio'])
        results[what], limits[f'time of {names[1]}'] = rows, (rows[names[1]]['ratio'], 1/.95)
    finish(args, results, limits)

def main():
    args = begin(options()); args.device = 'cpu'
    if args.path: return run(args, args.path)
    with tempfile.TemporaryDirectory() as d:
        synthetic(Path(d), args.n or 128); run(args, d)


if __name__ == '__main__': main()
