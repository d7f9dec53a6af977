"""The page of a report: whole HTML without a script, readable at 400 pixels, alone in one file; and reports of an older version still load.

`old_report.zip` was written before audits could be inconclusive and reports had certificates; tables and pictures were left out."""
import re, shutil, subprocess, zipfile
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from triqdef.evaluate.report import Report
from triqdef.evaluate.success import Rate
from triqdef.evaluate.tables import CertifiedShare

VOID = {'meta', 'img', 'br', 'link', 'rect'}
CHROMIUM = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)

class Page(HTMLParser):
    "Tags with their attributes, and the words of each section; an assertion where tags do not match."
    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.sections, self.words, self.bare = [], [], [], [], []
        self.feed(text); self.close()
        assert not self.open, self.open
    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == 'table' and not any('scroll' in (a.get('class') or '') for _, a in self.open): self.bare.append(attrs)
        if tag == 'section': self.sections.append([])
        if tag not in VOID: self.open.append((tag, dict(attrs)))
    def handle_startendtag(self, tag, attrs): self.tags.append((tag, dict(attrs)))
    def handle_endtag(self, tag):
        if tag in VOID: return
        last = self.open.pop()[0] if self.open else None
        assert last == tag, f'</{tag}> closes <{last}> at line {self.getpos()[0]}'
    def handle_data(self, data):
        inside = [t for t, _ in self.open]
        if 'style' in inside or not data.strip(): return
        self.words.append(data)
        if 'section' in inside and 'h2' not in inside: self.sections[-1].append(data)
    def all(self, tag): return [a for t, a in self.tags if t == tag]


@pytest.fixture(scope='module')
def old(tmp_path_factory):
    "A report that an older version wrote."
    folder = tmp_path_factory.mktemp('old')
    zipfile.ZipFile(Path(__file__).with_name('old_report.zip')).extractall(folder)
    return Report.load(folder)

@pytest.fixture(scope='module')
def saved(old, tmp_path_factory):
    "The same report as it is written now, with a certificate for one of its networks."
    proven = CertifiedShare('any patch of 2×2', {32: Rate(20, 32), 2: Rate(12, 32)})
    return replace(old, certificates={'TriQDef': proven}).save(tmp_path_factory.mktemp('new')/'report')

def test_an_older_report_loads(old, saved):
    "It has no certificate and no inconclusive line; its terminal lines, text and figures are there; and it can be written again."
    assert old.certificates == {} and {l.sign for a in old.audits.values() for l in a.lines} <= {'pass', 'FAIL', 'not run'}
    assert len(old.brief().splitlines()) <= 10 and 'Audit: joint QAT' in old.text()
    back = Report.load(saved)
    assert back.text() == old.text() and back.certificates['TriQDef'].rates[2] == Rate(12, 32)
    assert back.audits['joint QAT'].text() == old.audits['joint QAT'].text()

def test_page(saved):
    "Tags match, ids differ, no script, no LaTeX, no section without words, every picture is there and described, tables scroll in a box."
    text = (saved/'index.html').read_text()
    p = Page(text)
    ids = Counter(a['id'] for _, a in p.tags if 'id' in a)
    assert ids and max(ids.values()) == 1 and not p.all('script') and not p.bare
    assert len(p.sections) > 5 and all(len(' '.join(s)) > 20 for s in p.sections)
    for img in p.all('img'): assert (saved/img['src']).is_file() and len(img['alt']) > 10, img
    assert not re.search(r'\\[a-zA-Z]{2}|\$[^$\n]+\$', ' '.join(p.words))
    assert len(p.all('details')) == len(p.all('summary')) > 5
    assert 'not computed' in text and '38 % [23, 55] of the images at 2 bits: any patch of 2×2' in text
    assert 'http' not in re.sub(r'http-equiv', '', text), 'the page needs a network'

def test_pictures_are_shown(saved):
    "No picture of the folder is missing on the page."
    shown = {a['src'] for a in Page((saved/'index.html').read_text()).all('img')}
    assert {f.name for f in saved.glob('*.png')} <= shown

def test_names_are_text(old):
    "A network's name is no HTML."
    name = '<img src=x> & "B"'
    page = replace(old, transfers={name: old.transfers['TriQDef']}, audits={}, alignments={}, gradients={}).to_html()
    assert '<img src=x>' not in page and '&lt;img src=x&gt; &amp; &#34;B&#34;' in page
    Page(page)

def test_one_file(saved):
    "With its pictures inside, the page refers to no other file."
    p = Page(Report.load(saved).to_html(saved))
    assert p.all('img') and all(a['src'].startswith('data:image/png;base64,') for a in p.all('img'))
    assert not [a for a in p.all('a') if not a['href'].startswith('#')]

@pytest.mark.skipif(CHROMIUM is None, reason='needs chromium')
def test_width(saved, tmp_path):
    "At 400 pixels nothing sticks out of the page, with all tables open."
    text = (saved/'index.html').read_text().replace('<details>', '<details open>')
    ask = '<script>onload = () => document.title = `${innerWidth} ${document.documentElement.scrollWidth}`</script></body>'
    page = saved/'probe.html'
    page.write_text(text.replace('</body>', ask))
    r = subprocess.run([CHROMIUM, '--headless', '--no-sandbox', '--disable-gpu', f'--user-data-dir={tmp_path}', '--virtual-time-budget=5000',
                        '--window-size=400,900', '--dump-dom', page.as_uri()], capture_output=True, text=True, timeout=300)
    page.unlink()
    inner, wide = map(int, re.search(r'<title>(\d+) (\d+)</title>', r.stdout).groups())
    assert wide <= inner <= 520
