"The usual architectures as multi-bit networks: what is quantized, exact at 32 bits, two derivatives, stages, one width alone."
import pytest
import torch
import torch.nn.functional as F
import torchvision.models as tv
from torch import nn

from triqdef.core import Normalize, fixed_seed
from triqdef.penalty.fdp import fdp
from triqdef.percept.features import stage_names, tap_stages
from triqdef.quant.convert import at_bits, calibrate, keep_bits, quant_summary, quant_table, to_multibit
from triqdef.quant.layers import QConv2d, QLinear
from triqdef.quant.norm import MultiBitNorm
from triqdef.unfuse import SameConv2d, unfuse

BITS = (32, 8, 4, 2)
TORCHVISION = ('resnet18', 'resnet50', 'mobilenet_v2', 'mobilenet_v3_small', 'mobilenet_v3_large', 'efficientnet_b0',
               'convnext_tiny', 'densenet121')
TIMM = ('resnet50', 'mobilenetv3_small_100', 'efficientnet_b0', 'tf_efficientnet_lite0', 'convnext_atto', 'densenet121')
NAMES = (*TORCHVISION, 'vit', *(f'timm/{n}' for n in TIMM), 'timm/vit_tiny_patch16_224', 'efficientnet_lite_pytorch')
# two rows that are no Conv2d or Linear layer and no norm, by architecture
OWN = dict(vit={'class_token', 'pos_embedding'}, convnext_tiny={'layer_scale'})
OWN |= {'timm/vit_tiny_patch16_224': {'cls_token', 'pos_embed'}, 'timm/convnext_atto': {'gamma'}}

# every kind of block and of change between blocks that the published networks have, fewer of each; all blocks of MobileNetV3-Small
SMALL = dict(resnet50=dict(layers=(1, 1, 2, 1), base_width=16), densenet121=dict(block_config=(2, 2, 3, 2)), vit_tiny_patch16_224=dict(img_size=64, depth=4),
             convnext_atto=dict(depths=(1, 1, 2, 1), dims=(40, 80, 160, 320)))
CNBlock, V3, MB = tv.convnext.CNBlockConfig, tv.mobilenetv3.InvertedResidualConfig, tv.efficientnet.MBConvConfig
SHALLOW = dict(
    resnet18=lambda: tv.ResNet(tv.resnet.BasicBlock, [2, 1, 1, 1], num_classes=10),
    resnet50=lambda: tv.ResNet(tv.resnet.Bottleneck, [1, 1, 2, 1], num_classes=10, width_per_group=16),
    mobilenet_v2=lambda: tv.MobileNetV2(10, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2], [6, 96, 1, 2], [6, 160, 1, 2], [6, 320, 1, 1]]),
    mobilenet_v3_small=lambda: tv.mobilenet_v3_small(num_classes=10),
    mobilenet_v3_large=lambda: tv.MobileNetV3([V3(*row, 1, 1.) for row in ((16, 3, 16, 16, False, 'RE', 1), (16, 3, 64, 24, False, 'RE', 2), (24, 5, 72, 40, True, 'RE', 2),
                                               (40, 3, 240, 80, False, 'HS', 2), (80, 3, 480, 112, True, 'HS', 1), (112, 5, 672, 160, True, 'HS', 2))], 1280, 10),
    efficientnet_b0=lambda: tv.EfficientNet([MB(*row) for row in ((1, 3, 1, 32, 16, 1), (6, 3, 2, 16, 24, 2), (6, 5, 2, 24, 40, 1), (6, 3, 2, 40, 80, 1),
                                                                  (6, 5, 2, 80, 192, 1), (6, 3, 1, 192, 320, 1))], .2, num_classes=10),
    convnext_tiny=lambda: tv.ConvNeXt([CNBlock(48, 96, 1), CNBlock(96, 192, 1), CNBlock(192, 384, 2), CNBlock(384, None, 1)], num_classes=10),
    densenet121=lambda: tv.DenseNet(32, (2, 2, 3, 2), 64, num_classes=10),
    vit=lambda: tv.VisionTransformer(64, 16, 4, 4, 64, 128, num_classes=10))


def fewer(net):
    "The network with at most two blocks in each of its stages."
    if hasattr(net, 'blocks') and isinstance(net.blocks[0], nn.Sequential): net.blocks = nn.Sequential(*(stage[:2 if i == 1 else 1] for i, stage in enumerate(net.blocks)))
    return net

def make(name):
    "A network of that name for ten classes, of 64-pixel images where it insists on a size, shallow where its builder lets us."
    if name in SHALLOW: return SHALLOW[name]()
    if name == 'efficientnet_lite_pytorch':
        lite = pytest.importorskip(name, reason=f'{name} is not installed')
        return lite.EfficientNet.from_name('efficientnet-lite0', num_classes=10)
    timm, own = pytest.importorskip('timm', reason='timm is not installed'), name.removeprefix('timm/')
    return fewer(timm.create_model(own, num_classes=10, **SMALL.get(own, {})))

class Wrapped(nn.Module):
    "Normalisation and a network, under the names that are usual."
    def __init__(self, net):
        super().__init__()
        self.norm, self.net = Normalize((.5,)*3, (.25,)*3), net
    def forward(self, x): return self.net(self.norm(x))

def batch(n, size):
    x = torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(0))
    return F.avg_pool2d(x, 5, 1, 2)*2 - .5*x.mean(), torch.arange(n)     # neighbouring pixels are alike

def settle(net, x):
    "A head that is not zero, and BatchNorm statistics of `x`, as a trained network would have."
    for p in net.parameters():
        if p.ndim > 1 and not p.any(): nn.init.normal_(p, std=.05)
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for m in norms: m.momentum = None; m.reset_running_stats(); m.train()
    with torch.no_grad(): net(x)
    for m in norms: m.momentum = .1; m.eval()
    return net

def outputs(net, x, bits=BITS):
    out = {}
    for b in bits:
        with torch.no_grad(), at_bits(net, b): out[b] = net(x)
    return out


@pytest.fixture(scope='module', params=NAMES)
def case(request):
    "(name, plain network, its calibrated multi-bit form, images, labels): made once for all tests of an architecture."
    name = request.param
    x, y = batch(4, 64 if 'vit' in name else 96)
    x = x.clamp(0, 1)
    with fixed_seed(0): plain = settle(Wrapped(make(name)).eval(), x)
    with torch.no_grad(): before = plain(x)
    net = to_multibit(plain, BITS)
    with torch.no_grad():
        assert torch.equal(plain(x), before), 'the conversion changed the original'
        torch.testing.assert_close(net(x), before, rtol=1e-5, atol=1e-5)
    return name, plain, calibrate(net, [(x, y)]), x[:2], y[:2]

def test_exact_at_32_bits_and_worse_below(case):
    name, plain, net, x, _ = case
    with torch.no_grad(): want = plain(x)
    out = outputs(net, x)
    assert want.std() > 1e-4 and all(o.isfinite().all() for o in out.values())
    torch.testing.assert_close(out[32], want, rtol=1e-5, atol=1e-5*want.abs().max().item())
    errors = {b: (out[b] - want).square().mean().sqrt().item() for b in (8, 4, 2)}
    assert 0 < errors[8] < errors[2], errors

def test_what_is_quantized(case):
    "Every convolution and linear layer is; what is not has a row that says why."
    name, plain, net, x, _ = case
    table = quant_table(net)
    assert table.weights.sum() == sum(p.numel() for p in plain.parameters()), 'something with weights is not listed'
    for n, m in net.named_modules():
        if isinstance(m, (nn.Conv2d, nn.Linear)):
            assert isinstance(m, (QConv2d, QLinear)), f'{n} is in float'
    floats = table[~table.kind.isin(['QConv2d', 'QLinear'])]
    assert (floats[['8 bits', '4 bits', '2 bits']] == 32).all(axis=None) and (floats.note != '').all()
    loose = {n.rpartition('.')[2] for n in floats.index[~floats.note.str.startswith('norm')]}
    assert loose == OWN.get(name, set())
    quantized = table[table.kind.isin(['QConv2d', 'QLinear'])]
    inner = quantized.iloc[1:-1]
    assert (inner['4 bits'] == 4).all() and (inner.note == '').all()
    assert quantized['2 bits'].iloc[[0, -1]].eq(8).all()

def test_summary(case):
    name, plain, net, x, _ = case
    s = quant_summary(net, x[:1])
    assert len(s) <= 8 and s.weights.sum() == sum(p.numel() for p in plain.parameters())
    assert abs(s['share of multiply-adds'].sum() - 1) < 1e-3
    by_quantized = s[s['4 bits'] < 32]['share of multiply-adds'].sum()
    assert by_quantized > (.9 if 'vit' in name else .999)

def test_gradients_of_gradients(case):
    "The input gradient, and the derivative of its norm, at two widths, in evaluation and in training mode."
    name, _, net, x, y = case
    for training, b in ((False, 4), (True, 2)):
        v = x.clone().requires_grad_()
        net.zero_grad(); net.train(training)
        kept = {k: t.clone() for k, t in net.state_dict().items()}
        try:
            with fixed_seed(0), at_bits(net, b):
                g, = torch.autograd.grad(F.cross_entropy(net(v), y), v, create_graph=True)
                g.square().sum().backward()
        finally: net.eval(); net.load_state_dict(kept)
        assert g.isfinite().all() and g.abs().sum() > 0
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        assert len(grads) > 10 and all(t.isfinite().all() for t in grads) and any(t.any() for t in grads)
    net.zero_grad()

def test_one_width_alone(case):
    name, plain, net, x, _ = case
    out = outputs(net, x[:2], (32, 4))
    for b in (32, 4):
        with torch.no_grad(): torch.testing.assert_close(keep_bits(net, b)(x[:2]), out[b], rtol=0, atol=0)
    ours = {type(m) for m in keep_bits(net, 32).modules()}
    assert not ours & {QConv2d, QLinear, MultiBitNorm}
    assert (SameConv2d in ours) == ('lite' in name)

def test_stages(case):
    "At least two stages, whatever the wrapping and the conversion, and FDP over them is a number with a gradient."
    name, plain, net, x, _ = case
    names = stage_names(net, x[:1])
    assert len(names) >= 2 and names == stage_names(plain, x[:1])
    assert names == tuple(f'net.{n}' for n in stage_names(plain.net, x[:1]))
    features, v = {}, x[:2].clone().requires_grad_()
    for b in (8, 2):
        with at_bits(net, b), tap_stages(net, names) as stages: net(v); features[b] = list(stages)
    assert all(f.ndim == 4 and min(f.shape[2:]) >= 3 for f in features[2])
    total = fdp(features)
    g, = torch.autograd.grad(total, v)
    assert 0 <= total <= 2 and total.isfinite() and g.isfinite().all() and g.abs().sum() > 0

def test_a_step_per_channel(case):
    "Depthwise and grouped convolutions included: one weight step per output channel, and where it is sought, less error for it."
    name, plain, net, x, y = case
    sought = name in ('mobilenet_v2', 'timm/efficientnet_b0', 'timm/tf_efficientnet_lite0')      # the search takes a while
    fine = calibrate(to_multibit(plain, (32, 4), per_channel=True), [(x[:2], y[:2])], method='mse' if sought else 'lsq')
    for m in fine.modules():
        if isinstance(m, (QConv2d, QLinear)):
            assert m.weight_quant.step(4).shape == (len(m.weight),) + (1,)*(m.weight.ndim - 1)
    out = outputs(fine, x[:2], (32, 4))
    with torch.no_grad(): torch.testing.assert_close(out[32], plain(x[:2]), rtol=1e-5, atol=1e-5*out[32].abs().max().item())
    assert out[4].isfinite().all()
    def error(net):
        parts = [(m.weight_quant(m.weight, 4) - m.weight).square().sum() for m in net.modules() if isinstance(m, (QConv2d, QLinear))]
        return sum(parts).item()
    with torch.no_grad(): assert not sought or error(fine) < error(net)


@pytest.mark.parametrize('name', ['mobilenet_v3_small', 'vit', 'timm/tf_efficientnet_lite0', 'timm/vit_tiny_patch16_224',
                                  'timm/mobilenetv3_small_100', 'efficientnet_lite_pytorch'])
def test_unfused_is_the_same_function(name):
    "Logits and input gradients in double precision; at another size than the network was made for, too."
    x = batch(2, 64)[0].double()
    with fixed_seed(0): plain = settle(make(name).eval(), x.float()).double()
    new, sizes = unfuse(plain), (64,) if 'vit' in name else (64, 57)
    for size in sizes:
        out = []
        for net in (plain, new):
            v = x[..., :size, :size].clone().requires_grad_()
            y = net(v)
            out.append((y.detach(), *torch.autograd.grad(y.square().sum(), v)))
        scale = out[0][1].abs().max().item()
        torch.testing.assert_close(out[1][0], out[0][0], rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(out[1][1], out[0][1], rtol=1e-6, atol=1e-7*scale)
    assert [type(m) for m in unfuse(new).modules()] == [type(m) for m in new.modules()]

def test_vit_b_16():
    "The real one's depth and names, a quarter of its width and side: 48 linear layers in 12 blocks, the patches, the head."
    with fixed_seed(0): plain = tv.VisionTransformer(56, 4, 12, 3, 192, 768, num_classes=10).eval()
    nn.init.normal_(plain.heads.head.weight, std=.05)
    net = to_multibit(plain, (32, 4))
    x = batch(1, 56)[0]
    with torch.no_grad(): torch.testing.assert_close(net(x), plain(x), rtol=1e-4, atol=1e-4)
    s = quant_summary(net)
    low = s[s['4 bits'] == 4]
    assert low.modules.tolist() == [48] and low['share of weights'].sum() > .98
    assert stage_names(net) == tuple(f'encoder.layers.encoder_layer_{i}' for i in (2, 5, 8, 11))
