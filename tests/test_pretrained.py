"""Loads files of small PyTorch networks named like InsightFace's, and compares embeddings."""

import pickle
import sys
import warnings

import keras
import numpy as np
import pytest

from keras_arcface.pretrained import load_insightface
from keras_arcface.pretrained.onnx_networks import read_onnx
from keras_arcface.pretrained.state_dicts import read_safetensors
from keras_arcface.pretrained.state_dicts import read_torch

torch = pytest.importorskip("torch", reason="the reference networks need PyTorch")
networks = pytest.importorskip("insightface_networks")
torch_sface = pytest.importorskip("torch_sface")
torch_vit = pytest.importorskip("torch_vit")
torch_edgeface = pytest.importorskip("torch_edgeface")

PRESERVE = torch.onnx.TrainingMode.PRESERVE  # keeps BatchNorm, which is otherwise folded into convolutions
IMAGES = np.random.default_rng(0).integers(0, 256, (16, 32, 32, 3), dtype=np.uint8)


def random_network(network=None, seed=0):
    torch.manual_seed(seed)
    return networks.randomize(networks.TorchIResNet() if network is None else network, IMAGES, seed)


def export(network, path, images=IMAGES, **kwargs):
    pytest.importorskip("onnx", reason="needs onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated; the other needs onnxscript
        torch.onnx.export(network, networks.pixels(images[:1]), path, input_names=["data"], dynamo=False, **kwargs)
    return path


def run_onnxruntime(path, images):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {session.get_inputs()[0].name: image[None]})[0] for image in images])


def edit(source, change, path):
    """Writes an ONNX file with changes."""
    import onnx

    model = onnx.load(source)
    change(model.graph, onnx.helper)
    onnx.save(model, path)
    return path


def assert_same(embedder, expected, images=IMAGES):
    """Compares embeddings, in units of the distance between the expected ones and their mean."""
    distances = np.linalg.norm(np.asarray(embedder(images)) - expected, axis=1)
    assert (distances / np.linalg.norm(expected - expected.mean(axis=0), axis=1)).max() < 2e-5


@pytest.fixture(scope="module")
def network():
    return random_network()


@pytest.fixture(scope="module")
def state(network):
    return network.state_dict()


@pytest.fixture(scope="module")
def expected(network):
    return networks.embed(network, IMAGES)


@pytest.fixture(scope="module")
def exported(network, tmp_path_factory):
    return export(network, tmp_path_factory.mktemp("exported") / "model.onnx", training=PRESERVE)


def assert_same_weights(received, state):
    expected = {name: tensor.float().numpy() for name, tensor in state.items() if "num_batches_tracked" not in name}
    assert set(received) == set(expected)
    for name, array in expected.items():
        taken = received.pop(name, array.shape)
        assert taken.dtype == np.float32
        np.testing.assert_array_equal(taken, array)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{name}": tensor for name, tensor in state.items()},
        lambda state: {"epoch": 3, "state_dict_backbone": state, "state_optimizer": {"lr": 0.1}},
        lambda state: {"state_dict": {f"module._orig_mod.{name}": tensor for name, tensor in state.items()}},
        lambda state: {name: tensor for name, tensor in state.items() if "num_batches_tracked" not in name},
    ],
    ids=["plain", "data parallel", "checkpoint", "wrapped and compiled", "without counters"],
)
def test_state_dicts_with_wrappers_and_prefixes(tmp_path, state, wrap):
    torch.save(wrap(state), tmp_path / "backbone.pth")
    assert_same_weights(read_torch(tmp_path / "backbone.pth"), state)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_weights_become_float32(tmp_path, state, dtype):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    state = {name: tensor.to(dtype) for name, tensor in state.items()}
    torch.save(state, tmp_path / "model.pth")
    assert_same_weights(read_torch(tmp_path / "model.pth"), state)
    safetensors.save_file(state, tmp_path / "model.safetensors")
    assert_same_weights(read_safetensors(tmp_path / "model.safetensors"), state)


def test_safetensors_give_the_networks_embeddings(tmp_path, state, expected):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    safetensors.save_file(state, tmp_path / "named_r100.safetensors")
    assert_same(load_insightface(tmp_path / "named_r100.safetensors"), expected)


def test_embedder_can_be_saved(tmp_path, state, expected):
    torch.save(state, tmp_path / "backbone.pt")
    embedder = load_insightface(tmp_path / "backbone.pt", dropout=0.3, name="r18")
    assert (embedder.name, embedder.input_shape, embedder.output_shape) == ("r18", (None, 32, 32, 3), (None, 24))
    assert embedder.get_layer("neck_dropout").rate == 0.3
    embedder.save(tmp_path / "embedder.keras")
    np.testing.assert_array_equal(keras.saving.load_model(tmp_path / "embedder.keras")(IMAGES), embedder(IMAGES))
    assert_same(embedder, expected)


def test_scale_of_last_batch_norm_moves_into_the_dense_layer(tmp_path):
    network = random_network()
    network.features.weight.data = torch.linspace(-2, 2, 24)
    torch.save(network.state_dict(), tmp_path / "scaled.pth")
    assert_same(load_insightface(tmp_path / "scaled.pth"), networks.embed(network, IMAGES))


OLD_AND_FOLDED = {"opset_version": 11}
NEW_AND_WHOLE = {
    "opset_version": 13,
    "training": PRESERVE,
    "keep_initializers_as_inputs": True,
    "do_constant_folding": False,
    "dynamic_axes": {"data": {0: "n", 2: "h", 3: "w"}},
}


@pytest.mark.parametrize(
    ("make", "options"),
    [
        (networks.TorchIResNet, OLD_AND_FOLDED),
        (networks.TorchIResNet, NEW_AND_WHOLE),
        (lambda: networks.TorchMobileFaceNet((1, 1, 1, 1), scale=1), OLD_AND_FOLDED),
        (lambda: networks.TorchMobileFaceNet((2, 1, 1, 2), scale=2), NEW_AND_WHOLE),
        (networks.TorchCVLface, OLD_AND_FOLDED),
        (networks.TorchCVLface, NEW_AND_WHOLE),
        (lambda: torch_sface.TorchSFace(8, (32, 32), 24), OLD_AND_FOLDED),
        (lambda: torch_sface.TorchSFace(8, (32, 32), 24), NEW_AND_WHOLE),
    ],
    ids=[
        "iresnet, folded",
        "iresnet, whole",
        "mobilefacenet, folded",
        "mobilefacenet, whole",
        "cvlface, folded",
        "cvlface, whole",
        "sface, folded",
        "sface, whole",
    ],
)
def test_onnx_embeddings(tmp_path, make, options):
    network = random_network(make())
    path = export(network, tmp_path / "model.onnx", **options)
    embedder = load_insightface(path)
    assert_same(embedder, networks.embed(network, IMAGES))
    assert_same(embedder, run_onnxruntime(path, networks.pixels(IMAGES).numpy()))


def test_onnx_image_size_that_is_not_square(tmp_path):
    images = np.random.default_rng(1).integers(0, 256, (16, 40, 24, 3), dtype=np.uint8)
    network = networks.randomize(networks.TorchIResNet((1, 1, 1, 1), size=(40, 24)), images)
    embedder = load_insightface(export(network, tmp_path / "model.onnx", images))
    assert embedder.input_shape == (None, 40, 24, 3)
    assert_same(embedder, networks.embed(network, images), images)


def test_onnx_last_batch_norm_folded_into_the_dense_layer(tmp_path):
    network = random_network()
    network.features = torch.nn.Identity()
    embedder = load_insightface(export(network, tmp_path / "model.onnx"))
    assert_same(embedder, networks.embed(network, IMAGES))


def normalize_pixels(graph, helper, operators):
    """Inserts operators with constants before the first convolution."""
    name = "data"
    for number, (operator, value) in enumerate(operators):
        value = np.asarray(value, np.float32)
        graph.initializer.append(helper.make_tensor(f"constant{number}", 1, value.shape, value.ravel()))
        graph.node.insert(number, helper.make_node(operator, [name, f"constant{number}"], [f"pixels{number}"]))
        name = f"pixels{number}"
    next(node for node in graph.node if node.op_type == "Conv").input[0] = name


def test_onnx_normalization_of_pixels_scales_the_first_kernel(tmp_path, exported):
    def change(graph, helper):
        normalize_pixels(graph, helper, [("Sub", 127.5), ("Mul", 0.0078125)])  # as in mxnet's files

    kernels = [
        read_onnx(path).pop("conv1.weight", (16, 3, 3, 3))
        for path in (exported, edit(exported, change, tmp_path / "model.onnx"))
    ]
    np.testing.assert_allclose(kernels[1], 127.5 * 0.0078125 * kernels[0], rtol=1e-6)


def constants_of(graph, operator, index):
    """Returns the nodes of an operator, each with the initializer of one of its inputs."""
    initializers = {tensor.name: tensor for tensor in graph.initializer}
    return [(node, initializers[node.input[index]]) for node in graph.node if node.op_type == operator]


def reshape_slopes(graph, helper):
    """Imitates mxnet's exporter: slopes with one axis, and a Reshape before each PRelu."""
    graph.initializer.append(helper.make_tensor("shape", 7, (4,), [1, -1, 1, 1]))
    for node, slopes in constants_of(graph, "PRelu", 1):
        slopes.dims[:] = [np.prod(slopes.dims)]
        graph.node.insert(0, helper.make_node("Reshape", [slopes.name, "shape"], [f"{slopes.name}_reshaped"]))
        node.input[1] = f"{slopes.name}_reshaped"


def halve_weights(graph, helper):
    """Imitates converters to float16: weights stored as float16 and cast before use, here in several steps."""
    from onnx import numpy_helper

    for node, kernel in constants_of(graph, "Gemm", 1):
        stored = numpy_helper.from_array(numpy_helper.to_array(kernel).astype(np.float16).ravel(), kernel.name)
        steps = [
            helper.make_node("Constant", [], [f"{kernel.name}_shape"], value_ints=list(kernel.dims)),
            helper.make_node("Cast", [kernel.name], [f"{kernel.name}_cast"], to=1),
            helper.make_node("Reshape", [f"{kernel.name}_cast", f"{kernel.name}_shape"], [f"{kernel.name}_shaped"]),
            helper.make_node("Identity", [f"{kernel.name}_shaped"], [f"{kernel.name}_ready"]),
        ]
        node.input[1] = f"{kernel.name}_ready"
        kernel.CopyFrom(stored)
        for step in reversed(steps):
            graph.node.insert(0, step)


def quantize_weights(graph, helper):
    """Quantizes the weights only, with one scale per filter."""
    from onnx import numpy_helper

    for node, kernel in constants_of(graph, "Conv", 1):
        values, name = numpy_helper.to_array(kernel), kernel.name
        scale = np.abs(values).max(axis=(1, 2, 3)) / 127
        stored = np.round(values / scale[:, None, None, None]).astype(np.int8)
        kernel.CopyFrom(numpy_helper.from_array(stored, name))
        graph.initializer.append(numpy_helper.from_array(scale.astype(np.float32), f"{name}_scale"))
        graph.initializer.append(numpy_helper.from_array(np.zeros(len(scale), np.int8), f"{name}_zero"))
        inputs = [name, f"{name}_scale", f"{name}_zero"]
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, [f"{name}_ready"], axis=0))
        node.input[1] = f"{name}_ready"


def quantize_blocks(graph, helper):
    """Quantizes blocks of weights, as in the files of OpenCV Zoo, which still list the replaced weights as inputs."""
    from onnx import numpy_helper

    block = 7
    for node, kernel in constants_of(graph, "Conv", 1):
        values, name = numpy_helper.to_array(kernel), kernel.name
        rows = values.reshape(len(values), -1)
        padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % block))).reshape(len(rows), -1, block)
        scale = np.abs(padded).max(axis=2) / 127
        stored = np.round(rows / np.repeat(scale, block, axis=1)[:, : rows.shape[1]]).astype(np.int8)
        graph.input.append(helper.make_tensor_value_info(name, 1, kernel.dims))
        graph.initializer.remove(kernel)
        for part, array in {
            "stored": stored,
            "scale": scale.astype(np.float32),
            "zero": np.zeros(scale.shape, np.int8),
            "shape": np.array(values.shape),
        }.items():
            graph.initializer.append(numpy_helper.from_array(array, f"{name}_{part}"))
        inputs = [f"{name}_{part}" for part in ("stored", "scale", "zero")]
        ready = [f"{name}_ready", f"{name}_shape"]
        graph.node.insert(0, helper.make_node("Reshape", ready, [f"{name}_reshaped"]))
        graph.node.insert(0, helper.make_node("DequantizeLinear", inputs, ready[:1], axis=1, block_size=block))
        node.input[1] = f"{name}_reshaped"


def set_epsilon(graph, helper):
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name == "epsilon":
                attribute.f = 0.02


def normalize_per_channel(graph, helper):
    factors = [[[0.5]], [[0.25]], [[2.0]]]
    normalize_pixels(graph, helper, [("Div", 255.0), ("Sub", np.full((1, 3, 1, 1), 0.5)), ("Div", factors)])


def test_onnx_variants_of_the_same_network(tmp_path, exported):
    def change(graph, helper):
        for part in (reshape_slopes, halve_weights, quantize_weights, set_epsilon, normalize_per_channel):
            part(graph, helper)

    path = edit(exported, change, tmp_path / "model.onnx")
    assert_same(load_insightface(path), run_onnxruntime(path, IMAGES.transpose(0, 3, 1, 2).astype(np.float32)))


def test_onnx_weights_quantized_in_blocks(tmp_path, exported):
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = onnx.load(edit(exported, quantize_blocks, tmp_path / "model.onnx"))
    model.opset_import[0].version = 21  # the first with blocks
    onnx.save(model, tmp_path / "model.onnx")
    images = IMAGES[:4]
    (expected,) = ReferenceEvaluator(model).run(None, {"data": networks.pixels(images).numpy()})
    assert_same(load_insightface(tmp_path / "model.onnx"), expected, images)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"model.net.{name}": tensor for name, tensor in state.items()},
        lambda state: {
            "state_dict": {
                **{f"model.{name}": tensor for name, tensor in state.items()},
                "head.kernel": torch.zeros(24, 10),
            }
        },
    ],
    ids=["plain", "CVLface", "AdaFace"],
)
def test_cvlface_state_dict(tmp_path, wrap):
    network = random_network(networks.TorchCVLface())
    torch.save(wrap(network.state_dict()), tmp_path / "model.ckpt")
    assert_same(load_insightface(tmp_path / "model.ckpt"), networks.embed(network, IMAGES))


SMOOTH = np.clip(
    np.kron(np.random.default_rng(2).normal(128, 60, (6, 7, 7, 3)), np.ones((1, 16, 16, 1)))
    + np.random.default_rng(3).normal(0, 10, (6, 112, 112, 3)),
    0,
    255,
).astype(np.uint8)


@pytest.mark.parametrize(
    ("make", "images"),
    [
        (lambda: torch_vit.TorchViT(32, 3, size=(36, 36), dim=24), SMOOTH[:, :36, :36]),
        (lambda: torch_vit.TorchViT(16, 1, dim=24), SMOOTH),
        (lambda: torch_edgeface.TorchEdgeFace((8, 16, 20, 24), heads=4, ratio=0.6, dim=24), SMOOTH),
        (lambda: torch_edgeface.TorchEdgeFace((8, 16, 20, 24), heads=4, ratio=0.5, dim=24), SMOOTH),
        (lambda: torch_edgeface.TorchEdgeFace((8, 16, 20, 24), heads=4, ratio=None, dim=24), SMOOTH),
    ],
    ids=["vit", "vit of 112 x 112", "edgeface, 0.6", "edgeface, 0.5", "edgeface without factors"],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_networks_with_attention(tmp_path, make, images, suffix):
    safetensors = pytest.importorskip("safetensors.torch", reason="needs safetensors")
    network = networks.randomize(make(), images)
    for parameter in network.parameters():
        if parameter.ndim != 1 or parameter.abs().max() < 1e-4:  # LayerScale starts near 0
            parameter.data += 0.1 * torch.randn_like(parameter)
    (torch.save if suffix == ".pth" else safetensors.save_file)(network.state_dict(), tmp_path / f"model{suffix}")
    embedder = load_insightface(tmp_path / f"model{suffix}")
    assert_same(embedder, networks.embed(network, images), images)


def test_color_order_of_a_network_trained_on_bgr(tmp_path):
    network = random_network(networks.TorchCVLface((1, 1, 1, 1)))
    torch.save(network.state_dict(), tmp_path / "model.ckpt")
    embedder = load_insightface(tmp_path / "model.ckpt", color="BGR")
    assert_same(embedder, networks.embed(network, IMAGES[..., ::-1].copy()))
    with pytest.raises(ValueError, match=r"color must be one of RGB, BGR\. Received: color='bgr'"):
        load_insightface(tmp_path / "model.ckpt", color="bgr")


def test_mobilefacenet_state_dict(tmp_path):
    network = random_network(networks.TorchMobileFaceNet())
    torch.save(network.state_dict(), tmp_path / "backbone.pth")
    assert_same(load_insightface(tmp_path / "backbone.pth"), networks.embed(network, IMAGES))


class RunsCode:
    def __init__(self, touched):
        self.touched = touched

    def __reduce__(self):
        return open, (str(self.touched), "w")


def test_pickle_with_code_is_rejected_and_not_run(tmp_path, state):
    touched = tmp_path / "touched"
    torch.save({**state, "fc.weight": RunsCode(touched)}, tmp_path / "hostile.pth")
    (tmp_path / "bare.pth").write_bytes(pickle.dumps(RunsCode(touched), protocol=2))
    for name in ("hostile.pth", "bare.pth"):
        with pytest.raises(
            ValueError, match=rf"{name} cannot be loaded: expected a state dict.* io.open, which is not read"
        ):
            load_insightface(tmp_path / name)
    assert not touched.exists()


def test_pickled_module_is_rejected(tmp_path, network):
    torch.save(network, tmp_path / "module.pth")
    expected = r"as written by torch.save\(network.state_dict\(\), path\). Received: .*TorchIResNet, which is not read"
    with pytest.raises(ValueError, match=expected):
        load_insightface(tmp_path / "module.pth")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: {}, "expected .* IResNet .* MobileFaceNet .* Received: 0 arrays, among them none"),
        (lambda state: {"patch_embed.proj.weight": state["fc.weight"]}, "among them patch_embed.proj.weight"),
        (lambda state: {"epoch": 3}, r"names and tensors, .*Received: a dict of \['epoch'\], where 'epoch' is int"),
        (lambda state: [state["fc.weight"]], "names and tensors, .*Received: list"),
        (
            lambda state: {name: tensor for name, tensor in state.items() if name != "layer2.0.bn3.bias"},
            r"expected layer2.0.bn3.bias with shape \(32,\). Received: \d+ arrays without it",
        ),
        (
            lambda state: {**state, "layer1.1.se.fc.weight": torch.zeros(4)},
            r"Received: 1 other arrays, key 'layer1.1.se.fc.weight' with shape \(4,\)",
        ),
        (
            lambda state: {**state, "layer3.0.conv2.weight": torch.zeros(64, 64, 1, 1)},
            r"layer3.0.conv2.weight with shape \(64, 64, 3, 3\). Received: key .* with shape \(64, 64, 1, 1\)",
        ),
        (lambda state: {**state, "fc.weight": torch.zeros(24, 128 * 5)}, r"with 128 \* side\^2 columns"),
        (lambda state: {**state, "fc.weight": torch.zeros(24)}, r"fc.weight with 2 axes. Received: .*\(24,\)"),
    ],
    ids=[
        "empty",
        "transformer",
        "no tensors",
        "list",
        "missing",
        "additional",
        "other shape",
        "not square",
        "one axis",
    ],
)
def test_other_networks_are_rejected_with_the_key(tmp_path, state, change, message):
    torch.save(change(dict(state)), tmp_path / "other.pth")
    with pytest.raises(ValueError, match=message) as raised:
        load_insightface(tmp_path / "other.pth")
    assert str(tmp_path / "other.pth") in str(raised.value)


def set_strides(graph, helper):
    next(a for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "strides").ints[:] = [1, 2]


def set_pads(graph, helper):
    next(a for n in graph.node if n.op_type == "Conv" for a in n.attribute if a.name == "pads").ints[:] = [0, 0, 2, 2]


def set_operator(old, new):
    def change(graph, helper):
        node = next(node for node in graph.node if node.op_type == old)
        del node.input[1:], node.attribute[:]
        node.op_type = new

    return change


def append_normalization(graph, helper):
    graph.node.append(helper.make_node("LpNormalization", [graph.output[0].name], ["unit"], axis=1))
    graph.output[0].name = "unit"


def take_channels_last(graph, helper):
    axes = graph.input[0].type.tensor_type.shape.dim
    axes[1].dim_value, axes[3].dim_value = 32, 3


def reshape_to_wrong_size(graph, helper):
    reshape_slopes(graph, helper)
    next(tensor for tensor in graph.initializer if tensor.name == "shape").int64_data[:] = [1, 5, 1, 1]


def expand(graph, helper):
    """Makes a weight a constant of 2^40 values that is computed by Expand."""
    graph.initializer.append(helper.make_tensor("one", 1, (1,), [1.0]))
    graph.initializer.append(helper.make_tensor("large", 7, (1,), [2**40]))
    graph.node.insert(0, helper.make_node("Expand", ["one", "large"], ["expanded"]))
    next(node for node in graph.node if node.op_type == "PRelu").input[1] = "expanded"


def quantize(graph, helper):
    node = next(node for node in graph.node if node.op_type == "Conv")
    graph.node.insert(0, helper.make_node("DequantizeLinear", [node.input[1]], ["dequantized"]))
    node.input[1] = "dequantized"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_strides, r"expected strides=\[2, 2\] of Conv '\S+'. Received: strides=\[1, 2\]"),
        (set_pads, r"expected pads=\[1, 1, 1, 1\] of Conv '\S+'. Received: pads=\[0, 0, 2, 2\]"),
        (set_operator("PRelu", "Relu"), "expected one node PRelu after BatchNormalization .*. Received: Relu"),
        (set_operator("Flatten", "GlobalAveragePool"), "expected one node Flatten or Reshape .*GlobalAveragePool"),
        (append_normalization, "expected the end of the graph and its only output after .* Received: LpNormalization"),
        (take_channels_last, r"images \(n, 3, height, width\). Received: images \(n, height, width, 3\)"),
        (lambda graph, helper: graph.node.append(graph.node.pop(0)), "expected nodes in topological order. Received: "),
        (quantize, "expected constant weights in input 1 of Conv .* Received: DequantizeLinear"),
        (
            reshape_to_wrong_size,
            "expected constant weights in input 1 of PRelu .* Received: Reshape .*, which fails with",
        ),
        (expand, "expected constant weights in input 1 of PRelu .* Received: Expand 'expanded'"),
        (
            lambda graph, helper: normalize_pixels(graph, helper, [("Sub", 120.0), ("Mul", 0.01)]),
            r"expected normalized pixels that are a multiple of x / 127.5 - 1. Received: \[0.01 0.01 0.01\] \* x",
        ),
    ],
    ids=[
        *("strides", "pads", "relu", "pooling", "normalized", "channels last", "unsorted", "quantized"),
        *("wrong reshape", "expanded", "other pixels"),
    ],
)
def test_other_graphs_are_rejected_with_the_node(tmp_path, exported, change, message):
    path = edit(exported, change, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=message) as raised:
        load_insightface(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors", ".onnx"])
def test_damaged_file_is_named(tmp_path, suffix):
    if suffix != ".pth":
        pytest.importorskip(suffix[1:], reason=f"needs {suffix[1:]}")
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=rf"damaged{suffix} cannot be loaded: expected a"):
        load_insightface(path)


def test_errors_of_files_that_cannot_be_read(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"path must be an existing file. Received: path=.*absent\.pth"):
        load_insightface(tmp_path / "absent.pth")
    (tmp_path / "model.params").touch()
    with pytest.raises(
        ValueError,
        match=r"path must be .* one of the suffixes .pth, .pt, .ckpt, .safetensors, .onnx. Received: .*model.params'",
    ):
        load_insightface(tmp_path / "model.params")
    for module, suffix in (("safetensors.numpy", ".safetensors"), ("onnx", ".onnx")):
        (tmp_path / f"model{suffix}").touch()
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(
            ModuleNotFoundError, match=rf"Reading .*model{suffix} requires {module}. .*keras-arcface\[pretrained\]"
        ):
            load_insightface(tmp_path / f"model{suffix}")
