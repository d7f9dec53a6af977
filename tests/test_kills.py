"Killed at twenty moments each, `train`, `study`, `evaluate` and `export` end as if nobody had touched them, and leave nothing half written."
import csv, json, os, random, signal, subprocess, sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import equal

from triqdef.results import collect

pytestmark = pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs fork and /proc')
TOYS = ['--data', 'toys', '--arch', 'toy_net', '--bits', '32', '2', '--bs', '64', '--patch-size', '4', '--attack-steps', '1',
        '--device', 'cpu', '--quiet']

# A process that has everything imported and forks for each command, since starting anew takes seconds. It kills after so much of the
# processor's time, so that a moment is the same on a busy machine.
# One line of JSON in: arguments and seconds to live; one line out: exit code, and the seconds that it had.
NURSERY = """
import json, os, signal, sys, time
import onnx, onnxruntime, onnxscript, matplotlib.pyplot
from triqdef.cli import main

def spent(pid):
    "Seconds of the processor that a process has had."
    fields = open(f'/proc/{pid}/stat').read().rpartition(')')[2].split()
    return (int(fields[11]) + int(fields[12]))/os.sysconf('SC_CLK_TCK')

for line in sys.stdin:
    argv, seconds = json.loads(line)
    child = os.fork()
    if not child:
        null = os.open(os.devnull, os.O_WRONLY)
        for f in (1, 2): os.dup2(null, f)
        os._exit(main(argv))
    ended, status, used = os.wait4(child, os.WNOHANG if seconds else 0)
    while not ended:
        if spent(child) >= seconds: os.kill(child, signal.SIGKILL)
        time.sleep(.002)
        ended, status, used = os.wait4(child, os.WNOHANG)
    print(json.dumps([os.waitstatus_to_exitcode(status), used.ru_utime + used.ru_stime]), flush=True)
"""

@pytest.fixture(scope='module')
def run():
    "Run a command in a process of its own, which may die after some seconds of work; gives its exit code and its seconds."
    env = dict(os.environ, OMP_NUM_THREADS='1', MPLBACKEND='Agg', PYTHONWARNINGS='ignore')
    p = subprocess.Popen([sys.executable, '-c', NURSERY], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env)
    def run(*argv, seconds=None):
        p.stdin.write(json.dumps([list(map(str, argv)), seconds]) + '\n'); p.stdin.flush()
        return json.loads(p.stdout.readline())
    yield run
    p.stdin.close()
    assert p.wait(60) == 0

@pytest.fixture(scope='module')
def trained(run, tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')/'run'
    assert run('train', folder, '--method', 'qat', '--epochs', 1, *(a for a in TOYS if a not in ('--patch-size', '4', '--attack-steps', '1')))[0] == 0
    return folder

def names(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))

def table(path, but=()): return [{k: v for k, v in r.items() if k not in but} for r in csv.DictReader(path.open())]

def training(folder):
    "Weights, history and terms; fastai's train_loss is a moving average, begun anew in a new process."
    return load_file(folder/'out/network.safetensors'), table(folder/'out/history.csv', ('seconds', 'train_loss')), table(folder/'out/terms.csv')

def cells(folder):
    "What the cells of a study have found."
    found = {k: {n: c.get(n) for n in ('settings', 'network_sha256', 'clean', 'rows', 'images')} for k, c in collect(folder/'out').items()}
    return {}, found

def tables(folder):
    "All tables of a report, and the hash of its images."
    report = json.loads((folder/'out/report.json').read_text())
    return {}, {p: (folder/p).read_text() for p in names(folder) if p.endswith('.csv')}, report['settings'].get('bits')

def bytes_of(folder): return {}, (folder/'out.onnx').read_bytes()

def commands(trained):
    "Arguments without the place of the result, the option that names it, and what must be the same in the end."
    few = ['--attacks', 'pgd', 'gap', '--n', 16, '--n-attack', 8, '--n-align', 4, '--patch-size', 4, '--pgd-steps', 1, '--gap-steps', 1, '--target', 1]
    return dict(train=(['train', '--epochs', 3, *TOYS], [], 'out', training),
                study=(['study', 'cifar10', '--scale', 'toys', '--arms', 'patch-at', '--quiet'], ['--folder'], 'out', cells),
                evaluate=(['evaluate', trained, *few, '--no-audit', '--quiet'], ['--out'], 'out', tables),
                export=(['export', trained, '--bits', 2, '--n', 16, '--patch-size', 4, '--gap-steps', 1, '--quiet'], ['-o'], 'out.onnx', bytes_of))

@pytest.mark.parametrize('name', ['train', 'study', 'evaluate', 'export'])
def test_twenty_kills(name, run, trained, tmp_path):
    "Twenty times dead, each time the same command again: the result of the command that nobody touched, and no other file."
    argv, option, out, result = commands(trained)[name]
    def call(folder, seconds=None):
        folder.mkdir(exist_ok=True)
        return run(*argv, *option, folder/out, seconds=seconds)
    code, seconds = call(tmp_path/'whole')
    assert code == 0
    rng, folders, killed = random.Random(name), [tmp_path/'0'], 0
    for _ in range(200):
        code, _ = call(folders[-1], rng.uniform(.01, .5)*seconds)
        assert code in (0, -signal.SIGKILL), code
        killed += code != 0
        if code == 0: folders.append(tmp_path/str(len(folders)))      # it was done in time: begin another
        if killed == 20: break
    assert killed == 20
    whole = result(tmp_path/'whole')
    for f in folders:
        assert call(f)[0] == 0
        assert names(f) == names(tmp_path/'whole')
        found = result(f)
        assert found[0].keys() == whole[0].keys() and all(equal(v, whole[0][k]) for k, v in found[0].items())
        assert found[1:] == whole[1:]
