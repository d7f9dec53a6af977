"GAP against ART's AdversarialPatchPyTorch: images per second of a step, and success at equal steps and transforms."
import contextlib, io

import torch
import torch.nn.functional as F

from measure import begin, finish, interleaved, parser, ratios, table
from triqdef.attack.gap import GAP
from triqdef.attack.patch import Patch, random_places
from triqdef.data import sample_dls, take
from triqdef.evaluate.success import success
from triqdef.quant.checkpoint import pretrained


def art_attack(net, args, steps_per_epoch, epochs, cleared, angle):
    "ART's attack on `net`, as shipped, or with its patch gradient cleared before each step."
    from art.attacks.evasion import AdversarialPatchPyTorch
    from art.estimators.classification import PyTorchClassifier

    class Cleared(AdversarialPatchPyTorch):
        def _train_step(self, *a, **k):
            self._patch.grad = None
            return super()._train_step(*a, **k)

    model = PyTorchClassifier(net, loss=F.cross_entropy, input_shape=(3, 32, 32), nb_classes=10, clip_values=(0., 1.),
                              device_type='gpu' if torch.device(args.device).type == 'cuda' else 'cpu')
    side = args.size/32
    return (Cleared if cleared else AdversarialPatchPyTorch)(
        model, rotation_max=angle, scale_min=side, scale_max=side, learning_rate=args.lr, max_iter=epochs, batch_size=args.bs,
        patch_shape=(3, args.size, args.size), patch_type='square', verbose=False)

def fit_art(net, x, args, steps, cleared, angle=0.):
    "A patch of ART after `steps` steps of `bs` images, on the grid k/255."
    per = len(x)//args.bs
    if steps % per and steps > per: raise SystemExit(f'steps must be a multiple of {per}, got {steps}')
    epochs, n = (steps//per, per*args.bs) if steps >= per else (1, steps*args.bs)
    attack = art_attack(net, args, per, epochs, cleared, angle)
    target = torch.full((n,), args.target).numpy()
    with contextlib.redirect_stdout(io.StringIO()): image, _ = attack.generate(x[:n].cpu().numpy(), target)
    return Patch(torch.from_numpy(image).float(), target=args.target)

def fit_ours(net, x, y, args, steps, angle=0.):
    return GAP(args.size, args.target, steps, args.bs, args.lr, angle=angle, seed=args.seed).fit(net, [(x, y)])

def score(net, p, x, y, args):
    "Targeted success of a patch at the same random, upright places."
    at = random_places(len(x), (32, 32), p.image.shape[-2:], torch.Generator().manual_seed(args.seed))
    return success(net, x, y, p.apply(x, at), target=args.target)

def speed(net, x, y, args, angle):
    "Milliseconds of `time_steps` steps on each side."
    k = args.time_steps
    return ratios(interleaved({'triqdef': lambda: fit_ours(net, x, y, args, k, angle),
                               'ART, cleared': lambda: fit_art(net, x, args, k, True, angle)},
                              args.repeats, args.warmup, args.device, clock=args.clock), 'ART, cleared')

def main():
    p = parser(__doc__, repeats=3)
    for name, value, note in (('size', 12, 'side of the patch in pixels'), ('target', 3, 'class to reach'),
                              ('bs', 128, 'images a step'), ('steps', 195, 'steps of the attacks that are scored, 0 for none'),
                              ('time-steps', 5, 'steps of the attacks that are timed')):
        p.add_argument('--' + name, type=int, default=value, help=note)
    p.add_argument('--lr', type=float, default=.05, help="Adam's rate")
    p.set_defaults(warmup=1)
    args = begin(p)
    dls = sample_dls(seed=0)
    (x, y), (xt, yt) = take(dls.train, 1920), take(dls.valid, 1000)
    x, y = x[y != args.target], y[y != args.target]
    x, y = x[:len(x)//args.bs*args.bs], y[:len(y)//args.bs*args.bs]
    net = pretrained('cifar10-resnet20-fp').to(args.device).eval()
    results, limits = {}, {}
    for angle in (0., 22.5):
        rows = speed(net, x, y, args, angle)
        for r in rows.values(): r['images/s'] = args.time_steps*args.bs/r['ms']*1e3
        table(f'{args.bs} images a step, rotation ±{angle}°', rows, ['ms', 'images/s', 'ratio'])
        results[f'step, rotation {angle}'] = rows
        limits[f'GAP / ART time, rotation {angle}'] = (rows['triqdef']['ratio'], 1/3)
    if args.steps: results['success'] = scored(net, x, y, xt, yt, args)
    finish(args, results, limits)

def scored(net, x, y, xt, yt, args):
    "Success of three patches made with the same number of steps, with intervals."
    steps = max(1, args.steps//(len(x)//args.bs))*(len(x)//args.bs)
    made = {'triqdef': fit_ours(net, x, y, args, steps), 'ART as shipped': fit_art(net, x, args, steps, False),
            'ART, cleared': fit_art(net, x, args, steps, True)}
    out = {'steps': steps}
    for name, p in made.items():
        s = score(net, p, xt, yt, args)
        out[name] = {k: v.rate.to_dict() for k, v in s.items()}
        print(f"{name}, {args.size}×{args.size}, {steps} steps: {s['asr_targeted']}; {s['asr']}")
    return out


if __name__ == '__main__': main()
