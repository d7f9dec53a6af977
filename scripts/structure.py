"""Figures of the notebooks: how long exported cells and lines are, how soon something runs, how wide modules and signatures are.

    python scripts/structure.py        # prints them; tests/rules.py holds each to its bound"""
import ast, json, re, sys
from pathlib import Path
from statistics import median

PLAIN = re.compile(r'^#\|\s*(export|default_exp|hide)', re.M)


def sources(root):
    "(notebook, kind, source) of every cell of the numbered notebooks, in order."
    for path in sorted((root/'nbs').glob('[0-9]*.ipynb')):
        for c in json.loads(path.read_text(encoding='utf-8'))['cells']: yield path.stem, c['cell_type'], ''.join(c['source'])

def code_of(s): return [l for l in s.splitlines() if l.strip() and not l.startswith('#|')]

def defines(s): return bool(re.search(r'^#\|\s*export', s, re.M)) and any(re.match(r'(def|class|@)', l) for l in code_of(s))

def runs(kind, s): return kind == 'code' and not PLAIN.search(s) and bool(code_of(s)) and not re.match(r'(from|import) ', s)

def rhythm(cells, within):
    "Share of the definitions with a cell that runs among the next `within` cells."
    at = [i for i, (_, k, s) in enumerate(cells) if k == 'code' and defines(s)]
    near = [any(n == cells[i][0] and runs(k, s) for n, k, s in cells[i + 1:i + 1 + within]) for i in at]
    return sum(near)/len(near)

def signatures(root):
    "(module, name, parameters that are no settings object's fields) of every public function and constructor."
    for path in sorted((root/'triqdef').rglob('*.py')):
        if path.name == '_modidx.py': continue
        for node in ast.walk(ast.parse(path.read_text(encoding='utf-8'))):
            if isinstance(node, ast.FunctionDef) and (node.name[0] != '_' or node.name == '__init__'):
                a = node.args
                yield path.stem, node.name, len([p for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ('self', 'cls')])

def dispatches(root):
    "Bags of `locals()`, attributes by built names, and private names of other modules."
    for path in sorted((root/'triqdef').rglob('*.py')):
        text = path.read_text(encoding='utf-8')
        for pattern in (r'\(locals\(\)\)', r'getattr\(\w+, f[\'"]'):
            for m in re.finditer(pattern, text): yield f'{path.name}: {m[0]}'
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom) and (node.level or (node.module or '').startswith('triqdef')):
                for n in node.names:
                    if n.name[0] == '_' and not n.name.startswith('__'): yield f'{path.name}: imports {n.name}'

def public_names(root):
    "How many names each module exports."
    out = {}
    for path in (root/'triqdef').rglob('*.py'):
        m = re.search(r'^__all__ = (\[.*?\])', path.read_text(encoding='utf-8'), re.S | re.M)
        if m and path.name != 'all.py': out[str(path.relative_to(root))] = len(ast.literal_eval(m[1]))
    return out

def figures(root):
    "All of them, by name."
    cells = list(sources(root))
    code = [l for _, k, s in cells if k == 'code' for l in code_of(s)]
    sizes = sorted(len(code_of(s)) for _, k, s in cells if k == 'code' and defines(s))
    lines = {p: len(p.read_text(encoding='utf-8').splitlines()) for p in (root/'triqdef').rglob('*.py') if p.name != '_modidx.py'}
    names, wide = public_names(root), [n for *_, n in signatures(root)]
    return dict(cell_median=median(sizes), cell_90=sizes[int(.9*len(sizes))], cell_most=sizes[-1],
                runs_within_3=round(100*rhythm(cells, 3), 1), runs_within_1=round(100*rhythm(cells, 1), 1),
                lines_over_100=round(100*sum(len(l) > 100 for l in code)/len(code), 2),
                words=sum(len(s.split()) for _, k, s in cells if k == 'markdown' and not s.startswith('[![Colab]')),
                module_lines=max(lines.values()), modules_over_300_lines=sum(n > 300 for n in lines.values()),
                module_names=max(names.values()), modules_over_15_names=sum(n > 15 for n in names.values()),
                parameters=max(wide), signatures_over_9=sum(n > 9 for n in wide), dispatches=len(list(dispatches(root))))


if __name__ == '__main__':
    root = Path(__file__).resolve().parent.parent
    for name, value in figures(root).items(): print(f'{name:24} {value}')
    for line in dispatches(root): print('  ', line)
