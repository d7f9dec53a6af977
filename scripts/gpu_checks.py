"Agreement of a device with the CPU in float64, then milliseconds, kernels and waits of a step; a JSON file, written after each part."
import argparse, copy, json, statistics, sys, time, warnings

import torch
from torch.profiler import ProfilerActivity, profile

from triqdef.attack.gap import GAP
from triqdef.attack.patch import place
from triqdef.attack.pgd import PatchPGD
from triqdef.core import atomic_path, versions
from triqdef.evaluate.success import predict
from triqdef.models import build_model
from triqdef.percept.gradients import input_gradient
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.toys import toy_images
from triqdef.train.objective import Objective
from triqdef.train.optimizer import adam_at_once

BITS, START = (32, 4), time.monotonic()


def network(arch, x, dtype=torch.float32):
    torch.manual_seed(0)
    return calibrate(to_multibit(build_model(arch, 10).to(dtype), BITS), [x], 1)

def outcome(net, x, y):
    "What must be the same on both devices: name → tensor on the CPU."
    out, x_adv = {}, PatchPGD(4, steps=3, seed=0, keep='loss').attack(net, x, y, bits=4)
    out['patched images'] = x_adv
    for b in BITS:
        with at_bits(net.eval(), b), torch.no_grad(): out[f'logits at {b} bits'] = net(x)
        with at_bits(net, b): out[f'input gradient at {b} bits'] = input_gradient(net, x, y)
    out['universal patch'] = GAP(4, 1, 3, len(x), angle=10., seed=0).fit(net, [(x, y)], bits=4).image
    opt = adam_at_once(list(net.train().parameters()), 1e-3)
    terms = Objective(1., .5, .5)(net, x, y, x_adv)
    terms.total.backward()
    out |= {f'term {k}': torch.tensor(v) for k, v in terms.values().items()}
    out |= {f'gradient of {n}': p.grad for n, p in net.named_parameters() if p.grad is not None}
    opt.step()
    out |= {f'updated {n}': p.detach() for n, p in net.named_parameters()}
    return {k: v.detach().cpu().double() for k, v in out.items()}

def agreement(args):
    "The largest relative difference of each outcome between the CPU and the device."
    x, y = toy_images(8, size=32)
    x = x.double()
    nets = [network('resnet8', x, torch.float64)]
    nets.append(copy.deepcopy(nets[0]).to(args.device))
    a, b = (outcome(net, x.to(d), y.to(d)) for net, d in zip(nets, ('cpu', args.device)))
    worst = {k: ((a[k] - b[k]).abs().max()/a[k].abs().max().clamp_min(1e-12)).item() for k in a}
    kinds = {}
    for k, v in worst.items():
        kind = k.split(' of ')[0] if k.startswith('gradient') else k.split()[0] if k.startswith('updated') else k
        kinds[kind] = max(v, kinds.get(kind, 0.))
    return kinds

def wait(device):
    if torch.device(device).type == 'cuda': torch.cuda.synchronize()

class Step:
    "One training step at a call."
    def __init__(self, args, batch, weights, attack, bf16=False):
        self.x, self.y = torch.rand(batch, 3, 32, 32), torch.randint(10, (batch,))
        net = network(args.arch, self.x[:64])
        self.net = net.to(args.device, memory_format=torch.channels_last).train()
        self.x, self.y = self.x.to(args.device), self.y.to(args.device)
        self.patch, self.n = torch.rand(3, 8, 8, device=args.device), 0
        self.attack = PatchPGD(8, 5, 32/255, keep='loss', seed=0) if attack else None
        self.auto = dict(device_type=torch.device(args.device).type, dtype=torch.bfloat16, enabled=bf16)
        self.objective, self.opt = Objective(*weights), adam_at_once(list(self.net.parameters()), 1e-4)
        self()

    def __call__(self):
        self.n += 1
        with torch.autocast(**self.auto):
            if self.attack is None: x_adv = place(self.x, self.patch, (4, 4))
            else: x_adv = self.attack.attack(self.net, self.x, self.y, bits=BITS[self.n % 2])
            total = self.objective(self.net, self.x, self.y, x_adv, BITS).total
        total.backward()
        self.opt.step(); self.opt.zero_grad()

def milliseconds(f, device, n):
    "The median of `n` calls."
    times = []
    for _ in range(n):
        wait(device); start = time.perf_counter()
        f(); wait(device)
        times.append(1e3*(time.perf_counter() - start))
    return statistics.median(times)

def kernels(f, device):
    "Kernels and waits of one call, as torch's profiler and its warnings of synchronisation count them; None on a CPU."
    if torch.device(device).type != 'cuda': return dict(kernels=None, waits=None)
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as p: f(); wait(device)
    launched = sum(e.count for e in p.key_averages() if 'LaunchKernel' in e.key)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        torch.cuda.set_sync_debug_mode('warn')
        try: f()
        finally: torch.cuda.set_sync_debug_mode('default')
    return dict(kernels=launched, waits=sum('synchroniz' in str(w.message) for w in seen))

def timings(args, out):
    "Steps with and without penalties and attack, by batch; an attack and an evaluation. Stops when the time is up."
    for batch in args.batches:
        for attack in (False, True):
            for name, weights, bf16 in (('λ = 0', (1., 0., 0.), False), ('TriQDef', (1., .1, .1), False), ('TriQDef in bf16', (1., .1, .1), True)):
                if time.monotonic() - START > args.seconds: return
                step = Step(args, batch, weights, attack, bf16)
                out[f"{name}, batch {batch}, {'5-step' if attack else 'no'} attack"] = dict(ms=milliseconds(step, args.device, args.repeats), **kernels(step, args.device))
    net, (x, y) = step.net.eval(), (step.x, step.y)
    calls = {'forward pass at 4 bits': lambda: predict(net, x, bits=4), '20 steps of Patch PGD': lambda: PatchPGD(8, steps=20, seed=0).attack(net, x, y, bits=4),
             '20 steps of GAP': lambda: GAP(8, 1, 20, len(x), seed=0).fit(net, [(x, y)], bits=4)}
    for name, f in calls.items():
        if time.monotonic() - START > args.seconds: return
        f(); out[name] = dict(ms=milliseconds(f, args.device, max(1, args.repeats//4)), images=len(x), **kernels(f, args.device))

def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument('--out', required=True, help='JSON file to write')
    p.add_argument('--device', default='cuda')
    p.add_argument('--arch', default='resnet20')
    p.add_argument('--batches', type=int, nargs='+', default=[128, 512])
    p.add_argument('--repeats', type=int, default=20)
    p.add_argument('--seconds', type=float, default=400, help='no timing begins later than this')
    p.add_argument('--tolerance', type=float, default=1e-6, help='relative difference in float64 up to which devices agree')
    p.add_argument('--toy', action='store_true', help='a toy network and batch, one repeat: a dry run')
    args = p.parse_args()
    if args.toy: args.arch, args.batches, args.repeats = 'toy_net', [4], 1
    result = dict(versions=versions(args.device), command=sys.argv, tf32=torch.backends.cudnn.allow_tf32, agreement={}, timings={})
    def save():
        result['seconds'] = time.monotonic() - START
        with atomic_path(args.out) as tmp: tmp.write_text(json.dumps(result, indent=1, ensure_ascii=False))
    result['agreement'] = agreement(args); save()
    for k, v in result['agreement'].items(): print(f'{v:9.1e}  {k}')
    if any(not v <= args.tolerance for v in result['agreement'].values()): raise SystemExit('the devices disagree: nothing was timed')
    timings(args, result['timings']); save()
    for k, v in result['timings'].items(): print(f"{v['ms']:9.1f} ms  {v['kernels']} kernels, {v['waits']} waits  {k}")


if __name__ == '__main__': main()
