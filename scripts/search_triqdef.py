#!/usr/bin/env python3
"""Look for settings under which FDP or GPDP does something: short runs, judged on training images set aside.

    python scripts/search_triqdef.py RECIPE.json OUT.json --folder runs/search

RECIPE.json holds `common` (fields of TrainSettings), `arms` (name -> further fields) and `judge`: images and steps of
Patch PGD, steps of GAP, images whose gradients are compared. Every arm is a run folder; one that was killed goes on, one that is judged already is skipped. The test images are not used.
"""
import argparse, json, time
from pathlib import Path

import pandas as pd
import torch

from triqdef.attack.gap import GAP
from triqdef.attack.pgd import PatchPGD
from triqdef.core import versions
from triqdef.data import take
from triqdef.evaluate.alignment import alignment_report
from triqdef.evaluate.transfer import transfer_matrix
from triqdef.files import write_json
from triqdef.train.run import TrainSettings, make_data, train


def judge(net, dls, s, n, steps, gap_steps, n_align):
    "Patch success by attack and threat level, and likeness of gradients, on the images set aside."
    x, y = take(dls.valid, 1000)
    pgd = PatchPGD(s.patch_size, steps, step_size=.16, seed=0)
    gap = GAP(s.patch_size, None, gap_steps, lr=.2, angle=0.)
    rows = pd.concat([transfer_matrix(net, [(x[:k], y[:k])], {name: a}, s.bits, sources=[*s.bits, s.bits], fit_on=dls.train,
                                      bs=128, progress=False).to_frame('asr') for name, a, k in (('pgd', pgd, n), ('gap', gap, 1000))])
    rows = rows[['attack', 'source', 'target', 'threat', 'asr', 'low', 'high', 'n', 'null']]
    mean = {f'{a} {t}': g.asr.mean() for (a, t), g in rows.groupby(['attack', 'threat'])}
    a = alignment_report(net, [(x[:n_align], y[:n_align])], s.bits, n=None, progress=False)
    g = a.to_frame()
    g = g[g.what == 'gradient'].groupby(['measure', 'smooth'])[['mean', 'null']].mean().round(4)
    alike = {f'{m}, σ = {s:g}': list(v) for (m, s), v in zip(g.index, g.values.tolist())}
    return dict(mean=mean, cells=rows.to_dict('records'), alignment=alike)


def checked(there, recipe, path):
    "The arms that are judged already, if by the same settings."
    other = [k for k in ('common', 'judge') if there[k] != recipe[k]]
    other += [n for n, a in there['arms'].items() if a['settings'] != recipe['arms'].get(n)]
    if other: raise SystemExit(f'{path} was made with other settings of {other}: give another file')
    return there['arms']


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('recipe', type=Path); p.add_argument('out', type=Path)
    p.add_argument('--folder', type=Path, default='runs/search')
    a = p.parse_args()
    recipe = json.loads(a.recipe.read_text())
    done = checked(json.loads(a.out.read_text()), recipe, a.out) if a.out.exists() else {}
    for name, own in recipe['arms'].items():
        if name in done: continue
        start, s = time.time(), TrainSettings(**recipe['common'] | own)
        run = train(s, a.folder/name, progress=False)
        trained = time.time()
        found = judge(run.net, make_data(s), s, **recipe['judge'])
        clean = {b: run.history.iloc[-1][f'acc_{b}'] for b in s.bits}
        last = run.terms.tail(10)[['clean', 'adv', 'fdp', 'gpdp']].mean().to_dict()
        done[name] = dict(settings=own, clean=clean, last_terms=last, **found, train_seconds=round(trained - start),
                          judge_seconds=round(time.time() - trained))
        write_json(a.out, dict(format='triqdef-search-1', command=f'python scripts/search_triqdef.py {a.recipe.name} {a.out.name}',
                               common=recipe['common'], judge=recipe['judge'], versions=versions(),
                               threads=torch.get_num_threads(), arms=done))
        print(name, list(clean.values()), {k: round(v, 3) for k, v in found['mean'].items()},
              {k: round(v, 3) for k, v in last.items()}, done[name]['train_seconds'], flush=True)


if __name__ == '__main__': main()
