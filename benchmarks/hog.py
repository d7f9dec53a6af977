"HOG, Edge IoU and Canny IoU of a batch of maps against a loop over scikit-image; the values must agree."
import numpy as np
import torch
from skimage.feature import canny, hog as skimage_hog
from skimage.filters import sobel

from measure import begin, finish, interleaved, parser, ratios, table
from triqdef.percept.edges import canny_iou, gaussian_smooth, minmax_scale, sobel_iou
from triqdef.percept.hog import cosine, hog


def scaled(m): return minmax_scale(m).cpu().numpy()[:, 0]

def loop_hog(m): return np.stack([skimage_hog(o, 9, (8, 8), (3, 3)) for o in m])

def loop_iou(a, b, edges):
    "Intersection over union of the edges of each pair, 1 where neither has one."
    out = []
    for p, q in zip(a, b):
        e1, e2 = edges(p), edges(q)
        union = (e1 | e2).sum()
        out.append((e1 & e2).sum()/union if union else 1.)
    return np.array(out)

def sobel_edges(m):
    s = sobel(m)
    return s > s.mean() + s.std()

def loop_both(a, b):
    u, v = loop_hog(a), loop_hog(b)
    return (u*v).sum(1)/np.linalg.norm(u, axis=1)/np.linalg.norm(v, axis=1), loop_iou(a, b, sobel_edges)

def our_both(a, b):
    a, b = minmax_scale(a), minmax_scale(b)
    return cosine(hog(a, 9, 8, 3), hog(b, 9, 8, 3)), sobel_iou(a, b)

def check(a, b, na, nb):
    "The largest differences from scikit-image; a single edge pixel on the threshold may fall on either side."
    def far(ours, theirs): return float(np.abs(ours.double().cpu().numpy() - theirs).max())
    found = dict(hog=far(hog(minmax_scale(a)), loop_hog(na)), hog_cosine=far(our_both(a, b)[0], loop_both(na, nb)[0]),
                 sobel_iou=far(sobel_iou(a, b), loop_iou(na, nb, sobel_edges)), canny_iou=far(canny_iou(a, b), loop_iou(na, nb, canny)))
    for name, limit in dict(hog=1e-5, hog_cosine=1e-5, sobel_iou=2e-3, canny_iou=1e-6).items():
        if not found[name] <= limit: raise SystemExit(f'{name} differs from scikit-image by {found[name]}')
    return found

def main():
    p = parser(__doc__, repeats=5)
    p.add_argument('--batch', type=int, default=64, help='pairs of maps')
    p.add_argument('--size', type=int, default=224, help='side of the maps in pixels')
    args = begin(p)
    a, b = (gaussian_smooth(torch.rand(args.batch, 1, args.size, args.size), 1.5).to(args.device) for _ in range(2))
    na, nb = scaled(a), scaled(b)
    differences = check(a, b, na, nb)
    print('same values; largest differences:', ', '.join(f'{k} {v:.1e}' for k, v in differences.items()))
    pairs = {'HOG cosine + Edge IoU': (lambda: our_both(a, b), lambda: loop_both(na, nb)),
             'HOG': (lambda: hog(a, 9, 8, 3), lambda: loop_hog(na)),
             'Edge IoU (Sobel)': (lambda: sobel_iou(a, b), lambda: loop_iou(na, nb, sobel_edges)),
             'Canny IoU (runs scikit-image itself)': (lambda: canny_iou(a, b), lambda: loop_iou(na, nb, canny))}
    results = {}
    for name, (ours, loop) in pairs.items():
        rows = ratios(interleaved({'triqdef': ours, 'scikit-image loop': loop}, args.repeats, min(args.warmup, 1), args.device), 'scikit-image loop')
        for r in rows.values(): r['times faster'] = 1/r['ratio']
        table(f'{name}, {args.batch} × {args.size}²', rows, ['ms', 'q1', 'q3', 'times faster'])
        results[name] = rows
    limit = 1/50 if torch.device(args.device).type == 'cuda' else 1.
    both = results['HOG cosine + Edge IoU']['triqdef']['ratio']
    finish(args, results, {'HOG + Edge IoU / scikit-image loop': (both, limit)}, differences=differences)


if __name__ == '__main__': main()
