"What a TriQDef step costs as work grows: active bit-widths, images, side of the patch, steps of the inner attack."
from argparse import Namespace

from measure import begin, finish, interleaved, parser, ratios, table
from step import Step

WAYS = {'active bit-widths': ('bits', [(32,), (32, 4), (32, 4, 2), (32, 8, 4, 2)], len),
        'images': ('batch', [16, 32, 64, 128], int), 'pixels of the patch': ('patch', [4, 8, 16], lambda p: p*p),
        'steps of the inner attack': ('attack_steps', [0, 1, 2, 4, 8], int)}


def line(points):
    "Intercept, slope and largest relative distance of the least-squares line through (work, ms)."
    n = len(points)
    mx, my = (sum(p[k] for p in points)/n for k in (0, 1))
    slope = sum((x - mx)*(y - my) for x, y in points)/sum((x - mx)**2 for x, _ in points)
    start = my - slope*mx
    return dict(ms_at_zero=start, ms_each=slope, off=max(abs(start + slope*x - y)/y for x, y in points))

def main():
    p = parser(__doc__, repeats=5)
    p.add_argument('--arch', default='resnet20', help='builder of the network')
    p.add_argument('--batch', type=int, default=32, help='images a step, where they are not what grows')
    p.set_defaults(warmup=1)
    args, results, limits = begin(p), {}, {}
    for way, (field, values, work) in WAYS.items():
        a = dict(vars(args), size=32, patch=8, bits=(32, 4), attack_steps=5, weight='lsq', act='lsq', bf16=False, contiguous=False)
        steps = {str(work(v)): Step(Namespace(**dict(a, **{field: v})), (1., .1, .1), field == 'attack_steps' and v > 0) for v in values}
        rows = ratios(interleaved(steps, args.repeats, args.warmup, args.device, clock=args.clock), str(work(values[0])))
        fit = line([(work(v), rows[str(work(v))]['ms']) for v in values])
        table(way, rows, ['ms', 'q1', 'q3', 'ratio'])
        print('the line through them: {ms_at_zero:.0f} + {ms_each:.2f} n ms, off by at most {off:.0%}'.format(**fit))
        results[way] = dict(rows=rows, line=fit)
        limits[f'{way}: distance from a line'] = (fit['off'], .15)
    finish(args, results, limits)


if __name__ == '__main__': main()
