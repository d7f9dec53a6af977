"The largest levels in every kind of kernel that a file can use, against integer arithmetic in NumPy."
import math
import numpy as np
import pytest
import torch
from torch import nn

onnx = pytest.importorskip('onnx', reason='triqdef[onnx] is not installed')
for name in ('onnxscript', 'onnxruntime'): pytest.importorskip(name, reason='triqdef[onnx] is not installed')

from triqdef.core import fixed_seed
from triqdef.deploy.extract import single_bit
from triqdef.deploy.onnx import OnnxNet, export_onnx, ort_session
from triqdef.deploy.parity import OnnxLevels, check_parity
from triqdef.quant.convert import at_bits, calibrate, to_multibit

# channels into a group, out of it, groups, kernel, whether the images reach it with negative numbers
SHAPES = [(1, 4, 1, (3, 3), False), (1, 4, 1, (3, 3), True), (1, 1, 1, (3, 1), False), (1, 1, 8, (3, 3), False),
          (1, 2, 8, (3, 3), False), (1, 3, 4, (1, 5), True), (2, 2, 4, (3, 3), False), (2, 1, 1, (1, 1), False), (8, 16, 1, (3, 3), True)]
FILES = [('integer', 8), ('fused', 8), ('fused', 7), ('fused', 4), ('qdq', 8)]


class Ends(nn.Module):
    "A convolution of each shape, with a quantizer behind it, and a linear layer."
    def __init__(self):
        super().__init__()
        self.a = nn.ModuleList(nn.Conv2d(c*g, o*g, k, groups=g, bias=False) for c, o, g, k, _ in SHAPES)
        self.b = nn.ModuleList(nn.Conv2d(a.out_channels, 3, 1, bias=False) for a in self.a)
        self.fc = nn.Linear(3, 3, bias=False)

    def forward(self, x):
        signed = 3*x - 2
        outs = [b(a((signed if s[-1] else x)[:, :s[0]*s[2]])).mean((2, 3)) for a, b, s in zip(self.a, self.b, SHAPES)]
        return self.fc(torch.stack(outs).mean(0))

def exact(x, w, groups):
    "Sums of products in int64, without padding."
    x, w = np.asarray(x, np.int64), np.asarray(w, np.int64)
    views = np.lib.stride_tricks.sliding_window_view(x, w.shape[2:], (2, 3))
    parts = zip(np.split(views, groups, 1), np.split(w, groups, 0))
    return np.concatenate([np.einsum('bchwij,ocij->bohw', v, k) for v, k in parts], 1)

@pytest.fixture(scope='module')
def ends():
    "The network, images of zeros and ones: each level that a convolution reads or multiplies by is its lowest or highest."
    with fixed_seed(0):
        x = torch.randint(2, (6, 8, 9, 9)).float()
        x[0], x[1] = 1, 0
        net = Ends()
        with torch.no_grad():
            for a in net.a:
                a.weight.copy_(torch.randint(2, a.weight.shape)*400. - 200)
                a.weight[0], a.weight[-1] = -200, 200
    net = calibrate(to_multibit(net.eval(), (32, 8, 7, 4)).eval(), [x])
    with torch.no_grad():
        for bits in (8, 7, 4):
            for a, b, (*_, signed) in zip(net.a, net.b, SHAPES):
                a.weight_quant.log_steps[str(bits)].zero_()
                high = a.act_quant.limits(bits)[1]
                a.act_quant.log_steps[str(bits)].fill_(-math.log(high))
                with at_bits(net, bits): top = a((3*x - 2 if signed else x)[:, :a.in_channels]).abs().max()
                b.act_quant.log_steps[str(bits)].fill_(math.log(top/b.act_quant.limits(bits)[1]))
    return net, x

@pytest.fixture(scope='module', params=FILES, ids=lambda p: f'{p[0]}-{p[1]}')
def written(request, ends, tmp_path_factory):
    form, bits = request.param
    return bits, form, export_onnx(ends[0], tmp_path_factory.mktemp('ends')/'net.onnx', bits, ends[1], form)

def test_largest_sums(ends, written):
    "What each convolution hands to the next quantizer is the exact sum, wherever the file is run."
    (net, x), (bits, form, path) = ends, written
    file, one = OnnxNet(path, 1), single_bit(net, bits)
    told = file.about['layers']
    _, levels = OnnxLevels(file)(x)
    found = {l['name']: v for l, v in zip(told, levels)}
    kinds = {l['name']: l['kernel'] for l in told}
    for i, (*_, groups, _, _) in enumerate(SHAPES):
        a, b = one.a[i], one.b[i]
        lo, hi = a._levels
        assert form == 'integer' or kinds[f'a.{i}'] == 'fused', 'the fused kernel is not tried'
        assert set(found[f'a.{i}'].unique().tolist()) <= {lo, hi}, SHAPES[i]
        u = exact(found[f'a.{i}'], a.weight, groups)*a.scale.double().numpy()[:, None, None]/b.step.item()
        off = np.abs(found[f'b.{i}'].numpy() - np.clip(u, *b._levels)).max()
        assert off <= .511, f'{SHAPES[i]}: a level is {off:.1f} steps from the exact sum'
    assert check_parity(net, file, bits, x).ok

# kernels that multiply bytes: where their factors are among the inputs
FACTORS = dict(QLinearConv=(0, 3), ConvInteger=(0, 1), MatMulInteger=(0, 1), MatMulIntegerToFloat=(0, 1), QLinearMatMul=(0, 3), QGemm=(0, 3))

def test_no_pair_exceeds_16_bits(ends, written, tmp_path):
    "In the graph that the runtime makes of it, unsigned times signed bytes fit; known without a CPU that would cut them."
    (_, x), (bits, form, path) = ends, written
    ort_session(path, 1, optimized_model_filepath=str(tmp_path/'made.onnx'))
    model = onnx.load(tmp_path/'made.onnx')
    at = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    nodes = [n for n in model.graph.node if n.op_type in FACTORS]
    assert len(nodes) >= len(SHAPES) and {n.op_type for n in nodes} & {'QLinearConv', 'ConvInteger'}
    wanted = sorted({n.input[FACTORS[n.op_type][0]] for n in nodes})
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(n) for n in wanted)
    values = dict(zip(wanted, ort_session(model.SerializeToString(), 1).run(wanted, {'pixels': x.numpy()})))
    for n in nodes:
        v, w = values[n.input[FACTORS[n.op_type][0]]], at[n.input[FACTORS[n.op_type][1]]]
        groups = next((a.i for a in n.attribute if a.name == 'group'), 1)
        if v.dtype == w.dtype or n.op_type == 'QLinearConv' and groups > 1 and w.shape[:2] == (groups, 1): continue
        pair = 2*np.abs(v.astype(int)).max()*np.abs(w.astype(int)).max()
        assert pair <= 32767, f'{n.op_type} {n.name}, weights {w.shape}: {pair}'
