"""From a .onnx file to a ``Graph`` of one image, or to one message that says what is wrong with the file."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnx.shape_inference
from google.protobuf.message import DecodeError
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from ..errors import ModelError
from .graph import (
    IR_VERSION,
    UNKNOWN_DOMAIN,
    Graph,
    attribute,
    is_binary_conv,
    node_inputs,
    subgraphs,
    with_io,
)
from .operators import is_bipolar_quant

OLDEST_OPSET = 7  # broadcasting and inference-only BatchNormalization as today
NEWEST_OPSET = onnx.defs.onnx_opset_version()
_SMALL = 4096  # elements; larger constants are never shapes, and shape inference need not see their values


def read_graph(path: str | Path) -> Graph:
    """Read a network: one input (N, C, H, W) of float32, one output.

    Raises
    ------
    ModelError : the file is missing, damaged, of another opset, or not a network of that kind
    """
    path = Path(path)
    model = _parse(path)
    _check_versions(path, model)
    _load_external_data(path, model)
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    _settle_domains(model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        raise ModelError(f"{path}: not a valid ONNX model: {_one_line(error)}") from None
    return _to_graph(path, model)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


def _parse(path: Path) -> onnx.ModelProto:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise ModelError(f"{path}: no such file") from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read: {error.strerror}") from None
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one ({_one_line(error)})") from None
    if not model.graph.node or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX file, or a damaged one (no graph in {len(data)} bytes)")
    return model


def _check_versions(path: Path, model: onnx.ModelProto) -> None:
    opset = next((item.version for item in model.opset_import if item.domain in ("", "ai.onnx")), None)
    if opset is None:
        raise ModelError(f"{path}: imports no version of the ONNX operators; export it with opset_version=17")
    if not OLDEST_OPSET <= opset <= NEWEST_OPSET:
        raise ModelError(
            f"{path}: ONNX opset {opset}; this installation reads {OLDEST_OPSET} to {NEWEST_OPSET} "
            f"(onnx {onnx.__version__}); export the network with opset_version=17"
        )
    if model.ir_version > onnx.IR_VERSION:
        raise ModelError(
            f"{path}: ONNX IR version {model.ir_version}; this installation reads up to {onnx.IR_VERSION} "
            f"(onnx {onnx.__version__}); export it with an older ir_version, for example 10, or update onnx"
        )


def _settle_domains(model: onnx.ModelProto) -> None:
    """Make the checker pass over operators that it does not know: they are reported later, all at once."""
    imported = {"" if item.domain == "ai.onnx" else item.domain: item.version for item in model.opset_import}
    used = set()
    for node in _all_nodes(model.graph):
        if node.domain in ("", "ai.onnx"):
            known = onnx.defs.has(node.op_type, max_inclusive_version=imported[""], domain="")
            node.domain = "" if known else UNKNOWN_DOMAIN
        used.add(node.domain)
    for domain in sorted(used - set(imported)):  # exporters forget to import theirs
        model.opset_import.append(helper.make_opsetid(domain, 1))


def _all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for body in subgraphs(node):
            yield from _all_nodes(body)


def _load_external_data(path: Path, model: onnx.ModelProto) -> None:
    tensors = [t for t in model.graph.initializer if external_data_helper.uses_external_data(t)]
    tensors += [
        item.t
        for node in model.graph.node
        for item in node.attribute
        if item.HasField("t") and external_data_helper.uses_external_data(item.t)
    ]
    for tensor in tensors:
        location = next((e.value for e in tensor.external_data if e.key == "location"), "")
        if not (path.parent / location).is_file():
            raise ModelError(
                f"{path}: weights {tensor.name!r} are in the file {location!r}, which is missing; "
                f"put it beside the model"
            )
        try:
            external_data_helper.load_external_data_for_tensor(tensor, str(path.parent))
            tensor.data_location = TensorProto.DEFAULT
            del tensor.external_data[:]
            numpy_helper.to_array(tensor)  # a file cut short shows here
        except (OSError, ValueError, onnx.checker.ValidationError) as error:
            raise ModelError(
                f"{path}: weights {tensor.name!r} cannot be read from the file {location!r}: "
                f"{_one_line(error)}"
            ) from None


def _to_graph(path: Path, model: onnx.ModelProto) -> Graph:
    source = model.graph
    if source.sparse_initializer:
        name = source.sparse_initializer[0].values.name
        raise ModelError(f"{path}: sparse constant {name!r} is not supported; export dense constants")
    try:
        constants = {t.name: numpy_helper.to_array(t) for t in source.initializer}
    except (ValueError, TypeError) as error:
        raise ModelError(f"{path}: a constant cannot be read: {_one_line(error)}") from None
    inputs = [value for value in source.input if value.name not in constants]
    for kind, values in (("input", inputs), ("output", source.output)):
        if len(values) != 1:
            listed = ", ".join(repr(v.name) for v in values) or "none"
            raise ModelError(
                f"{path}: the network has {len(values)} {kind}s ({listed}); exactly one is supported: "
                f"export the part from one image to one result"
            )
    batch, shape = _input_shape(path, inputs[0])
    graph = Graph(
        name=source.name or path.stem,
        nodes=_named(source.node),
        constants=constants,
        input=inputs[0].name,
        output=source.output[0].name,
        shapes={inputs[0].name: shape},
        types={inputs[0].name: TensorProto.FLOAT},
        opsets={"" if o.domain == "ai.onnx" else o.domain: o.version for o in model.opset_import},
        ir_version=max(IR_VERSION, model.ir_version),
    )
    return infer_shapes(_one_image(graph, batch) if batch > 1 else graph)


def _input_shape(path: Path, value: onnx.ValueInfoProto) -> tuple[int, tuple[int, ...]]:
    """Static batch size, or 1, and the input's shape for one image."""
    kind = value.type.tensor_type
    if kind.elem_type != TensorProto.FLOAT:
        found = TensorProto.DataType.Name(kind.elem_type)
        raise ModelError(
            f"{path}: input {value.name!r} is of type {found}; only float32 (FLOAT) is supported: "
            f"export the network in float32"
        )
    dims: list = [d.dim_value if d.HasField("dim_value") else (d.dim_param or "?") for d in kind.shape.dim]
    if len(dims) != 4:
        raise ModelError(
            f"{path}: input {value.name!r} has shape {_dims(dims)}; the chip works on 4-D maps "
            f"(batch, channels, height, width)"
        )
    if not all(isinstance(d, int) and d > 0 for d in dims[1:]):
        raise ModelError(
            f"{path}: input {value.name!r} has shape {_dims(dims)}; only the batch axis may be dynamic: "
            f"export with fixed channels, height and width"
        )
    batch = dims[0] if isinstance(dims[0], int) and dims[0] > 0 else 1
    return batch, (1, *dims[1:])


def _dims(dims: list) -> str:
    return "(" + ", ".join(map(str, dims)) + ")"


def _named(nodes) -> tuple[onnx.NodeProto, ...]:
    """Nodes with names that are present and unique, since messages and reports go by them."""
    taken: set[str] = set()
    named = []
    for index, node in enumerate(nodes):
        name = node.name or f"{node.op_type}_{index}"
        while name in taken:
            name = f"{name}_{index}"
        taken.add(name)
        copy = with_io(node)
        copy.name = name
        named.append(copy)
    return tuple(named)


def _one_image(graph: Graph, batch: int) -> Graph:
    """Turn a batch size that an exporter has written into target shapes of Reshape into 1."""
    constants = dict(graph.constants)
    nodes = []
    data = {graph.input}  # tensors that depend on the input
    values = {n.output[0]: attribute(n, "value") for n in graph.nodes if n.op_type == "Constant"}
    for node in graph.nodes:
        if data.intersection(node_inputs(node)):
            data.update(node.output)
            if node.op_type == "Reshape" and node.input[0] in data:
                name = node.input[1]
                shape = constants.get(name)
                if shape is None and values.get(name) is not None:
                    shape = numpy_helper.to_array(values[name])
                if shape is not None and shape.size and shape.flat[0] == batch:
                    target = f"{node.name}::shape"
                    constants[target] = np.concatenate(([1], shape.ravel()[1:])).astype(shape.dtype)
                    node = with_io(node, [node.input[0], target])
        nodes.append(node)
    return graph.replace(nodes=tuple(nodes), constants=constants)


def infer_shapes(graph: Graph, *, strict: bool = False) -> Graph:
    """Fill in ``shapes`` and ``types`` as far as ONNX's shape inference gets, from those of the input.

    Raises
    ------
    ModelError : ``strict``, and the operators' shapes contradict each other
    """
    large = [name for name, value in graph.constants.items() if value.size > _SMALL]
    kinds = {name: helper.np_dtype_to_tensor_dtype(v.dtype) for name, v in graph.constants.items()}
    known = graph.replace(
        shapes={graph.input: graph.shapes[graph.input]} | {n: graph.constants[n].shape for n in large},
        types={graph.input: graph.types[graph.input]} | {n: kinds[n] for n in large},
        constants={n: v for n, v in graph.constants.items() if v.size <= _SMALL},
        nodes=tuple(_shape_alike(node) for node in graph.nodes),
    )
    model = known.to_model(inputs=[graph.input, *large])
    model.graph.output[0].CopyFrom(helper.make_empty_tensor_value_info(graph.output))
    try:
        model = onnx.shape_inference.infer_shapes(model, strict_mode=strict, data_prop=True)
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:
        raise ModelError(f"network {graph.name!r}: shapes do not fit together: {_one_line(error)}") from None
    shapes = {name: tuple(v.shape) for name, v in graph.constants.items()}
    types = dict(kinds)
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        if not value.type.HasField("tensor_type") or not value.type.tensor_type.elem_type:
            continue
        kind = value.type.tensor_type
        types[value.name] = kind.elem_type
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    return graph.replace(shapes=shapes, types=types)


def _shape_alike(node: onnx.NodeProto) -> onnx.NodeProto:
    """A standard operator with the same output shape, in place of one that shape inference does not know."""
    if is_bipolar_quant(node):
        return helper.make_node("Identity", [node.input[0]], list(node.output))
    if is_binary_conv(node):
        raise ValueError("shapes are inferred before binary convolutions are recognised")
    return node
