"""A process that has everything imported and forks for each call, since starting anew takes seconds.

`start` forks it from pytest, before any test has run: one line of JSON in (what to call, its arguments, where, how long it
may live), one line out (exit code, seconds of the processor). Tests call `forked`."""
import gc, json, os, signal, sys, tempfile, time, traceback, warnings
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path

_server = []      # its process, and the ends of two pipes: to ask and to be answered


def environment():
    "One thread, a narrow terminal, nothing that a user's shell would not have."
    return dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', COLUMNS='80', PYTHONWARNINGS='ignore')

def start():
    "Fork the process; returns a function that ends it."
    if not hasattr(os, 'fork'): return lambda: None
    (asked, ask), (answer, answered) = os.pipe(), os.pipe()
    sys.stdout.flush(); sys.stderr.flush()
    if not (pid := os.fork()):
        os.close(ask); os.close(answer)
        try: _serve(os.fdopen(asked), os.fdopen(answered, 'w'))
        finally: os._exit(0)      # never back into pytest
    os.close(asked); os.close(answered)
    _server[:] = pid, os.fdopen(ask, 'w'), os.fdopen(answer)
    return _end

def _end():
    pid, *ends = _server
    for f in ends: f.close()
    os.waitpid(pid, 0)
    _server.clear()

@dataclass
class Ended:
    "How a call ended, how long it worked, what it said."
    returncode:int
    seconds:float
    stdout:str
    stderr:str

def forked(call, *args, cwd=None, seconds=None, lines=None, drawn=False):
    "`module:function` with these arguments in a process of its own, killed after `seconds` of work; who listens hangs up after some `lines`."
    _, ask, answer = _server
    with tempfile.TemporaryDirectory() as d:
        said = [f'{d}/{name}' for name in ('out', 'err')]
        if lines is not None: os.mkfifo(said[0])
        print(json.dumps(dict(call=call, args=args, cwd=str(cwd or Path.cwd()), seconds=seconds, said=said, drawn=drawn)), file=ask, flush=True)
        if lines is not None:
            with open(said[0], encoding='utf-8') as f: heard = ''.join(f.readline() for _ in range(lines))
        code, used = json.loads(answer.readline())
        out, err = (Path(f).read_text(encoding='utf-8') if i or lines is None else heard for i, f in enumerate(said))
        return Ended(code, used, out, err)

def command(*argv, main='triqdef.cli:main', **how):
    "The `triqdef` program with these words; its pictures are of one pixel unless `drawn`."
    return forked(main, [str(a) for a in argv], **how)

def script(argv, path):
    "A script's `main`, in the process of a child."
    from test_project import load
    return load(Path(path)).main(argv)

class Nothing:
    "A figure and its axes that draw nothing, and a file of one pixel."
    def __getattr__(self, name):
        if name[:2] == '__': raise AttributeError(name)
        return self
    def __call__(self, *args, **kwargs): return self
    def __iter__(self): return iter(())
    def __getitem__(self, i): return self
    def print_png(self, path, **_): Path(path).write_bytes(_pixel())

@cache
def _pixel():
    from io import BytesIO
    from PIL import Image
    Image.new('L', (1, 1)).save(out := BytesIO(), 'PNG')
    return out.getvalue()

def undrawn(put=setattr):
    "Leave drawing out, most of what a small report costs; `put` sets an attribute."
    import matplotlib.pyplot as plt, numpy as np, triqdef.store as store
    nothing = Nothing()
    def subplots(rows=1, columns=1, squeeze=True, **_):
        return nothing, nothing if squeeze else np.full((rows, columns), nothing, object)
    for name, f in dict(subplots=subplots, figure=nothing, close=nothing, Rectangle=nothing).items(): put(plt, name, f)
    put(store, 'FigureCanvasAgg', nothing)


def read_once():
    "torch lists its operators anew for every file: once will do where nobody makes new ones."
    try:
        from torch._export import utils
        listed = utils._collect_all_valid_cia_ops_for_namespace
    except (ImportError, AttributeError): return lambda: None      # another torch: slower
    def put(f): utils._collect_all_valid_cia_ops_for_namespace = f
    put(cache(listed))
    return lambda: put(listed)


# the process

def _answer(call, args, cwd, said, drawn, **_):
    "In the child: call, and end as a program would."
    import torch
    torch.set_num_threads(1)      # anew: threads of the gradient would meet a pool that the fork broke, and race to replace it
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for fd, path in zip((0, 1, 2), (os.devnull, *said)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT if fd else os.O_RDONLY), fd)
    sys.stdin, sys.stdout, sys.stderr = (open(fd, 'w' if fd else 'r', encoding='utf-8', closefd=False) for fd in (0, 1, 2))
    os.chdir(cwd)
    if not drawn: undrawn()
    module, _, name = call.partition(':')
    try: code = getattr(import_module(module), name)(*args) or 0
    except SystemExit as e: code = e.code or 0
    except BaseException: traceback.print_exc(); code = 1
    sys.stdout.flush(); sys.stderr.flush()
    os._exit(code)

def _spent(pid):
    "Seconds of the processor that a process has had: a moment is the same on a busy machine."
    fields = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12]))/os.sysconf('SC_CLK_TCK')

@cache
def _drawn():
    "A figure and the options of the program: what each of them needs once."
    import matplotlib.pyplot as plt, triqdef.cli
    triqdef.cli.parser()
    fig = plt.figure()
    fig.text(0, 0, 'x')
    with tempfile.TemporaryDirectory() as d: fig.savefig(f'{d}/x.png')
    plt.close(fig)

@cache
def _written():
    "A network in a file."
    from triqdef.deploy.onnx import export_onnx
    from triqdef.quant.convert import calibrate, to_multibit
    from triqdef.toys import toy_images, toy_net
    read_once()
    x, _ = toy_images(2)
    with tempfile.TemporaryDirectory() as d:
        try: export_onnx(calibrate(to_multibit(toy_net(), (32, 4)).eval(), [x]), f'{d}/x.onnx', 4, x)
        except ModuleNotFoundError: pass      # the extra is not installed

@cache
def _ready(export):
    "Do once what every child would do; what is there stays out of the collector's way, which would copy its pages."
    _drawn()
    if export: _written()
    gc.collect(); gc.freeze()

def _serve(asked, answered):
    import torch
    torch.set_num_threads(1)
    warnings.resetwarnings(); warnings.simplefilter('ignore')
    os.environ.update(environment())
    signal.signal(signal.SIGINT, signal.SIG_IGN)      # Ctrl-C is pytest's
    for line in asked:
        ask = json.loads(line)
        _ready(bool({'export', '--export'} & {*map(str, ask['args'][0])}))
        child = os.fork()
        if not child: _answer(**ask)
        ended, status, used = os.wait4(child, os.WNOHANG if ask['seconds'] else 0)
        while not ended:
            if _spent(child) >= ask['seconds']: os.kill(child, signal.SIGKILL)
            time.sleep(.002)
            ended, status, used = os.wait4(child, os.WNOHANG)
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), file=answered, flush=True)
