"""The reference layer against the text of README: Numbers, written out with numpy.float16 scalars."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.ir import BinaryConv, ChipStage, FeatureMap
from hyperdrive_hdl.model.layers import conv_layer, run_stage, term_order
from tests.support.resnet import resnet

FP16 = format_by_name("fp16")
NAN = 0x7E00
SPECIALS = np.array([0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x7BFF, 0xFBFF, 0x7C00, 0xFC00, NAN], np.uint16)


def half(bits) -> np.float16:
    return np.array(bits, np.uint16).view(np.float16)[()]


def naive(conv, x, bypass, wbuf_depth):
    """One addition at a time, straight from the text."""
    channels_out, fan_in, kernel, _ = conv.weights.shape
    _, height, width = conv.output.shape
    per_group = channels_out // conv.groups
    block = wbuf_depth // kernel**2
    result = np.zeros(conv.output.shape, np.uint16)
    for o in range(channels_out):
        for y in range(height):
            for z in range(width):
                acc = np.float16(0)
                for first in range(0, fan_in, block):
                    for dy in range(kernel):
                        for dx in range(kernel):
                            for c in range(first, min(first + block, fan_in)):
                                row = y * conv.stride + dy - kernel // 2
                                col = z * conv.stride + dx - kernel // 2
                                inside = 0 <= row < x.shape[1] and 0 <= col < x.shape[2]
                                value = (
                                    half(x[o // per_group * fan_in + c, row, col])
                                    if inside
                                    else np.float16(0)
                                )
                                acc = acc + (value if conv.weights[o, c, dy, dx] > 0 else -value)
                if conv.scale is not None:
                    acc = acc * half(conv.scale[o])
                if conv.bias is not None:
                    acc = acc + half(conv.bias[o])
                if bypass is not None:
                    acc = acc + half(bypass[o, y, z])
                if conv.relu and not acc > 0 and not np.isnan(acc):
                    acc = np.float16(0)
                result[o, y, z] = NAN if np.isnan(acc) else acc.view(np.uint16)
    return result


def random_layer(rng, *, special: float = 0.0):
    """A small layer with its input and bypass; a part ``special`` of the words are drawn from SPECIALS."""
    kernel, stride = int(rng.choice([1, 3])), int(rng.choice([1, 2]))
    groups, fan_in, per_group = (int(v) for v in rng.integers(1, 4, 3))
    height, width = (int(v) for v in rng.integers(1, 6, 2))
    x = words(rng, (groups * fan_in, height, width), special)
    shape = (groups * per_group, -(-height // stride), -(-width // stride))
    conv = BinaryConv(
        name="layer",
        input=FeatureMap("x", *x.shape),
        output=FeatureMap("y", *shape),
        weights=rng.choice(np.array([-1, 1], np.int8), (shape[0], fan_in, kernel, kernel)),
        stride=stride,
        groups=groups,
        scale=words(rng, shape[0], special) if rng.random() < 0.5 else None,
        bias=words(rng, shape[0], special) if rng.random() < 0.5 else None,
        bypass=FeatureMap("b", *shape) if rng.random() < 0.5 else None,
        relu=bool(rng.random() < 0.5),
    )
    bypass = None if conv.bypass is None else words(rng, shape, special)
    return conv, x, bypass, kernel**2 * int(rng.integers(1, 4)) + int(rng.integers(kernel**2))


def words(rng, shape, special):
    normal = FP16.encode(rng.normal(scale=10.0 ** rng.integers(-6, 5), size=shape))
    return np.where(rng.random(shape) < special, rng.choice(SPECIALS, shape), normal)


@given(seed=st.integers(0, 2**32 - 1), special=st.sampled_from([0.0, 0.02, 0.3]))
@settings(max_examples=150, deadline=None)
def test_against_the_text(seed, special):
    conv, x, bypass, wbuf_depth = random_layer(np.random.default_rng(seed), special=special)
    with np.errstate(all="ignore"):
        expected = naive(conv, x, bypass, wbuf_depth)
    found = conv_layer(conv, x, bypass, wbuf_depth=wbuf_depth, format=FP16)
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, expected)


def layer(weights, shape, **options):
    """A layer over one input map, weights [C_out, C_in, k, k]."""
    weights = np.array(weights, np.int8)
    stride = options.get("stride", 1)
    out = (len(weights), -(-shape[1] // stride), -(-shape[2] // stride))
    options |= {"bypass": FeatureMap("b", *out)} if options.get("bypass") else {}
    return BinaryConv(
        name="layer", input=FeatureMap("x", *shape), output=FeatureMap("y", *out), weights=weights, **options
    )


def run(conv, x, bypass=None, wbuf_depth=576):
    return conv_layer(conv, np.array(x, np.uint16), bypass, wbuf_depth=wbuf_depth, format=FP16)


def test_sum_starts_at_plus_zero():
    """+0 + -0 is +0, whatever the sign of the only term."""
    assert run(layer([[[[-1]]]], (1, 1, 1)), [[[0x0000]]]) == 0x0000
    assert run(layer([[[[1]]]], (1, 1, 1)), [[[0x8000]]]) == 0x0000


def test_padding_is_added():
    """Infinity at a border pixel: padding adds zeros around it and must not make it NaN."""
    assert run(layer(np.full((1, 1, 3, 3), -1), (1, 1, 1)), [[[0x7C00]]]) == 0xFC00


def test_order_of_channels_and_taps():
    """2048 + 1 + 1 loses both ones, 1 + 1 + 2048 keeps them: the channel is innermost, within its block."""
    big, one = 0x6800, 0x3C00
    x = [[[big]], [[one]], [[one]]]
    assert run(layer(np.ones((1, 3, 1, 1)), (3, 1, 1)), x) == big
    assert run(layer(np.ones((1, 3, 1, 1)), (3, 1, 1)), x[::-1]) == 0x6801
    (order,) = term_order(layer(np.ones((1, 3, 3, 3)), (3, 1, 1)), 27)
    assert order[:4] == [(0, 0, 0), (1, 0, 0), (2, 0, 0), (0, 0, 1)]
    first, rest = term_order(layer(np.ones((1, 3, 3, 3)), (3, 1, 1)), 26)
    assert first[:3] == [(0, 0, 0), (1, 0, 0), (0, 0, 1)]
    assert rest == [(2, dy, dx) for dy in range(3) for dx in range(3)]


def test_blocks_change_the_order():
    rng = np.random.default_rng(3)
    conv = layer(rng.choice([-1, 1], (8, 16, 3, 3)), (16, 4, 4))
    x = FP16.encode(rng.normal(size=(16, 4, 4)))
    assert np.any(run(conv, x, wbuf_depth=9) != run(conv, x, wbuf_depth=144))
    np.testing.assert_array_equal(run(conv, x, wbuf_depth=144), run(conv, x, wbuf_depth=4608))


def test_scale_bias_bypass_relu_in_this_order():
    parameters = {"scale": np.array([0x4000], np.uint16), "bias": np.array([0x3C00], np.uint16)}
    conv = layer([[[[1]]]], (1, 1, 1), **parameters, bypass=True, relu=True)
    bypass = np.array([[[0xC900]]], np.uint16)  # -10
    assert half(run(conv, [[[0x4200]]], bypass)) == 0  # 3 * 2 + 1 - 10
    conv = layer([[[[1]]]], (1, 1, 1), **parameters, bypass=True)
    assert half(run(conv, [[[0x4200]]], bypass)) == -3


@pytest.mark.parametrize(("word", "expected"), [(0x8001, 0), (0xFC00, 0), (0x7C00, 0x7C00), (0xFE01, NAN)])
def test_relu_of_specials(word, expected):
    assert run(layer([[[[1]]]], (1, 1, 1), relu=True), [[[word]]]) == expected


def test_large_maps_are_gathered_in_parts(monkeypatch):
    rng = np.random.default_rng(4)
    conv = layer(rng.choice([-1, 1], (2, 3, 3, 3)), (3, 9, 7), stride=2)
    x = FP16.encode(rng.normal(size=(3, 9, 7)))
    whole = run(conv, x)
    monkeypatch.setattr("hyperdrive_hdl.model.layers._GATHERED_WORDS", 50)
    np.testing.assert_array_equal(run(conv, x), whole)


def test_misuse_is_refused():
    conv = layer(np.ones((1, 1, 3, 3)), (1, 2, 2), bypass=True)
    with pytest.raises(ValueError, match=r"input must be words of shape \(1, 2, 2\)"):
        run(conv, np.zeros((1, 2, 3)))
    with pytest.raises(ValueError, match="needs its bypass 'b'"):
        run(conv, np.zeros((1, 2, 2)))
    with pytest.raises(ValueError, match=r"bypass must be words of shape \(1, 2, 2\)"):
        run(conv, np.zeros((1, 2, 2)), np.zeros((1, 2, 1), np.uint16))
    with pytest.raises(ValueError, match="wbuf_depth must be at least 9"):
        run(conv, np.zeros((1, 2, 2)), np.zeros((1, 2, 2), np.uint16), wbuf_depth=8)


def test_stage_hands_maps_on():
    a, b, c = (FeatureMap(n, 1, 2, 2) for n in "abc")
    weights = np.ones((1, 1, 1, 1), np.int8)
    first = BinaryConv("one", a, b, weights)
    second = BinaryConv("two", b, c, -weights, bypass=a, relu=True)
    x = FP16.encode(np.array([[[1, 2], [-3, 4.0]]]))
    found = run_stage(ChipStage("chip", (a,), (first, second), (c,)), {"a": x}, wbuf_depth=9, format=FP16)
    assert list(found) == ["b", "c"]
    np.testing.assert_array_equal(found["b"], x)
    assert not found["c"].any()


@pytest.mark.slow
def test_resnet34_is_fast():
    """3.5 G additions; the limit leaves room for a slow, shared core."""
    stage = resnet(34)
    source = stage.inputs[0]
    x = FP16.encode(np.random.default_rng(0).normal(size=source.shape))
    begin = time.process_time()
    run_stage(stage, {source.name: x}, wbuf_depth=4608, format=FP16)
    assert time.process_time() - begin < 100
