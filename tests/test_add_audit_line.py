"A new line of the audit is one declared function: the audit, its text and table, and the report find it without any other change."
from dataclasses import replace

import pytest

from triqdef.attack.pgd import PatchPGD
from triqdef.evaluate.audit import Audit, AuditBudget, audit, audit_line, audit_lines
from triqdef.evaluate.report import report, Report
from triqdef.quant.convert import calibrate, to_multibit
from triqdef.toys import toy_dls, trained_toy

BUDGET = AuditBudget(n=8, steps=1, sizes=(.06,), queries=2, copies=1, n_smooth=2, smooth_steps=1, swaps=(), ensembles=('mean',), ends=True)


# the new line, all of it

NEW = max(audit_lines) + 1

def declare():
    @audit_line(NEW, 'Better than chance', 'Is the network better than chance at each bit-width?',
                'clean accuracy of more than 25 % at each bit-width')
    def better_than_chance(bench):
        "Clean accuracy at each bit-width."
        rates = {b: (p == bench.y).float().mean().item() for b, p in bench.clean.items()}
        figure = ', '.join(f'{b} bits {100*r:.0f} %' for b, r in rates.items())
        return min(rates.values()) > .25, figure, dict(accuracy=rates)
    return better_than_chance


@pytest.fixture(scope='module')
def trained():
    dls = toy_dls(n=64)
    return calibrate(to_multibit(trained_toy(), (32, 2)), dls.train, 2), dls

@pytest.fixture
def toys(trained):
    declare()
    yield trained
    del audit_lines[NEW]

def test_the_audit_finds_it(toys, undrawn, tmp_path):
    net, dls = toys
    a = audit(net, dls.valid, budget=BUDGET, lines=(5, NEW), progress=False)
    assert a[NEW].passed and a[NEW].values['accuracy'].keys() == {'32', '2'}
    assert 'Better than chance' in a.text() and a.to_frame().loc[NEW, 'passed'] is True
    a.save(tmp_path)
    assert Audit.load(tmp_path)[NEW] == a[NEW]

def test_all_lines_include_it(toys):
    net, dls = toys
    assert [l.number for l in audit(net, dls.valid, budget=BUDGET, progress=False).lines] == sorted(audit_lines)

def test_the_report_shows_it(toys, undrawn, tmp_path):
    net, dls = toys
    r = report(net, dls, PatchPGD(4, 1), audit=replace(BUDGET, n=8), n=8, n_align=0, progress=False, out=tmp_path/'r')
    assert 'Better than chance' in r.text() and 'Better than chance' in (tmp_path/'r/index.html').read_text()
    assert Report.load(tmp_path/'r').text() == r.text()

def test_a_number_is_taken_once(toys):
    with pytest.raises(ValueError, match=f"line {NEW} is 'Better than chance' already"):
        @audit_line(NEW, 'Another', 'Is there another?', 'never')
        def another(bench): return True, ''
    assert audit_lines[NEW].name == 'Better than chance'
