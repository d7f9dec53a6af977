"Any classifier as a multi-bit network: identity at 32 bits, states, copies, compilers, number formats, second derivatives."
import contextlib, copy, gc, pickle

import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

import triqdef.quant.norm as norm_module
import triqdef.quant.quantizers as quantizers_module
from triqdef.core import fixed_seed
from triqdef.models import cifar_resnet
from triqdef.penalty.gpdp import gpdp
from triqdef.percept.gradients import input_gradient
from triqdef.quant.convert import at_bits, bit_state_of, bits_of, calibrate, keep_bits, quant_table, to_multibit
from triqdef.quant.layers import QConv2d, QLinear
from triqdef.quant.norm import MultiBitNorm
from triqdef.quant.ste import quantize_composed
from triqdef.toys import toy_dls, toy_images, toy_net, trained_toy

BITS = (32, 8, 4, 2)
QUANTIZERS = [('lsq', 'lsq'), ('dorefa', 'dorefa'), ('lsq', 'pact'), ('minmax', 'minmax')]


def densenet(): return tv.DenseNet(8, (2, 2, 2, 2), 16, num_classes=10)
def vit():
    net = tv.VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=10)
    nn.init.normal_(net.heads.head.weight)     # torchvision starts it at zero
    return net
def swin(): return tv.swin_transformer.SwinTransformer([4, 4], 16, [2, 2], [2, 4], [2, 2], num_classes=10)
def convnext():
    block = tv.convnext.CNBlockConfig
    return tv.ConvNeXt([block(8, 16, 1), block(16, 32, 1), block(32, None, 2)], num_classes=10)

ZOO = dict(resnet18=lambda: tv.resnet18(num_classes=10), mobilenet_v2=lambda: tv.mobilenet_v2(num_classes=10),
           mobilenet_v3_small=lambda: tv.mobilenet_v3_small(num_classes=10), densenet=densenet, convnext=convnext, vit=vit,
           efficientnet_b0=lambda: tv.efficientnet_b0(num_classes=10), swin=swin,
           shufflenet=lambda: tv.shufflenet_v2_x0_5(num_classes=10), squeezenet=lambda: tv.squeezenet1_1(num_classes=10))


def build(make, seed=0):
    with fixed_seed(seed): return make().eval()

def batch(n=4, size=16, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.rand(n, 3, size, size, generator=g), torch.arange(n) % 4

def outputs(net, x, bits=BITS):
    "Logits at each bit-width, evaluation mode as the network stands."
    out = {}
    for b in bits:
        with torch.no_grad(), at_bits(net, b): out[b] = net(x)
    return out

def ready_toy(weight='lsq', act='lsq', dtype=torch.float32, bits=BITS, **kwargs):
    "A calibrated multi-bit toy network of `dtype` in evaluation mode."
    net = to_multibit(toy_net(), bits, weight, act, **kwargs).eval()
    return calibrate(net, [batch(32, seed=7)], method='lsq').to(dtype)

def equal(a, b):
    "Whether two dicts of tensors are the same, to the last bit."
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize('name', ZOO)
def test_zoo(name):
    plain = build(ZOO[name])
    before = copy.deepcopy(plain.state_dict())
    x = batch(2, 32)[0]
    net = to_multibit(plain, (32, 4), first_last=8)
    assert not net.training and bits_of(net) == (32, 4)
    with torch.no_grad(): want, out = plain(x), outputs(net, x, (32, 4))
    assert torch.equal(out[32], want), 'not the identity at 32 bits'
    assert out[4].isfinite().all() and not torch.equal(out[4], want), 'nothing happens at 4 bits'
    assert equal(plain.state_dict(), before) and bit_state_of(plain) is None
    assert not any(isinstance(m, (QConv2d, QLinear, MultiBitNorm)) for m in plain.modules())
    ours, theirs = ({id(t) for t in (*m.parameters(), *m.buffers())} for m in (net, plain))
    assert not ours & theirs, 'the copy shares tensors with the original'
    table = quant_table(net)
    assert table.weights.sum() == sum(p.numel() for p in plain.parameters()), 'something with weights is not listed'
    layers = [n for n, m in net.named_modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    assert [n for n in table.index if n in layers] == layers
    assert all(table.note[n] for n in layers if table.loc[n, '4 bits'] == 32), 'a layer is in float and nobody says why'
    assert (table['32 bits'] == 32).all()

@pytest.mark.parametrize('name', ['resnet18', 'vit', 'swin', 'convnext'])
def test_every_listed_layer_is_quantized(name):
    "What quant_table calls quantized is quantized when the network runs: a weight changed within its step changes nothing."
    net = calibrate(to_multibit(build(ZOO[name]), (32, 4)), [batch(2, 32)])
    x, table = batch(2, 32)[0], quant_table(net)
    want, around = outputs(net, x, (4,))[4], []
    for n, m in net.named_modules():
        if n not in table.index or table.loc[n, '4 bits'] == 32: continue
        w = m.weight.detach().clone()
        with torch.no_grad():
            on_grid = m.weight_quant(w, 4)
            m.weight.copy_(on_grid + .2*(w - on_grid).clamp(-.2, .2)*m.weight_quant.step(4).clamp(max=1))
            if not torch.equal(outputs(net, x, (4,))[4], want): around.append(n)
            m.weight.copy_(w)
    assert not around, f'quant_table says quantized, the forward pass goes around {around}'

def test_attention_is_quantized():
    net = to_multibit(build(vit), (32, 4))
    table, inner = quant_table(net), 'encoder.layers.encoder_layer_0.self_attention.'
    for n in ('qkv', 'out_proj'): assert table.loc[inner + n, '4 bits'] == 4 and isinstance(net.get_submodule(inner + n), QLinear)
    assert table.loc['encoder.layers.encoder_layer_0.mlp.0', '4 bits'] == 4
    assert table.loc['conv_proj', '4 bits'] == 8 and table.loc['heads.head', '4 bits'] == 8
    assert table.loc['class_token', '4 bits'] == 32 and table.loc['encoder.pos_embedding', '4 bits'] == 32
    assert sum(isinstance(m, nn.LayerNorm) for m in net.modules()) == sum(isinstance(m, nn.LayerNorm) for m in vit().modules())

def test_fused_modules_are_left_and_listed():
    "A skipped attention, Swin's, and a layer of torch that goes around its own layers in inference."
    inner = 'encoder.layers.encoder_layer_0.self_attention'
    for net, name in ((to_multibit(build(vit), (32, 4), skip=inner), inner + '.out_proj'),
                      (to_multibit(build(swin), (32, 4)), 'features.1.0.attn.qkv'),
                      (to_multibit(build(lambda: nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoderLayer(8, 2, 16, batch_first=True))),
                                   (32, 4)), '1.linear1')):
        table = quant_table(net)
        assert table.loc[name, '4 bits'] == 32 and table.note[name] and not isinstance(net.get_submodule(name), QLinear)

CONVS = dict(grouped=dict(groups=2), depthwise=dict(groups=4), dilated=dict(dilation=2, padding=2), biased=dict(bias=True),
             strided=dict(stride=2), reflected=dict(padding=1, padding_mode='reflect'), same=dict(padding='same'))

@pytest.mark.parametrize('kind', CONVS)
def test_conv_options(kind):
    "A quantized convolution is the plain one on quantized input and weight."
    args = dict(bias=False) | CONVS[kind]
    conv = build(lambda: nn.Conv2d(4, 8, 3, **args))
    x = torch.randn(2, 4, 9, 9, generator=torch.Generator().manual_seed(1))
    net = to_multibit(conv, (32, 4), first_last=4)
    out = outputs(net, x, (32, 4))
    assert torch.equal(out[32], conv(x))
    s, t = net.weight_quant.step(4), net.act_quant.step(4)
    other = copy.deepcopy(conv)
    with torch.no_grad():
        other.weight.copy_((conv.weight/s).clamp(-8, 7).round()*s)
        want = other((x/t).clamp(-8, 7).round()*t)
    torch.testing.assert_close(out[4], want)

@pytest.mark.parametrize('make', [lambda: nn.Conv2d(3, 4, 3, bias=False), lambda: nn.Conv2d(3, 4, 1), lambda: nn.Linear(6, 4)])
def test_one_layer_is_a_model(make):
    layer = build(make)
    x = torch.rand(5, 6) if isinstance(layer, nn.Linear) else batch(2, 8)[0]
    net = to_multibit(layer, BITS)
    out = outputs(net, x)
    assert torch.equal(out[32], layer(x)) and len(quant_table(net)) == 1
    for b in BITS:
        one = keep_bits(net, b)
        with torch.no_grad(): assert torch.equal(one(x), out[b])
    assert type(keep_bits(net, 32)) is type(layer)
    again = pickle.loads(pickle.dumps(net))
    assert equal(outputs(again, x), out)

class TwiceCalled(nn.Module):
    "One convolution that runs twice."
    def __init__(self):
        super().__init__()
        self.stem, self.conv, self.fc = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1), nn.Linear(4, 4)
    def forward(self, x): return self.fc(self.conv(self.conv(self.stem(x)).relu()).mean((2, 3)))

class TwoNames(TwiceCalled):
    "The same convolution under two names."
    def __init__(self):
        super().__init__()
        self.again = self.conv
    def forward(self, x): return self.fc(self.again(self.conv(self.stem(x)).relu()).mean((2, 3)))

class TwoNorms(nn.Module):
    "One BatchNorm under two names."
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2, self.bn = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4)
        self.bn2 = self.bn
    def forward(self, x): return self.bn2(self.conv2(self.bn(self.conv1(x))))

def test_shared_modules():
    "A module with two names stays one module: quantized under both."
    x = batch(4)[0]
    for make in (TwiceCalled, TwoNames):
        plain = build(make)
        net = to_multibit(plain, BITS)
        assert torch.equal(outputs(net, x)[32], plain(x))
        assert len(quant_table(net)) == 3
    assert net.again is net.conv, 'the second name kept the float layer'
    twice = to_multibit(build(TwiceCalled), BITS)
    assert equal(outputs(net, x), outputs(twice, x))
    norms = to_multibit(build(TwoNorms), BITS)
    assert norms.bn2 is norms.bn

def test_tied_weights_stay_tied():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
            self.b.weight = self.a.weight
        def forward(self, x): return self.c(self.b(self.a(x).relu()))
    net = to_multibit(build(Tied), BITS)
    assert net.a.weight is net.b.weight and torch.equal(net(torch.ones(2, 6)), build(Tied)(torch.ones(2, 6)))

def test_own_layers_are_left_alone():
    "A subclass that computes something else is not replaced by what computes a convolution."
    class Scaled(nn.Conv2d):
        def forward(self, x): return 2*super().forward(x)
    plain = build(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(4, 4, 3), nn.Flatten(), nn.Linear(4*12*12, 4)))
    net, x = to_multibit(plain, BITS), batch(2)[0]
    assert isinstance(net[1], Scaled) and torch.equal(net(x), plain(x))

def test_skip_and_subset_of_bits():
    net = to_multibit(toy_net(), (8, 2), skip=['layer1.0', 'bn1'], first_last=32)
    assert bits_of(net) == (8, 2) and bit_state_of(net).bits == 8
    table = quant_table(net)
    assert table.loc['layer1.0', '2 bits'] == 32 and table.loc['conv1', '2 bits'] == 32 and table.loc['layer2.0', '2 bits'] == 2
    assert type(net.bn1) is nn.BatchNorm2d and type(net.layer1[1]) is MultiBitNorm


# state

def names_of(net): return {n: id(p) for n, p in net.named_parameters()}

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_parameters_exist_from_the_start(weight, act):
    "An optimizer made right after the conversion holds every parameter there will ever be, the same objects."
    net = to_multibit(toy_net(), BITS, weight, act)
    before, opt = names_of(net), torch.optim.SGD(net.parameters(), .1)
    x, y = batch(8)
    for b in BITS:
        with at_bits(net, b): F.cross_entropy(net(x), y).backward()
    calibrate(net, [(x, y)])
    net.eval(); outputs(net, x); net.to(memory_format=torch.channels_last); copy.deepcopy(net)
    net.load_state_dict(net.state_dict())
    assert names_of(net) == before
    held = {id(p) for g in opt.param_groups for p in g['params']}
    assert held == {id(p) for p in net.parameters()}
    idle = [n for n, p in net.named_parameters() if p.requires_grad and p.grad is None]
    assert not idle, f'no gradient ever reaches {idle}'

def test_steps_learn():
    "After one step of the optimizer at 4 bits the steps of 4 bits have moved and those of 2 bits have not."
    net = ready_toy().train()
    steps = {n: p.clone() for n, p in net.named_parameters() if '.log_steps.' in n and p.requires_grad}
    opt = torch.optim.SGD(net.parameters(), .01)
    with at_bits(net, 4): F.cross_entropy(net(batch(8)[0]), batch(8)[1]).backward()
    opt.step()
    moved = {n for n, p in net.named_parameters() if n in steps and not torch.equal(p, steps[n])}
    assert moved == {n for n in steps if n.endswith('.4')}

def test_norms_are_independent():
    net = to_multibit(toy_net(), BITS).train()
    before = copy.deepcopy(net.state_dict())
    with at_bits(net, 4): net(batch(16)[0])
    changed = {k for k, v in net.state_dict().items() if '.norms.' in k and not torch.equal(v, before[k])}
    assert changed and all('.norms.4.' in k for k in changed)
    assert {k.split('.norms.')[0] for k in changed} == {'bn1', 'layer1.1', 'layer2.1'}

@pytest.mark.parametrize('weight,act', QUANTIZERS)
@pytest.mark.parametrize('copied', ['deepcopy', 'pickle', 'state_dict', 'after_pickled_state'])
def test_copies(copied, weight, act):
    net, x = ready_toy(weight, act), batch(8)[0]
    want = outputs(net, x)
    if copied == 'deepcopy': other = copy.deepcopy(net)
    elif copied == 'pickle': other = pickle.loads(pickle.dumps(net))
    else:
        state = net.state_dict()
        if copied == 'after_pickled_state': state = pickle.loads(pickle.dumps(state))
        other = to_multibit(toy_net(seed=9), BITS, weight, act).eval()
        assert other.load_state_dict(state).missing_keys == []
    assert equal(other.state_dict(), net.state_dict())
    other(3*batch(8, seed=5)[0]); outputs(other, 3*batch(8, seed=5)[0])
    assert equal(outputs(other, x), want), 'flags were lost: a first batch initialised the copy again'
    states = {id(m.bit_state) for m in other.modules() if hasattr(m, 'bit_state')}
    assert states == {id(other.bit_state)} and other.bit_state is not net.bit_state
    with at_bits(other, 2): assert net.bit_state.bits == 32

def test_uncalibrated_flags_travel_too():
    "A copy of a network that has not seen data starts from its own first data, as the original does."
    net = to_multibit(toy_net(), BITS).eval()
    other = to_multibit(toy_net(), BITS).eval()
    outputs(other, batch(8, seed=3)[0])
    other.load_state_dict(net.state_dict())
    x = batch(8)[0]
    assert equal(outputs(net, x), outputs(other, x))

def test_at_bits_restores():
    net = to_multibit(toy_net(), BITS)
    with at_bits(net, 4):
        with at_bits(net, 2): assert net.bit_state.bits == 2
        assert net.bit_state.bits == 4
        with at_bits(net, None): assert net.bit_state.bits == 4
    with pytest.raises(KeyError):
        with at_bits(net, 8): raise KeyError
    assert net.bit_state.bits == 32
    plain = toy_net()
    with at_bits(plain, 32), at_bits(plain): pass

def test_switching_walks_over_no_modules(monkeypatch):
    net, x, seen = ready_toy(), batch(2)[0], []
    for name in ('modules', 'named_modules', 'children', 'named_children', 'named_parameters', 'apply'):
        own = getattr(nn.Module, name)
        def counted(self, *args, own=own, name=name, **kwargs):
            seen.append((name, type(self).__name__))
            return own(self, *args, **kwargs)
        monkeypatch.setattr(nn.Module, name, counted)
    list(net.modules())
    assert seen, 'the counter does not count'
    seen.clear()
    for b in BITS:
        with at_bits(net, b): F.cross_entropy(net(x), batch(2)[1]).backward()
    assert not seen, f'walks: {seen[:5]}'

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_single_bit(weight, act):
    net, x = ready_toy(weight, act), batch(8)[0]
    want, before = outputs(net, x), copy.deepcopy(net.state_dict())
    for b in BITS:
        one = keep_bits(net, b)
        with torch.no_grad(): assert torch.equal(one(x), want[b])
        assert bits_of(one) == (b,)
        assert len(one.state_dict()) < len(net.state_dict())
        assert not any(f'.{o}' in f'{k}.'.replace(f'.{b}.', '.') and k.rsplit('.', 1)[-1] == str(o) for k in one.state_dict() for o in BITS if o != b)
        again = copy.deepcopy(one); again.load_state_dict(one.state_dict())
        with torch.no_grad(): assert torch.equal(again(x), want[b])
    assert equal(net.state_dict(), before)
    float_only = {type(m) for m in keep_bits(net, 32).modules()}
    assert not float_only & {QConv2d, QLinear, MultiBitNorm}

def test_calibration_helps():
    "A pretrained network that was never trained at low bits: calibration brings accuracy back."
    plain, (x, y) = trained_toy(), toy_images(512, seed=1)
    def accuracy(net, b):
        with torch.no_grad(), at_bits(net, b): return (net(x).argmax(1) == y).float().mean().item()
    bits = (32, 4, 2)
    cold = to_multibit(plain, bits).eval()
    # start from batches that are no guide, as the first batch of an attack would be
    outputs(cold, x[:1], bits)
    warm = calibrate(to_multibit(plain, bits).eval(), toy_dls(256).train)
    a, b = ({n: accuracy(net, n) for n in bits} for net in (cold, warm))
    assert a[32] == b[32] and b[32] > .95
    assert b[2] > a[2] + .1 and b[4] > .9 and b[4] >= a[4]

def test_calibrate_leaves_the_rest():
    net = to_multibit(trained_toy(steps=2), BITS).train()
    weights = {n: p.clone() for n, p in net.named_parameters() if '.log_steps.' not in n}
    float_norms = {k: v.clone() for k, v in net.state_dict().items() if '.norms.32.' in k}
    modes = [m.training for m in net.modules()]
    rng = torch.get_rng_state()
    calibrate(net, [batch(16)], bits=(4, 2))
    assert [m.training for m in net.modules()] == modes and net.bit_state.bits == 32 and net.bit_state.observing is None
    assert equal({n: p for n, p in net.named_parameters() if n in weights}, weights)
    assert equal({k: v for k, v in net.state_dict().items() if k in float_norms}, float_norms)
    assert not net.conv1.act_quant.ready[8] and net.conv1.act_quant.ready[4] and torch.equal(rng, torch.get_rng_state())
    momenta = {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)}
    assert momenta == {.1}

def test_calibrate_sets_true_statistics():
    "The statistics of the first norm are those of full precision, moved as the layer before it moved; without 32 bits those of its output."
    data = [batch(16, seed=s) for s in (1, 2)]
    def moments(net, b):
        with torch.no_grad(), at_bits(net, b): z = [net.conv1(net.norm(x)) for x, _ in data]
        return (torch.stack([f(o) for o in z]).mean(0) for f in (lambda o: o.mean((0, 2, 3)), lambda o: o.var((0, 2, 3))))
    net, own = to_multibit(toy_net(), (32, 2)).eval(), to_multibit(toy_net(), (5, 2)).eval()
    net.bn1.norms['32'].running_mean.uniform_(-1, 1); net.bn1.norms['32'].running_var.uniform_(.5, 2)
    calibrate(net, data); calibrate(own, data)
    (mean, var), (mean32, var32), full = moments(net, 2), moments(net, 32), net.bn1.norms['32']
    torch.testing.assert_close(net.bn1.norms['2'].running_mean, full.running_mean + mean - mean32)
    torch.testing.assert_close(net.bn1.norms['2'].running_var, full.running_var*var/var32)
    for got, want in zip((own.bn1.norms['2'].running_mean, own.bn1.norms['2'].running_var), moments(own, 2)): torch.testing.assert_close(got, want)


# number formats, layouts, compilers

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_autocast(weight, act):
    "Under bfloat16 autocast: finite, near float32, gradients of the parameters' own type."
    net = ready_toy(weight, act)
    x, y = batch(16)
    want = outputs(net, x)
    for b in BITS:
        net.zero_grad()
        with at_bits(net, b), torch.autocast('cpu', torch.bfloat16):
            out = net(x)
            loss = F.cross_entropy(out, y)
        loss.backward()
        assert out.dtype == torch.bfloat16
        assert (out.float() - want[b]).abs().max() < .15*want[b].abs().max() + .05, b
        assert all(p.grad.dtype == p.dtype and p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)

@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_whole_network_in_another_type(dtype):
    net, x = ready_toy().to(dtype), batch(8)[0].to(dtype)
    assert all(o.dtype == dtype and o.isfinite().all() for o in outputs(net, x).values())

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_channels_last(weight, act):
    """Another memory layout, the same function and the same gradients.

    In float64, so that no rounding flips; without maximum pooling and above 2 bits, where channels die: two equal values, or a zero
    before a ReLU, have another gradient than two nearly equal ones."""
    bits = (32, 8, 4)
    net = to_multibit(build(lambda: cifar_resnet(8, 4, width=4)), bits, weight, act)
    calibrate(net, [batch(32, seed=7)], method='lsq').double().train()
    other = copy.deepcopy(net).to(memory_format=torch.channels_last)
    x, y = batch(8); x = x.double()
    for b in bits:
        grads = []
        for n, xx in ((net, x), (other, x.contiguous(memory_format=torch.channels_last))):
            n.zero_grad()
            with at_bits(n, b): F.cross_entropy(n(xx), y).backward()
            grads.append({k: p.grad for k, p in n.named_parameters() if p.grad is not None})
        assert grads[0].keys() == grads[1].keys() and grads[0]
        for k, g in grads[0].items(): torch.testing.assert_close(grads[1][k], g, rtol=1e-8, atol=1e-11)

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_compile(weight, act):
    "A compiled network gives what the eager one gives at each bit-width: values, gradients, statistics, and switching back."
    torch._dynamo.reset()
    layers = lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3, 2),
                                   nn.ReLU(), nn.Flatten(), nn.Linear(4*9, 4))
    order = (32, 2, 32) if weight == 'lsq' == act else (2,)
    net = calibrate(to_multibit(build(layers), (32, 4, 2), weight, act), [batch(32, seed=7)]).double().train()
    twin = copy.deepcopy(net)
    fast = torch.compile(twin, backend='aot_eager')
    x, y = batch(8); x = x.double()
    for b in order:
        grads = []
        for f, own in ((net, net), (fast, twin)):
            own.zero_grad()
            xx = x.clone().requires_grad_()
            with at_bits(own, b): out = f(xx)
            F.cross_entropy(out, y).backward()
            grads.append(dict(out=out.detach(), x=xx.grad, **{k: p.grad for k, p in own.named_parameters() if p.grad is not None}))
        assert grads[0].keys() == grads[1].keys()
        for k, g in grads[0].items(): torch.testing.assert_close(grads[1][k], g, rtol=1e-7, atol=1e-10, msg=lambda m: f'{b} bits, {k}: {m}')
    for k, v in twin.state_dict().items(): torch.testing.assert_close(v, net.state_dict()[k])

def test_compile_starts_and_switches_through_the_wrapper():
    "A network compiled before it has seen data starts from its first data; `at_bits` works on the wrapper."
    torch._dynamo.reset()
    layers = lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4*49, 4))
    net = to_multibit(build(layers), (32, 4))
    fast, x = torch.compile(copy.deepcopy(net), backend='aot_eager'), batch(8)[0]
    for b in (4, 32):
        with torch.no_grad(), at_bits(fast, b), at_bits(net, b): torch.testing.assert_close(fast(x), net(x), rtol=1e-4, atol=1e-5)
    assert bits_of(fast) == (32, 4) and fast.bit_state.bits == 32


# second derivatives

def reference_quantize(v, step, lo, hi, edge=0., scale=1.):
    "`quantize` composed of differentiable operations, with the factor on the gradient of the step."
    dtype, w = v.dtype, v if v.dtype == torch.float64 else v.float()
    step = step.to(w.dtype)
    step = step*scale + (step - step*scale).detach()
    return quantize_composed(w, step, lo, hi, edge).to(dtype)

@contextlib.contextmanager
def plain_autograd(monkeypatch):
    "Both fast Functions replaced by what torch differentiates by itself."
    calls = []
    def quantize(*args, **kwargs): calls.append('q'); return reference_quantize(*args, **kwargs)
    def batch_norm(x, bn, later=None): calls.append('n'); return bn(x)
    with monkeypatch.context() as m:
        m.setattr(quantizers_module, 'quantize', quantize)
        m.setattr(norm_module, 'batch_norm', batch_norm)
        yield calls

def loss_of_gradients(net, x, y, bits):
    "Cross entropy plus a smooth function and the GPDP penalty of the input gradients: what a TriQDef step differentiates."
    x, total, grads = x.detach().requires_grad_(), 0., {}
    for b in bits:
        with at_bits(net, b): loss = F.cross_entropy(net(x), y, reduction='sum')
        grads[b], = torch.autograd.grad(loss, x, create_graph=True)
        total = total + loss/len(x) + grads[b].square().sum() + grads[b].sin().sum()
    return total + gpdp(grads)

@pytest.mark.parametrize('training', [True, False])
@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_second_derivative_equals_plain_autograd(weight, act, training, monkeypatch):
    x, y = batch(8); x = x.double()
    bits, found = (32, 4, 2), []
    for patch in (contextlib.nullcontext, lambda: plain_autograd(monkeypatch)):
        net = ready_toy(weight, act, torch.float64, bits).train(training)
        with patch() as calls:
            total = loss_of_gradients(net, x, y, bits)
            total.backward()
        assert calls is None or {'q', 'n'} <= set(calls), 'the reference was not used'
        found.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None} | {'total': total.detach()}
                     | {n: b for n, b in net.named_buffers()})
    assert found[0].keys() == found[1].keys() and len(found[0]) > 20
    for k, want in found[1].items():
        assert want.isfinite().all(), k
        assert (found[0][k] - want).abs().max() <= 1e-8*want.abs().max().clamp_min(1e-3), k

@pytest.mark.parametrize('per_channel', [False, True])
def test_second_derivative_per_channel(per_channel, monkeypatch):
    x, y = batch(6); x = x.double()
    found = []
    for patch in (contextlib.nullcontext, lambda: plain_autograd(monkeypatch)):
        net = ready_toy(dtype=torch.float64, bits=(32, 2), per_channel=per_channel).train()
        with patch(): loss_of_gradients(net, x, y, (32, 2)).backward()
        found.append({n: p.grad for n, p in net.named_parameters() if p.grad is not None})
    steps = [k for k in found[0] if '.weight_quant.log_steps.' in k]
    assert steps and all(found[0][k].numel() > 1 for k in steps) == per_channel
    for k, want in found[1].items(): torch.testing.assert_close(found[0][k], want, rtol=1e-8, atol=1e-11, msg=k)

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_second_derivative_equals_finite_differences(weight, act):
    "Behind the last rounding the straight-through gradient is a smooth function: its derivative is what differences give."
    net = ready_toy(weight, act, torch.float64, (32, 4), skip=['fc'])
    (x, y), p = batch(4), net.fc.weight
    x = x.double()
    def f():
        g = input_gradient(net, x, y, create_graph=True)
        return (g*g).sum() + g.sin().sum()
    direction = torch.randn(p.shape, dtype=p.dtype, generator=torch.Generator().manual_seed(0))
    with at_bits(net, 4):
        slope = (torch.autograd.grad(f(), p)[0]*direction).sum()
        ends = []
        for eps in (1e-5, -1e-5):
            with torch.no_grad(): p.add_(direction, alpha=eps)
            ends.append(f().detach())
            with torch.no_grad(): p.sub_(direction, alpha=eps)
    assert slope.abs() > 1e-3
    torch.testing.assert_close((ends[0] - ends[1])/2e-5, slope, rtol=1e-6, atol=1e-8)

@pytest.mark.parametrize('weight,act', QUANTIZERS)
def test_second_derivative_under_autocast_and_float32(weight, act):
    x, y = batch(8)
    for auto in (False, True):
        net = ready_toy(weight, act).train()
        with torch.autocast('cpu', torch.bfloat16, enabled=auto): total = loss_of_gradients(net, x, y, (32, 2))
        total.backward()
        assert all(p.grad.isfinite().all() for p in net.parameters() if p.grad is not None)
        assert net.conv1.weight.grad.abs().max() > 0

def test_a_step_holds_on_to_no_memory():
    "The graphs of the second derivative are freed with the loss: after further steps no byte more is held."
    net, (x, y) = ready_toy().train(), batch(8)
    def step():
        net.zero_grad()
        loss_of_gradients(net, x, y, (32, 2)).backward()
        gc.collect()
    step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as prof:
        for _ in range(3): step()
    events = prof.key_averages()
    assert sum(e.self_cpu_memory_usage for e in events if e.self_cpu_memory_usage > 0) > 1e6
    assert abs(sum(e.self_cpu_memory_usage for e in events)) < 1e5      # gradients take 26 KB, a graph megabytes
