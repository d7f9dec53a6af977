"Peak memory and time of one TriQDef step on a ResNet-50, with and without checkpointed blocks."
import json, os, subprocess, sys, time
from contextlib import nullcontext
from functools import partial

import torch
from torchvision.models import resnet50

from measure import begin, finish, parser, sync, table
from triqdef.attack.patch import place
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.quant.memory import checkpointed
from triqdef.train.objective import Objective

VARIANTS = {'everything kept': nullcontext, 'blocks checkpointed': checkpointed,
            'stages checkpointed': partial(checkpointed, names=('layer1', 'layer2', 'layer3', 'layer4'))}
BASE = next(iter(VARIANTS))


class Step:
    "A network, its optimizer, a batch with patched images; the call is one training step, without an inner attack."
    def __init__(self, args):
        torch.manual_seed(args.seed)
        net = to_multibit(resnet50(num_classes=10), args.bits)
        self.net = net.to(args.device, memory_format=torch.channels_last).train()
        x = torch.rand(args.batch[0], 3, args.size, args.size, device=args.device)
        self.x = x.to(memory_format=torch.channels_last)
        self.y = torch.randint(10, (args.batch[0],), device=args.device)
        side = args.size//4
        self.x_adv = place(self.x, torch.rand(3, side, side, device=args.device), (4, 4))
        calibrate(self.net, [self.x[:1]], 1, method='lsq', norms=False)
        self.opt = torch.optim.SGD(self.net.parameters(), 1e-3, momentum=.9)
        self.objective, self.args = Objective(), args

    def __call__(self, how):
        with how(self.net): total = self.objective(self.net, self.x, self.y, self.x_adv, self.args.bits).total
        self.opt.zero_grad(); total.backward(); self.opt.step()
        sync(self.args.device)
        return total.item()


def resident(key):
    "MiB of this process: VmRSS held now, VmHWM the most so far."
    with open('/proc/self/status') as f: return next(int(l.split()[1]) for l in f if l.startswith(key))/2**10

def child(args):
    "Print what one step adds to this process's memory at its peak, and how long it takes."
    step, cuda = Step(args), torch.device(args.device).type == 'cuda'
    if cuda: step(VARIANTS[args.child]); torch.cuda.reset_peak_memory_stats(args.device)
    before = torch.cuda.memory_allocated(args.device)/2**20 if cuda else resident('VmRSS')
    clock = time.perf_counter if cuda else time.process_time    # on a CPU another load must not count
    start = clock()
    loss = step(VARIANTS[args.child])
    seconds = (clock() - start)/(1 if cuda else args.threads)
    peak = torch.cuda.max_memory_allocated(args.device)/2**20 if cuda else resident('VmHWM')
    print(json.dumps(dict(MiB=peak - before, peak=peak, seconds=seconds, loss=loss)))

def available(device):
    "MiB that may be filled."
    if torch.device(device).type == 'cuda': return torch.cuda.mem_get_info(device)[0]/2**20
    with open('/proc/meminfo') as f: return next(int(l.split()[1]) for l in f if l.startswith('MemAvailable'))/2**10

def measured(args, name, batch):
    "One step in a process of its own."
    call = [sys.executable, __file__, *sys.argv[1:], '--child', name, '--batch', str(batch)]
    env = dict(os.environ, MALLOC_ARENA_MAX='2', MALLOC_MMAP_THRESHOLD_=str(2**20), MALLOC_TRIM_THRESHOLD_=str(2**20))
    out = subprocess.run(call, capture_output=True, text=True, env=env)
    if out.returncode: raise SystemExit(f'{name!r} at batch {batch} failed:\n{out.stderr}')
    return json.loads(out.stdout.splitlines()[-1])

def line(rows, batch, key):
    "The value at `batch` on the line through the last two measured batches."
    (a, p), (b, q) = [(n, r[key]) for n, r in rows.items() if not r['extrapolated']][-2:]
    return p + (q - p)*(batch - a)/(b - a)

def main():
    p = parser(__doc__, repeats=1)
    p.add_argument('--batch', type=int, nargs='+', default=[4, 8, 16, 64], help='images a step, ascending')
    p.add_argument('--size', type=int, default=224, help='side of the images in pixels')
    p.add_argument('--bits', type=int, nargs='+', default=[32, 4], help='active bit-widths')
    p.add_argument('--share', type=float, default=.6, help='of the free memory that may be filled; beyond, a row is extrapolated')
    p.add_argument('--child', help='used by the measurement')
    args = begin(p); args.bits = tuple(args.bits)
    if args.child: return child(args)
    results = {}
    for name in VARIANTS:
        rows = results[name] = {}
        for n in args.batch:
            guess = {k: line(rows, n, k) for k in ('MiB', 'seconds')} if len(rows) > 1 else dict(MiB=0)
            if guess['MiB'] > args.share*available(args.device): rows[n] = dict(guess, extrapolated=True)
            else: rows[n] = dict(measured(args, name, n), extrapolated=False)
            print(name, n, rows[n], flush=True)
    for n in args.batch:
        rows = {k: {**r[n], **{f'{c} ratio': r[n][c]/results[BASE][n][c] for c in ('MiB', 'seconds')}} for k, r in results.items()}
        table(f"batch {n}", rows, ['MiB', 'MiB ratio', 'seconds', 'seconds ratio', 'extrapolated'])
        for k, r in rows.items(): results[k][n] = r
    finish(args, results)


if __name__ == '__main__': main()
