"""Audit networks that ship with the full budget: 200 test images, all twelve lines; the lines go to JSON.

    python scripts/measure_audit.py --out nbs/results/audit.json

Images: the first of CIFAR-10's test set. Line 11 tries the tools on joint QAT, without a patch in its training; line 12 attacks
the exported files, which are written beside the JSON and removed at the end. Finished attacks are kept in a folder beside it:
interrupted, the same command goes on. About two hours for a network on one core."""
import argparse, tempfile, time
from dataclasses import asdict
from pathlib import Path

from triqdef.commands.export import exported_files
from triqdef.data import cifar_dls
from triqdef.evaluate.audit import audit
from triqdef.evaluate.lines import AuditBudget
from triqdef.files import plain, write_json
from triqdef.quant.checkpoint import pretrained
from triqdef.quant.convert import bits_of

from recorded import begun


def measured(name, dls, args, parts):
    "The audit of one network, as it is stored."
    start, net = time.time(), pretrained(name)
    with tempfile.TemporaryDirectory() as folder:
        files = exported_files({name: net}, dls, bits_of(net), Path(folder), 64)[name]
        budget = AuditBudget.quick() if args.quick else AuditBudget()
        a = audit(net, dls.valid, n=args.n, budget=budget, undefended=pretrained(args.undefended), exported=files, parts=parts,
                  seed=args.seed, label=f'{name}: ')
    lines = [dict(number=l.number, name=l.name, verdict=l.sign.lower(), figure=l.figure, limit=l.limit) for l in a.lines]
    return plain(dict(network=name, counts=a.counts(), lines=lines, worst=a.worst().to_dict('records'), left_out=a.left_out(),
                      images=len(a.y), budget=asdict(budget), seconds=round(time.time() - start, 1)))

def main():
    p = argparse.ArgumentParser(description=__doc__.split('\n')[0])
    p.add_argument('--networks', nargs='+', default=[f'cifar10-resnet20-{k}' for k in ('triqdef', 'patch-at')])
    p.add_argument('--undefended', default='cifar10-resnet20-qat', help='on which line 11 tries the tools')
    p.add_argument('--n', type=int, default=200, help='test images')
    p.add_argument('--quick', action='store_true', help='the quick budget')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--out', required=True)
    args = p.parse_args()
    out, dls = Path(args.out), cifar_dls(bs=128, device='cpu')
    done = begun(out, 'triqdef-audit-results-1', 'networks', undefended=args.undefended, quick=args.quick, n=args.n, seed=args.seed)
    for name in args.networks:
        if any(r['network'] == name for r in done['networks']): continue
        done['networks'].append(measured(name, dls, args, out.with_suffix('.parts')/name))
        write_json(out, done)
        print(name, done['networks'][-1]['counts'], done['networks'][-1]['seconds'], 's', flush=True)


if __name__ == '__main__': main()
