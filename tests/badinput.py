"""Bad inputs by the kind of a parameter, and the judgement of what a call made of one.

A parameter's kind is read from its name, annotation, default and comment, so that a new parameter comes with its bad values."""
import importlib, inspect, linecache, os, pkgutil, re, signal, traceback, warnings
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from fastai.callback.core import Callback
from fastcore.docments import docments
from torch import nn, Tensor

import triqdef
import triqdef.pixels as pixels
from triqdef.attack.pgd import PatchPGD

CLEAR = (ValueError, TypeError, OSError, ModuleNotFoundError)
NAN, INF = float('nan'), float('inf')


# public names

@lru_cache
def public():
    "Every name that a module exports: 'attack.gap.GAP' → object; values that are no callables are left out."
    found = {}
    for m in pkgutil.walk_packages(triqdef.__path__, 'triqdef.'):
        if m.name.split('.')[-1] in ('_modidx', 'all'): continue
        mod = importlib.import_module(m.name)
        found.update({f"{m.name.removeprefix('triqdef.')}.{n}": getattr(mod, n) for n in getattr(mod, '__all__', ())})
    return {n: o for n, o in found.items() if callable(o)}


# kinds of parameters

@dataclass(frozen=True)
class Param:
    "What is known of a parameter."
    name:str
    default:object
    annotation:object
    text:str
    @property
    def optional(self): return self.default is None or bool(re.search(r'\bNone\b', self.text))

def params_of(f):
    "The parameters of a callable, each with its comment."
    of = f.__init__ if isinstance(f, type) and not hasattr(f, '__dataclass_fields__') else f
    notes = {}
    for part in reversed(of.__mro__[:-1]) if isinstance(of, type) else [of]:     # fields may be inherited
        try: notes |= {k: v for k, v in docments(part).items() if v}
        except Exception: pass      # a callable whose source docments cannot read has no comments
    return [Param(p.name, p.default, p.annotation, str(notes.get(p.name) or '')) for p in inspect.signature(f).parameters.values()
            if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]

def whole(p): return p.annotation is int or isinstance(p.default, int) and not isinstance(p.default, bool)
def real(p): return p.annotation is float or isinstance(p.default, float)
def quoted(p): return len(re.findall(r"'[\w-]+'", p.text)) > 1

BY_NAME = {'x': 'images', 'x_adv': 'images', 'images': 'images', 'example': 'images', 'y': 'labels', 'labels': 'labels', 'dl': 'loader',
           'net': 'network', 'model': 'network', 'generator': 'generator', 'g': 'generator', 'places': 'places', 'image_hw': 'hw',
           'hw': 'hw', 'forbidden': 'forbidden', 'device': 'device', 'size': 'size', 'seed': 'seed', 'definition': 'choice', 'shape': 'choice',
           'logits': 'logits', 'a': 'maps', 'b': 'maps', 'm': 'maps', 'attack': 'attack', 'attacks': 'several attacks', 'target': 'target',
           'resume': 'state file', 'dir': 'write folder', 'out': 'write folder', 'parts': 'write folder', 'level': 'share', 'pairs': 'pairs',
           'stages': 'stages', 'sources': 'sources', 'fit_on': 'unread loader', 'method': 'choice', 'weight': 'choice', 'act': 'choice'}
FREE = {'progress', 'label', 'title', 'caption', 'meta', 'notes', 'cbs', 'told', 'name', 'vocab', 'history', 'cls', 'value', 'key', 'v',
        'things', 'message', 'loss_func', 'ax', 'titles', 'preset', 'patch', 'clean', 'checkpoint', 'curriculum', 'wait', 'quick',
        'independent', 'undefended', 'transfer', 'gradient_free', 'controls', 'exported', 'runs', 'about', 'dictionary', 'per_channel'}

def kind_of(p, given=()):
    "The kind of a parameter, or None where anything makes sense."
    if p.name in given: return given[p.name]
    if p.name == 'bits' or p.name.endswith('_bits'):
        if 'view' in p.text or 'several' in p.text: return 'view'
        if re.search(r'bit-widths\b', p.text) and not re.search(r'one of (its|self)', p.text) and not p.annotation is int: return 'bits'
        return 'bit'
    if p.annotation is bool or isinstance(p.default, bool): return None
    if p.name in ('weight', 'act', 'method') and real(p): return 'number'
    if p.name in ('width', 'cell') or (p.name in ('a', 'b', 'size', 'target') and whole(p) and 'class' not in p.text): return 'int' if p.name != 'size' else 'size'
    if p.name in BY_NAME: return BY_NAME[p.name]
    if whole(p): return 'int'
    if real(p): return 'number'
    if quoted(p) or p.annotation is str and "'" in p.text: return 'choice'
    return None


# bad values

def bound(p):
    "The least value that a number may have, by its comment, and whether it may be it: (least, included) or None."
    t = p.text
    if m := re.search(r'at least (\d+)|≥ (\d+)', t): return float(m[1] or m[2]), True
    if re.search(r'non-negative|0 for |0: |0 (in|as)|0 is ', t): return 0., True
    if re.search(r'> 0|positive|\(0,|above 0|between 0', t): return 0., False
    if re.search(r'\[0,1|0 to 1', t): return 0., True
    return None

def bad_int(p, v, call):
    yield from (('float', 2.5), ('whole float', 2.), ('string', '3'), ('bool', True), ('nan', NAN), ('list', [1]), ('complex', 1j))
    if not p.optional: yield 'None', None
    yield 'negative', -1
    if (b := bound(p)) and b[0] > 0: yield 'below', int(b[0]) - 1

def bad_seed(p, v, call):
    yield from (('float', 2.5), ('string', '3'), ('nan', NAN), ('list', [1]), ('bool', True))

def bad_number(p, v, call):
    yield from (('string', '0.5'), ('nan', NAN), ('list', [1.]), ('complex', 1j), ('bool', True))
    if not p.optional: yield 'None', None
    if 'inf' not in p.text: yield 'inf', INF
    if b := bound(p):
        yield 'negative', -.5
        if not b[1]: yield 'zero', 0.
    if 'units of' not in p.text and re.search(r',1[\])]|to 1\b|and 1\b|most 1\b', p.text): yield 'above', 1.5

def bad_share(p, v, call):
    yield from (('string', '0.5'), ('nan', NAN), ('negative', -.1), ('above', 1.5), ('list', [.5]))
    if not p.optional: yield 'None', None

def bad_images(p, v, call):
    if not isinstance(v, Tensor): v = call.world.x
    yield from (('uint8', (v*255).byte()), ('int64', v.long()), ('numpy', v.numpy()), ('list', v[:1].tolist()), ('complex', v.to(torch.complex64)),
                ('string', 'cat.png'), ('number', 3), ('2-dimensional', v[0, 0]), ('5-dimensional', v[None]), ('empty', v[:0]))
    if 'or (C,H,W)' not in p.text: yield 'one image', v[0]
    if not p.optional: yield 'None', None
    for name, bad in (('nan', NAN), ('inf', INF)):
        z = v.clone(); z[0, 0, 0, 0] = bad
        yield name, z
    if call.has('net') or call.has('patch'): yield 'channels', v[:, :1].expand(-1, 5, -1, -1); yield 'grey', v[:, :1]

def bad_pixels(p, v, call):
    "Images whose values are not read: their type and shape are."
    yield from (c for c in bad_images(p, v, call) if c[0] not in ('nan', 'inf'))

def bad_tensor(p, v, call):
    "Maps whose values are not read."
    yield from (c for c in bad_maps(p, v, call) if c[0] not in ('nan', 'inf', 'empty', 'complex', 'int64'))

def bad_batches(p, v, call):
    "A loader of which neither the pixels nor the labels are read."
    yield from (c for c in bad_loader(p, v, call) if c[0] not in ('nan', 'uint8', 'float labels', 'outside'))

def bad_module(p, v, call):
    "A network whose outputs are not read."
    yield from (c for c in bad_network(p, v, call) if c[0] not in ('tuple', 'maps'))

def bad_unread_loader(p, v, call):
    "A loader that this call does not walk."
    yield from (c for c in bad_loader(p, v, call) if c[0] in ('string', 'number'))

def bad_stage_list(p, v, call):
    "Stages without the network that has them."
    yield from (c for c in bad_stages(p, v, call) if c[0] not in ('unknown',))

def bad_unread_labels(p, v, call):
    "Labels of which only type and shape are read."
    yield from (c for c in bad_labels(p, v, call) if c[0] not in ('negative', 'outside'))

def bad_state_file(p, v, call):
    "A file that is written later."
    yield from (c for c in bad_write_file(p, v, call) if c[0] != 'system')

def bad_new_name(p, v, call):
    "A name to which suffixes are added."
    yield from (c for c in bad_write_file(p, v, call) if c[0] != 'folder')

def bad_stage_names(p, v, call):
    yield from (c for c in bad_stages(p, v, call) if c[0] != 'twice')

def bad_image_batches(p, v, call):
    yield from (c for c in bad_loader(p, v, call) if c[0] not in ('float labels', 'outside', 'no labels', 'one of two', 'short'))

def bad_label_order(p, v, call):
    yield from (c for c in bad_labels(p, v, call) if c[0] not in ('outside', 'short'))

def bad_any_module(p, v, call):
    yield from (c for c in bad_module(p, v, call) if c[0] != 'float')

def bad_patch_pixels(p, v, call):
    yield from (c for c in bad_patch(p, v, call) if c[0] != 'nan')

def bad_strict_int(p, v, call): yield from bad_int(p, v, call)

def bad_unknown(p, v, call): yield 'unknown', 'nonsense'

def bad_later_folder(p, v, call):
    yield from (c for c in bad_write_folder(p, v, call) if c[0] != 'system')

def bad_open_target(p, v, call):
    yield from (c for c in bad_target(p, v, call) if c[0] != 'None')

def bad_several_attacks(p, v, call):
    yield from (c for c in bad_attacks(p, v, call) if c[0] != 'duplicates')

def bad_dataset(p, v, call):
    yield from (('string', 'data'), ('number', 3), ('list', call.world.dl), ('None', None))

def bad_dataset_images(p, v, call):
    yield from (c for c in bad_images(p, v, call) if c[0] not in ('nan', 'inf', 'uint8', 'empty'))

def bad_dataset_labels(p, v, call):
    yield from (c for c in bad_labels(p, v, call) if c[0] != 'outside')

def bad_labels(p, v, call):
    yield from (('float', v.float()), ('short', v[:-1]), ('one-hot', torch.eye(4)[v % 4].long()),
                ('empty', v[:0]), ('string', 'cat'), ('bool', v.bool()), ('complex', v.to(torch.complex64)))
    if not p.optional: yield 'None', None
    yield 'negative', v*0 - 1
    if call.has('net') or call.has('logits'): yield 'outside', v + 100

class Tuple(nn.Module):
    "A network that gives its logits in a tuple."
    def __init__(self, net): super().__init__(); self.net, self.bit_state = net, getattr(net, 'bit_state', None)
    def forward(self, x): return self.net(x), x

class Maps(Tuple):
    "A network that gives maps instead of logits."
    def forward(self, x): return x

def bad_network(p, v, call):
    yield from (('string', 'resnet20'), ('class', nn.Linear), ('function', len), ('tensor', torch.zeros(3)), ('number', 3))
    if not p.optional: yield 'None', None
    if 'multi-bit network' in p.text and 'plain' not in p.text and not call.plain: yield 'float', call.world.plain
    if call.has('x') or call.has('dl'): yield 'tuple', Tuple(v); yield 'maps', Maps(v)

def bad_bit(p, v, call):
    yield from (('zero', 0), ('33', 33), ('negative', -4), ('float', 4.), ('string', '4'), ('bool', True), ('empty', ()), ('nan', NAN), ('list', [4, 4]))
    if not p.optional: yield 'None', None
    if call.has('net'): yield 'outside', 3

def bad_bits(p, v, call):
    yield from (('empty', ()), ('twice', (4, 4)), ('strings', ('4', '2')), ('string', '42'), ('floats', (4., 2.)), ('number', 4), ('zero', (4, 0)),
                ('33', (33, 4)), ('bools', (True, 4)), ('nan', (NAN, 4)))
    if not p.optional: yield 'None', None
    if call.has('net'): yield 'outside', (4, 3)

def bad_view(p, v, call):
    yield from ((n, b) for n, b in bad_bit(p, v, call) if n not in ('list',))
    yield from ((n, b) for n, b in bad_bits(p, v, call) if n not in ('number', 'empty', 'zero', 'nan', 'None', '33', 'outside'))
    if call.has('net'): yield 'outside several', (4, 3)

class UsedUp:
    "A loader of which nothing is left."
    def __iter__(self): return iter(())
    def __len__(self): return 0

def bad_loader(p, v, call):
    x, y = call.world.x, call.world.y
    yield from (('empty', []), ('used up', iter(())), ('nothing', UsedUp()), ('string', 'data'), ('number', 3), ('dicts', [dict(image=x, label=y)]),
                ('numpy', [(x.numpy(), y.numpy())]), ('uint8', [((x*255).byte(), y)]), ('numbers', [3]), ('strings', ['ab']))
    if not p.optional: yield 'None', None
    z = x.clone(); z[0, 0, 0, 0] = NAN
    yield 'nan', [(z, y)]
    if 'not used' not in p.text and '...' not in p.text:
        yield from (('no labels', [x]), ('one of two', [(x,)]), ('short', [(x, y[:-1])]), ('float labels', [(x, y.float())]))
        if call.has('net'): yield 'outside', [(x, y + 100)]

def bad_choice(p, v, call):
    yield from (('unknown', 'nonsense'), ('number', 3), ('empty', ''), ('list', ['a']))
    if not p.optional: yield 'None', None

def bad_size(p, v, call):
    yield from (('zero', 0), ('negative', -4), ('float', 4.5), ('whole float', 4.), ('string', '4'), ('bool', True), ('empty', ()), ('three', (4, 4, 4)),
                ('zero side', (0, 4)), ('nan', NAN))
    if not p.optional: yield 'None', None
    if call.has('net') or call.has('image_hw'): yield 'huge', 10**9

def bad_hw(p, v, call):
    yield from (('number', 5), ('zero', (0, 4)), ('negative', (-4, 4)), ('string', 'xy'), ('one', (4,)), ('three', (4, 4, 4)), ('floats', (16.5, 16.)), ('None', None), ('bools', (True, True)))

def bad_places(p, v, call):
    yield from (('unknown', 'nowhere'), ('floats', (1.5, 2.)), ('one', (1,)), ('three', (0, 0, 0)), ('number', 3), ('empty', ()), ('negative', (-1, 0)))
    if call.has('x') or call.has('image_hw'): yield 'outside', (10**6, 0)

def bad_forbidden(p, v, call):
    yield from (('string', 'all'), ('number', 3), ('pairs', [(0, 0)]), ('floats', [(0., 0., 4.5, 4.)]), ('strings', ['abcd']), ('float map', torch.zeros(16, 16)),
                ('negative', [(-1, 0, 4, 4)]), ('backwards', [(4, 4, 0, 0)]))
    if call.has('image_hw') or call.has('x'): yield 'other map', torch.zeros(3, 3, dtype=torch.bool)

def bad_device(p, v, call):
    yield from (('unknown', 'tpu9'), ('float', 1.5), ('list', ['cpu']))
    if not torch.cuda.is_available(): yield 'cuda', 'cuda'

def bad_generator(p, v, call):
    if 'unused' in p.text: return
    yield from (('number', 3), ('numpy', np.random.default_rng(0)), ('string', 'seed'))

def bad_logits(p, v, call):
    yield from (('one row', v[0]), ('int64', v.long()), ('numpy', v.numpy()), ('list', v.tolist()), ('None', None), ('string', 'x'), ('3-dimensional', v[None]), ('empty', v[:0]), ('tuple', (v, v)))

def bad_maps(p, v, call):
    yield from (('2-dimensional', v[0, 0]), ('3-dimensional', v[0]), ('int64', v.long()), ('numpy', v.numpy()), ('list', v.tolist()), ('None', None), ('string', 'x'), ('empty', v[:0]),
                ('complex', v.to(torch.complex64)))
    z = v.clone(); z.view(-1)[0] = NAN
    yield 'nan', z
    z = v.clone(); z.view(-1)[0] = INF
    yield 'inf', z
    if v.shape[1] == 1: yield 'three channels', v.expand(-1, 3, -1, -1)

def bad_attack(p, v, call):
    yield from (('string', 'pgd'), ('class', PatchPGD), ('object', SimpleNamespace()), ('number', 3))
    if not p.optional: yield 'None', None

def bad_attacks(p, v, call):
    yield from bad_attack(p, v, call)
    yield from (('empty', []), ('empty dict', {}), ('strings', ['pgd']), ('numbers', {'pgd': 3}), ('duplicates', [PatchPGD(4, steps=1), PatchPGD(4, steps=1)]))

def bad_target(p, v, call):
    yield from (('float', 1.5), ('string', '1'), ('bool', True), ('nan', NAN), ('negative', -1), ('list', [1]))
    if not p.optional: yield 'None', None
    if call.has('net') or call.has('logits'): yield 'outside', 99

def bad_pairs(p, v, call):
    yield from (('unknown', 'every'), ('number', 3), ('three', [(32, 4, 2)]), ('itself', [(4, 4)]), ('strings', [('32', '4')]), ('empty', []))
    if call.has('bits') or call.has('features') or call.has('gradients') or call.has('maps'): yield 'outside', [(32, 7)]

def bad_stages(p, v, call):
    yield from (('unknown', ('layer9',)), ('number', 3), ('numbers', (3,)), ('twice', ('layer1', 'layer1')), ('string', 'layer9'))

def bad_sources(p, v, call):
    yield from (('outside', (3,)), ('number', 3.5), ('string', '4'), ('empty', ()), ('floats', (4.,)), ('twice', (4, 4)), ('outside several', ((4, 3),)))

def bad_patch(p, v, call):
    yield from (('2-dimensional', v[0]), ('numpy', v.numpy()), ('None', None), ('complex', v.to(torch.complex64)), ('int64', v.long()), ('string', 'x'), ('empty', v[:, :0]),
                ('nan', v*NAN), ('number', 3))

def bad_shard(p, v, call):
    yield from (('string', 'first'), ('outside', (2, 2)), ('negative', (-1, 2)), ('number', 3), ('floats', (0.5, 2)), ('no shards', (0, 0)), ('one', (1,)), ('slash', '1/'))

def bad_open_share(p, v, call):
    yield from bad_share(p, v, call)
    yield from (('zero', 0.), ('one', 1.))

def bad_preds(p, v, call):
    yield from (('float', v.float()), ('None', None), ('2-dimensional', v[None]), ('short', v[:-1]), ('string', 'x'))

# paths: what is given stays as it was; root ignores permissions, so unwritable places lie below a file

def unwritable(w): return (('below a file', w.file/'below'), ('no path', 3), ('empty string', ''), ('system', '/proc/nothing/x'))

def bad_write_file(p, v, call):
    yield from (*unwritable(call.world), ('folder', call.world.folder))
    if not p.optional: yield 'None', None

def bad_write_folder(p, v, call):
    yield from (*unwritable(call.world), ('file', call.world.file))
    if not p.optional: yield 'None', None

def bad_read_file(p, v, call):
    w = call.world
    yield from (('absent', w.folder/'absent'), ('below a file', w.file/'below'), ('folder', w.folder), ('empty string', ''), ('no path', 3.5), 
                ('other file', w.file))
    if not p.optional: yield 'None', None

def bad_read_folder(p, v, call):
    w = call.world
    yield from (('absent', w.folder/'absent'), ('below a file', w.file/'below'), ('file', w.file), ('empty', w.folder/'empty'), ('no path', 3.5), 
                ('empty string', ''))
    if not p.optional: yield 'None', None

BAD = {k.removeprefix('bad_').replace('_', ' '): f for k, f in list(globals().items()) if k.startswith('bad_')}

# values of another type that are as good: the result is that of the plain value

GOOD = {'int': lambda v: [('numpy int', np.int64(v))] if isinstance(v, int) else [],
        'seed': lambda v: [('numpy int', np.int64(v))] if isinstance(v, int) else [],
        'number': lambda v: [('numpy float', np.float64(v)), *([('int', int(v))] if v == int(v) else [])] if isinstance(v, float) else [],
        'bit': lambda v: [('numpy int', np.int64(v))] if isinstance(v, int) else [],
        'bits': lambda v: [('numpy ints', np.array(v)), ('list', list(v))] if isinstance(v, tuple) else [],
        'view': lambda v: [('numpy int', np.int64(v))] if isinstance(v, int) else [],
        'size': lambda v: [('numpy int', np.int64(v)), ('pair', (v, v))] if isinstance(v, int) else [],
        'labels': lambda v: [('int32', v.int())],
        'unread labels': lambda v: [('int32', v.int())],
        'target': lambda v: [('numpy int', np.int64(v))] if isinstance(v, int) else []}


# one case

@dataclass
class Call:
    "A small valid call."
    name:str
    f:object
    kwargs:dict
    world:object
    kinds:dict
    plain:bool = False
    before:object = None      # the state that the case before left as it was
    result:object = None      # what the valid call gives, where it is a path: no file need be written again
    def has(self, n): return n in self.kwargs
    def __call__(self, **other):
        out = self.f(**{**self.kwargs, **other})
        if hasattr(out, '__enter__') and hasattr(out, '__exit__'):
            with out: pass
        return list(out) if inspect.isgenerator(out) else out

# (call, parameter, label): what another call refuses, and this one takes by design
TAKEN = {*((n, 'x', 'numpy') for n in ('datasets.ImageTensors', 'datasets.split_tensors')), *((n, 'dl', 'numpy') for n in ('batches.take', 'batches.check_loader')),
         *((n, 'bits', k) for n in ('attack.ensemble.BitEnsemble', 'attack.agreeing.AgreeingEnsemble', 'attack.ensemble.RandomPrecision') for k in ('number', 'None')),
         *(('train.objective.Objective.__call__', 'x', k) for k in ('nan', 'inf')),       # values are not read in each step
         ('evaluate.doublemask.DoubleMask', 'patch', 'huge'),                        # no image is there yet
         ('purify.eot.at_seed', 'seed', 'numpy int')}                                # JEDI draws nothing

def cases_of(call):
    "(parameter, label, value, whether it is as good as the valid one) of every parameter with a kind."
    for p in params_of(call.f):
        kind, v = kind_of(p, call.kinds), call.kwargs.get(p.name, None if p.default is inspect.Parameter.empty else p.default)
        if kind is None or p.name in FREE and p.name not in call.kinds: continue
        yield from ((p.name, n, b, False) for n, b in BAD[kind](p, v, call) if (call.name, p.name, n) not in TAKEN)
        if kind in GOOD and p.name in call.kwargs:
            yield from ((p.name, n, b, True) for n, b in GOOD[kind](v) if (call.name, p.name, n) not in TAKEN)

def says(message, param, value):
    "Whether a message names the parameter or what was given."
    if hasattr(value, '__fspath__') or isinstance(value, str) and '/' in value: value = str(value); words_of_path = {str(Path(value).parent)} - {'.', '/'}
    else: words_of_path = set()
    words = {*words_of_path, param, param.rstrip('s'), param.replace('_', ' '), param.replace('_', '-'), type(value).__name__}
    if isinstance(value, (Tensor, np.ndarray)): words |= {str(tuple(value.shape)), str(value.dtype)}
    return any(w and w in message for w in words) or any(w and w in message for w in (str(value), repr(value)))     # those take longest

ALIASES = dict(x='images pixels maps patch', data='images', patch='patch', y='labels', dl='loader batch images labels empty', net='network model Module multi-bit', model='network multi-bit model', hw='patch box fit side size height', image_hw='patch image side size height', allowed='bits', image='patch', stages='stage', names='stage attack', out='logits folder',
               places='place', x_adv='images', a='maps', b='maps', m='maps', size='patch', resume='state path folder file', dir='folder', path='file folder checkpoint resume state',
               forbidden='box place', top_left='places', target='class', logits='logits', example='images', fixed='places', model_path='file')

def verdict(call, param, value, error, warned):
    "None if the call refused clearly, else what it did instead."
    if error is None: return None if any('[0,1]' in w for w in warned) else 'silent'
    if isinstance(error, Late): return 'hang'
    message, last = str(error), traceback.extract_tb(error.__traceback__)[-1]
    told = says(message, param, value) or any(a in message for a in ALIASES.get(param, '').split())
    if not isinstance(error, CLEAR): return f'internal {type(error).__name__}'
    if isinstance(error, OSError) and told: return None
    own = '/triqdef/' in last.filename and 'raise' in linecache.getline(last.filename, last.lineno)
    if not own: return f'internal {type(error).__name__}'
    return None if told and len(message) < 1500 else 'unclear'

class Late(Exception): pass

@contextmanager
def at_most(seconds):
    "Interrupt what takes longer."
    def late(*_): raise Late(f'longer than {seconds} s')
    old = signal.signal(signal.SIGALRM, late); signal.alarm(seconds)
    try: yield
    finally: signal.alarm(0); signal.signal(signal.SIGALRM, old)

def state(world):
    "All that a refused call must leave alone: networks, and files."
    out = []
    for net in world.nets():
        modules = list(net.modules())
        tensors = [t for m in modules for t in (*m._parameters.values(), *m._buffers.values()) if t is not None]
        out.append((torch.cat([t.detach().flatten().double() for t in tensors]).numpy().tobytes(), [t.requires_grad for t in tensors],
                    [(m.training, len(m._forward_hooks) + len(m._forward_pre_hooks)) for m in modules],
                    getattr(getattr(net, 'bit_state', None), 'bits', None)))
    return out, sorted((f'{folder}/{n}', os.stat(f'{folder}/{n}').st_size if n in files else 0)
                       for folder, folders, files in os.walk(world.root) for n in (*folders, *files))

def alike(a, b):
    "Whether two results are the same, whatever the type of their numbers."
    if isinstance(a, Tensor): return isinstance(b, Tensor) and a.shape == b.shape and torch.equal(a, b) or (a.dtype.is_floating_point and a.shape == b.shape and torch.allclose(a, b, equal_nan=True))
    if isinstance(a, nn.Module): return alike(dict(a.state_dict()), dict(b.state_dict()))
    if isinstance(a, dict): return {str(k) for k in a} == {str(k) for k in b} and all(alike(u, v) for u, v in zip(a.values(), b.values()))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray): return np.array_equal(np.asarray(a), np.asarray(b), equal_nan=np.asarray(a).dtype.kind == 'f')
    if isinstance(a, (list, tuple)): return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, (int, float, np.number)): return a == b or a != a and b != b
    if isinstance(a, Callback): return type(a) is type(b)
    if isinstance(a, torch.Generator): return torch.equal(a.get_state(), b.get_state())
    if hasattr(a, '__dict__') and type(a).__module__.startswith('triqdef'): return alike({k: v for k, v in vars(a).items() if k not in ('settings', 'started', 'spent', 'every', 'last', 'attacks')}, {k: v for k, v in vars(b).items() if k not in ('settings', 'started', 'spent', 'every', 'last', 'attacks')})
    return type(a) is type(b)

def judge(call, param, value, good, seconds=60):
    "None where a call did right, else what went wrong, with the message."
    pixels._warned.clear()
    seed, error, out = torch.default_generator.manual_seed, None, None      # torch.manual_seed takes half a millisecond
    before, call.before = call.before or state(call.world), None
    seed(0)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        try:
            with at_most(seconds): out = call(**{param: value})
        except Exception as e: error = e
    warned = [str(w.message) for w in seen]
    if good:
        if error is not None: return f'refused: {type(error).__name__}: {str(error)[:200]}'
        seed(0)
        want = call() if call.result is None else call.result
        if isinstance(out, Path): call.result = want
        return None if alike(out, want) else 'another result'
    said = verdict(call, param, value, error, warned)
    if said is not None: return f'{said}: {str(error)[:200]!r}'
    after = state(call.world)
    if after != before: return f'state changed: {str(error)[:150]!r}'
    call.before = after
    return None
