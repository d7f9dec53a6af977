"""A GPU that is none: tensors on the CPU that say they are on cuda:0, refuse to meet others, and count what a GPU would do.

`with pretend_cuda() as counts:` lets 'cuda' be named as a device. `counts.ops` counts kernels by line of the package, `counts.waits` what makes Python
wait for the device, `counts.copies` transfers that do not wait."""
import sys
from collections import Counter
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

import torch
from torch import nn, Tensor
from torch.autograd import Function
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

FREE = set('''alias as_strided chunk detach diagonal expand lift_fresh movedim narrow permute reshape select slice split split_with_sizes squeeze t
    transpose unbind unfold unsqueeze view view_as _reshape_alias _unsafe_view is_same_size'''.split())          # no kernel
WAITING = set('_local_scalar_dense nonzero masked_select equal is_nonzero bincount unique_consecutive unique_dim _unique2'.split())
ACROSS = {'copy_', '_to_copy', 'set_'}                                                                           # may see both devices


class Counts:
    "Counters by what happens and where."
    def __init__(self): self.reset()
    def reset(self): self.ops, self.waits, self.copies = Counter(), Counter(), Counter()
    def totals(self): return sum(self.ops.values()), sum(self.waits.values()), sum(self.copies.values())

counts = Counts()

def line():
    "The innermost line of the package, or of fastai, that is running."
    f = sys._getframe(2)
    while f is not None:
        for part in ('/triqdef/', '/fastai/'):
            if part in f.f_code.co_filename: return f"{f.f_code.co_filename.split(part)[-1]}:{f.f_lineno}"
        f = f.f_back
    return 'test'

def wait(what): counts.waits[what, line()] += 1


class OnCuda(Tensor):
    "A tensor that says it is on cuda:0, around one on the CPU."
    @staticmethod
    def __new__(cls, inner, requires_grad=False):
        out = Tensor._make_wrapper_subclass(cls, inner.shape, strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype,
                                            layout=inner.layout, device='cpu', requires_grad=requires_grad)
        out.inner = inner
        return out

    device = property(lambda self: torch.device('cuda', 0))
    is_cuda = property(lambda self: True)
    __torch_function__ = torch._C._disabled_torch_function_impl
    def __repr__(self): return f'OnCuda({tuple(self.shape)}, {self.dtype})'
    def __reduce_ex__(self, protocol): return self.inner.detach().__reduce_ex__(protocol)
    def __deepcopy__(self, memo):
        if id(self) not in memo:
            memo[id(self)] = new = OnCuda(self.inner.clone(), self.requires_grad)
            new.__dict__.update({k: v for k, v in self.__dict__.items() if k != 'inner'})
        return memo[id(self)]

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, func._schema.name.split('::')[1]
        if func is torch.ops.prim.device.default: return torch.device('cuda', 0)
        leaves = [t for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        judge(name, args, [t for t in leaves if not isinstance(t, cls)])
        if name not in FREE | {'_local_scalar_dense'}: counts.ops[name, line()] += 1
        known = {id(t.inner): t for t in leaves if isinstance(t, cls)}
        bare = lambda t: t.inner if isinstance(t, cls) else t
        dressed = lambda t: t if not isinstance(t, Tensor) or isinstance(t, cls) else known.get(id(t)) if id(t) in known else cls(t)
        return tree_map(dressed, func(*tree_map(bare, args), **tree_map(bare, kwargs)))


def judge(name, args, strangers):
    "Note a wait; refuse tensors of the CPU beside those of the GPU, but for numbers and indices."
    index = args[1] if name in ('index', 'index_put', 'index_put_', '_index_put_impl_') else ()
    if name in WAITING: wait(name)
    if any(isinstance(i, Tensor) and i.dtype in (torch.bool, torch.uint8) for i in index): wait('index by a bool map')
    if name == 'copy_' and isinstance(args[0], OnCuda) != isinstance(args[1], OnCuda): wait('copy across')
    if not strangers or name in ACROSS: return
    if index and isinstance(args[0], OnCuda): return wait('index on the CPU')
    if name in ('stack', 'cat') and not any(t.any() for t in strangers): return      # zeros that autograd fills in
    if any(t.ndim for t in strangers): raise RuntimeError(f"{name}: tensors on cuda:0 and cpu at {line()}")


class _Up(Function):
    @staticmethod
    def forward(ctx, x): return OnCuda(x.clone())
    @staticmethod
    def backward(ctx, g): return g.inner.clone()

class _Down(Function):
    @staticmethod
    def forward(ctx, x): return x.inner.clone()
    @staticmethod
    def backward(ctx, g): return OnCuda(g.clone())

def on_cuda(device): return device is not None and torch.device(device).type == 'cuda'

def put(x, cuda):
    "`x` on the GPU, or on the CPU."
    if isinstance(x, OnCuda) == cuda: return x
    if x.requires_grad and torch.is_grad_enabled(): return (_Up if cuda else _Down).apply(x)
    return OnCuda(x.detach().clone()) if cuda else x.inner.detach().clone()

def moved(x, args, kwargs):
    "What `x.to(*args, **kwargs)` gives."
    kwargs = {k: v for k, v in kwargs.items() if v is not None}
    device, quick, rest = kwargs.pop('device', None), kwargs.pop('non_blocking', False), []
    for a in args:
        if isinstance(a, Tensor): device = a.device; rest.append(a.dtype)
        elif isinstance(a, (str, torch.device)): device = a
        elif isinstance(a, torch.dtype): rest.append(a)
        elif isinstance(a, int) and not isinstance(a, bool): device = torch.device('cuda', a)
    y = Tensor.to(x, *rest, **kwargs) if rest or kwargs else x
    cuda = isinstance(x, OnCuda) if device is None else on_cuda(device)
    if cuda != isinstance(x, OnCuda):
        if quick and cuda: counts.copies[line()] += 1
        else: wait('copy to ' + ('the GPU' if cuda else 'the CPU'))
    return put(y, cuda)


class Mode(TorchFunctionMode):
    "Serves the calls that name a device, or leave it."
    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs, name, x = dict(kwargs or {}), getattr(func, '__name__', ''), args[0] if args else None
        if isinstance(x, Tensor):
            if func is Tensor.to: return moved(x, args[1:], kwargs)
            if name in ('cpu', 'cuda'): return moved(x, (name,), {})
            if name in ('pin_memory', 'as_subclass') and (name == 'pin_memory' or isinstance(x, OnCuda)): return x
            if name in ('tolist', 'numpy', '__array__') and isinstance(x, OnCuda):
                if name != 'tolist': raise TypeError("can't convert cuda:0 device type tensor to numpy")
                wait('tolist')
                return x.inner.tolist()
            if name == 'new_tensor' and isinstance(x, OnCuda):
                wait('copy to the GPU')
                return OnCuda(torch.tensor(args[1], dtype=kwargs.get('dtype', x.dtype)))
        device = kwargs.get('device')
        if device is None or name == '_parse_to' or torch.device(device).type == 'meta': return func(*args, **kwargs)
        if on_cuda(device) and kwargs.get('generator') is not None: raise RuntimeError(f"{name}: a generator of the CPU at {line()}")
        out = func(*args, **{**kwargs, 'device': None})
        if on_cuda(device):
            if name in ('tensor', 'as_tensor') and not isinstance(x, OnCuda): wait('copy to the GPU')
            elif not isinstance(out, OnCuda): counts.ops[name, line()] += 1
        return put(out, on_cuda(device)) if isinstance(out, Tensor) else out


def module_to(to):
    "`nn.Module.to` that knows the GPU."
    def call(self, *args, **kwargs):
        named = [torch.device(a) for a in (*args, kwargs.pop('device', None)) if isinstance(a, (str, torch.device))]
        rest = [a for a in args if not isinstance(a, (str, torch.device))]
        if (rest or kwargs) and not any(isinstance(t, OnCuda) for t in self.parameters()): to(self, *rest, **kwargs)
        if named: move_module(self, named[0].type == 'cuda')
        return self
    return call

def move_module(net, cuda):
    "Put parameters and buffers where they shall be; shared ones stay shared."
    done = {}
    for m in net.modules():
        for kind in (m._parameters, m._buffers):
            for k, v in kind.items():
                if v is None or isinstance(v, OnCuda) == cuda or v.is_meta: continue
                if id(v) not in done:
                    new = put(v.detach(), cuda)
                    if kind is m._parameters and cuda: new = OnCuda(new.inner, v.requires_grad); new._is_param = True
                    elif kind is m._parameters: new = nn.Parameter(new, v.requires_grad)
                    done[id(v)] = v, new
                kind[k] = done[id(v)][1]

@contextmanager
def pretend_cuda():
    "A block in which there is a GPU of this kind; yields the counts, which begin at nothing."
    counts.reset()
    with ExitStack() as held:
        held.enter_context(patch.object(torch.cuda, 'device_count', lambda: 1))
        held.enter_context(patch.object(torch.cuda, 'get_device_name', lambda *a: 'none'))
        held.enter_context(patch.object(nn.Module, 'to', module_to(nn.Module.to)))
        held.enter_context(Mode())
        yield counts
