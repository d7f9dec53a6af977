"""Store a demonstration's figures for the pages: `python scripts/store_demo.py REPORT [CONTROL_REPORT]`.

REPORT is the report folder that `triqdef demo` left, CONTROL_REPORT that of a patch-at run with the same settings. Writes
nbs/results/demo.json (figures, device, versions, seeds, and the paragraphs of the index, filled from these figures) and
nbs/images/demo-transfer.png."""
import json, shutil, sys
from pathlib import Path

import pandas as pd

nbs = Path(__file__).resolve().parent.parent/'nbs'


levels = ('T1', 'T2', 'T3')

def percent(v): return f'{100*v:.0f} %'

def load(folder): return json.loads((Path(folder)/'report.json').read_text())

def row(network, rows, clean, alignment):
    "One network: clean accuracy, mean ASR by threat level for each attack, mean HOG cosine of its input gradients."
    asr = rows[(rows.network == network) & (rows.definition == 'asr')]
    cells = [' / '.join(f'{100*v:.0f}' for v in clean[clean.network == network].accuracy) + ' %']
    for a in asr.attack.unique():
        part = asr[asr.attack == a]
        cells += [percent(part[part.threat == level].asr.mean()) for level in levels]
    g = alignment[(alignment.network == network) & (alignment.what == 'gradient') & (alignment.measure == 'HOG cosine')
                  & (alignment.smooth == 0)]
    return [network, *cells, f"{g['mean'].mean():.2f} ({g.null.mean():.2f})"]

def widest(rows, a, b):
    "The largest difference of two networks in a mean ASR, in points."
    asr = rows[rows.definition == 'asr']
    means = asr.groupby(['network', 'attack', 'threat']).asr.mean()
    return 100*(means[a] - means[b]).abs().max()

def paragraphs(d):
    "Caption of the picture, and the evidence: a table, then what it shows and what it does not."
    s, rows, clean, alignment = d['settings'], *(pd.DataFrame(d[k]) for k in ('transfer', 'clean', 'alignment'))
    null = rows[rows.definition == 'asr'].null.dropna()
    caption = (f"*Attack success of 8×8 patches, made at the bit-width of the row and tried at that of the column, {s['n']} test "
               f"images ({s['n_attack']} for Patch PGD), 95 % intervals in the cells, the null (noise, grey, natural crop) "
               f"below. From `triqdef demo`, seed {s['seed']}, {s['versions']['device']}.*")
    head = ['', 'clean at ' + ' / '.join(map(str, s['bits'])) + ' bits']
    for a in rows.attack.unique(): head += [f'{a}: made at another bit-width (T1)', 'the same (T2)', 'all together (T3)']
    table = [head + ['gradient HOG cosine (null)'], ['---']*(len(head) + 1)]
    table += [row(n, rows, clean, alignment) for n in clean.network.unique()]
    text = '\n'.join('| ' + ' | '.join(r) + ' |' for r in table)
    gap = widest(rows, 'control', 'TriQDef') if d.get('control') else None
    control = f'''The control is the same training with λ_FDP = λ_GPDP = 0. What lies between joint QAT and the control is owed to
patches in training; what lies between the control and TriQDef would be owed to the penalties: here the two
differ by at most {gap:.0f} points in any of these means, less than the intervals are wide, so **no effect of the penalties can be
seen in this run**. ''' if d.get('control') else ''
    return caption, text + f'''

Attack success means over bit-widths, from one run each. Patches of noise, grey or natural crops of the same area succeed on
{100*null.min():.0f} to {100*null.max():.0f} % of the images. {control}One seed, two thousand training images, three epochs and a
weak inner attack illustrate and do not prove. The study that could (three seeds, all attacks, the baselines, ImageNet) is not
in this version, and no figure of the paper has been reproduced yet.'''

def main(report, control=None):
    d = load(report)
    if control:
        c = load(control)
        for k in ('clean', 'transfer', 'alignment'):
            own = {r['network'] for r in c[k]}
            if len(own) != 1: sys.exit(f'the control report holds {own}, one network is needed')
            rest = [dict(r, network='control') for r in c[k]]
            cut = max(i for i, r in enumerate(d[k]) if r['network'] == d[k][0]['network']) + 1
            d[k] = d[k][:cut] + rest + d[k][cut:]
        d['control'] = c['settings']
    d['alignment'] = [r for r in d['alignment'] if not r['smooth']]
    caption, evidence = paragraphs(d)
    keep = {k: d[k] for k in ('settings', 'control', 'clean', 'transfer', 'alignment') if k in d}
    for folder in ('results', 'images'): (nbs/folder).mkdir(exist_ok=True)
    out = dict(command='triqdef demo', caption=caption, evidence=evidence, **keep)
    (nbs/'results/demo.json').write_text(json.dumps(out, indent=1, ensure_ascii=False) + '\n')
    shutil.copy(Path(report)/'transfer.png', nbs/'images/demo-transfer.png')


if __name__ == '__main__':
    if not 2 <= len(sys.argv) <= 3: sys.exit(__doc__)
    main(*sys.argv[1:])
