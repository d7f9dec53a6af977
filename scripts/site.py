"""Write the site into _docs/: `python scripts/site.py`. Quarto renders it where it is installed; otherwise pandoc does.

    python scripts/site.py                                # Quarto, or pandoc without it
    python scripts/site.py --pandoc                       # pandoc, also beside Quarto
    python scripts/site.py --only index 400_attack.patch  # these pages alone, by pandoc

pandoc comes with `pypandoc-binary`. A page is processed as nbdev does it and rendered by pandoc, both in processes and kept in
.site-cache/ by the hash of all that it depends on. Styles, script and frame are in scripts/pages/; equations are MathML."""
import argparse, ast, base64, hashlib, html, json, os, posixpath, re, shutil, struct, subprocess, sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import yaml

root = Path(__file__).resolve().parent.parent
nbs, parts, kept = root/'nbs', root/'scripts/pages', root/'.site-cache'
# methods that torch, fastai or Python calls: a reader of the page does not
internal = re.compile(r'\.(forward|backward|extra_repr|reset_parameters|(before|after)_\w+|__(?!init__|call__)\w+__)$')
reads = 'markdown-smart-blank_before_header+lists_without_preceding_blankline'
ansi = re.compile(r'\x1b\[[0-9;?]*[A-Za-z]')


def text(x): return x if isinstance(x, str) else ''.join(x)

@cache
def settings():
    "Title, address and description of the site, from nbs/nbdev.yml."
    return yaml.safe_load((nbs/'nbdev.yml').read_text(encoding='utf-8'))['website']

@cache
def book():
    "The sidebar: [(part or None, [notebook below nbs/, ...]), ...] in reading order."
    items = yaml.safe_load((nbs/'sidebar.yml').read_text(encoding='utf-8'))['website']['sidebar']['contents']
    return [(i['section'], i['contents']) if isinstance(i, dict) else (None, [i]) for i in items]

def notebooks(): return [n for _, names in book() for n in names]

@cache
def address(name):
    "Where a notebook is on the site: the number of its name is left out, as nbdev does."
    folder, _, file = name.rpartition('/')
    return posixpath.join(folder, re.sub(r'^\d+[a-zA-Z0-9]*_', '', file).replace('.ipynb', '.html'))

def relative(target, page):
    "The link to `target` from a page, both below the site's folder."
    return posixpath.relpath(target, posixpath.dirname(page) or '.')

def hashed(*things): return hashlib.sha256(b'\0'.join(t if isinstance(t, bytes) else t.encode() for t in things)).hexdigest()[:24]


# processing, as nbdev does it

@cache
def package_hash():
    "A hash of the package, whose signatures the pages show."
    return hashed(version('nbdev'), *(p.read_bytes() for p in sorted((root/'triqdef').rglob('*.py'))))

def processed(name):
    "The cells of a notebook after nbdev's processors, and a hash of all that they depend on."
    source = (nbs/name).read_bytes()
    key = hashed(name, source, package_hash())
    path = kept/f'{key}.ipynb'
    if not path.exists():
        from nbdev.processors import FilterDefaults
        from nbdev.serve_drv import exec_nb
        part = path.with_suffix(f'.{os.getpid()}')
        exec_nb(nbs/name, part, FilterDefaults)
        os.replace(part, path)
    return json.loads(path.read_text(encoding='utf-8'))['cells'], json.loads(source)['cells'], key


def introduction(source):
    "What a notebook's first cell says below title and promise: nbdev makes front matter of the cell and drops the rest."
    return re.sub(r'\A# .*\n*(?:> .*\n*)*', '', text(source[0]['source'])) if source else ''

def with_introduction(cells, source):
    "The processed cells, and behind the front matter the rest of the first cell, its names linked as nbdev links them."
    said = introduction(source)
    if not said.strip() or any(c['id'] == source[0]['id'] for c in cells): return cells
    from nbdev.doclinks import NbdevLookup
    return [*cells[:1], dict(cell_type='markdown', id=source[0]['id'], metadata={}, source=NbdevLookup().linkify(said)), *cells[1:]]


# a page as markdown

def directives(source): return dict(re.findall(r'^#\|\s*([\w-]+):?[ \t]*(.*)$', source, re.M))

def bare(source): return re.sub(r'^#\|.*\n?', '', source, flags=re.M).strip('\n')

def raw(s): return f'\n\n````````{{=html}}\n{s}\n````````\n\n'

def fenced(source):
    ticks = '`'*max(3, *(len(t) + 1 for t in re.findall('`{3,}', source)), 3)
    return f'\n\n{ticks}python\n{source}\n{ticks}\n\n'

def folded(summary, inside, kind, anchors=()):
    "Markdown that a reader unfolds; links to `anchors` lead to it."
    marks = ''.join(f'<span id="{html.escape(a)}"></span>' for a in anchors)
    return raw(f'<details class="{kind}"><summary>{marks}{summary}</summary>') + inside + raw('</details>')

def anchors_of(names):
    "The names as they are and in small letters, once each: nbdev links to either."
    return list(dict.fromkeys(a for n in names for a in (n, n.lower())))

def coded(s):
    "HTML of a comment or docstring whose only markup are backticks."
    return re.sub(r'`([^`]+)`', r'<code>\1</code>', html.escape(s, quote=False))

def picture(png, name, pictures):
    "An <img> of its true size; the file is added to `pictures`."
    pictures[name] = png
    width, height = struct.unpack('>II', png[16:24])
    return f'<img src="PICTURES/{name}" width="{width}" height="{height}" loading="lazy" alt="What the code above draws">'

def output(out, name, pictures):
    "One stored output as markdown."
    data = out.get('data', {})
    if out['output_type'] == 'stream': shown = text(out['text']) if out['name'] == 'stdout' else ''
    elif 'image/png' in data: return raw(f'<p class="out">{picture(base64.b64decode(text(data["image/png"])), name, pictures)}</p>')
    elif 'text/markdown' in data: return '\n\n' + text(data['text/markdown']) + '\n\n'
    elif 'text/html' in data: return raw('<div class="out">' + re.sub(r'<style.*?</style>', '', text(data['text/html']), flags=re.S) + '</div>')
    else: shown = text(data.get('text/plain', ''))
    shown = ansi.sub('', shown).rstrip()
    return raw(f'<pre class="out">{html.escape(shown, quote=False)}</pre>') if shown.strip() else ''

def tests(source):
    "Whether the cell asserts."
    return bool(re.search(r'^\s*(assert\b|test_\w+\(|with expect_fail)', source, re.M))

def imports(source):
    "Whether the cell imports, and does nothing else."
    return all(re.match(r'(from|import|\s|\)|#|$)', l) for l in source.splitlines())

def code(cell, pictures, fold):
    "A lesson's cell and what it shows; a test that shows nothing is folded, with `fold` imports too."
    source, said = bare(text(cell['source'])), directives(text(cell['source']))
    outs = [] if said.get('output') == 'false' else cell['outputs']
    shown = ''.join(output(o, f"{cell['id']}-{i}.png", pictures) for i, o in enumerate(outs))
    if not source or said.get('echo') == 'false': return shown
    if said.get('code-fold', 'false') != 'false': return folded('Code', fenced(source), 'code') + shown
    if fold and not shown and imports(source): return folded('Imports', fenced(source), 'code')
    return folded('Tests', fenced(source), 'tests') if tests(source) and not shown else fenced(source) + shown


# signatures

def parameter(line):
    "(name, type, default, comment) of one line of a signature that `show_doc` wrote; None for another line."
    m = re.match(r'^\s+(\*{0,2}\w+)(?::(.*?))?(?:=(.*?))?,(?:\s*# (.*))?$', line)
    return m and tuple((x or '').strip() for x in m.groups())

def plain_type(s): return '' if s == 'NoneType' else re.sub(r'\b__main__\.|\btorch\.(?=Tensor)|<class \'|\'>', '', s)

def parameter_table(rows):
    "A table of parameters, with the columns that say something."
    heads = [('parameter', 0), ('type', 1), ('default', 2), ('meaning', 3)]
    heads = [(h, i) for h, i in heads if any(r[i] for r in rows)]
    cells = [''.join(f'<td>{coded(r[i]) if i == 3 else f"<code>{html.escape(r[i])}</code>" if r[i] else ""}</td>' for _, i in heads) for r in rows]
    return ('<table class="params"><thead><tr>' + ''.join(f'<th>{h}</th>' for h, _ in heads) + '</tr></thead><tbody>' +
            ''.join(f'<tr>{c}</tr>' for c in cells) + '</tbody></table>')

def short(name, rows, returns):
    "The signature in one line."
    inside = ', '.join(n + (f'={d}' if d else '') for n, _, d, _ in rows)
    return f'<p class="sig"><code>{html.escape(name)}({html.escape(inside)})' + (f' → {html.escape(returns)}' if returns else '') + '</code></p>'

def api(name, shown, taken=(), level=3):
    "What `show_doc` wrote of `name`: heading, one line, docstring, table of parameters; a heading of the page may have its anchor."
    link, sig = re.search(r'\[source\]\((\S+?)\)', shown), re.search(r'```python\n(.*?)\n```', shown, re.S)
    lines = sig[1].splitlines() if sig else []
    rows = [(n, plain_type(t), d, c) for n, t, d, c in filter(None, map(parameter, lines))]
    ends = re.match(r'^(?:def .*|)\)(?:->(.*?))?:(?:\s*# (.*))?$', lines[-1]) if lines else None
    returns, about = (plain_type(ends[1] or ''), ends[2] or '') if ends else ('', '')
    doc = re.sub(r'^\*(.*)\*$', r'\1', shown[sig.end():].strip(), flags=re.S) if sig else ''
    source = f' [source]({link[1]}){{.source}}' if link else ''
    body = raw(short(name, rows, returns)) + doc + '\n\n' + (raw(parameter_table(rows)) if rows else '')
    body += raw(f'<p class="returns">Returns {coded(about)}</p>') if about else ''
    if internal.search(name): return folded(f'<code>{html.escape(name)}</code>, called by Python, torch or fastai', body, 'internal', anchors_of([name]))
    anchor = name.lower() + '-1'*(name.lower() in taken)
    exact = raw(f'<span id="{name}"></span>') if name not in (name.lower(), *taken) else ''
    return f'\n\n{"#"*level} `{name}`{source} {{#{anchor} .api}}\n\n{exact}{body}'

def slugs(cells):
    "The anchors that pandoc makes of the headings in the prose."
    prose = '\n'.join(re.sub(r'```.*?```', '', text(c['source']), flags=re.S) for c in cells if c['cell_type'] == 'markdown')
    for h in re.findall(r'^#+ (.*)$', prose, re.M):
        words = re.sub(r'[^\w\s.-]', '', re.sub(r'[`*$]|\]\([^)]*\)', '', h).lower())
        yield re.sub(r'^[^a-z]+', '', re.sub(r'\s+', '-', words.strip()))

def shown_name(cell):
    m = re.search(r'^show_doc\((.+?)\)', text(cell['source']), re.M) if cell['cell_type'] == 'code' else None
    return m and m[1]

def definitions(source):
    "Names that an exported cell defines: functions, classes, patched methods, constants; None where it only imports."
    tree = ast.parse(re.sub(r'^\s*[%!].*$', '', source, flags=re.M))
    if all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in tree.body): return None
    def named(n):
        if isinstance(n, ast.Assign): return [t.id for t in n.targets if isinstance(t, ast.Name)]
        if not hasattr(n, 'name'): return []
        patched = isinstance(n, ast.FunctionDef) and any('patch' in ast.unparse(d).split('(')[0] for d in n.decorator_list) and n.args.args
        owner = ast.unparse(n.args.args[0].annotation) if patched and n.args.args[0].annotation else ''
        return [f'{owner}.{n.name}' if owner else n.name]
    return [x for n in tree.body for x in named(n)]

def exported(cell, docs, taken):
    "An exported cell: its signatures, then its source, folded."
    source = bare(text(cell['source']))
    names = definitions(source)
    if names is None: return ''
    mine = [n for n in docs if n in names or n.split('.')[-1] in names or any(n in x for x in names)]
    said = ''.join(api(n, docs.pop(n), taken) for n in sorted(mine, key=lambda n: ('.' in n, n.split('.')[-1] != '__init__')))
    hidden = all(n.split('.')[-1].startswith('_') for n in names) and not said
    summary = 'Internal: ' + ', '.join(f'<code>{html.escape(n)}</code>' for n in names) if hidden and names else 'Source'
    return said + folded(summary, fenced(source), 'internal' if hidden else 'code', () if said else anchors_of(names))

def overview(names, taken):
    "Links to the names that a page defines, classes first."
    tops = sorted((n for n in names if '.' not in n), key=lambda n: (not n[0].isupper() or n.isupper(), 0))
    links = ', '.join(f'[`{n}`](#{n.lower()}{"-1"*(n.lower() in taken)})' for n in tops)
    return f'\n\n::: defines\nOn this page: {links}\n:::\n\n' if len(tops) > 1 else ''

def as_markdown(name, cells, source):
    "Front matter, markdown and pictures of a processed page; its exported cells come from the notebook."
    front = yaml.safe_load(text(cells[0]['source']).strip().strip('-')) if cells and cells[0]['cell_type'] == 'raw' else {}
    docs = {n: text(o['data']['text/markdown']) for c in cells if (n := shown_name(c)) for o in c['outputs'] if 'text/markdown' in o.get('data', {})}
    there, pictures, blocks, names = {c['id']: c for c in cells if not shown_name(c)}, {}, [], list(docs)
    taken = set(slugs(cells))
    for c in source:
        if (p := there.get(c['id'])) is None:
            said = directives(text(c['source']))
            if c['cell_type'] == 'code' and {'export', 'exports', 'exporti'} & set(said) and 'hide' not in said: blocks.append(exported(c, docs, taken))
            continue
        s = text(p['source'])
        if p['cell_type'] == 'markdown': blocks.append(re.sub(r'\[!\[[^\]]*\]\([^)]*colab[^)]*\)\]\([^)]*\)', '', s))
        elif p['cell_type'] == 'code': blocks.append(code(p, pictures, name[0].isdigit()))
    blocks += [api(n, d, taken) for n, d in docs.items()]
    first = next((i for i, b in enumerate(blocks) if b.lstrip().startswith('#') or 'class=' in b or '```' in b), 0)
    about = f"::: about\n{front['description']}\n:::\n\n" if front.get('description') else ''
    return front, about + '\n\n'.join([*blocks[:first], overview(names, taken), *blocks[first:]]), pictures


# a page as HTML

def pandoc():
    "The program: on the path, or that of pypandoc-binary."
    if found := shutil.which('pandoc'): return found
    try: import pypandoc
    except ModuleNotFoundError: sys.exit('The site needs Quarto or pandoc: pip install pypandoc-binary')
    return pypandoc.get_pandoc_path()

def link(target, name):
    "A link of notebook `name` as the site has it: pages by their address, files of the repository on its host."
    home, repo = settings()['site-url'].rstrip('/'), settings()['repo-url'].rstrip('/')
    page, here = address(name), posixpath.dirname(name)
    if target.startswith(home): return relative(target[len(home):].lstrip('/') or 'index.html', page)
    if re.match(r'[a-z]+:|#', target) or target.startswith('PICTURES/'): return target
    file, _, anchor = target.partition('#')
    path = posixpath.normpath(posixpath.join(here, file))
    if path in notebooks(): return relative(address(path), page) + (f'#{anchor}' if anchor else '')
    if path.startswith('..'): return f'{repo}/blob/{settings()["repo-branch"]}/{path[3:]}'
    return target

def dressed(body, name):
    "pandoc's HTML with the site's links, and tables in boxes of their own that scroll."
    body = re.sub(r'(href|src)="([^"]*)"', lambda m: f'{m[1]}="{html.escape(link(html.unescape(m[2]), name))}"', body)
    body = body.replace('PICTURES/', relative('pictures/' + address(name).removesuffix('.html').replace('/', '-'), address(name)) + '/')
    body = re.sub(r'(<table\b.*?</table>)', r'<div class="scroll" tabindex="0">\1</div>', body, flags=re.S)
    body = re.sub(r'(<math display="block".*?</math>)', r'<span class="scroll equation">\1</span>', body, flags=re.S)
    return body.replace('<pre', '<pre tabindex="0"')

def headings(body):
    "(level, id, text) of the headings."
    found = re.findall(r'<h([2-4])[^>]*?\bid="([^"]+)"[^>]*>(.*?)</h\1>', body, re.S)
    def words(h): return html.unescape(re.sub(r'<[^>]+>', '', re.sub(r'<a [^>]*class="source".*?</a>|<annotation.*?</annotation>', '', h, flags=re.S))).strip()
    return [(int(l), i, words(h)) for l, i, h in found]

def rendered(name):
    "Title, description, body, headings and pictures of a page, from the cache where nothing has changed."
    os.chdir(root)
    cells, source, key = processed(name)
    path = kept/(hashed(key, Path(__file__).read_bytes(), (nbs/'sidebar.yml').read_bytes(), (nbs/'nbdev.yml').read_bytes()) + '.json')
    if not path.exists():
        front, markdown, pictures = as_markdown(name, with_introduction(cells, source), source)
        r = subprocess.run([pandoc(), '-f', reads, '-t', 'html5', '--mathml', '--wrap=none'], input=markdown, capture_output=True, text=True, check=True)
        body = dressed(r.stdout, name)
        page = dict(title=str(front.get('title', name)), about=re.sub(r'\[([^\]]*)\]\([^)]*\)|[$`*]', r'\1', str(front.get('description', ''))), body=body, headings=headings(body), said=r.stderr,
                    pictures={k: base64.b64encode(v).decode() for k, v in pictures.items()})
        part = path.with_suffix(f'.{os.getpid()}')
        part.write_text(json.dumps(page), encoding='utf-8')
        os.replace(part, path)
    return name, json.loads(path.read_text(encoding='utf-8'))

def render_all(names, workers):
    "{notebook: page} of all. Workers fill the cache, as programs of their own: processing a page replaces `__main__`."
    kept.mkdir(exist_ok=True)
    if workers > 1:
        jobs = [subprocess.Popen([sys.executable, __file__, '--fill', *names[i::workers]]) for i in range(workers)]
        if any([j.wait() for j in jobs]): sys.exit('a worker failed')
    return dict(map(rendered, names))


# the frame around the pages

def entries(pages):
    "The search index: [title, part of the page, address] of pages, headings and public names."
    for name, p in pages.items():
        yield [p['title'], p['about'], address(name)]
        for _, anchor, words in p['headings']: yield [words, p['title'], f'{address(name)}#{anchor}']

def shown_title(name, pages):
    if name in pages: return pages[name]['title']
    first = text(json.loads((nbs/name).read_text(encoding='utf-8'))['cells'][0]['source'])
    return first.splitlines()[0].lstrip('# ')

def frame(name, pages, titles, template):
    "The whole HTML of a page."
    s, order, page, here = settings(), notebooks(), pages[name], address(name)
    at = order.index(name)
    def to(n): return dict(href=relative(address(n), here), title=titles[n], here=n == name)
    sidebar = [dict(title=part, open=name in names, pages=[to(n) for n in names]) for part, names in book()]
    url = s['repo-url'].rstrip('/')
    return template.render(page=page, sidebar=sidebar, site=s['title'], home=relative('index.html', here), top='../'*here.count('/'),
                           before=to(order[at - 1]) if at else None, after=to(order[at + 1]) if at + 1 < len(order) else None,
                           url=f"{s['site-url'].rstrip('/')}/{here}", base=s['site-url'].rstrip('/'), about=page['about'] or s['description'],
                           notebook=f"{url}/blob/{s['repo-branch']}/nbs/{name}", repo=url,
                           colab=f"https://colab.research.google.com/github/{url.split('github.com/')[-1]}/blob/{s['repo-branch']}/nbs/{name}"
                           if installs(name) else '')

def installs(name):
    "Whether the notebook has the cell that installs the package on Colab."
    return '/content' in (nbs/name).read_text(encoding='utf-8')

def write(names, out, workers):
    "Render the pages and write them, styles, script, search index and pictures into `out`."
    from jinja2 import Environment, FileSystemLoader
    template = Environment(loader=FileSystemLoader(parts), autoescape=True, trim_blocks=True, lstrip_blocks=True).get_template('page.html')
    pages = render_all(names, workers)
    shutil.rmtree(out, ignore_errors=True)
    shutil.copytree(nbs/'images', out/'images')
    for f in ('site.css', 'site.js'): shutil.copy(parts/f, out/f)
    titles = {n: shown_title(n, pages) for n in notebooks()}
    for name, p in pages.items():
        for file, data in p['pictures'].items(): _put(out/'pictures'/address(name).removesuffix('.html').replace('/', '-')/file, base64.b64decode(data))
        _put(out/address(name), frame(name, pages, titles, template).encode())
    _put(out/'index.js', f'siteIndex({json.dumps(list(entries(pages)), ensure_ascii=False, separators=(",", ":"))})\n'.encode())
    for name, p in pages.items():
        if p['said']: print(f'{name}: {p["said"].strip()}', file=sys.stderr)

def _put(path, data):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)

def chosen(words):
    "Notebooks by the ends of their names."
    found = [n for w in words for n in notebooks() if n.removesuffix('.ipynb') == w or n.removesuffix('.ipynb').endswith('/' + w)]
    if len(found) < len(words): sys.exit(f'of {words}, only {found} are notebooks')
    return found

def by_quarto():
    "Render by Quarto. The pages are processed first, and get their introductions back; nbdev-docs leaves them as they are."
    from nbdev.serve import proc_nbs
    cache = proc_nbs(nbs)
    for name in notebooks():
        page = json.loads((cache/name).read_text(encoding='utf-8'))
        page['cells'] = with_introduction(page['cells'], json.loads((nbs/name).read_text(encoding='utf-8'))['cells'])
        (cache/name).write_text(json.dumps(page, indent=1, ensure_ascii=False), encoding='utf-8')
    return subprocess.run([Path(sys.executable).parent/'nbdev-docs']).returncode

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--pandoc', action='store_true', help='render by pandoc, even where Quarto is installed')
    p.add_argument('--only', nargs='+', metavar='NOTEBOOK', help='render these alone, such as index 400_attack.patch')
    p.add_argument('--out', type=Path, default=root/'_docs', help='the folder that is written; what it held is removed')
    p.add_argument('--workers', type=int, default=min(2, os.cpu_count() or 1), help='processes')
    p.add_argument('--fill', nargs='+', help=argparse.SUPPRESS)
    a = p.parse_args(argv)
    if a.fill: return [rendered(n) for n in a.fill] and 0
    os.chdir(root)
    if shutil.which('quarto') and not (a.pandoc or a.only): return by_quarto()
    names = chosen(a.only) if a.only else notebooks()
    write(names, a.out, a.workers)
    print(f'Success: {len(names)} pages in {a.out.name}/, open {a.out.name}/index.html')


if __name__ == '__main__': sys.exit(main())
