"""Networks of any origin as one family: every public function that takes a multi-bit network takes them."""
import json
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torch import nn

from triqdef.attack.agreeing import AgreeingEnsemble
from triqdef.attack.ensemble import BackwardSwap, BitEnsemble, RandomPrecision, Smoothed
from triqdef.attack.gap import GAP
from triqdef.attack.lavan import LaVAN
from triqdef.attack.nes import NES
from triqdef.attack.patchattack import MPA
from triqdef.attack.pgd import PatchPGD
from triqdef.attack.sparse_rs import SparseRS
from triqdef.attack.views import RoundRobin
from triqdef.classifiers import classifier
from triqdef.cli import main
from triqdef.deploy.family import Member, family, member_table, readings
from triqdef.deploy.onnx import OnnxNet, export_onnx
from triqdef.evaluate.alignment import alignment_report
from triqdef.evaluate.audit import Audit, audit
from triqdef.evaluate.certified import certified
from triqdef.evaluate.detect import Detection
from triqdef.evaluate.disagree import disagreement
from triqdef.evaluate.lines import AuditBudget
from triqdef.evaluate.matrix import Transfer
from triqdef.evaluate.report import report
from triqdef.evaluate.success import predict, success
from triqdef.evaluate.transfer import transfer_matrix
from triqdef.files import fingerprint
from triqdef.quant.checkpoint import save_checkpoint
from triqdef.quant.convert import at_bits, bits_of, calibrate, keep_bits, to_multibit
from triqdef.quant.switch import gradient_bits
from triqdef.results import collect, study_tables
from triqdef.study import load_recipe, study
from triqdef.toys import toy_images, trained_toy

BITS, NAMES = (32, 8, 4), ('fp32', 'eight', 'ort int4', 'function')
X, Y = toy_images(24, size=16, seed=5)
X = (X*255).round()/255


@cache
def plain(): return trained_toy(size=16).eval()

@cache
def multi(): return calibrate(to_multibit(plain(), BITS).eval(), [toy_images(64, size=16, seed=3)])

@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Files of the toy: ours at 4 bits, and what torch exports of it."
    out = tmp_path_factory.mktemp('files')
    export_onnx(multi(), out/'4.onnx', 4, X)
    torch.onnx.export(plain(), (X[:2],), out/'float.onnx', dynamo=True, verbose=False)
    return out

@pytest.fixture(scope='module')
def fam(folder):
    return family({'fp32': plain(), 'eight': keep_bits(multi(), 8), 'ort int4': OnnxNet(folder/'4.onnx', 1),
                   'function': lambda x: plain()((x*15).round()/15).detach()})


# one protocol

def singles(names): return family({n: keep_bits(multi(), b) for n, b in zip(names, BITS)})

@pytest.mark.parametrize('attack', [PatchPGD(5, 3, 32/255, seed=0), SparseRS(5, queries=20, seed=0), GAP(5, 2, 4, 8, seed=0)], ids=lambda a: type(a).__name__)
@pytest.mark.parametrize('names', [BITS, ('a', 'b', 'c')], ids=['bits', 'names'])
def test_numbers_of_the_multibit_network(attack, names):
    "The family of a network's single bit-widths has that network's own numbers, at every source and target, ensembles too."
    kind = dict(fit_on=[(X, Y)], progress=False, seed=0)
    want = transfer_matrix(multi(), [(X, Y)], attack, sources=[*BITS, BITS], **kind)
    got = transfer_matrix(singles(names), [(X, Y)], attack, sources=[*names, names], **kind)
    renamed = dict(zip(BITS, names)) | {'all': 'all'}
    assert {k: list(v) for k, v in got.clean_pred.items()} == {renamed[k]: list(v) for k, v in want.clean_pred.items()}
    for (a, s, b), p in want.adv_pred.items(): assert torch.equal(got.adv_pred[a, renamed[s], renamed[b]], p), (a, s, b)
    for (a, k, b), p in want.null_pred.items(): assert torch.equal(got.null_pred[a, k, renamed[b]], p)

def test_alignment_of_the_multibit_network():
    kind = dict(n=16, smooth=(0,), progress=False)
    want, got = (alignment_report(n, [(X, Y)], **kind) for n in (multi(), singles('abc')))
    names = dict(zip(BITS, 'abc'))
    assert got.whats == want.whats
    for (what, a, b, *rest), v in want.values.items():
        torch.testing.assert_close(got.values[what, names[a], names[b], *rest], v, equal_nan=True, rtol=1e-4, atol=1e-4)

@pytest.mark.parametrize('view', [lambda n: n[2], lambda n: n, RoundRobin, lambda n: BitEnsemble(n, 'min-max'), lambda n: RandomPrecision(n, 2, seed=0),
                                  lambda n: Smoothed(n[1], n=2, seed=0), lambda n: BackwardSwap(n[2], n[0])])
def test_views(view):
    "Every view looks at members as it looks at bit-widths."
    a, b = (PatchPGD(5, 3, 32/255, seed=0).attack(net, X, Y, view(n)) for net, n in ((multi(), BITS), (singles('abc'), tuple('abc'))))
    assert torch.isclose(a, b, atol=1e-6).float().mean() > .99


# what is taken

def test_state(fam):
    assert bits_of(fam) == NAMES and gradient_bits(fam) == ('fp32', 'eight') and fam.bit_state.bits == 'fp32'
    with at_bits(fam, 'eight'): assert fam.bit_state.bits == 'eight'
    with pytest.raises(ValueError, match="one of .*'ort int4'.*members"), at_bits(fam, 'int4'): pass
    with pytest.raises(ValueError, match='32'), at_bits(fam, 32): pass
    with pytest.raises(ValueError, match='family'): calibrate(family({'a': plain()}), [X])

def test_success_and_predict(fam):
    z = PatchPGD(5, 5, 32/255, seed=0).attack(fam, X, Y, 'fp32')
    for n in NAMES: assert {*success(fam, X, Y, z, bits=n)} == {'asr', 'asr_all'}
    assert torch.equal(predict(fam, X, 'fp32')[0], predict(plain(), X)[0])

@pytest.mark.parametrize('attack', [SparseRS(5, queries=8, seed=0), NES(5, queries=8, seed=0), MPA(queries=8, seed=0)], ids=lambda a: type(a).__name__)
def test_attacks_by_scores(attack, fam):
    "Attacks that see scores alone run on every member."
    for n in NAMES: assert attack.attack(fam, X[:4], Y[:4], n).shape == X[:4].shape

@pytest.mark.parametrize('attack', [PatchPGD(5, 1, seed=0), LaVAN(area=.05, steps=1, seed=0)], ids=lambda a: type(a).__name__)
def test_attacks_by_gradients(attack, fam):
    assert attack.attack(fam, X[:4], Y[:4], ('fp32', 'eight')).shape == X[:4].shape
    for n in NAMES[2:]:
        with pytest.raises(ValueError, match=f"member {n!r} has no gradients: try attacks that see scores"): attack.attack(fam, X[:4], Y[:4], n)

def test_universal(fam):
    p = GAP(5, 2, 4, 8, seed=0).fit(fam, [(X, Y)], bits=('fp32', 'eight'))
    assert p.meta['bits'] and json.dumps(p.meta)

def test_gradient_of_another_member(fam):
    "The file gives the loss, the network that it was made of the gradient."
    z = PatchPGD(5, 5, 32/255, seed=0).attack(fam, X, Y, BackwardSwap('ort int4', 'fp32'))
    assert (predict(fam, z, 'ort int4')[0] != Y).sum() > (predict(fam, X, 'ort int4')[0] != Y).sum()
    t = transfer_matrix(fam, [(X, Y)], PatchPGD(5, 1), sources={'swap': BackwardSwap('ort int4', 'fp32')}, progress=False, nulls=False)
    assert len(t.adv_pred) == 4 and not t.left_out(*t.attacks)

def test_matrix_has_empty_cells_with_a_reason(fam, tmp_path):
    kind = dict(sources=[*NAMES, NAMES], n_attack=8, progress=False, parts=tmp_path/'parts')
    attacks = {'pgd': PatchPGD(5, 1), 'rs': SparseRS(5, queries=4)}
    t = transfer_matrix(fam, [(X, Y)], attacks, **kind)
    assert t.sources('pgd') == ['fp32', 'eight'] and t.sources('rs') == [*NAMES, 'all']
    assert t.left_out('pgd') == {'ort int4': 'no gradient at ort int4', 'function': 'no gradient at function', 'all': 'no gradient at ort int4, function'}
    assert t.asr.loc[('pgd', 'function')].isna().all() and t.asr.loc['rs'].notna().any().all()
    assert transfer_matrix(fam, [(X, Y)], attacks, **kind).reused == len(NAMES) + 2 + 5 + 2*len(NAMES)
    t.save(tmp_path/'saved'); back = Transfer.load(tmp_path/'saved')
    assert back.bits == NAMES and back.asr.equals(t.asr) and back.left_out('pgd') == t.left_out('pgd')
    for table in (t.clean, t.interval, t.null, t.threat_table(text=True), t.summary(), t.worst()): assert len(table)

def test_nothing_left(fam):
    with pytest.raises(ValueError, match='needs gradients and none of its sources'): transfer_matrix(fam, [(X, Y)], PatchPGD(5, 1), sources=['function'], progress=False)
    with pytest.raises(ValueError, match='alignment needs gradients'): alignment_report(fam, [(X, Y)], ('fp32', 'function'), progress=False)
    with pytest.raises(ValueError, match='asks about gradients'): audit(fam, [(X, Y)], ('function',), quick=True, progress=False)

def test_alignment_where_gradients_exist(fam):
    a = alignment_report(fam, [(X, Y)], n=16, smooth=(0,), progress=False)
    assert a.bits == ('fp32', 'eight') and a.whats[0] == 'gradient' and len(a.whats) > 1

def test_audit(fam, tmp_path):
    "Lines that apply are run on members with gradients; the others say why."
    tiny = AuditBudget.quick(n=8, steps=1, queries=2, n_smooth=2, smooth_steps=1, copies=1)
    a = audit(fam, [(X, Y)], budget=tiny, progress=False)
    assert a.bits == ('fp32', 'eight')
    assert a[10].figure == 'not run: members of a family share no features' and a[12].figure.startswith('not run: needs') and 'backward of' in a[7].figure
    assert [l for l in a.left_out() if 'it has no gradients' in l] == [f'no line for {n}: it has no gradients' for n in NAMES[2:]]
    a.save(tmp_path); assert Audit.load(tmp_path).runs.keys() == a.runs.keys()
    files = {'fp32': plain(), 'eight': OnnxNet(export_onnx(multi(), tmp_path/'8.onnx', 8, X), 1)}
    assert audit(fam, [(X, Y)], budget=tiny, lines=(12,), exported=files, progress=False)[12].values['exported']

def test_report(fam, undrawn, tmp_path):
    r = report({'mine': fam}, [(X, Y)], {'pgd': PatchPGD(5, 1), 'rs': SparseRS(5, queries=4)}, n_attack=8, n_align=8, quick=True, out=tmp_path/'r', progress=False)
    page = (tmp_path/'r/index.html').read_text()
    assert 'ort int4' in page and 'ort int4 bits' not in page and 'no gradient at function' in r.missing() and 'fp32' in r.brief() + r.text()

def test_report_of_files_alone(folder, tmp_path):
    "Without any gradient the default attacks are those by scores, and the rest is left out with a reason."
    files = family({'a': OnnxNet(folder/'4.onnx', 1), 'b': OnnxNet(folder/'float.onnx', 1)})
    r = report(files, [(X, Y)], {'rs': SparseRS(5, queries=4)}, n=8, quick=True, progress=False)
    assert not r.alignments and not r.audits and 'alignment of gradients' in r.missing() and 'the audit' in r.missing()

def test_certificates(fam):
    c = certified(fam, X[:6], Y[:6], patch=3, bits=('fp32', 'ort int4'))
    assert list(c.held) == ['fp32', 'ort int4']

def test_key(fam, folder):
    "Two files, and two functions, are two networks."
    keys = [fingerprint(family({'a': f})) for f in (OnnxNet(folder/'4.onnx'), OnnxNet(folder/'float.onnx'), lambda x: x.mean((2, 3)), lambda x: x.amax((2, 3)), plain())]
    assert len(set(keys)) == 5


# files of other tools

class Wrapped(nn.Module):
    "The toy as a file takes it: another layout, range, type or batch."
    def __init__(self, layout, kind, inside):
        super().__init__()
        self.net, self.layout, self.kind, self.inside = plain(), layout, kind, inside
    def forward(self, x):
        if self.kind == 'uint8': x = x.float()/255
        if self.layout == 'NHWC': x = x.permute(0, 3, 1, 2)
        return self.net(x if self.inside else x*.25 + .5)

def written(path, layout='NCHW', kind='float', batch=None, inside=True):
    "An ONNX file of the toy."
    x = X[:batch or 2]
    if not inside: x = (x - .5)/.25
    if layout == 'NHWC': x = x.permute(0, 2, 3, 1)
    if kind == 'uint8': x = (x*255).round().to(torch.uint8)
    free = None if batch else [{0: torch.export.Dim('batch')}]
    torch.onnx.export(Wrapped(layout, kind, inside).eval(), (x.contiguous(),), path, dynamo=True, verbose=False, dynamic_shapes=free, external_data=False)
    return path

@pytest.mark.parametrize('batch', [None, 5], ids=['free', 'fixed'])
@pytest.mark.parametrize('layout', ['NCHW', 'NHWC'])
@pytest.mark.parametrize('kind', ['float', 'uint8'])
def test_files(kind, layout, batch, tmp_path):
    "The same logits in each form, for any number of images."
    file = OnnxNet(written(tmp_path/'net.onnx', layout, kind, batch), 1)
    assert (file.reading.layout, file.reading.batch, file.reading.shape) == (layout, batch or 0, (3, 16, 16))
    for n in (1, 5, 7):
        with torch.no_grad(): torch.testing.assert_close(file(X[:n]), plain()(X[:n]), rtol=1e-3, atol=1e-3)

def test_declared_normalisation(tmp_path):
    file = OnnxNet(written(tmp_path/'net.onnx', inside=False), 1, mean=(.5,)*3, std=(.25,)*3)
    with torch.no_grad(): torch.testing.assert_close(file(X), plain()(X), rtol=1e-3, atol=1e-3)

def test_own_files_declare_themselves(folder):
    with pytest.raises(ValueError, match='declare nothing'): OnnxNet(folder/'4.onnx', scale=255)

def test_wrong_range_is_said(tmp_path):
    "A file that wants another range is at chance: the matrix warns, and the table of ranges says which fits."
    class Bytes(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = plain()
        def forward(self, x): return self.net(x/255)
    path = tmp_path/'bytes.onnx'
    torch.onnx.export(Bytes().eval(), (X,), path, dynamo=True, verbose=False)
    wrong = family({'fp32': plain(), 'file': OnnxNet(path, 1)})
    with pytest.warns(UserWarning, match='^file is right on .* no better than chance'):
        transfer_matrix(wrong, [(X, Y)], PatchPGD(5, 1), progress=False, nulls=False)
    assert list(member_table(wrong, X, Y)['at chance']) == [False, True] and readings(path, X, Y).index[0] == '0…255'

def test_damaged_files(folder, tmp_path):
    whole = (folder/'float.onnx').read_bytes()
    (tmp_path/'cut.onnx').write_bytes(whole[:len(whole)//2])
    with pytest.raises(ValueError, match='cut.onnx'): OnnxNet(tmp_path/'cut.onnx')
    with pytest.raises(FileNotFoundError, match='absent.onnx'): OnnxNet(tmp_path/'absent.onnx')
    model = onnx.load(folder/'float.onnx')
    onnx.save_model(model, tmp_path/'out.onnx', save_as_external_data=True, location='weights.bin', size_threshold=1000)
    assert OnnxNet(tmp_path/'out.onnx', 1)(X).shape == (24, 4)
    (tmp_path/'weights.bin').unlink()
    with pytest.raises(ValueError, match='its weights are in weights.bin, which is missing'): OnnxNet(tmp_path/'out.onnx')

def ends(path, shapes, kinds=(onnx.TensorProto.FLOAT,), outs=(['n', 'k'],)):
    "A file of given inputs and outputs that does nothing sensible."
    h = onnx.helper
    ins = [h.make_tensor_value_info(f'i{k}', kinds[k % len(kinds)], s) for k, s in enumerate(shapes)]
    nodes = [h.make_node('Flatten' if len(o) == 2 else 'Identity', ['i0'], [f'o{k}']) for k, o in enumerate(outs)]
    g = h.make_graph(nodes, 'g', ins, [h.make_tensor_value_info(f'o{k}', kinds[0], s) for k, s in enumerate(outs)])
    path.write_bytes(h.make_model(g, opset_imports=[h.make_opsetid('', 21)], ir_version=10).SerializeToString())
    return path

@pytest.mark.parametrize('shapes, kinds, says', [
    (([1, 3, 8, 8], [1]), (onnx.TensorProto.FLOAT,), 'one batch of images'), (([1, 3, 8],), (onnx.TensorProto.FLOAT,), 'one batch of images'),
    (([1, 3, 8, 8],), (onnx.TensorProto.INT64,), 'one batch of images'), (([1, 8, 8, 8],), (onnx.TensorProto.FLOAT,), 'logits|which axis')])
def test_files_that_are_no_classifiers(shapes, kinds, says, tmp_path):
    with pytest.raises(ValueError, match=says): OnnxNet(ends(tmp_path/'odd.onnx', shapes, kinds, (['n', 3, 8, 8],)))


# bad members

def test_bad_members(folder):
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    with pytest.raises(ValueError, match="'a' has 4 classes.*'b' has 7|'b' has 7 classes.*'a' has 4"): member_table(family({'a': plain(), 'b': wide}), X, Y)
    with pytest.raises(ValueError, match="class 2 is 'c' and 'd' in another order"): family({'a': Member(plain(), classes='abcd'), 'b': Member(plain(), classes='abdc')})
    with pytest.raises(ValueError, match='4 and 3 of them'): family({'a': Member(plain(), classes='abcd'), 'b': Member(plain(), classes='abc')})
    for names in ('all', '', ' ', '8', 'a/b', 'a+b', 'a>b'):
        with pytest.raises(ValueError, match="a member's name"): family({names: plain()})
    with pytest.raises(ValueError, match="a member's name"): family({'a': plain(), 8: plain()})
    for bad in ({}, [plain()], None):
        with pytest.raises(TypeError, match='a dict name'): family(bad)
    with pytest.raises(TypeError, match='a module or a function'): family({'a': 3})
    with pytest.raises(ValueError, match='a network or an ONNX file'): family({'a': 'net.pth'})

def test_sizes(tmp_path):
    small, large = ends(tmp_path/'s.onnx', ([1, 3, 8, 8],)), ends(tmp_path/'l.onnx', ([1, 3, 9, 9],))
    with pytest.raises(ValueError, match='takes images of .*8, 8.* of .*9, 9'): family({'a': OnnxNet(small), 'b': OnnxNet(large)})
    with pytest.raises(ValueError, match=r'takes images of shape \[3, 8, 8\]'): predict(family({'a': OnnxNet(small)}), X)

def test_said_to_be_differentiable():
    "A function may have gradients, and a module may have none: it is said, or found out."
    soft = family({'a': Member(lambda x: plain()(x), differentiable=True)})
    assert PatchPGD(5, 1, seed=0).attack(soft, X[:2], Y[:2]).shape == X[:2].shape
    class Hard(nn.Module):
        def forward(self, x): return plain()(x).detach()
    with pytest.raises(ValueError, match='say differentiable=False'): PatchPGD(5, 1).attack(family({'a': Hard()}), X[:2], Y[:2])
    assert gradient_bits(family({'a': Member(Hard(), differentiable=False)})) == ()

def test_numpy_functions():
    "A function may give an array."
    net = family({'a': lambda x: x.numpy().mean((2, 3)), 'b': lambda x: np.float64(x.numpy()).mean((2, 3))})
    assert predict(net, X, 'a')[0].equal(predict(net, X, 'b')[0])

@pytest.mark.skipif(not find_spec('torchao'), reason='torchao is not installed')
@pytest.mark.parametrize('config, soft', [('Int8WeightOnlyConfig', True), ('IntxWeightOnlyConfig', True), ('Int8DynamicActivationInt8WeightConfig', False)])
def test_torchao(config, soft):
    "What torchao quantizes is a member like any module; what rounds activations has no gradients, which is said."
    import copy, torchao.quantization as ao
    net = copy.deepcopy(plain())
    ao.quantize_(net, getattr(ao, config)())
    fam, both = family({'fp32': plain(), 'ao': Member(net, differentiable=soft)}), family({'fp32': plain(), 'ao': net})
    t = transfer_matrix(fam, [(X, Y)], PatchPGD(5, 1), progress=False, nulls=False)
    assert t.sources(*t.attacks) == ['fp32', 'ao'][:1 + soft] and fingerprint(fam) != fingerprint(family({'fp32': plain(), 'ao': plain()}))
    if not soft:
        with pytest.raises(ValueError, match='say differentiable=False'): PatchPGD(5, 1).attack(both, X[:2], Y[:2], 'ao')


# the command line

SMALL = '--quick --n 12 --n-attack 2 --n-align 2 --pgd-steps 1 --queries 2 --patch-size 4 --quiet --attacks pgd sparse-rs'.split()

def evaluated(out, *args):
    "The exit code of `triqdef evaluate`, and its report's values."
    code = main(['evaluate', *map(str, args), *SMALL, '--out', str(out)])
    return code, json.loads((out/'report.json').read_text()) if (out/'report.json').exists() else None

def test_evaluate_members(folder, tmp_path, capsys):
    "A checkpoint at one bit-width and its file, with a certificate and the lines of the audit that apply."
    net = save_checkpoint(multi(), tmp_path/'net.safetensors', 'toy_net', 4)
    code, page = evaluated(tmp_path/'r', '--member', f'fp32={net}@32', '--member', f"int4={folder/'4.onnx'}", '--data', 'toys', '--certify', 3)
    said = capsys.readouterr()
    assert code == 0 and page is not None, said.err
    assert 'no gradient at int4' in (tmp_path/'r/index.html').read_text() and 'audit: family' in said.out

@pytest.mark.skipif(not find_spec('timm'), reason='timm is not installed')
def test_evaluate_a_folder(tmp_path, capsys):
    "A network of timm with its own weights and its file, on a folder of pictures."
    import timm
    torch.manual_seed(0)
    torch.save(timm.create_model('test_resnet', num_classes=2).state_dict(), tmp_path/'own.pth')
    net = classifier('timm/test_resnet', str(tmp_path/'own.pth'), 2)
    side = net.preset.crop
    torch.onnx.export(net, (torch.rand(1, 3, side, side),), tmp_path/'net.onnx', dynamo=True, verbose=False)
    for i in range(24):
        path = tmp_path/'data'/('train' if i < 12 else 'valid')/'ab'[i % 2]/f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(i).integers(0, 255, (8, 8, 3), np.uint8)).resize((side, side)).save(path)
    code, page = evaluated(tmp_path/'r', '--member', 'fp32=timm/test_resnet', '--member', f"file={tmp_path/'net.onnx'}", '--weights', tmp_path/'own.pth',
                           '--data', tmp_path/'data', '--no-audit')
    assert code == 0 and page is not None, capsys.readouterr().err

@pytest.mark.parametrize('args, says', [
    (['--member', 'cifar10-resnet20-fp'], 'must be NAME=NET'), (['--member', 'a=cifar10-resnet20-fp', '--member', 'a=cifar10-resnet20-qat@4'], "two members are named 'a'"),
    (['--member', 'a=nothing.onnx'], 'nothing.onnx'), (['cifar10-resnet20-fp', '--member', 'a=cifar10-resnet20-fp'], 'leave the others out'),
    (['--member', 'a=cifar10-resnet20-qat', '--bits', '4'], '--bits has no effect with --member'), (['--member', 'all=cifar10-resnet20-fp'], "a member's name")])
def test_bad_members_of_a_command(args, says, tmp_path, capsys):
    code, page = evaluated(tmp_path/'r', *args)
    assert code and page is None and says in capsys.readouterr().err


# the study

def test_in_a_study(folder, few_toys, undrawn, tmp_path, capsys):
    "Members by the command: what cannot be made says why, the cells resume, are collected, and refuse other files."
    net = save_checkpoint(multi(), tmp_path/'net.safetensors', 'toy_net', 4)
    def said(file, *more):
        args = ['study', 'cifar10', '--scale', 'toys', '--member', f'fp32={net}@32', '--member', f'int4={file}', *more]
        return main([str(a) for a in args]), capsys.readouterr()
    own = '--arms', 'members', '--folder', tmp_path/'s', '--quiet'
    code, first = said(folder/'4.onnx', *own)
    assert code == 0 and 'left out, int4: no gradient at int4' in first.out and '4 cells are there' in first.out, first.err
    assert 'left out, alignment: needs two that have gradients' in first.out and 'fp32' in first.out.split('T1')[1]
    code, again = said(folder/'4.onnx', *own)
    assert code == 0 and 'members/seed0/' not in again.out and first.out.split('%, means')[1] == again.out.split('%, means')[1]
    code, all_ = said(folder/'4.onnx', '--collect', tmp_path/'s', '--out', tmp_path/'all.json')
    assert code == 0 and '4 cells are there, 40 are missing' in all_.out and '**left out** — members, alignment' in all_.out
    for file, says in ((folder/'float.onnx', 'made with other settings'), ('absent.onnx', 'absent.onnx')):
        code, bad = said(file, *own)
        assert code == 2 and says in bad.err

def test_study_without_gradients(few_toys, undrawn, tmp_path):
    "Attacks that need gradients leave an empty cell, those that see scores a matrix; networks that do not fit are refused before any cell."
    recipe = load_recipe('cifar10', 'toys')
    recipe = replace(recipe, attacks={'PGD': recipe.attacks['Patch PGD 4×4'], 'MPA': dict(attack='mpa', role='unseen', area_each=.03, queries=3, n=6)}).with_members(
        dict(a='one', b='two'))
    def made(members, where, **kw): return study(recipe, tmp_path/where, ['members'], progress=False, networks=dict(members=family(members)), **kw)
    grey = {'a': lambda x: plain()(x.mean(1, keepdim=True).expand_as(x)).detach(), 'b': lambda x: plain()(x).detach()}
    cells = made(grey, 'grey')
    assert cells['members/seed0/pgd']['left_out'] == {'a': 'no gradient at a', 'b': 'no gradient at b'} and cells['members/seed0/pgd']['rows'] == []
    tables = study_tables(collect(tmp_path/'grey'), recipe)
    assert set(tables['transfer'].attack) == {'MPA'} and tables['transfer'][['T1', 'T2', 'T3']].notna().all(None) and not len(tables['ablation'])
    with pytest.raises(ValueError, match='of other members'): made(grey | dict(b=grey['a']), 'grey')
    wide = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 7))
    for members, says in ((dict(a=wide, b=wide), 'a has 7 classes, the data 4'), (dict(a=plain(), c=plain()), r"has members \['a', 'b'\], what is given has"),
                          ({n: Member(plain(), classes='abcd') for n in 'ab'}, 'the data have the 4 classes'),
                          ({n: OnnxNet(ends(tmp_path/f'{n}.onnx', ([1, 3, 8, 8],))) for n in 'ab'}, 'takes images of shape')):
        with pytest.raises(ValueError, match=says): made(members, 'bad')
    with pytest.raises(ValueError, match='networks must be one of'): study(recipe, tmp_path/'bad', ['qat'], networks=dict(qat=plain()))
    assert not (tmp_path/'bad').exists()


# agreement and disagreement

def test_disagreement(fam):
    "Members are compared as bit-widths are, and the attacker who keeps them together needs their gradients."
    d = disagreement(fam, X)
    assert d.shape == (24,) and 0 <= d.min() <= d.max() <= 1 and disagreement(fam, X, ('fp32', 'ort int4'), 'votes').shape == (24,)
    z = PatchPGD(5, 3, 32/255, seed=0).attack(fam, X, Y, AgreeingEnsemble(('fp32', 'eight')))
    assert Detection(d, disagreement(fam, z)).area >= 0
    with pytest.raises(ValueError, match='has no gradients'): PatchPGD(5, 1).attack(fam, X[:2], Y[:2], AgreeingEnsemble(NAMES))
    with pytest.raises(ValueError, match='one of'): disagreement(fam, X, ('fp32', 'int4'))
