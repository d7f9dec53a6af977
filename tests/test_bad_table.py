"A table of bad inputs, made from the public names and their parameters: each is refused by name before any work, or gives the right result."
import argparse, re
from dataclasses import is_dataclass
from pathlib import Path

import pytest
import torch
from fastcore.docments import docments

import triqdef.cli as cli
from bad_calls import CALLS, EXEMPT, World, call_of
from badinput import cases_of, judge, public
from triqdef.attack.textures import TextureDictionary


@pytest.fixture(scope='session')
def world(tmp_path_factory):
    "The toys that all calls share."
    torch.set_num_threads(1)
    return World(tmp_path_factory.mktemp('bad'))

def test_every_public_name_is_in_the_table():
    "A new name needs a small valid call, or a reason for having none."
    names, told = set(public()), {n for group in EXEMPT.values() for n in group.split()}
    methods = {n for n in CALLS if n not in names}
    assert names - set(CALLS) - told == set(), 'give these a valid call in bad_calls.CALLS'
    assert told - names == set() and not told & set(CALLS), 'EXEMPT names what is not there, or is in the table'
    assert {n.rpartition('.')[0] for n in methods} <= names, 'methods of no public class'

def test_settings_are_shown():
    "A function that takes a settings object shows every field with its comment."
    takers = {n: f for n, f in public().items() if not isinstance(f, type) and is_dataclass(getattr(f, '__delwrap__', None))}
    takers['attack.dictionary.TextureDictionary.build'] = TextureDictionary.build
    assert {'data.image_folder_dls', 'evaluate.report.report', 'evaluate.curves.area_curve', 'evaluate.transfer.transfer_matrix'} <= set(takers)
    told = {f'{n} {k}': v for n, f in takers.items() for k, v in docments(f).items() if k != 'changes'}
    assert [k for k, v in told.items() if not v] == []

@pytest.mark.parametrize('name', CALLS)
def test_bad_arguments(name, world):
    "Every parameter of the call with every bad value of its kind, and with values that are as good."
    call = call_of(name, world)
    wrong = [f'{p} ({label}): {said}' for p, label, value, good in cases_of(call) if (said := judge(call, p, value, good))]
    assert not wrong, '\n'.join(wrong)


# the command line

BASE = {'demo': ['--quick'], 'train': ['{new}', '--data', 'toys', '--arch', 'toy_net', '--bits', '32', '2', '--device', 'cpu', '--quiet'], 'evaluate': ['{new}'],
        'export': ['cifar10-resnet20-qat', '--bits', '4'], 'study': ['cifar10', '--scale', 'toys']}
BY_TYPE = {int: ('x', '2.5', 'nan', ''), float: ('x', '', '1,5')}
TRAIN = {'method': ('fgsm', ''), 'data': ('nowhere', ''), 'arch': ('vgg', ''), 'start': ('nowhere.safetensors',), 'pairs': ('some',), 'weight': ('nf4',), 'act': ('nf4',), 'amp': ('fp4',),
         'device': ('tpu9',), 'bits': ('1', '33', '0'), 'epochs': ('0', '-1'), 'bs': ('0', '-1'), 'lr': ('0', '-1', 'nan', 'inf'), 'wd': ('-1', 'nan'),
         'lambda_adv': ('-1', 'nan'), 'lambda_fdp': ('-1', 'nan'), 'lambda_gpdp': ('-1', 'nan'), 'smooth': ('-1', 'nan'), 'distill': ('-1', '2', 'nan'), 'warmup': ('-1', '2', 'nan'),
         'max_active': ('-1', '1'), 'patch_size': ('-1', '999'), 'attack_steps': ('-1',), 'step_size': ('-1', 'nan')}

def options():
    "(command, option, its dest, its type, its choices) of the whole command line."
    sub = next(a for a in cli.parser()._actions if isinstance(a, argparse._SubParsersAction))
    return [(c, a.option_strings[-1], a.dest, a.type, a.choices) for c, p in sub.choices.items() for a in p._actions
            if a.option_strings and a.dest != 'help' and a.nargs != 0]

def commands():
    "(command, option, bad value)."
    out = [(c, o, v) for c, o, _, kind, choices in options() for v in (*BY_TYPE.get(kind, ()), *(('nonsense', '') if choices else ()))]
    out += [(c, o, v) for c, o, dest, *_ in options() if c == 'train' for v in TRAIN.get(dest, ())]
    return out + [(c, '--no-such-option', '1') for c in BASE] + [('nonsense', '--n', '1'), ('evaluate', '--shard', '2/2'), ('evaluate', '--undefended', 'nowhere')]

@pytest.mark.parametrize('command', [*BASE, 'nonsense'])
def test_bad_commands(command, tmp_path, monkeypatch, capsys):
    "Exit code 2, a sentence that names the option or the value, and no file."
    monkeypatch.chdir(tmp_path)
    wrong = []
    for c, option, value in commands():
        if c != command: continue
        argv = [c, *(a.format(new='new') for a in BASE.get(c, ())), option, value]
        try: code = cli.main(argv)
        except SystemExit as e: code = e.code
        said = capsys.readouterr().err
        names = {option, option.strip('-'), option.strip('-').replace('-', '_'), repr(value), 'new'} | ({value} if value else set()) | ({'COMMAND', 'nonsense'} if c == 'nonsense' else set())
        if code != 2 or not any(n in said for n in names) or 'Traceback' in said: wrong.append(f'{option} {value!r}: code {code}, {said[-200:]!r}')
        if left := [str(p) for p in tmp_path.rglob('*') if p.is_file()]: wrong.append(f'{option} {value!r} left {left}')
    assert not wrong, '\n'.join(wrong)


# how many

def size_of_the_table(world):
    return sum(len(list(cases_of(call_of(n, world)))) for n in CALLS) + len(commands())

def test_size_of_the_table(world, root):
    "At least 300, and no fewer than the README says."
    n = size_of_the_table(world)
    said = re.search(r'over ([\d,]+) bad inputs', (root/'README.md').read_text(encoding='utf-8'))
    assert n >= 300 and said and n > int(said[1].replace(',', ''))
