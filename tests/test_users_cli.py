"Situations of users of the command line: every wish is met, or refused by its name before any work."
import json, os, shutil, warnings
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from forked import forked
from triqdef.cli import main, parser
from triqdef.commands import attack, demo, evaluate, export, study as study_command
from triqdef.commands.attacks import fit_to
from triqdef.commands.checks import idle_options, parse_options
from triqdef.commands.options import as_typed
from triqdef.files import fingerprint
from triqdef.quant.checkpoint import save_checkpoint
from triqdef.study import load_recipe, study
from triqdef.toys import toy_net, trained_toy
from triqdef.train.run import TrainSettings, alone, load_run, make_callback, make_data, make_network, methods, train, without_effect

SMALL = dict(arch='toy_net', bits=(32, 2), bs=8, patch_size=4, attack_steps=1, epochs=1, size=16, device='cpu')
QUICK = ['--attacks', 'pgd', 'gap', '--n-attack', 4, '--n-align', 4, '--patch-size', 4, '--pgd-steps', 1, '--gap-steps', 1, '--no-audit', '--quiet']

def pictures(folder, classes, n=10, side=16):
    "A folder of class folders, a training and a validation part."
    for part in ('train', 'valid'):
        for k, c in enumerate(classes):
            (folder/part/c).mkdir(parents=True)
            for i in range(n):
                x = np.random.RandomState(100*k + i).randint(60*k, 60*k + 60, (side, side, 3)).astype('u1')
                Image.fromarray(x).save(folder/part/c/f'{i}.png')
    return folder

@pytest.fixture(scope='module')
def place(tmp_path_factory):
    "Pictures of two classes, and a run that was trained on them."
    d = tmp_path_factory.mktemp('users')
    train(TrainSettings(data=str(pictures(d/'ab', 'ab')), **SMALL), d/'run', progress=False)
    return d

@pytest.fixture
def said(capsys):
    "Run a command in this process: exit code, what it said, what it complained."
    def run(*argv):
        capsys.readouterr()
        try: code = main([str(a) for a in argv])
        except SystemExit as e: code = e.code
        out = capsys.readouterr()
        return code, out.out, out.err
    return run

def refused(r, *telling):
    assert r[0] == 2 and 'Traceback' not in r[2], r
    for t in telling: assert t in r[2], r[2]


# what the program proposes works

def test_small_folder_of_two_classes(place, said, tmp_path):
    "The default number of images and the default class to reach for are more than a small folder has (torchattacks #152, foolbox #735)."
    r = said('evaluate', place/'run', *QUICK, '--out', tmp_path/'report')
    assert r[0] == 0, r
    assert '20 images, all there are' in r[1] and 'class 1, b, the last of 2' in r[1]
    r = said('export', place/'run', '--bits', 2, '-o', tmp_path/'n.onnx', '--gap-steps', 1, '--quiet')
    assert r[0] == 0 and '20 images, all there are' in r[1] and 'class 1, b' in r[1], r

@pytest.mark.parametrize('option,value', [('--n', 21), ('--n', 0), ('--n', -3), ('--target', 2), ('--target', -1), ('--patch-size', 17),
                                          ('--patch-size', 0), ('--n-attack', 21), ('--n-align', -1), ('--seed', -1), ('--gap-steps', 0)])
def test_what_was_written_is_met_or_refused(option, value, place, said, tmp_path):
    "A number that cannot be had is refused by its option, and no folder is made (torchattacks #152)."
    rest = [a for i, a in enumerate(QUICK) if a != option and (not i or QUICK[i - 1] != option)]
    refused(said('evaluate', place/'run', *rest, option, value, '--out', tmp_path/'report'), option)
    assert not list(tmp_path.iterdir())

def test_quick_does_not_lower_what_was_written(place, said, tmp_path):
    "What is written beside --quick wins, and each help says so; where nothing is left for --quick, it is refused."
    r = said('attack', place/'run', '--quick', '--n', 6, '--patch-size', 4, '--out', tmp_path/'a', '--device', 'cpu', '--quiet')
    assert r[0] == 0 and 'on 6 pictures' in r[1], r
    refused(said('attack', place/'run', '--quick', '--n', 6, '--steps', 1), '--quick has no effect beside --steps and --n')
    for command in ('attack', 'evaluate'): assert 'win' in actions(command)['quick'].help
    args = parse_options(parser, ['evaluate', 'run', '--quick', '--n-attack', '65'])
    fit_to(args, make_data(TrainSettings(data='toys', size=16)), dict(n=500, n_attack=64, n_align=64))
    assert (args.n_attack, args.n_align) == (65, 64)

def test_the_next_command_can_be_pasted():
    "Folders with a space, an accent or a leading dash are quoted in what is proposed."
    assert [as_typed(p) for p in ('runs/a', 'my run', '-x')] == ['runs/a', "'my run'", './-x']

def test_weights_of_other_classes(place, tmp_path, monkeypatch):
    "Published weights begin a run on an own folder: the last layer is fresh, in one line (torchvision #3547, timm #948)."
    import torchvision
    from triqdef.classifiers import classifier
    built = []
    def with_head(name, weights=None, n_classes=1000, fresh_head=False, **kwargs):
        built.append((weights, n_classes))
        if weights != 'default': return classifier(name, weights, n_classes, fresh_head=fresh_head, **kwargs)
        net = classifier(name, None, n_classes)         # nothing is downloaded: as if 1000 classes had been replaced
        net.fresh_head = fresh_head
        return net
    monkeypatch.setattr('triqdef.train.build._classifier', with_head)
    own, s = tmp_path/'own.pth', TrainSettings(data=str(place/'ab'), arch='resnet18', bits=(32, 4), size=16, bs=4, device='cpu')
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), own)
    dls = make_data(s)
    with pytest.warns(UserWarning, match='the last layer is fresh'): make_network(replace(s, weights='default'), dls)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        make_network(replace(s, weights=str(own)), dls)      # a file of two classes keeps its own
    assert built == [('default', 2), (str(own), 2)] and not any('fresh' in str(w.message) for w in said)


# labels are names

@pytest.mark.parametrize('classes', ['xy', 'abc', 'bc'])
def test_data_of_other_classes(classes, place, said, tmp_path):
    "Pictures of other classes than those of the run would be scored by the number of a label (ultralytics #8837)."
    other = pictures(tmp_path/'other', classes, n=2)
    lists = ['a, b', ', '.join(classes)]
    refused(said('evaluate', place/'run', *QUICK, '--data', other, '--out', tmp_path/'r'), *lists)
    refused(said('export', place/'run', '--bits', 2, '--data', other, '-o', tmp_path/'n.onnx'), *lists)
    refused(said('train', tmp_path/'new', '--data', other, '--size', 16, '--bits', 32, 2, '--bs', 2, '--device', 'cpu', '--patch-size', 4,
                 '--start', place/'run/network.safetensors'), *lists)
    assert [p.name for p in tmp_path.iterdir()] == ['other']
    with pytest.raises(ValueError, match='a label would mean another class'):
        make_network(TrainSettings(start=str(place/'run/network.safetensors'), bits=(32, 2)),
                     make_data(TrainSettings(data=str(other), size=16, bs=2)))


def test_folder_of_some_classes(place, said, tmp_path):
    "Folders named as some of the network's classes are labelled by their names, not by their numbers."
    whole = pictures(tmp_path/'ten', ('cat', 'ship'), n=3, side=32)
    r = said('attack', 'cifar10-resnet20-qat', '--data', whole, '--bits', 4, '--steps', 1, '--out', tmp_path/'a', '--device', 'cpu', '--quiet')
    assert r[0] == 0 and 'labels: 2 of the 10 classes of cifar10-resnet20-qat, by their names' in r[1], r
    assert {p.name.split('-')[1] for p in (tmp_path/'a/pictures').rglob('*.png')} == {'cat', 'ship'}


# attack what you have

ATTACK = ['--steps', 1, '--n', 8, '--patch-size', 4, '--device', 'cpu']

def test_attack(place, said, tmp_path):
    "Patches, a sheet, pictures, a table; then 14 lines at most, the last one the next command; what they name exists."
    r = said('attack', place/'run', *ATTACK, '--attack', 'gap', 'pgd', '--out', tmp_path/'a', '--quiet')
    lines = r[1].splitlines()
    assert r[0] == 0 and lines[0].startswith(f"the folder {tmp_path/'a'} is written at the end") and f"{tmp_path/'.a-unfinished'}" in lines[0], r
    assert len(r[1].partition('attacking')[2].splitlines()) <= 15, r
    table = r[1][r[1].index('tried at'):].splitlines()
    assert [c.strip() for c in table[0].split('  ') if c.strip()] == ['tried at', '32 bits', '2 bits'] and 'n=' in table[1]
    assert [row.split(',')[1].split('  ')[0] for row in table[2:5]] == [' made at 32', ' made at 2', ' made at 32 2 together']
    assert any(l.startswith('null') and '[' in l for l in table) and 'GAP 4×4 reaches for class 1, b (--target)' in r[1]
    for p in r[1].splitlines()[-2].split(', '): assert Path(p).exists(), p
    d = json.loads((tmp_path/'a/attack.json').read_text())
    assert len(d['table']) == 2*3*2 and {'success', 'null', 'low', 'clean'} <= d['table'][0].keys()
    assert (tmp_path/'a/sheet.pdf').read_bytes()[:5] == b'%PDF-' and len(list((tmp_path/'a/patches').glob('*.png'))) == 3
    assert [p.name for p in tmp_path.iterdir()] == ['a']

def test_attack_that_finds_nothing(place, said, tmp_path, monkeypatch):
    "Where no patch does better than the null, a stronger attack is proposed, one that can be pasted; else what follows from success."
    args = ['attack', place/'run', *ATTACK, '--out', tmp_path/'a', '--quiet']
    for found, proposed in ((False, f"triqdef attack {place/'run'} "), (True, f"triqdef evaluate {place/'run'} --n 8 --quick")):
        monkeypatch.setattr(attack, 'above_null', lambda t: found)
        r = said(*args)
        assert r[0] == 0 and r[1].splitlines()[-1].startswith(f'next: {proposed}') and ('surely above' in r[1]) is not found, r
        if not found: again = r[1].splitlines()[-1].split()[2:]
    asked = parse_options(parser, again)
    assert (asked.attack, asked.steps, asked.n, asked.patch_size) == (['pgd'], 4, 8, 4)

def test_weights_without_their_network(place, said, tmp_path):
    "A state dict is refused with the whole command that takes it; --calibrate-n where nothing is calibrated is refused too."
    import torchvision
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), tmp_path/'my.pth')
    for command, begins in ((['attack'], 'triqdef attack'), (['evaluate'], 'triqdef evaluate'), (['train', tmp_path/'run', '--start'], 'triqdef train RUN --start')):
        refused(said(*command, tmp_path/'my.pth', '--data', place/'ab'), f"{begins} timm/NAME --weights {tmp_path/'my.pth'} --data FOLDER")
    refused(said('export', tmp_path/'my.pth', '--bits', 4, '-o', tmp_path/'n.onnx', '--data', place/'ab'), 'triqdef export timm/NAME --weights')
    for command in ('attack', 'evaluate'): refused(said(command, place/'run', '--calibrate-n', 8, '--out', tmp_path/'r'), '--calibrate-n has no effect')
    assert [p.name for p in tmp_path.iterdir()] == ['my.pth']

def test_calibration_shows_progress(place, said, tmp_path):
    "A float network is calibrated on the number of pictures that was asked for, and what is done is told from the first line on."
    save_checkpoint(toy_net(2), tmp_path/'float.safetensors', 'toy_net', 2)
    r = said('attack', tmp_path/'float.safetensors', '--data', place/'ab', *ATTACK, '--calibrate-n', 8, '--out', tmp_path/'a')
    lines = r[1].splitlines()
    assert r[0] == 0 and lines[1] == f"loading {tmp_path/'float.safetensors'}", r
    i = next(i for i, l in enumerate(lines) if 'calibrated on 8 training pictures' in l)
    assert lines[i + 1].startswith('0 of ') and lines[i + 1].endswith(': calibrating'), lines
    defaults = {c: actions(c)['calibrate_n'].default for c in ('attack', 'evaluate')}
    assert defaults == dict(attack=64, evaluate=64)

def test_stopped_attack_goes_on(place, said, tmp_path, monkeypatch):
    "Ctrl-C while the folder is written: nothing half-written, and the same command makes no patch anew."
    args = ['attack', place/'run', *ATTACK, '--out', tmp_path/'a', '--quiet']
    def stop(*_): raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(attack.Found, 'save', stop)
        r = said(*args)
    assert r[0] == 130 and [p.name for p in tmp_path.iterdir()] == ['.a-unfinished'], r
    monkeypatch.setattr('triqdef.attack.gap.GAP._step_fit', stop)
    assert said(*args)[0] == 0 and [p.name for p in tmp_path.iterdir()] == ['a']

def test_every_way_to_name_a_network(place, said, tmp_path):
    "A run, its checkpoint, weights of timm with their own classes, a file for attacks that see scores; a folder without classes."
    timm = pytest.importorskip('timm')
    torch.save(timm.create_model('test_vit', num_classes=2).state_dict(), tmp_path/'own.pth')
    flat = tmp_path/'flat'
    flat.mkdir()
    for i in range(6): Image.fromarray(np.random.RandomState(i).randint(0, 256, (20, 24, 3)).astype('u1')).save(flat/f'{i}.png')
    for args in ([place/'run/network.safetensors'], ['timm/test_vit', '--weights', tmp_path/'own.pth', '--data', place/'ab', '--bits', 8],
                 [place/'run', '--data', flat]):
        n = ATTACK if flat not in args else [a if a != 8 else 3 for a in ATTACK]
        r = said('attack', *args, *n, '--out', tmp_path/'a', '--quiet')
        assert r[0] == 0, r
    assert 'what run says counts as right' in r[1]
    r = said('export', place/'run', '--bits', 2, '-o', tmp_path/'2.onnx', '--gap-steps', 1, '--quiet')
    assert f"next: triqdef attack {tmp_path/'2.onnx'} --data {place/'ab'} --attack sparse-rs --quick" in r[1], r
    refused(said('attack', tmp_path/'2.onnx', '--data', place/'ab', *ATTACK, '--out', tmp_path/'b'), 'gap need gradients', 'sparse-rs')
    refused(said('evaluate', tmp_path/'2.onnx', '--data', place/'ab', '--quick', '--out', tmp_path/'b'), 'needs gradients')
    r = said('attack', tmp_path/'2.onnx', '--data', place/'ab', *ATTACK, '--attack', 'sparse-rs', '--out', tmp_path/'b', '--quiet')
    assert r[0] == 0 and json.loads((tmp_path/'b/attack.json').read_text())['table'][0]['tried_at'] == 2, r

def test_pictures_of_another_size(place, said, tmp_path):
    "--size is the side of the pictures, carried on and exported; it is refused where the network or the data have their own."
    timm = pytest.importorskip('timm')
    torch.save(timm.create_model('test_resnet', num_classes=2).state_dict(), tmp_path/'own.pth')
    of = ['timm/test_resnet', '--weights', tmp_path/'own.pth', '--data', place/'ab', '--size', 48]
    r = said('attack', *of, *ATTACK, '--bits', 8, '--out', tmp_path/'a', '--quiet')
    assert r[0] == 0 and json.loads((tmp_path/'a/attack.json').read_text())['settings']['image_shape'][-2:] == [48, 48], r
    assert '--size 48' in r[1].splitlines()[-1] and '--bits 8' in r[1].splitlines()[-1], r
    r = said('export', *of, '--bits', 8, '-o', tmp_path/'8.onnx', '--gap-steps', 1, '--n', 8, '--calibrate-n', 8, '--quiet')
    assert r[0] == 0 and 'the same network' in r[1] and 'calibrated on 8' in r[1], r
    file = [tmp_path/'8.onnx', '--data', place/'ab', '--attack', 'sparse-rs', *ATTACK, '--quiet', '--out', tmp_path/'b']
    assert said('attack', *file)[0] == 0
    refused(said('attack', *file, '--size', 32), 'takes images of 48 × 48')
    refused(said('export', f"{tmp_path/'8.onnx'}", '--bits', 8), 'is an ONNX file already')
    for command in ('attack', 'evaluate'): refused(said(command, place/'run', '--data', place/'ab', '--size', 32, '--out', tmp_path/'c'), 'takes images of 16 × 16')
    refused(said('attack', 'timm/test_resnet', '--data', 'toys', '--size', 32), '--size has no effect without a folder')
    torch.save(timm.create_model('test_vit', num_classes=2).state_dict(), tmp_path/'vit.pth')
    refused(said('attack', 'timm/test_vit', '--weights', tmp_path/'vit.pth', *of[3:-1], 41, '--out', tmp_path/'c'), 'takes no images of 41 × 41')

def test_refused_before_a_network_is_loaded(place, said, tmp_path, monkeypatch):
    "Data that are absent, and more pictures than there are, are refused before weights are read (or downloaded)."
    def load(*_): raise AssertionError('loaded')
    for m in (attack, evaluate, export): monkeypatch.setattr(m, 'loaded', load)
    for command in (['attack'], ['evaluate'], ['export', '--bits', 8]):
        for bad, telling in ((['--data', 'nowhere'], 'there is no folder'), (['--data', place/'ab', '--n', 21], '--n must be at most 20'), ([], 'give --data'),
                             (['--data', 'imagenet', '--path', tmp_path/'gone'], 'there is no folder')):
            refused(said(command[0], 'resnet18', *command[1:], *bad), telling)

def test_a_file_and_what_it_takes(said, tmp_path):
    "What is declared behind a file reaches it in attack; a file at chance is named with what may be declared."
    net, x = trained_toy(60), torch.rand(2, 3, 16, 16)
    class Bytes(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net.eval()
        def forward(self, x): return self.net(x/255)
    torch.onnx.export(Bytes(), (x,), tmp_path/'b.onnx', dynamo=True, verbose=False)
    rest = ['--data', 'toys', '--attack', 'sparse-rs', *ATTACK[:2], '--n', 60, *ATTACK[4:], '--quiet']
    r = said('attack', tmp_path/'b.onnx', *rest, '--out', tmp_path/'a')
    assert r[0] == 0 and 'no better than chance' in r[2] and 'b.onnx,scale=255' in r[2], r
    r = said('attack', f"{tmp_path/'b.onnx'},scale=255", *rest, '--out', tmp_path/'b')
    assert r[0] == 0 and 'chance' not in r[2], r
    assert json.loads((tmp_path/'b/attack.json').read_text())['network'].endswith('.onnx,scale=255')
    refused(said('attack', f"{tmp_path/'b.onnx'},range=2", *rest, '--out', tmp_path/'c'), 'KEY=VALUE')
    refused(said('attack', f"{tmp_path/'b.onnx'},scale=255", '--bits', 8), '--bits has no effect on an ONNX file')

def test_members_without_gradients(said, tmp_path):
    "Where no member has gradients, an attack that sees scores is the default, and is named."
    torch.onnx.export(toy_net().eval(), (torch.rand(2, 3, 16, 16),), tmp_path/'t.onnx', dynamo=True, verbose=False)
    r = said('evaluate', '--member', f"file={tmp_path/'t.onnx'}", '--data', 'toys', '--quick', '--n', 8, '--n-attack', 2, '--n-align', 0, '--no-audit', '--quiet',
             '--patch-size', 4, '--out', tmp_path/'r')
    assert r[0] == 0 and 'attacks: sparse-rs, as no member has gradients' in r[1], r

@pytest.mark.parametrize('option,value', [('--bits', 33), ('--bits', 1), ('--patch-size', 40), ('--print-cm', 18), ('--data', 'nowhere'), ('--n', 0), ('--steps', 0),
                                          ('--target', 2), ('--weights', 'x.pth'), ('--device', 'cuda:9')])
def test_bad_attack(option, value, place, said, tmp_path):
    "An option that cannot be is named, before any file."
    refused(said('attack', place/'run', *ATTACK, option, value, '--out', tmp_path/'a'), dict([('--print-cm', 'cm'), ('--device', 'device')]).get(option, option.strip('-')))
    assert not list(tmp_path.iterdir())

def test_training_begins_with_what_is_named(place, said, tmp_path):
    "A run folder and published weights are starts; without --start it is what ships, where the data are CIFAR-10."
    from triqdef.commands.train import _settings
    def start(*argv): return _settings(parse_options(parser, ['train', 'r', *map(str, argv)]))
    assert start().start == 'cifar10-resnet20-fp' and start('--data', place/'ab').start == 'scratch' and start('--arch', 'resnet56').start == 'scratch'
    assert start('--start', place/'run').start == str(place/'run/network.safetensors')
    s = start('--start', 'resnet18')
    assert (s.start, s.arch, s.weights) == ('scratch', 'resnet18', 'default')
    refused(said('train', tmp_path/'r', '--start', 'resnet18', '--arch', 'resnet50'), '--arch has no effect')


# options

BASE = dict(demo=['demo'], train=['train', 'RUN'], evaluate=['evaluate', 'RUN'], export=['export', 'RUN', '--bits', '4'], study=['study', 'cifar10'],
            attack=['attack', 'cifar10-resnet20-qat'])
ALWAYS = dict(demo={'quick', 'n', 'n_attack', 'n_align', 'patch_size', 'gap_steps', 'pgd_steps', 'target', 'seed', 'out', 'single_file', 'quiet'},
              train={'folder', 'quiet', 'method', 'data', 'start', 'bits', 'weight', 'act', 'per_channel', 'sums', 'train_n', 'valid_n', 'epochs', 'lr', 'wd', 'bs',
                     'checkpoint', 'sync_norms', 'amp', 'seed', 'device'},
              evaluate={'networks', 'member', 'data', 'device', 'model', 'n', 'out', 'quiet'},
              attack={'network', 'data', 'attack', 'steps', 'n', 'seed', 'out', 'device', 'quiet'},
              export={'network', 'out', 'bits', 'form', 'pixels', 'cpu', 'calibrate_n', 'report', 'data', 'n', 'seed', 'quiet'},
              study={'name', 'scale', 'collect', 'member', 'quiet'})
MODES = dict(demo=[[], ['--train'], ['--quick']], evaluate=[[], ['--no-audit'], ['--attacks', 'gap'], ['--attacks', 'pgd'], ['--attacks', 'mpa'], ['--data', 'toys'],
                       ['--model', 'resnet50'], ['--model', __file__], ['--model', 'resnet50', '--n', '0']],
             export=[[], ['--report', 'R'], ['--data', 'toys'], ['--form', 'tensorrt-13']], attack=[[], ['--attack', 'pgd'], ['--attack', 'mpa'], ['--steps', '2']], study=[[], ['--collect', 'F']],
             train=[['--method', m, '--data', 'toys'] for m in methods] + [['--start', 'cifar10-resnet20-fp'], ['--bits', '4'], ['--data', 'folder']])

RULES = dict(demo=demo._rules, evaluate=evaluate._all_rules(), export=export._rules, study=study_command._rules, attack=attack._rules)

def actions(command):
    return {a.dest: a for a in parser()._subparsers._group_actions[0].choices[command]._actions if a.dest != 'help'}

def typed(a):
    "An option with some value."
    if a.nargs == 0: return [a.option_strings[-1]]
    return [a.option_strings[-1], str(a.choices[0]) if a.choices else 'R' if a.type in (None, str) else '2']

@pytest.mark.parametrize('command', BASE)
def test_every_option_is_decided(command):
    "Of each option of the parser it is known where it does nothing, or that it always does something (AntonMu/TrainYourOwnYOLO #209)."
    told = {n for rule in RULES.get(command, ()) for n in rule.options}
    if command == 'train':
        told = {n for m in methods for d in ('toys', 'f') for s in ('scratch', 's') for b in ((4,), (8, 4))
                for n in without_effect(TrainSettings(method=m, data=d, start=s, bits=b))}
        told -= ALWAYS['train']
    assert told | ALWAYS[command] == actions(command).keys() and not told & ALWAYS[command]

@pytest.mark.parametrize('command', BASE)
def test_option_without_effect_is_refused(command, said, tmp_path, monkeypatch):
    "In every mode, each option that does nothing there is refused by its name, before any file is looked for."
    monkeypatch.chdir(tmp_path)
    tried, known = 0, actions(command)
    for mode in MODES[command]:
        for n, a in known.items():
            if n in ALWAYS[command] or a.option_strings[-1] in mode: continue
            argv = [*BASE[command], *mode, *typed(a)]
            if n in idle_options(parse_options(parser, argv)):
                refused(said(*argv), a.option_strings[-1] + ' has no effect'); tried += 1
    assert tried > 3 and not list(tmp_path.iterdir())

@pytest.mark.parametrize('method', methods)
def test_settings_without_effect(method):
    "A setting is called idle exactly where the callback that it makes is the same without it."
    s = TrainSettings(method=method, bits=(32, 4, 2))
    other = dict(lambda_adv=.5, lambda_fdp=.2, lambda_gpdp=.3, smooth=1.5, pairs='all', distill=.5, warmup=.5, max_active=2, patch_size=4,
                 attack_steps=3, step_size=.1, checkpoint=1)
    same = {n for n, v in other.items() if fingerprint(make_callback(s)) == fingerprint(make_callback(replace(s, **{n: v})))}
    assert same == without_effect(s).keys() & other.keys()

def test_start_has_its_own_settings(place, said, tmp_path):
    "A builder, quantizers or steps beside a start that has its own: refused, not passed over (ultralytics/yolov5 #1037)."
    start = ['train', tmp_path/'new', '--data', place/'ab', '--size', 16, '--bits', 32, 2, '--start', place/'run/network.safetensors', '--device', 'cpu']
    for option, value in (('--arch', 'resnet56'), ('--weights', 'default'), ('--per-channel', 1), ('--weight', 'dorefa'), ('--act', 'pact')):
        refused(said(*start, option, value), 'quantizers' if option in ('--weight', '--act') else option.strip('-').split('-')[0])
    assert not list(tmp_path.iterdir())


# numbers, devices and paths

@pytest.mark.parametrize('field', [f.name for f in fields(TrainSettings)])
def test_settings_of_another_kind(field):
    "A value of a recipe or a script that is of another kind, or no number at all, is refused by name."
    kind = {f.name: f.type for f in fields(TrainSettings)}[field]
    bad = {int: ['3', 1.5, None, True], float: ['3', None, float('nan'), float('inf')], str: [3, None], dict: [3, 'sigma', ['sigma']], tuple: [4, '32', ('4', '2'), (33,), (1,), ()]}[kind]
    for v in bad:
        with pytest.raises((TypeError, ValueError), match=field): replace(TrainSettings(), **{field: v}).check()

def test_scientific_notation(said, tmp_path):
    "A negative number in scientific notation is a bad value or a bad option, in a sentence (cpython #105712)."
    for v in ('-3e-12', 'nan', '1e400'): refused(said('train', tmp_path/'r', '--data', 'toys', f'--lr={v}'), 'lr must be')

@pytest.mark.skipif(torch.cuda.is_available(), reason='this machine has a GPU')
def test_run_of_another_machine(place, said, tmp_path):
    "A run that was trained on a GPU is evaluated where there is none; a GPU that is asked for and not there is a sentence."
    shutil.copytree(place/'run', tmp_path/'run')
    d = json.loads((tmp_path/'run/run.json').read_text())
    d['settings']['device'] = 'cuda'
    (tmp_path/'run/run.json').write_text(json.dumps(d))
    assert said('evaluate', tmp_path/'run', *QUICK, '--n', 8, '--n-align', 0, '--out', tmp_path/'r')[0] == 0
    for command in (['evaluate', place/'run'], ['train', tmp_path/'x'], ['study', 'cifar10']): refused(said(*command, '--device', 'cuda'), 'torch sees 0 devices')

def test_home_folder(place, said, monkeypatch):
    "`--data=~/ab` is not expanded by the shell."
    monkeypatch.setenv('HOME', str(place))
    assert TrainSettings(data='~/ab').check().data == str(place/'ab')
    assert load_run('~/run').settings.bits == (32, 2)
    refused(said('evaluate', '~/none'), str(place/'none'))

@pytest.mark.parametrize('name', ['run.json', 'history.csv', 'terms.csv', 'network.safetensors'])
def test_damaged_run(name, place, said, tmp_path):
    "Half a file in a run folder is named."
    run = tmp_path/'run'
    shutil.copytree(place/'run', run)
    whole = (run/name).read_bytes()
    for cut in (0, 3, len(whole)//2):
        (run/name).write_bytes(whole[:cut])
        if name == 'terms.csv' and cut > 99: continue      # its end is not known
        refused(said('evaluate', run, *QUICK), name)

def test_network_of_another_run(place, said, tmp_path):
    "Weights that were copied over those of another run are no result of its settings (ultralytics #25812)."
    train(TrainSettings(data=str(place/'ab'), **dict(SMALL, method='qat')), tmp_path/'other', progress=False)
    shutil.copy(place/'run/network.safetensors', tmp_path/'other')
    refused(said('evaluate', tmp_path/'other', *QUICK), "of two trainings, {'method': ('triqdef', 'qat')}")

def test_two_processes_in_one_folder(place, tmp_path):
    "A second process in the folder of a run that is under way is refused, and a dead one holds nothing (optuna #3215)."
    s = TrainSettings(data=str(place/'ab'), **SMALL)
    (tmp_path/'run').mkdir()
    with alone(tmp_path/'run/.lock', 'it'), pytest.raises(ValueError, match='another process is at work'): train(s, tmp_path/'run', progress=False)
    (tmp_path/'run/.lock').write_text('')      # left by a process that was killed
    train(s, tmp_path/'run', progress=False)
    assert sorted(p.name for p in (tmp_path/'run').iterdir()) == ['history.csv', 'network.safetensors', 'run.json', 'terms.csv']

def test_refused_training_leaves_nothing(place, said, tmp_path):
    "A patch larger than the pictures, and stages too small for the penalty, show before anything is written."
    args = ['train', tmp_path/'run', '--data', place/'ab', '--size', 16, '--bits', 32, 2, '--bs', 8, '--device', 'cpu', '--quiet']
    refused(said(*args, '--arch', 'toy_net', '--patch-size', 40), 'patch_size', '40 × 40')
    assert not list(tmp_path.iterdir())
    s = TrainSettings(data=str(place/'ab'), **dict(SMALL, arch='resnet8', size=8))
    with pytest.warns(UserWarning, match='fewer than 3 × 3'): train(s, tmp_path/'small', progress=False)      # layer3 has 2 × 2 pixels
    assert load_run(tmp_path/'small').terms.fdp.notna().all()

def test_recipe_with_wrong_words(tmp_path):
    "A mistyped kind in a recipe, a setting that an arm cannot use, and evaluation before training are refused."
    from triqdef.core import asset
    text = asset('study-cifar10.toml').read_text()
    for old, new, telling in (('epochs = ', 'epochs = "3" #', 'epochs must be int'), ('method = "qat"', 'method = "qat"\nlambda_fdp = 0.3', 'no effect')):
        assert old in text
        (tmp_path/'own.toml').write_text(text.replace(old, new))
        with pytest.raises(ValueError, match=telling): load_recipe(tmp_path/'own.toml', 'toys')
    with pytest.raises(ValueError, match='not trained yet'): study(load_recipe('cifar10', 'toys'), tmp_path/'s', ['qat'], only='evaluate')
    assert not (tmp_path/'s').exists()

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='needs fork')
def test_closed_pipe():
    "`triqdef … | head` ends without a traceback (Backblaze/B2_Command_Line_Tool #1071, mkaz/termgraph #114)."
    r = forked('dying:talkative', ['study', 'cifar10'], lines=1)
    assert (r.stdout, r.returncode, r.stderr) == ('0\n', 141, '')

def test_positional_choices_keep_their_default():
    "A bare `list` must not meet a suppressed default, which argparse of some releases checks against the choices."
    p = parser()
    parse_options(lambda: p, ['list'])
    for command in p._subparsers._group_actions[0].choices.values():
        assert all(a.default != '==SUPPRESS==' for a in command._actions if not a.option_strings)
