"""The site without Quarto: some of its pages, rendered and opened, and the checks, which find each fault. `make site-check` does all pages."""
import json, re

import pytest

from forked import forked
from test_project import load

SAMPLE = 'index', '300_penalty.fdp', '400_attack.patch', '963_commands.export', 'tutorials/06_deploy', 'explanations/glossary'


@pytest.fixture(scope='module')
def check(root): return load(root/'scripts/site_check.py')

@pytest.fixture(scope='module')
def repo(root): return load(root/'scripts/site.py').settings()['repo-url'].rstrip('/')

@pytest.fixture(scope='module')
def out(root, tmp_path_factory):
    "A sample of the site, made by a process of its own: processing runs exported cells."
    pytest.importorskip('pypandoc')
    folder = tmp_path_factory.mktemp('site')/'docs'
    r = forked('forked:script', ['--only', *SAMPLE, '--workers', '1', '--out', str(folder)], str(root/'scripts/site.py'))
    assert r.returncode == 0, r.stderr[-2000:]
    return folder

def html(out, name): return (out/name).read_text(encoding='utf-8')

def test_pages_are_sound(out, check, repo): assert not list(check.problems(out, repo, whole=False))

def test_pages_in_a_browser(out, check):
    "No page is wider than a telephone, and the search finds."
    if not check.browser(): pytest.skip(f'none of {", ".join(check.browsers)} is installed')
    assert not check.seen(out, check.browser())

def test_a_page(out):
    "Equations are MathML, signatures tables, private functions and tests folded, pictures files; the sidebar marks the page."
    fdp, patch = html(out, 'penalty.fdp.html'), html(out, 'attack.patch.html')
    assert '<math display="block"' in fdp and 'class="math' not in fdp
    assert '<td><code>shape_name</code></td><td><code>str</code></td>' in patch and 'id="patch"' in patch and 'id="Patch"' in patch
    assert '<details class="internal"' in fdp and '<details class="tests"' in patch
    assert patch.count('aria-current="page"') == 1 and 'rel="next" href="attack.criteria.html"' in patch
    assert '<meta property="og:title" content="A patch as an object">' in patch
    deploy = html(out, 'tutorials/deploy.html')
    assert 'src="../pictures/tutorials-deploy/' in deploy and 'href="../index.html"' in deploy and 'Open in Colab' in deploy
    assert 'pip install -q' not in deploy
    assert 'The command writes the file' in deploy      # below title and promise, in the first cell

def test_search_index(out):
    text = html(out, 'index.js')
    found = json.loads(text.removeprefix('siteIndex(').rstrip().removesuffix(')'))
    assert ['Patch.apply', 'A patch as an object', 'attack.patch.html#patch.apply'] in found

@pytest.mark.parametrize('body, says', [
    ('<a href="gone.html">a</a>', 'gone.html is not there'), ('<a href="#gone">a</a>', 'has no #gone'),
    ('<a href="https://github.com/a/b/blob/main/gone.py#L1">a</a>', 'is not in the repository'), ('<a href="../up.html">a</a>', 'leaves the site'),
    ('<img src="gone.png">', 'gone.png is not there'), ('<img src="https://x.y/z.svg">', 'another host'),
    ('<p>let $x_1$ be</p>', 'raw LaTeX $x_1$'), (r'<p>\frac</p>', r'raw LaTeX \frac'), ('<h2>Empty</h2><h2>Full</h2><p>a</p>', "'Empty'"),
    ('<h2>Last</h2>', "'Last'")])
def test_faults_are_found(check, tmp_path, body, says):
    page = '<body><main><h1>T</h1><p>$5 and a</p><pre>$x$</pre><math>\\frac</math><h2 id="a">A</h2><h3>B</h3><p><a href="#a">b</a></p>%s</main></body>'
    (tmp_path/'p.html').write_text(page % '')
    assert not list(check.problems(tmp_path, 'https://github.com/a/b'))
    (tmp_path/'p.html').write_text(page % body)
    found = list(check.problems(tmp_path, 'https://github.com/a/b'))
    assert len(found) == 1 and says in found[0], found

def test_wide_page_is_found(check, tmp_path):
    if not check.browser(): pytest.skip(f'none of {", ".join(check.browsers)} is installed')
    (tmp_path/'index.html').write_text('<input><ul class="found"><li><a href="#">a</a></li></ul><div style="overflow-x:auto"><p style="width:900px">a</p></div>')
    (tmp_path/'wide.html').write_text('<p style="width:900px">a</p>')
    found = check.seen(tmp_path, check.browser())
    assert len(found) == 1 and found[0].startswith('wide.html: '), found


def test_help_is_stored(root):
    "The page of a command shows every option that the command has."
    store = load(root/'scripts/store_help.py')
    found = list(store.shown(root))
    assert len(found) >= 5
    for path, _, cell, module, name in found:
        said, now = (set(re.findall(r'--[\w-]+', s)) for s in (''.join(cell['outputs'][0]['text']), store.help_of(module, name)))
        assert said == now, f'{path.name} stores another help, run `make help-pages`: {sorted(said ^ now)}'
