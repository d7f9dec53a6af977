"""Calibration of networks whose sums have levels: what outputs do not fit is fitted too, and anew at each call."""
import pytest, torch

from triqdef.quant.calibrate import calibrate
from triqdef.quant.convert import to_multibit
from triqdef.quant.switch import at_bits
from triqdef.toys import toy_images, toy_net

x = toy_images(32, seed=3)[0]

def made(*batches):
    "A network calibrated on one batch after the other."
    torch.manual_seed(0)
    net = to_multibit(toy_net(), (32, 8, 4), sums='quantized').eval()
    for b in batches: calibrate(net, [b])
    return net

@pytest.mark.parametrize('bits', [8, 4])
def test_steps_are_those_of_the_last_calibration(bits):
    "Steps of a call before it leave no trace, not even of larger images."
    once, twice = made(.2*x), made(x, .2*x)
    steps = {k: v for k, v in once.state_dict().items() if f'log_steps.{bits}' in k}
    assert steps
    for k, v in steps.items(): torch.testing.assert_close(v, twice.state_dict()[k], msg=k, atol=1e-5, rtol=1e-5)
