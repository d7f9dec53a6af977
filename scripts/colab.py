"""Write the badge and the install cell of every page that runs alone on Colab: `python scripts/colab.py [--check]`.

The two cells follow a page's first. Those of a page that no longer runs alone are removed. `install` is the one place that says what is
installed; when the package is on the index, it becomes 'triqdef[...]'."""
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
install = "'triqdef[all] @ git+https://github.com/triqdef/triqdef'"
at = 'https://colab.research.google.com/github/triqdef/triqdef/blob/main/nbs'
badge = 'https://colab.research.google.com/assets/colab-badge.svg'
ids = 'colab-badge', 'colab-install'


def wanted(name):
    "The two cells of the notebook `name`, a path below nbs/."
    code = f'#| hide\n#| eval: false\n# On Colab this installs the package; elsewhere it does nothing.\n![ -e /content ] && pip install -q {install}'
    return [dict(cell_type='markdown', id=ids[0], metadata={}, source=[f'[![Colab]({badge})]({at}/{name})']),
            dict(cell_type='code', execution_count=None, id=ids[1], metadata={}, outputs=[], source=code.splitlines(keepends=True))]

def alone(name, cells):
    "Whether the page needs no file but those of the package: tutorials, and lessons that read no other notebook."
    code = '\n'.join(re.sub(r'#.*', '', ''.join(c['source'])) for c in cells if c['cell_type'] == 'code')
    return name.startswith('tutorials/') or bool(re.match(r'\d', name)) and not re.search(r'\.ipynb|\.\./', code)

def with_cells(name, cells):
    "The cells of a page with its badge and its install cell, or without them."
    others = [c for c in cells if c['id'] not in ids]
    return [others[0], *wanted(name), *others[1:]] if alone(name, others) else others

def stale(root=root):
    "Pages whose two cells are not what this script writes, as {path: cells}."
    found = {p: json.loads(p.read_text(encoding='utf-8')) for p in sorted((root/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts}
    new = {p: with_cells(p.relative_to(root/'nbs').as_posix(), d['cells']) for p, d in found.items()}
    return {p: d | dict(cells=new[p]) for p, d in found.items() if new[p] != d['cells']}

def write(root=root):
    for p, d in stale(root).items(): p.write_text(json.dumps(d, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


if __name__ == '__main__':
    if '--check' in sys.argv: sys.exit('Without their Colab cells: ' + ', '.join(p.name for p in s) if (s := stale()) else 0)
    write()
