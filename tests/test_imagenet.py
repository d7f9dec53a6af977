"A synthetic ImageNet, odd files among its pictures, through every command; and the loader against torchvision's own path."
import json
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets.folder import pil_loader
from torchvision.models import MobileNet_V3_Small_Weights as Weights

from forked import command as triqdef
from test_program import one_line
from triqdef.classifiers import classifier
from triqdef.data import take
from triqdef.evaluate.sharded import gather_shards
from triqdef.imagenet import imagenet_dls, imagenet_valid, imagenet_wnids, unreadable

WNIDS = imagenet_wnids()[::111][:10]
MODEL = 'mobilenet_v3_small'
TINY = 'timm/test_resnet' if find_spec('timm') else MODEL      # 160 pixels, half a million weights


def picture(rng, size=(90, 120)): return Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8))

@pytest.fixture(scope='module')
def imagenet(tmp_path_factory):
    "10 classes, 3 training pictures and one of validation each, the first has three; some are CMYK, grey, 16 bits, or a PNG by another name."
    d, rng = tmp_path_factory.mktemp('imagenet'), np.random.default_rng(0)
    for part, n in dict(train=3, val=1).items():
        for w in WNIDS:
            for i in range(3 if w == WNIDS[0] else n):
                (d/part/w).mkdir(parents=True, exist_ok=True)
                picture(rng).save(d/part/w/f'{part}_{w}_{i}.JPEG', 'JPEG')
    first = d/'val'/WNIDS[0]
    picture(rng).convert('CMYK').save(first/f'val_{WNIDS[0]}_0.JPEG', 'JPEG')
    picture(rng).convert('L').save(first/f'val_{WNIDS[0]}_1.JPEG', 'JPEG')
    Image.fromarray(rng.integers(0, 65536, (90, 120), dtype=np.uint16)).save(first/f'val_{WNIDS[0]}_2.JPEG', 'PNG')
    picture(rng).convert('RGBA').save(d/'train'/WNIDS[1]/f'train_{WNIDS[1]}_0.JPEG', 'PNG')
    torch.manual_seed(0)
    torch.save(classifier(MODEL).net.state_dict(), d/'weights.pth')
    return d

@pytest.fixture
def cut(imagenet):
    "A picture that ends in the middle, for the time of one test."
    whole = imagenet/'val'/WNIDS[1]/f'val_{WNIDS[1]}_0.JPEG'
    file = whole.with_name('cut.JPEG')
    file.write_bytes(whole.read_bytes()[:700])
    yield file
    file.unlink()

def published(imagenet, out, *more, bits=(32, 4)):
    return triqdef('evaluate', '--data', 'imagenet', '--path', imagenet, '--model', MODEL, '--weights', imagenet/'weights.pth',
                   '--bits', *bits, '--calibrate-n', 8, '--bs', 8, '--device', 'cpu', '--quiet', '--out', out, *more)


def test_published_network_in_shards(imagenet, tmp_path):
    out = tmp_path/'report'
    r = published(imagenet, out, '--n', 0, '--shard', '0/2')
    assert r.returncode == 0 and 'shards [1] of 2' in r.stdout, (r.stdout, r.stderr)
    assert published(imagenet, out, '--n', 0, '--shard', '1/2').returncode == 0
    shard, = tmp_path.glob('report-predictions/*/shard-0-of-2.safetensors')
    p = gather_shards(shard.parent)
    assert len(p.y) == 12 and p.bits == (32, 4) and sorted(set(p.y.tolist())) == sorted(range(0, 1000, 111))[:10]

def test_published_network_report(imagenet, cut, tmp_path):
    "All pictures but the broken one, then fewer bit-widths of the same network, attacked."
    out = tmp_path/'report'
    one_line(published(imagenet, out, '--n', 0), 2, 'cut.JPEG', 'cannot read')
    r = published(imagenet, out, '--n', 9, '--n-attack', 4, '--n-align', 0, '--attacks', 'lavan', 'gap', '--lavan-steps', 1, '--gap-steps', 1,
                  '--no-audit', '--valid-n', 10, '--skip-unreadable', bits=(4,))
    assert r.returncode == 0, r.stderr[-2000:]
    report = json.loads((out/'report.json').read_text())
    assert report['settings']['n'] in (8, 9) and report['settings']['bits'] == [4] and 'GAP 50×50' in r.stdout and 'LaVAN' in r.stdout

def test_train_and_evaluate_a_run(imagenet, tmp_path):
    run, weights = tmp_path/'run', tmp_path/'weights.pth'
    torch.save(classifier(TINY).net.state_dict(), weights)
    r = triqdef('train', run, '--data', 'imagenet', '--path', imagenet, '--arch', TINY, '--weights', weights, '--bits', 32, 4,
                '--method', 'triqdef', '--epochs', 1, '--bs', 5, '--train-n', 10, '--valid-n', 10, '--patch-size', 50, '--attack-steps', 1,
                '--warmup', 0, '--device', 'cpu', '--quiet')
    assert r.returncode == 0, r.stderr[-2000:]
    r = triqdef('evaluate', run, '--n', 12, '--n-attack', 12, '--n-align', 0, '--attacks', 'lavan', '--lavan-steps', 1, '--no-audit',
                '--quiet', '--out', tmp_path/'report')
    assert r.returncode == 0, r.stderr[-2000:]
    pytest.importorskip('onnxruntime', reason='triqdef[onnx] is not installed')
    r = triqdef('export', run, '--bits', 4, '-o', tmp_path/'net4.onnx', '--n', 8, '--patch-size', 50, '--gap-steps', 1, '--quiet')
    assert r.returncode == 0 and "form 'integer': the same network" in r.stdout, (r.stdout, r.stderr[-2000:])

def test_truncated_picture_is_named(imagenet, cut, tmp_path):
    (tmp_path/'alone').mkdir()
    (tmp_path/'alone'/'val').symlink_to(imagenet/'val')      # no training pictures: calibrated on those of validation
    r = published(imagenet, tmp_path/'b', '--path', tmp_path/'alone', '--n', 0, '--skip-unreadable')
    assert 'no training pictures' in r.stdout
    assert r.returncode == 0 and 'cut.JPEG' in r.stdout and '1 of 13 pictures left out' in r.stdout, (r.stdout, r.stderr)
    assert [p.name for p in unreadable(imagenet_valid(imagenet).paths)] == ['cut.JPEG']

@pytest.mark.parametrize('more, telling', [
    (('--model', 'resnet51', '--data', 'imagenet', '--path', '.'), 'no network'), (('--model', 'resnet18'), '--path'),
    (('--model', 'resnet18', '--data', 'imagenet', '--path', 'nowhere'), 'there is no folder'), ((), 'nothing to evaluate'),
    (('--model', 'resnet18', '--data', 'imagenet', '--path', 'PICTURES', '--weights', 'no.pth'), 'weights of resnet18')])
def test_wrong_words(more, telling, imagenet, tmp_path):
    more = [imagenet if m == 'PICTURES' else m for m in more]
    one_line(triqdef('evaluate', *more, '--out', tmp_path/'r', cwd=tmp_path), 2, telling)
    assert not list(tmp_path.iterdir())

def test_same_pixels_and_predictions_as_torchvision(imagenet):
    net, theirs = classifier(MODEL, imagenet/'weights.pth'), Weights.IMAGENET1K_V1.transforms()
    data = imagenet_valid(imagenet, net.preset)
    eight = [i for i, p in enumerate(data.paths) if Image.open(p).mode != 'I;16']     # torchvision cuts 16 bits off at 255
    x, _ = take(imagenet_dls(imagenet, net.preset, device='cpu').valid)
    reference = torch.stack([theirs(pil_loader(str(data.paths[i]))) for i in eight])
    assert len(eight) == 11
    assert torch.equal(net.norm(x[eight]), reference)
    with torch.no_grad(): assert torch.equal(net(x[eight]), net.net(reference))
