"Weights of 4 bits that the runtime reads as 4 bits: exact, refused where there are none, caught when wrong."
import copy

import pytest
import torch
from torch import nn

onnx = pytest.importorskip('onnx', reason='triqdef[onnx] is not installed')
for name in ('onnxscript', 'onnxruntime'): pytest.importorskip(name, reason='triqdef[onnx] is not installed')

import traces
from triqdef.core import fixed_seed
from triqdef.deploy.onnx import export_onnx, read_onnx, seal
from triqdef.deploy.parity import check_parity, ParityError
from triqdef.deploy.speed import kernels
from triqdef.quant.convert import calibrate, to_multibit


@pytest.fixture(scope='module', autouse=True)
def traced_once():
    with pytest.MonkeyPatch.context() as m:
        traces.once(m.setattr)
        yield

@pytest.fixture(autouse=True)
def seeded():
    "The same weights in any order of tests: a wrong level of a weight that no image reaches would not be seen."
    with fixed_seed(0): yield

def linear(*layers, bits=4, ends=4, size=4, **options):
    "A calibrated network of linear layers, and its images."
    with fixed_seed(0):
        x = torch.rand(6, 3, size, size)
        net = to_multibit(nn.Sequential(nn.Flatten(), *layers).eval(), (32, bits), first_last=ends, **options)
        return calibrate(net, [x]), x

@pytest.mark.parametrize('options', [dict(per_channel=True), dict(weight='dorefa', bits=2)])
def test_any_width(options, tmp_path):
    "Odd numbers of inputs and outputs, with and without bias, one layer twice, rows of features: exact, by the kernel, and wrong levels are caught."
    twice, bits = nn.Linear(33, 33, bias=False), options.get('bits', 4)
    net, x = linear(nn.Unflatten(1, (16, 3)), nn.Linear(3, 33), nn.GELU(), twice, nn.ReLU(), twice, nn.Flatten(), nn.Linear(528, 5), **options)
    path = export_onnx(net, tmp_path/'n.onnx', bits, x, 'nbits', pixels='uint8')
    p, about, model = check_parity(net, path, x=x), read_onnx(path), onnx.load(path)
    assert p.ok and (about['form'], about['bits'], p.slack) == ('nbits', bits, 0)
    assert [(l['kernel'], l['container']) for l in about['layers']] == [('nbits', 'uint4')]*4
    assert kernels(path, x, runs=1).nodes['MatMulNBits'] == 4
    for node in (n for n in model.graph.node if n.op_type == 'MatMulNBits'):
        wrong = copy.deepcopy(model)
        weight = next(i for i in wrong.graph.initializer if i.name == node.input[1])
        v = onnx.numpy_helper.to_array(weight).copy()
        v[:, :, 0] ^= 8
        weight.CopyFrom(onnx.numpy_helper.from_array(v, weight.name))
        path.write_bytes(seal(wrong, about))
        with pytest.raises(ParityError, match='not this network'): check_parity(net, path, x=x)

def test_sums_that_float32_does_not_hold(tmp_path):
    "16 levels times 255 times 4,200 inputs pass 2**24: that layer multiplies integers, and the file says so."
    net, x = linear(nn.Linear(12, 4200), nn.ReLU(), nn.Linear(4200, 8), nn.ReLU(), nn.Linear(8, 2), size=2)
    wide = net[3].act_quant
    wide.widths[4] = 8
    calibrate(net, [x])
    path = export_onnx(net, tmp_path/'n.onnx', 4, x, 'nbits')
    assert [l['kernel'] for l in read_onnx(path)['layers']] == ['nbits', 'integer', 'nbits']
    assert check_parity(net, path, x=x).ok

def test_refused(tmp_path, monkeypatch):
    "Before the work, with the reason: too many bits, floats, linear layers that all have 8 bits, and sums above 2**24."
    monkeypatch.setattr('triqdef.deploy.onnx.traced', lambda *a: pytest.fail('it went to work'))
    wide, x = linear(nn.Linear(48, 4), nn.Linear(4, 4), bits=5, ends=5)
    long, x = linear(nn.Linear(4800, 4), size=40)
    long[1].act_quant.widths[4] = 8
    calibrate(long, [x])
    ends, _ = linear(nn.Unflatten(1, (3, 16)), nn.Conv1d(3, 4, 1), nn.Flatten(), nn.Linear(64, 4), ends=8)
    for net, bits, say in (wide, 5, '4 bits at the most, not 5'), (wide, 32, 'not 32'), (ends, 4, 'has none at 4 bits'), (long, 4, 'has none at 4 bits'):
        with pytest.raises(ValueError, match=say): export_onnx(net, tmp_path/'n.onnx', bits, x, 'nbits')
    whole = to_multibit(nn.Sequential(nn.Flatten(), nn.Linear(48, 4)), (4,), sums='quantized', first_last=4)
    with pytest.raises(ValueError, match="sums='quantized' is written in"): export_onnx(whole, tmp_path/'n.onnx', 4, x, 'nbits')
    assert not any(tmp_path.iterdir())
