"""Process every notebook for the site as `nbdev-proc-nbs` does, and check that the pages are whole.

`nbdev-proc-nbs` itself downloads Quarto when it is missing; this needs none. The pages land in _proc/."""
import json, os, sys
from pathlib import Path

import yaml
from nbdev.config import get_config
from nbdev.quarto import refresh_quarto_yml
from nbdev.serve import proc_nbs


def problems(cache, nbs):
    "Sentences about what is missing below `cache`, given the notebooks' folder."
    site = yaml.safe_load((cache/'_quarto.yml').read_text())
    for name in [*site['metadata-files'], site['format']['html']['css']]:
        if not (cache/name).exists(): yield f'_quarto.yml names {name}, which is not in {cache.name}/'
    for src in sorted(nbs.rglob('*.ipynb')):
        page = cache/src.relative_to(nbs)
        if any(p[0] in '._' for p in src.relative_to(nbs).parts): continue
        if not page.exists(): yield f'{src.name} was not processed'
        elif not json.loads(page.read_text())['cells']: yield f'{src.name} is an empty page'
        elif 'title:' not in ''.join(json.loads(page.read_text())['cells'][0]['source']): yield f'{src.name} has no title'


def main():
    cfg = get_config()
    os.chdir(cfg.config_path)
    refresh_quarto_yml()
    cache = proc_nbs(cfg.nbs_path, n_workers=2, force=True)
    found = list(problems(cache, cfg.nbs_path))
    print(*found, sep='\n') if found else print(f'Success: {len(list(cache.rglob("*.ipynb")))} pages in {cache.name}/')
    return 1 if found else 0


if __name__ == '__main__': sys.exit(main())
