"A quantizer that is written in one place is found everywhere: nothing else of the library is touched."
import pytest
import torch
from fastai.callback.core import Callback
from fastcore.test import test_close as close

from triqdef.cli import main
from triqdef.deploy.onnx import export_onnx
from triqdef.quant.checkpoint import load_checkpoint, save_checkpoint
from triqdef.quant.convert import at_bits, backward_as, bit_state_of, calibrate, idle_parameters, keep_bits, to_multibit
from triqdef.quant.quantizers import Cover, Quantizer, mse_step, quantizer_table, quantizers, register_quantizer, steps_of
from triqdef.quant.ste import quantize, round_ste
from triqdef.toys import toy_images, toy_net
from triqdef.train.run import TrainSettings, load_run, train

BITS = (32, 4, 2)
pytestmark = pytest.mark.filterwarnings('ignore')

@pytest.fixture(scope='module', autouse=True)
def toy():
    "All that a new quantizer needs."
    @register_quantizer('po2', paper='a test')
    class PowerOfTwo(Quantizer):
        "A step that is a power of two, of a learned exponent."
        per_channel = True
        def build(self): self.exponents = self.by_bits(self.shape)

        def quantized(self, v, bits):
            return quantize(v, round_ste(self.exponents[str(bits)]).exp2(), *self.limits(bits))

        def fit(self, v, bits, method='lsq', count=None):
            self.exponents[str(bits)].copy_(mse_step(v, *self.limits(bits), self.shape).log2())

    yield PowerOfTwo
    del quantizers['po2']

def images(n=16): return toy_images(n, seed=3)

def network(): return to_multibit(toy_net(), BITS, weight='po2', act='po2').eval()

def outputs(net):
    out = {}
    for b in BITS:
        with torch.no_grad(), at_bits(net, b): out[b] = net(images()[0])
    return out

def same(a, b): return all(torch.equal(a[k], b[k]) for k in BITS)

def test_converted(toy):
    "It takes its places, but for the image, with a step per output channel as its class wants."
    net = network()
    assert isinstance(net.conv1.act_quant, Cover) and type(net.fc.act_quant) is toy
    weights = [m.weight_quant for m in net.modules() if hasattr(m, 'weight_quant')]
    assert all(type(q) is toy and len(q.exponents['2']) == len(q.exponents['4']) > 1 for q in weights)
    w = net.layer2[0].weight
    assert all(len(row.unique()) <= 4 for row in net.layer2[0].weight_quant(w, 2))
    close(net(images()[0]), toy_net().eval()(images()[0]), eps=1e-6)

def test_calibrated():
    "Steps come from data, and one bit-width can be kept alone."
    net = network()
    x, y = images()
    calibrate(net, [(x, y)])
    quants = [q for q in net.modules() if isinstance(q, Quantizer)]
    assert all(all(q.ready.values()) for q in quants) and all(q.learned(2) for q in quants)
    own = outputs(net)
    assert (own[4] - own[32]).abs().mean() < (own[2] - own[32]).abs().mean()
    assert torch.equal(keep_bits(net, 4)(x).detach(), own[4])
    idle = {id(p) for p in idle_parameters(net, (32, 4))}
    assert {'exponents.2'} == {n[-11:] for n, p in net.named_parameters() if 'exponents' in n and id(p) in idle}

def test_listed(toy, capsys):
    "Errors, the table and the help of the command line list it."
    with pytest.raises(ValueError, match="'po2'"): to_multibit(toy_net(), BITS, weight='nf4')
    with pytest.raises(ValueError, match="'po2'"): to_multibit(toy_net(), BITS, act='nf4')
    assert quantizer_table().loc['po2', ['paper', 'kinds']].tolist() == ['a test', 'weight, act']
    with pytest.raises(SystemExit): main(['train', '--help'])
    said = capsys.readouterr().out
    assert said.count('po2') == 2 and 'minmax' in said

class First(Callback):
    "Notes weights and steps after the first update, and which of them decay."
    def after_step(self):
        if self.seen: return
        self.seen = {n: p.detach().clone() for n, p in self.learn.model.named_parameters()}
        self.decays = {n: self.opt.state[p].get('do_wd', True) for n, p in self.learn.model.named_parameters() if p.requires_grad}
    seen = None

def trained(folder, wd):
    first = First()
    s = TrainSettings(method='qat', data='toys', arch='toy_net', bits=BITS, weight='po2', act='po2', epochs=1, bs=64, wd=wd, warmup=0., device='cpu')
    return train(s, folder, progress=False, cbs=[first]), first

def test_trained_and_resumed(tmp_path):
    "The optimizer decays the weights and not the steps; the run is written and read."
    (run, with_wd), (_, without) = trained(tmp_path/'a', 10.), trained(tmp_path/'b', 0.)
    steps = {n for n in with_wd.seen if 'exponents' in n}
    assert steps and len(steps_of(run.net)) >= len(steps)
    assert not any(with_wd.decays[n] for n in steps) and with_wd.decays['layer2.0.weight']
    assert all(torch.equal(with_wd.seen[n], without.seen[n]) for n in steps)
    assert not torch.equal(with_wd.seen['layer2.0.weight'], without.seen['layer2.0.weight'])
    assert same(outputs(load_run(tmp_path/'a').net), outputs(run.net))

def test_saved_and_loaded(tmp_path, toy):
    "A checkpoint names it; where it is not known, loading says so."
    net = calibrate(network(), [images()])
    path = save_checkpoint(net, tmp_path/'net.safetensors', 'toy_net', 4)
    loaded = load_checkpoint(path)
    assert same(outputs(loaded), outputs(net)) and bit_state_of(loaded).config['weight'] == 'po2'
    del quantizers['po2']
    try:
        with pytest.raises(ValueError, match="must be one of .*'po2'"): load_checkpoint(path)
    finally: quantizers['po2'] = toy

def test_export_and_soft_rounding_say_that_they_cannot(tmp_path):
    "By its name."
    net, (x, _) = calibrate(network(), [images()]), images()
    with pytest.raises(ValueError, match=r"quantizer 'po2' \(PowerOfTwo\) cannot be exported"):
        export_onnx(net, tmp_path/'net.onnx', bits=4, example=x)
    with pytest.raises(ValueError, match="'po2'"), at_bits(net, 4), backward_as(net, 'soft'): net(x)
