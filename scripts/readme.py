"""Write README.md from nbs/index.ipynb, without Quarto: `python scripts/readme.py [--check]`.

Markdown cells stand as they are, with links and pictures made absolute, so that the package index shows them too; code cells
become fenced blocks followed by their stored outputs; pictures go to nbs/images/, named by the cell that drew them. `#| hide`, `#| echo: false` and
`#| output: false` are honoured."""
import base64, json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
notice = '<!-- Written by `make readme` from nbs/index.ipynb: edit the notebook, not this file. -->'
drawn = 'images/index-'     # the pictures that this script owns, below nbs/
pages = 'https://github.com/triqdef/triqdef/blob/main/'
files = 'https://raw.githubusercontent.com/triqdef/triqdef/main/'     # where pictures are served from
badges = ' '.join([
    '[![test](https://github.com/triqdef/triqdef/actions/workflows/test.yml/badge.svg)](https://github.com/triqdef/triqdef/actions/workflows/test.yml)',
    '[![docs](https://img.shields.io/badge/docs-triqdef.github.io-blue)](https://triqdef.github.io/triqdef/)',
    '[![Python 3.11+](https://img.shields.io/badge/python-3.11+-blue)](https://www.python.org)',
    '[![Apache-2.0](https://img.shields.io/badge/license-Apache--2.0-green)](https://github.com/triqdef/triqdef/blob/main/LICENSE)',
    '[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/triqdef/triqdef/blob/main/nbs/tutorials/01_first_run.ipynb)',])      # on other hosts, so not on the site
_ansi, _link = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]'), re.compile(r'(!?)(\[[^\]]*\]\()(?!https?:|mailto:|#|/)([^)\s]+)')
_fence, _div = re.compile(r'^(```.*?^```)', re.M | re.S), re.compile(r'^:{3,}.*\n?', re.M)


def _text(x): return x if isinstance(x, str) else ''.join(x)

def directives(source):
    "The `#|` lines of a cell as `{name: value}`, and the code below them."
    lines, found = source.splitlines(), {}
    while lines and (m := re.match(r'#\|\s*([\w-]+):?\s*(.*)', lines[0])): found[m[1]] = m[2].strip(); lines.pop(0)
    return found, '\n'.join(lines).strip('\n')

def _prose(text):
    "Markdown with absolute links and without Quarto's `:::` lines, fenced code untouched."
    def link(m): return m[1] + m[2] + (files if m[1] else pages) + re.sub(r'^nbs/\.\./', '', 'nbs/' + m[3])
    def one(s): return _div.sub('', _link.sub(link, s))
    return ''.join(p if p.startswith('```') else one(p) for p in _fence.split(text))

def _fenced(text, lang=''):
    ticks = '`' * max(3, *(len(t) + 1 for t in re.findall('`{3,}', text)), 3)
    return f'{ticks}{lang}\n{text.rstrip()}\n{ticks}'

def _output(out, name, images):
    "One stored output as markdown; a picture is added to `images` as `{name: bytes}`."
    if out['output_type'] == 'stream': return _fenced(_ansi.sub('', _text(out['text']))) if out['name'] == 'stdout' else ''
    data = out.get('data', {})
    if 'image/png' in data:
        images[f'{name}.png'] = base64.b64decode(_text(data['image/png']))
        return f'![]({files}nbs/{name}.png)'
    if 'text/markdown' in data: return _prose(_text(data['text/markdown']))
    return _fenced(_ansi.sub('', _text(data['text/plain']))) if 'text/plain' in data else ''

def _code(cell, images):
    "A code cell and its outputs as a list of blocks."
    opts, code = directives(_text(cell['source']))
    if 'hide' in opts: return []
    quiet = {k for k in ('echo', 'output') if opts.get(k) == 'false'}
    blocks = [_fenced(code, 'python')] if code and 'echo' not in quiet else []
    outs = [] if 'output' in quiet else cell['outputs']
    return blocks + [_output(o, f"{drawn}{cell['id']}-{i}", images) for i, o in enumerate(outs)]

def render(notebook):
    "README text and its pictures `{path below nbs/: bytes}` from a notebook."
    images, blocks = {}, [notice]
    for cell in json.loads(Path(notebook).read_text(encoding='utf-8'))['cells']:
        if cell['cell_type'] == 'markdown': blocks.append(_prose(directives(_text(cell['source']))[1]).strip())
        elif cell['cell_type'] == 'code': blocks += _code(cell, images)
    text = '\n\n'.join(b for b in blocks if b) + '\n'
    return text.replace('# triqdef\n', f'# triqdef\n\n{badges}\n', 1), images

def stale(root=root):
    "What differs between README.md, its pictures and the index notebook: paths below `root`."
    text, images = render(root/'nbs/index.ipynb')
    want = {'README.md': text.encode(), **{f'nbs/{k}': v for k, v in images.items()}}
    have = {str(p.relative_to(root)) for p in (root/'nbs').glob(drawn + '*')} | {'README.md'}
    return sorted(p for p in have | set(want) if not (root/p).exists() or (root/p).read_bytes() != want.get(p))

def write(root=root):
    "Write README.md and its pictures, and remove pictures that the index no longer draws."
    text, images = render(root/'nbs/index.ipynb')
    for p in (root/'nbs').glob(drawn + '*'): p.unlink()
    for name, data in images.items():
        (root/'nbs'/name).parent.mkdir(exist_ok=True); (root/'nbs'/name).write_bytes(data)
    (root/'README.md').write_text(text, encoding='utf-8')


if __name__ == '__main__':
    if '--check' in sys.argv: sys.exit('Not in step with nbs/index.ipynb: ' + ', '.join(s) if (s := stale()) else 0)
    write()
