"A quantized convolution, forward and backward, against `F.conv2d`, a plain composite LSQ and brevitas."
import contextlib, copy

import torch
import torch.nn.functional as F
from torch import nn

import triqdef.quant.quantizers as quantizers
from measure import begin, finish, interleaved, parser, ratios, table
from triqdef.quant.layers import BitState, QConv2d
from triqdef.quant.ste import quantize_composed

SHAPES = {'16 × 32²': (16, 32, 1.3), '32 × 16²': (32, 16, 1.2), '64 × 8²': (64, 8, 1.1)}     # the stages of ResNet-20: channels, side, limit


def composed(v, step, lo, hi, edge=0., scale=1.):
    "LSQ of separate differentiable operations."
    return quantize_composed(v, step*scale + (step - step*scale).detach(), lo, hi, edge)

@contextlib.contextmanager
def composed_quantize():
    own = quantizers.quantize
    quantizers.quantize = composed
    try: yield
    finally: quantizers.quantize = own

def multibit(conv, args):
    "Our convolution as it stands inside a network, at the bit-width asked for, with weights of its own."
    state = BitState((32, args.bits))
    state.bits = args.bits
    return QConv2d(copy.deepcopy(conv), state, {args.bits: args.bits}, args.quantizer, args.quantizer)

def brevitas(conv, args):
    "brevitas' convolution with weight and input quantized per tensor; None where it is not installed."
    try:
        from brevitas.nn import QuantConv2d
        from brevitas.quant import Int8WeightPerTensorFloat, Uint8ActPerTensorFloat
    except ImportError: return None
    q = QuantConv2d(conv.in_channels, conv.out_channels, 3, padding=1, bias=False, weight_quant=Int8WeightPerTensorFloat,
                    weight_bit_width=args.bits, input_quant=Uint8ActPerTensorFloat, input_bit_width=args.bits, input_collect_stats_steps=1)
    with torch.no_grad(): q.weight.copy_(conv.weight)
    return q

def runner(f, x, params, w):
    "One forward and one backward pass to input and parameters."
    def run():
        for p in (x, *params): p.grad = None
        out = f(x)
        getattr(out, 'value', out).backward(w)
    return run

def variants(args, channels, size):
    "name → function, on one input, and the largest difference between ours and the composite form."
    layout = torch.contiguous_format if args.contiguous else torch.channels_last
    conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(args.device, memory_format=layout)
    x = torch.randn(args.batch, channels, size, size, device=args.device).relu().to(memory_format=layout).requires_grad_()
    w = torch.randn(args.batch, channels, size, size, device=args.device).to(memory_format=layout)
    out = {'F.conv2d': runner(lambda v: F.conv2d(v, conv.weight, padding=1), x, [conv.weight], w)}
    ours, plain = multibit(conv, args), multibit(conv, args)
    ours(x); plain.load_state_dict(ours.state_dict())
    def as_composed(v):
        with composed_quantize(): return plain(v)
    with torch.no_grad(): difference = (ours(x) - as_composed(x)).abs().max().item()
    out['triqdef'] = runner(ours, x, list(ours.parameters()), w)
    out['composite LSQ'] = runner(as_composed, x, list(plain.parameters()), w)
    if args.compile:
        q = multibit(conv, args); q(x)
        out['triqdef, compiled'] = runner(torch.compile(q), x, list(q.parameters()), w)
    theirs = brevitas(conv, args)
    if theirs is not None:
        theirs = theirs.to(args.device, memory_format=layout).train()
        for _ in range(3): theirs(x)
        out['brevitas'] = runner(theirs, x, list(theirs.parameters()), w)
    else: print('brevitas is not installed: pip install -e ".[bench]"')
    return out, difference

def main():
    p = parser(__doc__, repeats=50)
    p.add_argument('--batch', type=int, default=128, help='images')
    p.add_argument('--bits', type=int, default=4, help='the bit-width')
    p.add_argument('--quantizer', default='lsq', choices=['lsq', 'dorefa', 'minmax'], help='of weight and input, ours and composite')
    p.add_argument('--contiguous', action='store_true', help='NCHW memory instead of channels_last')
    p.add_argument('--compile', action='store_true', help='also ours under torch.compile (needs a C++ compiler)')
    args = begin(p)
    results, limits = {}, {}
    for name, (channels, size, limit) in SHAPES.items():
        fs, difference = variants(args, channels, size)
        if difference > 1e-4: raise SystemExit(f'ours and the composite form differ by {difference}')
        rows = ratios(interleaved(fs, args.repeats, args.warmup, args.device, clock=args.clock), 'F.conv2d')
        table(f'{name}, batch {args.batch}, {args.bits} bits', rows, ['ms', 'q1', 'q3', 'ratio'])
        results[name] = rows
        limits[f'conv {name} / F.conv2d'] = (rows['triqdef']['ratio'], limit)
        if 'brevitas' in rows: limits[f'conv {name} / brevitas'] = (rows['triqdef']['ratio']/rows['brevitas']['ratio'], 1.)
    finish(args, results, limits)


if __name__ == '__main__': main()
