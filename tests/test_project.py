"""The repository's rules: each holds here, and each is broken by a fault that it names."""
import ast, filecmp, importlib.util, json, os, re, shutil, subprocess, sys
from functools import cache
from pathlib import Path

import pytest

import rules
from rules import RULES, import_order, notebooks, undocumented


@pytest.mark.parametrize('rule', RULES, ids=lambda r: r.__name__)
def test_rule(rule, root):
    bad = rule(root)
    assert not bad, f'{rule.__doc__}\n' + '\n'.join(f'- {b}' for b in bad)


# generated files, made again in a copy

def load(path):
    "A script as a module."
    spec = importlib.util.spec_from_file_location(path.stem, path)
    m = importlib.util.module_from_spec(spec); spec.loader.exec_module(m)
    return m

def copy_of(root, to):
    "The parts of the repository that nbdev reads, in `to`."
    for name in ('nbs', 'triqdef', 'tests', '.github'):
        shutil.copytree(root/name, to/name, symlinks=True, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints', 'assets'))
    if (root/'triqdef/assets').is_dir(): (to/'triqdef/assets').symlink_to(root/'triqdef/assets')
    for name in ('pyproject.toml', 'settings.ini', 'constraints.txt', '_quarto.yml', 'README.md', 'CONTRIBUTING.md'): shutil.copy(root/name, to/name)
    shutil.copytree(root/'scripts', to/'scripts', ignore=shutil.ignore_patterns('__pycache__'))
    return to

def nbdev(code, at):
    "Run nbdev in folder `at`, in a process of its own."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}
    r = subprocess.run([sys.executable, '-c', code], cwd=at, env=env, capture_output=True, text=True)
    assert not r.returncode, r.stderr

def files(folder): return {p.relative_to(folder).as_posix() for p in folder.rglob('*.py')} if folder.exists() else set()

def out_of_step(root, tmp_path):
    "What of the package is not what exporting the notebooks into an empty package gives, in sentences."
    copy = copy_of(root, tmp_path)
    for p in (copy/'triqdef').rglob('*.py'):
        if p != copy/'triqdef/__init__.py': p.unlink()
    nbdev('from nbdev.doclinks import nbdev_export; nbdev_export()', copy)
    here, there = files(root/'triqdef'), files(copy/'triqdef')
    _, differ, errors = filecmp.cmpfiles(root/'triqdef', copy/'triqdef', sorted(here & there), shallow=False)
    llms = [d/'nbs/llms.txt' for d in (root, copy)]
    return ([f'{f} is only here' for f in sorted(here - there)] + [f'{f} is only exported' for f in sorted(there - here)] +
            [f'{f} is not what the notebooks export' for f in differ + errors] +
            ['nbs/llms.txt is stale']*(len({p.read_bytes() if p.exists() else None for p in llms}) > 1))

def test_export_in_step(root, tmp_path):
    "Exporting the notebooks into an empty package gives the package that is here, byte by byte, and settings.ini does not matter."
    assert not (bad := out_of_step(root, tmp_path)), f'{bad}. Run `make export`.'

def test_site_settings_in_step(root, tmp_path):
    "nbs/nbdev.yml is what pyproject.toml makes."
    copy = copy_of(root, tmp_path); (copy/'nbs/nbdev.yml').unlink(missing_ok=True)
    nbdev('from nbdev.quarto import refresh_quarto_yml; refresh_quarto_yml()', copy)
    assert (root/'nbs/nbdev.yml').read_text() == (copy/'nbs/nbdev.yml').read_text(), 'run `make docs-check`'
    assert (copy/'nbs/_quarto.yml').is_symlink()

def test_notebooks_clean(root, tmp_path):
    "`nbdev-clean` has nothing to remove."
    copy = copy_of(root, tmp_path)
    nbdev('from nbdev.clean import nbdev_clean; nbdev_clean()', copy)
    noisy = [nb.name for nb in notebooks(root) if nb.path.read_bytes() != (copy/'nbs'/nb.name).read_bytes()]
    assert not noisy, f'not clean: {noisy}. Run `make export`.'

def test_readme_in_step(root):
    assert not load(root/'scripts/readme.py').stale(root), 'run `make readme`'

def test_readme_links(root):
    "Files that README.md points to exist."
    readme = load(root/'scripts/readme.py')
    links = re.findall(r'\]\(([^)#\s]+)', (root/'README.md').read_text(encoding='utf-8'))
    own = [l.removeprefix(p) for l in links for p in (readme.pages, readme.files) if l.startswith(p)]
    assert len(own) > 20 and not [l for l in own if not (root/l).exists()]
    assert not [l for l in links if not l.startswith('https://')], 'the package index shows absolute links only'


# README without Quarto

def test_readme_render(tmp_path):
    "Prose, code, outputs and pictures of an index come out as markdown that reads the same from anywhere."
    load_ = load(Path(__file__).parent.parent/'scripts/readme.py')
    code = dict(cell_type='code', id='ab', execution_count=None, metadata={})
    png = dict(output_type='display_data', data={'image/png': 'aGk=', 'text/plain': '<Figure>'}, metadata={})
    cells = [dict(cell_type='markdown', id='m', metadata={}, source='# T\n\n[a](000_core.ipynb) ![p](p.png) [b](../LICENSE) [c](https://x.y)\n\n```\n[d](e)\n```'),
             dict(code, source='#| hide\nsecret', outputs=[]), dict(code, source='#| echo: false\nquiet()', outputs=[png]),
             dict(code, source='1+1', outputs=[dict(output_type='execute_result', data={'text/plain': ['\x1b[1m2\x1b[0m']})])]
    (tmp_path/'i.ipynb').write_text(json.dumps(dict(cells=cells)))
    text, images = load_.render(tmp_path/'i.ipynb')
    assert f'[a]({load_.pages}nbs/000_core.ipynb) ![p]({load_.files}nbs/p.png) [b]({load_.pages}LICENSE) [c](https://x.y)' in text
    assert '[d](e)' in text
    assert 'secret' not in text and 'quiet' not in text and '```python\n1+1\n```\n\n```\n2\n```' in text
    assert images == {'images/index-ab-0.png': b'hi'} and f'![]({load_.files}nbs/images/index-ab-0.png)' in text


# the last line of .ci/run

@pytest.mark.parametrize('xml, rc, line, status', [
    ('<testsuites><testsuite tests="5" failures="0" errors="0" skipped="1"/></testsuites>', '0', '4 passed, 0 failed, 1 skipped', 0),
    ('<testsuites><testsuite tests="5" failures="1" errors="1" skipped="0"/></testsuites>', '2', '3 passed, 2 failed', 1),
    ('<testsuites><testsuite tests="5" failures="0" errors="0" skipped="0"/></testsuites>', '2', '5 passed, 1 failed', 1),
    (None, '2', '0 passed, 1 failed', 1)])
def test_count(root, tmp_path, capsys, xml, rc, line, status):
    if xml: (tmp_path/'r.xml').write_text(xml)
    assert load(root/'scripts/count_tests.py').main(tmp_path/'r.xml', rc) == status
    assert capsys.readouterr().out == line + '\n'

def test_recorded(root, tmp_path, monkeypatch):
    "A measuring script records its command without the folders of a machine, and keeps what its file has."
    recorded, out = load(root/'scripts/recorded.py'), tmp_path/'a.json'
    monkeypatch.setattr('sys.argv', [str(root/'scripts/measure_x.py'), str(tmp_path/'net.pth'), '--at=/home/me/b.pth', '--out', 'results/a b.json'])
    made = recorded.begun(out, 'x-1', 'rows', seed=3)
    assert (made['rows'], made['seed'], made['command']) == ([], 3, "python scripts/measure_x.py net.pth --at=b.pth --out 'results/a b.json'")
    out.write_text(json.dumps(made | dict(rows=[1])))
    assert recorded.begun(out, 'x-1', 'rows', seed=3) == made | dict(rows=[1])
    with pytest.raises(SystemExit, match='other settings'): recorded.begun(out, 'x-1', 'rows', seed=0)

def test_slowest(root):
    "The ten slowest notebooks and cells come last, longest first; every other line passes."
    slowest, out = load(root/'scripts/slowest.py').slowest, []
    lines = ['Success.\n', *(f'{i:02}_x.ipynb: {i} secs\n' for i in range(12)), '03_x.ipynb:ab12: 2.500s\n', 'Error in cell']
    slowest(lines, show=out.append)
    assert out[:3] == ['Success.', 'Error in cell', 'slowest notebooks:'] and out[3].split() == ['11.0', 's', '11_x.ipynb']
    assert len(out) == 15 and out[-1].endswith('03_x.ipynb, cell ab12')


# every rule can fail

def md(s): return dict(cell_type='markdown', id='m', metadata={}, source=s)
def py(s, *outputs): return dict(cell_type='code', id='c', metadata={}, execution_count=None, source=s, outputs=list(outputs))

good = [md('# T\n\n> P.'), py('#| default_exp low'), py('#| export\nimport math'), py('from fastcore.test import *'),
        py('#| export\ndef f(\n    x:float, # any\n)->float:\n    "Itself."\n    return x'), py('test_eq(f(1), 1)')]

def write_nb(root, name, cells):
    (root/'nbs').mkdir(exist_ok=True)
    (root/'nbs'/name).write_text(json.dumps(dict(cells=cells)))

@pytest.mark.parametrize('rule, cells, says', [
    ('import_order', good[:4] + [py('import triqdef.high')], 'imports triqdef.high of notebook 200'),
    ('import_order', good[:4] + [py('from triqdef import low')], 'imports triqdef.low of notebook 100'),
    ('import_order', good[:4] + [py('def g():\n    from triqdef.none.deep import x')], 'which no notebook exports'),
    ('outputs', good + [py('1', dict(output_type='error', ename='E'))], 'stores an error'),
    ('outputs', good + [py('1', dict(output_type='stream', text='x'*300_000))], '300 KB of outputs'),
    ('first_cells', [md('# T')] + good[1:], 'one-line promise'),
    ('first_cells', [good[0], good[2]], 'second cell'),
    ('first_cells', good[:2] + good[3:], 'third cell'),
    ('import_cells', good + [py('#| export\nimport os\nx = 1')], 'mixes imports'),
    ('import_cells', good + [py('import os\nos.getcwd()')], 'mixes imports'),
    ('import_cells', good + [py('for _ in y:\n    import os')], 'mixes imports'),
    ('outputs', good + [py('1', dict(output_type='stream', name='stderr', text='Warning'))], 'from stderr'),
    ('exported_code', good + [py('#| export\n' + 'x = 1\n'*31)], 'exports 31 lines'),
    ('exported_code', good + [py('#| export\nfrom math import *')], 'star import'),
    ('exported_code', good + [py('#| export\ntry: 1\nexcept (KeyError, Exception): pass')], 'catches everything'),
    ('exported_code', good + [py('#| export\ntry: 1\nexcept: pass')], 'catches everything'),
    ('exported_code', good + [py('#| export\nx = "' + 'y'*120 + '"')], 'a line of'),
    ('docments', good + [py('#| export\ndef g(): return 1')], 'g has no docstring'),
    ('docments', good + [py('#| export\nclass G: pass')], 'class G has no docstring'),
    ('docments', good + [py('#| export\ndef g(a, # one\n    b=2):\n    "G."')], 'parameter b of g'),
    ('docments', good + [py('#| export\nclass G:\n    "G."\n    def __init__(self, a): pass')], 'parameter a of G.__init__'),
    ('docments', good + [py('#| export\n@patch\ndef g(self:G, a):\n    "G."')], 'parameter a of g'),
    ('lessons', good[:5], 'asserts nothing'),
    ('links', good + [md('[a](300_none.ipynb)')], 'links to 300_none.ipynb, which is not there'),
    ('links', good + [md('[a](200_high.ipynb#none)')], 'no such heading'),
    ('stored', good + [py('x = 1\nx')], 'stores no output'),
    ('stored', good + [py('print(1)')], 'stores no output'),
    ('lessons', good + [py('#| hide\nassert 1')], '1 of 2 assertion cells'),
    ('unique_numbers', None, 'same number')])
def test_notebook_rule_fails(tmp_path, rule, cells, says):
    rule = getattr(rules, rule)
    write_nb(tmp_path, '100_low.ipynb', good); write_nb(tmp_path, '200_high.ipynb', [py('#| default_exp high')])
    if rule.__name__ != 'first_cells': assert not rule(tmp_path)
    write_nb(tmp_path, '100_low.ipynb', cells or good)
    if cells is None: write_nb(tmp_path, '100_other.ipynb', good)
    found = rule(tmp_path)
    assert any(says in b for b in found), found

def test_imports_downwards_are_allowed(tmp_path):
    write_nb(tmp_path, '100_low.ipynb', good)
    write_nb(tmp_path, '200_high.ipynb', [py('#| default_exp high'), py('%time 1'), py('import triqdef\nfrom triqdef.low import f')])
    write_nb(tmp_path, 'index.ipynb', [py('from triqdef.high import *')])
    assert not import_order(tmp_path)

def test_links_to_headings_and_names(tmp_path):
    write_nb(tmp_path, '100_low.ipynb', good + [md('## The `first` part, and\n\n[a](#the-first-part-and) [b](#f) [c](https://x.y#z)')])
    assert not rules.links(tmp_path)

@pytest.mark.parametrize('row, says', [
    ('| odd | uneven | [100](../100_low.ipynb) |', '100_low does not say odd'),
    ('| wave | moves | [200](../200_high.ipynb) |', '100_low says wave, which 200_high defines later'),
    ('| wave | moves | [300](../300_none.ipynb) |', 'which is not there'),
    ('| wave | moves | 200 |', 'has no row')])
def test_glossary_fails(tmp_path, row, says):
    write_nb(tmp_path, '100_low.ipynb', good + [md('A wave, `even` so.')])
    write_nb(tmp_path, '200_high.ipynb', [md('Waves.')])
    (tmp_path/'nbs/explanations').mkdir()
    write_nb(tmp_path, 'explanations/glossary.ipynb', [md(row.replace('200_high', '100_low').replace('wave | moves', 'wave | at once'))])
    if 'later' in says: assert not rules.glossary(tmp_path)
    write_nb(tmp_path, 'explanations/glossary.ipynb', [md(row)])
    found = rules.glossary(tmp_path)
    assert any(says in b for b in found), found

def replace(name, old, new):
    def fault(r):
        text = (r/name).read_text()
        (r/name).unlink()                  # the file of a linked copy is the file of the others, too
        (r/name).write_text(text.replace(old, new, 1))
    return fault

def add(name, s): return lambda r: (r/name).write_text(s)

@pytest.fixture(scope='module')
def sound(root, tmp_path_factory):
    "A copy without faults, and what a rule says of it."
    copy = copy_of(root, tmp_path_factory.mktemp('sound'))
    subprocess.run(['git', 'init', '-q'], cwd=copy, check=True)
    return copy, cache(lambda rule: set(rule(copy)))

@pytest.mark.parametrize('rule, fault, says', [
    ('settings_mirror', replace('settings.ini', 'cell_timeout = 600', 'cell_timeout = 60'), 'cell_timeout'),
    ('settings_mirror', replace('pyproject.toml', 'torch>=2.6', 'torch>=2.7'), 'requirements'),
    ('settings_mirror', replace('settings.ini', 'language', 'odd = 1\nlanguage'), 'odd'),
    ('pins', replace('pyproject.toml', 'nbdev==', 'nbdev>='), 'not pinned'),
    ('pins', replace('pyproject.toml', '"torch>=2.6"', '"torch"'), 'no lower bound'),
    ('pins', replace('constraints.txt', 'torch==', '# torch=='), 'pins no torch'),
    ('pins', replace('constraints.txt', 'pytest==', 'pytest==1.'), 'pyproject.toml says'),
    ('packaging', lambda r: ((r/'triqdef/lost').mkdir(), (r/'triqdef/lost/x.py').touch()), 'triqdef.lost'),
    ('packaging', add('triqdef/loose.csv', '1'), 'loose.csv'),
    ('quarto_link', lambda r: ((r/'nbs/_quarto.yml').unlink(), (r/'nbs/_quarto.yml').touch()), 'not a link'),
    ('places', add('predictions.safetensors', ''), 'predictions.safetensors is in no folder'),
    ('shape', replace('triqdef/study.py', 'def study(', 'def wide(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q): pass\n\ndef study('), 'parameters is 17'),
    ('shape', replace('triqdef/study.py', 'from .core import', 'from .core import _version,'), 'imports _version'),
    ('colab', replace('nbs/tutorials/01_first_run.ipynb', '[![Colab]', '[![Open]'), '01_first_run.ipynb: its Colab'),
    ('colab', replace('nbs/100_quant.ste.ipynb', '# On Colab', '# On'), '100_quant.ste.ipynb: its Colab'),
    ('colab', replace('scripts/colab.py', 'git+', 'hg+'), '06_deploy.ipynb: its Colab'),
    ('papers', replace('nbs/110_quant.quantizers.ipynb', '[Zhou 2016](https://arxiv.org/abs/1606.06160)', 'Zhou 2016'), '110_quant.quantizers.ipynb names'),
    ('sidebar', replace('nbs/sidebar.yml', '- index.ipynb', '- other.ipynb'), 'index.ipynb'),
    ('sidebar', replace('nbs/sidebar.yml', '- index.ipynb', '- index.ipynb\n      - index.ipynb'), 'twice'),
    ('part_map', replace('CONTRIBUTING.md', '`core`', ''), '`core`'),
    ('part_map', replace('CONTRIBUTING.md', '| 000–', '| 005–'), 'in a part from 005'),
    ('workflows', replace('.github/workflows/test.yml', 'checkout@v4', 'checkout@main'), 'names no major version'),
    ('machine_paths', add('scripts/x.py', 'p = "/ro' 'ot/x"'), 'scripts/x.py'),
    ('machine_paths', add('scripts/x.py', 'see /tmp/wo' 'rk/brief'), 'scripts/x.py'),
    ('machine_paths', add('scripts/x.py', 'pip install --index' '-url http://here'), 'scripts/x.py')])
def test_project_rule_fails(sound, tmp_path, rule, fault, says):
    whole, said = sound
    copy, rule = shutil.copytree(whole, tmp_path/'copy', symlinks=True, copy_function=os.link), getattr(rules, rule)
    fault(copy); found = set(rule(copy)) - said(rule)
    assert any(says in b for b in found), found

def test_stale_export_is_seen(root, tmp_path):
    "A module changed by hand, and one that no notebook writes, are both found."
    for d in ('here', 'again'): (tmp_path/d).mkdir()
    copy = copy_of(root, tmp_path/'here')
    for p in (copy/'nbs').rglob('*.ipynb'):       # the first pages are enough, and quick to export
        if not p.name.startswith('00'): p.unlink()
    for p in (copy/'triqdef').rglob('*.py'):
        if p.stem not in ('__init__', 'core', 'checks'): p.unlink()
    (copy/'triqdef/orphan.py').write_text('x = 1\n'); (copy/'triqdef/core.py').write_text('x = 1\n')
    bad = out_of_step(copy, tmp_path/'again')
    assert {'orphan.py is only here', 'core.py is not what the notebooks export'} <= set(bad), bad

def test_stale_readme_is_seen(root, tmp_path):
    copy, readme = copy_of(root, tmp_path), load(root/'scripts/readme.py')
    readme.write(copy); assert not readme.stale(copy)
    replace('nbs/index.ipynb', '# triqdef', '# other')(copy)
    assert readme.stale(copy) == ['README.md']

@pytest.mark.parametrize('source, bare', [
    ('def f(a, # one\n    b, # two\n): pass', []), ('def f(\n    # one\n    a,\n    *args, # rest\n    **kwargs): pass', []),
    ('def f(a, b, # two\n): pass', ['a']), ('def f(a=dict(\n    x=1), # one\n    *, k): pass', ['k']), ('def f(self, _a): pass', ['self'])])
def test_docment_reading(source, bare): assert undocumented(ast.parse(source).body[0], source) == bare
