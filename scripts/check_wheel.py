"""Check an installed triqdef from outside the repository: `cd elsewhere && PYTHON /path/to/scripts/check_wheel.py`.

Every module imports, the data that ships inside the package is there, and nothing comes from the working tree. With `--pages`, the
tutorials and the explanations also run in an empty folder. With `--build`, the wheel is built and installed into an environment of its
own first, whose other packages are those of the environment that runs this: nothing is downloaded."""
import argparse, importlib, json, os, pkgutil, re, subprocess, sys, sysconfig, tempfile
from pathlib import Path

tree = Path(__file__).resolve().parent.parent


def files(folder):
    "Paths of the files below `folder`, links to folders followed."
    found = (Path(d, f).relative_to(folder) for d, _, fs in os.walk(folder, followlinks=True) for f in fs)
    return {p.as_posix() for p in found if '__pycache__' not in p.parts}

def check_package():
    "What is wrong with the installed package, or None."
    import triqdef
    home = Path(triqdef.__file__).resolve().parent
    if home == tree/'triqdef': return f'triqdef was imported from the working tree, {home}: change directory first'
    names = [m.name for m in pkgutil.walk_packages([str(home)], 'triqdef.')]
    for name in names: importlib.import_module(name)
    if missing := files(tree/'triqdef') - files(home): return f'not in the wheel: {sorted(missing)}'
    subprocess.run([Path(sysconfig.get_path('scripts'))/'triqdef', '--help'], check=True, stdout=subprocess.DEVNULL)
    print(f'triqdef {triqdef.__version__}: {len(names)} modules import, all files are there', flush=True)


# pages

def pages():
    "The pages that a reader may open alone: tutorials and explanations."
    return [p for d in ('tutorials', 'explanations') for p in sorted((tree/'nbs'/d).glob('*.ipynb'))]

def cells(page):
    "Sources of the cells that the tests of notebooks run."
    for c in json.loads(page.read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        if c['cell_type'] == 'code' and not re.search(r'^#\|\s*(eval: *false|slow|cuda)', source, re.M): yield source

def run_page(page):
    "Run the cells of a page here, in an IPython; an error ends it."
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    for source in cells(page): shell.run_cell(source).raise_error()

def check_pages(names):
    "The pages that fail, each run by a process of its own in an empty folder."
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'} | dict(MPLBACKEND='agg')
    for page in names:
        with tempfile.TemporaryDirectory() as at:
            r = subprocess.run([sys.executable, __file__, '--run', page], cwd=at, env=env, capture_output=True, text=True)
        print(f'{page.name}: {"fails" if r.returncode else "runs"}', flush=True)
        if r.returncode: yield page.name, r.stdout[-3000:] + r.stderr[-3000:]


# an environment

def borrowed(folder):
    "The Python of a new environment with the wheel of this tree; other packages are those of this environment."
    quiet = dict(check=True, stdout=subprocess.DEVNULL)
    subprocess.run([sys.executable, '-m', 'build', '--wheel', '--no-isolation', '--outdir', folder/'dist', tree], **quiet)
    subprocess.run([sys.executable, '-m', 'venv', '--without-pip', folder/'env'], **quiet)
    python, wheel = folder/'env/bin/python', next((folder/'dist').glob('*.whl'))
    subprocess.run([sys.executable, '-m', 'pip', '-q', '--python', python, 'install', '--no-deps', '--no-cache-dir', wheel], **quiet)
    site = subprocess.run([python, '-c', 'import sysconfig; print(sysconfig.get_path("purelib"))'], capture_output=True, text=True, check=True)
    # a folder named in a .pth file is searched last, and its own .pth files, which name this tree, are not read
    (Path(site.stdout.strip())/'others.pth').write_text(sysconfig.get_path('purelib') + '\n')
    return python

def build_and_check(words):
    "Check the wheel of this tree in a new environment, from an empty folder."
    with tempfile.TemporaryDirectory() as d:
        folder = Path(d)
        python = borrowed(folder)
        (folder/'empty').mkdir()
        env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
        return subprocess.run([python, __file__, *words], cwd=folder/'empty', env=env).returncode

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--build', action='store_true', help='build the wheel and install it into a new environment first')
    p.add_argument('--pages', nargs='*', metavar='NAME', help='run the tutorials and explanations too, or only those named')
    p.add_argument('--run', type=Path, metavar='NOTEBOOK', help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.build: return build_and_check([w for w in sys.argv[1:] if w != '--build'])
    if a.run: return run_page(a.run)
    if bad := check_package(): return bad
    if a.pages is None: return
    wanted = [q for q in pages() if not a.pages or q.stem in a.pages]
    if a.pages and len(wanted) < len(a.pages): return f'no such pages among {[q.stem for q in pages()]}'
    bad = list(check_pages(wanted))
    for name, said in bad: print(f'== {name}\n{said}')
    return 1 if bad else None


if __name__ == '__main__': sys.exit(main())
