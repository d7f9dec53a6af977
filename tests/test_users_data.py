"Data as users have it: folders, labels and pictures that neighbouring tools' users reported, through our loaders."
import os, pickle, unicodedata, warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.progress import ProgressCallback
from fastai.interpret import ClassificationInterpretation
from fastai.learner import Learner, load_learner
from fastai.vision.all import PILImage, plot_top_losses     # noqa: the dispatch of plot_top_losses
from PIL import Image
from torch.nn.functional import one_hot

from triqdef.classifiers import classifier, head_tensors, read_state
from triqdef.core import Normalize, fixed_seed
from triqdef.data import (class_files, check_loader, image_dls, image_folder_dls, ImageLoader, ImageTensors, natural_key, open_rgb,
                          part_of, read_image, take)
from triqdef.files import read_json, write_json
from triqdef.imagenet import ImageNetFiles, Preset
from triqdef.toys import tensor_dls, toy_images, toy_net


def lay_out(folder, classes=('cat', 'dog'), n=6, start=0, size=16):
    "n different pictures in a folder for each class."
    for k, c in enumerate(classes):
        (Path(folder)/c).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            pixels = np.random.default_rng((start, k, i)).integers(0, 256, (size, size, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(Path(folder)/c/f'{i}.png')

def loaders(folder, **kwargs): return image_folder_dls(folder, **{**dict(size=16, bs=4, device='cpu'), **kwargs})

def quiet(learn):
    learn.remove_cb(ProgressCallback)
    return learn

def told(f, *args, **kwargs):
    "What a call gives, and the warnings it gives."
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        out = f(*args, **kwargs)
    return out, ' | '.join(str(w.message) for w in seen)


@pytest.mark.parametrize('train, valid', [('Training', 'Testing'), ('Train', 'Test'), ('seg_train', 'seg_test'), ('train', 'validation'),
                                          ('train_images', 'val_images'), ('TRAIN', 'dev'), ('train2017', 'val2017')])
def test_split_folders_by_other_names(train, valid, tmp_path):
    "Split folders that are not called train and valid: fastai #1552, ultralytics #4310, huggingface/datasets #4839."
    lay_out(tmp_path/train); lay_out(tmp_path/valid, n=2, start=1)
    dls = loaders(tmp_path)
    assert dls.vocab == ['cat', 'dog'] and [len(d.dataset) for d in dls] == [12, 4]

@pytest.mark.parametrize('names', [('Training',), ('test', 'val'), ('train', 'images'), ('Train', 'Training', 'test')])
def test_splits_that_do_not_make_a_pair_are_never_classes(names, tmp_path):
    "A train folder alone, or two of them: fastai #1552."
    for i, n in enumerate(names): lay_out(tmp_path/n, start=i)
    with pytest.raises(ValueError, match='has a|several folders'): loaders(tmp_path)

def test_splits_by_names_nobody_knows_are_named(tmp_path):
    "Two folders with the same class folders in them, of names that say nothing: ultralytics #4310."
    lay_out(tmp_path/'fold1'); lay_out(tmp_path/'fold2', start=1)
    dls, said = told(loaders, tmp_path)
    assert dls.vocab == ['fold1', 'fold2'] and 'call them train and valid' in said

def test_a_class_called_train(tmp_path):
    "A word that means a split, and here a vehicle: huggingface/datasets #7201."
    lay_out(tmp_path, ('bus', 'train'))
    assert loaders(tmp_path).vocab == ['bus', 'train'] and part_of('trainer') is None

def test_valid_is_taken_and_test_left_for_the_end(tmp_path):
    "All three parts are there: fastai #1552."
    for i, (part, n) in enumerate(dict(train=6, valid=3, test=2).items()): lay_out(tmp_path/part, n=n, start=i)
    assert [len(d.dataset) for d in loaders(tmp_path)] == [12, 6]

def test_folders_without_a_picture_are_no_classes(tmp_path):
    "__MACOSX, .ipynb_checkpoints, leftovers: torchvision #4925, #2831, pillow #4807."
    lay_out(tmp_path)
    for f in ('__MACOSX/cat/._0.png', '.ipynb_checkpoints/a.png', 'old/readme.txt', 'cat/._1.png', 'cat/.ipynb_checkpoints/0.png'):
        (tmp_path/f).parent.mkdir(parents=True, exist_ok=True); (tmp_path/f).write_bytes(b'\0\5\x16\7')
    dls, said = told(loaders, tmp_path)
    assert dls.vocab == ['cat', 'dog'] and sum(len(d.dataset) for d in dls) == 12
    assert '1 folders without a picture are no classes: old' in said and '__MACOSX' not in said
    for x, _ in dls.valid: assert x.shape[1:] == (3, 16, 16)

def test_classes_that_differ_between_train_and_valid(tmp_path):
    "A class without validation pictures is named, one without training pictures refused: torchvision #4925."
    lay_out(tmp_path/'train', ('cat', 'dog', 'owl')); lay_out(tmp_path/'valid', n=2, start=1)
    assert '1 classes have no validation pictures: owl' in told(loaders, tmp_path)[1]
    lay_out(tmp_path/'valid', ('yak',))
    with pytest.raises(ValueError, match=r"has classes \['yak'\] besides"): loaders(tmp_path)

def test_the_same_picture_in_train_and_valid(tmp_path):
    "Copies of training pictures among those of validation: abdoelsayed2016/TNCR_Dataset #3."
    lay_out(tmp_path/'train'); lay_out(tmp_path/'valid', n=3, start=1)
    (tmp_path/'valid'/'cat'/'copy.png').write_bytes((tmp_path/'train'/'cat'/'2.png').read_bytes())
    said = told(loaders, tmp_path)[1]
    assert '1 validation pictures of 7 are among the training pictures' in said and 'copy.png' in said

def test_links_that_lead_in_circles(tmp_path):
    "A link to a folder above: mindspore-lab/mindocr #538. Before, each picture came forty times."
    lay_out(tmp_path)
    (tmp_path/'cat'/'again').symlink_to(tmp_path/'cat'); (tmp_path/'dog'/'above').symlink_to(tmp_path)
    (tmp_path/'owl').symlink_to(tmp_path/'dog')
    paths, y, vocab = class_files(tmp_path)
    assert vocab == ['cat', 'dog', 'owl'] and y.bincount().tolist() == [6]*3

def test_photographs_of_a_phone_in_a_format_that_is_not_read(tmp_path):
    "HEIC files are named, on every machine alike: pharmapsychotic/clip-interrogator-ext #50."
    lay_out(tmp_path); (tmp_path/'cat'/'IMG_1.HEIC').write_bytes(b'?')
    (tmp_path/'cat'/'0.png').rename(tmp_path/'cat'/'0.PNG')
    (paths, _, _), said = told(class_files, tmp_path)
    assert len(paths) == 12 and 'IMG_1.HEIC' in said

def test_pictures_beside_the_class_folders_are_named(tmp_path):
    "A picture that is in no class folder: fastai #488 is the neighbouring kind."
    lay_out(tmp_path); Image.new('RGB', (16, 16)).save(tmp_path/'loose.png')
    assert 'left out: loose.png' in told(class_files, tmp_path)[1]

def test_names_with_accents_spaces_and_folders_in_folders(tmp_path):
    "One name written in two ways of Unicode, and class/sub/picture: pytorch/vision #2605."
    for part, form, start in (('train', 'NFC', 0), ('valid', 'NFD', 1)):
        lay_out(tmp_path/part, [unicodedata.normalize(form, c) + '/im Freien' for c in ('café', 'köln dom')], start=start)
    assert loaders(tmp_path).vocab == ['café', 'köln dom']
    assert natural_key('5²3.png') < natural_key('5²10.png')

def test_a_home_folder_written_as_a_tilde(tmp_path, monkeypatch):
    "`~` reaches Python as it is when it comes from a settings file: every path takes it."
    monkeypatch.setenv('HOME', str(tmp_path)); monkeypatch.setenv('USERPROFILE', str(tmp_path))
    lay_out(tmp_path/'pets')
    assert loaders('~/pets').vocab == ['cat', 'dog'] and read_image('~/pets/cat/0.png').shape == (3, 16, 16)
    write_json('~/new/a.json', dict(format='x-1'))
    assert read_json('~/new/a.json', 'x-1') and (tmp_path/'new'/'a.json').is_file()
    torch.save(dict(w=torch.zeros(2)), tmp_path/'w.pth')
    assert list(read_state('~/w.pth')) == ['w']


def test_phone_pictures_are_upright(tmp_path):
    "EXIF orientation, each of the eight: fastai #3565, kohya-ss/sd-scripts #1269."
    a = np.zeros((24, 16, 3), np.uint8); a[:8, :5] = 255
    back = {1: a, 2: a[:, ::-1], 3: a[::-1, ::-1], 4: a[::-1], 5: a.swapaxes(0, 1), 6: np.rot90(a, -1),
            7: np.rot90(a, 2).swapaxes(0, 1), 8: np.rot90(a)}
    for turn, want in back.items():
        exif = Image.Exif(); exif[0x0112] = turn
        Image.fromarray(a).save(tmp_path/f'{turn}.png', exif=exif)
        assert np.array_equal(read_image(tmp_path/f'{turn}.png').permute(1, 2, 0).numpy(), want), turn
    as_stored = ImageNetFiles([tmp_path/'3.png'], [0], ['?'], Preset(16, 16)).batch(torch.tensor([0]))[0]
    assert as_stored[0, :, 3, 2].tolist() == [255]*3       # the published accuracies were measured so

def test_damaged_exif_is_named(tmp_path):
    "A picture is read though its EXIF cannot be: fastai #3565 is the neighbouring kind."
    Image.new('RGB', (8, 8), 'red').save(tmp_path/'a.png', exif=b'Exif\0\0not a TIFF header')
    x, said = told(read_image, tmp_path/'a.png')
    assert x.shape == (3, 8, 8) and 'a.png has damaged EXIF' in said

@pytest.mark.parametrize('mode', ['RGBA', 'LA', 'P', 'P-bytes', 'L', 'RGB', 'I;16'])
def test_what_is_transparent_is_white(mode, tmp_path):
    "Alpha, and colours that a file declares transparent: pillow #1838, #6348, kohya-ss/sd-scripts #1269."
    f, many = tmp_path/'a.png', dict(RGBA=(90, 20, 5, 0), LA=(90, 0))
    if mode in many: Image.new(mode, (4, 4), many[mode]).save(f)
    elif mode[0] == 'P':
        im = Image.new('P', (4, 4), 1); im.putpalette([9, 9, 9, 200, 0, 0])
        im.save(f, transparency=bytes([255, 0]) if mode == 'P-bytes' else 1)
    elif mode == 'I;16': Image.fromarray(np.full((4, 4), 900, np.uint16)).save(f, transparency=900)
    else: Image.new(mode, (4, 4), {'L': 70, 'RGB': (1, 2, 3)}[mode]).save(f, transparency={'L': 70, 'RGB': (1, 2, 3)}[mode])
    assert read_image(f).unique().tolist() == [255]
    with open_rgb(f, turn=False) as im: assert im.mode == 'RGB'

def test_half_transparent_and_animated_and_sixteen_bits(tmp_path):
    "A half over white; the first picture of a GIF; the range of 16 bits: pillow #2574, #1108."
    Image.new('RGBA', (4, 4), (0, 0, 0, 128)).save(tmp_path/'half.png')
    assert abs(int(read_image(tmp_path/'half.png')[0, 0, 0]) - 127) <= 1
    frames = [Image.new('RGB', (4, 4), c) for c in ('red', 'blue')]
    frames[0].save(tmp_path/'a.gif', save_all=True, append_images=frames[1:])
    assert read_image(tmp_path/'a.gif')[:, 0, 0].tolist() == [255, 0, 0]
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path/'i.png')
    assert read_image(tmp_path/'i.png')[0, 0].tolist() == [0, 128, 255]
    whole = tmp_path/'a.png'; Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(whole)
    (tmp_path/'cut.png').write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(ValueError, match='cut.png'): read_image(tmp_path/'cut.png')


LABELS = dict(list=[0, 1, 2, 3], int32=np.array([0, 1, 2, 3], np.int32), uint8=np.array([0, 1, 2, 3], np.uint8),
              tensor=torch.tensor([0, 1, 2, 3], dtype=torch.uint8))

@pytest.mark.parametrize('y', LABELS.values(), ids=LABELS)
def test_labels_of_any_integer_kind(y):
    "NumPy arrays and lists wherever labels come in: pytorch/vision #109 is from the same first hour of use."
    x = toy_images(4)[0]
    for got in (ImageTensors(x.numpy(), y).y, take([(x.double().numpy(), y)])[1], tensor_dls((x, y), (x, y), bs=4).valid.one_batch()[1]):
        assert got.dtype == torch.int64 and got.tolist() == [0, 1, 2, 3]
    check_loader([(x.numpy(), y)], toy_net())

@pytest.mark.parametrize('y, telling', [(torch.eye(4), 'argmax'), (one_hot(torch.arange(4)), 'argmax'), (torch.zeros(4, 1).long(), 'flatten'),
                                        ([0, -1, 0, 1], 'count from 0'), ([.2, .4, 0, 1], 'integers'), ([*'abcd'], 'integers')])
def test_labels_that_would_be_cut_or_broadcast(y, telling):
    "One-hot rows, columns, -1 and fractions were taken without a word: huggingface/pytorch-image-models #948 is the neighbouring kind."
    x = toy_images(4)[0]
    for f in (lambda: ImageTensors(x, y), lambda: take([(x, y)]), lambda: check_loader([(x, y)]), lambda: tensor_dls((x, y), (x, y))):
        if telling == 'count from 0' and f.__code__.co_names[0] == 'take': continue      # compared with the network's classes later
        with pytest.raises(ValueError, match=telling): f()

def test_pixels_in_another_form():
    "Bytes as floats, int64, channels last, NaN; float64 is made float32: pillow #2574 is the neighbouring kind."
    x, y = toy_images(4)
    for bad, kind, telling in ((x*255, ValueError, 'divide by 255'), ((x*255).long(), TypeError, 'int64'), (x/0, ValueError, '0,1|NaN|infinite'),
                               (x.permute(0, 2, 3, 1), ValueError, 'permute'), ([x], TypeError, 'array')):
        with pytest.raises(kind, match=telling): ImageTensors(bad, y if len(bad) == 4 else y[:1])
    xb, _ = ImageLoader(ImageTensors(x.double(), y), 4, device='cpu').one_batch()
    assert xb.dtype == torch.float32 and torch.equal(xb, x)
    with pytest.raises(ValueError, match='dict of pixel_values, labels'): take([dict(pixel_values=x, labels=y)])

@pytest.mark.parametrize('channels', [1, 4])
def test_images_of_one_or_four_channels(channels):
    "Grey was stretched to three channels without a word, four failed inside torch: ART #673."
    x = torch.rand(4, channels, 16, 16)
    with pytest.raises(ValueError, match=rf'takes images \(B,3,H,W\), got \(2, {channels}, 16, 16\)'):
        check_loader([(x, torch.arange(4))], toy_net())
    assert Normalize([.5]*channels, [.2]*channels)(x).shape == x.shape

def test_counts_and_seeds_of_numpy():
    "bs, n and seeds from a loop over np.arange: huggingface/datasets users write so."
    x, y = toy_images(np.int64(8), seed=np.int64(3))
    assert torch.equal(x, toy_images(8, seed=3)[0])
    a, b = (torch.cat([o for o, _ in ImageLoader(ImageTensors(x, y), k(4), True, k(2), True, k(7), device='cpu')]) for k in (int, np.int64))
    assert torch.equal(a, b) and len(take([(x, y)], np.uint8(3))[0]) == 3
    with fixed_seed(np.int64(1)): one = torch.rand(1)
    with fixed_seed(1): assert torch.equal(one, torch.rand(1))
    for bad in (dict(bs=4.), dict(bs=0), dict(pad=-1), dict(seed=True)):
        with pytest.raises((TypeError, ValueError), match=next(iter(bad))): ImageLoader(ImageTensors(x, y), **bad)

def test_sets_whose_labels_mean_two_things():
    "Training counts other classes than validation."
    x, y = toy_images(8)
    with pytest.raises(ValueError, match='mean two things'): image_dls(ImageTensors(x, y, 'abcd'), ImageTensors(x, y, 'abdc'), device='cpu')


@pytest.fixture(params=['files', 'memory', 'float'])
def learn(request, tmp_path):
    "A Learner on each kind of loader, trained for an epoch."
    lay_out(tmp_path/'data', n=12)
    dls = loaders(tmp_path/'data', in_memory=request.param != 'files')
    if request.param == 'float':
        sets = (ImageTensors(d.x.float()/255, d.y, d.vocab) for d in (dls.train_ds, dls.valid_ds))
        dls = image_dls(*sets, bs=4, pad=2, flip=True, device='cpu')
    out = quiet(Learner(dls, toy_net(2), path=tmp_path))
    with out.no_logging(): out.fit(1, 1e-3)
    return out

def test_export_and_load_learner(learn, tmp_path):
    "An exported Learner predicts alike and holds no data: airctic/icevision #704, timeseriesAI/tsai #215, fastai #3628."
    learn.export('m.pkl')
    assert len(learn.dls.valid_ds) == 5
    one = tmp_path/'data'/'cat'/'0.png'
    pixels, whole = np.array(Image.open(one)), (tmp_path/'m.pkl').read_bytes()
    train = learn.dls.train_ds
    for held in ([str(train.paths[0]).encode()] if hasattr(train, 'paths') else [t.numpy().tobytes() for t in (train.x[0], train.x[5])]):
        assert held not in whole
    os.rename(tmp_path/'data', tmp_path/'gone')
    back, one = load_learner(tmp_path/'m.pkl'), tmp_path/'gone'/'cat'/'0.png'
    assert back.dls.vocab == ['cat', 'dog'] and back.dls.c == 2
    want = learn.predict(one)
    for item in (one, str(one), Image.open(one), PILImage.create(one), pixels, torch.from_numpy(pixels).permute(2, 0, 1)):
        got = back.predict(item)      # fastai #3880: a PILImage was refused
        assert got[0] == want[0] and torch.allclose(got[2], want[2], atol=1e-5)
    with pytest.raises(ValueError, match='exported without them'): back.validate()
    with pytest.raises(ValueError, match='a picture must be a file'): back.predict(3)

def test_predictions_of_other_pictures(learn, tmp_path):
    "get_preds twice on one loader, in the order of the items, and show what is there: fastai #3880."
    files = sorted((tmp_path/'data').rglob('*.png'))
    dl = learn.dls.test_dl(files, bs=5)
    a, b = (learn.get_preds(dl=dl) for _ in range(2))
    assert torch.equal(a[0], b[0]) and len(a[0]) == 24
    assert torch.allclose(a[0][[3]], learn.predict(files[3])[2][None], atol=1e-5)
    labelled = learn.dls.test_dl(files, with_labels=True)
    assert take(labelled)[1].tolist() == [0]*12 + [1]*12
    for dl in (learn.dls.train, learn.dls.valid):
        p, y = learn.get_preds(dl=dl)
        assert len(p) == len(y) == len(dl.dataset) and torch.equal(learn.get_preds(dl=dl)[1], y)
    learn.show_results(max_n=3, figsize=(4, 2)); learn.dls.show_batch(max_n=4, nrows=2); learn.dls.valid.show_batch(max_n=2)
    with pytest.raises(ValueError, match='is not known'): learn.dls.test_dl([tmp_path/'x.png'], with_labels=True)

def test_interpretation(learn):
    "All images and classes by their names in the confusion matrix; losses with their own pictures: fastai #3440."
    for ds_idx, data in enumerate((learn.dls.train_ds, learn.dls.valid_ds)):
        seen = ClassificationInterpretation.from_learner(learn, ds_idx=ds_idx)
        cm = seen.confusion_matrix()
        assert seen.vocab == ['cat', 'dog'] and cm.shape == (2, 2) and cm.sum(1).tolist() == data.y.bincount().tolist()
        assert {n for a, b, _ in seen.most_confused() for n in (a, b)} <= {'cat', 'dog'}
        losses, idx = seen.top_losses(3)
        x, p, y, _, again = seen[idx]
        assert torch.equal(y, data.y[idx]) and torch.equal(x, torch.stack([data[int(i)][0] for i in idx]))
        assert torch.allclose(-p[range(3), y].log(), losses, atol=1e-3) or ds_idx == 0
        seen.plot_confusion_matrix(); seen.plot_top_losses(3); seen.show_results([0, 1])


NAMES = ['mobilenet_v3_small', 'squeezenet1_1', 'timm/resnet10t', 'timm/deit_tiny_distilled_patch16_224']

@pytest.mark.parametrize('name', NAMES)
def test_published_weights_below_a_fresh_head(name, tmp_path):
    "Weights of 1000 classes for three of one's own: torchvision #3547, timm #948, #433."
    if name.startswith('timm/'): pytest.importorskip('timm', reason='triqdef[timm] is not installed')
    whole = classifier(name).net.state_dict()
    torch.save(whole, tmp_path/'w.pth')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        with pytest.raises(ValueError, match='1000 classes, not 3; fresh_head=True'): classifier(name, tmp_path/'w.pth', 3)
        net, same = classifier(name, tmp_path/'w.pth', 3, fresh_head=True), classifier(name, tmp_path/'w.pth', fresh_head=True)
    own, head = net.net.state_dict(), head_tensors(net.net.state_dict(), whole)
    assert net.fresh_head and not same.fresh_head and 0 < len(head) <= 4 and all(len(own[k]) == 3 for k in head)
    assert all(torch.equal(own[k], v) for k, v in whole.items() if k not in head)
    with pytest.raises(ValueError, match='fresh_head=True'): classifier(name, 'default', 3)      # before any download
    with pytest.raises(ValueError, match='missing|number of classes'): classifier('resnet18', tmp_path/'w.pth', 3, fresh_head=True)

def test_weights_saved_by_another_hand(tmp_path):
    "Of a compiled network, of several devices, of our own classifier: timm #2003, #1566."
    net = classifier('squeezenet1_1')
    for prefix in ('_orig_mod.', 'module.', '_orig_mod.module.'):
        torch.save({prefix + k: v for k, v in net.net.state_dict().items()}, tmp_path/'w.pth')
        assert read_state(tmp_path/'w.pth').keys() == net.net.state_dict().keys()
    torch.save(net.state_dict(), tmp_path/'w.pth')
    again = classifier('squeezenet1_1', tmp_path/'w.pth')
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), net.parameters()))

def test_time_augmentation():
    "`learn.tta` would average equal predictions on loaders without fastai's transforms: refused by name."
    x, y = toy_images(8)
    dls = image_dls(ImageTensors(x, y, range(4)), ImageTensors(x, y, range(4)), bs=4, device='cpu')
    learn = Learner(dls, toy_net(), loss_func=torch.nn.functional.cross_entropy)
    with learn.no_bar(), pytest.raises(ValueError, match='use get_preds'): learn.tta()
