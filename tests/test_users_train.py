"What users of fastai do around our training callbacks: each test is one situation, with the public report it resembles."
import copy, warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelBatchException, CancelFitException
from fastai.callback.data import WeightedDL
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.hook import *
from fastai.callback.mixup import CutMix, MixUp
from fastai.callback.progress import CSVLogger, ProgressCallback
from fastai.callback.schedule import ParamScheduler
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback, TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.callback.channelslast import ChannelsLast
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize as LoaderNormalize
from fastai.learner import Learner, load_learner
from fastai.losses import BCEWithLogitsLossFlat, CrossEntropyLossFlat, FocalLossFlat, LabelSmoothingCrossEntropy
from fastai.optimizer import SGD, OptimWrapper
from fastai.torch_core import params
from fastai.vision.augment import Resize
from fastai.vision.data import ImageDataLoaders
from PIL import Image
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel

from triqdef.attack.pgd import PatchPGD
from triqdef.core import seed_everything
from triqdef.quant.convert import at_bits, calibrate, to_multibit
from triqdef.quant.layers import QConv2d
from triqdef.quant.quantizers import Quantizer
from triqdef.toys import ToyNet, tensor_dls, toy_dls, toy_images, toy_net
from triqdef.train.callback import JointQAT, PatchAT, TriQDef, accuracy_at
from triqdef.train.controls import GradientNoise, GradientSmooth
from triqdef.train.curriculum import BACT
from triqdef.train.dwq import DWQ
from triqdef.train.pbat import PBAT
from triqdef.train.pbcat import PBCAT, CompositePGD

BITS = (32, 4, 2)
SMALL = dict(attack=PatchPGD(4, steps=1, step_size=64/255, keep='loss'))
OURS = dict(triqdef=lambda **k: TriQDef(**SMALL, **k), patch_at=lambda **k: PatchAT(**SMALL, **k), qat=lambda **k: JointQAT(**k),
            pbat=lambda **k: PBAT(**SMALL, **k), dwq=lambda **k: DWQ(**SMALL, **k), pbcat=lambda **k: PBCAT(attack=CompositePGD(4, 1), **k),
            noise=lambda **k: GradientNoise(**SMALL, **k), smooth=lambda **k: GradientSmooth(**SMALL, **k))
ALL = BACT(BITS, warmup=0, ramp=0)
pytestmark = pytest.mark.filterwarnings('ignore')

def network(fresh=False, bits=BITS):
    net = to_multibit(toy_net(), bits)
    return net if fresh else calibrate(net, [toy_images(32, seed=3)])

def learner(cbs, net=None, dls=None, **kwargs):
    seed_everything(0)
    kwargs = dict(loss_func=F.cross_entropy) | kwargs
    learn = Learner(dls or toy_dls(64, 16), network() if net is None else net, cbs=cbs, **kwargs)
    learn.remove_cbs(learn.cbs.filter(lambda c: isinstance(c, ProgressCallback)))
    learn.logger = lambda *args: None
    return learn

def fitted(cbs, epochs=1, **kwargs):
    learn = learner(cbs, **kwargs)
    learn.fit(epochs, 1e-3)
    return learn

def in_order(n=32):
    "Toys whose loader does not shuffle: two fits see the same batches."
    dls = toy_dls(n, 16)
    dls.train.shuffle = False
    return dls

def weights(net): return {k: v.clone() for k, v in net.state_dict().items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)

def touched(net):
    "What a callback may have changed of a network: bit-width, hooks, instance forwards, which parameters learn."
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())
    return net.bit_state.bits, hooks, sum('forward' in vars(m) for m in net.modules()), [p.requires_grad for p in net.parameters()]

class Raises(Callback):
    "An error, a cancel or an interrupt in one event of one training batch."
    def __init__(self, event, error, order=5, at=1): self.on, self.error, self.order, self.at, self.left = event, error, order, at, True
    def __call__(self, event):
        if self.left and event == self.on and getattr(self.learn, 'training', False) and getattr(self.learn, 'iter', 0) == self.at:
            self.left = False
            raise self.error

class Sees(Callback):
    "At which bit-width, and on what, fastai's own pass ran."
    order = -20
    def __init__(self): self.bits, self.inputs = [], []
    def before_fit(self): self.bits.clear()
    def before_train(self): self.handle = self.learn.model.bn1.register_forward_hook(lambda m, i, o: self.bits.append(m.bit_state.bits))
    def after_train(self): self.handle.remove()
    def before_batch(self):
        if self.training: self.first = len(self.bits)
    def after_pred(self):
        if self.training: self.inputs.append(self.bits[-1])


# a Learner that does everything but fit

@pytest.mark.parametrize('name', OURS)
def test_everything_but_fit_comes_first(name):
    "The callback is there, nothing was fitted yet: validate, get_preds, summary, and the optimizer's freezing (fastai #2213, fastai_dev #225)."
    learn = learner(OURS[name](), metrics=accuracy_at(*BITS), splitter=lambda net: [params(net.conv1), params(net.fc)])
    before, state = weights(learn.model), touched(learn.model)
    loss, *acc = learn.validate()
    assert np.isfinite(loss) and len(acc) == 3
    for got in (learn.get_preds()[0], learn.get_preds(ds_idx=0)[0]): assert got.shape[1] == 4
    assert 'Trainable' in str(learn.summary())
    assert learn.validate()[1:] == acc and same(weights(learn.model), before) and touched(learn.model) == state
    assert not learn.lock.locked()
    learn.freeze(); learn.unfreeze()

def test_every_way_to_fit(tmp_path):
    "lr_find, fine_tune, fit_flat_cos, save, load and one more epoch, with steps that are never decayed (fastai #2892)."
    learn = learner(TriQDef(**SMALL), path=tmp_path, splitter=lambda net: [params(nn.ModuleList([net.conv1, net.bn1, net.layer1, net.layer2])), params(net.fc)])
    learn.lr_find(num_it=5, show_plot=False)
    learn.fine_tune(1, 1e-3); learn.fit_flat_cos(1, 1e-3); learn.save('m'); kept = weights(learn.model)
    learn.fit(1, 1e-3); learn.load('m')
    assert same(weights(learn.model), kept)
    learn.fit(1, 0., wd=1e6)
    assert all(torch.equal(v, kept[k]) for k, v in learn.model.state_dict().items() if 'log_steps' in k)
    assert len(learn.tri_q_def.history) == 4 and learn.tri_q_def.history[0]['step'] == 0

class ReadyFirst:
    "An attack that demands that quantizers have seen clean data before."
    def attack(self, net, x, y, bits):
        assert all(q.ready.get(bits, True) for q in net.modules() if isinstance(q, Quantizer)), 'steps would be set by a patched image'
        return x.clone()

@pytest.mark.parametrize('again', ['lr_find', 'second learner'])
def test_a_fresh_network_after_another_fit(again, tmp_path):
    "The callback has served before, and now meets a network whose quantizers have seen nothing (fastai #3013, unsloth-zoo #873)."
    cb = TriQDef(attack=ReadyFirst(), curriculum=ALL)
    learn = learner(cb, net=network(fresh=True), path=tmp_path)
    if again == 'lr_find': learn.lr_find(num_it=4, show_plot=False)
    else:
        learn.fit(1, 1e-3)
        learn = learner(cb, net=network(fresh=True))
    learn.fit(1, 1e-3)
    assert len(cb.history) == 4

def test_a_second_learner_equals_a_first():
    "One callback for two Learners, one after the other: the second trains as if the callback were new (unsloth-zoo #873)."
    cb = TriQDef(**SMALL)
    fitted(cb)
    assert same(weights(fitted(cb).model), weights(fitted(TriQDef(**SMALL)).model))

def test_the_first_of_two_learners_is_refused():
    "A callback was given to a second Learner; fit of the first would train without it (fastai2 #255)."
    cb = TriQDef(**SMALL)
    first = learner(cb); learner(cb)
    before = weights(first.model)
    with pytest.raises(ValueError, match='a Learner of its own'): first.fit(1, 1e-3)
    assert same(weights(first.model), before)

@pytest.mark.parametrize('name', ['patch_at', 'triqdef'])
def test_two_of_ours_are_refused(name):
    "Two of our callbacks, or one added twice, in one Learner: each would add its terms to those of the other."
    cb = TriQDef(**SMALL)
    for cbs in ([cb, OURS[name]()], [cb, cb]):
        with pytest.raises(ValueError, match='one training callback'): fitted(cbs)
    with pytest.raises(ValueError, match='one training callback'): learner(cb).fit(1, cbs=JointQAT())


# export

@pytest.fixture
def folder(tmp_path):
    "Twelve pictures of each of two classes."
    for k, c in enumerate(('cat', 'dog')):
        (tmp_path/c).mkdir()
        for i in range(12): Image.fromarray(np.full((16, 16, 3), 90*k + 5*i, np.uint8)).save(tmp_path/c/f'{i}.png')
    return tmp_path

@pytest.mark.parametrize('name', ['triqdef', 'pbat', 'noise'])
@pytest.mark.parametrize('checkpoint', [False, ['layer1']])
def test_an_exported_learner_predicts(name, checkpoint, folder):
    "export, load_learner, predict twice, with our callback inside (fastai #3628, wandb #961)."
    dls = ImageDataLoaders.from_folder(folder, valid_pct=.3, seed=0, item_tfms=Resize(16), bs=8, num_workers=0, device=torch.device('cpu'))
    net = to_multibit(toy_net(2), BITS)
    learn = fitted(OURS[name](checkpoint=checkpoint), net=net, dls=dls, loss_func=None, path=folder, metrics=accuracy_at(*BITS))
    own = learn.predict(folder/'cat'/'0.png')
    assert learn.tta(n=2)[0].shape[1] == 2
    learn.export('m.pkl')
    back = load_learner(folder/'m.pkl')
    back.remove_cbs(back.cbs.filter(lambda c: isinstance(c, ProgressCallback)))
    for _ in range(2):
        got = back.predict(folder/'cat'/'0.png')
        assert got[0] in ('cat', 'dog') and torch.allclose(got[2], own[2])
    assert back.get_preds(dl=back.dls.test_dl([folder/'dog'/'1.png']))[0].shape == (1, 2)
    assert not back.lock.locked()
    with pytest.raises(ValueError, match='training loader is empty'): back.fit(1)
    assert back.predict(folder/'cat'/'0.png')[0] == got[0]


# labels and losses

class Losses(nn.Module):
    "A loss that notes at which bit-width it is asked."
    def __init__(self, inner, net): super().__init__(); self.inner, self.state, self.asked = inner, [net.bit_state], []
    y_int = True
    reduction = 'mean'
    def forward(self, pred, *yb):
        self.asked.append(pred.detach())
        return self.inner(pred, *yb)

LOSSES = dict(flat=CrossEntropyLossFlat(), smooth=LabelSmoothingCrossEntropy(), focal=FocalLossFlat(),
              weighted=nn.CrossEntropyLoss(weight=torch.tensor([1., 2., 3., 4.])), torch_smooth=nn.CrossEntropyLoss(label_smoothing=.1))

@pytest.mark.parametrize('loss', LOSSES)
def test_every_pass_has_the_loss_of_the_learner(loss):
    "Label smoothing, class weights, focal loss: clean and patched at all bit-widths are averages of this loss (fastai #3183)."
    cb = TriQDef(curriculum=ALL, **SMALL)
    net = network()
    clean, adv = [], []
    class Keep(Callback):
        order = 1
        def before_train(self): self.start = copy.deepcopy(self.learn.model)
        def after_loss(self):
            if self.training and self.iter == 0: self.batch = self.x.clone(), self.y.clone()
    keep = Keep()
    fitted([cb, keep], net=net, loss_func=LOSSES[loss])
    x, y = keep.batch
    for b in cb.history[0]['bits']:
        with at_bits(keep.start, b): clean.append(LOSSES[loss](keep.start(x), y).item())
    assert abs(np.mean(clean) - cb.history[0]['clean']) < 1e-4

def one_hot_dls(n=32, soft=0.):
    def pair(seed): x, y = toy_images(n, seed=seed); return x, F.one_hot(y, 4).float()*(1 - soft) + soft/4
    def load(xy, shuffle): return DataLoader(list(zip(*xy)), bs=16, shuffle=shuffle, device='cpu')
    return DataLoaders(load(pair(0), True), load(pair(1), False), device='cpu')

@pytest.mark.parametrize('name', ['triqdef', 'qat', 'pbat'])
@pytest.mark.parametrize('loss', [BCEWithLogitsLossFlat(), nn.BCEWithLogitsLoss(), F.cross_entropy])
def test_one_hot_labels(name, loss):
    "Labels as one-hot floats, with BCE or cross entropy: the attack takes the class, the loss takes the labels (fastai_dev #269)."
    cb = OURS[name]()
    learn = fitted(cb, dls=one_hot_dls(), loss_func=loss)
    assert len(cb.history) == 2 and all(np.isfinite(h['total']) for h in cb.history)

@pytest.mark.parametrize('name', ['triqdef', 'qat', 'pbat'])
def test_soft_labels_have_no_class_to_attack(name):
    "Labels that are shares of several classes: joint QAT can use them, a patch has no class to hide (fastai #3454)."
    cb = OURS[name]()
    if name == 'qat': return fitted(cb, dls=one_hot_dls(soft=.2))
    with pytest.raises(ValueError, match='one class'): fitted(cb, dls=one_hot_dls(soft=.2))
    assert not cb.history

@pytest.mark.parametrize('mix', [MixUp, CutMix])
@pytest.mark.parametrize('name', ['triqdef', 'qat', 'pbat'])
@pytest.mark.parametrize('last', [False, True])
def test_mixup(name, mix, last):
    "MixUp or CutMix in the Learner: all bit-widths with mixed labels, or a refusal before anything is trained (fastai #3183, #3454)."
    net = network()
    cb, mixer, loss, before = OURS[name](**({} if name == 'dwq' else dict(curriculum=ALL))), mix(1e6), Losses(CrossEntropyLossFlat(), net), weights(net)
    own, mixed = mixer.lf, []
    def counted(*args):
        mixed.append(mixer.training)
        return own(*args)
    mixer.lf = counted
    cbs = [mixer, cb] if last else [cb, mixer]
    if name != 'qat':
        with pytest.raises(ValueError, match=mix.__name__): fitted(cbs, net=net, loss_func=CrossEntropyLossFlat())
        assert same(weights(net), before)
        return
    fitted(cbs, net=net, loss_func=CrossEntropyLossFlat())
    assert sum(mixed) == sum(len(h['bits']) for h in cb.history) > 8

class Alters(Callback):
    "Changes something of the batch between fastai's pass and ours."
    def __init__(self, event, act, order=-5): self.on, self.act, self.order = event, act, order
    def __call__(self, event):
        if event == self.on and getattr(self.learn, 'training', False): self.act(self.learn)

def set_(**what):
    def act(learn):
        for k, f in what.items(): setattr(learn, k, f(learn))
    return act

@pytest.mark.parametrize('event, what', [('after_pred', dict(pred=lambda l: l.pred*2)), ('after_pred', dict(xb=lambda l: (1 - l.x,))),
    ('after_pred', dict(yb=lambda l: (3 - l.y,))), ('after_loss', dict(loss_grad=lambda l: l.loss_grad + l.model.fc.weight.square().sum())),
    ('after_loss', dict(yb=lambda l: (3 - l.y,))), ('after_loss', dict(loss_grad=lambda l: 2*l.loss_grad, loss=lambda l: 2*l.loss))])
@pytest.mark.parametrize('name', ['triqdef', 'qat', 'pbat'])
def test_what_another_callback_changes_in_between(event, what, name):
    "A callback changes pred, xb, yb or the loss after fastai's pass: the other bit-widths would not get the change (fastai #3183)."
    with pytest.raises(ValueError, match=next(iter(what))): fitted([Alters(event, set_(**what)), OURS[name]()])

@pytest.mark.parametrize('name', ['triqdef', 'qat', 'pbat'])
def test_what_another_callback_changes_for_all(name):
    "Images changed before the pass, or a term added to the whole loss afterwards, are for every bit-width (fastai #3183)."
    cb = OURS[name]()
    fitted([cb, Alters('before_batch', set_(xb=lambda l: (l.x.flip(-1),)), order=3), Alters('after_loss', set_(loss_grad=lambda l: l.loss_grad + 1), order=3)])
    assert len(cb.history) == 4


# the pass of fastai, and what an exception leaves

EVENTS = 'before_batch after_pred after_loss before_backward after_backward before_step after_step after_batch'.split()

@pytest.mark.parametrize('name, event, error', [('pbat', e, RuntimeError) for e in EVENTS] + [('patch_at', e, CancelFitException) for e in EVENTS]
                         + [('patch_at', e, KeyboardInterrupt) for e in EVENTS[:3]] + [('pbat', e, CancelBatchException) for e in EVENTS[:3]])
def test_stopped_anywhere_and_fitted_again(name, event, error):
    "An error, an interrupt or a cancel in another callback: nothing stays on the network, the next fit is a fresh one (fastai2 #255, fastai #3374)."
    cb, stop = OURS[name](checkpoint=['layer1']), Raises(event, error('stopped'))
    learn = learner([cb, stop], dls=in_order())
    learn.model.bit_state.bits = 4
    before = touched(learn.model)
    if error in (RuntimeError, KeyboardInterrupt):
        with pytest.raises(error): learn.fit(1, 1e-3)
    else: learn.fit(1, 1e-3)
    assert touched(learn.model) == before and not stop.left
    start = weights(learn.model)
    assert learn.validate()[0] > 0 and same(weights(learn.model), start)
    learn.opt = None; seed_everything(1); learn.fit(1, 1e-3)
    assert touched(learn.model) == before and len(cb.history) == 2
    other = learner(OURS[name](checkpoint=['layer1']), dls=in_order())
    other.model.load_state_dict(start); other.model.bit_state.bits = 4
    seed_everything(1); other.fit(1, 1e-3)
    assert same(weights(learn.model), weights(other.model))

def test_a_callback_that_runs_the_network_itself():
    "Another callback runs the network before the batch: fastai's own pass must still be at the highest active bit-width."
    class Runs(Callback):
        order = 7
        def before_batch(self):
            with torch.no_grad(): self.learn.model(self.x)
    sees, cb = Sees(), JointQAT(curriculum=BACT((4, 2), warmup=0))
    learn = learner([sees, cb, Runs()])
    learn.fit(1, 1e-3)
    assert sees.inputs == [4]*4

def test_validation_and_metrics_of_wrapped_models():
    "DataParallel and torch.compile around the network: trained as the network itself, metrics too."
    bits = (32, 2)      # each is compiled for itself
    both = dict(curriculum=BACT(bits, warmup=0, ramp=0), **SMALL)
    plain = fitted(TriQDef(**both), net=network(bits=bits), metrics=accuracy_at(*bits))
    for wrap in (nn.DataParallel, partial(torch.compile, backend='eager')):
        net = network(bits=bits)
        learn = fitted(TriQDef(**both), net=wrap(net), metrics=accuracy_at(*bits))
        assert same(weights(net), weights(plain.model)) and learn.final_record == plain.final_record
        assert touched(net)[1:] == touched(plain.model)[1:]


# optimizers

@pytest.mark.parametrize('opt, wd, warned', [(torch.optim.AdamW, None, True), (torch.optim.SGD, .1, True), (torch.optim.AdamW, 0., False)])
def test_torch_optimizers_decay_steps(opt, wd, warned):
    "A torch optimizer in OptimWrapper cannot leave the steps out of weight decay: a warning says so (fastai #3733)."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        learn = learner(JointQAT(), opt_func=partial(OptimWrapper, opt=opt))
        learn.fit(1, 1e-3, wd=wd)
    assert any("decays the quantizers' steps" in str(w.message) for w in seen) == warned

def test_the_network_was_replaced_after_the_optimizer():
    "Fit a float network, then put its multi-bit form into the same Learner: the optimizer would train the old one (fastai #3185)."
    learn = learner([], net=toy_net())
    learn.fit(1, 1e-3)
    learn.model = calibrate(to_multibit(learn.model, BITS), [toy_images(32, seed=3)])
    learn.add_cb(JointQAT())
    before = weights(learn.model)
    with pytest.raises(ValueError, match='create_opt'): learn.fit(1, 1e-3)
    assert same(weights(learn.model), before)
    learn.create_opt(); learn.fit(1, 1e-3)
    assert not same(weights(learn.model), before)

def test_a_frozen_body():
    "Only the head learns; the optimizer was made before the callback came: nothing else moves, decay or not."
    net = network()
    for n, p in net.named_parameters(): p.requires_grad_(n.startswith('fc.') and 'log_steps' not in n)
    learn = learner([], net=net, wd=.5)
    learn.create_opt(); learn.add_cb(TriQDef(**SMALL))
    before, flags = weights(net), touched(net)
    learn.fit(1, 1e-3)
    moved = {n for n, p in net.named_parameters() if not torch.equal(p, before[n])}
    assert moved == {'fc.weight', 'fc.bias'} and touched(net) == flags

def test_noise_comes_once_an_update():
    "Gradient accumulation: gradient noise is added to the sum, not to every batch of it (pytorch-lightning #1549)."
    class Counted(GradientNoise):
        added = 0
        def add_noise(self):
            self.added += 1
            super().add_noise()
    cb = Counted(**SMALL)
    fitted([cb, GradientAccumulation(32)])
    assert cb.added == 2 and len(cb.history) == 4

def test_batches_left_over_by_accumulation():
    "The last batches of a fit did not fill an update: the next fit begins without their gradients (pytorch-lightning #4653)."
    learn = fitted([JointQAT(curriculum=ALL), GradientAccumulation(48)], opt_func=SGD, dls=in_order(64))
    start = weights(learn.model)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in learn.model.parameters())
    seed_everything(1); learn.fit(1, 1e-2)
    other = learner([JointQAT(curriculum=ALL), GradientAccumulation(48)], opt_func=SGD, dls=in_order(64))
    other.model.load_state_dict(start)
    seed_everything(1); other.fit(1, 1e-2)
    assert same(weights(learn.model), weights(other.model))


# batches, networks, metrics

def own_dls(make, n=32, bs=16, n_inp=None, **kwargs):
    def load(seed, m): return DataLoader([make(x, y) for x, y in zip(*toy_images(m, seed=seed))], bs=bs, device='cpu', **kwargs)
    dls = DataLoaders(load(0, n), load(1, 16), device='cpu')
    if n_inp is not None: dls.n_inp = n_inp
    return dls

def test_batches_of_other_shapes():
    "A second label goes to the loss of every pass; a second input, or no label, is refused (fastai #3183)."
    seen = []
    def loss(pred, y, weight):
        seen.append(len(weight))
        return (F.cross_entropy(pred, y, reduction='none')*weight).mean()
    dls = own_dls(lambda x, y: (x, y, torch.tensor(2.)), n_inp=1)
    cb = fitted(TriQDef(curriculum=ALL, **SMALL), dls=dls, loss_func=loss).tri_q_def
    assert len(seen) == sum(2*len(h['bits']) for h in cb.history) + 1
    class Two(ToyNet):
        def forward(self, x, shift=None): return super().forward(x if shift is None else (x + shift[:, None, None, None]*0))
    net = to_multibit(Two(), BITS)
    with pytest.raises(ValueError, match='2 inputs'): fitted(JointQAT(), net=net, dls=own_dls(lambda x, y: (x, x.mean(), y)))
    with pytest.raises(ValueError, match='0 labels'): fitted(JointQAT(), dls=own_dls(lambda x, y: (x,)))

def test_images_that_are_no_pixels():
    "Bytes, or images that the loader has normalised: patches assume [0,1]."
    with pytest.raises(TypeError, match='uint8'): fitted(TriQDef(**SMALL), dls=own_dls(lambda x, y: ((255*x).byte(), y)))
    normalised = own_dls(lambda x, y: ((x - .5)/.25, y))
    for name in ('triqdef', 'pbat', 'pbcat'):
        with pytest.raises(ValueError, match='Normalisation belongs inside'): fitted(OURS[name](), dls=normalised)
    fitted(JointQAT(), dls=normalised)

@pytest.mark.parametrize('channels', [1, 4])
@pytest.mark.parametrize('name', ['triqdef', 'pbat', 'pbcat', 'smooth'])
def test_images_of_other_channels(name, channels):
    "Grey images, or four channels (ART #673)."
    net = toy_net()
    net.conv1, net.norm = nn.Conv2d(channels, 8, 3, padding=1, bias=False), nn.Identity()
    cb = OURS[name]()
    fitted(cb, net=to_multibit(net, BITS), dls=own_dls(lambda x, y: (x[:1].expand(channels, -1, -1), y)))
    assert len(cb.history) == 2

@pytest.mark.parametrize('name', ['triqdef', 'pbat'])
def test_loaders_of_other_kinds(name):
    "A last batch of one image, loaders of torch, weighted draws, no validation images, no `c`."
    one = own_dls(lambda x, y: (x, y), n=17)
    torch_dls = DataLoaders(*(torch.utils.data.DataLoader(list(zip(*toy_images(16, seed=i))), batch_size=8) for i in (0, 1)), device='cpu')
    pairs = list(zip(*toy_images(16)))
    weighted = DataLoaders(WeightedDL(pairs, bs=8, wgts=np.arange(1, 17)), DataLoader(pairs, bs=8), device='cpu')
    empty = DataLoaders(DataLoader(pairs, bs=8), DataLoader([], bs=8), device='cpu')
    for dls, steps in ((one, 2), (torch_dls, 2), (weighted, 2), (empty, 2)):
        cb = OURS[name]()
        fitted(cb, dls=dls, metrics=accuracy_at(32, 4))
        assert len(cb.history) == steps

def test_too_few_images_for_a_batch():
    "`drop_last` and fewer images than a batch: nothing would be trained (accelerate #961)."
    with pytest.raises(ValueError, match='no batch to train on'): fitted(JointQAT(), dls=own_dls(lambda x, y: (x, y), n=8, drop_last=True))

@pytest.mark.parametrize('name', ['triqdef', 'qat', 'noise'])
def test_networks_that_give_no_logits(name):
    "Outputs that are tuples, objects, or one number for each image: refused before the first step (transformers #11862)."
    class Out:
        def __init__(self, logits): self.logits = logits
    for wrap, error in ((lambda z: (z, z), TypeError), (Out, TypeError), (lambda z: z[:, 0], ValueError)):
        class Net(ToyNet):
            def forward(self, x): return wrap(super().forward(x))
        with pytest.raises(error, match='logits'): fitted(OURS[name](), net=to_multibit(Net(), BITS))

@pytest.mark.parametrize('name', ['triqdef', 'qat'])
def test_a_network_that_writes_into_its_input(name):
    "The network normalises its input in place: the second bit-width would see it normalised twice."
    class Net(ToyNet):
        def forward(self, x): return super().forward(x.sub_(.1))
    with pytest.raises(ValueError, match='xb was changed'): fitted(OURS[name](), net=to_multibit(Net(), BITS))

def test_a_loss_for_each_image():
    "`reduction='none'`: refused in words, before the first step."
    with pytest.raises(ValueError, match='one number for a batch'): fitted(JointQAT(), loss_func=nn.CrossEntropyLoss(reduction='none'))

def test_metrics_ask_for_what_is_there():
    "A bit-width that the network lacks is refused before training; labels that are no classes never broadcast (fastai #3440)."
    net = network(); before = weights(net)
    with pytest.raises(ValueError, match='accuracy_at must be one of'): fitted(JointQAT(), net=net, metrics=accuracy_at(32, 8))
    assert same(weights(net), before)
    with pytest.raises(ValueError, match='acc_32 needs labels'): fitted([], dls=one_hot_dls(), metrics=accuracy_at(32))

def test_training_metrics():
    "`train_metrics=True`: accuracy at each bit-width of the training images, and the training is the same."
    plain = fitted(JointQAT(), metrics=accuracy_at(*BITS))
    learn = learner(JointQAT(), metrics=accuracy_at(*BITS))
    learn.recorder.train_metrics = True
    learn.fit(1, 1e-3)
    assert same(weights(learn.model), weights(plain.model))
    assert learn.final_record[-3:] == plain.final_record[-3:] and len(learn.final_record) == 8

class Averages(Callback):
    "An averaged copy, as people write it for fastai."
    def __init__(self, make): self.make = make
    def before_fit(self): self.copy = self.make(self.learn.model)
    def after_step(self): (self.copy.update if hasattr(self.copy, 'update') else self.copy.update_parameters)(self.learn.model)

@pytest.mark.parametrize('make', [lambda net: ModelEmaV3(net, decay=.5), AveragedModel])
def test_averaged_copies(make):
    "EMA of timm and SWA of torch beside the callback: the training is the same, the copy runs at each bit-width (timm #245)."
    plain, averages = fitted(TriQDef(**SMALL)), Averages(make)
    learn = fitted([TriQDef(**SMALL), averages])
    assert same(weights(learn.model), weights(plain.model))
    x, kept = toy_images(8)[0], weights(averages.copy)
    outs = []
    for b in BITS:
        with at_bits(averages.copy, b), torch.no_grad(): outs.append(averages.copy.eval()(x))
    assert same(weights(averages.copy), kept) and not torch.equal(outs[0], outs[2])

@pytest.mark.parametrize('name', ['triqdef', 'dwq', 'noise'])
def test_the_callbacks_of_fastai_together(name, tmp_path):
    "Clipping, accumulation, mixed precision, plateaus, early stopping, the best model and a log, all at once."
    cb = OURS[name]()
    more = [GradientClip(1.), GradientAccumulation(32), MixedPrecision(), ReduceLROnPlateau(monitor='valid_loss'), ChannelsLast(),
            EarlyStoppingCallback(monitor='valid_loss', patience=5), SaveModelCallback(monitor='acc_2'), TerminateOnNaNCallback(),
            CSVLogger(tmp_path/'log.csv')]
    learn = learner([cb, *more], path=tmp_path, metrics=accuracy_at(*BITS))
    learn.fit_one_cycle(2, 1e-3)
    assert len(cb.history) == 8 and (tmp_path/'models'/'model.pth').is_file() and touched(learn.model)[1:3] == (0, 0)
    assert [c for c in learn.cbs if type(c).__name__ == 'Partner'] == []
