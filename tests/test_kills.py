"Killed at twenty moments each, `train`, `study`, `evaluate` and `export` end as if nobody had touched them, and leave nothing half written."
import csv, json, random, signal
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import equal

from forked import command
from triqdef.results import collect, study_tables
from triqdef.study import load_recipe

pytestmark = pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='needs fork and /proc')
TOYS = ['--data', 'toys', '--arch', 'toy_net', '--bits', '32', '2', '--bs', '16', '--patch-size', '4', '--attack-steps', '1',
        '--device', 'cpu', '--quiet']

def run(*argv, seconds=None):
    "A command in a process of its own, which may die after some seconds of work; its exit code and its seconds."
    r = command(*argv, main='dying:small', seconds=seconds)
    return r.returncode, r.seconds

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp('trained')/'run'
    assert run('train', folder, '--method', 'qat', '--epochs', 1, *(a for a in TOYS if a not in ('--patch-size', '4', '--attack-steps', '1')))[0] == 0
    return folder

def names(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))

def table(path, but=()): return [{k: v for k, v in r.items() if k not in but} for r in csv.DictReader(path.open())]

def training(folder):
    "Weights, history and terms; fastai's train_loss is a moving average, begun anew in a new process."
    return load_file(folder/'out/network.safetensors'), table(folder/'out/history.csv', ('seconds', 'train_loss')), table(folder/'out/terms.csv')

def cells(folder):
    "What the cells of a study have found, all that its tables tell but the minutes; train_loss as above."
    cells = collect(folder/'out')
    found = {k: {n: c.get(n) for n in ('settings', 'network_sha256', 'clean', 'rows', 'images', 'last')} for k, c in cells.items()}
    found = {k: dict(c, last=c['last'] and {n: v for n, v in c['last'].items() if n != 'train_loss'}) for k, c in found.items()}
    shown = {k: t.drop(columns='minutes', errors='ignore') for k, t in study_tables(cells, load_recipe('cifar10', 'toys')).items()}
    assert found and shown
    return {}, found, {k: t.to_csv() for k, t in shown.items()}

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
def test_twenty_kills(name, trained, tmp_path):
    "Twenty times dead, each time the same command again: the result of the command that nobody touched, and no other file."
    argv, option, out, result = commands(trained)[name]
    def call(folder, seconds=None):
        folder.mkdir(exist_ok=True)
        return run(*argv, *option, folder/out, seconds=seconds)
    code, seconds = call(tmp_path/'whole')
    assert code == 0
    rng, folders, killed, half = random.Random(name), [tmp_path/'0'], 0, 0
    for _ in range(200):
        code, _ = call(folders[-1], rng.uniform(.01, .4)*seconds)
        assert code in (0, -signal.SIGKILL), code
        killed += code != 0
        half += code != 0 and any(folders[-1].rglob('cell.json'))
        if code == 0: folders.append(tmp_path/str(len(folders)))      # it was done in time: begin another
        if killed == 20: break
    assert killed == 20 and (name != 'study' or half), 'no kill left anything to go on from'
    whole, there = result(tmp_path/'whole'), names(tmp_path/'whole')
    assert there and not [n for n in there if Path(n).name[0] == '.' or Path(n).name == 'parts' or name == 'study' and n.endswith('.pt')]
    for f in folders:
        assert call(f)[0] == 0
        assert names(f) == there
        found = result(f)
        assert found[0].keys() == whole[0].keys() and all(equal(v, whole[0][k]) for k, v in found[0].items())
        assert found[1:] == whole[1:]
