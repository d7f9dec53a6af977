"""Check an installed triqdef from outside the repository: `cd elsewhere && PYTHON /path/to/scripts/check_wheel.py`.

Every module imports, the data that ships inside the package is there, and nothing comes from the working tree."""
import importlib, pkgutil, subprocess, sys, sysconfig
from pathlib import Path


def main():
    import triqdef
    home, tree = Path(triqdef.__file__).resolve().parent, Path(__file__).resolve().parent.parent
    if home == tree/'triqdef': return f'triqdef was imported from the working tree, {home}: change directory first'
    names = [m.name for m in pkgutil.walk_packages([str(home)], 'triqdef.')]
    for name in names: importlib.import_module(name)
    missing = {str(p.relative_to(tree/'triqdef')) for p in (tree/'triqdef').rglob('*') if p.is_file() and '__pycache__' not in p.parts}
    missing -= {str(p.relative_to(home)) for p in home.rglob('*')}
    if missing: return f'not in the wheel: {sorted(missing)}'
    if 'triqdef.cli' in names:
        command = Path(sysconfig.get_path('scripts'))/'triqdef'
        subprocess.run([command, '--help'], check=True, stdout=subprocess.DEVNULL)
    print(f'triqdef {triqdef.__version__}: {len(names)} modules import, all files are there')


if __name__ == '__main__': sys.exit(main())
