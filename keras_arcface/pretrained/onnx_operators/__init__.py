"""Conversion of the operators of ONNX to Keras: one function per operator, by the name of the operator."""

from collections.abc import Callable
from typing import Any

from keras import ops

from keras_arcface.pretrained.onnx_operators import arithmetic
from keras_arcface.pretrained.onnx_operators import arrangement
from keras_arcface.pretrained.onnx_operators import layers
from keras_arcface.pretrained.onnx_operators.constants import shape_of

# Functions of a `Node` and its input values, which return its output, or a list of outputs.
OPERATORS: dict[str, Callable[..., Any]] = {
    "Abs": arithmetic.elementwise(ops.abs),
    "Add": arithmetic.binary(ops.add),
    "AveragePool": layers.average_pool,
    "BatchNormalization": layers.batch_norm,
    "Cast": arrangement.cast,
    "Clip": arithmetic.clip,
    "Concat": arrangement.concat,
    "Conv": layers.conv,
    "Div": arithmetic.binary(ops.divide),
    "Dropout": arrangement.identity,
    "Elu": arithmetic.elu,
    "Erf": arithmetic.elementwise(ops.erf),
    "Exp": arithmetic.elementwise(ops.exp),
    "Expand": arrangement.expand,
    "Flatten": arrangement.flatten,
    "Gather": arrangement.gather,
    "Gelu": arithmetic.gelu,
    "Gemm": layers.gemm,
    "GlobalAveragePool": arithmetic.global_pool(ops.mean),
    "GlobalMaxPool": arithmetic.global_pool(ops.max),
    "HardSigmoid": arithmetic.hard_sigmoid,
    "HardSwish": arithmetic.elementwise(ops.hard_silu),
    "Identity": arrangement.identity,
    "InstanceNormalization": layers.instance_norm,
    "LayerNormalization": layers.layer_norm,
    "LeakyRelu": arithmetic.leaky_relu,
    "Log": arithmetic.elementwise(ops.log),
    "LpNormalization": arithmetic.lp_normalization,
    "MatMul": layers.matmul,
    "Max": arithmetic.binary(ops.maximum),
    "MaxPool": layers.max_pool,
    "Min": arithmetic.binary(ops.minimum),
    "Mul": arithmetic.binary(ops.multiply),
    "Neg": arithmetic.elementwise(ops.negative),
    "PRelu": layers.prelu,
    "Pad": arrangement.pad,
    "Pow": arithmetic.power,
    "Reciprocal": arithmetic.elementwise(ops.reciprocal),
    "ReduceL1": arithmetic.reduction(arithmetic.norm(1)),
    "ReduceL2": arithmetic.reduction(arithmetic.norm(2)),
    "ReduceMax": arithmetic.reduction(ops.max),
    "ReduceMean": arithmetic.reduction(ops.mean),
    "ReduceSum": arithmetic.reduction(ops.sum),
    "Relu": arithmetic.elementwise(ops.relu),
    "Reshape": arrangement.reshape,
    "Resize": arrangement.resize,
    "Shape": shape_of,
    "Sigmoid": arithmetic.elementwise(ops.sigmoid),
    "Slice": arrangement.slice_,
    "Softmax": arithmetic.softmax,
    "Softplus": arithmetic.elementwise(ops.softplus),
    "Split": arrangement.split,
    "Sqrt": arithmetic.elementwise(ops.sqrt),
    "Squeeze": arrangement.squeeze,
    "Sub": arithmetic.binary(ops.subtract),
    "Sum": arithmetic.binary(ops.add),
    "Tanh": arithmetic.elementwise(ops.tanh),
    "Tile": arrangement.tile,
    "Transpose": arrangement.transpose,
    "Unsqueeze": arrangement.unsqueeze,
}
