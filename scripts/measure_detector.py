"""Attack shipped networks and see what a detector finds that compares their bit-widths; the rows go to JSON.

    python scripts/measure_detector.py --out nbs/results/detector.json

The victim runs at 4 bits, the score is the disagreement of all bit-widths. The first images of the bundled test sample are
attacked, thresholds come from the others, which also carry the occlusions. Each row is written when it is done: the same
command goes on with those that are missing."""
import argparse, time
from pathlib import Path

import torch

from triqdef.attack.agreeing import AgreeingEnsemble
from triqdef.attack.patch import random_places
from triqdef.attack.textures import TextureDictionary
from triqdef.core import fixed_seed, generator
from triqdef.data import sample_dls, sample_tensors
from triqdef.evaluate.detect import Detection, evaded, occluded
from triqdef.evaluate.disagree import disagreement
from triqdef.evaluate.plan import attack_settings, seeded_copy
from triqdef.evaluate.suite import attack_suite
from triqdef.evaluate.success import asr, predict
from triqdef.files import plain, write_json
from triqdef.quant.checkpoint import pretrained
from triqdef.quant.convert import bits_of

from recorded import begun

victim, size = 4, 8
short = dict(gap=30, pgd=10, lavan=20, universal=30, queries=100)    # those of quick reports where they have one
black_box = ('sparse-rs', 'nes', 'mpa', 'tpa')
grid = (0, .01, .02, .05, .1, .15, .2, .3, .4, .5, .6, .7, .8, .9, 1)    # false alarms of the stored curves


def jobs(networks):
    "(network, attack, bit-widths in words): every attack on the first network, Patch PGD on the others."
    first, *others = networks
    yield from ((first, 'pgd', words) for words in ('4', 'all', 'all, agreeing'))
    yield from ((first, a, '4') for a in ('gap', 'lavan', 'lavan-universal', *black_box))
    yield from ((net, 'pgd', words) for net in others for words in ('4', 'all, agreeing', 'all'))

def view_of(words, bits):
    "What the attack looks at."
    if words == 'all, agreeing': return AgreeingEnsemble(bits)
    return bits if words == 'all' else int(words)

def patched(attack, net, x, y, view, seed, train):
    "Images with the patches of an attack."
    attack = seeded_copy(attack, seed)
    with fixed_seed(seed):
        if hasattr(attack, 'attack') and not attack.universal:
            return torch.cat([attack.attack(net, *part, bits=view) for part in zip(x.split(50), y.split(50))])
        p = attack.fit(net, train, bits=view)
        at = random_places(len(x), x.shape[-2:], tuple(p.image.shape[-2:]), generator(seed))
        return p.apply(x, at)

def measured(name, attack, words, n, seed, cache):
    "The row of one attack on one network."
    start = time.time()
    if cache.get('name') != name: cache.clear(); cache.update(name=name, net=pretrained(name))
    net, t = cache['net'], sample_tensors()
    x, y = t['x_test'].float()/255, t['y_test'].long()
    rest = x[n:]
    if 'clean' not in cache:
        cache['clean'] = disagreement(net, rest)
        cache['hidden'] = {k: disagreement(net, z) for k, z in occluded(rest, size, seed).items()}
    n = n//4 if attack in black_box else n
    x, y, train = x[:n], y[:n], sample_dls(bs=64, device='cpu').train
    textures = TextureDictionary.build(net, train, n_clusters=1, steps=20) if attack == 'tpa' else None
    (title, tool), = attack_suite([attack], 32, size=size, dictionary=textures, **short).items()
    x_adv = patched(tool, net, x, y, view_of(words, bits_of(net)), seed, train)
    s, scores = asr(predict(net, x, victim)[0], predict(net, x_adv, victim)[0], y), disagreement(net, x_adv)
    fooled, hard = s.hit & s.counted, torch.cat([*cache['hidden'].values()])
    d = Detection(cache['clean'], scores[fooled]) if fooled.any() else None
    shown = dict(network=name.removeprefix('cifar10-resnet20-'), attack=title, **{'made at': words}, success=str(s.rate))
    if d is not None:
        shown |= {f'found at {100*a:g} %': str(d.found(a)) for a in (.01, .05)}
        shown |= {'evades 5 %': str(evaded(s, scores, d.threshold(.05))), 'area': round(d.area, 3),
                  'area, occluded': round(Detection(hard, scores[fooled]).area, 3)}
    return plain(dict(network=name, attack=attack, words=words, shown=shown, settings=attack_settings(tool), images=n,
                      success=s.rate.to_dict(), curves=curves(rounded(cache['clean']), rounded(hard), rounded(scores[fooled])),
                      seconds=round(time.time() - start, 1)))

def rounded(scores): return [round(v, 4) for v in scores.tolist()]

def curves(clean, hard, patched):
    "Share found at each false-alarm rate of `grid`, among clean and among occluded images."
    if not patched: return None
    tensors = [torch.tensor(v, dtype=torch.float64) for v in (clean, hard, patched)]
    return {k: [round(Detection(v, tensors[2]).found(a).value, 4) for a in grid] for k, v in zip(('clean', 'occluded'), tensors)}

def negatives(name, cache):
    "False alarms on occluded images at thresholds of clean ones."
    d = {k: Detection(cache['clean'], v) for k, v in cache['hidden'].items()}
    return [{'network': name.removeprefix('cifar10-resnet20-'), 'occlusion': k,
             **{f'false alarms at {100*a:g} %': str(o.found(a)) for a in (.01, .05)}} for k, o in d.items()]

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--networks', nargs='+', default=[f'cifar10-resnet20-{k}' for k in ('qat', 'triqdef', 'patch-at')])
    p.add_argument('--n', type=int, default=200, help='test images to attack, the first of the sample; black boxes take a quarter')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', required=True)
    args = p.parse_args()
    out, cache = Path(args.out), {}
    done = begun(out, 'triqdef-detector-1', 'rows', n=args.n, seed=args.seed, victim=victim, patch=size, grid=grid)
    done.setdefault('occluded', [])
    for job in jobs(args.networks):
        if any((r['network'], r['attack'], r['words']) == job for r in done['rows']): continue
        done['rows'].append(measured(*job, args.n, args.seed, cache))
        if not any(job[0].endswith(o['network']) for o in done['occluded']): done['occluded'] += negatives(job[0], cache)
        write_json(out, done)
        print(done['rows'][-1]['shown'], done['rows'][-1]['seconds'], 's', flush=True)


if __name__ == '__main__': main()
