"Properties over generated input, against slow and plain references."
import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings, strategies as st
from skimage.feature import canny, hog as skimage_hog
from skimage.filters import sobel

from triqdef.attack.patch import Patch, allowed_places, crop_patch, patch_mask, place, random_places, to_uint8_grid
from triqdef.core import check_bits
from triqdef.data import balanced_order, crop_flip
from triqdef.evaluate.success import Success, asr, asr_all, asr_targeted, wilson, worst_case
from triqdef.models import build_model, cifar_resnet
from triqdef.penalty.fdp import bit_pairs, fdp
from triqdef.penalty.gpdp import gpdp
from triqdef.percept.edges import canny_iou, edge_iou, gaussian_smooth, minmax_scale, sobel_magnitude
from triqdef.percept.hog import hog, hog_cosine, soft_hog
from triqdef.quant.checkpoint import load_checkpoint, read_description, save_checkpoint
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.quant.quantizers import levels, make_quantizer
from triqdef.quant.ste import quantize, quantize_composed
from triqdef.train.curriculum import BACT

seeds = st.integers(0, 2**20)

def gen(seed): return torch.Generator().manual_seed(seed)
def rand(seed, *shape, dtype=torch.float32): return torch.rand(*shape, generator=gen(seed), dtype=dtype)
def randn(seed, *shape, dtype=torch.float32): return torch.randn(*shape, generator=gen(seed), dtype=dtype)


# quantizers

@given(seeds, st.integers(2, 16), st.booleans(), st.floats(1e-3, 10), st.sampled_from([torch.float32, torch.float64]))
def test_quantize_is_the_formula(seed, width, signed, step, dtype):
    v, (lo, hi) = 3*randn(seed, 257, dtype=dtype), levels(width, signed)
    s = torch.tensor(step)
    out = quantize(v, s, lo, hi)
    u = v.numpy()/s.to(dtype).numpy()
    want = np.round(np.clip(u, lo, hi))*s.to(dtype).numpy()
    np.testing.assert_array_equal(out.numpy(), want)
    k = out.double()/s.double()
    assert (k - k.round()).abs().max() < 1e-3*hi and lo - .01 <= k.min() and k.max() <= hi + .01
    inside = (torch.from_numpy(u) > lo) & (torch.from_numpy(u) < hi)
    assert ((out - v).abs()[inside] <= step/2*(1 + 1e-5)).all()
    again = quantize(out, s, lo, hi)
    torch.testing.assert_close(again, out)
    order = v.sort().values
    assert (quantize(order, s, lo, hi).diff() >= 0).all()

@given(seeds, st.integers(2, 8), st.booleans(), st.floats(.01, 2), st.sampled_from([0., .5]), st.booleans(), st.floats(.01, 1))
def test_quantize_derivatives_are_lsqs(seed, width, signed, step, edge, per_channel, scale):
    "Esser 2020, equations 2 and 3, written with numpy; and the composed form agrees in value and both first derivatives."
    v, (lo, hi) = randn(seed, 4, 33, dtype=torch.float64).requires_grad_(), levels(width, signed)
    s = torch.full((4, 1) if per_channel else (), step, dtype=torch.float64)
    if per_channel: s = s*torch.tensor([[.5], [1.], [2.], [3.]])
    s, w = s.requires_grad_(), randn(seed + 1, 4, 33, dtype=torch.float64)
    gv, gs = torch.autograd.grad((quantize(v, s, lo, hi, edge, scale)*w).sum(), (v, s))
    u = v.detach().numpy()/s.detach().numpy()
    inside = (u > lo - edge) & (u < hi + edge)
    np.testing.assert_allclose(gv.numpy(), w.numpy()*inside)
    by_step = np.where(inside, np.round(np.clip(u, lo, hi)) - u, np.clip(u, lo, hi))*w.numpy()*scale
    np.testing.assert_allclose(gs.numpy(), by_step.sum(1, keepdims=True) if per_channel else by_step.sum(), rtol=1e-9, atol=1e-12)
    cv, cs = torch.autograd.grad((quantize_composed(v, s, lo, hi, edge)*w).sum(), (v, s))
    torch.testing.assert_close(cv, gv)
    torch.testing.assert_close(scale*cs, gs)

@given(seeds, st.sampled_from(['lsq', 'dorefa', 'minmax']), st.integers(2, 8), st.booleans())
def test_weight_quantizers_use_few_levels(seed, name, width, flat):
    q = make_quantizer(name, {4: width}, 'weight')
    v = torch.zeros(3, 4, 3, 3) if flat else randn(seed, 3, 4, 3, 3)
    q.observe(v, 4)
    with torch.no_grad(): out = q(v, 4)
    assert out.isfinite().all() and len(out.unique()) <= 2**width and out.shape == v.shape
    assert torch.equal(q(v, 32), v)
    if flat and name != 'dorefa': assert not out.any()

@given(seeds, st.sampled_from(['lsq', 'dorefa', 'pact', 'minmax']), st.integers(2, 8), st.floats(1e-3, 1e3))
def test_act_quantizers_use_few_levels(seed, name, width, size):
    q = make_quantizer(name, {4: width}, 'act')
    v = size*randn(seed, 8, 5, 4).relu()
    with torch.no_grad(): out = q(v, 4)
    assert out.isfinite().all() and out.min() >= 0 and len(out.unique()) <= 2**width
    assert out.max() <= (1 if name == 'dorefa' else 2**width*size*8)
    if name == 'dorefa': return      # its step is fixed, and may be wider than the values
    mirrored = make_quantizer(name, {4: width}, 'act')
    with torch.no_grad(): assert mirrored(-v, 4).min() < 0, 'negative values are cut off'

@given(st.lists(st.integers(1, 32), min_size=1, max_size=6, unique=True), seeds)
def test_bits_pairs_and_curriculum(bits, seed):
    got = check_bits(bits)
    assert list(got) == sorted(bits, reverse=True)
    if len(got) > 1:
        chain, every = bit_pairs(bits), bit_pairs(bits, 'all')
        assert len(chain) == len(got) - 1 and len(every) == math.comb(len(got), 2) and set(chain) <= set(every)
        assert all(a > b for a, b in every) and [a for a, _ in chain] == list(got[:-1])
    c = BACT(bits, seed=seed)
    for step in range(20):
        active = c.active(step, step/20)
        assert set(active) <= set(c.entered(step/20)) and active == c.active(step, step/20) and active == check_bits(active)
        assert 0 <= c.penalty_weight(step/20) <= 1
    assert c.active(0, 0.) == got[:1] and c.entered(1.) == got
    drawn = {b for step in range(200) for b in c.active(step, 1.)}
    assert drawn == set(got)


# patches

def slow_place(x, p, at, mask):
    "`place` as four loops."
    out = x.clone()
    for b in range(len(x)):
        q = p if p.ndim == 3 else p[b % len(p)]
        for i in range(q.shape[1]):
            for j in range(q.shape[2]):
                if mask is None or mask[i, j]: out[b, :, at[b, 0] + i, at[b, 1] + j] = q[:, i, j]
    return out

@given(seeds, st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(1, 3))
def test_place_is_a_loop(seed, B, h, w, one, circle, C):
    x = rand(seed, B, C, 9, 11)
    p = rand(seed + 1, *(() if one else (B,)), C, h, w)
    at = random_places(B, (9, 11), (h, w), gen(seed))
    mask = patch_mask(h, w, 'circle') if circle else None
    out = place(x, p, at, mask=mask)
    assert torch.equal(out, slow_place(x, p, at, mask))
    changed = (out != x).any(1).flatten(1).sum(1)
    assert (changed <= (mask.sum() if circle else h*w)).all()

@given(seeds, st.sampled_from([0, 90, 180, 270, 360]), st.integers(2, 7))
def test_quarter_turns_are_exact(seed, angle, s):
    "Turned by quarters about its centre a patch is `rot90`, up to the arithmetic of one bilinear sampling."
    x, p = rand(seed, 2, 3, 12, 12), rand(seed + 1, 3, s, s)
    out = place(x, p, (2, 3), angle=float(angle))
    want = place(x, torch.rot90(p, angle//90, (1, 2)), (2, 3))
    torch.testing.assert_close(out, want, atol=1e-5, rtol=0)

@given(seeds, st.floats(-180, 180), st.floats(.5, 1.4), st.booleans())
def test_turned_patches_stay_between_their_pixels(seed, angle, scale, circle):
    x, p = torch.zeros(2, 3, 24, 24), .25 + .5*rand(seed, 3, 6, 6)
    out = place(x, p, (9, 9), angle=angle, scale=scale, mask=patch_mask(6, 6, 'circle' if circle else 'square'))
    on = (out != 0).any(1)
    assert out[out != 0].min() >= p.min() - 1e-5 and out.max() <= p.max() + 1e-5
    area = (math.pi/4 if circle else 1)*(6*scale)**2
    assert abs(on[0].sum().item() - area) <= .25*area + 8
    reach = 6*scale*(.5 if circle else math.sqrt(.5)) + 1
    rows, cols = on[0].nonzero().unbind(1)
    assert ((rows + .5 - 12)**2 + (cols + .5 - 12)**2 <= reach**2).all()

@given(seeds, st.floats(0, 90), st.floats(.6, 1.3))
def test_place_is_linear_in_the_patch(seed, angle, scale):
    "So its derivative is itself: what an attack climbs is what is shown."
    x, p, d = (rand(seed + k, *s, dtype=torch.float64) for k, s in enumerate([(1, 3, 16, 16), (3, 5, 5), (3, 5, 5)]))
    f = lambda q: place(x, q, (5, 5), angle=angle, scale=scale)
    mid = f((p + d)/2)
    torch.testing.assert_close(mid, (f(p) + f(d))/2)
    w = rand(seed + 9, *x.shape, dtype=torch.float64)
    q = p.clone().requires_grad_()
    g, = torch.autograd.grad((f(q)*w).sum(), q)
    torch.testing.assert_close((g*(d - p)).sum(), (f(d)*w).sum() - (f(p)*w).sum())

@given(seeds, st.integers(1, 8), st.integers(1, 8), st.lists(st.tuples(*[st.integers(0, 10)]*4), max_size=3))
def test_places_avoid_what_is_forbidden(seed, h, w, boxes):
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in boxes]
    bad = torch.zeros(10, 10, dtype=torch.bool)
    for a, b, c, d in boxes: bad[a:c, b:d] = True
    want = torch.tensor([[not bad[i:i + h, j:j + w].any() for j in range(11 - w)] for i in range(11 - h)])
    assume(want.any())
    assert torch.equal(allowed_places((10, 10), (h, w), boxes), want)
    assert torch.equal(allowed_places((10, 10), (h, w), bad), want)
    at = random_places(50, (10, 10), (h, w), gen(seed), boxes)
    assert want[at[:, 0], at[:, 1]].all()
    if want.sum() <= 3: assert len(at.unique(dim=0)) == want.sum()

@given(seeds, st.integers(1, 12), st.integers(1, 12), st.sampled_from([1, 3]), st.sampled_from(['square', 'circle']), st.none() | st.integers(0, 9))
@settings(max_examples=15)
def test_patch_files_round_trip(tmp_path_factory, seed, h, w, C, shape, target):
    folder = tmp_path_factory.mktemp('patch')
    p = Patch(rand(seed, C, h, w), shape, target, dict(seed=seed, note='é'))
    q = Patch.load(p.save(folder/'p'))
    assert torch.equal(q.image, p.image) and (q.shape_name, q.target, q.meta) == (shape, target, p.meta)
    k = p.image*255
    assert torch.equal(p.image, to_uint8_grid(p.image)) and (k - k.round()).abs().max() < 1e-4
    assert sorted(f.name for f in folder.iterdir()) == ['p.json', 'p.png']

@given(seeds, st.integers(2, 5), st.integers(1, 6))
def test_crops_come_from_another_image(seed, B, s):
    x = to_uint8_grid(rand(seed, B, 3, 7, 7))
    for b, c in enumerate(crop_patch(x, s, gen(seed))):
        windows = {b2: x[b2].unfold(1, s, 1).unfold(2, s, 1).permute(1, 2, 0, 3, 4).flatten(0, 1) for b2 in range(B)}
        assert any((windows[o] == c).flatten(1).all(1).any() for o in range(B) if o != b)


# perception

@given(seeds, st.integers(1, 12), st.integers(1, 9), st.integers(1, 4), st.integers(0, 20), st.integers(0, 20), st.sampled_from(['noise', 'smooth', 'flat', 'steps', 'faint']))
@settings(max_examples=40)
def test_hog_is_skimages(seed, orientations, cell, block, dh, dw, kind):
    m = rand(seed, 2, 1, cell*block + dh, cell*block + dw, dtype=torch.float64)
    if kind == 'smooth': m = gaussian_smooth(m, 2.)
    if kind == 'flat': m = torch.full_like(m, .3)
    if kind == 'steps': m = (4*m).round()/4
    if kind == 'faint': m = 1e-5*m      # here the eps of the normalisation shows, and so the scale of a cell
    assume(min(m.shape[2:]) > 1)
    ours = hog(m, orientations, cell, block)
    for o, a in zip(ours, m[:, 0].numpy()):
        want = skimage_hog(a, orientations, (cell, cell), (block, block), block_norm='L2-Hys', feature_vector=True)
        assert o.shape == want.shape
        np.testing.assert_allclose(o.numpy(), want, atol=1e-5)

@given(seeds, st.integers(8, 40), st.integers(8, 40), st.floats(.5, 3), st.sampled_from([0., .5, 2.]))
def test_canny_iou_is_skimages(seed, h, w, sigma, blur):
    a, b = (gaussian_smooth(rand(seed + k, 2, 1, h, w), blur) for k in (0, 1))
    got, empty = canny_iou(a, b, sigma, return_empty=True)
    for i in range(2):
        e1, e2 = (canny(minmax_scale(m)[i, 0].numpy(), sigma) for m in (a, b))
        union = (e1 | e2).sum()
        assert empty[i] == (union == 0)
        assert abs(got[i].item() - ((e1 & e2).sum()/union if union else 1)) < 1e-6

@given(seeds, st.integers(2, 30), st.integers(2, 30))
def test_sobel_is_skimages(seed, h, w):
    m = rand(seed, 1, 1, h, w, dtype=torch.float64)
    np.testing.assert_allclose(sobel_magnitude(m)[0, 0].numpy(), sobel(m[0, 0].numpy()), atol=1e-9)

@given(seeds, st.integers(4, 30), st.integers(4, 30), st.floats(.1, 50), st.floats(-5, 5), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_likeness_is_a_likeness(seed, h, w, gain, shift, dtype):
    "Between 0 and 1, symmetric, 1 for itself, blind to gain and offset, per image."
    a, b = rand(seed, 3, 1, h, w, dtype=torch.float64), rand(seed + 1, 3, 1, h, w, dtype=torch.float64)
    for f in (edge_iou, lambda *v: hog_cosine(*v, cell=1), lambda *v: hog_cosine(*v, cell=1, soft=True), canny_iou):
        ab, one = f(a, b), torch.ones(3, dtype=torch.float64)
        assert ab.shape == (3,) and (ab >= 0).all() and (ab <= 1 + 1e-9).all()
        torch.testing.assert_close(f(b, a), ab)
        torch.testing.assert_close(f(a, a), one)
        torch.testing.assert_close(f(gain*a + shift, b), ab, atol=1e-6, rtol=1e-6)
        torch.testing.assert_close(f(a[1:2], b[1:2]), ab[1:2])
        low = f(a.to(dtype), b.to(dtype))
        assert low.isfinite().all() and low.dtype == dtype

@given(seeds, st.sampled_from(['zero', 'flat', 'dot', 'huge', 'tiny']), st.booleans(), st.sampled_from([torch.float32, torch.float16, torch.bfloat16]))
def test_degenerate_maps_are_finite_twice(seed, kind, soft, dtype):
    "Values, first and second derivatives on maps that have nothing in them."
    a = torch.zeros(2, 1, 16, 16)
    if kind == 'flat': a += .7
    if kind == 'dot': a[0, 0, 8, 8] = 1
    if kind == 'huge': a = 6e4*rand(seed, 2, 1, 16, 16)
    if kind == 'tiny': a = 1e-7*rand(seed, 2, 1, 16, 16)
    assume(kind != 'tiny' or dtype != torch.float16)      # a slope of 1e7 has no place in float16
    a = a.to(dtype).requires_grad_()
    b = rand(seed, 2, 1, 16, 16).to(dtype)
    total = (edge_iou(a, b) + hog_cosine(a, b, soft=soft) + edge_iou(a, a) + hog_cosine(a, a, soft=soft)).sum()
    g, = torch.autograd.grad(total, a, create_graph=True)
    assert total.isfinite() and g.isfinite().all()
    if g.requires_grad: assert torch.autograd.grad(g.float().square().sum(), a)[0].isfinite().all() or kind == 'tiny' or dtype != torch.float32

@given(seeds, st.integers(2, 4), st.sampled_from([None, 'all']), st.floats(0, 2), st.floats(0, 2))
def test_penalties_are_means_of_pairs(seed, n, pairs, w_edge, w_hog):
    bits = (32, 8, 4, 2)[:n]
    feats = {b: [randn(seed + b, 2, 3, 12, 12), randn(seed + b + 1, 2, 5, 6, 6)] for b in bits}
    ps = bit_pairs(bits, pairs)
    def like(a, b):
        a, b = (v.abs().mean(1, keepdim=True) for v in (a, b))
        return w_edge*edge_iou(a, b).mean() + w_hog*hog_cosine(a, b).mean()
    want = sum(like(feats[i][l], feats[j][l]) for i, j in ps for l in (0, 1))/(2*len(ps))
    torch.testing.assert_close(fdp(feats, pairs, w_edge, w_hog), torch.as_tensor(want), atol=1e-5, rtol=1e-5)
    want = sum(like(feats[i][0], feats[j][0]) for i, j in ps)/len(ps)
    torch.testing.assert_close(gpdp({b: f[0] for b, f in feats.items()}, pairs, w_edge, w_hog), torch.as_tensor(want), atol=1e-5, rtol=1e-5)
    same = {b: feats[32] for b in bits}
    assert fdp(same, pairs, 0., 1.) > .999
    assert 0 <= fdp(feats, pairs, w_edge, w_hog) <= w_edge + w_hog + 1e-5


# counts

@given(st.integers(0, 3000), st.integers(0, 3000), st.floats(.5, .999))
def test_wilson(k, more, level):
    n = k + more
    lo, hi = wilson(k, n, level)
    assert 0 <= lo <= hi <= 1
    if not n: assert (lo, hi) == (0., 1.); return
    assert lo <= k/n + 1e-12 and k/n <= hi + 1e-12
    # the ends solve (p − k/n)² = z² p(1−p)/n
    z = NormalDist().inv_cdf((1 + level)/2)
    for p in (lo, hi):
        if 0 < p < 1: assert abs((p - k/n)**2 - z*z*p*(1 - p)/n) < 1e-9
    flip = wilson(more, n, level)
    assert abs(flip[0] - (1 - hi)) < 1e-9 and abs(flip[1] - (1 - lo)) < 1e-9
    wider = wilson(k, n, min(.9999, level + .05))
    assert wider[0] <= lo and hi <= wider[1]
    many = wilson(np.array([k, 0]), np.array([n, n]), level)
    assert many[0][0] == lo and many[1][0] == hi

@given(st.integers(1, 60), st.integers(2, 5), seeds)
def test_success_counts(n, classes, seed):
    g = gen(seed)
    y, clean, a, b = (torch.randint(classes, (n,), generator=g) for _ in range(4))
    s = asr(clean, a, y)
    right = [i for i in range(n) if clean[i] == y[i]]
    assert (s.rate.k, s.rate.n) == (sum(bool(a[i] != y[i]) for i in right), len(right))
    assert asr_all(a, y).rate.k == sum(int(p != q) for p, q in zip(a, y)) and asr_all(a, y).rate.n == n
    t = asr_targeted(a, y, 1)
    assert t.rate.n == sum(int(v != 1) for v in y) and t.rate.k == sum(int(p == 1 and q != 1) for p, q in zip(a, y))
    both = worst_case([s, asr(clean, b, y)])
    assert both.rate.k == sum(bool(a[i] != y[i] or b[i] != y[i]) for i in right) and both.rate.k >= s.rate.k
    assert isinstance(both, Success) and both.rate.n == s.rate.n


# data and files

@given(seeds, st.integers(1, 3), st.integers(5, 9), st.integers(5, 9))
def test_crop_flip_is_padding_and_slicing(seed, B, H, W):
    x, g = rand(seed, B, 2, H, W), gen(seed)
    dy, dx = (torch.randint(-4, 5, (B,), generator=g) for _ in range(2))
    flip = torch.rand(B, generator=g) < .5
    out = crop_flip(x, dy, dx, flip)
    for b in range(B):
        p = np.pad(x[b].numpy(), ((0, 0), (4, 4), (4, 4)), mode='reflect')[:, 4 + dy[b]:4 + dy[b] + H, 4 + dx[b]:4 + dx[b] + W]
        np.testing.assert_array_equal(out[b].numpy(), p[..., ::-1] if flip[b] else p)

@given(st.lists(st.integers(0, 4), min_size=5, max_size=80), seeds)
def test_balanced_order(y, seed):
    y = torch.tensor(y)
    order = balanced_order(y, seed)
    assert sorted(order.tolist()) == list(range(len(y)))
    for n in range(1, len(y)):
        for c in y.unique():
            assert abs((y[order[:n]] == c).sum() - n*(y == c).float().mean()) <= len(y.unique())

@given(seeds, st.sampled_from(['resnet8', 'toy_net']), st.sampled_from([None, (32, 4), (8, 5, 2), (32,)]), st.sampled_from(['lsq', 'dorefa', 'minmax']),
       st.sampled_from(['lsq', 'dorefa', 'pact', 'minmax']), st.booleans(), st.sampled_from([8, 4, 32]), st.integers(2, 5))
@settings(max_examples=20)
def test_checkpoints_round_trip(tmp_path_factory, seed, arch, bits, weight, act, per_channel, first_last, classes):
    "Any small network comes back with the same logits at each bit-width, in eval mode at its highest."
    torch.manual_seed(seed)
    net = build_model(arch, classes)
    if bits: net = to_multibit(net, bits, weight, act, first_last, per_channel, skip=['fc'] if seed % 2 else ())
    x = rand(seed, 3, 3, 16, 16)
    if bits and seed % 3: calibrate(net, [x])
    net.train(); net(x); net.eval()
    path = tmp_path_factory.mktemp('net')/'n.safetensors'
    meta = dict(accuracy={'4': .5}, vocab=['ä', 'b'])
    save_checkpoint(net, path, arch, classes, meta)
    again = load_checkpoint(path)
    assert read_description(path)['meta'] == meta == again.description['meta'] and not again.training
    assert again.state_dict().keys() == net.state_dict().keys()
    for k, v in net.state_dict().items(): assert torch.equal(v, again.state_dict()[k]) and v.dtype == again.state_dict()[k].dtype
    for b in bits or (32,):
        with torch.no_grad(), at_bits(net, b), at_bits(again, b): assert torch.equal(net(x), again(x))
    assert [f.name for f in path.parent.iterdir()] == ['n.safetensors']

@pytest.mark.parametrize('depth,millions', [(20, .27), (56, .85)])
def test_resnets_are_counted_right(depth, millions):
    net = cifar_resnet(depth)
    n = sum(p.numel() for p in net.parameters())
    assert round(n/1e6, 2) == millions
    width, blocks = 16, (depth - 2)//6
    convs = 27*width + 9*(2*blocks*width**2 + width*2*width + (2*blocks - 1)*(2*width)**2 + 2*width*4*width + (2*blocks - 1)*(4*width)**2)
    norms = 2*(width + 2*blocks*(width + 2*width + 4*width))
    assert n == convs + norms + 4*width*10 + 10
