"Situations of users who export a network, most of them as reported to neighbouring tools."
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

onnx = pytest.importorskip('onnx', reason='triqdef[onnx] is not installed')
for name in ('onnxscript', 'onnxruntime'): pytest.importorskip(name, reason='triqdef[onnx] is not installed')

from triqdef.deploy.extract import integer_table, norm_pairs, single_bit
from triqdef.deploy.onnx import OnnxNet, export_onnx, read_onnx, seal
from triqdef.deploy.parity import ParityError, check_parity, exported_success
from triqdef.deploy.speed import kernels, latencies
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.toys import toy_images, toy_net


@pytest.fixture(scope='module')
def net(): return calibrate(to_multibit(toy_net(), (32, 8, 4)).eval(), [toy_images(32, seed=3)])

@pytest.fixture(scope='module')
def good(net, tmp_path_factory):
    return export_onnx(net, tmp_path_factory.mktemp('good')/'net.onnx', 4, toy_images(2)[0])

def resealed(good, path, change=lambda m: None, about=None):
    "A copy of a file that was changed and sealed again, as another version of the tool might write it."
    model = onnx.load(good)
    change(model)
    path.write_bytes(seal(model, read_onnx(good) if about is None else about))
    return path


@pytest.mark.parametrize('form', ['integer', 'fused', 'qdq'])
def test_grey_images_on_an_older_cpu(form, tmp_path):
    "Eight bits, one colour: right on the Intel machine, wrong on the AMD machine (onnxruntime #16105)."
    grey = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with torch.no_grad(): grey[0].weight.fill_(1.)
    x = torch.rand(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)).mul(.1).add(.9)
    net = calibrate(to_multibit(grey.eval(), (32, 8)), [x])
    path = export_onnx(net, tmp_path/'net.onnx', 8, x, form)
    assert check_parity(net, path, 8, x).ok
    if form == 'fused': assert read_onnx(path)['layers'][0]['container'] == 'uint8'

@pytest.mark.parametrize('wrap', [nn.DataParallel, AveragedModel])
def test_network_in_a_wrapper(wrap, net, good, tmp_path):
    "The network of a training loop goes to every function as it is (pytorch #23431)."
    outer, (x, y) = wrap(net), toy_images(8)
    assert export_onnx(outer, tmp_path/'net.onnx', 4, x).read_bytes()[:99] == good.read_bytes()[:99]
    assert check_parity(outer, good, 4, x, y, x).ok
    assert exported_success(outer, good, 4, x, y, x)['equal predictions under the patch'] == 1
    one = single_bit(outer, 4)
    assert integer_table(nn.DataParallel(one)).equals(integer_table(one))
    assert norm_pairs(nn.DataParallel(toy_net().eval())) == norm_pairs(toy_net().eval())

def test_network_that_was_compiled(net, good):
    "A compiled module does not export (pytorch #150926): its network is taken, nothing is compiled."
    outer = torch.compile(net)
    assert type(single_bit(outer, 4)) is type(net) and check_parity(net, good, 4, toy_images(4)[0]).ok

def test_network_in_training_mode(net, good, tmp_path):
    "Exported without eval(): dropout and norms would be those of training (onnxruntime #4589)."
    net.train()
    try: path = export_onnx(net, tmp_path/'net.onnx', 4, toy_images(2)[0])
    finally: trained = net.training; net.eval()
    assert trained and path.read_bytes() == good.read_bytes()

VERSIONS = dict(opset=lambda m: setattr(m.opset_import[0], 'version', 99), ir=lambda m: setattr(m, 'ir_version', 99))

@pytest.mark.parametrize('what', VERSIONS)
def test_file_of_a_newer_version(what, good, tmp_path):
    "A file that the installed runtime does not read yet is refused by its name (onnxruntime #20559)."
    path = resealed(good, tmp_path/'new.onnx', VERSIONS[what])
    with pytest.raises(ValueError, match='ONNX Runtime .* cannot load .*new.onnx'): OnnxNet(path)

def test_file_whose_weights_lie_elsewhere(good, tmp_path):
    "The data file was not copied with the model (onnx #3157)."
    def outside(m):
        i = m.graph.initializer[0]
        onnx.external_data_helper.set_external_data(i, 'absent.data')
        i.ClearField('raw_data')
    with pytest.raises(ValueError, match='cannot load .*half.onnx'): OnnxNet(resealed(good, tmp_path/'half.onnx', outside))

def test_file_of_another_tool(net, tmp_path):
    "A float16 model that somebody else exported: every function says whose it is not."
    h, F16 = onnx.helper, onnx.TensorProto.FLOAT16
    ends = [h.make_tensor_value_info(n, F16, ['b', 3, 16, 16]) for n in ('pixels', 'logits')]
    g = h.make_graph([h.make_node('Relu', ['pixels'], ['logits'])], 'g', ends[:1], ends[1:])
    path, x = tmp_path/'other.onnx', toy_images(2)[0]
    path.write_bytes(h.make_model(g, opset_imports=[h.make_opsetid('', 21)]).SerializeToString())
    for f in (read_onnx, lambda p: check_parity(net, p, 4, x), lambda p: kernels(p, x), lambda p: latencies({'a': p}, x)):
        with pytest.raises(ValueError, match='other.onnx was not written by export_onnx'): f(path)

@pytest.mark.parametrize('key', ['bits', 'layers', 'cpu', 'shape', 'network_sha256'])
def test_description_without_a_part(key, good, tmp_path):
    "A description that lacks a part is refused, not guessed at."
    about = {k: v for k, v in read_onnx(good).items() if k != key}
    with pytest.raises(ValueError, match='part.onnx has a description'): OnnxNet(resealed(good, tmp_path/'part.onnx', about=about))

def test_names_that_are_no_onnx_file(net, good, tmp_path, monkeypatch):
    "A checkpoint is not written over, a device is not replaced, `~` is the home folder."
    x = toy_images(2)[0]
    (tmp_path/'net.pt').write_text('weights')
    (tmp_path/'sink.onnx').symlink_to('/dev/null')
    for name in ('net.pt', 'net', 'sub/', 'sink.onnx', 'a'*300 + '.onnx'):
        with pytest.raises(ValueError): export_onnx(net, f'{tmp_path}/{name}', 4, x)
    assert (tmp_path/'net.pt').read_text() == 'weights' and Path('/dev/null').is_char_device()
    monkeypatch.setenv('HOME', str(tmp_path))
    assert export_onnx(net, '~/home.onnx', np.int64(4), x) == tmp_path/'home.onnx'
    assert OnnxNet('~/home.onnx').bits == 4 and check_parity(net, '~/home.onnx', 4, x).ok

def test_networks_that_are_none(net, tmp_path):
    "A path or a name where the network is wanted."
    x, path = toy_images(2)[0], tmp_path/'net.onnx'
    for what in (None, 'net', path):
        for f in (lambda v: export_onnx(v, path, 4, x), lambda v: single_bit(v, 4), integer_table):
            with pytest.raises(TypeError, match='network'): f(what)
    assert not path.exists()

def test_images_and_classes_that_do_not_fit(net, good):
    "Four channels, float64, classes that are floats or out of range, a file at another bit-width or of another network."
    (x, y), file = toy_images(8), OnnxNet(good)
    for f in (lambda v: check_parity(net, good, 4, v), lambda v: exported_success(net, file, 4, v, y, v)):
        with pytest.raises(ValueError, match='takes images of shape'): f(torch.cat([x, x[:, :1]], 1))
        f(x.double())
    for bad, kind in ((y.float(), TypeError), (y > 0, TypeError), (y + 9, ValueError), (y - 9, ValueError), (nn.functional.one_hot(y), ValueError)):
        for f in (lambda v: check_parity(net, good, 4, x, v), lambda v: exported_success(net, file, 4, x, v, x)):
            with pytest.raises(kind, match='y must'): f(bad)
    for patched, kind in ((x*torch.nan, ValueError), ((x*255).byte(), TypeError), (x.numpy(), TypeError), (x[:2], ValueError)):
        with pytest.raises(kind, match='patched'): exported_success(net, file, 4, x, y, patched)
    with pytest.raises(ValueError, match='at 4 bits, not at 8'): exported_success(net, file, 8, x, y, x)
    other = calibrate(to_multibit(toy_net(seed=7), (32, 4)).eval(), [x])
    with pytest.raises(ParityError, match='another network'): exported_success(other, file, 4, x, y, x)

def test_counts_that_measure_nothing(good):
    "No rounds gave NaN milliseconds, a negative warm-up the last runs alone."
    x = toy_images(2)[0]
    for more in (dict(rounds=0), dict(rounds=1.5), dict(warm=-1), dict(threads=-1)):
        with pytest.raises(ValueError, match=next(iter(more))): latencies({'a': good}, x, **more)
    for more in (dict(runs=0), dict(runs=True), dict(threads='2')):
        with pytest.raises((TypeError, ValueError), match=next(iter(more))): kernels(good, x, **more)
    for files in ([good], good, {}):
        with pytest.raises(TypeError, match='files must be a dict'): latencies(files, x)

@pytest.mark.parametrize('classes', ['abcd', {0: 'a', 1: 'b', 2: 'c', 3: 'd'}])
def test_class_names_that_are_no_sequence(classes, net, tmp_path):
    "Four letters are not four names, and the keys of a dict are not its names."
    with pytest.raises(TypeError, match='sequence of names'): export_onnx(net, tmp_path/'net.onnx', 4, toy_images(2)[0], classes=classes)

def test_who_takes_qdq(net, tmp_path):
    "What the page says of the form: uint8 levels and opset 21, which TensorRT's importer refuses (TensorRT #2774)."
    model = onnx.load(export_onnx(net, tmp_path/'net.onnx', 4, toy_images(2)[0], 'qdq'))
    at = {i.name: onnx.numpy_helper.to_array(i) for i in model.graph.initializer}
    zeros = [at[n.input[2]] for n in model.graph.node if n.op_type == 'QuantizeLinear']
    assert zeros and {z.dtype.name for z in zeros} == {'uint8'} and model.opset_import[0].version == 21
