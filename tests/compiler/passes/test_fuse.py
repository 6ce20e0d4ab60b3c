"""What is pulled into a binary convolution, what is not, and rounding of its parameters."""

import numpy as np
import pytest

from hyperdrive_hdl.arith.formats import format_by_name
from hyperdrive_hdl.compiler.graph import attribute
from hyperdrive_hdl.errors import ModelError


def ops(graph):
    return [node.op_type for node in graph.nodes]


def parameters(graph, index=0):
    """Scale and bias of a layer, None where it has none."""
    return [graph.constants.get(name) for name in graph.nodes[index].input[2:4]]


class TestAffine:
    def test_batch_norm_in_float64(self, build, upto):
        x = build.batch_norm(build.conv("image", 5, bias=True, name="layer"))
        graph = upto(x, "fuse_affine")
        assert ops(graph) == ["BinaryConv"]
        c = {k: v.astype(np.float64) for k, v in build.constants.items()}
        gain = c["bn_1_gamma"] / np.sqrt(c["bn_1_var"] + attribute(build.nodes[1], "epsilon"))
        scale, bias = parameters(graph)
        np.testing.assert_allclose(scale, np.abs(c["layer_w"][:, 0, 0, 0]) * gain, rtol=1e-14)
        np.testing.assert_allclose(bias, (c["layer_b"] - c["bn_1_mean"]) * gain + c["bn_1_beta"], rtol=1e-13)

    @pytest.mark.parametrize("shape", [(), (1,), (5, 1, 1), (1, 5, 1, 1), (1, 1, 1, 1)])
    def test_operators_with_constants(self, build, upto, shape):
        values = {name: build.rng.uniform(0.5, 2, shape).astype(np.float32) for name in "abcde"}
        for name, value in values.items():
            build.constant(name, value)
        x = build.conv("image", 5, style="unit")
        for op, inputs in (("Mul", "ax"), ("Add", "xb"), ("Div", "xc"), ("Sub", "dx"), ("Sub", "xe")):
            x = build.node(op, [x if i == "x" else i for i in inputs], shape=(5, 6, 6))
        graph = upto(x, "fuse_affine")
        assert ops(graph) == ["BinaryConv"]
        a, b, c, d, e = (np.broadcast_to(v.astype(np.float64).ravel(), 5) for v in values.values())
        scale, bias = parameters(graph)
        np.testing.assert_allclose(scale, -a / c, rtol=1e-14)
        np.testing.assert_allclose(bias, d - b / c - e, rtol=1e-13)

    @pytest.mark.parametrize("shape", [(6,), (1, 6), (5, 6, 6), (6, 6)])
    def test_constants_that_are_not_per_channel(self, build, upto, shape):
        x = build.node("Mul", [build.conv("image", 5), build.constant("c", np.ones(shape))])
        assert ops(upto(x, "fuse_affine")) == ["BinaryConv", "Mul"]

    def test_constant_that_widens_the_map(self, build, upto):
        x = build.conv(build.node("GlobalAveragePool", ["image"], shape=(4, 1, 1)), 5)
        x = build.node("Mul", [x, build.constant("c", np.ones(5))], shape=(5, 1, 5))
        assert ops(upto(x, "fuse_affine")) == ["GlobalAveragePool", "BinaryConv", "Mul"]

    def test_not_past_another_reader(self, build, upto):
        conv = build.conv("image", 4)
        x = build.add(build.batch_norm(conv), build.relu(conv))
        assert ops(upto(x, "fuse_affine")) == ["BinaryConv", "BatchNormalization", "Relu", "Add"]

    def test_constant_divided_by_the_map(self, build, upto):
        x = build.node("Div", [build.constant("c", 1.0), build.conv("image", 4)], shape=(4, 6, 6))
        assert ops(upto(x, "fuse_affine")) == ["BinaryConv", "Div"]

    def test_no_parameters_without_need(self, build, upto):
        assert parameters(upto(build.conv("image", 5), "fuse_affine"))[1] is None


class TestBypass:
    @pytest.mark.parametrize("swap", [False, True])
    def test_identity(self, build, upto, swap):
        x = build.relu("image")
        y = build.batch_norm(build.conv(x, 4))
        graph = upto(build.relu(build.add(*((x, y) if swap else (y, x)))), "fuse_relu")
        assert ops(graph) == ["Relu", "BinaryConv"]
        assert graph.nodes[1].input[4] == x
        assert attribute(graph.nodes[1], "relu") == 1

    def test_projection_takes_the_later_convolution(self, build, upto):
        early = build.conv("image", 4, kernel=1, name="early")
        late = build.conv(build.relu(build.conv("image", 4)), 4, name="late")
        for operands in ((early, late), (late, early)):
            graph = upto(build.add(*operands), "fuse_relu")
            assert [node.name for node in graph.nodes] == ["early", "conv_1", "late"]
            assert graph.nodes[2].input[4] == early

    def test_convolution_before_its_bypass_moves_behind_it(self, build, upto):
        conv = build.conv("image", 4, name="first")
        other = build.node("Sigmoid", [build.node("Sigmoid", ["image"])])
        graph = upto(build.add(conv, other), "fuse_bypass")
        assert ops(graph) == ["Sigmoid", "Sigmoid", "BinaryConv"]
        assert graph.nodes[2].input[4] == other

    def test_own_input(self, build, upto):
        graph = upto(build.add(build.conv("image", 4), "image"), "fuse_bypass")
        assert graph.nodes[0].input[4] == "image"

    def test_sum_of_two(self, build, upto):
        assert ops(upto(build.node("Sum", ["image", build.conv("image", 4)]), "fuse_bypass")) == [
            "BinaryConv"
        ]

    @pytest.mark.parametrize(
        "case", ["after relu", "twice", "other shape", "constant", "two readers", "itself"]
    )
    def test_not_a_bypass(self, build, upto, case):
        conv = build.conv("image", 4)
        match case:
            case "after relu":
                x, expected = build.add(build.relu(conv), "image"), ["BinaryConv", "Add"]
            case "twice":
                x, expected = build.add(build.add(conv, "image"), "image"), ["BinaryConv", "Add"]
            case "other shape":
                pooled = build.node("GlobalAveragePool", ["image"], shape=(4, 1, 1))
                x, expected = build.add(conv, pooled), ["BinaryConv", "GlobalAveragePool", "Add"]
            case "constant":
                x = build.add(conv, build.constant("c", np.ones((1, 4, 6, 6))))
                expected = ["BinaryConv", "Add"]
            case "two readers":
                x = build.add(build.add(conv, "image"), build.relu(conv))
                expected = ["BinaryConv", "Add", "Relu", "Add"]
            case _:
                x, expected = build.add(conv, conv), ["BinaryConv", "Add"]
        assert ops(upto(x, "fuse_relu")) == expected


class TestRelu:
    @pytest.mark.parametrize(
        ("bounds", "fused"),
        [
            ((0.0, None), True),
            ((0.0, np.inf), True),
            ((0.0, 6.0), False),
            ((-1.0, 1.0), False),
            ((None, 0.0), False),
        ],
    )
    def test_clip(self, build, upto, bounds, fused):
        names = [
            "" if b is None else build.constant(f"bound_{i}", np.float32(b)) for i, b in enumerate(bounds)
        ]
        x = build.node("Clip", [build.conv("image", 4), *names])
        assert ops(upto(x, "fuse_relu")) == (["BinaryConv"] if fused else ["BinaryConv", "Clip"])

    def test_clip_of_old_opsets(self, build, upto):
        build.opset = 10
        assert ops(upto(build.node("Clip", [build.conv("image", 4)], min=0.0), "fuse_relu")) == ["BinaryConv"]

    def test_not_past_another_reader(self, build, upto):
        conv = build.conv("image", 4, name="layer")
        x = build.node("Mul", [build.relu(conv), conv])
        graph = upto(x, "fuse_relu")
        assert ops(graph) == ["BinaryConv", "Relu", "Mul"]
        assert attribute(graph.nodes[0], "relu") == 0

    def test_output_in_between_is_kept(self, build, upto):
        conv = build.conv("image", 4)
        build.relu(conv)
        assert ops(upto(conv, "fuse_relu")) == ["BinaryConv"]

    def test_only_once(self, build, upto):
        x = build.relu(build.relu(build.conv("image", 4)))
        assert ops(upto(x, "fuse_relu")) == ["BinaryConv", "Relu"]


class TestRound:
    def test_bits(self, build, upto):
        fp16 = format_by_name("fp16")
        x = build.batch_norm(build.conv("image", 5))
        exact = parameters(upto(x, "fuse_relu"))
        rounded = parameters(upto(x, "round_parameters"))
        for before, after in zip(exact, rounded, strict=True):
            assert after.dtype == np.uint16
            np.testing.assert_array_equal(fp16.decode(after), before.astype(np.float16).astype(np.float32))

    def test_rounded_once(self, build, upto):
        """A value that rounding to float32 first would move to a tie."""
        x = build.conv("image", 1, style="unit")
        for name, part in (("a", 1 + 2.0**-11), ("b", 2.0**-40)):
            x = build.node("Add", [x, build.constant(name, part)])
        assert parameters(upto(x, "fuse_relu"))[1] == 1 + 2.0**-11 + 2.0**-40
        assert parameters(upto(x, "round_parameters"))[1] == 0x3C01

    @pytest.mark.parametrize("style", ["unit", "straight_through"])
    def test_scale_of_one_is_left_out(self, build, upto, style):
        x = build.conv("image", 5, style="unit")
        if style == "straight_through":
            build.constants["conv_0_w"] *= np.float32(1 + 1e-6)
        assert parameters(upto(x, "round_parameters")) == [None, None]

    def test_scale_of_one_in_some_channels_stays(self, build, upto):
        x = build.node("Mul", [build.conv("image", 2, style="unit"), build.constant("g", [[[1.0]], [[2.0]]])])
        scale, bias = parameters(upto(x, "round_parameters"))
        assert scale.tolist() == [0x3C00, 0x4000]
        assert bias is None

    def test_bias_of_zero_stays(self, build, upto):
        x = build.node(
            "Add", [build.conv("image", 2, style="unit"), build.constant("zero", 0.0)], shape=(2, 6, 6)
        )
        assert parameters(upto(x, "round_parameters"))[1].tolist() == [0, 0]

    @pytest.mark.parametrize(("op", "what"), [("Mul", "scale"), ("Add", "bias")])
    @pytest.mark.parametrize("value", [65520.0, -1e6])
    def test_overflow(self, build, upto, op, what, value):
        constant = build.constant("big", np.array([1, 1, value, 1]).reshape(4, 1, 1))
        x = build.node(op, [build.conv("image", 4, style="unit", name="layer"), constant])
        with pytest.raises(ModelError) as caught:
            upto(x, "round_parameters")
        assert "node 'layer' (hyperdrive::BinaryConv)" in str(caught.value)
        assert f"{what} of output channel 2 is {value:.6g}, beyond" in str(caught.value)
        assert "65504 (1 of 4 channels)" in str(caught.value)

    def test_largest_number_is_kept(self, build, upto):
        x = build.node("Mul", [build.conv("image", 4, style="unit"), build.constant("c", 65519.0)])
        assert parameters(upto(x, "round_parameters"))[0].tolist() == [0x7BFF] * 4

    @pytest.mark.parametrize(
        ("format", "op", "value", "limit"),
        [
            ("bf16", "Mul", 3.4e38, "bf16, 3.3895314e+38 "),
            ("fp8_e4m3", "Mul", 65520.0, "fp16 (the format of fp8_e4m3's scale), 65504 "),
            ("q2.9", "Mul", 7.9999, "q3.12 (the format of q2.9's scale), 7.9997559 "),
            ("q2.9", "Add", -256.002, "q8.9 (the format of q2.9's bias), 255.99805 "),
            ("q0.3", "Add", 63.94, "q6.3 (the format of q0.3's bias), 63.875 "),
        ],
    )
    def test_overflow_of_other_formats(self, build, upto, format, op, value, limit):
        constant = build.constant("big", np.array([1, value]).reshape(2, 1, 1))
        x = build.node(op, [build.conv("image", 2, style="unit", name="layer"), constant])
        with pytest.raises(ModelError) as caught:
            upto(x, "round_parameters", format)
        message = str(caught.value)
        assert (
            f"of output channel 1 is {np.float32(value):.6g}, beyond the largest number of {limit}" in message
        )
        assert "(1 of 2 channels)" in message
        assert "or take a format with more range" in message

    @pytest.mark.parametrize(
        ("format", "scale", "bias"),
        [
            ("fp16", [0x3800, 0x4500], [0xC100, 0x5640]),
            ("bf16", [0x3F00, 0x40A0], [0xC020, 0x42C8]),
            ("fp8_e5m2", [0x3800, 0x4500], [0xC100, 0x5640]),
            ("q2.9", [0x0800, 0x5000], [0x3FB00, 0xC800]),
            ("q1.2", [0x0800, 0x5000], [0x3F6, 0x190]),
        ],
    )
    def test_words_of_every_format(self, build, upto, format, scale, bias):
        x = build.conv("image", 2, style="unit")
        for name, op, values in (("g", "Mul", [0.5, 5]), ("b", "Add", [-2.5, 100])):
            x = build.node(op, [x, build.constant(name, np.array(values).reshape(2, 1, 1))])
        found = parameters(upto(x, "round_parameters", format))
        assert [words.tolist() for words in found] == [scale, bias]
        number_format = format_by_name(format)
        assert [words.dtype for words in found] == [number_format.scales.dtype, number_format.sums.dtype]

    @pytest.mark.parametrize(("format", "small"), [("q2.9", 1.2e-4), ("fp16", 2e-8), ("fp16_ftz", 6e-5)])
    def test_scales_too_small(self, build, upto, format, small):
        """One channel that is lost is noted; a whole layer is refused. Zero itself is no loss."""
        constant = build.constant("c", np.array([0, small, 0.5]).reshape(3, 1, 1))
        x = build.node("Mul", [build.conv("image", 3, style="unit", name="layer"), constant])
        graph = upto(x, "round_parameters", format)
        assert parameters(graph)[0][:2].tolist() == [0, 0]
        (note,) = graph.notes
        assert "node 'layer' (hyperdrive::BinaryConv): scale of output channel 1 is" in note
        assert "becomes 0 (1 of 3 channels)" in note
        build.constants["c"][2] = small
        with pytest.raises(ModelError, match=r"\(2 of 3 channels\), so that nothing is left of the layer"):
            upto(x, "round_parameters", format)
        build.constants["c"][:] = 0
        assert upto(x, "round_parameters", format).notes == ()

    def test_negative_variance(self, build, upto):
        x = build.batch_norm(build.conv("image", 4, name="layer"))
        build.constants["bn_1_var"][1] = -1
        with pytest.raises(ModelError, match=r"'layer'.*output channel 1 is nan"):
            upto(x, "round_parameters")
