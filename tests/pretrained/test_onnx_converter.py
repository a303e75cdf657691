"""Networks of other layouts in ONNX files, converted operator by operator."""

import json
import subprocess
import sys
import warnings
import zipfile

import keras
import numpy as np
import pytest

from keras_arcface import ArcFace
from keras_arcface import RecognitionModel
from keras_arcface import pretrained
from keras_arcface.pretrained import load_onnx

onnx = pytest.importorskip("onnx", reason="reads the files")
torch = pytest.importorskip("torch", reason="the reference networks need PyTorch")
networks = pytest.importorskip("insightface_networks")
torch_edgeface = pytest.importorskip("torch_edgeface")
torch_ghostfacenet = pytest.importorskip("torch_ghostfacenet")
torch_vit = pytest.importorskip("torch_vit")
from onnx import TensorProto  # noqa: E402
from onnx import helper  # noqa: E402
from onnx import numpy_helper  # noqa: E402
from torch import nn  # noqa: E402
from torch.nn import functional  # noqa: E402

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), dtype=np.uint8)


class Excited(nn.Module):
    """Residual block of a ResNet with squeeze-and-excitation."""

    def __init__(self, channels, activation=nn.ReLU, gate=nn.Sigmoid):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            activation(),
            nn.Conv2d(channels, channels, 5, padding=2, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, 4, 1), activation(), nn.Conv2d(4, channels, 1), gate()
        )

    def forward(self, x):
        y = self.body(x)
        return x + y * self.gate(y)


class Flattened(nn.Module):
    """Joins axes as old code does, with a shape that the export computes."""

    def forward(self, x):
        return x.view(x.shape[0], -1)


def resnet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 7, 2, 3),
        nn.PReLU(8),
        nn.MaxPool2d(3, 2, 1),
        Excited(8),
        nn.Conv2d(8, 12, 1, 2),
        Excited(12),
        nn.AdaptiveAvgPool2d(1),
        Flattened(),
        nn.Linear(12, 10),
        nn.BatchNorm1d(10),
    )


def mobilenet():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.Hardswish(),
        Excited(8, nn.Hardswish, nn.Hardsigmoid),
        nn.Conv2d(8, 12, 3, 2, 1),
        nn.SiLU(),
        Excited(12, nn.ReLU6),
        nn.Conv2d(12, 12, 16, groups=12),
        nn.Flatten(),
        nn.Linear(12, 10),
        nn.BatchNorm1d(10),
    )


class ClassToken(nn.Module):
    """ViT with a class token, layers of torch.nn, and an embedding of length 1."""

    def __init__(self, channels=8, size=8):
        super().__init__()
        self.patches = nn.Conv2d(3, channels, size, size)
        self.token = nn.Parameter(0.1 * torch.randn(1, 1, channels))
        self.positions = nn.Parameter(0.1 * torch.randn(1, (64 // size) ** 2 + 1, channels))
        self.norm = nn.LayerNorm(channels)
        self.query, self.key, self.value = (nn.Linear(channels, channels) for _ in range(3))
        self.mlp = nn.Sequential(nn.Linear(channels, 16), nn.GELU(), nn.Linear(16, channels))
        self.last = nn.Linear(channels, 10)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.positions
        y = self.norm(x)
        query, key, value = (
            part(y).reshape(*y.shape[:2], 2, -1).transpose(1, 2) for part in (self.query, self.key, self.value)
        )
        y = ((query @ key.transpose(-1, -2)) * 0.5).softmax(dim=-1) @ value
        x = x + y.transpose(1, 2).flatten(2)
        x = x + self.mlp(x)
        return functional.normalize(self.last(x[:, 0]))


NETWORKS = {
    "resnet": resnet,
    "mobilenet": mobilenet,
    "vit": lambda: torch_vit.TorchViT(16, 2, 2, 8, size=(64, 64), dim=10),
    "vit with a class token": ClassToken,
    "edgeface": lambda: torch_edgeface.TorchEdgeFace((8, 12, 16, 24), 2, 0.6, 10),
    "ghostfacenet v1": lambda: torch_ghostfacenet.TorchGhostFaceNet(1, 0.2, (64, 64), 2, 10),
    "ghostfacenet v2": lambda: torch_ghostfacenet.TorchGhostFaceNet(2, 0.2, (64, 64), 2, 10),
}
EXPORTS = {
    "one image": {"opset_version": 17},
    "any batch": {"opset_version": 13, "dynamic_axes": {"data": {0: "n"}}},
}


def export(network, path, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # this exporter is deprecated; the other needs onnxscript
        pixels = networks.pixels(IMAGES[:1])
        torch.onnx.export(network, pixels, path, input_names=["data"], dynamo=False, **options)
    return path


def random_network(name):
    torch.manual_seed(0)
    return networks.randomize(NETWORKS[name](), IMAGES)


def assert_same(embedder, expected, images=IMAGES):
    """Compares embeddings, in units of the distance between the expected ones and their mean."""
    distances = np.linalg.norm(np.asarray(embedder(images)) - expected, axis=1)
    assert (distances / np.linalg.norm(expected - expected.mean(axis=0), axis=1)).max() < 2e-5


@pytest.mark.parametrize(
    ("name", "export_name"),
    [(name, export_name) for name in NETWORKS for export_name in EXPORTS if "ghostfacenet" not in name]
    + [("ghostfacenet v1", "any batch"), ("ghostfacenet v2", "one image")],
)
def test_embeddings(tmp_path, name, export_name):
    network = random_network(name)
    path = export(network, tmp_path / "model.onnx", **EXPORTS[export_name])
    embedder = load_onnx(path, name="converted")
    assert (embedder.name, embedder.input_shape, embedder.output_shape) == ("converted", (None, 64, 64, 3), (None, 10))
    assert embedder.get_layer("normalize_pixels")
    assert embedder.output.dtype == "float32"
    assert_same(embedder, networks.embed(network, IMAGES))


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Network `vit with a class token`, its file, and its embedder."""
    network = random_network("vit with a class token")
    options = {"opset_version": 17, "dynamic_axes": {"data": {0: "n"}}}
    path = export(network, tmp_path_factory.mktemp("exported") / "model.onnx", **options)
    return network, path, load_onnx(path)


def test_weights_are_those_of_the_network(exported):
    network, _, embedder = exported
    assert embedder.count_params() == sum(parameter.numel() for parameter in network.parameters())
    names = ["patches", "token", "positions", "layer_norm", "query", "key", "value", "mlp_0", "mlp_2", "last"]
    assert [layer.name for layer in embedder.layers if layer.weights] == names
    np.testing.assert_array_equal(embedder.get_layer("patches").bias, network.patches.bias.detach())
    np.testing.assert_array_equal(np.ravel(embedder.get_layer("token").kernel), network.token.detach().ravel())


def test_saved_file_requires_keras_only(tmp_path, exported):
    embedder = exported[2]
    embedder.save(tmp_path / "embedder.keras")
    with zipfile.ZipFile(tmp_path / "embedder.keras") as archive:
        config = json.loads(archive.read("config.json"))
    assert "keras_arcface" not in json.dumps(config)
    np.save(tmp_path / "images.npy", IMAGES)
    program = (
        "import sys, keras, numpy as np\n"
        "folder = sys.argv[1]\n"
        "embedder = keras.saving.load_model(f'{folder}/embedder.keras')\n"
        "np.save(f'{folder}/embeddings.npy', np.asarray(embedder(np.load(f'{folder}/images.npy'))))\n"
        "assert 'keras_arcface' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program, tmp_path], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "embeddings.npy"), embedder(IMAGES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["mobilenet", "vit with a class token"])
def test_training_changes_every_weight(tmp_path, name):
    network = random_network(name)
    embedder = load_onnx(export(network, tmp_path / "model.onnx", training=torch.onnx.TrainingMode.PRESERVE))
    before = [np.array(weight) for weight in embedder.trainable_weights]
    model = RecognitionModel(embedder, ArcFace(3))
    model.compile(optimizer=keras.optimizers.SGD(1.0))
    model.fit(IMAGES, np.arange(6) % 3, batch_size=6, verbose=0)
    unchanged = [
        weight.path
        for old, weight in zip(before, embedder.trainable_weights, strict=True)
        if np.array_equal(old, weight)
    ]
    # A bias in front of a BatchNorm, and that of the keys of attention, have no effect.
    assert not [path for path in unchanged if "bias" not in path]
    assert np.isfinite(model.predict(IMAGES, verbose=0)).all()


def test_saved_model(tmp_path, exported):
    if keras.backend.backend() != "tensorflow":
        pytest.skip("the format of TensorFlow")
    import tensorflow as tf

    embedder = exported[2]
    embedder.export(tmp_path / "exported", verbose=False)
    loaded = tf.saved_model.load(str(tmp_path / "exported"))
    np.testing.assert_allclose(loaded.serve(IMAGES.astype("float32")), embedder(IMAGES), rtol=1e-4, atol=1e-5)


def test_bgr(tmp_path, exported):
    network, path, _ = exported
    assert_same(load_onnx(path, color="BGR"), networks.embed(network, IMAGES[..., ::-1].copy()))
    with pytest.raises(ValueError, match=r"color must be one of RGB, BGR. Received: color='GBR'"):
        load_onnx(path, color="GBR")


def edit(source, change, path):
    model = onnx.load(source)
    change(model.graph)
    onnx.save(model, path)
    return path


def normalize(graph, operators):
    """Inserts operators with constants in front of the first convolution."""
    tensor = "data"
    for number, (operator, value) in enumerate(operators):
        graph.initializer.append(numpy_helper.from_array(np.asarray(value, np.float32), f"constant{number}"))
        graph.node.insert(number, helper.make_node(operator, [tensor, f"constant{number}"], [f"pixels{number}"]))
        tensor = f"pixels{number}"
    next(node for node in graph.node if node.op_type == "Conv").input[0] = tensor


def run_onnxruntime(path, images):
    onnxruntime = pytest.importorskip("onnxruntime", reason="computes the expected values")
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.concatenate([session.run(None, {"data": image[None].astype(np.float32)})[0] for image in images])


def per_channel(*values):
    return np.reshape(values, (1, 3, 1, 1))


@pytest.mark.parametrize(
    ("operators", "layer"),
    [
        ([("Div", 255.0), ("Sub", 0.4)], True),
        ([("Sub", per_channel(120, 110, 100)), ("Mul", per_channel(0.01, 0.02, 0.01))], True),
        ([("Sub", np.full((1, 3, 64, 64), 100.0)), ("Div", 128.0)], False),
    ],
    ids=["numbers", "channels", "mean image"],
)
def test_normalization_of_pixels_in_the_graph(tmp_path, exported, operators, layer):
    path = edit(exported[1], lambda graph: normalize(graph, operators), tmp_path / "model.onnx")
    embedder = load_onnx(path)
    assert ("normalize_pixels" in [layer.name for layer in embedder.layers]) == layer
    assert_same(embedder, run_onnxruntime(path, IMAGES.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("normalized", [False, True])
def test_images_with_channels_last(tmp_path, exported, normalized):
    def change(graph):
        normalize(graph, [("Sub", 100.0), ("Mul", 0.02)] if normalized else [])
        node = next(node for node in graph.node if "data" in node.input)
        for node in graph.node:
            node.input[:] = ["transposed" if name == "data" else name for name in node.input]
        graph.node.insert(0, helper.make_node("Transpose", ["data"], ["transposed"], perm=[0, 3, 1, 2]))
        sides = graph.input[0].type.tensor_type.shape.dim
        sides[1].dim_value, sides[3].dim_value = 64, 3

    path = edit(exported[1], change, tmp_path / "model.onnx")
    expected = run_onnxruntime(path, IMAGES if normalized else IMAGES / 127.5 - 1)
    assert_same(load_onnx(path), expected)


def test_several_outputs(tmp_path, exported):
    def change(graph):
        norm = helper.make_node("ReduceL2", [graph.output[0].name], ["norm"], axes=[1])
        pooled = helper.make_node("Flatten", ["data"], ["longest"])
        unsupported = helper.make_node("Det", ["data"], ["rank 3"])
        graph.node.extend([norm, pooled, unsupported])
        graph.output.append(helper.make_tensor_value_info("norm", TensorProto.FLOAT, ["n", 1]))
        graph.output.append(helper.make_tensor_value_info("rank 3", TensorProto.FLOAT, ["n", 3, 1]))

    assert load_onnx(edit(exported[1], change, tmp_path / "model.onnx")).output_shape == (None, 10)


def test_load_falls_back(tmp_path, exported, caplog):
    network, path, _ = exported
    with caplog.at_level("INFO", logger="keras_arcface"):
        embedder = pretrained.load(path, name="mine")
    assert embedder.name == "mine"
    assert f"{path} is converted operator by operator" in caplog.text
    assert_same(embedder, networks.embed(network, IMAGES))
    with pytest.raises(ValueError, match=r"dropout cannot be given for an ONNX file of a network that .*model.onnx"):
        pretrained.load(path, dropout=0.2)
    with pytest.raises(ValueError, match=r"cannot be loaded: .* If it is another network, load_onnx converts it"):
        pretrained.load_insightface(path)


def replace_first(operator, new):
    def change(graph):
        node = next(node for node in graph.node if node.op_type == operator)
        node.op_type = new

    return change


def lose_input(graph):
    next(node for node in graph.node if node.op_type == "Softmax").input[0] = "absent"


def swap(graph):
    graph.node.append(graph.node.pop(0))


def close_cycle(graph):
    node = next(node for node in graph.node if node.op_type == "Conv")
    node.input[0] = graph.output[0].name


def output_tokens(graph):
    graph.output[0].name = next(node for node in graph.node if node.op_type == "Conv").output[0]
    graph.output[0].type.tensor_type.ClearField("shape")


def state_rank(graph):
    output_tokens(graph)
    graph.output[0].type.tensor_type.shape.dim.add()


def take_two_inputs(graph):
    graph.input.append(helper.make_tensor_value_info("other", TensorProto.FLOAT, [1, 3]))
    graph.node.append(helper.make_node("Relu", ["other"], ["unused"]))


def fix_batch(graph):
    graph.input[0].type.tensor_type.shape.dim[0].dim_value = 8


def lose_weights(graph):
    next(node for node in graph.node if node.op_type == "Conv").input.pop()
    next(node for node in graph.node if node.op_type == "Conv").input.pop()


def normalize_the_batch(graph):
    node = next(node for node in graph.node if node.op_type == "Softmax")
    node.attribute[0].i = 0


def repeat_values(operator, *constants):
    """Inserts an operator whose output is large behind the convolution."""

    def change(graph):
        index = next(index for index, node in enumerate(graph.node) if node.op_type == "Conv")
        graph.initializer.extend(
            numpy_helper.from_array(np.asarray(value), f"large{n}") for n, value in enumerate(constants)
        )
        tensors = [graph.node[index].output[0], *(f"large{n}" for n in range(len(constants)))]
        graph.node.insert(index + 1, helper.make_node(operator, tensors, ["repeated"]))
        graph.node[index + 2].input[0] = "repeated"

    return change


def expand_constant(graph):
    node = next(node for node in graph.node if node.op_type == "Add")
    graph.initializer.append(numpy_helper.from_array(np.array([2**19, 2**19]), "large"))
    graph.node.insert(0, helper.make_node("ConstantOfShape", ["large"], ["constant"]))
    node.input[1] = "constant"


def share_weights(graph):
    node = next(node for node in graph.node if node.op_type == "Softmax")
    name = "factors"
    graph.initializer.append(numpy_helper.from_array(np.ones((65, 65), np.float32), name))
    tensor, position = node.output[0], list(graph.node).index(node)
    for number in range(40):
        graph.node.insert(position + 1 + number, helper.make_node("MatMul", [tensor, name], [f"product{number}"]))
        tensor = f"product{number}"
    graph.node[position + 41].input[0] = tensor


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (replace_first("Softmax", "Hardmax"), r"expected supported operators. Received: 1 Hardmax. .*load_embedder"),
        (lose_input, "expected a node that computes 'absent'. Received: none"),
        (swap, "expected nodes in topological order. Received: "),
        (close_cycle, "expected nodes in topological order. Received: "),
        (output_tokens, r"expected an output \(n, dim\). Received: outputs with \(n, 8, 8, 8\)"),
        (state_rank, r"expected an output \(n, dim\). Received: outputs with other numbers of axes"),
        (take_two_inputs, "expected one input, .* Received: 'data' .* 'other'"),
        (fix_batch, "expected a batch of 1 or variable size. Received: a graph for 8 images"),
        (lose_weights, "Conv .*: expected inputs that fit to the operator. Received: TypeError"),
        (normalize_the_batch, r"Softmax .*: expected an operator on each image alone. Received: axes \[0\] of \(n, 2,"),
        (
            repeat_values("Tile", np.array([1, 1, 2**20, 1])),
            r"Tile .*: expected tensors of 1 to .* \(n, 8, 8388608, 8\)",
        ),
        (repeat_values("Tile", np.array([2, 1, 1, 1])), r"Tile .*: expected an operator on each image alone"),
        (expand_constant, "ConstantOfShape .*: expected constants of at most .* Received: more up to one with shape"),
        (share_weights, "MatMul .*: expected arrays of at most 8 times the size of the file"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_other_files_are_refused_with_the_node(tmp_path, exported, change, message):
    path = edit(exported[1], change, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=rf"other.onnx cannot be converted: .*{message}") as raised:
        load_onnx(path)
    assert len(str(raised.value)) < 1000


def test_all_unsupported_operators_are_listed(tmp_path, exported):
    def change(graph):
        for node in graph.node:
            node.op_type = {"Softmax": "Hardmax", "MatMul": "Einsum"}.get(node.op_type, node.op_type)

    path = edit(exported[1], change, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match=r"Received: 7 Einsum, 1 Hardmax. `keras_arcface.serving"):
        load_onnx(path)


def test_damaged_and_absent_files(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"path must be an existing file. Received: path='.*absent.onnx'"):
        load_onnx(tmp_path / "absent.onnx")
    path = tmp_path / "damaged.onnx"
    path.write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"damaged.onnx cannot be converted: expected an ONNX file. Received: a file"):
        load_onnx(path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ModuleNotFoundError, match=r"Reading .*damaged.onnx"):
        load_onnx(path)
