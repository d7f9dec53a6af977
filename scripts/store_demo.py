"""Store a demonstration's figures for the pages: `python scripts/store_demo.py DEMO_FOLDER "COMMAND"`.

Reads DEMO_FOLDER/report/report.json and its picture; writes nbs/results/demo.json (figures, device, versions, seed, command, and the
two paragraphs of the index, filled from these figures) and nbs/images/demo-transfer.png."""
import json, shutil, sys
from pathlib import Path

import pandas as pd

nbs = Path(__file__).resolve().parent.parent/'nbs'


def percent(v): return f'{100*v:.0f} %'

def span(values): return f'{100*min(values):.0f} to {100*max(values):.0f} %'

def cells(rows, network, attack, off):
    "ASR of one network and attack, off the diagonal (transfer) or on it (white box)."
    part = rows[(rows.network == network) & (rows.attack == attack) & (rows.definition == 'asr')]
    return part[(part.source != part.target) == off].asr

def evidence(rows, clean, names, settings):
    "The paragraph on the index: a table of means, then what it does and does not show."
    head = '| | clean accuracy | ' + ' | '.join(f'{a}: transfer | {a}: same bit-width' for a in rows.attack.unique()) + ' |'
    lines = [head, '|' + '---|'*(head.count('|') - 1)]
    for n in names:
        c = clean[clean.network == n]
        means = (percent(cells(rows, n, a, off).mean()) for a in rows.attack.unique() for off in (True, False))
        lines.append(f"| {n} | {' / '.join(f'{100*v:.0f}' for v in c.accuracy)} % | " + ' | '.join(means) + ' |')
    return '\n'.join(lines)


def paragraphs(d):
    "Caption of the picture and paragraph of evidence."
    rows, clean, s = pd.DataFrame(d['transfer']), pd.DataFrame(d['clean']), d['settings']
    names = list(d['networks'])
    null = rows[rows.definition == 'asr'].null
    device, minutes = s['versions']['device'], s['seconds']/60
    caption = (f"Attack success by source (row) and target (column) bit-width, {' and '.join(names)}, n = {s['n']} test images "
               f"({s['n_attack']} for Patch PGD), 95 % intervals in the cells, nulls below. One run of `triqdef demo`, seed "
               f"{s['seed']}, {device}, {minutes:.1f} minutes of attacks and measurements.")
    text = (f"Means over bit-widths from that run (clean accuracy at {' / '.join(map(str, s['bits']))} bits):\n\n"
            + evidence(rows, clean, names, s) +
            f"\n\nNoise, grey and natural-crop patches of the same area succeed on {span(null.dropna())} of the images. This is one "
            "seed, two thousand training images, a few epochs and a weak inner attack, so it illustrates and does not prove. In "
            "particular the row of TriQDef holds the effect of training on patches *and* of the two penalties; the control that "
            "separates them (`--method patch-at`) is part of the study that is still to be run, and so are the other attacks, the "
            "baselines and the masking audit. No figure of the paper has been reproduced yet.")
    return caption, text

def main(folder, command):
    folder = Path(folder)
    d = json.loads((folder/'report/report.json').read_text())
    caption, text = paragraphs(d)
    keep = {k: d[k] for k in ('settings', 'clean', 'transfer', 'alignment') if k in d}
    (nbs/'results').mkdir(exist_ok=True); (nbs/'images').mkdir(exist_ok=True)
    out = dict(command=command, caption=caption, evidence=text, **keep)
    (nbs/'results/demo.json').write_text(json.dumps(out, indent=1, ensure_ascii=False) + '\n')
    shutil.copy(folder/'report/transfer.png', nbs/'images/demo-transfer.png')


if __name__ == '__main__':
    if len(sys.argv) != 3: sys.exit(__doc__)
    main(*sys.argv[1:])
