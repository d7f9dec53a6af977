"What users of neighbouring tools ran into with norms, averaged copies, computed weights and files, on multi-bit networks."
import copy, pickle, warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.optim.swa_utils import AveragedModel
from torchvision.ops import FrozenBatchNorm2d

from triqdef.classifiers import fill, read_state
from triqdef.models import build_model
from triqdef.quant.checkpoint import load_checkpoint, load_weights, save_checkpoint
from triqdef.quant.convert import (at_bits, bits_of, calibrate, keep_bits, quant_summary, quant_table,
                                   to_multibit)
from triqdef.quant.layers import QConv2d, QLinear
from triqdef.quant.norm import MultiBitNorm, sync_norms
from triqdef.quant.quantizers import Quantizer
from triqdef.toys import toy_images, toy_net

X = torch.rand(16, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def net(norm=None, layer=nn.Conv2d):
    "A small network in eval mode with a norm of any kind."
    torch.manual_seed(0)
    return nn.Sequential(layer(3, 8, 3, padding=1), norm or nn.BatchNorm2d(8), nn.ReLU(), layer(8, 8, 3, 2, 1), nn.ReLU(),
                         nn.Flatten(), nn.Linear(8*36, 4)).eval()

def at(m, bits, x=X):
    with torch.no_grad(), at_bits(m, bits): return m(x)

def norms(m): return [k for k in m.modules() if isinstance(k, MultiBitNorm)]

def quantizers(m): return [q for q in m.modules() if isinstance(q, Quantizer)]

def equal(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# norms

def test_network_set_up_for_several_processes():
    "SyncBatchNorm before the conversion gives the numbers of BatchNorm2d at every bit-width. pytorch #43592, Model-Optimizer #1491"
    plain = net()
    plain[1].running_mean.uniform_(-.5, .5); plain[1].running_var.uniform_(.5, 2)
    a, b = to_multibit(plain, (32, 4, 2)), to_multibit(nn.SyncBatchNorm.convert_sync_batchnorm(copy.deepcopy(plain)), (32, 4, 2))
    assert b[1].synced and a.state_dict().keys() == b.state_dict().keys()
    for m in (a, b): calibrate(m, [X])
    assert equal(a.state_dict(), b.state_dict()) and all(torch.equal(at(a, w), at(b, w)) for w in (32, 4, 2))
    a.train(); b.train()                       # in one process it trains too, on a CPU
    torch.testing.assert_close(at(b, 4), at(a, 4))

def test_synchronised_norm_behind_a_linear_layer():
    "SyncBatchNorm takes any number of dimensions, and so does what stands for it. pytorch #43592"
    plain = nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)))
    m = calibrate(to_multibit(plain.eval(), (32, 4)), [X])
    assert torch.equal(at(m, 32), plain(X).detach()) and len(norms(m)) == 1

class OwnNorm(nn.Module):
    "A norm of one's own, with statistics."
    def __init__(self):
        super().__init__()
        self.register_buffer('running_mean', torch.zeros(8)); self.register_buffer('running_var', torch.ones(8))
    def forward(self, x): return (x - self.running_mean[:, None, None])*(self.running_var[:, None, None] + 1e-5).rsqrt()

NORMS = dict(instance=lambda: nn.InstanceNorm2d(8, track_running_stats=True), frozen=lambda: FrozenBatchNorm2d(8), own=OwnNorm,
             no_affine=lambda: nn.BatchNorm2d(8, affine=False, momentum=None))

@pytest.mark.parametrize('kind', NORMS)
def test_every_norm_with_statistics_is_kept_per_width(kind):
    "Statistics of a low width follow its inputs, those of 32 bits stay. pytorch #41642, d2go #399"
    plain = net(NORMS[kind]())
    m = to_multibit(plain, (32, 2))
    before = at(m, 32)
    assert torch.equal(before, plain(X).detach()) and len(norms(m)) == 1
    calibrate(m, [X])
    assert torch.equal(at(m, 32), before)
    full, low = (m[1].norms[k] for k in ('32', '2'))
    assert not torch.equal(full.running_mean, low.running_mean) and not torch.equal(full.running_var, low.running_var)
    with torch.no_grad():
        with at_bits(m, 2): moved = m[0](X)
        with at_bits(m, 32): moved = (moved - m[0](X)).mean((0, 2, 3))
    torch.testing.assert_close(low.running_mean - full.running_mean, moved, rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('kind', ['BatchNormAct2d', 'FrozenBatchNormAct2d', 'EvoNorm2dB0', 'split'])
def test_norms_of_timm(kind):
    "Norms with an activation, frozen ones, ones that hold others; what calibrate cannot move it names. pytorch #41642"
    layers = pytest.importorskip('timm', reason='timm is not installed').layers
    plain = layers.convert_splitbn_model(net(), 2) if kind == 'split' else net(getattr(layers, kind)(8))
    m = to_multibit(plain.eval(), (32, 4))
    assert len(norms(m)) == 1 and torch.equal(at(m, 32), plain(X).detach())
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        calibrate(m, [X])
    assert any('EvoNorm2dB0' in str(w.message) for w in told) == (kind == 'EvoNorm2dB0')

def test_calibration_with_single_images():
    "A batch of one image behind global pooling has no variance: nothing becomes NaN, or it is an error. pytorch #1381"
    def made(bits):
        plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4))
        return to_multibit(plain.eval(), bits)
    m = calibrate(made((32, 4)), [X, X[:1]])
    assert all(v.isfinite().all() for v in m.state_dict().values())
    with pytest.raises(ValueError, match='more than one image'): calibrate(made((8, 4)), [X[:1]])

def test_all_dimensions_can_be_synchronised():
    "BatchNorm1d is chosen for all processes like BatchNorm2d, a frozen norm has nothing to send. pytorch #43592"
    flat = to_multibit(nn.Sequential(nn.Flatten(), nn.Linear(432, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)), (32, 4))
    assert sync_norms(flat)[2].synced and not sync_norms(to_multibit(net(FrozenBatchNorm2d(8)), (32, 4)))[1].synced
    with pytest.raises(ValueError, match='multi-bit'): sync_norms(net())
    with pytest.raises(TypeError, match='InstanceNorm2d'): sync_norms(to_multibit(net(NORMS['instance']()), (32, 4)))


# averaged copies

def trained(m, steps=40):
    "A few steps at each width."
    opt, (x, y) = torch.optim.Adam(m.parameters(), 1e-2), toy_images(64, size=12, seed=0)
    for _ in range(steps):
        for b in bits_of(m):
            with at_bits(m, b): F.cross_entropy(m.train()(x), y).backward()
        opt.step(); opt.zero_grad()
        yield

def by_state_dict(a, b):
    for v, w in zip(a.state_dict().values(), b.state_dict().values()): v.copy_(v + .1*(w - v) if v.is_floating_point() else w)
def by_data(a, b):
    for v, w in zip(a.parameters(), b.parameters()): v.data.mul_(.9).add_(w.data, alpha=.1)
    for v, w in zip(a.buffers(), b.buffers()): v.data.copy_(w)
def by_setting(a, b):
    for v, w in zip(a.parameters(), b.parameters()): v.data.lerp_(w.data, .1)
    for m, k in zip(a.modules(), b.modules()):
        for n, t in k.named_buffers(recurse=False): setattr(m, n, t.clone())

@pytest.mark.parametrize('weight,act', [('lsq', 'lsq'), ('dorefa', 'dorefa'), ('lsq', 'pact'), ('minmax', 'minmax')])
@pytest.mark.parametrize('update', [by_state_dict, by_data, by_setting])
def test_average_made_before_the_first_data(update, weight, act):
    "However the copy is filled, an evaluation of it changes nothing. pytorch #84053, sparseml #1465"
    m = to_multibit(toy_net(), (32, 4), weight, act)
    ema = copy.deepcopy(m)
    for _ in trained(m, 3):
        with torch.no_grad(): update(ema, m)
    before = copy.deepcopy(ema.state_dict())
    ema.eval()
    for twin in (ema, copy.deepcopy(ema), pickle.loads(pickle.dumps(ema)), copy.deepcopy(ema).double().float()):
        assert all(q.ready == p.ready and q.signed == p.signed for q, p in zip(quantizers(twin), quantizers(m)))
        at(twin, 4, .1*X)
        assert equal(twin.state_dict(), before)

def test_average_of_torch_and_timm():
    "AveragedModel and ModelEmaV3 as they come. pytorch #84053"
    timm = pytest.importorskip('timm.utils', reason='timm is not installed')
    m = to_multibit(toy_net(), (32, 4))
    swa, ema = AveragedModel(m), timm.ModelEmaV3(m, decay=.9)
    for _ in trained(m, 3): swa.update_parameters(m); ema.update(m)
    for wrapped in (swa, ema):
        before = copy.deepcopy(wrapped.state_dict())
        at(wrapped.eval(), 4, .1*X)
        assert equal(wrapped.state_dict(), before)

def test_average_over_whole_buffers_is_refused():
    "Flags that were averaged are no flags: an error that says so, and the averaged steps stay. ignite #2590, ignite #2098"
    m = to_multibit(toy_net(), (32, 4))
    swa = AveragedModel(m, use_buffers=True)
    swa.update_parameters(m)
    for _ in trained(m, 3): swa.update_parameters(m)
    before = copy.deepcopy(swa.state_dict())
    with pytest.raises(ValueError, match='averaged or not copied'): at(swa.eval(), 4)
    assert equal(swa.state_dict(), before)
    at(swa, 32)

def test_copy_of_a_compiled_network():
    "A compiled copy that was filled later keeps its steps. pytorch #84053"
    torch._dynamo.reset()
    m = to_multibit(net(), (32, 4))
    fast = torch.compile(copy.deepcopy(m), backend='eager')
    at(m, 4)
    with torch.inference_mode():
        for v, w in zip(fast.state_dict().values(), m.state_dict().values()): v.copy_(w)
    torch.testing.assert_close(at(fast, 4, .1*X), at(m, 4, .1*X))
    assert equal({k.removeprefix('_orig_mod.'): v for k, v in fast.state_dict().items()}, m.state_dict())


# layers with something on them

COMPUTED = {'weight_norm': (parametrizations.weight_norm, 'remove_parametrizations'),
            'spectral_norm': (parametrizations.spectral_norm, 'remove_parametrizations'),
            'orthogonal': (parametrizations.orthogonal, 'remove_parametrizations'),
            'old weight_norm': (nn.utils.weight_norm, 'remove_weight_norm'), 'old spectral_norm': (nn.utils.spectral_norm, 'remove_spectral_norm'),
            'mask': (lambda m: prune.l1_unstructured(m, 'weight', .5), 'prune.remove'),
            'mask of the bias': (lambda m: prune.l1_unstructured(m, 'bias', .5), 'prune.remove')}

@pytest.mark.parametrize('kind', COMPUTED)
def test_computed_weights(kind):
    "The layer is named with the way out; skipped it computes what it did. GPTQModel #308, pytorch #37322"
    change, way = COMPUTED[kind]
    plain = net(); change(plain[3]); plain.train()(X); plain.eval()
    with pytest.raises(ValueError, match=way) as e: to_multibit(plain, (32, 4))
    assert "layer '3'" in str(e.value)
    m = to_multibit(plain, (32, 4), skip='3')
    assert torch.equal(at(m, 32), plain(X).detach()) and quant_table(m).loc['6', '4 bits'] == 8
    with pytest.raises(ValueError, match="layer '1'"):
        odd = net(); prune.random_unstructured(odd[1], 'weight', .5); to_multibit(odd, (32, 4))

def test_hooks_stay():
    "Forward and backward hooks of layers and norms run as before, in training too, and survive keep_bits. pytorch #37151"
    plain, seen = net(), []
    plain[3].register_forward_hook(lambda m, i, o: o*2)
    plain[1].register_forward_pre_hook(lambda m, args, kwargs: seen.append('pre'), with_kwargs=True)
    plain[1].register_full_backward_hook(lambda m, i, o: seen.append('back'))
    plain[6].register_forward_hook(lambda m, i, o: seen.append('last'), always_call=True)
    m = to_multibit(plain, (32, 4))
    assert torch.equal(at(m, 32), plain(X).detach())
    for one in (m, keep_bits(m, 32), keep_bits(m, 4)):
        seen.clear(); one.train()(X.clone().requires_grad_()).sum().backward()
        assert seen == ['pre', 'last', 'back']

def test_attributes_and_buffers_stay():
    "What a user put on a layer is there after the conversion and after keep_bits. pytorch #37151"
    class Tagged(nn.Conv2d):
        def __init__(self, *args, **kwargs): super().__init__(*args, **kwargs); self.register_buffer('tag', torch.ones(1))
    plain = net(layer=Tagged); plain[3].lr_mult = 3; plain[3].weight.requires_grad_(False)
    m = to_multibit(plain, (32, 4))
    for layer in (m[3], keep_bits(m, 4)[3], keep_bits(m, 32)[3]):
        assert layer.lr_mult == 3 and torch.equal(layer.tag, torch.ones(1)) and not layer.weight.requires_grad

def test_forward_of_the_instance():
    "A forward that a tool put on the instance would be lost, or be that of the original: refused by name."
    plain = net(); own = plain[3].forward; plain[3].forward = lambda x: 2*own(x)
    with pytest.raises(ValueError, match="layer '3'.*forward of its own"): to_multibit(plain, (32, 4))

def test_weights_that_are_not_there():
    "Lazy layers and the meta device are named, not torch's internals. executorch #8487, stable-pretraining #189"
    for lazy in (nn.Sequential(nn.LazyConv2d(4, 3)), net(nn.LazyBatchNorm2d())):
        with pytest.raises(ValueError, match='is lazy and has no weights yet'): to_multibit(lazy, (32, 4))
    with torch.device('meta'): plain = net()
    with pytest.raises(ValueError, match="layer '0'.*meta device"): to_multibit(plain, (32, 4))
    plain = net(); plain[3].weight.data[0] = float('nan')
    with pytest.raises(ValueError, match="layer '3'.*NaN"): to_multibit(plain, (32, 4))
    with pytest.raises(ValueError, match='complex64'): to_multibit(nn.Conv2d(3, 4, 3, dtype=torch.complex64), (32, 4))

def test_quantized_already():
    "A network that torch has quantized, or prepared for it, is refused; floating stubs are not. transformers #27500"
    aq = torch.ao.quantization
    dynamic = aq.quantize_dynamic(net(), {nn.Linear})
    prepared = net().train(); prepared.qconfig = aq.get_default_qat_qconfig(); aq.prepare_qat(prepared, inplace=True)
    for m in (dynamic, prepared):
        with pytest.raises(ValueError, match='torch.ao'): to_multibit(m, (32, 4))
    assert to_multibit(nn.Sequential(aq.QuantStub(), net()), (32, 4)) is not None
    with pytest.raises(ValueError, match='already'): to_multibit(to_multibit(net(), (32, 4)), (32, 4))
    with pytest.raises(ValueError, match='TorchScript'): to_multibit(torch.jit.script(net()), (32, 4))


# what stays in float

def warned(f):
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        out = f()
    return out, [str(w.message) for w in told if 'stay in float' in str(w.message)]

def test_mostly_float():
    "Attention that stays fused, or layers with a forward of their own: the share and the kinds are said. pytorch #109612, pytorch #118165"
    class Own(nn.Conv2d):
        def forward(self, x): return self._conv_forward(x, self.weight - self.weight.mean(), self.bias)
    own = net(layer=Own)
    encoder = nn.Sequential(nn.Flatten(2), nn.Linear(144, 8), nn.TransformerEncoderLayer(8, 2, 256, batch_first=True), nn.Flatten(), nn.Linear(24, 4))
    for plain, kind, skip in ((own, 'Own', ['0', '3']), (encoder, 'Linear', '2')):
        (m, told) = warned(lambda: to_multibit(plain, (32, 4), first_last=4))
        left = quant_table(m).query('`4 bits` == 32 and not note.str.startswith("norm")').weights.sum()
        share = left/(left + quant_table(m).query('`4 bits` == 4').weights.sum())
        if share > .25: assert len(told) == 1 and kind in told[0] and f'{share:.0%}' in told[0]
        else: assert not told
        assert not warned(lambda: to_multibit(plain, (32, 4), skip=skip))[1], 'skipped on purpose'
    assert warned(lambda: to_multibit(encoder, (32, 4)))[1] and not warned(lambda: to_multibit(toy_net(), (32, 4)))[1]


# wrapped, compiled, in other number formats

def test_compiled_networks_everywhere():
    "Every function takes a compiled network, as a whole or in parts, for what it is. timm #1566, pytorch #158519"
    plain = net()
    parts = copy.deepcopy(plain); parts[3] = torch.compile(parts[3], backend='eager'); parts[6] = torch.compile(parts[6], backend='eager')
    want = to_multibit(plain, (32, 4))
    for given in (torch.compile(plain, backend='eager'), parts, nn.DataParallel(plain), AveragedModel(plain)):
        m = to_multibit(given, (32, 4))
        assert m.state_dict().keys() == want.state_dict().keys() and isinstance(m[3], QConv2d) and isinstance(m[6], QLinear)
    fast = torch.compile(want, backend='eager')
    assert calibrate(fast, [X]) is fast and list(quant_table(fast).index) == list(quant_table(want).index)
    assert quant_summary(fast, X[:1]).equals(quant_summary(want, X[:1]))
    assert torch.equal(at(keep_bits(fast, 4), 4), at(want, 4))

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float64])
def test_calibration_in_another_number_format(dtype):
    "A loader gives float32; the network is calibrated in its own format."
    m = calibrate(to_multibit(net().to(dtype), (32, 4)), [(X, None)])
    assert at(m, 4, X.to(dtype)).isfinite().all() and m[0].weight.dtype == dtype

def test_numbers_of_numpy():
    "Bit-widths and counts may be NumPy's; nonsense is refused before the work."
    m = calibrate(to_multibit(net(), np.array([32, 4])), [X], n_batches=np.int64(1), bits=np.array([4]))
    assert bits_of(m) == (32, 4) and bits_of(keep_bits(m, np.int64(4))) == (4,)
    for bad in (dict(method='mean'), dict(bits=()), dict(n_batches=0)):
        with pytest.raises(ValueError): calibrate(m, [X], **bad)

def test_several_networks_in_one():
    "Functions that look at the whole network name the problem; a teacher inside counts. foolbox #290, advertorch #88"
    both = nn.ModuleList([to_multibit(net(), (32, 4)), to_multibit(net(), (32, 4))])
    student = to_multibit(net(), (32, 4)); student.teacher = to_multibit(net(), (32, 4))
    for m in (both, student):
        for f in (lambda: calibrate(m, [X]), lambda: keep_bits(m, 4), lambda: quant_table(m), lambda: quant_summary(m)):
            with pytest.raises(ValueError, match='holds 2 multi-bit networks'): f()
    inside = nn.Sequential(to_multibit(net(), (32, 4)))
    assert bits_of(keep_bits(inside, 4)[0]) == (4,) and bits_of(keep_bits(inside, 32)[0]) == (32,)


# files

def small(**kwargs):
    x = torch.rand(4, len(kwargs.get('mean', 'rgb')), 32, 32)
    return calibrate(to_multibit(build_model('resnet8', 4, **kwargs), (32, 4)), [x])

@pytest.mark.parametrize('kind', ['one channel', 'wider', 'other arch', 'other classes', 'another module', 'another stride', 'a layer more'])
def test_file_that_would_not_load(kind, tmp_path):
    "Refused while the network is still there, and nothing is written. pytorch #94575"
    m, arch, n = small(), 'resnet8', 4
    if kind == 'one channel': m = small(mean=(.5,), std=(.5,))
    if kind == 'wider': m = small(width=24)
    if kind == 'other arch': arch = 'resnet14'
    if kind == 'other classes': n = 10
    if kind == 'another module': m.layer1[0].more = nn.Sigmoid(); m.layer2[0] = nn.Sequential(m.layer2[0])
    if kind == 'another stride': m.layer2[0].conv1.stride = (1, 1)
    if kind == 'a layer more': m.more = nn.Linear(2, 2)
    with pytest.raises(ValueError, match='would not load'): save_checkpoint(m, tmp_path/'a.safetensors', arch, n)
    assert not list(tmp_path.iterdir())

def test_wrapped_network_in_a_file(tmp_path):
    "Compiled, parallel or averaged: the file is that of the network, and fills a wrapped one. timm #2003, timm #1566"
    m, x = small().eval(), torch.rand(4, 3, 32, 32)
    for wrap in (lambda m: torch.compile(m, backend='eager'), nn.DataParallel, AveragedModel):
        path = save_checkpoint(wrap(m), tmp_path/'a.safetensors', 'resnet8', 4)
        assert torch.equal(at(load_checkpoint(path), 4, x), at(m, 4, x))
        filled = wrap(to_multibit(build_model('resnet8', 4), (32, 4)))
        assert load_weights(filled, path) is filled
        save_file({f'_orig_mod.module.{k}': v for k, v in m.state_dict().items()}, tmp_path/'b.safetensors')
        load_weights(to_multibit(build_model('resnet8', 4), (32, 4)), tmp_path/'b.safetensors')
    plain = build_model('resnet8', 4)
    torch.save({'state_dict': {f'module._orig_mod.{k}': v for k, v in plain.state_dict().items()}}, tmp_path/'c.pt')
    assert equal(fill(build_model('resnet8', 4), read_state(tmp_path/'c.pt')).state_dict(), plain.state_dict())
    with pytest.raises(ValueError, match='weights_only=True'): load_weights(plain, tmp_path/'c.pt')

def test_home_folder_and_formats(tmp_path, monkeypatch):
    "`~` is the home folder; a network comes back in the format in which it was saved, one width alone too. pytorch #94575"
    monkeypatch.setenv('HOME', str(tmp_path)); monkeypatch.setenv('USERPROFILE', str(tmp_path))
    m, x = small().eval(), torch.rand(4, 3, 32, 32)
    for one, b in ((keep_bits(m, 4), 4), (copy.deepcopy(m).double(), 4), (copy.deepcopy(m).bfloat16(), 32)):
        save_checkpoint(one, '~/net.safetensors', 'resnet8', np.int64(4), meta=dict(accuracy=np.float32(.5)))
        back, dtype = load_checkpoint('~/net.safetensors'), one.conv1.weight.dtype
        assert bits_of(back) == bits_of(one) and torch.equal(at(back, b, x.to(dtype)), at(one, b, x.to(dtype)))
    assert [p.name for p in tmp_path.iterdir()] == ['net.safetensors']
    for bad in (4., True, '4'):
        with pytest.raises(TypeError, match='n_classes'): save_checkpoint(m, tmp_path/'b.safetensors', 'resnet8', bad)
    with pytest.raises(TypeError, match='JSON'): save_checkpoint(m, tmp_path/'b.safetensors', 'resnet8', 4, dict(x=x))
    with pytest.raises(ValueError, match='folder'): save_checkpoint(m, tmp_path, 'resnet8', 4)

def test_weights_of_another_conversion(tmp_path):
    "Names that agree are not enough: other widths of the first layer would change the numbers in silence. transformers #27500"
    path = save_checkpoint(small(), tmp_path/'a.safetensors', 'resnet8', 4)
    other = to_multibit(build_model('resnet8', 4), (32, 4), first_last=4)
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(ValueError, match='first_last=8, this one with 4'): load_weights(other, path)
    assert equal(other.state_dict(), before)

def test_saving_leaves_chance_alone(tmp_path):
    "Saving between two epochs draws no random numbers of the run. pytorch #94575"
    m, rng = small(), torch.get_rng_state()
    save_checkpoint(m, tmp_path/'a.safetensors', 'resnet8', 4)
    assert torch.equal(rng, torch.get_rng_state())
