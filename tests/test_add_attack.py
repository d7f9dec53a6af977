"A new attack is written in one place: the suite, a report, a study's recipe, the command line and an evaluation find it there."

import pytest
import torch

import triqdef.attack.base as base
from triqdef.attack.base import Brief, declare, declared_attacks, ImageAttack, PatchRun
from triqdef.attack.criteria import check_classes
from triqdef.attack.patch import place, random_places
from triqdef.attack.state import load_state, save_state, state_file
from triqdef.attack.views import as_view, under_attack
from triqdef.cli import main
from triqdef.core import asset, check_images, generator
from triqdef.evaluate.report import report
from triqdef.evaluate.success import success
from triqdef.evaluate.suite import attack_names, attack_suite, suite_table
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.study import load_recipe, make_attack, study
from triqdef.toys import toy_dls, toy_images, trained_toy

def add():
    "The whole of a new attack: the best of some patches of one colour."
    @declare(name='colour', title='One colour {hw}', budget='colour', full=8, quick=2, black_box=True, bounded=True, order=50, paper='this test',
             settings=lambda b: dict(size=b.size, tries=b.budget))
    class Colour(ImageAttack):
        "A patch of one colour for each image."
        def __init__(self, size=5, tries=8, seed=None): self.size, self.tries, self.seed = (size, size), tries, seed

        def run(self, net, x, y, bits=None, history=False, resume=None):
            check_images(x, strict=True)
            with under_attack(net), torch.no_grad():
                y, view, g = check_classes(net, x, y, None), as_view(bits), generator(self.seed)
                at, file = random_places(len(x), x.shape[-2:], self.size, g).to(x.device), state_file(self, resume, net, x, y, bits)
                s = load_state(file, dict(best=x.new_full((len(x),), -torch.inf), p=x.new_zeros(len(x), 3, *self.size), met=x.new_zeros(len(x)), done=0, random=g), x.device)
                for i in range(s['done'], self.tries):
                    p = torch.rand(len(x), 3, 1, 1, generator=s['random']).to(x).expand(-1, -1, *self.size)
                    loss, met, _ = view(net, lambda p: place(x, p, at), p, y, None, i, False)
                    up = loss > s['best']
                    s.update(best=torch.where(up, loss, s['best']), met=torch.where(up, met, s['met']), p=torch.where(up.view(-1, 1, 1, 1), p, s['p']), done=i + 1)
                    save_state(file, s)
            file.done()
            return PatchRun(place(x, s['p'], at), s['p'], at, s['best'], s['met'])
    return Colour

@pytest.fixture(scope='module')
def colour():
    "Declared for these tests alone."
    before = dict(base._declared)
    yield add()
    base._declared.clear(); base._declared.update(before)

@pytest.fixture(scope='module')
def net(): return calibrate(to_multibit(trained_toy(60), (32, 2)), toy_dls(128).train)

def test_in_the_suite(colour):
    assert 'colour' in attack_names() and 'colour' in attack_names(True) and suite_table().loc['colour', 'knows'] == 'scores'
    suite = attack_suite(bounded=True, side=16)
    assert suite['One colour 4×4'].tries == 2 and attack_suite(('colour',), colour=3)['One colour 8×8'].tries == 3
    assert isinstance(declared_attacks()['colour'].make(Brief(5, 4)), colour)

def test_it_attacks(colour, net):
    x, y = toy_images(40)
    assert success(net, x, y, colour(6, 20, seed=0).attack(net, x, y, bits=2), 2)['asr'].value > 0

def test_in_a_report(colour, net):
    r = report({'toy': net}, toy_dls(64), attack_suite(('pgd', 'colour'), side=16, bounded=True), n=16, n_attack=8, n_align=0, audit=False, progress=False)
    assert 'One colour 4×4' in r.text()

def test_in_a_recipe(colour, tmp_path):
    assert make_attack(dict(attack='colour', size=4, tries=2)).tries == 2
    own = asset('study-cifar10.toml').read_text() + '\n[scales.toys.attacks."One colour"]\nattack = "colour"\nrole = "unseen"\nsize = 4\ntries = 2\n'
    (tmp_path/'own.toml').write_text(own)
    cells = study(load_recipe(tmp_path/'own.toml', 'toys'), tmp_path/'study', ['qat'], progress=False)
    assert any('one-colour' in k for k in cells), list(cells)

def test_on_the_command_line(colour, tmp_path, capsys):
    with pytest.raises(SystemExit): main(['evaluate', '--help'])
    said = ' '.join(capsys.readouterr().out.split())
    assert 'colour' in said and '--colour-steps' in said
    toys = ['--data', 'toys', '--arch', 'toy_net', '--bits', '32', '2', '--device', 'cpu', '--quiet']
    assert main(['train', str(tmp_path/'run'), '--method', 'qat', '--epochs', '1', *toys]) == 0
    assert main(['evaluate', str(tmp_path/'run'), '--attacks', 'colour', '--colour-steps', '2', '--n', '16', '--n-attack', '8', '--n-align', '4',
                 '--patch-size', '4', '--no-audit', '--quiet', '--out', str(tmp_path/'report')]) == 0
    assert 'One colour 4×4' in (tmp_path/'report/report.md').read_text()
    assert main(['evaluate', str(tmp_path/'run'), '--attacks', 'pgd', '--colour-steps', '2', '--out', str(tmp_path/'no')]) == 2
    assert '--colour-steps has no effect without the attack colour' in capsys.readouterr().err

def test_a_name_is_declared_once(colour):
    with pytest.raises(ValueError, match="'pgd' is declared already, by PatchPGD"):
        declare(name='pgd', title='', budget='', full=1, quick=1, paper='', settings=None)(colour)
