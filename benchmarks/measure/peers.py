"""What brevitas and torchao make of a float network, in an environment of their own that can import triqdef too.

    python -m measure.peers brevitas FOLDER NET                      # writes ONNX files, and the logits of the torch networks
    python -m measure.peers pt2e FOLDER NET --batch 1 --threads 1    # prints times as JSON
"""
import argparse, copy, json, math, operator, os, platform, time, warnings
from importlib.metadata import version
from pathlib import Path

os.environ['TORCHINDUCTOR_FREEZING'] = '1'      # read when torch is imported; without it nothing is fused
import numpy as np
import onnxruntime
import torch
import torchvision.models as tv

from measure import interleaved, ratios
from triqdef.models import build_model


def float_net(folder, name):
    "The network whose weights lie in the folder."
    net = build_model(name, 10) if name == 'resnet20' else tv.get_model(name)
    net.load_state_dict(torch.load(folder/f'{name}.pt'))
    return net.eval()

def images(folder, name):
    "(images for calibration, images for the comparison)."
    t = torch.load(folder/f'{name}-images.pt')
    return t['calibration'], t['compared']

def ort_session(path, threads):
    "ONNX Runtime's session, as `triqdef.deploy.onnx.session` makes it."
    so = onnxruntime.SessionOptions()
    so.intra_op_num_threads, so.log_severity_level = threads, 3
    return onnxruntime.InferenceSession(str(path), so, providers=['CPUExecutionProvider'])

class Bare(torch.nn.Module):
    "A network without its normalization, which brevitas would quantize."
    def __init__(self, net):
        super().__init__()
        self.norm, net.norm = net.norm, torch.nn.Identity()
        self.net = net
    def forward(self, x): return self.net(self.norm(x))

def plain(v): return getattr(v, 'value', v)

def sliced(net):
    "Let slices (of ResNet-20's shortcuts) take a quantized tensor's value: brevitas' tensor cannot be sliced while it exports."
    for n in [n for n in net.graph.nodes if n.op == 'call_function' and n.target is operator.getitem]:
        with net.graph.inserting_before(n): n.replace_input_with(n.args[0], net.graph.call_function(plain, (n.args[0],)))
    net.recompile()
    return net

def with_brevitas(net, how, x):
    "Quantized to 8 bits, one step a tensor, BatchNorm merged; 'graph' quantizes sums as well, 'layers' the inputs of layers only."
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.graph.quantize import layerwise_quantize, preprocess_for_quantize, quantize
    normed = isinstance(getattr(net, 'norm', None), torch.nn.Module)
    whole = Bare(net) if normed else net
    inner = preprocess_for_quantize(whole.net if normed else net, relu6_to_relu=False)
    inner = sliced((quantize if how == 'graph' else layerwise_quantize)(inner)).eval()
    if normed: whole.net = inner
    else: whole = inner
    with torch.no_grad(), calibration_mode(whole): whole(x)
    return whole.eval()

def brevitas(args):
    "Export both ways, and keep the logits of the torch networks."
    from brevitas.export import export_onnx_qcdq
    calibration, compared = images(args.folder, args.net)
    out = dict(versions={k: version(k) for k in ('brevitas', 'torch', 'onnxoptimizer')})
    for how in ('graph', 'layers'):
        file = args.folder/f'{args.net}-brevitas-{how}.onnx'
        net = with_brevitas(float_net(args.folder, args.net), how, calibration)
        axes = {k: {0: 'batch'} for k in ('pixels', 'logits')}
        with torch.no_grad():
            export_onnx_qcdq(net, args=compared[:2], export_path=str(file), input_names=['pixels'], output_names=['logits'],
                             dynamo=False, dynamic_axes=axes, opset_version=17, keep_initializers_as_inputs=False)
            np.save(file.with_suffix('.npy'), torch.cat([net(b) for b in compared.split(16)]).numpy())
        out[how] = file.name
    return out

def converted(net, calibration, x):
    "The network after torch.export, with torchao's x86 quantizer, as a graph of quantize and dequantize."
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import X86InductorQuantizer, get_default_x86_inductor_quantization_config
    from torchao.quantization.pt2e.inductor_passes import x86
    x86._register_quantization_weight_pack_pass()      # nothing of torchao 0.18 calls it, and without it all runs in float
    # strict, or the quantizer finds a ReLU module that is called twice to be one with two outputs
    graph = torch.export.export(net, (x,), strict=True).module()
    graph = prepare_pt2e(graph, X86InductorQuantizer().set_global(get_default_x86_inductor_quantization_config()))
    for b in calibration.split(len(x)):
        if len(b) == len(x): graph(b)
    return move_exported_model_to_eval(convert_pt2e(graph))

def repeated(f, n):
    def run():
        for _ in range(n): f()
    return run

def pt2e(args):
    "Times in one process: torch, compiled torch, PT2E compiled, and ONNX files of the same network."
    from torch._dynamo.utils import counters
    torch.set_num_threads(args.threads)
    net = float_net(args.folder, args.net)
    calibration, compared = images(args.folder, args.net)
    x = compared[:args.batch].repeat(math.ceil(args.batch/len(compared)), 1, 1, 1)[:args.batch].contiguous()
    if len(calibration) < args.batch: calibration = calibration.repeat(math.ceil(args.batch/len(calibration)), 1, 1, 1)
    graph = converted(copy.deepcopy(net), calibration, x)
    start = time.perf_counter()
    fast, plain = torch.compile(graph), torch.compile(copy.deepcopy(net))
    eager, quick = graph(x), fast(x)
    counts = {k: v for k, v in counters['inductor'].items() if k.startswith('q') and 'lower_count' in k}
    plain(x)
    seconds = time.perf_counter() - start
    def onnx(name):
        s, v = ort_session(args.folder/f'{args.net}-{name}.onnx', args.threads), {'pixels': x.numpy()}
        return lambda: s.run(None, v)
    made = [k for k in ('bytes', 'integer', 'fused') if (args.folder/f'{args.net}-{k}.onnx').exists()]
    fs = {'FP32 ONNX': onnx('32'), **{f'triqdef {k}': onnx(k) for k in made}, 'torch eager': lambda: net(x),
          'torch compiled': lambda: plain(x), 'PT2E int8 compiled': lambda: fast(x)}
    start = time.perf_counter(); onnx('32')(); fs['FP32 ONNX'](); took = (time.perf_counter() - start)/2
    n = max(1, math.ceil(args.sample/1e3/took))
    times = interleaved({k: repeated(f, n) for k, f in fs.items()}, args.repeats, args.warmup, rest=args.rest)
    rows = ratios({k: [t/n for t in v] for k, v in times.items()}, 'FP32 ONNX')
    return dict(rows=rows, compile_seconds=seconds, integer_kernels=counts, versions={k: version(k) for k in ('torch', 'torchao', 'onnxruntime')},
                compiled_against_eager=dict(same=(eager.argmax(1) == quick.argmax(1)).float().mean().item(),
                                            difference=(eager - quick).abs().max().item(), largest=eager.abs().max().item()))

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', choices=['brevitas', 'pt2e'])
    p.add_argument('folder', type=Path)
    p.add_argument('net')
    for k, v in dict(batch=1, threads=1, repeats=30, warmup=3, sample=5., rest=.01, seed=0).items(): p.add_argument(f'--{k}', type=type(v), default=v)
    args = p.parse_args()
    warnings.filterwarnings('ignore')
    torch.manual_seed(args.seed)
    with torch.no_grad(): out = (brevitas if args.what == 'brevitas' else pt2e)(args)
    print('\n' + json.dumps(dict(out, python=platform.python_version())))


if __name__ == '__main__': main()
