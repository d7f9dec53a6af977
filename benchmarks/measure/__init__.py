"What the benchmarks share: interleaved timing, ratios of medians, a table, a JSON file that says how it was made."
import argparse, json, os, shlex, statistics, sys, time
from pathlib import Path

import torch

from triqdef.core import atomic_path, seed_everything, versions


CLOCKS = dict(wall=time.perf_counter, processor=time.process_time)

def parser(description, repeats):
    "Options that every benchmark has."
    p = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument('--repeats', type=int, default=repeats, help='timed rounds; each runs every variant once, in turn')
    p.add_argument('--warmup', type=int, default=3, help='untimed rounds before')
    p.add_argument('--threads', type=int, default=int(os.environ.get('OMP_NUM_THREADS', 0)) or len(os.sched_getaffinity(0))
                   if hasattr(os, 'sched_getaffinity') else os.cpu_count(), help='CPU threads of torch')
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu', help='cpu or cuda')
    p.add_argument('--seed', type=int, default=0, help='of weights and data')
    p.add_argument('--clock', default='wall', choices=CLOCKS, help='seconds on the wall, or of the processor: for one thread on a loaded machine')
    p.add_argument('--out', default='', help='JSON file to write')
    return p

def begin(p):
    "The parsed options, with threads and seed set."
    args = p.parse_args()
    if args.clock == 'processor' and (args.threads > 1 or args.device != 'cpu'): p.error('--clock processor is for one thread on a CPU')
    if args.repeats < 1 or args.warmup < 0: p.error('--repeats must be at least 1 and --warmup at least 0')
    torch.set_num_threads(args.threads)
    seed_everything(args.seed)
    return args

def sync(device):
    if torch.device(device).type == 'cuda': torch.cuda.synchronize(device)

def interleaved(variants, repeats, warmup, device='cpu', rest=0., clock='wall'):
    "Milliseconds of each repeat of each function: every round runs all of them, in an order that turns by one, `rest` seconds before each."
    names, times, now = list(variants), {n: [] for n in variants}, CLOCKS[clock]
    for r in range(-warmup, repeats):
        for n in names[r % len(names):] + names[:r % len(names)]:
            if rest: time.sleep(rest)      # threads of the one before stop spinning
            sync(device); start = now()
            variants[n]()
            sync(device); took = (now() - start)*1e3
            if r >= 0: times[n].append(took)
    return times

def ratios(times, base):
    "Of each variant: median milliseconds, quartiles, and the median over rounds of its time by that of `base`."
    out = {}
    for n, t in times.items():
        quarter = statistics.quantiles(t, n=4) if len(t) > 1 else [t[0]]*3
        pairs = [a/b for a, b in zip(t, times[base])]
        out[n] = dict(ms=statistics.median(t), q1=quarter[0], q3=quarter[2], ratio=statistics.median(pairs), repeats=len(t))
    return out

def table(title, rows, columns):
    "Print rows {name: {column: number}} below a title."
    width = max(map(len, [*rows, title]))
    print(f"\n{title:<{width}}" + ''.join(f'{c:>13}' for c in columns))
    for n, r in rows.items():
        print(f'{n:<{width}}' + ''.join(f'{r[c]:>13.3g}' if r.get(c) is not None else f"{'–':>13}" for c in columns))

def finish(args, results, limits=None, **notes):
    "Print what is held to which limit, and write everything to --out."
    for name, (value, limit) in (limits or {}).items():
        print(f"{'ok  ' if value <= limit else 'MISS'} {name}: {value:.2f}, at most {limit}")
    record = dict(command=shlex.join(['python', *sys.argv]), settings=vars(args), versions=versions(args.device), load=os.getloadavg(),
                  time=time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()), results=results,
                  limits={k: dict(value=v, limit=l, ok=v <= l) for k, (v, l) in (limits or {}).items()}, **notes)
    if args.out:
        with atomic_path(Path(args.out)) as tmp: tmp.write_text(json.dumps(record, indent=1, allow_nan=False) + '\n')
        print(f'written: {args.out}')
