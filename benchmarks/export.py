"Exported 8-bit networks against the FP32 file of the same network in ONNX Runtime: time, size, kernels; its own static quantization, brevitas and torchao beside them."
import json, math, os, statistics, subprocess, sys, tempfile, time
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import torch
import torchvision.models as tv
from onnxruntime.quantization import QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from measure import begin, finish, interleaved, parser, ratios, table
from triqdef.core import atomic_path
from triqdef.data import sample_tensors, to_pixels
from triqdef.deploy.onnx import export_onnx, ort_session
from triqdef.deploy.parity import check_parity
from triqdef.deploy.speed import _events, kind_of
from triqdef.files import fingerprint
from triqdef.quant.checkpoint import pretrained
from triqdef.quant.convert import calibrate, to_multibit

# name → sums of the network, bit-width, form, and which CPU the file is for
FILES = {'integer': ('float', 8, 'integer', 'any'), 'fused': ('float', 8, 'fused', 'any'), 'qdq': ('float', 8, 'qdq', 'any'),
         'integer vnni': ('float', 8, 'integer', 'vnni'), 'fused vnni': ('float', 8, 'fused', 'vnni'), 'bytes': ('quantized', 8, 'bytes', 'any'),
         'integer, 4 bits': ('float', 4, 'integer', 'any'), 'fused, 4 bits': ('float', 4, 'fused', 'any'), 'bytes, 4 bits': ('quantized', 4, 'bytes', 'any')}
NETS = {'resnet20': 32, 'resnet18': 224, 'resnet50': 224, 'mobilenet_v2': 224}     # and their images' sides
LIMITS = {'8 bits': .30, '4 bits': .17}
TIMES = {'resnet20': .9, 'resnet18': .5, 'resnet50': .5, 'mobilenet_v2': .8}      # 'bytes' / FP32, on a CPU with AVX2


class Done:
    "What is measured already, in a file; what another `key` was given does not count, nor do times after `--again`."
    def __init__(self, folder, key, again=False):
        self.path, self.key = folder/'done.json', fingerprint(key)
        old = json.loads(self.path.read_text()) if self.path.is_file() else {}
        self.data = old['data'] if old.get('key') == self.key else {}
        if again: self.data = {k: v for k, v in self.data.items() if 'rounds' not in k}
        if not self.data:
            for f in folder.glob('*.onnx'): f.unlink()

    def __call__(self, name, f, *args):
        "The value under this name, or that of `f(*args)`."
        if name in self.data: return dict(self.data[name])
        start = time.perf_counter()
        out = f(*args)
        print(f"{name}: {time.perf_counter() - start:.0f} s{', failed: ' + out['failed'] if 'failed' in out else ''}", flush=True)
        if 'failed' not in out:
            self.data[name] = out
            with atomic_path(self.path) as tmp: tmp.write_text(json.dumps(dict(key=self.key, data=self.data)))
        return dict(out)


def start(args, name):
    "The float network, images to calibrate with, images to compare on and their classes or None: a trained ResNet-20 and photographs, else fresh and random."
    if name == 'resnet20':
        t = sample_tensors()
        return pretrained('cifar10-resnet20-fp').eval(), to_pixels(t['x_train'][:args.n]), to_pixels(t['x_test'][:args.n]), t['y_test'][:args.n]
    torch.manual_seed(args.seed)
    net, side = tv.get_model(name), NETS[name]
    calibration, compared = torch.rand(16, 3, side, side), torch.rand(4, 3, side, side)
    for m in net.modules():
        if isinstance(m, torch.nn.BatchNorm2d): m.momentum = None
    with torch.no_grad(): net.train()(calibration)      # statistics that let a signal through; fresh ones starve MobileNetV2
    return net.eval(), calibration, compared, None

def path_of(args, name, tag): return args.folder/f"{name}-{tag.replace(', ', '-').replace(' ', '-')}.onnx"

def multibit(net, sums, x):
    "The network calibrated on images; with levels for sums its weights have a step per channel."
    q = to_multibit(net, (32, 8, 4), sums=sums, per_channel=True if sums == 'quantized' else None).eval()
    return calibrate(q, [(x, torch.zeros(len(x), dtype=torch.long))], 1)

def row(p, y):
    "What a comparison of file and network found, as numbers."
    keys = ['images', 'top-1 agreement', 'largest logit difference', 'activations', 'other level', 'farthest of these, steps']
    keys += ['accuracy, torch', 'accuracy, file'] if y is not None else []
    return dict(ok=p.ok, faults=p.faults, **{'largest logit': p.logits.abs().max().item()}, **{k: p.numbers()[k] for k in keys})

def export(args, name):
    "Write the files of a network; their sizes and whether each is the network."
    net, calibration, compared, y = start(args, name)
    torch.save(net.state_dict(), args.folder/f'{name}.pt')
    torch.save(dict(calibration=calibration, compared=compared), args.folder/f'{name}-images.pt')
    chosen = {'32': ('float', 32, 'integer', 'any'), **{k: FILES[k] for k in args.forms}}
    nets = {sums: multibit(net, sums, calibration) for sums in {v[0] for v in chosen.values()}}
    out = dict(bytes={}, parity={})
    for tag, (sums, bits, form, cpu) in chosen.items():
        file = export_onnx(nets[sums], path_of(args, name, tag), bits, compared, form=form, cpu=cpu)
        out['bytes'][tag] = file.stat().st_size
        out['parity'][tag] = row(check_parity(nets[sums], file, bits, compared, y, strict=False), y)
    return out

class Batches:
    "Images as ONNX Runtime's calibration reads them."
    def __init__(self, x): self.left = iter(x.split(4))
    def get_next(self): return next(({'pixels': b.numpy()} for b in self.left), None)

def static(args, name):
    "ONNX Runtime's own static quantization of the FP32 file, on the same images: bytes, accuracy."
    file = path_of(args, name, 'static')
    with tempfile.TemporaryDirectory() as d:
        quant_pre_process(str(path_of(args, name, '32')), f'{d}/32.onnx', skip_symbolic_shape=True)
        x = torch.load(args.folder/f'{name}-images.pt')['calibration']
        quantize_static(f'{d}/32.onnx', str(file), Batches(x), QuantFormat.QDQ, per_channel=True, reduce_range=True,
                        activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)
    out, (_, _, x, y) = dict(bytes=file.stat().st_size, images=len(x)), start(args, name)
    if y is not None: out['accuracy, file'] = float((predicted(file, x).argmax(1) == y.numpy()).mean())
    return out

def predicted(file, x):
    s = ort_session(file, 1)
    return np.concatenate([s.run(None, {'pixels': b.contiguous().numpy()})[0] for b in x.split(16)])

def images(args, name, n):
    x = torch.load(args.folder/f'{name}-images.pt')['compared']
    return x.repeat(math.ceil(n/len(x)), 1, 1, 1)[:n].contiguous().numpy()

def files(args, name):
    "What is timed: name → file."
    tags = {'FP32': '32', **{k: k for k in (*args.forms, 'static', 'brevitas graph', 'brevitas layers')}}
    paths = {k: path_of(args, name, tag) for k, tag in tags.items()}
    return {k: p for k, p in paths.items() if p.is_file() and (not k.startswith('brevitas') or args.peers)}

def latency(args, name, batch, threads):
    "Every file at one batch and one number of threads, in turn."
    x = {'pixels': images(args, name, batch)}
    sessions = {k: ort_session(p, threads) for k, p in files(args, name).items()}
    def runner(s, n):
        def run():
            for _ in range(n): s.run(None, x)
        return run
    runner(sessions['FP32'], 2)()
    before = time.perf_counter(); sessions['FP32'].run(None, x)
    n = max(1, math.ceil(args.sample/1e3/(time.perf_counter() - before)))
    times = interleaved({k: runner(s, n) for k, s in sessions.items()}, args.repeats, args.warmup, rest=args.rest)
    return ratios({k: [t/n for t in v] for k, v in times.items()}, 'FP32')

def profile(args, name, path):
    "Nodes and share of time by kind of kernel, and by operator, at batch 1 on one thread."
    runs = 5
    t = pd.DataFrame([dict(op=e['args']['op_name'], ms=e['dur']/1e3/runs) for e in _events(path, 1, images(args, name, 1), runs)])
    t['kind'] = t.op.map(kind_of)
    def by(k):
        g = t.groupby(k).ms
        return {n: dict(nodes=round(c/runs), ms=m, share=m/t.ms.sum()) for n, c, m in zip(g.sum().index, g.size(), g.sum())}
    return dict(kinds=by('kind'), operators=by('op'))

def peer(args, *call):
    "What the peers' process prints last, or what failed."
    root = Path(__file__).resolve().parent
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, (root, root.parent))))
    out = subprocess.run([args.peers, '-m', 'measure.peers', *map(str, call)], capture_output=True, text=True, env=env)
    if out.returncode: return dict(failed=out.stderr.strip().splitlines()[-1][:500])
    return json.loads(out.stdout.strip().splitlines()[-1])

def compared(args, name, how):
    "brevitas' torch network against its own file on the same images: top-1 agreement, logits, accuracy."
    file = args.folder/f'{name}-brevitas-{how}.onnx'
    if not file.is_file(): return dict(failed='no file')
    ours, (_, _, x, y) = np.load(file.with_suffix('.npy')), start(args, name)
    theirs = predicted(file, x)
    out = {'images': len(x), 'top-1 agreement': float((ours.argmax(1) == theirs.argmax(1)).mean()),
           'largest logit difference': float(np.abs(ours - theirs).max()), 'largest logit': float(np.abs(ours).max()), 'bytes': file.stat().st_size}
    if y is not None: out |= {f'accuracy, {k}': float((v.argmax(1) == y.numpy()).mean()) for k, v in dict(torch=ours, file=theirs).items()}
    return out

def measured(args, done, name):
    "All of one network."
    out, setups = done(f'{name}: files', export, args, name), [(b, t) for b in args.batch for t in args.cores]
    how = dict(repeats=args.repeats, warmup=args.warmup, sample=args.sample, rest=args.rest)
    rounds = f"rounds {'/'.join(map(str, how.values()))}"
    out['static'] = done(f'{name}: static', static, args, name)
    sizes = {bits: [out['bytes'][k]/out['bytes']['32'] for k in args.forms if FILES[k][1] == bits] for bits in (8, 4)}
    out['sizes'] = {f'{bits} bits': max(v) for bits, v in sizes.items() if v}
    has_peers = args.peers and name in args.peer_nets
    if has_peers:
        out['brevitas'] = done(f'{name}: brevitas', peer, args, 'brevitas', args.folder, name)
        out['brevitas'] |= {f'{h} against its torch network': done(f'{name}: brevitas {h}', compared, args, name, h) for h in ('graph', 'layers')}
    out['latency'] = {f'batch {b}, {t} threads': done(f'{name}: batch {b}, {t} threads, {rounds}', latency, args, name, b, t) for b, t in setups}
    out['kernels'] = {k: done(f'{name}: kernels of {k}, {rounds}', profile, args, name, p) for k, p in files(args, name).items()}
    if has_peers:
        flags = [a for k, v in dict(how, seed=args.seed).items() for a in (f'--{k}', v)]
        out['PT2E'] = {f'batch {b}, {t} threads': done(f'{name}: PT2E, batch {b}, {t} threads, {rounds}', peer, args, 'pt2e', args.folder,
                                                       name, '--batch', b, '--threads', t, *flags) for b, t in setups}
    return out

LOAD = """import sys
import onnxruntime as ort
options = ort.SessionOptions()
options.intra_op_num_threads = int(sys.argv[2])
def held(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('VmRSS'))/1024
def load(): return ort.InferenceSession(sys.argv[1], options, providers=['CPUExecutionProvider'])
first, before = load(), held()
second = load()
print(held() - before)"""

def vit(args):
    "ViT-S/16 of random weights at 4 bits: bytes of a file, MiB that a process grows by when it loads it a second time, milliseconds of one picture."
    import timm
    x = torch.rand(2, 3, 224, 224)
    net = timm.create_model('vit_small_patch16_224').eval()
    net = calibrate(to_multibit(net, (32, 4)), [(x, torch.zeros(2, dtype=torch.long))], 1)
    paths = {f: export_onnx(net, args.folder/f'vit-{f}.onnx', 4, x, form=f) for f in ('integer', 'nbits')}
    def loaded(p): return float(subprocess.run([sys.executable, '-c', LOAD, str(p), str(args.threads)], capture_output=True, text=True, check=True).stdout)
    held = {f: statistics.median(loaded(p) for _ in range(5)) for f, p in paths.items()}
    pixels = {'pixels': x[:1].numpy()}
    runs = {f: partial(ort_session(p, args.threads).run, None, pixels) for f, p in paths.items()}
    times = ratios(interleaved(runs, args.repeats, args.warmup, clock=args.clock), 'integer')
    return {f: dict(bytes=p.stat().st_size, MiB=held[f], **times[f]) for f, p in paths.items()}

def show(results):
    for name, r in results.items():
        table(f'{name}: bytes / FP32', {k: dict(ratio=v) for k, v in r['sizes'].items()}, ['ratio'])
        for k, rows in r['latency'].items(): table(f'{name}, {k}', rows, ['ms', 'q1', 'q3', 'ratio'])
        for k, v in r.get('PT2E', {}).items():
            if 'failed' in v: print(f"\n{name}, {k}, in the peers' process: {v['failed']}")
            else: table(f"{name}, {k}, peers' process", v['rows'], ['ms', 'q1', 'q3', 'ratio'])
        kinds = ('integer', 'float', 'convert', 'rest')
        rows = {k: {**{c: v['kinds'].get(c, {}).get('share', 0) for c in kinds}, **{f'n {c}': v['kinds'].get(c, {}).get('nodes', 0) for c in kinds}}
                for k, v in r['kernels'].items()}
        table(f'{name}: share of time, nodes', rows, [*kinds, *(f'n {c}' for c in kinds)])
        rows = {**r['parity'], **{f'brevitas {h}': v for h in ('graph', 'layers') if 'images' in (v := r.get('brevitas', {}).get(f'{h} against its torch network', {}))}}
        short = dict(agreement='top-1 agreement', difference='largest logit difference', logit='largest logit')
        table(f'{name}: file and torch', {k: {c: v[l] for c, l in short.items()} for k, v in rows.items()}, list(short))

def cpu():
    "What this machine is, with the instructions that decide how fast bytes are multiplied."
    path = Path('/proc/cpuinfo')
    text = dict(l.split(':', 1) for l in path.read_text().split('\n\n')[0].splitlines() if ':' in l) if path.is_file() else {}
    text = {k.strip(): v.strip() for k, v in text.items()}
    wanted = ('avx2', 'avx512f', 'avx_vnni', 'avx512_vnni', 'amx_int8')
    cores = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    return dict(model=text.get('model name'), family=text.get('cpu family'), cores=cores,
                instructions=[f for f in wanted if f in text.get('flags', '').split()])

def options():
    p = parser(__doc__, 20)
    p.add_argument('--nets', nargs='+', default=list(NETS), choices=list(NETS), help='networks')
    p.add_argument('--forms', nargs='+', default=list(FILES), choices=list(FILES), help='files beside FP32 and ONNX Runtime\'s own')
    p.add_argument('--batch', type=int, nargs='+', default=[1, 16], help='images a run')
    p.add_argument('--cores', type=int, nargs='+', default=[1, 2], help='threads of a session')
    p.add_argument('--n', type=int, default=256, help='pictures that files and torch are compared on (ResNet-20), 4 random images elsewhere')
    p.add_argument('--sample', type=float, default=5., help='milliseconds that one timed round lasts at least, for the FP32 file')
    p.add_argument('--rest', type=float, default=.01, help='seconds of sleep before each timed round')
    p.add_argument('--folder', type=Path, default=Path('runs/export'), help='files, and what is measured already: a second call goes on from there')
    p.add_argument('--vit', action='store_true', help="this alone: a ViT at 4 bits as 'integer' and 'nbits', in the file, in memory and in time")
    p.add_argument('--again', action='store_true', help='keep the files, measure all times anew')
    p.add_argument('--peers', default='', help='Python of an environment with brevitas, onnxoptimizer, torchao and what triqdef needs; left out without')
    p.add_argument('--peer-nets', nargs='+', default=['resnet20', 'resnet18'], choices=list(NETS), help='networks that the peers run')
    return p

def main():
    args = begin(options()); args.device = 'cpu'
    args.folder.mkdir(parents=True, exist_ok=True)
    runtime = dict(onnxruntime=onnxruntime.__version__, onnx=onnx.__version__)
    if args.vit:
        results = vit(args)
        table('ViT-S/16, 4 bits', results, ['bytes', 'MiB', 'ms', 'ratio'])
        args.folder = str(args.folder)
        return finish(args, results, cpu=cpu(), runtime=runtime | dict(timm=version('timm')))
    key = dict(seed=args.seed, n=args.n, forms=args.forms, runtime=onnxruntime.__version__, torch=torch.__version__)
    done = Done(args.folder, key, args.again)
    results = {name: measured(args, done, name) for name in args.nets}
    show(results)
    limits = {f'{n}: bytes, {k} / FP32': (v, LIMITS[k]) for n, r in results.items() for k, v in r['sizes'].items()}
    limits |= {f"{n}: time of 'bytes' / FP32, {at}": (rows['bytes']['ratio'], TIMES[n]) for n, r in results.items()
               for at, rows in r['latency'].items() if 'bytes' in rows}
    sys.argv = ['PYTHON' if a == args.peers and a else a for a in sys.argv]      # no paths of this machine in the file
    peers = 'run' if args.peers else 'left out: no --peers'
    args.peers, args.folder = bool(args.peers), str(args.folder)
    finish(args, results, limits, cpu=cpu(), peers=peers, runtime=runtime)


if __name__ == '__main__': main()
