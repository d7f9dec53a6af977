"A training step under bfloat16 autocast against the same step in float32: time, on a CPU or GPU that has such instructions."
import argparse

from measure import begin, finish, interleaved, parser, ratios, table
from step import BASE, Step, VARIANTS, with_options

NAMES = {'λ = 0': BASE, 'TriQDef': 'TriQDef'}


def main():
    args = begin(with_options(parser(__doc__, repeats=9))); args.bits = tuple(args.bits)
    kinds = {k: argparse.Namespace(**vars(args), bf16=k == 'bfloat16') for k in ('float32', 'bfloat16')}
    results = {}
    for attack in (False, True):
        title = f'with a {args.attack_steps}-step inner attack' if attack else 'without the inner attack'
        for name, variant in NAMES.items():
            steps = {k: Step(a, VARIANTS[variant], attack) for k, a in kinds.items()}
            rows = ratios(interleaved(steps, args.repeats, args.warmup, args.device, clock=args.clock), 'float32')
            results[f'{name}, {title}'] = rows
            table(f'{name}, {title}', rows, ['ms', 'q1', 'q3', 'ratio'])
    finish(args, results)


if __name__ == '__main__': main()
