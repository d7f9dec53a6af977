"""What must not change while code moves: seeded attacks, a matrix, the first steps of training, shipped networks, stored files.

`python tests/test_pins.py` writes tests/pins.json anew, when a change of results is meant. Sums are in float64 on networks with
random weights, so that no level lies near a boundary and every CPU finds the same."""
import hashlib, json
from functools import partial
from pathlib import Path

import pytest
import torch
from torch.optim import Adam

from triqdef.attack.ensemble import BackwardSwap, BitEnsemble, FeaturePull, RandomPrecision, Smoothed
from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.nes import NES
from triqdef.attack.patchattack import MPA, TPA
from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.attack.state import own_settings
from triqdef.attack.textures import TextureDictionary
from triqdef.attack.views import RoundRobin
from triqdef.core import fixed_seed
from triqdef.data import sample_tensors
from triqdef.evaluate.transfer import transfer_matrix
from triqdef.files import fingerprint
from triqdef.quant.checkpoint import pretrained, pretrained_names
from triqdef.quant.convert import at_bits, bits_of, calibrate, to_multibit
from triqdef.toys import toy_images, toy_net
from triqdef.train.objective import Objective

PINS = Path(__file__).with_name('pins.json')
ROOT = Path(__file__).resolve().parent.parent


def network(bits=(32, 4, 2), **how):
    "A calibrated toy network of random weights, and images, in float64."
    with fixed_seed(0): plain = toy_net(4).double().eval()
    x, y = toy_images(16, seed=3)
    return calibrate(to_multibit(plain, bits, **how).eval(), [(x.double(), y)], method='mse'), x.double(), y

def textures():
    g = torch.Generator().manual_seed(0)
    return TextureDictionary(torch.rand(8, 3, 8, 8, generator=g), torch.arange(8)%4, 'abcd')

ATTACKS = dict(pgd=partial(PatchPGD, 5, 3, 32/255), gap=partial(GAP, 5, 2, 4, 8), sparse_rs=partial(SparseRS, 5, queries=20), nes=partial(NES, 5, queries=40),
               lavan=partial(LaVAN, area=.05, steps=4, step_size=.1), universal=partial(LaVAN, area=.05, steps=4, step_size=.1, universal=True),
               mpa=partial(MPA, queries=40), tpa=lambda **k: TPA(textures(), queries=20, **k))
VIEWS = {'4': lambda: 4, '32 and 2': lambda: (32, 2), 'in turn': lambda: RoundRobin((32, 4, 2)), 'min-max': lambda: BitEnsemble((32, 4, 2), 'min-max'),
         'random': lambda: RandomPrecision((32, 4, 2), 2, seed=0), 'smoothed': lambda: Smoothed(4, .05, 2, seed=0), 'swap': lambda: BackwardSwap(2, 32),
         'soft': lambda: BackwardSwap(2, 'soft'), 'pull': lambda: FeaturePull((32, 4), .5)}

def patched(attack, view):
    (net, x, y), a, view = network(), attack(seed=0), VIEWS[view]()
    if not hasattr(a, 'fit') or hasattr(a, 'attack') and not getattr(a, 'universal', False): return a.attack(net, x, y, bits=view)
    return a.fit(net, [(x, y)], bits=view).apply(x, generator=torch.Generator().manual_seed(0))

def matrix():
    "Success of two attacks, from and to every bit-width."
    net, x, y = network()
    out = []
    for a in (PatchPGD(5, 3, 32/255, seed=0), GAP(5, 2, 4, 8, seed=0)):
        t = transfer_matrix(net, [(x, y)], a, sources=(32, 2, (32, 2)), fit_on=[(x, y)], seed=0, progress=False)
        out += [r[k] for r in t.to_frame().to_dict('records') for k in ('asr',) if k in r]
    return torch.tensor(out, dtype=torch.float64)

def training():
    "Every term of four steps, and what the weights have become."
    net, x, y = network()
    objective, opt, terms = Objective(1., .5, .5), Adam(net.train().parameters(), 1e-3), []
    for i, active in enumerate(((32, 4), (32, 2), (4, 2), (32, 4, 2))):
        t = objective(net, x, y, PatchPGD(5, 2, 64/255, seed=i).attack(net, x, y, bits=active[0]), active)
        terms += [t.check()[k] for k in ('total', 'adv', 'fdp', 'gpdp')]
        opt.zero_grad(); t.total.backward(); opt.step()
    return torch.tensor(terms + [p.double().abs().sum().item() for p in net.parameters()], dtype=torch.float64)

def shipped(name):
    net = pretrained(name).double().eval()
    x, out = sample_tensors()['x_test'][:4].double()/255, []
    for b in bits_of(net) if hasattr(net, 'bit_state') else (32,):
        with torch.no_grad():
            if hasattr(net, 'bit_state'):
                with at_bits(net, b): out.append(net(x))
            else: out.append(net(x))
    return torch.cat(out)

def stored():
    "The hash of every stored result."
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted((ROOT/'nbs/results').glob('*.json'))}

MADE = {f'{a} at 4': partial(patched, make, '4') for a, make in ATTACKS.items()}
MADE |= {f'pgd, {v}': partial(patched, ATTACKS['pgd'], v) for v in VIEWS}
MADE |= {f'gap, {v}': partial(patched, ATTACKS['gap'], v) for v in ('32 and 2', 'in turn', 'min-max')}
MADE |= {f'pgd, {w} {a}': partial(lambda w, a: PatchPGD(5, 3, 32/255, seed=0).attack(*network(weight=w, act=a), bits=4), w, a)
         for w, a in (('dorefa', 'dorefa'), ('minmax', 'minmax'), ('lsq', 'pact'))}
MADE |= dict(matrix=matrix, training=training) | {n: partial(shipped, n) for n in pretrained_names()}

def keys():
    "What the states of interrupted attacks are recognised by, as far as settings decide it."
    return {type(a).__name__: fingerprint(own_settings(a)) for a in (PatchPGD(8), GAP(8), LaVAN(8), SparseRS(8), NES(8), MPA())}

def some(t):
    "The sum of a tensor and forty of its values."
    v = t.detach().double().flatten()
    return [v.sum().item(), *v[torch.linspace(0, len(v) - 1, 40).long()].tolist()]

@pytest.mark.parametrize('name', MADE)
def test_as_before(name):
    "The same values; of a patch nine in ten, since the sign of a gradient near zero is another on another CPU."
    got, want = (torch.tensor(v, dtype=torch.float64) for v in (some(MADE[name]()), json.loads(PINS.read_text())[name]))
    if getattr(MADE[name], 'func', None) is patched:
        assert torch.isclose(got[1:], want[1:], rtol=1e-5, atol=1e-5).double().mean() > .9
    else: torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)

def test_stored_results(): assert stored() == json.loads(PINS.read_text())['stored']

def test_keys_of_states(): assert keys() == json.loads(PINS.read_text())['keys']


if __name__ == '__main__':
    pins = {n: [round(v, 8) for v in some(make())] for n, make in MADE.items()} | dict(stored=stored(), keys=keys())
    PINS.write_text(json.dumps(pins, indent=0) + '\n')
