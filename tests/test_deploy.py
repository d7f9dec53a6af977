"One bit-width as a file of integers: the same network for any architecture, refused when damaged, caught when wrong."
import copy, json, sys

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from hypothesis import HealthCheck, example, given, settings, strategies as st
from safetensors.torch import load_file, save_file
from torch import nn

onnx = pytest.importorskip('onnx', reason='triqdef[onnx] is not installed')
for name in ('onnxscript', 'onnxruntime'): pytest.importorskip(name, reason='triqdef[onnx] is not installed')

import traces
import triqdef.deploy.onnx as deploy
from triqdef.core import fixed_seed, versions
from triqdef.data import sample_tensors
from triqdef.deploy.extract import integer_table, single_bit
from triqdef.deploy.onnx import OnnxNet, export_onnx, read_onnx, seal
from triqdef.deploy.parity import ParityError, check_parity
from triqdef.deploy.speed import kernels
from triqdef.models import build_model
from triqdef.quant.checkpoint import pretrained
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.toys import toy_images, toy_net

FORMS = ('integer', 'fused', 'qdq')

@pytest.fixture(scope='module', autouse=True)
def traced_once():
    with pytest.MonkeyPatch.context() as m:
        traces.once(m.setattr)
        yield


def images(n=8, size=16, seed=0, colours=3):
    "Images whose neighbouring pixels are alike."
    x = torch.rand(n, colours, size, size, generator=torch.Generator().manual_seed(seed))
    return F.avg_pool2d(x, 3, 1, 1).clamp(0, 1)

def at(net, bits, x):
    with torch.no_grad(), at_bits(net, bits): return net(x)

def ties(p, within):
    "Images whose two highest logits are closer than `within`."
    return {i for i, z in enumerate(p.logits) if z.topk(2).values.diff().abs() <= within}


# any network

ACTS = dict(relu=nn.ReLU, relu6=nn.ReLU6, hardtanh=lambda: nn.Hardtanh(-.7, 1.3), silu=nn.SiLU, none=nn.Identity)

def random_norm(c):
    "A BatchNorm as training might leave it: factors of both signs and zeros."
    bn = nn.BatchNorm2d(c)
    with torch.no_grad():
        bn.weight.copy_(torch.randn(c)); bn.weight[torch.rand(c) < .15] = 0
        bn.bias.copy_(torch.randn(c)/2); bn.running_mean.copy_(torch.randn(c)/2)
        bn.running_var.copy_(torch.rand(c)*2 + .05)
    return bn

class Block(nn.Module):
    "A convolution with what may come after it, and a way to join it with its input."
    def __init__(self, c, spec):
        super().__init__()
        k, d, join, pad = (spec[name] for name in ('kernel', 'dilation', 'join', 'pad'))
        groups, same = dict(one=1, two=2, depthwise=c)[spec['groups']], join not in ('plain', 'fan')
        width = c if join in ('residual', 'twice') else c*spec['width'] if groups > 2 else spec['width']*groups
        ring, stride = spec['ring'], (1 + spec['stride'], 1)
        if pad == 'same' and not spec['stride']: ring = 'same'
        if same: ring, stride = tuple(d*(n - 1)//2 for n in k), 1
        self.conv = nn.Conv2d(c, width, k, stride, ring, d, groups, spec['bias'], 'zeros' if pad == 'same' else pad)
        self.norm = random_norm(width) if spec['norm'] else nn.Identity()
        self.act, self.join, self.out = ACTS[spec['act']](), join, c + width if join == 'concat' else width
        self.twins = nn.ModuleList([nn.Conv2d(width, width, 1), nn.Conv2d(width, width, 3, 1, 1)]) if join == 'fan' else []
        self.pool = dict(max=nn.MaxPool2d(2, 1), avg=nn.AvgPool2d(3, 2, 1), none=nn.Identity())[spec['pool']]

    def once(self, x, add=None):
        y = self.norm(self.conv(x))
        return self.act(y if add is None else y + add)

    def forward(self, x):
        y = self.once(x, x if self.join == 'residual' else None)
        if self.join == 'twice': y = self.once(y)
        if self.join == 'fan': y = sum(t(y) for t in self.twins)       # one quantizer, two readers
        return self.pool(torch.cat([x, y], 1) if self.join == 'concat' else y)

def one_of(*values): return st.sampled_from(values)

BLOCK = st.fixed_dictionaries(dict(
    kernel=one_of((1, 1), (3, 3), (3, 1), (1, 5)), groups=one_of('one', 'one', 'two', 'depthwise'),
    width=st.integers(1, 4), join=one_of('plain', 'plain', 'residual', 'concat', 'twice', 'fan'), dilation=st.integers(1, 2),
    stride=st.integers(0, 1), ring=st.integers(0, 2), pad=one_of('zeros', 'zeros', 'same', 'reflect', 'circular'),
    bias=st.booleans(), norm=st.booleans(), act=one_of(*ACTS), pool=one_of('none', 'none', 'max', 'avg')))
QUANT = st.fixed_dictionaries(dict(weight=one_of('lsq', 'lsq', 'dorefa', 'minmax'), per_channel=st.booleans(),
                                   act=one_of('lsq', 'lsq', 'dorefa', 'pact', 'minmax')))
CASE = dict(specs=st.lists(BLOCK, min_size=1, max_size=3), quant=QUANT, bits=one_of(8, 5, 4, 2),
            same_ends=st.booleans(), head=st.integers(1, 2), seed=st.integers(0, 99), form=one_of(*FORMS),
            cpu=one_of('any', 'vnni'), colours=one_of(3, 3, 1), wrapped=st.booleans())

def random_net(specs, head, seed, size=14, colours=3):
    "The network of these blocks, as far as its maps stay large enough, with a head of one or two linear layers."
    with fixed_seed(seed):
        net, c, x = nn.Sequential(nn.Conv2d(colours, 4, 3, 1, 1), nn.ReLU()), 4, images(2, size, 0, colours)
        for s in specs:
            if s['groups'] == 'two' and c % 2: s = dict(s, groups='one')
            b = Block(c, s).eval()
            try: fits = min(b(net(x)).shape[2:]) >= 3
            except RuntimeError: fits = False       # a padding wider than the map
            if not fits: continue
            net.append(b); c = b.out
        net.extend([nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(4*c, 6)])
        if head == 2: net.extend([nn.ReLU(), nn.Linear(6, 5, bias=False)])
    return net.eval()

# one channel into a group and several out of it: the runtime has no depthwise kernel for that, with one group or with many
PLAIN = dict(kernel=(1, 1), groups='one', width=2, join='plain', dilation=1, stride=0, ring=0, pad='zeros', bias=False, norm=False, act='silu', pool='none')
MANY = dict(PLAIN, kernel=(3, 3), groups='depthwise', width=3, ring=1, act='relu')
ONE_INTO_MANY = dict(quant=dict(weight='lsq', per_channel=True, act='lsq'), bits=8, same_ends=True, head=1, cpu='any', wrapped=False)

@given(**CASE)
@example(specs=[PLAIN], form='fused', colours=1, seed=50, **ONE_INTO_MANY)
@example(specs=[MANY, PLAIN], form='qdq', colours=3, seed=3, **ONE_INTO_MANY)
@settings(deadline=None, derandomize=True, max_examples=8, suppress_health_check=list(HealthCheck))
def test_any_network(tmp_path_factory, **case): check_any(tmp_path_factory.mktemp('any')/'net.onnx', **case)

def check_any(path, specs, quant, bits, same_ends, head, seed, form, cpu, colours, wrapped):
    "A network of any make is in its file what it is in torch, for any number of images."
    plain = random_net(specs, head, seed, 14, colours)
    net = to_multibit(plain, (32, bits), first_last=bits if same_ends else 8, **quant)
    calibrate(net, [images(16, 14, seed, colours)])
    if wrapped: net = nn.Sequential(nn.Identity(), net).eval()
    x = images(32, 14, seed + 1, colours)
    if form == 'qdq' and quant['weight'] != 'lsq': form = 'integer'
    export_onnx(net, path, bits, x, form, cpu='any' if deploy.saturates_here() else cpu)
    onnx.checker.check_model(str(path), full_check=True)
    p = check_parity(net, path, bits, x)
    inside = {n for n, _ in single_bit(net, bits).named_modules() if n}
    assert p.ok and p.rows and {r.name for r in p.rows} <= inside, p
    assert p.slack == 0 if form != 'fused' else p.slack <= .01
    explained = set(p.moved.nonzero()[:, 0].tolist()) | ties(p, 1e-4)      # by a level on its boundary, or a tie
    assert form == 'qdq' or set(p.differ.tolist()) <= explained
    file, whole = OnnxNet(path, 1), p.theirs
    for n in (1, 3, 7): torch.testing.assert_close(file(x[:n]), whole[:n], rtol=1e-4, atol=1e-4)


class Two(nn.Module):
    "A convolution that two others read, which are alike or one and the same."
    def __init__(self, same, side=1):
        super().__init__()
        self.first, self.a, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, side), nn.Linear(4, 3)
        self.b = self.a if same == 'one' else copy.deepcopy(self.a) if same == 'alike' else nn.Conv2d(4, 4, side)

    def forward(self, x):
        x = self.first(x).relu()
        return self.fc((self.a(x) + self.b(x)).mean((2, 3)))

def test_depthwise_without_bias(tmp_path):
    "ONNX has no zeros for it; fused as well as not."
    x = images(32)
    with fixed_seed(0):
        plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3, groups=4, bias=False), nn.Conv2d(4, 4, 1), nn.Flatten(),
                              nn.Linear(576, 3))
    net = calibrate(to_multibit(plain.eval(), (32, 4)), [x])
    for form in FORMS: check_parity(net, export_onnx(net, tmp_path/'net.onnx', 4, x, form), 4, x)

class Named(nn.Module):
    "A layer that is called twice, and one that has the name which the second call would get."
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 3, 3, padding=1), nn.Linear(3, 3)
        self.add_module('conv#2', nn.Conv2d(3, 3, 1))

    def forward(self, x): return self.fc(getattr(self, 'conv#2')(self.conv(self.conv(x))).mean((2, 3)))

def test_names_that_collide(tmp_path):
    x = images(8)
    with fixed_seed(0): net = calibrate(to_multibit(Named().eval(), (32, 4)), [x])
    p = check_parity(net, export_onnx(net, tmp_path/'net.onnx', 4, x), 4, x)
    assert [r.name for r in p.rows] == ['conv', 'conv', 'conv#2', 'fc']

@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('same', ['one', 'alike', 'other'])
def test_layers_that_share(same, form, tmp_path):
    "One quantizer with two readers, equal weights, one module under two names: each layer is known by its own name."
    x = images(32)
    with fixed_seed(0): net = calibrate(to_multibit(Two(same).eval(), (32, 8, 2)), [x])
    bits = 2 if same == 'one' else 8
    p = check_parity(net, export_onnx(net, tmp_path/'net.onnx', bits, x, form), bits, x)
    assert sorted(r.name for r in p.rows) == sorted(['first', 'fc', 'a', 'a' if same == 'one' else 'b'])
    told = {l['name']: l['slack'] for l in read_onnx(tmp_path/'net.onnx')['layers']}
    if form == 'fused' and same == 'other': assert told['a'] == told['b'] > 0

# known architectures

def resnet18(): return tv.ResNet(tv.resnet.BasicBlock, [1, 1, 1, 1], num_classes=10)

def mobilenet_v2(): return tv.MobileNetV2(10, inverted_residual_setting=[[1, 8, 1, 2], [6, 8, 1, 1]])

def vit():
    net = tv.VisionTransformer(32, 8, 1, 2, 32, 64, num_classes=10)
    nn.init.normal_(net.heads.head.weight, std=.3)     # torchvision starts it at zero
    return net

ZOO = dict(resnet8=lambda: build_model('resnet8', 10), resnet18=resnet18, mobilenet_v2=mobilenet_v2, vit=vit)
# bit-width → form of the file; the smallest network at all of them
BITS = dict(resnet8={8: 'fused', 5: 'integer', 4: 'fused', 2: 'integer'}, resnet18={8: 'integer', 4: 'fused'},
            mobilenet_v2={8: 'fused', 4: 'integer'}, vit={8: 'fused', 4: 'nbits', 2: 'nbits'})

def photos(n=32): return sample_tensors()['x_test'][:n].float()/255

@pytest.mark.parametrize('name', ZOO)
def test_architectures(name, tmp_path):
    "The file is the network at each bit-width, and takes less room the fewer bits there are."
    with fixed_seed(0): plain = ZOO[name]().eval()
    x, sizes = photos(), {}
    net = calibrate(to_multibit(plain, (32, *BITS[name])), [x])
    for bits, form in BITS[name].items():
        path = export_onnx(net, tmp_path/f'{bits}.onnx', bits, x, form)
        p = check_parity(net, path, bits, x, hair=.01)     # untrained: some channels hardly vary
        assert set(p.differ.tolist()) <= set(p.moved.nonzero()[:, 0].tolist()), p
        layers, table = read_onnx(path)['layers'], integer_table(single_bit(net, bits))
        assert [l['name'] for l in layers] == list(table.index), 'a layer is not in the file'
        kinds = {l['container'] for l in layers[1:-1]}
        assert kinds <= ({'int4', 'uint4'} if bits < 5 else {'int8', 'uint8'}) and layers[0]['container'][-1] == '8'
        sizes[bits] = path.stat().st_size
    assert sizes[4] < sizes[8] and sizes[4] <= sizes.get(5, sizes[8])


# one trained network, in all forms

@pytest.fixture(scope='module')
def qat(): return pretrained('cifar10-resnet20-qat').eval()

@pytest.fixture(scope='module')
def files(qat, tmp_path_factory):
    "The trained ResNet-20 at 4 bits in the three forms, with class names of its checkpoint."
    d = tmp_path_factory.mktemp('files')
    return {form: export_onnx(qat, d/f'{form}.onnx', 4, photos(1), form) for form in FORMS}

def parts(model, layer):
    "Names of weight, step and bias of a layer in a file of any form, and its unit where the bias is a whole number."
    names, made = {i.name for i in model.graph.initializer}, {i: n for n in model.graph.node for i in n.input}
    out = dict(weight=f'{layer}.weight', step=f'{layer}.step')
    whole = next((n for n in (f'{layer}.bias32', f'{layer}.bias') if n in names), None)
    if whole: return dict(out, bias=whole, unit=f'{layer}.fb' if whole.endswith('32') else f'{layer}.scale')
    at = made.get(f'{layer}.weight.8') or made[f'{layer}.weight']
    bias = made[made[at.output[0]].output[0]].input[1]
    while bias not in names: bias = next(n for n in model.graph.node if bias in n.output).input[0]
    return dict(out, bias=bias)

def edited(path, to, layer, **changes):
    "A copy of a file with a function applied to the weight, step or bias of a layer."
    model = onnx.load(path)
    inits, where = {i.name: i for i in model.graph.initializer}, parts(model, layer)
    unit = onnx.numpy_helper.to_array(inits[where['unit']]) if 'unit' in where else None
    for what, f in changes.items():
        t = inits[where[what]]
        v = onnx.numpy_helper.to_array(t)
        floats = v.dtype.kind == 'f'
        whole_bias = what == 'bias' and not floats
        new = np.rint(f(v*unit.astype(np.float64))/unit) if whole_bias else f(v.astype(np.float64))
        new = new.reshape(v.shape).astype(v.dtype if floats else int)
        assert (new != v).any(), 'nothing changed'
        t.CopyFrom(onnx.helper.make_tensor(t.name, t.data_type, v.shape, new.flatten().tolist()))
    to.write_bytes(seal(model, read_onnx(path)))
    return to

def one_level(v):
    "The first weight of a layer on the neighbouring level."
    v = v.copy(); v.flat[0] += 1 if v.flat[0] < v.max() else -1
    return v

# a layer → the one that reads it
LAYERS = {'conv1': 'layer1.0.conv1', 'layer1.0.conv1': 'layer1.0.conv2', 'layer2.1.conv2': 'layer2.2.conv1',
          'layer3.2.conv1': 'layer3.2.conv2'}

@pytest.mark.parametrize('form', FORMS)
def test_a_wrong_file_is_caught(form, qat, files, tmp_path):
    "One weight by one level, the biases by a hundredth of a step, the step by a thousandth, in one layer: refused."
    x, bad = photos(16 if form == 'fused' else 4), tmp_path/'bad.onnx'      # whose rounded biases leave less to see
    check_parity(qat, files[form], 4, x)
    for layer, reader in [*LAYERS.items()][FORMS.index(form) % 2::2]:      # half of them in each form
        step = at_step(qat, reader)
        wrong = dict(weight=one_level, bias=lambda v: v + .01*step, step=lambda v: v*1.001)
        if form == 'qdq': wrong['bias'] = lambda v: v + np.maximum(coarse(files[form], layer), .01*step)
        for what, f in wrong.items():
            edited(files[form], bad, layer, **{what: f})
            p = check_parity(qat, bad, 4, x, strict=False)
            first = layer if what == 'step' else reader
            assert not p.ok and p.faults[0].startswith(f'{first}:'), (layer, what, p.faults)
    with pytest.raises(ParityError, match='bad.onnx is not this network at 4 bits'): check_parity(qat, bad, 4, x)

def at_step(net, layer): return net.get_submodule(layer).act_quant.grid(4)[0].item()

def coarse(path, layer):
    "One unit of the whole biases of a layer, the least by which they can be wrong."
    model = onnx.load(path)
    unit = next(i for i in model.graph.initializer if i.name == parts(model, layer)['unit'])
    return onnx.numpy_helper.to_array(unit).astype(np.float64)

@pytest.mark.parametrize('form', FORMS)
def test_a_wrong_last_layer_is_caught(form, qat, files, tmp_path):
    "No quantizer follows it: logits that are off by a few thousandths are enough."
    x, bad = photos(8), tmp_path/'bad.onnx'
    wrong = dict(weight=one_level, step=lambda v: v*1.001, bias=lambda v: v + .02*(np.arange(v.size) == 3))
    for what, f in wrong.items():
        edited(files[form], bad, 'fc', **{what: f})
        with pytest.raises(ParityError, match='fc|logits'): check_parity(qat, bad, 4, x)

@pytest.mark.parametrize('bits, form', [(4, 'integer'), (4, 'fused'), (32, 'integer')])
def test_not_a_number_is_caught(bits, form, qat, files, tmp_path):
    bad = tmp_path/'bad.onnx'
    path = files[form] if bits == 4 else export_onnx(qat, tmp_path/'net.onnx', bits, photos(1), form)
    model = onnx.load(path)
    bias = [i for i in model.graph.initializer if list(i.dims) == [10] and i.data_type == onnx.TensorProto.FLOAT][-1]
    bias.CopyFrom(onnx.helper.make_tensor(bias.name, bias.data_type, [10], [float('nan')]*10))
    bad.write_bytes(seal(model, read_onnx(path)))
    assert OnnxNet(bad)(photos(1)).isnan().all()
    with pytest.raises(ParityError, match='logits differ by inf'): check_parity(qat, bad, bits, photos(8))

def test_layers_that_a_file_does_not_tell_of(qat, files, tmp_path):
    "A description that leaves layers out does not get them past the comparison."
    bad, about = tmp_path/'bad.onnx', read_onnx(files['integer'])
    for layers in ([], about['layers'][1:], about['layers'][:-1]):
        bad.write_bytes(seal(onnx.load(files['integer']), about | dict(layers=layers)))
        with pytest.raises(ParityError): check_parity(qat, bad, 4, photos(8))

def test_another_epsilon_is_caught(net, tmp_path):
    "What no fingerprint of weights sees: the norms of the file were folded with another constant."
    x, twin = toy_images(16)[0], copy.deepcopy(net)
    for m in twin.modules():
        if isinstance(m, nn.BatchNorm2d): m.eps = 1e-3
    path = export_onnx(twin, tmp_path/'twin.onnx', 4, x)
    assert deploy.network_key(twin, 4) == deploy.network_key(net, 4)
    check_parity(twin, path, 4, x)
    with pytest.raises(ParityError): check_parity(net, path, 4, x)

@pytest.mark.parametrize('form', ['integer', 'fused'])
def test_integer_kernels(form, files):
    "What the runtime multiplies, it multiplies as integers."
    t = kernels(files[form], photos(1), runs=2)
    assert 'integer' in set(t.kind) and 'float' not in set(t.kind), t
    assert t[t.kind == 'integer'].nodes.sum() == len(read_onnx(files[form])['layers'])

def test_what_a_file_says(qat, files):
    for form, path in files.items():
        about = read_onnx(path)
        assert (about['bits'], about['form'], about['arch'], about['shape']) == (4, form, 'resnet20', [3, 32, 32])
        assert about['classes'] == 'airplane automobile bird cat deer dog frog horse ship truck'.split()
        assert {k: about['versions'][k] for k in ('triqdef', 'torch', 'onnx')} == {
            k: versions('cpu')[k] for k in ('triqdef', 'torch')} | dict(onnx=onnx.__version__)
        assert OnnxNet(path).classes == about['classes'] and repr(OnnxNet(path)).endswith(f'4 bits, {form})')
        assert str(path.parent) not in path.read_bytes().decode('latin-1'), 'a path of this machine is in the file'


# a small network

@pytest.fixture(scope='module')
def net(): return calibrate(to_multibit(toy_net(), (32, 8, 4)).eval(), [toy_images(32, seed=3)])

@pytest.fixture(scope='module')
def good(net, tmp_path_factory):
    return export_onnx(net, tmp_path_factory.mktemp('good')/'net.onnx', 4, toy_images(2)[0], classes=list('abcd'))

def test_written_twice_is_the_same(net, good, tmp_path, monkeypatch):
    traces.afresh(monkeypatch.setattr)
    again = export_onnx(copy.deepcopy(net), tmp_path/'again.onnx', 4, toy_images(5, seed=9)[0], classes=list('abcd'))
    assert again.read_bytes() == good.read_bytes()

def test_bytes_in(net, good, tmp_path):
    "A file for bytes gives the logits of the one for pixels, and containers of 8 bits those of 4."
    x = (toy_images(16)[0]*255).round()/255
    path = export_onnx(net, tmp_path/'u8.onnx', 4, x, pixels='uint8', small=False)
    file = OnnxNet(path)
    assert file.session.get_inputs()[0].type == 'tensor(uint8)' and file.inputs(x).dtype == np.uint8
    torch.testing.assert_close(file(x), OnnxNet(good)(x), rtol=1e-5, atol=1e-5)
    check_parity(net, path, 4, x)
    assert {l['container'] for l in read_onnx(path)['layers']} <= {'int8', 'uint8'}
    assert {l['container'] for l in read_onnx(good)['layers'][1:-1]} <= {'int4', 'uint4'}
    assert path.stat().st_size > good.stat().st_size

def test_full_precision(net, tmp_path):
    x = toy_images(16)[0]
    path = export_onnx(net, tmp_path/'fp.onnx', 32, x)
    torch.testing.assert_close(OnnxNet(path)(x), at(net, 32, x), rtol=1e-4, atol=1e-4)
    assert check_parity(net, path, 32, x).ok and read_onnx(path)['layers'] == [] and OnnxNet(path).classes is None

@pytest.mark.parametrize('weight', ['lsq', 'minmax'])
def test_state_of_the_integer_network(weight, tmp_path):
    "Through a safetensors file into the integer form of another network; refused at another bit-width."
    def made(seed):
        return calibrate(to_multibit(toy_net(seed=seed), (32, 8, 4), weight).eval(), [toy_images(32, seed=seed)])
    x = toy_images(16)[0]
    one, other, wide = single_bit(made(1), 4), single_bit(made(2), 4), single_bit(made(1), 8)
    save_file(one.state_dict(), tmp_path/'one.safetensors')
    save_file(wide.state_dict(), tmp_path/'wide.safetensors')
    with torch.no_grad():
        assert not torch.equal(one(x), other(x))
        other.load_state_dict(load_file(tmp_path/'one.safetensors'))
        assert torch.equal(one(x), other(x))
    assert {v.dtype for k, v in other.state_dict().items() if k.endswith('weight')} == {torch.int8}
    state = load_file(tmp_path/'wide.safetensors')
    with pytest.raises(ValueError, match='another bit-width'): other.load_state_dict(state)


class Names(nn.Module):
    "A network whose attributes have the names of ours."
    def __init__(self):
        super().__init__()
        self.conv, self.folded, self.width = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), 2.

    def forward(self, x): return self.width*self.folded(self.conv(x).mean((2, 3)))

def test_attributes_stay(tmp_path):
    x = images(8)
    net = calibrate(to_multibit(Names().eval(), (32, 4)), [x])
    one = single_bit(net, 4)
    assert one.width == 2. and one.extracted['bits'] == 4
    check_parity(net, export_onnx(net, tmp_path/'net.onnx', 4, x), 4, x)

def test_a_layer_alone():
    x = images(8)
    net = calibrate(to_multibit(nn.Conv2d(3, 4, 3), (32, 4)).eval(), [x])
    one = single_bit(net, 4)
    assert integer_table(one).width.tolist() == [8]        # the first layer is the last
    copy.deepcopy(one).load_state_dict(one.state_dict())
    torch.testing.assert_close(one(x), at(net, 4, x), rtol=1e-4, atol=1e-4)

def test_inside_a_wrapper(net, good):
    wrapped = nn.Sequential(net)
    one = single_bit(wrapped, 4)
    with pytest.raises(ValueError, match='multi-bit'): single_bit(one, 8)
    for outer in (nn.DataParallel(net), torch.compile(net)):
        assert type(single_bit(outer, 4)) is type(net) and deploy.network_key(outer, 4) == deploy.network_key(net, 4)
        assert single_bit(outer, 4).state_dict().keys() == single_bit(net, 4).state_dict().keys()
        assert check_parity(outer, good, 4, toy_images(4)[0]).ok

def test_what_cannot_be_extracted():
    "Hooks on quantized layers, which no integer layer has, and other floats than float32; hooks on norms stay."
    x = images(8)
    with fixed_seed(0): plain = nn.Sequential(nn.Conv2d(3, 4, 3), random_norm(4), nn.Flatten(), nn.Linear(784, 3)).eval()
    for at in (0, 3):
        net = calibrate(to_multibit(plain, (32, 4)).eval(), [x])
        net[at].register_forward_hook(double)
        with pytest.raises(ValueError, match=f'{at} carries forward hooks'): single_bit(net, 4)
    for bits in (32, 4):
        net = calibrate(to_multibit(plain, (32, 4)).eval(), [x])
        before = single_bit(net, bits)(x)
        net[1].register_forward_hook(double)
        after = single_bit(net, bits)(x)
        with at_bits(net, bits): assert torch.allclose(after, net(x), atol=1e-5) and not torch.allclose(after, before, atol=.01)
    net = calibrate(to_multibit(plain, (32, 4)).eval(), [x])
    with pytest.raises(ValueError, match='float16.*float()'): single_bit(copy.deepcopy(net).half(), 4)

class Doubled(nn.BatchNorm2d):
    def forward(self, x): return 2*super().forward(x)

class Tied(nn.Module):
    "A convolution whose bias the network reads itself."
    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), random_norm(4)

    def forward(self, x): return self.bn(self.conv(x)) + self.conv.bias.sum()

def hooked():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), random_norm(4))
    net[1].register_forward_hook(double)
    return net

def double(m, args, out): return 2*out

ODD_NORMS = dict(doubled=lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Doubled(4)), tied=Tied, hooked=hooked,
                 alone=lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False)))

@pytest.mark.parametrize('kind', ODD_NORMS)
def test_norms_that_are_more_than_norms(kind):
    "They are kept: the function is the same at every bit-width."
    x = images(8)
    with fixed_seed(0): net = ODD_NORMS[kind]().eval()
    net = calibrate(to_multibit(net, (32, 8), skip=('bn',) if kind == 'tied' else ()).eval(), [x])
    for bits in (32, 8):
        one = single_bit(net, bits)
        assert bits == 8 and kind == 'tied' or one.extracted['folded'] == []
        torch.testing.assert_close(one(x), at(net, bits, x), rtol=1e-4, atol=1e-3)

class Auxiliary(nn.Module):
    "A head that is used in training only."
    def __init__(self):
        super().__init__()
        self.conv, self.fc, self.aux = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.fc(x) + self.aux(x) if self.training else self.fc(x)

def test_what_export_allows(net, tmp_path):
    "Float first and last layers, NumPy's integers, half precision, layers that only training reaches."
    x = images(8)
    ends = calibrate(to_multibit(random_net([], 2, 0), (32, 4), first_last=32).eval(), [images(32, 14)])
    p = check_parity(ends, export_onnx(ends, tmp_path/'ends.onnx', np.int64(4), images(2, 14).half()), 4, images(8, 14))
    assert len(p.rows) == 1 and OnnxNet(tmp_path/'ends.onnx').session.get_inputs()[0].type == 'tensor(float)'
    aux = calibrate(to_multibit(Auxiliary().eval(), (32, 4)), [x])
    for form in FORMS:
        p = check_parity(aux, export_onnx(aux, tmp_path/'aux.onnx', 4, x, form), 4, x)
        assert [r.name for r in p.rows] == ['conv', 'fc'] and p.level > 0
    with pytest.raises(ValueError, match='multi-bit'): single_bit(single_bit(aux, 4), 4)

def test_what_is_the_same_network(net, good):
    "Autocast is off inside, and how many batches a norm has seen is not the network."
    x, other = toy_images(16)[0], copy.deepcopy(net)
    for m in other.modules():
        if isinstance(m, nn.BatchNorm2d): m.num_batches_tracked += 1
    with torch.autocast('cpu', torch.bfloat16): assert check_parity(other, good, 4, x).ok

def test_names_and_ends_of_a_file(net, good, tmp_path, monkeypatch):
    "What other tools see: pixels in, logits out, any batch; and bytes do not wrap around."
    inp, out = onnx.load(good).graph.input[0], onnx.load(good).graph.output[0]
    dims = [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in (inp, out)]
    assert (inp.name, out.name, dims) == ('pixels', 'logits', [['batch', 3, 16, 16], ['batch', 4]])
    file = OnnxNet(export_onnx(net, tmp_path/'u8.onnx', 4, toy_images(2)[0], pixels='uint8'))
    monkeypatch.setattr('triqdef.pixels._warned', set())
    with pytest.warns(UserWarning): got = file.inputs(torch.tensor([-.1, 1.2, .5]).reshape(3, 1, 1, 1).expand(3, 3, 16, 16))
    assert got[:, 0, 0, 0].tolist() == [0, 255, 128]

def test_only_files_that_saturate_ask_for_vnni(net, tmp_path, monkeypatch):
    monkeypatch.setattr(deploy, 'saturates_here', lambda: True)
    x = toy_images(2)[0]
    OnnxNet(export_onnx(net, tmp_path/'fp.onnx', 32, x, cpu='vnni'))
    OnnxNet(export_onnx(net, tmp_path/'any.onnx', 8, x))
    with pytest.raises(ValueError, match="export it with cpu='any'"): OnnxNet(export_onnx(net, tmp_path/'8.onnx', 8, x, cpu='vnni'))


# what users get wrong

def test_arguments_of_the_comparison(net, good):
    x, y = toy_images(8)
    assert check_parity(net, good, 4, x, y.tolist()).rest['accuracy, file'] <= 1
    for more, say in ((dict(x=None), 'give x'), (dict(y=y[:3]), 'shape .8,., got .3,.'), (dict(y=y[:, None]), 'got .8, 1.'), (dict(y=y, patched=x[:3]), 'patched'),
                      (dict(patched=x), 'needs the classes'), (dict(hair=float('nan')), 'hair'), (dict(hair=1e9), 'hair')):
        with pytest.raises(ValueError, match=say): check_parity(net, good, 4, **(dict(x=x) | more))
    wrong = (OnnxNet(good)(x).argmax(1) + 1) % 4
    assert check_parity(net, good, 4, x, wrong, x).rest["file inside torch's interval"].startswith('no image')

def test_classes_that_do_not_fit(net, tmp_path):
    x, path = toy_images(2)[0], tmp_path/'no.onnx'
    with pytest.raises(ValueError, match='names of 4 classes, got 2'): export_onnx(net, path, 4, x, classes=['a', 'b'])
    assert not path.exists()
    export_onnx(net, path, 4, x, classes=np.array(list('abcd')))
    assert OnnxNet(path).classes == list('abcd')

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x): return self.conv(x).mean((2, 3)), x

def test_networks_that_give_something_else(tmp_path):
    x = images(4)
    pair, maps = (calibrate(to_multibit(m.eval(), (32, 4)), [x]) for m in (Pair(), nn.Conv2d(3, 4, 3)))
    with pytest.raises(ValueError, match='logits .B,K., got tuple'): export_onnx(pair, tmp_path/'no.onnx', 4, x)
    with pytest.raises(ValueError, match='logits .B,K., got .2, 4, 14, 14.'): export_onnx(maps, tmp_path/'no.onnx', 4, x)
    assert not any(tmp_path.iterdir())

def test_images_that_the_network_does_not_take(tmp_path, capfd):
    net = calibrate(to_multibit(random_net([], 1, 0), (32, 4)), [images(8, 14)])
    net[3] = nn.Flatten()
    net[2] = nn.Identity()
    with pytest.raises(ValueError, match='does not run on images of shape'): export_onnx(net, tmp_path/'no.onnx', 4, images(2, 14))
    assert not any(tmp_path.iterdir()) and capfd.readouterr() == ('', '')


def test_truncated_at_any_length(good, tmp_path):
    "No beginning of a file passes for the whole."
    whole, path = good.read_bytes(), tmp_path/'cut.onnx'
    tail = whole.index(b'triqdef-onnx-1') - 40
    for n in (*range(0, tail, 97), *range(tail, len(whole), 13), len(whole) - 1):
        path.write_bytes(whole[:n])
        with pytest.raises(ValueError, match='cut.onnx'): OnnxNet(path)
    with pytest.raises(FileNotFoundError, match='absent'): OnnxNet(tmp_path/'absent.onnx')

def test_damaged_anywhere(net, good, tmp_path):
    "A byte that flipped is refused by its name, or found by the comparison, or changes nothing."
    whole, path, x = good.read_bytes(), tmp_path/'flip.onnx', toy_images(64)[0]
    want, g = OnnxNet(good)(x), np.random.default_rng(0)
    for n, bit in zip(g.integers(len(whole), size=250), g.integers(8, size=250)):
        damaged = bytearray(whole); damaged[n] ^= 1 << bit
        path.write_bytes(damaged)
        try: out = check_parity(net, path, 4, x).theirs
        except ValueError as e: assert len(str(e)) < 2000; continue
        assert torch.allclose(out, want, 1e-3, 1e-3), f'bit {bit} of byte {n} changes the network and nobody says so'

def test_other_files(net, good, tmp_path):
    "A file of something else, of another network, of another bit-width."
    other, x = tmp_path/'other.onnx', toy_images(8)[0]
    twin = calibrate(to_multibit(toy_net(seed=5), (32, 8, 4)).eval(), [toy_images(32, seed=3)])
    with pytest.raises(ValueError, match='another network'): check_parity(twin, good, 4, x)
    with pytest.raises(ValueError, match='at 4 bits, not at 8'): check_parity(net, good, 8, x)
    wide = calibrate(to_multibit(toy_net(), (32, 8)), [x])
    with pytest.raises(ValueError, match='one of'): check_parity(wide, good, None, x)
    model = onnx.load(good)
    while model.metadata_props: model.metadata_props.pop()
    onnx.save(model, other)
    with pytest.raises(ValueError, match='other.onnx was not written by export_onnx'): read_onnx(other)
    for junk in (b'', b'not a network', b'\x89PNG\r\n\x1a\n'*9, b'{}'):
        other.write_bytes(junk)
        with pytest.raises(ValueError, match='other.onnx'): read_onnx(other)
    with pytest.raises((ValueError, FileNotFoundError)): read_onnx(tmp_path)

LIES = dict(bits='four', layers=3, shape='x', format='triqdef-onnx-9', form='other', pixels=None, cpu=4)

@pytest.mark.parametrize('key', LIES)
def test_a_description_that_was_changed(key, net, good, tmp_path):
    model, path = onnx.load(good), tmp_path/'lie.onnx'
    for p in model.metadata_props:
        if p.key == 'triqdef': p.value = json.dumps(json.loads(p.value) | {key: LIES[key]})
    onnx.save(model, path)
    with pytest.raises(ValueError, match='lie.onnx'): check_parity(net, path, None, toy_images(4)[0])

def test_a_file_cannot_excuse_itself(qat, files, tmp_path):
    "A sealed file that claims that its biases may be off by steps is judged as any other."
    x, bad = photos(32), tmp_path/'bad.onnx'
    edited(files['fused'], bad, 'layer1.0.conv1', step=lambda v: v*1.02)
    about = read_onnx(bad)
    bad.write_bytes(seal(onnx.load(bad), about | dict(layers=[dict(l, slack=9.) for l in about['layers']])))
    assert read_onnx(bad)['layers'][0]['slack'] == 9
    with pytest.raises(ParityError, match='layer1.0.conv1'): check_parity(qat, bad, 4, x)

def test_wrong_images(net, good, tmp_path):
    file = OnnxNet(good)
    x = toy_images(4)[0]
    size = 'takes images of shape'
    for bad, kind, say in ((x[..., :-1], ValueError, size), (x[:, :1], ValueError, size), (x[0], ValueError, 'B,C,H,W'),
                           (x*torch.nan, ValueError, 'NaN'), (x[:0], ValueError, 'empty'),
                           ((x*255).byte(), TypeError, 'floating point')):
        for f in (file, lambda v: check_parity(net, good, 4, v)):
            with pytest.raises(kind, match=say): f(bad)
        if say == size: continue
        with pytest.raises(kind, match=say): export_onnx(net, tmp_path/'no.onnx', 4, bad)
    assert not any(tmp_path.iterdir())

def test_networks_that_have_no_such_form(net, tmp_path):
    x, path = toy_images(2)[0], tmp_path/'no.onnx'
    with pytest.raises(ValueError, match='one of .32, 8, 4.*got 5'): export_onnx(net, path, 5, x)
    with pytest.raises(TypeError, match='int'): export_onnx(net, path, '4', x)
    with pytest.raises(ValueError, match='multi-bit'): export_onnx(toy_net(), path, 4, x)
    fresh, wide = to_multibit(toy_net(), (32, 4)), calibrate(to_multibit(toy_net(), (32, 16)), [x])
    with pytest.raises(ValueError, match='conv1 has seen no activations at 4 bits'): export_onnx(fresh, path, 4, x)
    with pytest.raises(ValueError, match='16 bits'): export_onnx(wide, path, 16, x)
    with pytest.raises(ValueError, match='form must be one of'): export_onnx(net, path, 4, x, form='onnx')
    with pytest.raises(ValueError, match='pixels must be one of'): export_onnx(net, path, 4, x, pixels='jpeg')
    assert not any(tmp_path.iterdir())

def test_minmax_weights_have_no_qdq(tmp_path):
    x = toy_images(8)[0]
    net = calibrate(to_multibit(toy_net(), (32, 4), 'minmax'), [x])
    with pytest.raises(ValueError, match="take form 'integer'"): export_onnx(net, tmp_path/'no.onnx', 4, x, 'qdq')
    assert not any(tmp_path.iterdir())

class Strange(nn.Module):
    "A network with a function that ONNX has no word for, or with a decision that depends on the image."
    def __init__(self, kind):
        super().__init__()
        self.conv, self.fc, self.kind = nn.Conv2d(3, 4, 3), nn.Linear(4, 3), kind
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        if self.kind == 'bessel': x = torch.special.bessel_j0(x)
        elif x.sum() > 0: x = 2*x
        return self.fc(x)

@pytest.mark.parametrize('kind, say', [('bessel', 'bessel_j0'), ('decides', 'no form in ONNX')])
def test_an_operator_without_a_word(kind, say, tmp_path, capfd):
    x = images(4)
    net = calibrate(to_multibit(Strange(kind).eval(), (32, 4)), [x])
    with pytest.raises(ValueError, match=say) as e: export_onnx(net, tmp_path/'no.onnx', 4, x)
    assert len(str(e.value)) < 600 and not any(tmp_path.iterdir()) and capfd.readouterr() == ('', '')

def test_places_that_cannot_be_written(net, tmp_path, monkeypatch):
    "Said before any work: nothing is traced."
    monkeypatch.setattr(deploy, 'traced', lambda *a: pytest.fail('it went to work'))
    x = toy_images(2)[0]
    (tmp_path/'file').write_text('mine')
    for path in (tmp_path, tmp_path/'absent'/'net.onnx', tmp_path/'file'/'net.onnx', tmp_path/'net.pt', tmp_path/'net'):
        with pytest.raises(ValueError, match=str(path)): export_onnx(net, path, 4, x)
    def refused(**kwargs): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(deploy.tempfile, 'NamedTemporaryFile', refused)
    with pytest.raises(ValueError, match='Permission denied'): export_onnx(net, tmp_path/'net.onnx', 4, x)
    assert [p.name for p in tmp_path.iterdir()] == ['file'] and (tmp_path/'file').read_text() == 'mine'

@pytest.mark.parametrize('error', [OSError(28, 'No space left on device'), KeyboardInterrupt()])
def test_a_failure_while_writing(error, net, good, tmp_path, monkeypatch):
    "The old file stays, and nothing beside it."
    path = tmp_path/'net.onnx'
    path.write_bytes(good.read_bytes())
    def broken(self, data):
        with open(self, 'wb') as f: f.write(data[:100])
        raise error
    monkeypatch.setattr(deploy.Path, 'write_bytes', broken)
    with pytest.raises(type(error)): export_onnx(net, path, 8, toy_images(2)[0])
    assert [p.name for p in tmp_path.iterdir()] == ['net.onnx'] and path.read_bytes() == good.read_bytes()

@pytest.mark.parametrize('missing, call', [('onnx', 'export'), ('onnxscript', 'export'), ('onnx', 'open'),
                                           ('onnxruntime', 'open')])
def test_a_package_that_is_missing(missing, call, net, good, tmp_path, monkeypatch):
    traces.afresh(monkeypatch.setattr)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ModuleNotFoundError, match=rf"{missing}: pip install 'triqdef\[onnx\]'"):
        export_onnx(net, tmp_path/'net.onnx', 4, toy_images(2)[0]) if call == 'export' else OnnxNet(good)
    assert not any(tmp_path.iterdir())
