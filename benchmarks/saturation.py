"Integer operators of ONNX Runtime with weights and activations at the ends of their ranges, against int64 arithmetic of numpy."
import argparse, itertools, json
import numpy as np, onnxruntime as ort
from onnx import TensorProto as T, helper as h, numpy_helper as nh

KIND = {'u8': np.uint8, 's8': np.int8}

def acc_conv(x, w):                     # (n,c,h,w) with (o,c,k,k), no padding; int64
    k = w.shape[2]; H, W = x.shape[2]-k+1, x.shape[3]-k+1
    cols = np.stack([x[:, :, i:i+H, j:j+W] for i in range(k) for j in range(k)], 2)      # n,c,kk,H,W
    return np.einsum('nckhw,ock->nohw', cols.astype(np.int64), w.reshape(*w.shape[:2], -1).astype(np.int64))

def run(nodes, inits, x, out_type, precise):
    g = h.make_graph(nodes, 'g', [h.make_tensor_value_info('x', h.np_dtype_to_tensor_dtype(x.dtype), None)],
                     [h.make_tensor_value_info('y', out_type, None)], [nh.from_array(np.asarray(v), k) for k, v in inits.items()])
    m = h.make_model(g, opset_imports=[h.make_opsetid('', 21)], ir_version=10)
    so = ort.SessionOptions(); so.intra_op_num_threads = 1; so.log_severity_level = 3
    if precise: so.add_session_config_entry('session.x64quantprecision', '1')
    return ort.InferenceSession(m.SerializeToString(), so, providers=['CPUExecutionProvider']).run(None, {'x': x})[0]

def case(op, xk, wk, xb, wb, shape, data, precise, rng):
    conv = 'Conv' in op
    if conv: n, c, o, k, s = shape; xs, ws = (n, c, s, s), (o, c, k, k)
    else: m, kk, n = shape; xs, ws = (m, kk), (kk, n)
    def side(kind, bits, sym, shp):
        lo, hi = (-2**(bits-1), 2**(bits-1)-1) if sym else (0, 2**bits-1)
        one_a_row = rng.choice([lo, hi], size=(shp[0],) + (1,)*(len(shp)-1)) if sym else hi
        v = one_a_row + np.zeros(shp, int) if data == 'ends' else rng.integers(lo, hi + 1, shp)
        # where `export_onnx` puts zero: weights in u8 at 2^(b-1), in s8 at 0; activations in u8 at 0, in s8 at 0 if they fit, else -128
        zero = (2**(bits-1) if kind == 'u8' else 0) if sym else (0 if kind == 'u8' or hi < 128 else -128)
        return (v + zero).astype(KIND[kind]), zero, v
    x, xz, xi = side(xk, xb, False, xs)
    w, wz, wi = side(wk, wb, True, ws)
    if not conv and data == 'ends':      # one sign a column
        wi = np.where(np.arange(ws[1]) % 2, 2**(wb-1)-1, -2**(wb-1))[None] + np.zeros(ws, int)
        w = (wi + wz).astype(KIND[wk])
    acc = acc_conv(xi, wi) if conv else xi.astype(np.int64) @ wi.astype(np.int64)
    X, W = KIND[xk](xz), KIND[wk](wz)
    if op in ('ConvInteger', 'MatMulInteger'):
        y = run([h.make_node(op, ['x', 'w', 'xz', 'wz'], ['y'])], dict(w=w, xz=X, wz=W), x, T.INT32, precise)
        return int(np.abs(y - acc).max()), float((y != acc).mean())
    # quantized output: uint8 with zero 128 and a scale that covers the accumulators
    top = max(np.abs(acc).max(), 1); scale = np.float32(top/127)
    f = dict(w=w, xz=X, wz=W, xs=np.float32(1), ws=np.float32(1), ys=scale, yz=KIND[xk](128 if xk == 'u8' else 0))
    yz = int(f['yz'])
    if op in ('QLinearConv', 'QLinearMatMul'):
        nodes = [h.make_node(op, ['x', 'xs', 'xz', 'w', 'ws', 'wz', 'ys', 'yz'], ['y'])]
    elif op == 'QDQ Conv':
        nodes = [h.make_node('DequantizeLinear', ['x', 'xs', 'xz'], ['a']), h.make_node('DequantizeLinear', ['w', 'ws', 'wz'], ['b']),
                 h.make_node('Conv', ['a', 'b'], ['c']), h.make_node('QuantizeLinear', ['c', 'ys', 'yz'], ['y'])]
    y = run(nodes, f, x, h.np_dtype_to_tensor_dtype(np.dtype(KIND[xk])), precise).astype(int) - yz
    ideal = acc/np.float64(scale)
    ends = np.iinfo(KIND[xk])
    d = np.abs(y - np.clip(ideal, ends.min - yz, ends.max - yz))
    return float(max(d.max() - .5, 0)), float((d > .501).mean())

def main():
    p = argparse.ArgumentParser(); p.add_argument('--out'); p.add_argument('--label', default='this CPU')
    a = p.parse_args()
    convs = [(1, 16, 16, 3, 10), (2, 64, 24, 1, 6), (1, 3, 8, 7, 20), (1, 33, 17, 3, 8)]
    mats = [(1, 64, 10), (4, 64, 10), (16, 512, 100), (3, 33, 17)]
    rows = []
    for op, pairs in {'ConvInteger': ['s8u8', 'u8s8', 'u8u8', 's8s8'], 'MatMulInteger': ['u8s8', 's8s8', 'u8u8', 's8u8'],
                      'QLinearConv': ['u8s8', 'u8u8', 's8s8'], 'QLinearMatMul': ['u8s8', 'u8u8', 's8s8'], 'QDQ Conv': ['u8s8', 's8s8']}.items():
        for pair, (xb, wb), data, precise in itertools.product(pairs, [(8, 8), (8, 7), (7, 8), (6, 8), (7, 7), (6, 6), (5, 5), (4, 4)], ['ends', 'random'], [0, 1]):
            worst, share, fail = 0, 0, None
            for i, shape in enumerate(convs if 'Conv' in op else mats):
                try: d, s = case(op, pair[:2], pair[2:], xb, wb, shape, data, precise, np.random.default_rng(i))
                except Exception as e: fail = str(e).splitlines()[0][:120]; break
                worst, share = max(worst, d), max(share, s)
            rows.append(dict(op=op, x=pair[:2], w=pair[2:], x_bits=xb, w_bits=wb, data=data, precise=precise, worst=worst, share=share, fail=fail))
    bad = [r for r in rows if r['fail'] or r['share']]
    print(f"{a.label}: {len(rows)} cases, {sum(r['share'] > 0 for r in rows)} inexact, {sum(bool(r['fail']) for r in rows)} not runnable")
    for r in bad:
        print(f"{r['op']:14} x {r['x']} w {r['w']}  x{r['x_bits']} w{r['w_bits']} bits {r['data']:6} precise={r['precise']}  " +
              (r['fail'] or f"worst {r['worst']:.6g}, {100*r['share']:.1f} % of outputs"))
    if a.out: json.dump(rows, open(a.out, 'w'))
if __name__ == '__main__': main()
