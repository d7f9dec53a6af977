"""Link the papers that the numbered pages name: `python scripts/papers.py [--check]`.

The first mention of a paper on a page, such as "Esser 2020" or "Rao et al. (2020)", becomes a link. `known` is the one list of addresses."""
import json, re, sys
from pathlib import Path

root = Path(__file__).resolve().parent.parent
# first author and year: the number on arXiv; a third word must stand near the mention
known = {('Andriushchenko', '2020'): '1912.00049', ('Athalye', '2018', r'EOT|[Ee]xpectation over'): '1707.07397', ('Athalye', '2018'): '1802.00420',
         ('Bengio', '2013'): '1308.3432', ('Brown', '2017'): '1712.09665', ('Carlini', '2019'): '1902.06705', ('Chen', '2016'): '1604.06174',
         ('Choi', '2018'): '1805.06085', ('Croce', '2022'): '2006.12834', ('Dong', '2018'): '1710.06081', ('Esser', '2020'): '1902.08153',
         ('Gatys', '2015'): '1505.07376', ('Gong', '2019'): '1908.05033', ('He', '2016'): '1512.03385', ('Ho', '2020'): '2006.11239',
         ('Howard', '2019'): '1905.02244', ('Ilyas', '2018'): '1804.08598', ('Ioffe', '2015'): '1502.03167', ('Jacob', '2018'): '1712.05877',
         ('Jin', '2020'): '1912.09666', ('Karmon', '2018'): '1801.02608', ('Nagel', '2019'): '1906.04721',
         ('Nagel', '2020'): '2004.10568', ('Neelakantan', '2015'): '1511.06807', ('Nie', '2022'): '2205.07460',
         ('Rao', '2020'): '2005.02313', ('Ross', '2018'): '1711.09404', ('Tarchoun', '2023'): '2304.10029', ('Tramèr', '2020'): '2002.08347',
         ('Vaswani', '2017'): '1706.03762', ('Yang', '2020'): '2004.05682', ('Yu', '2021'): '1911.07346', ('Zhou', '2016'): '1606.06160'}
# what no mention may be part of: fenced and inline code, equations, links, headings, rows of tables
whole = re.compile(r'```.*?```|`[^`\n]*`|\$\$.*?\$\$|\$[^$\n]*\$|!?\[[^\]]*\]\([^)]*\)|^#.*?$|^\|.*?$', re.S | re.M)


def mention(author, year):
    "A regular expression of the paper's mention: further authors and the conference may stand between name and year."
    between = r'(?:,? (?:et al\.|[A-Z]{3,6},?|and|[A-Z][\w-]+,?))*'
    return re.compile(rf'\b{author}\b{between},? (?:\({year}\)|\((?:[A-Z]+ )?{year}\)|{year})')

def linked(source):
    "A page's prose with the first mention of each paper as a link."
    for (author, year, *near), number in known.items():
        url = f'https://arxiv.org/abs/{number}'
        if url in source: continue
        taken = [m.span() for m in whole.finditer(source)]
        free = [m for m in mention(author, year).finditer(source) if not any(a < m.end() and m.start() < b for a, b in taken)
                and all(re.search(n, source[max(m.start() - 80, 0):m.end() + 40]) for n in near)]
        free.sort(key=lambda m: source.rfind('\n', 0, m.start()) + 1 == source.rfind('\n> ', 0, m.start()) + 1)    # the promise last
        if free: source = source[:free[0].start()] + f'[{free[0][0]}]({url})' + source[free[0].end():]
    return source

def page_linked(d):
    "The notebook with links; cells are joined, so that each paper is linked once."
    mark, cells = '\n\0\n', [c for c in d['cells'] if c['cell_type'] == 'markdown']
    new = linked(mark.join(''.join(c['source']) for c in cells)).split(mark)
    for c, s in zip(cells, new): c['source'] = s.splitlines(keepends=True)
    return d

def stale(root=root):
    "Pages that name a paper without a link, as {path: notebook}."
    found = {p: p.read_text(encoding='utf-8') for p in sorted((root/'nbs').glob('[0-9]*.ipynb'))}
    new = {p: page_linked(json.loads(s)) for p, s in found.items()}
    return {p: d for p, d in new.items() if d != json.loads(found[p])}

def write(root=root):
    for p, d in stale(root).items(): p.write_text(json.dumps(d, indent=1, ensure_ascii=False, sort_keys=True) + '\n', encoding='utf-8')


if __name__ == '__main__':
    if '--check' in sys.argv: sys.exit('Name a paper without its link: ' + ', '.join(p.name for p in s) if (s := stale()) else 0)
    write()
