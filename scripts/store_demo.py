"""Store a demonstration's figures for the pages: `python scripts/store_demo.py REPORT`.

REPORT is the report folder that `triqdef demo` left. Writes nbs/results/demo.json (figures, device, versions, seeds, and
the caption of the picture, filled from them) and nbs/images/demo-transfer.png."""
import json, shutil, sys
from pathlib import Path

nbs = Path(__file__).resolve().parent.parent/'nbs'


def caption(s):
    "What the picture shows, in the words of its settings."
    return (f"*Attack success of 8×8 patches, made at the bit-width of the row and tried at that of the column, {s['n']} test "
            f"images ({s['n_attack']} for Patch PGD), 95 % intervals in the cells, the null (noise, grey, natural crop) "
            f"below. From `triqdef demo`, seed {s['seed']}, {s['versions']['device']}.*")


def main(report):
    d = json.loads((Path(report)/'report.json').read_text())
    out = dict(command='triqdef demo', caption=caption(d['settings']), settings=d['settings'], clean=d['clean'], transfer=d['transfer'],
               alignment=[r for r in d['alignment'] if not r['smooth']])
    for folder in ('results', 'images'): (nbs/folder).mkdir(exist_ok=True)
    (nbs/'results/demo.json').write_text(json.dumps(out, indent=1, ensure_ascii=False) + '\n')
    shutil.copy(Path(report)/'transfer.png', nbs/'images/demo-transfer.png')


if __name__ == '__main__':
    if len(sys.argv) != 2: sys.exit(__doc__)
    main(sys.argv[1])
