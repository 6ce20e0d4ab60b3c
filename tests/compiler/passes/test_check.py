"""Networks that can run nowhere, or not on the chip: one message each."""

import re

import numpy as np
import pytest

from hyperdrive_hdl.errors import ModelError
from tests.support.models import QONNX


def refuse(upto, result, *parts):
    with pytest.raises(ModelError) as caught:
        upto(result, "check_network")
    for part in parts:
        assert part in str(caught.value), str(caught.value)


class TestOperators:
    def test_all_unknown_at_once_with_the_split(self, build, upto):
        x = build.node("Prepare", ["image"], domain="com.example", name="before")
        x = build.relu(build.conv(x, 4, name="first"))
        x = build.node("NoSuchOperator", [x], name="between")
        x = build.conv(x, 4, name="second")
        x = build.node("Quant", [x], domain=QONNX, name="after")
        refuse(
            upto,
            x,
            "3 operators are known neither to the chip nor to the host: 'before' (com.example::Prepare), "
            "'between' (NoSuchOperator), 'after' (qonnx.custom_op.general::Quant).",
            "The chip runs 2 binary convolutions, 'first' to 'second'",
            "before them 1 host operators ('before' to 'before')",
            "between them 2 host operators ('relu_2' to 'between')",
            "after them 1 host operators ('after' to 'after')",
        )

    def test_unknown_weight_quantiser(self, build, upto):
        build.constant("w", np.ones((4, 4, 3, 3)))
        w = build.node("Quant", ["w"], domain=QONNX, name="quantise")
        refuse(
            upto,
            build.node("Conv", ["image", w], pads=[1] * 4, name="layer"),
            "1 operator is known neither",
            "'quantise' (qonnx.custom_op.general::Quant)",
            "No binary convolution was recognised",
        )

    def test_training_mode(self, build, upto):
        x = build.batch_norm(build.conv("image", 4))
        build.nodes[-1].attribute.add(name="training_mode", type=2, i=1)
        build.nodes[-1].output.extend(["mean", "var"])
        refuse(upto, x, "'bn_1' (BatchNormalization)", "training mode", "model.eval()")


class TestNetwork:
    def test_no_binary_convolution(self, build, upto):
        x = build.conv(build.conv("image", 4, style="float", name="one"), 4, style="float")
        refuse(
            upto, x, "no binary convolution", "none of its 2 convolutions", "'one' (Conv) has float weights"
        )

    def test_no_convolution(self, build, upto):
        refuse(upto, build.relu("image"), "no binary convolution", "none of its 0 convolutions")

    def test_float_convolution_between(self, build, upto):
        x = build.relu(build.conv("image", 4))
        x = build.relu(build.conv(x, 4, style="float", name="odd"))
        low, high = build.constants["odd_w"].min(), build.constants["odd_w"].max()
        refuse(
            upto,
            build.conv(x, 4),
            "node 'odd' (Conv) lies between binary convolutions",
            f"float weights, from {low:.6g} to {high:.6g}",
            "train it with binary weights",
        )

    def test_computed_weights_between(self, build, upto):
        x = build.conv("image", 4)
        w = build.node("Reshape", [x, build.constant("s", np.array([4, 4, 3, 3]))], shape=())
        x = build.node("Conv", [x, w], pads=[1] * 4, name="odd")
        refuse(upto, build.conv(x, 4), "'odd' (Conv)", f"takes its weights {w!r} from other operators")

    def test_float_stem_and_tail_and_side_branch(self, build, upto):
        x = build.conv("image", 4, style="float")
        x = build.conv(x, 4)
        x = build.add(build.relu(x), build.conv("image", 4, style="float"))
        x = build.conv(x, 4, style="float")
        assert [n.op_type for n in upto(x, "check_network").nodes].count("Conv") == 3


def test_ternary_anywhere(build, upto):
    x = build.conv(build.conv("image", 4), 4, name="last")
    build.constants["last_w"][0, 0, 0, 0] = 0
    with pytest.raises(ModelError, match=re.escape("node 'last' (Conv): ternary weights, 1 of 144 are zero")):
        upto(x, "check_network")
