"""A process that has everything imported and forks for each call, since starting anew takes seconds.

`python forked.py` is that process: one line of JSON in (what to call, its arguments, where, how long it may live), one line
out (exit code, seconds of the processor). Tests call `forked`."""
import json, os, signal, subprocess, sys, tempfile, time, traceback
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path


def environment():
    "One thread, a narrow terminal, nothing that a user's shell would not have."
    return dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', COLUMNS='80', PYTHONWARNINGS='ignore')

@dataclass
class Ended:
    "How a call ended, how long it worked, what it said."
    returncode:int
    seconds:float
    stdout:str
    stderr:str

@cache
def _server():
    return subprocess.Popen([sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment())

def forked(call, *args, cwd=None, seconds=None, lines=None):
    "`module:function` with these arguments in a process of its own, killed after `seconds` of work; who listens hangs up after some `lines`."
    p = _server()
    with tempfile.TemporaryDirectory() as d:
        said = [f'{d}/{name}' for name in ('out', 'err')]
        if lines is not None: os.mkfifo(said[0])
        p.stdin.write(json.dumps(dict(call=call, args=args, cwd=str(cwd or Path.cwd()), seconds=seconds, said=said)) + '\n')
        p.stdin.flush()
        if lines is not None:
            with open(said[0], encoding='utf-8') as f: heard = ''.join(f.readline() for _ in range(lines))
        code, used = json.loads(p.stdout.readline())
        out, err = (Path(f).read_text(encoding='utf-8') if i or lines is None else heard for i, f in enumerate(said))
        return Ended(code, used, out, err)

def command(*argv, **how):
    "The `triqdef` program with these words."
    return forked('triqdef.cli:main', [str(a) for a in argv], **how)


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

def _answer(call, args, cwd, said, **_):
    "In the child: call, and end as a program would."
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for to, path in zip((1, 2), said): os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT), to)
    os.chdir(cwd)
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
        except ModuleNotFoundError: pass

def _serve():
    _drawn()
    for name in ('onnx', 'onnxruntime', 'onnxscript'):
        try: import_module(name)
        except ModuleNotFoundError: pass      # the extra is not installed
    for line in sys.stdin:
        ask = json.loads(line)
        if ask['args'][:1] == ['export']: _written()
        child = os.fork()
        if not child: _answer(**ask)
        ended, status, used = os.wait4(child, os.WNOHANG if ask['seconds'] else 0)
        while not ended:
            if _spent(child) >= ask['seconds']: os.kill(child, signal.SIGKILL)
            time.sleep(.002)
            ended, status, used = os.wait4(child, os.WNOHANG)
        print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)

if __name__ == '__main__': _serve()
