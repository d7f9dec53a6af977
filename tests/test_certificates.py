"Masks, double masking and certificates against slow and plain references, and against attackers who try every place."
from collections import Counter
from itertools import combinations_with_replacement, product
from pathlib import Path

import pytest
import torch
from hypothesis import assume, given, strategies as st
from torch import nn

from triqdef.attack.cover import covered, mask_set, mask_starts
from triqdef.attack.patch import place
from triqdef.attack.pgd import PatchPGD
from triqdef.core import asset
from triqdef.evaluate.certified import certified
from triqdef.evaluate.doublemask import DoubleMask
from triqdef.evaluate.success import predict, success
from triqdef.files import read_json
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.toys import toy_images, toy_net

sides = st.integers(2, 14)


# geometry

def test_every_axis():
    "All sides up to 20: every place lies in a mask, masks fit the image and are at most as many as asked for."
    for n in range(1, 21):
        for p, k in product(range(1, n + 1), range(2, n + 2)):
            side, starts = mask_starts(n, p, k)
            assert len(starts) <= k and starts[0] == 0 and p <= side <= n and max(starts) + side <= n
            assert all(any(a <= i and i + p <= a + side for a in starts) for i in range(n - p + 1))

@given(sides, sides, st.integers(1, 14), st.integers(1, 14), st.integers(2, 7))
def test_masks_cover_every_place(H, W, h, w, k):
    assume(h <= H and w <= W and (h, w) != (H, W))
    masks = mask_set((H, W), (h, w), k)
    assert len(masks) <= k*k and not masks.flatten(1).all(1).any()
    for i, j in product(range(H - h + 1), range(W - w + 1)):
        assert masks[:, i:i+h, j:j+w].flatten(1).all(1).any()

@given(st.integers(4, 7), st.integers(4, 7), st.integers(1, 2), st.integers(1, 2), st.integers(2, 3))
def test_masks_cover_two_patches(H, W, h, w, k):
    masks = mask_set((H, W), (h, w), k, patches=2)
    seen = [masks[:, i:i+h, j:j+w].flatten(1).all(1) for i, j in product(range(H - h + 1), range(W - w + 1))]
    assert all((a & b).any() for a, b in combinations_with_replacement(seen, 2))

def test_own_masks():
    "Rectangles that leave a place uncovered are refused; the library's own set passes as a user's."
    masks = mask_set((9, 7), (2, 3), 3)
    assert torch.equal(mask_set((9, 7), (2, 3), masks), masks) and covered(masks, (2, 3)).any(0).all()
    with pytest.raises(ValueError, match='no mask covers a patch of 2 × 3'): mask_set((9, 7), (2, 3), masks[1:])
    with pytest.raises(ValueError, match='as the images'): mask_set((8, 7), (2, 3), masks)


# the rule and the condition, on small networks with random weights

class Tiny(nn.Module):
    "Pixels to three classes by one hidden layer."
    def __init__(self, seed, pixels=36):
        super().__init__()
        g = torch.Generator().manual_seed(seed)
        self.w, self.v = torch.randn(pixels, 8, generator=g), torch.randn(8, 3, generator=g)
        self.b = torch.randn(8, generator=g)
    def forward(self, x): return ((x - .5).flatten(1) @ self.w + self.b).relu() @ self.v

def small(seed, n=24): return Tiny(seed).eval(), torch.rand(n, 1, 6, 6, generator=torch.Generator().manual_seed(seed + 1))

def one_class(f, v, *masks):
    v = v.clone()
    for m in masks: v[:, m] = .5
    return f(v[None]).argmax(1).item()

def slow_answer(f, v, masks):
    "The two rounds, one image and one pair at a time."
    one = [one_class(f, v, m) for m in masks]
    majority = min(Counter(one).items(), key=lambda kv: (-kv[1], kv[0]))[0]
    for m, label in zip(masks, one):
        if label != majority and all(one_class(f, v, m, n) == label for n in masks): return label
    return majority

@pytest.mark.parametrize('seed, patches', [(0, 1), (1, 1), (2, 2)])
def test_agrees_with_the_slow_rule(seed, patches):
    net, x = small(seed, 12)
    guard = DoubleMask(net, 1, masks=2, patches=patches, bs=5)
    masks, got = guard.masks_for(x), predict(guard, x)[0]
    assert got.tolist() == [slow_answer(net, v, masks) for v in x]
    c = certified(net, x, got, patch=1, masks=2, patches=patches)
    pairs = list(combinations_with_replacement(masks, 2))
    assert c.held[32].tolist() == [all(one_class(net, v, *p) == label for p in pairs) for v, label in zip(x, got.tolist())]
    assert c.right[32].all() and c.masks == len(masks)

def test_forward_passes_are_counted():
    "The count is the number of images that the network was given."
    net, x = small(3)
    given_, guard = [], DoubleMask(lambda v: given_.append(len(v)) or net(v), 1, masks=3)
    masks = guard.masks_for(x)
    decision = guard.decide(x, masks, guard.first_round(x, masks).argmax(2))
    assert decision.forwards.sum() == sum(given_)
    agreed = (decision.one == decision.one[:, :1]).all(1)
    assert (decision.forwards[agreed] == len(masks)).all() and (decision.forwards[~agreed] > len(masks)).all()

@pytest.mark.parametrize('seed', range(4))
def test_no_patch_at_any_place_breaks_a_certificate(seed):
    "Every place with black, white and random pixels; images without a certificate may fall, and some do."
    net, x = small(seed)
    guard = DoubleMask(net, 2, masks=3)
    y = predict(guard, x)[0]
    c, g = certified(net, x, y, patch=2, masks=3), torch.Generator().manual_seed(seed)
    patterns = [torch.zeros(1, 2, 2), torch.ones(1, 2, 2), *((torch.rand(6, 1, 2, 2, generator=g) > .5).float())]
    fell = torch.zeros(len(x), dtype=torch.bool)
    for i, j in product(range(5), range(5)):
        for p in patterns: fell |= predict(guard, place(x, p, (i, j)))[0] != y
    assert not (fell & c.held[32]).any() and fell.sum() <= c.bound(32).k

def test_the_tiny_networks_are_not_all_alike():
    "Over the seeds there are certified images, and images that fall: the test above could fail."
    held, fell = 0, 0
    for seed in range(4):
        net, x = small(seed)
        guard = DoubleMask(net, 2, masks=3)
        y = predict(guard, x)[0]
        held += certified(net, x, y, patch=2, masks=3).held[32].sum().item()
        fell += sum((predict(guard, place(x, torch.full((1, 2, 2), v), (2, 2)))[0] != y).sum().item() for v in (0., 1.))
    assert held > 0 and fell > 0

@pytest.mark.parametrize('bits', [32, 2])
def test_adaptive_attack(bits):
    "Patch PGD through the wrapper, at a bit-width: none of its successes has a certificate."
    x, _ = toy_images(12, size=8)
    net = calibrate(to_multibit(toy_net(), (32, 2)).eval(), [toy_images(16, size=8)])
    guard = DoubleMask(net, 2, masks=3)
    y = predict(guard, x, bits)[0]
    c = certified(net, x, y, patch=2, masks=3, bits=(bits,))
    x_adv = PatchPGD(2, steps=4, step_size=.5, seed=0).attack(guard, x, y, bits=bits)
    s = success(guard, x, y, x_adv, bits=bits)['asr_all']
    assert not (s.hit & c.held[bits]).any() and s.rate.k <= c.bound(bits).k

def test_a_file(tmp_path):
    "An exported file is certified as a function; its answers are those of the slow rule."
    pytest.importorskip('onnxruntime')
    from triqdef.deploy.onnx import OnnxNet, export_onnx
    x, y = toy_images(4)
    net = calibrate(to_multibit(toy_net(), (32, 4)).eval(), [toy_images(16)])
    file = OnnxNet(export_onnx(net, tmp_path/'net.onnx', 4, x[:1]), threads=1)
    guard = DoubleMask(file, 2, masks=2)
    assert predict(guard, x)[0].tolist() == [slow_answer(file, v, guard.masks_for(x)) for v in x]
    c = certified(file, x, predict(guard, x)[0], patch=2, masks=2)
    assert c.right[32].all() and (c.held[32] <= c.right[32]).all()


# bad input

def test_refused():
    net, (x, y) = toy_net().eval(), toy_images(8)
    for bad, said in ((dict(patch=17), 'does not fit'), (dict(patch=16), 'hides the whole image'), (dict(masks=1), 'masks must be at least 2'),
                      (dict(masks=torch.zeros(2, 16, 16).bool()), 'no mask covers'), (dict(masks=torch.ones(1, 20, 20).bool()), 'as the images'),
                      (dict(patches=3), 'patches must be one of'), (dict(fill=-1.), 'fill must'), (dict(y=y + 4), 'labels lie in'), (dict(y=y[:3]), 'labels'),
                      (dict(bits=(4,)), 'bits must be one of'), (dict(x=x*255), r'not in \[0,1\]'), (dict(x=x/0), 'x|images'), (dict(bs=0), 'bs must')):
        with pytest.raises(ValueError, match=said): certified(**dict(net=net, x=x, y=y, patch=2, masks=2) | bad)
    for bad, said in ((dict(net='net'), 'net must be'), (dict(masks=2.5), 'masks'), (dict(masks=torch.ones(1, 16, 16)), 'bool'), (dict(bits=4), 'bits must be')):
        with pytest.raises(TypeError, match=said): certified(**dict(net=net, x=x, y=y, patch=2, masks=2) | bad)
    with pytest.raises(ValueError, match='draws nothing'): certified(lambda v: net(v)*torch.rand(()), x, y, patch=2, masks=2)
    with pytest.raises(ValueError, match='NaN logits'): certified(lambda v: net(v)*float('nan'), x, y, patch=2, masks=2)

def test_the_changelog_has_the_stored_figures():
    text = (Path(__file__).parent.parent/'CHANGELOG.md').read_text(encoding='utf-8')
    for r in read_json(asset('results/certified.json'), 'triqdef-certified-1')['rows']:
        assert ' / '.join(str(b['certified']['k']) for b in r['rows']) in text, r['network']
