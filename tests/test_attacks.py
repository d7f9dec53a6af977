"What all attacks promise alike: settings and input are checked, budgets are exact, the network is left as found, interrupted work goes on."
import copy
from inspect import signature

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from triqdef.attack.criteria import Confident, Criterion, Targeted, Untargeted
from triqdef.attack.ensemble import BackwardSwap, BitEnsemble, FeaturePull, RandomPrecision, Smoothed
from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.nes import NES
from triqdef.attack.patch import Patch, to_uint8_grid
from triqdef.attack.patchattack import MPA, TPA
from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.attack.textures import TextureDictionary
from triqdef.evaluate.audit import Momentum
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.toys import toy_images, trained_toy

BITS = (32, 4, 2)


def make_tpa(classes=(0, 1, 2, 3), **settings):
    "TPA with two textures a class, cut from pictures."
    x, y = toy_images(64, seed=7)
    pick = torch.cat([(y == c % 4).nonzero()[:2, 0] for c in classes])
    d = TextureDictionary(x[pick], torch.tensor([c for c in classes for _ in range(2)]))
    return TPA(d, **dict(dict(n_patches=2, area_each=.06, queries=9, samples=3, seed=0), **settings))

def maker(cls, **usual): return lambda **settings: cls(**{**usual, **settings})

PER_IMAGE = dict(pgd=maker(PatchPGD, size=4, steps=3, seed=0), lavan=maker(LaVAN, size=4, steps=3, step_size=.1, seed=0),
                 sparse_rs=maker(SparseRS, size=4, queries=9, seed=0), nes=maker(NES, size=4, queries=9, samples=2, seed=0),
                 mpa=maker(MPA, n_patches=2, queries=9, samples=3, seed=0), tpa=make_tpa)
UNIVERSAL = dict(gap=maker(GAP, size=4, target=1, steps=4, bs=8, seed=0), lavan_fit=maker(LaVAN, size=4, steps=4, bs=8, seed=0),
                 sparse_rs_fit=maker(SparseRS, size=4, queries=9, bs=8, resample=3, seed=0))
ATTACKS = {**PER_IMAGE, **UNIVERSAL}
def with_settings(*names):
    "The attacks whose constructors take all of these."
    return [k for k, make in ATTACKS.items() if set(names) <= set(signature(type(make())).parameters)]
BUDGET = {k: 'queries' if hasattr(make(), 'queries') else 'steps' for k, make in ATTACKS.items()}
VIEWS = dict(one=2, several=BITS, ensemble=BitEnsemble(BITS), minmax=BitEnsemble(BITS, 'min-max'), drawn=RandomPrecision(BITS, 2, seed=0),
             smoothed=Smoothed(2, n=2, seed=0), swapped=BackwardSwap(2, 'shadow'), pulled=FeaturePull(BITS), momentum=Momentum(2))

@pytest.fixture(scope='module')
def start(): return calibrate(to_multibit(trained_toy(30), BITS).eval(), [toy_images(32, seed=3)])

@pytest.fixture
def net(start): return copy.deepcopy(start)

@pytest.fixture
def xy(): return toy_images(8, seed=5)

def go(name, attack, net, x, y, **how):
    "What the attack makes: patched images, or the pixels of a universal patch."
    if name in UNIVERSAL: return attack.fit(net, [(x, y)], **how).image
    return attack.attack(net, x, y, **how)

def state(net):
    "Everything that an attack might have changed."
    return ({k: v.clone() for k, v in net.state_dict().items()}, [m.training for m in net.modules()],
            [(p.requires_grad, p.grad) for p in net.parameters()], [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()],
            net.bit_state.bits, net.bit_state.observing, net.bit_state.backward)

def same(a, b): return all(torch.equal(v, b[0][k]) for k, v in a[0].items()) and a[1:] == b[1:]

class refused:
    "The error of this kind, with every one of `telling` in its message, and the network as it was."
    def __init__(self, net, kind, *telling): self.net, self.kind, self.telling = net, kind, telling
    def __enter__(self): self.before, self.info = state(self.net), pytest.raises(self.kind); return self.info.__enter__()
    def __exit__(self, *exc):
        out = self.info.__exit__(*exc)
        for t in self.telling: assert t in str(exc[1]), f'{str(exc[1])!r} does not say {t!r}'
        assert same(state(self.net), self.before) and len(str(exc[1])) < 600
        return out

class Counted(nn.Module):
    "The network, with an ear: how many pictures it is shown; after `stop` forward passes it is interrupted."
    def __init__(self, net, stop=None): super().__init__(); self.module, self.n, self.passes, self.stop = net, 0, 0, stop
    def forward(self, x):
        self.n += len(x); self.passes += 1
        if self.stop is not None and self.passes > self.stop: raise KeyboardInterrupt
        return self.module(x)


# settings

@pytest.mark.parametrize('name', ATTACKS)
@pytest.mark.parametrize('n', [0, -3])
def test_no_budget(name, n):
    with pytest.raises(ValueError, match=f'{BUDGET[name]} must be at least 1, got {n}'): ATTACKS[name](**{BUDGET[name]: n})

@pytest.mark.parametrize('name', with_settings('target'))
def test_target_outside_the_classes(name, net, xy):
    classes = dict(classes=(0, 1, 2, 3, 9)) if name == 'tpa' else {}
    for target in (9, Targeted(9), Confident(9, .5)):
        with refused(net, ValueError, "network's 4 classes", '0…3', 'got'): go(name, ATTACKS[name](target=target, **classes), net, *xy)
    for target in (4, -1):
        with refused(net, (ValueError, TypeError), 'target' if name != 'tpa' else '', str(target)):
            go(name, ATTACKS[name](target=target), net, *xy)
    with refused(net, TypeError, 'target', "'cat'"): go(name, ATTACKS[name](target='cat'), net, *xy)

@pytest.mark.parametrize('name', with_settings('size'))
def test_size(name, net, xy):
    with refused(net, ValueError, '20 × 20', '16 × 16', 'does not fit'): go(name, ATTACKS[name](size=20), net, *xy)
    with refused(net, ValueError, '4 × 17', '16 × 16'): go(name, ATTACKS[name](size=(4, 17)), net, *xy)
    with pytest.raises(ValueError, match='at least one pixel'): ATTACKS[name](size=0)
    with pytest.raises(TypeError, match='pixels'): ATTACKS[name](size=4.5)

@pytest.mark.parametrize('name', with_settings('shape', 'places', 'forbidden'))
def test_shape_and_places(name, net, xy):
    with pytest.raises(ValueError, match="'square', 'circle'"): ATTACKS[name](shape='star')
    with refused(net, ValueError, 'no place left'): go(name, ATTACKS[name](places='random', forbidden=[(0, 0, 16, 16)]), net, *xy)
    with refused(net, ValueError, 'inside the image'): go(name, ATTACKS[name](places=(13, 0)), net, *xy)
    with refused(net, ValueError, 'places', "'middle'"): go(name, ATTACKS[name](places='middle'), net, *xy)

@pytest.mark.parametrize('name', ['lavan', 'lavan_fit', 'mpa', 'tpa'])
def test_area(name, net, xy):
    key = 'area' if 'lavan' in name else 'area_each'
    given = dict(size=None) if 'lavan' in name else dict(n_patches=1)
    for bad in (1.5, 0, -.1, float('nan')):
        with pytest.raises(ValueError, match=r'in \(0, 1\], got'): ATTACKS[name](**given, **{key: bad})
    with refused(net, ValueError, 'pixel', '16 × 16'): go(name, ATTACKS[name](**given, **{key: .003}), net, *xy)
    whole = go(name, ATTACKS[name](**given, **{key: 1.}), net, *xy)       # all of the image is legal
    assert torch.isfinite(whole).all()

@pytest.mark.parametrize('make, telling', [(lambda: MPA(11, .1), 'more than the image'), (lambda: LaVAN(4, area=.1), 'not both'),
    (lambda: NES(samples=3), 'even'), (lambda: SparseRS(alpha=2.), 'alpha'), (lambda: MPA(sigma=0.), 'sigma'), (lambda: MPA(colors='pink'), "'pink'"),
    (lambda: LaVAN(confidence=1.2), 'confidence'), (lambda: LaVAN(rule='adam'), "'adam'"), (lambda: LaVAN(loss='hinge'), "'hinge'"),
    (lambda: Criterion(temperature=0), 'temperature'), (lambda: BitEnsemble(BITS, 'best'), "'best'"), (lambda: Smoothed(2, sigma=-1), 'sigma'),
    (lambda: BackwardSwap(2, 'none'), "'none'"), (lambda: FeaturePull(2), 'two bit-widths'), (lambda: RandomPrecision(BITS, 0), 'samples')])
def test_other_settings(make, telling):
    with pytest.raises(ValueError, match=telling): make()

NUMBERS = [('pgd', 'step_size'), ('gap', 'lr'), ('lavan', 'step_size'), ('nes', 'step_size'), ('nes', 'sigma'), ('mpa', 'sigma'), ('mpa', 'lr'),
           ('tpa', 'entropy')]

@pytest.mark.parametrize('name, key', NUMBERS)
@pytest.mark.parametrize('bad', [-1., float('nan')])
def test_numbers_that_are_none(name, key, bad):
    with pytest.raises(ValueError, match=key): ATTACKS[name](**{key: bad})


# images, labels, bit-widths

@pytest.mark.parametrize('name', ATTACKS)
def test_normalised_images(name, net, xy):
    x, y = xy
    for z in ((x - .5)/.25, 255*x):
        with refused(net, ValueError, '[0,1]', 'normalised already', 'inside the model'): go(name, ATTACKS[name](), net, z, y)

BAD_IMAGES = {'bytes': (lambda x: (x*255).byte(), TypeError, 'torch.uint8'), 'one image': (lambda x: x[0], ValueError, '(B,C,H,W)'),
              'none': (lambda x: x[:0], ValueError, 'empty'), 'nan': (lambda x: x.clone().index_fill_(0, torch.tensor([3]), torch.nan), ValueError, 'NaN')}

@pytest.mark.parametrize('kind', BAD_IMAGES)
@pytest.mark.parametrize('name', ATTACKS)
def test_what_is_no_image_batch(name, kind, net, xy):
    change, error, say = BAD_IMAGES[kind]
    x = change(xy[0])
    if name in UNIVERSAL and kind == 'one image': pytest.skip('a batch that a loader gives: 3 images of two dimensions')
    with refused(net, error, say): go(name, ATTACKS[name](), net, x, xy[1][:len(x)])

@pytest.mark.parametrize('name', ATTACKS)
def test_labels_of_another_network(name, net, xy):
    x, y = xy
    with refused(net, ValueError, '4 classes', '0…3'): go(name, ATTACKS[name](), net, x, y + 4)
    with refused(net, ValueError, '4 classes', '-1'): go(name, ATTACKS[name](), net, x, y*0 - 1)
    with refused(net, ValueError, 'integers', 'float32'): go(name, ATTACKS[name](), net, x, y.float())

@pytest.mark.parametrize('name', ATTACKS)
@pytest.mark.parametrize('dtype', [torch.int32, torch.uint8])
def test_labels_of_another_type(name, dtype, net, xy):
    "Any integers will do as labels."
    assert torch.equal(go(name, ATTACKS[name](), net, xy[0], xy[1].to(dtype)), go(name, ATTACKS[name](), net, *xy))

def test_a_target_for_each_image(net, xy):
    "Patch PGD alone takes a tensor of targets."
    for bad, say in ((torch.full((8,), 9), 'got 9'), (torch.full((8,), -1), 'got -1'), (torch.full((5,), 1), '(5,)')):
        with refused(net, ValueError, 'target', say): PatchPGD(4, 1, target=bad).attack(net, *xy)
    with refused(net, TypeError, 'target'): LaVAN(4, target=torch.full((8,), 1))

@pytest.mark.parametrize('name', PER_IMAGE)
def test_too_few_labels(name, net, xy):
    with refused(net, ValueError, '(8,)', '(5,)'): go(name, ATTACKS[name](), net, xy[0], xy[1][:5])

@pytest.mark.parametrize('name', UNIVERSAL)
def test_loaders(name, net, xy):
    x, y = xy
    with refused(net, ValueError, 'empty'): ATTACKS[name]().fit(net, [])
    with refused(net, ValueError, 'no image to attack', '2'): ATTACKS[name](target=2).fit(net, [(x, torch.full_like(y, 2))])
    with refused(net, ValueError, '(images, labels)'): ATTACKS[name]().fit(net, [x])

@pytest.mark.parametrize('name', ATTACKS)
def test_unknown_bits(name, net, xy):
    for bits in (3, (32, 3), BitEnsemble((32, 3)), Smoothed(3, n=1), BackwardSwap(3)):
        with refused(net, ValueError, '(32, 4, 2)', 'got 3'): go(name, ATTACKS[name](), net, *xy, bits=bits)
    for bits, kind, say in ((64, ValueError, 'got 64'), ('4', TypeError, "'4'"), (4., TypeError, '4.0'), ((), ValueError, 'empty'), ((4, 4), ValueError, 'twice')):
        with refused(net, kind, say): go(name, ATTACKS[name](), net, *xy, bits=bits)


# the network is left as found

@pytest.mark.parametrize('name', ATTACKS)
def test_training_mode_comes_back(name, net, xy):
    "In training mode, with some layers frozen, at a low bit-width: the same patches as in eval mode, and nothing has moved."
    want = go(name, ATTACKS[name](), net, *xy, bits=2)
    net.train(); net.layer1.eval(); net.fc.weight.requires_grad_(False)
    with at_bits(net, 4):
        before = state(net)
        with torch.no_grad(): got = go(name, ATTACKS[name](), net, *xy, bits=2)
        assert same(state(net), before) and torch.equal(got, want) and not got.requires_grad

@pytest.mark.parametrize('name', ATTACKS)
def test_interrupted_in_training_mode(name, net, xy):
    heard = Counted(net.train(), stop=2)
    before = state(net)
    with pytest.raises(KeyboardInterrupt): go(name, ATTACKS[name](), heard, *xy)
    assert same(state(net), before) and heard.training

@pytest.mark.parametrize('view', VIEWS)
@pytest.mark.parametrize('name', ATTACKS)
def test_views(name, view, net, xy):
    "Every attack looks through every view, twice with the same result, and leaves nothing behind."
    before, bits = state(net), VIEWS[view]
    one, two = (go(name, ATTACKS[name](), net, *xy, bits=bits) for _ in range(2))
    assert torch.equal(one, two) and same(state(net), before)


# what is reported is what is there

@pytest.mark.parametrize('name', PER_IMAGE)
def test_run(name, net, xy):
    x, y = xy
    r = PER_IMAGE[name]().run(net, x, y, bits=4)
    assert torch.equal(r.x_adv, PER_IMAGE[name]().attack(net, x, y, bits=4)), 'a seed repeats'
    changed = r.x_adv != x
    assert torch.equal(to_uint8_grid(r.x_adv)[changed], r.x_adv[changed]) and 0 <= r.x_adv.min() and r.x_adv.max() <= 1
    with at_bits(net, 4), torch.no_grad(): wrong = net(r.x_adv).argmax(1) != y
    if name != 'lavan': assert torch.equal(wrong, r.met == 1)
    assert (wrong | (r.met < 1)).all()
    if r.area is not None: assert (changed.any(1).float().mean((1, 2)) <= r.area + 1e-6).all()

@pytest.mark.parametrize('name', ['lavan', 'sparse_rs', 'nes', 'mpa', 'tpa'])
@pytest.mark.parametrize('n', [1, 2, 5, 24])
def test_budget(name, n, net, xy):
    "A network that counts agrees with `queries`, up to one look at a clean picture; nobody is looked at more often than allowed."
    heard = Counted(net)
    r = PER_IMAGE[name](**{BUDGET[name]: n}).run(heard, *xy, bits=None)
    assert heard.n == r.queries.sum().item() + 1
    assert r.queries.max() <= n + (name == 'lavan') and r.queries.dtype == torch.int64 and r.queries.shape == (8,)

@pytest.mark.parametrize('name', ATTACKS)
@pytest.mark.parametrize('kind', ['one image', 'oblong', 'double', 'inference'])
def test_any_images(name, kind, net, xy):
    x, y = xy
    if kind == 'one image': x, y = x[:1], y[:1]
    if kind == 'oblong': x = x[..., :12, :]
    if kind == 'double': x, net = x.double(), net.double()
    with torch.inference_mode(kind == 'inference'): out = go(name, ATTACKS[name](), net, x, y)
    assert torch.isfinite(out).all()
    if name in PER_IMAGE: assert out.shape == x.shape and out.dtype == x.dtype


# files

def halfway(name, net, xy, path, bits=None):
    "An interrupted attack with its state; the number of passes after which it stopped."
    heard = Counted(net)
    go(name, ATTACKS[name](), heard, *xy, bits=bits)
    attack = ATTACKS[name](); attack.save_every = 0
    with pytest.raises(KeyboardInterrupt): go(name, attack, Counted(net, heard.passes - 2), *xy, bits=bits, resume=path)
    assert path.is_file()
    return heard.passes

@pytest.mark.parametrize('name', ATTACKS)
def test_resumed(name, net, xy, tmp_path):
    "An interrupted attack goes on where it stopped, ends bit for bit as if nothing had happened, and removes its file."
    path = tmp_path/'state'
    passes, want = halfway(name, net, xy, path, BITS[1:]), go(name, ATTACKS[name](), Counted(net), *xy, bits=BITS[1:])
    heard = Counted(net)
    assert torch.equal(go(name, ATTACKS[name](), heard, *xy, bits=BITS[1:], resume=path), want)
    assert heard.passes < passes and list(tmp_path.iterdir()) == []

@pytest.mark.parametrize('name', ATTACKS)
def test_damaged_state(name, net, xy, tmp_path):
    "Refused with the name of the file, which stays for the user to look at; nothing was attacked."
    path, tensors = tmp_path/'state', {'p': torch.zeros(3)}
    halfway(name, net, xy, path)
    whole, heard = path.read_bytes(), Counted(net)
    def again(): go(name, ATTACKS[name](), heard, *xy, resume=path)
    for damage in (b'', whole[:7], whole[:len(whole)//2], whole[:-1], b'not a state at all', b'\xff'*8 + whole[8:]):
        path.write_bytes(damage)
        with refused(net, ValueError, str(path), 'damaged'): again()
        assert path.read_bytes() == damage
    for foreign in (None, {'format': 'pt'}, {'format': 'triqdef-1', 'arch': 'resnet20'}):
        save_file(tensors, path, metadata=foreign)
        with refused(net, ValueError, str(path), 'not the state of an attack'): again()
    path.unlink(); path.mkdir()
    with refused(net, ValueError, str(path), 'folder'): again()
    assert heard.n <= 9*len(xy[0])        # one look at the labels each time, and no attack

@pytest.mark.parametrize('name', ATTACKS)
def test_state_of_other_work(name, net, xy, tmp_path):
    "A state belongs to an attack with its settings, to weights, bit-widths and images."
    x, y = xy
    path, other = tmp_path/'state', copy.deepcopy(net)
    with torch.no_grad(): other.fc.bias.add_(.1)
    halfway(name, net, xy, path, bits=2)
    whole = path.read_bytes()
    calls = [lambda: go(name, ATTACKS[name](seed=1), Counted(net), x, y, bits=2, resume=path), lambda: go(name, ATTACKS[name](), Counted(net), x, y, bits=4, resume=path),
             lambda: go(name, ATTACKS[name](), Counted(other), x, y, bits=2, resume=path),
             lambda: go(name, ATTACKS[name](**{BUDGET[name]: 30}), Counted(net), x, y, bits=2, resume=path)]
    for call in calls:
        with refused(net, ValueError, str(path), 'belongs to other'): call()
    says = 'does not give the images' if name in UNIVERSAL else 'belongs to other'
    with refused(net, ValueError, says): go(name, ATTACKS[name](), Counted(net), 1 - x, y, bits=2, resume=path)
    neighbour = 'nes' if name != 'nes' else 'pgd'
    with refused(net, ValueError, 'belongs to other'): go(neighbour, ATTACKS[neighbour](), Counted(net), x, y, bits=2, resume=path)
    assert path.read_bytes() == whole

@pytest.mark.parametrize('name', UNIVERSAL)
def test_patch_file(name, net, xy, tmp_path):
    "A universal patch comes back exactly, with its settings."
    patch = UNIVERSAL[name]().fit(net, [xy], bits=BITS)
    patch.save(tmp_path/'p')
    back = Patch.load(tmp_path/'p')
    assert torch.equal(back.image, patch.image) and back.target == patch.target and back.meta['bits'] == list(BITS)

def test_dictionary_files(tmp_path):
    d = make_tpa().dictionary
    path = d.save(tmp_path/'textures')
    assert torch.equal(TextureDictionary.load(path).images, d.images)
    whole = path.read_bytes()
    for damage in (b'', whole[:9], whole[:len(whole)//2], whole[:-1], whole[:-50] + bytes(50), b'text'):
        path.write_bytes(damage)
        with pytest.raises(ValueError, match='textures.safetensors'): TextureDictionary.load(path)
    tensors = dict(images=torch.zeros(1, 3, 4, 4, dtype=torch.uint8), labels=torch.zeros(1, dtype=torch.long))
    for meta in (None, {'format': 'triqdef-1'}, {'format': 'triqdef-textures-1'}, {'format': 'triqdef-textures-1', 'notes': '{'},
                 {'format': 'triqdef-textures-1', 'notes': '[]'}, {'format': 'triqdef-textures-1', 'notes': '{}'}):
        save_file(tensors, path, metadata=meta)
        with pytest.raises(ValueError, match='textures.safetensors'): TextureDictionary.load(path)
    with pytest.raises(ValueError, match='absent'): TextureDictionary.load(tmp_path/'absent')
    with pytest.raises(TypeError, match='TextureDictionary'): TPA(d.images)
    with pytest.raises(ValueError, match='channels|takes images'): go('tpa', make_tpa(), trained_toy(1), torch.rand(2, 1, 16, 16), torch.tensor([0, 1]))
