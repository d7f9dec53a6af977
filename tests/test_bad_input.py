"What users get wrong: each case is refused with an error that says what was given and what is allowed, and leaves nothing behind."
import copy, json, os, pickle, warnings
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback
from fastai.learner import Learner
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import triqdef.pixels as pixels
import triqdef.train.run as run
from triqdef.attack.gap import GAP
from triqdef.attack.patch import Patch, noise_patch, place
from triqdef.attack.pgd import PatchPGD
from triqdef.core import Normalize, atomic_path, check_images
from triqdef.data import ImageLoader, ImageTensors, check_loader, image_folder_dls, take
from triqdef.evaluate.alignment import alignment_report
from triqdef.evaluate.audit import Audit, AuditBudget, audit, broken
from triqdef.evaluate.curves import Curve, area_curve, steps_curve
from triqdef.evaluate.report import Report, report
from triqdef.evaluate.success import null_success, predict, success
from triqdef.evaluate.suite import attack_suite
from triqdef.evaluate.transfer import Transfer, evaluation_images, transfer_matrix
from triqdef.files import Resume
from triqdef.models import build_model
from triqdef.penalty.fdp import bit_pairs, fdp
from triqdef.penalty.gpdp import gpdp
from triqdef.percept.edges import canny_iou, edge_iou, gaussian_smooth
from triqdef.percept.features import feature_map
from triqdef.percept.gradients import gradient_map, input_gradient
from triqdef.percept.hog import hog, hog_cosine, soft_hog
from triqdef.quant.checkpoint import load_checkpoint, load_weights, pretrained, read_description, save_checkpoint
from triqdef.quant.convert import at_bits, calibrate, keep_bits, to_multibit
from triqdef.toys import toy_dls, toy_images, toy_net
from triqdef.train.callback import JointQAT, TriQDef
from triqdef.train.curriculum import BACT
from triqdef.train.objective import Objective

BITS = (32, 4, 2)


@pytest.fixture
def net(): return calibrate(to_multibit(toy_net(), BITS).eval(), [toy_images(16, seed=3)])

@pytest.fixture
def xy(): return toy_images(8)

@pytest.fixture
def fresh_warnings(monkeypatch): monkeypatch.setattr(pixels, '_warned', set())

def fit(net, *callbacks, dls=None, loss=F.cross_entropy):
    "One quiet epoch."
    learn = Learner(dls or toy_dls(32, 16), net, loss_func=loss, cbs=callbacks)
    learn.remove_cbs(learn.cbs.filter(lambda c: isinstance(c, ProgressCallback)))
    with learn.no_logging(): learn.fit(1, 1e-3)

def raises(kind, *telling):
    "`kind` itself, with every one of `telling` in its message, in one readable paragraph."
    class Context:
        def __enter__(self):
            self.info = pytest.raises(kind)
            return self.info.__enter__()
        def __exit__(self, *exc):
            out, value = self.info.__exit__(*exc), exc[1]
            for t in telling: assert t in str(value), f'{str(value)!r} does not say {t!r}'
            assert len(str(value)) < 600
            return out
    return Context()

def snapshot(net):
    "Everything a call might have changed: tensors, modes, flags, the active bit-width."
    return (copy.deepcopy(net.state_dict()), [m.training for m in net.modules()], [p.requires_grad for p in net.parameters()],
            [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules()], net.bit_state.bits, net.bit_state.observing)

def same(a, b): return all(torch.equal(v, b[0][k]) for k, v in a[0].items()) and a[1:] == b[1:]

def files(folder): return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))

def of_bits(net, x, y):
    "Every public call that takes a bit-width."
    batches = [(x, y)]
    pgd, gap = PatchPGD(4, steps=1), GAP(4, 1, steps=1)
    return dict(at_bits=lambda b: at_bits(net, b).__enter__(), keep_bits=lambda b: keep_bits(net, b),
                calibrate=lambda b: calibrate(net, batches, bits=(b,)), pgd=lambda b: pgd.attack(net, x, y, bits=b),
                gap=lambda b: gap.fit(net, batches, bits=b), predict=lambda b: predict(net, x, bits=b),
                success=lambda b: success(net, x, y, x, bits=b), objective=lambda b: Objective(0, 0, 0)(net, x, y, bits=(32, b)),
                transfer=lambda b: transfer_matrix(net, batches, pgd, bits=(b,), progress=False),
                alignment=lambda b: alignment_report(net, batches, (32, b), n=8, progress=False),
                **{k: partial(f, net, batches) for k, f in OVER_BITS.items()})

def small_report(net, dl, **how):
    "A report of seconds without an audit."
    return report(net, dl, PatchPGD(4, steps=1), n_align=0, audit=False, progress=False, **how)

TINY = AuditBudget(n=8, steps=1, queries=2, n_smooth=2, smooth_steps=1, copies=1)
OVER_BITS = dict(area_curve=lambda net, dl, b: area_curve(net, dl, PatchPGD(4, steps=1), (4,), bits=(b,), progress=False),
                 steps_curve=lambda net, dl, b: steps_curve(net, dl, PatchPGD(4, steps=1), (1,), bits=(b,), progress=False),
                 audit=lambda net, dl, b: audit(net, dl, bits=(b,), budget=TINY, lines=(5,), progress=False),
                 report=lambda net, dl, b: small_report(net, dl, bits=(b,)))
CALLS = ('at_bits', 'keep_bits', 'calibrate', 'pgd', 'gap', 'predict', 'success', 'objective', 'transfer', 'alignment', *OVER_BITS)

@pytest.mark.parametrize('call', CALLS)
def test_bits_outside_the_network(call, net, xy):
    before = snapshot(net)
    with raises(ValueError, '(32, 4, 2)', 'got 3'): of_bits(net, *xy)[call](3)
    with raises(ValueError, 'between 1 and 32', 'got 64'): of_bits(net, *xy)[call](64)
    assert same(snapshot(net), before)

@pytest.mark.parametrize('call', CALLS)
@pytest.mark.parametrize('bad', ['4', 4., True, torch.tensor(4.)])
def test_bits_of_the_wrong_type(call, bad, net, xy):
    before = snapshot(net)
    with raises(TypeError, 'int', 'got'): of_bits(net, *xy)[call](bad)
    assert same(snapshot(net), before)

def test_bits_of_a_new_network():
    plain = toy_net()
    for bad, kind, say in [('32', TypeError, 'sequence of ints'), (4, TypeError, 'sequence of ints'), ((), ValueError, 'empty'),
                           ((4, 4), ValueError, 'twice'), ((32, 1), ValueError, 'between 2 and 16'), ((24,), ValueError, 'got 24'),
                           ((0,), ValueError, 'between 1 and 32'), ((8., 4), TypeError, '8.0')]:
        with raises(kind, say): to_multibit(plain, bad)
    with raises(TypeError, 'first_last'): to_multibit(plain, BITS, first_last='8')
    with raises(ValueError, 'quantizer', "'lsq'", "'nf4'"): to_multibit(plain, BITS, weight='nf4')
    with raises(ValueError, 'already'): to_multibit(to_multibit(plain, BITS), BITS)
    with raises(ValueError, '32'):
        with at_bits(plain, 4): pass
    with raises(ValueError, 'to_multibit'): calibrate(plain, [toy_images(4)])
    with raises(ValueError, 'to_multibit'): keep_bits(plain, 4)

def test_bits_of_a_fit(net):
    before = snapshot(net)
    with raises(ValueError, '(32, 4, 2)', 'got 3'): fit(net, JointQAT(bits=(32, 3)))
    with raises(ValueError, 'to_multibit'): fit(toy_net(), JointQAT())
    with raises(ValueError, 'curriculum.bits', 'got 2'): fit(net, JointQAT(bits=(32, 4), curriculum=BACT(BITS)))
    assert same(snapshot(net)[:1], before[:1])
    with raises(ValueError, 'lambda_fdp', '-1'): TriQDef(lambda_fdp=-1)
    with raises(ValueError, 'lambda_adv', 'nan'): TriQDef(lambda_adv=float('nan'))
    with raises(ValueError, 'two', '(4,)'): bit_pairs((4,))
    with raises(ValueError, "'neighbours'", "'every'"): bit_pairs(BITS, 'every')
    with raises(ValueError, 'max_active', '1'): BACT(BITS, max_active=1)


# images

@pytest.mark.parametrize('call', ['calibrate', 'check_loader', 'fit'])
def test_images_out_of_range_warn_once(call, net, xy, fresh_warnings):
    "Images in 0…255, where nothing is attacked or evaluated: one warning that names the range, and the work goes on."
    x, y = xy[0]*255, xy[1]
    x[0, 0, 0, 0] = 255
    dls = toy_dls(32, 8)
    dls.train.dataset[:] = [(255*a/a.max(), b) for a, b in dls.train.dataset]
    run = dict(calibrate=lambda: calibrate(net, [(x, y)]), check_loader=lambda: check_loader([(x, y)]), fit=lambda: fit(net, JointQAT(), dls=dls))[call]
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        run(); run()
    said = [str(w.message) for w in seen if issubclass(w.category, UserWarning) and '[0,1]' in str(w.message)]
    assert len(said) == 1, said
    assert '255]' in said[0] and 'inside the model' in said[0]

PIXELS = dict(pgd=lambda net, x, y: PatchPGD(4, steps=1).attack(net, x, y), apply=lambda net, x, y: Patch(torch.rand(3, 4, 4)).apply(x),
              gradient=input_gradient, predict=lambda net, x, y: predict(net, x), loader=lambda net, x, y: predict(net, [(x, y)]),
              success=lambda net, x, y: success(net, x, y, x), null=lambda net, x, y: null_success(net, x, y, 4))

@pytest.mark.parametrize('call', PIXELS)
def test_images_out_of_range_are_refused(call, net, xy):
    "Attacks, patches and evaluations refuse bytes as floats and normalised images in the same words."
    (x, y), before = xy, snapshot(net)
    for z in ((x - .5)/.25, 255*x):
        with raises(ValueError, 'not in [0,1]', 'inside the model (triqdef.pixels.Normalize, see tutorial 02)'): PIXELS[call](net, z, y)
    assert same(snapshot(net), before)

EVIDENCE = dict(images=lambda net, dl: evaluation_images(net, dl), transfer=lambda net, dl: transfer_matrix(net, dl, PatchPGD(4, steps=1), progress=False),
                alignment=lambda net, dl: alignment_report(net, dl, n=8, progress=False), report=small_report,
                area_curve=lambda net, dl: area_curve(net, dl, PatchPGD(4, steps=1), (4,), progress=False),
                steps_curve=lambda net, dl: steps_curve(net, dl, PatchPGD(4, steps=1), (1,), progress=False),
                audit=lambda net, dl: audit(net, dl, budget=TINY, lines=(5,), progress=False))

@pytest.mark.parametrize('call', EVIDENCE)
def test_evidence_from_images_that_are_normalised_already(call, net, xy):
    "What is reported is never measured on other pixels than those in [0,1]: an error, not a warning."
    (x, y), before = xy, snapshot(net.train())
    for z in ((x - .5)/.25, 255*x):
        with raises(ValueError, '[0,1]', 'normalised already', 'inside the model'): EVIDENCE[call](net, [(z, y)])
    assert same(snapshot(net), before)

@pytest.mark.parametrize('call', EVIDENCE)
def test_evidence_with_labels_of_another_network(call, net, xy):
    (x, y), before = xy, snapshot(net.train())
    for bad in (y + 4, y*0 - 1):
        with raises(ValueError, 'labels lie in', '4 classes', '0…3'): EVIDENCE[call](net, [(x, bad)])
    with raises(ValueError, 'float32'): EVIDENCE[call](net, [(x, y.float())])
    assert same(snapshot(net), before)

@pytest.mark.parametrize('call', EVIDENCE)
def test_evidence_from_an_empty_loader(call, net):
    before = snapshot(net)
    for nothing in ([], Nothing()):
        with raises(ValueError, 'empty'): EVIDENCE[call](net, nothing)
    assert same(snapshot(net), before)

@pytest.mark.parametrize('call', EVIDENCE)
def test_evidence_in_training_mode(call, net, xy):
    "Evaluated in eval mode; modes, statistics and flags come back."
    x, y = xy
    net.train(); net.layer1.eval(); net.fc.weight.requires_grad_(False)
    before = snapshot(net)
    EVIDENCE[call](net, [(x, y)])
    assert same(snapshot(net), before)

def test_settings_of_the_evidence(net, xy):
    dl, pgd = [xy], PatchPGD(4, steps=1)
    for call, say in ((lambda: steps_curve(net, dl, pgd, (0, 1)), '1 or more'), (lambda: area_curve(net, dl, pgd, (0,)), 'at least one pixel'),
                      (lambda: area_curve(net, dl, pgd, (17,)), '17 × 17'), (lambda: area_curve(net, dl, pgd, ()), 'empty'),
                      (lambda: audit(net, dl, lines=(99,)), 'lines'), (lambda: AuditBudget(queries=0), 'queries'), (lambda: AuditBudget(steps=-1), 'steps'),
                      (lambda: AuditBudget(sizes=(.1, 1.2)), '1.2'), (lambda: AuditBudget(tolerance=2.), 'tolerance'), (lambda: broken(net, 'magic'), "'magic'"),
                      (lambda: attack_suite(('pgd',), pgd=0), 'at least 1'), (lambda: attack_suite(('fgsm',)), "'fgsm'"),
                      (lambda: attack_suite(('sparse-rs',), queries=0), 'queries'), (lambda: attack_suite(size=0), 'at least one pixel')):
        with raises(ValueError, say): call()

def test_images_in_range_do_not_warn(net, xy, fresh_warnings):
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        PatchPGD(4, steps=1).attack(net, *xy); check_images(torch.zeros(1, 3, 4, 4)); check_images(torch.ones(1, 3, 4, 4))

BAD_IMAGES = {'bytes': (lambda x: (x*255).byte(), TypeError, 'torch.uint8'), 'numpy': (lambda x: x.numpy(), TypeError, 'ndarray'),
              'one image': (lambda x: x[0], ValueError, '(B,C,H,W)'), 'none': (lambda x: x[:0], ValueError, 'empty')}

@pytest.mark.parametrize('kind', BAD_IMAGES)
def test_what_is_no_image_batch(kind, net, xy):
    make, error, say = BAD_IMAGES[kind]
    (x, y), before = xy, snapshot(net)
    for call in (lambda v: PatchPGD(4, steps=1).attack(net, v, y[:len(v)]), lambda v: input_gradient(net, v, y[:len(v)]),
                 lambda v: Patch(torch.rand(3, 4, 4)).apply(v), check_images):
        with raises(error, say): call(make(x))
    assert same(snapshot(net), before)

def test_nan_pixels(net, xy):
    (x, y), before = xy, snapshot(net)
    x = x.clone(); x[3, 1, 2, 5] = float('nan')
    calls = [lambda: PatchPGD(4, steps=1).attack(net, x, y), lambda: GAP(4, 1, steps=1).fit(net, [(x, y)]),
             lambda: Patch(torch.rand(3, 4, 4)).apply(x), lambda: input_gradient(net, x, y), lambda: calibrate(net, [(x, y)]),
             lambda: predict(net, x), lambda: predict(net, [(x, y)]), lambda: check_loader([(x, y)]), lambda: Objective(1, 0, 0)(net, xy[0], y, x, BITS),
             lambda: transfer_matrix(net, [(x, y)], PatchPGD(4, steps=1), progress=False)]
    for call in calls:
        with raises(ValueError, 'NaN'): call()
    assert same(snapshot(net), before)
    bad, good = x[:, 1:2], xy[0][:, 1:2]
    for measure in (edge_iou, hog_cosine, canny_iou):
        with raises(ValueError, 'NaN'): measure(good, bad)
    with raises(ValueError, 'NaN'): Patch(torch.full((3, 2, 2), float('nan')))
    for wrong in (torch.full((3, 2, 2), 1.5), torch.full((3, 2, 2), -.5)):
        with raises(ValueError, 'pixels of a patch must lie in [0,1]'): Patch(wrong)

def test_nan_in_training_names_the_term(net):
    "A loss that turns NaN stops the run, says which term, and writes nothing of it into the weights."
    calls = []
    def loss(logits, y):
        calls.append(1)
        return F.cross_entropy(logits, y)*(float('nan') if len(calls) > 6 else 1.)
    with raises(FloatingPointError, 'clean', 'not finite', 'step'): fit(net, JointQAT(curriculum=BACT(BITS, warmup=0.)), dls=toy_dls(64, 16), loss=loss)
    assert all(p.isfinite().all() for p in net.parameters()) and net.bit_state.bits == 32

def test_labels_that_do_not_fit(net, xy):
    x, y = xy
    with raises(ValueError, '4 classes', '7'): GAP(4, 1, steps=1).fit(net, [(x, y + 4)])
    with raises(ValueError, 'target', '4 classes', 'got 9'): GAP(4, 9, steps=1).fit(net, [(x, y)])
    with raises(ValueError, 'target', 'got 9'): PatchPGD(4, steps=1, target=9).attack(net, x, y)
    with raises(ValueError, '(8,)', '(5,)'): PatchPGD(4, steps=1).attack(net, x, y[:5])
    with raises(ValueError, '(8,)'): input_gradient(net, x, y[:5])
    with raises(ValueError, '7', '4 classes'): check_loader([(x, y + 4)], net)
    with raises(ValueError, '8 images', '5 labels'): ImageTensors(x, y[:5])

def test_patch_larger_than_the_image(net, xy):
    (x, y), before = xy, snapshot(net)
    big = Patch(torch.rand(3, 20, 20))
    calls = [lambda: PatchPGD(20, steps=1).attack(net, x, y), lambda: GAP(20, 1, steps=1).fit(net, [(x, y)]), lambda: big.apply(x),
             lambda: place(x, big.image, (0, 0)), lambda: null_success(net, x, y, 20), lambda: big.area((16, 16)),
             lambda: big.apply(x, angle=10.), lambda: transfer_matrix(net, [(x, y)], PatchPGD(20, steps=1), progress=False)]
    for call in calls:
        with raises(ValueError, '20 × 20', '16 × 16'): call()
    assert same(snapshot(net), before)

def test_patch_settings(xy):
    x = xy[0]
    for make in (PatchPGD, GAP):
        with raises(ValueError, 'at least one pixel'): make(0)
        with raises(TypeError, 'pixels', '4.5'): make(4.5)
        with raises(ValueError, 'steps', '0'): make(4, steps=0)
        with raises(ValueError, "'square'", "'star'"): make(4, shape='star')
    with raises(ValueError, 'inside the image'): place(x, torch.rand(3, 4, 4), (13, 0))
    with raises(TypeError, 'whole pixels'): place(x, torch.rand(3, 4, 4), (1.5, 0))
    with raises(ValueError, '(3,h,w)'): place(x, torch.rand(1, 4, 4), (0, 0))
    with raises(ValueError, 'no place left'): Patch(torch.rand(3, 4, 4)).apply(x, forbidden=[(0, 0, 16, 16)])
    with raises(ValueError, 'scale', 'positive'): place(x, torch.rand(3, 4, 4), (0, 0), scale=0.)
    with raises(TypeError): noise_patch(x, 'small')


# data

class Nothing:
    "A loader without a batch, with what fastai asks of one."
    def __iter__(self): return iter(())
    def __len__(self): return 0

def test_empty_loader(net, xy):
    before = snapshot(net)
    calls = [lambda: calibrate(net, []), lambda: calibrate(net, Nothing()), lambda: GAP(4, 1, steps=1).fit(net, []),
             lambda: predict(net, []), lambda: take([]), lambda: check_loader([]), lambda: ImageLoader(ImageTensors(xy[0][:0], xy[1][:0])),
             lambda: transfer_matrix(net, [], PatchPGD(4, steps=1), progress=False)]
    for call in calls:
        with raises(ValueError, 'empty'): call()
    assert same(snapshot(net), before)

def test_empty_loader_in_a_fit(net):
    dls = toy_dls(8, bs=32); dls.train.drop_last = True
    assert not len(list(dls.train))
    with raises(ValueError, 'empty'): fit(net, JointQAT(), dls=dls)

def write_pictures(folder, classes, n=4):
    rng = np.random.default_rng(0)
    for c in classes:
        (folder/c).mkdir(parents=True)
        for i in range(n): Image.fromarray(rng.integers(0, 255, (12, 12, 3), dtype=np.uint8)).save(folder/c/f'{i}.png')

def test_one_class(tmp_path, net, xy):
    write_pictures(tmp_path/'one', ['cat'])
    with raises(ValueError, 'cat', 'one class'): image_folder_dls(tmp_path/'one', size=12)
    x, y = xy
    with raises(ValueError, 'no image to attack', '2'): GAP(4, 2, steps=1).fit(net, [(x, torch.full_like(y, 2))])
    s = success(net, x, torch.full_like(y, 2), x, target=2)['asr_targeted']
    assert s.rate.n == 0 and np.isnan(s.value) and s.interval == (0., 1.) and 'n=0' in str(s)
    s = success(net, x, torch.full_like(y, 2), x)['asr_all']
    assert s.rate.n == len(y)

def test_folders(tmp_path):
    with raises(ValueError, 'no folder'): image_folder_dls(tmp_path/'absent')
    with raises(ValueError, 'no images'): (tmp_path/'bare'/'a').mkdir(parents=True); image_folder_dls(tmp_path/'bare')
    write_pictures(tmp_path/'two'/'train', ['a', 'b'])
    with raises(ValueError, 'valid'): image_folder_dls(tmp_path/'two')
    write_pictures(tmp_path/'bad', ['a', 'b'])
    (tmp_path/'bad'/'a'/'0.png').write_bytes(b'no picture')
    with raises(ValueError, '0.png'): image_folder_dls(tmp_path/'bad', size=12, in_memory=True, bs=2)

def test_nothing_to_quantize():
    for empty in (nn.ReLU(), nn.Sequential(nn.BatchNorm2d(3), nn.Flatten()), nn.Sequential(), Normalize([.5]*3, [.5]*3)):
        with raises(ValueError, 'nothing to quantize', 'Conv2d', 'Linear'): to_multibit(empty, BITS)
    with raises(ValueError, 'nothing to quantize'): to_multibit(nn.Sequential(nn.Conv2d(3, 4, 3)), BITS, skip='0')
    with raises(ValueError, 'skip', "'conv9'"): to_multibit(toy_net(), BITS, skip=['conv9'])
    with raises(TypeError, 'nn.Module', 'str'): to_multibit('resnet20', BITS)


# maps

def test_two_dimensional_maps():
    m, four = torch.rand(24, 24), torch.rand(2, 1, 24, 24)
    for f in (edge_iou, hog_cosine, canny_iou):
        for bad in (m, m[None], torch.rand(2, 3, 24, 24), four[:0]):
            with raises(ValueError, '(B,1,H,W)', 'm[None, None]', str(tuple(bad.shape))): f(bad, bad)
        with raises(ValueError, 'one shape'): f(four, four[..., 1:])
        with raises(TypeError, 'ndarray'): f(m.numpy(), m.numpy())
        with raises(TypeError, 'int64'): f(four.long(), four.long())
    for f in (hog, soft_hog):
        with raises(ValueError, '(B,1,H,W)'): f(m)
    for f in (feature_map, gradient_map):
        with raises(ValueError, '(B,C,H,W)'): f(m)
    with raises(ValueError, '(B,C,H,W)'): fdp({32: [m], 4: [m]})
    with raises(ValueError, '(B,C,H,W)'): gpdp({32: m, 4: m})
    with raises(TypeError, 'dict'): gpdp([four, four])
    with raises(ValueError, 'same stages'): fdp({32: [four], 4: [four, four]})
    with raises(ValueError, 'one shape'): gpdp({32: four, 4: four[..., 1:]})
    with raises(ValueError, '24×24', 'at least 30×30'): hog(four, cell=10)
    with raises(ValueError, 'sigma', '-1'): gaussian_smooth(four, -1.)
    with raises(ValueError, 'smooth', 'nan'): edge_iou(four, four, smooth=float('nan'))


# files

@pytest.fixture
def saved(tmp_path, net):
    return save_checkpoint(net, tmp_path/'net.safetensors', 'toy_net', 4)

def test_checkpoint_of_another_network(saved, tmp_path):
    for other, say in ((build_model('resnet8', 4), 'unknown'), (toy_net(7), 'unknown'), (to_multibit(toy_net(), (32, 8)), 'missing'),
                       (to_multibit(toy_net(7), BITS), 'fc.weight'), (to_multibit(toy_net(), BITS, act='minmax'), 'ranges'),
                       (to_multibit(toy_net(width=4), BITS), 'of another shape')):
        before = copy.deepcopy(other.state_dict())
        with raises(ValueError, 'another network', say, saved.name): load_weights(other, saved)
        assert all(torch.equal(v, before[k]) for k, v in other.state_dict().items()), 'half loaded'
    header = dict(format='triqdef-1', arch='resnet8', n_classes=4, quant=None, meta={})
    save_file(load_file(saved), tmp_path/'lie.safetensors', metadata={'triqdef': json.dumps(header)})
    with raises(ValueError, 'another network'): load_checkpoint(tmp_path/'lie.safetensors')
    save_file(load_file(saved), tmp_path/'foreign.safetensors')
    with raises(ValueError, 'not written by save_checkpoint'): load_checkpoint(tmp_path/'foreign.safetensors')
    header['arch'] = 'os.system'
    save_file(load_file(saved), tmp_path/'arch.safetensors', metadata={'triqdef': json.dumps(header)})
    with raises(ValueError, 'arch', "'toy_net'", "'os.system'"): load_checkpoint(tmp_path/'arch.safetensors')

@pytest.mark.parametrize('header', ['{', '[]', '{}', '{"format": "triqdef-9"}', '{"arch": 3, "n_classes": "x", "quant": 4}',
                                    '{"format": "triqdef-1", "arch": "toy_net", "n_classes": 4, "quant": {"bits": "many"}, "meta": {}}'])
def test_checkpoint_with_a_damaged_description(header, saved, tmp_path):
    save_file(load_file(saved), tmp_path/'bad.safetensors', metadata={'triqdef': header})
    with raises((ValueError, TypeError)): load_checkpoint(tmp_path/'bad.safetensors')

def test_truncated_checkpoint(saved):
    whole = saved.read_bytes()
    for n in (0, 1, 7, 8, 9, 100, len(whole)//2, len(whole) - 1):
        saved.write_bytes(whole[:n])
        for f in (load_checkpoint, read_description, lambda p: load_weights(toy_net(), p)):
            with raises(ValueError, saved.name, 'truncated'): f(saved)
    for damage in (whole + b'\0', b'\xff'*8 + whole[8:], b'not a network at all'):
        saved.write_bytes(damage)
        with raises(ValueError, saved.name): load_checkpoint(saved)
    with raises(FileNotFoundError, 'absent'): load_checkpoint(saved.with_name('absent'))
    with raises((FileNotFoundError, ValueError, IsADirectoryError)): load_checkpoint(saved.parent)

class Trap:
    "An object whose unpickling leaves a mark."
    def __init__(self, mark): self.mark = str(mark)
    def __reduce__(self): return os.mkdir, (self.mark,)

def traps(trap, path):
    "Ways to write a pickle with code in it: torch's zip, torch's old form, every protocol."
    yield lambda: torch.save(dict(model=trap), path)
    yield lambda: torch.save(trap, path, _use_new_zipfile_serialization=False)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        yield lambda: path.write_bytes(pickle.dumps(trap, protocol))

def test_the_trap_works(tmp_path):
    path = tmp_path/'trap.pt'
    torch.save(Trap(tmp_path/'mark'), path)
    torch.load(path, weights_only=False)
    assert (tmp_path/'mark').exists()

def test_checkpoint_that_is_a_pickle_with_code(tmp_path):
    path, mark = tmp_path/'net.safetensors', tmp_path/'mark'
    for i, write in enumerate(traps(Trap(mark), path)):
        write()
        for f in (load_checkpoint, read_description, lambda p: load_weights(toy_net(), p)):
            with raises(ValueError, 'net.safetensors'): f(path)
        if i < 2:
            with raises(ValueError, 'pickle', 'refused'): load_checkpoint(path)
        assert not mark.exists(), 'code was run'

def test_names_that_are_paths():
    for name in ('../../evil', '/etc/passwd', '', 'resnet20.safetensors'):
        with raises(ValueError, 'name must be one of'): pretrained(name)

def test_failed_save_leaves_the_old_file(saved, net, tmp_path, monkeypatch):
    before, listing = saved.read_bytes(), files(tmp_path)
    with raises(ValueError, 'arch'): save_checkpoint(net, saved, 'no_such', 4)
    with raises(TypeError, 'JSON'): save_checkpoint(net, saved, 'toy_net', 4, meta=dict(f=open))
    def broken(tensors, path, **kwargs): path.write_bytes(b'half'); raise OSError(28, 'No space left on device')
    monkeypatch.setattr('triqdef.quant.checkpoint.save_file', broken)
    with raises(OSError, 'No space left'): save_checkpoint(net, saved, 'toy_net', 4)
    assert saved.read_bytes() == before and files(tmp_path) == listing

def test_atomic_path_after_an_interrupt(tmp_path):
    (tmp_path/'f.txt').write_text('old')
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path/'f.txt') as tmp: tmp.write_text('new'); raise KeyboardInterrupt
    assert (tmp_path/'f.txt').read_text() == 'old' and files(tmp_path) == ['f.txt']

def test_patch_files(tmp_path):
    path = Patch(torch.rand(3, 4, 4), target=1).save(tmp_path/'p')
    with raises(ValueError, 'absent'): Patch.load(tmp_path/'absent')
    whole = path.read_bytes()
    for damage in (b'', whole[:40], whole[:len(whole)//2], b'GIF89a'):
        path.write_bytes(damage)
        with raises(ValueError, 'p.png'): Patch.load(tmp_path/'p')
    Image.new('RGB', (4, 4)).save(path)
    with raises(ValueError, 'does not hold the pixels'): Patch.load(tmp_path/'p')
    (tmp_path/'p.json').write_text('{"format": "other"}')
    with raises(ValueError, 'p.json'): Patch.load(tmp_path/'p')
    listing = files(tmp_path)
    with raises(TypeError, 'JSON'): Patch(torch.rand(3, 4, 4), meta=dict(f=open)).save(tmp_path/'q')
    assert files(tmp_path) == listing

@pytest.mark.parametrize('key, bad', [('target', 'cat'), ('target', [1]), ('shape_name', 'star'), ('shape', [3, 4, 5]), ('sha256', 5), ('meta', 3), ('format', 'triqdef-patch-9')])
def test_patch_file_with_a_damaged_description(key, bad, tmp_path):
    Patch(torch.rand(3, 4, 4), target=1).save(tmp_path/'p')
    notes = json.loads((tmp_path/'p.json').read_text())
    (tmp_path/'p.json').write_text(json.dumps({**notes, key: bad}))
    with pytest.raises(ValueError): Patch.load(tmp_path/'p')
    del notes[key]
    (tmp_path/'p.json').write_text(json.dumps(notes))
    with raises(ValueError, 'p.json'): Patch.load(tmp_path/'p')

def test_patch_file_of_another_kind(tmp_path):
    "The pixels are compared, whatever the picture is."
    path = Patch(torch.rand(3, 4, 4)).save(tmp_path/'p')
    for mode in ('L', 'RGBA', 'P', '1', 'I;16'):
        Image.new(mode, (4, 4)).save(path)
        with raises(ValueError, 'p.png'): Patch.load(tmp_path/'p')

def test_state_files(tmp_path):
    "A file that says it is a state and lacks a part of one."
    path = tmp_path/'state'
    for meta in ({}, {'key': 'k'}, {'key': 'k', 'notes': '{'}, {'key': 'other', 'notes': '{}'}):
        save_file({'a': torch.zeros(2)}, path, metadata={'format': 'triqdef-state-1', **meta})
        with raises(ValueError, 'state'): Resume(path, 'k').load()
    with pytest.raises(ValueError, match='every'): Resume(path, 'k', every=-1)

@pytest.mark.parametrize('kind', ['transfer', 'curve', 'audit', 'report'])
def test_damaged_evidence(kind, net, xy, tmp_path):
    "What was saved and then damaged is refused by the name of its file."
    dl, d = [xy], tmp_path/'out'
    thing = EVIDENCE[dict(curve='area_curve').get(kind, kind)](net, dl)
    thing.save(d)
    load = dict(transfer=Transfer, curve=Curve, audit=Audit, report=Report)[kind].load
    load(d)
    for f in sorted(d.rglob('*')):
        if f.suffix not in ('.json', '.safetensors') or f.stem == 'versions': continue
        whole = f.read_bytes()
        for damage in (b'', whole[:len(whole)//2], b'[]'):
            f.write_bytes(damage)
            with pytest.raises(ValueError, match=f.name): load(d)
        f.write_bytes(whole)
    load(d)
    with pytest.raises(ValueError, match='missing'): load(tmp_path/'absent')


# runs and reports

def settings(**kwargs):
    return run.TrainSettings(**dict(dict(method='qat', data='toys', arch='toy_net', bits=(32, 2), epochs=1, bs=64, device='cpu'), **kwargs))

def train(settings, folder): return run.train(settings, folder, progress=False)

BAD_RUNS = {'method': (dict(method='fgsm'), "'triqdef'", "'fgsm'"), 'arch': (dict(arch='vgg'), "'resnet20'", "'vgg'"),
            'data': (dict(data='mnist'), "'cifar10'", "'mnist'"), 'epochs': (dict(epochs=0), 'epochs', '0'),
            'bits': (dict(bits=(32, 32)), 'twice'), 'low bits': (dict(bits=(32, 1)), 'between 2 and 16'), 'lr': (dict(lr=0.), 'lr', '0'),
            'nan lr': (dict(lr=float('nan')), 'lr', 'nan'), 'batch': (dict(bs=-1), 'bs', '-1'), 'start': (dict(start='nowhere.safetensors'), 'start', 'nowhere'),
            'patch': (dict(method='triqdef', patch_size=64), '64 × 64', '16 × 16'), 'lambda': (dict(method='triqdef', lambda_fdp=-1.), 'lambda_fdp', '-1'),
            'pairs': (dict(method='triqdef', pairs='some'), "'neighbours'", "'some'"), 'weight': (dict(weight='nf4'), "'lsq'", "'nf4'")}

@pytest.mark.parametrize('name', BAD_RUNS)
def test_settings_of_a_run(name, tmp_path):
    "Refused, and the folder is as if the call had never been made, so that the corrected call works."
    given, *telling = BAD_RUNS[name]
    with raises(ValueError, *telling): train(settings(**given), tmp_path/'run')
    train(settings(), tmp_path/'run')
    assert 'network.safetensors' in files(tmp_path/'run')

def places_nobody_can_write(tmp_path):
    "Folders that cannot be made or written: below a file, a file itself, and, unless we are root, read-only ones."
    (tmp_path/'file').write_text('mine')
    yield tmp_path/'file'/'below'
    yield tmp_path/'file'
    if os.geteuid():
        (tmp_path/'locked').mkdir(mode=0o555)
        yield tmp_path/'locked'
        yield tmp_path/'locked'/'below'

def test_unwritable_run_folder(tmp_path):
    for folder in places_nobody_can_write(tmp_path):
        listing = files(tmp_path)
        with raises((PermissionError, NotADirectoryError, FileExistsError), 'file' if 'file' in str(folder) else 'locked'): train(settings(), folder)
        assert files(tmp_path) == listing and (tmp_path/'file').read_text() == 'mine'

def test_unwritable_report_folder(net, tmp_path):
    m = transfer_matrix(net, [toy_images(8)], PatchPGD(4, steps=1), bits=(32, 2), progress=False)
    for folder in places_nobody_can_write(tmp_path):
        listing = files(tmp_path)
        with pytest.raises((PermissionError, NotADirectoryError, FileExistsError, ValueError)): m.save(folder)
        assert files(tmp_path) == listing and (tmp_path/'file').read_text() == 'mine'

def test_run_folder_of_something_else(tmp_path):
    (tmp_path/'thesis.tex').write_text('mine')
    with raises(ValueError, 'holds no run'): train(settings(), tmp_path)
    assert files(tmp_path) == ['thesis.tex']

class Stop(Callback):
    "Ctrl-C in the second epoch."
    def after_batch(self):
        if self.training and self.epoch == 1: raise KeyboardInterrupt

def interrupted(folder):
    "An interrupted run; gives the call that goes on with it, and its state."
    with pytest.raises(KeyboardInterrupt): run.train(settings(epochs=2), folder, progress=False, cbs=[Stop()])
    return lambda: train(settings(epochs=2), folder), folder/'state.pt'

def test_run_state_that_is_a_pickle_with_code(tmp_path):
    "An interrupted run whose state was replaced: refused, nothing run."
    go_on, path = interrupted(tmp_path/'run')
    mark = tmp_path/'mark'
    for write in traps(Trap(mark), path):
        write()
        with pytest.raises(Exception) as info: go_on()
        assert not mark.exists(), 'code was run'
        assert isinstance(info.value, ValueError) and 'state.pt' in str(info.value), repr(info.value)[:200]
        assert 'weights_only' not in str(info.value), 'the message teaches how to run the code'

def test_truncated_run_state(tmp_path):
    go_on, path = interrupted(tmp_path/'run')
    whole = path.read_bytes()
    for n in (0, 10, len(whole)//2, len(whole) - 1):
        path.write_bytes(whole[:n])
        with raises(ValueError, 'state.pt'): go_on()
    path.write_bytes(whole)
    assert len(go_on().history) == 2
