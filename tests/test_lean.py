"""What a step costs on a GPU, counted without one, and that nothing kept for speed goes stale."""
import copy, json, os, subprocess, sys, warnings
from collections import Counter
from contextlib import ExitStack, nullcontext
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback    # gives Learner its no_bar
from fastai.learner import Learner

from pretend import pretend_cuda
from triqdef.attack.base import attack_again
from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.pgd import PatchPGD
from triqdef.data import ImageTensors, image_dls
from triqdef.evaluate import jobs
from triqdef.evaluate.success import predict, success
from triqdef.evaluate.transfer import transfer_matrix
from triqdef.models import resnet20
from triqdef.percept.gradients import input_gradient
from triqdef.quant.conv import _Conv, _ConvGrad
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.quant.frozen import weights_once
from triqdef.quant.layers import QConv2d
from triqdef.quant.norm import _BatchNorm, _BatchNormGrad, MultiBitNorm
from triqdef.quant.ste import _QuantizeGrad
from triqdef.toys import toy_images, toy_net
from triqdef.train import run
from triqdef.train.callback import TriQDef
from triqdef.train.curriculum import BACT
from triqdef.train.objective import Objective
from triqdef.train.optimizer import adam_at_once
from triqdef.train.settings import TrainSettings


def network(make=toy_net, bits=(32, 4)):
    torch.manual_seed(0)
    return calibrate(to_multibit(make(4).eval(), bits), [toy_images(16, seed=3)])

class Steps(Callback):
    "Keeps the counts of each training step."
    order, run_valid = -100, False
    def __init__(self, counts): self.counts, self.seen = counts, []
    def before_batch(self): self.counts.reset()
    def after_batch(self): self.seen.append((self.counts.totals(), +self.counts.ops, +self.counts.waits))

def report(ops, waits): return '\n'.join(f'{n:6} {k}' for c in (waits, ops) for k, n in c.most_common(25))


def test_training_step():
    "One TriQDef step of a ResNet-20 with its 5-step attack: kernels and waits."
    with pretend_cuda() as counts:
        sets = [ImageTensors(*toy_images(n, size=16, seed=n), vocab=range(4)) for n in (24, 8)]
        dls = image_dls(*sets, bs=8, seed=0, device='cuda')
        cb, steps = TriQDef(curriculum=BACT((32, 4), warmup=0.), source=4), Steps(counts)
        learn = Learner(dls, network(resnet20).to('cuda'), loss_func=F.cross_entropy, opt_func=adam_at_once, cbs=[cb, steps])
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    (ops, waits, copies), by_op, by_wait = steps.seen[-1]
    print(ops, waits, copies)
    assert ops <= 4500 and waits <= 2, report(by_op, by_wait)
    assert waits + copies <= 4


def cost(counts, run, few, many):
    "What a step adds to an attack: ops, waits and copies of `many` steps less those of `few`."
    run(1)      # what is read once is read now
    out = []
    for steps in (few, many):
        counts.reset(); run(steps)
        out.append(counts.totals())
    return [(b - a)/(many - few) for a, b in zip(*out)]

@pytest.mark.parametrize('attack', ['pgd', 'gap', 'lavan', 'lavan-universal'])
def test_attack_steps(attack):
    "A step of an attack waits for nothing but its own rule to stop."
    with pretend_cuda() as counts:
        net, loader = network(resnet20).to('cuda'), [toy_images(8, size=16)]
        x, y = (t.to('cuda') for t in loader[0])
        make = dict(pgd=lambda n: PatchPGD(4, steps=n, seed=0).run(net, x, y, bits=4),
                    lavan=lambda n: LaVAN(4, steps=n, confidence=None, loss='ce', target=1, seed=0).run(net, x, y, bits=4),
                    gap=lambda n: GAP(4, 1, n, 4, seed=0).fit(net, loader, bits=4))
        make['lavan-universal'] = lambda n: LaVAN(4, steps=n, bs=4, seed=0).fit(net, loader, bits=4)
        ops, waits, copies = cost(counts, make[attack], 5, 10)
    print(attack, ops, waits, copies)
    assert ops <= 480 and waits <= (1 if attack == "lavan" else 0) and copies <= 3

def test_evaluation():
    "Weights are quantized once for all batches; a batch waits once, for its classes."
    with pretend_cuda() as counts:
        net, x = network(resnet20).to('cuda'), toy_images(32, size=16)[0].to('cuda')
        def run(n): return predict(net, x[:8*n], bits=4, bs=8)
        ops, waits, _ = cost(counts, run, 2, 4)
    print(ops, waits)
    assert ops <= 200 and waits <= 2


MOVED = dict(predict=lambda net, x, y: predict(net, x, bits=4), success=lambda net, x, y: success(net, x, y, x, bits=4),
             gap=lambda net, x, y: GAP(4, 1, 2, 4, seed=0).fit(net, [(x, y)], bits=4), calibrate=lambda net, x, y: calibrate(net, [x]))
REFUSED = dict(pgd=lambda net, x, y: PatchPGD(4, steps=2).attack(net, x, y, bits=4), lavan=lambda net, x, y: LaVAN(4, steps=2).attack(net, x, y, bits=4),
               gradient=input_gradient, objective=lambda net, x, y: Objective()(net, x, y, x))

@pytest.mark.parametrize('net_on,images_on', [('cpu', 'cuda'), ('cuda', 'cpu')])
@pytest.mark.parametrize('name', [*MOVED, *REFUSED])
def test_devices(name, net_on, images_on):
    "What takes a loader, or predicts, moves images to the network; what returns images names both devices."
    with pretend_cuda():
        net, (x, y) = network().to(net_on), (t.to(images_on) for t in toy_images(8, size=16))
        if name in MOVED: MOVED[name](net, x, y)
        else:
            with pytest.raises(ValueError, match='is on c.*, the images are on c'): REFUSED[name](net, x, y)


CHANGES = dict(data=lambda p, new: p.data.mul_(1.5), copy=lambda p, new: p.copy_(new), mul=lambda p, new: p.mul_(-1.), assign=lambda p, new: setattr(p, 'data', new.clone()))

@pytest.mark.parametrize('change', CHANGES)
@pytest.mark.parametrize('inside', [False, True])
def test_nothing_stale(change, inside):
    "A changed weight is quantized anew, between calls and inside one."
    net, (x, y) = network(), toy_images(8)
    net.eval()
    def run():
        with torch.no_grad(), at_bits(net, 4): return net(x)
    with torch.no_grad(), weights_once(net) if inside else nullcontext():
        before = run()
        predict(net, x, bits=4); PatchPGD(4, steps=1).attack(net, x, y, bits=4)
        w = next(m.weight for m in net.modules() if isinstance(m, QConv2d) and m.weight_quant.widths.get(4) == 4)
        CHANGES[change](w, torch.randn_like(w))
        after = run()
    fresh = copy.deepcopy(net)
    with torch.no_grad(), at_bits(fresh, 4): assert torch.equal(after, fresh(x))
    assert not torch.equal(before, after)

def test_nothing_stale_after_updates():
    "An update, a loaded state and a copy use their own weights."
    net, (x, y) = network(), toy_images(16)
    other = network(); other.load_state_dict({k: v*1.1 if v.is_floating_point() else v for k, v in net.state_dict().items()})
    opt, seen = torch.optim.Adam(net.parameters(), 1e-2), []
    for _ in range(3):
        x_adv = PatchPGD(4, steps=2, seed=0).attack(net, x, y, bits=4)
        opt.zero_grad(); Objective()(net.train(), x, y, x_adv).total.backward(); opt.step()
        seen.append(predict(copy.deepcopy(net), x, bits=4)[0])
        assert torch.equal(predict(net, x, bits=4)[0], seen[-1])
    with weights_once(net), torch.no_grad(), at_bits(net.eval(), 4), at_bits(other.eval(), 4):
        net(x); net.load_state_dict(other.state_dict())
        assert torch.equal(net(x), other(x))

def test_again():
    "An attack on a checked batch is the same attack."
    net, (x, y) = network(), toy_images(8)
    for a in (PatchPGD(4, steps=6, restarts=2, seed=0), PatchPGD(4, steps=3, forbidden=[(0, 0, 8, 8)], shape='circle', seed=1), GAPLike()):
        assert torch.equal(attack_again(a, net, x, y, 4), a.attack(net, x, y, bits=4))

class GAPLike:
    "An attack of a user."
    def attack(self, net, x, y, bits=None): return 1 - x


def under_autocast(counts, net, x, y):
    "An attack and an objective under bfloat16; returns the loss, the patched images, and how often each form in Python ran."
    names = {'conv': _Conv, 'norm': _BatchNorm, 'second norm': _BatchNormGrad, 'second conv': _ConvGrad, 'second quantizer': _QuantizeGrad}
    with ExitStack() as stack:
        for name, cls in names.items():
            side = 'backward' if name.startswith('second') else 'forward'
            own = getattr(cls, side)
            def counted(*a, own=own, name=name, **k):
                counts[name] += 1
                return own(*a, **k)
            stack.enter_context(patch.object(cls, side, staticmethod(counted)))
        with torch.autocast('cpu', torch.bfloat16):
            x_adv = PatchPGD(4, steps=2, seed=0).attack(net, x, y, bits=16)
            assert not counts['conv'] + counts['norm']      # an attack differentiates once
            total = Objective(1., .1, .1)(net.train(), x, y, x_adv).total
        total.backward()
    return total, x_adv

def test_bf16_keeps_the_closed_forms():
    "Under autocast every norm, large map and quantizer of a patched pass is differentiated by formula, and results stay near float32."
    net, (x, y) = network(resnet20, (32, 16)), toy_images(8, size=32)      # fine steps: a level more or less changes little
    other, counts = copy.deepcopy(net), Counter()
    total, x_adv = under_autocast(counts, net, x, y)
    norms = sum(isinstance(m, MultiBitNorm) for m in net.modules())
    assert counts['second norm'] == 2*norms and counts['norm'] == 4*norms
    large = 7 + 5     # of 32 and 16 pixels; the first of a stage reads the larger map
    assert counts['second conv'] >= 2*large and counts['second quantizer'] > 0, counts
    assert x_adv.dtype == torch.float32 and 0 <= x_adv.min() and x_adv.max() <= 1
    full = Objective(1., .1, .1)(other.train(), x, y, x_adv).total
    full.backward()
    assert abs(total.item() - full.item()) < .1*full.item()
    a, b = (torch.cat([p.grad.flatten() for p in n.parameters() if p.grad is not None]) for n in (net, other))
    assert a.isfinite().all() and a.dtype == torch.float32 and F.cosine_similarity(a, b, 0) > .7

def test_matrix_classifies_clean_images_once():
    "Two attacks and both sources share the clean predictions: one call for each bit-width, then one for each cell."
    net, loader, calls = network(), [toy_images(8, size=16)], []
    def counted(*a, own=jobs.predict, **k):
        calls.append(a)
        return own(*a, **k)
    with patch.object(jobs, 'predict', counted):
        transfer_matrix(net, loader, dict(a=PatchPGD(4, steps=1), b=PatchPGD(3, steps=1)), nulls=0, progress=False)
    assert len(calls) == 2 + 2*2*2

def test_gpu_script(tmp_path):
    "What a machine with a GPU is to run takes its options, agrees with itself and times every part, on a CPU."
    root, out = Path(__file__).parents[1], tmp_path/'gpu.json'
    env = dict(os.environ, PYTHON=sys.executable, OMP_NUM_THREADS='1')
    subprocess.run(['bash', str(root/'scripts/gpu.sh'), str(out), '--device', 'cpu', '--toy'], check=True, env=env, stdout=subprocess.DEVNULL)
    found = json.loads(out.read_text())
    assert found['agreement'] and found['seconds'] < 470
    assert len(found['timings']) == 9 and all(t['ms'] > 0 for t in found['timings'].values())

def test_bf16_on_other_machines(monkeypatch):
    "A device without the instructions is warned of, another is not."
    settings, cpu = TrainSettings(amp='bf16'), torch.device('cpu')
    monkeypatch.setattr(run, '_has_bfloat16', lambda device: False)
    with pytest.warns(UserWarning, match='no bfloat16 instructions on this cpu'): assert len(run._amp_callbacks(settings, cpu)) == 1
    with warnings.catch_warnings(action='error'):
        assert run._amp_callbacks(TrainSettings(), cpu) == []
        monkeypatch.setattr(run, '_has_bfloat16', lambda device: True)
        run._amp_callbacks(settings, cpu)

@pytest.mark.parametrize('method', ['triqdef', 'pbat'])
def test_bf16_covers_attacks_and_not_validation(method, tmp_path, monkeypatch):
    "The inner attack of each method is under autocast, wherever in the step it runs; validation is not, and nothing is afterwards."
    monkeypatch.setattr(run, '_has_bfloat16', lambda device: True)
    attacked, validated, own = [], [], PatchPGD.run
    monkeypatch.setattr(PatchPGD, 'run', lambda self, *a, **k: attacked.append(torch.is_autocast_enabled('cpu')) or own(self, *a, **k))
    class Validates(Callback):
        order = 50
        def after_pred(self):
            if not self.training: validated.append(torch.is_autocast_enabled('cpu'))
    s = TrainSettings(method=method, data='toys', arch='toy_net', bits=(32, 4), epochs=1, bs=64, attack_steps=1, patch_size=4, amp='bf16', device='cpu')
    run.train(s, tmp_path/'run', progress=False, cbs=[Validates()])
    assert attacked and all(attacked) and validated and not any(validated) and not torch.is_autocast_enabled('cpu')
