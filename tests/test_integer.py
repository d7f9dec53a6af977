"Networks whose every tensor has levels: exact at 32 bits, differentiable twice, kept in files, and integers from pixels to logits."
import copy, importlib.util, json, pickle, sys
from functools import partial

import numpy as np
import pytest
import torch
import torchvision.models as tv
from torch import nn

from triqdef.models import build_model
from triqdef.quant.adaround import AdaRound
from triqdef.quant.checkpoint import load_checkpoint, save_checkpoint
from triqdef.quant.convert import at_bits, calibrate, keep_bits, to_multibit
from triqdef.quant.inputs import QInput
from triqdef.toys import toy_net

BITS = (32, 8, 4)

def dense(): return tv.DenseNet(8, (2, 2), 16, num_classes=10)

def inverted(): return tv.MobileNetV2(10, .25, [[1, 8, 1, 1], [6, 8, 2, 2]])

def bottleneck():
    "ResNet-50's stem, its blocks with and without a convolution beside them, and its head."
    net = tv.ResNet(tv.resnet.Bottleneck, [2, 1, 1, 1], num_classes=10, width_per_group=16)
    net.layer3, net.layer4, net.fc = nn.Identity(), nn.Identity(), nn.Linear(512, 10)
    return net

NETS = dict(residual=lambda: build_model('resnet8', 10, width=8), inverted=inverted, dense=dense, bottleneck=bottleneck, toy=toy_net)

@pytest.fixture(scope='module', params=NETS)
def case(request):
    "Name, float network, its quantized form and images."
    torch.manual_seed(0)
    net, x = NETS[request.param](), torch.rand(8, 3, 32, 32)
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d): m.momentum = None
    with torch.no_grad(): net.train()(x)
    net.eval()
    return request.param, net, calibrate(to_multibit(net, BITS, sums='quantized').eval(), [x]), x

def test_identity_copies_and_one_bit_width(case):
    _, plain, net, x = case
    assert torch.equal(net(x), plain(x))
    assert torch.equal(keep_bits(net, 32)(x), plain(x))
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for b in BITS:
            with at_bits(net, b), at_bits(twin, b): assert torch.equal(net(x), twin(x))
    with at_bits(net, 4): assert torch.equal(keep_bits(net, 4)(x), net(x))

def test_both_sides_of_a_sum_have_one_step(case):
    _, _, net, x = case
    seen = []
    handles = [m.register_forward_hook(lambda m, i, o: seen.append(o/m.act_quant.step(8))) for m in net.modules() if isinstance(m, QInput)]
    with torch.no_grad(), at_bits(net, 8): net(x)
    for h in handles: h.remove()
    assert seen or case[0] == 'toy'
    for v in seen: assert (v - v.round()).abs().max() < 1e-3

def test_second_derivative(case):
    _, _, net, x = case
    net = copy.deepcopy(net)
    x = x[:2].clone().requires_grad_()
    with at_bits(net, 4): loss = net(x).square().sum()
    g, = torch.autograd.grad(loss, x, create_graph=True)
    g.square().sum().backward()
    own = [p for m in net.modules() if isinstance(m, QInput) for p in m.act_quant.parameters_at(4)]
    assert x.grad.isfinite().all() and all(p.grad is not None and p.grad.isfinite().all() for p in own)

def test_a_checkpoint_keeps_the_choice(tmp_path):
    torch.manual_seed(0)
    net, x = to_multibit(build_model('resnet8', 10), BITS, sums='quantized').eval(), torch.rand(4, 3, 32, 32)
    calibrate(net, [x])
    again = load_checkpoint(save_checkpoint(net, tmp_path/'n.safetensors', 'resnet8', 10))
    assert again.description['quant']['sums'] == 'quantized'
    for b in BITS:
        with at_bits(net, b), at_bits(again, b): assert torch.equal(net(x), again(x))

def test_training_moves_the_steps():
    torch.manual_seed(0)
    net, x, y = to_multibit(build_model('resnet8', 10), (32, 4), sums='quantized'), torch.rand(16, 3, 32, 32), torch.arange(16) % 10
    params = list(net.parameters())
    assert len(params) == len({id(p) for p in params})
    opt, losses = torch.optim.Adam(params, 1e-2), []
    net.bit_state.bits = 4
    for _ in range(8):
        losses.append(nn.functional.cross_entropy(net(x), y))
        opt.zero_grad(); losses[-1].backward(); opt.step()
    assert losses[-1] < losses[0]

class Gate(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 8, 1)
    def forward(self, x): return x*self.conv(x).sigmoid()

def test_refusals_name_the_module():
    stem, end = nn.Conv2d(3, 8, 3), nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))
    for odd, says in ((Gate(), "'sigmoid' in 1"), (nn.Sequential(nn.Conv2d(8, 8, 1), nn.SiLU()), r'1\.1 \(SiLU\)')):
        with pytest.raises(ValueError, match=says): to_multibit(nn.Sequential(stem, odd, end), BITS, sums='quantized')
    for options in (dict(act='pact'), dict(first_last=32), dict(skip='0'), dict(sums='int8')):
        with pytest.raises(ValueError): to_multibit(nn.Sequential(stem, end), BITS, **{'sums': 'quantized'} | options)

# files of integers

onnx = pytest.importorskip('onnx', reason='triqdef[onnx] is not installed')
for name in ('onnxscript', 'onnxruntime'): pytest.importorskip(name, reason='triqdef[onnx] is not installed')

import traces
from triqdef.commands.checks import command_parser, parse_options, run_options
from triqdef.commands.export import add_export
from triqdef.commands.train import add_train
from triqdef.deploy.extract import single_bit
from triqdef.deploy.layers import IntLayer
from triqdef.deploy.onnx import export_onnx, read_onnx
from triqdef.deploy.parity import check_parity
from triqdef.deploy.runtime import ort_session
from triqdef.deploy.speed import kernels

def computing(path, x):
    "The operators that ran, without those that prepare pixels and logits."
    return set(kernels(path, x, runs=1).index)

def fits_16_bits(n, w):
    "Whether no two products with an unsigned byte can leave 16 bits; a depthwise kernel widens its bytes."
    one_each = w.shape[1] == 1 and any(a.name == 'group' and a.i > 1 for a in n.attribute)
    v = np.sort(w.astype(int), axis=None)
    return one_each or w.dtype == np.int8 and 255*max(v[-2:].sum(), -v[:2].sum()) <= 32767

@pytest.mark.parametrize('bits', [8, 4])
def test_bytes_between_pixels_and_logits(case, bits, tmp_path):
    _, _, net, x = case
    path = export_onnx(net, tmp_path/'n.onnx', bits, x)
    p = check_parity(net, path, bits, x)
    assert p.ok and read_onnx(path)['form'] == 'bytes'
    assert not any(l['saturates'] for l in read_onnx(path)['layers'])
    ran = computing(path, x)
    assert 'QLinearConv' in ran and not ran & {'Conv', 'FusedConv', 'Gemm', 'FusedGemm', 'MatMul', 'GlobalAveragePool'}
    ort_session(path, 1, optimized_model_filepath=str(tmp_path/'made.onnx'))
    made = onnx.load(tmp_path/'made.onnx').graph
    at = {i.name: onnx.numpy_helper.to_array(i) for i in made.initializer}
    weights = [(n, at[n.input[3]]) for n in made.node if n.op_type == 'QLinearConv']
    assert weights and all(fits_16_bits(n, w) for n, w in weights)

def test_levels_that_were_chosen(tmp_path):
    "Adaptive rounding ends in the file, level by level."
    torch.manual_seed(0)
    x = torch.rand(16, 3, 16, 16)
    net = to_multibit(toy_net(), (32, 4), weight='adaround', sums='quantized').eval()
    assert not any(m.choice(4).any() for m in calibrate(net, [x]).modules() if isinstance(m, AdaRound))
    calibrate(net, [x], method='adaround')
    assert any(m.choice(4).any() for m in net.modules() if isinstance(m, AdaRound))
    path = export_onnx(net, tmp_path/'n.onnx', 4, x)
    assert check_parity(net, path, 4, x).ok and read_onnx(path)['form'] == 'bytes'
    at = {i.name: onnx.numpy_helper.to_array(i) for i in onnx.load(path).graph.initializer}
    one = single_bit(net, 4)
    layers = [(n, m) for n, m in one.named_modules() if isinstance(m, IntLayer)]
    assert layers and all(np.array_equal(at[f'{n}.weight'].astype(int), m.weight.numpy()) for n, m in layers)

@pytest.mark.parametrize('bits', [8, 4])
def test_int8_for_tensorrt(bits, tmp_path, monkeypatch):
    torch.manual_seed(0)
    net, x = to_multibit(build_model('resnet8', 10, width=8), (8, 4), sums='symmetric').eval(), torch.rand(8, 3, 32, 32)
    calibrate(net, [x])
    traces.once(monkeypatch.setattr)
    for opset in (13, 17, 21):
        path = export_onnx(net, tmp_path/'n.onnx', bits, x, form=f'tensorrt-{opset}')
        assert check_parity(net, path, bits, x).ok
        m = onnx.load(path)
        assert m.opset_import[0].version == opset
        at = {i.name: onnx.numpy_helper.to_array(i) for i in m.graph.initializer}
        zeros = [at[n.input[2]] for n in m.graph.node if n.op_type == 'QuantizeLinear']
        assert zeros and all(z.dtype == 'int8' and not z.any() for z in zeros)

def triqdef(*argv): run_options(parse_options(partial(command_parser, [add_train, add_export]), argv))

def test_from_training_to_a_file(tmp_path, monkeypatch, capsys):
    "The commands: trained so, the choice in run.json, refused with another, written as bytes, and no form that the run cannot have."
    monkeypatch.chdir(tmp_path)
    toys = ('--data', 'toys', '--method', 'qat', '--bits', '32', '4', '--epochs', '1', '--quiet', '--device', 'cpu')
    triqdef('train', 'run', '--arch', 'toy_net', '--sums', 'quantized', *toys)
    assert json.loads((tmp_path/'run/run.json').read_text())['settings']['sums'] == 'quantized'
    with pytest.raises(ValueError, match="sums='quantized', the settings say 'float'"): triqdef('train', 'other', '--start', 'run', *toys)
    with pytest.raises(ValueError, match='other settings'): triqdef('train', 'run', '--arch', 'toy_net', *toys)
    for form in ('fused', 'integer'):
        with pytest.raises(ValueError, match="'bytes' or 'tensorrt'"): triqdef('export', 'run', '--bits', '4', '--form', form)
    few = ('--n', '32', '--gap-steps', '1', '--quiet')
    triqdef('export', 'run', '--bits', '4', '--form', 'bytes', '-o', 'n.onnx', *few)
    assert read_onnx(tmp_path/'n.onnx')['form'] == 'bytes' and "form 'bytes'" in capsys.readouterr().out

def test_refused_files(tmp_path):
    torch.manual_seed(0)
    x = torch.rand(4, 3, 32, 32)
    def made(bits, sums): return calibrate(to_multibit(build_model('resnet8', 10, width=8), bits, sums=sums).eval(), [x])
    whole = made((16, 8), 'quantized')
    with pytest.raises(ValueError, match='16 bits'): export_onnx(whole, tmp_path/'n.onnx', 16, x)
    with pytest.raises(ValueError, match="'bytes'"): export_onnx(whole, tmp_path/'n.onnx', 8, x, form='fused')
    with pytest.raises(ValueError, match='symmetric'): export_onnx(whole, tmp_path/'n.onnx', 8, x, form='tensorrt')
    with pytest.raises(ValueError, match='tensorrt-12'): export_onnx(whole, tmp_path/'n.onnx', 8, x, form='tensorrt-12')
    with pytest.raises(ValueError, match="'integer'"): export_onnx(made((8,), 'float'), tmp_path/'n.onnx', 8, x, form='bytes')
    part = next(m for m in whole.modules() if isinstance(m, QInput))
    part.act_quant = copy.deepcopy(part.act_quant)
    with torch.no_grad(): part.act_quant.log_steps['8'].add_(.1)
    with pytest.raises(ValueError, match='different grids'): export_onnx(whole, tmp_path/'n.onnx', 8, x)
    assert not list(tmp_path.iterdir())

def test_operations_defined_again(monkeypatch):
    "A page that defines the operations anew, in a process that uses the package, leaves the package's as they were."
    from triqdef.deploy import inputs, layers
    for module, name, args in (layers, 'int_linear', [torch.ones(3, 1, dtype=torch.int8), torch.ones(1), torch.zeros(1), None, [-8, 7]]), (inputs, 'on_levels', [[-8, 7]]):
        spec = importlib.util.spec_from_file_location(f'triqdef.deploy.again_{name}', module.__file__)
        monkeypatch.setitem(sys.modules, spec.name, again := importlib.util.module_from_spec(spec))
        spec.loader.exec_module(again)
        old, new = getattr(module, name), getattr(again, name)
        assert old is not new and str(old._opoverload) != str(new._opoverload), 'torch removes an operation that is defined twice: calling it crashes'
        x = torch.rand(2, 3), torch.tensor(.1)
        assert torch.equal(old(*x, *args), new(*x, *args))
