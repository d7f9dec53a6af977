#!/usr/bin/env python3
"""Store what was measured on ImageNet's pictures for the pages: figures only, never a picture.

    store_imagenet.py --accuracy "ResNet-50"=r50-predictions --report "ResNet-50"=r50 --finetune TriQDef=runs/tri --study tri control
                      --same "one picture of each class"=same.json

Each NAME=PATH names a folder of predictions or a report of `triqdef evaluate`, a run folder of `triqdef train`, or a file of
`benchmarks/imagenet.py --compare`. Parts that are not given stay as nbs/results/imagenet.json has them."""
import argparse, json, re
from pathlib import Path

import pandas as pd

from triqdef.core import versions
from triqdef.files import write_json
from triqdef.quant.checkpoint import read_description

out = Path(__file__).resolve().parent.parent/'nbs/results/imagenet.json'


def load(path):
    "A JSON file, its folders left out: paths of one machine mean nothing on another."
    return bare(json.loads(Path(path).read_text()))

def bare(v):
    if isinstance(v, dict): return {k: bare(o) for k, o in v.items()}
    if isinstance(v, list): return [bare(o) for o in v]
    return re.sub(r'(?<![\w/])(?:/[\w.-]+)*/([\w.-]+)', r'\1', v) if isinstance(v, str) else v

def of_accuracy(folder):
    "Accuracy at every bit-width, and what the calibrated network says about itself."
    d = read_description(Path(folder)/'network.safetensors')
    rows = pd.read_csv(Path(folder)/'accuracy.csv').to_dict('records')
    return dict(model=d['arch'], bits=d['quant']['bits'], meta=d['meta'], rows=rows, versions=versions('cpu'))

def of_report(folder):
    "Settings, clean accuracy and cells of a report."
    d = load(Path(folder)/'report.json')
    keep = ('bits', 'n', 'n_attack', 'seed', 'quick', 'seconds', 'versions')
    attacks = next(iter(d['attacks'].values()))
    budgets = [dict(name=k, budget=f"{a['steps']} steps" + (f" of {a['bs']} pictures" if a['kind'] == 'universal' else f", {a['n']} pictures"))
               for k, a in attacks.items()]
    return dict(settings={k: d['settings'].get(k) for k in keep}, budgets=budgets, clean=d['clean'], transfer=d['transfer'])

def of_run(folder):
    "Settings and history of a run."
    d = load(Path(folder)/'run.json')
    terms = pd.read_csv(Path(folder)/'terms.csv')
    return dict(settings=d['settings'], versions=d['versions'],
                history=pd.read_csv(Path(folder)/'history.csv').to_dict('records'), steps=len(terms))

def pairs(values): return dict(v.split('=', 1) for v in values)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    kinds = dict(accuracy=of_accuracy, report=of_report, finetune=of_run, same=load)
    for k in kinds: p.add_argument('--' + k, nargs='+', default=[], metavar='NAME=PATH')
    p.add_argument('--study', nargs='+', default=[], help='reports of the fine-tuned networks, of equal budgets')
    a = p.parse_args()
    d = load(out) if out.exists() else dict(format='triqdef-imagenet-1')
    for k, read in kinds.items(): d[k] = {**d.get(k, {}), **{n: read(f) for n, f in pairs(getattr(a, k)).items()}}
    for i, r in enumerate(map(of_report, a.study)):
        d['study'] = r if i == 0 else dict(d['study'], clean=d['study']['clean'] + r['clean'], transfer=d['study']['transfer'] + r['transfer'])
    write_json(out, d)


if __name__ == '__main__': main()
