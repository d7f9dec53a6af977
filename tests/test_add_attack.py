"A new attack is written in one place: the suite, a report, a study's recipe, the command line and an evaluation find it there."

import pytest
import torch

import triqdef.attack.base as base
from triqdef.attack.base import best_of, Brief, declare, declared_attacks, ImageAttack, PatchRun
from triqdef.attack.criteria import check_classes, goal_loss
from triqdef.attack.patch import check_fits, patch_hw, place, random_places, to_uint8_grid
from triqdef.attack.state import load_state, save_state, state_file
from triqdef.attack.views import as_view, under_attack
from triqdef.cli import main
from triqdef.core import asset, check_images, generator
from triqdef.evaluate.report import report
from triqdef.evaluate.success import success
from triqdef.evaluate.suite import attack_names, attack_suite, suite_table
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.study import load_recipe, make_attack, study
from triqdef.toys import toy_dls, toy_images, trained_toy, Watched

def add():
    "The whole of a new attack: the best of some patches of one colour."
    @declare(name='colour', title='One colour {hw}', budget='colour', full=8, quick=2, black_box=True, bounded=True, order=50, paper='this test',
             settings=lambda b: dict(size=b.size, queries=b.budget))
    class Colour(ImageAttack):
        "A patch of one colour for each image."
        def __init__(self, size=5, queries=8, seed=None): self.size, self.queries, self.seed = patch_hw(size), queries, seed

        def run(self, net, x, y, bits=None, history=False, resume=None):
            check_images(x, strict=True); check_fits(self.size, x.shape[-2:])
            view, g, n = as_view(bits), generator(self.seed), len(x)
            with under_attack(net), torch.no_grad():
                y, at = check_classes(net, x, y, None), random_places(n, x.shape[-2:], self.size, g).to(x.device)
                s = dict(p=x.new_zeros(n, x.shape[1], *self.size), at=at, losses=[], done=0, random=g, loss=x.new_full((n,), -torch.inf), met=x.new_zeros(n))
                file = state_file(self, resume, net, x, y, bits, history)
                s = load_state(file, s, x.device, view)
                while s['done'] < self.queries:
                    p = to_uint8_grid(torch.rand(n, x.shape[1], 1, 1, generator=s['random'])).to(x).expand(-1, -1, *self.size)
                    loss, met, _ = view(net, lambda p: place(x, p, s['at']), p, y, None, s['done'], False)
                    s.update(best_of({k: s[k] for k in ('p', 'loss', 'met')}, dict(p=p, loss=loss, met=met), 'loss'), done=s['done'] + 1)
                    s['losses'].append(loss); save_state(file, s, view)
            file.done()
            losses = torch.stack(s['losses']) if history else None
            return PatchRun(place(x, s['p'], s['at']), s['p'], s['at'], s['loss'], s['met'], losses, s['done'], torch.full((n,), s['done']))
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
    assert suite['One colour 4×4'].queries == 2 and attack_suite(('colour',), colour=3)['One colour 8×8'].queries == 3
    assert isinstance(declared_attacks()['colour'].make(Brief(5, 4)), colour)

def test_it_attacks(colour, net):
    x, y = toy_images(40)
    assert success(net, x, y, colour(6, 20, seed=0).attack(net, x, y, bits=2), 2)['asr'].value > 0

def test_it_goes_on(colour, net, tmp_path):
    "Stopped in the middle, without a seed, the same call ends with patches and losses that belong together."
    (x, y), a = toy_images(12), colour(5, 6)
    a.save_every = 0
    with pytest.raises(KeyboardInterrupt): a.run(Watched(net, 4), x, y, resume=tmp_path/'state')
    whole = a.run(Watched(net), x, y, history=True, resume=tmp_path/'other')
    r = a.run(net_again := Watched(net), x, y, resume=tmp_path/'state')
    assert net_again.seen < 12*6 and not (tmp_path/'state').exists() and len(whole.history) == 6
    with torch.no_grad(): assert torch.allclose(goal_loss(net(r.x_adv), y), r.loss, atol=1e-4)

def test_in_a_report(colour, net):
    r = report({'toy': net}, toy_dls(64), attack_suite(('pgd', 'colour'), side=16, bounded=True), n=16, n_attack=8, n_align=0, audit=False, progress=False)
    assert 'One colour 4×4' in r.text()

def test_in_a_recipe(colour, undrawn, tmp_path):
    assert make_attack(dict(attack='colour', size=4, queries=2)).queries == 2
    own = asset('study-cifar10.toml').read_text() + '\n[scales.toys.attacks."One colour"]\nattack = "colour"\nrole = "unseen"\nsize = 4\nqueries = 2\n'
    (tmp_path/'own.toml').write_text(own)
    cells = study(load_recipe(tmp_path/'own.toml', 'toys'), tmp_path/'study', ['qat'], progress=False)
    assert any('one-colour' in k for k in cells), list(cells)

def test_on_the_command_line(colour, undrawn, tmp_path, capsys):
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
