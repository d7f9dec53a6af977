"""Check the site that scripts/site.py wrote: `python scripts/site_check.py [FOLDER]`.

Dead links and anchors, links into the repository to files that are not there, raw LaTeX, headings with nothing below them, files from
other hosts; and in chromium, where it is installed, pages wider than 400 px, scripts that fail and a search that finds nothing."""
import json, os, re, shutil, signal, subprocess, sys, tempfile, threading
from contextlib import contextmanager
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

root = Path(__file__).resolve().parent.parent
width, seconds = 400, 1500     # a busy machine needs 5 seconds a page, an idle one a tenth
browsers = 'chromium', 'chromium-browser', 'google-chrome', 'chrome'
latex = re.compile(r'\\(?:[a-zA-Z]{2,}|[()\[\]])|\$\$|(?<![\w\\])\$[^\s$][^$\n]{0,80}[^\s$]\$(?!\w)')
quiet = 'math', 'code', 'pre', 'script', 'style', 'title'


class Page(HTMLParser):
    "What a page holds: anchors, links, files that it loads, text outside code and equations, and headings without content."
    def __init__(self, source):
        super().__init__()
        self.ids, self.links, self.loads, self.prose, self.empty = set(), [], [], [], []
        self.inside, self.main, self.open = [], False, []      # open: [level, heading, whether anything came]
        self.feed(source); self.close_sections(1)

    def close_sections(self, level):
        while self.open and self.open[-1][0] >= level:
            _, heading, filled = self.open.pop()
            if not filled: self.empty.append(heading.strip())
            if self.open: self.open[-1][2] = self.open[-1][2] or filled

    def handle_starttag(self, tag, attrs):
        a = dict(attrs)
        if 'id' in a: self.ids.add(a['id'])
        if tag == 'a' and 'href' in a: self.links.append(a['href'])
        if tag in ('img', 'script') and 'src' in a: self.loads.append(a['src'])
        if tag == 'link' and a.get('rel') == 'stylesheet': self.loads.append(a['href'])
        if tag == 'main': self.main = True
        if self.main and re.fullmatch('h[2-6]', tag): self.close_sections(int(tag[1])); self.open.append([int(tag[1]), '', False])
        elif self.main and tag == 'img' and self.open: self.open[-1][2] = True
        if tag == 'nav' and self.main: self.close_sections(1); self.main = False
        if tag in quiet or re.fullmatch('h[2-6]', tag): self.inside.append(tag)

    def handle_endtag(self, tag):
        if tag in self.inside: self.inside.remove(tag)

    def handle_data(self, data):
        if not set(self.inside) & set(quiet): self.prose.append(data)
        if not self.main or not self.open: return
        if any(t[0] == 'h' for t in self.inside): self.open[-1][1] += data
        elif data.strip(): self.open[-1][2] = True


def read(out): return {p.relative_to(out).as_posix(): Page(p.read_text(encoding='utf-8')) for p in sorted(out.rglob('*.html'))}

def dead(name, link, pages, out, repo, whole):
    "What is wrong with a link of page `name`, or None."
    if m := re.match(re.escape(repo) + r'/blob/\w+/([^#]+)', link): return None if (root/unquote(m[1])).exists() else 'is not in the repository'
    if re.match(r'[a-z]+:', link): return None
    file, _, anchor = link.partition('#')
    path = (out/name).parent/unquote(file) if file else out/name
    there = path.resolve().relative_to(out.resolve()).as_posix() if path.resolve().is_relative_to(out.resolve()) else None
    if there is None: return 'leaves the site'
    if not path.exists(): return 'is not there' if whole else None
    return f'has no #{anchor}' if anchor and there in pages and unquote(anchor) not in pages[there].ids else None

def problems(out, repo, whole=True):
    "Sentences on what is wrong with the pages below `out`; a sample of pages (`whole` false) may link to those that it lacks."
    pages = read(out)
    for name, p in pages.items():
        for link in sorted(set(p.links)):
            if says := dead(name, link, pages, out, repo, whole): yield f'{name}: the link {link} {says}'
        for file in sorted(set(p.loads)):
            if re.match(r'\w+:|//', file): yield f'{name}: {file} is on another host'
            elif not ((out/name).parent/unquote(file)).exists(): yield f'{name}: the file {file} is not there'
        for m in sorted({m[0] for s in p.prose for m in latex.finditer(s)}): yield f'{name}: raw LaTeX {m}'
        for heading in p.empty: yield f'{name}: nothing below the heading {heading!r}'


# in a browser

def browser(): return next(filter(None, map(shutil.which, browsers)), None)

harness = """<!DOCTYPE html><iframe width="%d" height="900" style="border:0"></iframe><script>
const f = document.querySelector('iframe'), bad = []
const boxed = e => { for (; e; e = e.parentElement) if (/auto|scroll|hidden/.test(getComputedStyle(e).overflowX)) return true; return false }
async function open(p) { await new Promise(r => { f.onload = r; f.src = '/' + p }); f.contentWindow.onerror = m => bad.push(p + ': ' + m); return f.contentDocument }
async function search() {
  const d = await open('index.html'), input = d.querySelector('input')
  input.value = 'patch'; input.dispatchEvent(new Event('input'))
  for (let i = 0; i < 100 && !d.querySelector('.found li'); i++) await new Promise(r => setTimeout(r, 50))
  const a = d.querySelector('.found a')
  if (!a) bad.push('index.html: the search for "patch" finds nothing')
}
(async () => {
  try { for (const p of %s) {
    const d = await open(p), w = d.documentElement
    d.querySelectorAll('main details').forEach(x => x.open = true)
    if (w.scrollWidth <= w.clientWidth) continue
    const e = [...d.body.querySelectorAll('*')].find(e => e.getBoundingClientRect().right > w.clientWidth + 1 && !boxed(e))
    bad.push(`${p}: ${w.scrollWidth} px wide on ${w.clientWidth}: ${e ? e.outerHTML.slice(0, 160) : ''}`)
  }
  await search() } catch (e) { bad.push('the browser: ' + e) }
  await fetch('/done', {method: 'POST', body: JSON.stringify(bad)})
})()
</script>"""

class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_): pass
    def do_GET(self):
        if self.path != '/harness': return super().do_GET()
        self.send_response(200); self.send_header('Content-Type', 'text/html'); self.end_headers()
        self.wfile.write(self.server.harness.encode())
    def do_POST(self):
        self.server.found = json.loads(self.rfile.read(int(self.headers['Content-Length'])))
        self.send_response(200); self.end_headers()
        self.server.done.set()

@contextmanager
def served(out, pages):
    "A server of the folder on this machine alone, with a page that opens all others."
    with ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=out)) as server:
        server.harness, server.done = harness % (width, json.dumps(pages)), threading.Event()
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try: yield server
        finally: server.shutdown()

def seen(out, program):
    "Sentences on what the browser finds."
    pages = [p.relative_to(out).as_posix() for p in sorted(out.rglob('*.html'))]
    with served(out, pages) as server, tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        args = ['--headless=new', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage', '--no-first-run', f'--user-data-dir={profile}']
        run = subprocess.Popen([program, *args, f'http://127.0.0.1:{server.server_port}/harness'], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                               start_new_session=True)
        try: return server.found if server.done.wait(seconds) else [f'{program} has not opened all pages in {seconds} s']
        finally: os.killpg(run.pid, signal.SIGTERM); run.wait()


def main(argv=None):
    import yaml
    out = Path((argv or sys.argv[1:] or [root/'_docs'])[0])
    repo = yaml.safe_load((root/'nbs/nbdev.yml').read_text(encoding='utf-8'))['website']['repo-url'].rstrip('/')
    found = list(problems(out, repo))
    if program := browser(): found += seen(out, program)
    else: print('No chromium here: widths and search were not checked.')
    print(*found, sep='\n') if found else print(f'Success: {len(list(out.rglob("*.html")))} pages in {out.name}/ are sound')
    return 1 if found else 0


if __name__ == '__main__': sys.exit(main())
