"What users of neighbouring tools met, tried on attacks, evaluations and measures."
import os, warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from skimage import color, data, feature, transform
from torch import nn
from torch.optim.swa_utils import AveragedModel

from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.nes import NES
from triqdef.attack.patch import Patch
from triqdef.attack.patchattack import MPA
from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.attack.state import state_key
from triqdef.evaluate.alignment import alignment_report, stage_maps
from triqdef.evaluate.audit import AuditBudget, audit
from triqdef.evaluate.report import report
from triqdef.evaluate.success import asr, predict, success
from triqdef.evaluate.transfer import Transfer, transfer_matrix
from triqdef.percept.edges import edge_iou, soft_iou
from triqdef.percept.features import stage_names, tap_stages
from triqdef.percept.gradients import input_gradient
from triqdef.percept.hog import hog
from triqdef.purify.jedi import JEDI
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.toys import toy_dls, toy_images, toy_net, trained_toy
from triqdef.train.callback import TriQDef

PER_IMAGE = dict(pgd=PatchPGD(4, steps=1, seed=0), lavan=LaVAN(4, steps=1, seed=0), nes=NES(4, queries=5, samples=2, seed=0),
                 sparse=SparseRS(4, queries=3, seed=0), mpa=MPA(queries=5, samples=2, seed=0))
UNIVERSAL = dict(gap=GAP(4, steps=2, seed=0), lavan=LaVAN(4, steps=2, seed=0), sparse=SparseRS(4, queries=3, seed=0))
x, y = toy_images(16, size=16)
budget = AuditBudget(n=8, steps=1, sizes=(.06,), ends=True)
calls = dict(
    predict=lambda net, x, y: predict(net, x), success=lambda net, x, y: success(net, x, y, x), gradient=input_gradient,
    matrix=lambda net, x, y: transfer_matrix(net, [(x, y)], PER_IMAGE['pgd'], nulls=False, progress=False),
    alignment=lambda net, x, y: alignment_report(net, [(x, y)], n=8, smooth=(0,), progress=False), maps=stage_maps,
    audit=lambda net, x, y: audit(net, [(x, y)], budget=budget, lines=(5,), progress=False),
    report=lambda net, x, y: report(net, [(x, y)], PER_IMAGE['pgd'], audit=False, n_align=8, smooth=(0,), progress=False),
    **{k: a.attack for k, a in PER_IMAGE.items()},
    **{k + '.fit': lambda net, x, y, a=a: a.fit(net, [(x, y)]) for k, a in UNIVERSAL.items()})
labelled = {k: f for k, f in calls.items() if k != 'predict'}

@pytest.fixture(scope='module')
def net(): return calibrate(to_multibit(toy_net().eval(), (32, 4)), [(x, y)])

class Out(nn.Module):
    "A network whose output or input passes through a function."
    def __init__(self, net, out=lambda z: z, seen=lambda x: x): super().__init__(); self.net, self.out, self.seen = net, out, seen
    def forward(self, x): return self.out(self.net(self.seen(x)))

def photographs(side):
    all = color.rgb2gray(data.astronaut()), data.camera()/255, color.rgb2gray(data.coffee())
    return np.stack([transform.resize(o, (side, side), anti_aliasing=True) for o in all])

def by_skimage(maps, o, c, b):
    return np.stack([feature.hog(m, orientations=o, pixels_per_cell=(c, c), cells_per_block=(b, b)) for m in maps])

def ours(maps, *layout): return hog(torch.tensor(maps)[:, None], *layout).reshape(len(maps), -1).numpy()

@pytest.mark.parametrize('side', [32, 96, 224])
@pytest.mark.parametrize('dtype', ['float64', 'float32'])
def test_hog_of_photographs(side, dtype):
    "A reported HOG is checked with scikit-image; a vote at the limit of 180° has no bin there, as scikit-image #691 found."
    maps = photographs(side)
    if dtype == 'float32': maps = (np.round(255*maps)/255).astype(dtype)      # 8 bits, as pictures are
    for layout in ((9, 8, 3), (9, 4, 2), (6, 8, 1), (4, 5, 2), (12, 8, 1)):
        np.testing.assert_allclose(ours(maps, *layout), by_skimage(maps, *layout), atol=1e-5)

@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**31), st.sampled_from(['noise', 'bytes', 'constant', 'ramp', 'diagonal', 'tiny']), st.sampled_from([4, 6, 7, 9, 11, 12]))
def test_hog_of_any_picture(seed, kind, orientations):
    "The same for pictures whose gradients lie on the bins' boundaries, or are rounding errors, as in scikit-image #691."
    g = np.random.default_rng(seed)
    i, j = np.mgrid[:33, :40]
    m = dict(noise=lambda: g.random((33, 40)), bytes=lambda: g.integers(0, 256, (33, 40))/255, constant=lambda: np.full((33, 40), g.random()),
             ramp=lambda: g.random()*i + g.random()*j, diagonal=lambda: (i + g.choice([-1, 1])*j)*g.random(), tiny=lambda: 1 + 1e-15*g.random((33, 40)))[kind]()
    np.testing.assert_allclose(ours(m[None], orientations, 8, 2), by_skimage(m[None], orientations, 8, 2), atol=1e-5)

@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31), st.floats(.02, .5))
def test_a_map_and_itself(seed, temperature):
    "An intersection over union of a map with itself is 1, and below 1 with any other, whatever the softness of the edges."
    g = torch.Generator().manual_seed(seed)
    a, b = torch.rand(2, 3, 1, 12, 12, generator=g, dtype=torch.float64)
    assert torch.equal(edge_iou(a, a, temperature=temperature), torch.ones(3, dtype=torch.float64))
    ab = edge_iou(a, b, temperature=temperature)
    assert (0 <= ab).all() and (ab < 1).all() and torch.equal(ab, edge_iou(b, a, temperature=temperature))
    hard = (a > .5), (b > .5)
    count = torch.stack([(p & q).sum()/(p | q).sum() for p, q in zip(*hard)])
    torch.testing.assert_close(soft_iou(*(h.float() for h in hard)), count)

@pytest.mark.parametrize('channels', [1, 2, 4, 5])
@pytest.mark.parametrize('name', UNIVERSAL)
def test_images_of_other_channels(name, channels, tmp_path):
    "Images with an infrared channel, or two, get a universal patch, and it can be saved, as in adversarial-robustness-toolbox #673."
    pictures = torch.rand(12, channels, 16, 16)
    plain = nn.Sequential(nn.Conv2d(channels, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    p = UNIVERSAL[name].fit(plain, [(pictures, y[:12])])
    assert p.image.shape == (channels, 4, 4) and p.apply(pictures).shape == pictures.shape
    assert p._repr_png_().startswith(b'\x89PNG')
    p.save(tmp_path/'p')
    assert torch.equal(Patch.load(tmp_path/'p').image, p.image)

def test_report_of_four_channels(tmp_path):
    "A report on images of four channels is written and read whole, pictures included."
    pictures = torch.rand(12, 4, 24, 24)
    plain = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    r = report(plain, [(pictures, y[:12])], UNIVERSAL['gap'], fit_on=[(pictures, y[:12])], audit=False, n_align=0, progress=False, out=tmp_path/'r')
    back = Transfer.load(tmp_path/'r'/r.where[r.names[0]])
    assert [p.image.shape[0] for p in back.patches.values()] == [4]

OUTS = {'tuple': lambda z: (z,), 'output': lambda z: SimpleNamespace(logits=z), 'dict': lambda z: dict(logits=z),
        'maps': lambda z: z[:, :, None, None], 'flat': lambda z: z[:, 0]}
@pytest.mark.parametrize('out', OUTS)
@pytest.mark.parametrize('call', calls)
def test_outputs_that_are_no_logits(call, out, net):
    "Classifiers that give a tuple or an object with logits are refused where they enter, as transformers #11862 asks."
    with pytest.raises((TypeError, ValueError), match=r'must give logits \(B,classes\), got'): calls[call](Out(net, OUTS[out]).eval(), x, y)

def test_purifier_of_no_logits(net):
    "A purifier in front of such a network says so too."
    with pytest.raises(TypeError, match='got tuple'): JEDI(Out(net, OUTS['tuple']).eval()).calibrate([(x, y)])(x)

@pytest.mark.parametrize('call', calls)
def test_logits_that_are_nan(call, net):
    "A network that overflows has no class; it is not counted as class 0, nor as a success of the attack."
    with pytest.raises(ValueError, match='NaN'):
        r = calls[call](Out(net, lambda z: z*torch.nan).eval(), x, y)
        if call == 'gradient' and r.isnan().all(): raise ValueError('NaN gradients say it themselves')

def test_nan_is_no_success(net):
    "NaN logits for patched images alone do not meet an attack's goal."
    torn = Out(net, seen=lambda x: x, out=lambda z: z).eval()
    torn.out = lambda z: z if len(z) == 1 else z*torch.nan
    r = PatchPGD(4, steps=1, seed=0).run(torn, x, y)
    assert not r.met.any()

@pytest.mark.parametrize('kind', ['numpy', 'int32', 'uint8', 'list'])
@pytest.mark.parametrize('call', ['gradient', 'success', *PER_IMAGE, *(k + '.fit' for k in UNIVERSAL)])
def test_labels_of_other_types(call, kind, net):
    "Index labels of any integer type mean the same, as adversarial-robustness-toolbox #363 mended."
    other = dict(numpy=y.numpy(), int32=y.int(), uint8=y.byte(), list=y.tolist())[kind]
    a, b = (labelled[call](net, x, v) for v in (y, other))
    if call == 'success': a, b = a['asr'].hit, b['asr'].hit
    if isinstance(a, Patch): a, b = a.image, b.image
    assert torch.equal(a, b)

@pytest.mark.parametrize('kind', ['none', 'one-hot', 'floats', 'too few', 'a column'])
@pytest.mark.parametrize('call', labelled)
def test_what_is_no_label(call, kind, net):
    "No labels at all were passed over in adversarial-robustness-toolbox #2618; one-hot rows are what auto-attack #74 had."
    bad = {'none': None, 'one-hot': nn.functional.one_hot(y, 4), 'floats': y.float(), 'too few': y[:5], 'a column': y[:, None]}[kind]
    with pytest.raises((TypeError, ValueError), match='labels must be'): labelled[call](net, x, bad)

@pytest.mark.parametrize('call', calls)
def test_images_of_another_library(call, net):
    "NumPy images and bytes are named as what they are, with what to do, as foolbox #153 would have needed."
    with pytest.raises(TypeError, match='from_numpy'): calls[call](net, x.numpy(), y)
    with pytest.raises(TypeError, match='uint8'): calls[call](net, (x*255).byte(), y)

@pytest.mark.parametrize('call', [c for c in calls if c not in ('matrix', 'alignment', 'audit', 'report')])      # a loader's float64 is made float32
def test_types_and_devices_that_differ(call, net):
    "A network in another precision, or elsewhere, is named before any work."
    with pytest.raises(ValueError, match='is torch.float32, the images are torch.float64'): calls[call](net, x.double(), y)

def test_network_on_another_device():
    "Images on the CPU, the network elsewhere."
    with pytest.raises(ValueError, match='is on meta, the images are on cpu'): PER_IMAGE['pgd'].attack(toy_net().eval().to('meta'), x, y)

@pytest.mark.parametrize('call', calls)
def test_network_that_writes_into_its_input(call, net):
    "A forward that normalises in place leaves the user's images alone, as adversarial-robustness-toolbox #805 mended."
    writes = Out(net, seen=lambda x: x.mul_(.5)).eval()
    mine = x.clone().contiguous(memory_format=torch.channels_last)
    calls[call](writes, mine, y)
    assert torch.equal(mine, x)

def test_in_place_is_as_out_of_place(net):
    "And gives the results of the same network written without it."
    writes, reads = Out(net, seen=lambda x: x.mul_(.5)).eval(), Out(net, seen=lambda x: x*.5).eval()
    mine = x.clone().contiguous(memory_format=torch.channels_last)
    for _ in range(2): assert torch.equal(predict(writes, mine)[0], predict(reads, x)[0])
    for k in ('gradient', *PER_IMAGE): torch.testing.assert_close(calls[k](writes, mine, y), calls[k](reads, x, y))
    for k in UNIVERSAL: assert torch.equal(calls[k + '.fit'](writes, mine, y).image, calls[k + '.fit'](reads, x, y).image)

WRAPS = dict(parallel=nn.DataParallel, averaged=AveragedModel, compiled=lambda n: torch.compile(n, backend='eager'))
@pytest.mark.parametrize('wrap', WRAPS)
def test_wrapped_networks(wrap, net):
    "A wrapped network gives what the network inside gives; hooks that come after a compilation ran were lost in pytorch #117758."
    outer = WRAPS[wrap](net).eval()
    outer(x)                                            # compiled before any hook is there
    assert stage_names(outer) == stage_names(net) and torch.equal(predict(outer, x, 4)[0], predict(net, x, 4)[0])
    with tap_stages(net, ['layer1']) as want: net(x)
    with tap_stages(outer, ['layer1']) as got: outer(x)
    torch.testing.assert_close(got[0], want[0])
    a, b = (stage_maps(n, x, y, (32, 4)) for n in (net, outer))
    for what in a: torch.testing.assert_close(a[what], b[what])
    assert torch.equal(PER_IMAGE['pgd'].attack(outer, x, y, 4), PER_IMAGE['pgd'].attack(net, x, y, 4))
    assert state_key(PER_IMAGE['pgd'], outer) == state_key(PER_IMAGE['pgd'], net)
    torch.compiler.reset()

@pytest.mark.parametrize('name', PER_IMAGE)
def test_scored_again(name, net):
    "Who scores the returned images finds what the attack says of them, as auto-attack #74 did not."
    net.train()
    a = PER_IMAGE[name] if name != 'lavan' else LaVAN(4, steps=1, confidence=None, seed=0)
    r = a.run(net, x, y, 4)
    assert net.training
    net.eval()
    assert torch.equal(predict(net, r.x_adv, 4)[0] != y, r.met.bool())

@pytest.mark.parametrize('make', [PatchPGD, GAP, LaVAN, SparseRS, NES])
def test_target_outside_the_classes(make, net):
    "A target beyond the last class was taken in adversarial-attacks-pytorch #116; NumPy's integers are integers."
    assert make(4, target=np.int64(2)).target == 2
    a = make(4, target=np.int64(9))
    with pytest.raises(ValueError, match='4 classes'): a.fit(net, [(x, y)]) if make is GAP else a.attack(net, x, y)

def test_numbers_of_numpy(net):
    "Sizes, steps, seeds, targets and bit-widths that come out of an array."
    n = np.int64
    a, b = (PatchPGD(k(4), steps=k(2), target=k(1), seed=k(3)).attack(net, x, y, k(4)) for k in (int, n))
    assert torch.equal(a, b)
    MPA(n_patches=n(1), queries=n(5), samples=n(2), seed=n(0)).attack(net, x, y)
    assert hog(torch.rand(1, 1, 16, 16), n(9), n(4), n(2)).shape == hog(torch.rand(1, 1, 16, 16), 9, 4, 2).shape
    t = transfer_matrix(net, [(x, y)], PatchPGD(n(4), steps=n(1), target=n(1)), bits=[n(4)], n=n(8), seed=n(0), progress=False)
    assert t.bits == (4,) and t.settings['seed'] == 0

def test_home_folder(net, tmp_path, monkeypatch):
    "A path that begins with ~ is in the home folder, and no folder of that name appears."
    monkeypatch.setenv('HOME', str(tmp_path/'home')); monkeypatch.chdir(tmp_path)
    Patch(torch.rand(3, 4, 4)).save('~/p'); Patch.load('~/p')
    t = transfer_matrix(net, [(x, y)], PER_IMAGE['pgd'], nulls=False, progress=False, parts='~/parts')
    t.save('~/t'); Transfer.load('~/t')
    PER_IMAGE['pgd'].attack(net, x, y, resume='~/state')
    assert os.listdir(tmp_path) == ['home']

def test_images_all_of_the_target(net):
    "Where every image has the target's label nothing can be attacked: said, and counted as 0 images."
    same = torch.full_like(y, 2)
    for k in ('gap', 'sparse'):
        a = type(UNIVERSAL[k])(4, target=2)
        with pytest.raises(ValueError, match='no image to attack'): a.fit(net, [(x, same)])
    with pytest.warns(UserWarning, match='nothing to attack'):
        t = transfer_matrix(net, [(x, same)], PatchPGD(4, 1, target=2), progress=False)
    assert t.matrix('n', 'asr_targeted').to_numpy().max() == 0

def test_more_images_than_there_are(net):
    "A number that the user gave is refused where there are fewer; that of a default is lowered, and said."
    with pytest.raises(ValueError, match='the loader has 16'): alignment_report(net, [(x, y)], n=64, smooth=(0,), progress=False)
    with pytest.raises(ValueError, match='n_attack must lie between 1 and the 16'):
        transfer_matrix(net, [(x, y)], PER_IMAGE['pgd'], n_attack=64, progress=False)
    with pytest.raises(ValueError, match='the loader has 16'): audit(net, [(x, y)], n=64, lines=(5,), progress=False)
    with pytest.warns(UserWarning, match='16 images, fewer than the 200'):
        assert alignment_report(net, [(x, y)], smooth=(0,), progress=False).settings['n'] == 16
    with pytest.warns(UserWarning, match='16 images, fewer than the 200'):
        assert len(audit(net, [(x, y)], lines=(5,), progress=False).y) == 16
    assert report(net, [(x, y)], PER_IMAGE['pgd'], audit=False, quick=True, smooth=(0,), progress=False).settings['n'] == 16

def test_classes_of_different_images():
    "Predictions for one image do not pass for predictions for all."
    with pytest.raises(ValueError, match='one class for each image'): asr(y, y[:1], y)

def test_one_image(net):
    "A batch of one image is a batch."
    for a in PER_IMAGE.values(): assert a.attack(net, x[:1], y[:1]).shape == x[:1].shape
    assert success(net, x[:1], y[:1], x[:1])['asr_all'].rate.n == 1

def test_dropout_in_training_mode():
    "A network left in training mode is evaluated in eval mode: the same call twice is the same."
    plain = nn.Sequential(nn.Flatten(), nn.Dropout(.5), nn.Linear(768, 4)).train()
    for call in ('predict', *PER_IMAGE):
        a, b = (calls[call](plain, x, y) for _ in range(2))
        assert torch.equal(a[0], b[0]) and plain.training

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_precisions(dtype):
    "Networks in float64 and bfloat16 are attacked with images of their type."
    plain = toy_net().eval().to(dtype)
    for a in PER_IMAGE.values():
        z = a.attack(plain, x.to(dtype), y)
        assert z.dtype == dtype and predict(plain, z)[0].shape == y.shape

def test_normalised_images(net):
    "Images that were normalised before they came are named, as foolbox #602 asks."
    for a in PER_IMAGE.values():
        with pytest.raises(ValueError, match=r'not in \[0,1\]'): a.attack(net, 4*x - 2, y)


# an attack of one's own

def test_own_attack_at_the_door():
    "An object with the right methods that is no subclass is refused before any work, with what is needed; a subclass with `attack` alone is reported."
    from triqdef.attack.base import Attack, ImageAttack, UniversalAttack
    dls = toy_dls(64, seed=0)
    net = calibrate(to_multibit(toy_net(), (32, 4)), dls.train)
    class Grey:
        def attack(self, net, x, y, bits=None):
            x = x.clone()
            x[:, :, :5, :5] = .5
            return x
    class Own(Grey, Attack): pass
    asked = []
    def forward(*_): asked.append(1)
    with net.register_forward_pre_hook(forward):
        for a in (Grey(), [Grey()], {'mine': Grey()}, ImageAttack(), UniversalAttack()):
            for f in (transfer_matrix, report):
                with pytest.raises(TypeError, match=r'subclass of Attack with attack\(net, x, y, bits\)'): f(net, dls.valid, a, fit_on=dls.train, progress=False)
    assert len(asked) <= 5      # a report looks at one batch first, to check the classes
    r = report(net, dls, {'mine': Own()}, n=8, n_align=0, audit=False, progress=False)
    assert r.transfers['ToyNet'].attacks['mine']['kind'] == 'per image'


# what a newcomer meets at the door

def own(change, **more):
    "An attack of one's own that returns what `change` makes of the images."
    from triqdef.attack.base import Attack
    return type('Own', (Attack,), dict(attack=lambda self, net, x, y, bits=None: change(x), **more))()

@pytest.mark.parametrize('change, say', [(lambda x: 2*x - .5, r"'mine' returned pixels in \[.*lie in \[0,1\]"), (lambda x: 255*x, r'lie in \[0,1\]'),
    (lambda x: x[:, :, :4], r'must return float images \(\d+, 3, 16, 16\)'), (lambda x: (x, 1), 'got tuple'), (lambda x: x*torch.nan, 'nan'),
    (lambda x: (x*255).byte(), 'torch.uint8')])
def test_what_an_own_attack_returns(change, say, net, tmp_path):
    "Other values and shapes are refused by the attack's name, and no part of them is kept."
    for f in (transfer_matrix, report):
        how = dict(progress=False) | (dict(parts=tmp_path) if f is transfer_matrix else dict(audit=False, n_align=0))
        with pytest.raises(ValueError, match=say): f(net, [(x, y)], {'mine': own(change)}, **how)
    assert len(list(tmp_path.glob('*.part'))) == 2     # the clean predictions

def test_own_attack_that_is_audited(net):
    "An audit refuses what the attack under audit returns by its name."
    class Loud(PatchPGD):
        def run(self, *args, **kwargs):
            r = super().run(*args, **kwargs)
            r.x_adv = 2*r.x_adv
            return r
    trained = trained_toy()
    with pytest.raises(ValueError, match="'Loud' returned pixels"): audit(trained, [(x, y)], attack=Loud(4, 1, seed=0), budget=budget, lines=(2,), progress=False)

def test_no_patch(net, monkeypatch):
    "An attack that changes most of the image is named, one that says its large place is not."
    monkeypatch.setattr('triqdef.pixels._warned', set())
    with pytest.warns(UserWarning, match="'all' changes 100% of the pixels of the median image: not a patch"):
        transfer_matrix(net, [(x, y)], {'all': own(lambda x: 1 - x)}, nulls=False, progress=False)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', message='.*not a patch')
        transfer_matrix(net, [(x, y)], {'wide': PatchPGD(14, 1, seed=0), 'small': own(lambda x: x.index_fill(3, torch.arange(6), 0.))}, nulls=False, progress=False)

def test_probabilities_for_logits(monkeypatch):
    "A softmax at the end of a network is named once per network, wherever attacks or their success enter first; `predict`, for which both are right, says nothing."
    plain, said = trained_toy(), 'remove the softmax'
    for call in ('predict', 'success', 'matrix', 'pgd', 'gap.fit', 'audit'):
        monkeypatch.setattr('triqdef.pixels._warned', set())
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always')
            calls[call](Out(plain, lambda z: z.softmax(1)).eval(), x, y)
        assert sum(said in str(w.message) for w in seen) == (call != 'predict'), call
        with warnings.catch_warnings():
            warnings.filterwarnings('error', message=f'.*{said}')
            calls[call](Out(plain, lambda z: z.relu()).eval(), x, y)

def test_a_network_that_is_right_on_nothing(net):
    "One warning for a matrix of all bit-widths, one for a success."
    trained = calibrate(to_multibit(trained_toy(), (32, 4)), [(x, y)])
    wrong = (predict(trained, x, 32)[0] + 1) % 4
    for f in (lambda: transfer_matrix(trained, [(x, wrong)], PER_IMAGE['pgd'], bits=(32,), nulls=False, progress=False), lambda: success(trained, x, wrong, x, 32)):
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter('always'); f()
        said = [str(w.message) for w in seen if 'clean images' in str(w.message)]
        assert said == ['the network is right on 0 of 16 clean images at 32 bits: check labels, order of classes and normalisation']

def test_mistakes_of_a_call(net):
    "What was given, and what to give, before any work."
    plain, dls, asked = toy_net().eval(), toy_dls(32), []
    class Deaf(own(lambda x: x).__class__):
        def attack(self, net, x, y): return x
    cases = [(lambda: transfer_matrix(net, [(x, y)], PatchPGD, progress=False), r'PatchPGD is a class: give an instance, PatchPGD\(size=8\)'),
             (lambda: report(net, [(x, y)], {'a': GAP}, progress=False), r'GAP is a class: give an instance, GAP\(size=8\)'),
             (lambda: transfer_matrix(net, dls, PER_IMAGE['pgd'], progress=False), 'give dls.valid or dls.train, got DataLoaders'),
             (lambda: predict(net, dls), 'give dls.valid or dls.train, got DataLoaders'),
             (lambda: transfer_matrix(net, [(x, y)], Deaf(), progress=False), r'must be attack\(net, x, y, bits=None\)'),
             (lambda: TriQDef(attack=Deaf()), r'must be attack\(net, x, y, bits=None\)'),
             (lambda: audit(net, [(x, y)], (4,), PatchPGD(4, 1), progress=False), 'give PatchPGD as attack='),
             *[(lambda a=a: type(a)(eps=8/255), f"'eps' is no setting of {type(a).__name__}: it has ") for a in (*PER_IMAGE.values(), *UNIVERSAL.values())]]
    with net.register_forward_pre_hook(lambda *_: asked.append(1)):
        for f, say in cases:
            with pytest.raises(TypeError, match=say): f()
    assert len(asked) <= 2      # a report looks at one batch first, to check the classes
    for f in (lambda: predict(plain, x, 8), lambda: transfer_matrix(plain, [(x, y)], PER_IMAGE['pgd'], bits=(8,)), lambda: PER_IMAGE['pgd'].attack(plain, x, y, bits=8)):
        with pytest.raises(ValueError, match='it is not multi-bit, convert it with to_multibit'): f()
