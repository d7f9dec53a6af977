"The program as users run it: commands, exit codes, interruptions, and runs that are killed and go on."
import csv, json, os, signal, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import dying
from forked import command as forked_command, environment, forked
from triqdef.cli import parser
from triqdef.commands.completion import command_table, stored_table
from triqdef.evaluate.audit import audit_lines
from triqdef.evaluate.report import Report
from triqdef.quant.checkpoint import pretrained_names
from triqdef.train.run import TrainSettings, load_run, train

SCRIPT = Path(sys.executable).parent/'triqdef'
TOYS = ['--data', 'toys', '--arch', 'toy_net', '--bits', '32', '2', '--bs', '16', '--patch-size', '4', '--attack-steps', '2', '--device', 'cpu', '--quiet']
QAT = [*TOYS[:9], '--device', 'cpu', '--quiet']      # joint QAT has no patches
SETTINGS = dict(data='toys', arch='toy_net', bits=(32, 2), bs=16, patch_size=4, attack_steps=2, device='cpu')


def command(*args):
    "The console script, or what it calls."
    start = [str(SCRIPT)] if SCRIPT.exists() else [sys.executable, '-c', 'import sys; from triqdef.cli import main; sys.exit(main())']
    return [*start, *map(str, args)]

def triqdef(*args, cwd=None):
    "The program as a shell starts it."
    return subprocess.run(command(*args), capture_output=True, text=True, timeout=180, env=environment(), cwd=cwd)

def one_line(r, code, *telling):
    "Ended with `code`, one sentence on stderr that says `telling`, no traceback."
    assert r.returncode == code, (r.returncode, r.stdout[-500:], r.stderr[-2000:])
    assert 'Traceback' not in r.stderr
    last = r.stderr.strip().splitlines()[-1]
    for t in telling: assert t in r.stderr, f'{r.stderr!r} does not say {t!r}'
    return last

def files(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*') if p.is_file())

def same_weights(a, b):
    a, b = (load_file(f/'network.safetensors') for f in (a, b))
    assert a.keys() == b.keys()
    for k in a: assert torch.equal(a[k], b[k]), k

def columns(path, leave_out=()):
    return [{k: v for k, v in row.items() if k not in leave_out} for row in csv.DictReader(path.open())]


pytestmark = pytest.mark.usefixtures('few_toys')      # as in the processes of `dying`


# runs that are killed

def elsewhere(settings, folder, where=None):
    "Train in a process of its own, which may die at a named moment; gives its exit code."
    return forked('dying:train', settings, str(folder), where).returncode

RESUMED = dict(SETTINGS, method='triqdef', epochs=3)

@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run that nobody interrupted."
    folder = tmp_path_factory.mktemp('whole')/'run'
    train(TrainSettings(**RESUMED), folder, progress=False)
    return folder

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
@pytest.mark.parametrize('where', ['in the first epoch', 'in the second epoch', 'while writing the state', 'while writing the network',
                                   'while writing the history', 'while writing run.json'])
def test_killed_run_goes_on(where, whole, tmp_path):
    "Killed by SIGKILL, called again: the weights of an uninterrupted run, to the last bit, and its history."
    folder = tmp_path/'run'
    assert elsewhere(RESUMED, folder, where) == -signal.SIGKILL
    with pytest.raises(FileNotFoundError): load_run(folder)
    run = train(TrainSettings(**RESUMED), folder, progress=False)
    same_weights(folder, whole)
    apart = ['seconds', 'train_loss']     # fastai's train_loss is a moving average, begun anew in a new process
    assert columns(folder/'history.csv', apart) == columns(whole/'history.csv', apart)
    assert columns(folder/'terms.csv') == columns(whole/'terms.csv')
    assert not run.net.training and len(run.history) == 3

def test_run_folder(whole):
    "What a run leaves: settings and versions in strict JSON, terms of every step, a network that loads."
    assert files(whole) == ['history.csv', 'network.safetensors', 'run.json', 'terms.csv']
    d = json.loads((whole/'run.json').read_text(), parse_constant=lambda c: pytest.fail(f'{c} is no JSON'))
    assert d['settings']['bits'] == [32, 2] and d['settings']['seed'] == 0 and d['versions']['torch'] == torch.__version__.split('+')[0]
    terms, history = columns(whole/'terms.csv'), columns(whole/'history.csv')
    assert [int(t['step']) for t in terms] == list(range(12)) and len(history) == 3      # 64 pictures, 16 a step
    assert all(float(t['adv']) > 0 for t in terms) and float(terms[-1]['gpdp']) > 0
    assert {'acc_32', 'acc_2', 'valid_loss'} <= history[0].keys()

def test_runs_repeat_and_seeds_differ(whole, tmp_path):
    "In another process, the same settings give the same weights; another seed does not."
    assert elsewhere(RESUMED, tmp_path/'again') == 0
    same_weights(tmp_path/'again', whole)
    train(TrainSettings(**dict(RESUMED, seed=1)), tmp_path/'other', progress=False)
    a, b = (load_file(f/'network.safetensors') for f in (tmp_path/'other', whole))
    assert not torch.equal(a['fc.weight'], b['fc.weight'])

def test_patch_training_is_triqdef_without_penalties(tmp_path):
    "The control: λ_FDP = λ_GPDP = 0 is the same run, to the last bit."
    base = dict(SETTINGS, epochs=2)
    train(TrainSettings(**base, method='triqdef', lambda_fdp=0., lambda_gpdp=0.), tmp_path/'a', progress=False)
    train(TrainSettings(**base, method='patch-at'), tmp_path/'b', progress=False)
    same_weights(tmp_path/'a', tmp_path/'b')
    train(TrainSettings(**base, method='triqdef', lambda_adv=0., lambda_fdp=0., lambda_gpdp=0.), tmp_path/'c', progress=False)
    train(TrainSettings(**base, method='qat'), tmp_path/'d', progress=False)
    same_weights(tmp_path/'c', tmp_path/'d')


# commands

class Result:
    "What a command run inside this process returned and said."
    def __init__(self, returncode, captured): self.returncode, self.stdout, self.stderr = returncode, captured.out, captured.err

@pytest.fixture
def here(capsys, monkeypatch):
    "Run a command in this process: a new one takes seconds to start. A few tests below start real ones."
    from triqdef.cli import main
    monkeypatch.setenv('COLUMNS', '80')
    def run(*args):
        capsys.readouterr()
        try: code = main([str(a) for a in args])
        except SystemExit as e: code = e.code
        return Result(code or 0, capsys.readouterr())
    return run

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A run folder made by the command."
    folder = tmp_path_factory.mktemp('trained')/'qat'
    r = forked_command('train', folder, '--method', 'qat', '--epochs', 1, *QAT, main='dying:small')
    assert r.returncode == 0, r.stderr[-2000:]
    assert r.stdout.strip().splitlines()[-1] == f'next: triqdef evaluate {folder} --quick' and '2 bits' in r.stdout
    return folder

QUICK = ['--attacks', 'pgd', 'gap', '--n', 48, '--n-attack', 16, '--n-align', 8, '--patch-size', 4, '--pgd-steps', 2, '--gap-steps', 2, '--no-audit', '--quiet']

def test_help_teaches(here):
    r = triqdef('--help')
    assert r.returncode == 0 and not r.stderr
    for word in ('demo', 'attack', 'train', 'evaluate', 'export', 'study', 'list', 'completion', 'exit codes'): assert word in r.stdout
    for name in ('demo', 'attack', 'train', 'evaluate', 'export', 'study', 'list'):
        r = here(name, '--help')
        assert r.returncode == 0 and ('example' in r.stdout or name == 'demo') and 'default' in r.stdout
        for line in r.stdout.splitlines(): assert len(line) <= 80, line
    version = here('--version')
    assert version.returncode == 0 and version.stdout.startswith('triqdef 0.')

def test_help_is_stored(root, monkeypatch):
    "What is printed without torch is what the parser says; after a change of options: python scripts/store_help.py."
    monkeypatch.setenv('COLUMNS', '80')
    now = command_table(parser(), pretrained_names())
    own = {n: {k: v for k, v in d.items() if k != 'help' or sys.version_info < (3, 13)} for n, d in now.items()}    # its argparse writes otherwise
    assert own == {n: {k: d[k] for k in own.get(n, d)} for n, d in stored_table().items()}

def test_start_is_light():
    "Version, help and completion import no torch, and a word that is no command is refused without it."
    code = "import sys; from triqdef.cli import main\nfor argv in (['--version'], ['--help'], ['attack', '--help'], ['completion', 'bash'], ['fly']):\n" \
           "    try: main(argv)\n    except SystemExit: pass\nprint([m for m in ('torch', 'numpy', 'fastai', 'pandas') if m in sys.modules])"
    r = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, timeout=180, env=environment())
    assert r.stdout.splitlines()[-1] == '[]' and '--print-cm' in r.stdout and 'complete -o' in r.stdout and 'invalid choice' in r.stderr, r

def test_no_warning_of_others():
    "A process of its own, whose libraries warn when they are imported, says nothing on stderr."
    env = {k: v for k, v in environment().items() if k != 'PYTHONWARNINGS'}
    r = subprocess.run(command('list', 'quantizers'), capture_output=True, text=True, timeout=180, env=env)
    assert r.returncode == 0 and not r.stderr and 'lsq' in r.stdout and r.stdout.splitlines()[-1].startswith('next: triqdef'), r

def test_stopped_while_it_imports(here, monkeypatch):
    "Ctrl-C before a command has begun is no traceback."
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr('triqdef.cli._parse_options', stop)
    one_line(here('list'), 130, 'interrupted')

def test_train_leaves_a_run(trained, here, tmp_path):
    "The folder is what the function leaves, and the function's weights are the command's."
    assert files(trained) == ['history.csv', 'network.safetensors', 'run.json', 'terms.csv']
    train(replace(TrainSettings(**SETTINGS, method='qat', epochs=1), patch_size=8, attack_steps=5), tmp_path/'run', progress=False)
    same_weights(trained, tmp_path/'run')
    before = {f: (trained/f).stat().st_mtime_ns for f in files(trained)}
    assert here('train', trained, '--method', 'qat', '--epochs', 1, *QAT).returncode == 0
    assert before == {f: (trained/f).stat().st_mtime_ns for f in files(trained)}, 'a finished run was trained again'

def test_evaluate(trained, here, undrawn, tmp_path):
    "A report in strict JSON with settings, seeds, versions and intervals, tables and pictures; and the same figures a second time."
    reports = []
    for name in ('one', 'two'):
        r = here('evaluate', trained, *QUICK, '--out', tmp_path/name)
        assert r.returncode == 0, r.stderr[-2000:]
        assert str(tmp_path/name) in r.stdout
        reports.append(json.loads((tmp_path/name/'report.json').read_text(), parse_constant=lambda c: pytest.fail(f'{c} is no JSON')))
    text = json.dumps(reports[0])
    for word in ('seed', 'versions', 'torch', 'noise', 'grey', 'crop', 'low', 'high', 'lambda_fdp'): assert word in text, word
    assert {'.json', '.csv', '.png', '.html'} <= {Path(f).suffix for f in files(tmp_path/'one')}
    tables = [f for f in files(tmp_path/'one') if f.endswith('.csv')]
    assert tables == [f for f in files(tmp_path/'two') if f.endswith('.csv')]
    for f in tables: assert (tmp_path/'one'/f).read_text() == (tmp_path/'two'/f).read_text(), f

@pytest.fixture(scope='module')
def quick(trained, tmp_path_factory):
    "A quick evaluation with exported networks: what it said, and where its folders are."
    folder = tmp_path_factory.mktemp('quick')
    r = forked_command('evaluate', trained, '--quick', '--quiet', '--export', '--n', 64, '--n-align', 8, '--gap-steps', 2, '--out', folder/'report',
                       main='dying:small', drawn=True)
    assert r.returncode == 0, r.stderr[-2000:]
    return r, folder

def test_quick_evaluate(quick):
    "Within its bounds: T1, T2 and T3, every line with their figures, and what was left out; nothing unfinished stays."
    r, folder = quick
    j = json.loads((folder/'report'/'report.json').read_text())
    assert [l['line'] for l in j['audit']] == sorted(audit_lines) and all(l['figure'] for l in j['audit'])
    assert {'T1', 'T2', 'T3'} == {c['threat'] for c in j['transfer']}
    assert any('PatchAttack' in o for o in j['left_out']) and 'bounded budgets' in r.stdout
    assert sorted(p.name for p in folder.iterdir()) == ['report', 'report-onnx']
    sizes = [Image.open(p).size for p in folder.rglob('*.png')]
    assert len(sizes) > 5 and min(min(s) for s in sizes) > 1, 'a picture is not drawn'

def test_exported_networks_in_the_audit(trained, quick, here, tmp_path):
    "A file for each bit-width, attacked in line 12; then one file and the patches of that report."
    report = quick[1]/'report'
    line = Report.load(report).audits['qat'][12]
    assert line.passed is not False and all(r['inside'] for r in line.values['rows'])      # seven images do not decide it
    assert line.values['exported'] and [r['bits'] for r in line.values['rows']] == [32, 2], line
    assert sorted(p.name for p in (quick[1]/'report-onnx'/'qat').iterdir()) == ['2.onnx', '32.onnx']
    r = here('export', trained, '--bits', 2, '-o', tmp_path/'net2.onnx', '--n', 64, '--report', report)
    assert r.returncode == 0, r.stderr[-2000:]
    assert "form 'integer': the same network" in r.stdout and 'made at 32' in r.stdout and 'made at 2' in r.stdout
    r = here('export', 'cifar10-resnet20-qat', '--bits', 2, '--report', report, '--of', 'cat', '-o', tmp_path/'net2.onnx', '--n', 8)
    one_line(r, 2, "['qat']", '--of')
    weights = trained/'network.safetensors'
    before = weights.read_bytes()
    one_line(here('export', weights, '--bits', 2, '-o', weights), 2, 'NAME.onnx')
    assert weights.read_bytes() == before
    r = here('export', weights, '--bits', 2, '-o', tmp_path/'net2.onnx', '--n', 16, '--report', report)
    assert r.returncode == 0 and 'made at 2 on qat' in r.stdout, r.stderr      # its own data, by its own record
    assert sorted(p.name for p in tmp_path.iterdir()) == ['net2.onnx']

def test_a_file_that_is_another_network_does_not_stay(trained, here, tmp_path, monkeypatch):
    "Parity that fails leaves no file, and leaves one that was there."
    monkeypatch.setattr('triqdef.deploy.parity.Parity.faults', ['layer: far away'])
    (tmp_path/'old.onnx').write_text('mine')
    for name in ('new.onnx', 'old.onnx'):
        r = here('export', trained, '--bits', 2, '-o', tmp_path/name, '--n', 16, '--patch-size', 4, '--gap-steps', 1, '--quiet')
        one_line(r, 2, f'{name} is not this network at 2 bits', 'far away')
    assert files(tmp_path) == ['old.onnx'] and (tmp_path/'old.onnx').read_text() == 'mine'

def test_study(here, undrawn, tmp_path):
    "The command makes the cells that are asked for, once; --collect puts folders together and names what is missing."
    for arm in ('qat', 'dwq'):
        r = here('study', 'cifar10', '--scale', 'toys', '--folder', tmp_path/arm, '--arms', arm, '--quiet')
        assert r.returncode == 0, r.stderr[-2000:]
        assert r.stdout.count(f'{arm}/seed0/') == 4 and '4 cells are there' in r.stdout
    again = here('study', 'cifar10', '--scale', 'toys', '--folder', tmp_path/'qat', '--arms', 'qat', '--quiet')
    assert again.stdout.count('qat/seed0/') == 0 and '4 cells are there' in again.stdout
    r = here('study', 'cifar10', '--scale', 'toys', '--collect', tmp_path/'qat', tmp_path/'dwq', '--out', tmp_path/'all.json')
    assert r.returncode == 0 and '8 cells are there, 32 are missing' in r.stdout and 'triqdef, seed 0: all of it' in r.stdout
    assert len(json.loads((tmp_path/'all.json').read_text())['cells']) == 8

BAD_COMMANDS = {
    'nothing': ([], 'COMMAND'), 'unknown': (['fly'], 'fly'), 'no folder': (['train'], 'folder'), 'unknown option': (['train', 'RUN', '--colour', '1'], '--colour'),
    'no number': (['train', 'RUN', '--epochs', 'two'], 'two'), 'method': (['train', 'RUN', '--method', 'fgsm'], "'triqdef'"),
    'bits': (['train', 'RUN', *TOYS, '--bits', '32', '1'], 'between 2 and 16'), 'data': (['train', 'RUN', '--data', 'nowhere'], "'cifar10'"),
    'other settings': (['train', 'TRAINED', '--method', 'qat', '--lr', '5', *QAT], 'other settings'),
    'unwritable': (['train', 'FILE/run', *TOYS], 'FILE'), 'no run': (['evaluate', 'EMPTY'], 'no run.json'), 'absent': (['evaluate', 'absent'], 'no run folder, checkpoint or network'),
    'attack': (['evaluate', 'TRAINED', '--attacks', 'fgsm'], "'gap'"), 'patch': (['evaluate', 'TRAINED', *QUICK, '--patch-size', '40'], '40 × 40'),
    'target': (['evaluate', 'TRAINED', *QUICK, '--target', '7'], 'target'), 'images': (['evaluate', 'TRAINED', *QUICK, '--n', '100000'], '100000'),
    'report': (['evaluate', 'TRAINED', *QUICK, '--out', 'FILE/report'], 'FILE'), 'demo': (['demo', '--quick', '--out', 'FILE'], 'FILE'),
    'export bits': (['export', 'TRAINED', '--bits', '6', '-o', 'net.onnx'], 'must be one of'), 'export': (['export', 'absent', '--bits', '2'], 'cifar10-resnet20-qat'), 'export bits of no file': (['export', 'TRAINED', '--bits', '12'], '--bits of a file'),
    'export folder': (['export', 'TRAINED', '--bits', '2', '-o', 'nowhere/net.onnx'], 'no folder nowhere'),
    'export onto a folder': (['export', 'TRAINED', '--bits', '2', '-o', 'EMPTY'], 'is a folder'),
    'export report': (['export', 'TRAINED', '--bits', '2', '--report', 'EMPTY'], 'EMPTY'), 'export images': (['export', 'TRAINED', '--bits', '2', '--n', '100000'], '100000'),
    'export of nothing': (['evaluate', 'TRAINED', '--export', '--n', '0'], '--n must'), 'of whom': (['export', 'TRAINED', '--bits', '2', '--of', 'x'], '--of has no effect without --report'),
    'export without audit': (['evaluate', 'TRAINED', '--export', '--no-audit'], '--no-audit'),
    'start': (['demo', '--train', '--start', 'resnet9000'], 'resnet9000'),
    'recipe': (['study', 'imagenet9000'], "['cifar10', 'cifar10-curves', 'cifar10-paper']"), 'scale': (['study', 'cifar10', '--scale', 'huge'], "'reduced'"),
    'arm': (['study', 'cifar10', '--arms', 'fgsm'], "'triqdef'"), 'collect': (['study', 'cifar10', '--collect', 'EMPTY/none'], 'EMPTY/none'), 'study folder': (['study', 'cifar10', '--scale', 'toys', '--folder', 'FILE'], 'FILE')}

@pytest.mark.parametrize('name', BAD_COMMANDS)
def test_bad_input_is_a_sentence_and_a_2(name, trained, here, tmp_path, monkeypatch):
    args, telling = BAD_COMMANDS[name]
    monkeypatch.chdir(tmp_path)
    (tmp_path/'FILE').write_text('mine'); (tmp_path/'EMPTY').mkdir()
    before = files(trained)
    r = here(*[trained if a == 'TRAINED' else a for a in args])
    assert one_line(r, 2, telling).startswith('triqdef')
    assert files(trained) == before and files(tmp_path/'EMPTY') == [] and (tmp_path/'FILE').read_text() == 'mine'
    left = [f for f in files(tmp_path) if f != 'FILE']
    assert not left, f'left behind: {left}'

def test_checkpoint_with_code_is_refused_by_the_command(tmp_path):
    "In a process of its own: a sentence, exit code 2, nothing run."
    class Trap:
        def __reduce__(self): return os.mkdir, (str(tmp_path/'mark'),)
    torch.save(dict(model=Trap()), tmp_path/'net.safetensors')
    r = forked_command('train', tmp_path/'run', *TOYS[:2], *TOYS[4:], '--start', tmp_path/'net.safetensors')
    one_line(r, 2, 'pickle', 'refused')
    assert not (tmp_path/'mark').exists()

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_interrupted_command_goes_on(here, whole, tmp_path):
    "Ctrl-C after the first epoch: 130 and a sentence; the same command ends with the weights of an uninterrupted run."
    args = ['train', tmp_path/'cut', '--method', 'triqdef', '--epochs', 3, *TOYS]
    cut = forked('dying:interrupted', [str(a) for a in args])
    assert cut.returncode == 130 and 'goes on' in cut.stderr and 'Traceback' not in cut.stderr, (cut.returncode, cut.stderr[-1500:])
    assert 'network.safetensors' not in files(tmp_path/'cut') and 'state.pt' in files(tmp_path/'cut')
    r = here(*args)
    assert r.returncode == 0, r.stderr[-1500:]
    same_weights(tmp_path/'cut', whole)
    assert len(columns(tmp_path/'cut'/'history.csv')) == 3

def test_a_bug_keeps_its_traceback(here, monkeypatch, tmp_path):
    "Anything that is not bad input is not caught, so that the process ends with 1 and the traceback that a maintainer needs."
    def broken(*args, **kwargs): raise RuntimeError('a bug')
    monkeypatch.setattr('triqdef.commands.train.train', broken)
    with pytest.raises(RuntimeError, match='a bug'): here('train', tmp_path/'run')

def test_demo_takes_as_long_as_is_said(root):
    "README, Makefile and help have the range of recorded runs, which stands in the command."
    from triqdef.commands.demo import demo_minutes
    for name in ('README.md', 'Makefile'): assert demo_minutes in (root/name).read_text(encoding='utf-8'), name
    assert demo_minutes in ' '.join(parser().format_help().split())
