"A training method in one file: without any other change it trains, runs as a study arm, is an option, and refuses what it does not read."
import json, os, sys, zipfile
from pathlib import Path

import pandas as pd
import pytest
import torch

from forked import forked
from triqdef import cli, train as part
from triqdef.study import load_recipe, study
from triqdef.train.run import find_methods, load_run, method_table, methods, recorded_settings, train, TrainSettings

TOY = '''
from triqdef.core import check_numbers
from triqdef.train.callback import PatchAT, training_method


@training_method('toy', 'patch training on dimmed images', 'nobody', own='dim',
                 reads='lambda_adv warmup max_active patch_size attack_steps step_size')
class Toy(PatchAT):
    "Patch adversarial training in which every image is darker."
    def __init__(self,
        bits=None,              # bit-widths to train, or None for all of the network
        lambda_adv:float=1.,    # weight of the patched loss
        dim:float=.8,           # factor on the pixels, 0 to 1
        **kwargs,               # of `PatchAT`
    ):
        check_numbers('[0, 1]', dim=dim)
        super().__init__(bits, lambda_adv, **kwargs)
        self.dim = dim

    def mix(self): self.learn.xb = (self.dim*self.x, *self.learn.xb[1:])
'''
RECIPE = '''
title = "one arm"
control = "toy"
ablation = ["toy"]
[arms.toy]
about = "the toy"
method = "toy"
dim = 0.9
[scales.toys]
about = "toys"
seeds = [0]
train = {data = "toys", arch = "toy_net", bits = [32, 2], epochs = 1, bs = 64, patch_size = 4, attack_steps = 1}
evaluate = {n = 16, n_align = 4, smooth = [0], seed = 0, bs = 64}
attacks = {PGD = {attack = "pgd", role = "seen", size = 4, steps = 2}}
'''
SMALL = dict(method='toy', data='toys', arch='toy_net', bits=(32, 2), epochs=1, bs=64, patch_size=4, attack_steps=1, device='cpu')
ARGS = ['--method', 'toy', '--data', 'toys', '--arch', 'toy_net', '--bits', '32', '2', '--epochs', '1', '--bs', '64', '--patch-size', '4',
        '--attack-steps', '1', '--device', 'cpu', '--quiet']


@pytest.fixture(scope='module')
def toy(tmp_path_factory):
    "The file, in a folder that belongs to `triqdef.train`; as a new notebook's module it would lie beside the others."
    folder, before = tmp_path_factory.mktemp('methods'), dict(methods)
    (folder/'toy_defence.py').write_text(TOY)
    part.__path__.append(str(folder))
    find_methods()
    yield methods['toy']
    part.__path__.remove(str(folder)); sys.modules.pop('triqdef.train.toy_defence')
    methods.clear(); methods.update(before)

def help_of(capsys, *argv):
    with pytest.raises(SystemExit): cli.main([*argv, '--help'])
    return ' '.join(capsys.readouterr().out.split())

def test_is_short(): assert len(TOY.strip().splitlines()) < 40

def test_trains(toy, tmp_path):
    "By `train`, with its own setting at its default and at another value, which the run's record keeps."
    assert train(TrainSettings(**SMALL), tmp_path/'a', progress=False).settings.own == {}
    run = train(TrainSettings(**SMALL, own=dict(dim=.5)), tmp_path/'b', progress=False)
    assert run.settings.own == json.loads((tmp_path/'b/run.json').read_text())['settings']['own'] == dict(dim=.5)
    assert load_run(tmp_path/'a').terms.total[0] != run.terms.total[0]

def test_command_line(toy, tmp_path, capsys):
    "By the command, which knows its options and lists it."
    assert cli.main(['train', str(tmp_path/'run'), *ARGS, '--dim', '0.5']) == 0
    assert load_run(tmp_path/'run').settings.own == dict(dim=.5)
    said = help_of(capsys, 'train')
    assert 'toy: patch training on dimmed images' in said and 'factor on the pixels, 0 to 1 (default: 0.8)' in said
    assert cli.main(['train', str(tmp_path/'x'), '--method', 'fgsm']) == 2
    assert "'toy'" in capsys.readouterr().err and 'toy' in method_table().index

@pytest.mark.parametrize('option', ['--lambda-fdp', '--lambda-gpdp', '--smooth', '--distill'])
def test_refuses_what_it_does_not_read(toy, option, tmp_path, capsys):
    assert cli.main(['train', str(tmp_path/'x'), *ARGS, option, '0.5']) == 2
    assert f'{option} has no effect with method toy' in capsys.readouterr().err and not (tmp_path/'x').exists()

def test_others_refuse_its_own(toy, tmp_path, capsys):
    assert cli.main(['train', str(tmp_path/'x'), '--data', 'toys', '--method', 'qat', '--dim', '0.5']) == 2
    assert '--dim has no effect with method qat' in capsys.readouterr().err
    for wrong in (dict(dim='dark'), dict(dim=float('nan')), dict(sigma=.5)):
        with pytest.raises((TypeError, ValueError), match=next(iter(wrong))): TrainSettings(**SMALL, own=wrong).check()
    with pytest.raises(ValueError, match='dim'): train(TrainSettings(**SMALL, own=dict(dim=2.)), tmp_path/'x', progress=False)
    assert not (tmp_path/'x').exists()

def test_arm_of_a_study(toy, undrawn, tmp_path):
    "Trained, attacked and told apart as seen, by a recipe that names it; a recipe with a setting that it does not read is refused."
    (tmp_path/'own.toml').write_text(RECIPE)
    cells = study(load_recipe(tmp_path/'own.toml', 'toys'), tmp_path/'study', progress=False)
    assert sorted(cells) == ['toy/seed0/alignment', 'toy/seed0/pgd', 'toy/seed0/train']
    assert cells['toy/seed0/train']['settings']['train']['own'] == dict(dim=.9)
    assert {r['same size'] for r in cells['toy/seed0/pgd']['rows']} == {'yes'}
    (tmp_path/'own.toml').write_text(RECIPE.replace('dim = 0.9', 'lambda_fdp = 0.5'))
    with pytest.raises(ValueError, match="arm 'toy': lambda_fdp has no effect"): load_recipe(tmp_path/'own.toml', 'toys')

def test_two_of_one_name(toy):
    "A name that is taken, and an own setting that every run has."
    from triqdef.train.callback import JointQAT, training_method
    with pytest.raises(ValueError, match='two training methods'): training_method('toy', 'another')(type('Other', (JointQAT,), {}))
    with pytest.raises(ValueError, match="no parameter 'dims'"): training_method('toy', 'the same', own='dims')(toy)

@pytest.mark.skipif(not hasattr(os, 'fork'), reason='one more process')
def test_program(toy, tmp_path):
    "In a process that imports the package anew the program finds the file by itself."
    r = forked('dying:afresh', ['train', str(tmp_path/'run'), *ARGS], str(Path(sys.modules[toy.__module__].__file__).parent))
    assert r.returncode == 0, r.stderr
    assert json.loads((tmp_path/'run/run.json').read_text())['settings']['method'] == 'toy'


# a run that was begun before methods declared themselves

def test_run_of_before(tmp_path):
    "Stopped after its first of two epochs by the code of then, it goes on: rows, terms and optimizer are those of the state."
    zipfile.ZipFile(Path(__file__).with_name('old_run.zip')).extractall(tmp_path/'triqdef')
    folder, state = tmp_path/'triqdef', torch.load(tmp_path/'triqdef/state.pt', weights_only=True)
    s = recorded_settings(json.loads((folder/'run.json').read_text())['settings'])
    run = train(s, folder, progress=False)
    assert len(run.history) == 2 and len(run.terms) == 2*len(state['terms'])
    pd.testing.assert_frame_equal(run.history[:1], pd.DataFrame(state['rows']))
    assert run.terms.total[:len(state['terms'])].tolist() == pytest.approx([t['total'] for t in state['terms']])
    assert run.net.state_dict().keys() == state['model'].keys() and not (folder/'state.pt').exists()
